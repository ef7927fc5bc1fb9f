"""The whole loop on the built-in alloys: from nothing to screened crystals.

    python experiments/quickstart.py

Prepares the packaged EMT alloys, trains `configs/ddim.py:smoke`, measures it on
held-out formulas, samples crystals for some of them over several space groups and
energies, relaxes these with EMT, puts them on the EMT hull, and prints a ranked table.
Everything lands in the folder ``quickstart``; a second call goes on where the first one
stopped. Some 8 minutes on 2 CPU cores.
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

from crystaljax import (
    defaults,
    elements,
    evaluate,
    hull,
    prepare,
    relaxation,
    sample,
    screening,
    structure_files,
    train,
)
from crystaljax import samples as samples_lib
from crystaljax.data import dataset as datasets
from crystaljax.data import report as reports

ROOT = pathlib.Path(__file__).resolve().parents[1]
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

    print("1/5  data: built-in EMT alloys")
    dataset = open_alloys(options.output / "dataset")
    train_formulas, held_out = reduced_formulas(dataset)
    print(
        f"     {len(dataset)} structures; {len(held_out)} formulas are held out of the "
        f"{len(held_out) + len(train_formulas)}"
    )

    print("2/5  train: configs/ddim.py:smoke")
    config = defaults.load_config_file(ROOT / "configs" / "ddim.py", "smoke")
    config.data.path = str(options.output / "dataset")
    # Measured right after, on the test split.
    config.evaluation.num_structures = 0
    if options.num_steps:
        config.train.num_steps = options.num_steps
    train.train(config, options.output / "run", resume=True)

    print("3/5  evaluate on held-out formulas")
    evaluation_options = evaluate.EvaluateOptions(
        workdir=str(options.output / "run"),
        split="test",
        num_structures=options.num_structures,
    )
    result, _ = evaluate.evaluate(evaluation_options, show_progress=True)
    print(evaluate.report(result, evaluation_options))

    print("4/5  sample crystals for held-out formulas")
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

    print("5/5  relax with EMT, put on the EMT hull, rank")
    energy_model = dataset.info["energy_model"]
    all_formulas = dataset.formula.to_pylist()
    known_hull = hull.build_hull(
        zip(
            all_formulas, dataset.formation_energy, dataset.id.to_pylist(), strict=True
        ),
        energy_model,
    )
    wanted = {elements.format_formula(elements.parse_formula(f)) for f in formulas}
    known = [
        (dataset.id[i].as_py(), datasets.crystal(dataset, i))
        for i, formula in enumerate(all_formulas)
        if formula in wanted
    ]
    screened = screening.screen(
        samples.crystals, "emt", known_hull, known, show_progress=True
    )
    table = samples.table() | screened.table()
    order = screened.ranking()
    write_results(options.output, table, screened, order)
    plot(options.output / "quickstart.png", table, known_hull, formulas)
    print_results(table, screened, order)
    print(
        f"\n{options.output}/: candidates.csv and .parquet (every sample), "
        "candidates.extxyz and candidates/ (ranked, relaxed), samples/ (as generated), "
        "quickstart.png\n"
        f"{time.perf_counter() - start:.0f} s in all, on {jax.device_count()} "
        f"{jax.devices()[0].device_kind} device(s)"
    )


def open_alloys(path: pathlib.Path) -> datasets.Dataset:
    """The built-in alloys, prepared on the first call."""
    if not path.exists():
        report = prepare.prepare(
            prepare.PrepareOptions(
                source="builtin", output=path, val_fraction=0.05, test_fraction=0.1
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


def write_results(output, table, screened, order) -> None:
    """Table of all samples; structure files of the ranked ones, relaxed."""
    for suffix in ("csv", "parquet"):
        structure_files.write_table(
            output / f"candidates.{suffix}", table, overwrite=True
        )
    names = [f"{rank:03d}_{table['name'][i]}" for rank, i in enumerate(order, 1)]
    keys = ("formula", "space_group", "formation_energy", "formation_energy_relaxed")
    keys += ("energy_above_hull", "space_group_relaxed", "known_as")
    infos = [
        {"name": name} | {key: table[key][i] for key in keys}
        for name, i in zip(names, order, strict=True)
    ]
    crystals = [screened.relaxed[i] for i in order]
    structure_files.write_extxyz(
        output / "candidates.extxyz", crystals, infos, overwrite=True
    )
    structure_files.write_cifs(output / "candidates", crystals, names, overwrite=True)


def plot(path, table, known_hull, formulas) -> None:
    """Hull of a binary system among the samples, and requested against obtained."""
    obtained = np.array(table["formation_energy_relaxed"])
    binaries = [f for f in formulas if len(elements.parse_formula(f)) == 2]
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    system = tuple(elements.parse_formula((binaries or formulas)[0]))[:2]
    hull.plot_binary_hull(
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
        asked = np.array(table["formation_energy"])[mine]
        axes[1].scatter(asked, obtained[mine], s=14, alpha=0.7, label=formula)
    limits = np.array(axes[1].get_xlim())
    axes[1].plot(limits, limits, color="black", linewidth=0.8)
    # A few crystals relax to high energies; they would squeeze all others.
    margin = np.ptp(limits)
    axes[1].set_ylim(limits[0] - margin, limits[1] + margin)
    outside = int(np.sum(np.abs(obtained - limits.mean()) > 1.5 * margin))
    axes[1].set_title(f"{np.isfinite(obtained).sum()} samples, {outside} outside")
    axes[1].set_xlabel("formation energy asked for (eV/atom)")
    axes[1].set_ylabel(f"after relaxation (eV/atom, {known_hull.energy_model})")
    axes[1].legend(frameon=False, fontsize="small")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def print_results(table, screened, order) -> None:
    """The ranked table, and how many of the samples got there."""
    count = len(table["name"])
    with_energy = int(np.isfinite(screened.formation_energy).sum())
    asked = np.array(table["formation_energy"])
    error = np.abs(screened.formation_energy - asked)
    new = sum(1 for i in order if not screened.known_as[i])
    print(
        f"     {count} samples, {with_energy} relaxed, {len(order)} distinct, {new} of "
        f"them not among the known polymorphs; |obtained - asked| "
        f"{np.nanmean(error):.3f} eV/atom on average"
    )
    print(
        f"\n{'rank':>4} {'formula':<14}{'space group':>16}{'energy (eV/atom)':>22}"
        f"{'above hull':>13}  known as"
    )
    print(f"{'':>18}{'asked → found':>17}{'asked → obtained':>22}{'(eV/atom)':>13}")
    for rank, i in enumerate(order[:NUM_TOP], 1):
        print(
            f"{rank:>4} {table['formula'][i]:<14}"
            f"{table['space_group'][i]:>9} → {screened.space_group[i]:<4}"
            f"{asked[i]:>12.3f} → {screened.formation_energy[i]:<7.3f}"
            f"{screened.above_hull[i]:>12.4f}   {screened.known_as[i] or 'new'}"
        )
    print(f"     energies: {relaxation.energy_model('emt')}")


if __name__ == "__main__":
    main()
