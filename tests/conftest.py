"""Settings of all tests, and the runs that they share."""

import dataclasses
import functools
import gc
import inspect
import os
import pathlib
import sys
import typing
from importlib import machinery
from unittest import mock

import filelock
import hypothesis
import jaxtyping
import pytest
from jaxtyping import _import_hook, _storage

# LLVM alone writes a program in half the time that it takes with MLIR before it, and
# in less if it is not cut into parts for cores that other workers have.
# Here, since XLA reads it once, when a test module first computes something: later, it
# would hold for subprocesses alone, whose numbers would differ in the last digit.
_FLAGS = os.environ.get("XLA_FLAGS", "")
os.environ["XLA_FLAGS"] = (
    f"{_FLAGS} --xla_cpu_use_fusion_emitters=false"
    " --xla_cpu_parallel_codegen_split_count=1"
).strip()

# Workers of pytest take all cores: threads that wait for others keep cores busy.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

# Dozens of processes are started that import the package: compiled once, it is read in
# a fifth of the time.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

_check_all = jaxtyping.jaxtyped


def _check_types(fn=None, *, typechecker):
    """`jaxtyping.jaxtyped`, which checks the same later and in less time.

    It takes milliseconds to decorate a function: here it is done when it is first
    called, which most are not, and by the type checker alone where it has no shapes.
    Functions within others are decorated each time that these are called.
    """
    if fn is None:
        return functools.partial(_check_types, typechecker=typechecker)
    if inspect.isclass(fn):
        # As jaxtyping does: of a dataclass, and not what it inherits.
        if dataclasses.is_dataclass(fn) and "__init__" in vars(fn):
            fn.__init__ = _decorate_later(fn.__init__, _check_shapes, typechecker)
        return fn
    if not fn.__annotations__:
        return fn
    has_shapes = any(map(_has_shapes, fn.__annotations__.values()))
    return _decorate_later(fn, _check_shapes if has_shapes else None, typechecker)


def _check_shapes(fn, typechecker):
    """Axes of one name are of one length in all arguments and the result of a call.

    jaxtyping itself checks the arguments twice, and binds them to their names, which
    only annotations that are text or have names in braces need.
    """
    annotations = fn.__annotations__.values()
    if any(map(_has_text, annotations)) or "{" in str(list(annotations)):
        return _check_all(fn, typechecker=typechecker)
    typed = typechecker(fn)

    @functools.wraps(fn)
    def checked(*args, **kwargs):
        _storage.push_shape_memo({})
        try:
            return typed(*args, **kwargs)
        finally:
            _storage.pop_shape_memo()

    return checked


def _decorate_later(fn, decorate, typechecker):
    @functools.cache
    def decorated():
        return typechecker(fn) if decorate is None else decorate(fn, typechecker)

    @functools.wraps(fn)
    def checked(*args, **kwargs):
        return decorated()(*args, **kwargs)

    return checked


def _has_text(annotation):
    """Whether there is text in it, which stands for a type."""
    if isinstance(annotation, (list, tuple)):
        return any(map(_has_text, annotation))
    if isinstance(annotation, (str, typing.ForwardRef)):
        return True
    if typing.get_origin(annotation) is typing.Literal:
        return False
    return any(map(_has_text, typing.get_args(annotation)))


def _has_shapes(annotation):
    """Whether there may be shapes in it; text is not looked into."""
    if isinstance(annotation, (list, tuple)):
        return any(map(_has_shapes, annotation))
    module = getattr(annotation, "__module__", "")
    if isinstance(annotation, str) or module.startswith("jaxtyping"):
        return True
    return any(map(_has_shapes, typing.get_args(annotation)))


# Before the package is imported, whose functions are decorated with it by name.
jaxtyping.jaxtyped = _check_types


def _find_code(loader, name):
    """`SourceFileLoader.get_code`, under a file name of jaxtyping's own.

    jaxtyping keeps that name while a module of the package is executed, and so all
    that the module imports, JAX among it, is compiled anew.
    """
    find = functools.partial(
        _import_hook._optimized_cache_from_source, loader._typechecker.get_hash()
    )
    with mock.patch("importlib._bootstrap_external.cache_from_source", find):
        return machinery.SourceFileLoader.get_code(loader, name)


_import_hook._JaxtypingLoader.get_code = _find_code
_import_hook._JaxtypingLoader.exec_module = machinery.SourceFileLoader.exec_module

# Shared machines stall; a slow example is not a failing one.
hypothesis.settings.register_profile("crystaljax", deadline=None)
hypothesis.settings.load_profile("crystaljax")

# A worker takes whole files: one that starts the longest last works on alone. In this
# order no two at a time wait for the same run of `trained`.
_LONG_FILES = (
    "test_training.py",
    "test_networks.py",
    "test_app_page.py",
    "test_orbit_runs.py",
    "test_gpu_experiment.py",
    "test_screen.py",
    "test_interruptions.py",
    "test_two_devices.py",
    "test_import_torch.py",
    "test_html_report.py",
    "test_energy_estimator.py",
    "test_precision.py",
    "test_funnel.py",
    "test_prepare.py",
    "test_benchmarks.py",
    "test_superposition.py",
    "test_templates.py",
    "test_wyckoff.py",
    "test_modify.py",
    "test_losses.py",
    "test_hostile_input.py",
    "test_sevennet.py",
    "test_relaxation_batches.py",
    "test_several_processes.py",
    "test_pretrained.py",
    "test_match_rate.py",
    "test_requests.py",
    "test_samplers.py",
    "test_architecture.py",
    "test_checkpoints.py",
    "test_wyckoff_model.py",
    "test_imports.py",
    "test_orbit_flow.py",
    "test_library.py",
    "test_examples.py",
    "test_isolation.py",
    "test_collect.py",
    "test_configs.py",
    "test_judging.py",
    "test_novelty.py",
    "test_estimator_training.py",
    "test_standard_setting.py",
    "test_orbit_generation.py",
    "test_bad_crystals.py",
    "test_pairs.py",
    "test_aflow.py",
    "test_sevennet_batches.py",
    "test_potentials.py",
    "test_relaxed_hull.py",
    "test_report.py",
    "test_saddles.py",
    "test_matcher.py",
    "test_split.py",
    "test_validity.py",
    "test_model_files.py",
    "test_export_command.py",
    "test_emt_alloys.py",
    "test_optimade.py",
    "test_standard_groups.py",
    "test_transformer.py",
    "test_picking.py",
    "test_names.py",
    "test_score.py",
    "test_file_sources.py",
    "test_kept_symmetry.py",
    "test_generation.py",
    "test_ase_relaxation.py",
    "test_projection.py",
    "test_selection.py",
)


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Nothing of the millions of objects that are imported is ever garbage.

    What JAX traces is millions of objects too, which live until it is compiled.
    """
    gc.disable()
    yield
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)
    gc.enable()


def pytest_collection_modifyitems(items):
    """Long files first."""
    place = {name: number for number, name in enumerate(_LONG_FILES)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))


@pytest.fixture(scope="session")
def session_folder(tmp_path_factory):
    """A folder that all workers of a session share."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        # All workers share what is above their own folders.
        folder = folder.parent
    return folder


@pytest.fixture(scope="session", autouse=True)
def compilation(session_folder, pytestconfig):
    """Equal programs are compiled once, and quickly; subprocesses too.

    They are kept for later sessions, where pytest keeps what it remembers.
    """
    # Set before JAX looks: tests import it, but compile nothing at import.
    import jax

    folder = session_folder
    if hasattr(pytestconfig, "cache"):
        folder = pathlib.Path(pytestconfig.cache.mkdir(f"jax-{jax.__version__}"))
    settings = {
        # Programs of tests run for moments: to optimize them takes longer.
        "jax_disable_most_optimizations": True,
        "jax_compilation_cache_dir": str(folder / "compilation_cache"),
        "jax_persistent_cache_min_compile_time_secs": 0.1,
        # A limit makes JAX lock the cache while one of several processes writes.
        "jax_compilation_cache_max_size": 2**30,
    }
    for name, value in settings.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)


def _make_once(path, make):
    """Calls ``make(path)`` in the first worker that gets here; the others wait."""
    with filelock.FileLock(f"{path}.lock"):
        done = pathlib.Path(f"{path}.done")
        if not done.exists():
            make(path)
            done.touch()
    return path


@pytest.fixture(scope="session")
def alloys(session_folder):
    """The data set of `tiny.write_dataset`; not to be changed."""
    import tiny

    return _make_once(session_folder / "alloys", tiny.write_dataset)


@pytest.fixture(scope="session")
def trained(alloys, session_folder):
    """``trained(method)``: a run on the alloys of `tiny.config`; not to be changed."""

    def run_of(method):
        import tiny

        from crystaljax import train

        def make(path):
            config = tiny.config(method, alloys)
            train.train(config, path, show_progress=False)

        return _make_once(session_folder / f"run-{method}", make)

    return run_of


@pytest.fixture(scope="module")
def forked_workers():
    """Worker processes are forks of this one; see `forked_workers`."""
    import forked_workers

    from crystaljax.system import isolation

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(isolation, "subprocess", forked_workers.SUBPROCESS)
        yield
