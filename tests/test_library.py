"""The documentation's use from Python."""

import pathlib
import re
import runpy

import pytest
import tiny

from crystaljax.relaxation import ase_relaxation
from crystaljax.system import workers

pytestmark = pytest.mark.usefixtures("forked_workers")

PAGE = pathlib.Path(__file__).parents[1] / "docs/python.md"


def python_block():
    return re.search(r"```python\n(.*?)```", PAGE.read_text(), re.S)[1]


def test_from_conditions_to_dft_inputs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tiny.write_dataset(tmp_path / "alloys")
    tiny.write_run(
        tmp_path / "runs/smoke",
        tiny.config("ddim", tmp_path / "alloys"),
    )
    # A process that has to start takes longer than what it has to do here.
    monkeypatch.setattr(workers, "default_num_workers", lambda: 1)
    # Samples of a network that has learned nothing take hundreds of steps to relax.
    monkeypatch.setitem(vars(ase_relaxation.PRESETS["default"]), "max_steps", 30)
    code = python_block()
    assert len(code.splitlines()) <= 23

    pathlib.Path("loop.py").write_text(code)
    found = runpy.run_path("loop.py")

    # Two formulas, one space group (the only one in training), three energies.
    assert len(found["samples"].crystals) == 6
    table = found["screened"].table()
    assert len(table["rejected_reason"]) == 6
    ranked = sum(rank > 0 for rank in table["rank"])
    assert len(found["best"]) == ranked
    assert all(
        bool(reason) or rank
        for reason, rank in zip(table["rejected_reason"], table["rank"], strict=True)
    )
    assert "6" in capsys.readouterr().out
    for folder in pathlib.Path("vasp").glob("*"):
        assert "ENCUT = 500" in (folder / "INCAR").read_text()
    assert len(list(pathlib.Path("vasp").glob("*/POSCAR"))) == ranked
