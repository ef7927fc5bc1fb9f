"""The standard setting of a data set: its structures as orbits of their space groups.

``orbits.arrow`` lies beside ``structures.arrow`` and has a row for each of its rows:
the primitive cell in the standard setting (`standard_groups`) in the description that
equal crystals share (`standard_choice`). Structures of which spglib finds no symmetry
have a row without orbits. `prepare --setting=standard` makes it.
"""

import collections
import dataclasses
import functools
import hashlib
import os
import pathlib
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int

from crystaljax.crystals import orbits, standard_choice, standard_groups, structure
from crystaljax.data import columnar
from crystaljax.data import dataset as datasets
from crystaljax.system import errors, workers

TABLE_NAME = "orbits.arrow"
SCHEMA = pa.schema(
    [
        ("space_group", pa.uint8()),
        ("num_cells", pa.uint8()),
        ("anchor", pa.uint8()),
        ("atomic_numbers", pa.list_(pa.uint8())),
        ("positions", pa.list_(pa.uint8())),
        ("parameters", pa.list_(pa.list_(pa.float32(), 3))),
        ("strain", pa.list_(pa.float32(), standard_groups.MAX_STRAINS)),
    ]
)
# Structures that a worker takes at a time, and that are kept when a run is stopped.
_CHUNK_SIZE = 512
_SECONDS_EACH = 0.01
_NUM_EXAMPLES = 3


@dataclasses.dataclass(frozen=True, eq=False)
class OrbitTable:
    """Structures as orbits; those of all structures lie one after the other.

    Attributes:
        space_group: uint8 (structures,), 1-230, that spglib found; 0 where there are no
            orbits.
        num_cells: uint8 (structures,), primitive cells in the structure's cell.
        anchor: uint8 (structures,), the orbit that fixes the origin along polar
            directions, `standard_choice.find_anchor`.
        offsets: int32 (structures + 1,): structure i has the orbits offsets[i] up to,
            but not with, offsets[i + 1].
        atomic_numbers: uint8 (orbits,).
        positions: uint8 (orbits,), indices of Wyckoff positions, 0 for a.
        parameters: float32 (orbits, 3), in [0, 1).
        strain: float32 (structures, 6).
    """

    space_group: np.ndarray
    num_cells: np.ndarray
    anchor: np.ndarray
    offsets: np.ndarray
    atomic_numbers: np.ndarray
    positions: np.ndarray
    parameters: np.ndarray
    strain: np.ndarray

    def __len__(self) -> int:
        return len(self.space_group)

    @property
    def num_orbits(self) -> Int[np.ndarray, " structures"]:
        """Orbits of each structure; 0 where it has no standard setting."""
        return np.diff(self.offsets)

    def crystal(self, index: int) -> orbits.OrbitCrystal:
        """One structure's primitive cell.

        Raises:
            IndexError: it is not in the table, or has no orbits.
        """
        if not 0 <= index < len(self) or not self.space_group[index]:
            raise IndexError(f"structure {index} of {len(self)} has no orbits")
        part = slice(self.offsets[index], self.offsets[index + 1])
        return orbits.OrbitCrystal(
            space_group=int(self.space_group[index]),
            atomic_numbers=self.atomic_numbers[part].astype(int),
            positions=self.positions[part].astype(int),
            parameters=self.parameters[part].astype(float),
            strain=self.strain[index].astype(float),
        )


def find_orbits(
    columns: columnar.Columns,
    *,
    symprec: float,
    workspace: pathlib.Path,
    num_workers: int | None = None,
    description: str | None = None,
) -> tuple[OrbitTable, dict[str, Any]]:
    """Structures in the standard setting of their groups.

    Args:
        columns: the structures.
        symprec: the first that is tried, Å; others follow where the group is not the
            labelled one, `standard_setting.SYMPRECS`.
        workspace: directory in which results are kept until all are there, so that a
            run that was stopped goes on.
        num_workers: processes; as many as it is worth if None.
        description: of a progress bar; none if None.

    Returns:
        The table, and a report of JSON values: ``standardised``, ``other_group`` (than
        labelled), ``supercells``, ``P1``: numbers of structures; ``failed``: for each
        reason the count and examples.
    """
    workspace.mkdir(parents=True, exist_ok=True)
    chunks = [
        columnar.slice_columns(columns, start, min(start + _CHUNK_SIZE, len(columns)))
        for start in range(0, len(columns), _CHUNK_SIZE)
    ]
    results = list(
        workers.map_in_workers(
            functools.partial(_find_or_load, symprec, workspace),
            chunks,
            num_workers=workers.choose_num_workers(
                num_workers, len(columns), _SECONDS_EACH
            ),
            description=description,
        )
    )
    parts = {
        name: np.concatenate([result[name] for result in results])
        for name in results[0]
    }
    offsets = columnar.offsets_of(parts.pop("num_orbits"))
    messages = parts.pop("problem").tolist()
    table = OrbitTable(offsets=offsets, **parts)
    return table, _describe(columns, table, messages)


def _describe(
    columns: columnar.Columns, table: OrbitTable, messages: list[str]
) -> dict[str, Any]:
    failed: dict[str, dict[str, Any]] = collections.defaultdict(
        lambda: {"count": 0, "examples": []}
    )
    for index in np.flatnonzero(table.space_group == 0).tolist():
        entry = failed["no standard setting"]
        entry["count"] += 1
        if len(entry["examples"]) < _NUM_EXAMPLES:
            id = columns.id[index].as_py()
            entry["examples"].append({"id": id, "detail": messages[index]})
    exists = table.space_group > 0
    other = exists & (table.space_group != np.asarray(columns.space_group))
    return {
        "standardised": int(exists.sum()),
        "other_group": int(other.sum()),
        "supercells": int((table.num_cells > 1).sum()),
        "P1": int((table.space_group == 1).sum()),
        "failed": dict(failed),
    }


def _find_or_load(
    symprec: float, workspace: pathlib.Path, columns: columnar.Columns
) -> dict[str, np.ndarray]:
    """The orbits of some structures, from an earlier run where it made them."""
    digest = hashlib.sha256(repr(symprec).encode())
    for array in (columns.lattice, columns.frac_coords, columns.atomic_numbers):
        digest.update(np.ascontiguousarray(array).tobytes())
    digest.update(columns.space_group.tobytes() + columns.num_sites.tobytes())
    path = workspace / f"{digest.hexdigest()[:32]}.npz"
    if path.exists():
        with np.load(path) as file:
            return {name: file[name] for name in file.files}
    result = _find_chunk(symprec, columns)
    # Of its own process, then renamed: half a file is never read.
    partial = path.with_name(f"{path.stem}.{os.getpid()}.partial.npz")
    np.savez(partial, **result)  # type: ignore[arg-type]
    os.replace(partial, path)
    return result


def _find_chunk(symprec: float, columns: columnar.Columns) -> dict[str, np.ndarray]:
    # spglib, which those who read a table do without.
    from crystaljax.crystals import standard_setting

    symprecs = (
        symprec,
        *(each for each in standard_setting.SYMPRECS if each != symprec),
    )
    found: list[tuple[orbits.OrbitCrystal, int] | None] = []
    problems = []
    for index in range(len(columns)):
        sites = slice(columns.offsets[index], columns.offsets[index + 1])
        crystal = structure.Crystal(
            np.asarray(columns.atomic_numbers[sites]).astype(int),
            np.asarray(columns.frac_coords[sites]).astype(float),
            np.asarray(columns.lattice[index]).astype(float),
        )
        try:
            made = standard_setting.standardise(
                crystal, int(columns.space_group[index]), symprecs
            )
            found.append((standard_choice.choose(made.crystal), made.num_cells))
            problems.append("")
        except Exception as error:
            # A fault of spglib's or of ours costs this structure its orbits, no more.
            found.append(None)
            problems.append(f"{type(error).__name__}: {error}"[:200])
    made = [each[0] for each in found if each is not None]
    shape = (len(columns), standard_groups.MAX_STRAINS)
    strain = np.zeros(shape, np.float32)
    scalars = np.zeros((4, len(columns)), np.int64)
    for row, each in enumerate(found):
        if each is not None:
            crystal, num_cells = each
            strain[row] = crystal.strain
            scalars[:, row] = (
                crystal.space_group,
                num_cells,
                standard_choice.anchor_of(crystal),
                crystal.num_orbits,
            )
    parameters = [each.parameters.astype(np.float32) % 1 for each in made]
    return {
        "space_group": scalars[0].astype(np.uint8),
        "num_cells": scalars[1].astype(np.uint8),
        "anchor": scalars[2].astype(np.uint8),
        "num_orbits": scalars[3].astype(np.int32),
        "atomic_numbers": _join([each.atomic_numbers for each in made], np.uint8),
        "positions": _join([each.positions for each in made], np.uint8),
        "parameters": np.concatenate([np.zeros((0, 3), np.float32), *parameters]),
        "strain": strain,
        "problem": np.array(problems, dtype=np.str_),
    }


def _join(arrays: list[np.ndarray], dtype: Any) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype), *arrays]).astype(dtype)


# ------------------------------------------------------------------------------ on disk
def write_table(folder: pathlib.Path, table: OrbitTable) -> None:
    """Writes the table into the directory of a data set that is being written."""
    offsets = pa.array(table.offsets, pa.int32())
    triples = pa.FixedSizeListArray.from_arrays(
        pa.array(table.parameters.reshape(-1), pa.float32()), 3
    )
    strain = pa.array(table.strain.reshape(-1), pa.float32())
    arrays = [
        pa.array(table.space_group, pa.uint8()),
        pa.array(table.num_cells, pa.uint8()),
        pa.array(table.anchor, pa.uint8()),
        pa.ListArray.from_arrays(offsets, pa.array(table.atomic_numbers, pa.uint8())),
        pa.ListArray.from_arrays(offsets, pa.array(table.positions, pa.uint8())),
        pa.ListArray.from_arrays(offsets, triples),
        pa.FixedSizeListArray.from_arrays(strain, standard_groups.MAX_STRAINS),
    ]
    with (
        pa.OSFile(str(folder / TABLE_NAME), "wb") as sink,
        pa.ipc.new_file(sink, SCHEMA) as writer,
    ):
        writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=SCHEMA))


def open_table(dataset: datasets.Dataset) -> OrbitTable:
    """The orbits of a data set, as views of a memory map.

    Raises:
        ValueError: the data set has none, or they are damaged or of another one.
    """
    path = dataset.path / TABLE_NAME
    if not path.exists():
        raise errors.UserError(
            f"{dataset.path} has no structures in the standard setting of their space "
            "groups, which this model works on; prepare the data set again with "
            "--setting=standard"
        )
    try:
        with pa.memory_map(str(path)) as source:
            batch = pa.ipc.open_file(source).get_batch(0)
    except (pa.ArrowInvalid, OSError) as error:
        raise errors.UserError(
            f"{path} is damaged ({error}); prepare the data set again"
        ) from error
    if not batch.schema.equals(SCHEMA) or batch.num_rows != len(dataset):
        raise errors.UserError(
            f"{path} does not belong to the data set of {len(dataset)} structures in "
            f"{dataset.path}: it has {batch.num_rows} rows of {batch.schema.names}; "
            "prepare the data set again with --setting=standard"
        )
    column = batch.column
    lists = column("atomic_numbers")

    def view(array: pa.Array) -> np.ndarray:
        return array.to_numpy(zero_copy_only=True)

    return OrbitTable(
        space_group=view(column("space_group")),
        num_cells=view(column("num_cells")),
        anchor=view(column("anchor")),
        offsets=view(lists.offsets),
        atomic_numbers=view(lists.values),
        positions=view(column("positions").values),
        parameters=view(column("parameters").values.values).reshape(-1, 3),
        strain=view(column("strain").values).reshape(-1, standard_groups.MAX_STRAINS),
    )


def gather(
    table: OrbitTable, indices: Int[np.ndarray, "*batch"], num_orbits: int
) -> tuple[orbits.OrbitBatch, Int[np.ndarray, "*batch"]]:
    """Structures padded to a number of orbits, with the leading shape of ``indices``.

    Returns:
        The batch, and the anchors.

    Raises:
        ValueError: a structure has more orbits than ``num_orbits``.
    """
    starts = table.offsets[indices].astype(np.int64)
    counts = table.offsets[indices + 1] - table.offsets[indices]
    if counts.size and counts.max() > num_orbits:
        raise errors.UserError(
            f"a structure has {counts.max()} orbits, more than num_orbits={num_orbits}"
        )
    exists = np.arange(num_orbits) < counts[..., None]
    rows = starts[..., None] + np.arange(num_orbits) * exists
    rows = np.minimum(rows, max(len(table.positions) - 1, 0))
    batch = orbits.OrbitBatch(
        space_group=table.space_group[indices],
        atomic_numbers=table.atomic_numbers[rows] * exists,
        positions=(table.positions[rows] + np.uint8(1)) * exists,
        parameters=table.parameters[rows] * exists[..., None],
        strain=table.strain[indices],
    )
    return batch, table.anchor[indices].astype(np.int32)
