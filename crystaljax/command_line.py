"""Command lines: flags made of the options, errors as one line, quiet logs.

Imports nothing that takes long, so that --help can be quick.
"""

import dataclasses
import itertools
import os
import re
import sys
import textwrap
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from absl import flags, logging

from crystaljax.system import config_files, errors, interruption, options

# What the package raises for bad input; anything else is a bug and keeps its traceback.
USER_ERRORS = (
    errors.UserError,
    errors.MissingPackageError,
    FileExistsError,
    FileNotFoundError,
    FloatingPointError,
)

# Characters of a flag's name: no flag is nearly as long.
_LONGEST_FLAG = 100


@dataclasses.dataclass(frozen=True)
class Command:
    """A command of the package.

    Attributes:
        name: its verb.
        doc: what --help says before the flags.
        options: classes of options (`options.frozen`); their fields are the flags.
        run: called with one instance of each of them.
        uses_devices: whether it computes with JAX; if so, other processes are joined
            and programs compiled before are found.
        renamed: flags of older versions → what they are called now.
        goes_on: how it goes on after it was stopped; "" if it starts again.
    """

    name: str
    doc: str | None
    options: tuple[type, ...]
    run: Callable[..., None]
    uses_devices: bool = True
    renamed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    goes_on: str = ""


def run(command: Command, arguments: Sequence[str] | None = None) -> None:
    """Runs a command with its arguments; may be called any number of times.

    Args:
        command: which one.
        arguments: without the name of the program; those of this process if None.

    Raises:
        SystemExit: with one line, where the flags or what they name cannot be used;
            with `interruption.EXIT_STATUS` where a signal asked it to stop.
    """
    try:
        with interruption.handled():
            _run(command, arguments)
    except interruption.Stopped as stopped:
        _close_progress_bars()
        goes_on = f"; {command.goes_on}" if command.goes_on else ""
        print(f"{stopped}{goes_on}", file=sys.stderr)
        raise SystemExit(interruption.EXIT_STATUS) from None


def _run(command: Command, arguments: Sequence[str] | None) -> None:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    if not debug:
        # Orbax reports every file that it touches, and errors that are explained in one
        # line with their traceback.
        logging.set_verbosity(logging.FATAL)
    try:
        given = parse(command, arguments)
        if given is None:
            _print_help(command)
            return
        if command.uses_devices:
            from crystaljax.system import startup

            startup.initialize_processes()
            startup.enable_compilation_cache()
        command.run(*given)
    except (*USER_ERRORS, OSError) as error:
        text = errors.describe_disk_error(error) if isinstance(error, OSError) else None
        if debug or (text is None and not isinstance(error, USER_ERRORS)):
            raise
        _close_progress_bars()
        text = with_flags(text or str(error), command)
        raise SystemExit(f"error: {text}") from error


def _close_progress_bars() -> None:
    """Ends their lines: what is said next has one of its own.

    Those of generators that nobody asks any more are open until the process ends.
    """
    tqdm: Any = sys.modules.get("tqdm")
    for bar in list(getattr(tqdm and tqdm.tqdm, "_instances", ())):
        bar.close()


def _print_help(command: Command) -> None:
    try:
        print(help_text(command), flush=True)
    except BrokenPipeError:
        # Whoever reads it, such as `head`, has enough; nothing is left to flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def parse(command: Command, arguments: Sequence[str]) -> list[Any] | None:
    """Arguments → an instance of each class of options; None if help was requested.

    Raises:
        UserError: an unknown or missing flag, or a value that it cannot have.
        FileNotFoundError: there is no such config.
    """
    values = flags.FlagValues()
    flags.DEFINE_bool("help", False, "", flag_values=values)
    flags.DEFINE_bool("debug", False, "", flag_values=values)
    for name in ("helpfull", "helpshort"):
        flags.DEFINE_alias(name, "help", flag_values=values)
    arguments = values.read_flags_from_files(list(arguments))
    for argument in arguments:
        name = argument.partition("=")[0]
        if name.startswith("-") and len(name) > _LONGEST_FLAG:
            # Absl would look for the nearest of all flags, ever deeper.
            raise errors.UserError(
                f"unknown flag {name[:40]!r}…; --help shows all flags"
            )
    for old, new in command.renamed.items():
        if any(re.match(rf"--?{old}(=|$)", argument) for argument in arguments):
            raise errors.UserError(f"--{old} is called --{new} now")
    configs = {}
    see = "--help shows all flags"
    for flag in _flags(command):
        if flag.about.is_config:
            configs[flag.flag], arguments = _take_config(flag.flag, arguments)
        else:
            _define_flag(flag, values)
    positional = [flag.flag for flag in _flags(command) if flag.about.is_positional]
    # What stands alone may come before flags too.
    values.set_gnu_getopt(bool(positional))
    try:
        for name, config in configs.items():
            if config is not None:
                _define_config(name, config, arguments, values)
        left = values([command.name, *_with_values(command, arguments)])[1:]
        for name in positional:
            if left and values[name].value is None:
                values[name].value = left.pop(0)
    except flags.Error as error:
        raise errors.UserError(f"{' '.join(str(error).split())}; {see}") from error
    # What ml_collections raises for keys that are not there, and values of other types.
    except (AttributeError, KeyError, TypeError) as error:
        reason = error
        while reason.args and isinstance(reason.args[0], Exception):
            reason = reason.args[0]
        text = " ".join(str(reason.args[0] if reason.args else reason).split())
        raise errors.UserError(f"no such key in the config: {text}") from error
    if values["help"].value:
        return None
    if left:
        raise errors.UserError(f"unexpected arguments {' '.join(left)}; {see}")
    missing = [
        f"--{flag.flag}"
        for flag in _flags(command)
        if flag.is_required
        and (configs if flag.about.is_config else values.flag_values_dict())[flag.flag]
        is None
    ]
    if missing:
        raise errors.UserError(f"give {' and '.join(missing)}; {see}")
    return [_build(kind, values, configs) for kind in command.options]


def _with_values(command: Command, arguments: Sequence[str]) -> list[str]:
    """Arguments with the values of flags that may stand without one."""
    bare = {flag.flag: flag.about.bare for flag in _flags(command) if flag.about.bare}
    completed = []
    for argument, following in itertools.zip_longest(arguments, arguments[1:]):
        value = bare.get(argument.lstrip("-"), "")
        # A number may have a sign of its own.
        has_value = re.match(r"-?[0-9.]", following or "") or following == value
        if value and argument.startswith("-") and not has_value:
            argument = f"{argument}={value}"
        completed.append(argument)
    return completed


@dataclasses.dataclass(frozen=True)
class _Flag:
    """A flag, the field that it sets, and what it says of it."""

    flag: str
    kind: Any
    default: Any
    about: options.About
    is_required: bool = False


def _flags(command: Command) -> Iterator[_Flag]:
    """All flags of a command, in the order of the options."""
    for kind in command.options:
        yield from _flags_of(kind)


def _flags_of(kind: type) -> Iterator[_Flag]:
    kinds = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        about = options.about(field)
        is_required = field.default is dataclasses.MISSING
        default = None if is_required else field.default
        if about.presets is None:
            yield _Flag(field.name, kinds[field.name], default, about, is_required)
            continue
        names = tuple(about.presets)
        chosen = dataclasses.replace(about, choices=names, presets=None)
        yield _Flag(about.preset_flag, str, names[0], chosen)
        for inner in _flags_of(type(about.presets[names[0]])):
            text = f"{inner.about.help} --{about.preset_flag} says it if not given."
            yield dataclasses.replace(
                inner,
                default=None,
                about=dataclasses.replace(inner.about, help=text),
                is_required=False,
            )


def _build(kind: type, values: flags.FlagValues, configs: dict[str, Any]) -> Any:
    """The options that the flags say."""
    given: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        about = options.about(field)
        if about.is_config:
            given[field.name] = configs[field.name]
        elif about.presets is not None:
            preset = about.presets[str(values[about.preset_flag].value)]
            changes = {
                each.flag: values[each.flag].value for each in _flags_of(type(preset))
            }
            changes = {name: v for name, v in changes.items() if v is not None}
            given[field.name] = dataclasses.replace(preset, **changes)
        else:
            value = values[field.name].value
            if isinstance(value, list):
                value = tuple(value) if value or field.default == () else None
            if about.zero_is_none and value == 0:
                value = None
            given[field.name] = value
    return kind(**given)


class _Parser(flags.ArgumentParser):
    """Parses by a function."""

    def __init__(self, parse_fn: Callable[[str], Any]):
        super().__init__()
        self._parse_fn = parse_fn

    def parse(self, argument: Any) -> Any:
        """Returns what the flag says."""
        return self._parse_fn(argument)


def _define_flag(flag: _Flag, values: flags.FlagValues) -> None:
    about, name, default = flag.about, flag.flag, flag.default
    kinds = _kinds(flag.kind)
    parser: flags.ArgumentParser
    if about.parse is not None:
        parser = _Parser(about.parse)
    elif choices := _choices(flag):
        parser = flags.EnumParser(choices)
    elif bool in kinds:
        flags.DEFINE_bool(name, default, "", flag_values=values)
        return
    elif str in kinds:
        parser = flags.ArgumentParser()
    elif float in kinds:
        parser = flags.FloatParser(about.lower, about.upper)
    elif int in kinds:
        parser = flags.IntegerParser(_integer(about.lower), _integer(about.upper))
    else:
        parser = flags.ListParser()
        default = default and list(default)
    flags.DEFINE(parser, name, default, "", flag_values=values)


def _integer(limit: float | int | None) -> int | None:
    return None if limit is None else int(limit)


def _kinds(kind: Any) -> tuple[Any, ...]:
    """The types that a value may have."""
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return typing.get_args(kind)
    return (kind,)


def _choices(flag: _Flag) -> tuple[str, ...]:
    for kind in _kinds(flag.kind):
        if typing.get_origin(kind) is typing.Literal:
            return typing.get_args(kind)
    return flag.about.choices


# ------------------------------------------------------------------------------ configs
def _take_config(name: str, arguments: Sequence[str]) -> tuple[Any, list[str]]:
    """The config that arguments name, None without one, and the other arguments."""
    left: list[str] = []
    spec = None
    rest = iter(arguments)
    for argument in rest:
        match = re.fullmatch(rf"--?{name}(=.*)?", argument, re.DOTALL)
        if match is None:
            left.append(argument)
        else:
            spec = match.group(1)[1:] if match.group(1) else next(rest, "")
    return None if spec is None else config_files.load(spec), left


def _define_config(
    name: str, config: Any, arguments: Sequence[str], values: flags.FlagValues
) -> None:
    """Defines flags for the keys of a config, which change it as they are parsed."""
    from ml_collections import config_flags

    config_flags.DEFINE_config_dict(
        name, config, flag_values=values, sys_argv=["", *arguments]
    )


# --------------------------------------------------------------------------------- text
_ARGUMENT = re.compile(r"`([a-z_]\w*(?:\.\w+)*)=([^`]*)`")


def with_flags(text: str, command: Command) -> str:
    """Arguments that a message names as `name=value`, as flags of the command."""
    names = {flag.flag for flag in _flags(command)}
    prefixes = tuple(
        f"{flag.flag}." for flag in _flags(command) if flag.about.is_config
    )

    def flag(match: re.Match[str]) -> str:
        name, value = match.groups()
        if name not in names and not name.startswith(prefixes):
            return match.group()
        if value in ("", "True"):
            return f"--{name}"
        if value == "False":
            return f"--no{name}"
        quotes = "'\""
        return f"--{name}={value.strip(quotes)}"

    return _ARGUMENT.sub(flag, text)


def help_text(command: Command) -> str:
    """What --help prints."""
    lines = [(command.doc or "").strip(), "", "Flags:"]
    for flag in _flags(command):
        lines += _describe(flag)
    lines += ["  --debug", "      Show the traceback of every error, and all logs."]
    return with_flags("\n".join(lines), command)


def _describe(flag: _Flag) -> list[str]:
    kinds, about = _kinds(flag.kind), flag.about
    notes = []
    if flag.is_required:
        notes.append("required")
    elif flag.default not in (None, "", (), False):
        notes.append(f"default: {flag.default}")
    if about.lower is not None and not isinstance(flag.default, bool):
        notes.append(f"at least {about.lower}")
    if about.upper is not None:
        notes.append(f"at most {about.upper}")
    name = f"--{flag.flag}"
    if bool in kinds:
        name = f"--[no]{flag.flag}"
    elif choices := _choices(flag):
        name += f"={'|'.join(choices)}"
    else:
        name += "=…"
    if notes:
        name += f" ({'; '.join(notes)})"
    return [f"  {name}", textwrap.indent(textwrap.fill(about.help, 82), "      ")]
