"""What do preparing, opening and reading cost, from 100,000 to 2.1 million structures?

    python experiments/data_at_scale/run.py --folder=data/data_at_scale

writes CSVs like AFLOW's dumps (``synthesize.py``; those in ``--folder`` are used
again), prepares them with the paper's rules, reads them as training does
(``measure.py``), and trains some steps on each. Leaves ``result.json``, ``table.md``
and ``growth.png`` in ``--output``.
"""

import argparse
import json
import os
import pathlib
import platform
import shlex
import shutil
import subprocess
import sys
import threading
import time
from typing import Any

import psutil

from crystaljax.data import dataset as datasets

HERE = pathlib.Path(__file__).parent
SIZES = (100_000, 500_000, 2_100_000)
# A small network, so that what training takes beyond the data is little.
TRAIN_CONFIG = (
    "--config=configs/ddim.py:smoke",
    "--config.data.rows=64",
    "--config.model.element_rows=64",
    "--config.model.channels=8",
    "--config.model.norm_groups=2",
    "--config.train.batch_size=256",
    "--config.train.num_steps=16",
    "--config.train.steps_per_dispatch=8",
    "--config.train.log_every=8",
    "--config.train.checkpoint_every=16",
    "--config.train.validate_every=0",
    "--config.evaluation.num_structures=0",
)


def main() -> None:
    """Measures every size and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    parser.add_argument("--output", type=pathlib.Path, default=HERE)
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)))
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    args.output.mkdir(parents=True, exist_ok=True)
    # Worker processes that each start a pool of threads slow each other down.
    os.environ["OMP_NUM_THREADS"] = "1"
    result = {
        "command": shlex.join(["python", *sys.argv]),
        "machine": {"cpu": cpu_name(), "cores": os.cpu_count()},
        "python": platform.python_version(),
        "sizes": [measure(int(size), args.folder) for size in args.sizes.split(",")],
    }
    (args.output / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    table = format_table(result["sizes"])
    (args.output / "table.md").write_text(table)
    draw(result["sizes"], args.output / "growth.png")
    print(table)


def measure(num_rows: int, folder: pathlib.Path) -> dict[str, Any]:
    """Everything about one size."""
    rows = folder / f"rows_{num_rows}.csv"
    dataset = folder / f"dataset_{num_rows}"
    workdir = folder / f"run_{num_rows}"
    for path in (dataset, dataset.with_name(f".{dataset.name}.partial"), workdir):
        shutil.rmtree(path, ignore_errors=True)
    if not rows.exists():
        script = HERE / "synthesize.py"
        run(script, f"--num_structures={num_rows}", f"--output={rows}")
    prepared = run(
        "-m",
        "crystaljax.prepare",
        "--source=aflow_csv",
        f"--input={rows}",
        f"--output={dataset}",
        "--rules=paper",
    )
    print(prepared.pop("stdout"))
    read = run(HERE / "measure.py", f"--dataset={dataset}")
    trained = run(
        "-m",
        "crystaljax.train",
        *TRAIN_CONFIG,
        f"--config.data.path={dataset}",
        f"--workdir={workdir}",
    )
    trained.pop("stdout")
    report = datasets.read_info(dataset)["report"]
    found = {
        "num_rows": num_rows,
        "csv_mb": rows.stat().st_size / 1e6,
        "prepare": prepared,
        "report": {name: report[name] for name in report if name != "histograms"},
        "read": json.loads(read["stdout"].splitlines()[-1]),
        "train": trained,
    }
    shutil.rmtree(workdir)
    return found


def run(*arguments: Any) -> dict[str, Any]:
    """Runs Python; seconds, and the most memory of it and its children together."""
    command = [sys.executable, *map(str, arguments)]
    print("$", shlex.join(command), flush=True)
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peak = {"peak_rss_mb": 0.0, "peak_pss_mb": 0.0}
    ended = threading.Event()
    watch = threading.Thread(target=sample_memory, args=(process.pid, peak, ended))
    watch.start()
    stdout, _ = process.communicate()
    seconds = time.perf_counter() - start
    ended.set()
    watch.join()
    if process.returncode:
        raise RuntimeError(f"{shlex.join(command)} failed; see above")
    return {"seconds": seconds, **peak, "stdout": stdout}


def sample_memory(pid: int, peak: dict[str, float], ended: threading.Event) -> None:
    """Twice a second: sums of resident memory, shared pages counted often or once."""
    while not ended.wait(0.5):
        totals = {"Rss": 0, "Pss": 0}
        try:
            parent = psutil.Process(pid)
            family = [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        for each in family:
            try:
                text = pathlib.Path(f"/proc/{each.pid}/smaps_rollup").read_text()
            except (OSError, ProcessLookupError):
                continue
            for line in text.splitlines():
                name, _, value = line.partition(":")
                if name in totals:
                    totals[name] += int(value.split()[0])
        peak["peak_rss_mb"] = max(peak["peak_rss_mb"], totals["Rss"] / 1000)
        peak["peak_pss_mb"] = max(peak["peak_pss_mb"], totals["Pss"] / 1000)


ROWS = {
    "rows of the CSV": lambda one: f"{one['num_rows']:,}",
    "structures kept": lambda one: f"{one['report']['num_kept']:,}",
    "sites": lambda one: f"{one['read']['num_sites']:,}",
    "data set (MB)": lambda one: f"{one['read']['table_mb']:.0f}",
    "prepare (s)": lambda one: f"{one['prepare']['seconds']:.0f}",
    "prepare, peak memory, all processes (MB)": lambda one: (
        f"{one['prepare']['peak_rss_mb']:.0f}"
    ),
    "the same, shared pages once (MB)": lambda one: (
        f"{one['prepare']['peak_pss_mb']:.0f}"
    ),
    "open, checksum compared (s)": lambda one: f"{one['read']['open_seconds']:.2f}",
    "open, without (s)": lambda one: (
        f"{one['read']['open_without_checksum_seconds']:.3f}"
    ),
    "structures/s through Grain": lambda one: (
        f"{one['read']['structures_per_second']:,.0f}"
    ),
    "the same, 8 steps a dispatch": lambda one: (
        f"{one['read']['structures_per_second_8_steps_a_dispatch']:,.0f}"
    ),
    "pairs/s through Grain": lambda one: f"{one['read']['pairs_per_second']:,.0f}",
    "memory after an epoch beyond JAX (MB)": lambda one: f"{beyond_jax(one):.0f}",
    "of it pages of the data set's file (MB)": lambda one: (
        f"{one['read']['after_an_epoch_mb']['RssFile']:.0f}"
    ),
    "training, peak memory (MB)": lambda one: f"{one['train']['peak_rss_mb']:.0f}",
    "same order again": lambda one: yes(one["read"]["same_order_again"]),
    "goes on after a restart": lambda one: yes(one["read"]["goes_on_after_restart"]),
}


def beyond_jax(one: dict[str, Any]) -> float:
    """MB that reading takes beyond a process that has JAX and its device alone."""
    read = one["read"]
    return read["after_an_epoch_mb"]["VmHWM"] - read["jax_itself_mb"]["VmRSS"]


def yes(value: bool) -> str:
    """A word for the table."""
    return "yes" if value else "NO"


def format_table(sizes: list[dict[str, Any]]) -> str:
    """One column a size, as Markdown."""
    lines = [[name, *(value(one) for one in sizes)] for name, value in ROWS.items()]
    lines.insert(1, ["---"] + ["---:"] * len(sizes))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def draw(sizes: list[dict[str, Any]], path: pathlib.Path) -> None:
    """How time, memory and throughput grow."""
    from matplotlib import figure

    canvas = figure.Figure(figsize=(11, 3.4), layout="constrained")
    time_axes, memory_axes, rate_axes = canvas.subplots(1, 3)
    rows = [one["num_rows"] for one in sizes]

    def plot(axes, label, values):
        axes.loglog(rows, values, "o-", label=label)

    plot(time_axes, "prepare", [one["prepare"]["seconds"] for one in sizes])
    plot(time_axes, "open, checksum", [one["read"]["open_seconds"] for one in sizes])
    plot(
        time_axes,
        "draw the pairs of an epoch",
        [one["read"]["pair_epoch_seconds"] for one in sizes],
    )
    time_axes.set_ylabel("s")
    plot(
        memory_axes,
        "prepare, all processes",
        [one["prepare"]["peak_rss_mb"] for one in sizes],
    )
    plot(memory_axes, "reading, beyond JAX", [beyond_jax(one) for one in sizes])
    memory_axes.set_ylabel("MB")
    for label, name in (
        ("structures", "structures_per_second"),
        ("pairs", "pairs_per_second"),
    ):
        plot(rate_axes, label, [one["read"][name] for one in sizes])
    rate_axes.set_ylabel("per s, through Grain")
    rate_axes.set_ylim(1e4, 2e6)
    # Room for the legend above the lines.
    time_axes.set_ylim(1e-3, 1e5)
    memory_axes.set_ylim(1e2, 1e4)
    for axes in (time_axes, memory_axes, rate_axes):
        axes.set_xlabel("rows of the CSV")
        axes.legend(fontsize=8, loc="upper left")
        axes.grid(alpha=0.3)
    canvas.savefig(path, dpi=120)


def cpu_name() -> str:
    """Model of the processor."""
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
