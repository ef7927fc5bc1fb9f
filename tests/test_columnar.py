import numpy as np
import pytest

from crystaljax.crystals import elements, structure
from crystaljax.data import columnar

STRINGS = ("id", "formula")
ARRAYS = ("atomic_numbers", "frac_coords", "lattice", "space_group", "formation_energy")


def columns(count=20):
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 7, count)
    made = [
        structure.Crystal(
            rng.choice([13, 29, 79], size), rng.random((size, 3)), rng.random((3, 3))
        )
        for size in sizes
    ]
    return columnar.columns_from_crystals(
        [f"crystal-{index}" for index in range(count)],
        [elements.cell_formula(one.atomic_numbers) for one in made],
        made,
        rng.integers(1, 231, count).tolist(),
        rng.normal(size=count).tolist(),
    )


def assert_joined(pieces, whole):
    for name in STRINGS:
        joined = [text for piece in pieces for text in getattr(piece, name).to_pylist()]
        assert joined == getattr(whole, name).to_pylist()
    for name in ARRAYS:
        joined = np.concatenate([getattr(piece, name) for piece in pieces])
        np.testing.assert_array_equal(joined, getattr(whole, name))
    sizes = np.concatenate([piece.num_sites for piece in pieces])
    np.testing.assert_array_equal(sizes, whole.num_sites)


def test_coordinates_stay_below_one_in_float32():
    crystal = structure.Crystal(np.array([1]), np.full((1, 3), 1 - 1e-9), np.eye(3))
    made = columnar.columns_from_crystals(["a"], ["H1"], [crystal], [1], [0.0])
    assert made.frac_coords.max() < 1


def test_filter_keeps_the_structures_asked_for():
    whole = columns()
    keep = np.arange(20) < 8
    assert_joined(
        [columnar.filter_columns(whole, side) for side in (keep, ~keep)], whole
    )


@pytest.mark.parametrize("size", [1, 7, 20, 50])
def test_blocks_are_the_whole(size):
    whole = columns()
    blocks = list(columnar.blocks(whole, size))
    assert_joined([block for _, block in blocks], whole)
    positions = np.concatenate([np.arange(20)[where] for where, _ in blocks])
    np.testing.assert_array_equal(positions, np.arange(20))
    for where, block in blocks:
        assert block.offsets[0] == 0
        assert len(block) == where.stop - where.start
        # Views: nothing is copied.
        assert np.shares_memory(block.frac_coords, whole.frac_coords)


def test_rows_of_sites():
    whole = columns()
    rows, owner = columnar.site_rows(whole, np.array([3, 1]))
    expected = [
        *range(whole.offsets[3], whole.offsets[4]),
        *range(whole.offsets[1], whole.offsets[2]),
    ]
    assert rows.tolist() == expected
    assert owner.tolist() == [0] * whole.num_sites[3] + [1] * whole.num_sites[1]


def test_too_many_sites_are_refused():
    with pytest.raises(ValueError, match="a table holds up to"):
        columnar.offsets_of(np.full(3, 2**30))
