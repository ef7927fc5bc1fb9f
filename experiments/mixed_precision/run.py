"""Do float16 and bfloat16 learn like float32? The smoke configs, 200 steps each.

    python experiments/mixed_precision/run.py

trains every config of the paper's methods with the same seed in the three arithmetics
and writes ``result.json``: mean losses of the last 50 steps and their ratios to
float32. On a CPU, where both are emulated, it takes some 25 minutes on 2 cores.
"""

import argparse
import json
import pathlib
import shlex
import sys
import tempfile
import time

import jax
from absl import logging

from crystaljax import train
from crystaljax.system import atomic_files, config_files

HERE = pathlib.Path(__file__).resolve().parent
CONFIGS = HERE.parents[1] / "configs"
# DDPM and DDIM are one training.
NAMES = (
    "ddpm",
    "cfm_normal",
    "cfm_uniform",
    "modify_regression",
    "modify_diffusion",
    "modify_cfm",
)
DTYPES = ("float32", "bfloat16", "float16")
LAST = 50


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num_steps", type=int, default=200)
    parser.add_argument("--batch_size", type=int, help="the config's if unset")
    parser.add_argument("--configs", default=",".join(NAMES))
    parser.add_argument("--dtypes", default=",".join(DTYPES))
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--output", type=pathlib.Path, default=HERE / "result.json")
    options = parser.parse_args()
    logging.set_verbosity(logging.ERROR)
    result = {
        "command": shlex.join(["python", *sys.argv]),
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "num_steps": options.num_steps,
        "losses": f"means of the last {LAST} steps",
        "configs": {},
    }
    worst = 0.0
    for name in options.configs.split(","):
        measured = {}
        for dtype in options.dtypes.split(","):
            measured[dtype] = measure(name, dtype, options)
            ratio = measured[dtype]["loss"] / next(iter(measured.values()))["loss"]
            measured[dtype]["ratio_to_float32"] = ratio
            worst = max(worst, abs(ratio - 1))
            print(
                f"{name:18s} {dtype:9s} loss {measured[dtype]['loss']:.4f}, "
                f"{ratio - 1:+.2%}, {measured[dtype]['seconds']:.0f} s",
                flush=True,
            )
        result["configs"][f"configs/{name}.py:smoke"] = measured
        result["largest_difference"] = worst
        atomic_files.write_json(options.output, result)
    print(f"largest difference to float32: {worst:.2%}")


def measure(name: str, dtype: str, options: argparse.Namespace) -> dict:
    """Trains one config in one arithmetic."""
    config = config_files.load_file(CONFIGS / f"{name}.py", "smoke")
    config.train.dtype = dtype
    config.train.seed = options.seed
    config.train.num_steps = options.num_steps
    config.train.batch_size = options.batch_size or config.train.batch_size
    config.train.log_every = LAST
    config.train.checkpoint_every = options.num_steps
    config.evaluation.num_structures = 0
    with tempfile.TemporaryDirectory() as folder:
        workdir = pathlib.Path(folder) / "run"
        start = time.perf_counter()
        # A NaN in any logged metric would raise.
        train.train(config, workdir, show_progress=False)
        seconds = time.perf_counter() - start
        last = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])
    keys = ("loss", "loss_coordinates", "loss_lattice", "loss_scale")
    return {key: last[key] for key in keys if key in last} | {
        "batch_size": config.train.batch_size,
        "seconds": seconds,
    }


if __name__ == "__main__":
    main()
