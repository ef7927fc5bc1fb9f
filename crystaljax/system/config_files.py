"""Files of configs: those of the package by name, and others.

A config is a Python file with a function ``get_config``, which takes a variant.
"""

import importlib.util
import os
import pathlib
from typing import Any

from crystaljax.system import errors

# In a wheel they are part of the package; a checkout has them at its top level.
_CONFIGS = (
    pathlib.Path(__file__).parents[1] / "configs",
    pathlib.Path(__file__).parents[2] / "configs",
)


def load(spec: str) -> Any:
    """The config that a --config names.

    Args:
        spec: name of a config of the package, or a Python file with ``get_config``;
            then optionally a colon and a variant: best:smoke, configs/ddim.py.

    Raises:
        FileNotFoundError: there is none.
        UserError: it has no such variant, or the file holds no config.
    """
    name, _, variant = spec.partition(":")
    return load_file(find(name), variant)


def find(name: str) -> pathlib.Path:
    """File of a config; see `load`."""
    packaged = {path.stem: path for path in _packaged_configs()}
    if os.sep not in name and not name.endswith(".py"):
        if name in packaged:
            return packaged[name]
        raise FileNotFoundError(
            f"no config {name!r}; expected one of {', '.join(packaged)}, or a file "
            "such as configs/ddim.py"
        )
    path = pathlib.Path(name)
    if path.is_file():
        return path
    stem = path.stem
    hint = f"; the package has its own: `config={stem}`" if stem in packaged else ""
    raise FileNotFoundError(f"no config file {name}{hint}")


def _packaged_configs() -> list[pathlib.Path]:
    for folder in _CONFIGS:
        if folder.is_dir():
            return sorted(folder.glob("[a-z]*.py"))
    return []


def load_file(path: str | os.PathLike[str], variant: str = "") -> Any:
    """What ``--config=path:variant`` gives, for scripts.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it has no such variant, or the file holds no config.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no config at {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise errors.UserError(f"{path} has no function get_config; expected a config")
    return module.get_config(variant) if variant else module.get_config()
