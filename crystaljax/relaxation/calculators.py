"""What computes energies and forces: ASE calculators by name.

A name is ``emt``, ``matgl:`` and a potential, or ``module:function`` for any other.
Each has an energy model, which is recorded beside its energies: energies of two models
never meet in one hull.
"""

import functools
import importlib
import os
import pathlib
import re
import sys
from collections.abc import Callable, Iterable
from typing import Any

import ase.data
from ase.calculators import calculator as ase_calculator
from ase.calculators import emt

from crystaljax.crystals import structure
from crystaljax.system import errors

EMT = "emt"
EMT_MODEL = "ASE EMT"
MATGL_PREFIX = "matgl:"
NAMES = (
    "'emt', 'matgl:' followed by the name or local path of a matgl potential, or "
    "'module:function' for a function without arguments that returns an ASE calculator"
)
_FUNCTION = re.compile(r"([A-Za-z_][\w.]*):([A-Za-z_]\w*)")


def build_calculator(name: str) -> ase_calculator.Calculator:
    """Name → ASE calculator.

    Args:
        name: "emt", ASE's effective medium theory for alloys of Al, Ni, Cu, Pd, Ag, Pt
            and Au; "matgl:" and the name of a pretrained matgl potential, which is
            downloaded, or the path of one on disk; or "module:function", a function
            that returns a calculator, importable from the current directory.

    Raises:
        ValueError: the name is none of these, the potential cannot be loaded, or the
            function is not there, fails or returns something else.
        ImportError: matgl is not installed.
    """
    if name == EMT:
        return emt.EMT()
    if name.startswith(MATGL_PREFIX) and name != MATGL_PREFIX:
        return _build_matgl_calculator(name.removeprefix(MATGL_PREFIX))
    if _FUNCTION.fullmatch(name):
        return _build_own_calculator(name)
    raise errors.UserError(f"unknown calculator {name!r}; expected {NAMES}")


def forget_calculators() -> None:
    """Lets calculators of users be built anew: after an error their state is unknown.

    All others are new for every crystal.
    """
    _build_own_calculator.cache_clear()


def energy_model(calculator: str) -> str:
    """Name of the energy model behind a calculator, to be recorded beside energies.

    Energies of two different models must never meet in one hull.

    Raises:
        ValueError: no calculator has such a name.
    """
    if calculator == EMT:
        return EMT_MODEL
    if calculator.startswith(MATGL_PREFIX) and calculator != MATGL_PREFIX:
        return f"matgl {calculator.removeprefix(MATGL_PREFIX)}"
    if _FUNCTION.fullmatch(calculator):
        return calculator
    raise errors.UserError(f"unknown calculator {calculator!r}; expected {NAMES}")


def supported_elements(calculator: str) -> frozenset[str] | None:
    """Symbols of the elements that a calculator has parameters for; None: nobody knows.

    Raises:
        ValueError: see `build_calculator`.
        ImportError: matgl is not installed.
    """
    if calculator == EMT:
        return frozenset(emt.parameters)
    if calculator.startswith(MATGL_PREFIX) and calculator != MATGL_PREFIX:
        potential = _load_matgl_potential(calculator.removeprefix(MATGL_PREFIX))
        return frozenset(potential.model.element_types)
    return None


def require_elements(calculator: str, crystals: Iterable[structure.Crystal]) -> None:
    """Raises ValueError if ``calculator`` has no parameters for an element."""
    supported = supported_elements(calculator)
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
            "Choose a calculator that has them, such as a matgl potential"
        )


def _build_matgl_calculator(model: str) -> ase_calculator.Calculator:
    potential = _load_matgl_potential(model)
    from matgl.ext.ase import PESCalculator  # type: ignore[import-not-found]

    # Its default is GPa, with which ASE's cell filters go wrong by a factor of 160.
    return PESCalculator(potential, stress_unit="eV/A3")


@functools.lru_cache(maxsize=1)
def _load_matgl_potential(model: str) -> Any:
    try:
        import matgl  # type: ignore[import-not-found]
        import matgl.ext.ase  # type: ignore[import-not-found]
    except ImportError as error:
        raise errors.MissingPackageError(
            f"'matgl:{model}' needs matgl, which is not installed; install the "
            "'relax' extra: pip install 'crystaljax[relax]'"
        ) from error
    # A path on disk would be looked for on the Hugging Face Hub if it is not there.
    if model.startswith((".", "/", "~")):
        path = pathlib.Path(model).expanduser()
        if not path.is_dir():
            raise errors.UserError(
                f"'matgl:{model}': there is no folder {path}; expected one that a "
                "potential was saved to, with model.json, model.pt and state.pt"
            )
        model = str(path)
    try:
        potential = matgl.load_model(model)
    except Exception as error:
        cause = error.__cause__ or error
        raise errors.UserError(
            f"matgl cannot load the potential {model!r}: {type(cause).__name__}: "
            f"{' '.join(str(cause).split())}; expected the folder of a saved one, or a "
            "pretrained one's name, for which the network must be reachable"
        ) from error
    if not hasattr(potential, "calc_forces"):
        raise errors.UserError(
            f"matgl's {model!r} is a {type(potential).__name__}, which has no forces; "
            "expected a potential: their names end in -PES"
        )
    return potential


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
