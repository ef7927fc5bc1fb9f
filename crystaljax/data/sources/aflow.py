"""AFLOW over the network: its search API AFLUX, page by page.

What is requested is a *summons*: keywords that select entries and name the properties
wanted, then directives for paging and format (Rose et al., Computational Materials
Science 137, 362, 2017; doi:10.1016/j.commatsci.2017.04.036).
"""

import dataclasses
import functools
import itertools
import math
import os
import pathlib
import re
import urllib.parse
from collections.abc import Iterator
from typing import Any

import numpy as np

from crystaljax.crystals import elements, structure
from crystaljax.data.readers import pages
from crystaljax.data.sources import record
from crystaljax.system import errors

SERVER = "https://aflow.org/API/aflux/"
ID_KEYWORD = "auid"
ENERGY_KEYWORD = "enthalpy_formation_atom"
SPACE_GROUP_KEYWORD = "spacegroup_relax"

# With more chemical systems than this, asking for each costs the server more than the
# entries that are sent in vain when all are requested at once.
_MAX_SYSTEMS = 200
_NUMBERED_KEY = re.compile(r"([0-9]+) of ([0-9]+)")
# What has a meaning in AFLUX; all of it may stand in a URL as it is.
_OPERATORS = "(),*:$!"


@dataclasses.dataclass(frozen=True)
class Aflow:
    """Entries of AFLOW with structure and formation energy, relaxed cell.

    Everything is downloaded before the first row is read. Pages are kept in ``cache``:
    an interrupted download goes on, and a complete one is read from disk alone, so what
    AFLOW gained since is seen with a new cache directory only.

    A page with fewer entries than requested is either the last one or a fault of the
    server, which can be of short breath. It is taken for the last one only when it
    comes again in the same way and the page after it is empty.

    Attributes:
        cache: directory for the pages.
        species: elements; entries are those made of no others, the elements themselves
            and all systems of several of them included. All of AFLOW if empty. (AFLUX
            gives entries that hold *all* of some elements, so every chemical system is
            requested by itself, or, where they are many, whatever holds *any* of the
            elements; a rule then drops what holds others too.)
        natoms: fewest and most atoms of the cell; any number if None.
        nspecies: fewest and most elements; any number if None.
        page_size: entries requested at once. Large pages make the server give up.
        functionals: values of ``dft_type`` that are wanted; others are dropped.
        allow_hubbard_u: keep entries that were computed with a Hubbard U.
        server: address of AFLUX.
        manners: how the server is asked.
        show_progress: of the download.
    """

    cache: str | os.PathLike
    species: tuple[str, ...] = ()
    natoms: tuple[int, int] | None = (4, 60)
    nspecies: tuple[int, int] | None = None
    page_size: int = 500
    functionals: tuple[str, ...] = ("PAW_PBE",)
    allow_hubbard_u: bool = False
    server: str = SERVER
    manners: pages.Manners = pages.DEFAULT_MANNERS
    show_progress: bool = False

    def __post_init__(self):
        for symbol in self.species:
            elements.atomic_number(symbol)
        for name in ("natoms", "nspecies"):
            _require_range(name, getattr(self, name))
        if self.nspecies and self.species and self.nspecies[0] > len(set(self.species)):
            raise errors.UserError(
                f"nspecies is {self.nspecies}, but species are only "
                f"{', '.join(self.species)}; name more elements or lower nspecies"
            )
        if self.page_size < 1:
            # 0 would ask for everything in one page, a negative number for the end.
            raise errors.UserError(f"page_size is {self.page_size}; expected 1 or more")
        if not self.functionals:
            raise errors.UserError(
                "functionals are empty; expected some, such as 'PAW_PBE'"
            )
        pages.require_http(self.server)

    def read_rows(self) -> Iterator[dict[str, Any] | record.Failure]:
        """Yields entries; a failure for one that was there before.

        Raises:
            ValueError: a page could not be downloaded; earlier pages are kept.
        """
        cache = pages.PageCache(pathlib.Path(self.cache))
        cache.open(self._query())
        session = pages.Session(self.manners, cache)
        yield from pages.distinct_rows(
            lambda: self._read_pages(cache, session), ID_KEYWORD, self.show_progress
        )

    def parse_row(
        self, row: dict[str, Any] | record.Failure
    ) -> record.Record | record.Failure:
        """See `record.Source`."""
        if isinstance(row, record.Failure):
            return row
        id = row.get(ID_KEYWORD)
        if not isinstance(id, str) or not id:
            return record.Failure("", "entry without auid")
        broken = self._find_broken_rule(row)
        if broken is not None:
            reason, detail = broken
            return record.Failure(id, reason, detail, is_rule=True)
        energy = row.get(ENERGY_KEYWORD)
        return record.build_record(
            id,
            functools.partial(parse_crystal, row),
            row.get(SPACE_GROUP_KEYWORD),
            # None would say that AFLOW has no formation energies.
            "missing" if energy is None else energy,
        )

    def describe(self) -> dict[str, Any]:
        """See `record.Source`; complete after the download."""
        options = dataclasses.asdict(self) | {
            "cache": str(self.cache),
            "verify_tls": self.manners.verify_tls,
        }
        del options["manners"], options["show_progress"]
        matchbooks = self._matchbooks()
        names = [name.replace("PAW_PBE", "PBE") for name in self.functionals]
        if self.allow_hubbard_u:
            names += [f"{name}+U" for name in names]
        return {
            "source": "aflow",
            "energy_model": f"AFLOW ({', '.join(names)})",
            **options,
            "summons": self._summons(matchbooks[0], 1),
            "num_queries": len(matchbooks),
            **pages.PageCache(pathlib.Path(self.cache)).describe(),
        }

    # ----------------------------------------------------------------------- asking

    def _query(self) -> dict[str, Any]:
        return {
            "source": "aflow",
            "server": self.server,
            "page_size": self.page_size,
            "matchbooks": self._matchbooks(),
        }

    def _matchbooks(self) -> list[str]:
        """What to ask for, without the paging; each answer has pages of its own."""
        return [
            ",".join(
                [
                    # Answers are sorted by the first keyword.
                    ID_KEYWORD,
                    *system,
                    _range("natoms", self.natoms),
                    f"{ENERGY_KEYWORD}(*)",
                    "composition",
                    "geometry(*)",
                    "positions_fractional(*)",
                    SPACE_GROUP_KEYWORD,
                    "dft_type",
                    "ldau_type",
                    "ldau_TLUJ",
                ]
            )
            for system in self._systems()
        ]

    def _systems(self) -> list[tuple[str, ...]]:
        names = sorted(set(self.species))
        if not names:
            limits = [_range("nspecies", self.nspecies)] if self.nspecies else []
            return [("species", *limits)]
        fewest, most = self.nspecies or (1, len(names))
        sizes = range(fewest, min(most, len(names)) + 1)
        if sum(math.comb(len(names), size) for size in sizes) > _MAX_SYSTEMS:
            limits = (fewest, min(most, len(names)))
            return [(f"species(({':'.join(names)}))", _range("nspecies", limits))]
        return [
            (f"species({','.join(system)})", f"nspecies({size})")
            for size in sizes
            for system in itertools.combinations(names, size)
        ]

    def _summons(self, matchbook: str, number: int) -> str:
        return f"{matchbook},$paging({number},{self.page_size}),format(json)"

    def _url(self, matchbook: str, number: int) -> str:
        summons = self._summons(matchbook, number)
        return f"{self.server}?{urllib.parse.quote(summons, safe=_OPERATORS)}"

    def _read_pages(
        self, cache: pages.PageCache, session: pages.Session
    ) -> Iterator[list[dict[str, Any]]]:
        """Entries of every page, from the cache or else the server."""
        for index, matchbook in enumerate(self._matchbooks(), start=1):
            before: list[dict[str, Any]] = []
            for number in itertools.count(1):
                name = f"query_{index:04d}_page_{number:05d}"
                page = cache.read(name)
                if page is None:
                    rows, is_last = self._ask(session, matchbook, number, before)
                    page = {
                        "url": self._url(matchbook, number),
                        "is_last": is_last,
                        "rows": rows,
                    }
                    cache.write(name, page)
                yield page["rows"]
                if page["is_last"]:
                    break
                before = page["rows"]

    def _ask(
        self,
        session: pages.Session,
        matchbook: str,
        number: int,
        before: list[dict[str, Any]],
    ) -> tuple[list[dict[str, Any]], bool]:
        """Asks for a page → its entries, and whether it is the last one."""

        def fetch(wanted: int) -> tuple[list[dict[str, Any]], int | None]:
            return session.fetch(
                self._url(matchbook, wanted),
                functools.partial(self._parse_expected, wanted, before),
            )

        rows, total = fetch(number)
        for _ in range(self.manners.max_attempts + 1):
            if total is not None:
                # Then the number of entries was checked.
                return rows, number * self.page_size >= total
            if len(rows) == self.page_size:
                return rows, False
            again, total = fetch(number)
            if total is not None or len(again) == self.page_size:
                rows = again
                continue
            following, _ = fetch(number + 1)
            if _ids(again) == _ids(rows) and not following:
                return again, True
            rows = again if len(again) >= len(rows) else rows
        raise session.give_up(
            self._url(matchbook, number),
            f"{len(rows)} entries of {self.page_size} requested, though it is not the "
            "last page or came in different ways; a smaller page_size may help",
        )

    def _parse_expected(
        self, number: int, before: list[dict[str, Any]], body: bytes
    ) -> tuple[list[dict[str, Any]], int | None]:
        """`parse_page`, and refuses what cannot be this page."""
        rows, total = parse_page(body)
        if len(rows) > self.page_size:
            raise pages.PageError(
                f"{len(rows)} entries in a page of {self.page_size}", is_final=True
            )
        if total is not None:
            left = total - (number - 1) * self.page_size
            expected = min(max(left, 0), self.page_size)
            if len(rows) != expected:
                raise pages.PageError(
                    f"{len(rows)} entries in a page that should have {expected}"
                )
        if rows and _ids(rows) == _ids(before):
            raise pages.PageError("the same entries as in the page before")
        return rows, total

    # ---------------------------------------------------------------------- reading

    def _find_broken_rule(self, row: dict[str, Any]) -> tuple[str, str] | None:
        """Reason and detail, if the entry is not among those that are wanted."""
        found = row.get("dft_type")
        try:
            functionals = _parse_names(found)
        except ValueError:
            functionals = ()
        if not functionals or not set(functionals) <= set(self.functionals):
            wanted = " or ".join(self.functionals)
            return f"functional is not {wanted}", f"dft_type {pages.shorten(found)}"
        if not self.allow_hubbard_u:
            for name in ("ldau_type", "ldau_TLUJ"):
                if row.get(name) not in (None, 0, "0", "", []):
                    return "Hubbard U", f"{name} {pages.shorten(row[name])}"
        if self.species:
            try:
                others = set(_parse_names(row.get("species"))) - set(self.species)
            except ValueError:
                # No rule was broken: reading the crystal will fail.
                return None
            if others:
                return "element not among the species requested", ", ".join(others)
        return None


def parse_page(body: bytes) -> tuple[list[dict[str, Any]], int | None]:
    """Body of an answer → its entries in order, and how many there are in all.

    Muted paging gives a list. The other form is an object with keys "i of N", which
    alone says how many there are; it is None for a list.

    Raises:
        PageError: it is neither: ``DB Fail!null``, an error as JSON, half a page.
    """
    value = pages.parse_json(body)
    total = None
    if isinstance(value, dict):
        matches = [_NUMBERED_KEY.fullmatch(key) for key in value]
        numbers = [(int(m[1]), int(m[2])) for m in matches if m is not None]
        if len(numbers) < len(value) or len({last for _, last in numbers}) > 1:
            raise pages.PageError(f"not a page of entries: {pages.shorten(value)}")
        total = numbers[0][1] if numbers else None
        order = sorted(zip(numbers, value.values(), strict=True), key=lambda x: x[0])
        value = [row for _, row in order]
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise pages.PageError(f"not a page of entries: {pages.shorten(value)}")
    return value, total


def parse_crystal(row: dict[str, Any]) -> structure.Crystal:
    """Properties of an entry → crystal.

    Lists may be JSON or text, ``"a,b;c,d"``, as AFLOW's files have them.

    Raises:
        ValueError: one is missing or malformed, or they contradict each other.
    """
    species = _parse_names(row.get("species"))
    counts = np.atleast_1d(_parse_numbers(row, "composition"))
    positions = np.atleast_2d(_parse_numbers(row, "positions_fractional"))
    parameters = _parse_numbers(row, "geometry")
    if counts.shape != (len(species),) or np.any((counts < 1) | (counts % 1 != 0)):
        raise errors.UserError(
            f"composition {counts.tolist()} of {', '.join(species)}; expected a "
            "positive integer for each"
        )
    num_sites = counts.sum()
    if positions.shape != (num_sites, 3):
        raise errors.UserError(
            f"positions of shape {positions.shape} for the composition "
            f"{counts.tolist()}; expected ({num_sites:.0f}, 3)"
        )
    if row.get("natoms") is not None and np.any(
        _parse_numbers(row, "natoms") != num_sites
    ):
        raise errors.UserError(
            f"natoms {pages.shorten(row['natoms'])} for {num_sites:.0f} sites"
        )
    if parameters.shape != (6,):
        raise errors.UserError(f"geometry {parameters.tolist()}; expected six numbers")
    numbers = [elements.atomic_number(symbol) for symbol in species]
    return structure.Crystal(
        atomic_numbers=np.repeat(numbers, counts.astype(int)),
        frac_coords=positions,
        lattice=structure.lattice_from_parameters(parameters),
    )


def _parse_names(value: object) -> tuple[str, ...]:
    names = value.split(",") if isinstance(value, str) else value
    if (
        not isinstance(names, list)
        or not names
        or not all(isinstance(name, str) for name in names)
    ):
        raise errors.UserError(f"{pages.shorten(value)} is not a list of names")
    return tuple(name.strip() for name in names)


def _parse_numbers(row: dict[str, Any], name: str) -> np.ndarray:
    value = row.get(name)
    try:
        if isinstance(value, str):
            lines = [line.split(",") for line in value.split(";")]
            value = lines if len(lines) > 1 else lines[0]
        numbers = np.array(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise errors.UserError(
            f"{name} {pages.shorten(value)} is not numbers"
        ) from error
    if not np.all(np.isfinite(numbers)):
        raise errors.UserError(
            f"{name} {pages.shorten(value)} has numbers that are not finite"
        )
    return numbers


def _range(name: str, limits: tuple[int, int] | None) -> str:
    if limits is None:
        return name
    fewest, most = limits
    return f"{name}({fewest})" if fewest == most else f"{name}({fewest}*,*{most})"


def _require_range(name: str, limits: tuple[int, int] | None) -> None:
    if limits is not None and not 1 <= limits[0] <= limits[1]:
        raise errors.UserError(f"{name} is {limits}; expected the fewest and the most")


def _ids(rows: list[dict[str, Any]]) -> list[Any]:
    return [row.get(ID_KEYWORD) for row in rows]
