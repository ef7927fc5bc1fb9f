import itertools

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice
from scipy.spatial import transform

from crystaljax.crystals import bridge, canonical, structure

# Of coordinates, and of lattice entries in Å, between two forms of one crystal.
TOLERANCE = 3e-5

FCC = 2.0 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0.0]])
BCC = 1.6 * np.array([[-1, 1, 1], [1, -1, 1], [1, 1, -1.0]])
HCP = np.array([[2.9, 0, 0], [-1.45, 2.9 * 3**0.5 / 2, 0], [0, 0, 4.7]])
PEROVSKITE = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
FCC_SITES = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])

PROTOTYPES = {
    "fcc": ([29], [[0, 0, 0]], FCC),
    "bcc": ([26], [[0, 0, 0]], BCC),
    "hcp": ([22, 22], [[1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75]], HCP),
    "zincblende": ([30, 16], [[0, 0, 0], [0.25, 0.25, 0.25]], 1.4 * FCC),
    "perovskite": ([38, 22, 8, 8, 8], PEROVSKITE, 3.9 * np.eye(3)),
    "diamond": ([14] * 8, [*FCC_SITES, *(FCC_SITES + 0.25)], 5.4 * np.eye(3)),
}

seeds = st.integers(0, 2**32 - 1)
origins = st.sampled_from(canonical.ORIGINS)
examples = hypothesis.settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)


def prototype(name, noise=0.0, seed=0):
    numbers, coords, lattice = PROTOTYPES[name]
    rng = np.random.default_rng(seed)
    return structure.Crystal(
        np.array(numbers),
        np.array(coords, float) + noise * rng.uniform(-1, 1, (len(numbers), 3)),
        lattice + noise * rng.uniform(-1, 1, (3, 3)),
    )


def triclinic(seed, num_sites=None):
    rng = np.random.default_rng(seed)
    num_sites = num_sites or rng.integers(1, 9)
    lattice = 5 * np.eye(3) + rng.uniform(-2, 2, (3, 3))
    return structure.Crystal(
        rng.choice([8, 22, 56], num_sites), rng.random((num_sites, 3)), lattice
    )


def rewritten(crystal, seed, *, shift):
    """The same crystal in another basis, orientation, site order and origin."""
    rng = np.random.default_rng(seed)
    change = np.eye(3)
    for _ in range(4):
        i, j = rng.choice(3, 2, replace=False)
        shear = np.eye(3)
        shear[i, j] = rng.integers(-2, 3)
        change = change @ shear
    if rng.random() < 0.3:
        change = -change
    rotation = transform.Rotation.random(random_state=int(seed)).as_matrix()
    coords = crystal.frac_coords + shift * rng.random(3)
    coords = coords @ np.linalg.inv(change)
    coords = coords + rng.integers(-2, 3, coords.shape)
    order = rng.permutation(crystal.num_sites)
    return structure.Crystal(
        crystal.atomic_numbers[order],
        coords[order],
        change @ crystal.lattice @ rotation,
    )


def assert_same_arrays(one, other):
    np.testing.assert_array_equal(one.atomic_numbers, other.atomic_numbers)
    change = one.frac_coords - other.frac_coords
    assert np.abs(change - np.round(change)).max() < TOLERANCE
    np.testing.assert_allclose(one.lattice, other.lattice, atol=TOLERANCE)


def distances(crystal):
    """Sorted distances with species, up to 6 Å: equal for mirror images too."""
    neighbours = bridge.to_pymatgen(crystal).get_all_neighbors(6.0)
    numbers = crystal.atomic_numbers
    found = [
        (numbers[site], neighbour.specie.Z, round(neighbour.nn_distance, 4))
        for site, near in enumerate(neighbours)
        for neighbour in near
    ]
    return np.array(sorted(found))


@examples
@hypothesis.given(seeds, seeds, origins)
def test_triclinic_crystal_has_one_form(seed, rewriting, origin):
    crystal = triclinic(seed)
    other = rewritten(crystal, rewriting, shift=origin != "input")
    assert_same_arrays(
        canonical.canonical_crystal(crystal, origin),
        canonical.canonical_crystal(other, origin),
    )


@examples
@hypothesis.given(
    st.sampled_from(sorted(PROTOTYPES)),
    st.sampled_from([0.0, 1e-9, 1e-4]),
    seeds,
    seeds,
    origins,
)
def test_symmetric_crystal_has_one_form(name, noise, seed, rewriting, origin):
    crystal = prototype(name, noise, seed)
    other = rewritten(crystal, rewriting, shift=origin != "input")
    assert_same_arrays(
        canonical.canonical_crystal(crystal, origin),
        canonical.canonical_crystal(other, origin),
    )


@examples
@hypothesis.given(st.sampled_from(sorted(PROTOTYPES)), seeds, seeds)
def test_noise_does_not_permute_axes_or_sites(name, seed, rewriting):
    noisy = rewritten(prototype(name, 1e-4, seed), rewriting, shift=True)
    found = canonical.canonical_crystal(noisy)
    expected = canonical.canonical_crystal(prototype(name))
    change = found.frac_coords - expected.frac_coords
    assert np.abs(change - np.round(change)).max() < 2e-3
    np.testing.assert_allclose(found.lattice, expected.lattice, atol=5e-3)


@pytest.mark.parametrize(
    "parameters",
    [
        [6.44541, 4.5576, 5.17938, 63.8977, 51.5217, 45],
        [8.61838, 6.09412, 12.3529, 75.7196, 69.5836, 45],
    ],
)
@pytest.mark.parametrize("old_errors", ["true", "false"])
def test_cell_that_is_degenerate_to_six_digits_has_one_form(
    parameters, old_errors, monkeypatch
):
    # spglib gives up on it at its default tolerance: by None, or by an exception, as
    # this variable says, which ASE sets where it keeps a symmetry.
    monkeypatch.setenv("SPGLIB_OLD_ERROR_HANDLING", old_errors)
    lattice = structure.lattice_from_parameters(np.array(parameters, float))
    crystal = structure.Crystal(
        np.array([33, 5]), np.array([[0, 0, 0], [0.2, 0.3, 0.4]]), lattice
    )
    form = canonical.canonical_crystal(crystal)
    for seed in range(5):
        again = canonical.canonical_crystal(rewritten(crystal, seed, shift=1.0))
        assert_same_arrays(again, form)


@examples
@hypothesis.given(seeds)
def test_form_is_a_fixed_point(seed):
    found = canonical.canonical_crystal(triclinic(seed))
    assert_same_arrays(found, canonical.canonical_crystal(found))


@hypothesis.settings(examples, max_examples=15)
@hypothesis.given(seeds, origins)
def test_is_the_same_crystal(seed, origin):
    crystal = triclinic(seed)
    found = canonical.canonical_crystal(crystal, origin)
    assert found.num_sites == crystal.num_sites
    one, other = distances(crystal), distances(found)
    np.testing.assert_array_equal(one[:, :2], other[:, :2])
    np.testing.assert_allclose(one[:, 2], other[:, 2], atol=2e-4)


@pytest.mark.parametrize("name", sorted(PROTOTYPES))
def test_matcher_finds_the_same_crystal(name):
    crystal = prototype(name)
    found = canonical.canonical_crystal(rewritten(crystal, 3, shift=True))
    matcher = StructureMatcher(primitive_cell=False)
    assert matcher.fit(bridge.to_pymatgen(crystal), bridge.to_pymatgen(found))


def signed_volumes(crystal):
    """Volumes spanned by site 0 and its 3 nearest other sites: sign tells the hand."""
    site = bridge.to_pymatgen(crystal)[0]
    near = bridge.to_pymatgen(crystal).get_neighbors(site, 8.0)
    near = sorted(near, key=lambda one: one.nn_distance)[:3]
    return np.linalg.det([one.coords - site.coords for one in near])


@pytest.mark.parametrize("seed", range(8))
def test_chirality_is_kept(seed):
    # One rare site, so that it is site 0 of the canonical form as well.
    crystal = triclinic(seed, 6)
    numbers = np.array([7, 8, 8, 8, 8, 8])
    crystal = structure.Crystal(numbers, crystal.frac_coords, crystal.lattice)
    mirrored = structure.Crystal(
        numbers, crystal.frac_coords, crystal.lattice * np.array([1, 1, -1])
    )
    volume = signed_volumes(crystal)
    found = signed_volumes(canonical.canonical_crystal(crystal))
    found_mirrored = signed_volumes(canonical.canonical_crystal(mirrored))
    np.testing.assert_allclose([found, found_mirrored], [volume, -volume], rtol=1e-6)


@examples
@hypothesis.given(seeds)
def test_generic_cell_is_the_niggli_cell_of_pymatgen(seed):
    crystal = triclinic(seed)
    niggli = Lattice(crystal.lattice).get_niggli_reduced_lattice()
    # Where lengths agree within the tolerance, or an angle is near 90°, the choice is
    # ours.
    hypothesis.assume(min(abs(angle - 90) for angle in niggli.angles) > 1.5)
    vectors = np.array(list(itertools.product((-1, 0, 1), repeat=3)))[14:]
    lengths = np.linalg.norm(vectors @ niggli.matrix, axis=1)
    for length in niggli.lengths:
        hypothesis.assume(np.sum(np.abs(lengths / length - 1) < 0.02) == 1)
    found = canonical.canonical_crystal(crystal)
    np.testing.assert_allclose(
        structure.lattice_parameters(found.lattice), niggli.parameters, rtol=1e-6
    )


@pytest.mark.parametrize(
    "name, parameters",
    [
        ("fcc", (60, 60, 60)),
        ("bcc", (109.4712, 109.4712, 109.4712)),
        ("hcp", (90, 90, 120)),
        ("perovskite", (90, 90, 90)),
    ],
)
def test_symmetric_cells_have_the_usual_angles(name, parameters):
    found = canonical.canonical_crystal(rewritten(prototype(name), 5, shift=True))
    angles = structure.lattice_parameters(found.lattice)[3:]
    np.testing.assert_allclose(angles, parameters, atol=1e-3)


def test_rarest_species_sits_at_the_origin():
    found = canonical.canonical_crystal(
        rewritten(prototype("perovskite"), 11, shift=True)
    )
    np.testing.assert_array_equal(found.atomic_numbers, [8, 8, 8, 38, 22])
    # Sr and Ti are equally rare; Sr comes first in the alphabet.
    np.testing.assert_array_equal(found.frac_coords[3], 0)
    np.testing.assert_allclose(found.frac_coords[4], 0.5, atol=1e-9)


def test_input_origin_is_kept():
    crystal = prototype("perovskite")
    shifted = structure.Crystal(
        crystal.atomic_numbers, crystal.frac_coords + 0.1, crystal.lattice
    )
    found = canonical.canonical_crystal(shifted, "input")
    coords = found.frac_coords[3]
    # Axes that are equivalent may be swapped or turned around.
    np.testing.assert_allclose(np.abs(coords - np.round(coords)), 0.1, atol=1e-9)


def test_species_are_in_alphabetical_order():
    crystal = triclinic(0, 4)
    numbers = np.array([79, 29, 5, 47])
    found = canonical.canonical_crystal(
        structure.Crystal(numbers, crystal.frac_coords, crystal.lattice)
    )
    np.testing.assert_array_equal(found.atomic_numbers, [47, 79, 5, 29])


def test_coordinates_near_one_become_zero():
    crystal = structure.Crystal(
        np.array([29, 79]), np.array([[0, 0, 0], [0.5, -1e-9, 1 - 1e-8]]), 4 * np.eye(3)
    )
    coords = canonical.canonical_crystal(crystal, "input").frac_coords
    assert coords.min() >= 0
    assert coords.max() < 0.6


def test_lattice_is_in_standard_orientation():
    lattice = canonical.canonical_crystal(triclinic(4)).lattice
    assert np.all(np.triu(lattice, 1) == 0)
    assert np.all(np.diag(lattice) > 0)


@pytest.mark.parametrize(
    "lattice, message",
    [
        (np.diag([1.0, 1, 0]), "in a plane"),
        (np.diag([1.0, 1, np.nan]), "not finite"),
    ],
)
def test_bad_lattice_is_refused(lattice, message):
    crystal = structure.Crystal(np.array([1]), np.zeros((1, 3)), lattice)
    with pytest.raises(ValueError, match=message):
        canonical.canonical_crystal(crystal)


def test_unknown_origin_is_refused():
    with pytest.raises(Exception, match="origin"):
        canonical.canonical_crystal(prototype("fcc"), "middle")
