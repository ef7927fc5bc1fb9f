"""Databases of ASE, SQLite (``.db``) and JSON (``.json``), read without ASE's reader.

That one fetches all rows at once, ends at the first it cannot decode, and makes tables
in a file that has none. Here rows come one by one from a connection that cannot write,
and workers decode them. The tests compare with what ASE writes and reads.
"""

import contextlib
import dataclasses
import functools
import json
import pathlib
import sqlite3
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import ase
import numpy as np

from crystaljax.crystals import bridge, names, stated_formulas, structure
from crystaljax.data.readers import files, json_items
from crystaljax.data.sources import labels, levels_of_theory, record
from crystaljax.system import errors

SUFFIXES = (".db", ".json")
_COLUMNS = (
    *("id", "numbers", "positions", "cell", "pbc"),
    *("energy", "free_energy", "key_value_pairs", "data"),
)
# Compared with the crystal; databases of old versions have none.
_STATED_COLUMNS = ("natoms", "volume")
# Of a JSON database, beside its rows.
_OTHER_KEYS = ("ids", "nextid", "metadata")
_NUM_ELEMENTS_IN_ASE = 118


class AseRow(NamedTuple):
    """A row of a database, not decoded: columns of SQLite, or JSON text."""

    id: str
    content: tuple[Any, ...] | str


@dataclasses.dataclass(frozen=True)
class AseDb:
    """An ASE database with one structure a row.

    Keys are looked for among the row's key-value pairs, its ``data``, and ASE's own
    ``energy`` and ``free_energy`` (which are eV for the whole cell, so seldom what is
    wanted), in this order; ``a.b`` is the key ``b`` in ``a`` of the data.

    Attributes:
        path: the file.
        energy_key: formation energy, eV/atom; None where there is none.
        space_group_key: number of the space group; None where there is none.
        id_key: the structure's name; the row's number where it is None or missing.
    """

    path: str
    energy_key: str | None = None
    space_group_key: str | None = None
    id_key: str | None = None

    def read_rows(self) -> Iterator[AseRow | record.Failure]:
        """Yields rows as they are stored, by number; see `record.Source`."""
        path = pathlib.Path(self.path)
        if path.suffix not in SUFFIXES:
            raise errors.UserError(
                f"{self.path} has the suffix {path.suffix!r}; expected an ASE database "
                f"in a file, {' or '.join(SUFFIXES)}: write others as one with ASE"
            )
        files.require_file(path)
        return _read_sqlite(path) if path.suffix == ".db" else _read_json(path)

    def parse_row(self, row: AseRow | record.Failure) -> record.Record | record.Failure:
        """See `record.Source`."""
        if isinstance(row, record.Failure):
            return row
        try:
            decoded = (
                json.loads(row.content)
                if isinstance(row.content, str)
                else _decode_columns(row.content)
            )
            mappings = _label_mappings(decoded)
        except (ValueError, RecursionError) as error:
            return record.Failure(row.id, "row not readable", str(error))
        id = labels.find_value(mappings, self.id_key) if self.id_key else None
        return record.build_record(
            row.id if id is None else names.encodable(str(id)),
            functools.partial(_crystal, decoded),
            self._label(mappings, self.space_group_key),
            self._label(mappings, self.energy_key),
            levels_of_theory.read(*mappings) if self.energy_key else None,
        )

    def describe(self) -> dict[str, Any]:
        """See `record.Source`."""
        return {"source": "ase_db", **dataclasses.asdict(self)}

    def _label(self, mappings: list[Mapping[str, Any]], key: str | None) -> object:
        if key is None:
            return None
        value = labels.find_value(mappings, key)
        return "missing" if value is None else value


def _read_sqlite(path: pathlib.Path) -> Iterator[AseRow | record.Failure]:
    # Joblib asks for rows from threads of its own, one at a time.
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro", uri=True, check_same_thread=False
    )
    # Text that is not UTF-8 is for the worker to find.
    connection.text_factory = bytes
    with contextlib.closing(connection):
        try:
            kind = connection.execute(
                "SELECT type FROM sqlite_master WHERE name = 'systems'"
            ).fetchone()
            if kind != (b"table",):
                raise errors.UserError(f"{path} is no ASE database: no table 'systems'")
            present = connection.execute(
                "SELECT name FROM pragma_table_info('systems')"
            )
            names_present = {name for (name,) in present}
            stated = [
                name if name.encode() in names_present else "NULL"
                for name in _STATED_COLUMNS
            ]
            columns = ", ".join((*_COLUMNS, *stated))
            rows = connection.execute(
                f"SELECT {columns}, typeof(data) FROM systems ORDER BY id"
            )
            for row in rows:
                yield AseRow(str(row[0]), row)
        # Its own texts, such as names of tables, are not UTF-8 either.
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise errors.UserError(
                f"{path} is damaged or no ASE database ({error}); make it again, or "
                "check it with: ase db"
            ) from error


def _read_json(path: pathlib.Path) -> Iterator[AseRow | record.Failure]:
    for item in record.until_damaged(json_items.read_items(path), path):
        if isinstance(item, record.Failure):
            yield item
            continue
        key, text = item
        if key is None:
            raise errors.UserError(
                f"{path} is a list; expected an ASE database in JSON"
            )
        if key not in _OTHER_KEYS:
            yield AseRow(names.encodable(key), text)


def _decode_columns(columns: tuple[Any, ...]) -> dict[str, Any]:
    """Columns of SQLite → what the JSON of the same row would be.

    Raises:
        ValueError: a column does not hold what it should.
    """
    *values, data_type = columns
    row = dict(zip((*_COLUMNS, *_STATED_COLUMNS), values, strict=True))
    blobs = ("numbers", "positions", "cell")
    if not all(isinstance(row[name], bytes) for name in blobs):
        raise errors.UserError("numbers, positions or cell missing")
    pbc = row["pbc"] if isinstance(row["pbc"], int) else 0
    return row | {
        "numbers": np.frombuffer(row["numbers"], "<i4"),
        "positions": np.frombuffer(row["positions"], "<f8").reshape(-1, 3),
        "cell": np.frombuffer(row["cell"], "<f8").reshape(3, 3),
        "pbc": [bool(pbc & bit) for bit in (1, 2, 4)],
        "key_value_pairs": _decode_json(row["key_value_pairs"]),
        "data": (
            _decode_blob(row["data"])
            if data_type == b"blob"
            else _decode_json(row["data"])
        ),
    }


def _decode_json(text: object) -> Any:
    return json.loads(text) if isinstance(text, bytes) else None


def _decode_blob(blob: bytes) -> Any:
    """The JSON within ``data``; the arrays before it are no labels."""
    offset = int.from_bytes(blob[:8], "little", signed=True)
    if not 8 <= offset <= len(blob):
        raise errors.UserError("data are damaged")
    return json.loads(blob[offset:])


def _label_mappings(row: object) -> list[Mapping[str, Any]]:
    if not isinstance(row, dict):
        raise errors.UserError(f"a {type(row).__name__}; expected a row")
    energies = {key: row.get(key) for key in ("energy", "free_energy")}
    places = (row.get("key_value_pairs"), row.get("data"), energies)
    return [place for place in places if isinstance(place, dict)]


def _crystal(row: Mapping[str, Any]) -> structure.Crystal:
    numbers = _array(row.get("numbers"))
    positions = _array(row.get("positions"))
    cell = _array(row.get("cell"))
    pbc = _array(row.get("pbc", [False] * 3))
    shapes = (numbers.shape, positions.shape, cell.shape, pbc.shape)
    if shapes != ((len(positions),), (len(positions), 3), (3, 3), (3,)):
        raise errors.UserError(f"numbers, positions, cell and pbc of shapes {shapes}")
    if not np.isin(numbers, np.arange(1, _NUM_ELEMENTS_IN_ASE + 1)).all():
        raise errors.UserError("a site is not an element")
    if not (np.isfinite(positions).all() and np.isfinite(cell).all()):
        raise errors.UserError("a coordinate or lattice entry is not finite")
    crystal = bridge.from_ase(
        ase.Atoms(
            numbers=numbers.astype(int), positions=positions, cell=cell, pbc=pbc != 0
        )
    )
    stated_formulas.require_num_sites(row.get("natoms"), crystal)
    stated_formulas.require_volume(row.get("volume"), crystal)
    return crystal


def _array(value: Any) -> np.ndarray:
    """An array as ASE writes it in JSON, or a plain list → array of numbers."""
    try:
        if isinstance(value, dict) and "array" in value:
            value = value["array"]
        if isinstance(value, dict):
            shape, _, flat = value["__ndarray__"]
            return np.array(flat, dtype=np.float64).reshape(shape)
        return np.atleast_1d(np.array(value, dtype=np.float64))
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        raise errors.UserError(f"not an array: {error}") from error
