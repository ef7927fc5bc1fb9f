"""Total energies → formation energies: what the elements are measured against.

The reference state of an element is its ground-state crystal, relaxed with the same
calculator. These crystals are package data for the 89 elements that the common
potentials know (``tables/element_crystals.json``, made with sources by
``experiments/tables/make_element_crystals.py``); gases are crystals of their molecules.
Energies or crystals of the user come before. With EMT, which knows metals alone, the
structure is that of ASE's tables, where it is a simple one.
"""

import csv
import dataclasses
import functools
import json
import math
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence

import ase.build
import ase.data
import numpy as np

from crystaljax.crystals import bridge, elements, inputs, structure, validity
from crystaljax.relaxation import ase_relaxation, calculators, kept
from crystaljax.system import errors, isolation, numbers, text_files

_SIMPLE = ("fcc", "bcc", "hcp", "diamond", "sc")
# Tighter than for compounds: an error here shifts every formation energy.
_SETTINGS = ase_relaxation.RelaxationSettings(fmax=1e-3, max_steps=300)
# Single-precision potentials have noise of 1e-3 eV/Å in their forces. The error of the
# energy is of second order: at this force it is far below 1 meV/atom.
_GOOD_ENOUGH = 0.02  # eV/Å
# Of those that are kept: what single precision reaches, with α-Mn in reasonable time,
# and crystals of molecules, which are soft: α-S takes some 700 steps.
_KEPT_SETTINGS = ase_relaxation.RelaxationSettings(fmax=5e-3, max_steps=1000)


@dataclasses.dataclass(frozen=True, eq=False)
class References:
    """What a user gives of the elements.

    Attributes:
        energies: total energy by atomic number, eV/atom, by the calculator in use.
        crystals: candidates for the reference structure by atomic number; they are
            relaxed, and the lowest in energy counts.
    """

    energies: Mapping[int, float] = dataclasses.field(default_factory=dict)
    crystals: Mapping[int, Sequence[structure.Crystal]] = dataclasses.field(
        default_factory=dict
    )


def load_references(path: str | os.PathLike[str]) -> References:
    """Reads energies from a CSV, or structures from anything `inputs` reads.

    Args:
        path: a ``.csv`` with the columns ``element`` and ``energy`` (eV/atom, total
            energies of the calculator in use), or crystals of pure elements: a file, or
            a folder of them.

    Raises:
        FileNotFoundError: there is nothing at ``path``.
        ValueError: a column is missing, a symbol or number cannot be read, an element
            stands there twice, or a crystal has several elements.
    """
    path = pathlib.Path(path)
    if path.suffix.lower() == ".csv":
        return References(energies=_read_energies(path))
    found, problems = inputs.read_inputs(path)
    if problems:
        raise errors.UserError(f"reference {problems[0].name}: {problems[0].reason}")
    crystals: dict[int, list[structure.Crystal]] = {}
    for each in found:
        if problem := validity.find_cell_problem(each.crystal):
            raise errors.UserError(f"reference {each.path}: {problem}")
        numbers = {int(number) for number in each.crystal.atomic_numbers}
        if len(numbers) != 1:
            raise errors.UserError(
                f"reference {each.path} is "
                f"{elements.cell_formula(each.crystal.atomic_numbers)}; expected "
                "crystals of one element each"
            )
        crystals.setdefault(numbers.pop(), []).append(each.crystal)
    return References(crystals=crystals)


def element_energies(
    calculator: str,
    atomic_numbers: Iterable[int],
    given: References | None = None,
    worker_options: isolation.WorkerOptions = isolation.ALL_CPUS,
    folder: pathlib.Path | None = None,
) -> tuple[dict[int, float], dict[int, str]]:
    """Energies of the elements in their reference states, eV/atom.

    Args:
        calculator: see `calculators.build_calculator`.
        atomic_numbers: of the elements.
        given: what the user gives; it comes before the tables.
        worker_options: where they are relaxed.
        folder: where relaxed crystals of the tables are kept for pretrained potentials;
            `kept.default_folder` if None.

    Returns:
        The energies by atomic number, and for the elements without one the reason.
    """
    given = given or References()
    energies: dict[int, float] = {}
    problems: dict[int, str] = {}
    owners: list[int] = []
    crystals: list[structure.Crystal] = []
    for number in sorted(set(atomic_numbers)):
        if number in given.energies:
            energies[number] = given.energies[number]
            continue
        candidates = given.crystals.get(number, ())
        try:
            if calculator == calculators.EMT and not candidates:
                # Sooner done than a process has started.
                energies[number] = elemental_energy(calculator, number)
            candidates = candidates or reference_crystals(calculator, number)
        except ValueError as error:
            problems[number] = str(error)
        if number in energies or number in problems:
            continue
        owners += [number] * len(candidates)
        crystals += candidates
    path = kept.find_file(calculator, _KEPT_SETTINGS, folder)
    settings = _SETTINGS if path is None else _KEPT_SETTINGS

    def relax_waiting(waiting):
        numbers = list(waiting)
        for position, relaxed in ase_relaxation.relax_each(
            list(waiting.values()), calculator, settings, worker_options
        ):
            yield numbers[position], relaxed, "ase"

    for number, relaxed in zip(
        owners, kept.relax(crystals, path, relax_waiting)[0], strict=True
    ):
        if _is_relaxed(relaxed):
            energies[number] = min(relaxed.energy, energies.get(number, math.inf))
        else:
            problems[number] = _did_not_relax(number, calculator, relaxed)
    return energies, {n: why for n, why in problems.items() if n not in energies}


def reference_crystals(calculator: str, atomic_number: int) -> list[structure.Crystal]:
    """Unrelaxed crystals of an element, of which the lowest is its reference state.

    Raises:
        ValueError: the tables have none.
    """
    if calculator == calculators.EMT:
        return [reference_crystal(atomic_number)]
    found = _read_table().get(atomic_number)
    if found is None:
        raise errors.UserError(
            f"{elements.symbol(atomic_number)} has no reference crystal: the table has "
            "those of 89 elements, H to Pu without Po, At, Rn, Fr and Ra. Give its "
            "energy or its crystal with --references"
        )
    return list(found)


@functools.cache
def _read_table() -> dict[int, tuple[structure.Crystal, ...]]:
    path = pathlib.Path(__file__).parent / "tables" / "element_crystals.json"
    found: dict[int, tuple[structure.Crystal, ...]] = {}
    for row in json.loads(path.read_text(encoding="utf-8")):
        number = elements.atomic_number(row["symbol"])
        coords = np.array(row["frac_coords"], dtype=float)
        crystal = structure.Crystal(
            np.full(len(coords), number), coords, np.array(row["lattice"], dtype=float)
        )
        found[number] = (*found.get(number, ()), crystal)
    return found


def reference_crystal(atomic_number: int) -> structure.Crystal:
    """Unrelaxed reference structure of an element by ASE's tables.

    Raises:
        ValueError: it is not a simple one, or there is none.
    """
    name = ase.data.chemical_symbols[atomic_number]
    state = ase.data.reference_states[atomic_number]
    if state is None or state["symmetry"] not in _SIMPLE:
        raise errors.UserError(
            f"{name} has no reference structure that ASE can build; expected an "
            f"element that is {', '.join(_SIMPLE)}. Give its energy or its crystal "
            "with --references"
        )
    return bridge.from_ase(ase.build.bulk(name))


@functools.cache
def relax_element(calculator: str, atomic_number: int) -> ase_relaxation.Relaxation:
    """The relaxed element in its reference state, computed here and once per process.

    Raises:
        ValueError: see `reference_crystal`; the calculator does not know the element,
            or the relaxation fails.
    """
    relaxed = ase_relaxation.relax(
        reference_crystal(atomic_number), calculator, _SETTINGS
    )
    if not _is_relaxed(relaxed):
        raise errors.UserError(_did_not_relax(atomic_number, calculator, relaxed))
    return relaxed


def elemental_energy(calculator: str, atomic_number: int) -> float:
    """Energy of the relaxed element in its reference state, eV/atom.

    Raises:
        ValueError: as `relax_element`.
    """
    return relax_element(calculator, atomic_number).energy


def formation_energy(
    energies: Mapping[int, float],
    atomic_numbers: Sequence[int] | np.ndarray,
    energy: float,
) -> float:
    """Total energy (eV/atom) → formation energy (eV/atom) against the elements.

    Args:
        energies: of the elements by atomic number, eV/atom, by the same calculator.
        atomic_numbers: of all sites.
        energy: total energy, eV/atom, such as ``Relaxation.energy``.

    Raises:
        KeyError: an element has no reference energy.
    """
    return float(energy - np.mean([energies[int(n)] for n in atomic_numbers]))


def _is_relaxed(relaxed: ase_relaxation.Relaxation) -> bool:
    return not relaxed.failure and relaxed.max_force < _GOOD_ENOUGH


def _did_not_relax(
    atomic_number: int, calculator: str, relaxed: ase_relaxation.Relaxation
) -> str:
    name = ase.data.chemical_symbols[atomic_number]
    reason = relaxed.failure or f"out of steps at {relaxed.max_force:.2g} eV/Å"
    return (
        f"the reference structure of {name} did not relax with {calculator}: {reason}"
    )


def _read_energies(path: pathlib.Path) -> dict[int, float]:
    if not path.exists():
        raise FileNotFoundError(f"no references at {path}")
    energies: dict[int, float] = {}
    with text_files.open_text(path.open("rb"), newline="") as file:
        try:
            header, *rows = csv.reader(file, skipinitialspace=True, strict=True)
        except (csv.Error, ValueError) as error:
            reason = str(error) if isinstance(error, csv.Error) else "it is empty"
            raise errors.UserError(
                f"{path} is no CSV ({reason}); expected the columns element and energy"
            ) from error
    header = [name.strip() for name in header]
    if not {"element", "energy"} <= set(header):
        raise errors.UserError(
            f"{path} has the columns {header}; expected element and energy (eV/atom)"
        )
    for line, cells in enumerate(rows, start=1):
        if not cells:
            continue
        if len(cells) != len(header):
            # A comma in place of a decimal point makes two cells of one number.
            raise errors.UserError(
                f"{path}, row {line}: {len(cells)} cells {cells}; expected "
                f"{len(header)}"
            )
        row = dict(zip(header, cells, strict=True))
        symbol = row["element"].strip()
        number = elements.atomic_number(symbol)
        try:
            energy = numbers.parse_finite(row["energy"])
        except ValueError as error:
            raise errors.UserError(
                f"{path}: {symbol} has the energy {row['energy']!r}; expected a number "
                "of eV/atom"
            ) from error
        if number in energies:
            raise errors.UserError(f"{path} has {symbol} twice")
        energies[number] = energy
    return energies
