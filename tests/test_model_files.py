"""Models as folders: written, listed, sampled from, and refused where damaged."""

import json
import pathlib
import re
import shutil

import jax
import numpy as np
import pytest

from crystaljax import export_model, list_models, sample
from crystaljax.system import errors
from crystaljax.training import model_files


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "mine"
    export_model.main(
        [
            f"--workdir={trained('ddim')}",
            f"--output={folder}",
            "--title=Tiny alloys",
            "--dtype=float32",
        ]
    )
    return folder


def options(**changes):
    return sample.SampleOptions(formulas=("Cu3Au1",), space_groups="221", **changes)


def copy(folder, tmp_path):
    path = tmp_path / "copy"
    shutil.copytree(folder, path)
    return path


def test_a_model_makes_the_crystals_of_its_run(trained, exported):
    ours = sample.sample(options(model=str(exported)))
    theirs = sample.sample(options(workdir=str(trained("ddim"))))
    for one, other in zip(ours.crystals, theirs.crystals, strict=True):
        np.testing.assert_array_equal(one.frac_coords, other.frac_coords)
        np.testing.assert_array_equal(one.lattice, other.lattice)
    # A model may stand where a run directory is expected.
    assert sample.sample(options(workdir=str(exported))).crystals


def test_a_model_holds_no_code_and_no_place_of_its_maker(trained, exported):
    assert not any(path.suffix in (".pkl", ".py") for path in exported.iterdir())
    with np.load(exported / model_files.PARAMETERS, allow_pickle=False) as file:
        assert all(file[name].dtype == np.float32 for name in file.files)
    for name in ("config.json", "vocabulary.json", "card.json"):
        assert str(pathlib.Path(trained("ddim")).parent) not in (
            exported / name
        ).read_text(encoding="utf-8")


def test_half_precision_is_half_the_size_and_read_as_single(trained, tmp_path):
    sizes = []
    for dtype in ("float16", "float32"):
        folder = tmp_path / dtype
        sizes.append(
            export_model.export_model(
                export_model.ExportModelOptions(
                    workdir=str(trained("ddim")), output=str(folder), dtype=dtype
                )
            )
        )
    assert sizes[0] < sizes[1]
    made = [
        sample.sample(options(model=str(tmp_path / dtype))).crystals[0]
        for dtype in ("float16", "float32")
    ]
    assert np.abs(made[0].lattice - made[1].lattice).max() < 0.1


@pytest.mark.parametrize("name", [*model_files.FILES, "card.json"])
@pytest.mark.parametrize("damage", ["missing", "empty", "exchanged"])
def test_damaged_files_are_named(exported, tmp_path, name, damage):
    folder = copy(exported, tmp_path)
    path = folder / name
    match damage:
        case "missing":
            path.unlink()
        case "empty":
            path.write_bytes(b"")
        case "exchanged":
            path.write_text(json.dumps({"version": 99}))
    expected = (errors.UserError, FileNotFoundError)
    with pytest.raises(expected) as raised:
        sample.sample(options(model=str(folder)))
    text = str(raised.value)
    assert re.search(rf"{name}|no model|holds no run|has no checkpoint", text)
    assert "\n" not in text


def test_a_card_may_say_more_and_is_shown(trained, tmp_path, capsys):
    card = tmp_path / "about.json"
    card.write_text(json.dumps({"data": "sixty alloys", "not_for": ["anything"]}))
    folder = tmp_path / "model"
    arguments = [f"--workdir={trained('ddim')}", f"--output={folder}"]
    export_model.main([*arguments, "--title=Tiny", f"--card={card}"])
    assert "crystaljax sample --model=" in capsys.readouterr().out
    list_models.main([f"--model={folder}"])
    text = capsys.readouterr().out
    assert "Tiny" in text and "sixty alloys" in text and "anything" in text
    with pytest.raises(SystemExit, match="already holds a model; pass --overwrite"):
        export_model.main(arguments)
    export_model.main([*arguments, "--overwrite"])
    with pytest.raises(SystemExit, match="is not empty"):
        export_model.main([arguments[0], f"--output={tmp_path}"])


def test_which_model_is_meant_is_said(trained, tmp_path):
    with pytest.raises(errors.UserError, match="expected one of them"):
        model_files.resolve(str(trained("ddim")), "mp")
    with pytest.raises(FileNotFoundError, match="no model 'nowhere'"):
        model_files.resolve(None, "nowhere")
    with pytest.raises(errors.UserError, match="give `workdir=` or `model=`"):
        model_files.resolve(None, None)


def test_parameters_of_another_network_are_named(exported):
    like = {"params": {"other": jax.ShapeDtypeStruct((2,), np.float32)}}
    with pytest.raises(errors.UserError, match="params/other is missing"):
        model_files.load_params(exported, like)
