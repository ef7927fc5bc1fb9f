"""CPU time of METRe for thousands of references, and agreement with pymatgen's loop.

    python experiments/metre/run.py --input=mp_20.csv.gz

The references are crystals of a CSV with a column of CIFs. The generated crystals are
the same ones, one each, with sites displaced by 0.05, 0.3 or 1 Å (drawn for each
crystal) and cells strained by 3 %, so that some match and some do not. One process.
"""

import argparse
import json
import pathlib
import time

import numpy as np
from pymatgen.analysis.structure_matcher import StructureMatcher

from crystaljax.crystals import bridge, structure
from crystaljax.matching import all_pairs, matcher
from crystaljax.metrics import match_rates
from crystaljax.screening import inputs

TOLERANCE = matcher.TOLERANCES["literature"]
DISPLACEMENTS = (0.05, 0.3, 1.0)


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", required=True, help="CSV with a column of CIFs")
    parser.add_argument("--num_references", type=int, default=5000)
    parser.add_argument("--num_pairs", type=int, default=500, help="by pymatgen too")
    parser.add_argument("--output", help="JSON file to write")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    rows = inputs.read_candidates(options.input)
    readable = [i for i, problem in enumerate(rows.problems) if not problem]
    chosen = rng.permutation(readable)[: options.num_references]
    references = [rows.crystals[i] for i in chosen.tolist()]
    generated = [_disturb(each, rng) for each in references]
    start = time.process_time()
    pairs = all_pairs.match_all(generated, references, (TOLERANCE,), num_workers=1)
    seconds = time.process_time() - start
    best = match_rates.best_distances(pairs, 0, np.ones(len(pairs.rms), bool))
    summary = match_rates.summarize(best, TOLERANCE.stol)
    result = {
        "tolerance": str(TOLERANCE),
        "num_references": len(references),
        "num_pairs_of_one_formula": pairs.num_pairs,
        "cpu_seconds": round(seconds, 1),
        "metre": summary.rate,
        "metre_crmse": summary.crmse,
        **_compare(generated, references, pairs, options.num_pairs),
    }
    print(json.dumps(result, indent=1))
    if options.output:
        pathlib.Path(options.output).write_text(json.dumps(result, indent=1) + "\n")


def _disturb(crystal: structure.Crystal, rng: np.random.Generator) -> structure.Crystal:
    moved = rng.normal(0, rng.choice(DISPLACEMENTS), (crystal.num_sites, 3))
    lattice = crystal.lattice @ (np.eye(3) + rng.normal(0, 0.03, (3, 3)))
    coords = crystal.frac_coords + moved @ np.linalg.inv(crystal.lattice)
    return structure.Crystal(crystal.atomic_numbers, coords % 1, lattice)


def _compare(
    generated: list[structure.Crystal],
    references: list[structure.Crystal],
    pairs: all_pairs.PairMatches,
    num_pairs: int,
) -> dict[str, float]:
    """The first pairs again, by a loop over pymatgen."""
    fitter = StructureMatcher(TOLERANCE.ltol, TOLERANCE.stol, TOLERANCE.angle_tol)
    ours = np.full(len(references), np.nan)
    own = pairs.generated == pairs.reference
    ours[pairs.reference[own]] = pairs.rms[own, 0]
    num_pairs = min(num_pairs, len(references))
    start = time.process_time()
    theirs = np.full(num_pairs, np.nan)
    for i in range(num_pairs):
        one, other = map(bridge.to_pymatgen, (generated[i], references[i]))
        distance = fitter.get_rms_dist(one, other)
        theirs[i] = np.nan if distance is None else distance[0]
    seconds = time.process_time() - start
    ours = ours[:num_pairs]
    differ = np.abs(ours - theirs)
    return {
        "num_pairs_by_pymatgen": num_pairs,
        "cpu_seconds_of_pymatgen": round(seconds, 1),
        "num_matched_by_pymatgen": int(np.sum(~np.isnan(theirs))),
        "num_that_differ": int(np.sum(np.isnan(ours) != np.isnan(theirs))),
        "largest_difference_of_distances": float(np.nanmax(differ, initial=0.0)),
    }


if __name__ == "__main__":
    main()
