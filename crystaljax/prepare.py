"""Makes a data set: crystals from a file or built in → canonical form → a directory.

    python -m crystaljax.prepare --source=builtin --output=data/alloys
    python -m crystaljax.prepare --source=cif_csv --input=val.csv.gz \
        --energy_column=heat_all --output=data/perov_5

Prints what was read, what failed and why, what was dropped by which rule, and what is
left; dataset.json holds the same.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import spglib
from absl import flags

from crystaljax import canonical, command_line, elements
from crystaljax.data import columnar, reading, selection
from crystaljax.data import dataset as datasets
from crystaljax.data.sources import aflow_csv, cif_csv, csv_rows, extxyz, record

SOURCES = ("builtin", "emt", "cif_csv", "aflow_csv", "extxyz")
# Sources that make their records; the others read a file.
_EMT_SOURCES = ("builtin", "emt")


@dataclasses.dataclass(frozen=True)
class PrepareOptions:
    """What to prepare; see the flags of the command.

    Attributes:
        source: one of ``SOURCES``.
        output: the data set directory to make.
        input: the file, for sources that read one.
        energy_column: column or key of the formation energy, eV/atom.
        space_group_column: column or key of the space group; found by spglib where it
            is None (AFLOW files have a usual one).
        id_column: column or key of the structure's name.
        symprec: distance tolerance of spglib, Å.
        origin: "site" or "input", see `canonical.canonical_crystal`.
        primitive: go to the primitive cell (within ``symprec``) first.
        rules: what to drop.
        val_fraction: share of structures for validation.
        test_fraction: share of structures for the test.
        seed: of the split, and of structures that are generated.
        num_structures: how many to make (emt); all there are if None.
        num_workers: processes; all CPUs if None.
        energy_model: what the energies were computed with; as the source says if None.
        overwrite: replace a data set at ``output``.
    """

    source: str
    output: str | os.PathLike
    input: str | None = None
    energy_column: str | None = None
    space_group_column: str | None = None
    id_column: str | None = None
    symprec: float = 0.1
    origin: canonical.Origin = "site"
    primitive: bool = False
    rules: selection.Rules = dataclasses.field(default_factory=selection.Rules)
    val_fraction: float = 0.05
    test_fraction: float = 0.05
    seed: int = 0
    num_structures: int | None = None
    num_workers: int | None = None
    energy_model: str | None = None
    overwrite: bool = False


def prepare(options: PrepareOptions, *, show_progress: bool = False) -> dict[str, Any]:
    """Makes a data set.

    Returns:
        The report, as dataset.json holds it under "report".

    Raises:
        FileNotFoundError: the input is missing.
        FileExistsError: the output exists.
        ValueError: an option or the input as a whole is wrong, or nothing is left.
    """
    datasets.check_can_write(options.output, overwrite=options.overwrite)
    fractions = {"val": options.val_fraction, "test": options.test_fraction}
    selection.require_fractions(fractions)
    source = build_source(options)
    provenance = source.describe()

    form = reading.CanonicalForm(options.origin, options.primitive, options.symprec)
    read = reading.read_source(
        source, form, num_workers=options.num_workers, show_progress=show_progress
    )
    keep, dropped = selection.select(read.columns, options.rules)
    report = {"num_read": read.num_read, "failed": read.failed, "dropped": dropped}
    _require_some(keep, report)
    columns = columnar.filter_columns(read.columns, keep)
    split = selection.split_by_formula(
        _reduced_formulas(columns.formula), fractions, options.seed
    )
    report |= _describe_kept(columns, split)
    info = {
        "report": report,
        "energy_model": options.energy_model or provenance.get("energy_model"),
        # Counted before the selection.
        "space_groups_found": {
            "by": f"spglib {spglib.__version__}",
            "symprec": options.symprec,
            "num_structures": read.num_space_groups_found,
        },
        "options": _plain(options),
        "provenance": provenance,
    }
    datasets.write_dataset(
        options.output, columns, split, info, overwrite=options.overwrite
    )
    return report


def build_source(options: PrepareOptions) -> record.Source:
    """Options → where the records come from.

    Raises:
        ValueError: the source is unknown, or an option it needs is missing.
    """
    name = options.source
    if name not in SOURCES:
        raise ValueError(f"unknown source {name!r}; expected one of {SOURCES}")
    if name in _EMT_SOURCES:
        return _build_emt_source(options)
    if options.input is None:
        raise ValueError(f"--source={name} reads a file; give it with --input")
    if options.energy_column is None and name != "aflow_csv":
        raise ValueError(_missing_energy_message(options))
    given = {
        "energy": options.energy_column,
        "space_group": options.space_group_column,
        "id": options.id_column,
    }
    source_type, suffix = {
        "cif_csv": (cif_csv.CifCsv, "column"),
        "aflow_csv": (aflow_csv.AflowCsv, "column"),
        "extxyz": (extxyz.ExtXyz, "key"),
    }[name]
    fields = {
        f"{role}_{suffix}": value for role, value in given.items() if value is not None
    }
    return source_type(str(options.input), **fields)


def _missing_energy_message(options: PrepareOptions) -> str:
    message = (
        f"--source={options.source} needs --energy_column, the column or key with the "
        "formation energy in eV/atom"
    )
    if options.source == "cif_csv" and options.input is not None:
        header = ", ".join(csv_rows.read_header(options.input))
        message += f"; {options.input} has the columns: {header}"
    return message


@dataclasses.dataclass(frozen=True)
class RecordSource:
    """Records that are made, not parsed; rows are the records themselves.

    Attributes:
        make_records: gives the records, and failures to be counted.
        provenance: what `describe` gives.
    """

    make_records: Callable[[], Iterable[record.Record | record.Failure]]
    provenance: dict[str, Any]

    def read_rows(self) -> Iterator[record.Record | record.Failure]:
        """See `record.Source`."""
        yield from self.make_records()

    # Static, so that what makes the records is not sent to the workers.
    @staticmethod
    def parse_row(
        row: record.Record | record.Failure,
    ) -> record.Record | record.Failure:
        """See `record.Source`."""
        return row

    def describe(self) -> dict[str, Any]:
        """See `record.Source`."""
        return self.provenance


def _build_emt_source(options: PrepareOptions) -> RecordSource:
    # ASE's EMT and the prototypes are needed by these two sources only.
    from crystaljax import relaxation
    from crystaljax.data.sources import emt

    if options.source == "builtin":
        made = {"source": "builtin", **emt.load_metadata()}
        return RecordSource(emt.load_builtin, made)

    def generate() -> Iterator[record.Record | record.Failure]:
        generated = emt.generate(
            options.num_structures,
            seed=options.seed,
            num_workers=options.num_workers,
            description="relax",
        )
        yield from generated.records
        for reason, count in generated.num_dropped.items():
            yield from [record.Failure("", reason)] * count

    made = {
        "source": "emt",
        "energy_model": relaxation.energy_model(emt.CALCULATOR),
        "seed": options.seed,
    }
    return RecordSource(generate, made | {"num_structures": options.num_structures})


def _reduced_formulas(formulas: pa.Array) -> list[str]:
    """Cell formulas → reduced formulas; each distinct one is parsed once."""
    encoded = formulas.dictionary_encode()
    reduced = [
        elements.reduced_formula(elements.formula_atomic_numbers(formula))
        for formula in encoded.dictionary.to_pylist()
    ]
    return [reduced[index] for index in encoded.indices.to_pylist()]


def _require_some(keep: np.ndarray, report: dict[str, Any]) -> None:
    """Raises ValueError, with the main reason, if nothing is left."""
    if keep.any():
        return
    failed = {reason: entry["count"] for reason, entry in report["failed"].items()}
    if not report["num_read"]:
        raise ValueError("nothing left: the source has no structures")
    if not len(keep):
        reason = max(failed, key=lambda name: failed[name])
        example = report["failed"][reason]["examples"][0]
        raise ValueError(
            f"nothing left: none of {report['num_read']} structures could be read, "
            f"most ({failed[reason]}) because: {reason}; the first is "
            f"{example['id']!r}: {example['detail']}"
        )
    dropped = report["dropped"]
    rule = max(dropped, key=lambda name: dropped[name])
    raise ValueError(
        f"nothing left: of {len(keep)} structures that were read, --{rule} dropped "
        f"most ({dropped[rule]}); all rules: {dropped}"
    )


def _describe_kept(columns: columnar.Columns, split: np.ndarray) -> dict[str, Any]:
    groups = np.bincount(columnar.polymorph_groups(columns.formula))
    numbers = np.unique(columns.atomic_numbers)
    return {
        "num_kept": len(columns),
        "num_groups": len(groups),
        "smallest_group": int(groups.min()),
        "largest_group": int(groups.max()),
        "sites": [int(columns.num_sites.min()), int(columns.num_sites.max())],
        "formation_energy": [
            float(columns.formation_energy.min()),
            float(columns.formation_energy.max()),
        ],
        "elements": [elements.symbol(int(number)) for number in numbers],
        "space_groups": np.unique(columns.space_group).tolist(),
        "splits": {
            name: int(np.sum(split == code))
            for code, name in enumerate(datasets.SPLITS)
        },
    }


def _plain(options: PrepareOptions) -> dict[str, Any]:
    """Options as JSON values, without those that cannot change the result."""
    plain = dataclasses.asdict(options)
    for name in ("output", "overwrite", "num_workers"):
        del plain[name]
    return plain


def format_report(report: dict[str, Any]) -> str:
    """The report as lines of text."""
    energies = report["formation_energy"]
    rows: list[tuple[str, Any]] = [("structures read", report["num_read"])]
    rows += [
        (f"  failed: {reason}", entry["count"])
        for reason, entry in report["failed"].items()
    ]
    rows += [(f"  dropped by --{rule}", num) for rule, num in report["dropped"].items()]
    rows += [
        ("structures kept", report["num_kept"]),
        ("polymorph groups (same cell formula)", report["num_groups"]),
        ("  smallest", report["smallest_group"]),
        ("  largest", report["largest_group"]),
        ("atoms per cell", "{} to {}".format(*report["sites"])),
        ("formation energy (eV/atom)", "{:.3f} to {:.3f}".format(*energies)),
        ("elements", len(report["elements"])),
        ("space groups", len(report["space_groups"])),
        *report["splits"].items(),
    ]
    width = max(len(label) for label, _ in rows) + 2
    return "\n".join(f"{label:<{width}}{value}" for label, value in rows)


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of the command; their names are those of the options."""
    text, integer, number, boolean, choice = (
        functools.partial(define, flag_values=values)
        for define in (
            flags.DEFINE_string,
            flags.DEFINE_integer,
            flags.DEFINE_float,
            flags.DEFINE_bool,
            flags.DEFINE_enum,
        )
    )
    choice("source", None, SOURCES, "Where the structures come from.")
    text("input", None, "File to read (CSV and extxyz, gzip too).")
    text("output", None, "Data set directory to make.")
    text(
        "energy_column",
        None,
        "Column (CSV) or key (extxyz) of the formation energy, eV/atom.",
    )
    text(
        "space_group_column",
        None,
        "Column or key of the space-group number; found by spglib if not given.",
    )
    text("id_column", None, "Column or key of the structure's name.")
    text("energy_model", None, "What the energies were computed with.")
    number("symprec", 0.1, "Distance tolerance of spglib, Å.", 0)
    choice(
        "origin",
        "site",
        canonical.ORIGINS,
        "Put a site of the rarest species at the origin, or keep the input's origin.",
    )
    boolean("primitive", False, "Go to the primitive cell.")
    integer("min_sites", None, "Fewest atoms of a cell.")
    integer("max_sites", None, "Most atoms of a cell.")
    number("min_energy", None, "Energies must lie above, eV/atom.")
    number("max_energy", None, "Energies must lie below, eV/atom.")
    boolean("drop_duplicates", True, "Drop what equals an earlier structure.")
    integer("min_group_size", None, "Fewest members of a polymorph group.")
    integer("max_group_size", None, "Most members of a polymorph group.")
    number(
        "min_element_share",
        None,
        "Drop structures with an element found in a smaller share of all (0.01: 1 %).",
    )
    number(
        "min_space_group_share",
        None,
        "Drop structures with a space group found in a smaller share of all.",
    )
    number("val_fraction", 0.05, "Share for validation.", 0, 1)
    number("test_fraction", 0.05, "Share for the test.", 0, 1)
    integer("seed", 0, "Of the split, and of structures that are made.")
    integer("num_structures", None, "How many to make (emt); all if not given.", 1)
    integer("num_workers", None, "Processes; all CPUs if not given.", 1)
    boolean("overwrite", False, "Replace a data set at --output.")
    flags.mark_flags_as_required(["source", "output"], flag_values=values)


def options_from_flags(values: flags.FlagValues) -> PrepareOptions:
    """Parsed flags → options."""
    given = values.flag_values_dict()
    rules = {
        field.name: given[field.name] for field in dataclasses.fields(selection.Rules)
    }
    names = {field.name for field in dataclasses.fields(PrepareOptions)} - {"rules"}
    return PrepareOptions(
        rules=selection.Rules(**rules), **{name: given[name] for name in names}
    )


def main() -> None:
    """Command line."""
    define_flags()

    def command():
        options = options_from_flags(flags.FLAGS)
        report = prepare(options, show_progress=True)
        print(format_report(report))
        print(f"written to {options.output}")

    command_line.run(command)


if __name__ == "__main__":
    main()
