"""Samples crystals with a wanted composition, space group and formation energy.

    python -m crystaljax.sample --workdir=runs/smoke --formulas=Cu3Au1,Ni2Pt2 \
        --space_groups=seen --energies=-0.05:0.05:0.01 --num_samples=4 \
        --output=samples

Every combination is sampled ``--num_samples`` times. The output folder holds
``samples.extxyz`` (conditions in ``info``), the crystals as CIFs, and
``samples.csv`` and ``samples.parquet`` with one row per sample; requests larger than
``--shard_size`` are written in shards as they are made. The same command again goes on
where it was interrupted.
"""

import dataclasses
import pathlib
from typing import TYPE_CHECKING

from absl import flags

from crystaljax import command_line

# JAX takes a second to import, and --help does without it.
if TYPE_CHECKING:
    import crystaljax.samples


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleOptions(command_line.SamplingOptions):
    """What to sample; see the flags of the command.

    Attributes:
        formulas: of the cells, such as ("Cu3Au1",).
        space_groups: "all", "seen", or numbers and symbols, comma-separated.
        energies: formation energies in eV/atom: values and ranges start:stop:step.
        num_samples: samples of each combination.
    """

    formulas: tuple[str, ...]
    space_groups: str = "seen"
    energies: str = "0"
    num_samples: int = 1


def sample(
    options: SampleOptions, *, show_progress: bool = False
) -> "crystaljax.samples.Samples":
    """Checks the conditions, then samples, all in memory.

    Raises:
        FileNotFoundError: no run or checkpoint.
        ValueError: see `build_request`; before anything is computed.
    """
    from crystaljax import samples

    return samples.make_samples(build_request(options), show_progress=show_progress)


def build_request(options: SampleOptions) -> "crystaljax.samples.Request":
    """Checks the conditions.

    Raises:
        FileNotFoundError: no run.
        ValueError: an element that the model never saw, a formula too large for it, a
            space group outside 1-230, unreadable energies, or a model that modifies
            crystals.
    """
    from crystaljax import build, build_sampling, conditions, runs, samples, structure

    workdir = pathlib.Path(options.workdir)
    config = build_sampling.override_sampler(
        runs.load_config(workdir),
        options.num_steps,
        options.eta,
        options.sampler,
        options.preset,
    )
    if build.is_modification(config):
        raise ValueError(
            f"{workdir} holds a model that modifies crystals; give it some with "
            "`python -m crystaljax.modify --input=…`, or sample from a model of the "
            "generation task"
        )
    vocabulary = runs.load_vocabulary(workdir)
    sites = structure.max_sites(config.data.rows)
    for formula in options.formulas:
        conditions.check_formula(formula, vocabulary, sites)
    asked = conditions.combine(
        options.formulas,
        conditions.parse_space_groups(options.space_groups, vocabulary),
        conditions.parse_energies(options.energies),
        options.num_samples,
        sites,
    )
    return samples.Request(
        workdir=workdir,
        config=config,
        conditions=asked,
        wording={
            "formulas": options.formulas,
            "space_groups": options.space_groups,
            "energies": options.energies,
            "num_samples": options.num_samples,
        },
        notes=conditions.outside_training(asked, vocabulary),
        seed=options.seed,
        batch_size=options.batch_size,
        checkpoint=options.checkpoint,
    )


def main() -> None:
    """Command line."""
    defaults = SampleOptions(workdir="", formulas=())
    values = {
        "workdir": flags.DEFINE_string(
            "workdir", None, "Run directory to sample from."
        ),
        "formulas": flags.DEFINE_list(
            "formulas", None, "Formulas of the cells, such as Cu3Au1,Ni2Pt2."
        ),
        "energies": flags.DEFINE_string(
            "energies",
            defaults.energies,
            "Formation energies, eV/atom: values and ranges start:stop:step (both ends "
            "included), such as -0.3,-0.05:0.05:0.01.",
        ),
    }
    values |= command_line.define_request_flags(
        defaults.space_groups, defaults.num_samples, defaults.seed
    )
    values |= command_line.define_sampler_flags()
    output, written = command_line.define_output_flags()
    flags.mark_flags_as_required(["workdir", "formulas", "output"])

    def command():
        from crystaljax import samples

        chosen = {name: flag.value for name, flag in values.items()}
        chosen["formulas"] = tuple(chosen["formulas"])
        samples.write_request(
            build_request(SampleOptions(**chosen)),
            output.value,
            **{name: flag.value for name, flag in written.items()},
        )

    command_line.run(command)


if __name__ == "__main__":
    main()
