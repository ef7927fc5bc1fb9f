import json

import numpy as np
import pyarrow as pa
import pytest

from crystaljax.crystals import elements, structure
from crystaljax.data import columnar
from crystaljax.data import dataset as datasets


def crystals(count, seed=0):
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        num_sites = rng.integers(1, 7)
        made.append(
            structure.Crystal(
                np.sort(rng.choice([13, 29, 79], num_sites)),
                rng.random((num_sites, 3)),
                structure.orient(4 * np.eye(3) + rng.uniform(-1, 1, (3, 3))),
            )
        )
    return made


def columns(count=20, seed=0):
    made = crystals(count, seed)
    rng = np.random.default_rng(seed)
    return columnar.columns_from_crystals(
        [f"crystal-{index}" for index in range(count)],
        [elements.cell_formula(one.atomic_numbers) for one in made],
        made,
        rng.integers(1, 231, count).tolist(),
        rng.normal(size=count).tolist(),
    )


def splits(count):
    return np.arange(count) % 3


@pytest.fixture
def path(tmp_path):
    target = tmp_path / "data"
    datasets.write_dataset(target, columns(), splits(20), {"energy_model": "EMT"})
    return target


def test_crystals_come_back(path):
    dataset = datasets.open_dataset(path)
    assert len(dataset) == 20
    for index, expected in enumerate(crystals(20)):
        found = datasets.crystal(dataset, index)
        np.testing.assert_array_equal(found.atomic_numbers, expected.atomic_numbers)
        np.testing.assert_allclose(found.frac_coords, expected.frac_coords, atol=1e-7)
        np.testing.assert_allclose(
            found.lattice, expected.lattice, rtol=1e-6, atol=1e-7
        )


def test_columns_come_back(path):
    expected, found = columns(), datasets.open_dataset(path)
    for name in ("id", "formula"):
        assert getattr(found, name).to_pylist() == getattr(expected, name).to_pylist()
    for name in ("offsets", "atomic_numbers", "frac_coords", "lattice", "num_sites"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    for name in ("space_group", "formation_energy"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_arrays_are_views_of_the_file(path):
    dataset = datasets.open_dataset(path)
    assert not dataset.frac_coords.flags.owndata
    assert not dataset.frac_coords.flags.writeable


def test_groups_are_the_cell_formulas(path):
    dataset = datasets.open_dataset(path)
    formulas = np.array(dataset.formula.to_pylist())
    same_group = dataset.group[:, None] == dataset.group
    np.testing.assert_array_equal(same_group, formulas[:, None] == formulas)


@pytest.mark.parametrize("split, expected", [("train", 0), ("val", 1), ("test", 2)])
def test_indices_of_splits(path, split, expected):
    found = datasets.open_dataset(path).indices(split)
    np.testing.assert_array_equal(found, np.arange(expected, 20, 3))


def test_unknown_split_is_refused(path):
    with pytest.raises(ValueError, match="unknown split 'dev'"):
        datasets.open_dataset(path).indices("dev")


@pytest.mark.parametrize("shape", [(7,), (2, 3), (0,)])
def test_gather_is_the_crystals_padded_with_zero(path, shape):
    dataset = datasets.open_dataset(path)
    indices = np.random.default_rng(1).integers(0, 20, shape)
    batch = datasets.gather(dataset, indices, 12)
    assert batch.frac_coords.shape == (*shape, 12, 3)
    assert batch.frac_coords.dtype == np.float32
    assert batch.atomic_numbers.dtype == np.uint8
    assert batch.num_sites.dtype == np.int32
    for position in np.ndindex(shape):
        expected = datasets.crystal(dataset, int(indices[position]))
        num_sites = expected.num_sites
        assert batch.num_sites[position] == num_sites
        numbers, coords = batch.atomic_numbers[position], batch.frac_coords[position]
        np.testing.assert_array_equal(numbers[:num_sites], expected.atomic_numbers)
        np.testing.assert_array_equal(coords[:num_sites], expected.frac_coords)
        assert not numbers[num_sites:].any()
        assert not coords[num_sites:].any()
        np.testing.assert_array_equal(batch.lattice[position], expected.lattice)


def test_gather_refuses_too_few_rows(path):
    with pytest.raises(ValueError, match="6 sites, but there are 4 site rows"):
        datasets.gather(datasets.open_dataset(path), np.arange(20), 4)


def test_vocabulary_is_that_of_the_training_structures(tmp_path):
    gold, copper = (
        structure.Crystal(np.array([number]), np.zeros((1, 3)), 3 * np.eye(3))
        for number in (79, 29)
    )
    made = columnar.columns_from_crystals(
        ["a", "b"], ["Au1", "Cu1"], [gold, copper], [225, 221], [0.5, -0.5]
    )
    datasets.write_dataset(tmp_path / "d", made, np.array([0, 1]), {})
    assert datasets.vocabulary(datasets.open_dataset(tmp_path / "d")) == {
        "elements": ["Au"],
        "space_groups": [225],
        "max_sites": 1,
        "formation_energy": [0.5, 0.5],
    }


def test_other_tools_read_the_table(path):
    with pa.memory_map(str(path / "structures.arrow")) as file:
        table = pa.ipc.open_file(file).read_all()
    assert table.column_names == datasets.SCHEMA.names
    assert table["split"].to_pylist()[:3] == ["train", "val", "test"]
    assert len(table["frac_coords"][0].as_py()) == table["num_sites"][0].as_py()


def test_existing_data_set_is_replaced_only_when_asked(path):
    with pytest.raises(FileExistsError, match="--overwrite"):
        datasets.write_dataset(path, columns(5), splits(5), {})
    datasets.write_dataset(path, columns(5), splits(5), {}, overwrite=True)
    assert len(datasets.open_dataset(path)) == 5
    assert [entry.name for entry in path.parent.iterdir()] == ["data"]


def test_other_directory_is_never_replaced(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match="not a data set"):
        datasets.write_dataset(tmp_path, columns(), splits(20), {}, overwrite=True)
    assert (tmp_path / "thesis.tex").exists()


def test_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(TypeError):
        datasets.write_dataset(tmp_path / "d", columns(), splits(20), {"x": object()})
    assert list(tmp_path.iterdir()) == []


def test_missing_label_is_refused(tmp_path):
    made = columns(3)
    made.formation_energy[1] = np.nan
    with pytest.raises(ValueError, match="formation_energy"):
        datasets.write_dataset(tmp_path / "d", made, splits(3), {})


def test_missing_path(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no data set at .*crystaljax prepare"):
        datasets.open_dataset(tmp_path / "nothing")


def test_directory_that_is_no_data_set(tmp_path):
    with pytest.raises(FileNotFoundError, match="not a data set"):
        datasets.open_dataset(tmp_path)


def test_truncated_table(path):
    table = path / "structures.arrow"
    table.write_bytes(table.read_bytes()[:-100])
    with pytest.raises(ValueError, match="truncated"):
        datasets.open_dataset(path)


def test_altered_table_is_found_by_its_checksum(path):
    table = path / "structures.arrow"
    content = bytearray(table.read_bytes())
    content[len(content) // 2] ^= 1
    table.write_bytes(content)
    with pytest.raises(ValueError, match="SHA-256"):
        datasets.open_dataset(path)


def test_altered_description_is_found_by_its_checksum(path):
    text = (path / "dataset.json").read_text()
    (path / "dataset.json").write_text(text.replace('"EMT"', '"PBE"'))
    with pytest.raises(ValueError, match="SHA-256"):
        datasets.open_dataset(path)


def test_missing_table(path):
    (path / "structures.arrow").unlink()
    with pytest.raises(FileNotFoundError, match="missing"):
        datasets.open_dataset(path)


@pytest.mark.parametrize(
    "text, message", [("{", "not JSON"), ("{}", "version None"), ("[]", "version None")]
)
def test_bad_info(path, text, message):
    (path / "dataset.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        datasets.open_dataset(path)


def test_other_version(path):
    info = json.loads((path / "dataset.json").read_text())
    (path / "dataset.json").write_text(json.dumps(info | {"version": 99}))
    with pytest.raises(ValueError, match="version 99"):
        datasets.open_dataset(path)
