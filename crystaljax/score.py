r"""Scores anybody's crystals: match rates, METRe, validity, space groups.

    crystaljax score --generated=samples --reference=data/mp_20 --reference_split=test
    crystaljax score --generated=theirs.zip --reference=test.csv --output=score

Both are read in all formats: an output folder of `sample`, `modify` or `evaluate`, a
folder or archive of CIF, POSCAR and extxyz files, an extxyz file, a CSV with a column
of CIFs, a data set. Prints every number with its definition, and what could not be read
or compared. ``--output`` takes ``score.json``, and ``generated.csv`` and
``references.csv`` with one row per crystal.
"""

import dataclasses
import pathlib
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from crystaljax import command_line
from crystaljax.system import errors
from crystaljax.system import options as options_lib

# These bring pymatgen, and --help does without.
if TYPE_CHECKING:
    from crystaljax.matching import matcher
    from crystaljax.metrics import pairing as pairing_lib
    from crystaljax.metrics import scoring

PAIRINGS = ("auto", "name", "rounds", "rows", "none")
SPLITS = ("train", "val", "test", "all")
# Columns that say for which reference a crystal was made, the first that does.
_REFERENCE_COLUMNS = ("reference", "reference_id", "target_id", "id", "material_id")
_GROUP_COLUMNS = ("requested_space_group", "space_group_requested")
# Comparisons among generated crystals that are made without being requested.
_MAX_COMPARISONS = 2_000_000


@options_lib.frozen
class ScoreOptions:
    """What to score."""

    generated: str = options_lib.option(
        "Crystals to score: an output folder of `sample`, `modify` or `evaluate`; an "
        "extxyz file; a CSV with a column cif, cif_string or structure; a folder, zip "
        "or tar of CIF, POSCAR and extxyz files."
    )
    reference: str = options_lib.option(
        "Crystals that they are compared with: any of these, or a data set directory."
    )
    output: str | None = options_lib.option(
        "Folder for score.json and the tables; only printed if not given.", default=None
    )
    reference_split: str = options_lib.option(
        "Of a data set: which part is the reference.", default="test", choices=SPLITS
    )
    pairing: str = options_lib.option(
        "Which crystal was made for which reference, for match rate and match@k. name: "
        "by a column reference, reference_id, target_id, id or material_id, or by its "
        "own name, which is the reference's, with a number behind it or without. "
        "rounds: one for each reference, then a second one for each, …. rows: all of "
        "the first reference, then all of the second, …. none: METRe only. auto: the "
        "first of these that leaves no crystal with another reduced formula than its "
        "reference's.",
        default="auto",
        choices=PAIRINGS,
    )
    tolerances: tuple[str, ...] = options_lib.option(
        "ltol/stol/angle_tol of pymatgen's StructureMatcher, one or several. The "
        "literature's are 0.3/0.5/10, the paper's and pymatgen's own 0.2/0.3/5.",
        default=("0.3/0.5/10", "0.2/0.3/5"),
    )
    symprec: float = options_lib.option(
        "Tolerance of space groups, Å; 0: they are not looked for.",
        default=0.1,
        lower=0,
    )
    unique: str = options_lib.option(
        "Count the distinct crystals among the generated ones: yes, no, or auto: if "
        "there are not too many of one formula.",
        default="auto",
        choices=("auto", "yes", "no"),
    )
    known: str | None = options_lib.option(
        "Known crystals, such as those of the training, in any of the formats: counts "
        "how many generated ones are novel.",
        default=None,
    )
    above_hull_column: str | None = options_lib.option(
        "Column of the generated crystals with energies above a hull, eV/atom: counts "
        "stable ones. `screen` computes them.",
        default=None,
    )
    num_workers: int | None = options_lib.option(
        "Processes; all CPUs by default.", default=None, lower=1
    )
    overwrite: bool = options_lib.option(
        "Replace the score in the output folder.", default=False
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """A score, and what is counted of the generated crystals alone.

    Attributes:
        score: matches, validity, space groups.
        discoveries: counts of unique, novel and stable crystals; None if not counted.
        notes: what the numbers depend on besides, in sentences.
        seconds: that all of it took.
    """

    score: "scoring.Score"
    discoveries: dict[str, Any] | None
    notes: list[str]
    seconds: float


def score(options: ScoreOptions, *, show_progress: bool = False) -> Result:
    """Reads, compares and counts; writes if there is an output folder.

    Raises:
        FileNotFoundError: no crystals.
        FileExistsError: the output folder holds a score.
        ValueError: see `inputs.read_candidates`; a tolerance or column that cannot be
            used, or a pairing that does not fit.
    """
    from crystaljax.metrics import pairing, scoring
    from crystaljax.system import atomic_files

    start = time.perf_counter()
    output = None if options.output is None else pathlib.Path(options.output)
    if output is not None:
        atomic_files.require_absent(output / "score.json", options.overwrite)
    settings = scoring.Settings(
        tolerances=_parse_tolerances(options.tolerances),
        symprec=options.symprec or None,
        num_workers=options.num_workers,
        show_progress=show_progress,
    )
    references = read_crystals(options.reference, options.reference_split)
    generated, columns = _read_generated(options)
    pairs = pairing.choose(
        options.pairing,
        pairing.Side(generated.names, generated.formulas()),
        pairing.Side(references.names, references.formulas()),
        {name: columns[name] for name in _REFERENCE_COLUMNS if name in columns},
    )
    notes = [] if options.pairing == "none" else [_describe_pairing(pairs)]
    found = scoring.score(generated, references, pairs, settings)
    discoveries = _count_discoveries(options, found, columns, notes)
    result = Result(found, discoveries, notes, time.perf_counter() - start)
    if output is not None:
        _write(output, result, options)
    return result


def report(result: Result) -> str:
    """What the command prints."""
    from crystaljax.metrics import (
        numbers,
        score_tables,
        stable_unique_novel,
        yardsticks,
    )

    found = result.score
    lines = [
        f"{len(found.generated):,} generated crystals, {len(found.references):,} "
        f"references, {found.pairs.num_pairs:,} pairs of one reduced formula",
        *(f"note: {note}" for note in result.notes),
    ]
    for reason, account in score_tables.accounts(found).items():
        if account["count"]:
            examples = ", ".join(account["examples"][:3])
            more = ", …" if account["count"] > 3 else ""
            lines.append(f"  {account['count']:>7,} {reason}: {examples}{more}")
    lines += numbers.format_numbers(yardsticks.describe(found))
    if result.discoveries is not None:
        lines += stable_unique_novel.format_counts(result.discoveries)
    return "\n".join(lines)


def to_json(result: Result) -> dict[str, Any]:
    """The score as JSON values, without the tables."""
    from crystaljax.metrics import score_tables, stable_unique_novel, yardsticks
    from crystaljax.system import environment

    found = result.score
    return {
        "num_generated": len(found.generated),
        "num_references": len(found.references),
        "num_pairs": found.pairs.num_pairs,
        "pairing": None if found.pairing is None else found.pairing.how,
        "valid": found.valid_rule,
        "numbers": [each.to_json() for each in yardsticks.describe(found)],
        "accounts": score_tables.accounts(found),
        "discoveries": result.discoveries,
        "discoveries_definitions": stable_unique_novel.DEFINITIONS,
        "notes": result.notes,
        "seconds": result.seconds,
        "versions": environment.package_versions(),
    }


def read_crystals(path: str, split: str = "all") -> "scoring.Crystals":
    """Crystals of a data set, or of files of any format.

    Args:
        path: see `ScoreOptions.reference`.
        split: of a data set; all of a file.
    """
    from crystaljax.data import dataset as datasets
    from crystaljax.metrics import scoring
    from crystaljax.screening import inputs

    if (pathlib.Path(path) / "dataset.json").exists():
        dataset = datasets.open_dataset(path)
        indices = range(len(dataset))
        if split != "all":
            indices = dataset.indices(split).tolist()
        if not len(indices):
            raise errors.UserError(
                f"the split {split!r} of {path} is empty; give another "
                "`reference_split=`"
            )
        return scoring.Crystals(
            [dataset.id[i].as_py() for i in indices],
            [datasets.crystal(dataset, i) for i in indices],
            [""] * len(indices),
            [int(dataset.space_group[i]) for i in indices],
        )
    rows = inputs.read_candidates(path)
    return scoring.Crystals(rows.names, rows.crystals, rows.problems)


def _read_generated(
    options: ScoreOptions,
) -> "tuple[scoring.Crystals, dict[str, list[Any]]]":
    """Crystals with the space groups requested, and their other columns."""
    from crystaljax.metrics import scoring
    from crystaljax.screening import columns as screening_columns
    from crystaljax.screening import inputs

    if (pathlib.Path(options.generated) / "dataset.json").exists():
        return read_crystals(options.generated), {}
    rows = inputs.read_candidates(options.generated)
    columns = screening_columns.rename_former(rows.table())
    groups = next((columns[each] for each in _GROUP_COLUMNS if each in columns), None)
    if groups is not None:
        groups = [each if isinstance(each, int) else 0 for each in groups]
    return (
        scoring.Crystals(rows.names, rows.crystals, rows.problems, groups),
        columns,
    )


def _parse_tolerances(texts: Sequence[str]) -> "tuple[matcher.Tolerance, ...]":
    from crystaljax.matching import matcher

    if not texts:
        raise errors.UserError(
            "no tolerances; expected at least one, such as 0.2/0.3/5"
        )
    return tuple(matcher.parse_tolerance(each) for each in texts)


def _describe_pairing(pairs: "pairing_lib.Pairing | None") -> str:
    if pairs is not None:
        return f"crystals are paired with references {pairs.how}"
    return (
        "which crystal was made for which reference is not known (neither names nor "
        "order give them all their reference's formula), so that there is no match "
        "rate, only METRe; `pairing=` says it"
    )


def _count_discoveries(
    options: ScoreOptions,
    found: "scoring.Score",
    columns: dict[str, list[Any]],
    notes: list[str],
) -> dict[str, Any] | None:
    """Unique, novel and stable crystals, as far as they can be counted."""
    import collections

    import numpy as np

    from crystaljax.matching import novelty
    from crystaljax.metrics import stable_unique_novel

    of_formula = collections.Counter(each for each in found.formulas if each)
    comparisons = sum(n * (n - 1) // 2 for n in of_formula.values())
    if options.unique == "no" or (
        options.unique == "auto" and comparisons > _MAX_COMPARISONS
    ):
        if options.unique == "auto":
            notes.append(
                "distinct crystals are not counted, since that may take "
                f"{comparisons:,} comparisons; `unique=yes` counts them"
            )
        return None
    energies = np.full(len(found.generated), np.nan)
    if options.above_hull_column is not None:
        if options.above_hull_column not in columns:
            raise errors.UserError(
                f"the generated crystals have no column {options.above_hull_column!r}; "
                f"they have: {', '.join(columns) or 'none'}"
            )
        energies = np.array(
            [
                each if isinstance(each, int | float) else np.nan
                for each in columns[options.above_hull_column]
            ],
            float,
        )
    crystals = found.generated.crystals
    tolerance = found.settings.tolerances[-1]
    known_as = [""] * len(crystals)
    if options.known is not None:
        known = read_crystals(options.known)
        known_as = novelty.find_known(
            crystals,
            list(zip(known.names, known.crystals, strict=True)),
            tolerance=tolerance,
            num_workers=options.num_workers,
        )
    counts = stable_unique_novel.find_discoveries(
        found.valid,
        novelty.find_duplicates(
            crystals, tolerance=tolerance, num_workers=options.num_workers
        ),
        known_as,
        energies,
    ).counts(has_hull=options.above_hull_column is not None)
    if options.known is None:
        # Without known crystals novelty is unknown: not all are novel.
        counts |= {"novel": None, "unique_and_novel": None, "sun": None}
    return counts | {
        "hull": options.above_hull_column,
        "known": options.known,
        "tolerance": str(tolerance),
    }


def _write(output: pathlib.Path, result: Result, options: ScoreOptions) -> None:
    from crystaljax.crystals import structure_files
    from crystaljax.metrics import score_tables
    from crystaljax.system import atomic_files

    output.mkdir(parents=True, exist_ok=True)
    for name, table in (
        ("generated.csv", score_tables.generated_table(result.score)),
        ("references.csv", score_tables.reference_table(result.score)),
    ):
        structure_files.write_table(output / name, table, overwrite=True)
    atomic_files.write_json(
        output / "score.json",
        {"options": dataclasses.asdict(options), **to_json(result)},
    )


def _run(chosen: ScoreOptions) -> None:
    result = score(chosen, show_progress=True)
    print(command_line.with_flags(report(result), COMMAND))
    if chosen.output is not None:
        print(f"written to {chosen.output}")


COMMAND = command_line.Command(
    "score", __doc__, (ScoreOptions,), _run, uses_devices=False
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line; ``arguments`` are those of the process if None."""
    command_line.run(COMMAND, arguments)


if __name__ == "__main__":
    main()
