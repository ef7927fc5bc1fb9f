"""Files of Nequix (.nqx): configuration and weights → `network.Network`.

Such a file is a line of JSON, the configuration, and then the weights, arrays in
NumPy's format one after the other, without names: their order is that of the fields of
the package's classes, of releases 0.3 to 0.4.5. Nothing of nequix, e3nn-jax or Equinox
is imported, and nothing of a file is ever run. What a file holds beyond what is
understood here is an error: a network that is read in part gives wrong energies.
"""

import io
import itertools
import json
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import ase.data
import numpy as np

from crystaljax.relaxation.potentials.nequip import couplings, irreps, network
from crystaljax.system import errors

_KEYS = (
    "atomic_numbers",
    "hidden_irreps",
    "lmax",
    "cutoff",
    "n_layers",
    "radial_basis_size",
    "radial_mlp_size",
    "radial_mlp_layers",
    "radial_polynomial_p",
    "index_weights",
    "layer_norm",
    "shift",
    "scale",
    "avg_n_neighbors",
)
_POSITIVE = (
    "cutoff",
    "n_layers",
    "radial_basis_size",
    "radial_mlp_size",
    "radial_mlp_layers",
    "radial_polynomial_p",
    "avg_n_neighbors",
)
# Configuration keys that change what is computed, of later versions, and the value
# that changes nothing. All else in a configuration is about training.
_UNDERSTOOD = {"add_repulsion": False}
_MAX_DEGREE = 3
_MAX_HEADER = 2**20  # bytes
_SCALAR: irreps.Irrep = (0, 1)
_SILU, _RADIAL_SILU = "silu of e3nn-jax", "silu unscaled"


def load(path: str | os.PathLike[str]) -> network.Network:
    """The network in a file.

    Raises:
        ValueError: the file is cut or damaged, or holds another architecture.
        OSError: it cannot be read.
    """
    with errors.explain_disk_errors(path):
        content = pathlib.Path(path).read_bytes()
    try:
        return parse(content)
    except errors.UserError as error:
        # Of the same kind, with the path in front.
        raise type(error)(f"{path}: {error}") from error


def parse(content: bytes) -> network.Network:
    """The network in the bytes of a file.

    Raises:
        ValueError: see ``load``.
    """
    header, _, _ = content[:_MAX_HEADER].partition(b"\n")
    try:
        config = json.loads(header)
    except ValueError:
        config = None
    if not isinstance(config, dict):
        raise errors.UserError(
            "it is no file of nequix, or its beginning is lost; expected a line of "
            "JSON, and weights behind it"
        )
    _require_understood(config)
    leaves = _Leaves(content[len(header) + 1 :])
    try:
        found = _build(config, leaves)
    except (TypeError, ValueError) as error:
        if isinstance(error, errors.UserError):
            raise
        raise network.AnotherKindError(
            f"its configuration is not that of a Nequix ({error!r}); expected one of "
            "nequix 0.3 to 0.4.5"
        ) from error
    leaves.require_all_taken()
    return found


def _require_understood(config: Mapping[str, Any]) -> None:
    missing = [key for key in _KEYS if key not in config]
    if missing:
        raise network.AnotherKindError(
            f"its configuration lacks {', '.join(missing)}; expected that of a Nequix "
            "of the package nequix, 0.3 to 0.4.5"
        )
    for key in (*_POSITIVE, "shift", "scale"):
        value = config[key]
        is_number = isinstance(value, int | float) and math.isfinite(value)
        if not is_number or (key in _POSITIVE and value <= 0):
            expected = "a positive number" if key in _POSITIVE else "a number"
            raise network.AnotherKindError(
                f"a Nequix with {key} = {value!r}; expected {expected}"
            )
    for key, value in _UNDERSTOOD.items():
        if config.get(key, value) != value:
            raise network.AnotherKindError(
                f"a Nequix with {key} = {config[key]!r}, as nequix 0.4.5 has none; "
                f"expected {value!r}, the only kind that runs in batches"
            )


def _build(config: Mapping[str, Any], leaves: "_Leaves") -> network.Network:
    cutoff, lmax = float(config["cutoff"]), int(config["lmax"])
    numbers = sorted(map(int, config["atomic_numbers"]))
    hidden = irreps.parse(str(config["hidden_irreps"]))
    _require_kind(hidden, lmax, numbers)
    count, num_layers = len(numbers), int(config["n_layers"])
    atom_energies = leaves.take("atom_energies", (count,))
    edge = irreps.spherical_harmonics(lmax, -1)
    last = {_SCALAR: hidden[_SCALAR]}
    features = [{_SCALAR: count}, *[hidden] * (num_layers - 1), last]
    read = [
        _read_layer(config, leaves, f"layers[{i}]", node, edge, output, count)
        for i, (node, output) in enumerate(itertools.pairwise(features))
    ]
    readout = leaves.linear("readout", last, {_SCALAR: 1})[_SCALAR]
    type_of = np.full(len(ase.data.chemical_symbols), -1, np.int32)
    type_of[numbers] = np.arange(count)
    power = float(config["radial_polynomial_p"])
    basis = np.arange(1, int(config["radial_basis_size"]) + 1)
    return network.Network(
        envelope=network.Envelope(
            cutoff, None, int(power) if power.is_integer() else power
        ),
        frequencies=basis * math.pi / cutoff,
        edge=tuple(edge),
        unit_vectors=True,
        # The elements themselves: its first layer knows them by their number.
        embedding=np.eye(count),
        layers=tuple(layer for layer, _ in read),
        params=tuple(params for _, params in read),
        readout=readout,
        shift=atom_energies + float(config["shift"]),
        scale=np.full(count, float(config["scale"])),
        type_of=type_of,
    )


def _require_kind(
    hidden: Mapping[irreps.Irrep, int], lmax: int, numbers: Sequence[int]
) -> None:
    if not 0 < lmax <= _MAX_DEGREE:
        raise network.AnotherKindError(
            f"a Nequix with lmax = {lmax}; expected 1 to {_MAX_DEGREE}"
        )
    natural = all(
        parity == (-1) ** degree and degree <= lmax for degree, parity in hidden
    )
    if not natural or list(hidden) != sorted(hidden) or _SCALAR not in hidden:
        raise network.AnotherKindError(
            f"a Nequix with features {dict(hidden)} (degree, parity → channels) and "
            f"lmax = {lmax}; expected scalars, vectors and so on, each with its "
            "natural parity, in this order: 0e, 1o, 2e, 3o"
        )
    known = range(1, len(ase.data.chemical_symbols))
    if not numbers or len(set(numbers)) < len(numbers) or set(numbers) - {*known}:
        raise errors.UserError(
            f"its atomic_numbers are {numbers}; expected different ones of 1 to "
            f"{known[-1]}"
        )


def _read_layer(
    config: Mapping[str, Any],
    leaves: "_Leaves",
    name: str,
    node: dict[irreps.Irrep, int],
    edge: Sequence[irreps.Irrep],
    output: dict[irreps.Irrep, int],
    num_types: int,
) -> tuple[network.Layer, network.LayerParams]:
    # The sums over paths with one result are sorted by it, stably.
    paths = sorted(irreps.paths(node, edge, output), key=lambda path: path.out)
    middle: dict[irreps.Irrep, int] = {}
    for path in paths:
        middle[path.out] = middle.get(path.out, 0) + path.channels
    # The gate takes a scalar for each channel that rotates, beside the scalars.
    gates = sum(output.values()) - output[_SCALAR]
    before_gate = {**output, _SCALAR: output[_SCALAR] + gates}

    hidden = [int(config["radial_mlp_size"])] * int(config["radial_mlp_layers"])
    sizes = [int(config["radial_basis_size"]), *hidden, sum(middle.values())]
    radial = [
        leaves.take(f"{name}.radial_mlp.layers[{k}]", shape)
        for k, shape in enumerate(itertools.pairwise(sizes))
    ]
    before = leaves.linear(f"{name}.linear_1", node, node)
    after = leaves.linear(f"{name}.linear_2", middle, before_gate)
    own = num_types if config["index_weights"] else None
    skip = leaves.linear(f"{name}.skip", node, before_gate, own)
    norm = None
    if config["layer_norm"]:
        norm = {
            irrep: leaves.take(f"{name}.layer_norm {irrep}", (channels,))
            for irrep, channels in before_gate.items()
        }
    neighbors = math.sqrt(float(config["avg_n_neighbors"]))
    ends = np.cumsum([path.channels for path in paths])[:-1]
    layer = network.Layer(
        paths=tuple(paths),
        couplings=tuple(
            couplings.coupling(path.node[0], path.edge[0], path.out[0])
            for path in paths
        ),
        output=output,
        scalars={1: _SILU},
        gate=(1, _SILU),
        radial=_RADIAL_SILU,
    )
    return layer, network.LayerParams(
        skip=skip,
        before=before,
        radial=tuple(radial[:-1]),
        weights=tuple(np.split(radial[-1], ends, axis=1)),
        after={irrep: weight / neighbors for irrep, weight in after.items()},
        norm=norm,
    )


class _Leaves:
    """Arrays that follow each other in a file."""

    def __init__(self, content: bytes):
        self._file, self._size = io.BytesIO(content), len(content)

    def take(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """The next array; its name is for messages."""
        if self._file.tell() == self._size:
            raise errors.UserError(
                f"it is cut: it ends before its weights {name}; copy or download it "
                "again"
            )
        try:
            version = np.lib.format.read_magic(self._file)
            if version != (1, 0):
                raise errors.UserError(
                    f"its weights {name} are in NumPy's format {version}; expected 1.0"
                )
            found, fortran, dtype = np.lib.format.read_array_header_1_0(self._file)
        except ValueError as error:
            if isinstance(error, errors.UserError):
                raise
            raise errors.UserError(
                f"it is cut or damaged at its weights {name} ({error}); copy or "
                "download it again"
            ) from error
        if found != shape or dtype.kind != "f" or fortran:
            raise network.AnotherKindError(
                f"its weights {name} are {dtype} of shape {found}; expected floats of "
                f"shape {shape} by its configuration, as nequix 0.3 to 0.4.5 has them"
            )
        data = self._file.read(math.prod(shape) * dtype.itemsize)
        if len(data) < math.prod(shape) * dtype.itemsize:
            raise errors.UserError(
                f"it is cut within its weights {name}; copy or download it again"
            )
        values = np.frombuffer(data, dtype).reshape(shape).astype(float)
        if not np.isfinite(values).all():
            raise errors.UserError(f"its weights {name} are not all finite")
        return values

    def linear(
        self,
        name: str,
        before: Mapping[irreps.Irrep, int],
        after: Mapping[irreps.Irrep, int],
        num_types: int | None = None,
    ) -> dict[irreps.Irrep, np.ndarray]:
        """A linear layer; with ``num_types``, one for each element."""
        types = (num_types,) if num_types else ()
        found = {
            irrep: self.take(f"{name} {irrep}", (*types, channels, after[irrep]))
            for irrep, channels in before.items()
            if irrep in after
        }
        # e3nn-jax keeps weights of size 1 and scales what it does with them.
        return {irrep: w / math.sqrt(before[irrep]) for irrep, w in found.items()}

    def require_all_taken(self) -> None:
        if self._file.tell() < self._size:
            raise network.AnotherKindError(
                f"it has {self._size - self._file.tell()} bytes behind the weights of "
                "its configuration; expected none, as in files of nequix 0.3 to 0.4.5"
            )
