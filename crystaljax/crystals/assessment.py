"""Validity and space groups of many crystals, in worker processes."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from crystaljax.crystals import structure, symmetry_search, validity
from crystaljax.system import workers

# Of a check with two symprecs: 2-4 ms (8 sites).
_SECONDS_EACH = 0.002


@dataclasses.dataclass(frozen=True, eq=False)
class Validities:
    """`Validity` of many crystals as arrays, and the space groups found.

    Attributes:
        finite: bool (crystals,).
        volume: float (crystals,), Å³, and so on as in `Validity`.
        volume_per_atom: float (crystals,).
        shortest_distance: float (crystals,).
        shortest_distance_ratio: float (crystals,).
        valid: bool (crystals,).
        reasons: one string per crystal, empty if it is valid.
        symprecs: Å, the tolerances of `space_groups`.
        space_groups: int (crystals, symprecs), 0 where none was found.
    """

    finite: Bool[np.ndarray, " crystals"]
    volume: Float[np.ndarray, " crystals"]
    volume_per_atom: Float[np.ndarray, " crystals"]
    shortest_distance: Float[np.ndarray, " crystals"]
    shortest_distance_ratio: Float[np.ndarray, " crystals"]
    valid: Bool[np.ndarray, " crystals"]
    reasons: tuple[str, ...]
    symprecs: tuple[float, ...]
    space_groups: Int[np.ndarray, "crystals symprecs"]


def check_many(
    crystals: Sequence[structure.Crystal],
    symprecs: Sequence[float] = (0.1, 0.01),
    *,
    num_workers: int | None = None,
    description: str | None = None,
) -> Validities:
    """Checks crystals and finds their space groups, in worker processes.

    Args:
        crystals: what to check.
        symprecs: Å; a space group is looked for at each. 0.1 is what AFLOW-like labels
            ask for, 0.01 is spglib's own default for relaxed crystals.
        num_workers: processes; None for all CPUs, or this one if there is little to do.
        description: label of a progress bar; none if None.
    """
    num_workers = workers.choose_num_workers(num_workers, len(crystals), _SECONDS_EACH)
    results = list(
        workers.map_in_workers(
            functools.partial(_check_with_space_groups, symprecs=tuple(symprecs)),
            crystals,
            num_workers=num_workers,
            description=description,
        )
    )
    validities = [each for each, _ in results]

    def column(name: str, dtype: type) -> np.ndarray:
        return np.array([getattr(each, name) for each in validities], dtype=dtype)

    space_groups = np.array([numbers for _, numbers in results], dtype=int)
    return Validities(
        finite=column("finite", bool),
        volume=column("volume", float),
        volume_per_atom=column("volume_per_atom", float),
        shortest_distance=column("shortest_distance", float),
        shortest_distance_ratio=column("shortest_distance_ratio", float),
        valid=column("valid", bool),
        reasons=tuple(each.reason for each in validities),
        symprecs=tuple(symprecs),
        space_groups=space_groups.reshape(len(crystals), len(symprecs)),
    )


def _check_with_space_groups(
    crystal: structure.Crystal, symprecs: tuple[float, ...]
) -> tuple[validity.Validity, list[int]]:
    return validity.check(crystal), [
        symmetry_search.find_space_group(crystal, symprec) for symprec in symprecs
    ]
