"""Crystals to be screened, from files: a table with one row per crystal.

A row whose crystal cannot be read stays, with the reason.
"""

import dataclasses
import hashlib
import io
import os
import pathlib
import re
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any

import ase.io
import numpy as np
import pyarrow.parquet

from crystaljax.crystals import bridge, elements, inputs, structure
from crystaljax.data import dataset as datasets
from crystaljax.hull import compositions
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
    """

    names: list[str]
    crystals: list[structure.Crystal]
    problems: list[str]
    columns: dict[str, list[Any]]

    def table(self) -> dict[str, list[Any]]:
        """Columns with one row per crystal, the name first."""
        return {"name": self.names} | {
            key: values for key, values in self.columns.items() if key != "name"
        }


def read_candidates(path: str | os.PathLike[str]) -> Candidates:
    """Reads crystals to be screened.

    Args:
        path: a folder that `crystaljax.sample` or `crystaljax.modify` wrote, with the
            table of its samples; an extxyz file, whose ``info`` is the table; a CIF or
            POSCAR file; a folder or zip archive of such files.

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
        rows = _read_samples(tables) if tables else _read_files(path)
    elif path.suffix.lower() == ".zip":
        rows = _read_zip(path)
    elif path.suffix.lower() in _EXTXYZ_SUFFIXES:
        rows = list(_read_frames(path))
    else:
        rows = _read_files(path)
    if not rows:
        raise errors.UserError(f"{path} holds no crystals")
    keys = dict.fromkeys(key for row in rows for key in row.info)
    return Candidates(
        names=_make_unique([row.name for row in rows]),
        crystals=[row.crystal for row in rows],
        problems=[row.problem for row in rows],
        columns={key: _column([row.info.get(key) for row in rows]) for key in keys},
    )


def formula(crystal: structure.Crystal) -> str:
    """Formula of the cell; "" for what is no crystal."""
    numbers = np.asarray(crystal.atomic_numbers, dtype=int)
    if not len(numbers) or numbers.min() < 1 or numbers.max() > elements.NUM_ELEMENTS:
        return ""
    return elements.cell_formula(numbers)


def fingerprint(candidates: Candidates) -> str:
    """Hash of names and crystals."""
    digest = hashlib.blake2b(digest_size=16)
    for name, crystal in zip(candidates.names, candidates.crystals, strict=True):
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
    info: dict[str, Any]
    problem: str = ""


def _is_samples(path: pathlib.Path) -> bool:
    return _SAMPLES.fullmatch(path.name) is not None


def _read_samples(tables: Sequence[pathlib.Path]) -> list[_Row]:
    rows = []
    for path in tables:
        infos = pyarrow.parquet.read_table(path).to_pylist()
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
            if info.pop("written", True):
                frame = next(crystals)
                rows.append(_Row(str(info["name"]), frame.crystal, info, frame.problem))
            else:
                problem = "the sample is not finite or has no volume"
                rows.append(
                    _Row(str(info["name"]), structure.NO_CRYSTAL, info, problem)
                )
    return rows


def _read_frames(path: pathlib.Path) -> Iterator[_Row]:
    """Frames of an extxyz file; one that cannot be used costs itself."""
    if path.stat().st_size == 0:
        return
    with text_files.open_text(path.open("rb")) as file:
        yield from _read_open(file, path)


def _read_open(file: io.TextIOWrapper, path: pathlib.Path) -> Iterator[_Row]:
    # Not by its path: ASE takes the encoding of the machine.
    frames = ase.io.iread(file, index=":", format="extxyz")
    index = 0
    while True:
        name = f"{path.stem}-{index}"
        try:
            atoms = next(frames)
        except StopIteration:
            return
        except Exception as error:
            # Where a frame begins is known only as long as all before it were whole.
            problem = f"neither this frame nor those after it can be read: {error}"
            yield _Row(name, structure.NO_CRYSTAL, {}, " ".join(problem.split()))
            return
        info = {key: _to_python(value) for key, value in atoms.info.items()}
        name = str(info.get("name", name))
        try:
            crystal, problem = bridge.from_ase(atoms), ""
        except Exception as error:
            crystal, problem = structure.NO_CRYSTAL, " ".join(str(error).split())
        yield _Row(name, crystal, info, problem)
        index += 1


def _read_files(path: pathlib.Path) -> list[_Row]:
    found, unreadable = inputs.read_inputs(path)
    rows = [(str(each.path), _Row(each.name, each.crystal, {})) for each in found]
    for each in unreadable:
        row = _Row(pathlib.Path(each.name).stem, structure.NO_CRYSTAL, {}, each.reason)
        rows.append((each.name, row))
    # By file; the frames of one stay in order.
    return [row for _, row in sorted(rows, key=lambda pair: pair[0])]


def _read_zip(path: pathlib.Path) -> list[_Row]:
    with tempfile.TemporaryDirectory() as folder:
        try:
            with zipfile.ZipFile(path) as archive:
                for index, entry in enumerate(archive.infolist()):
                    name = pathlib.PurePosixPath(entry.filename).name
                    if not entry.is_dir() and not name.startswith("."):
                        # One folder for each, so that equal names can be there.
                        target = pathlib.Path(folder, f"{index:09d}")
                        target.mkdir()
                        (target / name).write_bytes(archive.read(entry))
        except zipfile.BadZipFile as error:
            raise errors.UserError(f"{path} is no zip archive: {error}") from error
        rows = []
        for target in sorted(pathlib.Path(folder).iterdir()):
            try:
                rows += _read_files(target)
            except ValueError:
                # Neither a crystal nor meant to be one: a table, a README.
                continue
    return rows


def _to_python(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return str(value.tolist())
    return value.item() if isinstance(value, np.generic) else value


def _column(values: list[Any]) -> list[Any]:
    """The same where a table can hold it, else as text."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} and float in kinds:
        return [None if value is None else float(value) for value in values]
    if len(kinds) <= 1 and kinds <= {str, bool, int, float}:
        return values
    return [None if value is None else str(value) for value in values]


def _make_unique(names: Sequence[str]) -> list[str]:
    used: set[str] = set()
    unique = []
    for name in names:
        candidate, count = name, 1
        while candidate in used:
            count += 1
            candidate = f"{name}-{count}"
        used.add(candidate)
        unique.append(candidate)
    return unique


def read_known(
    path: str | os.PathLike[str], crystals: Sequence[structure.Crystal]
) -> list[tuple[str, structure.Crystal]]:
    """Ids and crystals of a data set that have the composition of one of ``crystals``.

    Raises:
        FileNotFoundError: there is no data set.
        ValueError: it is damaged.
    """
    dataset = datasets.open_dataset(path)
    wanted = {
        elements.reduced_formula(np.asarray(each.atomic_numbers, dtype=int))
        for each in crystals
        if formula(each)
    }
    symbols = {compositions.symbols_of(each) for each in wanted}
    formulas = dataset.formula.to_pylist()
    matching = {
        each
        for each in set(formulas)
        # Cheaper than what follows, where there are millions.
        if compositions.symbols_of(each) in symbols and _reduced(each) in wanted
    }
    return [
        (dataset.id[i].as_py(), datasets.crystal(dataset, i))
        for i, each in enumerate(formulas)
        if each in matching
    ]


def _reduced(text: str) -> str:
    numbers = elements.formula_atomic_numbers(text)
    return elements.reduced_formula(numbers.astype(int))
