"""Results of DFT beside what was predicted: hull, structure, space group."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from crystaljax.crystals import elements, symmetry_search, validity
from crystaljax.dft import formation, handover, mp_scheme, vasp_runs
from crystaljax.hull import convex_hull as hulls
from crystaljax.matching import matcher
from crystaljax.relaxation import pretrained
from crystaljax.screening import columns
from crystaljax.system import errors, workers

SYMPRECS = (0.1, 0.01)
# Of a run: reading it, and finding its symmetry.
_SECONDS_EACH = 0.1


@dataclasses.dataclass(frozen=True, eq=False)
class Analysis:
    """One run beside what was handed over.

    Attributes:
        run: what became of it.
        handed: what the manifest says; None where there is none.
        rms: displacement from the crystal handed over, in units of
            (volume per site)^(1/3); None where they do not match or cannot be compared.
        space_groups: of the result, at ``SYMPRECS``.
    """

    run: vasp_runs.Run
    handed: handover.Handed | None
    rms: float | None
    space_groups: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class OnHull:
    """Results on the hull of known entries.

    Attributes:
        above: energy above the hull, eV/atom; NaN where there is none.
        formation_energies: eV/atom; on the Materials Project's hull those of corrected
            total energies against its elements, NaN where there is none.
        corrections: that were added to total energies, eV/atom; NaN where none was
            requested.
        energy_models: of the formation energies; "" where there is none.
        problems: why a run is not on the hull, or "".
        hull: the known entries with the converged results; None without known entries.
    """

    above: Sequence[float] | np.ndarray
    formation_energies: Sequence[float] | np.ndarray
    corrections: Sequence[float] | np.ndarray
    energy_models: Sequence[str]
    problems: Sequence[str]
    hull: hulls.Hull | None


class _Task(NamedTuple):
    folder: str
    path: pathlib.Path | None
    handed: handover.Handed | None


def analyze_runs(
    root: pathlib.Path,
    *,
    num_workers: int | None = None,
    description: str | None = None,
) -> list[Analysis]:
    """Reads all runs below a folder, and finds those that were handed over but not run.

    Args:
        root: see `vasp_runs.find_runs`; manifests may be anywhere in it.
        num_workers: processes; None for all CPUs, or this one if there is little to do.
        description: label of a progress bar; none if None.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: there are no runs, or a manifest cannot be read.
    """
    found = vasp_runs.find_runs(root)
    handed = {
        path.parent / each.folder: each
        for path in sorted(root.rglob(handover.MANIFEST))
        for each in handover.read_manifest(path.parent)
    }
    tasks = []
    seen = set()
    for folder, path in found:
        place = root / folder
        # A run may be in a folder of its own below the one that was handed over.
        owner = next((p for p in (place, *place.parents) if p in handed), None)
        seen.add(owner)
        tasks.append(_Task(folder, path, handed[owner] if owner else None))
    for place, each in handed.items():
        if place not in seen:
            tasks.append(_Task(place.relative_to(root).as_posix(), None, each))
    if not tasks:
        raise errors.UserError(
            f"{root} holds no runs: neither vasprun.xml nor INCAR in any folder below "
            "it"
        )
    num_workers = workers.choose_num_workers(num_workers, len(tasks), _SECONDS_EACH)
    return list(
        workers.map_in_workers(
            _analyze, tasks, num_workers=num_workers, description=description
        )
    )


def _analyze(task: _Task) -> Analysis:
    run = vasp_runs.read_run((task.folder, task.path))
    rms = None
    predicted = task.handed and task.handed.crystal
    if predicted is not None and run.crystal.num_sites:
        tolerance = matcher.TOLERANCES["paper"]
        rms = matcher.match(run.crystal, predicted, [tolerance]).rms[0]
    groups = tuple(symmetry_search.find_space_group(run.crystal, s) for s in SYMPRECS)
    return Analysis(run, task.handed, rms, groups)


def put_on_hull(
    runs: Sequence[vasp_runs.Run],
    formations: Sequence[formation.Formation],
    spec: str | None,
    energy_model: str | None = None,
) -> OnHull:
    """Energies above the hull of known entries with the same energy model.

    On a hull of the Materials Project's total energies are the runs whose inputs fit
    its scheme (`mp_scheme`), with its corrections and against its elements.

    Args:
        runs: of candidates and elements.
        formations: their formation energies.
        spec: of the known entries, see `convex_hull.load_hull`; None for none.
        energy_model: what computed these, in the words of the user.

    Raises:
        FileNotFoundError: there are no such entries.
        ValueError: they cannot be read, or none of the runs has their energy model.
    """
    if spec is not None:
        formulas = [run.crystal.atomic_numbers for run in runs if _has_energy(run)]
        known = hulls.load_hull(spec, formulas, energy_model=energy_model)
        if known.dft == pretrained.MP_PBE:
            return _put_on_mp_hull(runs, formations, known)
        return _put_on_own_hull(runs, formations, known, spec)
    return _without_hull(runs, formations)


def _has_energy(run: vasp_runs.Run) -> bool:
    return bool(run.crystal.num_sites and np.isfinite(run.energy))


def _without_hull(
    runs: Sequence[vasp_runs.Run], formations: Sequence[formation.Formation]
) -> OnHull:
    nothing = np.full(len(runs), np.nan)
    return OnHull(
        above=nothing,
        formation_energies=np.array([each.energy for each in formations]),
        corrections=nothing,
        energy_models=[run.energy_model for run in runs],
        problems=[each.problem for each in formations],
        hull=None,
    )


def _put_on_own_hull(
    runs: Sequence[vasp_runs.Run],
    formations: Sequence[formation.Formation],
    known: hulls.Hull,
    spec: str,
) -> OnHull:
    """Formation energies against the runs' own elements, on a hull of such energies."""
    found = _without_hull(runs, formations)
    above = np.full(len(runs), np.nan)
    problems = list(found.problems)
    with_energy = [i for i, each in enumerate(formations) if np.isfinite(each.energy)]
    fit = [i for i in with_energy if runs[i].energy_model == known.energy_model]
    if with_energy and not fit:
        models = sorted({runs[i].energy_model for i in with_energy})
        raise errors.UserError(
            f"the runs have energies of {', '.join(map(repr, models))}, the hull "
            f"{spec} has those of {known.energy_model!r}; energies of two models do "
            "not mix. If they are one under two names, say so: "
            f"--hull_energy_model={models[0]!r}"
        )
    for i in sorted(set(with_energy) - set(fit)):
        problems[i] = (
            f"not on the hull: its energy is of {runs[i].energy_model!r}, the hull's "
            f"of {known.energy_model!r}"
        )
    above[fit] = _above(known, runs, fit, found.formation_energies)
    both = _join(known, runs, fit, found.formation_energies)
    return dataclasses.replace(found, above=above, problems=problems, hull=both)


def _put_on_mp_hull(
    runs: Sequence[vasp_runs.Run],
    formations: Sequence[formation.Formation],
    known: hulls.Hull,
) -> OnHull:
    """Corrected total energies against the hull's elements, of the runs that fit."""
    found = _without_hull(runs, formations)
    above, added = np.full((2, len(runs)), np.nan)
    energies = np.array(found.formation_energies, dtype=float)
    models, problems = list(found.energy_models), list(found.problems)
    fit = []
    for i, run in enumerate(runs):
        if not _has_energy(run):
            continue
        reasons = mp_scheme.find_problems(run)
        symbols = [elements.symbol(int(n)) for n in run.crystal.atomic_numbers]
        missing = sorted(set(symbols) - known.element_energies.keys())
        if missing:
            reasons.append(f"the hull has no entry of {', '.join(missing)}")
        try:
            if not reasons:
                added[i] = mp_scheme.correction(run)
        except ValueError as error:
            reasons.append(str(error))
        if reasons:
            reason = f"not on the Materials Project's hull: {'; '.join(reasons)}"
            problems[i] = "; ".join(each for each in (problems[i], reason) if each)
            continue
        elemental = np.mean([known.element_energies[symbol] for symbol in symbols])
        energies[i] = run.energy + added[i] - elemental
        # Whether the runs have elements of their own is no matter then.
        models[i], problems[i] = known.energy_model, ""
        fit.append(i)
    above[fit] = _above(known, runs, fit, energies)
    return OnHull(
        above=above,
        formation_energies=energies,
        corrections=added,
        energy_models=models,
        problems=problems,
        hull=_join(known, runs, fit, energies),
    )


def _above(
    known: hulls.Hull,
    runs: Sequence[vasp_runs.Run],
    fit: Sequence[int],
    energies: Sequence[float] | np.ndarray,
) -> np.ndarray:
    return hulls.energy_above_hull(
        known,
        [runs[i].crystal.atomic_numbers for i in fit],
        [energies[i] for i in fit],
        known.energy_model,
    )


def _join(
    known: hulls.Hull,
    runs: Sequence[vasp_runs.Run],
    fit: Sequence[int],
    energies: Sequence[float] | np.ndarray,
) -> hulls.Hull:
    """The known entries with the converged results."""
    results = hulls.build_hull(
        [
            (runs[i].crystal.atomic_numbers, energies[i], runs[i].folder)
            for i in fit
            if runs[i].converged
        ],
        known.energy_model,
    )
    return dataclasses.replace(known, entries=known.entries + results.entries)


def build_table(
    analyses: Sequence[Analysis], on_hull: OnHull, tolerance: float
) -> dict[str, list[Any]]:
    """Columns with one row per run, lowest above the hull first.

    Args:
        analyses: the runs.
        on_hull: their formation energies, and those above the hull.
        tolerance: eV/atom above the hull up to which a converged run holds.
    """
    above = np.asarray(on_hull.above, float)
    energies = np.asarray(on_hull.formation_energies, float)
    # NaN is sorted to the end.
    order = np.lexsort((energies, above)).tolist()
    rows = []
    for i in order:
        run = analyses[i].run
        problems = [run.problem, on_hull.problems[i]]
        row = _identify(analyses[i])
        holds = None
        # Elements hold by definition, and without a hull nobody can tell.
        if on_hull.hull is not None and row["kind"] != "reference":
            # NaN is below nothing.
            holds = run.converged and bool(above[i] <= tolerance)
        rows.append(
            {
                **row,
                "converged": run.converged,
                "holds": holds,
                "problem": "; ".join(each for each in problems if each),
                "formation_energy_dft": energies[i],
                "energy_above_hull_dft": above[i],
                "energy_model_dft": on_hull.energy_models[i],
                **_compare(analyses[i]),
                "total_energy_dft": run.energy,
                "correction_dft": float(on_hull.corrections[i]),
                "max_force_dft": run.max_force,
                "ionic_steps": run.num_steps,
                "cutoff": run.cutoff,
                "potentials": ", ".join(run.potentials.values()),
            }
        )
    return {key: [row[key] for row in rows] for key in rows[0]}


def _identify(analysis: Analysis) -> dict[str, Any]:
    run, handed = analysis.run, analysis.handed
    row: Mapping[str, Any] = handed.row if handed else {}
    formula = row.get("formula") or ""
    if run.crystal.num_sites:
        formula = elements.cell_formula(run.crystal.atomic_numbers)
    return {
        "name": row.get("name") or run.folder,
        "folder": run.folder,
        "kind": row.get("kind") or "",
        "formula": formula,
    }


def _compare(analysis: Analysis) -> dict[str, Any]:
    """What was predicted, and whether the structure still is what it was."""
    crystal, handed = analysis.run.crystal, analysis.handed
    row: Mapping[str, Any] = handed.row if handed else {}
    is_comparable = handed is not None and handed.crystal is not None
    volume = validity.cell_volume(crystal) if crystal.num_sites else np.nan
    return {
        "formation_energy_predicted": _number(row.get(columns.RELAXED_ENERGY)),
        "energy_above_hull_predicted": _number(row.get(columns.ABOVE_HULL)),
        "energy_model_predicted": row.get(columns.ENERGY_MODEL) or "",
        "same_structure": analysis.rms is not None
        if is_comparable and crystal.num_sites
        else None,
        "structure_rms": _number(analysis.rms),
        str(columns.REQUESTED_SPACE_GROUP): row.get(columns.REQUESTED_SPACE_GROUP),
        **{
            f"space_group_dft_{symprec:g}": group
            for symprec, group in zip(SYMPRECS, analysis.space_groups, strict=True)
        },
        "volume_per_atom_dft": volume / max(crystal.num_sites, 1),
    }


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")
