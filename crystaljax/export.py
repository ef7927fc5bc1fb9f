r"""Writes inputs for DFT (VASP, pw.x) or structure files of candidates.

    crystaljax export --screening=screening --top=50 --format=vasp \
        --output=dft

``--screening`` is a folder of `crystaljax.screen` (best first) or crystals in other
files. The output folder has one folder of inputs per candidate (``vasp``, ``qe``) or
one file (``cif``, ``poscar``, all in one for ``extxyz``), and

* ``manifest.csv``: a row per candidate with its folder, its energies and conditions,
  and the reason where it could not be written;
* ``candidates.extxyz``: the crystals as they were handed over.

`crystaljax.collect` reads both beside the results. Formation energies need the elements
computed with the same settings: ``--references=elements`` adds folders for those whose
reference structure ASE knows, ``--references=PATH`` takes crystals of your own.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from crystaljax import command_line
from crystaljax.system import environment, errors
from crystaljax.system import options as options_lib

# pymatgen and ASE take seconds to import, and --help does without them.
if TYPE_CHECKING:
    import crystaljax.dft.handover
    import crystaljax.dft.vasp

FORMATS = ("vasp", "qe", "poscar", "cif", "extxyz")
# What an export may replace; results of a DFT code are not among it.
_OUR_NAMES = ("INCAR", "KPOINTS", "POSCAR", "POTCAR", "POTCAR.spec", "pw.in")
_OUR_NAMES += ("manifest.csv", "export.json")
_OUR_SUFFIXES = (".cif", ".vasp", ".extxyz")


@options_lib.frozen
class ExportOptions:
    """What to hand over."""

    screening: str = options_lib.option(
        "Folder of a screening, or crystals in other files."
    )
    output: str = options_lib.option("Folder to make.")
    format: str = options_lib.option("What to write.", default="vasp", choices=FORMATS)
    top: int | None = options_lib.option(
        "How many, best first; 0: all.", default=50, lower=0, zero_is_none=True
    )
    structures: str = options_lib.option(
        "As relaxed in the screening, with the symmetry that they nearly have (0.1 Å), "
        "or as they were before.",
        default="relaxed",
        choices=("relaxed", "symmetrized", "as_generated"),
    )
    max_above_hull: float | None = options_lib.option(
        "Leave out what lies higher, eV/atom.", default=None
    )
    new_only: bool = options_lib.option(
        "Leave out crystals that are known.", default=False
    )
    preset: str = options_lib.option(
        "vasp: 'paper' (PBE, 500 eV, EDIFF 1e-5, EDIFFG -0.01) or 'mp' (pymatgen's "
        "MPRelaxSet).",
        default="paper",
    )
    incar: tuple[str, ...] = options_lib.option(
        "INCAR tags instead of the preset's, such as ENCUT=600,ISPIN=1.", default=()
    )
    pseudopotentials: str = options_lib.option(
        "qe: file names by a pattern with {element}, or a JSON file that maps symbols "
        "to file names (the SSSP library's has cutoffs too).",
        default="{element}.upf",
    )
    espresso: tuple[str, ...] = options_lib.option(
        "qe: entries instead of the defaults, such as ecutwfc=80.", default=()
    )
    references: str | None = options_lib.option(
        "Write reference structures of the elements too: 'elements' (those that ASE "
        "knows), or crystals of your own.",
        default=None,
    )
    overwrite: bool = options_lib.option(
        "Replace an export in the output folder that holds no results.", default=False
    )


@dataclasses.dataclass(frozen=True)
class _Settings:
    """What all candidates share, checked."""

    incar: Mapping[str, Any]
    potentials: "Mapping[str, crystaljax.dft.vasp.Potential]"
    espresso: Mapping[str, Any]


def export(options: ExportOptions) -> dict[str, list[Any]]:
    """Writes input files for candidates.

    Returns:
        The manifest: columns with one row per candidate, then per reference. Where
        ``problem`` is not empty, nothing was written.

    Raises:
        FileNotFoundError: there are no candidates, references or pseudopotentials.
        FileExistsError: the output is there, and is not to be or cannot be replaced.
        ValueError: an option is wrong, or no candidate is left.
    """
    from crystaljax.dft import handover
    from crystaljax.system import atomic_files

    output = pathlib.Path(options.output)
    atomic_files.require_absent(output, options.overwrite)
    settings = _check(options)
    items = handover.read_items(
        pathlib.Path(options.screening),
        top=options.top,
        structures=options.structures,
        max_above_hull=options.max_above_hull,
        new_only=options.new_only,
    )
    if options.references is not None:
        items += handover.reference_items(options.references, items)
    built = [_build(item, options, settings) for item in items]
    manifest = handover.build_manifest(
        items,
        [place for place, _, _ in built],
        [problem for _, _, problem in built],
    )
    manifest["structures"] = [options.structures] * len(items)
    manifest["notes"] = ["; ".join(inputs.notes) for _, inputs, _ in built]
    atomic_files.require_replaceable(output, options.overwrite, _is_ours, "inputs")
    with atomic_files.folder(output) as folder:
        for _, inputs, _ in built:
            for name, text in inputs.files.items():
                path = folder / name
                path.parent.mkdir(exist_ok=True)
                path.write_text(text, encoding="utf-8")
        handover.write_records(folder, items, manifest)
        request = {
            "request": dataclasses.asdict(options),
            "versions": environment.package_versions(),
        }
        text = json.dumps(request, indent=2)
        (folder / "export.json").write_text(f"{text}\n", encoding="utf-8")
    return manifest


def _check(options: ExportOptions) -> _Settings:
    """Raises ValueError for options that make no sense, before anything is read."""
    from crystaljax.dft import handover, vasp

    for name, value, known in (
        ("format", options.format, FORMATS),
        ("structures", options.structures, handover.STRUCTURES),
        ("preset", options.preset, vasp.PRESETS),
    ):
        if value not in known:
            raise errors.UserError(f"unknown {name} {value!r}; expected one of {known}")
    for name, used_by in (("incar", "vasp"), ("espresso", "qe")):
        if getattr(options, name) and options.format != used_by:
            raise errors.UserError(
                f"--{name} goes with --format={used_by}; leave it out for "
                f"{options.format}"
            )
    is_espresso = options.format == "qe"
    return _Settings(
        vasp.parse_incar(options.incar),
        vasp.load_potentials(options.pseudopotentials) if is_espresso else {},
        vasp.parse_espresso(options.espresso),
    )


def _build(
    item: "crystaljax.dft.handover.Item", options: ExportOptions, settings: _Settings
) -> "tuple[str, crystaljax.dft.vasp.Inputs, str]":
    """Folder or file of a candidate, its files, and why there are none."""
    from crystaljax.dft import vasp

    if item.problem:
        return "", vasp.Inputs({}), item.problem
    # pymatgen and ASE raise many kinds of errors; each is this candidate's alone.
    try:
        place, inputs = _build_inputs(item, options, settings)
    except Exception as error:
        reason = " ".join(str(error).split())
        if not isinstance(error, ValueError):
            reason = f"{type(error).__name__}: {reason}"
        return "", vasp.Inputs({}), reason
    return place, inputs, ""


def _build_inputs(
    item: "crystaljax.dft.handover.Item", options: ExportOptions, settings: _Settings
) -> "tuple[str, crystaljax.dft.vasp.Inputs]":
    from crystaljax.crystals import structure_files, validity
    from crystaljax.dft import handover, vasp

    stem, crystal = item.stem, item.crystal
    if options.format in ("vasp", "qe"):
        if options.format == "vasp":
            inputs = vasp.vasp_inputs(crystal, options.preset, settings.incar)
        else:
            inputs = vasp.espresso_inputs(
                crystal, settings.potentials, settings.espresso
            )
        files = {f"{stem}/{name}": text for name, text in inputs.files.items()}
        return stem, dataclasses.replace(inputs, files=files)
    if problem := validity.find_cell_problem(crystal):
        raise errors.UserError(problem)
    if options.format == "cif":
        place, text = f"{stem}.cif", structure_files.cif_text(crystal, stem)
    elif options.format == "poscar":
        place, text = f"{stem}.vasp", structure_files.poscar_text(crystal, stem)
    else:
        # All in the file of the records.
        return handover.CANDIDATES, vasp.Inputs({})
    return place, vasp.Inputs({place: text})


def _is_ours(path: pathlib.Path) -> bool:
    return path.name in _OUR_NAMES or path.suffix in _OUR_SUFFIXES


def report(manifest: Mapping[str, list[Any]], options: ExportOptions) -> str:
    """What the command prints."""
    from crystaljax.dft import vasp

    failed = [
        (name, problem)
        for name, problem in zip(manifest["name"], manifest["problem"], strict=True)
        if problem
    ]
    kinds = [
        kind
        for kind, problem in zip(manifest["kind"], manifest["problem"], strict=True)
        if not problem
    ]
    lines = [
        f"{options.output}: {kinds.count('candidate')} candidates and "
        f"{kinds.count('reference')} reference structures as {options.format}"
        + (f", preset {options.preset}" if options.format == "vasp" else "")
    ]
    lines += [f"not written: {name}: {problem}" for name, problem in failed]
    notes = dict.fromkeys(note for note in manifest["notes"] if note)
    lines += [f"note: {note}" for note in notes]
    if options.format == "vasp" and not vasp.has_potcars():
        lines.append(
            "POTCAR.spec names the potentials: pymatgen is not configured for POTCARs "
            "(PMG_VASP_PSP_DIR)"
        )
    if options.format in ("vasp", "qe") and options.references is None:
        lines.append(
            "formation energies need the elements with the same settings: "
            "--references=elements writes those that ASE knows"
        )
    return "\n".join(lines)


def _run(chosen: ExportOptions) -> None:
    print(report(export(chosen), chosen))


COMMAND = command_line.Command(
    "export",
    __doc__,
    (ExportOptions,),
    _run,
    uses_devices=False,
    renamed={"candidates": "screening"},
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line; ``arguments`` are those of the process if None."""
    command_line.run(COMMAND, arguments)


if __name__ == "__main__":
    main()
