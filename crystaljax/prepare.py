r"""Makes a data set: crystals in files, a data base, the built-in alloys.

    crystaljax prepare --source=builtin --output=data/alloys
    crystaljax prepare --source=cif_csv --input=val.csv.gz \
        --energy_column=heat_all --output=data/perov_5
    crystaljax prepare --source=aflow --species=W,B,Ta --natoms=4:60 \
        --rules=paper --output=data/wbta

Prints what was read, what failed and why, what was dropped by which rule, and what is
left; dataset.json holds the same, and figures/ its histograms. A run that was stopped
goes on where it was when the same command is given again.
"""

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import spglib

from crystaljax import command_line
from crystaljax.crystals import canonical, elements
from crystaljax.data import (
    columnar,
    figures,
    reading,
    selection,
    split_lists,
    staging,
)
from crystaljax.data import dataset as datasets
from crystaljax.data import report as reports
from crystaljax.data import split as splits
from crystaljax.data.sources import building
from crystaljax.system import atomic_files, errors, saved_requests
from crystaljax.system import options as options_lib


@options_lib.frozen
class PrepareOptions(building.SourceOptions):
    """What to prepare."""

    output: str | os.PathLike = options_lib.option("Data set directory to make.")
    symprec: float = options_lib.option(
        "Distance tolerance of spglib, Å.", default=0.1, lower=0
    )
    origin: canonical.Origin = options_lib.option(
        "Put a site of the rarest species at the origin (of equally rare ones the "
        "first by Mendeleev number, or by name: site), or keep the input's origin.",
        default="mendeleev",
    )
    setting: Literal["origin", "standard"] = options_lib.option(
        "'standard' also writes each structure's primitive cell in the standard "
        "setting of its space group, as orbits on Wyckoff positions, which models of "
        "orbits are trained on; 'origin' does not.",
        default="origin",
        choices=("origin", "standard"),
    )
    primitive: bool = options_lib.option(
        "Go to the primitive cell (within `symprec=`) first.", default=False
    )
    rules: selection.Rules = options_lib.option(
        "Which rules to begin with.",
        default=selection.Rules(),
        presets=selection.PRESETS,
        preset_flag="rules",
    )
    val_fraction: float = options_lib.option(
        "Share for validation.", default=0.05, lower=0, upper=1
    )
    test_fraction: float = options_lib.option(
        "Share for the test.", default=0.05, lower=0, upper=1
    )
    split_ids: tuple[str, ...] = options_lib.option(
        "Split by lists of ids, as published splits are, in place of the fractions: "
        "train=FILE,val=FILE,test=FILE with an id a line, or CSV with a column "
        "material_id, id or name; or one CSV with a column split besides, or a JSON "
        "file with a list for each side. Structures in no list are dropped.",
        default=(),
    )
    energy_model: str | None = options_lib.option(
        "What the energies were computed with; as the source says if not given.",
        default=None,
    )
    figures: bool = options_lib.option(
        "Draw the histograms of the report.", default=True
    )
    overwrite: bool = options_lib.option(
        "Replace a data set in the output directory, and forget what an interrupted "
        "run has read for it.",
        default=False,
    )


def prepare(options: PrepareOptions, *, show_progress: bool = False) -> dict[str, Any]:
    """Makes a data set.

    Returns:
        The report, as dataset.json holds it under "report".

    Raises:
        FileNotFoundError: the input is missing.
        FileExistsError: the output exists.
        ValueError: an option or the input as a whole is wrong, or nothing is left.
    """
    output = pathlib.Path(options.output)
    # Beside the output, so that an interrupted run leaves nothing under its name.
    partial = output.parent / f".{output.name}.partial"
    options = _with_cache(options)
    finished = _find_finished(options, output, partial)
    if finished is not None:
        return finished
    datasets.check_can_write(output, overwrite=options.overwrite)
    fractions = {"val": options.val_fraction, "test": options.test_fraction}
    splits.require_fractions(fractions)
    # Before anything is read, which may take days.
    sides = split_lists.read_lists(options.split_ids) if options.split_ids else None
    source = building.build_source(options, show_progress=show_progress)
    form = reading.CanonicalForm(options.origin, options.primitive, options.symprec)
    with staging.open_stage(
        partial,
        _reading_options(options),
        restart=options.overwrite,
        replaces=options.overwrite,
    ) as stage:
        atomic_files.restore(output)
        read = reading.read_source(
            source,
            form,
            stage,
            num_workers=options.num_workers,
            show_progress=show_progress,
        )
        report = _select_and_write(
            options,
            source.describe(),
            read,
            partial,
            sides=sides,
            show_progress=show_progress,
        )
        staging.remove_stage(partial)
    return report


def _find_finished(
    options: PrepareOptions, output: pathlib.Path, partial: pathlib.Path
) -> dict[str, Any] | None:
    """The report, where a process wrote the data set and was killed right after."""
    has_both = (output / datasets.INFO_NAME).exists() and partial.exists()
    if options.overwrite or not has_both:
        return None
    info = datasets.read_info(output)
    made_by = info.get("options", {})
    if saved_requests.find_differences(_plain(options), made_by):
        return None
    return info["report"] if staging.remove_finished(partial) else None


def _with_cache(options: PrepareOptions) -> PrepareOptions:
    """Downloads and relaxations are kept beside the output: they took days, perhaps."""
    if options.source not in building.KEPT or options.cache is not None:
        return options
    output = pathlib.Path(options.output)
    suffix = building.KEPT[options.source]
    return dataclasses.replace(
        options, cache=str(output.with_name(f"{output.name}.{suffix}"))
    )


def _select_and_write(
    options: PrepareOptions,
    provenance: dict[str, Any],
    read: reading.Reading,
    partial: pathlib.Path,
    *,
    sides: Mapping[str, int] | None,
    show_progress: bool,
) -> dict[str, Any]:
    keep, dropped = selection.select(read.columns, options.rules)
    given = None
    if sides is not None:
        ids = read.columns.id.to_pylist()
        given, _ = split_lists.assign(ids, sides)
        dropped["split_ids"] = int(np.sum(keep & (given < 0)))
        keep &= given >= 0
        # Of what is kept: a listed one that a rule dropped is missing too.
        kept = [each for each, is_kept in zip(ids, keep, strict=True) if is_kept]
        _, lists = split_lists.assign(kept, sides)
    report = {
        "num_read": read.num_read,
        "failed": read.failed,
        "left_out": read.left_out,
        "dropped": dropped,
    }
    _require_some(keep, report)
    columns = read.columns if keep.all() else _keep(read.columns, keep, partial)
    formulas = _reduced_formulas(columns.formula)
    if given is None:
        fractions = {"val": options.val_fraction, "test": options.test_fraction}
        split = splits.split_by_formula(formulas, fractions, options.seed)
    else:
        split = given[keep]
        report["split_lists"] = lists
        report["formulas_on_two_sides"] = split_lists.count_shared(formulas, split)
    report |= reports.describe(columns, split)
    tables = None
    if options.setting == "standard":
        # It brings JAX.
        from crystaljax.data import orbit_table

        tables, report["standard_setting"] = orbit_table.find_orbits(
            columns,
            symprec=options.symprec,
            workspace=partial / "orbits",
            num_workers=options.num_workers,
            description="standard setting" if show_progress else None,
        )

    def write_more(folder: pathlib.Path) -> None:
        if tables is not None:
            from crystaljax.data import orbit_table

            orbit_table.write_table(folder, table=tables)
        if options.figures:
            figures.draw(report, folder / "figures")

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
        write_more_fn=write_more,
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
    after = [
        "rules",
        "split_ids",
        "val_fraction",
        "test_fraction",
        "energy_model",
        "setting",
    ]
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
    # As JSON has it, so that both compare equal.
    return plain | {"split_ids": list(options.split_ids)}


def _run(chosen: PrepareOptions) -> None:
    print(reports.format_report(prepare(chosen, show_progress=True)))
    print(f"written to {chosen.output}")


COMMAND = command_line.Command(
    "prepare",
    __doc__,
    (PrepareOptions,),
    _run,
    uses_devices=False,
    goes_on="the same command goes on from here",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line; ``arguments`` are those of the process if None."""
    command_line.run(COMMAND, arguments)


if __name__ == "__main__":
    main()
