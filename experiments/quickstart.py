"""From formulas to crystals, then the whole loop on the built-in alloys.

    python experiments/quickstart.py

Asks the model of the package for real compounds. Then prepares the packaged EMT
alloys, trains `configs/symmetric.py:alloys`, measures it on held-out formulas, samples
crystals for some of them over several space groups and energies, relaxes these with
EMT, puts them on the EMT hull, and prints a ranked table. Everything lands in the
folder ``quickstart``; a second call goes on where the first one stopped.
"""

import argparse
import pathlib
import time

import jax
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from absl import logging

from crystaljax import evaluate, prepare, sample, screen, train
from crystaljax.crystals import elements
from crystaljax.data import dataset as datasets
from crystaljax.data import report as reports
from crystaljax.hull import convex_hull
from crystaljax.hull import figures as hull_figures
from crystaljax.sampling import samples as samples_lib
from crystaljax.screening import result as screening_result
from crystaljax.system import config_files

ROOT = pathlib.Path(__file__).resolve().parents[1]
# What the model of the package is asked for.
COMPOUNDS = ("TaB2", "Li2O", "BaTiO3")
# Held-out formulas to sample, by number of elements.
NUM_FORMULAS = {2: 2, 3: 1}
NUM_SPACE_GROUPS = 6
NUM_TOP = 15


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--output", type=pathlib.Path, default=pathlib.Path("quickstart")
    )
    parser.add_argument(
        "--num_steps", type=int, help="training steps; config's if unset"
    )
    parser.add_argument(
        "--num_structures", type=int, default=100, help="to evaluate on"
    )
    options = parser.parse_args()
    logging.set_verbosity(logging.ERROR)
    start = time.perf_counter()

    print(f"1/6  sample {', '.join(COMPOUNDS)} with the model of the package")
    compounds = sample.sample(
        sample.SampleOptions(formulas=COMPOUNDS), show_progress=True
    )
    print("\n".join(samples_lib.format_samples(compounds)))
    samples_lib.write_samples(compounds, options.output / "compounds", overwrite=True)

    print("2/6  data: built-in EMT alloys")
    dataset = open_alloys(options.output / "dataset")
    train_formulas, held_out = reduced_formulas(dataset)
    print(
        f"     {len(dataset)} structures; {len(held_out)} formulas are held out of the "
        f"{len(held_out) + len(train_formulas)}"
    )

    print("3/6  train: configs/symmetric.py:alloys")
    config = config_files.load_file(ROOT / "configs" / "symmetric.py", "alloys")
    config.data.path = str(options.output / "dataset")
    # Measured right after, on the test split.
    config.evaluation.num_structures = 0
    if options.num_steps:
        config.train.num_steps = options.num_steps
    train.train(config, options.output / "run", resume=True)

    print("4/6  evaluate on held-out formulas")
    evaluation_options = evaluate.EvaluateOptions(
        workdir=str(options.output / "run"),
        split="test",
        num_structures=options.num_structures,
    )
    result, _ = evaluate.evaluate(evaluation_options, show_progress=True)
    print(evaluate.report(result, evaluation_options))

    print("5/6  sample crystals for held-out formulas")
    formulas, space_groups, energies = choose_conditions(dataset)
    samples = sample.sample(
        sample.SampleOptions(
            workdir=str(options.output / "run"),
            formulas=tuple(formulas),
            space_groups=",".join(map(str, space_groups)),
            energies=",".join(f"{energy:.3f}" for energy in energies),
            num_samples=1,
        ),
        show_progress=True,
    )
    samples_lib.write_samples(samples, options.output / "samples", overwrite=True)

    print("6/6  relax with EMT, put on the EMT hull, rank")
    spec = f"dataset:{options.output / 'dataset'}"
    screened, table = screen.screen(
        screen.ScreenOptions(
            samples=str(options.output / "samples"),
            calculator="emt",
            hull=spec,
            output=str(options.output / "screening"),
            known=str(options.output / "dataset"),
            max_steps=200,
            # How many of the samples relax to the same is worth knowing here.
            relax_duplicates=True,
            overwrite=True,
        ),
        show_progress=True,
    )
    known_hull = convex_hull.load_hull(spec, formulas)
    plot(options.output / "quickstart.png", table, known_hull, formulas)
    print_results(table, screened)
    print(
        f"\n{options.output}/: screening/ (screening.csv and .parquet: every sample; "
        "candidates.extxyz and candidates/: ranked, relaxed; report.html), samples/ "
        "(as generated), compounds/, quickstart.png\n"
        f"{time.perf_counter() - start:.0f} s in all, on {jax.device_count()} "
        f"{jax.devices()[0].device_kind} device(s)"
    )


def open_alloys(path: pathlib.Path) -> datasets.Dataset:
    """The built-in alloys, prepared on the first call."""
    if not path.exists():
        report = prepare.prepare(
            prepare.PrepareOptions(
                source="builtin",
                output=path,
                val_fraction=0.05,
                test_fraction=0.1,
                setting="standard",
            ),
            show_progress=True,
        )
        print(reports.format_report(report))
    return datasets.open_dataset(path)


def reduced_formulas(dataset: datasets.Dataset) -> tuple[set[str], set[str]]:
    """Reduced formulas of the training structures, and of all others."""

    def of(indices):
        return {
            elements.reduced_formula(datasets.crystal(dataset, int(i)).atomic_numbers)
            for i in indices
        }

    train_formulas = of(dataset.indices("train"))
    held_out = of(dataset.indices("val")) | of(dataset.indices("test"))
    return train_formulas, held_out - train_formulas


def choose_conditions(
    dataset: datasets.Dataset,
) -> tuple[list[str], list[int], np.ndarray]:
    """Two binaries and a ternary that are held out, frequent groups, their energies."""
    test = dataset.indices("test")
    formulas = np.array(dataset.formula.take(test).to_pylist())
    names, counts = np.unique(formulas, return_counts=True)
    chosen: list[str] = []
    for name in names[np.argsort(-counts, kind="stable")].tolist():
        num_elements = len(elements.parse_formula(name))
        taken = [len(elements.parse_formula(other)) for other in chosen]
        if taken.count(num_elements) < NUM_FORMULAS.get(num_elements, 0):
            chosen.append(name)
    members = test[np.isin(formulas, chosen)]
    groups, counts = np.unique(
        dataset.space_group[dataset.indices("train")], return_counts=True
    )
    space_groups = np.sort(groups[np.argsort(-counts)][:NUM_SPACE_GROUPS]).tolist()
    low, high = np.quantile(dataset.formation_energy[members], [0, 0.9])
    return chosen, space_groups, np.linspace(low, high, 4)


def plot(path, table, known_hull, formulas) -> None:
    """Hull of a binary system among the samples, and requested against relaxed."""
    obtained = np.array(table["relaxed_formation_energy"])
    binaries = [f for f in formulas if len(elements.parse_formula(f)) == 2]
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    system = tuple(elements.parse_formula((binaries or formulas)[0]))[:2]
    hull_figures.plot_binary_hull(
        axes[0],
        known_hull,
        system,
        table["formula"],
        obtained,
        candidate_label="generated, relaxed",
    )
    known = [entry.formation_energy for entry in known_hull.entries]
    axes[0].set_ylim(min(known) - 0.05, max(known) + 0.05)
    for formula in formulas:
        mine = np.array(table["formula"]) == elements.format_formula(
            elements.parse_formula(formula)
        )
        requested = np.array(table["requested_formation_energy"])[mine]
        axes[1].scatter(requested, obtained[mine], s=14, alpha=0.7, label=formula)
    limits = np.array(axes[1].get_xlim())
    axes[1].plot(limits, limits, color="black", linewidth=0.8)
    # A few crystals relax to high energies; they would squeeze all others.
    margin = np.ptp(limits)
    axes[1].set_ylim(limits[0] - margin, limits[1] + margin)
    outside = int(np.sum(np.abs(obtained - limits.mean()) > 1.5 * margin))
    axes[1].set_title(f"{np.isfinite(obtained).sum()} samples, {outside} outside")
    axes[1].set_xlabel("requested formation energy (eV/atom)")
    axes[1].set_ylabel(f"after relaxation (eV/atom, {known_hull.energy_model})")
    axes[1].legend(frameon=False, fontsize="small")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def print_results(table, screened) -> None:
    """The ranked table, and how many of the samples got there."""
    counts = screened.counts()
    obtained = np.array(table["relaxed_formation_energy"])
    error = np.abs(obtained - np.array(table["requested_formation_energy"]))
    print(
        f"     {counts['inputs']} samples, {np.isfinite(obtained).sum()} relaxed, "
        f"{counts['ranked']} distinct, {counts['new']} of them not among the known "
        f"polymorphs; |relaxed - requested| {np.nanmean(error):.3f} eV/atom on "
        "average\n"
    )
    print(screening_result.format_ranking(table, NUM_TOP))
    print(f"     energies: {screened.energy_model}")


if __name__ == "__main__":
    main()
