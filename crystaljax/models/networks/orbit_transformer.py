"""A transformer over the orbits of a crystal in the standard setting of its group.

One token per orbit and one for the lattice. The state is a tensor like that of sites
(`sample_tensors`): a row per orbit with its free parameters, a row of padding, and the
strains in the first two of the three lattice rows. All sites are seen in the geometry
between tokens: what an orbit is surrounded by is summed over the sites of the others.
"""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer

from crystaljax.crystals import (
    environments,
    orbits,
    sample_tensors,
    standard_groups,
)
from crystaljax.models.networks import blocks, encoders, layers

# Species of a formula in the order of `standard_choice.species_order`, and orbits of
# one species and position, that get an embedding of their own.
_NUM_ROLES = 4
_NUM_PLACES = 8
# Sites at most of a one-hot number of sites.
_MAX_SITES = 64
# Distances, in units of the cube root of the volume of an atom.
_RADII = np.arange(0.2, 2.3, 0.2)
# Unit of strains: the first changes the volume alone, which is known better.
STRAIN_UNITS = np.array([0.2, *[0.5] * (standard_groups.MAX_STRAINS - 1)], np.float32)


@flax.struct.dataclass
class SourceConditions:
    """A crystal of the same formula that the wanted one is a polymorph of.

    Attributes:
        environments: (batch, orbits, features), of the source's sites of each orbit's
            species, `environments.describe`.
        fill: (batch,), of its volume, `environments.fill`.
        space_group: (batch,), 1-230.
        energy_difference: (batch,), of the wanted crystal less that of the source, in
            the network's unit.
        exists: bool (batch,), False where nothing is modified.
    """

    environments: Any
    fill: Any
    space_group: Any
    energy_difference: Any
    exists: Any


@flax.struct.dataclass
class OrbitConditions:
    """Which crystal is wanted: all but free parameters and lattice.

    Attributes:
        space_group: (batch,), 1-230.
        atomic_numbers: (batch, orbits); 0 where there is no orbit.
        positions: (batch, orbits), Wyckoff position plus 1; 0 where there is no orbit.
        anchor: (batch,), the orbit that fixes the origin along polar directions.
        energy: (batch,), in the network's unit.
        has_site: (batch, sites), True where the cell has a site. Its width is that of
            all arrays of sites.
        source: `SourceConditions` where crystals are modified, else None.
    """

    space_group: Any
    atomic_numbers: Any
    positions: Any
    anchor: Any
    energy: Any
    has_site: Any
    source: Any = None


@flax.struct.dataclass
class EncodedOrbits:
    """Conditions as the network takes them; they depend on neither time nor x.

    Attributes:
        embedding: (batch, width), of the whole crystal.
        tokens: (batch, orbits, width).
        exists: (batch, orbits).
        multiplicity: (batch, orbits), sites of each orbit.
        layout: of all sites.
        member: (batch, sites, orbits), 1 where a site is of an orbit.
        strains: (batch, 6, 3, 3), of the group.
        root: (batch, 3, 3), of the group's reference metric.
    """

    embedding: Any
    tokens: Any
    exists: Any
    multiplicity: Any
    layout: orbits.SiteLayout
    member: Any
    strains: Any
    root: Any


def free_components(
    tables: orbits.OrbitTables, conditions: OrbitConditions
) -> Float[Array, "batch rows 3"]:
    """1 where the state is free, with a row of padding and three of the lattice."""
    group = jnp.asarray(conditions.space_group).astype(jnp.int32)
    free = orbits.free_mask(tables, group, conditions.positions)
    number = jnp.arange(free.shape[1])
    is_anchor = number == jnp.asarray(conditions.anchor)[:, None]
    is_polar = jnp.arange(3) < jnp.asarray(tables.num_polar)[group][:, None]
    free = jnp.where(is_anchor[..., None] & is_polar[:, None], 0, free)
    exists = (jnp.asarray(tables.strains)[group] != 0).any(axis=(2, 3))
    lattice = exists.astype(jnp.float32).reshape(-1, 2, 3)
    none = jnp.zeros((len(free), 1, 3))
    return jnp.concatenate([free, none, lattice, none], axis=1)


def roles_of(
    atomic_numbers: Integer[Array | np.ndarray, "*batch orbits"],
) -> Integer[Array, "*batch orbits"]:
    """Which of its crystal's species each orbit is of.

    Orbits are in the order of species: a new one begins where elements change.
    """
    numbers = jnp.asarray(atomic_numbers)
    changes = (numbers[..., 1:] != numbers[..., :-1]) & (numbers[..., 1:] > 0)
    widths = [(0, 0)] * (numbers.ndim - 1) + [(1, 0)]
    return jnp.pad(jnp.cumsum(changes, axis=-1), widths)


def pack(
    parameters: Float[Array, "batch orbits 3"], strain: Float[Array, "batch 6"]
) -> Float[Array, "batch rows 3"]:
    """Parameters, and strains in their unit, as a state."""
    none = jnp.zeros((len(parameters), 1, 3))
    rows = jnp.asarray(strain).reshape(-1, 2, 3)
    return jnp.concatenate([jnp.asarray(parameters), none, rows, none], axis=1)


def unpack(
    x: Float[Array, "batch rows 3"],
) -> tuple[Float[Array, "batch orbits 3"], Float[Array, "batch 6"]]:
    """The inverse of `pack`."""
    strain = sample_tensors.lattice_rows(x)[:, :2]
    return sample_tensors.site_rows(x), strain.reshape(-1, 6)


class OrbitTransformer(nn.Module):
    """Answers with the data on the torus, `processes.directions`.

    Attributes:
        width, depth, num_heads: of the transformer.
        pair_features: of a pair of orbits.
        num_harmonics: of coordinates and parameters.
        dropout: share of what a block adds that is left out in training.
        time_scale: times are multiplied by this before the sinusoids.
        modifies: look at source crystals. What they add is 0 before training, so that
            a network which makes crystals can go on learning from them.
        dtype: of the arithmetic.
    """

    width: int = 128
    depth: int = 6
    num_heads: int = 4
    pair_features: int = 16
    num_harmonics: int = 4
    dropout: float = 0.0
    time_scale: float = 1000.0
    modifies: bool = False
    dtype: Any = jnp.float32

    def setup(self):
        """Declares the parts."""
        width, dtype = self.width, self.dtype

        def dense(features):
            return layers.dense(features, dtype, None)

        self.element_in, self.place, self.token_out = map(dense, [width] * 3)
        self.condition_in, self.condition_out = dense(2 * width), dense(width)
        self.time_in, self.time_out = dense(width), dense(width)
        self.state, self.strain_in = dense(width), dense(width)
        self.pair_in = dense(2 * self.pair_features)
        self.pair_out = dense(self.pair_features)
        self.blocks = [
            blocks.Block(self.num_heads, dropout=self.dropout, dtype=dtype)
            for _ in range(self.depth)
        ]
        self.norm = nn.LayerNorm(use_bias=False, use_scale=False, dtype=dtype)
        self.modulation = layers.dense(2 * width, dtype, "modulation")
        self.directions, self.strain_out = dense(6), dense(6)
        if self.modifies:
            self.surroundings_in, self.source_in = dense(width), dense(width)
            self.surroundings_out, self.source_out = (
                layers.dense(width, dtype, None, layers.zeros_init) for _ in range(2)
            )

    def encode_conditions(
        self, conditions: OrbitConditions, tables: orbits.OrbitTables
    ) -> EncodedOrbits:
        """Encodes the conditions once for all times."""
        dtype, one_hot = self.dtype, jax.nn.one_hot
        group = jnp.asarray(conditions.space_group).astype(jnp.int32)
        numbers = jnp.asarray(conditions.atomic_numbers).astype(jnp.int32)
        positions = jnp.asarray(conditions.positions).astype(jnp.int32)
        exists = positions > 0
        multiplicity = jnp.asarray(tables.multiplicity)[group[:, None], positions]
        width = conditions.has_site.shape[1]
        layout = orbits.lay_out(tables, group, positions, width)
        member = one_hot(layout.orbit, positions.shape[1])
        first = jnp.asarray(tables.first)[group[:, None], positions]
        linear = jnp.asarray(tables.linear)[first].astype(jnp.float32)
        offset = jnp.asarray(tables.offsets)[first]
        free = free_components(tables, conditions)[:, : positions.shape[1]]
        role = roles_of(numbers)
        same = (numbers[:, :, None] == numbers[:, None]) & (
            positions[:, :, None] == positions[:, None]
        )
        place = jnp.tril(same, -1).sum(axis=-1)
        size = jnp.maximum(multiplicity, 1).astype(jnp.float32)[..., None]
        angles = 2 * jnp.pi * offset
        about = [
            one_hot(positions - 1, standard_groups.MAX_POSITIONS),
            one_hot(jnp.minimum(place, _NUM_PLACES - 1), _NUM_PLACES),
            one_hot(jnp.minimum(role, _NUM_ROLES - 1), _NUM_ROLES),
            free,
            jnp.log(size),
            size / 8,
            linear.reshape(*positions.shape, 9),
            *(fn(k * angles) for fn in (jnp.cos, jnp.sin) for k in (1, 2)),
        ]
        features = jnp.asarray(encoders.element_features("scaled"))[numbers]
        tokens = self.element_in(features.astype(dtype)) + self.place(
            jnp.concatenate(about, axis=-1).astype(dtype)
        )
        tokens = self.token_out(nn.silu(tokens))
        if self.modifies:
            tokens += self._describe_surroundings(conditions)
        tokens *= exists[..., None]
        num_sites = multiplicity.sum(axis=-1)
        pooled = (tokens * multiplicity[..., None]).sum(axis=1)
        pooled = pooled / jnp.maximum(num_sites, 1)[:, None]
        strains = jnp.asarray(tables.strains)[group]
        projector = jnp.einsum("bkij,bklm->bijlm", strains, strains)
        angles = conditions.energy[:, None] * (jnp.pi * 2.0 ** jnp.arange(-2, 3))
        parts = [
            conditions.energy[:, None],
            jnp.sin(angles),
            jnp.cos(angles),
            one_hot(group, 231),
            one_hot(num_sites - 1, _MAX_SITES),
            projector.reshape(-1, 81),
            pooled,
        ]
        vector = jnp.concatenate([part.astype(dtype) for part in parts], axis=-1)
        embedding = self.condition_out(nn.silu(self.condition_in(vector)))
        if self.modifies:
            embedding += self._describe_source(conditions)
        return EncodedOrbits(
            embedding,
            tokens,
            exists,
            multiplicity,
            layout,
            member,
            strains,
            jnp.asarray(tables.root)[group],
        )

    def _describe_surroundings(self, conditions):
        """(batch, orbits, width): what the source has around each orbit's species."""
        source = conditions.source
        hidden = self.surroundings_in(jnp.asarray(source.environments, self.dtype))
        exists = jnp.asarray(source.exists)[:, None, None]
        return self.surroundings_out(nn.silu(hidden)) * exists

    def _describe_source(self, conditions):
        """(batch, width): the source as a whole."""
        source = conditions.source
        difference = jnp.asarray(source.energy_difference)[:, None]
        wanted = jnp.asarray(conditions.space_group).astype(jnp.int32)
        group = jnp.asarray(source.space_group).astype(jnp.int32)
        parts = [
            jnp.asarray(source.fill)[:, None],
            # Most are far below a deviation, and some a few.
            difference,
            jnp.tanh(difference / jnp.array([0.03, 0.1, 0.3])),
            jax.nn.one_hot(group, 231),
            (group == wanted)[:, None],
        ]
        vector = jnp.concatenate([part.astype(self.dtype) for part in parts], axis=-1)
        exists = jnp.asarray(source.exists)[:, None]
        return self.source_out(nn.silu(self.source_in(vector))) * exists

    def predict(
        self,
        x: Float[Array, "batch rows 3"],
        t: Float[Array, " batch"],
        encoded: EncodedOrbits,
    ) -> Float[Array, "batch rows 6"]:
        """The data that ``x`` at time ``t`` is on its way to; float32."""
        dtype = self.dtype
        parameters, strain = unpack(x)
        matrix = jnp.einsum("bk,bkij->bij", strain * STRAIN_UNITS, encoded.strains)
        time = layers.time_embedding(self.time_scale * t, self.width)
        time = self.time_out(nn.silu(self.time_in(time.astype(dtype))))
        embedding = nn.silu(time + encoded.embedding)
        coords = orbits.expand_sites(encoded.layout, parameters)
        # The first site of each orbit.
        is_first = jnp.cumsum(encoded.member, axis=1) * encoded.member == 1
        own = jnp.einsum("bso,bsd->bod", is_first.astype(jnp.float32), coords)
        state = jnp.concatenate([_harmonics(own, 4), _harmonics(parameters, 4)], -1)
        tokens = encoded.tokens + self.state(state.astype(dtype))
        cell = self.strain_in(matrix.reshape(-1, 9).astype(dtype))
        h = jnp.concatenate([tokens, cell[:, None]], axis=1)
        mask = jnp.pad(encoded.exists, ((0, 0), (0, 1)), constant_values=True)
        pairs = self._describe_pairs(encoded, own, coords, matrix)
        pairs = jnp.pad(pairs, ((0, 0), (0, 1), (0, 1), (0, 0)))
        for block in self.blocks:
            h = block(h, embedding, pairs, mask)
        shift, scale = jnp.split(self.modulation(embedding)[:, None], 2, axis=-1)
        h = self.norm(h) * (1 + scale) + shift
        answer = self.directions(h[:, :-1]).astype(jnp.float32)
        entries = self.strain_out(h[:, -1]).astype(jnp.float32)
        upper = jnp.zeros((len(x), 3, 3)).at[:, *np.triu_indices(3)].set(entries)
        symmetric = (upper + jnp.swapaxes(upper, 1, 2)) / 2
        rows = jnp.einsum("bij,bkij->bk", symmetric, encoded.strains)
        return (
            jnp.pad(pack(answer[..., :3], rows), ((0, 0), (0, 0), (0, 3)))
            .at[:, : answer.shape[1], 3:]
            .set(answer[..., 3:])
        )

    def _describe_pairs(self, encoded, own, coords, matrix):
        """(batch, orbits, orbits, pair_features), of the sites of the second."""
        apart = own[:, :, None] - coords[:, None]
        apart = apart - jnp.round(apart)
        half = orbits.exponential(matrix / 2) @ encoded.root
        cartesian = jnp.einsum("bij,bosj->bosi", half, apart)
        num_sites = encoded.multiplicity.sum(axis=-1).astype(jnp.float32)
        distance = jnp.sqrt(jnp.sum(cartesian**2, axis=-1) + 1e-6)
        distance = distance * jnp.cbrt(num_sites)[:, None, None]
        near = jnp.exp(-(((distance[..., None] - _RADII) / 0.2) ** 2))
        waves = _harmonics(apart, self.num_harmonics)
        size = jnp.maximum(encoded.multiplicity, 1)[:, None, :, None]
        features = jnp.concatenate(
            [
                jnp.einsum("bosf,bsp->bopf", waves, encoded.member) / size,
                jnp.einsum("bosf,bsp->bopf", near, encoded.member),
            ],
            axis=-1,
        )
        return self.pair_out(nn.silu(self.pair_in(features.astype(self.dtype))))

    def __call__(
        self,
        x: Float[Array, "batch rows 3"],
        t: Float[Array, " batch"],
        conditions: OrbitConditions,
        tables: orbits.OrbitTables,
    ) -> Float[Array, "batch rows 6"]:
        """Encodes the conditions and predicts."""
        return self.predict(x, t, self.encode_conditions(conditions, tables))


def example_inputs(modifies: bool = False) -> tuple[Any, ...]:
    """What a network is applied to, for one crystal of one site."""
    source = SourceConditions(
        jnp.zeros((1, 1, environments.NUM_FEATURES)),
        jnp.zeros(1),
        jnp.ones(1, jnp.uint8),
        jnp.zeros(1),
        jnp.ones(1, bool),
    )
    conditions = OrbitConditions(
        jnp.ones(1, jnp.uint8),
        jnp.ones((1, 1), jnp.uint8),
        jnp.ones((1, 1), jnp.uint8),
        jnp.zeros(1, jnp.int32),
        jnp.zeros(1),
        jnp.ones((1, 1), bool),
        source if modifies else None,
    )
    return jnp.zeros((1, 5, 3)), jnp.zeros(1), conditions, orbits.load_tables()


def _harmonics(x: Array, count: int) -> Array:
    """Cosines and sines of coordinates in periods, (..., 6 · count)."""
    angles = x[..., None] * (2 * jnp.pi * jnp.arange(1, count + 1))
    waves = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
    return waves.reshape(*x.shape[:-1], -1)
