"""Entries of a hull: known compounds with their energies, from wherever they are.

Energies are formation energies in eV/atom against the elements. Every source says what
computed them, or the user does: entries of two energy models are never read as one.
"""

import collections
import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from pymatgen.core import Composition

from crystaljax.crystals import elements, structure
from crystaljax.data import dataset as datasets
from crystaljax.data.readers import files, json_items, pages
from crystaljax.data.sources import aflow, record
from crystaljax.hull import compositions, entry_files
from crystaljax.system import errors

BUILTIN = "builtin"
AFLOW = "aflow"
_DATASET_PREFIX = "dataset:"


@dataclasses.dataclass(frozen=True)
class Entry:
    """One known compound of a hull.

    Attributes:
        composition: its composition.
        formation_energy: eV/atom, against the elements.
        id: where it came from.
        crystal: its structure, where the source has it.
    """

    composition: Composition
    formation_energy: float
    id: str
    crystal: structure.Crystal | None = dataclasses.field(
        default=None, compare=False, repr=False
    )


@dataclasses.dataclass(frozen=True)
class Entries:
    """What a source holds.

    Attributes:
        entries: the compounds, in the order of the source.
        energy_model: what computed the energies, such as "ASE EMT".
        left_out: what a service sent that cannot be used, in words; a file has none.
        dft: of total energies, as `pretrained` names it: "" where the source does not
            say, or has formation energies.
        element_energies: the elements' total energies by symbol, eV/atom, with
            corrections; where there are total energies.
    """

    entries: tuple[Entry, ...]
    energy_model: str
    left_out: tuple[str, ...] = ()
    dft: str = ""
    element_energies: Mapping[str, float] = dataclasses.field(default_factory=dict)


def read_entries(
    spec: str,
    formulas: Sequence[compositions.Formula] = (),
    *,
    energy_model: str | None = None,
    cache: str | os.PathLike[str] | None = None,
    server: str = aflow.SERVER,
    manners: pages.Manners = pages.DEFAULT_MANNERS,
) -> Entries:
    """Reads the entries of a hull.

    Args:
        spec: where they are:
            ``FILE.csv``: columns ``formula`` and ``formation_energy`` or ``energy``
            (the same: eV/atom against the elements), optionally ``id`` and
            ``energy_model``.
            ``FILE.json``: entries of pymatgen (ComputedEntry, ComputedStructureEntry,
            PDEntry) with total energies in eV per cell, as the Materials Project gives
            them; the elements must be among them. Where they are of its PBE(+U),
            which ids, POTCARs or corrections say, those without its corrections
            (MP2020) get them. Or what `convex_hull.to_dict`
            gives. Either
            file may be compressed (.gz, .bz2, .xz).
            ``dataset:PATH``: a data set of `crystaljax.prepare`.
            ``builtin``: the packaged alloys, EMT energies.
            ``aflow:B-Ta-W``, or ``aflow`` for the chemical systems of ``formulas``:
            from AFLOW over the network; see `crystaljax.data.sources.aflow`.
        formulas: only entries within the chemical systems of these; all if empty.
        energy_model: what computed the energies, in the words of the user: taken where
            the source does not say, and in place of what it says.
        cache: directory for what AFLOW sends; ``~/.cache/crystaljax/aflow``
            (``$XDG_CACHE_HOME``) if None. What is there is not requested again.
        server: address of AFLUX.
        manners: how it is asked.

    Raises:
        FileNotFoundError: there is no such file or data set.
        ValueError: the spec is none of these; a file is damaged or lacks a column; an
            entry has no formula or no finite energy; its elements are missing; the
            energies are of several models, or of an unknown one.
    """
    systems = compositions.chemical_systems(formulas)
    if spec == BUILTIN:
        source = _read_builtin()
    elif spec.startswith(_DATASET_PREFIX):
        source = _read_dataset(spec.removeprefix(_DATASET_PREFIX), systems)
    elif spec == AFLOW or spec.startswith(f"{AFLOW}:"):
        asked = _find_systems(spec.partition(":")[2], systems)
        source = _read_aflow(asked, cache, server, manners)
    else:
        source = _read_file(spec, systems, energy_model)
    entries = []
    models: dict[str, str] = {}
    for formula, energy, entry_id, own_model, crystal in source.rows:
        symbols = compositions.symbols_of(formula)
        if systems and not compositions.is_within(symbols, systems):
            continue
        entries.append(build_entry(formula, energy, entry_id, crystal))
        models.setdefault(own_model or source.energy_model, entry_id)
    if not models:
        # Nothing is known of these systems; whose elements they are is known still.
        models = {row.energy_model: row.id for row in source.rows}
        models = models if len(models) == 1 else {}
    settled = _settle_energy_model(models, source.energy_model, energy_model, spec)
    # Another name, in the words of the user, is another scale.
    is_total = bool(source.dft) and settled == source.energy_model
    return Entries(
        tuple(entries),
        settled,
        source.left_out,
        dft=source.dft if is_total else "",
        element_energies=source.element_energies if is_total else {},
    )


def build_entry(
    formula: compositions.Formula,
    energy: float,
    entry_id: str,
    crystal: structure.Crystal | None = None,
) -> Entry:
    """Formula and formation energy (eV/atom) → entry.

    Raises:
        ValueError: the energy is not finite, or the formula cannot be read.
    """
    if not np.isfinite(energy):
        raise errors.UserError(
            f"entry {entry_id!r} has formation energy {energy}; expected a finite "
            "number of eV/atom: leave entries without energy out"
        )
    try:
        composition = compositions.parse_composition(formula)
    except ValueError as error:
        raise errors.UserError(f"entry {entry_id!r}: {error}") from error
    return Entry(composition, float(energy), str(entry_id), crystal)


def _settle_energy_model(
    models: Mapping[str, str], otherwise: str, claimed: str | None, spec: str
) -> str:
    """The one energy model of all entries (model → id of an entry that has it)."""
    if len(models) > 1:
        examples = "; ".join(
            f"{entry_id!r} has {model!r}" if model else f"{entry_id!r} does not say"
            for model, entry_id in models.items()
        )
        raise errors.UserError(
            f"{spec} holds energies of {len(models)} energy models: {examples}; one "
            "hull has one: split the file"
        )
    found = claimed or next(iter(models), "") or otherwise
    if not found:
        raise errors.UserError(
            f"{spec} does not say what computed its energies; say it with "
            "--hull_energy_model (energy_model in Python), such as 'VASP PBE': "
            "candidates are compared only where theirs is the same"
        )
    return found


def _read_file(
    spec: str, systems: set[frozenset[str]], claimed: str | None
) -> entry_files.Rows:
    suffix = files.suffix_without_compression(spec)
    if suffix not in (".csv", *json_items.SUFFIXES):
        raise errors.UserError(
            f"unknown hull {spec!r}; expected FILE.csv, FILE.json, dataset:PATH, "
            "aflow:B-Ta-W, aflow, or builtin"
        )
    if not pathlib.Path(spec).is_file():
        raise FileNotFoundError(f"no hull file {spec}; check the path")
    if suffix == ".csv":
        return entry_files.read_csv(spec)
    return entry_files.read_json(spec, systems, claimed)


def _read_builtin() -> entry_files.Rows:
    # ASE's EMT and the prototypes take a while to import.
    from crystaljax.data.sources import emt

    rows = []
    for item in emt.load_builtin():
        assert item.formation_energy is not None, f"{item.id} has no energy"
        formula = elements.cell_formula(item.crystal.atomic_numbers)
        rows.append(
            entry_files.Row(formula, item.formation_energy, item.id, "", item.crystal)
        )
    return entry_files.Rows(rows, emt.load_metadata()["energy_model"])


def _read_dataset(path: str, systems: set[frozenset[str]]) -> entry_files.Rows:
    dataset = datasets.open_dataset(path)
    encoded = dataset.formula.dictionary_encode()
    # Each distinct formula is looked at once: there may be millions of structures.
    distinct = encoded.dictionary.to_pylist()
    wanted = [
        not systems or compositions.is_within(compositions.symbols_of(name), systems)
        for name in distinct
    ]
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    rows = [
        entry_files.Row(
            distinct[codes[index]],
            float(dataset.formation_energy[index]),
            dataset.id[index].as_py(),
            "",
            # Without chosen systems, crystals of a large data set are not loaded.
            datasets.crystal(dataset, index) if systems else None,
        )
        for index in np.flatnonzero(np.array(wanted, bool)[codes]).tolist()
    ]
    return entry_files.Rows(rows, dataset.info.get("energy_model") or "")


def _find_systems(named: str, systems: set[frozenset[str]]) -> list[tuple[str, ...]]:
    """Elements of the system that is named, or else of those in question."""
    if named:
        systems = {frozenset(symbol.strip() for symbol in named.split("-"))}
    if not systems:
        raise errors.UserError(
            "hull 'aflow' needs formulas to know the chemical systems; or name one, "
            "such as aflow:B-Ta-W"
        )
    return sorted(tuple(sorted(system)) for system in systems)


def _read_aflow(
    systems: Sequence[tuple[str, ...]],
    cache: str | os.PathLike[str] | None,
    server: str,
    manners: pages.Manners,
) -> entry_files.Rows:
    if cache is None:
        home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
        cache = pathlib.Path(home) / "crystaljax" / "aflow"
    # By id: systems share the elements, and what is made of fewer.
    rows: dict[str, entry_files.Row] = {}
    problems: dict[str, str] = {}
    model = ""
    for system in systems:
        source = aflow.Aflow(
            cache=pathlib.Path(cache) / "-".join(system),
            species=system,
            natoms=None,
            server=server,
            manners=manners,
        )
        model = source.describe()["energy_model"]
        for raw in source.read_rows():
            parsed = source.parse_row(raw)
            if isinstance(parsed, record.Record):
                formula = elements.cell_formula(parsed.crystal.atomic_numbers)
                energy = float(parsed.formation_energy or 0.0)
                rows[parsed.id] = entry_files.Row(
                    formula, energy, parsed.id, "", parsed.crystal
                )
            elif not parsed.is_rule:
                problems[parsed.id] = parsed.reason
            # Rules leave out what was not requested, such as other functionals.
    left_out = [
        f"{count} of AFLOW's entries: {reason}"
        for reason, count in collections.Counter(problems.values()).items()
    ]
    return entry_files.Rows(list(rows.values()), model, tuple(left_out))
