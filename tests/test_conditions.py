"""Conditions: parsing, combining, checking."""

import numpy as np
import pytest

from crystaljax.sampling import conditions

VOCABULARY = {
    "elements": ["Cu", "Au"],
    "space_groups": [123, 221],
    "max_sites": 4,
    "formation_energy": [-0.1, 0.1],
}


def test_all_and_seen_space_groups():
    assert conditions.parse_space_groups("all", VOCABULARY) == list(range(1, 231))
    assert conditions.parse_space_groups("seen", VOCABULARY) == [123, 221]


@pytest.mark.parametrize("text", ["0", "231", "X-y"])
def test_impossible_space_groups_are_refused(text):
    with pytest.raises(ValueError, match=text):
        conditions.parse_space_groups(text, VOCABULARY)


def test_unseen_elements_and_large_formulas_are_refused():
    with pytest.raises(ValueError, match=r"Zr.*never had"):
        conditions.check_formula("Cu3Zr1", VOCABULARY, 12)
    with pytest.raises(ValueError, match=r"13 sites.*at most 12"):
        conditions.check_formula("Cu12Au1", VOCABULARY, 12)
    conditions.check_formula("Cu11Au1", VOCABULARY, 12)


def test_combinations_are_complete_and_repeated():
    asked = conditions.combine(["CuAu3", "Cu2"], [1, 221], [0.0, 0.1, 0.2], 2, 12)
    assert len(asked) == 2 * 2 * 3 * 2
    rows = list(
        zip(asked.num_sites, asked.space_group, np.round(asked.energy, 3), strict=True)
    )
    assert len(set(rows)) == 12 and all(rows.count(row) == 2 for row in rows)
    # Sites by alphabetical order of the symbols, padded with 0.
    np.testing.assert_array_equal(asked.atomic_numbers[0], [79] * 3 + [29] + [0] * 8)


def test_energies_may_differ_from_formula_to_formula():
    energies = np.array([[0.0, 0.1], [1.0, 1.1], [2.0, 2.1]])
    asked = conditions.combine(["Cu1", "Cu2", "Cu3"], [1, 221], energies, 2, 12)
    expected = [
        (sites, group, energies[sites - 1, k])
        for sites in (1, 2, 3)
        for group in (1, 221)
        for k in (0, 1)
        for _ in range(2)
    ]
    rows = zip(asked.num_sites, asked.space_group, asked.energy, strict=True)
    assert list(rows) == [(a, b, np.float32(c)) for a, b, c in expected]


def test_what_is_not_wanted_is_left_out_and_the_rest_keeps_its_order():
    arguments = (["Cu1", "Cu2", "Cu3"], [1, 2, 221], [0.0, 0.1], 2, 12)
    everything = conditions.combine(*arguments)
    wanted = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 1]], bool)
    asked = conditions.combine(*arguments, wanted=wanted)
    kept = [
        i
        for i in range(len(everything))
        if wanted[
            everything.num_sites[i] - 1, [1, 2, 221].index(everything.space_group[i])
        ]
    ]
    assert len(kept) == 4 * 2 * 2
    for name in ("atomic_numbers", "num_sites", "space_group", "energy"):
        np.testing.assert_array_equal(
            getattr(asked, name), getattr(everything, name)[kept]
        )


def test_more_than_fits_is_refused_with_the_numbers():
    energies = np.zeros((3276, 201))
    with pytest.raises(ValueError, match=r"3,276 formulas.*1,514,494,800 samples"):
        conditions.combine(["Cu1"] * 3276, list(range(1, 231)), energies, 10, 12)


def test_nothing_asked_for_is_refused():
    with pytest.raises(ValueError, match="nothing to sample"):
        conditions.combine([], [1], [0.0], 1, 12)


def test_notes_say_what_lies_outside_training():
    asked = conditions.combine(["Cu4Au4"], [1, 221], [0.0, 0.5], 1, 12)
    notes = " ".join(conditions.outside_training(asked, VOCABULARY))
    assert "never seen" in notes and "50%" in notes and "8 sites" in notes
    asked = conditions.combine(["Cu2Au2"], [221], [0.0], 1, 12)
    assert conditions.outside_training(asked, VOCABULARY) == []


# -------------------------------------------------------------------------- feasibility
FORMULAS = ["B6Ta1W1", "B12Ta2W2", "Cu1"]
GROUPS = [1, 225, 227]
# One formula unit of TaWB6 fills nothing in Fd-3m, two do; one atom fills 225 only.
FEASIBLE = [[True, True, False], [True, True, True], [True, True, False]]


def test_what_cannot_exist_is_marked_and_counted():
    found = conditions.judge_feasibility(FORMULAS, GROUPS, "mark")
    np.testing.assert_array_equal(found.feasible, FEASIBLE)
    assert found.wanted.all()
    (note,) = found.notes
    assert "2 of 9 combinations" in note and "--infeasible=drop" in note
    assert "B6Ta1W1 in 227, Cu1 in 227 (positions of 227: 2, 2, 4, 4 (once" in note
    asked = conditions.combine(FORMULAS, GROUPS, [0.0, 0.1], 3, 20, wanted=found.wanted)
    column = found.columns(2, 3)["feasible"]
    assert len(column) == len(asked) == 54
    infeasible = {
        (int(sites), int(group))
        for sites, group in zip(
            asked.num_sites[~column], asked.space_group[~column], strict=True
        )
    }
    assert infeasible == {(8, 227), (1, 227)} and (~column).sum() == 2 * 6


def test_what_cannot_exist_is_dropped_and_named():
    found = conditions.judge_feasibility(FORMULAS, GROUPS, "drop")
    np.testing.assert_array_equal(found.wanted, FEASIBLE)
    assert found.columns(2, 1)["feasible"].tolist() == [True] * 14
    assert len(found.notes) == 1 and "left out" in found.notes[0]
    found = conditions.judge_feasibility(FORMULAS, [227], "drop")
    assert "2 of 3 formulas, which have none" in found.notes[1]
    assert found.notes[1].endswith("B6Ta1W1, Cu1")
    with pytest.raises(ValueError, match=r"nothing to sample: 1 of 1.*mark"):
        conditions.judge_feasibility(["Cu1"], [227], "drop")


def test_keep_looks_at_nothing():
    found = conditions.judge_feasibility(FORMULAS, GROUPS, "keep")
    assert found.wanted.all() and found.notes == [] and found.columns(2, 3) == {}


def test_feasible_requests_have_no_note():
    found = conditions.judge_feasibility(["Cu2"], [1, 225], "mark")
    assert found.notes == [] and found.columns(1, 1)["feasible"].all()


def test_unknown_ways_with_the_infeasible_are_named():
    with pytest.raises(ValueError, match=r"--infeasible=no; expected one of.*'drop'"):
        conditions.judge_feasibility(FORMULAS, GROUPS, "no")
