"""Data sets in the standard setting: written, read, gathered, and what goes wrong."""

import dataclasses

import numpy as np
import pytest
import tiny

from crystaljax import prepare
from crystaljax.crystals import orbits, structure
from crystaljax.data import columnar, orbit_table
from crystaljax.data import dataset as datasets
from crystaljax.data import report as reports
from crystaljax.matching import matcher

ROCK_SALT = structure.Crystal(
    np.array([11, 17]),
    np.array([[0.0, 0, 0], [0.5, 0.5, 0.5]]),
    2.8 * (np.ones((3, 3)) - np.eye(3)),
)


def doubled(crystal):
    """A supercell of two cells along a."""
    half = crystal.frac_coords * [0.5, 1, 1]
    return structure.Crystal(
        np.tile(crystal.atomic_numbers, 2),
        np.concatenate([half, half + np.array([0.5, 0, 0])]),
        crystal.lattice * [[2.0], [1], [1]],
    )


def shapeless():
    """Two sites with nothing in common but P1."""
    rng = np.random.default_rng(1)
    lattice = 4 * np.eye(3) + rng.random((3, 3))
    return structure.Crystal(np.array([11, 17, 35]), rng.random((3, 3)), lattice)


def without_volume():
    return structure.Crystal(
        np.array([11, 17]), np.array([[0.0, 0, 0], [0.5, 0.5, 0.5]]), np.zeros((3, 3))
    )


@pytest.fixture
def columns():
    crystals = [ROCK_SALT, doubled(ROCK_SALT), shapeless(), without_volume()]
    return columnar.columns_from_crystals(
        ["rock-salt", "supercell", "shapeless", "bad"],
        ["Na1Cl1", "Na2Cl2", "Na1Cl1Br1", "Na1Cl1"],
        crystals,
        [225, 225, 1, 221],
        [-1.0, -1.0, 0.0, 0.0],
    )


def test_orbits_are_found_counted_and_kept(columns, tmp_path, monkeypatch):
    table, report = orbit_table.find_orbits(
        columns, symprec=0.1, workspace=tmp_path, num_workers=1
    )
    assert table.space_group.tolist()[:3] == [225, 225, 1]
    assert table.num_cells.tolist()[:3] == [1, 2, 1]
    assert report["supercells"] == 1
    assert report["P1"] == 1
    assert report["standardised"] == 3
    assert report["other_group"] == 0
    (failure,) = report["failed"].values()
    assert failure["count"] == 1
    assert failure["examples"][0]["id"] == "bad"
    assert "no standard setting" in failure["examples"][0]["detail"]
    text = reports._format_setting(report)
    assert ("  supercells of the primitive cell", 1) in text
    # The primitive cell of both is the same, and the crystal that was given.
    first, second = table.crystal(0), table.crystal(1)
    assert second.num_sites == first.num_sites == 2
    np.testing.assert_allclose(first.strain, second.strain, atol=1e-4)
    made = matcher.match(orbits.expand(first), ROCK_SALT, [matcher.TOLERANCES["paper"]])
    assert made.rms[0] is not None
    with pytest.raises(IndexError, match="no orbits"):
        table.crystal(3)

    # A second call computes nothing.
    def fail(*_):
        raise AssertionError

    monkeypatch.setattr(orbit_table, "_find_chunk", fail)
    again, same = orbit_table.find_orbits(
        columns, symprec=0.1, workspace=tmp_path, num_workers=1
    )
    assert same == report
    for name, values in dataclasses.asdict(table).items():
        np.testing.assert_array_equal(getattr(again, name), values)


def test_table_comes_back_from_disk_and_is_gathered(columns, tmp_path):
    table, _ = orbit_table.find_orbits(
        columns, symprec=0.1, workspace=tmp_path / "work", num_workers=1
    )
    datasets.write_dataset(
        tmp_path / "data",
        columns,
        np.zeros(4, int),
        {},
        write_more_fn=lambda folder: orbit_table.write_table(folder, table),
    )
    dataset = datasets.open_dataset(tmp_path / "data")
    read = orbit_table.open_table(dataset)
    for name, values in dataclasses.asdict(table).items():
        np.testing.assert_array_equal(getattr(read, name), values)
    batch, anchors = orbit_table.gather(read, np.array([[2, 0], [3, 1]]), 4)
    assert batch.positions.shape == (2, 2, 4)
    expected = orbits.encode([read.crystal(2), read.crystal(0)], 4)
    for name in ("space_group", "atomic_numbers", "positions", "parameters", "strain"):
        np.testing.assert_array_equal(
            getattr(batch, name)[0], getattr(expected, name), err_msg=name
        )
    assert not batch.positions[1, 0].any() and batch.space_group[1, 0] == 0
    assert anchors.shape == (2, 2)
    with pytest.raises(ValueError, match="more than num_orbits=2"):
        orbit_table.gather(read, np.array([2]), 2)


def test_data_set_without_the_setting_says_how_to_get_it(columns, tmp_path):
    tiny.write_dataset(tmp_path / "plain")
    dataset = datasets.open_dataset(tmp_path / "plain")
    with pytest.raises(ValueError, match="--setting=standard"):
        orbit_table.open_table(dataset)
    table, _ = orbit_table.find_orbits(
        columns, symprec=0.1, workspace=tmp_path / "work", num_workers=1
    )
    orbit_table.write_table(tmp_path / "plain", table)
    with pytest.raises(ValueError, match="does not belong"):
        orbit_table.open_table(dataset)
    path = tmp_path / "plain" / orbit_table.TABLE_NAME
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="damaged"):
        orbit_table.open_table(dataset)


def test_prepare_writes_it(tmp_path):
    lines = []
    for crystal, energy in ((ROCK_SALT, -1.0), (shapeless(), 0.0)):
        lattice = " ".join(map(str, crystal.lattice.ravel()))
        lines += [
            str(crystal.num_sites),
            f'Lattice="{lattice}" Properties=species:S:1:pos:R:3 '
            f'formation_energy={energy} pbc="T T T"',
        ]
        symbols = {11: "Na", 17: "Cl", 35: "Br"}
        for number, position in zip(
            crystal.atomic_numbers, crystal.frac_coords @ crystal.lattice, strict=True
        ):
            lines.append(" ".join([symbols[int(number)], *map(str, position)]))
    source = tmp_path / "crystals.extxyz"
    source.write_text("\n".join(lines) + "\n")
    report = prepare.prepare(
        prepare.PrepareOptions(
            source="extxyz",
            input=str(source),
            energy_column="formation_energy",
            output=tmp_path / "data",
            setting="standard",
            figures=False,
            val_fraction=0.0,
            test_fraction=0.0,
        )
    )
    assert report["standard_setting"]["standardised"] == 2
    assert report["standard_setting"]["P1"] == 1
    assert "in the standard setting" in reports.format_report(report)
    dataset = datasets.open_dataset(tmp_path / "data")
    assert len(orbit_table.open_table(dataset)) == 2
    assert dataset.info["report"]["standard_setting"]["P1"] == 1
    # Nothing is left beside the data set.
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "crystals.extxyz",
        "data",
    ]
