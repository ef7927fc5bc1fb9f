"""Makes the data set that ships with crystaljax, crystaljax/data/builtin.

    python experiments/builtin_alloys/make_builtin_alloys.py

relaxes 3,345 decorated prototypes and writes the same file again, and beside this
script ``result.json`` with what it holds; ``--output`` and ``--result`` say where else.
The packaged file was made on 2 CPU cores that other jobs used too, at 2 to 7 structures
a second: 1,030 s.
"""

import argparse
import collections
import json
import pathlib
import time

import numpy as np

from crystaljax.data.sources import emt

RESULT_PATH = pathlib.Path(__file__).with_name("result.json")


def main() -> None:
    """Generates, saves and describes the data set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=pathlib.Path, default=emt.BUILTIN_PATH)
    parser.add_argument("--result", type=pathlib.Path, default=RESULT_PATH)
    parser.add_argument("--num_workers", type=int)
    args = parser.parse_args()
    start = time.monotonic()
    generated = emt.generate(
        num_workers=args.num_workers, description="relaxing prototypes"
    )
    emt.save(generated, args.output)
    result = summarize(generated)
    result["seconds"] = round(time.monotonic() - start)
    result["file_bytes"] = args.output.stat().st_size
    args.result.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def summarize(generated: emt.Generated) -> dict:
    """Counts and ranges: what to look at before shipping a new version."""
    records = generated.records
    crystals = [item.crystal for item in records]
    energies = np.array([item.formation_energy for item in records])
    volumes = [abs(np.linalg.det(c.lattice)) / c.num_sites for c in crystals]
    formulas = collections.Counter(
        tuple(sorted(c.atomic_numbers.tolist())) for c in crystals
    )
    return {
        "num_structures": len(records),
        "num_dropped": generated.num_dropped,
        "per_prototype": _count(item.id.split(":")[0] for item in records),
        "per_space_group": _count(item.space_group for item in records),
        "per_num_sites": _count(c.num_sites for c in crystals),
        "num_cell_formulas": len(formulas),
        "cell_formulas_by_group_size": _count(formulas.values()),
        "formation_energy_percentiles": _percentiles(energies),
        "volume_per_site_percentiles": _percentiles(volumes),
    }


def _count(values) -> dict:
    counts = collections.Counter(values)
    return {str(key): counts[key] for key in sorted(counts)}


def _percentiles(values) -> dict:
    at = (0, 5, 50, 95, 100)
    return {f"{p}%": round(float(np.percentile(values, p)), 4) for p in at}


if __name__ == "__main__":
    main()
