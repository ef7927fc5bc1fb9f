"""Match rate: does a sampled crystal reproduce a known one?

Matching is pymatgen's StructureMatcher with its default settings (primitive cells,
scaled to one volume) and the tolerances named here: its answers, in a fraction of the
time (see `superposition`). Rates at different tolerances cannot be compared: print the
tolerances beside every number.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from crystaljax.crystals import structure, validity
from crystaljax.matching import primitive_cells, superposition
from crystaljax.system import errors, workers

# Of a pair: 2-5 ms at each of the usual tolerances.
_SECONDS_EACH = 0.01


@dataclasses.dataclass(frozen=True)
class Tolerance:
    """What StructureMatcher still calls equal; prints as ``0.2/0.3/5``.

    Attributes:
        ltol: fractional difference of lattice lengths.
        stol: RMS displacement of sites, in units of (volume per site)^(1/3).
        angle_tol: difference of lattice angles, degrees.
    """

    ltol: float
    stol: float
    angle_tol: float

    def __str__(self) -> str:
        return f"{self.ltol:g}/{self.stol:g}/{self.angle_tol:g}"


def parse_tolerance(text: str) -> Tolerance:
    """``0.2/0.3/5`` → tolerance.

    Raises:
        ValueError: the text is not three positive numbers.
    """
    try:
        ltol, stol, angle_tol = (float(each) for each in text.split("/"))
        usable = min(ltol, stol, angle_tol) > 0
    except ValueError:
        usable = False
    if not usable:
        raise errors.UserError(
            f"tolerance {text!r}; expected ltol/stol/angle_tol, three positive numbers "
            "such as 0.2/0.3/5"
        )
    return Tolerance(ltol, stol, angle_tol)


# The paper's three sets, and the one of CDVAE, DiffCSP and those who compare with them.
# A pair takes 2-5 ms, but up to 50 ms at x5 (5 to 20 sites, one core).
TOLERANCES = {
    "paper": Tolerance(0.2, 0.3, 5.0),
    "paper_x2": Tolerance(0.4, 0.6, 10.0),
    "paper_x5": Tolerance(1.0, 1.5, 25.0),
    "literature": Tolerance(0.3, 0.5, 10.0),
}


@dataclasses.dataclass(frozen=True)
class Match:
    """One prediction against its target.

    Attributes:
        rms: per tolerance, the RMS displacement of sites in units of
            (volume per site)^(1/3); None where the two do not match.
        reason: why they could not be compared, in words; empty if they were.
    """

    rms: tuple[float | None, ...]
    reason: str


@dataclasses.dataclass(frozen=True, eq=False)
class Matches:
    """`Match` of many pairs as arrays.

    Attributes:
        tolerances: the columns.
        matched: bool (pairs, tolerances).
        rms: float (pairs, tolerances), in units of (volume per site)^(1/3); NaN where
            a pair does not match.
        reasons: one string per pair, why it could not be compared; empty if it was.
    """

    tolerances: tuple[Tolerance, ...]
    matched: Bool[np.ndarray, "pairs tolerances"]
    rms: Float[np.ndarray, "pairs tolerances"]
    reasons: tuple[str, ...]

    def match_rates(self) -> Float[np.ndarray, " tolerances"]:
        """Share of all pairs that match, per tolerance; those that failed count."""
        return self.matched.sum(axis=0) / max(len(self.matched), 1)

    def mean_rms(self) -> Float[np.ndarray, " tolerances"]:
        """Mean RMS displacement of the pairs that match; NaN where none does."""
        total = np.where(self.matched, self.rms, 0.0).sum(axis=0)
        count = self.matched.sum(axis=0)
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def match(
    prediction: structure.Crystal,
    target: structure.Crystal,
    tolerances: Sequence[Tolerance],
) -> Match:
    """Matches a prediction with its target, at each tolerance.

    Never raises for what a sampler may come up with: what cannot be compared does not
    match, and the reason says why.
    """
    no_match = (None,) * len(tolerances)
    for name, crystal in (("prediction", prediction), ("target", target)):
        if problem := validity.find_cell_problem(crystal):
            return Match(no_match, f"{name}: {problem}")
    # pymatgen's reductions raise many kinds of errors on distorted cells.
    try:
        predicted, wanted = _reduce(prediction), _reduce(target)
        rms = tuple(
            superposition.smallest_rms(predicted, wanted, **dataclasses.asdict(each))
            for each in tolerances
        )
    except Exception as error:
        return Match(no_match, f"{type(error).__name__}: {error}")
    return Match(rms, "")


def identity(crystal: structure.Crystal) -> tuple[bytes, bytes, bytes]:
    """What two crystals have in common that are equal to the last bit."""
    return (
        np.asarray(crystal.atomic_numbers, dtype=np.int64).tobytes(),
        np.asarray(crystal.frac_coords, dtype=np.float64).tobytes(),
        np.asarray(crystal.lattice, dtype=np.float64).tobytes(),
    )


def _reduce(crystal: structure.Crystal) -> primitive_cells.ReducedCell:
    return _reduce_key(identity(crystal))


# A target is reduced once for all tolerances, and once in each process for all of its
# predictions, which follow each other. A cell takes a few kB.
@functools.lru_cache(maxsize=256)
def _reduce_key(key: tuple[bytes, bytes, bytes]) -> primitive_cells.ReducedCell:
    numbers, coords, lattice = key
    return primitive_cells.reduce_cell(
        structure.Crystal(
            np.frombuffer(numbers, dtype=np.int64),
            np.frombuffer(coords).reshape(-1, 3),
            np.frombuffer(lattice).reshape(3, 3),
        )
    )


def match_many(
    predictions: Sequence[structure.Crystal],
    targets: Sequence[structure.Crystal],
    tolerances: Sequence[Tolerance] = tuple(TOLERANCES.values()),
    *,
    num_workers: int | None = None,
    description: str | None = None,
) -> Matches:
    """Matches prediction i with target i, in worker processes.

    Args:
        predictions: sampled crystals.
        targets: what they should reproduce, in the same order. One that has several
            predictions is repeated, anywhere: it costs no more than once.
        tolerances: the columns of the result.
        num_workers: processes; None for all CPUs, or this one if there is little to do.
        description: label of a progress bar; none if None.

    Raises:
        ValueError: there are not as many targets as predictions.
    """
    if len(predictions) != len(targets):
        raise errors.UserError(
            f"{len(predictions)} predictions and {len(targets)} targets; expected one "
            "target per prediction: repeat a target that has several"
        )
    num_workers = workers.choose_num_workers(
        num_workers, len(predictions), _SECONDS_EACH
    )
    tolerances = tuple(tolerances)
    # The predictions of one target next to each other, for the same worker.
    first: dict[tuple[bytes, bytes, bytes], int] = {}
    ranks = [first.setdefault(identity(each), i) for i, each in enumerate(targets)]
    order = sorted(range(len(targets)), key=ranks.__getitem__)
    found = workers.map_in_workers(
        functools.partial(_match_pair, tolerances=tolerances),
        [(predictions[i], targets[i]) for i in order],
        num_workers=num_workers,
        description=description,
    )
    by_index = dict(zip(order, found, strict=True))
    results = [by_index[i] for i in range(len(order))]
    # None becomes NaN.
    rms = np.array([result.rms for result in results], dtype=float)
    rms = rms.reshape(len(results), len(tolerances))
    return Matches(
        tolerances=tolerances,
        matched=~np.isnan(rms),
        rms=rms,
        reasons=tuple(result.reason for result in results),
    )


def _match_pair(
    pair: tuple[structure.Crystal, structure.Crystal],
    tolerances: tuple[Tolerance, ...],
) -> Match:
    return match(*pair, tolerances)
