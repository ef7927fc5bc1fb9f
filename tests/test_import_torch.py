"""Checkpoints of the paper's PyTorch code as run directories."""

import collections
import dataclasses
import functools
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import torch
from test_networks import PARITY_TOLERANCE, load_reference

from configs import best, cfm_uniform, modify_cfm, modify_diffusion
from crystaljax import evaluate, import_torch, modify, sample
from crystaljax.crystals import structure, structure_files
from crystaljax.data import columnar
from crystaljax.data import dataset as datasets
from crystaljax.models import torch_weights
from crystaljax.models.networks import crystal_unet
from crystaljax.system import sharding
from crystaljax.training import checkpoints, runs

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "experiments"))

from throughput import torch_peer  # noqa: E402

NETWORKS = ("generation", "modification_diffusion")


@pytest.fixture(scope="module")
def tensors():
    """State dicts of both fixtures."""
    return {
        name: {
            key: torch.tensor(array) for key, array in load_reference(name)[0].items()
        }
        for name in NETWORKS
    }


@pytest.fixture(scope="module")
def small_tensors():
    """State dicts of networks of one level, compiled in a quarter of the time.

    With random weights, and arrays named and laid out as in the paper's code.
    """
    torch.manual_seed(0)
    found = {}
    for name, source_rows in zip(NETWORKS, (0, 64), strict=True):
        model = crystal_unet.CrystalUNet(
            channels=32,
            channel_multipliers=(1,),
            num_res_blocks=1,
            attention_levels=(),
            space_group_operations="reference",
            element_properties="reference",
            source_rows=source_rows,
        )
        found[name] = torch_peer.Network(model).state_dict()
    return found


@pytest.fixture(scope="module")
def imported(small_tensors, tmp_path_factory):
    """Both small networks imported without a config."""
    folders = {name: tmp_path_factory.mktemp(name) for name in NETWORKS}
    return {name: import_into(folders[name], small_tensors[name]) for name in NETWORKS}


def import_into(folder, content, **options):
    """Imports what is saved into ``folder / "run"``."""
    torch.save(content, folder / "model.pt")
    return import_torch.import_checkpoint(
        import_torch.ImportOptions(
            checkpoint=str(folder / "model.pt"),
            workdir=str(folder / "run"),
            **options,
        )
    )


# --------------------------------------------------------------------------------- run
NUMBERS, GROUPS = np.zeros((2, 60), np.uint8), np.array([47, 2])
NUMBERS[0, :8] = [5] * 6 + [73, 74]
NUMBERS[1, :6] = [13] * 2 + [29] * 4


def test_imported_run_answers_like_the_papers_code(tensors, tmp_path):
    """From species and space groups on, with our tables of what they mean."""
    found = import_into(tmp_path, tensors["modification_diffusion"])
    run = checkpoints.load_run(found.workdir, sharding.build_mesh())
    _, arrays = load_reference("modification_diffusion")
    output = jax.jit(run.model.apply)(
        run.params,
        jnp.asarray(arrays["input_x"]),
        jnp.asarray(arrays["input_time_integer"]),
        jnp.asarray(NUMBERS),
        jnp.asarray(GROUPS),
        run.scale.scale_energy(arrays["input_energy"]),
        jnp.asarray(arrays["input_source"]),
    )
    np.testing.assert_allclose(output, arrays["output_integer"], atol=PARITY_TOLERANCE)
    assert run.step == 0


def test_imported_run_encodes_like_the_papers_code(tensors, tmp_path):
    """And has the network of test_networks, which answers like the paper's code."""
    found = import_into(tmp_path, tensors["generation"])
    run = checkpoints.load_run(found.workdir, sharding.build_mesh())
    weights, arrays = load_reference("generation")
    expected = crystal_unet.CrystalUNet(
        channels=32, num_res_blocks=1, space_group_operations="reference"
    )
    assert run.model == expected and run.step == 0
    jax.tree.map(
        np.testing.assert_array_equal,
        jax.device_get(run.params),
        torch_weights.convert(weights, expected),
    )
    scaled = run.scale.scale_energy(arrays["input_energy"])
    np.testing.assert_allclose(scaled, arrays["input_energy"])
    tables = run.model.tables()
    for kind, value, table in (
        ("space_group", GROUPS, tables["operations"]),
        ("element", NUMBERS, tables["elements"]),
    ):
        encode = functools.partial(
            run.model.apply,
            method=lambda m, *inputs, kind=kind: getattr(m, f"{kind}_encoder")(*inputs),
        )
        np.testing.assert_allclose(
            jax.jit(encode)(run.params, jnp.asarray(value), jnp.asarray(table)),
            arrays[f"{kind}_embedding"],
            atol=PARITY_TOLERANCE,
        )


def test_network_that_encodes_a_source_is_for_modification(imported):
    generation, modification = (imported[name] for name in NETWORKS)
    assert generation.config.task == "generation"
    assert generation.config.sampler.name == "ddim"
    assert modification.config.task == "modification"
    assert modification.config.sampler.name == "ddpm"
    vocabulary = runs.load_vocabulary(modification.workdir)
    assert vocabulary["energy_difference"] == [-5.0, 0.0]
    assert vocabulary["canonical"] == "none"
    assert any("--config" in note for note in generation.notes)
    assert generation.config.model.space_group_operations == "reference"


def test_paper_vocabulary_is_written_without_a_dataset(imported):
    vocabulary = runs.load_vocabulary(imported["generation"].workdir)
    assert len(vocabulary["elements"]) == 103
    assert len(vocabulary["space_groups"]) == 19
    assert vocabulary["max_sites"] == 60
    assert vocabulary["dataset"] is None
    assert "energy_difference" not in vocabulary


def test_vocabulary_is_that_of_the_dataset(small_tensors, tmp_path):
    crystal = structure.Crystal(
        np.array([29, 79]), np.array([[0, 0, 0], [0.5, 0.5, 0.5]]), 3 * np.eye(3)
    )
    columns = columnar.columns_from_crystals(
        ["one"], ["Cu1Au1"], [crystal], [221], [-0.1]
    )
    info = {"energy_model": "some DFT"}
    datasets.write_dataset(tmp_path / "data", columns, np.array([0]), info)
    found = import_into(
        tmp_path, small_tensors["generation"], dataset=str(tmp_path / "data")
    )
    vocabulary = runs.load_vocabulary(found.workdir)
    assert sorted(vocabulary["elements"]) == ["Au", "Cu"]
    assert vocabulary["space_groups"] == [221]
    assert vocabulary["energy_model"] == "some DFT"
    assert vocabulary["dataset"] == found.config.data.path == str(tmp_path / "data")


def test_config_gives_task_process_and_sampler_and_not_the_network(tensors, tmp_path):
    found = import_into(
        tmp_path, tensors["generation"], config=cfm_uniform.get_config("smoke")
    )
    config = runs.load_config(found.workdir)
    assert config.process.to_dict()["start"] == "uniform"
    assert config.sampler.name == "euler"
    assert config.model.channels == 32
    assert list(config.model.channel_multipliers) == [1, 2, 4, 8]
    assert config.model.time_scale == 1.0
    assert config.data.rows == 64
    assert config.data.coordinates == "unit"
    assert config.train.ema_decay == 0.0
    assert not any("--config" in note for note in found.notes)


def test_imported_run_samples(imported):
    samples = sample.sample(
        sample.SampleOptions(
            workdir=str(imported["generation"].workdir),
            formulas=("Ta1W1B6",),
            space_groups="6,225",
            num_steps=2,
            batch_size=2,
        )
    )
    assert [crystal.num_sites for crystal in samples.crystals] == [8, 8]
    assert all(np.isfinite(crystal.lattice).all() for crystal in samples.crystals)
    assert samples.provenance["checkpoint"] == 0


def test_imported_run_is_evaluated_on_a_dataset(imported, tmp_path):
    workdir = str(imported["generation"].workdir)
    settings = evaluate.EvaluateOptions(
        workdir=workdir, num_structures=2, output=str(tmp_path)
    )
    with pytest.raises(ValueError, match="--dataset"):
        evaluate.evaluate(settings)
    tiny.write_dataset(tmp_path / "data")
    result, _ = evaluate.evaluate(
        dataclasses.replace(
            settings, dataset=str(tmp_path / "data"), num_steps=2, batch_size=2
        )
    )
    assert len(result.samples) == 2
    assert "match_rate_0.2/0.3/5" in result.summary()


def test_imported_run_modifies(imported, tmp_path):
    crystal = structure.Crystal(
        np.array([79, 29]), np.array([[0, 0, 0], [0.5, 0.5, 0.5]]), 3 * np.eye(3)
    )
    structure_files.write_extxyz(tmp_path / "one.extxyz", [crystal], [{}])
    result = modify.modify(
        modify.ModifyOptions(
            workdir=str(imported["modification_diffusion"].workdir),
            input=str(tmp_path / "one.extxyz"),
            space_groups="6,225",
            num_steps=2,
            batch_size=2,
        )
    )
    assert [crystal.num_sites for crystal in result.samples.crystals] == [2, 2]


def test_command_prints_what_comes_next(small_tensors, tmp_path):
    torch.save(small_tensors["generation"], tmp_path / "model.pt")
    flags = [
        f"--checkpoint={tmp_path / 'model.pt'}",
        f"--workdir={tmp_path / 'run'}",
        f"--config={ROOT / 'configs' / 'modify_cfm.py'}",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "crystaljax.import_torch", *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert f"crystaljax modify --workdir={tmp_path / 'run'}" in done.stdout
    assert "note: " in done.stderr
    with pytest.raises(SystemExit, match=r"^error: "):
        import_torch.main(flags)


# -------------------------------------------------------------------------- state dict
@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
def test_nested_and_prefixed_state_dicts_are_found(key, prefix, tmp_path):
    state_dict = collections.OrderedDict(
        {f"{prefix}model.out.2.bias": torch.ones(3), f"{prefix}x": torch.zeros(2)}
    )
    torch.save({"epoch": 3, key: state_dict}, tmp_path / "model.pt")
    found = import_torch.load_state_dict(tmp_path / "model.pt")
    assert sorted(found) == ["model.out.2.bias", "x"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(dtype, tmp_path):
    torch.save({"a": torch.full((2,), 0.5, dtype=dtype)}, tmp_path / "model.pt")
    found = import_torch.load_state_dict(tmp_path / "model.pt")
    assert found["a"].dtype == np.float32
    np.testing.assert_array_equal(found["a"], 0.5)


class Dangerous:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_file_with_code_is_refused_and_the_code_not_run(tmp_path):
    with pytest.raises(ValueError, match=r"only tensors are read.*state_dict\(\)"):
        import_into(tmp_path, {"model": Dangerous(tmp_path / "ran")})
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


@pytest.mark.parametrize(
    "content,message",
    [
        ([torch.ones(2)], "holds a list"),
        ({"a": torch.ones(2), "epoch": 3}, "type int at 'epoch'"),
        ({"a": torch.tensor([1.0, np.nan])}, "NaN or infinite values in 1 arrays"),
        ({}, "is missing"),
        ({"layer1.0.conv1.weight": torch.ones(64, 64, 3, 3)}, "layer1"),
    ],
)
def test_content_that_is_no_such_network_is_refused(content, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        import_into(tmp_path, content)
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


@pytest.mark.parametrize("keep", [0, 10, 1000])
def test_truncated_file_is_refused(keep, tmp_path):
    torch.save({"a": torch.ones(1000)}, tmp_path / "whole.pt")
    (tmp_path / "model.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"model\.pt"):
        import_torch.load_state_dict(tmp_path / "model.pt")


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pt"):
        import_torch.load_state_dict(tmp_path / "nowhere.pt")


def test_missing_torch_is_said(tmp_path, monkeypatch):
    (tmp_path / "model.pt").touch()
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match="needs PyTorch"):
        import_torch.load_state_dict(tmp_path / "model.pt")


# --------------------------------------------------------------------- wrong networks
def test_wrong_arrays_are_named_and_nothing_is_written(tensors, tmp_path):
    broken = dict(tensors["generation"])
    broken["model.extra.weight"] = broken.pop("model.out.2.weight")
    broken["model.time_embed.0.bias"] = torch.zeros(7)
    with pytest.raises(ValueError) as error:
        import_into(tmp_path, broken)
    for name in ("model.out.2.weight", "model.extra.weight", "time_embed.0.bias (7,)"):
        assert name in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


@pytest.mark.parametrize(
    "name,config",
    [("generation", modify_diffusion), ("modification_diffusion", modify_cfm)],
)
def test_config_of_another_network_is_refused(name, config, tensors, tmp_path):
    with pytest.raises(
        ValueError, match=r"wrong network.*source encoder.*source encoder.*source_rows"
    ):
        import_into(tmp_path, tensors[name], config=config.get_config())
    assert not (tmp_path / "run").exists()


def test_config_that_contradicts_itself_is_refused(tensors, tmp_path):
    config = cfm_uniform.get_config()
    config.sampler.name = "ddim"
    with pytest.raises(ValueError, match=r"sampler\.name"):
        import_into(tmp_path, tensors["generation"], config=config)
    assert not (tmp_path / "run").exists()


def test_config_of_the_transformer_is_refused(tensors, tmp_path):
    with pytest.raises(ValueError, match=r"'transformer', but.*UNet"):
        import_into(tmp_path, tensors["generation"], config=best.get_config("smoke"))
    assert not (tmp_path / "run").exists()


def test_existing_folders_are_refused_before_the_checkpoint_is_read(imported, tmp_path):
    (tmp_path / "notes.txt").touch()
    for workdir, message in (
        (imported["generation"].workdir, "already holds a run"),
        (tmp_path, "not empty"),
    ):
        with pytest.raises(FileExistsError, match=message):
            import_torch.import_checkpoint(
                import_torch.ImportOptions(
                    checkpoint="nowhere.pt", workdir=str(workdir)
                )
            )


def test_interrupted_writing_leaves_nothing(small_tensors, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(checkpoints, "save_params", fail)
    with pytest.raises(OSError, match="disk full"):
        import_into(tmp_path, small_tensors["generation"])
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]
