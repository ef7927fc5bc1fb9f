"""Crystals are written in the setting of others, and stay what they are."""

import itertools

import hypothesis
import numpy as np
from hypothesis import strategies as st

from crystaljax.crystals import alignment, niggli, structure
from crystaljax.matching import matcher

COUNTS = (1, 1, 3)
PEROVSKITE = structure.Crystal(
    np.repeat([38, 22, 8], COUNTS),
    np.array([[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]),
    3.9 * np.eye(3),
)


def draw_crystal(rng, counts=COUNTS):
    numbers = np.repeat(rng.choice(np.arange(3, 80), len(counts), False), counts)
    lattice = 4 * np.eye(3) + np.tril(rng.normal(0, 0.7, (3, 3)))
    return structure.Crystal(numbers, rng.random((sum(counts), 3)), lattice)


def in_other_setting(crystal, rng, counts=COUNTS):
    """Another basis, origin and order of equal sites."""
    matrices, inverses = niggli.changes_of_basis()[:2]
    # Back to the first one is such a change too.
    number = rng.choice(np.flatnonzero(np.abs(inverses).max(axis=(1, 2)) <= 1))
    ends = np.cumsum(counts)
    order = np.concatenate(
        [
            rng.permutation(np.arange(end - count, end))
            for end, count in zip(ends, counts, strict=True)
        ]
    )
    coords = crystal.frac_coords[order] @ inverses[number] + rng.random(3)
    basis = matrices[number] @ crystal.lattice
    return structure.Crystal(crystal.atomic_numbers, coords, structure.orient(basis))


def largest_distance(one, other):
    apart = one.frac_coords - other.frac_coords
    return np.linalg.norm((apart - np.round(apart)) @ other.lattice, axis=1).max()


@hypothesis.given(st.integers(0, 10**6))
@hypothesis.settings(max_examples=30)
def test_setting_of_an_equal_crystal_is_found(seed):
    rng = np.random.default_rng(seed)
    crystal = draw_crystal(rng)
    # In its own first site's origin, as aligned crystals are.
    other = in_other_setting(crystal, rng)
    aligned, order = alignment.align(other, crystal, COUNTS)
    np.testing.assert_allclose(aligned.lattice, structure.orient(crystal.lattice))
    assert largest_distance(aligned, crystal) < 1e-6
    assert sorted(order.tolist()) == list(range(5))
    assert ((aligned.frac_coords >= 0) & (aligned.frac_coords < 1)).all()


@hypothesis.given(st.integers(0, 10**6))
@hypothesis.settings(max_examples=30)
def test_crystal_stays_what_it_is(seed):
    rng = np.random.default_rng(seed)
    crystal, reference = draw_crystal(rng), draw_crystal(rng)
    aligned, order = alignment.align(crystal, reference, COUNTS)
    np.testing.assert_array_equal(aligned.atomic_numbers, crystal.atomic_numbers[order])
    np.testing.assert_array_equal(aligned.atomic_numbers, crystal.atomic_numbers)
    rms = matcher.match(aligned, crystal, [matcher.TOLERANCES["paper"]]).rms[0]
    assert rms is not None
    assert rms < 1e-4
    assert np.linalg.det(aligned.lattice) > 0


@hypothesis.given(st.integers(0, 10**6))
@hypothesis.settings(max_examples=20)
def test_no_other_order_or_origin_is_nearer(seed):
    """In the basis that was found, by trying all of them."""
    rng = np.random.default_rng(seed)
    counts = (2, 2)
    crystal, reference = draw_crystal(rng, counts), draw_crystal(rng, counts)
    aligned, _ = alignment.align(crystal, reference, counts)

    def distance(coords):
        apart = coords - reference.frac_coords
        cartesian = (apart - np.round(apart)) @ reference.lattice
        return np.sum(cartesian**2)

    found = distance(aligned.frac_coords)
    for first, one, other in itertools.product(
        (0, 1), ([0, 1], [1, 0]), ([2, 3], [3, 2])
    ):
        shift = reference.frac_coords[0] - aligned.frac_coords[first]
        assert found <= distance(aligned.frac_coords[one + other] + shift) + 1e-9


def test_similar_crystals_get_similar_arrays():
    """Perovskites, a little orthorhombic, whose shortest axes are others."""
    rng = np.random.default_rng(0)
    for permutation in itertools.permutations(range(3)):
        stretch = np.diag([1, 1.01, 1.02])[list(permutation)][:, list(permutation)]
        stretched = structure.Crystal(
            PEROVSKITE.atomic_numbers,
            PEROVSKITE.frac_coords,
            PEROVSKITE.lattice @ stretch,
        )
        written = in_other_setting(stretched, rng)
        aligned, _ = alignment.align(written, PEROVSKITE, COUNTS)
        np.testing.assert_allclose(aligned.lattice, PEROVSKITE.lattice, atol=0.09)
        assert largest_distance(aligned, PEROVSKITE) < 1e-6
