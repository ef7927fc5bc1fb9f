"""Crystals to be screened, from files: a table with one row per crystal.

A row whose crystal cannot be read stays, with the reason.
"""

import dataclasses
import hashlib
import io
import itertools
import os
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from crystaljax.crystals import (
    bridge,
    elements,
    extxyz,
    inputs,
    stated_formulas,
    structure,
    structure_files,
)
from crystaljax.crystals import names as names_lib
from crystaljax.data.readers import archives
from crystaljax.screening import crystal_tables
from crystaljax.system import errors, text_files

_EXTXYZ_SUFFIXES = (".extxyz", ".xyz")
_SAMPLES = re.compile(r"samples(-\d{5,}-of-\d{5,})?\.parquet")


@dataclasses.dataclass(frozen=True, eq=False)
class Candidates:
    """One entry per row.

    Attributes:
        names: unique.
        crystals: as their files have them; `structure.NO_CRYSTAL` where there is none.
        problems: why a crystal could not be read; "" if it was.
        columns: what else is known of them: conditions, seed, ….
        files: the file of each, within the folder or archive that was given; may be
            empty.
    """

    names: list[str]
    crystals: list[structure.Crystal]
    problems: list[str]
    columns: dict[str, list[Any]]
    files: Sequence[str] = ()

    def table(self) -> dict[str, list[Any]]:
        """Columns with one row per crystal, the name first."""
        return {"name": self.names} | {
            key: values for key, values in self.columns.items() if key != "name"
        }


def read_candidates(path: str | os.PathLike[str]) -> Candidates:
    """Reads crystals to be screened.

    Args:
        path: a folder that `crystaljax.sample`, `crystaljax.modify` or
            `crystaljax.evaluate` wrote, with the table of its samples; an extxyz file,
            whose ``info`` is the table; a CSV with a column of CIFs (see
            `crystal_tables`); a CIF or POSCAR file; a folder or an archive (zip, tar)
            of such files.

    Raises:
        FileNotFoundError: there is nothing at ``path``.
        ValueError: there are no crystals, a format is unknown, or the files of samples
            do not belong together.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise FileNotFoundError(
            f"nothing at {path}; expected a folder of samples or crystals, or a file"
        )
    if path.is_dir():
        tables = sorted(each for each in path.iterdir() if _is_samples(each))
        evaluated = path / "samples.extxyz"
        if tables:
            rows = _read_samples(tables)
        else:
            rows = _read_frames(evaluated) if evaluated.exists() else _read_files(path)
    elif crystal_tables.is_table(path):
        rows = [
            _Row(each.name, each.crystal, path.name, each.cells, each.problem)
            for each in crystal_tables.read_table(path)
        ]
    elif archives.is_archive(path):
        rows = list(_read_archive(path))
    elif path.suffix.lower() in _EXTXYZ_SUFFIXES:
        rows = _read_frames(path)
    else:
        rows = _read_files(path)
    if not rows:
        raise errors.UserError(f"{path} holds no crystals")
    keys = dict.fromkeys(key for row in rows for key in row.info)
    return Candidates(
        names=names_lib.make_unique(names_lib.encodable(row.name) for row in rows),
        crystals=[row.crystal for row in rows],
        problems=[row.problem for row in rows],
        columns={key: _column(key, rows) for key in keys},
        files=[names_lib.encodable(row.file) for row in rows],
    )


def formula(crystal: structure.Crystal) -> str:
    """Formula of the cell; "" for what is no crystal."""
    numbers = np.asarray(crystal.atomic_numbers, dtype=int)
    if not len(numbers) or numbers.min() < 1 or numbers.max() > elements.NUM_ELEMENTS:
        return ""
    return elements.cell_formula(numbers)


def fingerprint(candidates: Candidates) -> str:
    """Hash of names and crystals."""
    return fingerprint_of(candidates.names, candidates.crystals)


def fingerprint_of(names: Sequence[str], crystals: Sequence[structure.Crystal]) -> str:
    """Hash of names and crystals."""
    digest = hashlib.blake2b(digest_size=16)
    for name, crystal in zip(names, crystals, strict=True):
        digest.update(f"{name} {crystal.num_sites} ".encode())
        for values, dtype in (
            (crystal.atomic_numbers, np.int64),
            (crystal.frac_coords, np.float64),
            (crystal.lattice, np.float64),
        ):
            digest.update(np.ascontiguousarray(values, dtype=dtype).tobytes())
    return digest.hexdigest()


@dataclasses.dataclass(frozen=True, eq=False)
class _Row:
    name: str
    crystal: structure.Crystal
    file: str
    info: dict[str, Any] = dataclasses.field(default_factory=dict)
    problem: str = ""
    # The same as ``info`` where a file has it as text.
    texts: Mapping[str, str] = dataclasses.field(default_factory=dict)


def _is_samples(path: pathlib.Path) -> bool:
    return _SAMPLES.fullmatch(path.name) is not None


def _read_samples(tables: Sequence[pathlib.Path]) -> list[_Row]:
    rows = []
    for path in tables:
        table = structure_files.read_table(path)
        if "name" not in table:
            raise errors.UserError(
                f"{path} has no column 'name'; make the samples again"
            )
        infos = [
            dict(zip(table, values, strict=True))
            for values in zip(*table.values(), strict=True)
        ]
        frames = list(_read_frames(path.with_suffix(".extxyz")))
        written = [info for info in infos if info.get("written", True)]
        if len(written) != len(frames):
            raise errors.UserError(
                f"{path} says of {len(written)} crystals that they are in "
                f"{path.with_suffix('.extxyz').name}, which holds {len(frames)}; make "
                "the samples again"
            )
        crystals = iter(frames)
        for info in infos:
            name = str(info["name"])
            if info.pop("written", True):
                frame = next(crystals)
                if not frame.problem and frame.name != name:
                    raise errors.UserError(
                        f"{frame.file} has the crystal {frame.name!r} where "
                        f"{path.name} has {name!r}; make the samples again"
                    )
                rows.append(_compared(dataclasses.replace(frame, name=name, info=info)))
            else:
                problem = "the sample is not finite or has no volume"
                crystal = structure.NO_CRYSTAL
                rows.append(_Row(name, crystal, path.name, info, problem))
    return rows


def _compared(row: _Row) -> _Row:
    """The row with the crystal, if it is the one that its table describes."""
    if row.problem:
        return row
    try:
        stated_formulas.require_formula(
            row.info.get("formula"), row.crystal.atomic_numbers
        )
        stated_formulas.require_num_sites(row.info.get("num_sites"), row.crystal)
        stated_formulas.require_volume(row.info.get("volume"), row.crystal)
    except ValueError as error:
        problem = f"{_one_line(error)}; make the samples again"
        return dataclasses.replace(row, crystal=structure.NO_CRYSTAL, problem=problem)
    return row


def _read_frames(path: pathlib.Path) -> list[_Row]:
    with text_files.open_text(path.open("rb")) as file:
        return list(_parse_frames(file, path.stem, path.name))


def _parse_frames(file: io.TextIOBase, stem: str, place: str) -> Iterator[_Row]:
    """Frames of an extxyz file; one that cannot be used costs itself."""
    frames = extxyz.split_frames(file)
    for index in itertools.count():
        name = f"{stem}-{index}"
        try:
            text = next(frames)
        except StopIteration:
            return
        except ValueError as error:
            # Where a frame begins is known only as long as all before it were whole.
            problem = f"neither this frame nor those after it can be read: {error}"
            yield _Row(name, structure.NO_CRYSTAL, place, problem=_one_line(problem))
            return
        try:
            frame = extxyz.parse_frame(text)
        except ValueError as error:
            yield _Row(name, structure.NO_CRYSTAL, place, problem=_one_line(error))
            continue
        info = {key: _to_python(value) for key, value in frame.atoms.info.items()}
        try:
            crystal, problem = structure.wrapped(bridge.from_ase(frame.atoms)), ""
        except Exception as error:
            crystal, problem = structure.NO_CRYSTAL, _one_line(error)
        name = frame.texts.get("name", name)
        yield _Row(name, crystal, place, info, problem, frame.texts)


def _one_line(message: object) -> str:
    return " ".join(str(message).split())


def _read_files(path: pathlib.Path) -> list[_Row]:
    found, unreadable = inputs.read_inputs(path)
    rows = [
        (str(each.path), _Row(each.name, each.crystal, each.path.name))
        for each in found
    ]
    for each in unreadable:
        file = pathlib.Path(each.name)
        row = _Row(file.stem, structure.NO_CRYSTAL, file.name, problem=each.reason)
        rows.append((each.name, row))
    # By file; the frames of one stay in order.
    return [row for _, row in sorted(rows, key=lambda pair: pair[0])]


def _read_archive(path: pathlib.Path) -> Iterator[_Row]:
    """Crystals of an archive; a member that cannot be read costs itself."""
    for member in archives.find_members(path):
        name = pathlib.PurePosixPath(member.name)
        is_extxyz = name.suffix.lower() in _EXTXYZ_SUFFIXES
        format = inputs.find_format(name.name)
        if not (is_extxyz or format or member.is_rest):
            # Neither a crystal nor meant to be one: a table, a README.
            continue
        text = archives.read_text(path, member)
        if not isinstance(text, str):
            problem = _one_line(text.detail or f"{member.name}: {text.reason}")
            yield _Row(name.stem, structure.NO_CRYSTAL, member.name, problem=problem)
            continue
        if is_extxyz:
            yield from _name_single(
                list(_parse_frames(io.StringIO(text), name.stem, member.name)),
                name.stem,
            )
            continue
        assert format is not None
        try:
            crystal, problem = inputs.parse_crystal(text, format), ""
        except Exception as error:
            # Parsers of others raise whatever a malformed file leads to.
            crystal = structure.NO_CRYSTAL
            problem = f"{member.name} in {path}: {_one_line(error)}"
        yield _Row(name.stem, crystal, member.name, problem=problem)


def _name_single(rows: list[_Row], stem: str) -> list[_Row]:
    """The only frame of a file is named as the file is, unless it has a name."""
    if len(rows) == 1 and "name" not in rows[0].texts:
        return [dataclasses.replace(rows[0], name=stem)]
    return rows


def _to_python(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return str(value.tolist())
    return value.item() if isinstance(value, np.generic) else value


def _column(key: str, rows: Sequence[_Row]) -> list[Any]:
    """The same where a table can hold it, else as text."""
    values = [row.info.get(key) for row in rows]
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} and float in kinds:
        return [None if value is None else float(value) for value in values]
    if len(kinds) <= 1 and kinds <= {str, bool, int, float}:
        return values
    # As it is written, not as what it was taken for.
    return [
        None if value is None else row.texts.get(key, str(value))
        for row, value in zip(rows, values, strict=True)
    ]
