import csv
import json

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from crystaljax import prepare
from crystaljax.data import dataset as datasets
from crystaljax.data import report as reports
from crystaljax.data import split_lists


def write(path, text):
    path.write_text(text)
    return str(path)


def test_lists_of_every_kind_say_the_same(tmp_path):
    expected = {"mp-1": 0, "mp-2": 0, "007": 1, "1_2": 2}
    train = write(tmp_path / "train.txt", "mp-1\n\nmp-2\n")
    val = write(tmp_path / "val.csv", "material_id,cif\n007,x\n")
    test = write(tmp_path / "test.json", json.dumps(["1_2"]))
    entries = [f"train={train}", f"val={val}", f"test={test}"]
    assert split_lists.read_lists(entries) == expected
    text = "split,id\ntrain,mp-1\ntrain,mp-2\nval,007\ntest,1_2\n"
    assert split_lists.read_lists([write(tmp_path / "all.csv", text)]) == expected
    sides = {"train": ["mp-1", "mp-2"], "val": ["007"], "test": ["1_2"]}
    one = write(tmp_path / "all.json", json.dumps(sides))
    assert split_lists.read_lists([one]) == expected


def test_what_is_not_there_is_counted_and_named():
    sides = {"a": 0, "b": 2, "c": 2}
    split, report = split_lists.assign(["c", "x", "a"], sides)
    assert split.tolist() == [2, -1, 0]
    assert report["test"] == {"listed": 2, "found": 1, "examples": ["b"]}
    assert report["val"] == {"listed": 0, "found": 0, "examples": []}


@pytest.mark.parametrize(
    ("name", "text", "side", "message"),
    [
        ("a.txt", "x\n", "", r"which side .* give SIDE="),
        ("a.txt", "x\n", "dev=", r"unknown side 'dev'; expected one of train"),
        ("a.txt", "\n", "test=", "has no ids"),
        ("a.csv", "cif\nx\n", "test=", "no column of ids"),
        ("a.csv", "id\nx\n", "", "which side"),
        ("a.csv", "id,split\nx,train\nx,test\n", "", "'x' is on two sides"),
        ("a.csv", "id,cif\nx,y\nz\n", "test=", "superfluous|missing cells|1 cells"),
        ("a.json", "{", "test=", "is not JSON"),
        ("a.json", "3", "test=", "expected a list of ids"),
    ],
)
def test_lists_that_cannot_be_used_are_named(tmp_path, name, text, side, message):
    path = write(tmp_path / name, text)
    with pytest.raises(ValueError, match=message):
        split_lists.read_lists([side + path])


def test_no_such_list_is_said_before_anything_is_read(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing"):
        prepare.prepare(
            prepare.PrepareOptions(
                source="cif_csv",
                input="nothing.csv",
                output=str(tmp_path / "data"),
                split_ids=(f"test={tmp_path / 'missing.csv'}",),
            )
        )


def test_prepare_makes_exactly_the_split_of_the_lists(tmp_path):
    anions = ["F", "Cl", "Br", "I", "Se", "S"]
    rows = [["material_id", "cif", "heat"]]
    for i, anion in enumerate(anions):
        salt = Structure(
            Lattice.cubic(5.0 + 0.1 * i), ["Na", anion], [[0, 0, 0], [0.5] * 3]
        )
        rows.append([f"{i:03d}", salt.to(fmt="cif"), -1.0])
    # A polymorph of the first, and a copy of the second.
    other = Structure(Lattice.cubic(4.0), ["Na", "F"], [[0, 0, 0], [0.5, 0.5, 0.0]])
    rows.append(["poly", other.to(fmt="cif"), -0.9])
    rows.append(["copy", rows[2][1], -1.0])
    with (tmp_path / "all.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    train = write(tmp_path / "train.csv", "material_id\n000\n001\ncopy\n002\n")
    test = write(tmp_path / "test.txt", "003\npoly\nlost\n")
    report = prepare.prepare(
        prepare.PrepareOptions(
            source="cif_csv",
            input=str(tmp_path / "all.csv"),
            output=str(tmp_path / "data"),
            energy_column="heat",
            split_ids=(f"train={train}", f"test={test}"),
            num_workers=1,
            figures=False,
        )
    )
    dataset = datasets.open_dataset(tmp_path / "data")
    ids = np.array(dataset.id.to_pylist())
    assert set(ids[dataset.indices("train")]) == {"000", "001", "002"}
    assert set(ids[dataset.indices("test")]) == {"003", "poly"}
    assert len(dataset.indices("val")) == 0 and len(dataset) == 5
    assert report["dropped"] == {"drop_duplicates": 1, "split_ids": 2}, report
    assert report["formulas_on_two_sides"] == 1
    text = reports.format_report(report)
    assert "2 of 3 found; not: lost" in text
    # Dropped as a duplicate, which --nodrop_duplicates prevents.
    assert "3 of 4 found; not: copy" in text
    assert dataset.info["report"] == json.loads(json.dumps(report))
