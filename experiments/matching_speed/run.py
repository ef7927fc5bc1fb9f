"""How much faster than StructureMatcher pair by pair is crystaljax's matching?

    python experiments/matching_speed/run.py

compares realistic predictions with their targets on one core, in turns with the loop
that published evaluation scripts have, checks that all answers are the same, and
leaves ``result.json`` and ``table.md`` in ``--output``. ``--dataset`` names a directory
that ``python -m crystaljax.prepare`` has made, to take targets from.
"""

import argparse
import collections
import itertools
import json
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import threadpoolctl
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure

from crystaljax.crystals import bridge, structure
from crystaljax.data import dataset as datasets
from crystaljax.data.sources import emt
from crystaljax.matching import matcher as matching
from crystaljax.system import environment

HERE = pathlib.Path(__file__).parent
MAX_SITES = 20
BLOCK = 25  # pairs that one method has before it is the other's turn
Pair = tuple[structure.Crystal, structure.Crystal]
Rms = list[list[float | None]]
SETTINGS = {
    "0.3/0.5/10": (matching.TOLERANCES["literature"],),
    "0.2/0.3/5": (matching.TOLERANCES["paper"],),
    "all four": tuple(matching.TOLERANCES.values()),
}


def main() -> None:
    """Measures, and writes after each measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", action="append", default=[])
    parser.add_argument("--num_pairs", type=int, default=1000)
    # 1/1.5/25 takes ten times as long as the others together.
    parser.add_argument("--num_pairs_all_four", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=pathlib.Path, default=HERE)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    sources = {"built-in alloys and prototypes": builtin_targets()}
    for path in args.dataset:
        sources[pathlib.Path(path).name] = dataset_targets(path)
    rows: list[dict[str, Any]] = []
    for source, targets in sources.items():
        pairs = make_pairs(targets, args.num_pairs, args.seed)
        polymorphs = make_polymorphs(targets, args.num_pairs, args.seed)
        repeated = make_repeated(targets, args.num_pairs, args.seed)
        for name, some, tolerances in (
            ("0.3/0.5/10", pairs, SETTINGS["0.3/0.5/10"]),
            ("0.2/0.3/5", pairs, SETTINGS["0.2/0.3/5"]),
            ("all four", pairs[: args.num_pairs_all_four], SETTINGS["all four"]),
            ("0.3/0.5/10, 20 per target", repeated, SETTINGS["0.3/0.5/10"]),
            ("0.3/0.5/10, polymorphs", polymorphs, SETTINGS["0.3/0.5/10"]),
        ):
            if not some:
                continue
            row = {"targets": source, "tolerances": name}
            rows.append(row | compare(some, tolerances))
            print(json.dumps(rows[-1]), flush=True)
            described = environment.describe_environment()
            del described["command"]
            result = {"environment": described, "rows": rows}
            text = json.dumps(result, indent=2)
            (args.output / "result.json").write_text(text + "\n")
    table = format_table(rows)
    (args.output / "table.md").write_text(table)
    print(table)


def match_plainly(
    pairs: Sequence[Pair], tolerances: Sequence[matching.Tolerance]
) -> Rms:
    """StructureMatcher pair by pair, as evaluation scripts have it."""
    rms: Rms = []
    for prediction, target in pairs:
        found: list[float | None] = []
        for each in tolerances:
            matcher = StructureMatcher(
                ltol=each.ltol, stol=each.stol, angle_tol=each.angle_tol
            )
            try:
                distance = matcher.get_rms_dist(
                    bridge.to_pymatgen(prediction), bridge.to_pymatgen(target)
                )
            except Exception:
                distance = None
            found.append(None if distance is None else float(distance[0]))
        rms.append(found)
    return rms


def match_ours(pairs: Sequence[Pair], tolerances: Sequence[matching.Tolerance]) -> Rms:
    """The same by `matcher.match_many`, in this process."""
    predictions, targets = zip(*pairs, strict=True)
    matches = matching.match_many(predictions, targets, tolerances, num_workers=1)
    return [
        [None if np.isnan(value) else float(value) for value in row]
        for row in matches.rms
    ]


def compare(
    pairs: Sequence[Pair], tolerances: Sequence[matching.Tolerance]
) -> dict[str, Any]:
    """CPU seconds of both, block by block in turns, and how far they disagree."""
    methods = {"plain": match_plainly, "ours": match_ours}
    seconds: dict[str, float] = collections.defaultdict(float)
    answers: dict[str, Rms] = {"plain": [], "ours": []}
    _forget()
    with threadpoolctl.threadpool_limits(1):
        for number, begin in enumerate(range(0, len(pairs), BLOCK)):
            order = ("plain", "ours") if number % 2 else ("ours", "plain")
            for name in order:
                block = pairs[begin : begin + BLOCK]
                used, found = _timed(methods[name], block, tolerances)
                seconds[name] += used
                answers[name] += found
    plain, ours = (
        np.array(answers[name], float).reshape(len(pairs), -1) for name in methods
    )
    both = np.isfinite(plain) & np.isfinite(ours)
    return {
        "num_pairs": len(pairs),
        "mean_sites": float(np.mean([target.num_sites for _, target in pairs])),
        "match_rates": np.isfinite(ours).mean(axis=0).tolist(),
        "plain_ms": 1e3 * seconds["plain"] / len(pairs),
        "ours_ms": 1e3 * seconds["ours"] / len(pairs),
        "ratio": seconds["plain"] / seconds["ours"],
        "different_matches": int((np.isfinite(plain) != np.isfinite(ours)).sum()),
        "largest_rms_difference": float(np.max(np.abs(plain - ours)[both], initial=0)),
    }


def _timed(
    method: Callable[..., Rms], pairs: Sequence[Pair], tolerances: Sequence[Any]
) -> tuple[float, Rms]:
    # CPU time: others may use the machine.
    start = time.process_time()
    found = method(pairs, tolerances)
    return time.process_time() - start, found


def _forget() -> None:
    """Empties what both remember of cells that an earlier measurement reduced."""
    matching._reduce_key.cache_clear()
    # Older releases of pymatgen remember none.
    reduced = getattr(StructureMatcher, "_get_reduced_istructure", None)
    if reduced is not None:
        reduced.cache_clear()


def builtin_targets() -> list[structure.Crystal]:
    """Alloys of 2 to 8 sites, and as many compounds of 4 to 20."""
    alloys = [record.crystal for record in emt.load_builtin()]
    compounds = [bridge.from_pymatgen(each) for each in prototypes()]
    return alloys + compounds * (len(alloys) // len(compounds))


def prototypes() -> list[Structure]:
    """Primitive cells of well-known structure types, and three supercells."""
    cubic, tetragonal, hexagonal = Lattice.cubic, Lattice.tetragonal, Lattice.hexagonal
    made = [
        ("Pm-3m", cubic(3.9), ["Sr", "Ti", "O"], [[0] * 3, [0.5] * 3, [0.5, 0.5, 0]]),
        ("P4_2/mnm", tetragonal(4.6, 2.96), ["Ti", "O"], [[0] * 3, [0.305, 0.305, 0]]),
        ("I4_1/amd", tetragonal(3.78, 9.5), ["Ti", "O"], [[0] * 3, [0, 0, 0.208]]),
        (
            "R-3c",
            hexagonal(4.76, 12.99),
            ["Al", "O"],
            [[0, 0, 0.352], [0.306, 0, 0.25]],
        ),
        (
            "Fd-3m",
            cubic(8.08),
            ["Mg", "Al", "O"],
            [[1 / 8] * 3, [0.5] * 3, [0.2624] * 3],
        ),
        ("P6_3/mmc", hexagonal(3.06, 11.2), ["Mo", "S"], _MOLYBDENITE),
        ("Fm-3m", cubic(5.95), ["Cu", "Mn", "Al"], [[0.25] * 3, [0] * 3, [0.5] * 3]),
        ("P6/mmm", hexagonal(3.09, 3.52), ["Mg", "B"], [[0] * 3, [1 / 3, 2 / 3, 0.5]]),
        ("Fm-3m", cubic(5.64), ["Na", "Cl"], [[0] * 3, [0.5] * 3]),
        (
            "P6_3mc",
            hexagonal(3.25, 5.2),
            ["Zn", "S"],
            [[1 / 3, 2 / 3, 0], [1 / 3, 2 / 3, 0.382]],
        ),
        ("F-43m", cubic(5.41), ["Zn", "S"], [[0] * 3, [0.25] * 3]),
    ]
    cells = [Structure.from_spacegroup(*each) for each in made]
    cells = [each.get_primitive_structure() for each in cells]
    for cell in cells[:3]:
        supercell = cell.copy()
        supercell.make_supercell([2, 1, 1])
        cells.append(supercell)
    return [each for each in cells if 4 <= len(each) <= MAX_SITES]


_MOLYBDENITE = [[1 / 3, 2 / 3, 0.25], [1 / 3, 2 / 3, 0.621]]


def dataset_targets(path: str) -> list[structure.Crystal]:
    """All structures of a data set that are not too large."""
    dataset = datasets.open_dataset(path)
    small = np.flatnonzero(dataset.num_sites <= MAX_SITES)
    return [datasets.crystal(dataset, index) for index in small.tolist()]


def make_pairs(
    targets: list[structure.Crystal], num_pairs: int, seed: int
) -> list[Pair]:
    """Predictions from almost right to useless, in equal parts; a few are broken."""
    rng = np.random.default_rng(seed)
    by_formula = _by_formula(targets)
    by_size: dict[int, list[int]] = collections.defaultdict(list)
    for index, crystal in enumerate(targets):
        by_size[crystal.num_sites].append(index)
    picked = rng.choice(len(targets), num_pairs, replace=num_pairs > len(targets))
    pairs = []
    for number, index in enumerate(picked.tolist()):
        target = targets[index]
        match number % 5:
            case 0:
                prediction = distort(target, rng, 0.01, 0.03)
            case 1:
                prediction = distort(target, rng, 0.05, 0.12)
            case 2:
                prediction = distort(target, rng, 0.1, 0.3)
            case 3:
                # A polymorph, or the target's sites placed as another crystal's.
                alike = by_formula[tuple(sorted(target.atomic_numbers.tolist()))]
                others = alike if len(alike) > 1 else by_size[target.num_sites]
                other = targets[int(rng.choice(others))]
                other = structure.Crystal(
                    np.sort(target.atomic_numbers), other.frac_coords, other.lattice
                )
                prediction = distort(other, rng, 0.01, 0.03)
            case _:
                sites = rng.uniform(size=target.frac_coords.shape)
                random = structure.Crystal(target.atomic_numbers, sites, target.lattice)
                prediction = distort(random, rng, 0.05, 0.0)
        if number % 50 == 49:
            prediction = structure.Crystal(
                prediction.atomic_numbers,
                prediction.frac_coords * (np.nan if number % 100 == 99 else 1),
                prediction.lattice * [1, 1, 0],
            )
        pairs.append((prediction, target))
    return pairs


def make_repeated(
    targets: list[structure.Crystal], num_pairs: int, seed: int
) -> list[Pair]:
    """20 predictions for each of some targets, as for a match rate at 20."""
    rng = np.random.default_rng(seed)
    pairs = []
    for index in rng.choice(len(targets), num_pairs // 20).tolist():
        for strain, shift in ((0.01, 0.03), (0.05, 0.12), (0.1, 0.3), (0.1, 0.5)) * 5:
            pairs.append((distort(targets[index], rng, strain, shift), targets[index]))
    return pairs


def make_polymorphs(
    targets: list[structure.Crystal], num_pairs: int, seed: int
) -> list[Pair]:
    """Crystals as they are with others of the same formula; as many as there are."""
    rng = np.random.default_rng(seed)
    pairs = []
    for members in _by_formula(targets).values():
        order = rng.permutation(members).tolist()
        pairs += list(itertools.pairwise(order))
    chosen = rng.permutation(len(pairs))[:num_pairs].tolist()
    return [(targets[pairs[i][0]], targets[pairs[i][1]]) for i in chosen]


def _by_formula(targets: list[structure.Crystal]) -> dict[tuple[int, ...], list[int]]:
    groups: dict[tuple[int, ...], list[int]] = collections.defaultdict(list)
    for index, crystal in enumerate(targets):
        groups[tuple(sorted(crystal.atomic_numbers.tolist()))].append(index)
    return groups


def distort(
    crystal: structure.Crystal, rng: np.random.Generator, strain: float, shift: float
) -> structure.Crystal:
    """Strains the lattice, and moves sites (in units of the site spacing)."""
    lattice = (np.eye(3) + rng.normal(0, strain, (3, 3))) @ crystal.lattice
    spacing = (abs(np.linalg.det(lattice)) / crystal.num_sites) ** (1 / 3)
    moves = rng.normal(0, shift * spacing, crystal.frac_coords.shape)
    return structure.Crystal(
        crystal.atomic_numbers,
        crystal.frac_coords + moves @ np.linalg.inv(lattice),
        lattice,
    )


def format_table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    lines = [
        "| targets | tolerances | pairs | plain, ms | ours, ms | ratio | different |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        lines.append(
            f"| {row['targets']} ({row['mean_sites']:.1f} sites) | {row['tolerances']} "
            f"| {row['num_pairs']} | {row['plain_ms']:.1f} | {row['ours_ms']:.1f} | "
            f"{row['ratio']:.1f} | {row['different_matches']} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
