"""Flow matching on what is free in a crystal of a known group and known positions.

The processes and samplers are those of sites: here are the units, the loss, and the way
from conditions to all sites and the lattice.
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer

from crystaljax.crystals import orbits, sample_tensors
from crystaljax.models import processes, prototype_structures, samplers, scaling
from crystaljax.models.networks import orbit_transformer

# What a difference between a known structure and the network's answer costs, beside the
# distance in elements and energy: of parameters (root mean square) and strains (the
# largest). Chosen on the validation structures of the model `mp`.
_COST_OF_PARAMETERS = 5.0
_COST_OF_STRAINS = 1.0


@flax.struct.dataclass
class KeptOrbits:
    """What is known of crystals beforehand.

    Attributes:
        is_kept: (batch, orbits), True where the parameters of an orbit are known.
        parameters: (batch, orbits, 3), in [0, 1).
        keeps_strain: (batch, 6), True where a strain is known.
        strain: (batch, 6).
    """

    is_kept: Any
    parameters: Any
    keeps_strain: Any
    strain: Any


def encode(
    scale: scaling.Scaling,
    tables: orbits.OrbitTables,
    conditions: orbit_transformer.OrbitConditions,
    parameters: Float[Array | np.ndarray, "batch orbits 3"],
    strain: Float[Array | np.ndarray, "batch 6"],
) -> Float[Array, "batch rows 3"]:
    """What is free in crystals as a state of the network.

    Lattices are relative to the volume that the atoms would fill.
    """
    relative = jnp.asarray(strain).at[:, 0].add(-_size(scale, tables, conditions))
    scaled = relative / orbit_transformer.STRAIN_UNITS
    return orbit_transformer.pack(jnp.asarray(parameters), scaled)


def decode(
    scale: scaling.Scaling,
    tables: orbits.OrbitTables,
    conditions: orbit_transformer.OrbitConditions,
    x: Float[Array, "batch rows 3"],
) -> tuple[Float[Array, "batch orbits 3"], Float[Array, "batch 6"]]:
    """The inverse of `encode`; parameters in [0, 1)."""
    parameters, scaled = orbit_transformer.unpack(x)
    relative = scaled * orbit_transformer.STRAIN_UNITS
    strain = relative.at[:, 0].add(_size(scale, tables, conditions))
    return sample_tensors.wrap(parameters), strain


def _size(
    scale: scaling.Scaling,
    tables: orbits.OrbitTables,
    conditions: orbit_transformer.OrbitConditions,
) -> Float[Array, " batch"]:
    """The first strain of cells that the atoms would fill."""
    group = jnp.asarray(conditions.space_group).astype(jnp.int32)[:, None]
    positions = jnp.asarray(conditions.positions).astype(jnp.int32)
    multiplicity = jnp.asarray(tables.multiplicity)[group, positions]
    numbers = jnp.asarray(conditions.atomic_numbers).astype(jnp.int32)
    volumes = jnp.asarray(scale.atomic_volumes, jnp.float32)[numbers]
    total = jnp.sum(volumes * multiplicity, axis=-1)
    return prototype_structures.LOG_VOLUME * jnp.log(total)


def compute_loss(
    model: orbit_transformer.OrbitTransformer,
    process: processes.Process,
    params: Any,
    tables: orbits.OrbitTables,
    conditions: orbit_transformer.OrbitConditions,
    data: Float[Array, "batch rows 3"],
    keys: Array,
    *,
    coordinate_weight: float = 1.0,
    lattice_weight: float = 0.2,
) -> tuple[Array, dict[str, Array]]:
    """Mean loss over a batch, and its parts: squares per free parameter and strain.

    Parameters count by the sites that they move.
    """
    free = orbit_transformer.free_components(tables, conditions)
    corrupted = jax.vmap(process.corrupt, (0, 0, None))(keys, data, None)
    x_t = jnp.where(free > 0, corrupted.x_t, 0)
    answer: Any = model.apply(
        params,
        x_t,
        corrupted.t,
        conditions,
        tables,
        rngs={"dropout": jax.random.fold_in(keys[0], 1)},
    )
    squares = (answer - corrupted.target) ** 2
    group = jnp.asarray(conditions.space_group).astype(jnp.int32)[:, None]
    positions = jnp.asarray(conditions.positions).astype(jnp.int32)
    size = jnp.asarray(tables.multiplicity)[group, positions][..., None]
    of_sites = sample_tensors.site_rows(free) * size
    apart = sample_tensors.site_rows(squares) * jnp.tile(of_sites, (1, 1, 2))
    total = of_sites.sum(axis=(1, 2))
    coordinates = apart.sum(axis=(1, 2)) / jnp.maximum(total, 1)
    of_lattice = sample_tensors.lattice_rows(free)
    lattice = (sample_tensors.lattice_rows(squares)[..., :3] * of_lattice).sum((1, 2))
    lattice = lattice / of_lattice.sum(axis=(1, 2))
    loss = coordinate_weight * coordinates.mean() + lattice_weight * lattice.mean()
    num_free = jnp.maximum(jnp.sum(total > 0), 1)
    return loss, {
        "loss_coordinates": coordinates.sum() / num_free,
        "loss_lattice": lattice.mean(),
    }


def sample(
    model: orbit_transformer.OrbitTransformer,
    process: processes.FlowMatching,
    params: Any,
    tables: orbits.OrbitTables,
    scale: scaling.Scaling,
    conditions: orbit_transformer.OrbitConditions,
    keys: Array,
    *,
    num_steps: int,
    shown: prototype_structures.Shown | None = None,
    kept: KeptOrbits | None = None,
) -> tuple[
    Float[Array, "batch orbits 3"],
    Float[Array, "batch 6"],
    Integer[Array, "batch sites"],
    Float[Array, "batch sites 3"],
    Float[Array, "batch 3 3"],
]:
    """Crystals from noise: parameters, strains, and all sites with their lattice.

    Where known structures are shown, they are followed, see `follow`. What is kept is
    on its straight path from the noise to its value at all times, and comes out to the
    last bit.

    Returns:
        parameters, strain; atomic numbers (0 where there is no site), fractional
        coordinates in [0, 1), and lattice, Å. Sample i depends on ``keys[i]`` and its
        conditions alone.
    """
    assert process.noise_fn is not None
    free = orbit_transformer.free_components(tables, conditions)
    encoded: Any = model.apply(
        params, conditions, tables, method=model.encode_conditions
    )
    start = samplers.sample_noise(keys, free.shape[1], process.noise_fn) * free

    def velocity(x, t):
        answer: Any = model.apply(params, x, t, encoded, method=model.predict)
        return process.velocity(answer, x, t) * free

    held = None
    if kept is not None:
        value = encode(scale, tables, conditions, kept.parameters, kept.strain)
        is_kept = orbit_transformer.pack(
            jnp.repeat(jnp.asarray(kept.is_kept)[..., None], 3, -1).astype(jnp.float32),
            jnp.asarray(kept.keeps_strain).astype(jnp.float32),
        )
        way = process.way(start, value)
        held = samplers.Kept((is_kept > 0) & (free > 0), value, way)
    x = samplers.sample_euler(velocity, start, num_steps=num_steps, kept=held)
    x = x * free
    if shown is not None:
        num_orbits = jnp.sum(jnp.asarray(conditions.positions) > 0, axis=1)
        x = follow(shown, x, num_orbits)
    parameters, strain = decode(scale, tables, conditions, x)
    if kept is not None:
        parameters = jnp.where(kept.is_kept[..., None], kept.parameters, parameters)
        strain = jnp.where(kept.keeps_strain, kept.strain, strain)
    layout = encoded.layout
    coords = sample_tensors.wrap(orbits.expand_sites(layout, parameters))
    numbers = jnp.take_along_axis(
        jnp.asarray(conditions.atomic_numbers).astype(jnp.int32),
        jnp.maximum(layout.orbit, 0),
        axis=1,
    )
    lattice = orbits.expand_lattice(tables, conditions.space_group, strain)
    numbers = jnp.where(layout.orbit >= 0, numbers, 0)
    return parameters, strain, numbers, coords, lattice


def follow(
    shown: prototype_structures.Shown,
    x: Float[Array, "batch rows 3"],
    num_orbits: Integer[Array, " batch"],
) -> Float[Array, "batch rows 3"]:
    """The known structures that are nearest to a network's answers, in their place.

    What is nearest is decided by elements and energy, and by the answer: structures of
    one kind of positions may be of different types, and the network knows which one the
    elements prefer. The volume is the geometric mean of both, which is nearer than
    either. Answers stay as they are where there is no structure left.
    """
    parameters, scaled = orbit_transformer.unpack(x)
    strains = jnp.asarray(shown.strains) / orbit_transformer.STRAIN_UNITS
    apart = jnp.asarray(shown.parameters) - parameters[:, None]
    apart = apart - jnp.round(apart)
    # What is not free is 0 in both.
    squares = jnp.sum(apart**2, axis=(2, 3)) / (3 * num_orbits[:, None])
    distance = jnp.sqrt(squares)
    own = scaled * orbit_transformer.STRAIN_UNITS
    shear = (jnp.asarray(shown.strains) - own[:, None])[..., 1:]
    largest = jnp.abs(shear).max(axis=-1)
    costs = (
        jnp.asarray(shown.costs)
        + _COST_OF_PARAMETERS * distance
        + _COST_OF_STRAINS * largest
    )
    order = jnp.argsort(costs, axis=1)
    rank = jnp.minimum(jnp.asarray(shown.rank), order.shape[1] - 1)[:, None]
    best = jnp.take_along_axis(order, rank, axis=1)
    is_left = jnp.isfinite(jnp.take_along_axis(costs, best, axis=1))
    is_left = is_left & (jnp.asarray(shown.rank) < order.shape[1])[:, None]
    strain = jnp.take_along_axis(strains, best[..., None], axis=1)[:, 0]
    strain = strain.at[:, 0].set((strain[:, 0] + scaled[:, 0]) / 2)
    chosen = orbit_transformer.pack(
        jnp.take_along_axis(shown.parameters, best[..., None, None], axis=1)[:, 0],
        strain,
    )
    return jnp.where(is_left[..., None], chosen, x)
