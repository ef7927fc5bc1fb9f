"""A crystal at hand and the model of the package: polymorphs, and other elements."""

import numpy as np
import pandas as pd
import pytest
import test_kept_groups as crystals_of
from pymatgen.core import Lattice

from crystaljax import modify
from crystaljax.crystals import structure_files, symmetry_search
from crystaljax.sampling import decorations
from crystaljax.system import errors


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """TaB2, and rutile as a supercell."""
    path = tmp_path_factory.mktemp("inputs")
    tab2 = crystals_of.build(
        "P6/mmm",
        Lattice.hexagonal(3.098, 3.227),
        ["Ta", "B"],
        [[0, 0, 0], [1 / 3, 2 / 3, 0.5]],
    )
    rutile = crystals_of.build(
        "P4_2/mnm",
        Lattice.tetragonal(4.6, 2.96),
        ["Ti", "O"],
        [[0, 0, 0], [0.305, 0.305, 0]],
        (1, 1, 2),
    )
    structure_files.write_cifs(path / "cifs", [tab2, rutile], ["tab2", "rutile"])
    return path / "cifs"


def test_a_crystal_alone_becomes_ordered_candidates(folder, tmp_path, capsys):
    output = tmp_path / "made"
    modify.main([str(folder / "rutile.cif"), "--num_samples=3", f"--output={output}"])
    shown = capsys.readouterr()
    assert "its cell of 12 sites is 2 primitive ones" in shown.err
    assert "(the input again)" in shown.out
    table = pd.read_csv(output / "samples.csv")
    energies = table.estimated_energy.to_numpy()
    assert (np.diff(energies) >= 0).all() and len(table) >= 3
    assert set(table.input) == {"rutile"}
    # The crystals are in the order of the table.
    assert table.name.str[:1].tolist() == [str(i) for i in range(len(table))]
    same = table[table.same_as_input]
    assert len(same) and (same.formula == "O4Ti2").all()
    assert not table[table.space_group == 225].same_as_input.any()
    of_source = energies - table.estimated_difference.to_numpy()
    assert np.ptp(of_source) < 1e-4
    assert (table.formation_energy <= of_source + 1e-3).all()
    assert (output / "inputs" / "rutile.cif").exists()


def test_a_prototype_gets_other_elements_and_their_cell(folder):
    made = modify.modify(
        modify.ModifyOptions(
            input=str(folder / "tab2.cif"), decorate="Ta:Mg;Ta:Nb", num_samples=1
        )
    ).samples
    origin = made.columns["origin"].tolist()
    assert origin.count("decorated") == 2
    for name, (a, c) in {"Ta:Mg": (3.09, 3.52), "Ta:Nb": (3.11, 3.26)}.items():
        row = next(
            index
            for index, each in enumerate(made.columns["input"].tolist())
            if each == f"tab2, {name}" and origin[index] == "decorated"
        )
        crystal = made.crystals[row]
        assert symmetry_search.find_space_group(crystal, 1e-3) == 191
        assert made.columns["same_as_input"][row]
        # Lattice constants of the experiment, Å. Tantalum's are 3.10 and 3.23.
        lengths = np.linalg.norm(crystal.lattice, axis=1)
        np.testing.assert_allclose(lengths, [a, a, c], rtol=0.07)
        if name == "Ta:Nb":
            np.testing.assert_allclose(lengths, [a, a, c], rtol=0.02)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decorate": "Ta"}, "cannot read 'Ta'"),
        ({"decorate": "Ta:Xx"}, "cannot read 'Ta:Xx'"),
        ({"decorate": "Ta:Nb,Ta:V"}, "cannot read 'Ta:V'"),
        ({"decorate": "W:Mo"}, "B2Ta1 has no W; expected elements among B, Ta"),
        ({"decorate": "Ta:B"}, "makes one element of two"),
        ({"decorate": "Ta:Rn"}, "Rn, which the training structures never had"),
        ({"formula": "Ta2B4"}, "its primitive cell is B2Ta1, but B4Ta2 was requested"),
        ({"energy_difference": "much"}, "'much' in 'much' is neither an energy"),
        (
            {"decorate": "Ta:Nb", "energy_difference": "-0.1"},
            "relative to the input, whose elements are replaced",
        ),
    ],
)
def test_what_cannot_be_asked_is_named(folder, changes, message):
    options = {"input": str(folder / "tab2.cif")} | changes
    with pytest.raises(errors.UserError, match=message):
        modify.build_request(modify.ModifyOptions(**options))


def test_a_source_larger_than_the_model_holds_is_named(tmp_path):
    rng = np.random.default_rng(0)
    big = crystals_of.structure.Crystal(
        np.repeat([14, 8], 20), rng.random((40, 3)), 9 * np.eye(3)
    )
    structure_files.write_extxyz(tmp_path / "big.extxyz", [big], [{}])
    with pytest.raises(errors.UserError, match="40 sites, but the model holds 36"):
        modify.build_request(modify.ModifyOptions(input=str(tmp_path / "big.extxyz")))


def test_decorations_are_read():
    found = decorations.parse("Ta:Nb, B:C;Ta:V")
    assert found == [{"Ta": "Nb", "B": "C"}, {"Ta": "V"}]
    assert decorations.parse("") == []
