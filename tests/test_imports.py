"""Which module may import which."""

import ast
import pathlib
import subprocess
import sys

import ase
import ase.io
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
    "metrics",
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
    "app",
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


JAX = ("jax", "flax", "optax", "orbax", "grain")
# What each command does without when it starts: seconds before --help, and packages
# that not every machine has.
WITHOUT = {
    "train": HEAVY,
    "sample": HEAVY,
    "collect": HEAVY + JAX,
    "export": HEAVY + JAX,
    "screen": HEAVY + JAX,
    "score": HEAVY + JAX,
    "prepare": ("torch", "matgl", "pandas", "matplotlib", *JAX),
    "evaluate": ("torch", "matgl", "pandas", "matplotlib"),
    "modify": ("torch", "matgl", "pandas", "matplotlib"),
    "list_models": HEAVY + JAX,
    "serve_app": (*HEAVY, *JAX, "starlette", "uvicorn"),
    "export_model": HEAVY + JAX,
    "import_torch": ("torch", "matgl", "pandas", "matplotlib", "pymatgen", "ase"),
}


def test_every_command_says_what_it_does_without():
    commands = {
        path.stem for path in PACKAGE.glob("*.py") if "def main(" in path.read_text()
    }
    assert commands <= set(WITHOUT) | {"command_line", "__main__"}


def run_fresh(script):
    """What a fresh interpreter prints."""
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout


def loaded_after(script):
    """Modules that a fresh interpreter has loaded after a script."""
    script = f"import sys\n{script}\nprint('\\n' + ' '.join(sys.modules))"
    return set(run_fresh(script).splitlines()[-1].split())


@pytest.fixture(scope="module")
def loaded():
    """Modules that are loaded after the commands that leave out the same.

    Where what others leave out is part of it, they are imported before, in the same
    interpreter: it has to start, and most of what they load is the same. What one of
    them loads too much is seen after itself.
    """
    groups = {}
    for name, names in WITHOUT.items():
        groups.setdefault(frozenset(names), []).append(f"crystaljax.{name}")
    # A run is looked up without JAX too.
    groups[frozenset(HEAVY + JAX)].append("crystaljax.training.runs")
    chains = []
    for left_out in sorted(groups, key=len, reverse=True):
        chain = next((each for each in chains if left_out <= each[-1]), None)
        if chain is None:
            chains.append([left_out])
        else:
            chain.append(left_out)
    found = {}
    for chain in chains:
        script = "import sys"
        for left_out in chain:
            script += f"\nimport {', '.join(groups[left_out])}"
            script += "\nprint('\\n' + ' '.join(sys.modules))"
        printed = run_fresh(script).splitlines()
        modules = [set(line.split()) for line in printed if " sys " in f" {line} "]
        found |= zip(chain, modules, strict=True)
    return found


@pytest.mark.parametrize("command", WITHOUT)
def test_commands_start_without_what_they_do_not_need(command, loaded):
    left_out = frozenset(WITHOUT[command])
    assert f"crystaljax.{command}" in loaded[left_out]
    assert not loaded[left_out] & left_out


def test_what_follows_sampling_runs_without_jax(tmp_path):
    path = tmp_path / "samples.extxyz"
    alloy = ase.Atoms("CuAu", [[0, 0, 0], [1.9, 1.9, 1.9]], cell=[3.8] * 3, pbc=True)
    ase.io.write(path, [alloy], format="extxyz")
    output, dft = tmp_path / "screening", tmp_path / "dft"
    loaded = loaded_after(
        "from crystaljax import collect, export, screen\n"
        f"screen.screen(screen.ScreenOptions(samples={str(path)!r}, calculator='emt', "
        f"hull='none', output={str(output)!r}, max_steps=1, num_workers=1))\n"
        f"export.export(export.ExportOptions(screening={str(output)!r}, "
        f"output={str(dft)!r}))\n"
        f"collect.collect(collect.CollectOptions(runs={str(dft)!r}, "
        f"output={str(tmp_path / 'results')!r}))"
    )
    assert (output / "report.html").is_file() and (dft / "manifest.csv").is_file()
    assert not loaded & set(JAX)
