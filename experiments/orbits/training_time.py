"""How right is a model of orbits after how much training?

    python experiments/orbits/training_time.py --workdir=runs/mp_20 \
        --dataset=data/mp_20 --checkpoints=500,1000,2000,5000 --output=measured.json

One sample of each held-out structure, asked for with group and energy (``energy``) or
with its orbits (``true``), following known prototypes or leaving all to the network.
The models of positions are trained anew, for the time that takes; the time of a step is
that of the run's own log.
"""

import argparse
import dataclasses
import json
import pathlib
import shlex
import sys
import time

import measure

from crystaljax.system import atomic_files, environment
from crystaljax.training import wyckoff_training


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--num_structures", type=int, default=500)
    parser.add_argument("--checkpoints", required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    args = parser.parse_args()
    seconds = seconds_by_step(args.workdir / "metrics.jsonl")
    runs = []
    for step in map(int, args.checkpoints.split(",")):
        task = measure.load_task(
            args.workdir, args.dataset, args.num_structures, checkpoint=step
        )
        found = {"step": step, "minutes": round(seconds[step] / 60, 1)}
        for follow_known in (True, False):
            generator = dataclasses.replace(task.generator, follow_known=follow_known)
            own = dataclasses.replace(task, generator=generator)
            questions = own.questions()
            found["following" if follow_known else "network alone"] = {
                name: measure.measure(own, name, questions[name], 1)["match@1"]
                for name in ("energy", "true")
            }
        runs.append(found)
        print(json.dumps(found), flush=True)
    start = time.process_time()
    model = task.run.config.model
    settings = wyckoff_training.Settings(
        num_epochs=model.position_epochs,
        num_networks=model.position_networks,
        width=model.position_width,
        seed=task.run.config.train.seed,
    )
    wyckoff_training.train_on(task.dataset, task.run.scale, settings)
    positions = time.process_time() - start
    print(f"models of positions: {positions:.0f} CPU seconds")
    atomic_files.write_json(
        args.output,
        {
            "num_structures": args.num_structures,
            "runs": runs,
            "cpu_seconds_of_positions": positions,
            "command": shlex.join(["python", *sys.argv]),
            "environment": environment.describe_environment(),
        },
    )


def seconds_by_step(path: pathlib.Path) -> dict[int, float]:
    """Time that the steps of a run took, by the number of steps."""
    total, last, found = 0.0, 0, {}
    batch = 128
    for line in path.read_text().splitlines():
        entry = json.loads(line)
        if "structures_per_second" in entry:
            count = (entry["step"] - last) * batch
            total += count / entry["structures_per_second"]
            last = entry["step"]
            found[last] = total
    return found


if __name__ == "__main__":
    main()
