"""What training is made of: batches of the structures, or pairs, of a data set."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from crystaljax.crystals import sample_tensors, structure
from crystaljax.data import dataset as datasets
from crystaljax.data import pairs, pipeline
from crystaljax.models import build, scaling
from crystaljax.system import errors
from crystaljax.training import build as build_training

# Structures that units are measured on: enough, and a second or two.
_MAX_MEASURED = 100_000


@dataclasses.dataclass(frozen=True, eq=False)
class Batches:
    """All batches of a training run, and what was measured on its structures.

    Attributes:
        source: of the batches, by the number of the dispatch; `pipeline.build_iterator`
            reads them ahead.
        num_steps: of the run, whole dispatches.
        scale: units of the network.
        energies: that the network is conditioned on, eV/atom, of one epoch.
    """

    source: pipeline.InterleavedBatches
    num_steps: int
    scale: scaling.Scaling
    energies: np.ndarray


def build_batches(
    config: Any, dataset: datasets.Dataset, num_steps: int | None = None
) -> Batches:
    """The batches that a config trains on.

    Args:
        config: of the run.
        dataset: its train split is read.
        num_steps: of the run; as many as the config says if None.

    Raises:
        ValueError: see `num_train_steps` and `pipeline.share_dispatches`; or data that
            the config does not fit.
    """
    examples = _build_examples(config, dataset)
    if num_steps is None:
        num_steps = num_train_steps(config, sum(map(len, examples.epochs)))
    return Batches(
        _build_source(config, examples, num_steps),
        num_steps,
        measure_scaling(config, dataset, examples.energies, dataset.indices("train")),
        examples.energies,
    )


def num_train_steps(config: Any, epoch_size: int) -> int:
    """Steps in all, rounded up to whole dispatches.

    Args:
        config: gives steps or epochs.
        epoch_size: structures, or pairs, of an epoch.

    Raises:
        ValueError: neither steps nor epochs are given, or an interval is no multiple
            of ``train.steps_per_dispatch``.
    """
    train = config.train
    steps = train.num_steps or -(-train.num_epochs * epoch_size // train.batch_size)
    if steps <= 0:
        raise errors.UserError(
            f"train.num_steps is {train.num_steps} and train.num_epochs is "
            f"{train.num_epochs}; expected one of them to be positive"
        )
    for name in ("log_every", "checkpoint_every", "validate_every"):
        if train[name] % train.steps_per_dispatch:
            raise errors.UserError(
                f"train.{name} is {train[name]}; expected a multiple of "
                f"train.steps_per_dispatch, {train.steps_per_dispatch}"
            )
    return -(-steps // train.steps_per_dispatch) * train.steps_per_dispatch


@dataclasses.dataclass(frozen=True, eq=False)
class _Examples:
    """What the steps of a task are made of, for each number of rows.

    Attributes:
        epochs: structures, or pairs, that have these rows.
        gather_fns: read them.
        energies: that the network is conditioned on, eV/atom, of one epoch.
    """

    epochs: Sequence[pipeline.Epochs]
    gather_fns: Sequence[Callable[[np.ndarray], sample_tensors.CrystalBatch]]
    energies: np.ndarray


def _build_examples(config: Any, dataset: datasets.Dataset) -> _Examples:
    """The training examples of a data set, by their rows."""
    indices = dataset.indices("train")
    energy = dataset.formation_energy
    buckets = build.row_buckets(config)
    site_limits = tuple(map(structure.max_sites, buckets))
    if not build.is_modification(config):
        rows = structure.rows_of(dataset.num_sites[indices], buckets)
        epochs = [
            pipeline.Permutations(indices[rows == bucket], config.train.seed)
            for bucket in buckets
        ]
        gather_fn, energies = _gather_fn(config, dataset), energy[indices]
    else:
        epochs = pairs.build_pair_samplers(
            group=dataset.group,
            energy=energy,
            num_sites=dataset.num_sites,
            indices=indices,
            seed=config.train.seed,
            pairs_per_group=config.data.pairs_per_group,
            balance_num_sites=config.data.balance_num_sites,
            site_limits=site_limits,
        )
        sources, targets = np.concatenate([each.epoch(0) for each in epochs]).T
        gather_fn, energies = pairs.gather_pairs, energy[targets] - energy[sources]
    return _Examples(
        epochs=epochs,
        gather_fns=[
            lambda items, sites=sites: gather_fn(dataset, items, sites)
            for sites in site_limits
        ],
        energies=energies,
    )


def _gather_fn(config: Any, dataset: datasets.Dataset):
    """What reads structures: with their templates, where there are to be any."""
    count = config.data.num_templates
    if not count:
        return datasets.gather
    # Nearest neighbours bring SciPy.
    from crystaljax.data import templates

    shown = templates.show_in_training(templates.build_library(dataset), count)

    def gather(_, indices, sites):
        return templates.gather(shown, indices, sites)

    return gather


def _build_source(
    config: Any, examples: _Examples, num_steps: int
) -> pipeline.InterleavedBatches:
    """All batches of a run, those of each number of rows as often as their share."""
    steps_per_dispatch = config.train.steps_per_dispatch
    counts = pipeline.share_dispatches(
        np.array([len(epochs) for epochs in examples.epochs]),
        num_steps // steps_per_dispatch,
    )
    return pipeline.InterleavedBatches(
        [
            pipeline.ShuffledBatches(
                epochs,
                gather_fn,
                batch_size=config.train.batch_size,
                steps_per_dispatch=steps_per_dispatch,
                num_steps=int(count) * steps_per_dispatch,
                process_index=jax.process_index(),
                process_count=jax.process_count(),
            )
            for epochs, gather_fn, count in zip(
                examples.epochs, examples.gather_fns, counts, strict=True
            )
            if count
        ],
        config.train.seed,
    )


def measure_scaling(
    config: Any, dataset: datasets.Dataset, energies: np.ndarray, indices: np.ndarray
) -> scaling.Scaling:
    """Units of the network, measured on these structures."""
    indices = indices[:: -(-len(indices) // _MAX_MEASURED)]
    sites = int(dataset.num_sites[indices].max())
    return build_training.build_scaling(
        config,
        dataset.lattice[indices],
        energies,
        datasets.gather(dataset, indices, sites).atomic_numbers,
    )
