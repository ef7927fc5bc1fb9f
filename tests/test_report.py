import json
import subprocess
import sys

import numpy as np
import pytest

from crystaljax.crystals import elements, structure
from crystaljax.data import columnar, figures, report


def columns(formulas, space_groups, energies):
    """Sites of a structure at x = 0, 0.1, …, y = 0.55 and z = 0.999."""
    crystals = []
    for formula in formulas:
        numbers = elements.formula_atomic_numbers(formula)
        coords = np.full((len(numbers), 3), [0, 0.55, 0.999])
        coords[:, 0] = np.arange(len(numbers)) / 10
        crystals.append(structure.Crystal(numbers, coords, 4 * np.eye(3)))
    ids = [str(index) for index in range(len(formulas))]
    return columnar.columns_from_crystals(
        ids, formulas, crystals, space_groups, energies
    )


@pytest.fixture
def described():
    made = columns(
        ["Au1Cu3", "Au1Cu3", "Cu2", "Ag1Cu1", "Au1Cu3"],
        [221, 139, 225, 2, 221],
        [0.0, 0.5, -1.5, 0.25, 0.1],
    )
    return report.describe(made, np.array([0, 0, 0, 1, 0], np.int8))


def test_what_there_is(described):
    assert described["num_kept"] == 5
    assert described["num_groups"] == 3
    assert (described["smallest_group"], described["largest_group"]) == (1, 3)
    assert described["sites"] == [2, 4]
    assert described["formation_energy"] == [-1.5, 0.5]
    assert described["elements"] == ["Cu", "Ag", "Au"]
    assert described["space_groups"] == [2, 139, 221, 225]
    assert described["splits"] == {"train": 4, "val": 1, "test": 0}
    assert described["split_groups"] == {"train": 2, "val": 1, "test": 0}
    assert described["split_elements"] == {"train": 2, "val": 2, "test": 0}


def test_imbalance_of_the_sides(described):
    # Training: Cu 4/7, Au 3/7; validation: Cu 1/2, Ag 1/2.
    np.testing.assert_allclose(
        described["element_imbalance"]["val"], abs(4 / 7 - 1 / 2) + 3 / 7 + 1 / 2
    )
    assert described["element_imbalance"]["test"] is None


def test_histograms(described):
    histograms = described["histograms"]
    assert histograms["sites"] == {"2": 2, "4": 3}
    assert histograms["group_sizes"] == {"1": 2, "3": 1}
    assert histograms["elements"] == {"Cu": 5, "Ag": 1, "Au": 3}
    assert histograms["space_groups"] == {"2": 1, "139": 1, "221": 2, "225": 1}
    coords = {
        axis: {place: num for place, num in enumerate(counts) if num}
        for axis, counts in histograms["frac_coords"].items()
    }
    assert coords["x"] == {0: 5, 5: 5, 10: 3, 15: 3}
    assert coords["y"] == {27: 16}
    assert coords["z"] == {49: 16}
    energies = histograms["formation_energy"]
    assert (len(energies["edges"]), len(energies["counts"])) == (51, 50)
    assert sum(energies["counts"]) == 5
    assert (energies["counts"][0], energies["counts"][-1]) == (1, 1)


def test_blocks_change_nothing(described, monkeypatch):
    rng = np.random.default_rng(0)
    coords = rng.random((1000, 3), dtype=np.float32)
    whole = report._count_coordinates(coords)
    monkeypatch.setattr(report, "_BLOCK_ROWS", 33)
    np.testing.assert_array_equal(report._count_coordinates(coords), whole)
    expected, _ = np.histogram(coords[:, 1], report.NUM_BINS, (0, 1))
    np.testing.assert_array_equal(whole[1], expected)


def test_report_is_json(described):
    assert json.loads(json.dumps(described, allow_nan=False)) == described


def test_text(described):
    read = {
        "num_read": 9,
        "failed": {"too dense": {"count": 1, "examples": []}},
        "left_out": {"Hubbard U": 3},
        "dropped": {"drop_duplicates": 2, "min_element_share": 1},
    }
    lines = report.format_report(read | described).splitlines()
    text = dict(line.split("  ", 1) for line in map(str.strip, lines))
    text = {label: value.strip() for label, value in text.items()}
    assert text["structures read"] == "9"
    assert text["failed: too dense"] == "1"
    assert text["left out: Hubbard U"] == "3"
    assert text["dropped by --drop_duplicates"] == "2"
    assert text["dropped by --min_element_share"].startswith("1 (shares counted once")
    assert text["structures kept"] == "5"
    assert text["polymorph groups (same cell formula)"] == "3"
    assert (text["smallest"], text["largest"]) == ("1", "3")
    assert text["atoms per cell"] == "2 to 4"
    assert text["elements"] == "3: Cu, Ag, Au"
    assert text["space groups"] == "4: 2, 139, 221, 225"
    assert text["train"] == "4 structures, 2 groups, 2 elements"
    assert text["val"].startswith("1 structures, 1 groups, 2 elements; frequencies")
    assert len({line.find("  ", 2) >= 0 for line in lines}) == 1


def test_figures(described, tmp_path):
    paths = figures.draw(described, tmp_path / "figures")
    assert [path.name for path in paths] == [
        "atoms_per_cell.png",
        "group_sizes.png",
        "elements.png",
        "space_groups.png",
        "coordinates.png",
        "energies.png",
    ]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)


def read_picture(path):
    from matplotlib import image

    return image.imread(path)[..., :3]


def test_figures_of_one_structure_and_of_many(described, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "_DOTS_PER_INCH", 30)
    one = report.describe(columns(["Cu1"], [225], [0.0]), np.zeros(1, np.int8))
    few = [read_picture(path) for path in figures.draw(one, tmp_path)]
    histograms = described["histograms"] | {
        "space_groups": {str(number): number**3 for number in range(1, 231)},
        "group_sizes": {"1": 900, "2": 5, "5000": 1},
        "elements": {name: 10**n for n, name in enumerate(elements.SYMBOLS[:7])},
    }
    changed = ("space_groups", "group_sizes", "elements")
    for path, before in zip(
        figures.draw(described | {"histograms": histograms}, tmp_path), few, strict=True
    ):
        after = read_picture(path)
        assert before.shape == after.shape
        assert min(np.ptp(before), np.ptp(after)) > 0.5, f"{path.name} is blank"
        # What is drawn is what was counted; a title tells the number of structures.
        middle = np.s_[before.shape[0] // 4 :]
        is_other = bool((after[middle] != before[middle]).any())
        assert is_other or path.stem not in changed, path.name


def test_places_in_the_periodic_table():
    places = {
        name: figures._place_in_table(number)
        for number, name in enumerate(elements.SYMBOLS, start=1)
    }
    assert len(set(places.values())) == elements.NUM_ELEMENTS
    some = ("H", "He", "Be", "B", "Sc", "Cu", "Xe", "Ba", "Hf", "Rn", "Ra")
    expected = [(1, 1), (18, 1), (2, 2), (13, 2), (3, 4), (11, 4), (18, 5), (2, 6)]
    assert [places[name] for name in some] == [*expected, (4, 6), (18, 6), (2, 7)]
    assert [places[name][0] for name in ("La", "Lu", "Ac", "Lr")] == [3, 17, 3, 17]


def test_matplotlib_is_imported_for_drawing_alone():
    script = "import sys, crystaljax.data.figures; print('matplotlib' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
