import csv
import importlib.metadata
import json
import subprocess
import sys

import numpy as np
import pytest
from pymatgen.core import Structure
from pymatgen.io.vasp import Incar, Poscar

from crystaljax import export
from crystaljax.crystals import (
    bridge,
    elements,
    structure,
    structure_files,
    symmetry_search,
)
from crystaljax.dft import handover
from crystaljax.matching import matcher

FORMULAS = ["Cu3Au1", "Cu1Au1", "Ni2Pt2", "Cu1Pt3"]


def cell(formula, seed=0):
    """A slightly distorted fcc superstructure."""
    numbers = elements.formula_atomic_numbers(formula).astype(int)
    fcc = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    coords = fcc[: len(numbers)] if len(numbers) > 2 else fcc[[0, 3]]
    shift = np.random.default_rng(seed).uniform(-0.005, 0.005, coords.shape)
    return structure.Crystal(numbers, (coords + shift) % 1, 3.8 * np.eye(3))


def screening(folder, names=("a", "b/../c", "d", "D"), broken=()):
    """The folder of a screening: ranks as given, and the samples it had."""
    crystals = [cell(formula, seed) for seed, formula in enumerate(FORMULAS)]
    for i in broken:
        crystals[i] = structure.Crystal(
            crystals[i].atomic_numbers, crystals[i].frac_coords * 0, np.eye(3) * 3.8
        )
    table = {
        "name": list(names),
        "formula": FORMULAS,
        "requested_space_group": [221, 123, 123, 221],
        "relaxed_formation_energy": [-0.05, -0.04, -0.03, 0.1],
        "relaxed_energy_model": ["ASE EMT"] * 4,
        "relaxed_energy_above_hull": [0.0, 0.01, 0.02, 0.2],
        "known_as": ["", "known-7", "", ""],
        "rank": [1, 2, 3, 4],
    }
    table["relaxed_space_group_0.1"] = table["requested_space_group"]
    for suffix in ("csv", "parquet"):
        structure_files.write_table(folder / f"screening.{suffix}", table)
    infos = [
        {key.replace(".", "_"): values[i] for key, values in table.items()}
        for i in range(len(crystals))
    ]
    structure_files.write_extxyz(folder / "candidates.extxyz", crystals, infos)
    samples = folder.parent / "samples.extxyz"
    generated = [
        structure.Crystal(c.atomic_numbers, c.frac_coords, 1.1 * c.lattice)
        for c in crystals
    ]
    infos = [{"name": name} for name in reversed(names)]
    structure_files.write_extxyz(samples, generated[::-1], infos)
    request = {"request": {"samples": str(samples)}}
    (folder / "screening.json").write_text(json.dumps(request))
    return str(folder)


@pytest.fixture
def screened(tmp_path):
    return screening(tmp_path / "screening")


def run(tmp_path, screened, **options):
    output = tmp_path / "dft"
    manifest = export.export(
        export.ExportOptions(screening=screened, output=str(output), **options)
    )
    return manifest, output


def read_manifest(output):
    with (output / "manifest.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_vasp_folders_hold_the_candidates_best_first(tmp_path, screened):
    manifest, output = run(tmp_path, screened)
    folders = ["001_a", "002_b_.._c", "003_d", "004_D"]
    assert manifest["folder"] == folders
    assert sorted(p.name for p in output.iterdir() if p.is_dir()) == folders
    for folder, formula, seed in zip(folders, FORMULAS, range(4), strict=True):
        names = {path.name for path in (output / folder).iterdir()}
        assert names == {"INCAR", "KPOINTS", "POSCAR", "POTCAR.spec"}
        found = bridge.from_pymatgen(
            Poscar.from_file(output / folder / "POSCAR").structure
        )
        rms = matcher.match(found, cell(formula, seed), [matcher.TOLERANCES["paper"]])
        assert rms.rms[0] == pytest.approx(0, abs=1e-6)
        assert Incar.from_file(output / folder / "INCAR")["ENCUT"] == 500
    rows = read_manifest(output)
    assert [row["folder"] for row in rows] == folders
    assert [row["name"] for row in rows] == ["a", "b/../c", "d", "D"]
    assert (
        rows[1]["known_as"] == "known-7" and rows[1]["requested_space_group"] == "123"
    )
    assert float(rows[3]["relaxed_energy_above_hull"]) == 0.2
    assert rows[0]["relaxed_space_group_0.1"] == "221"
    record = json.loads((output / "export.json").read_text())
    assert record["request"]["top"] == 50
    assert record["versions"]["pymatgen"] == importlib.metadata.version("pymatgen")


def test_what_was_handed_over_is_read_back(tmp_path, screened):
    _, output = run(tmp_path, screened, top=2, references="elements")
    handed = handover.read_manifest(output)
    assert [each.folder for each in handed] == [
        "001_a",
        "002_b_.._c",
        "reference_Cu",
        "reference_Au",
    ]
    np.testing.assert_allclose(
        handed[1].crystal.frac_coords, cell(FORMULAS[1], 1).frac_coords, atol=1e-7
    )
    assert handed[0].row["relaxed_energy_above_hull"] == 0.0
    assert handed[3].row["relaxed_energy_above_hull"] is None
    assert handover.read_manifest(tmp_path) == []
    (output / "manifest.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="expected folder, kind"):
        handover.read_manifest(output)


def test_candidates_are_chosen(tmp_path, screened):
    options = {"format": "poscar", "overwrite": True}
    manifest, output = run(tmp_path, screened, top=2, **options)
    assert manifest["folder"] == ["001_a.vasp", "002_b_.._c.vasp"]
    manifest, output = run(tmp_path, screened, new_only=True, **options)
    assert manifest["name"] == ["a", "d", "D"]
    # Ranks do not change with the choice.
    assert manifest["folder"] == ["001_a.vasp", "003_d.vasp", "004_D.vasp"]
    manifest, output = run(tmp_path, screened, max_above_hull=0.015, **options)
    assert manifest["name"] == ["a", "b/../c"]
    assert len(list(output.glob("*.vasp"))) == 2
    with pytest.raises(ValueError, match="none of the 4 candidates"):
        run(tmp_path, screened, max_above_hull=-1.0, **options)


@pytest.mark.parametrize("format", ["cif", "poscar", "extxyz", "qe"])
def test_other_formats_are_read_by_other_tools(tmp_path, screened, format):
    manifest, output = run(tmp_path, screened, format=format)
    assert not any(manifest["problem"])
    crystals, infos = structure_files.read_extxyz(output / "candidates.extxyz")
    assert [info["name"] for info in infos] == ["a", "b/../c", "d", "D"]
    if format == "extxyz":
        assert infos[3]["relaxed_energy_above_hull"] == 0.2
        return
    for place, crystal in zip(manifest["folder"], crystals, strict=True):
        path = output / place
        if format == "qe":
            text = (path / "pw.in").read_text()
            assert (
                "vc-relax" in text and f"nat              = {crystal.num_sites}" in text
            )
            continue
        found = bridge.from_pymatgen(
            Structure.from_str(path.read_text(), "cif" if format == "cif" else "poscar")
        )
        assert matcher.match(found, crystal, [matcher.TOLERANCES["paper"]]).rms[
            0
        ] == pytest.approx(0, abs=1e-5)


def test_symmetrized_and_as_generated(tmp_path, screened):
    relaxed = cell(FORMULAS[0], 0)
    assert symmetry_search.find_space_group(relaxed, 0.001) == 1
    run(tmp_path, screened, format="extxyz", structures="symmetrized")
    frames, _ = structure_files.read_extxyz(tmp_path / "dft" / "candidates.extxyz")
    assert symmetry_search.find_space_group(frames[0], 0.001) == 221
    run(
        tmp_path,
        screened,
        format="extxyz",
        structures="as_generated",
        top=None,
        overwrite=True,
    )
    frames, infos = structure_files.read_extxyz(tmp_path / "dft" / "candidates.extxyz")
    assert [info["name"] for info in infos] == ["a", "b/../c", "d", "D"]
    for i, frame in enumerate(frames):
        np.testing.assert_allclose(frame.lattice, 1.1 * 3.8 * np.eye(3))
        np.testing.assert_allclose(
            frame.frac_coords, cell(FORMULAS[i], i).frac_coords, atol=1e-7
        )


def test_lost_samples_are_named(tmp_path, screened):
    (tmp_path / "screening" / "screening.json").unlink()
    with pytest.raises(ValueError, match="does not say which samples"):
        run(tmp_path, screened, structures="as_generated")


def test_candidate_that_cannot_be_written_costs_its_row(tmp_path):
    path = screening(tmp_path / "screening", broken=[1])
    manifest, output = run(tmp_path, path, references="elements")
    assert manifest["folder"][:4] == ["001_a", "", "003_d", "004_D"]
    assert "shortest distance" in manifest["problem"][1]
    rows = read_manifest(output)
    assert "shortest distance" in rows[1]["problem"] and rows[1]["name"] == "b/../c"
    assert [each.row["name"] for each in handover.read_manifest(output)][:3] == [
        "a",
        "d",
        "D",
    ]
    text = export.report(manifest, export.ExportOptions(screening=path, output="x"))
    assert "x: 3 candidates and 4 reference structures as vasp" in text
    assert "not written: b/../c: the shortest distance" in text


def test_elements_that_ase_does_not_know_cost_their_row(tmp_path):
    crystals = [cell("Cu3Au1"), cell("B1Cu3")]
    structure_files.write_extxyz(tmp_path / "some.extxyz", crystals, [{}, {}])
    some = str(tmp_path / "some.extxyz")
    manifest, output = run(tmp_path, some, references="elements")
    assert manifest["name"] == ["some-0", "some-1", "B", "Cu", "Au"]
    assert "B has no reference structure" in manifest["problem"][2]
    assert manifest["folder"][2] == ""
    found = Poscar.from_file(output / "reference_Cu" / "POSCAR").structure
    assert found.get_space_group_info()[1] == 225
    # Of the user's own.
    boron = tmp_path / "boron"
    boron.mkdir()
    (boron / "B.cif").write_text(structure_files.cif_text(cell("B4"), "B"))
    manifest, output = run(tmp_path, some, references=str(boron), overwrite=True)
    assert manifest["folder"][2] == "reference_B" and not any(manifest["problem"])
    assert Poscar.from_file(output / "reference_B" / "POSCAR").site_symbols == ["B"]


def test_nothing_is_overwritten_unless_told_to_and_results_never(tmp_path, screened):
    _, output = run(tmp_path, screened)
    with pytest.raises(FileExistsError, match="is there already"):
        run(tmp_path, screened)
    run(tmp_path, screened, top=1, overwrite=True)
    assert [p.name for p in output.iterdir() if p.is_dir()] == ["001_a"]
    (output / "001_a" / "OUTCAR").write_text("180,000 CPU hours")
    with pytest.raises(FileExistsError, match="other files than inputs"):
        run(tmp_path, screened, overwrite=True)
    assert (output / "001_a" / "OUTCAR").exists()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "gaussian"}, "unknown format 'gaussian'"),
        ({"structures": "relaxe"}, "unknown structures"),
        ({"preset": "mit"}, "unknown preset"),
        ({"incar": ("ENCTU=1",)}, "ENCUT"),
        ({"format": "qe", "incar": ("ENCUT=600",)}, "goes with --format=vasp"),
        ({"espresso": ("ecutwfc=80",)}, "goes with --format=qe"),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(
    tmp_path, screened, options, message
):
    with pytest.raises(ValueError, match=message):
        run(tmp_path, screened, **options)
    assert not (tmp_path / "dft").exists()
    with pytest.raises(FileNotFoundError):
        run(tmp_path, str(tmp_path / "none"))


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "crystaljax.export", *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
    )


def test_command_prints_what_it_did(tmp_path, screened, capsys):
    output = tmp_path / "dft"
    arguments = [f"--screening={screened}", f"--output={output}", "--top=2"]
    done = command(*arguments, "--incar=ENCUT=520,ISPIN=1", "--preset=mp")
    assert done.returncode == 0, done.stderr
    assert "2 candidates and 0 reference structures as vasp, preset mp" in done.stdout
    assert "POTCAR.spec" in done.stdout and "--references=elements" in done.stdout
    incar = Incar.from_file(output / "001_a" / "INCAR")
    assert incar["ENCUT"] == 520 and incar["ISPIN"] == 1
    with pytest.raises(SystemExit, match=r"^error:.* is there already"):
        export.main(arguments)
    export.main(["--help"])
    shown = capsys.readouterr().out
    assert "--[no]new_only" in shown and "--pseudopotentials" in shown
