"""matgl's TensorNet potentials under XLA: a batch of crystals as one big graph.

The network is matgl's own, ``matgl.ext.jax``. Importing this module does not import
matgl, which brings PyTorch.
"""

from collections.abc import Callable
from typing import Any

import ase.data
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from crystaljax.relaxation.potentials import neighbors as neighbor_lists
from crystaljax.relaxation.potentials import potential
from crystaljax.system import errors

# Edges in the skin cost as much as others and add nothing: thinner than for EMT.
_SKIN = 0.3  # Å

# On CPUs small graphs stay in the cache; on GPUs a site takes up to 4 MB.
_SITES_AT_ONCE = {"cpu": 64, "gpu": 1024}


def supports(matgl_potential: Any) -> bool:
    """Whether a loaded matgl potential is one that ``build`` takes."""
    model = matgl_potential.model
    # QET, a subclass, equilibrates charges over all of a graph.
    is_tensornet = type(model).__name__ == "TensorNet" and not model.is_intensive
    return is_tensornet and _import_network() is not None


def _import_network() -> tuple[Callable, Callable] | None:
    """Matgl's functions (potential → parameters) and (parameters → energies), if any.

    The public ``make_potential_fn`` gives the energies of a batch as one sum, so this
    takes the network inside, whose name a later matgl may change.
    """
    try:
        from matgl.ext.jax import convert_potential
        from matgl.ext.jax._tensornet import tensornet_energy
    except ImportError:
        return None
    return convert_potential, tensornet_energy


def build(matgl_potential: Any) -> potential.Potential:
    """A loaded matgl potential, for batches of crystals on the device.

    Raises:
        ValueError: it is not an extensive TensorNet, or this version of matgl does not
            run it in JAX.
    """
    model = matgl_potential.model
    functions = _import_network()
    if not supports(matgl_potential) or functions is None:
        raise errors.UserError(
            f"matgl's {type(model).__name__} does not run in batches; expected a "
            "TensorNet with an extensive energy, and matgl 4.1"
        )
    convert, network = functions
    params, config, extras = convert(matgl_potential)
    numbers = [ase.data.atomic_numbers[symbol] for symbol in model.element_types]
    type_of = np.zeros(len(ase.data.chemical_symbols), np.int32)
    type_of[numbers] = np.arange(len(numbers))
    references = np.zeros(len(type_of), np.float32)
    if extras["element_refs"] is not None:
        references[numbers] = extras["element_refs"]

    def bind(atomic_numbers: Array, graph: neighbor_lists.Graph) -> potential.EnergyFn:
        batch = len(atomic_numbers)
        # Padding nodes are beyond the last place: a graph whose energy nobody reads.
        place = jnp.minimum(graph.place, batch - 1)
        node_type = jnp.asarray(type_of)[atomic_numbers[place, graph.site]]
        edges = jnp.stack([graph.source, graph.target])
        reference = jnp.sum(jnp.asarray(references)[atomic_numbers], axis=1)

        def energy_fn(frac_coords: Array, lattice: Array) -> Array:
            dtype = frac_coords.dtype
            offset = graph.offset.astype(dtype)[:, None, :]
            shifts = (offset @ lattice[place[graph.source]])[:, 0]
            # The direction of an edge without length has no derivative.
            away = jnp.array([1, 0, 0], dtype)
            energies = network(
                params,
                config,
                node_type,
                (frac_coords @ lattice)[place, graph.site],
                edges,
                jnp.where(graph.is_edge[:, None], shifts, away),
                graph.place,
                batch + 1,
                graph.is_edge.astype(dtype),
            )
            scaled = extras["data_std"] * energies[:batch] + extras["data_mean"]
            return scaled + reference

        return energy_fn

    return potential.Potential(
        cutoff=float(model.cutoff),
        skin=_SKIN,
        atomic_numbers=frozenset(numbers),
        sites_at_once=_SITES_AT_ONCE,
        stopped_per_look=0.0,
        pack=neighbor_lists.pack_graph,
        bind=bind,
    )
