"""Which crystals are new: not equal to an earlier one, nor to one that is known.

Equal is what pymatgen's ``StructureMatcher.fit`` says at a tolerance, with the earlier
or known crystal as its first argument (it is not quite symmetric): primitive cells at
equal volume, and no site displaced by more than ``stol``. That asks for more than a
match (`matching`), whose displacements are averaged. Only crystals of one reduced
formula are compared.
"""

import collections
import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from crystaljax import (
    elements,
    matching,
    reduction,
    structure,
    superposition,
    validity,
    workers,
)

# A process takes seconds to start, a crystal and the comparisons with it 1-10 ms.
_MIN_CRYSTALS_FOR_WORKERS = 500


def find_duplicates(
    crystals: Sequence[structure.Crystal],
    *,
    tolerance: matching.Tolerance = matching.TOLERANCES["paper"],
    num_workers: int | None = None,
    description: str | None = None,
) -> Int[np.ndarray, " crystals"]:
    """Index of the first earlier crystal that each one equals; -1 where there is none.

    Crystals are compared with those before them that are not duplicates themselves.
    What cannot be compared (`validity.find_cell_problem`) equals nothing.

    Args:
        crystals: the one to keep of several equal ones comes first.
        tolerance: what is still equal.
        num_workers: processes, which share the work by composition; None for all CPUs,
            or this one if there is little to do.
        description: label of a progress bar, which counts compositions; none if None.
    """
    groups = list(_group_by_formula(crystals).values())
    found = workers.map_in_workers(
        functools.partial(_find_duplicates, tolerance=tolerance),
        [[crystals[i] for i in group] for group in groups],
        num_workers=_num_workers(num_workers, len(crystals)),
        description=description,
    )
    duplicate_of = np.full(len(crystals), -1)
    for group, equals in zip(groups, found, strict=True):
        for i, j in zip(group, equals, strict=True):
            if j is not None:
                duplicate_of[i] = group[j]
    return duplicate_of


def find_known(
    crystals: Sequence[structure.Crystal],
    known: Sequence[tuple[str, structure.Crystal]],
    *,
    tolerance: matching.Tolerance = matching.TOLERANCES["paper"],
    num_workers: int | None = None,
    description: str | None = None,
) -> list[str]:
    """Id of the first known crystal that each crystal equals; "" where there is none.

    Args:
        crystals: what may be known.
        known: ids and crystals; those of other compositions take no time.
        tolerance: see `find_duplicates`, as are the others.
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
        num_workers=_num_workers(num_workers, len(crystals)),
        description=description,
    )
    known_as = [""] * len(crystals)
    for (formula, members), equals in zip(known_groups.items(), found, strict=True):
        for i, j in zip(groups[formula], equals, strict=True):
            if j is not None:
                known_as[i] = known[members[j]][0]
    return known_as


def _num_workers(num_workers: int | None, num_crystals: int) -> int | None:
    if num_workers is None and num_crystals < _MIN_CRYSTALS_FOR_WORKERS:
        return 1
    return num_workers


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
    crystals: list[structure.Crystal], tolerance: matching.Tolerance
) -> list[int | None]:
    equals: list[int | None] = []
    distinct: dict[int, reduction.ReducedCell] = {}
    for index, crystal in enumerate(crystals):
        cell = _reduce(crystal)
        equals.append(cell and _find_equal(distinct, cell, tolerance))
        if cell is not None and equals[-1] is None:
            distinct[index] = cell
    return equals


def _find_known(
    crystals_and_known: tuple[list[structure.Crystal], list[structure.Crystal]],
    tolerance: matching.Tolerance,
) -> list[int | None]:
    crystals, known = crystals_and_known
    cells = {i: cell for i, each in enumerate(known) if (cell := _reduce(each))}
    reduced = map(_reduce, crystals)
    return [cell and _find_equal(cells, cell, tolerance) for cell in reduced]


def _reduce(crystal: structure.Crystal) -> reduction.ReducedCell | None:
    # pymatgen's reductions raise many kinds of errors on distorted cells.
    try:
        return reduction.reduce_cell(crystal)
    except Exception:
        return None


def _find_equal(
    cells: dict[int, reduction.ReducedCell],
    cell: reduction.ReducedCell,
    tolerance: matching.Tolerance,
) -> int | None:
    """Index of the first of ``cells`` that a cell equals."""
    for index, each in cells.items():
        # Without the search for bases where there can be none, as for most pairs.
        if (
            each.composition != cell.composition
            or superposition.stretch(each, cell) > 1 + tolerance.ltol
        ):
            continue
        try:
            if superposition.are_equal(each, cell, **dataclasses.asdict(tolerance)):
                return index
        except Exception:
            continue
    return None
