"""Inputs of DFT codes: VASP by pymatgen's sets, pw.x of Quantum ESPRESSO by ASE.

Presets of VASP:

* ``paper``: section 7.1 of the paper says VASP's recommended potentials, a cutoff of
  500 eV, EDIFF 1e-5 eV and EDIFFG -0.01 eV/Å; its data set is AFLOW's, computed with
  PBE. What it leaves open is chosen here: potentials of the release PBE.54, spin
  polarisation from pymatgen's starting moments, a Gaussian smearing of 0.05 eV (right
  for metals and insulators), cell and sites relaxed, and AFLOW's own 6,000 k-points per
  reciprocal atom for relaxations (Calderon et al., Computational Materials Science 108,
  233, 2015; doi:10.1016/j.commatsci.2015.07.019).
* ``mp``: pymatgen's MPRelaxSet as it is, for results that join the Materials Project's:
  520 eV, PBE or PBE+U, potentials of its own choice.

A POTCAR is under VASP's licence: where pymatgen is not configured for a folder of them
(PMG_VASP_PSP_DIR), a ``POTCAR.spec`` names the potentials, one a line.
"""

import copy
import dataclasses
import difflib
import functools
import importlib.resources
import io
import json
import pathlib
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import ase
import numpy as np
from ase.calculators.vasp import setups
from ase.io import espresso
from ase.io.espresso_namelist import keys as espresso_keys
from pymatgen.core import SETTINGS, Structure
from pymatgen.io.vasp import sets
from pymatgen.io.vasp.inputs import Incar, Kpoints

from crystaljax.crystals import bridge, elements, structure, structure_files, validity
from crystaljax.system import errors

PRESETS = ("paper", "mp")
# Per reciprocal atom.
_PAPER_KPOINTS = 6000
_PAPER_INCAR = {
    "ALGO": "Normal",
    "EDIFF": 1e-5,  # eV
    "EDIFFG": -0.01,  # eV/Å
    "ENCUT": 500,  # eV
    "GGA": "PE",
    "IBRION": 2,
    "ISIF": 3,
    "ISMEAR": 0,
    "ISPIN": 2,
    "LASPH": True,
    "LCHARG": False,
    "LORBIT": 11,
    "LREAL": False,
    "LWAVE": False,
    "NELM": 100,
    "NSW": 200,
    "PREC": "Accurate",
    "SIGMA": 0.05,  # eV
}
# Of these the release PBE.54 has no potential of the name that is recommended.
_PAPER_POTENTIALS = {"W": "W_sv", "At": "At"}
_NO_POTENTIAL = ("Bk", "Es", "Fm", "Md", "No", "Lr")
# Moments to start from by species; what is not there has 0.6.
_MOMENTS = sets.MPRelaxSet.CONFIG["INCAR"]["MAGMOM"]
# Given per site or species by pymatgen's sets, and by ASE.
_PER_SITE = ("MAGMOM", "LDAUU", "LDAUJ", "LDAUL")
_PER_SPECIES = "starting_magnetization"

# As in the paper where pw.x has the same; Ry and bohr: 1e-5 eV, 0.01 eV/Å. Cutoffs fit
# most ultrasoft and PAW potentials; those of a table of potentials come before them.
_ESPRESSO = {
    "calculation": "vc-relax",
    "prefix": "pwscf",
    "pseudo_dir": "./pseudo",
    "outdir": "./out",
    "tprnfor": True,
    "tstress": True,
    "nstep": 200,
    "etot_conv_thr": 1e-5,
    "forc_conv_thr": 3.9e-4,
    "ecutwfc": 60.0,
    "ecutrho": 480.0,
    "occupations": "smearing",
    "smearing": "mv",
    "degauss": 0.01,
    "conv_thr": 7.3e-7,
    "ion_dynamics": "bfgs",
    "cell_dynamics": "bfgs",
}


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Input files of one calculation.

    Attributes:
        files: content by name.
        notes: what is to be known about them, such as warnings of pymatgen.
    """

    files: Mapping[str, str]
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Potential:
    """A pseudopotential of pw.x.

    Attributes:
        file: its name in ``pseudo_dir``.
        ecutwfc: recommended cutoff of the wave functions, Ry; None if unknown.
        ecutrho: recommended cutoff of the density, Ry; None if unknown.
    """

    file: str
    ecutwfc: float | None = None
    ecutrho: float | None = None


# ------------------------------------------------------------------------------ VASP


def vasp_inputs(
    crystal: structure.Crystal,
    preset: str = "paper",
    incar: Mapping[str, Any] | None = None,
) -> Inputs:
    """INCAR, KPOINTS, POSCAR, and POTCAR or POTCAR.spec for a relaxation.

    Args:
        crystal: what to relax; sites are sorted by pymatgen's order of species.
        preset: one of ``PRESETS``.
        incar: tags that replace those of the preset; None takes a tag out.

    Raises:
        ValueError: an unknown preset, a crystal that cannot be computed, or an element
            without a potential.
        OSError: pymatgen is configured for POTCARs, but one is not there.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        input_set = build_vasp_set(crystal, preset, incar)
        found = input_set.get_input_set(potcar_spec=not has_potcars())
    files = {
        name: f"{str(content).rstrip()}\n"
        for name, content in found.items()
        if content is not None
    }
    notes = [
        " ".join(str(each.message).split())
        for each in caught
        if issubclass(each.category, UserWarning)
    ]
    return Inputs(files, tuple(dict.fromkeys(notes)))


def build_vasp_set(
    crystal: structure.Crystal,
    preset: str = "paper",
    incar: Mapping[str, Any] | None = None,
) -> sets.VaspInputSet:
    """The same as pymatgen's input set, to go on with.

    Raises:
        ValueError: as `vasp_inputs`.
    """
    cell = _to_pymatgen(crystal)
    settings = dict(incar or {})
    if preset == "mp":
        potentials = sets.MPRelaxSet.CONFIG["POTCAR"]
        _require_potentials(cell, set(elements.SYMBOLS) - potentials.keys(), preset)
        return sets.MPRelaxSet(cell, user_incar_settings=settings)
    if preset != "paper":
        raise errors.UserError(f"unknown preset {preset!r}; expected one of {PRESETS}")
    _require_potentials(cell, set(_NO_POTENTIAL), preset)
    return sets.VaspInputSet(
        cell,
        config_dict=copy.deepcopy(_paper_config()),
        user_incar_settings=settings,
    )


def has_potcars() -> bool:
    """Whether pymatgen is configured for a folder of POTCARs."""
    return bool(SETTINGS.get("PMG_VASP_PSP_DIR"))


def parse_incar(tags: Sequence[str]) -> dict[str, Any]:
    """``TAG=value`` texts → tags; ``TAG=`` takes a tag out of the preset.

    Raises:
        ValueError: a text is malformed, VASP has no such tag, or the tag is one that
            has a value per site, which pymatgen's sets give.
    """
    parsed: dict[str, Any] = {}
    for text in tags:
        name, equals, value = text.partition("=")
        name = name.strip().upper()
        if not (name and equals):
            raise errors.UserError(
                f"INCAR tag {text!r}; expected one such as ENCUT=600"
            )
        if name in _PER_SITE:
            raise errors.UserError(
                f"INCAR tag {name} has a value per site or species, which differ from "
                "candidate to candidate; edit the INCARs, or use build_vasp_set"
            )
        if name not in _incar_tags():
            close = difflib.get_close_matches(name, _incar_tags(), n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise errors.UserError(
                f"VASP has no INCAR tag {name}, as pymatgen knows{hint}"
            )
        parsed[name] = Incar.proc_val(name, value.strip()) if value.strip() else None
    return parsed


@functools.cache
def _incar_tags() -> tuple[str, ...]:
    """Those that pymatgen knows: Incar has them in its latest releases only."""
    folder = importlib.resources.files("pymatgen.io.vasp")
    text = (folder / "incar_parameters.json").read_text(encoding="utf-8")
    return tuple(json.loads(text))


@functools.cache
def _paper_config() -> dict[str, Any]:
    recommended = setups.setups_defaults["recommended"]
    potentials = {
        symbol: symbol + recommended.get(symbol, "") for symbol in elements.SYMBOLS
    }
    return {
        "INCAR": _PAPER_INCAR | {"MAGMOM": _MOMENTS},
        "KPOINTS": {"grid_density": _PAPER_KPOINTS},
        "POTCAR": potentials | _PAPER_POTENTIALS,
        "POTCAR_FUNCTIONAL": "PBE_54",
    }


def _require_potentials(cell: Structure, missing: set[str], preset: str) -> None:
    without = sorted(missing & {element.symbol for element in cell.elements})
    if without:
        raise errors.UserError(
            f"the preset {preset!r} has no potential for {', '.join(without)}"
        )


def _to_pymatgen(crystal: structure.Crystal) -> Structure:
    """The crystal, right-handed and in its cell, if DFT can be started from it.

    Raises:
        ValueError: it cannot.
    """
    checked = validity.check(crystal)
    if not checked.valid:
        raise errors.UserError(checked.reason)
    crystal = structure_files.right_handed(crystal)
    wrapped = crystal.frac_coords - np.floor(crystal.frac_coords)
    return bridge.to_pymatgen(dataclasses.replace(crystal, frac_coords=wrapped))


# -------------------------------------------------------------------------- espresso


def espresso_inputs(
    crystal: structure.Crystal,
    potentials: Mapping[str, Potential],
    parameters: Mapping[str, Any] | None = None,
) -> Inputs:
    """``pw.in`` for a relaxation of cell and sites with pw.x.

    Args:
        crystal: what to relax.
        potentials: by symbol. The largest cutoffs that they recommend are used.
        parameters: entries of pw.x's namelists, in its units (Ry, bohr), that replace
            the defaults; ``nspin=2`` brings the moments of pymatgen's sets with it.

    Raises:
        ValueError: a crystal that cannot be computed, an element without a potential,
            or an entry that pw.x does not have.
    """
    cell = _to_pymatgen(crystal)
    symbols = [site.specie.symbol for site in cell]
    missing = sorted(set(symbols) - potentials.keys())
    if missing:
        raise errors.UserError(f"no pseudopotential is given for {', '.join(missing)}")
    chosen = {symbol: potentials[symbol] for symbol in sorted(set(symbols))}
    data = dict(_ESPRESSO)
    for name in ("ecutwfc", "ecutrho"):
        cutoffs = [getattr(each, name) for each in chosen.values()]
        if all(cutoff is not None for cutoff in cutoffs):
            data[name] = max(cutoffs)
    data |= parameters or {}
    atoms = ase.Atoms(
        symbols, scaled_positions=cell.frac_coords, cell=cell.lattice.matrix, pbc=True
    )
    if data.get("nspin") == 2:
        atoms.set_initial_magnetic_moments([_MOMENTS.get(s, 0.6) for s in symbols])
    text = io.StringIO()
    mesh = Kpoints.automatic_density(cell, _PAPER_KPOINTS, force_gamma=True).kpts[0]
    espresso.write_espresso_in(
        text,
        atoms,
        input_data=data,
        pseudopotentials={symbol: each.file for symbol, each in chosen.items()},
        kpts=tuple(int(count) for count in mesh),
        crystal_coordinates=True,
    )
    # ASE writes all namelists there are; pw.x reads these two on request only.
    lines = text.getvalue().replace("&FCP\n/\n", "").replace("&RISM\n/\n", "")
    return Inputs({"pw.in": f"{lines.rstrip()}\n"})


def parse_espresso(entries: Sequence[str]) -> dict[str, Any]:
    """``name=value`` texts → entries of pw.x's namelists.

    Raises:
        ValueError: a text is malformed, or pw.x has no such entry.
    """
    known = {name for names in espresso_keys.pw_keys.values() for name in names}
    parsed: dict[str, Any] = {}
    for text in entries:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not (name and equals and value):
            raise errors.UserError(
                f"pw.x entry {text!r}; expected one such as ecutwfc=80"
            )
        plain = re.sub(r"\(.*\)$", "", name)
        if plain == _PER_SPECIES:
            raise errors.UserError(
                f"pw.x entry {name} has a value per species, which differ from "
                "candidate to candidate; nspin=2 sets moments to start from"
            )
        if plain not in known:
            close = difflib.get_close_matches(plain, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise errors.UserError(f"pw.x has no entry {name!r}{hint}")
        parsed[name] = _parse_value(value)
    return parsed


def _parse_value(text: str) -> Any:
    words = {".true.": True, "true": True, ".false.": False, "false": False}
    if text.lower() in words:
        return words[text.lower()]
    for parse in (int, float):
        try:
            # Fortran writes 1d-8.
            return parse(text.lower().replace("d", "e") if parse is float else text)
        except ValueError:
            continue
    return text.strip("'\"")


def load_potentials(text: str) -> dict[str, Potential]:
    """A pattern or a table → pseudopotentials by symbol.

    Args:
        text: a file name with ``{element}`` in place of the symbol, such as
            ``{element}.upf``; or a JSON file that maps symbols to file names, or to
            mappings with ``filename``, ``cutoff_wfc`` and ``cutoff_rho`` (Ry), as the
            SSSP library has it.

    Raises:
        FileNotFoundError: there is no such JSON file.
        ValueError: a pattern without ``{element}``, or a table that cannot be read.
    """
    if not text.endswith(".json"):
        if "{element}" not in text:
            raise errors.UserError(
                f"pseudopotentials {text!r}; expected a pattern such as "
                "'{element}.upf', or a JSON file that maps symbols to file names"
            )
        return {
            symbol: Potential(text.replace("{element}", symbol))
            for symbol in elements.SYMBOLS
        }
    path = pathlib.Path(text)
    if not path.is_file():
        raise FileNotFoundError(f"no table of pseudopotentials at {path}")
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        return {symbol: _parse_potential(each) for symbol, each in table.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise errors.UserError(
            f"{path} is no table of pseudopotentials ({error!r}); expected JSON such "
            'as {"Cu": "Cu.upf"} or that of the SSSP library'
        ) from error


def _parse_potential(value: Any) -> Potential:
    if isinstance(value, str):
        return Potential(value)
    cutoffs = [value.get("cutoff_wfc"), value.get("cutoff_rho")]
    wfc, rho = (None if each is None else float(each) for each in cutoffs)
    return Potential(value["filename"], wfc, rho)
