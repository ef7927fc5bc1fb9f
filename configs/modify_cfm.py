"""Modification by flow matching from source to target (paper algorithms 4 and 6).

The paper's settings: 304.8 M parameters, two weeks of one GPU on pairs from 2.1 million
AFLOW structures, match rate 0.2059 on its own split (StructureMatcher 0.2/0.3/5).

    python -m crystaljax.train --config=configs/modify_cfm.py \
        --workdir=runs/modify_cfm --config.data.path=data/aflow

`:smoke` is a small network for CPUs (4.7 minutes on 2 shared cores, see
experiments/tables_1_and_2):

    python -m crystaljax.train --config=configs/modify_cfm.py:smoke \
        --workdir=runs/modify_cfm
"""

from ml_collections import config_dict

from crystaljax import defaults

VARIANTS = ("", "smoke", "medium")


def get_config(variant: str = "") -> config_dict.ConfigDict:
    """The paper's settings, or one of the variants.

    Raises:
        ValueError: an unknown variant.
    """
    defaults.require_variant(variant, VARIANTS, "modify_cfm")
    config = defaults.paper("modification")
    config.process.name = "flow_matching"
    config.process.start = "source"
    config.sampler.name = "euler"
    defaults.use_variant(config, variant)
    return config
