import dataclasses

import group_crystals
import numpy as np
import pytest
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice

from crystaljax.crystals import bridge, structure
from crystaljax.matching import matcher as matching
from crystaljax.matching import novelty, primitive_cells, superposition

PAPER = matching.TOLERANCES["paper"]
ROCKSALT = group_crystals.from_spacegroup(
    "Fm-3m", Lattice.cubic(4.6), ["Cu", "Au"], [[0] * 3, [0.5] * 3]
)
ZINCBLENDE = group_crystals.from_spacegroup(
    "F-43m", Lattice.cubic(4.6), ["Cu", "Au"], [[0] * 3, [0.25] * 3]
)
L1_0 = group_crystals.from_spacegroup(
    "P4/mmm", Lattice.tetragonal(2.8, 3.7), ["Cu", "Au"], [[0] * 3, [0.5] * 3]
)
L1_2 = group_crystals.from_spacegroup(
    "Pm-3m", Lattice.cubic(3.8), ["Cu", "Au"], [[0, 0.5, 0.5], [0, 0, 0]]
)


def crystal_of(made):
    return bridge.from_pymatgen(made)


def broken(crystal, problem):
    coords, lattice = crystal.frac_coords, crystal.lattice
    match problem:
        case "coordinate":
            coords = np.full_like(coords, np.nan)
        case "lattice":
            lattice = np.full((3, 3), np.inf)
        case "flat":
            lattice = lattice * [1, 1, 0]
    return structure.Crystal(crystal.atomic_numbers, coords, lattice)


def supercell(crystal):
    made = bridge.to_pymatgen(crystal)
    made.make_supercell([[1, 1, 0], [0, 2, 0], [0, 0, 1]])
    return bridge.from_pymatgen(made)


def rotated(crystal):
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    return structure.Crystal(
        crystal.atomic_numbers, crystal.frac_coords, crystal.lattice @ rotation
    )


def shifted(crystal):
    coords = crystal.frac_coords + np.array([0.3, -0.4, 5.1])
    return structure.Crystal(crystal.atomic_numbers, coords, crystal.lattice)


def permuted(crystal):
    order = np.random.default_rng(1).permutation(crystal.num_sites)
    return structure.Crystal(
        crystal.atomic_numbers[order], crystal.frac_coords[order], crystal.lattice
    )


def rattled(crystal, seed=2, amount=0.02):
    rng = np.random.default_rng(seed)
    moves = rng.normal(0, amount, crystal.frac_coords.shape)
    return structure.Crystal(
        crystal.atomic_numbers,
        crystal.frac_coords + moves @ np.linalg.inv(crystal.lattice),
        crystal.lattice @ (np.eye(3) + rng.normal(0, amount / 3, (3, 3))),
    )


@pytest.mark.parametrize("describe", [supercell, rotated, shifted, permuted, rattled])
@pytest.mark.parametrize("made", [ROCKSALT, L1_2], ids=["AuCu", "AuCu3"])
def test_other_descriptions_of_a_crystal_are_duplicates(describe, made):
    crystal = crystal_of(made)
    other = describe(crystal)
    np.testing.assert_array_equal(novelty.find_duplicates([crystal, other]), [-1, 0])
    np.testing.assert_array_equal(novelty.find_duplicates([other, crystal]), [-1, 0])
    assert novelty.find_known([other], [("icsd-1", crystal)]) == ["icsd-1"]


def test_polymorphs_and_other_compositions_are_not():
    crystals = [crystal_of(each) for each in (ROCKSALT, ZINCBLENDE, L1_0, L1_2)]
    swapped = ROCKSALT.copy()
    swapped.replace_species({"Cu": "Ag"})
    crystals.append(crystal_of(swapped))
    np.testing.assert_array_equal(novelty.find_duplicates(crystals), [-1] * 5)
    known = [(f"id-{i}", each) for i, each in enumerate(crystals)]
    assert novelty.find_known(crystals, known) == [name for name, _ in known]
    assert novelty.find_known(crystals[:2], known[2:]) == ["", ""]


def test_the_first_of_several_is_named():
    one, other = crystal_of(ROCKSALT), crystal_of(ZINCBLENDE)
    crystals = [one, other, rattled(one, 3), rattled(other, 4), rattled(one, 5)]
    np.testing.assert_array_equal(novelty.find_duplicates(crystals), [-1, -1, 0, 1, 0])
    known = [("a", crystal_of(L1_2)), ("b", rattled(one, 6)), ("c", one)]
    assert novelty.find_known(crystals, known) == ["b", "", "b", "", "b"]


@pytest.mark.parametrize("problem", ["coordinate", "lattice", "flat"])
def test_broken_crystals_equal_nothing(problem):
    crystal = crystal_of(ROCKSALT)
    bad = broken(crystal, problem)
    found = novelty.find_duplicates([bad, crystal, bad, crystal])
    np.testing.assert_array_equal(found, [-1, -1, -1, 1])
    assert novelty.find_known([bad, crystal], [("x", bad), ("y", crystal)]) == ["", "y"]


def test_a_cell_that_cannot_be_reduced_equals_nothing(monkeypatch):
    def fail(crystal, reduce_cell=novelty.primitive_cells.reduce_cell):
        if crystal.num_sites == 16:
            raise RuntimeError("no reduced cell")
        return reduce_cell(crystal)

    monkeypatch.setattr(novelty.primitive_cells, "reduce_cell", fail)
    crystal = crystal_of(ROCKSALT)
    odd = supercell(crystal)
    found = novelty.find_duplicates([odd, odd, crystal, crystal])
    np.testing.assert_array_equal(found, [-1, -1, -1, 2])


@pytest.mark.parametrize("seed", range(3))
def test_equal_is_what_pymatgens_fit_says(seed):
    # Pairs of every kind: distorted within and beyond the tolerance, and unrelated.
    rng = np.random.default_rng(seed)
    parents = [crystal_of(each) for each in (ROCKSALT.get_primitive_structure(), L1_0)]
    crystals = [
        rattled(parents[rng.integers(2)], int(rng.integers(1000)), amount)
        for amount in rng.choice([0.02, 0.2, 0.5], 14)
    ]
    made = [bridge.to_pymatgen(each) for each in crystals]
    matcher = StructureMatcher(
        ltol=PAPER.ltol, stol=PAPER.stol, angle_tol=PAPER.angle_tol
    )
    expected: list[int] = []
    for i, each in enumerate(made):
        distinct = [j for j in range(i) if expected[j] < 0]
        fits = (j for j in distinct if matcher.fit(made[j], each))
        expected.append(next(fits, -1))
    assert 1 < expected.count(-1) < len(expected)
    np.testing.assert_array_equal(novelty.find_duplicates(crystals), expected)
    known = [(str(j), each) for j, each in enumerate(crystals[:7])]
    expected_ids = [
        next((str(j) for j in range(7) if matcher.fit(made[j], each)), "")
        for each in made[7:]
    ]
    assert novelty.find_known(crystals[7:], known) == expected_ids


def test_worker_processes_find_the_same():
    crystals = [crystal_of(each) for each in (ROCKSALT, L1_2, ZINCBLENDE)] * 2
    alone = novelty.find_duplicates(crystals, num_workers=1)
    np.testing.assert_array_equal(alone, [-1, -1, -1, 0, 1, 2])
    np.testing.assert_array_equal(
        novelty.find_duplicates(crystals, num_workers=2), alone
    )
    known = [("k", crystals[1])]
    assert novelty.find_known(crystals, known, num_workers=2) == ["", "k", ""] * 2


def plain_loop(crystals):
    """The definition, but for the reduced formula: one cell after another."""
    cells = [primitive_cells.reduce_cell(each) for each in crystals]
    found: list[int] = []
    for i, cell in enumerate(cells):
        equals = (
            j
            for j in range(i)
            if found[j] < 0
            and superposition.are_equal(cells[j], cell, **dataclasses.asdict(PAPER))
        )
        found.append(next(equals, -1))
    return found


@pytest.fixture(scope="module")
def compared_one_by_one():
    """Crystals, and what each of them equals.

    At 0.15 Å equal is not transitive: it matters which ones a crystal is compared with.
    """
    rng = np.random.default_rng(0)
    parents = [crystal_of(each) for each in (ROCKSALT, ZINCBLENDE, L1_0)]
    crystals = [
        rattled(parents[rng.integers(3)], int(rng.integers(10**6)), amount)
        for amount in rng.choice([0.02, 0.15, 0.25], 120)
    ]
    # Of another composition, and too few to be shared.
    others = [rattled(crystal_of(L1_2), seed, 0.1) for seed in range(9)]
    crystals[40:40] = others
    expected = plain_loop(crystals)
    assert 20 < expected.count(-1) < 100
    return crystals, expected


@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_workers_share_one_composition(num_workers, compared_one_by_one):
    crystals, expected = compared_one_by_one
    bad = broken(crystals[0], "coordinate")
    found = novelty.find_duplicates([*crystals, bad], num_workers=num_workers)
    np.testing.assert_array_equal(found, [*expected, -1])


def test_a_tighter_tolerance_tells_more_apart():
    crystal = crystal_of(L1_0)
    crystals = [crystal, rattled(crystal, amount=0.1)]
    tight = matching.Tolerance(0.01, 0.005, 0.1)
    np.testing.assert_array_equal(novelty.find_duplicates(crystals), [-1, 0])
    np.testing.assert_array_equal(
        novelty.find_duplicates(crystals, tolerance=tight), [-1, -1]
    )


def test_nothing_is_found_among_nothing():
    assert novelty.find_duplicates([]).shape == (0,)
    assert novelty.find_known([], [("a", crystal_of(ROCKSALT))]) == []
    assert novelty.find_known([crystal_of(ROCKSALT)], []) == [""]
