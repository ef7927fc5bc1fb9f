"""Candidates for polymorphs of crystals that somebody brings, by a model of orbits.

Such a model makes crystals of a formula; here it is asked for that of a source, at an
energy below the source's own by the model's estimator, or the lowest that the formula
is likely to have. `Arrangement` then says which candidates are the source again.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from crystaljax.crystals import elements, structure
from crystaljax.matching import matcher
from crystaljax.models import orbit_estimator, scaling, wyckoff_model
from crystaljax.sampling import conditions as conditions_lib
from crystaljax.sampling import (
    decorations,
    estimation,
    likely_orbits,
    orbit_conditions,
    orbit_generation,
    polymorph_sources,
    requested_energies,
    samples,
)
from crystaljax.system import errors

LOWEST = "lowest"
# Candidates within these are the source again.
TOLERANCE = matcher.TOLERANCES["paper"]
# Different candidates are wanted, improbable ones before the same again: see
# `likely_orbits.choose_orbits`.
_LEAST = 1e-4


# ------------------------------------------------------------------------ what is asked
@dataclasses.dataclass(frozen=True)
class Wanted:
    """What is requested of each source.

    Attributes:
        energy_difference: as a text: values and ranges, or "lowest".
        space_groups: 1-230; None leaves them to the model.
        num_samples: of each combination.
        seed: of positions that are drawn.
        follow_known: see `orbit_conditions.Wanted`.
    """

    energy_difference: str = LOWEST
    space_groups: Sequence[int] | None = None
    num_samples: int = 8
    seed: int = 0
    follow_known: bool = True


@dataclasses.dataclass(frozen=True, eq=False)
class Asked:
    """Candidates that are wanted.

    Attributes:
        conditions: of all samples.
        requests: their orbits.
        columns: further columns of the table.
        notes: for the user.
        sources: that are asked about.
        energies: of each source, as the model estimates it, eV/atom.
    """

    conditions: conditions_lib.Conditions
    requests: list[likely_orbits.Request]
    columns: dict[str, np.ndarray]
    notes: list[str]
    sources: list[polymorph_sources.Source]
    energies: np.ndarray


def ask(
    model: wyckoff_model.WyckoffModel,
    scale: scaling.Scaling,
    sources: Sequence[polymorph_sources.Source],
    wanted: Wanted,
    shape: tuple[int, int],
) -> Asked:
    """Conditions and orbits of the candidates for all sources.

    A source that the model cannot answer is left out, and noted.

    Args:
        model: of groups and positions, with an estimator.
        scale: units of the network.
        sources: crystals, decorated or not.
        wanted: what is requested.
        shape: orbits and sites that the network holds.

    Raises:
        UserError: the model estimates no energies, unreadable differences, or nothing
            is left.
    """
    estimated = estimate(model, scale, [each.cell for each in sources])
    parts: list[tuple[int, orbit_conditions.Asked]] = []
    notes: list[str] = []
    reasons = []
    for index, source in enumerate(sources):
        try:
            part = _ask_one(model, scale, source, estimated[index], wanted, shape)
        except errors.UserError as error:
            reasons.append(f"{source.name}: {error}")
            continue
        notes += [f"{source.name}: {note}" for note in part.notes]
        parts.append((index, part))
    if not parts:
        raise errors.UserError("no crystal can be modified:\n  " + "\n  ".join(reasons))
    notes += [f"left out {reason}" for reason in reasons]
    owners = np.repeat(
        [index for index, _ in parts], [len(part.requests) for _, part in parts]
    )
    columns: dict[str, np.ndarray] = {
        "input": np.array([sources[each].name for each in owners]),
        "origin": np.array(
            [
                "decorated" if request.prototype is not None else "generated"
                for _, part in parts
                for request in part.requests
            ]
        ),
    }
    for name in parts[0][1].columns():
        columns[name] = np.concatenate([part.columns()[name] for _, part in parts])
    return Asked(
        _join([part.conditions for _, part in parts]),
        [request for _, part in parts for request in part.requests],
        columns,
        notes,
        list(sources),
        estimated,
    )


def estimate(
    model: wyckoff_model.WyckoffModel,
    scale: scaling.Scaling,
    crystals: Sequence[structure.Crystal],
) -> np.ndarray:
    """Energies by the model's estimator, eV/atom.

    Raises:
        UserError: it has none.
    """
    if model.estimator is None:
        raise errors.UserError(
            "this model estimates no energies, so that it cannot say what is lower "
            "than a crystal at hand; train it with model.estimator_depth above 0, or "
            "ask for formulas with `crystaljax sample`"
        )
    estimator = model.estimator
    fn = orbit_estimator.build_estimate_fn(estimator.depth)
    units = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), scale)

    def estimate_fn(*cells):
        return fn(estimator.params, units, *cells)

    return np.round(estimation.estimate_many(estimate_fn, crystals), 5)


def _ask_one(
    model: wyckoff_model.WyckoffModel,
    scale: scaling.Scaling,
    source: polymorph_sources.Source,
    estimated: float,
    wanted: Wanted,
    shape: tuple[int, int],
) -> orbit_conditions.Asked:
    numbers = source.cell.atomic_numbers
    if len(numbers) > shape[1]:
        raise errors.UserError(
            f"its primitive cell has {len(numbers)} sites, but the model holds "
            f"{shape[1]}; use a model that holds more"
        )
    cells = [source.formula]
    likely = orbit_conditions.likely_cells(
        model,
        [elements.reduced_formula(numbers)],
        wanted.space_groups or (),
        shape[1],
    )
    # As many formula units as the source has, and as its polymorphs are likely to have.
    cells += [each for each in likely if each not in cells]
    low = orbit_conditions.low_energies(model, scale, cells)
    if wanted.energy_difference == LOWEST:
        energies = low if source.is_decorated else np.minimum(low, estimated)
    elif source.is_decorated:
        raise errors.UserError(
            f"energy_difference={wanted.energy_difference} is relative to the input, "
            "whose elements are replaced; leave it out"
        )
    else:
        differences = requested_energies.parse_differences(wanted.energy_difference)
        energies = np.tile(estimated + np.array(differences), (len(cells), 1))
    energies = energies.round(5)
    asked = orbit_conditions.ask(
        model,
        scale,
        orbit_conditions.Wanted(
            formulas=cells,
            space_groups=wanted.space_groups,
            energies=energies,
            num_samples=wanted.num_samples,
            seed=wanted.seed,
            follow_known=wanted.follow_known,
            least=_LEAST,
        ),
        shape,
    )
    if not source.is_decorated:
        return asked
    energy = float(energies[0, 0])
    scaled = (energy - float(scale.energy_mean)) / float(scale.energy_scale)
    request = decorations.request(source, scaled, scale)
    orbit_generation.require_fits(request, shape)
    first = jax.tree.map(lambda array: array[:1], asked.conditions)
    first = dataclasses.replace(
        first,
        atomic_numbers=numbers.astype(np.uint8)[None],
        num_sites=np.array([len(numbers)], np.int32),
        space_group=np.array([source.crystal.space_group], np.uint8),
        energy=np.array([energy], np.float32),
    )
    return dataclasses.replace(
        asked,
        conditions=_join([first, asked.conditions]),
        requests=[request, *asked.requests],
        follows_known=[True, *asked.follows_known],
    )


def _join(parts: Sequence[conditions_lib.Conditions]) -> conditions_lib.Conditions:
    width = max(each.atomic_numbers.shape[1] for each in parts)
    padded = []
    for each in parts:
        numbers = np.asarray(each.atomic_numbers)
        wide = np.zeros((len(numbers), width), numbers.dtype)
        wide[:, : numbers.shape[1]] = numbers
        padded.append(dataclasses.replace(each, atomic_numbers=wide))
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *padded)


# -------------------------------------------------------------------------- the answers
@dataclasses.dataclass(frozen=True, eq=False)
class Arrangement:
    """Puts candidates in the order of their energies, and finds sources among them.

    Attributes:
        sources: crystals by name.
        energies: estimated, by name; empty where there are none.
    """

    sources: Mapping[str, structure.Crystal]
    energies: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __call__(self, made: samples.Samples) -> samples.Samples:
        """The same samples with ``same_as_input`` and ``estimated_difference``.

        Those of an input are in the order of their energies, where these are estimated.
        """
        names = made.inputs or [str(each) for each in made.columns["input"]]
        same = np.array(
            [
                _is_same(crystal, self.sources[name])
                for crystal, name in zip(made.crystals, names, strict=True)
            ],
            bool,
        )
        columns = {**made.columns, "same_as_input": same}
        estimated = made.columns.get("estimated_energy")
        order = np.arange(len(names))
        if estimated is not None and self.energies:
            of_input = np.array([self.energies[name] for name in names])
            columns["estimated_difference"] = np.round(estimated - of_input, 5)
            place = {name: index for index, name in enumerate(self.sources)}
            order = np.lexsort((estimated, np.array([place[name] for name in names])))
        return dataclasses.replace(
            made,
            crystals=[made.crystals[each] for each in order],
            conditions=jax.tree.map(lambda array: array[order], made.conditions),
            inputs=made.inputs and [made.inputs[each] for each in order],
            columns={name: each[order] for name, each in columns.items()},
        )


def _is_same(crystal: structure.Crystal, source: structure.Crystal) -> bool:
    reduced = elements.reduced_formula
    if reduced(crystal.atomic_numbers) != reduced(source.atomic_numbers):
        return False
    return matcher.match(crystal, source, [TOLERANCE]).rms[0] is not None


def arrangement_of(asked: Asked) -> Arrangement:
    """For the candidates of a request."""
    return Arrangement(
        {each.name: each.cell for each in asked.sources},
        {
            each.name: float(energy)
            for each, energy in zip(asked.sources, asked.energies, strict=True)
        },
    )
