"""Wyckoff positions: can a cell with these numbers of sites have this space group?

The sites of a crystal fill Wyckoff positions of its space group, each with all of its
sites and with one species. A position without a free coordinate is a set of points: it
can be filled once. One with free coordinates can be filled any number of times. So a
primitive cell of TaWB6 cannot have space group Fd-3m, whose positions hold 2, 2, 4, 4
(once each) and 8, 12, 24, 48 sites.

The answer is exact for the question whether the sites can be placed so that the
operations of the group map the crystal onto itself. Some placements have more symmetry
than that: one atom a cell is feasible in P1, but is P-1 at least.

The positions are those of `standard_groups`.
"""

import collections
import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from crystaljax.crystals import space_groups as symmetry
from crystaljax.crystals import standard_groups
from crystaljax.system import errors


@dataclasses.dataclass(frozen=True)
class Position:
    """A Wyckoff position.

    Attributes:
        letter: its Wyckoff letter; after z comes A.
        multiplicity: sites in the primitive cell: the number in the International
            Tables divided by the lattice points of the conventional cell.
        freedom: coordinates that are free, 0 to 3.
    """

    letter: str
    multiplicity: int
    freedom: int


@dataclasses.dataclass(frozen=True)
class _Supply:
    """What the positions of a group hold; groups that hold the same are equal.

    Attributes:
        fixed: multiplicities of the positions that can be filled once.
        numbers: of positions with each of these multiplicities.
        free: multiplicities of the positions that can be filled again and again.
    """

    fixed: tuple[int, ...]
    numbers: tuple[int, ...]
    free: tuple[int, ...]


@functools.cache
def _load_table() -> tuple[tuple[Position, ...], ...]:
    table: list[list[Position]] = [[] for _ in range(symmetry.NUM_SPACE_GROUPS + 1)]
    for number, letter, multiplicity, freedom in standard_groups.list_positions():
        table[number].append(Position(letter, multiplicity, freedom))
    return tuple(map(tuple, table))


def load_positions(space_group: int) -> tuple[Position, ...]:
    """Wyckoff positions of a space group, from ``a`` to the general one.

    Raises:
        ValueError: the number is not in 1-230.
    """
    if not 1 <= space_group <= symmetry.NUM_SPACE_GROUPS:
        raise errors.UserError(
            f"space group {space_group} does not exist; expected a number from 1 to "
            f"{symmetry.NUM_SPACE_GROUPS}"
        )
    return _load_table()[space_group]


def describe_positions(space_group: int) -> str:
    """What the positions of a space group hold, in words."""
    positions = load_positions(space_group)
    once = sorted(p.multiplicity for p in positions if not p.freedom)
    again = sorted({p.multiplicity for p in positions if p.freedom})
    parts = []
    if once:
        parts.append(f"{', '.join(map(str, once))} (once each)")
    if again:
        parts.append(f"{', '.join(map(str, again))} (any number of times)")
    return " and ".join(parts) + " sites of the primitive cell"


def is_feasible(space_group: int, counts: Sequence[int]) -> bool:
    """Whether a cell with these numbers of sites can have a space group.

    The cell may be a primitive one, a conventional one, or any other supercell of a
    primitive one.

    Args:
        space_group: 1-230.
        counts: sites of each species, positive.

    Raises:
        ValueError: the number is not in 1-230, or there are no counts or one that is
            not positive.
    """
    return _fills(_supply(space_group), _primitive_cells(counts))


def find_feasible(
    cells: Sequence[Sequence[int]], space_groups: Sequence[int]
) -> Bool[np.ndarray, "cells groups"]:
    """Which cells can have which space groups: `is_feasible` of all combinations.

    Cells that differ in their elements only, and groups whose positions hold the same,
    are computed once: 10,000 cells with all 230 groups take seconds.

    Raises:
        ValueError: as `is_feasible`.
    """
    rows_of = collections.defaultdict(list)
    for row, counts in enumerate(cells):
        rows_of[tuple(sorted(counts))].append(row)
    columns_of = collections.defaultdict(list)
    for column, space_group in enumerate(space_groups):
        columns_of[_supply(space_group)].append(column)
    feasible = np.zeros((len(cells), len(space_groups)), bool)
    for counts, rows in rows_of.items():
        primitive = _primitive_cells(counts)
        columns = [
            column
            for supply, members in columns_of.items()
            if _fills(supply, primitive)
            for column in members
        ]
        if columns:
            feasible[np.ix_(rows, columns)] = True
    return feasible


@functools.cache
def _supply(space_group: int) -> _Supply:
    positions = load_positions(space_group)
    once = collections.Counter(p.multiplicity for p in positions if not p.freedom)
    free = {p.multiplicity for p in positions if p.freedom}
    fixed = tuple(sorted(once))
    return _Supply(fixed, tuple(once[m] for m in fixed), tuple(sorted(free)))


def _primitive_cells(counts: Sequence[int]) -> list[tuple[int, ...]]:
    """Counts of all cells of which a cell with these can be a supercell."""
    if not counts or min(counts) < 1:
        raise errors.UserError(
            f"numbers of sites are {list(counts)}; expected a positive one for each "
            "species"
        )
    divisor = math.gcd(*counts)
    return [
        tuple(int(count) // size for count in counts)
        for size in range(1, divisor + 1)
        if divisor % size == 0
    ]


def _fills(supply: _Supply, cells: list[tuple[int, ...]]) -> bool:
    """Whether the sites of one of the primitive cells fill positions."""
    return any(_fills_cell(supply, counts) for counts in cells)


def _fills_cell(supply: _Supply, counts: tuple[int, ...]) -> bool:
    demands = []
    for count in counts:
        ways = _ways(supply, count)
        if not ways:
            return False
        # A species that does without fixed positions takes nothing from the others.
        if any(ways[0]):
            demands.append(ways)
    # Few ways first: what cannot be is then found early.
    return not demands or _share(supply.numbers, sorted(demands, key=len))


def _share(left: tuple[int, ...], demands: list[tuple[tuple[int, ...], ...]]) -> bool:
    """Whether the fixed positions that are left meet the demands of all species."""
    if not demands:
        return True
    for way in demands[0]:
        rest = tuple(a - b for a, b in zip(left, way, strict=True))
        if min(rest, default=0) >= 0 and _share(rest, demands[1:]):
            return True
    return False


@functools.cache
def _ways(supply: _Supply, count: int) -> tuple[tuple[int, ...], ...]:
    """The fixed positions that one species can take so that free ones hold its rest.

    A way is a number of positions for each of ``supply.fixed``. Ways that take more
    than another one does are left out: they are never needed.
    """
    # Bit n says whether free positions hold n sites; powers of two share the sum.
    held = _held(supply.free, 1 << count.bit_length())
    ways: list[tuple[int, ...]] = []
    # Smallest first: what a way has in excess of another comes after it.
    options = itertools.product(*(range(number + 1) for number in supply.numbers))
    for option in sorted(options, key=sum):
        rest = count - sum(map(int.__mul__, option, supply.fixed))
        if rest < 0 or not held >> rest & 1:
            continue
        if not any(all(map(int.__le__, way, option)) for way in ways):
            ways.append(option)
    return tuple(ways)


@functools.cache
def _held(free: tuple[int, ...], limit: int) -> int:
    """Bits of the numbers of sites up to a limit that free positions can hold."""
    bits = 1
    mask = (1 << (limit + 1)) - 1
    for multiplicity in free:
        # Doubling the shift adds 0, 1, 2, … times the multiplicity.
        shift = multiplicity
        while shift <= limit:
            bits = (bits | bits << shift) & mask
            shift *= 2
    return bits
