"""What a device did with its time: a profiler's trace, summed by kind of kernel."""

import collections
import dataclasses
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax

KINDS = ("products", "attention", "norms", "copies", "others")
_LARGEST = 20
_NANOSECONDS = 1e-9

# Kernels of libraries go by their own names, and in a graph of launches by no other.
_PRODUCT = re.compile(
    r"gemm|cublas|cutlass|xmma|wgmma|nvjet|matmul|dot_general|dot\b|_dot_|conv_general|"
    r"cudnn.*conv|implicit_convolve"
)
_FUSED_ATTENTION = re.compile(r"fmha|flash|sdpa|dot_product_attention")
_MEMORY = re.compile(r"memcpy|memset", re.IGNORECASE)
# Last operations of kernels that move numbers and compute none.
_MOVES = (
    "broadcast_in_dim",
    "concatenate",
    "copy",
    "dynamic_slice",
    "dynamic_update_slice",
    "gather",
    "pad",
    "reshape",
    "slice",
    "split",
    "squeeze",
    "transpose",
)
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = .*?op_name=\"([^\"]*)\"")


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One stretch of work on a device.

    Attributes:
        line: the stream, or the thread of a CPU.
        name: of the kernel, or of the instruction of a CPU.
        instruction: of the compiled program, where the profiler knows it; else "".
        start, duration: nanoseconds.
    """

    line: str
    name: str
    instruction: str
    start: float
    duration: float


def read_trace(folder: pathlib.Path) -> list[Kernel]:
    """Kernels of a trace that `jax.profiler.trace` wrote: of GPUs, or else of the CPU.

    Raises:
        ValueError: there is no trace, or nothing in it.
    """
    found: dict[bool, list[Kernel]] = {True: [], False: []}
    for path in sorted(folder.rglob("*.xplane.pb")):
        for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
            on_gpu = plane.name.startswith("/device:GPU")
            if not (on_gpu or plane.name == "/host:CPU"):
                continue
            for line in plane.lines:
                # Other lines of a GPU sum up what is on its streams.
                if on_gpu and not line.name.startswith("Stream"):
                    continue
                found[on_gpu] += _kernels_of(line, plane.name, needs_op=not on_gpu)
    kernels = found[True] or found[False]
    if not kernels:
        raise ValueError(f"no kernels in the traces of {folder}")
    return kernels


def _kernels_of(line: Any, plane: str, *, needs_op: bool) -> Iterable[Kernel]:
    for event in line.events:
        instruction = str(dict(event.stats).get("hlo_op", ""))
        if instruction or not needs_op:
            name = f"{plane} {line.name}"
            yield Kernel(
                name, event.name, instruction, event.start_ns, event.duration_ns
            )


def read_programs(executables: Sequence[Any]) -> dict[str, str]:
    """Instructions of compiled programs → what in the source they come from.

    Such as "fusion_12" → "jit(many)/while/body/jvp(CrystalUNet)/unet/…/norm_in/mul".
    """
    sources = {}
    for executable in executables:
        for line in executable.as_text().splitlines():
            found = _INSTRUCTION.match(line)
            if found:
                sources[_plain(found[1])] = found[2]
    return sources


def _plain(name: str) -> str:
    """Kernels are called like instructions, with underscores."""
    return re.sub(r"[.\-]", "_", name)


def summarize(kernels: Sequence[Kernel], sources: Mapping[str, str]) -> dict[str, Any]:
    """Seconds and shares by kind, "waiting" for when nothing ran, and the largest.

    Args:
        kernels: from `read_trace`.
        sources: from `read_programs`.
    """
    seconds = dict.fromkeys(KINDS, 0.0)
    by_name: dict[tuple[str, str, str], list[float]] = collections.defaultdict(list)
    unmatched = 0.0
    for kernel, own in own_durations(kernels):
        source = sources.get(_plain(kernel.instruction)) or sources.get(
            _plain(kernel.name), ""
        )
        kind = kind_of(kernel.name, source)
        seconds[kind] += own * _NANOSECONDS
        unmatched += 0 if source else own * _NANOSECONDS
        by_name[kernel.name, source, kind].append(own * _NANOSECONDS)
    start = min(kernel.start for kernel in kernels)
    span = max(k.start + k.duration for k in kernels) - start
    span *= _NANOSECONDS
    seconds["waiting"] = span - busy(kernels) * _NANOSECONDS
    largest = sorted(by_name, key=lambda key: -sum(by_name[key]))[:_LARGEST]
    return {
        "span_seconds": span,
        "seconds": seconds,
        "shares": {kind: each / span for kind, each in seconds.items()},
        # Kernels in graphs of launches may not say where they come from.
        "share_without_source": unmatched / span,
        "num_kernels": len(kernels),
        "largest": [
            {
                "kernel": name[:120],
                "source": source[-120:],
                "kind": kind,
                "calls": len(by_name[name, source, kind]),
                "share": sum(by_name[name, source, kind]) / span,
            }
            for name, source, kind in largest
        ],
    }


def kind_of(name: str, source: str) -> str:
    """Kind of a kernel, from its name and what it comes from.

    Products are the convolutions and the linear layers, those of the attention's inputs
    and outputs too; attention is what is between these. A fused kernel is what its
    last operation is.
    """
    *modules, operation = source.split("/")
    in_attention = any("attention" in each for each in modules)
    in_linear = any(each in ("qkv", "projection") for each in modules)
    if _FUSED_ATTENTION.search(f"{name} {operation}"):
        return "attention"
    if _PRODUCT.search(f"{name} {operation}"):
        return "attention" if in_attention and not in_linear else "products"
    if _MEMORY.search(name):
        return "copies"
    if any(re.match(r"norm|LayerNorm|GroupNorm", each) for each in modules):
        return "norms"
    if in_attention and not in_linear:
        return "attention"
    if operation in _MOVES or name.startswith(("copy", "transpose")):
        return "copies"
    return "others"


def own_durations(kernels: Sequence[Kernel]) -> list[tuple[Kernel, float]]:
    """Kernels with their durations less those of the kernels within them.

    On a CPU a loop contains the instructions of its body; on a GPU nothing is nested.
    """
    own: list[list[Any]] = []
    lines = collections.defaultdict(list)
    for kernel in kernels:
        lines[kernel.line].append(kernel)
    for members in lines.values():
        above: list[list[Any]] = []
        for kernel in sorted(members, key=lambda each: (each.start, -each.duration)):
            while above and above[-1][0].start + above[-1][0].duration <= kernel.start:
                above.pop()
            entry = [kernel, kernel.duration]
            if above:
                above[-1][1] -= kernel.duration
            above.append(entry)
            own.append(entry)
    return [(kernel, max(duration, 0.0)) for kernel, duration in own]


def busy(kernels: Sequence[Kernel]) -> float:
    """Nanoseconds in which at least one kernel ran."""
    total, end = 0.0, float("-inf")
    for kernel in sorted(kernels, key=lambda each: each.start):
        last = kernel.start + kernel.duration
        total += max(0.0, last - max(kernel.start, end))
        end = max(end, last)
    return total
