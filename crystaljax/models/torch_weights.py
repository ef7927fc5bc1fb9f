"""Weights of the paper's PyTorch code → parameters of our network.

Names on the left are those of its state dict: ``model.*`` is the UNet,
``spg_condition.*`` and ``element_condition.*`` are the encoders.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from crystaljax.models import crystal_unet

_RES_BLOCK = {
    "in_layers.0": "norm_in",
    "in_layers.2": "conv_in",
    "emb_layers.1": "embedding",
    "out_layers.0": "norm_out",
    "out_layers.3": "conv_out",
    "skip_connection": "skip",
}
_ATTENTION = {"norm": "norm", "qkv": "qkv", "proj_out": "projection"}


def convert(
    state_dict: Mapping[str, np.ndarray], model: crystal_unet.CrystalUNet
) -> dict[str, Any]:
    """Flax parameters with the values of a state dict.

    Args:
        state_dict: arrays by PyTorch name.
        model: the network they are for, without site features.

    Raises:
        ValueError: an array is missing, or one is left over.
    """
    left = dict(state_dict)
    params: dict[str, Any] = {}
    missing = []
    for torch_name, path in _layer_names(model):
        weight, bias = f"{torch_name}.weight", f"{torch_name}.bias"
        if weight not in left or bias not in left:
            # Residual blocks that keep their width have no skip convolution.
            if path[-1] != "skip":
                missing += [name for name in (weight, bias) if name not in left]
            continue
        layer = params
        for name in path:
            layer = layer.setdefault(name, {})
        values = np.asarray(left.pop(weight), np.float32)
        layer["scale" if values.ndim == 1 else "kernel"] = _kernel(values, path)
        layer["bias"] = np.asarray(left.pop(bias), np.float32)
    if missing or left:
        raise ValueError(
            "the state dict is not of this network: missing "
            f"{missing[:5] or 'nothing'}, left over {sorted(left)[:5] or 'nothing'}"
        )
    return {"params": params}


def _kernel(weight: np.ndarray, path: tuple[str, ...]) -> np.ndarray:
    """PyTorch's (out, in, *kernel) → ours, channels last."""
    if weight.ndim == 4:
        # A 2-D convolution of width 2 is a dense layer on patches.
        return weight.transpose(2, 3, 1, 0).reshape(-1, weight.shape[0])
    if weight.ndim == 3:
        kernel = weight.transpose(2, 1, 0)
        is_dense = path[-1] in ("qkv", "projection", "skip")
        return kernel[0] if is_dense else kernel
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
