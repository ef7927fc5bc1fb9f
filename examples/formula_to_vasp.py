"""From a formula to inputs for VASP, with the model of the package.

    python examples/formula_to_vasp.py --formulas=TaB2,Li2O --calculator=chgnet

Samples crystals, relaxes them with a potential, and writes VASP's inputs, best first.
``--hull=relaxed:known.csv`` ranks them by energy above the hull of known crystals. The
folder ``--output`` has the same files as the commands `sample`, `screen` and `export`
write. A second call goes on where the first one stopped; the inputs are made anew.
"""

import argparse
import pathlib

from crystaljax import export, sample, screen


def main(arguments: list[str] | None = None) -> dict[str, list]:
    """Makes crystals, relaxes them, writes inputs; returns the manifest's columns."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--formulas", required=True, help="such as TaB2,Li2O")
    parser.add_argument("--num_samples", type=int, default=4, help="of each formula")
    parser.add_argument("--calculator", default="chgnet", help="see crystaljax screen")
    parser.add_argument("--hull", default="none", help="see crystaljax screen")
    parser.add_argument("--top", type=int, default=10, help="candidates to write")
    parser.add_argument("--output", default="outputs/formula_to_vasp")
    chosen = parser.parse_args(arguments)
    folder = pathlib.Path(chosen.output)

    # Space groups and energies are left to the model, whose choice is the likely one.
    sample.main(
        [
            f"--formulas={chosen.formulas}",
            f"--num_samples={chosen.num_samples}",
            f"--output={folder / 'samples'}",
        ]
    )

    # What equals a known crystal is relaxed too: it tells how far a new one is below.
    result, _ = screen.screen(
        screen.ScreenOptions(
            samples=str(folder / "samples"),
            calculator=chosen.calculator,
            hull=chosen.hull,
            relax_duplicates=True,
            output=str(folder / "screening"),
        ),
        show_progress=True,
    )
    print(f"{len(result.ranking())} of {len(result.relaxed)} crystals are candidates")

    return export.export(
        export.ExportOptions(
            screening=str(folder / "screening"),
            top=chosen.top,
            format="vasp",
            references="elements",
            output=str(folder / "dft"),
            overwrite=True,
        )
    )


if __name__ == "__main__":
    manifest = main()
    for name, problem in zip(manifest["folder"], manifest["problem"], strict=True):
        print(name or problem)
