"""p(space group | formula, energy) and p(positions | formula, space group, energy).

Species are in the order of `standard_choice.species_order`, and fill positions one
after the other (`wyckoff_assignments`), so that whatever is drawn fits the formula.
The likeliest assignments are found by a beam, which is exact where there are no more of
them than it is wide. What the nearest known structures have is an input.
"""

import collections
import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool

from crystaljax.crystals import (
    orbits,
    space_groups,
    standard_choice,
    wyckoff,
    wyckoff_assignments,
)
from crystaljax.models import (
    orbit_estimator,
    prototype_library,
    prototype_structures,
)
from crystaljax.models.networks import wyckoff_networks
from crystaljax.system import errors

# Farther is as far.
_MAX_DISTANCE = 5.0
# What is less probable than the likeliest by this is not followed.
_NEGLIGIBLE = 1e-4
# States whose probabilities are computed at once, always as many, padded; and of their
# options as many as most of them have, or all.
_BATCH_SIZES = (64, 512)
_FEW_OPTIONS = 8

Inputs = dict[str, Any]


def assignment_of(crystal: orbits.OrbitCrystal) -> wyckoff_assignments.Assignment:
    """Which positions the species of a crystal fill, in the order of its species."""
    numbers = orbits.expand(crystal).atomic_numbers
    return tuple(
        tuple(sorted(crystal.positions[crystal.atomic_numbers == each].tolist()))
        for each in standard_choice.species_order(numbers)
    )


def orbits_of(
    question: prototype_library.Question, assignment: wyckoff_assignments.Assignment
) -> tuple[np.ndarray, np.ndarray]:
    """Atomic numbers and positions of the orbits, as `standard_choice.choose` has."""
    numbers = [
        number
        for number, filled in zip(question.species, assignment, strict=True)
        for _ in filled
    ]
    positions = [index for filled in assignment for index in filled]
    return np.array(numbers), np.array(positions)


# ------------------------------------------------------------------------------- inputs
@functools.lru_cache(maxsize=1 << 16)
def _mask(partial: wyckoff_assignments.Partial) -> Bool[np.ndarray, "27"]:
    return wyckoff_assignments.option_mask(partial)


def position_inputs(
    partial: wyckoff_assignments.Partial,
    question: prototype_library.Question,
    shown: Sequence[wyckoff_assignments.Assignment],
    of_species: Inputs,
) -> Inputs:
    """What the network is given for one step.

    Args:
        partial: assignment so far.
        question: about it.
        shown: assignments of the nearest known structures.
        of_species: what all steps of the question have in common, `_species_inputs`.
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
    return of_species | {
        "role": np.int32(min(partial.species, last_role)),
        "left": np.int32(min(partial.left, wyckoff_networks.MAX_COUNT)),
        "used": used,
        "votes": votes,
        "space_group": np.int32(question.space_group),
        "mask": _mask(partial),
    }


def group_inputs(
    question: prototype_library.Question,
    library: prototype_library.Library,
    without: prototype_library.Shares | None = None,
) -> Inputs:
    """What the network of groups is given."""
    count = wyckoff_networks.NUM_VOTES
    members, distances = library.nearest(question, count, without)
    voted = np.zeros(count, np.int32)
    voted[: len(members)] = library.space_groups[members]
    return _species_inputs(question, distances) | {
        "voted": voted,
        "mask": _possible_groups(tuple(sorted(question.counts))),
    }


def energy_inputs(
    question: prototype_library.Question,
    library: prototype_library.Library,
    without: prototype_library.Shares | None = None,
) -> Inputs:
    """What the network of energies is given; the question's own is not among it."""
    count = wyckoff_networks.NUM_VOTES
    question = dataclasses.replace(question, energy=np.nan, space_group=0)
    members, distances = library.nearest(question, count, without)
    voted = np.zeros(count, np.float32)
    voted[: len(members)] = library.energies[members]
    return _species_inputs(question, distances) | {
        "voted_energies": voted,
        "energy": np.float32(0),
    }


@functools.lru_cache(maxsize=1 << 14)
def _possible_groups(counts: tuple[int, ...]) -> Bool[np.ndarray, "231"]:
    numbers = range(1, space_groups.NUM_SPACE_GROUPS + 1)
    return np.append(False, wyckoff.find_feasible([counts], numbers)[0])


def _species_inputs(
    question: prototype_library.Question, distances: np.ndarray
) -> Inputs:
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
    question: prototype_library.Question,
    assignment: wyckoff_assignments.Assignment,
    library: prototype_library.Library,
    without: prototype_library.Shares | None = None,
) -> list[tuple[Inputs, int]]:
    """The steps that lead to an assignment: inputs, and the position that is filled.

    Raises:
        UserError: the assignment does not fit the question.
    """
    count = wyckoff_networks.NUM_VOTES
    members, distances = library.nearest(question, count, without)
    shown = [library.assignments[i] for i in members]
    of_species = _species_inputs(question, distances)
    partial = wyckoff_assignments.begin(question.space_group, question.counts)
    steps = []
    for filled in assignment:
        for index in filled:
            steps.append((position_inputs(partial, question, shown, of_species), index))
            partial = wyckoff_assignments.place(partial, index)
    return steps


# ------------------------------------------------------------------------------ answers
@functools.lru_cache(maxsize=16)
def _compiled(
    kind: Callable[[int], Any], width: int, activation: Callable[..., Any] | None
) -> Callable[..., Any]:
    """``(params, *inputs)`` → answers of a network of this kind and width.

    The same function for the same arguments: a model that is loaded again is not
    compiled again.
    """
    network = kind(width)

    def apply(params, *inputs):
        logits = network.apply(params, *inputs)
        return logits if activation is None else activation(logits)

    return jax.jit(apply)


@dataclasses.dataclass(frozen=True, eq=False)
class WyckoffModel:
    """Trained networks with the structures whose answers they are shown.

    Attributes:
        library: of known prototypes.
        position_params: of one or more `PositionNetwork`, whose probabilities are
            averaged.
        group_params: of a `GroupNetwork`.
        energy_params: of an `EnergyNetwork`.
        width: of the networks.
        structures: of the entries of the library; None where none were kept.
        estimator: of the energies of crystals; None where there is none.
    """

    library: prototype_library.Library
    position_params: Sequence[Any]
    group_params: Any
    energy_params: Any
    width: int = 128
    structures: prototype_structures.PrototypeStructures | None = None
    estimator: orbit_estimator.OrbitEstimator | None = None

    @property
    def _position_fn(self) -> Callable[..., Any]:
        network = wyckoff_networks.PositionNetwork
        return _compiled(network, self.width, jax.nn.softmax)

    @property
    def _group_fn(self) -> Callable[..., Any]:
        network = wyckoff_networks.GroupNetwork
        return _compiled(network, self.width, jax.nn.log_softmax)

    @property
    def _energy_fn(self) -> Callable[..., Any]:
        return _compiled(wyckoff_networks.EnergyNetwork, self.width, None)

    @functools.cached_property
    def _table(self) -> np.ndarray:
        return wyckoff_networks.position_features()

    def _step_probabilities(self, inputs: Sequence[Inputs]) -> np.ndarray:
        """Logarithms of the probabilities of all positions, (inputs, 27)."""
        masks = np.array([each["mask"] for each in inputs])
        found = np.zeros(masks.shape)
        num_options = masks.sum(axis=1)
        # The only position that there is, is certain.
        found[num_options == 1] = masks[num_options == 1]
        few = (num_options > 1) & (num_options <= _FEW_OPTIONS)
        for chosen, most in ((few, _FEW_OPTIONS), (num_options > _FEW_OPTIONS, 27)):
            rows = np.flatnonzero(chosen)
            # Options first, in order.
            options = np.argsort(~masks[rows], axis=1, kind="stable")[:, :most]
            used = np.take_along_axis(masks[rows], options, axis=1)
            shares = self._option_probabilities(
                [inputs[row] for row in rows.tolist()], np.where(used, options, -1)
            )
            found[rows[:, None], options] = np.where(used, shares, 0)
        return np.log(np.maximum(found, 1e-30))

    def _option_probabilities(
        self, inputs: Sequence[Inputs], options: np.ndarray
    ) -> np.ndarray:
        """Probabilities of positions, (inputs, options); -1 stands for no option."""
        results = np.zeros(options.shape)
        start = 0
        while start < len(inputs):
            left = len(inputs) - start
            size = _BATCH_SIZES[left > 2 * _BATCH_SIZES[0]]
            part = slice(start, start + size)
            batch = stack(inputs[part]) | {"options": options[part]}
            rows = np.minimum(np.arange(size), min(left, size) - 1)
            batch = {name: values[rows] for name, values in batch.items()}
            shares = [
                np.asarray(self._position_fn(params, batch, self._table))
                for params in self.position_params
            ]
            results[part] = np.mean(shares, axis=0)[: min(left, size)]
            start += size
        return results

    def likely_assignments(
        self,
        questions: Sequence[prototype_library.Question],
        count: int,
        width: int = 64,
        kept: Sequence[wyckoff_assignments.Assignment] | None = None,
        least: float = _NEGLIGIBLE,
    ) -> list[list[tuple[float, wyckoff_assignments.Assignment]]]:
        """The likeliest assignments of each question, with log probabilities.

        Those that the normaliser relates are one, `wyckoff_assignments.canonical`: its
        likeliest description stands for all, with the sum of their probabilities. Where
        positions are kept each stands for itself: another origin is another place
        beside what is kept.

        Args:
            questions: with their space groups.
            count: assignments of each; fewer where there are not so many.
            width: of the beam.
            kept: of each question, positions that its species fill in any case.
            least: probability, relative to the likeliest, below which an assignment is
                left out, and its beginnings are not followed.

        Raises:
            UserError: a group cannot hold the sites of a question.
        """
        negligible = math.log(least)
        shown = []
        beams: list[list[tuple[float, wyckoff_assignments.Partial]]] = []
        for number, each in enumerate(questions):
            members, distances = self.library.nearest(each, wyckoff_networks.NUM_VOTES)
            assignments = [self.library.assignments[i] for i in members]
            shown.append((assignments, _species_inputs(each, distances)))
            start = wyckoff_assignments.begin(
                each.space_group, each.counts, kept[number] if kept else None
            )
            if not _mask(start).any():
                raise errors.UserError(
                    f"space group {each.space_group} cannot hold {list(each.counts)} "
                    "sites in its primitive cell; expected another group, or other "
                    "formula units"
                )
            beams.append([(0.0, start)])
        done: list[dict[Any, list]] = [collections.defaultdict(list) for _ in questions]
        complete = [-np.inf] * len(questions)
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
                # Of those that are complete, and of these.
                best = max([complete[number], *(each[0] for each in options[:1])])
                for logarithm, partial, index in options[:width]:
                    if logarithm < best + negligible:
                        break
                    following = wyckoff_assignments.place(partial, index)
                    if not following.is_complete:
                        beams[number].append((logarithm, following))
                        continue
                    complete[number] = max(complete[number], logarithm)
                    key = following.filled
                    if not kept:
                        key = wyckoff_assignments.canonical(following.space_group, key)
                    done[number][key].append((logarithm, following.filled))
        return [_merge(found, count) for found in done]

    def group_probabilities(
        self, questions: Sequence[prototype_library.Question]
    ) -> np.ndarray:
        """Logarithms of the probabilities of groups, (questions, 231)."""
        inputs = stack([group_inputs(each, self.library) for each in questions])
        return np.asarray(self._group_fn(self.group_params, inputs))

    def likely_energies(
        self, questions: Sequence[prototype_library.Question]
    ) -> np.ndarray:
        """Energies that the formulas are known to have, in the unit of `Question`."""
        inputs = stack([energy_inputs(each, self.library) for each in questions])
        return np.asarray(self._energy_fn(self.energy_params, inputs))


def _merge(
    found: Mapping[Any, list[tuple[float, wyckoff_assignments.Assignment]]], count: int
) -> list[tuple[float, wyckoff_assignments.Assignment]]:
    """One entry for all descriptions of the same, the likeliest first."""
    merged = [
        (float(np.logaddexp.reduce([each[0] for each in same])), max(same)[1])
        for same in found.values()
    ]
    return sorted(merged, reverse=True)[:count]
