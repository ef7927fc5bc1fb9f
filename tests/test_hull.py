import matplotlib.figure
import numpy as np
import pytest
from pymatgen.analysis.phase_diagram import PDEntry
from pymatgen.core import Composition

from crystaljax import hull

MODEL = "test model"


def binary_hull():
    # By hand: Cu-Au with a deep AuCu; Au1Cu3 lies above the line Cu-AuCu (-0.05).
    return hull.build_hull(
        [
            ("Cu1Au1", -0.10, "AuCu"),
            ("Cu3Au1", -0.03, "AuCu3"),
            ("Cu1Au1", 0.20, "a worse AuCu"),
        ],
        MODEL,
    )


def above(known, formulas, energies):
    return hull.energy_above_hull(known, formulas, energies, MODEL)


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
    known = hull.build_hull(
        zip(formulas[:half], energies[:half], formulas[:half], strict=True), MODEL
    )
    found = above(known, formulas[half:], energies[half:])
    assert (found < 0).any() and (found > 0).any()
    for formula, energy, value in zip(
        formulas[half:], energies[half:], found, strict=True
    ):
        composition = Composition(formula)
        diagram = hull.phase_diagram(known, composition.chemical_system)
        entry = PDEntry(composition, energy * composition.num_atoms)
        expected = diagram.get_e_above_hull(entry, allow_negative=True)
        assert value == pytest.approx(expected, abs=1e-8)


def test_unknown_system_is_measured_against_the_elements():
    assert above(binary_hull(), ["Ni1Pt1"], [-0.3]) == pytest.approx([-0.3])


def test_nan_energy_stays_nan():
    values = above(binary_hull(), ["Cu1Au1", "Cu1Au1"], [np.nan, 0.0])
    assert np.isnan(values[0]) and values[1] == pytest.approx(0.1)


def test_elements_stay_at_zero():
    known = hull.build_hull([("Cu2", -0.5, "hcp Cu"), ("Cu1Au1", -0.1, "x")], MODEL)
    np.testing.assert_allclose(
        above(known, ["Cu1", "Cu1Au1"], [0.0, -0.1]), 0, atol=1e-12
    )


def test_two_energy_models_do_not_mix():
    with pytest.raises(ValueError, match=r"'PBE'.*'test model'"):
        hull.energy_above_hull(binary_hull(), ["Cu1Au1"], [0.0], "PBE")


def test_entry_without_energy_is_named():
    with pytest.raises(ValueError, match="entry 'bad'"):
        hull.build_hull([("Cu1Au1", float("nan"), "bad")], MODEL)


def test_figure_draws_entries_hull_and_candidates():
    ax = matplotlib.figure.Figure().subplots()
    known = binary_hull()
    formulas = ["Cu1Au3", "Ni1Au1", "Cu1Au1"]
    hull.plot_binary_hull(ax, known, ("Cu", "Au"), formulas, [0.02, 0.0, np.nan])
    entries, candidates = (np.asarray(c.get_offsets()) for c in ax.collections)
    np.testing.assert_allclose(entries, [[0.5, -0.1], [0.25, -0.03], [0.5, 0.2]])
    np.testing.assert_allclose(candidates, [[0.75, 0.02]])
    line = ax.lines[0].get_xydata()
    np.testing.assert_allclose(line, [[0, 0], [0.5, -0.1], [1, 0]])
    assert "test model" in ax.get_title()
