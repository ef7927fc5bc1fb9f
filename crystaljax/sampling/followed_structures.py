"""Known structures that the samples of a model of orbits may follow.

A prototype with the positions of a sample stands in the place of the network's answer,
see `orbit_flow.follow`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from crystaljax.crystals import standard_groups
from crystaljax.models import prototype_structures, scaling, wyckoff_model
from crystaljax.sampling import likely_orbits

# Structures of one type differ less, in parameters (periods) and strains.
_NEAR_PARAMETERS = 0.06
_NEAR_STRAIN = 0.15


def show(
    model: wyckoff_model.WyckoffModel | None,
    requests: Sequence[likely_orbits.Request],
    num_orbits: int,
    scale: scaling.Scaling,
) -> prototype_structures.Shown:
    """The known structures that answers may follow; none without a model."""
    count = prototype_structures.MAX_SHOWN
    shape = (len(requests), count)
    parameters = np.zeros((*shape, num_orbits, 3), np.float32)
    strains = np.zeros((*shape, standard_groups.MAX_STRAINS), np.float32)
    costs = np.full(shape, np.inf, np.float32)
    for row, request in enumerate(requests):
        found = find(model, request, scale)
        for column, (known, strain, distance) in enumerate(found):
            parameters[row, column, : len(known)] = known
            strains[row, column] = strain
            costs[row, column] = distance
    rank = np.array([each.repeat for each in requests], np.int32)
    return prototype_structures.Shown(parameters, strains, costs, rank)


def find(
    model: wyckoff_model.WyckoffModel | None,
    request: likely_orbits.Request,
    scale: scaling.Scaling | None = None,
) -> list[tuple[np.ndarray, np.ndarray, float]]:
    """Known structures with the positions of a request, and with what it keeps.

    Args:
        model: of groups and positions; None for none.
        request: what is wanted.
        scale: units of the network, needed where something is kept.

    Returns:
        Their parameters, strains relative to the volume that the atoms would fill, and
        distances.
    """
    question, assignment, kept = request.question, request.assignment, request.kept
    found = []
    prototype = request.prototype
    if prototype is not None:
        found.append((prototype.parameters, prototype.strain, prototype.distance))
    if model is None or model.structures is None:
        return found
    for index, distance in model.structures.find(model.library, question, assignment):
        known: Any = model.structures.parameters[index]
        strain = model.structures.strains[index]
        if kept is not None:
            assert scale is not None
            size = prototype_structures.size_strain(
                np.asarray(scale.atomic_volumes, float),
                standard_groups.load_group(question.space_group),
                *wyckoff_model.orbits_of(question, assignment),
            )
            known = kept.arrange(question, assignment, known, strain, size)
        if prototype is not None and not _is_near(prototype, known, strain):
            known = None
        if known is not None:
            found.append((known, strain, distance))
    return found


def _is_near(
    prototype: likely_orbits.Prototype, parameters: np.ndarray, strain: np.ndarray
) -> bool:
    """Whether a known structure is of the same type, but for small changes."""
    apart = parameters - prototype.parameters
    largest = np.abs(apart - np.round(apart)).max(initial=0)
    shear = np.abs((strain - prototype.strain)[1:]).max()
    return bool(largest < _NEAR_PARAMETERS and shear < _NEAR_STRAIN)


def follows_known(
    model: wyckoff_model.WyckoffModel,
    request: likely_orbits.Request,
    scale: scaling.Scaling | None = None,
) -> bool:
    """Whether a known structure is left that a sample can follow."""
    return request.repeat < len(find(model, request, scale))
