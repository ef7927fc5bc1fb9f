import math
import pathlib
import subprocess
import sys

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from pymatgen.core import Composition, Element

from crystaljax.crystals import elements

REFERENCE = pathlib.Path(__file__).parent / "data" / "reference_element_properties.csv"

counts_strategy = st.dictionaries(
    st.sampled_from(elements.SYMBOLS), st.integers(1, 30), min_size=1, max_size=6
)


def test_symbols_and_atomic_numbers_agree_with_pymatgen():
    assert len(elements.SYMBOLS) == 103
    for number, name in enumerate(elements.SYMBOLS, start=1):
        assert number == Element(name).Z
        assert elements.atomic_number(name) == number
        assert elements.symbol(number) == name


@pytest.mark.parametrize("name", ["", "cu", "Xx", "Rf", "D"])
def test_unknown_symbol_is_an_error(name):
    with pytest.raises(ValueError, match="unknown element"):
        elements.atomic_number(name)


@pytest.mark.parametrize("number", [0, -1, 104])
def test_atomic_number_outside_the_table_is_an_error(number):
    with pytest.raises(ValueError, match="outside 1-103"):
        elements.symbol(number)


@hypothesis.settings(deadline=None)
@hypothesis.given(counts_strategy)
def test_formula_round_trips(counts):
    formula = elements.format_formula(counts)
    parsed = elements.parse_formula(formula)
    assert parsed == counts
    assert list(parsed) == sorted(parsed)
    numbers = elements.formula_atomic_numbers(formula)
    assert numbers.dtype == np.uint8
    assert elements.cell_formula(numbers) == formula


@hypothesis.settings(deadline=None)
@hypothesis.given(counts_strategy, st.integers(1, 9), st.randoms())
def test_reduced_formula_does_not_depend_on_cell_size_or_order(counts, times, random):
    numbers = elements.formula_atomic_numbers(elements.format_formula(counts))
    cell = list(np.repeat(numbers, times))
    random.shuffle(cell)
    reduced = elements.reduced_formula(np.array(cell))
    assert reduced == elements.reduced_formula(numbers)
    assert math.gcd(*elements.parse_formula(reduced).values()) == 1


@hypothesis.settings(deadline=None)
@hypothesis.given(counts_strategy)
def test_anonymous_formula_agrees_with_pymatgen(counts):
    numbers = elements.formula_atomic_numbers(elements.format_formula(counts))
    assert elements.anonymous_formula(numbers) == Composition(counts).anonymized_formula


@pytest.mark.parametrize(
    "formula",
    ["Cu3Au", "Ca(OH)2", "K4(Fe(CN)6)", "Mg3 (PO4)2", "CO", "Co", "NaCl", "((H2)2)3O1"],
)
def test_parse_formula_agrees_with_pymatgen(formula):
    expected = Composition(formula.replace(" ", "")).get_el_amt_dict()
    assert elements.parse_formula(formula) == expected


def test_formula_styles():
    numbers = elements.formula_atomic_numbers("Cu6Au2")
    assert numbers.tolist() == [79] * 2 + [29] * 6
    assert elements.cell_formula(numbers) == "Au2Cu6"
    assert elements.reduced_formula(numbers) == "Au1Cu3"
    assert elements.anonymous_formula(numbers) == "AB3"


@pytest.mark.parametrize(
    ("formula", "problem"),
    [
        ("", "empty"),
        ("  ", "empty"),
        ("Xx2", "unknown element 'Xx'"),
        ("Rf", "unknown element"),
        ("cu", "'c' where an element"),
        ("Cu0", "count '0'"),
        ("Cu0.5Au0.5", "count '0.5'"),
        ("Cu2.", "count '2.'"),
        ("Ca(OH", "not closed"),
        ("CaOH)2", "not opened"),
        ("Ca()2", "empty parentheses"),
        ("Ca(2OH)", "after an opening"),
        ("3Cu", "'3' where"),
        ("Cu-Au", "'-' where"),
        ("Cu²", "'²' where"),
        ("Cu٣", "'٣' where"),
        ("CuSO4·", "nothing between its parts"),
        ("CuSO4··H2O", "nothing between its parts"),
        ("CuSO4 5H2O", "blank between two digits"),
        ("CaSO4·0.5H2O", "count '0.5'"),
        ("Al2O3.2SiO2", "count '3.2'"),
        ("CaSO4.1/2H2O", "count '4.1'"),
        ("CuSO4x5H2O", "'x' where"),
        ("CuSO4.5D2O", "unknown element 'D'"),
        ("Fe(CN]6", "not opened"),
        ("Fe3+", "'+' where"),
        ("Cu1000000000", "1000000000 sites"),
    ],
)
def test_malformed_formula_is_named(formula, problem):
    with pytest.raises(ValueError, match="formula") as error:
        elements.parse_formula(formula)
    assert problem in str(error.value)
    assert repr(formula) in str(error.value)


@hypothesis.settings(deadline=None)
@hypothesis.given(st.text(alphabet="CuAOH()[]0123. ·*", max_size=12))
def test_parse_formula_parses_or_raises_value_error(text):
    try:
        counts = elements.parse_formula(text)
    except ValueError:
        return
    assert all(count > 0 for count in counts.values())


PENTAHYDRATE = {"Cu": 1, "H": 10, "O": 9, "S": 1}


@pytest.mark.parametrize(
    ("formula", "counts"),
    [
        ("CuSO4.5H2O", PENTAHYDRATE),
        ("CuSO4·5H2O", PENTAHYDRATE),
        ("CuSO4•5H2O", PENTAHYDRATE),
        ("CuSO4*5H2O", PENTAHYDRATE),
        ("CuSO4 . 5 H2O", PENTAHYDRATE),
        ("CuSO₄·5H₂O", PENTAHYDRATE),
        ("CuSO4.5(H2O)", PENTAHYDRATE),
        ("CuSO4.(H2O)5", PENTAHYDRATE),
        ("5H2O.CuSO4", PENTAHYDRATE),
        ("Na2CO3.10H2O", {"C": 1, "H": 20, "Na": 2, "O": 13}),
        ("CuCl2.H2O", {"Cl": 2, "Cu": 1, "H": 2, "O": 1}),
        ("NaOH.5H2O", {"H": 11, "Na": 1, "O": 6}),
        ("2CaSO4.H2O", {"Ca": 2, "H": 2, "O": 9, "S": 2}),
        ("Al2O3·2SiO2·2H2O", {"Al": 2, "H": 4, "O": 9, "Si": 2}),
        ("K4[Fe(CN)6].3H2O", {"C": 6, "Fe": 1, "H": 6, "K": 4, "N": 6, "O": 3}),
    ],
)
def test_hydrates(formula, counts):
    assert elements.parse_formula(formula) == counts
    assert elements.parse_amounts(formula) == counts


@pytest.mark.parametrize(
    ("formula", "amounts"),
    [
        ("CaSO4·0.5H2O", {"Ca": 1, "H": 1, "O": 4.5, "S": 1}),
        ("CaSO4.0.5H2O", {"Ca": 1, "H": 1, "O": 4.5, "S": 1}),
        ("Cu0.5Au0.5", {"Au": 0.5, "Cu": 0.5}),
        ("Cu1.5Au2.5", {"Au": 2.5, "Cu": 1.5}),
        ("Cu1.0Au3", {"Au": 3, "Cu": 1}),
        ("Cu0.333Au", {"Au": 1, "Cu": 0.333}),
        ("(CuO)0.5", {"Cu": 0.5, "O": 0.5}),
        ("Li1.2Mn0.54Ni0.13Co0.13O2", {"Li": 1.2, "Mn": 0.54, "O": 2}),
    ],
)
def test_fractions_of_a_composition(formula, amounts):
    found = elements.parse_amounts(formula)
    assert amounts.items() <= found.items()
    with pytest.raises(ValueError, match="count"):
        elements.parse_formula(formula)


@pytest.mark.parametrize(
    "formula", ["Al2O3.2SiO2", "Li1.5NiO2", "Cu.5Au.5", "CaSO4.1/2H2O"]
)
def test_dot_that_can_mean_two_things_is_refused(formula):
    with pytest.raises(ValueError, match="can be a decimal point or stand between"):
        elements.parse_amounts(formula)


def test_reference_properties_are_those_of_the_paper():
    expected = np.loadtxt(REFERENCE, delimiter=",")
    properties = elements.load_element_properties("reference")
    assert properties.dtype == np.float32
    assert len(elements.load_element_property_names("reference")) == 22
    np.testing.assert_allclose(properties, expected, rtol=1e-6, atol=1e-6)


def scaled_columns():
    names = elements.load_element_property_names("scaled")
    columns = elements.load_element_properties("scaled").T
    return dict(zip(names, columns, strict=True))


@pytest.mark.parametrize(
    ("name", "attribute"),
    [
        ("is_noble_gas", "is_noble_gas"),
        ("is_transition_metal", "is_transition_metal"),
        ("is_post_transition_metal", "is_post_transition_metal"),
        ("is_metalloid", "is_metalloid"),
        ("is_alkali", "is_alkali"),
        ("is_alkaline_earth", "is_alkaline"),
        ("is_halogen", "is_halogen"),
    ],
)
def test_scaled_flags_agree_with_pymatgen(name, attribute):
    expected = [getattr(Element(symbol), attribute) for symbol in elements.SYMBOLS]
    np.testing.assert_array_equal(scaled_columns()[name], np.array(expected, float))


def test_scaled_properties_are_standardised_over_known_values():
    reference = elements.load_element_properties("reference")
    scaled = scaled_columns()
    names = elements.load_element_property_names("reference")
    for name, raw in zip(names, reference.T, strict=True):
        if name.startswith("is_") or name.endswith("oxistate"):
            continue
        known = raw != 0
        assert np.mean(scaled[name][known]) == pytest.approx(0, abs=1e-5)
        assert np.std(scaled[name][known]) == pytest.approx(1, abs=1e-5)
        assert np.all(scaled[name][~known] == 0)
        # The scaling keeps the order of the elements.
        assert np.all(np.diff(scaled[name][known][np.argsort(raw[known])]) >= 0)


def test_missing_values_are_marked():
    scaled = scaled_columns()
    neon = elements.atomic_number("Ne") - 1
    copper = elements.atomic_number("Cu") - 1
    marks = [name for name in scaled if name.endswith("_missing")]
    assert {"en_pauling_missing", "group_id_missing"} <= set(marks)
    assert scaled["en_pauling_missing"][neon] == 1
    assert [name for name in marks if scaled[name][copper]] == [
        "mean_anionic_radius_missing"
    ]
    assert np.abs(elements.load_element_properties("scaled")).max() < 6


def test_unknown_form_is_an_error():
    with pytest.raises(ValueError, match="expected one of"):
        elements.load_element_properties("raw")


def test_cached_table_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        elements.load_element_properties("scaled")[0, 0] = 1


def test_covalent_radii_are_complete():
    radii = elements.load_covalent_radii()
    assert radii[elements.atomic_number("H") - 1] == 0.31
    assert radii[elements.atomic_number("Cu") - 1] == 1.32
    assert np.all(radii[95:] == 1.69)
    assert radii.min() > 0.25


def test_import_is_light():
    code = (
        "import sys; from crystaljax.crystals import elements; print("
        "{'jax', 'pymatgen', 'mendeleev', 'ase'} & sys.modules.keys())"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "set()"
