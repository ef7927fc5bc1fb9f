"""A kept part: exact in what comes out, symmetric with the rest, errors by name."""

import dataclasses

import ase.io
import jax
import numpy as np
import pytest
import test_kept_groups as crystals_of
import test_orbit_generation as tiny_orbits
from pymatgen.core import Lattice

from crystaljax import sample
from crystaljax.crystals import (
    bridge,
    elements,
    kept_groups,
    kept_settings,
    kept_sites,
    orbits,
    structure,
    structure_files,
    symmetry_search,
    wyckoff_assignments,
)
from crystaljax.models import prototype_library
from crystaljax.sampling import kept_parts, kept_questions, likely_orbits
from crystaljax.system import errors

SHAPES = ((4, 16), (12, 24))


def requests_of(crystal, is_kept, lattice="kept", limit=3):
    """A few ways to put back what is not kept, in each group that allows it."""
    part = dataclasses.replace(
        crystal,
        atomic_numbers=crystal.atomic_numbers[is_kept],
        frac_coords=crystal.frac_coords[is_kept],
    )
    made = []
    for found in kept_groups.find_settings(crystal, is_kept)[:20]:
        counts = np.unique(crystal.atomic_numbers, return_counts=True)[1]
        if (counts % found.num_cells).any():
            continue
        for setting in kept_settings.describe_anew(found).settings[:2]:
            question = prototype_library.question_of(
                crystal.atomic_numbers, 0.0, setting.space_group, setting.num_cells
            )
            ways = wyckoff_assignments.list_assignments(
                setting.space_group,
                question.counts,
                kept=kept_parts.positions_of(setting, question.species),
            )
            ways = [way for way in ways if sum(map(len, way)) <= SHAPES[-1][0]]
            kept = kept_parts.KeptPart(setting, part, lattice)
            made += [
                likely_orbits.Request(question, way, setting.num_cells, kept=kept)
                for way in ways[-limit:]
            ]
    return part, likely_orbits.number_repeats(made)


@pytest.mark.parametrize("lattice", kept_parts.LATTICES)
@pytest.mark.parametrize("name", list(crystals_of.CASES))
def test_kept_sites_are_exact_and_the_group_is_there(name, lattice):
    build_fn, kept, _ = crystals_of.CASES[name]
    crystal = build_fn()
    is_kept = np.isin(crystal.atomic_numbers, kept)
    part, requests = requests_of(crystal, is_kept, lattice)
    assert requests
    own = dataclasses.replace(tiny_orbits.generator(), shapes=SHAPES, batch_size=32)
    made = own.generate(requests, jax.random.key(1))
    count = part.num_sites
    for request, each in zip(requests, made, strict=True):
        np.testing.assert_array_equal(each.atomic_numbers[:count], part.atomic_numbers)
        np.testing.assert_array_equal(each.frac_coords[:count], part.frac_coords)
        whole = elements.cell_formula(crystal.atomic_numbers)
        assert elements.cell_formula(each.atomic_numbers) == whole
        if lattice == "kept":
            np.testing.assert_array_equal(each.lattice, crystal.lattice)
        elif lattice == "scaled":
            ratio = each.lattice[0, 0] / crystal.lattice[0, 0]
            np.testing.assert_allclose(each.lattice, ratio * crystal.lattice)
            assert abs(ratio - 1) > 1e-6
        # Two orbits may fall together where nothing is learned; the group stays.
        operations = kept_settings.operations_in_cell(request.kept.setting)
        assert kept_settings.has_operations(each, operations)


def test_kept_parameters_are_exact_on_the_device():
    crystal = crystals_of.licoo2()
    is_kept = crystal.atomic_numbers != 3
    _, requests = requests_of(crystal, is_kept)
    kept = kept_parts.build_kept(
        [(each.kept, each.question, each.assignment) for each in requests], 12
    )
    from crystaljax.models import orbit_flow, processes
    from crystaljax.models.networks import orbit_transformer
    from crystaljax.sampling import orbit_generation

    own = tiny_orbits.generator()
    model = orbit_transformer.OrbitTransformer(
        width=16, depth=1, num_heads=2, pair_features=4
    )
    process = processes.FlowMatching(
        processes.sample_torus, period=1.0, answer="direction"
    )
    conditions = orbit_generation.build_conditions(requests, 12, 24)
    keys = jax.random.split(jax.random.key(0), len(requests))

    @jax.jit
    def run(params, tables, conditions, keys, kept):
        return orbit_flow.sample(
            model,
            process,
            params,
            tables,
            own.scale,
            conditions,
            keys,
            num_steps=3,
            kept=kept,
        )[:2]

    parameters, strain = run(own.params, orbits.load_tables(), conditions, keys, kept)
    np.testing.assert_array_equal(
        np.asarray(parameters)[kept.is_kept], kept.parameters[kept.is_kept]
    )
    np.testing.assert_array_equal(
        np.asarray(strain)[kept.keeps_strain], kept.strain[kept.keeps_strain]
    )
    # The rest is the network's own.
    assert np.ptp(np.asarray(parameters)[~kept.is_kept]) > 0.1


# --------------------------------------------------------------------- which are kept
def crystal_and_columns():
    crystal = crystals_of.licoo2()
    columns = {
        "fixed": np.arange(12) < 3,
        "tags": np.arange(12) % 4,
        "label": np.array(["a"] * 6 + ["b"] * 6),
    }
    return crystal, columns


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Li", [0, 1, 2]),
        ("0,2", [0, 2]),
        ("1:3", [1, 2, 3]),
        ("Co,0", [0, 3, 4, 5]),
        ("fixed", [0, 1, 2]),
        ("tags:1", [1, 5, 9]),
        ("label:b", list(range(6, 12))),
        ("all", list(range(12))),
    ],
)
def test_sites_are_chosen_by_element_number_and_column(text, expected):
    chosen = kept_sites.choose_sites(text, *crystal_and_columns())
    assert np.flatnonzero(chosen).tolist() == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "keeps nothing"),
        (" , ", "keeps nothing"),
        ("Ta", "'Ta' fits no site of Co3Li3O6"),
        ("tags:7", "'tags:7' fits no site"),
        ("12", "'12' is out of range; Co3Li3O6 has 12 sites, 0 to 11"),
        ("-1", "out of range"),
        ("5:2", "out of range"),
        ("colour", "is no element, number, or column .this file has fixed, tags"),
        ("label", "holds text; name a value, such as label:a"),
    ],
)
def test_what_fits_no_site_is_named(text, message):
    with pytest.raises(errors.UserError, match=message):
        kept_sites.choose_sites(text, *crystal_and_columns())


def test_a_column_of_an_extxyz_file_says_what_is_kept(tmp_path):
    crystal = crystals_of.licoo2()
    atoms = bridge.to_ase(crystal)
    atoms.arrays["host"] = crystal.atomic_numbers != 3
    ase.io.write(tmp_path / "a.extxyz", atoms)
    template = kept_sites.read_template(tmp_path / "a.extxyz", "host")
    np.testing.assert_array_equal(template.is_kept, crystal.atomic_numbers != 3)
    np.testing.assert_allclose(template.crystal.frac_coords, crystal.frac_coords)


def test_formulas_are_those_of_the_cell_that_holds_the_kept_sites(tmp_path):
    crystal = crystals_of.licoo2()
    is_kept = crystal.atomic_numbers != 3
    template = kept_sites.Template(tmp_path, crystal, is_kept)
    assert kept_questions.cell_of(template, None) == "Co3Li3O6"
    assert kept_questions.cell_of(template, "LiCoO2") == "Co3Li3O6"
    assert kept_questions.cell_of(template, "LiCo3O6") == "Co3Li1O6"
    with pytest.raises(errors.UserError, match=r"does not contain .* Co3O6: .* Co$"):
        kept_questions.cell_of(template, "LiNiO2")
    with pytest.raises(errors.UserError, match="nothing is left to generate"):
        kept_questions.cell_of(template, "CoO2")
    every = dataclasses.replace(template, is_kept=np.ones(12, bool))
    with pytest.raises(errors.UserError, match="nothing is left to generate"):
        kept_questions.cell_of(every, None)


# -------------------------------------------------------------------- the whole command
@pytest.fixture(scope="module")
def cif(tmp_path_factory):
    path = tmp_path_factory.mktemp("template") / "licoo2.cif"
    structure_files.write_cifs(path.parent / "cifs", [crystals_of.licoo2()], ["licoo2"])
    return path.parent / "cifs" / "licoo2.cif"


def test_a_species_that_was_removed_is_put_back(cif, tmp_path, capsys):
    output = tmp_path / "samples"
    arguments = [f"--template={cif}", "--keep=Co,O", "--num_samples=2"]
    sample.main([*arguments, f"--output={output}"])
    assert "R-3m (166)" in capsys.readouterr().out
    options = sample.SampleOptions(template=str(cif), keep="Co,O", num_samples=2)
    made = sample.sample(options)
    template = kept_sites.read_template(cif, "Co,O")
    first = made.crystals[0]
    np.testing.assert_array_equal(first.lattice, template.crystal.lattice)
    np.testing.assert_array_equal(first.frac_coords[:9], template.part.frac_coords)
    # Where it was, and with the symmetry that it had.
    lithium = template.crystal.frac_coords[template.crystal.atomic_numbers == 3]
    apart = first.frac_coords[9:, None] - lithium
    assert np.abs(apart - np.round(apart)).max(axis=-1).min(axis=1).max() < 1e-3
    assert symmetry_search.find_space_group(first, 1e-3) == 166
    # Another answer, not the same one again.
    other = made.crystals[1].frac_coords[9:, None] - lithium
    assert np.abs(other - np.round(other)).max(axis=-1).min() > 1e-2


@pytest.mark.parametrize(
    ("group", "lattice", "sites", "removed"),
    [
        (
            "P4/nmm",
            Lattice.tetragonal(4.39, 7.23),
            {
                "Ba": [0, 0.5, 0.205],
                "F": [0, 0, 0],
                "Cl": [0, 0.5, 0.645],
            },
            "Cl",
        ),
        (
            "P6_3/mmc",
            Lattice.hexagonal(5.29, 4.24),
            {"Ni": [0.839, 0.678, 0.25], "Sn": [1 / 3, 2 / 3, 0.25]},
            "Sn",
        ),
    ],
)
def test_a_known_structure_is_found_in_whatever_description(
    group, lattice, sites, removed, tmp_path
):
    """Axes and origin of a template are not those that the model chose."""
    crystal = crystals_of.build(group, lattice, list(sites), list(sites.values()))
    turn = np.diag([1, -1, -1])
    crystal = dataclasses.replace(
        crystal,
        frac_coords=(crystal.frac_coords @ turn + [0.1, 0.2, 0.37]) % 1,
        lattice=turn @ crystal.lattice,
    )
    structure_files.write_cifs(tmp_path / "cifs", [crystal], ["whole"])
    keep = ",".join(symbol for symbol in sites if symbol != removed)
    made = sample.sample(
        sample.SampleOptions(template=str(tmp_path / "cifs" / "whole.cif"), keep=keep)
    )
    answer = made.crystals[0]
    is_new = answer.atomic_numbers == elements.atomic_number(removed)
    template = kept_sites.read_template(tmp_path / "cifs" / "whole.cif", keep)
    there = template.crystal.frac_coords[~template.is_kept]
    apart = answer.frac_coords[is_new][:, None] - there
    distances = np.linalg.norm((apart - np.round(apart)) @ answer.lattice, axis=-1)
    # Å, of sites that the nearest of the other places is 1.5 Å away from.
    assert distances.min(axis=1).max() < 0.3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keep": ""}, "keeps nothing"),
        ({"keep": "Li,Co,O"}, "nothing is left to generate"),
        ({"keep": "fixed"}, "'fixed' is no element, number, or column"),
        ({"keep": "40"}, "out of range"),
        ({"formulas": ("LiNiO2",)}, "does not contain the kept sites"),
        ({"formulas": ("LiCoO2Rn",)}, "Rn, which the training structures never"),
        ({"formulas": ("Li40CoO2",)}, "the primitive cell of .* 43 sites, but the mod"),
        ({"space_groups": "221"}, "site 3 .Co. and the lattice break it"),
        ({"keep": "0,O", "space_groups": "166"}, "site 0 .Li. breaks it"),
        ({"wyckoff": "Li:a"}, "cannot be given with a template"),
        ({"judge": "emt"}, "would move"),
        ({"draws": 4}, "do not tell places beside kept sites apart"),
        ({"template": None}, "are of a template"),
        ({"template": "nowhere.cif"}, "nothing at nowhere.cif"),
    ],
)
def test_bad_requests_are_named(cif, changes, message):
    options = {"template": str(cif), "keep": "Co,O"} | changes
    with pytest.raises((errors.UserError, FileNotFoundError), match=message):
        sample.build_request(sample.SampleOptions(**options))


def test_partial_occupancies_of_a_template_are_named(cif, tmp_path):
    text = cif.read_text()
    lines = [
        line[: line.rindex("1")] + "0.5" if line.split()[:1] == ["Li"] else line
        for line in text.splitlines()
    ]
    path = tmp_path / "partial.cif"
    path.write_text("\n".join(lines))
    assert path.read_text() != text
    with pytest.raises(errors.UserError, match=r"partial.cif.*occup"):
        sample.build_request(sample.SampleOptions(template=str(path), keep="Co,O"))


# --------------------------------------------------------------- networks site by site
@pytest.fixture(scope="module")
def alloy(tmp_path_factory):
    """L1_2 in a sheared basis, off the origin."""
    crystal = structure.Crystal(
        np.array([79, 29, 29, 29]),
        np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]) + 0.1,
        3.7 * np.array([[1.0, 0, 0], [1, 1, 0], [0, 0, 1]]),
    )
    sheared = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1]])
    coords = crystal.frac_coords @ np.linalg.inv(sheared)
    crystal = dataclasses.replace(crystal, frac_coords=coords % 1)
    path = tmp_path_factory.mktemp("alloy") / "alloy.extxyz"
    structure_files.write_extxyz(path, [crystal], [{}])
    return path


@pytest.mark.parametrize("lattice", kept_parts.LATTICES)
@pytest.mark.parametrize(
    ("method", "sampler"),
    [
        ("ddim", "ddim"),
        ("ddim", "ddpm"),
        ("ddim", "dpm_solver"),
        ("cfm_uniform", "euler"),
        ("cfm_uniform", "heun"),
    ],
)
def test_kept_sites_are_exact_in_every_sampler(
    trained, alloy, method, sampler, lattice
):
    if lattice == "free" and sampler in ("ddpm", "heun"):
        return
    options = sample.SampleOptions(
        workdir=str(trained(method)),
        template=str(alloy),
        keep="Cu",
        sampler=sampler,
        num_steps=3,
        num_samples=2,
        lattice=lattice,
    )
    made = sample.sample(options)
    template = kept_sites.read_template(alloy, "Cu")
    assert len(made.crystals) == 2
    for crystal in made.crystals:
        assert crystal.atomic_numbers.tolist() == [29, 29, 29, 79]
        np.testing.assert_array_equal(
            crystal.frac_coords[:3], template.part.frac_coords
        )
        if lattice == "kept":
            np.testing.assert_array_equal(crystal.lattice, template.crystal.lattice)
    gold = [each.frac_coords[3] for each in made.crystals]
    assert np.abs(gold[0] - gold[1]).max() > 1e-3
    assert made.conditions.space_group.tolist() == [221, 221]


def test_a_kept_site_that_breaks_the_group_is_refused_by_any_network(trained, alloy):
    options = sample.SampleOptions(
        workdir=str(trained("ddim")),
        template=str(alloy),
        keep="0,1",
        space_groups="221",
    )
    with pytest.raises(errors.UserError, match=r"site 1 \(Cu\)"):
        sample.build_request(options)
