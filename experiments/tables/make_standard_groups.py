"""Makes crystaljax/crystals/tables/standard_groups.npz from spglib and pyxtal.

    pip install pyxtal
    python experiments/tables/make_standard_groups.py

takes two minutes. Operations are spglib's for one Hall number of each group, written
in the primitive basis that `standard_groups.CENTRING` defines. Wyckoff positions begin
with the first point of pyxtal's list (which has the letters of the International
Tables); all else follows from the operations in integer arithmetic: translations and
points are multiples of 1/24 and are kept in 24ths. tests/test_standard_groups.py checks
the table against both libraries.
"""

import collections
import importlib.metadata
import itertools
import pathlib
import re

import numpy as np
import spglib
from pyxtal import symmetry as pyxtal_symmetry

from crystaljax.crystals import standard_groups

TABLE = (
    pathlib.Path(__file__).parents[2]
    / "crystaljax"
    / "crystals"
    / "tables"
    / "standard_groups.npz"
)
NUMBERS = range(1, 231)
UNIT = standard_groups.TRANSLATION_DENOMINATOR
IDENTITY = np.eye(3, dtype=int)
VECTORS = np.array([v for v in itertools.product(range(-3, 4), repeat=3) if any(v)])


# ------------------------------------------------------------------------- operations
def hall_numbers() -> tuple[dict[int, int], dict[int, int]]:
    """Group → Hall number of ITA's setting, and of the one that spglib takes by itself.

    Origin choice 2, hexagonal axes, unique axis b with cell choice 1: the settings to
    which pyxtal's letters belong.
    """
    found: dict[int, int] = {}
    first: dict[int, int] = {}
    for hall_number in range(1, 531):
        kind = spglib.get_spacegroup_type(hall_number)
        first.setdefault(kind.number, hall_number)
        if kind.number not in found or kind.choice in ("2", "H"):
            found[kind.number] = hall_number
    return found, first


def primitive_operations(hall_number: int, centring: np.ndarray):
    """Rotations and translations (24ths), one operation a rotation, identity first."""
    inverse = np.linalg.inv(centring)
    symmetry = spglib.get_symmetry_from_database(hall_number)
    found = {}
    for rotation, translation in zip(
        symmetry["rotations"], symmetry["translations"], strict=True
    ):
        ours = whole(inverse @ rotation @ centring)
        shift = whole(UNIT * (inverse @ translation)) % UNIT
        # Centring translations are lattice vectors of the primitive cell.
        assert found.setdefault(tuple(ours.ravel()), tuple(shift)) == tuple(shift)
    keys = sorted(
        found, key=lambda key: (key != tuple(IDENTITY.ravel()), [-v for v in key])
    )
    rotations = np.array(keys).reshape(-1, 3, 3)
    return rotations, np.array([found[key] for key in keys])


def whole(values: np.ndarray) -> np.ndarray:
    """Rounds what is integer but for rounding errors."""
    rounded = np.rint(values)
    assert np.abs(rounded - values).max() < 1e-4, values
    return rounded.astype(int)


# -------------------------------------------------------------------------- positions
def extend(columns: list[np.ndarray], projector: np.ndarray, metric: np.ndarray):
    """Columns → basis of all integer vectors in the image of a projector.

    What is added is as short as can be in the metric.
    """
    inside = VECTORS[np.abs(VECTORS @ projector.T - VECTORS).max(axis=1) < 1e-6]
    lengths = np.round(np.einsum("ni,ij,nj->n", inside, metric, inside), 6)
    order = np.lexsort((*-inside.T[::-1], lengths))
    columns = list(columns)
    for vector in inside[order]:
        if len(columns) == round(np.trace(projector)):
            break
        if is_primitive(np.array([*columns, vector])):
            columns.append(vector)
    assert len(columns) == round(np.trace(projector))
    return columns


def is_primitive(rows: np.ndarray) -> bool:
    """Whether integer vectors are part of a basis: their minors have no divisor."""
    minors = [
        round(np.linalg.det(rows[:, list(chosen)]))
        for chosen in itertools.combinations(range(3), len(rows))
    ]
    return np.gcd.reduce(minors) == 1


def first_point(text: str) -> tuple[np.ndarray, np.ndarray]:
    """``"x,2x,1/4"`` → linear part and offset."""
    linear, offset = np.zeros((3, 3)), np.zeros(3)
    term = re.compile(r"([+-]?)(\d*)(?:/(\d+))?([xyz]?)")
    for row, part in enumerate(text.replace(" ", "").split(",")):
        for sign, above, below, variable in term.findall(part):
            if above or variable:
                value = float(above or 1) / float(below or 1)
                value = -value if sign == "-" else value
                if variable:
                    linear[row, "xyz".index(variable)] += value
                else:
                    offset[row] += value
    return linear, offset


class Group:
    """A group under construction."""

    def __init__(self, number: int, hall_number: int):
        """Operations and positions."""
        self.number = number
        self.centring = standard_groups.centring(number)
        self.rotations, self.shifts = primitive_operations(hall_number, self.centring)
        self.index_of = {tuple(r.ravel()): i for i, r in enumerate(self.rotations)}
        self.metric = np.mean([r.T @ r for r in self.rotations], axis=0)
        self.polar = extend([], self.rotations.mean(axis=0), self.metric)
        # pyxtal starts with the general position, whose letter is the last.
        self.positions = [
            Position(self, position)
            for position in reversed(list(pyxtal_symmetry.Group(number)))
        ]
        self.of_kind = collections.defaultdict(list)
        for position in self.positions:
            self.of_kind[position.multiplicity, position.freedom].append(position)


class Position:
    """A Wyckoff position under construction: points ``basis @ u + offset``."""

    def __init__(self, group: Group, listed):
        """From the first point of pyxtal's list."""
        self.letter = listed.letter
        listed.get_site_symmetry()
        self.site_symmetry = listed.site_symm
        inverse = np.linalg.inv(group.centring)
        linear, offset = first_point(listed.ops[0].as_xyz_str())
        linear, offset = inverse @ linear, whole(UNIT * (inverse @ offset)) % UNIT
        # The operations that leave all points where they are.
        apart = (group.rotations - IDENTITY) @ linear
        shifts = (group.rotations - IDENTITY) @ offset + group.shifts
        fixing = np.abs(apart).max(axis=(1, 2)) < 1e-6
        fixing &= (shifts % UNIT == 0).all(axis=1)
        projector = group.rotations[fixing].mean(axis=0)
        self.freedom = round(np.trace(projector))
        assert self.freedom == np.linalg.matrix_rank(linear) == listed.get_dof()
        self.multiplicity = len(group.rotations) // fixing.sum()
        self.basis = np.zeros((3, self.freedom), int)
        if self.freedom:
            self.basis = np.array(extend(group.polar, projector, group.metric)).T
        whole_space = extend(list(self.basis.T), np.eye(3), group.metric)
        self.inverse = whole(np.linalg.inv(np.array(whole_space).T))
        self.offset = offset
        # One operation for each site: the first that brings the point there.
        images = [
            (tuple((r @ self.basis).ravel()), tuple((r @ offset + t) % UNIT))
            for r, t in zip(group.rotations, group.shifts, strict=True)
        ]
        # Points with equal images are the same modulo lattice vectors.
        self.operations = [
            k for k, image in enumerate(images) if image not in images[:k]
        ]
        assert len(self.operations) == self.multiplicity, (group.number, self.letter)


def find_maps(group: Group, source: Position, target: Position, linear, shift):
    """All ``(M, m)``: an affine map sends parameters u to parameters M u + m of target.

    The map is ``x → linear @ x + shift`` followed by any operation of the group.
    """
    found = {}
    for rotation, translation in zip(group.rotations, group.shifts, strict=True):
        image = target.inverse @ rotation @ linear @ source.basis
        if image[target.freedom :].any():
            continue
        origin = rotation @ (linear @ source.offset + shift) + translation
        origin = target.inverse @ (origin - target.offset)
        if (origin[target.freedom :] % UNIT).any():
            continue
        matrix, vector = np.zeros((3, 3), int), np.zeros(3, int)
        matrix[: target.freedom, : source.freedom] = image[: target.freedom]
        vector[: target.freedom] = origin[: target.freedom] % UNIT
        found[matrix.tobytes(), vector.tobytes()] = (matrix, vector)
    return list(found.values())


def map_positions(group: Group, linear, shift):
    """Target position and parameter map of each position under a normaliser element."""
    targets, matrices, vectors = [], [], []
    for source in group.positions:
        for target in group.of_kind[source.multiplicity, source.freedom]:
            maps = find_maps(group, source, target, linear, shift)
            if maps:
                # The plainest of the equivalent ones.
                matrix, vector = max(maps, key=lambda m: (np.trace(m[0]), -m[1].sum()))
                break
        else:
            raise AssertionError((group.number, source.letter, linear, shift))
        targets.append(group.positions.index(target))
        matrices.append(matrix)
        vectors.append(vector)
    assert sorted(targets) == list(range(len(targets)))
    return targets, matrices, vectors


# ------------------------------------------------------------------------- normaliser
def unimodular(largest: int, dimension: int) -> np.ndarray:
    """Integer matrices with determinant ±1 and entries up to a largest one."""
    rows = list(itertools.product(range(-largest, largest + 1), repeat=dimension))
    matrices = np.array(list(itertools.product(rows, repeat=dimension)))
    return matrices[np.abs(np.round(np.linalg.det(matrices))) == 1]


ALL_LINEAR = unimodular(1, 3)
PLANAR = unimodular(2, 2)


def linear_candidates(group: Group) -> np.ndarray:
    """Matrices among which the linear parts of the normaliser are sought.

    Normalisers of triclinic and monoclinic groups are infinite: their changes of basis
    are those that may lead from one reduced cell to another that is nearly as short.
    """
    if not 3 <= group.number <= 15:
        return ALL_LINEAR
    planar = np.zeros((2 * len(PLANAR), 3, 3), int)
    planar[:, ::2, ::2] = np.concatenate([PLANAR, PLANAR])
    planar[:, 1, 1] = np.repeat([1, -1], len(PLANAR))
    inverse = np.linalg.inv(group.centring)
    ours = inverse @ planar @ group.centring
    rounded = np.rint(ours).astype(int)
    return rounded[np.abs(rounded - ours).max(axis=(1, 2)) < 1e-6]


def linear_parts(group: Group) -> list[np.ndarray]:
    """Matrices that keep the point group, one of each coset; proper where there are."""
    matrices = linear_candidates(group)
    inverses = whole(np.linalg.inv(matrices))
    members = group.rotations.reshape(-1, 9)
    for rotation in group.rotations:
        images = (matrices @ rotation @ inverses).reshape(-1, 1, 9)
        keep = (images == members).all(axis=2).any(axis=1)
        matrices, inverses = matrices[keep], inverses[keep]
    matrices = sorted(
        matrices,
        key=lambda m: (
            np.linalg.det(m) < 0,
            np.abs(m - IDENTITY).sum(),
            *-m.ravel(),
        ),
    )
    chosen, seen = [], set()
    for matrix in matrices:
        if matrix.tobytes() not in seen:
            chosen.append(matrix)
            seen |= {(rotation @ matrix).tobytes() for rotation in group.rotations}
    return chosen


GRID = np.array(list(itertools.product(range(UNIT), repeat=3)))
# Small shifts first.
GRID = GRID[np.argsort(np.abs((GRID + 12) % UNIT - 12).sum(axis=1), kind="stable")]


def origin_shifts(group: Group, linear: np.ndarray) -> np.ndarray:
    """All p for which ``x → linear @ x + p`` is in the normaliser, (number, 3)."""
    inverse = whole(np.linalg.inv(linear))
    points = GRID
    for rotation, shift in zip(group.rotations, group.shifts, strict=True):
        image = linear @ rotation @ inverse
        needed = group.shifts[group.index_of[tuple(image.ravel())]] - linear @ shift
        left = (points @ (IDENTITY - image).T - needed) % UNIT
        points = points[(left == 0).all(axis=1)]
    return points


def spglib_shift(group: Group, hall_number: int) -> np.ndarray:
    """The p for which ``x + p`` is in our setting if x is in that of a Hall number."""
    rotations, shifts = primitive_operations(hall_number, group.centring)
    np.testing.assert_array_equal(rotations, group.rotations)
    points = GRID
    for rotation, theirs, ours in zip(rotations, shifts, group.shifts, strict=True):
        left = (points @ (IDENTITY - rotation).T - (ours - theirs)) % UNIT
        points = points[(left == 0).all(axis=1)]
    return points[0]


def pure_shifts(group: Group) -> list[np.ndarray]:
    """Origin shifts of the normaliser modulo lattice vectors and polar shifts."""
    basis = np.array(extend(group.polar, np.eye(3), group.metric)).T
    coords = origin_shifts(group, IDENTITY) @ whole(np.linalg.inv(basis)).T % UNIT
    # The first axes of the basis are the polar ones.
    coords[:, : len(group.polar)] = 0
    coords = coords[np.sort(np.unique(coords, axis=0, return_index=True)[1])]
    return list(coords @ basis.T % UNIT)


def normaliser(group: Group):
    """Linear representatives with their shifts, and pure shifts; identity first."""
    linear = []
    for matrix in linear_parts(group):
        shifts = origin_shifts(group, matrix) if group.number > 2 else GRID[:1]
        if len(shifts):
            linear.append((matrix, shifts[0]))
    return linear, [(IDENTITY, shift) for shift in pure_shifts(group)]


# ------------------------------------------------------------------------------ table
def main() -> None:
    """Makes the table."""
    halls, default_halls = hall_numbers()
    table = collections.defaultdict(list)
    for number in NUMBERS:
        group = Group(number, halls[number])
        table["hall_numbers"].append(halls[number])
        table["spglib_hall_numbers"].append(default_halls[number])
        table["spglib_shifts"].append(spglib_shift(group, default_halls[number]))
        table["num_operations"].append(len(group.rotations))
        table["rotations"] += list(group.rotations)
        table["translations"] += list(group.shifts)
        table["num_polar"].append(len(group.polar))
        table["num_positions"].append(len(group.positions))
        for position in group.positions:
            basis = np.zeros((3, 3), int)
            basis[:, : position.freedom] = position.basis
            equivalents = find_maps(
                group, position, position, IDENTITY, 0 * IDENTITY[0]
            )
            table["letters"].append(position.letter)
            table["site_symmetries"].append(position.site_symmetry)
            table["freedoms"].append(position.freedom)
            table["multiplicities"].append(position.multiplicity)
            table["bases"].append(basis)
            table["inverses"].append(position.inverse)
            table["offsets"].append(position.offset)
            table["site_operations"] += position.operations
            table["num_equivalents"].append(len(equivalents))
            table["equivalent_matrices"] += [matrix for matrix, _ in equivalents]
            table["equivalent_vectors"] += [vector for _, vector in equivalents]
        linear, shifts = normaliser(group)
        for kind, members in (("change", linear), ("shift", shifts)):
            table[f"num_{kind}s"].append(len(members))
            for matrix, shift in members:
                targets, matrices, vectors = map_positions(group, matrix, shift)
                if kind == "change":
                    table["change_linear"].append(matrix)
                table[f"{kind}_translations"].append(shift)
                table[f"{kind}_targets"] += targets
                table[f"{kind}_matrices"] += matrices
                table[f"{kind}_vectors"] += vectors
        print(number, len(linear), len(shifts), flush=True)
    arrays = {}
    for name, values in table.items():
        array = np.array(values)
        if array.dtype.kind == "i":
            small = array.astype(np.int16 if np.abs(array).max() > 127 else np.int8)
            np.testing.assert_array_equal(small, array)
            array = small
        arrays[name] = array
    versions = [
        f"{name} {importlib.metadata.version(name)}" for name in ("spglib", "pyxtal")
    ]
    arrays["made_with"] = np.array(versions)
    np.savez_compressed(TABLE, **arrays)
    print(f"{TABLE}: {len(arrays['letters'])} positions, {TABLE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
