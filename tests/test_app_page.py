"""Somebody with a browser uses the page of `crystaljax app`."""

import contextlib
import dataclasses
import os
import pathlib
import signal
import subprocess
import sys

import browsing
import numpy as np
import psutil
import pytest
from browsing import picture, settle, wait_until

from crystaljax.crystals import cif, elements, structure, structure_files

INJECTION = "<img src=x onerror='window.hacked = 1'>"


@contextlib.contextmanager
def serving(folder):
    """A server of its own, and the address that it prints."""
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "crystaljax", "app", "--no_browser"),
            *(f"--folder={folder / 'app'}", f"--known={folder / 'known.extxyz'}"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
    )
    try:
        yield server, server.stdout.readline().strip()
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(timeout=30)
        server.stdout.close()


@contextlib.contextmanager
def opened(browser, address, **options):
    """The page; it asks nobody but its server, and nothing goes wrong in it."""
    context = browser.new_context(
        **{"viewport": {"width": 1280, "height": 900}, **options}
    )
    page = context.new_page()
    requests, problems = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
        "console",
        # What the server refuses is expected, and the browser says so too.
        lambda message: (
            None
            if "Failed to load resource" in message.text
            else problems.append(message.text)
        ),
    )
    page.goto(address)
    wait_until(page, "document.body.dataset.ready === 'true'", 30)
    yield page
    context.close()
    assert problems == []
    own = (address.partition("#")[0], "data:", "blob:")
    assert [url for url in requests if not url.startswith(own)] == []


def wait_for_jobs(page, count):
    wait_until(page, f"document.querySelectorAll('#jobs li').length === {count}")


def job_states(page):
    return page.eval_on_selector_all(
        "#jobs li", "all => all.map(each => each.dataset.state)"
    )


@dataclasses.dataclass
class Story:
    """What happened until there were crystals."""

    browser: object
    address: str
    page: object
    check: str
    orphans: int
    trouble: str
    after: list
    words: str


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """Asks for crystals, kills the server meanwhile, starts it again and resumes."""
    folder = tmp_path_factory.mktemp("page")
    numbers, coords = np.array([29, 79]), np.array([[0, 0, 0], [0.5, 0.5, 0.5]])
    known = structure.Crystal(numbers, coords, np.diag([2.8, 2.8, 3.7]))
    structure_files.write_extxyz(
        folder / "known.extxyz", [known], [{"name": "known CuAu"}]
    )
    with browsing.chromium() as browser:
        with serving(folder) as (server, address), opened(browser, address) as page:
            page.fill("#composition", "TaB2, Cu3Au")
            page.fill("#num-samples", "2")
            wait_until(page, "document.querySelector('#check').textContent", 30)
            check = page.inner_text("#check")
            page.click("#ask button[type=submit]")
            wait_until(page, "document.querySelector('#jobs [data-state=running]')")
            workers = psutil.Process(server.pid).children(recursive=True)
            os.kill(server.pid, signal.SIGKILL)
            server.wait()
            _, orphans = psutil.wait_procs(workers, timeout=5)
            wait_until(page, "!document.querySelector('#trouble').hidden")
            trouble = page.inner_text("#trouble")
        with serving(folder) as (_, address), opened(browser, address) as page:
            after, words = job_states(page), page.inner_text("#jobs")
            page.click("#jobs [data-act=resume]")
            wait_until(page, "!document.querySelector('#crystals').hidden", 120)
            yield Story(
                browser, address, page, check, len(orphans), trouble, after, words
            )


@pytest.fixture
def page(story):
    """The page with the crystals that were asked for; the top of it is seen."""
    story.page.evaluate("scrollTo(0, 0)")
    return story.page


def test_a_killed_server_takes_its_work_along_and_the_next_one_goes_on(story):
    assert story.check.startswith("2 cells: B₂Ta, AuCu₃")
    assert story.orphans == 0
    assert "does not answer" in story.trouble
    assert story.after == ["interrupted"] and "the server ended" in story.words
    assert job_states(story.page)[-1] == "done"


def test_crystals_turn_and_sort_and_are_told_in_numbers(page):
    assert page.locator("#gallery button").count() == 4
    first = picture(page)
    page.focus("#canvas")
    page.keyboard.press("ArrowLeft")
    assert picture(page) != first
    numbers = "all => all.map(each => shown.byNumber.get(Number(each.dataset.number)))"
    for key in ("volume", "group", "estimated_energy"):
        page.select_option("#sort", key)
        rows = page.eval_on_selector_all("#gallery button", numbers)
        values = [row[key] for row in rows]
        assert values == sorted(values), key
        page.click("#descending")
        rows = page.eval_on_selector_all("#gallery button", numbers)
        assert [row[key] for row in rows] == values[::-1]
        page.click("#descending")
    page.locator("#gallery button", has_text="TaB₂").or_(
        page.locator("#gallery button", has_text="B₂Ta")
    ).first.click()
    wait_until(page, "document.querySelectorAll('#sites tbody tr').length === 3")
    details = page.inner_text("#details")
    assert "none with these elements" in details
    assert "Wyckoff positions" in details and "Å³/atom" in details
    assert "Ta" in page.inner_text("#shells")


def test_a_downloaded_cif_is_the_crystal(page):
    page.locator("#gallery button").first.click()
    with page.expect_download() as download:
        page.click("#get-cif")
    text = pathlib.Path(download.value.path()).read_text()
    crystal = cif.parse_cif(text)
    row = page.evaluate("shown.byNumber.get(shown.number)")
    assert elements.cell_formula(crystal.atomic_numbers) == row["formula"]
    volume = abs(np.linalg.det(crystal.lattice)) / crystal.num_sites
    assert volume == pytest.approx(row["volume"], abs=1e-4)
    assert download.value.suggested_filename == f"{row['name']}.cif"
    # The command that makes the same again.
    command = page.evaluate("document.querySelector('#command').textContent")
    assert command.startswith("crystaljax sample --formulas=TaB2,Cu3Au ")


def test_a_reload_shows_the_same(page):
    job = page.evaluate("shown.job")
    page.reload()
    wait_until(page, "document.body.dataset.ready === 'true'")
    assert page.evaluate("shown.job") == job
    assert page.locator("#gallery button").count() == 4


def test_chosen_crystals_are_relaxed_and_put_on_the_hull(story, page):
    made = page.evaluate("shown.job")
    count = len(job_states(page))
    # With B and Ta among them EMT cannot.
    emt = page.locator("#calculator option[value=emt]")
    assert emt.is_disabled() and "Ta" in emt.inner_text()
    alloys = page.evaluate(
        "shown.rows.filter(row => row.formula === 'Au1Cu3').map(row => row.number)"
    )
    page.check(f"[data-choose='{alloys[0]}']")
    assert page.inner_text("#chosen-count") == "1 chosen"
    page.select_option("#calculator", "emt")
    page.select_option("#hull", "builtin")
    page.click("#relax button[type=submit]")
    wait_until(page, f"shown && shown.job !== '{made}'", 120)
    ranked = page.evaluate("shown.rows")
    assert [row["number"] for row in ranked] == [1]
    assert abs(ranked[0]["relaxed_energy"]) < 0.3
    assert "ASE EMT" in page.inner_text("#notes")
    title = page.inner_text("#systems h3")
    assert title == "Au–Cu" and page.locator("#systems svg").count() == 1
    assert page.evaluate("charts[0].points.some(each => each.row !== undefined)")
    details = page.inner_text("#details")
    assert "relaxed energy" in details
    with page.context.expect_page() as report:
        page.click("#report")
    report.value.wait_for_load_state()
    assert report.value.title().startswith("Screening")
    report.value.close()
    # Another tab sees the same jobs; what is removed there is gone here.
    with opened(story.browser, story.address) as other:
        assert job_states(other) == job_states(page)
        other.on("dialog", lambda dialog: dialog.accept())
        other.locator("#jobs li").first.locator("[data-act=remove]").click()
        wait_for_jobs(page, count)
        wait_until(page, "byId('crystals').hidden")
    page.locator(f"[data-job='{made}'] [data-act=show]").click()
    wait_until(page, f"shown !== null && shown.job === '{made}'")


def test_a_bad_file_is_refused_and_names_are_text(page, tmp_path):
    bad = tmp_path / f"{INJECTION.replace('/', '')}.cif"
    bad.write_text(INJECTION)
    page.set_input_files("#upload", bad)
    wait_until(page, "document.querySelector('#upload-note.trouble')", 30)
    assert "holds no crystal" in page.inner_text("#upload-note")
    assert not page.is_visible("#uploaded")
    page.fill("#composition", INJECTION)
    wait_until(page, "document.querySelector('#check.bad')")
    assert "<img" in page.inner_text("#check")
    assert page.evaluate("window.hacked === undefined")
    page.fill("#composition", "")


def test_an_uploaded_crystal_is_drawn_with_what_can_be_done(page, tmp_path):
    path = tmp_path / "mine.vasp"
    coords = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    crystal = structure.Crystal(np.array([79, 29, 29, 29]), coords, 3.8 * np.eye(3))
    path.write_text(structure_files.poscar_text(crystal, "mine"))
    page.set_input_files("#upload", path)
    wait_until(page, "!byId('uploaded').hidden", 30)
    assert page.inner_text("#upload-formula") == "AuCu₃"
    assert page.inner_text("#upload-name") == "mine.vasp"
    kinds = page.eval_on_selector_all(
        "[data-upload]", "all => all.map(each => each.dataset.upload)"
    )
    assert kinds == ["relax", "keep", "modify"]
    # What the library says stands beside the button.
    page.click("[data-upload=keep]")
    wait_until(page, "byId('upload-actions').innerText.includes('nothing is kept')")


def test_elements_are_picked_with_the_keyboard(page):
    page.fill("#composition", "")
    page.focus("#periodic button[tabindex='0']")
    for key in ("ArrowDown", "ArrowRight"):
        page.keyboard.press(key)
    page.keyboard.press("Enter")
    assert page.input_value("#composition") == "Be"
    assert page.locator("#periodic [aria-pressed=true]").inner_text() == "Be"
    page.check("input[name=what][value=system]")
    page.locator("#periodic button", has_text="Te").click()
    assert page.input_value("#composition") == "Be-Te"
    page.check("input[name=group][value=choice]")
    wait_until(page, "byId('groups').options[224].text.includes('✓')")
    page.check("input[name=what][value=formula]")
    assert page.input_value("#composition") == "BeTe"
    page.check("input[name=group][value='']")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_sticks_out_of_a_phone(story, scheme):
    options = {"viewport": {"width": 390, "height": 844}, "color_scheme": scheme}
    job = story.page.evaluate("shown.job")
    with opened(story.browser, f"{story.address}#{job}", **options) as page:
        wait_until(page, "shown !== null")
        settle(page)
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        color = page.evaluate("getComputedStyle(document.body).backgroundColor")
        expected = {"light": "rgb(255, 255, 255)", "dark": "rgb(18, 21, 26)"}
        assert color == expected[scheme]
