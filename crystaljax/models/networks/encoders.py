"""Encoders of the conditions: elements, space group, source (paper section 4, fig. 2a).

A batch carries atomic numbers and space-group numbers only. What the encoders work on
(one-hots, properties, symmetry operations) is looked up on the device in tables
(`condition_tables`): a few bytes a sample travel instead of 44 kB.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer

from crystaljax.crystals import elements, sample_tensors, space_groups, structure
from crystaljax.models.networks import interface, layers
from crystaljax.system import errors


def element_features(properties: str) -> Float[np.ndarray, "numbers features"]:
    """One-hot and properties of every element; row = atomic number, row 0 = padding."""
    table = elements.load_element_properties(properties)
    features = np.concatenate([np.eye(len(table)), table], axis=1)
    return np.concatenate([np.zeros_like(features[:1]), features]).astype(np.float32)


def condition_tables(operations: str, properties: str) -> dict[str, np.ndarray]:
    """Tables by name, see `interface.Network.tables`.

    Args:
        operations: order of the operations of space groups, see
            `space_groups.load_space_group_operations`.
        properties: which table of element properties, "reference" or "scaled".

    Returns:
        "operations" (231, 4, 4, 192) of every space group, and "elements"
        (104, features) of every atomic number.
    """
    table = space_groups.load_space_group_operations(operations)
    return {
        "operations": np.moveaxis(table, 1, -1),
        "elements": element_features(properties),
    }


def look_up(network: nn.Module, name: str) -> Array:
    """A table of a network: an argument of the program if it was given as one."""
    if network.has_variable(interface.TABLES, name):
        return jnp.asarray(network.get_variable(interface.TABLES, name))
    return jnp.asarray(network.tables()[name])  # pyright: ignore


class ElementEncoder(nn.Module):
    """Embedding of the whole list of sites, by convolutions over the sites.

    Attributes:
        rows: sites are padded to this number, whatever the rows of the sample tensor.
        channels: of the three convolutions.
        features: width of the embedding.
    """

    rows: int = 64
    channels: tuple[int, ...] = (64, 128, 256)
    features: int = 256
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        atomic_numbers: Integer[Array, "batch sites"],
        table: Float[Array, "numbers features"],
    ) -> Float[Array, "batch {self.features}"]:
        """Encodes atomic numbers by a table of what is known of each.

        Raises:
            ValueError: more sites than the encoder has rows.
        """
        num_sites = atomic_numbers.shape[1]
        if num_sites > self.rows:
            raise errors.UserError(
                f"{num_sites} sites do not fit into the element encoder's {self.rows} "
                "rows; raise model.element_rows"
            )
        padded = jnp.pad(atomic_numbers, ((0, 0), (0, self.rows - num_sites)))
        h = table[padded].astype(self.dtype)
        for i, channels in enumerate(self.channels):
            h = layers.Conv1d(channels, padding=0, dtype=self.dtype, name=f"conv_{i}")(
                h
            )
            h = nn.gelu(h, approximate=False)
        # Channel-major, so that the reference's weights fit.
        h = jnp.swapaxes(h, 1, 2).reshape(h.shape[0], -1)
        return layers.dense(self.features, self.dtype, "dense")(h)


class SpaceGroupEncoder(nn.Module):
    """Embedding of a space group from its symmetry operations (Zhao et al. 2023).

    The 192 operations are channels of a 4×4 image, three convolutions of width 2.

    Attributes:
        channels: of the three convolutions.
    """

    channels: tuple[int, int, int] = (64, 128, 256)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        space_group: Integer[Array, " batch"],
        table: Float[Array, "numbers 4 4 operations"],
    ) -> Float[Array, "batch features"]:
        """Encodes numbers of space groups by a table of their operations."""
        h = table[space_group].astype(self.dtype)
        for i, channels in enumerate(self.channels):
            size = h.shape[1] - 1
            patches = [
                h[:, row : row + size, column : column + size]
                for row in range(2)
                for column in range(2)
            ]
            h = jnp.concatenate(patches, axis=-1)
            h = layers.dense(channels, self.dtype, f"conv_{i}")(h)
            h = nn.leaky_relu(h, 0.2)
        return h.reshape(h.shape[0], -1)


class SourceEncoder(nn.Module):
    """Embedding of the crystal to be modified, as in Palette (Saharia et al. 2022).

    The rows of the sample tensor are channels of convolutions over its three columns.

    Attributes:
        rows: the source is padded to this number, whatever the rows of the sample
            tensor; the lattice stays in the last three.
        channels: of the two convolutions, of width 2.
        features: width of the embedding.
    """

    rows: int = structure.PAPER_ROWS
    channels: tuple[int, int] = (128, 256)
    features: int = 256
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, source: Float[Array, "batch rows_in 3"]
    ) -> Float[Array, "batch {self.features}"]:
        """Encodes a sample tensor in the network's units.

        Raises:
            ValueError: more rows than the encoder has.
        """
        gap = self.rows - source.shape[1]
        if gap < 0:
            raise errors.UserError(
                f"a source of {source.shape[1]} rows does not fit into the source "
                f"encoder's {self.rows} rows; raise model.source_rows"
            )
        sites = source[:, : -structure.NUM_LATTICE_ROWS]
        sites = jnp.pad(sites, ((0, 0), (0, gap), (0, 0)))
        rows = jnp.concatenate([sites, sample_tensors.lattice_rows(source)], axis=1)
        h = jnp.swapaxes(rows, 1, 2).astype(self.dtype)
        for i, channels in enumerate(self.channels):
            h = layers.Conv1d(
                channels, width=2, padding=0, dtype=self.dtype, name=f"conv_{i}"
            )(h)
            h = nn.gelu(h, approximate=False)
        # Two convolutions of width 2 leave one of the three columns.
        return layers.dense(self.features, self.dtype, "dense")(h[:, 0])
