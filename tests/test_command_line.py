import dataclasses
import pathlib
import re
import subprocess
import sys
import typing

import pytest
import tqdm
from ml_collections import config_dict

from crystaljax import (
    __main__,
    collect,
    command_line,
    evaluate,
    export,
    export_model,
    import_torch,
    list_models,
    modify,
    prepare,
    sample,
    score,
    screen,
    serve_app,
    train,
)
from crystaljax.data import selection
from crystaljax.system import errors, options

ROOT = pathlib.Path(command_line.__file__).parents[1]
COMMANDS = [
    module.COMMAND
    for module in (
        collect,
        evaluate,
        export,
        export_model,
        import_torch,
        list_models,
        modify,
        prepare,
        sample,
        score,
        screen,
        serve_app,
        train,
    )
]


@options.frozen
class Limits:
    """What a group of options has."""

    most: int | None = options.option("Most.", default=None)
    strict: bool = options.option("Strict.", default=True)


@options.frozen
class Options:
    """What the tests' command does."""

    name: str = options.option("A name, beside `number=`.")
    number: int | None = options.option("A number.", default=None, lower=1, upper=9)
    top: int | None = options.option(
        "How many; 0: all.", default=5, lower=0, zero_is_none=True
    )
    share: float = options.option("A share.", default=0.5)
    kind: typing.Literal["one", "two"] = options.option("A kind.", default="one")
    words: tuple[str, ...] = options.option("Words.", default=())
    others: tuple[str, ...] | None = options.option("Others.", default=None)
    limits: Limits = options.option(
        "Which limits.",
        default=Limits(),
        presets={"none": Limits(), "few": Limits(most=3)},
        preset_flag="limits",
    )
    resume: bool = options.option("Go on.", default=False)


def run(*arguments, do=lambda chosen: None):
    """Options that a command made of the arguments was called with."""
    called = []

    def command(chosen):
        called.append(chosen)
        do(chosen)

    command_line.run(
        command_line.Command("try", "Tries.", (Options,), command, uses_devices=False),
        arguments,
    )
    return called[0] if called else None


# -------------------------------------------------------------------------------- flags
def test_flags_set_the_fields_of_the_options():
    assert run("--name=a") == Options(name="a")
    assert run(
        "--name", "a", "--number=3", "--top=0", "--share=0.25", "--kind=two",
        "--words=x,y", "--others=z", "--limits=few", "--nostrict", "--resume",
    ) == Options(
        name="a", number=3, top=None, share=0.25, kind="two", words=("x", "y"),
        others=("z",), limits=Limits(most=3, strict=False), resume=True,
    )  # fmt: skip
    # Nothing stays behind.
    assert run("--name=b", "--most=7").limits == Limits(most=7)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--name=a", "--nmuber=3"], "nmuber.*Did you mean: number"),
        (["--name=a", "--number=0"], "number=0"),
        (["--name=a", "--number=ten"], "number=ten"),
        (["--name=a", "--kind=three"], "kind=three.*one.*two"),
        (["--number=3"], "give --name"),
        (["--name=a", "else"], "unexpected arguments else"),
        (["--name=a", "--limits=many"], "limits=many"),
    ],
)
def test_what_cannot_be_used_is_one_line(arguments, message):
    with pytest.raises(SystemExit) as raised:
        run(*arguments)
    assert re.search(message, text := str(raised.value))
    assert text.startswith("error: ") and "\n" not in text


def test_options_are_documented_where_they_are_defined(capsys):
    assert "number: A number." in Options.__doc__
    assert run("--help") is None
    shown = capsys.readouterr().out
    assert "Tries." in shown and "--name=… (required)" in shown
    # Arguments in the text are flags here.
    assert "A name, beside --number." in shown
    assert "--kind=one|two (default: one)" in shown


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_option_of_a_command_has_help_and_a_flag(command):
    text = command_line.help_text(command)
    for kind in command.options:
        for field in dataclasses.fields(kind):
            assert options.about(field).help
            assert re.search(rf"^  --(\[no\])?{field.name}\b", text, re.MULTILINE) or (
                options.about(field).preset_flag
            )
    if command in (list_models.COMMAND, serve_app.COMMAND):
        # All of it may be left out.
        return
    with pytest.raises(SystemExit, match=r"error: give --.*--help"):
        command_line.run(command, [])


def test_presets_of_prepare():
    def rules(*arguments):
        given = ["--source=builtin", "--output=x", *arguments]
        return command_line.parse(prepare.COMMAND, given)[0].rules

    assert rules() == selection.Rules()
    assert rules("--rules=paper", "--max_sites=20") == dataclasses.replace(
        selection.PAPER_RULES, max_sites=20
    )


# ------------------------------------------------------------------------------- errors
def failing(error):
    def do(chosen):
        raise error

    return do


def test_messages_name_arguments_and_the_command_line_flags():
    text = (
        "pass `resume=True`, `strict=False`, `number=` or `name='b'`, not `other=1` or "
        "`number`"
    )
    with pytest.raises(SystemExit) as raised:
        run("--name=a", do=failing(errors.UserError(text)))
    assert str(raised.value) == (
        "error: pass --resume, --nostrict, --number or --name=b, not `other=1` or "
        "`number`"
    )


@pytest.mark.parametrize(
    "error",
    [
        errors.UserError("no"),
        errors.MissingPackageError("no"),
        FileExistsError("no"),
        FileNotFoundError("no"),
        FloatingPointError("no"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_of_the_user_are_one_line_and_debug_shows_them(error):
    with pytest.raises(SystemExit, match=r"^error: no$"):
        run("--name=a", do=failing(error))
    with pytest.raises(type(error)):
        run("--name=a", "--debug", do=failing(error))


@pytest.mark.parametrize("error", [ValueError("bug"), KeyError("bug"), TypeError("b")])
def test_bugs_keep_their_traceback(error):
    with pytest.raises(type(error)):
        run("--name=a", do=failing(error))


# ------------------------------------------------------------------------------ configs
def config_of(*arguments):
    return command_line.parse(train.COMMAND, ["--workdir=w", *arguments])[0].config


def test_an_error_has_a_line_of_its_own_below_an_open_progress_bar(capsys):
    def count():
        with tqdm.tqdm(total=3) as bar:
            for _ in range(3):
                bar.update()
                yield

    numbers = count()

    def stumble(_):
        next(numbers)
        raise errors.UserError("no")

    with pytest.raises(SystemExit, match="error: no"):
        command_line.run(dataclasses.replace(list_models.COMMAND, run=stumble), [])
    assert capsys.readouterr().err.endswith("\n")
    # Nothing is written over the message.
    numbers.close()
    assert not capsys.readouterr().err


def test_configs_by_name_and_by_file(monkeypatch, tmp_path):
    by_name = config_of("--config=best:smoke", "--config.train.batch_size=8")
    assert by_name.train.batch_size == 8
    assert by_name.model.network == "transformer"
    by_file = config_of(
        "--config.train.batch_size=8", "--config", f"{ROOT}/configs/best.py:smoke"
    )
    assert by_file == by_name
    # Calls do not share a config.
    assert config_of("--config=best:smoke").train.batch_size != 8
    monkeypatch.chdir(tmp_path)
    assert isinstance(config_of("--config=ddim"), config_dict.ConfigDict)
    (tmp_path / "mine.py").write_text(
        "from ml_collections import config_dict\n"
        "def get_config():\n    return config_dict.create(depth=2)\n"
    )
    assert config_of("--config=mine.py", "--config.depth=3").depth == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=bets"], "no config 'bets'.*best, .*ddim"),
        (["--config=configs/none.py"], "no config file configs/none.py$"),
        (["--config=elsewhere/ddim.py"], "no config file .*its own: --config=ddim"),
        (["--config=best:huge"], "'huge'.*smoke"),
        (["--config=ddim", "--config.train.batch_sise=2"], "batch_sise"),
        (["--config=ddim", "--config.train.batch_size=two"], "batch_size=two"),
        (["--config.train.batch_size=2"], "config.train.batch_size"),
        ([], "give --config"),
    ],
)
def test_configs_that_are_not_there(arguments, message):
    with pytest.raises(SystemExit) as raised:
        train.main(["--workdir=w", *arguments])
    assert re.search(message, text := str(raised.value))
    assert text.startswith("error: ") and "\n" not in text


# ------------------------------------------------------------------------------ command
def test_the_command_lists_its_verbs(capsys):
    __main__.main([])
    shown = capsys.readouterr().out
    for command in COMMANDS:
        assert re.search(rf"^  {command.name} +[A-Z].*\.?$", shown, re.MULTILINE)
    assert len(COMMANDS) == len(__main__.VERBS)
    assert max(map(len, shown.splitlines())) <= 88


@pytest.mark.parametrize(
    ("verb", "nearest"), [("trian", "train"), ("importtorch", "import-torch")]
)
def test_an_unknown_verb_suggests_the_nearest(verb, nearest):
    with pytest.raises(SystemExit, match=f"'{verb}'; did you mean {nearest}"):
        __main__.main([verb])
    with pytest.raises(SystemExit, match="'qqq'; see crystaljax --help"):
        __main__.main(["qqq"])


def test_verbs_and_modules_are_one_command(capsys):
    with pytest.raises(SystemExit, match="no config 'bets'"):
        __main__.main(["train", "--workdir=w", "--config=bets"])
    __main__.main(["import_torch", "--help"])
    first = capsys.readouterr().out
    import_torch.main(["--help"])
    assert capsys.readouterr().out == first and "--checkpoint" in first


def test_help_of_the_command_loads_next_to_nothing():
    script = "import sys; from crystaljax import __main__ as m; m.main(['--help'])\n"
    script += "print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"jax", "numpy", "absl", "crystaljax.train"} & set(loaded)


# ------------------------------------------------------------------------------ renamed
@pytest.mark.parametrize(
    ("command", "new"),
    [(sample, "draws"), (modify, "draws"), (evaluate, "draws"), (export, "screening")],
)
def test_flags_of_older_versions_say_what_they_are_called(command, new):
    with pytest.raises(SystemExit, match=f"--candidates is called --{new} now"):
        command.main(["--candidates=3"])


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_float16_on_a_cpu_is_slow_and_says_so(tmp_path, capsys, dtype):
    # Ends before anything is trained: there is a run.
    (tmp_path / "config.json").write_text("{}")
    arguments = [f"--workdir={tmp_path}", f"--config.train.dtype={dtype}"]
    with pytest.raises(SystemExit, match="already holds a run; pass --resume"):
        train.main(["--config=ddim", *arguments])
    note = capsys.readouterr().err
    assert ("--config.train.dtype=float32 avoids it" in note) == (dtype == "float16")


def test_help_ends_quietly_where_nobody_reads_on():
    command = f"{sys.executable} -m crystaljax sample --help | head -n 1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0 and not done.stderr, done.stderr


@pytest.mark.parametrize(
    ("arguments", "difference"),
    [
        (["my.cif"], None),
        (["my.cif", "--energy_difference"], "lowest"),
        (["--energy_difference", "my.cif"], "lowest"),
        (["--energy_difference", "-0.1", "my.cif"], "-0.1"),
        (["--energy_difference=-0.1:0:0.05", "my.cif", "--seed=3"], "-0.1:0:0.05"),
        (["--energy_difference", "--input=my.cif"], "lowest"),
    ],
)
def test_what_stands_alone_is_an_input_and_a_flag_may_have_no_value(
    arguments, difference
):
    options, _ = command_line.parse(modify.COMMAND, arguments)
    assert (options.input, options.energy_difference) == ("my.cif", difference)


def test_more_than_one_input_is_refused():
    with pytest.raises(ValueError, match=r"unexpected arguments other.cif"):
        command_line.parse(modify.COMMAND, ["my.cif", "other.cif"])
