import dataclasses
import io
import json
import pathlib
import re
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
from starlette import testclient

from crystaljax.app import (
    asking,
    details,
    downloads,
    guard,
    jobs,
    line,
    offers,
    options,
    progress,
    results,
    server,
    uploads,
)
from crystaljax.crystals import cif, elements, poscar, structure, structure_files
from crystaljax.system import errors

TOKEN = "a-token"
INJECTION = "<img src=x onerror=alert(1)>; rm -rf / $(id) `id`"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A client of a server that has no jobs, and the server."""
    root = tmp_path_factory.mktemp("app")
    asked = options.AppOptions(folder=str(root))
    serving = server.Server(asked, root, line.Line(root))
    app = server.build(serving, TOKEN)
    with testclient.TestClient(app, base_url="http://127.0.0.1:8000") as client:
        yield client, serving


def address(path):
    return f"/{TOKEN}/{path}"


def post(client, path, values=None, **headers):
    headers = {guard.TOKEN_HEADER: TOKEN} | headers
    return client.post(address(path), json=values or {}, headers=headers)


def wait_for(serving, job_id, *states):
    for _ in range(600):
        job = serving.line.find(job_id)
        if job.state in states:
            return job
        time.sleep(0.05)
    pytest.fail(f"the job is still {job.state}, expected {states}")


# ---- Who may ask -------------------------------------------------------------------


def test_requests_without_the_token_are_refused(served):
    client, _ = served
    assert client.get(address("")).status_code == 200
    for path in ("/", "/api/jobs", "/static/app.css", "/wrong/", f"/{TOKEN}x/"):
        assert client.get(path).status_code == 403, path
    # What changes something needs it in a header too, from this site.
    assert client.post(address("api/jobs"), json={}).status_code == 403
    assert post(client, "api/jobs", **{guard.TOKEN_HEADER: "x"}).status_code == 403
    assert post(client, "api/jobs", origin="http://evil.test").status_code == 403
    assert post(client, "api/jobs", origin="http://127.0.0.1:8000").status_code == 400
    assert client.options(address("api/jobs")).status_code == 403


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:1234", 200),
        ("[::1]:8000", 200),
        ("evil.test", 403),
        ("127.0.0.1.evil.test:8000", 403),
        ("evil.test:8000@127.0.0.1", 403),
        ("[", 403),
        ("", 403),
    ],
)
def test_names_that_lead_here_from_elsewhere_are_refused(served, host, status):
    client, _ = served
    # Only this machine's own names: what a page of another site has is its own.
    assert client.get(address(""), headers={"host": host}).status_code == status


def test_policy_allows_nothing_from_elsewhere(served):
    client, _ = served
    page = client.get(address(""))
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "'unsafe" not in policy
    assert page.headers["referrer-policy"] == "no-referrer"
    assert page.headers["cache-control"] == "no-store"
    names = re.findall(r'(?:src|href)="(static/[^"]+)"', page.text)
    assert len(names) == 16
    for name in names:
        found = client.get(address(name))
        assert found.status_code == 200, name
        text = found.text.replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|@import|innerHTML|outerHTML|eval\(", text), name


def test_only_files_of_the_page_are_served(served):
    client, serving = served
    (serving.root / "secret.css").write_text("secret")
    for name in ("../server.py", "..%2fserver.py", "%2fetc%2fpasswd", "secret.css"):
        assert client.get(address(f"static/{name}")).status_code == 404, name


# ---- What is asked for -------------------------------------------------------------


def test_formulas_are_checked_in_the_words_of_the_library(served):
    client, _ = served
    found = post(client, "api/check", {"formulas": "TaB2"}).json()
    assert found["cells"] == ["B2Ta1"]
    assert 191 in found["feasible"] and 221 not in found["feasible"]
    for text, words in {
        "TaXx": "Xx",
        "Po3": "which the training structures never had",
        "Ta" * 150: "at most 200 characters",
        "": "expected a formula",
        "Ta\0": "not printed",
    }.items():
        answer = post(client, "api/check", {"formulas": text})
        assert answer.status_code == 400 and words in answer.json()["error"], text
    both = {"formulas": "TaB2", "system": "Ta-B"}
    assert post(client, "api/check", both).status_code == 400
    system = {"system": "Ta-B", "max_atoms": 3}
    assert post(client, "api/check", system).json()["cells"] == [
        *("B1Ta1", "B1Ta2", "B2Ta1"),
    ]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"num_samples": 0}, "whole number from 1"),
        ({"num_samples": 10**9}, "whole number from 1"),
        ({"num_samples": "4"}, "whole number"),
        ({"seed": -1}, "seed"),
        ({"space_groups": "231"}, "231"),
        ({"space_groups": "all", "num_samples": 3}, "690"),
        ({"energies": "low,x"}, "neither an energy nor a range"),
        ({"energies": "hull+0.1"}, "none is loaded"),
        ({"formula_units": "0"}, "formula_units"),
        ({"formulas": ["TaB2"]}, "text"),
        ({"system": "A-B", "formulas": ""}, "A-B"),
    ],
)
def test_what_cannot_be_made_is_refused_before_it_is_in_line(served, values, words):
    client, serving = served
    answer = post(client, "api/jobs", {"kind": "sample", "formulas": "TaB2"} | values)
    assert answer.status_code == 400 and words in answer.json()["error"]
    assert serving.line.all() == []


def test_bodies_that_are_no_objects_or_too_long_are_refused(served):
    client, _ = served
    headers = {guard.TOKEN_HEADER: TOKEN}
    for content, status in ((b"[1", 400), (b"[]", 400), (b" " * 200_000, 413)):
        answer = client.post(address("api/jobs"), content=content, headers=headers)
        assert answer.status_code == status
    assert post(client, "api/jobs", {"kind": INJECTION}).status_code == 400


def test_every_value_is_one_argument(served):
    _, serving = served
    values = {
        "formulas": "TaB2, Cu3Au",
        "space_groups": "P6/mmm,221",
        "energies": "-0.6:-0.4:0.1",
        "formula_units": "1,2",
        "num_samples": 2,
        "seed": 3,
    }
    asked = asking.sample(values, serving.model, serving.asked)
    assert asked.arguments == (
        "sample",
        "--formulas=TaB2,Cu3Au",
        "--formula_units=1,2",
        "--space_groups=191,221",
        "--energies=-0.6:-0.4:0.1",
        "--num_samples=2",
        "--seed=3",
    )
    # A value that looks like a flag, or like a command of a shell, stays a value.
    with pytest.raises(errors.UserError):
        asking.sample({"formulas": "--output=/tmp"}, serving.model, serving.asked)
    job = jobs.new(INJECTION, ("sample", f"--formulas={INJECTION}"), {})
    command = jobs.command(serving.root, job)
    assert command[3:5] == ["sample", f"--formulas={INJECTION}"]
    output = pathlib.Path(command[-1].removeprefix("--output="))
    assert output.parent.parent == serving.root / "jobs"
    # As it is shown, a shell gives back the same arguments.
    typed = jobs.command_line(serving.root, job)
    assert f"'--formulas={INJECTION}'" in typed
    assert re.search(r"--output=[A-Za-z0-9_.+-]+$", typed)


def test_energies_relative_to_a_hull_name_it(served):
    _, serving = served
    asked = options.AppOptions(hull="builtin")
    values = {"formulas": "Cu3Au", "energies": "hull+0.05"}
    found = asking.sample(values, serving.model, asked)
    assert "--hull=builtin" in found.arguments


def test_uploads_are_modified_and_kept_in_part(served):
    client, serving = served
    values = {"keep": "Cu", "formulas": "Cu3Pt", "num_samples": 2}
    assert asking.keep(values, serving.model) == (
        *("sample", "--keep=Cu", "--formulas=Cu3Pt", "--num_samples=2", "--seed=0"),
    )
    with pytest.raises(errors.UserError, match="nothing is kept"):
        asking.keep({}, serving.model)
    asked = options.AppOptions(modify_with="runs/modify")
    values = {"energy_difference": "-0.1", "space_groups": "221,P4/mmm"}
    assert asking.modify(values, serving.model, asked) == (
        *("modify", "--model=runs/modify", "--energy_difference=-0.1"),
        *("--space_groups=221,123", "--num_samples=4", "--seed=0"),
    )
    with pytest.raises(errors.UserError, match="relative to a hull"):
        asking.modify(values | {"energy_difference": "hull"}, serving.model, asked)
    with pytest.raises(errors.UserError, match="asked for space groups"):
        asking.modify({}, serving.model, asked)
    given = asking.modify({"decorate": "Cu:Ni"}, serving.model, serving.asked)
    assert given == ("modify", "--decorate=Cu:Ni", "--num_samples=4", "--seed=0")
    other = dataclasses.replace(serving.model, of_orbits=False)
    with pytest.raises(errors.UserError, match="no model that modifies"):
        asking.modify(values, other, serving.asked)
    text = structure_files.poscar_text(CU3AU, "Cu3Au")
    uploaded = upload(client, "a.vasp", text).json()
    values = {"kind": "modify", "upload": uploaded["id"], "space_groups": "231"}
    answer = post(client, "api/jobs", values)
    assert answer.status_code == 400 and "231" in answer.json()["error"]


def test_potentials_are_those_that_are_installed(served):
    client, serving = served
    about = client.get(address("api/about")).json()
    names = [each["name"] for each in about["potentials"]]
    assert names[0] == "emt" and {"chgnet:0.3.0", "sevenn:7net-0"} <= set(names)
    assert not any(name.startswith("mattersim") for name in names)
    assert "Ta" in about["elements"] and "Po" not in about["elements"]
    values = {"calculator": "emt", "hull": "builtin"}
    given = asking.screen(values, serving.asked, frozenset({"Cu", "Au"}))
    assert given[:3] == ("screen", "--calculator=emt", "--hull=builtin")
    for changed, words in (
        ({"calculator": "mattersim"}, "installed"),
        ({"calculator": "os:getcwd"}, "installed"),
        ({"hull": "given"}, "no hull"),
        ({"hull": "/etc/passwd"}, "no hull"),
    ):
        with pytest.raises(errors.UserError, match=words):
            asking.screen(values | changed, serving.asked, frozenset({"Cu"}))
    with pytest.raises(errors.UserError, match="no parameters for Ta"):
        asking.screen(values, serving.asked, frozenset({"Ta", "Cu"}))


# ---- Jobs --------------------------------------------------------------------------


def test_jobs_run_one_after_the_other_and_say_why_they_failed(served):
    client, serving = served
    # A command that ends at once, since it has no such flag.
    made = [
        serving.line.add(jobs.new(f"job {i}", ("models", "--no_such_flag"), {}))
        for i in range(3)
    ]
    states = [serving.line.find(job.id).state for job in made]
    assert states.count(jobs.RUNNING) <= 1 and states[2] == jobs.WAITING
    stopped = post(client, f"api/jobs/{made[2].id}/stop").json()
    assert stopped["state"] == "stopped" and stopped["can_resume"]
    for job in made[:2]:
        found = wait_for(serving, job.id, jobs.FAILED)
        assert "no_such_flag" in found.reason and "Traceback" not in found.reason
    assert post(client, f"api/jobs/{made[0].id}/stop").status_code == 400
    assert post(client, f"api/jobs/{made[2].id}/resume").json()["state"] in (
        *("waiting", "running"),
    )
    wait_for(serving, made[2].id, jobs.FAILED)
    assert client.get(address(f"api/jobs/{made[0].id}/results")).status_code == 400
    for job in made:
        assert post(client, f"api/jobs/{job.id}/remove").status_code == 200
        assert not jobs.folder_of(serving.root, job).exists()
    assert post(client, f"api/jobs/{made[0].id}/remove").status_code == 404
    assert client.get(address("api/jobs")).json() == {"jobs": []}


def test_paths_are_never_made_of_what_is_sent(served):
    client, _ = served
    for name in ("..", "%2e%2e%2fjobs", "x" * 300, "20260101-000000-abcdef"):
        for path in (f"api/jobs/{name}/results", f"jobs/{name}/report.html"):
            assert client.get(address(path)).status_code == 404
    values = {"kind": "relax", "upload": "../../etc", "calculator": "emt"}
    assert post(client, "api/jobs", values).status_code == 404


def test_a_line_that_is_opened_again_has_the_jobs_as_they_were(tmp_path):
    made = {
        state: dataclasses.replace(jobs.new(state, ("models",), {}), state=state)
        for state in (jobs.DONE, jobs.RUNNING, jobs.STOPPED)
    }
    for job in made.values():
        jobs.save(tmp_path, job)
    damaged = tmp_path / "jobs" / "20260101-000000-abcdef"
    damaged.mkdir()
    (damaged / "job.json").write_text('{"id": ')
    (tmp_path / "jobs" / "notes").mkdir()
    found = {job.title: job for job in line.Line(tmp_path).all()}
    assert found.keys() == made.keys()
    assert found[jobs.RUNNING].state == jobs.INTERRUPTED
    assert found[jobs.DONE] == made[jobs.DONE]
    # Written down, so that it is so for whoever looks next.
    path = jobs.folder_of(tmp_path, made[jobs.RUNNING]) / "job.json"
    assert json.loads(path.read_text())["state"] == jobs.INTERRUPTED


def test_a_job_that_the_disk_refuses_does_not_end_the_line(tmp_path):
    opened = line.Line(tmp_path)
    first, second = (
        opened.add(jobs.new(name, ("models", "--no_such_flag"), {})) for name in "ab"
    )
    folder = jobs.folder_of(tmp_path, first)
    (folder / "job.json").unlink()
    folder.rmdir()
    folder.write_text("a file is in the way")
    opened.start()
    for _ in range(600):
        if opened.find(second.id).state == jobs.FAILED:
            break
        time.sleep(0.05)
    assert "no_such_flag" in opened.find(second.id).reason
    assert opened.find(first.id).state == jobs.FAILED
    assert str(folder) in opened.find(first.id).reason
    opened.close()


def test_progress_is_that_of_the_last_bar(tmp_path):
    log = tmp_path / "log.txt"
    assert progress.read(log) is None
    log.write_text("starting\n")
    assert progress.read(log) is None
    with log.open("a") as file:
        import tqdm

        for _ in tqdm.tqdm(range(8), desc="relax", file=file, mininterval=0):
            pass
        file.write("\rsample:  25%|██▌    | 1/4 [00:01<00:03,  1.0s/crystal]")
    assert progress.read(log) == progress.Progress("sample", 1, 4)
    log.write_text("note: a\nwork\nerror: no such\n  thing\nnote: a\n")
    assert progress.find_reason(log) == "no such\nthing\nnote: a"
    assert progress.find_notes(log) == ["a"]


# ---- Uploads -----------------------------------------------------------------------

CU3AU = structure.Crystal(
    np.array([79, 29, 29, 29]),
    np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]),
    3.75 * np.eye(3),
)


def upload(client, name, content):
    headers = {guard.TOKEN_HEADER: TOKEN}
    path = address("api/uploads")
    return client.post(path, params={"name": name}, content=content, headers=headers)


def test_uploads_are_kept_under_a_name_of_the_server(served):
    client, serving = served
    name = "../../<b>$(id)\n.vasp"
    text = structure_files.poscar_text(CU3AU, "Cu3Au")
    found = upload(client, name, text).json()
    assert found["formula"] == "Au1Cu3" and len(found["structure"]["numbers"]) == 4
    assert found["name"] == "../../<b>$(id)?.vasp"
    kept = uploads.load(serving.root, found["id"])
    assert kept.path.parent.parent == serving.root / "uploads"
    assert kept.path.read_text() == text


def test_an_uploaded_crystal_is_relaxed_unless_it_is_stopped(served):
    client, serving = served
    found = upload(client, "a.vasp", structure_files.poscar_text(CU3AU, "Cu3Au")).json()
    values = {"kind": "relax", "upload": found["id"], "calculator": "emt"}
    made = post(client, "api/jobs", values)
    assert made.status_code == 201 and made.json()["title"] == "a.vasp, relaxed"
    job = wait_for(serving, made.json()["id"], jobs.RUNNING)
    folder = jobs.folder_of(serving.root, job)
    assert (folder / "input.vasp").is_file()
    assert post(client, f"api/jobs/{job.id}/remove").status_code == 400
    assert post(client, f"api/jobs/{job.id}/stop").status_code == 200
    wait_for(serving, job.id, jobs.STOPPED)
    assert not (folder / "output" / "screening.csv").exists()
    assert post(client, f"api/jobs/{job.id}/remove").status_code == 200
    # EMT has no boron.
    text = structure_files.poscar_text(
        dataclasses.replace(CU3AU, atomic_numbers=np.array([5, 29, 29, 29])), "Cu3B"
    )
    found = upload(client, "b.vasp", text).json()
    answer = post(client, "api/jobs", values | {"upload": found["id"]})
    assert answer.status_code == 400 and "no parameters for B" in answer.json()["error"]


def test_uploads_that_are_no_crystals_leave_nothing(served):
    client, serving = served
    before = sorted((serving.root / "uploads").glob("*"))
    for name, content, words in (
        ("a.cif", b"data_x\n_cell_length_a 3\n\x00\xff", "holds no crystal"),
        ("a.exe", b"MZ", "no known format"),
        ("a.cif", b"", "holds no crystal"),
    ):
        answer = upload(client, name, content)
        assert answer.status_code == 400 and words in answer.json()["error"]
    assert upload(client, "a.cif", b"x" * 2_000_001).status_code == 413
    assert sorted((serving.root / "uploads").glob("*")) == before


# ---- Crystals ----------------------------------------------------------------------


def test_a_crystal_in_numbers(tmp_path):
    known = tmp_path / "known.extxyz"
    other = dataclasses.replace(CU3AU, lattice=3.9 * np.eye(3))
    structure_files.write_extxyz(known, [other], [{"name": "a known one"}])
    found = details.describe(CU3AU, str(known))
    assert found["group"] == 221
    np.testing.assert_allclose(found["cell"], [3.75] * 3 + [90] * 3)
    assert [(site["symbol"], site["letter"]) for site in found["sites"]] == [
        *(("Au", "a"), ("Cu", "c"), ("Cu", "c"), ("Cu", "c")),
    ]
    gold, copper = found["shells"]
    nearest = 3.75 / np.sqrt(2)
    assert (gold["position"], copper["position"]) == ("1a", "3c")
    assert gold["neighbors"] == [
        {
            "symbol": "Cu",
            "count": 12,
            "shortest": pytest.approx(nearest, abs=1e-5),
            "longest": pytest.approx(nearest, abs=1e-5),
        }
    ]
    assert {each["symbol"]: each["count"] for each in copper["neighbors"]} == {
        **{"Au": 4, "Cu": 8},
    }
    assert found["nearest"]["id"] == "a known one"
    assert found["nearest"]["distance"] == pytest.approx(0, abs=1e-6)
    assert details.describe(CU3AU, None)["nearest"] is None


def test_files_hold_the_crystals():
    rows = [
        results.Row(i, f"{i}_<Au1Cu3>/sg221", CU3AU, {"group": 221, "volume": 13.2})
        for i in (1, 2)
    ]
    name, content = downloads.build(rows[:1], "cif", "alloys", "command")
    assert name == "1_Au1Cu3_sg221.cif"
    formula = elements.cell_formula(cif.parse_cif(content.decode()).atomic_numbers)
    assert formula == "Au1Cu3"
    _, content = downloads.build(rows[:1], "poscar", "alloys", "command")
    found = poscar.parse_poscar(content.decode())
    np.testing.assert_allclose(found.lattice, CU3AU.lattice)
    name, content = downloads.build(rows, "zip", "TaB2, relaxed", "the command")
    assert name == "TaB2_relaxed.zip"
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.read("command.txt") == b"the command\n"
        table = archive.read("crystals.csv").decode().splitlines()
        assert table[0] == "name,formula,group,volume" and len(table) == 3
        assert sum(name.endswith(".cif") for name in archive.namelist()) == 2
    for chosen, file_format in ((rows, "cif"), (rows, "../x"), ([], "zip")):
        with pytest.raises(errors.UserError):
            downloads.build(chosen, file_format, "alloys", "command")


# ---- The command -------------------------------------------------------------------


def test_what_is_not_there_is_said_before_anything_is_served(tmp_path):
    from crystaljax import serve_app

    for asked, words in (
        (options.AppOptions(model="none"), "no model"),
        (options.AppOptions(known=str(tmp_path / "x.csv")), "no known crystals"),
        (options.AppOptions(hull=str(tmp_path / "x.csv")), "no entries"),
    ):
        with pytest.raises((errors.UserError, FileNotFoundError), match=words):
            serve_app.serve(asked)


def test_a_missing_package_says_what_to_install():
    script = (
        "import sys; sys.modules['uvicorn'] = None\n"
        "from crystaljax import serve_app; serve_app.main(['--no_browser'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert 'pip install "crystaljax[app]"' in done.stderr
    assert "Traceback" not in done.stderr


def test_offers_are_of_models_that_make_crystals(trained):
    asked = options.AppOptions(workdir=str(trained("ddim")))
    model = offers.load_model(asked)
    assert not model.of_orbits and model.flags == (f"--workdir={asked.workdir}",)
    with pytest.raises(errors.UserError, match="model of orbits"):
        asking.sample({"formulas": "Cu3Au", "energies": "low"}, model, asked)


def test_the_address_is_in_a_file_that_nobody_else_reads(tmp_path):
    from crystaljax import serve_app

    with serve_app._written(tmp_path, "http://127.0.0.1:1/token/") as path:
        assert path.stat().st_mode & 0o777 == 0o600
        assert "url=http://127.0.0.1:1/token/" in path.read_text()
    assert not path.exists()
