"""Files of a zip whose directory is missing, since the archive ends early.

The directory stands at the end of a zip; before each file stands a header that says
nearly the same. Of files whose header does not say how long they are, those compressed
with deflate end where their data say so.
"""

import dataclasses
import mmap
import pathlib
import struct
import zlib
from collections.abc import Iterator

_SIGNATURE = b"PK\x03\x04"
_HEADER = struct.Struct("<4s5H3I2H")
_ENCRYPTED, _SIZES_FOLLOW = 0x1, 0x8
_STORED, _DEFLATED = 0, 8
_UNKNOWN_SIZE = 2**32 - 1


@dataclasses.dataclass(frozen=True)
class CutMember:
    """A file of such an archive.

    Attributes:
        name: path within it.
        content: its bytes; None where they cannot be had.
        problem: why not; "" if they can.
    """

    name: str
    content: bytes | None
    problem: str


def read_members(path: pathlib.Path, max_bytes: int) -> Iterator[CutMember]:
    """Yields files from the beginning of the archive, as far as there are any.

    Args:
        path: the archive.
        max_bytes: larger files are not read.
    """
    if path.stat().st_size < _HEADER.size:
        return
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        position = 0 if data[:4] == _SIGNATURE else -1
        while 0 <= position <= len(data) - _HEADER.size:
            member, end = _read_member(data, position, max_bytes)
            if not member.name.endswith("/"):
                yield member
            position = data.find(_SIGNATURE, end)


def _read_member(
    data: mmap.mmap, position: int, max_bytes: int
) -> tuple[CutMember, int]:
    """The file whose header is there, and where to look for the next one."""
    _, _, flags, method, _, _, crc, size, full_size, name_length, extra_length = (
        _HEADER.unpack_from(data, position)
    )
    start = position + _HEADER.size + name_length + extra_length
    raw_name = data[position + _HEADER.size : start - extra_length]
    name = raw_name.decode("utf-8" if flags & 0x800 else "cp437", errors="replace")
    is_size_known = not flags & _SIZES_FOLLOW and size != _UNKNOWN_SIZE
    end = start + size if is_size_known else start

    def problem(text: str) -> tuple[CutMember, int]:
        return CutMember(name, None, text), min(end, len(data))

    if flags & _ENCRYPTED:
        return problem("encrypted; decrypt the archive with its password first")
    if is_size_known and end > len(data):
        return problem("the archive ends in the middle of it")
    if is_size_known and max(size, full_size) > max_bytes:
        return problem(f"larger than {max_bytes} bytes")
    if method == _STORED and is_size_known:
        content = data[start:end]
    elif method == _DEFLATED:
        decompressor = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            # A compressed file is not much larger than what it holds.
            piece = data[start : start + 2 * max_bytes]
            content = decompressor.decompress(piece, max_bytes + 1)
        except zlib.error as error:
            return problem(f"damaged ({error})")
        if len(content) > max_bytes:
            return problem(f"larger than {max_bytes} bytes")
        if not decompressor.eof:
            return problem("the archive ends in the middle of it")
        end = start + len(piece) - len(decompressor.unused_data)
        if flags & _SIZES_FOLLOW:
            crc = _find_crc(data, end)
    else:
        return problem(f"compressed in a way ({method}) that cannot be read")
    if zlib.crc32(content) != crc:
        return problem("damaged (its checksum differs)")
    return CutMember(name, content, ""), end


def _find_crc(data: mmap.mmap, end: int) -> int:
    """Checksum that stands behind a file, with or without a signature of its own."""
    start = end + 4 if data[end : end + 4] == b"PK\x07\x08" else end
    return int.from_bytes(data[start : start + 4], "little")
