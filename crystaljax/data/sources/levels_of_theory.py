"""What rows of data say of how their energies were computed: functional, potentials, ….

Energies of two functionals differ by eV/atom, and formation energies of them by more
than a hull is deep: neither a hull nor a data set is made of both.
"""

import re
from collections.abc import Mapping
from typing import Any

# Keys, and columns of tables, under which a row names its run type.
RUN_TYPE = "run_type"
# They begin with the run type: "r2SCAN Structure Optimization".
TASK_TYPES = ("task_type", "calc_type", "calculation_type")
# Other keys that say how an energy was computed.
WORDS = (
    *("functional", "xc", "xc_functional", "xc_treatment", "dft_functional"),
    *("exchange_correlation", "level_of_theory", "dft_type", "thermo_type"),
    *("potcar_functional", "calculator"),
)
KEYS = (RUN_TYPE, *TASK_TYPES, *WORDS)
# The same under two names.
_SYNONYMS = {"PBE": "GGA", "GGA_PBE": "GGA", "HSE": "HSE06"}
_FUNCTIONALS = frozenset(
    (
        *("AM05", "B3LYP", "GGA", "HF", "HSE03", "HSE06", "HSESOL", "LDA", "METAGGA"),
        *("MBJL", "MS0", "MS1", "MS2", "OPTB86B", "OPTB88", "OPTPBE", "PBE0", "PBESOL"),
        *("PW91", "R2SCAN", "RPBE", "RSCAN", "RTPSS", "RVV10", "SCAN", "TPSS"),
        *("VDW-DF", "VDW-DF2"),
    )
)
# What follows the run type in the names of the Materials Project's tasks.
_TASK = re.compile(
    r"\s*\b(NSCF Line|NSCF Uniform|DFPT Dielectric|Dielectric|DFPT|Static|Deformation|"
    r"Structure Optimization|NMR \w[\w ]*|Optic|Molecular Dynamics|Unrecognized)\s*$",
    re.IGNORECASE,
)
# First words of the titles of potentials.
_POTENTIALS = {"PAW_PBE": "PBE", "PAW_GGA": "PW91", "PAW": "LDA"}
# Tags of VASP, with what they are where they are not set.
_INCAR = {"METAGGA": "none", "GGA": "of the potentials", "LHFCALC": "False"}
_TRUE = ("T", ".TRUE.", "TRUE")
_NOT_SET = ("", "--", "NONE", "PE", "F", ".FALSE.", "FALSE")


def normalize(name: str) -> str:
    """One spelling of a functional or run type: in capitals, of its two names one."""
    name, plus, u = name.strip().upper().partition("+U")
    return _SYNONYMS.get(name, name) + plus + u


def read_run_types(*places: Mapping[str, Any]) -> list[str]:
    """The run types that a row names, normalized, each once.

    Tasks name the functional alone where the run type is there, since not all of them
    say +U.
    """
    found = dict.fromkeys(
        normalize(str(place[RUN_TYPE])) for place in places if place.get(RUN_TYPE)
    )
    without_u = {each.partition("+U")[0] for each in found}
    for place in places:
        for key in TASK_TYPES:
            run_type = _run_type_of_task(place.get(key))
            if run_type and run_type.partition("+U")[0] not in without_u:
                found[run_type] = None
    return list(found)


def _run_type_of_task(task: object) -> str:
    """``r2SCAN Structure Optimization`` → R2SCAN; "" if it begins with no run type."""
    if not isinstance(task, str) or not task.strip():
        return ""
    first = normalize(task.split()[0])
    if first.partition("+U")[0] in _FUNCTIONALS:
        return first
    before, number = _TASK.subn("", task)
    return normalize(before) if number else ""


def read_words(*places: Mapping[str, Any]) -> dict[str, str]:
    """What else a row says of it, by key: the first of the places that says it."""
    words: dict[str, str] = {}
    for key in WORDS:
        found = [place[key] for place in places if place.get(key)]
        if found:
            words[key] = str(found[0])
    titles = []
    for place in places:
        for key in ("potcar_spec", "potcar_symbols"):
            specs = place.get(key)
            for spec in specs if isinstance(specs, list) else ():
                title = str(_mapping(spec).get("titel", spec))
                # "PAW_PBE Cu 05Jan2001"; a symbol alone says nothing.
                titles += title.split()[:1] if " " in title.strip() else []
        functional = _mapping(place.get("pseudo_potential")).get("functional")
        titles += [str(functional)] if functional else []
        words |= _read_incar(_mapping(place.get("incar")))
    if titles:
        kinds = {_POTENTIALS.get(each.upper()) or each.upper() for each in titles}
        words["potentials"] = " and ".join(sorted(kinds))
    return words


def _read_incar(incar: Mapping[str, Any]) -> dict[str, str]:
    """Tags of an INCAR that choose the functional; nothing where there is none."""
    if not incar:
        return {}
    said = {name: str(incar.get(name, "")).strip() for name in _INCAR}
    if said["LHFCALC"].upper() in _TRUE:
        said["LHFCALC"] = "True"
    return {
        f"incar {name}": default if said[name].upper() in _NOT_SET else said[name]
        for name, default in _INCAR.items()
    }


def read(*places: Mapping[str, Any]) -> dict[str, str]:
    """All that a row says of how its energy was computed, by key; U is left out."""
    functionals = {each.partition("+U")[0]: None for each in read_run_types(*places)}
    said = {RUN_TYPE: " and ".join(functionals)} if functionals else {}
    return said | read_words(*places)


def find_columns(header: list[str]) -> list[str]:
    """Columns of a table that say how energies were computed."""
    return [name for name in KEYS if name in header]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
