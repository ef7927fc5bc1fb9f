"""Collects finished DFT runs: which candidates hold?

    crystaljax collect --runs=dft --hull=aflow --output=results

``--runs`` is searched for ``vasprun.xml`` (compressed or not); where a manifest of
`crystaljax.export` is found, results are compared with what was predicted. Every run
has a row in ``collected.csv`` and ``collected.parquet``, with the reason where it is of
no use yet: it did not run, did not converge, or its file ends early. Relaxed crystals
go to ``collected.extxyz``, and ``hull.json`` is the hull with the results on it, for
the next screening.

A candidate *holds* if its run converged and it lies at most ``--tolerance`` above the
hull of the known entries. Formation energies are against the elements, whose runs are
found among the others, or whose energies are given as ``--references=FILE.csv``.

With entries of the Materials Project as ``--hull=FILE.json`` (pymatgen's, PBE(+U) total
energies) neither is needed: runs whose inputs fit its MPRelaxSet, such as those of
``crystaljax export --preset=mp``, get its corrections (MP2020) and go on that hull in
total energies; others say by name what does not fit.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from crystaljax import command_line
from crystaljax.system import errors
from crystaljax.system import options as options_lib

# pymatgen takes seconds to import, and --help does without it.
if TYPE_CHECKING:
    import crystaljax.crystals.structure
    import crystaljax.hull.convex_hull

_NUM_SHOWN = 30


@options_lib.frozen
class CollectOptions:
    """What to collect."""

    runs: str = options_lib.option("Folder with runs of VASP.")
    output: str = options_lib.option("Folder to write.")
    hull: str | None = options_lib.option(
        "Known entries: FILE.csv, FILE.json, dataset:PATH, aflow:B-Ta-W or aflow; "
        "their energies must be of the runs' energy model, or total energies of the "
        "Materials Project, whose corrections are applied to runs with its inputs. "
        "Formation energies alone if not given.",
        default=None,
    )
    hull_energy_model: str | None = options_lib.option(
        "What computed the hull's energies, in your words, such as 'VASP PBE'; what "
        "the hull says if not given.",
        default=None,
    )
    references: str | None = options_lib.option(
        "CSV with the columns element and energy (total energy, eV/atom); the "
        "elements' own runs if not given.",
        default=None,
    )
    # 0.05 is within reach of temperature and of DFT's own error.
    tolerance: float = options_lib.option(
        "Energy above the hull, eV/atom, up to which a candidate holds; 0 asks for the "
        "ground state.",
        default=0.05,
    )
    num_workers: int | None = options_lib.option(
        "Processes; all CPUs if not given.", default=None, lower=1
    )
    overwrite: bool = options_lib.option(
        "Replace what an earlier call wrote to the output folder.", default=False
    )


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
    table = dft_results.build_table(analyses, on_hull, options.tolerance)
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

    require_absent(options)
    with atomic_files.group(pathlib.Path(options.output)) as folder:
        for name in ("collected.csv", "collected.parquet"):
            structure_files.write_table(folder / name, collection.table)
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
            folder / "collected.extxyz", collection.crystals, infos
        )
        if collection.hull is not None:
            text = json.dumps(convex_hull.to_dict(collection.hull), indent=1)
            (folder / "hull.json").write_text(f"{text}\n", encoding="utf-8")


def require_absent(options: CollectOptions) -> None:
    """Raises FileExistsError if there are results that are not to be replaced."""
    from crystaljax.system import atomic_files

    for name in ("collected.csv", "collected.parquet", "collected.extxyz", "hull.json"):
        atomic_files.require_absent(
            pathlib.Path(options.output) / name, options.overwrite
        )


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
    f"{'group':>15} {'same':>5} {'holds':>6}\n"
    f"{'':<24} {'':<12} {'predicted → DFT':>19} {'predicted → DFT':>19} "
    f"{'requested → DFT':>15}"
)


def _format_row(row: Mapping[str, Any]) -> str:
    def number(value: float) -> str:
        return f"{value:.3f}" if value == value else "-"

    def pair(key: str) -> str:
        predicted, dft = number(row[f"{key}_predicted"]), number(row[f"{key}_dft"])
        return f"{predicted} → {dft}"

    yes = {True: "yes", False: "no", None: ""}
    groups = (
        f"{row['requested_space_group'] or '-'} → {row['space_group_dft_0.1'] or '-'}"
    )
    line = (
        f"{row['name'][:24]:<24} {row['formula'][:12]:<12} "
        f"{pair('formation_energy'):>19} {pair('energy_above_hull'):>19} "
        f"{groups:>15} {yes[row['same_structure']]:>5} {yes[row['holds']]:>6}"
    )
    return line + (f"\n  ! {row['problem']}" if row["problem"] else "")


def _run(chosen: CollectOptions) -> None:
    from crystaljax.system import atomic_files, folder_locks

    output = pathlib.Path(chosen.output)
    with folder_locks.hold(output, "choose another --output"):
        atomic_files.remove_leftovers(output)
        # Before runs are read for minutes.
        require_absent(chosen)
        collection = collect(chosen, show_progress=True)
        write(collection, chosen)
    print(report(collection, chosen))
    print(f"written to {chosen.output}")


COMMAND = command_line.Command(
    "collect",
    __doc__,
    (CollectOptions,),
    _run,
    uses_devices=False,
    goes_on="the same command starts again",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line; ``arguments`` are those of the process if None."""
    command_line.run(COMMAND, arguments)


if __name__ == "__main__":
    main()
