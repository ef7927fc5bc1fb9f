"""The command: the same numbers from everybody's files."""

import csv
import json
import zipfile

import numpy as np
import pytest

from crystaljax import score
from crystaljax.crystals import structure, structure_files
from crystaljax.data.sources import emt
from crystaljax.screening import inputs

RECORDS = [r for r in emt.load_builtin() if r.crystal.num_sites in (2, 3)][:12]


def disturb(crystal, seed, size=0.1):
    moved = np.random.default_rng(seed).normal(0, size, (crystal.num_sites, 3))
    return structure.Crystal(
        crystal.atomic_numbers,
        (crystal.frac_coords + moved @ np.linalg.inv(crystal.lattice)) % 1,
        crystal.lattice * 1.02,
    )


REFERENCES = [each.crystal for each in RECORDS]
# Ids that look like numbers, and stay what they are.
IDS = [f"{i:05d}" for i in range(len(RECORDS))]
GENERATED = [
    disturb(crystal, i, 0.05 if i % 3 else 1.5) for i, crystal in enumerate(REFERENCES)
]


def write_csv(path, crystals, ids, column="cif"):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["material_id", column, "e_above_hull"])
        for index, (crystal, name) in enumerate(zip(crystals, ids, strict=True)):
            text = structure_files.cif_text(crystal, name)
            writer.writerow([name, text, 0.01 * index])


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("score")
    write_csv(folder / "reference.csv", REFERENCES, IDS)
    write_csv(folder / "theirs.csv", GENERATED, IDS, "cif_string")
    structure_files.write_cifs(folder / "theirs", GENERATED, IDS)
    structure_files.write_cifs(folder / "theirs.zip", GENERATED, IDS)
    infos = [{"reference": each} for each in IDS]
    structure_files.write_extxyz(folder / "theirs.extxyz", GENERATED, infos)
    return folder


def options(here, generated="theirs.csv", **changes):
    settings = {
        "generated": str(here / generated),
        "reference": str(here / "reference.csv"),
        "tolerances": ("0.2/0.3/5",),
        "num_workers": 1,
    }
    return score.ScoreOptions(**settings | changes)


def values(result):
    found = score.to_json(result)["numbers"]
    return {each["name"]: (each["count"], each["value"]) for each in found}


@pytest.fixture(scope="module")
def from_csv(here):
    return score.score(options(here))


def test_every_format_gives_the_same_numbers(here, from_csv):
    expected = values(from_csv)
    assert 0 < expected["match rate"][0] < len(RECORDS)
    for name in ("theirs", "theirs.zip", "theirs.extxyz"):
        result = score.score(options(here, name))
        assert values(result).keys() == expected.keys()
        for key, (count, value) in values(result).items():
            assert count == expected[key][0], (name, key)
            assert value == pytest.approx(expected[key][1], abs=1e-5), (name, key)


def test_what_is_written_is_what_is_printed(here, tmp_path, capsys):
    arguments = [
        f"--generated={here / 'theirs.csv'}",
        f"--reference={here / 'reference.csv'}",
        "--tolerances=0.2/0.3/5",
        "--num_workers=1",
        f"--known={here / 'reference.csv'}",
        "--above_hull_column=e_above_hull",
        f"--output={tmp_path / 'out'}",
    ]
    score.main(arguments)
    printed = capsys.readouterr().out
    written = json.loads((tmp_path / "out" / "score.json").read_text())
    rate = next(each for each in written["numbers"] if each["name"] == "METRe")
    assert f"METRe                     {rate['value']:7.2%}" in printed
    assert rate["definition"] in " ".join(printed.split())
    assert "paired with references by the column material_id" in printed
    counts = written["discoveries"]
    assert counts["generated"] == len(RECORDS)
    assert counts["stable"]["25"] == 3 and counts["sun"]["25"] <= 3
    # Those that equal a reference are known.
    assert 0 < counts["novel"] < len(RECORDS)
    assert "≤  25 meV/atom above the hull: 3 (25.0%) stable" in printed
    with (tmp_path / "out" / "references.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [each["name"] for each in rows] == IDS
    matched = [each for each in rows if each["metre_rms_0.2/0.3/5"] != "nan"]
    assert len(matched) == rate["count"]
    with pytest.raises(SystemExit, match=r"score\.json"):
        score.main(arguments)


def test_what_cannot_be_read_is_named_and_a_miss(here, tmp_path):
    (tmp_path / "bad.csv").write_text("material_id,cif\nempty,\ngarbage,no cif\n")
    result = score.score(options(here, generated=str(tmp_path / "bad.csv")))
    assert values(result)["METRe"] == (0, 0.0)
    printed = score.report(result)
    assert "2 generated, unreadable: empty, garbage" in printed
    assert "12 references, nothing generated of their formula" in printed
    rows = inputs.read_candidates(tmp_path / "bad.csv")
    assert rows.problems[0] == "the cell is empty" and rows.problems[1]


def test_references_without_generations_and_the_reverse(here):
    result = score.score(
        options(here, generated=str(here / "reference.csv"), reference=from_first(here))
    )
    found = values(result)
    assert found["METRe"] == (1, 1.0)
    printed = score.report(result)
    assert "of a formula that no reference has" in printed


def from_first(here):
    path = here / "one.csv"
    write_csv(path, REFERENCES[:1], IDS[:1])
    return str(path)


def test_without_a_pairing_there_is_metre_and_a_note(here):
    reversed_ = here / "reversed.extxyz"
    infos = [{"name": f"x{i}"} for i in range(len(GENERATED))]
    structure_files.write_extxyz(reversed_, GENERATED[::-1], infos, overwrite=True)
    result = score.score(options(here, "reversed.extxyz"))
    assert "match rate" not in values(result) and "METRe" in values(result)
    assert "only METRe; `pairing=` says it" in score.report(result)


def test_too_many_comparisons_are_left_out_with_a_note(here, monkeypatch):
    monkeypatch.setattr(score, "_MAX_COMPARISONS", -1)
    result = score.score(options(here))
    assert result.discoveries is None
    assert "`unique=yes` counts them" in score.report(result)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tolerances": ("0.2/0.3",)}, "tolerance '0.2/0.3'"),
        ({"above_hull_column": "nothing"}, "no column 'nothing'; they have"),
        ({"generated": "missing.csv"}, "missing.csv"),
    ],
)
def test_options_that_cannot_be_used_are_named(here, changes, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        score.score(options(here, **changes))


def test_csv_of_pymatgen_structures_is_read(tmp_path):
    from crystaljax.crystals import bridge

    text = json.dumps(bridge.to_pymatgen(REFERENCES[0]).as_dict())
    with (tmp_path / "a.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["id", "structure", "seed"], ["1_23", text, "7"]])
    rows = inputs.read_candidates(tmp_path / "a.csv")
    assert rows.names == ["1_23"] and rows.problems == [""]
    assert rows.columns["id"] == ["1_23"] and rows.columns["seed"] == [7]
    np.testing.assert_allclose(rows.crystals[0].lattice, REFERENCES[0].lattice)
    (tmp_path / "b.csv").write_text("id,energy\n1,2\n")
    with pytest.raises(ValueError, match="no column of crystals"):
        inputs.read_candidates(tmp_path / "b.csv")


def test_archive_of_somebody_with_a_folder_inside_is_read(here, tmp_path):
    path = tmp_path / "nested.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, crystal in zip(IDS, GENERATED, strict=True):
            text = structure_files.cif_text(crystal, name)
            archive.writestr(f"results/{name}_0.cif", text)
    result = score.score(options(here, generated=str(path)))
    assert "match rate" in values(result)
