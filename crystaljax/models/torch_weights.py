"""Weights of the paper's PyTorch code → parameters of our network.

Names on the left are those of its state dict: ``model.*`` is the UNet,
``spg_condition.*``, ``element_condition.*`` and ``coords_condition.*`` are the encoders
of space group, elements and source.
"""

import functools
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from crystaljax.models.networks import crystal_unet
from crystaljax.system import errors

_RES_BLOCK = {
    "in_layers.0": "norm_in",
    "in_layers.2": "conv_in",
    "emb_layers.1": "embedding",
    "out_layers.0": "norm_out",
    "out_layers.3": "conv_out",
    "skip_connection": "skip",
}
_ATTENTION = {"norm": "norm", "qkv": "qkv", "proj_out": "projection"}


# Layers that are convolutions of width 1 there, and dense layers here.
_DENSE = ("qkv", "projection", "skip")
_SOURCE_ENCODER = "coords_condition."
# The code has no setting for it, and arrays do not show it.
_NORM_GROUPS = 32
# Rows that three convolutions of width 3 without padding take away.
_LOST_ROWS = 6
# Names printed of each kind.
_NUM_NAMED = 5


def convert(
    state_dict: Mapping[str, np.ndarray], model: crystal_unet.CrystalUNet
) -> dict[str, Any]:
    """Flax parameters with the values of a state dict.

    Args:
        state_dict: arrays by PyTorch name.
        model: the network they are for, without site features.

    Raises:
        ValueError: an array is missing, left over, or of another shape.
    """
    # Networks can be hashed, which type checkers do not see.
    expected = _expected_arrays(cast(Any, model))
    _require_same_arrays(state_dict, expected)
    params: dict[str, Any] = {}
    for name, (path, _) in expected.items():
        layer = params
        for part in path[:-1]:
            layer = layer.setdefault(part, {})
        values = np.asarray(state_dict[name], np.float32)
        layer[path[-1]] = _kernel(values, path) if path[-1] == "kernel" else values
    return {"params": params}


def infer_settings(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """What ``config.model`` is for the network of a state dict.

    Names and shapes tell it all but the groups of the GroupNorms, which are the code's
    32, and that times are not scaled.

    Args:
        state_dict: arrays, or anything with a shape, by PyTorch name.

    Raises:
        ValueError: an array that every such network has is missing, or one is not
            understood. `convert` checks all remaining arrays.
    """
    shapes = {name: tuple(array.shape) for name, array in state_dict.items()}
    channels = _shape(shapes, "model.input_blocks.0.0.weight", 3)[0]
    if channels % _NORM_GROUPS:
        raise errors.UserError(
            f"the UNet of the state dict starts with {channels} channels; expected a "
            f"multiple of {_NORM_GROUPS}, the groups of the paper's GroupNorms"
        )
    levels = _read_levels(shapes)
    element_channels = tuple(
        _shape(shapes, f"element_condition.{2 * i}.weight", 3)[0] for i in range(3)
    )
    flat = _shape(shapes, "element_condition.7.weight", 2)[1]
    if flat % element_channels[-1]:
        raise errors.UserError(
            f"element_condition.7.weight takes {flat} numbers; expected a multiple of "
            f"the {element_channels[-1]} channels before it"
        )
    source_rows = 0
    if _has_source_encoder(shapes):
        source_rows = _shape(shapes, f"{_SOURCE_ENCODER}0.weight", 3)[1]
    return {
        "channels": channels,
        "channel_multipliers": tuple(width // channels for width, _, _ in levels),
        "num_res_blocks": levels[0][2],
        "attention_levels": tuple(
            2**i for i, (_, has_attention, _) in enumerate(levels) if has_attention
        ),
        "norm_groups": _NORM_GROUPS,
        "space_group_operations": "reference",
        "element_properties": "reference",
        "element_rows": flat // element_channels[-1] + _LOST_ROWS,
        "element_channels": element_channels,
        "site_features": 0,
        "source_rows": source_rows,
        "time_scale": 1.0,
    }


def _shape(
    shapes: Mapping[str, tuple[int, ...]], name: str, ndim: int
) -> tuple[int, ...]:
    if name not in shapes:
        found = f"its {len(shapes)} arrays are {_some(shapes)}" if shapes else "empty"
        raise errors.UserError(
            f"the state dict is not of a network of the paper's code: {name} is "
            f"missing ({found})"
        )
    if len(shapes[name]) != ndim:
        raise errors.UserError(
            f"the state dict is not of a network of the paper's code: {name} has the "
            f"shape {shapes[name]}; expected {ndim} axes"
        )
    return shapes[name]


def _read_levels(shapes: Mapping[str, tuple[int, ...]]) -> list[tuple[int, bool, int]]:
    """Width, attention and number of residual blocks of every level, from the way down.

    Raises:
        ValueError: blocks are missing, or those of a level differ.
    """
    prefix = "model.input_blocks."
    first = _shape(shapes, f"{prefix}0.0.weight", 3)[0]
    matches = (re.match(rf"{re.escape(prefix)}(\d+)\.", name) for name in shapes)
    last = max(int(match[1]) for match in matches if match)
    blocks: list[list[tuple[int, bool]]] = [[]]
    for i in range(1, last + 1):
        if f"{prefix}{i}.0.op.weight" in shapes:
            blocks.append([])
            continue
        width = _shape(shapes, f"{prefix}{i}.0.out_layers.3.weight", 3)[0]
        blocks[-1].append((width, f"{prefix}{i}.1.qkv.weight" in shapes))
    for i, level in enumerate(blocks):
        if len(set(level)) != 1 or len(level) != len(blocks[0]) or level[0][0] % first:
            raise errors.UserError(
                f"level {i} of the UNet in the state dict has residual blocks of "
                f"(channels, attention) {level}; expected equal ones, as many as on "
                f"the first level ({len(blocks[0])}), of a multiple of {first} channels"
            )
    return [(*level[0], len(level)) for level in blocks]


def _has_source_encoder(names: Iterable[str]) -> bool:
    return any(name.startswith(_SOURCE_ENCODER) for name in names)


@functools.lru_cache(maxsize=4)
def _expected_arrays(
    model: crystal_unet.CrystalUNet,
) -> dict[str, tuple[tuple[str, ...], tuple[int, ...]]]:
    """PyTorch name → path in our parameters, and shape in PyTorch."""
    # No parameter depends on the rows, as long as they can be halved once per level.
    x = jnp.zeros((1, max(4, 2 ** (len(model.channel_multipliers) - 1)), 3))
    one, number = jnp.zeros((1,)), jnp.ones((1,), jnp.uint8)
    params = jax.eval_shape(
        model.init, jax.random.key(0), x, one, number[:, None], number, one, x
    )["params"]
    expected = {}
    for torch_name, path in _layer_names(model):
        layer = params
        for part in path:
            layer = layer.get(part, {})
        # Residual blocks that keep their width have no skip convolution.
        for leaf, array in layer.items():
            name = f"{torch_name}.{'bias' if leaf == 'bias' else 'weight'}"
            expected[name] = ((*path, leaf), _torch_shape(array.shape, (*path, leaf)))
    return expected


def _torch_shape(shape: tuple[int, ...], path: tuple[str, ...]) -> tuple[int, ...]:
    """Shape of the array that `_kernel` brings to ``shape``."""
    if path[-1] != "kernel":
        return shape
    if path[-3:-2] == ("space_group_encoder",):
        return (shape[1], shape[0] // 4, 2, 2)
    if path[-2] in _DENSE:
        return (shape[1], shape[0], 1)
    return shape[::-1]


def _require_same_arrays(
    found: Mapping[str, np.ndarray],
    expected: Mapping[str, tuple[tuple[str, ...], tuple[int, ...]]],
) -> None:
    missing = [name for name in expected if name not in found]
    left_over = [name for name in found if name not in expected]
    differing = [
        f"{name} {found[name].shape} instead of {shape}"
        for name, (_, shape) in expected.items()
        if name in found and found[name].shape != shape
    ]
    if not (missing or left_over or differing):
        return
    reason = ""
    if _has_source_encoder(left_over):
        reason = (
            "; its source encoder is that of a modification-diffusion network, and "
            "this network has none (model.source_rows=0)"
        )
    elif _has_source_encoder(missing) and not _has_source_encoder(found):
        reason = "; it is of a network without source encoder, which this one has"
    raise errors.UserError(
        f"the state dict is not of this network: {len(missing)} missing "
        f"({_some(missing)}), {len(left_over)} left over ({_some(sorted(left_over))}), "
        f"{len(differing)} of another shape ({_some(differing)}){reason}"
    )


def _some(names: Iterable[str]) -> str:
    first = list(itertools.islice(names, _NUM_NAMED + 1))
    return ", ".join(first[:_NUM_NAMED]) + (", …" if len(first) > _NUM_NAMED else "")


def _kernel(weight: np.ndarray, path: tuple[str, ...]) -> np.ndarray:
    """PyTorch's (out, in, *kernel) → ours, channels last."""
    if weight.ndim == 4:
        # A 2-D convolution of width 2 is a dense layer on patches.
        return weight.transpose(2, 3, 1, 0).reshape(-1, weight.shape[0])
    if weight.ndim == 3:
        kernel = weight.transpose(2, 1, 0)
        return kernel[0] if path[-2] in _DENSE else kernel
    return weight.T


def _layer_names(
    model: crystal_unet.CrystalUNet,
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Pairs of PyTorch layer name and path of the same layer in our parameters."""
    yield "model.time_embed.0", ("time_in",)
    yield "model.time_embed.2", ("time_out",)
    yield "model.label_emb", ("condition",)
    for i in range(3):
        yield f"spg_condition.{2 * i}", ("space_group_encoder", f"conv_{i}")
        yield f"element_condition.{2 * i}", ("element_encoder", f"conv_{i}")
    yield "element_condition.7", ("element_encoder", "dense")
    if model.source_rows:
        yield f"{_SOURCE_ENCODER}0", ("source_encoder", "conv_0")
        yield f"{_SOURCE_ENCODER}2", ("source_encoder", "conv_1")
        yield f"{_SOURCE_ENCODER}5", ("source_encoder", "dense")

    def block(torch_name, ours, level):
        for theirs, name in _RES_BLOCK.items():
            yield f"{torch_name}.0.{theirs}", ("unet", f"{ours}_res", name)
        if 2**level in model.attention_levels:
            for theirs, name in _ATTENTION.items():
                yield f"{torch_name}.1.{theirs}", ("unet", f"{ours}_attention", name)

    num_levels = len(model.channel_multipliers)
    yield "model.input_blocks.0.0", ("unet", "conv_in")
    index = 1
    for level in range(num_levels):
        for i in range(model.num_res_blocks):
            yield from block(f"model.input_blocks.{index}", f"down_{level}_{i}", level)
            index += 1
        if level < num_levels - 1:
            ours = ("unet", f"downsample_{level}", "conv")
            yield f"model.input_blocks.{index}.0.op", ours
            index += 1
    for i, ours in ((0, "middle_0_res"), (2, "middle_1_res")):
        for theirs, name in _RES_BLOCK.items():
            yield f"model.middle_block.{i}.{theirs}", ("unet", ours, name)
    for theirs, name in _ATTENTION.items():
        yield f"model.middle_block.1.{theirs}", ("unet", "middle_attention", name)
    index = 0
    for level in reversed(range(num_levels)):
        for i in range(model.num_res_blocks + 1):
            yield from block(f"model.output_blocks.{index}", f"up_{level}_{i}", level)
            if level > 0 and i == model.num_res_blocks:
                upsample = 2 if 2**level in model.attention_levels else 1
                ours = ("unet", f"upsample_{level}", "conv")
                yield f"model.output_blocks.{index}.{upsample}.conv", ours
            index += 1
    yield "model.out.0", ("unet", "norm_out")
    yield "model.out.2", ("unet", "conv_out")
