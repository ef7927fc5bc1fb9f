"""Blocks of transformers over the sites of a crystal."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from crystaljax.models.networks import layers


class Block(nn.Module):
    """Attention over the tokens and a perceptron, modulated by an embedding.

    The modulation starts at zero (adaLN-Zero, Peebles & Xie 2023), so that blocks start
    as the identity.
    """

    num_heads: int
    expansion: int = 4
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        h: Float[Array, "batch tokens width"],
        embedding: Float[Array, "batch width"],
        pairs: Float[Array, "batch tokens tokens features"],
        mask: Array,
    ) -> Float[Array, "batch tokens width"]:
        """Applies the block; ``mask`` (batch, tokens) is False where no token is."""
        width = h.shape[-1]
        modulation = layers.dense(6 * width, self.dtype, "modulation")(embedding)
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = jnp.split(
            modulation[:, None], 6, axis=-1
        )

        def normalize(h, scale, shift):
            norm = nn.LayerNorm(use_bias=False, use_scale=False, dtype=self.dtype)
            return norm(h) * (1 + scale) + shift

        a = normalize(h, scale_1, shift_1)
        qkv = layers.dense(3 * width, self.dtype, "qkv")(a)
        heads = (*qkv.shape[:2], 3, self.num_heads, width // self.num_heads)
        q, k, v = jnp.moveaxis(qkv.reshape(heads), (2, 3), (0, 2))
        logits = q @ jnp.swapaxes(k, -1, -2) * heads[-1] ** -0.5
        bias = layers.dense(self.num_heads, self.dtype, "pair_bias")(pairs)
        logits = (logits + jnp.moveaxis(bias, -1, 1)).astype(jnp.float32)
        logits = jnp.where(mask[:, None, None, :], logits, -1e9)
        weights = jax.nn.softmax(logits, axis=-1).astype(self.dtype)
        values = jnp.moveaxis(weights @ v, 1, 2).reshape(h.shape)
        # What each head sees of the geometry around a token.
        around = jnp.moveaxis(weights, 1, 2) @ pairs
        around = around.reshape(*h.shape[:2], -1)
        attended = layers.dense(width, self.dtype, "attention_out")(
            jnp.concatenate([values, around], axis=-1)
        )
        drop = nn.Dropout(self.dropout, deterministic=not self.has_rng("dropout"))
        h = h + gate_1 * drop(attended)

        m = normalize(h, scale_2, shift_2)
        m = nn.silu(layers.dense(self.expansion * width, self.dtype, "mlp_in")(m))
        return h + gate_2 * drop(layers.dense(width, self.dtype, "mlp_out")(m))
