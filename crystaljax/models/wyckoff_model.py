"""p(space group | formula, energy) and p(positions | formula, space group, energy).

Species are in the order of `standard_choice.species_order`, and fill positions one
after the other (`wyckoff_assignments`), so that whatever is drawn fits the formula.
The likeliest assignments are found by a beam, which is exact where there are no more of
them than it is wide. What the nearest known structures have is an input.
"""

import collections
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool

from crystaljax.crystals import (
    elements,
    orbits,
    space_groups,
    standard_choice,
    wyckoff,
    wyckoff_assignments,
)
from crystaljax.models.networks import wyckoff_networks
from crystaljax.system import errors

# Mendeleev numbers that count as much as one deviation of the energy.
_NUMBERS_PER_DEVIATION = 10
# Farther is as far.
_MAX_DISTANCE = 5.0
# States whose probabilities are computed at once; always as many, padded.
_BATCH_SIZES = (64, 1024)

Inputs = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Question:
    """What positions, or a group, are wanted for.

    Attributes:
        species: atomic numbers in the order of `standard_choice.species_order`.
        counts: sites of each in the primitive cell.
        energy: in deviations of the training structures from their mean.
        space_group: 1-230; 0 where it is what is asked for.
    """

    species: tuple[int, ...]
    counts: tuple[int, ...]
    energy: float
    space_group: int = 0

    @property
    def formula(self) -> str:
        """Reduced formula."""
        return elements.reduced_formula(np.repeat(self.species, self.counts))


def question_of(
    atomic_numbers: np.ndarray, energy: float, space_group: int = 0, num_cells: int = 1
) -> Question:
    """A question about a cell that holds ``num_cells`` primitive cells.

    Raises:
        UserError: the sites cannot be divided among these.
    """
    numbers = np.asarray(atomic_numbers)
    counts = collections.Counter(numbers[numbers > 0].tolist())
    if any(count % num_cells for count in counts.values()):
        raise errors.UserError(
            f"a cell of {dict(counts)} sites cannot be {num_cells} primitive cells; "
            "expected a divisor of all numbers"
        )
    species = tuple(standard_choice.species_order(numbers[numbers > 0]))
    return Question(
        species,
        tuple(counts[each] // num_cells for each in species),
        float(energy),
        int(space_group),
    )


def assignment_of(crystal: orbits.OrbitCrystal) -> wyckoff_assignments.Assignment:
    """Which positions the species of a crystal fill, in the order of its species."""
    numbers = orbits.expand(crystal).atomic_numbers
    return tuple(
        tuple(sorted(crystal.positions[crystal.atomic_numbers == each].tolist()))
        for each in standard_choice.species_order(numbers)
    )


def orbits_of(
    question: Question, assignment: wyckoff_assignments.Assignment
) -> tuple[np.ndarray, np.ndarray]:
    """Atomic numbers and positions of the orbits, as `standard_choice.choose` has."""
    numbers = [
        number
        for number, filled in zip(question.species, assignment, strict=True)
        for _ in filled
    ]
    positions = [index for filled in assignment for index in filled]
    return np.array(numbers), np.array(positions)


@dataclasses.dataclass(frozen=True, eq=False)
class Library:
    """Known structures, whose answers are shown with a question.

    Attributes:
        questions: with their space groups.
        assignments: of each.
    """

    questions: Sequence[Question]
    assignments: Sequence[wyckoff_assignments.Assignment]

    @functools.cached_property
    def _by_counts(self) -> Mapping[Any, np.ndarray]:
        members = collections.defaultdict(list)
        for index, each in enumerate(self.questions):
            members[each.counts].append(index)
            members[each.counts, each.space_group].append(index)
        return {key: np.array(found) for key, found in members.items()}

    @functools.cached_property
    def _formulas(self) -> np.ndarray:
        return np.array([each.formula for each in self.questions])

    @functools.cached_property
    def _energies(self) -> np.ndarray:
        return np.array([each.energy for each in self.questions])

    def nearest(self, question: Question, count: int) -> tuple[list[int], np.ndarray]:
        """Structures of other formulas, the nearest first, and their distances.

        They have the same counts, and the same group if the question has one.
        """
        key: Any = question.counts
        if question.space_group:
            key = (question.counts, question.space_group)
        members = self._by_counts.get(key, np.zeros(0, int))
        members = members[self._formulas[members] != question.formula]
        if not len(members):
            return [], np.zeros(0)
        numbers = elements.mendeleev_number()
        theirs = np.array([self.questions[i].species for i in members.tolist()])
        apart = numbers[theirs] - numbers[list(question.species)]
        squares = np.mean((apart / _NUMBERS_PER_DEVIATION) ** 2, axis=1)
        squares += (self._energies[members] - question.energy) ** 2
        order = np.argsort(squares, kind="stable")[:count]
        return members[order].tolist(), np.sqrt(squares[order])


# ------------------------------------------------------------------------------- inputs
@functools.lru_cache(maxsize=1 << 16)
def _mask(partial: wyckoff_assignments.Partial) -> Bool[np.ndarray, "27"]:
    return wyckoff_assignments.option_mask(partial)


def position_inputs(
    partial: wyckoff_assignments.Partial,
    question: Question,
    shown: Sequence[wyckoff_assignments.Assignment],
    distances: np.ndarray,
) -> Inputs:
    """What the network is given for one step.

    Args:
        partial: assignment so far.
        question: about it.
        shown: assignments of the nearest known structures.
        distances: to these.
    """
    used = np.zeros((wyckoff_networks.NUM_ROLES, 27), np.float32)
    last_role = wyckoff_networks.NUM_ROLES - 1
    for role, filled in enumerate(partial.filled):
        for index in filled:
            used[min(role, last_role), index] += 1
    votes = np.zeros((wyckoff_networks.NUM_VOTES, 27), np.float32)
    for row, assignment in enumerate(shown[: wyckoff_networks.NUM_VOTES]):
        following = _following(assignment, partial.filled)
        if following is not None:
            votes[row, following] = 1
    return _species_inputs(question, distances) | {
        "role": np.int32(min(partial.species, last_role)),
        "left": np.int32(min(partial.left, wyckoff_networks.MAX_COUNT)),
        "used": used,
        "votes": votes,
        "space_group": np.int32(question.space_group),
        "mask": _mask(partial),
    }


def group_inputs(question: Question, library: Library) -> Inputs:
    """What the network of groups is given."""
    members, distances = library.nearest(question, wyckoff_networks.NUM_VOTES)
    voted = np.zeros(wyckoff_networks.NUM_VOTES, np.int32)
    voted[: len(members)] = [library.questions[i].space_group for i in members]
    return _species_inputs(question, distances) | {
        "voted": voted,
        "mask": _possible_groups(tuple(sorted(question.counts))),
    }


@functools.lru_cache(maxsize=1 << 14)
def _possible_groups(counts: tuple[int, ...]) -> Bool[np.ndarray, "231"]:
    numbers = range(1, space_groups.NUM_SPACE_GROUPS + 1)
    return np.append(False, wyckoff.find_feasible([counts], numbers)[0])


def _species_inputs(question: Question, distances: np.ndarray) -> Inputs:
    shown = slice(0, wyckoff_networks.NUM_ROLES)
    species = np.zeros(wyckoff_networks.NUM_ROLES, np.int32)
    counts = np.zeros(wyckoff_networks.NUM_ROLES, np.int32)
    species[: len(question.species[shown])] = question.species[shown]
    counts[: len(question.counts[shown])] = question.counts[shown]
    padded = np.full(wyckoff_networks.NUM_VOTES, _MAX_DISTANCE, np.float32)
    padded[: len(distances)] = np.minimum(distances, _MAX_DISTANCE)
    return {
        "species": species,
        "counts": np.minimum(counts, wyckoff_networks.MAX_COUNT),
        "energy": np.float32(question.energy),
        "distances": padded,
    }


def _following(
    assignment: wyckoff_assignments.Assignment,
    filled: wyckoff_assignments.Assignment,
) -> int | None:
    """What comes after a beginning in an assignment; None if it begins otherwise."""
    role = len(filled) - 1
    if role >= len(assignment) or assignment[:role] != filled[:role]:
        return None
    mine, theirs = filled[role], assignment[role]
    if len(theirs) <= len(mine) or theirs[: len(mine)] != mine:
        return None
    return theirs[len(mine)]


def stack(inputs: Sequence[Inputs]) -> Inputs:
    """Inputs of a batch."""
    return {name: np.stack([each[name] for each in inputs]) for name in inputs[0]}


def steps_of(
    question: Question,
    assignment: wyckoff_assignments.Assignment,
    library: Library,
) -> list[tuple[Inputs, int]]:
    """The steps that lead to an assignment: inputs, and the position that is filled.

    Raises:
        UserError: the assignment does not fit the question.
    """
    members, distances = library.nearest(question, wyckoff_networks.NUM_VOTES)
    shown = [library.assignments[i] for i in members]
    partial = wyckoff_assignments.begin(question.space_group, question.counts)
    steps = []
    for filled in assignment:
        for index in filled:
            steps.append((position_inputs(partial, question, shown, distances), index))
            partial = wyckoff_assignments.place(partial, index)
    return steps


# ------------------------------------------------------------------------------ answers
@dataclasses.dataclass(frozen=True, eq=False)
class WyckoffModel:
    """Trained networks with the structures whose answers they are shown.

    Attributes:
        library: of known structures.
        position_params: of one or more `PositionNetwork`, whose probabilities are
            averaged.
        group_params: of a `GroupNetwork`.
        width: of the networks.
    """

    library: Library
    position_params: Sequence[Any]
    group_params: Any
    width: int = 128

    @functools.cached_property
    def _position_fn(self) -> Callable[[Any, Inputs, Any], Any]:
        network = wyckoff_networks.PositionNetwork(self.width)

        def probabilities(params, inputs, table):
            return jax.nn.softmax(network.apply(params, inputs, table))

        return jax.jit(probabilities)

    @functools.cached_property
    def _group_fn(self) -> Callable[[Any, Inputs], Any]:
        network = wyckoff_networks.GroupNetwork(self.width)
        return jax.jit(lambda params, x: jax.nn.log_softmax(network.apply(params, x)))

    @functools.cached_property
    def _table(self) -> np.ndarray:
        return wyckoff_networks.position_features()

    def _step_probabilities(self, inputs: Sequence[Inputs]) -> np.ndarray:
        """Logarithms of the probabilities of all positions, (inputs, 27)."""
        results = []
        start = 0
        while start < len(inputs):
            size = _BATCH_SIZES[len(inputs) - start > _BATCH_SIZES[0]]
            part = inputs[start : start + size]
            batch = stack([*part, *[part[-1]] * (size - len(part))])
            found = np.mean(
                [
                    self._position_fn(params, batch, self._table)
                    for params in self.position_params
                ],
                axis=0,
            )
            results.append(found[: len(part)])
            start += size
        return np.log(np.maximum(np.concatenate(results), 1e-30))

    def likely_assignments(
        self, questions: Sequence[Question], count: int, width: int = 64
    ) -> list[list[tuple[float, wyckoff_assignments.Assignment]]]:
        """The likeliest assignments of each question, with log probabilities.

        Those that the normaliser relates are one, `wyckoff_assignments.canonical`: its
        likeliest description stands for all, with the sum of their probabilities.

        Args:
            questions: with their space groups.
            count: assignments of each; fewer where there are not so many.
            width: of the beam.

        Raises:
            UserError: a group cannot hold the sites of a question.
        """
        shown = []
        beams: list[list[tuple[float, wyckoff_assignments.Partial]]] = []
        for each in questions:
            members, distances = self.library.nearest(each, wyckoff_networks.NUM_VOTES)
            shown.append(([self.library.assignments[i] for i in members], distances))
            start = wyckoff_assignments.begin(each.space_group, each.counts)
            if not _mask(start).any():
                raise errors.UserError(
                    f"space group {each.space_group} cannot hold {list(each.counts)} "
                    "sites in its primitive cell; expected another group, or other "
                    "formula units"
                )
            beams.append([(0.0, start)])
        done: list[dict[Any, list]] = [collections.defaultdict(list) for _ in questions]
        while any(beams):
            where = [
                (number, logarithm, partial)
                for number, beam in enumerate(beams)
                for logarithm, partial in beam
            ]
            inputs = [
                position_inputs(partial, questions[number], *shown[number])
                for number, _, partial in where
            ]
            table = self._step_probabilities(inputs)
            grown: list[list] = [[] for _ in questions]
            for (number, logarithm, partial), row in zip(where, table, strict=True):
                for index in np.flatnonzero(_mask(partial)).tolist():
                    total = logarithm + float(row[index])
                    grown[number].append((total, partial, index))
            for number, options in enumerate(grown):
                options.sort(key=lambda option: -option[0])
                beams[number] = []
                for logarithm, partial, index in options[:width]:
                    following = wyckoff_assignments.place(partial, index)
                    if not following.is_complete:
                        beams[number].append((logarithm, following))
                        continue
                    key = wyckoff_assignments.canonical(
                        following.space_group, following.filled
                    )
                    done[number][key].append((logarithm, following.filled))
        return [_merge(found, count) for found in done]

    def group_probabilities(self, questions: Sequence[Question]) -> np.ndarray:
        """Logarithms of the probabilities of groups, (questions, 231)."""
        inputs = stack([group_inputs(each, self.library) for each in questions])
        return np.asarray(self._group_fn(self.group_params, inputs))


def _merge(
    found: Mapping[Any, list[tuple[float, wyckoff_assignments.Assignment]]], count: int
) -> list[tuple[float, wyckoff_assignments.Assignment]]:
    """One entry for all descriptions of the same, the likeliest first."""
    merged = [
        (float(np.logaddexp.reduce([each[0] for each in same])), max(same)[1])
        for same in found.values()
    ]
    return sorted(merged, reverse=True)[:count]
