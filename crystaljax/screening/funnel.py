"""From crystals to a ranked table: check, compare, relax, energy above hull, known.

Every crystal keeps its row, with the stage at which it was rejected, and why.
"""

import contextlib
import dataclasses
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from crystaljax.crystals import assessment, structure
from crystaljax.hull import convex_hull, energy_scale
from crystaljax.matching import matcher
from crystaljax.relaxation import ase_relaxation, calculators
from crystaljax.relaxation import references as references_lib
from crystaljax.screening import columns, saddles, stages
from crystaljax.screening import result as screening_result
from crystaljax.screening import work as screening_work
from crystaljax.system import errors, isolation

# Tighter than the paper's. Of 1,024 pairs of EMT alloys of one composition (relaxed,
# 5 meV/atom and more apart) StructureMatcher calls 8 equal at 0.2/0.3/5, by which B2
# hides L1_0, and none at these; of 80 pairs of copies that were disturbed by 0.2 Å a
# site and 2 % of the cell it still finds 79. A duplicate missed costs a relaxation,
# after which it is found.
SAME = matcher.Tolerance(0.1, 0.15, 3.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScreeningOptions:
    """How crystals are screened.

    Attributes:
        settings: of the relaxations.
        method: "ase" (one at a time, on all cores), "batched" (many at once on the
            device, for calculators that `batched_relaxation` supports), or "auto":
            batched where that is possible, there are enough crystals, and no cluster.
        energy_model: of the calculator, in the words of the user; its own if None.
        references: energies or structures of elements, in place of the tables.
        kept: folder of relaxations that are kept for later screenings; see
            `relaxation.kept`.
        min_distance_ratio: crystals with two atoms closer than this share of the sum of
            their covalent radii are not relaxed. Bonds are at 0.8 and more; samples
            with 0.5 to 0.8 mostly relax to something sound, below potentials are asked
            for what they never saw, and answer with anything.
        tolerance: of what counts as equal.
        check_saddles: disturb ranked crystals and relax them without the symmetry that
            was kept, to say which are saddles; see `saddles`.
        relax_duplicates: relax crystals too that equal an earlier or a known one as
            they are; equal ones are looked for among the relaxed only.
        num_workers: processes; all CPUs if None.
        cluster: address of a Dask scheduler that relaxes; None: this machine.
        show_progress: print progress bars.
    """

    settings: ase_relaxation.RelaxationSettings = ase_relaxation.PRESETS["default"]
    method: str = "ase"
    energy_model: str | None = None
    references: references_lib.References | None = None
    kept: pathlib.Path | None = None
    min_distance_ratio: float = 0.5
    tolerance: matcher.Tolerance = SAME
    check_saddles: bool = False
    relax_duplicates: bool = False
    num_workers: int | None = None
    cluster: str | None = None
    show_progress: bool = False

    def __post_init__(self):
        if self.check_saddles and not self.settings.keep_symmetry:
            raise errors.UserError(
                "--check_saddles asks what becomes of crystals without the symmetry "
                "that was kept; pass --keep_symmetry too"
            )

    def workers(self, text: str) -> isolation.WorkerOptions:
        """Where crystals are relaxed, and the label of the progress bar."""
        return isolation.WorkerOptions(
            num_workers=self.num_workers,
            cluster=self.cluster,
            description=self.label(text),
        )

    def label(self, text: str) -> str | None:
        """Of a progress bar."""
        return text if self.show_progress else None


def find_energy_model(
    calculator: str, known_hull: convex_hull.Hull | None, claimed: str | None = None
) -> str:
    """Energy model of a calculator, made sure to be that of the hull.

    Args:
        calculator: see `calculators.build_calculator`.
        known_hull: what its energies are to be compared with, if anything.
        claimed: energy model in the words of the user, in place of the calculator's.

    Raises:
        ValueError: an unknown calculator, a claim that is not so, or a hull of another
            energy model.
    """
    own = energy_scale.energy_model(calculator)
    if calculator == calculators.EMT and claimed not in (None, own):
        raise errors.UserError(
            f"EMT's energies are {own!r}, and comparable with no others; leave "
            f"--energy_model={claimed!r} out"
        )
    energy_model = claimed or own
    if known_hull is None or energy_scale.is_comparable(calculator, known_hull):
        return energy_model
    if known_hull.energy_model != energy_model:
        raise errors.UserError(
            f"{calculator} gives energies of {energy_model!r}, the hull has those of "
            f"{known_hull.energy_model!r}, and energies of two models make no hull; "
            "take --hull=relaxed: and known crystals, which are relaxed with this "
            "calculator; or total energies of a DFT that it reproduces, as entries of "
            "pymatgen. If the calculator was made to reproduce the hull's energies, "
            f"say so: --energy_model={known_hull.energy_model!r}"
        )
    return energy_model


def screen(
    crystals: Sequence[structure.Crystal],
    calculator: str,
    known_hull: convex_hull.Hull | None,
    known: Sequence[tuple[str, structure.Crystal]] = (),
    options: ScreeningOptions | None = None,
    *,
    names: Sequence[str] | None = None,
    problems: Sequence[str] | None = None,
    work: pathlib.Path | None = None,
) -> screening_result.Screening:
    """Checks, compares, relaxes and ranks crystals.

    Args:
        crystals: as they were generated.
        calculator: see `calculators.build_calculator`.
        known_hull: of the same energy model as the calculator; None: crystals are
            compared with those of their own composition only.
        known: ids and crystals; those with a composition in question are compared, and
            the nearest of all is looked for.
        options: all else.
        names: of the crystals, unique; their numbers if None.
        problems: what is known to be wrong with each; "" if nothing.
        work: folder where what is finished is kept, and found; see `screening_work`.

    Raises:
        ValueError: an unknown calculator, a hull of another energy model, elements that
            the calculator or the references do not have in all crystals, or names that
            are not unique.
        ImportError: what the calculator or the cluster needs is not installed.
    """
    options = options or ScreeningOptions()
    names = [str(i) for i in range(len(crystals))] if names is None else list(names)
    if len(set(names)) != len(crystals):
        raise errors.UserError(
            f"{len(set(names))} different names for {len(crystals)} crystals; expected "
            "one for each"
        )
    energy_model = find_energy_model(calculator, known_hull, options.energy_model)
    calculators.build_calculator(calculator)
    seconds: dict[str, float] = {}
    rejected: dict[int, tuple[str, str]] = {}

    def alive() -> list[int]:
        return [i for i in range(len(crystals)) if i not in rejected]

    def of(indices: Sequence[int], many: Any) -> dict[int, Any]:
        return {i: many[i] for i in indices}

    # ------------------------------- check -------------------------------------
    with _timed(seconds, "check"):
        checks = stages.check(
            crystals,
            problems,
            options.min_distance_ratio,
            columns.SYMPRECS,
            num_workers=options.num_workers,
            description=options.label("check"),
        )
    for i, reason in enumerate(checks.reasons):
        if reason:
            rejected[i] = ("validity", reason)

    # ----------------------------- elements ------------------------------------
    with _timed(seconds, "references"):
        numbers = {i: set(map(int, crystals[i].atomic_numbers)) for i in alive()}
        found = screening_work.remember(
            work,
            "references",
            lambda: stages.find_references(
                calculator,
                sorted(set().union(*numbers.values())),
                options.references,
                options.workers("relax elements"),
                options.kept,
            ),
        )
        # JSON's keys are strings.
        reference, missing = ({int(n): v for n, v in each.items()} for each in found)
    for i, each in numbers.items():
        reasons = [missing[number] for number in sorted(each) if number in missing]
        if reasons:
            rejected[i] = ("energy", "; ".join(reasons))
    if numbers and not alive():
        raise errors.UserError(
            "the energy of none of the crystals can be computed: "
            + "; ".join(missing.values())
        )

    # --------------------------- compare ---------------------------------------
    known_as = [""] * len(crystals)
    duplicate_of = np.full(len(crystals), -1)
    if not options.relax_duplicates:
        with _timed(seconds, "compare"):
            for i, (first, known_id) in _compare(
                work, "generated", of(alive(), crystals), known, options
            ):
                duplicate_of[i], known_as[i] = first, known_id
                if first >= 0:
                    rejected[i] = (
                        "duplicates",
                        f"equals an earlier one: {names[first]}",
                    )
                elif known_id:
                    rejected[i] = ("duplicates", f"equals a known one: {known_id}")

    # ---------------------------- relax ----------------------------------------
    with _timed(seconds, "relax"):
        relaxations = _relax(work, of(alive(), crystals), calculator, options)
    relaxed = list(crystals)
    energy, on_hull = np.full((2, len(crystals)), np.nan)
    scale = energy_scale.EnergyScale(
        energy_model, reference, energy_scale.adds_corrections(calculator)
    )
    for i, (result, _) in relaxations.items():
        if result.problem:
            rejected[i] = ("relaxation", result.problem)
            continue
        if not np.isfinite(result.energy):
            rejected[i] = ("energy", "the calculator gave no energy")
            continue
        relaxed[i] = result.crystal
        try:
            energy[i] = scale.formation_energy(result.crystal, result.energy)
            on_hull[i] = energy[i]
            if known_hull is not None:
                on_hull[i] = scale.energy_on(known_hull, result.crystal, result.energy)
        except ValueError as error:
            rejected[i] = ("energy", str(error))

    # ------------------------ hull, compare again ------------------------------
    left = alive()
    above_hull = np.full(len(crystals), np.nan)
    if known_hull is not None and left:
        above_hull[left] = convex_hull.energy_above_hull(
            known_hull,
            [relaxed[i].atomic_numbers for i in left],
            on_hull[left],
            # That the two can be compared was made sure of above.
            known_hull.energy_model,
        )
    with _timed(seconds, "compare relaxed"):
        symprecs = columns.RELAXED_SYMPRECS
        space_groups = np.zeros((len(crystals), len(symprecs)), int)
        shortest, volume = np.full((2, len(crystals)), np.nan)
        if left:
            found = assessment.check_many(
                [relaxed[i] for i in left], symprecs, num_workers=options.num_workers
            )
            space_groups[left] = found.space_groups
            shortest[left], volume[left] = (
                found.shortest_distance,
                found.volume_per_atom,
            )
        # A converged crystal stands for those that are not.
        left.sort(key=lambda i: (not relaxations[i][0].converged, i))
        for i, (first, known_id) in _compare(
            work, "relaxed", of(left, relaxed), known, options, of(left, energy)
        ):
            duplicate_of[i], known_as[i] = first, known_id
            if first >= 0:
                reason = f"relaxed to the same as another one: {names[first]}"
                rejected[i] = ("duplicates", reason)

    with _timed(seconds, "nearest"):
        nearest = stages.find_nearest(of(left, relaxed), known, len(crystals))
    released = None
    if options.check_saddles:
        with _timed(seconds, "saddles"):
            kept = {i: relaxations[i][0] for i in alive()}
            still = {i: each.crystal for i, each in kept.items()}
            free = _relax(work, still, calculator, options, is_release=True)
            released = {i: saddles.judge(each, free[i][0]) for i, each in kept.items()}

    none = (None, "")
    return screening_result.Screening(
        names=names,
        checks=checks,
        relaxed=relaxed,
        relaxations=[relaxations.get(i, none)[0] for i in range(len(crystals))],
        methods=[relaxations.get(i, none)[1] for i in range(len(crystals))],
        formation_energy=energy,
        above_hull=above_hull,
        space_groups=space_groups,
        shortest_distance=shortest,
        volume_per_atom=volume,
        nearest=nearest,
        released=released,
        known_as=known_as,
        duplicate_of=duplicate_of,
        rejected_stage=[rejected.get(i, ("", ""))[0] for i in range(len(crystals))],
        rejected_reason=[rejected.get(i, ("", ""))[1] for i in range(len(crystals))],
        energy_model=energy_model,
        element_energies=reference,
        has_hull=known_hull is not None,
        seconds=seconds,
    )


def _compare(
    work: pathlib.Path | None,
    which: str,
    crystals: Mapping[int, structure.Crystal],
    known: Sequence[tuple[str, structure.Crystal]],
    options: ScreeningOptions,
    energy: Mapping[int, float] | None = None,
) -> list[tuple[int, tuple[int, str]]]:
    found = screening_work.remember(
        work,
        f"compared_{which}",
        lambda: list(
            stages.compare(
                crystals,
                known,
                options.tolerance,
                energy=energy,
                num_workers=options.num_workers,
                description=options.label(f"compare {which}"),
            ).items()
        ),
    )
    # JSON has no tuples.
    return [(i, (first, known_id)) for i, (first, known_id) in found]


def _relax(
    work: pathlib.Path | None,
    crystals: Mapping[int, structure.Crystal],
    calculator: str,
    options: ScreeningOptions,
    *,
    is_release: bool = False,
) -> dict[int, tuple[ase_relaxation.Relaxation, str]]:
    """Relaxation and method by number: what is done already, and the rest.

    Where it is a release, relaxed crystals go on without their symmetry.
    """
    name, label, relax_fn = screening_work.RELAXATIONS, "relax", stages.relax
    if is_release:
        name, label = screening_work.RELEASED, "relax without symmetry"
        relax_fn = saddles.release
    done = screening_work.read_relaxations(work, name)
    waiting = {i: crystal for i, crystal in crystals.items() if i not in done}
    for i, relaxed, how in relax_fn(
        waiting,
        calculator,
        options.settings,
        _choose_method(calculator, len(crystals), options),
        options.workers(label),
    ):
        screening_work.append_relaxation(work, i, relaxed, how, name)
        done[i] = relaxed, how
    return done


def _choose_method(
    calculator: str, num_crystals: int, options: ScreeningOptions
) -> str:
    return stages.choose_method(
        options.method,
        calculator,
        options.settings.optimizer,
        num_crystals,
        options.cluster,
    )


@contextlib.contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - start
