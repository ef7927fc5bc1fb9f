"""Which held-out structures can be requested of a model."""

from typing import Any

import numpy as np

from crystaljax.crystals import structure
from crystaljax.data import dataset as datasets
from crystaljax.data import orbit_table
from crystaljax.models import build
from crystaljax.training import orbit_batches


def find_usable(
    config: Any, dataset: datasets.Dataset, split: str
) -> tuple[np.ndarray, int]:
    """Structures of a split, and the width to which their sites are padded.

    All of them, whether they fit into the rows of a model or not: those that do not are
    an error of whoever asks. For a model of orbits those with a standard setting, in
    which spglib finds the space group of the label, that fit into its arrays.

    Raises:
        UserError: a model of orbits, and a data set without the standard setting.
    """
    if not build.is_of_orbits(config):
        return dataset.indices(split), structure.max_sites(config.data.rows)
    table = orbit_table.open_table(dataset)
    indices = orbit_batches.find_usable(config, dataset, table, split)
    labels = np.asarray(dataset.space_group)[indices]
    indices = indices[table.space_group[indices] == labels]
    return indices, int(dataset.num_sites.max())
