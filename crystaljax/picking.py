"""Which of several crystals fits best what was asked for.

A generator draws from what is likely, and now and then that is another crystal of the
formula: a polymorph, or the same sites with two elements the other way round. What it
is asked for can be checked on what it made: the space group, and by an estimate of the
energy (`energy_estimator`) whether this is the crystal with the energy asked for. No
candidate is compared with a known crystal.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from crystaljax import structure, validity

# (atomic_numbers, frac_coords, lattice), padded → energies, eV/atom.
EstimateFn = Callable[[np.ndarray, np.ndarray, np.ndarray], Any]
# crystal, space group asked for → what is made of it.
RefineFn = Callable[[structure.Crystal, int], structure.Crystal]

# Å; as loose as labels of space groups are.
_SYMPREC = 0.1
# Crystals are taken for the same where their energies are as near as this, in errors.
_SAME = 0.2
# Crystals whose energies are estimated at a time: one size, to be compiled once.
_BATCH_SIZE = 256


def pick(
    candidates: Sequence[Sequence[structure.Crystal]],
    space_groups: Sequence[int],
    energies: Sequence[float],
    *,
    estimate_fn: EstimateFn | None = None,
    energy_error: float | None = None,
    refine_fn: RefineFn | None = None,
) -> list[structure.Crystal]:
    """The best candidate of each question, refined.

    They are tried by how probable they are (`log_probabilities`), and the first that is
    valid and of the space group is taken; if there is none, the first that is valid.

    Args:
        candidates: of each question, at least one.
        space_groups: that were asked for, 1-230.
        energies: that were asked for, eV/atom.
        estimate_fn: estimates energies; without it, or without their error, candidates
            are tried in their order.
        energy_error: of the estimates, eV/atom, see `estimation.measure_error`.
        refine_fn: applied to what is tried.
    """
    if estimate_fn is None or energy_error is None:
        ordered = [list(each) for each in candidates]
    else:
        estimates = _estimate(estimate_fn, [c for each in candidates for c in each])
        ordered, start = [], 0
        for made, energy in zip(candidates, energies, strict=True):
            part = estimates[start : start + len(made)]
            order = np.argsort(
                -log_probabilities(part, energy, energy_error), kind="stable"
            )
            ordered.append([made[number] for number in order])
            start += len(made)
    return [
        _first_that_holds(tried, group, refine_fn)
        for tried, group in zip(ordered, space_groups, strict=True)
    ]


def log_probabilities(
    estimates: Float[np.ndarray, " candidates"], energy: float, energy_error: float
) -> Float[np.ndarray, " candidates"]:
    """How probable candidates are, given the energy; up to a constant.

    What was made often is likelier: candidates of the same energy are counted together,
    and their number is weighed against the (normal) error of the estimate. What cannot
    be estimated is the last.
    """
    estimates = np.asarray(estimates, np.float64)
    same = np.abs(estimates[:, None] - estimates) <= _SAME * energy_error
    scores = np.log(np.maximum(same.sum(axis=1), 1))
    scores -= 0.5 * ((estimates - energy) / energy_error) ** 2
    return np.nan_to_num(scores, nan=-np.inf)


def _estimate(
    estimate_fn: EstimateFn, crystals: Sequence[structure.Crystal]
) -> Float[np.ndarray, " crystals"]:
    """Estimated energies, in batches of one size for each number of rows."""
    num_sites = np.array([each.num_sites for each in crystals])
    result = np.zeros(len(crystals))
    columns = structure.max_sites(structure.rows_for(int(num_sites.max(initial=1))))
    for start in range(0, len(crystals), _BATCH_SIZE):
        part = crystals[start : start + _BATCH_SIZE]
        numbers = np.zeros((_BATCH_SIZE, columns), np.uint8)
        coords = np.zeros((_BATCH_SIZE, columns, 3), np.float32)
        lattice = np.tile(np.eye(3, dtype=np.float32), (_BATCH_SIZE, 1, 1))
        for row, crystal in enumerate(part):
            numbers[row, : crystal.num_sites] = crystal.atomic_numbers
            coords[row, : crystal.num_sites] = crystal.frac_coords
            lattice[row] = crystal.lattice
        found = np.asarray(estimate_fn(numbers, coords, lattice))
        result[start : start + len(part)] = found[: len(part)]
    return result


def _first_that_holds(
    crystals: Sequence[structure.Crystal], space_group: int, refine_fn: RefineFn | None
) -> structure.Crystal:
    """The first that is valid and of the group, else the first valid one, refined."""
    tried: list[structure.Crystal] = []
    valid: list[structure.Crystal] = []
    for crystal in crystals:
        refined = crystal if refine_fn is None else refine_fn(crystal, space_group)
        tried.append(refined)
        if validity.check(refined).valid:
            valid.append(refined)
            if validity.find_space_group(refined, _SYMPREC) == space_group:
                return refined
    return (valid or tried)[0]
