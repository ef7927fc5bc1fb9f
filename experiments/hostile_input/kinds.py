"""Kinds of input: good files, how they are read, and what they say of themselves."""

import collections
import csv
import dataclasses
import functools
import gzip
import io
import json
import pathlib
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gemmi
import numpy as np
import pyarrow.parquet
from hostile_input import good_files, stated
from pymatgen.core import Composition

from crystaljax import prepare
from crystaljax.command_line import USER_ERRORS, parse
from crystaljax.crystals import elements, inputs, space_groups, structure
from crystaljax.crystals import extxyz as frames
from crystaljax.data import dataset as datasets
from crystaljax.data import reading
from crystaljax.data.readers import pages
from crystaljax.data.sources import (
    aflow,
    aflow_csv,
    ase_db,
    building,
    cif_csv,
    entries_json,
    extxyz,
    folder,
    labels,
    optimade,
    record,
)
from crystaljax.dft import handover, vasp_runs
from crystaljax.hull import compositions
from crystaljax.hull import entries as hull_entries
from crystaljax.models import scaling
from crystaljax.relaxation import references
from crystaljax.sampling import formulas, requested_energies
from crystaljax.screening import inputs as screening_inputs
from crystaljax.training import runs

Value = Any
Items = list[tuple[str, Value]]
_FORM = reading.CanonicalForm()
# What a reader says that catches an exception of a library and knows nothing of it.
_EXCEPTION = re.compile(r"(^|: )(unexpected )?[A-Z]\w*(Error|Exception|Warning): ")


class UnexplainedError(Exception):
    """A reason that is the name of an exception."""


class RoutesDifferError(Exception):
    """Two commands read one file as two crystals."""


@dataclasses.dataclass(frozen=True)
class Refused:
    """What stands in place of a crystal."""

    reason: str

    def __post_init__(self):
        if _EXCEPTION.search(self.reason):
            raise UnexplainedError(self.reason)


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of input.

    Attributes:
        files: content by name, all that is there.
        mutated: which of them are damaged.
        read: a folder with the files → what is read of it.
        find_contradiction: files, key and value → what a file says otherwise, or "".
        unpack: content → that of the inner text, where damage is done to it half of
            the time; with `pack` the way back.
        pack: see `unpack`.
    """

    files: Mapping[str, bytes]
    mutated: Sequence[str]
    read: Callable[[pathlib.Path], Items]
    find_contradiction: Callable[[Mapping[str, bytes], str, Value], str] | None = None
    unpack: Callable[[bytes], bytes] | None = None
    pack: Callable[[bytes], bytes] | None = None


def build() -> dict[str, list[Kind]]:
    """All kinds by name, each with its variants."""
    kinds: dict[str, list[Kind]] = collections.defaultdict(list)
    for name, text in good_files.cif_texts().items():
        kinds["CIF"].append(
            _single(name, text, lambda text, _, value: stated.cif(text, value))
        )
    for name, text in good_files.poscar_texts().items():
        kinds["POSCAR"].append(_single(name, text, None))
    _add_extxyz(kinds["extxyz"])
    _add_tables(kinds)
    _add_json(kinds)
    _add_archives(kinds["archive"])
    _add_folders(kinds)
    _add_hulls(kinds)
    _add_flags(kinds)
    return dict(kinds)


# -------------------------------------------------------------------------- one crystal
def _single(name: str, text: str, say: Any) -> Kind:
    def find(files: Mapping[str, bytes], key: str, value: Value) -> str:
        said = _decoded(files[name])
        return say(said, key, value) if say and said is not None else ""

    return Kind({name: text.encode()}, [name], functools.partial(_routes, name), find)


def _is_crystal(value: Value) -> bool:
    return isinstance(value, structure.Crystal)


def _decoded(content: bytes) -> str | None:
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError:
        return None


def _routes(name: str, place: pathlib.Path) -> Items:
    """A file as modify, screen and prepare read it: all the same."""
    found, problems = inputs.read_inputs(place / name)
    modified: Items = [("0", each.crystal) for each in found]
    modified += [("0", Refused(each.reason)) for each in problems]
    screened = _candidates(screening_inputs.read_candidates(place / name))
    screened = [("0", value) for _, value in screened]
    prepared = [("0", value) for _, value in _source_items(_folder(place))]
    for other in (screened, prepared):
        if not same_items(modified, other):
            raise RoutesDifferError(f"{modified} and {other}")
    return modified


def _folder(place: pathlib.Path) -> folder.Folder:
    return folder.Folder(str(place))


def _candidates(found: screening_inputs.Candidates) -> Items:
    found.table()
    screening_inputs.fingerprint(found)
    return [
        (name, Refused(problem) if problem else crystal)
        for name, crystal, problem in zip(
            found.names, found.crystals, found.problems, strict=True
        )
    ]


def _source_items(source: record.Source) -> Items:
    """Rows of a source, as `prepare` reads them; energies belong to the value."""
    parsed = [source.parse_row(row) for row in source.read_rows()]
    records = [each for each in parsed if isinstance(each, record.Record)]
    reading.canonical_records(records, _FORM)
    return [
        (
            each.id,
            each.crystal
            if isinstance(each, record.Record)
            else Refused(f"{each.reason}: {each.detail}"),
        )
        for each in parsed
    ]


# ------------------------------------------------------------------------------- extxyz
def _add_extxyz(kinds: list[Kind]) -> None:
    content = good_files.extxyz_text().encode()

    def read(place: pathlib.Path) -> Items:
        path = place / "four.extxyz"
        screened = _candidates(screening_inputs.read_candidates(path))
        prepared = _source_items(extxyz.ExtXyz(str(path), "e_form"))
        found, problems = inputs.read_inputs(path)
        for each in problems:
            Refused(each.reason)
        good = [(name, value) for name, value in screened if _is_crystal(value)]
        if not same_items(good, [(each.name, each.crystal) for each in found]):
            raise RoutesDifferError(f"{screened} and {found}")
        if len(screened) != len(prepared):
            raise RoutesDifferError(f"{screened} and {prepared}")
        for (_, one), (_, other) in zip(screened, prepared, strict=True):
            both = isinstance(one, structure.Crystal) and isinstance(
                other, structure.Crystal
            )
            if both and not same_value(one, other):
                raise RoutesDifferError(f"{screened} and {prepared}")
        return prepared

    def find(files: Mapping[str, bytes], key: str, value: Value) -> str:
        text = _decoded(files["four.extxyz"]) or ""
        lines = [line for line in text.split("\n") if f'id="_JSON \\"{key}' in line]
        lines = lines or [line for line in text.split("\n") if f"id={key} " in line]
        if len(lines) != 1:
            return ""
        formulas = re.findall(r" formula=(\w+)", lines[0])
        if len(formulas) != 1:
            return ""
        return stated.formula_differs(formulas[0], value, whole=True)

    kinds.append(Kind({"four.extxyz": content}, ["four.extxyz"], read, find))


# ------------------------------------------------------------------------------- tables
def _add_tables(kinds: dict[str, list[Kind]]) -> None:
    for name, text, build_source, find in (
        ("cifs.csv", good_files.cif_csv_text(), _cif_csv, _find_in_cif_csv),
        ("aflow.csv", good_files.aflow_csv_text(), _aflow_csv, _find_in_aflow_csv),
    ):
        content = text.encode()
        kinds[name].append(
            Kind(
                {name: content},
                [name],
                lambda place, name=name, build=build_source: _source_items(
                    build(str(place / name))
                ),
                lambda files, key, value, name=name, find=find: find(
                    files[name], key, value
                ),
            )
        )
        packed = good_files.compress(content, ".gz")
        kinds[name].append(
            Kind(
                {f"{name}.gz": packed},
                [f"{name}.gz"],
                lambda place, name=name, build=build_source: _source_items(
                    build(str(place / f"{name}.gz"))
                ),
            )
        )
    kinds["labels CSV"].append(
        Kind(
            {"labels.csv": b"material_id,formation_energy_per_atom,sg\n"
             b"a,-0.1,1\n00042,-0.2,225\nNaN,0.3,7\n7e2,1e-3,12\n"},
            ["labels.csv"],
            lambda place: list(
                labels.read_labels(
                    place / "labels.csv", "material_id", "formation_energy_per_atom",
                    "sg",
                ).items()
            ),
        )
    )  # fmt: skip
    kinds["references CSV"].append(
        Kind(
            {"references.csv": b"element,energy\nCu,-3.7\nAu,-3.2\nAg,-2.7\n"},
            ["references.csv"],
            lambda place: sorted(
                (elements.symbol(number), energy)
                for number, energy in references.load_references(
                    place / "references.csv"
                ).energies.items()
            ),
        )
    )


def _cif_csv(path: str) -> record.Source:
    return cif_csv.CifCsv(path, "formation_energy_per_atom", "spacegroup")


def _aflow_csv(path: str) -> record.Source:
    return aflow_csv.AflowCsv(path)


def _rows(content: bytes) -> list[dict[str, str]]:
    text = _decoded(content)
    try:
        return list(csv.DictReader(io.StringIO(text or "", newline=""), strict=True))
    except csv.Error:
        return []


def _find_in_cif_csv(content: bytes, key: str, value: Value) -> str:
    rows = [row for row in _rows(content) if row.get("material_id") == key]
    if len(rows) != 1:
        return ""
    problem = stated.cif(rows[0].get("cif") or "", value)
    return problem or stated.formula_differs(
        rows[0].get("pretty_formula") or "", value, whole=False
    )


def _find_in_aflow_csv(content: bytes, key: str, value: Value) -> str:
    rows = [row for row in _rows(content) if row.get("auid") == key]
    if len(rows) != 1:
        return ""
    formula = rows[0].get("pretty_formula") or ""
    if problem := stated.formula_differs(formula, value, whole=True):
        return problem
    volume = rows[0].get("volume_cell") or ""
    if re.fullmatch(r"\d+\.\d+", volume):
        return stated.volume_differs(float(volume), value)
    return ""


# ----------------------------------------------------------------------- JSON and pages
def _add_json(kinds: dict[str, list[Kind]]) -> None:
    items = good_files.entries()
    lines = "\n".join(json.dumps(item) for item in items).encode()
    documents = {
        "list.json": json.dumps(items, indent=0).encode(),
        "mapping.json": json.dumps(
            {item["entry_id"]: item for item in items}, indent=0
        ).encode(),
        "entries.json": json.dumps({"entries": items, "@version": "1"}).encode(),
        "lines.jsonl": lines,
        "lines.jsonl.gz": good_files.compress(lines, ".gz"),
        "list.json.bz2": good_files.compress(json.dumps(items).encode(), ".bz2"),
        "list.json.xz": good_files.compress(json.dumps(items).encode(), ".xz"),
    }
    for name, content in documents.items():
        kinds["entries JSON"].append(
            Kind(
                {name: content},
                [name],
                lambda place, name=name: _source_items(
                    entries_json.EntriesJson(str(place / name))
                ),
                lambda files, key, value, name=name: _find_in_entries(
                    files[name], key, value
                ),
            )
        )
    for name, content in good_files.ase_files().items():
        kinds["ASE database"].append(
            Kind(
                {name: content},
                [name],
                lambda place, name=name: _source_items(
                    ase_db.AseDb(str(place / name), "e_form", id_key="label")
                ),
            )
        )
    kinds["OPTIMADE page"].append(
        Kind(
            {"page": good_files.optimade_page()},
            ["page"],
            _read_optimade,
            lambda files, key, value: _find_in_optimade(files["page"], key, value),
        )
    )
    kinds["AFLOW page"].append(
        Kind(
            {"page": good_files.aflow_page()},
            ["page"],
            _read_aflow,
            lambda files, key, value: _find_in_aflow(files["page"], key, value),
        )
    )
    rows = json.loads(good_files.optimade_page())["data"]
    source = _optimade("cache")
    page = {"url": source._first_url(), "next": None, "rows": rows}
    query = {"format": 1, "source": "optimade", "url": source._first_url()}
    kinds["cache of pages"].append(
        Kind(
            {
                "cache/page_000001.json.gz": gzip.compress(
                    json.dumps(page).encode(), mtime=0
                ),
                "cache/query.json": json.dumps(query).encode(),
            },
            ["cache/page_000001.json.gz", "cache/query.json"],
            lambda place: _source_items(_optimade(str(place / "cache"))),
        )
    )


def _find_in_entries(content: bytes, key: str, value: Value) -> str:
    text = _decoded(content)
    if text is None:
        return ""
    try:
        value_read = json.loads(text)
    except (ValueError, RecursionError):
        found = [line for line in text.split("\n") if f'"{key}"' in line]
        return stated.entry(found[0], value) if len(found) == 1 else ""
    if isinstance(value_read, dict):
        value_read = value_read.get("entries", list(value_read.values()))
    if not isinstance(value_read, list):
        return ""
    found = [
        item
        for item in value_read
        if isinstance(item, dict) and item.get("entry_id") == key
    ]
    return stated.entry(json.dumps(found[0]), value) if len(found) == 1 else ""


def _optimade(cache: str) -> optimade.Optimade:
    return optimade.Optimade(
        # Nobody listens there: what is not in the cache cannot be had.
        base_url="http://127.0.0.1:9",
        cache=cache,
        energy_property="_x_energy",
        space_group_property="_x_group",
        manners=pages.Manners(max_attempts=1, timeout=0.5, min_interval=0),
    )


def _read_optimade(place: pathlib.Path) -> Items:
    url = "https://example.org/v1/structures"
    body = (place / "page").read_bytes()
    rows, _ = optimade.parse_page(url, frozenset(), body)
    source = _optimade(str(place))
    return _parse_all(source, rows)


def _read_aflow(place: pathlib.Path) -> Items:
    rows, _ = aflow.parse_page((place / "page").read_bytes())
    source = aflow.Aflow(cache=str(place), species=("Cu", "Au"), natoms=None)
    return _parse_all(dataclasses.replace(source, species=()), rows)


def _parse_all(source: record.Source, rows: Sequence[Any]) -> Items:
    @dataclasses.dataclass(frozen=True)
    class Given:
        def read_rows(self):
            return iter(rows)

        def parse_row(self, row: Any):
            return source.parse_row(row)

        def describe(self):
            return {}

    return _source_items(Given())


def _find_in_optimade(content: bytes, key: str, value: Value) -> str:
    rows = [row for row in json.loads(content)["data"] if row.get("id") == key]
    if len(rows) != 1:
        return ""
    attributes = rows[0]["attributes"]
    formula = attributes.get("chemical_formula_reduced")
    if isinstance(formula, str) and (
        problem := stated.formula_differs(formula, value, whole=False)
    ):
        return problem
    sites = attributes.get("nsites")
    if isinstance(sites, int) and sites != value.num_sites:
        return f"{sites} sites, read as {value.num_sites}"
    return ""


def _find_in_aflow(content: bytes, key: str, value: Value) -> str:
    rows = [row for row in json.loads(content) if row.get("auid") == key]
    sites = rows[0].get("natoms") if len(rows) == 1 else None
    if isinstance(sites, int) and sites != value.num_sites:
        return f"{sites} atoms, read as {value.num_sites}"
    return ""


# ----------------------------------------------------------------------------- archives
def _add_archives(kinds: list[Kind]) -> None:
    texts = good_files.cif_texts()
    members = {
        "a/CuAu.cif": texts["CuAu.cif"].encode(),
        "b/NaCl.cif": texts["NaCl_operations.cif"].encode(),
        "c.vasp": good_files.poscar_texts()["rutile.vasp"].encode(),
        "README": b"not a crystal",
    }
    tar = good_files.tar_bytes(members)
    archives = {"all.zip": good_files.zip_bytes(members), "all.tar": tar}
    for suffix in (".gz", ".bz2", ".xz"):
        archives[f"all.tar{suffix}"] = good_files.compress(tar, suffix)
    for name, content in archives.items():
        is_zip = name.endswith(".zip")
        kinds.append(
            Kind(
                {name: content},
                [name],
                functools.partial(_read_archive, name),
                _find_in_zip if is_zip else None,
                _first_member if is_zip else None,
                functools.partial(_with_first_member, members) if is_zip else None,
            )
        )


def _read_archive(name: str, place: pathlib.Path) -> Items:
    screened = _candidates(screening_inputs.read_candidates(place / name))
    prepared = _source_items(folder.Folder(str(place / name)))
    good = [value for _, value in screened if isinstance(value, structure.Crystal)]
    same = [value for _, value in prepared if isinstance(value, structure.Crystal)]
    if not same_items([("", each) for each in good], [("", each) for each in same]):
        raise RoutesDifferError(f"{screened} and {prepared}")
    return prepared


def _first_member(content: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return archive.read("a/CuAu.cif")


def _with_first_member(members: Mapping[str, bytes], content: bytes) -> bytes:
    return good_files.zip_bytes({**members, "a/CuAu.cif": content})


def _find_in_zip(files: Mapping[str, bytes], key: str, value: Value) -> str:
    if not key.endswith(".cif"):
        return ""
    try:
        with zipfile.ZipFile(io.BytesIO(files["all.zip"])) as archive:
            text = _decoded(archive.read(key))
    except Exception:
        return ""
    return stated.cif(text or "", value)


# ------------------------------------------------------------------------------ folders
def _add_folders(kinds: dict[str, list[Kind]]) -> None:
    files = good_files.dataset_files()
    kinds["data set"].append(Kind(files, list(files), _read_dataset, _find_in_dataset))
    files = good_files.samples_files()
    kinds["samples"].append(
        Kind(
            files,
            list(files),
            lambda place: _candidates(screening_inputs.read_candidates(place)),
            functools.partial(_find_in_table, "samples.parquet"),
        )
    )
    files = good_files.screening_files()
    kinds["screening"].append(
        Kind(
            files,
            list(files),
            _read_screening,
            functools.partial(_find_in_table, "screening.parquet"),
        )
    )
    text = good_files.vasprun_text()
    for name, content in (
        ("vasprun.xml", text.encode()),
        ("vasprun.xml.gz", good_files.compress(text.encode(), ".gz")),
    ):
        kinds["vasprun.xml"].append(
            Kind(
                {name: content},
                [name],
                functools.partial(_read_run, name),
                _find_in_run if name == "vasprun.xml" else None,
            )
        )
    manifest = (
        b"folder,kind,name,formula,problem,rank,relaxed_energy_above_hull\n"
        b'a/1_23,candidate,1_23,Au1Cu3,"",1,0.01\n'
        b'b/00042,candidate,00042,Cl4Na4,"",2,0.1\n'
    )
    kinds["manifest"].append(
        Kind(
            {"manifest.csv": manifest},
            ["manifest.csv"],
            lambda place: [
                (each.folder, tuple(sorted(map(str, each.row.items()))))
                for each in handover.read_manifest(place)
            ],
        )
    )
    saved = {
        "config.json": json.dumps(
            {"task": "generation", "data": {"path": "x", "rows": 24}, "seed": 3}
        ).encode(),
        "vocabulary.json": json.dumps(
            {"elements": ["Cu"], "space_groups": [1, 225], "max_sites": 8}
        ).encode(),
        "scaling.json": json.dumps(
            {
                "coords_mean": 0.5, "coords_scale": 0.3,
                "lattice_mean": [[0.0] * 3] * 3, "lattice_scale": [[1.0] * 3] * 3,
                "energy_mean": -0.1, "energy_scale": 0.2, "atomic_volumes": None,
            }
        ).encode(),
        "estimator.json": b'{"energy_error": 0.02}',
    }  # fmt: skip
    kinds["run directory"].append(Kind(saved, list(saved), _read_run_directory))


def _read_dataset(place: pathlib.Path) -> Items:
    found = datasets.open_dataset(place)
    datasets.vocabulary(found)
    return [
        (found.id[index].as_py(), datasets.crystal(found, index))
        for index in range(len(found))
    ]


def _find_in_dataset(files: Mapping[str, bytes], key: str, value: Value) -> str:
    good = good_files.CRYSTALS.get(key)
    return "" if good is None or same_value(good, value) else "another crystal"


def _read_screening(place: pathlib.Path) -> Items:
    return [
        (each.name, Refused(each.problem) if each.problem else each.crystal)
        for each in handover.read_items(place)
    ]


def _find_in_table(
    name: str, files: Mapping[str, bytes], key: str, value: Value
) -> str:
    table = pyarrow.parquet.read_table(pyarrow.BufferReader(files[name])).to_pylist()
    rows = [row for row in table if row.get("name") == key]
    if len(rows) != 1:
        return ""
    problem = stated.formula_differs(str(rows[0].get("formula")), value, whole=True)
    volume = rows[0].get("volume")
    if not problem and isinstance(volume, float):
        problem = stated.volume_differs(volume, value)
    return problem


def _read_run(name: str, place: pathlib.Path) -> Items:
    run = vasp_runs.read_run((".", place / name))
    if not run.crystal.num_sites:
        return [(".", Refused(run.problem))]
    if run.problem:
        Refused(run.problem)
    return [(".", run.crystal), ("energy", run.energy), ("holds", run.converged)]


def _find_in_run(files: Mapping[str, bytes], key: str, value: Value) -> str:
    if not isinstance(value, structure.Crystal):
        return ""
    text = files["vasprun.xml"].decode("latin-1")
    # Of the last step.
    last = text[text.rfind("<calculation>") : text.rfind("</calculation>")]
    volumes = re.findall(r'<i name="volume"> ([0-9.]+) </i>', last)
    atoms = re.findall(r"<atoms> (\d+) </atoms>", text)
    if len(atoms) == 1 and int(atoms[0]) != value.num_sites:
        return f"{atoms[0]} atoms, read as {value.num_sites}"
    if len(volumes) == 1 and volumes[0].count(".") == 1:
        return stated.volume_differs(float(volumes[0]), value)
    return ""


def _read_run_directory(place: pathlib.Path) -> Items:
    config = runs.load_config(place)
    scale = scaling.load_scaling(place / "scaling.json")
    return [
        ("config", str(config)),
        ("vocabulary", str(runs.load_vocabulary(place))),
        ("scaling", str(scale)),
        ("error", str(runs.load_estimator_errors(place))),
    ]


# -------------------------------------------------------------------------------- hulls
def _add_hulls(kinds: dict[str, list[Kind]]) -> None:
    entries = good_files.hull_entries()
    ours = {
        "energy_model": "ASE EMT",
        "entries": [
            {"formula": "Au1Cu3", "formation_energy": -0.05, "id": "a"},
            {"formula": "Au1", "formation_energy": 0.0, "id": "b"},
        ],
    }
    documents = {
        "hull.csv": b"id,formula,formation_energy,energy_model\n"
        b"a,Cu3Au,-0.05,EMT\nb,CuSO4\xc2\xb75H2O,-1.2,EMT\nc,Cu0.5Au0.5,-0.03,EMT\n"
        b"d,Ca(OH)2,-2.0,EMT\n00042,Na1Cl1,-2.1,EMT\n",
        "hull.json": json.dumps(entries, indent=0).encode(),
        "hull.jsonl": "\n".join(map(json.dumps, entries)).encode(),
        "ours.json": json.dumps(ours, indent=0).encode(),
    }
    for name, content in documents.items():
        kinds["hull"].append(
            Kind(
                {name: content},
                [name],
                lambda place, name=name: _read_hull(str(place / name)),
                functools.partial(_find_in_hull, name),
            )
        )


def _read_hull(path: str) -> Items:
    found = hull_entries.read_entries(path, energy_model="EMT")
    return [
        (
            each.id,
            (
                *sorted(
                    (element.symbol, amount)
                    for element, amount in each.composition.items()
                ),
                each.formation_energy,
            ),
        )
        for each in found.entries
    ]


def _find_in_hull(name: str, files: Mapping[str, bytes], key: str, value: Value) -> str:
    """The formula of an entry in pymatgen's reading, where that has no dots."""
    if name != "hull.csv":
        return ""
    rows = [row for row in _rows(files[name]) if row.get("id") == key]
    formula = (rows[0].get("formula") or "") if len(rows) == 1 else ""
    return _formula_differs(formula, dict(value[:-1]))


# -------------------------------------------------------------------------------- flags
_PLAIN_FORMULA = re.compile(r"[A-Za-z0-9()\[\]]+")


def _add_flags(kinds: dict[str, list[Kind]]) -> None:
    for text in (
        "Cu3Au",
        "Ta1W1B6",
        "Ca(OH)2",
        "CuSO4·5H2O",
        "Cu0.5Au0.5",
        "K2[PtCl4]",
    ):
        kinds["flag: formula"].append(_flag(text, _read_formula, _find_in_formula))
    for text in ("-0.05", "-0.05:0.05:0.01", "hull-0.2:hull:0.01,-0.3", "hull+0.05"):
        kinds["flag: energies"].append(
            _flag(
                text,
                lambda text: [
                    (str(i), (each.value, each.above_hull))
                    for i, each in enumerate(requested_energies.parse_energies(text))
                ],
                _find_in_energies,
            )
        )
    for text in ("1,225,P6_3/mmc", "Fm-3m", "all", "Cmca,I4_1/amd", "14"):
        kinds["flag: space groups"].append(
            _flag(
                text,
                lambda text: [
                    (str(i), number)
                    for i, number in enumerate(space_groups.parse_space_groups(text))
                ],
                _find_in_groups,
            )
        )
    for text in ("Ta-W-B", "Cu-Au"):
        kinds["flag: chemical system"].append(
            _flag(
                text,
                lambda text: [
                    (each, 1) for each in formulas.expand_chemical_system(text, 6)
                ],
            )
        )
    for text in ("1,2", "1:4"):
        kinds["flag: formula units"].append(
            _flag(
                text,
                lambda text: [(str(n), n) for n in formulas.parse_formula_units(text)],
            )
        )
    for text in ("4:60", "8"):
        kinds["flag: range"].append(
            _flag(text, lambda text: [("", building.parse_range(text))])
        )
    for text in ('id=1_23 name="a b" e=-0.1 Lattice="1 0 0 0 1 0 0 0 1" pbc="T T T"',):
        kinds["comment of extxyz"].append(
            _flag(text, lambda text: sorted(frames.parse_comment(text)[1].items()))
        )
    for text in (
        "--source=cif_csv\n--input=a.csv\n--output=b\n--min_sites=4\n--seed=1",
        "--source=emt\n--output=b\n--num_structures=8\n--max_energy=0.5\n--primitive",
    ):
        kinds["flags of prepare"].append(
            _flag(
                text,
                lambda text: [("", str(parse(prepare.COMMAND, text.splitlines())))],
            )
        )


def _flag(text: str, read: Callable[[str], Items], find: Any = None) -> Kind:
    def read_text(place: pathlib.Path) -> Items:
        # As the system hands over what is no UTF-8.
        return read((place / "flag").read_bytes().decode("utf-8", "surrogateescape"))

    def find_in_text(files: Mapping[str, bytes], key: str, value: Value) -> str:
        given = _decoded(files["flag"])
        return find(given, key, value) if find and given is not None else ""

    return Kind({"flag": text.encode()}, ["flag"], read_text, find_in_text)


def _read_formula(text: str) -> Items:
    amounts = dict(
        (element.symbol, amount)
        for element, amount in compositions.parse_composition(text).items()
    )
    try:
        cell = elements.parse_formula(text)
    except ValueError:
        cell = None
    if cell is not None and cell != {name: n for name, n in amounts.items()}:
        raise RoutesDifferError(f"{amounts} and {cell}")
    return sorted(amounts.items())


def _formula_differs(text: str, value: Mapping[str, float]) -> str:
    text = text.strip()
    if not _PLAIN_FORMULA.fullmatch(text):
        return ""
    try:
        said = Composition(text)
    except Exception:
        return ""
    amounts = {element.symbol: amount for element, amount in said.items()}
    return "" if amounts == dict(value) else f"formula {text}, read as {value}"


def _find_in_formula(text: str, key: str, value: Value) -> str:
    if not _PLAIN_FORMULA.fullmatch(text.strip()):
        return ""
    try:
        said = Composition(text.strip())[key]
    except Exception:
        return ""
    return "" if said == value else f"{key}{said}, read as {key}{value}"


def _find_in_energies(text: str, key: str, value: Value) -> str:
    parts = text.split(",")
    if any(":" in part for part in parts):
        return ""
    part = parts[int(key)].strip().lower().removeprefix("hull").replace(" ", "")
    return "" if float(part or 0) == value[0] else f"{part}, read as {value}"


def _find_in_groups(text: str, key: str, value: Value) -> str:
    entries = list(dict.fromkeys(each.strip() for each in text.split(",")))
    if len(entries) <= int(key) or text.strip().lower() == "all":
        return ""
    entry = entries[int(key)]
    if entry.isdecimal():
        return "" if int(entry) == value else f"{entry}, read as {value}"
    group = gemmi.find_spacegroup_by_name(entry.replace("_", ""))
    if group is None or group.number == value or len(entries) > len(set(entries)):
        return ""
    return f"{entry} is {group.number}, read as {value}"


# --------------------------------------------------------------------------- comparison
def same_value(one: Value, other: Value) -> bool:
    """Whether two values are the same; crystals within 1e-3 Å, sites in any order."""
    if isinstance(one, structure.Crystal) != isinstance(other, structure.Crystal):
        return False
    if not isinstance(one, structure.Crystal):
        return one == other or (one != one and other != other)
    if one.num_sites != other.num_sites or one.num_sites > 2000:
        return False
    if not np.allclose(one.lattice, other.lattice, rtol=1e-4, atol=1e-3):
        return False
    if not (
        np.isfinite(one.frac_coords).all() and np.isfinite(other.frac_coords).all()
    ):
        return bool(np.array_equal(one.frac_coords, other.frac_coords, equal_nan=True))
    if all(
        np.array_equal(getattr(one, each.name), getattr(other, each.name))
        for each in dataclasses.fields(structure.Crystal)
    ):
        # Sites on one place too, which the search below takes for each other.
        return True
    apart = one.frac_coords[:, None] - other.frac_coords
    apart -= np.round(apart)
    lengths = np.linalg.norm(apart @ one.lattice, axis=-1)
    lengths[one.atomic_numbers[:, None] != other.atomic_numbers] = np.inf
    nearest = lengths.argmin(axis=1)
    return len(set(nearest.tolist())) == len(nearest) and bool(
        lengths.min(axis=1).max() < 2e-3
    )


def same_items(one: Items, other: Items) -> bool:
    """Whether two readings agree; reasons of refusals may differ."""
    if len(one) != len(other):
        return False
    for (_, left), (_, right) in zip(one, other, strict=True):
        refused = isinstance(left, Refused), isinstance(right, Refused)
        if any(refused):
            if not all(refused):
                return False
        elif not same_value(left, right):
            return False
    return True


__all__ = ["USER_ERRORS", "Kind", "Refused", "build", "same_items", "same_value"]
