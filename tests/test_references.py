import ase.build
import numpy as np
import pytest
import scipy.optimize
from ase.calculators.emt import EMT

from crystaljax.crystals import (
    bridge,
    elements,
    structure,
    structure_files,
    validity,
)
from crystaljax.relaxation import ase_relaxation, references
from crystaljax.system import isolation

ONE = isolation.WorkerOptions(num_workers=1)


def emt_energy(symbol, a):
    """EMT energy (eV/atom) of the fcc metal at its lowest."""

    def energy(a):
        atoms = ase.build.bulk(symbol, "fcc", a=a)
        atoms.calc = EMT()
        return atoms.get_potential_energy()

    return scipy.optimize.minimize_scalar(energy, bounds=(a - 0.1, a + 0.1)).fun


def l1_2():
    sites = [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    numbers = np.array([79, 29, 29, 29])
    return structure.Crystal(numbers, np.array(sites, float), np.eye(3) * 3.7)


def write(path, symbol, crystalstructure, a):
    crystal = bridge.from_ase(ase.build.bulk(symbol, crystalstructure, a=a))
    path.write_text(structure_files.cif_text(crystal, symbol))


def test_formation_energy_is_against_the_relaxed_elements():
    relaxed = ase_relaxation.relax(
        l1_2(), "emt", ase_relaxation.RelaxationSettings(fmax=0.005)
    )
    energies, problems = references.element_energies(
        "emt", [79, 29], worker_options=ONE
    )
    assert problems == {}
    expected = relaxed.energy - 0.75 * emt_energy("Cu", 3.6)
    expected -= 0.25 * emt_energy("Au", 4.06)
    found = references.formation_energy(energies, [79, 29, 29, 29], relaxed.energy)
    assert found == pytest.approx(expected, abs=5e-4)
    assert found < 0
    for number, energy in energies.items():
        assert energy == references.elemental_energy("emt", number)


def test_elements_without_a_reference_are_named_and_cost_no_other():
    energies, problems = references.element_energies(
        "emt", [25, 29], worker_options=ONE
    )
    assert list(energies) == [29]
    assert "Mn has no reference structure" in problems[25]
    with pytest.raises(ValueError, match="Mn has no reference structure"):
        references.elemental_energy("emt", 25)


def test_energies_of_a_file_come_first(tmp_path):
    path = tmp_path / "elements.csv"
    path.write_text("element, energy\nMn, -8.9\nCu, -3.5\n")
    given = references.load_references(path)
    energies, problems = references.element_energies("emt", [25, 29], given)
    assert (energies, problems) == ({25: -8.9, 29: -3.5}, {})


def test_lowest_of_the_crystals_of_an_element_counts(tmp_path):
    # bcc is above fcc, also in EMT.
    write(tmp_path / "bcc.cif", "Cu", "bcc", 2.9)
    write(tmp_path / "fcc.cif", "Cu", "fcc", 3.7)
    given = references.load_references(tmp_path)
    energies, problems = references.element_energies(
        "emt", [29], given, worker_options=ONE
    )
    assert problems == {}
    assert energies[29] == pytest.approx(emt_energy("Cu", 3.6), abs=1e-4)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("symbol,energy\nCu,1\n", "expected element and energy"),
        ("element,energy\nXx,1\n", "unknown element 'Xx'"),
        ("element,energy\nCu,low\n", "Cu has the energy 'low'"),
        ("element,energy\nCu\n", "row 1: 1 cells .* expected 2"),
        ("element,energy\nCu,nan\n", "Cu has the energy 'nan'"),
        ("element,energy\nCu,1\nCu,2\n", "has Cu twice"),
        # A decimal comma, and what only Python takes for a number.
        ("element,energy\nCu,-3,73\n", "row 1: 3 cells"),
        ("element,energy\nCu,-3_73\n", "Cu has the energy '-3_73'"),
        ("element,energy\nCu,True\n", "Cu has the energy 'True'"),
        ("element,energy\nCu,-inf\n", "Cu has the energy '-inf'"),
        ("element,energy\nNaN,-1\n", "unknown element 'NaN'"),
        ('element,energy\nCu,"-3.7\n', "no CSV"),
        ("", "it is empty"),
    ],
)
def test_files_that_make_no_sense_are_refused(tmp_path, text, problem):
    path = tmp_path / "elements.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=problem):
        references.load_references(path)


def test_compounds_are_no_references(tmp_path):
    (tmp_path / "alloy.cif").write_text(structure_files.cif_text(l1_2(), "alloy"))
    with pytest.raises(
        ValueError, match=r"alloy.cif is Au1Cu3; expected crystals of o"
    ):
        references.load_references(tmp_path)
    with pytest.raises(FileNotFoundError):
        references.load_references(tmp_path / "nothing.csv")


def test_table_has_a_crystal_for_each_of_89_elements():
    symbols = [elements.symbol(n) for n in range(1, 95) if not 84 <= n <= 88]
    assert len(symbols) == 89
    for symbol in symbols:
        number = elements.atomic_number(symbol)
        crystals = references.reference_crystals("chgnet", number)
        assert crystals, symbol
        for crystal in crystals:
            assert set(crystal.atomic_numbers.tolist()) == {number}
            ratio = validity.check(crystal).shortest_distance_ratio
            # The light actinides (alpha-U 2.75 Å) and N2's triple bond are the most
            # compressed; alkali metals the least.
            assert 0.65 < ratio < 1.5 or symbol in ("He", "Ne", "Ar", "Kr", "Xe")
    with pytest.raises(ValueError, match="Po has no reference crystal"):
        references.reference_crystals("chgnet", 84)


@pytest.mark.parametrize(
    ("symbol", "volume"),
    # Å³ an atom, from densities (CRC Handbook): not where the table is from.
    [
        *[("B", 7.7), ("C", 8.8), ("Mn", 12.2), ("Fe", 11.8), ("Ga", 19.6)],
        *[("As", 21.5), ("Se", 27.3), ("In", 26.1), ("Te", 34.0), ("La", 37.5)],
        *[("Sm", 33.2), ("Ta", 18.0), ("W", 15.8), ("Hg", 23.4), ("Bi", 35.4)],
        *[("U", 20.8), ("Np", 19.3), ("Pu", 20.4), ("Br", 32.8), ("I", 42.7)],
    ],
)
def test_crystals_of_the_table_have_their_densities(symbol, volume):
    crystal = references.reference_crystals("x:y", elements.atomic_number(symbol))[0]
    found = abs(np.linalg.det(crystal.lattice)) / crystal.num_sites
    assert found == pytest.approx(volume, rel=0.1)
