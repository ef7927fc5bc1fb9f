"""Match rates as the field prints them: of pairs, at k, and of everyone (METRe).

All begin with the smallest distance of each reference crystal among the generated ones
that may answer for it. Which ones may is what makes the difference:

* match rate, match@k: the first k crystals that were generated *for* this reference;
* METRe: all crystals of its reduced formula, for whichever reference they were
  generated ("All that structure matches does not glitter", arXiv 2509.12178, section 5;
  agrees with ``metre_rmsds`` of its authors' code OMatG). Its authors generate as many
  crystals as there are references; with more, METRe can only grow.

A distance is StructureMatcher's RMS displacement of sites in units of
(volume per site)^(1/3), and depends on its tolerances.
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Bool, Float

from crystaljax.matching import all_pairs
from crystaljax.metrics import pairing

_USUAL_KS = (1, 2, 5, 10, 20, 50, 100)


@dataclasses.dataclass(frozen=True)
class MatchRate:
    """How many references are matched, and how closely.

    Attributes:
        num_matched: references that are.
        num_references: all of them.
        rmse: mean distance of those that are matched; NaN where none is.
        crmse: mean distance of all, where one that is not matched counts stol; NaN
            where there is no reference.
    """

    num_matched: int
    num_references: int
    rmse: float
    crmse: float

    @property
    def rate(self) -> float:
        """Share of the references that are matched; NaN without references."""
        if not self.num_references:
            return math.nan
        return self.num_matched / self.num_references

    @property
    def standard_error(self) -> float:
        """Of the rate, as that of so many independent draws."""
        if not self.num_references:
            return math.nan
        return math.sqrt(self.rate * (1 - self.rate) / self.num_references)


def best_distances(
    pairs: all_pairs.PairMatches, column: int, keep: Bool[np.ndarray, " pairs"]
) -> Float[np.ndarray, " references"]:
    """Smallest distance of each reference among the pairs to keep; NaN for no match.

    Args:
        pairs: of generated crystals and references.
        column: of the tolerance.
        keep: pairs that count.
    """
    best = np.full(len(pairs.reference_problems), np.inf)
    rms = pairs.rms[:, column]
    keep = keep & ~np.isnan(rms)
    np.minimum.at(best, pairs.reference[keep], rms[keep])
    return np.where(np.isinf(best), np.nan, best)


def summarize(
    best: Float[np.ndarray, " references"],
    stol: float,
    usable: Bool[np.ndarray, " references"] | None = None,
) -> MatchRate:
    """Match rate, RMSE and cRMSE of the smallest distances of references.

    Args:
        best: from `best_distances`; NaN is a miss.
        stol: what a miss counts in cRMSE.
        usable: references that can be matched at all; the others are left out of all
            numbers. All if None.
    """
    if usable is not None:
        best = best[usable]
    matched = ~np.isnan(best)
    return MatchRate(
        num_matched=int(matched.sum()),
        num_references=len(best),
        rmse=float(best[matched].mean()) if matched.any() else math.nan,
        crmse=float(np.where(matched, best, stol).mean()) if len(best) else math.nan,
    )


def pairs_at_k(
    pairs: all_pairs.PairMatches,
    pairing: pairing.Pairing,
    k: int,
    *,
    anyone: bool = False,
) -> Bool[np.ndarray, " pairs"]:
    """Pairs whose generated crystal is one of the first k made for its reference.

    Args:
        pairs: that match.
        pairing: which was made for which.
        k: how many of each.
        anyone: pairs with other references of the formula too, as METRe counts.
    """
    made = pairing.reference[pairs.generated]
    keep = (made >= 0) & (pairing.rank[pairs.generated] < k)
    return keep if anyone else keep & (made == pairs.reference)


def pairs_of_valid(
    pairs: all_pairs.PairMatches,
    generated: Bool[np.ndarray, " generated"],
    references: Bool[np.ndarray, " references"],
) -> Bool[np.ndarray, " pairs"]:
    """Pairs of which both crystals are valid: what "valid only" counts.

    As in DiffCSP and OMatG, a reference that is not valid itself is a miss.
    """
    return generated[pairs.generated] & references[pairs.reference]


def choose_ks(most: int) -> list[int]:
    """The k of match@k that are printed where each reference has up to ``most``."""
    return [*(k for k in _USUAL_KS if k < most), most] if most else []
