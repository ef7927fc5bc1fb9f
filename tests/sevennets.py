"""Small SevenNet networks for tests, made with the package itself, which is the oracle.

Nothing is downloaded: the weights are random, or those that the package brings.
"""

import contextlib
import functools
import io
import warnings

import numpy as np

# Species in an order that is not that of their numbers, as sevenn sorts symbols.
SPECIES = ["Cl", "Cu", "Na", "O"]

CUTOFF = 4.0


def quiet(function):
    """``function`` without the warnings of PyTorch and e3nn, and what they print."""

    @functools.wraps(function)
    def call(*args, **kwargs):
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            return function(*args, **kwargs)

    return call


@quiet
def config(**changes):
    """Configuration of a network that compiles in seconds: 3 layers, few channels."""
    import sevenn._const as const
    from sevenn.util import chemical_species_preprocess

    found = dict(const.DEFAULT_E3_EQUIVARIANT_MODEL_CONFIG)
    found |= chemical_species_preprocess(SPECIES)
    found |= {
        "version": "0.13.0",
        "_model_type": "E3_equivariant_model",
        "cutoff": CUTOFF,
        "channel": 4,
        "lmax": 2,
        "is_parity": False,
        "num_convolution_layer": 3,
        "irreps_manual": ["4x0e", *["4x0e+3x1e+2x2e"] * 2, "4x0e"],
        "weight_nn_hidden_neurons": [8, 8],
        "radial_basis": {"radial_basis_name": "bessel", "bessel_basis_num": 5},
        "cutoff_function": {"cutoff_function_name": "XPLOR", "cutoff_on": 3.5},
        "self_connection_type": "linear",
        "conv_denominator": 3.7,
        "shift": [-1.0, -3.0, -0.5, -2.0],
        "scale": [30.0, 31.0, 32.0, 33.0],
        "use_modality": False,
    }
    return found | changes


@quiet
def build(settings):
    """Network of the package sevenn with random weights, in float64."""
    import torch
    from sevenn.model_build import build_E3_equivariant_model

    torch.manual_seed(0)
    model = build_E3_equivariant_model(settings)
    model.set_is_batch_data(False)
    return model.eval()


@quiet
def save(model, settings, path):
    """Writes a checkpoint as sevenn does."""
    import torch

    torch.save({"config": settings, "model_state_dict": model.state_dict()}, path)
    return path


@quiet
def evaluate(model, cutoff, atoms):
    """Energy (eV), forces (eV/Å) and stress (3, 3) (eV/Å³) in float64, by sevenn."""
    import sevenn._keys as keys
    import torch
    from sevenn.atom_graph_data import AtomGraphData
    from sevenn.train.dataload import unlabeled_atoms_to_graph

    graph = unlabeled_atoms_to_graph(atoms, cutoff)
    exact = {k: torch.tensor(graph[k]) for k in (keys.EDGE_VEC, keys.CELL_VOLUME)}
    data = AtomGraphData.from_numpy_dict(graph)
    for key, value in exact.items():
        data[key] = value
    # Its one-hot elements are float32 whatever the weights are.
    single = torch.Tensor.float
    torch.Tensor.float = torch.Tensor.double
    try:
        output = model.double()(data)
    finally:
        torch.Tensor.float = single
    found = {
        key: output[key].detach().numpy()
        for key in (keys.PRED_TOTAL_ENERGY, keys.PRED_FORCE, keys.PRED_STRESS)
    }
    xx, yy, zz, xy, yz, zx = -found[keys.PRED_STRESS].reshape(6)
    stress = np.array([[xx, xy, zx], [xy, yy, yz], [zx, yz, zz]])
    return float(found[keys.PRED_TOTAL_ENERGY]), found[keys.PRED_FORCE], stress
