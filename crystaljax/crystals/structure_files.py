"""Writes crystals and tables as files that other tools read: extxyz, CIF, tables.

Every writer writes beside its target first and renames at the end, so that a file that
is there is whole; none overwrites unless asked to. A crystal that no file can hold (a
number that is not finite, a cell without volume) is left out, and the writer's return
value says so, for the caller's table.
"""

import os
import pathlib
import re
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import ase.io
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from crystaljax.crystals import bridge, elements, extxyz, structure, validity
from crystaljax.crystals import names as names_lib
from crystaljax.system import atomic_files, errors, text_files

# ASE takes these out of a frame's info and makes a calculator of them: a requested
# energy would be read as a computed one, in eV for the whole cell.
_CALCULATOR_KEYS = ("energy", "free_energy", "stress", "dipole", "magmom")
# The others are extxyz's own.
RESERVED_INFO_KEYS = (*_CALCULATOR_KEYS, "Lattice", "Properties", "pbc")
_INFO_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def write_extxyz(
    path: str | os.PathLike[str],
    crystals: Sequence[structure.Crystal],
    infos: Sequence[Mapping[str, Any]],
    *,
    overwrite: bool = False,
) -> list[str]:
    """Writes crystals as frames of one extended XYZ file.

    Args:
        path: the file.
        crystals: what to write.
        infos: per crystal, what stands beside its lattice: strings, numbers and
            booleans by key (conditions, sample index, seed). None is left out. A string
            is read back as it is, also by ASE, whatever it looks like.
        overwrite: whether a file that is there may be replaced.

    Returns:
        Names of the crystals left out: the ``name`` in their info, or where there is
        none their number in ``crystals``.

    Raises:
        ValueError: there are not as many infos as crystals, or a key is not a plain
            name or has a meaning of its own in extxyz.
        FileExistsError: the file is there and ``overwrite`` is False.
    """
    _require_same_length(crystals=crystals, infos=infos)
    for key in {key for info in infos for key in info}:
        if key in RESERVED_INFO_KEYS or not _INFO_KEY.fullmatch(key):
            raise errors.UserError(
                f"info key {key!r} cannot be used in an extxyz file; expected a plain "
                f"name other than {', '.join(RESERVED_INFO_KEYS)}: call a requested "
                "energy 'formation_energy'"
            )
    frames = []
    left_out = []
    for index, (crystal, info) in enumerate(zip(crystals, infos, strict=True)):
        if not is_writable(crystal):
            left_out.append(str(info.get("name", index)))
            continue
        atoms = bridge.to_ase(crystal)
        atoms.info = _clean_info(info)
        frames.append(atoms)
    with atomic_files.file(path, overwrite) as temporary:
        # ASE writes no file for no frames.
        temporary.touch()
        if frames:
            ase.io.write(temporary, frames, format="extxyz")
    return left_out


def _clean_info(info: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: extxyz.format_text(value) if isinstance(value, str) else value
        for key, value in info.items()
        if value is not None
    }


def read_extxyz(
    path: str | os.PathLike[str],
) -> tuple[list[structure.Crystal], list[dict[str, Any]]]:
    """Reads a file of `write_extxyz`, or any extxyz file of periodic crystals.

    Returns:
        Crystals with their cells and sites as they are in the file, and the info of
        each; what is a number and what is text, `extxyz` says. Energies that a
        calculator left are in the info too, under ASE's names (``energy``: eV for the
        whole cell).

    Raises:
        ValueError: a frame cannot be read, or is not periodic in three directions.
    """
    crystals = []
    infos = []
    with text_files.open_text(pathlib.Path(path).open("rb")) as file:
        for text in extxyz.split_frames(file):
            atoms = extxyz.parse_frame(text).atoms
            crystals.append(structure.wrapped(bridge.from_ase(atoms)))
            info = dict(atoms.info)
            if atoms.calc is not None:
                energies = {"energy", "free_energy"} & atoms.calc.results.keys()
                info |= {key: atoms.calc.results[key] for key in energies}
            infos.append(info)
    return crystals, infos


def write_cifs(
    path: str | os.PathLike[str],
    crystals: Sequence[structure.Crystal],
    names: Sequence[str],
    *,
    overwrite: bool = False,
) -> list[str]:
    """Writes one P1 CIF per crystal, into a folder or a zip archive.

    Args:
        path: the folder; an archive if it ends in ``.zip``.
        crystals: what to write.
        names: of the crystals; file names are made of them: safe on all systems, and
            unique by a number at the end where two are the same.
        overwrite: whether an archive, or a folder that holds nothing but CIFs, may be
            replaced.

    Returns:
        Names of the crystals left out.

    Raises:
        ValueError: there are not as many names as crystals.
        FileExistsError: the path is there and ``overwrite`` is False, or it is a folder
            with other files in it.
    """
    _require_same_length(crystals=crystals, names=names)
    path = pathlib.Path(path)
    left_out = []
    stems = []
    written = []
    used: set[str] = set()
    for crystal, name in zip(crystals, names, strict=True):
        if not is_writable(crystal):
            left_out.append(name)
            continue
        stems.append(names_lib.unique_stem(name, used))
        written.append(crystal)
    contents = (
        (f"{stem}.cif", cif_text(crystal, stem))
        for stem, crystal in zip(stems, written, strict=True)
    )
    if path.suffix == ".zip":
        with (
            atomic_files.file(path, overwrite) as temporary,
            zipfile.ZipFile(temporary, "w") as archive,
        ):
            for file_name, text in contents:
                # Without a date, so that the same crystals give the same bytes.
                entry = zipfile.ZipInfo(file_name)
                entry.compress_type = zipfile.ZIP_DEFLATED
                entry.external_attr = 0o644 << 16
                archive.writestr(entry, text)
    else:
        atomic_files.require_replaceable(path, overwrite, _is_cif, "CIFs")
        with atomic_files.folder(path) as temporary:
            for file_name, text in contents:
                (temporary / file_name).write_text(text, encoding="ascii")
    return left_out


def cif_texts(
    crystals: Sequence[structure.Crystal], names: Sequence[str]
) -> list[str | None]:
    """CIF of each crystal, as `write_cifs` has it; None where no file can hold it."""
    _require_same_length(crystals=crystals, names=names)
    used: set[str] = set()
    return [
        cif_text(crystal, names_lib.unique_stem(name, used))
        if is_writable(crystal)
        else None
        for crystal, name in zip(crystals, names, strict=True)
    ]


def _is_cif(path: pathlib.Path) -> bool:
    return path.suffix == ".cif"


def cif_text(crystal: structure.Crystal, name: str) -> str:
    """One crystal as a CIF in P1: all sites are written, no symmetry is looked for.

    Written here, since pymatgen's CifWriter takes 2 ms a crystal, more than sampling
    it does on a GPU.

    Args:
        crystal: finite, with a volume.
        name: of the data block, without blanks.
    """
    crystal = right_handed(crystal)
    coords = np.round(crystal.frac_coords - np.floor(crystal.frac_coords), 8) % 1
    lengths_and_angles = structure.lattice_parameters(crystal.lattice)
    numbers = np.asarray(crystal.atomic_numbers)
    symbols = [elements.symbol(int(number)) for number in numbers]
    species = elements.cell_formula(numbers)
    formula = " ".join(re.findall(r"[A-Z][a-z]?\d+", species))
    tags = ["length_a", "length_b", "length_c"]
    tags += ["angle_alpha", "angle_beta", "angle_gamma"]
    lines = [
        f"data_{name}",
        "_symmetry_space_group_name_H-M 'P 1'",
        "_symmetry_Int_Tables_number 1",
        *(
            f"_cell_{tag} {value:.8f}"
            for tag, value in zip(tags, lengths_and_angles, strict=True)
        ),
        f"_cell_volume {np.linalg.det(crystal.lattice):.8f}",
        f"_chemical_formula_sum '{formula}'",
        "loop_",
        "_symmetry_equiv_pos_site_id",
        "_symmetry_equiv_pos_as_xyz",
        "1 'x, y, z'",
        "loop_",
        "_atom_site_type_symbol",
        "_atom_site_label",
        "_atom_site_symmetry_multiplicity",
        "_atom_site_fract_x",
        "_atom_site_fract_y",
        "_atom_site_fract_z",
        "_atom_site_occupancy",
        *(
            f"{symbol} {symbol}{index} 1 {x:.8f} {y:.8f} {z:.8f} 1"
            for index, (symbol, (x, y, z)) in enumerate(
                zip(symbols, coords.tolist(), strict=True), start=1
            )
        ),
    ]
    return "\n".join(lines) + "\n"


def poscar_text(crystal: structure.Crystal, comment: str) -> str:
    """One crystal as a POSCAR of VASP 5: sites grouped by species, direct coordinates.

    Args:
        crystal: finite, with a volume; species in whatever order.
        comment: the first line.
    """
    crystal = right_handed(crystal)
    numbers = np.asarray(crystal.atomic_numbers)
    symbols = np.array([elements.symbol(int(number)) for number in numbers])
    order = np.argsort(symbols, kind="stable")
    species, counts = np.unique(symbols, return_counts=True)
    coords = (crystal.frac_coords - np.floor(crystal.frac_coords))[order]
    lines = [
        " ".join(comment.split()),
        "1.0",
        *(
            "".join(f" {value:20.14f}" for value in row)
            for row in crystal.lattice.tolist()
        ),
        " ".join(species.tolist()),
        " ".join(map(str, counts.tolist())),
        "Direct",
        *(
            "".join(f" {value:18.14f}" for value in row) + f" {symbol}"
            for row, symbol in zip(coords.tolist(), symbols[order], strict=True)
        ),
    ]
    return "\n".join(lines) + "\n"


def right_handed(crystal: structure.Crystal) -> structure.Crystal:
    """The same atoms in a right-handed cell, in float64.

    Lengths and angles describe no other, and VASP takes no other.
    """
    lattice = np.asarray(crystal.lattice, dtype=np.float64)
    coords = np.asarray(crystal.frac_coords, dtype=np.float64)
    if np.linalg.det(lattice) < 0:
        # Inverting vectors and coordinates together moves no atom.
        lattice, coords = 0.0 - lattice, 0.0 - coords
    return structure.Crystal(crystal.atomic_numbers, coords, lattice)


def write_table(
    path: str | os.PathLike[str],
    columns: Mapping[str, Sequence[Any] | np.ndarray],
    *,
    overwrite: bool = False,
) -> None:
    """Writes columns of equal length as ``.csv`` or ``.parquet``, by suffix.

    None becomes an empty cell. Columns of lists go into Parquet only.

    Raises:
        ValueError: the suffix is another one, the columns differ in length, or a column
            of lists is to go into a CSV.
        FileExistsError: the file is there and ``overwrite`` is False.
    """
    path = pathlib.Path(path)
    if path.suffix not in (".csv", ".parquet"):
        raise errors.UserError(
            f"table {str(path)!r} has the suffix {path.suffix!r}; expected .csv or "
            ".parquet"
        )
    _require_same_length(**columns)
    table = pa.table(
        {
            name: pa.array(list(column) if np.ndim(column) > 1 else column)
            for name, column in columns.items()
        }
    )
    if path.suffix == ".parquet":
        with atomic_files.file(path, overwrite) as temporary:
            pyarrow.parquet.write_table(table, temporary)
        return
    nested = [field.name for field in table.schema if pa.types.is_nested(field.type)]
    if nested:
        raise errors.UserError(
            f"columns {nested} hold lists, which a CSV cannot; write .parquet, or one "
            "column per entry"
        )
    options = pyarrow.csv.WriteOptions(quoting_style="needed")
    with atomic_files.file(path, overwrite) as temporary:
        pyarrow.csv.write_csv(table, temporary, options)


def read_table(path: str | os.PathLike[str]) -> dict[str, list[Any]]:
    """Columns of a ``.parquet`` that `write_table` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged.
    """
    try:
        return pyarrow.parquet.read_table(path).to_pydict()
    except FileNotFoundError:
        raise
    # Arrow raises several kinds of errors for what is malformed, OSError among them.
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = " ".join(str(error).split())
        raise errors.UserError(
            f"{path} is damaged ({reason}); copy it again, or make it again"
        ) from error


def is_writable(crystal: structure.Crystal) -> bool:
    """Whether a file can hold the crystal: numbers are finite, and there is a cell."""
    # Flat and gigantic cells can be written; what cannot be is a cell without volume,
    # which no reader could turn back into fractional coordinates.
    return (
        crystal.num_sites > 0
        and validity.is_finite(crystal)
        and validity.cell_volume(crystal) >= validity.MIN_CELL_VOLUME
    )


def _require_same_length(**sequences: Sequence[Any] | np.ndarray) -> None:
    lengths = {name: len(sequence) for name, sequence in sequences.items()}
    if len(set(lengths.values())) > 1:
        raise errors.UserError(
            f"lengths {lengths} differ; expected one entry per row in each"
        )
