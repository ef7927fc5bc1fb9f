"""A transformer over the sites of a crystal, in place of the paper's UNet.

One token per site and one for the lattice. Three things make it fit crystals where the
UNet does not: a site carries its element, and its place in the formula, in its own
token; coordinates enter as harmonics, so that the faces of the cell are no edges; and
attention sees every pair of sites at full resolution, by the harmonics of their
difference.
"""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from crystaljax.crystals import elements, sample_tensors, structure
from crystaljax.models.networks import blocks, encoders, energy_estimator, layers
from crystaljax.system import errors

# Number of distinct positions of species in the formula; later ones share one.
_NUM_SPECIES = 6
# Number of features of a template's site, and of its cell.
_TEMPLATE_WIDTH = 48


@flax.struct.dataclass
class EncodedConditions:
    """Conditions as the transformer takes them; they depend on neither time nor x.

    Attributes:
        embedding: (batch, width), of the whole crystal.
        sites: (batch, sites, width), of each site.
        cell: (batch, width), of the lattice.
        mask: (batch, sites), True where there is a site.
        templates: what the templates would answer; None without them.
    """

    embedding: Any
    sites: Any
    cell: Any
    mask: Any
    templates: "TemplateAnswers | None" = None


@flax.struct.dataclass
class TemplateAnswers:
    """The answers of those who follow a template.

    Attributes:
        exists: (batch, templates).
        directions: (batch, templates, sites, 6), see `processes.directions`.
        lattice: (batch, templates, 9).
    """

    exists: Any
    directions: Any
    lattice: Any


def formula_places(
    atomic_numbers: Integer[Array, "batch sites"],
) -> tuple[Array, Array, Array]:
    """Where each site stands in its formula, chemically ordered.

    Returns:
        species: species of the cell that have a lower Mendeleev number, (batch, sites).
        index: earlier sites of the same species.
        count: sites of the same species.
    """
    rank = jnp.asarray(elements.mendeleev_number())[atomic_numbers]
    exists = atomic_numbers > 0
    both = exists[:, :, None] & exists[:, None, :]
    same = (atomic_numbers[:, :, None] == atomic_numbers[:, None, :]) & both
    count = same.sum(-1)
    # Each species counts once, however many sites it has.
    lower = (rank[:, None, :] < rank[:, :, None]) & both
    weights = 1 / jnp.maximum(count, 1)
    species = jnp.round(jnp.sum(lower * weights[:, None, :], axis=-1))
    number = jnp.arange(atomic_numbers.shape[1])
    index = jnp.sum(same & (number[None, None, :] < number[None, :, None]), axis=-1)
    return species.astype(jnp.int32), index, count


class CrystalTransformer(nn.Module):
    """Transformer conditioned on elements, space group and energy.

    It takes coordinates in periods (``data.coordinates="unit"``) and answers with the
    data on the torus, see `processes.directions`.

    Attributes:
        width: of a token.
        depth: number of blocks.
        num_heads: of the attention.
        pair_features: number of features of a pair of sites.
        num_harmonics: of the coordinates.
        num_templates: known crystals shown with a question; 0 for none.
        dropout: share of what a block adds that is left out where there is a random
            key for it, as in training.
        estimator_depth: blocks of the estimator of energies; 0 for none.
        space_group_operations, element_properties: as in `crystal_unet.CrystalUNet`.
        max_sites: number of distinct site positions in the formula.
        time_scale: times are multiplied by this before the sinusoids.
        dtype: of the arithmetic.
    """

    width: int = 128
    depth: int = 6
    num_heads: int = 4
    pair_features: int = 16
    num_harmonics: int = 4
    num_templates: int = 0
    dropout: float = 0.0
    estimator_depth: int = 0
    space_group_operations: str = "sorted"
    element_properties: str = "scaled"
    max_sites: int = 60
    time_scale: float = 1000.0
    dtype: Any = jnp.float32

    def setup(self):
        """Declares the parts."""
        width, dtype = self.width, self.dtype
        self.element_in = layers.dense(width, dtype, None)
        self.place = layers.dense(width, dtype, None)
        self.element_out = layers.dense(width, dtype, None)
        if self.num_templates:
            self.template_sites = layers.dense(_TEMPLATE_WIDTH, dtype, None)
            self.template_cells = layers.dense(_TEMPLATE_WIDTH, dtype, None)
            self.templates_of_site = layers.dense(width, dtype, None)
            self.templates_of_cell = layers.dense(width, dtype, None)
            # Of each template, and of none.
            self.choice = layers.dense(2 * (self.num_templates + 1), dtype, None)
        self.coordinates = layers.dense(width, dtype, None)
        self.lattice = layers.dense(width, dtype, None)
        self.pair_in = layers.dense(2 * self.pair_features, dtype, None)
        self.pair_out = layers.dense(self.pair_features, dtype, None)
        self.space_group_encoder = encoders.SpaceGroupEncoder(dtype=dtype)
        self.condition_in = layers.dense(2 * width, dtype, None)
        self.condition_out = layers.dense(width, dtype, None)
        self.time_in = layers.dense(width, dtype, None)
        self.time_out = layers.dense(width, dtype, None)
        self.blocks = [
            blocks.Block(self.num_heads, dropout=self.dropout, dtype=dtype)
            for _ in range(self.depth)
        ]
        self.modulation = layers.dense(2 * width, dtype, None)
        self.norm = nn.LayerNorm(use_bias=False, use_scale=False, dtype=dtype)
        self.directions = layers.dense(6, dtype, None)
        self.lattice_rows = layers.dense(9, dtype, None)
        if self.estimator_depth:
            self.estimator = energy_estimator.EnergyEstimator(
                width=width,
                depth=self.estimator_depth,
                num_heads=self.num_heads,
                pair_features=self.pair_features,
                dropout=self.dropout,
                dtype=dtype,
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
            source: ignored.
            templates: in the network's units; needed if it has ``num_templates``.

        Raises:
            ValueError: templates are needed, and there are none.
        """
        dtype, mask = self.dtype, atomic_numbers > 0
        features = encoders.look_up(self, "elements")[atomic_numbers]
        element = self.element_in(features.astype(dtype))
        species, index, count = formula_places(atomic_numbers)
        places = [
            jax.nn.one_hot(jnp.minimum(species, _NUM_SPECIES - 1), _NUM_SPECIES),
            jax.nn.one_hot(index, self.max_sites),
            jax.nn.one_hot(count - 1, self.max_sites),
        ]
        place = self.place(jnp.concatenate(places, axis=-1).astype(dtype))
        sites = self.element_out(nn.silu(element + place))
        sites = jnp.where(mask[..., None], sites, 0)
        num_sites = mask.sum(axis=-1)
        pooled = sites.sum(axis=1) / jnp.maximum(num_sites, 1)[:, None]
        cell, answers = jnp.zeros((len(sites), self.width), dtype), None
        if self.num_templates:
            if templates is None:
                raise errors.UserError(
                    f"the network is shown {self.num_templates} templates with each "
                    "question and got none; attach them to the conditions"
                )
            of_sites, cell = self._encode_templates(templates, space_group, energy)
            answers = self._follow(templates)
            sites = sites + jnp.where(mask[..., None], of_sites, 0)
        angles = energy[:, None] * (jnp.pi * 2.0 ** jnp.arange(-2, 3))
        parts = [
            energy[:, None],
            jnp.sin(angles),
            jnp.cos(angles),
            jax.nn.one_hot(space_group, 231),
            jax.nn.one_hot(num_sites - 1, self.max_sites),
            self.space_group_encoder(space_group, encoders.look_up(self, "operations")),
            pooled,
            cell,
        ]
        vector = jnp.concatenate([part.astype(dtype) for part in parts], axis=-1)
        embedding = self.condition_out(nn.silu(self.condition_in(vector)))
        return EncodedConditions(embedding, sites, cell, mask, answers)

    def _encode_templates(self, templates, space_group, energy):
        """What the templates say of each site (batch, sites, width) and of the cell."""
        dtype = self.dtype
        batch, count, num_sites = templates.atomic_numbers.shape
        exists = (templates.space_group > 0).astype(dtype)
        same_group = (templates.space_group == space_group[:, None]).astype(dtype)
        about = [
            exists,
            exists * same_group,
            exists * (templates.energy - energy[:, None]).astype(dtype),
        ]
        about = jnp.stack(about, axis=-1)
        features = encoders.look_up(self, "elements")[templates.atomic_numbers]
        coords = templates.frac_coords
        is_site = (templates.atomic_numbers > 0)[..., None]
        of_site = jnp.concatenate(
            [
                jnp.where(is_site, self._harmonics(coords)[1], 0).astype(dtype),
                features.astype(dtype),
                jnp.broadcast_to(about[:, :, None], (batch, count, num_sites, 3)),
            ],
            axis=-1,
        )
        of_site = nn.silu(self.template_sites(of_site))
        of_site = jnp.moveaxis(of_site, 1, 2).reshape(batch, num_sites, -1)
        of_cell = jnp.concatenate(
            [templates.lattice.reshape(batch, count, 9).astype(dtype), about], axis=-1
        )
        of_cell = nn.silu(self.template_cells(of_cell)).reshape(batch, -1)
        return self.templates_of_site(of_site), self.templates_of_cell(of_cell)

    def _follow(self, templates) -> TemplateAnswers:
        angles = 2 * jnp.pi * templates.frac_coords
        directions = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
        is_site = (templates.atomic_numbers > 0)[..., None]
        return TemplateAnswers(
            templates.space_group > 0,
            jnp.where(is_site, directions, 0),
            templates.lattice.reshape(*templates.lattice.shape[:2], 9),
        )

    def _choose(self, h, answers):
        """What is taken from the templates for the sites and the lattice; float32."""
        of_token, of_all = jnp.split(self.choice(h).astype(jnp.float32), 2, axis=-1)
        logits = of_token + of_all[:, -1:]
        exists = jnp.pad(answers.exists, ((0, 0), (0, 1)), constant_values=True)
        weights = jax.nn.softmax(jnp.where(exists[:, None], logits, -1e9), axis=-1)
        sites = jnp.einsum("bsk,bksd->bsd", weights[:, :-1, :-1], answers.directions)
        return sites, jnp.einsum("bk,bkd->bd", weights[:, -1, :-1], answers.lattice)

    def _harmonics(self, coords):
        """(..., 3, 2 · num_harmonics), cosines first; and the same in one axis."""
        frequencies = 2 * jnp.pi * jnp.arange(1, self.num_harmonics + 1)
        angles = coords[..., None] * frequencies
        harmonics = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
        return harmonics, harmonics.reshape(*coords.shape[:-1], -1)

    def predict(
        self,
        x: Float[Array, "batch rows 3"],
        t: Float[Array, " batch"],
        encoded: EncodedConditions,
    ) -> Float[Array, "batch rows 6"]:
        """The data that ``x`` at time ``t`` is on its way to; float32."""
        coords = sample_tensors.site_rows(x)
        lattice = sample_tensors.lattice_rows(x)
        time = layers.time_embedding(self.time_scale * t, self.width)
        time = self.time_out(nn.silu(self.time_in(time.astype(self.dtype))))
        embedding = nn.silu(time + encoded.embedding)

        harmonics, flat = self._harmonics(coords)
        sites = encoded.sites + self.coordinates(flat.astype(self.dtype))
        cell = self.lattice(lattice.reshape(len(x), 9).astype(self.dtype))
        h = jnp.concatenate([sites, (encoded.cell + cell)[:, None]], axis=1)
        mask = jnp.pad(encoded.mask, ((0, 0), (0, 1)), constant_values=True)
        pairs = self._describe_pairs(coords, harmonics)
        pairs = jnp.pad(pairs, ((0, 0), (0, 1), (0, 1), (0, 0)))
        for block in self.blocks:
            h = block(h, embedding, pairs, mask)

        shift, scale = jnp.split(self.modulation(embedding)[:, None], 2, axis=-1)
        h = self.norm(h) * (1 + scale) + shift
        answer = self.directions(h[:, :-1]).astype(jnp.float32)
        rows = self.lattice_rows(h[:, -1]).astype(jnp.float32)
        if encoded.templates is not None:
            of_sites, of_cell = self._choose(h, encoded.templates)
            answer, rows = answer + of_sites, rows + of_cell
        answer = jnp.where(encoded.mask[..., None], answer, 0)
        rows = rows.reshape(-1, 3, 3)
        rows = jnp.pad(rows, ((0, 0), (0, 0), (0, 3)))
        gap = x.shape[1] - answer.shape[1] - structure.NUM_LATTICE_ROWS
        answer = jnp.pad(answer, ((0, 0), (0, gap), (0, 0)))
        return jnp.concatenate([answer, rows], axis=1)

    def estimate_energy(
        self,
        atomic_numbers: Integer[Array, "batch sites"],
        frac_coords: Float[Array, "batch sites 3"],
        lattice: Float[Array, "batch 3 3"],
    ) -> Float[Array, " batch"]:
        """Energies of crystals in the unit of the conditions; `EnergyEstimator`."""
        table = encoders.look_up(self, "elements")
        return self.estimator(atomic_numbers, frac_coords, lattice, table)

    def _describe_pairs(self, coords, harmonics):
        """(batch, sites, sites, pair_features): harmonics of the differences."""
        cos, sin = jnp.split(harmonics, 2, axis=-1)
        # Of differences, by the addition theorems.
        cos_i, cos_j = cos[:, :, None], cos[:, None]
        sin_i, sin_j = sin[:, :, None], sin[:, None]
        parts = [cos_i * cos_j + sin_i * sin_j, sin_i * cos_j - cos_i * sin_j]
        features = jnp.concatenate(parts, axis=-1).reshape(*parts[0].shape[:3], -1)
        features = features.astype(self.dtype)
        return self.pair_out(nn.silu(self.pair_in(features)))

    def __call__(
        self,
        x: Float[Array, "batch rows 3"],
        t: Float[Array, " batch"],
        atomic_numbers: Integer[Array, "batch sites"],
        space_group: Integer[Array, " batch"],
        energy: Float[Array, " batch"],
        source: Float[Array, "batch rows 3"] | None = None,
        templates: sample_tensors.TemplateBatch | None = None,
    ) -> Float[Array, "batch rows 6"]:
        """Encodes the conditions and predicts."""
        if self.estimator_depth and self.is_initializing():
            cell = jnp.broadcast_to(jnp.eye(3), (len(x), 3, 3))
            sites = jnp.zeros((*atomic_numbers.shape, 3))
            self.estimate_energy(atomic_numbers, sites, cell)
        encoded = self.encode_conditions(
            atomic_numbers, space_group, energy, source, templates
        )
        return self.predict(x, t, encoded)
