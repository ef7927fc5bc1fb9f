"""Makes a data set from crystals in files, from a data base, or the built-in alloys.

    python -m crystaljax.prepare --source=builtin --output=data/alloys
    python -m crystaljax.prepare --source=cif_csv --input=val.csv.gz \
        --energy_column=heat_all --output=data/perov_5
    python -m crystaljax.prepare --source=aflow --species=W,B,Ta --natoms=4:60 \
        --rules=paper --output=data/wbta

Prints what was read, what failed and why, what was dropped by which rule, and what is
left; dataset.json holds the same, and figures/ its histograms. A run that was stopped
goes on where it was when the same command is given again.
"""

import dataclasses
import functools
import os
import pathlib
from typing import Any

import numpy as np
import pyarrow as pa
import spglib
from absl import flags

from crystaljax import command_line
from crystaljax.crystals import canonical, elements
from crystaljax.data import columnar, figures, reading, selection, staging
from crystaljax.data import dataset as datasets
from crystaljax.data import report as reports
from crystaljax.data import split as splits
from crystaljax.data.sources import building
from crystaljax.system import errors


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrepareOptions(building.SourceOptions):
    """What to prepare; see the flags of the command.

    Attributes:
        output: the data set directory to make.
        symprec: distance tolerance of spglib, Å.
        origin: see `canonical.canonical_crystal`.
        primitive: go to the primitive cell (within ``symprec``) first.
        rules: what to drop.
        val_fraction: share of structures for validation.
        test_fraction: share of structures for the test.
        energy_model: what the energies were computed with; as the source says if None.
        figures: draw the histograms of the report.
        overwrite: replace a data set at ``output``, and forget what an interrupted run
            has read for it.
    """

    output: str | os.PathLike
    symprec: float = 0.1
    origin: canonical.Origin = "mendeleev"
    primitive: bool = False
    rules: selection.Rules = dataclasses.field(default_factory=selection.Rules)
    val_fraction: float = 0.05
    test_fraction: float = 0.05
    energy_model: str | None = None
    figures: bool = True
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
    splits.require_fractions(fractions)
    options = _with_cache(options)
    source = building.build_source(options, show_progress=show_progress)
    form = reading.CanonicalForm(options.origin, options.primitive, options.symprec)
    output = pathlib.Path(options.output)
    # Beside the output, so that an interrupted run leaves nothing under its name.
    partial = output.parent / f".{output.name}.partial"
    with staging.open_stage(
        partial, _reading_options(options), restart=options.overwrite
    ) as stage:
        read = reading.read_source(
            source,
            form,
            stage,
            num_workers=options.num_workers,
            show_progress=show_progress,
        )
        report = _select_and_write(options, source.describe(), read, partial)
    staging.remove_stage(partial)
    if options.figures:
        figures.draw(report, output / "figures")
    return report


def _with_cache(options: PrepareOptions) -> PrepareOptions:
    """What is downloaded is kept beside the output: it took days, perhaps."""
    if options.source not in building.SERVICES or options.cache is not None:
        return options
    output = pathlib.Path(options.output)
    return dataclasses.replace(
        options, cache=str(output.with_name(f"{output.name}.download"))
    )


def _select_and_write(
    options: PrepareOptions,
    provenance: dict[str, Any],
    read: reading.Reading,
    partial: pathlib.Path,
) -> dict[str, Any]:
    keep, dropped = selection.select(read.columns, options.rules)
    report = {
        "num_read": read.num_read,
        "failed": read.failed,
        "left_out": read.left_out,
        "dropped": dropped,
    }
    _require_some(keep, report)
    columns = read.columns if keep.all() else _keep(read.columns, keep, partial)
    fractions = {"val": options.val_fraction, "test": options.test_fraction}
    split = splits.split_by_formula(
        _reduced_formulas(columns.formula), fractions, options.seed
    )
    report |= reports.describe(columns, split)
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
        options.output,
        columns,
        split,
        info,
        workspace=partial,
        overwrite=options.overwrite,
    )
    return report


def _keep(
    columns: columnar.Columns, keep: np.ndarray, partial: pathlib.Path
) -> columnar.Columns:
    """The structures where ``keep`` is true, on disk: there may be millions."""
    files = staging.ColumnFiles(partial / "kept")
    for where, block in columnar.blocks(columns):
        files.append(columnar.filter_columns(block, keep[where]))
    kept = files.columns()
    files.close()
    return kept


def _reading_options(options: PrepareOptions) -> dict[str, Any]:
    """What the reading depends on, and the selection that comes after it does not."""
    plain = _plain(options)
    after = ["rules", "val_fraction", "test_fraction", "energy_model"]
    if not building.depends_on_seed(options):
        after.append("seed")
    plain = {name: value for name, value in plain.items() if name not in after}
    if options.input is not None and os.path.isfile(options.input):
        status = os.stat(options.input)
        plain |= {"bytes": status.st_size, "modified": status.st_mtime_ns}
    return plain


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
        raise errors.UserError("nothing left: the source has no structures")
    if not len(keep):
        reason = max(failed, key=lambda name: failed[name])
        example = report["failed"][reason]["examples"][0]
        raise errors.UserError(
            f"nothing left: none of {report['num_read']} structures could be read, "
            f"most ({failed[reason]}) because: {reason}; the first is "
            f"{example['id']!r}: {example['detail']}"
        )
    dropped = report["dropped"]
    rule = max(dropped, key=lambda name: dropped[name])
    raise errors.UserError(
        f"nothing left: of {len(keep)} structures that were read, --{rule} dropped "
        f"most ({dropped[rule]}); all rules: {dropped}"
    )


def _plain(options: PrepareOptions) -> dict[str, Any]:
    """Options as JSON values, without those that cannot change the result."""
    plain = dataclasses.asdict(options)
    for name in ("output", "overwrite", "num_workers", "figures"):
        del plain[name]
    return plain


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
    names = functools.partial(flags.DEFINE_list, flag_values=values)
    switch = functools.partial(flags.DEFINE_bool, flag_values=values)
    choice("source", None, building.SOURCES, "Where the structures come from.")
    text("output", None, "Data set directory to make.")
    text("input", None, "File to read (gzip, bzip2 and xz too), or folder or archive.")
    text("labels", None, "CSV with energies by id, for folder and entries_json.")
    text("energy_column", None, "Column or key of the formation energy, eV/atom.")
    text(
        "space_group_column",
        None,
        "Column or key of the space-group number; found by spglib if not given.",
    )
    text("id_column", None, "Column or key of the structure's name.")
    names("species", None, "aflow: elements that structures are made of, as W,B,Ta.")
    text("natoms", None, "aflow: atoms per cell, as 4:60, its default.")
    text("nspecies", None, "aflow: number of elements, as 2:4.")
    names(
        "functionals", None, "aflow: values of dft_type to keep; PAW_PBE if not given."
    )
    switch("allow_hubbard_u", None, "aflow: keep what was computed with a Hubbard U.")
    text(
        "server", None, "optimade: oqmd, alexandria, mp or an address; aflow: address."
    )
    text("filter", None, "optimade: what to ask for, in its filter language.")
    integer("page_size", None, "aflow, optimade: entries asked for at once.", 1)
    switch("verify_tls", None, "aflow, optimade: check the server's certificate.")
    text("cache", None, "aflow, optimade: keeps pages; OUTPUT.download if not given.")
    text("energy_model", None, "What the energies were computed with.")
    number("symprec", 0.1, "Distance tolerance of spglib, Å.", 0)
    choice(
        "origin",
        "mendeleev",
        canonical.ORIGINS,
        "Put a site of the rarest species at the origin (of equally rare ones the "
        "first by Mendeleev number, or by name: site), or keep the input's origin.",
    )
    boolean("primitive", False, "Go to the primitive cell.")
    choice("rules", "none", ("none", "paper"), "Which rules to begin with.")
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
    boolean("figures", True, "Draw the histograms of the report.")
    boolean("overwrite", False, "Replace a data set at --output.")
    flags.mark_flags_as_required(["source", "output"], flag_values=values)


def options_from_flags(values: flags.FlagValues) -> PrepareOptions:
    """Parsed flags → options."""
    given = values.flag_values_dict()
    for name in ("natoms", "nspecies"):
        given[name] = _parse_range(name, given[name])
    for name in ("species", "functionals"):
        given[name] = tuple(given[name]) if given[name] else None
    rules = selection.PAPER_RULES if given["rules"] == "paper" else selection.Rules()
    limits = {
        field.name: given[field.name]
        for field in dataclasses.fields(selection.Rules)
        if given[field.name] is not None
    }
    names = {field.name for field in dataclasses.fields(PrepareOptions)} - {"rules"}
    return PrepareOptions(
        rules=dataclasses.replace(rules, **limits),
        **{name: given[name] for name in names},
    )


def _parse_range(name: str, text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    least, _, most = text.partition(":")
    try:
        return int(least), int(most or least)
    except ValueError as error:
        raise errors.UserError(
            f"--{name}={text} is no range; expected one such as 4:60, or one number"
        ) from error


def main() -> None:
    """Command line."""
    define_flags()

    def command():
        options = options_from_flags(flags.FLAGS)
        report = prepare(options, show_progress=True)
        print(reports.format_report(report))
        print(f"written to {options.output}")

    command_line.run(command, uses_devices=False)


if __name__ == "__main__":
    main()
