"""Batches of samples: rows, sizes, memory, order, processes."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny

from crystaljax.crystals import structure
from crystaljax.sampling import (
    batch_sizes,
    collective_generation,
    conditions,
    generation,
)
from crystaljax.system import device_memory, sharding

BUCKETS = (8, 16)
KEY = jax.random.key(7)


def tiny_config():
    config = tiny.config("ddim", "unused")
    config.data.row_buckets = BUCKETS[:1]
    config.sampler.num_steps = 2
    return config


@pytest.fixture(scope="module")
def generator():
    return tiny.build_generator(tiny_config())


def generator_with(generate_fn):
    """A generator with another compiled function, which needs no network."""
    return generation.Generator(
        generate_fn=generate_fn,
        estimate_fn=None,
        scale=None,
        tables={},
        mesh=sharding.build_local_mesh(),
        row_buckets=BUCKETS,
        batch_size=4,
        params={},
    )


def mixed_conditions():
    """24 samples; the cells of 4 of them do not fit into 8 rows."""
    parts = [
        conditions.combine(["Cu3Au1", "Ag1Au1"], [221], [-0.1, 0.1], 5, 12),
        conditions.combine(["Cu6Au2", "Ag5Cu4"], [221], [-0.1, 0.1], 1, 12),
    ]
    order = np.random.default_rng(0).permutation(24)
    return jax.tree.map(lambda *arrays: np.concatenate(arrays)[order], *parts)


def make(generator, batch_size, row_buckets=BUCKETS):
    generator = dataclasses.replace(
        generator, row_buckets=row_buckets, batch_size=batch_size
    )
    return collective_generation.generate(generator, mixed_conditions(), KEY)


def assert_same(ones, others, atol=1e-4):
    assert len(ones) == len(others)
    for one, other in zip(ones, others, strict=True):
        np.testing.assert_array_equal(one.atomic_numbers, other.atomic_numbers)
        np.testing.assert_allclose(one.lattice, other.lattice, atol=atol)
        difference = one.frac_coords - other.frac_coords
        np.testing.assert_allclose(difference - np.round(difference), 0, atol=atol)


# -------------------------------------------------------------------------------- rows
def test_rows_follow_the_crystals_and_samples_depend_on_no_batch(generator):
    shapes = []

    def watch(variables, scale, batch, key, indices):
        shapes.append((batch.atomic_numbers.shape, batch.num_sites.max()))
        return generator.generate_fn(variables, scale, batch, key, indices)

    whole = make(dataclasses.replace(generator, generate_fn=watch), 16)
    assert sorted({shape for shape, _ in shapes}) == [(4, 12), (16, 4)]
    assert all(largest <= columns for (_, columns), largest in shapes)
    asked = mixed_conditions()
    assert [each.num_sites for each in whole] == asked.num_sites.tolist()
    assert_same(whole, make(generator, 4))
    # Any order, and any others beside them.
    batches = generation.plan_batches(
        asked.num_sites,
        np.array([1, 2, 3, 5, 8, 13, 21]),
        row_buckets=BUCKETS,
        batch_size=4,
        num_devices=1,
    )
    made = generation.generate_batches(generator, asked, KEY, batches[::-1])
    for numbers, crystals in made:
        assert_same(crystals, [whole[number] for number in numbers])


def test_without_buckets_all_have_the_same_rows(generator):
    ones, others = make(generator, 4, (16,)), make(generator, 4)
    fits = mixed_conditions().num_sites <= structure.max_sites(8)
    differs = [
        np.abs(one.lattice - other.lattice).max() > 1e-3
        for one, other in zip(ones, others, strict=True)
    ]
    np.testing.assert_array_equal(differs, fits)


def test_crystals_too_large_for_the_rows_are_named(generator):
    with pytest.raises(ValueError, match="9 sites does not fit into 8 rows"):
        make(generator, 4, (8,))


def test_batches_are_no_larger_than_their_bucket_needs():
    num_sites = np.array([2] * 100 + [12] * 3 + [4] * 70, np.int32)
    batches = generation.plan_batches(
        num_sites,
        np.arange(173),
        row_buckets=(8, 16),
        batch_size=66,
        num_devices=3,
    )
    assert [(each.rows, each.size, len(each.numbers)) for each in batches] == [
        (8, 66, 66),
        (8, 66, 66),
        (16, 6, 3),
        (8, 66, 38),
    ]
    numbers = np.concatenate([each.numbers for each in batches])
    assert sorted(numbers.tolist()) == list(range(173))
    assert all(np.all(np.diff(each.numbers) > 0) for each in batches)


# --------------------------------------------------------------------- order and memory
class Device:
    """A generate function with a memory: answers 0 for every crystal."""

    def __init__(self, most=10**9, message="RESOURCE_EXHAUSTED: out of memory"):
        self.most, self.message, self.sizes = most, message, []

    def __call__(self, variables, scale, batch, key, indices):
        size, sites = batch.atomic_numbers.shape
        self.sizes.append(size)
        if size > self.most:
            raise jax.errors.JaxRuntimeError(self.message)
        return np.zeros((size, sites, 3), np.float32), np.zeros((size, 3, 3))


class LateDevice(Device):
    """The same, but what goes wrong appears when results are fetched."""

    def __call__(self, variables, scale, batch, key, indices):
        most, self.most = self.most, 10**9
        answer = super().__call__(variables, scale, batch, key, indices)
        self.most = most
        return answer if len(indices) <= most else Failure(self.message)


class Failure:
    def __init__(self, message):
        self.message = message

    def __array__(self):
        raise jax.errors.JaxRuntimeError(self.message)


def test_the_device_has_the_next_batch_before_one_is_fetched():
    device = Device()
    asked = mixed_conditions()
    batches = generation.plan_batches(
        asked.num_sites,
        np.arange(24),
        row_buckets=(16,),
        batch_size=8,
        num_devices=1,
    )
    made = generation.generate_batches(generator_with(device), asked, KEY, batches)
    next(made)
    assert len(device.sizes) == 2
    assert len(list(made)) == 2 and len(device.sizes) == 3


@pytest.mark.parametrize("kind", [Device, LateDevice])
def test_batches_that_do_not_fit_are_halved(kind):
    device = kind(most=5)
    with pytest.warns(UserWarning, match="do not fit into memory") as warned:
        crystals = make(generator_with(device), 16, (16,))
    num_sites = [each.num_sites for each in crystals]
    assert num_sites == mixed_conditions().num_sites.tolist()
    # From 16 over 8 to 4, and never up again.
    assert len(warned) == 2
    assert device.sizes == sorted(device.sizes, reverse=True)
    assert device.sizes.count(4) == 6


def test_other_errors_and_what_never_fits_are_raised():
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        make(generator_with(Device(0, "INTERNAL: broken")), 16)
    with (
        pytest.warns(UserWarning),
        pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"),
    ):
        make(generator_with(Device(0)), 16)


# -------------------------------------------------------------------------- batch sizes
@pytest.mark.parametrize(
    "per_sample,fixed,num_samples,num_devices,expected,sizes",
    [
        # Plenty: no more than is asked for, or than is of use.
        (1, 0, 100, 1, 128, [128]),
        (1, 0, 100, 3, 192, [192]),
        (1, 0, 10**6, 1, 8192, [256, 8192]),
        # In proportion; what does not grow makes the guess too careful.
        (1000, 0, 10**6, 1, 512, [256, 512]),
        (1000, 100_000, 10**6, 2, 512, [256, 512]),
        # Even the first does not fit.
        (10_000, 0, 10**6, 1, 64, [256, 64]),
        (10_000, 600_000, 10**6, 1, 16, [256, 64, 32, 16]),
        (10**7, 0, 10**6, 4, 4, [256, 4]),
    ],
)
def test_largest_batch_that_fits_is_found_in_few_compilations(
    per_sample, fixed, num_samples, num_devices, expected, sizes
):
    asked = []

    def needed(size):
        asked.append(size)
        return fixed + per_sample * size

    available = 800_000.0
    found = batch_sizes.choose(needed, available, num_samples, num_devices)
    assert found == expected
    assert asked == sizes


def test_batch_size_where_compiling_fails_or_memory_is_unknown():
    def needed(size):
        return float("inf") if size > 100 else 10.0 * size

    assert batch_sizes.choose(needed, 10_000.0, 10**6, 1) == 64
    assert batch_sizes.choose(lambda _: None, 10_000.0, 10**6, 1) is None


def test_auto_measures_the_compiled_function(generator, monkeypatch):
    given = dataclasses.replace(generator, batch_size=5)

    def resolve(asked):
        found, note = batch_sizes.resolve(
            given, asked, mixed_conditions(), KEY, num_samples=4
        )
        return found.batch_size, note

    needed = []
    measure = batch_sizes.needed_bytes

    def watch(*args):
        needed.append((args[3].size, args[3].rows, measure(*args)))
        return needed[-1][-1]

    monkeypatch.setattr(batch_sizes, "needed_bytes", watch)
    size, note = resolve("auto")
    assert size == 4 and "4 samples at a time" in note
    ((_, rows, bytes_of_4),) = needed
    # Of the largest; at the least what goes in and comes out.
    assert rows == 16 and bytes_of_4 > 4 * (12 * 3 + 9) * 4
    monkeypatch.setattr(device_memory, "available_bytes", lambda _: None)
    size, note = resolve("auto")
    assert size == 5 and "do not tell" in note
    assert resolve(None) == (5, None) and resolve(6) == (6, None)
    with pytest.raises(ValueError, match="'large'"):
        resolve("large")
