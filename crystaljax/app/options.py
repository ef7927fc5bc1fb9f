"""Options of `crystaljax app`."""

from crystaljax.system import options


@options.frozen
class AppOptions:
    """What is served, and from where."""

    port: int = options.option(
        "Port on this machine; 0 takes one that is free.",
        default=0,
        lower=0,
        upper=65535,
    )
    folder: str = options.option(
        "Folder of the jobs, which the next start finds again.",
        default="crystaljax_app",
    )
    no_browser: bool = options.option(
        "Print the address and open no browser.", default=False
    )
    model: str | None = options.option(
        "The model that is asked: one of the package by name, see `crystaljax models`, "
        "or a folder that `crystaljax export-model` wrote.",
        default=None,
    )
    workdir: str | None = options.option(
        "Instead of a model: the run directory of one.", default=None
    )
    modify_with: str | None = options.option(
        "A model of the modification task (configs/modify_*.py), by name or folder, "
        "which modifies crystals that are uploaded; by default the model that is "
        "asked does.",
        default=None,
    )
    hull: str | None = options.option(
        "Entries of a convex hull that energies can be asked for relative to, and that "
        "relaxed crystals are put on: FILE.csv (formula, formation_energy), pymatgen's "
        "FILE.json, dataset:PATH, builtin.",
        default=None,
    )
    known: str | None = options.option(
        "Known crystals, of which the nearest is shown beside each crystal: a data "
        "set, CSV with CIFs, entries in JSON, crystals, or a folder of them.",
        default=None,
    )
