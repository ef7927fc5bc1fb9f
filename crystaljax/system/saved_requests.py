"""What was requested, saved beside its results: is this the request made before?

A folder of results holds the request that they answer, as JSON. The same request made
again goes on with what is there; another one is refused, and the values that differ are
named.
"""

import itertools
import json
import os
import pathlib
from collections.abc import Collection, Mapping
from typing import Any

from crystaljax.system import errors

# Longer values are shown in part.
_SHOWN_CHARACTERS = 60


class OtherRequestError(FileExistsError, errors.UserError):
    """A folder holds the results of another request."""


def load(path: pathlib.Path, remedy: str) -> dict[str, Any] | None:
    """A saved request; None if there is none.

    Args:
        path: of the file.
        remedy: what to do about a damaged one, for the message.

    Raises:
        UserError: the file is not a JSON object.
    """
    try:
        request = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise errors.UserError(f"{path} is damaged ({error}); {remedy}") from error
    if not isinstance(request, dict):
        raise errors.UserError(f"{path} is damaged (no JSON object); {remedy}")
    return request


def require_same(
    requested: Mapping[str, Any],
    saved: Mapping[str, Any],
    *,
    path: str | os.PathLike[str],
    contents: str,
    remedy: str,
    optional: Collection[str] = (),
) -> None:
    """Does nothing if both requests are the same.

    Args:
        requested: now; JSON values, which may be nested.
        saved: when the results were made.
        path: of the results, for the message.
        contents: what the results are, in words.
        remedy: what to do about another request, in words.
        optional: names that are compared only where ``requested`` has them.

    Raises:
        OtherRequestError: they differ; the message names the values.
    """
    saved = {
        name: value
        for name, value in saved.items()
        if name in requested or name not in optional
    }
    differences = find_differences(requested, saved)
    if differences:
        raise OtherRequestError(
            f"{path} holds {contents} of another request; {remedy}. These values "
            "differ (requested now, requested then):\n  " + "\n  ".join(differences)
        )


def find_differences(
    requested: Mapping[str, Any], saved: Mapping[str, Any]
) -> list[str]:
    """Lines ``name: requested, saved`` for the values in which two requests differ."""
    requested, saved = _flatten(requested), _flatten(saved)
    return [
        f"{name}: {', '.join(_shorten(requested.get(name), saved.get(name)))}"
        for name in [*requested, *sorted(saved.keys() - requested.keys())]
        if not _are_equal(requested.get(name), saved.get(name))
    ]


def _flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Names of nested values joined by dots; values as JSON gives them back."""
    flat = {}
    for name, each in value.items():
        if isinstance(each, Mapping):
            flat |= _flatten(each, f"{prefix}{name}.")
        else:
            # JSON has no tuples.
            flat[f"{prefix}{name}"] = json.loads(json.dumps(each))
    return flat


def _are_equal(one: Any, other: Any) -> bool:
    # NaN does not equal itself, but is written the same.
    return one == other or json.dumps(one) == json.dumps(other)


def _shorten(*values: Any) -> list[str]:
    """Both values as text, from just before the first difference where it is long."""
    texts = [json.dumps(value, ensure_ascii=False) for value in values]
    pairs = zip(*texts, strict=False)
    common = itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)
    start = max(len(list(common)) - _SHOWN_CHARACTERS // 2, 0)
    if max(map(len, texts)) <= _SHOWN_CHARACTERS:
        return texts
    shown = [text[start : start + _SHOWN_CHARACTERS] for text in texts]
    return [
        f"{'…' if start else ''}{part}{'…' if start + len(part) < len(text) else ''}"
        for part, text in zip(shown, texts, strict=True)
    ]
