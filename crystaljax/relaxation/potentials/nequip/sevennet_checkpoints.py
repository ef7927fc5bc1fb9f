"""SevenNet's checkpoints: configuration and weights → `network.Network`.

Nothing of SevenNet, e3nn or PyTorch is imported. What a checkpoint holds beyond what is
understood here is an error: a network that is read in part gives wrong energies.
"""

import importlib.util
import itertools
import math
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import ase.data
import numpy as np

from crystaljax.relaxation.potentials.nequip import irreps, network, torch_files
from crystaljax.system import errors

# Files in the folder pretrained_potentials of the package sevenn.
PRETRAINED = {
    "7net-0": "SevenNet_0__11Jul2024/checkpoint_sevennet_0.pth",
    "7net-0_11jul2024": "SevenNet_0__11Jul2024/checkpoint_sevennet_0.pth",
    "7net-0_22may2024": "SevenNet_0__22May2024/checkpoint_sevennet_0.pth",
    "7net-l3i5": "SevenNet_l3i5/checkpoint_l3i5.pth",
}

# Configuration keys that change what is computed → the values that are understood. A
# key that a checkpoint lacks had the first value when it was written.
_UNDERSTOOD: dict[str, tuple[Any, ...]] = {
    "_model_type": ("E3_equivariant_model",),
    "interaction_type": ("nequip",),
    "use_bias_in_linear": (False,),
    "readout_as_fcn": (False,),
    "use_modality": (False,),
    "optimize_by_reduce": (True,),
}
_MAX_DEGREE = 3

# Entries of the weights that say nothing about what is computed.
_IGNORED = re.compile(r".*\.output_mask$|.*\._compiled_main_left_right\._w3j_\w+$")
_OLD_NAMES = {
    "EdgeEmbedding": "edge_embedding",
    "reducing nn input to hidden": "reduce_input_to_hidden",
    "reducing nn hidden to energy": "reduce_hidden_to_energy",
    "rescale atomic energy": "rescale_atomic_energy",
}


def find_pretrained(name: str) -> pathlib.Path:
    """Where the installed package sevenn keeps a checkpoint.

    Args:
        name: one of ``PRETRAINED``.

    Raises:
        ImportError: sevenn is not installed.
        ValueError: there is no checkpoint of that name.
    """
    if name not in PRETRAINED:
        raise errors.UserError(
            f"SevenNet checkpoint {name!r}; expected {', '.join(PRETRAINED)}, or the "
            "path of a file"
        )
    # Finds the package and does not import it, which takes PyTorch seconds.
    package = importlib.util.find_spec("sevenn")
    if package is None or not package.submodule_search_locations:
        raise errors.MissingPackageError(
            f"'sevenn:{name}' needs sevenn, which brings its weights and is not "
            "installed: pip install 'crystaljax[sevenn]'"
        )
    folder = pathlib.Path(next(iter(package.submodule_search_locations)))
    return folder / "pretrained_potentials" / PRETRAINED[name]


def load(path: str | os.PathLike[str]) -> network.Network:
    """The network in a checkpoint.

    Raises:
        ValueError: the file is cut or damaged, holds another architecture, or was
            written by a version whose files are not understood.
        OSError: it cannot be read.
    """
    checkpoint = torch_files.load(path)
    parts = ("config", "model_state_dict")
    if not isinstance(checkpoint, dict) or not all(
        isinstance(checkpoint.get(part), dict) and checkpoint[part] for part in parts
    ):
        raise errors.UserError(
            f"{path} is no checkpoint of SevenNet; expected a dictionary with "
            f"{' and '.join(parts)}"
        )
    config, tensors = (checkpoint[part] for part in parts)
    try:
        return build(torch_files.plain(config), tensors)
    except errors.UserError as error:
        # Of the same kind, with the path in front.
        raise type(error)(f"{path}: {error}") from error
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise errors.UserError(
            f"{path}: its configuration is not that of a SevenNet ({error!r}); "
            "expected a checkpoint of sevenn 0.9 or later"
        ) from error


def build(config: Mapping[str, Any], tensors: Mapping[str, Any]) -> network.Network:
    """Configuration and weights, as SevenNet saves them → network.

    Raises:
        ValueError: what they describe is not understood.
    """
    version = _version(config)
    for key, values in _UNDERSTOOD.items():
        value = config.get(key, values[0])
        if value not in values:
            raise network.AnotherKindError(
                f"a SevenNet with {key} = {value!r}; expected {values[0]!r}, the only "
                "kind that runs in batches"
            )
    tensors = {_new_name(name): np.asarray(t, float) for name, t in tensors.items()}
    reader = _Tensors(tensors, in_old_order=version < (0, 11, 0, 1))
    types = {int(number): int(i) for number, i in config["_type_map"].items()}
    type_of = np.full(len(ase.data.chemical_symbols), -1, np.int32)
    type_of[list(types)] = list(types.values())

    lmax = config["lmax_edge"] if config.get("lmax_edge", -1) > 0 else config["lmax"]
    if lmax > _MAX_DEGREE:
        raise network.AnotherKindError(
            f"a SevenNet with lmax = {lmax}; expected at most {_MAX_DEGREE}"
        )
    edge = irreps.spherical_harmonics(lmax, -1 if config["is_parity"] else 1)
    basis = config["radial_basis"]
    if basis.get("radial_basis_name") != "bessel":
        raise network.AnotherKindError(
            f"a SevenNet with {basis}; expected Bessel functions"
        )
    features = _features(config, edge)
    [channels] = features[0].values()
    embedding = reader.matrix("onehot_to_feature_x.linear", len(types), channels)
    frequencies = reader.take("edge_embedding.basis_function.coeffs")
    layers, params = [], []
    for i, (node, output) in enumerate(itertools.pairwise(features)):
        is_last = i == len(features) - 2
        lmax_out = max(degree for degree, _ in output)
        wanted = irreps.up_to(lmax_out, even_only=is_last)
        paths = irreps.paths(node, edge, wanted)
        layer, weights = _read_layer(config, reader, i, node, paths, output, len(types))
        layers.append(layer)
        params.append(weights)
    [channels] = features[-1].values()
    hidden = reader.matrix("reduce_input_to_hidden.linear", channels, channels // 2)
    energy = reader.matrix("reduce_hidden_to_energy.linear", channels // 2, 1)
    shift = reader.take("rescale_atomic_energy.shift")
    scale = reader.take("rescale_atomic_energy.scale")
    reader.require_all_taken()
    return network.Network(
        envelope=_envelope(config),
        frequencies=frequencies,
        edge=tuple(edge),
        unit_vectors=config.get("_normalize_sph", version >= (0, 10, 0, 1)),
        embedding=embedding,
        layers=tuple(layers),
        params=tuple(params),
        readout=hidden @ energy,
        shift=np.broadcast_to(shift, len(types)).copy(),
        scale=np.broadcast_to(scale, len(types)).copy(),
        type_of=type_of,
    )


def _version(config: Mapping[str, Any]) -> tuple[int, int, int, int]:
    """(major, minor, patch, 0 before the release or 1)."""
    text = str(config.get("version", ""))
    match = re.match(r"(\d+)\.(\d+)\.(\d+)(.*)", text)
    if match is None or int(match[1]) != 0 or int(match[2]) < 9:
        raise network.AnotherKindError(
            f"a SevenNet of version {text!r}; expected 0.9 or a later 0.x"
        )
    major, minor, patch = (int(match[k]) for k in (1, 2, 3))
    return major, minor, patch, int(not match[4].startswith((".dev", "dev")))


def _new_name(name: str) -> str:
    """Name of a tensor as SevenNet has called it since 0.10."""
    module, _, rest = name.partition(".")
    module = _OLD_NAMES.get(module, module)
    module = re.sub(
        r"^(\d+) (self connection intro|convolution|self interaction 2|"
        r"equivariant gate)$",
        lambda match: match[0].replace(" ", "_"),
        module,
    )
    return f"{module}.{rest.replace('denumerator', 'denominator')}"


def _features(
    config: Mapping[str, Any], edge: Sequence[irreps.Irrep]
) -> list[dict[irreps.Irrep, int]]:
    """Features of nodes before and after each layer."""
    num_layers, channels = config["num_convolution_layer"], config["channel"]
    if config.get("irreps_manual"):
        found = [irreps.parse(text) for text in config["irreps_manual"]]
    else:
        lmax_node = config["lmax"]
        if config.get("lmax_node", -1) > 0:
            lmax_node = config["lmax_node"]
        found = [{(0, 1): channels}]
        for i in range(num_layers):
            is_last = i == num_layers - 1
            wanted = irreps.up_to(0 if is_last else lmax_node, even_only=is_last)
            outputs = irreps.output(found[-1], edge, wanted)
            found.append(dict.fromkeys(outputs, channels))
    ends = [list(found[0]), list(found[-1])]
    scalars_first = all(list(each) == sorted(each) for each in found)
    if len(found) != num_layers + 1 or ends != [[(0, 1)]] * 2 or not scalars_first:
        raise network.AnotherKindError(
            f"a SevenNet with {num_layers} layers and features {found}; expected even "
            "scalars at both ends, and features sorted by degree"
        )
    return found


def _envelope(config: Mapping[str, Any]) -> network.Envelope:
    settings, cutoff = config["cutoff_function"], float(config["cutoff"])
    kind = settings.get("cutoff_function_name")
    if kind == "XPLOR":
        return network.Envelope(cutoff, float(settings["cutoff_on"]))
    if kind == "poly_cut":
        return network.Envelope(cutoff, None, int(settings.get("poly_cut_p_value", 6)))
    raise network.AnotherKindError(
        f"a SevenNet with cutoff function {kind!r}; expected 'XPLOR' or 'poly_cut'"
    )


def _read_layer(
    config: Mapping[str, Any],
    reader: "_Tensors",
    i: int,
    node: dict[irreps.Irrep, int],
    paths: list[irreps.Path],
    output: dict[irreps.Irrep, int],
    num_types: int,
) -> tuple[network.Layer, network.LayerParams]:
    # The gate takes a scalar for each channel that rotates, beside the scalars.
    gate_parity = 1 if (0, 1) in output else -1
    gates = sum(count for (degree, _), count in output.items() if degree > 0)
    before_gate = dict(output)
    if gates:
        before_gate[0, gate_parity] = before_gate.get((0, gate_parity), 0) + gates

    skip_name = f"{i}_self_connection_intro"
    kinds = config.get("self_connection_type", "nequip")
    kind = kinds if isinstance(kinds, str) else kinds[i]
    if kind == "linear":
        skip = reader.linear(f"{skip_name}.linear", node, before_gate)
    elif kind == "nequip":
        name = f"{skip_name}.fc_tensor_product"
        skip = reader.linear(name, node, before_gate, num_types)
    else:
        raise network.AnotherKindError(
            f"a SevenNet with self_connection_type {kind!r}; expected 'linear' or "
            "'nequip'"
        )
    before = reader.linear(f"{i}_self_interaction_1.linear", node, node)

    # The sums over paths with one result are sorted by it, as e3nn sorts: stably.
    order = sorted(range(len(paths)), key=lambda k: (paths[k].out, k))
    weights_order = range(len(paths)) if reader.in_old_order else order
    hidden, last = _radial(config, reader, i, sum(path.channels for path in paths))
    ends = np.cumsum([paths[k].channels for k in weights_order])[:-1]
    columns = np.split(last, ends, axis=1)
    weights = dict(zip(weights_order, columns, strict=True))
    middle: dict[irreps.Irrep, int] = {}
    for k in order:
        middle[paths[k].out] = middle.get(paths[k].out, 0) + paths[k].channels
    after = reader.linear(f"{i}_self_interaction_2.linear", middle, before_gate)
    denominator = reader.take(f"{i}_convolution.denominator").item()
    kept = [k for k in order if paths[k].out in after]
    layer = network.Layer(
        paths=tuple(paths[k] for k in kept),
        couplings=tuple(reader.coupling(i, paths[k]) for k in kept),
        output=output,
        scalars={1: config["act_scalar"]["e"], -1: config["act_scalar"]["o"]},
        gate=(gate_parity, config["act_gate"]["e" if gate_parity == 1 else "o"]),
        radial=config["act_radial"],
    )
    used = {*layer.scalars.values(), layer.gate[1], layer.radial}
    if unknown := used - network.ACTIVATIONS.keys():
        raise network.AnotherKindError(
            f"a SevenNet with activation {min(unknown)!r}; expected "
            f"{', '.join(network.ACTIVATIONS)}"
        )
    return layer, network.LayerParams(
        skip=skip,
        before=before,
        radial=hidden,
        weights=tuple(weights[k] for k in kept),
        after={irrep: weight / denominator for irrep, weight in after.items()},
    )


def _radial(
    config: Mapping[str, Any], reader: "_Tensors", i: int, num_out: int
) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """Weights of the hidden layers of a radial network, and of its last."""
    basis = config["radial_basis"].get("bessel_basis_num", 8)
    sizes = [basis, *config["weight_nn_hidden_neurons"], num_out]
    found = []
    for k, (num_in, num_next) in enumerate(itertools.pairwise(sizes)):
        name = f"{i}_convolution.weight_nn.layer{k}.weight"
        weight = reader.take(name, (num_in, num_next))
        found.append(weight / math.sqrt(num_in))
    return tuple(found[:-1]), found[-1]


class _Tensors:
    """The weights, each of which has to be taken once."""

    def __init__(self, tensors: Mapping[str, np.ndarray], in_old_order: bool):
        self._tensors, self._taken = tensors, set()
        self.in_old_order = in_old_order

    def take(self, name: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
        if name not in self._tensors:
            raise network.AnotherKindError(
                f"its weights lack {name}; expected a whole SevenNet of e3nn's layout"
            )
        found = self._tensors[name]
        if shape is not None and found.shape != shape:
            raise network.AnotherKindError(
                f"its weights {name} have shape {found.shape}; expected {shape} by "
                "its configuration"
            )
        if not np.isfinite(found).all():
            raise errors.UserError(f"its weights {name} are not all finite")
        self._taken.add(name)
        return found

    def matrix(self, name: str, num_in: int, num_out: int) -> np.ndarray:
        weight = self.take(f"{name}.weight", (num_in * num_out,))
        return weight.reshape(num_in, num_out) / math.sqrt(num_in)

    def linear(
        self,
        name: str,
        before: dict[irreps.Irrep, int],
        after: dict[irreps.Irrep, int],
        num_types: int | None = None,
    ) -> dict[irreps.Irrep, np.ndarray]:
        """A linear layer; with ``num_types``, one for each element."""
        shapes = {
            irrep: (num_in, *([num_types] if num_types else []), after[irrep])
            for irrep, num_in in before.items()
            if irrep in after
        }
        sizes = [math.prod(shape) for shape in shapes.values()]
        weight = self.take(f"{name}.weight", (sum(sizes),))
        found = {}
        parts = np.split(weight, np.cumsum(sizes)[:-1])
        for (irrep, shape), part in zip(shapes.items(), parts, strict=True):
            scaled = part.reshape(shape) / math.sqrt(math.prod(shape[:-1]))
            found[irrep] = scaled if num_types is None else np.swapaxes(scaled, 0, 1)
        return found

    def coupling(self, i: int, path: irreps.Path) -> np.ndarray:
        """(node, edge, result) of a path, normalised as e3nn's "component"."""
        node, edge, out = path.node[0], path.edge[0], path.out[0]
        eye = np.eye(2 * out + 1)
        if node == 0:
            return eye[None]
        if edge == 0:
            return eye[:, None]
        if out == 0:
            return np.eye(2 * node + 1)[:, :, None] / math.sqrt(2 * node + 1)
        # A version of e3nn has another sign for some: those that the network was
        # trained with are beside its weights.
        shape = (2 * node + 1, 2 * edge + 1, 2 * out + 1)
        name = f"_compiled_main_left_right._w3j_{node}_{edge}_{out}"
        found = self.take(f"{i}_convolution.convolution.{name}", shape)
        if not math.isclose(np.sum(found**2), 1, rel_tol=1e-5):
            raise errors.UserError(f"its {name} is not normalised; the file is damaged")
        return math.sqrt(2 * out + 1) * np.where(np.abs(found) < 1e-7, 0, found)

    def require_all_taken(self) -> None:
        # Empty tensors are what an option that is off leaves behind.
        rest = [
            name
            for name in self._tensors.keys() - self._taken
            if self._tensors[name].size and not _IGNORED.match(name)
        ]
        if rest:
            raise network.AnotherKindError(
                f"it has weights that are not understood: {', '.join(sorted(rest)[:5])}"
            )
