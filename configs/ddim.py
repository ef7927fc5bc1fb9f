"""Generation with denoising diffusion, sampled by DDIM (paper algorithms 9 and 11).

The paper's settings: 304.8 M parameters, two weeks of one GPU on 2.1 million AFLOW
structures, match rate 0.82 on its own split (StructureMatcher 0.2/0.3/5).

    python -m crystaljax.train --config=configs/ddim.py --workdir=runs/ddim \
        --config.data.path=data/aflow

`:smoke` is a small network for CPUs, with what helps beyond the paper switched on:

    python -m crystaljax.train --config=configs/ddim.py:smoke --workdir=runs/smoke

`:medium` is one for a GPU, with rows that follow the crystals. `:perov` is the small
one with a longer schedule, for prototypes of up to 12 atoms; see experiments/perov_5.
"""

from typing import Any

from crystaljax import defaults

VARIANTS = {
    "": {},
    "smoke": defaults.SMOKE,
    "medium": defaults.MEDIUM,
    "perov": defaults.SMOKE
    | {
        "model.channel_multipliers": (1, 2, 4, 8),
        "optimizer.learning_rate": 5e-4,
        "optimizer.warmup_steps": 200,
        "train.ema_decay": 0.999,
        "train.num_steps": 8000,
        "train.checkpoint_every": 2000,
        "train.validate_every": 4000,
    },
}


def get_config(variant: str = "") -> Any:
    """The paper's settings, or one of the variants.

    Raises:
        UserError: an unknown variant.
    """
    return defaults.build_config("ddim", "generation", VARIANTS, variant)
