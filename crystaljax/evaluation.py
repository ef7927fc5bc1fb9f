"""How right the samples are: match rate, validity, space group; per structure.

The question put to the network is each held-out structure's own condition: its cell
formula, space group and formation energy. One sample answers it, and pymatgen's
StructureMatcher says whether it is that structure (paper section 3.4).
"""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from crystaljax import conditions as conditions_lib
from crystaljax import elements, generation, matching, structure, validity
from crystaljax.data import dataset as datasets

# Å; the looser one is that of the training structures' own space groups.
SYMPRECS = (0.1, 0.01)
# Atoms closer than this share of the sum of their covalent radii overlap.
OVERLAP_RATIO = 0.7


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """One entry per held-out structure.

    Attributes:
        indices: of the structures in the dataset.
        conditions: what was asked for.
        targets: the held-out structures.
        samples: the crystals that were generated.
        matches: of the samples with the targets.
        checks: validity and space groups of the samples.
        seconds: spent in sampling, matching and checking.
    """

    indices: np.ndarray
    conditions: conditions_lib.Conditions
    targets: list[structure.Crystal]
    samples: list[structure.Crystal]
    matches: matching.Matches
    checks: validity.Validities
    seconds: dict[str, float]

    def summary(self) -> dict[str, float]:
        """Shares of all structures; RMS distances are means over those that match."""
        result: dict[str, float] = {}
        for column, tolerance in enumerate(self.matches.tolerances):
            matched = self.matches.matched[:, column]
            result[f"match_rate_{tolerance}"] = float(matched.mean())
            if matched.any():
                rms = self.matches.rms[matched, column]
                result[f"rms_{tolerance}"] = float(rms.mean())
        result["valid"] = float(self.checks.valid.mean())
        result["not_overlapping"] = float(
            np.mean(self.checks.shortest_distance_ratio >= OVERLAP_RATIO)
        )
        asked = np.asarray(self.conditions.space_group)
        for column, symprec in enumerate(SYMPRECS):
            found = self.checks.space_groups[:, column]
            result[f"space_group_{symprec:g}"] = float(np.mean(found == asked))
        return result

    def table(self, dataset: datasets.Dataset) -> dict[str, list[Any]]:
        """Columns with one row per structure."""
        columns: dict[str, list[Any]] = {
            "id": dataset.id.take(self.indices).to_pylist(),
            "formula": [
                elements.cell_formula(target.atomic_numbers) for target in self.targets
            ],
            "num_sites": np.asarray(self.conditions.num_sites).tolist(),
            "space_group": np.asarray(self.conditions.space_group).tolist(),
            "formation_energy": np.asarray(self.conditions.energy).tolist(),
        }
        for column, tolerance in enumerate(self.matches.tolerances):
            columns[f"matched_{tolerance}"] = self.matches.matched[:, column].tolist()
            columns[f"rms_{tolerance}"] = self.matches.rms[:, column].tolist()
        columns["match_failure"] = list(self.matches.reasons)
        columns["valid"] = self.checks.valid.tolist()
        columns["invalid_because"] = list(self.checks.reasons)
        columns["shortest_distance"] = self.checks.shortest_distance.tolist()
        columns["shortest_distance_ratio"] = (
            self.checks.shortest_distance_ratio.tolist()
        )
        for column, symprec in enumerate(SYMPRECS):
            columns[f"space_group_found_{symprec:g}"] = self.checks.space_groups[
                :, column
            ].tolist()
        columns["volume_ratio"] = [
            float(np.linalg.det(sample.lattice) / np.linalg.det(target.lattice))
            for sample, target in zip(self.samples, self.targets, strict=True)
        ]
        return columns


def evaluate_samples(
    params: Any,
    generate_fn,
    dataset: datasets.Dataset,
    indices: np.ndarray,
    *,
    key: Array,
    sites: int,
    mesh: Mesh,
    batch_size: int,
    tolerances: Sequence[matching.Tolerance] = tuple(matching.TOLERANCES.values()),
    num_workers: int | None = None,
    show_progress: bool = False,
) -> Evaluation:
    """Samples one crystal for each structure's conditions and compares.

    Args:
        params: of the network.
        generate_fn: from `generation.build_generate_fn`.
        dataset: to take the structures from.
        indices: of the structures.
        key: of the samples.
        sites: width to which sites are padded.
        mesh: the devices.
        batch_size: samples at a time.
        tolerances: at which samples are matched; the loosest costs the most time.
        num_workers: processes that match; all CPUs if None.
        show_progress: print progress bars.

    Raises:
        ValueError: no structures, or structures larger than ``sites``.
    """
    if len(indices) == 0:
        raise ValueError("no structures to evaluate on; choose another --split")
    conditions = conditions_lib.conditions_of(datasets.gather(dataset, indices, sites))
    targets = [datasets.crystal(dataset, int(index)) for index in indices]

    def label(text: str) -> str | None:
        return text if show_progress else None

    start = time.perf_counter()
    samples = generation.generate(
        generate_fn,
        params,
        conditions,
        key,
        mesh=mesh,
        batch_size=batch_size,
        description=label("sample"),
    )
    sampled = time.perf_counter()
    matches = matching.match_many(
        samples,
        targets,
        tolerances,
        num_workers=num_workers,
        description=label("match"),
    )
    matched = time.perf_counter()
    checks = validity.check_many(
        samples,
        symprecs=SYMPRECS,
        num_workers=num_workers,
        description=label("check"),
    )
    return Evaluation(
        indices=np.asarray(indices),
        conditions=conditions,
        targets=targets,
        samples=samples,
        matches=matches,
        checks=checks,
        seconds={
            "sampling": sampled - start,
            "matching": matched - sampled,
            "checking": time.perf_counter() - matched,
        },
    )
