import json

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from pymatgen.analysis.phase_diagram import PDEntry
from pymatgen.core import Composition

from crystaljax.hull import convex_hull

MODEL = "test model"


def binary_hull():
    # By hand: Cu-Au with a deep AuCu; Au1Cu3 lies above the line Cu-AuCu (-0.05).
    return convex_hull.build_hull(
        [
            ("Cu1Au1", -0.10, "AuCu"),
            ("Cu3Au1", -0.03, "AuCu3"),
            ("Cu1Au1", 0.20, "a worse AuCu"),
        ],
        MODEL,
    )


def above(known, formulas, energies):
    return convex_hull.energy_above_hull(known, formulas, energies, MODEL)


def test_binary_hull_worked_by_hand():
    formulas = ["Cu3Au1", "Cu1Au1", "Cu1Au1", "Cu1Au3", "Cu1", "Cu6Au2"]
    energies = [-0.03, -0.10, -0.04, 0.01, 0.02, -0.05]
    expected = [0.02, 0.0, 0.06, 0.06, 0.02, 0.0]
    np.testing.assert_allclose(
        above(binary_hull(), formulas, energies), expected, atol=1e-12
    )


def test_candidate_below_the_hull_is_negative_and_changes_no_other():
    alone = above(binary_hull(), ["Cu3Au1"], [-0.02])
    both = above(binary_hull(), ["Cu3Au1", "Cu3Au1"], [-0.02, -0.2])
    np.testing.assert_allclose(both, [alone[0], -0.15], atol=1e-12)


def test_atomic_numbers_and_formula_are_the_same_candidate():
    energies = above(binary_hull(), [[29, 79, 29, 29], "Cu3Au1"], [0.0, 0.0])
    assert energies[0] == energies[1]


def test_several_systems_agree_with_pymatgen():
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 4, (60, 3))
    counts = counts[(counts > 0).sum(axis=1) >= 2]
    formulas = [
        "".join(f"{s}{n}" for s, n in zip(("Ni", "Cu", "Pt"), row, strict=True) if n)
        for row in counts
    ]
    energies = rng.normal(-0.05, 0.1, len(formulas))
    half = len(formulas) // 2
    known = convex_hull.build_hull(
        zip(formulas[:half], energies[:half], formulas[:half], strict=True), MODEL
    )
    found = above(known, formulas[half:], energies[half:])
    assert (found < 0).any() and (found > 0).any()
    for formula, energy, value in zip(
        formulas[half:], energies[half:], found, strict=True
    ):
        composition = Composition(formula)
        diagram = convex_hull.phase_diagram(known, composition.chemical_system)
        entry = PDEntry(composition, energy * composition.num_atoms)
        expected = diagram.get_e_above_hull(entry, allow_negative=True)
        assert value == pytest.approx(expected, abs=1e-8)


def test_unknown_system_is_measured_against_the_elements():
    assert above(binary_hull(), ["Ni1Pt1"], [-0.3]) == pytest.approx([-0.3])


def test_nan_energy_stays_nan():
    values = above(binary_hull(), ["Cu1Au1", "Cu1Au1"], [np.nan, 0.0])
    assert np.isnan(values[0]) and values[1] == pytest.approx(0.1)


def test_elements_stay_at_zero():
    known = convex_hull.build_hull(
        [("Cu2", -0.5, "hcp Cu"), ("Cu1Au1", -0.1, "x")], MODEL
    )
    np.testing.assert_allclose(
        above(known, ["Cu1", "Cu1Au1"], [0.0, -0.1]), 0, atol=1e-12
    )


def test_two_energy_models_do_not_mix():
    with pytest.raises(ValueError, match=r"'PBE'.*'test model'"):
        convex_hull.energy_above_hull(binary_hull(), ["Cu1Au1"], [0.0], "PBE")


def test_entry_without_energy_is_named():
    with pytest.raises(ValueError, match="entry 'bad'"):
        convex_hull.build_hull([("Cu1Au1", float("nan"), "bad")], MODEL)


def test_unknown_element_is_refused():
    with pytest.raises(ValueError, match="unknown element 'Xx'"):
        above(binary_hull(), ["Xx2"], [0.0])
    with pytest.raises(ValueError, match=r"entry 'odd'.*'cu3au'"):
        convex_hull.build_hull([("cu3au", 0.0, "odd")], MODEL)


@hypothesis.given(
    st.lists(
        st.tuples(
            st.dictionaries(
                st.sampled_from(["B", "Ta", "W", "O"]), st.integers(1, 9), min_size=1
            ),
            st.floats(-2, 2),
            st.text(st.characters(codec="utf-8"), max_size=5),
        ),
        max_size=6,
    )
)
def test_hull_round_trips_through_json(rows):
    rows = [
        ("".join(f"{symbol}{count}" for symbol, count in counts.items()), energy, name)
        for counts, energy, name in rows
    ]
    known = convex_hull.build_hull(rows, MODEL)
    found = convex_hull.from_dict(json.loads(json.dumps(convex_hull.to_dict(known))))
    assert found.entries == known.entries
    assert found.energy_model == MODEL


def test_restricted_hull_gives_the_same_numbers():
    rows = [("Cu1Au1", -0.1, "a"), ("Cu1Ni1", -0.2, "b"), ("Ni3Au1", -0.3, "c")]
    rows += [("Cu1Ni1Au1", -0.4, "d"), ("Pt1Au1", -0.5, "e")]
    known = convex_hull.build_hull(rows, MODEL)
    wanted = ["Cu2Au3", "Ni1Au4"]
    few = convex_hull.to_dict(known, wanted)
    assert [entry["id"] for entry in few["entries"]] == ["a", "c"]
    np.testing.assert_array_equal(
        above(convex_hull.from_dict(few), wanted, [0.0, 0.0]),
        above(known, wanted, [0.0, 0.0]),
    )


def test_json_that_is_no_hull_is_refused():
    for value in ({"entries": []}, {"energy_model": "x", "entries": [{"id": "a"}]}):
        with pytest.raises(ValueError, match="expected energy_model, and entries"):
            convex_hull.from_dict(value)


def test_hull_is_loaded_from_a_file(tmp_path):
    path = tmp_path / "known.csv"
    path.write_text("formula,energy,id\nCu1Au1,-0.1,a\nNi1Pt1,-0.2,b\n")
    known = convex_hull.load_hull(str(path), ["Au3Cu1"], energy_model=MODEL)
    assert above(known, ["Au3Cu1"], [0.0]) == pytest.approx([0.05])
    assert [entry.id for entry in known.entries] == ["a"]
