import dataclasses
import json

import numpy as np
import potentials
import pytest

from crystaljax.crystals import elements, structure
from crystaljax.data.sources import emt
from crystaljax.hull import convex_hull
from crystaljax.relaxation import ase_relaxation, batches, references
from crystaljax.screening import funnel, stages
from crystaljax.screening import result as screening_result

pytestmark = pytest.mark.usefixtures("forked_workers")

RECORDS = {record.id: record for record in emt.load_builtin()}
# Each worker is a process that has to start.
OPTIONS = funnel.ScreeningOptions(num_workers=1)
ALUMINIUM_OXIDE = structure.Crystal(
    np.array([13, 8]), np.array([[0, 0, 0], [0.5, 0.5, 0.5]]), np.eye(3) * 3.5
)


def disturb(name, seed=0, size=0.03, scale=1.02):
    """A known crystal, as a sampler comes near it."""
    crystal = RECORDS[name].crystal
    shift = np.random.default_rng(seed).normal(0, size, (crystal.num_sites, 3))
    return structure.Crystal(
        crystal.atomic_numbers,
        crystal.frac_coords + shift @ np.linalg.inv(crystal.lattice),
        crystal.lattice * scale,
    )


def formula(record):
    return elements.cell_formula(record.crystal.atomic_numbers.astype(int))


def known_hull():
    return convex_hull.build_hull(
        [(formula(r), r.formation_energy, r.id) for r in RECORDS.values()], "ASE EMT"
    )


def overlapping(name):
    crystal = RECORDS[name].crystal
    coords = crystal.frac_coords.copy()
    coords[1] = coords[0] + 0.4 * (coords[1] - coords[0])
    return dataclasses.replace(crystal, frac_coords=coords)


CASES = {
    "good": disturb("L1_2:Au-Cu"),
    "not finite": dataclasses.replace(
        disturb("L1_2:Au-Cu"), frac_coords=np.full((4, 3), np.nan)
    ),
    "again": disturb("L1_2:Au-Cu", seed=1, scale=1.03),
    "overlap": overlapping("L1_0:Cu-Au"),
    "known": disturb("D0_22:Au-Cu"),
    "oxide": ALUMINIUM_OXIDE,
    "dense": disturb("B11:Cu-Au", scale=0.6),
    "unreadable": structure.Crystal(
        np.zeros(0, int), np.zeros((0, 3)), np.full((3, 3), np.nan)
    ),
    "worse": disturb("L1_3:Au-Cu"),
    "other": disturb("L1_0:Cu-Au", size=0.01),
}
KNOWN = [(name, RECORDS[name].crystal) for name in ("D0_22:Au-Cu", "B2:Cu-Au")]


def screen(names, options=OPTIONS, with_hull=True, **kwargs):
    problems = ["no crystal in it" if n == "unreadable" else "" for n in names]
    return funnel.screen(
        [CASES[name] for name in names],
        "emt",
        known_hull() if with_hull else None,
        KNOWN,
        options,
        names=names,
        problems=problems,
        **kwargs,
    )


@pytest.fixture(scope="module")
def everything():
    return screen(list(CASES), dataclasses.replace(OPTIONS, num_workers=2))


def rows(result, *columns):
    table = result.table()
    return {
        name: tuple(table[column][i] for column in columns)
        for i, name in enumerate(result.names)
    }


def test_every_crystal_keeps_its_row_with_stage_and_reason(everything):
    table = everything.table()
    assert {len(column) for column in table.values()} == {len(CASES)}
    rejected_reason = rows(everything, "rejected_stage", "rejected_reason")
    expected = {
        "not finite": ("validity", "not finite"),
        "again": ("duplicates", "equals an earlier one: good"),
        "overlap": ("validity", "of the sum of their covalent radii, under 0.5"),
        "known": ("duplicates", "equals a known one: D0_22:Au-Cu"),
        # EMT has parameters for oxygen.
        "oxide": ("energy", "O has no reference structure"),
        "dense": ("relaxation", "volume went to"),
        "unreadable": ("validity", "no crystal in it"),
    }
    for name, (stage, _) in rejected_reason.items():
        assert stage == expected.get(name, ("", ""))[0], name
    for name, (_, reason) in expected.items():
        assert reason in rejected_reason[name][1], name
    marks = rows(everything, "duplicate_of", "known_as")
    assert marks.pop("again") == ("good", "")
    assert marks.pop("known") == ("", "D0_22:Au-Cu")
    assert set(marks.values()) == {("", "")}


def test_energies_are_those_of_the_known_crystals(everything):
    found = rows(everything, "relaxed_formation_energy", "relaxed_energy_above_hull")
    sources = {"good": "L1_2:Au-Cu", "worse": "L1_3:Au-Cu", "other": "L1_0:Cu-Au"}
    for name, source in sources.items():
        record = RECORDS[source]
        above = convex_hull.energy_above_hull(
            known_hull(), [formula(record)], [record.formation_energy], "ASE EMT"
        )
        assert found[name][0] == pytest.approx(record.formation_energy, abs=0.002)
        assert found[name][1] == pytest.approx(above[0], abs=0.002)
    for name in CASES.keys() - sources.keys():
        assert np.isnan(found[name]).all()
    groups = rows(everything, "generated_space_group_0.001", "relaxed_space_group_0.1")
    assert groups["good"] == (1, 221)


def test_ranks_are_by_energy_above_the_hull(everything):
    table = everything.table()
    order = everything.ranking()
    assert [everything.names[i] for i in order] == ["other", "good", "worse"]
    assert (np.diff(everything.above_hull[order]) >= 0).all()
    assert [table["rank"][i] for i in order] == [1, 2, 3]
    assert sum(rank == 0 for rank in table["rank"]) == len(CASES) - 3


def test_counts_add_up(everything):
    assert everything.counts() == {
        "inputs": 10,
        "valid": 7,
        "distinct": 5,
        "relaxed": 3,
        "converged": 3,
        "ranked": 3,
        "new": 3,
        "below_hull": int((everything.above_hull < 0).sum()),
    }


def test_summary_has_a_line_per_stage(everything):
    lines = screening_result.summarize(everything).splitlines()
    assert lines[0] == "10 crystals"
    assert [line.split()[:2] for line in lines[1:-1]] == [
        ["-3", "validity"],
        ["-2", "duplicates"],
        ["-1", "relaxation"],
        ["-1", "energy"],
    ]
    assert "1 two atoms are at … of the sum" in lines[1]
    assert lines[-1].split()[:2] == ["3", "ranked"]
    table = everything.table() | {"formula": ["X"] * 10}
    best = screening_result.format_ranking(table, 2).splitlines()
    assert len(best) == 4
    assert best[2].split()[:2] == ["1", "X"]
    asked = table | {
        "requested_space_group": [99] * 10,
        "requested_formation_energy": [0.25] * 10,
    }
    best = screening_result.format_ranking(asked, 2).splitlines()
    assert "99 → 123" in best[2] and "0.250 →" in best[2]


def test_duplicates_are_found_after_relaxation_if_they_are_to_relax():
    options = dataclasses.replace(OPTIONS, relax_duplicates=True)
    found = screen(["good", "again", "known", "worse"], options)
    table = rows(found, "rejected_stage", "duplicate_of", "known_as", "rank")
    assert table["again"] == ("duplicates", "good", "", 0)
    assert table["known"][2] == "D0_22:Au-Cu"
    assert sorted(each[3] for each in table.values()) == [0, 1, 2, 3]
    assert "relaxed to the same as another one: good" in found.rejected_reason
    assert found.counts()["new"] == 2
    assert found.counts()["distinct"] == 4


def test_without_a_hull_the_best_of_each_composition_come_first():
    found = screen(["worse", "good", "other"], with_hull=False)
    assert np.isnan(found.above_hull).all()
    order = [found.names[i] for i in found.ranking()]
    # Au1Cu3 and Au1Cu1 have one best each; the other Au1Cu3 comes after both.
    assert set(order[:2]) == {"good", "other"} and order[2] == "worse"


def test_a_finished_screening_is_read_and_a_cut_one_goes_on(tmp_path):
    names = ["good", "worse", "dense", "other", "overlap"]
    whole = screen(names, work=tmp_path)
    log = tmp_path / "relaxations.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    assert len(lines) == 4
    # As a kill leaves it, in the middle of a line.
    log.write_text("".join(lines[:2]) + lines[2][:50])
    (tmp_path / "compared_relaxed.json").unlink()
    again = screen(names, work=tmp_path)
    kept = log.read_text().splitlines(keepends=True)
    assert kept[:2] == lines[:2]
    assert len(kept) == 4
    for one, other in ((whole, again), (whole, screen(names, work=tmp_path))):
        ours, theirs = one.table(), other.table()
        del ours["relaxation_seconds"], theirs["relaxation_seconds"]
        np.testing.assert_equal(ours, theirs)
        for mine, yours in zip(one.relaxed, other.relaxed, strict=True):
            np.testing.assert_array_equal(mine.frac_coords, yours.frac_coords)
            np.testing.assert_array_equal(mine.lattice, yours.lattice)


def test_batches_give_the_same_energies(everything):
    options = dataclasses.replace(OPTIONS, method="batched")
    names = ["good", "dense", "worse", "other"]
    batched = screen(names, options)
    single = [list(CASES).index(name) for name in names]
    assert batched.methods == ["batched"] * 4
    assert [everything.methods[i] for i in single] == ["ase"] * 4
    np.testing.assert_allclose(
        batched.formation_energy, everything.formation_energy[single], atol=2e-3
    )
    assert batched.rejected_stage == [everything.rejected_stage[i] for i in single]


@pytest.mark.parametrize(
    ("method", "optimizer", "count", "expected"),
    [
        ("ase", "LBFGS", 1000, "ase"),
        ("auto", "LBFGS", 10, "ase"),
        ("auto", "LBFGS", 100, "batched"),
        ("auto", "BFGS", 100, "ase"),
        ("batched", "FIRE", 1, "batched"),
    ],
)
def test_batches_are_for_many(method, optimizer, count, expected):
    assert stages.choose_method(method, "emt", optimizer, count) == expected


def test_batches_that_are_not_possible_are_refused():
    with pytest.raises(ValueError, match="BFGS cannot relax crystals in batches"):
        stages.choose_method("batched", "emt", "BFGS", 10)
    with pytest.raises(ValueError, match="not at tcp://there:1; leave --dask out"):
        stages.choose_method("batched", "emt", "LBFGS", 10, "tcp://there:1")
    assert stages.choose_method("auto", "emt", "LBFGS", 99, "tcp://x") == "ase"
    with pytest.raises(ValueError, match="unknown method 'all'"):
        stages.choose_method("all", "emt", "LBFGS", 10)


def test_batch_that_fails_is_relaxed_one_at_a_time(monkeypatch, capsys):
    def fail(*args, **kwargs):
        raise RuntimeError("out of memory on the device")

    monkeypatch.setattr(batches, "relax_each", fail)
    found = screen(["good"], dataclasses.replace(OPTIONS, method="batched"))
    assert found.methods == ["ase"]
    assert found.rejected_reason == [""]
    assert "out of memory on the device" in capsys.readouterr().err


def test_energies_that_differ_part_what_the_matcher_calls_equal():
    crystals = {i: disturb("L1_2:Au-Cu", seed=i, size=0.01) for i in (7, 3, 5, 9)}
    energy = {7: -0.010, 3: 0.020, 5: -0.011, 9: 0.021}

    def compare(**kwargs):
        return stages.compare(
            crystals, [], funnel.ScreeningOptions().tolerance, **kwargs
        )

    assert compare() == {7: (-1, ""), 3: (7, ""), 5: (7, ""), 9: (7, "")}
    assert compare(energy=energy) == {7: (-1, ""), 3: (-1, ""), 5: (7, ""), 9: (3, "")}


def test_energies_of_two_models_never_meet():
    other = dataclasses.replace(known_hull(), energy_model="PBE")
    for check in (
        lambda: funnel.find_energy_model("emt", other),
        lambda: funnel.screen([CASES["good"]], "emt", other),
    ):
        with pytest.raises(ValueError, match=r"'ASE EMT', the hull has those of 'PBE'"):
            check()
    # EMT is comparable with nothing, whatever is claimed.
    with pytest.raises(ValueError, match="comparable with no others"):
        funnel.find_energy_model("emt", other, "PBE")
    assert funnel.find_energy_model("mine:build", other, "PBE") == "PBE"
    assert funnel.find_energy_model("mine:build", None) == "mine:build"
    with pytest.raises(ValueError, match="say so: --energy_model='PBE'"):
        funnel.find_energy_model("mine:build", other)


def test_elements_nobody_can_compute_are_an_error_where_there_are_no_others():
    with pytest.raises(ValueError, match=r"none of the crystals.*O has no reference"):
        screen(["oxide", "unreadable"])
    salt = dataclasses.replace(ALUMINIUM_OXIDE, atomic_numbers=np.array([11, 17]))
    with pytest.raises(ValueError, match="emt has no parameters for Na"):
        funnel.screen([salt], "emt", None)


def test_references_of_the_user_shift_formation_energies(everything):
    own = references.References(energies={29: -1.0, 79: -1.0})
    with_own = screen(["good"], dataclasses.replace(OPTIONS, references=own))
    without = everything.formation_energy[[everything.names.index("good")]]
    pure = {n: references.elemental_energy("emt", n) for n in (29, 79)}
    shift = 1.0 + 0.75 * pure[29] + 0.25 * pure[79]
    expected = without + shift
    np.testing.assert_allclose(with_own.formation_energy, expected, atol=1e-6)


def test_matgl_potential_screens_with_references_of_the_user(tmp_path):
    pytest.importorskip("matgl")
    potentials.save_m3gnet(tmp_path / "potential")
    name = f"matgl:{tmp_path / 'potential'}"
    own = references.References(energies={29: -5.0, 79: -5.5})
    options = dataclasses.replace(
        OPTIONS,
        references=own,
        settings=ase_relaxation.RelaxationSettings(max_steps=2),
        num_workers=1,
    )
    with pytest.raises(ValueError, match="two models make no hull; take --hull=rel"):
        funnel.screen([CASES["good"]], name, known_hull(), (), options)
    found = funnel.screen([CASES["good"], ALUMINIUM_OXIDE], name, None, (), options)
    assert found.energy_model == name.replace(":", " ", 1)
    assert found.rejected_stage == ["", "energy"]
    assert "has no parameters for O; " in found.rejected_reason[1]
    total = found.relaxations[0].energy
    expected = total - (0.75 * -5.0 + 0.25 * -5.5)
    assert found.formation_energy[0] == pytest.approx(expected, abs=1e-6)


def test_nothing_to_screen_is_an_empty_table():
    found = funnel.screen([], "emt", known_hull())
    assert found.counts()["inputs"] == 0
    assert {len(column) for column in found.table().values()} == {0}


def test_names_must_tell_crystals_apart():
    with pytest.raises(ValueError, match="1 different names for 2 crystals"):
        funnel.screen([CASES["good"]] * 2, "emt", None, names=["a", "a"])


def test_out_of_steps_is_ranked_but_not_converged():
    few = ase_relaxation.RelaxationSettings(max_steps=1)
    found = screen(["good"], dataclasses.replace(OPTIONS, settings=few))
    assert rows(found, "relaxation_converged", "relaxation_steps", "rank") == {
        "good": (False, 1, 1)
    }
    assert json.dumps(found.counts())


def test_an_energy_of_sites_on_top_of_each_other_is_not_ranked(monkeypatch):
    relax_each = batches.relax_each

    def collapse(*args, **kwargs):
        for i, one in relax_each(*args, **kwargs):
            yield (
                i,
                dataclasses.replace(one, energy=-1e9, max_force=1e8, converged=False),
            )

    monkeypatch.setattr(batches, "relax_each", collapse)
    found = screen(["good"], dataclasses.replace(OPTIONS, method="batched"))
    assert found.rejected_stage == ["relaxation"]
    assert "forces of 1e+08 eV/Å are left" in found.rejected_reason[0]
    assert found.counts()["relaxed"] == 0
