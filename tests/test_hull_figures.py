import itertools

import matplotlib

matplotlib.use("Agg")
import matplotlib.figure
import numpy as np
import pytest
from pymatgen.analysis.phase_diagram import PDEntry, PDPlotter, PhaseDiagram
from pymatgen.core import Composition

from crystaljax import hull, hull_figures

MODEL = "test model"
TERNARY = ("Ta", "W", "B")


def binary_hull():
    return hull.build_hull(
        [
            ("Cu1Au1", -0.10, "AuCu"),
            ("Cu3Au1", -0.03, "AuCu3"),
            ("Cu1Au1", 0.20, "a worse AuCu"),
        ],
        MODEL,
    )


def ternary_hull():
    rows = [("Ta1B1", -0.8, "TaB"), ("Ta1B2", -0.75, "TaB2"), ("W1B1", -0.4, "WB")]
    rows += [("W2B1", -0.35, "W2B"), ("Ta1W1B1", -0.65, "TaWB"), ("Ta1W1", 0.1, "TaW")]
    rows += [("Ta1W1B6", -0.1, "TaWB6"), ("Ta2B2", 0.3, "a worse TaB")]
    return hull.build_hull([*rows, ("Cu1Au1", -1.0, "elsewhere")], MODEL)


def new_axes():
    return matplotlib.figure.Figure().subplots()


def offsets(ax, label):
    (found,) = [c for c in ax.collections if c.get_label() == label]
    return np.asarray(found.get_offsets())


def test_binary_figure_draws_entries_hull_and_candidates():
    ax = new_axes()
    formulas = ["Cu1Au3", "Ni1Au1", "Cu1Au1"]
    hull_figures.plot_hull(
        ax, binary_hull(), ("Cu", "Au"), formulas, [0.02, 0.0, np.nan]
    )
    np.testing.assert_allclose(
        offsets(ax, "known"), [[0.5, -0.1], [0.25, -0.03], [0.5, 0.2]]
    )
    np.testing.assert_allclose(offsets(ax, "candidates"), [[0.75, 0.02]])
    line = ax.lines[0].get_xydata()
    np.testing.assert_allclose(line, [[0, 0], [0.5, -0.1], [1, 0]])
    assert "test model" in ax.get_title()


def test_triangle_has_unit_sides_and_its_centre():
    corners = hull_figures.triangle_positions(
        [Composition(symbol) for symbol in TERNARY], TERNARY
    )
    for one, other in itertools.combinations(corners, 2):
        assert np.linalg.norm(one - other) == pytest.approx(1)
    assert corners[0] == pytest.approx([0, 0]) and corners[1] == pytest.approx([1, 0])
    centre = hull_figures.triangle_positions([Composition("TaWB")], TERNARY)
    np.testing.assert_allclose(centre[0], corners.mean(axis=0))


def test_ternary_figure_draws_known_compounds_where_they_are():
    ax = new_axes()
    hull_figures.plot_hull(ax, ternary_hull(), TERNARY)
    stable = ["Ta", "W", "B", "TaB", "TaB2", "WB", "W2B", "TaWB"]
    expected = hull_figures.triangle_positions(list(map(Composition, stable)), TERNARY)
    found = offsets(ax, "known, on the hull")
    assert sorted(map(tuple, found.round(9))) == sorted(map(tuple, expected.round(9)))
    above = hull_figures.triangle_positions(
        [Composition("TaW"), Composition("TaWB6")], TERNARY
    )
    found = offsets(ax, "known, above it")
    assert sorted(map(tuple, found.round(9))) == sorted(map(tuple, above.round(9)))
    names = {text.get_text() for text in ax.texts}
    assert names == {"Ta", "W", "B", "TaB", "TaB2", "BW", "BW2", "TaBW"}
    assert MODEL in ax.get_title()


def test_tie_lines_are_those_of_pymatgens_own_figure():
    ax = new_axes()
    known = ternary_hull()
    hull_figures.plot_hull(ax, known, TERNARY)
    drawn = {
        frozenset(map(tuple, np.round(line.get_xydata(), 6).tolist()))
        for line in ax.lines
    }
    assert len(drawn) == len(ax.lines)
    # pymatgen's triangle has its corners in another order: compare compositions.
    entries = [PDEntry(Composition(symbol), 0.0) for symbol in TERNARY]
    entries += [
        PDEntry(e.composition, e.formation_energy * e.composition.num_atoms)
        for e in known.entries
        if e.composition.chemical_system != "Au-Cu"
    ]
    diagram = PhaseDiagram(entries)
    lines, stable, _ = PDPlotter(diagram).pd_plot_data
    by_position = {tuple(np.round(p, 6)): e.composition for p, e in stable.items()}
    expected = set()
    for line in lines:
        ends = [by_position[tuple(np.round(p, 6))] for p in zip(*line, strict=True)]
        points = hull_figures.triangle_positions(ends, TERNARY)
        expected.add(frozenset(map(tuple, np.round(points, 6).tolist())))
    assert drawn == expected and len(drawn) > 8


def test_candidates_of_a_ternary_are_coloured_by_energy_above_the_hull():
    ax = new_axes()
    known = ternary_hull()
    formulas = ["Ta1W1B1", "Ta2W2B2", "W1B1", "Cu1Au1", "Ta1B1"]
    energies = [-0.55, -0.70, -0.40, 0.0, np.nan]
    hull_figures.plot_hull(ax, known, TERNARY, formulas, energies)
    (drawn,) = [c for c in ax.collections if c.get_label() == "candidates"]
    # Highest first, so that the lowest of a composition lies on top.
    np.testing.assert_allclose(drawn.get_array(), [0.10, 0.0, -0.05], atol=1e-9)
    expected = hull_figures.triangle_positions(
        [Composition("TaWB"), Composition("WB"), Composition("TaWB")], TERNARY
    )
    np.testing.assert_allclose(drawn.get_offsets(), expected)
    colors = drawn.to_rgba(drawn.get_array())
    np.testing.assert_allclose(colors[2], matplotlib.colors.to_rgba("tab:red"))
    assert not np.allclose(colors[1], colors[2])


def test_ternary_without_known_compounds_is_the_triangle():
    ax = new_axes()
    hull_figures.plot_hull(ax, hull.build_hull([], MODEL), ("Fe", "Cr", "O"))
    assert len(ax.lines) == 3
    assert {text.get_text() for text in ax.texts} == {"Fe", "Cr", "O"}


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        (("Cu", "Cu"), "two different"),
        (("Cu", "Au", "Cu"), "three different"),
        (("Cu",), "expected two or three"),
        (("Cu", "Au", "Ni", "Pt"), "expected two or three"),
    ],
)
def test_other_numbers_of_elements_are_refused(elements, message):
    with pytest.raises(ValueError, match=message):
        hull_figures.plot_hull(new_axes(), binary_hull(), elements)


def test_every_candidate_needs_an_energy():
    with pytest.raises(ValueError, match="2 formulas but 1 energies"):
        hull_figures.plot_hull(
            new_axes(), binary_hull(), ("Cu", "Au"), ["Cu1Au1", "Cu2Au1"], [0.0]
        )
