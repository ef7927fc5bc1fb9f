"""The settings that all configs start from: the paper's, with every key explained.

A config file says which of them its variants change, and `build_config` changes them.
Type checkers do not know what a ConfigDict holds, so it is annotated as Any.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import config_dict

from crystaljax.system import errors

# Order of the soft minimum. The more negative, the closer to the minimum and the more
# abrupt its gradient where two images are equally near. In one dimension, where the
# two nearest images of a site lie at δ and 1 - δ (experiments/pbc_loss/order.py):
#
#   order                                       -8       -16      -32      -64
#   too small where 2 images are equally near   8.3 %    4.2 %    2.1 %    1.1 %
#   too small where 8 images are equally near   23 %     12 %     6.3 %    3.2 %
#   too small where one image is 1.5× nearer    0.5 %    0.01 %   < 1e-6   < 1e-6
#   |gradient| < 0.8 around δ = 0.5, periods    0.13     0.067    0.034    0.017
#   mean bias (L2), δ uniform in the cell       3.2 %    0.9 %    0.2 %    0.06 %
#   mean bias (L2), δ normal, deviation 0.1     8e-5     3e-6     < 1e-6   < 1e-6
#
# -16 leaves a distance as it is unless images compete for it, and then turns the
# gradient from one to the other over 0.07 periods (0.3 Å in a cell of 4 Å).
IMAGE_ORDER = -16.0
TASKS = ("generation", "modification")
# Which samplers undo which process.
SAMPLERS = {
    "diffusion": ("ddpm", "ddim", "dpm_solver"),
    "flow_matching": ("euler", "heun"),
    "regression": ("regression",),
}

# --preset: sampler and network evaluations for each process, measured in
# experiments/network_evaluations.
PRESETS = {
    # The fewest that cost neither match rate nor accuracy.
    "fast": {
        "diffusion": ("ddim", 10),
        "flow_matching": ("euler", 5),
        "regression": ("regression", 1),
    },
}


def paper(task: str) -> Any:
    """The paper's settings (A.3) with DDIM for the process and the sampler.

    Args:
        task: "generation" (from noise to a crystal with the wanted composition, space
            group and formation energy) or "modification" (from a crystal to a polymorph
            with the wanted space group and energy difference).

    Raises:
        ValueError: an unknown task.
    """
    if task not in TASKS:
        raise errors.UserError(f"unknown task {task!r}; expected one of {TASKS}")
    config: Any = config_dict.ConfigDict()

    # "generation" or "modification": which data a step is made of, and whether a sample
    # starts from a user's crystal.
    config.task = task

    config.data = config_dict.ConfigDict()
    # Dataset directory made by crystaljax.prepare; "builtin" is the packaged alloys.
    config.data.path = "builtin"
    # Rows of the sample tensor, a multiple of 8; holds rows - 4 sites.
    config.data.rows = 64
    # Fewer rows, such as (16, 32), for the crystals that fit into them: each crystal
    # has the fewest rows that hold it and costs as much. () as in the paper: all have
    # data.rows.
    config.data.row_buckets = ()
    # Fractional coordinates as they are ("unit") or mapped to [-1, 1) ("signed").
    config.data.coordinates = "unit"
    # Lattice in Å ("angstrom"), or each entry to zero mean and unit size
    # ("standardized"), or relative to the size that the cell's atoms would fill, with
    # volumes of atoms fitted to the training structures, and then so ("relative").
    config.data.lattice = "angstrom"
    # Formation energy (modification: energy difference) in eV/atom ("ev") or to zero
    # mean, unit size ("standardized").
    config.data.energy = "ev"
    # Transformer: training structures of the same stoichiometry and, if possible, space
    # group that the network is shown with each question, the nearest in composition and
    # energy, written in the setting of the first of them.
    config.data.num_templates = 0
    # Share of structures whose templates are not shown in training.
    config.data.template_dropout = 0.0
    # Network "orbits": orbits of a primitive cell, at most; structures with more are
    # not trained on. Smaller arrays for the crystals that fit into them: pairs of
    # orbits and sites, such as ((3, 8), (6, 16)).
    config.data.orbits = 20
    config.data.orbit_buckets = ()
    # Modification: pairs drawn per polymorph group and epoch, on average.
    config.data.pairs_per_group = 5.0
    # Modification: draw cells of rare sizes as often as those of frequent ones.
    config.data.balance_num_sites = False

    config.process = config_dict.ConfigDict()
    # What the network is trained to undo: "diffusion", "flow_matching", or
    # "regression" (nothing: it answers a source crystal with its target at once).
    config.process.name = "diffusion"
    # Diffusion: noise schedule, "cosine", which has no further parameters.
    config.process.schedule = "cosine"
    # Diffusion: discrete times.
    config.process.num_times = 1000
    # Flow matching: where paths start, "normal" (N(0, 1)), "uniform" (over the range
    # of coordinates: U(0, 1) in the units of the cell), "torus" (sites anywhere in the
    # cell, lattices normal, and sites take the shortest way, across the faces of the
    # cell too; needs data.coordinates="unit") or "source" (a crystal).
    config.process.start = "normal"
    # Flow matching: the network answers with the "velocity", or on the torus with the
    # "direction" of the data (cosines and sines of its coordinates).
    config.process.answer = "velocity"
    # Flow matching: times are U(0, 1) to this power; above 1 most are near the start.
    config.process.time_power = 1.0

    config.sampler = config_dict.ConfigDict()
    # "ddpm", "ddim" or "dpm_solver" (DPM-Solver++ 2M) for diffusion, "euler" or "heun"
    # for flow matching, "regression" for regression.
    config.sampler.name = "ddim"
    # Network evaluations per sample; at most process.num_times for diffusion, 1 for
    # regression.
    config.sampler.num_steps = 100
    # DDIM: fresh noise per step, 0 none (deterministic) to 1 as much as DDPM.
    config.sampler.eta = 0.0
    # Samples that are nearly of the space group that was requested, within this
    # distance (Å), are made to be of it exactly; 0 leaves all as they come.
    config.sampler.project = 0.0
    # Crystals that are made for each sample; the one that fits best what was requested
    # is picked.
    config.sampler.draws = 1
    # Network "orbits": where there is a known prototype with the positions of a sample,
    # its free parameters (means over the training structures that share it) stand in
    # the place of the network's answer; of further samples with the same positions each
    # follows another one, and then none.
    config.sampler.follow_known = True

    config.model = config_dict.ConfigDict()
    # "unet", the paper's; for flow matching on the torus "transformer" over the sites,
    # or "orbits", one over the orbits in the standard setting of the space group.
    config.model.network = "unet"
    # Transformer: width of a token, blocks, heads, features of a pair of sites, and
    # harmonics of coordinates.
    config.model.width = 128
    config.model.depth = 6
    config.model.num_heads = 4
    config.model.pair_features = 16
    config.model.num_harmonics = 4
    # Share of what a block adds that is left out in training.
    config.model.dropout = 0.0
    # Transformer and orbits: blocks of an estimator of energies that is trained beside
    # it and tells which of sampler.draws is the best; 0 for none.
    config.model.estimator_depth = 0
    # Orbits: epochs of its training, before that of the flow.
    config.model.estimator_epochs = 20
    # Orbits: networks that say which Wyckoff positions are filled, whose probabilities
    # are averaged, their width, and epochs of their training (0: none, where there is
    # a train.init whose data these are).
    config.model.position_networks = 2
    config.model.position_width = 128
    config.model.position_epochs = 12
    # UNet, down to rematerialize where nothing else is said.
    # Channels of the UNet's first level, and of each level in multiples of it.
    config.model.channels = 128
    config.model.channel_multipliers = (1, 2, 4, 8)
    # Residual blocks per level.
    config.model.num_res_blocks = 7
    # Levels with attention, by their downsampling rate (1, 2, 4, …).
    config.model.attention_levels = (1, 2, 4, 8)
    # Groups of every GroupNorm, a divisor of channels and less than it.
    config.model.norm_groups = 32
    # Order of a space group's symmetry operations: one that is defined ("sorted"), or
    # that of the paper's code ("reference"), which weights imported from it need.
    config.model.space_group_operations = "sorted"
    # Element properties as in the paper's code ("reference"), or standardised
    # ("scaled").
    config.model.element_properties = "reference"
    # Sites that the element encoder sees, whatever data.rows is; at least rows - 4.
    config.model.element_rows = 64
    # Channels of the element encoder's three convolutions.
    config.model.element_channels = (64, 128, 256)
    # Width of an embedding of each site's element fed in at its row; 0 switches it off.
    config.model.site_features = 0
    # Rows of the source crystal that its encoder sees, whatever data.rows is (at least
    # data.rows); 0: the network sees no source but what the process puts into x_t.
    config.model.source_rows = 0
    # Times are multiplied by this before the sinusoids. Diffusion counts to 1000, flow
    # matching to 1, and the paper's code feeds both as they are.
    config.model.time_scale = 1.0
    # How convolutions are computed, with the same parameters and results: "unfold" (one
    # matrix product of shifted copies), "shift" (one for each), "xla" (the backend's
    # own), or "auto", the fastest measured. See experiments/throughput.
    config.model.convolution = "auto"
    # How attention is computed, likewise: "einsum", "xla" (jax.nn's), "cudnn" (fused,
    # on NVIDIA GPUs in half precision), or "auto". See experiments/gpu.
    config.model.attention = "auto"
    # Compute the insides of blocks again in the backward pass instead of keeping them:
    # a third more work, and larger batches fit into memory.
    config.model.rematerialize = False

    config.loss = config_dict.ConfigDict()
    # Distance of coordinates: "l1"; "squares", for directions; or, where the network
    # answers with coordinates (regression), "pbc_l1" and "pbc_l2" to the nearest of 27
    # periodic images, and "boundary_l1" and "boundary_l2" in which only coordinates of
    # 0 and 1 are the same.
    config.loss.coordinates = "l1"
    # Order k < 0 of the soft minimum over images; -inf is the minimum itself. See
    # IMAGE_ORDER for the choice.
    config.loss.image_order = IMAGE_ORDER
    # Weights of the losses of coordinates (per site) and lattice (L1, per vector).
    config.loss.coordinate_weight = 0.5
    config.loss.lattice_weight = 0.5
    # Weight of the loss of the estimator of energies, which shares no parameters.
    config.loss.energy_weight = 1.0

    config.optimizer = config_dict.ConfigDict()
    # Adam: peak learning rate, reached linearly, then a cosine to 0 at the last step.
    config.optimizer.learning_rate = 1e-4
    config.optimizer.warmup_steps = 500
    config.optimizer.b1 = 0.9
    config.optimizer.b2 = 0.999
    config.optimizer.eps = 1e-8
    # AdamW: share of the parameters that a step at learning rate 1 would take off; not
    # of biases.
    config.optimizer.weight_decay = 0.0
    # Largest global norm of the gradient; 0 switches clipping off.
    config.optimizer.gradient_clip = 1.0

    config.train = config_dict.ConfigDict()
    # Seed of the parameters, the noise and the order of the data.
    config.train.seed = 42
    # Model whose weights the training starts from: a name of `crystaljax models`, such
    # as "mp", or a folder of a model or a run; "" starts from fresh parameters.
    config.train.init = ""
    # Structures (modification: pairs) per step, over all devices.
    config.train.batch_size = 256
    # Parts that the batch of a step is cut into, one after the other, with the mean of
    # their gradients: the same step (but for the noise of rounding) in less memory.
    config.train.accumulation_steps = 1
    # Network "orbits": share of species that are shown to it as elements beside them in
    # the order of Mendeleev numbers, and noise on energies, in standard deviations.
    config.train.substitution = 0.0
    config.train.energy_noise = 0.0
    # Steps in all; 0 takes them from num_epochs.
    config.train.num_steps = 0
    # Passes over the training structures (modification: drawings of pairs), where
    # num_steps is 0.
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
    # Structures (modification: pairs) of the validation split that a validation
    # samples and matches.
    config.evaluation.num_structures = 400
    # Samples per call of the compiled sampler, over all devices.
    config.evaluation.batch_size = 256
    # Processes that match; 0 takes all CPUs.
    config.evaluation.num_workers = 0

    return config


# What a variant changes, as "section.key": value. Each config says what its variants
# are (``VARIANTS``), and `build_config` applies one of them, once.

# A network that trains on two CPU cores in minutes, in place of the paper's. Beyond
# being small it has what helps and the paper does not: scaled units, a moving average
# of the parameters, the element of each site at its row.
SMOKE: Mapping[str, Any] = {
    "data.rows": 16,
    "data.coordinates": "signed",
    "data.lattice": "standardized",
    "data.energy": "standardized",
    "sampler.num_steps": 50,
    "model.channels": 32,
    "model.channel_multipliers": (1, 2, 4),
    "model.num_res_blocks": 1,
    "model.norm_groups": 8,
    "model.element_properties": "scaled",
    "model.element_rows": 16,
    "model.site_features": 32,
    "optimizer.learning_rate": 1e-3,
    "optimizer.warmup_steps": 100,
    "train.batch_size": 128,
    "train.num_steps": 2400,
    "train.steps_per_dispatch": 10,
    "train.dtype": "auto",
    "train.ema_decay": 0.995,
    "train.log_every": 100,
    "train.checkpoint_every": 600,
    "train.validate_every": 1200,
    "evaluation.num_structures": 128,
    "evaluation.batch_size": 128,
}

# A network for one GPU and days, or many CPU cores: 18 M parameters, all sizes. It has
# what the smoke network has beyond the paper, and rows that follow the crystals. Not
# trained to the end yet: a starting point.
MEDIUM: Mapping[str, Any] = {
    **SMOKE,
    "data.rows": 64,
    "data.row_buckets": (16, 32),
    "model.channels": 64,
    "model.channel_multipliers": (1, 2, 4, 8),
    "model.num_res_blocks": 2,
    "model.norm_groups": 16,
    "model.element_rows": 64,
    "model.site_features": 64,
    "optimizer.learning_rate": 5e-4,
    "optimizer.warmup_steps": 1000,
    "train.batch_size": 256,
    "train.num_steps": 200_000,
    "train.ema_decay": 0.9995,
    "train.checkpoint_every": 5000,
    "train.validate_every": 20000,
}

# The flow on orbits in the standard setting: configs/symmetric.py and modify_best.py.
ORBITS: Mapping[str, Any] = {
    "data.coordinates": "unit",
    "data.lattice": "relative",
    "data.orbit_buckets": ((3, 8), (4, 16), (6, 20), (10, 20)),
    "process.name": "flow_matching",
    "process.start": "torus",
    "process.answer": "direction",
    "process.time_power": 2.0,
    "sampler.name": "euler",
    # As good as 10, on the validation structures of the model `mp`.
    "sampler.num_steps": 5,
    "model.network": "orbits",
    "model.time_scale": 1000.0,
    "loss.coordinate_weight": 1.0,
    "loss.lattice_weight": 0.2,
    # One program for gradients and another for their use: faster on CPUs.
    "train.steps_per_dispatch": 1,
}
# For one GPU and all sizes, which has not been trained yet.
ORBITS_LARGE: Mapping[str, Any] = {
    "model.width": 384,
    "model.depth": 12,
    "model.num_heads": 6,
    "model.pair_features": 32,
    "model.estimator_depth": 3,
    "optimizer.learning_rate": 3e-4,
    "train.steps_per_dispatch": 10,
}
# For CPUs, with what helps small networks.
ORBITS_SMALL: Mapping[str, Any] = {
    "model.dropout": 0.1,
    "model.estimator_depth": 2,
    "train.substitution": 0.25,
    "train.energy_noise": 0.1,
    "train.ema_decay": 0.999,
}
# For the built-in alloys, in minutes.
ORBITS_ALLOYS: Mapping[str, Any] = {
    "data.rows": 16,
    "data.orbits": 8,
    "data.orbit_buckets": ((3, 4), (4, 8)),
    "train.ema_decay": 0.995,
    "train.num_steps": 800,
    "train.checkpoint_every": 400,
    "train.validate_every": 800,
}


def build_config(
    name: str, task: str, variants: Mapping[str, Mapping[str, Any]], variant: str
) -> Any:
    """The paper's settings with what a variant of a config changes.

    Args:
        name: of the config's file, for messages.
        task: see `paper`.
        variants: of the config, by name: "section.key" → value.
        variant: that is wanted.

    Raises:
        UserError: there is no such variant.
        KeyError: the variant changes a key that no config has.
    """
    if variant not in variants:
        raise errors.UserError(
            f"unknown variant {variant!r} of configs/{name}.py; expected one of "
            f"{tuple(variants)}"
        )
    config = paper(task)
    for path, value in variants[variant].items():
        section, key = path.split(".")
        if key not in config[section]:
            raise KeyError(f"configs/{name}.py sets {path}, which no config has")
        config[section][key] = value
    return config
