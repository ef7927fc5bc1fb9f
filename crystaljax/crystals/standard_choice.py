"""One of the descriptions that a crystal has in the standard setting of its group.

The setting leaves open which of several axes is called a, where of several equivalent
places the origin is, and which site of an orbit is written down: the normaliser of the
group relates the alternatives. Equal crystals should come out equal, and crystals of
one prototype alike. So the choice goes by, in this order:

1. the shortest basis, within a tolerance (it is unique but for triclinic and monoclinic
   groups);
2. the Wyckoff positions, species by species: those with few sites first, then by
   Mendeleev number, so that the choice survives a change of elements;
3. the strains, within a tolerance;
4. the parameters, on a coarse grid and then on a fine one.

In polar groups one orbit is chosen by its species and position alone; its parameters
along the polar directions are 0.
"""

import collections

import numpy as np
from jaxtyping import Bool, Float, Int

from crystaljax.crystals import elements, orbits, standard_groups

# Of the trace of the metric: bases that are as short as this are all tried.
_TRACE_TOLERANCE = 0.03
# Of strains, which are logarithms of squared lengths.
_STRAIN_TOLERANCE = 0.02
# Parameters are compared on a grid of 32, then of 4096 steps.
_COARSE_BITS = 5
_FINE_BITS = 12


def species_order(atomic_numbers: Int[np.ndarray, " sites"]) -> list[int]:
    """Atomic numbers of the species: fewest sites first, then by Mendeleev number."""
    counts = collections.Counter(np.asarray(atomic_numbers).tolist())
    mendeleev = elements.mendeleev_number()
    return sorted(counts, key=lambda number: (counts[number], mendeleev[number]))


def find_anchor(
    group: standard_groups.Group, roles: np.ndarray, positions: np.ndarray
) -> int:
    """The orbit that fixes the origin along polar directions.

    It is of the species and position with the fewest ways to be it, the first of these.

    Args:
        group: any; without polar directions the answer is of no use.
        roles: (orbits,), species in the order of `species_order`, ascending.
        positions: (orbits,), ascending where species agree.
    """
    kinds = list(zip(roles.tolist(), positions.tolist(), strict=True))
    ways = collections.Counter(kinds)

    def cost(index: int) -> tuple[int, int]:
        position = group.positions[kinds[index][1]]
        return ways[kinds[index]] * len(position.equivalent_vectors), index

    return min(range(len(kinds)), key=cost)


def free_parameters(crystal: orbits.OrbitCrystal) -> Bool[np.ndarray, "orbits 3"]:
    """What is free in a crystal that `choose` returned: all but the origin."""
    group = standard_groups.load_group(crystal.space_group)
    freedom = np.array([group.positions[i].freedom for i in crystal.positions])
    free = np.arange(3) < freedom[:, None]
    free[anchor_of(crystal), : group.num_polar] = False
    return free


def anchor_of(crystal: orbits.OrbitCrystal) -> int:
    """`find_anchor` of a crystal whose orbits are in the order of `choose`."""
    group = standard_groups.load_group(crystal.space_group)
    return find_anchor(group, _roles(group, crystal), crystal.positions)


def transform(
    crystal: orbits.OrbitCrystal, change: int = 0, shift: int = 0
) -> orbits.OrbitCrystal:
    """The same crystal in another of its descriptions, orbits in the same order.

    Args:
        crystal: any.
        change: index of the group's ``changes``; one that is not proper gives the
            mirror image.
        shift: index of the group's ``shifts``.
    """
    group = standard_groups.load_group(crystal.space_group)
    positions, parameters = _transform_orbits(
        group, crystal, np.array([change]), np.array([shift])
    )
    metric = _transform_metric(group, crystal, np.array([change]))[0]
    return orbits.OrbitCrystal(
        space_group=crystal.space_group,
        atomic_numbers=crystal.atomic_numbers,
        positions=positions[0],
        parameters=parameters[0] % 1,
        strain=orbits.strain_of_metric(group, metric),
    )


def list_short(crystal: orbits.OrbitCrystal) -> list[tuple[int, int]]:
    """Changes of basis and shifts of the origin to descriptions with short bases.

    Of these `choose` takes one; those with the smallest strains come first.
    """
    group = standard_groups.load_group(crystal.space_group)
    changes = _short_bases(group, crystal, False)
    strains = orbits.strain_of_metric(group, _transform_metric(group, crystal, changes))
    near = _smallest_strains(strains)
    rest = np.setdiff1d(np.arange(len(changes)), near)
    ordered = changes[np.concatenate([near, rest])].tolist()
    return [
        (each, shift) for each in ordered for shift in range(len(group.shifts.linear))
    ]


def plainest(
    group: standard_groups.Group,
    positions: Int[np.ndarray, " orbits"],
    parameters: Float[np.ndarray, "orbits 3"],
    anchor: int | None,
) -> Float[np.ndarray, "orbits 3"]:
    """Of the parameters that describe the same sites those with the smallest code.

    Args:
        group: of the orbits.
        positions: their indices.
        parameters: of each.
        anchor: orbit that stays as it is, `find_anchor`; None for none.
    """
    return _plainest(group, positions, parameters[None], anchor)[1][0]


def equivalents(
    position: standard_groups.Position, parameters: Float[np.ndarray, "alternatives 3"]
) -> Float[np.ndarray, "alternatives equivalents 3"]:
    """All parameters that describe the same sites."""
    moved = np.einsum("eij,aj->aei", position.equivalent_matrices, parameters)
    return moved + position.equivalent_vectors


def choose(
    crystal: orbits.OrbitCrystal, mirror_images: bool = False
) -> orbits.OrbitCrystal:
    """The description of a crystal that equal crystals share.

    Orbits are in the order of `species_order`, then of Wyckoff positions, then of their
    parameters.

    Args:
        crystal: in the standard setting of its group.
        mirror_images: whether a crystal and its mirror image come out equal.
    """
    group = standard_groups.load_group(crystal.space_group)
    roles = _roles(group, crystal)
    changes = _short_bases(group, crystal, mirror_images)
    num_shifts = len(group.shifts.linear)
    change = np.repeat(changes, num_shifts)
    shift = np.tile(np.arange(num_shifts), len(changes))
    # Wyckoff positions decide before parameters are compared.
    targets = group.changes.targets[change[:, None], crystal.positions]
    targets = group.shifts.targets[shift[:, None], targets]
    keys = np.sort(roles * 64 + targets, axis=1)
    best = _smallest_rows(keys)
    change, shift = change[best], shift[best]
    strains = orbits.strain_of_metric(group, _transform_metric(group, crystal, change))
    near = _smallest_strains(strains)
    change, shift, strains = change[near], shift[near], strains[near]

    positions, parameters = _transform_orbits(group, crystal, change, shift)
    # All alternatives have the same kinds of orbits, now in the same columns.
    order = np.argsort(roles * 64 + positions, axis=1, kind="stable")
    parameters = np.take_along_axis(parameters, order[..., None], axis=1)
    kinds = keys[best[0]]
    roles, positions = kinds // 64, kinds % 64
    rows = np.arange(len(change))
    anchor = None
    if group.num_polar:
        anchor = find_anchor(group, roles, positions)
        parameters, rows = _fix_origin(group, positions, parameters, kinds, anchor)
    codes, parameters = _plainest(group, positions, parameters, anchor)
    codes, parameters = _sort_orbits(kinds, codes, parameters, anchor)
    # All of them on the coarse grid before any on the fine one.
    coarse, fine = np.divmod(codes, 1 << 3 * _FINE_BITS)
    chosen = _smallest_rows(np.concatenate([coarse, fine], axis=1))[0]
    species = np.array(species_order(orbits.expand(crystal).atomic_numbers))
    return orbits.OrbitCrystal(
        space_group=crystal.space_group,
        atomic_numbers=species[roles],
        positions=positions,
        parameters=parameters[chosen] % 1,
        strain=strains[rows[chosen]],
    )


def _roles(
    group: standard_groups.Group, crystal: orbits.OrbitCrystal
) -> Int[np.ndarray, " orbits"]:
    """The place of each orbit's species in `species_order`."""
    sites = np.repeat(
        crystal.atomic_numbers,
        [group.positions[index].multiplicity for index in crystal.positions],
    )
    role = {number: index for index, number in enumerate(species_order(sites))}
    return np.array([role[number] for number in crystal.atomic_numbers.tolist()])


def _short_bases(
    group: standard_groups.Group, crystal: orbits.OrbitCrystal, mirror_images: bool
) -> Int[np.ndarray, " changes"]:
    """Changes to bases that are as short as can be, within the tolerance."""
    members = np.arange(len(group.changes.linear))
    if not mirror_images:
        members = np.flatnonzero(group.changes.proper)
    if len(members) == 1:
        return members
    metrics = _transform_metric(group, crystal, members)
    traces = np.trace(metrics, axis1=1, axis2=2)
    return members[traces <= traces.min() * (1 + _TRACE_TOLERANCE)]


def _transform_metric(
    group: standard_groups.Group,
    crystal: orbits.OrbitCrystal,
    change: Int[np.ndarray, " alternatives"],
) -> Float[np.ndarray, "alternatives 3 3"]:
    lattice = orbits.lattice_of_strain(group, crystal.strain)
    bases = np.swapaxes(np.linalg.inv(group.changes.linear[change]), 1, 2) @ lattice
    return bases @ np.swapaxes(bases, 1, 2)


def _transform_orbits(
    group: standard_groups.Group,
    crystal: orbits.OrbitCrystal,
    change: Int[np.ndarray, " alternatives"],
    shift: Int[np.ndarray, " alternatives"],
) -> tuple[
    Int[np.ndarray, "alternatives orbits"], Float[np.ndarray, "alternatives orbits 3"]
]:
    """Positions and parameters after changes of basis and shifts of the origin."""
    positions, parameters = crystal.positions, crystal.parameters[None]
    for elements_of, chosen in ((group.changes, change), (group.shifts, shift)):
        index = (chosen[:, None], positions)
        matrices, vectors = elements_of.matrices[index], elements_of.vectors[index]
        parameters = (matrices @ parameters[..., None])[..., 0] + vectors
        positions = elements_of.targets[index]
    return positions, parameters


def _smallest_rows(
    rows: Int[np.ndarray, "alternatives columns"],
) -> Int[np.ndarray, " smallest"]:
    """Indices of all rows that are the smallest, entry after entry."""
    left = np.arange(len(rows))
    for column in rows.T:
        values = column[left]
        left = left[values == values.min()]
        if len(left) == 1:
            break
    return left


def _smallest_strains(
    strains: Float[np.ndarray, "alternatives 6"],
) -> Int[np.ndarray, " smallest"]:
    left = np.arange(len(strains))
    # The first is the volume.
    for column in strains.T[1:]:
        values = column[left]
        left = left[values <= values.min() + _STRAIN_TOLERANCE]
    return left


def _fix_origin(
    group: standard_groups.Group,
    positions: Int[np.ndarray, " orbits"],
    parameters: Float[np.ndarray, "alternatives orbits 3"],
    kinds: Int[np.ndarray, " orbits"],
    anchor: int,
) -> tuple[Float[np.ndarray, "more orbits 3"], Int[np.ndarray, " more"]]:
    """All origins that put an orbit like the anchor to 0 along polar directions.

    Returns:
        parameters: with the orbit in the anchor's column.
        rows: the alternative of which each is a shift.
    """
    position = group.positions[positions[anchor]]
    polar = group.num_polar
    found = []
    for column in np.flatnonzero(kinds == kinds[anchor]).tolist():
        ways = equivalents(position, parameters[:, column])
        shifted = np.repeat(parameters[:, None], ways.shape[1], axis=1)
        shifted[:, :, [anchor, column]] = shifted[:, :, [column, anchor]]
        shifted[:, :, anchor] = ways
        shifted[..., :polar] -= ways[:, :, None, :polar]
        found.append(shifted)
    stacked = np.stack(found, axis=1)
    rows = np.repeat(np.arange(len(parameters)), stacked.shape[1] * stacked.shape[2])
    return stacked.reshape(-1, *parameters.shape[1:]), rows


def _plainest(
    group: standard_groups.Group,
    positions: Int[np.ndarray, " orbits"],
    parameters: Float[np.ndarray, "alternatives orbits 3"],
    anchor: int | None,
) -> tuple[
    Int[np.ndarray, "alternatives orbits"], Float[np.ndarray, "alternatives orbits 3"]
]:
    """Of the equivalent parameters of each orbit those with the smallest code.

    The anchor stays as it is: its equivalents need another origin, and are there.
    """
    codes = _codes(parameters)
    plainest = parameters.copy()
    for column, index in enumerate(positions.tolist()):
        position = group.positions[index]
        if column == anchor or not position.freedom:
            continue
        ways = equivalents(position, parameters[:, column])
        way_codes = _codes(ways)
        best = way_codes.argmin(axis=1)[:, None]
        codes[:, column] = np.take_along_axis(way_codes, best, axis=1)[:, 0]
        plainest[:, column] = np.take_along_axis(ways, best[..., None], axis=1)[:, 0]
    return codes, plainest


def _codes(parameters: Float[np.ndarray, "*batch 3"]) -> Int[np.ndarray, "*batch"]:
    """One integer for three parameters: coarse steps first, then fine ones.

    0.9999 and 0 are the same.
    """
    fine_steps, coarse_steps = 1 << _FINE_BITS, 1 << _COARSE_BITS
    fine = np.rint(parameters * fine_steps).astype(np.int64) % fine_steps
    ratio = fine_steps // coarse_steps
    coarse = (fine + ratio // 2) // ratio % coarse_steps
    code = np.zeros(parameters.shape[:-1], np.int64)
    for values, bits in ((coarse, _COARSE_BITS), (fine, _FINE_BITS)):
        for axis in range(3):
            code = (code << bits) | values[..., axis]
    return code


def _sort_orbits(
    kinds: Int[np.ndarray, " orbits"],
    codes: Int[np.ndarray, "alternatives orbits"],
    parameters: Float[np.ndarray, "alternatives orbits 3"],
    anchor: int | None,
) -> tuple[
    Int[np.ndarray, "alternatives orbits"], Float[np.ndarray, "alternatives orbits 3"]
]:
    """Orbits of one kind in order of their codes, the anchor before all of its kind."""
    ranks = codes.copy()
    if anchor is not None:
        ranks[:, anchor] = -1
    order = np.lexsort((ranks, np.broadcast_to(kinds, ranks.shape)), axis=1)
    return (
        np.take_along_axis(codes, order, axis=1),
        np.take_along_axis(parameters, order[..., None], axis=1),
    )
