"""What a page can offer: of the model, of installed potentials, of what was loaded."""

import dataclasses
import functools
import importlib.util
import pathlib
from typing import Any

from crystaljax.app import options
from crystaljax.crystals import elements, space_groups
from crystaljax.relaxation import calculators, pretrained
from crystaljax.system import environment, errors
from crystaljax.training import model_files, runs

NO_HULL, GIVEN_HULL, RELAXED_HULL, BUILTIN_HULL = "none", "given", "relaxed", "builtin"


@dataclasses.dataclass(frozen=True)
class Model:
    """The model that is asked.

    Attributes:
        folder: of its files.
        flags: that name it on the command line.
        vocabulary: of its training structures.
        of_orbits: whether it chooses space groups and energies itself.
        max_sites: sites of a cell at most.
    """

    folder: pathlib.Path
    flags: tuple[str, ...]
    vocabulary: dict[str, Any]
    of_orbits: bool
    max_sites: int


@dataclasses.dataclass(frozen=True)
class Potential:
    """A calculator that is installed.

    Attributes:
        name: as ``--calculator`` takes it.
        title: for the page.
        elements: symbols that it has; None where that is not known.
        fetches: whether it gets its weights over the network when it is first used.
    """

    name: str
    title: str
    elements: tuple[str, ...] | None
    fetches: bool


def load_model(asked: options.AppOptions) -> Model:
    """The model of the options, checked.

    Raises:
        FileNotFoundError: there is none.
        UserError: it is damaged, or one that modifies crystals.
    """
    # JAX comes with it, a second that a server does not take to start.
    from crystaljax.crystals import structure
    from crystaljax.models import build

    folder = model_files.resolve(asked.workdir, asked.model, model_files.DEFAULT)
    config = runs.load_config(folder)
    if build.is_modification(config):
        raise errors.UserError(
            f"{folder} holds a model that modifies crystals; expected one that makes "
            "them of formulas, see `crystaljax models`"
        )
    vocabulary = runs.load_vocabulary(folder)
    of_orbits = build.is_of_orbits(config)
    if of_orbits:
        # A cell may hold several primitive ones, as `crystaljax sample` has it.
        max_sites = 4 * build.orbit_shapes(config)[-1][1]
    else:
        max_sites = structure.max_sites(config.data.rows)
    flags = []
    if asked.workdir is not None:
        flags.append(f"--workdir={asked.workdir}")
    if asked.model is not None:
        flags.append(f"--model={asked.model}")
    return Model(folder, tuple(flags), vocabulary, of_orbits, max_sites)


@functools.cache
def installed_potentials() -> tuple[Potential, ...]:
    """Calculators whose packages are installed; those that need no network first."""
    emt = calculators.supported_elements(calculators.EMT)
    assert emt is not None
    found = [
        Potential(calculators.EMT, "EMT (for trying)", tuple(sorted(emt)), False),
    ]
    for name, family in pretrained.FAMILIES.items():
        if not family.default or not _is_installed(family.package):
            continue
        models = dict.fromkeys((family.default, *family.carried))
        for model in models:
            potential = pretrained.parse(f"{name}:{model}")
            assert potential is not None
            known = pretrained.elements(potential)
            found.append(
                Potential(
                    f"{name}:{model}",
                    f"{family.title} {model}",
                    tuple(sorted(known)) if known is not None else None,
                    model not in family.carried,
                )
            )
    return tuple(sorted(found, key=lambda each: each.fetches))


def _is_installed(package: str) -> bool:
    # Not imported: PyTorch takes seconds.
    return importlib.util.find_spec(package.partition(".")[0]) is not None


def hulls(asked: options.AppOptions) -> dict[str, str]:
    """Convex hulls by the word that stands for them: what the page calls them."""
    found = {NO_HULL: "none: rank by formation energy"}
    if asked.hull is not None:
        found[GIVEN_HULL] = f"entries of {asked.hull}"
    if asked.known is not None:
        found[RELAXED_HULL] = f"crystals of {asked.known}, relaxed alike"
    found[BUILTIN_HULL] = "the built-in alloys (with EMT)"
    return found


def hull_flag(asked: options.AppOptions, word: str) -> str:
    """``--hull=…`` of a screening.

    Raises:
        UserError: no such hull is loaded.
    """
    specs = {
        NO_HULL: "none",
        GIVEN_HULL: asked.hull,
        RELAXED_HULL: None if asked.known is None else f"relaxed:{asked.known}",
        BUILTIN_HULL: "builtin",
    }
    spec = specs.get(word)
    if spec is None:
        raise errors.UserError(
            f"no hull {word!r} is loaded; expected one of {', '.join(hulls(asked))}"
        )
    return f"--hull={spec}"


def describe(asked: options.AppOptions, model: Model) -> dict[str, Any]:
    """What the page is told when it opens."""
    versions = environment.package_versions()
    return {
        "version": versions.get("crystaljax", ""),
        "model": model.folder.name,
        "limits": model_files.describe_limits(model.folder) or "",
        "of_orbits": model.of_orbits,
        "max_sites": model.max_sites,
        "energy_model": model.vocabulary.get("energy_model") or "",
        "elements": sorted(model.vocabulary["elements"], key=elements.atomic_number),
        "symbols": space_groups.load_space_group_symbols(),
        "hull": asked.hull or "",
        "known": asked.known or "",
        "modify_with": asked.modify_with or "",
        "modifies": asked.modify_with is not None or model.of_orbits,
        "hulls": hulls(asked),
        "potentials": [dataclasses.asdict(each) for each in installed_potentials()],
        "folder": str(pathlib.Path(asked.folder).absolute()),
    }
