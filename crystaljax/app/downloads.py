"""Crystals of a job as files: CIF, POSCAR, extxyz, or an archive of all of them."""

import csv
import io
import pathlib
import tempfile
import zipfile
from collections.abc import Sequence
from typing import Any

from crystaljax.app import results
from crystaljax.crystals import elements, names, structure_files
from crystaljax.system import errors

FORMATS = ("cif", "poscar", "extxyz", "zip")


def build(
    rows: Sequence[results.Row], file_format: str, title: str, command_line: str
) -> tuple[str, bytes]:
    """Name and content of a file.

    Args:
        rows: the crystals; one for "cif" and "poscar".
        file_format: of `FORMATS`.
        title: what the file is called after, where it holds several.
        command_line: that makes the same again, for archives.

    Raises:
        UserError: an unknown format, or not as many crystals as it holds.
    """
    if file_format not in FORMATS:
        raise errors.UserError(
            f"unknown format {file_format!r}; expected one of {', '.join(FORMATS)}"
        )
    if not rows:
        raise errors.UserError("no crystals are chosen; expected one at least")
    if file_format in ("cif", "poscar") and len(rows) > 1:
        raise errors.UserError(
            f"a {file_format} holds one crystal, and {len(rows)} are chosen; expected "
            "one, or the format zip"
        )
    used: set[str] = set()
    stem = names.unique_stem(rows[0].name if len(rows) == 1 else title, used)
    if file_format == "cif":
        return f"{stem}.cif", structure_files.cif_text(rows[0].crystal, stem).encode()
    if file_format == "poscar":
        return f"{stem}.vasp", _poscar(rows[0]).encode()
    if file_format == "extxyz":
        return f"{stem}.extxyz", _extxyz(rows)
    return f"{stem}.zip", _archive(rows, command_line)


def _poscar(row: results.Row) -> str:
    return structure_files.poscar_text(row.crystal, row.name)


def _extxyz(rows: Sequence[results.Row]) -> bytes:
    infos = [{"name": row.name, **_values(row)} for row in rows]
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "crystals.extxyz")
        structure_files.write_extxyz(path, [row.crystal for row in rows], infos)
        return path.read_bytes()


def _archive(rows: Sequence[results.Row], command_line: str) -> bytes:
    buffer = io.BytesIO()
    used: set[str] = set()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for row in rows:
            stem = names.unique_stem(row.name, used)
            cif = structure_files.cif_text(row.crystal, stem)
            archive.writestr(f"cif/{stem}.cif", cif)
            archive.writestr(f"poscar/{stem}.vasp", _poscar(row))
        archive.writestr("crystals.extxyz", _extxyz(rows))
        archive.writestr("crystals.csv", _table(rows))
        archive.writestr("command.txt", command_line + "\n")
    return buffer.getvalue()


def _table(rows: Sequence[results.Row]) -> str:
    keys = list(dict.fromkeys(key for row in rows for key in _values(row)))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", "formula", *keys])
    for row in rows:
        formula = elements.cell_formula(row.crystal.atomic_numbers)
        values = _values(row)
        writer.writerow([row.name, formula, *(values.get(key, "") for key in keys)])
    return text.getvalue()


def _values(row: results.Row) -> dict[str, Any]:
    """What is known of a crystal, without what only the page needs."""
    return {
        key: value
        for key, value in row.values.items()
        if key != "place" and value not in (None, "") and value == value
    }
