"""Energies asked for, and what a hull makes of them."""

import math

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.core import Composition

from crystaljax.hull import convex_hull
from crystaljax.sampling import requested_energies

VOCABULARY = {"energy_model": "EMT"}
KNOWN = [("Cu3Au1", -0.04), ("CuAu", -0.06), ("Cu5Au3", 0.2), ("NiAu", 0.1)]


@pytest.fixture
def entries(tmp_path):
    path = tmp_path / "entries.csv"
    rows = [f"{formula},{energy},EMT" for formula, energy in KNOWN]
    path.write_text("\n".join(["formula,formation_energy,energy_model", *rows]) + "\n")
    return str(path)


def plain(text):
    return [energy.value for energy in requested_energies.parse_energies(text)]


# ------------------------------------------------------------------------------ parsing
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", [0.0]),
        ("-0.3,0.1", [-0.3, 0.1]),
        ("-0.05:0.05:0.01", [round(-0.05 + 0.01 * i, 2) for i in range(11)]),
        ("0.1:-0.1:-0.1", [0.1, 0.0, -0.1]),
        ("1,0:0.2:0.1", [1.0, 0.0, 0.1, 0.2]),
        ("0:0.25:0.1", [0.0, 0.1, 0.2]),
        ("0.5:0.5:0.1", [0.5]),
    ],
)
def test_energies_are_values_and_ranges_with_both_ends(text, expected):
    assert plain(text) == pytest.approx(expected)
    assert requested_energies.parse_differences(text) == pytest.approx(expected)
    assert not any(
        energy.above_hull for energy in requested_energies.parse_energies(text)
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hull", [0.0]),
        ("hull+0.05", [0.05]),
        (" hull - 0.2 ", [-0.2]),
        ("hull-0.2:hull:0.1", [-0.2, -0.1, 0.0]),
        ("hull-0.1:hull+.1:5e-2", [-0.1, -0.05, 0.0, 0.05, 0.1]),
        ("Hull:hull-0.1:-0.1", [0.0, -0.1]),
    ],
)
def test_energies_relative_to_the_hull(text, expected):
    assert plain(text) == pytest.approx(expected)
    assert all(energy.above_hull for energy in requested_energies.parse_energies(text))


def test_relative_and_plain_energies_mix_in_a_list():
    found = requested_energies.parse_energies("hull+0.1,-0.3,hull:hull+0.1:0.1")
    assert [each.above_hull for each in found] == [True, False, True, True]
    assert [each.value for each in found] == pytest.approx([0.1, -0.3, 0.0, 0.1])


@pytest.mark.parametrize(
    "text",
    [
        "", "a", "1:2", "1:2:0", "1:2:-1", "nan", "0:1e9:1", "inf", "0:1:1e-320",
        "hulls", "hull0.1", "hull*2", "hull--1", "hull+", "hull+nan", "hull+1e9",
        "0:hull:0.1", "hull:0:0.1", "hull:hull+1:hull", "hull+0.1:hull:0.1",
        "0:1000:0.001", ",".join(["0:1:0.00002"] * 3),
    ],
)  # fmt: skip
def test_unreadable_energies_are_named(text):
    with pytest.raises(ValueError, match=r"energies: .*expected"):
        requested_energies.parse_energies(text)


def test_a_difference_is_not_relative_to_a_hull():
    with pytest.raises(ValueError, match=r"'hull-0\.1'.*expected differences"):
        requested_energies.parse_differences("hull-0.1")


_PIECES = st.sampled_from(
    ["hull", "+", "-", ":", ",", "0.1", "1", "e", "-0.2", " ", "9", "1e-9", "1e308"]
)


@hypothesis.given(st.lists(_PIECES, max_size=9).map("".join) | st.text(max_size=8))
def test_any_text_gives_energies_or_a_value_error(text):
    try:
        found = requested_energies.parse_energies(text)
    except ValueError:
        return
    assert found
    assert all(math.isfinite(np.float32(energy.value)) for energy in found)


@hypothesis.given(st.integers(-50, 50), st.integers(1, 40), st.integers(1, 60))
def test_ranges_relative_to_the_hull_are_shifted_plain_ones(start, step, count):
    ends = f"{start / 100}", f"{(start + step * count) / 100}", f"{step / 100}"
    relative = [f"hull{float(end):+}" for end in ends[:2]]
    found = requested_energies.parse_energies(":".join([*relative, ends[2]]))
    assert [each.value for each in found] == plain(":".join(ends))
    assert len(found) == count + 1


# --------------------------------------------------------------------------------- hull
def test_energies_follow_the_hull_at_each_composition(entries):
    formulas = ["Au1Cu3", "Au2Cu6", "Au3Cu5", "Au1Ni1", "Cu2", "Au1Cu1Ni2"]
    found = requested_energies.resolve_energies(
        "hull,-0.3,hull-0.1:hull+0.1:0.1", formulas, VOCABULARY, hull_spec=entries
    )
    # pymatgen's own hull, from all entries at once.
    diagram = PhaseDiagram(
        [
            *(PDEntry(symbol, 0.0) for symbol in ("Cu", "Au", "Ni")),
            *(PDEntry(f, e * Composition(f).num_atoms) for f, e in KNOWN),
        ]
    )
    expected = [diagram.get_hull_energy_per_atom(Composition(f)) for f in formulas]
    assert expected[0] == pytest.approx(-0.04) and expected[3] == 0
    assert expected[2] == pytest.approx(-0.05), "above the tie line: not an entry of it"
    assert found.values.shape == (6, 5)
    np.testing.assert_allclose(found.values[:, 0], expected, atol=1e-6)
    np.testing.assert_array_equal(found.values[:, 1], -0.3)
    np.testing.assert_allclose(
        found.values[:, 2:], np.add.outer(expected, [-0.1, 0, 0.1]), atol=1e-6
    )
    np.testing.assert_allclose(
        found.above_hull, found.values - np.array(expected)[:, None], atol=1.1e-6
    )


def test_the_note_names_the_energy_model_and_a_difference(entries):
    def note(vocabulary):
        found = requested_energies.resolve_energies(
            "hull", ["Au1Cu3"], vocabulary, hull_spec=entries
        )
        assert len(found.notes) == 1
        return found.notes[0]

    assert "3 entries of EMT, as the training data" in note(VOCABULARY)
    assert "trained on energies of AFLOW (PBE)" in note({"energy_model": "AFLOW (PBE)"})
    assert "is not known" in note({"energy_model": None})
    assert "is not known" in note({})


def test_systems_without_an_entry_are_named(entries):
    found = requested_energies.resolve_energies(
        "hull", ["Ag1", "Au1Cu3", "Ag1Cu1", "Ag2Cu2"], VOCABULARY, hull_spec=entries
    )
    assert "for 2 of 4 formulas, such as Ag1Cu1, no entry" in found.notes[1]
    np.testing.assert_array_equal(found.values[[0, 2, 3], 0], 0)


def test_the_user_names_the_energy_model_where_the_file_does_not(tmp_path):
    path = tmp_path / "entries.csv"
    path.write_text("formula,energy\nCu3Au,-0.1\n")
    arguments = ("hull", ["Au1Cu3"], VOCABULARY)
    with pytest.raises(ValueError, match="energy"):
        requested_energies.resolve_energies(*arguments, hull_spec=str(path))
    found = requested_energies.resolve_energies(
        *arguments, hull_spec=str(path), hull_energy_model="EMT"
    )
    assert found.values[0, 0] == -0.1 and "as the training data" in found.notes[0]


def test_relative_energies_need_a_hull():
    with pytest.raises(ValueError, match=r"'0,hull-0.1'.*--hull=entries.csv"):
        requested_energies.resolve_energies("0,hull-0.1", ["Au1Cu3"], VOCABULARY)


def test_plain_energies_need_none():
    found = requested_energies.resolve_energies(
        "0:0.2:0.1", ["Au1Cu3", "Cu2"], VOCABULARY
    )
    np.testing.assert_allclose(found.values, [[0, 0.1, 0.2]] * 2)
    assert found.above_hull is None and found.notes == []


def test_a_hull_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.csv"):
        requested_energies.resolve_energies(
            "hull", ["Cu2"], VOCABULARY, hull_spec=str(tmp_path / "none.csv")
        )


def test_a_hull_of_many_formulas_is_solved_once_a_composition(entries, monkeypatch):
    calls = []
    plain_energy = convex_hull.hull_energy
    monkeypatch.setattr(
        convex_hull,
        "hull_energy",
        lambda *args: calls.append(args) or plain_energy(*args),
    )
    formulas = [f"Au{i}Cu{3 * i}" for i in range(1, 9)]
    requested_energies.resolve_energies("hull", formulas, VOCABULARY, hull_spec=entries)
    assert len(calls) == 1
