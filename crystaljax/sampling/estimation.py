"""Estimates of formation energies by the estimator that a network may have."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from crystaljax.crystals import structure
from crystaljax.data import dataset as datasets
from crystaljax.models.networks import interface

# (variables, scale, atomic_numbers, frac_coords, lattice) → energies, eV/atom.
EstimateFn = Callable[..., Array]
# The same of one network: (atomic_numbers, frac_coords, lattice) → energies, eV/atom.
CellsFn = Callable[[np.ndarray, np.ndarray, np.ndarray], Any]

# Held-out structures that the error is measured on.
_MAX_MEASURED = 1024
# Crystals at a time: always as many, so that it is compiled once; fewer for a few.
_BATCH_SIZE, _FEW = 256, 16


@functools.lru_cache(maxsize=16)
def build_estimate_fn(model: interface.Network) -> EstimateFn | None:
    """Compiles ``(variables, scale, atomic_numbers, frac_coords, lattice)`` → energies.

    In eV/atom; variables are those of `interface.variables_of`. None where the network
    has no estimator. The same function for the same network: it is compiled once.
    """
    if not model.estimator_depth:
        return None

    def estimate(variables, scale, atomic_numbers, frac_coords, lattice):
        cells = (atomic_numbers, frac_coords, lattice)
        found: Any = model.apply(variables, *cells, method="estimate_energy")
        return scale.unscale_energy(found)

    return jax.jit(estimate)


def estimate_many(
    estimate_fn: CellsFn, crystals: Sequence[structure.Crystal]
) -> Float[np.ndarray, " crystals"]:
    """Estimated energies of crystals, eV/atom; NaN where their numbers say nothing."""
    largest = max((each.num_sites for each in crystals), default=1)
    columns = structure.max_sites(structure.rows_for(largest))
    result = np.zeros(len(crystals))
    size = _FEW if len(crystals) <= _FEW else _BATCH_SIZE
    for start in range(0, len(crystals), size):
        part = crystals[start : start + size]
        numbers = np.zeros((size, columns), np.uint8)
        coords = np.zeros((size, columns, 3), np.float32)
        lattice = np.tile(np.eye(3, dtype=np.float32), (size, 1, 1))
        for row, crystal in enumerate(part):
            numbers[row, : crystal.num_sites] = crystal.atomic_numbers
            coords[row, : crystal.num_sites] = structure.wrap_sites(crystal.frac_coords)
            lattice[row] = crystal.lattice
        found = np.asarray(estimate_fn(numbers, coords, lattice))
        result[start : start + len(part)] = found[: len(part)]
    return result


def measure_error(
    estimate_fn: CellsFn | None,
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
        found = estimate_fn(*cells)
        apart = np.abs(np.asarray(found) - np.asarray(batch.energy))
        errors.append(apart[: len(indices) - start])
    return float(np.quantile(np.concatenate(errors), 0.683))
