import base64
import contextlib
import hashlib
import json
import re

import browsing
import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from ase.data import colors
from browsing import picture, settle, wait_until

from crystaljax.crystals import elements, structure, structure_files
from crystaljax.hull import convex_hull
from crystaljax.screening import html_report
from crystaljax.screening.report import contents, systems

MODEL = "test model"
SCRIPT = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"


def cubic(formula, length=4.0):
    """Sites along the diagonal of a cube, the first at the corner."""
    numbers = elements.formula_atomic_numbers(formula)
    coords = np.repeat(np.arange(len(numbers))[:, None] / len(numbers), 3, axis=1)
    return structure.Crystal(numbers, coords, length * np.eye(3))


def known_hull():
    entries = [("Au1Cu1", -0.05, "AuCu"), ("Au1Cu3", -0.01, "a poor AuCu3")]
    entries += [("Au1Cu1", 0.4, "a worse AuCu"), ("Au1Pd1", -0.02, "AuPd")]
    return convex_hull.build_hull(entries, MODEL)


def screening_table():
    """Six inputs: four candidates, one invalid, one duplicate."""
    formulas = ["Au1Cu1", "Au1Cu3", "Au2Cu2", "Au1Cu1Pd1", "Cu4", "Au1Cu3"]
    energies = [-0.03, -0.06, -0.04, 0.02, np.nan, np.nan]
    names = [f"{i}_{formula}" for i, formula in enumerate(formulas)]
    above = convex_hull.energy_above_hull(known_hull(), formulas, energies, MODEL)
    # Row by rank: 1 (below the hull), 2, 0, 3.
    ranks = [3, 1, 2, 4, 0, 0]
    return {
        "name": names,
        "formula": formulas,
        "requested_space_group": [123, 221, 123, 99, 225, 221],
        "requested_formation_energy": [-0.05, -0.05, -0.05, -0.08, 0.0, 0.1],
        "workdir": ["runs/x"] * 6,
        "valid": [True, True, True, True, False, True],
        "generated_shortest_distance": [2.5, 2.6, 2.7, 2.8, 0.25, 2.6],
        "generated_volume_per_atom": [14.0, 13.0, 14.5, 15.0, 16.0, 13.0],
        "relaxed_volume_per_atom": [14.25, 12.5, 14.5, 15.5, np.nan, np.nan],
        "relaxed_shortest_distance": [2.55, 2.65, 2.7, 2.8, np.nan, np.nan],
        "nearest_known": ["AuCu", "a poor AuCu3", "AuCu", "AuPd", "", ""],
        "nearest_known_formula": ["CuAu", "Cu3Au", "CuAu", "PdAu", "", ""],
        "nearest_known_distance": [0.0, 0.125, 0.0, 0.25, np.nan, np.nan],
        "released_is_saddle": [False, True, False, None, None, None],
        "released_energy_change": [-0.0001, -0.0321, -0.0002, *[np.nan] * 3],
        "released_space_group_0.1": [123, 65, 123, 0, 0, 0],
        "generated_space_group_0.1": [123, 221, 1, 99, 0, 1],
        "generated_space_group_0.01": [1, 221, 1, 1, 0, 1],
        "generated_space_group_0.001": [1, 1, 1, 1, 0, 1],
        "duplicate_of": ["", "", "", "", "", names[1]],
        "known_as": ["AuCu", "", "", "", "", ""],
        "relaxation_converged": [True, True, False, True, False, False],
        "relaxation_steps": [10, 20, 200, 5, 0, 0],
        "relaxed_max_force": [0.01, 0.02, 0.3, 0.04, np.nan, np.nan],
        "relaxed_formation_energy": energies,
        "relaxed_energy_model": [MODEL] * 6,
        "relaxed_energy_above_hull": above.tolist(),
        "relaxed_space_group_0.1": [123, 221, 123, 1, 0, 0],
        "relaxed_space_group_0.01": [123, 1, 123, 1, 0, 0],
        "rejected_stage": ["", "", "", "", "validity", "duplicates"],
        "rejected_reason": [
            *[""] * 4,
            "the shortest distance of 0.25 Å is under 0.5 Å",
            f"equals {names[1]}",
        ],
        "rank": ranks,
    }


def candidates(table):
    return {
        rank: cubic(formula)
        for formula, rank in zip(table["formula"], table["rank"], strict=True)
        if rank
    }


def summary():
    counts = {"inputs": 6, "valid": 5, "distinct": 4, "relaxed": 4, "converged": 3}
    return {
        "request": {"samples": "samples.extxyz", "calculator": "emt", "fmax": 0.05},
        "energy_model": MODEL,
        "calculator": "emt",
        "hull": "entries.csv",
        "methods": {
            "Energies": "Energies are those of a test.",
            "Limits": SCRIPT,
        },
        "counts": counts | {"new": 3, "ranked": 4, "below_hull": 1},
        "seconds": {"relaxation": 12.5},
        "versions": {"crystaljax": "0.1.0"},
    }


def write_screening(folder, table):
    folder.mkdir(parents=True, exist_ok=True)
    structure_files.write_table(folder / "screening.parquet", table)
    crystals = sorted(candidates(table).items())
    names = dict(zip(table["rank"], table["name"], strict=True))
    structure_files.write_extxyz(
        folder / "candidates.extxyz",
        [crystal for _, crystal in crystals],
        [{"name": names[rank], "rank": rank} for rank, _ in crystals],
    )
    (folder / "hull.json").write_text(json.dumps(convex_hull.to_dict(known_hull())))
    (folder / "screening.json").write_text(json.dumps(summary()))
    return folder


def page_data(page):
    return json.loads(re.search(r'type="application/json">(.*?)</script>', page)[1])


def column(data, name):
    found = data["table"][name]
    if isinstance(found, list):
        return found
    return [found["values"][place] for place in found["places"]]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("screening") / "gold and copper"
    return html_report.write_report(write_screening(folder, screening_table()))


# ---- What stands in the page -------------------------------------------------------


def test_numbers_are_those_of_the_table(report):
    assert report.name == "report.html"
    data = page_data(report.read_text("utf-8"))
    table = screening_table()
    assert data["num_rows"] == 6
    assert "workdir" not in data["table"]
    for name in data["table"]:
        expected = [None if x != x else x for x in table[name]]
        assert column(data, name) == pytest.approx(expected, abs=1e-6), name
    assert data["counts"] == summary()["counts"]
    assert (data["title"], data["hull"]) == ("gold and copper", "entries.csv")
    assert data["energy_models"] == [MODEL]


def test_structures_are_those_of_the_candidates(report):
    data = page_data(report.read_text("utf-8"))
    assert list(data["structures"]) == ["1", "2", "3", "4"]
    crystal = cubic("Au1Cu3")
    shown = data["structures"]["1"]
    assert shown["numbers"] == crystal.atomic_numbers.tolist()
    np.testing.assert_allclose(
        np.reshape(shown["coords"], (-1, 3)), crystal.frac_coords, atol=1e-5
    )
    np.testing.assert_allclose(shown["lattice"], crystal.lattice)
    gold = data["elements"]["79"]
    assert gold["symbol"] == "Au"
    assert gold["radius"] == elements.load_covalent_radii()[78]
    np.testing.assert_allclose(
        np.array(gold["color"]) / 255, colors.jmol_colors[79], atol=0.002
    )


def test_limits_of_the_model_are_among_the_facts(browser, tmp_path):
    summary_of_mp = summary() | {
        "generated_by": ["mp: crystals. Not for <b>claims</b>"]
    }
    page = html_report.build_report(summary_of_mp, screening_table(), {}, None)
    path = tmp_path / "report.html"
    path.write_text(page, encoding="utf-8")
    with opened(browser, path) as page:
        assert "Not for <b>claims</b>" in page.inner_text("#facts")


def test_space_groups_that_were_found():
    found = describe()["space_groups"]
    assert found["headings"] == [
        "generated, 0.1",
        "generated, 0.01",
        "generated, 0.001",
        "relaxed, 0.1",
    ]
    # Relaxed: of the four with an energy.
    assert found["all"] == [[3, 6], [1, 6], [0, 6], [3, 4]]
    by_number = {group["number"]: group["counts"] for group in found["groups"]}
    assert by_number[221] == [[1, 2], [1, 2], [0, 2], [1, 1]]
    assert by_number[225] == [[0, 1], [0, 1], [0, 1], [0, 0]]
    assert list(by_number) == [99, 123, 221, 225]


def test_energies_requested_and_relaxed():
    found = describe()["energies"]
    difference = np.array([0.02, -0.01, 0.01, 0.10])
    assert found["count"] == 4
    assert found["mean_absolute"] == pytest.approx(np.abs(difference).mean())
    assert found["mean"] == pytest.approx(difference.mean())
    assert found["within_0.1"] == 4


def test_reasons_that_differ_in_numbers_and_names_are_one():
    table = screening_table()
    names = [f"{i}_Au1Cu3" for i in range(6)]
    table |= {
        "name": names,
        "rank": [0] * 6,
        "rejected_stage": ["validity"] * 2 + ["duplicates"] * 3 + [""],
        "duplicate_of": ["", "", names[0], names[1], names[1], ""],
        "rejected_reason": [
            "the shortest distance of 0.25 Å is under 0.5 Å",
            "the shortest distance of 1e-05 Å is under 0.5 Å",
            *(f"equals {names[i]}" for i in (0, 1, 1)),
            "",
        ],
    }
    assert describe(table)["reasons"] == [
        {"stage": "duplicates", "reason": "equals …", "count": 3},
        {
            "stage": "validity",
            "reason": "the shortest distance of … Å is under 0.5 Å",
            "count": 2,
        },
    ]


def test_reasons_that_are_rare_are_summed_up():
    words = [f"{'a' * length}" for length in range(1, 61)]
    table = {
        "rejected_reason": [*words, "b", "b"],
        "rejected_stage": ["relaxation"] * 62,
    }
    reasons = contents.describe({}, table, {}, None)["reasons"]
    assert reasons[0] == {"stage": "relaxation", "reason": "b", "count": 2}
    assert reasons[-1] == {"stage": "", "reason": "11 other reasons", "count": 11}
    assert sum(each["count"] for each in reasons) == 62


def test_conditions_are_listed_where_few_and_counted_where_many():
    asked = describe()["requested"]
    assert asked["requested_space_group"]["values"] == [99, 123, 221, 225]
    assert asked["requested_formation_energy"]["range"] == [-0.08, 0.1]
    many = {"requested_formation_energy": np.linspace(-1, 1, 41)}
    asked = contents.describe({}, many, {}, None)["requested"][
        "requested_formation_energy"
    ]
    assert (asked["count"], asked["range"]) == (41, [-1, 1])


def describe(table=None, known=None):
    table = screening_table() if table is None else table
    known = known_hull() if known is None else known
    return contents.describe(summary(), table, candidates(table), known)


def test_hull_diagrams():
    binary, ternary = describe()["systems"]
    assert binary["symbols"] == ["Au", "Cu"]
    assert binary["rows"] == [0, 1, 2]
    assert binary["fractions"]["Au1Cu3"] == [0.25, 0.75]
    above = {entry["formula"]: entry["above"] for entry in binary["known"]}
    # AuCu3 lies on the line from AuCu (-0.05) to Cu (0) at -0.025.
    assert above == pytest.approx({"Au1": 0, "Cu1": 0, "Au1Cu1": 0, "Au1Cu3": 0.015})
    assert sorted(binary["sides"]) == [
        [[0, 1, 0], [0.5, 0.5, -0.05]],
        [[0.5, 0.5, -0.05], [1, 0, 0]],
    ]
    # The candidate at -0.06 is below the hull and changes one side into two.
    assert [0.25, 0.75, -0.06] in binary["new_sides"][0]
    assert all([0.25, 0.75, -0.06] in side for side in binary["new_sides"])
    assert ternary["symbols"] == ["Au", "Cu", "Pd"]
    assert ternary["rows"] == [0, 1, 2, 3]
    corners = {tuple(end[:3]) for side in ternary["sides"] for end in side}
    assert corners == {(1, 0, 0), (0, 1, 0), (0, 0, 1), (0.5, 0.5, 0), (0.5, 0, 0.5)}


def test_systems_with_the_most_candidates_come_first():
    made = [
        systems.Candidate(row, str(row), formula, 0.1, 0.1)
        for row, formula in enumerate(["Au1Pd1", "Au1Cu1", "Au1Cu3", "Cu1", "AuCuPdNi"])
    ]
    diagrams, note = systems.describe_systems(made, known_hull(), MODEL, 1)
    assert [diagram["symbols"] for diagram in diagrams] == [["Au", "Cu"]]
    # Elements are within the system, other systems are not.
    assert diagrams[0]["rows"] == [1, 2, 3]
    assert "2 systems" in note


def test_energies_of_two_models_are_in_no_diagram():
    other = convex_hull.build_hull([("Au1Cu1", -0.05, "AuCu")], "another model")
    described = describe(known=other)
    assert described["systems"] == []
    assert "another model" in described["systems_note"]
    table = screening_table() | {
        "relaxed_energy_model": ["another model", *[MODEL] * 5]
    }
    assert describe(table)["energy_models"] == ["another model", MODEL]


def test_limits():
    limits = contents.Limits(num_views=2, max_structures=3, max_systems=1)
    table = screening_table()
    described = contents.describe(
        summary(), table, candidates(table), known_hull(), limits=limits
    )
    assert list(described["structures"]) == ["1", "2", "3"]
    assert described["num_views"] == 2
    assert len(described["systems"]) == 1


def test_formulas_come_from_the_crystals_where_the_table_has_none(tmp_path):
    table = {key: values for key, values in screening_table().items()}
    crystals = candidates(table)
    del table["formula"]
    described = contents.describe(summary(), table, crystals, known_hull())
    assert described["table"]["formula"] == [
        *("Au1Cu1", "Au1Cu3", "Au2Cu2", "Au1Cu1Pd1", "", ""),
    ]
    # From files too, however few structures the page shows.
    folder = write_screening(tmp_path / "all", screening_table())
    (folder / "screening.parquet").unlink()
    structure_files.write_table(folder / "screening.parquet", table)
    path = html_report.write_report(folder, contents.Limits(max_structures=1))
    data = page_data(path.read_text("utf-8"))
    assert column(data, "formula") == described["table"]["formula"]
    assert list(data["structures"]) == ["1"]


# ---- The page as a file ------------------------------------------------------------


def test_page_refers_to_no_other_file(report):
    page = report.read_text("utf-8")
    page = page.replace("http://www.w3.org/2000/svg", "")
    assert "http:" not in page and "https:" not in page
    assert not re.search(r"<script[^>]*\bsrc|<link[^>]*href=\"(?!data:)|@import", page)
    assert "{{" not in page


def test_policy_allows_the_script_of_the_page_alone(report):
    page = report.read_text("utf-8")
    (allowed,) = re.findall(r"script-src '(.*?)'", page)
    script = re.search(r"<script>(.*)</script>", page, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert allowed == f"sha256-{digest}"
    assert "default-src 'none'" in page


@hypothesis.given(name=st.text(), reason=st.text())
@hypothesis.example(name=SCRIPT, reason="</script><script>")
@hypothesis.example(name="{{script}}", reason="<!-- <script>")
@hypothesis.settings(max_examples=30)
def test_any_name_stays_within_the_data(name, reason):
    table = {"name": [name, "other"], "rank": [0, 0], "rejected_reason": [reason, ""]}
    page = html_report.build_report({"calculator": name}, table, {}, None, title=reason)
    data = page_data(page)
    assert column(data, "name") == [name, "other"]
    assert column(data, "rejected_reason") == [reason, ""]
    assert (data["calculator"], data["title"]) == (name, reason)
    # Tags of the page itself and no others.
    plain = html_report.build_report({}, {}, {}, None)
    assert page.count("<") == plain.count("<")


def test_page_is_written_with_next_to_nothing(tmp_path):
    structure_files.write_table(tmp_path / "screening.parquet", {"name": ["a", "b"]})
    (tmp_path / "screening.json").write_text("{}")
    data = page_data(html_report.write_report(tmp_path).read_text("utf-8"))
    assert data["num_rows"] == 2
    assert data["space_groups"] is None and data["energies"] is None
    assert data["structures"] == {} and data["systems"] == []
    assert "no hull" in data["systems_note"]
    assert page_data(html_report.build_report({}, {}, {}, None))["num_rows"] == 0


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"screening\.json.*crystaljax screen"):
        html_report.write_report(tmp_path)
    folder = write_screening(tmp_path / "damaged", screening_table())
    (folder / "hull.json").write_text('{"entries": [')
    with pytest.raises(ValueError, match=r"hull\.json is no JSON"):
        html_report.write_report(folder)
    assert not (folder / "report.html").exists()
    with pytest.raises(ValueError, match="lengths"):
        html_report.build_report({}, {"name": ["a"], "rank": [1, 2]}, {}, None)


# ---- The page in a browser ---------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    with browsing.chromium() as browser:
        yield browser


@contextlib.contextmanager
def opened(browser, path, **options):
    """The page without a network; nothing may be asked for, nothing may go wrong."""
    options = {"viewport": {"width": 1280, "height": 900}} | options
    context = browser.new_context(**options)
    page = context.new_page()
    requests, problems = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.route(
        "**/*",
        lambda route: (
            route.continue_()
            if route.request.url == path.absolute().as_uri()
            else route.abort()
        ),
    )
    page.goto(path.absolute().as_uri())
    settle(page)
    yield page
    context.close()
    assert requests == [path.absolute().as_uri()]
    assert problems == []


def cells(page, key):
    """Texts of one column of the table."""
    keys = page.eval_on_selector_all(
        "#table th button", "all => all.map(each => each.dataset.key)"
    )
    place = keys.index(key) + 1
    return page.eval_on_selector_all(
        f"#table tbody td:nth-child({place})", "all => all.map(each => each.innerText)"
    )


def numbers(texts):
    return [float(text.replace("−", "-")) for text in texts if text != "–"]


def test_head_says_what_was_done_with_which_energies(browser, report):
    with opened(browser, report) as page:
        assert page.title() == "Screening: gold and copper"
        lead = page.inner_text("#lead")
        assert "6 inputs, 4 candidates" in lead
        assert "AuCu₃" in lead and "0.0350 eV/atom below the hull" in lead
        assert MODEL in lead and "entries.csv" in lead
        counts = page.eval_on_selector_all(
            "[data-count]",
            "all => all.map(each => [each.dataset.count, Number(each.innerText)])",
        )
        assert dict(counts) == summary()["counts"]
        assert "of … Å" not in page.inner_text("#reasons")
        for place in ("#energy-note", "#systems", "#energies", "#details"):
            assert MODEL in page.inner_text(place), place


def test_what_was_generated_stands_beside_what_it_relaxed_to(browser, report):
    with opened(browser, report) as page:
        assert cells(page, "relaxed_volume_per_atom")[0] == "13.00 → 12.50"
        assert cells(page, "relaxed_shortest_distance")[0] == "2.60 → 2.65"
        assert cells(page, "nearest_known")[:2] == ["a poor AuCu3", "AuCu"]
        assert cells(page, "released_is_saddle") == ["saddle", "minimum", "minimum", ""]
        details = page.inner_text("#details")
        assert "13.00 Å³/atom as generated, 12.50 Å³/atom relaxed" in details
        assert "a poor AuCu3 (Cu₃Au), distances differ by 0.125" in details
        assert "saddle: −32.1 meV/atom, 65 Cmmm" in details
        # A text, not what it says.
        methods = page.inner_text("#methods")
        assert "Energies are those of a test." in methods and SCRIPT in methods
        assert page.evaluate("window.hacked === undefined")


def test_table_sorts_both_ways(browser, report):
    with opened(browser, report) as page:
        assert cells(page, "rank") == ["1", "2", "3", "4"]
        table = screening_table()
        expected = sorted(x for x in table["relaxed_formation_energy"] if x == x)
        header = page.locator(
            "th", has=page.locator("[data-key=relaxed_energy_above_hull]")
        )
        assert header.get_attribute("aria-sort") == "none"
        page.click("[data-key=relaxed_formation_energy]")
        ascending = numbers(cells(page, "relaxed_formation_energy"))
        assert ascending == pytest.approx(expected, abs=5e-5)
        page.click("[data-key=relaxed_formation_energy]")
        assert numbers(cells(page, "relaxed_formation_energy")) == ascending[::-1]
        header = page.locator("th[aria-sort=descending]")
        assert header.locator("button").get_attribute("data-key") == (
            "relaxed_formation_energy"
        )
        # Keyboards do it too, and what has no energy is last, whichever way.
        page.check("#show-all")
        page.focus("[data-key=relaxed_energy_above_hull]")
        for _ in range(2):
            page.keyboard.press("Enter")
            assert cells(page, "relaxed_energy_above_hull")[4:] == ["–", "–"]
        above = numbers(cells(page, "relaxed_energy_above_hull"))
        assert above == sorted(above, reverse=True)


def test_table_filters_and_shows_what_was_rejected(browser, report):
    with opened(browser, report) as page:
        page.fill("#filter", "pd")
        assert cells(page, "formula") == ["AuCuPd"]
        page.fill("#filter", "AUCU3")
        assert cells(page, "formula") == ["AuCu₃"]
        page.fill("#filter", "shortest")
        assert cells(page, "formula") == []
        page.check("#show-all")
        assert cells(page, "rejected_reason") == [
            screening_table()["rejected_reason"][4]
        ]
        page.fill("#filter", "")
        assert page.inner_text("#row-count") == "6 rows"
        assert cells(page, "rejected_stage")[4:] == ["validity", "duplicates"]
        page.click("#table tbody tr:last-child")
        assert "equals 1_Au1Cu3" in page.inner_text("#viewer-message")
        assert not page.is_visible("#canvas")


def test_structure_turns_and_zooms(browser, report):
    with opened(browser, report) as page:
        page.locator("#canvas").scroll_into_view_if_needed()
        box = page.locator("#canvas").bounding_box()
        pictures = [picture(page)]
        page.mouse.move(box["x"] + 100, box["y"] + 100)
        page.mouse.down()
        page.mouse.move(box["x"] + 160, box["y"] + 130, steps=4)
        page.mouse.up()
        pictures.append(picture(page))
        # Without a button nothing is dragged.
        page.mouse.move(box["x"] + 60, box["y"] + 60)
        assert picture(page) == pictures[-1]
        page.wait_for_timeout(300)
        before = page.evaluate("scrollY")
        page.mouse.wheel(0, -300)
        wait_until(page, "viewer.zoom > 1")
        assert page.evaluate("scrollY") == before
        pictures.append(picture(page))
        page.focus("#canvas")
        page.keyboard.press("ArrowLeft")
        pictures.append(picture(page))
        for control in ("#bonds", "#supercell"):
            page.check(control)
            pictures.append(picture(page))
        page.click("[data-along='2']")
        pictures.append(picture(page))
        assert len(set(pictures)) == len(pictures)
        page.uncheck("#bonds")
        page.uncheck("#supercell")
        page.click("#reset-view")
        assert picture(page) == pictures[0]


def test_structure_turns_and_zooms_by_touch(browser, report):
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True}
    with opened(browser, report, **phone, is_mobile=True) as page:
        # Nothing sticks out of a phone's screen.
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        page.locator("#canvas").scroll_into_view_if_needed()
        box = page.locator("#canvas").bounding_box()
        devtools = page.context.new_cdp_session(page)

        def touch(kind, *places):
            points = [
                {"x": box["x"] + x, "y": box["y"] + y, "id": number}
                for number, (x, y) in enumerate(places)
            ]
            devtools.send(
                "Input.dispatchTouchEvent", {"type": kind, "touchPoints": points}
            )

        before = picture(page)
        touch("touchStart", (100, 100))
        touch("touchMove", (150, 120))
        wait_until(page, "viewer.rotation !== FIRST_VIEW")
        touch("touchEnd")
        assert picture(page) != before
        touch("touchStart", (100, 100), (150, 100))
        touch("touchMove", (50, 100), (200, 100))
        wait_until(page, "viewer.zoom > 2")
        touch("touchEnd")


def test_atoms_on_the_faces_have_their_images(browser, report):
    with opened(browser, report) as page:
        count = """(repeats) => placeAtoms({
            numbers: [29, 79, 46], lattice: [[4, 0, 0], [1, 4, 0], [0, 0, 5]],
            coords: [0, 0.9999, -2, 0.5, 0, 0.5, 0.5, 0.5, 0.3]}, repeats).length"""
        # A corner has eight places, two faces two, the inside one.
        assert page.evaluate(count, 1) == 8 + 2 + 1
        # In 2 x 2 x 2 cells: 27 corners, 4 faces on 3 planes, 8 insides.
        assert page.evaluate(count, 2) == 27 + 12 + 8


def test_views_are_rotations(browser, report):
    with opened(browser, report) as page:
        views = page.evaluate(
            """() => {
                const lattice = [[3, 0, 0], [1, 4, 0], [-1, 2, 5]];
                const views = [0, 1, 2].map((axis) => viewAlong(lattice, axis));
                return [FIRST_VIEW, turned(views[0], 0.3, -2), ...views];
            }"""
        )
        for rotation in np.array(views):
            np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
            assert np.linalg.det(rotation) == pytest.approx(1)
        # The vector that is looked along points at the viewer.
        np.testing.assert_allclose(
            views[4] @ np.array([-1, 2, 5]) / np.sqrt(30), [0, 0, 1], atol=1e-12
        )


def test_rows_gallery_and_diagrams_choose_the_structure(browser, report):
    with opened(browser, report) as page:
        assert page.inner_text("#viewer-title").startswith("AuCu₃")
        first = picture(page)
        page.click("#table tbody tr:nth-child(4)")
        assert page.inner_text("#viewer-title").startswith("AuCuPd")
        assert page.locator("#legend span").all_inner_texts() == ["Au", "Cu", "Pd"]
        assert picture(page) != first
        chosen = page.locator("#table tr[aria-selected=true]")
        assert chosen.count() == 1 and "AuCuPd" in chosen.inner_text()
        page.locator("#gallery button").nth(1).click()
        assert page.inner_text("#viewer-title").startswith("Au₂Cu₂")
        # A point of the binary hull: shown when pointed at, chosen by a click.
        point = page.evaluate(
            "() => { const {px, py} = charts[0].points.find(each => each.row === 1);"
            "charts[0].svg.scrollIntoView({block: 'center'}); return [px, py]; }"
        )
        settle(page)
        box = page.locator("#systems svg").first.bounding_box()
        place = (box["x"] + point[0], box["y"] + point[1])
        page.mouse.move(*place)
        assert "−0.0600" in page.inner_text("#tooltip")
        page.mouse.click(*place)
        assert page.inner_text("#viewer-title").startswith("AuCu₃")


def test_dragging_a_box_enlarges_a_diagram(browser, report):
    with opened(browser, report) as page:
        svg = page.locator("#systems svg").first
        svg.scroll_into_view_if_needed()
        box = svg.bounding_box()
        title = page.inner_text("#viewer-title")
        before = page.evaluate("charts[0].range")
        page.mouse.move(box["x"] + 150, box["y"] + 60)
        page.mouse.down()
        page.mouse.move(box["x"] + 300, box["y"] + 200, steps=3)
        page.mouse.up()
        after = page.evaluate("charts[0].range")
        assert before["x"][0] < after["x"][0] < after["x"][1] < before["x"][1]
        assert before["y"][0] < after["y"][0] < after["y"][1] < before["y"][1]
        page.mouse.dblclick(box["x"] + 200, box["y"] + 30)
        assert page.evaluate("charts[0].range.x") == before["x"]
        assert page.inner_text("#viewer-title") == title


def test_names_are_text(browser, tmp_path):
    table = screening_table()
    table["name"] = [SCRIPT, *table["name"][1:]]
    table["rejected_reason"] = [*table["rejected_reason"][:4], SCRIPT, SCRIPT]
    table["known_as"] = [SCRIPT] * 6
    known = convex_hull.build_hull([("Au1Cu1", -0.05, SCRIPT)], MODEL)
    told = summary() | {"hull": SCRIPT, "request": {SCRIPT: SCRIPT}}
    path = tmp_path / "report.html"
    page_text = html_report.build_report(
        told, table, candidates(table), known, title=SCRIPT
    )
    path.write_text(page_text, "utf-8")
    with opened(browser, path) as page:
        page.check("#show-all")
        for row in range(6):
            page.click(f"#table tbody tr:nth-child({row + 1})")
        assert page.inner_text("h1") == SCRIPT
        assert SCRIPT in cells(page, "name") and SCRIPT in cells(
            page, "rejected_reason"
        )
        assert page.locator("body img").count() == 0
        assert page.evaluate("window.hacked") is None


def test_policy_stops_what_would_get_into_the_page(browser, report):
    page = browser.new_page()
    page.goto(report.absolute().as_uri())
    page.evaluate("text => document.body.insertAdjacentHTML('beforeend', text)", SCRIPT)
    page.evaluate(
        "() => { const made = document.createElement('script');"
        "made.textContent = 'window.hacked = 2'; document.body.append(made); }"
    )
    settle(page)
    assert page.evaluate("window.hacked") is None
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_on_light_and_dark(browser, report, scheme):
    def luminance(color):
        values = np.array([int(x) / 255 for x in re.findall(r"\d+", color)[:3]])
        linear = np.where(
            values <= 0.04, values / 12.92, ((values + 0.055) / 1.055) ** 2.4
        )
        return linear @ [0.2126, 0.7152, 0.0722]

    with opened(browser, report, color_scheme=scheme) as page:
        style = "getComputedStyle(document.querySelector('%s')).%s"
        ground = luminance(page.evaluate(style % ("body", "backgroundColor")))
        assert (ground > 0.5) == (scheme == "light")
        for selector in ("h1", ".note", "dt", "#table th", "#table td button"):
            text = luminance(page.evaluate(style % (selector, "color")))
            contrast = (max(text, ground) + 0.05) / (min(text, ground) + 0.05)
            # WCAG AA.
            assert contrast > 4.5, selector


def test_empty_pages_open(browser, tmp_path):
    pages = {
        "nothing": html_report.build_report({}, {}, {}, None),
        "plain CIFs": html_report.build_report(
            {},
            {"name": ["a.cif", "b.cif"], "rejected_reason": ["bad", "worse"]},
            {},
            None,
        ),
        "no hull": html_report.build_report(
            summary() | {"hull": "none"},
            screening_table() | {"relaxed_energy_above_hull": [np.nan] * 6},
            {},
            None,
        ),
        "no crystals": html_report.build_report(
            summary(), screening_table(), {}, known_hull()
        ),
    }
    for name, text in pages.items():
        path = tmp_path / f"{name}.html"
        path.write_text(text, "utf-8")
        with opened(browser, path) as page:
            if name == "plain CIFs":
                assert "none of which" in page.inner_text("#lead")
                page.check("#show-all")
                assert cells(page, "rejected_reason") == ["bad", "worse"]
            if name == "no hull":
                assert "no hull" in page.inner_text("#facts")
                assert page.locator("[data-key=relaxed_energy_above_hull]").count() == 0
                assert page.locator("[data-count=below_hull]").count() == 0
            if name == "no crystals":
                assert "candidates.extxyz" in page.inner_text("#viewer-message")


def test_rows_are_made_when_they_are_seen(browser, tmp_path):
    rng = np.random.default_rng(0)
    energies = rng.normal(size=20_000)
    table = {
        "name": [f"sample {i}" for i in range(20_000)],
        "formula": ["Au1Cu3"] * 20_000,
        "relaxed_energy_above_hull": energies,
        "rank": np.argsort(np.argsort(energies)) + 1,
    }
    path = tmp_path / "report.html"
    path.write_text(html_report.build_report({}, table, {}, None), "utf-8")
    with opened(browser, path) as page:
        rows = page.locator("#table tbody tr")
        first = rows.count()
        assert 50 <= first <= 300
        assert page.inner_text("#row-count") == "20,000 rows"
        # Each time the end comes into sight there are more.
        for _ in range(2):
            before = rows.count()
            page.evaluate("byId('table').scrollTop = 1e6")
            wait_until(
                page, f"document.querySelectorAll('#table tbody tr').length > {before}"
            )
        assert [int(rank) for rank in cells(page, "rank")] == list(
            range(1, rows.count() + 1)
        )
        page.click("[data-key=name]")
        assert cells(page, "name")[:2] == ["sample 0", "sample 1"]
        assert rows.count() == first
