"""What the flow on orbits is trained on: structures in the standard setting."""

import dataclasses
import functools
from typing import Any

import flax.struct
import jax
import numpy as np

from crystaljax.crystals import orbits, structure
from crystaljax.data import dataset as datasets
from crystaljax.data import orbit_table, pipeline
from crystaljax.models import build
from crystaljax.models.networks import orbit_transformer
from crystaljax.system import errors
from crystaljax.training import batches, orbit_pairs


@flax.struct.dataclass
class OrbitExamples:
    """Structures of the training split, all of one shape.

    Attributes:
        batch: crystals as orbits.
        anchor: int32 (batch,), see `orbit_table.OrbitTable`.
        energy: float32 (batch,), formation energy, eV/atom.
        has_site: bool (batch, sites), True where the primitive cell has a site.
        source: polymorphs of them, `orbit_pairs.Sources.gather`; None in generation.
    """

    batch: orbits.OrbitBatch
    anchor: Any
    energy: Any
    has_site: Any
    source: Any = None

    def conditions(self, scale: Any) -> orbit_transformer.OrbitConditions:
        """What the network is given, with energies in the units of ``scale``."""
        return orbit_transformer.OrbitConditions(
            self.batch.space_group,
            self.batch.atomic_numbers,
            self.batch.positions,
            self.anchor,
            scale.scale_energy(self.energy),
            self.has_site,
            self.source and orbit_pairs.as_conditions(self.source, self.energy, scale),
        )


def gather(
    dataset: datasets.Dataset,
    table: orbit_table.OrbitTable,
    indices: np.ndarray,
    num_orbits: int,
    num_sites: int,
) -> OrbitExamples:
    """Structures, with the leading shape of ``indices``.

    Raises:
        ValueError: one has more orbits than ``num_orbits``.
    """
    batch, anchor = orbit_table.gather(table, indices, num_orbits)
    count = count_sites(dataset, table)[indices]
    return OrbitExamples(
        batch,
        anchor,
        dataset.formation_energy.take(indices),
        np.arange(num_sites) < count[..., None],
    )


def gather_pairs(
    dataset: datasets.Dataset,
    table: orbit_table.OrbitTable,
    sources: orbit_pairs.Sources,
    pairs: np.ndarray,
    shape: tuple[int, int],
) -> OrbitExamples:
    """Targets with their sources, with the leading shape of ``pairs``.

    Args:
        dataset: of both.
        table: its orbits.
        sources: descriptions of the structures that are sources.
        pairs: source, -1 for none, and target.
        shape: orbits and sites of the arrays.

    Raises:
        ValueError: see `gather`.
    """
    examples = gather(dataset, table, pairs[..., 1], *shape)
    source = sources.gather(pairs, examples.batch.atomic_numbers)
    return dataclasses.replace(examples, source=source)


def count_sites(dataset: datasets.Dataset, table: orbit_table.OrbitTable) -> np.ndarray:
    """Sites of the primitive cell of each structure."""
    num_sites = np.asarray(dataset.num_sites).astype(int)
    return num_sites // np.maximum(table.num_cells, 1)


def find_usable(
    config: Any, dataset: datasets.Dataset, table: orbit_table.OrbitTable, split: str
) -> np.ndarray:
    """Structures of a split that have a standard setting and fit into the arrays."""
    indices = dataset.indices(split)
    fits = (table.num_orbits <= config.data.orbits) & (table.space_group > 0)
    fits &= count_sites(dataset, table) <= structure.max_sites(config.data.rows)
    return indices[fits[indices]]


def build_batches(config: Any, dataset: datasets.Dataset) -> batches.Batches:
    """The batches that a config trains the flow on; see `batches.build_batches`.

    Raises:
        UserError: the data set has no structures in the standard setting, or none that
            fits; see also `batches.build_batches`.
    """
    table = orbit_table.open_table(dataset)
    indices = find_usable(config, dataset, table, "train")
    if not len(indices):
        raise errors.UserError(
            f"no structure of {dataset.path} has at most data.orbits="
            f"{config.data.orbits} orbits and {structure.max_sites(config.data.rows)} "
            "sites; raise data.orbits and data.rows"
        )
    shapes = build.orbit_shapes(config)
    counts, sites = table.num_orbits[indices], count_sites(dataset, table)[indices]
    fits = np.array([(counts <= o) & (sites <= s) for o, s in shapes])
    bucket = fits.argmax(axis=0)
    num_steps = batches.num_train_steps(config, len(indices))
    per_dispatch = config.train.steps_per_dispatch
    shares = pipeline.share_dispatches(
        np.bincount(bucket, minlength=len(shapes)), num_steps // per_dispatch
    )
    energies = np.asarray(dataset.formation_energy[indices])
    is_modification = build.is_modification(config)
    pairs, described = None, None
    if is_modification:
        # A source may be of any size.
        everything = dataset.indices("train")
        pairs = orbit_pairs.find_pairs(dataset, everything, indices)
        orbit_pairs.require_pairs(pairs, dataset)
        described = orbit_pairs.describe_sources(dataset, pairs[:, 0])
        differences = np.asarray(dataset.formation_energy)[pairs]
        energies = differences[:, 1] - differences[:, 0]
    sources = []
    for number, (shape, share) in enumerate(zip(shapes, shares.tolist(), strict=True)):
        if not share:
            continue
        own = indices[bucket == number]
        if pairs is None or described is None:
            epochs = pipeline.Permutations(own, config.train.seed)
            gather_fn = functools.partial(
                gather, dataset, table, num_orbits=shape[0], num_sites=shape[1]
            )
        else:
            of_shape = pairs[np.isin(pairs[:, 1], own)]
            epochs = orbit_pairs.PairEpochs(of_shape, own, config.train.seed)
            gather_fn = functools.partial(
                gather_pairs, dataset, table, described, shape=shape
            )
        sources.append(
            pipeline.ShuffledBatches(
                epochs,
                gather_fn,
                batch_size=config.train.batch_size,
                steps_per_dispatch=per_dispatch,
                num_steps=share * per_dispatch,
                process_index=jax.process_index(),
                process_count=jax.process_count(),
            )
        )
    return batches.Batches(
        pipeline.InterleavedBatches(sources, config.train.seed),
        num_steps,
        batches.measure_scaling(
            config, dataset, np.asarray(dataset.formation_energy[indices]), indices
        ),
        energies,
    )
