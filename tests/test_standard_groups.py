"""The tables of the 230 groups against spglib, pyxtal and what groups have to obey."""

import numpy as np
import pytest
import spglib
from pyxtal import symmetry as pyxtal_symmetry

from crystaljax.crystals import space_groups, standard_groups

NUMBERS = range(1, 231)
BLOCKS = [range(first, first + 46) for first in range(1, 231, 46)]


def groups(numbers=NUMBERS):
    return [standard_groups.load_group(number) for number in numbers]


def is_whole(values, tolerance=1e-6):
    return np.abs(values - np.round(values)).max(initial=0) < tolerance


def sites(position, u):
    return position.linear @ u + position.offsets


def random_u(position, seed):
    """Parameters of a point in general place on the position; 0 beyond its freedom."""
    u = np.random.default_rng(seed).random(3)
    return np.where(np.arange(3) < position.freedom, u, 0)


def same_sites(one, other):
    """Whether two lists of points are equal modulo lattice vectors and order."""
    apart = one[:, None] - other[None]
    near = np.abs(apart - np.round(apart)).max(axis=-1) < 1e-6
    return len(one) == len(other) and bool((near.sum(axis=0) == 1).all())


# ------------------------------------------------------------------------- operations
def test_operations_are_those_of_spglib_in_the_conventional_basis():
    for group in groups():
        kind = spglib.get_spacegroup_type(group.hall_number)
        assert kind.number == group.number
        symmetry = spglib.get_symmetry_from_database(group.hall_number)
        theirs = {
            (*rotation.ravel().tolist(), *(np.rint(24 * shift).astype(int) % 24))
            for rotation, shift in zip(
                symmetry["rotations"], symmetry["translations"], strict=True
            )
        }
        basis = group.centring
        rotations = basis @ group.rotations @ np.linalg.inv(basis)
        assert is_whole(rotations)
        # Primitive vectors are the centring translations.
        vectors = np.stack(np.meshgrid(*[np.arange(3)] * 3), -1).reshape(-1, 3)
        ours = {
            (*rotation, *shift)
            for rotation, shifts in zip(
                np.rint(rotations).astype(int).reshape(-1, 9).tolist(),
                np.rint(24 * (group.translations[:, None] + vectors) @ basis.T) % 24,
                strict=True,
            )
            for shift in shifts.astype(int)
        }
        assert ours == theirs, group.number


def test_operations_are_those_of_the_package_for_one_origin_choice():
    """`space_groups` has origin choice 1: equal but for groups with two choices."""
    table = space_groups.load_space_group_operations()
    equal = 0
    for group in groups():
        theirs = table[group.number][table[group.number][:, 3, 3] == 1]
        basis = group.centring
        rotations = np.rint(basis @ group.rotations @ np.linalg.inv(basis))
        assert {r.tobytes() for r in rotations + 0.0} == {
            r.tobytes() for r in theirs[:, :3, :3].astype(float) + 0.0
        }
        if np.abs(theirs[0, :3, 3]).max() == 0:
            shifts = group.translations @ basis.T
            apart = shifts[:, None] - theirs[None, :, :3, 3]
            matching = (np.abs(apart - np.round(apart)).max(-1) < 1e-5) & (
                rotations[:, None] == theirs[None, :, :3, :3]
            ).all((-1, -2))
            equal += bool(matching.any(axis=1).all())
    # 24 groups have two origins.
    assert equal == 206


# -------------------------------------------------------------------------- positions
@pytest.mark.parametrize("numbers", BLOCKS)
def test_positions_are_those_of_pyxtal(numbers):
    for group in groups(numbers):
        basis = np.linalg.inv(group.centring)
        points = round(np.linalg.det(basis))
        listed = pyxtal_symmetry.get_wyckoffs(group.number)[::-1]
        assert len(listed) == len(group.positions)
        for index, (position, members) in enumerate(
            zip(group.positions, listed, strict=True)
        ):
            assert position.letter == "abcdefghijklmnopqrstuvwxyzA"[index]
            assert len(members) == position.multiplicity * points
            xyz = np.random.default_rng(index).random(3)
            theirs = np.array([member.operate(xyz) for member in members]) @ basis.T
            # The first site gives the parameters with which ours are the same sites.
            coords = position.inverse @ (theirs[0] - position.offset)
            assert is_whole(coords[position.freedom :])
            u = np.where(np.arange(3) < position.freedom, coords, 0)
            ours = sites(position, u)
            apart = theirs[:, None] - ours[None]
            near = np.abs(apart - np.round(apart)).max(-1) < 1e-4
            assert (near.sum(axis=1) == 1).all(), (group.number, position.letter)
            assert (near.sum(axis=0) == points).all(), (group.number, position.letter)


@pytest.mark.parametrize("numbers", BLOCKS)
def test_letters_and_site_symmetries_are_those_of_spglib(numbers):
    """One crystal a group with all positions filled, an element for each."""
    for group in groups(numbers):
        # One orbit alone may be more symmetric than the group.
        filled = [*group.positions, *[group.positions[-1]] * 2]
        coords = np.concatenate(
            [sites(p, random_u(p, 7 * i)) for i, p in enumerate(filled)]
        )
        owner = np.repeat(np.arange(len(filled)), [p.multiplicity for p in filled])
        # No lattice is more symmetric than the group.
        strain = np.random.default_rng(group.number).normal(size=len(group.strains))
        strain = np.einsum("k,kij->ij", 0.2 * strain, group.strains)
        values, vectors = np.linalg.eigh(strain)
        metric = (vectors * np.exp(values)) @ vectors.T
        lattice = np.linalg.cholesky(group.root @ metric @ group.root) * 10
        found = spglib.get_symmetry_dataset(
            (lattice, coords, owner + 1), 1e-5, hall_number=group.hall_number
        )
        assert found.number == group.number
        basis = np.linalg.inv(group.centring)
        # spglib may have moved the origin: its letters are those of where sites are.
        moved = coords @ found.transformation_matrix.T
        moved = (moved + found.origin_shift) @ basis.T
        for index, position in enumerate(filled):
            of_position = np.flatnonzero(owner == index)
            letters = {found.wyckoffs[i] for i in of_position}
            symbols = {found.site_symmetry_symbols[i] for i in of_position}
            named = [
                (p.letter, p.site_symmetry)
                for p in group.positions
                if p.multiplicity == position.multiplicity
                and p.freedom == position.freedom
                and any(
                    is_whole((p.inverse @ (x - p.offset))[p.freedom :], 1e-4)
                    for x in moved[of_position]
                )
            ]
            assert len(named) == 1
            assert letters == {named[0][0]}
            assert {s.replace(".", "") for s in symbols} == {
                named[0][1].replace(".", "").replace(" ", "")
            }, (group.number, position.letter)


def test_bases_and_projectors():
    for group in groups():
        for position in group.positions:
            freedom = position.freedom
            np.testing.assert_array_equal(
                position.inverse @ position.basis,
                np.eye(3, dtype=int) * (np.arange(3) < freedom),
            )
            assert abs(round(np.linalg.det(position.inverse))) == 1
            np.testing.assert_allclose(
                position.projector @ position.basis, position.basis, atol=1e-12
            )
            assert np.linalg.matrix_rank(position.projector) == freedom
            # The origin is free along the first axes of every position.
            polar = position.basis[:, : group.num_polar]
            np.testing.assert_array_equal(
                polar, group.positions[0].basis[:, : group.num_polar]
            )
            assert (group.rotations @ polar == polar).all()
        assert group.num_polar == round(np.trace(group.rotations.mean(axis=0)))


def test_equivalent_parameters_give_the_same_sites():
    for group in groups():
        order = len(group.rotations)
        for index, position in enumerate(group.positions):
            u = random_u(position, index)
            ours = sites(position, u)
            others = position.equivalent_matrices @ u + position.equivalent_vectors
            for other in others:
                assert same_sites(sites(position, other), ours)
            # As many as there are sites of the orbit in the subspace of the first.
            coords = (ours - position.offset) @ position.inverse.T
            inside = np.abs(coords - np.round(coords))[:, position.freedom :]
            assert len(others) == (inside.max(axis=1, initial=0) < 1e-6).sum() or (
                position.freedom == 0 and len(others) == 1
            )
            assert order % len(others) == 0


# ------------------------------------------------------------------------- normaliser
@pytest.mark.parametrize("numbers", BLOCKS)
def test_changes_carry_sites_to_sites(numbers):
    rng = np.random.default_rng(0)
    for group in groups(numbers):
        for changes in (group.changes, group.shifts):
            chosen = rng.permutation(len(changes.linear))[:12]
            for change in chosen.tolist():
                linear = changes.linear[change]
                assert abs(round(np.linalg.det(linear))) == 1
                inverse = np.linalg.inv(linear)
                images = np.rint(linear @ group.rotations @ inverse).astype(int)
                assert {r.tobytes() for r in images} == {
                    r.tobytes() for r in group.rotations
                }
                assert sorted(changes.targets[change]) == list(
                    range(len(group.positions))
                )
                for index, position in enumerate(group.positions):
                    u = random_u(position, index)
                    moved = sites(position, u) @ linear.T
                    moved = moved + changes.translations[change]
                    target = group.positions[changes.targets[change, index]]
                    v = changes.matrices[change, index] @ u
                    v = v + changes.vectors[change, index]
                    assert same_sites(sites(target, v), moved)


def test_the_identity_is_the_first_change():
    for group in groups():
        for changes in (group.changes, group.shifts):
            np.testing.assert_array_equal(changes.linear[0], np.eye(3))
            np.testing.assert_array_equal(changes.translations[0], 0)
            np.testing.assert_array_equal(
                changes.targets[0], np.arange(len(group.positions))
            )


@pytest.mark.parametrize(
    ("number", "num_changes", "num_shifts"),
    [
        # Index of the group in its affine normaliser, International Tables A, 15.2.
        (225, 1, 2),  # Fm-3m in Pm-3m (a/2)
        (221, 1, 2),  # Pm-3m in Im-3m
        (227, 1, 2),
        (216, 2, 4),  # F-43m in Im-3m (a/2)
        (191, 1, 2),
        (194, 1, 2),
        (62, 1, 8),  # Pnma in Pmmm (a/2, b/2, c/2)
        (47, 6, 8),  # Pmmm, axes exchanged too
        (19, 12, 8),  # P2_12_12_1, six of them mirror images
        (99, 2, 2),  # P4mm, a polar axis that may be turned round
        (160, 2, 1),
        (2, 3480, 8),
    ],
)
def test_known_indices_of_normalisers(number, num_changes, num_shifts):
    group = standard_groups.load_group(number)
    assert len(group.changes.linear) == num_changes
    assert len(group.shifts.linear) == num_shifts


def test_mirror_images_only_where_a_group_has_no_mirror():
    for group in groups():
        has_improper = (np.linalg.det(group.rotations) < 0).any()
        assert group.changes.proper.all() or not has_improper
        assert group.shifts.proper.all()
    # A normaliser keeps the screw of an enantiomorphic group.
    for number in (76, 78, 144, 145, 212, 213):
        assert standard_groups.load_group(number).changes.proper.all()
    assert not standard_groups.load_group(19).changes.proper.all()


# --------------------------------------------------------------------------- lattices
def test_strains_give_all_invariant_metrics_and_no_others():
    kinds = {1: 6, 3: 4, 16: 3, 75: 2, 143: 2, 168: 2, 195: 1}
    for group in groups():
        first = max(number for number in kinds if number <= group.number)
        assert len(group.strains) == kinds[first]
        inner = np.einsum("aij,bij->ab", group.strains, group.strains)
        np.testing.assert_allclose(inner, np.eye(len(inner)), atol=1e-12)
        np.testing.assert_allclose(group.strains[0], np.eye(3) / 3**0.5, atol=1e-12)
        assert np.linalg.det(group.root) == pytest.approx(1)
        reference = group.root @ group.root
        metrics = [group.root @ strain @ group.root for strain in group.strains]
        for metric in (reference, *metrics):
            images = group.rotations.swapaxes(1, 2) @ metric @ group.rotations
            np.testing.assert_allclose(images, metric + 0 * images, atol=1e-12)


# ---------------------------------------------------------------------------- loading
@pytest.mark.parametrize("number", [0, 231, -1])
def test_no_such_space_group(number):
    with pytest.raises(ValueError, match="expected a number from 1 to 230"):
        standard_groups.load_group(number)


def test_shared_arrays_are_read_only():
    group = standard_groups.load_group(62)
    for array in (
        group.rotations,
        group.root,
        group.strains,
        group.positions[0].offsets,
        group.changes.matrices,
    ):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
