"""Relaxation of many crystals at once on the device.

The same as `ase_relaxation.relax_many`, for potentials that run in JAX: the coordinates
are those of ASE's ``FrechetCellFilter``, convergence means the same, and the minimiser
(L-BFGS as `ase_relaxation.DescendingLbfgs`, or FIRE) is mapped over a batch of crystals
in fixed shapes. Crystals that are done give their place to waiting ones.
"""

import collections
import contextlib
import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
import tqdm
from jax.sharding import Mesh

from crystaljax.crystals import structure, validity
from crystaljax.relaxation import (
    ase_relaxation,
    batch_places,
    batch_steps,
    calculators,
    device_potentials,
    kept_symmetry,
    minimizers,
)
from crystaljax.relaxation.potentials.potential import Potential, padded_sites
from crystaljax.system import device_memory, errors, sharding

# Forces are sums of up to 100 terms of some eV/Å: in float32 they are good to 1e-4.
_FMAX_OF_FLOAT32 = 0.002

# Where work follows the edges: a program for all crystals of up to so many sites, a
# place for so many sites of a batch, and this share of the edges at first, since
# crystals that shrink get more of them.
_FEWEST_PADDED_SITES = 32
_FEWEST_SITES_AT_A_PLACE = 4
_FILLED = 0.92
# Bytes that any device has.
_SMALL = 2**28


def relax_many(
    crystals: Sequence[structure.Crystal],
    calculator: str,
    settings: ase_relaxation.RelaxationSettings = ase_relaxation.PRESETS["default"],
    *,
    batch_size: int | None = None,
    description: str | None = None,
) -> list[ase_relaxation.Relaxation]:
    """Relaxes many crystals in batches; results in the order given.

    Args:
        crystals: where to start; sites keep their order.
        calculator: one that `device_potentials.supports`.
        settings: see ``relax_each``.
        batch_size: see ``relax_each``.
        description: label of a progress bar; none if None.

    Raises:
        ValueError, ImportError: as ``relax_each``.
    """
    relaxed = dict(
        relax_each(
            crystals,
            calculator,
            settings,
            batch_size=batch_size,
            description=description,
        )
    )
    return [relaxed[i] for i in range(len(crystals))]


def relax_each(
    crystals: Sequence[structure.Crystal],
    calculator: str,
    settings: ase_relaxation.RelaxationSettings,
    *,
    batch_size: int | None = None,
    dtype: str | None = None,
    description: str | None = None,
) -> Iterator[tuple[int, ase_relaxation.Relaxation]]:
    """Yields (index, relaxation) as crystals are finished, on the local devices.

    A crystal that cannot be relaxed costs its own row, with the reason. The seconds of
    a crystal are its share of those of the batches it was in.

    Args:
        crystals: where to start; sites keep their order.
        calculator: one that `device_potentials.supports`.
        settings: how to relax. ``timeout`` means nothing here: a step takes as long for
            every crystal of a batch.
        batch_size: crystals on the devices at once; what suits the devices and the
            number of sites if None.
        dtype: "float32" or "float64"; if None, float32 where its rounding of the forces
            is far below ``fmax``.
        description: label of a progress bar; none if None.

    Raises:
        ValueError: the calculator or the optimizer cannot run in batches, the
            calculator has no parameters for an element of any crystal, or an argument
            makes no sense; before anything is relaxed.
        ImportError: the calculator's package is not installed; likewise.
    """
    minimizers.build(settings.optimizer)
    dtype = dtype or ("float32" if settings.fmax >= _FMAX_OF_FLOAT32 else "float64")
    if dtype not in ("float32", "float64"):
        raise errors.UserError(f"dtype is {dtype!r}; expected 'float32' or 'float64'")
    if batch_size is not None and batch_size < 1:
        raise errors.UserError(f"batch_size is {batch_size}; expected at least 1")
    potential = device_potentials.build(calculator)
    calculators.require_elements(calculator, crystals, potential.atomic_numbers)
    # Neighbours are looked for in as many images of the cell as lie between sites.
    crystals = [structure.wrapped_if_far(each) for each in crystals]
    return _relax_each(crystals, potential, settings, batch_size, dtype, description)


def relax_as_possible(
    crystals: Sequence[structure.Crystal],
    calculator: str,
    settings: ase_relaxation.RelaxationSettings,
    *,
    description: str | None = None,
) -> Iterator[tuple[int, ase_relaxation.Relaxation]]:
    """As `relax_each` where the calculator runs on the device, else one at a time."""
    if device_potentials.supports(calculator):
        return relax_each(crystals, calculator, settings, description=description)
    return ase_relaxation.relax_each(crystals, calculator, settings)


def _relax_each(
    crystals: Sequence[structure.Crystal],
    potential: Potential,
    settings: ase_relaxation.RelaxationSettings,
    batch_size: int | None,
    dtype: str,
    description: str | None,
) -> Iterator[tuple[int, ase_relaxation.Relaxation]]:
    progress = tqdm.tqdm(
        desc=description, total=len(crystals), disable=description is None
    )
    mesh = sharding.build_local_mesh()
    if settings.keep_symmetry:
        crystals = [
            each
            if validity.find_relaxation_problem(each)
            else kept_symmetry.symmetrize(each)
            for each in crystals
        ]
    groups: dict[int, list[int]] = collections.defaultdict(list)
    # Where work follows the edges one program serves for small crystals of all sizes.
    fewest = 1 if potential.room is None else _FEWEST_PADDED_SITES
    with progress:
        for i, crystal in enumerate(crystals):
            problem = validity.find_relaxation_problem(crystal)
            problem = problem or _find_lack_of_memory(crystal, potential, dtype, mesh)
            if problem:
                progress.update()
                yield i, _failed(crystal, problem)
            else:
                groups[padded_sites(crystal.num_sites, fewest)].append(i)
        for sites, members in sorted(groups.items()):
            size = _batch_size(batch_size, sites, len(members), potential, mesh)
            with _precision(np.dtype(dtype)):
                state = batch_steps.empty(size, sites, dtype, settings.optimizer)
            for result in _relax_group(
                crystals, members, potential, settings, state, mesh
            ):
                progress.update()
                yield result


def _find_lack_of_memory(
    crystal: structure.Crystal, potential: Potential, dtype: str, mesh: Mesh
) -> str:
    """Why the devices cannot hold a crystal; "" if they can, or nobody knows."""
    if potential.room is None:
        return ""
    edges = batch_places.estimate_edges(crystal, potential)
    needed = edges * potential.room.bytes_per_edge * np.dtype(dtype).itemsize / 4
    # Most crystals are small, and the question takes as long as finding neighbours.
    available = device_memory.available_bytes(mesh) if needed > _SMALL else None
    if available is None or needed <= available:
        return ""
    return (
        f"{crystal.num_sites} sites with {edges:,} neighbours within "
        f"{potential.reach:.3g} Å take about {needed / 1e9:.3g} GB; "
        f"{available / 1e9:.3g} GB of the device are free"
    )


def _batch_size(
    wanted: int | None, sites: int, num_crystals: int, potential: Potential, mesh: Mesh
) -> int:
    if wanted is None:
        at_once = potential.sites_at_once[_backend()]
        if potential.room is not None:
            # The edges decide how many of them are taken.
            wanted = max(1, at_once // _FEWEST_SITES_AT_A_PLACE) * mesh.size
        else:
            wanted = max(1, at_once // sites) * mesh.size
            # A few crystals do not need all the places; two sizes are two programs.
            if num_crystals <= wanted // 8:
                wanted //= 8
    return -(-wanted // mesh.size) * mesh.size


def _backend() -> str:
    return "cpu" if jax.default_backend() == "cpu" else "gpu"


def _edges_at_once(
    potential: Potential, crystals: Sequence[structure.Crystal]
) -> tuple[float, Any]:
    """Edges that a batch is filled with, and a batch of that size without crystals."""
    room = potential.room
    if room is None:
        return np.inf, None
    most = max(batch_places.estimate_edges(each, potential) for each in crystals)
    edges = max(room.edges[_backend()], int(most / _FILLED))
    nodes = 2 * potential.sites_at_once[_backend()]
    return _FILLED * edges, room.reserve(max(nodes, edges // 16), edges)


def _relax_group(
    crystals: Sequence[structure.Crystal],
    members: Sequence[int],
    potential: Potential,
    settings: ase_relaxation.RelaxationSettings,
    state: batch_steps.State,
    mesh: Mesh,
) -> Iterator[tuple[int, ase_relaxation.Relaxation]]:
    """Relaxes crystals in the places of a batch; yields (index, result) as they finish.

    Args:
        crystals: all of them.
        members: indices of those to relax here.
        potential: what gives the energies.
        settings: how to relax.
        state: of the empty batch; it has the number of places, the sites of each, and
            the precision.
        mesh: devices that the places are split over.
    """
    # The largest first: what comes later fits into their program.
    waiting = collections.deque(
        sorted(
            members,
            key=lambda i: -batch_places.estimate_edges(crystals[i], potential),
        )
    )
    limit, before = _edges_at_once(potential, [crystals[i] for i in members])
    places = batch_places.empty(
        state,
        keep_symmetry=settings.keep_symmetry,
        limit=limit,
        num_devices=mesh.size,
    )
    packed = None
    run = batch_steps.build_run(potential, mesh, settings.optimizer)
    # One layout for all that goes in: with another for what comes from the host than
    # for what came out before, there would be two programs.
    layout = sharding.batch_sharding(mesh)
    while True:
        start = time.perf_counter()
        seen = jax.device_get(dataclasses.replace(state, minimizer=None))
        stopped = ~np.isin(seen.status, (batch_steps.RUNNING, batch_steps.STALE))
        for place in np.flatnonzero((places.owner >= 0) & stopped):
            yield _take_out(places, place, crystals, seen, settings)
        fresh = batch_places.fill(places, waiting, crystals, potential)
        if (places.owner < 0).all():
            return
        stale = (places.owner >= 0) & (seen.status == batch_steps.STALE)
        unlisted = np.flatnonzero(fresh | stale)
        coords = np.where(fresh[:, None, None], 0, seen.coords)
        lost = batch_places.list_neighbors(
            places, unlisted, crystals, coords, potential
        )
        for place, failure in lost.items():
            known = None if fresh[place] else seen
            yield _take_out(places, place, crystals, known, settings, failure)
        occupied = places.owner >= 0
        if not occupied.any():
            continue
        if len(unlisted):
            packed, before = batch_places.pack(places, potential, before)
        status = np.where(occupied, batch_steps.RUNNING, batch_steps.EMPTY)
        inputs = places.cells, packed, state, status.astype(np.int32), fresh
        with _precision(state.coords.dtype):
            state = run(
                *jax.device_put(inputs, layout),
                settings.fmax,
                settings.max_steps,
                settings.relax_cell,
            )
        jax.block_until_ready(state.status)
        places.seconds[occupied] += (time.perf_counter() - start) / occupied.sum()


def _precision(dtype: np.dtype) -> contextlib.AbstractContextManager:
    # Never around a yield: what the caller does meanwhile is none of our business.
    return jax.enable_x64(True) if dtype == "float64" else contextlib.nullcontext()


def _take_out(
    places: batch_places.Places,
    place: Any,
    crystals: Sequence[structure.Crystal],
    seen: batch_steps.State | None,
    settings: ase_relaxation.RelaxationSettings,
    failure: str = "",
) -> tuple[int, ase_relaxation.Relaxation]:
    """Frees a place; index of its crystal, and what became of it.

    Args:
        places: all of them.
        place: the one.
        crystals: those of all indices.
        seen: state of the batch; None where the crystal never was in it.
        settings: how it was relaxed.
        failure: why it failed on the host, if it did.
    """
    i = int(places.owner[place])
    places.owner[place], places.lists[place] = -1, None
    places.edges[place] = 0
    crystal = crystals[i]
    if seen is None:
        return i, _failed(crystal, failure)
    last = seen.last
    frac, lattice = batch_steps.host_geometry(
        crystal.frac_coords, crystal.lattice, last.coords[place]
    )
    return i, ase_relaxation.Relaxation(
        crystal=structure.Crystal(
            crystal.atomic_numbers,
            frac,
            lattice if settings.relax_cell else crystal.lattice,
        ),
        energy=float(last.energy[place]) / crystal.num_sites,
        max_force=float(last.max_force[place]),
        num_steps=int(last.num_steps[place]),
        converged=bool(seen.status[place] == batch_steps.CONVERGED),
        failure=failure or _failure_on_device(seen, place),
        seconds=float(places.seconds[place]),
    )


def _failure_on_device(seen: batch_steps.State, place: Any) -> str:
    """What went wrong, in the words of `relaxation`; "" if nothing did."""
    status = seen.status[place]
    if status == batch_steps.VOLUME:
        return f"volume went to {seen.survey.volume_ratio[place]:.2g} times what it was"
    if status == batch_steps.DISPLACEMENT:
        return f"a site moved by {seen.survey.displacement[place]:.1f} Å"
    if status == batch_steps.NOT_FINITE:
        return "positions, energy or forces are not finite"
    return ""


def _failed(crystal: structure.Crystal, failure: str) -> ase_relaxation.Relaxation:
    return ase_relaxation.Relaxation(crystal, np.nan, np.nan, 0, False, failure)
