"""Options → the source of the records, whichever it is."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from crystaljax.data.readers import csv_rows, pages
from crystaljax.data.sources import (
    aflow,
    aflow_csv,
    ase_db,
    cif_csv,
    entries_json,
    extxyz,
    folder,
    optimade,
    record,
)
from crystaljax.system import errors
from crystaljax.system import options as options_lib

# Sources that make their records, ask a service.
_MAKERS = ("builtin", "emt", "prototypes")
SERVICES = ("aflow", "optimade")
# What they keep beside the output, unless `cache=` names a folder.
KEPT = {"aflow": "download", "optimade": "download", "prototypes": "relaxed"}
_RANGE = re.compile(r"\s*([0-9]{1,9})\s*(?::\s*([0-9]{1,9})\s*)?")

_COLUMNS = {
    "input": "path",
    "energy_column": "energy_column",
    "space_group_column": "space_group_column",
    "id_column": "id_column",
}
_KEYS = {
    "input": "path",
    "energy_column": "energy_key",
    "space_group_column": "space_group_key",
    "id_column": "id_key",
}
_LABELS = {"labels": "labels"}
_SERVICE = {"cache": "cache", "verify_tls": "verify_tls"}

# Of each source what makes it, and which of its fields the options set.
_SOURCES: dict[str, tuple[Callable[..., record.Source] | None, dict[str, str]]] = {
    "builtin": (None, {}),
    "emt": (None, {"num_structures": "num_structures"}),
    "prototypes": (
        None,
        {
            each: each
            for each in ("calculator", "num_structures", "species", "natoms", "cache")
        },
    ),
    "cif_csv": (cif_csv.CifCsv, _COLUMNS),
    "aflow_csv": (aflow_csv.AflowCsv, _COLUMNS),
    "extxyz": (extxyz.ExtXyz, _KEYS),
    "ase_db": (ase_db.AseDb, _KEYS),
    "entries_json": (entries_json.EntriesJson, _KEYS | _LABELS),
    "folder": (folder.Folder, _COLUMNS | _LABELS),
    "aflow": (
        aflow.Aflow,
        _SERVICE
        | {
            "species": "species",
            "natoms": "natoms",
            "nspecies": "nspecies",
            "functionals": "functionals",
            "allow_hubbard_u": "allow_hubbard_u",
            "server": "server",
            "page_size": "page_size",
        },
    ),
    "optimade": (
        optimade.Optimade,
        _SERVICE
        | {
            "energy_column": "energy_property",
            "space_group_column": "space_group_property",
            "filter": "filter",
            "server": "base_url",
            "page_size": "page_limit",
        },
    ),
}
SOURCES = tuple(_SOURCES)


def parse_range(text: str) -> tuple[int, int]:
    """Text such as "4:60", or one number, → the least and the greatest.

    Raises:
        UserError: neither.
    """
    match = _RANGE.fullmatch(text)
    if match is None:
        raise errors.UserError(
            f"{text} is no range; expected one such as 4:60, or one number"
        )
    least, most = match.groups()
    return int(least), int(most or least)


@options_lib.frozen
class SourceOptions:
    """Where the structures come from; None: as the source has it."""

    source: str = options_lib.option("Where the structures come from.", choices=SOURCES)
    input: str | None = options_lib.option(
        "File to read (gzip, bzip2 and xz too), or folder or archive.", default=None
    )
    labels: str | None = options_lib.option(
        "CSV with energies by id, for folder and entries_json.", default=None
    )
    energy_column: str | None = options_lib.option(
        "Column, key or property of the formation energy, eV/atom.", default=None
    )
    space_group_column: str | None = options_lib.option(
        "Column, key or property of the space-group number; found by spglib where "
        "neither this nor the source says it.",
        default=None,
    )
    id_column: str | None = options_lib.option(
        "Column or key of the structure's name.", default=None
    )
    species: tuple[str, ...] | None = options_lib.option(
        "aflow, prototypes: elements that structures are made of, as W,B,Ta.",
        default=None,
    )
    natoms: tuple[int, int] | None = options_lib.option(
        "aflow, prototypes: atoms per cell, as 4:60, the default of aflow (prototypes: "
        "2:20).",
        default=None,
        parse=parse_range,
    )
    nspecies: tuple[int, int] | None = options_lib.option(
        "aflow: number of elements, as 2:4.", default=None, parse=parse_range
    )
    functionals: tuple[str, ...] | None = options_lib.option(
        "aflow: values of dft_type to keep; PAW_PBE if not given.", default=None
    )
    allow_hubbard_u: bool | None = options_lib.option(
        "aflow: keep what was computed with a Hubbard U.", default=None
    )
    filter: str | None = options_lib.option(
        "optimade: what to ask for, in its filter language.", default=None
    )
    server: str | None = options_lib.option(
        "optimade: oqmd, alexandria, mp or an address; aflow: address.", default=None
    )
    page_size: int | None = options_lib.option(
        "aflow, optimade: entries requested at once.", default=None, lower=1
    )
    verify_tls: bool | None = options_lib.option(
        "aflow, optimade: check the server's certificate.", default=None
    )
    cache: str | None = options_lib.option(
        "aflow, optimade: keeps pages; OUTPUT.download if not given. prototypes: "
        "keeps relaxed crystals; OUTPUT.relaxed if not given.",
        default=None,
    )
    calculator: str | None = options_lib.option(
        "prototypes: what relaxes them, as of screen: sevenn:7net-0, emt and others.",
        default=None,
    )
    num_structures: int | None = options_lib.option(
        "How many to make; all if not given (emt), about 1000 (prototypes).",
        default=None,
        lower=1,
    )
    num_workers: int | None = options_lib.option(
        "Processes; all CPUs if not given.", default=None, lower=1
    )
    seed: int = options_lib.option(
        "Of the split, and of structures that are made.", default=0
    )


def build_source(
    options: SourceOptions, *, show_progress: bool = False
) -> record.Source:
    """Options → where the records come from.

    Raises:
        ValueError: the source is unknown, or an option it needs is missing, wrong or
            not one of this source.
    """
    name = options.source
    if name not in _SOURCES:
        raise errors.UserError(f"unknown source {name!r}; expected one of {SOURCES}")
    build, fields = _SOURCES[name]
    given = {
        option: getattr(options, option)
        for option in _all_options()
        if getattr(options, option) is not None
    }
    unused = [option for option in given if option not in fields]
    if unused:
        raise errors.UserError(
            f"--source={name} does not use {', '.join(f'--{each}' for each in unused)}"
            f"; it uses: {', '.join(f'--{each}' for each in fields) or 'none of these'}"
        )
    if name == "prototypes":
        return _build_decorated(options, given, show_progress)
    if build is None:
        return _build_emt_source(options)
    _require_needed(name, given)
    if name == "entries_json" and "labels" in given:
        fields = _COLUMNS | _LABELS
    values = {fields[option]: value for option, value in given.items()}
    if name in SERVICES:
        values["show_progress"] = show_progress
        verify = values.pop("verify_tls", True)
        values["manners"] = pages.Manners(verify_tls=verify)
    return build(**values)


def depends_on_seed(options: SourceOptions) -> bool:
    """Whether another seed gives other records."""
    return options.source in _MAKERS


def _all_options() -> list[str]:
    options = dict.fromkeys(
        option for _, fields in _SOURCES.values() for option in fields
    )
    return list(options)


def _require_needed(name: str, given: dict[str, Any]) -> None:
    """Raises ValueError where an option is missing that the source needs."""
    if name in SERVICES:
        if "cache" not in given:
            raise errors.UserError(
                f"--source={name} keeps what it downloads; give --cache"
            )
        if name == "optimade" and "server" not in given:
            raise errors.UserError(
                "--source=optimade needs --server: one of "
                f"{', '.join(optimade.PROVIDERS)}, or the address of another provider"
            )
        return
    if "input" not in given:
        raise errors.UserError(f"--source={name} reads a file; give it with --input")
    if name == "folder" and "labels" not in given:
        raise errors.UserError(
            "--source=folder needs --labels, a CSV with the formation energy of each "
            "file"
        )
    if name in ("cif_csv", "extxyz", "ase_db") and "energy_column" not in given:
        message = (
            f"--source={name} needs --energy_column, the column or key with the "
            "formation energy in eV/atom"
        )
        if name == "cif_csv":
            header = ", ".join(csv_rows.read_header(given["input"]))
            message += f"; {given['input']} has the columns: {header}"
        raise errors.UserError(message)


@dataclasses.dataclass(frozen=True)
class RecordSource:
    """Records that are made, not parsed; rows are the records themselves.

    Attributes:
        make_records: gives the records, and failures to be counted.
        provenance: what `describe` gives.
    """

    make_records: Callable[[], Iterable[record.Record | record.Failure]]
    provenance: dict[str, Any]

    def read_rows(self) -> Iterator[record.Record | record.Failure]:
        """See `record.Source`."""
        yield from self.make_records()

    parse_row = staticmethod(record.as_it_is)

    def describe(self) -> dict[str, Any]:
        """See `record.Source`."""
        return self.provenance


def _build_decorated(
    options: SourceOptions, given: dict[str, Any], show_progress: bool
) -> record.Source:
    for option, reason in (
        ("calculator", "relaxes what it makes; name a potential with --calculator"),
        ("cache", "keeps what it has relaxed; give --cache"),
    ):
        if option not in given:
            raise errors.UserError(f"--source=prototypes {reason}")
    # It brings JAX.
    from crystaljax.data.sources import decorated

    return decorated.Decorated(**given, seed=options.seed, show_progress=show_progress)


def _build_emt_source(options: SourceOptions) -> RecordSource:
    # ASE's EMT and the prototypes are needed by these two sources only.
    from crystaljax.data.sources import emt
    from crystaljax.relaxation import calculators

    if options.source == "builtin":
        made = {"source": "builtin", **emt.load_metadata()}
        return RecordSource(emt.load_builtin, made)

    def generate() -> Iterator[record.Record | record.Failure]:
        generated = emt.generate(
            options.num_structures,
            seed=options.seed,
            num_workers=options.num_workers,
            description="relax",
        )
        yield from generated.records
        for reason, count in generated.num_dropped.items():
            yield from [record.Failure("", reason)] * count

    made = {
        "source": "emt",
        "energy_model": calculators.energy_model(emt.CALCULATOR),
        "seed": options.seed,
    }
    return RecordSource(generate, made | {"num_structures": options.num_structures})
