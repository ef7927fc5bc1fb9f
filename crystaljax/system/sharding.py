"""Processes, the one mesh axis over their devices, and where arrays lie on it."""

from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from crystaljax.system import errors

DATA_AXIS = "data"


def is_first_process() -> bool:
    """Whether this process is the one that writes what all of them share."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Returns when every process has come here; ``name`` tells the places apart."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def is_any(value: bool) -> bool:
    """Whether it is true in any of the processes; all must ask."""
    if jax.process_count() == 1:
        return value
    return bool(multihost_utils.process_allgather(np.array(value)).any())


def build_mesh() -> Mesh:
    """Mesh with the single axis "data" over all devices of all processes."""
    return Mesh(np.array(jax.devices()), (DATA_AXIS,))


def build_local_mesh() -> Mesh:
    """Mesh over the devices of this process alone: sampling needs no communication."""
    return Mesh(np.array(jax.local_devices()), (DATA_AXIS,))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Host arrays, the same in all processes → on every device."""
    whole = replicated(mesh)
    return jax.tree.map(
        lambda array: jax.make_array_from_process_local_data(whole, array, array.shape),
        tree,
    )


def localize(tree: Any, mesh: Mesh) -> Any:
    """Replicated arrays of all processes → the same arrays of this process alone.

    Args:
        tree: arrays, replicated over `build_mesh`.
        mesh: from `build_local_mesh`. Nothing is copied.
    """
    if jax.process_count() == 1:
        return tree
    whole = replicated(mesh)

    def local(array):
        shards = [shard.data for shard in array.addressable_shards]
        return jax.make_array_from_single_device_arrays(array.shape, whole, shards)

    return jax.tree.map(local, tree)


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
        raise errors.UserError(
            f"batch size {batch_size} cannot be split over {mesh.size} devices; use a "
            f"multiple of {mesh.size}"
        )
