"""What a data set consists of, described as in section 2.1 of the paper.

The report is a dict of plain JSON values, which dataset.json keeps; the counts behind
its histograms are in it, so that figures are drawn from the report alone.
"""

from typing import Any

import numpy as np
from jaxtyping import Int

from crystaljax.crystals import elements
from crystaljax.data import columnar, selection
from crystaljax.data import dataset as datasets
from crystaljax.data import split as splits
from crystaljax.data.sources import record

AXES = ("x", "y", "z")
NUM_BINS = 50

# Site rows that are looked at together.
_BLOCK_ROWS = 1 << 20
# Longer lists are printed as their length alone.
_LONGEST_LIST = 20


def describe(
    columns: columnar.Columns, split: Int[np.ndarray, " structures"]
) -> dict[str, Any]:
    """What the structures are, and how they are split.

    Args:
        columns: one structure at least.
        split: index into ``dataset.SPLITS`` of each.

    Returns:
        JSON values:

        * ``num_kept``, ``num_groups`` (same cell formula), ``smallest_group``,
          ``largest_group``;
        * ``sites`` and ``formation_energy`` (eV/atom): least and most;
        * ``elements``: symbols; ``space_groups``: numbers;
        * ``splits``, ``split_groups``, ``split_elements``: by name of the side, its
          number of structures, polymorph groups and elements;
        * ``element_imbalance``: by name of a side that is held out, its
          `split.element_imbalance` with training; None where there are no structures;
        * ``histograms``: counts behind the figures, see `count`.
    """
    group = columnar.polymorph_groups(columns.formula)
    group_sizes = np.bincount(group)
    sides = {
        name: np.flatnonzero(split == code) for code, name in enumerate(datasets.SPLITS)
    }
    num_with = {
        name: selection.count_elements(columns, side) for name, side in sides.items()
    }
    num_with_element = np.sum(list(num_with.values()), axis=0)
    histograms = count(columns, num_with_element, group_sizes)
    energies = columns.formation_energy
    num_sites = columns.num_sites
    return {
        "num_kept": len(columns),
        "num_groups": len(group_sizes),
        "smallest_group": int(group_sizes.min()),
        "largest_group": int(group_sizes.max()),
        "sites": [int(num_sites.min()), int(num_sites.max())],
        "formation_energy": [float(energies.min()), float(energies.max())],
        "elements": list(histograms["elements"]),
        "space_groups": [int(number) for number in histograms["space_groups"]],
        "splits": {name: len(side) for name, side in sides.items()},
        "split_groups": {
            name: int(np.count_nonzero(np.bincount(group[side])))
            for name, side in sides.items()
        },
        "split_elements": {
            name: int(np.count_nonzero(counts)) for name, counts in num_with.items()
        },
        "element_imbalance": {
            name: _imbalance(num_with["train"], num_with[name])
            for name in datasets.SPLITS[1:]
        },
        "histograms": histograms,
    }


def count(
    columns: columnar.Columns,
    num_with_element: Int[np.ndarray, "104"],
    group_sizes: Int[np.ndarray, " groups"],
) -> dict[str, Any]:
    """The numbers behind the figures, as JSON values.

    Args:
        columns: one structure at least.
        num_with_element: number of structures with each atomic number.
        group_sizes: members of each polymorph group.

    Returns:
        * ``sites``, ``group_sizes``, ``elements``, ``space_groups``: for each value
          there is (a string, as JSON wants it), the number of structures, or of groups
          for ``group_sizes``;
        * ``frac_coords``: for each axis, the number of sites in ``NUM_BINS`` equal
          intervals of [0, 1);
        * ``formation_energy``: ``edges`` (eV/atom) and ``counts`` of as many intervals.
    """
    counts, edges = np.histogram(columns.formation_energy, bins=NUM_BINS)
    coords = _count_coordinates(columns.frac_coords)
    return {
        "sites": _nonzero(np.bincount(columns.num_sites)),
        "group_sizes": _nonzero(np.bincount(group_sizes)),
        "elements": {
            elements.symbol(int(number)): int(num_with_element[number])
            for number in np.flatnonzero(num_with_element)
        },
        "space_groups": _nonzero(np.bincount(columns.space_group)),
        "frac_coords": dict(zip(AXES, coords.tolist(), strict=True)),
        "formation_energy": {"edges": edges.tolist(), "counts": counts.tolist()},
    }


def format_report(report: dict[str, Any]) -> str:
    """The report as lines of text.

    Args:
        report: what `describe` gives, and of the reading and the selection:
            ``num_read``, ``failed`` (for each reason its ``count``), ``left_out``
            (structures by reason of the source) and ``dropped`` (by rule); of a split
            given by lists ``split_lists`` (`split_lists.assign`) and
            ``formulas_on_two_sides``.
    """
    rows: list[tuple[str, Any]] = [("structures read", report["num_read"])]
    for reason, entry in report["failed"].items():
        rows.append((f"  failed: {reason}", entry["count"]))
        # What is missing of a file is said with its name.
        if reason in record.DAMAGE:
            rows += [("", each["detail"]) for each in entry.get("examples", ())]
    rows += [(f"  left out: {reason}", n) for reason, n in report["left_out"].items()]
    rows += [
        (f"  dropped by --{rule}", _format_dropped(rule, num))
        for rule, num in report["dropped"].items()
    ]
    rows += [
        ("structures kept", report["num_kept"]),
        ("polymorph groups (same cell formula)", report["num_groups"]),
        ("  smallest", report["smallest_group"]),
        ("  largest", report["largest_group"]),
        ("atoms per cell", "{} to {}".format(*report["sites"])),
        (
            "formation energy (eV/atom)",
            "{:.3f} to {:.3f}".format(*report["formation_energy"]),
        ),
        ("elements", _format_list(report["elements"])),
        ("space groups", _format_list(report["space_groups"])),
        *((name, _format_side(report, name)) for name in report["splits"]),
        *_format_lists(report),
        *_format_setting(report.get("standard_setting")),
    ]
    width = max(len(label) for label, _ in rows) + 2
    return "\n".join(f"{label:<{width}}{value}" for label, value in rows)


def _format_lists(report: dict[str, Any]) -> list[tuple[str, Any]]:
    """What lists of ids name that is not there, where the split was given so."""
    if "split_lists" not in report:
        return []
    rows: list[tuple[str, Any]] = []
    for name, entry in report["split_lists"].items():
        found = f"{entry['found']} of {entry['listed']} found"
        if entry["examples"]:
            found += f"; not: {', '.join(entry['examples'])}"
            found += ", …" if entry["listed"] - entry["found"] > 5 else ""
        rows.append((f"ids listed for {name}", found))
    return [
        *rows,
        ("reduced formulas on two sides", report["formulas_on_two_sides"]),
    ]


def _format_setting(setting: dict[str, Any] | None) -> list[tuple[str, Any]]:
    if setting is None:
        return []
    rows: list[tuple[str, Any]] = [
        ("in the standard setting", setting["standardised"]),
        ("  of another space group than labelled", setting["other_group"]),
        ("  supercells of the primitive cell", setting["supercells"]),
        ("  without symmetry (P1)", setting["P1"]),
    ]
    for reason, entry in setting["failed"].items():
        rows.append((f"  failed: {reason}", entry["count"]))
        rows += [("", f"{each['id']}: {each['detail']}") for each in entry["examples"]]
    return rows


def _imbalance(train: np.ndarray, other: np.ndarray) -> float | None:
    if not (train.any() and other.any()):
        return None
    return splits.element_imbalance(train, other)


def _nonzero(counts: np.ndarray) -> dict[str, int]:
    return {str(value): int(counts[value]) for value in np.flatnonzero(counts)}


def _count_coordinates(frac_coords: np.ndarray) -> Int[np.ndarray, "3 bins"]:
    counts = np.zeros((3, NUM_BINS), np.int64)
    for start in range(0, len(frac_coords), _BLOCK_ROWS):
        bins = (frac_coords[start : start + _BLOCK_ROWS] * NUM_BINS).astype(np.uint8)
        for axis in range(3):
            counts[axis] += np.bincount(bins[:, axis], minlength=NUM_BINS)
    return counts


def _format_dropped(rule: str, num: int) -> str:
    if rule in ("min_element_share", "min_space_group_share"):
        return f"{num} (shares counted once, before elements and space groups go)"
    return str(num)


def _format_list(values: list[Any]) -> str:
    if len(values) > _LONGEST_LIST:
        return str(len(values))
    return f"{len(values)}: {', '.join(map(str, values))}"


def _format_side(report: dict[str, Any], name: str) -> str:
    text = (
        f"{report['splits'][name]} structures, {report['split_groups'][name]} groups, "
        f"{report['split_elements'][name]} elements"
    )
    imbalance = report["element_imbalance"].get(name)
    if imbalance is not None:
        text += f"; frequencies of elements differ by {imbalance:.3f} from train"
    return text
