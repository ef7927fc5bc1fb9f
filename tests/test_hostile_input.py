"""Damaged files of every kind: refused, or read for what they say."""

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import sys
import warnings

import forked_workers
import pytest

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "experiments"))

from hostile_input import mutations, run  # noqa: E402

NUM_INPUTS = 2000
# Others than those of the record, so that it is not these alone that are mended.
FIRST = 10_000_000


def run_main(arguments):
    sys.argv = ["run.py", *arguments]
    run.main()


@pytest.fixture(scope="module")
def counts(tmp_path_factory):
    # In a process of its own, which limits its memory, and forks.
    path = tmp_path_factory.mktemp("counts") / "counts.json"
    arguments = [f"--num_inputs={NUM_INPUTS}", f"--first={FIRST}", f"--output={path}"]
    pid = forked_workers.fork(forked_workers.run_quietly, run_main, arguments)
    _, status = os.waitpid(pid, 0)
    assert status == 0
    return json.loads(path.read_text())


def test_no_damaged_input_is_read_as_what_it_does_not_say(counts):
    assert counts["num_inputs"] == NUM_INPUTS
    bad = {name: counts["outcomes"][name] for name in run.BAD}
    assert not any(bad.values()), json.dumps(counts["examples"], indent=1)[:5000]


def test_the_inputs_are_of_all_kinds_and_damaged_in_all_ways(counts):
    by_kind = {name: sum(each.values()) for name, each in counts["by_kind"].items()}
    assert len(by_kind) >= 25 and min(by_kind.values()) >= NUM_INPUTS // 30
    assert counts["by_damage"].keys() == mutations.MUTATIONS.keys()
    # A reader that refuses everything would have nothing bad to show.
    assert counts["outcomes"]["refused"] > NUM_INPUTS // 10
    assert counts["outcomes"]["same"] > NUM_INPUTS // 10


def test_counts_that_go_on_are_those_of_one_run():
    results = [
        run.Result(i, "CIF" if i % 2 else "hull", "cut+bit flipped", name, "x", 0.5)
        for i, name in enumerate(run.OUTCOMES)
    ]
    whole, first = run.Counts(), run.Counts()
    for number, each in enumerate(results):
        whole.add(each)
        if number < 5:
            first.add(each)
    again = run.Counts()
    again.add_dict(json.loads(json.dumps(first.to_dict())))
    for each in results[5:]:
        again.add(each)
    assert again.to_dict() == whole.to_dict()


@pytest.fixture
def limits():
    """An alarm as in the process that reads, for one test."""
    before = signal.getsignal(signal.SIGPROF)
    with warnings.catch_warnings():
        run.prepare_process(limits_memory=False)
        yield
    signal.signal(signal.SIGPROF, before)


def test_what_is_bad_is_counted(tmp_path, monkeypatch, limits):
    """Readers that are wrong on purpose, one for each way."""
    monkeypatch.setattr(run, "SLOW", 0.2)
    reader = run.Reader(tmp_path / "input")
    kinds = reader._kinds
    other = kinds["POSCAR"][0].items["0"]
    good = kinds["CIF"][0]

    def spin(place):
        while True:
            with contextlib.suppress(Exception):
                sum(range(1000))

    def read_wrong(place):
        return [("0", other)]

    def stumble(place):
        raise KeyError("x")

    found = {}
    for name, read in (("slow", spin), ("error", stumble), ("other", read_wrong)):
        kind = dataclasses.replace(good.kind, read=read)
        outcome, _ = judge(reader, run._Good(kind, good.items))
        found[name] = outcome
    assert found == {
        "slow": "slow",
        "error": "traceback",
        "other": "another, though the file says otherwise",
    }


def judge(reader, good):
    """Outcome of the first input in which the formula is still there."""
    reader._kinds["CIF"] = [good]
    number = reader.names.index("CIF")
    while True:
        _, _, files, _ = reader.make(number)
        (content,) = files.values()
        if b"_chemical_formula_sum 'Au1 Cu3'" in content and b"data_" in content:
            result = reader.read(number)
            return result.outcome, result.detail
        number += len(reader.names)
