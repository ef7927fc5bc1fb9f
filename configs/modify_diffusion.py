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

from typing import Any

from crystaljax import defaults

METHOD = {"sampler.name": "ddpm", "model.source_rows": 64}
VARIANTS = {
    "": METHOD,
    "smoke": METHOD | defaults.SMOKE | {"model.source_rows": 16},
    "medium": METHOD | defaults.MEDIUM,
}


def get_config(variant: str = "") -> Any:
    """The paper's settings, or one of the variants.

    Raises:
        UserError: an unknown variant.
    """
    return defaults.build_config("modify_diffusion", "modification", VARIANTS, variant)
