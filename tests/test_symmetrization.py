import dataclasses

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import spglib
import tiny

from crystaljax.crystals import structure, symmetrization, symmetry_search
from crystaljax.data.sources import emt
from crystaljax.matching import matcher

RECORDS = list({r.space_group: r for r in emt.load_builtin()}.values())


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: str(r.space_group))
def test_disturbed_crystal_gets_its_symmetry_back(record):
    disturbed = tiny.disturb(record.crystal, seed=1)
    assert symmetry_search.find_space_group(disturbed, 1e-3) < record.space_group
    symmetric = symmetrization.symmetrize(disturbed, 0.1)
    assert symmetry_search.find_space_group(symmetric, 1e-5) == record.space_group
    np.testing.assert_array_equal(symmetric.atomic_numbers, disturbed.atomic_numbers)
    # Nothing has moved by more than it was disturbed.
    apart = symmetric.frac_coords - disturbed.frac_coords
    apart = (apart - apart.mean(axis=0)) @ symmetric.lattice
    assert np.abs(apart).max() < 0.06
    again = symmetrization.symmetrize(symmetric, 0.1)
    np.testing.assert_allclose(again.lattice, symmetric.lattice, atol=1e-9)
    # Where the origin is does not matter, and is known within symprec only.
    shift = again.frac_coords - symmetric.frac_coords
    np.testing.assert_allclose(shift - shift[0], 0, atol=1e-9)


def double(crystal, seed):
    """Twice the cell along a, in another basis of it."""
    basis = np.eye(3, dtype=int)
    basis[np.triu_indices(3, 1)] = np.random.default_rng(seed).integers(-1, 2, 3)
    coords = np.concatenate([crystal.frac_coords, crystal.frac_coords + np.eye(3)[0]])
    return structure.Crystal(
        np.tile(crystal.atomic_numbers, 2),
        (coords / [2, 1, 1]) @ np.linalg.inv(basis),
        basis @ (crystal.lattice * np.array([2, 1, 1])[:, None]),
    )


# Disturbed by 0.01 Å, some cells are 0.11 Å from their symmetry as spglib measures it:
# a part of it is found, or none. At 0.004 Å all of it is.
@hypothesis.given(st.integers(0, 10**6), st.sampled_from(RECORDS))
@hypothesis.settings(max_examples=20)
def test_supercells_and_skewed_bases_keep_their_sites(seed, record):
    doubled = double(record.crystal, seed)
    symmetric = symmetrization.symmetrize(tiny.disturb(doubled, seed, 0.004), 0.1)
    assert symmetric.num_sites == doubled.num_sites
    assert symmetry_search.find_space_group(symmetric, 1e-5) == record.space_group
    match = matcher.match(
        symmetric, record.crystal, [matcher.Tolerance(0.05, 0.05, 2.0)]
    )
    assert match.rms[0] is not None


def count_operations(crystal, symprec):
    """Per atom of the crystal, so that other cells of it have as many."""
    found = spglib.get_symmetry_dataset(
        (crystal.lattice, crystal.frac_coords, crystal.atomic_numbers), symprec
    )
    if found is None:
        return 0
    point_group = spglib.get_symmetry_from_database(found.hall_number)["rotations"]
    return len(np.unique(point_group, axis=0)) / len(set(found.mapping_to_primitive))


@hypothesis.given(
    st.integers(0, 10**6), st.sampled_from(RECORDS), st.floats(0.004, 0.04)
)
@hypothesis.settings(max_examples=20)
# Part of the operations is found at first, and all of them in what has these.
@hypothesis.example(239, next(r for r in RECORDS if r.space_group == 123), 0.01)
def test_symmetry_that_is_found_in_part_is_found_in_the_end(seed, record, size):
    disturbed = tiny.disturb(double(record.crystal, seed), seed, size)
    symmetric = symmetrization.symmetrize(disturbed, 0.1)
    exact = count_operations(symmetric, 1e-5)
    assert exact >= count_operations(disturbed, 0.1)
    assert exact == count_operations(symmetric, 0.1)
    np.testing.assert_array_equal(symmetric.atomic_numbers, disturbed.atomic_numbers)


def test_left_handed_cells_stay_left_handed():
    crystal = RECORDS[3].crystal
    mirrored = dataclasses.replace(crystal, lattice=crystal.lattice * [1, 1, -1])
    found = symmetrization.symmetrize(mirrored)
    assert np.linalg.det(found.lattice) < 0


def test_what_is_no_crystal_comes_back():
    flat = structure.Crystal(np.array([29]), np.zeros((1, 3)), np.zeros((3, 3)))
    assert symmetrization.symmetrize(flat) is flat
