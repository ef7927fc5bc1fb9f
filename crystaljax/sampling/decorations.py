"""The prototype of a crystal with other elements in the places of its own."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from crystaljax.crystals import elements, standard_choice
from crystaljax.models import prototype_library, scaling, wyckoff_model
from crystaljax.sampling import likely_orbits, polymorph_sources
from crystaljax.system import errors


def parse(text: str) -> list[dict[str, str]]:
    """``Ta:Nb,B:C;Ta:V`` → [{Ta: Nb, B: C}, {Ta: V}].

    Raises:
        UserError: unreadable, an element that is none, or one replaced twice.
    """
    decorations = []
    for part in text.split(";") if text.strip() else ():
        replaced: dict[str, str] = {}
        for pair in part.split(","):
            old, colon, new = (each.strip() for each in pair.partition(":"))
            known = old in elements.SYMBOLS and new in elements.SYMBOLS
            if not (colon and known) or old in replaced or old == new:
                raise errors.UserError(
                    f"decorate: cannot read {pair.strip()!r} in {text!r}; expected "
                    "each element once with what takes its place, such as Ta:Nb or "
                    "Ta:Nb,B:C, and ; between several crystals"
                )
            replaced[old] = new
        decorations.append(replaced)
    return decorations


def decorate(
    source: polymorph_sources.Source, replaced: Mapping[str, str]
) -> polymorph_sources.Source:
    """The same prototype with other elements; the source where there are none.

    Raises:
        UserError: an element is not in it, or two species become one.
    """
    if not replaced:
        return source
    species = np.unique(source.crystal.atomic_numbers).tolist()
    has = [elements.symbol(each) for each in species]
    missing = [each for each in replaced if each not in has]
    text = ",".join(f"{old}:{new}" for old, new in replaced.items())
    if missing:
        raise errors.UserError(
            f"decorate={text}: {source.formula} has no {', '.join(missing)}; expected "
            f"elements among {', '.join(has)}"
        )
    after = [replaced.get(each, each) for each in has]
    if len(set(after)) < len(after):
        raise errors.UserError(
            f"decorate={text} makes one element of two in {source.formula}, which is "
            "another prototype; expected different elements for different species"
        )
    numbers = {
        elements.atomic_number(old): elements.atomic_number(new)
        for old, new in zip(has, after, strict=True)
    }
    changed = dataclasses.replace(
        source.crystal,
        atomic_numbers=np.array([numbers[n] for n in source.crystal.atomic_numbers]),
    )
    return dataclasses.replace(
        source,
        name=f"{source.name}, {text}",
        crystal=standard_choice.choose(changed),
        is_decorated=True,
    )


def request(
    source: polymorph_sources.Source, energy: float, scale: scaling.Scaling
) -> likely_orbits.Request:
    """The prototype of a source with its new elements, in a cell as large as they are.

    The elements' own known structures of the prototype, where there are any, and the
    source's are followed; the volume is between theirs and the network's.
    """
    crystal = source.crystal
    question = prototype_library.question_of(
        source.cell.atomic_numbers, energy, crystal.space_group
    )
    strain = crystal.strain.copy()
    strain[0] -= source.size_strain
    mendeleev = elements.mendeleev_number()
    before = np.sort(mendeleev[np.unique(source.original.atomic_numbers)])
    after = np.sort(mendeleev[np.unique(crystal.atomic_numbers)])
    distance = float(np.sqrt(np.mean(((before - after) / 10.0) ** 2)))
    return likely_orbits.Request(
        question,
        wyckoff_model.assignment_of(crystal),
        prototype=likely_orbits.Prototype(crystal.parameters, strain, distance),
    )
