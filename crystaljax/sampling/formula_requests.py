"""Requests for crystals of formulas, to models of either kind."""

import dataclasses
import pathlib
from typing import Any

from crystaljax.crystals import structure
from crystaljax.models import build, scaling, wyckoff_files, wyckoff_model
from crystaljax.sampling import (
    conditions,
    formulas,
    orbit_conditions,
    requested_energies,
    requests,
)
from crystaljax.system import errors
from crystaljax.training import runs


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What is requested, as the user said it.

    Attributes:
        formulas: see `formulas.expand_formulas`.
        chemical_systems: see there.
        formula_units: see there; or "likely", which leaves them to a model of orbits.
        max_atoms: see there.
        space_groups: see `conditions.parse_space_groups`; or "likely".
        energies: see `requested_energies.parse_energies`; or "low".
        hull: where the hull's entries are, see `requested_energies.resolve_energies`.
        hull_energy_model: see there.
        wyckoff: positions that the elements fill, see
            `orbit_conditions.parse_positions`; "" where they are left open.
        infeasible: see `conditions.judge_feasibility`.
        num_samples: of each combination.
        seed: of the samples.
        batch_size: samples at a time, see `requests.Request`.
        checkpoint: see there.
    """

    formulas: tuple[str, ...]
    chemical_systems: tuple[str, ...]
    formula_units: str
    max_atoms: int | None
    space_groups: str
    energies: str
    hull: str | None
    hull_energy_model: str | None
    wyckoff: str
    infeasible: str
    num_samples: int
    seed: int
    batch_size: int | str | None
    checkpoint: int | None


def build_request(
    wanted: Wanted,
    workdir: pathlib.Path,
    config: Any,
    vocabulary: dict[str, Any],
    wording: dict[str, Any],
) -> requests.Request:
    """Checks what is wanted.

    Args:
        wanted: see `Wanted`.
        workdir: run directory or model.
        config: of the run, with the sampler to use.
        vocabulary: of the run.
        wording: what the user gave.

    Raises:
        FileNotFoundError: no entries of a hull.
        ValueError: no formulas, or unreadable ones; an element that the model never
            saw, a formula too large for it, a space group outside 1-230, unreadable
            energies or hull, or nothing that can exist.
    """
    build_fn = _of_orbits if build.is_of_orbits(config) else _of_sites
    return requests.Request(
        workdir=workdir,
        config=config,
        wording=wording,
        seed=wanted.seed,
        batch_size=wanted.batch_size,
        checkpoint=wanted.checkpoint,
        **build_fn(wanted, workdir, config, vocabulary),
    )


def _of_orbits(
    wanted: Wanted, workdir: pathlib.Path, config: Any, vocabulary: dict[str, Any]
) -> dict[str, Any]:
    """What `requests.Request` takes, for a model of orbits."""
    shape = build.orbit_shapes(config)[-1]
    model = wyckoff_files.load(workdir / runs.POSITIONS, runs.REMEDY)
    groups = None
    if wanted.space_groups != orbit_conditions.LIKELY:
        groups = conditions.parse_space_groups(wanted.space_groups, vocabulary)
    written = wanted
    if wanted.formula_units == orbit_conditions.LIKELY:
        likely = orbit_conditions.likely_cells(
            model, wanted.formulas, groups or (), shape[1]
        )
        written = dataclasses.replace(wanted, formulas=likely, formula_units="")
    # Larger cells may be several primitive ones.
    cells = _cells(written, vocabulary, 4 * shape[1])
    scale = scaling.load_scaling(workdir / "scaling.json")
    refuse_unused_hull(wanted)
    energies = energies_of_orbits(wanted, cells, vocabulary, model, scale)
    asked = orbit_conditions.ask(
        model,
        scale,
        orbit_conditions.Wanted(
            formulas=cells,
            space_groups=groups,
            energies=energies.values,
            above_hull=energies.above_hull,
            num_samples=wanted.num_samples,
            wyckoff=wanted.wyckoff,
            seed=wanted.seed,
            follow_known=config.sampler.follow_known,
        ),
        shape,
    )
    return parts_of_orbits(asked, energies, vocabulary)


def parts_of_orbits(
    asked: orbit_conditions.Asked,
    energies: requested_energies.FormulaEnergies,
    vocabulary: dict[str, Any],
) -> dict[str, Any]:
    """What `requests.Request` takes of what is asked of a model of orbits."""
    notes = energies.notes + asked.notes
    return {
        "conditions": asked.conditions,
        "columns": asked.columns(),
        "orbits": asked.requests,
        "notes": notes + conditions.outside_training(asked.conditions, vocabulary),
    }


def _of_sites(
    wanted: Wanted, workdir: pathlib.Path, config: Any, vocabulary: dict[str, Any]
) -> dict[str, Any]:
    """The same for a network that sees a crystal site by site."""
    del workdir
    sites = structure.max_sites(config.data.rows)
    cells = _cells(wanted, vocabulary, sites)
    space_groups = conditions.parse_space_groups(wanted.space_groups, vocabulary)
    feasibility = conditions.judge_feasibility(cells, space_groups, wanted.infeasible)
    energies = energies_of(wanted, cells, vocabulary)
    asked = conditions.combine(
        cells,
        space_groups,
        energies.values,
        wanted.num_samples,
        sites,
        wanted=feasibility.wanted,
    )
    columns = feasibility.columns(energies.values.shape[1], wanted.num_samples)
    columns |= energies.columns(feasibility.wanted, wanted.num_samples)
    notes = feasibility.notes + energies.notes
    return {
        "conditions": asked,
        "columns": columns,
        "notes": notes + conditions.outside_training(asked, vocabulary),
    }


def _cells(wanted: Wanted, vocabulary: dict[str, Any], max_sites: int) -> list[str]:
    """Formulas of the cells that are requested, all of which the model can make."""
    cells = formulas.expand_formulas(
        wanted.formulas,
        wanted.chemical_systems,
        formula_units=wanted.formula_units,
        max_atoms=wanted.max_atoms,
    )
    for formula in cells:
        conditions.check_formula(formula, vocabulary, max_sites)
    return cells


def energies_of(
    wanted: Wanted, cells: list[str], vocabulary: dict[str, Any]
) -> requested_energies.FormulaEnergies:
    """The energies that are wanted of each cell.

    Raises:
        FileNotFoundError: see `requested_energies.resolve_energies`.
        ValueError: see there.
    """
    return requested_energies.resolve_energies(
        wanted.energies,
        cells,
        vocabulary,
        hull_spec=wanted.hull,
        hull_energy_model=wanted.hull_energy_model,
    )


def energies_of_orbits(
    wanted: Wanted,
    cells: list[str],
    vocabulary: dict[str, Any],
    model: wyckoff_model.WyckoffModel,
    scale: scaling.Scaling,
) -> requested_energies.FormulaEnergies:
    """As `energies_of`, where the energies may be left to a model of orbits."""
    if wanted.energies != orbit_conditions.LOW:
        return energies_of(wanted, cells, vocabulary)
    values = orbit_conditions.low_energies(model, scale, cells)
    return requested_energies.FormulaEnergies(values, None, [])


def refuse_unused_hull(wanted: Wanted) -> None:
    """Raises UserError for a hull that nothing is relative to."""
    if wanted.energies == orbit_conditions.LOW and wanted.hull is not None:
        raise errors.UserError(
            f"hull={wanted.hull} is given, but energies are left to the model; "
            "name them, such as --energies=hull:hull+0.1:0.05"
        )
