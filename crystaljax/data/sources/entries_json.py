"""Entries of pymatgen as JSON: Alexandria, WBM, and what `monty` and `json` write.

An entry is read as plain data. What names a class (``@module``, ``@class``) is never
looked at, so that no file can have code run.
"""

import collections
import dataclasses
import functools
import json
import os
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from crystaljax.crystals import elements, names, refusals, structure
from crystaljax.data.readers import files, json_items
from crystaljax.data.sources import labels, levels_of_theory, record
from crystaljax.system import errors

_ID_KEYS = ("mat_id", "material_id", "entry_id")
# Fe, Fe3+, Fe2.5+, Fe2+,spin=5.
_SPECIES = re.compile(r"([A-Z][a-z]?)(?:[0-9.]*[+-])?(?:,.*)?")
_HYDROGEN_ISOTOPES = ("D", "T")
_MAX_OCCUPANCY_ERROR = 1e-6
# What pymatgen writes beside a lattice's matrix, and a site's fractional coordinates.
_LATTICE_KEYS = ("a", "b", "c", "alpha", "beta", "gamma", "volume")
_ROUNDING = 0.01
_MAX_DISPLACEMENT = 0.1  # Å


class EntryRow(NamedTuple):
    """An entry as text.

    Attributes:
        id: its key in the file, or else its number.
        has_key: whether it is the key.
        text: JSON.
        label: from the table of labels; None where there is no table.
    """

    id: str
    has_key: bool
    text: str
    label: labels.Label | None


@dataclasses.dataclass(frozen=True)
class EntriesJson:
    """ComputedStructureEntry and Structure dicts of pymatgen, in JSON.

    ``.json`` holds a list, a mapping from id to entry, or either of them as
    ``{"entries": …}``; ``.jsonl`` holds an entry a line. Both may be compressed. Items
    are entries, structures, or mappings with one of them as
    ``computed_structure_entry`` or ``structure``.

    Keys are looked for in the entry's ``data``, the entry, what is around it, and the
    structure's ``properties``, in this order; ``symmetry.number`` is a key in a key.

    Attributes:
        path: a file, or a folder of such files.
        energy_key: formation energy, eV/atom, where there is no table of labels; None
            where the energies are not wanted.
        space_group_key: number of the space group, where the table of labels has none.
            An entry without it has its space group found from the structure.
        id_key: the structure's id; None for the key in the file, ``mat_id``,
            ``material_id``, ``entry_id`` or the number in the file, whichever is
            there.
        labels: CSV of labels, joined by id; None where the entries have them.
        id_column: of the CSV.
        energy_column: of the CSV: formation energy, eV/atom.
        space_group_column: of the CSV; None where there is none.
    """

    path: str
    energy_key: str | None = "e_form"
    space_group_key: str = "spg"
    id_key: str | None = None
    labels: str | None = None
    id_column: str = "material_id"
    energy_column: str = "e_form_per_atom_mp2020_corrected"
    space_group_column: str | None = None

    def read_rows(self) -> Iterator[EntryRow | record.Failure]:
        """Yields entries as text, with labels; see `record.Source`."""
        table, failures = labels.read_beside(
            self.labels, self.id_column, self.energy_column, self.space_group_column
        )
        yield from failures
        number = 0
        paths = _find_files(self.path)
        for path in paths:
            for item in _read_items(path, is_alone=len(paths) == 1):
                if isinstance(item, record.Failure):
                    yield item
                    continue
                key, text = item
                id = str(number) if key is None else names.encodable(key)
                row = EntryRow(id, key is not None, text, None)
                yield row if table is None else _join(row, table, self.id_key)
                number += 1

    def parse_row(
        self, row: EntryRow | record.Failure
    ) -> record.Record | record.Failure:
        """See `record.Source`."""
        if isinstance(row, record.Failure):
            return row
        try:
            structure_dict, mappings, amounts = _parse_entry(row.text)
        except ValueError as error:
            return record.Failure(row.id, "entry not readable", str(error))
        level: dict[str, str] = {}
        if row.label is None:
            energy = None
            if self.energy_key is not None:
                energy = labels.find_value(mappings, self.energy_key)
                # None would be a source without energies.
                energy = "missing" if energy is None else energy
                level = levels_of_theory.read(*mappings)
        else:
            energy = row.label.formation_energy
            level = levels_of_theory.read(dict(row.label.level))
        space_group = row.label and row.label.space_group
        if space_group is None:
            space_group = labels.find_value(mappings, self.space_group_key)
        return record.build_record(
            _find_id(row, mappings, self.id_key),
            functools.partial(_parse_crystal, structure_dict, amounts),
            space_group,
            energy,
            level,
        )

    def describe(self) -> dict[str, Any]:
        """See `record.Source`."""
        return {"source": "entries_json", **dataclasses.asdict(self)}


def parse_structure(structure_dict: Mapping[str, Any]) -> structure.Crystal:
    """A pymatgen Structure as JSON → crystal; cell and sites as they are.

    Oxidation states and spins are left out, and deuterium and tritium are hydrogen.

    Raises:
        ValueError: it is no structure; or a site is disordered, partly occupied, or
            not an element; or it is not periodic in three directions.
    """
    lattice = _mapping(structure_dict, "lattice")
    if lattice.get("pbc", [True] * 3) != [True] * 3:
        raise errors.UserError(f"pbc is {lattice['pbc']!r}; expected three directions")
    sites = structure_dict.get("sites")
    if not isinstance(sites, list) or not sites:
        raise errors.UserError("'sites' is missing or empty; expected a list of sites")
    if not all(isinstance(site, dict) for site in sites):
        raise errors.UserError("a site is no mapping")
    crystal = structure.Crystal(
        atomic_numbers=np.array([_parse_site_species(site) for site in sites]),
        frac_coords=_numbers([site.get("abc") for site in sites], (len(sites), 3)),
        lattice=_numbers(lattice.get("matrix"), (3, 3)),
    )
    _require_same_lattice(crystal, lattice)
    _require_same_places(crystal, sites)
    return crystal


def _require_same_lattice(
    crystal: structure.Crystal, lattice: Mapping[str, Any]
) -> None:
    """Raises ValueError where lengths, angles or volume contradict the matrix."""
    with np.errstate(all="ignore"):
        found = [
            *structure.lattice_parameters(crystal.lattice).tolist(),
            abs(float(np.linalg.det(crystal.lattice))),
        ]
    for name, value in zip(_LATTICE_KEYS, found, strict=True):
        said = lattice.get(name)
        if said is None:
            continue
        if not abs(float(_numbers(said, ())) - value) <= _ROUNDING * abs(value):
            raise refusals.RefusedError(
                f"the lattice's matrix has {name} = {value:.6g}, but it says {said!r}",
                "cell contradicts the volume of the file",
            )


def _require_same_places(
    crystal: structure.Crystal, sites: list[Mapping[str, Any]]
) -> None:
    """Raises ValueError where Cartesian coordinates contradict the fractional ones."""
    places = [site.get("xyz") for site in sites]
    if None in places:
        return
    apart = _numbers(places, (len(sites), 3)) @ np.linalg.pinv(crystal.lattice)
    apart -= crystal.frac_coords
    apart -= np.round(apart)
    distances = np.linalg.norm(apart @ crystal.lattice, axis=1)
    if not distances.max() <= _MAX_DISPLACEMENT:
        index = int(distances.argmax())
        raise refusals.RefusedError(
            f"site {index} is at abc = {crystal.frac_coords[index].tolist()}, but its "
            f"xyz = {places[index]} is {distances[index]:.3g} Å from there",
            "coordinates of the file contradict each other",
        )


def _find_files(path: str | os.PathLike[str]) -> list[pathlib.Path]:
    """The file, or all of a folder's whose suffix is right, by name."""
    path = pathlib.Path(path)
    if not path.is_dir():
        return [files.require_file(path)]
    found = sorted(
        each
        for each in path.iterdir()
        if files.suffix_without_compression(each.name) in json_items.SUFFIXES
        and each.is_file()
        and not each.name.startswith(".")
    )
    if not found:
        raise errors.UserError(
            f"no entries in the folder {path}; expected files of the suffixes "
            f"{', '.join(json_items.SUFFIXES)}, plain or compressed"
        )
    return found


def _read_items(
    path: pathlib.Path, *, is_alone: bool
) -> Iterator[tuple[str | None, str] | record.Failure]:
    """Items of a file; of several files, one that cannot be read costs itself."""
    items = json_items.read_items(path, nested_key="entries")
    try:
        if not is_alone:
            files.require_undamaged(path)
        yield from record.until_damaged(items, path)
    except ValueError as error:
        if is_alone:
            raise
        yield record.Failure(str(path), record.NOT_READABLE, str(error))


def _join(
    row: EntryRow, table: Mapping[str, labels.Label], id_key: str | None
) -> EntryRow | record.Failure:
    """The entry with its label, which needs its id and so its content."""
    try:
        _, mappings, _ = _parse_entry(row.text)
    except ValueError as error:
        return record.Failure(row.id, "entry not readable", str(error))
    id = _find_id(row, mappings, id_key)
    if id not in table:
        return record.Failure(id, labels.NO_LABEL)
    return row._replace(label=table[id])


def _find_id(
    row: EntryRow, mappings: list[Mapping[str, Any]], id_key: str | None
) -> str:
    if id_key is None and row.has_key:
        return row.id
    for key in _ID_KEYS if id_key is None else (id_key,):
        value = labels.find_value(mappings, key)
        if value is not None:
            return names.encodable(str(value))
    return row.id


def _parse_entry(
    text: str,
) -> tuple[Mapping[str, Any], list[Mapping[str, Any]], object]:
    """The structure's dict, the mappings in which its labels may be, composition."""
    try:
        outer = json.loads(text)
    except RecursionError as error:
        raise errors.UserError("nested too deeply") from error
    if not isinstance(outer, dict):
        raise errors.UserError(
            f"a {type(outer).__name__}; expected an entry or a structure"
        )
    entry = outer
    if "computed_structure_entry" in outer:
        entry = _mapping(outer, "computed_structure_entry")
    structure_dict = entry
    if "structure" in entry:
        structure_dict = _mapping(entry, "structure")
    places = (entry.get("data"), entry, outer, structure_dict.get("properties"))
    amounts = entry.get("composition") if structure_dict is not entry else None
    # Of an entry of pymatgen, last, since labels are rarely there.
    places = (*places, entry.get("parameters"))
    mappings: list[Mapping[str, Any]] = []
    mappings += [place for place in places if isinstance(place, dict)]
    return structure_dict, mappings, amounts


def _parse_crystal(
    structure_dict: Mapping[str, Any], amounts: object
) -> structure.Crystal:
    """The crystal, if it has the composition for which the entry has its energy."""
    crystal = parse_structure(structure_dict)
    if isinstance(amounts, dict):
        wanted: dict[int, float] = collections.defaultdict(float)
        for name, amount in amounts.items():
            wanted[_parse_species(name)] += float(_numbers(amount, ()))
        found = collections.Counter(crystal.atomic_numbers.tolist())
        # Per atom: entries may be normalized to a formula unit.
        scale = crystal.num_sites / sum(wanted.values()) if wanted else 1.0
        if any(
            abs(wanted[number] * scale - found[number]) > 1e-3
            for number in {*wanted, *found}
        ):
            formula = elements.cell_formula(crystal.atomic_numbers)
            raise errors.UserError(
                f"the structure is {formula}, but the entry's composition is {amounts}"
            )
    return crystal


def _mapping(parent: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = parent.get(key)
    if not isinstance(value, dict):
        raise errors.UserError(f"{key!r} is missing or no mapping")
    return value


def _parse_site_species(site: Mapping[str, Any]) -> int:
    """Atomic number of a site's only species."""
    species = site.get("species")
    if not isinstance(species, list) or not all(isinstance(s, dict) for s in species):
        raise errors.UserError("a site without a list of species")
    if len(species) != 1:
        raise errors.UserError(f"a site with {len(species)} species; expected one")
    occupancy = _numbers(species[0].get("occu"), ())
    if abs(occupancy - 1) > _MAX_OCCUPANCY_ERROR:
        raise errors.UserError(f"a site with occupancy {occupancy:g}; expected 1")
    return _parse_species(species[0].get("element"))


def _parse_species(name: object) -> int:
    """``Fe``, ``Fe3+`` → atomic number; a dummy species (``X0+``) is an error."""
    match = _SPECIES.fullmatch(name) if isinstance(name, str) else None
    if match is None:
        raise errors.UserError(
            f"{str(name)[:40]!r} is no species; expected one like 'Fe3+'"
        )
    symbol = match.group(1)
    return elements.atomic_number("H" if symbol in _HYDROGEN_ISOTOPES else symbol)


def _numbers(values: object, shape: tuple[int, ...]) -> np.ndarray:
    """JSON value → array of finite numbers."""
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise errors.UserError(f"not numbers: {error}") from error
    if array.shape != shape:
        raise errors.UserError(f"numbers of shape {array.shape}; expected {shape}")
    # None becomes NaN.
    if not np.isfinite(array).all():
        raise errors.UserError("a coordinate or lattice entry is missing or not finite")
    return array
