"""The yardstick: a tiny run from the command, and what it must say of known answers."""

import json
import pathlib
import sys
import time

import numpy as np
import pytest
import tiny

from crystaljax.crystals import structure
from crystaljax.data import dataset as datasets
from crystaljax.data.sources import emt
from crystaljax.matching import matcher
from crystaljax.system import atomic_files, workers

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "experiments"))

from match_rate import baselines, energies, run  # noqa: E402


@pytest.fixture(scope="module")
def dataset(alloys):
    return datasets.open_dataset(alloys)


@pytest.fixture(scope="module")
def record(dataset, tmp_path_factory):
    """What the command wrote."""
    folder = tmp_path_factory.mktemp("match_rate")
    settings = {"data__num_templates": 2, "train__checkpoint_every": 4}
    arguments = [
        *tiny.flags("best", dataset.path, **settings),
        *("--dataset=tiny", f"--train={dataset.path}", "--split=val"),
        *("--num_structures=6", "--num_samples=2", "--num_for_many=3"),
        "--draws=2",
        *(f"--workdir={folder / 'run'}", f"--output={folder}", "--energies"),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["run.py", *arguments])
        # A process that has to start takes longer than what it has to do here.
        patch.setattr(workers, "default_num_workers", lambda: 1)
        run.main()
    (path,) = folder.glob("*.json")
    assert path.name == "tiny_best-smoke.json"
    return json.loads(path.read_text())


def test_record_has_all_that_is_asked_for(record):
    for name in ("dataset", "recipe", "num_structures", "steps", "device", "command"):
        assert record[name]
    assert record["picked"]["draws"] == 2
    assert record["estimator"]["error"] == record["estimator"]["error_on_validation"]
    parts = ("without_projection", "picked")
    nearest = record["baselines"]["nearest"]
    for part in (record, nearest, *(record[name] for name in parts)):
        assert set(part["match_rate"]) == {"0.3/0.5/10", "0.2/0.3/5"}
        for tolerance, rate in part["match_rate"].items():
            error = part["standard_error"][tolerance]
            assert error == pytest.approx(np.sqrt(rate * (1 - rate) / 6))
    for part in ("coordinates_only", "lattice_only"):
        assert set(record[part]) == {"0.3/0.5/10", "0.2/0.3/5"}
    assert set(record["match_many"]) == {"num_structures", "match@1", "match@2"}
    assert record["energies"]["relaxed"] <= 6
    for kind in record["by"].values():
        assert sum(each["num"] for each in kind.values()) == 6
    # All of the tiny data set are of one prototype for each formula.
    assert record["baselines"]["nearest"]["match_rate"]["0.2/0.3/5"] == 1


def test_time_of_training_is_that_of_all_calls(tmp_path, monkeypatch, dataset):
    config = tiny.config("best", dataset.path, num_steps=0)
    monkeypatch.setattr(run.train, "train", lambda *_, **__: time.sleep(0.05))
    first = run.train_and_time(config, tmp_path)
    assert run.train_and_time(config, tmp_path) > first + 0.04
    # Nothing is left to do in a run of 0 steps that is there.
    tiny.write_run(tmp_path / "done", config)
    atomic_files.write_json(tmp_path / "done" / "training_seconds.json", 7.0)
    assert run.train_and_time(config, tmp_path / "done") == 7.0


def test_nearest_relabels_a_training_structure(dataset):
    val = dataset.indices("val")
    answers = baselines.nearest(dataset, dataset, val)
    for index, answer in zip(val.tolist(), answers, strict=True):
        target = datasets.crystal(dataset, index)
        assert sorted(answer.atomic_numbers) == sorted(target.atomic_numbers)
        tolerance = [matcher.TOLERANCES["paper"]]
        assert matcher.match(answer, target, tolerance).rms[0] < 1e-6


def test_random_placement_keeps_lattice_and_species(dataset):
    targets = [datasets.crystal(dataset, i) for i in range(5)]
    answers = baselines.random_placement(targets, seed=0)
    for target, answer in zip(targets, answers, strict=True):
        np.testing.assert_array_equal(answer.lattice, target.lattice)
        np.testing.assert_array_equal(answer.atomic_numbers, target.atomic_numbers)
        assert np.abs(answer.frac_coords - target.frac_coords).max() > 0.05


def test_swapping_takes_the_lattice_of_the_other(dataset):
    one, other = datasets.crystal(dataset, 0), datasets.crystal(dataset, 6)
    swapped = run.swap(one, lattice_of=other)
    np.testing.assert_array_equal(swapped.frac_coords, one.frac_coords)
    np.testing.assert_array_equal(swapped.lattice, other.lattice)


@pytest.mark.parametrize(
    ("number", "system"),
    [
        *((1, "triclinic"), (2, "triclinic"), (3, "monoclinic"), (15, "monoclinic")),
        *((16, "orthorhombic"), (74, "orthorhombic"), (75, "tetragonal")),
        *((142, "tetragonal"), (143, "trigonal"), (167, "trigonal")),
        *((168, "hexagonal"), (194, "hexagonal"), (195, "cubic"), (230, "cubic")),
    ],
)
def test_crystal_systems(number, system):
    assert run.crystal_system(number) == system


def test_relaxed_alloys_have_the_energies_that_they_came_with():
    records = emt.load_builtin()[:40]
    crystals = [record.crystal for record in records]
    asked = np.array([record.formation_energy for record in records])
    found = energies.compare(crystals, asked)
    assert found["relaxed"] == 40
    assert found["mean_absolute_error"] < 2e-3
    # The wrong way round is as bad as can be.
    swapped = energies.compare(crystals, -asked)
    assert swapped["mean_absolute_error"] > 10 * found["mean_absolute_error"]
    atoms = structure.Crystal(np.array([29]), np.zeros((1, 3)), np.zeros((3, 3)))
    assert energies.compare([*crystals, atoms], np.append(asked, 0))["relaxed"] == 40
