"""Pretrained potentials by name, and which DFT each of them reproduces.

A name is a family and one of its models, such as ``chgnet:r2scan``, or a family alone
for its usual model. What is known of a model's energies stands here and nowhere else:
energies meet only where the DFT behind them is one, and `corrected` says whether the
corrections of its scheme are in them already. `pretrained_loading` makes calculators.
"""

import dataclasses
import functools
import hashlib
import pathlib
import re
from collections.abc import Mapping

import ase.data
from ase.calculators import calculator as ase_calculator

# The DFT that potentials were trained to reproduce, as far as it decides which total
# energies can be compared: functional, +U and the pseudopotentials of VASP.
MP_PBE = "Materials Project PBE(+U)"
MP_R2SCAN = "Materials Project r2SCAN"
MATPES_PBE = "MatPES PBE"
MATPES_R2SCAN = "MatPES r2SCAN"
OMAT_PBE = "OMat24 PBE(+U)"

# MPtrj, MatPES and OMat24 have no Po, At, Rn, Fr and Ra, and nothing beyond Pu.
_ELEMENTS = frozenset(
    ase.data.chemical_symbols[number]
    for number in range(1, 95)
    if not 84 <= number <= 88
)
_DEVICE = re.compile(r"@((?:cpu|cuda|mps|xpu)(?::\d+)?)$")
_SUFFIXES_OF_FILES = (".pth", ".pt", ".tar", ".model", ".ckpt", ".nqx")


@dataclasses.dataclass(frozen=True)
class Energies:
    """What a model's energies are.

    Attributes:
        dft: what they reproduce, such as `MP_PBE`; "" if not stated.
        corrected: whether they carry the corrections that the Materials Project adds
            to its energies (MP2020): the model learned corrected energies.
    """

    dft: str = ""
    corrected: bool = False


@dataclasses.dataclass(frozen=True)
class Family:
    """Potentials that one package brings.

    Attributes:
        title: as its authors write it.
        package: that is imported.
        install: what to type if it is missing.
        default: the model that the family's name alone stands for; "" for none.
        models: known ones, see `Energies`.
        carried: models whose weights come with the package.
        device_package: whose devices it runs on, "torch" or "jax".
    """

    title: str
    package: str
    install: str
    default: str
    models: Mapping[str, Energies]
    carried: tuple[str, ...] = ()
    device_package: str = "torch"


@dataclasses.dataclass(frozen=True)
class Potential:
    """A potential that a name stands for.

    Attributes:
        family: of `FAMILIES`.
        model: of the family, or the path of a file with weights.
        device: "auto", or a device of PyTorch such as "cpu" or "cuda:1".
    """

    family: str
    model: str
    device: str = "auto"

    @property
    def is_file(self) -> bool:
        """Whether the model is a file with weights."""
        return is_path(self.model)

    @property
    def energies(self) -> Energies:
        """What its energies are, as far as that is known."""
        return FAMILIES[self.family].models.get(self.model, Energies())


def parse(name: str) -> Potential | None:
    """Name → potential; None if it is of no family here, or names no model.

    Args:
        name: a family, ``family:model`` or ``family:path``, and ``@device`` if wanted.
    """
    match = _DEVICE.search(name)
    whole, device = (name[: match.start()], match[1]) if match else (name, "")
    prefix, _, model = whole.partition(":")
    family = FAMILIES.get(prefix)
    model = model or (family.default if family else "")
    if not model or family is None:
        return None
    if prefix == "sevenn" and not is_path(model):
        model = model.lower().replace("sevennet", "7net")
        # As its file writes it: some modalities are in capitals.
        known = {each.lower(): each for each in family.models}
        model = known.get(model, model)
    return Potential(prefix, model, device or "auto")


def energy_model(potential: Potential) -> str:
    """Name that is recorded beside energies; files go by their content."""
    title = FAMILIES[potential.family].title
    if potential.family == "matgl":
        # Folders too: that is what they have been called in files written before.
        return f"matgl {potential.model}"
    if not potential.is_file:
        return f"{title} {potential.model}"
    path = pathlib.Path(potential.model).expanduser()
    return f"{title} {path.name} ({_digest(path)})"


def elements(
    potential: Potential, calculator: ase_calculator.Calculator | None = None
) -> frozenset[str] | None:
    """Symbols of the elements that a potential was trained on; None if not known.

    Args:
        potential: of a known model, or a file.
        calculator: where it is loaded already: what the weights themselves say.
    """
    network = getattr(getattr(calculator, "potential", None), "model", None)
    if potential.family == "matgl" and network is not None:
        return frozenset(network.element_types)
    type_map = getattr(calculator, "type_map", None)
    if isinstance(type_map, Mapping):
        return frozenset(ase.data.chemical_symbols[int(n)] for n in type_map)
    config = getattr(calculator, "config", None)
    if potential.family == "nequix" and isinstance(config, Mapping):
        numbers = config["atomic_numbers"]
        return frozenset(ase.data.chemical_symbols[int(n)] for n in numbers)
    z_table = getattr(getattr(calculator, "z_table", None), "zs", None)
    if z_table is not None:
        return frozenset(ase.data.chemical_symbols[int(n)] for n in z_table)
    return None if potential.is_file and potential.family != "chgnet" else _ELEMENTS


def is_path(model: str) -> bool:
    """Whether a model is named by the path of its file."""
    return (
        model.startswith((".", "/", "~"))
        or model.endswith(_SUFFIXES_OF_FILES)
        or "\\" in model
    )


@functools.cache
def _digest(path: pathlib.Path) -> str:
    if not path.is_file():
        return "missing"
    return hashlib.blake2b(path.read_bytes(), digest_size=4).hexdigest()


# Of matgl 4, at https://huggingface.co/materialyze. Those of matgl 1 to 3, whose names
# end in -PES, are not numerically valid in matgl 4 any more, say its release notes.
MATGL_MODELS = {
    f"{network}-PES-MatPES-{functional}-2025.2{size}": Energies(dft)
    for network, size in (
        ("TensorNet", ""),
        ("TensorNet", "-m"),
        ("M3GNet", ""),
        ("QET", ""),
    )
    for functional, dft in (("PBE", MATPES_PBE), ("r2SCAN", MATPES_R2SCAN))
}

FAMILIES: Mapping[str, Family] = {
    "chgnet": Family(
        title="CHGNet",
        package="chgnet",
        install="pip install 'crystaljax[chgnet]'",
        default="0.3.0",
        # B. Deng et al., Nat. Mach. Intell. 5, 1031 (2023): trained on the corrected
        # energies of MPtrj, unlike all others of MPtrj.
        models={
            "0.3.0": Energies(MP_PBE, corrected=True),
            "0.2.0": Energies(MP_PBE, corrected=True),
            "r2scan": Energies(MP_R2SCAN),
        },
        carried=("0.3.0", "0.2.0", "r2scan"),
    ),
    "sevenn": Family(
        title="SevenNet",
        package="sevenn",
        install="pip install 'crystaljax[sevenn]'",
        default="7net-l3i5",
        # MPtrj; ompa and omni learned several sets, one of which is to be named.
        models={
            "7net-l3i5": Energies(MP_PBE),
            "7net-0": Energies(MP_PBE),
            "7net-0_11jul2024": Energies(MP_PBE),
            "7net-0_22may2024": Energies(MP_PBE),
            "7net-mf-0/PBE": Energies(MP_PBE),
            "7net-mf-0/R2SCAN": Energies(MP_R2SCAN),
            "7net-mf-ompa/mpa": Energies(MP_PBE),
            "7net-mf-ompa/omat24": Energies(OMAT_PBE),
            "7net-omat": Energies(OMAT_PBE),
            "7net-omni/mpa": Energies(MP_PBE),
            "7net-omni/omat24": Energies(OMAT_PBE),
            "7net-omni/matpes_pbe": Energies(MATPES_PBE),
            "7net-omni/matpes_r2scan": Energies(MATPES_R2SCAN),
            "7net-omni/mp_r2scan": Energies(MP_R2SCAN),
        },
        carried=("7net-l3i5", "7net-0", "7net-0_22may2024"),
    ),
    "matgl": Family(
        title="matgl",
        package="matgl",
        install="pip install 'crystaljax[relax]' (the 'relax' extra)",
        default="",
        models=MATGL_MODELS,
    ),
    "mace": Family(
        title="MACE",
        package="mace.calculators",
        install="pip install 'crystaljax[mace]'",
        default="medium-mpa-0",
        # https://github.com/ACEsuit/mace-foundations
        models={
            "medium-mpa-0": Energies(MP_PBE),
            "small": Energies(MP_PBE),
            "medium": Energies(MP_PBE),
            "large": Energies(MP_PBE),
            "medium-0b3": Energies(MP_PBE),
            "small-omat-0": Energies(OMAT_PBE),
            "medium-omat-0": Energies(OMAT_PBE),
            "mace-matpes-pbe-0": Energies(MATPES_PBE),
            "mace-matpes-r2scan-0": Energies(MATPES_R2SCAN),
        },
    ),
    "orb": Family(
        title="Orb",
        package="orb_models",
        install="pip install 'crystaljax[orb]'",
        default="orb-v3-conservative-inf-mpa",
        models={
            "orb-v3-conservative-inf-mpa": Energies(MP_PBE),
            "orb-v3-conservative-20-mpa": Energies(MP_PBE),
            "orb-v3-direct-inf-mpa": Energies(MP_PBE),
            "orb-v3-direct-20-mpa": Energies(MP_PBE),
            "orb-v3-conservative-inf-omat": Energies(OMAT_PBE),
            "orb-v3-conservative-20-omat": Energies(OMAT_PBE),
            "orb-v3-direct-inf-omat": Energies(OMAT_PBE),
            "orb-v3-direct-20-omat": Energies(OMAT_PBE),
            "orb-v2": Energies(MP_PBE),
            "orb-mptraj-only-v2": Energies(MP_PBE),
        },
    ),
    "mattersim": Family(
        title="MatterSim",
        package="mattersim",
        install="pip install 'crystaljax[mattersim]'",
        default="MatterSim-v1.0.0-1M",
        # Made with the Materials Project's settings: H. Yang et al., arXiv:2405.04967.
        models={
            "MatterSim-v1.0.0-1M": Energies(MP_PBE),
            "MatterSim-v1.0.0-5M": Energies(MP_PBE),
        },
    ),
    "nequix": Family(
        title="Nequix",
        package="nequix",
        install="pip install 'crystaljax[nequix]'",
        default="nequix-mp-1",
        # https://github.com/atomicarchitects/nequix
        models={
            "nequix-mp-1": Energies(MP_PBE),
            "nequix-mp-1-pft": Energies(MP_PBE),
            # Trained further on phonons alone, without energies of MPtrj beside them.
            "nequix-mp-1-pft-no-cotrain": Energies(),
            "nequix-omat-1": Energies(OMAT_PBE),
            "nequix-oam-1": Energies(MP_PBE),
            "nequix-oam-1-pft": Energies(MP_PBE),
        },
        device_package="jax",
    ),
}

FAMILIES_THAT_CARRY_WEIGHTS = " and ".join(
    f"'{prefix}'" for prefix, family in FAMILIES.items() if family.carried
)
