"""CIF text → crystal: read for what it says, and compared with what it says of itself.

Sites, symmetry and cell are read here, so that nothing is dropped in silence; the
result is compared with the file's formula, number of formula units and volume.
"""

import collections
import dataclasses
import math

import numpy as np
from jaxtyping import Float, Int

from crystaljax.crystals import (
    cif_sites,
    cif_symmetry,
    cif_tags,
    elements,
    operations,
    refusals,
    stated_formulas,
    structure,
    validity,
)
from crystaljax.system import cut_ends

_CELL = (
    "_cell_length_a",
    "_cell_length_b",
    "_cell_length_c",
    "_cell_angle_alpha",
    "_cell_angle_beta",
    "_cell_angle_gamma",
)
_LENGTH = "_cell_length_"
_SITE = "_atom_site_"
_VOLUME = "_cell_volume"
_NUM_UNITS = "_cell_formula_units_z"
_SUM = "_chemical_formula_sum"
# Asked where the sum is missing; their form is free.
_OTHER_FORMULAS = (
    "_chemical_formula_moiety",
    "_chemical_formula_structural",
    "_chemical_formula_iupac",
)
# Between the volume of a file and that of its cell, relative: both are rounded.
_VOLUME_TOLERANCE = 0.01
_MAX_SITES = 20_000
# Å; of no use to anybody, and squares of longer ones overflow.
_MAX_LENGTH = 1e6
# Of the sum of two covalent radii: where atoms are closer, the setting is wrong.
_SENSIBLE_RATIO = 0.6
# Two sites of a list closer than this are one that is listed twice.
_SAME_SITE = 0.05  # Å
_FORMULA = "sites contradict the formula of the file"


@dataclasses.dataclass(frozen=True, eq=False)
class _Reading:
    """The crystal with one of the operations that a file can mean.

    Attributes:
        crystal: all sites of the cell.
        multiplicities: images of each listed site.
        doubts: what only the file's own formula can confirm.
    """

    crystal: structure.Crystal
    multiplicities: list[int]
    doubts: list[str]


def parse_cif(text: str) -> structure.Crystal:
    """The crystal of a CIF; cell as written, sites wrapped into it.

    Raises:
        RefusedError: the text is no CIF of one ordered crystal, something in it is not
            known beyond doubt, or it contradicts itself.
    """
    block = cif_tags.read_block(text)
    if not cut_ends.is_ended(text):
        _require_whole_end(text, block)
    lattice = _read_lattice(block)
    sites = cif_sites.read_sites(block)
    stated = _read_stated(block)
    candidates = cif_symmetry.find_candidates(block, lattice)
    if len(candidates) == 1:
        return _read_with(candidates[0], sites, lattice, stated).crystal
    return _choose(candidates, sites, lattice, stated)


def _require_whole_end(text: str, block: cif_tags.Block) -> None:
    """Raises RefusedError where the text ends within the last number of its sites."""
    tag, column = list(block.columns.items())[-1]
    words = text.rsplit(maxsplit=1)
    if not column or not words or words[-1] != column[-1]:
        return
    if tag in cif_sites.COORDS:
        columns = [block.columns.get(each, []) for each in cif_sites.COORDS]
        alike = [value for each in columns for value in each]
        alike.remove(column[-1])
    elif tag.startswith(_LENGTH):
        alike = [value for name, value in block.values(*_CELL[:3]) if name != tag]
    elif tag == cif_sites.TYPE or (
        tag.startswith(_SITE) and cut_ends.is_number(column[-1])
    ):
        alike = column[:-1]
    else:
        # Names are of any length, and other lists make no crystal.
        return
    if cut_ends.is_cut(column[-1], alike):
        raise refusals.RefusedError(
            f"not readable as CIF: it ends with {column[-1][:40]!r} ({tag}), which is "
            "shorter than its like, so that it seems to be cut off; "
            f"{cut_ends.HINT}"
        )


def _read_lattice(block: cif_tags.Block) -> Float[np.ndarray, "3 3"]:
    found = block.values(*_CELL)
    if len(found) < len(_CELL):
        missing = next(tag for tag in _CELL if tag not in dict(found))
        raise refusals.RefusedError(f"not readable as CIF: {missing} is missing")
    parameters = cif_tags.parse_numbers(
        [text for _, text in found], lambda index: _CELL[index]
    )
    if max(parameters[:3]) > _MAX_LENGTH:
        raise refusals.RefusedError(
            f"a lattice vector of {max(parameters[:3]):.4g} Å is over {_MAX_LENGTH:g} Å"
        )
    lattice = structure.lattice_from_parameters(np.array(parameters))
    for _, text in block.values(_VOLUME):
        stated = cif_tags.parse_number(text, _VOLUME)
        # Of a triangular matrix.
        volume = math.prod(lattice.diagonal().tolist())
        slack = _VOLUME_TOLERANCE * volume + cif_tags.half_last_digit(text)
        if not abs(stated - volume) <= slack:
            raise refusals.RefusedError(
                f"the cell has a volume of {volume:.6g} Å³, {_VOLUME} is {text}",
                "cell contradicts the volume of the file",
            )
    return lattice


def _read_stated(block: cif_tags.Block) -> stated_formulas.Stated | None:
    """What the file says of its composition; None if it says nothing."""
    # 0 says nothing: pymatgen writes it for half a molecule, such as one N in a cell.
    num_units = block.number(_NUM_UNITS) or None
    if num_units is not None and not num_units > 0:
        raise refusals.RefusedError(
            f"{_NUM_UNITS} is {num_units:g}; expected a positive number", _FORMULA
        )
    for tag, text in block.values(_SUM, *_OTHER_FORMULAS):
        formula = " ".join(text.split())
        counts = stated_formulas.parse_formula(formula)
        if counts is not None:
            return stated_formulas.Stated(formula, counts, num_units)
        if tag == _SUM:
            raise refusals.RefusedError(
                f"{_SUM} is {formula[:80]!r}, which cannot be read; correct it, or "
                "remove it",
                _FORMULA,
            )
    return None


def _read_with(
    candidate: cif_symmetry.Candidate,
    sites: cif_sites.Sites,
    lattice: Float[np.ndarray, "3 3"],
    stated: stated_formulas.Stated | None,
) -> _Reading:
    """The crystal with these operations, if it is the one that the file states.

    Raises:
        RefusedError: it is not, or what is doubtful is not confirmed.
    """
    reading = _expand(candidate, sites, lattice)
    if stated is None:
        if reading.doubts:
            raise refusals.RefusedError(
                f"it has no formula that says whether {reading.doubts[0]}; add "
                f"{_SUM}, or write what is meant",
                _reason_of(candidate, sites),
            )
        return reading
    numbers = collections.Counter(reading.crystal.atomic_numbers.tolist())
    counts = {elements.symbol(number): count for number, count in numbers.items()}
    problem = stated_formulas.find_contradiction(stated, counts)
    if problem:
        raise refusals.RefusedError(
            f"{problem} ({candidate.name})"
            if len(candidate.operations) > 1
            else problem,
            _FORMULA,
        )
    return reading


def _reason_of(
    candidate: cif_symmetry.Candidate, sites: cif_sites.Sites
) -> refusals.Reason:
    if sites.doubts:
        return "site is no element"
    return "symmetry not said or not known" if candidate.doubt else _FORMULA


def _expand(
    candidate: cif_symmetry.Candidate,
    sites: cif_sites.Sites,
    lattice: Float[np.ndarray, "3 3"],
) -> _Reading:
    doubts = [*sites.doubts, *([candidate.doubt] if candidate.doubt else [])]
    made = candidate.operations
    if len(made) * len(sites.labels) > _MAX_SITES:
        raise refusals.RefusedError(
            f"{len(sites.labels)} sites with {len(made)} operations; expected up to "
            f"{_MAX_SITES} atoms"
        )
    if len(made) == 1:
        crystal = structure.Crystal(sites.atomic_numbers, sites.frac_coords, lattice)
        return _Reading(crystal, [1] * len(sites.labels), doubts)
    farthest = float(np.abs(sites.frac_coords).max())
    if not farthest <= structure.MAX_COORDINATE:
        raise refusals.RefusedError(
            f"a fractional coordinate of {farthest:.4g} is over "
            f"{structure.MAX_COORDINATE:g}"
        )
    images = []
    for label, position in zip(sites.labels, sites.frac_coords, strict=True):
        try:
            images.append(operations.find_images(made, position, lattice))
        except ValueError as error:
            raise refusals.RefusedError(f"site {label!r}: {error}") from error
    images = _drop_repeated(images, sites, lattice, doubts)
    kept = [index for index, each in enumerate(images) if len(each)]
    crystal = structure.Crystal(
        np.repeat(sites.atomic_numbers[kept], [len(images[index]) for index in kept]),
        structure.wrap_sites(np.concatenate([images[index] for index in kept])),
        lattice,
    )
    return _Reading(crystal, [len(each) for each in images], doubts)


def _drop_repeated(
    images: list[Float[np.ndarray, "_ 3"]],
    sites: cif_sites.Sites,
    lattice: Float[np.ndarray, "3 3"],
    doubts: list[str],
) -> list[Float[np.ndarray, "_ 3"]]:
    """Images of sites; none for a site that is an image of one before it.

    Raises:
        RefusedError: two elements share a position.
    """
    owner = np.repeat(np.arange(len(images)), [len(each) for each in images])
    coords = structure.wrap_sites(np.concatenate(images))
    kept = list(images)
    for first, second in _close_pairs(coords, lattice):
        one, other = sorted((int(owner[first]), int(owner[second])))
        if one == other or not len(kept[one]) or not len(kept[other]):
            continue
        labels = f"{sites.labels[one]!r} and {sites.labels[other]!r}"
        if sites.atomic_numbers[one] != sites.atomic_numbers[other]:
            raise refusals.RefusedError(
                f"sites {labels} share a position; expected an ordered crystal: choose "
                "one ordering first",
                "site partly occupied",
            )
        kept[other] = kept[other][:0]
        doubts.append(f"sites {labels} are one site that is listed twice")
    return kept


def _close_pairs(
    coords: Float[np.ndarray, "images 3"], lattice: Float[np.ndarray, "3 3"]
) -> Int[np.ndarray, "pairs 2"]:
    """Pairs of positions that are the same within `_SAME_SITE`."""
    # Slow to import, and data sets in P1 do without.
    from scipy.spatial import KDTree

    # No fractional component of a vector of this length is larger.
    reach = _SAME_SITE * np.linalg.norm(np.linalg.inv(lattice), axis=0).max()
    if reach >= 0.25:
        # A cell that thin holds no atoms; the checks of distances say so.
        return np.zeros((0, 2), dtype=int)
    tree = KDTree(coords % 1.0, boxsize=1.0)
    pairs = tree.query_pairs(reach * 3**0.5, output_type="ndarray")
    apart = coords[pairs[:, 0]] - coords[pairs[:, 1]]
    apart -= np.round(apart)
    return pairs[np.linalg.norm(apart @ lattice, axis=1) < _SAME_SITE]


def _choose(
    candidates: list[cif_symmetry.Candidate],
    sites: cif_sites.Sites,
    lattice: Float[np.ndarray, "3 3"],
    stated: stated_formulas.Stated | None,
) -> structure.Crystal:
    """The one setting that makes the file's formula with sensible distances.

    Raises:
        RefusedError: none does, or several do and the crystals differ.
    """
    possible: list[tuple[cif_symmetry.Candidate, _Reading]] = []
    problem: ValueError | None = None
    for candidate in candidates:
        try:
            reading = _read_with(candidate, sites, lattice, stated)
        except ValueError as error:
            problem = error
            continue
        if _is_sensible(reading.crystal):
            possible.append((candidate, reading))
    said = [each for each in possible if _has_multiplicities(each[1], sites)]
    possible = said or possible
    if possible and all(
        _are_equal(possible[0][1].crystal, each.crystal) for _, each in possible[1:]
    ):
        return possible[0][1].crystal
    names = ", ".join(each.name for each in candidates)
    if not possible:
        raise refusals.RefusedError(
            f"no setting that its name can mean ({names}) makes a crystal"
            + (f": {problem}" if problem else " with sensible distances"),
            getattr(problem, "reason", "symmetry not said or not known"),
        )
    names = ", ".join(each.name for each, _ in possible)
    raise refusals.RefusedError(
        f"the name of its space group can mean several settings ({names}), and more "
        "than one makes a sensible crystal; name the setting, as in 'F d -3 m :2', or "
        "list the operations",
        "symmetry not said or not known",
    )


def _is_sensible(crystal: structure.Crystal) -> bool:
    return validity.check(crystal).shortest_distance_ratio >= _SENSIBLE_RATIO


def _has_multiplicities(reading: _Reading, sites: cif_sites.Sites) -> bool:
    """Whether the numbers of images are those that the file gives."""
    return sites.multiplicities == list(map(str, reading.multiplicities))


def _are_equal(first: structure.Crystal, second: structure.Crystal) -> bool:
    """Whether two crystals of one cell have the same atoms at the same places."""
    if first.num_sites != second.num_sites:
        return False
    apart = first.frac_coords[:, None] - second.frac_coords
    apart -= np.round(apart)
    lengths = np.linalg.norm(apart @ first.lattice, axis=-1)
    lengths[first.atomic_numbers[:, None] != second.atomic_numbers] = np.inf
    return bool((lengths.min(axis=1) < _SAME_SITE).all())
