"""Which pairs of polymorphs are drawn, and how often."""

import inspect
import itertools
import math
import types

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import scipy.stats
import tiny

from crystaljax.data import dataset as datasets
from crystaljax.data import pairs, pipeline
from crystaljax.data import split as splits


@pytest.fixture
def unchecked(monkeypatch):
    """Thousands of epochs have the types of the first, which other tests check."""
    for owner in (pairs, pairs.PairSampler):
        for name, value in list(vars(owner).items()):
            is_ours = getattr(value, "__module__", "") == pairs.__name__
            if is_ours and isinstance(value, types.FunctionType):
                monkeypatch.setattr(owner, name, inspect.unwrap(value))


def columns(sizes, *, num_sites=None, seed=0):
    """Groups of the given sizes, scattered; one energy in three is not the only one."""
    rng = np.random.default_rng(seed)
    group = rng.permutation(np.repeat(np.arange(len(sizes), dtype=np.int32), sizes))
    energy = rng.normal(size=len(group)).round(1).astype(np.float32)
    num_sites = np.full(len(sizes), 4) if num_sites is None else np.asarray(num_sites)
    return {
        "group": group,
        "energy": energy,
        "num_sites": num_sites.astype(np.int32)[group],
        "indices": np.arange(len(group)),
    }


def validation_columns(sizes, **options):
    made = columns(sizes, **options)
    del made["num_sites"]
    return made


def build_sampler(**settings):
    """For cells of any size."""
    [sampler] = pairs.build_pair_samplers(**settings)
    return sampler


def build(sizes, *, num_sites=None, seed=0, **options):
    made = columns(sizes, num_sites=num_sites)
    return build_sampler(**made, seed=seed, **options), made


def ranks(made):
    """Rank of each structure in its group, written out slowly."""
    rank = np.full(len(made["group"]), -1)
    for group in np.unique(made["group"]):
        members = [i for i in made["indices"].tolist() if made["group"][i] == group]
        members.sort(key=lambda i: (made["energy"][i], i))
        rank[members] = np.arange(len(members))
    return rank


def counts_by_kind(drawn, made):
    """Pairs of each group: lowest-energy ones, non-lowest ones."""
    is_lowest = ranks(made)[drawn[:, 1]] == 0
    group = made["group"][drawn[:, 0]]
    num_groups = made["group"].max() + 1
    return (
        np.bincount(group[is_lowest], minlength=num_groups),
        np.bincount(group[~is_lowest], minlength=num_groups),
    )


def capacities(sizes):
    sizes = np.asarray(sizes)
    return np.maximum(sizes - 1, 0), np.maximum((sizes - 1) * (sizes - 2) // 2, 0)


sizes_strategy = st.lists(st.integers(1, 9), min_size=1, max_size=12).filter(
    lambda sizes: max(sizes) > 1
)


@hypothesis.given(
    sizes_strategy,
    st.floats(2, 40),
    st.booleans(),
    st.integers(0, 5),
    st.integers(0, 2**40),
)
def test_pairs_never_go_up_in_a_group_and_none_comes_twice(
    sizes, pairs_per_group, balance, epoch, seed
):
    num_sites = np.random.default_rng(seed).integers(1, 4, len(sizes))
    made = columns(sizes, num_sites=num_sites, seed=seed)
    sampler = build_sampler(
        **made, seed=seed, pairs_per_group=pairs_per_group, balance_num_sites=balance
    )
    drawn = sampler.epoch(epoch)
    source, target = drawn.T
    np.testing.assert_array_equal(made["group"][source], made["group"][target])
    assert np.all(made["energy"][source] >= made["energy"][target])
    # Equal energies are ordered too: of two structures only one can be the source.
    rank = ranks(made)
    assert np.all(rank[source] > rank[target])
    assert len({tuple(pair) for pair in drawn.tolist()}) == len(drawn) == len(sampler)


@hypothesis.given(sizes_strategy, st.floats(2, 40), st.integers(0, 3))
def test_each_group_gives_its_quota_rounded_down_or_up(sizes, pairs_per_group, seed):
    sampler, made = build(sizes, seed=seed, pairs_per_group=pairs_per_group)
    found = counts_by_kind(sampler.epoch(seed), made)
    for count, capacity in zip(found, capacities(sizes), strict=True):
        quota = np.minimum(pairs_per_group / 2, capacity)
        assert np.all(count >= np.floor(quota)) and np.all(count <= np.ceil(quota))
        assert quota.sum() - 1 - 1e-6 < count.sum() <= quota.sum() + 1e-6


def test_both_kinds_are_drawn_in_equal_numbers():
    sampler, made = build([7, 9, 12, 30, 8])
    lowest, non_lowest = counts_by_kind(sampler.epoch(0), made)
    # Quotas of 2.5 in 5 groups: 12.5 pairs.
    assert lowest.sum() == non_lowest.sum() == 12


def test_the_smaller_kind_is_used_up_and_not_padded():
    sampler, made = build([2, 3, 3, 20], pairs_per_group=8)
    for epoch in range(20):
        lowest, non_lowest = counts_by_kind(sampler.epoch(epoch), made)
        assert lowest.tolist() == [1, 2, 2, 4]
        assert non_lowest.tolist() == [0, 1, 1, 4]


def test_groups_of_two_give_lowest_energy_pairs_only():
    sampler, made = build([2] * 6)
    lowest, non_lowest = counts_by_kind(sampler.epoch(0), made)
    assert lowest.tolist() == [1] * 6 and non_lowest.sum() == 0


def test_full_quotas_take_every_pair_of_every_group():
    sizes = [1, 2, 3, 5, 8]
    sampler, made = build(sizes, pairs_per_group=1e300)
    expected = set()
    rank = ranks(made)
    for one, other in itertools.permutations(range(len(made["group"])), 2):
        if made["group"][one] == made["group"][other] and rank[one] > rank[other]:
            expected.add((one, other))
    assert {tuple(pair) for pair in sampler.epoch(0).tolist()} == expected


def test_no_group_exceeds_its_limit():
    sampler, made = build([40, 3, 7, 25, 2] * 20)
    for epoch in range(20):
        for count in counts_by_kind(sampler.epoch(epoch), made):
            assert count.max() == 3  # ⌈5/2⌉


def test_groups_give_pairs_per_group_on_average():
    num_epochs = 400
    sampler, made = build([8, 20, 7, 31, 9, 12])
    totals = np.zeros(6)
    for epoch in range(num_epochs):
        totals += np.bincount(made["group"][sampler.epoch(epoch)[:, 0]], minlength=6)
    # A group's count in an epoch has a standard deviation of 0.5 √2; the bound is 5 of
    # the mean's.
    np.testing.assert_allclose(totals / num_epochs, 5, atol=5 * 0.71 / num_epochs**0.5)


@pytest.mark.usefixtures("unchecked")
def test_quotas_below_one_pair_take_groups_in_turn():
    sampler, made = build([7] * 10, pairs_per_group=0.6)
    assert len(sampler) == 6
    totals = np.zeros((2, 10))
    for epoch in range(400):
        totals += counts_by_kind(sampler.epoch(epoch), made)
    np.testing.assert_allclose(totals / 400, 0.3, atol=5 * (0.3 * 0.7 / 400) ** 0.5)


@pytest.mark.usefixtures("unchecked")
def test_unequal_quotas_are_kept_on_average():
    # Weights 2/3 and 2 make quotas of 1/6 and 1/2 of each kind.
    num_sites = [2, 2, 2, 3]
    sampler, made = build(
        [7] * 4, num_sites=num_sites, pairs_per_group=0.5, balance_num_sites=True
    )
    assert len(sampler) == 2
    totals = np.zeros((2, 4))
    for epoch in range(1000):
        totals += counts_by_kind(sampler.epoch(epoch), made)
    expected = np.array([[1 / 6, 1 / 6, 1 / 6, 1 / 2]] * 2)
    np.testing.assert_allclose(totals / 1000, expected, atol=5 * 0.5 / 1000**0.5)


def test_any_groups_can_give_one_pair_more_together():
    sampler, made = build([7] * 4, pairs_per_group=1)
    found = {
        tuple(np.flatnonzero(counts_by_kind(sampler.epoch(epoch), made)[0]).tolist())
        for epoch in range(100)
    }
    assert found == set(itertools.combinations(range(4), 2))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("count", [3, 8])
def test_sets_of_non_lowest_pairs_are_equally_likely(count):
    # A group of 6 has 10 non-lowest pairs; with 8 of them it is those left out
    # that are drawn.
    sampler, made = build([6, 50], pairs_per_group=2 * count)
    rank, found = ranks(made), {}
    for epoch in range(1500):
        drawn = sampler.epoch(epoch)
        drawn = drawn[(made["group"][drawn[:, 0]] == 0) & (rank[drawn[:, 1]] > 0)]
        chosen = frozenset(tuple(pair) for pair in rank[drawn].tolist())
        found[chosen] = found.get(chosen, 0) + 1
    num_sets = math.comb(10, count)
    frequencies = [*found.values(), *[0] * (num_sets - len(found))]
    assert len(frequencies) == num_sets
    assert scipy.stats.chisquare(frequencies).pvalue > 1e-3


@pytest.mark.usefixtures("unchecked")
def test_lowest_energy_sources_are_equally_likely():
    sampler, made = build([9, 5])
    source, totals = ranks(made), np.zeros(9)
    for epoch in range(1500):
        drawn = sampler.epoch(epoch)
        rank = source[drawn[made["group"][drawn[:, 0]] == 0]]
        totals += np.bincount(rank[rank[:, 1] == 0, 0], minlength=9)
    assert totals[0] == 0
    assert scipy.stats.chisquare(totals[1:]).pvalue > 1e-3


def test_kinds_are_mixed():
    sampler, made = build([20] * 200)
    is_lowest = ranks(made)[sampler.epoch(0)[:, 1]] == 0
    halves = (
        is_lowest[: len(sampler) // 2].mean(),
        is_lowest[len(sampler) // 2 :].mean(),
    )
    np.testing.assert_allclose(halves, 0.5, atol=0.1)


@pytest.mark.parametrize("count", [5000, 15_000])
def test_thousands_of_pairs_of_one_group(count):
    # Of 19,701 non-lowest pairs, less and more than half.
    sampler, made = build([200, 3], pairs_per_group=2 * count)
    drawn = sampler.epoch(0)
    lowest, non_lowest = counts_by_kind(drawn, made)
    assert lowest.tolist() == [199, 2] and non_lowest.tolist() == [count, 1]
    assert len(np.unique(drawn, axis=0)) == len(drawn)


def test_numbers_of_pairs_become_ranks():
    expected = [(i, j) for i in range(2, 60) for j in range(1, i)]
    source, target = pairs._rank_pair(np.arange(len(expected)))
    assert list(zip(source.tolist(), target.tolist(), strict=True)) == expected


@hypothesis.given(st.integers(2, 2**31), st.integers(-2, 2))
def test_numbers_of_pairs_become_ranks_in_huge_groups(rank, change):
    number = max(0, (rank - 1) * (rank - 2) // 2 + change)
    (source,), (target,) = pairs._rank_pair(np.array([number]))
    i, j = int(source), int(target)
    assert i > j > 0
    assert (i - 1) * (i - 2) // 2 + j - 1 == number


def test_all_epochs_are_as_long_as_the_sampler_says():
    rng = np.random.default_rng(0)
    sizes, num_sites = rng.integers(1, 30, 101), rng.integers(1, 9, 101)
    for options in ({}, {"balance_num_sites": True}, {"pairs_per_group": 3.3}):
        sampler, _ = build(sizes, num_sites=num_sites, **options)
        lengths = {len(sampler.epoch(epoch)) for epoch in range(50)}
        assert lengths == {len(sampler)}


def test_epochs_depend_on_the_seed_and_their_number_alone():
    sampler, _ = build([7, 12, 30])
    drawn = [sampler.epoch(epoch) for epoch in range(9)]
    again, _ = build([7, 12, 30])
    np.testing.assert_array_equal(again.epoch(7), drawn[7])
    other, _ = build([7, 12, 30], seed=1)
    assert other.epoch(7).tolist() != drawn[7].tolist()
    assert len({epoch.tobytes() for epoch in drawn}) == 9


def test_order_of_indices_does_not_matter():
    made = columns([7, 12, 30])
    turned = made | {"indices": made["indices"][::-1]}
    one, other = (build_sampler(**c, seed=0) for c in (made, turned))
    np.testing.assert_array_equal(one.epoch(0), other.epoch(0))


def pairs_by_num_sites(sampler, made, num_epochs=100):
    drawn = np.concatenate([sampler.epoch(epoch) for epoch in range(num_epochs)])
    return np.bincount(made["num_sites"][drawn[:, 0]]) / num_epochs


def test_balancing_takes_each_number_of_sites_equally_often():
    num_sites = [2] * 60 + [3] * 30 + [4] * 10
    plain, made = build([30] * 100, num_sites=num_sites)
    balanced, _ = build([30] * 100, num_sites=num_sites, balance_num_sites=True)
    assert len(plain) == len(balanced) == 500
    np.testing.assert_allclose(
        pairs_by_num_sites(plain, made)[2:], [300, 150, 50], rtol=0.01
    )
    np.testing.assert_allclose(
        pairs_by_num_sites(balanced, made)[2:], 500 / 3, rtol=0.01
    )


@pytest.mark.parametrize("balance_num_sites", [False, True])
def test_samplers_by_size_take_what_one_takes_of_all(balance_num_sites):
    num_sites = [2] * 60 + [3] * 30 + [4] * 10
    made = columns([30] * 100, num_sites=num_sites)
    options = {"seed": 0, "balance_num_sites": balance_num_sites}
    whole = build_sampler(**made, **options)
    parts = pairs.build_pair_samplers(**made, **options, site_limits=(1, 2, 4, 9))
    counts = [pairs_by_num_sites(part, made, 20) for part in parts if len(part)]
    assert [len(part) > 0 for part in parts] == [False, True, True, False]
    assert [np.flatnonzero(count).tolist() for count in counts] == [[2], [3, 4]]
    together = np.pad(counts[0], (0, 2)) + counts[1]
    expected = pairs_by_num_sites(whole, made, 20)
    np.testing.assert_allclose(together[2:], expected[2:], rtol=0.05)


def test_balancing_takes_no_more_than_there_are():
    num_sites = [2] * 99 + [3]
    sampler, made = build([10] * 99 + [4], num_sites=num_sites, balance_num_sites=True)
    lowest, non_lowest = counts_by_kind(sampler.epoch(0), made)
    assert (lowest[-1], non_lowest[-1]) == (3, 3)


def test_balancing_counts_groups_that_have_pairs():
    # Without the groups of one structure, the numbers of sites are equally frequent.
    num_sites = [2] * 50 + [2] * 5 + [3] * 5
    sizes = [1] * 50 + [20] * 10
    balanced, _ = build(sizes, num_sites=num_sites, balance_num_sites=True)
    plain, _ = build(sizes, num_sites=num_sites)
    np.testing.assert_array_equal(balanced.epoch(3), plain.epoch(3))


def test_quotas_that_add_up_to_whole_pairs_lose_none_to_rounding():
    for few, many in itertools.product(range(1, 12), repeat=2):
        num_sites = [2] * few + [3] * many
        sampler, _ = build(
            [60] * len(num_sites),
            num_sites=num_sites,
            pairs_per_group=2,
            balance_num_sites=True,
        )
        assert len(sampler) == 2 * len(num_sites)


def test_only_structures_of_the_split_are_drawn():
    made = columns([20] * 30)
    made["indices"] = np.flatnonzero(np.random.default_rng(1).random(600) < 0.3)
    sampler = build_sampler(**made, seed=0)
    drawn = np.concatenate([sampler.epoch(epoch) for epoch in range(20)])
    assert np.isin(drawn, made["indices"]).all()
    # The lowest of a group is the lowest within the split.
    lowest, non_lowest = counts_by_kind(drawn, made)
    assert lowest.sum() > 0 and non_lowest.sum() > 0
    del made["num_sites"]
    assert np.isin(pairs.lowest_energy_pairs(**made, seed=0), made["indices"]).all()


def test_no_formula_is_in_training_and_in_validation_pairs():
    # Cell formulas of one reduced formula are several groups on one side.
    reduced = [
        f"{a}1{b}{n}" for a in ("Ag", "Au") for b in ("Cu", "Ni") for n in (1, 2)
    ]
    formula_of_group = np.repeat(np.arange(8), 3)
    made = columns([6] * 24)
    formula = np.array(reduced)[formula_of_group[made["group"]]]
    sides = splits.split_by_formula(formula.tolist(), {"val": 0.3}, seed=0)
    train, val = (
        np.flatnonzero(sides == datasets.SPLITS.index(name))
        for name in ("train", "val")
    )
    sampler = build_sampler(**made | {"indices": train}, seed=0)
    training = np.concatenate([sampler.epoch(epoch) for epoch in range(20)])
    del made["num_sites"]
    validation = pairs.lowest_energy_pairs(
        **made | {"indices": val}, seed=0, pairs_per_group=None
    )
    trained, held_out = set(formula[training.ravel()]), set(formula[validation.ravel()])
    assert trained and held_out
    assert not trained & held_out


def test_validation_takes_one_lowest_energy_pair_of_each_group():
    made = validation_columns([1, 2, 7, 30])
    found = pairs.lowest_energy_pairs(**made, seed=0)
    rank = ranks(made)
    assert np.all(rank[found[:, 1]] == 0) and np.all(rank[found[:, 0]] > 0)
    group = made["group"][found]
    np.testing.assert_array_equal(group[:, 0], group[:, 1])
    assert sorted(group[:, 0].tolist()) == [1, 2, 3]


def test_validation_pairs_are_sorted_and_fixed_by_the_seed():
    made = validation_columns([30] * 9)
    one, again, other = (
        pairs.lowest_energy_pairs(**made, seed=seed, pairs_per_group=3).tolist()
        for seed in (0, 0, 1)
    )
    assert one == again != other
    assert one == sorted(one, key=lambda pair: (pair[1], pair[0]))


@pytest.mark.parametrize(("limit", "expected"), [(3, 1 + 3 + 3), (None, 1 + 6 + 29)])
def test_validation_takes_up_to_the_limit(limit, expected):
    made = validation_columns([2, 7, 30])
    found = pairs.lowest_energy_pairs(**made, seed=0, pairs_per_group=limit)
    assert len(found) == len(np.unique(found, axis=0)) == expected


def test_of_equal_energies_the_first_structure_is_the_lowest():
    made = validation_columns([5]) | {"energy": np.zeros(5, np.float32)}
    found = pairs.lowest_energy_pairs(**made, seed=0, pairs_per_group=None)
    assert found.tolist() == [[1, 0], [2, 0], [3, 0], [4, 0]]


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf")])
def test_impossible_numbers_of_pairs_are_refused(value):
    with pytest.raises(ValueError, match=r"pairs_per_group is .* above 0"):
        build([7, 7], pairs_per_group=value)


def test_validation_without_pairs_is_refused():
    with pytest.raises(ValueError, match="pairs_per_group is 0; expected 1 or more"):
        pairs.lowest_energy_pairs(**validation_columns([7]), seed=0, pairs_per_group=0)


def test_an_epoch_without_pairs_is_refused():
    with pytest.raises(ValueError, match=r"pairs_per_group=0\.5 makes no whole pair"):
        build([7, 7], pairs_per_group=0.5)


@pytest.mark.parametrize("num_chosen", [0, 3])
def test_splits_without_polymorphs_are_refused(num_chosen):
    made = columns([1, 1, 1]) | {"indices": np.arange(num_chosen)}
    with pytest.raises(ValueError, match=r"no polymorphs among .*min_group_size"):
        build_sampler(**made, seed=0)
    del made["num_sites"]
    with pytest.raises(ValueError, match="no polymorphs"):
        pairs.lowest_energy_pairs(**made, seed=0)


# ------------------------------------------------------------------------------ reading
@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "alloys"
    tiny.write_dataset(path)
    return datasets.open_dataset(path)


def sampler_of(dataset, seed=3):
    return build_sampler(
        group=dataset.group,
        energy=dataset.formation_energy,
        num_sites=dataset.num_sites,
        indices=dataset.indices("train"),
        seed=seed,
    )


def test_gathered_pairs_are_targets_with_their_sources(dataset):
    drawn = sampler_of(dataset).epoch(0)[:24].reshape(2, 12, 2)
    batch = pairs.gather_pairs(dataset, drawn, 6)
    assert batch.source.frac_coords.shape == (2, 12, 6, 3)
    for where in np.ndindex(2, 12):
        source, target = (datasets.crystal(dataset, int(i)) for i in drawn[where])
        n = target.num_sites
        np.testing.assert_array_equal(source.atomic_numbers, target.atomic_numbers)
        np.testing.assert_array_equal(
            batch.atomic_numbers[where][:n], target.atomic_numbers
        )
        for cells, crystal in ((batch, target), (batch.source, source)):
            np.testing.assert_allclose(
                cells.frac_coords[where][:n], crystal.frac_coords, atol=1e-6
            )
            np.testing.assert_allclose(cells.lattice[where], crystal.lattice, rtol=1e-6)
        energy = dataset.formation_energy[drawn[where]]
        assert batch.energy[where] == pytest.approx(energy[1] - energy[0], abs=1e-6)
        assert batch.energy[where] <= 0


def test_pipeline_of_pairs_goes_on_where_another_stopped(dataset):
    sampler = sampler_of(dataset)
    source = pipeline.ShuffledBatches(
        sampler,
        lambda items: pairs.gather_pairs(dataset, items, 6),
        batch_size=8,
        steps_per_dispatch=2,
        num_steps=60,
    )
    stream = np.concatenate([source.items_of(i).reshape(-1, 2) for i in range(30)])
    for epoch in range(len(stream) // len(sampler)):
        start = epoch * len(sampler)
        np.testing.assert_array_equal(
            stream[start : start + len(sampler)], sampler.epoch(epoch)
        )
    assert len(stream) > 3 * len(sampler)
    one = pipeline.build_iterator(source)
    for _ in range(7):
        next(one)
    other = pipeline.build_iterator(source)
    other.set_state(one.get_state())
    for _ in range(5):
        a, b = next(one), next(other)
        np.testing.assert_array_equal(a.energy, b.energy)
        np.testing.assert_array_equal(a.source.lattice, b.source.lattice)
