"""How easy are the questions of table 2 on the built-in alloys?

    python experiments/tables_1_and_2/targets.py --dataset=runs/tables_1_and_2/dataset

What is asked for is the most stable polymorph of a held-out formula. Its prototype (the
part of an alloy's id before the colon) can be looked up: among the training targets of
the same anonymous formula, number of sites and space group, the most frequent one.
Prints JSON.
"""

import argparse
import collections
import json
import pathlib

import numpy as np

from crystaljax.crystals import elements
from crystaljax.data import dataset as datasets
from crystaljax.data import pairs


def main() -> None:
    """Counts kinds of targets, and answers the questions from a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", type=pathlib.Path, required=True)
    args = parser.parse_args()
    dataset = datasets.open_dataset(args.dataset)
    known = [describe(dataset, i) for i in targets(dataset, "train", per_group=1)]
    asked = [describe(dataset, i) for i in targets(dataset, "test", per_group=None)]
    table: dict[tuple, collections.Counter[str]] = {}
    for condition, prototype in known:
        table.setdefault(condition, collections.Counter())[prototype] += 1
    kinds = {kind(*each) for each in known}
    answers = [
        table[condition].most_common(1)[0][0] if condition in table else None
        for condition, _ in asked
    ]
    right = [
        answer == prototype
        for answer, (_, prototype) in zip(answers, asked, strict=True)
    ]
    print(
        json.dumps(
            {
                "training_targets": len(known),
                "kinds_of_training_targets": len(kinds),
                "questions": len(asked),
                "questions_for_a_kind_in_training": share(
                    [kind(*each) in kinds for each in asked]
                ),
                "conditions_in_training": len(table),
                "conditions_with_one_prototype": sum(
                    len(prototypes) == 1 for prototypes in table.values()
                ),
                "right_prototype_by_lookup": share(right),
            },
            indent=2,
        )
    )


def targets(dataset: datasets.Dataset, split: str, per_group: int | None) -> np.ndarray:
    """Most stable polymorphs: once for each group, or once for each question."""
    found = pairs.lowest_energy_pairs(
        group=dataset.group,
        energy=dataset.formation_energy,
        indices=dataset.indices(split),
        seed=0,
        pairs_per_group=per_group,
    )
    return found[:, 1]


def describe(dataset: datasets.Dataset, index: int) -> tuple[tuple, str]:
    """What a question says of its target, and the target's prototype."""
    numbers = datasets.crystal(dataset, int(index)).atomic_numbers
    condition = (
        elements.anonymous_formula(numbers),
        len(numbers),
        int(dataset.space_group[index]),
    )
    return condition, dataset.id[int(index)].as_py().partition(":")[0]


def kind(condition: tuple, prototype: str) -> tuple[str, int]:
    """Prototype and space group."""
    return prototype, condition[2]


def share(flags: list[bool]) -> float:
    """Of the flags that are set."""
    return round(float(np.mean(flags)), 4)


if __name__ == "__main__":
    main()
