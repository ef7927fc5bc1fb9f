"""Space groups that a part of a crystal allows, against spglib and by brute force."""

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from crystaljax.crystals import (
    bridge,
    kept_groups,
    kept_settings,
    orbits,
    structure,
    symmetry_search,
)


def build(group, lattice, species, coords, matrix=None):
    made = Structure.from_spacegroup(group, lattice, species, coords)
    if matrix is not None:
        made = made * matrix
    return bridge.from_pymatgen(made)


def licoo2():
    lattice = Lattice.hexagonal(2.82, 14.05)
    coords = [[0, 0, 0.5], [0, 0, 0], [0, 0, 0.2605]]
    return build("R-3m", lattice, ["Li", "Co", "O"], coords)


def heusler():
    coords = [[0, 0, 0], [0.5, 0.5, 0.5], [0.25, 0.25, 0.25]]
    return build("Fm-3m", Lattice.cubic(5.95), ["Mn", "Al", "Cu"], coords)


def wurtzite():
    coords = [[1 / 3, 2 / 3, 0.1], [1 / 3, 2 / 3, 0.482]]
    return build("P6_3mc", Lattice.hexagonal(3.2, 5.2), ["Zn", "O"], coords)


def triclinic():
    lattice = Lattice.from_parameters(4.1, 5.3, 6.2, 81, 77, 68)
    coords = [[0.1, 0.2, 0.3], [0.4, 0.15, 0.72], [0.5, 0.5, 0.5]]
    return build("P-1", lattice, ["Ca", "Si", "Mg"], coords)


CASES = {
    "LiCoO2": (licoo2, [27, 8], 166),
    "Heusler": (heusler, [29], 225),
    "wurtzite": (wurtzite, [30], 186),
    "triclinic": (triclinic, [20, 12], 2),
}


@pytest.mark.parametrize("name", list(CASES))
def test_settings_bring_kept_orbits_to_the_kept_sites(name):
    build_fn, kept, group = CASES[name]
    crystal = build_fn()
    is_kept = np.isin(crystal.atomic_numbers, kept)
    settings = kept_groups.find_settings(crystal, is_kept)
    # The crystal's own group comes first.
    assert settings[0].space_group == group
    assert settings[0].num_cells * settings[0].kept.num_sites == is_kept.sum()
    wanted = crystal.frac_coords[is_kept]
    for each in settings[:3]:
        for setting in kept_settings.describe_anew(each).settings:
            cell = orbits.expand(setting.kept)
            found = setting.to_cell(cell.frac_coords)
            numbers = np.repeat(cell.atomic_numbers, setting.num_cells)
            apart = found[:, None] - wanted
            distances = np.linalg.norm(
                (apart - np.round(apart)) @ crystal.lattice, axis=-1
            )
            other = numbers[:, None] != crystal.atomic_numbers[is_kept]
            distances[other] = np.inf
            nearest = distances.argmin(axis=1)
            assert distances.min(axis=1).max() < 1e-3
            assert sorted(nearest.tolist()) == list(range(len(wanted)))
            rows = setting.cell_lattice(cell.lattice)
            np.testing.assert_allclose(
                rows @ rows.T, crystal.lattice @ crystal.lattice.T, atol=1e-4
            )


def test_subgroups_are_all_that_there_are():
    """Of m-3m there are 33 classes; those with the same translations are found."""
    salt = build(
        "Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]
    )
    settings = kept_groups.find_settings(salt, salt.atomic_numbers == 17)
    assert len(settings) == 33
    assert {225, 216, 139, 166, 12, 2, 1} <= {each.space_group for each in settings}
    assert all(each.num_cells == 4 for each in settings)


def test_alternatives_that_leave_the_part_alone_are_one_crystal():
    """Zinc on either half of the tetrahedra of sulphur is sphalerite."""
    lattice = Lattice.cubic(5.41)
    blende = build("F-43m", lattice, ["Zn", "S"], [[0, 0, 0], [0.25, 0.25, 0.25]])
    is_kept = blende.atomic_numbers == 16
    setting = kept_groups.find_settings(blende, is_kept)[0]
    found = kept_settings.describe_anew(setting)
    sulphur = int(setting.kept.positions[0])
    free = [each for each in range(4) if each != sulphur]
    keys = {found.key(found.targets[0], ((each,), (sulphur,))) for each in free}
    # Octahedra, and either tetrahedra.
    assert len(keys) == 2


def test_a_cell_that_is_to_be_primitive_has_no_translations():
    host = build("Pm-3m", Lattice.cubic(3.9), ["Ni"], [[0, 0, 0]], (2, 2, 1))
    every = np.ones(host.num_sites, bool)
    assert kept_groups.find_settings(host, every)[0].num_cells > 1
    settings = kept_groups.find_settings(host, every, as_primitive=True)
    assert all(each.num_cells == 1 for each in settings)
    # One atom more in the middle of the cell: fourfold axes and mirrors stay.
    assert 123 in {each.space_group for each in settings}


def test_generated_sites_have_the_group_in_the_cell_of_the_template():
    crystal = licoo2()
    is_kept = crystal.atomic_numbers != 3
    for each in kept_groups.find_settings(crystal, is_kept)[:5]:
        rng = np.random.default_rng(0)
        group = kept_groups.standard_groups.load_group(each.space_group)
        general = group.positions[-1]
        sites = general.linear @ rng.random(3) + general.offsets
        new = each.to_cell(sites)
        made = structure.Crystal(
            np.concatenate([crystal.atomic_numbers[is_kept], np.full(len(new), 3)]),
            np.concatenate([crystal.frac_coords[is_kept], new]),
            crystal.lattice,
        )
        assert symmetry_search.find_space_group(made, 1e-3) == each.space_group


def test_what_breaks_a_group_is_named():
    crystal = licoo2()
    names = [f"site {i}" for i in range(crystal.num_sites)]
    is_kept = crystal.atomic_numbers == 8
    is_kept[0] = True
    text = kept_groups.explain(crystal, is_kept, 166, names)
    assert "site 0 breaks it" in text and "without others of its orbit" in text
    every = crystal.atomic_numbers != 3
    assert "lattice" in kept_groups.explain(crystal, every, 221, names)
