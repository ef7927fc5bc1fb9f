"""Small matgl potentials for tests: made and saved here, nothing is downloaded."""

import numpy as np


def save_tensornet(path, symbols=("Cu", "Au")):
    """Saves a TensorNet potential with random weights; ``path`` is a folder to make."""
    import torch
    from matgl.models import TensorNet

    torch.manual_seed(0)
    model = TensorNet(
        element_types=symbols,
        units=16,
        nblocks=1,
        num_rbf=8,
        cutoff=4.0,
        is_intensive=False,
        use_warp=False,
    )
    _save(model, path)


def save_m3gnet(path, symbols=("Cu", "Au")):
    """Saves an M3GNet potential with random weights; ``path`` is a folder to make."""
    import torch
    from matgl.models import M3GNet

    torch.manual_seed(0)
    model = M3GNet(
        element_types=symbols,
        dim_node_embedding=16,
        dim_edge_embedding=16,
        units=16,
        nblocks=1,
        cutoff=4.0,
        threebody_cutoff=3.0,
        is_intensive=False,
    )
    _save(model, path)


def _save(model, path):
    from matgl.apps.pes import Potential

    num_elements = len(model.element_types)
    # Random weights give forces of 1e-3 eV/Å: scaled to what relaxes.
    potential = Potential(
        model=model, data_std=100.0, element_refs=np.linspace(-3, -4, num_elements)
    )
    path.mkdir()
    potential.save(path, makedirs=True)
