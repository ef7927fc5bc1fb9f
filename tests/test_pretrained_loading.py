"""What packages of potentials are asked for, with the signatures of their releases.

The packages are large and fetch weights, so that they are not installed here: these
stand-ins have the names and parameters of the releases named, as read in their wheels.
"""

import sys
import types

import pytest
from ase.calculators.emt import EMT

from crystaljax.relaxation import calculators, pretrained
from crystaljax.system import errors


class Asked(EMT):
    """A calculator that remembers what it was made of."""

    def __init__(self, **asked):
        super().__init__()
        self.asked = asked


def mace_mp(
    model=None,
    device="",
    default_dtype="float32",
    dispersion=False,
    return_raw_model=False,
):
    """Of mace-torch 0.3.16, mace.calculators."""
    assert not dispersion and not return_raw_model
    return Asked(model=model, device=device, default_dtype=default_dtype)


class NequixCalculator(Asked):
    """Of nequix 0.4.5, nequix.calculator."""

    def __init__(
        self,
        model_name="nequix-mp-1",
        model_path=None,
        capacity_multiplier=1.1,
        backend="jax",
        use_kernel=True,
        use_compile=False,
    ):
        if use_kernel:
            raise ImportError("OpenEquivariance with JAX support is required")
        super().__init__(model_name=model_name, model_path=model_path, backend=backend)


class MatterSimCalculator(Asked):
    """Of mattersim 1.2.3, mattersim.forcefield."""

    def __init__(self, potential=None, args_dict=(), compute_stress=True, **kwargs):
        assert potential is None and compute_stress
        super().__init__(**kwargs)


class ORBCalculator(Asked):
    """Of orb-models 0.5.5, orb_models.forcefield.calculator."""

    def __init__(self, model, *, system_config=None, conservative=None, device=None):
        super().__init__(model=model, device=device)


def load_orb(weights_path="https://…", device=None, precision="float32-high"):
    """A function of orb_models.forcefield.pretrained."""
    return f"{weights_path} {precision}"


class ORBCalculatorWithAdapter(Asked):
    """Of orb-models 0.6, orb_models.forcefield.inference.calculator."""

    def __init__(self, model, adapter, *, device=None):
        super().__init__(model=model, adapter=adapter, device=device)


ORB = ("orb-v3-conservative-inf-mpa", "orb-v3-conservative-20-omat", "orb-v2")
MODULES = {
    "mace.calculators": {"mace_mp": mace_mp},
    "nequix.calculator": {"NequixCalculator": NequixCalculator},
    "mattersim.forcefield": {"MatterSimCalculator": MatterSimCalculator},
    "orb_models.forcefield.calculator": {"ORBCalculator": ORBCalculator},
    "orb_models.forcefield.pretrained": {
        "ORB_PRETRAINED_MODELS": dict.fromkeys(ORB, load_orb)
    },
    "orb_models.forcefield.inference.calculator": {
        "ORBCalculator": ORBCalculatorWithAdapter
    },
}


@pytest.fixture(autouse=True)
def packages(monkeypatch):
    calculators.forget_calculators()
    for name, contents in MODULES.items():
        parts = name.split(".")
        for count in range(1, len(parts) + 1):
            whole = ".".join(parts[:count])
            if whole not in sys.modules or count == len(parts):
                module = types.ModuleType(whole)
                monkeypatch.setitem(sys.modules, whole, module)
                if count > 1:
                    parent = sys.modules[".".join(parts[: count - 1])]
                    monkeypatch.setattr(parent, parts[count - 1], module, raising=False)
        vars(sys.modules[name]).update(contents)
    yield
    calculators.forget_calculators()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mace@cpu", {"model": "medium-mpa-0", "default_dtype": "float64"}),
        ("mace:medium-0b3@cpu", {"model": "medium-0b3", "device": "cpu"}),
        ("nequix", {"model_name": "nequix-mp-1", "backend": "jax"}),
        ("nequix:nequix-oam-1", {"model_name": "nequix-oam-1"}),
        ("mattersim@cpu", {"load_path": "MatterSim-v1.0.0-1M.pth", "device": "cpu"}),
        ("orb@cpu", {"model": "https://… float32-highest", "device": "cpu"}),
    ],
)
def test_models_by_name(name, expected):
    found = calculators.build_calculator(name).asked
    assert found.items() >= expected.items()
    assert calculators.supported_elements(name) == pretrained._ELEMENTS


@pytest.mark.parametrize(
    ("family", "file", "key"),
    [
        ("mace", "own.model", "model"),
        ("nequix", "own.nqx", "model_path"),
        ("mattersim", "own.pth", "load_path"),
    ],
)
def test_files_with_weights(tmp_path, family, file, key):
    path = tmp_path / file
    path.write_bytes(b"weights")
    found = calculators.build_calculator(f"{family}:{path}").asked
    assert found[key] == str(path)
    with pytest.raises(errors.UserError, match="there is no file"):
        calculators.build_calculator(f"{family}:{path}.{file}")


def test_a_file_of_nequix_says_which_elements_it_knows(tmp_path, monkeypatch):
    path = tmp_path / "own.nqx"
    path.write_bytes(b"weights")
    config = {"atomic_numbers": [8, 11]}
    monkeypatch.setattr(NequixCalculator, "config", config, raising=False)
    assert calculators.supported_elements(f"nequix:{path}") == {"O", "Na"}


def test_files_of_orb_are_named_as_their_architecture(tmp_path):
    path = tmp_path / "orb-v3-conservative-20-omat-20250404.ckpt"
    path.write_bytes(b"weights")
    found = calculators.build_calculator(f"orb:{path}@cpu").asked
    assert found["model"] == f"{path} float32-highest"
    other = tmp_path / "mine.ckpt"
    other.write_bytes(b"weights")
    with pytest.raises(errors.UserError, match=r"mine.*orb-v3-conservative-inf-mpa"):
        calculators.build_calculator(f"orb:{other}@cpu")


def test_later_releases_of_orb_bring_an_adapter(monkeypatch):
    module = sys.modules["orb_models.forcefield.pretrained"]

    def load(weights_path="https://…", device=None, precision="float32-high"):
        return "network", "adapter"

    monkeypatch.setattr(module, "ORB_PRETRAINED_MODELS", {"orb-v2": load})
    found = calculators.build_calculator("orb:orb-v2@cpu").asked
    assert found == {"model": "network", "adapter": "adapter", "device": "cpu"}


@pytest.mark.parametrize("family", ["mace", "orb", "mattersim", "nequix"])
def test_unknown_models_and_missing_packages_are_named(monkeypatch, family):
    with pytest.raises(errors.UserError, match="unknown model 'no-such'"):
        calculators.build_calculator(f"{family}:no-such")
    monkeypatch.setitem(sys.modules, pretrained.FAMILIES[family].package, None)
    with pytest.raises(ImportError, match=rf"pip install 'crystaljax\[{family}\]'"):
        calculators.build_calculator(family)
