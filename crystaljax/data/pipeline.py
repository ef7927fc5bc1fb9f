"""The Grain input pipeline: shuffled indices, then whole batches from the memory map.

Element i of the pipeline is a function of the seed and i alone, so its position is one
number, and a run that is resumed reads on exactly where it was.
"""

import functools

import grain
import numpy as np

from crystaljax import structure
from crystaljax.data import dataset as datasets


class ShuffledBatches:
    """Random-access source of dispatches: (steps, batch) structures each.

    The structures form one endless stream in which every epoch is a fresh permutation
    of all of them; a batch may straddle two epochs, so nothing is dropped. Every
    process reads its own slice of each batch.
    """

    def __init__(
        self,
        dataset: datasets.Dataset,
        indices: np.ndarray,
        *,
        batch_size: int,
        steps_per_dispatch: int,
        num_steps: int,
        sites: int,
        seed: int,
        process_index: int = 0,
        process_count: int = 1,
    ):
        """Describes the stream.

        Args:
            dataset: to read from.
            indices: of the structures to use, in any order.
            batch_size: structures a step, over all processes.
            steps_per_dispatch: steps whose batches are read together.
            num_steps: steps in all; a multiple of ``steps_per_dispatch``.
            sites: width to which sites are padded.
            seed: of the permutations.
            process_index: which slice of each batch to read.
            process_count: number of slices.

        Raises:
            ValueError: no indices, or a batch that cannot be split over processes.
        """
        if len(indices) == 0:
            raise ValueError("no structures to draw batches from")
        if batch_size % process_count:
            raise ValueError(
                f"batch size {batch_size} cannot be split over {process_count} "
                f"processes; use a multiple of {process_count}"
            )
        self._dataset = dataset
        self._indices = np.asarray(indices)
        self._batch_size = batch_size
        self._steps = steps_per_dispatch
        self._num_dispatches = num_steps // steps_per_dispatch
        self._sites = sites
        local = batch_size // process_count
        self._slice = slice(process_index * local, (process_index + 1) * local)
        self._permutation = functools.lru_cache(maxsize=2)(
            lambda epoch: np.random.default_rng((seed, epoch)).permutation(
                self._indices
            )
        )

    def __len__(self) -> int:
        """Number of dispatches."""
        return self._num_dispatches

    def __getitem__(self, dispatch: int) -> structure.CrystalBatch:
        """The structures of one dispatch, leading axes (steps, batch)."""
        return datasets.gather(
            self._dataset, self.indices_of(dispatch)[:, self._slice], self._sites
        )

    def indices_of(self, dispatch: int) -> np.ndarray:
        """Structure indices of one dispatch over all processes, (steps, batch)."""
        size = self._steps * self._batch_size
        positions = np.arange(dispatch * size, (dispatch + 1) * size)
        epochs, offsets = np.divmod(positions, len(self._indices))
        indices = np.empty(size, dtype=self._indices.dtype)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            indices[here] = self._permutation(int(epoch))[offsets[here]]
        return indices.reshape(self._steps, self._batch_size)


def build_iterator(source: ShuffledBatches) -> grain.DatasetIterator:
    """Iterator over the source that reads ahead in a thread.

    Gathering is far faster than a training step, so one thread of this process is
    enough; worker processes would only add copies.
    """
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    # Grain's type asks for slices too, which it never takes.
    dataset = grain.MapDataset.source(source)  # pyright: ignore[reportArgumentType]
    return iter(dataset.to_iter_dataset(options))
