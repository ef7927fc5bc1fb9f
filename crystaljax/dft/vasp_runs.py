"""Finished, partial and broken runs of VASP, read from their ``vasprun.xml``.

What pymatgen reads of a run is taken; what it cannot read costs that run alone, and the
run says why. The energy is the one extrapolated to zero smearing (``e_0_energy``), as
AFLOW and the Materials Project take it.
"""

import bz2
import contextlib
import dataclasses
import lzma
import math
import os
import pathlib
import re
import tempfile
import warnings
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from pymatgen.io.vasp.outputs import Vasprun

from crystaljax.crystals import bridge, stated_formulas, structure
from crystaljax.dft import convergence
from crystaljax.system import errors

# Written by VASP; kept by custodian as vasprun.xml.relax1.gz, …relax2.gz.
_VASPRUN = re.compile(r"vasprun\.xml(\.relax(\d+))?(\.gz|\.bz2|\.xz)?")
# These give what there is of a stream that ends early.
_DECOMPRESSORS: dict[str, Any] = {
    ".gz": lambda: zlib.decompressobj(zlib.MAX_WBITS | 16),
    ".bz2": bz2.BZ2Decompressor,
    ".xz": lzma.LZMADecompressor,
}
# What says that a folder is to be computed, or was.
_INPUT_NAME = "INCAR"
_PARSED = {
    "parse_dos": False,
    "parse_eigen": False,
    "parse_projected_eigen": False,
    "parse_potcar_file": False,
}


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """What became of one run.

    Attributes:
        folder: where it is, relative to what was searched.
        crystal: after the last complete ionic step; `structure.NO_CRYSTAL` if there is
            none.
        energy: of ``crystal``, eV/atom; NaN if there is none.
        max_force: largest force on a site, eV/Å, without what selective dynamics
            holds; NaN if there is none.
        num_steps: complete ionic steps.
        converged: whether the run is a relaxation, its last step converged
            electronically and meets EDIFFG, and the file is whole; see `convergence`.
        energy_model: such as "VASP PBE" or "VASP PBE+U (Fe 5.3 eV)"; "" if unknown.
        cutoff: ENCUT, eV; NaN if unknown.
        potentials: TITEL of the POTCAR by symbol, such as "PAW_PBE Ta_pv 07Sep2000".
        hubbards: U in eV by symbol, those above zero.
        is_spin_polarized: ISPIN = 2; None if unknown.
        has_aspherical_terms: LASPH; None if unknown.
        num_kpoints: of the full grid; None if unknown.
        problem: why the run is of no use, or not yet; "" if it converged.
    """

    folder: str
    crystal: structure.Crystal = structure.NO_CRYSTAL
    energy: float = np.nan
    max_force: float = np.nan
    num_steps: int = 0
    converged: bool = False
    energy_model: str = ""
    cutoff: float = np.nan
    potentials: Mapping[str, str] = dataclasses.field(default_factory=dict)
    hubbards: Mapping[str, float] = dataclasses.field(default_factory=dict)
    is_spin_polarized: bool | None = None
    has_aspherical_terms: bool | None = None
    num_kpoints: int | None = None
    problem: str = ""


class _ComparedVasprun(Vasprun):
    """Reads only structures that are what the file says of them."""

    def _parse_structure(self, elem: Any) -> Any:
        parsed = super()._parse_structure(elem)
        said = elem.find("crystal/i[@name='volume']")
        if said is not None:
            crystal = bridge.from_pymatgen(parsed)
            stated_formulas.require_volume(said.text, crystal)
        return parsed

    @staticmethod
    def _parse_atominfo(elem: Any) -> Any:
        num_atoms = elem.findtext("atoms")
        types = [
            (cells[1].strip(), int(cells[0]))
            for row in elem.findall("array[@name='atomtypes']/set/rc")
            if len(cells := [each.text or "" for each in row.findall("c")]) > 1
        ]
        # Empties the element.
        symbols, titles = Vasprun._parse_atominfo(elem)
        if num_atoms is not None and int(num_atoms) != len(symbols):
            raise errors.UserError(
                f"it lists {len(symbols)} atoms, and says that there are {num_atoms}"
            )
        # VASP cuts symbols off: Xe is X, and Zr is r.
        said = [name for name, number in types for _ in range(min(number, 10**6))]
        if types and (
            len(said) != len(symbols)
            or not all(
                one.endswith(other) or one.startswith(other)
                for one, other in zip(symbols, said, strict=True)
            )
        ):
            raise errors.UserError(
                f"it lists the atoms {''.join(symbols)[:80]}, and the types {types}"
            )
        return symbols, titles


def find_runs(root: pathlib.Path) -> list[tuple[str, pathlib.Path | None]]:
    """Folders of runs below ``root``, and the file of each; None where there is none.

    Where a folder has several, ``vasprun.xml`` counts, or else the last of a series of
    relaxations. A folder with an INCAR and no result, neither in it nor below it, is a
    run that did not start.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root}; expected one with runs of VASP")
    found: dict[pathlib.Path, pathlib.Path | None] = {}
    for place, folders, names in os.walk(root):
        # In one order on all systems.
        folders.sort()
        matches = [match for match in map(_VASPRUN.fullmatch, names) if match]
        folder = pathlib.Path(place)
        if matches:
            last = max(matches, key=lambda m: (not m[1], int(m[2] or 0), not m[3]))
            found[folder] = folder / last[0]
        elif _INPUT_NAME in names:
            found[folder] = None
    computed = {
        above for folder, path in found.items() if path for above in folder.parents
    }
    return [
        (folder.relative_to(root).as_posix(), path)
        for folder, path in sorted(found.items())
        if path is not None or folder not in computed
    ]


def read_run(place: tuple[str, pathlib.Path | None]) -> Run:
    """Reads a run of `find_runs`. Never raises for what a file may hold."""
    folder, path = place
    if path is None:
        return Run(folder, problem="no vasprun.xml: it did not run")
    if path.stat().st_size == 0:
        return Run(folder, problem=f"{path.name} is empty")
    try:
        vasprun, cut_off = _parse(path)
        return _to_run(folder, vasprun, cut_off)
    # pymatgen raises many kinds of errors for malformed files.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        return Run(folder, problem=f"{path.name} cannot be read: {reason}")


def _parse(path: pathlib.Path) -> tuple[Vasprun, str]:
    """The run, and where the file ends early, why."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return _ComparedVasprun(path, **_PARSED), ""
        except errors.UserError:
            # It contradicts itself.
            raise
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
        try:
            with _readable_part(path) as part:
                return _ComparedVasprun(
                    part, exception_on_bad_xml=False, **_PARSED
                ), reason
        except Exception as error:
            # What pymatgen says then is about attributes that it did not get to.
            raise errors.UserError(
                f"it ends early or is damaged before its first ionic step is complete "
                f"({reason})"
            ) from error


@contextlib.contextmanager
def _readable_part(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A plain file with what can be read of one that is compressed and cut off."""
    if path.suffix not in _DECOMPRESSORS:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        part = pathlib.Path(folder) / "vasprun.xml"
        part.write_bytes(_DECOMPRESSORS[path.suffix]().decompress(path.read_bytes()))
        yield part


def _to_run(folder: str, vasprun: Any, cut_off: str) -> Run:
    run = Run(
        folder,
        num_steps=len(vasprun.ionic_steps),
        energy_model=_energy_model(vasprun),
        cutoff=float(vasprun.parameters.get("ENMAX", np.nan)),
        potentials=_potentials(vasprun),
        hubbards=_hubbards(vasprun),
        is_spin_polarized=_is_spin_polarized(vasprun),
        has_aspherical_terms=_has_aspherical_terms(vasprun),
        num_kpoints=_num_kpoints(vasprun),
    )
    if not vasprun.ionic_steps:
        return dataclasses.replace(run, problem="no ionic step, and so no energy")
    last = vasprun.ionic_steps[-1]
    crystal = structure.wrapped(
        bridge.from_pymatgen(last["structure"] or vasprun.final_structure)
    )
    energy = float(vasprun.final_energy) / crystal.num_sites
    run = dataclasses.replace(
        run,
        crystal=crystal,
        energy=energy if np.isfinite(energy) else np.nan,
        max_force=convergence.find_max_force(vasprun, last),
    )
    problems = []
    if cut_off:
        problems.append(f"the file ends early, after {run.num_steps} steps: {cut_off}")
    if not np.isfinite(energy):
        problems.append("the energy is not finite")
    problems += convergence.find_problems(vasprun)
    return dataclasses.replace(run, converged=not problems, problem="; ".join(problems))


def _energy_model(vasprun: Any) -> str:
    """Functional, and U where there is one: energies of two U do not mix either."""
    name = vasprun.run_type
    # VASP writes "--" where the POTCARs decide.
    if name.startswith("GGA"):
        kinds = {title.split()[0] for title in vasprun.potcar_symbols}
        functional = {"PAW_PBE": "PBE", "PAW_GGA": "PW91", "PAW": "LDA"}
        if len(kinds) == 1:
            name = functional.get(kinds.pop(), "GGA") + name.removeprefix("GGA")
    values = _hubbards(vasprun)
    if values:
        listed = ", ".join(f"{symbol} {u:g} eV" for symbol, u in sorted(values.items()))
        name += f" ({listed})"
    return f"VASP {name}"


def _hubbards(vasprun: Any) -> dict[str, float]:
    return {symbol: float(u) for symbol, u in vasprun.hubbards.items() if u}


def _is_spin_polarized(vasprun: Any) -> bool | None:
    value = vasprun.parameters.get("ISPIN")
    return None if value is None else value == 2


def _has_aspherical_terms(vasprun: Any) -> bool | None:
    value = vasprun.parameters.get("LASPH", vasprun.incar.get("LASPH"))
    return None if value is None else bool(value)


def _num_kpoints(vasprun: Any) -> int | None:
    """Points of the full grid, before symmetry takes most of them away."""
    grids = getattr(vasprun.kpoints, "kpts", None) or []
    is_grid = vasprun.kpoints.style.name in ("Gamma", "Monkhorst")
    if not is_grid or len(grids) != 1 or len(grids[0]) != 3:
        return None
    return math.prod(round(n) for n in grids[0])


def _potentials(vasprun: Any) -> dict[str, str]:
    found = {}
    for title in vasprun.potcar_symbols:
        words = title.split()
        if len(words) > 1:
            found[re.split(r"[_.]", words[1])[0]] = title
    return found
