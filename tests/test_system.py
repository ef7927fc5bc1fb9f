"""Files written whole or not at all, requests compared, what the disk refuses."""

import errno
import os
import pathlib

import hypothesis
import hypothesis.strategies as st
import pytest

from crystaljax.system import atomic_files, errors, saved_requests


# ------------------------------------------------------------------------------- files
def test_a_file_is_replaced_only_by_a_whole_one(tmp_path):
    path = tmp_path / "below" / "table.csv"
    atomic_files.write_bytes(path, b"old")
    with (
        pytest.raises(RuntimeError),
        atomic_files.file(path, overwrite=True) as temporary,
    ):
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert os.listdir(path.parent) == ["table.csv"]
    with (
        pytest.raises(FileExistsError, match="there already"),
        atomic_files.file(path, overwrite=False),
    ):
        pass


def test_a_folder_is_replaced_only_by_a_whole_one(tmp_path):
    path = tmp_path / "run"
    for text in ("old", "new"):
        with atomic_files.folder(path) as temporary:
            (temporary / "file").write_text(text)
        assert (path / "file").read_text() == text
    with pytest.raises(RuntimeError), atomic_files.folder(path) as temporary:
        (temporary / "file").write_text("half")
        raise RuntimeError
    assert (path / "file").read_text() == "new"
    assert os.listdir(tmp_path) == ["run"]


def test_what_was_there_comes_back_if_a_folder_cannot_take_its_place(
    tmp_path, monkeypatch
):
    path = tmp_path / "run"
    with atomic_files.folder(path) as temporary:
        (temporary / "file").write_text("old")
    rename = pathlib.Path.rename

    def refuse(self, target):
        if pathlib.Path(target) == path and "old-" not in self.name:
            raise OSError(errno.ENOSPC, "full", str(self))
        return rename(self, target)

    monkeypatch.setattr(pathlib.Path, "rename", refuse)
    with (
        pytest.raises(errors.DiskError, match=rf"{path}: the disk is full"),
        atomic_files.folder(path),
    ):
        pass
    assert (path / "file").read_text() == "old"


@pytest.mark.parametrize("name", ["file/below", "file/below/further"])
def test_what_lies_below_a_file_cannot_be_written(tmp_path, name):
    (tmp_path / "file").write_text("mine")
    path = tmp_path / name
    with pytest.raises(
        errors.DiskError, match=rf"{tmp_path}/file.*choose another path"
    ):
        atomic_files.write_json(path, {})
    with (
        pytest.raises(errors.DiskError, match=rf"{tmp_path}/file.*choose another path"),
        atomic_files.folder(path),
    ):
        pass
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    "code,words", [(errno.ENOSPC, "disk is full"), (errno.EROFS, "read-only")]
)
def test_errors_of_the_disk_name_the_target_and_not_the_temporary(
    tmp_path, code, words
):
    path = tmp_path / "table.csv"
    with (
        pytest.raises(errors.DiskError, match=rf"^{path}: .*{words}") as caught,
        atomic_files.file(path) as temporary,
    ):
        raise OSError(code, os.strerror(code), str(temporary))
    assert "\n" not in str(caught.value) and ".tmp" not in str(caught.value)
    # What cannot be read on the way is another path.
    with (
        pytest.raises(errors.DiskError, match=r"^/elsewhere/input.cif: "),
        atomic_files.file(path),
    ):
        raise FileNotFoundError(errno.ENOENT, "none", "/elsewhere/input.cif")
    # And what is no error of a disk stays what it is.
    with pytest.raises(ConnectionResetError), atomic_files.file(path):
        raise ConnectionResetError(errno.ECONNRESET, "reset")


# ---------------------------------------------------------------------------- requests
json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(), st.lists, max_leaves=5
)


@hypothesis.given(st.dictionaries(st.text(max_size=3), json_values))
@hypothesis.settings(max_examples=50, deadline=None)
def test_a_request_that_was_saved_is_the_same(tmp_path_factory, request_values):
    path = tmp_path_factory.mktemp("requests") / "request.json"
    atomic_files.write_json(path, request_values)
    saved = saved_requests.load(path, "delete it")
    assert saved_requests.find_differences(request_values, saved) == []
    other = request_values | {"more": "another value"}
    (difference,) = saved_requests.find_differences(other, saved)
    assert difference.startswith('more: "another value", ')


def test_differences_are_named_and_shown_where_they_are():
    requested = {"a": {"b": (1, 2)}, "long": "x" * 500 + "y", "size": 3, "gone": 1}
    saved = {"a": {"b": [1, 2]}, "long": "x" * 500 + "z", "size": 4, "new": 2}
    with pytest.raises(saved_requests.OtherRequestError) as caught:
        saved_requests.require_same(
            requested, saved, path="here", contents="samples", remedy="move it"
        )
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("here holds samples of another request; move it.")
    assert lines[1].startswith("  long: …xxx") and 'y", …xxx' in lines[1]
    assert len(lines[1]) < 160
    assert lines[2:] == ["  size: 3, 4", "  gone: 1, null", "  new: null, 2"]
    saved_requests.require_same(
        {"a": 1},
        {"a": 1, "size": 4},
        path="here",
        contents="samples",
        remedy="move it",
        optional=("size",),
    )


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "[" * 10_000])
def test_a_damaged_request_is_refused(tmp_path, text):
    path = tmp_path / "request.json"
    assert saved_requests.load(path, "delete it") is None
    path.write_text(text)
    with pytest.raises(errors.UserError, match=r"request.json is damaged .*; delete"):
        saved_requests.load(path, "delete it")
