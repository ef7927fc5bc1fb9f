"""Templates: crystals with species left open, sorted by their counts of species."""

import collections
import dataclasses
import itertools

import frameworks
import numpy as np
import spglib

# fmt: off
# Sites of a cell → how often.
SITES = {
    1: 1, 2: 8, 3: 14, 4: 140, 5: 70, 6: 130, 7: 35, 8: 170, 9: 50, 10: 70, 12: 120,
    13: 6, 14: 25, 15: 20, 16: 90, 18: 30, 20: 35, 24: 40, 30: 16, 32: 16, 36: 10,
    40: 12, 48: 8, 60: 6, 64: 2, 80: 3,
}
# Number of species → how often.
SPECIES = {1: 0.002, 2: 0.32, 3: 0.62, 4: 0.06}
# Reduced formulas, counts in ascending order.
FORMULAS = (
    (1,), (1, 1), (1, 2), (1, 3), (1, 4), (1, 5), (1, 6), (1, 7), (1, 12), (2, 3),
    (2, 5), (3, 4), (3, 5), (6, 7), (1, 1, 1), (1, 1, 2), (1, 1, 3), (1, 1, 4),
    (1, 1, 5), (1, 1, 6), (1, 2, 2), (1, 2, 3), (1, 2, 4), (1, 3, 3), (1, 3, 4),
    (2, 2, 3), (1, 1, 1, 1), (1, 1, 1, 2), (1, 1, 1, 3), (1, 1, 2, 2), (1, 1, 2, 4),
)
# fmt: on

# Templates of a cell formula: as many as the largest groups have members where cells
# are small, fewer where they take long to make and are seldom needed.
NUM_TEMPLATES, NUM_LARGE_TEMPLATES, LARGE = 88, 24, 16
NUM_MODES = 4


@dataclasses.dataclass(frozen=True, eq=False)
class Template:
    """A crystal with species left open, 1 Å³ an atom.

    Attributes:
        letters: shape (sites,), which species; ascending.
        frac_coords: shape (sites, 3).
        lattice: shape (3, 3), rows.
        space_group: 1-230.
        nearest: shape (4, 4), shortest distance between letters; infinite if absent.
        modes: shape (sites, 3, NUM_MODES), shifts of fractional coordinates that keep
            the space group; the largest shift of a mode has length 1, or all are 0.
        strains: shape (6, 3, 3), strains that keep the space group.
    """

    letters: np.ndarray
    frac_coords: np.ndarray
    lattice: np.ndarray
    space_group: int
    nearest: np.ndarray
    modes: np.ndarray
    strains: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Library:
    """Templates by the counts of their species in alphabetical order, as flat arrays.

    Attributes:
        counts: shape (compositions, 4), sites of each species.
        weights: shape (compositions,), how often; their sum is 1.
        first: shape (compositions,), first template of each.
        num_templates: shape (compositions,).
        offsets: shape (templates + 1,), first site of each template.
        frac_coords: shape (all sites, 3).
        modes: shape (all sites, 3, NUM_MODES).
        lattice: shape (templates, 3, 3).
        strains: shape (templates, 6, 3, 3).
        nearest: shape (templates, 4, 4).
        space_group: shape (templates,).
    """

    counts: np.ndarray
    weights: np.ndarray
    first: np.ndarray
    num_templates: np.ndarray
    offsets: np.ndarray
    frac_coords: np.ndarray
    modes: np.ndarray
    lattice: np.ndarray
    strains: np.ndarray
    nearest: np.ndarray
    space_group: np.ndarray


def build_library(seed: int) -> Library:
    """Templates of all compositions; takes one to two minutes of a CPU core."""
    available = frameworks.load_frameworks()
    compositions = []
    for num_sites, frequency in SITES.items():
        here = [
            tuple(count * (num_sites // sum(formula)) for count in formula)
            for formula in FORMULAS
            if num_sites % sum(formula) == 0
        ]
        alike = collections.Counter(len(counts) for counts in here)
        shares = [SPECIES[len(counts)] / alike[len(counts)] for counts in here]
        for counts, share in zip(here, shares, strict=True):
            made = make_templates(counts, available, seed)
            orders = sorted(set(itertools.permutations(counts)))
            weight = frequency * share / sum(shares) / len(orders)
            for order in orders if made else ():
                # The templates' counts ascend: the rank of a count is its letter.
                swap = np.argsort(np.argsort(order, kind="stable"))
                compositions.append((order, weight, [_exchange(t, swap) for t in made]))
    return _flatten(compositions)


def make_templates(
    counts: tuple[int, ...], available: list[frameworks.Framework], seed: int
) -> list[Template]:
    """Different crystals with these counts of species, ascending.

    Half of them at most are prototypes and their supercells; the rest are orderings:
    species on the sites of some framework, whole orbits of some of its symmetries at a
    time.
    """
    rng = np.random.default_rng((seed, *counts))
    num_sites = sum(counts)
    wanted = NUM_TEMPLATES if num_sites <= LARGE else NUM_LARGE_TEMPLATES
    found: dict[tuple, Template] = {}
    fitting = [f for f in available if num_sites % len(f.letters) == 0]
    for i in rng.permutation(len(fitting)):
        multiple = num_sites // len(fitting[i].letters)
        if (np.bincount(fitting[i].letters) * multiple).tolist() == list(counts):
            cell = frameworks.draw_cell(fitting[i], multiple, rng)
            _add_template(found, cell, cell.letters, counts)
        if len(found) >= wanted // 2:
            break
    packed = [f for f in fitting if len(f.letters) <= 8 and f.spacing > 0.9]
    for _ in range(wanted if len(counts) > 1 else 0):
        framework = packed[rng.integers(len(packed))]
        multiple = num_sites // len(framework.letters)
        cell = frameworks.draw_cell(framework, multiple, rng)
        for _ in range(3):
            letters = frameworks.draw_ordering(counts, framework, cell, rng)
            if letters is not None:
                _add_template(found, cell, letters, counts)
        if len(found) >= wanted:
            break
    return list(found.values())[:wanted]


def _add_template(
    found: dict[tuple, Template],
    cell: frameworks.Cell,
    letters: np.ndarray,
    counts: tuple[int, ...],
) -> None:
    """Adds the crystal and, where counts agree, those with species exchanged."""
    order = np.argsort(letters, kind="stable")
    letters, frac_coords = letters[order], cell.frac_coords[order]
    lattice = frameworks.normalise(cell.lattice, len(letters))
    symmetry = spglib.get_symmetry_dataset(
        (lattice, frac_coords, letters), frameworks.SYMPREC
    )
    # Crystals without any symmetry are rare in the data base.
    if symmetry is None or (symmetry.number <= 2 and len(found) % 8):
        return
    nearest, similarity = frameworks.distances(letters, frac_coords, lattice)
    fingerprints = {}
    for swap in itertools.permutations(range(len(counts))):
        if all(counts[i] == counts[j] for i, j in enumerate(swap)):
            # Surroundings do not depend on the cell that is chosen.
            seen = np.round(similarity[np.ix_(swap, swap)], 2).ravel()
            fingerprints.setdefault((symmetry.number, *seen), swap)
    if found.keys() & fingerprints.keys():
        return
    point_group = _point_group(symmetry)
    base = Template(
        letters=letters,
        frac_coords=frac_coords,
        lattice=lattice,
        space_group=int(symmetry.number),
        nearest=nearest,
        modes=_free_shifts(frac_coords, lattice, symmetry, point_group),
        strains=_free_strains(point_group),
    )
    for fingerprint, swap in fingerprints.items():
        found[fingerprint] = _exchange(base, swap)


def _exchange(template: Template, swap: tuple[int, ...] | np.ndarray) -> Template:
    """Species i of the result sits where species ``swap[i]`` was."""
    order = np.concatenate([np.flatnonzero(template.letters == i) for i in swap])
    full = [*swap, *range(len(swap), 4)]
    return dataclasses.replace(
        template,
        letters=np.argsort(swap)[template.letters[order]],
        frac_coords=template.frac_coords[order],
        modes=template.modes[order],
        nearest=template.nearest[np.ix_(full, full)],
    )


def _point_group(symmetry) -> np.ndarray:
    """Rotations and reflections of the crystal, Cartesian, for columns."""
    operations = spglib.get_symmetry_from_database(symmetry.hall_number)
    assert operations is not None
    columns = symmetry.std_lattice.T
    turns = (
        columns @ np.unique(operations["rotations"], axis=0) @ np.linalg.inv(columns)
    )
    to_standard = symmetry.std_rotation_matrix
    return to_standard.T @ turns @ to_standard


def _free_shifts(frac_coords, lattice, symmetry, point_group) -> np.ndarray:
    num_sites = len(frac_coords)
    modes = np.zeros((num_sites, 3, NUM_MODES), np.float32)
    num_cells = num_sites // (symmetry.mapping_to_primitive.max() + 1)
    # A supercell that lacks symmetries of the crystal says too little of them.
    lacks_symmetry = len(symmetry.rotations) < len(point_group) * num_cells
    # Large and highly symmetric: costs much, and little is free.
    if lacks_symmetry or len(symmetry.rotations) * num_sites**2 > 1_000_000:
        return modes
    images = frameworks.site_images(
        frac_coords, symmetry.rotations, symmetry.translations
    )
    rng = np.random.default_rng(num_sites)
    for k in range(NUM_MODES):
        drawn = rng.normal(size=(num_sites, 3)) @ np.linalg.inv(lattice)
        moved = np.einsum("oij,sj->osi", symmetry.rotations, drawn)
        shift = np.zeros((num_sites, 3))
        np.add.at(shift, images.ravel(), moved.reshape(-1, 3))
        shift /= len(images)
        # To shift all atoms alike changes nothing.
        shift -= shift.mean(axis=0)
        largest = np.linalg.norm(shift @ lattice, axis=1).max()
        if largest > 1e-3:
            modes[..., k] = shift / largest
    return modes


def _free_strains(point_group: np.ndarray) -> np.ndarray:
    strains = np.zeros((6, 3, 3))
    for k, (i, j) in enumerate([(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]):
        strains[k, i, j] = strains[k, j, i] = 1
    back = np.swapaxes(point_group, 1, 2)[:, None]
    return np.mean(point_group[:, None] @ strains @ back, axis=0)


def _flatten(
    compositions: list[tuple[tuple[int, ...], float, list[Template]]],
) -> Library:
    counts, weights, made = zip(*compositions, strict=True)
    num_templates = np.array([len(here) for here in made])
    templates = list(itertools.chain(*made))
    num_sites = [len(t.letters) for t in templates]
    return Library(
        counts=np.array([[*here, 0, 0, 0][:4] for here in counts]),
        weights=np.array(weights) / np.sum(weights),
        first=np.cumsum(num_templates) - num_templates,
        num_templates=num_templates,
        offsets=np.concatenate([[0], np.cumsum(num_sites)]),
        frac_coords=np.concatenate([t.frac_coords for t in templates]),
        modes=np.concatenate([t.modes for t in templates]),
        lattice=np.stack([t.lattice for t in templates]),
        strains=np.stack([t.strains for t in templates]),
        nearest=np.stack([t.nearest for t in templates]),
        space_group=np.array([t.space_group for t in templates]),
    )
