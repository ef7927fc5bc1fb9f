"""Ways to fill Wyckoff positions against filling them by force."""

import itertools
import math

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from crystaljax.crystals import standard_groups, wyckoff, wyckoff_assignments
from crystaljax.data.sources import emt

# Groups of all kinds: no fixed position, many, several sizes, 27 positions.
GROUPS = (1, 2, 10, 14, 19, 47, 62, 99, 123, 148, 166, 194, 205, 216, 221, 225, 227)
CASES = st.tuples(
    st.sampled_from(GROUPS), st.lists(st.integers(1, 6), min_size=1, max_size=3)
)


def by_force(number, counts):
    """All assignments: every multiset of positions for each species, then a check."""
    positions = wyckoff.load_positions(number)
    per_species = []
    for count in counts:
        ways = [((), count)]
        for index, position in enumerate(positions):
            most = 1 if position.freedom == 0 else count
            ways = [
                (filled + (index,) * times, left - times * position.multiplicity)
                for filled, left in ways
                for times in range(min(most, left // position.multiplicity) + 1)
            ]
        per_species.append([filled for filled, left in ways if left == 0])
    # Few enough to be gone through.
    hypothesis.assume(math.prod(map(len, per_species)) < 5000)
    found = []
    for assignment in itertools.product(*per_species):
        fixed = [i for filled in assignment for i in filled if not positions[i].freedom]
        if len(set(fixed)) == len(fixed):
            found.append(assignment)
    return sorted(found)


@hypothesis.settings(max_examples=80, deadline=None)
@hypothesis.given(CASES)
def test_the_ways_are_those_found_by_force(case):
    number, counts = case
    expected = by_force(number, counts)
    assert wyckoff_assignments.count_assignments(number, counts) == len(expected)
    assert wyckoff_assignments.list_assignments(number, counts) == expected


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(CASES, st.randoms(use_true_random=False))
def test_masks_allow_what_can_be_completed_and_nothing_else(case, random):
    number, counts = case
    expected = by_force(number, counts)
    partial = wyckoff_assignments.begin(number, counts)
    while not partial.is_complete:
        # Those that go on from here, as sequences of steps.
        filled = partial.filled
        going_on = [
            assignment
            for assignment in expected
            if assignment[: len(filled) - 1] == filled[:-1]
            and assignment[len(filled) - 1][: len(filled[-1])] == filled[-1]
        ]
        assert wyckoff_assignments.count_completions(partial) == len(going_on)
        following = {a[len(filled) - 1][len(filled[-1])] for a in going_on}
        assert set(wyckoff_assignments.options(partial)) == following
        mask = wyckoff_assignments.option_mask(partial)
        assert set(np.flatnonzero(mask)) == following
        if not following:
            assert filled == ((),)
            return
        partial = wyckoff_assignments.place(partial, random.choice(sorted(following)))
    assert partial.filled in expected
    assert wyckoff_assignments.options(partial) == ()


@hypothesis.settings(deadline=None)
@hypothesis.given(
    st.integers(1, 230), st.lists(st.integers(1, 24), min_size=1, max_size=5)
)
def test_there_is_a_way_where_the_cell_is_feasible(number, counts):
    """`wyckoff.is_feasible` takes supercells in: one of them has to have a way."""
    divisor = math.gcd(*counts)
    cells = [
        [count // size for count in counts]
        for size in range(1, divisor + 1)
        if divisor % size == 0
    ]
    ways = [wyckoff_assignments.count_assignments(number, cell) for cell in cells]
    assert any(ways) == wyckoff.is_feasible(number, counts)


@pytest.mark.parametrize(
    ("number", "counts", "ways", "distinct"),
    [
        (225, [1, 1], 2, 1),  # rock salt: a and b, the one or the other way
        (221, [1, 1, 3], 4, 2),  # perovskite: a, b and c, or d
        (227, [2], 2, 1),  # diamond
        (227, [1], 0, 0),
        (1, [3], 1, 1),
        (2, [1], 8, 1),  # eight inversion centres, all alike
    ],
)
def test_textbook_cases(number, counts, ways, distinct):
    found = wyckoff_assignments.list_assignments(number, counts)
    assert len(found) == ways
    canonical = {wyckoff_assignments.canonical(number, each) for each in found}
    assert len(canonical) == distinct
    # The canonical one is among them, and its own.
    assert canonical <= set(found)
    for each in canonical:
        assert wyckoff_assignments.canonical(number, each) == each


def test_alternatives_have_one_canonical_assignment():
    random = np.random.default_rng(0)
    for number in (10, 47, 62, 123, 216):
        group = standard_groups.load_group(number)
        partial = wyckoff_assignments.begin(number, [4, 8])
        while not partial.is_complete:
            choice = random.choice(wyckoff_assignments.options(partial))
            partial = wyckoff_assignments.place(partial, int(choice))
        assignment = partial.filled
        expected = wyckoff_assignments.canonical(number, assignment)
        for changes in (group.changes, group.shifts):
            for targets in changes.targets[:20]:
                moved = tuple(
                    tuple(sorted(int(targets[i]) for i in filled))
                    for filled in assignment
                )
                assert wyckoff_assignments.canonical(number, moved) == expected


def test_formula_units():
    # Diamond's primitive cell: 2, 4 (two twos or a four), …; rutile has two.
    assert wyckoff_assignments.formula_units(227, [8], 6) == (2, 4, 6)
    assert wyckoff_assignments.formula_units(136, [1, 2], 12) == (2, 4)
    assert wyckoff_assignments.formula_units(225, [1, 1, 3], 5) == ()
    assert wyckoff_assignments.formula_units(1, [2, 4], 9) == (1, 2, 3)


def test_built_in_alloys_can_be_assigned():
    for record in emt.load_builtin()[::10]:
        numbers = np.unique(record.crystal.atomic_numbers, return_counts=True)[1]
        units = wyckoff_assignments.formula_units(
            record.space_group, numbers.tolist(), record.crystal.num_sites
        )
        assert units


def test_large_cells_are_counted_quickly():
    """Ways beyond any list, and steps through them."""
    counts = [24, 36, 48, 60]
    assert wyckoff_assignments.count_assignments(47, counts) > 10**20
    partial = wyckoff_assignments.begin(47, counts)
    while not partial.is_complete:
        partial = wyckoff_assignments.place(
            partial, wyckoff_assignments.options(partial)[-1]
        )
    positions = wyckoff.load_positions(47)
    sites = [sum(positions[i].multiplicity for i in each) for each in partial.filled]
    assert sites == counts


# ---------------------------------------------------------------------------- bad input
def test_bad_input_is_named():
    with pytest.raises(ValueError, match="expected a number from 1 to 230"):
        wyckoff_assignments.count_assignments(231, [1])
    with pytest.raises(ValueError, match="expected a positive one"):
        wyckoff_assignments.begin(1, [1, 0])
    with pytest.raises(ValueError, match="expected one of"):
        wyckoff_assignments.place(wyckoff_assignments.begin(225, [1]), 2)
    with pytest.raises(ValueError, match="more than limit=3"):
        wyckoff_assignments.list_assignments(2, [1], limit=3)


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(CASES, st.randoms(use_true_random=False))
def test_ways_that_contain_what_is_kept_are_found_and_no_others(case, random):
    number, counts = case
    expected = by_force(number, counts)
    hypothesis.assume(expected)
    whole = random.choice(expected)
    kept = tuple(
        tuple(sorted(random.sample(filled, random.randint(0, len(filled)))))
        for filled in whole
    )

    def contains(assignment):
        return all(
            filled.count(index) >= held.count(index)
            for filled, held in zip(assignment, kept, strict=True)
            for index in held
        )

    # A position without a parameter that is kept for one species is no other's.
    wanted = [each for each in expected if contains(each)]
    found = wyckoff_assignments.list_assignments(number, counts, kept=kept)
    assert found == wanted
    assert wyckoff_assignments.count_assignments(number, counts, kept) == len(wanted)
    # More sites kept than there are: none.
    too_many = (kept[0] + whole[0] + whole[0], *kept[1:])
    assert wyckoff_assignments.count_assignments(number, counts, too_many) == 0


def test_the_smallest_of_many_positions_is_found():
    """More than the twelve that are compared at once, of which the last one decides."""
    # P-1: shifts of the origin by halves permute a to h; i is free.
    filled = ((8,) * 13, (4,))
    assert wyckoff_assignments.canonical(2, filled) == ((8,) * 13, (0,))
