"""Which sites of a crystal are kept: by element, number, or a column of extxyz."""

import dataclasses
import os
import pathlib
import re
from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool

from crystaljax.crystals import elements, inputs, structure
from crystaljax.system import errors, text_files

ALL = "all"
_EXPECTED = (
    "expected elements (Ta,W), numbers of sites from 0 (0,3,8:11), a column of an "
    "extxyz file (fixed, or tags:1), or all"
)


@dataclasses.dataclass(frozen=True, eq=False)
class Template:
    """A crystal of which a part is kept.

    Attributes:
        path: of its file.
        crystal: all of its sites, as the file has them.
        is_kept: bool (sites,).
    """

    path: pathlib.Path
    crystal: structure.Crystal
    is_kept: np.ndarray

    @property
    def part(self) -> structure.Crystal:
        """The sites that are kept."""
        crystal = self.crystal
        return structure.Crystal(
            crystal.atomic_numbers[self.is_kept],
            crystal.frac_coords[self.is_kept],
            crystal.lattice,
        )

    def names(self) -> list[str]:
        """Each site by its number and element."""
        return [
            f"site {index} ({elements.symbol(number)})"
            for index, number in enumerate(self.crystal.atomic_numbers.tolist())
        ]


def read_template(path: str | os.PathLike[str], keep: str) -> Template:
    """A crystal from a file, and which of its sites are kept.

    A left-handed cell is turned into the right-handed one of the same crystal.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: it holds no ordered crystal, or several, or `choose_sites`.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        raise errors.UserError(f"template {path} is a folder; expected one crystal")
    found, problems = inputs.read_inputs(path)
    if problems:
        raise errors.UserError(f"template {path}: {problems[0].reason}")
    if len(found) != 1:
        raise errors.UserError(
            f"template {path} holds {len(found)} crystals; expected one"
        )
    crystal, columns = found[0].crystal, _read_columns(path)
    if np.linalg.det(crystal.lattice) < 0:
        crystal = structure.wrapped(
            dataclasses.replace(
                crystal, lattice=-crystal.lattice, frac_coords=-crystal.frac_coords
            )
        )
    return Template(path, crystal, choose_sites(keep, crystal, columns))


def _read_columns(path: pathlib.Path) -> Mapping[str, np.ndarray]:
    """Columns of an extxyz file beside species and positions; none of other files."""
    if path.suffix.lower() not in (".extxyz", ".xyz"):
        return {}
    # ASE takes a while to import, and the other formats do without.
    from crystaljax.crystals import extxyz

    with text_files.open_text(path.open("rb")) as file:
        (text,) = extxyz.split_frames(file)
    arrays = extxyz.parse_frame(text).atoms.arrays
    return {
        name: values
        for name, values in arrays.items()
        if values.ndim == 1 and name != "numbers"
    }


def choose_sites(
    text: str,
    crystal: structure.Crystal,
    columns: Mapping[str, np.ndarray] | None = None,
) -> Bool[np.ndarray, " sites"]:
    """Sites that a text names: ``Ta,W``, ``0,3,8:11``, ``fixed``, ``tags:1``, ``all``.

    Parts are separated by commas, and what any of them names is chosen. Sites are
    counted from 0 in the order of the file; both ends of a range are included. A column
    alone chooses the sites where it is neither 0 nor false.

    Raises:
        UserError: a part cannot be read, or fits no site; or none is chosen.
    """
    columns = columns or {}
    chosen = np.zeros(crystal.num_sites, bool)
    formula = elements.cell_formula(crystal.atomic_numbers)
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise errors.UserError(f"keep is {text!r}, which keeps nothing; {_EXPECTED}")
    for part in parts:
        fits = _find(part, crystal, columns)
        if fits is None:
            known = ", ".join(columns) or "none"
            raise errors.UserError(
                f"keep: {part!r} is no element, number, or column (this file has "
                f"{known}); {_EXPECTED}"
            )
        if not fits.any():
            raise errors.UserError(
                f"keep: {part!r} fits no site of {formula}, which has "
                f"{crystal.num_sites} sites, 0 to {crystal.num_sites - 1}; {_EXPECTED}"
            )
        chosen |= fits
    return chosen


def _find(part, crystal, columns) -> np.ndarray | None:
    """The sites that one part names; None if it cannot be read."""
    count = crystal.num_sites
    if part == ALL:
        return np.ones(count, bool)
    if match := re.fullmatch(r"(-?\d+)(?::(-?\d+))?", part):
        first = int(match.group(1))
        last = int(match.group(2) or first)
        if not 0 <= first <= last < count:
            raise errors.UserError(
                f"keep: {part!r} is out of range; "
                f"{elements.cell_formula(crystal.atomic_numbers)} has {count} sites, "
                f"0 to {count - 1}"
            )
        sites = np.arange(count)
        return (sites >= first) & (sites <= last)
    if part in elements.SYMBOLS:
        return crystal.atomic_numbers == elements.atomic_number(part)
    name, colon, value = part.partition(":")
    if name not in columns:
        return None
    values = columns[name]
    if colon:
        return np.array([_agrees(each, value) for each in values.tolist()])
    if values.dtype.kind not in "biuf":
        raise errors.UserError(
            f"keep: the column {name!r} holds text; name a value, such as "
            f"{name}:{values[0]}"
        )
    return values.astype(bool)


def _agrees(entry: object, text: str) -> bool:
    if isinstance(entry, bool):
        return text.lower() in (("t", "true", "1") if entry else ("f", "false", "0"))
    if isinstance(entry, int | float):
        try:
            return float(text) == entry
        except ValueError:
            return False
    return str(entry) == text
