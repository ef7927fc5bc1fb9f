"""From conditions to crystals: the compiled sampler, in batches over all devices."""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from jax.sharding import Mesh
from jaxtyping import Array

from crystaljax import parallel, scaling, structure
from crystaljax.conditions import Conditions
from crystaljax.models import crystal_unet

# (predict_fn, keys, rows, mask, source) → samples: what `build.build_sampler` gives.
SampleFn = Callable[..., Array]


def build_generate_fn(
    model: crystal_unet.CrystalUNet,
    sample_fn: SampleFn,
    scale: scaling.Scaling,
    rows: int,
    mesh: Mesh,
) -> Callable[..., tuple[Array, Array]]:
    """Compiles ``(params, conditions, key, indices) → (frac_coords, lattice)``.

    Sample i draws from ``fold_in(key, i)`` alone: it is the same crystal whatever the
    batch it is made in and however many devices there are. Conditions are encoded once,
    outside the sampler's scan.
    """

    def generate_batch(params, conditions, key, indices):
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, indices)
        source = scale.encode_cells(conditions.source, conditions.num_sites, rows)
        encoded = model.apply(
            params,
            conditions.atomic_numbers,
            conditions.space_group,
            scale.scale_energy(conditions.energy),
            source,
            method=model.encode_conditions,
        )

        def predict(x, t):
            return model.apply(params, x, t, encoded, method=model.predict)

        mask = structure.row_mask(conditions.num_sites, rows)
        return scale.decode(sample_fn(predict, keys, rows, mask, source))

    over_devices = parallel.batch_sharding(mesh)
    whole = parallel.replicated(mesh)
    return jax.jit(
        generate_batch,
        in_shardings=(whole, over_devices, whole, over_devices),
        out_shardings=over_devices,
    )


def generate(
    generate_fn: Callable[..., tuple[Array, Array]],
    params,
    conditions: Conditions,
    key: Array,
    *,
    mesh: Mesh,
    batch_size: int,
    description: str | None = None,
) -> list[structure.Crystal]:
    """Samples one crystal per condition, in order.

    Args:
        generate_fn: from `build_generate_fn`, for the same mesh.
        params: of the network.
        conditions: of all samples, on the host.
        key: of the whole run; sample i uses ``fold_in(key, i)``.
        mesh: the devices.
        batch_size: samples at a time, over all devices.
        description: label of a progress bar; none if None.

    Raises:
        ValueError: ``batch_size`` cannot be split over the devices.
    """
    parallel.require_divisible(batch_size, mesh)
    num_samples = len(conditions)
    crystals: list[structure.Crystal] = []
    progress = tqdm.tqdm(
        total=num_samples, desc=description, unit="crystal", disable=description is None
    )
    with progress:
        for indices in _batches(num_samples, batch_size):
            batch = jax.tree.map(lambda a, i=indices: a[i], conditions)
            batch, sharded = parallel.shard_batch(
                (batch, indices.astype(np.int32)), mesh
            )
            coords, lattice = jax.device_get(generate_fn(params, batch, key, sharded))
            new = min(batch_size, num_samples - len(crystals))
            for j in range(new):
                count = int(conditions.num_sites[indices[j]])
                crystals.append(
                    structure.Crystal(
                        np.asarray(conditions.atomic_numbers[indices[j], :count]),
                        np.asarray(coords[j, :count], dtype=np.float64),
                        np.asarray(lattice[j], dtype=np.float64),
                    )
                )
            progress.update(new)
    return crystals


def _batches(num_samples: int, batch_size: int) -> Iterator[np.ndarray]:
    # The last batch is filled up with the last sample, so that shapes never change.
    for start in range(0, num_samples, batch_size):
        yield np.minimum(np.arange(start, start + batch_size), num_samples - 1)


def key_of_seed(seed: int) -> Array:
    """The key of a run."""
    return jax.random.key(jnp.uint32(seed))
