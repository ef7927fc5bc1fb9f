"""What a model of orbits learns modification from: crystals with a polymorph each.

Of all structures of one reduced formula each is a source for each other one: a source
may be of another cell, and more stable than what is wanted. Every structure comes
without a source too, so that what few polymorphs cannot teach is learned from all.
"""

import collections
import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int, Integer

from crystaljax.crystals import elements, environments, standard_choice
from crystaljax.data import dataset as datasets
from crystaljax.models.networks import orbit_transformer
from crystaljax.system import errors

# Of what is learned from in an epoch, as far as each pair comes this often at most.
_SHARE_OF_PAIRS = 0.5
_MOST_REPEATS = 20


@dataclasses.dataclass(frozen=True, eq=False)
class Sources:
    """Structures as sources, by their number in the data set.

    Attributes:
        rows: int32 (structures,), where each is in the arrays below; -1: it is none.
        environments: float32 (sources, species, features), species in the order of
            `standard_choice.species_order`.
        fill: float32 (sources,), `environments.fill`.
        space_group: uint8 (sources,).
        energy: float32 (sources,), eV/atom.
    """

    rows: np.ndarray
    environments: np.ndarray
    fill: np.ndarray
    space_group: np.ndarray
    energy: np.ndarray

    def gather(
        self,
        pairs: Int[np.ndarray, "*batch 2"],
        numbers: Integer[np.ndarray, "*batch o"],
    ) -> dict[str, np.ndarray]:
        """Fields of `SourceConditions` but for the energy, which is the source's.

        Args:
            pairs: structure that is the source, -1 for none, and target.
            numbers: of the target's orbits, 0 where there is none.
        """
        source = pairs[..., 0]
        exists = source >= 0
        rows = self.rows[np.where(exists, source, 0)]
        # What is padded with is not looked at.
        rows = np.where(exists, rows, 0)
        roles = np.asarray(orbit_transformer.roles_of(numbers))
        roles = np.minimum(roles, self.environments.shape[1] - 1)
        return {
            "environments": self.environments[rows[..., None], roles],
            "fill": self.fill[rows],
            "space_group": self.space_group[rows],
            "energy": self.energy[rows],
            "exists": exists,
        }


def find_pairs(
    dataset: datasets.Dataset, sources: Any, targets: Int[np.ndarray, " targets"]
) -> Int[np.ndarray, "pairs 2"]:
    """All pairs of different structures of one reduced formula, (source, target).

    Args:
        dataset: of the structures.
        sources: that may be sources.
        targets: that may be targets.
    """
    members = collections.defaultdict(list)
    formulas: dict[str, str] = {}

    def reduced(index: int) -> str:
        cell = dataset.formula[index].as_py()
        if cell not in formulas:
            numbers = elements.formula_atomic_numbers(cell)
            formulas[cell] = elements.reduced_formula(numbers)
        return formulas[cell]

    for index in np.asarray(sources).tolist():
        members[reduced(index)].append(index)
    found = [
        (source, target)
        for target in targets.tolist()
        for source in members.get(reduced(target), ())
        if source != target
    ]
    return np.array(found, int).reshape(-1, 2)


def describe_sources(
    dataset: datasets.Dataset, indices: Int[np.ndarray, " sources"]
) -> Sources:
    """Describes structures of a data set as sources."""
    indices = np.unique(indices)
    described, fills = [], []
    for index in indices.tolist():
        crystal = datasets.crystal(dataset, index)
        species = standard_choice.species_order(crystal.atomic_numbers)
        described.append(environments.describe(crystal, species))
        fills.append(environments.fill(crystal))
    most = max((len(each) for each in described), default=1)
    table = np.zeros(
        (max(len(indices), 1), most, environments.NUM_FEATURES), np.float32
    )
    for row, each in enumerate(described):
        table[row, : len(each)] = each
    rows = np.full(len(dataset), -1, np.int32)
    rows[indices] = np.arange(len(indices))
    return Sources(
        rows,
        table,
        np.array([*fills, *[0.0] * (not fills)], np.float32),
        np.resize(np.asarray(dataset.space_group)[indices], len(table)),
        np.resize(np.asarray(dataset.formation_energy)[indices], len(table)),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class PairEpochs:
    """`pipeline.Epochs` of pairs, and of structures without a source.

    Attributes:
        pairs: int (pairs, 2), by target.
        alone: int (structures,).
        seed: of the draws.
    """

    pairs: np.ndarray
    alone: np.ndarray
    seed: int

    def __len__(self) -> int:
        return len(self.alone) + self._num_pairs

    @property
    def _num_pairs(self) -> int:
        if not len(self.pairs):
            return 0
        share = _SHARE_OF_PAIRS / (1 - _SHARE_OF_PAIRS)
        most = _MOST_REPEATS * len(self.pairs)
        return min(max(int(share * len(self.alone)), 1), most)

    def epoch(self, epoch: int) -> Int[np.ndarray, "items 2"]:
        """Pairs, and structures with the source -1, in random order."""
        rng = np.random.default_rng((self.seed, epoch))
        count, size = self._num_pairs, max(len(self.pairs), 1)
        # Each as often as any other, but for one.
        drawn = np.concatenate(
            [np.arange(0)] + [rng.permutation(size) for _ in range(-(-count // size))]
        )[:count]
        alone = np.stack([np.full(len(self.alone), -1), self.alone], axis=1)
        return rng.permutation(np.concatenate([self.pairs[drawn], alone]))


def require_pairs(pairs: np.ndarray, dataset: datasets.Dataset) -> None:
    """Raises UserError where there is nothing to learn modification from."""
    if not len(pairs):
        raise errors.UserError(
            f"no polymorphs among the training structures of {dataset.path} that fit "
            "the model: a modification model learns from structures of one formula; "
            "prepare a data set with such, or choose another config"
        )


def as_conditions(
    source: Mapping[str, Any], energy: Any, scale: Any
) -> orbit_transformer.SourceConditions:
    """What the network is given of sources.

    Args:
        source: of `Sources.gather`.
        energy: of the targets, eV/atom.
        scale: units of the network.
    """
    difference = (energy - source["energy"]) / scale.energy_scale
    return orbit_transformer.SourceConditions(
        source["environments"],
        source["fill"],
        source["space_group"],
        difference,
        source["exists"],
    )
