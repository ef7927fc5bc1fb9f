"""What a damaged file still says of its crystal, read apart from the package.

Only plain statements are looked for, by regular expressions and Python's own parsers:
a formula, a volume, a number of atoms. Whatever is not said beyond doubt is not
compared.
"""

import collections
import json
import math
import re
from collections.abc import Mapping
from typing import Any

import gemmi
import numpy as np
import spglib
from pymatgen.core import Composition

from crystaljax.crystals import elements, structure

_PLAIN_FORMULA = re.compile(r"(?:[A-Z][a-z]?\d*\s*)+")
_PART = re.compile(r"([A-Z][a-z]?)(\d*)")
_NUMBER = r"([+-]?\d+\.?\d*(?:[eE][+-]?\d+)?)"


def counts_of(crystal: structure.Crystal) -> dict[str, int]:
    """Atoms by symbol."""
    counts = collections.Counter(np.asarray(crystal.atomic_numbers).tolist())
    return {elements.symbol(number): count for number, count in counts.items()}


def plain_formula(text: str) -> dict[str, int] | None:
    """``Cu3 Au1`` → atoms by symbol; None for what is not as plain."""
    text = text.strip()
    if not _PLAIN_FORMULA.fullmatch(text):
        return None
    parts = _PART.findall(text)
    if any(name not in elements.SYMBOLS for name, _ in parts):
        return None
    counts: collections.Counter[str] = collections.Counter()
    for name, count in parts:
        counts[name] += int(count or 1)
    return dict(counts) if all(counts.values()) else None


def _reduced(counts: Mapping[str, int]) -> dict[str, int]:
    divisor = math.gcd(*counts.values())
    return {name: count // divisor for name, count in sorted(counts.items())}


def formula_differs(text: str, crystal: structure.Crystal, *, whole: bool) -> str:
    """How a crystal differs from a formula; "" if it does not, or it cannot be read.

    Args:
        text: the formula.
        crystal: what was read.
        whole: whether the formula is that of the cell, or a multiple of it is.
    """
    said = plain_formula(text)
    if said is None:
        return ""
    found = counts_of(crystal)
    same = said == found if whole else _reduced(said) == _reduced(found)
    return "" if same else f"formula {text.strip()!r}, read as {found}"


def volume_differs(said: float, crystal: structure.Crystal) -> str:
    """How a crystal's volume differs by more than 2 %; "" if it does not."""
    volume = abs(float(np.linalg.det(crystal.lattice)))
    if not math.isfinite(said) or abs(said - volume) <= 0.02 * volume:
        return ""
    return f"volume {said:g}, read as {volume:g}"


def cif(text: str, crystal: structure.Crystal) -> str:
    """What a CIF says otherwise."""
    if len(re.findall(r"^data_", text, re.MULTILINE)) != 1:
        return ""
    formulas = re.findall(r"^_chemical_formula_sum\s+'?([^'\n]+)", text, re.MULTILINE)
    units = re.findall(r"^_cell_formula_units_Z\s+(\d+)\s*$", text, re.MULTILINE)
    volumes = re.findall(rf"^_cell_volume\s+{_NUMBER}", text, re.MULTILINE)
    numbers = re.findall(
        r"^_(?:symmetry_Int_Tables_number|space_group_IT_number)\s+(\d+)\s*$",
        text,
        re.MULTILINE,
    )
    if len(formulas) == 1:
        if problem := formula_differs(formulas[0], crystal, whole=False):
            return problem
        said = plain_formula(formulas[0])
        # Z = 0 says nothing.
        if said and len(units) == 1 and int(units[0]):
            found = sum(counts_of(crystal).values())
            # Of a formula unit, or of the whole cell.
            if found not in (sum(said.values()) * int(units[0]), sum(said.values())):
                return f"{units[0]} units of {formulas[0]}, read as {found} atoms"
    if len(volumes) == 1 and (problem := volume_differs(float(volumes[0]), crystal)):
        return problem
    if len(numbers) == 1 and 2 <= int(numbers[0]) <= 230:
        return _symmetry_differs(int(numbers[0]), crystal)
    return ""


def _symmetry_differs(number: int, crystal: structure.Crystal) -> str:
    """A group that the crystal cannot have: it has fewer operations."""
    cell = (crystal.lattice, crystal.frac_coords, crystal.atomic_numbers)
    found = spglib.get_symmetry_dataset(cell, symprec=0.05)
    if found is None or crystal.num_sites > 500:
        return ""
    group = gemmi.SpaceGroup(number).operations()
    point_operations = len(group.sym_ops)
    rotations = {tuple(map(tuple, each)) for each in found.rotations.tolist()}
    if len(rotations) % point_operations:
        return f"space group {number}, read as {found.number}"
    return ""


def entry(text: str, crystal: structure.Crystal) -> str:
    """What a structure of pymatgen in JSON says of itself otherwise."""
    try:
        item: Any = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(item, dict):
        return ""
    entry = item.get("computed_structure_entry", item)
    amounts = entry.get("composition") if isinstance(entry, dict) else None
    found = entry.get("structure", entry) if isinstance(entry, dict) else None
    if isinstance(amounts, dict):
        try:
            said = Composition(amounts).reduced_formula
        except (ValueError, TypeError, AttributeError):
            said = None
        read = Composition(counts_of(crystal)).reduced_formula
        if said and said != read:
            return f"composition {said}, read as {read}"
    if not isinstance(found, dict):
        return ""
    lattice = found.get("lattice")
    volume = lattice.get("volume") if isinstance(lattice, dict) else None
    if isinstance(volume, int | float) and (
        problem := volume_differs(float(volume), crystal)
    ):
        return problem
    sites = found.get("sites")
    if not isinstance(sites, list) or len(sites) != crystal.num_sites:
        return ""
    places = [site.get("xyz") if isinstance(site, dict) else None for site in sites]
    try:
        said_places = np.array(places, dtype=float)
    except (TypeError, ValueError, OverflowError):
        return ""
    if said_places.shape != (len(sites), 3):
        return ""
    apart = said_places @ np.linalg.inv(crystal.lattice) - crystal.frac_coords
    apart -= np.round(apart)
    if np.abs(apart @ crystal.lattice).max() > 0.1:
        return "a site's xyz, read elsewhere"
    return ""
