"""Modification by a model of orbits: training, answers, and what is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_orbit_runs as orbit_runs
import tiny

from crystaljax import evaluate, modify, train
from crystaljax.crystals import (
    environments,
    standard_choice,
    structure,
    structure_files,
    symmetry_search,
)
from crystaljax.data import dataset as datasets
from crystaljax.data import orbit_table
from crystaljax.models import prototype_library, wyckoff_files
from crystaljax.models.networks import orbit_transformer
from crystaljax.sampling import likely_orbits, polymorph_answers
from crystaljax.system import errors, sharding
from crystaljax.training import (
    build as build_training,
)
from crystaljax.training import (
    checkpoints,
    orbit_batches,
    orbit_pairs,
    orbit_training,
    runs,
)

CU3AU = structure.Crystal(
    np.array([79, 29, 29, 29]),
    np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]),
    3.75 * np.eye(3),
)


def config(dataset, **changes):
    made = quick(orbit_runs.config(dataset, **changes))
    made.task = "modification"
    made.sampler.draws = 3
    return made


def quick(config):
    """Without an estimator, whose training takes longer than all else."""
    config.model.estimator_depth = 0
    config.model.position_epochs = 1
    return config


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    path = tmp_path_factory.mktemp("orbits") / "data"
    orbit_runs.write_dataset(path)
    return path


@pytest.fixture(scope="module")
def generator(dataset):
    path = dataset.parent / "generator"
    train.train(quick(orbit_runs.config(dataset)), path, show_progress=False)
    return path


@pytest.fixture(scope="module")
def run(dataset, generator):
    path = dataset.parent / "run"
    started = config(dataset, train__init=str(generator))
    started.model.position_epochs = 0
    train.train(started, path, show_progress=False)
    return path


# ------------------------------------------------------------------------- descriptions
def test_surroundings_are_those_of_any_setting():
    rng = np.random.default_rng(0)
    basis = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 1]])
    coords = (CU3AU.frac_coords + rng.random(3)) @ np.linalg.inv(basis)
    order = [2, 0, 3, 1]
    turned = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    again = structure.Crystal(
        CU3AU.atomic_numbers[order], coords[order], basis @ CU3AU.lattice @ turned
    )
    doubled = structure.Crystal(
        np.repeat(CU3AU.atomic_numbers, 2),
        np.concatenate(
            [
                [(c + np.eye(3)[0] * i) / [2, 1, 1] for i in (0, 1)]
                for c in CU3AU.frac_coords
            ]
        ),
        CU3AU.lattice * np.array([[2.0], [1], [1]]),
    )
    found = environments.describe(CU3AU, (79, 29))
    assert found.shape == (2, environments.NUM_FEATURES)
    for other in (again, doubled):
        np.testing.assert_allclose(
            environments.describe(other, (79, 29)), found, atol=1e-4
        )
        assert environments.fill(other) == pytest.approx(
            environments.fill(CU3AU), abs=1e-6
        )
    # Gold has copper alone next to it, and copper both.
    assert not np.allclose(found[0], found[1], atol=0.1)
    larger = dataclasses.replace(CU3AU, lattice=CU3AU.lattice * 1.1)
    assert environments.fill(larger) == pytest.approx(
        environments.fill(CU3AU) + 3 * np.log(1.1)
    )


def test_surroundings_go_to_the_orbits_of_their_species(dataset):
    opened = datasets.open_dataset(dataset)
    table = orbit_table.open_table(opened)
    pairs = orbit_pairs.find_pairs(opened, np.arange(48), np.arange(6))
    assert (pairs[:, 0] != pairs[:, 1]).all()
    formulas = np.array([opened.formula[i].as_py() for i in range(48)])
    assert all(formulas[i] == formulas[j] for i, j in pairs)
    assert len(pairs) == 6 * 7
    sources = orbit_pairs.describe_sources(opened, pairs[:, 0])
    asked = np.concatenate([pairs[:3], [[-1, 0]]])
    examples = orbit_batches.gather_pairs(opened, table, sources, asked, (4, 12))
    assert examples.source["exists"].tolist() == [True] * 3 + [False]
    for row, (source, _) in enumerate(asked[:3].tolist()):
        crystal = datasets.crystal(opened, source)
        species = standard_choice.species_order(crystal.atomic_numbers)
        expected = environments.describe(crystal, species)
        numbers = examples.batch.atomic_numbers[row]
        for orbit, number in enumerate(numbers[numbers > 0].tolist()):
            np.testing.assert_array_equal(
                examples.source["environments"][row, orbit],
                expected[species.index(number)],
            )
        assert examples.source["energy"][row] == opened.formation_energy[source]


def test_epochs_have_every_structure_and_as_many_pairs():
    pairs = np.array([[1, 2], [2, 1], [3, 4]])
    epochs = orbit_pairs.PairEpochs(pairs, np.arange(12), seed=0)
    items = epochs.epoch(3)
    np.testing.assert_array_equal(items, epochs.epoch(3))
    assert not np.array_equal(items, epochs.epoch(4))
    assert len(items) == len(epochs) == 24
    alone = items[items[:, 0] < 0]
    assert sorted(alone[:, 1].tolist()) == list(range(12))
    found, counts = np.unique(items[items[:, 0] >= 0], axis=0, return_counts=True)
    np.testing.assert_array_equal(found, pairs)
    assert counts.tolist() == [4, 4, 4]
    # A few pairs do not come a thousand times.
    many = orbit_pairs.PairEpochs(pairs[:1], np.arange(1000), seed=0)
    assert len(many) == len(many.epoch(0)) == 1020


# ------------------------------------------------------------------------------ network
def test_a_source_changes_nothing_before_training_and_something_after_it(
    dataset, generator
):
    opened = datasets.open_dataset(dataset)
    table = orbit_table.open_table(opened)
    pairs = orbit_pairs.find_pairs(opened, np.arange(48), np.arange(8))[:8]
    sources = orbit_pairs.describe_sources(opened, pairs[:, 0])
    examples = orbit_batches.gather_pairs(opened, table, sources, pairs, (4, 12))
    trainee = orbit_training.build_trainee(
        config(dataset), _scale(config(dataset), opened), 2
    )
    asked = examples.conditions(trainee.scale)
    # Blocks that start as nothing would hand nothing on to the lattice, which alone is
    # free in these crystals.
    fresh, rng = trainee.init_params(0), np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: leaf + np.float32(0.1) * rng.normal(size=leaf.shape), fresh
    )
    for name in ("surroundings_out", "source_out"):
        params["params"][name] = fresh["params"][name]
    x = jax.random.normal(jax.random.key(1), (8, 8, 3))
    times = jnp.full(8, 0.5)

    def answers(model):
        return jax.jit(
            lambda params, asked: model.apply(params, x, times, asked, trainee.tables)
        )

    modifying = answers(trainee.model)
    plain = answers(dataclasses.replace(trainee.model, modifies=False))
    expected = plain(params, asked)
    np.testing.assert_allclose(modifying(params, asked), expected, atol=1e-5)

    @jax.jit
    @jax.grad
    def gradient(params):
        keys = jax.random.split(jax.random.key(2), 8)
        return trainee.compute_loss(params, examples, keys)[0]

    grads = gradient(params)["params"]
    for name in ("surroundings_out", "source_out"):
        assert float(np.abs(grads[name]["kernel"]).max()) > 0
    moved = jax.tree.map(lambda a, g: a - g, params, {"params": grads})
    found = modifying(moved, asked)
    absent = dataclasses.replace(asked.source, exists=np.zeros(8, bool))
    without = modifying(moved, dataclasses.replace(asked, source=absent))
    assert np.abs(np.asarray(found - without)).max() > 1e-4
    # What is said of a source that is not there is not looked at.
    other = dataclasses.replace(absent, environments=absent.environments + 1)
    again = modifying(moved, dataclasses.replace(asked, source=other))
    np.testing.assert_array_equal(again, without)


def _scale(config, dataset):
    return build_training.build_scaling(
        config,
        dataset.lattice[:48],
        dataset.formation_energy[:48],
        datasets.gather(dataset, np.arange(48), 12).atomic_numbers,
    )


def test_a_training_goes_on_from_a_generator(run, generator):
    mesh = sharding.build_local_mesh()
    ours, theirs = (checkpoints.load_run(each, mesh) for each in (run, generator))
    assert set(ours.params["params"]) - set(theirs.params["params"]) == {
        "surroundings_in",
        "surroundings_out",
        "source_in",
        "source_out",
    }
    models = [
        wyckoff_files.load(each / runs.POSITIONS, "") for each in (run, generator)
    ]
    assert len(models[0].library) == len(models[1].library)
    np.testing.assert_allclose(
        ours.scale.energy_scale, theirs.scale.energy_scale, rtol=1e-6
    )


def test_a_data_set_without_polymorphs_is_refused(dataset, tmp_path):
    opened = datasets.open_dataset(dataset)
    with pytest.raises(errors.UserError, match="no polymorphs"):
        orbit_pairs.require_pairs(np.zeros((0, 2), int), opened)


# ------------------------------------------------------------------------------ answers
def test_crystals_are_modified_by_the_commands(run, dataset, tmp_path):
    path = tmp_path / "two.extxyz"
    structure_files.write_extxyz(
        path, [CU3AU, tiny.disturb(CU3AU, 0, size=0.02)], [{}, {}]
    )
    options = modify.ModifyOptions(
        workdir=str(run), input=str(path), space_groups="221,123,227", num_samples=3
    )
    made = modify.modify(options).samples
    table = made.table()
    assert sorted(set(table["space_group"])) == [123, 221]
    assert any("cannot exist" in note for note in made.notes)
    assert len(made.crystals) == 2 * 2 * 3
    for crystal, group in zip(made.crystals, table["space_group"], strict=True):
        # In a supergroup where free parameters happen to be special.
        assert symmetry_search.find_space_group(crystal, 1e-3) >= group
        assert sorted(crystal.atomic_numbers.tolist()) == [29, 29, 29, 79]
    # The same, whatever is made beside it.
    alone = modify.modify(dataclasses.replace(options, space_groups="123")).samples
    where = [i for i, group in enumerate(table["space_group"]) if group == 123]
    assert len(alone.crystals) == len(where) == 6
    result, _ = evaluate.evaluate(
        evaluate.EvaluateOptions(
            workdir=str(run), split="val", pairs_per_group=None, num_workers=1
        )
    )
    assert result.source_matches is not None and len(result.samples) > 2


def question(source, group, probabilities, repeats=None, samples=(0,)):
    """What is asked, with draws of these probabilities."""
    asked = prototype_library.question_of(source.atomic_numbers, 0.0, group)
    draws = [
        likely_orbits.Request(asked, ((0,), (2,)), 1, probability, repeat)
        for probability, repeat in zip(
            probabilities, repeats or [0] * len(probabilities), strict=True
        )
    ]
    found = symmetry_search.find_space_group(source, 0.1)
    return polymorph_answers.Question(
        list(samples), source, found, np.zeros((2, 4)), -0.1, draws, 0
    )


def stretched(factor):
    return dataclasses.replace(
        CU3AU, lattice=CU3AU.lattice * np.array([[1.0], [1.0], [factor]])
    )


def test_the_source_again_is_the_last_of_the_answers():
    draws = [CU3AU, stretched(1.6), stretched(2.2)]
    asked = question(CU3AU, 221, [0.8, 0.1, 0.5], samples=(3, 4, 5, 6))
    found = polymorph_answers.answer(asked, draws, [True] * 3)
    assert [id(each) for each in found] == [
        id(each) for each in (draws[2], draws[1], draws[0], draws[0])
    ]
    # Of another group a crystal that is near is another one.
    asked = question(tiny.disturb(CU3AU, 0, size=0.4), 221, [0.8, 0.1])
    assert asked.source_group != 221
    assert not polymorph_answers.is_source(CU3AU, asked)


def test_a_further_structure_of_the_same_positions_is_less_likely():
    asked = question(CU3AU, 123, [0.5, 0.5, 0.3], repeats=[0, 1, 0], samples=(0, 1))
    asked = dataclasses.replace(asked, source_group=123)
    draws = [stretched(1.5), stretched(1.6), stretched(1.7)]
    found = polymorph_answers.answer(asked, draws, [True] * 3)
    assert found[0] is draws[0] and found[1] is draws[2]


def test_a_source_that_is_nearly_of_the_group_is_made_to_be_of_it():
    near = tiny.disturb(stretched(1.02), 0, size=0.05)
    asked = question(near, 123, [1.0])
    assert asked.source_group != 123
    (found,) = polymorph_answers.answer(asked, [stretched(2.0)], [True])
    assert symmetry_search.find_space_group(found, 1e-3) == 123
    apart = found.frac_coords - near.frac_coords
    assert np.abs(apart - np.round(apart)).max() < 0.05


def test_a_source_of_more_symmetry_gives_way_to_known_structures_alone():
    # Within a subgroup of its group a source has freedom, which it takes.
    asked = question(CU3AU, 123, [0.6, 0.4], samples=(0, 1, 2))
    draws = [stretched(1.6), stretched(2.2)]
    _, made = polymorph_answers.source_in_group(CU3AU, 221, 123)
    assert made is not None
    assert symmetry_search.find_space_group(made, 1e-3) == 123
    ratio = np.linalg.det(made.lattice) / np.linalg.det(CU3AU.lattice)
    assert ratio == pytest.approx(1, abs=0.15)

    def places(follow):
        found = polymorph_answers.answer(asked, draws, follow)
        return [
            next((i for i, draw in enumerate(draws) if each is draw), "source")
            for each in found
        ]

    assert places([True, True]) == [0, 1, "source"]
    assert places([True, False]) == [0, "source", 1]
    assert places([False, False]) == ["source", 0, 1]
    # Of a lattice that is no small move away there is no such answer.
    assert polymorph_answers.source_in_group(CU3AU, 221, 194)[1] is None


def test_the_roles_of_orbits_follow_their_elements():
    numbers = np.array([[79, 29, 29, 0], [29, 79, 29, 29]])
    assert orbit_transformer.roles_of(numbers).tolist()[0][:3] == [0, 1, 1]
    assert orbit_transformer.roles_of(numbers).tolist()[1] == [0, 1, 2, 2]


def test_models_of_positions_that_are_kept_must_be_there(dataset, tmp_path):
    started = config(dataset)
    started.model.position_epochs = 0
    with pytest.raises(ValueError, match=r"position_epochs is 0.*--init"):
        train.train(started, tmp_path / "run", show_progress=False)
