"""Pairs of polymorphs (source, target) that a modification model learns from.

The pairs are the paper's (section 2.2). Sorted by energy, the structures of a polymorph
group are S_0, S_1, …, S_0 the lowest; equal energies keep the order of the data set.
Lowest-energy pairs are (S_i, S_0), i > 0; non-lowest pairs are (S_i, S_j), i > j > 0: a
pair never goes up in energy. Training draws both kinds anew in every epoch, the same
number of each; validation takes lowest-energy pairs only, once.
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Bool, Float, Int, Integer

from crystaljax.crystals import sample_tensors
from crystaljax.data import columnar
from crystaljax.data import dataset as datasets
from crystaljax.system import errors

# Keep the draws of this module apart from other uses of the same seed.
_EPOCH_STREAM = 0x7061697273
_VALIDATION_STREAM = 0x6C6F77657374

# Fractions of a pair are counted in integers of this unit: sums of them are exact.
_UNIT = 2**32


@dataclasses.dataclass(frozen=True, eq=False)
class _Groups:
    """Polymorph groups of two or more structures.

    Attributes:
        members: int64 (members,), dataset indices, group after group, S_0 first.
        starts: int64 (groups,), where each group starts in ``members``.
        sizes: int64 (groups,), structures of each group.
    """

    members: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class _Quota:
    """How many pairs of one kind an epoch takes from each group.

    Attributes:
        capacity: int64 (groups,), the pairs there are.
        whole: int64 (groups,), pairs that every epoch takes.
        extra_groups: int64 (extras,), groups of which some epochs take one more.
        extra_shares: int64 (extras,), in how many epochs they do, in 1/_UNIT; the sum
            is a whole number of pairs.
    """

    capacity: np.ndarray
    whole: np.ndarray
    extra_groups: np.ndarray
    extra_shares: np.ndarray

    def __len__(self) -> int:
        return int(self.whole.sum() + self.extra_shares.sum() // _UNIT)


@dataclasses.dataclass(frozen=True, eq=False)
class PairSampler:
    """Draws the training pairs of an epoch; made by `build_pair_samplers`.

    An epoch is a function of the seed and its number alone, and every epoch has
    ``len(sampler)`` pairs.
    """

    seed: int
    groups: _Groups
    lowest: _Quota
    non_lowest: _Quota

    def __len__(self) -> int:
        """Pairs of an epoch."""
        return len(self.lowest) + len(self.non_lowest)

    def epoch(self, epoch: int) -> Int[np.ndarray, "pairs 2"]:
        """Dataset indices (source, target) of an epoch: no pair twice, random order."""
        rng = np.random.default_rng((self.seed, epoch, _EPOCH_STREAM))
        group, number = _draw(rng, self.lowest)
        starts = self.groups.starts[group]
        lowest = np.stack([starts + 1 + number, starts], axis=1)

        group, number = _draw(rng, self.non_lowest)
        starts = self.groups.starts[group]
        source, target = _rank_pair(number)
        non_lowest = np.stack([starts + source, starts + target], axis=1)

        where = np.concatenate([lowest, non_lowest])
        return self.groups.members[where[rng.permutation(len(where))]]


def build_pair_samplers(
    *,
    group: Integer[np.ndarray, " structures"],
    energy: Float[np.ndarray, " structures"],
    num_sites: Integer[np.ndarray, " structures"],
    indices: Integer[np.ndarray, " split"],
    seed: int,
    pairs_per_group: float | int = 5.0,
    balance_num_sites: bool = False,
    site_limits: tuple[int, ...] = (columnar.MAX_SITES,),
) -> list[PairSampler]:
    """Samplers of training pairs among the structures of one split.

    An epoch takes ``pairs_per_group / 2`` pairs of each kind from a group on average:
    one fewer or more where that is not a whole number. Of a group with fewer pairs of a
    kind it takes all of them; nothing else makes up for those it lacks.

    Args:
        group: number of each structure's polymorph group (same cell formula).
        energy: formation energy of each structure, eV/atom.
        num_sites: sites of each structure.
        indices: structures of the split, in any order.
        seed: of the draws.
        pairs_per_group: pairs of both kinds an epoch takes from a group, on average.
        balance_num_sites: take pairs of each number of sites equally often, as far as
            there are enough: quotas ∝ 1/(groups with as many sites), mean as without.
            A rare number of sites may then use up its groups in every epoch.
        site_limits: most sites of the cells of each sampler, ascending; the last holds
            all cells.

    Returns:
        One sampler for each limit, of the cells above the limit before it. Quotas are
        what they are without limits; a sampler may be without pairs.

    Raises:
        ValueError: no group has two structures, or an epoch would hold no pair.
    """
    if not (math.isfinite(pairs_per_group) and pairs_per_group > 0):
        raise errors.UserError(
            f"pairs_per_group is {pairs_per_group}; expected a finite number above 0, "
            "such as 5"
        )
    groups = _polymorph_groups(group, energy, indices)
    wanted = np.full(len(groups.sizes), pairs_per_group / 2)
    if balance_num_sites:
        wanted *= _balancing_weights(num_sites[groups.members[groups.starts]])
    sampler_of = np.searchsorted(
        np.array(site_limits), num_sites[groups.members[groups.starts]]
    )
    samplers = [
        _build_sampler(seed, groups, wanted, sampler_of == i)
        for i in range(len(site_limits))
    ]
    if not any(map(len, samplers)):
        raise errors.UserError(
            f"pairs_per_group={pairs_per_group} makes no whole pair of either kind "
            f"from {len(groups.sizes)} polymorph groups; use a larger one (2 takes one "
            "pair of each kind from every group)"
        )
    return samplers


def _build_sampler(
    seed: int,
    groups: _Groups,
    wanted: Float[np.ndarray, " groups"],
    keep: Bool[np.ndarray, " groups"],
) -> PairSampler:
    sizes, wanted = groups.sizes[keep], wanted[keep]
    return PairSampler(
        seed=seed,
        groups=_Groups(groups.members, groups.starts[keep], sizes),
        lowest=_build_quota(wanted, sizes - 1),
        non_lowest=_build_quota(wanted, (sizes - 1) * (sizes - 2) // 2),
    )


def lowest_energy_pairs(
    *,
    group: Integer[np.ndarray, " structures"],
    energy: Float[np.ndarray, " structures"],
    indices: Integer[np.ndarray, " split"],
    seed: int,
    pairs_per_group: int | None = 1,
) -> Int[np.ndarray, "pairs 2"]:
    """Lowest-energy pairs for validation, fixed by the seed.

    Args:
        group: number of each structure's polymorph group (same cell formula).
        energy: formation energy of each structure, eV/atom.
        indices: structures of the split, in any order.
        seed: of the choice of sources.
        pairs_per_group: most pairs of a group; None: all.

    Returns:
        Dataset indices (source, target), sorted by target, then by source.

    Raises:
        ValueError: no group has two structures, or ``pairs_per_group`` is below 1.
    """
    if pairs_per_group is not None and pairs_per_group < 1:
        raise errors.UserError(
            f"pairs_per_group is {pairs_per_group}; expected 1 or more, or None for "
            "all pairs"
        )
    groups = _polymorph_groups(group, energy, indices)
    capacity = groups.sizes - 1
    count = capacity
    if pairs_per_group is not None:
        count = np.minimum(capacity, pairs_per_group)
    rng = np.random.default_rng((seed, _VALIDATION_STREAM))
    owner, number = _draw_distinct(rng, capacity, count)
    target = groups.starts[owner]
    pairs = groups.members[np.stack([target + 1 + number, target], axis=1)]
    return pairs[np.lexsort((pairs[:, 0], pairs[:, 1]))]


def gather_pairs(
    dataset: datasets.Dataset, pairs: Int[np.ndarray, "*batch 2"], rows_of_sites: int
) -> sample_tensors.CrystalBatch:
    """Copies pairs out of the memory map: targets, with their sources beside them.

    Args:
        dataset: an open data set.
        pairs: indices of source and target, in any leading shape.
        rows_of_sites: site rows of the result, ``structure.max_sites(rows)``.

    Returns:
        NumPy arrays with the leading shape of ``pairs``; the energy is that of the
        target less that of the source, eV/atom.

    Raises:
        ValueError: one of the structures has more sites than ``rows_of_sites``.
    """
    source = datasets.gather(dataset, pairs[..., 0], rows_of_sites)
    target = datasets.gather(dataset, pairs[..., 1], rows_of_sites)
    return dataclasses.replace(
        target,
        energy=target.energy - source.energy,
        source=sample_tensors.CellBatch(source.frac_coords, source.lattice),
    )


def _polymorph_groups(
    group: Integer[np.ndarray, " structures"],
    energy: Float[np.ndarray, " structures"],
    indices: Integer[np.ndarray, " split"],
) -> _Groups:
    # Ascending and each once; the sort below is stable, so ties go by index.
    indices = _distinct(indices.astype(np.int64))
    members = indices[np.lexsort((energy[indices], group[indices]))]
    group_of = group[members]
    is_first = np.ones(len(members), bool)
    is_first[1:] = group_of[1:] != group_of[:-1]
    starts = np.flatnonzero(is_first)
    sizes = np.diff(starts, append=len(members))
    is_used = sizes > 1
    if not is_used.any():
        raise errors.UserError(
            f"no polymorphs among {len(indices)} structures: a modification model "
            "learns from pairs within a group of one cell formula, and no group has "
            "two structures here; prepare a data set with --min_group_size=2 or more, "
            "or choose another split"
        )
    members, sizes = members[np.repeat(is_used, sizes)], sizes[is_used]
    return _Groups(members, np.cumsum(sizes) - sizes, sizes)


def _balancing_weights(
    num_sites: Integer[np.ndarray, " groups"],
) -> Float[np.ndarray, " groups"]:
    """Weights ∝ 1/frequency of the number of sites, mean 1."""
    values, which, frequency = np.unique(
        num_sites, return_inverse=True, return_counts=True
    )
    return len(num_sites) / (len(values) * frequency[which])


def _build_quota(
    wanted: Float[np.ndarray, " groups"], capacity: Int[np.ndarray, " groups"]
) -> _Quota:
    quota = np.minimum(wanted, capacity)
    whole = np.floor(quota).astype(np.int64)
    # Rounded up, so that quotas that add up to n but for rounding errors make n pairs.
    # Only a quota below the capacity has a fraction: there is room for one pair more.
    shares = np.ceil((quota - whole) * _UNIT).astype(np.int64)
    extra_groups = np.flatnonzero(shares)
    shares = shares[extra_groups]
    # All shares shrink by the same factor to a whole number of pairs, so that epochs
    # are equally long. Products exceed 64 bits, hence Python's integers.
    total = int(shares.sum())
    reached = (
        np.cumsum(shares).astype(object) * (total // _UNIT * _UNIT) // max(total, 1)
    )
    shares = np.diff(reached, prepend=0).astype(np.int64)
    return _Quota(capacity, whole, extra_groups, shares)


def _draw(
    rng: np.random.Generator, quota: _Quota
) -> tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"]]:
    """Pairs of one kind as (group, number below the group's capacity)."""
    # Systematic sampling: shares laid end to end in random order, and a mark at every
    # unit from a random offset on. A share is at most a unit, so it has 0 or 1 marks.
    order = rng.permutation(len(quota.extra_groups))
    reached = rng.integers(_UNIT) + np.cumsum(quota.extra_shares[order])
    count = quota.whole.copy()
    count[quota.extra_groups[order]] += np.diff(reached // _UNIT, prepend=0)
    return _draw_distinct(rng, quota.capacity, count)


def _draw_distinct(
    rng: np.random.Generator,
    capacity: Int[np.ndarray, " groups"],
    count: Int[np.ndarray, " groups"],
) -> tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"]]:
    """Draws ``count`` distinct numbers below ``capacity`` for each group, uniformly.

    Returns:
        The group of each number, ascending, and the number.
    """
    # Where more than half is wanted, what to leave out is drawn instead. So at least
    # half of all draws hit, and drawing again what was drawn twice ends soon. Ignoring
    # repeats favours no set over another of its size.
    is_inverted = 2 * count > capacity
    wanted = np.where(is_inverted, capacity - count, count)
    # Numbers of all groups in one range: group g has those from first[g] on.
    first = np.cumsum(capacity) - capacity
    drawn = np.empty(0, np.int64)
    missing = wanted
    while missing.any():
        owner = np.repeat(np.arange(len(capacity)), missing)
        new = first[owner] + rng.integers(capacity[owner])
        drawn = _distinct(np.concatenate([drawn, new]))
        missing = wanted - _count_in(drawn, first, capacity)
    if is_inverted.any():
        everything = _ranges(first[is_inverted], capacity[is_inverted])
        drawn = np.setxor1d(drawn, everything, assume_unique=True)
    owner = np.repeat(np.arange(len(capacity)), count)
    return owner, drawn - first[owner]


def _distinct(values: Int[np.ndarray, " values"]) -> Int[np.ndarray, " distinct"]:
    """Sorted, each once."""
    # np.unique of NumPy 2.4 hashes integers: 93 ms where sorting 225,000 takes 3 ms
    # (experiments/pair_drawing).
    values = np.sort(values)
    is_new = np.ones(len(values), bool)
    is_new[1:] = values[1:] != values[:-1]
    return values[is_new]


def _count_in(
    values: Int[np.ndarray, " values"],
    first: Int[np.ndarray, " ranges"],
    length: Int[np.ndarray, " ranges"],
) -> Int[np.ndarray, " ranges"]:
    """How many of the sorted values are in each range."""
    return np.searchsorted(values, first + length) - np.searchsorted(values, first)


def _ranges(
    first: Int[np.ndarray, " ranges"], length: Int[np.ndarray, " ranges"]
) -> Int[np.ndarray, " values"]:
    """All numbers of the ranges, one range after the other."""
    begin = np.cumsum(length) - length
    return np.arange(length.sum()) + np.repeat(first - begin, length)


def _rank_pair(
    number: Int[np.ndarray, " pairs"],
) -> tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"]]:
    """Numbers 0, 1, 2, … → ranks i > j > 0, in the order (2, 1), (3, 1), (3, 2)."""
    # i - 1 is the largest k with k (k - 1) / 2 <= number. For numbers up to 2**61 (a
    # group of 2**31 structures) rounding makes it one too large at most, never smaller:
    # where equality holds the root is k - 1/2, which floats represent.
    k = np.floor(np.sqrt(2.0 * number + 0.25) + 0.5).astype(np.int64)
    k -= k * (k - 1) // 2 > number
    return k + 1, number - k * (k - 1) // 2 + 1
