"""The sites that a CIF lists: elements and coordinates, none left out in silence."""

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from crystaljax.crystals import cif_tags, refusals, site_species, structure

COORDS = (cif_tags.FRACT_X, "_atom_site_fract_y", "_atom_site_fract_z")
TYPE = "_atom_site_type_symbol"
_LABEL = "_atom_site_label"
_OCCUPANCY = "_atom_site_occupancy"
_CALCULATED = "_atom_site_calc_flag"
_DISORDER = "_atom_site_disorder_group"
_HYDROGENS = "_atom_site_attached_hydrogens"
_MULTIPLICITIES = (
    "_atom_site_symmetry_multiplicity",
    "_atom_site_site_symmetry_multiplicity",
)
_COLUMNS = (
    *COORDS,
    _LABEL,
    TYPE,
    _OCCUPANCY,
    _CALCULATED,
    _DISORDER,
    _HYDROGENS,
    *_MULTIPLICITIES,
)
# Of an occupancy that is written as a fraction.
_OCCUPANCY_ROUNDING = 1e-6
_NO_ELEMENT = "site is no element"
_PARTLY = "site partly occupied"


@dataclasses.dataclass(frozen=True, eq=False)
class Sites:
    """Sites as they are listed, before symmetry makes the others.

    Attributes:
        labels: one per site.
        atomic_numbers: shape (sites,).
        frac_coords: shape (sites, 3), wrapped into the cell.
        multiplicities: what the file says of the numbers of images; None if nothing.
        doubts: readings that only the file's own formula can confirm, in words.
    """

    labels: list[str]
    atomic_numbers: Int[np.ndarray, " sites"]
    frac_coords: Float[np.ndarray, "sites 3"]
    multiplicities: list[str] | None
    doubts: list[str]


def read_sites(block: cif_tags.Block) -> Sites:
    """The atoms of the list of sites.

    Raises:
        RefusedError: a site is no element, partly occupied, or without coordinates.
    """
    columns = block.columns
    num_sites = len(columns[cif_tags.FRACT_X])
    labels = block.texts(_LABEL) or [str(number + 1) for number in range(num_sites)]
    types = block.texts(TYPE)
    for tag in _COLUMNS:
        if tag in columns and len(columns[tag]) != num_sites:
            raise refusals.RefusedError(
                f"{tag} has {len(columns[tag])} values for {num_sites} sites"
            )
    if num_sites == 0:
        raise refusals.RefusedError("not readable as CIF: the list of sites is empty")
    doubts: list[str] = []
    is_atom = _find_atoms(block, labels, doubts)
    numbers = _read_elements(types, labels, _LABEL in columns, is_atom, doubts)
    kept = [index for index, each in enumerate(is_atom) if each]
    multiplicities = block.texts(*_MULTIPLICITIES)
    return Sites(
        labels=[labels[index] for index in kept],
        atomic_numbers=np.array([numbers[index] for index in kept], dtype=np.int64),
        frac_coords=structure.wrap_sites(_read_coords(block, labels)[kept]),
        multiplicities=multiplicities and [multiplicities[index] for index in kept],
        doubts=doubts,
    )


def _read_elements(
    types: list[str] | None,
    labels: list[str],
    has_labels: bool,
    is_atom: list[bool],
    doubts: list[str],
) -> list[int]:
    """Atomic numbers; 0 for what is no atom."""
    numbers = []
    for index, label in enumerate(labels):
        if not is_atom[index]:
            numbers.append(0)
            continue
        symbol = "?" if types is None else types[index]
        try:
            if not cif_tags.is_unknown(symbol):
                number, doubt = site_species.read_type(symbol)
            elif has_labels:
                number, doubt = site_species.read_label(label)
            else:
                raise refusals.RefusedError("it has neither type symbol nor label")
        except ValueError as error:
            raise refusals.RefusedError(
                f"site {label!r}: {error}", _NO_ELEMENT
            ) from error
        numbers.append(number)
        if doubt:
            doubts.append(doubt)
    return numbers


def _read_coords(
    block: cif_tags.Block, labels: list[str]
) -> Float[np.ndarray, "sites 3"]:
    columns = []
    for tag in COORDS:
        texts = block.texts(tag)
        if texts is None:
            raise refusals.RefusedError(f"{tag} is missing")
        columns.append(
            cif_tags.parse_numbers(
                texts, lambda index, tag=tag: f"{tag} of site {labels[index]!r}"
            )
        )
    return np.array(columns).T


def _find_atoms(
    block: cif_tags.Block, labels: list[str], doubts: list[str]
) -> list[bool]:
    """Whether each site is an atom: dummies and empty sites are not.

    Raises:
        RefusedError: a site is partly occupied.
    """
    is_atom = [True] * len(labels)
    for index, text in enumerate(block.texts(_OCCUPANCY) or ()):
        # A dot stands for the value that the dictionary gives: 1.
        if text in ("1", "1.0", "."):
            continue
        if text == "?":
            doubts.append(f"the unknown occupancy of site {labels[index]!r} is 1")
            continue
        occupancy = cif_tags.parse_number(text, f"{_OCCUPANCY} of {labels[index]!r}")
        if occupancy == 0:
            is_atom[index] = False
            doubts.append(f"site {labels[index]!r} of occupancy 0 is no atom")
        elif abs(occupancy - 1) > _OCCUPANCY_ROUNDING:
            raise refusals.RefusedError(
                f"site {labels[index]!r} is occupied by {text}; expected an ordered "
                "crystal: choose one ordering first",
                _PARTLY,
            )
    for index, text in enumerate(block.texts(_CALCULATED) or ()):
        if text.lower().startswith("dum"):
            is_atom[index] = False
            doubts.append(f"the dummy site {labels[index]!r} is no atom")
    for index, text in enumerate(block.texts(_DISORDER) or ()):
        if not cif_tags.is_unknown(text) and text != "0":
            doubts.append(
                f"site {labels[index]!r} of the disordered group {text} is occupied"
            )
    for index, text in enumerate(block.texts(_HYDROGENS) or ()):
        if not cif_tags.is_unknown(text) and text != "0":
            doubts.append(
                f"the {text} hydrogen atoms at site {labels[index]!r} are listed too"
            )
    return is_atom
