"""Settings of all tests."""

import os

import hypothesis
import pytest

# LLVM alone writes a program in half the time that it takes with MLIR before it.
# Here, since XLA reads it once, when a test module first computes something: later, it
# would hold for subprocesses alone, whose numbers would differ in the last digit.
_FLAGS = os.environ.get("XLA_FLAGS", "")
os.environ["XLA_FLAGS"] = f"{_FLAGS} --xla_cpu_use_fusion_emitters=false".strip()

# Shared machines stall; a slow example is not a failing one.
hypothesis.settings.register_profile("crystaljax", deadline=None)
hypothesis.settings.load_profile("crystaljax")


# A worker takes whole files: one that starts the longest last works on alone.
_LONG_FILES = (
    "test_training.py",
    "test_screen.py",
    "test_funnel.py",
    "test_benchmarks.py",
    "test_precision.py",
    "test_requests.py",
    "test_several_processes.py",
)


def pytest_collection_modifyitems(items):
    """Long files first."""
    items.sort(key=lambda item: item.path.name not in _LONG_FILES)


@pytest.fixture(scope="session", autouse=True)
def compilation(tmp_path_factory):
    """Equal programs are compiled once in a session, and quickly; subprocesses too."""
    # Set before JAX looks: tests import it, but compile nothing at import.
    import jax

    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        # All workers share what is above their own folders.
        folder = folder.parent
    settings = {
        # Programs of tests run for moments: to optimize them takes longer.
        "jax_disable_most_optimizations": True,
        "jax_compilation_cache_dir": str(folder / "compilation_cache"),
        "jax_persistent_cache_min_compile_time_secs": 0.3,
        # A limit makes JAX lock the cache while one of several processes writes.
        "jax_compilation_cache_max_size": 2**34,
    }
    for name, value in settings.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)
    yield
