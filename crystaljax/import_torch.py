r"""Turns a checkpoint of the paper's PyTorch code into a run directory.

    crystaljax import-torch --checkpoint=model.pt --workdir=runs/imported \
        --config=configs/cfm_uniform.py

The run is then used like one that was trained here: by ``sample`` or ``modify``, and by
``evaluate``. The checkpoint is the network's ``state_dict()``; the size of the network
is read from it. What it was trained for is not in it, hence ``--config``: its task,
process and sampler are used. Without it the network is taken for one of diffusion, for
modification if it encodes a source crystal. ``--dataset``, prepared from the structures
that it was trained on, tells which elements and space groups it knows; without it those
of the paper are written down.

The space-group encoder depends on the order of the symmetry operations inside a group,
which in that code is the order of a set of pymatgen's. It is kept as a table of its own
(`model.space_group_operations` is "reference").
"""

import dataclasses
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from crystaljax import command_line, defaults
from crystaljax.crystals import elements, structure
from crystaljax.data import dataset as datasets
from crystaljax.models import build, scaling, torch_weights
from crystaljax.models.networks import crystal_unet
from crystaljax.sampling import build as build_sampling
from crystaljax.system import atomic_files, errors
from crystaljax.system import options as options_lib
from crystaljax.training import checkpoints, runs

# Keys under which training scripts keep the state dict among other things.
_NESTED = ("state_dict", "model_state_dict", "model")
# What wrappers for several devices and for compilation put before every name.
_PREFIXES = ("module.", "_orig_mod.")

# The paper's selection of AFLOW (section 2.1), as far as it is known: which 55 elements
# passed its threshold is not.
# fmt: off
_PAPER_SPACE_GROUPS = (
    6, 8, 10, 12, 25, 35, 44, 47, 65, 71, 99, 119, 123, 129, 139, 160, 166, 216, 225,
)
# fmt: on
_PAPER_VOCABULARY = {
    "elements": list(elements.SYMBOLS),
    "space_groups": list(_PAPER_SPACE_GROUPS),
    "max_sites": 60,
    "formation_energy": [-5.0, 5.0],
    "energy_model": "AFLOW (PBE)",
    "dataset": None,
}


@options_lib.frozen
class ImportOptions:
    """What to import."""

    checkpoint: str = options_lib.option(
        "File of torch.save with model.state_dict(), with tensors only."
    )
    workdir: str = options_lib.option("Run directory to write.")
    config: Any = options_lib.option(
        "Config with the task, process and sampler of the network, such as "
        "cfm_uniform or configs/cfm_uniform.py; the paper's diffusion by default.",
        default=None,
        is_config=True,
    )
    dataset: str | None = options_lib.option(
        "Dataset directory of its training structures; the paper's are assumed by "
        "default.",
        default=None,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Imported:
    """A run directory that was written.

    Attributes:
        workdir: the run directory.
        config: of the run.
        num_params: of the network.
        notes: for the user: what was assumed.
    """

    workdir: pathlib.Path
    config: Any
    num_params: int
    notes: list[str]


def import_checkpoint(options: ImportOptions) -> Imported:
    """Checks a checkpoint and writes the run directory, all of it or nothing.

    Raises:
        FileExistsError: ``workdir`` already exists.
        FileNotFoundError: no checkpoint, or no dataset.
        ImportError: PyTorch is not installed.
        ValueError: the file has more than tensors, they are not of a network of the
            paper's code, or not of a network as in the config.
    """
    workdir = pathlib.Path(options.workdir)
    _require_new(workdir)
    state_dict = load_state_dict(options.checkpoint)
    settings = torch_weights.infer_settings(state_dict)
    config, notes = _build_config(options.config, settings)
    if options.dataset is not None:
        config.data.path = options.dataset
    vocabulary, assumed = _build_vocabulary(config, options.dataset)
    # Refuses what the config asks for and there is not, before anything is written.
    build.build_process(config)
    build_sampling.build_sampler(config)
    model = build.build_model(config)
    if not isinstance(model, crystal_unet.CrystalUNet):
        raise errors.UserError(
            f"model.network is {config.model.network!r}, but checkpoints of the paper "
            "are of its UNet; give one of the paper's configs"
        )
    params = torch_weights.convert(state_dict, model)
    _write_run(workdir, config, vocabulary, params)
    num_params = sum(array.size for array in jax.tree.leaves(params))
    return Imported(workdir, config, num_params, [*notes, *assumed])


def load_state_dict(path: str | pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of a checkpoint by name, in float32; no code in the file is run.

    A state dict among other things is found under "state_dict", "model_state_dict" or
    "model"; "module." or "_orig_mod." before every name are left out.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: PyTorch is not installed.
        ValueError: the file cannot be read without running code, holds something else
            than a state dict, or has values that are not finite.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}; expected a file")
    try:
        import torch
    except ImportError as error:
        raise errors.MissingPackageError(
            f"reading {path} needs PyTorch, which is not installed; a CPU build is "
            "enough: see https://pytorch.org/get-started"
        ) from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (EOFError, OSError, RuntimeError) as error:
        raise errors.UserError(
            f"{path} cannot be read and may be truncated ({error}); save or copy it "
            "again"
        ) from error
    except Exception as error:
        # What the restricted reader raises for everything that it does not allow.
        raise errors.UserError(
            f"{path} holds more than tensors, or is no file of torch.save; only "
            "tensors are read, because anything else could run code: save "
            "model.state_dict()"
        ) from error
    arrays = {}
    for name, tensor in _strip_prefixes(_unwrap(content, path)).items():
        if not isinstance(tensor, torch.Tensor):
            raise errors.UserError(
                f"{path} has a value of type {type(tensor).__name__} at {name!r}; "
                "expected a state dict, which has tensors only"
            )
        arrays[name] = tensor.detach().to(torch.float32).numpy()
    broken = [name for name, array in arrays.items() if not np.isfinite(array).all()]
    if broken:
        raise errors.UserError(
            f"{path} has NaN or infinite values in {len(broken)} arrays, the first "
            f"being {broken[0]}; use an earlier checkpoint"
        )
    return arrays


def _unwrap(content: Any, path: pathlib.Path) -> Mapping[str, Any]:
    """The innermost state dict."""
    if not isinstance(content, Mapping):
        raise errors.UserError(
            f"{path} holds a {type(content).__name__}; expected model.state_dict()"
        )
    for key in _NESTED:
        if isinstance(content.get(key), Mapping):
            return _unwrap(content[key], path)
    return content


def _strip_prefixes(state_dict: Mapping[str, Any]) -> Mapping[str, Any]:
    for prefix in _PREFIXES:
        if state_dict and all(str(name).startswith(prefix) for name in state_dict):
            stripped = {
                name.removeprefix(prefix): value for name, value in state_dict.items()
            }
            # There may be one wrapper in the other.
            return _strip_prefixes(stripped)
    return state_dict


def _build_config(given: Any, settings: dict[str, Any]) -> tuple[Any, list[str]]:
    """The config of the run, and what was assumed."""
    encodes_source = settings["source_rows"] > 0
    notes = []
    config: Any
    if given is None:
        config = defaults.paper("modification" if encodes_source else "generation")
        if encodes_source:
            config.sampler.name = "ddpm"
            config.model.source_rows = settings["source_rows"]
        notes = [
            "a state dict does not tell how its network was trained; taken for "
            f"{config.task} by diffusion, sampled by {config.sampler.name}; --config "
            "says it otherwise"
        ]
    else:
        config = given.copy_and_resolve_references()
    if (config.model.source_rows > 0) != encodes_source:
        kinds = ("no source encoder", "a source encoder (modification by diffusion)")
        raise errors.UserError(
            "a checkpoint of the wrong network: it has "
            f"{kinds[encodes_source]}, but the network of the config has "
            f"{kinds[not encodes_source]}, model.source_rows="
            f"{config.model.source_rows}; give the --config it was trained by"
        )
    config.model.update(settings)
    # The units and the size that the paper's code has for all its networks.
    config.data.rows = structure.PAPER_ROWS
    config.data.coordinates = "unit"
    config.data.lattice = "angstrom"
    config.data.energy = "ev"
    config.train.dtype = "auto"
    config.train.ema_decay = 0.0
    return config, notes


def _build_vocabulary(
    config: Any, dataset_path: str | None
) -> tuple[dict[str, Any], list[str]]:
    """What the network knows, and what was assumed."""
    notes = []
    if dataset_path is None:
        vocabulary = dict(_PAPER_VOCABULARY)
        notes = [
            "without --dataset its training structures are taken for the paper's: 19 "
            "space groups, up to 60 sites, energies of AFLOW; all 103 elements are "
            "accepted, though it saw 55"
        ]
    else:
        dataset = datasets.open_dataset(dataset_path)
        vocabulary = {
            **datasets.vocabulary(dataset),
            "energy_model": dataset.info.get("energy_model"),
            "dataset": str(dataset.path.absolute()),
        }
    # The paper's code takes cells as they come.
    vocabulary |= {"canonical": "none", "primitive": False}
    if build.is_modification(config):
        # Always from higher to lower energy.
        vocabulary["energy_difference"] = [-5.0, 0.0]
    return vocabulary, notes


def _require_new(workdir: pathlib.Path) -> None:
    if runs.is_run(workdir):
        raise FileExistsError(
            f"{workdir} already holds a run; choose another --workdir"
        )
    if workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir())):
        raise FileExistsError(
            f"{workdir} is there and not empty; choose another --workdir"
        )


def _write_run(
    workdir: pathlib.Path, config: Any, vocabulary: dict[str, Any], params: Any
) -> None:
    identity = scaling.Scaling(0.0, 1.0, np.zeros((3, 3)), np.ones((3, 3)), 0.0, 1.0)
    with atomic_files.folder(workdir) as run:
        runs.create_run(run, config, identity, vocabulary)
        with checkpoints.open_manager(run, keep=1) as manager:
            checkpoints.save_params(manager, 0, params)


def _next_command(imported: Imported) -> str:
    if build.is_modification(imported.config):
        return (
            f"crystaljax modify --workdir={imported.workdir} "
            "--input=crystal.cif --output=polymorphs"
        )
    return (
        f"crystaljax sample --workdir={imported.workdir} "
        "--formulas=Ta1W1B6 --energies=-0.4 --output=samples"
    )


def _run(chosen: ImportOptions) -> None:
    imported = import_checkpoint(chosen)
    for note in imported.notes:
        print(f"note: {note}", file=sys.stderr)
    print(
        f"{imported.num_params:,} parameters of {chosen.checkpoint} in "
        f"{imported.workdir}; next:\n  {_next_command(imported)}"
    )


COMMAND = command_line.Command(
    "import-torch", __doc__, (ImportOptions,), _run, uses_devices=False
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line; ``arguments`` are those of the process if None."""
    command_line.run(COMMAND, arguments)


if __name__ == "__main__":
    main()
