"""Makes the pictures of docs/app.md: somebody uses the page, at three widths.

    python docs/app_pictures.py

Needs playwright and Chromium, as the tests of pages do, and `crystaljax[app]`. The
crystals are made by the model of the package and relaxed with EMT; takes a minute.
"""

import io
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from typing import Any

from PIL import Image
from playwright import sync_api

FOLDER = pathlib.Path(__file__).parent / "images"
# Width, height (0: the whole page), colour scheme, name.
VIEWS = (
    (1280, 0, "light", "app_desktop"),
    (820, 2300, "dark", "app_tablet"),
    (390, 2500, "light", "app_phone"),
)
# A quarter of the size, and none sees it.
NUM_COLORS = 128


def wait_until(page: sync_api.Page, condition: str, seconds: int = 120) -> None:
    """Waits for a JavaScript condition; the page's policy forbids playwright's way."""
    for _ in range(10 * seconds):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(100)
    raise TimeoutError(condition)


def since(start: float) -> str:
    """Seconds, in words."""
    return f"{time.monotonic() - start:.0f} s"


def ask(page: sync_api.Page) -> tuple[str, str]:
    """Asks for crystals and relaxes the alloys; IDs of the two jobs."""
    start = time.monotonic()
    page.fill("#composition", "TaB2, Cu3Au, BaTiO3")
    page.fill("#num-samples", "4")
    page.click("#ask button[type=submit]")
    wait_until(page, "shown !== null")
    print(f"12 crystals, from the click to the pictures: {since(start)}")
    made = page.evaluate("shown.job")
    alloys = page.evaluate(
        "shown.rows.filter(row => row.formula === 'Au1Cu3').map(row => row.number)"
    )
    for number in alloys:
        page.check(f"[data-choose='{number}']")
    page.select_option("#calculator", "emt")
    page.select_option("#hull", "builtin")
    start = time.monotonic()
    page.click("#relax button[type=submit]")
    wait_until(page, f"shown.job !== '{made}'")
    print(f"4 of them relaxed with EMT, on the hull: {since(start)}")
    return made, page.evaluate("shown.job")


def open_page(
    browser: sync_api.Browser, address: str, width: int, scheme: str, height: int = 0
) -> sync_api.Page:
    """The page in a window of its own."""
    page = browser.new_page(
        viewport={"width": width, "height": height or 900}, color_scheme=scheme
    )
    page.goto(address)
    wait_until(page, "document.body.dataset.ready === 'true'")
    return page


def save(what: Any, name: str, full_page: bool = False) -> None:
    """A picture of a page, or of a part of it."""
    content = what.screenshot(**({"full_page": True} if full_page else {}))
    picture = Image.open(io.BytesIO(content)).convert("RGB")
    path = FOLDER / f"{name}.png"
    picture.quantize(NUM_COLORS).save(path, optimize=True)


def main() -> None:
    """Command line."""
    FOLDER.mkdir(exist_ok=True)
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    with tempfile.TemporaryDirectory() as folder:
        start = time.monotonic()
        server = subprocess.Popen(
            [sys.executable, "-m", "crystaljax", "app", "--no_browser"],
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
        )
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        with sync_api.sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=path, args=["--no-sandbox"]
            )
            page = open_page(browser, address, 1280, "light")
            print(f"from the command to the page: {since(start)}")
            made, relaxed = ask(page)
            for width, height, scheme, name in VIEWS:
                page = open_page(browser, f"{address}#{made}", width, scheme, height)
                page.fill("#composition", "TaB2")
                wait_until(page, "byId('check').textContent && byId('sites').innerText")
                page.evaluate("document.activeElement.blur()")
                page.wait_for_timeout(500)
                save(page, name, height == 0)
            page = open_page(browser, f"{address}#{relaxed}", 1280, "light")
            wait_until(page, "byId('sites').innerText && charts.length")
            page.wait_for_timeout(500)
            save(page.locator("#crystals"), "app_hull")
            browser.close()
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
