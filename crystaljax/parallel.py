"""One mesh axis over all devices of all processes, and where arrays lie on it."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

DATA_AXIS = "data"


def build_mesh() -> Mesh:
    """Mesh with the single axis "data" over all visible devices."""
    return Mesh(np.array(jax.devices()), (DATA_AXIS,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device: parameters, scalars."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Axis ``axis`` split over the devices: batches."""
    return NamedSharding(mesh, PartitionSpec(*([None] * axis), DATA_AXIS))


def shard_batch(batch: Any, mesh: Mesh, axis: int = 0) -> Any:
    """Puts this process's part of a batch on its devices, split along ``axis``."""
    sharding = batch_sharding(mesh, axis)
    return jax.tree.map(
        lambda array: jax.make_array_from_process_local_data(sharding, array), batch
    )


def require_divisible(batch_size: int, mesh: Mesh) -> None:
    """Raises ValueError if a batch cannot be split evenly over the devices."""
    if batch_size <= 0 or batch_size % mesh.size:
        raise ValueError(
            f"batch size {batch_size} cannot be split over {mesh.size} devices; use a "
            f"multiple of {mesh.size}"
        )
