"""The model of the package: what it is asked, and what it answers."""

import json
import pathlib

import numpy as np
import pandas as pd
import pytest

import crystaljax
from crystaljax import list_models, sample
from crystaljax.crystals import structure_files, symmetry_search, validity
from crystaljax.system import errors
from crystaljax.training import model_files

FOLDER = pathlib.Path(crystaljax.__file__).parent / "pretrained"


def test_it_is_small_whole_and_says_what_it_is(capsys):
    assert model_files.shipped() == {"mp": FOLDER / "mp"}
    card = model_files.verify(FOLDER / "mp")
    size = sum(path.stat().st_size for path in (FOLDER / "mp").iterdir())
    assert size < 12 * 2**20
    assert len(card["elements"]) >= 85
    list_models.main([])
    text = capsys.readouterr().out
    for word in ("Materials Project", "CC BY 4.0", "not for", "measured"):
        assert word in text
    assert max(map(len, text.splitlines())) <= 88


def test_nothing_of_it_is_code_or_a_structure():
    names = {path.name for path in (FOLDER / "mp").iterdir()}
    assert names == {*model_files.FILES, *model_files.OPTIONAL, model_files.CARD}
    with np.load(FOLDER / "mp" / "positions.npz", allow_pickle=False) as file:
        assert not any("coords" in name or "lattice" in name for name in file.files)
    vocabulary = json.loads((FOLDER / "mp" / "vocabulary.json").read_text())
    assert vocabulary["dataset"] is None


def test_formulas_alone_become_the_crystals_that_are_known(tmp_path, capsys):
    output = tmp_path / "samples"
    sample.main(["--formulas=BaTiO3,NaCl,Li2O,Ti2O4", f"--output={output}"])
    shown = capsys.readouterr().out
    table = pd.read_csv(output / "samples.csv")
    assert table.space_group.tolist() == [221, 225, 225, 136]
    assert table.wyckoff_positions.tolist() == [
        "Ba:1a Ti:1b O:3c",
        "Na:4a Cl:4b",
        "O:4a Li:8c",
        "Ti:2a O:4f",
    ]
    assert "Pm-3m (221)" in shown and "Ba:1a Ti:1b O:3c" in shown
    # Lattice constants of the experiment, Å. Li2O's comes out too long.
    known = [4.00, 5.64 / 2**0.5, 4.61 / 2**0.5, 4.59]
    np.testing.assert_array_less(np.abs(table.a / known - 1), [0.05, 0.05, 0.15, 0.05])
    made, _ = structure_files.read_extxyz(output / "samples.extxyz")
    for crystal, group in zip(made, table.space_group, strict=True):
        assert validity.check(crystal).valid
        assert symmetry_search.find_space_group(crystal, 1e-3) == group


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"formulas": ("PuO2", "Rn1O2")}, "Rn, which the training structures never"),
        ({"formulas": ("Si200",)}, "200 sites, but the model holds"),
        (
            {"formulas": ("SiO2",), "space_groups": "227"},
            "expected another group|cells",
        ),
        ({"formulas": ("Xx2",)}, "Xx2"),
        ({"formulas": ("TaB2",), "checkpoint": 3}, "leave `checkpoint=` out"),
    ],
)
def test_what_it_cannot_answer_is_said(changes, message):
    with pytest.raises((errors.UserError, FileNotFoundError), match=message):
        sample.sample(sample.SampleOptions(**changes))
