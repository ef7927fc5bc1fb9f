"""The data set on disk: a directory that holds one memory-mapped Arrow table.

``structures.arrow`` is an uncompressed Arrow IPC file with one record batch, which
pandas, polars and DuckDB read as it is; ``dataset.json`` describes it. A structure of n
sites takes about 16 n + 60 bytes. Nothing is read when a data set is opened: the
columns are NumPy views of the memory map, and `gather` copies out the requested batch.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int

from crystaljax.crystals import elements, structure
from crystaljax.data import columnar
from crystaljax.system import atomic_files, errors

if TYPE_CHECKING:
    from crystaljax.crystals import sample_tensors

TABLE_NAME = "structures.arrow"
INFO_NAME = "dataset.json"
VERSION = 1
SPLITS = ("train", "val", "test")

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("formula", pa.string()),
        ("group", pa.int32()),
        ("num_sites", pa.uint8()),
        ("atomic_numbers", pa.list_(pa.uint8())),
        ("frac_coords", pa.list_(pa.list_(pa.float32(), 3))),
        ("lattice", pa.list_(pa.float32(), 9)),
        ("space_group", pa.uint8()),
        ("formation_energy", pa.float32()),
        ("split", pa.dictionary(pa.int8(), pa.string())),
    ]
)


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset(columnar.Columns):
    """An open data set: its columns, which are views of the memory map, and more.

    Attributes:
        group: int32 (structures,), number of the polymorph group: structures with the
            same cell formula have the same one.
        split: int8 (structures,), index into ``SPLITS``.
        path: the directory.
        info: the content of dataset.json.
    """

    group: np.ndarray
    split: np.ndarray
    path: pathlib.Path
    info: Mapping[str, Any]

    def indices(self, split: str) -> Int[np.ndarray, " structures"]:
        """Indices of the structures of a split, ascending.

        Raises:
            ValueError: there is no split of that name.
        """
        if split not in SPLITS:
            raise errors.UserError(f"unknown split {split!r}; expected one of {SPLITS}")
        return np.flatnonzero(self.split == SPLITS.index(split))


def write_dataset(
    path: str | os.PathLike,
    columns: columnar.Columns,
    split: Int[np.ndarray, " structures"],
    info: Mapping[str, Any],
    *,
    workspace: pathlib.Path | None = None,
    overwrite: bool = False,
    write_more_fn: Callable[[pathlib.Path], None] | None = None,
) -> None:
    """Writes a data set; it appears under its name only when it is complete.

    Args:
        path: the directory to make.
        columns: the structures, in canonical form.
        split: index into ``SPLITS`` of each structure.
        info: what else dataset.json shall say: plain JSON values.
        workspace: directory for what is not complete yet, on the same file system; the
            one that ``path`` is in if None.
        overwrite: replace an existing data set. A directory that is not a data set
            is never replaced.
        write_more_fn: writes further files into the directory it is given, before it
            gets its name.

    Raises:
        FileExistsError: ``path`` exists, and may not or cannot be replaced.
        ValueError: a structure has more than 255 sites or lacks a label.
    """
    path = pathlib.Path(path)
    check_can_write(path, overwrite=overwrite)
    _require_valid(columns)
    with atomic_files.folder(path, workspace) as temporary:
        table = temporary / TABLE_NAME
        with (
            pa.OSFile(str(table), "wb") as sink,
            pa.ipc.new_file(sink, SCHEMA) as writer,
        ):
            writer.write_batch(_record_batch(columns, split))
        if write_more_fn is not None:
            write_more_fn(temporary)
        described = {
            "version": VERSION,
            "num_structures": len(columns),
            "num_sites": int(columns.offsets[-1]),
            "splits": {
                name: int(np.sum(split == code)) for code, name in enumerate(SPLITS)
            },
            "vocabulary": _vocabulary(columns, split),
            **info,
            "table": {
                "num_bytes": table.stat().st_size,
                "sha256": _checksum(table),
            },
        }
        described["sha256"] = _info_checksum(described)
        text = json.dumps(described, indent=2, allow_nan=False)
        (temporary / INFO_NAME).write_text(text + "\n", encoding="utf-8")


def check_can_write(path: str | os.PathLike, *, overwrite: bool) -> None:
    """Raises FileExistsError where `write_dataset` would: ask before long work."""
    path = pathlib.Path(path)
    if not path.exists():
        return
    if not overwrite:
        raise FileExistsError(
            f"{path} exists; choose another directory, or pass --overwrite"
        )
    if not (path / INFO_NAME).exists() and not (path.is_dir() and _is_empty(path)):
        raise FileExistsError(
            f"{path} is not a data set ({INFO_NAME} is missing), so it is not "
            "overwritten; remove it yourself or choose another directory"
        )


def open_dataset(path: str | os.PathLike, *, verify: bool = True) -> Dataset:
    """Opens a data set; its columns are read from the memory map when they are used.

    Args:
        path: the directory.
        verify: compare the table's checksum, which reads all of it: 1-2 s a GB. Without
            it, a table of the right length is taken to be the right one.

    Raises:
        FileNotFoundError: there is no such directory, or it is not a data set.
        ValueError: the data set is of another version, truncated or altered.
    """
    path = pathlib.Path(path)
    info = read_info(path)
    table = path / TABLE_NAME
    _require_intact(table, info, verify=verify)
    with pa.memory_map(str(table)) as source:
        try:
            batch = pa.ipc.open_file(source).get_batch(0)
        except (pa.ArrowInvalid, OSError) as error:
            raise errors.UserError(
                f"{table} is damaged ({error}); prepare it again"
            ) from error
    if not batch.schema.equals(SCHEMA):
        raise errors.UserError(
            f"{table} has the columns {batch.schema.names} or types that differ from "
            f"version {VERSION} of the format; prepare it again"
        )
    coords = batch.column("frac_coords").values.values
    lattice = batch.column("lattice").values
    site_lists = batch.column("atomic_numbers")
    return Dataset(
        id=batch.column("id"),
        formula=batch.column("formula"),
        offsets=_numpy_view(site_lists.offsets),
        atomic_numbers=_numpy_view(site_lists.values),
        frac_coords=_numpy_view(coords).reshape(-1, 3),
        lattice=_numpy_view(lattice).reshape(-1, 3, 3),
        space_group=_numpy_view(batch.column("space_group")),
        formation_energy=_numpy_view(batch.column("formation_energy")),
        group=_numpy_view(batch.column("group")),
        split=_numpy_view(batch.column("split").indices),
        path=path,
        info=info,
    )


def read_info(path: str | os.PathLike) -> dict[str, Any]:
    """The content of dataset.json.

    Raises:
        FileNotFoundError: there is no such directory, or it is not a data set.
        ValueError: dataset.json is of another version or not readable.
    """
    path = pathlib.Path(path)
    if not path.is_dir():
        raise FileNotFoundError(
            f"no data set at {path}; make one with crystaljax prepare"
        )
    if not (path / INFO_NAME).exists():
        raise FileNotFoundError(
            f"{path} is not a data set: {INFO_NAME} is missing; expected a directory "
            "made by crystaljax prepare"
        )
    try:
        info = json.loads((path / INFO_NAME).read_bytes())
    except (ValueError, RecursionError) as error:
        raise errors.UserError(f"{path / INFO_NAME} is not JSON ({error})") from error
    if not isinstance(info, dict) or info.get("version") != VERSION:
        found = info.get("version") if isinstance(info, dict) else None
        raise errors.UserError(
            f"{path} is a data set of version {found}; this crystaljax reads version "
            f"{VERSION}; prepare it again"
        )
    table = info.get("table")
    if not isinstance(table, dict) or not {"num_bytes", "sha256"} <= table.keys():
        raise errors.UserError(f"{path / INFO_NAME} does not describe {TABLE_NAME}")
    # Data sets of earlier releases have none.
    if info.get("sha256", expected := _info_checksum(info)) != expected:
        raise errors.UserError(
            f"{path / INFO_NAME} has another SHA-256 than when it was written: it is "
            "altered; copy or prepare it again"
        )
    return info


def vocabulary(dataset: Dataset) -> dict[str, Any]:
    """What the training structures contain, as JSON values.

    Elements (symbols), space groups, largest number of sites, range of the formation
    energy (eV/atom). Empty lists and None where there are no training structures.
    """
    return dataset.info["vocabulary"]


def gather(
    dataset: Dataset, indices: Int[np.ndarray, "*batch"], rows_of_sites: int
) -> "sample_tensors.CrystalBatch":
    """Copies structures out of the memory map, padded with 0 to ``rows_of_sites``.

    Args:
        dataset: an open data set.
        indices: structures to take, in any shape: ``(batch,)``, ``(steps, batch)``.
        rows_of_sites: site rows of the result, ``structure.max_sites(rows)``.

    Returns:
        NumPy arrays with the leading shape of ``indices``.

    Raises:
        ValueError: one of the structures has more sites than ``rows_of_sites``.
    """
    starts = dataset.offsets[indices].astype(np.int64)
    num_sites = dataset.offsets[indices + 1] - dataset.offsets[indices]
    if num_sites.size and num_sites.max() > rows_of_sites:
        raise errors.UserError(
            f"a structure has {num_sites.max()} sites, but there are {rows_of_sites} "
            f"site rows; use rows={structure.rows_for(int(num_sites.max()))} or more, "
            "or drop large structures"
        )
    # Rows that hold no site point at the structure's own first site (so that no other
    # page is touched) and are zeroed after.
    row = np.arange(rows_of_sites)
    is_site = row < num_sites[..., None]
    sites = starts[..., None] + row * is_site
    atomic_numbers = dataset.atomic_numbers.take(sites)
    atomic_numbers *= is_site
    frac_coords = dataset.frac_coords.take(sites, axis=0)
    frac_coords *= is_site[..., None]
    # It brings JAX, which those who only read a data set do without.
    from crystaljax.crystals import sample_tensors

    return sample_tensors.CrystalBatch(
        atomic_numbers=atomic_numbers,
        frac_coords=frac_coords,
        lattice=dataset.lattice.take(indices, axis=0),
        num_sites=num_sites.astype(np.int32),
        space_group=dataset.space_group.take(indices),
        energy=dataset.formation_energy.take(indices),
    )


def crystal(dataset: Dataset, index: int) -> structure.Crystal:
    """One structure, without padding, in float64.

    Raises:
        IndexError: ``index`` is not in the data set.
    """
    if not 0 <= index < len(dataset):
        raise IndexError(f"structure {index} of {len(dataset)}; counted from 0")
    sites = slice(dataset.offsets[index], dataset.offsets[index + 1])
    return structure.Crystal(
        atomic_numbers=dataset.atomic_numbers[sites].astype(np.int64),
        frac_coords=dataset.frac_coords[sites].astype(np.float64),
        lattice=dataset.lattice[index].astype(np.float64),
    )


def _record_batch(columns: columnar.Columns, split: np.ndarray) -> pa.RecordBatch:
    offsets = pa.array(columns.offsets, pa.int32())
    coords = pa.FixedSizeListArray.from_arrays(
        pa.array(columns.frac_coords.reshape(-1), pa.float32()), 3
    )
    arrays = {
        "id": columns.id,
        "formula": columns.formula,
        "group": pa.array(columnar.polymorph_groups(columns.formula)),
        "num_sites": pa.array(columns.num_sites.astype(np.uint8)),
        "atomic_numbers": pa.ListArray.from_arrays(
            offsets, pa.array(columns.atomic_numbers, pa.uint8())
        ),
        "frac_coords": pa.ListArray.from_arrays(offsets, coords),
        "lattice": pa.FixedSizeListArray.from_arrays(
            pa.array(columns.lattice.reshape(-1), pa.float32()), 9
        ),
        "space_group": pa.array(columns.space_group, pa.uint8()),
        "formation_energy": pa.array(columns.formation_energy, pa.float32()),
        "split": pa.DictionaryArray.from_arrays(
            pa.array(split.astype(np.int8)), pa.array(SPLITS)
        ),
    }
    return pa.RecordBatch.from_arrays(
        [arrays[name] for name in SCHEMA.names], schema=SCHEMA
    )


def _vocabulary(columns: columnar.Columns, split: np.ndarray) -> dict[str, Any]:
    """Of the training structures."""
    is_train = split == 0
    found = np.zeros(256, bool)
    for where, block in columnar.blocks(columns):
        in_block = np.repeat(is_train[where], block.num_sites)
        found |= np.bincount(block.atomic_numbers[in_block], minlength=256) > 0
    energies = columns.formation_energy[is_train]
    num_sites = columns.num_sites[is_train]
    space_groups = np.bincount(columns.space_group[is_train], minlength=231)
    return {
        "elements": [
            elements.symbol(number) for number in np.flatnonzero(found).tolist()
        ],
        "space_groups": np.flatnonzero(space_groups).tolist(),
        "max_sites": int(num_sites.max()) if len(num_sites) else None,
        "formation_energy": (
            [float(energies.min()), float(energies.max())] if len(energies) else None
        ),
    }


def _require_valid(columns: columnar.Columns) -> None:
    num_sites = columns.num_sites
    if len(columns) and not (
        num_sites.min() > 0 and num_sites.max() <= columnar.MAX_SITES
    ):
        raise errors.UserError(
            f"structures have {num_sites.min()} to {num_sites.max()} sites; expected 1 "
            f"to {columnar.MAX_SITES}"
        )
    for name in ("frac_coords", "lattice", "formation_energy"):
        if not np.isfinite(getattr(columns, name)).all():
            raise errors.UserError(f"{name} has entries that are not finite")
    numbers = columns.space_group
    if len(numbers) and not (numbers.min() > 0 and numbers.max() <= 230):
        raise errors.UserError(
            f"space groups {numbers.min()} to {numbers.max()}; expected 1 to 230"
        )


def _require_intact(
    table: pathlib.Path, info: Mapping[str, Any], *, verify: bool
) -> None:
    if not table.exists():
        raise FileNotFoundError(f"{table} is missing; prepare the data set again")
    num_bytes, expected = table.stat().st_size, info["table"]["num_bytes"]
    if num_bytes != expected:
        raise errors.UserError(
            f"{table} has {num_bytes} bytes, but {expected} were written: it is "
            "truncated or altered; copy or prepare it again"
        )
    if verify and _checksum(table) != info["table"]["sha256"]:
        raise errors.UserError(
            f"{table} has another SHA-256 than when it was written: it is altered; "
            "copy or prepare it again"
        )


def _is_empty(path: pathlib.Path) -> bool:
    return next(path.iterdir(), None) is None


def _checksum(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _info_checksum(info: Mapping[str, Any]) -> str:
    """Of all entries but the checksum itself."""
    rest = {name: value for name, value in info.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _numpy_view(array: pa.Array) -> np.ndarray:
    return array.to_numpy(zero_copy_only=True)
