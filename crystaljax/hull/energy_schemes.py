"""Do the entries of a file have one functional, one +U and one set of corrections?

Entries of pymatgen and the Materials Project say how they were computed in their
``parameters`` and ``energy_adjustments``. Total energies of two functionals differ by
eV/atom, so that a hull of both looks like a discovery.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pymatgen.core import Element

from crystaljax.data.sources import levels_of_theory
from crystaljax.system import errors

# The Materials Project's ids of entries end in the run type where there are several.
_TYPE_IN_ID = re.compile(r"[-_](GGA|GGA\+U|R2SCAN|SCAN|PBESOL|HSE)$", re.IGNORECASE)
_MP_ID = re.compile(r"(mp|mvc)-\d+")
_MP2020 = "MaterialsProject2020Compatibility"
_FAMILIES = (
    ("MP2020", _MP2020),
    ("MP GGA(+U)/R2SCAN", "MaterialsProjectDFTMixingScheme"),
    ("MP Anion", "MaterialsProjectCompatibility"),
    ("MP Advanced", "MaterialsProjectCompatibility"),
    ("MIT Anion", "MITCompatibility"),
    ("MIT Advanced", "MITCompatibility"),
)


@dataclasses.dataclass(frozen=True)
class Scheme:
    """How an energy was computed, as far as its entry says.

    Attributes:
        functional: run type without +U, in capitals, such as "GGA"; "" if unknown.
        hubbards: U in eV by symbol, those above zero; None where a run with U does not
            say which.
        corrections: names of the schemes that corrected the energy.
        joins_hubbards: whether a correction makes energies with U comparable with those
            without.
        words: what else the entry says of it, by key: functional, potentials, ….
    """

    functional: str
    hubbards: Mapping[str, float] | None
    corrections: frozenset[str]
    joins_hubbards: bool
    words: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Computed:
    """An entry with its scheme.

    Attributes:
        id: name of the entry.
        symbols: its elements.
        scheme: how it was computed.
    """

    id: str
    symbols: frozenset[str]
    scheme: Scheme


def read_scheme(item: Mapping[str, Any], entry_id: str) -> Scheme:
    """The scheme of an entry given as JSON.

    Raises:
        ValueError: the entry says two things.
    """
    parameters, data = (_mapping(item.get(key)) for key in ("parameters", "data"))
    types = levels_of_theory.read_run_types(parameters, data, item)
    if len(types) > 1:
        raise errors.UserError(
            f"entry {entry_id!r} has the run types {' and '.join(types)}; expected one"
        )
    run_type = next(iter(types), "")
    if not run_type and (match := _TYPE_IN_ID.search(entry_id)):
        run_type = levels_of_theory.normalize(match[1])
    functional, _, _ = run_type.partition("+U")
    values = parameters.get("hubbards") or data.get("hubbards") or {}
    hubbards: dict[str, float] | None = {
        str(symbol): float(value)
        for symbol, value in _mapping(values).items()
        if isinstance(value, int | float) and value
    }
    says_u = "+U" in run_type or parameters.get("is_hubbard") is True
    if says_u and not hubbards:
        hubbards = None
    adjustments = item.get("energy_adjustments")
    adjustments = adjustments if isinstance(adjustments, list) else []
    names = [str(_mapping(each).get("name") or "") for each in adjustments]
    families = {_family(_mapping(each)) for each in adjustments} - {""}
    joins = any("mixing" in name or "Advanced" in name for name in names)
    words = levels_of_theory.read_words(parameters, data, item)
    return Scheme(functional, hubbards, frozenset(families), joins, words)


def is_of_mp(item: Mapping[str, Any], scheme: Scheme) -> bool:
    """Whether an entry says that it is of the Materials Project's PBE(+U).

    Its id, the names of its POTCARs, or its corrections say so, besides the run type.
    """
    if scheme.functional != "GGA":
        return False
    if scheme.corrections:
        return scheme.corrections == {_MP2020}
    parameters, data = (_mapping(item.get(key)) for key in ("parameters", "data"))
    names = (item.get("entry_id"), data.get("material_id"), item.get("id"))
    return bool(
        parameters.get("potcar_spec")
        or parameters.get("potcar_symbols")
        or any(_MP_ID.match(str(name)) for name in names if name)
    )


def with_mp2020(entry: Computed) -> Computed:
    """The entry once the Materials Project's corrections are in its energy."""
    scheme = dataclasses.replace(
        entry.scheme, corrections=frozenset({_MP2020}), joins_hubbards=True
    )
    return dataclasses.replace(entry, scheme=scheme)


def require_one(entries: Sequence[Computed], path: str) -> None:
    """Raises ValueError, naming two entries, if these make no hull together."""
    _require_one_functional(entries, path)
    _require_same_words(entries, path)
    _require_one_hubbard(entries, path)
    _require_one_correction(entries, path)


def _require_one_functional(entries: Sequence[Computed], path: str) -> None:
    first: dict[str, str] = {}
    for entry in entries:
        first.setdefault(entry.scheme.functional, entry.id)
    if len(first) > 1:
        listed = "; ".join(
            f"{entry_id!r} has {functional}"
            if functional
            else f"{entry_id!r} does not say its functional"
            for functional, entry_id in first.items()
        )
        raise errors.UserError(
            f"{path} holds energies of {len(first)} functionals (run types): {listed}; "
            "one hull has one: split the file"
        )


def _require_same_words(entries: Sequence[Computed], path: str) -> None:
    """Raises unless entries that state a further setting state the same one."""
    first: dict[str, dict[str, str]] = {}
    for entry in entries:
        for key, value in entry.scheme.words.items():
            example = f"{entry.id!r} has {value[:60]}"
            first.setdefault(key, {}).setdefault(
                levels_of_theory.normalize(value), example
            )
    for key, values in first.items():
        if len(values) > 1:
            listed = "; ".join(values.values())
            raise errors.UserError(
                f"{path} holds energies of {len(values)} kinds by their {key!r}: "
                f"{listed}; one hull has one: split the file"
            )


def _require_one_hubbard(entries: Sequence[Computed], path: str) -> None:
    """Each element has one U, or the energies with it were made comparable."""
    found: dict[str, dict[str, tuple[str, bool]]] = {}
    for entry in entries:
        hubbards = entry.scheme.hubbards
        for symbol in entry.symbols:
            if hubbards is None:
                # Which one is not said; elements without d and f electrons have none.
                value = "an unknown U" if _may_have_u(symbol) else "no U"
            else:
                value = f"U = {hubbards[symbol]:g} eV" if symbol in hubbards else "no U"
            joins = value == "no U" or entry.scheme.joins_hubbards
            known = found.setdefault(symbol, {})
            known.setdefault(value, (entry.id, True))
            known[value] = (known[value][0], known[value][1] and joins)
    for symbol, values in found.items():
        with_u = {value: each for value, each in values.items() if value != "no U"}
        is_one = len(with_u) <= 1 and all(joins for _, joins in with_u.values())
        if len(values) > 1 and not is_one:
            listed = "; ".join(
                f"{entry_id!r} has {value}" for value, (entry_id, _) in values.items()
            )
            raise errors.UserError(
                f"{path} holds energies of {symbol} with several U: {listed}; one hull "
                "has one, or energies that a mixing correction made comparable: split "
                "the file, or correct it with pymatgen's "
                "MaterialsProject2020Compatibility"
            )


def _require_one_correction(entries: Sequence[Computed], path: str) -> None:
    first: dict[str, str] = {}
    for entry in entries:
        for family in entry.scheme.corrections:
            first.setdefault(family, entry.id)
    if len(first) > 1:
        listed = "; ".join(
            f"{entry_id!r} has {name}" for name, entry_id in first.items()
        )
        raise errors.UserError(
            f"{path} holds energies corrected in {len(first)} ways: {listed}; one hull "
            "has one: correct all of them in the same way"
        )
    if not first:
        return
    # All compounds of an anion are corrected, or none is.
    corrected: dict[str, str] = {}
    bare: dict[str, str] = {}
    for entry in entries:
        if len(entry.symbols) < 2:
            continue
        anion = max(entry.symbols, key=_electronegativity)
        places = corrected if entry.scheme.corrections else bare
        places.setdefault(anion, entry.id)
    for anion in corrected.keys() & bare.keys():
        raise errors.UserError(
            f"{path} holds energies of compounds of {anion} with and without "
            f"corrections: {corrected[anion]!r} has {next(iter(first))}, "
            f"{bare[anion]!r} has none; one hull has one: correct all of them in the "
            "same way"
        )


def _may_have_u(symbol: str) -> bool:
    element = Element(symbol)
    return element.is_transition_metal or element.is_lanthanoid or element.is_actinoid


def _electronegativity(symbol: str) -> float:
    # Noble gases have none.
    value = Element(symbol).data.get("X")
    return value if isinstance(value, float | int) else 0.0


def _family(adjustment: Mapping[str, Any]) -> str:
    name = str(adjustment.get("name") or "")
    made_by = _mapping(adjustment.get("cls")).get("@class")
    known = [family for start, family in _FAMILIES if name.startswith(start)]
    return str(made_by) if made_by else next(iter(known), "")


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
