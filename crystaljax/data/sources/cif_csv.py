"""CSV with a column of CIFs: the layout of CDVAE and DiffCSP, and of many others."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

from crystaljax.crystals import cif, stated_formulas, structure
from crystaljax.data.readers import csv_rows
from crystaljax.data.sources import levels_of_theory, record

# The formula is compared with the crystal's: the first of these that is there.
_FORMULA_COLUMNS = ("pretty_formula", "formula")
# Before the names of columns that say how energies were computed.
_SAID = "said: "


@dataclasses.dataclass(frozen=True)
class CifCsv:
    """A CSV file, plain or gzip, with one structure a row.

    Attributes:
        path: the file.
        energy_column: formation energy, eV/atom; None where there is none.
        space_group_column: number of the space group; None where there is none. (These
            files hold CIFs in P1, so the CIF does not say it.)
        id_column: name of the structure; row numbers where the column is missing.
        cif_column: the CIF.
    """

    path: str
    energy_column: str | None = None
    space_group_column: str | None = None
    id_column: str = "material_id"
    cif_column: str = "cif"

    def read_rows(self) -> Iterator[tuple[int, dict[str, str]] | record.Failure]:
        """Yields row number and cells by role; see `record.Source`."""
        columns = {
            "cif": self.cif_column,
            "energy": self.energy_column,
            "space_group": self.space_group_column,
        }
        columns = {role: name for role, name in columns.items() if name is not None}
        header = csv_rows.read_header(self.path)
        if self.id_column in header:
            columns["id"] = self.id_column
        for name in _FORMULA_COLUMNS:
            if name in header:
                columns["formula"] = name
                break
        if self.energy_column is not None:
            said = levels_of_theory.find_columns(header)
            columns |= {f"{_SAID}{name}": name for name in said}
        rows = csv_rows.read_rows(self.path, list(columns.values()))
        for number, cells in enumerate(record.until_damaged(rows, self.path)):
            if isinstance(cells, record.Failure):
                yield cells
            else:
                yield number, dict(zip(columns, cells, strict=True))

    def parse_row(
        self, row: tuple[int, dict[str, str]] | record.Failure
    ) -> record.Record | record.Failure:
        """See `record.Source`."""
        if isinstance(row, record.Failure):
            return row
        number, cells = row
        return record.build_record(
            cells.get("id") or str(number),
            functools.partial(_parse_crystal, cells["cif"], cells.get("formula")),
            cells.get("space_group"),
            cells.get("energy"),
            levels_of_theory.read(
                {
                    role.removeprefix(_SAID): cell
                    for role, cell in cells.items()
                    if role.startswith(_SAID)
                }
            ),
        )

    def describe(self) -> dict[str, Any]:
        """See `record.Source`."""
        return {"source": "cif_csv", **dataclasses.asdict(self)}


def _parse_crystal(text: str, formula: str | None) -> structure.Crystal:
    """The crystal of a CIF, if it has the formula that stands beside it."""
    crystal = cif.parse_cif(text)
    stated_formulas.require_formula(formula, crystal.atomic_numbers)
    return crystal
