import collections
import functools
import itertools

import group_crystals
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice
from pymatgen.core.structure_matcher import StructureMatcher
from pymatgen.util import coord_cython
from scipy import optimize

from crystaljax.crystals import bridge, structure
from crystaljax.matching import (
    assignment,
    bases,
    images,
    primitive_cells,
    superposition,
)

TOLERANCES = {
    "paper": {"ltol": 0.2, "stol": 0.3, "angle_tol": 5.0},
    "literature": {"ltol": 0.3, "stol": 0.5, "angle_tol": 10.0},
    "loose": {"ltol": 1.0, "stol": 1.5, "angle_tol": 25.0},
}

# Space group, lattice, species and positions. Ideal crystals are the hard ones: many
# superpositions tie, and rounding decides what pymatgen answers for each.
PROTOTYPES = {
    "fcc": ("Fm-3m", Lattice.cubic(4), ["Cu"], [[0, 0, 0]]),
    "hcp": ("P6_3/mmc", Lattice.hexagonal(2.6, 4.2), ["Cu"], [[1 / 3, 2 / 3, 0.25]]),
    "bcc": ("Im-3m", Lattice.cubic(3), ["Cu"], [[0, 0, 0]]),
    "rocksalt": ("Fm-3m", Lattice.cubic(5.6), ["Na", "Cl"], [[0] * 3, [0.5] * 3]),
    "CsCl": ("Pm-3m", Lattice.cubic(3.4), ["Na", "Cl"], [[0] * 3, [0.5] * 3]),
    "zincblende": ("F-43m", Lattice.cubic(5.6), ["Na", "Cl"], [[0] * 3, [0.25] * 3]),
    "wurtzite": (
        "P6_3mc",
        Lattice.hexagonal(3.9, 6.3),
        ["Na", "Cl"],
        [[1 / 3, 2 / 3, 0], [1 / 3, 2 / 3, 0.375]],
    ),
    "perovskite": (
        "Pm-3m",
        Lattice.cubic(3.9),
        ["Sr", "Ti", "O"],
        [[0] * 3, [0.5] * 3, [0.5, 0.5, 0]],
    ),
    "rutile": (
        "P4_2/mnm",
        Lattice.tetragonal(4.6, 2.96),
        ["Ti", "O"],
        [[0] * 3, [0.305, 0.305, 0]],
    ),
    "anatase": (
        "I4_1/amd",
        Lattice.tetragonal(3.78, 9.5),
        ["Ti", "O"],
        [[0] * 3, [0, 0, 0.208]],
    ),
}


@functools.cache
def prototype(name, primitive=True):
    made = group_crystals.from_spacegroup(*PROTOTYPES[name])
    return bridge.from_pymatgen(made.get_primitive_structure() if primitive else made)


def in_another_description(crystal, seed):
    """Rotated, shifted, its sites in another order, in a cell that may be larger."""
    rng = np.random.default_rng(seed)
    made = bridge.to_pymatgen(crystal)
    shear, repeat = rng.integers(-1, 2, 2).tolist(), int(rng.integers(1, 3))
    made.make_supercell([[1, shear[0], 0], [0, repeat, 0], [shear[1], 0, 1]])
    crystal = bridge.from_pymatgen(made)
    order = rng.permutation(crystal.num_sites)
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    return structure.Crystal(
        crystal.atomic_numbers[order],
        (crystal.frac_coords + rng.uniform(-1, 1, 3))[order],
        crystal.lattice @ rotation,
    )


def distorted(crystal, seed):
    rng = np.random.default_rng(seed)
    amount = rng.choice([0.01, 0.1, 0.3])
    lattice = (np.eye(3) + rng.normal(0, amount / 3, (3, 3))) @ crystal.lattice
    shift = rng.normal(0, amount, crystal.frac_coords.shape)
    return structure.Crystal(
        crystal.atomic_numbers,
        crystal.frac_coords + shift @ np.linalg.inv(lattice),
        lattice,
    )


def answers(first, second, tolerance):
    cells = primitive_cells.reduce_cell(first), primitive_cells.reduce_cell(second)
    return (
        superposition.smallest_rms(*cells, **tolerance),
        superposition.are_equal(*cells, **tolerance),
    )


def pymatgen_answers(first, second, tolerance):
    # It takes crystals that differ by 1e-5 of their coordinates for those it reduced
    # before.
    StructureMatcher._get_reduced_istructure.cache_clear()
    matcher = StructureMatcher(**tolerance)
    pair = bridge.to_pymatgen(first), bridge.to_pymatgen(second)
    rms = matcher.get_rms_dist(*pair)
    return None if rms is None else float(rms[0]), bool(matcher.fit(*pair))


def assert_same_answers(first, second, tolerance):
    rms, is_equal = answers(first, second, tolerance)
    expected, expected_equal = pymatgen_answers(first, second, tolerance)
    assert rms == (None if expected is None else pytest.approx(expected, abs=1e-9))
    assert is_equal == expected_equal


@pytest.mark.parametrize("name", PROTOTYPES)
@pytest.mark.parametrize("primitive", [True, False])
def test_cells_are_reduced_to_the_bit_as_pymatgen_does(name, primitive):
    crystal = prototype(name, primitive)
    variants = [in_another_description(crystal, seed) for seed in range(3)]
    variants += [distorted(crystal, seed) for seed in range(3)]
    for each in [crystal, *variants]:
        expected = StructureMatcher._get_reduced_structure(bridge.to_pymatgen(each))
        cell = primitive_cells.reduce_cell(each)
        np.testing.assert_array_equal(cell.lattice.matrix, expected.lattice.matrix)
        np.testing.assert_array_equal(cell.frac_coords, expected.frac_coords)
        numbers = [site.specie.Z for site in expected]
        np.testing.assert_array_equal(cell.atomic_numbers, numbers)


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        *itertools.product(PROTOTYPES, ["paper", "literature"]),
        ("hcp", "loose"),
        ("rutile", "loose"),
    ],
)
def test_ideal_crystals_get_pymatgens_answers(name, tolerance):
    crystal = prototype(name)
    species = sorted(set(crystal.atomic_numbers.tolist()))
    for other in PROTOTYPES:
        target = prototype(other)
        if sorted(set(target.atomic_numbers.tolist())) == species:
            assert_same_answers(crystal, target, TOLERANCES[tolerance])
    other = in_another_description(crystal, 0)
    assert_same_answers(other, crystal, TOLERANCES[tolerance])


@pytest.mark.parametrize("name", PROTOTYPES)
@pytest.mark.parametrize("seed", range(2))
def test_distorted_crystals_get_pymatgens_answers(name, seed):
    crystal = prototype(name)
    for tolerance in (TOLERANCES["paper"], TOLERANCES["literature"]):
        assert_same_answers(distorted(crystal, seed), crystal, tolerance)
        assert_same_answers(crystal, distorted(crystal, seed + 10), tolerance)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    counts=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    step=st.sampled_from([0.0, 0.25, 0.5]),
)
def test_random_crystals_get_pymatgens_answers(seed, counts, step):
    # With ``step``, sites lie on a grid, where many distances are equal.
    rng = np.random.default_rng(seed)
    numbers = np.repeat([29, 46, 79][: len(counts)], counts)
    lattice = (
        np.array(
            Lattice.from_parameters(
                *rng.uniform(3, 6, 3), *rng.uniform(60, 120, 3)
            ).matrix
        )
        if step == 0
        else np.diag(rng.choice([3.0, 4.0], 3))
    )

    def sites():
        coords = rng.uniform(size=(len(numbers), 3))
        return np.round(coords / step) * step if step else coords

    first = structure.Crystal(numbers, sites(), lattice)
    second = structure.Crystal(numbers, sites(), lattice)
    assert_same_answers(first, second, TOLERANCES["literature"])


def test_other_compositions_are_never_superposed():
    gold = structure.Crystal(np.array([79]), np.zeros((1, 3)), np.eye(3) * 3)
    copper = structure.Crystal(np.array([29]), np.zeros((1, 3)), np.eye(3) * 3)
    assert answers(gold, copper, TOLERANCES["loose"]) == (None, False)


def test_cells_too_elongated_for_pymatgen_do_not_match_and_end_soon():
    # pymatgen would list 300 million lattice points.
    needle = structure.Crystal(
        np.array([29, 79]),
        np.array([[0, 0, 0], [0.3, 0.5, 0.5]]),
        np.diag([900, 0.1, 0.1]),
    )
    usual = structure.Crystal(
        needle.atomic_numbers, needle.frac_coords, np.diag([3, 3, 3.5])
    )
    assert answers(needle, usual, TOLERANCES["loose"]) == (None, False)
    cell = primitive_cells.reduce_cell(needle)
    assert cell.volume == pytest.approx(9.0)
    with pytest.raises(ValueError, match="less elongated"):
        superposition.smallest_rms(cell, cell, **TOLERANCES["loose"])


def test_a_lattice_too_long_to_match_is_known_beforehand():
    sheet = primitive_cells.reduce_cell(
        structure.Crystal(np.array([29]), np.zeros((1, 3)), np.diag([2.0, 8, 8]))
    )
    cube = primitive_cells.reduce_cell(
        structure.Crystal(np.array([29]), np.zeros((1, 3)), np.eye(3))
    )
    # Over the cube root of the volume, 128^(1/3).
    assert superposition.stretch(sheet, cube) == pytest.approx(
        8 / 128 ** (1 / 3), rel=1e-5
    )
    # Never more than it is.
    assert 0.99999 < superposition.stretch(cube, cube) < 1


@pytest.mark.parametrize("seed", range(20))
def test_bases_are_reduced_as_pymatgen_does(seed):
    rng = np.random.default_rng(seed)
    lattice = Lattice(rng.normal(size=(3, 3)) * 3)
    rows = bases.reduce_basis(lattice.matrix.tolist())
    np.testing.assert_allclose(rows, lattice.lll_matrix, atol=1e-9)
    niggli = bases.reduce_niggli(lattice)
    expected = lattice.get_niggli_reduced_lattice()
    np.testing.assert_array_equal(niggli.matrix, expected.matrix)


def test_a_basis_that_rounding_decides_is_left_to_pymatgen():
    hexagonal = np.array([[1, 0, 0], [-0.5, np.sqrt(0.75), 0], [0, 0, 2]])
    assert bases.reduce_basis(hexagonal.tolist()) is None


@pytest.mark.parametrize("size", [1, 2, 4, 5, 6])
def test_assignments_are_the_best_and_ties_are_marked(size):
    rng = np.random.default_rng(size)
    # Small integers tie often.
    costs = np.concatenate(
        [rng.integers(0, 4, (30, size, size)), rng.uniform(size=(30, size, size))]
    ).astype(float)
    columns, is_tie = assignment.assign(costs, np.full(len(costs), 1e-9))
    permutations = list(itertools.permutations(range(size)))
    for cost, found, ties in zip(costs, columns, is_tie, strict=True):
        by_total = collections.defaultdict(list)
        for each in permutations:
            by_total[round(float(cost[np.arange(size), each].sum()), 7)].append(each)
        best = np.array(by_total[min(by_total)])
        assert found.tolist() in best.tolist()
        np.testing.assert_array_equal(ties, (best != found).any(axis=0))
        assert cost[np.arange(size), found].sum() == pytest.approx(
            cost[optimize.linear_sum_assignment(cost)].sum()
        )


@pytest.mark.parametrize("seed", range(10))
def test_nearest_images_are_those_that_pymatgen_finds(seed):
    rng = np.random.default_rng(seed)
    lattice = Lattice(np.diag([3, 3, 3]) + rng.normal(0, 0.9, (3, 3)))
    reduced = lattice.get_lll_reduced_lattice()
    coords = rng.uniform(size=(20, 3)) if seed % 2 else rng.integers(0, 4, (20, 3)) / 4
    coords = coords.astype(float)
    expected, squares = coord_cython.pbc_shortest_vectors(
        reduced, coords[:1], coords, return_d2=True
    )
    near = images.find_nearest(
        (coords - coords[0])[None],
        np.array(reduced.matrix)[None],
        np.array([0]),
        np.array([100.0]),
    )
    assert near.is_allowed.all()
    assert near.is_certain.mean() > 0.1
    sure = near.is_certain[0]
    np.testing.assert_allclose(near.vectors[0][sure], expected[0][sure], atol=1e-9)
    exact = near.is_exact[0]
    np.testing.assert_allclose(near.squares[0][exact], squares[0][exact], atol=1e-9)
    assert (near.squares[0] <= squares[0] + 1e-9).all()
