import bz2
import gzip
import json
import lzma
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pyarrow.csv
import pyarrow.parquet
import pytest
import vasprun_xml
from pymatgen.analysis import compatibility
from pymatgen.analysis.phase_diagram import PhaseDiagram
from pymatgen.entries.computed_entries import ComputedEntry
from pymatgen.io.vasp.outputs import Vasprun

from crystaljax import collect, export
from crystaljax.crystals import elements, structure, structure_files
from crystaljax.dft import vasp_runs
from crystaljax.hull import convex_hull

# Total energies of the elements, eV/atom.
ELEMENTS = {"Cu": -3.72, "Au": -3.27}
MODEL = "VASP PBE"


def cell(formula, length=3.8):
    numbers = elements.formula_atomic_numbers(formula).astype(int)
    fcc = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    return structure.Crystal(numbers, fcc[: len(numbers)], length * np.eye(3))


def total_energy(crystal, formation_energy):
    """eV per cell."""
    counts = elements.parse_formula(elements.cell_formula(crystal.atomic_numbers))
    reference = sum(count * ELEMENTS[symbol] for symbol, count in counts.items())
    return reference + formation_energy * crystal.num_sites


def write_run(folder, formula, formation_energy, **options):
    """A relaxation in two steps, the last of which has this formation energy."""
    start, end = cell(formula, 3.9), cell(formula)
    energy = total_energy(end, formation_energy)
    options.setdefault("crystals", [start, end])
    energies = options.pop("energies", [energy + 0.3, energy])
    return vasprun_xml.write_run(folder, start, energies, **options)


def write_elements(root, **options):
    for symbol in ELEMENTS:
        write_run(root / f"reference_{symbol}", f"{symbol}4", 0.0, **options)


def write_hull(path, model=MODEL):
    known = convex_hull.build_hull([("Cu1Au1", -0.10, "known")], model)
    path.write_text(json.dumps(convex_hull.to_dict(known)))
    return str(path)


def run_of(folder, name="vasprun.xml"):
    return vasp_runs.read_run((folder.name, folder / name))


def collect_rows(runs, **options):
    options = collect.CollectOptions(runs=str(runs), output="unused", **options)
    collection = collect.collect(options)
    return {row["folder"]: row for row in collection.rows()}


# ------------------------------------------------------------------------ reading runs


def test_run_is_read_as_pymatgen_reads_it(tmp_path):
    forces = np.array([[0.003, 0, 0], [0, -0.004, 0.003], [0, 0, 0], [0, 0, 0]])
    path = write_run(tmp_path, "Cu3Au1", -0.05, forces=forces)
    expected = Vasprun(path, parse_dos=False, parse_potcar_file=False)
    assert expected.converged and len(expected.ionic_steps) == 2
    run = run_of(tmp_path)
    assert run.converged and run.problem == ""
    assert run.num_steps == 2 and run.cutoff == 500
    assert run.energy * 4 == pytest.approx(expected.final_energy)
    assert run.energy == pytest.approx(total_energy(cell("Cu3Au1"), -0.05) / 4)
    assert run.max_force == pytest.approx(0.005)
    assert run.energy_model == MODEL
    np.testing.assert_allclose(run.crystal.lattice, 3.8 * np.eye(3))
    assert elements.cell_formula(run.crystal.atomic_numbers) == "Au1Cu3"
    assert run.potentials == {
        "Cu": "PAW_PBE Cu 08Apr2002",
        "Au": "PAW_PBE Au 08Apr2002",
    }


@pytest.mark.parametrize("ending", [".gz", ".bz2", ".xz"])
def test_compressed_runs_are_read(tmp_path, ending):
    path = write_run(tmp_path, "Cu3Au1", -0.05)
    compress = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
    path.with_name(f"vasprun.xml{ending}").write_bytes(
        compress[ending](path.read_bytes())
    )
    path.unlink()
    ((folder, found),) = vasp_runs.find_runs(tmp_path)
    assert vasp_runs.read_run((folder, found)).converged


@pytest.mark.parametrize(
    ("options", "model"),
    [
        ({}, "VASP PBE"),
        # Older releases write what decides as "--".
        ({"gga": "--"}, "VASP PBE"),
        ({"gga": "PS"}, "VASP PBEsol"),
        ({"metagga": "R2SCAN"}, "VASP R2SCAN"),
        ({"hubbards": {"Cu": 4.0}}, "VASP PBE+U (Cu 4 eV)"),
        (
            {"gga": "--", "potentials": ["PAW Au 1Jan2000", "PAW Cu 1Jan2000"]},
            "VASP LDA",
        ),
    ],
)
def test_functional_is_the_energy_model(tmp_path, options, model):
    write_run(tmp_path, "Cu3Au1", -0.05, **options)
    assert run_of(tmp_path).energy_model == model


def test_runs_that_did_not_converge_say_so(tmp_path):
    write_run(tmp_path / "ionic", "Cu3Au1", -0.05, nsw=2)
    run = run_of(tmp_path / "ionic")
    assert not run.converged and run.problem == "not converged ionically in 2 steps"
    assert np.isfinite(run.energy)
    # STOPCAR ends a run after any step.
    pulled = np.array([[0.9, 0, 0], [-0.9, 0, 0], [0, 0, 0], [0, 0, 0]])
    write_run(tmp_path / "stopped", "Cu3Au1", -0.05, forces=pulled)
    run = run_of(tmp_path / "stopped")
    assert not run.converged and run.problem == (
        "not converged ionically in 2 steps: the largest force is 0.9 eV/Å, EDIFFG = "
        "-0.01"
    )
    write_run(tmp_path / "electronic", "Cu3Au1", -0.05, nelm=3)
    run = run_of(tmp_path / "electronic")
    assert not run.converged and "electronically in 3 steps" in run.problem
    write_run(tmp_path / "nan", "Cu3Au1", -0.05, energies=[0.0, float("nan")])
    run = run_of(tmp_path / "nan")
    assert not run.converged and "not finite" in run.problem and np.isnan(run.energy)


FORCES = np.array([[0.2, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]])
STRESS = np.diag([40.0, 40.0, 40.0])  # kB
SHEAR = np.diag([40.0, -20.0, -20.0])


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        # No relaxation at all.
        ({"tags": {"NSW": 0, "IBRION": -1}}, "static run (NSW = 0, IBRION = -1)"),
        ({"tags": {"NSW": 0}}, "static run (NSW = 0, IBRION = 2)"),
        ({"tags": {"IBRION": -1}}, "static run (NSW = 99, IBRION = -1)"),
        ({"tags": {"IBRION": 0}}, "molecular dynamics (IBRION = 0)"),
        ({"tags": {"IBRION": 0, "NSW": 2}}, "molecular dynamics (IBRION = 0)"),
        ({"tags": {"IBRION": 6}}, "vibrations (IBRION = 6)"),
        ({"tags": {"IBRION": 44}}, "a transition state (IBRION = 44)"),
        ({"tags": {"IBRION": 40}}, "a reaction path (IBRION = 40)"),
        ({"tags": {"IBRION": 12}}, "no minimizer (IBRION = 12)"),
        ({"tags": {"IBRION": 1}}, ""),
        ({"tags": {"IBRION": 3}}, ""),
        ({"tags": {"NSW": 1}, "num_steps": 1}, "one step (NSW = 1)"),
        ({"tags": {"EDIFFG": 0.0}}, "aims at nothing (EDIFFG = 0)"),
        ({"tags": {"EDIFFG": 0.0}, "nsw": 2}, "aims at nothing (EDIFFG = 0)"),
        ({"free": np.zeros((4, 3))}, "nothing may move (ISIF = 2, all sites fixed)"),
        # Forces.
        ({"forces": FORCES}, "the largest force is 0.2 eV/Å, EDIFFG = -0.01"),
        ({"forces": FORCES, "tags": {"EDIFFG": -0.3}}, ""),
        ({"forces": FORCES * np.nan}, "the largest force is nan"),
        ({"forces": FORCES, "tags": {"ISIF": 7}}, ""),
        # Energies.
        ({"tags": {"EDIFFG": 0.01}}, "the energy changed by 0.3 eV, EDIFFG = 0.01"),
        ({"tags": {"EDIFFG": 0.4}, "forces": FORCES}, ""),
        ({"tags": {"EDIFFG": 0.4}, "num_steps": 1}, "one step has no change"),
        # Stress, as far as the cell may follow it.
        ({"stress": STRESS}, ""),
        ({"stress": STRESS, "tags": {"ISIF": 3}}, "the stress is 0.34 eV/atom"),
        ({"stress": STRESS / 100, "tags": {"ISIF": 3}}, ""),
        ({"stress": STRESS, "tags": {"ISIF": 4}}, ""),
        ({"stress": SHEAR, "tags": {"ISIF": 4}}, "the stress is 0.34 eV/atom"),
        ({"stress": SHEAR, "tags": {"ISIF": 8}}, ""),
        ({"stress": STRESS, "tags": {"ISIF": 3, "PSTRESS": 40.0}}, ""),
        # Selective dynamics.
        ({"forces": FORCES, "free": np.eye(4)[:, :3] == 0}, ""),
        ({"forces": FORCES, "free": np.eye(4)[:, 1:] == 0}, "force is 0.2 eV/Å"),
    ],
)
def test_only_what_meets_ediffg_is_relaxed(tmp_path, options, problem):
    options = dict(options)
    if options.pop("num_steps", 2) == 1:
        options |= {"crystals": [cell("Cu3Au1")], "energies": [-15.0]}
    write_run(tmp_path, "Cu3Au1", -0.05, **options)
    run = run_of(tmp_path)
    assert problem in run.problem
    assert run.converged == (not problem) == (not run.problem)


def test_fixed_directions_are_those_of_the_lattice_vectors(tmp_path):
    # a and b at 60°: a force along b, and one across it, with b alone held.
    lattice = np.array([[4.0, 0, 0], [2, 2 * np.sqrt(3), 0], [0, 0, 4]])
    crystal = structure.Crystal(np.array([29]), np.zeros((1, 3)), lattice)
    free = [[True, False, True]]
    along = lattice[1] / 4
    across = np.array([np.sqrt(3) / 2, -0.5, 0])
    for force, expected in ((along, 0.0), (across, 2 / np.sqrt(3))):
        vasprun_xml.write_run(
            tmp_path, crystal, [-3.0, -3.1], forces=force[None], free=free
        )
        assert run_of(tmp_path).max_force == pytest.approx(expected, abs=1e-6)


def test_runs_that_are_not_relaxed_stay_out_of_the_hull(tmp_path):
    runs = tmp_path / "runs"
    write_elements(runs)
    write_run(runs / "good", "Cu3Au1", -0.05)
    write_run(runs / "static", "Cu1Au1", -0.9, tags={"NSW": 0, "IBRION": -1})
    write_run(runs / "stopped", "Cu1Au3", -0.9, forces=FORCES)
    hull = write_hull(tmp_path / "hull.json")
    options = collect.CollectOptions(runs=str(runs), output="unused", hull=hull)
    collection = collect.collect(options)
    rows = {row["folder"]: row for row in collection.rows()}
    assert not rows["static"]["holds"] and not rows["stopped"]["holds"]
    assert "static run" in rows["static"]["problem"]
    assert rows["stopped"]["formation_energy_dft"] == pytest.approx(-0.9)
    assert collection.hull is not None
    names = {entry.id for entry in collection.hull.entries}
    assert "good" in names and not names & {"static", "stopped"}


def test_an_element_that_is_not_relaxed_is_no_reference(tmp_path):
    write_elements(tmp_path)
    write_run(tmp_path / "reference_Cu", "Cu4", 0.0, tags={"NSW": 0, "IBRION": -1})
    write_run(tmp_path / "alloy", "Cu3Au1", -0.05)
    row = collect_rows(tmp_path)["alloy"]
    assert np.isnan(row["formation_energy_dft"])
    assert "Cu has no reference energy" in row["problem"]


@pytest.mark.parametrize("is_compressed", [False, True])
def test_file_cut_off_anywhere_is_never_an_error_nor_converged(tmp_path, is_compressed):
    text = write_run(tmp_path / "whole", "Cu3Au1", -0.05).read_bytes()
    name = "vasprun.xml.gz" if is_compressed else "vasprun.xml"
    content = gzip.compress(text) if is_compressed else text
    num_steps = set()
    # To the middle of the last tag.
    for end in np.linspace(0, len(content) - 5, 60).astype(int):
        path = tmp_path / "cut" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content[:end])
        run = run_of(path.parent, name)
        assert not run.converged and run.problem
        assert np.isfinite(run.energy) == (run.num_steps > 0)
        num_steps.add(run.num_steps)
    assert num_steps == {0, 1, 2}


def test_energy_of_a_partial_run_is_that_of_its_last_complete_step(tmp_path):
    path = write_run(tmp_path, "Cu3Au1", -0.05)
    text = path.read_text()
    path.write_text(text[: text.rindex("<calculation>") + 200])
    run = run_of(tmp_path)
    assert run.num_steps == 1 and "ends early, after 1 steps" in run.problem
    assert run.energy * 4 == pytest.approx(total_energy(cell("Cu3Au1"), -0.05) + 0.3)
    np.testing.assert_allclose(run.crystal.lattice, 3.9 * np.eye(3))


def test_other_files_cost_their_run_alone(tmp_path):
    (tmp_path / "vasprun.xml").write_text("")
    assert run_of(tmp_path).problem == "vasprun.xml is empty"
    for text in ("no XML", "<a><b></b></a>", "<modeling></modeling>"):
        (tmp_path / "vasprun.xml").write_text(text)
        assert "cannot be read" in run_of(tmp_path).problem


def test_folders_are_searched(tmp_path):
    write_run(tmp_path / "b", "Cu3Au1", 0.0)
    # Of custodian: the last of a series.
    for name in ("vasprun.xml.relax1", "vasprun.xml.relax2", "vasprun.xml.relax10"):
        write_run(tmp_path / "a" / "runs", "Cu3Au1", 0.0, name=name)
    write_run(tmp_path / "c", "Cu3Au1", 0.0, name="vasprun.xml.relax1")
    write_run(tmp_path / "c", "Cu3Au1", 0.0)
    for name in ("d", "a"):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "INCAR").write_text("ENCUT = 500")
    (tmp_path / "e").mkdir()
    found = {
        folder: path.name if path else None
        for folder, path in vasp_runs.find_runs(tmp_path)
    }
    assert found == {
        "a/runs": "vasprun.xml.relax10",
        "b": "vasprun.xml",
        "c": "vasprun.xml",
        # Started neither here nor below.
        "d": None,
    }
    with pytest.raises(FileNotFoundError, match="expected one with runs"):
        vasp_runs.find_runs(tmp_path / "none")


# --------------------------------------------------------------- energies and the hull


def test_energies_worked_by_hand(tmp_path):
    runs = tmp_path / "runs"
    write_elements(runs)
    write_run(runs / "stable", "Cu3Au1", -0.08)
    write_run(runs / "meta", "Cu3Au1", -0.02)
    write_run(runs / "high", "Cu1Au1", 0.05)
    write_run(runs / "partial", "Cu3Au1", -0.5, nsw=2)
    known = write_hull(tmp_path / "hull.json")
    rows = collect_rows(runs, hull=known, tolerance=0.04)
    # At Cu3Au the hull of AuCu at -0.1 is at -0.05.
    expected = {"stable": (-0.08, -0.03), "meta": (-0.02, 0.03), "high": (0.05, 0.15)}
    expected |= {"reference_Cu": (0, 0), "reference_Au": (0, 0)}
    expected |= {"partial": (-0.5, -0.45)}
    for folder, values in expected.items():
        found = [
            rows[folder][key]
            for key in ("formation_energy_dft", "energy_above_hull_dft")
        ]
        np.testing.assert_allclose(found, values, atol=1e-8)
    held = {folder for folder, row in rows.items() if row["holds"]}
    assert held == {"stable", "meta", "reference_Cu", "reference_Au"}
    # Lowest first, whatever became of it.
    assert list(rows)[:2] == ["partial", "stable"]
    rows = collect_rows(runs, hull=known, tolerance=0.0)
    assert rows["stable"]["holds"] and not rows["meta"]["holds"]


def test_results_join_the_hull_and_partial_ones_do_not(tmp_path):
    runs = tmp_path / "runs"
    write_elements(runs)
    write_run(runs / "stable", "Cu3Au1", -0.08)
    write_run(runs / "partial", "Cu3Au1", -0.5, nsw=2)
    options = collect.CollectOptions(
        runs=str(runs),
        output=str(tmp_path / "out"),
        hull=write_hull(tmp_path / "h.json"),
    )
    collect.write(collect.collect(options), options)
    both = convex_hull.load_hull(str(tmp_path / "out" / "hull.json"))
    assert both.energy_model == MODEL
    assert {entry.id for entry in both.entries} == {
        "known",
        "stable",
        "reference_Cu",
        "reference_Au",
    }
    found = convex_hull.energy_above_hull(both, ["Cu3Au1"], [-0.08], MODEL)
    assert found == pytest.approx([0.0], abs=1e-8)


# Of MPRelaxSet: potentials, cutoff, spin, aspherical terms, and its grid of k-points.
MP_TAGS = {"ISPIN": 2, "LASPH": True, "ISIF": 3}
MP_INPUTS = {
    "cutoff": 520.0,
    "tags": MP_TAGS,
    "divisions": (9, 9, 9),
}
MP_ENERGIES = {"Mn": -9.16, "O": -4.95}  # eV/atom


def oxide(length=4.4):
    """MnO, as rock salt."""
    coords = np.array([[0, 0, 0], [0.5, 0.5, 0.5]])
    lattice = length / 2 * (np.ones((3, 3)) - np.eye(3))
    return structure.Crystal(np.array([25, 8]), coords, lattice)


def write_mp_hull(path):
    """The elements and Mn3O4, as the Materials Project gives them, without crystals."""
    entries = []
    for formula, energy in {**MP_ENERGIES, "Mn3O4": -8.0}.items():
        hubbards = {"Mn": 3.9, "O": 0.0} if formula == "Mn3O4" else {}
        run_type = "GGA+U" if hubbards else "GGA"
        counts = elements.parse_formula(formula)
        entries.append(
            {
                "composition": counts,
                "energy": energy * sum(counts.values()),
                "entry_id": f"mp-{len(entries)}-{run_type}",
                "parameters": {"run_type": run_type, "hubbards": hubbards},
                "data": {"oxide_type": "oxide"},
            }
        )
    path.write_text(json.dumps(entries))
    return str(path)


def write_oxide(folder, energy=-17.0, **changes):
    options = {
        **MP_INPUTS,
        "hubbards": {"Mn": 3.9},
        "potentials": vasprun_xml.titles(["Mn", "O"], {"Mn": "_pv"}),
        **changes,
    }
    return vasprun_xml.write_run(folder, oxide(), [energy + 0.1, energy], **options)


def test_runs_with_mp_inputs_go_on_its_hull_with_its_corrections(tmp_path):
    runs = tmp_path / "runs"
    write_oxide(runs / "fits")
    hull = write_mp_hull(tmp_path / "mp.json")
    options = collect.CollectOptions(runs=str(runs), output="unused", hull=hull)
    collection = collect.collect(options)
    (row,) = collection.rows()
    assert row["problem"] == "" and row["converged"]
    assert row["energy_model_dft"] == "Materials Project PBE(+U), MP2020"
    # Of MP2020, per atom of O and of Mn with U: -0.687 and -1.668 eV.
    assert row["correction_dft"] == pytest.approx((-0.687 - 1.668) / 2, abs=1e-3)
    elemental = sum(MP_ENERGIES.values()) / 2
    expected = -17.0 / 2 + row["correction_dft"] - elemental
    assert row["formation_energy_dft"] == pytest.approx(expected)
    # On the hull of the entries as pymatgen has it.
    scheme = compatibility.MaterialsProject2020Compatibility(check_potcar=False)
    entries = [
        ComputedEntry(
            each["composition"],
            each["energy"],
            parameters=each["parameters"],
            data=each["data"],
        )
        for each in json.loads(pathlib.Path(hull).read_text())
    ]
    diagram = PhaseDiagram(scheme.process_entries(entries))
    own = ComputedEntry("MnO", -17.0 + 2 * row["correction_dft"])
    above = diagram.get_e_above_hull(own, allow_negative=True)
    assert row["energy_above_hull_dft"] == pytest.approx(above, abs=1e-6)
    # And the result is on the next hull.
    assert collection.hull is not None
    assert "fits" in {entry.id for entry in collection.hull.entries}
    assert collection.hull.element_energies["Mn"] == pytest.approx(MP_ENERGIES["Mn"])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"cutoff": 500.0}, "ENCUT = 500 eV, expected 520 or more"),
        ({"hubbards": {}}, "U of Mn is 0 eV, expected 3.9"),
        ({"hubbards": {"Mn": 4.5}}, "U of Mn is 4.5 eV, expected 3.9"),
        ({"potentials": None}, "the potential of Mn is Mn, expected Mn_pv"),
        ({"gga": "PS"}, "its functional is VASP PBEsol"),
        ({"metagga": "R2SCAN"}, "its functional is VASP R2SCAN"),
        ({"tags": MP_TAGS | {"IVDW": 11}}, r"its functional is VASP PBE+U+vdW-DFT-D3"),
        ({"tags": MP_TAGS | {"LHFCALC": True}}, "its functional is VASP PBEO or other"),
        ({"tags": {"ISPIN": 1, "LASPH": True}}, "ISPIN = 1, expected 2"),
        ({"tags": {"ISPIN": 2}}, "LASPH is off, expected on"),
        ({"divisions": (5, 5, 5)}, "a grid of 125 k-points, expected 729 (9×9×9)"),
    ],
)
def test_what_does_not_fit_the_scheme_is_refused_by_name(tmp_path, changes, reason):
    runs = tmp_path / "runs"
    write_oxide(runs / "fits")
    write_oxide(runs / "other", energy=-19.0, **changes)
    rows = collect_rows(runs, hull=write_mp_hull(tmp_path / "mp.json"))
    assert np.isfinite(rows["fits"]["energy_above_hull_dft"])
    assert reason in rows["other"]["problem"]
    assert "not on the Materials Project's hull" in rows["other"]["problem"]
    assert np.isnan(rows["other"]["energy_above_hull_dft"])
    assert not rows["other"]["holds"] and np.isnan(rows["other"]["correction_dft"])


def test_energy_models_do_not_mix(tmp_path):
    runs = tmp_path / "runs"
    write_elements(runs)
    write_run(runs / "plain", "Cu3Au1", -0.08)
    write_run(runs / "u", "Cu3Au1", -0.2, hubbards={"Cu": 4.0})
    known = write_hull(tmp_path / "hull.json")
    rows = collect_rows(runs, hull=known)
    assert np.isnan(rows["u"]["formation_energy_dft"])
    problem = "Cu was computed with VASP PBE, this with VASP PBE+U (Cu 4 eV)"
    assert problem in rows["u"]["problem"] and not rows["u"]["holds"]
    assert rows["plain"]["holds"]
    # With energies of the elements the same run has a number, but not on this hull.
    given = tmp_path / "elements.csv"
    given.write_text("element,energy\nCu,-3.72\nAu,-3.27\n")
    rows = collect_rows(runs, hull=known, references=str(given))
    assert rows["u"]["formation_energy_dft"] == pytest.approx(-0.2)
    assert np.isnan(rows["u"]["energy_above_hull_dft"])
    assert "not on the hull: its energy is of 'VASP PBE+U" in rows["u"]["problem"]
    other = write_hull(tmp_path / "aflow.json", "AFLOW (PBE)")
    with pytest.raises(ValueError, match=r"'VASP PBE'.*'AFLOW \(PBE\)'.*do not mix"):
        collect_rows(runs, hull=other)
    # The user says that they are the same.
    rows = collect_rows(runs, hull=other, hull_energy_model=MODEL)
    assert rows["plain"]["energy_above_hull_dft"] == pytest.approx(-0.03)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cutoff": 520.0}, "cutoff of 500 eV, this with 520 eV"),
        (
            {"potentials": vasprun_xml.titles(["Au", "Cu"], {"Cu": "_pv"})},
            "computed with PAW_PBE Cu 08Apr2002, this with PAW_PBE Cu_pv",
        ),
    ],
)
def test_elements_must_have_the_same_settings(tmp_path, options, message):
    write_elements(tmp_path)
    write_run(tmp_path / "run", "Cu3Au1", -0.08, **options)
    row = collect_rows(tmp_path)["run"]
    assert message in row["problem"] and np.isnan(row["formation_energy_dft"])
    # With one that fits beside, there is a number.
    own = (
        {"potentials": ["PAW_PBE Cu_pv 08Apr2002"]}
        if "potentials" in options
        else options
    )
    write_run(tmp_path / "fits", "Cu4", 0.0, **own)
    if "cutoff" in options:
        write_run(tmp_path / "fits_too", "Au4", 0.0, **options)
    row = collect_rows(tmp_path)["run"]
    assert row["formation_energy_dft"] == pytest.approx(-0.08)


def test_missing_elements_are_named(tmp_path):
    write_run(tmp_path / "run", "Cu3Au1", -0.08)
    write_run(tmp_path / "reference_Cu", "Cu4", 0.0, nsw=2)
    row = collect_rows(tmp_path)["run"]
    assert "Cu has no reference energy; Au has no reference energy" in row["problem"]
    assert row["holds"] is None and row["converged"]


def test_lowest_polymorph_of_an_element_is_the_reference(tmp_path):
    write_elements(tmp_path)
    write_run(tmp_path / "hcp", "Cu2", 0.1)
    rows = collect_rows(tmp_path)
    assert rows["hcp"]["formation_energy_dft"] == pytest.approx(0.1)


# ------------------------------------------------------------------------ the whole way


@pytest.fixture
def handed(tmp_path):
    """Four candidates as `export` hands them over."""
    formulas = ["Cu3Au1", "Cu1Au1", "Cu1Au3", "Cu2Au2"]
    infos = [
        {
            "name": f"n{i}",
            "space_group": 221,
            "relaxed_formation_energy": -0.05,
            "relaxed_energy_model": "ASE EMT",
            "relaxed_energy_above_hull": 0.01 * i,
        }
        for i in range(4)
    ]
    path = tmp_path / "candidates.extxyz"
    structure_files.write_extxyz(path, list(map(cell, formulas)), infos)
    output = tmp_path / "dft"
    export.export(
        export.ExportOptions(
            screening=str(path), output=str(output), references="elements"
        )
    )
    return output


def test_results_are_compared_with_what_was_predicted(tmp_path, handed):
    write_elements(handed)
    write_run(handed / "001_n0", "Cu3Au1", -0.09)
    # In a folder of its own, and to another structure.
    changed = structure.Crystal(
        cell("Cu1Au1").atomic_numbers,
        cell("Cu1Au1").frac_coords,
        np.diag([3.8, 3.8, 9.5]),
    )
    write_run(
        handed / "002_n1" / "relax", "Cu1Au1", -0.01, crystals=[cell("Cu1Au1"), changed]
    )
    (handed / "003_n2" / "vasprun.xml").write_text("<modeling>")
    known = write_hull(tmp_path / "hull.json")
    rows = collect_rows(handed, hull=known)
    assert len(rows) == 6
    first = rows["001_n0"]
    assert first["name"] == "n0" and first["kind"] == "candidate"
    assert first["same_structure"] and first["structure_rms"] == pytest.approx(0)
    assert first["space_group_dft_0.1"] == 221 == first["requested_space_group"]
    assert first["formation_energy_predicted"] == -0.05
    assert first["energy_model_predicted"] == "ASE EMT"
    assert first["energy_above_hull_dft"] == pytest.approx(-0.04)
    second = rows["002_n1/relax"]
    assert second["name"] == "n1" and second["same_structure"] is False
    assert second["space_group_dft_0.1"] == 123
    assert second["energy_above_hull_predicted"] == 0.01
    third = rows["003_n2"]
    assert "cannot be read" in third["problem"] and third["formula"] == "Au3Cu1"
    assert third["same_structure"] is None and not third["holds"]
    assert rows["004_n3"]["problem"] == "no vasprun.xml: it did not run"
    assert rows["reference_Cu"]["kind"] == "reference"


def test_folders_that_were_lost_keep_their_row(handed):
    shutil.rmtree(handed / "004_n3")
    assert "did not run" in collect_rows(handed)["004_n3"]["problem"]


def test_written_tables_and_crystals_are_read_back(tmp_path, handed):
    write_elements(handed)
    write_run(handed / "001_n0", "Cu3Au1", -0.09)
    output = tmp_path / "results"
    options = collect.CollectOptions(runs=str(handed), output=str(output))
    collect.write(collect.collect(options), options)
    table = pyarrow.parquet.read_table(output / "collected.parquet").to_pylist()
    assert len(table) == 6 and not (output / "hull.json").exists()
    assert {row["folder"] for row in table if row["converged"]} == {
        "001_n0",
        "reference_Cu",
        "reference_Au",
    }
    assert pyarrow.csv.read_csv(output / "collected.csv").num_rows == 6
    crystals, infos = structure_files.read_extxyz(output / "collected.extxyz")
    assert len(crystals) == 3
    (index,) = [i for i, info in enumerate(infos) if info["name"] == "n0"]
    np.testing.assert_allclose(crystals[index].lattice, 3.8 * np.eye(3))
    assert infos[index]["formation_energy_dft"] == pytest.approx(-0.09)
    with pytest.raises(FileExistsError, match="is there already"):
        collect.write(collect.collect(options), options)


def test_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no runs"):
        collect_rows(tmp_path)
    with pytest.raises(FileNotFoundError):
        collect_rows(tmp_path / "none")
    write_run(tmp_path / "run", "Cu3Au1", 0.0)
    (tmp_path / "B.extxyz").write_text("")
    with pytest.raises(FileNotFoundError):
        collect_rows(tmp_path, references=str(tmp_path / "none.csv"))


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "crystaljax.collect", *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
    )


def test_command_says_which_candidates_hold(tmp_path, handed, capsys):
    write_elements(handed)
    write_run(handed / "001_n0", "Cu3Au1", -0.09)
    write_run(handed / "002_n1", "Cu1Au1", 0.0, nsw=2)
    known = write_hull(tmp_path / "hull.json")
    output = tmp_path / "results"
    done = command(f"--runs={handed}", f"--hull={known}", f"--output={output}")
    assert done.returncode == 0, done.stderr
    assert "6 runs: 3 converged, 4 with a formation energy" in done.stdout
    assert "1 of 4 candidates hold" in done.stdout and "1 of them below" in done.stdout
    assert "0.040 eV/atom on average over 1 (predicted by ASE EMT)" in done.stdout
    assert "-0.050 → -0.090" in done.stdout and "energies: VASP PBE" in done.stdout
    assert "! not converged ionically in 2 steps" in done.stdout
    (row,) = [line for line in done.stdout.splitlines() if line.startswith("n0")]
    assert row.split()[-2:] == ["yes", "yes"]
    collect.main(["--help"])
    shown = capsys.readouterr().out
    assert "--hull_energy_model" in shown and "--tolerance" in shown
