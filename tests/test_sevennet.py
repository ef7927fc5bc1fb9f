import ase
import ase.build
import numpy as np
import potential_batches
import pytest
import sevennets

from crystaljax.relaxation.potentials.nequip import (
    network,
    sevennet_checkpoints,
)

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


STEP = 1e-4  # Å, or strain


def skewed():
    return ase.Atoms(
        "NaClO",
        cell=[[3.1, 0, 0], [1.9, 3.3, 0], [-1.2, 0.8, 4.4]],
        scaled_positions=[[0.1, 0.2, 0.3], [0.6, 0.6, 0.7], [0.3, 0.9, 0.1]],
        pbc=True,
    )


def oxygen_pair(distance):
    return ase.Atoms("O2", [[0, 0, 0], [0, 0, distance]], cell=[11] * 3, pbc=True)


def crystals():
    """Skewed, small, single and crowded cells of 1 to 6 sites, and variants of one."""
    close = ase.build.bulk("NaCl", "rocksalt", a=5.6).repeat((1, 1, 3))
    close.rattle(0.1, seed=1)
    close.positions[1] = close.positions[0] + [0.3, 0.4, 0]
    rotated = skewed()
    rotated.rotate(40, (1, 2, 3), rotate_cell=True)
    permuted = skewed()[[2, 0, 1]]
    found = {
        "skewed": skewed(),
        "thin": ase.Atoms("Cu", cell=[2.3, 2.4, 9.0], pbc=True),
        "alone": ase.Atoms("O", cell=[9.5, 9.0, 10.0], pbc=True),
        "close": close,
        "rotated": rotated,
        "permuted": permuted,
        "supercell": skewed().repeat((1, 2, 1)),
        "near": oxygen_pair(sevennets.CUTOFF - 1e-3),
        "far": oxygen_pair(sevennets.CUTOFF + 1e-3),
    }
    for sign in (1, -1):
        moved, strained = skewed(), skewed()
        moved.positions[1, 2] += sign * STEP
        cell = np.array(strained.cell)
        strain = np.zeros((3, 3))
        strain[0, 1] = sign * STEP
        strained.set_cell(cell @ (np.eye(3) + strain), scale_atoms=True)
        found |= {f"moved{sign}": moved, f"strained{sign}": strained}
    return found


@pytest.fixture(scope="module", params=KINDS)
def case(request, tmp_path_factory):
    settings = sevennets.config(**KINDS[request.param])
    model = sevennets.build(settings)
    path = tmp_path_factory.mktemp("sevennet") / "checkpoint.pth"
    sevennets.save(model, settings, path)
    net = sevennet_checkpoints.load(path)
    found = potential_batches.evaluate(net, list(crystals().values()))
    return model, dict(zip(crystals(), found, strict=True))


def test_energies_forces_and_stresses_are_those_of_sevenn(case):
    model, found = case
    for name in ("skewed", "thin", "alone", "close", "near"):
        atoms = crystals()[name]
        energy, forces, stress = sevennets.evaluate(model, sevennets.CUTOFF, atoms)
        assert found[name][0] == pytest.approx(energy, abs=1e-9)
        np.testing.assert_allclose(found[name][1], forces, atol=1e-8)
        np.testing.assert_allclose(found[name][2], stress, atol=1e-9)
    assert np.abs(found["skewed"][1]).max() > 0.1


def test_forces_and_stress_are_derivatives_of_the_energy(case):
    _, found = case
    _, forces, stress = found["skewed"]
    slope = (found["moved1"][0] - found["moved-1"][0]) / (2 * STEP)
    assert forces[1, 2] == pytest.approx(-slope, rel=1e-5)
    slope = (found["strained1"][0] - found["strained-1"][0]) / (2 * STEP)
    assert stress[0, 1] == pytest.approx(slope / skewed().get_volume(), rel=1e-5)


def test_energy_does_not_depend_on_how_a_crystal_is_written(case):
    _, found = case
    energy, forces, _ = found["skewed"]
    for name, times in (("rotated", 1), ("permuted", 1), ("supercell", 2)):
        assert found[name][0] / times == pytest.approx(energy, abs=1e-9), name
    np.testing.assert_allclose(found["permuted"][1], forces[[2, 0, 1]], atol=1e-9)
    turned = ase.Atoms(positions=forces)
    turned.rotate(40, (1, 2, 3))
    np.testing.assert_allclose(found["rotated"][1], turned.positions, atol=1e-9)


def test_energy_is_smooth_where_neighbours_come_in(case):
    _, found = case
    assert found["near"][0] == pytest.approx(found["far"][0], abs=1e-4)
    assert np.abs(found["near"][1]).max() < 0.1
    assert found["far"][0] == pytest.approx(2 * found["alone"][0], abs=1e-9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": "0.8.1"}, "version '0.8.1'; expected 0.9"),
        ({"version": "1.0.0"}, "version '1.0.0'"),
        ({"use_modality": True}, "use_modality = True; expected False"),
        ({"_model_type": "mace"}, "_model_type = 'mace'"),
        ({"lmax": 4}, "lmax = 4; expected at most 3"),
        ({"radial_basis": {"radial_basis_name": "gauss"}}, "gauss.*Bessel"),
        ({"irreps_manual": ["4x0e", "3x1e+4x0e", "4x0e"]}, "sorted by degree"),
        ({}, "lack onehot_to_feature_x.linear.weight"),
    ],
)
def test_what_a_checkpoint_has_that_is_not_understood_is_named(changes, message):
    with pytest.raises(network.AnotherKindError, match=message):
        sevennet_checkpoints.build(sevennets.config(**changes), {})


def test_pretrained_checkpoints_are_found_and_others_named():
    for name in sevennet_checkpoints.PRETRAINED:
        assert sevennet_checkpoints.find_pretrained(name).is_file()
    with pytest.raises(ValueError, match="'7net-1'; expected 7net-0, "):
        sevennet_checkpoints.find_pretrained("7net-1")


def test_pretrained_weights_are_read_and_all_used():
    net = sevennet_checkpoints.load(sevennet_checkpoints.find_pretrained("7net-0"))
    assert (net.envelope.cutoff, net.envelope.switch_on) == (5.0, 4.5)
    assert [len(layer.paths) for layer in net.layers] == [3, 15, 15, 15, 3]
    assert np.sum(net.type_of >= 0) == 89
    net = sevennet_checkpoints.load(sevennet_checkpoints.find_pretrained("7net-l3i5"))
    assert (net.envelope.switch_on, net.envelope.power) == (None, 6)
    assert [len(layer.paths) for layer in net.layers] == [4, 34, 34, 34, 4]


def test_a_file_of_something_else_is_named(tmp_path):
    path = tmp_path / "other.pth"
    import torch

    torch.save({"weights": torch.ones(3)}, path)
    with pytest.raises(ValueError, match=r"other\.pth is no checkpoint of SevenNet"):
        sevennet_checkpoints.load(path)
