"""One self-contained HTML page of a screening, to be opened anywhere without a network.

The page's HTML, CSS and JavaScript are files in ``report/``; this module puts the
numbers of a screening beside them as one block of JSON, and nowhere else. The page
writes every name and reason as text, its policy lets no script run but its own, and it
sends no request. Diagrams and the 3-D view are drawn by its own code, without WebGL:
plotly would add 4.8 MB to every page and has no view of crystals. With 22,723 rows its
diagrams alone took 6-10 s to appear, the whole page made here about 1 s (Chromium, 2
cores of an AMD EPYC, a shared virtual machine).
"""

import base64
import hashlib
import itertools
import json
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from crystaljax.crystals import bridge, extxyz, structure, structure_files
from crystaljax.hull import convex_hull as hulls
from crystaljax.screening import columns
from crystaljax.screening.report import contents
from crystaljax.system import atomic_files, errors

# The page's own files; `crystaljax app` shows some of them too.
PAGE = pathlib.Path(__file__).parent / "report"
# In the order in which they need each other.
_SCRIPTS = (
    "text.js",
    "charts.js",
    "hulls.js",
    "screening.js",
    "crystal.js",
    "viewer.js",
    "table.js",
    "choice.js",
    "diagrams.js",
    "page.js",
)


def write_report(
    output: str | os.PathLike[str], limits: contents.Limits = contents.DEFAULT_LIMITS
) -> pathlib.Path:
    """Writes ``report.html`` into the folder of a screening.

    Args:
        output: the folder, with ``screening.json`` and ``screening.parquet``; and
            ``candidates.extxyz`` and ``hull.json`` where there are any.
        limits: how much of a large screening the page holds.

    Returns:
        The file; one that is there is replaced.

    Raises:
        FileNotFoundError: the folder holds no screening.
        ValueError: one of its files cannot be read.
    """
    output = pathlib.Path(output)
    page = _page(describe_screening(output, limits))
    path = output / "report.html"
    with atomic_files.file(path, overwrite=True) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def describe_screening(
    output: str | os.PathLike[str], limits: contents.Limits = contents.DEFAULT_LIMITS
) -> dict[str, Any]:
    """What the page of a screening shows, from its folder; see `contents.describe`.

    Raises:
        FileNotFoundError: the folder holds no screening.
        ValueError: one of its files cannot be read.
    """
    output = pathlib.Path(output)
    for name in ("screening.json", "screening.parquet"):
        if not (output / name).is_file():
            raise FileNotFoundError(
                f"{output} holds no {name}; make it with `crystaljax screen "
                f"--output={output}`"
            )
    table = columns.rename_former(
        structure_files.read_table(output / "screening.parquet")
    )
    # Without formulas in the table, they are those of the crystals.
    max_structures = limits.max_structures if columns.FORMULA in table else None
    return contents.describe(
        _read_json(output / "screening.json"),
        table,
        _read_candidates(output / "candidates.extxyz", max_structures),
        _read_hull(output / "hull.json"),
        title=output.absolute().name,
        limits=limits,
    )


def build_report(
    summary: Mapping[str, Any],
    table: Mapping[str, Sequence[Any] | np.ndarray],
    crystals: Mapping[int, structure.Crystal],
    known_hull: hulls.Hull | None,
    *,
    title: str = "",
    limits: contents.Limits = contents.DEFAULT_LIMITS,
) -> str:
    """Screening → HTML page.

    Args:
        summary: what ``screening.json`` holds: request, calculator, energy_model, hull,
            counts, seconds, versions. What is missing is left out of the page.
        table: columns of ``screening.parquet``, one row per input. Any may be missing;
            ``rank`` (1…, 0 for what was rejected) tells the candidates.
        crystals: relaxed candidates by rank.
        known_hull: entries for the hull diagrams; None if there are none.
        title: what was screened.
        limits: how much of a large screening the page holds.

    Returns:
        The page, which refers to no other file.

    Raises:
        ValueError: the columns differ in length.
    """
    return _page(
        contents.describe(
            summary, table, crystals, known_hull, title=title, limits=limits
        )
    )


def _page(described: Mapping[str, Any]) -> str:
    data = json.dumps(described, allow_nan=False, separators=(",", ":"))
    script = "\n".join((PAGE / name).read_text("utf-8") for name in _SCRIPTS)
    digest = hashlib.sha256(script.encode()).digest()
    parts = {
        "style": (PAGE / "page.css").read_text("utf-8"),
        "script": script,
        "script_hash": base64.b64encode(digest).decode(),
        # In JSON every "<" stands within a string; none may end the block around it.
        "data": data.replace("<", "\\u003c"),
    }
    page = (PAGE / "page.html").read_text("utf-8")
    # In one pass, so that marks within the inserted text are left as they are.
    return re.sub(r"{{(\w+)}}", lambda match: parts[match[1]], page)


def _read_json(path: pathlib.Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise errors.UserError(
            f"{path} is no JSON ({error}); run the screening again"
        ) from error


def _read_hull(path: pathlib.Path) -> hulls.Hull | None:
    return hulls.from_dict(_read_json(path)) if path.is_file() else None


def _read_candidates(
    path: pathlib.Path, max_structures: int | None
) -> dict[int, structure.Crystal]:
    """The first crystals by rank; a frame that does not say has its number."""
    if not path.is_file() or path.stat().st_size == 0:
        return {}
    # Not all of them: of 10,000 candidates a few are shown, and reading all takes
    # longer than anything else here.
    with path.open(encoding="utf-8") as file:
        frames = [
            extxyz.parse_frame(text).atoms
            for text in itertools.islice(extxyz.split_frames(file), max_structures)
        ]
    return {
        int(atoms.info.get(columns.RANK, number)): bridge.from_ase(atoms)
        for number, atoms in enumerate(frames, start=1)
    }
