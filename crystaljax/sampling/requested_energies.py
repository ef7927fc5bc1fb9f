"""Energies requested: values, ranges, and what lies so far above or below a hull.

-0.05                   a formation energy, eV/atom
-0.05:0.05:0.01         a range, both ends included
hull, hull+0.05         that of the convex hull at each formula's composition, …
hull-0.2:hull:0.01      … and ranges of them
"""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float

from crystaljax.system import errors, numbers

# The hull brings pymatgen, which sampling does without where no hull is requested.
if TYPE_CHECKING:
    from crystaljax.hull import convex_hull

# More energies than anybody means to ask for; 0:1:1e-9 is a slip.
_MAX_ENERGIES = 100_000
# eV/atom; no crystal is near it, and single precision holds it.
_MAX_ENERGY = 1_000.0
_RELATIVE = re.compile(r"hull\s*(?:([+-])\s*([0-9.].*))?", re.IGNORECASE)
_EXPECTED = (
    "expected eV/atom such as -0.05, start:stop:step such as -0.05:0.05:0.01, or "
    "either relative to the hull such as hull+0.05 or hull-0.2:hull:0.01"
)


@dataclasses.dataclass(frozen=True)
class Energy:
    """A formation energy that is requested.

    Attributes:
        value: eV/atom.
        above_hull: whether it counts from the hull at the formula's composition.
    """

    value: float
    above_hull: bool = False


def parse_energies(text: str) -> list[Energy]:
    """Formation energies: values and ranges, separated by commas.

    A range is ``start:stop:step`` with both ends included, so ``-0.1:0.1:0.1`` is
    three energies. Ends of a range are both relative to the hull, or neither is.

    Raises:
        ValueError: not a number, not finite, beyond 1,000 eV/atom, a range with one end
            relative to the hull, or a step that does not lead to the end.
    """
    energies: list[Energy] = []
    for part in text.split(","):
        ends = [_parse_end(end, part, text) for end in part.split(":")]
        if len(ends) == 1:
            energies += ends
        elif len(ends) == 3:
            energies += _expand_range(part, *ends)
        else:
            raise _unreadable(part, text)
        if len(energies) > _MAX_ENERGIES:
            raise errors.UserError(
                f"energies: {text[:60]!r} is {len(energies):,} energies; expected at "
                f"most {_MAX_ENERGIES:,}"
            )
    return energies


def parse_differences(text: str) -> list[float]:
    """Differences of formation energies, eV/atom: `parse_energies` without a hull.

    Raises:
        ValueError: as `parse_energies`, or one is relative to a hull.
    """
    asked = parse_energies(text)
    if any(energy.above_hull for energy in asked):
        raise errors.UserError(
            f"energies: {text!r} has energies relative to a hull; expected differences "
            "from the input's energy in eV/atom, such as -0.05 or -0.2:0:0.01"
        )
    return [energy.value for energy in asked]


def _parse_end(end: str, part: str, text: str) -> Energy:
    relative = _RELATIVE.fullmatch(end.strip())
    number = end if relative is None else "".join(relative.groups(default=""))
    try:
        value = numbers.parse_finite(number or ("0" if relative else ""))
    except ValueError:
        value = math.nan
    if not abs(value) <= _MAX_ENERGY:
        raise _unreadable(part, text)
    return Energy(value, relative is not None)


def _unreadable(part: str, text: str) -> ValueError:
    return errors.UserError(
        f"energies: {part!r} in {text!r} is neither an energy nor a range (of at most "
        f"{_MAX_ENERGY:,.0f} eV/atom); {_EXPECTED}"
    )


def _expand_range(part: str, start: Energy, stop: Energy, step: Energy) -> list[Energy]:
    if start.above_hull != stop.above_hull or step.above_hull:
        raise errors.UserError(
            f"energies: in the range {part!r} some numbers are relative to the hull "
            "and some are not; expected both ends or neither, and a step in "
            "eV/atom, such as hull-0.2:hull:0.01"
        )
    span = stop.value - start.value
    if step.value == 0 or span / step.value < 0:
        raise errors.UserError(
            f"energies: the step {step.value:g} of {part!r} does not lead from "
            f"{start.value:g} to {stop.value:g}; expected a step of the right sign, "
            "not 0"
        )
    # Half a thousandth of a step absorbs rounding: 0.1 / 0.01 is below 10.
    steps = span / step.value + 5e-4
    if not steps < _MAX_ENERGIES:
        raise errors.UserError(
            f"energies: {part!r} is {steps + 1:,.0f} energies; expected at most "
            f"{_MAX_ENERGIES:,}: take a larger step"
        )
    return [
        Energy(round(start.value + i * step.value, 10), start.above_hull)
        for i in range(math.floor(steps) + 1)
    ]


@dataclasses.dataclass(frozen=True, eq=False)
class FormulaEnergies:
    """The energies that are requested, of each formula.

    Attributes:
        values: formation energies, eV/atom.
        above_hull: the same less the hull's at the formula, eV/atom; None where no hull
            is given.
        notes: for the user: where the hull is from and what computed its energies.
    """

    values: Float[np.ndarray, "formulas energies"]
    above_hull: Float[np.ndarray, "formulas energies"] | None
    notes: list[str]

    def columns(
        self, wanted: Bool[np.ndarray, "formulas groups"], num_samples: int
    ) -> dict[str, np.ndarray]:
        """Of each sample, in the order of `conditions.combination_indices`."""
        if self.above_hull is None:
            return {}
        # One row per combination of formula and space group; energies vary fastest.
        above = self.above_hull[wanted.nonzero()[0]].ravel()
        return {"requested_energy_above_hull": above.repeat(num_samples)}


def resolve_energies(
    text: str,
    formulas: Sequence[str],
    vocabulary: dict[str, Any],
    *,
    hull_spec: str | None = None,
    hull_energy_model: str | None = None,
) -> FormulaEnergies:
    """Finds the formation energies that are meant, eV/atom.

    Args:
        text: see `parse_energies`.
        formulas: of cells.
        vocabulary: of the training structures; a note says if their energies were
            computed otherwise than those of the hull.
        hull_spec: where the hull's entries are; see `entries.read_entries`.
        hull_energy_model: what computed their energies, where they do not say.

    Raises:
        FileNotFoundError: there is no such file or data set of entries.
        ValueError: unreadable energies or entries, or energies relative to a hull where
            none is given.
    """
    asked = parse_energies(text)
    values = np.array([energy.value for energy in asked], float)
    relative = np.array([energy.above_hull for energy in asked], bool)
    if hull_spec is None:
        if relative.any():
            raise errors.UserError(
                f"energies: {text!r} has energies relative to the hull, but no hull is "
                "given; expected entries with their energies, such as "
                "--hull=entries.csv (columns formula, formation_energy) or "
                "--hull=dataset:PATH"
            )
        values = np.broadcast_to(values, (len(formulas), len(values)))
        return FormulaEnergies(values, None, [])
    hull_energies, notes = _find_hull_energies(
        hull_spec, formulas, vocabulary.get("energy_model"), hull_energy_model
    )
    # Rounded so that the last bits of a hull's solution make no other request.
    values = np.where(relative, (hull_energies + values).round(6), values)
    return FormulaEnergies(values, (values - hull_energies).round(6), notes)


def _find_hull_energies(
    spec: str,
    formulas: Sequence[str],
    trained_on: str | None,
    energy_model: str | None,
) -> tuple[np.ndarray, list[str]]:
    """Formation energy of the hull at each formula, shape (formulas, 1), and notes."""
    from crystaljax.hull import compositions, convex_hull

    known = convex_hull.load_hull(spec, formulas, energy_model=energy_model)
    found: dict[Any, float] = {}
    values, alone = [], []
    for formula in formulas:
        composition = compositions.parse_composition(formula)
        reduced = composition.fractional_composition
        if reduced not in found:
            found[reduced] = convex_hull.hull_energy(known, composition)
        values.append(found[reduced])
        system = frozenset(composition.elements)
        if len(system) > 1 and system not in known.entries_by_system:
            alone.append(formula)
    notes = [_describe_hull(spec, known, trained_on)]
    notes += [f"hull of {spec}: {reason}" for reason in known.left_out]
    if alone:
        notes.append(
            f"for {len(alone)} of {len(formulas)} formulas, such as {alone[0]}, no "
            "entry has all of the elements: the hull there is that of their subsystems"
        )
    return np.array(values)[:, None], notes


def _describe_hull(spec: str, known: "convex_hull.Hull", trained_on: str | None) -> str:
    note = f"hull of {spec}: {len(known.entries)} entries of {known.energy_model}"
    if trained_on is None:
        return f"{note}; what computed the energies of the training data is not known"
    if trained_on != known.energy_model:
        return (
            f"{note}, but the model was trained on energies of {trained_on}: where "
            "these differ, so do the requested energies"
        )
    return f"{note}, as the training data"
