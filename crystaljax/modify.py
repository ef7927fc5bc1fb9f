r"""Turns crystals into candidates for more stable polymorphs.

    crystaljax modify my.cif
    crystaljax modify my.cif --decorate=Ta:Nb
    crystaljax modify --workdir=runs/modify_cfm --input=my.cif \
        --energy_difference=-0.05 --space_groups=221,P4/mmm --output=polymorphs

The crystal is a CIF, POSCAR or extxyz file, or a folder of them. The first asks the
model of the package for the formula of the crystal, in the space groups and at the
lowest energy that it finds likely; supercells and conventional cells are reduced. The
second asks for the same with another element, and makes the prototype of my.cif with
that element too. The third asks a model of the modification task of one's own.

Every combination of crystal, space group and energy difference is sampled
``--num_samples`` times. The column ``same_as_input`` says which candidates are the
crystal again. Where a model estimates energies, ``estimated_difference`` is that of the
candidate less that of the crystal, and the table is in its order. The output folder is
that of `crystaljax.sample`, with the crystals that were modified beside the samples:
``inputs.extxyz``, and ``inputs/`` with the files as they were.
"""

import dataclasses
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

from crystaljax import command_line
from crystaljax.crystals import elements, inputs, structure, structure_files
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
from crystaljax.sampling import options as sampling_options
from crystaljax.sampling import samples as samples_lib
from crystaljax.system import errors, sharding
from crystaljax.system import options as options_lib
from crystaljax.training import model_files, runs

# Samples of a model of modification that are compared with their sources, which takes
# milliseconds each.
_MAX_COMPARED = 10_000


@options_lib.frozen
class ModifyOptions(sampling_options.SamplingOptions):
    """What to modify."""

    input: str = options_lib.option(
        f"A crystal, or a folder of them: {inputs.FORMATS}. May be given without "
        "--input=.",
        is_positional=True,
    )
    energy_difference: str | None = options_lib.option(
        "Formation energy of the result less that of the input, eV/atom, negative for "
        "a more stable one: values and ranges start:stop:step. Without a value, or as "
        "'lowest', the lowest that is likely: the default of a model of orbits. That "
        "of models of modification is -0.05.",
        default=None,
        bare="lowest",
    )
    decorate: str = options_lib.option(
        "The same prototype with other elements, such as Ta:Nb or Ta:Nb,B:C; several "
        "with ; between them (model of orbits).",
        default="",
    )
    space_groups: str | None = options_lib.option(
        f"{sampling_options.SPACE_GROUPS} 'likely' leaves them to a model of orbits, "
        "whose default it is; that of others is 'seen'.",
        default=None,
    )
    formula: str | None = options_lib.option(
        "Cell formula that the inputs must have; others are left out.", default=None
    )
    num_samples: int | None = options_lib.option(
        "Samples of each combination; 8 by default of a model of orbits, 1 of others.",
        default=None,
        lower=1,
    )
    infeasible: str = options_lib.option(
        "Space groups whose Wyckoff positions an input's sites cannot fill: 'mark' "
        "samples and marks them, 'drop' leaves them out, 'keep' does not look.",
        default="mark",
        choices=conditions.INFEASIBLE,
    )


@options_lib.frozen
class _Output(sampling_options.OutputOptions):
    """Where and how samples are written."""

    output: str | None = options_lib.option(
        "Folder to write; <input>_modified by default. The same command again "
        "resumes what was interrupted.",
        default=None,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Modification:
    """Candidates and what they were made of.

    Attributes:
        samples: the candidates.
        inputs: the crystals that were modified, as their files have them.
        sources: the same crystals in the form that the network was given.
    """

    samples: samples_lib.Samples
    inputs: list[inputs.Input]
    sources: list[structure.Crystal]


def modify(options: ModifyOptions, *, show_progress: bool = False) -> Modification:
    """Checks crystals and conditions, then samples.

    A crystal that cannot be used is left out, and a note of the samples says why.

    Raises:
        FileNotFoundError: no run, checkpoint or input.
        ValueError: see `build_request`; before anything is computed.
    """
    request, usable, sources = build_request(options)
    samples = requests.make_samples(request, show_progress=show_progress)
    return Modification(samples, usable, sources)


def build_request(
    options: ModifyOptions,
) -> tuple[requests.Request, list[inputs.Input], list[structure.Crystal]]:
    """Checks crystals and conditions.

    Returns:
        The request, the crystals that can be used, as their files have them, and the
        same in the form that the network is given.

    Raises:
        FileNotFoundError: no run or input.
        ValueError: none of the crystals can be used, unreadable conditions, or a model
            that does not modify crystals.
    """
    workdir = model_files.resolve(options.workdir, options.model, model_files.DEFAULT)
    config = build_sampling.override_sampler(runs.load_config(workdir), options)
    if not build.is_modification(config):
        if build.is_of_orbits(config):
            return _request_orbits(options, workdir, config)
        raise errors.UserError(
            f"{workdir} holds a model that generates crystals from conditions alone; "
            "use it with `crystaljax sample`, or train one of "
            "configs/modify_*.py"
        )
    if options.decorate or options.space_groups == orbit_conditions.LIKELY:
        raise errors.UserError(
            "`decorate=` and --space_groups=likely can be asked of a model of orbits, "
            "such as that of the package, and this is another; leave them out"
        )
    options = dataclasses.replace(
        options,
        energy_difference=options.energy_difference or "-0.05",
        space_groups=options.space_groups or "seen",
        num_samples=options.num_samples or 1,
    )
    assert options.energy_difference and options.space_groups and options.num_samples
    vocabulary = runs.load_vocabulary(workdir)
    sites = structure.max_sites(config.data.rows)
    space_groups = conditions.parse_space_groups(options.space_groups, vocabulary)
    differences = _differences(options.energy_difference, vocabulary)

    usable, sources, problems = _prepare(options, vocabulary, sites)
    if not usable:
        raise _nothing_left(problems)
    num_samples = options.num_samples
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
            options.infeasible,
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
            "input": options.input,
            "crystals": [each.name for each in usable],
            "energy_difference": options.energy_difference,
            "space_groups": options.space_groups,
            "formula": options.formula,
            "num_samples": options.num_samples,
            "infeasible": options.infeasible,
        },
        notes=notes,
        seed=options.seed,
        batch_size=options.batch_size,
        checkpoint=options.checkpoint,
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


def _request_orbits(
    options: ModifyOptions, workdir: pathlib.Path, config: Any
) -> tuple[requests.Request, list[inputs.Input], list[structure.Crystal]]:
    """The request to a model of orbits."""
    vocabulary = runs.load_vocabulary(workdir)
    shape = build.orbit_shapes(config)[-1]
    model = wyckoff_files.load(workdir / runs.POSITIONS, runs.REMEDY)
    scale = scaling.load_scaling(workdir / "scaling.json")
    groups = None
    if options.space_groups not in (None, orbit_conditions.LIKELY):
        groups = conditions.parse_space_groups(str(options.space_groups), vocabulary)
    wanted = polymorphs.Wanted(
        energy_difference=options.energy_difference or polymorphs.LOWEST,
        space_groups=groups,
        num_samples=options.num_samples or 8,
        seed=options.seed,
        follow_known=config.sampler.follow_known,
    )
    replacements = decorations.parse(options.decorate) or [{}]
    found, problems = inputs.read_inputs(options.input)
    usable: list[inputs.Input] = []
    sources: list[polymorph_sources.Source] = []
    notes: list[str] = []
    for each in found:
        try:
            source, note = polymorph_sources.standardise(each, scale)
            made = [decorations.decorate(source, new) for new in replacements]
            for decorated in made:
                _check(options, source, decorated, vocabulary)
        except ValueError as error:
            problems.append(inputs.Unreadable(each.name, str(error)))
            continue
        notes += [note] if note else []
        usable.append(each)
        sources += made
    if not usable:
        raise _nothing_left(problems)
    asked = polymorphs.ask(model, scale, sources, wanted, shape)
    notes += [f"left out {each.name}: {each.reason}" for each in problems]
    notes += asked.notes
    request = requests.Request(
        workdir=workdir,
        config=config,
        conditions=asked.conditions,
        wording={
            "input": options.input,
            "crystals": [each.name for each in usable],
            "energy_difference": wanted.energy_difference,
            "space_groups": options.space_groups or orbit_conditions.LIKELY,
            "formula": options.formula,
            "num_samples": wanted.num_samples,
            "decorate": options.decorate,
        },
        notes=notes + conditions.outside_training(asked.conditions, vocabulary),
        seed=options.seed,
        batch_size=options.batch_size,
        checkpoint=options.checkpoint,
        columns=asked.columns,
        orbits=asked.requests,
        arrange=polymorphs.arrangement_of(asked),
    )
    return request, usable, [each.cell for each in sources]


def _check(
    options: ModifyOptions,
    source: polymorph_sources.Source,
    made: polymorph_sources.Source,
    vocabulary: dict[str, Any],
) -> None:
    """Raises UserError for what the model cannot be asked about."""
    if options.formula is not None:
        counts = elements.parse_formula(options.formula)
        wanted = elements.format_formula(counts)
        if wanted != source.formula:
            raise errors.UserError(
                f"its primitive cell is {source.formula}, but {wanted} was requested; "
                "give a crystal of that formula, or leave --formula out"
            )
    numbers = made.cell.atomic_numbers
    problem = conditions.find_formula_problem(
        elements.parse_formula(made.formula), vocabulary, len(numbers)
    )
    if problem:
        raise errors.UserError(f"{made.formula} has {problem}")


def _nothing_left(problems: Sequence[inputs.Unreadable]) -> errors.UserError:
    return errors.UserError(
        "no crystal can be modified:\n  "
        + "\n  ".join(f"{each.name}: {each.reason}" for each in problems)
    )


def _prepare(
    options: ModifyOptions, vocabulary: dict[str, Any], sites: int
) -> tuple[list[inputs.Input], list[structure.Crystal], list[inputs.Unreadable]]:
    """Inputs that can be used, the same in the model's form, and all others."""
    wanted = None
    if options.formula is not None:
        wanted = elements.format_formula(elements.parse_formula(options.formula))
    form = reading.CanonicalForm(
        vocabulary.get("canonical", "site"), vocabulary.get("primitive", False)
    )
    found, problems = inputs.read_inputs(options.input)
    usable: list[inputs.Input] = []
    sources: list[structure.Crystal] = []
    for each in found:
        try:
            source = reading.canonical_form(each.crystal, form)
        except ValueError as error:
            problems.append(inputs.Unreadable(each.name, str(error)))
            continue
        formula = elements.cell_formula(source.atomic_numbers)
        problem = conditions.find_formula_problem(
            elements.parse_formula(formula), vocabulary, sites
        )
        if wanted is not None and formula != wanted:
            reason = (
                f"its cell is {formula}, but {wanted} was requested; modification "
                "keeps the composition: give a crystal of that formula, or leave "
                "--formula out"
            )
            problems.append(inputs.Unreadable(each.name, reason))
        elif problem:
            problems.append(inputs.Unreadable(each.name, f"{formula} has {problem}"))
        else:
            usable.append(each)
            sources.append(source)
    return usable, sources, problems


def write_inputs(
    crystals: Sequence[inputs.Input],
    output: str | pathlib.Path,
    *,
    overwrite: bool = False,
) -> None:
    """Writes ``inputs.extxyz`` and copies the files as they are to ``inputs/``.

    Raises:
        FileExistsError: they are there and ``overwrite`` is False.
    """
    output = pathlib.Path(output)
    infos: list[dict[str, Any]] = [
        {"name": each.name, "file": each.path.name} for each in crystals
    ]
    structure_files.write_extxyz(
        output / "inputs.extxyz",
        [each.crystal for each in crystals],
        infos,
        overwrite=overwrite,
    )
    folder = output / "inputs"
    folder.mkdir(exist_ok=overwrite)
    for path in {each.path for each in crystals}:
        target = folder / path.name
        if not (target.exists() and target.samefile(path)):
            shutil.copyfile(path, target)


def _run(chosen: ModifyOptions, output: _Output) -> None:
    folder = output.output or f"{pathlib.Path(chosen.input).stem}_modified"
    request, usable, _ = build_request(chosen)
    requests.write_request(
        request,
        folder,
        cifs=output.cifs,
        table_cifs=output.table_cifs,
        shard_size=output.shard_size,
        overwrite=output.overwrite,
    )
    if sharding.is_first_process():
        # The folder is this request's: what is there of them is the same.
        write_inputs(usable, folder, overwrite=True)


COMMAND = command_line.Command(
    "modify",
    __doc__,
    (ModifyOptions, _Output),
    _run,
    renamed={"candidates": "draws"},
    goes_on="the same command goes on from here",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line; ``arguments`` are those of the process if None."""
    command_line.run(COMMAND, arguments)


if __name__ == "__main__":
    main()
