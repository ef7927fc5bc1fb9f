"""Good files of every format, small, made here."""

import bz2
import gzip
import io
import json
import lzma
import pathlib
import tarfile
import tempfile
import warnings
import zipfile
from typing import Any

import ase.db
import numpy as np
from pymatgen.entries.computed_entries import ComputedEntry, ComputedStructureEntry
from pymatgen.io.cif import CifWriter

from crystaljax.crystals import bridge, elements, structure, structure_files
from crystaljax.data import columnar
from crystaljax.data import dataset as datasets

_FCC = [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
CU3AU = structure.Crystal(np.array([79, 29, 29, 29]), np.array(_FCC), 3.7 * np.eye(3))
NACL = structure.Crystal(
    np.array([17] * 4 + [11] * 4),
    np.array(_FCC + [[0.5 + x, y, z] for x, y, z in _FCC]) % 1.0,
    5.64 * np.eye(3),
)
RUTILE = structure.Crystal(
    np.array([8, 8, 8, 8, 22, 22]),
    np.array(
        [
            *([0.305, 0.305, 0], [0.695, 0.695, 0], [0.195, 0.805, 0.5]),
            *([0.805, 0.195, 0.5], [0, 0, 0], [0.5, 0.5, 0.5]),
        ]
    ),
    np.diag([4.594, 4.594, 2.959]),
)
# No two lengths, angles or coordinates are the same.
TRICLINIC = structure.Crystal(
    np.array([12, 8, 1]),
    np.array([[0.01, 0.02, 0.03], [0.31, 0.47, 0.62], [0.52, 0.66, 0.79]]),
    structure.lattice_from_parameters(np.array([3.9, 4.3, 4.8, 83.0, 97.0, 102.0])),
)
CRYSTALS = {"CuAu": CU3AU, "NaCl": NACL, "rutile": RUTILE, "triclinic": TRICLINIC}
ENERGIES = {"CuAu": -0.05, "NaCl": -2.1, "rutile": -3.3, "triclinic": -1.2}


def cif_texts() -> dict[str, str]:
    """CIFs as several programs write them."""
    texts = {
        f"{name}.cif": structure_files.cif_text(crystal, name)
        for name, crystal in CRYSTALS.items()
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("CuAu", "triclinic"):
            made = CifWriter(bridge.to_pymatgen(CRYSTALS[name]))
            texts[f"{name}_p1.cif"] = str(made)
        for name in ("NaCl", "rutile"):
            made = CifWriter(bridge.to_pymatgen(CRYSTALS[name]), symprec=0.01)
            texts[f"{name}_operations.cif"] = str(made)
    texts["named.cif"] = _NAMED
    texts["labels.cif"] = _LABELS
    return texts


_NAMED = """data_silicon
_chemical_formula_sum 'Si1'
_cell_formula_units_Z 8
_cell_length_a 5.4310(2)
_cell_length_b 5.4310(2)
_cell_length_c 5.4310(2)
_cell_angle_alpha 90.
_cell_angle_beta 90.
_cell_angle_gamma 90.
_cell_volume 160.19(1)
_symmetry_space_group_name_H-M 'F d -3 m :2'
_symmetry_Int_Tables_number 227
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_symmetry_multiplicity
_atom_site_Wyckoff_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Si1 Si0+ 8 a 0.125 0.125 0.125 1.
"""
_LABELS = """# comment
data_I
_chemical_formula_moiety 'Mg 2+, 2(O H 1-)'
_cell.length_a   3.142(1)
_cell.length_b   3.142(1)
_cell.length_c   4.766(2)
_cell.angle_alpha 90
_cell.angle_beta  90
_cell.angle_gamma 120
_cell.volume 40.75(3)
_cell.formula_units_Z 1
_space_group.name_H-M_alt 'P -3 m 1'
_space_group.IT_number 164
loop_
_space_group_symop.operation_xyz
x,y,z
-y,x-y,z
-x+y,-x,z
y,x,-z
x-y,-y,-z
-x,-x+y,-z
-x,-y,-z
y,-x+y,-z
x-y,x,-z
-y,-x,z
-x+y,y,z
x,x-y,z
loop_
_atom_site.label
_atom_site.fract_x
_atom_site.fract_y
_atom_site.fract_z
_atom_site.U_iso_or_equiv
Mg 0 0 0 0.007
O1 1/3 2/3 0.2203(2) 0.008
H1 1/3 2/3 0.43(1) 0.03
"""


def poscar_texts() -> dict[str, str]:
    """POSCARs of VASP 4, 5 and 6."""
    return {
        "rutile.vasp": structure_files.poscar_text(RUTILE, "O4 Ti2"),
        "POSCAR": _SELECTIVE,
        "vasp4.vasp": _VASP4,
        "vasp6.poscar": _VASP6,
    }


_SELECTIVE = """Cu3 Au1
 -50.653
   1.0 0.0 0.0
   0.0 1.0 0.0
   0.0 0.0 1.0
  Au Cu
   1   3
Selective dynamics
Cartesian
  0.0 0.0 0.0  T T T
  0.0 0.5 0.5  T T F
  0.5 0.0 0.5  .TRUE. .FALSE. T
  0.5 0.5 0.0  F F F

  0.0 0.0 0.0
  0.1 0.0 0.0
  0.0 0.1 0.0
  0.0 0.0 0.1
"""
_VASP4 = """brucite without hydrogen
1.0
3.9 0.0 0.0
-0.9 4.2 0.0
0.6 0.5 4.7
1 1
Direct
0.01 0.02 0.03 Mg
0.31 0.47 0.62 O
"""
_VASP6 = """from a CONTCAR
   1.00000000000000
     5.64 0.0 0.0
     0.0 5.64 0.0
     0.0 0.0 5.64
   Cl/17ff0b Na_pv/3e54d
     4     4
Direct
  0.0 0.0 0.0
  0.0 0.5 0.5
  0.5 0.0 0.5
  0.5 0.5 0.0
  0.5 0.0 0.0
  0.5 0.5 0.5
  0.0 0.0 0.5
  0.0 0.5 0.0
"""


def extxyz_text() -> str:
    """Four frames, with names, energies and formulas."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "four.extxyz")
        infos: list[dict[str, Any]] = [
            {
                "name": name,
                "id": f"{number}_0",
                "formula": elements.cell_formula(crystal.atomic_numbers),
                "e_form": ENERGIES[name],
            }
            for number, (name, crystal) in enumerate(CRYSTALS.items())
        ]
        structure_files.write_extxyz(path, list(CRYSTALS.values()), infos)
        return path.read_text()


def cif_csv_text() -> str:
    """A CSV with CIFs, as CDVAE and DiffCSP have them."""
    lines = [",material_id,pretty_formula,formation_energy_per_atom,cif,spacegroup"]
    texts = cif_texts()
    for number, name in enumerate(("CuAu_p1", "rutile", "triclinic_p1")):
        key = name.partition("_")[0]
        formula = elements.cell_formula(CRYSTALS[key].atomic_numbers)
        text = texts[f"{name}.cif"].replace('"', '""')
        group = (221, 136, 1)[number]
        lines.append(f'{number},mp-{number},{formula},{ENERGIES[key]},"{text}",{group}')
    return "\n".join(lines) + "\n"


def aflow_csv_text() -> str:
    """Columns of AFLOW."""
    lines = [
        "auid,pretty_formula,natoms,volume_cell,enthalpy_formation_atom,"
        "spacegroup_relax,geometry,positions_fractional"
    ]
    for (name, crystal), group in zip(
        CRYSTALS.items(), (221, 225, 136, 1), strict=True
    ):
        parameters = structure.lattice_parameters(crystal.lattice).round(6).tolist()
        formula = elements.cell_formula(crystal.atomic_numbers)
        order = np.argsort(
            [elements.symbol(int(n)) for n in crystal.atomic_numbers], kind="stable"
        )
        coords = crystal.frac_coords[order].tolist()
        volume = abs(float(np.linalg.det(crystal.lattice)))
        lines.append(
            f"aflow:{name},{formula},{crystal.num_sites},{volume:.4f},"
            f'{ENERGIES[name]},{group},"{parameters}","{coords}"'
        )
    return "\n".join(lines) + "\n"


def aflow_page() -> bytes:
    """An answer of AFLUX."""
    rows = []
    for name, crystal in CRYSTALS.items():
        symbols = [elements.symbol(int(n)) for n in crystal.atomic_numbers]
        species = list(dict.fromkeys(symbols))
        rows.append(
            {
                "auid": f"aflow:{name}",
                "species": species,
                "composition": [symbols.count(each) for each in species],
                "natoms": crystal.num_sites,
                "geometry": structure.lattice_parameters(crystal.lattice).tolist(),
                "positions_fractional": crystal.frac_coords.tolist(),
                "enthalpy_formation_atom": ENERGIES[name],
                "spacegroup_relax": 1,
                "dft_type": ["PAW_PBE"],
                "ldau_TLUJ": None,
            }
        )
    return json.dumps(rows, indent=0).encode()


def optimade_page() -> bytes:
    """An answer of an OPTIMADE service."""
    rows = []
    for name, crystal in CRYSTALS.items():
        symbols = [elements.symbol(int(n)) for n in crystal.atomic_numbers]
        kinds = list(dict.fromkeys(symbols))
        species = [
            {"name": each, "chemical_symbols": [each], "concentration": [1.0]}
            for each in kinds
        ]
        formula = elements.reduced_formula(crystal.atomic_numbers)
        attributes = {
            "lattice_vectors": crystal.lattice.tolist(),
            "cartesian_site_positions": (
                crystal.frac_coords @ crystal.lattice
            ).tolist(),
            "species_at_sites": symbols,
            "species": species,
            "nperiodic_dimensions": 3,
            "structure_features": [],
            "nsites": crystal.num_sites,
            "chemical_formula_reduced": formula.replace("1", ""),
            "_x_energy": ENERGIES[name],
            "_x_group": "P1",
        }
        rows.append({"id": name, "type": "structures", "attributes": attributes})
    page = {"data": rows, "links": {"next": None}, "meta": {"data_returned": 4}}
    return json.dumps(page, indent=0).encode()


def _structure_entry(name: str) -> dict[str, Any]:
    made = bridge.to_pymatgen(CRYSTALS[name])
    entry = ComputedStructureEntry(
        made,
        ENERGIES[name] * len(made),
        data={"mat_id": name, "e_form": ENERGIES[name], "spg": 1},
        entry_id=name,
    )
    return json.loads(json.dumps(entry.as_dict(), default=str))


def entries() -> list[dict[str, Any]]:
    """Entries with structures, as dicts of pymatgen."""
    return [_structure_entry(name) for name in CRYSTALS]


def hull_entries() -> list[dict[str, Any]]:
    """Entries with total energies, elements among them."""
    totals = {"Cu": -4.1, "Au": -3.3, "Cu3Au": -15.8, "CuAu": -7.5}
    made = [
        ComputedEntry(
            formula,
            energy,
            entry_id=f"e-{number}",
            parameters={"run_type": "GGA", "hubbards": {}, "is_hubbard": False},
        ).as_dict()
        for number, (formula, energy) in enumerate(totals.items())
    ]
    structured = _structure_entry("CuAu")
    structured["energy"] = -15.9
    structured["parameters"] = {"run_type": "GGA"}
    return json.loads(json.dumps([*made, structured], default=str))


def ase_files() -> dict[str, bytes]:
    """ASE databases, SQLite and JSON."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for suffix in ("db", "json"):
            path = pathlib.Path(folder, f"crystals.{suffix}")
            with ase.db.connect(path) as database:
                for name, crystal in CRYSTALS.items():
                    database.write(
                        bridge.to_ase(crystal), e_form=ENERGIES[name], label=name
                    )
            found[path.name] = path.read_bytes()
    return found


def compress(content: bytes, suffix: str) -> bytes:
    """Content as a file of that suffix has it."""
    if suffix == ".gz":
        return gzip.compress(content, 6, mtime=0)
    return {".bz2": bz2.compress, ".xz": lzma.compress}[suffix](content)


def zip_bytes(members: dict[str, bytes]) -> bytes:
    """A zip archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


def tar_bytes(members: dict[str, bytes]) -> bytes:
    """A tar archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def dataset_files() -> dict[str, bytes]:
    """A data set of `crystaljax prepare`."""
    crystals = list(CRYSTALS.values())
    columns = columnar.columns_from_crystals(
        list(CRYSTALS),
        [elements.cell_formula(each.atomic_numbers) for each in crystals],
        crystals,
        [221, 225, 136, 1],
        list(ENERGIES.values()),
    )
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "data")
        datasets.write_dataset(path, columns, np.zeros(4, int), {"energy_model": "x"})
        return {
            each.relative_to(path).as_posix(): each.read_bytes()
            for each in path.rglob("*")
            if each.is_file()
        }


def samples_files() -> dict[str, bytes]:
    """What `crystaljax sample` writes: a table and its crystals."""
    names = [f"{i}_{name}" for i, name in enumerate(CRYSTALS)]
    crystals = list(CRYSTALS.values())
    lattices = np.array([each.lattice for each in crystals])
    table = {
        "name": names,
        "formula": [elements.cell_formula(each.atomic_numbers) for each in crystals],
        "space_group": [1] * 4,
        "formation_energy": list(ENERGIES.values()),
        "num_sites": [each.num_sites for each in crystals],
        "volume": np.abs(np.linalg.det(lattices)).tolist(),
        "written": [True] * 4,
    }
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder)
        structure_files.write_table(path / "samples.parquet", table)
        infos: list[dict[str, Any]] = [{"name": name} for name in names]
        structure_files.write_extxyz(path / "samples.extxyz", crystals, infos)
        return {each.name: each.read_bytes() for each in path.iterdir()}


def screening_files() -> dict[str, bytes]:
    """What `crystaljax screen` writes, as far as `crystaljax export` reads it."""
    names = list(CRYSTALS)
    crystals = list(CRYSTALS.values())
    table = {
        "name": names,
        "formula": [elements.cell_formula(each.atomic_numbers) for each in crystals],
        "rank": [1, 2, 3, 4],
        "relaxed_formation_energy": list(ENERGIES.values()),
        "relaxed_energy_above_hull": [0.0, 0.1, 0.2, 0.3],
    }
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder)
        structure_files.write_table(path / "screening.parquet", table)
        infos: list[dict[str, Any]] = [
            {"name": name, "rank": i + 1, "formula": formula}
            for i, (name, formula) in enumerate(
                zip(names, table["formula"], strict=True)
            )
        ]
        structure_files.write_extxyz(path / "candidates.extxyz", crystals, infos)
        return {each.name: each.read_bytes() for each in path.iterdir()}


def vasprun_text() -> str:
    """A relaxation of two steps, with what VASP writes of it."""
    crystal = CU3AU
    volume = abs(float(np.linalg.det(crystal.lattice)))

    def rows(name: str, values: np.ndarray) -> str:
        lines = [f"<v> {' '.join(f'{x:.8f}' for x in row)} </v>" for row in values]
        return "\n".join([f'<varray name="{name}">', *lines, "</varray>"])

    cell = "\n".join(
        [
            "<crystal>",
            rows("basis", crystal.lattice),
            f'<i name="volume"> {volume:.8f} </i>',
            rows("rec_basis", np.linalg.inv(crystal.lattice).T),
            "</crystal>",
            rows("positions", crystal.frac_coords),
            "</structure>",
        ]
    )
    energy = "\n".join(
        [
            "<energy>",
            '<i name="e_fr_energy"> -15.82000000 </i>',
            '<i name="e_wo_entrp"> -15.78000000 </i>',
            '<i name="e_0_energy"> -15.80000000 </i>',
            "</energy>",
        ]
    )
    step = "\n".join(
        [
            "<calculation>",
            *[f"<scstep>{energy}</scstep>"] * 2,
            "<structure>",
            cell,
            rows("forces", np.zeros((4, 3))),
            rows("stress", np.zeros((3, 3))),
            energy,
            "</calculation>",
        ]
    )
    return _VASPRUN.format(cell=cell, step=step)


_VASPRUN = """<?xml version="1.0" encoding="ISO-8859-1"?>
<modeling>
<generator>
<i type="string" name="program">vasp</i>
<i type="string" name="version">6.4.2</i>
</generator>
<incar>
<i name="ENCUT"> 500.00000000 </i>
<i type="string" name="GGA">PE</i>
<i type="int" name="NSW"> 99 </i>
<i type="int" name="IBRION"> 2 </i>
</incar>
<kpoints><generation param="Gamma">
<v type="int" name="divisions"> 5 5 5 </v>
</generation>
<varray name="kpointlist">
<v> 0.0 0.0 0.0 </v>
</varray>
<varray name="weights">
<v> 1.0 </v>
</varray>
</kpoints>
<parameters>
<separator name="electronic">
<i name="ENCUT"> 500.00000000 </i>
<i type="string" name="GGA">PE</i>
<i type="int" name="NSW"> 99 </i>
<i type="int" name="IBRION"> 2 </i>
<i type="int" name="ISIF"> 3 </i>
<i name="ENMAX"> 500.00000000 </i>
<i type="int" name="NELM"> 60 </i>
<i type="int" name="ISPIN"> 1 </i>
<i name="EDIFFG"> -0.01000000 </i>
<i name="AEXX"> 0.00000000 </i>
<i name="HFSCREEN"> 0.00000000 </i>
<i type="logical" name="LHFCALC"> F </i>
<i type="logical" name="LUSE_VDW"> F </i>
<i type="logical" name="LDAU"> F </i>
</separator>
</parameters>
<atominfo>
<atoms> 4 </atoms>
<types> 2 </types>
<array name="atoms">
<set>
<rc><c>Au</c><c> 1</c></rc>
<rc><c>Cu</c><c> 2</c></rc>
<rc><c>Cu</c><c> 2</c></rc>
<rc><c>Cu</c><c> 2</c></rc>
</set>
</array>
<array name="atomtypes">
<set>
<rc><c> 1</c><c>Au</c><c> 1.0</c><c> 4.0</c><c> PAW_PBE Au 08Apr2002 </c></rc>
<rc><c> 3</c><c>Cu</c><c> 1.0</c><c> 4.0</c><c> PAW_PBE Cu 08Apr2002 </c></rc>
</set>
</array>
</atominfo>
<structure name="initialpos">
{cell}
{step}
{step}
<structure name="finalpos">
{cell}
</modeling>
"""
