"""Polymorph groups that are made: known prototypes, new elements, relaxed.

A formula is drawn: the elements of a known prototype, each replaced by one that is near
it in the order of Mendeleev numbers. Then prototypes with as many sites of each species
are decorated with its elements, scaled by the radii, and relaxed with the potential in
batches; equal results count once. What a formula gives is one polymorph group.

Relaxations are kept as they are finished, and a run that was cut off finds them again.
"""

import dataclasses
import functools
import itertools
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from crystaljax.crystals import bridge, elements, structure
from crystaljax.data.sources import known_prototypes, record, relaxed
from crystaljax.relaxation import (
    ase_relaxation,
    batches,
    calculators,
    device_potentials,
    kept,
    references,
)
from crystaljax.system import errors

# Prototypes that a formula is put on, at most.
MOST_OF_A_FORMULA = 12
# Formulas whose crystals are relaxed together.
_FORMULAS_AT_ONCE = 32
# Places in the order of Mendeleev numbers that an element is replaced across.
_REACH = 2
# Draws that lead to nothing new after which there is nothing new.
_MOST_DRAWS = 2000
SETTINGS = ase_relaxation.RelaxationSettings(fmax=0.05, max_steps=150)
# Of the sum of covalent radii: shorter contacts are stretched by scaling the cell up,
# and a prototype that must swell by more than this for it does not fit its elements.
_SHORTEST = 0.85
_MOST_STRETCHED = 1.3
# Over the volume it started with.
_MOST_SWOLLEN = 1.6
# They make no crystals of the kinds that are drawn here.
_NOBLE = frozenset((2, 10, 18, 36, 54, 86))


@dataclasses.dataclass(frozen=True)
class Decorated:
    """Makes crystals; `record.Source`.

    Attributes:
        calculator: what relaxes them, see `calculators.build_calculator`.
        cache: folder that keeps relaxations.
        num_structures: about how many, at least; fewer where the elements give no more.
        seed: of the formulas that are drawn.
        species: elements to choose from; all that the calculator and the table of
            reference crystals have if None.
        natoms: sites of the primitive cell, the fewest and the most.
        show_progress: print progress bars.
    """

    calculator: str
    cache: str
    num_structures: int = 1000
    seed: int = 0
    species: tuple[str, ...] | None = None
    natoms: tuple[int, int] = (2, 20)
    show_progress: bool = False

    def __post_init__(self):
        calculators.energy_model(self.calculator)
        least, most = self.natoms
        if not any(least <= sum(kind) <= most for kind in known_prototypes.load()):
            raise errors.UserError(
                f"no prototype has {least} to {most} atoms in its primitive cell; "
                "expected a range within 2:20"
            )
        for symbol in self.species or ():
            elements.atomic_number(symbol)

    def read_rows(self) -> Iterator[record.Record | record.Failure]:
        """Relaxes what is not kept yet; yields the results, formula by formula.

        Raises:
            UserError: the calculator does not know an element, or has no other.
            ImportError: its package is not installed.
        """
        allowed = self._allowed()
        drawn = draw_formulas(allowed, self.natoms, self.seed)
        num_made = 0
        while num_made < self.num_structures:
            formulas = list(itertools.islice(drawn, _FORMULAS_AT_ONCE))
            if not formulas:
                return
            for result in self._make(formulas):
                num_made += isinstance(result, record.Record)
                yield result

    parse_row = staticmethod(record.as_it_is)

    def describe(self) -> dict[str, Any]:
        """See `record.Source`."""
        return {
            "source": "prototypes",
            "energy_model": calculators.energy_model(self.calculator),
            "calculator": self.calculator,
            "num_structures": self.num_structures,
            "seed": self.seed,
            "species": self.species and list(self.species),
            "natoms": list(self.natoms),
            "fmax": SETTINGS.fmax,
            "max_steps": SETTINGS.max_steps,
        }

    def _allowed(self) -> list[int]:
        known = _known_elements(self.calculator)
        if self.species is None:
            return sorted(
                number
                for number in known - _NOBLE
                if _has_reference(self.calculator, number)
            )
        wanted = sorted({elements.atomic_number(symbol) for symbol in self.species})
        missing = [elements.symbol(n) for n in wanted if n not in known]
        if missing:
            raise errors.UserError(
                f"{self.calculator} has no parameters for {', '.join(missing)}; leave "
                "them out of --species, or choose another --calculator"
            )
        missing = [
            elements.symbol(n) for n in wanted if not _has_reference(self.calculator, n)
        ]
        if missing:
            raise errors.UserError(
                f"there is no reference crystal of {', '.join(missing)} that formation "
                "energies could be relative to; leave them out of --species"
            )
        if len(wanted) < 2:
            raise errors.UserError(
                f"--species names {len(wanted)} element; expected two or more"
            )
        return wanted

    def _make(
        self, formulas: Sequence["Formula"]
    ) -> Iterator[record.Record | record.Failure]:
        starts: dict[str, structure.Crystal] = {}
        failures = []
        for formula in formulas:
            for prototype in formula.prototypes:
                name = f"{formula.name}:{prototype.name}"
                start = decorate(prototype, formula.species)
                if start is None:
                    failures.append(record.Failure(name, "does not fit its elements"))
                else:
                    starts[name] = start
        numbers = {int(n) for each in formulas for n in each.species}
        energies, problems = references.element_energies(self.calculator, numbers)
        if problems:
            raise errors.UserError("; ".join(problems.values()))
        found = self._relax(list(starts.values()))
        made = []
        for (name, start), result in zip(starts.items(), found, strict=True):
            largest = _MOST_SWOLLEN * abs(np.linalg.det(start.lattice))
            labelled = relaxed.label(name, result, energies, largest)
            is_made = isinstance(labelled, record.Record)
            (made if is_made else failures).append(labelled)
        # Here: to start processes for a hundred crystals takes longer.
        unique = relaxed.drop_duplicates(made, num_workers=1)
        yield from unique
        yield from failures
        for _ in range(len(made) - len(unique)):
            yield record.Failure("", "duplicate", is_rule=True)

    def _relax(
        self, crystals: Sequence[structure.Crystal]
    ) -> list[ase_relaxation.Relaxation]:
        name = re.sub(r"[^\w.-]+", "_", calculators.energy_model(self.calculator))
        description = "relax" if self.show_progress else None

        def relax_waiting(waiting):
            numbers, todo = list(waiting), list(waiting.values())
            for position, result in batches.relax_as_possible(
                todo, self.calculator, SETTINGS, description=description
            ):
                yield numbers[position], result, ""

        path = pathlib.Path(self.cache) / f"{name}.jsonl"
        return kept.relax(crystals, path, relax_waiting)[0]


@dataclasses.dataclass(frozen=True, eq=False)
class Formula:
    """A cell formula, and what it is put on.

    Attributes:
        species: atomic numbers, in the order of `KnownPrototype.species`.
        kind: sites of each.
        prototypes: of that kind.
    """

    species: tuple[int, ...]
    kind: tuple[int, ...]
    prototypes: Sequence[known_prototypes.KnownPrototype]

    @property
    def name(self) -> str:
        """Such as ``Ti1O2``."""
        return elements.cell_formula(np.repeat(self.species, self.kind))


def draw_formulas(
    allowed: Sequence[int], natoms: tuple[int, int], seed: int
) -> Iterator[Formula]:
    """Formulas in an order that the seed alone decides, each once.

    Args:
        allowed: atomic numbers to choose from.
        natoms: sites of the cell, the fewest and the most.
        seed: of the draws.
    """
    kinds = [
        (kind, members)
        for kind, members in known_prototypes.load().items()
        if natoms[0] <= sum(kind) <= natoms[1] and len(kind) <= len(allowed)
    ]
    if not kinds:
        return
    weights = np.array([len(members) / sum(kind) for kind, members in kinds])
    weights /= weights.sum()
    ranks = elements.mendeleev_number()
    # In the order of Mendeleev numbers, as replacements are.
    ordered = sorted(allowed, key=lambda number: (ranks[number], number))
    seen: set[tuple[Any, ...]] = set()
    num_vain = 0
    for number in itertools.count():
        rng = np.random.default_rng((seed, number))
        kind, members = kinds[rng.choice(len(kinds), p=weights)]
        # Packings, which no crystal is known with, count as one.
        known = np.array([max(each.num_crystals, 1) for each in members], float)
        origin = members[rng.choice(len(members), p=known / known.sum())]
        species = _replace(origin, kind, ordered, rng)
        if (species, kind) in seen:
            num_vain += 1
            if num_vain == _MOST_DRAWS:
                return
            continue
        num_vain = 0
        seen.add((species, kind))
        count = min(MOST_OF_A_FORMULA, len(members))
        chosen = np.sort(rng.permutation(len(members))[:count])
        yield Formula(species, kind, [members[index] for index in chosen])


def decorate(
    prototype: known_prototypes.KnownPrototype, species: Sequence[int]
) -> structure.Crystal | None:
    """A prototype with other elements, as large as they are; None if they do not fit.

    Args:
        prototype: what to decorate.
        species: atomic numbers in the order of ``prototype.species``.
    """
    crystal = prototype.crystal
    new = dict(zip(prototype.species, species, strict=True))
    numbers = np.array([new[n] for n in crystal.atomic_numbers.tolist()])
    radii = elements.load_covalent_radii()
    before = np.sum(radii[crystal.atomic_numbers - 1] ** 3)
    factor = np.cbrt(np.sum(radii[numbers - 1] ** 3) / before)
    made = structure.Crystal(numbers, crystal.frac_coords, crystal.lattice * factor)
    # Far enough for every site to have a neighbour that could be too near.
    i, j, _, distances = bridge.to_pymatgen(made).get_neighbor_list(r=4.5)
    contacts = radii[numbers[i] - 1] + radii[numbers[j] - 1]
    shortest = np.min(distances / contacts, initial=1.0)
    stretch = max(1.0, _SHORTEST / shortest)
    if stretch > _MOST_STRETCHED:
        return None
    return dataclasses.replace(made, lattice=made.lattice * stretch)


def _replace(
    origin: known_prototypes.KnownPrototype,
    kind: tuple[int, ...],
    ordered: Sequence[int],
    rng: np.random.Generator,
) -> tuple[int, ...]:
    """Elements for those of a prototype, different ones, in its order of species."""
    ranks = elements.mendeleev_number()
    places = np.array([ranks[number] for number in ordered])
    near = [int(np.argmin(np.abs(places - ranks[n]))) for n in origin.species]
    # A packing has no elements of its own.
    is_free = origin.num_crystals == 0
    for attempt in range(20):
        if is_free or attempt == 19:
            chosen = rng.permutation(len(ordered))[: len(kind)].tolist()
        else:
            moves = rng.integers(-_REACH, _REACH + 1, len(near))
            chosen = np.clip(np.array(near) + moves, 0, len(ordered) - 1).tolist()
        if len(set(chosen)) == len(chosen):
            break
    # Among equally many sites by Mendeleev number, so that a formula is written once.
    rows = sorted(zip(kind, chosen, strict=True))
    return tuple(ordered[place] for _, place in rows)


def _known_elements(calculator: str) -> frozenset[int]:
    if device_potentials.supports(calculator):
        return device_potentials.build(calculator).atomic_numbers
    symbols = calculators.supported_elements(calculator)
    if symbols is None:
        return frozenset(range(1, elements.NUM_ELEMENTS + 1))
    return frozenset(map(elements.atomic_number, symbols))


@functools.cache
def _has_reference(calculator: str, atomic_number: int) -> bool:
    try:
        references.reference_crystals(calculator, atomic_number)
    except ValueError:
        return False
    return True
