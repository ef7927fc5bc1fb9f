"""AFLOW's prototypes that pymatgen has, without their literature.

pymatgen parses the BibTeX of each one when it is imported, which takes ten seconds.
"""

import functools
import importlib.util
import json
import pathlib

from monty.io import zopen
from pymatgen.core import Structure


@functools.cache
def _entries():
    (folder,) = importlib.util.find_spec("pymatgen.analysis").submodule_search_locations
    path = next(pathlib.Path(folder).rglob("aflow_prototypes.json*"))
    with zopen(path, "rt") as file:
        return json.load(file)


def _structure(entry):
    return Structure.from_dict(
        {name: entry["snl"][name] for name in ("lattice", "sites", "charge")}
    )


def load(label):
    """The first prototype of a label, such as AB_tP2_123_a_d."""
    return _structure(next(e for e in _entries() if e["tags"]["aflow"] == label))


def load_all():
    """Structures of all prototypes."""
    return [_structure(entry) for entry in _entries()]
