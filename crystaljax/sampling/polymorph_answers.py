"""Which crystals answer a question for a polymorph of a source.

What is the source again is no answer. The source itself may be made to be of the group
that is wanted: where it is nearly, that is the first answer, and where it takes more,
it comes before what the network makes without a known structure to follow
(experiments/modification has what each of them is worth).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from crystaljax.crystals import projection, structure, symmetry_search
from crystaljax.matching import matcher
from crystaljax.sampling import likely_orbits

# How far sites of a source that is nearly of the group are moved at most, Å.
NEARLY = 0.3
# How far sites of others are moved by chance, so that the freedom of a group with fewer
# operations is taken, and then at most to be of the group, Å.
_DISTORTIONS = ((0.0, 1.0), (0.15, 0.6), (0.3, 1.0))
# A crystal of the source's group that matches it so is the source again.
_SAME = (matcher.TOLERANCES["paper"],)
# The answers to a question that come after the first one with its positions follow
# structures that are so much less likely, each.
_DECAY = 0.3


@dataclasses.dataclass(frozen=True, eq=False)
class Question:
    """What is made of one source.

    Attributes:
        samples: their numbers, each of which gets another answer.
        source: the crystal that is modified.
        source_group: its space group; 0 if it has none.
        environments: of its species, `environments.describe`.
        energy_difference: that is wanted, in the network's unit.
        draws: orbits of the crystals that are drawn.
        offset: of the draws among those of all questions.
    """

    samples: list[int]
    source: structure.Crystal
    source_group: int
    environments: np.ndarray
    energy_difference: float
    draws: list[likely_orbits.Request]
    offset: int

    @property
    def space_group(self) -> int:
        """That is wanted; of the likeliest draw where that was left open."""
        return self.draws[0].question.space_group


def answer(
    question: Question,
    crystals: Sequence[structure.Crystal],
    follow: Sequence[bool],
) -> list[structure.Crystal]:
    """An answer for each sample of a question.

    Args:
        question: what was asked.
        crystals: its draws.
        follow: whether each of them follows a known structure.

    Returns:
        The draws that are not the source again, the likelier ones first; among them the
        source made to be of the group, see above; then the others.
    """
    likely = [each.probability * _DECAY**each.repeat for each in question.draws]
    order = np.argsort(-np.array(likely), kind="stable").tolist()
    again = [is_source(crystal, question) for crystal in crystals]
    fresh = [i for i in order if not again[i]]
    found = [crystals[i] for i in fresh]
    distance, made = source_in_group(
        question.source, question.source_group, question.space_group
    )
    if made is not None:
        own = [number for number, i in enumerate(fresh) if not follow[i]]
        place = 0 if distance <= NEARLY else min(own, default=len(found))
        found.insert(place, made)
    found += [crystals[i] for i in order if again[i]]
    return [found[min(i, len(found) - 1)] for i in range(len(question.samples))]


def is_source(crystal: structure.Crystal, question: Question) -> bool:
    """Whether a draw is the source again: a near one of another group is not."""
    if question.source_group != question.space_group:
        return False
    return matcher.match(crystal, question.source, _SAME).rms[0] is not None


def source_in_group(
    source: structure.Crystal, source_group: int, group: int
) -> tuple[float, structure.Crystal | None]:
    """A source made to be of the group that is wanted, and by how large a move, Å.

    None where it is of the group, or no small move makes it so.

    Args:
        source: crystal to modify.
        source_group: its space group; 0 if it has none.
        group: that is wanted, 1-230.
    """
    if source_group in (0, group):
        return np.inf, None
    distortions = [(0.0, NEARLY), *_DISTORTIONS]
    for number, (size, largest) in enumerate(distortions):
        start = _disturb(source, size, number) if size else source
        made = projection.project(start, group, largest=largest)
        if symmetry_search.find_space_group(made, 1e-3) == group:
            return size + largest, made
    return np.inf, None


def _disturb(crystal: structure.Crystal, size: float, seed: int) -> structure.Crystal:
    """Sites moved by ``size`` Å on average, and the lattice strained accordingly."""
    rng = np.random.default_rng(seed)
    moves = rng.normal(0, size / 3**0.5, (crystal.num_sites, 3))
    strain = rng.normal(0, size / 20, (3, 3))
    return structure.Crystal(
        crystal.atomic_numbers,
        crystal.frac_coords + moves @ np.linalg.inv(crystal.lattice),
        crystal.lattice @ (np.eye(3) + (strain + strain.T) / 2),
    )
