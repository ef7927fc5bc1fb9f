"""Requests that keep a part of a crystal, to models of either kind."""

import dataclasses
import itertools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from crystaljax.crystals import kept_sites, structure
from crystaljax.models import build, scaling, wyckoff_files
from crystaljax.sampling import (
    conditions,
    kept_cells,
    kept_questions,
    orbit_conditions,
    requested_energies,
    requests,
)
from crystaljax.system import errors
from crystaljax.training import runs

# Sites of the cell are looked at where it is known how many primitive cells it holds.
_ANY_SIZE = 1_000_000


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What is requested.

    Attributes:
        template: file of a crystal.
        keep: its sites that stay, see `kept_sites.choose_sites`.
        lattice: what becomes of its lattice, `kept_parts.LATTICES`.
        formulas: with the kept sites; its own where there are none.
        space_groups: as a text; None, "likely", "seen" or "all" for those that the
            kept sites allow.
        energies: as a text, or "low".
        num_samples: of each combination.
        seed: of the samples.
        batch_size: samples at a time, see `requests.Request`.
        checkpoint: see there.
    """

    template: str
    keep: str
    lattice: str
    formulas: tuple[str, ...]
    space_groups: str | None
    energies: str
    num_samples: int
    seed: int
    batch_size: int | str | None
    checkpoint: int | None


def build_request(
    wanted: Wanted,
    workdir: pathlib.Path,
    config: Any,
    vocabulary: dict[str, Any],
    energies_fn: Callable[[Sequence[str]], requested_energies.FormulaEnergies],
    wording: dict[str, Any],
) -> requests.Request:
    """Checks what is wanted.

    Args:
        wanted: see `Wanted`.
        workdir: run directory or model.
        config: of the run, with the sampler to use.
        vocabulary: of the run.
        energies_fn: formulas → energies, where they are not left to the model.
        wording: what the user gave.

    Raises:
        FileNotFoundError: there is no such template.
        UserError: see `kept_sites.read_template`, `kept_questions.cell_of` and
            `kept_questions.ask`.
    """
    template = kept_sites.read_template(wanted.template, wanted.keep)
    cells = [
        kept_questions.cell_of(template, formula)
        for formula in wanted.formulas or (None,)
    ]
    groups = None
    # Of all groups those that the kept sites allow are meant.
    if wanted.space_groups not in (None, orbit_conditions.LIKELY, "all", "seen"):
        groups = conditions.parse_space_groups(str(wanted.space_groups), vocabulary)
    of_orbits = build.is_of_orbits(config)
    size = _ANY_SIZE if of_orbits else structure.max_sites(config.data.rows)
    for cell in cells:
        conditions.check_formula(cell, vocabulary, size)
    build_fn = _of_orbits if of_orbits else _of_sites
    question = _Question(wanted, template, cells, groups, energies_fn)
    parts = build_fn(question, workdir, config, vocabulary)
    return requests.Request(
        workdir=workdir,
        config=config,
        wording=wording,
        seed=wanted.seed,
        batch_size=wanted.batch_size,
        checkpoint=wanted.checkpoint,
        **parts,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Question:
    """What is wanted, read: the template, formulas of its cell, groups; energies."""

    wanted: Wanted
    template: kept_sites.Template
    cells: list[str]
    groups: list[int] | None
    energies_fn: Callable[[Sequence[str]], requested_energies.FormulaEnergies]


def _of_orbits(
    question: _Question,
    workdir: pathlib.Path,
    config: Any,
    vocabulary: dict[str, Any],
) -> dict[str, Any]:
    """What `requests.Request` takes, for a model of orbits."""
    wanted, cells = question.wanted, question.cells
    scale = scaling.load_scaling(workdir / "scaling.json")
    model = wyckoff_files.load(workdir / runs.POSITIONS, runs.REMEDY)
    if wanted.energies == orbit_conditions.LOW:
        values = orbit_conditions.low_energies(model, scale, cells)
        energies = requested_energies.FormulaEnergies(values, None, [])
    else:
        energies = question.energies_fn(cells)
    asked = kept_questions.ask(
        model,
        scale,
        question.template,
        orbit_conditions.Wanted(
            formulas=cells,
            space_groups=question.groups,
            energies=energies.values,
            above_hull=energies.above_hull,
            num_samples=wanted.num_samples,
            seed=wanted.seed,
            follow_known=config.sampler.follow_known,
        ),
        build.orbit_shapes(config)[-1],
        lattice=wanted.lattice,
    )
    notes = energies.notes + asked.notes
    return {
        "conditions": asked.conditions,
        "columns": asked.columns(),
        "orbits": asked.requests,
        "notes": notes + conditions.outside_training(asked.conditions, vocabulary),
    }


def _of_sites(
    question: _Question,
    workdir: pathlib.Path,
    config: Any,
    vocabulary: dict[str, Any],
) -> dict[str, Any]:
    """The same for a network that sees a crystal site by site."""
    del workdir
    wanted, cells, template = question.wanted, question.cells, question.template
    sites = structure.max_sites(config.data.rows)
    allowed = [
        kept_questions.allowed_groups(template, cell, question.groups, sites)
        for cell in cells
    ]
    space_groups = list(dict.fromkeys(itertools.chain.from_iterable(allowed)))
    chosen = np.array([[each in own for each in space_groups] for own in allowed])
    origin = vocabulary.get("canonical", "site")
    cell = kept_cells.build_cell(template, origin, wanted.lattice)
    energies = question.energies_fn(cells)
    asked = conditions.combine(
        cells,
        space_groups,
        energies.values,
        wanted.num_samples,
        sites,
        wanted=chosen,
    )
    columns = {}
    if energies.above_hull is not None:
        above = energies.above_hull[chosen.nonzero()[0]].ravel()
        columns["requested_energy_above_hull"] = above.repeat(wanted.num_samples)
    return {
        "conditions": kept_cells.attach(asked, cell),
        "columns": columns,
        "notes": energies.notes + conditions.outside_training(asked, vocabulary),
        "kept_cell": cell,
    }


def refuse(given: dict[str, Any]) -> None:
    """Raises UserError for options that say what a template says already.

    Args:
        given: options by name; those that are not given are empty.
    """
    named = [f"`{name}=`" for name, value in given.items() if value]
    if named:
        raise errors.UserError(
            f"{' and '.join(named)} cannot be given with a template, whose cell and "
            "kept sites say it; leave it out, and name `formulas=`"
        )
