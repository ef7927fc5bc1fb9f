"""Known prototypes decorated with other elements and relaxed: `--source=prototypes`."""

import collections
import itertools

import numpy as np
import pytest
import spglib

from crystaljax import prepare
from crystaljax.crystals import bridge, elements, validity
from crystaljax.data import dataset as datasets
from crystaljax.data.sources import building, decorated, known_prototypes, record
from crystaljax.relaxation import (
    batches,
    calculators,
    device_potentials,
    references,
)

METALS = [elements.atomic_number(symbol) for symbol in ("Ni", "Cu", "Pd", "Au")]


def options(folder, **changed):
    return prepare.PrepareOptions(
        **{
            "source": "prototypes",
            "calculator": "emt",
            "species": ("Cu", "Au"),
            "natoms": (2, 2),
            "num_structures": 5,
            "output": folder / "data",
            "num_workers": 1,
            "figures": False,
        }
        | changed
    )


def test_packaged_prototypes_are_what_they_say():
    kinds = known_prototypes.load()
    every = [each for members in kinds.values() for each in members]
    assert len({each.name for each in every}) == len(every) > 3000
    assert min(map(len, kinds.values())) >= 7
    assert known_prototypes.PATH.stat().st_size < 500_000
    for each in every[::60]:
        crystal = each.crystal
        cell = (crystal.lattice, crystal.frac_coords, crystal.atomic_numbers)
        symmetry = spglib.get_symmetry_dataset(cell, symprec=1e-3)
        # Means may be more symmetric than the structures that they are means of.
        assert symmetry is not None and symmetry.number >= each.space_group
        assert validity.check(crystal).valid, each.name
        assert tuple(sorted(each.kind)) == each.kind


def test_prototypes_that_are_saved_are_read_back(tmp_path):
    rows = known_prototypes.read(known_prototypes.PATH)[:3]
    known_prototypes.save(rows, tmp_path / "few.arrow")
    found = known_prototypes.read(tmp_path / "few.arrow")
    for row, again in zip(rows, found, strict=True):
        assert (row.name, row.species, row.kind) == (
            again.name,
            again.species,
            again.kind,
        )
        np.testing.assert_array_equal(row.crystal.lattice, again.crystal.lattice)


def test_the_seed_alone_decides_which_formulas_are_drawn():
    def draw(seed):
        drawn = decorated.draw_formulas(METALS, (2, 6), seed)
        return [(f.name, [p.name for p in f.prototypes]) for f in take(drawn, 40)]

    def take(drawn, count):
        return list(itertools.islice(drawn, count))

    assert draw(0) == draw(0) != draw(1)
    found = take(decorated.draw_formulas(METALS, (2, 6), 0), 40)
    assert len({each.name for each in found}) == 40
    for each in found:
        assert set(each.species) <= set(METALS)
        assert 2 <= sum(each.kind) <= 6
        assert {p.kind for p in each.prototypes} == {each.kind}
        assert 7 <= len(each.prototypes) <= decorated.MOST_OF_A_FORMULA


def test_few_elements_end_and_never_repeat_a_formula():
    names = [f.name for f in decorated.draw_formulas(METALS[:2], (2, 3), 0)]
    # CuNi, Cu2Ni and CuNi2: which element is the rare one makes two of AB2.
    assert sorted(names) == ["Cu1Ni1", "Cu1Ni2", "Cu2Ni1"]


def test_elements_stay_near_those_of_the_prototype_where_they_can():
    sulfur = elements.atomic_number("S")
    drawn = decorated.draw_formulas(list(range(3, 84)), (2, 12), 3)
    share = np.mean([sulfur in each.species for each in itertools.islice(drawn, 300)])
    # One of 81 elements alone would be in 4 % of formulas of three.
    assert share > 0.05


def test_decorations_are_as_large_as_their_elements():
    kinds = known_prototypes.load()
    salt = next(
        each
        for each in kinds[1, 1]
        if each.space_group == 225 and each.num_crystals > 2
    )
    small, large = (
        decorated.decorate(salt, [elements.atomic_number(s) for s in pair])
        for pair in (("Li", "F"), ("Cs", "I"))
    )
    ratio = np.linalg.det(large.lattice) / np.linalg.det(small.lattice)
    radii = elements.load_covalent_radii()

    def size(crystal):
        return np.sum(radii[crystal.atomic_numbers - 1] ** 3)

    assert ratio == pytest.approx(size(large) / size(small), rel=1e-6)
    assert validity.check(small).shortest_distance_ratio > 0.8


def test_contacts_that_are_too_short_are_stretched_or_refused():
    kinds = known_prototypes.load()
    counts = collections.Counter()
    for members in kinds.values():
        for each in members[:4]:
            species = [elements.atomic_number(s) for s in ("Cs", "F", "Ta", "H")]
            made = decorated.decorate(each, species[: len(each.kind)])
            counts[made is None] += 1
            if made is not None:
                ratio = validity.check(made).shortest_distance_ratio
                assert ratio >= decorated._SHORTEST - 1e-6
    assert counts[True] > 5 and counts[False] > 50


def test_made_structures_have_the_energies_of_their_calculator(tmp_path):
    report = prepare.prepare(options(tmp_path))
    dataset = datasets.open_dataset(tmp_path / "data")
    assert dataset.info["energy_model"] == calculators.energy_model("emt")
    assert report["num_read"] > len(dataset) >= 3
    assert report["left_out"]["duplicate"] > 0
    formulas = {dataset.formula[i].as_py() for i in range(len(dataset))}
    assert formulas == {"Au1Cu1"}
    energies = {n: references.elemental_energy("emt", n) for n in (29, 79)}
    for index in range(len(dataset)):
        crystal = datasets.crystal(dataset, index)
        atoms = bridge.to_ase(crystal)
        atoms.calc = calculators.build_calculator("emt")
        expected = references.formation_energy(
            energies, crystal.atomic_numbers, atoms.get_potential_energy() / len(atoms)
        )
        assert dataset.formation_energy[index] == pytest.approx(expected, abs=2e-3)
        assert np.abs(atoms.get_forces()).max() < 0.1


def test_a_run_that_was_cut_off_relaxes_only_the_rest(tmp_path, monkeypatch):
    whole = prepare.prepare(options(tmp_path / "whole"))
    relax_each, relaxed = batches.relax_each, []

    def counting(crystals, *args, stop_after=None, **kwargs):
        for number, result in enumerate(relax_each(crystals, *args, **kwargs)):
            if number == stop_after:
                raise KeyboardInterrupt
            relaxed.append(result)
            yield result

    monkeypatch.setattr(
        batches, "relax_each", lambda *a, **k: counting(*a, stop_after=4, **k)
    )
    cut = options(tmp_path / "cut")
    with pytest.raises(KeyboardInterrupt):
        prepare.prepare(cut)
    assert not (tmp_path / "cut" / "data").exists()
    kept = (tmp_path / "cut" / "data.relaxed" / "ASE_EMT.jsonl").read_text()
    assert kept.count("\n") == 4
    monkeypatch.setattr(batches, "relax_each", counting)
    again = prepare.prepare(cut)
    assert again == whole
    num_good = (tmp_path / "cut" / "data.relaxed" / "ASE_EMT.jsonl").read_text()
    assert len(relaxed) >= num_good.count("\n")
    pair = [
        datasets.open_dataset(tmp_path / each / "data") for each in ("whole", "cut")
    ]
    np.testing.assert_allclose(
        pair[0].formation_energy, pair[1].formation_energy, atol=1e-6
    )


def test_another_calculator_is_taken_too(tmp_path, monkeypatch):
    # Those without batches are relaxed by ASE, one crystal after the other.
    monkeypatch.setattr(device_potentials, "supports", lambda _: False)
    made = decorated.Decorated(
        "emt", str(tmp_path), 1, species=("Cu", "Au"), natoms=(2, 2)
    )
    monkeypatch.setattr(decorated, "MOST_OF_A_FORMULA", 2)
    rows = list(made.read_rows())
    assert len(rows) == 2
    assert any(isinstance(each, record.Record) for each in rows)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"calculator": None}, "name a potential with --calculator"),
        ({"calculator": "emd"}, "unknown calculator 'emd'"),
        ({"cache": None}, "give --cache"),
        ({"species": ("Cu", "W", "Po")}, "emt has no parameters for W, Po"),
        ({"species": ("Cu",)}, "names 1 element"),
        ({"species": ("Cu", "Qq")}, "Qq"),
        ({"natoms": (50, 60)}, "no prototype has 50 to 60 atoms"),
        ({"input": "a.csv"}, "prototypes does not use --input"),
    ],
)
def test_bad_input_is_named_before_anything_is_relaxed(tmp_path, changed, message):
    given = {"calculator": "emt", "cache": str(tmp_path), "natoms": (2, 4)} | changed
    with pytest.raises(ValueError, match=message):
        source = building.build_source(
            building.SourceOptions(source="prototypes", **given)
        )
        next(iter(source.read_rows()))
    assert list(tmp_path.iterdir()) == []
