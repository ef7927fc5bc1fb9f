"""Fetches the packages that `run.py` needs and that a machine may lack.

    python experiments/gpu/collect_wheels.py

downloads wheels for Python 3.12 on Linux (x86-64) into ``experiments/gpu/wheels``,
which git ignores, and says how large they are. `run.py` unpacks them itself and prefers
what is installed; copy the folder along with the repository. Whether they are enough is
what ``run.py --check`` tells.
"""

import argparse
import pathlib
import subprocess
import sys

WHEELS = pathlib.Path(__file__).resolve().with_name("wheels")
PYTHON = "3.12"
# What the folder may weigh, MiB: it is sent along with the repository.
MOST_MEBIBYTES = 60
# pip takes these names for exactly what they say.
PLATFORMS = (
    "manylinux_2_28_x86_64",
    "manylinux_2_27_x86_64",
    "manylinux_2_26_x86_64",
    "manylinux_2_24_x86_64",
    "manylinux_2_17_x86_64",
    "manylinux2014_x86_64",
    "manylinux_2_12_x86_64",
    "manylinux2010_x86_64",
    "manylinux_2_5_x86_64",
    "manylinux1_x86_64",
)
# There already: JAX, Flax, Optax, Orbax, PyTorch, NumPy, SciPy, pyarrow and Matplotlib
# with all that they require. What the parts never import is left out, as pandas and
# Plotly, which pymatgen requires.
PACKAGES = {
    "configs, shapes, progress": (
        "jaxtyping",
        "wadler-lindig",
        "ml-collections",
        "tqdm",
    ),
    "projection and picking": ("ase", "spglib", "joblib", "cloudpickle", "gemmi"),
    "alloys and their relaxation": (
        "pymatgen",
        "pymatgen-core",
        "monty",
        "orjson",
        "ruamel.yaml",
        "tabulate",
        "charset-normalizer",
        "threadpoolctl",
    ),
    "schedulers of the PyTorch peer": (
        "diffusers",
        "huggingface-hub",
        "safetensors",
        "regex",
        "requests",
        "urllib3",
        "certifi",
        "idna",
        "importlib-metadata",
        "zipp",
        "httpx2",
        "httpcore2",
        "h11",
        "anyio",
        "truststore",
    ),
}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=pathlib.Path, default=WHEELS)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.whl"):
        old.unlink()
    for packages in PACKAGES.values():
        download(packages, folder)
    sys.exit(report(folder))


def download(packages: tuple[str, ...], folder: pathlib.Path) -> None:
    """Wheels of these packages, without what they require."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", f"--python-version={PYTHON}"]
    command += ["--implementation=cp", f"--dest={folder}"]
    command += [f"--platform={platform}" for platform in PLATFORMS]
    subprocess.run([*command, *packages], check=True)


def report(folder: pathlib.Path) -> int:
    """Prints the sizes; the exit status, 1 if they are too large together."""
    sizes = {path.name: path.stat().st_size for path in folder.glob("*.whl")}
    for name, size in sorted(sizes.items(), key=lambda item: -item[1]):
        print(f"{size / 2**20:7.2f} MiB  {name}")
    total = sum(sizes.values()) / 2**20
    print(f"{total:7.2f} MiB  {len(sizes)} wheels in {folder}")
    if total > MOST_MEBIBYTES:
        print(f"more than {MOST_MEBIBYTES} MiB; leave out what no part needs")
        return 1
    return 0


if __name__ == "__main__":
    main()
