import collections

import aflow_prototypes
import numpy as np
import pytest
import spglib
from pymatgen.analysis.structure_matcher import StructureMatcher

from crystaljax.crystals import bridge, structure
from crystaljax.data.sources import emt, prototypes, record, relaxed


@pytest.fixture(scope="module")
def builtin():
    return emt.load_builtin()


def by_name(name):
    return next(p for p in prototypes.PROTOTYPES if p.name == name)


def as_crystal(prototype, metals, scale=2.8):
    numbers = emt.Decoration(prototype, metals).atomic_numbers
    return structure.Crystal(numbers, prototype.frac_coords, prototype.lattice * scale)


@pytest.mark.parametrize("prototype", prototypes.PROTOTYPES, ids=lambda p: p.name)
def test_prototype_has_its_space_group_and_is_primitive(prototype):
    crystal = as_crystal(prototype, ("Ni", "Pt", "Au"))
    cell = (crystal.lattice, crystal.frac_coords, crystal.atomic_numbers)
    symmetry = spglib.get_symmetry_dataset(cell, symprec=1e-2)
    assert symmetry is not None
    assert symmetry.number == prototype.space_group
    assert len(set(symmetry.mapping_to_primitive)) == crystal.num_sites


@pytest.mark.parametrize(
    ("name", "aflow"),
    [
        ("L1_0", "AB_tP2_123_a_d"),
        ("B19", "AB_oP4_51_e_f"),
        ("MoPt2", "AB2_oI6_71_a_g"),
        ("L1_1", "AB_hR2_166_a_b"),
        ("B11", "AB_tP4_129_c_c"),
        ("B32", "AB_cF16_227_a_b"),
        ("C11_b", "AB2_tI6_139_a_e"),
        ("C16", "A2B_tI12_140_h_a"),
        ("C54", "A2B_oF24_70_e_a"),
        ("B8_2", "AB2_hP6_194_c_ad"),
        ("L1_3", "AB3_oC8_65_a_bf"),
        ("D0_3", "AB3_cF16_225_a_bc"),
        ("D0_23", "A3B_tI16_139_cde_e"),
        ("A15", "A3B_cP8_223_c_a"),
        ("D1_a", "AB4_tI10_87_a_h"),
        ("C15", "A2B_cF24_227_d_a"),
        ("L1_2", "AB3_cP4_221_a_c"),
        ("D0_22", "A3B_tI8_139_bd_a"),
        ("D0_19", "A3B_hP8_194_h_c"),
        ("D0_a", "A3B_oP8_59_bf_a"),
        ("D5_13", "A3B2_hP5_164_ad_d"),
        ("L2_1", "AB2C_cF16_225_a_c_b"),
    ],
)
def test_prototype_is_the_one_of_aflow(name, aflow):
    # Within a few percent: some entries of the library are rounded or strained.
    matcher = StructureMatcher(ltol=0.05, stol=0.1, angle_tol=2)
    here = bridge.to_pymatgen(as_crystal(by_name(name), ("Ni", "Pt", "Au")))
    assert matcher.fit_anonymous(here, aflow_prototypes.load(aflow))


def test_exchangeable_letters_are_decorated_once():
    names = [d.id for d in emt.decorations(prototype_names=["B2", "L1_2", "L2_1"])]
    assert len(names) == len(set(names)) == 15 + 30 + 60
    assert "B2:Ni-Cu" in names and "B2:Cu-Ni" not in names
    assert "L1_2:Ni-Cu" in names and "L1_2:Cu-Ni" in names


def test_a_small_part_made_anew_equals_what_is_packaged(builtin):
    chosen = ["L1_2", "D0_22", "MoPt2", "L2_1", "fcc111-ACBC"]
    made = emt.generate(
        metals=("Cu", "Pt", "Au"), prototype_names=chosen, num_workers=2
    )
    packaged = {item.id: item for item in builtin}
    assert len(made.records) >= 20
    for item in made.records:
        other = packaged[item.id]
        np.testing.assert_array_equal(
            item.crystal.atomic_numbers, other.crystal.atomic_numbers
        )
        shift = item.crystal.frac_coords - other.crystal.frac_coords
        assert np.abs(shift - np.round(shift)).max() < 1e-3
        np.testing.assert_allclose(
            item.crystal.lattice, other.crystal.lattice, atol=1e-3
        )
        assert item.formation_energy == pytest.approx(other.formation_energy, abs=1e-3)
        assert item.space_group == other.space_group


def test_a_number_and_a_seed_choose_whole_chemical_systems():
    def names(num_structures, seed):
        made = emt.generate(
            num_structures,
            seed=seed,
            prototype_names=["L1_0", "L1_2", "B2"],
            num_workers=1,
        )
        return [item.id for item in made.records]

    six = names(6, seed=0)
    assert len(six) == 6
    assert six == names(6, seed=0)
    assert set(six) < set(names(8, seed=0))
    assert set(six) != set(names(6, seed=1))
    systems = collections.Counter(
        tuple(sorted(name.split(":")[1].split("-"))) for name in six
    )
    assert max(systems.values()) >= 3


def test_more_than_there_are_says_how_many_there_are():
    with pytest.raises(ValueError, match=r"at most 15 with 6 metals"):
        emt.generate(16, prototype_names=["B2"])


def test_other_metals_and_prototypes_are_refused_by_name():
    with pytest.raises(ValueError, match="no built-in alloys of Al"):
        emt.generate(metals=("Al", "Ni"))
    with pytest.raises(ValueError, match=r"unknown prototypes \['A99'\]"):
        emt.generate(prototype_names=["A99"])


def test_open_packing_is_dropped_with_its_reason():
    diamond_like = prototypes.Prototype(
        name="open",
        space_group=216,
        letters=("A", "B"),
        frac_coords=np.array([[0, 0, 0], [0.1, 0.1, 0.1]]),
        lattice=structure.lattice_from_parameters(np.array([1.0, 1, 1, 60, 60, 60])),
    )
    result = emt.make_record(emt.Decoration(diamond_like, ("Cu", "Au")))
    assert result == record.Failure("open:Cu-Au", "too open a packing")


def test_equal_crystals_of_other_cells_are_duplicates(builtin):
    first = next(item for item in builtin if item.id == "L1_2:Au-Cu")
    crystal = first.crystal
    # The same crystal, sites permuted, shifted and in another basis.
    order = [2, 0, 3, 1]
    basis = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 1]])
    again = record.Record(
        "again",
        structure.Crystal(
            crystal.atomic_numbers[order],
            (crystal.frac_coords[order] + 0.3) @ np.linalg.inv(basis),
            basis @ crystal.lattice,
        ),
        first.space_group,
        first.formation_energy,
    )
    other = next(item for item in builtin if item.id == "D0_22:Au-Cu")
    kept = relaxed.drop_duplicates([first, other, again], num_workers=1)
    assert [item.id for item in kept] == ["L1_2:Au-Cu", "D0_22:Au-Cu"]


def test_packaged_structures_are_sound(builtin):
    assert 3000 <= len(builtin) <= 5000
    assert len({item.id for item in builtin}) == len(builtin)
    assert emt.BUILTIN_PATH.stat().st_size < 1_000_000
    for item in builtin:
        crystal = item.crystal
        assert 2 <= crystal.num_sites <= 8
        assert np.isfinite(crystal.frac_coords).all()
        assert 10 < np.linalg.det(crystal.lattice) / crystal.num_sites < 21
        assert 1 <= item.space_group <= 230
        assert abs(item.formation_energy) < 1


def test_most_structures_have_polymorphs(builtin):
    formulas = collections.Counter(
        tuple(sorted(item.crystal.atomic_numbers.tolist())) for item in builtin
    )
    sizes = np.array([formulas[f] for f in formulas])
    assert np.average(sizes >= 3, weights=sizes) > 0.8


def test_metadata_names_the_energy_model_and_its_references(builtin):
    metadata = emt.load_metadata()
    assert metadata["energy_model"] == "ASE EMT"
    assert metadata["generator_version"] == emt.GENERATOR_VERSION
    assert sorted(metadata["reference_energies"]) == sorted(emt.METALS)


def test_save_then_load_gives_the_records_back(tmp_path, builtin):
    records = builtin[:5]
    path = tmp_path / "some.arrow"
    emt.save(emt.Generated(records, {"duplicate": 2}), path)
    assert emt.load_metadata(path)["num_dropped"] == {"duplicate": 2}
    for item, other in zip(records, emt.load(path), strict=True):
        assert (item.id, item.space_group) == (other.id, other.space_group)
        np.testing.assert_array_equal(
            item.crystal.frac_coords, other.crystal.frac_coords
        )
        np.testing.assert_array_equal(item.crystal.lattice, other.crystal.lattice)
