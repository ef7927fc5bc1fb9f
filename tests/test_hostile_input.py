"""Damaged files of every kind: refused, or read for what they say."""

import collections
import contextlib
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "experiments"))


from hostile_input import mutations, run  # noqa: E402

NUM_INPUTS = 2000
# Others than those of the record, so that it is not these alone that are mended.
FIRST = 10_000_000


@pytest.fixture(scope="module")
def results():
    return list(run.read_all(FIRST, FIRST + NUM_INPUTS))


def test_no_damaged_input_is_read_as_what_it_does_not_say(results):
    bad = [each for each in results if each.outcome in run.BAD]
    assert not bad, "\n".join(map(str, bad[:20]))
    assert len(results) == NUM_INPUTS


def test_the_inputs_are_of_all_kinds_and_damaged_in_all_ways(results):
    counts = collections.Counter(each.kind for each in results)
    assert len(counts) >= 25 and min(counts.values()) >= NUM_INPUTS // 30
    done = {name for each in results for name in each.mutation.split("+")}
    assert done == mutations.MUTATIONS.keys()
    outcomes = collections.Counter(each.outcome for each in results)
    # A reader that refuses everything would have nothing bad to show.
    assert outcomes["refused"] > NUM_INPUTS // 10
    assert outcomes["same"] > NUM_INPUTS // 10


def test_what_is_bad_is_counted(tmp_path, monkeypatch):
    """Readers that are wrong on purpose, one for each way."""
    reader = run.Reader(tmp_path / "input")
    monkeypatch.setattr(run, "SLOW", 0.2)

    def spin(place):
        while True:
            with contextlib.suppress(Exception):
                sum(range(1000))

    def read_wrong(place):
        return [("0", crystal)]

    def stumble(place):
        raise KeyError("x")

    name = "CIF"
    number = reader.names.index(name)
    _, good, _, _ = reader.make(number)
    crystal = reader._kinds["POSCAR"][0].items["0"]
    run.prepare_process(limits_memory=False)
    found = {}
    for way, read in (("slow", spin), ("traceback", stumble), ("other", read_wrong)):
        kind = run.dataclasses.replace(good.kind, read=read)
        reader._kinds[name] = [run._Good(kind, good.items)]
        found[way] = reader.read(number).outcome
    assert found == {
        "slow": "slow",
        "traceback": "traceback",
        "other": "another, though the file says otherwise",
    }
