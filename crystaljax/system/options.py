"""Options of a command: fields of a frozen dataclass that say what they mean.

A field is the one home of an option: its type and default, what it means, the values it
may have. `frozen` puts that into the docstring of the class, and `command_line` makes a
flag of it.
"""

import dataclasses
import textwrap
import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

_Class = TypeVar("_Class", bound=type)


@dataclasses.dataclass(frozen=True)
class About:
    """What the documentation and the flag of an option are made of.

    Attributes:
        help: what it means, in sentences.
        choices: the values it may have; any if empty.
        lower: the least value of a number.
        upper: the greatest value of a number.
        parse: text → value, where the type alone does not say how.
        zero_is_none: a flag of 0 stands for None.
        presets: of an option that is itself a dataclass of options: instances by name.
            The flag ``preset_flag`` chooses one, and each of its fields has a flag too.
        preset_flag: name of that flag; the first of the presets is its default.
        is_positional: the flag's value may stand alone among the arguments.
        bare: what the flag says where it stands without a value; "" if it needs one.
        is_config: a config (`ml_collections`), which has a flag for each of its keys.
    """

    help: str
    choices: tuple[str, ...] = ()
    lower: float | int | None = None
    upper: float | int | None = None
    parse: Callable[[str], Any] | None = None
    zero_is_none: bool = False
    presets: Mapping[str, Any] | None = None
    preset_flag: str = ""
    is_positional: bool = False
    bare: str = ""
    is_config: bool = False


def option(help: str, *, default: Any = dataclasses.MISSING, **about: Any) -> Any:
    """A field of a class of options; required without a default.

    Args:
        help: see `About`.
        default: of the field.
        **about: other attributes of `About`.
    """
    return dataclasses.field(default=default, metadata={"about": About(help, **about)})


@typing.dataclass_transform(
    frozen_default=True, kw_only_default=True, field_specifiers=(option,)
)
def frozen(cls: _Class) -> _Class:
    """Makes a frozen dataclass with keyword arguments, whose docstring lists them."""
    made = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
    lines = [made.__doc__ or "", "", "Attributes:"]
    for field in dataclasses.fields(made):
        text = f"{field.name}: {about(field).help}"
        lines.append(textwrap.indent(textwrap.fill(text, 80), "    "))
    made.__doc__ = "\n".join(lines)
    return made


def about(field: dataclasses.Field) -> About:
    """What an option means."""
    return field.metadata["about"]
