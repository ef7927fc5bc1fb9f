"""Tensors and plain values out of files that ``torch.save`` wrote, without PyTorch.

Such a file is a zip archive with a pickle that refers to the tensors' bytes. A pickle
can call whatever it names, so this one may name only what the tables below hold: all
of it is made of numbers, texts and containers, and nothing of a file is ever run.
"""

import collections
import os
import pickle
import zipfile
from typing import Any

import numpy as np

from crystaljax.system import errors

_STORAGES = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "BoolStorage": np.dtype("?"),
}


def load(path: str | os.PathLike[str]) -> Any:
    """What was saved: dictionaries, lists, numbers, texts; tensors as NumPy arrays.

    Raises:
        ValueError: it is no such file, a part of it is missing or damaged, or it holds
            anything else, such as a whole model.
        OSError: it cannot be read.
    """
    with errors.explain_disk_errors(path), open(path, "rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                return _load(archive)
        except _Refused as refusal:
            raise errors.UserError(f"{path}: {refusal}") from refusal
        except Exception as error:
            # Whatever goes wrong in a pickle or an archive with bytes lost or changed.
            if isinstance(error, OSError):
                raise
            raise errors.UserError(
                f"{path} is cut, damaged or no file of torch.save "
                f"({type(error).__name__}: {error}); copy or download it again"
            ) from error


class _Refused(Exception):
    """The file holds what is not read."""


def _load(archive: zipfile.ZipFile) -> Any:
    names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(names) != 1:
        raise _Refused(
            "expected one data.pkl in the archive, as torch.save writes it since "
            f"PyTorch 1.6, got {len(names)}"
        )
    folder = names[0].removesuffix("data.pkl")
    order = f"{folder}byteorder"
    if order in archive.namelist() and archive.read(order) != b"little":
        raise _Refused("it was written on a big-endian machine; expected little-endian")
    with archive.open(names[0]) as file:
        return _Unpickler(file, archive, folder).load()


class _Unpickler(pickle.Unpickler):
    """Knows `_ALLOWED`, and nothing else."""

    def __init__(self, file: Any, archive: zipfile.ZipFile, folder: str):
        super().__init__(file)
        self._archive, self._folder = archive, folder
        self._storages: dict[str, np.ndarray] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _STORAGES:
            return name
        # NumPy 2 has moved its private modules.
        module = module.replace("numpy._core", "numpy.core")
        if (module, name) not in _ALLOWED:
            raise _Refused(
                f"it holds {module}.{name}; expected numbers, texts and tensors alone, "
                "which do not run code when they are read"
            )
        return _ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> np.ndarray:
        kind, name, key, _, size = pid
        if kind != "storage" or name not in _STORAGES:
            raise _Refused(f"it refers to {pid!r}; expected the storage of a tensor")
        dtype = _STORAGES[name]
        if key not in self._storages:
            # The archive's checksums are compared as it is read.
            data = self._archive.read(f"{self._folder}data/{key}")
            self._storages[key] = np.frombuffer(data, dtype)
        found = self._storages[key]
        if found.dtype != dtype or len(found) != size:
            raise _Refused(
                f"tensor {key} has {len(found)} numbers of {found.dtype}; expected "
                f"{size} of {dtype}"
            )
        return found


def _tensor(
    storage: np.ndarray, offset: int, shape: tuple, strides: tuple, *_: Any
) -> np.ndarray:
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    if 0 not in shape and not (0 <= offset <= last < len(storage)):
        raise _Refused(f"a tensor of shape {shape} reaches beyond its {len(storage)}")
    if min((*strides, *shape), default=0) < 0:
        raise _Refused(f"a tensor has shape {shape} and strides {strides}")
    items = [s * storage.itemsize for s in strides]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, items).copy()


class _Array:
    """Stands for a NumPy array until its state comes: shape, type and bytes."""

    def __init__(self, *_: Any):
        self.array = np.zeros(0)

    def __setstate__(self, state: Any):
        _, shape, dtype, fortran, data = state
        kind = getattr(dtype, "name", None)
        if kind is None or np.dtype(kind).kind not in "fiub":
            raise _Refused("it holds an array of other things than numbers")
        data = data if isinstance(data, bytes) else data.encode("latin1")
        order = "F" if fortran else "C"
        self.array = np.frombuffer(data, np.dtype(kind)).reshape(shape, order=order)


class _Dtype:
    """Stands for a NumPy type; its state is its byte order, little-endian here."""

    def __init__(self, name: str, *_: Any):
        self.name = name

    def __setstate__(self, state: Any):
        if state[1] not in "<|=":
            raise _Refused(f"it holds an array with byte order {state[1]!r}")


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise _Refused(f"it holds bytes written as {encoding}; expected latin1")
    return text.encode("latin1")


_ALLOWED = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    # Names of devices are of no use here.
    ("torch", "device"): lambda *parts: ":".join(map(str, parts)),
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy.core.multiarray", "scalar"): lambda dtype, data: np.frombuffer(
        data if isinstance(data, bytes) else data.encode("latin1"),
        np.dtype(dtype.name),
    )[0],
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
}


def plain(value: Any) -> Any:
    """A value of a loaded file with its NumPy arrays as lists."""
    if isinstance(value, _Array):
        return value.array.tolist()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
