"""Files with the entries of a hull: CSV, pymatgen's entries as JSON, our hull.json.

A hull file is a reference, not a batch of samples: an entry that cannot be read is an
error that names it, since a hull without it would look just as good.
"""

import collections
import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from pymatgen.core import Composition

from crystaljax.crystals import elements, structure
from crystaljax.data.readers import csv_rows, json_items
from crystaljax.data.sources import entries_json, levels_of_theory, record
from crystaljax.hull import compositions, energy_schemes
from crystaljax.relaxation import pretrained
from crystaljax.system import errors, numbers

# What entries of the Materials Project's PBE(+U) are, once corrected.
MP_SCHEME = "Materials Project PBE(+U), MP2020"
# No allotrope lies that far below the reference state; a total energy does.
_LOWEST_ELEMENT = -1.0  # eV/atom


class Row(NamedTuple):
    """One entry as a source has it.

    Attributes:
        formula: of its composition.
        formation_energy: eV/atom.
        id: the source's name for it.
        energy_model: what computed the energy; "" where the entry does not say.
        crystal: its structure, where the source has it.
    """

    formula: str
    formation_energy: float
    id: str
    energy_model: str
    crystal: structure.Crystal | None = None


@dataclasses.dataclass(frozen=True)
class Rows:
    """All entries of a source.

    Attributes:
        rows: the entries.
        energy_model: of those that do not say; "" where the source does not either.
        left_out: what the source had that cannot be used, in words.
        dft: see `entries.Entries`.
        element_energies: likewise.
    """

    rows: Sequence[Row]
    energy_model: str
    left_out: tuple[str, ...] = ()
    dft: str = ""
    element_energies: Mapping[str, float] = dataclasses.field(default_factory=dict)


class _Total(NamedTuple):
    composition: Composition
    energy: float  # eV, of the whole composition
    id: str
    energy_model: str
    crystal: structure.Crystal | None = None


def read_csv(path: str) -> Rows:
    """Reads ``formula``, ``formation_energy`` or ``energy``, ``id``, ``energy_model``.

    Raises:
        ValueError: a column or cell is missing, an energy is not finite or seems to be
            a total energy, or the file is a table of samples.
    """
    header = csv_rows.read_header(path)
    better = [name for name in header if name.startswith("formation_energy_")]
    if "formation_energy" in header and better:
        # Our own tables of samples: the requested energies were not computed.
        raise errors.UserError(
            f"{path} has the columns 'formation_energy' and {better[0]!r}: a table of "
            "samples, whose formation_energy is what was requested; write a CSV with "
            "the columns formula and energy, or give its hull.json"
        )
    energy_column = "formation_energy" if "formation_energy" in header else "energy"
    csv_rows.require_columns(path, ["formula", energy_column])
    said = levels_of_theory.find_columns(header)
    optional = [n for n in ("id", "energy_model", *said) if n in header]
    columns = ["formula", energy_column, *optional]
    rows: list[Row] = []
    levels: list[str] = []
    for number, cells in enumerate(csv_rows.read_rows(path, columns), start=1):
        where = f"{path}, row {number}"
        if isinstance(cells, record.Failure):
            raise errors.UserError(f"{cells.detail} ({cells.reason}); mend the row")
        row = dict(zip(columns, cells, strict=True))
        entry_id = row.get("id") or where
        energy = _parse_energy(row[energy_column], entry_id)
        is_element = len(compositions.symbols_of(row["formula"])) == 1
        if is_element and energy < _LOWEST_ELEMENT:
            raise errors.UserError(
                f"entry {entry_id!r} has {energy:g} eV/atom for the element "
                f"{row['formula']}, which total energies look like; expected formation "
                "energies: give total energies as entries of pymatgen in JSON"
            )
        model = row.get("energy_model") or ""
        rows.append(Row(row["formula"], energy, entry_id, model))
        levels.append(_describe_level({name: row[name] for name in said}))
    if len(set(levels)) > 1:
        # They tell models apart that go by one name, or by none.
        rows = [
            row._replace(energy_model=f"{row.energy_model} {level}".strip())
            for row, level in zip(rows, levels, strict=True)
        ]
    return Rows(rows, "")


def _describe_level(cells: Mapping[str, str]) -> str:
    """What a row says of how its energy was computed, with U where it says one."""
    words = levels_of_theory.read_words(cells)
    found = [
        *levels_of_theory.read_run_types(cells),
        *map(levels_of_theory.normalize, words.values()),
    ]
    return ", ".join(dict.fromkeys(found))


def read_json(
    path: str, systems: set[frozenset[str]], claimed: str | None = None
) -> Rows:
    """Reads pymatgen entries (total energies, eV), or what `convex_hull.to_dict` gives.

    Total energies, with their corrections, become formation energies against the
    lowest entry of each element.

    Args:
        path: a list or mapping of entries, or ``{"entries": …}`` with an optional
            ``energy_model``; or an entry a line (.jsonl).
        systems: total energies outside these need no elements; all are read if empty.
        claimed: energy model in the words of the user: `MP_SCHEME` says that entries
            which do not tell are the Materials Project's.

    Raises:
        ValueError: an item is no entry, an element is missing, or total and formation
            energies are mixed.
    """
    model, dft = "", ""
    element_energies: dict[str, float] = {}
    fits: list[bool] = []
    ours: list[Row] = []
    totals: list[_Total] = []
    computed: list[energy_schemes.Computed] = []
    items: dict[int, Mapping[str, Any]] = {}
    for number, (key, text) in enumerate(json_items.read_items(path, "entries")):
        where = f"{path}, entry {number}" if key is None else key
        try:
            item = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise errors.UserError(f"{where} is no JSON: {error}") from error
        if key in ("energy_model", "dft") and isinstance(item, str):
            model, dft = (item, dft) if key == "energy_model" else (model, item)
            continue
        if key == "element_energies" and isinstance(item, dict):
            element_energies = {s: _parse_energy(e, s) for s, e in item.items()}
            continue
        if isinstance(item, dict) and "computed_structure_entry" in item:
            item = item["computed_structure_entry"]
        if not isinstance(item, dict):
            raise errors.UserError(
                f"{where} is a {type(item).__name__}; expected an entry of pymatgen, "
                "or formula, formation_energy and id"
            )
        entry_id, own_model = _find_id(item, where), _find_model(item)
        scheme = energy_schemes.read_scheme(item, entry_id)
        if "formation_energy" in item and "formula" in item:
            energy = _parse_energy(item["formation_energy"], entry_id)
            ours.append(Row(str(item["formula"]), energy, entry_id, own_model))
            symbols = compositions.symbols_of(ours[-1].formula)
            if not systems or compositions.is_within(symbols, systems):
                computed.append(energy_schemes.Computed(entry_id, symbols, scheme))
            continue
        total = _parse_computed_entry(item, entry_id, own_model)
        symbols = compositions.symbols_of(total.composition)
        if not systems or compositions.is_within(symbols, systems):
            fits.append(claimed == MP_SCHEME or energy_schemes.is_of_mp(item, scheme))
            if fits[-1] and not scheme.corrections:
                items[len(totals)] = item
            totals.append(total)
            computed.append(energy_schemes.Computed(entry_id, symbols, scheme))
    if ours and totals:
        raise errors.UserError(
            f"{path} mixes formation energies and total energies; split it in two"
        )
    is_mp = bool(totals) and all(fits) and not model
    if is_mp and not ours:
        # They are about to get what makes energies with and without U comparable.
        for i in items:
            computed[i] = energy_schemes.with_mp2020(computed[i])
    energy_schemes.require_one(computed, path)
    if ours or not totals:
        return Rows(ours, model, dft=dft, element_energies=element_energies)
    if not is_mp:
        return Rows(_formation_energies(totals, path)[0], model)
    totals = [_correct(total, items.get(i)) for i, total in enumerate(totals)]
    rows, element_energies = _formation_energies(totals, path)
    return Rows(
        rows, MP_SCHEME, dft=pretrained.MP_PBE, element_energies=element_energies
    )


def _correct(total: _Total, item: Mapping[str, Any] | None) -> _Total:
    """With MP2020's corrections, where the entry has none."""
    if item is None:
        return total
    # pymatgen takes its time to import this.
    from crystaljax.hull import corrections

    try:
        correction = corrections.correct_entry(item, total.id, total.crystal)
    except ValueError as error:
        raise errors.UserError(
            f"entry {total.id!r} does not fit the Materials Project's corrections: "
            f"{error}; leave it out, or say with --hull_energy_model what the energies "
            "of the file are, if they are no others"
        ) from error
    return total._replace(energy=total.energy + correction)


def _parse_energy(value: object, entry_id: str) -> float:
    try:
        return record.parse_energy(value)
    except ValueError as error:
        raise errors.UserError(
            f"entry {entry_id!r} has the energy {value!r}; expected a finite number: "
            "leave entries without energy out"
        ) from error


def _find_id(item: Mapping[str, Any], otherwise: str) -> str:
    data = item.get("data")
    data = data if isinstance(data, dict) else {}
    names = (item.get("id"), item.get("entry_id"), data.get("material_id"))
    named = [name for name in (*names, item.get("name")) if name]
    return str(named[0]) if named else otherwise


def _find_model(item: Mapping[str, Any]) -> str:
    data = item.get("data")
    places = (item, data) if isinstance(data, dict) else (item,)
    return next((str(p["energy_model"]) for p in places if p.get("energy_model")), "")


def _parse_computed_entry(
    item: Mapping[str, Any], entry_id: str, energy_model: str
) -> _Total:
    """Composition and total energy, corrections included.

    Read as plain data, so that no file can name a class whose code would run.
    """
    amounts = item.get("composition")
    if not isinstance(amounts, dict | str) or "energy" not in item:
        raise errors.UserError(
            f"entry {entry_id!r} has no 'composition' or no 'energy'; expected an "
            "entry of pymatgen (its as_dict()), or formula, formation_energy and id"
        )
    if item.get("energy_adjustments") and item.get("correction") is None:
        raise errors.UserError(
            f"entry {entry_id!r} has energy_adjustments but no 'correction', their "
            "sum; write it again with pymatgen's as_dict()"
        )
    try:
        composition = _parse_composition(amounts)
    except (AttributeError, TypeError, ValueError) as error:
        raise errors.UserError(
            f"entry {entry_id!r} has the composition {amounts!r}: {error}"
        ) from error
    if not composition.num_atoms:
        raise errors.UserError(f"entry {entry_id!r} holds no atom")
    crystal = _parse_structure(composition, item.get("structure"), entry_id)
    energy = _parse_energy(item["energy"], entry_id)
    energy += _parse_energy(item.get("correction") or 0, entry_id)
    return _Total(composition, energy, entry_id, energy_model, crystal)


def _parse_composition(amounts: dict[str, Any] | str) -> Composition:
    if isinstance(amounts, str):
        return compositions.parse_composition(amounts)
    # Names such as Fe3+ are those of species.
    for name, amount in amounts.items():
        if numbers.parse_finite(amount) < 0:
            raise errors.UserError(f"{amount} of {name}")
    try:
        composition = Composition(amounts).element_composition
    except IndexError as error:
        # Of names that are no species.
        raise errors.UserError(
            f"composition {str(dict(amounts))[:80]}: a name is no element; expected "
            "symbols and amounts"
        ) from error
    for element in composition.elements:
        # A dummy such as X is none.
        elements.atomic_number(element.symbol)
    return composition


def _parse_structure(
    composition: Composition, item: Any, entry_id: str
) -> structure.Crystal | None:
    """Crystal of an entry; ValueError if it is of another composition."""
    if not isinstance(item, dict):
        return None
    try:
        crystal = entries_json.parse_structure(item)
    except ValueError:
        # Disordered, or not a structure at all: the energy does not depend on it.
        return None
    found = compositions.parse_composition(crystal.atomic_numbers)
    if not found.fractional_composition.almost_equals(
        composition.fractional_composition
    ):
        raise errors.UserError(
            f"entry {entry_id!r} has the composition "
            f"{compositions.format_composition(composition)}, but its structure is "
            f"{compositions.format_composition(found)}; leave the entry out"
        )
    return crystal


def _formation_energies(
    totals: Sequence[_Total], path: str
) -> tuple[list[Row], dict[str, float]]:
    """Against the lowest entry of each element, whose energies come second."""
    references: dict[str, float] = {}
    found: collections.Counter[str] = collections.Counter()
    for total in totals:
        symbols = compositions.symbols_of(total.composition)
        found.update(symbols)
        if len(symbols) == 1:
            (symbol,) = symbols
            per_atom = total.energy / total.composition.num_atoms
            references[symbol] = min(per_atom, references.get(symbol, np.inf))
    missing = sorted(found.keys() - references.keys())
    if missing:
        raise errors.UserError(
            f"{path} has total energies but no entry of {', '.join(missing)}; "
            "formation energies need those of the elements: add them to the file"
        )
    rows = []
    for composition, energy, entry_id, model, crystal in totals:
        reference = sum(
            amount * references[element.symbol]
            for element, amount in composition.items()
        )
        formula = compositions.format_composition(composition)
        formation_energy = float((energy - reference) / composition.num_atoms)
        rows.append(Row(formula, formation_energy, entry_id, model, crystal))
    return rows, references
