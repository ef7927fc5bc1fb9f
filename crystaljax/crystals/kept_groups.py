"""Space groups that leave a part of a crystal alone, and where their axes lie in it.

A part of a crystal stays where it is while the rest is made anew. Which groups can the
result have? Those whose operations bring each site of the part to a site of the part:
the group of the whole crystal, as far as it does so, that of the part alone, and their
subgroups (`find_settings`). Each comes with the map from the crystal's cell to the
standard primitive setting (`standard_groups`), in which the rest is generated, and with
the part as orbits in it.

Subgroups with the same translations are all found, one of each conjugacy class. Those
with fewer are found where the cell itself is to be the primitive one, as in a supercell
that shall hold one interstitial.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import numpy as np
import spglib
from jaxtyping import Bool, Float, Int

from crystaljax.crystals import (
    orbits,
    standard_choice,
    standard_groups,
    standard_setting,
    structure,
    symmetry_search,
)
from crystaljax.system import errors

# Å. Symmetry of a crystal that somebody brings.
SYMPREC = 0.01
# Å. Within which an image of a kept site is at a kept site.
_TOLERANCE = 0.03
# Classes of subgroups without translations of their own, at most: supercells of cubic
# crystals have thousands.
_MAX_CLASSES = 96
# Lattice parameters agree to this share where a group requires it.
_MAX_STRAIN = 2e-3


@dataclasses.dataclass(frozen=True, eq=False)
class Setting:
    """A space group that a part of a crystal has, and its standard primitive setting.

    A point x of the crystal's cell is ``matrix @ x + shift`` in the setting.

    Attributes:
        matrix: (3, 3), whole numbers; the columns are the cell's vectors in terms of
            those of the primitive cell.
        shift: (3,).
        kept: the part as orbits, with the lattice.
    """

    matrix: np.ndarray
    shift: np.ndarray
    kept: orbits.OrbitCrystal

    @property
    def space_group(self) -> int:
        """1-230."""
        return self.kept.space_group

    @property
    def num_cells(self) -> int:
        """Primitive cells in the crystal's cell."""
        return round(abs(np.linalg.det(self.matrix)))

    def to_cell(
        self, coords: Float[np.ndarray, "sites 3"]
    ) -> Float[np.ndarray, "copies 3"]:
        """Sites of a primitive cell → all of them in the crystal's cell, in [0, 1)."""
        inverse = np.linalg.inv(self.matrix)
        first = (coords - self.shift) @ inverse.T
        copies = first[:, None] + lattice_points(self.matrix)
        return structure.wrap_sites(copies.reshape(-1, 3))

    def cell_lattice(
        self, primitive: Float[np.ndarray, "3 3"]
    ) -> Float[np.ndarray, "3 3"]:
        """Rows of a primitive lattice → rows of the crystal's cell."""
        return self.matrix.T @ primitive


def lattice_points(matrix: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "points 3"]:
    """Translations of the primitive cell within a cell, in terms of the cell."""
    count = round(abs(np.linalg.det(matrix)))
    inverse = np.linalg.inv(matrix)
    steps = np.array(list(np.ndindex(count, count, count)), float)
    points = np.rint(steps @ inverse.T * count) % count
    return np.unique(points, axis=0) / count


def find_settings(
    whole: structure.Crystal,
    is_kept: Bool[np.ndarray, " sites"],
    *,
    as_primitive: bool = False,
    symprec: float = SYMPREC,
) -> list[Setting]:
    """Groups that a part of a crystal has, the largest of the whole crystal first.

    Args:
        whole: the crystal, in any cell.
        is_kept: its sites that stay.
        as_primitive: groups whose primitive cell is the crystal's cell; by default it
            is the smallest that the crystal, or its part, has.
        symprec: Å.

    Raises:
        UserError: spglib finds no symmetry.
    """
    part = structure.Crystal(
        whole.atomic_numbers[is_kept], whole.frac_coords[is_kept], whole.lattice
    )
    found: list[Setting] = []
    seen: set[object] = set()
    for crystal in [whole, part] if not np.all(is_kept) else [part]:
        new = list(_settings_of(crystal, part, as_primitive, symprec))
        found += [each for each in new if _kind(each) not in seen]
        seen |= {_kind(each) for each in new}
    return found


def _kind(setting: Setting) -> object:
    """What the same group found twice has in common."""
    kept = setting.kept
    kinds = zip(kept.atomic_numbers.tolist(), kept.positions.tolist(), strict=True)
    return setting.space_group, setting.num_cells, tuple(sorted(kinds))


def _settings_of(
    crystal: structure.Crystal,
    part: structure.Crystal,
    as_primitive: bool,
    symprec: float,
) -> Iterator[Setting]:
    """Settings of the subgroups of a crystal's group that a part of it has."""
    found = symmetry_search.find_symmetry(crystal, symprec)
    if found is None:
        raise errors.UserError(
            f"spglib finds no symmetry in the template at symprec {symprec} Å; "
            "expected sites that are apart"
        )
    group = standard_groups.load_group(found.number)
    inverse = np.linalg.inv(group.centring)
    matrix = np.rint(inverse @ found.transformation_matrix)
    shift = inverse @ found.origin_shift + group.spglib_shift
    rotations, translations = group.rotations, group.translations
    if as_primitive:
        rotations, translations = _in_cell(matrix, shift, rotations, translations)
        matrix, shift = np.eye(3), np.zeros(3)
    lattice = np.linalg.inv(matrix.T) @ part.lattice
    coords = part.frac_coords @ matrix.T + shift
    numbers, coords = _merge_copies(part.atomic_numbers, coords, lattice)
    stays = _stays(rotations, translations, numbers, coords, lattice)
    rotations, translations = rotations[stays], translations[stays]
    for members in _subgroups(rotations, translations):
        own = _standardise(rotations[members], translations[members], lattice)
        if own is None:
            continue
        number, change, move = own
        setting = _describe(
            part, number, np.rint(change @ matrix), change @ shift + move
        )
        if setting is not None:
            yield setting


def _in_cell(matrix, shift, rotations, translations):
    """Operations of a primitive setting that a cell has, with all translations."""
    inverse = np.linalg.inv(matrix)
    turned = inverse @ rotations @ matrix
    whole = np.abs(turned - np.rint(turned)).max(axis=(1, 2)) < 1e-6
    turned = np.rint(turned[whole]).astype(int)
    moved = (rotations[whole] @ shift + translations[whole] - shift) @ inverse.T
    points = lattice_points(matrix)
    moved = (moved[:, None] + points).reshape(-1, 3)
    return np.repeat(turned, len(points), axis=0), moved % 1


def _merge_copies(numbers, coords, lattice):
    """The sites of one primitive cell, each the mean of its copies."""
    left = np.ones(len(numbers), bool)
    merged, species = [], []
    for site in range(len(numbers)):
        if not left[site]:
            continue
        apart = coords - coords[site]
        apart -= np.round(apart)
        near = np.linalg.norm(apart @ lattice, axis=1) < _TOLERANCE
        same = near & left & (numbers == numbers[site])
        merged.append(coords[site] + apart[same].mean(axis=0))
        species.append(numbers[site])
        left &= ~same
    return np.array(species), np.array(merged)


def _stays(rotations, translations, numbers, coords, lattice) -> np.ndarray:
    """Indices of operations that bring sites to sites and leave the lattice alone."""
    images = np.einsum("kij,sj->ksi", rotations, coords) + translations[:, None]
    apart = images[:, :, None] - coords
    distances = np.linalg.norm((apart - np.round(apart)) @ lattice, axis=-1)
    distances[:, numbers[:, None] != numbers] = np.inf
    metric = lattice @ lattice.T
    turned = np.swapaxes(rotations, 1, 2) @ metric @ rotations
    strained = np.abs(turned - metric).max(axis=(1, 2)) / np.trace(metric)
    fits = (distances.min(axis=2).max(axis=1) < _TOLERANCE) & (strained < _MAX_STRAIN)
    return np.flatnonzero(fits)


# ---------------------------------------------------------------------------- subgroups
def _subgroups(rotations, translations) -> list[list[int]]:
    """Subgroups without pure translations, one of each class, the largest first.

    Operations are those of a group modulo lattice vectors.
    """
    keys = [
        (*rotation.ravel().tolist(), *(np.rint(move * 720) % 720).tolist())
        for rotation, move in zip(rotations.astype(int), translations, strict=True)
    ]
    index = {key: number for number, key in enumerate(keys)}
    count = len(keys)
    products = np.zeros((count, count), int)
    for one in range(count):
        turned = rotations[one] @ rotations
        moved = translations @ rotations[one].T + translations[one]
        moved = np.rint(moved * 720) % 720
        products[one] = [
            index[(*turn.ravel().tolist(), *move.tolist())]
            for turn, move in zip(turned.astype(int), moved, strict=True)
        ]
    identity = next(i for i in range(count) if (products[i] == range(count)).all())
    inverses = np.argmax(products == identity, axis=1)
    turns = np.array([key[:9] for key in keys])
    shifted = set(np.flatnonzero((turns == turns[identity]).all(axis=1)).tolist())
    forbidden = shifted - {identity}

    def conjugates(members: frozenset[int]) -> Iterator[frozenset[int]]:
        some = np.array(sorted(members))
        for one in range(count):
            yield frozenset(products[products[one, some], inverses[one]].tolist())

    start = frozenset([identity])
    classes, seen, waiting = [start], {start}, [start]
    # The largest grow first: where there are too many, these are found.
    while waiting and len(classes) < _MAX_CLASSES:
        members = waiting.pop(max(range(len(waiting)), key=lambda i: len(waiting[i])))
        tried = set(members)
        for one in range(count):
            if one in tried:
                continue
            grown = _generate(products, members | {one})
            tried.add(one)
            if grown in seen or forbidden & grown:
                continue
            seen.update(conjugates(grown))
            classes.append(grown)
            waiting.append(grown)
    classes.sort(key=lambda each: -len(each))
    return [sorted(each) for each in classes]


def _generate(products: np.ndarray, members: frozenset[int]) -> frozenset[int]:
    while True:
        some = np.array(sorted(members))
        grown = frozenset(np.unique(products[np.ix_(some, some)]).tolist())
        if len(grown) == len(members):
            return grown
        members = grown


def _standardise(rotations, translations, lattice):
    """The type of a group, and the change to its standard primitive setting.

    spglib names the group of a crystal that has it: of points in general places.
    """
    metric = lattice @ lattice.T
    metric = (np.swapaxes(rotations, 1, 2) @ metric @ rotations).mean(axis=0)
    basis = np.linalg.cholesky(metric)
    for seed in range(4):
        rng = np.random.default_rng(seed)
        points = rng.random((2 if len(rotations) > 8 else 4, 3))
        images = np.einsum("kij,sj->ski", rotations, points) + translations
        numbers = np.repeat(np.arange(len(points)) + 1, len(rotations))
        cell = (basis, images.reshape(-1, 3) % 1, numbers)
        try:
            found = spglib.get_symmetry_dataset(cell, 1e-4)
        except Exception:
            continue
        if found is None or len(found.rotations) != len(rotations):
            continue
        group = standard_groups.load_group(found.number)
        inverse = np.linalg.inv(group.centring)
        change = np.rint(inverse @ found.transformation_matrix)
        return (
            group.number,
            change,
            inverse @ found.origin_shift + group.spglib_shift,
        )
    return None


def _describe(
    part: structure.Crystal, number: int, matrix: np.ndarray, shift: np.ndarray
) -> Setting | None:
    """The part in a setting; None where numerical noise keeps it from the group."""
    group = standard_groups.load_group(number)
    lattice = np.linalg.inv(matrix.T) @ part.lattice
    for _ in range(2):
        coords = part.frac_coords @ matrix.T + shift
        numbers, coords = _merge_copies(part.atomic_numbers, coords, lattice)
        if len(numbers) * round(abs(np.linalg.det(matrix))) != part.num_sites:
            return None
        try:
            kept = standard_setting.find_orbits(
                group, numbers, coords, lattice @ lattice.T, 2 * _TOLERANCE
            )
        except errors.UserError:
            return None
        # Where the sites are best served by another origin than spglib's.
        ideal = orbits.expand(kept)
        apart = ideal.frac_coords[:, None] - coords
        apart -= np.round(apart)
        distances = np.linalg.norm(apart @ lattice, axis=-1)
        distances[ideal.atomic_numbers[:, None] != numbers] = np.inf
        nearest = distances.argmin(axis=1)
        shift = shift + apart[np.arange(len(apart)), nearest].mean(axis=0)
    return Setting(matrix, shift, kept)


# ------------------------------------------------------------------------- alternatives
@dataclasses.dataclass(frozen=True, eq=False)
class Alternatives:
    """A setting with the other choices of axes and origin.

    Attributes:
        settings: one for each set of Wyckoff positions that the kept orbits can have,
            parameters as plain as can be. Along polar directions the origin is where
            the kept orbit is that settles it (`anchor_of_kept`).
        targets: of each, which position those of the first setting become.
        symmetries: maps of positions that leave the kept part as it is, the identity
            among them: what they relate are the same crystals.
    """

    settings: list[Setting]
    targets: list[tuple[int, ...]]
    symmetries: list[tuple[int, ...]]

    def key(
        self, index: int, assignment: Sequence[tuple[int, ...]]
    ) -> tuple[tuple[int, ...], ...]:
        """What all descriptions of positions in a setting have in common."""
        back = np.argsort(self.targets[index])
        return min(
            tuple(
                tuple(sorted(symmetry[back[each]] for each in filled))
                for filled in assignment
            )
            for symmetry in self.symmetries
        )


def describe_anew(setting: Setting) -> Alternatives:
    """All choices of axes and origin, as far as they differ for the kept part."""
    kept = setting.kept
    group = standard_groups.load_group(kept.space_group)
    made: dict[object, tuple[Setting, tuple[int, ...]]] = {}
    symmetries: dict[tuple[int, ...], None] = {}
    reference = _parameters_key(_at_origin(group, setting))
    for change, shift in dict.fromkeys([(0, 0), *standard_choice.list_short(kept)]):
        changes, shifts = group.changes, group.shifts
        targets = tuple(shifts.targets[shift][changes.targets[change]].tolist())
        matrix = changes.linear[change]
        moved = matrix @ setting.shift + changes.translations[change]
        other = _at_origin(
            group,
            Setting(
                np.rint(matrix @ setting.matrix),
                moved + shifts.translations[shift],
                standard_choice.transform(kept, change, shift),
            ),
        )
        made.setdefault(_kind(other), (other, targets))
        if _parameters_key(other) == reference:
            symmetries[targets] = None
    settings, targets = zip(*made.values(), strict=True)
    return Alternatives(list(settings), list(targets), list(symmetries))


def _parameters_key(setting: Setting) -> object:
    kept = setting.kept
    strain = np.rint(kept.strain / 0.02).astype(int).tolist()
    parameters = (np.rint(kept.parameters * 200).astype(int) % 200).tolist()
    kinds = zip(
        kept.atomic_numbers.tolist(), kept.positions.tolist(), parameters, strict=True
    )
    return strain, sorted(kinds)


def anchor_of_kept(kept: orbits.OrbitCrystal) -> int:
    """The kept orbit that settles the origin along polar directions."""
    group = standard_groups.load_group(kept.space_group)
    order = np.lexsort((kept.positions, kept.atomic_numbers))
    first = standard_choice.find_anchor(
        group, kept.atomic_numbers[order], kept.positions[order]
    )
    return int(order[first])


def _at_origin(group: standard_groups.Group, setting: Setting) -> Setting:
    kept, polar = setting.kept, group.num_polar
    parameters, shift = kept.parameters.copy(), setting.shift
    if polar:
        anchor = anchor_of_kept(kept)
        move = parameters[anchor, :polar].copy()
        basis = group.positions[int(kept.positions[anchor])].basis
        freedom = np.array([group.positions[i].freedom for i in kept.positions])
        assert (freedom >= polar).all()
        parameters[:, :polar] -= move
        shift = shift - basis[:, :polar] @ move
    fixed = anchor_of_kept(kept) if polar else None
    parameters = standard_choice.plainest(group, kept.positions, parameters, fixed)
    changed = dataclasses.replace(kept, parameters=parameters % 1)
    return dataclasses.replace(setting, kept=changed, shift=shift)


# ------------------------------------------------------------------------ same crystals
def operations_in_cell(
    setting: Setting,
) -> tuple[Int[np.ndarray, "operations 3 3"], Float[np.ndarray, "operations 3"]]:
    """Operations of a setting's group that the crystal's cell has."""
    group = standard_groups.load_group(setting.space_group)
    return _in_cell(setting.matrix, setting.shift, group.rotations, group.translations)


def are_equivalent(
    numbers: tuple[Int[np.ndarray, " sites"], Int[np.ndarray, " sites"]],
    coords: tuple[Float[np.ndarray, "sites 3"], Float[np.ndarray, "sites 3"]],
    lattice: Float[np.ndarray, "3 3"],
    operations: tuple[np.ndarray, np.ndarray],
) -> bool:
    """Whether an operation brings some sites of a cell to others.

    Args:
        numbers: atomic numbers of both.
        coords: of both, fractional.
        lattice: Å.
        operations: of the rest of the crystal, `operations_in_cell`.
    """
    if sorted(numbers[0].tolist()) != sorted(numbers[1].tolist()):
        return False
    rotations, translations = operations
    images = np.einsum("kij,sj->ksi", rotations, coords[0]) + translations[:, None]
    apart = images[:, :, None] - coords[1]
    distances = np.linalg.norm((apart - np.round(apart)) @ lattice, axis=-1)
    distances[:, numbers[0][:, None] != numbers[1]] = np.inf
    return bool((distances.min(axis=2).max(axis=1) < _TOLERANCE).any())


def has_operations(
    crystal: structure.Crystal, operations: tuple[np.ndarray, np.ndarray]
) -> bool:
    """Whether operations of a cell bring all sites of a crystal to its sites."""
    rotations, translations = operations
    stays = _stays(
        rotations,
        translations,
        crystal.atomic_numbers,
        crystal.frac_coords,
        crystal.lattice,
    )
    return len(stays) == len(rotations)


# ------------------------------------------------------------------------------ reasons
def explain(
    whole: structure.Crystal,
    is_kept: Bool[np.ndarray, " sites"],
    space_group: int,
    names: Sequence[str],
) -> str:
    """Which kept site breaks a group, in words.

    Args:
        whole: the crystal.
        is_kept: its sites that stay.
        space_group: that they do not have, 1-230.
        names: of the sites.
    """
    groups_of = functools.cache(
        lambda kept: {
            each.space_group
            for each in find_settings(whole, np.isin(np.arange(len(names)), kept))
        }
    )
    every = np.flatnonzero(is_kept).tolist()
    has = sorted(groups_of(tuple(every)))
    listed = ", ".join(map(str, has[::-1][:12]))
    text = f"the kept sites have the space groups {listed}"
    for site in every:
        others = tuple(each for each in every if each != site)
        if others and space_group in groups_of(others):
            return (
                f"{names[site]} breaks it: it is kept without others of its orbit; "
                f"{text}"
            )
        if others:
            same = whole.atomic_numbers == whole.atomic_numbers[site]
            without = tuple(each for each in every if not same[each])
            if without and space_group in groups_of(without):
                return f"{names[site]} and those of its element break it; {text}"
    return f"{names[every[0]]} and the lattice break it; {text}"
