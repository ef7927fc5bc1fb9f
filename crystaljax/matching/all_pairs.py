"""Every generated crystal against every reference of its reduced formula.

The distances are those of pymatgen's StructureMatcher (`matcher`), with the generated
crystal as its first argument. Crystals that are equal to the last bit are compared
once, and most pairs that cannot match are recognised by the shapes of their lattices.
"""

import collections
import dataclasses
import functools
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float, Int

from crystaljax.crystals import elements, structure, validity
from crystaljax.matching import matcher, primitive_cells, superposition
from crystaljax.system import workers

# Of a crystal that is reduced, and of a pair that is compared.
_SECONDS_EACH = 0.004
# Pairs that are sent to a worker at once, and references among them.
_MAX_PAIRS = 256
_MAX_WIDTH = 16


@dataclasses.dataclass(frozen=True, eq=False)
class PairMatches:
    """The pairs that match; all others do not.

    Attributes:
        tolerances: the columns of ``rms``.
        generated: number of the generated crystal.
        reference: number of the reference.
        rms: RMS displacement of sites, in units of (volume per site)^(1/3); NaN where
            the pair does not match at a tolerance.
        generated_problems: per generated crystal, why it cannot be compared with
            anything; "" if it can.
        reference_problems: the same of the references.
        failures: generated crystal, reference and message of pairs whose comparison
            failed; they count as no match.
        num_pairs: pairs of one reduced formula.
    """

    tolerances: tuple[matcher.Tolerance, ...]
    generated: Int[np.ndarray, " pairs"]
    reference: Int[np.ndarray, " pairs"]
    rms: Float[np.ndarray, "pairs tolerances"]
    generated_problems: tuple[str, ...]
    reference_problems: tuple[str, ...]
    failures: tuple[tuple[int, int, str], ...]
    num_pairs: int


def match_all(
    generated: Sequence[structure.Crystal],
    references: Sequence[structure.Crystal],
    tolerances: Sequence[matcher.Tolerance],
    *,
    num_workers: int | None = None,
    description: str | None = None,
) -> PairMatches:
    """Matches all pairs of one reduced formula.

    Args:
        generated: in any number and order; what cannot be compared matches nothing.
        references: the same.
        tolerances: at least one; each costs its own comparison.
        num_workers: processes; None for all CPUs, or this one if there is little to do.
        description: label of the progress bars; none if None.
    """
    tolerances = tuple(tolerances)
    first, second = _group(generated), _group(references)
    formulas = [each for each in first.members if each in second.members]
    for side in (first, second):
        _reduce(side, formulas, num_workers, description)
    tasks = [
        (formula, rows, columns)
        for formula in formulas
        for rows, columns in _blocks(first.usable(formula), second.usable(formula))
    ]
    found = workers.map_in_workers(
        functools.partial(_compare, tolerances=tolerances),
        (
            ([first.cells[i] for i in rows], [second.cells[j] for j in columns])
            for _, rows, columns in tasks
        ),
        num_workers=workers.choose_num_workers(
            num_workers,
            sum(len(rows) * len(columns) for _, rows, columns in tasks),
            _SECONDS_EACH,
        ),
        description=description,
        total=len(tasks),
    )
    pairs: list[tuple[int, int]] = []
    rms: list[tuple[float | None, ...]] = []
    failures: list[tuple[int, int, str]] = []
    for (_, rows, columns), (matched, failed) in zip(tasks, found, strict=True):
        for i, j, distances in matched:
            equal = [
                (one, other)
                for one in first.copies[rows[i]]
                for other in second.copies[columns[j]]
            ]
            pairs += equal
            rms += [distances] * len(equal)
        failures += [(rows[i], columns[j], message) for i, j, message in failed]
    numbers = np.array(pairs, dtype=int).reshape(-1, 2)
    return PairMatches(
        tolerances=tolerances,
        generated=numbers[:, 0],
        reference=numbers[:, 1],
        # None becomes NaN.
        rms=np.array(rms, dtype=float).reshape(len(rms), len(tolerances)),
        generated_problems=tuple(first.problems),
        reference_problems=tuple(second.problems),
        failures=tuple(failures),
        num_pairs=sum(first.count(each) * second.count(each) for each in formulas),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Group:
    """Crystals of one side, by reduced formula.

    Attributes:
        crystals: all of them.
        problems: why each cannot be compared; "" if it can.
        members: numbers of the distinct crystals of each formula.
        copies: all numbers of the crystals that are equal to a distinct one to the
            last bit, itself first.
        cells: the reduced cells of distinct crystals.
    """

    crystals: Sequence[structure.Crystal]
    problems: list[str]
    members: dict[str, list[int]]
    copies: dict[int, list[int]]
    cells: dict[int, primitive_cells.ReducedCell]

    def usable(self, formula: str) -> list[int]:
        return [i for i in self.members[formula] if i in self.cells]

    def count(self, formula: str) -> int:
        return sum(len(self.copies[i]) for i in self.members[formula])


def _group(crystals: Sequence[structure.Crystal]) -> _Group:
    problems = validity.find_cell_problems(crystals)
    members: dict[str, list[int]] = collections.defaultdict(list)
    copies: dict[int, list[int]] = {}
    seen: dict[tuple[bytes, bytes, bytes], int] = {}
    for index, (crystal, problem) in enumerate(zip(crystals, problems, strict=True)):
        if problem:
            continue
        first = seen.setdefault(matcher.identity(crystal), index)
        copies.setdefault(first, []).append(index)
        if first == index:
            numbers = np.asarray(crystal.atomic_numbers, dtype=int)
            members[elements.reduced_formula(numbers)].append(index)
    return _Group(crystals, problems, dict(members), copies, {})


def _reduce(
    group: _Group,
    formulas: Sequence[str],
    num_workers: int | None,
    description: str | None,
) -> None:
    """Fills in the cells of these formulas, and why some cannot be reduced."""
    members = [i for formula in formulas for i in group.members[formula]]
    found = workers.map_in_workers(
        _reduce_cell,
        [group.crystals[i] for i in members],
        num_workers=workers.choose_num_workers(
            num_workers, len(members), _SECONDS_EACH
        ),
        description=description and f"{description}: reduce cells",
    )
    for i, (cell, problem) in zip(members, found, strict=True):
        if cell is not None:
            group.cells[i] = cell
        for copy in group.copies[i]:
            group.problems[copy] = problem


def _reduce_cell(
    crystal: structure.Crystal,
) -> tuple[primitive_cells.ReducedCell | None, str]:
    # pymatgen's reductions raise many kinds of errors on distorted cells.
    try:
        cell = primitive_cells.reduce_cell(crystal)
        # Kept in the cell, and sent with it to every process that compares it.
        _ = cell.relative_minima, cell.relative_lengths, cell.composition
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"
    return cell, ""


def _blocks(
    rows: Sequence[int], columns: Sequence[int]
) -> Iterator[tuple[list[int], list[int]]]:
    """Divides all pairs of two lists into blocks, few enough for one worker's turn."""
    width = min(len(columns), _MAX_WIDTH)
    height = max(1, _MAX_PAIRS // max(width, 1))
    for begin in range(0, len(rows), height):
        for start in range(0, len(columns), width):
            yield (
                list(rows[begin : begin + height]),
                list(columns[start : start + width]),
            )


def _compare(
    generated_and_references: tuple[
        list[primitive_cells.ReducedCell], list[primitive_cells.ReducedCell]
    ],
    tolerances: tuple[matcher.Tolerance, ...],
) -> tuple[list[tuple[int, int, tuple[float | None, ...]]], list[tuple[int, int, str]]]:
    """The pairs that match at some tolerance, and those whose comparison failed."""
    matched, failed = [], []
    limit = 1 + max(each.ltol for each in tolerances)
    arguments = [dataclasses.asdict(each) for each in tolerances]
    for i, cell in enumerate(generated_and_references[0]):
        for j, target in enumerate(generated_and_references[1]):
            # Without the search for bases where there can be none, as for most pairs.
            if (
                cell.composition != target.composition
                or superposition.stretch(cell, target) > limit
            ):
                continue
            try:
                distances = tuple(
                    superposition.smallest_rms(cell, target, **each)
                    for each in arguments
                )
            except Exception as error:
                failed.append((i, j, f"{type(error).__name__}: {error}"))
                continue
            if any(each is not None for each in distances):
                matched.append((i, j, distances))
    return matched, failed
