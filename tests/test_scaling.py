"""Units of the network."""

import numpy as np
import pytest

from crystaljax import scaling


@pytest.fixture
def crystals():
    rng = np.random.default_rng(0)
    lattice = np.tril(rng.normal(size=(50, 3, 3))).astype(np.float32)
    lattice += 5 * np.eye(3, dtype=np.float32)
    return lattice, rng.normal(0.3, 0.1, 50).astype(np.float32)


def fit(crystals, coordinates="signed", lattice="standardized", energy="standardized"):
    return scaling.fit_scaling(
        *crystals, coordinates=coordinates, lattice_units=lattice, energy_units=energy
    )


def test_paper_units_change_nothing(crystals):
    scale = fit(crystals, "unit", "angstrom", "ev")
    coords = np.random.default_rng(1).random((50, 12, 3)).astype(np.float32)
    x = scale.encode(coords, crystals[0], np.full(50, 12), 16)
    np.testing.assert_array_equal(x[:, :12], coords)
    np.testing.assert_array_equal(x[:, 13:], crystals[0])
    np.testing.assert_array_equal(scale.scale_energy(crystals[1]), crystals[1])


def test_standardised_parts_have_zero_mean_and_unit_size(crystals):
    scale = fit(crystals)
    x = scale.encode(
        np.zeros((50, 12, 3), np.float32), crystals[0], np.full(50, 12), 16
    )
    lower = np.asarray(x[:, 13:])[:, *np.tril_indices(3)]
    np.testing.assert_allclose(lower.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(lower.std(0), 1, atol=1e-5)
    np.testing.assert_array_equal(np.triu(np.asarray(x[:, 13:]), 1), 0)
    energy = np.asarray(scale.scale_energy(crystals[1]))
    assert energy.mean() == pytest.approx(0, abs=1e-5)
    assert energy.std() == pytest.approx(1, abs=1e-4)


def test_padding_stays_zero_in_scaled_units(crystals):
    x = fit(crystals).encode(
        np.zeros((50, 12, 3), np.float32), crystals[0], np.full(50, 4), 16
    )
    np.testing.assert_array_equal(x[:, 4:13], 0)
    np.testing.assert_array_equal(x[:, :4], -1)


def test_scaling_is_undone_and_survives_the_disk(crystals, tmp_path):
    scaling.save_scaling(fit(crystals), tmp_path / "scaling.json")
    scale = scaling.load_scaling(tmp_path / "scaling.json")
    coords = np.random.default_rng(1).random((50, 12, 3)).astype(np.float32)
    x = scale.encode(coords, crystals[0], np.full(50, 12), 16)
    decoded, lattice = scale.decode(x)
    np.testing.assert_allclose(decoded, coords, atol=1e-6)
    np.testing.assert_allclose(lattice, crystals[0], atol=1e-5)


@pytest.mark.parametrize("name", ["coordinates", "lattice", "energy"])
def test_unknown_units_are_refused(crystals, name):
    with pytest.raises(ValueError, match="'furlongs'"):
        fit(crystals, **{name: "furlongs"})
