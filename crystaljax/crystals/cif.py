"""CIF text → crystal: a quick reader for CIFs in P1, pymatgen for all others.

Data sets in CSV hold CIFs written by pymatgen without symmetry. For these pymatgen's
own parser takes 2-10 ms, almost all of it on symmetry that is not there.
"""

import re

import numpy as np

from crystaljax.crystals import elements, structure
from crystaljax.system import errors

_CELL_TAGS = (
    "_cell_length_a",
    "_cell_length_b",
    "_cell_length_c",
    "_cell_angle_alpha",
    "_cell_angle_beta",
    "_cell_angle_gamma",
)
_COORD_TAGS = ("_atom_site_fract_x", "_atom_site_fract_y", "_atom_site_fract_z")
_SYMMETRY_TAGS = (
    "_symmetry_equiv_pos_as_xyz",
    "_space_group_symop_operation_xyz",
    "_space_group_symop.operation_xyz",
)
_UNCERTAINTY = re.compile(r"\([0-9]+\)$")
_LEADING_SYMBOL = re.compile(r"[A-Z][a-z]?")


def parse_cif(text: str) -> structure.Crystal:
    """The first crystal of a CIF; cell, sites and coordinates as written.

    Raises:
        ValueError: the text is no CIF of an ordered crystal.
    """
    crystal = _parse_p1(text)
    return crystal if crystal is not None else _parse_with_pymatgen(text)


def _parse_p1(text: str) -> structure.Crystal | None:
    """The crystal, or None for anything but one plain P1 cell."""
    values: dict[str, str] = {}
    loops: list[tuple[list[str], list[list[str]]]] = []
    in_loop_header = False
    for raw_line in text.splitlines():
        line = raw_line.strip()
        if not line or line.startswith("#"):
            continue
        if line.startswith(";"):
            return None
        if line == "loop_":
            loops.append(([], []))
            in_loop_header = True
        elif line.startswith("_"):
            tag, _, value = line.partition(" ")
            if in_loop_header and not value:
                loops[-1][0].append(tag)
            else:
                in_loop_header = False
                values[tag] = value.strip()
        elif line.startswith("data_"):
            if values or loops:
                return None
        elif loops:
            in_loop_header = False
            loops[-1][1].append(_split_line(line))
        else:
            return None
    try:
        return _crystal_from_tags(values, loops)
    except (KeyError, ValueError, IndexError):
        return None


def _crystal_from_tags(
    values: dict[str, str], loops: list[tuple[list[str], list[list[str]]]]
) -> structure.Crystal | None:
    sites = None
    for tags, rows in loops:
        if any(tag in _SYMMETRY_TAGS for tag in tags):
            column = next(i for i, tag in enumerate(tags) if tag in _SYMMETRY_TAGS)
            operations = ["".join(row[column].split()).lower() for row in rows]
            if operations != ["x,y,z"]:
                return None
        elif _COORD_TAGS[0] in tags:
            if sites is not None or any(len(row) != len(tags) for row in rows):
                return None
            columns = zip(*rows, strict=True)
            sites = dict(zip(tags, columns, strict=True))
    if sites is None or not any(
        tag in _SYMMETRY_TAGS for tags, _ in loops for tag in tags
    ):
        return None
    if any(_number(value) != 1 for value in sites.get("_atom_site_occupancy", ())):
        return None
    names = sites.get("_atom_site_type_symbol") or sites["_atom_site_label"]
    parameters = np.array([_number(values[tag]) for tag in _CELL_TAGS])
    coords = [[_number(value) for value in sites[tag]] for tag in _COORD_TAGS]
    return structure.Crystal(
        atomic_numbers=np.array([_atomic_number(name) for name in names]),
        frac_coords=np.array(coords, dtype=float).T,
        lattice=structure.lattice_from_parameters(parameters),
    )


def _split_line(line: str) -> list[str]:
    if "'" not in line and '"' not in line:
        return line.split()
    quoted = re.findall(r"'([^']*)'|\"([^\"]*)\"|(\S+)", line)
    return ["".join(parts) for parts in quoted]


def _number(text: str) -> float:
    return float(_UNCERTAINTY.sub("", text))


def _atomic_number(name: str) -> int:
    """Of a type symbol or label: ``Cu``, ``Cu2+``, ``Cu1``."""
    match = _LEADING_SYMBOL.match(name)
    if match is None:
        raise errors.UserError(f"{name!r} does not begin with an element symbol")
    return elements.atomic_number(match.group())


def _parse_with_pymatgen(text: str) -> structure.Crystal:
    # Slow to import, and rarely needed.
    import warnings

    from pymatgen.core import Structure

    from crystaljax.crystals import bridge

    with warnings.catch_warnings():
        # One bad row says so by failing; a warning per row would hide everything.
        warnings.simplefilter("ignore")
        try:
            parsed = Structure.from_str(text, fmt="cif")
        except Exception as error:
            # Its parser raises whatever a malformed text leads to: KeyError, ...
            raise errors.UserError(f"not readable as CIF: {error}") from error
    return bridge.from_pymatgen(parsed)
