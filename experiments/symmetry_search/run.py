"""Does moyopy find the symmetry that spglib finds, and in less time?

    python experiments/symmetry_search/run.py --data=mp_20_biternary/val.csv.gz \
        --data=mpts_52/val.csv.gz --data=perov_5/test.csv.gz

takes the crystals of CSV files with a column ``cif``, evenly over the files, and
compares space groups, operations and primitive cells of both programs at two distance
tolerances: of the crystals as they are, and with sites and cell distorted as those of a
generated crystal may be. Leaves ``result.json`` in ``--output``.
"""

import argparse
import json
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import moyopy
import numpy as np
import spglib

from crystaljax.crystals import cif, structure
from crystaljax.data.readers import csv_rows
from crystaljax.system import environment

HERE = pathlib.Path(__file__).parent
SYMPRECS = (0.1, 0.01)
# Å; 0 for the crystals as they are.
DISTORTIONS = (0.0, 0.03)
BLOCK = 100  # crystals that one program has before it is the other's turn
# Number of the space group, operations, sites of the primitive cell; None: not found.
Symmetry = tuple[int, int, int] | None


def find_with_spglib(crystal: structure.Crystal, symprec: float) -> Symmetry:
    """The symmetry by spglib."""
    cell = (crystal.lattice, crystal.frac_coords, crystal.atomic_numbers)
    try:
        found = spglib.get_symmetry_dataset(cell, symprec)  # type: ignore[arg-type]
    except Exception:
        return None
    if found is None:
        return None
    return found.number, len(found.rotations), len(set(found.mapping_to_primitive))


def find_with_moyopy(crystal: structure.Crystal, symprec: float) -> Symmetry:
    """The symmetry by moyopy."""
    try:
        found = moyopy.MoyoDataset(
            moyopy.Cell(
                crystal.lattice.tolist(),
                crystal.frac_coords.tolist(),
                crystal.atomic_numbers.tolist(),
            ),
            symprec=symprec,
        )
    except Exception:
        return None
    return found.number, len(found.operations), len(set(found.mapping_std_prim))


PROGRAMS: dict[str, Callable[[structure.Crystal, float], Symmetry]] = {
    "spglib": find_with_spglib,
    "moyopy": find_with_moyopy,
}


def read_crystals(path: str, count: int) -> list[structure.Crystal]:
    """Crystals of a CSV file, evenly spaced."""
    texts = [text for (text,) in csv_rows.read_rows(path, ["cif"]) if text]
    chosen = np.linspace(0, len(texts) - 1, min(count, len(texts))).astype(int)
    return [cif.parse_cif(texts[index]) for index in chosen]


def distort(
    crystal: structure.Crystal, size: float, rng: np.random.Generator
) -> structure.Crystal:
    """Moves sites by ``size`` (Å, standard deviation), and the cell by a tenth of it.

    Args:
        crystal: stays as it is.
        size: Å per component; lattice entries change by a tenth of it per Å.
        rng: of the distortion.
    """
    moves = rng.normal(0, size, crystal.frac_coords.shape)
    strain = np.eye(3) + rng.normal(0, 0.1 * size, (3, 3))
    return structure.Crystal(
        crystal.atomic_numbers,
        crystal.frac_coords + moves @ np.linalg.inv(crystal.lattice),
        crystal.lattice @ strain,
    )


def compare(crystals: Sequence[structure.Crystal], symprec: float) -> dict[str, Any]:
    """Both programs on the same crystals, block by block in turns."""
    answers: dict[str, list[Symmetry]] = {name: [] for name in PROGRAMS}
    seconds = dict.fromkeys(PROGRAMS, 0.0)
    for start in range(0, len(crystals), BLOCK):
        block = crystals[start : start + BLOCK]
        for name, find in PROGRAMS.items():
            started = time.process_time()
            answers[name] += [find(crystal, symprec) for crystal in block]
            seconds[name] += time.process_time() - started
    pairs = list(zip(*answers.values(), strict=True))

    def number(symmetry: Symmetry) -> int:
        return 0 if symmetry is None else symmetry[0]

    other_number = [
        (i, number(one), number(other))
        for i, (one, other) in enumerate(pairs)
        if number(one) != number(other)
    ]
    return {
        "symprec": symprec,
        "crystals": len(crystals),
        "milliseconds_per_crystal": {
            name: 1e3 * spent / len(crystals) for name, spent in seconds.items()
        },
        "not_found": {name: answers[name].count(None) for name in PROGRAMS},
        "other_space_group": len(other_number),
        "other_symmetry": sum(one != other for one, other in pairs),
        # Index of the crystal, space group by spglib and by moyopy.
        "first_others": other_number[:20],
    }


def main() -> None:
    """Reads, compares and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", action="append", required=True, help="a CSV file")
    parser.add_argument("--count", type=int, default=5000, help="crystals in all")
    parser.add_argument("--output", type=pathlib.Path, default=HERE)
    options = parser.parse_args()
    count = -(-options.count // len(options.data))
    by_file = {path: read_crystals(path, count) for path in options.data}
    rng = np.random.default_rng(0)
    results = []
    for distortion in DISTORTIONS:
        for path, crystals in by_file.items():
            distorted = [distort(crystal, distortion, rng) for crystal in crystals]
            for symprec in SYMPRECS:
                name = "/".join(pathlib.Path(path).parts[-2:])
                row = {"data": name, "distortion": distortion}
                results.append(row | compare(distorted, symprec))
                print(json.dumps(results[-1]))
    versions = {"spglib": spglib.__version__, "moyopy": moyopy.__version__}
    described = environment.describe_environment()
    text = json.dumps(
        {
            "versions": versions,
            "python": described["python"],
            "commit": described["commit"],
            "results": results,
        },
        indent=1,
    )
    (options.output / "result.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
