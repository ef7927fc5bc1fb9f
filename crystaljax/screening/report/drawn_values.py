"""Crystals and numbers as the JSON values that the scripts of a page draw.

``crystal.js`` knows what `describe_structure` and `describe_elements` return.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from ase.data import colors

from crystaljax.crystals import elements, structure

# eV/atom, fractional coordinates, Å: finer than anything that is shown.
_DECIMALS = 6


def describe_structure(crystal: structure.Crystal) -> dict[str, Any]:
    """Atomic numbers, fractional coordinates one after another, lattice vectors (Å)."""
    return {
        "numbers": np.asarray(crystal.atomic_numbers),
        "coords": np.round(np.asarray(crystal.frac_coords, dtype=float), 5).ravel(),
        "lattice": np.round(np.asarray(crystal.lattice, dtype=float), 5),
    }


def describe_elements(crystals: Iterable[structure.Crystal]) -> dict[str, Any]:
    """Symbol, colour (Jmol's) and covalent radius (Å) by atomic number."""
    numbers = {int(number) for each in crystals for number in each.atomic_numbers}
    described = {}
    for number in sorted(numbers):
        color = np.round(255 * np.asarray(colors.jmol_colors[number])).astype(int)
        described[str(number)] = {
            "symbol": elements.symbol(number),
            "color": color,
            "radius": elements.load_covalent_radii()[number - 1],
        }
    return described


def to_json(value: Any) -> Any:
    """JSON values: numbers rounded, those that are not finite None."""
    if isinstance(value, Mapping):
        return {str(key): to_json(each) for key, each in value.items()}
    if isinstance(value, np.ndarray):
        return to_json(value.tolist())
    if isinstance(value, list | tuple):
        return [to_json(each) for each in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return round(value, _DECIMALS) if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)
