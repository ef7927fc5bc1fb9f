"""Do rows that follow the crystals cost match rate, and what do they save?

    python experiments/row_buckets/run.py --num_steps=800

trains the same small network twice on the built-in alloys, for as many steps on as many
structures: all sample tensors of 64 rows, and 16, 32 or 64 as their crystals need.
Then both sample the held-out structures. Leaves ``result.json`` in ``--output``.
"""

import argparse
import json
import pathlib
import shlex
import statistics
import sys
from typing import Any

from crystaljax import defaults, train
from crystaljax.system import atomic_files, config_files, environment

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from network_evaluations import run as evaluations  # noqa: E402

SAMPLER, NUM_EVALUATIONS = defaults.PRESETS["fast"]["diffusion"]
BUCKETS = {"16, 32 or 64 rows": (16, 32), "64 rows": ()}


def main() -> None:
    """Trains and evaluates, and writes after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="configs/ddim.py")
    parser.add_argument("--num_steps", type=int, default=800)
    parser.add_argument("--workdir", type=pathlib.Path, default="runs/row_buckets")
    parser.add_argument("--output", type=pathlib.Path, default=HERE)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {
        "command": shlex.join(["python", *sys.argv]),
        "environment": environment.describe_environment(),
        "rows": [],
    }
    for i, (name, row_buckets) in enumerate(BUCKETS.items()):
        workdir = args.workdir / str(i)
        result["rows"].append(measure(name, row_buckets, workdir, args))
        atomic_files.write_json(args.output / "result.json", result)
        print(json.dumps(result["rows"][-1], indent=2), flush=True)
    fast, slow = (row["structures_per_second"] for row in result["rows"])
    result["speed_ratio"] = fast / slow
    atomic_files.write_json(args.output / "result.json", result)
    print(f"structures a second, over those of 64 rows: {fast / slow:.2f}")


def measure(
    name: str,
    row_buckets: tuple[int, ...],
    workdir: pathlib.Path,
    args: argparse.Namespace,
) -> dict[str, Any]:
    """Trains one network and evaluates it."""
    config = config_files.load_file(args.config, "smoke")
    config.data.rows = config.model.element_rows = 64
    config.data.row_buckets = row_buckets
    config.train.num_steps = args.num_steps
    config.train.checkpoint_every = args.num_steps
    config.train.log_every = 20
    config.evaluation.num_structures = 0
    train.train(config, workdir, resume=True)
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    rates = [json.loads(line)["structures_per_second"] for line in lines]
    asked = argparse.Namespace(dataset=None, split="test", num_structures=None)
    evaluated = evaluations.measure(str(workdir), SAMPLER, NUM_EVALUATIONS, asked)
    return {
        "name": name,
        "num_steps": args.num_steps,
        "structures_seen": args.num_steps * config.train.batch_size,
        # The first intervals compile.
        "structures_per_second": statistics.median(rates[2:]),
        **evaluated,
        "standard_error": evaluations.error(evaluated),
    }


if __name__ == "__main__":
    main()
