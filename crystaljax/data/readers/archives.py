"""Files of a folder, a zip or a tar, one after the other, without unpacking anything.

Nothing is written to disk, so a member's name is only a name: ``../../x.cif`` is read
like any other. Directories, links and devices are left out, and so are hidden files
and what macOS adds (``__MACOSX``).
"""

import contextlib
import dataclasses
import functools
import io
import os
import pathlib
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

from crystaljax.crystals import names
from crystaljax.data.readers import cut_zips, files
from crystaljax.data.sources import record
from crystaljax.system import errors, text_files

FORMATS = "a folder, .zip, .tar, .tar.gz, .tar.bz2 or .tar.xz"
MAX_FILE_BYTES = 2**24
# Text of numbers shrinks to a third or a tenth; what shrinks more than this is made to.
MAX_COMPRESSION = 200

_TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
_TAR_BLOCK_BYTES = 512
# Bit of a zip member's flags.
_ENCRYPTED = 0x1
_MAX_TAR_BYTES = 2**50
# Headers that are none, before the rest of a tar is given up.
_MAX_TAR_DAMAGES = 1000


@dataclasses.dataclass(frozen=True, eq=False)
class Member:
    """A file of a folder or archive.

    Attributes:
        name: path within it, with slashes.
        num_bytes: size, uncompressed.
        compressed_bytes: size in the archive, where it is known.
        open_fn: opens it for reading, before the next member is requested; ValueError
            or OSError where it cannot be read.
        is_rest: whether it stands for all that an archive lost which ends early or is
            damaged; opening it says why.
    """

    name: str
    num_bytes: int
    compressed_bytes: int | None
    open_fn: Callable[[], io.BufferedReader]
    is_rest: bool = False


def is_archive(path: str | os.PathLike[str]) -> bool:
    """Whether there is a folder, or the name is that of an archive."""
    path = pathlib.Path(path)
    return path.is_dir() or path.name.lower().endswith((".zip", *_TAR_SUFFIXES))


def read_texts(
    path: str | os.PathLike[str], is_wanted: Callable[[str], bool]
) -> Iterator[tuple[str, str | record.Failure]]:
    """Yields name and text of the files whose name is wanted; see `find_members`.

    A file that is too large (`MAX_FILE_BYTES`), compressed beyond reason
    (`MAX_COMPRESSION`), encrypted or damaged gives a failure in place of its text, and
    so does what an archive lost that ends early.
    """
    for member in find_members(path):
        if member.is_rest or is_wanted(member.name):
            yield member.name, read_text(path, member)


def failure(
    path: str | os.PathLike[str], member: Member, error: Exception | str
) -> record.Failure:
    """What a file that cannot be read becomes; its message names archive and member."""
    if member.is_rest:
        return record.Failure(member.name, record.DAMAGED, str(error))
    is_bare = pathlib.Path(path).is_dir()
    where = member.name if is_bare else f"{member.name} in {os.fspath(path)}"
    return record.Failure(member.name, record.NOT_READABLE, f"{where}: {error}")


def find_members(path: str | os.PathLike[str]) -> Iterator[Member]:
    """Yields the files, by name; those of a tar as they come.

    Raises:
        FileNotFoundError: there is nothing at ``path``.
        ValueError: it is neither a folder nor an archive, or the archive is damaged.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise FileNotFoundError(f"nothing at {path}; check --input")
    name = path.name.lower()
    if path.is_dir():
        found = _folder_members(path)
    elif name.endswith(".zip"):
        found = _zip_members(path)
    elif name.endswith(_TAR_SUFFIXES):
        found = _tar_members(path)
    else:
        raise errors.UserError(
            f"{path} is no archive that can be read; expected {FORMATS}"
        )
    for member in _until_damaged(path, found):
        if member.is_rest or not _is_hidden(member.name):
            yield member


def _until_damaged(path: pathlib.Path, members: Iterator[Member]) -> Iterator[Member]:
    """Members; where the archive ends early after some of them, the rest as one."""
    num_members = 0
    try:
        for member in members:
            yield member
            num_members += 1
    except ValueError as error:
        if num_members == 0 or not getattr(error, "is_cut", True):
            raise
        message = f"{error}; only {num_members} files of it could be read"
        name = f"{path.name}, what is missing"
        yield Member(name, 0, None, functools.partial(_raise, message), is_rest=True)


def _raise(message: str) -> io.BufferedReader:
    raise errors.UserError(message)


def _is_hidden(name: str) -> bool:
    return any(
        part == "__MACOSX" or (part.startswith(".") and part != "..")
        for part in name.split("/")
    )


def read_text(path: str | os.PathLike[str], member: Member) -> str | record.Failure:
    """Text of a member, or why there is none; see `read_texts`."""
    limit = MAX_FILE_BYTES // 2**20
    too_large = record.Failure(member.name, f"file larger than {limit} MiB")
    if member.num_bytes > MAX_FILE_BYTES:
        return too_large
    compressed = member.compressed_bytes
    if compressed is not None and member.num_bytes > MAX_COMPRESSION * compressed:
        return record.Failure(
            member.name, f"file compressed more than {MAX_COMPRESSION} times"
        )
    try:
        with member.open_fn() as file:
            # The size an archive states need not be true.
            content = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        return failure(path, member, error)
    if len(content) > MAX_FILE_BYTES:
        return too_large
    try:
        return text_files.decode(content)
    except ValueError as error:
        return failure(path, member, error)


def _folder_members(folder: pathlib.Path) -> Iterator[Member]:
    for parent, directories, file_names in os.walk(folder):
        directories.sort()
        for name in sorted(file_names):
            path = pathlib.Path(parent, name)
            try:
                status = path.lstat()
            except FileNotFoundError:
                continue
            if stat.S_ISREG(status.st_mode):
                yield Member(
                    names.encodable(path.relative_to(folder).as_posix()),
                    status.st_size,
                    None,
                    functools.partial(path.open, "rb"),
                )


def _zip_members(path: pathlib.Path) -> Iterator[Member]:
    try:
        archive = zipfile.ZipFile(path)
    except OSError:
        raise
    except Exception as error:
        # zipfile raises whatever a malformed directory leads to: struct.error, ...
        yield from _cut_zip_members(path)
        raise _not_readable(path, error) from error
    with archive:
        for info in sorted(archive.infolist(), key=lambda info: info.filename):
            kind = stat.S_IFMT(info.external_attr >> 16)
            if info.is_dir() or kind not in (0, stat.S_IFREG):
                continue
            yield Member(
                _member_name(info.filename),
                info.file_size,
                info.compress_size,
                functools.partial(_open_in_zip, archive, info),
            )


def _cut_zip_members(path: pathlib.Path) -> Iterator[Member]:
    for each in cut_zips.read_members(path, MAX_FILE_BYTES):
        if each.content is None:
            open_fn = functools.partial(_raise, each.problem)
        else:
            open_fn = functools.partial(_open_content, each.content)
        size = len(each.content or b"")
        yield Member(_member_name(each.name), size, None, open_fn)


def _open_content(content: bytes) -> io.BufferedReader:
    return io.BufferedReader(io.BytesIO(content))  # type: ignore[arg-type]


def _open_in_zip(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> io.BufferedReader:
    if info.flag_bits & _ENCRYPTED:
        raise errors.UserError("encrypted; decrypt the archive with its password first")
    try:
        return files.guard(archive.open(info), info.filename)
    except Exception as error:
        # Compressed in a way that zipfile does not know, or a header that contradicts
        # the directory: each raises an exception of another kind.
        raise errors.UserError(str(error)) from error


def _tar_members(path: pathlib.Path) -> Iterator[Member]:
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(files.open_bytes(path))
        try:
            archive = tarfile.TarFile(fileobj=_TarInput(file))  # type: ignore[arg-type]
        except OSError:
            raise
        except Exception as error:
            raise _not_readable(path, error) from error
        stack.enter_context(archive)
        damage = None
        num_damages = 0
        while True:
            offset = archive.offset
            try:
                info = _next_in_tar(archive, path)
            except files.DamagedError:
                raise
            except ValueError as error:
                # The next header that is one is looked for.
                damage = damage or error
                num_damages += 1
                if num_damages > _MAX_TAR_DAMAGES:
                    break
                archive.ignore_zeros = True
                archive.offset = offset + _TAR_BLOCK_BYTES
                continue
            if info is None:
                _compare_checksum(file)
                break
            if info.isreg():
                yield Member(
                    _member_name(info.name),
                    info.size,
                    None,
                    functools.partial(_open_in_tar, archive, info),
                )
        if damage is not None:
            raise damage


def _compare_checksum(file: io.BufferedReader) -> None:
    """Reads to the end, where compressed data have it; what is read is wrong else."""
    files.read_to_end(file)


def _next_in_tar(
    archive: tarfile.TarFile, path: pathlib.Path
) -> tarfile.TarInfo | None:
    # It would keep every member that was seen.
    archive.members.clear()  # type: ignore[attr-defined]
    offset = archive.offset
    try:
        info = archive.next()
        if info is None and not archive.ignore_zeros:
            _require_tar_end(archive)
        # A negative size would lead back to where we came from, for ever.
        elif info is not None and (info.size < 0 or archive.offset < offset):
            raise errors.UserError(f"member {info.name!r} of {info.size} bytes")
    except files.DamagedError:
        raise
    except OSError:
        raise
    except Exception as error:
        # tarfile raises whatever a malformed header leads to.
        raise _not_readable(path, error) from error
    return info


def _require_tar_end(archive: tarfile.TarFile) -> None:
    """Raises ValueError unless zeros mark the end: tarfile stops at any bad header."""
    source: Any = archive.fileobj
    source.seek(archive.offset)
    block = source.read(_TAR_BLOCK_BYTES)
    if len(block) < _TAR_BLOCK_BYTES or any(block):
        raise errors.UserError("the mark of the end is missing")


def _open_in_tar(archive: tarfile.TarFile, info: tarfile.TarInfo) -> io.BufferedReader:
    try:
        file = archive.extractfile(info)
    except tarfile.TarError as error:
        raise errors.UserError(str(error)) from error
    assert file is not None
    return io.BufferedReader(_TarFileReader(file))


class _TarFileReader(io.RawIOBase):
    """A file in a tar, with ValueError where the tar ends in the middle of it."""

    def __init__(self, source: Any):
        super().__init__()
        self._source = source

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            return self._source.readinto(buffer)
        except tarfile.TarError as error:
            raise files.DamagedError(f"ends early ({error})") from error


class _TarInput:
    """What tarfile reads from: headers whose size is absurd do not fill the memory."""

    def __init__(self, file: io.BufferedReader):
        self._file = file

    def read(self, size: int) -> bytes:
        if not 0 <= size <= MAX_FILE_BYTES:
            raise errors.UserError(f"header of {size} bytes")
        return self._file.read(size)

    def seek(self, offset: int) -> int:
        if not 0 <= offset <= _MAX_TAR_BYTES:
            raise errors.UserError(f"header at byte {offset}")
        return self._file.seek(offset)

    def tell(self) -> int:
        return self._file.tell()


def _member_name(name: str) -> str:
    return names.encodable(name).removeprefix("./")


def _not_readable(path: pathlib.Path, error: Exception) -> ValueError:
    return errors.UserError(
        f"{path} is damaged or not what its name says ({error}); expected {FORMATS}: "
        "download it again"
    )
