"""The crystals of a finished job, as JSON values for the page and as crystals."""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from crystaljax.app import jobs
from crystaljax.crystals import elements, extxyz, structure, symmetry_search, validity
from crystaljax.screening import columns, html_report
from crystaljax.screening import inputs as screening_inputs
from crystaljax.screening.report import drawn_values
from crystaljax.system import errors

# Å; what is shown as the group of a crystal.
_SYMPREC = columns.SYMPRECS[0]

# Of a table of samples, by what the page calls them.
_OF_SAMPLES = {
    "requested_energy": "formation_energy",
    "estimated_energy": "estimated_energy",
    "difference": "energy_difference",
    "estimated_difference": "estimated_difference",
    "same_as_input": "same_as_input",
    "origin": "origin",
    "requested_group": "space_group",
    "wyckoff": "wyckoff_positions",
    "probability": "probability",
    "follows_known": "follows_known",
}
# Of a screening.
_OF_SCREENINGS = {
    "relaxed_energy": columns.RELAXED_ENERGY,
    "above_hull": columns.ABOVE_HULL,
    "requested_energy": columns.REQUESTED_ENERGY,
    "requested_group": columns.REQUESTED_SPACE_GROUP,
    "group": columns.RELAXED_SPACE_GROUPS[0],
    "volume": columns.RELAXED_VOLUME_PER_ATOM,
    "known_as": columns.KNOWN_AS,
    "nearest_known": columns.NEAREST_KNOWN,
    "nearest_known_formula": columns.NEAREST_KNOWN_FORMULA,
    "nearest_known_distance": columns.NEAREST_KNOWN_DISTANCE,
    "converged": columns.CONVERGED,
    "steps": columns.STEPS,
}


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """A crystal of a job.

    Attributes:
        number: 1, 2, …; of a screening its rank.
        name: as the files have it.
        crystal: as generated, or relaxed.
        values: what is known of it, by the page's names.
    """

    number: int
    name: str
    crystal: structure.Crystal
    values: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Results:
    """The crystals of a job.

    Attributes:
        rows: that can be drawn.
        left_out: names and reasons of the others.
        described: of a screening: what its report shows; empty for samples.
    """

    rows: Sequence[Row]
    left_out: Sequence[tuple[str, str]]
    described: Mapping[str, Any]

    def find(self, number: int) -> Row:
        """The row of a number.

        Raises:
            KeyError: there is none.
        """
        for row in self.rows:
            if row.number == number:
                return row
        raise KeyError(number)


def read(root: pathlib.Path, job: jobs.Job) -> Results:
    """The crystals of a job that is done.

    Raises:
        UserError: it is not done, or its files were removed or damaged.
    """
    if job.state != jobs.DONE:
        raise errors.UserError(f"the job is {job.state}; it has no crystals yet")
    output = jobs.output_of(root, job)
    if not output.is_dir():
        raise errors.UserError(f"{output} is gone; ask for the crystals again")
    # A job that is done never changes.
    return _read(output, job.verb == "screen")


@functools.lru_cache(maxsize=16)
def _read(output: pathlib.Path, is_screening: bool) -> Results:
    return _read_screening(output) if is_screening else _read_samples(output)


def _read_samples(output: pathlib.Path) -> Results:
    found = screening_inputs.read_candidates(output)
    rows, left_out = [], []
    for place, (name, crystal, problem) in enumerate(
        zip(found.names, found.crystals, found.problems, strict=True)
    ):
        problem = problem or validity.find_cell_problem(crystal)
        if problem:
            left_out.append((name, problem))
            continue
        values = {
            key: found.columns[column][place]
            for key, column in _OF_SAMPLES.items()
            if column in found.columns
        }
        values["volume"] = validity.cell_volume(crystal) / crystal.num_sites
        values["group"] = symmetry_search.find_space_group(crystal, _SYMPREC)
        rows.append(Row(place + 1, name, crystal, values))
    return Results(rows, left_out, {})


def _read_screening(output: pathlib.Path) -> Results:
    described = html_report.describe_screening(output)
    table = described["table"]
    of = {name: _decode(column) for name, column in table.items()}
    crystals = _read_ranked(output / "candidates.extxyz")
    rows, left_out = [], []
    ranks = of[columns.RANK]
    for place, (rank, name) in enumerate(zip(ranks, of[columns.NAME], strict=True)):
        if not rank or rank not in crystals:
            reasons = of.get(columns.REJECTED_REASON, [""] * len(ranks))
            left_out.append((name, reasons[place] or "it was not ranked"))
            continue
        values = {
            key: of[column][place]
            for key, column in _OF_SCREENINGS.items()
            if column in of
        }
        rows.append(Row(rank, name, crystals[rank], {**values, "place": place}))
    rows.sort(key=lambda row: row.number)
    return Results(rows, left_out, described)


def _read_ranked(path: pathlib.Path) -> dict[int, structure.Crystal]:
    """Relaxed crystals by rank."""
    # ASE comes with it.
    from crystaljax.crystals import bridge

    if not path.is_file():
        return {}
    with path.open(encoding="utf-8") as file:
        frames = [
            extxyz.parse_frame(text).atoms for text in extxyz.split_frames(file) if text
        ]
    return {
        int(atoms.info.get(columns.RANK, number)): bridge.from_ase(atoms)
        for number, atoms in enumerate(frames, start=1)
    }


def _decode(column: Any) -> list[Any]:
    """A column as a list; see `contents.describe`."""
    if isinstance(column, Mapping):
        return [column["values"][place] for place in column["places"]]
    return list(column)


def describe(results: Results, notes: Sequence[str]) -> dict[str, Any]:
    """What the page shows of a job, as JSON values."""
    described = results.described
    names = ("systems", "systems_note", "hull", "energy_models")
    return drawn_values.to_json(
        {
            "rows": [
                {
                    **{key: _plain(value) for key, value in row.values.items()},
                    "number": row.number,
                    "name": row.name,
                    "formula": elements.cell_formula(row.crystal.atomic_numbers),
                    "sites": row.crystal.num_sites,
                }
                for row in results.rows
            ],
            "structures": {
                row.number: drawn_values.describe_structure(row.crystal)
                for row in results.rows
            },
            "elements": drawn_values.describe_elements(
                row.crystal for row in results.rows
            ),
            "left_out": [list(each) for each in results.left_out],
            "notes": list(notes),
            "is_screening": bool(described),
            **{name: described.get(name) for name in names},
        }
    )


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
