"""What a result was made with: versions, commit, devices, command."""

import datetime
import importlib.metadata
import os
import pathlib
import platform
import subprocess
import sys
from typing import Any

PACKAGES = (
    "crystaljax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "numpy",
    "pymatgen",
    "ase",
    "spglib",
    "torch",
    "matgl",
    "chgnet",
    "sevenn",
)


def describe_environment() -> dict[str, Any]:
    """Versions, commit, devices and command, for the record."""
    # Versions alone are requested by commands that do without JAX.
    import jax

    return {
        "command": sys.argv,
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "versions": package_versions(),
        "commit": commit(),
        "devices": [device.device_kind for device in jax.devices()],
        "num_processes": jax.process_count(),
        "cpus": os.cpu_count(),
    }


def package_versions() -> dict[str, str]:
    """Versions of the packages that results can depend on."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def commit() -> str:
    """The commit of the package, "-dirty" if files differ from it."""
    folder = pathlib.Path(__file__).parent
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown: the package is not in a git checkout"
    return described.stdout.strip()
