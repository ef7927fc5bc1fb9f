"""The records of GPUs as tables, in README.md between its marks.

    python experiments/gpu/tables.py

Records of CPUs and of the toy's size are left out: they mean nothing.
"""

import json
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

HERE = pathlib.Path(__file__).resolve().parent
README = HERE / "README.md"
RESULTS = HERE / "results"
START = "<!-- tables: made by tables.py -->\n"
END = "<!-- end of the tables -->\n"
NOTHING = "No GPU has been measured yet: there is no record in `results/`.\n"
REPORTED_ANEW = ("beside PyTorch", "variants")
KINDS = ("products", "attention", "norms", "copies", "others", "waiting")

# A part of a record with the GPU's name: (GPU, part's name, part).
Part = tuple[str, str, Mapping[str, Any]]


def main() -> None:
    """Writes the tables into the README."""
    before, _, rest = README.read_text().partition(START)
    _, _, after = rest.partition(END)
    README.write_text(before + START + make_tables(read_parts(RESULTS)) + END + after)
    print(f"written: {README}")


def read_parts(folder: pathlib.Path) -> list[Part]:
    """The parts of all records of GPUs, in the order of their start."""
    found = []
    for path in folder.glob("*.json"):
        record = json.loads(path.read_text())
        if record["gpu"] is not None and record["size"] == "full":
            parts = record["parts"].items()
            found += [(record["gpu"]["name"], name, part) for name, part in parts]
    return sorted(found, key=lambda part: part[2]["started"])


def make_tables(parts: Sequence[Part]) -> str:
    """Markdown; one line if there is nothing."""
    if not parts:
        return NOTHING
    sections = (
        ("Beside PyTorch", _BESIDE, beside_rows(parts)),
        ("`best.py`", _BEST, best_rows(parts)),
        ("The model `mp`", _ORBITS, orbit_rows(parts)),
        ("Its match rate on held-out structures, %", _MATCHES, match_rows(parts)),
        ("Where the time goes, % of it", _PROFILE, profile_rows(parts)),
        ("Ways to compute the training step", _VARIANTS, variant_rows(parts)),
        ("Relaxation with EMT", _RELAXATION, relaxation_rows(parts)),
        ("The largest batch that fits", _MEMORY, memory_rows(parts)),
        ("What was not measured", _MISSING, missing_rows(parts)),
    )
    texts = []
    for title, header, rows in sections:
        lines = [f"| {' | '.join(map(str, row))} |" for row in rows]
        if lines:
            head = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
            texts.append("\n".join([f"### {title}\n", *head, *lines, ""]))
    return "\n" + "\n".join(texts) + "\n"


# --------------------------------------------------------------------------------- rows
_WHERE = ("GPU", "date", "commit")
_BESIDE = (
    "task",
    "batch × rows",
    "arithmetic",
    "ours, structures/s",
    "spread",
    "TFLOP/s",
    "of the peak",
    "compiled in",
    "eager, structures/s",
    "torch.compile, structures/s",
    "ours / eager",
    "ours / torch.compile",
    *_WHERE,
)


def beside_rows(parts: Iterable[Part]) -> Iterator[list[str]]:
    """Ours and PyTorch's."""
    for gpu, part, figure in _figures(parts, "beside PyTorch"):
        ours = figure["ours"]
        evaluations = figure["network_evaluations"]
        task = figure["task"]
        peers = [figure.get(name, {}) for name in ("eager", "compiled")]
        yield [
            f"{task}, {evaluations} evaluations" if evaluations else task,
            f"{figure['batch_size']} × {figure['rows']}",
            figure["dtype"],
            number(ours["items_per_second"]),
            spread(ours["seconds_per_call"]),
            number(ours["tflops"]),
            f"{ours['share_of_peak']:.0%}",
            f"{ours['trace_seconds'] + ours['compile_seconds']:.0f} s",
            *(number(peer.get("items_per_second")) for peer in peers),
            *(number(peer.get("ratio"), 2) for peer in peers),
            *_where(gpu, part),
        ]


_BEST = (
    "config",
    "training, structures/s",
    "draws on the device, per s",
    "final crystals on the host, per s",
    "draws / final",
    "trained",
    *_WHERE,
)


def best_rows(parts: Iterable[Part]) -> Iterator[list[str]]:
    """Training, draws and final crystals."""
    for gpu, name, part in parts:
        if name not in ("best", "best_smoke"):
            continue
        figures = {each["name"]: each for each in part["figures"]}
        final = figures.get("final crystals", {})
        speeds = [
            figures[each]["ours"]["items_per_second"] if each in figures else None
            for each in ("training", "draws")
        ]
        speeds.append(final.get("final_crystals_per_second"))
        ratio = speeds[1] / speeds[2] if speeds[1] and speeds[2] else None
        yield [
            "`best.py:smoke`" if name == "best_smoke" else "`best.py`",
            *map(number, speeds),
            number(ratio),
            f"{final['network']['steps']:,} steps" if final else "–",
            *_where(gpu, part),
        ]


_ORBITS = (
    "asked",
    "orbits, sites at most",
    "on average",
    "samples",
    "batch",
    "final crystals/s",
    "spread",
    *_WHERE,
)


def orbit_rows(parts: Iterable[Part]) -> Iterator[list[str]]:
    """Crystals of the package's model, by the size of their arrays."""
    for gpu, part, figure in _figures(parts, "final crystals of mp"):
        yield [
            figure["asked"],
            f"{figure['orbits']}, {figure['sites']}",
            f"{figure['mean_orbits']:.1f}, {figure['mean_sites']:.1f}",
            number(figure["num_samples"]),
            number(figure["batch_size"]),
            number(figure["final_crystals_per_second"]),
            spread(figure["seconds_per_call"]),
            *_where(gpu, part),
        ]


_MATCHES = ("structures", "0.3/0.5/10", "0.2/0.3/5", *_WHERE)


def match_rows(parts: Iterable[Part]) -> Iterator[list[str]]:
    """How many of its samples are right."""
    for gpu, part, figure in _figures(parts, "match rate of mp"):
        rates = [
            f"{100 * rate:.1f} ± {100 * error:.1f}"
            for rate, error in figure["match@1"].values()
        ]
        yield [number(figure["structures"]), *rates, *_where(gpu, part)]


_PROFILE = ("task", "batch", *KINDS, *_WHERE)


def profile_rows(parts: Iterable[Part]) -> Iterator[list[str]]:
    """Shares by kind of kernel."""
    for gpu, part, figure in _figures(parts, "profile"):
        shares = [f"{100 * figure['shares'][kind]:.0f}" for kind in KINDS]
        yield [
            figure["task"],
            str(figure["batch_size"]),
            *shares,
            *_where(gpu, part),
        ]


_VARIANTS = ("batch", "variant", "structures/s", "over as configured", *_WHERE)


def variant_rows(parts: Iterable[Part]) -> Iterator[list[str]]:
    """Ways to compute the same, the fastest in bold."""
    for gpu, part, figure in _figures(parts, "variants"):
        batch = str(figure.get("batch_size", "–"))
        for name, found in figure.get("variants", {}).items():
            mark = "**" if name == figure["fastest"] else ""
            speed = number(found["structures_per_second"])
            gain = number(found["gain"], 2)
            yield [batch, f"{mark}{name}{mark}", speed, gain, *_where(gpu, part)]
        for name, problem in figure.get("problems", {}).items():
            yield [batch, name, f"failed: {one_line(problem)}", "–", *_where(gpu, part)]


_RELAXATION = ("alloys", "state", "seconds", "crystals/s", "converged", *_WHERE)


def relaxation_rows(parts: Iterable[Part]) -> Iterator[list[str]]:
    """Batched relaxation."""
    for gpu, part, figure in _figures(parts, "relaxation"):
        yield [
            number(figure["num_crystals"]),
            figure["state"],
            number(figure["seconds"], 1),
            number(figure["crystals_per_second"]),
            number(figure["converged"]),
            *_where(gpu, part),
        ]


_MEMORY = ("task", "batch × rows", "memory at most", "structures/s", *_WHERE)


def memory_rows(parts: Iterable[Part]) -> Iterator[list[str]]:
    """The largest batches."""
    for gpu, part, figure in _figures(parts, "largest batch"):
        used = figure["peak_memory"]["device_bytes"]
        yield [
            figure["task"],
            f"{figure['batch_size']} × {figure['rows']}",
            f"{used / 1e9:.1f} GB" if used else "–",
            number(figure["items_per_second"]),
            *_where(gpu, part),
        ]


_MISSING = ("part", "what became of it", "why", *_WHERE)


def missing_rows(parts: Iterable[Part]) -> Iterator[list[str]]:
    """Parts that were not measured to their end, and peers that failed."""
    for gpu, name, part in parts:
        if part["status"] != "done":
            why = one_line(part.get("error", ""))
            # Whoever ended the runner by force left it at that.
            status = {"running": "cut off"}.get(part["status"], part["status"])
            yield [name, status, why, *_where(gpu, part)]
        for _, _, figure in _figures([(gpu, name, part)], "beside PyTorch"):
            for peer in ("eager", "compiled"):
                if "error" in figure.get(peer, {}):
                    why = one_line(figure[peer]["error"])
                    yield [f"{name}: {peer}", "failed", why, *_where(gpu, part)]


# -------------------------------------------------------------------------------- words
def _figures(
    parts: Iterable[Part], name: str
) -> Iterator[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    """(GPU, part, figure) of the figures with a name.

    Of those that were reported anew with every contender, the last one.
    """
    for gpu, _, part in parts:
        found = [figure for figure in part["figures"] if figure["name"] == name]
        for figure in found[-1:] if name in REPORTED_ANEW else found:
            yield gpu, part, figure


def _where(gpu: str, part: Mapping[str, Any]) -> list[str]:
    return [gpu, part["started"][:10], f"`{part['commit']}`"]


def number(value: float | None, digits: int = 0) -> str:
    """With thousands separated; three digits of what is small."""
    if value is None:
        return "–"
    if digits == 0 and abs(value) < 100 and value != int(value):
        return f"{value:.3g}"
    return f"{value:,.{digits}f}"


def spread(seconds: Mapping[str, float]) -> str:
    """Half the distance of the quartiles, in % of the median."""
    half = (seconds["third_quartile"] - seconds["first_quartile"]) / 2
    return f"± {100 * half / seconds['median']:.1f} %"


def one_line(text: str) -> str:
    """The last line of a message, short, and harmless in a table."""
    return (text.strip().splitlines() or ["–"])[-1][:120].replace("|", "/")


if __name__ == "__main__":
    main()
