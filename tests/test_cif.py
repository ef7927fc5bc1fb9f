"""CIFs are read for what they say, or refused with both values."""

import re

import group_crystals
import numpy as np
import pytest
import spglib
from pymatgen.core import Lattice, Structure
from pymatgen.io.cif import CifWriter

from crystaljax.crystals import (
    cif,
    elements,
    operations,
    refusals,
    space_group_names,
    stated_formulas,
    validity,
)

_FORMULA = "sites contradict the formula of the file"
_CONTRADICTION = "operations contradict the space group of the file"
COPPER_GOLD = """data_AuCu3
_cell_length_a 3.7
_cell_length_b 3.7
_cell_length_c 3.7
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'P 1'
_symmetry_Int_Tables_number 1
_chemical_formula_sum 'Au1 Cu3'
_cell_volume 50.653
_cell_formula_units_Z 1
loop_
_symmetry_equiv_pos_as_xyz
'x, y, z'
loop_
_atom_site_type_symbol
_atom_site_label
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Au Au1 0 0 0 1
Cu Cu1 0 0.5 0.5 1
Cu Cu2 0.5 0 0.5 1
Cu Cu3 0.5 0.5 0 1
"""


NO_FORMULA = ("_chemical_formula_sum 'Au1 Cu3'\n", "")


def formula(text):
    return elements.cell_formula(cif.parse_cif(text).atomic_numbers)


def edit(*pairs, text=COPPER_GOLD):
    for old, new in pairs:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def refuse(text, reason, *words):
    with pytest.raises(refusals.RefusedError) as caught:
        cif.parse_cif(text)
    assert caught.value.reason == reason
    for word in words:
        assert word in str(caught.value)


def build(
    sites, *, lattice=(4, 4, 4, 90, 90, 90), types=True, occupancies=None, **values
):
    """A CIF of sites (name, x, y, z) that says of itself what ``values`` hold."""
    names = ("length_a", "length_b", "length_c")
    names += ("angle_alpha", "angle_beta", "angle_gamma")
    lines = ["data_x"]
    lines += [
        f"_cell_{name} {value}" for name, value in zip(names, lattice, strict=True)
    ]
    tags = {
        "formula": "_chemical_formula_sum",
        "moiety": "_chemical_formula_moiety",
        "units": "_cell_formula_units_Z",
        "name": "_symmetry_space_group_name_H-M",
        "number": "_space_group_IT_number",
        "hall": "_space_group_name_Hall",
        "choice": "_space_group_IT_coordinate_system_code",
    }
    lines += [f"{tags[key]} '{value}'" for key, value in values.items()]
    lines += ["loop_", "_atom_site_label"]
    lines += ["_atom_site_type_symbol"] * types
    lines += [f"_atom_site_fract_{axis}" for axis in "xyz"]
    lines += ["_atom_site_occupancy"] * (occupancies is not None)
    for index, (name, *coords) in enumerate(sites):
        columns = [f"{name}", *([name] if types else []), *map(str, coords)]
        lines.append(" ".join(columns + ([occupancies[index]] if occupancies else [])))
    return "\n".join(lines) + "\n"


# -------------------------------------------------------- the file against itself


def test_a_file_that_agrees_with_itself_is_read():
    crystal = cif.parse_cif(COPPER_GOLD)
    assert elements.cell_formula(crystal.atomic_numbers) == "Au1Cu3"
    np.testing.assert_array_equal(crystal.frac_coords[1], [0, 0.5, 0.5])


@pytest.mark.parametrize(
    "edits, reason, words",
    [
        (
            [("Cu Cu3 0.5 0.5 0 1\n", "")],
            "sites contradict the formula of the file",
            ["Au1Cu2", "Au1 Cu3"],
        ),
        (
            [("units_Z 1", "units_Z 2")],
            "sites contradict the formula of the file",
            ["Au1Cu3", "2 formula units"],
        ),
        (
            [("'Au1 Cu3'", "'Ag1 Cu3'")],
            "sites contradict the formula of the file",
            ["Au1Cu3", "Ag1 Cu3"],
        ),
        (
            [("'Au1 Cu3'", "'Au1 Cu3 Vx2'")],
            "sites contradict the formula of the file",
            ["Vx2", "cannot be read"],
        ),
        (
            [("50.653", "60.5")],
            "cell contradicts the volume of the file",
            ["50.653", "60.5"],
        ),
        (
            [("length_c 3.7", "length_c 7.3")],
            "cell contradicts the volume of the file",
            ["99.937", "50.653"],
        ),
        (
            [("'P 1'", "'P -1'"), ("number 1", "number 2")],
            "operations contradict the space group of the file",
            ["P -1", "space group 1"],
        ),
        (
            [("number 1", "number 225")],
            "operations contradict the space group of the file",
            ["225", "space group 1"],
        ),
        (
            [("'x, y, z'", "'x, y, z'\n'-x, y, -z'\n'-x, -y, z'")],
            "operations contradict the space group of the file",
            ["no group", "3"],
        ),
        (
            [("'x, y, z'", "'x, y, z'\n'x, y, q'")],
            "operations contradict the space group of the file",
            ["x,y,q"],
        ),
        (
            [("length_c 3.7", "length_c 3.7\n_cell_length_c 3.9")],
            "crystal not readable",
            ["3.7", "3.9", "twice"],
        ),
        ([("length_c 3.7", "length_c ?")], "crystal not readable", ["length_c"]),
        ([("0.5 0.5 0 1", "0.5 0.5 nan 1")], "crystal not readable", ["nan", "Cu3"]),
        ([("0.5 0.5 0 1", "0.5 0.5 0")], "crystal not readable", []),
        ([("0.5 0.5 0 1", "0.5 0.5 0 1\nCu")], "crystal not readable", []),
    ],
)
def test_a_file_that_contradicts_itself_is_refused_with_both_values(
    edits, reason, words
):
    refuse(edit(*edits), reason, *words)


@pytest.mark.parametrize(
    "edits",
    [
        [("50.653", "50.6(2)")],
        [("_cell_volume 50.653\n", "")],
        [("units_Z 1\n", "units_Z ?\n")],
        [("'Au1 Cu3'", "'Cu3 Au'")],
        [("'Au1 Cu3'", "'Au1 Cu3'\n_chemical_formula_sum ''")],
        [("_sum 'Au1 Cu3'", "_moiety 'Au 3+, 3(Cu 1-)'")],
        [("'Au1 Cu3'", "'Au0.25 Cu0.75'"), ("units_Z 1", "units_Z 4")],
        [("data_AuCu3", "data_global\n_publ_author_name 'A'\ndata_AuCu3")],
        [("0.5 0.5 0 1", "0.5(1) 1/2 1.0 1.00")],
        [("0.5 0.5 0 1", "-123.5 0.5 0 1")],
        [("'x, y, z'", "+X,+Y,+Z")],
    ],
)
def test_what_means_the_same_is_read_as_the_same(edits):
    read, plain = cif.parse_cif(edit(*edits)), cif.parse_cif(COPPER_GOLD)
    np.testing.assert_array_equal(read.atomic_numbers, plain.atomic_numbers)
    np.testing.assert_allclose(read.frac_coords, plain.frac_coords, atol=1e-12)


@pytest.mark.parametrize(
    "text, counts",
    [
        ("Au1 Cu3", {"Au": 1, "Cu": 3}),
        ("H2 Mg1 O2", {"H": 2, "Mg": 1, "O": 2}),
        ("Mg (O H)2", {"H": 2, "Mg": 1, "O": 2}),
        ("C2 D6", {"C": 2, "H": 6}),
        ("Cu 2+, 2(Cl 1-), 2(H2 O)", {"Cu": 1, "Cl": 2, "H": 4, "O": 2}),
        ("CuSO4.5H2O", {"Cu": 1, "S": 1, "O": 9, "H": 10}),
        ("Al2O3.2SiO2", None),
        ("Au1 Xx3", None),
        ("3", None),
        ("", None),
    ],
)
def test_formulas_of_files(text, counts):
    assert stated_formulas.parse_formula(text) == counts


@pytest.mark.parametrize("symbols", [["N"], ["O"] * 5, ["Li", "O"] * 5, ["H"] * 3])
def test_halves_of_molecules_as_pymatgen_counts_them(symbols):
    # It writes Z = 0 for one N, and 2 for O5.
    coords = np.random.default_rng(0).random((len(symbols), 3))
    made = Structure(Lattice.cubic(6), symbols, coords)
    found = cif.parse_cif(str(CifWriter(made)))
    assert len(found.atomic_numbers) == len(symbols)
    wrong = re.sub(r"(_units_Z +)\d", r"\g<1>7", str(CifWriter(made)))
    refuse(wrong, _FORMULA, "the file says 7 formula units")


def test_zero_says_nothing():
    for number in ("0", "0.0"):
        assert formula(edit(("units_Z 1", f"units_Z {number}"))) == "Au1Cu3"
    refuse(edit(("units_Z 1", "units_Z -1")), _FORMULA, "expected a positive number")
    zero = edit(("units_Z 1", "units_Z 0"), ("Cu Cu3 0.5 0.5 0 1\n", ""))
    refuse(zero, _FORMULA, "Au1Cu2")
    assert formula(edit(("Tables_number 1", "Tables_number 0"))) == "Au1Cu3"
    assert formula(build([("Au", 0, 0, 0)], formula="Au", number="0")) == "Au1"
    refuse(build([("Au", 0, 0, 0)], number="0"), "symmetry not said or not known")


def test_numbers_beyond_all_bounds_are_refused():
    sites = [("Cu", 1e300, 0.2, 0.3)]
    refuse(build(sites, name="P -1"), refusals.UNREADABLE, "1e+300")
    sites = [("Cu", 0.1, 0.2, 0.3)]
    text = build(sites, lattice=(1e300, 4, 4, 90, 90, 90), name="P -1")
    refuse(text, refusals.UNREADABLE, "1e+300")


@pytest.mark.parametrize(
    "tag",
    ["calc_flag", "disorder_group", "attached_hydrogens", "symmetry_multiplicity"],
)
def test_a_column_of_another_length_is_refused(tag):
    text = COPPER_GOLD + f"loop_\n_atom_site_{tag}\n1\n"
    refuse(text, refusals.UNREADABLE, tag, "1 values for 4 sites")


def test_two_crystals_in_one_file_are_refused():
    refuse(COPPER_GOLD + COPPER_GOLD.replace("data_", "data_b"), refusals.UNREADABLE)


@pytest.mark.parametrize("lines", range(1, COPPER_GOLD.count("\n")))
def test_a_file_that_ends_early_is_never_another_crystal(lines):
    cut = "\n".join(COPPER_GOLD.splitlines()[:lines])
    with pytest.raises(ValueError):
        cif.parse_cif(cut)


# ------------------------------------------------------------- sites that vanish


@pytest.mark.parametrize(
    "name",
    [
        "OH",
        "Wat",
        "Ow",
        "Va",
        "Vac",
        "X",
        "M",
        "Du",
        "Cp",
        "Zz",
        "Me",
        "T",
        "T1",
        "Nb/Zr",
        "FeCo",
        "Fe,Co",
        "Fe|Co",
        "Al0.5",
        "H2O",
        "NH4",
        "Q",
        "0",
        "*",
        "N+H",
        "wAt",
        "OH-",
        "Nb/Zr1",
        "R",
    ],
)
@pytest.mark.parametrize("types", [True, False])
def test_names_that_are_no_elements_are_refused(name, types):
    sites = [("Mg", 0, 0, 0), (name, 0.5, 0.5, 0.5)]
    refuse(build(sites, types=types), "site is no element", name)


@pytest.mark.parametrize(
    "name, types, number",
    [
        ("Cu", True, 29),
        ("Cu2+", True, 29),
        ("Cu+2", True, 29),
        ("O2-", True, 8),
        ("Cu1", True, 29),
        ("Cu1", False, 29),
        ("Cu12A", False, 29),
        ("Si2_1", False, 14),
        ("O", True, 8),
    ],
)
def test_names_that_are_elements_need_no_formula(name, types, number):
    sites = [("Mg", 0, 0, 0), (name, 0.5, 0.5, 0.5)]
    text = build(sites, types=types, name="P 1")
    found = cif.parse_cif(text).atomic_numbers
    assert found.tolist() == [12, number]


@pytest.mark.parametrize(
    "name, types, stated",
    [
        ("CL", True, "Cl1 Mg1"),
        ("CO", True, "Co1 Mg1"),
        ("2H", True, "H1 Mg1"),
        ("7Li", True, "Li1 Mg1"),
        ("D", True, "D1 Mg1"),
        ("D1", False, "H1 Mg1"),
        ("W1", False, "Mg1 W1"),
        ("fe", False, "Fe1 Mg1"),
    ],
)
def test_names_that_very_likely_are_elements_count_if_the_formula_says_so(
    name, types, stated
):
    sites = [("Mg", 0, 0, 0), (name, 0.5, 0.5, 0.5)]
    expected = stated.replace("D1", "H1").split()
    assert formula(build(sites, types=types, formula=stated)) == "".join(
        sorted(expected)
    )
    refuse(
        build(sites, types=types, formula="Mg1 O1"),
        "sites contradict the formula of the file",
    )


@pytest.mark.parametrize("name", ["CO", "2H", "7Li", "D", "N2"])
def test_doubtful_types_without_a_formula_are_refused(name):
    sites = [("Mg", 0, 0, 0), (name, 0.5, 0.5, 0.5)]
    refuse(build(sites), "site is no element", name)


def test_a_type_that_is_unknown_is_read_by_its_label():
    text = edit(("Cu Cu3 0.5", "? Cu3 0.5"))
    assert formula(text) == "Au1Cu3"
    refuse(edit(("Cu Cu3 0.5", "? T3 0.5")), "site is no element", "T3", "tetrahedral")


@pytest.mark.parametrize("occupancy", ["1", "1.0", ".", "1.00000", "1(0)"])
def test_full_sites(occupancy):
    assert formula(edit(("0.5 0.5 0 1", f"0.5 0.5 0 {occupancy}"))) == "Au1Cu3"


def test_an_unknown_occupancy_is_full_if_the_formula_says_so():
    text = edit(("0.5 0.5 0 1", "0.5 0.5 0 ?"))
    assert formula(text) == "Au1Cu3"
    refuse(edit(NO_FORMULA, text=text), "site is no element", "Cu3")


def test_empty_sites_and_dummies_vanish_only_if_the_formula_says_so():
    text = edit(("0.5 0.5 0 1", "0.5 0.5 0 0"))
    refuse(text, _FORMULA, "Au1Cu2", "Au1 Cu3")
    refuse(edit(NO_FORMULA, text=text), "site is no element", "Cu3")
    assert formula(edit(("'Au1 Cu3'", "'Au1 Cu2'"), text=text)) == "Au1Cu2"
    dummy = edit(
        ("_atom_site_occupancy\n", "_atom_site_calc_flag\n"),
        ("0 0 0 1", "0 0 0 d"),
        ("0 0.5 0.5 1", "0 0.5 0.5 d"),
        ("0.5 0 0.5 1", "0.5 0 0.5 d"),
        ("0.5 0.5 0 1\n", "0.5 0.5 0 d\nX X1 0.5 0.5 0.5 dum\n"),
    )
    assert formula(dummy) == "Au1Cu3"


@pytest.mark.parametrize("occupancy", ["0.5", "0.99", "1.5", "-1", "1e-3"])
def test_partly_occupied_sites_are_refused(occupancy):
    text = edit(("0.5 0.5 0 1", f"0.5 0.5 0 {occupancy}"))
    refuse(text, "site partly occupied", "Cu3", occupancy)


def test_two_elements_at_one_position_are_refused():
    sites = [("Cu", 0, 0, 0), ("Au", 0, 0, 0)]
    refuse(build(sites, name="P -1"), "site partly occupied", "Cu", "Au")


def test_hydrogens_that_are_counted_but_not_listed_are_missed():
    text = build([("Mg", 0, 0, 0), ("O", 0.3, 0.3, 0.3)], name="P -1")
    assert formula(text) == "Mg1O2"
    text = text.replace("data_x", "data_x\n_chemical_formula_sum 'H2 Mg O2'")
    refuse(text, _FORMULA, "Mg1O2", "H2 Mg O2")


# ------------------------------------------------ symmetry that is named, not listed

# A number of a setting in spglib's table → every 7th, and all that people get wrong.
SETTINGS = sorted(
    {*range(1, 531, 7), 3, 6, 9, 81, 90, 99, 433, 434, 435, 458, 525, 526}
)


def cell_of(number, choice):
    """A cell that a space group with these axes can have, and no higher symmetry."""
    if number <= 2:
        return (15.3, 18.9, 23.1, 81, 94, 103)
    if number <= 15:
        angles = [90.0, 90.0, 90.0]
        angles["abc".index(choice.lstrip("-")[0])] = 103.0
        return (15.3, 18.9, 23.1, *angles)
    if number <= 74:
        return (15.3, 18.9, 23.1, 90, 90, 90)
    if number <= 142:
        return (15.3, 15.3, 23.1, 90, 90, 90)
    if choice == "R":
        return (124.9, 124.9, 124.9, 77, 77, 77)
    if number <= 194:
        return (124.9, 124.9, 29.1, 90, 90, 120)
    return (24.9, 24.9, 24.9, 90, 90, 90)


def assert_has_group(text, number):
    crystal = cif.parse_cif(text)
    cell = (crystal.lattice, crystal.frac_coords, crystal.atomic_numbers)
    found = spglib.get_symmetry_dataset(cell, symprec=1e-3)
    assert found.number == number
    return crystal


@pytest.mark.parametrize("hall_number", SETTINGS)
@pytest.mark.parametrize("how", ["hall", "symbol", "full"])
def test_the_group_found_is_the_one_that_was_named(hall_number, how):
    setting = spglib.get_spacegroup_type(hall_number)
    # Two sites of which no two of more than 100 images come close.
    sites = [("Cu", 0.0631, 0.2179, 0.3413), ("Au", 0.3107, 0.1611, 0.0719)]
    values = {"hall": {"hall": setting.hall_symbol}}
    suffix = setting.choice[:1] if setting.choice[:1] in ("1", "2", "H", "R") else ""
    named = {
        "symbol": setting.international.split("=")[-1].replace("_", "").strip(),
        "full": setting.international_full.replace("_", ""),
    }
    for key, name in named.items():
        values[key] = {"name": f"{name} :{suffix}" if suffix else name}
    text = build(sites, lattice=cell_of(setting.number, setting.choice), **values[how])
    crystal = assert_has_group(text, setting.number)
    listed = spglib.get_symmetry_from_database(hall_number)
    if how == "hall" or suffix:
        assert crystal.num_sites == 2 * len(listed["rotations"])


NACL = [("Na", 0, 0, 0), ("Cl", 0.5, 0.5, 0.5)]
CUBE = (5.64, 5.64, 5.64, 90, 90, 90)


@pytest.mark.parametrize(
    "values",
    [
        {"name": "F m -3 m"},
        {"name": "Fm-3m"},
        {"name": "F m 3 m"},
        {"name": "Fm3m"},
        {"name": "F 4/m -3 2/m"},
        {"name": "F_m_-3_m"},
        {"hall": "-F 4 2 3"},
        {"number": "225"},
        {"name": "F m -3 m", "number": "225", "hall": "-F 4 2 3"},
    ],
)
def test_rock_salt_by_its_names(values):
    crystal = assert_has_group(build(NACL, lattice=CUBE, **values), 225)
    assert elements.cell_formula(crystal.atomic_numbers) == "Cl4Na4"
    assert validity.check(crystal).shortest_distance == pytest.approx(2.82)


@pytest.mark.parametrize(
    "name, x",
    [
        ("F d -3 m :2", 0.125),
        ("F d -3 m Z", 0.125),
        ("F d 3 m :2", 0.125),
        ("F d -3 m (origin choice 2)", 0.125),
        ("F d -3 m :1", 0),
        ("F d -3 m S", 0),
        # Which origin is not said: the file's own formula decides.
        ("F d -3 m", 0.125),
        ("F d -3 m", 0),
        ("F 41/d -3 2/m", 0.125),
    ],
)
def test_silicon_with_both_origins(name, x):
    lattice = (5.431,) * 3 + (90,) * 3
    # With the other origin these are positions of 16 atoms.
    values = {} if name[-1] in "12ZS)" else {"formula": "Si", "units": 8}
    text = build([("Si", x, x, x)], lattice=lattice, name=name, **values)
    crystal = assert_has_group(text, 227)
    assert crystal.num_sites == 8
    assert validity.check(crystal).shortest_distance == pytest.approx(2.352, abs=1e-3)


def test_origin_by_number_and_code():
    sites = [("Si", 0.125, 0.125, 0.125)]
    lattice = (5.431,) * 3 + (90,) * 3
    for choice, num_sites in [("1", 16), ("2", 8)]:
        text = build(sites, lattice=lattice, number="227", choice=choice)
        assert cif.parse_cif(text).num_sites == num_sites


@pytest.mark.parametrize("suffix", ["", " :H", " H", " :R", ":r"])
def test_hexagonal_and_rhombohedral_axes(suffix):
    # Bismuth, z = 0.234.
    rhombohedral = "r" in suffix.lower()
    if rhombohedral:
        text = build(
            [("Bi", 0.234, 0.234, 0.234)],
            lattice=(4.746, 4.746, 4.746, 57.23, 57.23, 57.23),
            name="R -3 m" + suffix,
        )
    else:
        text = build(
            [("Bi", 0, 0, 0.234)],
            lattice=(4.546, 4.546, 11.862, 90, 90, 120),
            name="R -3 m" + suffix,
        )
    crystal = assert_has_group(text, 166)
    assert crystal.num_sites == (2 if rhombohedral else 6)
    assert validity.check(crystal).shortest_distance == pytest.approx(3.07, abs=0.02)


@pytest.mark.parametrize(
    "name, axis",
    [
        ("P 21/c", "b"),
        ("P 1 21/c 1", "b"),
        ("P 21/n", "b"),
        ("P 1 21/n 1", "b"),
        ("P 21/a", "b"),
        ("P 1 21/a 1", "b"),
        ("P 1 1 21/b", "c"),
        ("P 21/b 1 1", "a"),
        ("P2(1)/c", "b"),
    ],
)
def test_cell_choices_of_a_monoclinic_group(name, axis):
    sites = [("Cu", 0.11, 0.23, 0.37), ("Au", 0.61, 0.42, 0.08)]
    text = build(sites, lattice=cell_of(14, axis), name=name)
    assert assert_has_group(text, 14).num_sites == 8


def test_what_is_ambiguous_and_not_decided_is_refused():
    # A general position is as good with either origin.
    text = build(
        [("Cu", 0.06, 0.14, 0.27)], lattice=(12.3,) * 3 + (90,) * 3, name="F d -3 m"
    )
    refuse(text, "symmetry not said or not known", "F d -3 m", ":1", ":2")


def test_what_is_ambiguous_is_decided_by_the_formula():
    # Spinel MgAl2O4 with the origin in a centre of symmetry.
    sites = [("Mg", 0.125, 0.125, 0.125), ("Al", 0.5, 0.5, 0.5)]
    sites.append(("O", 0.2624, 0.2624, 0.2624))
    text = build(
        sites, lattice=(8.08,) * 3 + (90,) * 3, name="F d -3 m", formula="Al2 Mg O4"
    )
    assert formula(text) == "Al16Mg8O32"


@pytest.mark.parametrize(
    "values, reason",
    [
        ({"name": "F q -3 m"}, "symmetry not said or not known"),
        ({"number": "231"}, "symmetry not said or not known"),
        ({"number": "Fm-3m"}, "symmetry not said or not known"),
        ({"hall": "-F 4 2 9"}, "symmetry not said or not known"),
        ({"name": "F m -3 m", "number": "221"}, _CONTRADICTION),
        ({"name": "F m -3 m", "hall": "-P 4 2 3"}, _CONTRADICTION),
        ({"number": "225", "hall": "-P 4 2 3"}, _CONTRADICTION),
        ({}, "sites contradict the formula of the file"),
    ],
)
def test_symmetry_that_is_unknown_or_contradicts_itself_is_refused(values, reason):
    with pytest.raises(refusals.RefusedError) as caught:
        cif.parse_cif(build(NACL, lattice=CUBE, **values))
    if values:
        assert caught.value.reason == reason


def test_a_cell_that_does_not_have_the_named_symmetry_is_refused():
    text = build(NACL, lattice=(5.64, 5.64, 6.1, 90, 90, 90), name="F m -3 m")
    refuse(text, _CONTRADICTION, "F m -3 m")


@pytest.mark.parametrize("group", ["Pm-3m", "P4/mmm", "Pnma", "R-3m", "Fd-3m", "C2/m"])
def test_files_of_pymatgen_with_symmetry(group):
    lattices = {
        "Pm-3m": Lattice.cubic(4.1),
        "P4/mmm": Lattice.tetragonal(3.9, 4.6),
        "Pnma": Lattice.orthorhombic(5.4, 7.6, 5.3),
        "R-3m": Lattice.hexagonal(4.5, 11.8),
        "Fd-3m": Lattice.cubic(8.1),
        "C2/m": Lattice.monoclinic(9.4, 3.9, 6.2, 103),
    }
    crystal = group_crystals.from_spacegroup(
        group, lattices[group], ["Sr", "O"], [[0, 0, 0], [0.21, 0.25, 0.37]]
    )
    text = crystal.to(fmt="cif", symprec=0.01)
    read = cif.parse_cif(text)
    expected = Structure.from_str(text, fmt="cif")
    assert read.num_sites == len(expected)
    apart = read.frac_coords[:, None] - expected.frac_coords
    apart -= np.round(apart)
    assert np.abs(apart).max(axis=-1).min(axis=0).max() < 1e-4


def test_every_setting_has_operations_of_its_own_group():
    for number in range(1, 231):
        for setting in space_group_names.settings_of_number(number):
            assert operations.find_space_group(setting.operations()) == number
