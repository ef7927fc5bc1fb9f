"""Formulas, formula units and chemical systems."""

import collections
import itertools
import math

import hypothesis
import hypothesis.strategies as st
import pytest

from crystaljax.crystals import elements
from crystaljax.sampling import formulas


def test_both_spellings_are_one_formula():
    assert formulas.expand_formulas(["TaWB6", "Ta1W1B6", "B6WTa"]) == ["B6Ta1W1"]


def test_every_formula_has_every_number_of_units():
    assert formulas.expand_formulas(["TaWB6", "Ta1W2B5"], formula_units="1,2") == [
        "B6Ta1W1",
        "B12Ta2W2",
        "B5Ta1W2",
        "B10Ta2W4",
    ]


def test_a_unit_is_the_formula_as_written_and_duplicates_go():
    found = formulas.expand_formulas(["Cu2Au2", "CuAu"], formula_units="1:2,4")
    assert found == ["Au2Cu2", "Au4Cu4", "Au8Cu8", "Au1Cu1"]


@pytest.mark.parametrize("system", ["Cu", "Ta-W", "Ta-W-B", "Ni-Cu-Pd-Ag"])
@pytest.mark.parametrize("max_atoms", [4, 7])
def test_systems_have_all_cells_with_every_element(system, max_atoms):
    symbols = sorted(system.split("-"))
    expected = collections.Counter(
        elements.format_formula(dict(zip(symbols, counts, strict=True)))
        for counts in itertools.product(range(1, max_atoms + 1), repeat=len(symbols))
        if sum(counts) <= max_atoms
    )
    found = formulas.expand_chemical_system(system, max_atoms)
    assert collections.Counter(found) == expected
    sizes = [sum(elements.parse_formula(formula).values()) for formula in found]
    assert sizes == sorted(sizes)


def test_systems_with_formula_units_have_those_only():
    everything = formulas.expand_chemical_system("Ta-W-B", 9)
    for units in ([1], [2], [1, 3]):
        assert formulas.expand_chemical_system("Ta-W-B", 9, units) == [
            formula
            for formula in everything
            if math.gcd(*elements.parse_formula(formula).values()) in units
        ]
    assert "B2Ta2W2" in everything


def test_systems_come_after_formulas_and_add_what_is_new():
    found = formulas.expand_formulas(["Cu9Au", "CuAu"], ["Cu-Au", "Au-Cu"], max_atoms=3)
    assert found == ["Au1Cu9", "Au1Cu1", "Au1Cu2", "Au2Cu1"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "no formulas; expected --formulas"),
        ({"chemical_systems": ["Ta-W-B"]}, "Ta-W-B with max_atoms .none.; expected"),
        ({"formulas": ["Cu"], "max_atoms": 4}, "max_atoms 4; expected both"),
        ({"chemical_systems": ["Ta-W-B"], "max_atoms": 2}, "at least 3, got 2"),
        ({"chemical_systems": ["Ta-Xx"], "max_atoms": 8}, "'Ta-Xx'.*'Xx'.*hyphens"),
        ({"chemical_systems": ["Ta--W"], "max_atoms": 8}, "'Ta--W'.*hyphens"),
        ({"chemical_systems": ["Cu-Cu"], "max_atoms": 8}, "'Cu-Cu' names.*twice"),
        (
            {"chemical_systems": ["H-B-C-N-O"], "max_atoms": 60},
            "5,461,512 cells.*60 atoms; expected at most 100,000: lower max_atoms",
        ),
        (
            {"chemical_systems": ["H-B-C-N", "H-B-C-O"], "max_atoms": 38},
            "B-C-H-N,B-C-H-O have 147,630 cells",
        ),
        (
            {"chemical_systems": ["H-O"], "max_atoms": 5, "formula_units": "3,4"},
            "up to 5 atoms with 3 or 4 formula units",
        ),
    ],
)
def test_what_cannot_be_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        formulas.expand_formulas(**{"formulas": [], **settings})


@pytest.mark.parametrize(
    ("text", "expected"), [("1", [1]), ("1,2", [1, 2]), ("2,1:3", [2, 1, 3])]
)
def test_formula_units_are_values_and_ranges(text, expected):
    assert formulas.parse_formula_units(text) == expected


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "1.5", "1:", "a", "1:2:3", "²", "9" * 9, "3:1", "1,,2"]
)
def test_unreadable_formula_units_are_named(text):
    with pytest.raises(ValueError, match=r"formula_units: .*expected"):
        formulas.parse_formula_units(text)


@hypothesis.given(
    st.lists(st.text(max_size=6) | st.sampled_from(["Cu3Au", "C60"]), max_size=3),
    st.lists(
        st.text(alphabet="AuCTN-, ", max_size=8) | st.sampled_from(["C-N", "Cu-Au-O"]),
        max_size=3,
    ),
    st.text(alphabet="0123456789:,- ", max_size=6) | st.text(max_size=4),
    st.none() | st.integers(-3, 40),
)
def test_any_text_gives_formulas_or_a_value_error(texts, systems, units, max_atoms):
    try:
        found = formulas.expand_formulas(
            texts, systems, formula_units=units, max_atoms=max_atoms
        )
    except ValueError as error:
        assert "expected" in str(error) or "formula" in str(error)
        return
    assert found and len(set(found)) == len(found)
    for formula in found:
        assert elements.format_formula(elements.parse_formula(formula)) == formula
