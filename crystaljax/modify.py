r"""Turns crystals into candidates for more stable polymorphs.

    crystaljax modify --workdir=runs/modify_cfm --input=my.cif \
        --energy_difference=-0.05 --space_groups=221,P4/mmm --output=polymorphs

``--input`` is a CIF, POSCAR or extxyz file, or a folder of them. Every combination of
crystal, space group and energy difference is sampled ``--num_samples`` times; where the
sites cannot fill Wyckoff positions of the group, the column ``feasible`` is false
(``--infeasible=drop`` leaves these out). The output folder is that of
`crystaljax.sample`, with the crystals that were modified beside the samples:
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
from crystaljax.models import build
from crystaljax.sampling import build as build_sampling
from crystaljax.sampling import conditions, requested_energies, requests
from crystaljax.sampling import options as sampling_options
from crystaljax.sampling import samples as samples_lib
from crystaljax.system import errors, sharding
from crystaljax.system import options as options_lib
from crystaljax.training import model_files, runs


@options_lib.frozen
class ModifyOptions(sampling_options.SamplingOptions):
    """What to modify."""

    input: str = options_lib.option(
        f"A crystal, or a folder of them: {inputs.FORMATS}."
    )
    energy_difference: str = options_lib.option(
        "Formation energy of the result less that of the input, eV/atom, negative for "
        "a more stable one: values and ranges start:stop:step.",
        default="-0.05",
    )
    space_groups: str = options_lib.option(
        sampling_options.SPACE_GROUPS, default="seen"
    )
    formula: str | None = options_lib.option(
        "Cell formula that the inputs must have; others are left out.", default=None
    )
    num_samples: int = options_lib.option(
        "Samples of each combination.", default=1, lower=1
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
    workdir = model_files.resolve(options.workdir, options.model)
    config = build_sampling.override_sampler(runs.load_config(workdir), options)
    if not build.is_modification(config):
        raise errors.UserError(
            f"{workdir} holds a model that generates crystals from conditions alone; "
            "use it with `crystaljax sample`, or train one of "
            "configs/modify_*.py"
        )
    vocabulary = runs.load_vocabulary(workdir)
    sites = structure.max_sites(config.data.rows)
    space_groups = conditions.parse_space_groups(options.space_groups, vocabulary)
    differences = requested_energies.parse_differences(options.energy_difference)

    usable, sources, problems = _prepare(options, vocabulary, sites)
    if not usable:
        raise errors.UserError(
            "no crystal can be modified:\n  "
            + "\n  ".join(f"{each.name}: {each.reason}" for each in problems)
        )
    num_samples = options.num_samples
    notes = [f"left out {each.name}: {each.reason}" for each in problems]
    if num_samples > 1 and build_sampling.is_deterministic(config):
        notes.append(
            f"this method has one answer to each condition, so that one sample is made "
            f"instead of {num_samples}; ask for more space groups or energy "
            "differences, or use a model of configs/modify_diffusion.py"
        )
        num_samples = 1
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
    return request, usable, sources


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
