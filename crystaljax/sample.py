r"""Samples crystals of given composition, space group, formation energy.

    crystaljax sample --formulas=TaB2,Li2O,BaTiO3 --output=samples
    crystaljax sample --workdir=runs/smoke --formulas=Cu3Au1,Ni2Pt2 \
        --space_groups=seen --energies=-0.05:0.05:0.01 --num_samples=4 \
        --output=samples

The first asks the model of the package, the second one of your own. Every combination
of formula, space group and energy is sampled ``--num_samples`` times. Models of orbits
(configs/symmetric.py), as that of the package, choose space groups and energies
themselves where they are not named.

    --formulas=TaWB6,Ta1W2B5 --formula_units=1,2
        cells: each formula with one and two formula units. A unit is the formula as it
        is written; TaWB6 and Ta1W1B6 are the same.
    --chemical_systems=Ta-W-B --max_atoms=8
        all cells of up to 8 atoms that have every one of these elements, Ta2W2B2 as
        well as Ta1W1B1; with --formula_units=1 the reduced formulas only.
    --space_groups=221,P6_3/mmc
        or all, or seen: those of the training structures; or likely: the model says.
    --energies=-0.3,-0.05:0.05:0.01
        formation energies, eV/atom: values and ranges with both ends; or low: what the
        formula is likely to have.
    --wyckoff='Ta:a B:d'
        positions that the elements fill, for those who know them (model of orbits).
    --energies=hull-0.2:hull:0.01 --hull=entries.csv
        relative to the convex hull of these entries at each formula's composition; the
        column requested_energy_above_hull of the table then says how far above it. A
        CSV has the columns formula and formation_energy; dataset:PATH, pymatgen's JSON
        and aflow are read too.
    --draws=8
        eight draws of each sample; the one is handed over that fits best by what the
        model itself estimates its energy to be, column estimated_energy.
    --judge=sevenn --draws=8
        eight draws of each sample, relaxed in batches; the one that fits best is handed
        over. The table has its formation energy, judged_energy.
    --template=my.cif --keep=Co,O --num_samples=4
        what is kept stays where it is, in the template's cell; the rest is generated,
        here whatever else is in my.cif. With --formulas=LiCoO2 it is what that has more
        than the kept sites: lithium, if these are a host of Co and O.
    --infeasible=drop
        leaves out formulas that cannot have a space group, since their sites do not
        fill its Wyckoff positions. By default they are sampled, and the column feasible
        of the table is false.

The output folder holds ``samples.extxyz`` (conditions in ``info``), the crystals as
CIFs, and ``samples.csv`` and ``samples.parquet`` with one row per sample; requests
larger than ``--shard_size`` are written in shards as they are made. The same command
again goes on where it was interrupted.
"""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from crystaljax import command_line
from crystaljax.sampling import options as sampling_options
from crystaljax.system import errors
from crystaljax.system import options as options_lib

# JAX takes a second to import, and --help does without it.
if TYPE_CHECKING:
    import crystaljax.sampling.formula_requests
    import crystaljax.sampling.requests
    import crystaljax.sampling.samples


@options_lib.frozen
class SampleOptions(sampling_options.SamplingOptions):
    """What to sample."""

    formulas: tuple[str, ...] = options_lib.option(
        "Formulas of the cells, such as Cu3Au1,NiPt.", default=()
    )
    chemical_systems: tuple[str, ...] = options_lib.option(
        "All cells with exactly these elements, such as Ta-W-B, up to `max_atoms=`.",
        default=(),
    )
    formula_units: str = options_lib.option(
        "Formula units of a cell, such as 1,2 or 1:4; 1 by default, and all that "
        "`max_atoms=` allows for chemical systems. 'likely' leaves the number to a "
        "model of orbits, for formulas such as TiO2 (Ti2O4 stays as it is).",
        default="",
    )
    max_atoms: int | None = options_lib.option(
        "Atoms of the cells of chemical systems, at most.", default=None, lower=1
    )
    space_groups: str | None = options_lib.option(
        f"{sampling_options.SPACE_GROUPS} 'likely' leaves them to a model of orbits, "
        "whose default it is; that of others is 'seen'.",
        default=None,
    )
    energies: str | None = options_lib.option(
        "Formation energies, eV/atom: values and ranges start:stop:step (both ends "
        "included), such as -0.3,-0.05:0.05:0.01; relative to `hull=` such as "
        "hull+0.05,hull-0.2:hull:0.01. 'low' is what the formula is likely to have, "
        "the default of a model of orbits; that of others is 0.",
        default=None,
    )
    wyckoff: str = options_lib.option(
        "Positions that the elements fill, such as 'Ta:a B:d' (model of orbits; one "
        "formula type and space group).",
        default="",
    )
    hull: str | None = options_lib.option(
        "Entries of the hull: FILE.csv (formula, formation_energy), pymatgen's "
        "FILE.json, dataset:PATH, builtin or aflow.",
        default=None,
    )
    hull_energy_model: str | None = options_lib.option(
        "What computed the energies of `hull=`, where it does not say.", default=None
    )
    num_samples: int = options_lib.option(
        "Samples of each combination.", default=1, lower=1
    )
    judge: str | None = options_lib.option(
        "Relax several draws of each sample (`draws=`, 4 by default) with this "
        "calculator, such as sevenn or emt, and hand over the relaxed crystal whose "
        "formation energy is nearest to the one requested, or the lowest with "
        "`energies=low`. 'crystaljax screen --help' names calculators; SevenNet, "
        "Nequix and EMT run in batches. 'estimator', the judge of models of orbits "
        "where `draws=` alone is given, is the model's own and relaxes nothing.",
        default=None,
    )
    template: str | None = options_lib.option(
        "A crystal (CIF, POSCAR, extxyz) of which a part stays where it is, see "
        "`keep=`; the rest of `formulas=`, by default of its own formula, is made.",
        default=None,
    )
    keep: str = options_lib.option(
        "Sites of `template=` that are kept: elements (Ta,W), numbers from 0 "
        "(0,3,8:11), a column of an extxyz file (fixed, or tags:1), or all.",
        default="",
    )
    lattice: str = options_lib.option(
        "What becomes of the lattice of `template=`: it stays, is scaled to another "
        "volume, or is generated too.",
        default="kept",
        choices=("kept", "scaled", "free"),
    )
    infeasible: str = options_lib.option(
        "Formulas whose sites cannot fill Wyckoff positions of a space group: 'mark' "
        "samples and marks them, 'drop' leaves them out, 'keep' does not look.",
        default="mark",
        choices=("mark", "drop", "keep"),
    )


@options_lib.frozen
class _Output(sampling_options.OutputOptions):
    """Where and how samples are written."""

    output: str = options_lib.option(
        "Folder to write. The same command again resumes what was interrupted."
    )


def sample(
    options: SampleOptions, *, show_progress: bool = False
) -> "crystaljax.sampling.samples.Samples":
    """Checks the conditions, then samples, all in memory.

    Raises:
        FileNotFoundError: no run or checkpoint.
        ValueError: see `build_request`; before anything is computed.
    """
    from crystaljax.sampling import requests

    return requests.make_samples(build_request(options), show_progress=show_progress)


def build_request(options: SampleOptions) -> "crystaljax.sampling.requests.Request":
    """Checks the conditions.

    Raises:
        FileNotFoundError: no run, or no entries of a hull.
        ValueError: no formulas, or unreadable ones; an element that the model never
            saw, a formula too large for it, a space group outside 1-230, unreadable
            energies or hull, nothing that can exist, a model that modifies crystals, or
            an unknown judge.
    """
    if options.judge is not None:
        return _request_judged(options, options.judge)
    from crystaljax.models import build
    from crystaljax.sampling import build as build_sampling
    from crystaljax.sampling import formula_requests, judging
    from crystaljax.training import model_files, runs

    workdir = model_files.resolve(options.workdir, options.model, model_files.DEFAULT)
    config = runs.load_config(workdir)
    if build.is_of_orbits(config) and (options.draws or 1) > 1:
        return _request_judged(options, judging.ESTIMATOR)
    config = build_sampling.override_sampler(config, options)
    if build.is_modification(config):
        raise errors.UserError(
            f"{workdir} holds a model that modifies crystals; give it some with "
            "`crystaljax modify --input=…`, or sample from a model of the "
            "generation task"
        )
    vocabulary = runs.load_vocabulary(workdir)
    asked_groups = options.space_groups
    options = _with_defaults(options, build.is_of_orbits(config))
    wanted, wording = _wanted(options), _wording(options)
    if options.template is not None:
        # It brings spglib.
        from crystaljax.sampling import kept_requests

        # Left open, they are those that the kept sites allow.
        wording["space_groups"] = asked_groups
        kept = kept_requests.Wanted(
            options.template, options.keep, options.lattice, wanted
        )
        return kept_requests.build_request(kept, workdir, config, vocabulary, wording)
    if options.keep or options.lattice != "kept":
        raise errors.UserError(
            "`keep=` and `lattice=` are of a template; give one with `template=my.cif`"
        )
    return formula_requests.build_request(wanted, workdir, config, vocabulary, wording)


def _request_judged(
    options: SampleOptions, calculator: str
) -> "crystaljax.sampling.requests.Request":
    """The request for several draws of each sample, and for the best of them."""
    from crystaljax.models import build
    from crystaljax.sampling import build as build_sampling
    from crystaljax.sampling import judging, orbit_conditions

    if options.template is not None and calculator == judging.ESTIMATOR:
        # There may be fewer answers than draws, too.
        raise errors.UserError(
            f"draws is {options.draws}, which chooses among answers by their estimated "
            "energies, and these do not tell places beside kept sites apart; ask for "
            "several with `num_samples=`, and screen them"
        )
    if options.template is not None:
        raise errors.UserError(
            f"judge is {calculator!r}, which relaxes crystals: the kept sites of the "
            "template would move; leave `judge=` out"
        )
    num_draws = judging.DEFAULT_DRAWS if options.draws is None else options.draws
    drawn = build_request(
        dataclasses.replace(
            options,
            judge=None,
            draws=1,
            num_samples=num_draws * options.num_samples,
        )
    )
    if build_sampling.is_deterministic(drawn.config):
        raise errors.UserError(
            f"judge is {calculator!r}, but this model has one answer to a question; "
            "leave `judge=` out"
        )
    options = _with_defaults(options, build.is_of_orbits(drawn.config))
    judge = judging.Judge(
        calculator, num_draws, options.energies == orbit_conditions.LOW
    )
    judge.provenance()  # knows the calculator
    asked = dataclasses.replace(drawn, wording=_wording(options))
    return asked.judged_by(judge, options.num_samples)


def _with_defaults(options: SampleOptions, of_orbits: bool) -> SampleOptions:
    """What is not said depends on what the model can say itself."""
    from crystaljax.sampling import orbit_conditions

    left = {
        "--space_groups=likely": options.space_groups == orbit_conditions.LIKELY,
        "--energies=low": options.energies == orbit_conditions.LOW,
        "--wyckoff": bool(options.wyckoff),
        "--formula_units=likely": options.formula_units == orbit_conditions.LIKELY,
    }
    asked = [flag for flag, is_asked in left.items() if is_asked]
    if asked and not of_orbits:
        raise errors.UserError(
            f"{' and '.join(asked)} can be asked of a model of orbits "
            "(configs/symmetric.py), and this is another; name space groups, "
            "energies and numbers"
        )
    defaults = ("likely", "low") if of_orbits else ("seen", "0")
    groups, energies = (
        default if value is None else value
        for value, default in zip(
            (options.space_groups, options.energies), defaults, strict=True
        )
    )
    return dataclasses.replace(options, space_groups=groups, energies=energies)


def _wanted(
    options: SampleOptions,
) -> "crystaljax.sampling.formula_requests.Wanted":
    """What is asked of any model; of options from `_with_defaults`."""
    from crystaljax.sampling import formula_requests

    assert options.space_groups is not None and options.energies is not None
    return formula_requests.Wanted(
        formulas=options.formulas,
        chemical_systems=options.chemical_systems,
        formula_units=options.formula_units,
        max_atoms=options.max_atoms,
        space_groups=options.space_groups,
        energies=options.energies,
        hull=options.hull,
        hull_energy_model=options.hull_energy_model,
        wyckoff=options.wyckoff,
        infeasible=options.infeasible,
        num_samples=options.num_samples,
        seed=options.seed,
        batch_size=options.batch_size,
        checkpoint=options.checkpoint,
    )


def _wording(options: SampleOptions) -> dict[str, Any]:
    """What was requested, as the user said it."""
    shared = {
        each.name for each in dataclasses.fields(sampling_options.SamplingOptions)
    }
    if options.judge is None:
        # Folders that were made before there was one are the same.
        shared.add("judge")
    if options.template is None:
        shared |= {"template", "keep", "lattice"}
    asked = dataclasses.asdict(options)
    return {name: value for name, value in asked.items() if name not in shared}


def _run(chosen: SampleOptions, output: _Output) -> None:
    from crystaljax.sampling import requests

    requests.write_request(
        build_request(chosen),
        output.output,
        cifs=output.cifs,
        table_cifs=output.table_cifs,
        shard_size=output.shard_size,
        overwrite=output.overwrite,
    )


COMMAND = command_line.Command(
    "sample",
    __doc__,
    (SampleOptions, _Output),
    _run,
    renamed={"candidates": "draws"},
    goes_on="the same command goes on from here",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line; ``arguments`` are those of the process if None."""
    command_line.run(COMMAND, arguments)


if __name__ == "__main__":
    main()
