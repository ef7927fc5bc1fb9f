"""Modification by diffusion conditioned on the source (paper algorithms 7 and 8).

As in Palette, a polymorph is made from noise, and the crystal to be modified is a
condition of the network; one crystal has many answers. The paper's settings: 305 M
parameters, two weeks of one GPU on pairs from 2.1 million AFLOW structures, match rate
0.3653 on its own split (StructureMatcher 0.2/0.3/5).

    python -m crystaljax.train --config=configs/modify_diffusion.py \
        --workdir=runs/modify_diffusion --config.data.path=data/aflow

`:smoke` is a small network for CPUs (4.8 minutes on 2 shared cores, see
experiments/tables_1_and_2):

    python -m crystaljax.train --config=configs/modify_diffusion.py:smoke \
        --workdir=runs/modify_diffusion
"""

from ml_collections import config_dict

from crystaljax import defaults

VARIANTS = ("", "smoke", "medium")


def get_config(variant: str = "") -> config_dict.ConfigDict:
    """The paper's settings, or one of the variants.

    Raises:
        ValueError: an unknown variant.
    """
    defaults.require_variant(variant, VARIANTS, "modify_diffusion")
    config = defaults.paper("modification")
    config.sampler.name = "ddpm"
    config.model.source_rows = 64
    defaults.use_variant(config, variant)
    return config
