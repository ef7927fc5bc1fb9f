"""How much estimated energies count where one of several draws is picked.

An estimator errs more on crystals that are not right than on those that it learned, and
by how much depends on the data. So the unit is found on held-out structures: they are
asked for with group and energy, and the unit is taken at which the right orbits are the
most probable among their draws.
"""

from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float

from crystaljax.crystals import wyckoff_assignments
from crystaljax.data import dataset as datasets
from crystaljax.data import orbit_table
from crystaljax.models import wyckoff_model
from crystaljax.sampling import (
    draw_choice,
    estimation,
    likely_orbits,
    orbit_generation,
    usable_structures,
)

# Structures that are asked for, at most, and draws of each.
_MAX_ASKED, _NUM_DRAWS = 256, 5
# How sure the scores of draws are taken to be.
_SURE = (0.25, 0.35, 0.5, 0.7, 1.0, 1.4)
# Units that are compared, eV/atom; the last leaves the choice to probabilities.
_UNITS = (0.01, 0.015, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 100.0)


def find_unit(
    config: Any,
    generator: orbit_generation.OrbitGenerator,
    dataset: datasets.Dataset,
    split: str = "val",
) -> float | None:
    """The `draw_choice` unit of estimated energies, eV/atom.

    None where nothing is estimated, or where the draws of no structure have its orbits.

    Args:
        config: of the model.
        generator: with the parameters of the network.
        dataset: that it was trained on.
        split: whose structures are asked for.
    """
    if generator.positions is None or generator.estimate_energies is None:
        return None
    indices, _ = usable_structures.find_usable(config, dataset, split)
    indices = indices[:_MAX_ASKED]
    if len(indices) == 0:
        return None
    table = orbit_table.open_table(dataset)
    energies = np.asarray(dataset.formation_energy[indices], float)
    scaled = np.asarray(generator.scale.scale_energy(energies), float).tolist()
    questions = [
        likely_orbits.find_question(
            np.asarray(datasets.crystal(dataset, index).atomic_numbers),
            int(table.space_group[index]),
            energy,
            generator.positions.library,
            generator.shapes[-1][1],
        )
        for index, energy in zip(indices.tolist(), scaled, strict=True)
    ]
    chosen = likely_orbits.choose_orbits(
        generator.positions,
        questions,
        [_NUM_DRAWS] * len(questions),
        seed=generator.seed,
        shape=generator.shapes[-1],
    )
    answered = np.array([len(each) == _NUM_DRAWS for each in chosen])
    draws = [each for each in chosen if len(each) == _NUM_DRAWS]
    flat = likely_orbits.number_repeats([each for row in draws for each in row])
    crystals = generator.generate(flat, jax.random.key(generator.seed))
    estimates = estimation.estimate_many(generator.estimate_energies, crystals)
    kinds = np.array(
        [
            str(_kind(each.question.space_group, each.assignment, each.num_cells))
            for each in flat
        ]
    )
    true = [
        str(
            _kind(
                int(table.space_group[index]),
                wyckoff_model.assignment_of(table.crystal(index)),
                int(table.num_cells[index]),
            )
        )
        for index in indices[answered].tolist()
    ]
    kinds = kinds.reshape(-1, _NUM_DRAWS)
    return best_unit(
        estimates.reshape(-1, _NUM_DRAWS),
        np.array([each.probability for each in flat]).reshape(-1, _NUM_DRAWS),
        kinds,
        energies[answered],
        kinds == np.array(true)[:, None],
    )


def _kind(space_group: int, assignment: Any, num_cells: int) -> tuple[Any, ...]:
    canonical = wyckoff_assignments.canonical(space_group, assignment)
    return space_group, canonical, num_cells


def best_unit(
    energies: Float[np.ndarray, "samples draws"],
    probabilities: Float[np.ndarray, "samples draws"],
    kinds: np.ndarray,
    asked: Float[np.ndarray, " samples"],
    is_right: Bool[np.ndarray, "samples draws"],
) -> float | None:
    """The unit at which right draws are the most probable on average.

    Args:
        energies: of the draws, eV/atom.
        probabilities: that the model gives their orbits.
        kinds: what draws with the same orbits have in common.
        asked: energies that they should have, eV/atom.
        is_right: whether a draw is right; samples without one do not count.

    Returns:
        None where no draw is right.
    """
    rows = is_right.any(axis=1) & np.isfinite(energies).all(axis=1)
    if not rows.any():
        return None

    def likelihood(unit: float) -> float:
        scores = draw_choice.score_draws(
            energies[rows], probabilities[rows], kinds[rows], asked[rows], unit
        )
        # Models of positions are surer than they should be, and have seen the energy
        # too: what matters is how much it counts beside them.
        return max(_mean_log_share(sure * scores, is_right[rows]) for sure in _SURE)

    return max(_UNITS, key=likelihood)


def _mean_log_share(
    scores: Float[np.ndarray, "samples draws"],
    is_right: Bool[np.ndarray, "samples draws"],
) -> float:
    shares = np.exp(scores - np.logaddexp.reduce(scores, axis=1, keepdims=True))
    right = np.sum(shares, axis=1, where=is_right)
    return float(np.log(np.maximum(right, 1e-9)).mean())
