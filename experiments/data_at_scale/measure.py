"""What one process can read of a data set, and what memory it takes; prints JSON.

    python experiments/data_at_scale/measure.py --dataset=data/aflow

Called by ``run.py`` for data sets of several sizes, each in a process of its own.
"""

import argparse
import hashlib
import json
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

# Before anything of the package, so that all it brings counts.
from crystaljax.crystals import sample_tensors, structure
from crystaljax.data import dataset as datasets
from crystaljax.data import pairs, pipeline

jax.block_until_ready(jax.numpy.zeros(1))


def memory() -> dict[str, float]:
    """Resident memory of this process, MB: what it wrote, and pages of files."""
    fields = {}
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("VmRSS", "VmHWM", "RssAnon", "RssFile"):
            fields[name] = int(value.split()[0]) / 1000
    return fields


JAX_ITSELF = memory()


def main() -> None:
    """Measures one data set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", type=pathlib.Path, required=True)
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--rows", type=int, default=structure.PAPER_ROWS)
    args = parser.parse_args()
    sites = structure.max_sites(args.rows)

    open_seconds, dataset = timed(lambda: datasets.open_dataset(args.dataset))
    unverified_seconds, _ = timed(
        lambda: datasets.open_dataset(args.dataset, verify=False)
    )
    indices_seconds, indices = timed(lambda: dataset.indices("train"))

    def structures(steps_per_dispatch: int, num_batches: int) -> Any:
        return pipeline.ShuffledBatches(
            pipeline.Permutations(indices, seed=1),
            lambda items: datasets.gather(dataset, items, sites),
            batch_size=args.batch_size,
            steps_per_dispatch=steps_per_dispatch,
            num_steps=num_batches,
        )

    epoch_batches = len(indices) // args.batch_size
    source = structures(1, epoch_batches)
    first_seconds, _ = timed(lambda: source[0])
    single = rate(source, args.batch_size)
    single_memory = memory()
    fused_batches = epoch_batches // 8 * 8
    fused = rate(structures(8, fused_batches), args.batch_size * 8)

    sampler_seconds, [sampler] = timed(
        lambda: pairs.build_pair_samplers(
            group=dataset.group,
            energy=dataset.formation_energy,
            num_sites=dataset.num_sites,
            indices=indices,
            seed=1,
        )
    )
    draw_seconds, _ = timed(lambda: sampler.epoch(0))
    pair_source = pipeline.ShuffledBatches(
        sampler,
        lambda items: pairs.gather_pairs(dataset, items, sites),
        batch_size=args.batch_size,
        steps_per_dispatch=1,
        num_steps=len(sampler) // args.batch_size,
    )
    after = memory()
    print(
        json.dumps(
            {
                "num_structures": len(dataset),
                "num_sites": int(dataset.offsets[-1]),
                "table_mb": dataset.info["table"]["num_bytes"] / 1e6,
                "batch_size": args.batch_size,
                "rows": args.rows,
                "open_seconds": open_seconds,
                "open_without_checksum_seconds": unverified_seconds,
                "indices_seconds": indices_seconds,
                "first_batch_seconds": first_seconds,
                "structures_per_second": single,
                "structures_per_second_8_steps_a_dispatch": fused,
                "same_order_again": digest(structures(1, 400))
                == digest(structures(1, 400)),
                "goes_on_after_restart": goes_on(structures(1, 800), 400),
                "pair_sampler_seconds": sampler_seconds,
                "pairs_per_epoch": len(sampler),
                "pair_epoch_seconds": draw_seconds,
                "pairs_per_second": rate(pair_source, args.batch_size),
                "jax_itself_mb": JAX_ITSELF,
                "after_an_epoch_mb": single_memory,
                "at_the_end_mb": after,
            }
        )
    )


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and the result."""
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def rate(source: pipeline.ShuffledBatches, num_items: int) -> float:
    """Items a second through Grain, over all of a source."""
    start = time.perf_counter()
    count = sum(1 for _ in pipeline.build_iterator(source))
    return count * num_items / (time.perf_counter() - start)


def digest(source: pipeline.ShuffledBatches) -> str:
    """Of everything in all batches."""
    return digest_of(pipeline.build_iterator(source))


def digest_of(batches: Iterator[sample_tensors.CrystalBatch]) -> str:
    """Of everything in some batches."""
    found = hashlib.sha256()
    for batch in batches:
        for array in jax.tree.leaves(batch):
            found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


def goes_on(source: pipeline.ShuffledBatches, num_batches: int) -> bool:
    """Whether a new iterator goes on exactly where the state of another one says."""
    iterator = pipeline.build_iterator(source)
    for _ in range(num_batches):
        next(iterator)
    state = iterator.get_state()
    expected = digest_of(iterator)
    again = pipeline.build_iterator(source)
    again.set_state(json.loads(json.dumps(state)))
    return digest_of(again) == expected


if __name__ == "__main__":
    main()
