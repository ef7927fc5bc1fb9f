"""Training, resuming, sampling and evaluating, end to end on a tiny network."""

import dataclasses
import functools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from flax.training.dynamic_scale import DynamicScale

from configs import best
from crystaljax import evaluate, sample, train
from crystaljax.crystals import structure, structure_files
from crystaljax.data import columnar
from crystaljax.data import dataset as datasets
from crystaljax.models import build, initial
from crystaljax.sampling import collective_generation
from crystaljax.sampling import samples as samples_lib
from crystaljax.system import sharding
from crystaljax.training import batches as batches_lib
from crystaljax.training import build as build_training
from crystaljax.training import checkpoints, runs, train_step

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def dataset_path(alloys):
    return alloys


def tiny_config(dataset_path, num_steps=4):
    return tiny.config("ddim", dataset_path, num_steps)


@pytest.fixture(scope="module")
def workdir(trained):
    """A finished run of four steps."""
    return trained("ddim")


def restore(workdir):
    """Step and parameters of the newest checkpoint."""
    run = checkpoints.load_run(workdir, sharding.build_mesh())
    return np.int64(run.step), jax.device_get(run.params)


def assert_same_bits(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def copy_as_killed(run, path, lost_step):
    """A run as if it had been killed before it wrote a checkpoint."""
    shutil.copytree(run, path)
    shutil.rmtree(path / "checkpoints" / str(lost_step))


# ------------------------------------------------------------------------------ resume
def test_interrupted_and_resumed_run_ends_with_the_same_bits(
    dataset_path, workdir, tmp_path
):
    resumed = tmp_path / "run"
    copy_as_killed(workdir, resumed, 4)
    assert restore(resumed)[0] == 2
    train.train(tiny_config(dataset_path), resumed, resume=True, show_progress=False)
    assert_same_bits(restore(workdir), restore(resumed))
    straight, steps = (
        [
            json.loads(line)["step"]
            for line in (path / "metrics.jsonl").read_text().splitlines()
        ]
        for path in (workdir, resumed)
    )
    # What had been logged beyond the checkpoint is logged once.
    assert steps == straight == [2, 4, 4]


def test_killed_process_resumes_to_the_same_bits(dataset_path, tmp_path):
    """A real SIGKILL of the command at whatever moment it comes."""
    settings = {"train__checkpoint_every": 10, "evaluation__num_structures": 0}
    flags = tiny.flags("ddim", dataset_path, 30, **settings)
    command = [sys.executable, "-m", "crystaljax.train", *flags]
    process = subprocess.Popen(
        [*command, f"--workdir={tmp_path / 'killed'}"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
    )
    checkpoints = tmp_path / "killed" / "checkpoints"
    deadline = time.monotonic() + 180
    while not any(p.name.isdigit() for p in checkpoints.glob("*")):
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert restore(tmp_path / "killed")[0] < 30
    train.main([*flags, f"--workdir={tmp_path / 'killed'}", "--resume"])
    config = tiny.config("ddim", dataset_path, 30, **settings)
    config.train.checkpoint_every = 30
    train.train(config, tmp_path / "straight", show_progress=False)
    assert_same_bits(restore(tmp_path / "killed"), restore(tmp_path / "straight"))


def test_existing_run_is_refused_without_resume(dataset_path, workdir):
    with pytest.raises(FileExistsError, match="--resume"):
        train.train(tiny_config(dataset_path), workdir, show_progress=False)


def test_resume_with_another_config_names_the_difference(dataset_path, workdir):
    config = tiny_config(dataset_path)
    config.optimizer.learning_rate = 1.0
    with pytest.raises(ValueError, match=r"optimizer\.learning_rate: 1\.0, 0\.001"):
        train.train(config, workdir, resume=True, show_progress=False)


def test_runs_from_before_a_key_was_there_are_read(workdir, tmp_path):
    config = json.loads((workdir / "config.json").read_text())
    del config["task"], config["model"]["space_group_operations"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = runs.load_config(tmp_path)
    assert loaded.to_dict() == runs.load_config(workdir).to_dict()


def test_runs_from_before_draws_had_their_name_are_read(workdir, tmp_path):
    config = json.loads((workdir / "config.json").read_text())
    del config["sampler"]["draws"]
    config["sampler"]["candidates"] = 5
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = runs.load_config(tmp_path).sampler
    assert loaded.draws == 5 and "candidates" not in loaded


def test_run_directory_tells_how_it_came_to_be(workdir):
    config = json.loads((workdir / "config.json").read_text())
    assert config["train"]["num_steps"] == 4
    environment = json.loads((workdir / "environment.json").read_text())
    assert environment["versions"]["jax"] == jax.__version__
    lines = [
        json.loads(line)
        for line in (workdir / "metrics.jsonl").read_text().splitlines()
    ]
    assert [line["step"] for line in lines if "loss" in line] == [2, 4]
    assert {"loss_coordinates", "loss_lattice", "gradient_norm"} <= lines[0].keys()
    assert "validation/valid" in lines[-1]
    assert list((workdir / "tensorboard").glob("events*"))


# ---------------------------------------------------------------------------- learning
def test_network_learns_what_the_alloys_look_like(dataset_path, tmp_path):
    config = tiny.config("best", dataset_path, 200, model__estimator_depth=0)
    config.train.steps_per_dispatch = config.train.log_every = 50
    config.train.checkpoint_every = 200
    config.evaluation.num_structures = 12
    config.optimizer.warmup_steps = 10
    config.optimizer.learning_rate = 1e-2
    train.train(config, tmp_path / "run", show_progress=False)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    *logged, validation = [json.loads(line) for line in lines]
    losses = [each["loss"] for each in logged]
    assert losses == sorted(losses, reverse=True) and losses[-1] < 0.1 * losses[0]
    # Held out are other lattices of the same prototypes.
    assert validation["validation/match_rate_0.2/0.3/5"] >= 0.9


def test_nan_stops_the_run_and_names_it(dataset_path, tmp_path):
    config = tiny_config(dataset_path)
    config.optimizer.learning_rate = float("inf")
    with pytest.raises(FloatingPointError, match="loss"):
        train.train(config, tmp_path / "run", show_progress=False)


def test_padding_cannot_change_the_loss(dataset_path):
    config = tiny_config(dataset_path)
    dataset = datasets.open_dataset(dataset_path)
    batch = datasets.gather(dataset, np.arange(8), 12)
    scale = build_training.build_scaling(
        config, batch.lattice, batch.energy, batch.atomic_numbers
    )
    trainee = build_training.build_trainee(config, scale, 4)
    rng = np.random.default_rng(1)
    params = jax.tree.map(
        lambda leaf: leaf + np.float32(rng.normal(0, 0.1, leaf.shape)),
        initial.init_params(trainee.model, 16, 0),
    )
    keys = jax.random.split(jax.random.key(2), 8)
    garbage = batch.frac_coords.copy()
    garbage[np.arange(12) >= batch.num_sites[:, None]] = 0.77
    loss = jax.jit(lambda b: train_step.compute_loss(trainee, params, b, keys)[0])
    assert loss(batch) == loss(batch.replace(frac_coords=garbage))


def test_accumulated_gradients_are_those_of_the_whole_batch(dataset_path):
    config = tiny_config(dataset_path)
    batch = datasets.gather(datasets.open_dataset(dataset_path), np.arange(8), 12)
    scale = build_training.build_scaling(
        config, batch.lattice, batch.energy, batch.atomic_numbers
    )
    keys = jax.random.split(jax.random.key(2), 8)
    found = []
    for config.train.accumulation_steps in (1, 4):
        trainee = build_training.build_trainee(config, scale, 4)
        trainee = trainee.replace(model=tiny.SmallNetwork(), tables={})
        gradient_fn = jax.jit(functools.partial(train_step.compute_gradients, trainee))
        state = train_step.init_state(trainee, 0, sharding.build_mesh())
        found.append(gradient_fn(state, batch, keys))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *found
    )
    # In float16 the parts share one loss scale.
    state = state.replace(loss_scale=DynamicScale(scale=2.0**15))
    scaled = gradient_fn(state, batch, keys)
    assert scaled.finite and scaled.loss_scale.scale == 2.0**15
    assert scaled.loss_scale.fin_steps == 1
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
        scaled.grads,
        found[-1].grads,
    )


def test_batch_that_cannot_be_cut_is_refused(dataset_path, tmp_path):
    config = tiny_config(dataset_path)
    config.train.accumulation_steps = 3
    with pytest.raises(ValueError, match="divide"):
        train.train(config, tmp_path / "run", show_progress=False)


def test_dropped_templates_are_as_if_there_were_none(dataset_path):
    settings = {"data__num_templates": 2, "model__estimator_depth": 0}
    config = tiny.config("best", dataset_path, **settings)
    dataset = datasets.open_dataset(dataset_path)
    batches = batches_lib.build_batches(config, dataset)
    scale, batch = batches.scale, batches.source[0]
    # Two steps of eight structures each.
    batch = jax.tree.map(lambda a: np.asarray(a).reshape(16, *a.shape[2:]), batch)
    keys = jax.random.split(jax.random.key(0), 16)
    assert batch.templates.space_group.all()

    @functools.cache
    def loss_fn(share):
        config.data.template_dropout = share
        trainee = build_training.build_trainee(config, scale, num_steps=4)
        return jax.jit(functools.partial(train_step.compute_loss, trainee))

    def losses(share, batch):
        return float(loss_fn(share)(params, batch, keys)[0])

    _, _, params = tiny.build_network(config)

    nothing = batch.replace(templates=jax.tree.map(np.zeros_like, batch.templates))
    all_dropped, none_there = losses(1.0, batch), losses(0.0, nothing)
    assert all_dropped == pytest.approx(none_there, rel=1e-6)
    some, shown = losses(0.5, batch), losses(0.0, batch)
    assert len({all_dropped, some, shown}) == 3


def test_weight_decay_takes_from_matrices_only():
    config = best.get_config("smoke")
    config.optimizer.weight_decay = 0.5
    optimizer = build_training.build_optimizer(config)
    rate = build_training.build_learning_rate(config, 1000)
    params = {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}
    state = optimizer.init(params)
    for _ in range(3):
        zeros = jax.tree.map(jnp.zeros_like, params)
        updates, state = optimizer.update(zeros, state, params, learning_rate=rate)
        params = optax.apply_updates(params, updates)
    expected = np.prod([1 - 0.5 * float(rate(step)) for step in range(3)])
    np.testing.assert_allclose(params["kernel"], expected, rtol=1e-6)
    np.testing.assert_array_equal(params["bias"], 1)


@pytest.mark.parametrize("size", [0.0, 0.01, 100.0])
def test_clipping_is_optaxs(size):
    rng = np.random.default_rng(0)
    grads = {
        name: size * rng.normal(size=shape).astype(np.float32)
        for name, shape in (("kernel", (3, 4, 5)), ("bias", (7,)))
    }
    ours = build_training.clip_by_global_norm(1.0)
    theirs = optax.clip_by_global_norm(1.0)
    expected, _ = theirs.update(grads, theirs.init(grads))
    found, _ = ours.update(grads, ours.init(grads))
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5), found, expected
    )
    norm = train_step.global_norm(grads)
    np.testing.assert_allclose(norm, optax.tree.norm(grads), rtol=1e-6)


# ------------------------------------------------------------ rows follow the crystals
@pytest.fixture(scope="module")
def doubled_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "doubled"
    tiny.write_dataset(path, doubled=4)
    return path


def bucketed_config(method, path, **changes):
    settings = {"data__row_buckets": (8,), "evaluation__num_structures": 0}
    return tiny.config(method, path, 8, **settings, **changes)


@pytest.mark.parametrize("method", ["ddim", "modify_diffusion"])
def test_batches_have_the_rows_that_their_crystals_need(method, doubled_path):
    config = bucketed_config(method, doubled_path)
    dataset = datasets.open_dataset(doubled_path)
    source = batches_lib.build_batches(config, dataset, 40).source
    batches = [source[i] for i in range(len(source))]
    assert len(batches) * config.train.steps_per_dispatch == 40
    columns = [batch.atomic_numbers.shape[-1] for batch in batches]
    assert {4, 12} == set(columns)
    for batch, sites in zip(batches, columns, strict=True):
        assert (batch.num_sites <= 4).all() == (sites == 4)


def require_resumable(config, folder):
    """Trains, and once more as if killed after the first of two checkpoints."""
    straight, resumed = folder / "straight", folder / "resumed"
    train.train(config, straight, show_progress=False)
    last = config.train.num_steps
    copy_as_killed(straight, resumed, last)
    assert restore(resumed)[0] == last // 2
    train.train(config, resumed, resume=True, show_progress=False)
    assert_same_bits(restore(straight), restore(resumed))


def test_bucketed_run_resumes_to_the_same_bits(doubled_path, tmp_path, monkeypatch):
    """Each bucket is another program: of a small network."""
    network = tiny.SmallNetwork(num_templates=2, answers=6)
    monkeypatch.setattr(build, "build_model", lambda config: network)
    config = bucketed_config(
        "best", doubled_path, data__num_templates=2, train__checkpoint_every=4
    )
    require_resumable(config, tmp_path)


def test_run_with_an_estimator_resumes_to_the_same_bits(dataset_path, tmp_path):
    """With the program of test_match_rate."""
    settings = {"data__num_templates": 2, "evaluation__num_structures": 0}
    config = tiny.config("best", dataset_path, **settings)
    # It trains an estimator of energies beside the network.
    assert config.model.estimator_depth
    require_resumable(config, tmp_path)


@pytest.mark.parametrize("buckets,message", [((16,), "fewer rows"), ((12,), "12")])
def test_impossible_buckets_are_refused(buckets, message, dataset_path, tmp_path):
    config = tiny_config(dataset_path)
    config.data.row_buckets = buckets
    with pytest.raises(ValueError, match=message):
        train.train(config, tmp_path / "run", show_progress=False)


# ---------------------------------------------------------------------------- sampling
def options(workdir, **changes):
    return sample.SampleOptions(
        **{
            "workdir": str(workdir),
            "formulas": ("Cu3Au1", "AgAu"),
            "energies": "-0.1:0.1:0.1",
            "num_samples": 2,
            "seed": 1,
        }
        | changes
    )


@pytest.fixture(scope="module")
def samples(workdir):
    return sample.sample(options(workdir, batch_size=12))


def test_samples_do_not_depend_on_the_batch_they_were_made_in(workdir, samples):
    parts = sample.sample(options(workdir, batch_size=5))
    assert len(samples.crystals) == 12
    for one, other in zip(samples.crystals, parts.crystals, strict=True):
        np.testing.assert_array_equal(one.atomic_numbers, other.atomic_numbers)
        np.testing.assert_allclose(one.lattice, other.lattice, atol=1e-4)
        difference = one.frac_coords - other.frac_coords
        np.testing.assert_allclose(difference - np.round(difference), 0, atol=1e-4)


def test_seeds_and_eta_change_samples_and_the_same_seed_does_not(workdir, samples):
    one = samples.crystals[0].lattice
    again, other, noisy = (
        sample.sample(options(workdir, batch_size=12, **changes)).crystals[0].lattice
        for changes in ({}, {"seed": 2}, {"eta": 1.0})
    )
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 1e-3
    assert np.abs(one - noisy).max() > 1e-3


def test_written_samples_can_be_read_by_others(samples, tmp_path):
    import ase.io
    import pyarrow.parquet

    samples_lib.write_samples(samples, tmp_path, cifs="folder")
    samples_lib.write_samples(samples, tmp_path / "zipped", cifs="zip")
    table = pyarrow.parquet.read_table(tmp_path / "samples.parquet").to_pydict()
    assert table["formula"] == ["Au1Cu3"] * 6 + ["Ag1Au1"] * 6
    assert table["formation_energy"][:6] == [-0.1, -0.1, 0.0, 0.0, 0.1, 0.1]
    crystals, infos = structure_files.read_extxyz(tmp_path / "samples.extxyz")
    assert infos[0]["space_group"] == 221
    np.testing.assert_allclose(
        crystals[0].lattice, samples.crystals[0].lattice, atol=1e-6
    )
    written = sorted((tmp_path / "cifs").glob("*.cif"))
    assert len(written) == len(crystals)
    atoms = ase.io.read(written[0])
    assert atoms.get_chemical_formula("metal") in ("Cu3Au", "AuCu3")
    assert (tmp_path / "zipped" / "cifs.zip").exists()
    with pytest.raises(FileExistsError):
        samples_lib.write_samples(samples, tmp_path)


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"formulas": ("Cu3Zr1",)}, "Zr"),
        ({"formulas": ("Cu12Au9",)}, "21 sites"),
        ({"space_groups": "231"}, "231"),
        ({"energies": "lowest"}, "'lowest'"),
        ({"energies": "low"}, "--energies=low can be asked of a model of orbits"),
        ({"num_steps": 2000}, "2000"),
    ],
)
def test_bad_conditions_are_refused_before_anything_is_computed(
    workdir, monkeypatch, changes, message
):
    monkeypatch.setattr(checkpoints, "load_run", lambda *_: pytest.fail("too late"))
    with pytest.raises(ValueError, match=message):
        sample.sample(options(workdir, **changes))


def test_missing_run_and_checkpoint_are_named(workdir, tmp_path):
    with pytest.raises(FileNotFoundError, match="no run"):
        sample.sample(options(tmp_path))
    with pytest.raises(FileNotFoundError, match="checkpoint 7"):
        sample.sample(options(workdir, checkpoint=7))


def test_checkpoint_of_another_network_is_refused(workdir, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(workdir, copy)
    config = json.loads((copy / "config.json").read_text())
    config["model"]["channels"] = 16
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="arrays differ"):
        sample.sample(options(copy))


# -------------------------------------------------------------------------- evaluation
def test_evaluation_writes_one_row_per_structure(workdir, tmp_path):
    import pyarrow.csv

    settings = evaluate.EvaluateOptions(
        workdir=str(workdir), num_structures=5, num_workers=1, output=str(tmp_path)
    )
    result, folder = evaluate.evaluate(settings)
    table = pyarrow.csv.read_csv(folder / "structures.csv").to_pydict()
    assert len(table["id"]) == 5
    summary = json.loads((folder / "summary.json").read_text())
    matched = table["matched_0.2/0.3/5"]
    assert summary["match_rate_0.2/0.3/5"] == pytest.approx(np.mean(matched))
    text = evaluate.report(result, settings)
    for tolerance in ("0.2/0.3/5", "0.4/0.6/10", "1/1.5/25", "0.3/0.5/10"):
        assert tolerance in text


def test_several_samples_of_each_give_match_at_k(workdir, tmp_path):
    import pyarrow.csv

    settings = evaluate.EvaluateOptions(
        workdir=str(workdir),
        num_structures=4,
        num_samples=3,
        num_workers=1,
        output=str(tmp_path),
    )
    result, folder = evaluate.evaluate(settings)
    once, _ = evaluate.evaluate(dataclasses.replace(settings, num_samples=1))
    # The first round is what is made of the questions asked once.
    for ours, same in zip(result.samples[:4], once.samples, strict=True):
        np.testing.assert_allclose(ours.lattice, same.lattice, atol=1e-4)
    table = pyarrow.csv.read_csv(folder / "structures.csv").to_pydict()
    assert len(table["id"]) == 4
    assert len(result.samples) == 12 and result.table()["round"] == sorted(
        4 * [0, 1, 2]
    )
    found = {each["name"]: each for each in evaluate._yardsticks(result)["yardsticks"]}
    own = result.matches.matched[:, 3]
    assert found["match rate"]["count"] == own[:4].sum()
    assert found["match@3"]["count"] == own.reshape(3, 4).any(axis=0).sum()
    assert {"match@2", "METRe@1", "METRe", "match rate, valid only"} <= set(found)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["num_structures"] == 4 and "smact" in summary["valid_rule"]
    text = evaluate.report(result, settings)
    assert "4 structures of the val split, 3 samples each" in text
    words = "references matched by one of the first 3 generated for them"
    assert words in " ".join(text.split())


def test_perfect_samples_match_everything(workdir, monkeypatch):
    dataset = datasets.open_dataset(runs.load_vocabulary(workdir)["dataset"])
    indices = dataset.indices("val")[:3]
    truth = [datasets.crystal(dataset, int(i)) for i in indices]
    monkeypatch.setattr(collective_generation, "generate", lambda *_, **__: truth)
    from crystaljax.sampling import evaluation

    result = evaluation.evaluate_samples(
        tiny.build_generator(tiny_config("unused")),
        evaluation.structure_questions(dataset, indices, 12),
        jax.random.key(0),
        num_workers=1,
    )
    summary = result.summary()
    assert summary["match_rate_0.2/0.3/5"] == 1
    assert summary["rms_0.2/0.3/5"] == pytest.approx(0, abs=1e-6)
    assert summary["valid"] == summary["space_group_0.1"] == 1
    best = result.score.best(0, 1)
    np.testing.assert_allclose(best, 0, atol=1e-6)


# ------------------------------------------------------------------------------- rows
def test_structures_larger_than_the_rows_name_what_to_set(dataset_path, tmp_path):
    config = tiny_config(dataset_path)
    crystal = structure.Crystal(
        np.full(20, 29), np.random.default_rng(0).random((20, 3)), np.eye(3) * 8
    )
    columns = columnar.columns_from_crystals(["big"], ["Cu20"], [crystal], [1], [0.0])
    datasets.write_dataset(tmp_path / "big", columns, np.zeros(1, int), {})
    config.data.path = str(tmp_path / "big")
    with pytest.raises(ValueError, match=r"data\.rows=24"):
        train.train(config, tmp_path / "run", show_progress=False)
    assert not (tmp_path / "run").exists()
