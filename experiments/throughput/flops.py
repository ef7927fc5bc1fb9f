"""Floating-point operations: what a network needs, what a device can do.

`evaluation_flops` and `encoding_flops` count the matrix products and convolutions of
the network as it is defined (two operations per multiplication and addition), whatever
a compiler makes of them, so that shares of the peak can be compared.
"""

import re
import time

import jax
import jax.numpy as jnp

from crystaljax import symmetry
from crystaljax.models import crystal_unet, encoders

# Dense TFLOP/s that the makers state, accumulating in float32. "float32" is what JAX
# multiplies float32 with by default: TF32 where there is one.
_PEAKS = {
    "B200": {"float32": 1100, "bfloat16": 2250, "float16": 2250},
    "H200": {"float32": 494.7, "bfloat16": 989.4, "float16": 989.4},
    "H100 PCIe": {"float32": 378, "bfloat16": 756, "float16": 756},
    "H100": {"float32": 494.7, "bfloat16": 989.4, "float16": 989.4},
    "A100": {"float32": 156, "bfloat16": 312, "float16": 312},
    "V100": {"float32": 15.7, "float16": 125},
    "L40S": {"float32": 183, "bfloat16": 362, "float16": 362},
    "L4": {"float32": 60, "bfloat16": 121, "float16": 121},
    "T4": {"float32": 8.1, "float16": 65},
    "A10G": {"float32": 35, "bfloat16": 70, "float16": 70},
    "RTX 4090": {"float32": 82.6, "bfloat16": 165.2, "float16": 165.2},
    "RTX 3090": {"float32": 35.6, "bfloat16": 71, "float16": 71},
}
# Sides of the square matrices with which other devices are measured.
_MATMUL_SIDES = {"cpu": 1024, "gpu": 8192}
_MATMUL_REPEATS = 20


def _conv(inputs: int, outputs: int, width: int, out_rows: int) -> int:
    return 2 * inputs * outputs * width * out_rows


def _dense(inputs: int, outputs: int) -> int:
    return _conv(inputs, outputs, 1, 1)


def _res_block(inputs: int, outputs: int, embedding: int, rows: int) -> int:
    skip = _conv(inputs, outputs, 1, rows) if inputs != outputs else 0
    convs = _conv(inputs, outputs, 3, rows) + _conv(outputs, outputs, 3, rows)
    return convs + _dense(embedding, outputs) + skip


def _attention(channels: int, rows: int) -> int:
    products = 2 * 2 * rows * rows * channels
    return _conv(channels, 4 * channels, 1, rows) + products


def evaluation_flops(model: crystal_unet.CrystalUNet, rows: int) -> int:
    """Of one evaluation of the network for one sample, its conditions encoded."""
    width = 4 * model.channels
    widths = [model.channels * multiplier for multiplier in model.channel_multipliers]
    total = _dense(model.channels, width) + _dense(width, width)
    h = model.channels
    total += _conv(3 + model.site_features, h, 3, rows)

    def block(inputs: int, level: int) -> int:
        at_level = rows // 2**level
        flops = _res_block(inputs, widths[level], width, at_level)
        if 2**level in model.attention_levels:
            flops += _attention(widths[level], at_level)
        return flops

    skips = [h]
    last = len(widths) - 1
    for level in range(len(widths)):
        for _ in range(model.num_res_blocks):
            total += block(h, level)
            h = widths[level]
            skips.append(h)
        if level < last:
            total += _conv(h, h, 3, rows // 2 ** (level + 1))
            skips.append(h)
    total += 2 * _res_block(h, h, width, rows // 2**last)
    total += _attention(h, rows // 2**last)
    for level in reversed(range(len(widths))):
        for _ in range(model.num_res_blocks + 1):
            total += block(h + skips.pop(), level)
            h = widths[level]
        if level > 0:
            total += _conv(h, h, 3, rows // 2 ** (level - 1))
    return total + _conv(h, 3, 3, rows)


def encoding_flops(model: crystal_unet.CrystalUNet, rows: int) -> int:
    """Of encoding the conditions of one sample."""
    features = encoders.element_features(model.element_properties).shape[1]
    space_group = encoders.SpaceGroupEncoder.channels
    total, inputs = 0, symmetry.MAX_OPERATIONS
    for size, outputs in zip((3, 2, 1), space_group, strict=True):
        total += _conv(inputs, outputs, 4, size * size)
        inputs = outputs
    inputs, length = features, model.element_rows
    for outputs in model.element_channels:
        length -= 2
        total += _conv(inputs, outputs, 3, length)
        inputs = outputs
    embedding = encoders.ElementEncoder.features
    total += _dense(inputs * length, embedding)
    condition = 1 + space_group[-1] + embedding
    if model.source_rows:
        first, second = encoders.SourceEncoder.channels
        embedding = encoders.SourceEncoder.features
        total += _conv(model.source_rows, first, 2, 2) + _conv(first, second, 2, 1)
        total += _dense(second, embedding)
        condition += embedding
    if model.site_features:
        # Of the sites that the sample tensor holds, padding included.
        total += _conv(features, model.site_features, 1, rows - 4)
    return total + _dense(condition, 4 * model.channels)


def forward_flops(model: crystal_unet.CrystalUNet, rows: int) -> int:
    """Of the whole network for one sample."""
    return encoding_flops(model, rows) + evaluation_flops(model, rows)


def training_flops(model: crystal_unet.CrystalUNet, rows: int) -> int:
    """Of one sample in a training step: the gradient costs two forward passes."""
    return 3 * forward_flops(model, rows)


def peak_tflops(dtype: str) -> dict[str, float | str | None]:
    """What the first device can do at most, TFLOP/s, and how that is known.

    From the makers' figures for GPUs that are in the table. Otherwise, and on CPUs, the
    best of some products of square matrices on that one device.
    """
    device = jax.devices()[0]
    if device.platform != "cpu":
        for name, peaks in _PEAKS.items():
            found = re.search(rf"\b{name}\b", device.device_kind)
            if found and dtype in peaks:
                return {"tflops": peaks[dtype], "from": f"stated for {name}"}
    side = _MATMUL_SIDES["cpu" if device.platform == "cpu" else "gpu"]
    a = jnp.ones((side, side), dtype)
    product = jax.jit(jnp.matmul)
    product(a, a).block_until_ready()
    fastest = float("inf")
    for _ in range(_MATMUL_REPEATS):
        start = time.perf_counter()
        product(a, a).block_until_ready()
        fastest = min(fastest, time.perf_counter() - start)
    tflops = 2 * side**3 / fastest / 1e12
    return {"tflops": tflops, "from": f"measured product of {side}×{side} matrices"}
