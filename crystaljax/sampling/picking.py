"""Which of several crystals fits best what was requested.

A generator draws from what is likely, and now and then that is another crystal of the
formula: a polymorph, or the same sites with two elements the other way round. What was
requested can be checked on what it made: the space group, and by an estimate of the
energy (`energy_estimator`) whether this is the crystal with the energy requested. No
draw is compared with a known crystal.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from crystaljax.crystals import structure, symmetry_search, validity
from crystaljax.sampling import estimation

# crystal, space group requested → what is made of it.
RefineFn = Callable[[structure.Crystal, int], structure.Crystal]

# Å; as loose as labels of space groups are.
_SYMPREC = 0.1
# Crystals are taken for the same where their energies are as near as this, in errors.
_SAME = 0.2


def pick(
    draws: Sequence[Sequence[structure.Crystal]],
    space_groups: Sequence[int],
    energies: Sequence[float],
    *,
    estimate_fn: estimation.CellsFn | None = None,
    energy_error: float | None = None,
    refine_fn: RefineFn | None = None,
) -> list[structure.Crystal]:
    """The best draw for each question, refined.

    They are tried by how probable they are (`log_probabilities`), and the first that is
    valid and of the space group is taken; if there is none, the first that is valid.

    Args:
        draws: crystals drawn for each question, at least one.
        space_groups: that were requested, 1-230.
        energies: that were requested, eV/atom.
        estimate_fn: estimates energies; without it, or without their error, draws
            are tried in their order.
        energy_error: of the estimates, eV/atom, see `estimation.measure_error`.
        refine_fn: applied to what is tried.
    """
    if estimate_fn is None or energy_error is None:
        ordered = [list(each) for each in draws]
    else:
        crystals = [crystal for each in draws for crystal in each]
        estimates = estimation.estimate_many(estimate_fn, crystals)
        ordered, start = [], 0
        for made, energy in zip(draws, energies, strict=True):
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
    estimates: Float[np.ndarray, " draws"], energy: float, energy_error: float
) -> Float[np.ndarray, " draws"]:
    """How probable draws are, given the energy; up to a constant.

    What was made often is likelier: draws of the same energy are counted together,
    and their number is weighed against the (normal) error of the estimate. What cannot
    be estimated is the last.
    """
    estimates = np.asarray(estimates, np.float64)
    same = np.abs(estimates[:, None] - estimates) <= _SAME * energy_error
    scores = np.log(np.maximum(same.sum(axis=1), 1))
    scores -= 0.5 * ((estimates - energy) / energy_error) ** 2
    return np.nan_to_num(scores, nan=-np.inf)


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
            if symmetry_search.find_space_group(refined, _SYMPREC) == space_group:
                return refined
    return (valid or tried)[0]
