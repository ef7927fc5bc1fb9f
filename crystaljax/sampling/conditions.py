"""Conditions: what is asked of each sample, parsed, combined and checked."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import flax.struct
import numpy as np
from jaxtyping import Bool, Float, Int

from crystaljax.crystals import elements, sample_tensors, structure, wyckoff
from crystaljax.crystals import space_groups as symmetry
from crystaljax.system import errors

# What to do with combinations of formula and space group that cannot exist.
INFEASIBLE = ("mark", "drop", "keep")

# Conditions are made in memory, some 100 bytes each.
_MAX_SAMPLES = 100_000_000


@flax.struct.dataclass
class KeptSites:
    """What of each sample stays as it is, in the form that the network knows.

    Attributes:
        frac_coords: float32 (samples, sites, 3); 0 where nothing is kept.
        lattice: float32 (samples, 3, 3), Å.
        is_kept: bool (samples, sites).
        keeps_lattice: bool (samples,).
    """

    frac_coords: Any
    lattice: Any
    is_kept: Any
    keeps_lattice: Any


@flax.struct.dataclass
class Conditions:
    """What is asked of each sample.

    Attributes:
        atomic_numbers: uint8 (samples, sites), 0 beyond the sites.
        num_sites: int32 (samples,).
        space_group: uint8 (samples,), 1-230.
        energy: float32 (samples,), formation energy, eV/atom; where there is a source,
            formation energy less that of the source.
        source: `sample_tensors.CellBatch` of the crystals to modify, or None.
        templates: `sample_tensors.TemplateBatch`, attached before a batch is made;
            or None.
        repetition: int32 (samples,), how many samples of the same come before; None
            where all are the first. Later ones follow other templates.
        kept: `KeptSites`, or None.
    """

    # Not annotated as arrays: pytrees hold anything while JAX transforms them.
    atomic_numbers: Any
    num_sites: Any
    space_group: Any
    energy: Any
    source: Any = None
    templates: Any = None
    repetition: Any = None
    kept: Any = None

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.num_sites)


def conditions_of(batch: sample_tensors.CrystalBatch) -> Conditions:
    """The conditions that known crystals fulfil."""
    return Conditions(
        batch.atomic_numbers,
        batch.num_sites,
        batch.space_group,
        batch.energy,
        batch.source,
    )


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
        raise errors.UserError(f"formula {formula!r} has {problem}")


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
            f"{len(unseen)} of the requested space groups were never seen in training: "
            + _list_some(unseen)
        )
    known = "formation_energy" if conditions.source is None else "energy_difference"
    low, high = vocabulary[known]
    energy = np.asarray(conditions.energy)
    outside = np.mean((energy < low) | (energy > high))
    if outside > 0:
        notes.append(
            f"{outside:.0%} of the requested energies lie outside the training range, "
            f"{low:.3f} to {high:.3f} eV/atom"
        )
    largest = int(np.max(conditions.num_sites))
    if largest > vocabulary["max_sites"]:
        notes.append(
            f"cells of up to {largest} sites are requested; the largest in training "
            f"has {vocabulary['max_sites']}"
        )
    return notes


@dataclasses.dataclass(frozen=True, eq=False)
class Feasibility:
    """Which combinations of formula and space group can exist, and which are wanted.

    Attributes:
        feasible: whether the sites fill Wyckoff positions of the group; None: not
            looked at.
        wanted: which combinations to sample.
        notes: for the user.
    """

    feasible: Bool[np.ndarray, "formulas groups"] | None
    wanted: Bool[np.ndarray, "formulas groups"]
    notes: list[str]

    def columns(self, num_energies: int, num_samples: int) -> dict[str, np.ndarray]:
        """``feasible`` of each sample, in the order of `combination_indices`."""
        if self.feasible is None:
            return {}
        each = self.feasible[self.wanted]
        return {"feasible": np.repeat(each, num_energies * num_samples)}


def judge_feasibility(
    formulas: Sequence[str], space_groups: Sequence[int], infeasible: str
) -> Feasibility:
    """Finds combinations that cannot exist; see `crystaljax.crystals.wyckoff`.

    Args:
        formulas: of cells.
        space_groups: 1-230.
        infeasible: "mark": they are wanted, and a note says how many there are;
            "drop": they are not; "keep": nothing is looked at.

    Raises:
        ValueError: an unknown ``infeasible``, or nothing is left.
    """
    if infeasible not in INFEASIBLE:
        raise errors.UserError(
            f"unknown --infeasible={infeasible}; expected one of {INFEASIBLE}"
        )
    everything = np.ones((len(formulas), len(space_groups)), bool)
    if infeasible == "keep" or not everything.size:
        return Feasibility(None, everything, [])
    feasible = wyckoff.find_feasible(
        [list(elements.parse_formula(formula).values()) for formula in formulas],
        space_groups,
    )
    if feasible.all():
        return Feasibility(feasible, everything, [])
    examples = _describe_infeasible(formulas, space_groups, feasible)
    if infeasible == "mark":
        note = (
            f"{examples}; they are sampled and marked as not feasible "
            "(--infeasible=drop leaves them out)"
        )
        return Feasibility(feasible, everything, [note])
    if not feasible.any():
        raise errors.UserError(
            f"nothing to sample: {examples}; expected other space groups or formula "
            "units, or --infeasible=mark to sample them all the same"
        )
    notes = [f"{examples}; they are left out"]
    lost = [formulas[i] for i in np.flatnonzero(~feasible.any(axis=1)).tolist()]
    if lost:
        notes.append(
            f"nothing is left of {len(lost)} of {len(formulas)} formulas, which have "
            f"none of the space groups: {_list_some(lost)}"
        )
    return Feasibility(feasible, feasible, notes)


def _describe_infeasible(
    formulas: Sequence[str], space_groups: Sequence[int], feasible: np.ndarray
) -> str:
    """How many combinations cannot exist, with an example and its reason."""
    impossible = np.argwhere(~feasible)
    # Examples of different formulas and groups say more than the first ones.
    spread = np.unique(np.linspace(0, len(impossible) - 1, 4).astype(int))
    examples = [(formulas[i], space_groups[j]) for i, j in impossible[spread].tolist()]
    _, group = examples[0]
    return (
        f"{len(impossible):,} of {feasible.size:,} combinations of formula and space "
        "group cannot exist, since the sites do not fill Wyckoff positions, such as "
        + ", ".join(f"{formula} in {number}" for formula, number in examples)
        + (", …" if len(impossible) > len(examples) else "")
        + f" (positions of {group}: {wyckoff.describe_positions(group)})"
    )


def _list_some(names: Sequence[object]) -> str:
    return ", ".join(map(str, names[:12])) + (", …" if len(names) > 12 else "")


def combine(
    formulas: Sequence[str],
    space_groups: Sequence[int],
    energies: Sequence[float] | Float[np.ndarray, "formulas energies"],
    num_samples: int,
    sites: int,
    *,
    wanted: Bool[np.ndarray, "formulas groups"] | None = None,
) -> Conditions:
    """All combinations (paper section 7.1), each ``num_samples`` times.

    The order is that of `combination_indices`.

    Args:
        formulas: of cells, such as "Cu3Au1".
        space_groups: 1-230.
        energies: formation energies, eV/atom: the same for all formulas, or those of
            each.
        num_samples: samples of each combination.
        sites: width to which atomic numbers are padded.
        wanted: which formulas are combined with which space groups; all if None.

    Raises:
        ValueError: nothing is requested, too much, or a formula does not fit into
            ``sites``.
    """
    values = np.asarray(energies, np.float32)
    if values.ndim == 1:
        values = np.broadcast_to(values, (len(formulas), len(values)))
    subject, group, energy = combination_indices(
        len(formulas), len(space_groups), values.shape[1], num_samples, wanted
    )
    numbers, num_sites = _pad(
        [elements.formula_atomic_numbers(formula) for formula in formulas],
        list(formulas),
        sites,
    )
    return Conditions(
        numbers[subject],
        num_sites[subject],
        np.array(space_groups, np.uint8)[group],
        values[subject, energy],
        repetition=np.arange(len(subject), dtype=np.int32) % num_samples,
    )


def combine_sources(
    sources: Sequence[tuple[str, structure.Crystal]],
    space_groups: Sequence[int],
    energy_differences: Sequence[float],
    num_samples: int,
    sites: int,
    *,
    wanted: Bool[np.ndarray, "sources groups"] | None = None,
) -> tuple[Conditions, Int[np.ndarray, " samples"]]:
    """All combinations of crystals to modify with what they shall become.

    The order is that of `combination_indices`.

    Args:
        sources: names, for messages, and crystals in the form that the model was
            trained on.
        space_groups: of the results, 1-230.
        energy_differences: formation energy of the result less that of the source,
            eV/atom.
        num_samples: samples of each combination.
        sites: width to which sites are padded.
        wanted: which sources are combined with which space groups; all if None.

    Returns:
        Conditions, and the index of each sample's source.

    Raises:
        ValueError: nothing is requested, too much, or a source does not fit into
            ``sites``.
    """
    subject, group, energy = combination_indices(
        len(sources), len(space_groups), len(energy_differences), num_samples, wanted
    )
    names, crystals = [name for name, _ in sources], [each for _, each in sources]
    numbers, num_sites = _pad(
        [crystal.atomic_numbers for crystal in crystals], names, sites
    )
    coords = np.zeros((len(crystals), sites, 3), np.float32)
    for i, crystal in enumerate(crystals):
        coords[i, : crystal.num_sites] = structure.wrap_sites(crystal.frac_coords)
    lattice = np.array([crystal.lattice for crystal in crystals], np.float32)
    cells = sample_tensors.CellBatch(coords[subject], lattice[subject])
    conditions = Conditions(
        numbers[subject],
        num_sites[subject],
        np.array(space_groups, np.uint8)[group],
        np.array(energy_differences, np.float32)[energy],
        cells,
    )
    return conditions, subject


def combination_indices(
    num_subjects: int,
    num_groups: int,
    num_energies: int,
    num_samples: int,
    wanted: Bool[np.ndarray, "subjects groups"] | None = None,
) -> tuple[
    Int[np.ndarray, " samples"],
    Int[np.ndarray, " samples"],
    Int[np.ndarray, " samples"],
]:
    """Index of the subject, the space group and the energy of every sample.

    Subjects (formulas or crystals) vary slowest, then space groups, then energies; the
    samples of a combination follow one another.

    Raises:
        ValueError: nothing is requested, or more than 100,000,000 samples.
    """
    numbers = (num_subjects, num_groups, num_energies, num_samples)
    words = (
        f"{num_subjects:,} formulas or crystals, {num_groups:,} space groups, "
        f"{num_energies:,} energies, {num_samples:,} samples of each"
    )
    if min(numbers) < 1:
        raise errors.UserError(
            f"nothing to sample: {words}; expected at least one of each"
        )
    if wanted is None:
        wanted = np.ones((num_subjects, num_groups), bool)
    total = int(wanted.sum()) * num_energies * num_samples
    if total > _MAX_SAMPLES:
        raise errors.UserError(
            f"{words} are {total:,} samples; expected at most {_MAX_SAMPLES:,}: ask "
            "for fewer, or for parts of them in several outputs"
        )
    subject, group = np.nonzero(wanted)
    each = num_energies * num_samples
    energy = np.repeat(np.arange(num_energies), num_samples)
    return (
        np.repeat(subject, each),
        np.repeat(group, each),
        np.tile(energy, len(subject)),
    )


def _pad(
    atomic_numbers: Sequence[np.ndarray], names: list[str], sites: int
) -> tuple[np.ndarray, np.ndarray]:
    """Atomic numbers, 0 beyond the sites, and numbers of sites."""
    padded = np.zeros((len(atomic_numbers), sites), np.uint8)
    num_sites = np.zeros(len(atomic_numbers), np.int32)
    for i, numbers in enumerate(atomic_numbers):
        if len(numbers) > sites:
            raise errors.UserError(
                f"{names[i]!r} has {len(numbers)} sites; expected at most {sites}"
            )
        num_sites[i] = len(numbers)
        padded[i, : len(numbers)] = numbers
    return padded, num_sites
