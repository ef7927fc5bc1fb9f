"""Shortest vectors between sites over all periodic images, as pymatgen finds them.

For many cells at once; what rounding decides, or where pymatgen's choice of images
does, is marked.
"""

import dataclasses
import itertools

import numpy as np
from jaxtyping import Bool, Float, Int

from crystaljax.matching import bases


@dataclasses.dataclass(frozen=True, eq=False)
class Nearest:
    """Shortest vectors between pairs of sites, over all periodic images.

    Attributes:
        vectors: Å.
        squares: their squared lengths, Å²; a lower bound where not exact.
        is_allowed: pymatgen compares the two sites.
        is_exact: pymatgen finds the same length.
        is_certain: pymatgen finds the same vector.
        is_at_limit: rounding decides whether it compares some two sites.
    """

    vectors: Float[np.ndarray, "candidates entries 3"]
    squares: Float[np.ndarray, "candidates entries"]
    is_allowed: Bool[np.ndarray, "candidates entries"]
    is_exact: Bool[np.ndarray, "candidates entries"]
    is_certain: Bool[np.ndarray, "candidates entries"]
    is_at_limit: Bool[np.ndarray, " candidates"]


def find_nearest(
    apart: Float[np.ndarray, "candidates entries 3"],
    lattices: Float[np.ndarray, "bases 3 3"],
    of: Int[np.ndarray, " candidates"],
    reach: Float[np.ndarray, " bases"],
) -> Nearest:
    """Shortest vectors among those that are apart by whole lattice vectors.

    Args:
        apart: fractional coordinates of vectors in the reduced basis, any image.
        lattices: the reduced bases.
        of: basis of each candidate.
        reach: pymatgen compares sites less than this apart along each plane normal, Å.
    """
    spacing = bases.plane_spacings(lattices)
    apart = apart - np.round(apart)
    excess = (np.abs(apart) - (reach[:, None] / spacing)[of, None]).max(axis=-1)
    is_allowed = excess <= 0
    vectors = apart @ lattices[of]
    squares = np.sum(vectors**2, axis=-1)
    # No lattice vector is shorter than the smallest spacing: what is shorter than half
    # of it has no image as short.
    shortest = spacing.min(axis=1)
    is_certain = squares < (shortest[of, None] / 2) ** 2 * (1 - bases.MARGIN)
    is_exact = is_certain.copy()
    candidate, entry = np.nonzero(is_allowed & ~is_certain)
    if len(candidate):
        basis = of[candidate]
        images = _find_images(
            apart[candidate, entry],
            squares[candidate, entry],
            lattices[basis],
            (lattices @ np.swapaxes(lattices, 1, 2))[basis],
            shortest[basis],
        )
        vectors[candidate, entry], squares[candidate, entry] = images[:2]
        is_exact[candidate, entry], is_certain[candidate, entry] = images[2:]
    return Nearest(
        vectors=vectors,
        squares=squares,
        is_allowed=is_allowed,
        is_exact=is_exact,
        is_certain=is_certain,
        is_at_limit=(np.abs(excess) < bases.MARGIN).any(axis=-1),
    )


def _step_table(values: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Steps along the three lattice vectors, and what they add to a squared length.

    The latter by the products of the vector with the lattice vectors, the latter's own
    squares, and their products with each other.
    """
    steps = np.array(list(itertools.product(values, repeat=3)))
    products = steps[:, [1, 2, 0]] * steps[:, [2, 0, 1]]
    return steps, np.concatenate([2 * steps, steps**2, 2 * products], axis=1).T.copy()


# With each component's sign turned to be positive, between the planes to both sides of
# the origin; and the next image beyond.
_NEAR_STEPS = _step_table((-1.0, 0.0))
_ALL_STEPS = _step_table((-1.0, 0.0, 1.0))


def _find_images(
    apart: Float[np.ndarray, "vectors 3"],
    squares: Float[np.ndarray, " vectors"],
    lattices: Float[np.ndarray, "vectors 3 3"],
    metrics: Float[np.ndarray, "vectors 3 3"],
    spacing: Float[np.ndarray, " vectors"],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Shortest image of each vector, its squared length, is_exact and is_certain.

    pymatgen looks at 27 images, among them, however rounding wraps coordinates, the
    eight whose fractional components are between -1 and 1. One of these is what it
    finds if no image is shorter. An image with a component beyond is longer than
    the spacing of the planes, and one beyond the 27 here longer than 3/2 of it.

    Args:
        apart: fractional coordinates, between -1/2 and 1/2.
        squares: their squared lengths, Å².
        lattices: vectors as rows, Å.
        metrics: scalar products of the lattice vectors.
        spacing: smallest distance of lattice planes, Å.
    """
    signs = np.where(apart < 0, -1.0, 1.0)
    features = np.empty((len(apart), 9))
    features[:, :3] = signs * np.einsum("vi,vij->vj", apart, metrics)
    features[:, 3:6] = np.diagonal(metrics, axis1=1, axis2=2)
    features[:, 6:] = signs[:, [1, 2, 0]] * signs[:, [2, 0, 1]]
    features[:, 6:] *= metrics[:, [1, 2, 0], [2, 0, 1]]
    margin = bases.MARGIN * spacing**2
    steps, table = _NEAR_STEPS
    added = features @ table
    best = added.argmin(axis=-1)
    least = added[np.arange(len(best)), best]
    is_certain = np.count_nonzero(added < (least + margin)[:, None], axis=-1) == 1
    images = apart + steps[best] * signs
    is_exact = np.max(np.abs(images), axis=-1) < 1 - bases.MARGIN
    far = np.flatnonzero(least + squares > spacing**2 - margin)
    if len(far):
        added = features[far] @ _ALL_STEPS[1]
        shortest = added.min(axis=-1)
        limit = (1.5 * spacing[far]) ** 2 - squares[far]
        is_exact[far] &= least[far] < np.minimum(shortest, limit) + margin[far]
        as_short = np.count_nonzero(added < (least + margin)[far, None], axis=-1)
        is_certain[far] &= (as_short == 1) & (least[far] < limit - margin[far])
        least[far] = np.minimum(shortest, limit)
    vectors = np.einsum("vi,vij->vj", images, lattices)
    return vectors, least + squares, is_exact, is_certain & is_exact
