"""What the commands share: flags of sampling, quiet logs, errors as one line.

Imports nothing that takes long, so that --help can be quick.
"""

import dataclasses
import sys
from collections.abc import Callable

from absl import app, flags, logging

from crystaljax.system import errors

# What the package raises for bad input; anything else is a bug and keeps its traceback.
USER_ERRORS = (FileExistsError, FileNotFoundError, FloatingPointError, ValueError)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """Which run is sampled, and how: what all commands with a sampler have.

    Attributes:
        workdir: the run directory.
        seed: of the samples, and of what else is drawn.
        preset: "fast" for the fewest network evaluations that cost nothing; None: as
            in the run's config. What follows changes it.
        sampler: name of the sampler; as in the run's config if None.
        num_steps: network evaluations; as in the run's config if None.
        eta: of DDIM; as in the run's config if None.
        candidates: crystals made for each sample, of which the best is picked; as in
            the run's config if None.
        batch_size: samples at a time; "auto" for the most that fit into memory, as in
            the run's config if None.
        checkpoint: step; the newest if None.
    """

    workdir: str
    seed: int = 0
    preset: str | None = None
    sampler: str | None = None
    num_steps: int | None = None
    eta: float | None = None
    candidates: int | None = None
    batch_size: int | str | None = None
    checkpoint: int | None = None


def run(command: Callable[[], None], *, uses_devices: bool = True) -> None:
    """Parses the flags, then runs ``command``; call it after defining the flags.

    Errors in what the user gave end the program with one line instead of a traceback.

    Args:
        command: what to run.
        uses_devices: whether it computes with JAX; if so, other processes are joined
            and programs compiled before are found.
    """

    def main(argv):
        if len(argv) > 1:
            raise app.UsageError(f"unexpected arguments {argv[1:]}")
        if not flags.FLAGS["verbosity"].present:
            # Orbax reports every file that it touches.
            logging.set_verbosity(logging.ERROR)
        try:
            if uses_devices:
                from crystaljax.system import startup

                startup.initialize_processes()
                startup.enable_compilation_cache()
            command()
        except OSError as error:
            text = errors.describe_disk_error(error)
            if text is None and not isinstance(error, USER_ERRORS):
                raise
            raise SystemExit(f"error: {text or error}") from error
        except USER_ERRORS as error:
            raise SystemExit(f"error: {error}") from error

    # --help shows the flags of the main module; those defined here are as much its own.
    for flag in flags.FLAGS.flags_by_module_dict().get(__name__, []):
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
    app.run(main)


def define_output_flags(
    default: str | None = None,
) -> tuple[flags.FlagHolder, dict[str, flags.FlagHolder]]:
    """Flags of the commands that make crystals: --output, and by name the others.

    Args:
        default: what --output is where it is not given, in words; None: required.
    """
    text = "Folder to write" + (f"; {default} by default." if default else ".")
    text += " The same command again goes on with what is there."
    return flags.DEFINE_string("output", None, text), {
        "cifs": flags.DEFINE_enum(
            "cifs", "folder", ["folder", "zip", "none"], "How CIFs are written."
        ),
        "shard_size": flags.DEFINE_integer(
            "shard_size",
            None,
            "Samples of a shard: more of them are written as several files, as they "
            "are made; 10,000 by default.",
            1,
        ),
        "overwrite": flags.DEFINE_bool(
            "overwrite", False, "Remove samples of another request in --output."
        ),
    }


def define_request_flags(
    space_groups: str, num_samples: int, seed: int
) -> dict[str, flags.FlagHolder]:
    """Flags of both commands that make crystals, by name; arguments are defaults."""
    return {
        "space_groups": flags.DEFINE_string(
            "space_groups",
            space_groups,
            "Of the samples: 'all' (1-230), 'seen' (those of the training structures), "
            "or numbers and symbols such as 221,P4/mmm.",
        ),
        "num_samples": flags.DEFINE_integer(
            "num_samples", num_samples, "Samples of each combination.", 1
        ),
        "seed": flags.DEFINE_integer("seed", seed, "Seed of the samples.", 0),
    }


class _BatchSizeParser(flags.ArgumentParser):
    """A positive integer, or "auto"."""

    syntactic_help = "a positive integer or 'auto'"

    def parse(self, argument):
        """Returns what the flag says."""
        if argument == "auto":
            return argument
        try:
            size = int(argument)
        except ValueError:
            size = 0
        if size < 1:
            raise errors.UserError(
                f"expected a positive integer or 'auto', got {argument!r}"
            )
        return size


def define_sampler_flags() -> dict[str, flags.FlagHolder]:
    """Flags that every command with a sampler has, by name."""
    return {
        "preset": flags.DEFINE_enum(
            "preset",
            None,
            ["fast"],
            "Sampler and network evaluations: 'fast' takes the fewest that cost "
            "neither match rate nor accuracy where it was measured.",
        ),
        # Not an enum: which names there are depends on the run, and is checked there.
        "sampler": flags.DEFINE_string(
            "sampler",
            None,
            "The config's by default. For diffusion ddpm, ddim or dpm_solver, for flow "
            "matching euler or heun, for regression regression.",
        ),
        "num_steps": flags.DEFINE_integer(
            "num_steps", None, "Network evaluations; the config's by default.", 1
        ),
        "eta": flags.DEFINE_float(
            "eta", None, "Noise of DDIM, 0 to 1; the config's by default.", 0, 1
        ),
        "candidates": flags.DEFINE_integer(
            "candidates",
            None,
            "Crystals made for each sample, of which the one that fits best what was "
            "asked for is picked; the config's by default.",
            1,
        ),
        "batch_size": flags.DEFINE(
            _BatchSizeParser(),
            "batch_size",
            None,
            "Samples at a time, 'auto' for the most that fit into memory; the config's "
            "by default.",
        ),
        "checkpoint": flags.DEFINE_integer(
            "checkpoint", None, "Step of the checkpoint; the newest by default."
        ),
    }
