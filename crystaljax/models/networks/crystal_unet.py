"""The conditional network: encoders, time embedding and UNet in one module."""

from typing import Any

import flax.linen as nn
import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from crystaljax.crystals import sample_tensors
from crystaljax.models.networks import encoders, layers, unet
from crystaljax.system import errors


@flax.struct.dataclass
class EncodedConditions:
    """Conditions as the UNet takes them; they depend on neither time nor x.

    Attributes:
        embedding: (batch, 4 · channels), added to the embedding of time.
        sites: (batch, sites, width) features of each site's element, or None.
    """

    embedding: Any
    sites: Any


class CrystalUNet(nn.Module):
    """UNet conditioned on elements, space group and energy (paper figure 2).

    At the paper's settings, the defaults, it has 304,781,763 parameters. Given
    ``source_rows`` it is conditioned on a source crystal too.

    Attributes:
        channels, channel_multipliers, num_res_blocks, attention_levels, norm_groups,
            convolution, attention, rematerialize: of the UNet.
        space_group_operations: their order, "sorted" or "reference" (as the paper's
            code has them).
        element_properties: "reference" (as the paper's code has them) or "scaled".
        element_rows: sites that the element encoder sees.
        element_channels: of the element encoder's convolutions.
        site_features: width of an embedding of each site's element that is given to
            the UNet at the site's row; 0 as in the paper.
        source_rows: rows of the source crystal that its encoder sees; 0: there is no
            such encoder, and a given source is ignored.
        time_scale: times are multiplied by this before the sinusoids.
        dtype: of the arithmetic.
    """

    channels: int = 128
    channel_multipliers: tuple[int, ...] = (1, 2, 4, 8)
    num_res_blocks: int = 7
    attention_levels: tuple[int, ...] = (1, 2, 4, 8)
    norm_groups: int = 32
    space_group_operations: str = "sorted"
    element_properties: str = "reference"
    element_rows: int = 64
    element_channels: tuple[int, ...] = (64, 128, 256)
    site_features: int = 0
    source_rows: int = 0
    time_scale: float = 1.0
    convolution: str = "auto"
    attention: str = "auto"
    rematerialize: bool = False
    dtype: Any = jnp.float32

    @property
    def num_templates(self) -> int:
        """It takes none."""
        return 0

    @property
    def estimator_depth(self) -> int:
        """It has no estimator."""
        return 0

    def setup(self):
        """Declares the parts."""
        width = 4 * self.channels
        self.time_in = layers.dense(width, self.dtype, None)
        self.time_out = layers.dense(width, self.dtype, None)
        self.condition = layers.dense(width, self.dtype, None)
        self.space_group_encoder = encoders.SpaceGroupEncoder(dtype=self.dtype)
        self.element_encoder = encoders.ElementEncoder(
            rows=self.element_rows,
            channels=self.element_channels,
            dtype=self.dtype,
        )
        if self.source_rows:
            self.source_encoder = encoders.SourceEncoder(
                rows=self.source_rows, dtype=self.dtype
            )
        if self.site_features:
            self.site_encoder = layers.dense(self.site_features, self.dtype, None)
        self.unet = unet.UNet(
            channels=self.channels,
            channel_multipliers=self.channel_multipliers,
            num_res_blocks=self.num_res_blocks,
            attention_levels=self.attention_levels,
            norm_groups=self.norm_groups,
            convolution=self.convolution,
            attention=self.attention,
            rematerialize=self.rematerialize,
            dtype=self.dtype,
        )

    @nn.nowrap
    def tables(self) -> dict[str, Any]:
        """See `interface.Network`."""
        return encoders.condition_tables(
            self.space_group_operations, self.element_properties
        )

    def encode_conditions(
        self,
        atomic_numbers: Integer[Array, "batch sites"],
        space_group: Integer[Array, " batch"],
        energy: Float[Array, " batch"],
        source: Float[Array, "batch rows 3"] | None = None,
        templates: sample_tensors.TemplateBatch | None = None,
    ) -> EncodedConditions:
        """Encodes the conditions once for all times.

        Args:
            atomic_numbers: of the sites, 0 where there is none.
            space_group: 1-230.
            energy: as the network was trained with it (eV/atom, or scaled).
            source: sample tensor of the crystal to be modified, scaled likewise.
            templates: ignored.

        Raises:
            ValueError: the network has a source encoder, and there is no source; or
                the conditions have more sites or rows than their encoders.
        """
        del templates
        elements = encoders.look_up(self, "elements")
        parts = [
            energy[:, None].astype(self.dtype),
            self.space_group_encoder(space_group, encoders.look_up(self, "operations")),
            self.element_encoder(atomic_numbers, elements),
        ]
        if self.source_rows:
            if source is None:
                raise errors.UserError(
                    f"the network has a source encoder (model.source_rows="
                    f"{self.source_rows}), but no source crystals were given; give "
                    "them, or use a network with model.source_rows=0"
                )
            parts.append(self.source_encoder(source))
        vector = jnp.concatenate(parts, axis=-1)
        sites = None
        if self.site_features:
            sites = self.site_encoder(elements[atomic_numbers].astype(self.dtype))
            sites = jnp.where(atomic_numbers[..., None] > 0, sites, 0)
        return EncodedConditions(self.condition(vector), sites)

    def predict(
        self,
        x: Float[Array, "batch rows 3"],
        t: Float[Array, " batch"],
        encoded: EncodedConditions,
    ) -> Float[Array, "batch rows 3"]:
        """What the process asks for at ``x`` and time ``t``; float32."""
        time = layers.time_embedding(self.time_scale * t, self.channels)
        time = time.astype(self.dtype)
        time = self.time_out(nn.silu(self.time_in(time)))
        if encoded.sites is not None:
            gap = x.shape[1] - encoded.sites.shape[1]
            sites = jnp.pad(encoded.sites, ((0, 0), (0, gap), (0, 0)))
            x = jnp.concatenate([x.astype(self.dtype), sites], axis=-1)
        return self.unet(x, time + encoded.embedding)

    def __call__(
        self,
        x: Float[Array, "batch rows 3"],
        t: Float[Array, " batch"],
        atomic_numbers: Integer[Array, "batch sites"],
        space_group: Integer[Array, " batch"],
        energy: Float[Array, " batch"],
        source: Float[Array, "batch rows 3"] | None = None,
        templates: sample_tensors.TemplateBatch | None = None,
    ) -> Float[Array, "batch rows 3"]:
        """Encodes the conditions and predicts."""
        del templates
        encoded = self.encode_conditions(atomic_numbers, space_group, energy, source)
        return self.predict(x, t, encoded)
