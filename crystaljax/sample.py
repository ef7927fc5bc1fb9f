"""Samples crystals with a wanted composition, space group and formation energy.

    python -m crystaljax.sample --workdir=runs/smoke --formulas=Cu3Au1,Ni2Pt2 \
        --space_groups=seen --energies=-0.05:0.05:0.01 --num_samples=4 \
        --output=samples

Every combination of formula, space group and energy is sampled ``--num_samples`` times.

    --formulas=TaWB6,Ta1W2B5 --formula_units=1,2
        cells: each formula with one and two formula units. A unit is the formula as it
        is written; TaWB6 and Ta1W1B6 are the same.
    --chemical_systems=Ta-W-B --max_atoms=8
        all cells of up to 8 atoms that have every one of these elements, Ta2W2B2 as
        well as Ta1W1B1; with --formula_units=1 the reduced formulas only.
    --space_groups=221,P6_3/mmc
        or all, or seen: those of the training structures.
    --energies=-0.3,-0.05:0.05:0.01
        formation energies, eV/atom: values and ranges with both ends.
    --energies=hull-0.2:hull:0.01 --hull=entries.csv
        relative to the convex hull of these entries at each formula's composition; the
        column energy_above_hull_asked of the table then says how far above it. A CSV
        has the columns formula and formation_energy; dataset:PATH, pymatgen's JSON and
        aflow are read too.
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
import pathlib
from typing import TYPE_CHECKING, Any

from absl import flags

from crystaljax import command_line
from crystaljax.system import errors

# JAX takes a second to import, and --help does without it.
if TYPE_CHECKING:
    import numpy as np

    import crystaljax.sampling.conditions
    import crystaljax.sampling.requests


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleOptions(command_line.SamplingOptions):
    """What to sample; see the flags of the command.

    Attributes:
        formulas: of the cells, such as ("Cu3Au1",).
        chemical_systems: such as ("Ta-W-B",), beside the formulas or in their place.
        formula_units: such as "1,2" or "1:4"; see `formulas.expand_formulas`.
        max_atoms: of the cells of chemical systems.
        space_groups: "all", "seen", or numbers and symbols, comma-separated.
        energies: formation energies in eV/atom: values and ranges start:stop:step,
            relative to the hull as in "hull-0.2:hull:0.01".
        hull: where the hull's entries are; see `entries.read_entries`.
        hull_energy_model: what computed their energies, where they do not say.
        num_samples: samples of each combination.
        infeasible: what to do with combinations of formula and space group that cannot
            exist: "mark", "drop" or "keep"; see `conditions.judge_feasibility`.
    """

    formulas: tuple[str, ...] = ()
    chemical_systems: tuple[str, ...] = ()
    formula_units: str = ""
    max_atoms: int | None = None
    space_groups: str = "seen"
    energies: str = "0"
    hull: str | None = None
    hull_energy_model: str | None = None
    num_samples: int = 1
    infeasible: str = "mark"


def sample(
    options: SampleOptions, *, show_progress: bool = False
) -> "crystaljax.sampling.requests.Samples":
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
            energies or hull, nothing that can exist, or a model that modifies crystals.
    """
    from crystaljax.crystals import structure
    from crystaljax.models import build
    from crystaljax.sampling import build as build_sampling
    from crystaljax.sampling import requests
    from crystaljax.training import runs

    workdir = pathlib.Path(options.workdir)
    config = build_sampling.override_sampler(
        runs.load_config(workdir),
        options.num_steps,
        options.eta,
        options.sampler,
        options.preset,
        options.candidates,
    )
    if build.is_modification(config):
        raise errors.UserError(
            f"{workdir} holds a model that modifies crystals; give it some with "
            "`python -m crystaljax.modify --input=…`, or sample from a model of the "
            "generation task"
        )
    vocabulary = runs.load_vocabulary(workdir)
    asked, columns, notes = _ask(
        options, vocabulary, structure.max_sites(config.data.rows)
    )
    return requests.Request(
        workdir=workdir,
        config=config,
        conditions=asked,
        wording=_wording(options),
        notes=notes,
        seed=options.seed,
        batch_size=options.batch_size,
        checkpoint=options.checkpoint,
        columns=columns,
    )


def _ask(
    options: SampleOptions, vocabulary: dict[str, Any], sites: int
) -> tuple[
    "crystaljax.sampling.conditions.Conditions", dict[str, "np.ndarray"], list[str]
]:
    """Conditions, further columns of the table, and notes."""
    from crystaljax.sampling import conditions, formulas, requested_energies

    cells = formulas.expand_formulas(
        options.formulas,
        options.chemical_systems,
        formula_units=options.formula_units,
        max_atoms=options.max_atoms,
    )
    for formula in cells:
        conditions.check_formula(formula, vocabulary, sites)
    space_groups = conditions.parse_space_groups(options.space_groups, vocabulary)
    feasibility = conditions.judge_feasibility(cells, space_groups, options.infeasible)
    wanted = feasibility.wanted
    resolved = requested_energies.resolve_energies(
        options.energies,
        cells,
        vocabulary,
        hull_spec=options.hull,
        hull_energy_model=options.hull_energy_model,
    )
    num_samples = options.num_samples
    asked = conditions.combine(
        cells, space_groups, resolved.values, num_samples, sites, wanted=wanted
    )
    columns = feasibility.columns(resolved.values.shape[1], num_samples)
    if resolved.above_hull is not None:
        # One row per combination of formula and space group; energies vary fastest.
        above = resolved.above_hull[wanted.nonzero()[0]].ravel()
        columns["energy_above_hull_asked"] = above.repeat(num_samples)
    notes = feasibility.notes + resolved.notes
    return asked, columns, notes + conditions.outside_training(asked, vocabulary)


def _wording(options: SampleOptions) -> dict[str, Any]:
    """What was asked for, as the user said it."""
    shared = {each.name for each in dataclasses.fields(command_line.SamplingOptions)}
    asked = dataclasses.asdict(options)
    return {name: value for name, value in asked.items() if name not in shared}


def main() -> None:
    """Command line."""
    defaults = SampleOptions(workdir="")
    values = {
        "workdir": flags.DEFINE_string(
            "workdir", None, "Run directory to sample from."
        ),
        "formulas": flags.DEFINE_list(
            "formulas", [], "Formulas of the cells, such as Cu3Au1,NiPt."
        ),
        "chemical_systems": flags.DEFINE_list(
            "chemical_systems",
            [],
            "All cells with exactly these elements, such as Ta-W-B, up to --max_atoms.",
        ),
        "formula_units": flags.DEFINE_string(
            "formula_units",
            defaults.formula_units,
            "Formula units of a cell, such as 1,2 or 1:4; 1 by default, and all that "
            "--max_atoms allows for chemical systems.",
        ),
        "max_atoms": flags.DEFINE_integer(
            "max_atoms", None, "Atoms of the cells of chemical systems, at most.", 1
        ),
        "energies": flags.DEFINE_string(
            "energies",
            defaults.energies,
            "Formation energies, eV/atom: values and ranges start:stop:step (both ends "
            "included), such as -0.3,-0.05:0.05:0.01; relative to --hull such as "
            "hull+0.05,hull-0.2:hull:0.01.",
        ),
        "hull": flags.DEFINE_string(
            "hull",
            None,
            "Entries of the hull: FILE.csv (formula, formation_energy), pymatgen's "
            "FILE.json, dataset:PATH, builtin or aflow.",
        ),
        "hull_energy_model": flags.DEFINE_string(
            "hull_energy_model",
            None,
            "What computed the energies of --hull, where it does not say.",
        ),
        "infeasible": flags.DEFINE_enum(
            "infeasible",
            defaults.infeasible,
            ["mark", "drop", "keep"],
            "Formulas whose sites cannot fill Wyckoff positions of a space group: "
            "'mark' samples and marks them, 'drop' leaves them out, 'keep' does not "
            "look.",
        ),
    }
    values |= command_line.define_request_flags(
        defaults.space_groups, defaults.num_samples, defaults.seed
    )
    values |= command_line.define_sampler_flags()
    output, written = command_line.define_output_flags()
    flags.mark_flags_as_required(["workdir", "output"])

    def command():
        from crystaljax.sampling import requests

        chosen = {name: flag.value for name, flag in values.items()}
        for name in ("formulas", "chemical_systems"):
            chosen[name] = tuple(chosen[name])
        requests.write_request(
            build_request(SampleOptions(**chosen)),
            output.value,
            **{name: flag.value for name, flag in written.items()},
        )

    command_line.run(command)


if __name__ == "__main__":
    main()
