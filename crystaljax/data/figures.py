"""Pictures of what a data set consists of, from its report (`report.describe`).

Matplotlib is imported when something is drawn: who only trains does without it.
"""

import pathlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from crystaljax.crystals import elements, space_groups
from crystaljax.data import report as reports

# Counts that span more than this factor are drawn on a logarithmic scale.
_WIDE_SPAN = 50
_MOST_SPACE_GROUPS = 40
_COLOR = "#3b6ea5"
_DOTS_PER_INCH = 150

# Atomic numbers at which the rows of the periodic table start.
_PERIOD_STARTS = (1, 3, 11, 19, 37, 55, 87, 119)


def draw(report: dict[str, Any], folder: pathlib.Path) -> list[pathlib.Path]:
    """Draws the histograms of a report as PNGs.

    Args:
        report: of a data set, with the entries of `report.describe`.
        folder: where the files go; made if it is not there. Files of the same name
            are replaced.

    Returns:
        The files: atoms per cell, members of polymorph groups, elements, space groups,
        fractional coordinates (as in the paper's figure 3) and formation energies.
    """
    # Not pyplot: a figure of its own touches neither the backend nor the state of a
    # program that this is called from.
    from matplotlib import figure

    folder.mkdir(parents=True, exist_ok=True)
    histograms = report["histograms"]
    drawings = {
        "atoms_per_cell": ((7, 3.5), _draw_sites, histograms["sites"]),
        "group_sizes": ((7, 3.5), _draw_group_sizes, histograms["group_sizes"]),
        "elements": ((10, 5.8), _draw_elements, histograms["elements"]),
        "space_groups": ((9, 4), _draw_space_groups, histograms["space_groups"]),
        "coordinates": ((10, 3.2), _draw_coordinates, histograms["frac_coords"]),
        "energies": ((7, 3.5), _draw_energies, histograms["formation_energy"]),
    }
    paths = []
    for name, (size, draw_fn, counts) in drawings.items():
        canvas = figure.Figure(size, layout="constrained")
        draw_fn(canvas, counts, report["num_kept"])
        paths.append(folder / f"{name}.png")
        canvas.savefig(paths[-1], dpi=_DOTS_PER_INCH)
    return paths


def _draw_sites(canvas: Any, counts: dict[str, int], num_structures: int) -> None:
    ax = canvas.add_subplot()
    _draw_integers(ax, [int(value) for value in counts], list(counts.values()))
    _label_counts(ax, list(counts.values()), "structures")
    ax.set_xlabel("atoms per cell")
    ax.set_title(f"{num_structures:,} structures")


def _draw_group_sizes(canvas: Any, counts: dict[str, int], num_structures: int) -> None:
    ax = canvas.add_subplot()
    sizes, groups = [int(value) for value in counts], list(counts.values())
    # Where there is no limit, groups may have thousands of members.
    if max(sizes) > _WIDE_SPAN * 2:
        edges = np.unique(np.geomspace(1, max(sizes) + 1, 40).astype(int))
        groups, _ = np.histogram(sizes, edges, weights=groups)
        ax.stairs(groups, edges - 0.5, fill=True, color=_COLOR)
        ax.set_xscale("log")
    else:
        _draw_integers(ax, sizes, groups)
    _label_counts(ax, groups, "polymorph groups")
    ax.set_xlabel("structures with the same cell formula")
    ax.set_title(f"{sum(counts.values()):,} groups of {num_structures:,} structures")


def _draw_integers(ax: Any, values: list[int], counts: list[int]) -> None:
    from matplotlib import ticker

    ax.bar(values, counts, color=_COLOR)
    # A bar that is alone should not fill the picture.
    margin = max(0.03 * (max(values) - min(values)), 0.9)
    ax.set_xlim(min(values) - margin, max(values) + margin)
    ax.xaxis.set_major_locator(ticker.MaxNLocator(integer=True, min_n_ticks=1))


def _draw_elements(canvas: Any, counts: dict[str, int], num_structures: int) -> None:
    import matplotlib as mpl
    from matplotlib import cm, colors, ticker

    shares = {name: 100 * num / num_structures for name, num in counts.items()}
    low, high = min(shares.values()), max(shares.values())
    # A few anions are in most structures of many data bases; the rest should differ in
    # colour all the same.
    is_wide = high > 10 * low
    norm = colors.LogNorm(low, high) if is_wide else colors.Normalize(0, high)
    color_map = mpl.colormaps["YlGnBu"]
    ax = canvas.add_subplot()
    for number, name in enumerate(elements.SYMBOLS, start=1):
        column, row = _place_in_table(number)
        share = shares.get(name)
        fill = "#f4f4f4" if share is None else color_map(norm(share))
        # Rec. 709 luma: dark squares get light letters.
        is_dark = np.dot(colors.to_rgb(fill), (0.2126, 0.7152, 0.0722)) < 0.5
        ink = "#b0b0b0" if share is None else "white" if is_dark else "black"
        ax.add_patch(_square(column, row, fill))
        ax.text(column, row - 0.12, name, ha="center", va="center", color=ink, size=11)
        if share is not None:
            ax.text(
                column,
                row + 0.27,
                _format_share(share),
                ha="center",
                va="center",
                color=ink,
                size=7,
            )
    ax.set(xlim=(0.4, 18.6), ylim=(9.9, 0.4), aspect="equal")
    ax.axis("off")
    ax.set_title(f"{len(counts)} elements in {num_structures:,} structures")
    bar = canvas.colorbar(
        cm.ScalarMappable(norm, color_map),
        ax=ax,
        label="structures with the element (%)",
        shrink=0.7,
        aspect=30,
    )
    if is_wide:
        # 20 rather than 2 × 10¹; between the decades where there are few of them.
        bar.formatter = ticker.LogFormatter()
        bar.minorformatter = ticker.LogFormatter(minor_thresholds=(2, 0.5))


def _format_share(percent: float) -> str:
    if percent >= 9.95:
        return f"{percent:.0f}"
    return f"{percent:.1f}" if percent >= 0.1 else f"{percent:.1g}"


def _square(column: float, row: float, fill: Any) -> Any:
    from matplotlib import patches

    return patches.Rectangle(
        (column - 0.48, row - 0.48), 0.96, 0.96, facecolor=fill, edgecolor="none"
    )


def _place_in_table(number: int) -> tuple[float, float]:
    """Column, 1-18, and row of an element; rows 8.4 and 9.4 are the f-block."""
    period = int(np.searchsorted(_PERIOD_STARTS, number, side="right"))
    first, after = _PERIOD_STARTS[period - 1 : period + 1]
    from_left, from_right = number - first + 1, 19 - (after - number)
    if period >= 6 and 3 <= from_left <= 17:
        return float(from_left), period + 2.4
    if from_left <= (1 if period == 1 else 2):
        return float(from_left), float(period)
    return float(from_right), float(period)


def _draw_space_groups(
    canvas: Any, counts: dict[str, int], num_structures: int
) -> None:
    symbols = space_groups.load_space_group_symbols()
    frequent = sorted(counts.items(), key=lambda item: (-item[1], int(item[0])))
    shown = frequent[:_MOST_SPACE_GROUPS]
    labels = [
        f"{number}  {_format_symbol(symbols[int(number)])}" for number, _ in shown
    ]
    values = [num for _, num in shown]
    ax = canvas.add_subplot()
    ax.bar(range(len(values)), values, color=_COLOR)
    ax.set_xticks(range(len(values)), labels, rotation=90, size=8)
    ax.set_xlim(-0.7, len(values) - 0.3)
    _label_counts(ax, values, "structures")
    title = f"{len(counts)} space groups in {num_structures:,} structures"
    num_others = num_structures - sum(values)
    if num_others:
        title += f"; those not shown have {num_others:,}"
    ax.set_title(title)


def _format_symbol(symbol: str) -> str:
    """Hermann-Mauguin symbol → math text with bars and subscripts."""
    barred = re.sub(r"-(\d)", r"$\\overline{\1}$", symbol)
    return re.sub(r"_(\d)", r"$_{\1}$", barred)


def _draw_coordinates(
    canvas: Any, counts: dict[str, list[int]], num_structures: int
) -> None:
    axes = canvas.subplots(1, 3, sharey=True)
    edges = np.linspace(0, 1, reports.NUM_BINS + 1)
    every = [num for axis in reports.AXES for num in counts[axis]]
    for ax, axis in zip(axes, reports.AXES, strict=True):
        ax.stairs(counts[axis], edges, fill=True, color=_COLOR)
        ax.set_xlim(0, 1)
        ax.set_xlabel(f"fractional coordinate {axis}")
        ax.spines[["top", "right"]].set_visible(False)
    _label_counts(axes[0], every, "sites")
    num_sites = sum(counts["x"])
    canvas.suptitle(f"{num_sites:,} sites of {num_structures:,} structures")


def _draw_energies(canvas: Any, counts: dict[str, Any], num_structures: int) -> None:
    ax = canvas.add_subplot()
    ax.stairs(counts["counts"], counts["edges"], fill=True, color=_COLOR)
    _label_counts(ax, counts["counts"], "structures")
    ax.set_xlabel("formation energy (eV/atom)")
    ax.set_title(f"{num_structures:,} structures")


def _label_counts(ax: Any, counts: Sequence[int] | np.ndarray, what: str) -> None:
    """Names the axis of the counts; a logarithmic one where they span decades."""
    present = [num for num in counts if num > 0]
    if max(present) > _WIDE_SPAN * min(present):
        ax.set_yscale("log")
        ax.set_ylim(bottom=0.7 * min(present))
    else:
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    ax.set_ylabel(what)
    ax.spines[["top", "right"]].set_visible(False)
