"""Trains the estimator of energies of a model of orbits, on primitive cells.

Cells are disturbed as a sampler might (`energy_estimator.disturb`) and keep their
energy, so that the estimate is that of the right crystal near the one that is given.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm

from crystaljax.crystals import orbits, structure
from crystaljax.data import dataset as datasets
from crystaljax.data import orbit_table
from crystaljax.models import orbit_estimator, scaling
from crystaljax.models.networks import energy_estimator

_BATCH_SIZE = 64
# Cells are padded to the least of these that holds them: each is compiled once.
_SIZES = (4, 8, 12, 16, 24, 36)
_LEARNING_RATE = 1e-3
_WEIGHT_DECAY = 1e-2
_EMA_DECAY = 0.999
# Beyond this error, in the network's unit, all errors weigh the same.
_HUBER_DELTA = 0.1
# Of the learning rate, where an estimator is trained further.
_FURTHER = 0.1


@dataclasses.dataclass(frozen=True)
class Settings:
    """How large and how long.

    Attributes:
        depth: blocks of the network.
        num_epochs: of the training.
        max_sites: larger cells are left out.
        seed: of initial parameters, disturbances, dropout and order.
    """

    depth: int
    num_epochs: int
    max_sites: int
    seed: int = 0


# Atomic numbers, fractional coordinates, lattices, energies in the network's unit.
Cells = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def train_on(
    dataset: datasets.Dataset,
    scale: scaling.Scaling,
    settings: Settings,
    *,
    start: orbit_estimator.OrbitEstimator | None = None,
    show_progress: bool = False,
) -> orbit_estimator.OrbitEstimator:
    """The estimator of a data set's training structures.

    Args:
        dataset: with structures in the standard setting.
        scale: units of energies.
        settings: how large and how long.
        start: an estimator that is trained further.
        show_progress: print a progress bar.
    """
    cells = gather_cells(dataset, scale, settings.max_sites)
    with tqdm.tqdm(
        total=settings.num_epochs,
        desc="energies",
        unit="epoch",
        disable=not show_progress,
    ) as progress:

        def log(loss: float) -> None:
            progress.set_postfix(loss=f"{loss:.3f}")
            progress.update()

        return train(cells, settings, start=start, log_fn=log)


def gather_cells(
    dataset: datasets.Dataset, scale: scaling.Scaling, max_sites: int
) -> list[Cells]:
    """The primitive cells of the training split, those of one size in one array."""
    sites = [*(size for size in _SIZES if size < max_sites), max_sites]
    table = orbit_table.open_table(dataset)
    members: list[list[tuple[structure.Crystal, float]]] = [[] for _ in sites]
    for index in dataset.indices("train").tolist():
        if table.space_group[index] == 0:
            continue
        crystal = orbits.expand(table.crystal(index))
        if crystal.num_sites <= max_sites:
            place = int(np.searchsorted(sites, crystal.num_sites))
            members[place].append((crystal, float(dataset.formation_energy[index])))
    cells = []
    for size, found in zip(sites, members, strict=True):
        if not found:
            continue
        numbers = np.zeros((len(found), size), np.int32)
        coords = np.zeros((len(found), size, 3), np.float32)
        for row, (crystal, _) in enumerate(found):
            numbers[row, : crystal.num_sites] = crystal.atomic_numbers
            coords[row, : crystal.num_sites] = structure.wrap_sites(crystal.frac_coords)
        lattice = np.stack([crystal.lattice for crystal, _ in found])
        energy = np.asarray(scale.scale_energy(np.array([each for _, each in found])))
        cells.append(
            (numbers, coords, lattice.astype(np.float32), energy.astype(np.float32))
        )
    return cells


def train(
    cells: Sequence[Cells],
    settings: Settings,
    *,
    start: orbit_estimator.OrbitEstimator | None = None,
    log_fn: Callable[[float], None] | None = None,
) -> orbit_estimator.OrbitEstimator:
    """The moving average of the parameters at the end of the training.

    Args:
        cells: of the training structures, those of one size in one array.
        settings: how large and how long.
        start: an estimator of the same depth that is trained further.
        log_fn: gets the mean loss of each epoch.
    """
    network = orbit_estimator.build_network(settings.depth)
    table = orbit_estimator.element_table()
    learning_rate = _LEARNING_RATE
    if start is not None and start.depth == settings.depth:
        params = jax.tree.map(jnp.asarray, start.params)
        learning_rate *= _FURTHER
    else:
        first = [array[:1] for array in cells[0][:3]]
        params = jax.jit(network.init)(jax.random.key(settings.seed), *first, table)
    batches = _plan(cells, settings)
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, learning_rate, len(batches) // 20, max(len(batches), 1)
    )
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(schedule, b2=0.99, weight_decay=_WEIGHT_DECAY),
    )

    def mean_loss(params, numbers, coords, lattice, energy, key):
        dropout_key, *keys = jax.random.split(key, len(numbers) + 1)
        coords, lattice = jax.vmap(energy_estimator.disturb)(
            jnp.stack(keys), coords, lattice
        )
        found: Any = network.apply(
            params, numbers, coords, lattice, table, rngs={"dropout": dropout_key}
        )
        return optax.huber_loss(found, energy, delta=_HUBER_DELTA).mean()

    @jax.jit
    def step(carry, batch, number):
        params, average, state = carry
        key = jax.random.fold_in(jax.random.key(settings.seed), number)
        loss, grads = jax.value_and_grad(mean_loss)(params, *batch, key)
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        decay = jnp.minimum(_EMA_DECAY, (1 + number) / (10 + number))
        average = optax.incremental_update(params, average, 1 - decay)
        return (params, average, state), loss

    carry, losses = (params, params, jax.jit(optimizer.init)(params)), []
    for number, (place, rows) in enumerate(batches):
        batch = tuple(array[rows] for array in cells[place])
        carry, loss = step(carry, batch, number)
        losses.append(loss)
        if (number + 1) % (len(batches) // settings.num_epochs) == 0 and log_fn:
            log_fn(float(np.mean(jax.device_get(losses))))
            losses.clear()
    return orbit_estimator.OrbitEstimator(carry[1], settings.depth)


def _plan(cells: Sequence[Cells], settings: Settings) -> list[tuple[int, np.ndarray]]:
    """Which rows of which array each step takes: all epochs are equally long."""
    rng = np.random.default_rng(settings.seed)
    batches = []
    for _ in range(settings.num_epochs):
        epoch = []
        for place, (numbers, *_) in enumerate(cells):
            size = min(_BATCH_SIZE, len(numbers))
            count = len(numbers) // size
            order = rng.permutation(len(numbers))[: count * size]
            epoch += [(place, rows) for rows in order.reshape(count, size)]
        batches += [epoch[index] for index in rng.permutation(len(epoch))]
    return batches
