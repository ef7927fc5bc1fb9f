"""POSCAR files of all dialects, with pymatgen and ASE as oracles."""

import io

import ase.io
import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.io.vasp import Poscar

from crystaljax.crystals import elements, poscar, symmetry_search, validity

HEAD = "Cu3Au\n1.0\n3.7 0 0\n0 3.7 0\n0 0 3.7\n"
SITES = ["0 0 0", "0 0.5 0.5", "0.5 0 0.5", "0.5 0.5 0"]
PLAIN = HEAD + "Au Cu\n1 3\nDirect\n" + "\n".join(SITES) + "\n"
TRICLINIC = Structure(
    Lattice.from_parameters(3.1, 4.2, 5.3, 81, 97, 104),
    ["O", "Na", "O", "Cl"],
    [[0.11, 0.22, 0.93], [0.4, 0.3, 0.1], [0.6, 0.77, 0.3], [0.2, 0.9, 0.55]],
)


def assert_same(crystal, expected):
    assert crystal.atomic_numbers.tolist() == expected.atomic_numbers.tolist()
    np.testing.assert_allclose(crystal.lattice, expected.lattice, atol=1e-12)
    shift = crystal.frac_coords - expected.frac_coords
    np.testing.assert_allclose(shift - np.round(shift), 0, atol=1e-12)


def is_cu3au(text):
    assert_same(poscar.parse_poscar(text), poscar.parse_poscar(PLAIN))


def with_flags(flags, head="Au Cu\n1 3\nSelective dynamics\nDirect\n"):
    return HEAD + head + "".join(f"{site} {flags}\n" for site in SITES)


def test_plain_file():
    crystal = poscar.parse_poscar(PLAIN)
    assert crystal.atomic_numbers.tolist() == [79, 29, 29, 29]
    np.testing.assert_array_equal(crystal.lattice, np.eye(3) * 3.7)
    np.testing.assert_array_equal(crystal.frac_coords[3], [0.5, 0.5, 0])


@pytest.mark.parametrize(
    "flags",
    [
        "T T T",
        "F F F",
        "T F T",
        ".TRUE. .FALSE. .TRUE.",
        ".T. .F. .T.",
        "true false true",
        "t f t",
        "",
        "F",
        "T T",
        "T T T Cu?",
        "T T T ! F",
        "? x -",
    ],
)
def test_flags_of_selective_dynamics_do_not_change_the_crystal(flags):
    is_cu3au(with_flags(flags))


def test_flags_without_the_line_that_announces_them():
    is_cu3au(with_flags("T T T", "Au Cu\n1 3\nDirect\n"))
    is_cu3au(with_flags("F F F", "Au Cu\n1 3\nDirect\n"))


@pytest.mark.parametrize(
    "rest",
    [
        "\n0 0 0\n0 0 0\n0 0 0\n0 0 0\n",
        "\n nan ******* 0\n",
        "\n0.1 0.2\n",
        "Lattice velocities and vectors\n1\n 0 0 0\n",
        "\n" + "0 0 0\n" * 4 + "\n1\n0.5 ****\n" + "x" * 100,
        "Cartesian\n1 1 1\n",
    ],
)
def test_velocities_and_what_follows_are_not_read(rest):
    is_cu3au(PLAIN + rest)


@pytest.mark.parametrize(
    "text",
    [
        PLAIN.replace("Cu3Au", ""),
        PLAIN.replace("Direct", "direct"),
        PLAIN.replace("Direct", "Fractional"),
        PLAIN.replace("1.0\n", "1.0 ! scale\n"),
        PLAIN.replace("Au Cu", "Au/0a1b2c Cu_pv/ffff"),
        PLAIN.replace("Au Cu", "AU cu"),
        PLAIN.replace("Au Cu\n1 3", "Au Cu Cu\n1 2 1"),
        PLAIN.replace("Au Cu\n1 3", "Au\nCu\n1\n3"),
        PLAIN.replace("3.7 0 0", "3.7D0 0.0E+00 0"),
        PLAIN.replace("1.0\n3.7", "3.7\n1")
        .replace(" 3.7 ", " 1 ")
        .replace(" 3.7", " 1"),
        PLAIN.replace("0.5 0.5 0\n", "0.5 0.5 0 Cu\n"),
        PLAIN.replace("0.5 0.5 0\n", "-12.5 7.5 1e6\n"),
    ],
)
def test_ways_to_write_the_same_crystal(text):
    assert text != PLAIN
    is_cu3au(text)


def test_sites_at_the_end_of_the_file_need_no_newline():
    is_cu3au(PLAIN.rstrip("\n"))


@pytest.mark.parametrize("mode", ["Cartesian", "cart", "Kartesian", "k"])
@pytest.mark.parametrize("scale", ["2.5", "-170.3", "1.1 0.8 1.3"])
def test_scale_applies_to_lattice_and_cartesian_coordinates(mode, scale):
    lattice = TRICLINIC.lattice.matrix
    lines = ["x", scale, *(" ".join(map(str, row)) for row in lattice)]
    lines += ["O Na Cl", "2 1 1", mode]
    order = [0, 2, 1, 3]
    lines += [" ".join(map(str, TRICLINIC.cart_coords[i])) for i in order]
    crystal = poscar.parse_poscar("\n".join(lines))
    factors = np.array([float(each) for each in scale.split()])
    if factors[0] < 0:
        assert validity.cell_volume(crystal) == pytest.approx(170.3)
        factors = (170.3 / TRICLINIC.volume) ** (1 / 3)
    np.testing.assert_allclose(crystal.lattice, lattice * factors, atol=1e-12)
    expected = (TRICLINIC.frac_coords[order]) % 1
    np.testing.assert_allclose(crystal.frac_coords, expected, atol=1e-12)


def test_volume_with_cartesian_coordinates_by_hand():
    text = PLAIN.replace("1.0\n", "-50.653\n").replace("3.7", "1").replace("D", "C")
    is_cu3au(text)
    crystal = poscar.parse_poscar(text)
    assert validity.check(crystal).shortest_distance == pytest.approx(2.616, abs=1e-3)
    assert symmetry_search.find_space_group(crystal, 0.01) == 221


def test_more_than_twenty_species_over_several_lines():
    symbols = list(elements.SYMBOLS[2:27])
    counts = [1 + i % 3 for i in range(25)]
    sites = [f"{i / 60:.6f} 0.5 0" for i in range(sum(counts))]
    text = HEAD.replace("3.7", "40")
    for values in (symbols, counts):
        text += " ".join(map(str, values[:20])) + "\n"
        text += " ".join(map(str, values[20:])) + "\n"
    crystal = poscar.parse_poscar(text + "Direct\n" + "\n".join(sites))
    assert crystal.atomic_numbers.tolist() == np.repeat(range(3, 28), counts).tolist()


@pytest.mark.parametrize("suffix", ["", "1", "/abc123", "_pv"])
def test_species_at_the_end_of_the_lines(suffix):
    names = ["Au", "Cu", "Cu", "Cu"]
    for flags, tag in (("", ""), ("T T F ", ""), ("T F .T. ", "Selective\n")):
        text = HEAD + f"1 3\n{tag}Direct\n"
        text += "".join(
            f"{site} {flags}{name}{suffix}\n"
            for site, name in zip(SITES, names, strict=True)
        )
        is_cu3au(text)


@pytest.mark.parametrize("flags", ["", "T T T", "F F F", "F F", "T", ". F T"])
@pytest.mark.parametrize("tag", ["", "Selective dynamics\n"])
def test_file_of_vasp_4_without_species_is_refused(flags, tag):
    text = with_flags(flags, f"1 3\n{tag}Direct\n").replace("Cu3Au", "Au Cu")
    with pytest.raises(ValueError, match="does not say the species"):
        poscar.parse_poscar(text)


def test_lone_f_is_fluorine_or_a_flag():
    text = with_flags("F", "4\nDirect\n")
    assert poscar.parse_poscar(text).atomic_numbers.tolist() == [9] * 4
    with pytest.raises(ValueError, match="does not say the species"):
        poscar.parse_poscar(with_flags("F", "4\nSelective\nDirect\n"))


@pytest.mark.parametrize(
    "old, new, problem",
    [
        ("Au Cu\n", "Au X\n", "line 6 has 'X'"),
        ("Au Cu\n", "Au D\n", "line 6 has 'D'"),
        ("Au Cu\n", "Au Wat\n", "line 6 has 'Wat'"),
        ("Au Cu\n", "Au H1.25\n", "line 6 has 'H1.25'"),
        ("Au Cu\n", "AuCu\n", "line 6 has 'AuCu'"),
        ("Au Cu\n", "Au\n", "line 7 has 2 numbers of atoms for 1 species"),
        ("1 3\n", "1 4\n", "line 13 has 0 coordinates"),
        ("1 3\n", "1 2\n", "line 12 is another site; the counts say 3"),
        ("1 3\n", "1 -3\n", "line 7 has '1' where the symbol"),
        ("1 3\n", "1 3.0\n", "line 7 has '1' where the symbol"),
        ("1 3\n", "0 0\n", "numbers of atoms"),
        ("1 3\n", "9" * 5000 + "\n", "line 7 has '9999"),
        ("Direct\n", "", "line 8 has '0 0 0'; expected 'Direct'"),
        ("1.0\n", "0\n", "scale '0'"),
        ("1.0\n", "1.0 2.0\n", "line 2 has 2 numbers"),
        ("1.0\n", "1.0 2.0 -1.0\n", "scale '1.0 2.0 -1.0'"),
        ("1.0\n", "1.0 O.9 1.1\n", "line 2 has 'O.9'"),
        ("1.0\n", "1e999\n", "scale"),
        ("1.0\n", "-0\n", "scale '-0'"),
        ("1.0\n", "nan\n", "line 2 has 'nan'"),
        ("3.7 0 0\n", "3.7 0\n", "line 3 has 2 numbers"),
        ("3.7 0 0\n", "0 3.7 0\n", "span no cell"),
        ("3.7 0 0\n", "1e999 0 0\n", "span no cell"),
        ("0 0.5 0.5\n", "0 0. 5 0.5\n", "line 10 has 4 numbers"),
        ("0 0.5 0.5\n", "0 0.5\n", "line 10 has 2 coordinates"),
        ("0 0.5 0.5\n", "0 0.5O 0.5\n", "line 10 has '0.5O'"),
        ("0 0.5 0.5\n", "0 ***** 0.5\n", r"line 10 has '\*\*\*\*\*'"),
        ("0 0.5 0.5\n", "\n0 0.5 0.5\n", "line 10 has 0 coordinates"),
    ],
)
def test_damaged_line_is_named(old, new, problem):
    assert old in PLAIN
    with pytest.raises(ValueError, match=problem):
        poscar.parse_poscar(PLAIN.replace(old, new, 1))


def test_names_of_sites_that_contradict_the_species():
    lines = zip(SITES, ["Au", "Cu", "Au", "Cu"], strict=True)
    text = HEAD + "Au Cu\n1 3\nDirect\n" + "".join(f"{a} {b}\n" for a, b in lines)
    with pytest.raises(ValueError, match="line 11 has the name Au; the counts say Cu"):
        poscar.parse_poscar(text)


@pytest.mark.parametrize("length", range(0, len(PLAIN), 7))
def test_file_that_ends_early_is_refused(length):
    # All but the last digit.
    with pytest.raises(ValueError, match="not readable as POSCAR"):
        poscar.parse_poscar(PLAIN[:length])


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("selective", [True, False])
def test_files_of_pymatgen_and_ase(direct, selective):
    sorted_sites = TRICLINIC.get_sorted_structure()
    flags = [[True, False, True]] * 4 if selective else None
    velocities = np.arange(12).reshape(4, 3).tolist()
    written = Poscar(
        sorted_sites, selective_dynamics=flags, velocities=velocities
    ).get_str(direct=direct, significant_figures=16)
    crystal = poscar.parse_poscar(written)
    assert crystal.atomic_numbers.tolist() == [s.specie.Z for s in sorted_sites]
    np.testing.assert_allclose(crystal.lattice, TRICLINIC.lattice.matrix, atol=1e-12)
    shift = crystal.frac_coords - sorted_sites.frac_coords
    np.testing.assert_allclose(shift - np.round(shift), 0, atol=1e-12)
    atoms = TRICLINIC.to_ase_atoms()
    file = io.StringIO()
    ase.io.write(file, atoms, format="vasp", direct=direct)
    crystal = poscar.parse_poscar(file.getvalue())
    found = ase.io.read(io.StringIO(file.getvalue()), format="vasp")
    assert crystal.atomic_numbers.tolist() == found.numbers.tolist()
    shift = crystal.frac_coords - found.get_scaled_positions()
    np.testing.assert_allclose(shift - np.round(shift), 0, atol=1e-12)
