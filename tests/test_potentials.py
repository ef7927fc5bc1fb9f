import functools

import ase
import ase.data
import ase.neighborlist
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.calculators.emt import EMT, parameters
from hypothesis import assume, given, settings

from crystaljax.crystals import bridge, structure
from crystaljax.relaxation.potentials import emt, neighbors, potential, tensornet

EMT_NUMBERS = [ase.data.atomic_numbers[symbol] for symbol in parameters]
SITES = 8


@functools.cache
def emt_potential():
    return emt.build()


@functools.cache
def derivatives(made, dtype):
    def evaluate(numbers, packed, frac_coords, lattice):
        return potential.energies_forces_stresses(
            made.bind(numbers, packed), frac_coords, lattice
        )

    compiled = jax.jit(evaluate)

    def run(*args):
        with jax.enable_x64(dtype == "float64"):
            return jax.device_get(compiled(*args))

    return run


def evaluate(made, crystals, dtype="float64", pad_to=SITES):
    """Energies, forces and stresses of a padded batch, padding cut off."""
    batch = len(crystals)
    numbers = np.zeros((batch, pad_to), np.int32)
    frac = np.zeros((batch, pad_to, 3), dtype)
    lattice = np.stack([c.lattice for c in crystals]).astype(dtype)
    for row, c in enumerate(crystals):
        numbers[row, : c.num_sites] = c.atomic_numbers
        frac[row, : c.num_sites] = c.frac_coords
    lists = [neighbors.find(c.frac_coords, c.lattice, made.reach) for c in crystals]
    packed = made.pack(lists, pad_to, None)
    energies, forces, stresses = derivatives(made, dtype)(
        numbers, packed, frac, lattice
    )
    return [
        (energies[row], forces[row, : c.num_sites], stresses[row])
        for row, c in enumerate(crystals)
    ]


def by_ase(crystal, calculator):
    atoms = bridge.to_ase(crystal)
    atoms.calc = calculator
    stress = atoms.get_stress(voigt=False)
    return atoms.get_potential_energy(), atoms.get_forces(), stress


def assert_close(found, expected, tolerance):
    for ours, theirs in zip(found, expected, strict=True):
        scale = max(1.0, np.abs(theirs).max())
        np.testing.assert_allclose(ours, theirs, atol=tolerance * scale, rtol=0)


@st.composite
def random_crystals(draw, numbers=EMT_NUMBERS, max_sites=6):
    """Triclinic cells, unwrapped coordinates, any mixture, no overlapping sites."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    num_sites = draw(st.integers(1, max_sites))
    volume = num_sites * draw(st.floats(11.0, 40.0))
    lattice = np.eye(3) + 0.25 * rng.normal(size=(3, 3))
    assume(np.linalg.det(lattice) > 0.3)
    lattice *= (volume / np.linalg.det(lattice)) ** (1 / 3)
    frac = rng.random((num_sites, 3)) * 3 - 1
    crystal = structure.Crystal(rng.choice(numbers, num_sites), frac, lattice)
    found = neighbors.find(frac, lattice, 1.5)
    assume(found.count.sum() == 0)
    return crystal


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-6), ("float32", 1e-4)])
@settings(max_examples=40)
@given(crystal=random_crystals())
def test_emt_is_that_of_ase(dtype, tolerance, crystal):
    found = evaluate(emt_potential(), [crystal], dtype)[0]
    assert_close(found, by_ase(crystal, EMT()), tolerance)


def test_lone_atom_has_the_energy_that_ase_gives_it():
    crystal = structure.Crystal(np.array([78]), np.zeros((1, 3)), np.eye(3) * 9.0)
    found = evaluate(emt_potential(), [crystal])[0]
    assert_close(found, by_ase(crystal, EMT()), 1e-9)


def alloys(num_sites, seed, numbers=(28, 29, 46, 78, 79)):
    rng = np.random.default_rng(seed)
    sites = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)]) / 2
    lattice = np.eye(3) * 4.9 + 0.2 * rng.normal(size=(3, 3))
    frac = sites[:num_sites] + 0.03 * rng.normal(size=(num_sites, 3))
    return structure.Crystal(rng.choice(numbers, num_sites), frac, lattice)


def test_neither_padding_nor_other_crystals_change_a_crystal():
    crystals = [alloys(n, n) for n in (8, 1, 5)]
    together = evaluate(emt_potential(), crystals, pad_to=16)
    for crystal, found in zip(crystals, together, strict=True):
        assert_close(found, evaluate(emt_potential(), [crystal])[0], 1e-12)


@settings(max_examples=30)
@given(crystal=random_crystals())
def test_neighbors_are_those_of_ase(crystal):
    reach = 4.5
    found = neighbors.find(crystal.frac_coords, crystal.lattice, reach)
    i, j, offset = ase.neighborlist.neighbor_list("ijS", bridge.to_ase(crystal), reach)
    expected = sorted(zip(i, j, *offset.T, strict=True))
    ours = [
        (site, found.index[site, k], *found.offset[:, site, k])
        for site in range(crystal.num_sites)
        for k in range(found.count[site])
    ]
    assert sorted(ours) == expected


@functools.partial(jax.jit, static_argnums=(0, 1))
def still_hold(cutoff, skin, *geometries):
    return neighbors.still_hold(cutoff, skin, *neighbors.strain_and_shift(*geometries))


@settings(max_examples=30)
@given(crystal=random_crystals(), data=st.data())
def test_a_list_that_still_holds_has_every_pair_within_the_cutoff(crystal, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    size = data.draw(st.floats(0, 0.06))
    cutoff, skin = 4.0, 0.6
    strain = np.eye(3) + size * rng.normal(size=(3, 3))
    lattice = crystal.lattice @ strain
    shift = size * rng.normal(size=(crystal.num_sites, 3)) * 2
    frac = crystal.frac_coords + shift @ np.linalg.inv(crystal.lattice)
    geometries = frac, lattice, crystal.frac_coords, crystal.lattice
    with jax.enable_x64(True):
        batch = (jnp.asarray(geometry)[None] for geometry in geometries)
        holds = bool(still_hold(cutoff, skin, *batch)[0])
    assume(holds)

    def pairs(found):
        return {
            (site, found.index[site, k], *found.offset[:, site, k])
            for site in range(crystal.num_sites)
            for k in range(found.count[site])
        }

    listed = pairs(neighbors.find(crystal.frac_coords, crystal.lattice, cutoff + skin))
    assert pairs(neighbors.find(frac, lattice, cutoff)) <= listed


def test_the_check_of_lists_lets_small_moves_pass_and_large_ones_not():
    frac, lattice = jnp.zeros((1, 2, 3)), jnp.eye(3)[None] * 4
    for stretch, moved, holds in [(1, 0, True), (1.02, 0.05, True), (1.3, 0, False)]:
        there = frac.at[0, 1, 0].set(moved / 4)
        found = neighbors.strain_and_shift(there, lattice * stretch, frac, lattice)
        assert bool(neighbors.still_hold(5.0, 0.5, *found)[0]) == holds


def test_a_graph_has_the_edges_of_the_lists_and_never_shrinks():
    lists = [
        neighbors.find(c.frac_coords, c.lattice, 4.0)
        for c in (alloys(3, 0), alloys(8, 1))
    ]
    graph = neighbors.pack_graph([lists[0], None, lists[1]], SITES)
    assert graph.is_edge.sum() == sum(one.count.sum() for one in lists)
    assert (graph.place < 3).sum() == 11
    assert (graph.place[graph.source[~graph.is_edge]] == 3).all()
    source_places = np.bincount(graph.place[graph.source[graph.is_edge]])
    assert source_places.tolist() == [lists[0].count.sum(), 0, lists[1].count.sum()]
    np.testing.assert_array_equal(
        graph.place[graph.source[graph.is_edge]],
        graph.place[graph.target[graph.is_edge]],
    )
    fewer = neighbors.pack_graph([lists[0]], SITES, graph)
    assert fewer.source.shape == graph.source.shape
    assert fewer.place.shape == graph.place.shape


def test_what_is_too_dense_is_refused_with_a_reason():
    with pytest.raises(ValueError, match=r"neighbours within 6 Å, more than 512"):
        neighbors.find(np.zeros((1, 3)), np.eye(3) * 0.9, 6.0)


@pytest.mark.parametrize(
    ("num_sites", "padded"), [(1, 8), (8, 8), (9, 16), (60, 64), (65, 128)]
)
def test_crystals_of_similar_size_share_shapes(num_sites, padded):
    assert potential.padded_sites(num_sites) == padded


TYPES = ("Cu", "Au", "O")


@functools.cache
def matgl_potential(is_intensive=False):
    torch = pytest.importorskip("torch")
    models = pytest.importorskip("matgl.models")
    from matgl.apps.pes import Potential

    torch.manual_seed(0)
    model = models.TensorNet(
        element_types=TYPES,
        units=8,
        nblocks=1,
        num_rbf=8,
        cutoff=4.0,
        rbf_type="Gaussian",
        is_intensive=is_intensive,
    )
    # Untrained, the energy hardly depends on anything: data_std brings it to some eV.
    return Potential(
        model=model,
        data_mean=-0.5,
        data_std=30.0,
        element_refs=np.array([-1.0, -2.0, -3.0]),
    )


def test_tensornet_is_that_of_matgl():
    made = tensornet.build(matgl_potential())
    from matgl.ext.ase import PESCalculator

    crystals = [
        alloys(n, n, [ase.data.atomic_numbers[symbol] for symbol in TYPES])
        for n in (4, 1, 7)
    ]
    together = evaluate(made, crystals, "float32")
    for crystal, found in zip(crystals, together, strict=True):
        calculator = PESCalculator(matgl_potential(), stress_unit="eV/A3")
        atoms = bridge.to_ase(crystal)
        atoms.calc = calculator
        expected = (
            atoms.get_potential_energy(),
            atoms.get_forces(),
            atoms.get_stress(voigt=False),
        )
        # One site of its own has no neighbours.
        assert np.abs(expected[1]).max() > 1e-3 or crystal.num_sites == 1
        assert np.abs(expected[2]).max() > 1e-3 or crystal.num_sites == 1
        assert_close(found, expected, 1e-4)
        # Small, but not smaller than what rounding can make of them.
        np.testing.assert_allclose(found[2], expected[2], atol=2e-6, rtol=1e-3)


def test_other_networks_are_refused():
    intensive = matgl_potential(is_intensive=True)
    assert not tensornet.supports(intensive)
    with pytest.raises(ValueError, match="expected a TensorNet with an extensive"):
        tensornet.build(intensive)
