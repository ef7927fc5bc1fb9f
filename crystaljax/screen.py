r"""Screens crystals: checks, relaxes and ranks them by energy above hull.

    crystaljax screen --samples=samples --calculator=emt --hull=builtin \
        --output=screening

``--samples`` is a folder of `crystaljax.sample` or `crystaljax.modify`, or crystals in
other files. Every one keeps its row in ``screening.csv`` and ``screening.parquet``,
with the stage that rejected it and the reason; the others are ranked, and written as
``candidates.extxyz`` and ``candidates/`` (relaxed), and ``symmetrized/`` (the same with
the symmetry that they nearly have). How many are stable, unique and novel, by which
potential and hull and against which known crystals, is printed and in ``sun.json``, one
line. The same command again goes on where it was
interrupted; what is finished is in ``work/``.
"""

import dataclasses
import json
import pathlib
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from crystaljax import command_line
from crystaljax.system import atomic_files, environment, errors, folder_locks
from crystaljax.system import options as options_lib

# These bring pymatgen, ASE and JAX, and --help does without.
if TYPE_CHECKING:
    from crystaljax.hull import convex_hull as hull_lib
    from crystaljax.screening import funnel
    from crystaljax.screening import inputs as screening_inputs
    from crystaljax.screening import result as screening_result

NONE = "none"
RELAXED = "relaxed:"


@options_lib.frozen
class ScreenOptions:
    """What to screen."""

    samples: str = options_lib.option(
        "Crystals: an output folder of `crystaljax sample` or `crystaljax modify`; an "
        "extxyz, CIF or POSCAR file; a folder or zip archive of those."
    )
    calculator: str = options_lib.option(
        "What relaxes: a pretrained potential (chgnet, chgnet:r2scan, sevenn, "
        "sevenn:7net-0, matgl:NAME, mace, orb, mattersim, nequix, with :MODEL or the "
        ":PATH of its weights and @DEVICE, both optional), emt (alloys of Al, Ni, Cu, "
        "Pd, Ag, Pt, Au), or module:function, a function that returns an ASE "
        "calculator."
    )
    output: str = options_lib.option(
        "Folder to write. The same command again resumes what was interrupted."
    )
    hull: str = options_lib.option(
        "Known compounds. relaxed:KNOWN relaxes known crystals of the chemical systems "
        "in question (data set, CSV with CIFs, entries in JSON, crystals, a folder) "
        "with the screening's own calculator and settings, and keeps them for later "
        "screenings. FILE.json: pymatgen's entries, whose total energies are compared "
        "with calculators that reproduce their DFT. FILE.csv (formula, "
        "formation_energy in eV/atom), dataset:PATH, builtin, aflow: of the "
        "calculator's energy model. none ranks within compositions, and by formation "
        "energy.",
        default=NONE,
    )
    kept: str | None = options_lib.option(
        "Folder where relaxed elements and known crystals are kept, a file per "
        "calculator and settings; ~/.cache/crystaljax/relaxed by default.",
        default=None,
    )
    energy_model: str | None = options_lib.option(
        "Energy model of the calculator, where it was made to reproduce that of the "
        "hull. That the two can be compared is your claim: nothing here can check it.",
        default=None,
    )
    hull_energy_model: str | None = options_lib.option(
        "What the hull's energies were computed with, where the file does not say.",
        default=None,
    )
    references: str | None = options_lib.option(
        "Elements that formation energies are measured against: FILE.csv (element, "
        "energy: total energies of the calculator, eV/atom), or crystals of the "
        "elements in a file or folder, which are relaxed. By default their ground "
        "states, of a table for 89 elements (with emt: of ASE's tables).",
        default=None,
    )
    known: str | None = options_lib.option(
        "Known crystals (data set, CSV with CIFs, entries in JSON, crystals, a "
        "folder), or none; by default those of the hull, and of the data set of the "
        "samples' run.",
        default=None,
    )
    preset: str = options_lib.option(
        "Settings of the relaxations: default (LBFGS, fmax 0.05, 500 steps) or paper "
        "(what the paper relaxed with: pymatgen's defaults, FIRE, fmax 0.1, 500 "
        "steps). The cell relaxes in both.",
        default="default",
    )
    fmax: float | None = options_lib.option(
        "Force at which a relaxation has converged, eV/Å; preset's.", default=None
    )
    max_steps: int | None = options_lib.option(
        "Steps of a relaxation at most; the preset's.", default=None
    )
    relax_cell: bool | None = options_lib.option(
        "Relax the cell too, or sites only; as in the preset.", default=None
    )
    optimizer: str | None = options_lib.option(
        "LBFGS, FIRE or BFGS; the preset's by default.", default=None
    )
    keep_symmetry: bool = options_lib.option(
        "Relax within the space group that a crystal has within 0.1 Å, so that the one "
        "requested is the one relaxed. Forces that would break it are not seen.",
        default=False,
    )
    check_saddles: bool = options_lib.option(
        "After --keep_symmetry: disturb the ranked crystals (0.05 Å, 1 % of the cell), "
        "relax them without their symmetry, and say which are saddles: they lose over "
        "2 meV/atom and their space group.",
        default=False,
    )
    timeout: float | None = options_lib.option(
        "Seconds that a crystal may take to relax; 600 by default.", default=None
    )
    relaxation: str = options_lib.option(
        "ase: one at a time, on all cores. batched: many at once on the devices, for "
        "emt, SevenNets and TensorNets of matgl. auto: batched where it can be and "
        "there are more than 32 crystals.",
        default="auto",
    )
    min_distance_ratio: float = options_lib.option(
        "Crystals with atoms closer than this share of the sum of their covalent radii "
        "are not relaxed: bonds have 0.8 and more, and far below potentials answer "
        "with anything.",
        default=0.5,
    )
    tolerance: str = options_lib.option(
        "What counts as the same crystal: ltol/stol/angle_tol of pymatgen's "
        "StructureMatcher, whose own 0.2/0.3/5 takes some polymorphs for one.",
        default="0.1/0.15/3",
    )
    relax_duplicates: bool = options_lib.option(
        "Relax crystals too that equal an earlier or a known one as they are.",
        default=False,
    )
    num_workers: int | None = options_lib.option(
        "Processes; all CPUs by default.", default=None, lower=1
    )
    dask: str | None = options_lib.option(
        "Address of a Dask scheduler whose workers relax, such as tcp://10.0.0.1:8786.",
        default=None,
    )
    report: bool = options_lib.option("Write report.html.", default=True)
    overwrite: bool = options_lib.option(
        "Replace the screening of another request in the output folder.", default=False
    )


# Options that do not change the results.
_FREE = ("output", "kept", "num_workers", "dask", "report", "overwrite")


def screen(
    options: ScreenOptions, *, show_progress: bool = False
) -> "tuple[screening_result.Screening, dict[str, list[Any]]]":
    """Screens crystals and writes the results; goes on with what is there of them.

    Returns:
        The result, and the table that was written.

    Raises:
        FileNotFoundError: no crystals, hull, references or data set.
        FileExistsError: the folder holds another screening, or another process writes
            there.
        ValueError: see `inputs.read_candidates`, `funnel.screen`,
            `convex_hull.load_hull` and `references.load_references`.
        ImportError: what the calculator or the cluster needs is not installed.
    """
    from crystaljax.relaxation import calculators
    from crystaljax.screening import files as screening_files
    from crystaljax.screening import (
        funnel,
        known_crystals,
        methods,
        relaxed_hull,
        stages,
    )
    from crystaljax.screening import inputs as screening_inputs
    from crystaljax.screening import work as screening_work

    start = time.perf_counter()
    calculators.build_calculator(options.calculator)
    chosen = _screening_options(options, show_progress)
    rows = screening_inputs.read_candidates(options.samples)
    to_relax = None
    known_hull = None
    if options.hull.startswith(RELAXED):
        path = options.hull.removeprefix(RELAXED)
        to_relax = relaxed_hull.read_known(path, rows.crystals)
    else:
        known_hull = _load_hull(options, rows)
    # Before anything is written.
    funnel.find_energy_model(options.calculator, known_hull, options.energy_model)
    if options.relaxation != "auto":
        optimizer, num_crystals = chosen.settings.optimizer, len(rows.crystals)
        stages.choose_method(
            options.relaxation,
            options.calculator,
            optimizer,
            num_crystals,
            options.dask,
        )
    known_path = known_crystals.choose_path(options.known, rows, options.hull)
    known = []
    if known_path:
        found = relaxed_hull.read_known(known_path, rows.crystals)
        known = list(zip(found.ids, found.crystals, strict=True))
    generated_by = _describe_generators(rows)
    output = pathlib.Path(options.output)
    with folder_locks.hold(output, "choose another --output"):
        atomic_files.remove_leftovers(output)
        request = _request(options, chosen, rows, known_path)
        if to_relax is not None:
            request["hull_fingerprint"] = screening_inputs.fingerprint_of(
                to_relax.ids, to_relax.crystals
            )
        work = screening_work.open_work(output, request, overwrite=options.overwrite)
        hull_notes = []
        if to_relax is not None:
            relaxed = relaxed_hull.build(
                to_relax, options.calculator, rows.crystals, chosen, work
            )
            known_hull = relaxed.hull
            chosen = dataclasses.replace(chosen, references=relaxed.references)
            hull_notes = relaxed.describe()
            print("\n".join(hull_notes), file=sys.stderr)
        if known_hull is not None and options.known != NONE:
            known += [
                (entry.id, entry.crystal)
                for entry in known_hull.entries
                if entry.crystal is not None
            ]
        ids, crystals = [each[0] for each in known], [each[1] for each in known]
        comparable = known_crystals.as_known(ids, crystals, rows.crystals)
        if not comparable and options.known is None:
            print(
                "note: there are no known crystals of these compositions, so none is "
                "called known; give them with --known, or --known=none",
                file=sys.stderr,
            )
        result = funnel.screen(
            rows.crystals,
            options.calculator,
            known_hull,
            known,
            chosen,
            names=rows.names,
            problems=rows.problems,
            work=work,
        )
        setup = methods.Setup(
            calculator=options.calculator,
            settings=chosen.settings,
            tolerance=chosen.tolerance,
            claimed=options.energy_model,
            references=options.references,
            hull=options.hull,
            hull_notes=tuple(hull_notes),
        )
        table = screening_files.full_table(rows, result)
        screening_files.write_results(
            output,
            result,
            table,
            known_hull,
            {
                "request": {**dataclasses.asdict(options), "known": known_path or NONE},
                "calculator": options.calculator,
                "generated_by": generated_by,
                "hull": options.hull,
                "hull_notes": hull_notes,
                "known": known_crystals.describe_places(
                    known_path, known_hull if options.known != NONE else None
                ),
                "methods": methods.describe(
                    setup, result, known_hull, environment.package_versions()
                ),
                "seconds": {**result.seconds, "all": time.perf_counter() - start},
            },
        )
        if options.report:
            from crystaljax.screening import html_report

            html_report.write_report(output)
        return result, table


def _describe_generators(rows: "screening_inputs.Candidates") -> list[str]:
    """What is to be known of the models that generated the candidates."""
    from crystaljax.training import model_files

    workdirs = {str(each) for each in rows.columns.get("workdir", ()) if each}
    found = [model_files.describe_limits(each) for each in sorted(workdirs)]
    return [each for each in found if each]


def report(
    result: "screening_result.Screening",
    table: dict[str, list[Any]],
    num_top: int = 10,
    counts: dict[str, Any] | None = None,
) -> str:
    """What the command prints at the end.

    Args:
        result: of `screen`.
        table: of `screen`.
        num_top: ranks to show.
        counts: ``sun.json`` as it was written, which names potential, hull and known
            crystals; only the numbers if None.
    """
    from crystaljax.metrics import stable_unique_novel
    from crystaljax.screening import result as screening_result

    if counts is None:
        counts = result.discoveries().counts(has_hull=result.has_hull)
    lines = [
        screening_result.summarize(result),
        "",
        *stable_unique_novel.format_counts(counts),
    ]
    if len(result.ranking()):
        best = screening_result.format_ranking(table, num_top, has_hull=result.has_hull)
        lines += ["", best]
    return "\n".join([*lines, f"     energies: {result.energy_model}"])


def _screening_options(
    options: ScreenOptions, show_progress: bool
) -> "funnel.ScreeningOptions":
    from crystaljax.matching import matcher
    from crystaljax.relaxation import ase_relaxation, references
    from crystaljax.screening import funnel

    if options.preset not in ase_relaxation.PRESETS:
        raise errors.UserError(
            f"unknown preset {options.preset!r}; expected one of "
            f"{', '.join(ase_relaxation.PRESETS)}"
        )
    names = ("fmax", "max_steps", "relax_cell", "optimizer", "timeout", "keep_symmetry")
    given = {name: getattr(options, name) for name in names}
    settings = dataclasses.replace(
        ase_relaxation.PRESETS[options.preset],
        **{name: value for name, value in given.items() if value is not None},
    )
    return funnel.ScreeningOptions(
        settings=settings,
        method=options.relaxation,
        energy_model=options.energy_model,
        references=(
            references.load_references(options.references)
            if options.references
            else None
        ),
        kept=pathlib.Path(options.kept) if options.kept else None,
        check_saddles=options.check_saddles,
        min_distance_ratio=options.min_distance_ratio,
        tolerance=matcher.parse_tolerance(options.tolerance),
        relax_duplicates=options.relax_duplicates,
        num_workers=options.num_workers,
        cluster=options.dask,
        show_progress=show_progress,
    )


def _load_hull(
    options: ScreenOptions, rows: "screening_inputs.Candidates"
) -> "hull_lib.Hull | None":
    from crystaljax.hull import convex_hull
    from crystaljax.screening import inputs as screening_inputs

    if options.hull == NONE:
        return None
    formulas = sorted({screening_inputs.formula(each) for each in rows.crystals} - {""})
    loaded = convex_hull.load_hull(
        options.hull, formulas, energy_model=options.hull_energy_model
    )
    for note in loaded.left_out:
        print(f"note: {note}", file=sys.stderr)
    return loaded


def _request(
    options: ScreenOptions,
    chosen: "funnel.ScreeningOptions",
    rows: "screening_inputs.Candidates",
    known_path: str | None,
) -> dict[str, Any]:
    """All that decides what the results are."""
    from crystaljax.screening import inputs as screening_inputs

    asked = dataclasses.asdict(options)
    request = {key: value for key, value in asked.items() if key not in _FREE}
    given = chosen.references
    return {
        **request,
        **dataclasses.asdict(chosen.settings),
        "known": known_path or NONE,
        "crystals_fingerprint": screening_inputs.fingerprint(rows),
        "references": None
        if given is None
        else [
            {str(n): energy for n, energy in sorted(given.energies.items())},
            {str(n): len(each) for n, each in sorted(given.crystals.items())},
        ],
    }


def _run(chosen: ScreenOptions) -> None:
    from crystaljax.system import startup

    startup.enable_compilation_cache()
    start = time.perf_counter()
    result, table = screen(chosen, show_progress=True)
    counts = json.loads((pathlib.Path(chosen.output) / "sun.json").read_text("utf-8"))
    print(report(result, table, counts=counts))
    print(f"\n{chosen.output}/ after {time.perf_counter() - start:.0f} s")


# One process: those of the relaxations are its own.
COMMAND = command_line.Command(
    "screen",
    __doc__,
    (ScreenOptions,),
    _run,
    uses_devices=False,
    goes_on="the same command goes on from here",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line; ``arguments`` are those of the process if None."""
    command_line.run(COMMAND, arguments)


if __name__ == "__main__":
    main()
