"""The NequIP network: energies of sites from messages along pairs of neighbours.

S. Batzner et al., Nat. Commun. 13, 2453 (2022), in the forms of SevenNet (Y. Park et
al., J. Chem. Theory Comput. 20, 4857 (2024)) and Nequix (T. Koker et al.,
arXiv:2508.16067). The features of a node are a dictionary: irrep → array (nodes, 2l +
1, channels), channels last, where matrix products and vector instructions want them.
Features that are 0 by symmetry are left out.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from crystaljax.relaxation.potentials.nequip import irreps
from crystaljax.system import errors

Features = dict[irreps.Irrep, Array]
# Weights of a linear layer: feature → (channels in, channels out).
Linear = Mapping[irreps.Irrep, Any]
# (layer, its weights, features of nodes) → sums of the messages, `Layer.paths` apart.
ConvolveFn = Callable[["Layer", "LayerParams", Features], list[Array]]

# e3nn scales activations such that normal numbers keep their second moment, which it
# estimates from a million of them, and e3nn-jax from a million quantiles; the estimates
# are part of their networks.
ACTIVATIONS: dict[str, tuple[Callable[[Array], Array], float]] = {
    "silu": (jax.nn.silu, 1.6791767923989418),
    "tanh": (jnp.tanh, 1.5937334472592695),
    "abs": (jnp.abs, 1.001110600838467),
    "ssp": (lambda x: jax.nn.softplus(x) - math.log(2), 1.878204668541552),
    "silu of e3nn-jax": (jax.nn.silu, 1.6765620560798837),
    "silu unscaled": (jax.nn.silu, 1.0),
}

_SCALAR = (0, 1)
# Of the mean square that features are divided by, so that it is never 0.
_SMALLEST_SQUARE = 1e-12


class AnotherKindError(errors.UserError):
    """A network of the family, or something like it, that is not understood here."""


@dataclasses.dataclass(frozen=True)
class Envelope:
    """What takes radial functions to 0 at the cutoff.

    Attributes:
        cutoff: Å.
        switch_on: Å, where XPLOR's switching begins; None for the polynomial.
        power: p of the polynomial of J. Gasteiger et al., arXiv:2003.03123.
    """

    cutoff: float
    switch_on: float | None
    power: float | int = 6


@dataclasses.dataclass(frozen=True, eq=False)
class Layer:
    """One interaction.

    Attributes:
        paths: the products that count, sorted by result as the weights after them are.
        couplings: of each path, (2l + 1 of the node, of the edge, of the result).
        output: feature → channels after the gate.
        scalars: parity of scalars → their activation.
        gate: parity of the gates, and their activation.
        radial: activation of the radial network.
    """

    paths: tuple[irreps.Path, ...]
    couplings: tuple[np.ndarray, ...]
    output: dict[irreps.Irrep, int]
    scalars: dict[int, str]
    gate: tuple[int, str]
    radial: str


@flax.struct.dataclass
class LayerParams:
    """Weights of a layer, NumPy arrays, with all constant factors in them.

    Attributes:
        skip: of the self-connection: feature → (in, out), or (types, in, out).
        before: of the linear layer before the messages.
        radial: of the radial network's hidden layers.
        weights: of its last layer, one per path: (hidden, channels).
        after: of the linear layer after the messages: feature → (in of all paths, out).
        norm: of the normalisation before the gate: feature → (channels,), for all
            features of the gate; None for no normalisation.
    """

    skip: Any
    before: Any
    radial: Any
    weights: Any
    after: Any
    norm: Any = None


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """A network with its weights.

    Attributes:
        envelope: see there; it has the cutoff.
        frequencies: of the Bessel functions, 1/Å.
        edge: features of an edge.
        unit_vectors: whether these are those of the direction alone.
        embedding: (types, channels).
        layers: see there.
        params: of each layer.
        readout: (channels, 1).
        shift: (types,), eV.
        scale: (types,), eV.
        type_of: atomic number → type, -1 for elements that it does not know.
    """

    envelope: Envelope
    frequencies: np.ndarray
    edge: tuple[irreps.Irrep, ...]
    unit_vectors: bool
    embedding: np.ndarray
    layers: tuple[Layer, ...]
    params: tuple[LayerParams, ...]
    readout: np.ndarray
    shift: np.ndarray
    scale: np.ndarray
    type_of: np.ndarray


def site_energies(
    network: Network,
    node_type: Int[Array, " nodes"],
    convolve: ConvolveFn,
    dtype: Any,
) -> Float[Array, " nodes"]:
    """Energies of sites, eV.

    Args:
        network: with its weights.
        node_type: the elements, as types of the network.
        convolve: sums up the messages to the nodes; it knows the neighbours.
        dtype: to compute in.
    """
    # (nodes, 1, channels)
    x: Features = {_SCALAR: jnp.asarray(network.embedding, dtype)[node_type][:, None]}
    for layer, group in _groups(network):
        params = jax.tree.map(
            lambda *leaves: jnp.asarray(np.stack(leaves), dtype), *group
        )

        def interact(x, weights, layer=layer):
            return _interact(layer, weights, x, node_type, convolve), None

        if len(group) > 1:
            # Layers alike are one program, run several times: compiled once.
            x, _ = jax.lax.scan(interact, x, params)
        else:
            x, _ = interact(x, jax.tree.map(lambda leaf: leaf[0], params))
    energies = (x[_SCALAR][:, 0] @ jnp.asarray(network.readout, dtype))[:, 0]
    shift, scale = jnp.asarray(network.shift, dtype), jnp.asarray(network.scale, dtype)
    return energies * scale[node_type] + shift[node_type]


def _groups(network: Network) -> list[tuple[Layer, list[LayerParams]]]:
    """Layers in order, those alike and next to each other together."""
    both = list(zip(network.layers, network.params, strict=True))
    shapes = [_describe(*each) for each in both]
    starts = [i for i in range(len(both)) if i == 0 or shapes[i] != shapes[i - 1]]
    return [
        (both[start][0], [params for _, params in both[start:end]])
        for start, end in itertools.pairwise([*starts, len(both)])
    ]


def _describe(layer: Layer, params: LayerParams) -> tuple:
    """Equal for layers that differ in their weights alone."""
    return (
        layer.paths,
        tuple(coupling.tobytes() for coupling in layer.couplings),
        tuple(layer.output.items()),
        tuple(layer.scalars.items()),
        (layer.gate, layer.radial),
        str(jax.tree.map(np.shape, params)),
    )


def _interact(
    layer: Layer,
    params: LayerParams,
    x: Features,
    node_type: Array,
    convolve: ConvolveFn,
) -> Features:
    skip = _linear(params.skip, x, node_type)
    messages = convolve(layer, params, _linear(params.before, x, node_type))
    gathered: dict[irreps.Irrep, list[Array]] = {}
    for path, message in zip(layer.paths, messages, strict=True):
        gathered.setdefault(path.out, []).append(message)
    middle = {out: jnp.concatenate(parts, -1) for out, parts in gathered.items()}
    mixed = _linear(params.after, middle, node_type)
    x = {k: _sum(skip, mixed, k) for k in {**skip, **mixed}}
    return _gate(layer, x if params.norm is None else _normalize(params.norm, x))


def _sum(left: Features, right: Features, irrep: irreps.Irrep) -> Array:
    parts = [side[irrep] for side in (left, right) if irrep in side]
    return parts[0] if len(parts) == 1 else parts[0] + parts[1]


def _linear(weights: Linear, x: Features, node_type: Array) -> Features:
    """Mixes the channels of each feature; those without weights are dropped."""
    out = {}
    for irrep, weight in weights.items():
        if irrep not in x:
            continue
        weight = jnp.asarray(weight, x[irrep].dtype)
        if weight.ndim == 3:  # of the node's element
            out[irrep] = jnp.einsum("nmu,nuw->nmw", x[irrep], weight[node_type])
        else:
            out[irrep] = x[irrep] @ weight
    return out


def _normalize(weights: Mapping[irreps.Irrep, Any], x: Features) -> Features:
    """All features of a node divided by one root mean square, times weights."""
    # Each degree counts as much as any. Nequix takes the mean over components of what
    # it has divided by their number already.
    squares = [
        jnp.sum(each**2, axis=(1, 2)) / each.shape[1] ** 2 for each in x.values()
    ]
    scale = (sum(squares) / len(weights) + _SMALLEST_SQUARE) ** -0.5
    return {
        irrep: each * scale[:, None, None] * jnp.asarray(weights[irrep], each.dtype)
        for irrep, each in x.items()
    }


def _gate(layer: Layer, x: Features) -> Features:
    """Scalars through their activations, others times activated scalars."""
    gate_parity, gate_activation = layer.gate
    out: Features = {}
    gates = None
    for parity, activation in layer.scalars.items():
        count = layer.output.get((0, parity), 0)
        found = x.get((0, parity))
        if found is None:
            continue
        scalars, rest = found[..., :count], found[..., count:]
        if count:
            out[0, parity] = activate(activation, scalars)
        if parity == gate_parity:
            gates = rest
    start = 0
    for irrep, count in layer.output.items():
        if irrep[0] == 0:
            continue
        if irrep in x and gates is not None:
            gate = activate(gate_activation, gates[..., start : start + count])
            out[irrep] = x[irrep] * gate
        start += count
    return out


def activate(name: str, x: Array) -> Array:
    """An activation with e3nn's factor."""
    fn, factor = ACTIVATIONS[name]
    return factor * fn(x)


def radial_basis(
    network: Network, distance: Float[Array, " edges"]
) -> Float[Array, "edges basis"]:
    """Bessel functions that end smoothly at the cutoff; 0 beyond it."""
    envelope = network.envelope
    cutoff = envelope.cutoff
    frequencies = jnp.asarray(network.frequencies, distance.dtype)
    r = distance[:, None]
    bessel = 2 / cutoff * jnp.sin(frequencies * r) / r
    return bessel * _switch(envelope, distance)[:, None]


def _switch(envelope: Envelope, r: Array) -> Array:
    cutoff, on = envelope.cutoff, envelope.switch_on
    if on is None:
        p, s = envelope.power, r / cutoff
        value = (
            1
            - (p + 1) * (p + 2) / 2 * s**p
            + p * (p + 2) * s ** (p + 1)
            - p * (p + 1) / 2 * s ** (p + 2)
        )
    else:
        value = (
            (cutoff**2 - r * r) ** 2
            * (cutoff**2 + 2 * r * r - 3 * on**2)
            / (cutoff**2 - on**2) ** 3
        )
        value = jnp.where(r < on, 1.0, value)
    return jnp.where(r < cutoff, value, 0.0)


def radial_hidden(
    layer: Layer, params: LayerParams, basis: Float[Array, "edges basis"]
) -> Float[Array, "edges hidden"]:
    """The last hidden layer of a radial network; 0 where the basis is 0."""
    x = basis
    for weight in params.radial:
        x = activate(layer.radial, x @ jnp.asarray(weight, x.dtype))
    return x


def spherical_harmonics(
    network: Network, vectors: Float[Array, "edges 3"], distance: Float[Array, " edges"]
) -> dict[int, Float[Array, "edges components"]]:
    """Degree → real spherical harmonics as e3nn has them, "component" normalisation.

    Components go from m = -l to l about the y axis; the squares of all sum to 2l + 1.
    """
    if network.unit_vectors:
        vectors = vectors / distance[:, None]
    return solid_harmonics(vectors, max(degree for degree, _ in network.edge))


def solid_harmonics(
    vectors: Float[Array, "edges 3"], lmax: int
) -> dict[int, Float[Array, "edges components"]]:
    """Real solid harmonics up to degree 3, scaled as `spherical_harmonics` says."""
    x, y, z = vectors[:, 0], vectors[:, 1], vectors[:, 2]
    x2, y2, z2 = x * x, y * y, z * z
    r2 = x2 + y2 + z2
    found = {0: [jnp.ones_like(x)], 1: [math.sqrt(3) * c for c in (x, y, z)]}
    xz, across = x * z, z2 - x2
    if lmax >= 2:
        found[2] = [
            math.sqrt(15) * xz,
            math.sqrt(15) * x * y,
            math.sqrt(5) / 2 * (3 * y2 - r2),
            math.sqrt(15) * y * z,
            math.sqrt(15) / 2 * across,
        ]
    if lmax >= 3:
        a, b, c = math.sqrt(70) / 4, math.sqrt(105), math.sqrt(42) / 4
        found[3] = [
            a * x * (3 * z2 - x2),
            b * xz * y,
            c * x * (5 * y2 - r2),
            math.sqrt(7) / 2 * y * (5 * y2 - 3 * r2),
            c * z * (5 * y2 - r2),
            b / 2 * across * y,
            a * z * (z2 - 3 * x2),
        ]
    return {degree: jnp.stack(found[degree], -1) for degree in range(lmax + 1)}
