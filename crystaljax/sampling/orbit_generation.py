"""From orbits that are wanted to crystals, in batches over the devices.

The device does all that is between conditions and arrays in one compiled call of a
fixed shape: noise, sampler, expansion to all sites, lattice. The host looks the
positions up (`likely_orbits`), and decodes.
"""

import collections
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int

from crystaljax.crystals import (
    kept_settings,
    orbits,
    standard_choice,
    standard_groups,
    structure,
)
from crystaljax.models import (
    orbit_estimator,
    orbit_flow,
    processes,
    scaling,
    wyckoff_model,
)
from crystaljax.models.networks import orbit_transformer
from crystaljax.sampling import (
    estimation,
    followed_structures,
    generation,
    kept_parts,
    likely_orbits,
)
from crystaljax.sampling.conditions import Conditions
from crystaljax.system import errors, sharding

# While the host decodes one batch, the device has the next.
_NUM_IN_FLIGHT = 2


def build_conditions(
    requests: Sequence[likely_orbits.Request], num_orbits: int, num_sites: int
) -> orbit_transformer.OrbitConditions:
    """What the network is given, in one shape.

    Raises:
        UserError: a request has more orbits than ``num_orbits``, or more sites than
            ``num_sites``.
    """
    shape = (len(requests), num_orbits)
    numbers, positions = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    anchors = np.zeros(len(requests), np.int32)
    counts = np.array([sum(each.question.counts) for each in requests], int)
    for row, request in enumerate(requests):
        of_row, places = wyckoff_model.orbits_of(request.question, request.assignment)
        require_fits(request, (num_orbits, num_sites))
        numbers[row, : len(of_row)] = of_row
        positions[row, : len(places)] = places + 1
        sizes = [len(filled) for filled in request.assignment]
        anchors[row] = standard_choice.find_anchor(
            standard_groups.load_group(request.question.space_group),
            np.repeat(np.arange(len(sizes)), sizes),
            places,
        )
        if request.kept is not None:
            # The origin is where the kept part has it.
            rows = request.kept.rows_of(request.question, request.assignment)
            anchors[row] = rows[kept_settings.anchor_of_kept(request.kept.setting.kept)]
    return orbit_transformer.OrbitConditions(
        np.array([each.question.space_group for each in requests], np.uint8),
        numbers,
        positions,
        anchors,
        np.array([each.question.energy for each in requests], np.float32),
        np.arange(num_sites) < counts[:, None],
    )


def size_of(request: likely_orbits.Request) -> tuple[int, int]:
    """Orbits and sites of the primitive cell."""
    return sum(map(len, request.assignment)), sum(request.question.counts)


def require_fits(request: likely_orbits.Request, shape: tuple[int, int]) -> None:
    """Raises UserError if a request has more orbits or sites than there is room for."""
    num_orbits, num_sites = size_of(request)
    if num_sites > shape[1]:
        raise errors.UserError(
            f"the primitive cell of {request.question.formula} has {num_sites} sites, "
            f"but the model holds {shape[1]}; use fewer formula units, or a model that "
            "holds more"
        )
    if num_orbits > shape[0]:
        raise errors.UserError(
            f"{request.question.formula} in space group {request.question.space_group} "
            f"has {num_orbits} orbits, but the model holds {shape[0]}; use another "
            "space group, or a model that holds more"
        )


@functools.lru_cache(maxsize=16)
def build_generate_fn(
    model: orbit_transformer.OrbitTransformer,
    process: processes.FlowMatching,
    num_steps: int,
    mesh: Mesh,
) -> jax.stages.Wrapped:
    """Compiles ``(params, scale, tables, conditions, shown, kept, key, indices)``.

    It makes crystals, as arrays of atomic numbers, fractional coordinates and lattices.
    Sample i draws from ``fold_in(key, i)`` alone. The same arguments give the same
    function, which this process has compiled already.
    """

    def generate(params, scale, tables, conditions, shown, kept, key, indices):
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, indices)
        _, _, *crystals = orbit_flow.sample(
            model,
            process,
            params,
            tables,
            scale,
            conditions,
            keys,
            num_steps=num_steps,
            shown=shown,
            kept=kept,
        )
        return crystals

    whole = sharding.replicated(mesh)
    over_devices = sharding.batch_sharding(mesh)
    return jax.jit(
        generate,
        in_shardings=(whole,) * 3 + (over_devices,) * 3 + (whole, over_devices),
        out_shardings=over_devices,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class OrbitGenerator:
    """A trained flow that makes crystals; as `generation.Generator`.

    Attributes:
        generate_fn: see `build_generate_fn`.
        scale: units of the network, on the mesh.
        tables: of the groups, on the mesh.
        positions: models of energies, groups and positions; None where all orbits
            are given.
        mesh: devices.
        shapes: orbits and sites of arrays, ascending: each crystal gets the smallest
            that holds it.
        batch_size: crystals at a time, over the devices of a process.
        seed: of positions that are drawn.
        follow_known: whether known structures with the positions of a sample stand in
            the place of the network's answer, see `orbit_flow.follow`.
        params: of the network, on the mesh; None until `with_params`.
        requests: orbits of each sample, see `for_conditions`.
        host: samples are not mended, and drawn once.
        energy_error: of the estimates, eV/atom; None if unknown.
    """

    generate_fn: Any
    scale: scaling.Scaling
    tables: orbits.OrbitTables
    positions: wyckoff_model.WyckoffModel | None
    mesh: Mesh
    shapes: tuple[tuple[int, int], ...]
    batch_size: int = 128
    seed: int = 0
    follow_known: bool = True
    params: Any = None
    requests: Sequence[likely_orbits.Request] = ()
    host: generation.HostWork = generation.NO_HOST_WORK
    energy_error: float | None = None

    def with_params(self, params: Any, energy_error: float | None) -> "OrbitGenerator":
        """The same with other parameters."""
        return dataclasses.replace(self, params=params, energy_error=energy_error)

    @property
    def estimate_energies(self) -> estimation.CellsFn | None:
        """(atomic_numbers, frac_coords, lattice) → energies, eV/atom; or None."""
        if self.positions is None or self.positions.estimator is None:
            return None
        estimator = self.positions.estimator
        estimate_fn = orbit_estimator.build_estimate_fn(estimator.depth)
        return functools.partial(estimate_fn, estimator.params, self.scale)

    def for_conditions(self, conditions: Conditions) -> "OrbitGenerator":
        """The same with the orbits that conditions lead to, where they are not given.

        Raises:
            UserError: see `choose`.
        """
        if self.requests:
            return self
        return dataclasses.replace(self, requests=self.choose(conditions))

    def choose(self, conditions: Conditions) -> list[likely_orbits.Request]:
        """Orbits for conditions: the first of equal ones gets the likeliest.

        Raises:
            UserError: a group cannot hold the sites of a formula.
        """
        assert self.positions is not None
        library = self.positions.library
        energies = np.asarray(self.scale.scale_energy(np.asarray(conditions.energy)))
        groups = np.asarray(conditions.space_group).tolist()
        numbers = np.asarray(conditions.atomic_numbers)
        members: dict[Any, list[int]] = collections.defaultdict(list)
        for row, group in enumerate(groups):
            members[numbers[row].tobytes(), group, float(energies[row])].append(row)
        questions = [
            likely_orbits.find_question(
                numbers[rows[0]][numbers[rows[0]] > 0],
                group,
                energy,
                library,
                self.shapes[-1][1],
            )
            for (_, group, energy), rows in members.items()
        ]
        chosen = likely_orbits.choose_orbits(
            self.positions,
            questions,
            [len(rows) for rows in members.values()],
            seed=self.seed,
            shape=self.shapes[-1],
        )
        for (question, _), found in zip(questions, chosen, strict=True):
            if not found:
                raise errors.UserError(
                    f"{question.formula} has more orbits in space group "
                    f"{question.space_group} than the {self.shapes[-1][0]} that the "
                    "model holds; use another space group, or a model that holds more"
                )
        result: list[Any] = [None] * len(groups)
        for rows, found in zip(members.values(), chosen, strict=True):
            for row, request in zip(rows, found, strict=True):
                result[row] = request
        return likely_orbits.number_repeats(result)

    def generate(
        self, requests: Sequence[likely_orbits.Request], key: Array
    ) -> list[structure.Crystal]:
        """A crystal for each request, exactly of its space group.

        Args:
            requests: what is wanted.
            key: of the whole run; crystal i uses ``fold_in(key, i)``, so that it is the
                same whatever the batch size.

        Raises:
            UserError: a request has more sites or orbits than the model holds.
        """
        made: dict[int, structure.Crystal] = {}
        batches = self._plan(requests, np.arange(len(requests)))
        for numbers, crystals in self._run(requests, key, batches):
            made.update(zip(numbers, crystals, strict=True))
        return [made[number] for number in range(len(requests))]

    def plan_batches(
        self, conditions: Conditions, numbers: Int[np.ndarray, " wanted"]
    ) -> list[generation.Batch]:
        """Batches of samples whose arrays have one shape; see `generation`."""
        return self._plan(self.requests, numbers)

    def generate_batches(
        self,
        conditions: Conditions,
        key: Array,
        batches: Sequence[generation.Batch],
    ) -> Iterator[tuple[list[int], list[structure.Crystal]]]:
        """Yields numbers of samples with their crystals, batch by batch."""
        yield from self._run(self.requests, key, batches)

    def _plan(self, requests, numbers) -> list[generation.Batch]:
        members = collections.defaultdict(list)
        for number in numbers.tolist():
            size = size_of(requests[number])
            require_fits(requests[number], self.shapes[-1])
            fitting = (
                index
                for index, shape in enumerate(self.shapes)
                if size[0] <= shape[0] and size[1] <= shape[1]
            )
            members[next(fitting)].append(number)
        batches = []
        for index, found in members.items():
            size = min(
                self.batch_size,
                generation.sufficient_size(len(found), self.mesh.size),
            )
            batches += [
                generation.Batch(np.array(found[start : start + size]), index, size)
                for start in range(0, len(found), size)
            ]
        return sorted(batches, key=lambda batch: int(batch.numbers[0]))

    def _run(self, requests, key, batches):
        model = self.positions if self.follow_known else None
        # Samples of one question that follow known structures ask the network once, so
        # that they agree in which comes first: the noise is that of the first of them.
        first: dict[Any, int] = {}
        for number, each in enumerate(requests):
            first.setdefault(likely_orbits.positions_of(each), number)
        waiting = collections.deque(batches)
        running: collections.deque[Any] = collections.deque()
        while waiting or running:
            if waiting and len(running) < _NUM_IN_FLIGHT:
                batch = waiting.popleft()
                padding = batch.size - len(batch.numbers)
                numbers = np.pad(batch.numbers, (0, padding), mode="edge")
                own = [requests[number] for number in numbers.tolist()]
                shape = self.shapes[batch.rows]
                shown = followed_structures.show(model, own, shape[0], self.scale)
                follows = np.isfinite(shown.costs).sum(axis=1) > shown.rank
                firsts = [first[likely_orbits.positions_of(each)] for each in own]
                indices = np.where(follows, firsts, numbers).astype(np.int32)
                conditions = build_conditions(own, *shape)
                kept = kept_parts.build_kept(
                    [(each.kept, each.question, each.assignment) for each in own],
                    shape[0],
                )
                conditions, shown, kept, indices = sharding.shard_batch(
                    (conditions, shown, kept, indices), self.mesh
                )
                made = self.generate_fn(
                    self.params,
                    self.scale,
                    self.tables,
                    conditions,
                    shown,
                    kept,
                    key,
                    indices,
                )
                running.append((batch.numbers.tolist(), made))
                continue
            numbers, made = running.popleft()
            rows = zip(numbers, *jax.device_get(made), strict=False)
            yield (
                numbers,
                [decode(requests[number], *arrays) for number, *arrays in rows],
            )


def decode(
    request: likely_orbits.Request,
    numbers: np.ndarray,
    coords: np.ndarray,
    lattice: np.ndarray,
) -> structure.Crystal:
    """All sites of the cell; where it is of several primitive ones, along a."""
    exists, count = numbers > 0, request.num_cells
    if request.kept is not None:
        return request.kept.finish(
            request.question,
            request.assignment,
            coords[exists].astype(float),
            lattice.astype(float),
        )
    shifts = np.arange(count)[:, None, None] * np.array([1.0, 0, 0])
    repeated = (coords[exists].astype(float) + shifts) / np.array([count, 1, 1])
    return structure.Crystal(
        np.tile(numbers[exists].astype(int), count),
        repeated.reshape(-1, 3),
        lattice.astype(float) * np.array([[count], [1], [1]]),
    )
