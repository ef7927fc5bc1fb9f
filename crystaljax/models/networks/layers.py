"""Building blocks of the 1-D UNet (paper section 4; Nichol & Dhariwal 2021).

Tensors are ``(batch, rows, channels)``. Parameters are float32; ``dtype`` is what the
arithmetic runs in.
"""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# PyTorch's default for Linear and Conv: uniform within ±1/√fan_in.
uniform_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
zeros_init = nn.initializers.zeros
# Layers whose kernels start at zero, so that blocks start as the identity.
ZERO_KERNELS = (
    "conv_out",
    "projection",
    "modulation",
    "templates_of_site",
    "templates_of_cell",
    "surroundings_out",
    "source_out",
)


# What "auto" stands for on each kind of device, by measurement; on others as on CPUs.
# On CPUs "unfold" was measured (experiments/throughput). On GPUs both are those of
# CPUs, until a run of experiments/gpu says otherwise: it names the fastest.
AUTO = {
    "cpu": {"convolution": "unfold", "attention": "einsum"},
    "gpu": {"convolution": "unfold", "attention": "einsum"},
}


def resolve_auto(part: str, formulation: str) -> str:
    """The formulation of "convolution" or "attention" that "auto" stands for here."""
    if formulation != "auto":
        return formulation
    return AUTO.get(jax.default_backend(), AUTO["cpu"])[part]


class Conv1d(nn.Module):
    """Convolution over the rows, in one of several formulations with equal parameters.

    "unfold" lays the shifted copies of the input side by side and multiplies once;
    "shift" adds up one product for each of them, without the copy; "xla" is the
    backend's own convolution, 18 times slower at 16 rows on CPUs. "auto" is the fastest
    measured, see `AUTO`.

    Attributes:
        features: output channels.
        width: rows under the kernel.
        stride: distance between output rows.
        padding: zero rows added at both ends.
        formulation: one of `CONVOLUTIONS`.
    """

    features: int
    width: int = 3
    stride: int = 1
    padding: int = 1
    kernel_init: Any = uniform_init
    dtype: Any = jnp.float32
    formulation: str = "auto"

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch rows channels"]
    ) -> Float[Array, "batch out_rows features"]:
        """Convolves."""
        kernel = self.param(
            "kernel",
            self.kernel_init,
            (self.width, x.shape[-1], self.features),
            jnp.float32,
        )
        bias = self.param("bias", zeros_init, (self.features,), jnp.float32)
        kernel, bias = kernel.astype(self.dtype), bias.astype(self.dtype)
        convolve_fn = _CONVOLVE_FNS[resolve_auto("convolution", self.formulation)]
        return bias + convolve_fn(
            x.astype(self.dtype), kernel, self.stride, self.padding
        )


def _shifted(x, width, stride, padding):
    """The rows under each row of the kernel."""
    x = jnp.pad(x, ((0, 0), (padding, padding), (0, 0)))
    last = x.shape[1] - width
    return [x[:, i : last + i + 1 : stride] for i in range(width)]


def _convolve_unfolded(x, kernel, stride, padding):
    shifted = _shifted(x, kernel.shape[0], stride, padding)
    unfolded = jnp.concatenate(shifted, axis=-1) if len(shifted) > 1 else shifted[0]
    return unfolded @ kernel.reshape(-1, kernel.shape[-1])


def _convolve_shifted(x, kernel, stride, padding):
    shifted = _shifted(x, kernel.shape[0], stride, padding)
    return sum(part @ kernel[i] for i, part in enumerate(shifted))


def _convolve_xla(x, kernel, stride, padding):
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride,),
        padding=[(padding, padding)],
        dimension_numbers=("NWC", "WIO", "NWC"),
    )


_CONVOLVE_FNS = {
    "unfold": _convolve_unfolded,
    "shift": _convolve_shifted,
    "xla": _convolve_xla,
}
CONVOLUTIONS = ("auto", *_CONVOLVE_FNS)


def dense(features: int, dtype: Any, name: str | None, kernel_init: Any = uniform_init):
    """A linear layer with PyTorch's default initialisation."""
    return nn.Dense(features, dtype=dtype, kernel_init=kernel_init, name=name)


def group_norm(groups: int, dtype: Any, name: str) -> nn.GroupNorm:
    """GroupNorm over the rows; its statistics are in float32 whatever ``dtype`` is."""
    return nn.GroupNorm(num_groups=groups, epsilon=1e-5, dtype=dtype, name=name)


def time_embedding(
    t: Float[Array, " batch"], width: int
) -> Float[Array, "batch {width}"]:
    """Sinusoids of time: cosines, then sines, wavelengths from 2π to 20,000π."""
    half = width // 2
    frequencies = jnp.exp(-math.log(10000) * jnp.arange(half) / half)
    angles = t[:, None] * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class ResBlock(nn.Module):
    """Two convolutions with the embedding added in between, and a skip connection."""

    features: int
    norm_groups: int = 32
    dtype: Any = jnp.float32
    convolution: str = "auto"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch rows channels"],
        embedding: Float[Array, "batch width"],
    ) -> Float[Array, "batch rows features"]:
        """Applies the block."""
        channels = x.shape[-1]
        h = nn.silu(group_norm(self.norm_groups, self.dtype, "norm_in")(x))
        h = Conv1d(
            self.features,
            dtype=self.dtype,
            formulation=self.convolution,
            name="conv_in",
        )(h)
        shift = dense(self.features, self.dtype, "embedding")(nn.silu(embedding))
        h = h + shift[:, None, :]
        h = nn.silu(group_norm(self.norm_groups, self.dtype, "norm_out")(h))
        h = Conv1d(
            self.features,
            kernel_init=zeros_init,
            dtype=self.dtype,
            formulation=self.convolution,
            name="conv_out",
        )(h)
        if channels != self.features:
            x = dense(self.features, self.dtype, "skip")(x)
        return x.astype(self.dtype) + h


class Attention(nn.Module):
    """Self-attention over the rows, one head, residual.

    Formulations with equal parameters: "einsum", two products with a softmax in
    between; "xla", the same by `jax.nn.dot_product_attention`; "cudnn", its fused
    kernels of NVIDIA's cuDNN (half precision, where the head is not too wide for them,
    and "einsum" elsewhere). "auto" is the fastest measured, see `AUTO`.

    Attributes:
        norm_groups: of the GroupNorm before it.
        dtype: of the arithmetic.
        formulation: one of `ATTENTIONS`.
    """

    norm_groups: int = 32
    dtype: Any = jnp.float32
    formulation: str = "auto"

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch rows channels"]
    ) -> Float[Array, "batch rows channels"]:
        """Attends."""
        channels = x.shape[-1]
        h = group_norm(self.norm_groups, self.dtype, "norm")(x)
        q, k, v = jnp.split(dense(3 * channels, self.dtype, "qkv")(h), 3, axis=-1)
        attend_fn = _ATTEND_FNS[resolve_auto("attention", self.formulation)]
        h = attend_fn(q, k, v)
        return x + dense(channels, self.dtype, "projection", zeros_init)(h)


def _attend_einsum(q, k, v):
    # Scaling both factors keeps float16 products in range.
    scale = q.shape[-1] ** -0.25
    logits = jnp.einsum("bic,bjc->bij", q * scale, k * scale)
    weights = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
    return jnp.einsum("bij,bjc->bic", weights.astype(v.dtype), v)


def _attend_fused(implementation, q, k, v):
    # One head, which has an axis there.
    q, k, v = q[:, :, None], k[:, :, None], v[:, :, None]
    attended = jax.nn.dot_product_attention(q, k, v, implementation=implementation)
    return attended[:, :, 0]


def _attend_cudnn(q, k, v):
    # What JAX demands of heads: at most 256 wide from compute capability 9.0 (H100)
    # on, and 128 before.
    capability = getattr(jax.devices()[0], "compute_capability", "0")
    widest = 256 if float(capability) >= 9 else 128
    fits = q.shape[-1] <= widest and q.shape[-1] % 8 == 0
    return _attend_fused("cudnn", q, k, v) if fits else _attend_einsum(q, k, v)


_ATTEND_FNS = {
    "einsum": _attend_einsum,
    "xla": functools.partial(_attend_fused, "xla"),
    "cudnn": _attend_cudnn,
}
ATTENTIONS = ("auto", *_ATTEND_FNS)


class Downsample(nn.Module):
    """Halves the number of rows with a convolution of stride 2."""

    dtype: Any = jnp.float32
    convolution: str = "auto"

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch rows channels"]
    ) -> Float[Array, "batch half channels"]:
        """Convolves."""
        return Conv1d(
            x.shape[-1],
            stride=2,
            dtype=self.dtype,
            formulation=self.convolution,
            name="conv",
        )(x)


class Upsample(nn.Module):
    """Doubles the number of rows by repetition, then convolves."""

    dtype: Any = jnp.float32
    convolution: str = "auto"

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch rows channels"]
    ) -> Float[Array, "batch double channels"]:
        """Repeats and convolves."""
        x = jnp.repeat(x, 2, axis=1)
        return Conv1d(
            x.shape[-1], dtype=self.dtype, formulation=self.convolution, name="conv"
        )(x)
