"""Symmetry operations of a unit cell: lists of them, whether they are a group, images.

An operation acts on fractional coordinates as a column: ``x' = rotation @ x + t``.
Translations are multiples of 1/24, as those of every setting of a space group.
"""

import dataclasses
import functools
import re
from collections.abc import Iterable

import gemmi
import numpy as np
import spglib
from jaxtyping import Float, Int

from crystaljax.system import errors

DENOMINATOR = 24
_TRIPLET = re.compile(r"[xyz0-9+\-*/., \t]+")
# Of the cell's metric, relative: lengths are off by half of it.
_METRIC_TOLERANCE = 0.02
# Images of a site this close are one atom: what the rounding of coordinates to two
# digits leaves of a special position. No two atoms are.
MERGING_DISTANCE = 0.2  # Å
# Of images of a site that stands on its special position.
_SAME_DISTANCE = 0.01  # Å


@dataclasses.dataclass(frozen=True, eq=False)
class Operations:
    """A group of operations, lattice translations left out.

    Attributes:
        rotations: int (operations, 3, 3).
        translations: int (operations, 3), in units of 1/24, from 0 to 23.
    """

    rotations: Int[np.ndarray, "operations 3 3"]
    translations: Int[np.ndarray, "operations 3"]

    def __len__(self) -> int:
        return len(self.rotations)


@functools.lru_cache(maxsize=1024)
def parse_triplets(triplets: tuple[str, ...]) -> Operations:
    """Texts such as ``-x, y+1/2, -z`` → operations, each once.

    Raises:
        ValueError: a text is no operation, or they are no group.
    """
    return build([_parse_triplet(each) for each in triplets])


def _parse_triplet(text: str) -> gemmi.Op:
    lower = text.lower()
    if not _TRIPLET.fullmatch(lower):
        raise errors.UserError(f"{text[:60]!r} is no symmetry operation")
    try:
        return gemmi.Op(lower)
    except (RuntimeError, ValueError) as error:
        raise errors.UserError(
            f"{text[:60]!r} is no symmetry operation: {error}"
        ) from error


@functools.lru_cache(maxsize=1024)
def parse_hall(symbol: str) -> Operations:
    """Hall symbol, with or without a change of basis → operations.

    Raises:
        ValueError: it is none.
    """
    try:
        return build(list(gemmi.symops_from_hall(symbol)))
    except (RuntimeError, ValueError) as error:
        raise errors.UserError(f"{symbol[:60]!r} is no Hall symbol: {error}") from error


def compose(first: str, second: str) -> str:
    """Two triplets → that of applying the second, then the first.

    Raises:
        ValueError: a text is no operation.
    """
    return (_parse_triplet(first) * _parse_triplet(second)).wrap().triplet()


def are_equal(first: Operations, second: Operations) -> bool:
    """Whether two lists hold the same operations, in whatever order."""
    keys = [set(_keys(e.rotations, e.translations).tolist()) for e in (first, second)]
    return keys[0] == keys[1]


def build(found: Iterable[gemmi.Op]) -> Operations:
    """Operations, each once.

    Raises:
        ValueError: they are no group: an operation or a product of two is missing, a
            rotation has fractions or another determinant than ±1.
    """
    found = list(found)
    rotations = np.array([each.rot for each in found], dtype=np.int64)
    translations = np.array([each.tran for each in found], dtype=np.int64) % DENOMINATOR
    if np.any(rotations % DENOMINATOR):
        raise errors.UserError("an operation has fractions of x, y or z")
    rotations //= DENOMINATOR
    keys = _keys(rotations, translations)
    _, first = np.unique(keys, return_index=True)
    first = np.sort(first)
    made = Operations(rotations[first], translations[first])
    _require_group(made, set(keys.tolist()))
    return made


def _keys(
    rotations: Int[np.ndarray, "*batch 3 3"], translations: Int[np.ndarray, "*batch 3"]
) -> np.ndarray:
    """One number per operation; equal ones have equal numbers."""
    entries = (rotations + 3).reshape(*rotations.shape[:-2], 9)
    weights = 7 ** np.arange(9)
    key = (np.clip(entries, 0, 6) * weights).sum(axis=-1)
    return key * DENOMINATOR**3 + (translations * DENOMINATOR ** np.arange(3)).sum(-1)


def _require_group(made: Operations, keys: set[int]) -> None:
    rotations, translations = made.rotations, made.translations
    if np.abs(rotations).max() > 2 or np.any(
        np.round(np.abs(np.linalg.det(rotations))) != 1
    ):
        raise errors.UserError("an operation is neither a rotation nor a reflection")
    products = rotations[:, None] @ rotations
    shifts = (rotations[:, None] @ translations[..., None])[..., 0]
    shifts = (shifts + translations[:, None]) % DENOMINATOR
    missing = {*_keys(products, shifts).ravel().tolist()} - keys
    if missing:
        raise errors.UserError(
            f"the {len(made)} symmetry operations are no group: products of two of "
            "them are not in the list, so that operations are missing or wrong"
        )


@functools.lru_cache(maxsize=1024)
def find_space_group(made: Operations) -> int:
    """Number of the space group of operations in whatever setting.

    Raises:
        ValueError: spglib knows no such group.
    """
    # Any metric that all of them leave as it is: that of no particular cell.
    metric = np.array([[3.0, 0.1, 0.2], [0.1, 4.0, 0.3], [0.2, 0.3, 5.0]])
    turned = np.swapaxes(made.rotations, 1, 2) @ metric @ made.rotations
    lattice = np.linalg.cholesky(turned.mean(axis=0))
    try:
        found = spglib.get_spacegroup_type_from_symmetry(
            made.rotations, made.translations / DENOMINATOR, lattice
        )
    except Exception:
        # Releases of spglib differ in how they fail.
        found = None
    if found is None:
        raise errors.UserError(
            f"the {len(made)} symmetry operations are those of no space group"
        )
    return int(found.number)


def fit_cell(made: Operations, lattice: Float[np.ndarray, "3 3"]) -> bool:
    """Whether the operations leave lengths and angles of the cell as they are."""
    metric = lattice @ lattice.T
    scale = np.sqrt(np.outer(np.diag(metric), np.diag(metric)))
    turned = np.swapaxes(made.rotations, 1, 2) @ metric @ made.rotations
    return bool((np.abs(turned - metric) <= _METRIC_TOLERANCE * scale).all())


def find_images(
    made: Operations,
    position: Float[np.ndarray, "3"],
    lattice: Float[np.ndarray, "3 3"],
) -> Float[np.ndarray, "images 3"]:
    """The positions that the operations make of one, each once, the position first.

    A position that is a special one but for the rounding of its coordinates is moved
    onto it, so that 0.333 is 1/3 where that has a symmetry of its own.

    Raises:
        ValueError: it is so near a special position that the number of its images
            depends on the tolerance.
    """
    translations = made.translations / DENOMINATOR
    images = made.rotations @ position + translations
    from_position = images - position
    from_position -= np.round(from_position)
    is_own = _lengths(from_position, lattice) < MERGING_DISTANCE
    position = position + from_position[is_own].mean(axis=0)
    images = made.rotations @ position + translations
    apart = images[:, None] - images
    apart -= np.round(apart)
    is_same = _lengths(apart, lattice) < _SAME_DISTANCE
    num_own = int(np.count_nonzero(is_own))
    # The operations that keep the position now must be those that map it onto itself.
    itself = np.flatnonzero(is_own)[0]
    if np.any(is_same.sum(axis=1) != num_own) or np.any(is_same[itself] != is_own):
        raise errors.UserError(
            f"the position {np.round(position, 4).tolist()} lies near a symmetry "
            f"element, with images within {MERGING_DISTANCE} Å that are not itself; "
            "give its coordinates with more digits"
        )
    first = is_same.argmax(axis=1) == np.arange(len(images))
    unique = images[first]
    # The operation that is the identity need not be the first.
    where = int(np.flatnonzero(np.flatnonzero(first) == is_same[itself].argmax())[0])
    return np.roll(unique, -where, axis=0)


def _lengths(
    vectors: Float[np.ndarray, "*batch 3"], lattice: Float[np.ndarray, "3 3"]
) -> Float[np.ndarray, "*batch"]:
    return np.sqrt(np.sum((vectors @ lattice) ** 2, axis=-1))
