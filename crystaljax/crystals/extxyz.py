r"""Extended XYZ, frame by frame: text stays text, numbers are numbers.

ASE reads the frames, but not their comment lines: it takes ``id=1_23`` for the number
123, ``InF`` for infinity and ``00042`` for 42. Here a value is a number only if it is
written as one, and the values of `TEXT_KEYS` are text whatever they look like. A string
that ASE would take for anything else is written as ``key="_JSON \"1_23\""``, which ASE
reads as that string, and so does this module.
"""

import dataclasses
import io
import itertools
import json
import re
from collections.abc import Collection, Iterator
from typing import Any

import ase
import ase.io.extxyz
import numpy as np

from crystaljax.crystals import stated_formulas
from crystaljax.system import cut_ends, errors

# Names, and what refers to names or is a name by its nature.
TEXT_KEYS = frozenset(
    (
        "name",
        "id",
        "uid",
        "material_id",
        "mat_id",
        "entry_id",
        "label",
        "file",
        "folder",
        "formula",
        "input",
        "known_as",
        "duplicate_of",
        "workdir",
    )
)

_JSON_PREFIX = "_JSON "
_DEFAULT_PROPERTIES = "species:S:1:pos:R:3"
_NUM_COLUMNS = re.compile(r"[1-9][0-9]{0,3}")
_COUNT = re.compile(r"[0-9]{1,18}")
_INTEGER = re.compile(r"[+-]?(0|[1-9][0-9]{0,17})")
_FLOAT = re.compile(
    r"[+-]?([0-9]+\.[0-9]*|\.[0-9]+|(0|[1-9][0-9]*)(?=[eE]))([eE][+-]?[0-9]+)?"
)
# As programs write them; InF is a compound.
_NOT_FINITE = frozenset(
    sign + word for sign in ("", "+", "-") for word in ("nan", "NaN", "inf", "Inf")
)
_BOOLEANS = {"T": True, "true": True, "True": True, "TRUE": True}
_BOOLEANS |= {"F": False, "false": False, "False": False, "FALSE": False}
# Nine numbers in columns.
_MATRICES = ("Lattice", "virial", "stress")
_CLOSING = {'"': '"', "'": "'", "{": "}", "[": "]"}
# What may stand between quotes as it is; every reader agrees on it.
_PLAIN = re.compile(
    "{0}( {0})*".format(r"[A-Za-z0-9_.:;,+/()@%<>~!?|*&^$#-]+"),
)
_NEXT_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*\s*=")
_CHUNK = re.compile(r"""[^\s="'{\[\\]+""")


@dataclasses.dataclass(frozen=True, eq=False)
class Frame:
    """One frame.

    Attributes:
        atoms: as ASE has them, with its calculator where there are energies; their
            ``info`` is by this module's rules.
        texts: the values of the comment line as they are written, without quotes.
    """

    atoms: ase.Atoms
    texts: dict[str, str]


def split_frames(file: io.TextIOBase) -> Iterator[str]:
    """Yields the text of each frame.

    Raises:
        ValueError: a frame does not begin with its number of atoms, the file ends
            within one, or it is no text.
    """
    try:
        yield from _split_text(file)
    except UnicodeDecodeError as error:
        raise errors.UserError(f"not text: {error}") from error


def _split_text(file: io.TextIOBase) -> Iterator[str]:
    number = 0
    count_line = _next_line(file)
    while count_line:
        # Without the count there is no telling where the next frame begins.
        if not _COUNT.fullmatch(count_line.strip()):
            raise errors.UserError(
                f"frame {number} begins with {count_line.strip()[:80]!r}; "
                "expected its number of atoms"
            )
        num_lines = int(count_line) + 1
        # Comes to an end with the file, whatever the count.
        lines = list(itertools.islice(iter(file.readline, ""), num_lines))
        if len(lines) < num_lines:
            raise errors.UserError(f"ends in the middle of frame {number}")
        following = _next_line(file)
        if following and not _COUNT.fullmatch(following.strip()):
            # One of its lines may be there twice, and the last is left over.
            raise errors.UserError(
                f"frame {number} has {num_lines - 1} atoms, and then comes "
                f"{following.strip()[:80]!r}; expected the number of atoms of the next "
                "frame"
            )
        yield count_line + "".join(lines)
        count_line = following
        number += 1


def _next_line(file: io.TextIOBase) -> str:
    """The next line that is not blank; "" at the end."""
    return next((line for line in iter(file.readline, "") if line.strip()), "")


def parse_frame(text: str, text_keys: Collection[str] = ()) -> Frame:
    """One frame, from its number of atoms to its last line.

    Args:
        text: of the frame.
        text_keys: whose values are text, besides `TEXT_KEYS`.

    Raises:
        ValueError: it cannot be read, or its sites do not make its formula.
    """
    texts: dict[str, str] = {}

    def parse(line: str) -> dict[str, Any]:
        values, found = parse_comment(line, text_keys)
        texts.update(found)
        if "Properties" in found:
            _require_columns(found["Properties"])
        return values

    try:
        frames = ase.io.extxyz.read_xyz(
            io.StringIO(text), index=0, properties_parser=parse
        )
        (atoms,) = frames
    except Exception as error:
        # ASE's reader raises whatever a malformed line leads to: KeyError, ...
        reason = str(error) or type(error).__name__
        raise errors.UserError(f"not readable as extxyz: {reason}") from error
    _require_whole_end(text, texts.get("Properties") or _DEFAULT_PROPERTIES)
    stated_formulas.require_formula(texts.get("formula"), atoms.numbers)
    return Frame(atoms, texts)


def _require_whole_end(text: str, properties: str) -> None:
    """Raises ValueError where the file ends within the last number of its last line."""
    if cut_ends.is_ended(text):
        return
    kind, count = properties.split(":")[-2:]
    rows = [line.split() for line in text.split("\n")[2:]]
    last = rows[-1][-1]
    # Of one property all columns are alike: x, y and z.
    others = [word for row in rows for word in row[-int(count) :]][:-1]
    if kind in ("R", "S") and cut_ends.is_cut(last, others):
        raise errors.UserError(
            f"it ends with {last[:40]!r}, which is shorter than its like "
            f"({others[-1][:40]!r}), so that it seems to be cut off; {cut_ends.HINT}"
        )


def _require_columns(properties: str) -> None:
    """Raises ValueError unless columns have counts, and positions are among them."""
    parts = properties.split(":")
    are_counts = all(_NUM_COLUMNS.fullmatch(each) for each in parts[2::3])
    if len(parts) % 3 or not are_counts or "pos" not in parts[::3]:
        # ASE would make arrays of any size, and put all atoms at the origin.
        raise errors.UserError(
            f"Properties is {properties[:80]!r}; expected names, types and numbers of "
            "columns with positions among them, such as 'species:S:1:pos:R:3'"
        )


def parse_comment(
    line: str, text_keys: Collection[str] = ()
) -> tuple[dict[str, Any], dict[str, str]]:
    """Comment line of a frame → values by key, and the same as text.

    Raises:
        ValueError: a quote or bracket is not closed, or a matrix has not nine numbers.
    """
    values: dict[str, Any] = {}
    texts: dict[str, str] = {}
    for key, written in _split_comment(line):
        if written is None:
            values[key] = True
            continue
        text, bare = written
        is_text = key in TEXT_KEYS or key in text_keys or key.endswith("_id")
        if text.startswith(_JSON_PREFIX):
            value = _parse_json(text)
            is_string = isinstance(value, str)
            texts[key] = value if is_string else text.removeprefix(_JSON_PREFIX)
            values[key] = texts[key] if is_text else value
            continue
        texts[key] = text
        values[key] = text if is_text else _parse_value(key, bare, text)
    return values, texts


def format_text(text: str) -> str:
    r"""A string as a value of ``Atoms.info`` that ASE's writer writes for good.

    What ASE would read as anything but this string is given as JSON, with backslashes
    doubled, since ASE takes one of them away.
    """
    words = re.split("[ ,]+", text)
    is_plain = _PLAIN.fullmatch(text) and not text.startswith(_JSON_PREFIX)
    if is_plain and any(_is_plainly_text(word) for word in words):
        return text
    return _JSON_PREFIX + json.dumps(text).replace("\\", "\\\\")


def _is_plainly_text(word: str) -> bool:
    """Whether no reader takes it for a number or a boolean."""
    if not word[:1].isalpha() or word in _BOOLEANS:
        return False
    try:
        float(word)
    except ValueError:
        return True
    return False


def _split_comment(line: str) -> Iterator[tuple[str, tuple[str, str] | None]]:
    """Yields key and value: with its brackets, and without; None for a key alone."""
    line = line.strip()
    position = 0
    while (position := _skip_blanks(line, position)) < len(line):
        key, _, position = _take_word(line, position, stops_at="=")
        # Blanks may stand around the "=".
        start = _skip_blanks(line, position)
        if line[start : start + 1] != "=":
            yield key, None
            continue
        position = start + 1
        start = _skip_blanks(line, position)
        if start > position and _NEXT_KEY.match(line, start):
            # A key without a value before the next key.
            yield key, ("", "")
            continue
        text, bare, position = _take_word(line, start)
        yield key, (text, bare)


def _skip_blanks(line: str, position: int) -> int:
    while position < len(line) and line[position].isspace():
        position += 1
    return position


def _take_word(line: str, position: int, stops_at: str = "") -> tuple[str, str, int]:
    """The word that begins there: with and without brackets, and where it ends."""
    text: list[str] = []
    bare: list[str] = []
    start = position
    while position < len(line):
        if chunk := _CHUNK.match(line, position):
            text.append(chunk[0])
            bare.append(chunk[0])
            position = chunk.end()
            continue
        character = line[position]
        if character.isspace() or character in stops_at:
            break
        if character in _CLOSING:
            end = _find_end(line, position)
            if end is not None:
                inner = _unescape(line[position + 1 : end], _CLOSING[character])
                is_bracket = character in "{["
                text.append(f"{character}{inner}{line[end]}" if is_bracket else inner)
                bare.append(inner)
                position = end + 1
                continue
            if position == start:
                raise errors.UserError(
                    f"{line[position : position + 40]!r} is not closed"
                )
            # An apostrophe within a word.
        if character == "\\" and line[position + 1 : position + 2] in (*_CLOSING, "\\"):
            position += 1
            character = line[position : position + 1]
        text.append(character)
        bare.append(character)
        position += 1
    return "".join(text), "".join(bare), position


def _find_end(line: str, position: int) -> int | None:
    """Where what opens at ``position`` is closed."""
    closing = _CLOSING[line[position]]
    position += 1
    while position < len(line):
        if line[position] == "\\":
            position += 2
            continue
        if line[position] == closing:
            return position
        position += 1
    return None


def _unescape(text: str, closing: str) -> str:
    if "\\" not in text:
        return text
    return re.sub(rf"\\([\\{re.escape(closing)}])", r"\1", text)


def _parse_json(text: str) -> Any:
    try:
        return json.loads(text.removeprefix(_JSON_PREFIX))
    except (ValueError, RecursionError) as error:
        raise errors.UserError(f"{text[:80]!r} is no JSON: {error}") from error


def _parse_value(key: str, bare: str, text: str) -> Any:
    """Numbers, booleans and arrays of them, where that is what is written."""
    words = re.findall(r"[^\s,]+", bare)
    value: Any = text
    if words and all(_INTEGER.fullmatch(word) for word in words):
        value = np.array([int(word) for word in words])
    elif words and all(_is_number(word) for word in words):
        value = np.array([float(word) for word in words])
    elif words and all(word in _BOOLEANS for word in words):
        value = np.array([_BOOLEANS[word] for word in words])
    if key in _MATRICES:
        if not isinstance(value, np.ndarray) or value.shape != (9,):
            raise errors.UserError(f"{key} is {text[:80]!r}; expected nine numbers")
        return value.astype(float).reshape((3, 3), order="F")
    if isinstance(value, np.ndarray):
        return value[0].item() if len(value) == 1 else value
    return value


def _is_number(word: str) -> bool:
    return bool(
        _INTEGER.fullmatch(word) or _FLOAT.fullmatch(word) or word in _NOT_FINITE
    )
