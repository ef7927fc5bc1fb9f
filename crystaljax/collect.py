"""Collects finished DFT runs: which candidates hold?

    python -m crystaljax.collect --runs=dft --hull=aflow --output=results

``--runs`` is searched for ``vasprun.xml`` (compressed or not); where a manifest of
`crystaljax.export` is found, results are compared with what was predicted. Every run
has a row in ``collected.csv`` and ``collected.parquet``, with the reason where it is of
no use yet: it did not run, did not converge, or its file ends early. Relaxed crystals
go to ``collected.extxyz``, and ``hull.json`` is the hull with the results on it, for
the next screening.

A candidate *holds* if its run converged and it lies at most ``--tolerance`` above the
hull of the known entries. Formation energies are against the elements, whose runs are
found among the others, or whose energies are given as ``--references=FILE.csv``.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from absl import flags

from crystaljax import command_line
from crystaljax.system import errors

# pymatgen takes seconds to import, and --help does without it.
if TYPE_CHECKING:
    import crystaljax.crystals.structure
    import crystaljax.hull.convex_hull

_NUM_SHOWN = 30


@dataclasses.dataclass(frozen=True, kw_only=True)
class CollectOptions:
    """What to collect; see the flags of the command.

    Attributes:
        runs: folder with runs of VASP.
        output: the folder to write.
        hull: see `convex_hull.load_hull`; None for formation energies alone.
        hull_energy_model: of the hull, in the words of the user; what it says if None.
        references: CSV with the columns element and energy (total energy, eV/atom); the
            elements' own runs if None.
        tolerance: eV/atom above the hull up to which a candidate holds. 0.05 is within
            reach of temperature and of DFT's own error; 0 asks for the ground state.
        num_workers: processes; all CPUs if None.
        overwrite: replace what an earlier call wrote.
    """

    runs: str
    output: str
    hull: str | None = None
    hull_energy_model: str | None = None
    references: str | None = None
    tolerance: float = 0.05
    num_workers: int | None = None
    overwrite: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class Collection:
    """All runs, lowest above the hull first.

    Attributes:
        table: columns with one row per run.
        crystals: of each row, after the last complete step; without sites where there
            is none.
        hull: the known entries with the converged results; None without a hull.
    """

    table: dict[str, list[Any]]
    crystals: "list[crystaljax.crystals.structure.Crystal]"
    hull: "crystaljax.hull.convex_hull.Hull | None"

    def rows(self) -> list[dict[str, Any]]:
        """The table by rows."""
        return [
            dict(zip(self.table, values, strict=True))
            for values in zip(*self.table.values(), strict=True)
        ]


def collect(options: CollectOptions, *, show_progress: bool = False) -> Collection:
    """Reads runs and compares them with the hull and with what was predicted.

    Raises:
        FileNotFoundError: there is no such folder, hull or file of references.
        ValueError: there are no runs, the hull cannot be read, or none of the runs has
            the energy model of the hull.
    """
    from crystaljax.dft import formation
    from crystaljax.dft import results as dft_results
    from crystaljax.relaxation import references

    given: Mapping[int, float] = {}
    if options.references is not None:
        read = references.load_references(options.references)
        if read.crystals:
            raise errors.UserError(
                f"--references={options.references} holds crystals; expected a CSV "
                "with the columns element and energy (total energy, eV/atom)"
            )
        given = read.energies
    analyses = dft_results.analyze_runs(
        pathlib.Path(options.runs),
        num_workers=options.num_workers,
        description="read" if show_progress else None,
    )
    runs = [analysis.run for analysis in analyses]
    formations = formation.formation_energies(runs, given)
    on_hull = dft_results.put_on_hull(
        runs, formations, options.hull, options.hull_energy_model
    )
    table = dft_results.build_table(analyses, formations, on_hull, options.tolerance)
    crystals = {run.folder: run.crystal for run in runs}
    return Collection(
        table, [crystals[folder] for folder in table["folder"]], on_hull.hull
    )


def write(collection: Collection, options: CollectOptions) -> None:
    """Writes the table, the relaxed crystals and the hull.

    Raises:
        FileExistsError: they are there, and are not to be replaced.
    """
    from crystaljax.crystals import structure_files
    from crystaljax.hull import convex_hull
    from crystaljax.system import atomic_files

    output = pathlib.Path(options.output)
    tables = [output / "collected.csv", output / "collected.parquet"]
    frames, hull_path = output / "collected.extxyz", output / "hull.json"
    for path in (*tables, frames, hull_path):
        atomic_files.require_absent(path, options.overwrite)
    for path in tables:
        structure_files.write_table(path, collection.table, overwrite=options.overwrite)
    infos = [
        {
            # extxyz has no dots in the names of what stands beside a lattice.
            key.replace(".", "_"): value
            for key, value in row.items()
            # NaN is not equal to itself.
            if value == value and (value != "" or key == "name")
        }
        for row in collection.rows()
    ]
    # Those without a crystal are left out.
    structure_files.write_extxyz(
        frames, collection.crystals, infos, overwrite=options.overwrite
    )
    if collection.hull is not None:
        text = json.dumps(convex_hull.to_dict(collection.hull), indent=1)
        with atomic_files.file(hull_path, options.overwrite) as temporary:
            temporary.write_text(f"{text}\n", encoding="utf-8")


def report(collection: Collection, options: CollectOptions) -> str:
    """What the command prints."""
    rows = collection.rows()
    energies = [row["formation_energy_dft"] for row in rows]
    lines = [
        f"{len(rows)} runs: {sum(row['converged'] for row in rows)} converged, "
        f"{sum(map(math.isfinite, energies))} with a formation energy"
    ]
    candidates = [row for row in rows if row["kind"] != "reference"]
    if options.hull is not None:
        held = [row for row in candidates if row["holds"]]
        below = sum(row["energy_above_hull_dft"] < 0 for row in held)
        lines.append(
            f"{len(held)} of {len(candidates)} candidates hold (converged, at most "
            f"{options.tolerance:g} eV/atom above the hull of {options.hull}); {below} "
            "of them below it"
        )
    apart = [
        abs(row["formation_energy_dft"] - row["formation_energy_predicted"])
        for row in candidates
        if row["converged"]
    ]
    apart = [error for error in apart if math.isfinite(error)]
    if apart:
        models = sorted({row["energy_model_predicted"] for row in candidates} - {""})
        lines.append(
            f"|DFT - predicted| of formation energies: {sum(apart) / len(apart):.3f} "
            f"eV/atom on average over {len(apart)} (predicted by {', '.join(models)})"
        )
    lines += ["", _HEADER, *map(_format_row, rows[:_NUM_SHOWN])]
    if len(rows) > _NUM_SHOWN:
        lines.append(f"… and {len(rows) - _NUM_SHOWN} more in collected.csv")
    models = sorted({row["energy_model_dft"] for row in rows} - {""})
    return "\n".join([*lines, f"energies: {', '.join(models) or 'none'}"])


_HEADER = (
    f"{'name':<24} {'formula':<12} {'formation energy':>19} {'above hull':>19} "
    f"{'group':>11} {'same':>5} {'holds':>6}\n"
    f"{'':<24} {'':<12} {'predicted → DFT':>19} {'predicted → DFT':>19} "
    f"{'asked → DFT':>11}"
)


def _format_row(row: Mapping[str, Any]) -> str:
    def number(value: float) -> str:
        return f"{value:.3f}" if value == value else "-"

    def pair(key: str) -> str:
        predicted, dft = number(row[f"{key}_predicted"]), number(row[f"{key}_dft"])
        return f"{predicted} → {dft}"

    yes = {True: "yes", False: "no", None: ""}
    groups = f"{row['space_group_asked'] or '-'} → {row['space_group_dft_0.1'] or '-'}"
    line = (
        f"{row['name'][:24]:<24} {row['formula'][:12]:<12} "
        f"{pair('formation_energy'):>19} {pair('energy_above_hull'):>19} "
        f"{groups:>11} {yes[row['same_structure']]:>5} {yes[row['holds']]:>6}"
    )
    return line + (f"\n  ! {row['problem']}" if row["problem"] else "")


def main() -> None:
    """Command line."""
    defaults = CollectOptions(runs="", output="")
    values = {
        "runs": flags.DEFINE_string("runs", None, "Folder with runs of VASP."),
        "output": flags.DEFINE_string("output", None, "Folder to write."),
        "hull": flags.DEFINE_string(
            "hull",
            None,
            "Known entries: FILE.csv, FILE.json, dataset:PATH, aflow:B-Ta-W or aflow; "
            "their energies must be of the runs' energy model.",
        ),
        "hull_energy_model": flags.DEFINE_string(
            "hull_energy_model",
            None,
            "What computed the hull's energies, in your words, such as 'VASP PBE'.",
        ),
        "references": flags.DEFINE_string(
            "references",
            None,
            "CSV with the columns element and energy (total energy, eV/atom); the "
            "elements' own runs if not given.",
        ),
        "tolerance": flags.DEFINE_float(
            "tolerance",
            defaults.tolerance,
            "Energy above the hull, eV/atom, up to which a candidate holds.",
        ),
        "num_workers": flags.DEFINE_integer(
            "num_workers", None, "Processes; all CPUs if not given.", 1
        ),
        "overwrite": flags.DEFINE_bool(
            "overwrite", False, "Replace what an earlier call wrote to --output."
        ),
    }
    flags.mark_flags_as_required(["runs", "output"])

    def command():
        options = CollectOptions(**{name: flag.value for name, flag in values.items()})
        collection = collect(options, show_progress=True)
        write(collection, options)
        print(report(collection, options))
        print(f"written to {options.output}")

    command_line.run(command, uses_devices=False)


if __name__ == "__main__":
    main()
