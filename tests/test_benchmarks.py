"""The benchmarks of throughput, and the PyTorch network that they compare with."""

import json
import pathlib
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import torch
from torch.utils import flop_counter

from crystaljax.crystals import sample_tensors, structure
from crystaljax.models import samplers
from crystaljax.sampling import build as build_sampling
from crystaljax.sampling import options as sampling_options
from crystaljax.system import config_files
from crystaljax.training import train_step

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "experiments"))

import benchmark_devices  # noqa: E402
import benchmark_pipeline  # noqa: E402
import benchmark_sampling  # noqa: E402
import benchmark_training  # noqa: E402
from throughput import flops, ours, timing, torch_peer  # noqa: E402

# Of float32 networks that add in another order.
TOLERANCE = 1e-4
# Overrides that make `ddim.py:smoke` the network of `tiny_workload("ddim")`: programs
# that are equal are compiled once.
TINY = (
    "--config.model.channels=8",
    "--config.model.channel_multipliers=(1,)",
    "--config.model.num_res_blocks=0",
    "--config.model.norm_groups=2",
    "--config.model.element_channels=(4,4,4)",
    "--config.model.attention_levels=()",
    "--config.model.site_features=8",
    "--batch_size=4",
    "--repeats=2",
    "--min_seconds=0",
)


def tiny_workload(config_file, **model):
    config = tiny.config(config_file, "none")
    config.model.update({"attention_levels": (), **model})
    return ours.build_workload(ours.adjust_config(config, batch_size=4))


def answers(workload):
    """Our forward pass as a function of the parameters, and PyTorch's."""
    torch.manual_seed(0)
    model, scale = workload.trainee.model, workload.trainee.scale
    rows, batch = workload.config.data.rows, workload.batch
    network = torch_peer.Network(model)
    tensors = torch_peer.to_tensors(batch, scale, torch.device("cpu"))
    units = torch_peer.Units(scale, rows, torch.device("cpu"))
    rng = np.random.default_rng(2)
    x = rng.normal(size=(4, rows, 3)).astype(np.float32)
    t = rng.random(4, np.float32)

    def our_forward(params):
        return model.apply(
            params,
            jnp.asarray(x),
            jnp.asarray(t),
            jnp.asarray(batch.atomic_numbers),
            jnp.asarray(batch.space_group),
            scale.scale_energy(batch.energy),
            scale.encode_cells(
                batch.source, batch.num_sites, batch.atomic_numbers, rows
            ),
        )

    names = ("atomic_numbers", "space_group", "energy")

    def peer_forward():
        return network(
            torch.tensor(x),
            torch.tensor(t),
            *(tensors[name] for name in names),
            units.encode_source(tensors),
        )

    return network, our_forward, peer_forward


def test_peer_answers_like_ours_and_has_the_same_gradient():
    workload = tiny_workload(
        "ddim",
        site_features=0,
        channel_multipliers=(1, 2),
        num_res_blocks=1,
        attention_levels=(1,),
    )
    network, our_forward, peer_forward = answers(workload)
    params = torch_peer.to_flax(network, workload.trainee.model)

    def our_loss(params):
        output = our_forward(params)
        return jnp.square(output).sum(), output

    (_, output), grads = jax.jit(jax.value_and_grad(our_loss, has_aux=True))(params)
    expected = peer_forward()
    expected.square().sum().backward()
    np.testing.assert_allclose(output, expected.detach(), atol=TOLERANCE)
    assert float(np.abs(output).max()) > 0.1
    theirs = dict(network.named_parameters())
    conv_in = theirs["model.input_blocks.0.0.weight"].grad.numpy().transpose(2, 1, 0)
    dense = theirs["element_condition.7.weight"].grad.numpy().T
    ours_found = grads["params"]
    for found, expected in (
        (ours_found["unet"]["conv_in"]["kernel"], conv_in),
        (ours_found["element_encoder"]["dense"]["kernel"], dense),
    ):
        largest = np.abs(expected).max()
        assert largest > 0
        np.testing.assert_allclose(found, expected, atol=TOLERANCE * largest)


def test_peer_answers_like_ours_with_source_and_features_of_sites():
    workload = tiny_workload("modify_diffusion", num_res_blocks=1)
    network, our_forward, peer_forward = answers(workload)
    output = jax.jit(our_forward)(torch_peer.to_flax(network, workload.trainee.model))
    np.testing.assert_allclose(output, peer_forward().detach(), atol=TOLERANCE)


@pytest.mark.parametrize("config_file", ["ddim", "modify_diffusion"])
def test_operations_are_those_that_pytorch_counts(config_file):
    levels = {"channel_multipliers": (1, 2, 2), "attention_levels": (2, 4)}
    workload = tiny_workload(config_file, num_res_blocks=2, **levels)
    _, _, peer_forward = answers(workload)
    with flop_counter.FlopCounterMode(display=False) as counter:
        peer_forward()
    model, rows = workload.trainee.model, workload.config.data.rows
    assert counter.get_total_flops() == 4 * flops.forward_flops(model, rows)


def test_operations_of_the_transformer_grow_with_its_depth():
    workloads = [tiny_workload("best", depth=depth) for depth in (1, 2, 3)]
    one, two, three = (
        flops.evaluation_flops(w.trainee.model, w.config.data.rows) for w in workloads
    )
    assert 0 < one < two
    assert three - two == two - one


def test_peer_is_the_paper_s_network_only():
    workload = tiny_workload("best", depth=1)
    with pytest.raises(ValueError, match="only the paper's UNet is written"):
        torch_peer.build_contender("forward", workload, steps=1, compile_network=False)


@pytest.mark.parametrize(
    ("config_file", "sampler"),
    [
        ("ddim", "ddim"),
        ("cfm_normal", "euler"),
        ("cfm_normal", "heun"),
        ("modify_regression", "regression"),
    ],
)
def test_peer_samples_like_ours(config_file, sampler):
    """The loops, from the same start with the same answers."""
    config = config_files.load_file(ROOT / "configs" / f"{config_file}.py", "smoke")
    num_steps = 1 if sampler == "regression" else 5
    settings = sampling_options.SamplerSettings(num_steps=num_steps, sampler=sampler)
    config = build_sampling.override_sampler(config, settings)
    start = np.random.default_rng(0).normal(size=(2, 16, 3)).astype(np.float32)
    mask = np.ones((2, 16), bool)
    mask[0, 4:13] = False
    keys = jax.random.split(jax.random.key(0), 2)
    is_diffusion = config.process.name == "diffusion"
    source = jnp.asarray(start) if sampler == "regression" else None
    if source is None:
        start = np.array(samplers.sample_noise(keys, 16))
    found = build_sampling.build_sampler(config)(
        lambda x, t: jnp.sin(x) + t[:, None, None] / 1000,
        keys,
        16,
        jnp.asarray(mask),
        source,
    )
    expected = torch_peer.sample(
        lambda x, t: torch.sin(x) + t[:, None, None] / 1000,
        torch.tensor(start),
        torch.tensor(mask[..., None]),
        config,
        torch_peer.build_scheduler(config) if is_diffusion else None,
    )
    np.testing.assert_allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE)


def run_script(monkeypatch, capsys, script, output, *arguments):
    """Output lines and the record of a script's main function."""
    # Threads of PyTorch that wait for a busy CPU take seconds.
    monkeypatch.setattr(timing, "usable_cpus", lambda: 1)
    argv = [f"{script.__name__}.py", *arguments, f"--output={output}"]
    monkeypatch.setattr(sys, "argv", argv)
    script.main()
    return capsys.readouterr().out.splitlines(), json.loads(output.read_text())


def config_flag(config_file):
    return f"--config={ROOT / 'configs' / config_file}.py:smoke"


@pytest.mark.parametrize("script", [benchmark_training, benchmark_sampling])
def test_last_line_is_the_ratio_to_pytorch(script, monkeypatch, capsys, tmp_path):
    more = ()
    if script is benchmark_sampling:
        more = ("--num_steps=2", "--num_batches=1")
    else:
        more = ("--steps_per_dispatch=2",)
    lines, record = run_script(
        monkeypatch,
        capsys,
        script,
        tmp_path / "record.json",
        config_flag("ddim"),
        *TINY,
        *more,
        "--peer=torch",
    )
    assert re.fullmatch(r"ratio to peer: [0-9.]+", lines[-1])
    assert float(lines[-1].split()[-1]) == round(record["peer"]["ratio"], 2)
    for key in (
        "device",
        "platform",
        "dtype",
        "batch_size",
        "rows",
        "compile_seconds",
        "init_seconds",
        "seconds_per_call",
        "items_per_second",
        "tflops",
        "share_of_peak",
        "peak_memory",
        "versions",
        "command",
        "num_params",
    ):
        assert record[key] is not None, key
    assert record["batch_size"] == 4
    assert record["config_overrides"]["model.channels"] == 8
    assert record["seconds_per_call"]["repeats"] == 2
    if script is benchmark_sampling:
        assert record["network_evaluations"] == 2
        assert record["end_to_end"]["num_samples"] == 4


def test_peer_makes_the_same_crystals_in_more_rows_with_more_evaluations(
    monkeypatch, capsys, tmp_path
):
    _, record = run_script(
        monkeypatch,
        capsys,
        benchmark_sampling,
        tmp_path / "record.json",
        config_flag("ddim"),
        *TINY,
        "--num_steps=1",
        "--num_batches=0",
        "--peer=torch",
        "--config.model.element_rows=24",
        "--peer_rows=24",
        "--peer_num_steps=3",
    )
    peer = record["peer"]
    assert (record["rows"], record["network_evaluations"]) == (16, 1)
    assert (peer["rows"], peer["network_evaluations"]) == (24, 3)
    operations = peer["tflops"] * peer["seconds_per_call"]["median"] * 1e12
    assert operations > record["flops_per_call"]


def test_wider_workload_has_the_same_crystals():
    config = config_files.load_file(ROOT / "configs" / "ddim.py", "smoke")
    config.train.batch_size, config.model.element_rows = 4, 64
    workload = ours.build_workload(config)
    wider = ours.widen(workload, rows=config.data.rows + 8)
    assert wider.batch.atomic_numbers.shape[1] == config.data.rows + 4

    def encode(workload):
        batch, rows = workload.batch, workload.config.data.rows
        cells = sample_tensors.CellBatch(batch.frac_coords, batch.lattice)
        return workload.trainee.scale.encode_cells(
            cells, batch.num_sites, batch.atomic_numbers, rows
        )

    narrow, wide = encode(workload), encode(wider)
    sites = structure.max_sites(config.data.rows)
    np.testing.assert_array_equal(wide[:, :sites], narrow[:, :sites])
    np.testing.assert_array_equal(wide[:, -3:], narrow[:, -3:])
    with pytest.raises(ValueError, match="as many"):
        ours.widen(workload, rows=8)


def test_forward_pass_alone(monkeypatch, capsys, tmp_path):
    lines, record = run_script(
        monkeypatch,
        capsys,
        benchmark_training,
        tmp_path / "record.json",
        config_flag("ddim"),
        *TINY,
        "--task=forward",
    )
    assert lines[-1].startswith("written: ")
    assert record["flops_per_call"] > 0
    assert "peer" not in record


def test_bad_flags_end_with_one_line(monkeypatch, capsys, tmp_path):
    with pytest.raises(SystemExit, match="config"):
        run_script(monkeypatch, capsys, benchmark_training, tmp_path / "record.json")


def test_step_of_pmap_has_the_state_of_ours():
    """Whether it takes the same steps is checked by the script in every run."""
    workload = tiny_workload("ddim")
    trainee, batch = workload.trainee, jax.tree.map(jnp.asarray, workload.batch)
    key = jax.random.key(0)

    def our_step(state, batch):
        return train_step.train_step(trainee, state, batch, key)

    def step_of_two_devices(state, batch):
        parts = jax.tree.map(lambda a: a.reshape(2, 2, *a.shape[1:]), batch)
        return jax.vmap(
            lambda part: benchmark_devices.pmap_step(trainee, state, part, key, 2),
            axis_name=benchmark_devices.AXIS,
        )(parts)

    state = train_step.state_shapes(trainee)
    expected, expected_metrics = jax.eval_shape(our_step, state, batch)
    found, metrics = jax.eval_shape(step_of_two_devices, state, batch)
    assert jax.tree.map(lambda a: a.shape[1:], found) == jax.tree.map(
        lambda a: a.shape, expected
    )
    assert metrics.keys() == expected_metrics.keys()


def test_pipeline_is_read_beside_a_training_step(alloys, monkeypatch, capsys, tmp_path):
    _, record = run_script(
        monkeypatch,
        capsys,
        benchmark_pipeline,
        tmp_path / "record.json",
        f"--dataset={alloys}",
        config_flag("ddim"),
        *TINY,
        "--steps_per_dispatch=2",
    )
    assert record["structures_per_second"] > 0
    assert record["share_of_step"] > 0
