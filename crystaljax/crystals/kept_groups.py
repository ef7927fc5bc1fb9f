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

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import spglib
from jaxtyping import Bool

from crystaljax.crystals import (
    kept_settings,
    orbits,
    standard_groups,
    standard_setting,
    structure,
    symmetry_search,
)
from crystaljax.system import errors

# Å. Symmetry of a crystal that somebody brings.
SYMPREC = 0.01
# Classes of subgroups without translations of their own, at most: supercells of cubic
# crystals have thousands.
_MAX_CLASSES = 96


def find_settings(
    whole: structure.Crystal,
    is_kept: Bool[np.ndarray, " sites"],
    *,
    as_primitive: bool = False,
    symprec: float = SYMPREC,
) -> list[kept_settings.Setting]:
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
    found: list[kept_settings.Setting] = []
    seen: set[object] = set()
    for crystal in [whole, part] if not np.all(is_kept) else [part]:
        new = list(_settings_of(crystal, part, as_primitive, symprec))
        found += [each for each in new if kept_settings.kind(each) not in seen]
        seen |= {kept_settings.kind(each) for each in new}
    return found


def _settings_of(
    crystal: structure.Crystal,
    part: structure.Crystal,
    as_primitive: bool,
    symprec: float,
) -> Iterator[kept_settings.Setting]:
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
        rotations, translations = kept_settings.in_cell(
            matrix, shift, rotations, translations
        )
        matrix, shift = np.eye(3), np.zeros(3)
    lattice = np.linalg.inv(matrix.T) @ part.lattice
    coords = part.frac_coords @ matrix.T + shift
    numbers, coords = _merge_copies(part.atomic_numbers, coords, lattice)
    stays = kept_settings.find_kept(rotations, translations, numbers, coords, lattice)
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


def _merge_copies(numbers, coords, lattice):
    """The sites of one primitive cell, each the mean of its copies."""
    left = np.ones(len(numbers), bool)
    merged, species = [], []
    for site in range(len(numbers)):
        if not left[site]:
            continue
        apart = coords - coords[site]
        apart -= np.round(apart)
        near = np.linalg.norm(apart @ lattice, axis=1) < kept_settings.TOLERANCE
        same = near & left & (numbers == numbers[site])
        merged.append(coords[site] + apart[same].mean(axis=0))
        species.append(numbers[site])
        left &= ~same
    return np.array(species), np.array(merged)


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
            found: Any = spglib.get_symmetry_dataset(cell, 1e-4)  # type: ignore[arg-type]
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
) -> kept_settings.Setting | None:
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
                group, numbers, coords, lattice @ lattice.T, 2 * kept_settings.TOLERANCE
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
    return kept_settings.Setting(matrix, shift, kept)


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
    found = symmetry_search.find_symmetry(whole, SYMPREC)
    orbit = np.arange(len(names)) if found is None else found.equivalent_atoms
    # Those that are kept without others of their orbit come first.
    broken = {each for each in every if not is_kept[orbit == orbit[each]].all()}
    for site in sorted(every, key=lambda each: each not in broken):
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
