"""Batches relaxed with SevenNet end where ASE ends with the package sevenn."""

import contextlib
import dataclasses
import pathlib
import re

import jax
import numpy as np
import pytest
import sevennets
import torch

from crystaljax.crystals import bridge, structure
from crystaljax.relaxation import (
    ase_relaxation,
    batch_steps,
    batches,
    device_potentials,
)


@pytest.fixture(scope="module")
def calculator(tmp_path_factory):
    settings = sevennets.config(
        lmax=1,
        num_convolution_layer=2,
        irreps_manual=["4x0e", "4x0e+3x1e", "4x0e"],
    )
    path = tmp_path_factory.mktemp("sevennet") / "checkpoint.pth"
    sevennets.save(sevennets.build(settings), settings, path)
    return f"sevenn:{path}"


def salt(num_sites):
    rng = np.random.default_rng(num_sites)
    sites = np.array([[0, 0, 0], [0.5, 0.5, 0.5]])[:num_sites]
    return structure.Crystal(
        np.array([11, 17])[:num_sites],
        sites + rng.uniform(0, 0.05, sites.shape),
        3.6 * np.eye(3) + rng.normal(scale=0.1, size=(3, 3)),
    )


def test_minima_are_those_of_the_package(calculator):
    assert device_potentials.supports(calculator)
    settings = ase_relaxation.RelaxationSettings(max_steps=15)
    crystals = [salt(2), salt(1)]
    relaxed = dict(batches.relax_each(crystals, calculator, settings, batch_size=2))
    for i, crystal in enumerate(crystals):
        alone = ase_relaxation.relax(crystal, calculator, settings)
        assert relaxed[i].failure == ""
        assert abs(relaxed[i].num_steps - alone.num_steps) <= 2
        assert relaxed[i].energy == pytest.approx(alone.energy, abs=1e-3)


def test_only_what_is_understood_runs_in_batches():
    for name in ("sevenn", "sevenn:7net-0"):
        assert device_potentials.supports(name)
    for name in ("sevenn:7net-mf-0/pbe", "sevenn@cpu", "chgnet"):
        assert not device_potentials.supports(name)


def test_a_cut_checkpoint_and_one_of_another_kind_are_named(calculator, tmp_path):
    whole = pathlib.Path(calculator.removeprefix("sevenn:")).read_bytes()
    cut = tmp_path / "cut.pth"
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cut\.pth is cut, damaged"):
        batches.relax_many([salt(1)], f"sevenn:{cut}")
    settings = sevennets.config(version="1.0.0")
    newer = tmp_path / "newer.pth"
    sevennets.save(torch.nn.Linear(1, 1), settings, newer)
    # One at a time the package may know what to do with it.
    assert not device_potentials.supports(f"sevenn:{newer}")
    with pytest.raises(ValueError, match=r"newer\.pth: a SevenNet of version '1"):
        batches.relax_many([salt(1)], f"sevenn:{newer}")


def test_a_bad_crystal_is_a_row_with_the_reason_and_the_rest_goes_on(
    calculator, monkeypatch
):
    settings = ase_relaxation.RelaxationSettings(max_steps=15)
    good = salt(2)
    on_one_spot = structure.Crystal(good.atomic_numbers, np.zeros((2, 3)), good.lattice)
    flat = dataclasses.replace(good, lattice=np.diag([3.6, 3.6, 0]))
    infinite = dataclasses.replace(good, lattice=good.lattice * np.nan)
    dense = dataclasses.replace(salt(1), lattice=0.9 * np.eye(3))
    grid = np.stack(np.meshgrid(*[np.arange(4) / 4] * 3), -1).reshape(-1, 3)[:60]
    large = structure.Crystal(np.full(60, 11), grid, 12 * np.eye(3))
    room = device_potentials.build(calculator).room
    fits = 500 * room.bytes_per_edge
    monkeypatch.setattr(batches, "_SMALL", 0)
    monkeypatch.setattr(batches.device_memory, "available_bytes", lambda _: fits)
    crystals = [on_one_spot, flat, good, infinite, dense, large]
    found = batches.relax_many(crystals, calculator, settings, batch_size=2)
    assert found[2].failure == ""
    (alone,) = batches.relax_many([good], calculator, settings, batch_size=2)
    assert found[2].energy == pytest.approx(alone.energy, abs=1e-5)
    reasons = ["0 Å apart", "volume", "not finite", "apart|dense|flat", "GB of the dev"]
    for i, reason in zip((0, 1, 3, 4, 5), reasons, strict=True):
        assert re.search(reason, found[i].failure), found[i].failure


def test_one_program_serves_for_crystals_of_all_sizes(calculator):
    settings = ase_relaxation.RelaxationSettings(max_steps=3)
    crystals = [salt(1), salt(2)]
    crystals += [bridge.from_ase(bridge.to_ase(salt(2)).repeat((2, 2, 3)))]
    sizes = []
    with monitor_compilations(sizes):
        batches.relax_many(crystals * 2, calculator, settings, batch_size=3)
    assert len(sizes) == 1


@contextlib.contextmanager
def monitor_compilations(found):
    """Collects the batches that programs are compiled for."""
    build_run = batch_steps.build_run.__wrapped__

    def build(*args):
        run = build_run(*args)

        def call(cells, packed, *rest):
            shape = jax.tree.map(np.shape, (cells, packed))
            if str(shape) not in found:
                found.append(str(shape))
            return run(cells, packed, *rest)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch_steps, "build_run", build)
        yield
