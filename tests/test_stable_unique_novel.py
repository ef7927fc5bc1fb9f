import json

import numpy as np
import pytest

from crystaljax.metrics import stable_unique_novel

NAN = float("nan")


def discoveries(rows):
    valid, duplicate_of, known_as, above_hull = zip(*rows, strict=True)
    return stable_unique_novel.find_discoveries(
        np.array(valid), np.array(duplicate_of), list(known_as), np.array(above_hull)
    )


# By hand: valid, duplicate of, known as, eV/atom above the hull.
ROWS = [
    (True, -1, "", -0.010),  # new and below the hull
    (True, 0, "", NAN),  # the same again, not relaxed
    (True, -1, "mp-1", NAN),  # known as generated, not relaxed
    (True, 4, "", 0.020),  # relaxed to the next one, which is known
    (True, -1, "mp-2", 0.020),
    (True, 3, "", NAN),  # equal to one that relaxed to a known one
    (True, -1, "", 0.025),  # on a limit, which counts
    (True, -1, "", 0.080),
    (True, -1, "", NAN),  # its relaxation failed
    (False, -1, "", NAN),  # unreadable
]


def test_counts_are_those_made_by_hand():
    found = discoveries(ROWS)
    assert found.counts() == {
        "generated": 10,
        "valid": 9,
        "with_energy": 7,
        "unique": 6,
        "novel": 5,
        "unique_and_novel": 4,
        "stable": {"0": 2, "25": 6, "100": 7},
        "sun": {"0": 1, "25": 2, "100": 3},
    }
    assert found.novel.tolist() == [1, 1, 0, 0, 0, 0, 1, 1, 1, 0]
    np.testing.assert_allclose(found.above_hull[5], 0.020)
    assert set(found.counts()) == set(stable_unique_novel.DEFINITIONS)


def test_without_a_hull_nothing_is_called_stable():
    counts = discoveries(ROWS).counts(has_hull=False)
    assert counts["stable"] is None and counts["sun"] is None
    assert len(stable_unique_novel.format_counts(counts)) == 1


@pytest.mark.parametrize("rows", [[], [(False, -1, "", NAN)]])
def test_nothing_found_is_zeros(rows):
    if rows:
        counts = discoveries(rows).counts()
    else:
        empty = np.zeros(0)
        counts = stable_unique_novel.find_discoveries(
            empty.astype(bool), empty.astype(int), [], empty
        ).counts()
    assert counts["sun"] == {"0": 0, "25": 0, "100": 0}
    assert "0 (0.0%) stable" in "\n".join(stable_unique_novel.format_counts(counts))
    assert json.dumps(counts)


def test_what_the_counts_are_relative_to_is_printed_beside_them():
    counts = discoveries(ROWS).counts()
    named = counts | {"calculator": "emt", "hull": "builtin", "known": "none"}
    lines = stable_unique_novel.format_counts(named)
    assert lines[-1] == "  by potential emt, hull builtin, known crystals none"
    assert "2 (20.0%) stable, unique and novel" in lines[2]
