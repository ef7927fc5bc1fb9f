"""Floating-point operations: what a network needs, what a device can do.

`evaluation_flops` and `encoding_flops` count the matrix products and convolutions of
the network as it is defined (two operations per multiplication and addition), whatever
a compiler makes of them, so that shares of the peak can be compared.
"""

import math
import re
import time
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp

from crystaljax.models import initial
from crystaljax.models.networks import crystal_unet, interface

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


def evaluation_flops(model: interface.Network, rows: int) -> int:
    """Of one evaluation of the network for one sample, its conditions encoded."""
    return forward_flops(model, rows) - encoding_flops(model, rows)


def encoding_flops(model: interface.Network, rows: int) -> int:
    """Of encoding the conditions of one sample."""
    model = _in_products(model)

    def encode(params, x, t, *conditions):
        return model.apply(params, *conditions, method=model.encode_conditions)

    return _count_products(encode, model, rows)


def forward_flops(model: interface.Network, rows: int) -> int:
    """Of the whole network for one sample."""
    model = _in_products(model)
    return _count_products(model.apply, model, rows)


def training_flops(model: interface.Network, rows: int) -> int:
    """Of one sample in a training step: the gradient costs two forward passes."""
    return 3 * forward_flops(model, rows)


def _in_products(model: interface.Network) -> interface.Network:
    """The same network, with formulations that are products of matrices alone."""
    if isinstance(model, crystal_unet.CrystalUNet):
        return model.clone(
            convolution="unfold", attention="einsum", rematerialize=False
        )
    return model


def _count_products(apply_fn: Any, model: interface.Network, rows: int) -> int:
    """Operations in the products of matrices of a function of the network's input."""
    inputs = initial.example_inputs(model, rows)
    jaxpr = jax.make_jaxpr(apply_fn)(initial.param_shapes(model, rows), *inputs)
    return _count(jaxpr.jaxpr)


def _count(jaxpr: Any) -> int:
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            lengths = [equation.invars[0].aval.shape[axis] for axis in contracted]
            total += 2 * math.prod(equation.outvars[0].aval.shape + tuple(lengths))
        # The networks have no loops, and no convolutions but as products.
        assert equation.primitive.name not in ("scan", "while", "conv_general_dilated")
        total += sum(map(_count, jax.extend.core.jaxprs_in_params(equation.params)))
    return total


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
