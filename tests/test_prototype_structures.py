"""Known prototypes: means of structures that are alike, followed instead of drawn."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_orbit_generation import generator

from crystaljax.crystals import elements, orbits, standard_choice, standard_groups
from crystaljax.models import (
    orbit_flow,
    prototype_library,
    prototype_structures,
    wyckoff_files,
    wyckoff_model,
)
from crystaljax.models.networks import orbit_transformer
from crystaljax.sampling import followed_structures, likely_orbits

VOLUMES = np.linspace(5.0, 30.0, 104)
GROUP = standard_groups.load_group(136)


def rutile(metal, anion, u, ratio=0.65, size=60.0):
    """Free parameter of the anion, c/a and the volume of the cell."""
    a = np.cbrt(size / ratio)
    strain = orbits.strain_of_metric(GROUP, np.diag([a, a, a * ratio]) ** 2)
    return standard_choice.choose(
        orbits.OrbitCrystal(
            136,
            np.array([metal, anion]),
            np.array([0, 5]),
            np.array([[0.0, 0, 0], [u, 0, 0]]),
            strain,
        )
    )


def question(metal, anion, energy=0.0):
    numbers = np.repeat([metal, anion], [2, 4])
    return prototype_library.question_of(numbers, energy, 136)


def model_of(crystals, energies):
    examples = [
        (question(*each.atomic_numbers.tolist(), energy), ((0,), (5,)))
        for each, energy in zip(crystals, energies, strict=True)
    ]
    library, _ = prototype_library.build_library(examples)
    structures = prototype_structures.build(library, examples, crystals, VOLUMES)
    return wyckoff_model.WyckoffModel(library, [], {}, {}, 8, structures)


def three():
    """Two alike, and one of another kind at nearly the same energy."""
    crystals = [rutile(22, 8, 0.30), rutile(22, 8, 0.32), rutile(22, 8, 0.10)]
    return model_of(crystals, [0.0, 0.001, 0.002])


def anion_of(crystal):
    """The free parameter, or one half less that; of two cells along a."""
    of_orbit = crystal.frac_coords[crystal.atomic_numbers == 8]
    x = (2 * of_orbit[:, 0]) % 0.5
    return np.minimum(x, 0.5 - x).min()


def test_structures_that_are_alike_are_one_with_their_mean():
    model = three()
    known = model.structures
    assert known.sizes.tolist() == [2, 1]
    parameters = [each[1, 0] for each in known.parameters]
    np.testing.assert_allclose(parameters, [0.31, 0.10], atol=1e-9)
    # Volumes are relative to what the atoms fill.
    own = np.log(60.0 / VOLUMES[[22, 22, 8, 8, 8, 8]].sum())
    np.testing.assert_allclose(known.strains[:, 0], own * 2 / 3**0.5)


def test_other_shapes_are_other_structures():
    crystals = [rutile(22, 8, 0.30), rutile(22, 8, 0.30, ratio=0.8)]
    assert model_of(crystals, [0.0, 0.0]).structures.sizes.tolist() == [1, 1]


def test_nearest_in_elements_and_energy_come_first():
    crystals = [rutile(22, 8, 0.30), rutile(50, 8, 0.31), rutile(22, 9, 0.25)]
    model = model_of(crystals, [0.0, 0.0, 3.0])
    found = model.structures.find(model.library, question(50, 8), ((0,), (5,)))
    values = [model.structures.parameters[index][1, 0] for index, _ in found]
    np.testing.assert_allclose(values, [0.31, 0.30, 0.25])
    distances = [distance for _, distance in found]
    assert distances == sorted(distances) and distances[0] == 0
    # Other positions, or another group, are no prototype of it.
    assert model.structures.find(model.library, question(50, 8), ((0,), (6,))) == []
    other = dataclasses.replace(question(50, 8), space_group=62)
    assert model.structures.find(model.library, other, ((0,), (5,))) == []


def test_energies_tell_structures_of_the_same_elements_apart():
    energies = [0.0, 0.01, 0.5]
    model = model_of([rutile(22, 8, u) for u in (0.30, 0.31, 0.32)], energies)
    assert len(model.library) == 3
    asked = question(22, 8, 0.004)
    found = model.structures.find(model.library, asked, ((0,), (5,)))
    values = [model.structures.parameters[index][1, 0] for index, _ in found]
    np.testing.assert_allclose(values, [0.30, 0.31, 0.32])
    costs = [cost for _, cost in found]
    # A hundredth of a deviation is as much as all of a parameter's ways apart.
    np.testing.assert_allclose(costs, [0.004, 0.006 + 0.2, 0.496 + 3.0])
    # Those of other elements cost what they did.
    other = model.structures.find(model.library, question(40, 8, 0.004), ((0,), (5,)))
    assert np.ptp([cost for _, cost in other]) < 0.5
    assert model.library.own_distance(asked) == pytest.approx(0.004)
    assert model.library.own_distance(question(40, 8)) == np.inf
    unknown = dataclasses.replace(asked, energy=np.nan)
    assert model.library.own_distance(unknown) == 0


def test_the_network_decides_between_structures_of_equal_elements():
    parameters = np.zeros((1, 3, 2, 3))
    parameters[0, :, 1, 0] = 0.30, 0.18, 0.02
    costs = np.array([[0.0, 0.0, np.inf]])
    strains = np.zeros((1, 3, 6))
    strains[0, :, 0] = 1.0, 2.0, 3.0
    answer = np.zeros((1, 2, 3))
    answer[0, 1, 0] = 0.98

    @jax.jit
    def follow(shown, own):
        state = orbit_transformer.pack(own, jnp.zeros((1, 6)))
        made = orbit_flow.follow(shown, state, jnp.array([2]))
        return orbit_transformer.unpack(made)

    def followed(costs, rank, value=None):
        shown = prototype_structures.Shown(parameters, strains, costs, np.array([rank]))
        own = answer.copy()
        if value is not None:
            own[0, 1, 0] = value
        found, strain = follow(shown, own)
        units = orbit_transformer.STRAIN_UNITS
        return float(found[0, 1, 0]), float(strain[0, 0] * units[0])

    # Across the face of the cell, 0.18 is nearer than 0.30. The volume is the mean.
    assert followed(costs, 0) == pytest.approx((0.18, 1.0))
    assert followed(costs, 0, 0.33) == pytest.approx((0.30, 0.5))
    # Elements that are much nearer outweigh that.
    assert followed(np.array([[0.0, 5.0, np.inf]]), 0) == pytest.approx((0.30, 0.5))
    # The next sample follows the next structure, and then none.
    assert followed(costs, 1) == pytest.approx((0.30, 0.5))
    assert followed(costs, 2) == pytest.approx((0.98, 0.0))
    assert followed(costs, 9) == pytest.approx((0.98, 0.0))


def test_samples_follow_each_known_structure_once():
    asked = likely_orbits.Request(question(40, 8), ((0,), (5,)), 2)
    requests = likely_orbits.number_repeats([asked] * 3)
    assert [each.repeat for each in requests] == [0, 1, 2]
    model = three()
    own = dataclasses.replace(generator(), positions=model)
    key = jax.random.key(0)
    made = own.generate(requests, key)
    assert sorted(anion_of(each) for each in made[:2]) == pytest.approx(
        [0.10, 0.5 - 0.31], abs=1e-4
    )
    follows = [followed_structures.follows_known(model, each) for each in requests]
    assert follows == [True, True, False]
    network = generator().generate(requests, key)
    ignoring = dataclasses.replace(own, follow_known=False).generate(requests, key)
    for ours, theirs in [*zip(ignoring, network, strict=True), (made[2], network[2])]:
        np.testing.assert_allclose(ours.lattice, theirs.lattice, atol=1e-5)
        np.testing.assert_allclose(ours.frac_coords, theirs.frac_coords, atol=1e-5)
    # Two primitive cells of other atoms: as large as these are (here all alike), and
    # as the network says.
    known = 2 * 6 * 15.0 * 60 / VOLUMES[[22, 22, 8, 8, 8, 8]].sum()
    drawn = abs(np.linalg.det(network[0].lattice))
    volume = abs(np.linalg.det(made[0].lattice))
    assert volume == pytest.approx(np.sqrt(known * drawn), rel=1e-4)
    assert elements.cell_formula(made[0].atomic_numbers) == "O8Zr4"


def test_prototype_structures_are_the_same_when_they_are_read_back(tmp_path):
    model, path = three(), tmp_path / "positions.npz"
    wyckoff_files.save(
        dataclasses.replace(
            model, group_params={"a": np.ones(1)}, energy_params={"a": np.ones(1)}
        ),
        path,
    )
    again = wyckoff_files.load(path, "train again").structures
    assert again.entries.tolist() == model.structures.entries.tolist()
    assert again.sizes.tolist() == model.structures.sizes.tolist()
    np.testing.assert_allclose(again.strains, model.structures.strains, rtol=1e-6)
    for ours, theirs in zip(again.parameters, model.structures.parameters, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
