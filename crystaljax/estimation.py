"""Estimates of formation energies by the estimator that a network may have."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from crystaljax import scaling, structure
from crystaljax.data import dataset as datasets
from crystaljax.models import networks

# (params, atomic_numbers, frac_coords, lattice) → energies, eV/atom.
EstimateFn = Callable[..., Array]

# Held-out structures that the error is measured on, and at a time.
_MAX_MEASURED = 1024
_BATCH_SIZE = 256


def build_estimate_fn(
    model: networks.Network, scale: scaling.Scaling
) -> EstimateFn | None:
    """Compiles ``(params, atomic_numbers, frac_coords, lattice) → energies``, eV/atom.

    None where the network has no estimator.
    """
    if not model.estimator_depth:
        return None

    def estimate(params, atomic_numbers, frac_coords, lattice):
        cells = (atomic_numbers, frac_coords, lattice)
        found: Any = model.apply(params, *cells, method=model.estimate_energy)
        return scale.unscale_energy(found)

    return jax.jit(estimate)


def measure_error(
    estimate_fn: EstimateFn | None,
    params: Any,
    dataset: datasets.Dataset,
    split: str = "val",
) -> float | None:
    """Error of the estimates for a split, eV/atom: 68 % of them are nearer.

    As a standard deviation is for normal errors, but outliers do not count. None where
    there is no estimator, or no structure in the split.
    """
    indices = dataset.indices(split)[:_MAX_MEASURED]
    if estimate_fn is None or len(indices) == 0:
        return None
    largest = int(dataset.num_sites[indices].max())
    sites = structure.max_sites(structure.rows_for(largest))
    errors = []
    for start in range(0, len(indices), _BATCH_SIZE):
        # Of one size, so that it is compiled once.
        part = np.resize(indices[start : start + _BATCH_SIZE], _BATCH_SIZE)
        batch = datasets.gather(dataset, part, sites)
        cells = (batch.atomic_numbers, batch.frac_coords, batch.lattice)
        found = estimate_fn(params, *cells)
        apart = np.abs(np.asarray(found) - np.asarray(batch.energy))
        errors.append(apart[: len(indices) - start])
    return float(np.quantile(np.concatenate(errors), 0.683))
