"""How many samples at a time: the most that fit into the memory of the devices."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from crystaljax.crystals import structure
from crystaljax.sampling import generation
from crystaljax.sampling.conditions import Conditions
from crystaljax.system import device_memory, errors
from crystaljax.system import sharding as parallel

AUTO = "auto"
# Devices are busy long before; beyond it samples only come later.
MAX_SIZE = 8192
# Compiled first. Large enough that what does not grow with the batch weighs little.
_TRIAL_SIZE = 256


def resolve(
    generator: generation.AnyGenerator,
    asked: int | str | None,
    conditions: Conditions,
    key: Array,
    num_samples: int | None = None,
) -> tuple[generation.AnyGenerator, str | None]:
    """The generator with the batch size to use, and a note if that was chosen here.

    Args:
        generator: with the batch size of its config.
        asked: samples at a time; "auto" for the most that fit, the config's if None.
        conditions: of all samples, on the host.
        key: of the samples.
        num_samples: samples that this process makes; all of the conditions if None.

    Raises:
        ValueError: another word than "auto".
    """
    default, mesh = generator.batch_size, generator.mesh
    if not isinstance(asked, str):
        return dataclasses.replace(generator, batch_size=asked or default), None
    if asked != AUTO:
        raise errors.UserError(
            f"batch_size is {asked!r}; expected an integer or {AUTO!r}"
        )
    if not isinstance(generator, generation.Generator):
        return generator, (
            f"{default} samples are made at a time, as in the config: a model of "
            "orbits does not choose the size"
        )
    num_samples = len(conditions) if num_samples is None else num_samples
    # What holds the largest crystals holds all others.
    largest = int(np.argmax(conditions.num_sites))
    num_sites = np.asarray(conditions.num_sites)[[largest]]
    rows = int(structure.rows_of(num_sites, generator.row_buckets)[0])
    available = device_memory.available_bytes(mesh)
    size = None
    if available is not None:

        def needed(size):
            batch = generation.Batch(np.array([largest]), rows, size)
            return needed_bytes(generator, conditions, key, batch)

        size = choose(needed, available, num_samples, mesh.size)
    if available is None or size is None:
        return generator, (
            f"the devices do not tell their memory, so that {default} samples are made "
            "at a time, as in the config"
        )
    return dataclasses.replace(generator, batch_size=size), (
        f"{size} samples at a time, in {available / 2**30:.1f} GiB of free memory a "
        "device"
    )


def choose(
    needed_fn: Callable[[int], float | None],
    available: float,
    num_samples: int,
    num_devices: int,
) -> int | None:
    """Largest size, a power of two times ``num_devices``, that fits and is of use.

    Memory is taken to grow in proportion to the batch: one size is requested, then that
    which should be the answer, and smaller ones only if it was not.

    Args:
        needed_fn: bytes on a device for a batch size (infinite where compiling itself
            fails for want of memory); None if unknown. Compiles, and so is slow.
        available: bytes on a device.
        num_samples: no more are needed.
        num_devices: that a batch is split over.

    Returns:
        The size; None if what is needed is unknown.
    """

    def floor(limit):
        return num_devices << max(int(limit // num_devices).bit_length() - 1, 0)

    most = generation.sufficient_size(-(-num_samples // num_devices), 1) * num_devices
    most = min(most, floor(MAX_SIZE))
    size = min(floor(_TRIAL_SIZE), most)
    needed = needed_fn(size)
    if needed is None:
        return None
    if needed <= available:
        largest = min(floor(size * available / max(needed, 1)), most)
        if largest == size:
            return size
        size, needed = largest, needed_fn(largest)
    while needed is not None and needed > available and size > num_devices:
        # Straight to where it should fit, if that is known.
        likely = size if needed == float("inf") else size * available / needed
        size = max(min(floor(likely), size // 2), num_devices)
        needed = needed_fn(size)
    return size


def needed_bytes(
    generator: generation.Generator,
    conditions: Conditions,
    key: Array,
    batch: generation.Batch,
) -> float | None:
    """Bytes on each device for a batch, beyond the parameters; None if unknown."""
    sharding = parallel.batch_sharding(generator.mesh)
    inputs = jax.tree.map(
        lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding),
        generation.pad_batch(conditions, batch, generator.host),
    )
    try:
        # Calls of the function later find it compiled.
        compiled = generator.generate_fn.lower(
            *generator.numbers, inputs[0], key, inputs[1]
        ).compile()
    except jax.errors.JaxRuntimeError as error:
        if generation.is_out_of_memory(error):
            return float("inf")
        raise
    memory: Any = compiled.memory_analysis()
    if memory is None:
        return None
    params_size = sum(leaf.nbytes for leaf in jax.tree.leaves(generator.numbers))
    arguments = max(memory.argument_size_in_bytes - params_size, 0)
    # Two batches are in flight, but computed one after the other.
    both = 2 * (arguments + memory.output_size_in_bytes)
    return float(memory.temp_size_in_bytes + both)
