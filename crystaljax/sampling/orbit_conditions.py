"""What is asked of a model of orbits: conditions, and the orbits of each sample.

Space groups and energies may be left to the model: the likely ones, and the energy that
the formula is likely to have.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from crystaljax.crystals import elements, wyckoff, wyckoff_assignments
from crystaljax.models import prototype_library, scaling, wyckoff_model
from crystaljax.sampling import conditions as conditions_lib
from crystaljax.sampling import followed_structures, likely_orbits, orbit_generation
from crystaljax.system import errors

LIKELY, LOW = "likely", "low"


@dataclasses.dataclass(frozen=True, eq=False)
class Asked:
    """Samples that are wanted.

    Attributes:
        conditions: of all samples.
        requests: their orbits.
        follows_known: whether the free parameters of each are those of a known
            structure.
        above_hull: of each sample's energy, eV/atom; None where no hull is given.
        notes: for the user.
    """

    conditions: conditions_lib.Conditions
    requests: list[likely_orbits.Request]
    follows_known: list[bool]
    above_hull: np.ndarray | None
    notes: list[str]

    def columns(self) -> dict[str, np.ndarray]:
        """Further columns of the table."""
        columns = {
            "wyckoff_positions": np.array([each.describe() for each in self.requests]),
            # How probable the model found them, and a group that was left to it.
            "probability": np.array(
                [float(f"{each.probability:.3g}") for each in self.requests]
            ),
            # Or the network's own.
            "follows_known": np.array(self.follows_known),
        }
        if self.above_hull is not None:
            columns["requested_energy_above_hull"] = self.above_hull
        return columns


def low_energies(
    model: wyckoff_model.WyckoffModel, scale: scaling.Scaling, formulas: Sequence[str]
) -> np.ndarray:
    """The energy that each formula is likely to have, eV/atom, (formulas, 1)."""
    questions = [
        prototype_library.question_of(elements.formula_atomic_numbers(formula), np.nan)
        for formula in formulas
    ]
    found = model.likely_energies(questions).astype(float)
    values = found * float(scale.energy_scale) + float(scale.energy_mean)
    return values.round(3)[:, None]


def likely_cells(
    model: wyckoff_model.WyckoffModel,
    formulas: Sequence[str],
    space_groups: Sequence[int],
    max_sites: int,
) -> tuple[str, ...]:
    """Formulas with the number of formula units that their primitive cells likely hold.

    A formula that is written as several units, such as Ti2O4, stays as it is.
    """
    cells = []
    for formula in formulas:
        numbers = elements.formula_atomic_numbers(formula)
        units = 1
        if elements.cell_formula(numbers) == elements.reduced_formula(numbers):
            units = likely_orbits.likely_units(
                numbers, space_groups, model.library, max_sites
            )
        cells.append(elements.cell_formula(np.tile(numbers, units)))
    return tuple(cells)


@dataclasses.dataclass(frozen=True, eq=False)
class Wanted:
    """What is requested: every formula with every group and energy.

    Attributes:
        formulas: of cells.
        space_groups: 1-230; None leaves them to the model.
        energies: (formulas, energies), eV/atom.
        above_hull: the same relative to a hull; None where none is given.
        num_samples: of each combination.
        wyckoff: positions that the species fill, `parse_positions`; "" leaves them to
            the model.
        seed: of positions that are drawn.
        follow_known: whether known structures are followed, `orbit_flow.follow`.
        least: see `likely_orbits.choose_orbits`.
    """

    formulas: Sequence[str]
    space_groups: Sequence[int] | None
    energies: np.ndarray
    above_hull: np.ndarray | None = None
    num_samples: int = 1
    wyckoff: str = ""
    seed: int = 0
    follow_known: bool = True
    least: float = likely_orbits.LEAST


def ask(
    model: wyckoff_model.WyckoffModel,
    scale: scaling.Scaling,
    wanted: Wanted,
    shape: tuple[int, int],
) -> Asked:
    """Conditions and orbits of all samples.

    Combinations of formula and group that cannot exist are left out, and noted.

    Args:
        model: of groups and positions.
        scale: units of the network.
        wanted: what is requested.
        shape: orbits and sites that the network holds.

    Raises:
        UserError: nothing is left, or positions do not fit.
    """
    formulas, space_groups = wanted.formulas, wanted.space_groups
    energies, num_samples = wanted.energies, wanted.num_samples
    questions, owners, problems = [], [], []
    for row, formula in enumerate(formulas):
        numbers = elements.formula_atomic_numbers(formula)
        scaled = (energies[row] - float(scale.energy_mean)) / float(scale.energy_scale)
        for group in space_groups or (0,):
            for column, energy in enumerate(scaled.tolist()):
                try:
                    question = _question(
                        numbers, group, energy, model.library, shape[1]
                    )
                except errors.UserError as error:
                    if column == 0:
                        problems.append((formula, group, str(error)))
                    continue
                questions.append(question)
                owners.append((row, column))
    notes = _describe(problems, len(formulas) * len(space_groups or (0,)))
    if not questions:
        raise errors.UserError(f"nothing to sample: {problems[0][0]}: {problems[0][2]}")
    if wanted.wyckoff:
        chosen = [
            [_given(question, cells, wanted.wyckoff)] * num_samples
            for question, cells in questions
        ]
    else:
        chosen = likely_orbits.choose_orbits(
            model,
            questions,
            [num_samples] * len(questions),
            seed=wanted.seed,
            shape=shape,
            least=wanted.least,
        )
    requests, rows = [], []
    for found, (row, column) in zip(chosen, owners, strict=True):
        if not found:
            raise errors.UserError(
                f"{formulas[row]} has more orbits in every likely space group than the "
                f"{shape[0]} that the model holds; use fewer formula units, or another "
                "--space_groups"
            )
        requests += found
        rows += [(row, column)] * len(found)
    made = assemble(model, scale, wanted, requests, rows, shape)
    return dataclasses.replace(made, notes=notes)


def assemble(
    model: wyckoff_model.WyckoffModel,
    scale: scaling.Scaling,
    wanted: Wanted,
    requests: Sequence[likely_orbits.Request],
    rows: Sequence[tuple[int, int]],
    shape: tuple[int, int],
) -> Asked:
    """Requests with their conditions.

    Args:
        model: of groups and positions.
        scale: units of the network.
        wanted: what is requested.
        requests: one for each sample.
        rows: of each, the numbers of its formula and of its energy.
        shape: orbits and sites that the network holds.

    Raises:
        UserError: a request has more.
    """
    requests = likely_orbits.number_repeats(requests)
    for request in requests:
        orbit_generation.require_fits(request, shape)
    return Asked(
        _conditions(wanted.formulas, wanted.energies, requests, rows),
        requests,
        [
            wanted.follow_known
            and followed_structures.follows_known(model, request, scale)
            for request in requests
        ],
        _above_hull(wanted, rows),
        [],
    )


def _above_hull(wanted: Wanted, rows: Sequence[tuple[int, int]]) -> np.ndarray | None:
    if wanted.above_hull is None:
        return None
    return np.array([wanted.above_hull[each] for each in rows])


def _question(numbers, group, energy, library, max_sites):
    if group == 0:
        return prototype_library.question_of(numbers, energy), 1
    return likely_orbits.find_question(numbers, group, energy, library, max_sites)


def _conditions(formulas, energies, requests, rows) -> conditions_lib.Conditions:
    numbers = [elements.formula_atomic_numbers(formula) for formula in formulas]
    padded = np.zeros((len(formulas), max(map(len, numbers))), np.uint8)
    for row, each in enumerate(numbers):
        padded[row, : len(each)] = each
    owner = np.array([row for row, _ in rows])
    return conditions_lib.Conditions(
        padded[owner],
        np.array([len(numbers[row]) for row, _ in rows], np.int32),
        np.array([each.question.space_group for each in requests], np.uint8),
        np.array([energies[each] for each in rows], np.float32),
    )


def _describe(problems: Sequence[tuple[str, int, str]], count: int) -> list[str]:
    if not problems:
        return []
    formula, _, reason = problems[0]
    return [
        f"{len(problems):,} of {count:,} combinations of formula and space group "
        f"cannot exist and are left out, such as {formula}: {reason}"
    ]


# --------------------------------------------------------------- positions given
def _given(
    question: prototype_library.Question, num_cells: int, text: str
) -> likely_orbits.Request:
    if not question.space_group:
        raise errors.UserError(
            f"positions {text!r} are of a space group; name it with --space_groups"
        )
    assignment = parse_positions(text, question)
    return likely_orbits.Request(question, assignment, num_cells)


def parse_positions(
    text: str, question: prototype_library.Question
) -> wyckoff_assignments.Assignment:
    """Positions of each species, such as "Ta:a B:d" or "O:ccd,Ti:a".

    Letters are ITA's, of origin choice 2 and hexagonal axes; multiplicities before them
    are passed over.

    Raises:
        UserError: unreadable, not of the formula, or not filled by its sites.
    """
    positions = wyckoff.load_positions(question.space_group)
    known = {position.letter: index for index, position in enumerate(positions)}
    given: dict[str, tuple[int, ...]] = {}
    for part in text.replace(",", " ").split():
        symbol, colon, letters = part.partition(":")
        indices = [known.get(each) for each in letters if not each.isdigit()]
        if not (symbol and colon and indices) or None in indices or symbol in given:
            raise errors.UserError(
                f"positions {text!r}: cannot read {part!r}; expected each element once "
                f"with letters of space group {question.space_group} ("
                f"{', '.join(known)}), such as Ta:a B:d"
            )
        given[symbol] = tuple(sorted(i for i in indices if i is not None))
    wanted = [elements.symbol(number) for number in question.species]
    if set(given) != set(wanted):
        raise errors.UserError(
            f"positions {text!r} are of {', '.join(given)}; expected those of "
            f"{', '.join(wanted)}"
        )
    assignment = tuple(given[symbol] for symbol in wanted)
    _require_filled(assignment, question, text, wanted)
    return assignment


def _require_filled(assignment, question, text, symbols) -> None:
    positions = wyckoff.load_positions(question.space_group)
    partial = wyckoff_assignments.begin(question.space_group, question.counts)
    for filled, count, symbol in zip(assignment, question.counts, symbols, strict=True):
        for index in filled:
            if index not in wyckoff_assignments.options(partial):
                possible = ", ".join(
                    positions[each].letter
                    for each in wyckoff_assignments.options(partial)
                )
                raise errors.UserError(
                    f"positions {text!r}: {symbol} cannot fill "
                    f"{positions[index].letter} of space group "
                    f"{question.space_group} here, with {count} sites in the primitive "
                    f"cell; expected {possible or 'no more positions'}"
                )
            partial = wyckoff_assignments.place(partial, index)
    if not partial.is_complete:
        raise errors.UserError(
            f"positions {text!r} hold fewer sites than {question.formula} has: "
            f"{list(question.counts)} of {', '.join(symbols)} in the primitive cell"
        )
