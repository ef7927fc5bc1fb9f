"""Files that hold one crystal, CIF and POSCAR: which is which, and text → crystal."""

import pathlib
import warnings

from crystaljax import structure
from crystaljax.data.sources import cif

FORMATS = "CIF (.cif), POSCAR (.vasp, .poscar, POSCAR*, CONTCAR*)"
_POSCAR_SUFFIXES = (".vasp", ".poscar")
_POSCAR_NAMES = ("POSCAR", "CONTCAR")
# The lines with the numbers of atoms are the sixth, and since VASP 5 the seventh.
_COUNT_LINES = slice(5, 7)


def find_format(name: str) -> str | None:
    """Format by a file's name: "cif", "poscar", or None for any other."""
    path = pathlib.PurePosixPath(name)
    if path.suffix.lower() == ".cif":
        return "cif"
    if path.suffix.lower() in _POSCAR_SUFFIXES or is_poscar_name(path.name):
        return "poscar"
    return None


def is_poscar_name(name: str) -> bool:
    """Whether it is named as VASP does, so that the name says nothing more."""
    return name.upper().startswith(_POSCAR_NAMES)


def parse_crystal(text: str, format: str) -> structure.Crystal:
    """Text of a file of that format → crystal; cell and sites as written.

    Raises:
        ValueError: the text is no ordered crystal, or the format is unknown.
    """
    if format == "cif":
        return cif.parse_cif(text)
    if format == "poscar":
        return parse_poscar(text)
    raise ValueError(f"unknown format {format!r}; expected 'cif' or 'poscar'")


def parse_poscar(text: str) -> structure.Crystal:
    """POSCAR of VASP 5, with the names of the elements → crystal.

    Raises:
        ValueError: the text is no such POSCAR.
    """
    # Slow to import, and not always needed.
    from pymatgen.io.vasp import Poscar

    from crystaljax import bridge

    _require_plausible_counts(text)
    with warnings.catch_warnings():
        # A POSCAR without element symbols is read as H, He, Li with a warning.
        warnings.simplefilter("error")
        try:
            parsed = Poscar.from_str(text).structure
        except Exception as error:
            # Its parser raises whatever a malformed text leads to: IndexError, ...
            raise ValueError(f"not readable as POSCAR: {error}") from error
    return bridge.from_pymatgen(parsed)


def _require_plausible_counts(text: str) -> None:
    """Raises for more atoms than lines, before a list of so many names is made."""
    lines = text.splitlines()
    for token in " ".join(lines[_COUNT_LINES]).split():
        if token.isdecimal() and (len(token) > 9 or int(token) > len(lines)):
            raise ValueError(
                f"not readable as POSCAR: {token[:20]} atoms in {len(lines)} lines"
            )
