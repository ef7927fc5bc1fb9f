"""Chromium for tests of pages."""

import contextlib
import shutil

import pytest


@contextlib.contextmanager
def chromium():
    """A browser; the test is skipped where there is none."""
    api = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed"
    )
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox"]
        )
        yield browser
        browser.close()


def settle(page):
    """Waits until what was asked for is drawn."""
    page.evaluate(
        "() => new Promise(done => requestAnimationFrame(() => "
        "requestAnimationFrame(done)))"
    )


def wait_until(page, condition, seconds=10):
    """Waits for a JavaScript condition.

    Playwright's own waiting evaluates text within the page, which its policy forbids.
    """
    for _ in range(10 * seconds):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(100)
    pytest.fail(f"still not so: {condition}")


def picture(page):
    """What is painted of the crystal that is looked at."""
    settle(page)
    return page.evaluate("document.querySelector('#canvas').toDataURL()")
