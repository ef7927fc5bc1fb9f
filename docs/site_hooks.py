"""What MkDocs does beside rendering docs/: pages that lie elsewhere in the repository.

Documents of the top level and of the experiments become pages of the site, where they
are and as they are. Links are written for the repository; here those between pages are
made to fit the site, and what is no page (scripts, records) is named and not linked.
"""

import pathlib
import posixpath
import re
from collections.abc import Iterator

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = pathlib.Path(__file__).parents[1]
TOP = ("CONTRIBUTING.md", "ARCHITECTURE.md", "SECURITY.md", "CHANGELOG.md")
_LINK = re.compile(r"(!?)\[([^\]\[]*)\]\(([^)\s]+)\)")
_CODE = re.compile(r"(^```.*?^```|`[^`\n]*`)", re.DOTALL | re.MULTILINE)


def pages_elsewhere() -> Iterator[pathlib.Path]:
    """Documents and pictures outside docs/ that are part of the site."""
    yield from (ROOT / name for name in TOP)
    yield ROOT / "experiments" / "README.md"
    for pattern in ("*/README.md", "**/table*.md", "**/*.png"):
        yield from sorted((ROOT / "experiments").glob(pattern))


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds them."""
    for path in pages_elsewhere():
        name = path.relative_to(ROOT).as_posix()
        files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(
    markdown: str, page: Page, config: MkDocsConfig, files: Files
) -> str:
    """Links of the repository → links of the site."""
    parts = _CODE.split(markdown)
    for i in range(0, len(parts), 2):
        parts[i] = _LINK.sub(lambda match: _fit(match, page, files), parts[i])
    return "".join(parts)


def _fit(match: re.Match[str], page: Page, files: Files) -> str:
    mark, text, target = match.groups()
    name, _, anchor = target.partition("#")
    if not name or re.match(r"[a-z]+:", target):
        return match[0]
    source = page.file.src_uri
    # In the repository the pages of docs/ lie one folder deeper.
    elsewhere = {path.relative_to(ROOT).as_posix() for path in pages_elsewhere()}
    where = source if source in elsewhere else f"docs/{source}"
    path = posixpath.normpath(posixpath.join(posixpath.dirname(where), name))
    uri = path.removeprefix("docs/")
    if files.get_file_from_path(uri) is None:
        if not (ROOT / path).exists():
            # MkDocs warns of it.
            return match[0]
        return text if mark else f"{text} (`{path}`)"
    relative = posixpath.relpath(uri, posixpath.dirname(source) or ".")
    return f"{mark}[{text}]({relative}{'#' if anchor else ''}{anchor})"
