"""POSCAR and CONTCAR text → crystal, by VASP's own rules for the lines it reads.

Only the lines that make the crystal decide whether a file is good: comment, scale,
lattice, species, counts, mode and as many sites as the counts say. Flags of selective
dynamics do not change the crystal, and velocities and what follows them are not read.
VASP reads numbers and ignores the rest of a line; here the rest must be a comment,
flags or names, so that a damaged line is not read as another one.
"""

import re

import numpy as np
from jaxtyping import Float

from crystaljax.crystals import elements, structure
from crystaljax.system import cut_ends, errors

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eEdD][+-]?\d+)?")
_COUNT = re.compile(r"\d{1,18}")
_FLAG = re.compile(r"\.?(T|F|TRUE|FALSE)\.?", re.IGNORECASE)
# ``Cu1`` at the end of a site's line, as several programs write it.
_SITE_NAME = re.compile(r"([A-Z][a-z]?)\d*")
# VASP 6 adds a hash of the potential to a name, older files the potential's variant.
_AFTER_SYMBOL = re.compile(r"[/_].*")
_COMMENT_SIGNS = ("!", "#")
_NUM_HEAD_LINES = 5


def parse_poscar(text: str) -> structure.Crystal:
    """Text of a POSCAR → crystal; cell as written, sites wrapped into it.

    The species are the names before the counts (VASP 5), or where the file has none
    (VASP 4) the names at the end of the sites' lines.

    Raises:
        ValueError: a line is none of a POSCAR, a species is no element or not said, or
            lines contradict each other.
    """
    lines = text.split("\n")
    if len(lines) <= _NUM_HEAD_LINES:
        raise errors.UserError(
            f"not readable as POSCAR: it ends after {len(lines)} lines"
        )
    lattice, scale = _read_lattice(lines)
    names, counts, position = _read_species(lines, _NUM_HEAD_LINES)
    is_selective = _line(lines, position)[:1] in ("S", "s")
    position += is_selective
    is_cartesian = _is_cartesian(_line(lines, position), position)
    first = position + 1
    coords, rests = _read_sites(lines, first, sum(counts))
    if not cut_ends.is_ended(text) and len(lines) == first + len(coords):
        _require_whole_end(lines[first:], len(lines) - 1)
    trailing = [_name_after(rest, is_selective) for rest in rests]
    if names is None:
        symbols = _names_of_sites(trailing)
    else:
        symbols = np.repeat(names, counts).tolist()
        _require_same_names(symbols, trailing, first)
    if is_cartesian:
        coords = (coords * scale) @ np.linalg.inv(lattice)
    return structure.Crystal(
        atomic_numbers=np.array([elements.atomic_number(each) for each in symbols]),
        frac_coords=structure.wrap_sites(coords),
        lattice=lattice,
    )


def _require_whole_end(site_lines: list[str], position: int) -> None:
    """Raises where the text ends within the last coordinate."""
    words = [line.split() for line in site_lines]
    last = words[-1][-1]
    others = [word for each in words for word in each[:3]][:-1]
    if len(words[-1]) == 3 and cut_ends.is_cut(last, others):
        raise _refuse(
            position,
            f"ends with {last[:40]!r}, shorter than the other coordinates, so that it "
            f"seems to be cut off; {cut_ends.HINT}",
        )


def _line(lines: list[str], position: int) -> str:
    return lines[position].strip() if position < len(lines) else ""


def _refuse(position: int, problem: str) -> errors.UserError:
    return errors.UserError(f"not readable as POSCAR: line {position + 1} {problem}")


def _read_lattice(
    lines: list[str],
) -> tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, " factors"]]:
    """Scaled lattice, and the factors of Cartesian coordinates: one or three."""
    scale = np.array(_numbers(lines[1], 1, (1, 3)))
    vectors = np.array([_numbers(lines[i], i, (3,)) for i in range(2, _NUM_HEAD_LINES)])
    volume = abs(float(np.linalg.det(vectors)))
    if not np.isfinite(vectors).all() or not volume > 0:
        raise _refuse(2, "and the two after it span no cell")
    if len(scale) == 1 and scale[0] < 0:
        # A negative number is the volume of the cell, Å³.
        scale = np.cbrt(-scale / volume)
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        raise _refuse(
            1,
            f"has the scale {lines[1].strip()[:60]!r}; expected a positive number, a "
            "volume as a negative one, or three positive numbers",
        )
    return vectors * scale, scale


def _numbers(line: str, position: int, lengths: tuple[int, ...]) -> list[float]:
    """The numbers that a line consists of, up to a comment."""
    values = []
    for token in line.split():
        if token.startswith(_COMMENT_SIGNS):
            break
        values.append(_number(token, position))
    if len(values) not in lengths:
        expected = " or ".join(map(str, lengths))
        raise _refuse(position, f"has {len(values)} numbers; expected {expected}")
    return values


def _number(token: str, position: int) -> float:
    if not _NUMBER.fullmatch(token):
        raise _refuse(position, f"has {token[:40]!r} where a number was expected")
    return float(token.lower().replace("d", "e"))


def _read_species(
    lines: list[str], position: int
) -> tuple[list[str] | None, list[int], int]:
    """Symbols (None where there are none), counts, and the position after them.

    VASP writes twenty a line, so that both may take several lines.
    """
    names: list[str] = []
    counts: list[int] = []
    while (tokens := _tokens(lines, position)) and not _are_counts(tokens):
        names += [_symbol(token, position) for token in tokens]
        position += 1
    while (tokens := _tokens(lines, position)) and _are_counts(tokens):
        counts += [int(token) for token in tokens]
        position += 1
        if names and len(counts) >= len(names):
            break
    if not sum(counts):
        raise _refuse(position, "should have the numbers of atoms, and has none")
    if names and len(names) != len(counts):
        raise _refuse(
            position - 1, f"has {len(counts)} numbers of atoms for {len(names)} species"
        )
    if sum(counts) > len(lines):
        # Before a list of so many names is made.
        raise errors.UserError(
            f"not readable as POSCAR: {sum(counts)} atoms in {len(lines)} lines"
        )
    return names or None, counts, position


def _tokens(lines: list[str], position: int) -> list[str]:
    tokens = _line(lines, position).split()
    for number, token in enumerate(tokens):
        if token.startswith(_COMMENT_SIGNS):
            return tokens[:number]
    return tokens


def _are_counts(tokens: list[str]) -> bool:
    return all(map(_COUNT.fullmatch, tokens))


def _symbol(name: str, position: int) -> str:
    symbol = _AFTER_SYMBOL.sub("", name).capitalize()
    if symbol not in elements.SYMBOLS:
        raise _refuse(
            position,
            f"has {name[:40]!r} where the symbol of an element was expected, such as "
            "'Cu'",
        )
    return symbol


def _is_cartesian(line: str, position: int) -> bool:
    # VASP takes whatever does not begin with one of these as direct: even a site.
    if line[:1] in tuple("CcKk"):
        return True
    if line[:1] in tuple("DdFf"):
        return False
    raise _refuse(
        position, f"has {line[:40]!r}; expected 'Direct' or 'Cartesian' coordinates"
    )


def _read_sites(
    lines: list[str], first: int, num_sites: int
) -> tuple[Float[np.ndarray, "sites 3"], list[list[str]]]:
    """Coordinates as written, and what comes after them."""
    coords = []
    rests = []
    for position in range(first, first + num_sites):
        tokens = _line(lines, position).split()
        if len(tokens) < 3:
            raise _refuse(
                position,
                f"has {len(tokens)} coordinates; expected {num_sites} sites with 3",
            )
        coords.append([_number(token, position) for token in tokens[:3]])
        rest = tokens[3:]
        if rest and _NUMBER.fullmatch(rest[0]):
            raise _refuse(position, f"has {len(tokens)} numbers; expected 3")
        rests.append(rest)
    after = _tokens(lines, first + num_sites)
    if len(after) >= 3 and all(map(_NUMBER.fullmatch, after[:3])):
        raise _refuse(first + num_sites, f"is another site; the counts say {num_sites}")
    return np.array(coords), rests


def _name_after(rest: list[str], is_selective: bool) -> str:
    """The element after a site's coordinates and flags; "" for none."""
    # F is a flag where there are several of them, and fluorine where it stands alone.
    if is_selective or (len(rest) > 1 and all(map(_FLAG.fullmatch, rest[:3]))):
        rest = rest[3:]
    match = _SITE_NAME.fullmatch(_AFTER_SYMBOL.sub("", rest[0])) if rest else None
    symbol = match.group(1) if match else ""
    return symbol if symbol in elements.SYMBOLS else ""


def _names_of_sites(trailing: list[str]) -> list[str]:
    if not all(trailing):
        raise errors.UserError(
            "not readable as POSCAR: it does not say the species (VASP 4); write their "
            "symbols in the line before the numbers of atoms, such as 'Au Cu'"
        )
    return trailing


def _require_same_names(symbols: list[str], trailing: list[str], first: int) -> None:
    """Raises where all sites have names, and one contradicts the species above."""
    if not all(trailing):
        return
    for number, (symbol, name) in enumerate(zip(symbols, trailing, strict=True)):
        if symbol != name:
            raise _refuse(
                first + number, f"has the name {name}; the counts say {symbol} there"
            )
