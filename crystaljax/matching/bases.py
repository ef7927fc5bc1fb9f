"""Bases of a lattice, as pymatgen finds them: LLL, Niggli, those that resemble a cell.

Several times as fast as pymatgen: Python's floats in place of 3 x 3 arrays for one
lattice, NumPy for many bases at once. What comes out is the same to the last bit,
unless it says otherwise.
"""

import itertools
import math

import numpy as np
from jaxtyping import Float
from pymatgen.core import Lattice

from crystaljax.system import errors

# Relative difference below which rounding could decide.
MARGIN = 1e-9
# Of the loop over the steps of the Niggli reduction, in pymatgen too.
_MAX_NIGGLI_STEPS = 100
# Degrees by which the angles of a Niggli cell may differ from what the steps arrive at.
_NIGGLI_ANGLE_TOLERANCE = 1.0
# Lattice vectors, and pairs of them, that fit into memory: arrays of 240 MB. Triples
# that can be searched in seconds, so many at once.
_MAX_POINTS = 10_000_000
_MAX_PAIRS = 30_000_000
_MAX_TRIPLES = 3_000_000_000
_TRIPLES_AT_ONCE = 10_000_000


def reduce_niggli(lattice: Lattice) -> Lattice:
    """Lattice.get_niggli_reduced_lattice, a few times as fast.

    Raises:
        ValueError: pymatgen cannot reduce it either.
    """
    try:
        rows = reduce_basis(lattice.matrix.tolist()) or lattice.lll_matrix.tolist()
        tolerance = 1e-5 * abs(_triple_product(*rows)) ** (1 / 3)
        basis = _find_basis(lattice, *_niggli_parameters(rows, tolerance), tolerance)
    except (ArithmeticError, ValueError):
        return lattice.get_niggli_reduced_lattice()
    if basis is None:
        return lattice.get_niggli_reduced_lattice()
    return Lattice(basis if np.linalg.det(basis) > 0 else -basis)


def reduce_basis(rows: list[list[float]]) -> list[list[float]] | None:
    """Basis after Lenstra, Lenstra and Lovász, δ = 3/4, as pymatgen finds it.

    Returns:
        Vectors as rows; None where rounding would decide which one comes out.
    """
    a, b, c = rows
    while True:
        aa = _dot(a, a)
        if (reduced := _subtract_nearest(b, a, _dot(a, b) / aa)) is None:
            return None
        b = reduced
        on_a = _dot(a, b) / aa
        bb = _dot(b, b) - on_a**2 * aa
        swap = _is_shorter(bb, (0.75 - on_a**2) * aa)
        if swap is None:
            return None
        if swap:
            a, b = b, a
            continue
        across = [b[i] - on_a * a[i] for i in range(3)]
        on_b = _dot(c, across) / bb
        if (reduced := _subtract_nearest(c, b, on_b)) is None:
            return None
        c = reduced
        if (reduced := _subtract_nearest(c, a, _dot(a, c) / aa)) is None:
            return None
        c = reduced
        on_a, on_b = _dot(a, c) / aa, on_b - round(on_b)
        cc = _dot(c, c) - on_a**2 * aa - on_b**2 * bb
        swap = _is_shorter(cc, (0.75 - on_b**2) * bb)
        if swap is None:
            return None
        if not swap:
            return [a, b, c]
        b, c = c, b


def _dot(one: list[float], other: list[float]) -> float:
    return one[0] * other[0] + one[1] * other[1] + one[2] * other[2]


def _triple_product(a: list[float], b: list[float], c: list[float]) -> float:
    return (
        a[0] * (b[1] * c[2] - b[2] * c[1])
        - a[1] * (b[0] * c[2] - b[2] * c[0])
        + a[2] * (b[0] * c[1] - b[1] * c[0])
    )


def _subtract_nearest(
    vector: list[float], other: list[float], ratio: float
) -> list[float] | None:
    """Takes the nearest integer to ``ratio`` times the other off; None at a half."""
    nearest = round(ratio)
    if abs(abs(ratio - nearest) - 0.5) < MARGIN:
        return None
    if not nearest:
        return vector
    return [vector[i] - nearest * other[i] for i in range(3)]


def _is_shorter(left: float, right: float) -> bool | None:
    """None where they are equal to within rounding."""
    return None if abs(left - right) < MARGIN * abs(right) else left < right


def _niggli_parameters(
    rows: list[list[float]], tolerance: float
) -> tuple[list[float], list[float]]:
    """Lengths (Å) and angles (degrees) of the Niggli cell of an LLL-reduced basis.

    The steps of Grosse-Kunstleve, Sauter and Adams (2004) with pymatgen's tolerance and
    order, on the squared lengths and twice the scalar products, as named there.
    """
    first, second, third = rows
    a, b, c = _dot(first, first), _dot(second, second), _dot(third, third)
    xi = 2 * _dot(second, third)
    eta = 2 * _dot(first, third)
    zeta = 2 * _dot(first, second)
    e = tolerance
    for _ in range(_MAX_NIGGLI_STEPS):
        if b + e < a or (abs(a - b) < e and abs(xi) > abs(eta) + e):  # A1
            a, b, xi, eta = b, a, eta, xi
        if c + e < b or (abs(b - c) < e and abs(eta) > abs(zeta) + e):  # A2
            b, c, eta, zeta = c, b, zeta, eta
            continue
        i, j, k = _niggli_signs([_sign(each, e) for each in (xi, eta, zeta)])  # A3, A4
        xi, eta, zeta = j * k * xi, i * k * eta, i * j * zeta
        if (
            abs(xi) > b + e
            or (abs(xi - b) < e and zeta - e > 2 * eta)
            or (abs(xi + b) < e and -e > zeta)
        ):  # A5
            s = xi / abs(xi)
            c, xi, eta = c + b - s * xi, xi - 2 * s * b, eta - s * zeta
        elif (
            abs(eta) > a + e
            or (abs(a - eta) < e and zeta - e > 2 * xi)
            or (abs(a + eta) < e and -e > zeta)
        ):  # A6
            s = eta / abs(eta)
            c, xi, eta = c + a - s * eta, xi - s * zeta, eta - 2 * s * a
        elif (
            abs(zeta) > a + e
            or (abs(a - zeta) < e and eta - e > 2 * xi)
            or (abs(a + zeta) < e and -e > eta)
        ):  # A7
            s = zeta / abs(zeta)
            b, xi, zeta = b + a - s * zeta, xi - s * eta, zeta - 2 * s * a
        elif -e > xi + eta + zeta + a + b or (
            abs(xi + eta + zeta + a + b) < e < zeta + (a + eta) * 2
        ):  # A8
            c = a + b + c + xi + eta + zeta
            xi, eta = 2 * b + xi + zeta, 2 * a + eta + zeta
        else:
            break
    x, y, z = math.sqrt(a), math.sqrt(b), math.sqrt(c)
    cosines = (xi / 2 / y / z, eta / 2 / x / z, zeta / 2 / x / y)
    return [x, y, z], [math.degrees(math.acos(cosine)) for cosine in cosines]


def _sign(value: float, tolerance: float) -> int:
    return 0 if abs(value) < tolerance else (1 if value > 0 else -1)


def _niggli_signs(signs: list[int]) -> tuple[int, int, int]:
    """Which vectors to invert for angles that are all acute or all obtuse (A3, A4)."""
    if math.prod(signs) == 1:
        i, j, k = (-1 if sign == -1 else 1 for sign in signs)
        return i, j, k
    flips = [-1 if sign == 1 else 1 for sign in signs]
    if math.prod(flips) == -1 and 0 in signs:
        flips[max(axis for axis in range(3) if signs[axis] == 0)] = -1
    i, j, k = flips
    return i, j, k


def _find_basis(
    lattice: Lattice, lengths: list[float], angles: list[float], tolerance: float
) -> np.ndarray | None:
    """Lattice.find_mapping: the first right-handed basis, or else the first there is.

    Lengths agree within a fraction ``tolerance``. Right-handed means as the lattice is.
    """
    reach = 1 + tolerance
    points = lattice.get_points_in_sphere(
        [[0, 0, 0]], [0, 0, 0], max(lengths) * reach, zip_results=False
    )
    frac_coords, distances = map(np.asarray, points[:2])
    candidates = []
    for length in lengths:
        ratios = distances / length
        near = np.flatnonzero((ratios < reach) & (ratios > 1 / reach))
        cart_coords = lattice.get_cartesian_coords(frac_coords[near])
        candidates.append(
            list(
                zip(
                    cart_coords.tolist(),
                    distances[near].tolist(),
                    frac_coords[near].tolist(),
                    strict=True,
                )
            )
        )

    def are_at(one: tuple, other: tuple, angle: float) -> bool:
        cosine = _dot(one[0], other[0]) / one[1] / other[1]
        found = math.degrees(math.acos(max(-1.0, min(1.0, cosine))))
        return abs(found - angle) <= _NIGGLI_ANGLE_TOLERANCE

    alpha, beta, gamma = angles
    first = None
    for a, b in itertools.product(*candidates[:2]):
        if not are_at(a, b, gamma):
            continue
        for c in candidates[2]:
            if not (are_at(b, c, alpha) and are_at(a, c, beta)):
                continue
            handedness = _triple_product(a[2], b[2], c[2])
            if handedness > 0:
                return np.array([a[0], b[0], c[0]])
            if handedness < 0 and first is None:
                first = np.array([a[0], b[0], c[0]])
    return first


def find_bases(
    lattice: Lattice, wanted: Lattice, ltol: float, angle_tol: float
) -> Float[np.ndarray, "bases 3 3"]:
    """Bases of a lattice whose lengths and angles are close to those of another.

    Those of Lattice.find_all_mappings that span no sublattice, in its order.

    Args:
        lattice: what the vectors are of.
        wanted: lattice that the bases should resemble.
        ltol: a length is less than 1 + ltol times as long, or as short.
        angle_tol: largest difference of angles, degrees.

    Returns:
        Vectors as rows, Å, of both hands.

    Raises:
        ValueError: there are more vectors to compare than memory holds, as in lattices
            shaped like sheets or needles.
    """
    reach = 1 + ltol
    radius = max(wanted.lengths) * reach
    if count_points(lattice, radius) > _MAX_POINTS:
        raise _too_elongated(lattice)
    points = lattice.get_points_in_sphere(
        [[0, 0, 0]], [0, 0, 0], radius, zip_results=False
    )
    frac_coords, distances = map(np.asarray, points[:2])
    cart_coords = lattice.get_cartesian_coords(frac_coords)
    ratios = [distances / length for length in wanted.lengths]
    near = [np.flatnonzero((each < reach) & (each > 1 / reach)) for each in ratios]
    num_a, num_b, num_c = map(len, near)
    num_pairs = max(num_a * num_b, num_a * num_c, num_b * num_c)
    if num_pairs > _MAX_PAIRS or num_a * num_b * num_c > _MAX_TRIPLES:
        raise _too_elongated(lattice)
    vectors = [cart_coords[each] for each in near]
    norms = [np.sum(each**2, axis=-1) ** 0.5 for each in vectors]

    def have_angle(one: int, other: int, angle: float) -> np.ndarray:
        # The operations and their order are pymatgen's.
        cosines = np.inner(vectors[one], vectors[other])
        cosines = cosines / norms[one][:, None] / norms[other]
        angles = np.rad2deg(np.arccos(np.minimum(np.maximum(cosines, -1), 1)))
        return np.abs(angles - angle) <= angle_tol

    alpha, beta, gamma = wanted.angles
    are_ab = have_angle(0, 1, gamma)
    # As for most lattices, whose search ends here.
    if not are_ab.any():
        return np.zeros((0, 3, 3))
    are_ac, are_bc = have_angle(0, 2, beta)[:, None], have_angle(1, 2, alpha)
    step = max(1, _TRIPLES_AT_ONCE // max(1, are_bc.size))
    found = []
    for begin in range(0, len(are_ab), step):
        some = slice(begin, begin + step)
        triples = np.argwhere(are_ab[some, :, None] & are_ac[some] & are_bc)
        a, b, c = triples.T
        found.append(np.stack([near[0][some][a], near[1][b], near[2][c]], axis=1))
    indices = np.concatenate([np.zeros((0, 3), int), *found])
    cells = np.linalg.det(frac_coords[indices])
    return cart_coords[indices[np.abs(np.abs(cells) - 1) < 0.5]]


def _too_elongated(lattice: Lattice) -> ValueError:
    return errors.UserError(
        f"a lattice of lengths {np.round(lattice.lengths, 3).tolist()} Å has too many "
        "vectors to search for bases among; expected one that is less elongated"
    )


def average_lattice(basis: Float[np.ndarray, "3 3"], lattice: Lattice) -> Lattice:
    """The lattice of mean lengths and angles that StructureMatcher measures on."""
    parameters = (
        np.array(Lattice(basis).parameters) + np.array(lattice.parameters)
    ) / 2
    return Lattice.from_parameters(*parameters)


def average_bases(
    bases: Float[np.ndarray, "bases 3 3"], lattice: Lattice
) -> Float[np.ndarray, "bases 3 3"]:
    """`average_lattice` of many bases, to within rounding."""
    lengths = np.sqrt(np.sum(bases**2, axis=-1))
    products = bases[:, [1, 2, 0]] * bases[:, [2, 0, 1]]
    cosines = products.sum(axis=-1) / (lengths[:, [1, 2, 0]] * lengths[:, [2, 0, 1]])
    angles = np.degrees(np.arccos(np.clip(cosines, -1, 1)))
    a, b, c = ((lengths + np.array(lattice.lengths)) / 2).T
    angles = np.radians((angles + np.array(lattice.angles)) / 2)
    cos_alpha, cos_beta, cos_gamma = np.cos(angles).T
    sin_alpha, sin_beta, _ = np.sin(angles).T
    cos_star = (cos_alpha * cos_beta - cos_gamma) / (sin_alpha * sin_beta)
    cos_star = np.clip(cos_star, -1, 1)
    sin_star = np.sqrt(1 - cos_star**2)
    average = np.zeros_like(bases)
    average[:, 0, 0], average[:, 0, 2] = a * sin_beta, a * cos_beta
    average[:, 1, 0] = -b * sin_alpha * cos_star
    average[:, 1, 1] = b * sin_alpha * sin_star
    average[:, 1, 2], average[:, 2, 2] = b * cos_alpha, c
    return average


def reduce_averages(
    averages: Float[np.ndarray, "bases 3 3"],
    bases: Float[np.ndarray, "bases 3 3"],
    lattice: Lattice,
) -> Float[np.ndarray, "bases 3 3"]:
    """LLL-reduced bases of average lattices, to within rounding.

    Args:
        averages: from `average_bases`.
        bases: what they are the averages of.
        lattice: the other one.
    """
    a, b, c = np.moveaxis(averages, 1, 0)
    aa, ab, ac = (np.sum(a * each, axis=-1) for each in (a, b, c))
    across = b - (ab / aa)[:, None] * a
    bb, bc = np.sum(across**2, axis=-1), np.sum(across * c, axis=-1)
    cc = np.sum(c**2, axis=-1) - ac**2 / aa - bc**2 / bb
    ratios = np.stack([ab / aa, ac / aa, bc / bb])
    is_reduced = (np.abs(ratios) < 0.5 - MARGIN).all(axis=0)
    is_reduced &= bb > (0.75 - ratios[0] ** 2) * aa * (1 + MARGIN)
    is_reduced &= cc > (0.75 - ratios[2] ** 2) * bb * (1 + MARGIN)
    reduced = averages.copy()
    # A basis and its inverse have the same average.
    seen: dict[bytes, list[list[float]]] = {}
    for index in np.flatnonzero(~is_reduced):
        key = averages[index].tobytes()
        if key not in seen:
            rows = reduce_basis(averages[index].tolist())
            if rows is None:
                rows = average_lattice(bases[index], lattice).lll_matrix.tolist()
            seen[key] = rows
        reduced[index] = seen[key]
    return reduced


def count_points(lattice: Lattice, radius: float) -> float:
    """At least as many lattice points as a sphere of that radius (Å) can hold."""
    spacing = plane_spacings(lattice.matrix[None])[0]
    return float(np.prod(2 * np.floor(radius / spacing) + 1))


def plane_spacings(
    bases: Float[np.ndarray, "bases 3 3"],
) -> Float[np.ndarray, "bases 3"]:
    """Distance of the lattice planes that the other two vectors span, Å."""
    return 1 / np.sqrt(np.sum(np.linalg.inv(bases) ** 2, axis=1))
