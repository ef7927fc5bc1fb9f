"""Estimated energies: what they must not depend on, and what they must."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from crystaljax import evaluate, sample, train
from crystaljax.crystals import structure
from crystaljax.data import dataset as datasets
from crystaljax.data.sources import emt
from crystaljax.models import initial
from crystaljax.models.networks import encoders, energy_estimator
from crystaljax.sampling import estimation
from crystaljax.system import sharding
from crystaljax.training import checkpoints

SITES = 8
ELEMENTS = jnp.asarray(encoders.element_features("scaled"))


@pytest.fixture(scope="module")
def network():
    model = energy_estimator.EnergyEstimator(
        width=16, depth=2, num_heads=2, pair_features=4
    )
    cells = cells_of([rock_salt()])
    shapes = jax.eval_shape(model.init, jax.random.key(0), *cells, ELEMENTS)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: np.float32(rng.normal(0, leaf.size**-0.3, leaf.shape)), shapes
    )
    return jax.jit(lambda params, *cells: model.apply(params, *cells, ELEMENTS)), params


def rock_salt():
    lattice = 2.82 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]], float)
    return structure.Crystal(
        np.array([11, 17]), np.array([[0] * 3, [0.5] * 3]), lattice
    )


def random_crystal(seed):
    rng = np.random.default_rng(seed)
    lattice = 4 * np.eye(3) + rng.normal(0, 0.5, (3, 3))
    return structure.Crystal(
        rng.integers(1, 90, 5),
        rng.random((5, 3)),
        lattice * np.sign(np.linalg.det(lattice)),
    )


def cells_of(crystals):
    numbers = np.zeros((len(crystals), SITES), np.uint8)
    coords = np.zeros((len(crystals), SITES, 3), np.float32)
    for row, crystal in enumerate(crystals):
        numbers[row, : crystal.num_sites] = crystal.atomic_numbers
        coords[row, : crystal.num_sites] = crystal.frac_coords
    lattice = np.array([crystal.lattice for crystal in crystals], np.float32)
    return jax.tree.map(jnp.asarray, (numbers, coords, lattice))


def changed(crystal, seed):
    """The same crystal: sites in another order and cell, origin and axes elsewhere."""
    rng = np.random.default_rng(seed)
    order, axes = rng.permutation(crystal.num_sites), rng.permutation(3)
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    coords = crystal.frac_coords[order][:, axes]
    coords = coords + rng.integers(-2, 3, coords.shape) + rng.random(3)
    return structure.Crystal(
        crystal.atomic_numbers[order], coords, crystal.lattice[axes] @ rotation
    )


@pytest.mark.parametrize("seed", range(4))
def test_what_leaves_the_crystal_leaves_the_energy(network, seed):
    apply_fn, params = network
    crystal = random_crystal(seed)
    energies = apply_fn(params, *cells_of([crystal, changed(crystal, seed)]))
    assert energies[0] == pytest.approx(float(energies[1]), abs=2e-4)


def test_elements_distances_and_places_count(network):
    apply_fn, params = network
    crystal = random_crystal(0)
    numbers, coords = crystal.atomic_numbers, crystal.frac_coords
    moved = coords.copy()
    moved[0] += 0.1
    others = [
        structure.Crystal(numbers[::-1].copy(), coords, crystal.lattice),
        structure.Crystal(numbers, moved, crystal.lattice),
        structure.Crystal(numbers, coords, 1.05 * crystal.lattice),
    ]
    energies = np.asarray(apply_fn(params, *cells_of([crystal, *others])))
    assert np.abs(energies[1:] - energies[0]).min() > 5e-4


def test_padding_does_not_count(network):
    apply_fn, params = network
    numbers, coords, lattice = cells_of([rock_salt()])
    garbage = coords + 7 * (numbers == 0)[..., None]
    np.testing.assert_allclose(
        apply_fn(params, numbers, coords, lattice),
        apply_fn(params, numbers, garbage, lattice),
        atol=1e-5,
    )


def test_neighbors_lie_where_those_of_rock_salt_do():
    """6 unlike ones at a/2 and 12 like ones at a/√2, less what the shells fade out."""
    _, coords, lattice = cells_of([rock_salt()])
    find = jax.jit(energy_estimator.neighbor_densities)
    (densities,) = np.asarray(find(coords[:, :2], lattice))
    radii = energy_estimator._RADII
    near = np.argmin(np.abs(radii - 2.82))
    unlike, like = densities[0, 1], densities[0, 0]

    def expected(count, distance, radius):
        spacing = radii[1] - radii[0]
        fade = 0.5 * (1 + np.cos(np.pi * distance / radii[-1]))
        return count * fade * np.exp(-(((distance - radius) / spacing) ** 2))

    assert unlike[near] == pytest.approx(expected(6, 2.82, radii[near]), rel=1e-4)
    far = np.argmin(np.abs(radii - 2.82 * 2**0.5))
    assert like[far] == pytest.approx(expected(12, 2.82 * 2**0.5, radii[far]), rel=1e-3)
    assert like[near] < 0.05 * like[far]


def test_disturbed_crystals_are_nearly_the_same():
    crystal = rock_salt()
    keys = jax.random.split(jax.random.key(0), 500)
    coords, lattices = jax.jit(jax.vmap(energy_estimator.disturb, (0, None, None)))(
        keys, jnp.asarray(crystal.frac_coords), jnp.asarray(crystal.lattice)
    )
    moved = (np.asarray(coords) - crystal.frac_coords) @ crystal.lattice
    # Uniform sizes up to 0.1 have a mean square of 0.01 / 3.
    assert np.sqrt(np.mean(moved**2)) == pytest.approx(0.1 / 3**0.5, rel=0.1)
    strain = np.linalg.solve(crystal.lattice, np.asarray(lattices)) - np.eye(3)
    assert strain.std() == pytest.approx(0.01, rel=0.1)


def test_estimator_learns_the_energies_of_alloys():
    records = emt.load_builtin()[:40]
    records = [each for each in records if each.crystal.num_sites <= SITES]
    cells = cells_of([each.crystal for each in records])
    energies = np.array([each.formation_energy for each in records], np.float32)
    wanted = energies / energies.std()
    model = energy_estimator.EnergyEstimator(
        width=16, depth=1, num_heads=2, pair_features=4
    )
    shapes = jax.eval_shape(model.init, jax.random.key(0), *cells, ELEMENTS)
    params = initial.draw_params(shapes, 0)
    optimizer = optax.adam(5e-3)

    @jax.jit
    def step(params, state):
        def loss_fn(params):
            estimated = model.apply(params, *cells, ELEMENTS)
            return optax.huber_loss(estimated, wanted).mean()

        loss, grads = jax.value_and_grad(loss_fn)(params)
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), state, loss

    state, first = jax.jit(optimizer.init)(params), None
    for _ in range(150):
        params, state, loss = step(params, state)
        first = loss if first is None else first
    assert loss < 0.1 * first


def test_error_is_measured_on_held_out_structures_and_kept(
    alloys, tmp_path, monkeypatch
):
    config = tiny.config("best", alloys)
    save, measured_before = checkpoints.save_state, []

    def watch(*args):
        measured_before.append((tmp_path / "run" / "estimator.json").exists())
        save(*args)

    monkeypatch.setattr(checkpoints, "save_state", watch)
    train.train(config, tmp_path / "run", show_progress=False)
    # A process that is killed after a checkpoint leaves a run that can pick.
    assert measured_before == [True, True]
    run = checkpoints.load_run(tmp_path / "run", sharding.build_local_mesh())
    dataset = datasets.open_dataset(alloys)
    cells = datasets.gather(dataset, dataset.indices("val"), 12)
    estimate_fn = functools.partial(
        estimation.build_estimate_fn(run.model), run.params, run.scale
    )
    found = estimate_fn(cells.atomic_numbers, cells.frac_coords, cells.lattice)
    apart = np.abs(np.asarray(found) - cells.energy)
    assert run.energy_error == pytest.approx(np.quantile(apart, 0.683), rel=1e-3)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert '"loss_energy"' in lines and '"validation/energy_error"' in lines

    options = evaluate.EvaluateOptions(
        workdir=str(tmp_path / "run"), draws=3, num_workers=1
    )
    result, folder = evaluate.evaluate(options)
    assert "one sample each, picked from 3 draws" in evaluate.report(result, options)
    assert json.loads((folder / "summary.json").read_text())["draws"] == 3

    samples = sample.sample(
        sample.SampleOptions(
            workdir=str(tmp_path / "run"),
            formulas=("Cu2Au2", "Cu1Ag3"),
            space_groups="221",
            energies="0.0",
            draws=1,
        )
    )
    for crystal, said in zip(
        samples.crystals, samples.table()["estimated_energy"], strict=True
    ):
        batch = [crystal.atomic_numbers, crystal.frac_coords, crystal.lattice]
        (alone,) = estimate_fn(*(each[None] for each in batch))
        assert said == pytest.approx(float(alone), abs=1e-4)


def test_networks_without_estimator_have_no_error(alloys):
    generator = tiny.build_generator(
        tiny.config("best", alloys, model__estimator_depth=0)
    )
    assert generator.estimate_energies is None
    assert estimation.measure_error(None, datasets.open_dataset(alloys)) is None
