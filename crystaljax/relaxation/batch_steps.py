"""Many crystals going downhill at once: the part of `batched_relaxation` on the device.

The coordinates of a crystal are those of ASE's ``FrechetCellFilter`` less where it
started: a row per site, its displacement (Å) in the undeformed cell, and three rows of
``sites * log(deformation)``. Their gradient is what is compared with ``fmax``.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float

from crystaljax.relaxation import ase_relaxation, minimizers
from crystaljax.relaxation.potentials import neighbors as neighbor_lists
from crystaljax.relaxation.potentials.potential import Potential
from crystaljax.system import sharding

NUM_CELL_ROWS = 3

# What a crystal of a batch is doing.
RUNNING = 0
CONVERGED = 1
OUT_OF_STEPS = 2
NOT_FINITE = 3
VOLUME = 4  # grew or shrank too much
DISPLACEMENT = 5  # a site went too far
STALE = 6  # its neighbour list no longer holds: the host makes a new one
EMPTY = 7  # no crystal in this place

# The host looks after so many steps, or when enough crystals have stopped.
_STEPS_PER_LOOK = 50


@flax.struct.dataclass
class Cells:
    """Where the crystals of a batch start, and where their neighbours were found.

    Attributes:
        atomic_numbers: int32 (batch, sites), 0 for padding.
        frac_coords: (batch, sites, 3), at the start.
        lattice: (batch, 3, 3), at the start, Å.
        listed_frac_coords: (batch, sites, 3), where the neighbours were found.
        listed_lattice: (batch, 3, 3), likewise.
        site_projection: (batch, 3 sites, 3 sites), see `kept_symmetry`; (batch, 0, 0)
            where symmetries are not kept.
        cell_projection: (batch, 9, 9), likewise.
    """

    atomic_numbers: Any
    frac_coords: Any
    lattice: Any
    listed_frac_coords: Any
    listed_lattice: Any
    site_projection: Any
    cell_projection: Any


@flax.struct.dataclass
class Last:
    """The last coordinates that were good, and what was found there.

    Attributes:
        coords: (batch, sites + 3, 3).
        energy: (batch,), eV; NaN before the first.
        max_force: (batch,), eV/Å; likewise.
        num_steps: int32 (batch,).
    """

    coords: Any
    energy: Any
    max_force: Any
    num_steps: Any


@flax.struct.dataclass
class Survey:
    """How far crystals have gone.

    Attributes:
        volume_ratio: (batch,), to the volume at the start.
        displacement: (batch,), largest one of a site, relative to the mean of all, Å.
        listed: bool (batch,), whether the neighbour list still holds.
    """

    volume_ratio: Any
    displacement: Any
    listed: Any


@flax.struct.dataclass
class State:
    """Where the crystals of a batch are.

    Attributes:
        coords: (batch, sites + 3, 3), to be evaluated next.
        status: int32 (batch,), what each is doing.
        num_steps: int32 (batch,).
        survey: `Survey` of ``coords``.
        last: `Last`.
        minimizer: state of the minimiser.
    """

    coords: Any
    status: Any
    num_steps: Any
    survey: Any
    last: Any
    minimizer: Any


# (cells, neighbours, state, status of each crystal, which are new and have not moved,
# fmax, most steps, whether the cell relaxes) → state
RunFn = Callable[
    [
        Cells,
        Any,
        State,
        np.ndarray,
        np.ndarray,
        float,
        int,
        bool,
    ],
    State,
]


def empty(num_crystals: int, num_sites: int, dtype: str, minimizer_name: str) -> State:
    """State of a batch without crystals, on the host."""
    shapes = jax.eval_shape(
        functools.partial(_init, minimizers.build(minimizer_name)),
        jax.ShapeDtypeStruct((num_crystals, num_sites + NUM_CELL_ROWS, 3), dtype),
    )
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    return dataclasses.replace(zeros, status=np.full(num_crystals, EMPTY, np.int32))


def _init(
    minimizer: minimizers.Minimizer, coords: Float[Array, "batch rows 3"]
) -> State:
    """State of crystals that have not moved."""
    num_crystals, dtype = len(coords), coords.dtype
    coords = jnp.zeros_like(coords)
    nothing = jnp.full(num_crystals, jnp.nan, dtype)
    none = jnp.zeros(num_crystals, jnp.int32)
    return State(
        coords=coords,
        status=jnp.full(num_crystals, RUNNING, jnp.int32),
        num_steps=none,
        survey=Survey(
            volume_ratio=jnp.ones(num_crystals, dtype),
            displacement=jnp.zeros(num_crystals, dtype),
            listed=jnp.ones(num_crystals, bool),
        ),
        last=Last(coords, nothing, nothing, none),
        minimizer=jax.vmap(minimizer.init)(coords),
    )


def _select(mask: Bool[Array, " batch"], where_true: Any, where_false: Any) -> Any:
    """Per crystal, one of two pytrees whose arrays have the batch in front."""

    def pick(a, b):
        return jnp.where(mask.reshape(-1, *[1] * (a.ndim - 1)), a, b)

    return jax.tree.map(pick, where_true, where_false)


def host_geometry(
    frac_coords: Float[np.ndarray, "sites 3"],
    lattice: Float[np.ndarray, "3 3"],
    coords: Float[np.ndarray, "rows 3"],
) -> tuple[Float[np.ndarray, "sites 3"], Float[np.ndarray, "3 3"]]:
    """Start and coordinates of one crystal → fractional coordinates, lattice (Å).

    Args:
        frac_coords: at the start.
        lattice: at the start, Å.
        coords: may have more rows than sites, for padding.
    """
    num_sites = len(frac_coords)
    coords = coords.astype(float)
    deformation = scipy.linalg.expm(coords[-NUM_CELL_ROWS:] / num_sites)
    frac = frac_coords + np.linalg.solve(lattice.T, coords[:num_sites].T).T
    return frac, lattice @ deformation.T


@functools.lru_cache(maxsize=16)
def build_run(potential: Potential, mesh: Mesh, minimizer_name: str) -> RunFn:
    """Compiled function that relaxes a batch until the host should look.

    The batch is split over the devices of ``mesh``, each of which runs on its own.
    """
    minimizer = minimizers.build(minimizer_name)

    def run(cells, neighbors, state, status, fresh, fmax, max_steps, relax_cell):
        state = _select(fresh, _init(minimizer, state.coords), state)
        state = dataclasses.replace(state, status=status)
        evaluate, survey = _bind(potential, cells, neighbors, relax_cell)
        step = jax.vmap(minimizer.step)

        def num_running(state):
            return jnp.sum(state.status == RUNNING)

        # At least one has to stop, or the host would look at what it has seen.
        going_on = jnp.ceil(num_running(state) * (1 - potential.stopped_per_look))
        few = jnp.maximum(going_on - 1, 0)

        def go_on(carry):
            num_rounds, state = carry
            return (num_rounds < _STEPS_PER_LOOK) & (num_running(state) > few)

        def body(carry):
            num_rounds, state = carry
            state, gradient = _assess(evaluate, state, fmax, max_steps)
            move, minimizer_state = step(state.minimizer, state.coords, gradient)
            moved = dataclasses.replace(
                state,
                coords=state.coords + move,
                num_steps=state.num_steps + 1,
                minimizer=minimizer_state,
            )
            moved = _judge(survey, moved)
            return num_rounds + 1, _select(state.status == RUNNING, moved, state)

        return jax.lax.while_loop(go_on, body, (0, state))[1]

    data, whole = PartitionSpec(sharding.DATA_AXIS), PartitionSpec()
    mapped = jax.shard_map(
        run,
        mesh=mesh,
        in_specs=(data,) * 5 + (whole,) * 3,
        out_specs=data,
        check_vma=False,
    )
    return jax.jit(mapped)


def _bind(
    potential: Potential, cells: Cells, neighbors: Any, relax_cell: Any
) -> tuple[Callable[[Array], tuple[Array, Array]], Callable[[Array], Survey]]:
    """Functions of the coordinates of a batch.

    Returns:
        Energies (batch,) and gradients (batch, sites + 3, 3); and how far the crystals
        went.
    """
    energy_fn = potential.bind(cells.atomic_numbers, neighbors)
    is_site = (cells.atomic_numbers > 0)[..., None]
    num_sites = jnp.sum(is_site, axis=(1, 2))
    # Empty places divide by it too.
    per_site = 1 / jnp.maximum(num_sites, 1).astype(cells.lattice.dtype)
    inverse = jnp.linalg.inv(cells.lattice)

    def geometry(coords):
        shift = coords[:, :-NUM_CELL_ROWS] @ inverse
        deformation = _expm(coords[:, -NUM_CELL_ROWS:] * per_site[:, None, None])
        lattice = cells.lattice @ jnp.swapaxes(deformation, -1, -2)
        return cells.frac_coords + shift, lattice

    def total(coords):
        energies = energy_fn(*geometry(coords))
        return jnp.sum(energies), energies

    def evaluate(coords):
        (_, energies), gradient = jax.value_and_grad(total, has_aux=True)(coords)
        on_sites = jnp.where(is_site, gradient[:, :-NUM_CELL_ROWS], 0)
        on_cell = jnp.where(relax_cell, gradient[:, -NUM_CELL_ROWS:], 0)
        if cells.site_projection.shape[-1]:
            on_sites = _project(cells.site_projection, on_sites)
            on_cell = _project(cells.cell_projection, on_cell)
        return energies, jnp.concatenate([on_sites, on_cell], axis=1)

    def survey(coords):
        frac, lattice = geometry(coords)
        strain, shift = neighbor_lists.strain_and_shift(
            frac, lattice, cells.listed_frac_coords, cells.listed_lattice
        )
        # A drift of all sites together has no consequence: displacements are relative.
        moved = jnp.where(is_site, frac - cells.frac_coords, 0)
        mean = jnp.sum(moved, axis=1, keepdims=True) * per_site[:, None, None]
        moved = jnp.where(is_site, moved - mean, 0) @ lattice
        log_volume = jnp.trace(coords[:, -NUM_CELL_ROWS:], axis1=1, axis2=2)
        return Survey(
            volume_ratio=jnp.exp(log_volume * per_site),
            displacement=jnp.linalg.norm(moved, axis=-1).max(axis=-1),
            listed=neighbor_lists.still_hold(
                potential.cutoff, potential.skin, strain, shift
            ),
        )

    return evaluate, survey


def _project(
    matrix: Float[Array, "batch coords coords"], rows: Float[Array, "batch rows 3"]
) -> Float[Array, "batch rows 3"]:
    flat = rows.reshape(len(rows), -1)
    product = jnp.einsum(
        "bij,bj->bi", matrix, flat, precision=jax.lax.Precision.HIGHEST
    )
    return product.reshape(rows.shape)


def _assess(
    evaluate: Callable[[Array], tuple[Array, Array]],
    state: State,
    fmax: Any,
    max_steps: Any,
) -> tuple[State, Array]:
    """Evaluates a batch and says which crystals go on; and the gradients."""
    energy, gradient = evaluate(state.coords)
    max_force = jnp.linalg.norm(gradient, axis=-1).max(axis=-1)
    good = jnp.isfinite(energy) & jnp.isfinite(max_force)
    status = jnp.select(
        [~good, max_force < fmax, state.num_steps >= max_steps],
        [NOT_FINITE, CONVERGED, OUT_OF_STEPS],
        RUNNING,
    ).astype(jnp.int32)
    here = Last(state.coords, energy, max_force, state.num_steps)
    last = _select(good, here, state.last)
    assessed = dataclasses.replace(state, status=status, last=last)
    return _select(state.status == RUNNING, assessed, state), gradient


def _judge(survey: Callable[[Array], Survey], state: State) -> State:
    """Says which crystals, having moved, may be evaluated."""
    found = survey(state.coords)
    ratio, displacement = found.volume_ratio, found.displacement
    # The first that holds counts: beyond the limits no list is worth making.
    status = jnp.select(
        [
            ~(jnp.isfinite(ratio) & jnp.isfinite(displacement)),
            ratio <= ase_relaxation.MIN_VOLUME_RATIO,
            ratio >= ase_relaxation.MAX_VOLUME_RATIO,
            displacement > ase_relaxation.MAX_DISPLACEMENT,
            ~found.listed,
        ],
        [NOT_FINITE, VOLUME, VOLUME, DISPLACEMENT, STALE],
        RUNNING,
    )
    return dataclasses.replace(state, status=status.astype(jnp.int32), survey=found)


def _expm(matrix: Float[Array, "batch 3 3"]) -> Float[Array, "batch 3 3"]:
    """Matrix exponential: Taylor series of a quarter, squared twice.

    Exact to 1e-8 at norm 1, where volumes are out of bounds, and to 1e-15 at 0.1.
    """
    quarter = matrix / 4
    eye = jnp.eye(3, dtype=matrix.dtype)
    total = jnp.broadcast_to(eye, matrix.shape)
    for order in range(6, 0, -1):
        total = eye + quarter @ total / order
    total = total @ total
    return total @ total
