"""Conditions: parsing, combining, checking."""

import numpy as np
import pytest

from crystaljax import conditions

VOCABULARY = {
    "elements": ["Cu", "Au"],
    "space_groups": [123, 221],
    "max_sites": 4,
    "formation_energy": [-0.1, 0.1],
}


@pytest.mark.parametrize(
    "text,expected",
    [
        ("0", [0.0]),
        ("-0.3,0.1", [-0.3, 0.1]),
        ("-0.05:0.05:0.01", [round(-0.05 + 0.01 * i, 2) for i in range(11)]),
        ("0.1:-0.1:-0.1", [0.1, 0.0, -0.1]),
        ("1,0:0.2:0.1", [1.0, 0.0, 0.1, 0.2]),
        ("0:0.25:0.1", [0.0, 0.1, 0.2]),
    ],
)
def test_energies_are_values_and_ranges_with_both_ends(text, expected):
    assert conditions.parse_energies(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", "a", "1:2", "1:2:0", "1:2:-1", "nan", "0:1e9:1"])
def test_unreadable_energies_are_named(text):
    with pytest.raises(ValueError, match="energies: "):
        conditions.parse_energies(text)


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


def test_nothing_asked_for_is_refused():
    with pytest.raises(ValueError, match="nothing to sample"):
        conditions.combine([], [1], [0.0], 1, 12)


def test_notes_say_what_lies_outside_training():
    asked = conditions.combine(["Cu4Au4"], [1, 221], [0.0, 0.5], 1, 12)
    notes = " ".join(conditions.outside_training(asked, VOCABULARY))
    assert "never seen" in notes and "50%" in notes and "8 sites" in notes
    asked = conditions.combine(["Cu2Au2"], [221], [0.0], 1, 12)
    assert conditions.outside_training(asked, VOCABULARY) == []
