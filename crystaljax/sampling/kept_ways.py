"""The ways to fill the rest of a crystal of which a part is kept, and how probable.

The model of positions says how probable each way is, kept orbits included, in every
description of the setting. One that a known structure has, with the kept part in its
place, is the more probable for it.
"""

import collections
import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from crystaljax.crystals import (
    kept_settings,
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
from crystaljax.sampling import kept_parts

# Groups whose positions are looked at, of all that the kept part allows, the likeliest
# of the formula first; and ways to fill them.
_NUM_SETTINGS = 10
_NUM_ASSIGNMENTS = 16
_WIDTH = 24
# A way that a known structure has, with the kept part in its place, is as much more
# probable (logarithm) than without it; chosen on the validation structures of `mp`,
# where 2 to 50 do equally well.
_OF_KNOWN = 3.0


@dataclasses.dataclass(frozen=True, eq=False)
class Way:
    """A way to fill the rest, with the logarithm of its probability."""

    logarithm: float
    question: prototype_library.Question
    assignment: wyckoff_assignments.Assignment
    kept: kept_parts.KeptPart

    @property
    def num_orbits(self) -> int:
        """Of all species, kept ones included."""
        return sum(map(len, self.assignment))

    @property
    def is_settled(self) -> bool:
        """Whether nothing is left that a network could choose."""
        return self.kept.is_settled(self.question, self.assignment)


class KnownStructures:
    """Known structures of a model, beside parts that are kept."""

    def __init__(self, model: wyckoff_model.WyckoffModel, scale: scaling.Scaling):
        self.model = model
        self._volumes = np.asarray(scale.atomic_volumes, float)

    def have(self, way: Way) -> bool:
        """Whether one has the positions of a way, and the kept part in its place."""
        known = self.model.structures
        if known is None:
            return False
        question, assignment = way.question, way.assignment
        found = known.find(self.model.library, question, assignment)
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


def find_ways(
    known: KnownStructures,
    part: structure.Crystal,
    lattice: str,
    usable: Sequence[kept_settings.Setting],
    numbers: np.ndarray,
    energy: float,
) -> list[Way]:
    """Ways to fill the rest, the likeliest first, the same crystals once.

    Args:
        known: structures of a model, with its models of groups and positions.
        part: the sites that are kept, in the template's cell.
        lattice: what becomes of the template's, `kept_parts.LATTICES`.
        usable: settings of the part whose positions the rest can fill.
        numbers: atomic numbers of the whole cell.
        energy: in deviations of the training structures.
    """
    of_cells = {
        cells: prototype_library.question_of(numbers, energy, 0, cells)
        for cells in dict.fromkeys(each.num_cells for each in usable)
    }
    model = known.model
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
    same: dict[object, list[Way]] = collections.defaultdict(list)
    as_known: dict[object, Way] = {}
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
                way = Way(first + logarithm, question, assignment, there)
                same[key].append(way)
                if key not in as_known and known.have(way):
                    as_known[key] = way
    ways = []
    for key, some in same.items():
        best = as_known.get(key) or max(some, key=lambda way: way.logarithm)
        total = total_of(some) + _OF_KNOWN * (key in as_known)
        ways.append(dataclasses.replace(best, logarithm=total))
    ways = _merge_places(ways, usable, part)
    return sorted(ways, key=lambda way: -way.logarithm)


def _merge_places(
    ways: Sequence[Way],
    usable: Sequence[kept_settings.Setting],
    part: structure.Crystal,
) -> list[Way]:
    """Ways that put the rest in the same places, in whatever group, as one.

    Places that an operation of the kept part relates are the same. The most symmetric
    description stands for all, with the sum of their probabilities.
    """
    largest = max(usable, key=lambda each: _order_of(each.space_group))
    operations = kept_settings.operations_in_cell(largest)
    kept: list[Way] = []
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


def total_of(ways: Sequence[Way]) -> float:
    """Logarithm of the probability of several ways together."""
    return float(np.logaddexp.reduce([way.logarithm for way in ways]))
