"""What a screening did, in the words of a methods section: for readers who check.

The same sentences stand in ``screening.json`` (``methods``) and on the page.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from crystaljax.crystals import elements
from crystaljax.hull import compositions, convex_hull, energy_scale
from crystaljax.matching import matcher
from crystaljax.relaxation import ase_relaxation, calculators, kept_symmetry, pretrained
from crystaljax.screening import result as screening_result
from crystaljax.screening import saddles

_MP2020 = (
    "the Materials Project's corrections for anions and for elements with U (MP2020; "
    "A. Wang et al., Sci. Rep. 11, 15496 (2021))"
)
_UNKNOWN = (None, "not installed")
# More systems than that are counted, not listed.
_MAX_LISTED = 6


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setup:
    """What was decided before the first crystal.

    Attributes:
        calculator: see `calculators.build_calculator`.
        settings: of the relaxations.
        tolerance: of what counts as equal.
        claimed: energy model in the words of the user; None for the calculator's own.
        references: file of the elements that the user gave; None for the tables.
        hull: as it was requested, such as ``relaxed:known.csv``; "none" for none.
        hull_notes: of a relaxed hull, see `relaxed_hull.RelaxedHull.describe`.
    """

    calculator: str
    settings: ase_relaxation.RelaxationSettings
    tolerance: matcher.Tolerance
    claimed: str | None = None
    references: str | None = None
    hull: str = "none"
    hull_notes: tuple[str, ...] = ()


def describe(
    setup: Setup,
    result: screening_result.Screening,
    known_hull: convex_hull.Hull | None,
    versions: Mapping[str, Any],
) -> dict[str, str]:
    """Heading → sentences, in the order in which they are to be read.

    Args:
        setup: of the screening.
        result: of the screening.
        known_hull: that energies are above; None if there was none.
        versions: of packages, by name.
    """
    described = {
        "Energies": _describe_energies(setup, versions),
        "Relaxation": _describe_relaxation(setup, result, versions),
        "Elements": _describe_elements(setup, result, known_hull),
        "Hull": _describe_hull(setup, known_hull),
        "Equal crystals": _describe_comparison(setup),
        "Limits": _describe_limits(setup),
    }
    return {heading: " ".join(text.split()) for heading, text in described.items()}


def _describe_energies(setup: Setup, versions: Mapping[str, Any]) -> str:
    name, potential = setup.calculator, pretrained.parse(setup.calculator)
    if name == calculators.EMT:
        return (
            f"Energies and forces are those of ASE's effective medium theory (EMT; ASE "
            f"{versions.get('ase', '')}), a model for fcc metals and no DFT."
        )
    if potential is None:
        claim = f"; by its user {setup.claimed!r}" if setup.claimed else ""
        return (
            f"Energies and forces are those of the ASE calculator {name!r}, of which "
            f"nothing else is known here{claim}."
        )
    family = pretrained.FAMILIES[potential.family]
    package = family.package.partition(".")[0]
    version = versions.get(package)
    text = (
        f"Energies and forces are those of the pretrained potential "
        f"{calculators.energy_model(name)}"
        + (f" (package {package} {version})" if version not in _UNKNOWN else "")
    )
    dft = potential.energies.dft
    if not dft:
        return f"{text}; which DFT it reproduces is not known here."
    text += f", which was trained to reproduce {dft}"
    if potential.energies.corrected:
        text += f" with {_MP2020}"
    if energy_scale.adds_corrections(name):
        text += f"; to its energies are added {_MP2020}"
    return f"{text}."


def _describe_relaxation(
    setup: Setup, result: screening_result.Screening, versions: Mapping[str, Any]
) -> str:
    settings = setup.settings
    what = "Cell and sites were" if settings.relax_cell else "Sites in fixed cells were"
    counts = [
        f"{result.methods.count(method)} {words}"
        for method, words in (
            ("batched", "in batches (JAX)"),
            ("ase", f"one at a time (ASE {versions.get('ase', '')})"),
        )
        if method in result.methods
    ]
    counts = counts or ["none was left"]
    text = (
        f"{what} relaxed with {settings.optimizer} until the largest force"
        + (" (on the cell too, FrechetCellFilter)" if settings.relax_cell else "")
        + f" was below {settings.fmax:g} eV/Å, in at most {settings.max_steps} steps; "
        f"{', '.join(counts)}. A crystal failed when its volume left "
        f"{ase_relaxation.MIN_VOLUME_RATIO:g} to {ase_relaxation.MAX_VOLUME_RATIO:g} "
        f"times the first, or a site moved by over {ase_relaxation.MAX_DISPLACEMENT:g} "
        "Å. "
    )
    if not settings.keep_symmetry:
        return text + "No symmetry was imposed."
    text += (
        f"The space group found within {kept_symmetry.SYMPREC:g} Å was kept: a crystal "
        "may be a saddle that would relax further without it."
    )
    if result.released is not None:
        text += (
            f" Ranked crystals were disturbed ({saddles.DISPLACEMENT:g} Å a "
            f"coordinate, {100 * saddles.STRAIN:g} % of the cell) and relaxed without "
            f"it; those that lost over {1000 * saddles.MIN_ENERGY_LOSS:g} meV/atom and "
            "their group are called saddles."
        )
    return text


def _describe_elements(
    setup: Setup,
    result: screening_result.Screening,
    known_hull: convex_hull.Hull | None,
) -> str:
    energies = ", ".join(
        f"{elements.symbol(number)} {energy:.4f}"
        for number, energy in sorted(result.element_energies.items())
    )
    if setup.references:
        source = f"those of {setup.references}"
    elif setup.calculator == calculators.EMT:
        source = "the structures of ASE's tables, relaxed with the same calculator"
    else:
        source = (
            "the ground states of the package's table of 89 elements (crystals of "
            "molecules for gases), relaxed with the same calculator"
        )
        if setup.hull.startswith("relaxed:"):
            source += ", or a known crystal of the element where one is lower"
    text = f"Formation energies are against {source}"
    text += f" (eV/atom: {energies})." if energies else "."
    if known_hull is not None and known_hull.dft:
        text += (
            " Energies above the hull are differences of total energies, in which "
            "these have no part: the elements are those of the hull's DFT."
        )
    return text


def _describe_hull(setup: Setup, known_hull: convex_hull.Hull | None) -> str:
    if known_hull is None:
        return (
            "There was no hull: crystals are ranked by energy above the best of their "
            "own composition, which says nothing of decomposition into others."
        )
    systems = sorted(
        {
            "-".join(sorted(compositions.symbols_of(entry.composition)))
            for entry in known_hull.entries
        }
    )
    listed = ", ".join(systems[:_MAX_LISTED]) + (
        f", … ({len(systems)})" if len(systems) > _MAX_LISTED else ""
    )
    count = f"{len(known_hull.entries)} entries ({listed})"
    if setup.hull.startswith("relaxed:"):
        path = setup.hull.removeprefix("relaxed:")
        left_out = [
            note.removeprefix("not on the hull: ")
            for note in setup.hull_notes
            if note.startswith("not on the hull: ")
        ]
        text = (
            f"The convex hull is of {count} from {path}, relaxed with the same "
            "calculator under the same settings: all energies are of one scale."
        )
        if left_out:
            text += f" Left out: {'; '.join(left_out)}."
        return text
    if known_hull.dft:
        return (
            f"The convex hull is of {count} from {setup.hull}, DFT total energies of "
            f"{known_hull.energy_model}; candidates are placed on it by total energies "
            "of the potential, whose errors do not cancel as on a hull of its own."
        )
    return (
        f"The convex hull is of {count} from {setup.hull}: formation energies of "
        f"{known_hull.energy_model!r}, on whose word they are comparable."
    )


def _describe_comparison(setup: Setup) -> str:
    tolerance = setup.tolerance
    return (
        "Crystals are equal, to each other or to a known one, by pymatgen's "
        f"StructureMatcher at ltol {tolerance.ltol:g}, stol {tolerance.stol:g}, "
        f"angle_tol {tolerance.angle_tol:g}, before and after relaxation; two "
        "relaxed candidates only if their energies differ by under 5 meV/atom. New is "
        "what equals none of the known crystals that were given, no more."
    )


def _describe_limits(setup: Setup) -> str:
    text = (
        "No candidate was computed with DFT, and energies are those of 0 K without "
        "vibrations or disorder."
    )
    if pretrained.parse(setup.calculator) is not None:
        text += (
            " Universal potentials place crystals above the hull with mean errors of "
            "20 to 60 meV/atom (J. Riebesell et al., Nat. Mach. Intell. 7, 836, 2025); "
            "smaller differences decide nothing."
        )
    return text
