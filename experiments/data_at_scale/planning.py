"""Which row of the file holds what: formulas, polymorph groups, copies and defects."""

import dataclasses
import re

import numpy as np
import templates

# Shares of all rows.
COPY_SHARE = 0.015  # another row's crystal under another auid
WILD_ENERGY_SHARE = 1e-4
MALFORMED_SHARE = 5e-4
# What is wrong with a malformed row; each as often as the others.
DEFECTS = ("short row", "no geometry", "no energy", "site missing")
WILD_ENERGIES = (1e12, -37.2154, 8.40625, -5.51337)

# From common to rare; most of the latter are in less than 1 % of the structures.
COMMON = re.findall(
    "[A-Z][a-z]?",
    "AlNiTiCuFeCoMnZnMgPdPtAgAuCrVZrNbMoSiGaSnHfTaWRhIrRuInScYGePbCdLaHgLiCaSbBiOsReNaB"
    "TlAsBaSrKCPSeTeTcS",
)
RARE = ("N", "Cl", "Ce", "F", "Be", "Cs")
SYMBOLS = np.array(sorted([*COMMON, *RARE]))


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """What every row holds, before any is written.

    Attributes:
        composition: shape (groups,), index into the library.
        species: shape (groups, 4), indices into SYMBOLS, ascending; -1 if there is
            none.
        group: shape (crystals,), polymorph group of each crystal.
        template: shape (crystals,), index into the library.
        crystal: shape (rows,), the crystal of each row.
        is_copy: shape (rows,), whether the row repeats another row's crystal.
        wild: shape (rows,), index into WILD_ENERGIES, or -1.
        defect: shape (rows,), index into DEFECTS, or -1.
    """

    composition: np.ndarray
    species: np.ndarray
    group: np.ndarray
    template: np.ndarray
    crystal: np.ndarray
    is_copy: np.ndarray
    wild: np.ndarray
    defect: np.ndarray


def make_plan(library: templates.Library, num_rows: int, seed: int) -> Plan:
    """Groups with their formulas and templates, and the order of the rows."""
    rng = np.random.default_rng((seed, 1))
    num_copies = round(COPY_SHARE * num_rows)
    num_crystals = num_rows - num_copies
    composition, species = _draw_formulas(library, num_crystals // 12 + 100, rng)
    num_templates = library.num_templates[composition]
    sizes = np.minimum(_draw_sizes(len(composition), rng), 2 * num_templates)
    num_groups = int(np.searchsorted(np.cumsum(sizes), num_crystals)) + 1
    sizes = sizes[:num_groups]
    group = np.repeat(np.arange(num_groups), sizes)[:num_crystals]
    member = np.arange(num_crystals) - (np.cumsum(sizes) - sizes)[group]
    # Steps without a common divisor visit every template before any comes again.
    step = rng.integers(1, 1000, len(composition)) % num_templates
    step = np.where(np.gcd(step, num_templates) == 1, step, 1)
    start = rng.integers(0, 1000, len(composition))
    position = (start[group] + member * step[group]) % num_templates[group]

    copied = rng.choice(num_crystals, num_copies, replace=False)
    crystal = np.concatenate([np.arange(num_crystals), copied])
    wild, defect = np.full((2, num_rows), -1)
    num_wild = round(WILD_ENERGY_SHARE * num_rows)
    num_defects = round(MALFORMED_SHARE * num_rows)
    plain = np.setdiff1d(np.arange(num_crystals), copied)
    special = rng.permutation(plain)[: num_wild + num_defects]
    wild[special[:num_wild]] = np.arange(num_wild) % len(WILD_ENERGIES)
    defect[special[num_wild:]] = np.arange(num_defects) % len(DEFECTS)

    order = rng.permutation(num_rows)
    return Plan(
        composition=composition[:num_groups],
        species=species[:num_groups],
        group=group,
        template=library.first[composition][group] + position,
        crystal=crystal[order],
        is_copy=order >= num_crystals,
        wild=wild[order],
        defect=defect[order],
    )


def _draw_formulas(
    library: templates.Library, num_groups: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Different cell formulas: compositions, and species in alphabetical order."""
    composition = rng.choice(len(library.weights), 2 * num_groups, p=library.weights)
    num_species = np.count_nonzero(library.counts[composition], axis=1)
    frequency = {name: 1.2 - i / len(COMMON) for i, name in enumerate(COMMON)}
    frequency |= {name: 0.1 / (1 + 0.5 * i) for i, name in enumerate(RARE)}
    weights = np.log([frequency[name] for name in SYMBOLS])
    # The largest of log-weights plus Gumbel noise are draws without replacement.
    noisy = weights + rng.gumbel(size=(len(composition), len(SYMBOLS)))
    species = np.argsort(-noisy, axis=1)[:, :4]
    species[np.arange(4) >= num_species[:, None]] = len(SYMBOLS)
    species = np.sort(species, axis=1)
    species[species == len(SYMBOLS)] = -1
    formulas = np.column_stack([library.counts[composition], species])
    first = np.sort(np.unique(formulas, axis=0, return_index=True)[1])
    return composition[first], species[first]


def _draw_sizes(num_groups: int, rng: np.random.Generator) -> np.ndarray:
    """Sizes of groups: 7 to 71, small ones more often; 5 % are smaller or larger."""
    sizes = 7 + np.floor(65 * rng.beta(1, 3.4, num_groups)).astype(int)
    kind = rng.random(num_groups)
    sizes = np.where(kind < 0.035, rng.integers(1, 7, num_groups), sizes)
    return np.where(kind > 0.985, rng.integers(72, 91, num_groups), sizes)
