"""Generation with flow matching from uniform noise (paper algorithms 5 and 6).

Coordinates of atoms are spread over the cell, so that noise which is uniform in the
cell lies closer to them than normal noise. The paper's settings: 304.8 M parameters,
two weeks of one GPU on 2.1 million AFLOW structures, match rate 0.8097 on its own split
(StructureMatcher 0.2/0.3/5).

    python -m crystaljax.train --config=configs/cfm_uniform.py \
        --workdir=runs/cfm_uniform --config.data.path=data/aflow

`:smoke` is a small network for CPUs (5.9 minutes on 2 shared cores, see
experiments/tables_1_and_2):

    python -m crystaljax.train --config=configs/cfm_uniform.py:smoke \
        --workdir=runs/cfm_uniform
"""

from ml_collections import config_dict

from crystaljax import defaults

VARIANTS = ("", "smoke", "medium")


def get_config(variant: str = "") -> config_dict.ConfigDict:
    """The paper's settings, or one of the variants.

    Raises:
        ValueError: an unknown variant.
    """
    defaults.require_variant(variant, VARIANTS, "cfm_uniform")
    config = defaults.paper("generation")
    config.process.name = "flow_matching"
    config.process.start = "uniform"
    config.sampler.name = "euler"
    defaults.use_variant(config, variant)
    return config
