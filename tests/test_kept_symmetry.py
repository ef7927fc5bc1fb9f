import ase.constraints
import numpy as np
import pytest
from ase import optimize
from ase.calculators.emt import EMT
from ase.filters import FrechetCellFilter
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress

from crystaljax.crystals import bridge, structure, symmetry_search
from crystaljax.data.sources import emt
from crystaljax.relaxation import ase_relaxation, batches, kept_symmetry

RECORDS = {record.id: record for record in emt.load_builtin()}
# A cubic, a tetragonal and an orthorhombic or lower one.
NAMES = ["L1_2:Au-Cu", "L1_0:Cu-Au", "D0_22:Au-Cu", "B2:Cu-Au"]
KEPT = ase_relaxation.RelaxationSettings(keep_symmetry=True)


def disturbed(name, seed=0, size=0.005):
    crystal = RECORDS[name].crystal
    shift = np.random.default_rng(seed).normal(0, size, (crystal.num_sites, 3))
    return structure.Crystal(
        crystal.atomic_numbers,
        crystal.frac_coords + shift @ np.linalg.inv(crystal.lattice),
        crystal.lattice * 1.03,
    )


def group(crystal, symprec=0.1):
    return symmetry_search.find_space_group(crystal, symprec)


@pytest.mark.parametrize("name", NAMES)
def test_projection_is_one_and_leaves_symmetric_forces(name):
    crystal = kept_symmetry.symmetrize(disturbed(name))
    projection = kept_symmetry.build(crystal)
    for matrix in (projection.sites, projection.cell):
        np.testing.assert_allclose(matrix @ matrix, matrix, atol=1e-9)
        np.testing.assert_allclose(matrix, matrix.T, atol=1e-9)
    atoms = bridge.to_ase(crystal)
    atoms.calc = EMT()
    forces = FrechetCellFilter(atoms).get_forces()
    np.testing.assert_allclose(projection.apply(forces), forces, atol=1e-6)
    # What breaks the symmetry goes.
    noise = np.random.default_rng(0).normal(0, 1, forces.shape)
    assert np.abs(projection.apply(noise) - noise).max() > 0.1


@pytest.mark.parametrize("name", NAMES)
def test_projection_is_that_of_fixed_symmetry_in_ase(name):
    crystal = kept_symmetry.symmetrize(disturbed(name))
    projection = kept_symmetry.build(crystal)
    atoms = bridge.to_ase(crystal)
    fixed = ase.constraints.FixSymmetry(atoms, symprec=1e-3)
    rng = np.random.default_rng(1)
    forces, stress = rng.normal(size=(len(atoms), 3)), rng.normal(size=(3, 3))
    stress += stress.T
    ours = projection.apply(np.concatenate([forces, stress]))
    fixed.adjust_forces(atoms, forces)
    voigt = full_3x3_to_voigt_6_stress(stress)
    fixed.adjust_stress(atoms, voigt)
    np.testing.assert_allclose(ours[: len(atoms)], forces, atol=1e-6)
    np.testing.assert_allclose(
        ours[len(atoms) :], voigt_6_to_full_3x3_stress(voigt), atol=1e-6
    )


def test_relaxed_crystals_have_the_group_that_they_had():
    crystals = [disturbed(name, seed) for seed, name in enumerate(NAMES)]
    one_by_one = [ase_relaxation.relax(each, "emt", KEPT) for each in crystals]
    together = batches.relax_many(crystals, "emt", KEPT)
    for crystal, alone, batched in zip(crystals, one_by_one, together, strict=True):
        assert alone.converged and batched.converged
        assert group(alone.crystal, 0.001) == group(crystal)
        assert group(batched.crystal, 0.01) == group(crystal)
        assert batched.energy == pytest.approx(alone.energy, abs=1e-4)
        np.testing.assert_allclose(
            batched.crystal.lattice, alone.crystal.lattice, atol=5e-3
        )


def test_minimum_is_that_of_fixed_symmetry_in_ase():
    crystal = kept_symmetry.symmetrize(disturbed("D0_22:Au-Cu"))
    settings = ase_relaxation.RelaxationSettings(keep_symmetry=True, fmax=1e-3)
    found = ase_relaxation.relax(crystal, "emt", settings)
    (batched,) = batches.relax_many([crystal], "emt", settings)
    atoms = bridge.to_ase(crystal)
    atoms.calc = EMT()
    atoms.set_constraint(ase.constraints.FixSymmetry(atoms, symprec=1e-3))
    optimize.LBFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=1e-3, steps=200)
    expected = atoms.get_potential_energy() / len(atoms)
    assert found.energy == pytest.approx(expected, abs=1e-5)
    assert batched.energy == pytest.approx(expected, abs=1e-5)
    np.testing.assert_allclose(batched.crystal.lattice, atoms.cell[:], atol=2e-3)


def test_sites_alone_keep_their_symmetry_too():
    settings = ase_relaxation.RelaxationSettings(keep_symmetry=True, relax_cell=False)
    crystal = disturbed("D0_22:Au-Cu", seed=3)
    found = ase_relaxation.relax(crystal, "emt", settings)
    assert found.converged
    assert group(found.crystal, 0.001) == group(crystal)
    expected = kept_symmetry.symmetrize(crystal).lattice
    np.testing.assert_allclose(found.crystal.lattice, expected, atol=1e-9)
