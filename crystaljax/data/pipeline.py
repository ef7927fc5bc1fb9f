"""The Grain input pipeline: shuffled indices, then whole batches from the memory map.

Element i of the pipeline is a function of the seed and i alone, so its position is one
number, and a run that is resumed reads on exactly where it was.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import grain
import numpy as np
from jaxtyping import Int

from crystaljax.system import errors

# Keeps the order of dispatches apart from other draws of the same seed.
_ORDER_STREAM = 0x6F72646572


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
        gather_fn: Callable[[np.ndarray], Any],
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
            raise errors.UserError("no structures to draw batches from")
        if batch_size % process_count:
            raise errors.UserError(
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

    def __getitem__(self, dispatch: int) -> Any:
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


class InterleavedBatches:
    """Dispatches of several sources in one random order, each as often as it has them.

    Sources may differ in the shapes of their batches: crystals of few sites in small
    ones, see `structure.rows_of`.
    """

    def __init__(self, sources: Sequence[ShuffledBatches], seed: int):
        """Draws the order, by the seed alone.

        Args:
            sources: all of their dispatches are read.
            seed: of the order.
        """
        self._sources = sources
        counts = [len(source) for source in sources]
        rng = np.random.default_rng((seed, _ORDER_STREAM))
        order = rng.permutation(np.repeat(np.arange(len(sources)), counts))
        # Where each dispatch is in its source: sorting by source keeps their order.
        by_source = np.argsort(order, kind="stable")
        self._position = np.empty(len(order), np.int64)
        self._position[by_source] = np.concatenate([np.arange(n) for n in counts])
        self._source_of = order

    def __len__(self) -> int:
        """Number of dispatches."""
        return len(self._source_of)

    def __getitem__(self, dispatch: int) -> Any:
        """The structures of one dispatch, leading axes (steps, batch)."""
        source = self._sources[self._source_of[dispatch]]
        return source[int(self._position[dispatch])]


def share_dispatches(
    sizes: Int[np.ndarray, " sources"], num_dispatches: int
) -> Int[np.ndarray, " sources"]:
    """How many dispatches each source gets, so that all items are read equally often.

    Proportional to ``sizes``, the items of an epoch, by the method of the largest
    remainder; a source that has items gets one at least.

    Raises:
        ValueError: fewer dispatches than sources with items.
    """
    num_sources = np.count_nonzero(sizes)
    if num_dispatches < num_sources:
        raise errors.UserError(
            f"{num_dispatches} dispatches for {num_sources} sizes of crystals "
            "(data.row_buckets); train for more steps, or lower "
            "train.steps_per_dispatch"
        )
    exact = num_dispatches * sizes / sizes.sum()
    counts = np.floor(exact).astype(np.int64)
    largest = np.argsort(counts - exact, kind="stable")
    counts[largest[: num_dispatches - counts.sum()]] += 1
    for missing in np.flatnonzero((counts == 0) & (sizes > 0)):
        counts[np.argmax(counts)] -= 1
        counts[missing] = 1
    return counts


def build_iterator(
    source: ShuffledBatches | InterleavedBatches,
) -> grain.DatasetIterator:
    """Iterator over the source that reads ahead in a thread.

    Gathering is far faster than a training step, so one thread of this process is
    enough; worker processes would only add copies.
    """
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    # Grain's type asks for slices too, which it never takes.
    dataset = grain.MapDataset.source(source)  # pyright: ignore[reportArgumentType]
    return iter(dataset.to_iter_dataset(options))
