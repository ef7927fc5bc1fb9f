"""Known prototypes: which positions are filled, by elements like which, at what energy.

Structures of one formula type, space group and assignment of positions whose elements
and energies are near each other are one entry, with their mean. The nearest entries are
shown to the models of `wyckoff_model` with each question.
"""

import collections
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from crystaljax.crystals import elements, standard_choice, wyckoff_assignments
from crystaljax.system import errors

# Mendeleev numbers that count as much as one deviation of the energy.
_NUMBERS_PER_DEVIATION = 10
# Structures that are nearer to the mean of an entry than this are of it.
_RADIUS = 0.5
# But energies of one composition are comparable to millielectronvolts: they tell its
# polymorphs apart, which are entries of their own from this difference on (deviations).
_SAME_ENERGY = 0.003


@dataclasses.dataclass(frozen=True)
class Question:
    """What positions, a group, or an energy are wanted for.

    Attributes:
        species: atomic numbers in the order of `standard_choice.species_order`.
        counts: sites of each in the primitive cell.
        energy: in deviations of the training structures from their mean; NaN where it
            is what is requested.
        space_group: 1-230; 0 where it is what is requested.
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
    numbers = np.asarray(atomic_numbers).astype(int)
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


Example = tuple[Question, wyckoff_assignments.Assignment]


@dataclasses.dataclass(frozen=True)
class Share:
    """What some structures contribute to an entry: sums over them.

    Attributes:
        size: number of structures.
        numbers: of the Mendeleev numbers of each species.
        energy: of the energies.
    """

    size: int
    numbers: np.ndarray
    energy: float


# What some structures contribute, by entry.
Shares = Mapping[int, Share]


@dataclasses.dataclass(frozen=True, eq=False)
class Library:
    """Entries of known prototypes.

    Attributes:
        counts: sites of each species in the primitive cell.
        space_groups: of the entries, 1-230.
        assignments: of positions to the species.
        numbers: mean Mendeleev number of each species.
        energies: mean, in the unit of `Question`.
        sizes: structures of each entry.
    """

    counts: Sequence[tuple[int, ...]]
    space_groups: np.ndarray
    assignments: Sequence[wyckoff_assignments.Assignment]
    numbers: Sequence[np.ndarray]
    energies: np.ndarray
    sizes: np.ndarray

    def __len__(self) -> int:
        return len(self.counts)

    @functools.cached_property
    def _by_counts(self) -> Mapping[Any, tuple[np.ndarray, np.ndarray]]:
        """Entries with their mean numbers, by counts, group and assignment."""
        members = collections.defaultdict(list)
        for index, counts in enumerate(self.counts):
            group = int(self.space_groups[index])
            for key in (
                counts,
                (counts, group),
                (counts, group, self.assignments[index]),
            ):
                members[key].append(index)
        return {
            key: (np.array(found), np.array([self.numbers[i] for i in found]))
            for key, found in members.items()
        }

    @staticmethod
    def numbers_of(question: Question) -> np.ndarray:
        """The Mendeleev numbers of its species, which entries have the means of."""
        return elements.mendeleev_number()[list(question.species)]

    def holds(self, counts: tuple[int, ...], space_group: int) -> bool:
        """Whether there is a prototype of these counts and this group."""
        return (counts, space_group) in self._by_counts

    def own_distance(self, question: Question) -> float:
        """How far in energy a structure of the same elements is, in deviations.

        Of the question's counts and group; infinite where there is none.
        """
        key = (question.counts, question.space_group)
        if key not in self._by_counts:
            return np.inf
        members, numbers = self._by_counts[key]
        own = (numbers == self.numbers_of(question)).all(axis=1)
        if not np.isfinite(question.energy):
            return 0.0 if own.any() else np.inf
        apart = np.abs(self.energies[members[own]] - question.energy)
        return float(apart.min(initial=np.inf))

    def nearest(
        self,
        question: Question,
        count: int,
        without: Shares | None = None,
        assignment: wyckoff_assignments.Assignment | None = None,
    ) -> tuple[list[int], np.ndarray]:
        """Entries of the same counts, the nearest first, and their distances.

        They have the group and are near in energy where the question names these.

        Args:
            question: any.
            count: entries at most.
            without: structures that are taken out of their entries first.
            assignment: that the entries have; the question names a group.
        """
        key: Any = question.counts
        if assignment is not None:
            key = (question.counts, question.space_group, assignment)
        elif question.space_group:
            key = (question.counts, question.space_group)
        if key not in self._by_counts:
            return [], np.zeros(0)
        members, numbers = self._by_counts[key]
        energies = self.energies[members]
        if without:
            members, numbers, energies = self._take_out(
                members, numbers.copy(), energies.copy(), without
            )
        wanted = self.numbers_of(question)
        apart = (numbers - wanted) / _NUMBERS_PER_DEVIATION
        squares = np.mean(apart**2, axis=1)
        if np.isfinite(question.energy):
            squares += (energies - question.energy) ** 2
        order = np.argsort(squares, kind="stable")[:count]
        return members[order].tolist(), np.sqrt(squares[order])

    def _take_out(self, members, numbers, energies, without):
        kept = np.ones(len(members), bool)
        for row in np.flatnonzero(np.isin(members, list(without))).tolist():
            share, size = without[int(members[row])], int(self.sizes[members[row]])
            left = size - share.size
            if left <= 0:
                kept[row] = False
                continue
            numbers[row] = (numbers[row] * size - share.numbers) / left
            energies[row] = (energies[row] * size - share.energy) / left
        return members[kept], numbers[kept], energies[kept]


def build_library(examples: Sequence[Example]) -> tuple[Library, list[int]]:
    """Entries of examples, and the entry that each of them is of."""
    mendeleev = elements.mendeleev_number().astype(float)
    by_key: dict[Any, list[int]] = collections.defaultdict(list)
    keys, sums, energies, sizes = [], [], [], []
    entries = []
    for question, assignment in examples:
        key = (question.counts, question.space_group, assignment)
        numbers = mendeleev[list(question.species)]
        entry, nearest = -1, _RADIUS
        for index in by_key[key]:
            apart = sums[index] / sizes[index] - numbers
            higher = energies[index] / sizes[index] - question.energy
            if not apart.any() and abs(higher) > _SAME_ENERGY:
                continue
            square = np.mean((apart / _NUMBERS_PER_DEVIATION) ** 2) + higher**2
            if square**0.5 < nearest:
                entry, nearest = index, square**0.5
        if entry < 0:
            entry = len(keys)
            by_key[key].append(entry)
            keys.append(key)
            sums.append(np.zeros(len(numbers)))
            energies.append(0.0)
            sizes.append(0)
        sums[entry] = sums[entry] + numbers
        energies[entry] += question.energy
        sizes[entry] += 1
        entries.append(entry)
    library = Library(
        counts=[counts for counts, _, _ in keys],
        space_groups=np.array([group for _, group, _ in keys], int),
        assignments=[assignment for *_, assignment in keys],
        numbers=[total / size for total, size in zip(sums, sizes, strict=True)],
        energies=np.array(energies) / np.maximum(sizes, 1),
        sizes=np.array(sizes, int),
    )
    return library, entries


def shares_of(examples: Sequence[Example], entries: Sequence[int]) -> Shares:
    """What examples contribute to the entries that they are of."""
    mendeleev = elements.mendeleev_number().astype(float)
    shares: dict[int, Share] = {}
    for (question, _), entry in zip(examples, entries, strict=True):
        numbers = mendeleev[list(question.species)]
        before = shares.get(entry, Share(0, np.zeros(len(numbers)), 0.0))
        shares[entry] = Share(
            before.size + 1, before.numbers + numbers, before.energy + question.energy
        )
    return shares


def join(first: Library, second: Library) -> Library:
    """The entries of one library, then those of another."""
    return Library(
        counts=[*first.counts, *second.counts],
        space_groups=np.concatenate([first.space_groups, second.space_groups]),
        assignments=[*first.assignments, *second.assignments],
        numbers=[*first.numbers, *second.numbers],
        energies=np.concatenate([first.energies, second.energies]),
        sizes=np.concatenate([first.sizes, second.sizes]),
    )
