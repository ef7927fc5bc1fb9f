"""Yardsticks by hand, and against loops over pymatgen's StructureMatcher."""

import json
import math

import numpy as np
import pytest
from pymatgen.analysis.structure_matcher import StructureMatcher

from crystaljax.crystals import bridge, elements, structure
from crystaljax.data.sources import emt
from crystaljax.matching import all_pairs, matcher
from crystaljax.metrics import (
    compositions,
    match_rates,
    numbers,
    pairing,
    score_tables,
    scoring,
    yardsticks,
)

LITERATURE = matcher.TOLERANCES["literature"]
FAST = scoring.Settings(tolerances=(LITERATURE,), num_workers=1)
NAN = float("nan")


def cubic(length, *species):
    """Atoms on the sites of a body-centred cell: one, or two."""
    coords = np.array([[0, 0, 0], [0.5, 0.5, 0.5]], float)[: len(species)]
    numbers = np.array([elements.atomic_number(each) for each in species])
    return structure.Crystal(numbers, coords, length * np.eye(3))


def shifted(crystal, by):
    """The last site moved along x by a fraction of the cell."""
    coords = crystal.frac_coords.copy()
    coords[-1, 0] += by
    return structure.Crystal(crystal.atomic_numbers, coords, crystal.lattice)


def rock_salt_like(length=4.0):
    """CsCl's composition in another structure: pairs of touching atoms, far apart."""
    crystal = cubic(length, "Cs", "Cl")
    lattice = np.diag([length, length, 2.5 * length])
    coords = np.array([[0, 0, 0], [0, 0, 0.25]])
    return structure.Crystal(crystal.atomic_numbers, coords, lattice)


def crystals(**by_name):
    return scoring.Crystals(
        list(by_name), list(by_name.values()), [""] * len(by_name), None
    )


def by_name(score):
    found = yardsticks.describe(score)
    assert len({each.name for each in found}) == len(found)
    return {each.name: each for each in found}


CSCL = cubic(4.1, "Cs", "Cl")
OTHER = rock_salt_like()


@pytest.fixture(scope="module")
def by_hand():
    """Three references, two of them polymorphs; two rounds of crystals for each.

    The first polymorph is missed by its own crystals and made for the second.
    """
    references = crystals(first=CSCL, second=OTHER, iron=cubic(2.8, "Fe"))
    generated = crystals(
        a0=OTHER,
        a1=OTHER,
        a2=cubic(2.9, "Fe"),
        b0=OTHER,
        b1=shifted(CSCL, 0.05),
        b2=cubic(3.0, "Cu"),
    )
    return scoring.score(generated, references, pairing.pair_in_rounds(6, 3), FAST)


def test_match_rates_are_those_made_by_hand(by_hand):
    found = by_name(by_hand)
    # Its own first crystal: the second and iron match, at a distance of 0.
    assert (found["match rate"].count, found["match rate"].out_of) == (2, 3)
    assert found["RMSE"].value == pytest.approx(0, abs=1e-6)
    assert found["cRMSE"].value == pytest.approx(LITERATURE.stol / 3)
    # The second ones match nothing more of their own.
    assert found["match@2"].count == 2
    # Anyone's: b1 matches the first. Half the cell's shift on either site, in units of
    # (volume per site)^(1/3): both sites move by half of 0.05 cells.
    distance = 0.025 * 2 ** (1 / 3)
    assert found["METRe"].count == 3
    assert found["METRe RMSE"].value == pytest.approx(distance / 3)
    assert found["METRe cRMSE"].value == pytest.approx(distance / 3)
    # Of the first round only.
    assert found["METRe@1"].count == 2
    assert found["METRe@1 cRMSE"].value == pytest.approx(LITERATURE.stol / 3)
    # 99, 99 and 221 where 221, 99 and 221 were asked for, in both rounds.
    assert found["space group"].count == 4 and found["space group"].out_of == 6
    error = found["match rate"].standard_error
    assert error == pytest.approx(math.sqrt(2 / 3 / 3 / 3))


def test_every_number_has_a_definition_and_is_json(by_hand):
    found = yardsticks.describe(by_hand)
    assert all(len(each.definition) > 5 for each in found)
    assert json.loads(json.dumps([each.to_json() for each in found], allow_nan=False))
    text = "\n".join(numbers.format_numbers(found))
    assert "0.3/0.5/10" in text and "66.67% ± 27.22%  2 of 3: references" in text
    assert "a miss counts stol = 0.5" in " ".join(text.split())
    assert max(map(len, text.split("\n"))) <= 110


def test_tables_have_a_row_for_each(by_hand):
    table = score_tables.generated_table(by_hand)
    assert table["reference"] == ["first", "second", "iron"] * 2
    assert table["rank"] == [0, 0, 0, 1, 1, 1]
    closest = table["closest_reference_0.3/0.5/10"]
    assert closest == ["second", "second", "iron", "second", "first", ""]
    references = score_tables.reference_table(by_hand)
    assert references["num_generated_of_formula"] == [4, 4, 1]
    assert references["num_generated_for_it"] == [2, 2, 2]
    assert np.isnan(references["rms@1_0.3/0.5/10"]).tolist() == [True, False, False]
    assert not np.isnan(references["metre_rms_0.3/0.5/10"]).any()
    accounts = score_tables.accounts(by_hand)
    alone = accounts["generated, of a formula that no reference has"]
    assert alone == {"count": 1, "examples": ["b2"]}


def test_valid_only_leaves_out_pairs_with_an_invalid_crystal():
    # Fe3O4 needs two charges of iron, and SMACT gives an element one.
    spinel = structure.Crystal(
        np.array([26, 26, 26, 8, 8, 8, 8]),
        np.random.default_rng(0).random((7, 3)),
        6.0 * np.eye(3),
    )
    references = crystals(spinel=spinel, salt=CSCL, metal=cubic(2.8, "Fe"))
    score = scoring.score(references, references, pairing.pair_in_rounds(3, 3), FAST)
    found = by_name(score)
    assert found["match rate"].count == 3
    assert compositions.describe_rule() in score.valid_rule
    assert "smact " in found["valid composition"].definition
    assert found["valid composition"].count == 2
    assert found["match rate, valid only"].count == 2
    assert found["METRe, valid only"].count == 2
    assert found["cRMSE, valid only"].value == pytest.approx(0.5 / 3)


def test_without_smact_the_name_says_that_only_distances_count(monkeypatch):
    monkeypatch.setattr(compositions, "find_version", lambda: None)
    references = crystals(salt=CSCL)
    overlapping = crystals(close=shifted(CSCL, -0.45))
    score = scoring.score(overlapping, references, pairing.pair_in_rounds(1, 1), FAST)
    found = by_name(score)
    assert "match rate, valid distances only" in found
    assert not any("valid only" in name for name in found)
    assert "valid composition" not in found and "not installed" in score.valid_rule


# ------------------------------------------------------------------------- bad input
BAD = {
    "unreadable": structure.NO_CRYSTAL,
    "infinite": structure.Crystal(
        CSCL.atomic_numbers, np.full((2, 3), np.nan), CSCL.lattice
    ),
    "flat": structure.Crystal(
        CSCL.atomic_numbers, CSCL.frac_coords, np.diag([4.0, 4.0, 0.0])
    ),
    "no_element": structure.Crystal(np.array([0, 150]), CSCL.frac_coords, CSCL.lattice),
}


def test_bad_crystals_on_either_side_are_counted_and_named():
    names = [*BAD, "good"]
    side = scoring.Crystals(
        names,
        [*BAD.values(), CSCL],
        ["no such file", "", "", "", ""],
    )
    score = scoring.score(side, side, pairing.pair_in_rounds(5, 5), FAST)
    found = by_name(score)
    # What is generated is a miss; what nothing can match is no reference.
    assert (found["match rate"].count, found["match rate"].out_of) == (1, 1)
    assert (found["valid distances"].count, found["valid distances"].out_of) == (1, 5)
    accounts = score_tables.accounts(score)
    assert accounts["generated, unreadable"]["examples"] == ["unreadable"]
    assert accounts["generated, cannot be compared"]["count"] == 3
    assert accounts["references, unusable and left out"]["examples"] == list(BAD)
    problems = score_tables.generated_table(score)["problem"]
    assert problems[0] == "no such file" and all(problems[:4]) and not problems[4]


def test_one_side_without_the_other_is_no_crash():
    salt = crystals(salt=CSCL)
    iron = crystals(iron=cubic(2.8, "Fe"))
    score = scoring.score(salt, iron, None, FAST)
    found = by_name(score)
    assert (found["METRe"].count, found["METRe"].out_of) == (0, 1)
    assert found["METRe cRMSE"].value == LITERATURE.stol
    assert math.isnan(found["METRe RMSE"].value)
    assert "match rate" not in found
    accounts = score_tables.accounts(score)
    nothing = accounts["references, nothing generated of their formula"]
    assert nothing == {"count": 1, "examples": ["iron"]}
    unusable = scoring.Crystals(["x"], [structure.NO_CRYSTAL], ["bad"])
    found = by_name(scoring.score(salt, unusable, None, FAST))
    assert found["METRe"].out_of == 0 and math.isnan(found["METRe"].value)
    assert numbers.format_numbers(list(found.values()))


def test_many_copies_are_compared_once():
    count = 20_000
    generated = scoring.Crystals(
        [str(i) for i in range(count)], [CSCL] * count, [""] * count
    )
    pairs = all_pairs.match_all(
        generated.crystals, [CSCL, OTHER], (LITERATURE,), num_workers=1
    )
    assert pairs.num_pairs == 2 * count
    assert len(pairs.generated) == count and not pairs.reference.any()
    best = match_rates.best_distances(pairs, 0, np.ones(count, bool))
    assert best[0] == pytest.approx(0, abs=1e-6) and np.isnan(best[1])


def test_comparison_that_fails_is_named_and_no_match(monkeypatch):
    def fail(*args, **kwargs):
        raise ArithmeticError("odd cell")

    monkeypatch.setattr(all_pairs.superposition, "smallest_rms", fail)
    score = scoring.score(crystals(a=CSCL), crystals(b=CSCL), None, FAST)
    accounts = score_tables.accounts(score)
    failed = accounts["pairs whose comparison failed, no match"]
    assert failed["examples"] == ["a and b: ArithmeticError: odd cell"]
    assert by_name(score)["METRe"].count == 0


# --------------------------------------------------------------------------- oracles
def metre_loop(generated, references, tolerance):
    """As its authors compute it: every pair of one reduced formula, by pymatgen."""
    fitter = StructureMatcher(tolerance.ltol, tolerance.stol, tolerance.angle_tol)
    best = [None] * len(references)
    for one in map(bridge.to_pymatgen, generated):
        for index, other in enumerate(map(bridge.to_pymatgen, references)):
            if one.composition.reduced_formula != other.composition.reduced_formula:
                continue
            distance = fitter.get_rms_dist(one, other)
            if distance is not None and (
                best[index] is None or distance[0] < best[index]
            ):
                best[index] = distance[0]
    return best


def test_metre_is_that_of_a_loop_over_pymatgen():
    rng = np.random.default_rng(0)
    records = [r for r in emt.load_builtin() if r.crystal.num_sites in (2, 3, 4)]
    chosen = [records[i] for i in rng.choice(len(records), 24, replace=False)]
    references = [each.crystal for each in chosen]
    generated = []
    for crystal in references:
        moved = rng.normal(0, rng.choice([0.1, 0.5, 1.2]), (crystal.num_sites, 3))
        strain = np.eye(3) + rng.normal(0, 0.05, (3, 3))
        generated.append(
            structure.Crystal(
                crystal.atomic_numbers,
                crystal.frac_coords + moved @ np.linalg.inv(crystal.lattice),
                crystal.lattice @ strain,
            )
        )
    tolerance = matcher.TOLERANCES["paper"]
    expected = metre_loop(generated, references, tolerance)
    pairs = all_pairs.match_all(generated, references, (tolerance,), num_workers=1)
    best = match_rates.best_distances(pairs, 0, np.ones(len(pairs.rms), bool))
    assert 5 < sum(each is not None for each in expected) < 24
    np.testing.assert_allclose(
        best, [NAN if each is None else each for each in expected], atol=1e-9
    )
    summary = match_rates.summarize(best, tolerance.stol)
    misses = [tolerance.stol if each is None else each for each in expected]
    assert summary.crmse == pytest.approx(np.mean(misses))


# --------------------------------------------------------------------------- pairing
def test_names_with_a_number_behind_belong_to_their_reference():
    names = ["mp-5", "mp-5_0", "mp-5-2", "mp-12_11", "mp-12", "mp_x", "5"]
    found = pairing.pair_by_name(names, ["mp-5", "mp-12"], "by name")
    assert found.reference.tolist() == [0, 0, 0, 1, 1, -1, -1]
    assert found.rank.tolist() == [0, 1, 2, 0, 1, 0, 1]
    assert found.num_paired == 5 and found.most == 3


def test_pairing_is_chosen_only_where_no_formula_contradicts_it():
    references = pairing.Side(["r0", "r1"], ["Cs1Cl1", "Fe1"])

    def choose(formulas, names=None, how="auto", columns=None):
        names = names or [f"g{i}" for i in range(len(formulas))]
        side = pairing.Side(names, formulas)
        return pairing.choose(how, side, references, columns or {})

    rounds = choose(["Cs1Cl1", "Fe1", "Cs1Cl1", ""])
    assert rounds.reference.tolist() == [0, 1, 0, 1] and "rounds" in rounds.how
    rows = choose(["Cs1Cl1", "Cs1Cl1", "Fe1", "Fe1"])
    assert rows.reference.tolist() == [0, 0, 1, 1] and "rows" in rows.how
    assert choose(["Cs1Cl1", "Fe1", "Fe1"]) is None
    assert choose(["Fe1", "Cs1Cl1"]) is None
    named = choose(["Fe1", "Cs1Cl1"], columns={"reference": ["r1", "r0"]})
    assert named.reference.tolist() == [1, 0] and "column reference" in named.how
    assert choose(["Fe1", "Fe1"], names=["r0", "r1"]) is None
    assert choose(["Fe1", "Fe1"], how="rounds").reference.tolist() == [0, 1]
    assert choose(["Fe1"], how="none") is None
    with pytest.raises(ValueError, match=r"'r0'.*'g0'.*pairing="):
        choose(["Fe1"], how="name")


def test_ks_are_the_usual_ones_up_to_what_there_is():
    assert match_rates.choose_ks(0) == []
    assert match_rates.choose_ks(1) == [1]
    assert match_rates.choose_ks(20) == [1, 2, 5, 10, 20]
    assert match_rates.choose_ks(7) == [1, 2, 5, 7]
