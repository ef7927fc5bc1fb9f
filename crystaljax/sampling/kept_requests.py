"""Requests that keep a part of a crystal, to models of either kind."""

import dataclasses
import itertools
import pathlib
from typing import Any

import numpy as np

from crystaljax.crystals import kept_sites, structure
from crystaljax.models import build, scaling, wyckoff_files
from crystaljax.sampling import (
    conditions,
    formula_requests,
    kept_cells,
    kept_questions,
    orbit_conditions,
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
        filled: the rest. Its formulas are those with the kept sites, and the template's
            own where there are none; its space groups, where they are "likely", "seen"
            or "all", are those that the kept sites allow.
    """

    template: str
    keep: str
    lattice: str
    filled: formula_requests.Wanted


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
        FileNotFoundError: there is no such template, or no entries of a hull.
        UserError: options that say what a template says already, or see
            `kept_sites.read_template`, `kept_questions.cell_of` and
            `kept_questions.ask`.
    """
    filled = wanted.filled
    _refuse_said_twice(filled)
    formula_requests.refuse_unused_hull(filled)
    template = kept_sites.read_template(wanted.template, wanted.keep)
    cells = [
        kept_questions.cell_of(template, formula)
        for formula in filled.formulas or (None,)
    ]
    groups = None
    # Of all groups those that the kept sites allow are meant.
    if filled.space_groups not in (orbit_conditions.LIKELY, "all", "seen"):
        groups = conditions.parse_space_groups(filled.space_groups, vocabulary)
    of_orbits = build.is_of_orbits(config)
    size = _ANY_SIZE if of_orbits else structure.max_sites(config.data.rows)
    for cell in cells:
        conditions.check_formula(cell, vocabulary, size)
    build_fn = _of_orbits if of_orbits else _of_sites
    question = _Question(wanted, template, cells, groups)
    return requests.Request(
        workdir=workdir,
        config=config,
        wording=wording,
        seed=filled.seed,
        batch_size=filled.batch_size,
        checkpoint=filled.checkpoint,
        **build_fn(question, workdir, config, vocabulary),
    )


def _refuse_said_twice(filled: formula_requests.Wanted) -> None:
    """Raises UserError for options that say what a template says already."""
    given = {
        "chemical_systems": filled.chemical_systems,
        "formula_units": filled.formula_units,
        "max_atoms": filled.max_atoms,
        "wyckoff": filled.wyckoff,
    }
    named = [f"`{name}=`" for name, value in given.items() if value]
    if named:
        raise errors.UserError(
            f"{' and '.join(named)} cannot be given with a template, whose cell and "
            "kept sites say it; leave it out, and name `formulas=`"
        )


@dataclasses.dataclass(frozen=True, eq=False)
class _Question:
    """What is wanted, read: the template, formulas of its cell, groups."""

    wanted: Wanted
    template: kept_sites.Template
    cells: list[str]
    groups: list[int] | None


def _of_orbits(
    question: _Question,
    workdir: pathlib.Path,
    config: Any,
    vocabulary: dict[str, Any],
) -> dict[str, Any]:
    """What `requests.Request` takes, for a model of orbits."""
    filled, cells = question.wanted.filled, question.cells
    scale = scaling.load_scaling(workdir / "scaling.json")
    model = wyckoff_files.load(workdir / runs.POSITIONS, runs.REMEDY)
    energies = formula_requests.energies_of_orbits(
        filled, cells, vocabulary, model, scale
    )
    asked = kept_questions.ask(
        model,
        scale,
        question.template,
        orbit_conditions.Wanted(
            formulas=cells,
            space_groups=question.groups,
            energies=energies.values,
            above_hull=energies.above_hull,
            num_samples=filled.num_samples,
            seed=filled.seed,
            follow_known=config.sampler.follow_known,
        ),
        build.orbit_shapes(config)[-1],
        lattice=question.wanted.lattice,
    )
    return formula_requests.parts_of_orbits(asked, energies, vocabulary)


def _of_sites(
    question: _Question,
    workdir: pathlib.Path,
    config: Any,
    vocabulary: dict[str, Any],
) -> dict[str, Any]:
    """The same for a network that sees a crystal site by site."""
    del workdir
    wanted, cells, template = question.wanted, question.cells, question.template
    num_samples = wanted.filled.num_samples
    sites = structure.max_sites(config.data.rows)
    allowed = [
        kept_questions.allowed_groups(template, cell, question.groups, sites)
        for cell in cells
    ]
    space_groups = list(dict.fromkeys(itertools.chain.from_iterable(allowed)))
    chosen = np.array([[each in own for each in space_groups] for own in allowed])
    origin = vocabulary.get("canonical", "site")
    cell = kept_cells.build_cell(template, origin, wanted.lattice)
    energies = formula_requests.energies_of(wanted.filled, cells, vocabulary)
    asked = conditions.combine(
        cells, space_groups, energies.values, num_samples, sites, wanted=chosen
    )
    return {
        "conditions": kept_cells.attach(asked, cell),
        "columns": energies.columns(chosen, num_samples),
        "notes": energies.notes + conditions.outside_training(asked, vocabulary),
        "kept_cell": cell,
    }
