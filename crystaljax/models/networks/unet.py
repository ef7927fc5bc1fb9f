"""The 1-D UNet over the rows of the sample tensor (paper section 4, figure 2b)."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from crystaljax.models.networks import layers
from crystaljax.system import errors


class UNet(nn.Module):
    """UNet of residual blocks and attention, given an embedding.

    Per level ``num_res_blocks`` times a residual block with attention, then half the
    rows; the way up mirrors it with one block more per level and skip connections.

    Attributes:
        features: output channels.
        channels: channels of the first level.
        channel_multipliers: channels of each level, in multiples of ``channels``.
        num_res_blocks: residual blocks a level.
        attention_levels: downsampling rates (1, 2, 4, …) of the levels with attention.
        norm_groups: groups of every GroupNorm. In a group of one channel the embedding,
            which is the same in all rows, is normalised away: keep fewer groups than
            ``channels``.
        convolution: formulation of the convolutions, see `layers.Conv1d`.
        attention: formulation of the attention, see `layers.Attention`.
        rematerialize: compute the insides of the blocks again in the backward pass
            instead of keeping them.
        dtype: of the arithmetic.
    """

    features: int = 3
    channels: int = 128
    channel_multipliers: tuple[int, ...] = (1, 2, 4, 8)
    num_res_blocks: int = 7
    attention_levels: tuple[int, ...] = (1, 2, 4, 8)
    norm_groups: int = 32
    convolution: str = "auto"
    attention: str = "auto"
    rematerialize: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch rows in_features"],
        embedding: Float[Array, "batch width"],
    ) -> Float[Array, "batch rows {self.features}"]:
        """Applies the network.

        Raises:
            ValueError: the rows cannot be halved once per level, or the channels not be
                split into groups.
        """
        if self.channels % self.norm_groups:
            raise errors.UserError(
                f"{self.channels} channels cannot be split into {self.norm_groups} "
                "groups; choose model.norm_groups among the divisors of model.channels"
            )
        num_levels = len(self.channel_multipliers)
        if x.shape[1] % 2 ** (num_levels - 1):
            raise errors.UserError(
                f"{x.shape[1]} rows cannot be halved {num_levels - 1} times; use a "
                f"multiple of {2 ** (num_levels - 1)} or fewer channel_multipliers"
            )

        res_block_class, attention_class = layers.ResBlock, layers.Attention
        if self.rematerialize:
            res_block_class = nn.remat(res_block_class)
            attention_class = nn.remat(attention_class)

        def res_block(width, name):
            return res_block_class(
                width, self.norm_groups, self.dtype, self.convolution, name=name
            )

        def attention(name):
            return attention_class(
                self.norm_groups, self.dtype, self.attention, name=name
            )

        def block(h, level, multiplier, name):
            width = multiplier * self.channels
            h = res_block(width, f"{name}_res")(h, embedding)
            if 2**level in self.attention_levels:
                h = attention(f"{name}_attention")(h)
            return h

        h = layers.Conv1d(
            self.channels,
            dtype=self.dtype,
            formulation=self.convolution,
            name="conv_in",
        )(x)
        skips = [h]
        for level, multiplier in enumerate(self.channel_multipliers):
            for i in range(self.num_res_blocks):
                h = block(h, level, multiplier, f"down_{level}_{i}")
                skips.append(h)
            if level < num_levels - 1:
                h = layers.Downsample(
                    self.dtype, self.convolution, name=f"downsample_{level}"
                )(h)
                skips.append(h)

        width = self.channel_multipliers[-1] * self.channels
        h = res_block(width, "middle_0_res")(h, embedding)
        h = attention("middle_attention")(h)
        h = res_block(width, "middle_1_res")(h, embedding)

        for level, multiplier in reversed(list(enumerate(self.channel_multipliers))):
            for i in range(self.num_res_blocks + 1):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = block(h, level, multiplier, f"up_{level}_{i}")
            if level > 0:
                h = layers.Upsample(
                    self.dtype, self.convolution, name=f"upsample_{level}"
                )(h)

        h = nn.silu(layers.group_norm(self.norm_groups, self.dtype, "norm_out")(h))
        h = layers.Conv1d(
            self.features,
            kernel_init=layers.zeros_init,
            dtype=self.dtype,
            formulation=self.convolution,
            name="conv_out",
        )(h)
        return h.astype(jnp.float32)
