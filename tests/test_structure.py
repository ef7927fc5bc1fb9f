"""The sample tensor and the lattice conventions."""

import ase.cell
import hypothesis
import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import pytest
from pymatgen.core import Lattice

from crystaljax.crystals import bridge, sample_tensors, structure

TRICLINIC = np.array([3.1, 4.2, 5.3, 75.0, 82.0, 98.0])


def test_triclinic_round_trip_through_the_sample_tensor():
    rng = np.random.default_rng(0)
    coords = rng.random((2, 12, 3)).astype(np.float32)
    lattice = np.stack([structure.lattice_from_parameters(TRICLINIC)] * 2)
    num_sites = np.array([12, 5], np.int32)
    x = sample_tensors.encode(coords, lattice.astype(np.float32), num_sites, 16)
    decoded, decoded_lattice = sample_tensors.decode(x)
    assert x.shape == (2, 16, 3)
    np.testing.assert_allclose(decoded[0], coords[0], atol=1e-6)
    np.testing.assert_allclose(decoded[1, :5], coords[1, :5], atol=1e-6)
    np.testing.assert_allclose(decoded_lattice, lattice, atol=1e-5)


def test_rows_beyond_the_sites_are_padding_whatever_was_in_them():
    coords = np.ones((1, 12, 3), np.float32)
    x = sample_tensors.encode(
        coords, np.eye(3, dtype=np.float32)[None], np.array([5]), 16
    )
    np.testing.assert_array_equal(x[0, 5:13], 0)
    np.testing.assert_array_equal(x[0, 13:], np.eye(3))


def test_masks_partition_the_rows():
    sites = sample_tensors.site_mask(np.array([0, 5, 12]), 16)
    lattice = sample_tensors.lattice_mask(16)
    np.testing.assert_array_equal(sites.sum(-1), [0, 5, 12])
    assert not np.any(sites & lattice)
    np.testing.assert_array_equal(
        sample_tensors.row_mask(np.array([5]), 16).sum(-1), [5 + 3]
    )


@pytest.mark.parametrize("num_sites,rows", [(1, 8), (4, 8), (5, 16), (60, 64)])
def test_rows_hold_the_sites_and_four_more(num_sites, rows):
    assert structure.rows_for(num_sites) == rows
    assert structure.max_sites(rows) >= num_sites


def test_paper_rows_hold_sixty_sites():
    assert structure.max_sites(structure.PAPER_ROWS) == 60


def test_too_many_sites_name_the_rows_needed():
    with pytest.raises(ValueError, match="rows=24"):
        sample_tensors.encode(
            np.zeros((20, 3), np.float32),
            np.eye(3, dtype=np.float32),
            np.array(20),
            16,
        )


def test_rows_must_be_a_multiple_of_eight():
    with pytest.raises(ValueError, match="12"):
        structure.max_sites(12)


@hypothesis.given(st.floats(-10, 10, width=32))
def test_wrapped_coordinates_lie_in_the_cell(value):
    wrapped = float(sample_tensors.wrap(jnp.float32(value)))
    assert 0 <= wrapped < 1
    distance = abs(wrapped - value)
    assert abs(distance - round(distance)) < 1e-5


def random_lattice(seed):
    rng = np.random.default_rng(seed)
    lattice = rng.normal(size=(3, 3)) * 4
    return lattice if np.linalg.det(lattice) > 0 else lattice[[1, 0, 2]]


@pytest.mark.parametrize("seed", range(5))
def test_orientation_is_standard_and_keeps_lengths_and_angles(seed):
    lattice = random_lattice(seed)
    oriented = structure.orient(lattice)
    np.testing.assert_allclose(np.triu(oriented, 1), 0, atol=1e-12)
    assert np.all(np.diag(oriented) > 0)
    np.testing.assert_allclose(oriented @ oriented.T, lattice @ lattice.T, atol=1e-9)


def test_left_handed_lattice_is_refused():
    with pytest.raises(ValueError, match="right-handed"):
        structure.orient(np.diag([1.0, 1.0, -1.0]))


def test_parameters_agree_with_ase_and_pymatgen():
    ours = structure.lattice_from_parameters(TRICLINIC)
    np.testing.assert_allclose(ours, ase.cell.Cell.fromcellpar(TRICLINIC), atol=1e-9)
    np.testing.assert_allclose(structure.lattice_parameters(ours), TRICLINIC)
    np.testing.assert_allclose(
        structure.lattice_parameters(ours), Lattice(ours).parameters
    )


@pytest.mark.parametrize(
    "parameters",
    [
        [1, 1, 1, 150, 150, 150],
        [1, 1, 1, 90, 90, 180],
        [1, 1, 1, 90, 90, 0],
        [1, 0, 1, 90, 90, 90],
        [1, -1, 1, 90, 90, 90],
        [1, np.nan, 1, 90, 90, 90],
        [1, 1, 1, np.nan, 90, 90],
        [1, 1, 1, 90, 90, np.inf],
    ],
)
def test_parameters_of_no_cell_are_refused(parameters):
    with pytest.raises(ValueError, match="span no cell"):
        structure.lattice_from_parameters(np.array(parameters, float))


def test_bridge_round_trips_keep_sites_and_cell():
    crystal = structure.Crystal(
        np.array([29, 79, 79]),
        np.array([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6], [0.7, 0.8, 0.95]]),
        structure.lattice_from_parameters(TRICLINIC),
    )
    for there, back in (
        (bridge.to_pymatgen, bridge.from_pymatgen),
        (bridge.to_ase, bridge.from_ase),
    ):
        again = back(there(crystal))
        np.testing.assert_array_equal(again.atomic_numbers, crystal.atomic_numbers)
        np.testing.assert_allclose(again.frac_coords, crystal.frac_coords)
        np.testing.assert_allclose(again.lattice, crystal.lattice)


def test_bridge_refuses_what_is_not_finite():
    broken = structure.Crystal(np.array([29]), np.full((1, 3), np.nan), np.eye(3))
    with pytest.raises(ValueError, match="not finite"):
        bridge.to_ase(broken)


def test_each_crystal_has_the_fewest_rows_that_hold_it():
    num_sites = np.array([1, 12, 13, 28, 29, 60])
    rows = structure.rows_of(num_sites, (16, 32, 64))
    assert rows.tolist() == [16, 16, 32, 32, 64, 64]
    with pytest.raises(ValueError, match="61 sites does not fit into 64 rows"):
        structure.rows_of(np.array([61]), (16, 64))


# ------------------------------------------------------------ far outside the cell


def test_sites_are_wrapped_and_unknown_ones_left_alone():
    coords = np.array([[1e6, -7.3, 0.25], [1.0, -1e-20, 3.0], [1e7, np.nan, np.inf]])
    wrapped = structure.wrap_sites(coords)
    np.testing.assert_allclose(wrapped[:2], [[0, 0.7, 0.25], [0, 0, 0]], atol=1e-9)
    assert np.all(wrapped[:2] < 1) and np.all(wrapped[:2] >= 0)
    np.testing.assert_array_equal(wrapped[2], coords[2])


def test_sites_near_the_cell_stay_to_the_last_bit_where_far_ones_are_wrapped():
    lattice = np.diag([3.0, 4.0, 5.0])
    near = structure.Crystal(np.array([1]), np.array([[-0.1, 1.3, 0.5]]), lattice)
    assert structure.wrapped_if_far(near) is near
    far = structure.Crystal(np.array([1]), np.array([[-0.1, 1e6, 0.5]]), lattice)
    found = structure.wrapped_if_far(far).frac_coords
    np.testing.assert_allclose(found, [[0.9, 0, 0.5]])
