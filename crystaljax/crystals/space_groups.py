"""The 230 space groups: their operations as one table, their symbols.

Every group is in its standard setting: unique axis b and cell choice 1 for monoclinic
groups, hexagonal axes for rhombohedral ones, origin choice 1 where there are two. The
table is a data file; experiments/tables/make_space_groups.py makes it from pymatgen.
"""

import functools
import pathlib

import numpy as np
from jaxtyping import Float

from crystaljax.system import errors

NUM_SPACE_GROUPS = 230
# The largest groups, such as Fm-3m with its centring translations.
MAX_OPERATIONS = 192

# Symbols from before 1992, when the e for a double glide plane came into use: AFLOW's
# and older tables have them.
_OLD_SYMBOLS = {"Abm2": 39, "Aba2": 41, "Cmca": 64, "Cmma": 67, "Ccca": 68}
# Translations are stored as integers: every one is a multiple of 1/24.
_TRANSLATION_DENOMINATOR = 24


# Tables by the order of their operations.
_TABLES = {"sorted": "space_groups", "reference": "space_groups_reference"}


@functools.cache
def load_space_group_operations(
    order: str = "sorted",
) -> Float[np.ndarray, "231 192 4 4"]:
    """Affine operations of every space group, float32 and read-only.

    The index is the space-group number; index 0, for "no space group", and operations
    beyond a group's order are 0 throughout. An operation acts on fractional coordinates
    as a column, ``matrix @ (x, y, z, 1)``.

    Args:
        order: of a group's operations. "sorted": the identity and the centring
            translations, then proper rotations, then improper ones; among these by
            falling trace, falling entries of the rotation (row by row) and rising
            translation, which lies in [0, 1). "reference": as the paper's code had them
            from pymatgen, translations outside [0, 1) among them; weights that were
            trained with it need it.

    Raises:
        ValueError: an unknown order.
    """
    if order not in _TABLES:
        raise errors.UserError(
            f"unknown order of operations {order!r}; expected one of {tuple(_TABLES)}"
        )
    with _open_table(_TABLES[order]) as table:
        rotations = table["rotations"]
        translations = table["translations"]
        orders = table["orders"]
    operations = np.zeros(
        (NUM_SPACE_GROUPS + 1, MAX_OPERATIONS, 4, 4), dtype=np.float32
    )
    # Row-major order of a mask is group by group, as the operations are stored.
    used = np.arange(MAX_OPERATIONS) < orders[:, None]
    operations[used, :3, :3] = rotations
    operations[used, :3, 3] = translations / np.float32(_TRANSLATION_DENOMINATOR)
    operations[used, 3, 3] = 1
    # The cached array is shared by all callers.
    operations.setflags(write=False)
    return operations


@functools.cache
def load_space_group_symbols() -> tuple[str, ...]:
    """Short Hermann-Mauguin symbols, such as ``P6_3/mmc``; index 0 is empty."""
    with _open_table("space_groups") as table:
        return tuple(table["symbols"].tolist())


def _open_table(name: str) -> np.lib.npyio.NpzFile:
    return np.load(pathlib.Path(__file__).parent / "tables" / f"{name}.npz")


def parse_space_groups(text: str) -> list[int]:
    """Reads a list of space groups, as a command-line flag gives it.

    Args:
        text: ``"all"``, or numbers and Hermann-Mauguin symbols between commas, such as
            ``"1,225,P6_3/mmc"``. Underscores, blanks and capitals do not matter.

    Returns:
        Space-group numbers in the order given, each once.

    Raises:
        ValueError: a number is outside 1-230, a symbol is unknown, or there are none.
    """
    if text.strip().lower() == "all":
        return list(range(1, NUM_SPACE_GROUPS + 1))
    entries = [entry.strip() for entry in text.split(",")]
    if not all(entries):
        raise errors.UserError(
            f"space groups {text!r} have an empty entry; expected 'all', or numbers "
            "and symbols between commas, such as '1,225,P6_3/mmc'"
        )
    return list(dict.fromkeys(_parse_space_group(entry) for entry in entries))


def _parse_space_group(entry: str) -> int:
    # Symbols start with a letter: anything else is meant as a number.
    if entry[0].isalpha():
        number = _numbers_by_symbol().get(_normalise(entry))
        if number is None:
            raise errors.UserError(
                f"unknown space-group symbol {entry[:40]!r}; expected a short "
                "Hermann-Mauguin symbol such as 'Fm-3m' or 'P6_3/mmc', or a number "
                "from 1 to 230"
            )
        return number
    # Python refuses to make numbers of thousands of digits.
    digits = entry.lstrip("0") if entry.isdecimal() else ""
    if 1 <= len(digits) <= 3 and int(digits) <= NUM_SPACE_GROUPS:
        return int(digits)
    raise errors.UserError(
        f"space group {entry[:40]!r} does not exist; expected a number from 1 to "
        f"{NUM_SPACE_GROUPS}, or a symbol such as 'Fm-3m'"
    )


@functools.cache
def _numbers_by_symbol() -> dict[str, int]:
    symbols = enumerate(load_space_group_symbols()[1:], start=1)
    numbers = {_normalise(symbol): number for number, symbol in symbols}
    return numbers | {_normalise(name): n for name, n in _OLD_SYMBOLS.items()}


def _normalise(symbol: str) -> str:
    return "".join(symbol.split()).replace("_", "").lower()
