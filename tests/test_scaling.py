"""Units of the network."""

import functools

import jax
import numpy as np
import pytest

from crystaljax.crystals import sample_tensors
from crystaljax.models import scaling


@functools.partial(jax.jit, static_argnums=5)
def encode(scale, coords, lattice, num_sites, numbers, rows):
    return scale.encode(coords, lattice, num_sites, numbers, rows)


@pytest.fixture
def crystals():
    rng = np.random.default_rng(0)
    lattice = np.tril(rng.normal(size=(50, 3, 3))).astype(np.float32)
    lattice += 5 * np.eye(3, dtype=np.float32)
    numbers = rng.choice([0, 29, 79], (50, 12)).astype(np.uint8)
    numbers[:, 0] = 29
    return lattice, rng.normal(0.3, 0.1, 50).astype(np.float32), numbers


def fit(crystals, coordinates="signed", lattice="standardized", energy="standardized"):
    return scaling.fit_scaling(
        *crystals, coordinates=coordinates, lattice_units=lattice, energy_units=energy
    )


def test_paper_units_change_nothing(crystals):
    scale = fit(crystals, "unit", "angstrom", "ev")
    coords = np.random.default_rng(1).random((50, 12, 3)).astype(np.float32)
    x = encode(scale, coords, crystals[0], np.full(50, 12), crystals[2], 16)
    np.testing.assert_array_equal(x[:, :12], coords)
    np.testing.assert_array_equal(x[:, 13:], crystals[0])
    np.testing.assert_array_equal(scale.scale_energy(crystals[1]), crystals[1])


def test_standardised_parts_have_zero_mean_and_unit_size(crystals):
    scale = fit(crystals)
    x = encode(
        scale,
        np.zeros((50, 12, 3), np.float32),
        crystals[0],
        np.full(50, 12),
        crystals[2],
        16,
    )
    lower = np.asarray(x[:, 13:])[:, *np.tril_indices(3)]
    np.testing.assert_allclose(lower.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(lower.std(0), 1, atol=1e-5)
    np.testing.assert_array_equal(np.triu(np.asarray(x[:, 13:]), 1), 0)
    energy = np.asarray(scale.scale_energy(crystals[1]))
    assert energy.mean() == pytest.approx(0, abs=1e-5)
    assert energy.std() == pytest.approx(1, abs=1e-4)


def test_padding_stays_zero_in_scaled_units(crystals):
    x = encode(
        fit(crystals),
        np.zeros((50, 12, 3), np.float32),
        crystals[0],
        np.full(50, 4),
        crystals[2],
        16,
    )
    np.testing.assert_array_equal(x[:, 4:13], 0)
    np.testing.assert_array_equal(x[:, :4], -1)


def test_scaling_is_undone_and_survives_the_disk(crystals, tmp_path):
    scaling.save_scaling(fit(crystals), tmp_path / "scaling.json")
    scale = scaling.load_scaling(tmp_path / "scaling.json")
    coords = np.random.default_rng(1).random((50, 12, 3)).astype(np.float32)
    x = encode(scale, coords, crystals[0], np.full(50, 12), crystals[2], 16)
    decoded, lattice = scale.decode(x, crystals[2])
    np.testing.assert_allclose(decoded, coords, atol=1e-6)
    np.testing.assert_allclose(lattice, crystals[0], atol=1e-5)


@pytest.mark.parametrize("name", ["coordinates", "lattice", "energy"])
def test_unknown_units_are_refused(crystals, name):
    with pytest.raises(ValueError, match="'furlongs'"):
        fit(crystals, **{name: "furlongs"})


def test_relative_lattices_do_not_know_the_size_of_their_atoms(crystals):
    lattice, energy, numbers = crystals
    volumes = np.zeros(104)
    volumes[[29, 79]] = 12.0, 40.0
    filled = volumes[numbers].sum(axis=1)
    lattice = lattice * np.cbrt(filled / np.linalg.det(lattice))[:, None, None]
    np.testing.assert_allclose(
        scaling.fit_atomic_volumes(lattice, numbers)[[0, 29, 79]],
        [0, 12, 40],
        rtol=1e-3,
    )
    scale = fit((lattice, energy, numbers), "unit", "relative")
    coords = np.zeros((50, 12, 3), np.float32)
    sites = np.full(50, 12)
    x = encode(scale, coords, lattice, sites, numbers, 16)
    # Twice the atoms and twice the cell's volume are the same to the network.
    doubled = np.concatenate([numbers, numbers], axis=1)
    again = encode(
        scale,
        np.concatenate([coords, coords], axis=1),
        lattice * np.cbrt(2.0),
        2 * sites,
        doubled,
        32,
    )
    np.testing.assert_allclose(again[:, -3:], x[:, -3:], atol=1e-4)
    np.testing.assert_allclose(
        scale.decode(x, numbers)[1], lattice, rtol=1e-4, atol=1e-4
    )


def test_elements_that_do_not_occur_have_a_usual_volume(crystals):
    volumes = scaling.fit_atomic_volumes(crystals[0], crystals[2])
    assert volumes[0] == 0 and (volumes[1:] > 0).all()


def test_templates_are_scaled_like_crystals(crystals):
    lattice, _, numbers = crystals
    scale = fit(crystals, "signed", "relative")
    coords = np.random.default_rng(1).random((50, 12, 3)).astype(np.float32)
    x = encode(scale, coords, lattice, np.full(50, 12), numbers, 16)
    shown = sample_tensors.TemplateBatch(
        atomic_numbers=np.stack([numbers, 0 * numbers], axis=1),
        frac_coords=np.stack([coords, coords], axis=1),
        lattice=np.stack([lattice, 0 * lattice], axis=1),
        space_group=np.tile(np.array([12, 0], np.uint8), (50, 1)),
        energy=np.zeros((50, 2), np.float32),
    )
    found = jax.jit(lambda scale: scale.encode_templates(shown))(scale)
    np.testing.assert_allclose(found.lattice[:, 0], x[:, -3:], atol=1e-5)
    np.testing.assert_allclose(found.frac_coords[:, 0], x[:, :12], atol=1e-5)
    # What is not there is nothing in any unit.
    assert not np.asarray(found.lattice[:, 1]).any()
    assert not np.asarray(found.energy[:, 1]).any()
