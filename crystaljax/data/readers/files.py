"""Input files as bytes or text: plain, or compressed with gzip, bzip2 or xz."""

import bz2
import gzip
import io
import lzma
import os
import pathlib
import zipfile
import zlib
from typing import Any

from crystaljax.system import errors, text_files

_OPENERS = {
    ".gz": gzip.open,
    ".tgz": gzip.open,
    ".bz2": bz2.open,
    ".tbz2": bz2.open,
    ".xz": lzma.open,
    ".txz": lzma.open,
}
COMPRESSED_SUFFIXES = (".gz", ".bz2", ".xz")
_BUFFER_BYTES = 2**18


class DamagedError(errors.UserError):
    """Compressed data that end early or contradict themselves.

    Attributes:
        is_cut: whether they end early, so that what came before is good; in data that
            contradict themselves the place of the damage is unknown.
    """

    def __init__(self, message: str, *, is_cut: bool = False):
        """Keeps both."""
        super().__init__(message)
        self.is_cut = is_cut


def require_file(path: str | os.PathLike[str]) -> pathlib.Path:
    """The path, if there is a file.

    Raises:
        FileNotFoundError: there is none.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; check --input")
    return path


def open_bytes(path: str | os.PathLike[str]) -> io.BufferedReader:
    """Opens a file for reading; its last suffix says how it is compressed.

    Reading from what is returned raises `DamagedError`, a ValueError, where compressed
    data end early or are damaged.

    Raises:
        FileNotFoundError: there is no such file.
    """
    path = require_file(path)
    opener: Any = _OPENERS.get(path.suffix.lower(), open)
    return guard(opener(path, "rb"), path)


def open_text(
    path: str | os.PathLike[str], *, newline: str | None = None
) -> io.TextIOWrapper:
    """Like `open_bytes`, for text of any encoding; see `text_files.open_text`."""
    return text_files.open_text(open_bytes(path), newline=newline)


def require_undamaged(path: pathlib.Path) -> None:
    """Reads compressed data once to their end, where their checksum is.

    For one of several files: in what a damaged one gives until its end is reached,
    the place of the damage is unknown.

    Raises:
        DamagedError: they contradict themselves. Those that end early are good so far.
    """
    if path.suffix.lower() not in COMPRESSED_SUFFIXES:
        return
    with open_bytes(path) as file:
        read_to_end(file)


def read_to_end(file: io.BufferedReader) -> None:
    """`require_undamaged` for what is open."""
    try:
        while file.read(_BUFFER_BYTES):
            pass
    except DamagedError as error:
        if not error.is_cut:
            raise


def guard(source: Any, name: str | os.PathLike[str]) -> io.BufferedReader:
    """A stream that decompresses → the same, with `DamagedError` for all that fails.

    Args:
        source: a binary stream; closed with what is returned.
        name: what the error calls it.
    """
    return io.BufferedReader(_Guarded(source, name), _BUFFER_BYTES)


def suffix_without_compression(name: str) -> str:
    """Suffix in lower case, that of the compression left out: ``.json``."""
    path = pathlib.PurePosixPath(name.lower())
    if path.suffix in COMPRESSED_SUFFIXES:
        path = path.with_suffix("")
    return path.suffix


class _Guarded(io.RawIOBase):
    def __init__(self, source: Any, name: str | os.PathLike[str]):
        super().__init__()
        self._source = source
        self._name = name

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._source.seekable()

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._call(self._source.seek, offset, whence)

    def tell(self) -> int:
        return self._source.tell()

    def readinto(self, buffer: Any) -> int:
        if not hasattr(self._source, "read1"):
            return self._call(self._source.readinto, buffer)
        # One piece at a time: what comes before the end of a file that is cut off would
        # else be lost with the error.
        data = self._call(self._source.read1, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._source.close()
        super().close()

    def _call(self, fn: Any, *arguments: Any) -> Any:
        try:
            return fn(*arguments)
        except EOFError as error:
            raise self._damaged(error, is_cut=True) from error
        except (zlib.error, lzma.LZMAError, zipfile.BadZipFile) as error:
            raise self._damaged(error) from error
        except OSError as error:
            # bz2 and gzip raise it without a number; the system's own have one.
            if error.errno is not None:
                raise
            raise self._damaged(error) from error

    def _damaged(self, error: Exception, *, is_cut: bool = False) -> DamagedError:
        rest = ""
        if not is_cut:
            # One checksum of all, or of a block whose beginning was handed out.
            rest = (
                ": nothing of it is used, since any number in it may be wrong; "
                "decompress it yourself to read it as it is"
            )
        return DamagedError(
            f"{self._name} ends early or is damaged ({error}); download it again{rest}",
            is_cut=is_cut,
        )
