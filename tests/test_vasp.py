import json
import warnings

import ase.io
import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.io.vasp import Incar, Kpoints, Poscar
from pymatgen.io.vasp.sets import MPRelaxSet

from crystaljax.crystals import bridge, elements, structure
from crystaljax.dft import vasp


def crystal(formula="Ta1W1B6", seed=0):
    numbers = elements.formula_atomic_numbers(formula).astype(int)
    grid = np.stack(np.meshgrid(*[[0.1, 0.6]] * 3, indexing="ij"), -1).reshape(-1, 3)
    lattice = np.array(Lattice.from_parameters(4, 4.5, 5, 80, 95, 102).matrix)
    shift = np.random.default_rng(seed).uniform(-0.05, 0.05, (len(numbers), 3))
    return structure.Crystal(numbers, grid[: len(numbers)] + shift, lattice)


def left_handed():
    original = crystal()
    return structure.Crystal(
        original.atomic_numbers, -original.frac_coords, -original.lattice
    )


def read_incar(inputs):
    return Incar.from_str(inputs.files["INCAR"])


def test_paper_preset_has_what_the_paper_says():
    inputs = vasp.vasp_inputs(crystal(), "paper")
    assert set(inputs.files) == {"INCAR", "KPOINTS", "POSCAR", "POTCAR.spec"}
    incar = read_incar(inputs)
    assert incar["ENCUT"] == 500
    assert incar["EDIFF"] == pytest.approx(1e-5)
    assert incar["EDIFFG"] == pytest.approx(-0.01)
    assert incar["GGA"].upper() == "PE"
    # Cell and sites are relaxed.
    assert (incar["IBRION"], incar["ISIF"]) == (2, 3) and incar["NSW"] > 0
    assert "LDAU" not in incar
    assert set(inputs.files["POTCAR.spec"].split()) == {"Ta_pv", "W_sv", "B"}


def test_every_written_file_is_read_back_by_pymatgen():
    original = crystal()
    for preset in vasp.PRESETS:
        inputs = vasp.vasp_inputs(original, preset)
        poscar = Poscar.from_str(inputs.files["POSCAR"])
        found = bridge.from_pymatgen(poscar.structure)
        assert sorted(found.atomic_numbers) == sorted(original.atomic_numbers)
        np.testing.assert_allclose(found.lattice, original.lattice, atol=1e-10)
        # One potential per block of sites, in their order.
        symbols = [s.split("_")[0] for s in inputs.files["POTCAR.spec"].split()]
        assert symbols == poscar.site_symbols
        moments = read_incar(inputs)["MAGMOM"]
        assert len(moments) == original.num_sites


def test_mp_preset_is_pymatgens_own_set():
    original = crystal("Fe2O3")
    inputs = vasp.vasp_inputs(original, "mp")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = MPRelaxSet(bridge.to_pymatgen(original))
        assert read_incar(inputs) == Incar.from_str(str(expected.incar))
        assert inputs.files["KPOINTS"].strip() == str(expected.kpoints).strip()
        assert inputs.files["POTCAR.spec"].split() == expected.potcar_symbols
    assert read_incar(inputs)["LDAUU"] == [5.3, 0]


@pytest.mark.parametrize(("formula", "factor"), [("Ta1W1B6", 1), ("B1", 8)])
def test_kpoints_of_the_paper_preset_have_aflows_density(formula, factor):
    cell = crystal(formula)
    inputs = vasp.vasp_inputs(cell)
    mesh = np.prod(Kpoints.from_str(inputs.files["KPOINTS"]).kpts[0])
    # Divisions are rounded down.
    assert 6000 * 0.6 < mesh * cell.num_sites <= 6000


def test_incar_tags_replace_and_take_out_those_of_the_preset():
    tags = vasp.parse_incar(["ENCUT=600", "ispin=1", "ALGO=", "LREAL=Auto", "KPAR=4"])
    assert tags == {
        "ENCUT": 600.0,
        "ISPIN": 1,
        "ALGO": None,
        "LREAL": "Auto",
        "KPAR": 4,
    }
    incar = read_incar(vasp.vasp_inputs(crystal(), "paper", tags))
    assert incar["ENCUT"] == 600 and incar["ISPIN"] == 1 and incar["KPAR"] == 4
    assert "ALGO" not in incar and incar["EDIFF"] == pytest.approx(1e-5)


@pytest.mark.parametrize(
    ("tag", "message"),
    [
        ("ENCTU=600", "no INCAR tag ENCTU.*did you mean ENCUT"),
        ("ENCUT", "expected one such as ENCUT=600"),
        ("=600", "expected one such as ENCUT=600"),
        ("MAGMOM=5 5 0", "value per site"),
    ],
)
def test_bad_incar_tags_are_refused(tag, message):
    with pytest.raises(ValueError, match=message):
        vasp.parse_incar([tag])


def test_left_handed_cells_become_right_handed_with_the_same_atoms():
    for inputs in (vasp.vasp_inputs(left_handed()), vasp.vasp_inputs(crystal())):
        poscar = inputs.files["POSCAR"]
        found = Poscar.from_str(poscar).structure
        assert np.linalg.det(found.lattice.matrix) > 0
        expected = bridge.to_pymatgen(crystal())
        np.testing.assert_allclose(
            np.sort(found.distance_matrix, axis=None),
            np.sort(expected.distance_matrix, axis=None),
            atol=1e-8,
        )
        coords = np.array([line.split()[:3] for line in poscar.split("\n")[8:-1]])
        assert (coords.astype(float) >= 0).all() and (coords.astype(float) < 1).all()


def test_crystals_that_cannot_be_computed_are_refused():
    cell = crystal()
    coords = cell.frac_coords.copy()
    coords[1] = coords[0]
    with pytest.raises(ValueError, match="shortest distance"):
        vasp.vasp_inputs(structure.Crystal(cell.atomic_numbers, coords, cell.lattice))
    with pytest.raises(ValueError, match="not finite"):
        vasp.vasp_inputs(
            structure.Crystal(cell.atomic_numbers, coords * np.nan, cell.lattice)
        )
    with pytest.raises(ValueError, match="no potential for Es"):
        vasp.vasp_inputs(crystal("Es1"))
    with pytest.raises(ValueError, match="no potential for Po"):
        vasp.vasp_inputs(crystal("Po1"), "mp")
    with pytest.raises(ValueError, match="unknown preset 'mit'"):
        vasp.vasp_inputs(cell, "mit")


def test_recommended_potentials_are_in_the_release():
    names = {
        symbol: vasp.vasp_inputs(crystal(f"{symbol}1")).files["POTCAR.spec"].strip()
        for symbol in elements.SYMBOLS
        if symbol not in vasp._NO_POTENTIAL
    }
    assert names["Cu"] == "Cu" and names["Ni"] == "Ni" and names["Ti"] == "Ti_sv"
    released = dft_release("PBE_54")
    assert not set(names.values()) - released


def dft_release(functional):
    """Names of the potentials that pymatgen knows of a release."""
    import importlib.resources

    from monty.serialization import loadfn

    with importlib.resources.as_file(
        importlib.resources.files("pymatgen.io.vasp") / "potcar-summary-stats.json.bz2"
    ) as path:
        titles = loadfn(path)[functional]
    # "PAW_PBE", the name, and a date of nine characters without blanks.
    return {title.removeprefix("PAW_PBE")[:-9] for title in titles}


def test_real_potcars_are_written_where_pymatgen_has_them(tmp_path, monkeypatch):
    folder = tmp_path / "POT_GGA_PAW_PBE_54"
    for name in ("B", "Ta_pv", "W_sv"):
        (folder / name).mkdir(parents=True)
        title = f"  PAW_PBE {name} 06Sep2000"
        text = f"{title}\n   3.0\nparameters from PSCTR are:\n   TITEL  ={title}\n"
        text += f"   VRHFIN = {name}: s2\n   LEXCH  = PE\n"
        text += "   ENMAX  =  318.614; ENMIN  =  238.960 eV\n"
        text += "END of PSCTR-controll parameters\n  local part\n  1.0E+00  2.0E+00\n"
        text += " End of Dataset\n"
        (folder / name / "POTCAR").write_text(text)
    monkeypatch.setitem(vasp.SETTINGS, "PMG_VASP_PSP_DIR", str(tmp_path))
    assert vasp.has_potcars()
    inputs = vasp.vasp_inputs(crystal())
    assert "POTCAR.spec" not in inputs.files
    titles = [line for line in inputs.files["POTCAR"].splitlines() if "TITEL" in line]
    order = Poscar.from_str(inputs.files["POSCAR"]).site_symbols
    assert [line.split()[3].split("_")[0] for line in titles] == order
    with pytest.raises(OSError, match="Cu"):
        vasp.vasp_inputs(crystal("Cu1"))


def test_warnings_of_pymatgen_become_notes():
    notes = vasp.vasp_inputs(crystal("Yb1"), "mp").notes
    assert any("Yb" in note for note in notes)
    assert vasp.vasp_inputs(crystal()).notes == ()


# ------------------------------------------------------------------------------- pw.x


def read_espresso(tmp_path, inputs):
    path = tmp_path / "pw.in"
    path.write_text(inputs.files["pw.in"])
    return ase.io.read(path, format="espresso-in"), inputs.files["pw.in"]


def test_espresso_input_is_read_back_by_ase(tmp_path):
    original = crystal()
    potentials = vasp.load_potentials("{element}.pbe.UPF")
    inputs = vasp.espresso_inputs(original, potentials)
    atoms, text = read_espresso(tmp_path, inputs)
    np.testing.assert_allclose(atoms.cell, original.lattice, atol=1e-10)
    np.testing.assert_array_equal(atoms.numbers, original.atomic_numbers)
    apart = atoms.get_scaled_positions() - original.frac_coords
    np.testing.assert_allclose(apart, np.round(apart), atol=1e-8)
    assert "calculation      = 'vc-relax'" in text
    assert "Ta 180.94788 Ta.pbe.UPF" in text
    assert "&FCP" not in text and "&RISM" not in text and text.count("&") == 5
    mesh = text.split("K_POINTS automatic\n")[1].split("\n")[0].split()
    assert 3600 < np.prod([int(n) for n in mesh[:3]]) * 8 <= 6000
    # 0.01 eV/Å in Ry/bohr.
    assert "forc_conv_thr    = 0.00039" in text


def test_espresso_entries_and_cutoffs_of_the_table_of_potentials(tmp_path):
    table = {
        "Ta": {"filename": "Ta.upf", "cutoff_wfc": 45, "cutoff_rho": 400.0},
        "W": {"filename": "W.upf", "cutoff_wfc": 50.0, "cutoff_rho": 300.0},
        "B": {"filename": "b_pbe.UPF", "cutoff_wfc": 30.0, "cutoff_rho": 240.0},
    }
    path = tmp_path / "sssp.json"
    path.write_text(json.dumps(table))
    potentials = vasp.load_potentials(str(path))
    _, text = read_espresso(tmp_path, vasp.espresso_inputs(crystal(), potentials))
    assert "ecutwfc          = 50.0" in text and "ecutrho          = 400.0" in text
    assert "B 10.81 b_pbe.UPF" in text
    entries = ["ecutwfc=80", "nspin=2"]
    entries += ["conv_thr=1d-9", "noncolin=.false.", "smearing='mp'"]
    parsed = vasp.parse_espresso(entries)
    assert parsed["conv_thr"] == 1e-9 and parsed["noncolin"] is False
    _, text = read_espresso(
        tmp_path, vasp.espresso_inputs(crystal(), potentials, parsed)
    )
    assert "ecutwfc          = 80" in text and "smearing         = 'mp'" in text
    assert text.count("starting_magnetization(") == 3
    # Strings alone are a table too.
    path.write_text(json.dumps({"Ta": "Ta.upf", "B": "B.upf"}))
    with pytest.raises(ValueError, match="no pseudopotential is given for W"):
        vasp.espresso_inputs(crystal(), vasp.load_potentials(str(path)))


def test_bad_espresso_options_are_refused(tmp_path):
    with pytest.raises(ValueError, match="did you mean ecutwfc"):
        vasp.parse_espresso(["ecutwf=80"])
    with pytest.raises(ValueError, match="expected one such as ecutwfc=80"):
        vasp.parse_espresso(["ecutwfc"])
    with pytest.raises(ValueError, match="value per species"):
        vasp.parse_espresso(["starting_magnetization(1)=0.3"])
    with pytest.raises(ValueError, match=r"pattern such as '\{element\}.upf'"):
        vasp.load_potentials("Cu.upf")
    with pytest.raises(FileNotFoundError, match="no table of pseudopotentials"):
        vasp.load_potentials(str(tmp_path / "none.json"))
    (tmp_path / "odd.json").write_text('{"Cu": {"file": "x"}}')
    with pytest.raises(ValueError, match="is no table of pseudopotentials"):
        vasp.load_potentials(str(tmp_path / "odd.json"))


def test_structures_of_pymatgen_can_be_taken_further():
    built = vasp.build_vasp_set(crystal(), "paper", {"KSPACING": None})
    assert isinstance(built.structure, Structure)
    assert built.incar["ENCUT"] == 500
