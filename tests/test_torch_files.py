"""Files that PyTorch writes here are read without it, and nothing in them is run."""

import collections
import os
import zipfile

import numpy as np
import pytest
import torch

from crystaljax.relaxation.potentials.nequip import torch_files


def save(value, path):
    torch.save(value, path)
    return path


def test_tensors_and_values_come_back(tmp_path):
    whole = torch.arange(24, dtype=torch.float64).reshape(4, 6)
    weights = collections.OrderedDict(
        whole=whole,
        # Views share the bytes of the whole.
        part=whole[1:3, ::2],
        turned=whole.T,
        numbers=torch.tensor([1, -2, 3]),
        single=torch.tensor(0.1),
        none=torch.zeros(0),
        parameter=torch.nn.Parameter(torch.ones(2, 3)).data,
    )
    config = {
        "version": "0.9.1",
        "types": {89: 0, 47: 1},
        "shift": np.array([1.5, -2.5], np.float32),
        "scale": [1.0, None, True],
        "device": torch.device("cuda:1"),
        "one": np.float64(0.25),
    }
    path = save({"weights": weights, "config": config}, tmp_path / "file.pth")
    found = torch_files.load(path)
    for name, tensor in weights.items():
        assert found["weights"][name].dtype == tensor.numpy().dtype
        np.testing.assert_array_equal(found["weights"][name], tensor.numpy())
    plain = torch_files.plain(found["config"])
    expected = config | {"shift": [1.5, -2.5], "device": "cuda:1"}
    assert plain == expected


class Runs:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("function", [os.system, eval, getattr])
def test_code_in_a_file_is_refused_by_name_and_not_run(tmp_path, function):
    mark = tmp_path / "mark"
    call = Runs(function, f"open({str(mark)!r}, 'w')")
    path = save({"config": {"a": call}}, tmp_path / "file.pth")
    with pytest.raises(
        ValueError, match=rf"file\.pth: .*{function.__name__}.*expected"
    ):
        torch_files.load(path)
    assert not mark.exists()


def test_a_whole_model_is_refused(tmp_path):
    path = save(torch.nn.Linear(2, 3), tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"Linear; expected numbers"):
        torch_files.load(path)


def test_cut_changed_and_other_files_are_named(tmp_path):
    path = save({"a": torch.arange(1000.0)}, tmp_path / "file.pth")
    data = path.read_bytes()
    for name, wrong in {
        "cut": data[: len(data) // 2],
        "changed": data.replace(data[2000:2004], b"\0\1\2\3"),
        "empty": b"",
        "text": b"no archive",
    }.items():
        other = tmp_path / name
        other.write_bytes(wrong)
        with pytest.raises(ValueError, match=rf"{name} is cut, damaged or no file"):
            torch_files.load(other)
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
        archive.writestr("something", "else")
    with pytest.raises(ValueError, match=r"expected one data\.pkl"):
        torch_files.load(tmp_path / "zip")
    with pytest.raises(OSError, match="missing"):
        torch_files.load(tmp_path / "missing")
