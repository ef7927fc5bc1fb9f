"""Generation with denoising diffusion, sampled by DDIM (paper algorithms 9 and 11).

The paper's settings: 304.8 M parameters, two weeks of one GPU on 2.1 million AFLOW
structures, match rate 0.82 on its own split (StructureMatcher 0.2/0.3/5).

    python -m crystaljax.train --config=configs/ddim.py --workdir=runs/ddim \
        --config.data.path=data/aflow

`:smoke` is a small network for CPUs, with what helps beyond the paper switched on:

    python -m crystaljax.train --config=configs/ddim.py:smoke --workdir=runs/smoke

`:perov` is the same with a longer schedule, for prototypes of up to 12 atoms; see
experiments/perov_5.
"""

from ml_collections import config_dict

VARIANTS = ("", "smoke", "perov")


def get_config(variant: str = "") -> config_dict.ConfigDict:
    """The paper's settings, or one of the variants.

    Raises:
        ValueError: an unknown variant.
    """
    if variant not in VARIANTS:
        raise ValueError(
            f"unknown variant {variant!r} of configs/ddim.py; expected one of "
            f"{VARIANTS}"
        )
    config = config_dict.ConfigDict()

    config.data = config_dict.ConfigDict()
    # Dataset directory made by crystaljax.prepare; "builtin" is the packaged alloys.
    config.data.path = "builtin"
    # Rows of the sample tensor, a multiple of 8; holds rows - 4 sites.
    config.data.rows = 64
    # Fractional coordinates as they are ("unit") or mapped to [-1, 1) ("signed").
    config.data.coordinates = "unit"
    # Lattice in Å ("angstrom"), or each entry to zero mean and unit size
    # ("standardized").
    config.data.lattice = "angstrom"
    # Formation energy in eV/atom ("ev") or to zero mean, unit size ("standardized").
    config.data.energy = "ev"

    config.process = config_dict.ConfigDict()
    # What the network is trained to undo: "diffusion".
    config.process.name = "diffusion"
    # Noise schedule: "cosine", which has no further parameters.
    config.process.schedule = "cosine"
    # Discrete diffusion times.
    config.process.num_times = 1000

    config.sampler = config_dict.ConfigDict()
    # "ddim".
    config.sampler.name = "ddim"
    # Network evaluations per sample, 1 to process.num_times.
    config.sampler.num_steps = 100
    # Fresh noise per step: 0 none (deterministic), 1 as much as DDPM.
    config.sampler.eta = 0.0

    config.model = config_dict.ConfigDict()
    # Channels of the UNet's first level, and of each level in multiples of it.
    config.model.channels = 128
    config.model.channel_multipliers = (1, 2, 4, 8)
    # Residual blocks per level.
    config.model.num_res_blocks = 7
    # Levels with attention, by their downsampling rate (1, 2, 4, …).
    config.model.attention_levels = (1, 2, 4, 8)
    # Groups of every GroupNorm, a divisor of channels and less than it.
    config.model.norm_groups = 32
    # Element properties as in the paper's code ("reference"), or standardised
    # ("scaled").
    config.model.element_properties = "reference"
    # Sites that the element encoder sees, whatever data.rows is; at least rows - 4.
    config.model.element_rows = 64
    # Channels of the element encoder's three convolutions.
    config.model.element_channels = (64, 128, 256)
    # Width of an embedding of each site's element fed in at its row; 0 switches it off.
    config.model.site_features = 0

    config.loss = config_dict.ConfigDict()
    # Weights of the L1 losses of coordinates (per site) and lattice (per vector).
    config.loss.coordinate_weight = 0.5
    config.loss.lattice_weight = 0.5

    config.optimizer = config_dict.ConfigDict()
    # Adam: peak learning rate, reached linearly, then a cosine to 0 at the last step.
    config.optimizer.learning_rate = 1e-4
    config.optimizer.warmup_steps = 500
    config.optimizer.b1 = 0.9
    config.optimizer.b2 = 0.999
    config.optimizer.eps = 1e-8
    # Largest global norm of the gradient; 0 switches clipping off.
    config.optimizer.gradient_clip = 1.0

    config.train = config_dict.ConfigDict()
    # Seed of the parameters, the noise and the order of the data.
    config.train.seed = 42
    # Structures per step, over all devices.
    config.train.batch_size = 256
    # Steps in all; 0 takes them from num_epochs.
    config.train.num_steps = 0
    # Passes over the training structures, where num_steps is 0.
    config.train.num_epochs = 400
    # Steps per call of the compiled function; the intervals below are multiples of it.
    config.train.steps_per_dispatch = 10
    # Arithmetic: "float32", "bfloat16", "float16" (with dynamic loss scaling) or
    # "auto" (bfloat16 on accelerators, float32 on CPUs). Parameters are float32.
    config.train.dtype = "float16"
    # Exponential moving average of the parameters, used for samples; 0 switches it off.
    config.train.ema_decay = 0.0
    # Steps between log lines, checkpoints and validations (0: only at the end).
    config.train.log_every = 100
    config.train.checkpoint_every = 5000
    config.train.validate_every = 20000
    # Checkpoints kept.
    config.train.keep_checkpoints = 2

    config.evaluation = config_dict.ConfigDict()
    # Structures of the validation split that a validation samples and matches.
    config.evaluation.num_structures = 400
    # Samples per call of the compiled sampler, over all devices.
    config.evaluation.batch_size = 256
    # Processes that match; 0 takes all CPUs.
    config.evaluation.num_workers = 0

    if variant in ("smoke", "perov"):
        config.data.rows = 16
        config.data.coordinates = "signed"
        config.data.lattice = "standardized"
        config.data.energy = "standardized"
        config.sampler.num_steps = 50
        config.model.channels = 32
        config.model.channel_multipliers = (1, 2, 4)
        config.model.num_res_blocks = 1
        config.model.norm_groups = 8
        config.model.element_properties = "scaled"
        config.model.element_rows = 16
        config.model.site_features = 32
        config.optimizer.learning_rate = 1e-3
        config.optimizer.warmup_steps = 100
        config.train.batch_size = 128
        config.train.num_steps = 2400
        config.train.steps_per_dispatch = 10
        config.train.dtype = "auto"
        config.train.ema_decay = 0.995
        config.train.log_every = 100
        config.train.checkpoint_every = 600
        config.train.validate_every = 1200
        config.evaluation.num_structures = 128
        config.evaluation.batch_size = 128
    if variant == "perov":
        config.model.channel_multipliers = (1, 2, 4, 8)
        config.optimizer.learning_rate = 5e-4
        config.optimizer.warmup_steps = 200
        config.train.ema_decay = 0.999
        config.train.num_steps = 8000
        config.train.checkpoint_every = 2000
        config.train.validate_every = 4000
    return config
