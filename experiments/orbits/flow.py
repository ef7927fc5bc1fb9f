"""Trains the flow on orbits, for a time, on one data set in the standard setting.

    python -m crystaljax.prepare … --setting=standard --output=data/mp_20
    python experiments/orbits/flow.py --dataset=data/mp_20 --output=runs/orbits \
        --budget_seconds=960

leaves parameters (the moving average), units and losses in the output folder, for
`measure.py`.
"""

import argparse
import functools
import json
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util

from crystaljax.crystals import orbits
from crystaljax.data import dataset as datasets
from crystaljax.data import orbit_table
from crystaljax.models import orbit_flow, scaling
from crystaljax.models.networks import orbit_transformer
from crystaljax.sampling import orbit_generation
from crystaljax.system import atomic_files

BUCKETS = (3, 5, 9, 20)
EMA_DECAY = 0.999
WARMUP = 100


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--budget_seconds", type=float, required=True)
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    dataset = datasets.open_dataset(args.dataset)
    table = orbit_table.open_table(dataset)
    args.output.mkdir(parents=True, exist_ok=True)
    units = fit_units(dataset, table, dataset.indices("train"))
    model = orbit_transformer.OrbitTransformer(dropout=args.dropout)
    params, log = train(model, units, dataset, table, args)
    save(args.output, params, units, log, vars(args))


def fit_units(
    dataset: datasets.Dataset, table: orbit_table.OrbitTable, train: np.ndarray
) -> orbit_flow.OrbitUnits:
    """Units of the training structures."""
    sites = datasets.gather(dataset, train, int(dataset.num_sites.max()))
    energy = np.asarray(dataset.formation_energy[train], float)
    return orbit_flow.OrbitUnits(
        scaling.fit_atomic_volumes(sites.lattice, sites.atomic_numbers),
        energy.mean(),
        energy.std() or 1.0,
    )


def conditions_and_data(
    dataset: datasets.Dataset,
    table: orbit_table.OrbitTable,
    units: orbit_flow.OrbitUnits,
    indices: np.ndarray,
    num_orbits: int,
) -> tuple[orbit_transformer.OrbitConditions, np.ndarray]:
    """Structures as the network takes them."""
    batch, anchors = orbit_table.gather(table, indices, num_orbits)
    energy = units.scale_energy(dataset.formation_energy[indices])
    conditions = orbit_transformer.OrbitConditions(
        batch.space_group, batch.atomic_numbers, batch.positions, anchors, energy
    )
    data = units.encode(
        orbits.load_tables(), conditions, batch.parameters, batch.strain
    )
    return conditions, np.asarray(data)


def train(model, units, dataset, table, args) -> tuple[Any, list[dict[str, float]]]:
    """Steps of batches of one size each, sizes as often as their share."""
    tables = jax.tree.map(jnp.asarray, orbits.load_tables())
    train_set = dataset.indices("train")
    counts = table.num_orbits[train_set]
    sizes = np.array([next(b for b in BUCKETS if n <= b) for n in counts])
    pools = {
        size: jax.tree.map(
            jnp.asarray,
            conditions_and_data(dataset, table, units, train_set[sizes == size], size),
        )
        for size in BUCKETS
        if (sizes == size).any()
    }
    shares = np.array([(sizes == size).mean() for size in pools])
    example = next(iter(pools.values()))
    first = jax.tree.map(lambda a: a[:1], example)
    params = jax.jit(model.init)(
        jax.random.key(args.seed), first[1], jnp.zeros(1), first[0], tables
    )
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam())

    @functools.partial(jax.jit, static_argnames="count")
    def gradients(params, pool, key, tables, count):
        index_key, noise_key = jax.random.split(key)
        rows = jax.random.randint(index_key, (count,), 0, len(pool[1]))
        conditions, data = jax.tree.map(lambda a: a[rows], pool)
        keys = jax.random.split(noise_key, count)
        return jax.grad(
            lambda p: orbit_flow.compute_loss(
                model, orbit_generation.PROCESS, p, tables, conditions, data, keys
            ),
            has_aux=True,
        )(params)

    @jax.jit
    def apply(params, average, state, grads, rate, decay):
        updates, state = optimizer.update(grads, state)
        params = jax.tree.map(lambda p, u: p - rate * u, params, updates)
        average = jax.tree.map(
            lambda a, p: decay * a + (1 - decay) * p, average, params
        )
        return params, average, state

    state, average = optimizer.init(params), params
    rng = np.random.default_rng(args.seed)
    key = jax.random.key(args.seed + 1)
    start, log, pending = time.perf_counter(), [], []
    step, spent = 0, 0.0
    while spent < args.budget_seconds:
        # By time and not by steps, since the speed is not known before.
        rate = args.learning_rate * min((step + 1) / WARMUP, 1)
        rate *= 0.5 * (1 + np.cos(np.pi * spent / args.budget_seconds))
        size = rng.choice(list(pools), p=shares)
        grads, parts = gradients(
            params, pools[size], jax.random.fold_in(key, step), tables, args.batch_size
        )
        decay = min(EMA_DECAY, (1 + step) / (10 + step))
        params, average, state = apply(params, average, state, grads, rate, decay)
        pending.append(parts)
        step += 1
        if step % 10 == 0:
            jax.block_until_ready(average)
        spent = time.perf_counter() - start
        if step % 200 == 0:
            losses = jax.device_get(pending)
            means = {
                name: float(np.mean([each[name] for each in losses]))
                for name in losses[0]
            }
            log.append({"step": step, "seconds": round(spent, 1), **means})
            print(json.dumps(log[-1]), flush=True)
            pending = []
    log.append({"step": step, "seconds": round(spent, 1)})
    return average, log


def save(folder: pathlib.Path, params, units, log, settings) -> None:
    """Parameters and units as arrays, what was done as JSON."""
    arrays = {
        "/".join(path): np.asarray(leaf)
        for path, leaf in traverse_util.flatten_dict(params).items()
    }
    np.savez(folder / "flow.npz", **arrays)
    np.savez(
        folder / "units.npz",
        atomic_volumes=units.atomic_volumes,
        energy_mean=units.energy_mean,
        energy_scale=units.energy_scale,
    )
    settings = {name: str(value) for name, value in settings.items()}
    atomic_files.write_json(folder / "flow.json", {"log": log, "settings": settings})


def load(folder: pathlib.Path) -> tuple[Any, orbit_flow.OrbitUnits]:
    """What `save` wrote."""
    with np.load(folder / "flow.npz") as file:
        flat = {tuple(name.split("/")): file[name] for name in file.files}
    with np.load(folder / "units.npz") as file:
        units = orbit_flow.OrbitUnits(**{name: file[name] for name in file.files})
    return traverse_util.unflatten_dict(flat), units


if __name__ == "__main__":
    main()
