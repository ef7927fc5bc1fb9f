"""What computes energies and forces: ASE calculators by name.

A name is ``emt``, a pretrained potential such as ``chgnet`` or ``matgl:`` and a model
(see `pretrained`), or ``module:function`` for any other. Each has an energy model,
which is recorded beside its energies: energies of two models never meet in one hull.
"""

import contextlib
import functools
import importlib
import io
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import ase.data
from ase.calculators import calculator as ase_calculator
from ase.calculators import emt

from crystaljax.crystals import structure
from crystaljax.relaxation import pretrained, pretrained_loading
from crystaljax.system import errors

EMT = "emt"
EMT_MODEL = "ASE EMT"
MATGL_PREFIX = "matgl:"
NAMES = (
    "'emt', 'chgnet', 'chgnet:r2scan', 'sevenn', 'sevenn:7net-0', 'matgl:' followed "
    "by the name or local path of a matgl potential, 'mace', 'orb', 'mattersim' or "
    "'nequix' with or without ':' and a model, or 'module:function' for a function "
    "without arguments that returns an ASE calculator"
)
_FUNCTION = re.compile(r"([A-Za-z_][\w.]*):([A-Za-z_]\w*)")


def build_calculator(name: str) -> ase_calculator.Calculator:
    """Name → ASE calculator.

    Args:
        name: "emt", ASE's effective medium theory for alloys of Al, Ni, Cu, Pd, Ag, Pt
            and Au; a pretrained potential, see `pretrained.FAMILIES`, as its family
            ("chgnet"), with a model ("sevenn:7net-0") or the path of its weights, and
            with "@cuda:1" or another device of PyTorch behind it if wanted; or
            "module:function", a function that returns a calculator, importable from
            the current directory.

    Raises:
        ValueError: the name is none of these, the potential cannot be loaded, or the
            function is not there, fails or returns something else.
        ImportError: the potential's package is not installed.
    """
    if name == EMT:
        return emt.EMT()
    if (potential := pretrained.parse(name)) is not None:
        return _load_pretrained(potential)
    if _FUNCTION.fullmatch(name):
        return _build_own_calculator(name)
    raise errors.UserError(f"unknown calculator {name!r}; expected {NAMES}")


def forget_calculators() -> None:
    """Lets calculators be built anew: after an error their state is unknown."""
    _build_own_calculator.cache_clear()
    _load_pretrained.cache_clear()


def energy_model(calculator: str) -> str:
    """Name of the energy model behind a calculator, to be recorded beside energies.

    Energies of two different models must never meet in one hull.

    Raises:
        ValueError: no calculator has such a name.
    """
    if calculator == EMT:
        return EMT_MODEL
    if (potential := pretrained.parse(calculator)) is not None:
        return pretrained.energy_model(potential)
    if _FUNCTION.fullmatch(calculator):
        return calculator
    raise errors.UserError(f"unknown calculator {calculator!r}; expected {NAMES}")


def reproduced_energies(calculator: str) -> pretrained.Energies:
    """Which DFT a calculator reproduces, and with which corrections; "" if unknown."""
    potential = pretrained.parse(calculator)
    return potential.energies if potential else pretrained.Energies()


def supported_elements(calculator: str) -> frozenset[str] | None:
    """Symbols of the elements that a calculator has parameters for; None if unknown.

    Raises:
        ValueError: see `build_calculator`.
        ImportError: the potential's package is not installed.
    """
    if calculator == EMT:
        return frozenset(emt.parameters)
    if (potential := pretrained.parse(calculator)) is not None:
        return pretrained.elements(potential, _load_pretrained(potential))
    return None


def require_elements(
    calculator: str,
    crystals: Iterable[structure.Crystal],
    known: frozenset[int] | None = None,
) -> None:
    """Raises ValueError if ``calculator`` has no parameters for an element.

    Args:
        calculator: see ``build_calculator``.
        crystals: whose elements are looked for.
        known: atomic numbers that it has parameters for, where the caller knows; it is
            not built then.
    """
    if known is None:
        supported = supported_elements(calculator)
    else:
        supported = frozenset(ase.data.chemical_symbols[number] for number in known)
    if supported is None:
        return
    numbers = {int(n) for crystal in crystals for n in crystal.atomic_numbers}
    symbols = {ase.data.chemical_symbols[n] for n in sorted(numbers)}
    missing = sorted(symbols - supported)
    if missing:
        has = ", ".join(sorted(supported))
        if len(supported) > 30:
            has = f"{len(supported)} others"
        raise errors.UserError(
            f"{calculator} has no parameters for {', '.join(missing)}; it has {has}. "
            "Choose a calculator that has them: 'chgnet' and 'sevenn' have 89"
        )


@functools.lru_cache(maxsize=2)
def _load_pretrained(potential: pretrained.Potential) -> ase_calculator.Calculator:
    # Some print where they run, which is no part of what a command prints.
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pretrained_loading.load(potential)


@functools.lru_cache(maxsize=1)
def _build_own_calculator(name: str) -> ase_calculator.Calculator:
    module, function = name.split(":")
    build = _find_function(module, function)
    try:
        calculator = build()
    except Exception as error:
        raise errors.UserError(
            f"calculator {name!r}: calling {function}() gives {type(error).__name__}: "
            f"{error}; expected a function without arguments that returns an ASE "
            "calculator"
        ) from error
    if not hasattr(calculator, "get_potential_energy"):
        raise errors.UserError(
            f"calculator {name!r}: {function}() returns a {type(calculator).__name__}; "
            "expected an ASE calculator"
        )
    return calculator


def _find_function(module: str, function: str) -> Callable[[], Any]:
    folder = os.getcwd()
    # As with `python -m`; installed commands have no current directory in their path.
    if folder not in sys.path and "" not in sys.path:
        sys.path.append(folder)
    try:
        imported = importlib.import_module(module)
    except Exception as error:
        # Whatever somebody's module does when it is imported.
        raise errors.UserError(
            f"calculator '{module}:{function}': importing {module} from {folder} or "
            f"what is installed gives {type(error).__name__}: {error}"
        ) from error
    found = getattr(imported, function, None)
    if not callable(found):
        raise errors.UserError(
            f"calculator '{module}:{function}': {imported.__file__} has no function "
            f"{function!r}; expected one without arguments that returns an ASE "
            "calculator"
        )
    return found
