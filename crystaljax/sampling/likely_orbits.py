"""From what is asked to orbits: energies, space groups and positions that are likely.

A cell's formula is a question about its primitive cell (`find_question`). The models of
`wyckoff_model` answer which orbits it has, the likeliest first.
"""

import collections
import dataclasses
import math
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Integer

from crystaljax.crystals import (
    elements,
    space_groups,
    wyckoff,
    wyckoff_assignments,
)
from crystaljax.models import prototype_library, wyckoff_model
from crystaljax.sampling import kept_parts
from crystaljax.system import errors

# Space groups, and assignments of each, among which orbits are chosen.
_NUM_GROUPS = 6
_NUM_ASSIGNMENTS = 16
# Each assignment at least this probable, relative to the likeliest, is taken once
# before any is taken again.
LEAST = 0.01
# Prototypes that vote on the number of formula units, and the distance at which one
# counts e times less; chosen on the validation structures of the model `mp`.
_NUM_VOTERS = 200
_VOTING_DISTANCE = 0.3
# Probability of what the model does not list.
_IMPROBABLE = 1e-12
# Log probability of what a formula cannot be.
_IMPOSSIBLE = -50.0
# Primitive cells in the conventional cell of a centred group.
_CENTRINGS = {"P": 1, "A": 2, "C": 2, "I": 2, "R": 3, "F": 4}


@dataclasses.dataclass(frozen=True, eq=False)
class Prototype:
    """A structure that a sample is to follow.

    Attributes:
        parameters: (orbits, 3), free parameters.
        strain: (6,), the first relative to the volume that the atoms would fill.
        distance: of its elements to those requested, as that of known structures.
    """

    parameters: np.ndarray
    strain: np.ndarray
    distance: float


@dataclasses.dataclass(frozen=True, eq=False)
class Request:
    """A crystal that is wanted, down to the positions of its orbits.

    Attributes:
        question: its primitive cell's formula, its space group and energy.
        assignment: which positions the species fill.
        num_cells: primitive cells in the cell that is to be made.
        probability: of the positions, and of the group where it was not given, by the
            model; 1 where both were given.
        repeat: earlier requests for the same positions, see `number_repeats`.
        kept: a part that stays where it is in its template; None for none.
        prototype: that is followed, or a known structure that is nearly the same; None
            leaves it to the network.
    """

    question: prototype_library.Question
    assignment: wyckoff_assignments.Assignment
    num_cells: int = 1
    probability: float = 1.0
    repeat: int = 0
    kept: kept_parts.KeptPart | None = None
    prototype: Prototype | None = None

    def describe(self) -> str:
        """Positions by their letters and multiplicities, such as "Ta:1a B:2d".

        Multiplicities are those of the conventional cell, as tables have them.
        """
        group = self.question.space_group
        positions = wyckoff.load_positions(group)
        factor = centring(group)
        parts = []
        for number, filled in zip(self.question.species, self.assignment, strict=True):
            letters = "".join(
                f"{positions[index].multiplicity * factor}{positions[index].letter}"
                for index in filled
            )
            parts.append(f"{elements.symbol(number)}:{letters}")
        return " ".join(parts)


def centring(space_group: int) -> int:
    """Primitive cells in the conventional cell of a group."""
    return _CENTRINGS[space_groups.load_space_group_symbols()[space_group][0]]


def find_question(
    atomic_numbers: Integer[np.ndarray, " sites"],
    space_group: int,
    energy: float,
    library: prototype_library.Library | None = None,
    max_sites: int | None = None,
) -> tuple[prototype_library.Question, int]:
    """The question that a cell's formula is, with the number of its primitive cells.

    The cell is taken for a primitive one if the group can hold the sites so, else of as
    few primitive cells as there must be; for the conventional cell, where that is what
    makes it a prototype that is known; and never for a primitive cell that is too large
    where it can be several. Where crystals of the same elements are known, the one that
    is nearest in energy decides.

    Args:
        atomic_numbers: of the cell.
        space_group: 1-230.
        energy: in deviations of the training structures from their mean.
        library: known prototypes.
        max_sites: of a primitive cell.

    Raises:
        UserError: the group cannot have the formula; the message names cell sizes that
            it can have.
    """
    whole = prototype_library.question_of(atomic_numbers, energy, space_group)
    divisor = math.gcd(*whole.counts)
    usual = (1, centring(space_group))
    possible: list[tuple[bool, bool, float, prototype_library.Question, int]] = []
    for num_cells in range(1, divisor + 1):
        if divisor % num_cells:
            continue
        question = prototype_library.question_of(
            atomic_numbers, energy, space_group, num_cells
        )
        if wyckoff_assignments.count_assignments(space_group, question.counts):
            fits = max_sites is None or sum(question.counts) <= max_sites
            apart = np.inf if library is None else library.own_distance(question)
            known = library is None or (
                num_cells in usual and library.holds(question.counts, space_group)
            )
            known = known or np.isfinite(apart)
            possible.append((fits, known, -apart, question, num_cells))
    if possible:
        # The first of equal ones.
        *_, question, num_cells = max(possible, key=lambda each: each[:3])
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


def likely_units(
    atomic_numbers: Integer[np.ndarray, " sites"],
    space_groups: Sequence[int],
    library: prototype_library.Library,
    max_sites: int,
) -> int:
    """How many formula units the primitive cell of a formula is likely to hold.

    Known prototypes of the same formula type vote, the nearer in elements the more, and
    large cells need more of them.

    Args:
        atomic_numbers: of one formula unit.
        space_groups: that are wanted, 1-230; any if there are none.
        library: known prototypes.
        max_sites: of a cell.

    Returns:
        The fewest that a group can hold where no prototype is known, and 1 where none
        can.
    """
    question = prototype_library.question_of(atomic_numbers, math.nan)
    votes: dict[int, float] = {}
    for units in range(1, max_sites // sum(question.counts) + 1):
        counts = tuple(units * count for count in question.counts)
        for group in space_groups or (0,):
            if group and not wyckoff_assignments.count_assignments(group, counts):
                continue
            asked = dataclasses.replace(question, counts=counts, space_group=group)
            members, distances = library.nearest(asked, _NUM_VOTERS)
            weights = np.sqrt(library.sizes[members])
            weights *= np.exp(-((distances / _VOTING_DISTANCE) ** 2)) / units**0.5
            votes[units] = votes.get(units, 0.0) + float(weights.sum())
    # The first of equal ones is the smallest.
    return max(votes, key=votes.__getitem__, default=1)


def choose_orbits(
    model: wyckoff_model.WyckoffModel,
    questions: Sequence[tuple[prototype_library.Question, int]],
    num_samples: Sequence[int],
    *,
    seed: int = 0,
    shape: tuple[int, int] | None = None,
    least: float = LEAST,
) -> list[list[Request]]:
    """Requests for each question, the likeliest first.

    Assignments that are not improbable come once each, then again as often as they are
    probable. Where a question leaves the group open, groups are chosen along with them.

    Args:
        model: of groups and positions.
        questions: with their numbers of primitive cells, `find_question`.
        num_samples: requests for each question.
        seed: of what is drawn; a question's draws depend on its number alone.
        shape: orbits and sites at most; what has more is not chosen. A question of
            which nothing is left gets the fewest orbits that its group allows, and no
            requests where these are too many.
        least: probability, relative to the likeliest, down to which each assignment is
            taken once before any is taken again.
    """
    options = _expand_groups(model, questions)
    flat = [(question, cells) for each in options for question, cells, _ in each]
    unique = list(dict.fromkeys(question for question, _ in flat))
    # Where the first answer is all that is wanted, its rivals are enough.
    follow = {"least": LEAST} if max(num_samples, default=1) == 1 else {}
    likely = model.likely_assignments(unique, _NUM_ASSIGNMENTS, **follow)
    found = dict(zip(unique, likely, strict=True))
    requests = []
    for number, (each, count) in enumerate(zip(options, num_samples, strict=True)):
        ways = [
            Request(question, assignment, cells, math.exp(of_group + of_assignment))
            for question, cells, of_group in each
            for of_assignment, assignment in found[question]
            if shape is None or sum(map(len, assignment)) <= shape[0]
        ]
        if not ways and shape is not None:
            ways = _fewest_orbits(each, shape[0])
        if not ways:
            requests.append([])
            continue
        ways.sort(key=lambda way: -way.probability)
        rng = np.random.default_rng((seed, number))
        requests.append([ways[i] for i in _order(ways, count, rng, least)])
    return requests


def _fewest_orbits(
    options: Sequence[tuple[prototype_library.Question, int, float]], num_orbits: int
) -> list[Request]:
    """What the model finds improbable, but can be made."""
    for question, cells, _ in options:
        if (assignment := fewest_orbits(question, num_orbits)) is not None:
            return [Request(question, assignment, cells, _IMPROBABLE)]
    return []


def fewest_orbits(
    question: prototype_library.Question, num_orbits: int
) -> wyckoff_assignments.Assignment | None:
    """An assignment of at most so many orbits; None where none is found."""
    positions = wyckoff.load_positions(question.space_group)
    partial = wyckoff_assignments.begin(question.space_group, question.counts)
    # None that is left is a dead end.
    while not partial.is_complete:
        left = wyckoff_assignments.options(partial)
        largest = max(left, key=lambda index: positions[index].multiplicity)
        partial = wyckoff_assignments.place(partial, largest)
    return partial.filled if sum(map(len, partial.filled)) <= num_orbits else None


def number_repeats(requests: Sequence[Request]) -> list[Request]:
    """Requests that know how many before them are the same.

    Each of them follows another known structure, and the last none.
    """
    seen: collections.Counter[Any] = collections.Counter()
    numbered = []
    for request in requests:
        key = positions_of(request)
        numbered.append(dataclasses.replace(request, repeat=seen[key]))
        seen[key] += 1
    return numbered


def positions_of(request: Request) -> Hashable:
    """What requests for the same positions have in common."""
    return request.question, request.assignment, request.kept, request.prototype


def _order(ways: Sequence[Request], count: int, rng: Any, least: float) -> list[int]:
    shares = np.array([way.probability for way in ways])
    distinct = np.flatnonzero(shares >= least * shares[0])[:count].tolist()
    drawn = rng.choice(len(ways), count - len(distinct), p=shares / shares.sum())
    return [*distinct, *drawn.tolist()]


def _expand_groups(
    model: wyckoff_model.WyckoffModel,
    questions: Sequence[tuple[prototype_library.Question, int]],
) -> list[list[tuple[prototype_library.Question, int, float]]]:
    """Questions with groups, their numbers of cells, and log probabilities."""
    is_open = [question.space_group == 0 for question, _ in questions]
    asked = [
        question for (question, _), each in zip(questions, is_open, strict=True) if each
    ]
    rows = iter(model.group_probabilities(asked) if asked else ())
    expanded = []
    for (question, cells), each in zip(questions, is_open, strict=True):
        if not each:
            expanded.append([(question, cells, 0.0)])
            continue
        row = next(rows)
        ranked = [int(group) for group in np.argsort(-row) if row[group] > _IMPOSSIBLE]
        groups = [
            group
            for group in ranked
            if wyckoff_assignments.count_assignments(group, question.counts)
        ]
        expanded.append(
            [
                (
                    dataclasses.replace(question, space_group=group),
                    cells,
                    float(row[group]),
                )
                for group in groups[:_NUM_GROUPS]
            ]
        )
    return expanded
