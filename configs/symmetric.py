"""Generation in the standard setting of the space group, not one of the paper's.

A crystal is a list of orbits: species on Wyckoff positions, each with up to three free
parameters, and a lattice with one to six. Models of a formula's energy, group and
positions say which orbits there are, and flow matching says where they lie, so that
every sample has exactly the space group asked for, and none is left to be mended.

Data sets need structures in this setting: `prepare --setting=standard`, the default.

`:smoke` is a small network (2.1 M parameters) for CPUs, in minutes to an hour:

    python -m crystaljax.train --config=configs/symmetric.py:smoke --workdir=runs/mine

`:alloys` is the same with arrays for the built-in alloys, and minutes of training.
Cells of more than 20 sites need `--config.data.rows=36` (32 sites) or more. Without a
variant it is one for a GPU and all sizes, which has not been trained yet.
"""

from typing import Any

from crystaljax import defaults

VARIANTS = {
    "": defaults.MEDIUM | defaults.ORBITS | defaults.ORBITS_LARGE,
    "smoke": defaults.SMOKE
    | defaults.ORBITS
    | defaults.ORBITS_SMALL
    | {"data.rows": 24, "train.num_steps": 6000},
    "alloys": defaults.SMOKE | defaults.ORBITS | defaults.ORBITS_ALLOYS,
}


def get_config(variant: str = "") -> Any:
    """The recipe for one GPU, or one of the variants.

    Raises:
        UserError: an unknown variant.
    """
    return defaults.build_config("symmetric", "generation", VARIANTS, variant)
