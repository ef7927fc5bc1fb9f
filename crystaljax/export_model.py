r"""Writes the model of a run as a small folder, to be passed on.

    crystaljax export-model --workdir=runs/mine --output=mine --title="Borides, 2026"
    crystaljax sample --model=mine --formulas=TaB2

The folder holds the parameters that samples are made with, in half precision, and what
sampling needs to know of the run: config, units, vocabulary. None of its files holds
code. The training structures are not among them; a model of orbits has a table of
prototypes, with means over the structures that share them.
"""

import pathlib
from collections.abc import Sequence

from crystaljax import command_line
from crystaljax.system import errors
from crystaljax.system import options as options_lib


@options_lib.frozen
class ExportModelOptions:
    """What to write, and where."""

    workdir: str = options_lib.option("Run directory of the model.")
    output: str = options_lib.option("Folder to write.")
    checkpoint: int | None = options_lib.option(
        "Step of the checkpoint; the newest by default.", default=None
    )
    title: str = options_lib.option("One line that says what the model is.", default="")
    card: str | None = options_lib.option(
        "JSON file with what else is to be known of it: data, licence, figures, what "
        "it is not for.",
        default=None,
    )
    dtype: str = options_lib.option(
        "Precision of the parameters.",
        default="float16",
        choices=("float16", "float32"),
    )
    overwrite: bool = options_lib.option("Replace another model.", default=False)


def export_model(options: ExportModelOptions) -> int:
    """Writes the folder, and returns its bytes.

    Raises:
        FileExistsError: the folder holds something, and it may not be replaced.
        FileNotFoundError: no run, or no such checkpoint.
        UserError: a card that cannot be read, or a damaged run.
    """
    from crystaljax.crystals import structure
    from crystaljax.system import environment, sharding
    from crystaljax.training import checkpoints, model_files, runs

    output = pathlib.Path(options.output)
    if output.exists() and any(output.iterdir()):
        if not model_files.is_model(output):
            raise FileExistsError(f"{output} is not empty; choose another --output")
        if not options.overwrite:
            raise FileExistsError(
                f"{output} already holds a model; pass --overwrite, or choose another "
                "--output"
            )
    card = {}
    if options.card is not None:
        path = pathlib.Path(options.card)
        if not path.exists():
            raise FileNotFoundError(f"no card at {path}")
        card = runs.load_json(path)
        if not isinstance(card, dict):
            raise errors.UserError(f"{path} holds no JSON object; expected one")
    run = checkpoints.load_run(
        options.workdir, sharding.build_local_mesh(), options.checkpoint
    )
    vocabulary = run.vocabulary
    card = {
        "title": options.title or card.get("title", pathlib.Path(options.workdir).name),
        "step": run.step,
        "elements": vocabulary["elements"],
        "max_sites": structure.max_sites(run.config.data.rows),
        "energy_model": vocabulary.get("energy_model"),
        **{name: value for name, value in card.items() if name != "title"},
        "written_by": environment.describe_environment().get("versions", {}),
    }
    return model_files.write(
        pathlib.Path(options.workdir), run.params, output, card, options.dtype
    )


def _run(chosen: ExportModelOptions) -> None:
    num_bytes = export_model(chosen)
    print(f"{chosen.output}: {num_bytes / 2**20:.1f} MiB")
    print(f"crystaljax sample --model={chosen.output} --formulas=…")


COMMAND = command_line.Command("export-model", __doc__, (ExportModelOptions,), _run)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line; ``arguments`` are those of the process if None."""
    command_line.run(COMMAND, arguments)


if __name__ == "__main__":
    main()
