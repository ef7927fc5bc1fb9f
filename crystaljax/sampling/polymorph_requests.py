"""Requests for polymorphs of crystals in files, to models of either kind."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any, TypeVar

from crystaljax.crystals import elements, inputs, structure
from crystaljax.data import reading
from crystaljax.models import build, scaling, wyckoff_files
from crystaljax.sampling import build as build_sampling
from crystaljax.sampling import (
    conditions,
    decorations,
    orbit_conditions,
    polymorph_sources,
    polymorphs,
    requested_energies,
    requests,
)
from crystaljax.system import errors
from crystaljax.training import runs

# Samples of a model of modification that are compared with their sources, which takes
# milliseconds each.
_MAX_COMPARED = 10_000


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What is requested, as the user said it.

    Attributes:
        input: file of a crystal, or a folder of them.
        energy_difference: as a text: values and ranges, or "lowest".
        decorate: see `decorations.parse`; "" for the elements of the crystals.
        space_groups: see `conditions.parse_space_groups`; or "likely".
        formula: that the inputs must have; None for any.
        num_samples: of each combination.
        infeasible: see `conditions.judge_feasibility`.
        seed: of the samples.
        batch_size: samples at a time, see `requests.Request`.
        checkpoint: see there.
    """

    input: str
    energy_difference: str
    decorate: str
    space_groups: str
    formula: str | None
    num_samples: int
    infeasible: str
    seed: int
    batch_size: int | str | None
    checkpoint: int | None


Made = TypeVar("Made")
# The request, the crystals that can be used, as their files have them, and the same in
# the form that the network is given.
Built = tuple[requests.Request, list[inputs.Input], list[structure.Crystal]]


# ------------------------------------------------------------- a model of modification
def of_modifier(wanted: Wanted, workdir: pathlib.Path, config: Any) -> Built:
    """The request to a model that was trained to modify crystals.

    Args:
        wanted: see `Wanted`; nothing is decorated.
        workdir: run directory or model.
        config: of the run, with the sampler to use.

    Raises:
        FileNotFoundError: no input.
        ValueError: none of the crystals can be used, or unreadable conditions.
    """
    vocabulary = runs.load_vocabulary(workdir)
    sites = structure.max_sites(config.data.rows)
    space_groups = conditions.parse_space_groups(wanted.space_groups, vocabulary)
    differences = _differences(wanted.energy_difference, vocabulary)

    formula = _normal(wanted.formula)
    usable, sources, problems = _read_usable(
        wanted.input, lambda each: _in_form(each.crystal, formula, vocabulary, sites)
    )
    num_samples = wanted.num_samples
    notes = [f"left out {each.name}: {each.reason}" for each in problems]
    if num_samples > 1 and build_sampling.is_deterministic(config):
        notes.append(
            f"this method has one answer to each condition, so that one sample is made "
            f"instead of {num_samples}; ask for more space groups or energy "
            "differences, or use a model of configs/modify_diffusion.py"
        )
        num_samples = 1
    if build.is_of_orbits(config):
        # It brings the search for symmetry.
        from crystaljax.sampling import orbit_modification

        model = wyckoff_files.load(workdir / runs.POSITIONS, runs.REMEDY)
        feasibility = orbit_modification.judge_feasibility(
            sources, space_groups, model, build.orbit_shapes(config)[-1]
        )
    else:
        feasibility = conditions.judge_feasibility(
            [elements.cell_formula(source.atomic_numbers) for source in sources],
            space_groups,
            wanted.infeasible,
        )
    asked, subject = conditions.combine_sources(
        [(each.name, made) for each, made in zip(usable, sources, strict=True)],
        space_groups,
        differences,
        num_samples,
        sites,
        wanted=feasibility.wanted,
    )
    notes += feasibility.notes
    notes += conditions.outside_training(asked, vocabulary)
    request = requests.Request(
        workdir=workdir,
        config=config,
        conditions=asked,
        wording={
            "input": wanted.input,
            "crystals": [each.name for each in usable],
            "energy_difference": wanted.energy_difference,
            "space_groups": wanted.space_groups,
            "formula": wanted.formula,
            "num_samples": wanted.num_samples,
            "infeasible": wanted.infeasible,
        },
        notes=notes,
        seed=wanted.seed,
        batch_size=wanted.batch_size,
        checkpoint=wanted.checkpoint,
        inputs=[usable[i].name for i in subject],
        columns=feasibility.columns(len(differences), num_samples),
    )
    if len(asked) <= _MAX_COMPARED:
        known = {each.name: made for each, made in zip(usable, sources, strict=True)}
        request = dataclasses.replace(request, arrange=polymorphs.Arrangement(known))
    return request, usable, sources


def _differences(text: str, vocabulary: dict[str, Any]) -> list[float]:
    """Energy differences; the lowest are those of the training pairs."""
    if text != polymorphs.LOWEST:
        return requested_energies.parse_differences(text)
    low = min(float(vocabulary["energy_difference"][0]), 0.0)
    return sorted({round(low / 4, 3), round(low / 2, 3), round(low, 3)})


def _in_form(
    crystal: structure.Crystal,
    wanted: str | None,
    vocabulary: dict[str, Any],
    sites: int,
) -> structure.Crystal:
    """A crystal in the form that the model was trained on.

    Args:
        crystal: as its file has it.
        wanted: formula that it must have; None for any.
        vocabulary: of the run.
        sites: that the model's rows hold.

    Raises:
        ValueError: it has no such form, or the model cannot be asked about it.
    """
    form = reading.CanonicalForm(
        vocabulary.get("canonical", "site"), vocabulary.get("primitive", False)
    )
    source = reading.canonical_form(crystal, form)
    formula = elements.cell_formula(source.atomic_numbers)
    if wanted is not None and formula != wanted:
        raise errors.UserError(
            f"its cell is {formula}, but {wanted} was requested; modification keeps "
            "the composition: give a crystal of that formula, or leave --formula out"
        )
    _require_known(formula, vocabulary, sites)
    return source


# ---------------------------------------------------- a model of orbits that generates
def of_generator(wanted: Wanted, workdir: pathlib.Path, config: Any) -> Built:
    """The request to a model of orbits that makes crystals of formulas.

    Args:
        wanted: see `Wanted`.
        workdir: run directory or model.
        config: of the run, with the sampler to use.

    Raises:
        FileNotFoundError: no input.
        ValueError: none of the crystals can be used, or unreadable conditions.
    """
    vocabulary = runs.load_vocabulary(workdir)
    shape = build.orbit_shapes(config)[-1]
    model = wyckoff_files.load(workdir / runs.POSITIONS, runs.REMEDY)
    scale = scaling.load_scaling(workdir / "scaling.json")
    groups = None
    if wanted.space_groups != orbit_conditions.LIKELY:
        groups = conditions.parse_space_groups(wanted.space_groups, vocabulary)
    replacements = decorations.parse(wanted.decorate) or [{}]

    def make(each: inputs.Input) -> tuple[list[polymorph_sources.Source], str | None]:
        source, note = polymorph_sources.standardise(each, scale)
        made = [decorations.decorate(source, new) for new in replacements]
        for decorated in made:
            _check(wanted, source, decorated, vocabulary)
        return made, note

    usable, found, problems = _read_usable(wanted.input, make)
    sources = [source for made, _ in found for source in made]
    notes = [note for _, note in found if note]
    of_each = polymorphs.Wanted(
        energy_difference=wanted.energy_difference,
        space_groups=groups,
        num_samples=wanted.num_samples,
        seed=wanted.seed,
        follow_known=config.sampler.follow_known,
    )
    asked = polymorphs.ask(model, scale, sources, of_each, shape)
    notes += [f"left out {each.name}: {each.reason}" for each in problems]
    notes += asked.notes
    request = requests.Request(
        workdir=workdir,
        config=config,
        conditions=asked.conditions,
        wording={
            "input": wanted.input,
            "crystals": [each.name for each in usable],
            "energy_difference": wanted.energy_difference,
            "space_groups": wanted.space_groups,
            "formula": wanted.formula,
            "num_samples": wanted.num_samples,
            "decorate": wanted.decorate,
        },
        notes=notes + conditions.outside_training(asked.conditions, vocabulary),
        seed=wanted.seed,
        batch_size=wanted.batch_size,
        checkpoint=wanted.checkpoint,
        columns=asked.columns,
        orbits=asked.requests,
        arrange=polymorphs.arrangement_of(asked),
    )
    return request, usable, [each.cell for each in sources]


def _check(
    asked: Wanted,
    source: polymorph_sources.Source,
    made: polymorph_sources.Source,
    vocabulary: dict[str, Any],
) -> None:
    """Raises UserError for what the model cannot be asked about."""
    wanted = _normal(asked.formula)
    if wanted is not None and wanted != source.formula:
        raise errors.UserError(
            f"its primitive cell is {source.formula}, but {wanted} was requested; "
            "give a crystal of that formula, or leave --formula out"
        )
    _require_known(made.formula, vocabulary, len(made.cell.atomic_numbers))


# ------------------------------------------------------------------------------- either
def _read_usable(
    path: str, make_fn: Callable[[inputs.Input], Made]
) -> tuple[list[inputs.Input], list[Made], list[inputs.Unreadable]]:
    """Inputs that can be used, what is made of each of them, and all others.

    Args:
        path: file or folder.
        make_fn: raises ValueError for a crystal that cannot be used.

    Raises:
        UserError: none of them can be used.
    """
    found, problems = inputs.read_inputs(path)
    usable: list[inputs.Input] = []
    made: list[Made] = []
    for each in found:
        try:
            made.append(make_fn(each))
        except ValueError as error:
            problems.append(inputs.Unreadable(each.name, str(error)))
            continue
        usable.append(each)
    if not usable:
        raise errors.UserError(
            "no crystal can be modified:\n  "
            + "\n  ".join(f"{each.name}: {each.reason}" for each in problems)
        )
    return usable, made, problems


def _normal(formula: str | None) -> str | None:
    """A formula as that of a crystal is written."""
    if formula is None:
        return None
    return elements.format_formula(elements.parse_formula(formula))


def _require_known(formula: str, vocabulary: dict[str, Any], max_sites: int) -> None:
    """Raises UserError if the model cannot make a formula."""
    problem = conditions.find_formula_problem(
        elements.parse_formula(formula), vocabulary, max_sites
    )
    if problem:
        raise errors.UserError(f"{formula} has {problem}")
