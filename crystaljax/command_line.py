"""What the commands share: flags of sampling, quiet logs, errors as one line."""

import sys
from collections.abc import Callable

from absl import app, flags, logging

from crystaljax import defaults

# What the package raises for bad input; anything else is a bug and keeps its traceback.
USER_ERRORS = (FileExistsError, FileNotFoundError, FloatingPointError, ValueError)


def run(command: Callable[[], None]) -> None:
    """Parses the flags, then runs ``command``; call it after defining the flags.

    Errors in what the user gave end the program with one line instead of a traceback.
    """

    def main(argv):
        if len(argv) > 1:
            raise app.UsageError(f"unexpected arguments {argv[1:]}")
        if not flags.FLAGS["verbosity"].present:
            # Orbax reports every file that it touches.
            logging.set_verbosity(logging.ERROR)
        try:
            command()
        except USER_ERRORS as error:
            raise SystemExit(f"error: {error}") from error

    # --help shows the flags of the main module; those defined here are as much its own.
    for flag in flags.FLAGS.flags_by_module_dict().get(__name__, []):
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
    app.run(main)


def define_output_flags(
    default: str | None = None,
) -> tuple[flags.FlagHolder, flags.FlagHolder, flags.FlagHolder]:
    """Flags --output, --cifs and --overwrite of the commands that make crystals.

    Args:
        default: what --output is where it is not given, in words; None: required.
    """
    text = "Folder to write" + (f"; {default} by default." if default else ".")
    return (
        flags.DEFINE_string("output", None, text),
        flags.DEFINE_enum(
            "cifs", "folder", ["folder", "zip", "none"], "How CIFs are written."
        ),
        flags.DEFINE_bool("overwrite", False, "Replace files in --output."),
    )


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


def define_sampler_flags() -> dict[str, flags.FlagHolder]:
    """Flags that every command with a sampler has, by name."""
    return {
        "sampler": flags.DEFINE_enum(
            "sampler",
            None,
            [name for names in defaults.SAMPLERS.values() for name in names],
            "The config's by default; see its sampler.name for what goes with what.",
        ),
        "num_steps": flags.DEFINE_integer(
            "num_steps", None, "Network evaluations; the config's by default.", 1
        ),
        "eta": flags.DEFINE_float(
            "eta", None, "Noise of DDIM, 0 to 1; the config's by default.", 0, 1
        ),
        "batch_size": flags.DEFINE_integer(
            "batch_size", None, "Samples at a time; the config's by default.", 1
        ),
        "checkpoint": flags.DEFINE_integer(
            "checkpoint", None, "Step of the checkpoint; the newest by default."
        ),
    }
