"""The stages of a screening; `screening` puts them together."""

import dataclasses
import pathlib
import sys
from collections.abc import Generator, Iterator, Mapping, Sequence

import numpy as np

from crystaljax.crystals import assessment, elements, structure
from crystaljax.matching import matcher, nearness, novelty
from crystaljax.relaxation import ase_relaxation, calculators, references
from crystaljax.system import errors, isolation, workers

METHODS = ("auto", "ase", "batched")

# Relaxations that end in the same minimum differ by less, eV/atom.
_SAME_ENERGY = 0.005
# Fewer are done one at a time before the programs for batches are compiled.
_MIN_CRYSTALS_FOR_BATCHES = 32
# Of a comparison; several times for each crystal.
_SECONDS_EACH = 0.02
_OPTIMIZERS_OF_BATCHES = ("LBFGS", "FIRE")


def check(
    crystals: Sequence[structure.Crystal],
    problems: Sequence[str] | None,
    min_distance_ratio: float,
    symprecs: Sequence[float],
    *,
    num_workers: int | None = None,
    description: str | None = None,
) -> assessment.Validities:
    """Checks crystals, for atoms that overlap too, and finds their space groups.

    Args:
        crystals: as they were generated.
        problems: what is known to be wrong with each; "" if nothing.
        min_distance_ratio: smallest distance over the sum of the covalent radii.
        symprecs: Å, tolerances at which space groups are looked for.
        num_workers: processes; all CPUs if None.
        description: label of a progress bar; none if None.
    """
    found = assessment.check_many(
        crystals, symprecs, num_workers=num_workers, description=description
    )
    reasons = list(found.reasons)
    for i, ratio in enumerate(found.shortest_distance_ratio.tolist()):
        if not reasons[i] and ratio < min_distance_ratio:
            reasons[i] = (
                f"two atoms are at {ratio:.2f} of the sum of their covalent radii, "
                f"under {min_distance_ratio:g}"
            )
        if problems is not None and problems[i]:
            reasons[i] = problems[i]
    return dataclasses.replace(
        found,
        reasons=tuple(reasons),
        valid=np.array([not reason for reason in reasons], dtype=bool),
    )


def find_references(
    calculator: str,
    atomic_numbers: Sequence[int],
    given: references.References | None,
    worker_options: isolation.WorkerOptions = isolation.ALL_CPUS,
    folder: pathlib.Path | None = None,
) -> tuple[dict[int, float], dict[int, str]]:
    """Energies of elements by atomic number, eV/atom, and why others have none."""
    supported = calculators.supported_elements(calculator)
    problems = {}
    for number in atomic_numbers:
        name = elements.symbol(number)
        if supported is not None and name not in supported:
            problems[number] = f"{calculator} has no parameters for {name}"
    energies, others = references.element_energies(
        calculator,
        [number for number in atomic_numbers if number not in problems],
        given,
        worker_options,
        folder,
    )
    return energies, problems | others


def compare(
    crystals: Mapping[int, structure.Crystal],
    known: Sequence[tuple[str, structure.Crystal]],
    tolerance: matcher.Tolerance,
    *,
    energy: Mapping[int, float] | None = None,
    num_workers: int | None = None,
    description: str | None = None,
) -> dict[int, tuple[int, str]]:
    """Which crystals equal an earlier one, or else a known one.

    Args:
        crystals: by number, in the order of preference.
        known: ids and crystals.
        tolerance: of what counts as equal.
        energy: by number, eV/atom: crystals whose energies differ by 5 meV/atom are not
            equal, whatever the matcher says; no such condition if None.
        num_workers: processes; all CPUs if None.
        description: label of a progress bar; none if None.

    Returns:
        By number: the number of the equal crystal or -1, and the id of the known one or
        "". A crystal that equals an earlier one is known as that is.
    """
    num_workers = workers.choose_num_workers(num_workers, len(crystals), _SECONDS_EACH)
    first = dict.fromkeys(crystals, -1)
    waiting = list(crystals)
    while waiting:
        equal = novelty.find_duplicates(
            [crystals[i] for i in waiting],
            tolerance=tolerance,
            num_workers=num_workers,
            description=description,
        )
        again = []
        for i, position in zip(waiting, equal.tolist(), strict=True):
            if position < 0:
                continue
            other = waiting[position]
            if energy is None or abs(energy[i] - energy[other]) < _SAME_ENERGY:
                first[i] = other
            else:
                # Equal to the matcher, but not in energy; it may yet equal another.
                again.append(i)
        waiting = again
    distinct = [i for i, other in first.items() if other < 0]
    ids = [""] * len(distinct)
    if known and distinct:
        ids = novelty.find_known(
            [crystals[i] for i in distinct],
            known,
            tolerance=tolerance,
            num_workers=num_workers,
            description=description and f"{description} with known",
        )
    known_as = dict(zip(distinct, ids, strict=True))
    return {
        i: (other, known_as[other if other >= 0 else i]) for i, other in first.items()
    }


def find_nearest(
    crystals: Mapping[int, structure.Crystal],
    known: Sequence[tuple[str, structure.Crystal]],
    num_crystals: int,
) -> list[tuple[str, str, float]]:
    """Id, formula and difference of the known crystal nearest to each crystal.

    Args:
        crystals: relaxed ones, by number.
        known: ids and crystals.
        num_crystals: how many numbers there are; those of no crystal get "" and NaN.
    """
    found = [("", "", float("nan"))] * num_crystals
    nearest = nearness.find_nearest(list(crystals.values()), known)
    for i, (place, _, difference) in zip(crystals, nearest, strict=True):
        if place >= 0:
            known_id, crystal = known[place]
            numbers = np.asarray(crystal.atomic_numbers, dtype=int)
            found[i] = known_id, elements.reduced_formula(numbers), difference
    return found


def choose_method(
    method: str,
    calculator: str,
    optimizer: str,
    num_crystals: int,
    cluster: str | None = None,
) -> str:
    """How to relax: "ase" or "batched".

    Args:
        method: of `METHODS`.
        calculator: see `calculators.build_calculator`.
        optimizer: of `ase_relaxation.OPTIMIZERS`.
        num_crystals: to be relaxed.
        cluster: address of a Dask scheduler, whose workers relax one at a time.

    Raises:
        ValueError: an unknown method, or one that the calculator, the optimizer or the
            cluster does not have.
        ImportError: the calculator's package is not installed.
    """
    if method not in METHODS:
        raise errors.UserError(f"unknown method {method!r}; expected one of {METHODS}")
    if method == "ase" or (method == "auto" and cluster is not None):
        return "ase"
    if cluster is not None:
        raise errors.UserError(
            "batches are relaxed on the devices of this machine, and not at "
            f"{cluster}; leave --dask out, or --relaxation=batched"
        )
    if method == "auto" and num_crystals <= _MIN_CRYSTALS_FOR_BATCHES:
        return "ase"
    # Brings JAX, which one at a time does without.
    from crystaljax.relaxation import device_potentials

    is_possible = optimizer in _OPTIMIZERS_OF_BATCHES and device_potentials.supports(
        calculator
    )
    if method == "batched" and not is_possible:
        raise errors.UserError(
            f"{calculator} with {optimizer} cannot relax crystals in batches; expected "
            f"{device_potentials.BATCHED_CALCULATORS}; and LBFGS or FIRE. Or relax one "
            "at a time, with --relaxation=ase"
        )
    return "batched" if is_possible else "ase"


def relax(
    crystals: Mapping[int, structure.Crystal],
    calculator: str,
    settings: ase_relaxation.RelaxationSettings,
    method: str,
    worker_options: isolation.WorkerOptions = isolation.ALL_CPUS,
) -> Iterator[tuple[int, ase_relaxation.Relaxation, str]]:
    """Yields (number, relaxation, method) as they are finished.

    What cannot be relaxed in batches is relaxed one at a time.

    Args:
        crystals: by number.
        calculator: see `calculators.build_calculator`.
        settings: how to relax; there is no time limit in batches, where every crystal
            has its number of steps.
        method: from `choose_method`.
        worker_options: where they are relaxed one at a time, and the label of the
            progress bar.
    """
    left = list(crystals)
    if method == "batched":
        left = yield from _relax_batched(
            crystals, calculator, settings, worker_options.description
        )
    for position, relaxed in ase_relaxation.relax_each(
        [crystals[i] for i in left], calculator, settings, worker_options
    ):
        yield left[position], relaxed, "ase"


def _relax_batched(
    crystals: Mapping[int, structure.Crystal],
    calculator: str,
    settings: ase_relaxation.RelaxationSettings,
    description: str | None,
) -> Generator[tuple[int, ase_relaxation.Relaxation, str], None, list[int]]:
    """Yields as `relax`; returns the numbers of those that could not be relaxed so."""
    from crystaljax.relaxation import batches

    numbers = list(crystals)
    left = set(numbers)
    try:
        for position, relaxed in batches.relax_each(
            list(crystals.values()), calculator, settings, description=description
        ):
            left.discard(numbers[position])
            yield numbers[position], relaxed, "batched"
    except Exception as error:
        # Memory of the device that does not suffice, most likely.
        print(
            f"note: {len(left)} crystals could not be relaxed in batches, and are "
            f"relaxed one at a time: {type(error).__name__}: {error}",
            file=sys.stderr,
        )
    return [number for number in numbers if number in left]
