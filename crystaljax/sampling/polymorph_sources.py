"""Crystals that polymorphs are wanted of: a primitive cell in a standard setting."""

import dataclasses

import numpy as np

from crystaljax.crystals import (
    elements,
    inputs,
    kept_groups,
    orbits,
    standard_choice,
    standard_groups,
    standard_setting,
    structure,
)
from crystaljax.models import prototype_structures, scaling

_SYMPRECS = (kept_groups.SYMPREC, *standard_setting.SYMPRECS)


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """A crystal that candidates are made for.

    Attributes:
        name: of it, and of what replaces its elements, such as "a" or "a, Ta:Nb".
        crystal: its primitive cell, in the description of `standard_choice.choose`.
        size_strain: the first strain of a cell that the atoms of ``original`` would
            fill.
        original: as it was brought, before elements were replaced.
        is_decorated: whether elements were replaced.
    """

    name: str
    crystal: orbits.OrbitCrystal
    size_strain: float
    original: orbits.OrbitCrystal
    is_decorated: bool = False

    @property
    def cell(self) -> structure.Crystal:
        """All sites of the primitive cell."""
        return orbits.expand(self.crystal)

    @property
    def formula(self) -> str:
        """Of the primitive cell."""
        return elements.cell_formula(self.cell.atomic_numbers)


def standardise(
    brought: inputs.Input, scale: scaling.Scaling
) -> tuple[Source, str | None]:
    """A crystal's primitive cell, and a note where it was brought as several.

    Raises:
        ValueError: it has no standard setting.
    """
    found = standard_setting.standardise(brought.crystal, symprecs=_SYMPRECS)
    chosen = standard_choice.choose(found.crystal)
    note = None
    if found.num_cells > 1:
        note = (
            f"{brought.name}: its cell of {brought.crystal.num_sites} sites is "
            f"{found.num_cells} primitive ones, one of "
            f"{chosen.num_sites} sites is taken"
        )
    return Source(brought.name, chosen, _size_strain(chosen, scale), chosen), note


def _size_strain(crystal: orbits.OrbitCrystal, scale: scaling.Scaling) -> float:
    return prototype_structures.size_strain(
        np.asarray(scale.atomic_volumes, float),
        standard_groups.load_group(crystal.space_group),
        crystal.atomic_numbers,
        crystal.positions.tolist(),
    )
