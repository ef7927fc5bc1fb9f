"""Batches relaxed with SevenNet end where ASE ends with the package sevenn."""

import numpy as np
import pytest
import sevennets

from crystaljax.crystals import structure
from crystaljax.relaxation import ase_relaxation, batches


@pytest.fixture(scope="module")
def calculator(tmp_path_factory):
    settings = sevennets.config(
        lmax=1,
        num_convolution_layer=2,
        irreps_manual=["4x0e", "4x0e+3x1e", "4x0e"],
    )
    path = tmp_path_factory.mktemp("sevennet") / "checkpoint.pth"
    sevennets.save(sevennets.build(settings), settings, path)
    return f"sevenn:{path}"


def salt(num_sites):
    rng = np.random.default_rng(num_sites)
    sites = np.array([[0, 0, 0], [0.5, 0.5, 0.5]])[:num_sites]
    return structure.Crystal(
        np.array([11, 17])[:num_sites],
        sites + rng.uniform(0, 0.05, sites.shape),
        3.6 * np.eye(3) + rng.normal(scale=0.1, size=(3, 3)),
    )


def test_minima_are_those_of_the_package(calculator):
    assert batches.supports(calculator)
    settings = ase_relaxation.RelaxationSettings(max_steps=15)
    crystals = [salt(2), salt(1)]
    relaxed = dict(batches.relax_each(crystals, calculator, settings, batch_size=2))
    for i, crystal in enumerate(crystals):
        alone = ase_relaxation.relax(crystal, calculator, settings)
        assert relaxed[i].failure == ""
        assert abs(relaxed[i].num_steps - alone.num_steps) <= 2
        assert relaxed[i].energy == pytest.approx(alone.energy, abs=1e-3)


def test_only_what_is_understood_runs_in_batches():
    assert batches.supports("sevenn") and batches.supports("sevenn:7net-0")
    for name in ("sevenn:7net-mf-0/pbe", "sevenn@cpu", "chgnet"):
        assert not batches.supports(name)
