import dataclasses
import time

import numpy as np
import pytest
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice

from crystaljax.crystals import bridge, structure
from crystaljax.matching import matcher as matching

PAPER = matching.TOLERANCES["paper"]
LITERATURE = matching.TOLERANCES["literature"]
USUAL = (PAPER, LITERATURE)


def triclinic(seed=0, num_sites=4):
    rng = np.random.default_rng(seed)
    parameters = [*rng.uniform(3, 6, 3), *rng.uniform(70, 110, 3)]
    lattice = np.array(Lattice.from_parameters(*parameters).matrix)
    numbers = np.sort(rng.choice([29, 79], num_sites))
    return structure.Crystal(numbers, rng.uniform(size=(num_sites, 3)), lattice)


def distorted(crystal, seed, strain, shift):
    rng = np.random.default_rng(seed)
    lattice = (np.eye(3) + rng.normal(0, strain, (3, 3))) @ crystal.lattice
    frac_coords = crystal.frac_coords + rng.normal(0, shift, crystal.frac_coords.shape)
    return structure.Crystal(crystal.atomic_numbers, frac_coords, lattice)


def test_tolerances_print_as_the_literature_writes_them():
    assert [str(each) for each in matching.TOLERANCES.values()] == [
        "0.2/0.3/5",
        "0.4/0.6/10",
        "1/1.5/25",
        "0.3/0.5/10",
    ]


def test_a_crystal_matches_itself_in_any_description():
    crystal = triclinic()
    change = np.array([[1, 1, 0], [0, 1, -1], [0, 0, 1]])
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    order = [2, 0, 3, 1]
    other = structure.Crystal(
        crystal.atomic_numbers[order],
        ((crystal.frac_coords + 0.3) @ np.linalg.inv(change))[order] + 2,
        1.05 * change @ crystal.lattice @ rotation,
    )
    result = matching.match(other, crystal, USUAL)
    assert result.reason == ""
    assert result.rms == pytest.approx((0, 0), abs=1e-6)


def test_other_species_do_not_match():
    crystal = triclinic()
    other = structure.Crystal(np.full(4, 47), crystal.frac_coords, crystal.lattice)
    assert matching.match(other, crystal, USUAL) == matching.Match((None, None), "")


@pytest.mark.parametrize("seed", range(12))
def test_results_are_those_of_pymatgen(seed):
    crystal = triclinic(seed, num_sites=2 + seed % 8)
    other = distorted(crystal, seed, strain=0.02 * seed, shift=0.03)
    tolerances = tuple(matching.TOLERANCES.values())
    result = matching.match(other, crystal, tolerances)
    for tolerance, rms in zip(tolerances, result.rms, strict=True):
        matcher = StructureMatcher(**dataclasses.asdict(tolerance))
        expected = matcher.get_rms_dist(
            bridge.to_pymatgen(other), bridge.to_pymatgen(crystal)
        )
        assert rms == (
            None if expected is None else pytest.approx(expected[0], abs=1e-9)
        )


def test_rms_is_in_units_of_the_site_spacing():
    # Along a line of equal atoms, one in two moved by 0.1 of the spacing: both are 0.05
    # from the best common position.
    frac_coords = np.array([[0, 0, 0], [0.5, 0, 0.0]])
    target = structure.Crystal(np.array([29, 79]), frac_coords, np.diag([6.0, 3, 3]))
    moved = structure.Crystal(
        target.atomic_numbers,
        frac_coords + np.array([[0, 0, 0], [0.05, 0, 0]]),
        target.lattice,
    )
    result = matching.match(moved, target, [PAPER])
    assert result.rms[0] == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("lattice", "coordinate", "problem"),
    [
        (np.eye(3) * 4, np.nan, "prediction: a coordinate or lattice entry is not"),
        (np.full((3, 3), np.inf), 0.1, "prediction: a coordinate"),
        (np.zeros((3, 3)), 0.1, "prediction: the lattice vectors span no cell"),
        (np.diag([1e6, 1, 1]), 0.1, "prediction: a lattice vector of 1e+06"),
    ],
)
def test_a_broken_prediction_does_not_match_and_says_why(lattice, coordinate, problem):
    broken = structure.Crystal(
        triclinic().atomic_numbers, np.full((4, 3), coordinate), lattice
    )
    result = matching.match(broken, triclinic(), USUAL)
    assert result.rms == (None, None)
    assert result.reason.startswith(problem)


def test_a_failure_inside_pymatgen_is_a_reason(monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("no reduced cell")

    # Not one that an earlier test has had reduced.
    monkeypatch.setattr(matching.primitive_cells, "reduce_cell", fail)
    result = matching.match(triclinic(1234), triclinic(1234), USUAL)
    assert result == matching.Match((None, None), "RuntimeError: no reduced cell")


@pytest.mark.parametrize("shape", [(300, 0.5, 0.5), (60, 60, 0.02)])
def test_needles_and_sheets_are_refused_quickly(shape):
    crystal = triclinic()
    odd = structure.Crystal(crystal.atomic_numbers, crystal.frac_coords, np.diag(shape))
    start = time.perf_counter()
    result = matching.match(odd, crystal, tuple(matching.TOLERANCES.values()))
    assert result == matching.Match((None,) * 4, "")
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("num_workers", [1, 2])
def test_match_many_agrees_with_match(num_workers):
    targets = [triclinic(seed) for seed in range(6)]
    predictions = [distorted(each, 1, 0.03, 0.02) for each in targets]
    predictions[2] = targets[3]
    predictions[4] = structure.Crystal(
        targets[4].atomic_numbers, targets[4].frac_coords, np.full((3, 3), np.nan)
    )
    found = matching.match_many(predictions, targets, USUAL, num_workers=num_workers)
    expected = [
        matching.match(*pair, USUAL) for pair in zip(predictions, targets, strict=True)
    ]
    assert found.reasons == tuple(each.reason for each in expected)
    expected_rms = np.array([each.rms for each in expected], dtype=float)
    np.testing.assert_array_equal(found.rms, expected_rms)
    np.testing.assert_array_equal(found.matched, ~np.isnan(expected_rms))
    np.testing.assert_allclose(found.match_rates(), found.matched.mean(axis=0))
    np.testing.assert_allclose(found.mean_rms(), np.nanmean(expected_rms, axis=0))


def test_a_target_with_many_predictions_is_reduced_once(monkeypatch):
    reduced = []

    def reduce_cell(crystal, reduce_cell=matching.primitive_cells.reduce_cell):
        reduced.append(crystal.num_sites)
        return reduce_cell(crystal)

    monkeypatch.setattr(matching.primitive_cells, "reduce_cell", reduce_cell)
    # 300 targets, more than are remembered, twice each and far apart.
    targets = [triclinic(seed, num_sites=1) for seed in range(500, 800)] * 2
    predictions = [triclinic(4321, num_sites=2)] * 600
    matching.match_many(predictions, targets, [PAPER], num_workers=1)
    assert reduced.count(1) == 300
    assert reduced.count(2) == 1


def test_match_many_of_nothing():
    found = matching.match_many([], [], USUAL)
    assert found.matched.shape == (0, 2)
    np.testing.assert_array_equal(found.match_rates(), [0, 0])
    assert np.isnan(found.mean_rms()).all()


def test_match_many_wants_one_target_each():
    with pytest.raises(ValueError, match="one target per prediction"):
        matching.match_many([triclinic()], [])


def test_sites_far_outside_the_cell_match_as_those_within():
    crystal = triclinic()
    shift = np.zeros((4, 3))
    shift[0], shift[2, 1] = [1e6 - 2, 0, -70], -345
    far = dataclasses.replace(crystal, frac_coords=crystal.frac_coords + shift)
    (rms,) = matching.match(far, crystal, [matching.Tolerance(0.1, 0.01, 1.0)]).rms
    assert rms == pytest.approx(0, abs=1e-6)
