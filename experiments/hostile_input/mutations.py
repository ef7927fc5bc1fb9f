"""What happens to files: bytes flipped, lines lost, numbers replaced, cut anywhere."""

import re
from collections.abc import Callable

import numpy as np

_NUMBER = re.compile(rb"[-+]?\d+\.?\d*(?:[eE][-+]?\d+)?")
_WORD = re.compile(rb"[A-Za-z0-9_.+-]+")
_NUMBERS = (
    *(b"0", b"-1", b"1", b"2", b"3", b"0.5", b"1e6", b"-1e6", b"1e300", b"1e999"),
    *(b"nan", b"inf", b"-inf", b"1_0", b"0x10", b"1,5", b"1/3", b"1/0", b"1e", b""),
    *(b"99999999999999999999", b"9" * 400, b"0.1.2", b"\xd9\xa3", b"T", b"None"),
)
_PIECES = (
    *(b"\0", b"\xff", b"\xfe\xff", b"\xef\xbb\xbf", b"\r", b"\n", b"\t", b" "),
    *(b'"', b"'", b";", b"\n;\n", b"#", b"[", b"]", b"{", b"}", b"(", b")", b","),
    *(b"<", b">", b"</", b"&", b"<!--", b"\\", b"\\u0000", b"\\ud800", b"_", b"loop_"),
    *(b"data_x\n", b"?", b".", b"-", b"=", b":", b"nan", b"null", b"true", b"NaN"),
    *(b"[" * 3000, b"{" * 3000, b"(" * 3000, b"9" * 5000, b"A" * 5000),
    *("·".encode(), "₂".encode(), "−".encode(), "\u00a0".encode(), "\u2028".encode()),
    *(b"D", b"T", b"X", b"OH", b"Wat", b"NA", b"cu", b"Cu2+", b"Lr", b"Xx"),
)


def mutate(content: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    """Content of a file → the same with one to three faults, and their names."""
    names = []
    for _ in range(int(rng.choice([1, 1, 1, 1, 2, 3]))):
        name = str(rng.choice(list(MUTATIONS)))
        content = MUTATIONS[name](content, rng)
        names.append(name)
    return content, "+".join(names)


def _flip_bit(content: bytes, rng: np.random.Generator) -> bytes:
    if not content:
        return content
    place = int(rng.integers(len(content)))
    flipped = content[place] ^ (1 << int(rng.integers(8)))
    return content[:place] + bytes([flipped]) + content[place + 1 :]


def _set_byte(content: bytes, rng: np.random.Generator) -> bytes:
    if not content:
        return content
    place = int(rng.integers(len(content)))
    return content[:place] + rng.bytes(1) + content[place + 1 :]


def _cut(content: bytes, rng: np.random.Generator) -> bytes:
    return content[: int(rng.integers(len(content) + 1))]


def _cut_beginning(content: bytes, rng: np.random.Generator) -> bytes:
    return content[int(rng.integers(len(content) + 1)) :]


def _drop_range(content: bytes, rng: np.random.Generator) -> bytes:
    first = int(rng.integers(len(content) + 1))
    return content[:first] + content[first + int(rng.geometric(0.1)) :]


def _double_range(content: bytes, rng: np.random.Generator) -> bytes:
    first = int(rng.integers(len(content) + 1))
    last = first + int(rng.geometric(0.05))
    return content[:last] + content[first:]


def _drop_line(content: bytes, rng: np.random.Generator) -> bytes:
    lines = content.splitlines(keepends=True)
    if lines:
        del lines[int(rng.integers(len(lines)))]
    return b"".join(lines)


def _double_line(content: bytes, rng: np.random.Generator) -> bytes:
    lines = content.splitlines(keepends=True)
    if lines:
        place = int(rng.integers(len(lines)))
        lines.insert(place, lines[place])
    return b"".join(lines)


def _swap_lines(content: bytes, rng: np.random.Generator) -> bytes:
    lines = content.splitlines(keepends=True)
    if lines:
        one, other = rng.integers(len(lines), size=2)
        lines[one], lines[other] = lines[other], lines[one]
    return b"".join(lines)


def _choose(pattern: re.Pattern[bytes], content: bytes, rng: np.random.Generator):
    found = list(pattern.finditer(content))
    return found[int(rng.integers(len(found)))] if found else None


def _replace_number(content: bytes, rng: np.random.Generator) -> bytes:
    match = _choose(_NUMBER, content, rng)
    if match is None:
        return content
    number = _NUMBERS[int(rng.integers(len(_NUMBERS)))]
    return content[: match.start()] + number + content[match.end() :]


def _change_digit(content: bytes, rng: np.random.Generator) -> bytes:
    match = _choose(re.compile(rb"\d"), content, rng)
    if match is None:
        return content
    digit = str(int(rng.integers(10))).encode()
    return content[: match.start()] + digit + content[match.end() :]


def _replace_word(content: bytes, rng: np.random.Generator) -> bytes:
    one, other = _choose(_WORD, content, rng), _choose(_WORD, content, rng)
    if one is None or other is None:
        return content
    return content[: one.start()] + other.group() + content[one.end() :]


def _change_case(content: bytes, rng: np.random.Generator) -> bytes:
    match = _choose(_WORD, content, rng)
    if match is None:
        return content
    return content[: match.start()] + match.group().swapcase() + content[match.end() :]


def _insert_piece(content: bytes, rng: np.random.Generator) -> bytes:
    place = int(rng.integers(len(content) + 1))
    piece = _PIECES[int(rng.integers(len(_PIECES)))]
    return content[:place] + piece + content[place:]


def _reencode(content: bytes, rng: np.random.Generator) -> bytes:
    text = content.decode("latin-1")
    kind = int(rng.integers(6))
    if kind == 0:
        return text.encode("utf-16")
    if kind == 1:
        return text.encode("utf-16-le")
    if kind == 2:
        return b"\xef\xbb\xbf" + content
    if kind == 3:
        return text.encode("utf-32")
    return content.replace(b"\n", b"\r\n" if kind == 4 else b"\r")


MUTATIONS: dict[str, Callable[[bytes, np.random.Generator], bytes]] = {
    "bit flipped": _flip_bit,
    "byte replaced": _set_byte,
    "cut": _cut,
    "beginning cut": _cut_beginning,
    "bytes dropped": _drop_range,
    "bytes doubled": _double_range,
    "line dropped": _drop_line,
    "line doubled": _double_line,
    "lines swapped": _swap_lines,
    "number replaced": _replace_number,
    "digit changed": _change_digit,
    "word replaced": _replace_word,
    "case changed": _change_case,
    "piece inserted": _insert_piece,
    "encoding changed": _reencode,
}
