"""experiments/gpu at toy sizes: every part, the clock, failures, interruptions."""

import importlib.util
import json
import pathlib
import signal
import subprocess
import sys
import time
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "experiments"))

from gpu import (  # noqa: E402
    collect_wheels,
    kernels,
    measurement,
    paper,
    run,
    sizes,
    tables,
)
from throughput import ours, timing, torch_peer  # noqa: E402

GPU = {"name": "NVIDIA H100 80GB HBM3", "driver_version": "580"}


# ------------------------------------------------------------------- parts at toy sizes
def build_each_once(build_program):
    """Parts share programs, as they do by the compilation cache of a run."""
    built = {}

    def build(task, workload, measurement, steps=0):
        key = task, workload.config.to_json(sort_keys=True), steps
        if key not in built:
            built[key] = build_program(task, workload, measurement, steps)
        return built[key]

    return build


@pytest.fixture(scope="module")
def measured(tmp_path_factory, compilation):
    """Figures of every part by its name, measured in this process."""
    folder = tmp_path_factory.mktemp("gpu")
    patch = pytest.MonkeyPatch()
    # Threads of PyTorch that wait for a busy CPU take seconds.
    patch.setattr(timing, "usable_cpus", lambda: 1)
    # One that is compiled already, and one that no CPU has.
    patch.setattr(
        paper, "VARIANTS", (("convolution", "unfold"), ("attention", "cudnn"))
    )
    patch.setattr(paper, "build_program", build_each_once(paper.build_program))

    def no_compiler(function):
        raise RuntimeError("no working compiler was found")

    patch.setattr(torch_peer, "compiled", no_compiler)
    found = {}
    with patch.context():
        for part in sizes.parts_of("toy"):
            # The other batch is the same function.
            if part.name in ("training_64", "sampling_64", "best"):
                continue
            reports = measurement.Measurement(
                folder / f"{part.name}.jsonl", folder, sizes.TOY, time.monotonic() + 600
            )
            run.measure(part, reports)
            found[part.name] = measurement.read(reports.figures)
    patch.undo()
    return found


def figures_of(measured, part, name):
    return [each for each in measured[part] if each["name"] == name]


def test_every_part_tells_first_what_it_was_measured_on(measured):
    for part, figures in measured.items():
        assert figures[0]["name"] == "machine"
        # A command to repeat, without folders of this process.
        expected = f"python experiments/gpu/run.py --parts={part}"
        assert figures[0]["command"] == expected
        assert isinstance(figures[0]["compilation_cache"], bool)
        assert {"device", "cpu", "versions", "commit"} <= figures[0].keys()
        assert len(figures) > 1


@pytest.mark.parametrize("part", ["training_256", "sampling_256"])
def test_ours_is_timed_beside_pytorch_and_a_peer_that_fails_costs_itself(
    measured, part
):
    figures = figures_of(measured, part, "beside PyTorch")
    # Reported anew with each, so that a slow compiler costs its own column alone.
    peers = [[key for key in ("eager", "compiled") if key in each] for each in figures]
    assert peers == [[], ["eager"], ["eager", "compiled"]]
    figure = figures[-1]
    assert figure["ours"]["items_per_second"] > 0
    assert figure["ours"]["compile_seconds"] > 0
    assert figure["ours"]["seconds_per_call"]["repeats"] == sizes.TOY.repeats
    eager = figure["eager"]
    assert eager["ratio"] == pytest.approx(
        figure["ours"]["items_per_second"] / eager["items_per_second"], rel=1
    )
    assert figure["compiled"] == {
        "error": "RuntimeError: no working compiler was found"
    }
    assert (figure["batch_size"], figure["rows"]) == (4, 16)
    expected = 2 if part == "sampling_256" else None
    assert figure["network_evaluations"] == expected


def test_draws_and_final_crystals_are_counted_apart(measured):
    (training,) = figures_of(measured, "best_smoke", "training")
    (draws,) = figures_of(measured, "best_smoke", "draws")
    (final,) = figures_of(measured, "best_smoke", "final crystals")
    assert training["ours"]["items_per_second"] > 0
    assert draws["network_evaluations"] == final["network_evaluations"] == 2
    assert final["draws_per_second_on_the_device"] == draws["ours"]["items_per_second"]
    assert final["draws"] == 2
    seconds = final["seconds_per_call"]["median"]
    expected = sizes.TOY.final_batch / seconds
    assert final["final_crystals_per_second"] == pytest.approx(expected)
    assert final["network"]["trained"] == "briefly"
    assert final["network"]["steps"] == sizes.TOY.steps


def test_final_crystals_of_the_package_s_model_are_counted(measured):
    (positions,) = figures_of(measured, "orbits", "positions")
    assert positions["questions"] > 1000
    (final,) = figures_of(measured, "orbits", "final crystals of mp")
    assert (final["orbits"], final["sites"]) == (3, 8)
    assert 1 <= final["mean_orbits"] <= 3
    assert final["mean_orbits"] <= final["mean_sites"] <= 8
    assert final["num_samples"] == sizes.TOY.orbit_samples
    expected = sizes.TOY.orbit_samples / final["seconds_per_call"]["median"]
    assert final["final_crystals_per_second"] == pytest.approx(expected)
    # Without its data set nothing is known of how right they are.
    assert not figures_of(measured, "orbits", "match rate of mp")


def test_time_is_split_by_kind_of_kernel(measured):
    for figure in figures_of(measured, "profile", "profile"):
        assert figure["shares"]["products"] > 0
        assert figure["shares"]["attention"] > 0
        assert figure["shares"]["norms"] > 0
        # Threads may be at work at the same time.
        assert sum(figure["shares"].values()) >= 0.99
        assert figure["share_without_source"] < 0.5
        assert figure["largest"][0]["share"] >= figure["largest"][1]["share"]
    assert len(figures_of(measured, "profile", "profile")) == 2


def test_part_that_is_stopped_says_how_far_it_was(measured):
    stages = [each["stage"] for each in figures_of(measured, "sampling_256", "stage")]
    assert stages == [
        "ours is compiled",
        "PyTorch, eager, is built",
        "PyTorch, compiled, is built",
    ]


def test_variants_name_the_fastest_and_why_others_failed(measured):
    first, figure = figures_of(measured, "variants", "variants")
    assert first["variants"] == figure["variants"] and not first["problems"]
    assert list(figure["variants"]) == ["as configured", "convolution=unfold"]
    assert figure["variants"]["as configured"]["gain"] == 1
    gains = {name: each["gain"] for name, each in figure["variants"].items()}
    assert figure["fastest"] == max(gains, key=gains.get)
    assert "needs an NVIDIA GPU" in figure["problems"]["attention=cudnn"]


def test_gain_of_a_variant_is_of_as_many_structures():
    def program(steps):
        return ours.Program(None, 8 * steps, steps, 0.0, {"compile_seconds": 1}, ())

    # Ten steps in ten seconds, or one in two.
    base, single = program(10), program(1)
    found = paper.describe_variant(single, [2.0, 2.0], [10.0, 10.0], base)
    assert found["gain"] == pytest.approx(0.5)
    assert found["structures_per_second"] == 4


def test_alloys_are_relaxed(measured):
    cold, *warm = figures_of(measured, "relaxation", "relaxation")
    assert (cold["state"], len(warm)) == ("with compilation", 2)
    assert cold["num_crystals"] == cold["converged"] == sizes.TOY.num_relaxed


def test_largest_batch_is_run(measured):
    found = figures_of(measured, "memory", "largest batch")
    assert [each["task"] for each in found] == ["sampling"]
    for each in found:
        assert each["batch_size"] == sizes.TOY.largest_batch <= each["predicted"]
        assert each["needed_bytes"]["4"] > each["needed_bytes"]["2"]


def test_batch_that_fits_is_predicted_from_two():
    assert paper.predict_batch((64, 256), (1_000_000, 2_920_000), 6_400_000) == 576
    assert paper.round_batch(100.7) == 64
    assert paper.round_batch(63.9) == 63


# ------------------------------------------------------------------------------ kernels
def kernel(name, start, duration, line="Stream #1"):
    return kernels.Kernel(line, name, "", start, duration)


def test_kernels_are_told_apart_by_name_and_source():
    block = "jit(many)/while/body/jvp(CrystalUNet)/unet/down_0_0"
    for name, source, expected in (
        ("nvjet_tst_128x64", "", "products"),
        ("gemm_fusion_dot_12", f"{block}_res/conv_in/dot_general", "products"),
        ("gemm_fusion_dot_13", f"{block}_attention/qkv/dot_general", "products"),
        ("gemm_fusion_dot_14", f"{block}_attention/bic,bjc->bij/dot_general", None),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop", "", None),
        ("loop_fusion_3", f"{block}_attention/exp", None),
        ("input_reduce_fusion", f"{block}_attention/norm/reduce_sum", "norms"),
        ("loop_fusion_4", f"{block}_res/norm_out/mul", "norms"),
        ("MemcpyD2D", "", "copies"),
        ("loop_concatenate_fusion", f"{block}_res/conv_in/concatenate", "copies"),
        ("loop_fusion_5", "jit(many)/while/body/add", "others"),
    ):
        assert kernels.kind_of(name, source) == (expected or "attention"), name


def test_time_of_kernels_within_others_counts_once_and_gaps_are_waiting():
    found = kernels.summarize(
        [
            kernel("while", 0, 6e9),
            kernel("fusion.1", 1e9, 2e9),
            kernel("gemm", 8e9, 2e9),
            kernel("MemcpyH2D", 9e9, 1e9, line="Stream #2"),
        ],
        {"fusion_1": "jit(f)/norm/mul"},
    )
    assert found["seconds"] == {
        "products": 2,
        "attention": 0,
        "norms": 2,
        "copies": 1,
        "others": 4,
        "waiting": pytest.approx(2),
    }
    assert found["span_seconds"] == 10
    assert found["share_without_source"] == pytest.approx(0.7)


# ------------------------------------------------------------------------------- runner
# What stands for the process of a part: {name} → Python.
ADD = """
import pathlib, time
pathlib.Path({figures!r}).write_text('{{"name": "x"}}\\n')
"""


def run_fakes(tmp_path, programs, *, seconds=None, left=100.0, record=None):
    """The record of parts that are these programs, and the exit status."""
    plan = [
        sizes.Part(name, "none", "none", (seconds or {}).get(name, 1), patience=1.0)
        for name in programs
    ]
    output = tmp_path / "out" / "record.json"
    status = run.run(
        plan,
        record or run.open_record(output, None, "toy"),
        output,
        deadline=time.monotonic() + left,
        command_of=lambda part, figures, _: [
            sys.executable,
            "-Sc",
            programs[part.name].format(figures=str(figures)),
        ],
        scratch=tmp_path,
        cache=tmp_path / "cache",
    )
    return json.loads(output.read_text())["parts"], status


def test_part_that_fails_costs_itself_and_is_in_the_record(tmp_path):
    parts, status = run_fakes(
        tmp_path,
        {
            "crashes": ADD + "raise MemoryError('no room')",
            "dies": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
            "works": ADD,
        },
        seconds={"crashes": 20, "dies": 20, "works": 20},
    )
    assert status == 0
    assert parts["crashes"]["status"] == parts["dies"]["status"] == "failed"
    assert parts["crashes"]["error"].endswith("MemoryError: no room")
    assert parts["dies"]["error"] == "exit status -9"
    assert parts["works"]["status"] == "done"
    # What was measured before is kept.
    assert parts["crashes"]["figures"] == parts["works"]["figures"] == [{"name": "x"}]


def test_part_that_hangs_is_stopped_with_what_it_started(tmp_path):
    sleeps = "import os, time; print(os.getpid(), flush=True); time.sleep(100)"
    program = f"{ADD}\nimport subprocess, sys\n"
    program += f"subprocess.run([sys.executable, '-Sc', {sleeps!r}])"
    parts, _ = run_fakes(
        tmp_path, {"hangs": program, "works": ADD}, seconds={"hangs": 3, "works": 20}
    )
    assert parts["hangs"]["status"] == "out of time"
    assert parts["hangs"]["error"] == "stopped after 3 s"
    assert parts["hangs"]["figures"] == [{"name": "x"}]
    assert parts["works"]["status"] == "done"
    # Ended, whether or not someone has asked how.
    stat = pathlib.Path("/proc", parts["hangs"]["log"], "stat")
    assert not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"


def test_part_that_no_longer_fits_is_left_out_and_a_shorter_one_is_not(tmp_path):
    parts, _ = run_fakes(
        tmp_path,
        {"long": ADD, "short": ADD},
        seconds={"long": 1000, "short": 20},
    )
    assert parts["long"]["status"] == "left out"
    assert parts["long"]["error"].startswith("needs 1000 s, ")
    assert parts["long"]["figures"] == []
    assert parts["short"]["status"] == "done"


# A run of its own process, which can be interrupted.
RUNNER = """
import pathlib, sys, time
sys.path[:0] = [{root!r}, {root!r} + "/experiments"]
from gpu import run, sizes
folder = pathlib.Path({folder!r})
output = folder / "out" / "record.json"
programs = {{"first": {add!r}, "second": {add!r} + "time.sleep(100)", "third": ""}}
sys.exit(run.run(
    [sizes.Part(name, "none", "none", 100) for name in programs],
    run.open_record(output, None, "toy"),
    output,
    deadline=time.monotonic() + 1000,
    command_of=lambda part, figures, _: [
        sys.executable, "-Sc", programs[part.name].format(figures=str(figures))
    ],
    scratch=folder,
    cache=folder,
))
"""


def test_interrupted_run_keeps_its_figures_and_goes_on(tmp_path):
    script = RUNNER.format(root=str(ROOT), folder=str(tmp_path), add=ADD)
    process = subprocess.Popen([sys.executable, "-c", script])
    path = tmp_path / "out" / "record.json"

    def has_begun():
        parts = json.loads(path.read_text())["parts"] if path.exists() else {}
        return parts.get("second", {}).get("figures")

    while not has_begun():
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 130
    parts = json.loads(path.read_text())["parts"]
    assert parts["first"]["status"] == "done"
    assert parts["second"]["status"] == "interrupted"
    assert parts["second"]["figures"] == [{"name": "x"}]
    assert "third" not in parts

    again, status = run_fakes(
        tmp_path,
        {"first": "raise ValueError", "second": ADD, "third": ADD},
        seconds={"first": 20, "second": 20, "third": 20},
    )
    assert status == 0
    assert [again[name]["status"] for name in again] == ["done"] * 3
    assert again["first"] == parts["first"]


def test_record_of_another_machine_is_not_gone_on_with(tmp_path):
    path = tmp_path / "record.json"
    path.write_text(json.dumps(run.open_record(path, GPU, "full")))
    assert run.open_record(path, GPU, "full")["gpu"] == GPU
    with pytest.raises(SystemExit, match="choose another --output"):
        run.open_record(path, None, "full")


def test_parts_are_chosen_by_name():
    parts = sizes.parts_of("full")
    assert [part.name for part in run.select(parts, "best,profile")] == [
        "best",
        "profile",
    ]
    assert len({part.name for part in parts}) == len(run.select(parts, None))
    with pytest.raises(SystemExit, match="no part is called bst; expected"):
        run.select(parts, "bst")


def test_command_runs_a_part_in_its_own_process(tmp_path, monkeypatch):
    """With a part that needs no compilation: its time is over before it begins."""
    output = tmp_path / "record.json"
    arguments = ["--size=toy", "--parts=relaxation", f"--output={output}"]
    arguments.append(f"--cache={tmp_path}")
    monkeypatch.setattr(sizes, "_TOY_SECONDS", 0.05)
    assert run.main([*arguments, "--minutes=1"]) == 0
    (part,) = json.loads(output.read_text())["parts"].values()
    assert part["status"] == "out of time"


def test_what_cannot_be_imported_is_named(monkeypatch, capsys):
    needed = {"all parts": ("json", "no_such_module")}
    monkeypatch.setattr(run, "NEEDED", needed)
    assert run.check() == 1
    output = capsys.readouterr().out
    assert "no_such_module ModuleNotFoundError" in output
    assert "1 cannot be imported" in output
    monkeypatch.setattr(run, "NEEDED", {"all parts": ("numpy",)})
    assert run.check() == 0
    assert "all that is needed imports" in capsys.readouterr().out


def test_wheels_are_unpacked_and_what_is_installed_goes_first(tmp_path, monkeypatch):
    for name, version in (("only_in_a_wheel", 1), ("numpy", 2)):
        with zipfile.ZipFile(tmp_path / f"{name}-1-py3-none-any.whl", "w") as archive:
            archive.writestr(f"{name}/__init__.py", f"version = {version}")
    monkeypatch.setattr(sys, "path", list(sys.path))
    run.add_wheels(tmp_path, tmp_path / "unpacked")
    import only_in_a_wheel  # pyright: ignore[reportMissingImports]

    assert only_in_a_wheel.version == 1
    found = importlib.util.find_spec("numpy")
    assert found is not None and str(tmp_path) not in str(found.origin)
    # Another set of wheels takes the place of the first.
    (tmp_path / "numpy-1-py3-none-any.whl").unlink()
    run.add_wheels(tmp_path, tmp_path / "unpacked")
    assert sorted(path.name for path in (tmp_path / "unpacked").iterdir()) == [
        "only_in_a_wheel",
        "wheels.txt",
    ]


def test_sizes_of_wheels_are_reported_and_limited(tmp_path, capsys, monkeypatch):
    (tmp_path / "one-1.whl").write_bytes(bytes(2**20))
    (tmp_path / "two-1.whl").write_bytes(bytes(2**21))
    assert collect_wheels.report(tmp_path) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["2.00", "MiB", "two-1.whl"]
    assert lines[-1].startswith("   3.00 MiB  2 wheels")
    monkeypatch.setattr(collect_wheels, "MOST_MEBIBYTES", 2)
    assert collect_wheels.report(tmp_path) == 1


# ------------------------------------------------------------------------------- tables
def write_record(folder, measured, gpu=GPU, size="full"):
    """A record with the toy's figures, as a run on a GPU would have written it."""
    parts = {
        name: {
            "started": "2030-01-02T03:04:05+00:00",
            "commit": "abc",
            "status": "done",
            "figures": figures,
        }
        for name, figures in measured.items()
    }
    parts["memory"] |= {"status": "failed", "error": "exit status 1\nRuntimeError: a|b"}
    folder.mkdir(exist_ok=True)
    record = {"gpu": gpu, "size": size, "parts": parts}
    (folder / f"{size}.json").write_text(json.dumps(record))


def test_tables_hold_every_part_with_gpu_date_and_commit(measured, tmp_path):
    rates = {"0.3/0.5/10": [0.731, 0.022], "0.2/0.3/5": [0.692, 0.023]}
    found = {"name": "match rate of mp", "structures": 400, "match@1": rates}
    measured = measured | {"orbits": [*measured["orbits"], found]}
    write_record(tmp_path / "results", measured)
    text = tables.make_tables(tables.read_parts(tmp_path / "results"))
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    where = " | NVIDIA H100 80GB HBM3 | 2030-01-02 | `abc` |"
    heads = [row for row in rows if row.endswith("| GPU | date | commit |")]
    assert len(heads) == 9
    assert all(row.endswith(where) for row in rows if row not in heads)
    for head in heads:
        columns = head.count("|")
        body = text[text.index(head) :].split("\n\n")[0].splitlines()
        assert {line.count("|") for line in body} == {columns}
        assert len(body) > 2
    (figure,) = figures_of(measured, "best_smoke", "final crystals")
    assert tables.number(figure["final_crystals_per_second"]) in text
    assert "sampling, 2 evaluations | 4 × 16" in text
    assert "| 400 | 73.1 ± 2.2 | 69.2 ± 2.3 |" in text
    assert "| memory | failed | RuntimeError: a/b" in text
    assert "| training_256: compiled | failed | RuntimeError: no working" in text


def test_readme_holds_the_tables_of_its_records(measured, tmp_path, monkeypatch):
    """And says so where no GPU has been measured, whatever a CPU or a toy was."""
    write_record(tmp_path, measured, gpu=None)
    write_record(tmp_path, measured, size="toy")
    assert tables.make_tables(tables.read_parts(tmp_path)) == tables.NOTHING
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{tables.START}old\n{tables.END}after\n")
    monkeypatch.setattr(tables, "README", readme)
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    tables.main()
    expected = f"before\n{tables.START}{tables.NOTHING}{tables.END}after\n"
    assert readme.read_text() == expected


def test_committed_tables_are_those_of_the_committed_records():
    folder = ROOT / "experiments" / "gpu"
    text = tables.make_tables(tables.read_parts(folder / "results"))
    assert tables.START + text + tables.END in (folder / "README.md").read_text()


def test_numbers_are_readable():
    assert [tables.number(each) for each in (None, 12345.6, 12.345, 0.5, 7)] == [
        "–",
        "12,346",
        "12.3",
        "0.5",
        "7",
    ]
    quartiles = {"median": 2.0, "first_quartile": 1.9, "third_quartile": 2.1}
    assert tables.spread(quartiles) == "± 5.0 %"
