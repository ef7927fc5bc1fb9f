import collections
import re

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from crystaljax.crystals import elements
from crystaljax.data import split


def binaries(count, seed=0):
    rng = np.random.default_rng(seed)
    names = np.array(["Ag", "Au", "Cu", "Ni", "Pd", "Pt"])
    made = []
    for _ in range(count):
        pair = np.sort(rng.choice(names, 2, replace=False))
        made.append(f"{pair[0]}{rng.integers(1, 6)}{pair[1]}{rng.integers(1, 6)}")
    return made


def sides_of(formulas, sides):
    """Formula → the sides its structures are on."""
    found = collections.defaultdict(set)
    for formula, side in zip(formulas, sides.tolist(), strict=True):
        found[formula].add(side)
    return found


def element_counts(formulas, sides):
    """Structures with each element on each side, (3, 103)."""
    counts = np.zeros((3, elements.NUM_ELEMENTS), int)
    found = collections.Counter(zip(formulas, sides.tolist(), strict=True))
    for (formula, side), num in found.items():
        for symbol in re.findall("[A-Z][a-z]?", formula):
            counts[side, elements.atomic_number(symbol) - 1] += num
    return counts


def test_split_keeps_formulas_together_and_hits_the_fractions():
    made = binaries(2000)
    found = split.split_by_formula(made, {"val": 0.1, "test": 0.2}, seed=0)
    assert all(len(side) == 1 for side in sides_of(made, found).values())
    shares = np.bincount(found, minlength=3) / len(made)
    np.testing.assert_allclose(shares, [0.7, 0.1, 0.2], atol=0.002)


def test_split_depends_on_the_seed_alone_not_on_the_order():
    made = np.array(binaries(300))
    fractions = {"val": 0.1, "test": 0.1}
    found = split.split_by_formula(made.tolist(), fractions, seed=1)
    again = split.split_by_formula(made[::-1].tolist(), fractions, seed=1)
    other = split.split_by_formula(made.tolist(), fractions, seed=2)
    np.testing.assert_array_equal(found, again[::-1])
    assert np.any(found != other)


def test_every_element_stays_in_training():
    # Each element of the second half occurs once.
    singles = [f"{symbol}1" for symbol in elements.SYMBOLS[:40]]
    made = ["Cu1"] * 40 + singles
    found = split.split_by_formula(made, {"val": 0.4}, seed=0)
    trained = {formula for formula, side in zip(made, found, strict=True) if side == 0}
    assert set(singles) <= trained


@pytest.mark.parametrize("seed", range(5))
def test_rare_elements_are_on_every_side(seed):
    # Gold in three formulas of a thousand: one each; silver in two: not in the test.
    made = [f"Cu{i}Ni{j}" for i in range(1, 40) for j in range(1, 40, 2) if i != j]
    made += ["Au1Cu1", "Au1Ni1", "Au2Ni1", "Ag1Cu1", "Ag1Ni1"]
    found = split.split_by_formula(made, {"val": 0.05, "test": 0.05}, seed)
    counts = element_counts(made, found)
    np.testing.assert_array_equal(counts[:, elements.atomic_number("Au") - 1], 1)
    assert counts[:, elements.atomic_number("Ag") - 1].tolist() == [1, 1, 0]


FORMULAS = st.lists(
    st.builds(
        lambda pair, counts: elements.format_formula(
            dict(zip(sorted(pair), counts, strict=True))
        ),
        st.sets(st.sampled_from(elements.SYMBOLS[:12]), min_size=2, max_size=2),
        st.tuples(st.integers(1, 3), st.integers(4, 5)),
    ),
    max_size=60,
)


@hypothesis.given(
    made=FORMULAS,
    val=st.sampled_from([0.0, 0.05, 0.2, 0.5]),
    test=st.sampled_from([0.0, 0.1, 0.5]),
    seed=st.integers(0, 3),
)
@hypothesis.settings(max_examples=60)
def test_split_of_any_formulas(made, val, test, seed):
    found = split.split_by_formula(made, {"val": val, "test": test}, seed)
    assert len(found) == len(made)
    assert all(len(side) == 1 for side in sides_of(made, found).values())
    counts = element_counts(made, found)
    if val + test < 1:
        assert np.all((counts[0] > 0) == (counts.sum(axis=0) > 0))
    elif made:
        assert 0 not in found
    # What elements keep in training may leave less than the share, not more than it
    # by a formula.
    largest = max(collections.Counter(made).values(), default=0)
    if val + test < 1:
        for side, share in ((1, val), (2, test)):
            assert np.sum(found == side) <= share * len(made) + largest / 2


def test_realistic_split_is_balanced():
    # Binaries and ternaries of 55 elements, some 16 times as frequent as others.
    rng = np.random.default_rng(0)
    symbols = np.array(elements.SYMBOLS[2:57])
    log_frequency = -0.7 * np.log(np.arange(1, 56))
    # The largest of these draw without replacement.
    draws = log_frequency + rng.gumbel(size=(25_000, 55))
    picked = symbols[np.argpartition(-draws, 3)[:, :3]]
    counts = rng.integers(1, 8, (25_000, 3))
    counts[:5_000, 2] = 0
    names = {
        "".join(f"{name}{num}" for name, num in sorted(zip(*row, strict=True)) if num)
        for row in zip(picked.tolist(), counts.tolist(), strict=True)
    }
    names = rng.permutation(sorted(names))[:20_000]
    made = np.repeat(names, rng.integers(7, 72, 20_000)).tolist()
    found = split.split_by_formula(made, {"val": 0.05, "test": 0.05}, seed=0)
    shares = np.bincount(found, minlength=3) / len(made)
    np.testing.assert_allclose(shares, [0.9, 0.05, 0.05], atol=1e-4)
    counts = element_counts(made, found)
    assert ((counts > 0).sum(axis=1) == 55).all()
    assert split.element_imbalance(counts[0], counts[1]) < 0.03
    assert split.element_imbalance(counts[0], counts[2]) < 0.03


def test_swaps_beat_chance_on_small_sets():
    made = binaries(400)
    found = split.split_by_formula(made, {"val": 0.1}, seed=0)
    counts = element_counts(made, found)
    random = np.random.default_rng(0).permutation(found)
    by_chance = element_counts(made, random)
    assert split.element_imbalance(*counts[:2]) < 0.05
    assert split.element_imbalance(*by_chance[:2]) > 0.05


def test_imbalance():
    one, other = np.array([1, 1, 2]), np.array([2, 0, 2])
    assert split.element_imbalance(one, 3 * one) == 0
    np.testing.assert_allclose(split.element_imbalance(one, other), 0.5)
    disjoint = np.array([0, 1, 0]), np.array([3, 0, 4])
    np.testing.assert_allclose(split.element_imbalance(*disjoint), 2)
    with pytest.raises(ValueError, match="no structures"):
        split.element_imbalance(one, 0 * one)


def test_whole_file_can_be_a_test_set():
    found = split.split_by_formula(binaries(50), {"val": 0.0, "test": 1.0}, seed=0)
    assert set(found.tolist()) == {2}


def test_validation_and_test_can_be_all():
    made = binaries(500)
    found = split.split_by_formula(made, {"val": 0.3, "test": 0.7}, seed=0)
    shares = np.bincount(found, minlength=3) / len(made)
    np.testing.assert_allclose(shares, [0, 0.3, 0.7], atol=0.01)


@pytest.mark.parametrize(
    "fractions",
    [{"val": 0.6, "test": 0.6}, {"val": -0.1}, {"train": 0.5}, {"val": float("nan")}],
)
def test_bad_fractions_are_refused(fractions):
    with pytest.raises(ValueError, match="fractions"):
        split.split_by_formula(["Cu1"], fractions, seed=0)
