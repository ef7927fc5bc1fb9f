"""Corrections of the Materials Project (MP2020) for energies that lack them.

PBE binds O2 and other molecules too strongly, and energies with U do not compare with
those without: the Materials Project adds fitted energies for anions and for the
elements that it computes with U (A. Wang et al., Sci. Rep. 11, 15496 (2021)), which is
pymatgen's ``MaterialsProject2020Compatibility``. They depend on the composition, and
for oxygen and sulfur on bonds between two of them. Elements have none.
"""

import functools
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from pymatgen.core import Composition

# Releases of 2026 have it in pymatgen.analysis, and here too; older ones here alone.
from pymatgen.entries import compatibility
from pymatgen.entries.computed_entries import ComputedEntry, ComputedStructureEntry
from pymatgen.io.vasp.sets import MPRelaxSet

from crystaljax.crystals import bridge, elements, structure
from crystaljax.system import errors

NAME = "MP2020"
# Without one of these there is no correction; those for U are in oxides and fluorides.
_CORRECTED = frozenset(
    ["O", "S", "F", "Cl", "Br", "I", "N", "Se", "Si", "Sb", "Te", "H"]
)


@functools.cache
def _scheme(check_potentials: bool) -> Any:
    return compatibility.MaterialsProject2020Compatibility(
        check_potcar=check_potentials
    )


def hubbards_of_scheme(composition: Composition) -> dict[str, float]:
    """U (eV) by symbol that the Materials Project computes a composition with.

    Only oxides and fluorides have any: the most electronegative element decides.
    """
    most_electronegative = max(composition.elements, key=lambda element: element.X)
    values = MPRelaxSet.CONFIG["INCAR"]["LDAUU"].get(most_electronegative.symbol, {})
    symbols = {element.symbol for element in composition.elements}
    return {s: float(u) for s, u in values.items() if s in symbols and u}


def mp2020_correction(crystal: structure.Crystal) -> float:
    """What MP2020 adds to the energy of a crystal, eV/atom.

    Args:
        crystal: as relaxed; its energy is taken to be that of the Materials Project's
            settings, with its U where it has one.

    Raises:
        ValueError: the scheme says nothing of this crystal.
    """
    symbols = {elements.symbol(int(n)) for n in crystal.atomic_numbers}
    # To guess oxidation states takes long where there are many elements.
    if len(symbols) == 1 or not symbols & _CORRECTED:
        return 0.0
    pymatgen_structure = bridge.to_pymatgen(crystal)
    hubbards = hubbards_of_scheme(pymatgen_structure.composition)
    entry = ComputedStructureEntry(
        pymatgen_structure,
        0.0,
        parameters={"run_type": "GGA+U" if hubbards else "GGA", "hubbards": hubbards},
    )
    return _adjustment(entry, check_potentials=False) / crystal.num_sites


def correct_entry(
    item: Mapping[str, Any], entry_id: str, crystal: structure.Crystal | None = None
) -> float:
    """Correction (eV, of the whole entry) of an entry of pymatgen given as JSON.

    Args:
        item: with ``composition`` or ``structure``, and ``parameters`` that say how it
            was computed.
        entry_id: for messages.
        crystal: of the entry: peroxides differ from oxides by their bonds alone.

    Raises:
        ValueError: the scheme does not fit the entry; the message says why.
    """
    parameters = item.get("parameters")
    parameters = dict(parameters) if isinstance(parameters, dict) else {}
    composition = Composition(item["composition"]).element_composition
    data = item.get("data")
    data = {
        key: data[key]
        for key in ("oxide_type", "sulfide_type", "oxidation_states")
        if isinstance(data, dict) and data.get(key)
    }
    known: dict[str, Any] = {"parameters": parameters, "data": data}
    if crystal is None:
        entry = ComputedEntry(composition, 0.0, entry_id=entry_id, **known)
    else:
        entry = ComputedStructureEntry(
            bridge.to_pymatgen(crystal),
            0.0,
            composition=composition,
            entry_id=entry_id,
            **known,
        )
    says_potentials = bool(
        parameters.get("potcar_spec") or parameters.get("potcar_symbols")
    )
    return _adjustment(entry, check_potentials=says_potentials)


def _adjustment(entry: ComputedEntry, *, check_potentials: bool) -> float:
    # It warns where it guesses oxidation states.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = _scheme(check_potentials).get_adjustments(entry)
        except compatibility.CompatibilityError as error:
            reason = " ".join(str(error).split())
            raise errors.UserError(reason.partition(" for {")[0]) from error
        except (KeyError, ValueError, IndexError) as error:
            raise errors.UserError(
                f"{NAME} cannot be applied: {type(error).__name__}: {error}"
            ) from error
    total = sum(each.value for each in found)
    if not np.isfinite(total):
        raise errors.UserError(f"{NAME} gives {total}; expected a finite energy")
    return float(total)
