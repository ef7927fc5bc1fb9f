"""Which species fill which Wyckoff positions: all ways, counted, listed, step by step.

An assignment says for each species which positions it fills. A position without a free
parameter holds one orbit, others any number. `wyckoff.is_feasible` answers whether a
cell can have a group at all; this module knows the ways: how many there are, all of
them where they are few, and which next step leaves the rest feasible, so that a model
that fills position after position never ends where nothing fits.

Numbers of sites are those of the primitive cell. Species are filled in the order given,
positions of a species in ascending order: each assignment has one sequence of steps.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool

from crystaljax.crystals import standard_groups, wyckoff
from crystaljax.system import errors

# For each species the indices of its positions, ascending; 0 is a.
Assignment = tuple[tuple[int, ...], ...]


@dataclasses.dataclass(frozen=True)
class Partial:
    """An assignment under construction.

    Attributes:
        space_group: 1-230.
        counts: sites of each species in the primitive cell.
        filled: positions so far; the last entry is of the species that is being filled.
        left: sites of this species that are still to be placed; 0 when all are.
        kept: positions that each species fills whatever becomes of the rest, ascending;
            () where nothing is settled.
    """

    space_group: int
    counts: tuple[int, ...]
    filled: Assignment
    left: int
    kept: Assignment = ()

    @property
    def is_complete(self) -> bool:
        """Whether all sites are placed."""
        return self.left == 0

    @property
    def species(self) -> int:
        """Index of the species that is being filled; of the last one in the end."""
        return len(self.filled) - 1

    def kept_of(self, species: int) -> tuple[int, ...]:
        """Positions that a species fills in any case."""
        return self.kept[species] if self.kept else ()


def begin(
    space_group: int, counts: Sequence[int], kept: Assignment | None = None
) -> Partial:
    """The empty assignment.

    Args:
        space_group: 1-230.
        counts: sites of each species in the primitive cell.
        kept: for each species positions that are among those that it fills.

    Raises:
        UserError: the number is not in 1-230, or there are no counts or one that is not
            positive.
    """
    wyckoff.load_positions(space_group)
    if not counts or min(counts) < 1:
        raise errors.UserError(
            f"numbers of sites are {list(counts)}; expected a positive one for each "
            "species"
        )
    settled = tuple(tuple(sorted(each)) for each in kept or ())
    if not any(settled):
        settled = ()
    return Partial(space_group, tuple(map(int, counts)), ((),), int(counts[0]), settled)


@functools.lru_cache(maxsize=1 << 16)
def options(partial: Partial) -> tuple[int, ...]:
    """Positions that may be filled next; none if the assignment is complete.

    A partial assignment that `place` made from these has an option until it is
    complete. The empty one has none if the group cannot hold the species.
    """
    return tuple(
        index
        for index in _allowed(partial)
        if count_completions(_place(partial, index)) > 0
    )


def option_mask(partial: Partial) -> Bool[np.ndarray, "27"]:
    """`options` as a mask over positions, in the size of the largest group."""
    mask = np.zeros(standard_groups.MAX_POSITIONS, bool)
    mask[list(options(partial))] = True
    return mask


def place(partial: Partial, position: int) -> Partial:
    """Fills one more position with the species whose turn it is.

    Raises:
        UserError: the position is none of the `options`.
    """
    if position not in options(partial):
        raise errors.UserError(
            f"position {position} cannot be filled next in space group "
            f"{partial.space_group} with {list(partial.counts)} sites after "
            f"{list(map(list, partial.filled))}; expected one of {options(partial)}"
        )
    return _place(partial, position)


def count_completions(partial: Partial) -> int:
    """In how many ways a partial assignment can be completed; 1 if it is complete."""
    if partial.is_complete:
        return 1
    kinds = _kinds(partial.space_group)
    waiting = _waiting(partial)
    last = partial.filled[-1][-1] if partial.filled[-1] else 0
    sizes = [each.multiplicity for each in wyckoff.load_positions(partial.space_group)]
    # What is kept is placed by itself, in its turn; the rest is what can be chosen.
    rest = partial.left - sum(sizes[index] for index in waiting)
    following = [
        count - sum(sizes[index] for index in partial.kept_of(species))
        for species, count in enumerate(partial.counts)
        if species > partial.species
    ]
    if (waiting and waiting[0] < last) or min([rest, *following]) < 0:
        return 0
    used = {index for filled in partial.filled for index in filled}
    used.update(index for each in partial.kept for index in each)
    # Of each fixed multiplicity: what this species may still take, and what is left
    # for those that follow.
    mine = tuple(
        sum(index >= last and index not in used for index in members)
        for members in kinds.fixed
    )
    left = tuple(sum(index not in used for index in members) for members in kinds.fixed)
    return _count(partial.space_group, rest, last, mine, left, tuple(following))


def count_assignments(
    space_group: int, counts: Sequence[int], kept: Assignment | None = None
) -> int:
    """How many assignments there are; 0 if the group cannot hold the species.

    Descriptions of the same crystal with another origin or other axes count apart: see
    `canonical`.

    Raises:
        UserError: as `begin`.
    """
    return count_completions(begin(space_group, counts, kept))


def list_assignments(
    space_group: int,
    counts: Sequence[int],
    limit: int = 100_000,
    kept: Assignment | None = None,
) -> list[Assignment]:
    """All assignments, in lexicographic order.

    Raises:
        UserError: there are more than ``limit``, or as `begin`.
    """
    start = begin(space_group, counts, kept)
    number = count_completions(start)
    if number > limit:
        raise errors.UserError(
            f"space group {space_group} holds {list(counts)} sites in {number} ways, "
            f"more than limit={limit}; use count_assignments, or place them one after "
            "another"
        )
    return list(_complete(start))


def canonical(space_group: int, assignment: Assignment) -> Assignment:
    """The smallest of the assignments that the normaliser makes of one.

    They describe the same crystals with another origin or other axes, mirror images
    included. In triclinic and monoclinic groups only changes between bases that are
    nearly reduced count.
    """
    maps = _position_maps(space_group)
    if len(maps) == 1:
        return assignment
    images = maps[:, [index for each in assignment for index in each]]
    ends = np.cumsum([0, *map(len, assignment)]).tolist()
    spans = list(itertools.pairwise(ends))
    for start, end in spans:
        if end - start > 1:
            images[:, start:end].sort(axis=1)
    # The smallest one, twelve numbers at a time as the digits of one.
    for start in range(0, images.shape[1], 12):
        digits = images[:, start : start + 12]
        codes = digits @ (32 ** np.arange(digits.shape[1] - 1, -1, -1))
        images = images[codes == codes.min()]
        if len(images) == 1:
            break
    smallest = images[0].tolist()
    return tuple(tuple(smallest[start:end]) for start, end in spans)


def formula_units(
    space_group: int, counts: Sequence[int], max_sites: int
) -> tuple[int, ...]:
    """How many formula units the primitive cell of a group can hold.

    Args:
        space_group: 1-230.
        counts: sites of each species, of any cell; they are reduced first.
        max_sites: largest number of sites of the primitive cell.

    Raises:
        UserError: as `begin`.
    """
    begin(space_group, counts)
    divisor = math.gcd(*counts)
    reduced = [count // divisor for count in counts]
    return tuple(
        units
        for units in range(1, max_sites // sum(reduced) + 1)
        if count_assignments(space_group, [units * count for count in reduced])
    )


# ----------------------------------------------------------------------------- counting
@dataclasses.dataclass(frozen=True)
class _Kinds:
    """Positions of a group by what they hold.

    Attributes:
        sizes: multiplicities of fixed positions, ascending.
        fixed: the indices of fixed positions of each of these.
        free: index and multiplicity of the others.
    """

    sizes: tuple[int, ...]
    fixed: tuple[tuple[int, ...], ...]
    free: tuple[tuple[int, int], ...]


@functools.cache
def _kinds(space_group: int) -> _Kinds:
    positions = wyckoff.load_positions(space_group)
    fixed: dict[int, list[int]] = {}
    for index, position in enumerate(positions):
        if not position.freedom:
            fixed.setdefault(position.multiplicity, []).append(index)
    sizes = tuple(sorted(fixed))
    return _Kinds(
        sizes,
        tuple(tuple(fixed[size]) for size in sizes),
        tuple((i, p.multiplicity) for i, p in enumerate(positions) if p.freedom),
    )


@functools.lru_cache(maxsize=1 << 18)
def _count(
    space_group: int,
    count: int,
    last: int,
    mine: tuple[int, ...],
    left: tuple[int, ...],
    following: tuple[int, ...],
) -> int:
    """Ways to place the sites of a species and of those that follow.

    Args:
        space_group: 1-230.
        count: sites of the species.
        last: it may fill positions from this index on.
        mine: fixed positions of each size among these that are not taken.
        left: the same of all positions, for the species that follow.
        following: their sites.
    """
    sizes = _kinds(space_group).sizes
    total = 0
    for taken in itertools.product(
        *(
            range(min(number, count // size) + 1)
            for number, size in zip(mine, sizes, strict=True)
        )
    ):
        rest = count - sum(map(int.__mul__, taken, sizes))
        ways = _count_free(space_group, last, rest) if rest >= 0 else 0
        if not ways:
            continue
        ways *= math.prod(map(math.comb, mine, taken))
        if following:
            after = tuple(a - b for a, b in zip(left, taken, strict=True))
            ways *= _count(space_group, following[0], 0, after, after, following[1:])
        total += ways
    return total


@functools.lru_cache(maxsize=1 << 16)
def _count_free(space_group: int, last: int, count: int) -> int:
    """Multisets of positions with free parameters from an index on, by their sites."""
    sizes = [size for index, size in _kinds(space_group).free if index >= last]
    ways = [1] + [0] * count
    for size in sizes:
        for total in range(size, count + 1):
            ways[total] += ways[total - size]
    return ways[count]


def _allowed(partial: Partial) -> Iterator[int]:
    """Positions that have room for the next sites, whatever becomes of the rest."""
    if partial.is_complete:
        return
    last = partial.filled[-1][-1] if partial.filled[-1] else 0
    used = {index for filled in partial.filled for index in filled}
    used.update(index for each in partial.kept for index in each)
    waiting = _waiting(partial)
    used.difference_update(waiting)
    positions = wyckoff.load_positions(partial.space_group)
    rest = partial.left - sum(positions[index].multiplicity for index in waiting)
    for index, position in enumerate(positions):
        room = partial.left if index in waiting else rest
        if index < last or position.multiplicity > room:
            continue
        if position.freedom or index not in used:
            yield index


def _waiting(partial: Partial) -> tuple[int, ...]:
    """Positions kept for the species that is being filled, those filled left out."""
    waiting = list(partial.kept_of(partial.species))
    for index in partial.filled[-1]:
        if index in waiting:
            waiting.remove(index)
    return tuple(waiting)


def _place(partial: Partial, index: int) -> Partial:
    position = wyckoff.load_positions(partial.space_group)[index]
    filled = (*partial.filled[:-1], (*partial.filled[-1], index))
    left = partial.left - position.multiplicity
    if left == 0 and len(filled) < len(partial.counts):
        left, filled = partial.counts[len(filled)], (*filled, ())
    return dataclasses.replace(partial, filled=filled, left=left)


def _complete(partial: Partial) -> Iterator[Assignment]:
    if partial.is_complete:
        yield partial.filled
    for index in options(partial):
        yield from _complete(_place(partial, index))


@functools.cache
def _position_maps(space_group: int) -> np.ndarray:
    """What the normaliser does to the indices of positions, each map once."""
    group = standard_groups.load_group(space_group)
    changes = np.unique(group.changes.targets, axis=0)
    maps = {
        tuple(shift[change].tolist())
        for change in changes
        for shift in np.unique(group.shifts.targets, axis=0)
    }
    return np.array(sorted(maps))
