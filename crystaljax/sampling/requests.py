"""From checked conditions to files: what `sample` and `modify` share."""

import collections
import contextlib
import dataclasses
import hashlib
import pathlib
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import tqdm

from crystaljax.crystals import structure
from crystaljax.sampling import (
    batch_sizes,
    estimation,
    generation,
    judging,
    likely_orbits,
    shards,
)
from crystaljax.sampling import build as build_sampling
from crystaljax.sampling import conditions as conditions_lib
from crystaljax.sampling import samples as samples_lib
from crystaljax.system import errors, folder_locks, sharding
from crystaljax.training import checkpoints


@dataclasses.dataclass(frozen=True, eq=False)
class Request:
    """Checked conditions, and the run that is asked.

    Attributes:
        workdir: the run directory.
        config: of the run, with the sampler to use.
        conditions: of all samples.
        wording: what the user gave, from which the conditions came.
        notes: for the user.
        seed: of the samples.
        batch_size: samples at a time; "auto" for what fits, the config's if None.
        checkpoint: step; the newest if None.
        inputs: names of the crystals to modify, one per sample; None in generation.
        columns: what else the table says of each sample, by name.
        orbits: of each sample, for a model of orbits.
        judge: what chooses among several draws of each sample; None for one draw.
        drawn: with a judge, the request for all draws, those of a sample together.
        folder: where a judge keeps what it has relaxed.
        arrange: what is done with the samples of a shard before they are handed over;
            None for nothing.
        kept_cell: of a part that is kept, where a network sees a crystal site by site:
            `kept_cells.KeptCell`.
    """

    workdir: pathlib.Path
    config: Any
    conditions: conditions_lib.Conditions
    wording: dict[str, Any]
    notes: list[str]
    seed: int
    batch_size: int | str | None
    checkpoint: int | None
    inputs: list[str] | None = None
    columns: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    orbits: Sequence[likely_orbits.Request] = ()
    judge: judging.Judge | None = None
    drawn: "Request | None" = None
    folder: pathlib.Path | None = None
    # Not imported: it brings spglib, which most requests do without.
    kept_cell: Any = None
    arrange: Callable[[samples_lib.Samples], samples_lib.Samples] | None = None

    def judged_by(self, judge: judging.Judge, num_samples: int) -> "Request":
        """This request for draws as one for samples that a judge chooses.

        Args:
            judge: see there.
            num_samples: of each combination, so many times ``judge.num_draws`` here.
        """
        order = judging.draws_in_order(
            len(self.conditions), num_samples, judge.num_draws
        )

        def take(rows: np.ndarray) -> Request:
            return dataclasses.replace(
                self,
                conditions=jax.tree.map(lambda array: array[rows], self.conditions),
                columns={name: each[rows] for name, each in self.columns.items()},
                orbits=[self.orbits[row] for row in rows] if self.orbits else (),
            )

        first = take(order[:: judge.num_draws])
        return dataclasses.replace(first, judge=judge, drawn=take(order))

    def load_run(self) -> checkpoints.Run:
        """The network, on the devices of this process.

        Raises:
            FileNotFoundError: no such checkpoint.
            ValueError: a batch size that cannot be split over the devices.
        """
        mesh = sharding.build_local_mesh()
        if not isinstance(self.batch_size, str):
            size = self.batch_size or self.config.evaluation.batch_size
            sharding.require_divisible(size, mesh)
        return checkpoints.load_run(self.workdir, mesh, self.checkpoint)

    def provenance(self, run: checkpoints.Run) -> dict[str, Any]:
        """Where the samples come from: columns for the table."""
        sampler = self.config.sampler
        energy_model = run.vocabulary.get("energy_model") or "unknown"
        judged = self.judge.provenance(energy_model) if self.judge else {}
        return {
            "workdir": str(self.workdir),
            "checkpoint": run.step,
            "seed": self.seed,
            "sampler": sampler.name,
            "num_steps": sampler.num_steps,
            "eta": sampler.eta if sampler.name == "ddim" else None,
            "draws": sampler.draws,
            "follow_known": sampler.follow_known if self.orbits else None,
            "energy_model": energy_model,
            **judged,
        }


def make_shards(
    request: Request,
    run: checkpoints.Run,
    layout: shards.Layout,
    own: Sequence[int],
    *,
    finished: Collection[int] = (),
    show_progress: bool = False,
) -> Iterator[tuple[int, samples_lib.Samples]]:
    """Yields shards as they are completed, with their numbers.

    Batches go on from one shard to the next, and those of an interrupted call are made
    again: the samples then have the same bits.

    Args:
        request: what to make.
        run: from `Request.load_run`.
        layout: how the samples are divided.
        own: shards of this process, ascending.
        finished: shards that are not wanted.
        show_progress: print a progress bar, and notes.
    """
    if request.judge is not None:
        yield from _judge_shards(request, run, layout, own, finished, show_progress)
        return
    conditions = request.conditions
    key = generation.key_of_seed(request.seed)
    numbers = np.concatenate([np.arange(0), *(layout.numbers(each) for each in own)])
    missing = {
        shard: len(layout.numbers(shard)) for shard in own if shard not in finished
    }
    if not missing:
        return
    generator, note = batch_sizes.resolve(
        build_sampling.generator_of_run(
            run, request.config, sharding.build_local_mesh(), request.orbits
        ),
        request.batch_size,
        conditions,
        key,
        num_samples=len(numbers),
    )
    if note and show_progress:
        print(f"note: {note}", file=sys.stderr)
    generator = generator.for_conditions(conditions)
    batches = [
        batch
        for batch in generator.plan_batches(conditions, numbers.astype(np.int64))
        if not missing.keys().isdisjoint((batch.numbers // layout.shard_size).tolist())
    ]
    progress = tqdm.tqdm(
        total=len(numbers),
        initial=len(numbers) - sum(missing.values()),
        desc="sample",
        unit="crystal",
        disable=not show_progress,
    )
    made: dict[int, dict[int, structure.Crystal]] = collections.defaultdict(dict)
    with progress:
        for done, crystals in generator.generate_batches(conditions, key, batches):
            num_new = 0
            for number, crystal in zip(done, crystals, strict=True):
                shard = number // layout.shard_size
                if shard in missing:
                    if request.kept_cell is not None:
                        is_kept = np.asarray(conditions.kept.is_kept)[number]
                        crystal = request.kept_cell.restore(crystal, is_kept)
                    made[shard][number] = crystal
                    num_new += 1
            progress.update(num_new)
            for shard in [each for each in missing if len(made[each]) == missing[each]]:
                del missing[shard]
                wanted, of_shard = layout.numbers(shard), made.pop(shard)
                estimate_fn = generator.estimate_energies
                found = _samples(request, run, wanted, of_shard, estimate_fn)
                yield shard, request.arrange(found) if request.arrange else found


def _judge_shards(
    request: Request,
    run: checkpoints.Run,
    layout: shards.Layout,
    own: Sequence[int],
    finished: Collection[int],
    show_progress: bool,
) -> Iterator[tuple[int, samples_lib.Samples]]:
    """As `make_shards`: draws of a shard's samples, and the best of each."""
    judge, drawn = request.judge, request.drawn
    assert judge is not None and drawn is not None
    if set(own) <= set(finished):
        return
    # What cannot be judged is said before anything is drawn.
    scale = None
    if judge.calculator != judging.ESTIMATOR:
        energy_model = run.vocabulary.get("energy_model") or "unknown"
        numbers = request.conditions.atomic_numbers
        scale = judging.scale_of(judge, numbers, energy_model)
    of_draws = shards.Layout(len(drawn.conditions), judge.num_draws * layout.shard_size)
    for shard, draws in make_shards(
        drawn, run, of_draws, own, finished=finished, show_progress=show_progress
    ):
        if scale is None:
            yield shard, judging.pick_by_estimates(draws, judge, run.picking_unit)
            continue
        folder = request.folder
        path = folder and folder / f"relaxed_draws{layout.part(shard)}.jsonl"
        yield (
            shard,
            judging.hand_over(
                draws, judge, scale, kept_in=path, show_progress=show_progress
            ),
        )


def _require_judge(request: Request, run: checkpoints.Run) -> None:
    """Checks that the judge of a request, if there is one, can judge.

    Raises:
        UserError: the model has no estimator of energies, or see `judging.require`.
        ImportError: see `judging.require`.
    """
    judge = request.judge
    if judge is None:
        return
    if judge.calculator != judging.ESTIMATOR:
        judging.require(judge, np.asarray(request.conditions.atomic_numbers))
    elif run.energy_error is None or not request.orbits:
        raise errors.UserError(
            f"judge is {judging.ESTIMATOR!r}, but the model {request.workdir} has no "
            "estimator for models of orbits; name a calculator, such as judge='sevenn'"
        )


def _samples(
    request: Request,
    run: checkpoints.Run,
    numbers: range,
    made: dict[int, structure.Crystal],
    estimate_fn: estimation.CellsFn | None,
) -> samples_lib.Samples:
    part = slice(numbers.start, numbers.stop)
    crystals = [made[number] for number in numbers]
    columns = {name: each[part] for name, each in request.columns.items()}
    if estimate_fn is not None:
        estimated = estimation.estimate_many(estimate_fn, crystals)
        # The estimator answers in float32.
        columns["estimated_energy"] = np.round(estimated, 5)
    return samples_lib.Samples(
        crystals=crystals,
        conditions=jax.tree.map(lambda array: array[part], request.conditions),
        notes=request.notes,
        provenance=request.provenance(run),
        inputs=None if request.inputs is None else request.inputs[part],
        columns=columns,
        first=numbers.start,
        num_in_all=len(request.conditions),
    )


def make_samples(
    request: Request, *, show_progress: bool = False
) -> samples_lib.Samples:
    """Makes all samples of a request, in memory.

    Raises:
        FileNotFoundError: no such checkpoint.
        ValueError: see `Request.load_run`.
    """
    run = request.load_run()
    _require_judge(request, run)
    num_samples = len(request.conditions)
    layout = shards.Layout(num_samples, num_samples)
    ((_, samples),) = make_shards(
        request, run, layout, [0], show_progress=show_progress
    )
    return samples


def write_request(
    request: Request,
    output: str | pathlib.Path,
    *,
    cifs: str,
    table_cifs: bool = False,
    shard_size: int | None,
    overwrite: bool,
) -> None:
    """What both commands that make crystals do: shards, notes, one line.

    What was made by the same request before, interrupted or not, is kept. Where there
    are several processes each has every so-many-th shard.

    Args:
        request: what to make.
        output: the folder; see `crystaljax.sampling.shards` for what is in it.
        cifs: see `samples.write_samples`.
        table_cifs: see `samples.write_samples`.
        shard_size: samples of a shard; see `shards.open_output`.
        overwrite: remove the samples of another request.

    Raises:
        FileExistsError: the folder holds samples of another request, or another process
            writes there.
        FileNotFoundError: no such checkpoint.
        ValueError: see `Request.load_run`.
    """
    output = pathlib.Path(output)
    with contextlib.ExitStack() as stack:
        if sharding.is_first_process():
            remedy = "choose another --output"
            stack.enter_context(folder_locks.hold(output, remedy))
        _write_request(request, output, (cifs, table_cifs), shard_size, overwrite)


def _write_request(
    request: Request,
    output: pathlib.Path,
    cif_options: tuple[str, bool],
    shard_size: int | None,
    overwrite: bool,
) -> None:
    start = time.perf_counter()
    cifs, table_cifs = cif_options
    if not (output / shards.REQUEST_FILE).exists():
        # Nothing that could be gone on with: say so before long work.
        shards.require_new(output, overwrite)
    run = request.load_run()
    # Before anything is written.
    _require_judge(request, run)
    layout = shards.open_output(
        output,
        {
            "asked": request.wording,
            "made_by": request.provenance(run),
            "cifs": cifs,
            # Not said where it is not requested: folders made before are the same.
            **({"table_cifs": True} if table_cifs else {}),
            "conditions_fingerprint": shards.fingerprint(request.conditions),
            "params_fingerprint": shards.fingerprint(run.params),
            **_describe_orbits(request),
        },
        len(request.conditions),
        shard_size=shard_size,
        overwrite=overwrite,
    )
    own = range(jax.process_index(), layout.num_shards, jax.process_count())
    finished = layout.finished(output)
    num_kept = sum(len(layout.numbers(shard)) for shard in own if shard in finished)
    num_samples = sum(len(layout.numbers(shard)) for shard in own)

    shown: list[str] = []

    def write(shard_and_samples: tuple[int, samples_lib.Samples]) -> int:
        shard, samples = shard_and_samples
        # What is there of it comes from a process that was killed.
        part = layout.part(shard)
        written = samples_lib.write_samples(
            samples,
            output,
            cifs=cifs,
            table_cifs=table_cifs,
            overwrite=True,
            part=part,
        )
        if request.orbits and samples.first == 0:
            shown.extend(samples_lib.format_samples(samples))
            if request.judge is not None:
                shown.append(judging.describe(request.judge))
        return len(written)

    request = dataclasses.replace(request, folder=output)
    made = make_shards(request, run, layout, own, finished=finished, show_progress=True)
    num_left_out = sum(shards.write_behind(made, write))
    if shown:
        print("\n".join(shown))
    for note in request.notes if sharding.is_first_process() else ():
        print(f"note: {note}", file=sys.stderr)
    if num_left_out:
        print(
            f"note: {num_left_out} samples are not finite or have no volume, and have "
            "no crystal file; the table marks them",
            file=sys.stderr,
        )
    print(_report(num_samples, num_kept, time.perf_counter() - start, output))
    if jax.process_count() > 1:
        shards.wait_until_finished(output, layout)


def _describe_orbits(request: Request) -> dict[str, Any]:
    if not request.orbits:
        return {}
    text = " ".join(each.describe() for each in request.orbits)
    return {"orbits_fingerprint": hashlib.sha256(text.encode()).hexdigest()[:32]}


def _report(num_samples: int, num_kept: int, seconds: float, output: Any) -> str:
    whose = ""
    if jax.process_count() > 1:
        whose = f"process {jax.process_index()} of {jax.process_count()}: "
    if num_kept == num_samples:
        return f"{whose}all {num_samples} crystals are in {output} already"
    num_made = num_samples - num_kept
    plural = "" if num_made == 1 else "s"
    made = f"{whose}{num_made} crystal{plural} in {seconds:.1f} s, start-up"
    kept = f", {num_kept} were there already" if num_kept else ""
    return f"{made} and writing included, in {output}{kept}"
