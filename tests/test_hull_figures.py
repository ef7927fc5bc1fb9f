import matplotlib

matplotlib.use("Agg")
import matplotlib.figure
import numpy as np
import pytest

from crystaljax.hull import convex_hull
from crystaljax.hull import figures as hull_figures

MODEL = "test model"
TERNARY = ("Ta", "W", "B")


def binary_hull():
    return convex_hull.build_hull(
        [
            ("Cu1Au1", -0.10, "AuCu"),
            ("Cu3Au1", -0.03, "AuCu3"),
            ("Cu1Au1", 0.20, "a worse AuCu"),
        ],
        MODEL,
    )


def new_axes():
    return matplotlib.figure.Figure().subplots()


def offsets(ax, label):
    (found,) = [c for c in ax.collections if c.get_label() == label]
    return np.asarray(found.get_offsets())


def test_binary_figure_draws_entries_hull_and_candidates():
    ax = new_axes()
    formulas = ["Cu1Au3", "Ni1Au1", "Cu1Au1"]
    hull_figures.plot_binary_hull(
        ax, binary_hull(), ("Cu", "Au"), formulas, [0.02, 0.0, np.nan]
    )
    np.testing.assert_allclose(
        offsets(ax, "known"), [[0.5, -0.1], [0.25, -0.03], [0.5, 0.2]]
    )
    np.testing.assert_allclose(offsets(ax, "candidates"), [[0.75, 0.02]])
    line = ax.lines[0].get_xydata()
    np.testing.assert_allclose(line, [[0, 0], [0.5, -0.1], [1, 0]])
    assert "test model" in ax.get_title()


@pytest.mark.parametrize(
    "elements", [("Cu", "Cu"), ("Cu", "Au", "Cu"), ("Cu",), ("Cu", "Au", "Ni", "Pt")]
)
def test_other_numbers_of_elements_are_refused(elements):
    with pytest.raises(ValueError, match="two different"):
        hull_figures.plot_binary_hull(new_axes(), binary_hull(), elements)


def test_every_candidate_needs_an_energy():
    with pytest.raises(ValueError, match="2 formulas but 1 energies"):
        hull_figures.plot_binary_hull(
            new_axes(), binary_hull(), ("Cu", "Au"), ["Cu1Au1", "Cu2Au1"], [0.0]
        )
