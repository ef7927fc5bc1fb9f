import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from crystaljax.crystals import elements, structure
from crystaljax.data import columnar, duplicates, selection


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


def len_of(formula):
    return len(elements.formula_atomic_numbers(formula))


def one_formula(coords, lattices):
    coords, lattices = np.asarray(coords), np.asarray(lattices)
    formula = f"Cu{coords.shape[1]}"
    return columns([formula] * len(coords), coords=coords % 1, lattices=lattices)


def distinct_by_all_pairs(made):
    # In float32, as the structures are.
    coords = made.frac_coords.reshape(len(made), -1, 3)
    keep = np.ones(len(made), bool)
    for i in range(len(made)):
        change = coords[:i] - coords[i]
        near = np.abs(change - np.round(change)) <= duplicates.TOLERANCE
        cells = np.abs(made.lattice[:i] - made.lattice[i])
        near_cells = np.all(cells <= duplicates.TOLERANCE, axis=(1, 2))
        keep[i] = not np.any(near.all(axis=(1, 2)) & near_cells)
    return keep


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


def test_group_sizes_hold_after_all_other_rules():
    # Without its rare space group, Cu1 is no group of two any more.
    made = columns(["Cu1"] * 2 + ["Cu2"] * 2, space_groups=[1, 2, 2, 2])
    rules = selection.Rules(min_group_size=2, min_space_group_share=0.5)
    keep, dropped = selection.select(made, rules)
    assert keep.tolist() == [False, False, True, True]
    assert list(dropped)[-1] == "min_group_size"
    assert (dropped["min_space_group_share"], dropped["min_group_size"]) == (1, 1)


def test_shares_count_members_of_groups_that_are_dropped_after():
    made = columns(["Au1", "Cu1", "Cu1", "Cu1"])
    rules = selection.Rules(min_element_share=0.25, min_group_size=2)
    _, dropped = selection.select(made, rules)
    assert dropped["min_element_share"] == 0
    assert dropped["min_group_size"] == 1


def test_rules_of_the_paper():
    # Nine groups of sizes around the limits, one of cells that are too small.
    sizes = [6, 7, 8, 70, 71, 72, 30]
    formulas = [f"Cu{number}" for number in (4, 5, 6, 7, 8, 9, 3)]
    names = np.repeat(formulas, sizes).tolist()
    rng = np.random.default_rng(0)
    made = columns(
        [*names, *names[-2:], "Au8"],
        energies=[*rng.uniform(-4, 4, len(names)).tolist(), -5.0, 5.0, 0.0],
        space_groups=[225] * len(names) + [1, 1, 2],
    )
    keep, dropped = selection.select(made, selection.PAPER_RULES)
    assert dropped == {
        "min_sites": 32,
        "max_sites": 0,
        "min_energy": 0,
        "max_energy": 0,
        "drop_duplicates": 0,
        "min_element_share": 1,
        "min_space_group_share": 0,
        "min_group_size": 6,
        "max_group_size": 72,
    }
    left = columnar.filter_columns(made, keep)
    assert np.unique(selection.group_sizes(left)).tolist() == [7, 8, 70, 71]


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
    keep = duplicates.distinct(made)
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
    assert duplicates.distinct(made).tolist() == expected


@hypothesis.given(
    seed=st.integers(0, 1000),
    count=st.integers(1, 200),
    places=st.sampled_from([1, 3, 1000]),
    noise=st.sampled_from([0.0, 0.004, 0.02]),
    cells=st.sampled_from([0.0, 0.02, 1.0]),
)
@hypothesis.settings(max_examples=60)
def test_duplicates_of_one_formula(seed, count, places, noise, cells):
    # Crowds, chains with steps below the tolerance, and coordinates around the period.
    rng = np.random.default_rng(seed)
    coords = rng.integers(0, places, (count, 2, 3)) / places
    coords = coords + noise * rng.standard_normal((count, 2, 3))
    lattices = np.eye(3) * (4 + cells * rng.random((count, 1, 1)))
    made = one_formula(coords, lattices)
    np.testing.assert_array_equal(
        duplicates.distinct(made), distinct_by_all_pairs(made)
    )


def count_comparisons(monkeypatch, made):
    num_pairs = 0
    compare = duplicates._tensors_agree

    def counted(columns, one, other, tolerance):
        nonlocal num_pairs
        num_pairs += len(one)
        return compare(columns, one, other, tolerance)

    monkeypatch.setattr(duplicates, "_tensors_agree", counted)
    return duplicates.distinct(made), num_pairs


@pytest.mark.parametrize("kind", ["same cell", "same length", "noise", "prototypes"])
def test_large_groups_are_not_compared_pair_by_pair(monkeypatch, kind):
    count = 3000
    rng = np.random.default_rng(0)
    coords = rng.random((count, 3, 3))
    lattices = np.broadcast_to(4 * np.eye(3), (count, 3, 3)).copy()
    if kind == "same length":
        lattices[:, 1, 0] = rng.random(count)
        lattices[:, 2, 2] += rng.random(count)
    if kind == "noise":
        coords = 0.5 + 0.001 * rng.standard_normal(coords.shape)
    if kind == "prototypes":
        coords = rng.integers(0, 3, coords.shape) / 3
    keep, num_pairs = count_comparisons(monkeypatch, one_formula(coords, lattices))
    assert num_pairs < 100 * count
    assert keep.sum() == {"noise": 1}.get(kind, keep.sum()) > 0


def test_empty_columns_pass_all_rules():
    made = columnar.columns_from_crystals([], [], [], [], [])
    keep, _ = selection.select(made, selection.PAPER_RULES)
    assert len(keep) == 0


def test_rules_look_at_what_is_left_alone():
    made = columns(["Au1", "Cu1", "Cu2", "Cu2"])
    left = np.array([1, 2])
    assert selection.group_sizes(made, left).tolist() == [1, 1]
    assert selection.has_common_elements(made, 0.9, left).all()
    assert not selection.has_common_elements(made, 0.9)[0]
    assert selection.count_elements(made, left)[29] == 2


def test_blocks_change_nothing(monkeypatch):
    rng = np.random.default_rng(1)
    formulas = rng.choice(["Cu2", "Au3", "Au1Cu1", "Cu1Pt3"], 60).tolist()
    made = columns(formulas, coords=[np.zeros((4, 3))[: len_of(f)] for f in formulas])
    rules = selection.Rules(min_element_share=0.3, min_group_size=1)
    expected = selection.select(made, rules)
    monkeypatch.setattr(columnar, "_BLOCK_SITES", 7)
    keep, dropped = selection.select(made, rules)
    np.testing.assert_array_equal(keep, expected[0])
    assert dropped == expected[1]
    blocks = list(columnar.blocks_of_sites(made, np.arange(60)))
    assert len(blocks) > 10
    taken = np.concatenate([np.arange(60)[block] for block in blocks])
    np.testing.assert_array_equal(taken, np.arange(60))
