"""Names of crystals: text from the file they come from to the last table.

A name is never parsed as the number, boolean, list or date that it may look like, and
two names never become one: where they would, a number is added.
"""

import re
from collections.abc import Iterable

_MAX_STEM_LENGTH = 100
# Windows has no files of these names, whatever their suffix.
_RESERVED_STEMS = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)


def encodable(text: str) -> str:
    """The text with what UTF-8 cannot hold written out as an escape sequence.

    Names on disk and strings in JSON may have such characters; a table may not.
    """
    return text.encode("utf-8", errors="backslashreplace").decode("utf-8")


def make_unique(names: Iterable[str]) -> list[str]:
    """The same names; where one was there before, ``-2``, ``-3``, … is added to it."""
    used: set[str] = set()
    return [_add(name, used, str) for name in names]


def unique_stem(name: str, used: set[str]) -> str:
    """A name → a file name without suffix, safe on all systems and not used before.

    Args:
        name: of a crystal; what is not a letter, digit, ``.``, ``+`` or ``-`` becomes
            ``_``.
        used: what was given out, in small letters; the new one is added.
    """
    stem = re.sub(r"[^A-Za-z0-9.+-]+", "_", name)[:_MAX_STEM_LENGTH].strip("._")
    stem = stem or "crystal"
    if _RESERVED_STEMS.match(stem):
        stem = f"_{stem}"
    # Not all file systems tell capitals from small letters.
    return _add(stem, used, str.lower)


def _add(name: str, used: set[str], key_fn) -> str:
    candidate, count = name, 1
    while key_fn(candidate) in used:
        count += 1
        candidate = f"{name}-{count}"
    used.add(key_fn(candidate))
    return candidate
