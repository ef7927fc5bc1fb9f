"""Models of orbits by the commands: train, resume, sample, evaluate, refusals."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pandas as pd
import pytest
import tiny

from crystaljax import evaluate, sample, train
from crystaljax.crystals import symmetry_search
from crystaljax.data import dataset as datasets
from crystaljax.data import orbit_table
from crystaljax.models import wyckoff_files
from crystaljax.system import errors, sharding
from crystaljax.training import checkpoints, runs


def config(dataset, **changes):
    return tiny.config(
        "symmetric",
        dataset,
        data__rows=16,
        data__orbits=4,
        data__orbit_buckets=((2, 4),),
        model__position_epochs=2,
        model__position_networks=1,
        model__position_width=16,
        model__estimator_depth=1,
        model__estimator_epochs=1,
        # Each size of a batch is another program.
        evaluation__batch_size=2,
        **changes,
    )


def write_dataset(path, metals=(29, 47, 79)):
    tiny.write_dataset(path, metals=metals)
    dataset = datasets.open_dataset(path)
    table, report = orbit_table.find_orbits(
        dataset,
        symprec=0.1,
        workspace=path / "work",
        num_workers=1,
    )
    shutil.rmtree(path / "work")
    assert report["standardised"] == len(dataset)
    orbit_table.write_table(path, table)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    path = tmp_path_factory.mktemp("orbits") / "data"
    write_dataset(path)
    return path


@pytest.fixture(scope="module")
def run(dataset):
    path = dataset.parent / "run"
    train.train(config(dataset), path, show_progress=False)
    return path


def options(run, **changes):
    defaults = {"workdir": str(run), "formulas": ("Cu3Au1", "AuAg")}
    return sample.SampleOptions(**(defaults | changes))


def test_a_formula_alone_is_a_question(run, tmp_path):
    arguments = [
        f"--workdir={run}",
        "--formulas=Cu3Au1,AuAg",
        "--num_samples=3",
        f"--output={tmp_path / 'samples'}",
    ]
    sample.main(arguments)
    table = pd.read_csv(tmp_path / "samples" / "samples.csv")
    assert table.formula.tolist() == ["Au1Cu3"] * 3 + ["Ag1Au1"] * 3
    assert (table.probability > 0).all()
    assert table.wyckoff_positions.str.contains("Au:").all()
    made = sample.sample(options(run, num_samples=3))
    for crystal, group in zip(made.crystals, table.space_group, strict=True):
        assert symmetry_search.find_space_group(crystal, 1e-3) >= group
    np.testing.assert_allclose(
        [abs(np.linalg.det(c.lattice)) for c in made.crystals], table.volume
    )
    likely = sample.sample(options(run, formula_units="likely"))
    assert likely.table()["formula"] == ["Au1Cu3", "Ag1Au1"]
    # With what the estimator makes of each, and its error is known.
    assert np.isfinite(table.estimated_energy).all()
    error, unit = runs.load_estimator_errors(run)
    assert error > 0 and unit > 0
    # What is known is followed, but not by all that have the same positions.
    assert table.follows_known.any()
    drawn = sample.sample(options(run, num_samples=3, follow_known=False))
    assert not np.any(drawn.table()["follows_known"])
    assert drawn.table()["follow_known"] == [False] * 6
    for row, crystal in enumerate(drawn.crystals):
        is_same = np.allclose(crystal.lattice, made.crystals[row].lattice, atol=1e-4)
        assert is_same == (not table.follows_known[row])
    # The best of several draws: one of those that are made without a judge.
    picked = sample.sample(options(run, num_samples=1, draws=3))
    assert picked.table()["judge"] == ["estimator"] * 2
    for row, crystal in enumerate(picked.crystals):
        number = 3 * row + picked.columns["judged_draw"][row]
        np.testing.assert_allclose(crystal.lattice, made.crystals[number].lattice)
    # The energy is what the formula is likely to have: near those of the training.
    assert table.formation_energy.abs().max() < 0.5


def test_groups_energies_and_positions_may_be_named(run):
    made = sample.sample(
        options(
            run,
            formulas=("Cu3Au1",),
            space_groups="221,123",
            energies="-0.1,0.2",
            wyckoff="",
        )
    )
    table = made.table()
    assert table["space_group"] == [221, 221, 123, 123]
    assert table["formation_energy"] == [-0.1, 0.2, -0.1, 0.2]
    made = sample.sample(
        options(run, formulas=("Cu3Au1",), space_groups="221", wyckoff="Au:b Cu:c")
    )
    assert made.table()["wyckoff_positions"] == ["Au:1b Cu:3c"]
    assert made.table()["probability"] == [1.0]
    (crystal,) = made.crystals
    np.testing.assert_allclose(crystal.frac_coords[crystal.atomic_numbers == 79], 0.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space_groups": "225", "formulas": ("Cu5Au1",)}, "cells of .* sites"),
        ({"wyckoff": "Au:a Cu:c", "formulas": ("Cu3Au1",)}, "name it with --space_g"),
        ({"hull": "builtin"}, "energies are left to the model; name them"),
        ({"sampler": "heun"}, "sampled by 'euler'"),
        ({"formulas": ("Fe1",)}, "Fe, which the training"),
        ({"formulas": ("Cu99",)}, "99 sites, but the model holds"),
        ({"formulas": ("Cu16Au1",)}, "17 sites, but the model holds 12"),
    ],
)
def test_what_cannot_be_is_refused(run, changes, message):
    with pytest.raises(errors.UserError, match=message):
        sample.sample(options(run, **changes))


def test_impossible_groups_are_left_out_and_noted(run):
    made = sample.sample(
        options(run, formulas=("Cu3Au1",), space_groups="227,1", energies="0")
    )
    assert made.table()["space_group"] == [1]
    assert any("1 of 2 combinations" in note for note in made.notes)


def test_following_prototype_structures_belongs_to_models_of_orbits(trained):
    asked = sample.SampleOptions(
        workdir=str(trained("ddim")),
        formulas=("Cu3Au1",),
        space_groups="221",
        energies="0",
        follow_known=True,
    )
    with pytest.raises(errors.UserError, match="follow_known belongs to models of orb"):
        sample.sample(asked)
    asked = dataclasses.replace(asked, follow_known=None, formula_units="likely")
    with pytest.raises(errors.UserError, match=r"formula_units.*of orbits"):
        sample.sample(asked)


def test_other_models_say_nothing_of_likely_groups(trained):
    with pytest.raises(errors.UserError, match=r"--space_groups=likely .* of orbits"):
        sample.sample(options(trained("ddim"), space_groups="likely"))


def test_a_data_set_without_the_setting_is_refused(alloys, tmp_path):
    with pytest.raises(errors.UserError, match="--setting=standard"):
        train.train(config(alloys), tmp_path / "run", show_progress=False)


def test_a_run_goes_on_to_the_same_bits(dataset, run, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(run, path)
    shutil.rmtree(path / "checkpoints" / "4")
    again = train.train(config(dataset), path, resume=True, show_progress=False)
    made = sample.sample(options(path)), sample.sample(options(run))
    for ours, theirs in zip(*(each.crystals for each in made), strict=True):
        np.testing.assert_array_equal(ours.lattice, theirs.lattice)
        np.testing.assert_array_equal(ours.frac_coords, theirs.frac_coords)
    assert int(again.step) == 4


def test_lost_positions_are_named(run, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(run, path)
    (path / runs.POSITIONS).write_bytes(b"")
    with pytest.raises(errors.UserError, match=r"positions\.npz cannot be read"):
        sample.sample(options(path))


def test_held_out_structures_are_asked_for(run, tmp_path):
    evaluated, folder = evaluate.evaluate(
        evaluate.EvaluateOptions(
            workdir=str(run), num_workers=1, output=str(tmp_path / "evaluation")
        )
    )
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["num_structures"] == len(evaluated.samples) == 12
    assert summary["space_group_0.01"] == 1


def test_fine_tuning_starts_from_the_weights_and_keeps_what_is_known(
    run, tmp_path, capsys
):
    # Silver, gold and platinum: only the last is new.
    data, tuned = tmp_path / "data", tmp_path / "tuned"
    write_dataset(data, metals=(47, 78, 79))
    changes = {"num_steps": 2, "train__init": str(run)}
    still = config(data, **changes, optimizer__learning_rate=0.0)
    state = train.train(still, tuned)
    assert "new to it: Pt" in capsys.readouterr().out
    mesh = sharding.build_local_mesh()
    before, after = (checkpoints.load_run(path, mesh) for path in (run, tuned))
    jax.tree.map(np.testing.assert_array_equal, state.params, before.params)
    assert set(after.vocabulary["elements"]) == {"Cu", "Ag", "Au", "Pt"}
    # Units are those that the network has learned; platinum has a volume of its own.
    assert after.scale.energy_scale == before.scale.energy_scale
    volumes = [np.asarray(each.scale.atomic_volumes) for each in (before, after)]
    np.testing.assert_array_equal(np.delete(volumes[0], 78), np.delete(volumes[1], 78))
    assert volumes[0][78] != volumes[1][78]
    models = [wyckoff_files.load(path / runs.POSITIONS, "") for path in (run, tuned)]
    new = len(models[1].library) - len(models[0].library)
    assert new > 0
    assert models[1].library.counts[new:] == models[0].library.counts
    theirs, ours = (model.structures for model in models)
    np.testing.assert_array_equal(ours.entries[-len(theirs) :] - new, theirs.entries)
    # The estimator has been trained further, by little.
    before, after = (jax.tree.leaves(each.estimator.params) for each in models)
    moved = [np.abs(a - b).max() for a, b in zip(before, after, strict=True)]
    assert 0 < max(moved) < 0.01
    made = sample.sample(options(tuned, formulas=("Cu3Au1", "PtAg")))
    assert made.table()["formula"] == ["Au1Cu3", "Ag1Pt1"]
    # It goes on where the model that it started from is gone.
    moved = {"num_steps": 2, "train__init": str(tmp_path / "gone")}
    saved = json.loads((tuned / "config.json").read_text())
    saved["train"]["init"] = moved["train__init"]
    (tuned / "config.json").write_text(json.dumps(saved))
    still = config(data, **moved, optimizer__learning_rate=0.0)
    again = train.train(still, tuned, resume=True, show_progress=False)
    assert int(again.step) == 2
    jax.tree.map(np.testing.assert_array_equal, again.params, state.params)


def test_fine_tuning_needs_the_same_network(dataset, run, tmp_path):
    other = config(dataset, train__init=str(run), model__width=32)
    with pytest.raises(errors.UserError, match=r"model.width is 16 there and 32"):
        train.train(other, tmp_path / "run", show_progress=False)
    missing = config(dataset, train__init="nobody")
    with pytest.raises(FileNotFoundError, match=r"no model 'nobody'; exp.* mp"):
        train.train(missing, tmp_path / "run", show_progress=False)
    assert not (tmp_path / "run" / "config.json").exists()
