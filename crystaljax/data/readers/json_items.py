"""Items of a JSON file, one after the other: a list, a mapping, or one item a line.

A file is never held whole: this reads on until the next item is complete, and gives
its text, which worker processes parse. Python's own parser is used since it takes NaN,
which Python and pymatgen write and a strict parser refuses with all that follows.
"""

import io
import json
import os
from collections.abc import Iterator
from typing import Any

from crystaljax.data.readers import files
from crystaljax.system import errors

# Of one item; an entry of a few hundred sites has some 100,000.
MAX_ITEM_CHARACTERS = 2**25
SUFFIXES = (".json", ".jsonl", ".ndjson")

_CHUNK_CHARACTERS = 2**20
_PIECE_CHARACTERS = 2**10
_BLANKS = " \t\r\n"
_DECODER = json.JSONDecoder()


def read_items(
    path: str | os.PathLike[str], nested_key: str | None = None
) -> Iterator[tuple[str | None, str]]:
    """Yields key (None where there is none) and JSON text of each item.

    The file is ``.jsonl`` (or ``.ndjson``) with an item a line, or ``.json`` with a
    list or a mapping of items; both plain or compressed. Lines are not looked into.

    Args:
        path: the file.
        nested_key: of a mapping's value that holds the items, where it has this key.
            Keys that begin with ``@`` (a class, a version) are no items.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not JSON, ends early or is damaged, has another suffix,
            or an item has more than `MAX_ITEM_CHARACTERS` characters.
    """
    suffix = files.suffix_without_compression(os.fspath(path))
    if suffix not in SUFFIXES:
        raise errors.UserError(
            f"{path} has the suffix {suffix!r}; expected one of {', '.join(SUFFIXES)}, "
            f"or these with {', '.join(files.COMPRESSED_SUFFIXES)} behind them"
        )
    num_items = 0
    try:
        with files.open_text(path) as file:
            is_document = suffix == ".json"
            read = (
                _read_document(file, nested_key) if is_document else _read_lines(file)
            )
            for item in read:
                yield item
                num_items += 1
    except files.DamagedError as error:
        raise files.DamagedError(
            f"{error} ({num_items} items read)", is_cut=error.is_cut
        ) from error
    except ValueError as error:
        raise errors.UserError(
            f"{path} is damaged or ends early, after {num_items} items: {error}; "
            "download it again, or name it .jsonl if it holds one item a line"
        ) from error


def _read_lines(file: io.TextIOBase) -> Iterator[tuple[None, str]]:
    while line := file.readline(MAX_ITEM_CHARACTERS):
        if len(line) == MAX_ITEM_CHARACTERS:
            raise errors.UserError(
                f"a line of more than {MAX_ITEM_CHARACTERS} characters"
            )
        if line.strip():
            yield None, line


def _read_document(
    file: io.TextIOBase, nested_key: str | None
) -> Iterator[tuple[str | None, str]]:
    scanner = _Scanner(file)
    if scanner.peek() not in ("[", "{"):
        raise errors.UserError(
            f"begins with {scanner.peek()!r}; expected a list or mapping"
        )
    for key in scanner.enter():
        if key is not None and key == nested_key and scanner.peek() in ("[", "{"):
            for inner_key in scanner.enter():
                yield inner_key, scanner.take_value()[1]
            continue
        text = scanner.take_value()[1]
        if key is None or not key.startswith("@"):
            yield key, text
    if scanner.peek():
        raise errors.UserError(f"goes on with {scanner.peek()!r} after its end")


class _Scanner:
    """A position in a JSON document, of which no more is held than is needed."""

    def __init__(self, file: io.TextIOBase):
        self._file = file
        self._text = ""
        self._position = 0
        self._is_at_end = False
        self._damage: files.DamagedError | None = None

    def peek(self) -> str:
        """The next character that is not blank; nothing at the end of the file."""
        while True:
            self._position = _skip_blanks(self._text, self._position)
            if self._position < len(self._text) or self._is_at_end:
                return self._text[self._position : self._position + 1]
            self._read_on()

    def enter(self) -> Iterator[str | None]:
        """Goes through the list or mapping that comes next.

        Yields, before each value, its key (None in a list); whoever asks must take the
        value before going on.
        """
        closing = {"[": "]", "{": "}"}[self._take()]
        if self.peek() == closing:
            self._take()
            return
        while True:
            key = None
            if closing == "}":
                key = self.take_value()[0]
                if not isinstance(key, str):
                    raise errors.UserError("a mapping with a key that is no string")
                self._expect(":")
            yield key
            if self._expect(",", closing) == closing:
                return

    def take_value(self) -> tuple[Any, str]:
        """The value that comes next, and its text."""
        self.peek()
        while True:
            found = self._find_value()
            if found is not None:
                value, end = found
                text = self._text[self._position : end]
                self._position = end
                return value, text
            num_characters = len(self._text) - self._position
            if self._is_at_end:
                self._require_whole()
                raise errors.UserError("a value that is cut off or malformed")
            if num_characters > MAX_ITEM_CHARACTERS:
                raise errors.UserError(
                    "a value that is malformed or has more than "
                    f"{MAX_ITEM_CHARACTERS} characters"
                )
            # Twice as much each time: a value is looked at again from its beginning.
            self._read_on(num_characters)

    def _find_value(self) -> tuple[Any, int] | None:
        """Value and end of its text, or None if more text is needed to tell."""
        try:
            value, end = _DECODER.raw_decode(self._text, self._position)
        except (ValueError, RecursionError):
            return None
        following = _skip_blanks(self._text, end)
        # "12" may be the beginning of "12.5": what comes after it tells.
        if following == len(self._text):
            return (value, end) if self._is_at_end else None
        return (value, end) if self._text[following] in ",:]}" else None

    def _take(self) -> str:
        character = self.peek()
        self._position += 1
        return character

    def _expect(self, *characters: str) -> str:
        character = self._take()
        if character not in characters:
            if not character:
                self._require_whole()
            found = repr(character) if character else "the end"
            raise errors.UserError(
                f"{found} where {' or '.join(characters)} was expected"
            )
        return character

    def _read_on(self, at_least: int = 0) -> None:
        pieces = [self._text[self._position :]]
        missing = max(_CHUNK_CHARACTERS, at_least)
        # In small pieces: one is lost where compressed data end early.
        while missing > 0 and not self._is_at_end:
            try:
                piece = self._file.read(_PIECE_CHARACTERS)
            except files.DamagedError as error:
                if not error.is_cut:
                    raise
                self._damage, piece = error, ""
            pieces.append(piece)
            missing -= len(piece)
            self._is_at_end = not piece
        self._text = "".join(pieces)
        self._position = 0

    def _require_whole(self) -> None:
        if self._damage is not None:
            raise self._damage


def _skip_blanks(text: str, position: int) -> int:
    while position < len(text) and text[position] in _BLANKS:
        position += 1
    return position
