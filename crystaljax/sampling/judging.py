"""Which of several draws fits a request best, by energies.

A generator draws from what is likely; a potential says what each draw is worth. All
draws of a request are relaxed in batches, within their space groups, and the relaxed
crystal is handed over whose formation energy is nearest to the one asked for, or the
lowest. The model's own estimator is the judge that costs next to nothing: it relaxes
nothing, and since its errors are larger, how probable the model found a draw counts
too.
"""

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any

import ase.data
import jax
import numpy as np
from jaxtyping import Integer

from crystaljax.crystals import elements, structure
from crystaljax.relaxation import (
    ase_relaxation,
    batches,
    calculators,
    device_potentials,
    kept,
    pretrained,
    references,
)
from crystaljax.sampling import draw_choice
from crystaljax.sampling import samples as samples_lib
from crystaljax.system import errors

DEFAULT_DRAWS = 4
# The judge that is the model's own estimator of energies.
ESTIMATOR = "estimator"
SETTINGS = dataclasses.replace(
    ase_relaxation.PRESETS["default"], max_steps=200, keep_symmetry=True
)


@dataclasses.dataclass(frozen=True)
class Judge:
    """What chooses among draws.

    Attributes:
        calculator: of the energies, see `calculators.build_calculator`; or `ESTIMATOR`.
        num_draws: for each sample.
        wants_low: hand over the draw that is lowest in energy; that with the energy
            asked for if False.
    """

    calculator: str
    num_draws: int
    wants_low: bool

    def adds_corrections(self, energy_model: str) -> bool:
        """Whether MP2020's corrections are in its formation energies.

        They are added where the energies that are requested have them, and those of the
        calculator do not.

        Args:
            energy_model: of the model's energies.
        """
        # What a hull needs takes its time to import.
        from crystaljax.hull import energy_scale

        of_scheme = energy_model.startswith(pretrained.MP_PBE)
        return of_scheme and energy_scale.adds_corrections(self.calculator)

    def provenance(self, energy_model: str = "") -> dict[str, Any]:
        """What the table says of it; ``energy_model`` as above."""
        own = {"draws": self.num_draws, "judge": self.calculator}
        if self.calculator == ESTIMATOR:
            return own
        from crystaljax.hull import energy_scale

        corrected = self.adds_corrections(energy_model)
        naming = energy_scale.energy_model if corrected else calculators.energy_model
        return own | {"judge_energy_model": naming(self.calculator)}


def draws_in_order(num_draws: int, num_samples: int, each: int) -> np.ndarray:
    """Draws of all samples → order in which those of one sample are together.

    Args:
        num_draws: in all; those of a combination stand together, the likeliest first.
        num_samples: of a combination.
        each: draws of a sample. Its first is what it would be without a judge.
    """
    order = np.arange(num_draws).reshape(-1, each, num_samples)
    return order.transpose(0, 2, 1).ravel()


def known_elements(judge: Judge) -> frozenset[int] | None:
    """Atomic numbers that the potential has parameters for; None if unknown.

    Raises:
        ValueError, ImportError: it cannot be loaded.
    """
    if device_potentials.supports(judge.calculator):
        return device_potentials.build(judge.calculator).atomic_numbers
    supported = calculators.supported_elements(judge.calculator)
    if supported is None:
        return None
    return frozenset(ase.data.atomic_numbers[symbol] for symbol in supported)


def require(
    judge: Judge, atomic_numbers: Integer[np.ndarray, "samples sites"]
) -> Integer[np.ndarray, "some sites"]:
    """Those of the samples whose elements a potential knows.

    Args:
        judge: whose potential it is.
        atomic_numbers: of all samples; 0 is padding.

    Raises:
        UserError: there is no such model, or it knows the elements of no sample.
        ImportError: the package of the potential is not installed.
    """
    known = known_elements(judge)
    if known is None:
        return atomic_numbers
    is_known = np.isin(atomic_numbers, [0, *known]).all(axis=1)
    if not is_known.any():
        crystals = [_as_crystal(row[row > 0]) for row in atomic_numbers]
        calculators.require_elements(judge.calculator, crystals, known)
    return atomic_numbers[is_known]


def scale_of(
    judge: Judge,
    atomic_numbers: Integer[np.ndarray, "samples sites"],
    energy_model: str = "",
) -> Any:
    """The `energy_scale.EnergyScale` of formation energies by a judge.

    Args:
        judge: whose potential it is.
        atomic_numbers: of all samples; 0 is padding.
        energy_model: of the model's energies.

    Raises:
        UserError: a reference crystal does not relax where energies are requested, or
            as `require`.
        ImportError: as `require`.
    """
    atomic_numbers = require(judge, atomic_numbers)
    numbers = np.unique(atomic_numbers[atomic_numbers > 0])
    found, problems = references.element_energies(judge.calculator, numbers.tolist())
    if problems and not judge.wants_low:
        raise errors.UserError(
            f"{judge.calculator} gives no formation energies: "
            f"{next(iter(problems.values()))}. Ask for --energies=low, which compares "
            "the draws with each other"
        )
    from crystaljax.hull import energy_scale

    name = judge.provenance(energy_model)["judge_energy_model"]
    corrected = judge.adds_corrections(energy_model)
    return energy_scale.EnergyScale(name, found, corrected)


def _as_crystal(atomic_numbers: np.ndarray) -> structure.Crystal:
    return structure.Crystal(
        atomic_numbers, np.zeros((len(atomic_numbers), 3)), np.eye(3)
    )


def hand_over(
    drawn: samples_lib.Samples,
    judge: Judge,
    scale: Any,
    *,
    kept_in: pathlib.Path | None = None,
    show_progress: bool = False,
) -> samples_lib.Samples:
    """The best draw of each sample, relaxed.

    A draw that cannot be relaxed is not chosen; where none can, the first is handed
    over as it was drawn, and the table says why.

    Args:
        drawn: ``num_draws`` of each sample, one after the other.
        judge: what chooses.
        scale: from `scale_of`.
        kept_in: file of relaxations, to go on with after an interruption.
        show_progress: print a progress bar.
    """
    each = judge.num_draws
    relaxed = relax(drawn.crystals, judge, kept_in, show_progress=show_progress)
    values = [appraise(one, scale) for one in relaxed]
    total, formation = np.array([value[:2] for value in values]).T
    energies = total if judge.wants_low else formation
    misfit = energies
    if not judge.wants_low:
        misfit = np.abs(energies - np.asarray(drawn.conditions.energy, float))
    chosen = draw_choice.choose(-misfit.reshape(-1, each))
    rows = np.arange(len(chosen)) * each + chosen
    failed = np.isnan(energies[rows]).tolist()
    columns = {name: column[rows] for name, column in drawn.columns.items()}
    columns |= {
        "judged_energy": np.round(formation[rows], 5),
        "judged_draw": chosen,
        "draws_relaxed": np.isfinite(total).reshape(-1, each).sum(axis=1),
        "judge_problem": np.array(
            [
                values[row][2] if bad else ""
                for row, bad in zip(rows, failed, strict=True)
            ]
        ),
    }
    crystals = [
        drawn.crystals[row] if bad else relaxed[row].crystal
        for row, bad in zip(rows, failed, strict=True)
    ]
    return _handed_over(drawn, judge, rows, crystals, columns)


def pick_by_estimates(
    drawn: samples_lib.Samples, judge: Judge, unit: float | None = None
) -> samples_lib.Samples:
    """The best draw of each sample by estimated energies, as it was drawn.

    Args:
        drawn: ``num_draws`` of each sample, one after the other, with their columns
            estimated_energy, probability and wyckoff_positions.
        judge: `ESTIMATOR`.
        unit: of the model, see `calibration.find_unit`; None where it has none.
    """
    each = judge.num_draws
    estimated = np.asarray(drawn.columns["estimated_energy"], float).reshape(-1, each)
    asked = None
    if judge.wants_low:
        # The unit is that of energies that are requested.
        unit = None
    else:
        asked = np.asarray(drawn.conditions.energy, float)[::each]
    groups = np.asarray(drawn.conditions.space_group).tolist()
    positions = drawn.columns["wyckoff_positions"].tolist()
    kinds = [f"{group} {each}" for group, each in zip(groups, positions, strict=True)]
    scores = draw_choice.score_draws(
        estimated,
        np.asarray(drawn.columns["probability"], float).reshape(-1, each),
        np.array(kinds).reshape(-1, each),
        asked,
        unit or draw_choice.DEFAULT_UNIT,
    )
    chosen = draw_choice.choose(scores)
    rows = np.arange(len(chosen)) * each + chosen
    columns = {name: values[rows] for name, values in drawn.columns.items()}
    columns["judged_draw"] = chosen
    crystals = [drawn.crystals[row] for row in rows]
    return _handed_over(drawn, judge, rows, crystals, columns)


def _handed_over(drawn, judge, rows, crystals, columns) -> samples_lib.Samples:
    each = judge.num_draws
    named = str(drawn.provenance.get("energy_model", ""))
    return samples_lib.Samples(
        crystals=crystals,
        conditions=jax.tree.map(lambda array: array[rows], drawn.conditions),
        notes=drawn.notes,
        provenance=drawn.provenance | judge.provenance(named),
        columns=columns,
        first=drawn.first // each,
        num_in_all=(drawn.num_in_all or len(drawn.crystals)) // each,
    )


def relax(
    crystals: list[structure.Crystal],
    judge: Judge,
    kept_in: pathlib.Path | None = None,
    *,
    show_progress: bool = False,
) -> list[ase_relaxation.Relaxation]:
    """Relaxations of draws: in batches, or one at a time where there are no batches."""
    description = "judge" if show_progress else None
    known = known_elements(judge)

    def relax_waiting(waiting) -> Iterator[tuple[int, Any, str]]:
        numbers, some = [], []
        for i, crystal in waiting.items():
            missing = sorted({*map(int, crystal.atomic_numbers)} - (known or {0}))
            if known is not None and missing:
                symbols = ", ".join(map(elements.symbol, missing))
                failure = f"{judge.calculator} has no parameters for {symbols}"
                yield i, _failed(crystal, failure), ""
            else:
                numbers.append(i)
                some.append(crystal)
        for position, one in batches.relax_as_possible(
            some, judge.calculator, SETTINGS, description=description
        ):
            yield numbers[position], one, ""

    return kept.relax(crystals, kept_in, relax_waiting)[0]


def _failed(crystal: structure.Crystal, failure: str) -> ase_relaxation.Relaxation:
    return ase_relaxation.Relaxation(crystal, np.nan, np.nan, 0, False, failure)


def appraise(
    relaxed: ase_relaxation.Relaxation, scale: Any
) -> tuple[float, float, str]:
    """What a relaxed draw is worth.

    Args:
        relaxed: the draw.
        scale: from `scale_of`.

    Returns:
        Total and formation energy, eV/atom, NaN where there is none, and why there is
        neither.
    """
    if relaxed.problem:
        return float("nan"), float("nan"), relaxed.problem
    numbers = {int(number) for number in relaxed.crystal.atomic_numbers}
    if not numbers <= scale.element_energies.keys():
        return relaxed.energy, float("nan"), ""
    try:
        formation = scale.formation_energy(relaxed.crystal, relaxed.energy)
    except ValueError as error:
        return float("nan"), float("nan"), str(error)
    return relaxed.energy, formation, ""


def describe(judge: Judge) -> str:
    """The judgement in words, for the screen."""
    if judge.calculator == ESTIMATOR:
        return f"the best of {judge.num_draws} draws by estimated energy."
    best = "lowest in energy" if judge.wants_low else "nearest to the energy requested"
    return (
        f"judged: formation energy by {judge.calculator}, eV/atom, of the relaxed "
        f"crystal, the {best} of {judge.num_draws} draws."
    )
