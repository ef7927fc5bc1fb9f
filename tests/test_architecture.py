"""How much one has to read: parameters, layers of the models, files of a step."""

import ast
import functools
import pathlib
import sys
import threading

import jax
import numpy as np
import pytest
import tiny

import crystaljax
from configs import best, ddim, modify_regression
from crystaljax import sample
from crystaljax.crystals import sample_tensors, structure
from crystaljax.models import build, initial
from crystaljax.models.networks import interface
from crystaljax.sampling import conditions, requests
from crystaljax.system import sharding
from crystaljax.training import build as build_training
from crystaljax.training import train_step

PACKAGE = pathlib.Path(crystaljax.__file__).parent
MAX_PARAMETERS = 6
MAX_FILES_OF_A_STEP = 8
MAX_FILES_OF_A_CONDITION = 18
# What comes from outside into a program, and what it looks up.
MAX_CONSTANT = 50_000


def functions(folder):
    for path in sorted((PACKAGE / folder).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                yield f"{folder}/{path.name}: {node.name}", node.args


@pytest.mark.parametrize("folder", ["sampling", "training"])
def test_functions_take_few_parameters(folder):
    found = {}
    for name, args in functions(folder):
        every = [*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg]
        names = {each.arg for each in (*every, args.kwarg) if each} - {"self", "cls"}
        found[name] = len(names)
    assert len(found) > 20
    assert {name: n for name, n in found.items() if n > MAX_PARAMETERS} == {}


@pytest.mark.parametrize(
    "name", ["processes", "schedules", "samplers", "losses", "scaling"]
)
def test_methods_know_no_network(name):
    tree = ast.parse((PACKAGE / "models" / f"{name}.py").read_text())
    imported = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            imported += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            imported += [alias.name for alias in node.names]
    assert imported
    assert [each for each in imported if "models.networks" in each] == []


@pytest.mark.parametrize("module", [ddim, best, modify_regression])
def test_networks_have_what_is_asked_of_them(module):
    model = build.build_model(tiny.shrink(module.get_config("smoke"), "unused"))
    assert isinstance(model, interface.Network)
    assert bool(model.estimator_depth) == (module is best)
    assert hasattr(model, "estimate_energy") == (module is best)
    assert {table.shape[0] for table in model.tables().values()} == {104, 231}


# -------------------------------------------------------------------- a step's program
def longest_constant(text):
    """Characters of the longest line that defines a constant."""
    return max(len(line) for line in text.splitlines() if "constant" in line)


def random_units(config, seed):
    """Units as they are measured on other data."""
    rng = np.random.default_rng(seed)
    return build_training.build_scaling(
        config,
        4 * np.eye(3) + rng.random((20, 3, 3)),
        rng.normal(size=20),
        rng.integers(1, 60, (20, 2)),
    )


def step_and_arguments(config, scale, num_steps):
    """The compiled steps of a dispatch, and shapes of what they are given."""
    trainee = build_training.build_trainee(config, scale, num_steps)
    dispatch = train_step.build_dispatch_fn(trainee, sharding.build_mesh())
    steps, size = 2, config.train.batch_size
    sites = structure.max_sites(config.data.rows)

    def array(*shape, dtype=np.float32):
        return jax.ShapeDtypeStruct((steps, size, *shape), dtype)

    cells = sample_tensors.CellBatch(array(sites, 3), array(3, 3))
    batches = sample_tensors.CrystalBatch(
        atomic_numbers=array(sites, dtype=np.uint8),
        frac_coords=cells.frac_coords,
        lattice=cells.lattice,
        num_sites=array(dtype=np.int32),
        space_group=array(dtype=np.uint8),
        energy=array(),
        source=cells if build.is_modification(config) else None,
    )
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = train_step.state_shapes(trainee)
    return dispatch.many_fn, (dispatch.trainee, state, batches, key)


@pytest.mark.parametrize("module", [ddim, best, modify_regression])
def test_equal_networks_have_one_program_whatever_the_data_and_the_length(module):
    config = tiny.shrink(module.get_config("smoke"), "unused")
    if module is modify_regression:
        config.loss.coordinates = "pbc_l2"
    texts = []
    for seed, num_steps, rate in ((0, 10, 1e-3), (1, 54321, 3e-5)):
        config.optimizer.learning_rate = rate
        many_fn, arguments = step_and_arguments(
            config, random_units(config, seed), num_steps
        )
        texts.append(many_fn.lower(*arguments).as_text())
    assert texts[0] == texts[1]
    # The table of space groups would be a line of more than a million characters.
    assert longest_constant(texts[0]) < MAX_CONSTANT


@pytest.mark.parametrize("module", [ddim, best])
def test_samplers_have_one_program_whatever_the_data(module):
    config = tiny.shrink(module.get_config("smoke"), "unused")
    generator = tiny.build_generator(config)
    sites, size = structure.max_sites(config.data.rows), 4
    asked = conditions.combine(["Cu1Au1"], [221], [0.0], size, sites)
    asked = asked.replace(repetition=None)
    texts = []
    for seed in (0, 1):
        scale = jax.tree.map(np.float32, random_units(config, seed))
        lowered = generator.generate_fn.lower(
            generator.numbers[0],
            scale,
            asked,
            jax.eval_shape(lambda: jax.random.key(0)),
            jax.ShapeDtypeStruct((size,), np.int32),
        )
        texts.append(lowered.as_text())
    assert texts[0] == texts[1]
    assert longest_constant(texts[0]) < MAX_CONSTANT


def test_a_training_step_is_understood_from_few_files():
    """Those whose code runs while it is traced; of the network, what it is asked."""
    config = tiny.shrink(ddim.get_config("smoke"), "unused")
    # A step that no test before has traced.
    config.loss.lattice_weight = 0.123
    many_fn, arguments = step_and_arguments(config, random_units(config, 0), 10)
    files = set()

    # Unlike a profiler's, it is called where functions of Python begin and nowhere
    # else; it returns nothing, since the lines within do not matter.
    def note(frame, event, _):
        files.add(frame.f_code.co_filename)

    sys.settrace(note)
    try:
        many_fn.trace(*arguments)
    finally:
        sys.settrace(None)
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in map(pathlib.Path, files)
        if path.is_relative_to(PACKAGE)
    }
    read = {name for name in found if not name.startswith("models/networks/")}
    read.add("models/networks/interface.py")
    assert {"training/train_step.py", "models/processes.py"} <= read
    assert len(read) <= MAX_FILES_OF_A_STEP, "\n".join(sorted(read))


def test_a_condition_reaches_its_cif_through_few_files(alloys, tmp_path):
    """Those that hand it on, from options to a CIF, while `sample` runs.

    Code runs in about 45 files. Half of these call no other file: a formula is parsed,
    a table looked up, a lattice wrapped, which their names say; nor does one have to
    open `system/` (locks, files, devices) or the insides of the network.
    """
    tiny.write_run(tmp_path / "run", tiny.config("ddim", alloys))
    options = sample.SampleOptions(
        workdir=str(tmp_path / "run"),
        formulas=("Cu3Au1",),
        space_groups="221",
        energies="-0.1",
        # A program that other tests have compiled.
        batch_size=12,
    )
    apart = ("system/", "models/networks/")
    calls = set()

    @functools.cache
    def name_of_file(name):
        path = pathlib.Path(name)
        if path.is_relative_to(PACKAGE):
            return path.relative_to(PACKAGE).as_posix()
        return None

    def name_of(frame):
        if frame.f_code.co_name == "<module>":
            return None
        return name_of_file(frame.f_code.co_filename)

    # Called where functions begin, see above.
    def note(frame, event, _):
        called = name_of(frame)
        if called is None or called.startswith(apart):
            return
        # JAX, a decorator or a queue may stand in between.
        above = frame.f_back
        while above is not None and name_of(above) is None:
            above = above.f_back
        if above is not None and name_of(above) != called:
            calls.add((name_of(above), called))

    threading.settrace(note)
    sys.settrace(note)
    try:
        requests.write_request(
            sample.build_request(options),
            tmp_path / "out",
            cifs="folder",
            shard_size=None,
            overwrite=False,
        )
    finally:
        sys.settrace(None)
        threading.settrace(None)
    assert list((tmp_path / "out").rglob("*.cif"))
    read = {name for name, _ in calls if not name.startswith(apart)}
    expected = {"sample.py", "sampling/generation.py", "crystals/structure_files.py"}
    assert expected <= read
    assert len(read) <= MAX_FILES_OF_A_CONDITION, "\n".join(sorted(read))


def test_tables_as_arguments_change_nothing():
    config = tiny.shrink(best.get_config("smoke"), "unused")
    model, _, params = tiny.build_network(config)
    inputs = initial.example_inputs(model, config.data.rows)
    given = jax.jit(model.apply)(
        interface.variables_of(params, model.tables()), *inputs
    )
    np.testing.assert_array_equal(given, jax.jit(model.apply)(params, *inputs))
