"""Is all of the package in its wheel and its source distribution?

    python -m build && python .ci/contents.py dist/*

Compares the names in the archives with the files of the checkout: modules, tables,
models, the report's page, `py.typed`, and configs, which a wheel has in
``crystaljax/configs``. Lists what is missing, and ends with status 1.
"""

import pathlib
import sys
import tarfile
import zipfile

ROOT = pathlib.Path(__file__).parents[1]


def files_of(folder: str, pattern: str = "*") -> set[str]:
    """Paths below a folder of the checkout, relative to it."""
    return {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / folder).rglob(pattern)
        if path.is_file() and "__pycache__" not in path.parts
    }


def missing(archive: pathlib.Path) -> set[str]:
    """What an archive lacks of the package."""
    configs = files_of("configs", "*.py")
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as file:
            names = set(file.namelist())
        expected = files_of("crystaljax") | {f"crystaljax/{each}" for each in configs}
        return expected - names
    with tarfile.open(archive) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    about = {"LICENSE", "README.md", "pyproject.toml", "setup.py"}
    return (files_of("crystaljax") | configs | about) - names


def main() -> None:
    """Command line."""
    archives = [pathlib.Path(argument) for argument in sys.argv[1:]]
    if not archives:
        raise SystemExit("give archives, such as dist/*")
    lacking = {archive.name: sorted(missing(archive)) for archive in archives}
    for name, paths in lacking.items():
        print(f"{name}: {', '.join(paths) or 'all of the package'}")
    raise SystemExit(int(any(lacking.values())))


if __name__ == "__main__":
    main()
