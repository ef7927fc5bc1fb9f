"""Modification in the symmetry of the target, not one of the paper's.

The generator of configs/symmetric.py with a source crystal beside its conditions: how
many sites of each species lie at which distance of another, the space group, how full
the cell is, and the energy difference. What is made has exactly the space group that
was requested, positions that are likely there, and follows a known structure where
there is one. An answer that is the source again is passed over, and where the source is
nearly of the group, the source made to be of it comes first.

It learns from all structures of the data set, half of the time with another structure
of the same formula (of any cell and energy) as a source, so that a few hundred pairs
are enough. It can go on from a generator, which it is before the first step:

    python -m crystaljax.train --config=configs/modify_best.py:smoke --init=mp \
        --workdir=runs/modify_best --config.data.path=data/mine

Data sets need structures in the standard setting: `prepare --setting=standard`.

`:smoke` is the network of the model `mp` (2.2 M parameters) for CPUs, in minutes.
`:alloys` has arrays for the built-in alloys. Without a variant it is one for a GPU and
all sizes, which has not been trained yet.
"""

from typing import Any

from crystaljax import defaults

METHOD = defaults.ORBITS | {
    # More than the samples that are wanted; what is the source again is not taken.
    "sampler.draws": 6,
}
VARIANTS = {
    "": defaults.MEDIUM | METHOD | defaults.ORBITS_LARGE,
    # The network of the model `mp`.
    "smoke": defaults.SMOKE
    | METHOD
    | defaults.ORBITS_SMALL
    | {
        "data.rows": 40,
        "data.orbit_buckets": ((3, 8), (4, 16), (6, 24), (10, 36)),
        "optimizer.learning_rate": 3e-4,
        "train.num_steps": 1500,
        "train.checkpoint_every": 300,
    },
    "alloys": defaults.SMOKE | METHOD | defaults.ORBITS_ALLOYS,
}


def get_config(variant: str = "") -> Any:
    """The recipe for one GPU, or one of the variants.

    Raises:
        UserError: an unknown variant.
    """
    return defaults.build_config("modify_best", "modification", VARIANTS, variant)
