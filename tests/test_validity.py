import dataclasses

import ase.geometry
import ase.neighborlist
import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from crystaljax.crystals import assessment, bridge, structure, symmetry_search, validity

FCC = structure.Crystal(
    atomic_numbers=np.array([29, 29, 29, 79]),
    frac_coords=np.array([[0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5], [0, 0, 0]]),
    lattice=3.75 * np.eye(3),
)


def random_crystal(seed, *, skew=0, num_sites=None):
    """A triclinic crystal; skew > 0 gives the same lattice by long, skewed vectors."""
    rng = np.random.default_rng(seed)
    parameters = [*rng.uniform(2.5, 9, 3), *rng.uniform(65, 110, 3)]
    lattice = np.array(Lattice.from_parameters(*parameters).matrix)
    num_sites = num_sites or rng.integers(1, 8)
    frac_coords = rng.uniform(-1, 2, (num_sites, 3))
    for _ in range(skew):
        first, second = rng.permutation(3)[:2]
        change = np.eye(3)
        change[first, second] = rng.integers(-3, 4)
        lattice = change @ lattice
        frac_coords = frac_coords @ np.linalg.inv(change)
    return structure.Crystal(rng.integers(1, 84, num_sites), frac_coords, lattice)


def brute_force_distances(crystal, reach=3):
    """Over many images of a well-shaped cell."""
    steps = np.arange(-reach, reach + 1)
    images = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(-1, 3)
    coords = crystal.frac_coords - np.floor(crystal.frac_coords)
    deltas = coords[None] - coords[:, None]
    vectors = (deltas[:, :, None] + images) @ crystal.lattice
    distances = np.linalg.norm(vectors, axis=-1)
    distances[distances < 1e-9] = np.inf
    return distances.min(axis=-1)


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(st.integers(0, 10**6))
def test_pair_distances_are_right_in_triclinic_cells(seed):
    crystal = random_crystal(seed)
    np.testing.assert_allclose(
        validity.pair_distances(crystal), brute_force_distances(crystal), atol=1e-9
    )


@hypothesis.settings(deadline=None, max_examples=100)
@hypothesis.given(st.integers(0, 10**6), st.integers(1, 5))
def test_pair_distances_do_not_depend_on_the_choice_of_vectors(seed, skew):
    expected = validity.pair_distances(random_crystal(seed))
    skewed = random_crystal(seed)
    rng = np.random.default_rng(seed + 1)
    lattice, frac_coords = skewed.lattice, skewed.frac_coords
    for _ in range(skew):
        first, second = rng.permutation(3)[:2]
        change = np.eye(3)
        change[first, second] = rng.integers(-3, 4)
        lattice = change @ lattice
        frac_coords = frac_coords @ np.linalg.inv(change)
    skewed = structure.Crystal(skewed.atomic_numbers, frac_coords, lattice)
    hypothesis.assume(not validity.find_cell_problem(skewed))
    np.testing.assert_allclose(validity.pair_distances(skewed), expected, atol=1e-6)


@pytest.mark.parametrize("seed", range(15))
def test_shortest_distance_agrees_with_pymatgen_and_ase_in_skewed_cells(seed):
    crystal = random_crystal(seed, skew=3, num_sites=5)
    shortest = validity.check(crystal).shortest_distance
    pymatgen_structure = bridge.to_pymatgen(crystal)
    _, _, _, distances = pymatgen_structure.get_neighbor_list(shortest + 0.5)
    assert shortest == pytest.approx(distances.min(), abs=1e-6)
    found = ase.neighborlist.neighbor_list("d", bridge.to_ase(crystal), shortest + 0.1)
    assert shortest == pytest.approx(found.min(), abs=1e-6)


def test_known_crystal():
    found = validity.check(FCC)
    assert found.valid
    assert found.reason == ""
    assert found.volume == pytest.approx(3.75**3)
    assert found.volume_per_atom == pytest.approx(3.75**3 / 4)
    assert found.shortest_distance == pytest.approx(3.75 / np.sqrt(2))
    assert found.shortest_distance_ratio == pytest.approx(
        3.75 / np.sqrt(2) / (1.32 + 1.36)
    )


def test_images_of_one_site_count():
    crystal = structure.Crystal(
        np.array([29]), np.zeros((1, 3)), np.diag([0.4, 5.0, 5.0])
    )
    found = validity.check(crystal)
    assert found.shortest_distance == pytest.approx(0.4)
    assert not found.valid
    assert "shortest distance of 0.4" in found.reason


def test_distance_across_the_cell_boundary_counts():
    frac_coords = np.array([[0.01, 0.5, 0.5], [0.99, 0.5, 0.5]])
    crystal = structure.Crystal(np.array([29, 29]), frac_coords, 5 * np.eye(3))
    found = validity.check(crystal)
    assert found.shortest_distance == pytest.approx(0.1)
    assert not found.valid


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"frac_coords": np.full((4, 3), np.nan)}, "not finite"),
        ({"lattice": np.full((3, 3), np.inf)}, "not finite"),
        ({"lattice": np.zeros((3, 3))}, "no cell"),
        ({"lattice": 0.3 * np.eye(3)}, "volume of 0.027"),
        ({"lattice": np.diag([1e5, 3, 3])}, "over 1000"),
        ({"lattice": np.array([[5, 0, 0], [5, 1e-6, 0], [0, 0, 5]])}, "no cell"),
        ({"frac_coords": np.zeros((4, 3))}, "shortest distance of 0 Å"),
        ({"atomic_numbers": np.array([29, 29, 79, 0])}, "atomic number"),
    ],
)
def test_what_is_wrong_is_said(change, problem):
    crystal = dataclasses.replace(FCC, **change)
    found = validity.check(crystal)
    assert not found.valid
    assert problem in found.reason
    assert found.finite == ("not finite" not in problem)


def test_an_empty_crystal_is_not_valid():
    empty = structure.Crystal(np.zeros(0, int), np.zeros((0, 3)), np.eye(3))
    assert "no sites" in validity.check(empty).reason


def test_float32_samples_and_left_handed_cells_are_checked():
    crystal = structure.Crystal(
        FCC.atomic_numbers.astype(np.uint8),
        FCC.frac_coords.astype(np.float32) + 40,
        -FCC.lattice.astype(np.float32),
    )
    found = validity.check(crystal)
    assert found.valid
    assert found.shortest_distance == pytest.approx(3.75 / np.sqrt(2))


def test_find_space_group():
    assert symmetry_search.find_space_group(FCC, 0.01) == 221
    moved = dataclasses.replace(FCC, frac_coords=FCC.frac_coords + 0)
    moved.frac_coords[0, 2] += 0.01
    assert symmetry_search.find_space_group(moved, 0.01) == 99
    assert symmetry_search.find_space_group(moved, 0.1) == 221


@pytest.mark.parametrize(
    "change",
    [
        {"frac_coords": np.full((4, 3), np.nan)},
        {"frac_coords": np.zeros((4, 3))},
        {"lattice": np.zeros((3, 3))},
        {"lattice": np.diag([1e5, 3, 3])},
    ],
)
def test_find_space_group_survives_bad_crystals(change):
    assert (
        symmetry_search.find_space_group(dataclasses.replace(FCC, **change), 0.1) == 0
    )


@pytest.mark.parametrize("seed", [128, 183, 419])
def test_find_space_group_prints_nothing(seed, capfd):
    rng = np.random.default_rng(seed)
    numbers, coords = rng.integers(20, 30, 5), rng.random((5, 3))
    lattice = 4.0 * np.eye(3) + rng.normal(0, 0.1, (3, 3))
    symmetry_search.find_space_group(structure.Crystal(numbers, coords, lattice), 1.0)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("num_workers", [1, 2])
def test_check_many_agrees_with_check(num_workers):
    bad = dataclasses.replace(FCC, lattice=np.full((3, 3), np.nan))
    crystals = [FCC, bad, random_crystal(1), FCC]
    found = assessment.check_many(crystals, (0.1, 0.01), num_workers=num_workers)
    assert found.valid.tolist() == [validity.check(each).valid for each in crystals]
    assert found.reasons == tuple(validity.check(each).reason for each in crystals)
    assert found.space_groups[:, 0].tolist() == [221, 0, 1, 221]
    assert found.space_groups.shape == (4, 2)
    assert found.symprecs == (0.1, 0.01)
    assert np.isnan(found.shortest_distance[1])


def test_check_many_of_nothing():
    found = assessment.check_many([])
    assert found.valid.shape == (0,)
    assert found.space_groups.shape == (0, 2)


@hypothesis.settings(deadline=None, max_examples=100)
@hypothesis.given(
    st.lists(
        st.one_of(
            st.floats(-20, 20), st.floats(width=32), st.sampled_from([0.0, 1e-3, 999.0])
        ),
        min_size=15,
        max_size=15,
    )
)
def test_no_numbers_make_a_check_fail(numbers):
    values = np.array(numbers).reshape(5, 3)
    crystal = structure.Crystal(np.array([29, 79]), values[:2], values[2:])
    found = validity.check(crystal)
    assert found.valid == (found.reason == "")
    symmetry_search.find_space_group(crystal, 0.1)


def test_pymatgen_structure_agrees():
    crystal = random_crystal(3, num_sites=6)
    pymatgen_structure = Structure(
        Lattice(crystal.lattice), list(crystal.atomic_numbers), crystal.frac_coords
    )
    expected = pymatgen_structure.distance_matrix
    np.fill_diagonal(expected, np.inf)
    distances = validity.pair_distances(crystal)
    np.fill_diagonal(distances, np.inf)
    np.testing.assert_allclose(distances, expected, atol=1e-8)


@hypothesis.given(st.integers(0, 2**32 - 1), st.integers(0, 3))
@hypothesis.settings(max_examples=60, deadline=None, derandomize=True)
def test_close_sites_are_those_of_the_distances(seed, skew):
    rng = np.random.default_rng(seed)
    crystals = [
        # Some cells are thinner than twice the distance.
        dataclasses.replace(crystal, lattice=crystal.lattice * rng.uniform(0.1, 1.5))
        for crystal in (
            random_crystal(seed + i, skew=skew, num_sites=1 + i % 5) for i in range(10)
        )
    ]
    distance = rng.uniform(0.2, 2.0)
    expected = [validity.pair_distances(one).min() < distance for one in crystals]
    found = validity.have_close_sites(crystals, distance)
    np.testing.assert_array_equal(found, expected)


def test_problems_of_many_are_those_of_each():
    good = random_crystal(0)
    crystals = [
        good,
        dataclasses.replace(good, lattice=np.full((3, 3), np.nan)),
        dataclasses.replace(good, lattice=np.zeros((3, 3))),
        dataclasses.replace(good, lattice=2000 * np.eye(3)),
        dataclasses.replace(good, frac_coords=np.full_like(good.frac_coords, np.inf)),
        dataclasses.replace(good, atomic_numbers=np.zeros_like(good.atomic_numbers)),
    ]
    together = validity.find_cell_problems(crystals)
    assert together == [validity.find_cell_problem(one) for one in crystals]
    assert [bool(problem) for problem in together] == [False] + [True] * 5
    assert validity.find_cell_problems([]) == []
