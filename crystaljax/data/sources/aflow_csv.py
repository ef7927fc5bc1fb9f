"""CSV with the columns of the AFLOW database, as its dumps have them.

One row has the formula of the whole cell (``B6Ta1W1``), the cell parameters
(``[a,b,c,alpha,beta,gamma]``, Å and degrees) and the fractional coordinates
(``[[x,y,z],...]``), sites grouped by species in the order of the formula.
"""

import ast
import dataclasses
import functools
import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from crystaljax.crystals import elements, stated_formulas, structure
from crystaljax.data.readers import csv_rows
from crystaljax.data.sources import record
from crystaljax.system import errors

ID_COLUMN = "auid"
ENERGY_COLUMN = "enthalpy_formation_atom"
SPACE_GROUP_COLUMN = "spacegroup_relax"
_SYMBOL = re.compile(r"[A-Z][a-z]?")
_CRYSTAL_COLUMNS = ("pretty_formula", "geometry", "positions_fractional")
# Compared with the crystal where they are there.
_STATED_COLUMNS = ("natoms", "volume_cell")


@dataclasses.dataclass(frozen=True)
class AflowCsv:
    """A CSV file, plain or gzip, with one structure a row.

    Attributes:
        path: the file.
        energy_column: formation energy, eV/atom.
        space_group_column: number of the space group of the relaxed structure; None to
            have it found from the structure.
    """

    path: str
    energy_column: str = ENERGY_COLUMN
    space_group_column: str | None = SPACE_GROUP_COLUMN

    def read_rows(self) -> Iterator[tuple[str, ...] | record.Failure]:
        """Yields the cells of the columns that are used; see `record.Source`."""
        columns = [ID_COLUMN, self.energy_column, *_CRYSTAL_COLUMNS]
        if self.space_group_column is not None:
            columns.append(self.space_group_column)
        header = csv_rows.read_header(self.path)
        # Behind the others, or empty.
        stated = [name for name in _STATED_COLUMNS if name in header]
        rows = csv_rows.read_rows(self.path, [*columns, *stated])
        for cells in record.until_damaged(rows, self.path):
            if isinstance(cells, record.Failure):
                yield cells
                continue
            said = dict(zip(stated, cells[len(columns) :], strict=True))
            yield (
                *cells[: len(columns)],
                *(said.get(name, "") for name in _STATED_COLUMNS),
            )

    def parse_row(
        self, row: tuple[str, ...] | record.Failure
    ) -> record.Record | record.Failure:
        """See `record.Source`."""
        if isinstance(row, record.Failure):
            return row
        id, energy, *cells, num_sites, volume = row
        formula, geometry, positions = cells[:3]
        return record.build_record(
            id,
            functools.partial(
                parse_crystal,
                formula,
                geometry,
                positions,
                num_sites=num_sites,
                volume=volume,
            ),
            cells[3] if self.space_group_column is not None else None,
            energy,
        )

    def describe(self) -> dict[str, Any]:
        """See `record.Source`."""
        return {"source": "aflow_csv", **dataclasses.asdict(self)}


def parse_crystal(
    formula: str,
    geometry: str,
    positions: str,
    *,
    num_sites: str = "",
    volume: str = "",
) -> structure.Crystal:
    """Cells of one row → crystal.

    Args:
        formula: of the cell.
        geometry: lengths (Å) and angles (degrees).
        positions: fractional coordinates.
        num_sites: what the row says of the number of atoms; "" for nothing.
        volume: what it says of the volume of the cell, Å³; "" for nothing.

    Raises:
        ValueError: a cell is malformed, or they contradict each other.
    """
    atomic_numbers = _parse_formula(formula)
    frac_coords = _parse_numbers(positions)
    if frac_coords.shape != (len(atomic_numbers), 3):
        raise errors.UserError(
            f"positions of shape {frac_coords.shape} for {formula}; expected "
            f"({len(atomic_numbers)}, 3)"
        )
    parameters = _parse_numbers(geometry)
    if parameters.shape != (6,):
        raise errors.UserError(f"geometry {geometry!r}; expected six numbers")
    crystal = structure.Crystal(
        atomic_numbers=atomic_numbers,
        frac_coords=frac_coords,
        lattice=structure.lattice_from_parameters(parameters),
    )
    stated_formulas.require_num_sites(num_sites, crystal)
    stated_formulas.require_volume(volume, crystal)
    return crystal


# Polymorphs share their formula, and there are 25 of each in AFLOW.
@functools.lru_cache(maxsize=100_000)
def _parse_formula(formula: str) -> np.ndarray:
    """Atomic number of each site, in the order in which the formula is written."""
    counts = elements.parse_formula(formula)
    written = dict.fromkeys(_SYMBOL.findall(formula))
    numbers = [elements.atomic_number(symbol) for symbol in written]
    return np.repeat(numbers, [counts[symbol] for symbol in written])


def _parse_numbers(text: str) -> np.ndarray:
    """A nested list of numbers as text → array. The text is data, never run."""
    try:
        values = json.loads(text)
    except ValueError:
        values = _literal(text)
    try:
        return np.array(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise errors.UserError(f"{text[:80]!r} is not a list of numbers") from error


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise errors.UserError(f"{text[:80]!r} is not a list of numbers") from error
