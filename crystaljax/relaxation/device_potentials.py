"""Potentials by name that run in JAX, and so relax crystals in batches."""

import functools
import pathlib
from typing import Any

from crystaljax.relaxation import calculators, pretrained
from crystaljax.relaxation.potentials import emt, nequix, sevennet, tensornet
from crystaljax.relaxation.potentials.potential import Potential
from crystaljax.system import errors

BATCHED_CALCULATORS = (
    "'emt', 'sevenn' (7net-l3i5), 'sevenn:7net-0', 'nequix' with or without ':' and a "
    "model, 'sevenn:' or 'nequix:' followed by the path of a file with weights, or "
    "'matgl:' followed by the name or path of a TensorNet"
)

# Each has: supports(path), build(path).
_FAMILIES_OF_FILES = {"sevenn": sevennet, "nequix": nequix}


def supports(calculator: str) -> bool:
    """Whether crystals can be relaxed in batches with it.

    That is "emt", TensorNets of matgl, SevenNets of one kind of data, and Nequix, on
    whatever device JAX runs on.

    Args:
        calculator: see `calculators.build_calculator`. Its weights are read, and
            downloaded where they are not there yet.

    Raises:
        ValueError: a potential that cannot be loaded.
        ImportError: its package is not installed.
    """
    if calculator.startswith(calculators.MATGL_PREFIX):
        return tensornet.supports(_load_matgl_potential(calculator))
    if (found := _find_file(calculator)) is not None:
        family, path = found
        return _FAMILIES_OF_FILES[family].supports(path)
    return calculator == calculators.EMT


@functools.lru_cache(maxsize=4)
def build(calculator: str) -> Potential:
    """Name → potential on the device; the same object for the same name.

    Raises:
        ValueError: the calculator cannot run in batches.
        ImportError: its package is not installed.
    """
    if calculator == calculators.EMT:
        return emt.build()
    if calculator.startswith(calculators.MATGL_PREFIX):
        return tensornet.build(_load_matgl_potential(calculator))
    if (found := _find_file(calculator)) is not None:
        family, path = found
        return _FAMILIES_OF_FILES[family].build(path)
    raise errors.UserError(
        f"calculator {calculator!r} cannot relax crystals in batches; expected "
        f"{BATCHED_CALCULATORS}. ase_relaxation.relax_many takes any calculator"
    )


def _find_file(calculator: str) -> tuple[str, pathlib.Path] | None:
    """Family and weights that may run in batches; None for any other calculator."""
    potential = pretrained.parse(calculator)
    # Who names a device of PyTorch wants PyTorch.
    if (
        potential is None
        or potential.family not in _FAMILIES_OF_FILES
        or potential.device != "auto"
    ):
        return None
    if potential.is_file:
        return potential.family, pathlib.Path(potential.model).expanduser()
    if potential.family == "nequix":
        return "nequix", nequix.find_pretrained(potential.model)
    if potential.model in sevennet.PRETRAINED:
        return "sevenn", sevennet.find_pretrained(potential.model)
    return None


def _load_matgl_potential(calculator: str) -> Any:
    return calculators.build_calculator(calculator).potential  # pyright: ignore
