"""A model of one's own crystals: a folder of CIFs and their energies → samples.

    python examples/own_data.py my_cifs my_energies.csv TaB2

``my_energies.csv`` has the columns ``material_id`` (the name of the file) and
``formation_energy_per_atom`` (eV). The model of the package is fine-tuned on them,
which takes minutes to an hour on a CPU, and is asked for the formula. Flags behind the
formula go to `crystaljax train`, such as --config.train.num_steps=200.
"""

import sys

from crystaljax import prepare, sample, train

FINE_TUNING = (
    "--config=symmetric:smoke",
    "--init=mp",
    "--config.data.rows=40",
    "--config.train.num_steps=1000",
    "--config.optimizer.learning_rate=3e-4",
)


def main(cifs: str, energies: str, formula: str, *flags: str) -> None:
    """Prepares the data, trains, samples; all of it goes to outputs/own_data."""
    data, run, samples = (f"outputs/own_data/{name}" for name in ("data", "run", "new"))
    prepare.main(
        [
            "--source=folder",
            f"--input={cifs}",
            f"--labels={energies}",
            "--setting=standard",
            f"--output={data}",
        ]
    )
    starts_anew = any(flag.startswith("--config=") for flag in flags)
    settings = flags if starts_anew else (*FINE_TUNING, *flags)
    train.main([*settings, f"--config.data.path={data}", f"--workdir={run}"])
    asked = [f"--formulas={formula}", "--num_samples=4"]
    sample.main([f"--workdir={run}", *asked, f"--output={samples}"])


if __name__ == "__main__":
    if len(sys.argv) < 4:
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
