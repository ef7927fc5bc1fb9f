"""The Grain input pipeline: shuffled indices, then whole batches from the memory map.

Element i of the pipeline is a function of the seed and i alone, so its position is one
number, and a run that is resumed reads on exactly where it was.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import grain
import numpy as np

from crystaljax import structure


@runtime_checkable
class Epochs(Protocol):
    """What there is to read: in every epoch the same number of items, in a new order.

    An item is an index of a structure, or a row of indices such as a pair.
    """

    def __len__(self) -> int:
        """Items of an epoch."""
        ...

    def epoch(self, epoch: int) -> np.ndarray:
        """The items of one epoch, (items, ...), by the epoch's number alone."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Permutations:
    """Every epoch a fresh permutation of the same structures.

    Attributes:
        indices: of the structures.
        seed: of the permutations.
    """

    indices: np.ndarray
    seed: int

    def __len__(self) -> int:
        return len(self.indices)

    def epoch(self, epoch: int) -> np.ndarray:
        """See `Epochs`."""
        return np.random.default_rng((self.seed, epoch)).permutation(self.indices)


class ShuffledBatches:
    """Random-access source of dispatches: (steps, batch) items each.

    The items form one endless stream of epochs; a batch may straddle two of them, so
    nothing is dropped. Every process reads its own slice of each batch.
    """

    def __init__(
        self,
        epochs: Epochs,
        gather_fn: Callable[[np.ndarray], structure.CrystalBatch],
        *,
        batch_size: int,
        steps_per_dispatch: int,
        num_steps: int,
        process_index: int = 0,
        process_count: int = 1,
    ):
        """Describes the stream.

        Args:
            epochs: the items to read.
            gather_fn: reads items, (steps, batch, ...), from the data set.
            batch_size: items a step, over all processes.
            steps_per_dispatch: steps whose batches are read together.
            num_steps: steps in all; a multiple of ``steps_per_dispatch``.
            process_index: which slice of each batch to read.
            process_count: number of slices.

        Raises:
            ValueError: no items, or a batch that cannot be split over processes.
        """
        if len(epochs) == 0:
            raise ValueError("no structures to draw batches from")
        if batch_size % process_count:
            raise ValueError(
                f"batch size {batch_size} cannot be split over {process_count} "
                f"processes; use a multiple of {process_count}"
            )
        self._gather_fn = gather_fn
        self._batch_size = batch_size
        self._steps = steps_per_dispatch
        self._num_dispatches = num_steps // steps_per_dispatch
        local = batch_size // process_count
        self._slice = slice(process_index * local, (process_index + 1) * local)
        self._epoch_size = len(epochs)
        self._epoch = functools.lru_cache(maxsize=2)(epochs.epoch)

    def __len__(self) -> int:
        """Number of dispatches."""
        return self._num_dispatches

    def __getitem__(self, dispatch: int) -> structure.CrystalBatch:
        """The structures of one dispatch, leading axes (steps, batch)."""
        return self._gather_fn(self.items_of(dispatch)[:, self._slice])

    def items_of(self, dispatch: int) -> np.ndarray:
        """Items of one dispatch over all processes, (steps, batch, ...)."""
        size = self._steps * self._batch_size
        positions = np.arange(dispatch * size, (dispatch + 1) * size)
        epochs, offsets = np.divmod(positions, self._epoch_size)
        items = np.concatenate(
            [
                self._epoch(int(epoch))[offsets[epochs == epoch]]
                for epoch in np.unique(epochs)
            ]
        )
        return items.reshape(self._steps, self._batch_size, *items.shape[1:])


def build_iterator(source: ShuffledBatches) -> grain.DatasetIterator:
    """Iterator over the source that reads ahead in a thread.

    Gathering is far faster than a training step, so one thread of this process is
    enough; worker processes would only add copies.
    """
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    # Grain's type asks for slices too, which it never takes.
    dataset = grain.MapDataset.source(source)  # pyright: ignore[reportArgumentType]
    return iter(dataset.to_iter_dataset(options))
