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
from crystaljax.crystals import inputs, structure, structure_files
from crystaljax.models import build
from crystaljax.sampling import build as build_sampling
from crystaljax.sampling import (
    conditions,
    orbit_conditions,
    polymorph_requests,
    polymorphs,
    requests,
)
from crystaljax.sampling import options as sampling_options
from crystaljax.sampling import samples as samples_lib
from crystaljax.system import errors, sharding
from crystaljax.system import options as options_lib
from crystaljax.training import model_files, runs


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
            groups = options.space_groups
            groups = orbit_conditions.LIKELY if groups is None else groups
            wanted = _wanted(options, polymorphs.LOWEST, groups, 8)
            return polymorph_requests.of_generator(wanted, workdir, config)
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
    wanted = _wanted(options, "-0.05", options.space_groups or "seen", 1)
    return polymorph_requests.of_modifier(wanted, workdir, config)


def _wanted(
    options: ModifyOptions, energy_difference: str, space_groups: str, num_samples: int
) -> polymorph_requests.Wanted:
    """What is asked of any model.

    Args:
        options: of the command.
        energy_difference: where the options leave it open.
        space_groups: in place of those of the options.
        num_samples: where the options leave it open.
    """
    return polymorph_requests.Wanted(
        input=options.input,
        energy_difference=options.energy_difference or energy_difference,
        decorate=options.decorate,
        space_groups=space_groups,
        formula=options.formula,
        num_samples=options.num_samples or num_samples,
        infeasible=options.infeasible,
        seed=options.seed,
        batch_size=options.batch_size,
        checkpoint=options.checkpoint,
    )


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
