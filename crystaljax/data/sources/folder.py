"""A folder or an archive of CIF and POSCAR files, with a CSV of their labels."""

import dataclasses
import functools
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from crystaljax.crystals import inputs
from crystaljax.data.readers import archives
from crystaljax.data.sources import labels, levels_of_theory, record
from crystaljax.system import errors


class FileRow(NamedTuple):
    """A file with its labels, None where there is no table of labels."""

    name: str
    text: str
    label: labels.Label | None


@dataclasses.dataclass(frozen=True)
class Folder:
    """CIF and POSCAR files, one structure each; see `inputs.SINGLE_FORMATS`.

    A structure's id is the name of its file within the folder. Its row in the CSV has
    that name as id, with or without the folders before it and the extension; a file
    named as VASP does (``mp-1/POSCAR``) may go by the name of its folder.

    Attributes:
        path: see `archives.FORMATS`.
        labels: CSV, plain or compressed; None where there are no labels.
        id_column: of the CSV.
        energy_column: formation energy, eV/atom.
        space_group_column: number of the space group; None where there is none.
    """

    path: str
    labels: str | None = None
    id_column: str = "material_id"
    energy_column: str = "formation_energy_per_atom"
    space_group_column: str | None = None

    def read_rows(self) -> Iterator[FileRow | record.Failure]:
        """Yields names, texts and labels; see `record.Source`."""
        table, failures = labels.read_beside(
            self.labels, self.id_column, self.energy_column, self.space_group_column
        )
        yield from failures
        used: set[str] = set()
        num_files = 0
        for name, text in archives.read_texts(self.path, _is_crystal):
            num_files += 1
            if isinstance(text, record.Failure):
                yield text
            elif table is None:
                yield FileRow(name, text, None)
            else:
                yield _join(name, text, table, used)
        if num_files == 0:
            raise errors.UserError(
                f"no crystals in {self.path}; expected {inputs.SINGLE_FORMATS}, not "
                "hidden and not links"
            )

    def parse_row(
        self, row: FileRow | record.Failure
    ) -> record.Record | record.Failure:
        """See `record.Source`."""
        if isinstance(row, record.Failure):
            return row
        file_format = inputs.find_format(row.name)
        assert file_format is not None
        return record.build_record(
            row.name,
            functools.partial(inputs.parse_crystal, row.text, file_format),
            row.label and row.label.space_group,
            row.label and row.label.formation_energy,
            row.label and levels_of_theory.read(dict(row.label.level)),
        )

    def describe(self) -> dict[str, Any]:
        """See `record.Source`."""
        return {"source": "folder", **dataclasses.asdict(self)}


def _is_crystal(name: str) -> bool:
    return inputs.find_format(name) is not None


def _join(
    name: str, text: str, table: Mapping[str, labels.Label], used: set[str]
) -> FileRow | record.Failure:
    """A file and its labels. Ids that were found are added to ``used``."""
    id = next((id for id in _possible_ids(name) if id in table), None)
    if id is None:
        return record.Failure(name, labels.NO_LABEL)
    if id in used:
        # Files of the same name in two folders: no telling which one is meant.
        return record.Failure(name, "label taken by another file", f"id {id!r}")
    used.add(id)
    return FileRow(name, text, table[id])


def _possible_ids(name: str) -> Iterator[str]:
    """What a table may call a file; the most specific first."""
    path = pathlib.PurePosixPath(name)
    names = [path, path.with_suffix("")]
    if inputs.is_poscar_name(path.name):
        names.append(path.parent)
    yield from map(str, names)
    yield from (each.name for each in names)
