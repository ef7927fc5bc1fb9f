"""What is asked of a model of orbits where a part of a crystal is kept.

The rest of the formula fills Wyckoff positions that the kept part leaves, in a space
group that it allows (`kept_groups`). The model of positions says how probable each way
is, kept orbits included.
"""

import collections
import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from crystaljax.crystals import (
    elements,
    kept_groups,
    kept_settings,
    kept_sites,
    standard_groups,
    structure,
    wyckoff_assignments,
)
from crystaljax.models import (
    prototype_library,
    prototype_structures,
    scaling,
    wyckoff_model,
)
from crystaljax.sampling import kept_parts, likely_orbits, orbit_conditions
from crystaljax.system import errors

# Groups whose positions are looked at, of all that the kept part allows, the likeliest
# of the formula first; and ways to fill them.
_NUM_SETTINGS = 10
_NUM_ASSIGNMENTS = 16
_WIDTH = 24
# Each way at least this probable, relative to the likeliest, is taken once before any
# is taken again.
_LEAST = 0.001
# A way that a known structure has, with the kept part in its place, is as much more
# probable (logarithm) than without it; chosen on the validation structures of `mp`,
# where 2 to 50 do equally well.
_OF_KNOWN = 3.0


@dataclasses.dataclass(frozen=True, eq=False)
class _Way:
    """A way to fill the rest, with the logarithm of its probability."""

    logarithm: float
    question: prototype_library.Question
    assignment: wyckoff_assignments.Assignment
    kept: kept_parts.KeptPart

    @property
    def num_orbits(self) -> int:
        return sum(map(len, self.assignment))

    @property
    def is_settled(self) -> bool:
        return self.kept.is_settled(self.question, self.assignment)


def cell_of(template: kept_sites.Template, formula: str | None) -> str:
    """The formula of the template's cell when it is filled.

    Args:
        template: with what is kept of it.
        formula: as it is requested: its fewest units that hold the kept sites are
            meant. None for the template's own.

    Raises:
        UserError: it does not hold the kept sites, or holds nothing else.
    """
    kept = _count(template.part.atomic_numbers)
    own = elements.cell_formula(template.crystal.atomic_numbers)
    counts = elements.parse_formula(formula or own)
    held = elements.cell_formula(template.part.atomic_numbers)
    missing = sorted(set(kept) - set(counts))
    if missing:
        raise errors.UserError(
            f"formula {formula!r} does not contain the kept sites, {held}: it has no "
            f"{', '.join(missing)}"
        )
    units = 1
    if formula is not None:
        units = max(-(-count // counts[each]) for each, count in kept.items())
    cell = {each: units * count for each, count in counts.items()}
    if cell == kept:
        raise errors.UserError(
            f"the kept sites are {held}, and nothing is left to generate; keep fewer, "
            "or name `formulas=` with more than these"
        )
    return elements.format_formula(cell)


def _count(atomic_numbers: np.ndarray) -> dict[str, int]:
    counts = collections.Counter(np.asarray(atomic_numbers).tolist())
    return {elements.symbol(number): count for number, count in counts.items()}


def ask(
    model: wyckoff_model.WyckoffModel,
    scale: scaling.Scaling,
    template: kept_sites.Template,
    wanted: orbit_conditions.Wanted,
    shape: tuple[int, int],
    *,
    lattice: str = kept_parts.KEPT,
) -> orbit_conditions.Asked:
    """Conditions and orbits of all samples.

    A way that leaves nothing open is one answer, and is not given twice; there may be
    fewer samples than requested.

    Args:
        model: of groups and positions.
        scale: units of the network.
        template: with what is kept of it.
        wanted: formulas are those of the template's cell, `cell_of`; positions are not
            given.
        shape: orbits and sites that the network holds.
        lattice: what becomes of the template's, `kept_parts.LATTICES`.

    Raises:
        UserError: the kept sites do not allow a group that is requested, or the rest
            fits into none.
    """
    settings = _Settings(template)
    notes: list[str] = []
    requests: list[likely_orbits.Request] = []
    rows: list[tuple[int, int]] = []
    for row, formula in enumerate(wanted.formulas):
        numbers = elements.formula_atomic_numbers(formula)
        usable = _usable(settings, numbers, wanted.space_groups, shape)
        for column, energy in enumerate(wanted.energies[row].tolist()):
            scaled = (energy - float(scale.energy_mean)) / float(scale.energy_scale)
            found = _find_ways(
                model, scale, template.part, lattice, usable, numbers, scaled
            )
            ways = [way for way in found if way.num_orbits <= shape[0]]
            if not ways:
                raise errors.UserError(
                    f"{formula} has more orbits than the {shape[0]} that the model "
                    f"holds in every space group that the kept sites allow; use a "
                    "smaller cell, or a more symmetric part"
                )
            rng = np.random.default_rng((wanted.seed, len(rows)))
            chosen = _order(ways, wanted.num_samples, rng)
            requests += [_request(ways[each], _total(ways)) for each in chosen]
            rows += [(row, column)] * len(chosen)
            if len(chosen) < wanted.num_samples:
                notes.append(
                    f"{formula}: {len(chosen)} of {wanted.num_samples} samples; there "
                    "are no more ways to fill the rest that leave nothing open"
                )
    made = orbit_conditions.assemble(model, scale, wanted, requests, rows, shape)
    return dataclasses.replace(made, notes=notes)


def allowed_groups(
    template: kept_sites.Template,
    formula: str,
    space_groups: Sequence[int] | None,
    max_sites: int,
) -> list[int]:
    """Groups that the kept sites allow and the rest of a formula can fill.

    Args:
        template: with what is kept of it.
        formula: of its cell, `cell_of`.
        space_groups: that are requested; None for the most symmetric one.
        max_sites: of a primitive cell.

    Raises:
        UserError: as `ask`.
    """
    numbers = elements.formula_atomic_numbers(formula)
    usable = _usable(_Settings(template), numbers, space_groups, (0, max_sites))
    if space_groups is None:
        return [usable[0].space_group]
    return list(space_groups)


def _request(way: _Way, total: float) -> likely_orbits.Request:
    return likely_orbits.Request(
        way.question,
        way.assignment,
        way.kept.setting.num_cells,
        math.exp(way.logarithm - total),
        kept=way.kept,
    )


def _total(ways: Sequence[_Way]) -> float:
    return float(np.logaddexp.reduce([way.logarithm for way in ways]))


def _order(ways: Sequence[_Way], count: int, rng: np.random.Generator) -> list[int]:
    """Ways once each, the likeliest first, then again those that leave a choice."""
    logarithms = np.array([way.logarithm for way in ways])
    probable = logarithms >= logarithms[0] + math.log(_LEAST)
    is_open = np.array([not way.is_settled for way in ways])
    if not is_open.any():
        return list(range(min(count, len(ways))))
    distinct = np.flatnonzero(probable)[:count].tolist()
    shares = np.where(is_open, np.exp(logarithms - logarithms[0]), 0)
    if shares.sum() == 0:
        shares = is_open.astype(float)
    more = rng.choice(len(ways), count - len(distinct), p=shares / shares.sum())
    return distinct + more.tolist()


class _Settings:
    """The settings that a template allows, found when they are needed."""

    def __init__(self, template: kept_sites.Template):
        self.template = template
        self._found: dict[bool, list[kept_settings.Setting]] = {}

    def get(self, as_primitive: bool) -> list[kept_settings.Setting]:
        """See `kept_groups.find_settings`."""
        if as_primitive not in self._found:
            self._found[as_primitive] = kept_groups.find_settings(
                self.template.crystal,
                self.template.is_kept,
                as_primitive=as_primitive,
            )
        return self._found[as_primitive]

    def every(self) -> list[kept_settings.Setting]:
        """Those with the smallest primitive cells, then those of the cell itself."""
        smallest = self.get(False)
        if all(each.num_cells == 1 for each in smallest):
            return smallest
        cells = {(each.space_group, each.num_cells) for each in smallest}
        return smallest + [
            each
            for each in self.get(True)
            if (each.space_group, each.num_cells) not in cells
        ]


def _usable(
    settings: _Settings,
    numbers: np.ndarray,
    space_groups: Sequence[int] | None,
    shape: tuple[int, int],
) -> list[kept_settings.Setting]:
    """Settings of the groups requested whose positions the rest can fill.

    Raises:
        UserError: there are none; the message says what is in the way.
    """
    formula = elements.cell_formula(numbers)
    if space_groups is None:
        for as_primitive in (False, True):
            some = settings.get(as_primitive)
            found = [each for each in some if _can_hold(each, numbers)]
            fitting = [
                each for each in found if len(numbers) // each.num_cells <= shape[1]
            ]
            if fitting:
                return fitting
            if found:
                _refuse_size(found, numbers, shape)
        _refuse_size(settings.get(True), numbers, shape)
        raise errors.UserError(
            f"the rest of {formula} fills Wyckoff positions of no space group that the "
            "kept sites allow; expected another formula, or fewer kept sites"
        )
    template, every = settings.template, settings.every()
    usable = []
    for group in space_groups:
        allowed = [each for each in every if each.space_group == group]
        if not allowed:
            reason = kept_groups.explain(
                template.crystal, template.is_kept, group, template.names()
            )
            raise errors.UserError(
                f"the kept sites do not have space group {group}: {reason}; expected "
                "one of these, or other kept sites"
            )
        found = [each for each in allowed if _can_hold(each, numbers)]
        if not found:
            raise errors.UserError(
                f"the rest of {formula} fills no positions of space group {group} that "
                "the kept sites leave; expected another group, such as a subgroup, or "
                "another formula"
            )
        usable += found
    fitting = [each for each in usable if len(numbers) // each.num_cells <= shape[1]]
    if not fitting:
        _refuse_size(usable, numbers, shape)
    return fitting


def _refuse_size(settings, numbers, shape) -> None:
    sites = min(len(numbers) // each.num_cells for each in settings)
    if sites > shape[1]:
        raise errors.UserError(
            f"the primitive cell of {elements.cell_formula(numbers)} in the template "
            f"has {sites} sites, but the model holds {shape[1]}; use a smaller cell, "
            "or a model that holds more"
        )


def _can_hold(setting: kept_settings.Setting, numbers: np.ndarray) -> bool:
    """Whether the rest of a cell can fill positions beside the kept orbits."""
    counts = collections.Counter(numbers.tolist())
    if any(count % setting.num_cells for count in counts.values()):
        return False
    question = prototype_library.question_of(
        numbers, 0.0, setting.space_group, setting.num_cells
    )
    kept = kept_parts.positions_of(setting, question.species)
    held = wyckoff_assignments.count_assignments(
        setting.space_group, question.counts, kept
    )
    return held > 0


def _find_ways(
    model: wyckoff_model.WyckoffModel,
    scale: scaling.Scaling,
    part: structure.Crystal,
    lattice: str,
    usable: Sequence[kept_settings.Setting],
    numbers: np.ndarray,
    energy: float,
) -> list[_Way]:
    """Ways to fill the rest, the likeliest first, the same crystals once."""
    of_cells = {
        cells: prototype_library.question_of(numbers, energy, 0, cells)
        for cells in dict.fromkeys(each.num_cells for each in usable)
    }
    rows = model.group_probabilities(list(of_cells.values()))
    of_group = dict(zip(of_cells, rows, strict=True))
    ranked = sorted(
        range(len(usable)),
        # The most symmetric of all stays, however improbable.
        key=lambda i: (
            i > 0,
            -of_group[usable[i].num_cells][usable[i].space_group],
        ),
    )
    questions, parts, owners = [], [], []
    alternatives = {}
    for number in ranked[:_NUM_SETTINGS]:
        setting = usable[number]
        alternatives[number] = kept_settings.describe_anew(setting)
        question = dataclasses.replace(
            of_cells[setting.num_cells], space_group=setting.space_group
        )
        for index, each in enumerate(alternatives[number].settings):
            questions.append(question)
            parts.append(kept_parts.KeptPart(each, part, lattice))
            owners.append((number, index))
    found = model.likely_assignments(
        questions,
        _NUM_ASSIGNMENTS,
        _WIDTH,
        kept=[
            kept_parts.positions_of(each.setting, question.species)
            for each, question in zip(parts, questions, strict=True)
        ],
    )
    # The same positions in several descriptions: the likeliest stands for all, or the
    # first in which a known structure has them.
    same: dict[object, list[_Way]] = collections.defaultdict(list)
    known: dict[object, _Way] = {}
    structures = _KnownStructures(model, scale)
    for question, each, (number, index), some in zip(
        questions, parts, owners, found, strict=True
    ):
        first = float(of_group[usable[number].num_cells][usable[number].space_group])
        described = alternatives[number]
        variants = described.variants[index]
        # Which of them the model means, the kept part alone does not say.
        first -= math.log(len(variants))
        for logarithm, assignment in some:
            for setting, targets in variants:
                key = number, described.key(targets, assignment)
                there = dataclasses.replace(each, setting=setting)
                way = _Way(first + logarithm, question, assignment, there)
                same[key].append(way)
                if key not in known and structures.have(way):
                    known[key] = way
    ways = []
    for key, some in same.items():
        best = known.get(key) or max(some, key=lambda way: way.logarithm)
        total = _total(some) + _OF_KNOWN * (key in known)
        ways.append(dataclasses.replace(best, logarithm=total))
    ways = _merge_places(ways, usable, part)
    return sorted(ways, key=lambda way: -way.logarithm)


class _KnownStructures:
    """Known structures of a model, beside parts that are kept."""

    def __init__(self, model: wyckoff_model.WyckoffModel, scale: scaling.Scaling):
        self._library, self._structures = model.library, model.structures
        self._volumes = np.asarray(scale.atomic_volumes, float)

    def have(self, way: _Way) -> bool:
        """Whether one has the positions of a way, and the kept part in its place."""
        known = self._structures
        if known is None:
            return False
        question, assignment = way.question, way.assignment
        found = known.find(self._library, question, assignment)
        if not found:
            return False
        size = prototype_structures.size_strain(
            self._volumes,
            standard_groups.load_group(question.space_group),
            *wyckoff_model.orbits_of(question, assignment),
        )
        return any(
            way.kept.arrange(
                question, assignment, known.parameters[row], known.strains[row], size
            )
            is not None
            for row, _ in found
        )


def _merge_places(
    ways: Sequence[_Way],
    usable: Sequence[kept_settings.Setting],
    part: structure.Crystal,
) -> list[_Way]:
    """Ways that put the rest in the same places, in whatever group, as one.

    Places that an operation of the kept part relates are the same. The most symmetric
    description stands for all, with the sum of their probabilities.
    """
    largest = max(usable, key=lambda each: _order_of(each.space_group))
    operations = kept_settings.operations_in_cell(largest)
    kept: list[_Way] = []
    places: list[tuple[np.ndarray, np.ndarray]] = []
    for way in sorted(
        ways, key=lambda each: (-_order_of(each.question.space_group), -each.logarithm)
    ):
        place = way.kept.fixed_places(way.question, way.assignment)
        if place is None:
            kept.append(way)
            places.append((np.zeros(0, int), np.zeros((0, 3))))
            continue
        for index, other in enumerate(places):
            if kept_settings.are_equivalent(
                (place[0], other[0]), (place[1], other[1]), part.lattice, operations
            ):
                total = np.logaddexp(kept[index].logarithm, way.logarithm)
                kept[index] = dataclasses.replace(kept[index], logarithm=float(total))
                break
        else:
            kept.append(way)
            places.append(place)
    return kept


def _order_of(space_group: int) -> int:
    return len(standard_groups.load_group(space_group).rotations)
