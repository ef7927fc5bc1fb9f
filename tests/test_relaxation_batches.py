import dataclasses
import functools

import ase.build
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import optimize
from ase.calculators.emt import EMT
from ase.filters import FrechetCellFilter

from crystaljax.crystals import bridge, structure
from crystaljax.relaxation import (
    ase_relaxation,
    batch_steps,
    batches,
    device_potentials,
)

# All tests with EMT share the programs of this batch size.
PLACES = 4


def alloy(num_sites, seed, a=3.9, noise=0.03):
    """Part of a strained, distorted bcc or fcc-like cell with random metals."""
    rng = np.random.default_rng(seed)
    sites = np.array([[0, 0, 0], [1, 1, 0], [1, 0, 1], [0, 1, 1]]) / 2
    frac = np.concatenate([sites, sites + np.eye(3)[2]]) / [1, 1, 2]
    cell = np.diag([a, a, 2 * a])
    if num_sites <= 4:
        frac, cell = sites, np.eye(3) * a
    if num_sites <= 2:
        frac, cell = np.array([[0, 0, 0], [0.5, 0.5, 0.5]]), np.diag([a, a, a]) * 0.8
    frac = frac[:num_sites] + noise * rng.normal(size=(num_sites, 3))
    cell = cell @ (np.eye(3) + noise * rng.normal(size=(3, 3)))
    return structure.Crystal(rng.choice([29, 46, 78, 79], num_sites), frac, cell)


def alloys(count=9):
    return [
        alloy(n, seed) for seed, n in enumerate((4, 8, 2, 4, 8, 1, 4, 8, 2)[:count])
    ]


SITES_ONLY = ase_relaxation.RelaxationSettings(relax_cell=False)


def relax_each(crystals, settings, **kwargs):
    found = batches.relax_each(crystals, "emt", settings, batch_size=PLACES, **kwargs)
    results = dict(found)
    return [results[i] for i in range(len(crystals))]


@functools.cache
def relaxed_alloys():
    return batches.relax_many(alloys(), "emt", batch_size=PLACES)


def by_ase(crystal, optimizer, num_steps, relax_cell):
    """Energy and geometry after so many steps of ASE's own optimizer."""
    atoms = bridge.to_ase(crystal)
    atoms.calc = EMT()
    target = FrechetCellFilter(atoms) if relax_cell else atoms
    optimizer(target, logfile=None).run(fmax=1e-9, steps=num_steps)
    forces = np.linalg.norm(target.get_forces(), axis=1)
    return atoms.get_potential_energy() / len(atoms), bridge.from_ase(atoms), forces


@pytest.mark.parametrize("relax_cell", [True, False])
@pytest.mark.parametrize("optimizer", ["LBFGS", "FIRE"])
def test_steps_are_those_of_ase(optimizer, relax_cell):
    crystals = alloys(4)
    settings = ase_relaxation.RelaxationSettings(
        fmax=1e-9, max_steps=12, relax_cell=relax_cell, optimizer=optimizer
    )
    found = relax_each(crystals, settings)
    for crystal, result in zip(crystals, found, strict=True):
        energy, there, forces = by_ase(
            crystal, getattr(optimize, optimizer), 12, relax_cell
        )
        assert (result.num_steps, result.converged, result.failure) == (12, False, "")
        assert result.energy == pytest.approx(energy, abs=1e-7)
        assert result.max_force == pytest.approx(forces.max(), rel=1e-4, abs=1e-6)
        np.testing.assert_allclose(result.crystal.lattice, there.lattice, atol=1e-5)
        np.testing.assert_allclose(
            result.crystal.frac_coords, there.frac_coords, atol=1e-5
        )


def test_cells_beyond_the_inflection_of_their_energy_come_back():
    cells = [ase.build.bulk("Cu", a=a) for a in (3.7, 4.6, 4.8, 5.2)]
    found = batches.relax_many(
        [bridge.from_ase(each) for each in cells], "emt", batch_size=PLACES
    )
    edges = [
        (4 * abs(np.linalg.det(each.crystal.lattice))) ** (1 / 3) for each in found
    ]
    assert all(each.converged for each in found)
    np.testing.assert_allclose(edges, 3.59, atol=0.01)
    # What ASE does with one of them.
    _, apart, _ = by_ase(bridge.from_ase(cells[2]), optimize.LBFGS, 20, True)
    assert abs(np.linalg.det(apart.lattice)) > 100


def test_minima_are_those_of_the_path_through_ase():
    for crystal, result in zip(alloys(), relaxed_alloys(), strict=True):
        alone = ase_relaxation.relax(crystal, "emt")
        assert alone.converged and result.converged and result.failure == ""
        assert result.energy == pytest.approx(alone.energy, abs=1e-3)
        assert abs(result.num_steps - alone.num_steps) <= 5
        np.testing.assert_array_equal(
            result.crystal.atomic_numbers, crystal.atomic_numbers
        )
        assert result.seconds > 0


def test_what_a_result_says_holds_for_its_crystal():
    for result in relaxed_alloys():
        atoms = bridge.to_ase(result.crystal)
        atoms.calc = EMT()
        energy = atoms.get_potential_energy() / len(atoms)
        assert result.energy == pytest.approx(energy, abs=1e-5)
        # The filter starts anew at the relaxed cell, where its forces are those on the
        # cell up to the small strain.
        forces = np.linalg.norm(FrechetCellFilter(atoms).get_forces(), axis=1)
        assert forces.max() == pytest.approx(result.max_force, rel=0.2, abs=1e-3)
        assert result.max_force < 0.05


def test_neither_order_nor_company_changes_a_result():
    crystals = alloys()
    backwards = batches.relax_many(crystals[::-1], "emt", batch_size=PLACES)[::-1]
    for one, other in zip(relaxed_alloys(), backwards, strict=True):
        assert one.num_steps == other.num_steps
        assert one.energy == pytest.approx(other.energy, abs=1e-5)


def test_fixed_cell_keeps_its_lattice_to_the_bit():
    crystals = alloys(3)
    found = batches.relax_many(crystals, "emt", SITES_ONLY, batch_size=PLACES)
    for crystal, result in zip(crystals, found, strict=True):
        np.testing.assert_array_equal(result.crystal.lattice, crystal.lattice)
        alone = ase_relaxation.relax(crystal, "emt", SITES_ONLY)
        assert result.converged and alone.converged
        assert result.energy == pytest.approx(alone.energy, abs=1e-3)


def bad_crystals():
    good = alloy(4, 0)
    nan = good.frac_coords.copy()
    nan[0, 0] = np.nan
    clash = good.frac_coords.copy()
    clash[1] = clash[0] + 1e-3
    return {
        "not finite": dataclasses.replace(good, frac_coords=nan),
        "apart": dataclasses.replace(good, frac_coords=clash),
        "no sites": structure.Crystal(
            np.zeros(0, int), np.zeros((0, 3)), np.eye(3) * 4.0
        ),
        # Passes for a crystal at first, and comes apart.
        "volume went to": bridge.from_ase(ase.build.bulk("Cu", a=5.9)),
        # 1.2 Å from its images, in a cell that is thick enough.
        "too dense": structure.Crystal(
            np.array([29]), np.zeros((1, 3)), np.eye(3) * 1.2
        ),
    }


def test_bad_crystals_cost_their_own_rows():
    bad = bad_crystals()
    crystals = [alloy(4, 3), *bad.values(), alloy(8, 4)]
    found = batches.relax_many(crystals, "emt", batch_size=PLACES)
    assert [result.failure == "" for result in found] == [True] + [False] * 5 + [True]
    for (reason, crystal), result in zip(bad.items(), found[1:-1], strict=True):
        assert reason in result.failure
        assert not result.converged
        same = ase_relaxation.relax(crystal, "emt").failure
        if reason != "too dense":
            assert result.failure.split(" times")[0] == same.split(" times")[0]


def one_running(num_steps=3):
    state = batch_steps.empty(1, 1, "float32", "FIRE")
    state = state.replace(
        status=np.array([batch_steps.RUNNING]), num_steps=np.array([num_steps])
    )
    return jax.tree.map(jnp.asarray, state)


@pytest.mark.parametrize(
    ("energy", "force", "num_steps", "status"),
    [
        (1.0, 1.0, 3, batch_steps.RUNNING),
        (1.0, 1.0, 10, batch_steps.OUT_OF_STEPS),
        (1.0, 0.01, 10, batch_steps.CONVERGED),
        (np.nan, 0.01, 3, batch_steps.NOT_FINITE),
        (1.0, np.inf, 10, batch_steps.NOT_FINITE),
    ],
)
def test_what_a_crystal_does_after_its_energy(energy, force, num_steps, status):
    gradient = jnp.zeros((1, 4, 3)).at[0, 0, 0].set(force)

    def evaluate(coords):
        return jnp.array([energy]), gradient

    state, _ = batch_steps._assess(evaluate, one_running(num_steps), 0.05, 10)
    assert state.status[0] == status
    good = status != batch_steps.NOT_FINITE
    assert state.last.num_steps[0] == (num_steps if good else 0)


@pytest.mark.parametrize(
    ("ratio", "displacement", "listed", "status"),
    [
        (1.1, 0.3, True, batch_steps.RUNNING),
        (1.1, 0.3, False, batch_steps.STALE),
        # Beyond the limits no list is worth making.
        (0.2, 0.3, False, batch_steps.VOLUME),
        (4.5, 0.3, True, batch_steps.VOLUME),
        (1.1, 5.1, False, batch_steps.DISPLACEMENT),
        (np.nan, 0.3, False, batch_steps.NOT_FINITE),
    ],
)
def test_what_a_crystal_does_after_its_step(ratio, displacement, listed, status):
    found = batch_steps.Survey(
        jnp.array([ratio]), jnp.array([displacement]), jnp.array([listed])
    )
    state = batch_steps._judge(lambda coords: found, one_running())
    assert state.status[0] == status


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"optimizer": "BFGS"}, "'BFGS' does not run in batches"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"fmax": -1.0}, "fmax is -1.0"),
    ],
)
def test_requests_that_make_no_sense_are_refused(kwargs, message):
    batch_size = kwargs.pop("batch_size", None)
    with pytest.raises(ValueError, match=message):
        settings = ase_relaxation.RelaxationSettings(**kwargs)
        batches.relax_many([alloy(2, 0)], "emt", settings, batch_size=batch_size)


def test_what_cannot_run_in_batches_is_refused():
    assert device_potentials.supports("emt")
    assert not device_potentials.supports("some.module:function")
    with pytest.raises(ValueError, match="cannot relax crystals in batches"):
        batches.relax_many([alloy(2, 0)], "some.module:function")
    salt = structure.Crystal(np.array([11]), np.zeros((1, 3)), np.eye(3) * 3)
    with pytest.raises(ValueError, match="no parameters for Na"):
        batches.relax_many([alloy(2, 0), salt], "emt")


def test_nothing_to_do_is_done():
    assert batches.relax_many([], "emt") == []


@pytest.fixture(scope="module")
def tensornet_path(tmp_path_factory):
    """A small potential with random weights, saved as matgl saves its own."""
    torch = pytest.importorskip("torch")
    models = pytest.importorskip("matgl.models")
    from matgl.apps.pes import Potential

    torch.manual_seed(1)
    model = models.TensorNet(
        element_types=("Cu", "Pd", "Pt", "Au"),
        units=8,
        nblocks=1,
        num_rbf=8,
        cutoff=4.0,
        is_intensive=False,
    )
    path = tmp_path_factory.mktemp("matgl") / "potential"
    Potential(model=model, data_std=30.0, element_refs=np.arange(4.0)).save(path)
    return path


def test_tensornet_relaxes_as_through_ase(tensornet_path):
    calculator = f"matgl:{tensornet_path}"
    assert device_potentials.supports(calculator)
    crystals = alloys(5)
    settings = ase_relaxation.RelaxationSettings(fmax=0.01, max_steps=15)
    found = batches.relax_many(crystals, calculator, settings, batch_size=5)
    for crystal, result in zip(crystals, found, strict=True):
        alone = ase_relaxation.relax(crystal, calculator, settings)
        assert result.num_steps == alone.num_steps > 0
        assert result.energy == pytest.approx(alone.energy, abs=2e-4)
        np.testing.assert_allclose(
            result.crystal.lattice, alone.crystal.lattice, atol=5e-3
        )


def test_tensornet_is_asked_only_for_elements_it_has(tensornet_path):
    silver = bridge.from_ase(ase.build.bulk("Ag"))
    with pytest.raises(ValueError, match="no parameters for Ag"):
        batches.relax_many([silver], f"matgl:{tensornet_path}")


def test_sites_far_outside_the_cell_cost_nothing():
    (alloy,) = alloys(1)
    shift = np.zeros((alloy.num_sites, 3))
    shift[0], shift[1, 1] = [1e6 - 1, 0, -7], -345
    far = dataclasses.replace(alloy, frac_coords=alloy.frac_coords + shift)
    settings = ase_relaxation.RelaxationSettings(fmax=0.05, max_steps=50)
    one, other = relax_each([alloy, far], settings)
    assert other.energy == pytest.approx(one.energy, abs=1e-5)
    assert np.abs(other.crystal.frac_coords).max() < 2
    by_ase_too = ase_relaxation.relax(far, "emt", settings)
    assert by_ase_too.energy == pytest.approx(one.energy, abs=1e-3)
