import dataclasses
import math

import ase.build
import ase.io
import numpy as np
import pytest

from crystaljax.crystals import bridge, symmetry_search
from crystaljax.relaxation import ase_relaxation
from crystaljax.screening import files, funnel, saddles
from crystaljax.system import errors

pytestmark = pytest.mark.usefixtures("forked_workers")

KEPT = ase_relaxation.RelaxationSettings(keep_symmetry=True)
# From the two open ones shears lead down to closer packings.
CRYSTALS = {
    "fcc": bridge.from_ase(ase.build.bulk("Cu", "fcc", 3.6)),
    "sc": bridge.from_ase(ase.build.bulk("Cu", "sc", 2.4)),
    "diamond": bridge.from_ase(ase.build.bulk("Cu", "diamond", 5.4)),
}
IS_SADDLE = {"fcc": False, "sc": True, "diamond": True}


def test_disturbed_crystals_lose_their_symmetry_by_the_same_seed():
    crystal = CRYSTALS["diamond"]
    one, again = (saddles.disturb(crystal, 3) for _ in range(2))
    np.testing.assert_array_equal(one.frac_coords, again.frac_coords)
    assert symmetry_search.find_space_group(one, 0.001) <= 2
    assert not np.allclose(one.lattice, crystal.lattice, atol=1e-3)
    fixed = saddles.disturb(crystal, 3, with_cell=False)
    np.testing.assert_array_equal(fixed.lattice, crystal.lattice)


def test_batches_find_them():
    kept = {
        i: ase_relaxation.relax(each, "emt", KEPT)
        for i, each in enumerate(CRYSTALS.values())
    }
    released = saddles.release(
        {i: each.crystal for i, each in kept.items()}, "emt", KEPT, "batched"
    )
    found = {i: saddles.judge(kept[i], each) for i, each, _ in released}
    assert [found[i].is_saddle for i in range(3)] == list(IS_SADDLE.values())
    # EMT's copper is fcc.
    assert found[0].space_group == 225
    assert found[0].energy_change == pytest.approx(0, abs=1e-3)
    assert all(found[i].energy_change < -saddles.MIN_ENERGY_LOSS for i in (1, 2))


def test_what_cannot_be_relaxed_is_neither():
    crystal = CRYSTALS["diamond"]
    kept = ase_relaxation.Relaxation(crystal, -1.0, 0.01, 3, True)
    failed = dataclasses.replace(kept, failure="a site moved by 9.0 Å")
    found = saddles.judge(kept, failed)
    assert found.is_saddle is None and math.isnan(found.energy_change)
    # Lower in the same group: not yet relaxed within it.
    lower = dataclasses.replace(kept, energy=-1.1)
    assert saddles.judge(kept, lower).is_saddle is False


def test_a_screening_says_which_are_saddles_and_goes_on(tmp_path):
    options = funnel.ScreeningOptions(settings=KEPT, num_workers=1, check_saddles=True)
    names = list(CRYSTALS)

    def screen():
        return funnel.screen(
            list(CRYSTALS.values()),
            "emt",
            None,
            options=options,
            names=names,
            work=tmp_path,
        )

    result = screen()
    table = result.table()
    found = dict(zip(names, table["released_is_saddle"], strict=True))
    assert found == IS_SADDLE
    assert result.counts()["saddles"] == 2
    changes = table["released_energy_change"]
    assert max(changes[1:]) < -0.002 < changes[0]
    files.write_results(tmp_path / "out", result, {"name": names, **table}, None, {})
    (atoms,) = [
        each
        for each in ase.io.read(tmp_path / "out" / "released.extxyz", ":")
        if each.info["name"] == "sc"
    ]
    assert atoms.info["released_energy_change"] == pytest.approx(changes[1])
    crystal = bridge.from_ase(atoms)
    found = symmetry_search.find_space_group(crystal, 0.1)
    assert found == atoms.info["released_space_group_0_1"] != 221
    # What was done is read.
    before = (tmp_path / "released.jsonl").read_bytes()
    assert before.count(b"\n") == 3
    again = screen().table()
    assert again["released_energy_change"] == changes
    assert (tmp_path / "released.jsonl").read_bytes() == before


def test_without_kept_symmetry_there_is_nothing_to_release():
    with pytest.raises(errors.UserError, match="pass --keep_symmetry"):
        funnel.ScreeningOptions(check_saddles=True)
    result = funnel.screen([CRYSTALS["fcc"]], "emt", None)
    assert "released_is_saddle" not in result.table()
    assert "saddles" not in result.counts()
