"""Conditions: what is asked of each sample, parsed, combined and checked."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.struct
import numpy as np
from jaxtyping import Int

from crystaljax import elements, structure, symmetry

# More energies than anybody means to ask for; 0:1:1e-9 is a slip.
_MAX_ENERGIES = 100_000


@flax.struct.dataclass
class Conditions:
    """What is asked of each sample.

    Attributes:
        atomic_numbers: uint8 (samples, sites), 0 beyond the sites.
        num_sites: int32 (samples,).
        space_group: uint8 (samples,), 1-230.
        energy: float32 (samples,), formation energy, eV/atom; where there is a source,
            formation energy less that of the source.
        source: `structure.CellBatch` of the crystals to modify, or None.
    """

    # Not annotated as arrays: pytrees hold anything while JAX transforms them.
    atomic_numbers: Any
    num_sites: Any
    space_group: Any
    energy: Any
    source: Any = None

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.num_sites)


def conditions_of(batch: structure.CrystalBatch) -> Conditions:
    """The conditions that known crystals fulfil."""
    return Conditions(
        batch.atomic_numbers,
        batch.num_sites,
        batch.space_group,
        batch.energy,
        batch.source,
    )


def parse_energies(text: str) -> list[float]:
    """Formation energies (eV/atom): values and ranges, separated by commas.

    A range is ``start:stop:step`` with both ends included, so ``-0.1:0.1:0.1`` is
    three energies.

    Raises:
        ValueError: not a number, not finite, or a step that does not lead to the end.
    """
    energies: list[float] = []
    for part in text.split(","):
        try:
            values = [float(number) for number in part.split(":")]
        except ValueError:
            values = []
        if len(values) not in (1, 3) or not all(map(math.isfinite, values)):
            raise ValueError(
                f"energies: {part!r} in {text!r} is neither a number nor a range; "
                "expected eV/atom such as -0.05 or start:stop:step such as "
                "-0.05:0.05:0.01"
            )
        if len(values) == 1:
            energies.append(values[0])
            continue
        start, stop, step = values
        if step == 0 or (stop - start) / step < 0:
            raise ValueError(
                f"energies: the step {step:g} of {part!r} does not lead from {start:g} "
                f"to {stop:g}; expected a step of the right sign, not 0"
            )
        # Half a thousandth of a step absorbs rounding: 0.1 / 0.01 is below 10.
        count = math.floor((stop - start) / step + 5e-4) + 1
        if count > _MAX_ENERGIES:
            raise ValueError(
                f"energies: {part!r} is {count} energies; expected at most "
                f"{_MAX_ENERGIES}"
            )
        energies += [round(start + i * step, 10) for i in range(count)]
    return energies


def parse_space_groups(text: str, vocabulary: dict[str, Any]) -> list[int]:
    """Space groups: "all" (1-230), "seen" (in training), or numbers and symbols.

    Raises:
        ValueError: a number outside 1-230 or an unknown symbol.
    """
    if text.strip() == "seen":
        return list(vocabulary["space_groups"])
    return symmetry.parse_space_groups(text)


def check_formula(formula: str, vocabulary: dict[str, Any], max_sites: int) -> None:
    """Raises ValueError if a model cannot make a formula.

    Args:
        formula: of the cell, such as "Cu3Au1".
        vocabulary: of the training structures.
        max_sites: sites that the model's rows hold.
    """
    problem = find_formula_problem(
        elements.parse_formula(formula), vocabulary, max_sites
    )
    if problem:
        raise ValueError(f"formula {formula!r} has {problem}")


def find_formula_problem(
    counts: Mapping[str, int], vocabulary: dict[str, Any], max_sites: int
) -> str:
    """Why a model cannot make a cell with this composition, or "" if it can."""
    unseen = sorted(set(counts) - set(vocabulary["elements"]))
    if unseen:
        return (
            f"{', '.join(unseen)}, which the training structures never had; expected "
            f"elements among {', '.join(vocabulary['elements'])}"
        )
    num_sites = sum(counts.values())
    if num_sites > max_sites:
        return (
            f"{num_sites} sites, but the model holds at most {max_sites}; use fewer "
            "formula units, or a model with more data.rows"
        )
    return ""


def outside_training(conditions: Conditions, vocabulary: dict[str, Any]) -> list[str]:
    """Notes on conditions that lie outside what the model saw in training."""
    notes = []
    unseen = sorted(
        set(np.unique(conditions.space_group).tolist())
        - set(vocabulary["space_groups"])
    )
    if unseen:
        notes.append(
            f"{len(unseen)} of the space groups asked for were never seen in training: "
            + ", ".join(map(str, unseen[:12]))
            + (", …" if len(unseen) > 12 else "")
        )
    known = "formation_energy" if conditions.source is None else "energy_difference"
    low, high = vocabulary[known]
    energy = np.asarray(conditions.energy)
    outside = np.mean((energy < low) | (energy > high))
    if outside > 0:
        notes.append(
            f"{outside:.0%} of the energies asked for lie outside the training range, "
            f"{low:.3f} to {high:.3f} eV/atom"
        )
    largest = int(np.max(conditions.num_sites))
    if largest > vocabulary["max_sites"]:
        notes.append(
            f"cells of up to {largest} sites are asked for; the largest in training "
            f"has {vocabulary['max_sites']}"
        )
    return notes


def combine(
    formulas: Sequence[str],
    space_groups: Sequence[int],
    energies: Sequence[float],
    num_samples: int,
    sites: int,
) -> Conditions:
    """All combinations (paper section 7.1), each ``num_samples`` times.

    Args:
        formulas: of cells, such as "Cu3Au1".
        space_groups: 1-230.
        energies: formation energies, eV/atom.
        num_samples: samples of each combination.
        sites: width to which atomic numbers are padded.

    Raises:
        ValueError: nothing is asked for, or a formula does not fit into ``sites``.
    """
    subject, groups, values = _product(
        "formulas", len(formulas), space_groups, energies, num_samples
    )
    numbers, num_sites = _pad(
        [elements.formula_atomic_numbers(formula) for formula in formulas],
        list(formulas),
        sites,
    )
    return Conditions(numbers[subject], num_sites[subject], groups, values)


def combine_sources(
    sources: Sequence[structure.Crystal],
    names: Sequence[str],
    space_groups: Sequence[int],
    energy_differences: Sequence[float],
    num_samples: int,
    sites: int,
) -> tuple[Conditions, Int[np.ndarray, " samples"]]:
    """All combinations of crystals to modify with what they shall become.

    Args:
        sources: crystals, in the form that the model was trained on.
        names: of the sources, for messages.
        space_groups: of the results, 1-230.
        energy_differences: formation energy of the result less that of the source,
            eV/atom.
        num_samples: samples of each combination.
        sites: width to which sites are padded.

    Returns:
        Conditions, and the index of each sample's source.

    Raises:
        ValueError: nothing is asked for, or a source does not fit into ``sites``.
    """
    subject, groups, values = _product(
        "crystals", len(sources), space_groups, energy_differences, num_samples
    )
    numbers, num_sites = _pad(
        [source.atomic_numbers for source in sources], list(names), sites
    )
    coords = np.zeros((len(sources), sites, 3), np.float32)
    for i, source in enumerate(sources):
        coords[i, : source.num_sites] = source.frac_coords
    lattice = np.array([source.lattice for source in sources], np.float32)
    cells = structure.CellBatch(coords[subject], lattice[subject])
    conditions = Conditions(numbers[subject], num_sites[subject], groups, values, cells)
    return conditions, subject


def _product(
    subjects: str,
    num_subjects: int,
    space_groups: Sequence[int],
    energies: Sequence[float],
    num_samples: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Subject, space group and energy of every sample; energies vary fastest."""
    if not (num_subjects and space_groups and energies) or num_samples < 1:
        raise ValueError(
            f"nothing to sample: {num_subjects} {subjects}, {len(space_groups)} space "
            f"groups, {len(energies)} energies, {num_samples} samples of each; "
            "expected at least one of each"
        )
    columns = np.meshgrid(
        np.arange(num_subjects),
        np.array(space_groups, np.uint8),
        np.array(energies, np.float32),
        indexing="ij",
    )
    subject, groups, values = (
        np.repeat(column.ravel(), num_samples) for column in columns
    )
    return subject, groups, values


def _pad(
    atomic_numbers: Sequence[np.ndarray], names: list[str], sites: int
) -> tuple[np.ndarray, np.ndarray]:
    """Atomic numbers, 0 beyond the sites, and numbers of sites."""
    padded = np.zeros((len(atomic_numbers), sites), np.uint8)
    num_sites = np.zeros(len(atomic_numbers), np.int32)
    for i, numbers in enumerate(atomic_numbers):
        if len(numbers) > sites:
            raise ValueError(
                f"{names[i]!r} has {len(numbers)} sites; expected at most {sites}"
            )
        num_sites[i] = len(numbers)
        padded[i, : len(numbers)] = numbers
    return padded, num_sites
