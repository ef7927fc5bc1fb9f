"""Structures of any data base that speaks OPTIMADE, page by page.

OPTIMADE (https://www.optimade.org, version 1) has one form for structures and a filter
language; formation energies and space groups are properties of each data base, whose
names begin with an underscore.
"""

import contextlib
import dataclasses
import functools
import os
import pathlib
import re
import string
import urllib.parse
from collections.abc import Iterator
from typing import Any

import numpy as np
import spglib

from crystaljax.crystals import (
    elements,
    space_groups,
    stated_formulas,
    structure,
)
from crystaljax.data.readers import pages
from crystaljax.data.sources import record
from crystaljax.system import errors

# Servers leave out what was not requested, positions among it.
_STRUCTURE_FIELDS = (
    "lattice_vectors",
    "cartesian_site_positions",
    "species_at_sites",
    "species",
    "nperiodic_dimensions",
    "structure_features",
)
# Sites without positions, without one element, or with atoms attached to them.
_REFUSED_FEATURES = ("assemblies", "disorder", "implicit_atoms", "site_attachments")
_VERSIONED = re.compile(r".*/v[0-9]+(\.[0-9]+)*")
_NUM_HALL_SYMBOLS = 530
_MONOCLINIC = range(3, 16)


@dataclasses.dataclass(frozen=True)
class Provider:
    """Where a data base is, and what it calls its properties.

    Attributes:
        base_url: of its OPTIMADE service.
        energy_property: formation energy, eV/atom; see `Optimade`.
        space_group_property: see `Optimade`; "" where there is none.
        energy_model: what the energies were computed with.
    """

    base_url: str
    energy_property: str
    space_group_property: str
    energy_model: str


PROVIDERS = {
    "alexandria": Provider(
        "https://alexandria.icams.rub.de/pbe",
        "_alexandria_formation_energy_per_atom",
        "_alexandria_space_group",
        "Alexandria (PBE)",
    ),
    "mp": Provider(
        "https://optimade.materialsproject.org",
        "_mp_stability.gga_gga+u.formation_energy_per_atom",
        "",
        "Materials Project (PBE, PBE+U)",
    ),
    "oqmd": Provider(
        "https://oqmd.org/optimade",
        "_oqmd_delta_e",
        "_oqmd_spacegroup",
        "OQMD (PBE)",
    ),
}


@dataclasses.dataclass(frozen=True)
class Optimade:
    """Structures that a filter selects from one data base.

    Everything is downloaded before the first row is read. Pages are kept in ``cache``:
    an interrupted download goes on, and a complete one is read from disk alone.

    Attributes:
        base_url: of the service, or the name of one in ``PROVIDERS``.
        cache: directory for the pages.
        filter: in OPTIMADE's language, such as
            ``elements HAS ONLY "W","B","Ta" AND nsites<=20``; everything if empty.
        energy_property: name of the formation energy, eV/atom; a path with dots where
            it is inside of another. None: what the provider is known to have.
        space_group_property: name (or path) of the space group, a number or a
            Hermann-Mauguin symbol; "" to have it found from the structure. None: what
            the provider is known to have.
        page_limit: structures requested at once; the server may send fewer.
        manners: how the server is asked.
        show_progress: of the download.
    """

    base_url: str
    cache: str | os.PathLike
    filter: str = ""
    energy_property: str | None = None
    space_group_property: str | None = None
    page_limit: int = 100
    manners: pages.Manners = pages.DEFAULT_MANNERS
    show_progress: bool = False

    def __post_init__(self):
        if self.base_url not in PROVIDERS:
            try:
                pages.require_http(self.base_url)
            except ValueError as error:
                raise errors.UserError(
                    f"unknown provider {self.base_url!r}; expected one of "
                    f"{tuple(PROVIDERS)}, or the URL of an OPTIMADE service"
                ) from error
            if self.energy_property is None:
                raise errors.UserError(
                    f"{self.base_url} needs energy_property, the name of its formation "
                    f"energy; {self.base_url}/v1/info/structures lists its properties"
                )
        if self.page_limit < 1:
            raise errors.UserError(
                f"page_limit is {self.page_limit}; expected 1 or more"
            )

    def read_rows(self) -> Iterator[dict[str, Any] | record.Failure]:
        """Yields structures; a failure for one that was there before.

        Raises:
            ValueError: a page could not be downloaded; earlier pages are kept.
        """
        cache = pages.PageCache(pathlib.Path(self.cache))
        cache.open({"source": "optimade", "url": self._first_url()})
        session = pages.Session(self.manners, cache)
        yield from pages.distinct_rows(
            lambda: self._read_pages(cache, session), "id", self.show_progress
        )

    def parse_row(
        self, row: dict[str, Any] | record.Failure
    ) -> record.Record | record.Failure:
        """See `record.Source`."""
        if isinstance(row, record.Failure):
            return row
        id = str(row.get("id"))
        attributes = row.get("attributes")
        if not isinstance(attributes, dict):
            return record.Failure(id, "structure without attributes")
        energy = _find(attributes, self._property("energy_property"))
        space_group = _find(attributes, self._property("space_group_property"))
        try:
            number = None if space_group is None else parse_space_group(space_group)
        except ValueError as error:
            reason = "space group missing or not in 1-230"
            return record.Failure(id, reason, str(error))
        return record.build_record(
            id,
            functools.partial(parse_crystal, attributes),
            number,
            # None would say that the data base has no formation energies.
            "missing" if energy is None else energy,
        )

    def describe(self) -> dict[str, Any]:
        """See `record.Source`; complete after the download."""
        provider = PROVIDERS.get(self.base_url)
        return {
            "source": "optimade",
            "energy_model": provider and provider.energy_model,
            "base_url": self.base_url,
            "url": self._first_url(),
            "cache": str(self.cache),
            "filter": self.filter,
            "energy_property": self._property("energy_property"),
            "space_group_property": self._property("space_group_property"),
            "page_limit": self.page_limit,
            "verify_tls": self.manners.verify_tls,
            **pages.PageCache(pathlib.Path(self.cache)).describe(),
        }

    def _property(self, name: str) -> str:
        """The option, or what the provider has in its place."""
        given = getattr(self, name)
        if given is not None or self.base_url not in PROVIDERS:
            return given or ""
        return getattr(PROVIDERS[self.base_url], name)

    def _first_url(self) -> str:
        provider = PROVIDERS.get(self.base_url)
        base = (provider.base_url if provider else self.base_url).rstrip("/")
        if not _VERSIONED.fullmatch(base):
            base += "/v1"
        properties = [
            self._property(name).partition(".")[0]
            for name in ("energy_property", "space_group_property")
        ]
        fields = [*_STRUCTURE_FIELDS, *filter(None, properties)]
        options = {
            "filter": self.filter,
            "response_fields": ",".join(dict.fromkeys(fields)),
            "page_limit": str(self.page_limit),
        }
        if not self.filter:
            del options["filter"]
        quoted = urllib.parse.urlencode(options, quote_via=urllib.parse.quote, safe=",")
        return f"{base}/structures?{quoted}"

    def _read_pages(
        self, cache: pages.PageCache, session: pages.Session
    ) -> Iterator[list[dict[str, Any]]]:
        """Structures of every page, from the cache or else the server."""
        url: str | None = self._first_url()
        asked: set[str] = set()
        while url is not None:
            asked.add(url)
            name = f"page_{len(asked):06d}"
            page = cache.read(name)
            if page is None:
                parse_fn = functools.partial(parse_page, url, frozenset(asked))
                rows, following = session.fetch(url, parse_fn)
                page = {"url": url, "next": following, "rows": rows}
                cache.write(name, page)
            yield page["rows"]
            url = page["next"]


def parse_page(
    url: str, asked: frozenset[str], body: bytes
) -> tuple[list[dict[str, Any]], str | None]:
    """Body of an answer → its structures, and the URL of the next page if there is one.

    Args:
        url: what was requested.
        asked: URLs of this page and those before, to which no link may lead back.
        body: of the answer.

    Raises:
        PageError: it is no page of structures, or leads nowhere.
    """
    value = pages.parse_json(body)
    rows = value.get("data") if isinstance(value, dict) else None
    if not isinstance(rows, list) or value.get("errors"):
        raise pages.PageError(f"not a page of structures: {pages.shorten(value)}")
    if not all(isinstance(row, dict) and "id" in row for row in rows):
        raise pages.PageError("a structure of the page is no object with an id")
    following = _next_url(url, value)
    if following in asked:
        raise pages.PageError(f"its link to the next page leads back to {following}")
    kept = [{name: row.get(name) for name in ("id", "attributes")} for row in rows]
    return kept, following


def _next_url(url: str, page: dict[str, Any]) -> str | None:
    links, meta = page.get("links"), page.get("meta")
    link = links.get("next") if isinstance(links, dict) else None
    if isinstance(link, dict):
        link = link.get("href")
    if not link:
        if isinstance(meta, dict) and meta.get("more_data_available") is True:
            raise pages.PageError("more data are said to follow, but there is no link")
        return None
    if not isinstance(link, str):
        raise pages.PageError(f"not a link to a next page: {pages.shorten(link)}")
    try:
        # Links can be relative, or hold blanks and quotes of the filter.
        link = urllib.parse.quote(
            urllib.parse.urljoin(url, link), safe=string.punctuation
        )
        pages.require_http(link)
    except ValueError as error:
        raise pages.PageError(f"link to the next page: {error}") from error
    # Servers behind a proxy give their own address without TLS.
    secure = "https" + link.removeprefix("http")
    same_host = urllib.parse.urlsplit(url).netloc == urllib.parse.urlsplit(link).netloc
    downgraded = url.startswith("https:") and link.startswith("http:")
    return secure if downgraded and same_host else link


def parse_crystal(attributes: dict[str, Any]) -> structure.Crystal:
    """Attributes of a structure → crystal.

    Raises:
        ValueError: it is not periodic in three directions, not every site holds one
            atom of one element, or an attribute is missing or malformed.
    """
    dimensions = attributes.get("nperiodic_dimensions")
    if dimensions not in (None, 3):
        raise errors.UserError(f"nperiodic_dimensions is {dimensions}; expected 3")
    features = attributes.get("structure_features")
    refused = [
        name
        for name in _REFUSED_FEATURES
        if isinstance(features, list) and name in features
    ]
    if refused:
        raise errors.UserError(f"the structure has {', '.join(refused)}")
    lattice = _parse_vectors(attributes, "lattice_vectors")
    positions = _parse_vectors(attributes, "cartesian_site_positions")
    if len(lattice) != 3:
        raise errors.UserError(f"{len(lattice)} lattice vectors; expected 3")
    names = attributes.get("species_at_sites")
    if not isinstance(names, list) or not names or len(names) != len(positions):
        raise errors.UserError(
            f"species_at_sites {pages.shorten(names)} for {len(positions)} positions"
        )
    known = _parse_species(attributes.get("species"))
    # A name that is not described is a symbol.
    symbols = [known.get(str(name), str(name)) for name in names]
    try:
        frac_coords = np.linalg.solve(lattice.T, positions.T).T
    except np.linalg.LinAlgError as error:
        raise errors.UserError("lattice vectors that span no cell") from error
    if not np.all(np.isfinite(frac_coords)):
        raise errors.UserError("positions far outside of the cell")
    crystal = structure.Crystal(
        atomic_numbers=np.array([elements.atomic_number(name) for name in symbols]),
        frac_coords=frac_coords,
        lattice=lattice,
    )
    # Some servers send these unasked.
    stated_formulas.require_num_sites(attributes.get("nsites"), crystal)
    stated_formulas.require_formula(
        attributes.get("chemical_formula_reduced"), crystal.atomic_numbers
    )
    return crystal


def parse_space_group(value: object) -> int:
    """Number, or symbol in any setting → number, 1-230.

    Raises:
        ValueError: it is neither.
    """
    text = str(value).strip()
    if not text[:1].isalpha():
        return record.parse_space_group(value)
    # What follows a colon is the choice of axes or origin: "R-3m:H".
    symbol = text.partition(":")[0]
    return _parse_symbol(symbol)


@functools.lru_cache
def _parse_symbol(symbol: str) -> int:
    # A list of symbols, as a flag may hold it, is unknown here.
    with contextlib.suppress(ValueError):
        (number,) = space_groups.parse_space_groups(symbol)
        return number
    number = _settings().get("".join(symbol.split()).replace("_", ""))
    if number is None:
        raise errors.UserError(f"unknown space-group symbol {symbol[:80]!r}")
    return number


@functools.cache
def _settings() -> dict[str, int]:
    """Symbols of all settings, without blanks and underscores → numbers."""
    numbers: dict[str, int] = {}
    for hall_number in range(1, _NUM_HALL_SYMBOLS + 1):
        setting = spglib.get_spacegroup_type(hall_number)
        assert setting is not None
        # "P 2_1/c = P 1 1 2_1/b = P 2_1/b"
        symbols = [setting.international_full, *setting.international.split("=")]
        if setting.number in _MONOCLINIC:
            # "P 1 2_1/n 1" is written P2_1/n as a rule.
            symbols += [symbol.replace(" 1", "") for symbol in symbols]
        for symbol in [setting.international_short, *symbols]:
            key = "".join(symbol.split()).replace("_", "")
            numbers.setdefault(key, setting.number)
    return numbers


def _parse_species(value: object) -> dict[str, str]:
    """Names that sites refer to → symbols; what is no single atom is no symbol."""
    symbols: dict[str, str] = {}
    for entry in value if isinstance(value, list) else []:
        if not isinstance(entry, dict):
            raise errors.UserError(
                f"species {pages.shorten(entry)}; expected an object"
            )
        found = entry.get("chemical_symbols")
        concentration = entry.get("concentration", [1.0])
        if not (
            isinstance(found, list)
            and len(found) == 1
            and concentration in ([1], None)
            and not entry.get("attached")
        ):
            found = [f"{pages.shorten(found)} in shares {pages.shorten(concentration)}"]
        symbols[str(entry.get("name"))] = str(found[0])
    return symbols


def _parse_vectors(attributes: dict[str, Any], name: str) -> np.ndarray:
    value = attributes.get(name)
    try:
        vectors = np.array(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise errors.UserError(
            f"{name} {pages.shorten(value)} is not numbers"
        ) from error
    if vectors.ndim != 2 or vectors.shape[1] != 3 or not np.all(np.isfinite(vectors)):
        raise errors.UserError(
            f"{name} {pages.shorten(value)} is not a list of vectors"
        )
    return vectors


def _find(attributes: dict[str, Any], path: str) -> object:
    """The value at a path with dots; None if there is none."""
    value: Any = attributes
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value
