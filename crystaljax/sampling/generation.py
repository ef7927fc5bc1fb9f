"""From conditions to crystals: the compiled sampler, in batches over the devices."""

import collections
import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Int

from crystaljax.crystals import sample_tensors, structure
from crystaljax.models import scaling
from crystaljax.models.networks import interface
from crystaljax.sampling.conditions import Conditions
from crystaljax.system import sharding

# (predict_fn, keys, rows, mask, source[, (is_kept, value)]) → samples;
# `build.build_sampler`.
SampleFn = Callable[..., Array]


@dataclasses.dataclass(frozen=True)
class HostWork:
    """What the host does for each batch, while the device is at another one.

    Attributes:
        attach_fn: conditions of a batch → the same with templates; None for nothing.
        refine_fn: crystal, space group requested → what is made of it; None for
            nothing.
        num_draws: crystals that are drawn for each sample, one of which is picked.
    """

    attach_fn: Callable[[Conditions], Conditions] | None = None
    refine_fn: Callable[[structure.Crystal, int], structure.Crystal] | None = None
    num_draws: int = 1


NO_HOST_WORK = HostWork()


# A `Generator`, or an `orbit_generation.OrbitGenerator`, which has the same methods.
AnyGenerator = Any


@dataclasses.dataclass(frozen=True, eq=False)
class Generator:
    """A network that makes crystals, and all that belongs to it.

    Made by `build.build_generator`, from a config.

    Attributes:
        generate_fn: see `build_generate_fn`.
        estimate_fn: see `estimation.build_estimate_fn`; None without an estimator.
        scale: units of the network, on the mesh.
        tables: of the network, on the mesh.
        mesh: devices, from `sharding.build_local_mesh`.
        row_buckets: rows that sample tensors can have, ascending: each crystal gets the
            fewest that hold it.
        batch_size: samples at a time, over the devices of a process.
        host: what the host does for each batch.
        params: of the network, on the mesh; None until `with_params`.
        energy_error: of the estimates, eV/atom, see `estimation.measure_error`; None if
            unknown.
    """

    generate_fn: Any
    estimate_fn: Callable[..., Array] | None
    scale: scaling.Scaling | None
    tables: Mapping[str, Any]
    mesh: Mesh
    row_buckets: tuple[int, ...]
    batch_size: int
    host: HostWork = NO_HOST_WORK
    params: Any = None
    energy_error: float | None = None

    def with_params(self, params: Any, energy_error: float | None) -> "Generator":
        """The same with other parameters, and the error of their estimates."""
        return dataclasses.replace(self, params=params, energy_error=energy_error)

    def for_conditions(self, conditions: Conditions) -> "Generator":
        """The same: it needs to know nothing of all samples before it makes some."""
        del conditions
        return self

    def plan_batches(
        self, conditions: Conditions, numbers: Int[np.ndarray, " wanted"]
    ) -> "list[Batch]":
        """See `plan_batches`."""
        return plan_batches(
            np.asarray(conditions.num_sites),
            numbers,
            row_buckets=self.row_buckets,
            batch_size=self.batch_size,
            num_devices=self.mesh.size,
        )

    def generate_batches(
        self, conditions: Conditions, key: Array, batches: "Sequence[Batch]"
    ) -> Iterator[tuple[list[int], list[structure.Crystal]]]:
        """See `generate_batches`."""
        yield from generate_batches(self, conditions, key, batches)

    @property
    def numbers(self) -> tuple[Any, scaling.Scaling | None]:
        """First arguments of the compiled functions: variables and units."""
        return interface.variables_of(self.params, self.tables), self.scale

    @property
    def estimate_energies(self) -> Callable[..., Array] | None:
        """(atomic_numbers, frac_coords, lattice) → energies, eV/atom; or None."""
        if self.estimate_fn is None:
            return None
        return functools.partial(self.estimate_fn, *self.numbers)


# While the host decodes one batch, the device has the next.
_NUM_IN_FLIGHT = 2


@functools.lru_cache(maxsize=16)
def build_generate_fn(
    model: interface.Network, sample_fn: SampleFn, mesh: Mesh
) -> jax.stages.Wrapped:
    """Compiles ``(variables, scale, conditions, key, indices)`` → crystals.

    These are arrays of fractional coordinates and lattices. Variables are those of
    `interface.variables_of`, and a program is the same whatever the units.

    Sample i draws from ``fold_in(key, i)`` alone: it is the same crystal whatever the
    batch it is made in and however many devices there are. Rows follow from the
    conditions' columns, `structure.max_sites` of them, and each number of rows is
    compiled once. Conditions are encoded once, outside the sampler's scan. The same
    arguments give the same function, which this process has compiled already.
    """

    def generate_batch(variables, scale, conditions, key, indices):
        rows = structure.rows_for(conditions.atomic_numbers.shape[-1])
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, indices)
        source = scale.encode_cells(
            conditions.source, conditions.num_sites, conditions.atomic_numbers, rows
        )
        encoded = model.apply(
            variables,
            conditions.atomic_numbers,
            conditions.space_group,
            scale.scale_energy(conditions.energy),
            source,
            scale.encode_templates(conditions.templates),
            method=model.encode_conditions,
        )

        def predict(x, t):
            return model.apply(variables, x, t, encoded, method=model.predict)

        mask = sample_tensors.row_mask(conditions.num_sites, rows)
        kept = conditions.kept
        if kept is None:
            x = sample_fn(predict, keys, rows, mask, source)
            return scale.decode(x, conditions.atomic_numbers)
        cells = sample_tensors.CellBatch(kept.frac_coords, kept.lattice)
        value = scale.encode_cells(
            cells, conditions.num_sites, conditions.atomic_numbers, rows
        )
        is_kept = _kept_rows(kept, rows)
        x = sample_fn(predict, keys, rows, mask, source, (is_kept, value))
        coords, lattice = scale.decode(x, conditions.atomic_numbers)
        # Without the rounding of units there and back.
        coords = jnp.where(kept.is_kept[..., None], kept.frac_coords, coords)
        keeps_lattice = jnp.asarray(kept.keeps_lattice)[:, None, None]
        return coords, jnp.where(keeps_lattice, kept.lattice, lattice)

    over_devices = sharding.batch_sharding(mesh)
    whole = sharding.replicated(mesh)
    return jax.jit(
        generate_batch,
        in_shardings=(whole, whole, over_devices, whole, over_devices),
        out_shardings=over_devices,
    )


def _kept_rows(kept: Any, rows: int) -> Bool[Array, "batch {rows} 3"]:
    """Entries of sample tensors that are known."""
    sites = jnp.asarray(kept.is_kept)
    padding = rows - structure.NUM_LATTICE_ROWS - sites.shape[1]
    lattice = jnp.repeat(jnp.asarray(kept.keeps_lattice)[:, None], 3, axis=1)
    known = jnp.concatenate([jnp.pad(sites, ((0, 0), (0, padding))), lattice], axis=1)
    return jnp.broadcast_to(known[..., None], (*known.shape, 3))


@dataclasses.dataclass(frozen=True, eq=False)
class Batch:
    """Samples that are made at once.

    Attributes:
        numbers: of the samples, ascending.
        rows: of their sample tensors.
        size: that the compiled function gets; beyond ``numbers`` the last is repeated.
    """

    numbers: np.ndarray
    rows: int
    size: int


def plan_batches(
    num_sites: Int[np.ndarray, " samples"],
    numbers: Int[np.ndarray, " wanted"],
    *,
    row_buckets: tuple[int, ...],
    batch_size: int,
    num_devices: int,
) -> list[Batch]:
    """Batches of crystals with the same rows, in the order of their first samples.

    Args:
        num_sites: of all samples.
        numbers: of the samples wanted, ascending.
        row_buckets: rows to choose among, ascending.
        batch_size: samples at a time; fewer where a bucket has fewer.
        num_devices: that batches are split over; divides ``batch_size``.
    """
    rows = structure.rows_of(num_sites[numbers], row_buckets)
    batches: list[Batch] = []
    for bucket in row_buckets:
        members = numbers[rows == bucket]
        size = min(batch_size, sufficient_size(len(members), num_devices))
        batches += [
            Batch(members[start : start + size], bucket, size)
            for start in range(0, len(members), size)
        ]
    return sorted(batches, key=lambda batch: int(batch.numbers[0]))


def sufficient_size(num_samples: int, num_devices: int) -> int:
    """Size of one batch for all samples.

    A power of two, so that requests of about the same size share a compiled function,
    rounded up to a multiple of ``num_devices``.
    """
    size = 1 << max(num_samples - 1, 0).bit_length()
    return -(-size // num_devices) * num_devices


def pad_batch(
    conditions: Conditions, batch: Batch, host: HostWork = NO_HOST_WORK
) -> tuple[Conditions, Int[np.ndarray, " size"]]:
    """What the compiled function gets, on the host: conditions and sample numbers."""
    padding = batch.size - len(batch.numbers)
    indices = np.pad(batch.numbers, (0, padding), mode="edge")
    sites = structure.max_sites(batch.rows)
    taken: Any = jax.tree.map(lambda array: array[indices], conditions)
    taken = taken.replace(atomic_numbers=taken.atomic_numbers[:, :sites])
    if taken.source is not None:
        coords = taken.source.frac_coords[:, :sites]
        taken = taken.replace(source=taken.source.replace(frac_coords=coords))
    if taken.kept is not None:
        kept = taken.kept
        taken = taken.replace(
            kept=kept.replace(
                frac_coords=kept.frac_coords[:, :sites],
                is_kept=kept.is_kept[:, :sites],
            )
        )
    if (count := host.num_draws) > 1:
        # Draws for one sample follow the same template: of the nearest comes most.
        taken = jax.tree.map(lambda array: np.repeat(array, count, axis=0), taken)
        indices = (indices[:, None] * count + np.arange(count)).ravel()
    if host.attach_fn is not None:
        taken = host.attach_fn(taken)
    # It has done its work.
    taken = taken.replace(repetition=None)
    return taken, indices.astype(np.int32)


def generate_batches(
    generator: Generator,
    conditions: Conditions,
    key: Array,
    batches: Sequence[Batch],
) -> Iterator[tuple[list[int], list[structure.Crystal]]]:
    """Yields numbers of samples with their crystals, batch by batch.

    The next batch is on the device while the caller works on one. A batch that does
    not fit into memory is made in halves, with a warning, and so are the others of its
    size.

    Args:
        generator: what makes them.
        conditions: of all samples, on the host.
        key: of the whole run; sample i uses ``fold_in(key, i)``.
        batches: from `plan_batches`.
    """
    mesh, host = generator.mesh, generator.host
    waiting = collections.deque(batches)
    running: collections.deque[tuple[Batch, Any]] = collections.deque()
    # Rows of all samples of a batch that are known to be too many.
    too_many = float("inf")

    def dispatch(batch):
        inputs = sharding.shard_batch(pad_batch(conditions, batch, host), mesh)
        return generator.generate_fn(*generator.numbers, inputs[0], key, inputs[1])

    while waiting or running:
        is_new = bool(waiting) and len(running) < _NUM_IN_FLIGHT
        batch, result = (waiting.popleft(), None) if is_new else running.popleft()
        if is_new and batch.size > mesh.size and batch.size * batch.rows >= too_many:
            waiting.extendleft(reversed(_halve(batch, mesh)))
            continue
        try:
            if is_new:
                running.append((batch, dispatch(batch)))
                continue
            # Computation is asynchronous: what it raises appears here.
            coords, lattice = jax.device_get(result)
        except jax.errors.JaxRuntimeError as error:
            if not is_out_of_memory(error) or batch.size <= mesh.size:
                raise
            if batch.size * batch.rows < too_many:
                too_many = batch.size * batch.rows
                warnings.warn(
                    f"{batch.size} samples of {batch.rows} rows at a time do not fit "
                    "into memory; going on with half as many",
                    stacklevel=2,
                )
            waiting.appendleft(batch)
            continue
        made = crystals_of(
            conditions, np.repeat(batch.numbers, host.num_draws), coords, lattice
        )
        yield batch.numbers.tolist(), _finish(generator, conditions, batch, made)


def _finish(
    generator: Generator,
    conditions: Conditions,
    batch: Batch,
    made: list[structure.Crystal],
) -> list[structure.Crystal]:
    """The crystals of a batch: refined, and picked where there are several of each."""
    groups = np.asarray(conditions.space_group)[batch.numbers].tolist()
    host, count = generator.host, generator.host.num_draws
    if conditions.kept is not None:
        # Mended crystals have moved.
        host = dataclasses.replace(host, refine_fn=None)
    if count == 1:
        if host.refine_fn is None:
            return made
        return list(map(host.refine_fn, made, groups))
    # The hot path does without spglib.
    from crystaljax.sampling import picking

    return picking.pick(
        [made[start : start + count] for start in range(0, len(made), count)],
        groups,
        np.asarray(conditions.energy)[batch.numbers].tolist(),
        estimate_fn=generator.estimate_energies,
        energy_error=generator.energy_error,
        refine_fn=host.refine_fn,
    )


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a device could not allocate what it needed."""
    return "RESOURCE_EXHAUSTED" in str(error)


def _halve(batch: Batch, mesh: Mesh) -> list[Batch]:
    size = -(-batch.size // (2 * mesh.size)) * mesh.size
    return [
        Batch(batch.numbers[start : start + size], batch.rows, size)
        for start in range(0, len(batch.numbers), size)
    ]


def crystals_of(
    conditions: Conditions,
    numbers: np.ndarray,
    coords: np.ndarray,
    lattice: np.ndarray,
) -> list[structure.Crystal]:
    """Crystals of samples, from arrays with a row for each of ``numbers``."""
    return [
        structure.Crystal(
            np.asarray(conditions.atomic_numbers[number, :num_sites]),
            np.asarray(coords[row, :num_sites], dtype=np.float64),
            np.asarray(lattice[row], dtype=np.float64),
        )
        for row, (number, num_sites) in enumerate(
            zip(numbers, conditions.num_sites[numbers], strict=True)
        )
    ]


def key_of_seed(seed: int) -> Array:
    """The key of a run."""
    return jax.random.key(jnp.uint32(seed))
