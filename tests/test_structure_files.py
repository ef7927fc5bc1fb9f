import io
import warnings
import zipfile

import ase.io
import numpy as np
import pyarrow.csv
import pyarrow.parquet
import pytest
from pymatgen.core import Lattice, Structure

from crystaljax.crystals import bridge, elements, structure, structure_files


def triclinic(seed=0, num_sites=4):
    rng = np.random.default_rng(seed)
    parameters = [*rng.uniform(3, 6, 3), *rng.uniform(70, 110, 3)]
    lattice = np.array(Lattice.from_parameters(*parameters).matrix)
    numbers = np.sort(rng.choice([29, 79], num_sites))
    return structure.Crystal(numbers, rng.uniform(size=(num_sites, 3)), lattice)


def non_finite():
    return structure.Crystal(np.array([29]), np.full((1, 3), np.nan), np.eye(3))


def without_volume():
    return structure.Crystal(np.array([29]), np.zeros((1, 3)), np.zeros((3, 3)))


def assert_same_crystal(found, expected, atol=1e-6):
    np.testing.assert_array_equal(found.atomic_numbers, expected.atomic_numbers)
    np.testing.assert_allclose(found.lattice, expected.lattice, atol=atol)
    difference = found.frac_coords - expected.frac_coords
    np.testing.assert_allclose(difference, np.round(difference), atol=atol)


def test_poscar_is_read_back_by_pymatgen_whatever_the_order_of_sites():
    rng = np.random.default_rng(0)
    for seed in range(5):
        crystal = triclinic(seed, 6)
        order = rng.permutation(6)
        shuffled = structure.Crystal(
            crystal.atomic_numbers[order], crystal.frac_coords[order], crystal.lattice
        )
        text = structure_files.poscar_text(shuffled, "two\nlines")
        assert text.startswith("two lines\n")
        found = bridge.from_pymatgen(Structure.from_str(text, "poscar"))
        # Blocks of species, by symbol: Au before Cu.
        assert (
            sorted(found.atomic_numbers, reverse=True) == found.atomic_numbers.tolist()
        )
        expected = bridge.to_pymatgen(crystal)
        np.testing.assert_allclose(
            np.sort(bridge.to_pymatgen(found).distance_matrix, axis=None),
            np.sort(expected.distance_matrix, axis=None),
            atol=1e-9,
        )


def test_poscar_of_a_left_handed_cell_is_right_handed():
    crystal = triclinic()
    mirrored = structure.Crystal(
        crystal.atomic_numbers, -crystal.frac_coords, -crystal.lattice
    )
    text = structure_files.poscar_text(mirrored, "x")
    found = bridge.from_pymatgen(Structure.from_str(text, "poscar"))
    assert np.linalg.det(found.lattice) > 0
    np.testing.assert_allclose(found.lattice, crystal.lattice, atol=1e-12)


def test_extxyz_round_trips_triclinic_crystals_and_infos(tmp_path):
    path = tmp_path / "new" / "samples.extxyz"
    crystals = [triclinic(seed, seed + 1) for seed in range(5)]
    infos = [
        {"formula": elements.cell_formula(crystals[index].atomic_numbers)}
        | {"space_group": 221, "formation_energy": -0.05 * index}
        | {"sample_index": index, "seed": 0, "valid": index > 2, "note": 'a "b" = c'}
        for index in range(5)
    ]
    assert structure_files.write_extxyz(path, crystals, infos) == []
    found, found_infos = structure_files.read_extxyz(path)
    assert found_infos == infos
    for one, other in zip(found, crystals, strict=True):
        assert_same_crystal(one, other)
    assert type(found_infos[0]["space_group"]) is int


def test_extxyz_leaves_out_what_cannot_be_written(tmp_path):
    path = tmp_path / "samples.extxyz"
    crystals = [non_finite(), triclinic(), without_volume(), triclinic(1)]
    infos = [{"name": name} for name in ("first", "second", "third", "fourth")]
    assert structure_files.write_extxyz(path, crystals, infos) == ["first", "third"]
    _, found_infos = structure_files.read_extxyz(path)
    assert [info["name"] for info in found_infos] == ["second", "fourth"]


def test_extxyz_of_nothing_is_an_empty_file(tmp_path):
    path = tmp_path / "samples.extxyz"
    assert structure_files.write_extxyz(path, [non_finite()], [{}]) == ["0"]
    assert structure_files.read_extxyz(path) == ([], [])


def test_info_values_that_would_break_the_file_are_read_back(tmp_path):
    path = tmp_path / "samples.extxyz"
    info = {"reason": "", "group": None, "count": 3, "error": "first\nsecond line"}
    structure_files.write_extxyz(path, [triclinic()] * 2, [info] * 2)
    expected = {"reason": "", "count": 3, "error": "first\nsecond line"}
    assert structure_files.read_extxyz(path)[1] == [expected] * 2


@pytest.mark.parametrize("key", ["energy", "stress", "Lattice", "two words", "a=b", ""])
def test_info_keys_that_extxyz_takes_otherwise_are_refused(tmp_path, key):
    path = tmp_path / "samples.extxyz"
    with pytest.raises(ValueError, match="'formation_energy'"):
        structure_files.write_extxyz(path, [triclinic()], [{key: 1.0}])
    assert not list(tmp_path.iterdir())


def test_read_extxyz_keeps_the_energy_of_a_calculator(tmp_path):
    from ase.calculators.emt import EMT

    atoms = bridge.to_ase(triclinic())
    atoms.calc = EMT()
    energy = atoms.get_potential_energy()
    ase.io.write(tmp_path / "relaxed.extxyz", atoms)
    _, infos = structure_files.read_extxyz(tmp_path / "relaxed.extxyz")
    assert infos[0]["energy"] == pytest.approx(energy)


@pytest.mark.parametrize("seed", range(4))
def test_cif_is_read_by_pymatgen_and_ase(seed):
    crystal = triclinic(seed)
    text = structure_files.cif_text(crystal, "sample")
    expected = bridge.to_pymatgen(crystal)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = Structure.from_str(text, "cif")
    assert found.species == expected.species
    np.testing.assert_allclose(
        found.distance_matrix, expected.distance_matrix, atol=1e-5
    )
    atoms = ase.io.read(io.StringIO(text), format="cif")
    assert atoms.numbers.tolist() == crystal.atomic_numbers.tolist()
    np.testing.assert_allclose(
        atoms.get_all_distances(mic=True), expected.distance_matrix, atol=1e-5
    )


def test_cif_of_a_left_handed_cell_is_not_its_mirror_image():
    crystal = triclinic(3)
    mirrored = structure.Crystal(
        crystal.atomic_numbers,
        crystal.frac_coords[:, [1, 0, 2]],
        crystal.lattice[[1, 0, 2]],
    )
    assert np.linalg.det(mirrored.lattice) < 0
    found = Structure.from_str(structure_files.cif_text(mirrored, "sample"), "cif")
    assert np.linalg.det(found.lattice.matrix) > 0

    def chirality(coords, lattice):
        first, second, third = (coords[1:] - coords[0]) @ lattice
        return np.dot(first, np.cross(second, third))

    # -1 times the coordinates: undo the wrapping, which is not what is asked here.
    coords = found.frac_coords + np.round(-mirrored.frac_coords - found.frac_coords)
    assert chirality(coords, found.lattice.matrix) == pytest.approx(
        chirality(mirrored.frac_coords, mirrored.lattice), abs=1e-5
    )


def test_cif_coordinates_stay_below_one():
    crystal = structure.Crystal(
        np.array([29]), np.array([[-1e-12, 0.9999999999, 3.25]]), 4 * np.eye(3)
    )
    line = structure_files.cif_text(crystal, "sample").splitlines()[-1]
    assert line == "Cu Cu1 1 0.00000000 0.00000000 0.25000000 1"


NAMES = ["Au1Cu3 / 221", "au1cu3_221", "../../etc/passwd", "", "Au1Cu3 / 221", "broken"]
FILES = [
    "Au1Cu3_221.cif",
    "au1cu3_221-2.cif",
    "etc_passwd.cif",
    "crystal.cif",
    "Au1Cu3_221-3.cif",
]


@pytest.mark.parametrize("target", ["cifs", "cifs.zip"])
def test_write_cifs_makes_safe_unique_names(tmp_path, target):
    path = tmp_path / target
    crystals = [*(triclinic(seed) for seed in range(5)), non_finite()]
    assert structure_files.write_cifs(path, crystals, NAMES) == ["broken"]
    if target.endswith(".zip"):
        with zipfile.ZipFile(path) as archive:
            texts = {name: archive.read(name).decode() for name in archive.namelist()}
    else:
        texts = {each.name: each.read_text() for each in path.iterdir()}
    assert set(texts) == set(FILES)
    for name, crystal in zip(FILES, crystals[:5], strict=True):
        assert texts[name] == structure_files.cif_text(
            crystal, name.removesuffix(".cif")
        )
    assert [each.name for each in tmp_path.iterdir()] == [target]


def test_zip_is_the_same_for_the_same_crystals(tmp_path):
    for name in ("a.zip", "b.zip"):
        structure_files.write_cifs(tmp_path / name, [triclinic()], ["x"])
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


COLUMNS = {
    "formula": ["Au1Cu3", "Ni1", 'a,"b"'],
    "space_group": np.array([221, 225, 1], dtype=np.uint8),
    "energy": np.array([-0.1, np.nan, 0.0], dtype=np.float32),
    "valid": np.array([True, False, True]),
    "file": ["a.cif", None, "b.cif"],
}


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_table_round_trips(tmp_path, suffix):
    path = tmp_path / f"samples{suffix}"
    structure_files.write_table(path, COLUMNS)
    read = {".csv": pyarrow.csv.read_csv, ".parquet": pyarrow.parquet.read_table}[
        suffix
    ]
    table = read(path)
    assert table.column_names == list(COLUMNS)
    assert table["formula"].to_pylist() == COLUMNS["formula"]
    assert table["space_group"].to_pylist() == [221, 225, 1]
    assert table["valid"].to_pylist() == [True, False, True]
    assert table["file"].to_pylist() == [
        "a.cif",
        "" if suffix == ".csv" else None,
        "b.cif",
    ]
    energies = table["energy"].to_numpy()
    np.testing.assert_allclose(energies.astype(float), COLUMNS["energy"], rtol=1e-6)


def test_nested_columns_go_into_parquet_only(tmp_path):
    columns = {"rms": np.array([[0.1, np.nan], [0.2, 0.3]])}
    structure_files.write_table(tmp_path / "t.parquet", columns)
    table = pyarrow.parquet.read_table(tmp_path / "t.parquet")
    assert table["rms"].to_pylist()[1] == [0.2, 0.3]
    with pytest.raises(ValueError, match="hold lists"):
        structure_files.write_table(tmp_path / "t.csv", columns)


def test_table_errors(tmp_path):
    with pytest.raises(ValueError, match=r"expected .csv or .parquet"):
        structure_files.write_table(tmp_path / "t.xlsx", COLUMNS)
    with pytest.raises(ValueError, match="differ"):
        structure_files.write_table(tmp_path / "t.csv", {"a": [1], "b": [1, 2]})
    with pytest.raises(ValueError, match="differ"):
        structure_files.write_cifs(tmp_path / "c", [triclinic()], [])
    assert not list(tmp_path.iterdir())


WRITERS = {
    "s.extxyz": lambda path, **kw: structure_files.write_extxyz(
        path, [triclinic()], [{}], **kw
    ),
    "cifs": lambda path, **kw: structure_files.write_cifs(
        path, [triclinic()], ["x"], **kw
    ),
    "cifs.zip": lambda path, **kw: structure_files.write_cifs(
        path, [triclinic()], ["x"], **kw
    ),
    "t.csv": lambda path, **kw: structure_files.write_table(path, COLUMNS, **kw),
    "t.parquet": lambda path, **kw: structure_files.write_table(path, COLUMNS, **kw),
}


@pytest.mark.parametrize("name", WRITERS)
def test_nothing_is_overwritten_unless_told_to(tmp_path, name):
    path = tmp_path / name
    WRITERS[name](path)
    with pytest.raises(FileExistsError, match="overwrite"):
        WRITERS[name](path)
    WRITERS[name](path, overwrite=True)
    assert [each.name for each in tmp_path.iterdir()] == [name]


def test_a_folder_with_other_files_is_never_replaced(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match="thesis"):
        structure_files.write_cifs(tmp_path, [triclinic()], ["x"], overwrite=True)
    assert (tmp_path / "thesis.tex").exists()


def test_a_failed_write_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(structure_files, "cif_text", fail)
    for name in ("cifs", "cifs.zip"):
        with pytest.raises(OSError, match="disk full"):
            structure_files.write_cifs(tmp_path / name, [triclinic()], ["x"])
    assert not list(tmp_path.iterdir())
