"""Whether compositions are plausible: charge neutral by SMACT's rules.

Valid-only match rates of the literature count a crystal as valid if its composition
passes SMACT's test (charge-neutral oxidation states that respect electronegativities;
metals and elements pass) and no two atoms are closer than 0.5 Å. They were computed
with smact 2.5 and 2.6; later releases know more oxidation states and let more pass.
The set of oxidation states that 2.x had is requested where a release has several.
"""

import functools
import importlib.metadata
import inspect
import warnings
from collections.abc import Iterable
from typing import Any

from crystaljax.system import workers

_SECONDS_EACH = 0.003
# Oxidation states of smact 2.x, under the name that later releases have for them.
_FORMER_STATES = "smact14"


def find_version() -> str | None:
    """Version of smact; None where it is not installed."""
    try:
        return importlib.metadata.version("smact")
    except importlib.metadata.PackageNotFoundError:
        return None


def describe_rule() -> str:
    """The rule in words, with the version; "" where smact is not installed."""
    version = find_version()
    if version is None:
        return ""
    states = _arguments().get("oxidation_states_set", "those of this release")
    return (
        f"smact {version}: smact_validity with the Pauling test, alloys pass, "
        f"oxidation states {states}"
    )


def check_compositions(
    formulas: Iterable[str],
    *,
    num_workers: int | None = None,
    description: str | None = None,
) -> dict[str, str]:
    """Why compositions are not valid, "" for those that are, by formula.

    Args:
        formulas: reduced formulas; each distinct one is checked once.
        num_workers: processes; None for all CPUs, or this one if there is little to do.
        description: label of a progress bar; none if None.

    Raises:
        ImportError: smact is not installed; `find_version` says so before.
    """
    distinct = list(dict.fromkeys(formulas))
    found = workers.map_in_workers(
        _check_composition,
        distinct,
        num_workers=workers.choose_num_workers(
            num_workers, len(distinct), _SECONDS_EACH
        ),
        description=description,
    )
    return dict(zip(distinct, found, strict=True))


def _check_composition(formula: str) -> str:
    from pymatgen.core import Composition
    from smact import screening

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Elements that smact has no data for make it raise many kinds of errors.
        try:
            valid = screening.smact_validity(Composition(formula), **_arguments())
        except Exception as error:
            return f"smact: {type(error).__name__}: {error}"
    return "" if valid else "no charge-neutral oxidation states by smact"


@functools.cache
def _arguments() -> dict[str, Any]:
    from smact import screening

    chosen: dict[str, Any] = {"use_pauling_test": True, "include_alloys": True}
    known = inspect.signature(screening.smact_validity).parameters
    major = int((find_version() or "0").split(".")[0])
    if "oxidation_states_set" in known and major >= 3:
        chosen["oxidation_states_set"] = _FORMER_STATES
    return chosen
