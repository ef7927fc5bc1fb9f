"""Generation with flow matching from normal noise (paper algorithms 5 and 6).

The paper's settings: 304.8 M parameters, two weeks of one GPU on 2.1 million AFLOW
structures, match rate 0.482 on its own split (StructureMatcher 0.2/0.3/5).

    python -m crystaljax.train --config=configs/cfm_normal.py \
        --workdir=runs/cfm_normal --config.data.path=data/aflow

`:smoke` is a small network for CPUs (5.4 minutes on 2 shared cores, see
experiments/tables_1_and_2):

    python -m crystaljax.train --config=configs/cfm_normal.py:smoke \
        --workdir=runs/cfm_normal
"""

from ml_collections import config_dict

from crystaljax import defaults

VARIANTS = ("", "smoke", "medium")


def get_config(variant: str = "") -> config_dict.ConfigDict:
    """The paper's settings, or one of the variants.

    Raises:
        ValueError: an unknown variant.
    """
    defaults.require_variant(variant, VARIANTS, "cfm_normal")
    config = defaults.paper("generation")
    config.process.name = "flow_matching"
    config.process.start = "normal"
    config.sampler.name = "euler"
    defaults.use_variant(config, variant)
    return config
