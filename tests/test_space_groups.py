import pathlib
import subprocess
import sys

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import spglib
from pymatgen.symmetry.groups import SpaceGroup, sg_symbol_from_int_number

from crystaljax.crystals import space_groups

NUMBERS = range(1, 231)


def group_operations(number):
    """Integer rotations, and translations in 24ths."""
    operations = space_groups.load_space_group_operations()[number]
    operations = operations[operations[:, 3, 3] == 1]
    translations = operations[:, :3, 3] * 24
    np.testing.assert_allclose(translations, np.rint(translations), atol=1e-4)
    return operations[:, :3, :3].astype(int), np.rint(translations).astype(int)


def hashes(rotations, translations):
    """One integer per operation, translations modulo 1."""
    digits = np.concatenate(
        [rotations.reshape(*rotations.shape[:-2], 9) + 1, translations % 24], axis=-1
    )
    return digits @ (24 ** np.arange(12, dtype=np.int64))


def test_shape_padding_and_identity():
    operations = space_groups.load_space_group_operations()
    assert operations.shape == (231, 192, 4, 4)
    assert operations.dtype == np.float32
    assert not operations[0].any()
    np.testing.assert_array_equal(operations[1:, 0], np.tile(np.eye(4), (230, 1, 1)))
    used = operations[:, :, 3, 3] == 1
    assert not operations[~used].any()
    assert np.all(np.diff(used.astype(int), axis=1) <= 0), "padding is not at the end"
    assert operations[:, :, :3, 3].min() == 0
    assert operations[:, :, :3, 3].max() < 1


@pytest.mark.parametrize("first", range(1, 231, 23))
def test_every_group_is_closed(first):
    for number in range(first, first + 23):
        rotations, translations = group_operations(number)
        products = np.einsum("aij,bjk->abik", rotations, rotations)
        shifts = np.einsum("aij,bj->abi", rotations, translations)
        members = hashes(rotations, translations)
        assert len(np.unique(members)) == len(members)
        composed = hashes(products, shifts + translations[:, None])
        # Each row of a group's multiplication table is a permutation of the group.
        assert np.all(np.sort(composed, axis=1) == np.sort(members)), number


def test_orders_agree_with_pymatgen():
    orders = space_groups.load_space_group_operations()[:, :, 3, 3].sum(axis=1)
    symbols = [sg_symbol_from_int_number(n) for n in NUMBERS]
    expected = [SpaceGroup.sg_encoding[symbol]["order"] for symbol in symbols]
    np.testing.assert_array_equal(orders[1:], expected)


def test_operations_are_those_of_spglib_in_the_standard_setting():
    standard = {}
    for hall_number in range(530, 0, -1):
        standard[spglib.get_spacegroup_type(hall_number).number] = hall_number
    for number in NUMBERS:
        expected = spglib.get_symmetry_from_database(standard[number])
        expected_hashes = hashes(
            expected["rotations"].astype(int),
            np.rint(expected["translations"] * 24).astype(int),
        )
        np.testing.assert_array_equal(
            np.sort(hashes(*group_operations(number))), np.sort(expected_hashes)
        )


@pytest.mark.parametrize("number", [1, 2, 15, 62, 166, 194, 225, 227])
def test_operations_are_in_the_documented_order(number):
    rotations, translations = group_operations(number)
    keys = [
        (-round(np.linalg.det(r)), -np.trace(r), tuple(-r.ravel()), tuple(t))
        for r, t in zip(rotations, translations, strict=True)
    ]
    assert keys == sorted(keys)


def test_symbols():
    symbols = space_groups.load_space_group_symbols()
    assert len(symbols) == 231
    assert [symbols[n] for n in (0, 1, 2, 14, 62, 166, 194, 225)] == (
        ["", "P1", "P-1", "P2_1/c", "Pnma", "R-3m", "P6_3/mmc", "Fm-3m"]
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all", list(NUMBERS)),
        ("1,225", [1, 225]),
        ("Fm-3m,221", [225, 221]),
        (" fm-3m , P63/mmc,P6_3/mmc", [225, 194]),
        ("Cmma,Cmme", [67]),
        ("225", [225]),
    ],
)
def test_parse_space_groups(text, expected):
    assert space_groups.parse_space_groups(text) == expected


def test_every_symbol_parses_to_its_number():
    symbols = space_groups.load_space_group_symbols()[1:]
    assert space_groups.parse_space_groups(",".join(symbols)) == list(NUMBERS)
    bare = ",".join(symbols).replace("_", "").upper()
    assert space_groups.parse_space_groups(bare) == list(NUMBERS)


@pytest.mark.parametrize("text", ["0", "231", "-1", "1.5", "Fm-4m", "", "1,,2", "²"])
def test_bad_space_groups_are_errors(text):
    with pytest.raises(ValueError, match="expected"):
        space_groups.parse_space_groups(text)


@hypothesis.settings(deadline=None)
@hypothesis.given(st.text(max_size=8))
def test_parse_space_groups_parses_or_raises_value_error(text):
    try:
        numbers = space_groups.parse_space_groups(text)
    except ValueError:
        return
    assert numbers
    assert set(numbers) <= set(NUMBERS)


def test_import_is_light_and_computes_nothing():
    code = (
        "import sys; from crystaljax.crystals import space_groups; print("
        "{'jax', 'pymatgen', 'spglib'} & sys.modules.keys(),"
        "space_groups.load_space_group_operations.cache_info().currsize)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == ["set()", "0"]


def test_reference_order_has_the_same_operations():
    reference = space_groups.load_space_group_operations("reference")
    ours = space_groups.load_space_group_operations()
    for number in NUMBERS:
        sets = []
        for table in (reference, ours):
            operations = table[number][table[number][:, 3, 3] == 1]
            translations = np.rint(operations[:, :3, 3] * 24).astype(int)
            rotations = operations[:, :3, :3].astype(int)
            sets.append(np.sort(hashes(rotations, translations)))
        np.testing.assert_array_equal(*sets)


@pytest.mark.parametrize(
    "fixture", ["generation_ch32_res1", "modification_diffusion_ch32_res1"]
)
def test_reference_order_is_that_of_the_reference(fixture):
    path = pathlib.Path(__file__).parent / "data" / f"reference_{fixture}.npz"
    expected = np.load(path)["input_space_group_operations"]
    table = space_groups.load_space_group_operations("reference")
    np.testing.assert_array_equal(table[[47, 2]], expected)


def test_unknown_order_is_refused():
    with pytest.raises(ValueError, match="'random'"):
        space_groups.load_space_group_operations("random")
