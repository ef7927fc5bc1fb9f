"""Crystals → orbits → crystals, and the choice among their descriptions."""

import dataclasses
import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import spglib

from crystaljax.crystals import (
    orbits,
    standard_choice,
    standard_groups,
    standard_setting,
    structure,
)
from crystaljax.data.sources import emt
from crystaljax.matching import matcher

TIGHT = matcher.Tolerance(0.02, 0.02, 1.0)
ELEMENTS = np.array([29, 79, 8, 13])


def random_crystal(number, index, seed=0):
    """A crystal with one orbit on a position and some on the general one.

    The general orbits see to it that the crystal has no more than its group.
    """
    rng = np.random.default_rng([number, index, seed])
    group = standard_groups.load_group(number)
    positions = [index] + [len(group.positions) - 1] * (2 if number > 1 else 3)
    freedom = np.array([group.positions[i].freedom for i in positions])
    parameters = rng.random((len(positions), 3)) * (np.arange(3) < freedom[:, None])
    strain = np.zeros(6)
    strain[: len(group.strains)] = 0.15 * rng.normal(size=len(group.strains))
    num_sites = sum(group.positions[i].multiplicity for i in positions)
    strain[0] = np.log(15.0 * num_sites) * 2 / 3**0.5
    return orbits.OrbitCrystal(
        number, ELEMENTS[: len(positions)], np.array(positions), parameters, strain
    )


def disguise(crystal, seed=0):
    """The same crystal in another basis, orientation, origin and site order."""
    rng = np.random.default_rng(seed)
    basis = np.eye(3, dtype=int)
    for _ in range(3):
        step = np.eye(3, dtype=int)
        step[tuple(rng.choice(3, 2, replace=False))] = rng.integers(-1, 2)
        basis = basis @ step
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    rotation *= np.linalg.det(rotation)
    order = rng.permutation(crystal.num_sites)
    coords = crystal.frac_coords @ np.linalg.inv(basis) + rng.random(3)
    return structure.Crystal(
        crystal.atomic_numbers[order],
        coords[order] % 1,
        basis @ crystal.lattice @ rotation,
    )


def assert_same(one, other, tolerance=1e-3):
    """Whether two crystals have one description."""
    assert one.space_group == other.space_group
    np.testing.assert_array_equal(one.atomic_numbers, other.atomic_numbers)
    np.testing.assert_array_equal(one.positions, other.positions)
    apart = one.parameters - other.parameters
    assert np.abs(apart - np.round(apart)).max() < tolerance
    np.testing.assert_allclose(one.strain, other.strain, atol=tolerance)


def assert_matches(one, other):
    assert matcher.match(one, other, [TIGHT]).rms[0] is not None


def all_positions():
    return [
        (number, index)
        for number in range(1, 231)
        for index in range(len(standard_groups.load_group(number).positions))
    ]


# ------------------------------------------------------------------ there and back
@pytest.mark.parametrize("part", range(6))
def test_crystals_of_all_groups_come_back(part):
    """A position of each group: found again from any cell, and chosen alike."""
    for number in range(1 + part, 231, 6):
        num_positions = len(standard_groups.load_group(number).positions)
        crystal = random_crystal(number, 7 * number % num_positions)
        found = standard_setting.standardise(
            disguise(orbits.expand(crystal), number), number, (1e-3,)
        )
        assert found.agrees and found.num_cells == 1
        chosen = standard_choice.choose(crystal)
        assert_same(standard_choice.choose(found.crystal), chosen)


@pytest.mark.parametrize("part", range(4))
def test_every_wyckoff_position_is_found(part):
    """Without spglib: sites → orbits, with the position and parameters equivalent."""
    for number, index in all_positions()[3 * part :: 12]:
        group = standard_groups.load_group(number)
        crystal = random_crystal(number, index)
        sites = orbits.expand(crystal)
        metric = sites.lattice @ sites.lattice.T
        order = np.random.default_rng(0).permutation(sites.num_sites)
        found = standard_setting.find_orbits(
            group, sites.atomic_numbers[order], sites.frac_coords[order], metric
        )
        by_species = np.argsort(found.atomic_numbers)[
            np.argsort(np.argsort(crystal.atomic_numbers))
        ]
        np.testing.assert_array_equal(found.positions[by_species], crystal.positions)
        np.testing.assert_allclose(found.strain, crystal.strain, atol=1e-9)
        for position, ours, theirs in zip(
            [group.positions[i] for i in crystal.positions],
            crystal.parameters,
            found.parameters[by_species],
            strict=True,
        ):
            ways = position.equivalent_matrices @ ours + position.equivalent_vectors
            apart = ways - theirs
            apart = np.abs(apart - np.round(apart))[:, : position.freedom]
            assert apart.max(axis=1, initial=0).min() < 1e-6


@hypothesis.settings(max_examples=30, deadline=None)
@hypothesis.given(st.sampled_from(all_positions()), st.integers(0, 10**6))
def test_there_and_back_is_the_same_crystal(place, seed):
    crystal = random_crystal(*place, seed)
    sites = orbits.expand(crystal)
    given = disguise(sites, seed)
    # Random orbits may come near one another, or near more symmetry.
    hypothesis.assume(space_group_of(sites, 0.01) == crystal.space_group)
    found = standard_setting.standardise(given, crystal.space_group, (1e-3,))
    back = orbits.expand(standard_choice.choose(found.crystal))
    assert space_group_of(back, 1e-3) == crystal.space_group
    assert_matches(back, given)


def space_group_of(crystal, symprec):
    cell = (crystal.lattice, crystal.frac_coords, crystal.atomic_numbers)
    try:
        found = spglib.get_symmetry_dataset(cell, symprec)
    except Exception:
        return 0
    return 0 if found is None else found.number


def test_built_in_alloys_come_back():
    for record in emt.load_builtin()[::90]:
        found = standard_setting.standardise(record.crystal, record.space_group)
        assert found.agrees
        back = orbits.expand(standard_choice.choose(found.crystal))
        assert_matches(back, record.crystal)
        assert space_group_of(back, 1e-3) == record.space_group


# --------------------------------------------------------------------- standardisation
ROCK_SALT = structure.Crystal(
    np.array([11] * 4 + [17] * 4),
    np.array(
        [
            *([0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]),
            *([0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5], [0.5, 0.5, 0.5]),
        ]
    ),
    5.64 * np.eye(3),
)


def test_rock_salt_has_nothing_free_but_its_volume():
    found = standard_setting.standardise(ROCK_SALT)
    # The conventional cell holds four primitive ones.
    assert (found.num_cells, found.agrees) == (4, True)
    chosen = standard_choice.choose(found.crystal)
    assert chosen.space_group == 225
    # Na before Cl by Mendeleev number; of the two settings the one with Na on a.
    assert chosen.atomic_numbers.tolist() == [11, 17]
    assert chosen.positions.tolist() == [0, 1]
    assert not chosen.parameters.any()
    assert not standard_choice.free_parameters(chosen).any()
    expected = [np.log(5.64**3 / 4) * 2 / 3**0.5, 0, 0, 0, 0, 0]
    np.testing.assert_allclose(chosen.strain, expected, atol=1e-6)
    lattice = orbits.expand(chosen).lattice
    assert np.linalg.det(lattice) == pytest.approx(5.64**3 / 4)
    np.testing.assert_allclose(lattice, np.tril(lattice))


def test_supercells_are_counted():
    crystal = orbits.expand(random_crystal(62, 2))
    doubled = structure.Crystal(
        np.tile(crystal.atomic_numbers, 2),
        np.concatenate([crystal.frac_coords / [1, 1, 2]] * 2)
        + np.repeat([[0, 0, 0], [0, 0, 0.5]], crystal.num_sites, axis=0),
        crystal.lattice * np.array([[1], [1], [2]]),
    )
    found = standard_setting.standardise(doubled, 62)
    assert found.num_cells == 2
    assert found.crystal.num_sites == crystal.num_sites
    assert_matches(orbits.expand(found.crystal), doubled)


def test_a_distorted_crystal_is_found_where_its_label_is():
    """The labelled group at a larger symprec, the found one if it never comes."""
    moved = ROCK_SALT.frac_coords.copy()
    moved[0] += 0.012
    crystal = dataclasses.replace(ROCK_SALT, frac_coords=moved)
    strict = standard_setting.standardise(crystal, symprecs=(1e-3,))
    assert strict.crystal.space_group != 225 and strict.agrees
    loose = standard_setting.standardise(crystal, 225)
    assert loose.crystal.space_group == 225
    assert loose.agrees and loose.symprec > 1e-3
    other = standard_setting.standardise(crystal, 194)
    assert not other.agrees and other.crystal.space_group != 194


def test_p1_has_one_site_at_the_origin():
    crystal = random_crystal(1, 0)
    chosen = standard_choice.choose(crystal)
    free = standard_choice.free_parameters(chosen)
    assert free.sum() == 3 * (crystal.num_orbits - 1)
    np.testing.assert_array_equal(chosen.parameters[~free], 0)
    assert_matches(orbits.expand(chosen), orbits.expand(crystal))


@pytest.mark.parametrize("number", [3, 4, 8, 33, 36, 99, 146, 156, 160, 186])
def test_polar_directions_are_fixed(number):
    group = standard_groups.load_group(number)
    assert group.num_polar
    crystal = random_crystal(number, 0)
    moved = crystal.parameters.copy()
    moved[:, : group.num_polar] += 0.317
    chosen = standard_choice.choose(crystal)
    other = standard_choice.choose(dataclasses.replace(crystal, parameters=moved % 1))
    assert_same(other, chosen, 1e-6)
    free = standard_choice.free_parameters(chosen)
    total = sum(group.positions[i].freedom for i in crystal.positions)
    assert free.sum() == total - group.num_polar
    assert np.abs(chosen.parameters[~free]).max() < 1e-9


def bad(**changes):
    return dataclasses.replace(ROCK_SALT, **changes)


@pytest.mark.parametrize(
    ("crystal", "message"),
    [
        (bad(lattice=np.zeros((3, 3))), "no standard setting"),
        (bad(frac_coords=np.full((8, 3), np.nan)), "no standard setting"),
        (bad(frac_coords=np.zeros((8, 3))), "expected|sites"),
        (structure.NO_CRYSTAL, "no standard setting"),
    ],
)
def test_what_is_no_crystal_is_named(crystal, message):
    with pytest.raises(ValueError, match=message):
        standard_setting.standardise(crystal, 225)


def test_sites_that_are_not_of_the_group_are_named():
    group = standard_groups.load_group(225)
    with pytest.raises(ValueError, match="no site of its species"):
        standard_setting.find_orbits(
            group, np.array([11]), np.array([[0.1, 0.2, 0.3]]), 16 * np.eye(3)
        )


# ------------------------------------------------------------------------------ choice
@pytest.mark.parametrize("part", range(6))
def test_all_descriptions_of_a_crystal_are_chosen_alike(part):
    rng = np.random.default_rng(part)
    for number in range(3 + part, 231, 6):
        group = standard_groups.load_group(number)
        crystal = random_crystal(number, number % len(group.positions))
        chosen = standard_choice.choose(crystal)
        proper = np.flatnonzero(group.changes.proper)
        # Changes that make a monoclinic basis longer cannot all be made back.
        change = int(rng.choice(proper)) if number > 15 else 0
        shift = int(rng.integers(len(group.shifts.linear)))
        other = standard_choice.transform(crystal, change, shift)
        assert_same(standard_choice.choose(other), chosen)
        # What was chosen stays.
        assert_same(standard_choice.choose(chosen), chosen, 1e-9)


@pytest.mark.parametrize("number", [1, 2, 5, 14, 15, 19, 43, 62, 99, 160, 205, 227])
def test_transformed_crystals_are_the_same(number):
    group = standard_groups.load_group(number)
    crystal = random_crystal(number, 0)
    for change in range(min(len(group.changes.linear), 8)):
        for shift in range(min(len(group.shifts.linear), 2)):
            other = standard_choice.transform(crystal, change, shift)
            assert_matches(orbits.expand(other), orbits.expand(crystal))


@pytest.mark.parametrize("number", [1, 4, 19, 92, 146, 198])
def test_mirror_images_differ_unless_they_should_not(number):
    crystal = random_crystal(number, 0)
    group = standard_groups.load_group(number)
    improper = np.flatnonzero(~group.changes.proper)
    if number == 92:
        # P4_12_12: its mirror images have another group.
        assert len(improper) == 0
        return
    mirrored = standard_choice.transform(crystal, int(improper[0]))
    one, other = (
        standard_choice.choose(each, mirror_images=True) for each in (crystal, mirrored)
    )
    assert_same(one, other)
    one, other = (standard_choice.choose(each) for each in (crystal, mirrored))
    assert np.abs(one.parameters - other.parameters).max() > 1e-3


def test_species_come_rarest_first_then_by_mendeleev_number():
    assert standard_choice.species_order(np.array([8, 8, 8, 22, 56])) == [56, 22, 8]


# ------------------------------------------------------------------------ fixed shapes
@pytest.fixture(scope="module")
def some():
    """One crystal of every fourth group, and one with nothing in it."""
    return [
        random_crystal(number, number % len(group.positions))
        for number in range(1, 231, 4)
        for group in [standard_groups.load_group(number)]
    ]


def test_what_the_device_builds_is_what_the_host_builds(some):
    tables = orbits.load_tables()
    batch = orbits.encode(some, num_orbits=5)
    num_sites = max(crystal.num_sites for crystal in some)

    @jax.jit
    def build(tables, batch):
        layout = orbits.lay_out(tables, batch.space_group, batch.positions, num_sites)
        return (
            layout.orbit,
            orbits.expand_sites(layout, batch.parameters),
            orbits.expand_lattice(tables, batch.space_group, batch.strain),
            orbits.count_sites(tables, batch.space_group, batch.positions),
            orbits.free_mask(tables, batch.space_group, batch.positions),
        )

    orbit, coords, lattice, count, free = map(np.asarray, build(tables, batch))
    for row, crystal in enumerate(some):
        expected = orbits.expand(crystal)
        assert count[row] == crystal.num_sites
        used = orbit[row] >= 0
        assert used.sum() == used[: count[row]].sum() == crystal.num_sites
        apart = coords[row, used] - expected.frac_coords
        assert np.abs(apart - np.round(apart)).max() < 1e-5
        np.testing.assert_array_equal(coords[row, ~used], 0)
        np.testing.assert_allclose(lattice[row], expected.lattice, rtol=1e-5, atol=1e-4)
        numbers = crystal.atomic_numbers[orbit[row, used]]
        np.testing.assert_array_equal(numbers, expected.atomic_numbers)
        group = standard_groups.load_group(crystal.space_group)
        freedom = [group.positions[i].freedom for i in crystal.positions]
        np.testing.assert_array_equal(
            free[row].sum(-1), freedom + [0, 0, 0][: 5 - len(freedom)]
        )


def test_arrays_are_decoded_to_what_was_encoded(some):
    for one, other in zip(
        orbits.decode(orbits.encode(some, num_orbits=4)), some, strict=True
    ):
        assert_same(one, other, 1e-6)


def test_no_crystal_is_an_empty_row(some):
    tables = orbits.load_tables()
    batch = jax.tree.map(np.zeros_like, orbits.encode(some[:2], num_orbits=4))
    lay_out = jax.jit(functools.partial(orbits.lay_out, tables), static_argnums=2)
    layout = lay_out(batch.space_group, batch.positions, 8)
    assert (np.asarray(layout.orbit) == -1).all()
    lattice = jax.jit(orbits.expand_lattice)(tables, batch.space_group, batch.strain)
    np.testing.assert_allclose(lattice, np.tile(np.eye(3), (2, 1, 1)), atol=1e-6)
    assert orbits.decode(batch) == []


def test_lattices_have_gradients_where_they_are_symmetric():
    tables = orbits.load_tables()
    number = jnp.array([225, 1])

    def volume(strain):
        lattice = orbits.expand_lattice(tables, number, strain)
        return jnp.linalg.det(lattice).sum()

    gradient = jax.jit(jax.grad(volume))(jnp.zeros((2, 6)))
    # Volume is exp(√3/2 · strain).
    np.testing.assert_allclose(gradient[:, 0], 3**0.5 / 2, rtol=1e-5)
    np.testing.assert_allclose(gradient[:, 1:], 0, atol=1e-5)


def test_strains_are_metrics_and_metrics_strains():
    for number in range(1, 231, 7):
        crystal = random_crystal(number, 0)
        group = standard_groups.load_group(number)
        lattice = orbits.lattice_of_strain(group, crystal.strain)
        assert np.linalg.det(lattice) == pytest.approx(
            np.exp(crystal.strain[0] * 3**0.5 / 2)
        )
        np.testing.assert_allclose(
            orbits.strain_of_metric(group, lattice @ lattice.T),
            crystal.strain,
            atol=1e-9,
        )


def test_too_many_orbits_are_named(some):
    with pytest.raises(ValueError, match="3 orbits, more than num_orbits=2"):
        orbits.encode([some[5]], num_orbits=2)
