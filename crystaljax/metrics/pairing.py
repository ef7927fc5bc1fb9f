"""Which generated crystal was made for which reference crystal."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from crystaljax.system import errors

# What a file's name, or a repeated id, has behind the name of the reference.
_NUMBER = re.compile(r"[-_. ]\d+$")


@dataclasses.dataclass(frozen=True, eq=False)
class Pairing:
    """One entry per generated crystal.

    Attributes:
        reference: number of the reference that it was made for; -1 if none is known.
        rank: how many were made for that reference before it.
        how: how they were paired, in words.
    """

    reference: Int[np.ndarray, " generated"]
    rank: Int[np.ndarray, " generated"]
    how: str

    @property
    def num_paired(self) -> int:
        """Generated crystals that have a reference."""
        return int(np.sum(self.reference >= 0))

    @property
    def most(self) -> int:
        """Crystals of the reference that has most."""
        return int(self.rank[self.reference >= 0].max(initial=-1)) + 1


def pair(reference: Sequence[int] | np.ndarray, how: str) -> Pairing:
    """A pairing from the reference of each generated crystal, in the order made."""
    numbers = np.asarray(reference, dtype=int)
    rank = np.zeros(len(numbers), int)
    seen: dict[int, int] = {}
    for index, number in enumerate(numbers.tolist()):
        rank[index] = seen.get(number, 0)
        seen[number] = rank[index] + 1
    return Pairing(numbers, rank, how)


def pair_by_name(names: Sequence[str], references: Sequence[str], how: str) -> Pairing:
    """Pairs by the names of references, with a number behind them or without.

    ``mp-5``, ``mp-5_0``, ``mp-5-2`` were made for ``mp-5``. A name that is a
    reference's as it stands is never shortened.
    """
    numbers = {name: i for i, name in reversed(list(enumerate(references)))}

    def find(name: str) -> int:
        found = numbers.get(name)
        return numbers.get(_NUMBER.sub("", name), -1) if found is None else found

    return pair([find(name) for name in names], how)


def pair_in_rounds(num_generated: int, num_references: int) -> Pairing:
    """One for each reference, then a second one for each, and so on."""
    return pair(np.arange(num_generated) % max(num_references, 1), "in rounds")


def pair_in_rows(num_generated: int, num_references: int) -> Pairing:
    """All of the first reference, then all of the second; equally many each."""
    each = max(num_generated // max(num_references, 1), 1)
    numbers = np.arange(num_generated) // each
    return pair(np.where(numbers < num_references, numbers, -1), "in rows")


def agrees(
    pairing: Pairing, formulas: Sequence[str], reference_formulas: Sequence[str]
) -> bool:
    """Whether every crystal that is paired has its reference's reduced formula.

    Args:
        pairing: of the generated crystals.
        formulas: reduced formulas; "" for what is no crystal, which agrees with all.
        reference_formulas: the same of the references.
    """
    return all(
        number >= 0 and (not formula or reference_formulas[number] in ("", formula))
        for number, formula in zip(pairing.reference.tolist(), formulas, strict=True)
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Side:
    """Generated crystals, or references: names, and reduced formulas ("" for none)."""

    names: Sequence[str]
    formulas: Sequence[str]


def choose(
    how: str,
    generated: Side,
    references: Side,
    columns: Mapping[str, Sequence[Any]],
) -> Pairing | None:
    """A pairing as requested, or the first that contradicts no formula.

    Args:
        how: name, rounds, rows, none; or auto: by name if that pairs at least half of
            the generated crystals, then by order if there are equally many for each
            reference, and none unless all that are paired have their reference's
            reduced formula.
        generated: what was made.
        references: for which it was made.
        columns: of the generated crystals, which may name references.

    Raises:
        ValueError: names are requested, and none is a reference's.
    """
    num_generated, num_references = len(generated.names), len(references.names)
    named = [
        pair_by_name(
            ["" if each is None else str(each) for each in values],
            references.names,
            f"by the column {column}",
        )
        for column, values in columns.items()
    ]
    named.append(pair_by_name(generated.names, references.names, "by name"))
    best = max(named, key=lambda each: each.num_paired)
    if how == "name" and not best.num_paired:
        raise errors.UserError(
            "no generated crystal has the name of a reference, such as "
            f"{references.names[0]!r}; the first is {generated.names[0]!r}: give "
            "another `pairing=`"
        )
    if how != "auto":
        return {
            "name": best,
            "rounds": pair_in_rounds(num_generated, num_references),
            "rows": pair_in_rows(num_generated, num_references),
            "none": None,
        }[how]
    candidates = [best] if 2 * best.num_paired >= num_generated else []
    if num_generated % num_references == 0:
        candidates += [
            pair_in_rounds(num_generated, num_references),
            pair_in_rows(num_generated, num_references),
        ]
    for each in candidates:
        if agrees(each, generated.formulas, references.formulas):
            return dataclasses.replace(
                each, how=f"{each.how}, which contradicts no formula"
            )
    return None
