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

from ml_collections import config_dict

from crystaljax import defaults

VARIANTS = ("", "smoke", "medium", "perov")


def get_config(variant: str = "") -> config_dict.ConfigDict:
    """The paper's settings, or one of the variants.

    Raises:
        ValueError: an unknown variant.
    """
    defaults.require_variant(variant, VARIANTS, "ddim")
    config = defaults.paper("generation")
    defaults.use_variant(config, "smoke" if variant == "perov" else variant)
    if variant == "perov":
        config.model.channel_multipliers = (1, 2, 4, 8)
        config.optimizer.learning_rate = 5e-4
        config.optimizer.warmup_steps = 200
        config.train.ema_decay = 0.999
        config.train.num_steps = 8000
        config.train.checkpoint_every = 2000
        config.train.validate_every = 4000
    return config
