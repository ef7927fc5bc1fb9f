"""The pictures of the README: the pipeline, and a report of the quick start.

    python experiments/quickstart.py
    python docs/make_pictures.py

writes `docs/images/pipeline.png` and, with Chromium and playwright (``pip install
playwright``), `docs/images/report.png`.
"""

import argparse
import pathlib
import shutil

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

FOLDER = pathlib.Path(__file__).parent / "images"
# Command, what goes in, what comes out.
STEPS = (
    ("prepare", "CIFs and energies,\nAFLOW, OPTIMADE, …", "data set"),
    ("train", "or the model mp\nof the package", "model"),
    ("sample, modify", "formulas, groups,\nenergies; a crystal", "crystals"),
    ("screen", "potential,\nknown crystals", "candidates"),
    ("export", "VASP,\nQuantum ESPRESSO", "inputs"),
    ("collect", "finished runs", "what holds"),
)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--report", default="quickstart/screening/report.html")
    options = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    draw_pipeline(FOLDER / "pipeline.png")
    report = pathlib.Path(options.report)
    if report.exists():
        photograph(report, FOLDER / "report.png")
    else:
        print(f"{report} is not there; run experiments/quickstart.py for it")


def draw_pipeline(path: pathlib.Path) -> None:
    """One box a command, with what it takes above and what it leaves below."""
    figure, axes = plt.subplots(figsize=(11, 2.3), dpi=110)
    axes.set_xlim(0, len(STEPS))
    axes.set_ylim(0, 2.3)
    axes.axis("off")
    box = {"boxstyle": "round,pad=0.45", "facecolor": "#e8eef9", "edgecolor": "#3558a0"}
    arrow = {"arrowstyle": "->", "color": "#3558a0", "shrinkA": 0, "shrinkB": 0}
    for number, (command, taken, left) in enumerate(STEPS):
        x = number + 0.5
        axes.text(
            x, 1.1, command, ha="center", va="center", bbox=box, family="monospace"
        )
        axes.text(x, 1.75, taken, ha="center", va="center", size=8, color="#555555")
        axes.text(x, 0.5, left, ha="center", va="center", size=9, weight="bold")
        if number + 1 < len(STEPS):
            start, end = (x + 0.36, 0.5), (x + 0.64, 0.5)
            axes.annotate("", end, start, arrowprops=arrow)
    figure.savefig(path, bbox_inches="tight", facecolor="white")
    print(f"written: {path}")


def photograph(report: pathlib.Path, path: pathlib.Path) -> None:
    """The candidates of a report, as Chromium shows them."""
    from playwright import sync_api

    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    browser_path = next(filter(None, map(shutil.which, names)), None)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=browser_path, args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": 1200, "height": 760})
        page.goto(report.absolute().as_uri())
        page.locator("#candidates-heading").evaluate(
            "element => element.scrollIntoView()"
        )
        page.wait_for_timeout(2000)
        page.screenshot(path=path)
        browser.close()
    print(f"written: {path}")


if __name__ == "__main__":
    main()
