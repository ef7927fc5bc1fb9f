r"""Shows the trained models of the package, and what they are good for.

crystaljax models
crystaljax models --model=mine
"""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from crystaljax import command_line
from crystaljax.system import options as options_lib

# Of a card, in this order, by what is printed before them.
_SHOWN = {
    "data": "data",
    "licence": "licence",
    "energy_model": "energies",
    "network": "network",
    "measured": "measured",
    "not_for": "not for",
}


@options_lib.frozen
class ListModelsOptions:
    """Which models to show."""

    model: str | None = options_lib.option(
        "Name or folder of a model; all of the package by default.", default=None
    )


def describe(name: str, card: Mapping[str, Any]) -> str:
    """The card of a model, as it is printed."""
    lines = [f"{name}: {card['title']}"]
    elements = card["elements"]
    lines += _wrap(
        "elements",
        f"{len(elements)}: {' '.join(elements)}; up to "
        f"{card['max_sites']} atoms in a primitive cell",
    )
    for key, label in _SHOWN.items():
        value = card.get(key)
        for text in [value] if isinstance(value, str) else value or ():
            lines += _wrap(label, text)
    return "\n".join(lines)


def _wrap(label: str, text: str) -> list[str]:
    return textwrap.wrap(
        text, 88, initial_indent=f"  {label:<10}", subsequent_indent=" " * 12
    )


def _run(chosen: ListModelsOptions) -> None:
    from crystaljax.training import model_files

    if chosen.model is not None:
        folder = model_files.resolve(None, chosen.model)
        print(describe(chosen.model, model_files.load_card(folder)))
        return
    for name, folder in sorted(model_files.shipped().items()):
        print(describe(name, model_files.load_card(folder)))


COMMAND = command_line.Command(
    "models", __doc__, (ListModelsOptions,), _run, uses_devices=False
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line; ``arguments`` are those of the process if None."""
    command_line.run(COMMAND, arguments)


if __name__ == "__main__":
    main()
