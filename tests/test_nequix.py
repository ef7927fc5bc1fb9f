"""Nequix is what the package nequix computes; its files, whole and damaged.

Files and values were written by the package, see `nequix_reference.json`.
"""

import json
import pathlib

import ase
import numpy as np
import potential_batches
import pytest

from crystaljax.crystals import bridge
from crystaljax.relaxation import batches, device_potentials, pretrained
from crystaljax.relaxation.potentials import nequix
from crystaljax.relaxation.potentials.nequip import nequix_files, network
from crystaljax.system import errors

DATA = pathlib.Path(__file__).parent / "data"
REFERENCE = json.loads((DATA / "nequix_reference.json").read_text())["networks"]
WHOLE = (DATA / "nequix_other.nqx").read_bytes()


def crystals(rows):
    return [
        ase.Atoms(each["symbols"], each["positions"], cell=each["cell"], pbc=True)
        for each in rows.values()
    ]


def changed(**changes):
    """The small file with another configuration."""
    line, _, rest = WHOLE.partition(b"\n")
    return json.dumps(json.loads(line) | changes).encode() + b"\n" + rest


@pytest.mark.parametrize("name", REFERENCE)
def test_energies_forces_and_stresses_are_those_of_nequix(name):
    rows = REFERENCE[name]
    found = potential_batches.evaluate(nequix_files.load(DATA / name), crystals(rows))
    for row, (energy, forces, stress) in zip(rows.values(), found, strict=True):
        assert energy == pytest.approx(row["energy"], abs=1e-9)
        np.testing.assert_allclose(forces, row["forces"], atol=1e-9)
        np.testing.assert_allclose(stress, row["stress"], atol=1e-9)
    assert np.abs(rows["skewed"]["forces"]).max() > 0.3


def test_crystals_relax_in_batches_without_the_package(tmp_path):
    path = tmp_path / "own.nqx"
    path.write_bytes(WHOLE)
    calculator = f"nequix:{path}"
    assert device_potentials.supports(calculator)
    starts = crystals(REFERENCE["nequix_other.nqx"])[:2]
    relaxed = batches.relax_many([bridge.from_ase(each) for each in starts], calculator)
    ends = [bridge.to_ase(each.crystal) for each in relaxed]
    found = potential_batches.evaluate(nequix_files.load(path), ends)
    for one, end, (energy, forces, _) in zip(relaxed, ends, found, strict=True):
        assert one.converged and one.num_steps > 0
        assert one.energy * len(end) == pytest.approx(energy, abs=1e-4)
        assert np.linalg.norm(forces, axis=1).max() < 0.05
    unknown = bridge.from_ase(ase.Atoms("Fe", cell=[3, 3, 3], pbc=True))
    with pytest.raises(errors.UserError, match="no parameters for Fe; it has Cl, Cu"):
        batches.relax_many([unknown], calculator)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no file of nequix"),
        (b"<!DOCTYPE html>\n<html>", "no file of nequix"),
        (WHOLE[:100], "no file of nequix"),
        (WHOLE[: WHOLE.index(b"\n") + 1], "cut: it ends before its weights atom_en"),
        (WHOLE[:-8], "cut within its weights readout"),
        (WHOLE[:-200], r"cut or damaged at its weights readout|cut within its weights"),
        (changed(atomic_numbers=[8, 8, 11, 17]), r"\[8, 8, 11, 17\]; expected diff"),
        (WHOLE.replace(WHOLE[-16:], b"\xff" * 16), "readout .* are not all finite"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, content, message):
    path = tmp_path / "bad.nqx"
    path.write_bytes(content)
    with pytest.raises(errors.UserError, match=rf"bad\.nqx: .*{message}") as caught:
        device_potentials.supports(f"nequix:{path}")
    assert not isinstance(caught.value, network.AnotherKindError)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (changed(add_repulsion=True), "add_repulsion = True.*expected False"),
        (changed(lmax=4), "lmax = 4; expected 1 to 3"),
        (changed(hidden_irreps="4x0e + 2x1e"), r"natural parity"),
        (changed(hidden_irreps="2x1o + 4x0e"), r"in this order: 0e, 1o"),
        (changed(hidden_irreps="5x0e + 2x1o"), r"linear_2.*shape \(4, 6\); expected f"),
        (changed(layer_norm=True), r"layer_norm.*expected floats of shape \(6,\)"),
        (changed(n_layers="many"), "n_layers = 'many'; expected a positive number"),
        (changed(avg_n_neighbors=0), "avg_n_neighbors = 0; expected a positive"),
        (changed(shift=float("nan")), "shift = nan; expected a number"),
        (changed(lmax="high"), "not that of a Nequix .*high"),
        (WHOLE.replace(b'"cutoff"', b'"reach"'), "lacks cutoff"),
        (WHOLE + WHOLE[-144:], "has 144 bytes behind the weights"),
    ],
)
def test_another_architecture_is_named_and_left_to_the_package(
    tmp_path, content, message
):
    path = tmp_path / "other.nqx"
    path.write_bytes(content)
    assert not device_potentials.supports(f"nequix:{path}")
    with pytest.raises(network.AnotherKindError, match=rf"other\.nqx: .*{message}"):
        nequix.build(path)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A home of its own, and a model that is fetched from a file."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    served = tmp_path / "served.nqx"
    served.write_bytes(WHOLE)
    monkeypatch.setitem(nequix.URLS, "nequix-mp-1", served.as_uri())
    return served, tmp_path / "home" / ".cache/nequix/models/nequix-mp-1.nqx"


def test_a_model_by_name_is_downloaded_once_and_compared_with_its_checksum(cache):
    served, kept = cache
    assert device_potentials.supports("nequix")
    assert kept.read_bytes() == WHOLE
    served.unlink()
    assert device_potentials.build("nequix").atomic_numbers == {8, 11, 17, 29}
    device_potentials.build.cache_clear()
    kept.write_bytes(WHOLE[:-1] + b"?")
    with pytest.raises(errors.UserError, match=r"SHA-256 .*; expected .*Remove both"):
        device_potentials.supports("nequix:nequix-mp-1")
    # As nequix itself leaves it there, without a checksum.
    kept.write_bytes(WHOLE)
    kept.with_name("nequix-mp-1.nqx.sha256").unlink()
    assert device_potentials.supports("nequix")


def test_what_cannot_be_downloaded_is_named_with_its_place(cache):
    served, kept = cache
    served.unlink()
    with pytest.raises(errors.UserError) as caught:
        device_potentials.supports("nequix")
    for part in (served.as_uri(), f"put it there as {kept}", "nequix:PATH"):
        assert part in str(caught.value)
    for content in (b"<html>log in</html>", WHOLE[:-1]):
        served.write_bytes(content)
        with pytest.raises(errors.UserError, match="sends is not used"):
            device_potentials.supports("nequix")
    assert not kept.exists()


def test_models_by_name_are_those_of_the_package():
    assert nequix.URLS.keys() == pretrained.FAMILIES["nequix"].models.keys()
    with pytest.raises(errors.UserError, match=r"'nequix-mp-9' .*one of nequix-mp-1, "):
        device_potentials.supports("nequix:nequix-mp-9")
    # Who names a device of PyTorch wants the package, which says what it has.
    assert not device_potentials.supports("nequix@cpu")
