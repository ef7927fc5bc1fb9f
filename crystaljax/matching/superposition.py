"""Superposing two reduced cells: the smallest RMS displacement between their sites.

The search of pymatgen's StructureMatcher with its default settings (``get_rms_dist``
and ``fit``), in NumPy for all candidates at once, with the same answers. A candidate is
a basis of the first lattice that resembles the second cell, and a shift that puts a
site of the rarest species onto one of the second cell. Its sites are assigned to each
other for the least sum of squared distances, measured on the average of the two
lattices, and their mean displacement is taken off.

Rounding can decide what pymatgen answers for a candidate: two assignments or two images
may be equally near, or a distance lie at a tolerance. Such candidates, and those with
displacements so long that images beyond those considered here matter, go through
pymatgen's functions in pymatgen's order. All others agree to within rounding whatever
the order.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float, Int
from pymatgen.core import Lattice
from pymatgen.util import coord_cython  # type: ignore[attr-defined]
from scipy import optimize

from crystaljax.matching import assignment, images, primitive_cells
from crystaljax.matching import bases as lattice_bases

# pymatgen takes the first superposition it meets that is as good as this.
_PERFECT = 1e-5
_MARGIN = lattice_bases.MARGIN
# Relative error of successive minima.
_SLACK = 1e-6
# Costs more than all allowed pairs of sites together, Å².
_FORBIDDEN = 1e12
# Lattice points from which on it pays to make sure first that a match can exist.
_MANY_POINTS = 1000
# Coordinates of differences between sites that are worked on together.
_MAX_ELEMENTS = 300_000


def smallest_rms(
    first: primitive_cells.ReducedCell,
    second: primitive_cells.ReducedCell,
    *,
    ltol: float,
    stol: float,
    angle_tol: float,
) -> float | None:
    """StructureMatcher(ltol, stol, angle_tol).get_rms_dist, without the largest.

    Returns:
        RMS displacement in units of (volume per site)^(1/3); None without a match.
    """
    best = math.inf
    for candidates in _search(first, second, ltol, stol, angle_tol):
        rms = np.where(candidates.is_open, math.inf, candidates.rms)
        best = min(best, float(rms.min(initial=math.inf)))
        for index in np.flatnonzero(candidates.is_open).tolist():
            # What cannot be the best, nor perfect, need not be known.
            if candidates.lower[index] < max(min(best, stol), _PERFECT) + _MARGIN:
                rms[index], _ = candidates.compute(index)
                best = min(best, float(rms[index]))
        perfect = np.flatnonzero(rms < min(_PERFECT, stol))
        if len(perfect):
            return float(rms[perfect[0]])
    return best if best < stol else None


def are_equal(
    first: primitive_cells.ReducedCell,
    second: primitive_cells.ReducedCell,
    *,
    ltol: float,
    stol: float,
    angle_tol: float,
) -> bool:
    """StructureMatcher(ltol, stol, angle_tol).fit: no site moves by more than stol."""
    for candidates in _search(first, second, ltol, stol, angle_tol):
        if (candidates.largest[~candidates.is_open] < stol).any():
            return True
        is_left = candidates.is_open & (candidates.lower < stol + _MARGIN)
        for index in np.flatnonzero(is_left).tolist():
            if candidates.compute(index)[1] < stol:
                return True
    return False


def stretch(
    first: primitive_cells.ReducedCell, second: primitive_cells.ReducedCell
) -> float:
    """By how much the first lattice is too long to match the second, at equal volume.

    A match needs a basis of the first lattice whose lengths are less than (1 + ltol)
    times the second's, and no basis is shorter than the successive minima. Lattices
    shaped like needles or sheets fail here at once; to list their bases can take hours.
    """
    return float(np.max(first.relative_minima / second.relative_lengths)) * (1 - _SLACK)


@dataclasses.dataclass(frozen=True, eq=False)
class _Pair:
    """Two cells of the same composition at equal volume.

    Attributes:
        first, second: their lattices.
        cart_coords: Å, of the first cell's sites.
        frac_coords: of the second cell's sites.
        stol: see `smallest_rms`.
        rows, columns: site of the second and of the first cell for each pair of sites
            of one species, called entries; ascending by rows.
        starts: first entry of each row.
        species: per species, the rows and the entries (rows, columns) among them.
        mask: 1 where species differ, (second's sites, first's sites).
    """

    first: Lattice
    second: Lattice
    cart_coords: Float[np.ndarray, "sites 3"]
    frac_coords: Float[np.ndarray, "sites 3"]
    stol: float
    rows: Int[np.ndarray, " entries"]
    columns: Int[np.ndarray, " entries"]
    starts: Int[np.ndarray, " sites"]
    species: list[tuple[np.ndarray, np.ndarray]]
    mask: Int[np.ndarray, "sites sites"]

    @functools.cached_property
    def pinned(self) -> int:
        """Site of the second cell that shifts put onto sites of the first."""
        return int(np.argmax(self.mask.sum(axis=-1)))

    @functools.cached_property
    def onto(self) -> Int[np.ndarray, " shifts"]:
        """The sites of the first cell that it is put onto."""
        return np.flatnonzero(self.mask[self.pinned] == 0)


@dataclasses.dataclass(frozen=True, eq=False)
class _Candidates:
    """Some of a pair's superpositions, in pymatgen's order.

    Attributes:
        pair: what is superposed.
        bases: of the first lattice, Å.
        onto: site of the first cell that the pinned site is put onto.
        rms: RMS displacement, in units of (volume per site)^(1/3); infinite where sites
            cannot be assigned.
        largest: the largest displacement.
        is_open: pymatgen has to compute these.
        lower: bound of the RMS displacement of these.
    """

    pair: _Pair
    bases: Float[np.ndarray, "candidates 3 3"]
    onto: Int[np.ndarray, " candidates"]
    rms: Float[np.ndarray, " candidates"]
    largest: Float[np.ndarray, " candidates"]
    is_open: Bool[np.ndarray, " candidates"]
    lower: Float[np.ndarray, " candidates"]

    def compute(self, index: int) -> tuple[float, float]:
        """RMS and largest displacement, as StructureMatcher._strict_match has them."""
        pair = self.pair
        average = lattice_bases.average_lattice(self.bases[index], pair.second)
        frac_coords = Lattice(self.bases[index]).get_fractional_coords(pair.cart_coords)
        frac_coords -= np.floor(frac_coords)
        shift = frac_coords[self.onto[index]] - pair.frac_coords[pair.pinned]
        shifted = pair.frac_coords + shift
        normalization = (len(frac_coords) / average.volume) ** (1 / 3)

        def tolerance(lattice: Lattice) -> np.ndarray:
            lengths = np.array(lattice.reciprocal_lattice.abc)
            return lengths * pair.stol / (np.pi * normalization)

        if not coord_cython.is_coord_subset_pbc(
            shifted, frac_coords, tolerance(average), pair.mask
        ):
            return math.inf, math.inf
        vectors, squares = coord_cython.pbc_shortest_vectors(
            average,
            shifted,
            frac_coords,
            pair.mask,
            return_d2=True,
            lll_frac_tol=tolerance(average.get_lll_reduced_lattice()),
        )
        vectors = vectors[optimize.linear_sum_assignment(squares)]
        vectors -= vectors.mean(axis=0)
        distances = np.sqrt(np.sum(vectors**2, axis=-1)) * normalization
        return float(np.sqrt(np.mean(distances**2))), float(distances.max())


def _search(
    first: primitive_cells.ReducedCell,
    second: primitive_cells.ReducedCell,
    ltol: float,
    stol: float,
    angle_tol: float,
) -> Iterator[_Candidates]:
    if first.composition != second.composition:
        return
    scale = (second.volume / first.volume) ** (1 / 6)
    lattice = Lattice(first.lattice.matrix * scale)
    target = Lattice(second.lattice.matrix / scale)
    radius = max(target.lengths) * (1 + ltol)
    if lattice_bases.count_points(lattice, radius) > _MANY_POINTS and (
        stretch(first, second) > 1 + ltol
    ):
        return
    bases = lattice_bases.find_bases(lattice, target, ltol, angle_tol)
    # Most pairs of crystals end here.
    if not len(bases):
        return
    pair = _build_pair(first, second, lattice, target, stol)
    size = max(1, _MAX_ELEMENTS // (3 * len(pair.rows) * len(pair.onto)))
    for begin in range(0, len(bases), size):
        yield _superpose(pair, bases[begin : begin + size])


def _build_pair(
    first: primitive_cells.ReducedCell,
    second: primitive_cells.ReducedCell,
    lattice: Lattice,
    target: Lattice,
    stol: float,
) -> _Pair:
    is_same = second.atomic_numbers[:, None] == first.atomic_numbers
    rows, columns = np.nonzero(is_same)
    entry_of = np.zeros(is_same.shape, int)
    entry_of[rows, columns] = np.arange(len(rows))
    species = []
    for number in sorted(set(first.composition)):
        members = np.flatnonzero(second.atomic_numbers == number)
        others = np.flatnonzero(first.atomic_numbers == number)
        species.append((members, entry_of[members][:, others]))
    return _Pair(
        first=lattice,
        second=target,
        # Site by site, as pymatgen: products of whole arrays round otherwise.
        cart_coords=np.array([each @ lattice.matrix for each in first.frac_coords]),
        frac_coords=second.frac_coords,
        stol=stol,
        rows=rows,
        columns=columns,
        starts=np.searchsorted(rows, np.arange(len(is_same))),
        species=species,
        mask=(~is_same).astype(np.int64),
    )


def _superpose(pair: _Pair, bases: Float[np.ndarray, "bases 3 3"]) -> _Candidates:
    average = lattice_bases.average_bases(bases, pair.second)
    spacing = lattice_bases.plane_spacings(average)
    volume_per_site = np.abs(np.linalg.det(average)) / len(pair.frac_coords)
    length = volume_per_site ** (1 / 3)
    # Sites are compared if they are this near between each of three pairs of planes, Å.
    reach = 2 * pair.stol * length

    frac_coords = pair.cart_coords @ np.linalg.inv(bases)
    frac_coords -= np.floor(frac_coords)
    shifts = frac_coords[:, pair.onto] - pair.frac_coords[pair.pinned]
    shifted = pair.frac_coords + shifts[:, :, None]
    apart = shifted[:, :, pair.rows] - frac_coords[:, None, pair.columns]
    apart -= np.round(apart)
    excess = (np.abs(apart) - (reach[:, None] / spacing)[:, None, None]).max(axis=-1)
    # Each site must have one of its species near, if only one of several.
    excess = np.minimum.reduceat(excess, pair.starts, axis=-1).max(axis=-1)
    of, shift = np.nonzero(excess < _MARGIN)
    is_open = excess[of, shift] > -_MARGIN

    reduced = average.copy()
    used = np.unique(of)
    reduced[used] = lattice_bases.reduce_averages(
        average[used], bases[used], pair.second
    )
    change = average @ np.linalg.inv(reduced)
    near = images.find_nearest(apart[of, shift] @ change[of], reduced, of, reach)
    chosen, is_tie = _assign_sites(pair, near, length[of])

    def pick(of_entries: np.ndarray) -> np.ndarray:
        return np.take_along_axis(of_entries, chosen, axis=1)

    is_possible = pick(near.is_allowed).all(axis=1)
    is_loose = is_tie | ~pick(near.is_certain)
    # Where not all sites can be assigned, it does not matter which image is nearest.
    is_open |= (is_loose.any(axis=1) & is_possible) | near.is_at_limit
    can_bound = pick(near.is_exact).all(axis=1) & ~near.is_at_limit
    vectors = np.take_along_axis(near.vectors, chosen[..., None], axis=1)
    vectors = vectors / length[of, None, None]
    lower = np.where(can_bound, _least_rms(vectors, is_loose), 0.0)
    vectors -= vectors.mean(axis=1, keepdims=True)
    squares = np.sum(vectors**2, axis=-1)
    squares[~is_possible] = math.inf
    rms, largest = np.sqrt(squares.mean(axis=-1)), np.sqrt(squares.max(axis=-1))
    for value, limit in ((rms, _PERFECT), (rms, pair.stol), (largest, pair.stol)):
        is_open |= np.abs(value - limit) < _MARGIN
    return _Candidates(pair, bases[of], pair.onto[shift], rms, largest, is_open, lower)


def _least_rms(
    vectors: Float[np.ndarray, "candidates sites 3"],
    is_loose: Bool[np.ndarray, "candidates sites"],
) -> Float[np.ndarray, " candidates"]:
    """Lower bound of the RMS displacement where some directions are not known.

    The sum of those vectors' squares is. The mean takes off most where all of them are
    parallel to the sum of the others.
    """
    num_sites = vectors.shape[1]
    squares = np.sum(vectors**2, axis=-1)
    others = np.sum(vectors * ~is_loose[..., None], axis=1)
    loose = np.sqrt(is_loose.sum(axis=1) * np.sum(squares * is_loose, axis=1))
    mean = (np.linalg.norm(others, axis=-1) + loose) / num_sites
    return np.sqrt(np.maximum(squares.mean(axis=1) - mean**2, 0))


def _assign_sites(
    pair: _Pair, near: images.Nearest, length: Float[np.ndarray, " candidates"]
) -> tuple[Int[np.ndarray, "candidates sites"], Bool[np.ndarray, "candidates sites"]]:
    """Entry of each of the second cell's sites, and whether others do as well."""
    costs = np.where(near.is_allowed, near.squares, _FORBIDDEN)
    chosen = np.zeros((len(costs), len(pair.frac_coords)), int)
    is_tie = np.zeros(chosen.shape, bool)
    for rows, entries in pair.species:
        columns, is_tie[:, rows] = assignment.assign(
            costs[:, entries], _MARGIN * length**2
        )
        chosen[:, rows] = entries[np.arange(len(rows)), columns]
    return chosen, is_tie
