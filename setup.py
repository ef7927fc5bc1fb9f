"""Packs the configs, which lie at the top level of the repository, into the package.

All else is in pyproject.toml. An editable install reads them where they lie.
"""

import pathlib
import shutil

from setuptools import setup
from setuptools.command.build_py import build_py

CONFIGS = pathlib.Path("configs")


class BuildWithConfigs(build_py):
    """Copies the configs to crystaljax/configs of the wheel."""

    def run(self):
        """Builds the package."""
        super().run()
        if not self.editable_mode:
            folder = pathlib.Path(self.build_lib, "crystaljax", "configs")
            folder.mkdir(parents=True, exist_ok=True)
            for path in CONFIGS.glob("*.py"):
                shutil.copyfile(path, folder / path.name)

    def get_source_files(self):
        """What a source distribution holds, so that a wheel can be built from it."""
        return [*super().get_source_files(), *map(str, CONFIGS.glob("*.py"))]


setup(cmdclass={"build_py": BuildWithConfigs})
