"""The files that a screening leaves."""

import json
import math
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from crystaljax.crystals import names as names_lib
from crystaljax.crystals import structure, structure_files, symmetrization
from crystaljax.hull import convex_hull
from crystaljax.metrics import stable_unique_novel
from crystaljax.screening import columns
from crystaljax.screening import inputs as screening_inputs
from crystaljax.screening import result as screening_result
from crystaljax.system import atomic_files, environment


def full_table(
    rows: screening_inputs.Candidates, result: screening_result.Screening
) -> dict[str, list[Any]]:
    """What is known of the crystals, and what the screening found; one row for each."""
    table = columns.rename_former(rows.table())
    given = table.get(columns.FORMULA) or [None] * len(rows.names)
    # Where a crystal could not be read, the request says what it was to be.
    table[str(columns.FORMULA)] = [
        screening_inputs.formula(crystal) or str(requested or "")
        for crystal, requested in zip(rows.crystals, given, strict=True)
    ]
    if any(rows.files):
        table.setdefault(str(columns.FILE), list(rows.files))
    table |= result.table()
    table[str(columns.CANDIDATE_FILE)] = [
        f"{_stem(rank, name)}.cif" if rank > 0 else ""
        for rank, name in zip(table[columns.RANK], rows.names, strict=True)
    ]
    return table


def _stem(rank: int, name: str) -> str:
    """File name of a ranked crystal; no two have the same, since ranks differ."""
    return names_lib.unique_stem(f"{rank:03d}_{name}", set())


def write_results(
    output: pathlib.Path,
    result: screening_result.Screening,
    table: dict[str, list[Any]],
    known_hull: convex_hull.Hull | None,
    about: Mapping[str, Any],
) -> None:
    """Writes the table, ranked crystals, hull, ``screening.json`` and ``sun.json``.

    ``released.extxyz`` has what saddles relaxed to, where they were looked for.

    What is there is replaced.

    Args:
        output: the folder.
        result: of the screening.
        table: from `full_table`.
        known_hull: that the energies are above; None if there was none.
        about: what ``screening.json`` says besides: request, calculator, seconds, ….
    """
    for suffix in ("csv", "parquet"):
        structure_files.write_table(
            output / f"screening.{suffix}", table, overwrite=True
        )
    ranked = set(result.ranking().tolist())
    symmetrized = [
        symmetrization.symmetrize(crystal) if i in ranked else crystal
        for i, crystal in enumerate(result.relaxed)
    ]
    _write_candidates(output, result.relaxed, symmetrized, table)
    _write_released(output, result, table)
    if known_hull is None:
        (output / "hull.json").unlink(missing_ok=True)
    else:
        atomic_files.write_json(output / "hull.json", convex_hull.to_dict(known_hull))
    atomic_files.write_json(
        output / "screening.json",
        {
            **about,
            "energy_model": result.energy_model,
            "counts": result.counts(),
            "versions": environment.package_versions(),
        },
    )
    # One line, so that those of several screenings make a table.
    line = json.dumps(_count_discoveries(result, about), ensure_ascii=False) + "\n"
    atomic_files.write_bytes(output / "sun.json", line.encode())


def _write_released(
    output: pathlib.Path,
    result: screening_result.Screening,
    table: Mapping[str, Sequence[Any]],
) -> None:
    """What saddles relaxed to without their symmetry, where that was asked."""
    path = output / "released.extxyz"
    if result.released is None:
        path.unlink(missing_ok=True)
        return
    keys = {
        str(key): re.sub(r"\W", "_", key)
        for key in (columns.RELEASED_ENERGY_CHANGE, columns.RELEASED_SPACE_GROUP)
    }
    crystals, infos = [], []
    for i, found in sorted(result.released.items()):
        if found.is_saddle and found.crystal is not None:
            crystals.append(found.crystal)
            info = {keys[key]: table[key][i] for key in keys}
            infos.append({"name": result.names[i], **info})
    structure_files.write_extxyz(path, crystals, infos, overwrite=True)


def _count_discoveries(
    result: screening_result.Screening, about: Mapping[str, Any]
) -> dict[str, Any]:
    """Stable, unique, novel: the counts, and what they are relative to."""
    request = about.get("request") or {}
    return {
        **result.discoveries().counts(has_hull=result.has_hull),
        "calculator": about.get("calculator"),
        "energy_model": result.energy_model,
        "hull": about.get("hull"),
        "known": about.get("known") or request.get("known"),
        "tolerance": request.get("tolerance"),
        "definitions": stable_unique_novel.DEFINITIONS,
    }


def _write_candidates(
    output: pathlib.Path,
    crystals: Sequence[structure.Crystal],
    symmetrized: Sequence[structure.Crystal],
    table: dict[str, list[Any]],
) -> None:
    """The ranked crystals, and their copies with exact symmetry, in order."""
    order = sorted(
        (rank, row) for row, rank in enumerate(table[columns.RANK]) if rank > 0
    )
    rows = [row for _, row in order]
    stems = [_stem(rank, table[columns.NAME][row]) for rank, row in order]
    # extxyz has no dots in the names of what stands beside a lattice.
    keys = {
        key: re.sub(r"\W", "_", key)
        for key in table
        if key not in structure_files.RESERVED_INFO_KEYS
    }
    infos = [{keys[key]: table[key][row] for key in keys} for row in rows]
    structure_files.write_extxyz(
        output / "candidates.extxyz",
        [crystals[row] for row in rows],
        [{k: v for k, v in info.items() if _is_known(k, v)} for info in infos],
        overwrite=True,
    )
    for folder, chosen in (("candidates", crystals), ("symmetrized", symmetrized)):
        structure_files.write_cifs(
            output / folder, [chosen[row] for row in rows], stems, overwrite=True
        )


def _is_known(key: str, value: Any) -> bool:
    """Whether there is anything to write beside a crystal."""
    if isinstance(value, float) and math.isnan(value):
        return False
    return key == "name" or value != ""
