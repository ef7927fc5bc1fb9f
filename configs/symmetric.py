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

RECIPE = defaults.ORBITS
VARIANTS = {
    "": defaults.MEDIUM
    | RECIPE
    | {
        "model.width": 384,
        "model.depth": 12,
        "model.num_heads": 6,
        "model.pair_features": 32,
        "model.estimator_depth": 3,
        "optimizer.learning_rate": 3e-4,
        "train.steps_per_dispatch": 10,
    },
    "smoke": defaults.SMOKE
    | RECIPE
    | {
        "data.rows": 24,
        "model.dropout": 0.1,
        "model.estimator_depth": 2,
        "train.substitution": 0.25,
        "train.energy_noise": 0.1,
        "train.ema_decay": 0.999,
        "train.num_steps": 6000,
    },
    "alloys": defaults.SMOKE
    | RECIPE
    | {
        "data.rows": 16,
        "data.orbits": 8,
        "data.orbit_buckets": ((3, 4), (4, 8)),
        "train.ema_decay": 0.995,
        "train.num_steps": 800,
        "train.checkpoint_every": 400,
        "train.validate_every": 800,
    },
}


def get_config(variant: str = "") -> Any:
    """The recipe for one GPU, or one of the variants.

    Raises:
        UserError: an unknown variant.
    """
    return defaults.build_config("symmetric", "generation", VARIANTS, variant)
