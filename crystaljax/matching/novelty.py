"""Which crystals are new: not equal to an earlier one, nor to one that is known.

Equal is what pymatgen's ``StructureMatcher.fit`` says at a tolerance, with the earlier
or known crystal as its first argument (it is not quite symmetric): primitive cells at
equal volume, and no site displaced by more than ``stol``. That asks for more than a
match (`matcher`), whose displacements are averaged. Only crystals of one reduced
formula are compared.
"""

import collections
import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Int

from crystaljax.crystals import elements, structure, validity
from crystaljax.matching import matcher, primitive_cells, superposition
from crystaljax.system import workers

# Of a crystal and the comparisons with it, 1-10 ms.
_SECONDS_EACH = 0.004
# So many of one composition are left to one process. Of more, so many at least are
# compared at once.
_MIN_CRYSTALS_FOR_BLOCKS = 64
_MIN_BLOCK = 16
# A worker's tasks in a round: some crystals take longer than others.
_TASKS_PER_WORKER = 4


def find_duplicates(
    crystals: Sequence[structure.Crystal],
    *,
    tolerance: matcher.Tolerance = matcher.TOLERANCES["paper"],
    num_workers: int | None = None,
    description: str | None = None,
) -> Int[np.ndarray, " crystals"]:
    """Index of the first earlier crystal that each one equals; -1 where there is none.

    Crystals are compared with those before them that are not duplicates themselves.
    What cannot be compared (`validity.find_cell_problem`) equals nothing.

    Args:
        crystals: the one to keep of several equal ones comes first.
        tolerance: what is still equal.
        num_workers: processes; None for all CPUs, or this one if there is little to do.
        description: label of a progress bar, which counts crystals; none if None.
    """
    groups = list(_group_by_formula(crystals).values())
    num_workers = workers.choose_num_workers(num_workers, len(crystals), _SECONDS_EACH)
    # Groups that are small beside the whole keep the workers busy as they are.
    limit = max(_MIN_CRYSTALS_FOR_BLOCKS, len(crystals) / num_workers / 4)
    small = [each for each in groups if num_workers == 1 or len(each) <= limit]
    large = [each for each in groups if num_workers > 1 and len(each) > limit]

    def find() -> Iterator[tuple[int, int | None]]:
        found = workers.map_in_workers(
            functools.partial(_find_duplicates, tolerance=tolerance),
            [[crystals[i] for i in group] for group in small],
            num_workers=num_workers,
        )
        for group, equals in zip(small, found, strict=True):
            for i, j in zip(group, equals, strict=True):
                yield i, None if j is None else group[j]
        yield from _find_in_blocks(crystals, large, tolerance, num_workers)

    duplicate_of = np.full(len(crystals), -1)
    total = sum(map(len, groups))
    for i, j in workers.with_progress(find(), description, total):
        if j is not None:
            duplicate_of[i] = j
    return duplicate_of


def find_known(
    crystals: Sequence[structure.Crystal],
    known: Sequence[tuple[str, structure.Crystal]],
    *,
    tolerance: matcher.Tolerance = matcher.TOLERANCES["paper"],
    num_workers: int | None = None,
    description: str | None = None,
) -> list[str]:
    """Id of the first known crystal that each crystal equals; "" where there is none.

    Args:
        crystals: what may be known.
        known: ids and crystals; those of other compositions take no time.
        tolerance: see `find_duplicates`, also for the remaining arguments.
        num_workers: processes.
        description: label of a progress bar.
    """
    groups = _group_by_formula(crystals)
    known_groups = _group_by_formula([crystal for _, crystal in known], set(groups))
    found = workers.map_in_workers(
        functools.partial(_find_known, tolerance=tolerance),
        [
            ([crystals[i] for i in groups[formula]], [known[i][1] for i in members])
            for formula, members in known_groups.items()
        ],
        num_workers=workers.choose_num_workers(
            num_workers, len(crystals), _SECONDS_EACH
        ),
        description=description,
    )
    known_as = [""] * len(crystals)
    for (formula, members), equals in zip(known_groups.items(), found, strict=True):
        for i, j in zip(groups[formula], equals, strict=True):
            if j is not None:
                known_as[i] = known[members[j]][0]
    return known_as


def _group_by_formula(
    crystals: Sequence[structure.Crystal], formulas: set[str] | None = None
) -> dict[str, list[int]]:
    """Indices of the crystals that can be compared, by reduced formula."""
    groups: dict[str, list[int]] = collections.defaultdict(list)
    for index, problem in enumerate(validity.find_cell_problems(crystals)):
        if problem:
            continue
        numbers = np.asarray(crystals[index].atomic_numbers, dtype=int)
        formula = elements.reduced_formula(numbers)
        if formulas is None or formula in formulas:
            groups[formula].append(index)
    return dict(groups)


def _find_duplicates(
    crystals: list[structure.Crystal], tolerance: matcher.Tolerance
) -> list[int | None]:
    equals: list[int | None] = []
    distinct: dict[int, primitive_cells.ReducedCell] = {}
    for index, crystal in enumerate(crystals):
        cell = _reduce(crystal)
        equals.append(cell and next(_equal_cells(distinct, cell, tolerance), None))
        if cell is not None and equals[-1] is None:
            distinct[index] = cell
    return equals


def _find_in_blocks(
    crystals: Sequence[structure.Crystal],
    groups: Sequence[list[int]],
    tolerance: matcher.Tolerance,
    num_workers: int,
) -> Iterator[tuple[int, int | None]]:
    """Yields crystals and what they equal, by index; groups are shared by workers.

    A round takes the next block of each group. Workers compare its crystals with those
    that are distinct so far and, if they equal none, with the ones before them in the
    block; which of these are distinct is known afterwards. A block has as many crystals
    as are distinct so far, so that this is not even twice the work of one by one.
    """
    members = [i for group in groups for i in group]
    reduced = workers.map_in_workers(
        _reduce, [crystals[i] for i in members], num_workers=num_workers
    )
    cells: dict[int, primitive_cells.ReducedCell] = {}
    for i, cell in zip(members, reduced, strict=True):
        if cell is None:
            yield i, None
        else:
            cells[i] = cell
    left = [[i for i in group if i in cells] for group in groups]
    distinct: list[dict[int, primitive_cells.ReducedCell]] = [{} for _ in groups]
    num_tasks = num_workers * _TASKS_PER_WORKER
    while any(left):
        sizes = [max(_MIN_BLOCK, len(each)) for each in distinct]
        blocks = [each[:size] for each, size in zip(left, sizes, strict=True)]
        left = [each[size:] for each, size in zip(left, sizes, strict=True)]
        tasks = [
            (others, {i: cells[i] for i in block}, block[begin::num_tasks])
            for others, block in zip(distinct, blocks, strict=True)
            for begin in range(min(num_tasks, len(block)))
        ]
        found = workers.map_in_workers(
            functools.partial(_find_equals, tolerance=tolerance),
            tasks,
            num_workers=num_workers,
        )
        equals = {i: each for some in found for i, each in some.items()}
        for others, block in zip(distinct, blocks, strict=True):
            for i in block:
                first = next((j for j in equals[i] if j in others), None)
                if first is None:
                    others[i] = cells[i]
                yield i, first


def _find_equals(
    distinct_block_and_indices: tuple[
        dict[int, primitive_cells.ReducedCell],
        dict[int, primitive_cells.ReducedCell],
        list[int],
    ],
    tolerance: matcher.Tolerance,
) -> dict[int, list[int]]:
    """The first distinct cell that each equals, or else all equal ones in the block."""
    distinct, block, indices = distinct_block_and_indices
    found = {}
    for i in indices:
        first = next(_equal_cells(distinct, block[i], tolerance), None)
        if first is not None:
            found[i] = [first]
        else:
            before = {j: block[j] for j in block if j < i}
            found[i] = list(_equal_cells(before, block[i], tolerance))
    return found


def _find_known(
    crystals_and_known: tuple[list[structure.Crystal], list[structure.Crystal]],
    tolerance: matcher.Tolerance,
) -> list[int | None]:
    crystals, known = crystals_and_known
    cells = {i: cell for i, each in enumerate(known) if (cell := _reduce(each))}
    reduced = map(_reduce, crystals)
    return [
        cell and next(_equal_cells(cells, cell, tolerance), None) for cell in reduced
    ]


def _reduce(crystal: structure.Crystal) -> primitive_cells.ReducedCell | None:
    # pymatgen's reductions raise many kinds of errors on distorted cells.
    try:
        cell = primitive_cells.reduce_cell(crystal)
        # Kept in the cell, and sent with it to every process that compares it.
        _ = cell.relative_minima, cell.relative_lengths, cell.composition
    except Exception:
        return None
    return cell


def _equal_cells(
    cells: Mapping[int, primitive_cells.ReducedCell],
    cell: primitive_cells.ReducedCell,
    tolerance: matcher.Tolerance,
) -> Iterator[int]:
    """Yields the index of each of ``cells`` that a cell equals, in their order."""
    tolerances = dataclasses.asdict(tolerance)
    for index, each in cells.items():
        # Without the search for bases where there can be none, as for most pairs.
        if (
            each.composition != cell.composition
            or superposition.stretch(each, cell) > 1 + tolerance.ltol
        ):
            continue
        try:
            if superposition.are_equal(each, cell, **tolerances):
                yield index
        except Exception:
            continue
