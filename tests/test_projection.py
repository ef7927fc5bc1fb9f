"""Crystals are given the space group that was asked for."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import tiny

from crystaljax.crystals import (
    point_groups,
    projection,
    structure,
    symmetrization,
    symmetry_search,
)
from crystaljax.data.sources import emt
from crystaljax.matching import matcher

RECORDS = list({r.space_group: r for r in emt.load_builtin()}.values())
# Rotations of the cubic lattice.
CUBIC = point_groups.load_rotations()
CUBIC = CUBIC[point_groups.strain(np.eye(3), CUBIC) < 1e-9]


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: str(r.space_group))
def test_group_is_found_where_spglib_finds_another(record):
    disturbed = tiny.disturb(record.crystal, seed=2, size=0.1)
    projected = projection.project(disturbed, record.space_group, largest=0.7)
    assert symmetry_search.find_space_group(projected, 1e-3) == record.space_group
    np.testing.assert_array_equal(projected.atomic_numbers, disturbed.atomic_numbers)
    tolerance = matcher.Tolerance(0.2, 0.2, 6.0)
    assert matcher.match(projected, record.crystal, [tolerance]).rms[0] is not None


@hypothesis.given(st.integers(0, 10**6), st.sampled_from(RECORDS), st.floats(0.02, 0.4))
@hypothesis.settings(max_examples=20)
def test_result_is_of_the_group_and_near_or_the_crystal_itself(seed, record, largest):
    disturbed = tiny.disturb(record.crystal, seed, size=0.1)
    projected = projection.project(disturbed, record.space_group, largest=largest)
    if projected is disturbed:
        return
    assert symmetry_search.find_space_group(projected, 1e-3) == record.space_group
    # Where spglib finds the group, its tolerance is what a site may move.
    apart = projected.frac_coords - disturbed.frac_coords
    apart = (apart - apart.mean(axis=0)) @ projected.lattice
    assert np.linalg.norm(apart, axis=1).max() < 2 * largest


@hypothesis.given(st.integers(0, 10**6), st.sampled_from(RECORDS))
@hypothesis.settings(max_examples=20)
def test_crystal_that_is_far_from_the_group_comes_back(seed, record):
    disturbed = tiny.disturb(record.crystal, seed, size=0.05)
    # None of the packaged alloys can have its 16 sites or more.
    assert projection.project(disturbed, 230, largest=0.5) is disturbed


def test_more_symmetry_than_asked_for_is_no_answer():
    """The whole of it is what is left when fewer operations are averaged over."""
    record = next(r for r in RECORDS if r.space_group == 221)
    disturbed = tiny.disturb(record.crystal, seed=0, size=0.05)
    assert projection.project(disturbed, 99, largest=0.05) is disturbed


def test_what_is_no_crystal_comes_back():
    flat = structure.Crystal(np.array([29]), np.zeros((1, 3)), np.zeros((3, 3)))
    assert projection.project(flat, 225) is flat


# Space groups of point groups, and how often these are in m-3m.
@pytest.mark.parametrize(
    ("space_group", "count"),
    [
        (221, 1),  # m-3m
        (215, 1),  # -43m
        (207, 1),  # 432
        (200, 1),  # m-3
        (195, 1),  # 23
        (123, 3),  # 4/mmm
        (111, 6),  # -42m: each axis in two settings
        (99, 3),  # 4mm
        (75, 3),  # 4
        (81, 3),  # -4
        (47, 4),  # mmm: one along the axes, three along an axis and two diagonals
        (166, 4),  # -3m
        (2, 1),  # -1
        (191, 0),  # 6/mmm
    ],
)
def test_point_groups_are_found_in_the_cubic_lattice(space_group, count):
    assert len(CUBIC) == 48
    kinds = point_groups.kinds_of_point_group(space_group)
    found = point_groups.find_subgroups(CUBIC, kinds)
    assert len(found) == count
    for group in found:
        members = {CUBIC[i].tobytes() for i in group}
        products = {(CUBIC[i] @ CUBIC[j]).tobytes() for i in group for j in group}
        assert products == members


@hypothesis.given(st.integers(0, 10**6), st.sampled_from(RECORDS))
@hypothesis.settings(max_examples=20)
def test_translations_of_known_operations_are_fitted(seed, record):
    rng = np.random.default_rng(seed)
    crystal = record.crystal
    rotation = point_groups.load_rotations()
    rotation = rotation[point_groups.strain(crystal.lattice, rotation) < 1e-3]
    shift = rng.random(3)
    moved = structure.Crystal(
        crystal.atomic_numbers, crystal.frac_coords + shift, crystal.lattice
    )
    # Wherever the origin is, symmetries bring sites onto sites. What other rotations
    # leave is not compared: sites halfway between others may go to either.
    _, before = symmetrization.fit_translations(crystal, rotation)
    rotation = rotation[before < 1e-3]
    assert len(rotation) > 0
    translations, after = symmetrization.fit_translations(moved, rotation)
    np.testing.assert_allclose(after, 0, atol=1e-3)
    for each, translation in zip(rotation, translations, strict=True):
        images = moved.frac_coords @ each.T + translation
        apart = images[:, None] - moved.frac_coords
        apart = np.linalg.norm((apart - np.round(apart)) @ crystal.lattice, axis=-1)
        same = crystal.atomic_numbers[:, None] == crystal.atomic_numbers
        assert np.where(same, apart, np.inf).min(axis=1).max() < 0.01
