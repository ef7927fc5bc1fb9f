"""How right the samples are: match rate, validity, space group; per structure.

In generation, the question put to the network is each held-out structure's own
condition: its cell formula, space group and formation energy. In modification, it is a
held-out structure, with the space group and the energy difference of the most stable
polymorph of its formula. One sample answers it, and pymatgen's StructureMatcher says
whether it is the structure that was requested (paper section 3.4).
"""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from crystaljax.crystals import assessment, elements, structure
from crystaljax.data import dataset as datasets
from crystaljax.data import pairs as pairs_lib
from crystaljax.matching import matcher
from crystaljax.metrics import pairing, scoring
from crystaljax.sampling import collective_generation, generation
from crystaljax.sampling import conditions as conditions_lib
from crystaljax.system import errors

# Å; the looser one is that of the training structures' own space groups.
SYMPRECS = (0.1, 0.01)
# Atoms closer than this share of the sum of their covalent radii overlap.
OVERLAP_RATIO = 0.7
# Of match@k, valid-only rates and METRe.
LITERATURE = matcher.TOLERANCES["literature"]


@dataclasses.dataclass(frozen=True, eq=False)
class Questions:
    """What is asked of the network, with the right answers.

    Attributes:
        ids: of the targets in the data set.
        conditions: one per question.
        targets: the structures that would be right.
        source_ids: of the structures to modify; None in generation.
        sources: the structures to modify; None in generation.
        num_rounds: how many times the same questions follow each other.
    """

    ids: list[str]
    conditions: conditions_lib.Conditions
    targets: list[structure.Crystal]
    source_ids: list[str] | None = None
    sources: list[structure.Crystal] | None = None
    num_rounds: int = 1

    def __len__(self) -> int:
        return len(self.ids)


def structure_questions(
    dataset: datasets.Dataset, indices: np.ndarray, sites: int
) -> Questions:
    """Generation: each structure is requested by its own conditions.

    Args:
        dataset: to take the structures from.
        indices: of the structures.
        sites: width to which sites are padded.

    Raises:
        ValueError: no structures, or structures larger than ``sites``.
    """
    if len(indices) == 0:
        raise errors.UserError("no structures to evaluate on; choose another --split")
    batch = datasets.gather(dataset, indices, sites)
    return Questions(
        dataset.id.take(indices).to_pylist(),
        conditions_lib.conditions_of(batch),
        [datasets.crystal(dataset, int(index)) for index in indices],
    )


def pair_questions(
    dataset: datasets.Dataset, pairs: np.ndarray, sites: int
) -> Questions:
    """Modification: the target of each pair is requested, given its source.

    Args:
        dataset: to take the structures from.
        pairs: indices (pairs, 2) of sources and targets.
        sites: width to which sites are padded.

    Raises:
        ValueError: no pairs, or structures larger than ``sites``.
    """
    if len(pairs) == 0:
        raise errors.UserError(
            "no pairs of polymorphs to evaluate on; choose another --split"
        )
    batch = pairs_lib.gather_pairs(dataset, pairs, sites)
    sources, targets = pairs.T
    return Questions(
        dataset.id.take(targets).to_pylist(),
        conditions_lib.conditions_of(batch),
        [datasets.crystal(dataset, int(index)) for index in targets],
        dataset.id.take(sources).to_pylist(),
        [datasets.crystal(dataset, int(index)) for index in sources],
    )


def ask_again(questions: Questions, num_rounds: int) -> Questions:
    """The same questions so many times, for match@k: all of them, then all again.

    The first round's samples are those of the questions asked once.
    """
    size = len(questions)
    conditions = jax.tree.map(
        lambda each: np.concatenate([np.asarray(each)] * num_rounds),
        questions.conditions,
    )
    repetition = np.repeat(np.arange(num_rounds, dtype=np.int32), size)
    if num_rounds > 1:
        conditions = dataclasses.replace(conditions, repetition=repetition)
    sources = questions.sources
    return dataclasses.replace(
        questions,
        ids=questions.ids * num_rounds,
        conditions=conditions,
        targets=questions.targets * num_rounds,
        source_ids=questions.source_ids and questions.source_ids * num_rounds,
        sources=None if sources is None else sources * num_rounds,
        num_rounds=num_rounds,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """One entry per question.

    Attributes:
        questions: what was requested.
        samples: the crystals that were made.
        matches: of the samples with the targets.
        source_matches: of the sources, as they are, with the targets: what a network
            that changes nothing would reach; None in generation.
        checks: validity and space groups of the samples.
        seconds: spent in sampling, matching and checking.
        num_draws: crystals that each sample was picked from.
        score: match@k, valid-only rates and METRe at the literature's tolerance; None
            in modification.
    """

    questions: Questions
    samples: list[structure.Crystal]
    matches: matcher.Matches
    source_matches: matcher.Matches | None
    checks: assessment.Validities
    seconds: dict[str, float]
    num_draws: int = 1
    score: scoring.Score | None = None

    def summary(self) -> dict[str, float]:
        """Shares of all questions; RMS distances are means over those that match."""
        result: dict[str, float] = {}
        for column, tolerance in enumerate(self.matches.tolerances):
            matched = self.matches.matched[:, column]
            result[f"match_rate_{tolerance}"] = float(matched.mean())
            if matched.any():
                rms = self.matches.rms[matched, column]
                result[f"rms_{tolerance}"] = float(rms.mean())
        if self.source_matches is not None:
            rates = self.source_matches.match_rates()
            for tolerance, rate in zip(
                self.source_matches.tolerances, rates, strict=True
            ):
                result[f"match_rate_of_sources_{tolerance}"] = float(rate)
        result["valid"] = float(self.checks.valid.mean())
        result["not_overlapping"] = float(
            np.mean(self.checks.shortest_distance_ratio >= OVERLAP_RATIO)
        )
        asked = np.asarray(self.questions.conditions.space_group)
        for column, symprec in enumerate(SYMPRECS):
            found = self.checks.space_groups[:, column]
            result[f"space_group_{symprec:g}"] = float(np.mean(found == asked))
        return result

    def table(self) -> dict[str, list[Any]]:
        """Columns with one row per question."""
        asked = self.questions.conditions
        num_rounds = self.questions.num_rounds
        rounds = np.repeat(np.arange(num_rounds), len(self.questions) // num_rounds)
        columns: dict[str, list[Any]] = {
            "id": self.questions.ids,
            "round": rounds.tolist(),
            "formula": [
                elements.cell_formula(target.atomic_numbers)
                for target in self.questions.targets
            ],
            "num_sites": np.asarray(asked.num_sites).tolist(),
            "space_group": np.asarray(asked.space_group).tolist(),
        }
        energy = np.asarray(asked.energy).tolist()
        if self.questions.source_ids is None:
            columns["formation_energy"] = energy
        else:
            columns["energy_difference"] = energy
            columns["source_id"] = self.questions.source_ids
        if self.source_matches is not None:
            for column, tolerance in enumerate(self.source_matches.tolerances):
                columns[f"source_matched_{tolerance}"] = self.source_matches.matched[
                    :, column
                ].tolist()
        for column, tolerance in enumerate(self.matches.tolerances):
            columns[f"matched_{tolerance}"] = self.matches.matched[:, column].tolist()
            columns[f"rms_{tolerance}"] = self.matches.rms[:, column].tolist()
        columns["match_failure"] = list(self.matches.reasons)
        columns["valid"] = self.checks.valid.tolist()
        columns["invalid_because"] = list(self.checks.reasons)
        columns["shortest_distance"] = self.checks.shortest_distance.tolist()
        columns["shortest_distance_ratio"] = (
            self.checks.shortest_distance_ratio.tolist()
        )
        for column, symprec in enumerate(SYMPRECS):
            columns[f"space_group_found_{symprec:g}"] = self.checks.space_groups[
                :, column
            ].tolist()
        columns["volume_ratio"] = [
            float(np.linalg.det(sample.lattice) / np.linalg.det(target.lattice))
            for sample, target in zip(self.samples, self.questions.targets, strict=True)
        ]
        return columns


def evaluate_samples(
    generator: generation.AnyGenerator,
    questions: Questions,
    key: Array,
    *,
    tolerances: Sequence[matcher.Tolerance] = tuple(matcher.TOLERANCES.values()),
    num_workers: int | None = None,
    show_progress: bool = False,
) -> Evaluation:
    """Samples one answer to each question and compares it with the right one.

    Args:
        generator: what makes the samples.
        questions: at least one.
        key: of the samples.
        tolerances: at which samples are matched; the loosest costs the most time.
        num_workers: processes that match; all CPUs if None.
        show_progress: print progress bars.
    """

    def label(text: str) -> str | None:
        return text if show_progress else None

    start = time.perf_counter()
    samples = collective_generation.generate(
        generator, questions.conditions, key, description=label("sample")
    )
    sampled = time.perf_counter()
    matches = matcher.match_many(
        samples,
        questions.targets,
        tolerances,
        num_workers=num_workers,
        description=label("match"),
    )
    source_matches = None
    if questions.sources is not None:
        source_matches = matcher.match_many(
            questions.sources,
            questions.targets,
            tolerances,
            num_workers=num_workers,
            description=label("match sources"),
        )
    score = None
    if questions.sources is None:
        settings = scoring.Settings((LITERATURE,), SYMPRECS[0], num_workers)
        score = _score(questions, samples, settings)
    matched = time.perf_counter()
    checks = assessment.check_many(
        samples,
        symprecs=SYMPRECS,
        num_workers=num_workers,
        description=label("check"),
    )
    return Evaluation(
        questions=questions,
        samples=samples,
        matches=matches,
        source_matches=source_matches,
        checks=checks,
        seconds={
            "sampling": sampled - start,
            "matching": matched - sampled,
            "checking": time.perf_counter() - matched,
        },
        num_draws=generator.host.num_draws,
        score=score,
    )


def _score(
    questions: Questions,
    samples: list[structure.Crystal],
    settings: scoring.Settings,
) -> scoring.Score:
    """Everybody's yardsticks: the targets are the references."""
    num_targets = len(questions) // questions.num_rounds
    asked = np.asarray(questions.conditions.space_group).tolist()
    return scoring.score(
        scoring.Crystals(
            [str(i) for i in range(len(samples))], samples, [""] * len(samples), asked
        ),
        scoring.Crystals(
            questions.ids[:num_targets],
            questions.targets[:num_targets],
            [""] * num_targets,
        ),
        pairing.pair_in_rounds(len(samples), num_targets),
        settings,
    )
