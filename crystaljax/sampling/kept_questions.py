"""What is asked of a model of orbits where a part of a crystal is kept.

The rest of the formula fills Wyckoff positions that the kept part leaves, in a space
group that it allows (`kept_groups`), in one of the ways of `kept_ways`.
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
    wyckoff_assignments,
)
from crystaljax.models import (
    prototype_library,
    scaling,
    wyckoff_model,
)
from crystaljax.sampling import (
    kept_parts,
    kept_ways,
    likely_orbits,
    orbit_conditions,
)
from crystaljax.system import errors

# Each way at least this probable, relative to the likeliest, is taken once before any
# is taken again.
_LEAST = 0.001


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
    known = kept_ways.KnownStructures(model, scale)
    notes: list[str] = []
    requests: list[likely_orbits.Request] = []
    rows: list[tuple[int, int]] = []
    for row, formula in enumerate(wanted.formulas):
        numbers = elements.formula_atomic_numbers(formula)
        usable = _usable(settings, numbers, wanted.space_groups, shape)
        for column, energy in enumerate(wanted.energies[row].tolist()):
            scaled = (energy - float(scale.energy_mean)) / float(scale.energy_scale)
            found = kept_ways.find_ways(
                known, template.part, lattice, usable, numbers, scaled
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
            total = kept_ways.total_of(ways)
            requests += [_request(ways[each], total) for each in chosen]
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


def _request(way: kept_ways.Way, total: float) -> likely_orbits.Request:
    return likely_orbits.Request(
        way.question,
        way.assignment,
        way.kept.setting.num_cells,
        math.exp(way.logarithm - total),
        kept=way.kept,
    )


def _order(
    ways: Sequence[kept_ways.Way], count: int, rng: np.random.Generator
) -> list[int]:
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
