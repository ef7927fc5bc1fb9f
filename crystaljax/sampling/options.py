"""Options of the commands that sample."""

from crystaljax.system import errors, options

SPACE_GROUPS = (
    "Space groups of the samples: 'all' (1-230), 'seen' (those of the training "
    "structures), or numbers and symbols such as 221,P4/mmm."
)


def parse_batch_size(text: str | int) -> int | str:
    """A positive integer, or "auto".

    Raises:
        UserError: neither.
    """
    if text == "auto":
        return text
    try:
        size = int(text)
    except ValueError:
        size = 0
    if size < 1:
        raise errors.UserError(
            f"expected a positive integer or 'auto', got {str(text)!r}"
        )
    return size


@options.frozen
class RunOptions:
    """Which run is sampled."""

    workdir: str | None = options.option("Run directory of the model.", default=None)
    model: str | None = options.option(
        "Instead of a run directory: a model of the package by name, see `crystaljax "
        "models`, or a folder that `crystaljax export-model` wrote.",
        default=None,
    )
    seed: int = options.option(
        "Seed of the samples, and of what else is drawn.", default=0, lower=0
    )


@options.frozen
class SamplerSettings:
    """How a trained network is sampled, where not as in the config of its run."""

    preset: str | None = options.option(
        "Sampler and network evaluations: 'fast' takes the fewest that cost neither "
        "match rate nor accuracy where it was measured. The flags below change it.",
        default=None,
        choices=("fast",),
    )
    # No choices: which samplers there are depends on the run, and is checked there.
    sampler: str | None = options.option(
        "The config's by default. For diffusion ddpm, ddim or dpm_solver, for flow "
        "matching euler or heun, for regression regression.",
        default=None,
    )
    num_steps: int | None = options.option(
        "Network evaluations; the config's by default.", default=None, lower=1
    )
    eta: float | None = options.option(
        "Noise of DDIM; the config's by default.", default=None, lower=0, upper=1
    )
    draws: int | None = options.option(
        "Crystals drawn for each sample, of which the one that fits the request best "
        "is picked; the config's by default.",
        default=None,
        lower=1,
    )
    follow_known: bool | None = options.option(
        "Models of orbits: a known prototype with the positions of a sample stands in "
        "the place of the network's answer; the config's by default, which does so.",
        default=None,
    )


# The fields of the last base come first.
@options.frozen
class SamplingOptions(SamplerSettings, RunOptions):
    """Which run is sampled, and how: what all commands with a sampler have."""

    batch_size: int | str | None = options.option(
        "Samples at a time, 'auto' for the most that fit into memory; the config's by "
        "default.",
        default=None,
        parse=parse_batch_size,
    )
    checkpoint: int | None = options.option(
        "Step of the checkpoint; the newest by default.", default=None
    )


@options.frozen
class OutputOptions:
    """How samples are written."""

    cifs: str = options.option(
        "How CIFs are written.", default="folder", choices=("folder", "zip", "none")
    )
    table_cifs: bool = options.option(
        "Put the CIF of each crystal into samples.csv too, as the column cif_string, "
        "which LeMat-GenBench and others read.",
        default=False,
    )
    shard_size: int | None = options.option(
        "Samples of a shard: more of them are written as several files, as they are "
        "made; 10,000 by default.",
        default=None,
        lower=1,
    )
    overwrite: bool = options.option(
        "Remove samples of another request in the output folder.", default=False
    )
