"""Free parameters of known prototypes, for the entries of a `prototype_library`.

Crystals of one prototype differ little in what is free: the mean of those that are
alike answers a question about another of them better than a network does that has to
draw it. The structures of an entry that lie near each other are one known structure,
with the mean of their free parameters and of their strains. `orbit_flow.follow` puts
them in the place of a network's answer.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import flax.struct
import numpy as np
from jaxtyping import Float, Int

from crystaljax.crystals import orbits, standard_groups, wyckoff_assignments
from crystaljax.models import prototype_library

# Known structures that an answer may follow, at most.
MAX_SHOWN = 8
# Structures are alike whose sites are this near (root mean square, in units of the cube
# root of the volume of an atom) and whose strains, but for the volume, are.
_SITE_TOLERANCE = 0.1
_STRAIN_TOLERANCE = 0.15
# What a structure of the same elements costs beside its distance, for each deviation by
# which its energy is farther off than that of another, and at most: the energy tells
# polymorphs of one composition apart.
_COST_OF_ENERGY, _MAX_COST_OF_ENERGY = 100.0, 3.0
# Of a volume's logarithm in the first strain, see `orbits.OrbitCrystal`.
LOG_VOLUME = 2 / 3**0.5


@flax.struct.dataclass
class Shown:
    """Known structures that the answers of a batch may follow.

    Attributes:
        parameters: (batch, shown, orbits, 3).
        strains: (batch, shown, 6), relative to the volume that the atoms would fill.
        costs: (batch, shown), distance in elements and energy; infinite where there is
            no structure.
        rank: (batch,), how many better structures are passed over, since earlier
            answers to the same question followed them.
    """

    parameters: Any
    strains: Any
    costs: Any
    rank: Any


@dataclasses.dataclass(frozen=True, eq=False)
class PrototypeStructures:
    """Known structures of all entries of a library.

    Attributes:
        entries: of the library, ascending.
        sizes: structures that each is the mean of.
        parameters: free parameters of each, (orbits, 3).
        strains: of each; the first is relative to the volume that the atoms would fill.
    """

    entries: Int[np.ndarray, " known"]
    sizes: Int[np.ndarray, " known"]
    parameters: Sequence[Float[np.ndarray, "_ 3"]]
    strains: Float[np.ndarray, "known 6"]

    def __len__(self) -> int:
        return len(self.entries)

    @functools.cached_property
    def _starts(self) -> Int[np.ndarray, " more"]:
        """Where the structures of an entry begin."""
        last = int(self.entries[-1]) if len(self) else -1
        return np.searchsorted(self.entries, np.arange(last + 2))

    def find(
        self,
        library: prototype_library.Library,
        question: prototype_library.Question,
        assignment: wyckoff_assignments.Assignment,
    ) -> list[tuple[int, float]]:
        """Structures with these positions, the nearest first, with what they cost.

        That is their distance; those of the same elements cost more than the nearest of
        them, by their energies.

        Args:
            library: whose entries they are.
            question: about the primitive cell, with its space group.
            assignment: of positions to its species.
        """
        found: list[tuple[int, float]] = []
        own = library.numbers_of(question)
        # Distance of the nearest one of the same elements.
        first: float | None = None
        nearest = library.nearest(question, MAX_SHOWN, assignment=assignment)
        for entry, distance in zip(*nearest, strict=True):
            cost = float(distance)
            if (library.numbers[entry] == own).all():
                first = cost if first is None else first
                cost += min(_COST_OF_ENERGY * (cost - first), _MAX_COST_OF_ENERGY)
            if entry + 1 < len(self._starts):
                members = range(*self._starts[entry : entry + 2].tolist())
                found += [(index, cost) for index in members]
        return found[:MAX_SHOWN]


def size_strain(
    atomic_volumes: np.ndarray, group: standard_groups.Group, numbers, positions
) -> float:
    """The first strain of a cell that the atoms of its orbits would fill."""
    sizes = np.array([group.positions[index].multiplicity for index in positions])
    return LOG_VOLUME * float(np.log((atomic_volumes[numbers] * sizes).sum()))


def build(
    library: prototype_library.Library,
    examples: Sequence[prototype_library.Example],
    crystals: Sequence[orbits.OrbitCrystal],
    atomic_volumes: np.ndarray,
) -> PrototypeStructures:
    """Known structures of the entries that examples are nearest to.

    Args:
        library: built of the examples.
        examples: questions with their answers.
        crystals: of each, in the description of `standard_choice.choose`.
        atomic_volumes: of each atomic number, Å³.
    """
    members: list[list[_Mean]] = [[] for _ in range(len(library))]
    for (question, assignment), crystal in zip(examples, crystals, strict=True):
        (entry,), _ = library.nearest(question, 1, assignment=assignment)
        group = standard_groups.load_group(crystal.space_group)
        size = size_strain(
            atomic_volumes, group, crystal.atomic_numbers, crystal.positions.tolist()
        )
        strain = crystal.strain.copy()
        strain[0] -= size
        new = _Mean(group, crystal, strain)
        for mean in members[entry]:
            if mean.is_near(new):
                mean.add(new)
                break
        else:
            members[entry].append(new)
    rows = [
        (entry, mean)
        for entry, means in enumerate(members)
        for mean in sorted(means, key=lambda each: -each.size)
    ]
    return PrototypeStructures(
        entries=np.array([entry for entry, _ in rows], int),
        sizes=np.array([mean.size for _, mean in rows], int),
        parameters=[mean.parameters % 1 for _, mean in rows],
        strains=np.array([mean.strain for _, mean in rows]).reshape(-1, 6),
    )


def join(
    first: PrototypeStructures, second: PrototypeStructures, num_entries: int
) -> PrototypeStructures:
    """Structures of two libraries that are joined, the first of ``num_entries``."""
    return PrototypeStructures(
        entries=np.concatenate([first.entries, second.entries + num_entries]),
        sizes=np.concatenate([first.sizes, second.sizes]),
        parameters=[*first.parameters, *second.parameters],
        strains=np.concatenate([first.strains, second.strains]),
    )


class _Mean:
    """Structures that are alike, of which the first says where the others are near."""

    def __init__(
        self,
        group: standard_groups.Group,
        crystal: orbits.OrbitCrystal,
        strain: np.ndarray,
    ):
        self.size = 1
        self.parameters, self.strain = crystal.parameters.copy(), strain
        self._linear = [group.positions[i].linear for i in crystal.positions.tolist()]
        lattice = orbits.lattice_of_strain(group, crystal.strain)
        num_sites = sum(map(len, self._linear))
        self._lattice = lattice / np.cbrt(abs(np.linalg.det(lattice)) / num_sites)

    def _moves(self, other: "_Mean") -> np.ndarray:
        moves = other.parameters - self.parameters
        return moves - np.round(moves)

    def is_near(self, other: "_Mean") -> bool:
        apart = np.abs(other.strain - self.strain)[1:]
        if apart.max(initial=0) >= _STRAIN_TOLERANCE:
            return False
        moves = zip(self._linear, self._moves(other), strict=True)
        sites = np.concatenate([linear @ move for linear, move in moves])
        square = np.sum((sites @ self._lattice) ** 2, axis=1).mean()
        return bool(square < _SITE_TOLERANCE**2)

    def add(self, other: "_Mean") -> None:
        self.size += 1
        self.parameters = self.parameters + self._moves(other) / self.size
        self.strain = self.strain + (other.strain - self.strain) / self.size
