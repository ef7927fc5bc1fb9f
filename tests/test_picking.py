"""Which of several draws is handed over."""

import dataclasses

import numpy as np
import pytest
import tiny

from crystaljax.crystals import elements, structure, symmetry_search
from crystaljax.sampling import build as build_sampling
from crystaljax.sampling import collective_generation, conditions, generation, picking

CUBIC = 3.8 * np.eye(3)
CORNERS = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])


def fcc(symbols, stretch=1.0):
    numbers = [elements.atomic_number(each) for each in symbols]
    lattice = CUBIC * np.array([1, 1, stretch])[:, None]
    return structure.Crystal(np.array(numbers), CORNERS, lattice)


def energies_by(function):
    """An estimator that says of a crystal what ``function`` says of its numbers."""

    def estimate(numbers, coords, lattice):
        del coords, lattice
        # What is padded to a whole batch has no numbers.
        known = (row[row > 0].tolist() for row in numbers)
        return np.array([function(each) if each else 0.0 for each in known])

    return estimate


def test_space_group_comes_before_the_order():
    cubic, tetragonal = (
        fcc(["Cu", "Au", "Au", "Au"]),
        fcc(["Cu", "Au", "Au", "Au"], 1.3),
    )
    groups = [221, 123]
    assert [
        symmetry_search.find_space_group(c, 0.1) for c in (cubic, tetragonal)
    ] == groups
    found = picking.pick([[tetragonal, cubic]] * 2, groups, [0.0, 0.0])
    assert found == [cubic, tetragonal]
    # Where no draw has it, the first one stays.
    assert picking.pick([[tetragonal, cubic]], [225], [0.0]) == [tetragonal]


def test_energy_comes_before_the_order():
    ones = [fcc(["Cu", "Cu", "Au", "Au"]), fcc(["Au", "Au", "Cu", "Cu"], 1.01)]
    estimate_fn = energies_by(lambda numbers: -0.1 if numbers[0] == 79 else 0.1)

    def pick(energy, error):
        settings = {"estimate_fn": estimate_fn, "energy_error": error}
        return picking.pick([ones], [123], [energy], **settings)[0]

    assert [pick(0.1, 0.01), pick(-0.1, 0.01)] == ones
    # Where nobody knows how good estimates are they do not count.
    assert pick(-0.1, None) is ones[0]


def test_what_is_made_often_is_likelier():
    estimates = np.array([0.3, 0.0, 0.001, 0.002])
    # Halfway between the two, the one that three samples say.
    scores = picking.log_probabilities(estimates, 0.1505, 0.1)
    assert np.argmax(scores) > 0
    assert scores[2] - scores[0] == pytest.approx(np.log(3))
    # Errors are normal: two of them away is e² less.
    apart = picking.log_probabilities(np.array([0.0, 2.0]), 0.0, 1.0)
    assert apart[0] - apart[1] == pytest.approx(2.0)
    # What cannot be estimated is the last.
    broken = picking.log_probabilities(np.array([np.nan, 9.0]), 0.0, 0.1)
    assert np.argmax(broken) == 1


def test_broken_draws_stop_nothing():
    good = fcc(["Cu", "Au", "Au", "Au"])
    flat = structure.Crystal(good.atomic_numbers, CORNERS, np.zeros((3, 3)))
    lost = structure.Crystal(good.atomic_numbers, CORNERS * np.nan, CUBIC)
    estimate_fn = energies_by(lambda numbers: 0.0)
    settings = {"estimate_fn": estimate_fn, "energy_error": 0.1}
    found = picking.pick(
        [[flat, lost, good], [lost, flat]], [221] * 2, [0.0, 0.0], **settings
    )
    assert found[0] is good
    assert found[1] in (flat, lost)


# ------------------------------------------------------------------------ in generation
@pytest.fixture(scope="module")
def network(alloys):
    config = tiny.config("best", alloys, model__estimator_depth=1)
    config.sampler.draws = 4
    config.sampler.project = 0.0
    return config, tiny.build_generator(config)


def make(network, count, batch_size=8, **changes):
    config, generator = network
    config = config.copy_and_resolve_references()
    config.sampler.draws = count
    generator = dataclasses.replace(
        generator,
        row_buckets=(8, 16),
        batch_size=batch_size,
        host=build_sampling.build_host_work(config, None),
        **changes,
    )
    asked = conditions.combine(["Cu1Au1", "Ag1Au3"], [123, 221], [-0.1], 3, 12)
    return collective_generation.generate(generator, asked, generation.key_of_seed(0))


def test_picked_samples_are_draws_and_depend_on_no_batch(network):
    picked = make(network, 4, energy_error=0.05)
    assert len(picked) == len(make(network, 1)) == 12
    for one, other in zip(picked, make(network, 4, 2, energy_error=0.05), strict=True):
        np.testing.assert_allclose(one.lattice, other.lattice, atol=1e-4)
        np.testing.assert_array_equal(one.atomic_numbers, other.atomic_numbers)
    # Without a known error of the estimates others are picked, in other lattices.
    others = make(network, 4)
    apart = [
        np.abs(a.lattice - b.lattice).max() for a, b in zip(picked, others, strict=True)
    ]
    assert max(apart) > 1e-3


def test_draws_are_other_samples_of_the_same_question():
    asked = conditions.combine(["Cu1Au1", "Ag1Au3"], [123], [-0.1], 2, 12)
    asked = asked.replace(repetition=np.array([0, 1, 0, 1], np.int32))
    seen = []

    def attach(taken):
        seen.append(taken.repetition.tolist())
        return taken

    batch = generation.Batch(np.array([1, 2]), 8, 4)
    host = generation.HostWork(attach_fn=attach, num_draws=3)
    taken, numbers = generation.pad_batch(asked, batch, host)
    # Numbers are those of no other sample, and the template is the sample's own.
    assert numbers.tolist() == [3, 4, 5, 6, 7, 8, 6, 7, 8, 6, 7, 8]
    assert seen == [[1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]]
    np.testing.assert_array_equal(
        taken.atomic_numbers,
        np.asarray(asked.atomic_numbers)[np.array(numbers) // 3, :4],
    )


def test_number_of_draws_is_checked(network):
    with pytest.raises(ValueError, match=r"sampler\.draws is 0"):
        make(network, 0)
