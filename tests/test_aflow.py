import dataclasses
import gzip
import itertools
import json
import ssl

import hypothesis
import numpy as np
import pytest
import sending
import spglib
from aflux_server import FAULTS, AfluxServer
from hypothesis import strategies as st

from crystaljax.crystals import elements
from crystaljax.data.readers import pages
from crystaljax.data.sources import aflow, record

NITROGEN = {
    "compound": "N4",
    "auid": "aflow:992fd15e37d7ee20",
    "aurl": "aflowlib.duke.edu:AFLOWDATA/LIB1_WEB/N:PAW_PBE:08Apr2002/N1_ICSD_95247",
    "spacegroup_relax": 51,
    "Pearson_symbol_relax": "oP4",
    "geometry": [1.3173, 6.71612, 7.29956, 90, 90, 90],
    "species": ["N"],
    "composition": [4],
    "positions_fractional": [
        [0.269677, 0.999962, 0.25],
        [0.730323, 3.75901e-05, 0.75],
        [0.730323, 0.499962, 0.75],
        [0.269677, 0.500038, 0.25],
    ],
    "dft_type": ["PAW_PBE"],
    "ldau_type": 0,
    "ldau_TLUJ": None,
    "natoms": 4,
    "nspecies": 1,
    "enthalpy_formation_atom": 0.25,
}
# As the files of single entries have it.
HEUSLER = {
    "auid": "aflow:83cd2da0257e8def",
    "compound": "Al2Cu1Mn1",
    "composition": "2,1,1",
    "species": "Al,Cu,Mn",
    "natoms": "4",
    "geometry": "4.227529,4.227529,4.227529,60,60,60",
    "positions_fractional": "0.75,0.75,0.75;0.25,0.25,0.25;0,0,0;0.5,0.5,0.5",
    "enthalpy_formation_atom": "-0.155046",
    "spacegroup_relax": "225",
    "dft_type": "PAW_PBE",
}


def make_entry(number, species=("Ta", "W"), **changed):
    species = sorted(species)
    num_sites = len(species) + 3
    entry = NITROGEN | {
        # Neither the order of the numbers nor that of the entries.
        "auid": f"aflow:{(number * 0x9E3779B97F4A7C15) % 2**64:016x}",
        "compound": elements.format_formula(dict.fromkeys(species, 1)),
        "species": species,
        "nspecies": len(species),
        "natoms": num_sites,
        "composition": [1] * (len(species) - 1) + [4],
        "geometry": [3 + number / 100, 4, 5, 90, 95, 90],
        "positions_fractional": [[i / 10, i / 20, i / 7] for i in range(num_sites)],
        "enthalpy_formation_atom": -number / 1000,
    }
    return entry | changed


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def serve():
    """Starts servers, and stops them after the test."""
    servers = []

    def start(entries):
        servers.append(AfluxServer(entries).__enter__())
        return servers[-1]

    yield start
    for server in servers:
        server.__exit__(None, None, None)


MANNERS = {"min_interval": 0.0, "retry_wait": 0.0, "timeout": 10.0, "max_attempts": 4}


def patient(changed):
    """Options with those of `pages.Manners` in one, without waits."""
    manners = {name: changed.pop(name, value) for name, value in MANNERS.items()}
    return changed | {"manners": pages.Manners(**manners)}


def make_source(server, cache, **changed):
    options = {
        "natoms": None,
        "page_size": 10,
    }
    return aflow.Aflow(str(cache), server=server.server, **patient(options | changed))


def read(source):
    """Ids of the rows that are no failures."""
    rows = list(source.read_rows())
    return [row["auid"] for row in rows if not isinstance(row, record.Failure)]


def ids(entries):
    return sorted(entry["auid"] for entry in entries)


# --------------------------------------------------------------------------- download


@pytest.mark.parametrize("number", [0, 1, 9, 10, 11, 20, 37])
def test_every_entry_comes_once_in_the_order_of_ids(tmp_path, serve, number):
    entries = [make_entry(i) for i in range(number)]
    server = serve(entries)
    source = make_source(server, tmp_path)
    assert read(source) == ids(entries)
    num_requests = len(server.paths)
    assert num_requests <= number // 10 + 3
    assert read(source) == ids(entries)
    assert len(server.paths) == num_requests


def test_interrupted_download_ends_with_the_right_set(tmp_path, serve, monkeypatch):
    entries = [make_entry(i) for i in range(5000)]
    server = serve(entries)
    source = make_source(server, tmp_path, page_size=100, max_attempts=1)
    # The server goes away, twice.
    for num_requests in (7, 5):
        server.is_down, server.requests_left = False, num_requests
        with pytest.raises(pages.DownloadError, match=r"kept in .*same command again"):
            next(source.read_rows())
    server.is_down, server.requests_left = False, None
    assert pages.PageCache(tmp_path).count() == 12
    # The user loses patience before and after a page is kept.
    write = pages.PageCache.write
    for num_pages, is_before in ((4, True), (9, False)):
        countdown = itertools.count(num_pages, -1)

        def interrupt(cache, name, page, countdown=countdown, is_before=is_before):
            is_now = next(countdown) == 0
            if is_now and is_before:
                raise KeyboardInterrupt
            write(cache, name, page)
            if is_now:
                raise KeyboardInterrupt

        monkeypatch.setattr(pages.PageCache, "write", interrupt)
        with pytest.raises(KeyboardInterrupt):
            next(source.read_rows())
    monkeypatch.setattr(pages.PageCache, "write", write)
    # The consumer breaks off.
    for count, _ in enumerate(source.read_rows()):
        if count == 1234:
            break
    assert read(source) == ids(entries)
    repeated = {page: n for page, n in server.counts.items() if n > 1}
    # The page that was not kept in time, and the empty one at the end, which needs a
    # second answer and nothing on the page after it.
    assert repeated == {7 + 5 + 5: 2, 51: 2}
    assert set(server.counts) == set(range(1, 53))


FAULTS_TO_RETRY = sorted(set(FAULTS) - {"404", "object", "short", "no rows"})


@pytest.mark.parametrize("fault", FAULTS_TO_RETRY)
@pytest.mark.parametrize("page", [2, 4])
def test_fault_is_asked_again(tmp_path, serve, fault, page):
    entries = [make_entry(i) for i in range(37)]
    server = serve(entries)
    server.script[page] = [fault] * 2
    assert read(make_source(server, tmp_path)) == ids(entries)
    assert server.counts[page] >= 3


@pytest.mark.parametrize("fault", FAULTS_TO_RETRY)
def test_fault_that_stays_is_reported(tmp_path, serve, fault):
    server = serve([make_entry(i) for i in range(37)])
    server.script[3] = [fault] * 100
    source = make_source(server, tmp_path, max_attempts=3)
    message = r"paging\(3,10\).*attempt 3.*2 pages are kept in .*same command again"
    with pytest.raises(pages.DownloadError, match=message):
        read(source)
    assert server.counts == {1: 1, 2: 1, 3: 3}


def test_reason_is_in_the_error(tmp_path, serve):
    server = serve([])
    server.always = "db fail"
    with pytest.raises(pages.DownloadError, match="no JSON: 'DB Fail!null'"):
        read(make_source(server, tmp_path))


def test_wrong_address_is_not_asked_again(tmp_path, serve):
    server = serve([])
    server.always = "404"
    with pytest.raises(pages.DownloadError, match="HTTP status 404 Not Found"):
        read(make_source(server, tmp_path))
    assert server.counts == {1: 1}


@pytest.mark.parametrize("fault", ["short", "no rows"])
@pytest.mark.parametrize("page", [1, 2, 3, 4])
@pytest.mark.parametrize("times", [1, 2])
def test_short_page_does_not_end_the_download(tmp_path, serve, fault, page, times):
    entries = [make_entry(i) for i in range(38)]
    server = serve(entries)
    server.script[page] = [fault] * times
    expected = ids(entries)
    if page == 4 and times == 2:
        # Twice the same with nothing behind it: no client could tell this from the end.
        expected = expected[: 34 if fault == "short" else 30]
    assert read(make_source(server, tmp_path)) == expected


def test_server_with_smaller_pages_is_no_loop(tmp_path, serve):
    server = serve([make_entry(i) for i in range(40)])
    server.always = "short"
    with pytest.raises(
        pages.DownloadError, match=r"5 entries of 10.*smaller page_size"
    ):
        read(make_source(server, tmp_path))


def test_object_pages_need_no_confirmation(tmp_path, serve):
    entries = [make_entry(i) for i in range(30)]
    server = serve(entries)
    server.always = "object"
    assert read(make_source(server, tmp_path)) == ids(entries)
    assert server.counts == {1: 1, 2: 1, 3: 1}


def test_mixed_pages(tmp_path, serve):
    entries = [make_entry(i) for i in range(37)]
    server = serve(entries)
    server.script |= {1: ["object"], 4: ["short", "object"]}
    assert read(make_source(server, tmp_path)) == ids(entries)


def test_server_that_does_not_page_is_no_loop(tmp_path, serve):
    server = serve([make_entry(i) for i in range(30)])
    server.script[2] = ["previous page"] * 10
    with pytest.raises(pages.DownloadError, match="same entries as in the page before"):
        read(make_source(server, tmp_path))


def test_duplicates_are_dropped_and_counted(tmp_path, serve):
    entries = [make_entry(i) for i in range(25)]
    twice = [dict(entry) for entry in entries[::3]]
    server = serve(entries + twice)
    source = make_source(server, tmp_path, page_size=7)
    found = [source.parse_row(row) for row in source.read_rows()]
    assert [one.id for one in found if isinstance(one, record.Record)] == ids(entries)
    dropped = [one for one in found if isinstance(one, record.Failure)]
    assert ids(twice) == sorted(one.id for one in dropped)
    assert {(one.reason, one.is_rule) for one in dropped} == {("duplicate auid", True)}


def test_damaged_pages_are_asked_again(tmp_path, serve):
    entries = [make_entry(i) for i in range(45)]
    server = serve(entries)
    source = make_source(server, tmp_path)
    read(source)
    server.counts.clear()
    paths = sorted(tmp_path.glob("*.json.gz"))
    paths[1].write_bytes(paths[1].read_bytes()[:-20])
    paths[2].write_bytes(b"")
    paths[3].write_bytes(gzip.compress(b'{"rows": '))
    assert read(source) == ids(entries)
    assert server.counts == {2: 1, 3: 1, 4: 1}


def test_nothing_but_pages_and_the_query_is_left(tmp_path, serve):
    server = serve([make_entry(i) for i in range(12)])
    read(make_source(server, tmp_path))
    names = ["query.json", "query_0001_page_00001.json.gz"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *names,
        "query_0001_page_00002.json.gz",
    ]


def test_cache_of_another_query_is_refused(tmp_path, serve):
    server = serve([make_entry(i) for i in range(12)])
    read(make_source(server, tmp_path))
    with pytest.raises(ValueError, match=r"give another(.|\n)*page_size: 20, 10"):
        read(make_source(server, tmp_path, page_size=20))
    # What is not part of the query can change.
    read(make_source(server, tmp_path, timeout=5.0, functionals=("PAW_LDA",)))
    (tmp_path / "query.json").write_text("{")
    with pytest.raises(ValueError, match=r"query.json is damaged"):
        read(make_source(server, tmp_path))
    (tmp_path / "query.json").unlink()
    with pytest.raises(ValueError, match=r"2 pages but no query.json"):
        read(make_source(server, tmp_path))


# ------------------------------------------------------------------------------ query


def test_species_give_all_systems_of_them_and_no_others(tmp_path, serve):
    systems = [c for n in (1, 2, 3, 4) for c in itertools.combinations("BCOW", n)]
    entries = [make_entry(i, system) for i, system in enumerate(systems)]
    wanted = [entry for entry in entries if set(entry["species"]) <= set("BOW")]
    server = serve(entries)
    source = make_source(server, tmp_path / "a", species=("W", "B", "O"))
    assert sorted(read(source)) == ids(wanted)
    assert sum("species(B,O,W),nspecies(3)" in path for path in server.paths) == 3
    source = make_source(
        server, tmp_path / "b", species=("W", "B", "O"), nspecies=(2, 5)
    )
    assert sorted(read(source)) == ids(e for e in wanted if e["nspecies"] > 1)


def test_many_species_are_one_query_and_a_rule(tmp_path, serve, monkeypatch):
    monkeypatch.setattr(aflow, "_MAX_SYSTEMS", 2)
    entries = [make_entry(0, "W"), make_entry(1, "BW"), make_entry(2, "CW")]
    entries += [make_entry(3, "C"), make_entry(4, "BCW")]
    server = serve(entries)
    source = make_source(server, tmp_path, species=("W", "B"))
    assert "species((B:W)),nspecies(1*,*2)" in source._matchbooks()[0]
    found = [source.parse_row(row) for row in source.read_rows()]
    assert ids(entries[:2]) == sorted(o.id for o in found if hasattr(o, "crystal"))
    (dropped,) = [one for one in found if isinstance(one, record.Failure)]
    assert (dropped.id, dropped.detail) == (entries[2]["auid"], "C")
    assert dropped.is_rule


def test_ranges_and_missing_energies(tmp_path, serve):
    entries = [make_entry(i, "BCOW"[:n]) for i, n in enumerate((1, 2, 3, 4, 2))]
    entries[4]["enthalpy_formation_atom"] = None
    source = make_source(serve(entries), tmp_path, natoms=(5, 6), nspecies=(1, 3))
    assert sorted(read(source)) == ids(entries[1:3])


def test_summons(tmp_path):
    source = aflow.Aflow(str(tmp_path), nspecies=(2, 4))
    (matchbook,) = source._matchbooks()
    assert source._url(matchbook, 3) == (
        "https://aflow.org/API/aflux/?auid,species,nspecies(2*,*4),natoms(4*,*60),"
        "enthalpy_formation_atom(*),composition,geometry(*),positions_fractional(*),"
        "spacegroup_relax,dft_type,ldau_type,ldau_TLUJ,$paging(3,500),format(json)"
    )


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"species": ("W", "Xx")}, "unknown element 'Xx'"),
        ({"species": ("W)",)}, "unknown element"),
        ({"natoms": (0, 4)}, "natoms is"),
        ({"nspecies": (3, 2)}, "nspecies is"),
        ({"species": ("W", "B"), "nspecies": (3, 3)}, "name more elements"),
        ({"page_size": 0}, "page_size is 0"),
        ({"page_size": -10}, "page_size is -10"),
        ({"functionals": ()}, "functionals are empty"),
        ({"server": "file:///etc/passwd"}, "begins with https"),
        ({"server": "aflow.org"}, "begins with https"),
    ],
)
def test_options_are_checked(tmp_path, changed, message):
    with pytest.raises(ValueError, match=message):
        aflow.Aflow(str(tmp_path), **changed)


@pytest.mark.parametrize("name", ["max_attempts", "timeout"])
def test_manners_are_checked(name):
    with pytest.raises(ValueError, match=f"{name} is 0"):
        pages.Manners(**{name: 0})
    with pytest.raises(ValueError, match="min_interval is -1"):
        pages.Manners(min_interval=-1)


def test_provenance(tmp_path, serve):
    server = serve([make_entry(i) for i in range(25)])
    source = make_source(server, tmp_path)
    assert source.describe()["num_pages"] == 0
    read(source)
    described = json.loads(json.dumps(source.describe()))
    assert described["source"] == "aflow"
    assert described["energy_model"] == "AFLOW (PBE)"
    assert described["num_pages"] == 3
    assert described["summons"].endswith("$paging(1,10),format(json)")
    first, last = described["downloaded"]
    assert first <= last and first.startswith("20")
    assert isinstance(source, record.Source)
    assert sending.sent(source) == source


# ----------------------------------------------------------------------------- session


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self):
        self.now = 0.0
        self.sleeps = []

    def sleep(self, seconds):
        self.sleeps.append(seconds)
        self.now += seconds


def make_session(tmp_path, **options):
    clock = Clock()
    session = pages.Session(
        pages.Manners(**options),
        pages.PageCache(tmp_path),
        sleep=clock.sleep,
        clock=lambda: clock.now,
    )
    return session, clock


def test_requests_keep_their_distance(tmp_path, monkeypatch):
    session, clock = make_session(tmp_path, min_interval=2)
    monkeypatch.setattr(session, "_read", lambda url: b"[]")
    for _ in range(3):
        session.fetch("http://x/", pages.parse_json)
    assert clock.sleeps == [2, 2]
    clock.now += 1.5
    session.fetch("http://x/", pages.parse_json)
    assert clock.sleeps[-1] == pytest.approx(0.5)


def test_waits_grow_and_are_limited(tmp_path, monkeypatch):
    session, clock = make_session(tmp_path, min_interval=0, max_attempts=10)
    monkeypatch.setattr(session, "_read", lambda url: b"DB Fail!null")
    with pytest.raises(pages.DownloadError):
        session.fetch("http://x/", pages.parse_json)
    limits = [2, 4, 8, 16, 32, 60, 60, 60, 60]
    assert len(clock.sleeps) == len(limits)
    for sleep, limit in zip(clock.sleeps, limits, strict=True):
        assert limit / 2 <= sleep <= limit


@pytest.mark.parametrize("retry_after, slept", [("100", 100), ("7", 7), ("soon", 0)])
def test_retry_after_is_obeyed(tmp_path, serve, monkeypatch, retry_after, slept):
    server = serve([])
    answers = [(503, b"", {"Retry-After": retry_after}), (200, b"[]", {})]
    monkeypatch.setattr(server, "answer", lambda path: answers.pop(0))
    session, clock = make_session(tmp_path, min_interval=0, retry_wait=0)
    assert session.fetch(server.url, pages.parse_json) == []
    assert clock.sleeps == [slept]


def test_retry_after_of_an_hour_ends_the_download(tmp_path, serve, monkeypatch):
    server = serve([])
    answer = (429, b"", {"Retry-After": "Wed, 21 Oct 2099 07:28:00 GMT"})
    monkeypatch.setattr(server, "answer", lambda path: answer)
    session, clock = make_session(tmp_path)
    with pytest.raises(pages.DownloadError, match="wants to be asked again in"):
        session.fetch(server.url, pages.parse_json)
    assert clock.sleeps == []


def test_certificates_are_verified_unless_asked_not_to(tmp_path):
    def context_of(source):
        (handler,) = [
            handler
            for handler in pages._build_opener(source.manners.verify_tls).handlers
            if type(handler).__name__ == "HTTPSHandler"
        ]
        return handler._context

    context = context_of(aflow.Aflow(str(tmp_path)))
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
    context = context_of(
        aflow.Aflow(str(tmp_path), manners=pages.Manners(verify_tls=False))
    )
    assert context.verify_mode == ssl.CERT_NONE


def test_bad_certificate_is_not_asked_again(tmp_path, monkeypatch):
    session, clock = make_session(tmp_path)

    def refuse(request, timeout):
        raise pages.urllib.error.URLError(ssl.SSLCertVerificationError("self-signed"))

    monkeypatch.setattr(session._opener, "open", refuse)
    with pytest.raises(pages.DownloadError, match=r"self-signed.*update the certific"):
        session.fetch("https://x/", pages.parse_json)
    assert clock.sleeps == []


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x"])
def test_redirect_to_a_file_is_refused(tmp_path, serve, monkeypatch, target):
    server = serve([])
    answer = (302, b"", {"Location": target})
    monkeypatch.setattr(server, "answer", lambda path: answer)
    session, _ = make_session(tmp_path)
    with pytest.raises(pages.DownloadError):
        session.fetch(server.url, pages.parse_json)
    with pytest.raises(pages.DownloadError, match="unknown url type"):
        session.fetch("file:///etc/passwd", pages.parse_json)


# ----------------------------------------------------------------------------- parsing

SOURCE = aflow.Aflow("unused", natoms=None)


def test_entry():
    found = SOURCE.parse_row(NITROGEN)
    assert isinstance(found, record.Record)
    assert (found.id, found.space_group) == ("aflow:992fd15e37d7ee20", 51)
    assert found.formation_energy == 0.25
    np.testing.assert_array_equal(found.crystal.atomic_numbers, [7] * 4)
    np.testing.assert_array_equal(
        found.crystal.frac_coords, NITROGEN["positions_fractional"]
    )
    lattice = np.diag(NITROGEN["geometry"][:3])
    np.testing.assert_allclose(found.crystal.lattice, lattice)


def test_entry_as_text():
    found = SOURCE.parse_row(HEUSLER)
    assert isinstance(found, record.Record)
    assert (found.space_group, found.formation_energy) == (225, -0.155046)
    crystal = found.crystal
    np.testing.assert_array_equal(crystal.atomic_numbers, [13, 13, 29, 25])
    cell = (crystal.lattice, crystal.frac_coords, crystal.atomic_numbers)
    assert spglib.get_spacegroup(cell, 0.01) == "Fm-3m (225)"
    assert np.linalg.det(crystal.lattice) == pytest.approx(53.425, abs=1e-3)


def test_element_with_one_site_as_text():
    changed = {"composition": "1", "natoms": "1", "species": "Cu"}
    row = HEUSLER | changed | {"positions_fractional": "0,0,0"}
    assert SOURCE.parse_row(row).crystal.num_sites == 1


@pytest.mark.parametrize(
    "changed, reason",
    [
        ({"dft_type": ["PAW_LDA"]}, "functional is not PAW_PBE"),
        ({"dft_type": "PAW_PBE_KIN:SCAN"}, "functional is not PAW_PBE"),
        ({"dft_type": ["PAW_PBE", "PAW_LDA"]}, "functional is not PAW_PBE"),
        ({"dft_type": None}, "functional is not PAW_PBE"),
        ({"ldau_type": 2}, "Hubbard U"),
        ({"ldau_type": None, "ldau_TLUJ": "2;-1,2;0,4;0,0"}, "Hubbard U"),
    ],
)
def test_entries_left_out_by_a_rule(changed, reason):
    found = SOURCE.parse_row(NITROGEN | changed)
    assert isinstance(found, record.Failure)
    assert found.is_rule
    assert (found.id, found.reason) == (NITROGEN["auid"], reason)


def test_other_functionals_and_hubbard_u_can_be_asked_for():
    source = dataclasses.replace(
        SOURCE, functionals=("PAW_PBE", "PAW_LDA"), allow_hubbard_u=True
    )
    row = NITROGEN | {"dft_type": ["PAW_LDA"], "ldau_type": 2}
    assert isinstance(source.parse_row(row), record.Record)


@pytest.mark.parametrize(
    "changed, reason",
    [
        ({"auid": None}, "entry without auid"),
        ({"enthalpy_formation_atom": None}, "formation energy missing"),
        ({"enthalpy_formation_atom": "nan"}, "formation energy missing"),
        ({"spacegroup_relax": 0}, "space group missing"),
        ({"composition": [3]}, "crystal not readable"),
        ({"composition": [2, 2]}, "crystal not readable"),
        ({"composition": [3.5]}, "crystal not readable"),
        ({"composition": [-4]}, "crystal not readable"),
        ({"composition": [10**300]}, "crystal not readable"),
        ({"natoms": 5}, "crystal not readable"),
        ({"species": ["Xx"]}, "crystal not readable"),
        ({"species": None}, "crystal not readable"),
        ({"geometry": [1, 2, 3, 90, 90]}, "crystal not readable"),
        ({"geometry": [1, 1, 1, 10, 10, 170]}, "crystal not readable"),
        ({"positions_fractional": [[0, 0, 0]] * 3}, "crystal not readable"),
        ({"positions_fractional": [[0, 0, None]] * 4}, "crystal not readable"),
        ({"positions_fractional": None}, "crystal not readable"),
    ],
)
def test_bad_entry_is_a_failure(changed, reason):
    found = SOURCE.parse_row(NITROGEN | changed)
    assert isinstance(found, record.Failure)
    assert not found.is_rule
    assert found.reason.startswith(reason)


def test_space_group_can_be_missing():
    found = SOURCE.parse_row(NITROGEN | {"spacegroup_relax": None})
    assert found.space_group is None


def test_page_forms():
    rows = [{"auid": "a"}, {"auid": "b"}]
    assert aflow.parse_page(json.dumps(rows).encode()) == (rows, None)
    numbered = {"10 of 912": rows[1], "9 of 912": rows[0]}
    assert aflow.parse_page(json.dumps(numbered).encode()) == (rows, 912)
    assert aflow.parse_page(b"[]") == ([], None)
    assert aflow.parse_page(b"{}") == ([], None)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" \n",
        b"DB Fail!null",
        b"null",
        b"3",
        b'"x"',
        b"[1]",
        b'[{"auid": "a"}, {"auid"',
        b'{"1 of 2": 3}',
        b'{"1 of 2": {}, "2 of 3": {}}',
        b'{"error": {}}',
        b'{"1 of 2": {}, "note": {}}',
        b"\xff\xfe\x00",
        b"[" * 100_000,
    ],
)
def test_what_is_no_page_is_refused(body):
    with pytest.raises(pages.PageError):
        aflow.parse_page(body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
NUMBERED = st.builds("{} of {}".format, st.integers(0, 9), st.integers(0, 9))


@hypothesis.settings(max_examples=100, derandomize=True)
@hypothesis.given(
    (JSON | st.dictionaries(NUMBERED, st.just({}) | JSON)).map(
        lambda value: json.dumps(value).encode()
    )
    | st.binary(max_size=50)
)
def test_anything_is_a_page_or_a_page_error(body):
    try:
        rows, total = aflow.parse_page(body)
    except pages.PageError:
        return
    assert all(isinstance(row, dict) for row in rows)
    assert total is None or isinstance(total, int)


WRONG = JSON | st.sampled_from(
    [[], [[]], "1,2;3", ";", [1e308] * 2, [10**400], "N", ["N"] * 4, [True] * 6, "inf"]
)


@hypothesis.settings(max_examples=200, derandomize=True)
@hypothesis.given(
    st.sampled_from([NITROGEN, HEUSLER]),
    st.dictionaries(st.sampled_from(sorted(NITROGEN)), WRONG, max_size=4),
)
def test_any_entry_is_a_record_or_a_failure(good, changed):
    source = dataclasses.replace(SOURCE, species=("Al", "Cu", "Mn", "N"))
    row = json.loads(json.dumps(good | changed))
    found = source.parse_row(row)
    assert isinstance(found, record.Record | record.Failure)
    json.dumps(getattr(found, "detail", ""))
