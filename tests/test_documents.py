"""Documents: their links lead somewhere, and what they list is what there is."""

import functools
import pathlib
import re
import tomllib

import pytest
from test_imports import LAYERS, MODULES

import crystaljax

ROOT = pathlib.Path(__file__).parents[1]
# What is no document of the repository: environments, outputs of commands.
IGNORED = {".git", ".venv", "build", "dist", "runs", "data", "quickstart", "outputs"}
IGNORED |= {".pytest_cache", "node_modules", "site", "wheels", "unpacked", "cache"}
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in (".", *(each.name for each in ROOT.iterdir() if each.is_dir()))
    if folder not in IGNORED and not folder.endswith(".egg-info")
    for path in (ROOT / folder).glob("*.md" if folder == "." else "**/*.md")
    if not set(path.relative_to(ROOT).parts) & (IGNORED - {"data"})
)
# [text](target) and ![alt](target); a title behind the target does not count.
LINK = re.compile(r"\[[^\]\[]*\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)")
CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.DOTALL | re.MULTILINE)


def links(text):
    """Targets of the links of a document, those in code left out."""
    return LINK.findall(CODE.sub("``", text))


def anchors(text):
    """Names that its headings have, as GitHub and MkDocs make them."""
    without_code = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ +(.*?) *$", without_code, re.MULTILINE)
    kept = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.strip().replace(" ", "-") for heading in kept}


@functools.cache
def read(path):
    return path.read_text(encoding="utf-8")


def broken(document, text):
    """Relative links of a document that lead nowhere."""
    found = []
    for target in links(text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (ROOT / document).parent / name if name else ROOT / document
        is_there = path.exists() and (
            not anchor or path.suffix != ".md" or anchor in anchors(read(path))
        )
        if not is_there:
            found.append(target)
    return found


def test_documents_are_found():
    assert {"README.md", "docs/scale.md", "experiments/gpu/README.md"} <= set(DOCUMENTS)


def test_a_broken_link_is_found():
    text = "[a](scale.md#speed-and-scale) [b](gone.md) [c](scale.md#gone) `[d](e.md)`"
    assert broken("docs/data.md", text) == ["gone.md", "scale.md#gone"]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_relative_links_lead_somewhere(document):
    assert broken(document, read(ROOT / document)) == []


def test_architecture_names_all_folders_in_their_order():
    text = read(ROOT / "ARCHITECTURE.md")
    stated = re.search(r"The order, lowest first: (.*?)\.\n", text, re.DOTALL)[1]
    assert tuple(stated.split(" → ")) == (*LAYERS, "commands") or tuple(
        " ".join(stated.split()).split(" → ")
    ) == (*LAYERS, "commands")
    drawn = re.findall(r"│ ([a-z]+) ", text.partition("```text")[2].partition("```")[0])
    modules = {"defaults", "command_line"}
    assert [name for name in reversed(drawn) if name in LAYERS] == [
        name for name in LAYERS if name not in modules
    ]


def test_index_lists_all_experiments():
    text = read(ROOT / "experiments/README.md")
    folders = {path.parent.name for path in (ROOT / "experiments").glob("*/*.py")}
    # What stands in the index as makers.
    folders -= {"builtin_alloys", "tables"}
    assert sorted(name for name in folders if f"({name}/" not in text) == []


def test_site_has_every_page_and_no_other():
    config = read(ROOT / "mkdocs.yml")
    listed = re.findall(r"([\w./-]+\.md)$", config.partition("\nnav:")[2], re.M)
    pages = {
        path.relative_to(ROOT / "docs").as_posix()
        for path in (ROOT / "docs").rglob("*.md")
    }
    elsewhere = {name for name in listed if (ROOT / name).is_file()}
    assert set(listed) - elsewhere == pages
    assert len(listed) == len(set(listed))


def test_modules_of_the_api_pages_are_there():
    text = "".join(read(path) for path in (ROOT / "docs/api").glob("*.md"))
    modules = re.findall(r"^::: (crystaljax[.\w]*)$", text, re.M)
    assert len(modules) > 40
    assert [name for name in modules if name not in MODULES] == []


def test_versions_agree():
    project = tomllib.loads(read(ROOT / "pyproject.toml"))["project"]
    citation = re.search(r"^version: (.*)$", read(ROOT / "CITATION.cff"), re.M)[1]
    assert citation == project["version"] == crystaljax.__version__


def test_workflow_checks_what_contributing_says():
    workflow = read(ROOT / ".github/workflows/checks.yml")
    for command in (
        "pytest",
        "ruff check .",
        "ruff format --check .",
        "pyright",
        "mkdocs build --strict",
        "python -m build",
    ):
        assert f"- run: {command}" in workflow, command
        assert command in read(ROOT / "CONTRIBUTING.md"), command
