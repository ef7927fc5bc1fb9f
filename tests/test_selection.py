import collections

import numpy as np
import pytest

from crystaljax import elements, structure
from crystaljax.data import columnar, selection


def columns(formulas, *, space_groups=None, energies=None, coords=None, lattices=None):
    crystals = []
    for index, formula in enumerate(formulas):
        numbers = elements.formula_atomic_numbers(formula)
        rng = np.random.default_rng(index)
        crystals.append(
            structure.Crystal(
                numbers,
                rng.random((len(numbers), 3)) if coords is None else coords[index],
                4 * np.eye(3) if lattices is None else lattices[index],
            )
        )
    count = len(formulas)
    return columnar.columns_from_crystals(
        [str(index) for index in range(count)],
        formulas,
        crystals,
        space_groups or [1] * count,
        energies or [0.0] * count,
    )


def test_sites_and_energies():
    made = columns(
        ["Cu1", "Cu2", "Cu3", "Cu4", "Cu5"], energies=[0.0, 5.0, -5.0, -4.9, 0.0]
    )
    rules = selection.Rules(min_sites=2, max_sites=4, min_energy=-5.0, max_energy=5.0)
    keep, dropped = selection.select(made, rules)
    assert keep.tolist() == [False, False, False, True, False]
    assert list(dropped) == [
        "min_sites",
        "max_sites",
        "min_energy",
        "max_energy",
        "drop_duplicates",
    ]
    assert dropped == {
        "min_sites": 1,
        "max_sites": 1,
        "min_energy": 1,
        "max_energy": 1,
        "drop_duplicates": 0,
    }


def test_group_sizes():
    made = columns(["Cu1"] * 3 + ["Cu2"] * 2 + ["Au1Cu1"])
    assert selection.group_sizes(made).tolist() == [3, 3, 3, 2, 2, 1]
    rules = selection.Rules(min_group_size=2, max_group_size=2)
    keep, dropped = selection.select(made, rules)
    assert keep.tolist() == [False] * 3 + [True] * 2 + [False]
    assert (dropped["min_group_size"], dropped["max_group_size"]) == (1, 3)


def test_rare_elements_count_structures_not_sites():
    made = columns(["Au8Cu1"] + ["Cu1Pt1"] * 3)
    keep = selection.has_common_elements(made, 0.5)
    assert keep.tolist() == [False, True, True, True]


def test_rare_rules_use_the_counts_before_either():
    # Dropping gold leaves one structure of three in space group 1: still 2 of 4 before.
    made = columns(["Au1", "Cu1", "Cu2", "Cu3"], space_groups=[1, 1, 2, 2])
    rules = selection.Rules(min_element_share=0.5, min_space_group_share=0.5)
    keep, dropped = selection.select(made, rules)
    assert keep.tolist() == [False, True, True, True]
    assert (dropped["min_element_share"], dropped["min_space_group_share"]) == (1, 0)


def test_group_rule_comes_before_rare_space_groups():
    made = columns(["Cu1"] * 2 + ["Cu2"], space_groups=[1, 2, 2])
    rules = selection.Rules(min_group_size=2, min_space_group_share=0.6)
    keep, _ = selection.select(made, rules)
    assert not keep.any()


def test_no_rules_keep_all():
    made = columns(["Cu1", "Cu1"], coords=[np.zeros((1, 3))] * 2)
    keep, dropped = selection.select(made, selection.Rules(drop_duplicates=False))
    assert keep.all()
    assert dropped == {}


def test_duplicates():
    rng = np.random.default_rng(0)
    base = rng.uniform(0.1, 0.9, (2, 3))
    wrapped = np.array([[0.0, 0.5, 0.5], [0.5, 0, 0]])
    cell = 4 * np.eye(3)
    made = columns(
        ["Au1Cu1"] * 6 + ["Au1Pt1"],
        coords=[
            base,
            base + 0.005,
            base + np.array([[0, 0, 0], [0.05, 0, 0]]),
            base,
            wrapped,
            np.where(wrapped == 0, 0.999, wrapped),
            base,
        ],
        lattices=[cell, 1.001 * cell, cell, 1.1 * cell, cell, cell, cell],
    )
    keep = selection.distinct(made)
    assert keep.tolist() == [True, False, True, True, True, False, True]


def test_duplicates_agree_with_comparing_all_pairs():
    rng = np.random.default_rng(0)
    formulas = rng.choice(["Cu2", "Cu3", "Au1Cu1"], 150).tolist()
    coords = [
        rng.integers(0, 2, (len(elements.formula_atomic_numbers(f)), 3)) / 2
        for f in formulas
    ]
    lattices = [np.diag(4 + rng.integers(0, 2, 3) * 0.1) for _ in formulas]
    made = columns(formulas, coords=coords, lattices=lattices)
    expected = [
        not any(
            formulas[i] == formulas[j]
            and np.array_equal(coords[i], coords[j])
            and np.array_equal(lattices[i], lattices[j])
            for j in range(i)
        )
        for i in range(len(formulas))
    ]
    assert selection.distinct(made).tolist() == expected


def test_empty_columns_pass_all_rules():
    made = columnar.concatenate_columns([])
    rules = selection.Rules(1, 9, -1.0, 1.0, True, 1, 9, 0.1, 0.1)
    keep, _ = selection.select(made, rules)
    assert len(keep) == 0


def formulas(count, seed=0):
    rng = np.random.default_rng(seed)
    names = np.array(["Ag", "Au", "Cu", "Ni", "Pd", "Pt"])
    made = []
    for _ in range(count):
        pair = np.sort(rng.choice(names, 2, replace=False))
        made.append(f"{pair[0]}{rng.integers(1, 6)}{pair[1]}{rng.integers(1, 6)}")
    return made


def test_split_keeps_formulas_together_and_hits_the_fractions():
    made = formulas(2000)
    found = selection.split_by_formula(made, {"val": 0.1, "test": 0.2}, seed=0)
    sides = collections.defaultdict(set)
    for formula, side in zip(made, found, strict=True):
        sides[formula].add(side)
    assert all(len(side) == 1 for side in sides.values())
    shares = np.bincount(found, minlength=3) / len(made)
    np.testing.assert_allclose(shares, [0.7, 0.1, 0.2], atol=0.01)


def test_split_depends_on_the_seed_alone_not_on_the_order():
    made = np.array(formulas(300))
    fractions = {"val": 0.1, "test": 0.1}
    found = selection.split_by_formula(made.tolist(), fractions, seed=1)
    again = selection.split_by_formula(made[::-1].tolist(), fractions, seed=1)
    other = selection.split_by_formula(made.tolist(), fractions, seed=2)
    np.testing.assert_array_equal(found, again[::-1])
    assert np.any(found != other)


def test_every_element_stays_in_training():
    # Each element of the second half occurs once.
    singles = [f"{symbol}1" for symbol in elements.SYMBOLS[:40]]
    made = ["Cu1"] * 40 + singles
    found = selection.split_by_formula(made, {"val": 0.4}, seed=0)
    trained = {formula for formula, side in zip(made, found, strict=True) if side == 0}
    assert set(singles) <= trained


def test_whole_file_can_be_a_test_set():
    found = selection.split_by_formula(formulas(50), {"val": 0.0, "test": 1.0}, seed=0)
    assert set(found.tolist()) == {2}


@pytest.mark.parametrize(
    "fractions", [{"val": 0.6, "test": 0.6}, {"val": -0.1}, {"train": 0.5}]
)
def test_bad_fractions_are_refused(fractions):
    with pytest.raises(ValueError, match="fractions"):
        selection.split_by_formula(["Cu1"], fractions, seed=0)
