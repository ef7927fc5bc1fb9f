import io
import tarfile
import zipfile

import numpy as np
import pytest

from crystaljax.crystals import structure, structure_files
from crystaljax.screening import inputs as screening_inputs


def crystal(a=3.6, numbers=(29, 79)):
    coords = np.array([[0.0, 0, 0], [0.5, 0.5, 0.5]])
    return structure.Crystal(np.array(numbers), coords, np.eye(3) * a)


def flat():
    return structure.Crystal(
        crystal().atomic_numbers, np.zeros((2, 3)), np.zeros((3, 3))
    )


def write_cif(path, a=3.6):
    path.write_text(structure_files.cif_text(crystal(a), path.stem))


def write_samples(folder, part, names, written):
    """What `crystaljax.sample` leaves of a shard."""
    structure_files.write_table(
        folder / f"samples{part}.parquet",
        {
            "name": names,
            "formula": ["Au1Cu1"] * len(names),
            "space_group": list(range(200, 200 + len(names))),
            "formation_energy": [-0.1] * len(names),
            "written": written,
        },
    )
    infos = [{"name": n} for n, w in zip(names, written, strict=True) if w]
    crystals = [crystal(3.0 + int(info["name"][-1]) / 10) for info in infos]
    structure_files.write_extxyz(folder / f"samples{part}.extxyz", crystals, infos)


def lengths(rows):
    return [round(float(each.lattice[0, 0]), 3) for each in rows.crystals]


def test_samples_of_all_shards_keep_their_conditions(tmp_path):
    write_samples(tmp_path, "-00000-of-00002", ["s0", "s1"], [True, False])
    write_samples(tmp_path, "-00001-of-00002", ["s2", "s3"], [True, True])
    rows = screening_inputs.read_candidates(tmp_path)
    assert rows.names == ["s0", "s1", "s2", "s3"]
    np.testing.assert_equal(lengths(rows), [3.0, np.nan, 3.2, 3.3])
    assert [bool(each) for each in rows.problems] == [False, True, False, False]
    assert rows.table() == {
        "name": rows.names,
        "formula": ["Au1Cu1"] * 4,
        "space_group": [200, 201, 200, 201],
        "formation_energy": [-0.1] * 4,
    }


def test_samples_that_do_not_fit_their_table_are_refused(tmp_path):
    write_samples(tmp_path, "", ["s0", "s1"], [True, True])
    structure_files.write_extxyz(
        tmp_path / "samples.extxyz", [crystal()], [{"name": "s0"}], overwrite=True
    )
    with pytest.raises(ValueError, match=r"2 crystals .* which holds 1"):
        screening_inputs.read_candidates(tmp_path)


def test_info_of_an_extxyz_file_is_the_table(tmp_path):
    infos = [
        {"name": "x", "seed": 3, "energy_goal": 1},
        {"note": "b", "energy_goal": 0.5},
    ]
    path = tmp_path / "mine.extxyz"
    structure_files.write_extxyz(path, [crystal(), crystal(4.0)], infos)
    rows = screening_inputs.read_candidates(path)
    assert rows.names == ["x", "mine-1"]
    assert rows.table()["energy_goal"] == [1.0, 0.5]
    assert rows.table()["seed"] == [3, None]
    assert rows.table()["note"] == [None, "b"]


def test_bad_frame_costs_itself(tmp_path):
    path = tmp_path / "mine.extxyz"
    structure_files.write_extxyz(path, [crystal(), crystal(4.0)], [{}, {}])
    text = path.read_text()
    bad = text.replace("3.6 0.0 0.0 0.0 3.6", "nan 0.0 0.0 0.0 3.6")
    no_cell = text.replace('pbc="T T T"', 'pbc="F F F"')
    for broken in (bad, no_cell):
        path.write_text(broken + text)
        rows = screening_inputs.read_candidates(path)
        assert len(rows.names) == 4
        assert lengths(rows)[2:] == [3.6, 4.0]
    assert rows.problems[0] and rows.problems[1] and not rows.problems[2]
    path.write_text(text + "2\nwhat is this\nCu 0 0\n")
    rows = screening_inputs.read_candidates(path)
    assert rows.problems[-1] and "can be read" in rows.problems[-1]


def test_folder_and_zip_of_files_keep_the_unreadable(tmp_path):
    folder = tmp_path / "crystals"
    folder.mkdir()
    write_cif(folder / "a.cif", 3.1)
    (folder / "b.cif").write_text("data_b\nnothing\n")
    write_cif(folder / "c.cif", 3.3)
    (folder / "README.txt").write_text("mine")
    with zipfile.ZipFile(tmp_path / "crystals.zip", "w") as archive:
        for file in folder.iterdir():
            archive.write(file, f"deep/{file.name}")
        archive.write(folder / "a.cif", "other/a.cif")
    rows = screening_inputs.read_candidates(folder)
    assert rows.names == ["a", "b", "c"]
    np.testing.assert_equal(lengths(rows), [3.1, np.nan, 3.3])
    assert "not readable" in rows.problems[1] or "Error" in rows.problems[1]
    zipped = screening_inputs.read_candidates(tmp_path / "crystals.zip")
    assert sorted(zipped.names) == ["a", "a-2", "b", "c"]
    single = screening_inputs.read_candidates(folder / "a.cif")
    assert (single.names, single.problems) == (["a"], [""])


def test_nothing_to_read_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a folder of samples"):
        screening_inputs.read_candidates(tmp_path / "nothing")
    with pytest.raises(ValueError, match="no crystals"):
        screening_inputs.read_candidates(tmp_path)
    (tmp_path / "no.zip").write_text("zip")
    with pytest.raises(ValueError, match="damaged or not what its name says"):
        screening_inputs.read_candidates(tmp_path / "no.zip")
    (tmp_path / "empty.extxyz").touch()
    with pytest.raises(ValueError, match="holds no crystals"):
        screening_inputs.read_candidates(tmp_path / "empty.extxyz")


def test_fingerprint_sees_names_and_every_number(tmp_path):
    def of(names, *crystals):
        rows = screening_inputs.Candidates(names, list(crystals), [""] * len(names), {})
        return screening_inputs.fingerprint(rows)

    seen = {
        of(["a"], crystal()),
        of(["b"], crystal()),
        of(["a"], crystal(3.6 + 1e-12)),
        of(["a"], crystal(numbers=(29, 78))),
        of(["a", "b"], crystal(), crystal()),
    }
    assert len(seen) == 5
    assert of(["a"], crystal()) in seen


def test_formula_of_what_is_no_crystal_is_empty():
    assert screening_inputs.formula(crystal()) == "Au1Cu1"
    assert screening_inputs.formula(crystal(numbers=(29, 0))) == ""
    assert screening_inputs.formula(structure.NO_CRYSTAL) == ""


def encrypt(path, name):
    """Marks a member of a zip as encrypted, in the directory and before the file."""
    raw = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x01\x02", 46), (b"PK\x03\x04", 30)):
        position = -1
        while (position := raw.find(signature, position + 1)) >= 0:
            start = position + offset
            if raw[start : start + len(name)] == name.encode():
                raw[position + offset - (38 if offset == 46 else 24)] |= 1
    path.write_bytes(raw)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_that_cannot_be_read_cost_themselves(tmp_path, method):
    path = tmp_path / "x.zip"
    text = structure_files.cif_text(crystal(), "x")
    with zipfile.ZipFile(path, "w", method) as archive:
        for name in ("a.cif", "b.cif", "c.cif", "sub/d.extxyz"):
            archive.writestr(name, text)
        archive.writestr("README.md", "no crystal")
        offset = archive.getinfo("b.cif").header_offset
    raw = bytearray(path.read_bytes())
    raw[offset + 60 : offset + 80] = bytes(20)
    path.write_bytes(raw)
    encrypt(path, "a.cif")
    rows = screening_inputs.read_candidates(path)
    assert rows.names == ["a", "b", "c", "d"]
    assert rows.problems[0].startswith(f"a.cif in {path}: encrypted")
    assert rows.problems[1].startswith(f"b.cif in {path}: ")
    assert rows.problems[2] == ""
    assert "frame 0" in rows.problems[3]
    assert "\n" not in "".join(rows.problems)
    assert [each.num_sites for each in rows.crystals] == [0, 0, 2, 0]


def test_an_archive_with_nothing_but_an_encrypted_file_is_a_row(tmp_path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("gen_0.cif", structure_files.cif_text(crystal(), "x"))
    encrypt(path, "gen_0.cif")
    rows = screening_inputs.read_candidates(path)
    assert rows.names == ["gen_0"] and "encrypted" in rows.problems[0]


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tar.gz"])
def test_of_an_archive_that_ends_early_the_rest_is_screened(tmp_path, name):
    path = tmp_path / name
    rng = np.random.default_rng(0)
    texts = {
        f"{i}.cif": structure_files.cif_text(crystal(3.0 + i / 10), "x")
        + f"# {rng.bytes(500).hex()}\n"
        for i in range(5)
    }
    if name == "x.zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for key, text in texts.items():
                archive.writestr(key, text)
    else:
        with tarfile.open(path, "w:gz" if name.endswith("gz") else "w") as archive:
            for key, text in texts.items():
                info = tarfile.TarInfo(key)
                info.size = len(text)
                archive.addfile(info, io.BytesIO(text.encode()))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    rows = screening_inputs.read_candidates(path)
    good = [
        name
        for name, problem in zip(rows.names, rows.problems, strict=True)
        if not problem
    ]
    assert good == [f"{i}" for i in range(len(good))] and len(good) >= 2
    assert lengths(rows)[: len(good)] == [3.0 + i / 10 for i in range(len(good))]
    assert str(path) in rows.problems[-1] and "only" in rows.problems[-1]


def test_cut_extxyz_keeps_the_frames_before_the_cut(tmp_path):
    path = tmp_path / "x.extxyz"
    infos = [{"name": f"s{i}"} for i in range(3)]
    structure_files.write_extxyz(path, [crystal()] * 3, infos)
    whole = path.read_text()
    path.write_text(whole[:-30])
    rows = screening_inputs.read_candidates(path)
    assert rows.names[:2] == ["s0", "s1"] and rows.problems[:2] == ["", ""]
    assert rows.problems[2]
