"""What is measured, how large, in which order, and how long it is expected to take."""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Size:
    """How large everything is.

    Attributes:
        paper: variant of configs/ddim.py.
        paper_values: further values of its config.
        rows: of its sample tensors.
        evaluations: of the network in sampling with it.
        dtype: of the arithmetic; None as the config says.
        steps: training steps of a dispatch.
        repeats, min_seconds: of a measurement, see `timing.take_turns`.
        best_values: further values of the config of configs/best.py.
        best_rows, best_batch: of its training.
        draws: crystals that its sampler draws at a time.
        brief_seconds: of its training on the built-in alloys before final crystals.
        final_batch: final crystals at a time.
        num_alloys: of the built-in alloys; all if None.
        num_relaxed: alloys that are relaxed.
        largest_batch: that is tried for memory.
        orbit_samples, orbit_batch: crystals of the model `mp`, and how many at a time.
        orbit_shapes: of its arrays, the smallest first; all if None.
    """

    paper: str = ""
    paper_values: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    rows: int = 64
    evaluations: int = 100
    dtype: str | None = "bfloat16"
    steps: int = 10
    repeats: int = 5
    min_seconds: float = 1.0
    best_values: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    best_rows: int = 24
    best_batch: int = 512
    draws: int = 8192
    brief_seconds: float = 10.0
    final_batch: int = 64
    num_alloys: int | None = None
    num_relaxed: int = 1000
    largest_batch: int = 16384
    orbit_samples: int = 16384
    orbit_batch: int = 4096
    orbit_shapes: int | None = None


FULL = Size()
# Everything in seconds on a CPU, to see that it works; no figure of it means anything.
# The networks are those of other tests, whose programs are then compiled already.
TOY = Size(
    paper="smoke",
    paper_values={
        "model.channels": 8,
        "model.channel_multipliers": (1,),
        "model.num_res_blocks": 0,
        "model.norm_groups": 2,
        "model.element_channels": (4, 4, 4),
        "model.attention_levels": (),
        "model.site_features": 8,
    },
    rows=16,
    evaluations=2,
    dtype="float32",
    steps=2,
    repeats=2,
    min_seconds=0.0,
    best_values={
        "model.width": 16,
        "model.depth": 1,
        "model.num_heads": 2,
        "model.pair_features": 4,
        "model.estimator_depth": 1,
        "sampler.draws": 2,
        "sampler.num_steps": 2,
    },
    best_rows=16,
    best_batch=8,
    draws=4,
    brief_seconds=0.0,
    final_batch=2,
    num_alloys=40,
    num_relaxed=3,
    largest_batch=4,
    orbit_samples=2,
    orbit_batch=2,
    orbit_shapes=1,
)
SIZES = {"full": FULL, "toy": TOY}


@dataclasses.dataclass(frozen=True)
class Part:
    """What a process of its own measures.

    Attributes:
        name: of the part.
        module, function: what measures it: ``experiments/gpu/{module}.py``.
        seconds: that it is expected to take on an H100, imports and compilation
            included: it is not begun with less time left, and stopped after `limit`.
            Guesses, but for what an H200 has shown: the paper's training and PyTorch's
            were not ready after 150 s, nor three trainings at once after 195 s.
        arguments: of the function.
        memory_share: of the GPU's memory that JAX may have; it leaves the rest alone
            until it needs it where None.
        patience: it is stopped after so many times its expected seconds.
    """

    name: str
    module: str
    function: str
    seconds: float
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    memory_share: float | None = None
    patience: float = 1.7

    @property
    def limit(self) -> float:
        """Seconds after which it is stopped."""
        return self.patience * self.seconds


# In the order of worth, where what compiles faster goes first. Later parts find
# programs compiled by the earlier ones.
PARTS = (
    Part("sampling_256", "paper", "sampling", 100, {"batch_size": 256}),
    Part("orbits", "orbits", "final", 90),
    Part("best_smoke", "recipe", "best", 90, {"variant": "smoke"}),
    Part("training_256", "paper", "training", 200, {"batch_size": 256}),
    Part("profile", "paper", "profile", 60, {"batch_size": 256}),
    Part("variants", "paper", "variants", 150, {"batch_size": 256}),
    Part("best", "recipe", "best", 100, {"variant": ""}),
    Part("relaxation", "alloys", "relaxation", 45),
    Part("sampling_64", "paper", "sampling", 90, {"batch_size": 64}),
    Part("training_64", "paper", "training", 150, {"batch_size": 64}),
    Part(
        "memory",
        "paper",
        "memory",
        120,
        {"batch_sizes": (64, 256), "tasks": ("training", "sampling")},
        memory_share=0.95,
    ),
)
# The toy has a batch of 4 where the others have 256, and 2 where they have 64.
_TOY_BATCHES = {256: 4, 64: 2}
_TOY_SECONDS = 30.0


def parts_of(size: str) -> tuple[Part, ...]:
    """The parts of a size, by name in `SIZES`."""
    return PARTS if size == "full" else tuple(map(_make_toy, PARTS))


def _make_toy(part: Part) -> Part:
    arguments = dict(part.arguments)
    if "batch_size" in arguments:
        arguments["batch_size"] = _TOY_BATCHES[arguments["batch_size"]]
    if "tasks" in arguments:
        # A training step takes long to compile, and each batch is another.
        arguments["tasks"] = ("sampling",)
    if "batch_sizes" in arguments:
        batches = sorted(_TOY_BATCHES[each] for each in arguments["batch_sizes"])
        arguments["batch_sizes"] = tuple(batches)
    if "variant" in arguments:
        arguments["variant"] = "smoke"
    # CPUs can be as busy as they like.
    return dataclasses.replace(
        part, seconds=_TOY_SECONDS, arguments=arguments, patience=20.0
    )
