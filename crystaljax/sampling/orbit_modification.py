"""From crystals to polymorphs of them, by a model of orbits that looks at its sources.

For each question (a crystal, a space group, an energy difference) some more crystals
are drawn than are wanted, from the orbits that are likely; `polymorph_answers` says
which of them answer it.
"""

import collections
import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int

from crystaljax.crystals import (
    environments,
    standard_choice,
    structure,
    symmetry_search,
)
from crystaljax.models import prototype_library, wyckoff_model
from crystaljax.models.networks import orbit_transformer
from crystaljax.sampling import (
    estimation,
    followed_structures,
    generation,
    kept_parts,
    likely_orbits,
    orbit_generation,
    polymorph_answers,
)
from crystaljax.sampling.conditions import Conditions, Feasibility
from crystaljax.system import errors, sharding

# What a source has to be within, Å, to be of its space group.
_SYMPREC = 0.1


@dataclasses.dataclass(frozen=True, eq=False)
class OrbitModifier:
    """Makes polymorphs of crystals; as `generation.Generator`.

    Attributes:
        base: what makes crystals of orbits.
        batch_size: crystals that are drawn at a time, over the devices of a process.
        num_draws: crystals that are drawn for a question beyond the samples but one.
        questions: of all samples, see `for_conditions`.
    """

    base: orbit_generation.OrbitGenerator
    batch_size: int
    num_draws: int = 6
    questions: Sequence[polymorph_answers.Question] = ()

    @property
    def mesh(self) -> Mesh:
        """Devices."""
        return self.base.mesh

    @property
    def host(self) -> generation.HostWork:
        """Draws are not those of a sample but of a question."""
        return self.base.host

    @property
    def energy_error(self) -> float | None:
        """Of the estimates, eV/atom; None if unknown."""
        return self.base.energy_error

    @property
    def estimate_energies(self) -> estimation.CellsFn | None:
        """See `orbit_generation.OrbitGenerator`."""
        return self.base.estimate_energies

    def with_params(self, params: Any, energy_error: float | None) -> "OrbitModifier":
        """The same with other parameters."""
        base = self.base.with_params(params, energy_error)
        return dataclasses.replace(self, base=base)

    def for_conditions(self, conditions: Conditions) -> "OrbitModifier":
        """The same with the orbits that conditions lead to.

        Raises:
            UserError: a group cannot hold the sites of a source.
        """
        if self.questions:
            return self
        return dataclasses.replace(self, questions=self._ask(conditions))

    def _ask(self, conditions: Conditions) -> list[polymorph_answers.Question]:
        numbers = np.asarray(conditions.atomic_numbers)
        coords = np.asarray(conditions.source.frac_coords)
        lattice = np.asarray(conditions.source.lattice)
        groups = np.asarray(conditions.space_group).tolist()
        differences = np.asarray(conditions.energy, float).tolist()
        members: dict[Any, list[int]] = collections.defaultdict(list)
        keys = []
        for row, (group, difference) in enumerate(
            zip(groups, differences, strict=True)
        ):
            arrays = (numbers[row], coords[row], lattice[row])
            keys.append(tuple(each.tobytes() for each in arrays))
            members[keys[row], group, difference].append(row)
        sources = {}
        for row, key in enumerate(keys):
            if key not in sources:
                count = int(conditions.num_sites[row])
                sources[key] = structure.Crystal(
                    numbers[row, :count].astype(int),
                    coords[row, :count].astype(float),
                    lattice[row].astype(float),
                )
        known = dict(zip(sources, self._describe(list(sources.values())), strict=True))
        energies = dict(
            zip(sources, self._energies(list(sources.values())), strict=True)
        )
        scale = float(np.asarray(self.base.scale.energy_scale))
        asked = []
        for key, group, difference in members:
            crystal, wanted = sources[key], energies[key] + difference / scale
            asked.append(self._question(crystal, group, wanted))
        assert self.base.positions is not None
        counts = [len(rows) + self.num_draws - 1 for rows in members.values()]
        chosen = likely_orbits.choose_orbits(
            self.base.positions,
            asked,
            counts,
            seed=self.base.seed,
            shape=self.base.shapes[-1],
        )
        questions, offset = [], 0
        for ((key, group, difference), rows), found in zip(
            members.items(), chosen, strict=True
        ):
            if not found:
                raise errors.UserError(
                    f"a source of space group {known[key][0]} has more orbits in "
                    f"space group {group} than the {self.base.shapes[-1][0]} that the "
                    "model holds; use another space group"
                )
            draws = likely_orbits.number_repeats(found)
            questions.append(
                polymorph_answers.Question(
                    rows,
                    sources[key],
                    known[key][0],
                    known[key][1],
                    difference / scale,
                    draws,
                    offset,
                )
            )
            offset += len(draws)
        return questions

    def _question(self, crystal, group, energy):
        assert self.base.positions is not None
        if group == 0:
            return prototype_library.question_of(crystal.atomic_numbers, energy), 1
        return likely_orbits.find_question(
            crystal.atomic_numbers,
            group,
            energy,
            self.base.positions.library,
            self.base.shapes[-1][1],
        )

    def _describe(self, crystals):
        return [
            (
                symmetry_search.find_space_group(each, _SYMPREC),
                environments.describe(
                    each, standard_choice.species_order(each.atomic_numbers)
                ),
            )
            for each in crystals
        ]

    def _energies(self, crystals) -> list[float]:
        """What the sources have by the estimator, or by their formulas alone."""
        scale, model = self.base.scale, self.base.positions
        assert model is not None
        if self.estimate_energies is not None:
            found = estimation.estimate_many(self.estimate_energies, crystals)
            if np.isfinite(found).all():
                return np.asarray(scale.scale_energy(found), float).tolist()
        questions = [
            prototype_library.question_of(each.atomic_numbers, math.nan)
            for each in crystals
        ]
        return model.likely_energies(questions).astype(float).tolist()

    def plan_batches(
        self, conditions: Conditions, numbers: Int[np.ndarray, " wanted"]
    ) -> list[generation.Batch]:
        """Batches of whole questions whose draws fit into one shape."""
        wanted = set(numbers.tolist())
        members: dict[int, list[tuple[list[int], int]]] = collections.defaultdict(list)
        for question in self.for_conditions(conditions).questions:
            own = [number for number in question.samples if number in wanted]
            if own:
                shape = self._shape_of(question)
                members[shape].append((own, len(question.draws)))
        batches = []
        for shape, found in members.items():
            own, size = [], 0
            for numbers_, draws in found:
                if own and size + draws > self.batch_size:
                    batches.append(self._batch(own, shape, size))
                    own, size = [], 0
                own += numbers_
                size += draws
            batches.append(self._batch(own, shape, size))
        return sorted(batches, key=lambda batch: int(batch.numbers[0]))

    def _batch(self, numbers, shape, size):
        size = generation.sufficient_size(size, self.mesh.size)
        return generation.Batch(np.sort(np.array(numbers)), shape, size)

    def _shape_of(self, question: polymorph_answers.Question) -> int:
        sizes = [orbit_generation.size_of(each) for each in question.draws]
        for each in question.draws:
            orbit_generation.require_fits(each, self.base.shapes[-1])
        largest = tuple(max(column) for column in zip(*sizes, strict=True))
        return next(
            index
            for index, shape in enumerate(self.base.shapes)
            if largest[0] <= shape[0] and largest[1] <= shape[1]
        )

    def generate_batches(
        self, conditions: Conditions, key: Array, batches: Sequence[generation.Batch]
    ) -> Iterator[tuple[list[int], list[structure.Crystal]]]:
        """Yields numbers of samples with their crystals, batch by batch."""
        owners = {
            number: question
            for question in self.for_conditions(conditions).questions
            for number in question.samples
        }
        for batch in batches:
            numbers = batch.numbers.tolist()
            questions = list(dict.fromkeys(owners[number] for number in numbers))
            drawn = iter(self._draw(questions, batch, key))
            answers = {}
            for question in questions:
                made = [next(drawn) for _ in question.draws]
                crystals, follow = zip(*made, strict=True)
                found = polymorph_answers.answer(question, crystals, follow)
                answers |= dict(zip(question.samples, found, strict=True))
            yield numbers, [answers[number] for number in numbers]

    def _draw(self, questions, batch, key) -> list[tuple[structure.Crystal, bool]]:
        """All draws of some questions, one question after the other.

        With whether each follows a known structure.
        """
        base = self.base
        shape = base.shapes[batch.rows]
        rows = [(question, each) for question in questions for each in question.draws]
        rows += [rows[-1]] * (batch.size - len(rows))
        requests = [each for _, each in rows]
        model = base.positions if base.follow_known else None
        shown = followed_structures.show(model, requests, shape[0], base.scale)
        follows = np.isfinite(shown.costs).sum(axis=1) > shown.rank
        # As in generation: draws that follow known structures ask the network once.
        indices, first = [], {}
        for number, (question, each) in enumerate(rows):
            own = question.offset + question.draws.index(each)
            where = (question.offset, likely_orbits.positions_of(each))
            indices.append(first.setdefault(where, own) if follows[number] else own)
        asked = orbit_generation.build_conditions(requests, *shape)
        asked = dataclasses.replace(
            asked, source=_source_conditions([each for each, _ in rows], asked)
        )
        kept = kept_parts.build_kept(
            [(each.kept, each.question, each.assignment) for each in requests], shape[0]
        )
        inputs = (asked, shown, kept, np.array(indices, np.int32))
        asked, shown, kept, numbers = sharding.shard_batch(inputs, base.mesh)
        made = base.generate_fn(
            base.params, base.scale, base.tables, asked, shown, kept, key, numbers
        )
        crystals = [
            orbit_generation.decode(request, *arrays)
            for request, *arrays in zip(requests, *jax.device_get(made), strict=True)
        ]
        count = sum(len(each.draws) for each in questions)
        return list(zip(crystals, follows.tolist(), strict=True))[:count]


def _source_conditions(
    questions: Sequence[polymorph_answers.Question],
    asked: orbit_transformer.OrbitConditions,
) -> orbit_transformer.SourceConditions:
    shape = (*asked.atomic_numbers.shape, environments.NUM_FEATURES)
    surroundings = np.zeros(shape, np.float32)
    roles = np.asarray(orbit_transformer.roles_of(asked.atomic_numbers))
    for row, question in enumerate(questions):
        last = len(question.environments) - 1
        surroundings[row] = question.environments[np.minimum(roles[row], last)]
    return orbit_transformer.SourceConditions(
        surroundings,
        np.array([environments.fill(each.source) for each in questions], np.float32),
        np.array([each.source_group for each in questions], np.uint8),
        np.array([each.energy_difference for each in questions], np.float32),
        np.ones(len(questions), bool),
    )


def judge_feasibility(
    sources: Sequence[structure.Crystal],
    space_groups: Sequence[int],
    model: wyckoff_model.WyckoffModel,
    shape: tuple[int, int],
) -> Feasibility:
    """Which sources can be made into which groups; the others are left out.

    A model of orbits has nothing to put where no positions can be filled.

    Args:
        sources: crystals to modify.
        space_groups: 1-230, wanted.
        model: of the positions.
        shape: orbits and sites that the model holds.

    Raises:
        UserError: nothing is left.
    """
    possible = np.zeros((len(sources), len(space_groups)), bool)
    for row, source in enumerate(sources):
        for column, group in enumerate(space_groups):
            try:
                question, _ = likely_orbits.find_question(
                    source.atomic_numbers, group, 0.0, model.library, shape[1]
                )
            except errors.UserError:
                continue
            few = likely_orbits.fewest_orbits(question, shape[0])
            possible[row, column] = few is not None and (
                sum(question.counts) <= shape[1]
            )
    if possible.all():
        return Feasibility(possible, possible, [])
    note = (
        f"{np.sum(~possible):,} of {possible.size:,} combinations of crystal and space "
        "group cannot exist, or are larger than the model holds, and are left out"
    )
    if not possible.any():
        raise errors.UserError(f"nothing to sample: {note}; choose other space groups")
    return Feasibility(possible, possible, [note])
