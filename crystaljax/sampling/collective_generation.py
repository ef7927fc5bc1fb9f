"""Crystals for all conditions at once, in memory, by all processes together."""

import dataclasses

import jax
import numpy as np
import tqdm
from jax.experimental import multihost_utils
from jaxtyping import Array

from crystaljax.crystals import structure
from crystaljax.sampling import conditions as conditions_lib
from crystaljax.sampling import generation
from crystaljax.system import sharding


def generate(
    generator: generation.AnyGenerator,
    conditions: conditions_lib.Conditions,
    key: Array,
    *,
    description: str | None = None,
) -> list[structure.Crystal]:
    """Samples one crystal per condition, in order.

    Where there are several processes all must call this: each makes a share, and all
    get all crystals.

    Args:
        generator: what makes them.
        conditions: of all samples, on the host.
        key: of the whole run; sample i uses ``fold_in(key, i)``.
        description: label of a progress bar; none if None.

    Raises:
        ValueError: the batch size cannot be split over the devices, or a crystal does
            not fit into the rows.
    """
    mesh, batch_size = generator.mesh, generator.batch_size
    sharding.require_divisible(batch_size, mesh)
    if jax.process_count() > 1:
        # All have to plan the same batches, whatever their memory holds.
        sizes = multihost_utils.process_allgather(np.array(batch_size))
        batch_size = int(np.min(sizes))
        generator = dataclasses.replace(generator, batch_size=batch_size)
    generator = generator.for_conditions(conditions)
    batches = generator.plan_batches(conditions, np.arange(len(conditions)))
    share = batches[jax.process_index() :: jax.process_count()]
    progress = tqdm.tqdm(
        total=sum(len(batch.numbers) for batch in share),
        desc=description,
        unit="crystal",
        disable=description is None,
    )
    made: dict[int, structure.Crystal] = {}
    with progress:
        for numbers, crystals in generator.generate_batches(conditions, key, share):
            made.update(zip(numbers, crystals, strict=True))
            progress.update(len(numbers))
    if jax.process_count() > 1:
        return _gather(made, conditions)
    return [made[number] for number in range(len(conditions))]


def _gather(
    made: dict[int, structure.Crystal], conditions: conditions_lib.Conditions
) -> list[structure.Crystal]:
    """The crystals of all processes, in order."""
    num_samples = len(conditions)
    # float32 is what they were made in, so that nothing is lost.
    coords = np.zeros((num_samples, int(np.max(conditions.num_sites)), 3), np.float32)
    lattice = np.zeros((num_samples, 3, 3), np.float32)
    is_here = np.zeros(num_samples, bool)
    for number, crystal in made.items():
        coords[number, : crystal.num_sites] = crystal.frac_coords
        lattice[number] = crystal.lattice
        is_here[number] = True
    coords, lattice, is_there = multihost_utils.process_allgather(
        (coords, lattice, is_here)
    )
    number = np.arange(num_samples)
    process = is_there.argmax(axis=0)
    return generation.crystals_of(
        conditions, number, coords[process, number], lattice[process, number]
    )
