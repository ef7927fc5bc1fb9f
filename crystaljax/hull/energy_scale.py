"""One energy scale for a screening: what total energies become, and against what.

Three things are kept apart: which calculator, which DFT it reproduces and with which
corrections, and what the hull is made of. Formation energies are against the elements
by the same calculator. Where it reproduces the Materials Project's PBE(+U), the
corrections of that scheme are in all energies: added, unless the calculator learned
them.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from crystaljax.crystals import elements, structure
from crystaljax.hull import convex_hull
from crystaljax.relaxation import calculators, pretrained, references
from crystaljax.system import errors

# No crystal has a formation energy near these, eV/atom: a potential that gives one has
# been asked for what it does not know.
_LOWEST, _HIGHEST = -10.0, 50.0


@dataclasses.dataclass(frozen=True, eq=False)
class EnergyScale:
    """What the energies of a screening are.

    Attributes:
        energy_model: name, recorded beside every energy.
        element_energies: by atomic number, eV/atom, of the reference states.
        adds_corrections: whether MP2020's corrections are added.
    """

    energy_model: str
    element_energies: Mapping[int, float]
    adds_corrections: bool = False

    def total_energy(self, crystal: structure.Crystal, energy: float) -> float:
        """The calculator's energy (eV/atom) with corrections, where they are added.

        Raises:
            ValueError: the corrections say nothing of this crystal.
        """
        if not self.adds_corrections:
            return energy
        # pymatgen takes its time to import this.
        from crystaljax.hull import corrections

        return energy + corrections.mp2020_correction(crystal)

    def formation_energy(self, crystal: structure.Crystal, energy: float) -> float:
        """The calculator's energy → formation energy, both eV/atom.

        Raises:
            ValueError: there are no corrections, or the energy is none of a crystal.
            KeyError: an element has no reference energy.
        """
        formed = references.formation_energy(
            self.element_energies,
            crystal.atomic_numbers,
            self.total_energy(crystal, energy),
        )
        if not _LOWEST < formed < _HIGHEST:
            raise errors.UserError(
                f"formation energy {formed:.4g} eV/atom; expected one from "
                f"{_LOWEST:g} to {_HIGHEST:g}: the potential does not know this crystal"
            )
        return formed

    def energy_on(
        self, hull: convex_hull.Hull, crystal: structure.Crystal, energy: float
    ) -> float:
        """The calculator's energy as a formation energy on a hull, both eV/atom.

        On a hull of total energies it is against the elements of the hull.

        Raises:
            ValueError: see `formation_energy`; or the hull lacks an element.
            KeyError: an element has no reference energy.
        """
        if not hull.dft:
            return self.formation_energy(crystal, energy)
        symbols = [elements.symbol(int(n)) for n in crystal.atomic_numbers]
        missing = sorted(set(symbols) - hull.element_energies.keys())
        if missing:
            raise errors.UserError(
                f"the hull has no entry of {', '.join(missing)}, and so no energy "
                "above it"
            )
        elemental = np.mean([hull.element_energies[symbol] for symbol in symbols])
        return float(self.total_energy(crystal, energy) - elemental)


def adds_corrections(calculator: str) -> bool:
    """Whether MP2020's corrections are to be added to a calculator's energies."""
    energies = calculators.reproduced_energies(calculator)
    return energies.dft == pretrained.MP_PBE and not energies.corrected


def energy_model(calculator: str) -> str:
    """Name of a calculator's energies, with the corrections that are added to them.

    Raises:
        ValueError: no calculator has such a name.
    """
    own = calculators.energy_model(calculator)
    return f"{own} + MP2020" if adds_corrections(calculator) else own


def is_comparable(calculator: str, hull: convex_hull.Hull) -> bool:
    """Whether a calculator was made to reproduce the total energies of a hull."""
    dft = calculators.reproduced_energies(calculator).dft
    return bool(dft) and dft == hull.dft
