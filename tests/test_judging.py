"""Draws that are relaxed and chosen among: the best, rows with reasons, resumption."""

import csv
import dataclasses

import jax
import numpy as np
import pytest
import tiny

from crystaljax import sample
from crystaljax.crystals import structure
from crystaljax.hull import corrections, energy_scale
from crystaljax.relaxation import ase_relaxation, batches, references
from crystaljax.sampling import conditions, draw_choice, judging, requests, samples

LOWEST = judging.Judge("emt", 2, wants_low=True)
NEAREST = dataclasses.replace(LOWEST, wants_low=False)


def test_the_highest_score_is_chosen_and_never_none():
    scores = np.array([[1.0, 3.0, np.nan], [np.nan, -2.0, -1.0], [np.nan] * 3])
    assert draw_choice.choose(scores).tolist() == [1, 2, 0]
    assert draw_choice.choose(np.array([[np.nan, -np.inf, 1.0, 1.0]])) == [2]


def test_energies_count_beside_how_probable_a_draw_is():
    energies = np.array([[-1.0, -1.1], [-1.0, -1.5], [-1.0, np.nan], [np.nan] * 2])
    orbits = np.array([[0.7, 0.3]] * 4), np.array([["a", "b"]] * 4)

    def choose(asked, unit):
        scores = draw_choice.score_draws(energies, *orbits, asked, unit)
        return draw_choice.choose(scores).tolist()

    assert choose(None, 0.2) == [0, 1, 0, 0]
    asked = np.array([-1.1, -0.5, -1.0, -1.0])
    # log(0.7 / 0.3) = 0.85 units.
    assert choose(asked, 0.2) == [0, 0, 0, 0]
    assert choose(asked, 0.1) == [1, 0, 0, 0]
    # Again the same orbits, which are not better because they are lower by little.
    same, ones = np.array([["a", "a"]]), np.ones((1, 2))
    for unit, expected in ((0.2, 0), (0.05, 1)):
        scores = draw_choice.score_draws(energies[:1], ones, same, None, unit)
        assert draw_choice.choose(scores) == [expected]


def copper_gold(a, lifted=0.5):
    """CuAu in a cubic cell; at ``lifted`` = 0 both on one spot."""
    frac = np.array([[0, 0, 0], [0.5, 0.5, lifted]]) * (lifted > 0)
    return structure.Crystal(np.array([29, 79]), frac, a * np.eye(3))


def scale_with(of_elements):
    return energy_scale.EnergyScale("EMT", of_elements)


def drawn(crystals, energies):
    asked = conditions.combine(["CuAu"], [221], np.array([energies]), 1, 2)
    return samples.Samples(crystals, asked, [], {"draws": 1}, num_in_all=4)


@pytest.fixture(scope="module")
def crystals():
    """Two draws of two samples; the first of the second cannot be relaxed."""
    tetragonal = structure.Crystal(
        np.array([29, 79]),
        np.array([[0, 0, 0], [0.5, 0.5, 0.5]]),
        np.diag([2.8, 2.8, 3.7]),
    )
    return [copper_gold(3.1), tetragonal, copper_gold(3.1, 0), copper_gold(3.0)]


def test_the_relaxed_crystal_of_the_best_draw_is_handed_over(
    crystals, tmp_path, monkeypatch
):
    kept = tmp_path / "relaxed_draws.jsonl"
    asked = drawn(crystals, [-0.05] * 4)
    scale = judging.scale_of(LOWEST, asked.conditions.atomic_numbers)
    of_elements = scale.element_energies
    assert of_elements.keys() == {29, 79}
    found = judging.hand_over(asked, LOWEST, scale, kept_in=kept)
    alone = [
        ase_relaxation.relax(crystals[i], "emt", judging.SETTINGS) for i in (0, 1, 3)
    ]
    best = min(alone[:2], key=lambda relaxed: relaxed.energy)
    expected = references.formation_energy(of_elements, [29, 79], best.energy)
    columns = found.columns
    assert columns["judged_energy"][0] == pytest.approx(expected, abs=1e-4)
    assert columns["judged_draw"].tolist() == [alone.index(best), 1]
    assert columns["draws_relaxed"].tolist() == [2, 1]
    assert columns["judge_problem"].tolist() == ["", ""]
    np.testing.assert_allclose(
        found.crystals[1].lattice, alone[2].crystal.lattice, atol=0.01
    )
    assert (found.num_in_all, len(found.conditions)) == (2, 2)
    assert found.provenance["judge"] == "emt" and found.provenance["draws"] == 2
    # What is kept is not relaxed again; what failed is not kept.
    relax_each, waiting = batches.relax_each, []

    def count(some, *args, **kwargs):
        waiting.extend(some)
        return relax_each(some, *args, **kwargs)

    monkeypatch.setattr(batches, "relax_each", count)
    again = judging.hand_over(asked, LOWEST, scale, kept_in=kept)
    assert again.columns["judged_energy"].tolist() == columns["judged_energy"].tolist()
    assert waiting == [crystals[2]]


def test_the_draw_with_the_energy_asked_for_is_chosen(crystals):
    energies = scale_with({29: 0.0, 79: 0.0})
    totals = [
        one.energy for one in batches.relax_many(crystals[:2], "emt", judging.SETTINGS)
    ]
    for i, total in enumerate(totals):
        asked = drawn(crystals[:2] * 2, [total] * 4)
        found = judging.hand_over(asked, NEAREST, energies)
        assert found.columns["judged_draw"].tolist() == [i, i]


def test_where_no_draw_relaxes_the_first_is_handed_over_with_the_reason(crystals):
    bad = [crystals[2], dataclasses.replace(crystals[2], lattice=np.zeros((3, 3)))]
    found = judging.hand_over(
        drawn(bad * 2, [0.0] * 4), LOWEST, scale_with({29: 0.0, 79: 0.0})
    )
    assert found.crystals == [bad[0], bad[0]]
    assert np.isnan(found.columns["judged_energy"]).all()
    assert all("apart" in each for each in found.columns["judge_problem"])


def test_energies_have_the_corrections_of_those_that_are_asked_for():
    judge = dataclasses.replace(NEAREST, calculator="sevenn:7net-0")
    ours, theirs = "Materials Project PBE(+U), MP2020", "SevenNet 7net-0"
    assert judge.adds_corrections(ours) and not judge.adds_corrections(theirs)
    assert not NEAREST.adds_corrections(ours)
    assert judge.provenance(ours)["judge_energy_model"] == f"{theirs} + MP2020"
    assert judge.provenance(theirs)["judge_energy_model"] == theirs
    oxide = structure.Crystal(
        np.array([12, 8]), np.array([[0, 0, 0], [0.5] * 3]), 3 * np.eye(3)
    )
    relaxed = ase_relaxation.Relaxation(oxide, -6.0, 0.0, 1, True)
    of_elements = {12: -1.0, 8: -5.0}
    plain, corrected = (
        judging.appraise(relaxed, energy_scale.EnergyScale("", of_elements, flag))[1]
        for flag in (False, True)
    )
    assert plain == pytest.approx(-3.0)
    assert corrected == pytest.approx(-3.0 + corrections.mp2020_correction(oxide))
    assert corrected < plain - 0.2
    # No crystal is so low: that it converged does not help.
    absurd = dataclasses.replace(relaxed, energy=-1e6)
    total, formation, reason = judging.appraise(absurd, scale_with(of_elements))
    assert np.isnan([total, formation]).all()
    assert "the potential does not know this crystal" in reason


def test_a_draw_that_is_far_from_any_minimum_is_not_chosen(crystals, monkeypatch):
    found = batches.relax_many(crystals[:2], "emt", judging.SETTINGS)
    # As low as no crystal is, where two sites are on top of each other.
    absurd = dataclasses.replace(
        found[0], energy=-1e9, max_force=1e8, num_steps=200, converged=False
    )

    def relax(some, *args, **kwargs):
        for i, crystal in enumerate(some):
            yield i, absurd if crystal is crystals[0] else found[1]

    monkeypatch.setattr(batches, "relax_as_possible", relax)
    handed = judging.hand_over(
        drawn(crystals[:2] * 2, [0.0] * 4), LOWEST, scale_with({})
    )
    assert handed.columns["judged_draw"].tolist() == [1, 1]
    assert handed.columns["draws_relaxed"].tolist() == [1, 1]
    monkeypatch.setattr(
        batches, "relax_as_possible", lambda *_, **__: enumerate([absurd] * 2)
    )
    handed = judging.hand_over(
        drawn(crystals[:2] * 2, [0.0] * 4), LOWEST, scale_with({})
    )
    problem = "forces of 1e+08 eV/Å are left after 200 steps"
    assert handed.columns["judge_problem"].tolist() == [problem] * 2


def test_elements_that_the_judge_does_not_know_cost_their_rows(crystals):
    salt = dataclasses.replace(crystals[0], atomic_numbers=np.array([11, 79]))
    found = judging.hand_over(
        drawn([salt, salt, *crystals[:2]], [0.0] * 4), LOWEST, scale_with({})
    )
    problem, nothing = found.columns["judge_problem"].tolist()
    assert problem == "emt has no parameters for Na" and nothing == ""
    assert found.columns["draws_relaxed"].tolist() == [0, 2]
    asked = np.array([[11, 29, 0], [79, 29, 29]])
    assert judging.scale_of(LOWEST, asked).element_energies.keys() == {29, 79}
    # If no sample can be judged, nothing is drawn.
    with pytest.raises(ValueError, match="emt has no parameters for Na"):
        judging.scale_of(LOWEST, asked[:1])


def test_how_much_estimates_count_is_the_models(crystals):
    picks = judging.Judge(judging.ESTIMATOR, 2, wants_low=False)
    columns = {
        "estimated_energy": np.array([0.05, 0.0] * 2),
        "probability": np.array([0.7, 0.3] * 2),
        "wyckoff_positions": np.array(["Cu:a Au:b", "Cu:a Au:d"] * 2),
    }
    made = dataclasses.replace(drawn(crystals, [0.0] * 4), columns=columns)

    def picked(judge, unit):
        found = judging.pick_by_estimates(made, judge, unit)
        return found.columns["judged_draw"].tolist()

    # The first is off by 0.05 eV/atom, and by log(0.7 / 0.3) = 0.85 more probable.
    assert picked(picks, 0.04) == [1, 1]
    assert picked(picks, 0.1) == picked(picks, None) == [0, 0]
    # It is that of energies that are requested.
    lowest = dataclasses.replace(picks, wants_low=True)
    assert picked(lowest, 0.04) == picked(lowest, None) == [0, 0]


# ----------------------------------------------------------------------------- requests
def options(workdir, **changes):
    return sample.SampleOptions(
        workdir=str(workdir),
        formulas=("Cu2Au2", "Cu3Au1"),
        space_groups="123",
        energies="-0.1",
        num_samples=2,
        judge="emt",
        draws=3,
        **changes,
    )


@pytest.fixture(scope="module")
def workdir(alloys, tmp_path_factory):
    path = tmp_path_factory.mktemp("judged") / "run"
    tiny.write_run(path, tiny.config("ddim", alloys))
    return path


def write(workdir, output):
    requests.write_request(
        sample.build_request(options(workdir)),
        output,
        cifs="none",
        shard_size=2,
        overwrite=False,
    )
    return {path.name: path.read_bytes() for path in output.iterdir()}


def test_each_sample_has_its_draws_together(workdir):
    asked = sample.build_request(options(workdir))
    assert asked.judge == judging.Judge("emt", 3, wants_low=False)
    assert (len(asked.conditions), len(asked.drawn.conditions)) == (4, 12)
    every_third = jax.tree.map(lambda array: array[::3], asked.drawn.conditions)
    for ours, theirs in zip(
        jax.tree.leaves(asked.conditions), jax.tree.leaves(every_third), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    # Draws of a combination, the likeliest first → those of its two samples.
    assert judging.draws_in_order(12, 2, 3)[:6].tolist() == [0, 2, 4, 1, 3, 5]


def test_an_interrupted_request_goes_on(workdir, tmp_path, capsys, monkeypatch):
    # Draws of a network that has learned nothing take hundreds of steps to relax.
    few = dataclasses.replace(judging.SETTINGS, max_steps=30)
    monkeypatch.setattr(judging, "SETTINGS", few)
    before = write(workdir, tmp_path / "made")
    with open(tmp_path / "made" / "samples-00001-of-00002.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["formula"] for row in rows] == ["Au1Cu3"] * 2
    for row in rows:
        assert row["judge"] == "emt" and row["draws"] == "3"
        assert (row["judge_problem"] == "") == (row["draws_relaxed"] != "0")
    (tmp_path / "made" / "samples-00001-of-00002.parquet").unlink()
    assert write(workdir, tmp_path / "made") == before
    assert "2 crystals in" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("judge", "message"),
    [
        ("nobody", "unknown calculator 'nobody'"),
        ("sevenn:nothing", "unknown model 'nothing' of SevenNet"),
        ("estimator", "has no estimator"),
    ],
)
def test_a_judge_that_is_not_there_is_refused_before_anything_is_written(
    workdir, tmp_path, judge, message
):
    with pytest.raises(ValueError, match=message):
        requests.write_request(
            sample.build_request(dataclasses.replace(options(workdir), judge=judge)),
            tmp_path / "made",
            cifs="none",
            shard_size=2,
            overwrite=False,
        )
    assert not (tmp_path / "made" / "request.json").exists()
