"""Conditions from the command line of `sample` and `modify` to the table."""

import dataclasses
import json

import numpy as np
import pyarrow.parquet
import pytest
import tiny

from crystaljax import modify, sample
from crystaljax.crystals import elements, structure, structure_files
from crystaljax.data import dataset as datasets
from crystaljax.sampling import conditions, requests
from crystaljax.system import options as options_lib
from crystaljax.training import runs

ROOT = tiny.__file__.rsplit("/", 2)[0]


@pytest.fixture(scope="module")
def workdir(alloys, tmp_path_factory):
    path = tmp_path_factory.mktemp("conditions")
    tiny.write_run(path / "run", tiny.config("ddim", alloys))
    (path / "entries.csv").write_text(
        "formula,formation_energy,energy_model\nCu3Au,-0.04,DFT\nCuAu,-0.06,DFT\n"
    )
    return path / "run"


def options(workdir, **changes):
    return sample.SampleOptions(
        **{"workdir": str(workdir), "space_groups": "221", **changes}
    )


def asked_formulas(request):
    return list(
        dict.fromkeys(
            elements.cell_formula(numbers[:count])
            for numbers, count in zip(
                request.conditions.atomic_numbers,
                request.conditions.num_sites,
                strict=True,
            )
        )
    )


def test_formulas_units_and_systems_meet_in_one_request(workdir):
    request = sample.build_request(
        options(
            workdir,
            formulas=("CuAu3", "Au3Cu"),
            formula_units="1,2",
            chemical_systems=("Au-Ag",),
            max_atoms=4,
        )
    )
    # Reduced formulas with one or two units: all but Ag1Au1's third multiple are there.
    assert asked_formulas(request) == [
        "Au3Cu1", "Au6Cu2", "Ag1Au1", "Ag1Au2", "Ag2Au1", "Ag1Au3", "Ag2Au2", "Ag3Au1",
    ]  # fmt: skip


def test_energies_follow_the_hull_and_the_table_says_how_far_above_it(workdir):
    request = sample.build_request(
        options(
            workdir,
            formulas=("Cu3Au1", "Cu1Au1", "Ag1Au1"),
            space_groups="221,1",
            energies="hull-0.1:hull:0.1,0.3",
            hull=str(workdir.parent / "entries.csv"),
            num_samples=2,
        )
    )
    above = request.columns["requested_energy_above_hull"]
    energy = np.asarray(request.conditions.energy)
    assert energy.shape == above.shape == (3 * 2 * 3 * 2,)
    hull_energy = np.repeat([-0.04, -0.06, 0.0], 12)
    np.testing.assert_allclose(energy - above, hull_energy, atol=1e-6)
    for i in range(3):
        block = energy[12 * i : 12 * i + 12].reshape(2, 3, 2)
        expected = [hull_energy[12 * i] - 0.1, hull_energy[12 * i], 0.3]
        np.testing.assert_allclose(
            block, np.broadcast_to(np.array(expected)[None, :, None], (2, 3, 2))
        )
    notes = "\n".join(request.notes)
    assert "2 entries of DFT, but the model was trained on energies of none" in notes
    assert "such as Ag1Au1, no entry has all of the elements" in notes


def test_infeasible_combinations_are_marked_or_dropped(workdir):
    settings = {"formulas": ("Cu3Au1", "Cu2"), "space_groups": "1,227", "energies": "0"}
    marked = sample.build_request(options(workdir, **settings))
    assert marked.columns["feasible"].tolist() == [True, False, True, True]
    assert "1 of 4 combinations" in marked.notes[0]
    dropped = sample.build_request(options(workdir, infeasible="drop", **settings))
    assert len(dropped.conditions) == 3 and "left out" in dropped.notes[0]
    kept = sample.build_request(options(workdir, infeasible="keep", **settings))
    assert kept.columns == {} and len(kept.conditions) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "no formulas; expected --formulas"),
        ({"chemical_systems": ("Cu-Zr",), "max_atoms": 3}, "Zr.*never had"),
        ({"chemical_systems": ("Cu-Au",), "max_atoms": 50}, "sites, but the model"),
        ({"formulas": ("Cu3Au1",), "energies": "hull"}, "--hull=entries.csv"),
        ({"formulas": ("Cu3",), "space_groups": "227", "infeasible": "drop"}, "1 of 1"),
        ({"formulas": ("Cu3",), "infeasible": "never"}, "expected one of"),
    ],
)
def test_what_cannot_be_asked_is_an_error(workdir, changes, message):
    with pytest.raises(ValueError, match=message):
        sample.build_request(options(workdir, **changes))


def test_tables_and_extxyz_have_the_columns_in_every_shard(workdir, tmp_path):
    asked = options(
        workdir,
        formulas=("Cu3Au1", "Cu1"),
        space_groups="221,227",
        energies="hull,hull+0.1",
        hull=str(workdir.parent / "entries.csv"),
    )
    requests.write_request(
        sample.build_request(asked), tmp_path, cifs="none", shard_size=3,
        overwrite=False,
    )  # fmt: skip
    parts = [f"-{i:05d}-of-00003" for i in range(3)]
    rows, frames = [], []
    for part in parts:
        table = pyarrow.parquet.read_table(tmp_path / f"samples{part}.parquet")
        rows += table.to_pylist()
        frames += structure_files.read_extxyz(tmp_path / f"samples{part}.extxyz")[1]
    assert [row["feasible"] for row in rows] == [True] * 2 + [False] * 2 + [
        True
    ] * 2 + [False] * 2
    assert [row["requested_energy_above_hull"] for row in rows] == [0.0, 0.1] * 4
    assert [row["formation_energy"] for row in rows[::4]] == [-0.04, 0.0]
    for row, info in zip(rows, frames, strict=True):
        assert bool(info["feasible"]) == row["feasible"]
        assert info["requested_energy_above_hull"] == row["requested_energy_above_hull"]
    whole = requests.make_samples(sample.build_request(asked)).table()
    assert whole["feasible"] == [row["feasible"] for row in rows]


def test_the_command_takes_all_flags(workdir, tmp_path, capsys):
    arguments = [
        f"--workdir={workdir}",
        "--formulas=Cu3Au", "--formula_units=1", "--chemical_systems=Cu-Au",
        "--max_atoms=2", "--space_groups=221,Fd-3m",
        "--energies=hull-0.05:hull:0.05,0.1", "--infeasible=drop", "--cifs=none",
        f"--hull={workdir.parent / 'entries.csv'}", f"--output={tmp_path / 'out'}",
    ]  # fmt: skip
    sample.main(arguments)
    notes = capsys.readouterr().err
    assert "note: 2 of 4 combinations" in notes
    assert "note: hull of" in notes
    table = pyarrow.parquet.read_table(tmp_path / "out" / "samples.parquet").to_pydict()
    assert table["formula"] == ["Au1Cu3"] * 3 + ["Au1Cu1"] * 3
    assert set(table["space_group"]) == {221}
    asked = json.loads((tmp_path / "out" / "request.json").read_text())["asked"]
    assert asked["chemical_systems"] == ["Cu-Au"] and asked["infeasible"] == "drop"
    # The way with the infeasible is part of the request.
    marked = options(
        workdir,
        formulas=("Cu3Au",),
        formula_units="1",
        chemical_systems=("Cu-Au",),
        max_atoms=2,
        space_groups="221,Fd-3m",
        energies="hull-0.05:hull:0.05,0.1",
        hull=str(workdir.parent / "entries.csv"),
    )
    with pytest.raises(FileExistsError, match='infeasible: "mark", "drop"'):
        requests.write_request(
            sample.build_request(marked),
            tmp_path / "out",
            cifs="none",
            shard_size=None,
            overwrite=False,
        )


def test_modify_marks_and_drops_what_an_input_cannot_become(alloys, tmp_path):
    config = tiny.config("modify_diffusion", alloys)
    dataset = datasets.open_dataset(alloys)
    vocabulary = datasets.vocabulary(dataset) | {"energy_difference": [-1.0, 1.0]}
    _, scale, _ = tiny.build_network(config)
    runs.create_run(tmp_path / "run", config, scale, vocabulary)
    crystal = structure.Crystal(
        np.array([29, 79]), np.array([[0, 0, 0], [0.5, 0.5, 0.5]]), 3.1 * np.eye(3)
    )
    structure_files.write_extxyz(tmp_path / "CuAu.extxyz", [crystal], [{}])

    def request(**changes):
        return modify.build_request(
            modify.ModifyOptions(
                workdir=str(tmp_path / "run"),
                input=str(tmp_path / "CuAu.extxyz"),
                **{"energy_difference": "-0.1:0:0.1", "space_groups": "227,221"},
                **changes,
            )
        )[0]

    marked = request(num_samples=3)
    assert marked.columns["feasible"].tolist() == [False] * 6 + [True] * 6
    assert any("1 of 2 combinations" in note for note in marked.notes)
    dropped = request(infeasible="drop")
    assert dropped.conditions.space_group.tolist() == [221, 221]
    assert len(dropped.inputs) == 2 and dropped.wording["infeasible"] == "drop"


def test_flags_and_functions_know_the_same_ways():
    """`sample` does not import `conditions` for its --help."""
    fields = {field.name: field for field in dataclasses.fields(sample.SampleOptions)}
    assert options_lib.about(fields["infeasible"]).choices == conditions.INFEASIBLE
