"""From a user's crystal to candidates for a polymorph, end to end on a tiny network."""

import json
import runpy
import shutil
import sys

import ase.io
import numpy as np
import pyarrow.parquet
import pytest
import tiny

from crystaljax import evaluate, modify, sample
from crystaljax.crystals import bridge, inputs, structure, structure_files
from crystaljax.sampling import conditions, shards
from crystaljax.sampling import samples as samples_lib
from crystaljax.training import checkpoints, runs

# L1_2 Cu3Au with the gold atom elsewhere than at the origin, and in another order.
CU3AU = structure.Crystal(
    np.array([29, 29, 79, 29]),
    np.array([[0.5, 0.0, 0.0], [0.0, 0.5, 0.0], [0.5, 0.5, 0.0], [0, 0, 0.5]])
    + np.array([0, 0, 0.25]),
    3.75 * np.eye(3),
)
CUAU = structure.Crystal(
    np.array([79, 29]), np.array([[0, 0, 0], [0.5, 0.5, 0.5]]), 3.1 * np.eye(3)
)


@pytest.fixture(scope="module")
def workdir(trained):
    """A finished run of a model with many answers."""
    return trained("modify_diffusion")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A CIF, a POSCAR, an extxyz file of two frames, and what must not stop them."""
    path = tmp_path_factory.mktemp("crystals")
    ase.io.write(path / "a.cif", bridge.to_ase(CU3AU))
    (path / "POSCAR").write_text(bridge.to_pymatgen(CU3AU).to(fmt="poscar"))
    structure_files.write_extxyz(path / "two.extxyz", [CU3AU, CUAU], [{}, {}])
    (path / "broken.cif").write_text("data_x\n_cell_length_a nonsense\n")
    (path / "notes.txt").write_text("not a crystal")
    big = structure.Crystal(
        np.full(20, 29), np.random.default_rng(0).random((20, 3)), 8 * np.eye(3)
    )
    structure_files.write_extxyz(path / "big.extxyz", [big], [{}])
    iron = structure.Crystal(np.array([26]), np.zeros((1, 3)), 2.8 * np.eye(3))
    structure_files.write_extxyz(path / "iron.extxyz", [iron], [{}])
    return path


def options(workdir, path, **changes):
    return modify.ModifyOptions(
        **{
            "workdir": str(workdir),
            "input": str(path),
            "energy_difference": "-0.05",
            "space_groups": "221,P4/mmm",
            "num_samples": 2,
            "num_steps": 2,
        }
        | changes
    )


@pytest.fixture(scope="module")
def result(workdir, folder):
    return modify.modify(options(workdir, folder))


def test_every_usable_crystal_is_modified_and_the_others_are_named(result):
    samples = result.samples
    assert [each.name for each in result.inputs] == ["POSCAR", "a", "two-0", "two-1"]
    assert samples.inputs == sorted(["POSCAR", "a", "two-0", "two-1"] * 4)
    assert len(samples.crystals) == 16
    notes = "\n".join(samples.notes)
    assert "broken.cif" in notes
    assert "big: Cu20 has 20 sites" in notes and "data.rows" in notes
    assert "iron: Fe1 has Fe" in notes
    assert "notes.txt" not in notes


def test_formats_of_one_crystal_are_one_source(result):
    """Origin, site order and format of the file make no difference."""
    first = result.sources[0]
    for other in result.sources[1:3]:
        np.testing.assert_array_equal(first.atomic_numbers, other.atomic_numbers)
        np.testing.assert_allclose(first.lattice, other.lattice, atol=1e-5)
        np.testing.assert_allclose(first.frac_coords, other.frac_coords, atol=1e-5)
    np.testing.assert_array_equal(first.atomic_numbers, [79, 29, 29, 29])
    np.testing.assert_allclose(first.frac_coords[0], 0, atol=1e-6)


def test_samples_keep_the_composition_and_differ(result):
    for name, crystal in zip(
        result.samples.inputs, result.samples.crystals, strict=True
    ):
        expected = [79, 29] if name == "two-1" else [79, 29, 29, 29]
        np.testing.assert_array_equal(crystal.atomic_numbers, expected)
        assert np.isfinite(crystal.lattice).all()
        assert ((crystal.frac_coords >= 0) & (crystal.frac_coords < 1)).all()
    one, other = result.samples.crystals[:2]
    assert np.abs(one.lattice - other.lattice).max() > 1e-4


def test_files_say_what_was_asked_of_which_crystal(result, folder, tmp_path):
    samples_lib.write_samples(result.samples, tmp_path, cifs="folder")
    modify.write_inputs(result.inputs, tmp_path)
    table = pyarrow.parquet.read_table(tmp_path / "samples.parquet").to_pydict()
    assert table["input"] == result.samples.inputs
    assert table["space_group"][:4] == [221, 221, 123, 123]
    assert set(table["energy_difference"]) == {-0.05}
    assert "formation_energy" not in table
    _, infos = structure_files.read_extxyz(tmp_path / "samples.extxyz")
    assert infos[0]["input"] == "POSCAR" and infos[0]["energy_difference"] == -0.05
    crystals, infos = structure_files.read_extxyz(tmp_path / "inputs.extxyz")
    assert [info["name"] for info in infos] == ["POSCAR", "a", "two-0", "two-1"]
    np.testing.assert_allclose(crystals[3].lattice, CUAU.lattice, atol=1e-6)
    for name in ("a.cif", "POSCAR", "two.extxyz"):
        kept = (tmp_path / "inputs" / name).read_bytes()
        assert kept == (folder / name).read_bytes()
    with pytest.raises(FileExistsError):
        shards.require_new(tmp_path, overwrite=False)


def test_evaluation_compares_with_leaving_the_source_as_it_is(workdir, tmp_path):
    settings = evaluate.EvaluateOptions(
        workdir=str(workdir),
        split="val",
        pairs_per_group=None,
        num_steps=2,
        num_structures=4,
        num_workers=1,
        output=str(tmp_path),
    )
    result, folder = evaluate.evaluate(settings)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["num_structures"] == 4
    # Both are the same cubic prototype at another volume: they match as they are.
    assert summary["match_rate_of_sources_0.2/0.3/5"] == 1
    assert "unmodified  100.0%" in evaluate.report(result, settings)
    table = result.table()
    assert all(energy <= 0 for energy in table["energy_difference"])
    assert set(table["source_id"]).isdisjoint(table["id"])


def test_model_with_one_answer_makes_one(alloys, workdir, folder, tmp_path):
    tiny.write_run(tmp_path / "run", tiny.config("modify_cfm", alloys))
    # A run that was trained knows more of its data.
    shutil.copy(workdir / "vocabulary.json", tmp_path / "run")
    done = modify.modify(options(tmp_path / "run", folder / "a.cif", num_steps=1))
    assert len(done.samples.crystals) == 2
    assert "one answer" in done.samples.notes[0]


def test_vocabulary_has_the_form_and_the_energy_differences(workdir):
    vocabulary = runs.load_vocabulary(workdir)
    assert vocabulary["canonical"] == "site"
    low, high = vocabulary["energy_difference"]
    assert low < high <= 0


# ----------------------------------------------------------------------------- refusals
@pytest.mark.parametrize(
    "name,changes,message",
    [
        ("a.cif", {"formula": "Ta1W1B6"}, "cell is Au1Cu3, but B6Ta1W1 was requested"),
        ("big.extxyz", {}, "Cu20 has 20 sites, but the model holds at most 12"),
        ("iron.extxyz", {}, "never had"),
        ("broken.cif", {}, "broken.cif: not readable as CIF"),
        ("notes.txt", {}, "no known format"),
        ("a.cif", {"space_groups": "231"}, "231"),
        ("a.cif", {"energy_difference": "down"}, "'down'"),
        ("a.cif", {"sampler": "euler"}, "sampled by ddpm or ddim"),
    ],
)
def test_bad_input_is_refused_before_anything_is_computed(
    workdir, folder, monkeypatch, name, changes, message
):
    monkeypatch.setattr(checkpoints, "load_run", lambda *_: pytest.fail("too late"))
    with pytest.raises(ValueError, match=message):
        modify.modify(options(workdir, folder / name, **changes))


def test_help_shows_every_flag(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["modify", "--help"])
    # As `python -m`, in a process that has all that it imports.
    runpy.run_path(modify.__file__, run_name="__main__")
    text = capsys.readouterr().out
    for name in ("input", "energy_difference", "space_groups", "num_steps", "output"):
        assert f"  --{name}=" in text


def test_missing_input_is_named(workdir, tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing at"):
        modify.modify(options(workdir, tmp_path / "none.cif"))
    with pytest.raises(ValueError, match="no crystals in the folder"):
        modify.modify(options(workdir, tmp_path))


def test_model_of_the_other_task_is_named(workdir, folder, tmp_path):
    with pytest.raises(ValueError, match=r"crystaljax modify --input"):
        sample.sample(sample.SampleOptions(workdir=str(workdir), formulas=("Cu3Au1",)))
    copy = tmp_path / "run"
    copy.mkdir()
    for name in ("config.json", "vocabulary.json"):
        shutil.copy(workdir / name, copy)
    config = json.loads((copy / "config.json").read_text())
    config["task"] = "generation"
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"crystaljax sample"):
        modify.modify(options(copy, folder / "a.cif"))


def test_poscar_without_element_names_is_not_guessed(tmp_path):
    text = bridge.to_pymatgen(CUAU).to(fmt="poscar").splitlines()
    # Neither in a line of their own nor behind the coordinates.
    sites = [" ".join(line.split()[:3]) for line in text[8:]]
    (tmp_path / "POSCAR").write_text("\n".join(["", *text[1:5], *text[6:8], *sites]))
    found, unreadable = inputs.read_inputs(tmp_path)
    assert not found and "POSCAR" in unreadable[0].name


def test_combinations_keep_each_source_with_its_conditions():
    sources = [("one", CUAU), ("two", CU3AU)]
    asked, subject = conditions.combine_sources(sources, [1, 2], [-0.1, -0.2], 2, 6)
    assert len(asked) == 16
    np.testing.assert_array_equal(subject, np.repeat([0, 1], 8))
    np.testing.assert_array_equal(asked.num_sites, np.repeat([2, 4], 8))
    np.testing.assert_allclose(asked.source.frac_coords[8, :4], CU3AU.frac_coords)
    np.testing.assert_array_equal(asked.source.frac_coords[:, 4:], 0)
    with pytest.raises(ValueError, match="'two' has 4 sites"):
        conditions.combine_sources(sources, [1], [0.0], 1, 3)
