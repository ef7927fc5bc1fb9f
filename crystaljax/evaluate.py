"""Measures a trained network on held-out structures.

    crystaljax evaluate --workdir=runs/smoke --split=val

A model of the generation task is asked for each structure by its own formula, space
group and formation energy. A model of the modification task is given structures, and
asked for the most stable polymorph of the same cell formula. Prints match rates,
validity and space groups found, and writes a table with one row per sample.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from crystaljax import command_line
from crystaljax.crystals import structure_files, validity
from crystaljax.data import dataset as datasets
from crystaljax.data import pairs
from crystaljax.metrics import numbers, yardsticks
from crystaljax.models import build
from crystaljax.sampling import (
    batch_sizes,
    evaluation,
    generation,
    usable_structures,
)
from crystaljax.sampling import build as build_sampling
from crystaljax.sampling import options as sampling_options
from crystaljax.system import atomic_files, errors, sharding
from crystaljax.system import options as options_lib
from crystaljax.training import checkpoints, model_files, runs


@options_lib.frozen
class EvaluateOptions(sampling_options.SamplingOptions):
    """What to evaluate."""

    split: str = options_lib.option(
        "Structures to ask for.", default="val", choices=datasets.SPLITS
    )
    dataset: str | None = options_lib.option(
        "Dataset directory; that of the run by default.", default=None
    )
    num_structures: int | None = options_lib.option(
        "Structures (modification: pairs), drawn with the seed; all by default.",
        default=None,
        lower=1,
    )
    pairs_per_group: int | None = options_lib.option(
        "Modification: structures of each cell formula that are modified, drawn with "
        "the seed; 0: all.",
        default=1,
        lower=0,
        zero_is_none=True,
    )
    num_samples: int = options_lib.option(
        "Samples of each structure, one after the other: match@k for k up to it.",
        default=1,
        lower=1,
    )
    num_workers: int | None = options_lib.option(
        "Processes that match; all CPUs by default.", default=None, lower=1
    )
    output: str | None = options_lib.option(
        "Folder to write; <workdir>/evaluation_<split> by default.", default=None
    )


def evaluate(
    options: EvaluateOptions, *, show_progress: bool = False
) -> tuple[evaluation.Evaluation, pathlib.Path]:
    """Evaluates and writes the table and the samples.

    Returns:
        The evaluation, and the folder with ``structures.csv``, ``summary.json`` and the
        samples as ``samples.extxyz``.

    Raises:
        FileNotFoundError: no run, checkpoint or dataset.
        ValueError: an empty split, or structures that the run's rows do not hold.
    """
    workdir = model_files.resolve(options.workdir, options.model)
    config = build_sampling.override_sampler(runs.load_config(workdir), options)
    mesh = sharding.build_local_mesh()
    run = checkpoints.load_run(workdir, mesh, options.checkpoint)
    path = options.dataset or run.vocabulary["dataset"]
    if path is None:
        raise errors.UserError(
            f"{workdir} was not trained on a data set of this machine; give "
            "one with --dataset"
        )
    dataset = datasets.open_dataset(path)
    questions = _choose_questions(config, dataset, options)
    key = generation.key_of_seed(options.seed)
    generator, note = batch_sizes.resolve(
        build_sampling.generator_of_run(run, config, mesh),
        options.batch_size,
        questions.conditions,
        key,
    )
    if note and show_progress:
        print(f"note: {note}", file=sys.stderr)
    result = evaluation.evaluate_samples(
        generator,
        questions,
        key,
        num_workers=options.num_workers,
        show_progress=show_progress,
    )
    folder = pathlib.Path(options.output or workdir / f"evaluation_{options.split}")
    if sharding.is_first_process():
        _write(result, dataset, run, config, options, folder)
    return result, folder


def _choose_questions(
    config: Any, dataset: datasets.Dataset, options: EvaluateOptions
) -> evaluation.Questions:
    items, sites = usable_structures.find_usable(config, dataset, options.split)
    if build.is_modification(config) and len(items):
        items = pairs.lowest_energy_pairs(
            group=dataset.group,
            energy=dataset.formation_energy,
            indices=items,
            seed=options.seed,
            pairs_per_group=options.pairs_per_group,
        )
    if options.num_structures is not None and options.num_structures < len(items):
        rng = np.random.default_rng(options.seed)
        items = items[
            np.sort(rng.choice(len(items), options.num_structures, replace=False))
        ]
    if build.is_modification(config):
        questions = evaluation.pair_questions(dataset, items, sites)
    else:
        questions = evaluation.structure_questions(dataset, items, sites)
    return evaluation.ask_again(questions, options.num_samples)


def report(result: evaluation.Evaluation, options: EvaluateOptions) -> str:
    """What the command prints."""
    count = len(result.questions) // result.questions.num_rounds
    summary = result.summary()
    kind = "structures" if result.source_matches is None else "pairs"
    how = "one sample each"
    if result.questions.num_rounds > 1:
        how = f"{result.questions.num_rounds} samples each, shares are of all of them"
    if result.num_draws > 1:
        how += f", picked from {result.num_draws} draws"
    lines = [f"{count} {kind} of the {options.split} split, {how}"]
    for tolerance in result.matches.tolerances:
        rate = summary[f"match_rate_{tolerance}"]
        error = np.sqrt(rate * (1 - rate) / count)
        rms = summary.get(f"rms_{tolerance}")
        lines.append(
            f"  match rate  {rate:6.1%} ± {error:.1%}   at ltol/stol/angle_tol "
            f"{tolerance}" + (f", RMS {rms:.4f}" if rms is not None else "")
        )
    if result.source_matches is not None:
        for tolerance in result.source_matches.tolerances:
            rate = summary[f"match_rate_of_sources_{tolerance}"]
            lines.append(
                f"  unmodified  {rate:6.1%}            at {tolerance}: sources that "
                "match as they are"
            )
    lines += [
        f"  valid       {summary['valid']:6.1%}            (finite, volume ≥ "
        f"{validity.MIN_VOLUME:g} Å³, distances ≥ {validity.MIN_DISTANCE:g} Å)",
        f"  apart       {summary['not_overlapping']:6.1%}            (distances ≥ "
        f"{evaluation.OVERLAP_RATIO:g} of the covalent radii's sum)",
    ]
    for symprec in evaluation.SYMPRECS:
        lines.append(
            f"  space group {summary[f'space_group_{symprec:g}']:6.1%}            "
            f"(the one requested, found at symprec {symprec:g})"
        )
    seconds = ", ".join(
        f"{name} {value:.1f} s" for name, value in result.seconds.items()
    )
    lines.append(f"  {seconds}")
    if result.score is not None:
        lines += numbers.format_numbers(yardsticks.describe(result.score))
        lines.append(f"  valid: {result.score.valid_rule}")
    return "\n".join(lines)


def _write(
    result: evaluation.Evaluation,
    dataset: datasets.Dataset,
    run: checkpoints.Run,
    config: Any,
    options: EvaluateOptions,
    folder: pathlib.Path,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    table = result.table()
    structure_files.write_table(folder / "structures.csv", table, overwrite=True)
    energy = "formation_energy"
    if result.source_matches is not None:
        energy = "energy_difference"
    keys = ("id", "round", "formula", "space_group", energy)
    infos: list[dict[str, Any]] = [
        dict(zip(keys, row, strict=True))
        for row in zip(*(table[key] for key in keys), strict=True)
    ]
    structure_files.write_extxyz(
        folder / "samples.extxyz", result.samples, infos, overwrite=True
    )
    atomic_files.write_json(
        folder / "summary.json",
        {
            **dataclasses.asdict(options),
            "dataset": str(dataset.path),
            "num_structures": len(result.questions) // result.questions.num_rounds,
            "checkpoint": run.step,
            "sampler": config.sampler.name,
            "num_steps": config.sampler.num_steps,
            "eta": config.sampler.eta,
            "draws": config.sampler.draws,
            "device": jax.devices()[0].device_kind,
            **result.summary(),
            **_yardsticks(result),
            "seconds": result.seconds,
        },
    )


def _yardsticks(result: evaluation.Evaluation) -> dict[str, Any]:
    """Numbers with their definitions, and what valid means."""
    if result.score is None:
        return {}
    return {
        "yardsticks": [each.to_json() for each in yardsticks.describe(result.score)],
        "valid_rule": result.score.valid_rule,
    }


def _run(chosen: EvaluateOptions) -> None:
    is_first = sharding.is_first_process()
    result, folder = evaluate(chosen, show_progress=is_first)
    if is_first:
        print(report(result, chosen))
        print(f"per structure: {folder / 'structures.csv'}")


COMMAND = command_line.Command(
    "evaluate", __doc__, (EvaluateOptions,), _run, renamed={"candidates": "draws"}
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line; ``arguments`` are those of the process if None."""
    command_line.run(COMMAND, arguments)


if __name__ == "__main__":
    main()
