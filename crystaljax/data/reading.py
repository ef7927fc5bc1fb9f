"""Records of a source → columns in canonical form, by worker processes."""

import contextlib
import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import tqdm

from crystaljax.crystals import (
    canonical,
    elements,
    structure,
    symmetry_search,
    validity,
)
from crystaljax.data import columnar, staging
from crystaljax.data.sources import levels_of_theory, record
from crystaljax.system import errors, interruption, workers

# Rows that a worker takes at a time: few at first, so that a short file keeps all
# workers busy, then enough to hide what sending them costs.
_FIRST_CHUNK_ROWS = 32
_LAST_CHUNK_ROWS = 1024
_NUM_EXAMPLES = 3
# At most this much work is done again after an interruption.
_SECONDS_BETWEEN_COMMITS = 10.0
# How energies were computed: key → value → what says it first, in words.
_Levels = dict[str, dict[str, str]]


@dataclasses.dataclass(frozen=True)
class CanonicalForm:
    """How records are brought into canonical form.

    Attributes:
        origin: see `canonical.canonical_crystal`; "none" keeps the cell as it is, see
            `canonical.ordered_crystal`.
        primitive: go to the primitive cell first; "input" then refers to the origin
            that spglib leaves.
        symprec: distance tolerance of spglib, Å.
    """

    origin: canonical.Origin | Literal["none"] = "mendeleev"
    primitive: bool = False
    symprec: float = 0.1


@dataclasses.dataclass(frozen=True, eq=False)
class Reading:
    """What was read.

    Attributes:
        columns: the structures that could be read, in the order of the source.
        num_read: rows of the source, good and bad.
        failed: for each reason the count, and the first few as examples: JSON values.
        left_out: for each rule of the source the count of what it left out.
        num_space_groups_found: of how many structures spglib found the space group,
            since the source did not say it.
    """

    columns: columnar.Columns
    num_read: int
    failed: dict[str, dict[str, Any]]
    left_out: dict[str, int]
    num_space_groups_found: int


@dataclasses.dataclass(frozen=True, eq=False)
class _Chunk:
    """What a worker sends back."""

    columns: columnar.Columns
    num_rows: int
    failures: list[record.Failure]
    num_space_groups_found: int
    levels: _Levels


def read_source(
    source: record.Source,
    form: CanonicalForm,
    stage: staging.Stage,
    *,
    num_workers: int | None = None,
    show_progress: bool = False,
) -> Reading:
    """Reads all of a source into a stage, or what the stage does not yet have of it.

    A bad row is counted with its reason, and is not fatal.

    Raises:
        FileNotFoundError: the input is missing.
        ValueError: the input as a whole is not what the source reads, or its energies
            were computed in several ways.
    """
    progress = stage.progress
    if not progress:
        progress |= {"num_rows": 0, "num_space_groups_found": 0, "is_complete": False}
        progress |= {"failed": {}, "left_out": {}}
    # Rows that are there already may be of several.
    _require_one_level(progress)
    if not progress["is_complete"]:
        _read_rest(source, form, stage, num_workers, show_progress)
    return Reading(
        columns=stage.files.columns(),
        num_read=progress["num_rows"],
        failed=progress["failed"],
        left_out=progress["left_out"],
        num_space_groups_found=progress["num_space_groups_found"],
    )


def _read_rest(
    source: record.Source,
    form: CanonicalForm,
    stage: staging.Stage,
    num_workers: int | None,
    show_progress: bool,
) -> None:
    progress = stage.progress
    rows = itertools.islice(source.read_rows(), progress["num_rows"], None)
    chunks = workers.map_in_workers(
        functools.partial(_process_rows, source.parse_row, form),
        _chunked(rows),
        num_workers=num_workers,
    )
    bar = None
    committed = time.monotonic()
    # Committed in any case, so that nothing read is lost with what stops the rest.
    with contextlib.ExitStack() as stack:
        stack.callback(stage.commit)
        for chunk in chunks:
            if bar is None:
                # Not before: a source that downloads shows the progress of that first.
                bar = stack.enter_context(_progress_bar(progress, show_progress))
            # Both or neither: structures that were not counted would be read again.
            with interruption.deferred():
                stage.files.append(chunk.columns)
                _count(progress, chunk)
            bar.update(chunk.num_rows)
            _require_one_level(progress)
            if time.monotonic() - committed > _SECONDS_BETWEEN_COMMITS:
                stage.commit()
                committed = time.monotonic()
        progress["is_complete"] = True


def _progress_bar(progress: dict[str, Any], show_progress: bool) -> tqdm.tqdm:
    return tqdm.tqdm(
        desc="read",
        unit=" structures",
        initial=progress["num_rows"],
        smoothing=0.05,
        disable=not show_progress,
    )


def _count(progress: dict[str, Any], chunk: _Chunk) -> None:
    progress["num_rows"] += chunk.num_rows
    progress["num_space_groups_found"] += chunk.num_space_groups_found
    levels: _Levels = progress.setdefault("levels", {})
    for key, values in chunk.levels.items():
        levels[key] = values | levels.get(key, {})
    for failure in chunk.failures:
        if failure.is_rule:
            left_out = progress["left_out"]
            left_out[failure.reason] = left_out.get(failure.reason, 0) + 1
            continue
        entry = progress["failed"].setdefault(
            failure.reason, {"count": 0, "examples": []}
        )
        entry["count"] += 1
        if len(entry["examples"]) < _NUM_EXAMPLES:
            entry["examples"].append({"id": failure.id, "detail": failure.detail})


def _require_one_level(progress: dict[str, Any]) -> None:
    """Raises ValueError if rows state different levels of theory."""
    for key, examples in progress.get("levels", {}).items():
        if len(examples) > 1:
            raise errors.UserError(
                f"the input holds energies of {len(examples)} kinds by their {key!r}: "
                f"{'; '.join(examples.values())}; a data set has one: split the input"
            )


def _find_levels(records: Iterable[record.Record]) -> _Levels:
    levels: _Levels = {}
    for each in records:
        for key, value in each.level.items():
            values = levels.setdefault(key, {})
            name = levels_of_theory.normalize(value)
            if name not in values:
                values[name] = f"{each.id!r} has {value[:60]}"
    return levels


def canonical_records(
    parsed: Sequence[record.Record], form: CanonicalForm
) -> list[record.Record | record.Failure]:
    """Records in canonical form and with all their labels, or why there is none."""
    results: list[record.Record | record.Failure] = []
    crystals = canonical_forms([each.crystal for each in parsed], form)
    made = [each for each in crystals if isinstance(each, structure.Crystal)]
    close = iter(validity.have_close_sites(made))
    for each, crystal in zip(parsed, crystals, strict=True):
        is_close = isinstance(crystal, structure.Crystal) and next(close)
        if each.formation_energy is None:
            results.append(record.Failure(each.id, "no formation energy"))
        elif isinstance(crystal, ValueError):
            reason = "cell or sites make no crystal"
            results.append(record.Failure(each.id, reason, str(crystal)))
        elif is_close:
            reason = f"atoms closer than {validity.MIN_DISTANCE} Å"
            shortest = validity.pair_distances(crystal).min()
            results.append(record.Failure(each.id, reason, f"{shortest:.3g} Å"))
        else:
            results.append(_with_space_group(each, crystal, form.symprec))
    return results


def _with_space_group(
    parsed: record.Record, crystal: structure.Crystal, symprec: float
) -> record.Record | record.Failure:
    number = parsed.space_group or symmetry_search.find_space_group(crystal, symprec)
    if not number:
        reason = f"spglib finds no space group at symprec {symprec} Å"
        return record.Failure(parsed.id, reason)
    return record.Record(parsed.id, crystal, number, parsed.formation_energy)


def _chunked(rows: Iterable[Any]) -> Iterator[list[Any]]:
    iterator = iter(rows)
    size = _FIRST_CHUNK_ROWS
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk
        size = min(2 * size, _LAST_CHUNK_ROWS)


def _process_rows(
    parse_row_fn: Callable[[Any], record.Record | record.Failure],
    form: CanonicalForm,
    rows: list[Any],
) -> _Chunk:
    failures: list[record.Failure] = []
    parsed: list[record.Record] = []
    for row in rows:
        try:
            result = parse_row_fn(row)
        except Exception as error:
            # A fault of the source or of a library that it uses: it costs this row, not
            # the millions around it, and the report names it.
            result = _unexpected("", error)
        if isinstance(result, record.Failure):
            failures.append(result)
        else:
            parsed.append(result)
    records: list[record.Record] = []
    used: list[record.Record] = []
    num_found = 0
    for before, result in zip(parsed, _canonical_or_not(parsed, form), strict=True):
        if isinstance(result, record.Failure):
            failures.append(result)
        else:
            records.append(result)
            used.append(before)
            num_found += before.space_group is None
    columns = columnar.columns_from_crystals(
        [one.id for one in records],
        [elements.cell_formula(one.crystal.atomic_numbers) for one in records],
        [one.crystal for one in records],
        # Both are known by now; a type checker cannot know.
        [one.space_group or 0 for one in records],
        [one.formation_energy or 0.0 for one in records],
    )
    return _Chunk(columns, len(rows), failures, num_found, _find_levels(used))


def _canonical_or_not(
    parsed: list[record.Record], form: CanonicalForm
) -> list[record.Record | record.Failure]:
    """`canonical_records`; an unexpected error costs only the record that caused it."""
    try:
        return canonical_records(parsed, form)
    except Exception as error:
        if len(parsed) == 1:
            return [_unexpected(parsed[0].id, error)]
        middle = len(parsed) // 2
        halves = parsed[:middle], parsed[middle:]
        return [each for half in halves for each in _canonical_or_not(half, form)]


def _unexpected(id: str, error: Exception) -> record.Failure:
    return record.Failure(id, f"unexpected {type(error).__name__}", str(error))


def canonical_form(
    crystal: structure.Crystal, form: CanonicalForm
) -> structure.Crystal:
    """A crystal as a data set of that form holds it.

    Raises:
        ValueError: it cannot be brought into this form; the message says why.
    """
    (result,) = canonical_forms([crystal], form)
    if isinstance(result, ValueError):
        raise result
    return result


def canonical_forms(
    crystals: Sequence[structure.Crystal], form: CanonicalForm
) -> list[structure.Crystal | ValueError]:
    """`canonical_form` of many at once; the error stands where it would be raised."""
    results: list[structure.Crystal | ValueError] = []
    problems = validity.find_cell_problems(crystals)
    for crystal, problem in zip(crystals, problems, strict=True):
        try:
            if problem:
                raise errors.UserError(problem)
            if form.primitive:
                crystal = _primitive(crystal, form.symprec)
            if crystal.num_sites > columnar.MAX_SITES:
                raise errors.UserError(
                    f"{crystal.num_sites} sites; a data set holds up to "
                    f"{columnar.MAX_SITES}"
                )
            if form.origin == "none":
                crystal = canonical.ordered_crystal(crystal)
            results.append(crystal)
        except ValueError as error:
            results.append(error)
    if form.origin == "none":
        return results
    good = [each for each in results if isinstance(each, structure.Crystal)]
    made = iter(canonical.canonical_crystals(good, form.origin))
    return [
        next(made) if isinstance(each, structure.Crystal) else each for each in results
    ]


def _primitive(crystal: structure.Crystal, symprec: float) -> structure.Crystal:
    primitive = symmetry_search.find_primitive_cell(crystal, symprec)
    if primitive is None:
        raise errors.UserError(f"spglib finds no primitive cell at symprec {symprec} Å")
    return primitive
