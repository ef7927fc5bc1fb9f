"""Features that rotate: which there are, and how pairs of them multiply.

A feature of degree l and parity p is 2l + 1 numbers. Orders and weights are those of
e3nn, so that networks trained there can be read.
"""

import dataclasses
import re
from collections.abc import Container, Iterable, Sequence

from crystaljax.system import errors

# (l, p), p = 1 (even) or -1 (odd). Tuples sort as e3nn sorts.
Irrep = tuple[int, int]

_TERM = re.compile(r"(?:(\d+)x)?(\d+)([eo])")


@dataclasses.dataclass(frozen=True)
class Path:
    """A product of a node's features with the spherical harmonics of an edge.

    Attributes:
        node: the feature of the node, and thus its number of channels.
        edge: that of the edge.
        out: the result.
        channels: of ``node`` and the result.
    """

    node: Irrep
    edge: Irrep
    out: Irrep
    channels: int


def parse(text: str) -> dict[Irrep, int]:
    """Reads features and their channels, such as "128x0e+64x1e", in the order given.

    Raises:
        ValueError: it is no such text, or has a feature twice.
    """
    found: dict[Irrep, int] = {}
    for term in text.replace(" ", "").split("+"):
        match = _TERM.fullmatch(term)
        irrep = (int(match[2]), 1 if match[3] == "e" else -1) if match else None
        if match is None or irrep is None or irrep in found:
            raise errors.UserError(
                f"features {text!r}; expected something like '128x0e+64x1e', each once"
            )
        found[irrep] = int(match[1] or 1)
    return found


def spherical_harmonics(lmax: int, parity: int) -> list[Irrep]:
    """Features of an edge: one of each degree; ``parity`` is that of a vector."""
    return [(degree, parity**degree) for degree in range(lmax + 1)]


def products(left: Irrep, right: Irrep) -> Iterable[Irrep]:
    """What the product of two features consists of."""
    lowest, highest = abs(left[0] - right[0]), left[0] + right[0]
    return ((degree, left[1] * right[1]) for degree in range(lowest, highest + 1))


def up_to(lmax: int, even_only: bool) -> set[Irrep]:
    """All features up to degree ``lmax``."""
    parities = (1,) if even_only else (1, -1)
    return {(degree, parity) for degree in range(lmax + 1) for parity in parities}


def paths(
    node: dict[Irrep, int], edge: Sequence[Irrep], wanted: Container[Irrep]
) -> list[Path]:
    """All products that are ``wanted``, in the order in which e3nn names them."""
    return [
        Path(left, right, out, channels)
        for left, channels in node.items()
        for right in edge
        for out in products(left, right)
        if out in wanted
    ]


def output(
    node: dict[Irrep, int], edge: Sequence[Irrep], wanted: Container[Irrep]
) -> list[Irrep]:
    """The features that ``paths`` lead to, sorted."""
    return sorted({path.out for path in paths(node, edge, wanted)})
