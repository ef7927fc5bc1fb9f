"""From a config to the network and its process; shared by training and sampling.

Apart from the entry points only this module, `build_training` and `build_sampling` look
into a ConfigDict. Type checkers do not know what a ConfigDict holds, so it is annotated
as Any.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from crystaljax import defaults
from crystaljax.crystals import structure
from crystaljax.models import processes, scaling, schedules
from crystaljax.models.networks import (
    crystal_unet,
    layers,
    orbit_transformer,
    transformer,
)
from crystaljax.system import errors

DTYPES = ("auto", "float32", "bfloat16", "float16")
STARTS = ("normal", "uniform", "torus", "source")
ANSWERS = ("velocity", "direction")
NETWORKS = ("unet", "transformer", "orbits")


def is_modification(config: Any) -> bool:
    """Whether a config is for the modification task, not generation.

    Raises:
        ValueError: an unknown task.
    """
    if config.task not in defaults.TASKS:
        raise errors.UserError(
            f"unknown task {config.task!r}; expected one of {defaults.TASKS}"
        )
    return config.task == "modification"


def resolve_dtype(name: str) -> Any:
    """Name of an arithmetic → dtype; "auto" asks what the devices are.

    Raises:
        ValueError: an unknown name.
    """
    if name not in DTYPES:
        raise errors.UserError(f"train.dtype is {name!r}; expected one of {DTYPES}")
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return jnp.dtype(name)


def row_buckets(config: Any) -> tuple[int, ...]:
    """Rows that sample tensors can have, ascending; the last is ``data.rows``.

    Raises:
        ValueError: a bucket is no positive multiple of 8, or not below ``data.rows``.
    """
    rows = config.data.rows
    buckets = sorted(set(config.data.row_buckets))
    for bucket in buckets:
        structure.max_sites(bucket)
        if bucket >= rows:
            raise errors.UserError(
                f"data.row_buckets has {bucket}, but data.rows is {rows}; expected "
                "fewer rows than data.rows, which need not be repeated"
            )
    return (*buckets, rows)


def is_of_orbits(config: Any) -> bool:
    """Whether the network works on orbits in the standard setting, not on sites."""
    return config.model.network == "orbits"


def orbit_shapes(config: Any) -> tuple[tuple[int, int], ...]:
    """Orbits and sites that arrays can have, the smallest first.

    Raises:
        ValueError: a bucket is no pair of positive integers, or beyond the largest.
    """
    largest = (config.data.orbits, structure.max_sites(config.data.rows))
    shapes = {largest}
    for bucket in config.data.orbit_buckets:
        pair = tuple(bucket) if isinstance(bucket, list | tuple) else (bucket,)
        if (
            len(pair) != 2
            or not all(isinstance(n, int) and n > 0 for n in pair)
            or pair[0] > largest[0]
            or pair[1] > largest[1]
        ):
            raise errors.UserError(
                f"data.orbit_buckets has {bucket}; expected pairs of orbits and sites, "
                f"at most {largest} (data.orbits and what data.rows holds)"
            )
        shapes.add((pair[0], pair[1]))
    return tuple(sorted(shapes, key=lambda shape: shape[0] * shape[1]))


def build_model(config: Any) -> Any:
    """The network.

    Raises:
        ValueError: an unknown network, or one that does not fit the data or the
            process.
    """
    match config.model.network:
        case "unet":
            return _build_unet(config)
        case "transformer":
            return _build_transformer(config)
        case "orbits":
            return _build_orbit_transformer(config)
        case name:
            raise errors.UserError(
                f"unknown model.network {name!r}; expected one of {NETWORKS}"
            )


def _build_orbit_transformer(config: Any) -> orbit_transformer.OrbitTransformer:
    _require_directions(config)
    model = config.model
    if config.data.num_templates:
        raise errors.UserError(
            "model.network is 'orbits', but data.num_templates is "
            f"{config.data.num_templates}; expected 0"
        )
    if (config.data.lattice, config.data.coordinates) != ("relative", "unit"):
        raise errors.UserError(
            "model.network is 'orbits', but data.lattice and data.coordinates are "
            f"{config.data.lattice!r} and {config.data.coordinates!r}; expected "
            "'relative' and 'unit'"
        )
    return orbit_transformer.OrbitTransformer(
        width=model.width,
        depth=model.depth,
        num_heads=model.num_heads,
        pair_features=model.pair_features,
        num_harmonics=model.num_harmonics,
        dropout=model.dropout,
        time_scale=model.time_scale,
        modifies=is_modification(config),
        dtype=resolve_dtype(config.train.dtype),
    )


def _require_directions(config: Any) -> None:
    """Raises UserError if a transformer does not fit the process or the task."""
    model, process = config.model, config.process
    asked = (process.name, process.start, process.answer)
    if asked != ("flow_matching", "torus", "direction"):
        raise errors.UserError(
            f"model.network is {model.network!r}, which answers with directions, but "
            f"process.name, .start and .answer are {asked}; expected "
            "('flow_matching', 'torus', 'direction')"
        )
    if is_modification(config) and not is_of_orbits(config):
        raise errors.UserError(
            f"model.network is {model.network!r}, which looks at no source crystals; "
            "set task='generation', or model.network='unet' or 'orbits'"
        )
    if model.width % model.num_heads:
        raise errors.UserError(
            f"model.width is {model.width}, which {model.num_heads} heads cannot "
            "share; choose model.num_heads among its divisors"
        )


def _build_transformer(config: Any) -> transformer.CrystalTransformer:
    _require_directions(config)
    model = config.model
    return transformer.CrystalTransformer(
        width=model.width,
        depth=model.depth,
        num_heads=model.num_heads,
        pair_features=model.pair_features,
        num_harmonics=model.num_harmonics,
        num_templates=config.data.num_templates,
        dropout=model.dropout,
        estimator_depth=model.estimator_depth,
        space_group_operations=model.space_group_operations,
        element_properties=model.element_properties,
        max_sites=structure.max_sites(config.data.rows),
        time_scale=model.time_scale,
        dtype=resolve_dtype(config.train.dtype),
    )


def _build_unet(config: Any) -> crystal_unet.CrystalUNet:
    model = config.model
    if config.data.num_templates:
        raise errors.UserError(
            f"data.num_templates is {config.data.num_templates}, but the UNet takes no "
            "templates; set it to 0, or model.network='transformer'"
        )
    if model.convolution not in layers.CONVOLUTIONS:
        raise errors.UserError(
            f"model.convolution is {model.convolution!r}; expected one of "
            f"{layers.CONVOLUTIONS}"
        )
    _require_attention(config)
    sites = structure.max_sites(config.data.rows)
    if model.element_rows < sites:
        raise errors.UserError(
            f"model.element_rows is {model.element_rows}, but data.rows="
            f"{config.data.rows} holds {sites} sites; raise model.element_rows"
        )
    if model.source_rows and not is_modification(config):
        raise errors.UserError(
            f"model.source_rows is {model.source_rows}, but the task is generation, "
            "which has no source crystals; set model.source_rows=0"
        )
    if 0 < model.source_rows < config.data.rows:
        raise errors.UserError(
            f"model.source_rows is {model.source_rows}, but data.rows is "
            f"{config.data.rows}; raise model.source_rows to it"
        )
    return crystal_unet.CrystalUNet(
        channels=model.channels,
        channel_multipliers=tuple(model.channel_multipliers),
        num_res_blocks=model.num_res_blocks,
        attention_levels=tuple(model.attention_levels),
        norm_groups=model.norm_groups,
        space_group_operations=model.space_group_operations,
        element_properties=model.element_properties,
        element_rows=model.element_rows,
        element_channels=tuple(model.element_channels),
        site_features=model.site_features,
        source_rows=model.source_rows,
        time_scale=model.time_scale,
        convolution=model.convolution,
        attention=model.attention,
        rematerialize=model.rematerialize,
        dtype=resolve_dtype(config.train.dtype),
    )


def _require_attention(config: Any) -> None:
    """Raises ValueError if the devices cannot compute attention as it is requested."""
    name = config.model.attention
    if name not in layers.ATTENTIONS:
        raise errors.UserError(
            f"model.attention is {name!r}; expected one of {layers.ATTENTIONS}"
        )
    dtype, backend = resolve_dtype(config.train.dtype), jax.default_backend()
    if name == "cudnn" and (backend != "gpu" or dtype.itemsize != 2):
        raise errors.UserError(
            "model.attention is 'cudnn', which needs an NVIDIA GPU and half precision, "
            f"but the devices are {backend!r} and train.dtype is {dtype.name!r}; set "
            "model.attention='auto'"
        )


def build_schedule(config: Any) -> schedules.NoiseSchedule:
    """The noise schedule of a diffusion.

    Raises:
        ValueError: an unknown name.
    """
    name = config.process.schedule
    if name == "cosine":
        return schedules.build_cosine_schedule(config.process.num_times)
    raise errors.UserError(f"unknown process.schedule {name!r}; expected 'cosine'")


def build_noise_fn(config: Any) -> processes.NoiseFn | None:
    """Where the paths of flow matching start; None: at the source crystal.

    Raises:
        ValueError: an unknown name, or a source where the task has none.
    """
    start = config.process.start
    match start:
        case "normal":
            return jax.random.normal
        case "uniform":
            return _uniform_noise_fn(config.data.coordinates)
        case "torus":
            if config.data.coordinates != "unit":
                raise errors.UserError(
                    "process.start is 'torus', but data.coordinates is "
                    f"{config.data.coordinates!r}; set data.coordinates='unit'"
                )
            return processes.sample_torus
        case "source":
            require_modification(config, "process.start='source'")
            return None
        case _:
            raise errors.UserError(
                f"unknown process.start {start!r}; expected one of {STARTS}"
            )


@functools.lru_cache(maxsize=16)
def _uniform_noise_fn(coordinates: str) -> processes.NoiseFn:
    """The same object each time: compiled programs are found again by it."""
    mean, scale = scaling.coordinate_units(coordinates)
    return functools.partial(
        jax.random.uniform, minval=-mean / scale, maxval=(1 - mean) / scale
    )


def build_process(config: Any) -> processes.Process:
    """The process that the network is trained on.

    Raises:
        ValueError: an unknown name, or a process that the task cannot have.
    """
    name = config.process.name
    match name:
        case "diffusion":
            return processes.Diffusion(build_schedule(config))
        case "flow_matching":
            if config.process.answer not in ANSWERS:
                raise errors.UserError(
                    f"unknown process.answer {config.process.answer!r}; expected one "
                    f"of {ANSWERS}"
                )
            return processes.FlowMatching(
                build_noise_fn(config),
                period=1.0 if config.process.start == "torus" else None,
                answer=config.process.answer,
                time_power=config.process.time_power,
            )
        case "regression":
            require_modification(config, "process.name='regression'")
            return processes.Regression()
        case _:
            raise errors.UserError(
                f"unknown process.name {name!r}; expected one of "
                f"{tuple(defaults.SAMPLERS)}"
            )


def require_modification(config: Any, setting: str) -> None:
    """Raises ValueError if a setting that needs source crystals has none."""
    if not is_modification(config):
        raise errors.UserError(
            f"{setting} needs a source crystal, which task={config.task!r} does not "
            "have; set task='modification'"
        )
