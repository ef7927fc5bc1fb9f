"""Parameters of a network before training, and their shapes."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from crystaljax.crystals import sample_tensors, structure
from crystaljax.models.networks import interface, layers, orbit_transformer


@functools.lru_cache(maxsize=16)
def param_shapes(model: Any, rows: int) -> Any:
    """Shapes and dtypes of a network's parameters."""
    if isinstance(model, orbit_transformer.OrbitTransformer):
        inputs = orbit_transformer.example_inputs(model.modifies)
    else:
        inputs = example_inputs(model, rows)
    return jax.eval_shape(model.init, jax.random.key(0), *inputs)


def example_inputs(model: interface.Network, rows: int) -> tuple[Any, ...]:
    """What a network is applied to, for one crystal about which nothing is known."""
    sites = structure.max_sites(rows)
    templates, count = None, model.num_templates
    if count:
        templates = sample_tensors.TemplateBatch(
            atomic_numbers=jnp.zeros((1, count, sites), jnp.uint8),
            frac_coords=jnp.zeros((1, count, sites, 3)),
            lattice=jnp.zeros((1, count, 3, 3)),
            space_group=jnp.zeros((1, count), jnp.uint8),
            energy=jnp.zeros((1, count)),
        )
    return (
        jnp.zeros((1, rows, 3)),
        jnp.zeros((1,)),
        jnp.ones((1, sites), jnp.uint8),
        jnp.ones((1,), jnp.uint8),
        jnp.zeros((1,)),
        jnp.zeros((1, rows, 3)),
        templates,
    )


def init_params(model: Any, rows: int, seed: int) -> Any:
    """Fresh parameters of a network, on the host.

    Drawn as the network's own initialisers do, but with NumPy: compiling those of a
    thousand arrays takes longer than a training run's first steps.
    """
    return draw_params(param_shapes(model, rows), seed)


def draw_params(shapes: Any, seed: int) -> Any:
    """Fresh parameters of these shapes; see `init_params`."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        layer, name = path[-2].key, path[-1].key
        if name == "scale":
            return np.ones(leaf.shape, np.float32)
        if name == "bias" or layer in layers.ZERO_KERNELS:
            return np.zeros(leaf.shape, np.float32)
        bound = np.float32(np.prod(leaf.shape[:-1]) ** -0.5)
        return bound * (2 * rng.random(leaf.shape, np.float32) - 1)

    return jax.tree_util.tree_map_with_path(draw, shapes)
