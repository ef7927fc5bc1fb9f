"""The operations of a CIF: as listed, or those of the setting that it names.

What is listed counts, and must be a group of the type that is named; where nothing is
listed, the name says the operations, and if it can mean several settings, all of them
are handed out for the crystal to decide.
"""

import dataclasses
import functools
import re

import numpy as np
from jaxtyping import Float

from crystaljax.crystals import cif_tags, operations, refusals, space_group_names

_LISTS = (
    "_space_group_symop_operation_xyz",
    "_symmetry_equiv_pos_as_xyz",
)
_MAGNETIC_LIST = "_space_group_symop_magn_operation_xyz"
_MAGNETIC_CENTRINGS = "_space_group_symop_magn_centering_xyz"
_NAMES = (
    "_space_group_name_h-m_alt",
    "_symmetry_space_group_name_h-m",
    "_space_group_name_h-m_full",
    "_space_group_name_h-m",
)
# The name of the standard setting, whatever setting the file is in.
_REFERENCE_NAME = "_space_group_name_h-m_ref"
_HALL_NAMES = ("_space_group_name_hall", "_symmetry_space_group_name_hall")
_NUMBERS = ("_space_group_it_number", "_symmetry_int_tables_number")
_CHOICE = "_space_group_it_coordinate_system_code"
_MODULATION = "_cell_modulation_dimension"
_IDENTITY = ("x,y,z",)
_CONTRADICTION = "operations contradict the space group of the file"
_UNKNOWN = "symmetry not said or not known"


@dataclasses.dataclass(frozen=True, eq=False)
class Candidate:
    """Operations that a file can mean.

    Attributes:
        operations: of the cell, centring translations included.
        name: what the file calls them, for messages.
        rank: see `space_group_names.Setting`.
        doubt: why only the file's own formula can confirm them; "" if nothing need.
    """

    operations: operations.Operations
    name: str
    rank: int = 0
    doubt: str = ""


def find_candidates(
    block: cif_tags.Block, lattice: Float[np.ndarray, "3 3"]
) -> list[Candidate]:
    """All operations that the file can mean; one unless a name leaves a choice.

    Raises:
        RefusedError: they are no group, contradict the name or the cell, or the name
            is unknown.
    """
    if block.number(_MODULATION):
        raise refusals.RefusedError(
            "a modulated structure; expected a periodic one: write an approximant",
            _UNKNOWN,
        )
    names = tuple(block.values(*_NAMES))
    found = _resolve(
        names,
        tuple(block.values(_REFERENCE_NAME)),
        tuple(block.values(*_HALL_NAMES)),
        tuple(block.values(*_NUMBERS)),
        tuple(text for _, text in block.values(_CHOICE)),
        _listed(block),
    )
    fitting = [
        each
        for each in found
        if len(each.operations) <= 1 or operations.fit_cell(each.operations, lattice)
    ]
    if not fitting:
        raise refusals.RefusedError(
            f"the cell does not have the symmetry of {found[0].name}: lengths or "
            "angles that it makes equal are not",
            _CONTRADICTION,
        )
    lowest = min(each.rank for each in fitting)
    return [each for each in fitting if each.rank == lowest]


def _listed(block: cif_tags.Block) -> tuple[tuple[str, ...], ...]:
    """All lists of operations that the file has, as text without blanks."""
    lists = []
    for tag in _LISTS:
        texts = block.texts(tag)
        if texts is not None and not all(map(cif_tags.is_unknown, texts)):
            lists.append(tuple(map(_strip, texts)))
    magnetic = block.texts(_MAGNETIC_LIST)
    if magnetic is not None:
        centrings = block.texts(_MAGNETIC_CENTRINGS) or ["x,y,z"]
        lists.append(
            tuple(_compose(one, other) for one in centrings for other in magnetic)
        )
    return tuple(lists)


def _strip(text: str) -> str:
    return "".join(text.split()).lower()


def _compose(centring: str, operation: str) -> str:
    """``x+1/2,y,z,+1`` and ``-x,y,z,-1`` → the product; time reversal moves no atom."""
    triplets = [
        _strip(re.sub(r",\s*[+-]?1\s*$", "", each)) for each in (centring, operation)
    ]
    return operations.compose(*triplets)


# Files of one data set name a handful of groups.
@functools.lru_cache(maxsize=1024)
def _resolve(
    names: tuple[tuple[str, str], ...],
    references: tuple[tuple[str, str], ...],
    halls: tuple[tuple[str, str], ...],
    numbers: tuple[tuple[str, str], ...],
    choices: tuple[str, ...],
    lists: tuple[tuple[str, ...], ...],
) -> tuple[Candidate, ...]:
    number = _only_number(numbers)
    if (
        lists == (_IDENTITY,)
        and number in (None, 1)
        and not (halls or references)
        and all(text in ("P 1", "P1") for _, text in names)
    ):
        # As in most data sets: the tables of names are not even loaded.
        return (Candidate(operations.parse_triplets(_IDENTITY), "P 1"),)
    named = {text: space_group_names.find_settings(text) for _, text in names}
    if lists:
        made = _parse_lists(lists)
        _require_named(made, named, references, halls, number)
        return (Candidate(made, f"the {len(made)} operations"),)
    made = _parse_hall(halls, is_needed=not any(named.values()))
    if made is not None:
        _require_named(made, named, references, (), number)
        return (Candidate(made, repr(halls[0][1])),)
    if named:
        return _choose_settings(named, number, choices)
    if references or number is not None:
        settings = (
            space_group_names.settings_of_number(number)
            if number is not None
            else space_group_names.find_settings(references[0][1])
        )
        name = f"space group {number}" if number is not None else references[0][1]
        return _candidates(_with_choice(settings, choices), name)
    doubt = "it names no space group and lists no operations, so that it is P 1"
    return (Candidate(operations.parse_triplets(_IDENTITY), "P 1", doubt=doubt),)


def _only_number(numbers: tuple[tuple[str, str], ...]) -> int | None:
    found = set()
    for tag, text in numbers:
        # No group has it: programs write it where they do not know.
        if text == "0":
            continue
        if not (text.isdecimal() and len(text) < 4 and 1 <= int(text) <= 230):
            raise refusals.RefusedError(
                f"{tag} is {text[:40]!r}; expected a number from 1 to 230", _UNKNOWN
            )
        found.add(int(text))
    if len(found) > 1:
        raise refusals.RefusedError(
            f"it names the space groups {sorted(found)}; expected one", _CONTRADICTION
        )
    return found.pop() if found else None


def _parse_lists(lists: tuple[tuple[str, ...], ...]) -> operations.Operations:
    try:
        first, *others = [operations.parse_triplets(each) for each in lists]
    except ValueError as error:
        raise refusals.RefusedError(str(error), _CONTRADICTION) from error
    for other in others:
        if not operations.are_equal(first, other):
            raise refusals.RefusedError(
                f"it has two lists of {len(first)} and {len(other)} operations that "
                "differ; remove one",
                _CONTRADICTION,
            )
    return first


def _parse_hall(
    halls: tuple[tuple[str, str], ...], is_needed: bool
) -> operations.Operations | None:
    """Operations of the first Hall symbol that is one; None if there is none."""
    problem = None
    for _, text in halls:
        try:
            return operations.parse_hall(text)
        except ValueError as error:
            problem = error
    if problem is not None and is_needed:
        raise refusals.RefusedError(
            f"{problem}; list the operations", _UNKNOWN
        ) from problem
    return None


def _require_named(
    made: operations.Operations,
    named: dict[str, list[space_group_names.Setting]],
    references: tuple[tuple[str, str], ...],
    halls: tuple[tuple[str, str], ...],
    number: int | None,
) -> None:
    """Raises unless the operations are those of every group that is named."""
    try:
        found = operations.find_space_group(made)
    except ValueError as error:
        raise refusals.RefusedError(str(error), _CONTRADICTION) from error
    stated: list[tuple[str, set[int]]] = [
        (text, {each.number for each in settings}) for text, settings in named.items()
    ]
    stated += [
        (text, {each.number for each in space_group_names.find_settings(text)})
        for _, text in references
    ]
    for _, text in halls:
        try:
            stated.append(
                (text, {operations.find_space_group(operations.parse_hall(text))})
            )
        except ValueError:
            # A symbol that nobody knows contradicts nothing.
            continue
    if number is not None:
        stated.append((f"number {number}", {number}))
    for text, numbers in stated:
        if numbers and found not in numbers:
            raise refusals.RefusedError(
                f"the {len(made)} operations make space group {found}; the file names "
                f"{text[:40]!r}, space group {', '.join(map(str, sorted(numbers)))}",
                _CONTRADICTION,
            )


def _choose_settings(
    named: dict[str, list[space_group_names.Setting]],
    number: int | None,
    choices: tuple[str, ...],
) -> tuple[Candidate, ...]:
    """Settings that all names can mean, and the number and choice if there are any."""
    known = {text: settings for text, settings in named.items() if settings}
    name = next(iter(known or named))
    if not known:
        raise refusals.RefusedError(
            f"the space group {name[:40]!r} is unknown; list its operations "
            "(_space_group_symop_operation_xyz)",
            _UNKNOWN,
        )
    settings = known[name]
    for other, others in known.items():
        settings = [each for each in settings if each in others]
        if not settings:
            raise refusals.RefusedError(
                f"it names two space groups, {name[:40]!r} and {other[:40]!r}",
                _CONTRADICTION,
            )
    if number is not None:
        numbers = sorted({each.number for each in settings})
        settings = [each for each in settings if each.number == number]
        if not settings:
            raise refusals.RefusedError(
                f"it names {name[:40]!r}, space group {numbers[0]}, and the number "
                f"{number}",
                _CONTRADICTION,
            )
    return _candidates(_with_choice(settings, choices), name)


def _with_choice(
    settings: list[space_group_names.Setting], choices: tuple[str, ...]
) -> list[space_group_names.Setting]:
    """Those that the code of the file chooses; all if it chooses none of them."""
    codes = set(map(str.lower, choices))
    return [each for each in settings if codes & set(each.choices)] or settings


def _candidates(
    settings: list[space_group_names.Setting], name: str
) -> tuple[Candidate, ...]:
    if not settings:
        raise refusals.RefusedError(
            f"the space group {name[:40]!r} is unknown; list its operations", _UNKNOWN
        )
    return tuple(
        Candidate(each.operations(), f"{name} ({each.symbol})", each.rank)
        for each in settings
    )
