"""The 230 space groups in their standard primitive setting, as tables.

The setting: origin choice 2, hexagonal axes, unique axis b with cell choice 1, as the
Wyckoff positions of the International Tables and of pyxtal have it; then the basis of a
primitive cell, by one fixed matrix for each kind of centring (`CENTRING`). In this
basis a group is one fixed list of at most 48 operations with integer rotations.

* **Operations** act on fractional coordinates as columns: ``x → R @ x + t``.
* **A Wyckoff position** has 0 to 3 free parameters u, each with period 1. Its first
  site is ``B @ u + b``, where the columns of B are a basis of the lattice vectors in
  the subspace on which the site can move; the others are ``R_k @ (B @ u + b) + t_k``.
  A component of x alone has no such period: (x, 2x, z) wrapped into the cell component
  by component leaves the subspace.
* **Polar directions** are those along which the origin is free. They are the first
  axes of every B, so that a shift of the origin adds the same numbers to the first
  parameters of every position.
* **The normaliser** holds the changes of basis and origin that lead from one
  description in this setting to another: a change of basis ``x → P @ x + p`` (one for
  each coset of the group, proper where there is such a one), then a pure shift of the
  origin. Each permutes the Wyckoff positions and maps their parameters by
  ``u → M @ u + m``. The normalisers of triclinic and monoclinic groups are infinite;
  the table has the changes with entries up to 1 (triclinic, primitive basis) or 2
  (monoclinic, conventional basis), which relate cells that are nearly reduced.
* **Lattices** that the group allows have metrics ``G = A @ exp(S) @ A``, with A the
  root of a reference metric of determinant 1 and S in a linear space of 1 to 6
  dimensions, the first of which changes the volume alone.

The table is a data file; experiments/tables/make_standard_groups.py makes it.
"""

import dataclasses
import functools
import pathlib

import numpy as np
from jaxtyping import Bool, Float, Int

from crystaljax.crystals import space_groups
from crystaljax.system import errors

# Translations are stored as integers: every one is a multiple of 1/24.
TRANSLATION_DENOMINATOR = 24
# Of any group: P-43m has this many, Pmmm 27.
MAX_POSITIONS = 27
# Of the parameters of a lattice.
MAX_STRAINS = 6

# Columns are the vectors of the primitive cell in the conventional basis. Rhombohedral
# groups are in hexagonal axes, obverse.
CENTRING = {
    "P": np.eye(3),
    "A": np.array([[1, 0, 0], [0, 1 / 2, -1 / 2], [0, 1 / 2, 1 / 2]]),
    "C": np.array([[1 / 2, 1 / 2, 0], [-1 / 2, 1 / 2, 0], [0, 0, 1]]),
    "I": np.array([[-1, 1, 1], [1, -1, 1], [1, 1, -1]]) / 2,
    "F": np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]) / 2,
    "R": np.array([[2, -1, -1], [1, 1, -2], [1, 1, 1]]) / 3,
}


@dataclasses.dataclass(frozen=True, eq=False)
class Position:
    """A Wyckoff position; its sites are ``linear[k] @ u + offsets[k]``.

    Attributes:
        letter: its Wyckoff letter; after z comes A.
        multiplicity: sites in the primitive cell: the number in the International
            Tables divided by the lattice points of the conventional cell.
        freedom: parameters that are free, 0 to 3.
        site_symmetry: its symbol, oriented as in the International Tables.
        basis: (3, 3), integers; columns from ``freedom`` on are 0.
        offset: (3,), of the first site.
        inverse: (3, 3), integers, unimodular: ``inverse @ basis`` is 1 in the first
            columns, and a point is in the subspace if the components of
            ``inverse @ (x - offset)`` from ``freedom`` on are integers.
        projector: (3, 3), onto the subspace, invariant under the site's symmetry.
        linear: (multiplicity, 3, 3), integers; columns from ``freedom`` on are 0.
        offsets: (multiplicity, 3), in [0, 1).
        equivalent_matrices: (equivalents, 3, 3), integers, and
        equivalent_vectors: (equivalents, 3): all ``M @ u + m`` that describe the same
            sites as u, the identity among them.
    """

    letter: str
    multiplicity: int
    freedom: int
    site_symmetry: str
    basis: np.ndarray
    offset: np.ndarray
    inverse: np.ndarray
    projector: np.ndarray
    linear: np.ndarray
    offsets: np.ndarray
    equivalent_matrices: np.ndarray
    equivalent_vectors: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Changes:
    """Elements of the normaliser and what they do to Wyckoff positions.

    Attributes:
        linear: (changes, 3, 3), integers, determinant ±1.
        translations: (changes, 3).
        targets: (changes, positions), the index of the position that each becomes.
        matrices: (changes, positions, 3, 3), integers, and
        vectors: (changes, positions, 3): u becomes ``matrices @ u + vectors`` in the
            target.
    """

    linear: np.ndarray
    translations: np.ndarray
    targets: np.ndarray
    matrices: np.ndarray
    vectors: np.ndarray

    @functools.cached_property
    def proper(self) -> Bool[np.ndarray, " changes"]:
        """Which keep the handedness; the others give the mirror image."""
        return np.linalg.det(self.linear) > 0


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
    """A space group in its standard primitive setting.

    Attributes:
        number: 1-230.
        hall_number: of the conventional setting, as spglib counts.
        spglib_hall_number: of the setting that spglib takes by itself: the same but for
            groups with two origins, where it is the other one.
        spglib_shift: (3,); x in spglib's setting is ``x + spglib_shift`` in ours, both
            in the primitive basis.
        rotations: (operations, 3, 3), integers; the identity is first.
        translations: (operations, 3), in [0, 1).
        num_polar: directions along which the origin is free, 0 to 3.
        positions: from ``a`` to the general one.
        changes: of basis; the identity is first.
        shifts: of the origin, modulo lattice vectors and polar directions; the identity
            is first. Changes followed by shifts are the normaliser modulo the group.
        root: (3, 3), the symmetric root A of the reference metric.
        strains: (dimensions, 3, 3), an orthonormal basis of the space of S.
    """

    number: int
    hall_number: int
    spglib_hall_number: int
    spglib_shift: np.ndarray
    rotations: np.ndarray
    translations: np.ndarray
    num_polar: int
    positions: tuple[Position, ...]
    changes: Changes
    shifts: Changes
    root: np.ndarray
    strains: np.ndarray

    @property
    def centring(self) -> Float[np.ndarray, "3 3"]:
        """Columns: vectors of the primitive cell in the conventional basis."""
        return centring(self.number)


def centring(space_group: int) -> Float[np.ndarray, "3 3"]:
    """Primitive vectors of a group in its conventional basis, as columns."""
    return CENTRING[space_groups.load_space_group_symbols()[space_group][0]]


@functools.cache
def load_group(space_group: int) -> Group:
    """A space group; its arrays are shared by all callers and read-only.

    Raises:
        ValueError: the number is not in 1-230.
    """
    if not 1 <= space_group <= space_groups.NUM_SPACE_GROUPS:
        raise errors.UserError(
            f"space group {space_group} does not exist; expected a number from 1 to "
            f"{space_groups.NUM_SPACE_GROUPS}"
        )
    table, row = _load_table(), space_group - 1
    operations = _rows(table, "operations", row)
    rotations = table["rotations"][operations].astype(int)
    translations = _fractions(table["translations"][operations])
    root = _reference_root(rotations)
    positions = _rows(table, "positions", row)
    return Group(
        number=int(space_group),
        hall_number=int(table["hall_numbers"][row]),
        spglib_hall_number=int(table["spglib_hall_numbers"][row]),
        spglib_shift=_fractions(table["spglib_shifts"][row]),
        rotations=_read_only(rotations),
        translations=translations,
        num_polar=int(table["num_polar"][row]),
        positions=tuple(
            _build_position(table, index, rotations, translations)
            for index in range(positions.start, positions.stop)
        ),
        changes=_build_changes(table, "change", row),
        shifts=_build_changes(table, "shift", row),
        root=_read_only(root),
        strains=_read_only(_invariant_strains(rotations, root)),
    )


def list_positions() -> list[tuple[int, str, int, int]]:
    """Space group, letter, multiplicity and freedom of all Wyckoff positions.

    Milliseconds, where `load_group` of all groups takes a second.
    """
    table = _load_table()
    numbers = np.repeat(
        np.arange(len(table["num_positions"])) + 1, table["num_positions"]
    )
    columns = (numbers, table["letters"], table["multiplicities"], table["freedoms"])
    return list(zip(*(column.tolist() for column in columns), strict=True))


@functools.cache
def _load_table() -> dict[str, np.ndarray]:
    path = pathlib.Path(__file__).parent / "tables" / "standard_groups.npz"
    with np.load(path) as file:
        table = {name: file[name] for name in file.files}
    # Where the rows of each owner end: rows of one follow those of another.
    positions = table["num_positions"].astype(int)
    for name, counts in {
        "operations": table["num_operations"],
        "positions": positions,
        "sites": table["multiplicities"],
        "equivalents": table["num_equivalents"],
        "changes": table["num_changes"],
        "shifts": table["num_shifts"],
        "change_positions": table["num_changes"] * positions,
        "shift_positions": table["num_shifts"] * positions,
    }.items():
        table[f"{name}_end"] = np.cumsum(counts, dtype=int)
    return table


def _rows(table: dict[str, np.ndarray], name: str, owner: int) -> slice:
    """Rows that belong to one owner."""
    ends = table[f"{name}_end"]
    return slice(int(ends[owner - 1]) if owner else 0, int(ends[owner]))


def _fractions(values: np.ndarray) -> np.ndarray:
    return _read_only(values / TRANSLATION_DENOMINATOR)


def _read_only(array: np.ndarray) -> np.ndarray:
    array.setflags(write=False)
    return array


def _build_position(
    table: dict[str, np.ndarray],
    index: int,
    rotations: Int[np.ndarray, "operations 3 3"],
    translations: Float[np.ndarray, "operations 3"],
) -> Position:
    basis = table["bases"][index].astype(int)
    offset = table["offsets"][index] / TRANSLATION_DENOMINATOR
    equivalents = _rows(table, "equivalents", index)
    operations = table["site_operations"][_rows(table, "sites", index)]
    images = rotations @ offset + translations
    fixing = (rotations @ basis == basis).all(axis=(1, 2))
    fixing &= np.abs(_wrap(images - offset)).max(axis=1) < 1e-6
    return Position(
        letter=str(table["letters"][index]),
        multiplicity=len(operations),
        freedom=int(table["freedoms"][index]),
        site_symmetry=str(table["site_symmetries"][index]),
        basis=_read_only(basis),
        offset=_read_only(offset),
        inverse=_read_only(table["inverses"][index].astype(int)),
        projector=_read_only(rotations[fixing].mean(axis=0)),
        linear=_read_only(rotations[operations] @ basis),
        # Rounded, so that 23.999999/24 does not stay below 1.
        offsets=_fractions(
            np.rint(images[operations] * TRANSLATION_DENOMINATOR)
            % TRANSLATION_DENOMINATOR
        ),
        equivalent_matrices=_read_only(
            table["equivalent_matrices"][equivalents].astype(int)
        ),
        equivalent_vectors=_fractions(table["equivalent_vectors"][equivalents]),
    )


def _build_changes(table: dict[str, np.ndarray], kind: str, row: int) -> Changes:
    members = _rows(table, f"{kind}s", row)
    per_position = _rows(table, f"{kind}_positions", row)
    shape = (members.stop - members.start, int(table["num_positions"][row]))
    if kind == "change":
        linear = table["change_linear"][members].astype(int)
    else:
        linear = np.tile(np.eye(3, dtype=int), (shape[0], 1, 1))
    matrices = table[f"{kind}_matrices"][per_position].astype(int)
    vectors = table[f"{kind}_vectors"][per_position]
    return Changes(
        linear=_read_only(linear),
        translations=_fractions(table[f"{kind}_translations"][members]),
        targets=_read_only(
            table[f"{kind}_targets"][per_position].astype(int).reshape(shape)
        ),
        matrices=_read_only(matrices.reshape(*shape, 3, 3)),
        vectors=_fractions(vectors.reshape(*shape, 3)),
    )


def _reference_root(rotations: Int[np.ndarray, "operations 3 3"]) -> np.ndarray:
    """Root of the mean of R'R, an invariant metric, scaled to determinant 1."""
    metric = np.mean(np.swapaxes(rotations, 1, 2) @ rotations, axis=0)
    values, vectors = np.linalg.eigh(metric / np.cbrt(np.linalg.det(metric)))
    return (vectors * np.sqrt(values)) @ vectors.T


def _invariant_strains(
    rotations: Int[np.ndarray, "operations 3 3"], root: Float[np.ndarray, "3 3"]
) -> Float[np.ndarray, "dimensions 3 3"]:
    """Orthonormal symmetric matrices that commute with all rotations.

    The identity comes first; the others are the means over the group of the unit
    matrices 11, 22, 33, 12, 13, 23, made orthogonal in this order.
    """
    cartesian = root @ rotations @ np.linalg.inv(root)
    candidates = [np.eye(3)]
    for i, j in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)):
        unit = np.zeros((3, 3))
        unit[i, j] = unit[j, i] = 1
        candidates.append(np.mean(cartesian @ unit @ cartesian.swapaxes(1, 2), axis=0))
    chosen: list[np.ndarray] = []
    for candidate in candidates:
        # Twice, against rounding.
        for _ in range(2):
            for strain in chosen:
                candidate = candidate - np.sum(strain * candidate) * strain
        norm = np.linalg.norm(candidate)
        if norm > 1e-6:
            chosen.append(candidate / norm)
    return np.array(chosen)


def _wrap(differences: np.ndarray) -> np.ndarray:
    return differences - np.round(differences)
