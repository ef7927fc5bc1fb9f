"""What the page asks for → arguments of the commands, checked by the library.

Every value becomes one argument ``--flag=value`` of a list: no shell reads it, and no
value can be taken for another flag.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from crystaljax.app import offers, options
from crystaljax.crystals import elements, space_groups, wyckoff
from crystaljax.sampling import formulas
from crystaljax.system import errors

LIKELY, LOW = "likely", "low"
_MAX_TEXT = 200
# More belongs on the command line, whose output has shards.
MAX_CRYSTALS = 500
_MAX_CELLS = 50
_MAX_SEED = 2**31 - 1
# Numbers of formula units that stand for all where the model chooses one.
_LIKELY_UNITS = "1:4"


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a job is to do.

    Attributes:
        title: for the user.
        arguments: of the program, the verb first.
    """

    title: str
    arguments: tuple[str, ...]


def sample(
    values: Mapping[str, Any], model: offers.Model, asked: options.AppOptions
) -> Asked:
    """Arguments of `crystaljax sample`.

    Args:
        values: ``formulas``, or ``system`` with ``max_atoms``; ``formula_units``,
            ``space_groups`` ("" for the model's choice), ``energies``,
            ``num_samples``, ``seed``.
        model: that is asked.
        asked: options of the server.

    Raises:
        UserError: one of them cannot be used; the library's own words.
    """
    cells, what = find_cells(values, model)
    arguments = ["sample", *model.flags, *what]
    num_combinations = len(cells)
    if groups := _text(values, "space_groups"):
        numbers = space_groups.parse_space_groups(groups)
        num_combinations *= len(numbers)
        arguments.append(f"--space_groups={','.join(map(str, numbers))}")
    if energies := _text(values, "energies"):
        found = _parse_energies(energies, model, asked)
        num_combinations *= max(len(found), 1)
        arguments.append(f"--energies={energies}")
        if any(each.above_hull for each in found):
            arguments.append(f"--hull={asked.hull}")
    num_samples = _integer(values, "num_samples", 1, MAX_CRYSTALS, 4)
    if num_combinations * num_samples > MAX_CRYSTALS:
        raise errors.UserError(
            f"{num_combinations} combinations of formula, space group and energy with "
            f"{num_samples} crystals each are {num_combinations * num_samples:,}; "
            f"expected at most {MAX_CRYSTALS} on this page: `crystaljax sample` makes "
            "any number"
        )
    arguments += _numbers(values)
    title = _text(values, "formulas") or _text(values, "system")
    return Asked(title, tuple(arguments))


def find_cells(
    values: Mapping[str, Any], model: offers.Model
) -> tuple[list[str], list[str]]:
    """Formulas of the cells that are asked for, and the flags that name them.

    Raises:
        UserError: unreadable, too many, or none that the model can make.
    """
    # JAX comes with it; the server starts without.
    from crystaljax.sampling import conditions

    text, system = _text(values, "formulas"), _text(values, "system")
    units = _text(values, "formula_units")
    named = [each.strip() for each in text.split(",") if each.strip()]
    if bool(named) == bool(system):
        raise errors.UserError(
            "expected a formula, such as TaB2, or elements, such as Ta-B"
        )
    flags = []
    max_atoms = None
    if named:
        flags.append(f"--formulas={','.join(named)}")
    else:
        max_atoms = _integer(values, "max_atoms", 1, model.max_sites, 8)
        flags += [f"--chemical_systems={system}", f"--max_atoms={max_atoms}"]
    if units:
        flags.append(f"--formula_units={units}")
    if units == LIKELY:
        if not (model.of_orbits and named):
            raise errors.UserError(
                "formula units can be left to a model of orbits, for formulas; "
                "expected a number, such as 1 or 1,2"
            )
        units = ""
    cells = formulas.expand_formulas(
        named, [system] if system else [], formula_units=units, max_atoms=max_atoms
    )
    if len(cells) > _MAX_CELLS:
        raise errors.UserError(
            f"{len(cells)} formulas; expected at most {_MAX_CELLS} on this page: ask "
            "for fewer atoms or formula units"
        )
    for cell in cells:
        conditions.check_formula(cell, model.vocabulary, model.max_sites)
    return cells, flags


def feasible_groups(
    values: Mapping[str, Any], model: offers.Model
) -> tuple[list[str], list[int]]:
    """Formulas of the cells, and the space groups that one of them can have.

    Raises:
        UserError: see `find_cells`.
    """
    cells, _ = find_cells(values, model)
    if _text(values, "formula_units") == LIKELY:
        named = _text(values, "formulas").split(",")
        counted = formulas.expand_formulas(
            [each.strip() for each in named if each.strip()],
            formula_units=_LIKELY_UNITS,
        )
    else:
        counted = cells
    counts = {tuple(sorted(elements.parse_formula(cell).values())) for cell in counted}
    return cells, _find_feasible(tuple(sorted(counts)))


@functools.lru_cache(maxsize=64)
def _find_feasible(counts: tuple[tuple[int, ...], ...]) -> list[int]:
    groups = range(1, space_groups.NUM_SPACE_GROUPS + 1)
    found = wyckoff.find_feasible(counts, groups)
    return (np.flatnonzero(found.any(axis=0)) + 1).tolist()


def _parse_energies(
    text: str, model: offers.Model, asked: options.AppOptions
) -> Sequence[Any]:
    from crystaljax.sampling import requested_energies

    if text == LOW:
        if not model.of_orbits:
            raise errors.UserError(
                "low energies can be asked of a model of orbits; expected energies in "
                "eV/atom, such as -0.3"
            )
        return []
    found = requested_energies.parse_energies(text)
    if any(each.above_hull for each in found) and asked.hull is None:
        raise errors.UserError(
            f"energies {text!r} are relative to a hull, and none is loaded; start the "
            "page with `hull=FILE.csv`"
        )
    return found


def screen(
    values: Mapping[str, Any], asked: options.AppOptions, symbols: frozenset[str]
) -> tuple[str, ...]:
    """Arguments of `crystaljax screen`, but for its crystals.

    Args:
        values: ``calculator``, one of those installed, ``hull``, a word of
            `offers.hulls`, and ``keep_symmetry``.
        asked: options of the server.
        symbols: elements of the crystals.

    Raises:
        UserError: a value cannot be used.
    """
    name = _text(values, "calculator")
    installed = {each.name: each for each in offers.installed_potentials()}
    if name not in installed:
        raise errors.UserError(
            f"no potential {name!r} is installed; expected one of "
            f"{', '.join(installed)}"
        )
    known = installed[name].elements
    missing = sorted(symbols - set(known)) if known is not None else []
    if missing:
        raise errors.UserError(
            f"{name} has no parameters for {', '.join(missing)}; choose another "
            "potential"
        )
    arguments = [
        "screen",
        f"--calculator={name}",
        offers.hull_flag(asked, _text(values, "hull") or offers.NO_HULL),
        # They were chosen, known or not.
        "--relax_duplicates",
    ]
    if asked.known is not None:
        arguments.append(f"--known={asked.known}")
    if values.get("keep_symmetry") is True:
        arguments.append("--keep_symmetry")
    return tuple(arguments)


def keep(values: Mapping[str, Any], model: offers.Model) -> tuple[str, ...]:
    """Arguments of `crystaljax sample` but for the template, a part of which stays.

    Args:
        values: ``keep``, the sites; ``formulas`` ("" for the template's own),
            ``num_samples``, ``seed``.
        model: that is asked.

    Raises:
        UserError: a value cannot be used. Sites are compared with the template by the
            command itself.
    """
    if not model.of_orbits:
        raise errors.UserError(
            "a part of a crystal can be kept by models of orbits, and this is another"
        )
    kept = _text(values, "keep")
    if not kept:
        raise errors.UserError(
            "nothing is kept; expected elements, such as Co,O, or numbers of sites "
            "from 0, such as 0,3,8:11"
        )
    arguments = ["sample", *model.flags, f"--keep={kept}"]
    if formula := _text(values, "formulas"):
        elements.parse_formula(formula)
        arguments.append(f"--formulas={formula}")
    return (*arguments, *_numbers(values))


def modify(
    values: Mapping[str, Any], model: offers.Model, asked: options.AppOptions
) -> tuple[str, ...]:
    """Arguments of `crystaljax modify` but for the crystal.

    Args:
        values: ``energy_difference`` ("" for the lowest that is likely),
            ``space_groups`` ("" for the likely ones), ``decorate``, ``num_samples``,
            ``seed``.
        model: that is asked, where the server has none of the modification task.
        asked: options of the server.

    Raises:
        UserError: a value cannot be used, or no model that modifies is there.
    """
    from crystaljax.sampling import requested_energies

    arguments = ["modify"]
    if asked.modify_with is not None:
        arguments.append(f"--model={asked.modify_with}")
    elif model.of_orbits:
        arguments += model.flags
    else:
        raise errors.UserError(
            "no model that modifies crystals is loaded; start the page with "
            "`modify_with=runs/modify`"
        )
    num_combinations = 1
    if difference := _text(values, "energy_difference"):
        num_combinations *= len(requested_energies.parse_differences(difference))
        arguments.append(f"--energy_difference={difference}")
    if groups := _text(values, "space_groups"):
        numbers = space_groups.parse_space_groups(groups)
        num_combinations *= len(numbers)
        arguments.append(f"--space_groups={','.join(map(str, numbers))}")
    elif asked.modify_with is not None:
        raise errors.UserError(
            "this model is asked for space groups; expected numbers or symbols, such "
            "as 221,P4/mmm"
        )
    if decorate := _text(values, "decorate"):
        arguments.append(f"--decorate={decorate}")
    num_samples = _integer(values, "num_samples", 1, MAX_CRYSTALS, 4)
    if num_combinations * num_samples > MAX_CRYSTALS:
        raise errors.UserError(
            f"{num_combinations} combinations of energy and space group with "
            f"{num_samples} crystals each; expected at most {MAX_CRYSTALS} crystals"
        )
    return (*arguments, *_numbers(values))


def _numbers(values: Mapping[str, Any]) -> list[str]:
    """How many, and the seed."""
    num_samples = _integer(values, "num_samples", 1, MAX_CRYSTALS, 4)
    seed = _integer(values, "seed", 0, _MAX_SEED, 0)
    return [f"--num_samples={num_samples}", f"--seed={seed}"]


def _text(values: Mapping[str, Any], name: str) -> str:
    text = values.get(name) or ""
    if not isinstance(text, str) or len(text) > _MAX_TEXT:
        raise errors.UserError(
            f"{name}: expected a text of at most {_MAX_TEXT} characters"
        )
    # A process cannot be started with NUL in an argument.
    if not text.isprintable():
        raise errors.UserError(f"{name}: {text!r} has characters that are not printed")
    return text.strip()


def _integer(
    values: Mapping[str, Any], name: str, low: int, high: int, default: int
) -> int:
    value = values.get(name)
    if value is None or value == "":
        return default
    if (
        not isinstance(value, int)
        or isinstance(value, bool)
        or not low <= value <= high
    ):
        raise errors.UserError(
            f"{name}: {value!r} is no whole number from {low} to {high:,}"
        )
    return value
