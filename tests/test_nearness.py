import ase.build
import numpy as np
import pytest

from crystaljax.crystals import bridge, structure
from crystaljax.matching import nearness


def of(formula, kind, length, numbers=None):
    crystal = bridge.from_ase(ase.build.bulk(formula, kind, length))
    if numbers is None:
        return crystal
    return structure.Crystal(np.array(numbers), crystal.frac_coords, crystal.lattice)


ROCK_SALT = of("TaC", "rocksalt", 4.48)
CHLORIDE = of("TaC", "cesiumchloride", 2.78)
BLENDE = of("TaC", "zincblende", 4.83)
CARBIDE = structure.Crystal(
    np.array([73, 73, 6]),
    np.array([[1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75], [0, 0, 0]]),
    np.array([[3.1, 0, 0], [-1.55, 2.685, 0], [0, 0, 4.94]]),
)


def test_distances_are_those_of_the_shells():
    found = nearness.describe(ROCK_SALT)
    assert found.fractions == {6: 0.5, 73: 0.5}
    length = (4.48**3 / 8) ** (1 / 3)
    # Six of the other element at half the edge, twelve of its own at 1/√2 of it.
    np.testing.assert_allclose(found.distances[73, 6][:6] * length, 2.24)
    np.testing.assert_allclose(found.distances[73, 6][6:] * length, 2.24 * np.sqrt(3))
    np.testing.assert_allclose(found.distances[73, 73] * length, 4.48 / np.sqrt(2))


def test_the_same_crystal_has_no_distance_whatever_its_cell_and_size():
    atoms = bridge.to_ase(ROCK_SALT)
    larger = bridge.from_ase(atoms * (2, 1, 3))
    scaled = structure.Crystal(
        larger.atomic_numbers, larger.frac_coords + 0.3, larger.lattice * 1.05
    )
    one, other = nearness.describe(ROCK_SALT), nearness.describe(scaled)
    assert nearness.distance_difference(one, other) == pytest.approx(0, abs=1e-9)
    assert nearness.composition_difference(one, other) == pytest.approx(0)


def test_nearest_in_composition_then_in_distances():
    random = np.random.default_rng(0)
    disturbed = structure.Crystal(
        BLENDE.atomic_numbers,
        BLENDE.frac_coords + random.normal(0, 0.01, (2, 3)),
        BLENDE.lattice,
    )
    known = [("Ta2C", CARBIDE), ("B1", ROCK_SALT), ("B2", CHLORIDE), ("B3", BLENDE)]
    (place, composition, distance), second = nearness.find_nearest(
        [disturbed, CARBIDE], known
    )
    assert known[place][0] == "B3" and composition == 0
    assert 0 < distance < 0.05
    assert known[second[0]][0] == "Ta2C" and second[2] == pytest.approx(0)
    # Without any of its composition, what is closest to it.
    place, composition, _ = nearness.find_nearest([CARBIDE], known[1:])[0]
    assert known[1:][place][0] in ("B1", "B2", "B3")
    assert composition == pytest.approx(1 / 6)


def test_orderings_of_one_lattice_differ():
    coords = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    layers = structure.Crystal(np.array([29, 29, 79, 79]), coords, 3.8 * np.eye(3))
    doubled = np.concatenate([coords * [1, 1, 0.5], coords * [1, 1, 0.5] + [0, 0, 0.5]])
    other = structure.Crystal(
        np.array([29, 29, 29, 79, 79, 79, 79, 29]), doubled, np.diag([3.8, 3.8, 7.6])
    )
    one, two = nearness.describe(layers), nearness.describe(other)
    assert nearness.distance_difference(one, two) > 0.01


def test_nothing_is_near_what_shares_no_element():
    copper = of("Cu", "fcc", 3.6)
    empty = structure.NO_CRYSTAL
    found = nearness.find_nearest([copper], [("TaC", ROCK_SALT), ("none", empty)])
    assert found[0][0] == -1 and np.isnan(found[0][1:]).all()
    assert nearness.find_nearest([], [("TaC", ROCK_SALT)]) == []
