"""Which of several draws is handed over, by energies and by how probable they are."""

import numpy as np
from jaxtyping import Float, Integer, Shaped

# Estimated energy that counts as much as a factor e in probability, eV/atom, where
# `calibration` has found none for the model: four times the error, since errors of
# crystals that are not right are larger (chosen on validation structures of `mp`).
DEFAULT_UNIT = 0.2


def choose(
    scores: Float[np.ndarray, "samples draws"],
) -> Integer[np.ndarray, " samples"]:
    """Which draw of each sample has the highest score; the first of equal ones.

    NaN is never chosen, but for the first where all are.
    """
    return np.argmax(np.where(np.isnan(scores), -np.inf, scores), axis=1)


def score_draws(
    energies: Float[np.ndarray, "samples draws"],
    probabilities: Float[np.ndarray, "samples draws"],
    kinds: Shaped[np.ndarray, "samples draws"],
    asked: Float[np.ndarray, " samples"] | None,
    unit: float,
) -> Float[np.ndarray, "samples draws"]:
    """How well draws fit: logarithms of probabilities, but for a constant.

    Args:
        energies: estimated, eV/atom; NaN where there is none.
        probabilities: that the model gives their orbits.
        kinds: what draws with the same orbits have in common: of these, each counts e
            times less than the one before.
        asked: energies that they should have; the lower the better if None.
        unit: energy that counts as much as a factor e in probability, eV/atom.
    """
    same = kinds[:, :, None] == kinds[:, None]
    repeats = np.tril(same, -1).sum(axis=2)
    misfit = energies if asked is None else np.abs(energies - asked[:, None])
    return np.log(np.maximum(probabilities, 1e-300)) - repeats - misfit / unit
