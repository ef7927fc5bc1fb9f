import json
import urllib.parse

import hypothesis
import numpy as np
import pytest
import sending
from aflux_server import LocalServer, break_answer
from hypothesis import strategies as st

from crystaljax.crystals import structure
from crystaljax.data.readers import pages
from crystaljax.data.sources import optimade, record

# Without a list of species: its names are symbols.
OQMD = {
    "id": 4066011,
    "type": "structures",
    "attributes": {
        "lattice_vectors": [
            [5.888766, 0.003766, 0.002265],
            [5.196412, 2.770356, 0.002265],
            [5.196412, 1.300429, 2.446174],
        ],
        "species_at_sites": ["Al", "Cu", "O", "O"],
        "cartesian_site_positions": [
            [8.1408, 2.03728, 1.22535],
            [0.0, 0.0, 0.0],
            [1.78326, 0.44627, 0.26842],
            [14.49833, 3.62828, 2.18229],
        ],
        "nperiodic_dimensions": 3,
        "_oqmd_delta_e": -1.5,
        "_oqmd_spacegroup": "R-3m",
    },
}
PEROVSKITE = {
    "lattice_vectors": [[4.0, 0, 0], [0.5, 4.0, 0], [0.25, 0.5, 4.0]],
    "cartesian_site_positions": [[0, 0, 0], [2.375, 2.25, 2.0], [0.5, 4.0, 0.0]],
    "species_at_sites": ["Ba1", "Ti", "O"],
    "species": [
        {"name": "Ba1", "chemical_symbols": ["Ba"], "concentration": [1.0]},
        {"name": "Ti", "chemical_symbols": ["Ti"], "concentration": [1]},
        {"name": "O", "chemical_symbols": ["O"], "concentration": [1.0]},
    ],
    "nperiodic_dimensions": 3,
    "structure_features": [],
    "_x_energy": {"scan": None, "pbe": {"per_atom": -0.5}},
    "_x_group": 1,
}


def select(attributes, fields):
    return {name: value for name, value in attributes.items() if name in fields}


class OptimadeServer(LocalServer):
    """Pages of structures.

    Attributes:
        script: by page number, faults that come first, one a request.
        link_fn: number of the next page and request → ``links.next``.
    """

    def __init__(self, rows, page_size=4):
        super().__init__()
        self.rows = rows
        self.page_size = page_size
        self.script = {}
        self.link_fn = lambda number, query: f"{self.url}/v1/structures?{query}"

    def answer(self, path):
        parts = urllib.parse.urlsplit(path)
        options = dict(urllib.parse.parse_qsl(parts.query))
        if parts.path != "/v1/structures" or "response_fields" not in options:
            return 404, b'{"errors": [{"detail": "no such endpoint"}]}', {}
        number = int(options.get("page_number", 1))
        self.counts[number] += 1
        fields = options["response_fields"].split(",")
        start = (number - 1) * self.page_size
        stop = start + self.page_size
        rows = [
            row
            | {
                "attributes": {
                    k: v for k, v in row["attributes"].items() if k in fields
                }
            }
            for row in self.rows[start:stop]
        ]
        following = None
        if stop < len(self.rows):
            query = urllib.parse.urlencode(options | {"page_number": number + 1})
            following = self.link_fn(number + 1, query)
        page = {
            "data": rows,
            "links": {"next": following},
            "meta": {"more_data_available": stop < len(self.rows)},
        }
        fault = self.script[number].pop(0) if self.script.get(number) else None
        if fault == "no link":
            page["links"] = {}
        if fault == "errors":
            page["errors"] = [{"detail": "busy"}]
        return break_answer(fault, json.dumps(page).encode())


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")


def make_rows(number):
    return [{"id": f"x-{i}", "attributes": PEROVSKITE} for i in range(number)]


@pytest.fixture
def server():
    with OptimadeServer(make_rows(22)) as running:
        yield running


MANNERS = {"min_interval": 0.0, "retry_wait": 0.0, "timeout": 10.0, "max_attempts": 3}


def patient(changed):
    """Options with those of `pages.Manners` in one, without waits."""
    manners = {name: changed.pop(name, value) for name, value in MANNERS.items()}
    return changed | {"manners": pages.Manners(**manners)}


def make_source(base_url, cache, **changed):
    options = {
        "energy_property": "_x_energy.pbe.per_atom",
        "space_group_property": "_x_group",
    }
    return optimade.Optimade(base_url, str(cache), **patient(options | changed))


def read(source):
    return [source.parse_row(row) for row in source.read_rows()]


def parse(attributes, **options):
    source = make_source("https://unused.org", "unused", **options)
    return source.parse_row({"id": "x", "attributes": attributes})


# --------------------------------------------------------------------------- download

LINKS = {
    "text": lambda server: lambda n, query: f"{server.url}/v1/structures?{query}",
    "object": lambda server: (
        lambda n, query: {"href": f"{server.url}/v1/structures?{query}", "meta": {}}
    ),
    "relative": lambda server: lambda n, query: f"/v1/structures?{query}",
    "blanks": lambda server: (
        lambda n, query: f"{server.url}/v1/structures?{urllib.parse.unquote(query)}"
    ),
}


@pytest.mark.parametrize("link", LINKS)
def test_all_pages_are_followed_and_kept(server, tmp_path, link):
    server.link_fn = LINKS[link](server)
    source = make_source(server.url, tmp_path, filter='elements HAS "Ba"', page_limit=4)
    found = read(source)
    assert [one.id for one in found] == [f"x-{i}" for i in range(22)]
    assert all(isinstance(one, record.Record) for one in found)
    first = urllib.parse.parse_qs(urllib.parse.urlsplit(server.paths[0]).query)
    assert first == {
        "filter": ['elements HAS "Ba"'],
        "response_fields": [
            "lattice_vectors,cartesian_site_positions,species_at_sites,species,"
            "nperiodic_dimensions,structure_features,_x_energy,_x_group"
        ],
        "page_limit": ["4"],
    }
    assert len(read(source)) == 22
    assert server.counts == dict.fromkeys(range(1, 7), 1)


def test_interrupted_download_goes_on(server, tmp_path):
    source = make_source(server.url, tmp_path, max_attempts=1)
    for num_requests in (1, 0, 3):
        server.is_down, server.requests_left = False, num_requests
        with pytest.raises(pages.DownloadError, match="same command again"):
            read(source)
    server.is_down, server.requests_left = False, None
    assert len(read(source)) == 22
    assert server.counts == dict.fromkeys(range(1, 7), 1)


@pytest.mark.parametrize(
    "fault", ["empty", "half json", "cut off", "503", "hang up", "no link", "errors"]
)
def test_fault_is_asked_again(server, tmp_path, fault):
    server.script = {3: [fault] * 2}
    assert len(read(make_source(server.url, tmp_path))) == 22
    assert server.counts[3] == 3
    server.script = {3: [fault] * 3}
    with pytest.raises(pages.DownloadError, match=r"attempt 3.*2 pages are kept"):
        read(make_source(server.url, tmp_path / "other"))


def test_damaged_page_is_asked_again(server, tmp_path):
    source = make_source(server.url, tmp_path)
    read(source)
    path = tmp_path / "page_000003.json.gz"
    path.write_bytes(path.read_bytes()[:-9])
    assert len(read(source)) == 22
    assert server.counts == dict.fromkeys(range(1, 7), 1) | {3: 2}


@pytest.mark.parametrize(
    "link, message",
    [
        ("file:///etc/passwd", "begins with https"),
        ("ftp://x/y", "begins with https"),
        ("http://[broken", "link to the next page"),
        (3, "not a link to a next page: 3"),
        ({"href": ["x"]}, "not a link to a next page"),
    ],
)
def test_bad_link_is_refused(server, tmp_path, link, message):
    server.link_fn = lambda number, query: link
    with pytest.raises(pages.DownloadError, match=message):
        read(make_source(server.url, tmp_path))


def test_link_that_leads_back_is_no_loop(server, tmp_path):
    server.link_fn = lambda number, query: server.paths[0]
    with pytest.raises(pages.DownloadError, match="leads back to"):
        read(make_source(server.url, tmp_path))


def test_link_without_tls_keeps_tls():
    def follow(url, link):
        body = json.dumps({"data": [], "links": {"next": link}}).encode()
        return optimade.parse_page(url, frozenset(), body)[1]

    assert follow("https://a.org/x", "http://a.org/y") == "https://a.org/y"
    assert follow("https://a.org/x", "http://b.org/y") == "http://b.org/y"
    assert follow("http://a.org/x", "http://a.org/y") == "http://a.org/y"


def test_duplicates_are_dropped_and_counted(server, tmp_path):
    server.rows = [*make_rows(6), *make_rows(3)]
    found = read(make_source(server.url, tmp_path))
    assert [one.id for one in found if isinstance(one, record.Record)] == [
        f"x-{i}" for i in range(6)
    ]
    dropped = [one for one in found if isinstance(one, record.Failure)]
    assert [one.id for one in dropped] == ["x-0", "x-1", "x-2"]
    assert all(one.is_rule and one.reason == "duplicate id" for one in dropped)


def test_cache_of_another_query_is_refused(server, tmp_path):
    read(make_source(server.url, tmp_path))
    with pytest.raises(ValueError, match=r"pages of another request.*\n  url: "):
        read(make_source(server.url, tmp_path, filter="nsites<9"))


def test_wrong_address(server, tmp_path):
    with pytest.raises(pages.DownloadError, match=r"status 404.*no such endpoint"):
        read(make_source(f"{server.url}/elsewhere", tmp_path))


def test_providers_and_addresses(tmp_path):
    url = optimade.Optimade("mp", "x")._first_url()
    assert url.startswith("https://optimade.materialsproject.org/v1/structures?resp")
    assert url.endswith("structure_features,_mp_stability&page_limit=100")
    for base in ("https://x.org/a/", "https://x.org/a/v1", "https://x.org/a/v1/"):
        first = optimade.Optimade(base, "x", energy_property="e")._first_url()
        assert first.startswith("https://x.org/a/v1/structures?")
    source = optimade.Optimade("oqmd", "x", space_group_property="")
    assert "_oqmd_spacegroup" not in source._first_url()
    for base in ("materials", "file:///etc/passwd"):
        with pytest.raises(ValueError, match=r"unknown provider.*oqmd"):
            optimade.Optimade(base, "x")
    with pytest.raises(ValueError, match=r"needs energy_property.*info/structures"):
        optimade.Optimade("https://x.org", "x")
    with pytest.raises(ValueError, match="page_limit is 0"):
        optimade.Optimade("mp", "x", page_limit=0)


def test_provenance(server, tmp_path):
    source = make_source(server.url, tmp_path)
    read(source)
    described = json.loads(json.dumps(source.describe()))
    assert described["source"] == "optimade"
    assert described["num_pages"] == 6
    assert len(described["downloaded"]) == 2
    assert optimade.Optimade("oqmd", "x").describe()["energy_model"] == "OQMD (PBE)"
    assert isinstance(source, record.Source)
    assert sending.sent(source) == source


# ----------------------------------------------------------------------------- parsing


def test_structure():
    found = parse(PEROVSKITE)
    assert isinstance(found, record.Record)
    assert (found.space_group, found.formation_energy) == (1, -0.5)
    np.testing.assert_array_equal(found.crystal.atomic_numbers, [56, 22, 8])
    np.testing.assert_allclose(
        found.crystal.frac_coords, [[0, 0, 0], [0.5] * 3, [0, 0, 0]], atol=1e-12
    )
    # Sites are wrapped into the cell: the third by one lattice vector.
    whole = [[0, 0, 0], [0, 0, 0], [0, 1, 0]]
    cartesian = (found.crystal.frac_coords + whole) @ found.crystal.lattice
    np.testing.assert_allclose(cartesian, PEROVSKITE["cartesian_site_positions"])


def test_structure_of_oqmd():
    found = optimade.Optimade("oqmd", "unused").parse_row(OQMD)
    assert isinstance(found, record.Record)
    assert (found.id, found.space_group) == ("4066011", 166)
    assert found.formation_energy == -1.5
    lengths = structure.lattice_parameters(found.crystal.lattice)[:3]
    np.testing.assert_allclose(lengths, 5.8888, atol=1e-3)
    np.testing.assert_allclose(found.crystal.frac_coords[0], [0.5] * 3, atol=1e-3)


def test_structure_of_the_materials_project():
    energies = {"gga_gga+u": {"formation_energy_per_atom": -0.75}, "r2scan": None}
    source = optimade.Optimade("mp", "unused")
    row = {"id": "mp-1", "attributes": PEROVSKITE | {"_mp_stability": energies}}
    found = source.parse_row(row)
    assert (found.formation_energy, found.space_group) == (-0.75, None)
    row["attributes"] = PEROVSKITE | {"_mp_stability": {"r2scan": None}}
    assert source.parse_row(row).reason.startswith("formation energy missing")


SPECIES = PEROVSKITE["species"]


@pytest.mark.parametrize(
    "changed, detail",
    [
        ({"nperiodic_dimensions": 2}, "nperiodic_dimensions is 2"),
        ({"structure_features": ["disorder"]}, "has disorder"),
        ({"lattice_vectors": [[4, 0, 0], [0, 4, 0]]}, "2 lattice vectors"),
        ({"lattice_vectors": [[4, 0, 0], [0, 4, 0], [None] * 3]}, "not a list"),
        ({"lattice_vectors": [[4, 0, 0], [8, 0, 0], [0, 0, 1]]}, "span no cell"),
        ({"lattice_vectors": None}, "lattice_vectors null"),
        ({"cartesian_site_positions": [[0, 0, 0]]}, "for 1 positions"),
        ({"cartesian_site_positions": None}, "cartesian_site_positions null"),
        ({"species_at_sites": ["Ba1", "Ti", "vacancy"]}, "unknown element 'vacancy'"),
        ({"species_at_sites": ["Ba2", "Ti", "O"]}, "unknown element 'Ba2'"),
        ({"species_at_sites": None}, "species_at_sites null"),
    ],
)
def test_bad_structure_is_a_failure(changed, detail):
    found = parse(PEROVSKITE | changed)
    assert isinstance(found, record.Failure)
    assert found.reason == "crystal not readable"
    assert detail in found.detail


@pytest.mark.parametrize(
    "changed",
    [
        {"chemical_symbols": ["Ti", "Zr"], "concentration": [0.5, 0.5]},
        {"chemical_symbols": ["Ti"], "concentration": [0.9]},
        {"chemical_symbols": ["Ti", "vacancy"], "concentration": [0.9, 0.1]},
        {"chemical_symbols": ["vacancy"]},
        {"chemical_symbols": ["X"]},
        {"chemical_symbols": None},
        {"attached": ["H"], "nattached": [3]},
    ],
)
def test_site_that_is_not_one_atom_is_a_failure(changed):
    species = [SPECIES[0], SPECIES[1] | changed, SPECIES[2]]
    found = parse(PEROVSKITE | {"species": species})
    assert isinstance(found, record.Failure)
    assert found.reason == "crystal not readable"


def test_structure_without_attributes():
    source = make_source("https://unused.org", "unused")
    found = source.parse_row({"id": "x", "attributes": None})
    assert found.reason == "structure without attributes"


@pytest.mark.parametrize(
    "value, number",
    [
        (225, 225),
        ("62", 62),
        ("Fm-3m", 225),
        ("R-3m:H", 166),
        ("P2_1/n", 14),
        ("P 1 21/n 1", 14),
        ("P63/mmc", 194),
        ("P6_3/mmc", 194),
        ("Abm2", 39),
        ("Pmnb", 62),
        ("P32", 145),
        ("P321", 150),
    ],
)
def test_space_groups(value, number):
    assert optimade.parse_space_group(value) == number


@pytest.mark.parametrize("value", [0, 231, "", "Qm-3m", "all", "P1,P2", [225], True])
def test_what_is_no_space_group(value):
    found = parse(PEROVSKITE | {"_x_group": value})
    assert found.reason == "space group missing or not in 1-230"


def test_space_group_can_be_missing():
    assert parse(PEROVSKITE | {"_x_group": None}).space_group is None
    assert parse(PEROVSKITE, space_group_property="").space_group is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@hypothesis.settings(max_examples=100, derandomize=True)
@hypothesis.given(
    JSON
    | st.fixed_dictionaries(
        {"data": JSON | st.just([{"id": 1}]), "links": st.just({"next": "x"}) | JSON},
        optional={"meta": JSON},
    )
)
def test_any_json_is_a_page_or_a_page_error(value):
    try:
        rows, following = optimade.parse_page(
            "https://x.org/", frozenset(), json.dumps(value).encode()
        )
    except pages.PageError:
        return
    assert all(isinstance(row, dict) for row in rows)
    assert following is None or following.startswith("http")


WRONG = JSON | st.sampled_from(
    [[[1e308] * 3] * 3, [[1e-308] * 3] * 3, [10**400], [["N"]], [True] * 3, "inf"]
)


@hypothesis.settings(max_examples=200, derandomize=True)
@hypothesis.given(
    st.dictionaries(st.sampled_from(sorted(PEROVSKITE)), WRONG, max_size=4),
    st.none() | st.dictionaries(st.sampled_from(sorted(SPECIES[0])), WRONG),
)
def test_any_structure_is_a_record_or_a_failure(changed, species):
    if species is not None:
        changed = changed | {"species": [*SPECIES, species]}
    found = parse(json.loads(json.dumps(PEROVSKITE | changed)))
    assert isinstance(found, record.Record | record.Failure)
