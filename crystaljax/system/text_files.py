"""Bytes of a user's file → text, whatever its encoding and line ends.

UTF-8, UTF-16 and UTF-32 with or without a byte-order mark, and Latin-1: a file that
was saved on another system says the same. In UTF-8 every byte that is none is taken as
a character of Latin-1, so that text decoded piece by piece equals text decoded at once.
"""

import codecs
import io
import os
import pathlib

from crystaljax.system import errors

# The longer ones first: the mark of UTF-32 begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_NUM_MARK_BYTES = 4
_FALLBACK = "crystaljax-latin-1"


def decode(content: bytes) -> str:
    r"""Text of a whole file, lines ended by ``\n``.

    Raises:
        ValueError: it has null characters, or UTF-16 or UTF-32 that is malformed: it
            is no text.
    """
    encoding = find_encoding(content[:_NUM_MARK_BYTES])
    try:
        text = content.decode(encoding, errors=_error_handler(encoding))
    except UnicodeDecodeError as error:
        raise errors.UserError(f"not text: {error}") from error
    if "\0" in text:
        raise errors.UserError("not text: it has null characters")
    return normalize_lines(text)


def normalize_lines(text: str) -> str:
    r"""The text with ``\r\n`` and ``\r`` as ``\n``."""
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text


def read_text(path: str | os.PathLike[str]) -> str:
    """`decode` of a file's content.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no text.
    """
    return decode(pathlib.Path(path).read_bytes())


def open_text(
    source: io.BufferedReader, *, newline: str | None = None
) -> io.TextIOWrapper:
    """A binary stream → the same as text, decoded as by `decode`.

    Args:
        source: at its beginning; closed with what is returned.
        newline: as in `open`; by default all line ends are read as a newline.
    """
    encoding = find_encoding(source.peek(_NUM_MARK_BYTES)[:_NUM_MARK_BYTES])
    return io.TextIOWrapper(
        source, encoding=encoding, errors=_error_handler(encoding), newline=newline
    )


def find_encoding(beginning: bytes) -> str:
    """Python's name of the encoding of a file by its first four bytes."""
    for mark, encoding in _MARKS:
        if beginning.startswith(mark):
            return encoding
    # Text begins with characters of ASCII: every other byte of UTF-16 is null.
    if len(beginning) >= 2 and 0 in beginning[:2] and any(beginning[:2]):
        return "utf-16-le" if beginning[1] == 0 else "utf-16-be"
    return "utf-8"


def _error_handler(encoding: str) -> str:
    return _FALLBACK if encoding.startswith("utf-8") else "strict"


def _as_latin_1(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return error.object[error.start : error.end].decode("latin-1"), error.end


codecs.register_error(_FALLBACK, _as_latin_1)
