"""Folders, archives, pymatgen's JSON and ASE's databases → records."""

import bz2
import gzip
import io
import json
import lzma
import os
import re
import sqlite3
import sys
import tarfile
import threading
import zipfile

import ase
import ase.build
import ase.db
import ase.io
import hypothesis
import monty.serialization
import numpy as np
import pytest
import sending
from ase.calculators.singlepoint import SinglePointCalculator
from hypothesis import strategies as st
from pymatgen.core import DummySpecies, Lattice, Structure
from pymatgen.entries.computed_entries import ComputedStructureEntry

from crystaljax.crystals import poscar, structure
from crystaljax.data.readers import archives, files, json_items
from crystaljax.data.sources import (
    ase_db,
    cif_csv,
    entries_json,
    extxyz,
    folder,
    labels,
    record,
)

TRICLINIC = Structure(
    Lattice.from_parameters(4.1, 5.2, 6.3, 81.5, 92.25, 103.75),
    ["Ba2+", "Ti4+", "O2-", "O2-"],
    [[0.1, 0.2, 0.3], [0.51, 0.49, 0.77], [0.2, 0.9, 0.15], [0.85, -0.35, 1.05]],
)
CIF = TRICLINIC.to(fmt="cif")
POSCAR = TRICLINIC.to(fmt="poscar")
COMPRESS = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}

fuzz = hypothesis.settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)


def parse_all(source):
    """As workers get rows and sources."""
    source = sending.sent(source)
    assert isinstance(source, record.Source)
    json.dumps(source.describe())
    rows = [sending.sent(row) for row in source.read_rows()]
    return [source.parse_row(row) for row in rows]


def reasons(found):
    return [one.reason if isinstance(one, record.Failure) else None for one in found]


def assert_is_triclinic(crystal, atol=1e-12):
    np.testing.assert_array_equal(crystal.atomic_numbers, [56, 22, 8, 8])
    apart = crystal.frac_coords - TRICLINIC.frac_coords
    np.testing.assert_allclose(apart, np.round(apart), atol=atol)
    np.testing.assert_allclose(
        structure.lattice_parameters(crystal.lattice),
        TRICLINIC.lattice.parameters,
        atol=100 * atol,
    )


def all_paths(path):
    return sorted(str(each) for each in path.rglob("*"))


# ------------------------------------------------------------------ compressed input


@pytest.mark.parametrize("suffix", COMPRESS)
def test_text_is_read_plain_and_compressed(tmp_path, suffix):
    path = tmp_path / f"x.csv{suffix}"
    path.write_bytes(COMPRESS[suffix]("é\n".encode()))
    with files.open_text(path) as file:
        assert file.read() == "é\n"
    assert files.suffix_without_compression(path.name) == ".csv"


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz"])
def test_compressed_data_that_end_early_or_are_damaged(tmp_path, suffix):
    text = np.random.default_rng(0).bytes(5000).hex()
    content = COMPRESS[suffix](f"cif\n{text}\n".encode())
    path = tmp_path / f"x.csv{suffix}"
    damaged = content[:2000] + bytes(200) + content[2200:]
    for bad in (content[:-2000], damaged, b"not compressed"):
        path.write_bytes(bad)
        with pytest.raises(ValueError, match=r"ends early or is damaged.*again"):
            list(cif_csv.CifCsv(str(path)).read_rows())
    with pytest.raises(FileNotFoundError, match="--input"):
        files.open_bytes(tmp_path / "y.gz")


def test_errors_of_the_system_are_not_taken_for_damage(tmp_path):
    class Broken(io.RawIOBase):
        def readable(self):
            return True

        def readinto(self, buffer):
            raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        files.guard(Broken(), "x").read()


@pytest.mark.parametrize("suffix", [".bz2", ".xz"])
def test_csv_and_extxyz_take_all_compressions(tmp_path, suffix):
    gold = ase.build.bulk("Au")
    ase.io.write(tmp_path / "x.xyz", gold, format="extxyz")
    path = tmp_path / f"x.extxyz{suffix}"
    path.write_bytes(COMPRESS[suffix]((tmp_path / "x.xyz").read_bytes()))
    (found,) = parse_all(extxyz.ExtXyz(str(path)))
    assert found.crystal.atomic_numbers == [79]
    path = tmp_path / f"x.csv{suffix}"
    path.write_bytes(COMPRESS[suffix](b"material_id,cif\none,no cif\n"))
    assert reasons(parse_all(cif_csv.CifCsv(str(path)))) == ["crystal not readable"]


def test_extxyz_with_a_count_beyond_its_end(tmp_path):
    (tmp_path / "x.xyz").write_text("99999999999999\ncomment\nCu 0 0 0\n")
    with pytest.raises(ValueError, match="middle of frame 0"):
        list(extxyz.ExtXyz(str(tmp_path / "x.xyz")).read_rows())


def test_extxyz_in_a_zip(tmp_path):
    gold, copper = ase.build.bulk("Au"), ase.build.bulk("Cu")
    copper.info["id"] = "copper"
    ase.io.write(tmp_path / "one.xyz", gold, format="extxyz")
    ase.io.write(tmp_path / "two.xyz", [gold, gold, copper], format="extxyz")
    two = (tmp_path / "two.xyz").read_text()
    path = tmp_path / "wbm-relaxed-atoms.extxyz.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("b/two.extxyz", two)
        archive.write(tmp_path / "one.xyz", "a/one.extxyz")
        archive.writestr("a/broken.extxyz", two + "5\ncomment\n")
        archive.writestr("readme.txt", "no crystal")
    found = parse_all(extxyz.ExtXyz(str(path)))
    ids = ["broken", "broken-1", "copper", "a/broken.extxyz", "one"]
    assert [one.id for one in found] == [*ids, "two", "two-1", "copper"]
    assert found[3].reason == "file not readable"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no crystal")
    with pytest.raises(ValueError, match="no extxyz in"):
        list(extxyz.ExtXyz(str(path)).read_rows())


# -------------------------------------------------------------------------- archives


def write_folder(path, contents):
    for name, content in contents.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)


def write_archive(path, contents):
    """Members by name: bytes."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in contents.items():
                archive.writestr(name, content)
        return
    mode = {".gz": "w:gz", ".tgz": "w:gz", ".bz2": "w:bz2", ".xz": "w:xz"}
    with tarfile.open(path, mode.get(path.suffix, "w")) as archive:
        for name, content in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


ARCHIVES = ["x.zip", "x.tar", "x.tar.gz", "x.tgz", "x.tar.bz2", "x.tar.xz"]


def read_all(path):
    return dict(archives.read_texts(path, lambda name: True))


@pytest.mark.parametrize("name", ["folder", *ARCHIVES])
def test_files_of_folders_and_archives(tmp_path, name):
    contents = {
        "a.cif": CIF.encode(),
        "b/POSCAR": b"\xef\xbb\xbfpo\xffscar",
        "b/._hidden.cif": b"",
        ".git/x.cif": b"",
        "__MACOSX/a.cif": b"",
        "n" * 150 + "/long.cif": b"long",
    }
    path = tmp_path / name
    (write_folder if name == "folder" else write_archive)(path, contents)
    found = read_all(path)
    assert list(found) == ["a.cif", "b/POSCAR", "n" * 150 + "/long.cif"]
    assert found["a.cif"] == CIF
    assert found["b/POSCAR"] == "po\N{LATIN SMALL LETTER Y WITH DIAERESIS}scar"


@pytest.mark.parametrize("name", ["x.zip", "x.tar.gz"])
def test_members_cannot_write_or_lead_anywhere(tmp_path, name):
    path = tmp_path / "in" / name
    path.parent.mkdir()
    evil = str(tmp_path / "evil.cif")
    contents = {"../../evil.cif": CIF.encode(), evil: CIF.encode(), "./a.cif": b"a"}
    write_archive(path, contents)
    before = all_paths(tmp_path)
    found = parse_all(folder.Folder(str(path)))
    assert {one.id for one in found} == {"../../evil.cif", evil, "a.cif"}
    assert sum(isinstance(one, record.Record) for one in found) == 2
    assert all_paths(tmp_path) == before


def test_links_and_devices_are_left_out(tmp_path):
    secret = tmp_path / "secret.cif"
    secret.write_text("secret")
    inside = tmp_path / "folder"
    write_folder(inside, {"a.cif": b"a", "sub/b.cif": b"b"})
    (inside / "link.cif").symlink_to(secret)
    (inside / "loop").symlink_to(inside)
    os.mkfifo(inside / "pipe.cif")
    assert list(read_all(inside)) == ["a.cif", "sub/b.cif"]

    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.add(inside, "folder")
        for kind in (tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE):
            info = tarfile.TarInfo("special.cif")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    assert list(read_all(tmp_path / "x.tar")) == ["folder/a.cif", "folder/sub/b.cif"]

    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        link = zipfile.ZipInfo("link.cif")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, str(secret))
        archive.write(inside / "a.cif", "a.cif")
    assert list(read_all(tmp_path / "x.zip")) == ["a.cif"]


@pytest.mark.parametrize("name", ["folder", "x.zip", "x.tar.gz"])
def test_bad_files_do_not_stop_the_others(tmp_path, name, monkeypatch):
    monkeypatch.setattr(archives, "MAX_FILE_BYTES", 2**20)
    contents = {
        "large.cif": np.random.default_rng(0).bytes(2**20 + 1),
        "flat.cif": bytes(2**20),
        "last.cif": b"good",
    }
    path = tmp_path / name
    (write_folder if name == "folder" else write_archive)(path, contents)
    found = read_all(path)
    assert found["last.cif"] == "good"
    assert found["large.cif"].reason == "file larger than 1 MiB"
    if name == "x.zip":
        assert found["flat.cif"].reason == "file compressed more than 200 times"


def test_zip_members_that_are_damaged_encrypted_or_lie_about_their_size(tmp_path):
    path = tmp_path / "x.zip"
    content = np.random.default_rng(0).bytes(1000)
    write_archive(path, {"damaged.cif": content, "good.cif": b"good"})
    raw = bytearray(path.read_bytes())
    raw[100:120] = bytes(20)
    path.write_bytes(raw)
    found = read_all(path)
    assert found["damaged.cif"].reason == "file not readable"
    assert found["good.cif"] == "good"

    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("secret.cif", b"x")
    raw = path.read_bytes()
    # The flag of encryption, in the directory and before the file.
    raw = raw.replace(b"PK\x01\x02\x14\x03\x14\0\0", b"PK\x01\x02\x14\x03\x14\0\1")
    raw = raw.replace(b"PK\x03\x04\x14\0\0", b"PK\x03\x04\x14\0\1")
    path.write_bytes(raw)
    found = read_all(path)["secret.cif"]
    assert found.reason == "file not readable"
    assert f"secret.cif in {path}: encrypted" in found.detail

    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("liar.cif", bytes(1000))
    raw = path.read_bytes()
    path.write_bytes(raw.replace((1000).to_bytes(4, "little"), b"\x64\0\0\0"))
    assert read_all(path)["liar.cif"].reason == "file not readable"


@pytest.mark.parametrize("name", ARCHIVES)
def test_of_an_archive_that_ends_early_the_whole_files_are_read(tmp_path, name):
    rng = np.random.default_rng(0)
    path = tmp_path / name
    contents = {f"{i:02d}.cif": rng.bytes(3000).hex() for i in range(20)}
    write_archive(path, {key: text.encode() for key, text in contents.items()})
    whole = path.read_bytes()
    for length in (0, 10):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"x\..*damaged.*download it again"):
            read_all(path)
    if name == "x.tar.bz2":
        # Its blocks are of 900 kB: a part of one can never be read.
        return
    path.write_bytes(whole[: len(whole) * 2 // 3])
    found = read_all(path)
    texts = {key: text for key, text in found.items() if isinstance(text, str)}
    assert len(texts) >= 10
    assert texts.items() <= contents.items()
    *_, rest = found.values()
    assert rest.reason == record.DAMAGED and str(path) in rest.detail
    assert f"only {len(found) - 1} files" in rest.detail


def test_compressed_archive_with_wrong_bytes_is_refused(tmp_path):
    """What was read before the error may be wrong: there is no checksum of it."""
    rng = np.random.default_rng(0)
    path = tmp_path / "x.tar.gz"
    write_archive(path, {f"{i}.cif": rng.bytes(3000).hex().encode() for i in range(20)})
    raw = bytearray(path.read_bytes())
    raw[-8:-4] = bytes(4)
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=r"x.tar.gz.*damaged.*download it again"):
        read_all(path)


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz"])
def test_of_several_files_one_with_a_wrong_checksum_costs_all_of_itself(
    tmp_path, suffix
):
    # Its entries can be read, and any digit of them may be the wrong one.
    for name in "ab":
        lines = "".join(
            json.dumps(entry(mat_id=f"{name}{i}").as_dict()) + "\n" for i in range(9)
        )
        content = COMPRESS[suffix](lines.encode())
        if name == "a":
            end = {".gz": -8, ".bz2": -5, ".xz": -13}[suffix]
            wrong = bytes([content[end] ^ 255])
            content = content[:end] + wrong + content[end + 1 :]
        (tmp_path / f"{name}.jsonl{suffix}").write_bytes(content)
    found = parse_all(entries_json.EntriesJson(str(tmp_path)))
    bad, *good = found
    assert bad.reason == record.NOT_READABLE and f"a.jsonl{suffix}" in bad.detail
    assert "nothing of it is used" in bad.detail
    assert [each.id for each in good] == [f"b{i}" for i in range(9)]


def test_a_large_member_of_a_zip_with_a_wrong_checksum(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_FILE_BYTES", 100)
    frame = '1\nLattice="3 0 0 0 3 0 0 0 3" pbc="T T T"\nCu 0 0 0\n'
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.extxyz", frame * 9)
        archive.writestr("b.extxyz", frame * 9)
    path.write_bytes(path.read_bytes().replace(b"Cu 0 0 0", b"Cu 0 0 1", 1))
    bad, *good = extxyz.ExtXyz(str(path)).read_rows()
    assert "a.extxyz in" in bad.detail and "Bad CRC-32" in bad.detail
    assert len(good) == 9


@pytest.mark.parametrize("header", [1, 2])
def test_tar_with_a_bad_header_loses_that_file_alone(tmp_path, header):
    path = tmp_path / "x.tar"
    write_archive(path, {"a.cif": b"a", "b.cif": b"b", "c.cif": b"c"})
    raw = bytearray(path.read_bytes())
    raw[header * 1024 : header * 1024 + 10] = b"\xff" * 10
    path.write_bytes(raw)
    *files_there, rest = read_all(path).items()
    lost = "abc"[header]
    assert dict(files_there) == {f"{n}.cif": n for n in "abc" if n != lost}
    assert rest[1].reason == record.DAMAGED
    assert "mark of the end is missing" in rest[1].detail


@pytest.mark.parametrize("size", [2**60, -(2**20)])
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.GNUTYPE_LONGNAME, b"x"])
def test_tar_headers_with_absurd_sizes(tmp_path, size, kind):
    path = tmp_path / "x.tar"
    good, bad = tarfile.TarInfo("a.cif"), tarfile.TarInfo("b.cif")
    bad.size, bad.type = size, kind
    raw = good.tobuf() + bad.tobuf(tarfile.GNU_FORMAT) + bytes(1024)
    path.write_bytes(raw)
    found = read_all(path)
    assert found.pop("a.cif") == ""
    assert [each for each in found.values() if isinstance(each, str)] == []
    *_, rest = found.values()
    assert rest.reason == record.DAMAGED and "damaged" in rest.detail


def test_zip_without_a_directory_gives_what_stands_before_the_cut(tmp_path):
    path = tmp_path / "x.zip"
    contents = {f"{i}.cif": (CIF + f"# {i}\n" * 50) for i in range(6)}
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA):
        with zipfile.ZipFile(path, "w", method) as archive:
            archive.mkdir("folder")
            for key, text in contents.items():
                archive.writestr(key, text)
            offset = archive.infolist()[4].header_offset
        whole = path.read_bytes()
        path.write_bytes(whole[: offset + 60])
        found = read_all(path)
        names = [f"{i}.cif" for i in range(4)]
        assert list(found) == [*names, "x.zip, what is missing"]
        if method == zipfile.ZIP_LZMA:
            assert "compressed in a way (14)" in found["0.cif"].detail
            continue
        assert found["3.cif"].reason == "file not readable"
        assert "3.cif in" in found["3.cif"].detail
        assert "ends in the middle" in found["3.cif"].detail
        assert {n: found[n] for n in names[:3]} == {n: contents[n] for n in names[:3]}


def test_streamed_zip_without_a_directory(tmp_path):
    """Sizes stand behind the files where nobody could go back to write them."""

    class Stream(io.RawIOBase):
        def __init__(self):
            self.content = b""

        def writable(self):
            return True

        def write(self, data):
            self.content += bytes(data)
            return len(data)

    stream = Stream()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.cif", "a" * 500)
        archive.writestr("b.cif", "b" * 500)
    end = stream.content.index(b"PK\x01\x02")
    (tmp_path / "x.zip").write_bytes(stream.content[:end])
    found = read_all(tmp_path / "x.zip")
    assert found.pop("a.cif") == "a" * 500 and found.pop("b.cif") == "b" * 500
    (rest,) = found.values()
    assert rest.reason == record.DAMAGED
    wrong = stream.content[:end].replace(b"a.cif", b"a.cif", 1)
    start = wrong.index(b"PK\x07\x08") + 4
    wrong = wrong[:start] + bytes(4) + wrong[start + 4 :]
    (tmp_path / "x.zip").write_bytes(wrong)
    found = read_all(tmp_path / "x.zip")
    assert "checksum" in found["a.cif"].detail and found["b.cif"] == "b" * 500


def test_what_is_no_archive(tmp_path):
    (tmp_path / "x.rar").write_bytes(b"")
    with pytest.raises(ValueError, match=r"x.rar.*expected a folder, .zip"):
        read_all(tmp_path / "x.rar")
    with pytest.raises(FileNotFoundError, match="--input"):
        read_all(tmp_path / "y")


@fuzz
@hypothesis.given(data=st.data(), name=st.sampled_from(["x.zip", "x.tar", "x.tar.gz"]))
def test_damaged_archives_give_texts_or_a_value_error(tmp_path, data, name):
    path = tmp_path / name
    write_archive(path, {"a.cif": CIF.encode(), "b" * 120 + ".cif": b"b"})
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(raw) - 1))
        raw[start : start + 1] = data.draw(st.binary(max_size=12))
    path.write_bytes(raw)
    try:
        found = read_all(path)
    except ValueError:
        return
    assert all(isinstance(one, str | record.Failure) for one in found.values())


# ------------------------------------------------------------------- labels, folders


def write_labels(path, rows, header="material_id,formation_energy_per_atom,sg"):
    path.write_text("\n".join([header, *rows]) + "\n")
    return str(path)


def test_labels(tmp_path):
    path = write_labels(
        tmp_path / "x.csv", ["a,-1.5,225", "b,oops,", "a,-1.5,225", "c"]
    )
    found = labels.read_labels(path, "material_id", "formation_energy_per_atom", "sg")
    assert found == {"a": ("-1.5", "225", ()), "b": ("oops", "", ())}
    without = labels.read_labels(path, "material_id", "formation_energy_per_atom")
    assert without["a"] == ("-1.5", None, ())
    with pytest.raises(ValueError, match=r"no column 'id'.*material_id, formation"):
        labels.read_labels(path, "id", "formation_energy_per_atom")
    write_labels(tmp_path / "x.csv", ["a,-1.5,225", "a,-1.6,225"])
    with pytest.raises(ValueError, match=r"id 'a' twice.*-1\.5.*-1\.6"):
        labels.read_labels(path, "material_id", "formation_energy_per_atom")
    with pytest.raises(FileNotFoundError, match="labels"):
        labels.read_labels(tmp_path / "y.csv", "id", "e")


def test_values_by_key():
    mappings = [{"a": None, "x": {"y": 1}}, {"a": 2, "x.y": 3, "flag": True, "l": [1]}]
    assert labels.find_value(mappings, "a") == 2
    assert labels.find_value(mappings, "x.y") == 1
    assert labels.find_value(mappings[1:], "x.y") == 3
    assert labels.find_value(mappings, "a.b.c") is None
    assert labels.find_value(mappings, "flag") == "a bool"
    assert labels.find_value(mappings, "l") == "a list"


@pytest.mark.parametrize("name", ["folder", "x.zip", "x.tar.bz2"])
def test_folder(tmp_path, name):
    contents = {
        "0.cif": CIF.encode(),
        "1.vasp": POSCAR.encode(),
        "2.cif": b"oops",
        "3.cif": CIF.encode(),
        "4.cif": CIF.encode(),
        "notes.txt": b"no crystal",
        "sub/5.CIF": CIF.encode(),
        "sub/mp-6/CONTCAR": POSCAR.encode(),
    }
    path = tmp_path / name
    (write_folder if name == "folder" else write_archive)(path, contents)
    rows = ["0.cif,-0.5,1", "1,-1.5,1", "2,0,1", "4.cif,,1", "sub/5,2,1", "mp-6,3,1"]
    table = write_labels(tmp_path / "labels.csv", rows)
    found = parse_all(folder.Folder(str(path), table, space_group_column="sg"))
    assert [one.id for one in found] == [
        one for one in sorted(contents) if one != "notes.txt"
    ]
    assert reasons(found) == [
        *(None, None, "crystal not readable", "no label for this id"),
        *("formation energy missing or not a number", None, None),
    ]
    good = [one for one in found if isinstance(one, record.Record)]
    assert [one.formation_energy for one in good] == [-0.5, -1.5, 2, 3]
    for one in good:
        assert one.space_group == 1
        assert_is_triclinic(one.crystal, atol=1e-6)


def test_folder_without_labels_or_crystals(tmp_path):
    (tmp_path / "a.cif").write_text(CIF)
    (found,) = parse_all(folder.Folder(str(tmp_path)))
    assert found.formation_energy is None and found.space_group is None
    (tmp_path / "a.cif").rename(tmp_path / "a.txt")
    with pytest.raises(ValueError, match=r"no crystals in .*expected CIF"):
        parse_all(folder.Folder(str(tmp_path)))


def test_a_label_is_given_to_one_file_only(tmp_path):
    write_folder(tmp_path / "x", {"1/a.cif": CIF.encode(), "2/a.cif": CIF.encode()})
    table = write_labels(tmp_path / "labels.csv", ["a,0,1"])
    found = parse_all(folder.Folder(str(tmp_path / "x"), table))
    assert reasons(found) == [None, "label taken by another file"]


def test_name_on_disk_that_is_not_utf8(tmp_path):
    (tmp_path / os.fsdecode(b"\xff.cif")).write_text(CIF)
    (found,) = parse_all(folder.Folder(str(tmp_path)))
    assert found.id == r"\udcff.cif"


def test_poscar_that_claims_more_atoms_than_it_has_lines():
    text = POSCAR.splitlines()
    text[6] = "1 1 1999999999"
    with pytest.raises(ValueError, match="2000000001 atoms in"):
        poscar.parse_poscar("\n".join(text))


@fuzz
@hypothesis.given(
    text=st.text(), data=st.data(), file_format=st.sampled_from(["cif", "poscar"])
)
def test_any_text_gives_a_record_or_a_failure(text, data, file_format):
    lines = (CIF if file_format == "cif" else POSCAR).splitlines()
    position = data.draw(st.integers(0, len(lines) - 1))
    changed = [*lines[:position], text, *lines[position + 1 :]]
    name = "a.cif" if file_format == "cif" else "POSCAR"
    for content in (text, "\n".join(changed)):
        row = folder.FileRow(name, content, None)
        found = folder.Folder("x").parse_row(row)
        assert isinstance(found, record.Record | record.Failure)


# ---------------------------------------------------------------------------- entries


def entry(crystal=TRICLINIC, energy=-1.5, **data):
    data = {"e_form": energy, "spg": 1, "mat_id": "agm1"} | data
    return ComputedStructureEntry(crystal, -10.0, data=data)


def write_json(path, value):
    """As pymatgen's users do, with monty."""
    monty.serialization.dumpfn(value, path)
    return str(path)


@pytest.mark.parametrize("name", ["x.json", "x.json.gz", "x.json.bz2"])
def test_entries_are_read_as_pymatgen_wrote_them(tmp_path, name):
    rng = np.random.default_rng(0)
    written = []
    for index in range(5):
        lattice = Lattice(rng.normal(size=(3, 3)) * 5)
        written.append(
            entry(
                Structure(
                    lattice,
                    ["Fe3+", "O2-", "Lr", "H"],
                    rng.normal(size=(4, 3)),
                    site_properties={"magmom": [1.0, float("nan"), 0.0, -1.0]},
                ),
                energy=-0.1 * index,
                mat_id=f"agm{index}",
                spg=index + 1,
            )
        )
    path = write_json(tmp_path / name, {"entries": written})
    again = monty.serialization.loadfn(path)["entries"]
    found = parse_all(entries_json.EntriesJson(path))
    for one, oracle in zip(found, again, strict=True):
        assert (one.id, one.space_group) == (oracle.data["mat_id"], oracle.data["spg"])
        assert one.formation_energy == oracle.data["e_form"]
        crystal = one.crystal
        numbers = [site.specie.Z for site in oracle.structure]
        np.testing.assert_array_equal(crystal.atomic_numbers, numbers)
        wrapped = oracle.structure.frac_coords % 1
        np.testing.assert_allclose(crystal.frac_coords, wrapped, atol=1e-12)
        np.testing.assert_array_equal(crystal.lattice, oracle.structure.lattice.matrix)


def test_shapes_of_documents(tmp_path):
    path = tmp_path / "x.json"
    plain = {"structure": TRICLINIC, "symmetry": {"number": 2}, "energy": -2.5}
    listed = entry()
    cases = {
        "list": ([listed, listed], ["agm1", "agm1"]),
        "mapping": ({"a": listed, "b": TRICLINIC}, ["a", "b"]),
        "entries": ({"@version": {"x": 1}, "entries": [listed]}, ["agm1"]),
        "entries by id": ({"entries": {"a": listed}}, ["a"]),
        "nothing": ([], []),
    }
    for document, ids in cases.values():
        write_json(path, document)
        assert [one.id for one in parse_all(entries_json.EntriesJson(str(path)))] == ids
    write_json(path, [plain])
    source = entries_json.EntriesJson(str(path), "energy", "symmetry.number")
    (found,) = parse_all(source)
    assert (found.id, found.formation_energy, found.space_group) == ("0", -2.5, 2)
    assert_is_triclinic(found.crystal)
    crystal = TRICLINIC.copy()
    crystal.properties = {"e_form": -3.5, "name": "\ud800"}
    write_json(path, [crystal])
    (found,) = parse_all(entries_json.EntriesJson(str(path), id_key="name"))
    assert (found.id, found.formation_energy) == (r"\ud800", -3.5)


def test_wbm_lines_with_their_summary(tmp_path):
    lines = [
        {"material_id": f"wbm-1-{i}", "computed_structure_entry": entry().as_dict()}
        for i in range(3)
    ]
    for line in lines:
        line["computed_structure_entry"]["data"] = {}
    text = "\n\n".join(map(json.dumps, lines)) + "\nnot JSON\n"
    path = tmp_path / "wbm-computed-structure-entries.jsonl.gz"
    path.write_bytes(gzip.compress(text.encode()))
    header = "material_id,e_form_per_atom_mp2020_corrected,sg"
    table = write_labels(tmp_path / "x.csv", ["wbm-1-0,-0.5,3", "wbm-1-2,,3"], header)
    found = parse_all(entries_json.EntriesJson(str(path), labels=table))
    assert [one.id for one in found] == ["wbm-1-0", "wbm-1-1", "wbm-1-2", "3"]
    assert reasons(found) == [
        None,
        "no label for this id",
        "formation energy missing or not a number",
        "entry not readable",
    ]
    assert (found[0].formation_energy, found[0].space_group) == (-0.5, None)
    source = entries_json.EntriesJson(
        str(path), labels=table, space_group_column="sg", id_key="material_id"
    )
    assert parse_all(source)[0].space_group == 3
    without = parse_all(entries_json.EntriesJson(str(path)))
    assert without[0].reason == "formation energy missing or not a number"
    assert without[0].id == "wbm-1-0"


def test_folder_of_json_files(tmp_path):
    for name in ("alexandria_001.json.bz2", "alexandria_000.json", ".hidden.json"):
        write_json(tmp_path / name, {"entries": [entry(mat_id=name), entry()]})
    (tmp_path / "readme.txt").write_text("")
    found = parse_all(entries_json.EntriesJson(str(tmp_path)))
    assert [one.id for one in found][::2] == [
        "alexandria_000.json",
        "alexandria_001.json.bz2",
    ]
    (tmp_path / "sub").mkdir()
    with pytest.raises(ValueError, match="no entries in the folder"):
        parse_all(entries_json.EntriesJson(str(tmp_path / "sub")))
    with pytest.raises(FileNotFoundError, match="--input"):
        parse_all(entries_json.EntriesJson(str(tmp_path / "none.json")))
    with pytest.raises(ValueError, match=r"'.txt'; expected one of .json"):
        parse_all(entries_json.EntriesJson(str(tmp_path / "readme.txt")))


def change(value, *path, to):
    """A copy of a JSON value with another value at a path."""
    copy = json.loads(json.dumps(value))
    parent = copy
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = to
    return copy


SITE = ("structure", "sites", 0)


@pytest.mark.parametrize(
    "path, value, detail",
    [
        ((*SITE, "species"), [{"element": "Fe", "occu": 0.5}], "occupancy 0.5"),
        ((*SITE, "species"), [{"element": "Fe", "occu": 0.5}] * 2, "2 species"),
        ((*SITE, "species"), [{"element": "X0+", "occu": 1}], "unknown element 'X'"),
        ((*SITE, "species"), [{"element": "Rf", "occu": 1}], "unknown element 'Rf'"),
        ((*SITE, "species"), [{"element": "iron", "occu": 1}], "'iron' is no species"),
        ((*SITE, "species"), [{"element": 26, "occu": 1}], "'26' is no species"),
        ((*SITE, "species"), "Fe", "list of species"),
        ((*SITE, "species"), [{"element": "Fe"}], "not finite"),
        ((*SITE, "abc"), [0, 0], "not numbers"),
        ((*SITE, "abc"), [0, 0, None], "not finite"),
        ((*SITE, "abc"), [0, 0, float("nan")], "not finite"),
        ((*SITE, "abc"), [0, 0, 10**400], "not numbers"),
        (("structure", "sites"), [], "'sites' is missing or empty"),
        (("structure", "sites"), [1], "no mapping"),
        (("structure", "lattice"), None, "'lattice' is missing"),
        (("structure", "lattice", "matrix"), [[1, 0, 0]], "shape"),
        (("structure", "lattice", "pbc"), [True, True, False], "pbc"),
    ],
)
def test_structures_that_are_failures(path, value, detail):
    text = json.dumps(change(entry().as_dict(), *path, to=value))
    row = entries_json.EntryRow("7", False, text, None)
    found = entries_json.EntriesJson("x").parse_row(row)
    assert isinstance(found, record.Failure)
    assert (found.id, found.reason) == ("agm1", "crystal not readable")
    assert detail in found.detail


@pytest.mark.parametrize(
    "name, number",
    [
        *[("Fe", 26), ("Fe3+", 26), ("Fe2.5+", 26), ("O2-", 8), ("Fe2+,spin=5", 26)],
        *[("Cu+", 29), ("D", 1), ("D+", 1), ("T", 1), ("Lr", 103)],
    ],
)
def test_names_of_species(name, number):
    species = [{"element": name, "occu": 1.0}]
    changed = change(TRICLINIC.as_dict(), "sites", 0, "species", to=species)
    crystal = entries_json.parse_structure(changed)
    np.testing.assert_array_equal(crystal.atomic_numbers, [number, 22, 8, 8])


def test_disordered_and_dummy_structures_of_pymatgen(tmp_path):
    crystals = [
        Structure(Lattice.cubic(3), [{"Fe": 0.5, "Ni": 0.5}], [[0, 0, 0]]),
        Structure(Lattice.cubic(3), [{"Fe": 0.5}], [[0, 0, 0]]),
        Structure(Lattice.cubic(3), [DummySpecies("X")], [[0, 0, 0]]),
        Structure(Lattice.cubic(3), ["D"], [[0, 0, 0]]),
    ]
    path = write_json(tmp_path / "x.json", [entry(one) for one in crystals])
    found = parse_all(entries_json.EntriesJson(path))
    assert reasons(found) == [*["crystal not readable"] * 3, None]
    np.testing.assert_array_equal(found[3].crystal.atomic_numbers, [1])


def test_names_of_classes_are_never_looked_at(tmp_path):
    target = tmp_path / "target"
    module = "evil_module_of_a_test"
    (tmp_path / f"{module}.py").write_text(f"open({str(target)!r}, 'w')\n")
    evil = [
        {"@module": module, "@class": "Evil"},
        {"@module": "os", "@class": "system", "command": f"touch {target}"},
        {"@module": "builtins", "@callable": "exec", "@bound": None},
    ]
    value = entry().as_dict()
    for one in evil:
        value = change(value, "data", "evil", to=one) | one
        value["structure"] |= one
        value["structure"]["lattice"] |= one
        value["structure"]["sites"][0]["species"][0] |= one
    (tmp_path / "x.json").write_text(json.dumps({"entries": [value], **evil[0]}))
    sys.path.insert(0, str(tmp_path))
    try:
        (found,) = parse_all(entries_json.EntriesJson(str(tmp_path / "x.json")))
    finally:
        sys.path.remove(str(tmp_path))
    assert_is_triclinic(found.crystal)
    assert not target.exists() and module not in sys.modules


def test_entry_whose_composition_is_another_is_a_failure(tmp_path):
    good = entry().as_dict()
    amounts = good["composition"]
    wrong = dict(amounts) | {next(iter(amounts)): 7.0}
    half = {name: amount / 2 for name, amount in amounts.items()}
    values = [good | {"composition": each} for each in (amounts, half, wrong)]
    (tmp_path / "x.json").write_text(json.dumps(values))
    found = parse_all(entries_json.EntriesJson(str(tmp_path / "x.json")))
    assert reasons(found) == [None, None, "crystal not readable"]
    assert "composition" in found[2].detail


@pytest.mark.parametrize("suffix", COMPRESS)
def test_of_truncated_json_the_whole_items_are_read(tmp_path, suffix):
    # Each entry with bytes that no compression can leave out.
    rng = np.random.default_rng(0)
    entries = [entry(noise=rng.bytes(1000).hex()).as_dict() for _ in range(8)]
    content = COMPRESS[suffix](json.dumps({"entries": entries}).encode())
    path = tmp_path / f"x.json{suffix}"
    path.write_bytes(content[: int(len(content) * 0.7)])
    source = entries_json.EntriesJson(str(path))
    if suffix == ".bz2":
        # Blocks of 900 kB: what is here is one.
        with pytest.raises(ValueError, match=r"x\.json.* again"):
            list(source.read_rows())
        return
    *rows, rest = source.read_rows()
    assert len(rows) in (4, 5)
    assert all(isinstance(one, record.Record) for one in map(source.parse_row, rows))
    assert rest.reason == record.DAMAGED and rest.id == str(path)
    assert f"after row {len(rows)} is missing" in rest.detail
    assert re.search(r"x\.json.* again", rest.detail)


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "begins with ''"),
        ("12", "begins with '1'"),
        ('{"a": 1} {"b": 2}', r"goes on with '\{'.*\.jsonl"),
        ('{"a": }', "after 0 items: a value that is cut off"),
        ('[1, 2 "x"]', "after 1 items"),
        ('[1, "x]', "after 1 items"),
        ("{1: 2}", "no string"),
        ('{"a" 2}', "cut off or malformed"),
        ("[1 : 2]", "':' where , or ] was expected"),
        ("[1", "after 1 items: the end where"),
        ("[" * 5000, "after 0 items"),
    ],
)
def test_text_that_is_no_json_document(tmp_path, text, message):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        list(json_items.read_items(path))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=10,
)


@fuzz
@hypothesis.given(
    value=st.lists(JSON) | st.dictionaries(st.text(max_size=3), JSON),
    num_characters=st.integers(1, 5),
    indent=st.sampled_from([None, 1]),
    ascii_only=st.booleans(),
)
def test_items_are_those_of_the_document(
    tmp_path, monkeypatch, value, num_characters, indent, ascii_only
):
    """However few characters are read at a time."""
    monkeypatch.setattr(json_items, "_CHUNK_CHARACTERS", num_characters)
    if isinstance(value, dict):
        value = {key: one for key, one in value.items() if not key.startswith("@")}
    path = tmp_path / "x.json"
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    path.write_text(text, encoding="utf-8")
    found = [(key, json.loads(item)) for key, item in json_items.read_items(path)]
    expected = value.items() if isinstance(value, dict) else ((None, v) for v in value)
    assert repr(found) == repr(list(expected))


def test_items_of_any_size_are_limited(tmp_path, monkeypatch):
    monkeypatch.setattr(json_items, "MAX_ITEM_CHARACTERS", 1000)
    monkeypatch.setattr(json_items, "_CHUNK_CHARACTERS", 100)
    for name, text in {
        "x.json": json.dumps(["x" * 10_000]),
        "x.jsonl": "x" * 10_000,
    }.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match="more than 1000 characters"):
            list(json_items.read_items(tmp_path / name))


def test_no_more_is_read_than_is_asked_for(tmp_path, monkeypatch):
    opened = []
    open_text = files.open_text

    def open_and_keep(*args, **options):
        opened.append(open_text(*args, **options))
        return opened[-1]

    monkeypatch.setattr(files, "open_text", open_and_keep)
    path = tmp_path / "x.json"
    item = json.dumps({"a": list(range(1000))})
    path.write_text("[" + ",".join([item] * 2000) + "]")
    rows = json_items.read_items(path)
    next(rows)
    assert opened[0].buffer.raw.tell() < path.stat().st_size / 3
    assert sum(1 for _ in rows) == 1999


@fuzz
@hypothesis.given(value=JSON, data=st.data())
def test_any_json_gives_a_record_or_a_failure(value, data):
    """Alone, and in the place of any part of an entry."""
    parts = [("data",), ("data", "e_form"), ("data", "spg"), ("data", "mat_id")]
    parts += [("structure",), ("structure", "lattice"), ("structure", "sites"), SITE]
    parts += [("structure", "lattice", "matrix"), ("structure", "lattice", "pbc")]
    parts += [(*SITE, "species"), (*SITE, "abc"), (*SITE, "species", 0, "occu")]
    parts += [(*SITE, "species", 0), (*SITE, "species", 0, "element")]
    changed = change(entry().as_dict(), *data.draw(st.sampled_from(parts)), to=value)
    for one in (value, changed, {"computed_structure_entry": value}):
        row = entries_json.EntryRow("0", False, json.dumps(one), None)
        found = entries_json.EntriesJson("x").parse_row(row)
        assert isinstance(found, record.Record | record.Failure)
        found.id.encode()


@fuzz
@hypothesis.given(text=st.text(), name=st.sampled_from(["x.json", "x.jsonl"]))
def test_any_text_gives_rows_or_a_value_error(tmp_path, text, name):
    (tmp_path / name).write_text(text, encoding="utf-8", errors="replace")
    source = entries_json.EntriesJson(str(tmp_path / name))
    try:
        found = [source.parse_row(row) for row in source.read_rows()]
    except ValueError:
        return
    assert all(isinstance(one, record.Failure) for one in found)


def test_entry_nested_too_deeply():
    for text in ("[" * 100_000, '{"a":' * 100_000):
        row = entries_json.EntryRow("0", False, text, None)
        found = entries_json.EntriesJson("x").parse_row(row)
        assert found.reason == "entry not readable"


# ---------------------------------------------------------------------- ASE databases


def ase_triclinic():
    return ase.Atoms(
        numbers=[56, 22, 8, 8],
        cell=TRICLINIC.lattice.matrix,
        scaled_positions=TRICLINIC.frac_coords,
        pbc=True,
    )


@pytest.fixture(params=["x.db", "x.json"])
def database(request, tmp_path):
    """Rows of every kind, written by ASE; also given as ASE reads them."""
    path = tmp_path / request.param
    connection = ase.db.connect(path)
    computed = ase_triclinic()
    computed.calc = SinglePointCalculator(
        computed, energy=-3.5, forces=np.zeros((4, 3))
    )
    computed.set_constraint(ase.constraints.FixAtoms([0]))
    arrays = {"dos": np.arange(5.0), "nested": {"heat": -0.75}, "sg": 2}
    connection.write(computed, heat=-0.5, space_group=1, name="first", data=arrays)
    connection.write(ase_triclinic(), heat=0.25, space_group=231)
    connection.write(ase.build.molecule("H2O"), heat=0.0)
    connection.write(ase_triclinic(), note="nothing")
    return path


def test_ase_database_is_read_as_ase_reads_it(database):
    source = ase_db.AseDb(str(database), "heat", "space_group", "name")
    found = parse_all(source)
    rows = list(ase.db.connect(database).select())
    assert [one.id for one in found] == ["first", *(str(row.id) for row in rows[1:])]
    assert reasons(found) == [
        None,
        "space group missing or not in 1-230",
        "space group missing or not in 1-230",
        "formation energy missing or not a number",
    ]
    first = found[0]
    assert first.formation_energy == rows[0].heat and first.space_group == 1
    atoms = rows[0].toatoms()
    np.testing.assert_array_equal(first.crystal.atomic_numbers, atoms.numbers)
    np.testing.assert_allclose(first.crystal.lattice, atoms.cell, atol=0)
    assert_is_triclinic(first.crystal)


def test_values_of_ase_databases_are_found_by_key(database):
    def values(key):
        found = parse_all(ase_db.AseDb(str(database), energy_key=key))
        return [getattr(one, "formation_energy", "none") for one in found[:2]]

    assert values("energy") == [-3.5, "none"]
    assert values("nested.heat") == [-0.75, "none"]
    assert values("dos") == ["none", "none"]
    assert values(None) == [None, None]
    found = parse_all(ase_db.AseDb(str(database), space_group_key="sg"))
    assert found[0].space_group == 2
    assert reasons(found)[2] == "space group missing or not in 1-230"
    water = parse_all(ase_db.AseDb(str(database)))[2]
    assert "periodic in three directions" in water.detail


def test_deleted_rows_leave_gaps(tmp_path):
    connection = ase.db.connect(tmp_path / "x.db")
    for _ in range(5):
        connection.write(ase_triclinic())
    connection.delete([2, 4])
    assert [one.id for one in parse_all(ase_db.AseDb(str(tmp_path / "x.db")))] == [
        *("1", "3", "5")
    ]


def test_ase_json_of_a_single_structure(tmp_path):
    ase.io.write(tmp_path / "x.json", ase_triclinic())
    (found,) = parse_all(ase_db.AseDb(str(tmp_path / "x.json")))
    assert_is_triclinic(found.crystal)


def test_sqlite_is_opened_for_reading_and_from_any_thread(tmp_path):
    path = tmp_path / "with space?#%.db"
    for _ in range(3):
        ase.db.connect(path).write(ase_triclinic(), heat=0.0)
    path.chmod(0o444)
    content = path.read_bytes()
    rows = ase_db.AseDb(str(path), "heat").read_rows()
    found = [next(rows)]
    thread = threading.Thread(target=lambda: found.extend(rows))
    thread.start()
    thread.join()
    assert len(found) == 3
    assert path.read_bytes() == content
    assert not [one for one in all_paths(tmp_path) if "-journal" in one]

    other = tmp_path / "other.db"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE x (y)")
    content = other.read_bytes()
    with pytest.raises(ValueError, match="no table 'systems'"):
        list(ase_db.AseDb(str(other)).read_rows())
    # ASE would make its tables in it.
    assert other.read_bytes() == content


def test_files_that_are_no_ase_database(tmp_path):
    (tmp_path / "x.db").write_bytes(b"not a database" * 100)
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(ValueError, match=r"x\.db is damaged or no ASE database"):
        list(ase_db.AseDb(str(tmp_path / "x.db")).read_rows())
    (tmp_path / "x.json").write_text("[{}]")
    with pytest.raises(ValueError, match="is a list; expected an ASE database"):
        list(ase_db.AseDb(str(tmp_path / "x.json")).read_rows())
    for name in ("x.aselmdb", "x.pckl", "postgresql://user@host/x"):
        with pytest.raises(ValueError, match=r"suffix.*\.db or \.json"):
            list(ase_db.AseDb(name).read_rows())
    with pytest.raises(FileNotFoundError, match="--input"):
        list(ase_db.AseDb(str(tmp_path / "y.db")).read_rows())


def test_damaged_rows_of_sqlite_are_failures(tmp_path):
    path = tmp_path / "x.db"
    connection = ase.db.connect(path)
    for _ in range(8):
        connection.write(ase_triclinic(), heat=0.0)
    columns = {
        "numbers": b"\0",
        "positions": bytes(24),
        "cell": None,
        "pbc": None,
        "key_value_pairs": "not JSON",
        "data": b"\xff" * 20,
        "energy": "text",
    }
    with sqlite3.connect(path) as database:
        for id, (name, value) in enumerate(columns.items(), start=1):
            database.execute(f"UPDATE systems SET {name} = ? WHERE id = ?", (value, id))
    found = parse_all(ase_db.AseDb(str(path), "heat"))
    assert reasons(found) == [
        *("row not readable", "crystal not readable", "row not readable"),
        *("crystal not readable", "row not readable", "row not readable", None, None),
    ]


@fuzz
@hypothesis.given(value=JSON, data=st.data())
def test_any_row_of_an_ase_json_gives_a_record_or_a_failure(value, data):
    row = {
        "numbers": {"__ndarray__": [[1], "int64", [29]]},
        "positions": [[0.0, 0.0, 0.0]],
        "cell": {"array": [[3, 0, 0], [0, 3, 0], [0, 0, 3]]},
        "pbc": [True] * 3,
        "key_value_pairs": {"heat": 1.0},
        "data": {},
    }
    source = ase_db.AseDb("x.json", "heat")
    good = source.parse_row(ase_db.AseRow("1", json.dumps(row)))
    assert isinstance(good, record.Record)
    key = data.draw(st.sampled_from([*row, "energy"]))
    for one in (value, row | {key: value}):
        found = source.parse_row(ase_db.AseRow("1", json.dumps(one)))
        assert isinstance(found, record.Record | record.Failure)


@fuzz
@hypothesis.given(data=st.data())
def test_damaged_sqlite_gives_rows_or_a_value_error(tmp_path, data):
    whole = tmp_path / "whole.db"
    if not whole.exists():
        ase.db.connect(whole).write(ase_triclinic(), heat=0.0, data={"a": 1})
    raw = bytearray(whole.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(raw) - 1))
        raw[start : start + 1] = data.draw(st.binary(min_size=1, max_size=1))
    path = tmp_path / "x.db"
    path.write_bytes(raw)
    source = ase_db.AseDb(str(path), "heat")
    try:
        found = [source.parse_row(row) for row in source.read_rows()]
    except ValueError:
        return
    assert all(isinstance(one, record.Record | record.Failure) for one in found)
