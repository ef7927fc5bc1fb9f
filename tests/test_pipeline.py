"""The order in which structures are read."""

import numpy as np
import pytest

from crystaljax.crystals import elements, structure
from crystaljax.data import columnar, pipeline
from crystaljax.data import dataset as datasets

NUM_STRUCTURES = 23


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    rng = np.random.default_rng(0)
    crystals = []
    for i in range(NUM_STRUCTURES):
        n = 1 + i % 4
        numbers = np.sort(rng.choice([29, 79], n))[::-1]
        crystals.append(
            structure.Crystal(numbers, rng.random((n, 3)), np.diag([3.0, 4.0, 5.0 + i]))
        )
    path = tmp_path_factory.mktemp("data") / "dataset"
    columns = columnar.columns_from_crystals(
        [str(i) for i in range(NUM_STRUCTURES)],
        [elements.cell_formula(c.atomic_numbers) for c in crystals],
        crystals,
        [1] * NUM_STRUCTURES,
        [float(i) for i in range(NUM_STRUCTURES)],
    )
    datasets.write_dataset(path, columns, np.zeros(NUM_STRUCTURES, int), {})
    return datasets.open_dataset(path)


def build(dataset, *, num_steps=40, **changes):
    settings = {
        "batch_size": 4,
        "steps_per_dispatch": 2,
        "sites": 4,
        "seed": 3,
    } | changes
    sites, seed = settings.pop("sites"), settings.pop("seed")
    return pipeline.ShuffledBatches(
        pipeline.Permutations(dataset.indices("train"), seed),
        lambda items: datasets.gather(dataset, items, sites),
        num_steps=num_steps,
        **settings,
    )


def test_every_epoch_is_a_permutation_and_no_two_are_equal(dataset):
    source = build(dataset)
    stream = np.concatenate([source.items_of(i).ravel() for i in range(len(source))])
    epochs = [stream[i * NUM_STRUCTURES : (i + 1) * NUM_STRUCTURES] for i in range(6)]
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(NUM_STRUCTURES))
    assert len({epoch.tobytes() for epoch in epochs}) == 6


def test_order_depends_on_the_seed_alone(dataset):
    one, again, other = (
        build(dataset, seed=seed).items_of(5).tolist() for seed in (3, 3, 4)
    )
    assert one == again and one != other
    # Nor does it depend on how many steps are dispatched together.
    singly = build(dataset, steps_per_dispatch=1)
    both = [singly.items_of(10)[0].tolist(), singly.items_of(11)[0].tolist()]
    assert both == one


def test_processes_read_disjoint_slices_of_the_same_batches(dataset):
    whole = build(dataset)[3].energy
    parts = [
        build(dataset, process_index=i, process_count=2)[3].energy for i in range(2)
    ]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)


def test_batches_hold_the_structures_of_their_indices(dataset):
    source = build(dataset)
    indices, batch = source.items_of(2), source[2]
    assert batch.frac_coords.shape == (2, 4, 4, 3)
    for where in np.ndindex(indices.shape):
        crystal = datasets.crystal(dataset, int(indices[where]))
        n = crystal.num_sites
        assert batch.num_sites[where] == n
        np.testing.assert_allclose(
            batch.frac_coords[where][:n], crystal.frac_coords, atol=1e-6
        )
        np.testing.assert_array_equal(batch.atomic_numbers[where][n:], 0)


def test_iterator_goes_on_where_another_stopped(dataset):
    source = build(dataset)
    one = pipeline.build_iterator(source)
    for _ in range(7):
        next(one)
    other = pipeline.build_iterator(source)
    other.set_state(one.get_state())
    for _ in range(5):
        np.testing.assert_array_equal(next(one).energy, next(other).energy)


def test_impossible_splits_are_refused(dataset):
    with pytest.raises(ValueError, match="cannot be split over 3"):
        build(dataset, process_count=3)


def test_interleaved_sources_are_read_whole_and_in_their_order(dataset):
    sources = [build(dataset, num_steps=n, seed=n) for n in (40, 6, 0, 12)]
    together = pipeline.InterleavedBatches(sources, seed=1)
    assert len(together) == sum(map(len, sources)) == 29
    found = [batch.energy.tolist() for batch in map(together.__getitem__, range(29))]
    for source in sources:
        expected = [source[i].energy.tolist() for i in range(len(source))]
        positions = [found.index(energies) for energies in expected]
        assert positions == sorted(positions)
    # Mixed: the few of the second source are not all at one end.
    where = [found.index(sources[1][i].energy.tolist()) for i in range(3)]
    assert max(where) - min(where) > 3
    again = pipeline.InterleavedBatches(sources, seed=1)
    assert again[17].energy.tolist() == found[17]


@pytest.mark.parametrize(
    "sizes,num_dispatches,expected",
    [
        ([75, 25], 8, [6, 2]),
        ([100, 0], 5, [5, 0]),
        ([1000, 1], 10, [9, 1]),
        ([1, 1, 1], 4, [2, 1, 1]),
    ],
)
def test_dispatches_are_shared_by_the_number_of_items(sizes, num_dispatches, expected):
    counts = pipeline.share_dispatches(np.array(sizes), num_dispatches)
    assert counts.tolist() == expected


def test_more_sizes_than_dispatches_are_refused():
    with pytest.raises(ValueError, match="steps_per_dispatch"):
        pipeline.share_dispatches(np.array([5, 5, 5]), 2)
