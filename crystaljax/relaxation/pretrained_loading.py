"""Pretrained potentials as calculators of ASE, each by its own package.

What is known of them, by name, is in `pretrained`.
"""

import importlib
import importlib.util
import inspect
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from ase.calculators import calculator as ase_calculator

from crystaljax.relaxation import pretrained
from crystaljax.system import errors


def load(potential: pretrained.Potential) -> ase_calculator.Calculator:
    """The calculator of a potential.

    Raises:
        ValueError: no such model, file or device; or the weights cannot be loaded.
        ImportError: the package is not installed.
    """
    family = pretrained.FAMILIES[potential.family]
    name = f"{potential.family}:{potential.model}"
    try:
        importlib.import_module(family.package)
    except ImportError as error:
        raise errors.MissingPackageError(
            f"'{name}' needs {family.package}, which is not installed or cannot be "
            f"imported ({error}); install it: {family.install}"
        ) from error
    if potential.family != "matgl":
        _require_model(potential, family, name)
    _require_device(potential, family)
    try:
        return _LOADERS[potential.family](potential.model, potential.device)
    except errors.UserError:
        raise
    except Exception as error:
        cause = error.__cause__ or error
        remedy = "is the file whole, and of this package's version?"
        if not potential.is_file:
            remedy = (
                "its weights are fetched over the network when it is first used: try "
                "again where there is one, or give the path of a file with them, as "
                f"'{potential.family}:PATH'"
            )
            if carried := pretrained.FAMILIES_THAT_CARRY_WEIGHTS:
                remedy += f". {carried} need no network"
        raise errors.UserError(
            f"{family.title} cannot load {potential.model!r}: {type(cause).__name__}: "
            f"{' '.join(str(cause).split())}; {remedy}"
        ) from error


def _require_model(
    potential: pretrained.Potential, family: pretrained.Family, name: str
) -> None:
    if potential.is_file:
        path = pathlib.Path(potential.model).expanduser()
        if not path.is_file():
            raise errors.UserError(
                f"'{name}': there is no file {path}; expected one with the weights of "
                f"a {family.title} potential"
            )
    elif potential.model not in family.models:
        raise errors.UserError(
            f"unknown model {potential.model!r} of {family.title}; expected one of "
            f"{', '.join(family.models)}, or the path of a file with weights"
        )


def _require_device(potential: pretrained.Potential, family: pretrained.Family) -> None:
    if potential.device == "auto":
        return
    if family.device_package == "jax":
        raise errors.UserError(
            f"{family.title} runs on the devices of JAX: leave '@{potential.device}' "
            "out, and choose with JAX_PLATFORMS"
        )
    torch = importlib.import_module("torch")
    try:
        torch.zeros(1, device=potential.device)
    except (RuntimeError, AssertionError) as error:
        has = "and has CUDA" if torch.cuda.is_available() else "and has no CUDA here"
        reason = str(error).split("\n")[0]
        raise errors.UserError(
            f"device {potential.device!r} cannot be used ({reason}); PyTorch "
            f"{torch.__version__} is installed {has}: leave '@{potential.device}' "
            "out, or install PyTorch for this device"
        ) from error


def _path_of(model: str) -> str | None:
    """Where the file of a model is; None if it has a name."""
    if not pretrained.is_path(model):
        return None
    return str(pathlib.Path(model).expanduser())


def _torch_device(device: str) -> str:
    if device != "auto":
        return device
    torch = importlib.import_module("torch")
    return "cuda" if torch.cuda.is_available() else "cpu"


def _load_chgnet(model: str, device: str) -> ase_calculator.Calculator:
    from chgnet.model import CHGNet, CHGNetCalculator  # type: ignore[import-not-found]

    device = _torch_device(device)
    if path := _path_of(model):
        network = CHGNet.from_file(path)
    else:
        network = CHGNet.load(model_name=model, use_device=device, verbose=False)
    # An atom without neighbours has an energy too: crystals that come apart are
    # found by their volume.
    return CHGNetCalculator(network, use_device=device, on_isolated_atoms="ignore")


def _load_sevenn(model: str, device: str) -> ase_calculator.Calculator:
    from sevenn import calculator  # type: ignore[import-not-found]

    name, _, modal = model.partition("/")
    if path := _path_of(model):
        name, modal = path, ""
    return calculator.SevenNetCalculator(
        name, device=_torch_device(device), modal=modal or None
    )


def _load_mace(model: str, device: str) -> ase_calculator.Calculator:
    from mace import calculators  # type: ignore[import-not-found]

    # Its advice for relaxations, against float32 for dynamics.
    return calculators.mace_mp(
        model=str(pathlib.Path(model).expanduser())
        if pretrained.is_path(model)
        else model,
        device=_torch_device(device),
        default_dtype="float64",
    )


def _load_orb(model: str, device: str) -> ase_calculator.Calculator:
    from orb_models.forcefield import pretrained  # type: ignore[import-not-found]

    build = pretrained.ORB_PRETRAINED_MODELS
    kwargs: dict[str, Any] = {"device": _torch_device(device)}
    name = model
    if path := _path_of(model):
        file = pathlib.Path(model).name
        fitting = [each for each in build if each in file]
        if not fitting:
            raise errors.UserError(
                f"{file} does not say which model of Orb its weights are of; expected "
                f"a name with one of {', '.join(build)} in it"
            )
        # orb-v3-… comes before what is part of it.
        name = max(fitting, key=len)
        kwargs["weights_path"] = path
    loaded = build[name](**kwargs, precision="float32-highest")
    # From release 0.6 on with what makes its graphs.
    if isinstance(loaded, tuple):
        from orb_models.forcefield.inference import (  # type: ignore[import-not-found]
            calculator as with_adapter,
        )

        network, adapter = loaded
        return with_adapter.ORBCalculator(network, adapter, device=kwargs["device"])
    from orb_models.forcefield import calculator  # type: ignore[import-not-found]

    return calculator.ORBCalculator(loaded, device=kwargs["device"])


def _load_mattersim(model: str, device: str) -> ase_calculator.Calculator:
    from mattersim import forcefield  # type: ignore[import-not-found]

    path = (
        str(pathlib.Path(model).expanduser())
        if pretrained.is_path(model)
        else f"{model}.pth"
    )
    return forcefield.MatterSimCalculator(load_path=path, device=_torch_device(device))


def _load_nequix(model: str, device: str) -> ase_calculator.Calculator:
    from nequix import calculator  # type: ignore[import-not-found]

    del device
    build = calculator.NequixCalculator
    where: dict[str, Any] = {"model_name": model}
    if path := _path_of(model):
        where = {"model_path": path}
    known = inspect.signature(build).parameters
    if "backend" in known:
        where["backend"] = "jax"
    if "use_kernel" in known:
        # On by default, and an error where its package is not installed.
        kernels = importlib.util.find_spec("openequivariance_extjax")
        where["use_kernel"] = kernels is not None
    return build(**where)


def _load_matgl(model: str, device: str) -> ase_calculator.Calculator:
    import matgl  # type: ignore[import-not-found]
    from matgl.ext.ase import PESCalculator  # type: ignore[import-not-found]

    # A path on disk would be looked for on the Hugging Face Hub if it is not there.
    path = _path_of(model)
    if path and not pathlib.Path(path).is_dir():
        raise errors.UserError(
            f"'matgl:{model}': there is no folder {path}; expected one that a "
            "potential was saved to, with model.json, model.pt and state.pt"
        )
    try:
        potential = matgl.load_model(path or model)
    except Exception as error:
        cause = error.__cause__ or error
        raise errors.UserError(
            f"matgl cannot load the potential {model!r}: {type(cause).__name__}: "
            f"{' '.join(str(cause).split())}; expected the folder of a saved one, or a "
            f"pretrained one's name, such as {next(iter(pretrained.MATGL_MODELS))}, "
            "for which the network must be reachable"
        ) from error
    if not hasattr(potential, "calc_forces"):
        raise errors.UserError(
            f"matgl's {model!r} is a {type(potential).__name__}, which has no forces; "
            "expected a potential: their names have -PES- in them"
        )
    if device != "auto":
        potential = potential.to(device)
    # Its default is GPa, with which ASE's cell filters go wrong by a factor of 160.
    return PESCalculator(potential, stress_unit="eV/A3")


# (model or path of a file, device of PyTorch or "auto") → calculator.
_LOADERS: Mapping[str, Callable[[str, str], ase_calculator.Calculator]] = {
    "chgnet": _load_chgnet,
    "sevenn": _load_sevenn,
    "matgl": _load_matgl,
    "mace": _load_mace,
    "orb": _load_orb,
    "mattersim": _load_mattersim,
    "nequix": _load_nequix,
}
