"""From questions to crystals by way of their orbits: positions first, then the flow.

The device does all that is between conditions and arrays in one compiled call of a
fixed shape: noise, sampler, expansion to all sites, lattice. The host looks the
positions up, and decodes.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Integer

from crystaljax.crystals import (
    orbits,
    standard_choice,
    standard_groups,
    structure,
    wyckoff,
    wyckoff_assignments,
)
from crystaljax.models import orbit_flow, processes, scaling, wyckoff_model
from crystaljax.models.networks import orbit_transformer
from crystaljax.system import errors

# The path from noise to crystals, in training and sampling.
PROCESS = processes.FlowMatching(
    processes.sample_torus, period=1.0, answer="direction", time_power=2.0
)


@dataclasses.dataclass(frozen=True, eq=False)
class Request:
    """A crystal that is wanted, down to the positions of its orbits.

    Attributes:
        question: its primitive cell's formula, its space group and energy.
        assignment: which positions the species fill.
        num_cells: primitive cells in the cell that is to be made.
        probability: of the assignment, by the model; 1 where it was given.
    """

    question: wyckoff_model.Question
    assignment: wyckoff_assignments.Assignment
    num_cells: int = 1
    probability: float = 1.0


def find_question(
    atomic_numbers: Integer[np.ndarray, " sites"], space_group: int, energy: float
) -> tuple[wyckoff_model.Question, int]:
    """The question that a cell's formula is, with the number of its primitive cells.

    The cell is a primitive one if the group can hold the sites so, else of as few
    primitive cells as there must be.

    Args:
        atomic_numbers: of the cell.
        space_group: 1-230.
        energy: in deviations of the training structures from their mean.

    Raises:
        UserError: the group cannot have the formula; the message names cell sizes that
            it can have.
    """
    whole = wyckoff_model.question_of(atomic_numbers, energy, space_group)
    divisor = math.gcd(*whole.counts)
    for num_cells in range(1, divisor + 1):
        if divisor % num_cells:
            continue
        question = wyckoff_model.question_of(
            atomic_numbers, energy, space_group, num_cells
        )
        if wyckoff_assignments.count_assignments(space_group, question.counts):
            return question, num_cells
    largest = 4 * sum(whole.counts)
    units = wyckoff_assignments.formula_units(space_group, whole.counts, largest)
    remedy = "expected another group"
    if units:
        sizes = [str(sum(whole.counts) // divisor * each) for each in units[:3]]
        remedy = f"expected another group, or cells of {', '.join(sizes)} sites"
    raise errors.UserError(
        f"space group {space_group} cannot hold {list(whole.counts)} sites: its "
        f"positions hold {wyckoff.describe_positions(space_group)}; {remedy}"
    )


def choose_positions(
    model: wyckoff_model.WyckoffModel,
    questions: Sequence[tuple[wyckoff_model.Question, int]],
    *,
    num_samples: int = 1,
    seed: int = 0,
    num_considered: int = 16,
) -> list[list[Request]]:
    """Requests for each question: the likeliest positions first, then drawn ones.

    Args:
        model: of positions.
        questions: with their numbers of primitive cells, `find_question`.
        num_samples: requests for each. The first has the likeliest positions; others
            are drawn by their probability from the likeliest ``num_considered``.
        seed: of the draws; those of a question depend on its number alone.
        num_considered: assignments that are drawn from.
    """
    likely = model.likely_assignments([each for each, _ in questions], num_considered)
    requests = []
    for number, ((question, num_cells), found) in enumerate(
        zip(questions, likely, strict=True)
    ):
        probabilities = np.exp([logarithm for logarithm, _ in found])
        rng = np.random.default_rng((seed, number))
        drawn = rng.choice(
            len(found), num_samples - 1, p=probabilities / probabilities.sum()
        )
        requests.append(
            [
                Request(question, found[i][1], num_cells, float(probabilities[i]))
                for i in [0, *drawn.tolist()]
            ]
        )
    return requests


def build_conditions(
    requests: Sequence[Request], num_orbits: int, num_sites: int
) -> orbit_transformer.OrbitConditions:
    """What the network is given, in one shape.

    Raises:
        UserError: a request has more orbits than ``num_orbits``.
    """
    shape = (len(requests), num_orbits)
    numbers, positions = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    anchors = np.zeros(len(requests), np.int32)
    counts = np.array([sum(each.question.counts) for each in requests], int)
    for row, request in enumerate(requests):
        of_row, places = wyckoff_model.orbits_of(request.question, request.assignment)
        if len(places) > num_orbits:
            raise errors.UserError(
                f"{request.question.formula} has {len(places)} orbits, more than "
                f"num_orbits={num_orbits}; use a model that holds more"
            )
        numbers[row, : len(of_row)] = of_row
        positions[row, : len(places)] = places + 1
        sizes = [len(filled) for filled in request.assignment]
        anchors[row] = standard_choice.find_anchor(
            standard_groups.load_group(request.question.space_group),
            np.repeat(np.arange(len(sizes)), sizes),
            places,
        )
    return orbit_transformer.OrbitConditions(
        np.array([each.question.space_group for each in requests], np.uint8),
        numbers,
        positions,
        anchors,
        np.array([each.question.energy for each in requests], np.float32),
        np.arange(num_sites) < counts[:, None],
    )


@dataclasses.dataclass(frozen=True, eq=False)
class OrbitGenerator:
    """A trained flow that makes crystals.

    Attributes:
        model: the network.
        params: of it.
        scale: units of it.
        num_orbits, num_sites: of the arrays.
        num_steps: network evaluations.
        batch_size: crystals at a time, always as many.
    """

    model: orbit_transformer.OrbitTransformer
    params: Any
    scale: scaling.Scaling
    num_orbits: int = 20
    num_sites: int = 20
    num_steps: int = 10
    batch_size: int = 128

    @functools.cached_property
    def _sample_fn(self) -> Any:
        def sample(params, scale, tables, conditions, key, numbers):
            keys = jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)
            _, _, *crystals = orbit_flow.sample(
                self.model,
                PROCESS,
                params,
                tables,
                scale,
                conditions,
                keys,
                num_steps=self.num_steps,
            )
            return crystals

        return jax.jit(sample)

    @functools.cached_property
    def _tables(self) -> orbits.OrbitTables:
        return jax.device_put(orbits.load_tables())

    def generate(
        self, requests: Sequence[Request], key: Array
    ) -> list[structure.Crystal]:
        """A crystal for each request, exactly of its space group.

        Args:
            requests: what is wanted.
            key: of the whole run; crystal i uses ``fold_in(key, i)``, so that it is the
                same whatever the batch size.

        Raises:
            UserError: a request has more sites or orbits than the model holds.
        """
        for request in requests:
            if sum(request.question.counts) > self.num_sites:
                raise errors.UserError(
                    f"the primitive cell of {request.question.formula} has "
                    f"{sum(request.question.counts)} sites, but the model holds "
                    f"{self.num_sites}; use fewer formula units, or a model "
                    "that holds more"
                )
        crystals: list[structure.Crystal] = []
        for start in range(0, len(requests), self.batch_size):
            part = requests[start : start + self.batch_size]
            padding = self.batch_size - len(part)
            conditions = build_conditions(
                [*part, *[part[-1]] * padding], self.num_orbits, self.num_sites
            )
            made = self._sample_fn(
                self.params,
                self.scale,
                self._tables,
                conditions,
                key,
                np.arange(start, start + self.batch_size),
            )
            rows = zip(part, *jax.device_get(made), strict=False)
            crystals += [_decode(request, *arrays) for request, *arrays in rows]
        return crystals


def _decode(
    request: Request, numbers: np.ndarray, coords: np.ndarray, lattice: np.ndarray
) -> structure.Crystal:
    """All sites of the cell; where it is of several primitive ones, along a."""
    exists, count = numbers > 0, request.num_cells
    shifts = np.arange(count)[:, None, None] * np.array([1.0, 0, 0])
    repeated = (coords[exists].astype(float) + shifts) / np.array([count, 1, 1])
    return structure.Crystal(
        np.tile(numbers[exists].astype(int), count),
        repeated.reshape(-1, 3),
        lattice.astype(float) * np.array([[count], [1], [1]]),
    )
