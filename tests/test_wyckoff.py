"""Wyckoff positions: the table against operations and spglib, feasibility by force."""

import functools
import itertools
import math
import random

import aflow_prototypes
import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import spglib
from pymatgen.symmetry.groups import SpaceGroup, sg_symbol_from_int_number

from crystaljax.crystals import space_groups, wyckoff
from crystaljax.data.sources import emt

NUMBERS = range(1, 231)
# Every point without a free coordinate lies on this grid.
GRID = np.stack(np.meshgrid(*[np.arange(24)] * 3, indexing="ij"), -1).reshape(-1, 3)


def group_operations(number):
    """Integer rotations, translations in 24ths, and lattice points of the cell."""
    operations = space_groups.load_space_group_operations()[number]
    operations = operations[operations[:, 3, 3] == 1]
    rotations = np.rint(operations[:, :3, :3]).astype(int)
    translations = np.rint(operations[:, :3, 3] * 24).astype(int)
    points = int(np.all(rotations == np.eye(3), axis=(1, 2)).sum())
    return rotations, translations, points


@functools.cache
def moved(rotation):
    """How far it moves the points of the grid, modulo 24."""
    move = np.reshape(rotation, (3, 3)) - np.eye(3, dtype=int)
    return (GRID @ move.T % 24).T.astype(np.int8)


# -------------------------------------------------------------------------------- table
@pytest.mark.parametrize("first", range(1, 231, 23))
def test_positions_are_those_that_the_operations_leave(first):
    """Stabilisers of grid points: their order and the space that they fix."""
    for number in range(first, first + 23):
        rotations, translations, points = group_operations(number)
        order = np.zeros(len(GRID), int)
        trace = np.zeros(len(GRID), int)
        for rotation, translation in zip(rotations, translations, strict=True):
            back = -translation % 24
            x, y, z = moved(tuple(rotation.flat))
            fixed = (x == back[0]) & (y == back[1]) & (z == back[2])
            order += fixed
            trace += fixed * np.trace(rotation)
        multiplicity = len(rotations) // points // order
        freedom = trace // order
        np.testing.assert_array_equal(freedom * order, trace)

        positions = wyckoff.load_positions(number)
        found = {
            (int(m), int(f)) for m, f in zip(multiplicity, freedom, strict=True) if f
        }
        assert found == {(p.multiplicity, p.freedom) for p in positions if p.freedom}
        once = sorted(p.multiplicity for p in positions if not p.freedom)
        expected = []
        for size in np.unique(multiplicity[freedom == 0]).tolist():
            num_points = np.sum((multiplicity == size) & (freedom == 0))
            number_of, rest = divmod(int(num_points), size * points)
            assert rest == 0
            expected += [size] * number_of
        assert once == expected, number


def test_the_last_position_is_the_general_one():
    for number in NUMBERS:
        rotations, _, points = group_operations(number)
        *special, general = wyckoff.load_positions(number)
        assert general.multiplicity * points == len(rotations)
        assert general.freedom == 3
        assert all(position.freedom < 3 for position in special)
        letters = [position.letter for position in (*special, general)]
        assert "".join(letters) == "abcdefghijklmnopqrstuvwxyzA"[: len(letters)]


@pytest.fixture(scope="module")
def known_crystals():
    """AFLOW's prototypes, with what spglib finds in them."""
    found = []
    for crystal in aflow_prototypes.load_all():
        numbers = [site.specie.Z for site in crystal]
        dataset = spglib.get_symmetry_dataset(
            (crystal.lattice.matrix, crystal.frac_coords, numbers), symprec=0.01
        )
        found.append((numbers, dataset))
    assert len({dataset.number for _, dataset in found}) > 80
    return found


def counts_of(numbers):
    return np.unique(numbers, return_counts=True)[1].tolist()


def test_positions_of_known_crystals_are_those_that_spglib_finds(known_crystals):
    for _, dataset in known_crystals:
        points = group_operations(dataset.number)[2]
        by_letter = {p.letter: p for p in wyckoff.load_positions(dataset.number)}
        # Sites of the conventional cell, through those of the primitive one.
        standard = spglib.get_symmetry_dataset(
            (dataset.std_lattice, dataset.std_positions, dataset.std_types),
            symprec=0.01,
        )
        assert standard.number == dataset.number
        orbits = standard.crystallographic_orbits
        for orbit in np.unique(orbits):
            (letter,) = set(np.array(standard.wyckoffs)[orbits == orbit])
            size = by_letter[letter].multiplicity * points
            assert size == np.sum(orbits == orbit)


# -------------------------------------------------------------------------- feasibility
def test_known_crystals_are_feasible_in_every_cell(known_crystals):
    for numbers, dataset in known_crystals:
        conventional = counts_of(dataset.std_types)
        points = group_operations(dataset.number)[2]
        primitive = [count // points for count in conventional]
        doubled = [2 * count for count in conventional]
        for counts in (counts_of(numbers), conventional, primitive, doubled):
            assert wyckoff.is_feasible(dataset.number, counts)


def test_built_in_alloys_are_feasible_in_their_space_groups():
    records = emt.load_builtin()
    assert len(records) > 1000
    infeasible = [
        record.id
        for record in records
        if not wyckoff.is_feasible(
            record.space_group, counts_of(record.crystal.atomic_numbers)
        )
    ]
    assert infeasible == []


@pytest.mark.parametrize("seed", range(4))
def test_what_pymatgen_builds_from_positions_is_feasible(seed):
    """Random orbits of a random group, one species each, none of them twice."""
    rng = random.Random(seed)
    for _ in range(25):
        number = rng.randint(1, 230)
        group = SpaceGroup(sg_symbol_from_int_number(number))
        counts, taken = {}, set()
        for _ in range(rng.randint(1, 5)):
            # Multiples of 1/24 are often special, and exactly equal or apart.
            point = [rng.randrange(0, 24, rng.choice([1, 3, 6, 12])) for _ in range(3)]
            orbit = {
                tuple(np.rint(24 * np.array(site)).astype(int) % 24)
                for site in group.get_orbit(np.array(point) / 24)
            }
            if orbit.isdisjoint(taken):
                taken |= orbit
                species = rng.choice("ABC")
                counts[species] = counts.get(species, 0) + len(orbit)
        assert wyckoff.is_feasible(number, list(counts.values())), (number, counts)


def fills_by_force(number, counts):
    """Fills the positions of a primitive cell one after the other, in all ways."""
    positions = wyckoff.load_positions(number)

    @functools.cache
    def fill(left, first):
        if not any(left):
            return True
        if first == len(positions):
            return False
        if fill(left, first + 1):
            return True
        multiplicity = positions[first].multiplicity
        # A position with a free coordinate can be filled again.
        then = first if positions[first].freedom else first + 1
        for species, count in enumerate(left):
            smaller = (*left[:species], count - multiplicity, *left[species + 1 :])
            if count >= multiplicity and fill(smaller, then):
                return True
        return False

    divisor = math.gcd(*counts)
    return any(
        fill(tuple(count // size for count in counts), 0)
        for size in range(1, divisor + 1)
        if divisor % size == 0
    )


@hypothesis.settings(max_examples=300)
@hypothesis.given(
    st.integers(1, 230), st.lists(st.integers(1, 12), min_size=1, max_size=4)
)
def test_feasible_is_what_filling_by_force_finds(number, counts):
    assert wyckoff.is_feasible(number, counts) == fills_by_force(number, counts)


@pytest.mark.parametrize(
    ("number", "counts", "expected"),
    [
        # The rule of P-1: eight points, once each, and pairs.
        (2, [1] * 8, True),
        (2, [1] * 9, False),
        (2, [1] * 8 + [2] * 5, True),
        # Diamond has two atoms in its primitive cell, eight in its conventional one.
        (227, [2], True),
        (227, [8], True),
        (227, [1], False),
        (227, [3], False),
        # Rock salt, fluorite, perovskite.
        (225, [1, 1], True),
        (225, [1, 2], True),
        (221, [1, 1, 3], True),
        (225, [1, 1, 3], False),
        (227, [1, 1, 6], False),
        (227, [2, 2, 12], True),
        (1, [1, 1, 6], True),
    ],
)
def test_textbook_cases(number, counts, expected):
    assert wyckoff.is_feasible(number, counts) is expected
    assert wyckoff.is_feasible(number, counts[::-1]) is expected


@hypothesis.given(
    st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4), max_size=5),
    st.lists(st.integers(1, 230), max_size=5),
)
def test_many_at_once_are_as_each_alone(cells, numbers):
    found = wyckoff.find_feasible(cells, numbers)
    assert found.shape == (len(cells), len(numbers))
    for (i, counts), (j, number) in itertools.product(
        enumerate(cells), enumerate(numbers)
    ):
        assert found[i, j] == wyckoff.is_feasible(number, counts)


def test_large_cells_and_many_species_are_quick():
    """A search that grows with the sites or the ways to share would not end."""
    assert wyckoff.is_feasible(221, [9999, 9998, 9997])
    assert not wyckoff.is_feasible(2, [2 * i + 1 for i in range(9)])
    cells = [[a, b, c] for a in range(1, 20) for b in range(1, 20) for c in range(1, 4)]
    assert wyckoff.find_feasible(cells, list(NUMBERS)).shape == (len(cells), 230)


# ---------------------------------------------------------------------------- bad input
@pytest.mark.parametrize("number", [0, 231, -1])
def test_no_such_space_group(number):
    with pytest.raises(ValueError, match="expected a number from 1 to 230"):
        wyckoff.is_feasible(number, [1])


@pytest.mark.parametrize("counts", [[], [0], [1, -1]])
def test_counts_are_positive(counts):
    with pytest.raises(ValueError, match="expected a positive one"):
        wyckoff.is_feasible(1, counts)


def test_positions_in_words():
    assert wyckoff.describe_positions(227) == (
        "2, 2, 4, 4 (once each) and 8, 12, 24, 48 (any number of times) sites of the "
        "primitive cell"
    )
    assert wyckoff.describe_positions(1).startswith("1 (any number of times)")
