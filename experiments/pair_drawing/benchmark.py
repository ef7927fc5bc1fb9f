"""How long does drawing the pairs of an epoch take at the size of the paper's data?

    python experiments/pair_drawing/benchmark.py

times `crystaljax.data.pairs` on synthetic polymorph groups of 7 to 71 structures, plain
and balanced, and writes ``result.json`` beside this script; ``--output`` says where
else.
"""

import argparse
import json
import pathlib
import platform
import resource
import statistics
import time

import numpy as np

from crystaljax.data import pairs

RESULT_PATH = pathlib.Path(__file__).with_name("result.json")
NUM_EPOCHS = 5


def main() -> None:
    """Times plain and balanced drawing and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num_structures", type=int, default=2_100_000)
    parser.add_argument("--output", type=pathlib.Path, default=RESULT_PATH)
    args = parser.parse_args()
    columns = make_columns(args.num_structures)
    result = {
        "num_structures": args.num_structures,
        "num_groups": int(columns["group"].max()) + 1,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "plain": measure(columns, balance_num_sites=False),
        "balanced": measure(columns, balance_num_sites=True),
    }
    args.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def make_columns(num_structures: int) -> dict[str, np.ndarray]:
    """Groups of 7 to 71 structures, small ones more often: 25 on average."""
    rng = np.random.default_rng(0)
    sizes = 7 + np.floor(65 * rng.beta(1, 2.6, num_structures // 7)).astype(int)
    sizes = sizes[: np.searchsorted(np.cumsum(sizes), num_structures) + 1]
    # Common numbers of sites are some hundred times as frequent as rare ones.
    sites_of_group = np.clip(rng.gamma(4, 4, len(sizes)), 2, 60).astype(np.int32)
    group = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)[:num_structures]
    # In a data set the structures of a group need not be neighbours.
    rng.shuffle(group)
    return {
        "group": group,
        "energy": rng.normal(size=num_structures).astype(np.float32),
        "num_sites": sites_of_group[group],
        "indices": np.arange(num_structures),
    }


def measure(columns: dict[str, np.ndarray], *, balance_num_sites: bool) -> dict:
    """Seconds, pairs and memory of building a sampler and drawing epochs."""
    before = resident_mib()
    start = time.perf_counter()
    [sampler] = pairs.build_pair_samplers(
        **columns, seed=0, balance_num_sites=balance_num_sites
    )
    build_seconds = time.perf_counter() - start
    after = resident_mib()
    seconds = []
    for epoch in range(NUM_EPOCHS):
        start = time.perf_counter()
        sampler.epoch(epoch)
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds)
    counts = np.bincount(columns["group"][sampler.epoch(0)[:, 0]])
    return {
        "pairs_per_epoch": len(sampler),
        "most_pairs_of_a_group": int(counts.max()),
        "build_seconds": round(build_seconds, 2),
        "epoch_seconds_median_of_5": round(median, 3),
        "epoch_seconds_slowest": round(max(seconds), 3),
        "pairs_per_second": round(len(sampler) / median),
        "resident_mib_growth_after_build": round(after - before),
        "resident_mib_growth_after_epochs": round(resident_mib() - before),
        "peak_mib_of_process": round(
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        ),
    }


def resident_mib() -> float:
    """Memory that the process holds now (Linux), MiB."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


if __name__ == "__main__":
    main()
