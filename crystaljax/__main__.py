"""The command ``crystaljax``: a verb, then the flags of that command.

Imports no command but the one that is requested: some take seconds.
"""

import ast
import difflib
import importlib
import importlib.metadata
import pathlib
import sys
from collections.abc import Sequence

VERBS = (
    "prepare",
    "train",
    "evaluate",
    "score",
    "sample",
    "modify",
    "screen",
    "export",
    "collect",
    "import-torch",
    "export-model",
    "models",
    "app",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command.

    Args:
        arguments: without the name of the program; those of the process if None.

    Raises:
        SystemExit: no such command, or what it raises.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("--help", "-h", "help"):
        print(help_text())
        return
    if arguments[0] == "--version":
        print(f"crystaljax {importlib.metadata.version('crystaljax')}")
        return
    verb = arguments[0].replace("_", "-")
    if verb not in VERBS:
        close = difflib.get_close_matches(verb, VERBS, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]}?" if close else "see crystaljax --help"
        raise SystemExit(f"error: no command {arguments[0]!r}; {hint}")
    importlib.import_module(f"crystaljax.{_module(verb)}").main(arguments[1:])


def help_text() -> str:
    """The commands, with a line for each."""
    lines = [
        "crystaljax COMMAND --flag=value …",
        "",
        *(f"  {verb:<14}{_summary(verb)}" for verb in VERBS),
        "",
        "crystaljax COMMAND --help shows the flags of a command.",
    ]
    return "\n".join(lines)


def _module(verb: str) -> str:
    # Folders have the names.
    special = {"models": "list_models", "app": "serve_app"}
    return special.get(verb, verb.replace("-", "_"))


def _summary(verb: str) -> str:
    """First line of a command's docstring, which is read and not imported."""
    source = pathlib.Path(__file__).with_name(f"{_module(verb)}.py")
    docstring = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8")))
    return (docstring or "").partition("\n")[0]


if __name__ == "__main__":
    main()
