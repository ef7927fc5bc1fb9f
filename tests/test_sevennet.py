import ase
import ase.build
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sevennets

from crystaljax.relaxation.potentials import neighbors, potential, sevennet
from crystaljax.relaxation.potentials.nequip import checkpoints

KINDS = {
    "xplor": {},
    "nequip": {
        # With parity, full self-connections, another cutoff; features as they come.
        "is_parity": True,
        "irreps_manual": False,
        "channel": 3,
        "num_convolution_layer": 3,
        "self_connection_type": "nequip",
        "cutoff_function": {"cutoff_function_name": "poly_cut", "poly_cut_p_value": 6},
        "lmax": 1,
        "_normalize_sph": False,
    },
    "degree_3": {
        "lmax": 3,
        "num_convolution_layer": 2,
        "irreps_manual": ["4x0e", "4x0e+3x1e+2x2e+2x3e", "4x0e"],
        "act_radial": "ssp",
    },
}


def crystals():
    """Skewed, small, single and crowded cells, of 1 to 6 sites."""
    skewed = ase.Atoms(
        "NaClO",
        cell=[[3.1, 0, 0], [1.9, 3.3, 0], [-1.2, 0.8, 4.4]],
        scaled_positions=[[0.1, 0.2, 0.3], [0.6, 0.6, 0.7], [0.3, 0.9, 0.1]],
        pbc=True,
    )
    thin = ase.Atoms("Cu", cell=[2.3, 2.4, 9.0], pbc=True)
    alone = ase.Atoms("O", cell=[9.5, 9.0, 10.0], pbc=True)
    close = ase.build.bulk("NaCl", "rocksalt", a=5.6).repeat((1, 1, 3))
    close.rattle(0.1, seed=1)
    close.positions[1] = close.positions[0] + [0.3, 0.4, 0]
    return [skewed, thin, alone, close]


@pytest.fixture(scope="module", params=KINDS)
def case(request, tmp_path_factory):
    settings = sevennets.config(**KINDS[request.param])
    model = sevennets.build(settings)
    path = tmp_path_factory.mktemp("sevennet") / "checkpoint.pth"
    sevennets.save(model, settings, path)
    return model, checkpoints.load(path)


def evaluate(net, atoms, dtype="float64", reach=None):
    """Energies, forces and stresses of all, in one batch."""
    built = sevennet.from_network(net)
    most = max(map(len, atoms)) + 1
    numbers = np.zeros((len(atoms), most), np.int32)
    frac = np.zeros((len(atoms), most, 3))
    lattice = np.stack([np.array(each.cell) for each in atoms])
    lists = []
    for i, each in enumerate(atoms):
        numbers[i, : len(each)] = each.numbers
        frac[i, : len(each)] = each.get_scaled_positions(wrap=False)
        found = each.get_scaled_positions(wrap=False)
        lists.append(neighbors.find(found, lattice[i], reach or built.reach))
    packed = built.pack(lists, most, None)

    @jax.jit
    def run(numbers, packed, frac, lattice):
        energy_fn = built.bind(numbers, packed)
        return potential.energies_forces_stresses(energy_fn, frac, lattice)

    with jax.enable_x64(dtype == "float64"):
        inputs = jax.tree.map(
            jnp.asarray, (numbers, packed, frac.astype(dtype), lattice.astype(dtype))
        )
        energies, forces, stresses = jax.device_get(run(*inputs))
    split = [force[: len(each)] for force, each in zip(forces, atoms, strict=True)]
    return list(zip(energies, split, stresses, strict=True))


def test_energies_forces_and_stresses_are_those_of_sevenn(case):
    model, net = case
    for atoms, found in zip(crystals(), evaluate(net, crystals()), strict=True):
        energy, forces, stress = sevennets.evaluate(model, sevennets.CUTOFF, atoms)
        assert found[0] == pytest.approx(energy, abs=1e-9)
        np.testing.assert_allclose(found[1], forces, atol=1e-8)
        np.testing.assert_allclose(found[2], stress, atol=1e-9)
        assert np.abs(forces).max() > 1e-2 or len(atoms) == 1
