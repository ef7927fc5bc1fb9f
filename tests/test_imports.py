"""Which module may import which."""

import ast
import pathlib
import subprocess
import sys

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "crystaljax"
HEAVY = ("pymatgen", "torch", "matgl", "pandas", "ase", "mendeleev", "matplotlib")


def module_name(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports_of(path):
    """Modules of the package that a file imports at its top level."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in MODULES else node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name in MODULES and name != "crystaljax"}


def test_there_are_no_import_cycles():
    graph = {name: imports_of(path) for name, path in MODULES.items()}
    done = set()

    def visit(name, above):
        assert name not in above, " → ".join([*above, name])
        if name not in done:
            for other in sorted(graph[name]):
                visit(other, [*above, name])
            done.add(name)

    for name in graph:
        visit(name, [])


# Lowest first: a folder imports from itself and from what stands before it. What is
# not named is a command, and commands import everything.
LAYERS = (
    "system",
    "crystals",
    "matching",
    "relaxation",
    "data",
    "hull",
    "defaults",
    "models",
    "training",
    "sampling",
    "screening",
    "dft",
    "command_line",
)


def layer(name):
    part = name.split(".")[1]
    return LAYERS.index(part) if part in LAYERS else len(LAYERS)


def imported_anywhere(path):
    """What a file imports of the package: at the top, in functions, for types."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
            "crystaljax"
        ):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_folders_import_only_from_those_below():
    upward = [
        f"{name} imports {other}"
        for name, path in MODULES.items()
        if name != "crystaljax"
        for other in imported_anywhere(path)
        if other.startswith("crystaljax.") and layer(other) > layer(name)
    ]
    assert not upward


def test_every_folder_has_its_place_in_the_order():
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert folders <= set(LAYERS)


@pytest.mark.parametrize("module", ["train", "sample"])
def test_hot_path_imports_nothing_heavy(module):
    script = f"import sys, crystaljax.{module}\n" + "print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not [name for name in HEAVY if name in loaded]


def test_a_run_is_looked_up_without_jax():
    script = "import sys, crystaljax.training.runs\nprint(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"jax", "orbax", "flax", "optax"} & set(loaded)
