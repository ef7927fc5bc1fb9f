"""Nequix potentials under XLA, by name or by file.

T. Koker et al., arXiv:2508.16067. Files with weights are those of the package nequix,
which is not imported, in the folder where it keeps them: both use the same.
"""

import hashlib
import http.client
import os
import pathlib
import urllib.request

from crystaljax.relaxation.potentials import potential
from crystaljax.relaxation.potentials.nequip import (
    batch_potential,
    nequix_files,
    network,
)
from crystaljax.system import atomic_files, errors

_REPOSITORY = "https://github.com/atomicarchitects/nequix/raw"
_MP = f"{_REPOSITORY}/7c2854de8e754b1a60274c7d9d2e014989ed632e/models"
_OMAT = f"{_REPOSITORY}/9c852a9c4cce69ae5e75bc5a2cf670be21ff8c28/models"
# Those of nequix 0.4.5, each at a commit, so that they cannot change.
URLS = {
    "nequix-mp-1": f"{_MP}/nequix-mp-1.nqx",
    "nequix-mp-1-pft": f"{_MP}/nequix-mp-1-pft.nqx",
    "nequix-mp-1-pft-no-cotrain": f"{_MP}/nequix-mp-1-pft-no-cotrain.nqx",
    "nequix-omat-1": f"{_OMAT}/nequix-omat-1.nqx",
    "nequix-oam-1": f"{_OMAT}/nequix-oam-1.nqx",
    "nequix-oam-1-pft": f"{_OMAT}/nequix-oam-1-pft.nqx",
}
_FOLDER = "~/.cache/nequix/models"
_TIMEOUT = 60  # seconds without an answer


def supports(path: str | os.PathLike[str]) -> bool:
    """Whether a file is of a kind that ``build`` takes.

    Raises:
        ValueError: it is damaged or no file of nequix.
        OSError: it cannot be read.
    """
    try:
        nequix_files.load(path)
    except network.AnotherKindError:
        return False
    return True


def build(path: str | os.PathLike[str]) -> potential.Potential:
    """The potential in a file, for batches of crystals on the device.

    Raises:
        ValueError: the file is not understood, see `nequix_files.load`.
        OSError: it cannot be read.
    """
    return batch_potential.build(nequix_files.load(path))


def find_pretrained(name: str) -> pathlib.Path:
    """Where the file of a pretrained model is; it is downloaded if it is not there yet.

    Its SHA-256 is written beside it when it is downloaded, and compared from then on.

    Args:
        name: one of ``URLS``.

    Raises:
        ValueError: there is no model of that name, it cannot be downloaded, or the file
            is not what was downloaded.
        OSError: the folder cannot be written to, or the file not be read.
    """
    if name not in URLS:
        raise errors.UserError(
            f"unknown model {name!r} of Nequix; expected one of {', '.join(URLS)}, or "
            "the path of a file with weights"
        )
    path = pathlib.Path(_FOLDER).expanduser() / f"{name}.nqx"
    sums = path.with_name(f"{path.name}.sha256")
    with errors.explain_disk_errors(path):
        if not path.exists():
            content = _download(URLS[name], path)
            path.parent.mkdir(parents=True, exist_ok=True)
            line = f"{_sha256(content)}  {path.name}\n"
            atomic_files.write_bytes(sums, line.encode())
            atomic_files.write_bytes(path, content)
        elif sums.exists():
            # Written by nequix itself, a file has no checksum beside it.
            _compare(path, sums)
    return path


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _compare(path: pathlib.Path, sums: pathlib.Path) -> None:
    expected = sums.read_text().split()[:1]
    found = _sha256(path.read_bytes())
    if expected != [found]:
        raise errors.UserError(
            f"{path} has SHA-256 {found}; expected {' '.join(expected) or 'nothing'}, "
            f"as {sums.name} beside it says it was downloaded. Remove both, and it is "
            "downloaded again"
        )


def _download(url: str, path: pathlib.Path) -> bytes:
    """Content of a file of nequix."""
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as answer:
            content = answer.read()
            size = answer.headers.get("Content-Length")
        if size is not None and len(content) != int(size):
            raise OSError(f"{len(content)} of {size} bytes came")
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise errors.UserError(
            f"{url} cannot be downloaded ({type(error).__name__}: {reason}); fetch it "
            f"where there is a network and put it there as {path}, or give the path of "
            "a file with weights, as 'nequix:PATH'"
        ) from error
    try:
        nequix_files.parse(content)
    except network.AnotherKindError:
        # A whole file, which the package itself may know what to do with.
        pass
    except errors.UserError as error:
        raise errors.UserError(
            f"what {url} sends is not used: {error}; it may be the page of a proxy. "
            f"Fetch it in another way, and put it there as {path}"
        ) from error
    return content
