"""Known crystals, relaxed with the screening's own calculator, are its hull."""

import gzip
import json

import group_crystals
import numpy as np
import pytest
import tiny

from crystaljax import screen
from crystaljax.crystals import elements, structure, structure_files
from crystaljax.data import dataset as datasets
from crystaljax.data.sources import emt
from crystaljax.hull import convex_hull, corrections, energy_scale
from crystaljax.relaxation import ase_relaxation, kept
from crystaljax.screening import known_crystals

pytestmark = pytest.mark.usefixtures("forked_workers")

RECORDS = {record.id: record for record in emt.load_builtin()}
# Formation energies are those of a hull that has them all.
KNOWN = [
    name
    for name, record in RECORDS.items()
    if {elements.symbol(int(n)) for n in record.crystal.atomic_numbers} == {"Au", "Cu"}
    and record.crystal.num_sites <= 4
]


def stretched(name, scale, seed=None):
    crystal = RECORDS[name].crystal
    coords = np.array(crystal.frac_coords)
    if seed is not None:
        coords = coords + np.random.default_rng(seed).normal(0, 0.005, coords.shape)
    return structure.Crystal(crystal.atomic_numbers, coords, crystal.lattice * scale)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    known = [stretched(name, 1.02) for name in KNOWN]
    oxide = structure.Crystal(np.array([8]), np.zeros((1, 3)), np.eye(3))
    structure_files.write_extxyz(
        tmp_path / "known.extxyz",
        [*known, oxide],
        [{"name": name} for name in [*KNOWN, "oxygen"]],
    )
    structure_files.write_extxyz(
        tmp_path / "samples.extxyz",
        [stretched(name, 1.01, seed=1) for name in KNOWN[:3]],
        [{"name": f"sample {name}"} for name in KNOWN[:3]],
    )
    return tmp_path


def options(**changes):
    settings = {
        "samples": "samples.extxyz",
        "calculator": "emt",
        "output": "out",
        "relaxation": "ase",
        "report": False,
        "num_workers": 1,
        "relax_duplicates": True,
        "kept": "kept",
    }
    return screen.ScreenOptions(**settings | changes)


def test_crystals_of_a_relaxed_hull_are_on_it_and_known(here, capsys):
    result, table = screen.screen(options(hull="relaxed:known.extxyz"))
    printed = capsys.readouterr().err
    assert f"hull: {len(KNOWN)} known crystals of 1 chemical systems" in printed
    assert f"{len(KNOWN)} now, 0 before" in printed
    # The hull of the packaged alloys was made in the same way.
    formulas = [elements.cell_formula(RECORDS[n].crystal.atomic_numbers) for n in KNOWN]
    energies = [RECORDS[n].formation_energy for n in KNOWN]
    rows = zip(formulas, energies, KNOWN, strict=True)
    packaged = convex_hull.build_hull(rows, "ASE EMT")
    expected = convex_hull.energy_above_hull(
        packaged, formulas[:3], energies[:3], "ASE EMT"
    )
    np.testing.assert_allclose(result.above_hull, expected, atol=2e-3)
    assert result.above_hull.min() > -1e-3
    assert result.known_as == KNOWN[:3]
    saved = json.loads((here / "out" / "hull.json").read_text())
    assert {entry["id"] for entry in saved["entries"]} == set(KNOWN)
    assert table["rejected_stage"] == [""] * 3

    # Another known set is another request.
    structure_files.write_extxyz(
        here / "known.extxyz",
        [stretched(KNOWN[0], 1.03)],
        [{"name": KNOWN[0]}],
        overwrite=True,
    )
    with pytest.raises(FileExistsError, match="hull_fingerprint"):
        screen.screen(options(hull="relaxed:known.extxyz"))


def test_hull_is_optional_and_missing_known_crystals_are_named(here):
    result, _ = screen.screen(options(max_steps=2))
    assert not result.has_hull
    with pytest.raises(FileNotFoundError, match=r"no known crystals at nowhere"):
        screen.screen(options(hull="relaxed:nowhere", output="other"))
    assert not (here / "other").exists()


def test_relaxations_are_kept_once_and_read_again(tmp_path):
    path = tmp_path / "kept" / "chgnet.jsonl"
    calls = []

    def relax(waiting):
        for i, crystal in waiting.items():
            calls.append(i)
            failure = "it broke" if crystal.num_sites == 4 else ""
            yield (
                i,
                ase_relaxation.Relaxation(crystal, -1.0 - i, 0.01, 3, True, failure),
                "ase",
            )

    good = [stretched(name, 1.0) for name in KNOWN if "L1_0" in name]
    bad = [stretched(name, 1.0) for name in KNOWN if "L1_2" in name][:1]
    first, num_new = kept.relax([*good, *good, *bad], path, relax)
    assert num_new == len(good) + 1 and len(calls) == num_new
    assert first[0] is first[len(good)]
    # A process that was killed while it wrote.
    with path.open("a") as file:
        file.write('{"key": "half')
    again, num_new = kept.relax([*good, *bad], path, relax)
    assert num_new == 1 and again[-1].failure == "it broke"
    for mine, yours in zip(first[: len(good)], again, strict=False):
        assert mine.energy == yours.energy
        np.testing.assert_array_equal(mine.crystal.lattice, yours.crystal.lattice)


def test_files_of_relaxations_are_of_one_potential_and_its_settings(tmp_path):
    default = ase_relaxation.PRESETS["default"]
    paper = ase_relaxation.PRESETS["paper"]
    paths = [
        kept.find_file("chgnet", default, tmp_path),
        kept.find_file("chgnet", paper, tmp_path),
        kept.find_file("sevenn:7net-0", default, tmp_path),
    ]
    assert len(set(paths)) == 3 and None not in paths
    assert kept.find_file("chgnet@cpu", default, tmp_path) == paths[0]
    for name in ("emt", "mine:build", "matgl:./folder"):
        assert kept.find_file(name, default, tmp_path) is None


def test_known_crystals_are_read_from_what_holds_them(tmp_path):
    from pymatgen.core import Lattice, Structure

    tiny.write_dataset(tmp_path / "data")
    systems = {frozenset({"Au", "Cu"})}
    found = known_crystals.read(tmp_path / "data", systems)
    dataset = datasets.open_dataset(tmp_path / "data")
    inside = [
        identifier
        for identifier, formula in zip(
            dataset.id.to_pylist(), dataset.formula.to_pylist(), strict=True
        )
        if elements.parse_formula(formula).keys() <= {"Au", "Cu"}
    ]
    assert found.ids == inside and inside
    rock_salt = group_crystals.from_spacegroup(
        "Fm-3m", Lattice.cubic(4.2), ["Cu", "Au"], [[0, 0, 0], [0.5, 0.5, 0.5]]
    )
    other = Structure(Lattice.cubic(3), ["Ni"], [[0, 0, 0]])
    entries = [
        {"entry_id": "mp-1", "structure": rock_salt.as_dict()},
        {"entry_id": "mp-2", "structure": other.as_dict()},
    ]
    (tmp_path / "entries.json").write_text(json.dumps(entries))
    assert known_crystals.read(tmp_path / "entries.json", systems).ids == ["mp-1"]
    lines = "material_id,cif\n"
    for name, each in (("mp-1", rock_salt), ("mp-2", other), ("mp-3", None)):
        text = "data_x\n_cell_length_a nothing" if each is None else each.to(fmt="cif")
        lines += f'{name},"{text}"\n'.replace("'", "'")
    with gzip.open(tmp_path / "known.csv.gz", "wt") as file:
        file.write(lines)
    found = known_crystals.read(tmp_path / "known.csv.gz", systems)
    assert found.ids == ["mp-1"]
    assert len(found.problems) == 1 and found.problems[0].startswith("mp-3: ")
    assert known_crystals.as_known(["a"], [found.crystals[0]], found.crystals)
    (tmp_path / "no.csv").write_text("id,x\n1,2\n")
    with pytest.raises(ValueError, match="no column 'cif'"):
        known_crystals.read(tmp_path / "no.csv", systems)


def rock_salt(first, second, length):
    coords = np.array([[0, 0, 0], [0.5, 0.5, 0.5]])
    numbers = np.array([first, second])
    return structure.Crystal(numbers, coords, (1 - np.eye(3)) * length / 2)


@pytest.mark.parametrize(
    ("crystal", "expected"),
    [
        # MP2020: O -0.687, N -0.361, Fe with U -2.256 eV (Wang et al., table 1).
        (rock_salt(12, 8, 4.21), -0.687 / 2),
        (rock_salt(73, 7, 4.4), -0.361 / 2),
        (rock_salt(26, 8, 4.3), (-0.687 - 2.256) / 2),
        (rock_salt(73, 6, 4.46), 0.0),
        (rock_salt(29, 79, 4.0), 0.0),
    ],
)
def test_corrections_are_those_of_the_materials_project(crystal, expected):
    assert corrections.mp2020_correction(crystal) == pytest.approx(expected, abs=2e-3)
    plain = energy_scale.EnergyScale("x", {})
    corrected = energy_scale.EnergyScale("x", {}, adds_corrections=True)
    assert plain.total_energy(crystal, -5.0) == -5.0
    assert corrected.total_energy(crystal, -5.0) == pytest.approx(
        -5 + expected, abs=2e-3
    )


def test_corrections_are_added_where_a_potential_has_not_learned_them():
    added = {
        name: energy_scale.adds_corrections(name)
        for name in ("chgnet", "sevenn", "sevenn:7net-0", "chgnet:r2scan", "emt")
    }
    assert added == {
        "chgnet": False,
        "sevenn": True,
        "sevenn:7net-0": True,
        "chgnet:r2scan": False,
        "emt": False,
    }
    assert energy_scale.energy_model("sevenn") == "SevenNet 7net-l3i5 + MP2020"


def test_energies_of_no_crystal_are_refused():
    scale = energy_scale.EnergyScale("x", {29: -3.5, 79: -3.0})
    crystal = rock_salt(29, 79, 4.0)
    assert scale.formation_energy(crystal, -3.3) == pytest.approx(-0.05)
    for energy in (-1e6, 1e6, float("nan")):
        with pytest.raises(ValueError, match=r"the potential does not know this crys"):
            scale.formation_energy(crystal, energy)
