"""Can what is known of a question tell which template is the right one?

    pip install scikit-learn
    python experiments/match_rate/template_choice.py --dataset=data/mp_20

For each held-out structure the nearest training structures of the same stoichiometry
are its templates. Boosted trees learn on the training structures (whose own formula is
left out) which relabelled templates match, from elements, sizes, energies and space
groups, and choose one for each held-out structure. That is compared with the first
template and with any of them. Leaves ablations/template_choice.json.
"""

import argparse
import json
import pathlib
import shlex
import sys

import numpy as np
from sklearn import ensemble

from crystaljax.crystals import elements, structure
from crystaljax.data import dataset as datasets
from crystaljax.data import templates
from crystaljax.matching import matcher
from crystaljax.models import scaling
from crystaljax.system import atomic_files, environment

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from match_rate import baselines  # noqa: E402

TOLERANCES = tuple(matcher.TOLERANCES[name] for name in ("literature", "paper"))
# Species of a formula that are described; further ones are not.
NUM_SPECIES = 3


def main() -> None:
    """Learns, chooses and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", type=pathlib.Path, required=True)
    parser.add_argument("--count", type=int, default=4, help="templates of each")
    args = parser.parse_args()
    dataset = datasets.open_dataset(args.dataset)
    library = templates.build_library(dataset)
    found = {
        split: collect(dataset, library, split, args.count)
        for split in ("train", "val", "test")
    }
    volumes = atomic_volumes(dataset)
    described = {
        split: describe(dataset, library, pairs, volumes)
        for split, (pairs, _) in found.items()
    }
    trees = ensemble.HistGradientBoostingClassifier(
        max_iter=400, l2_regularization=1.0, min_samples_leaf=30, random_state=0
    )
    trees.fit(described["train"], found["train"][1][:, 0])
    result = {}
    for split in ("val", "test"):
        pairs, matched = found[split]
        chance = trees.predict_proba(described[split])[:, 1]
        count = len(dataset.indices(split))
        result[split] = {
            "num_structures": count,
            "first": rates(pairs, matched, -pairs[:, 2], count),
            "chosen": rates(pairs, matched, chance, count),
            "any": rates(pairs, any_of_each(pairs, matched), -pairs[:, 2], count),
        }
    result["templates"] = args.count
    result["pairs_learned_from"] = len(found["train"][0])
    result["command"] = shlex.join(["python", *sys.argv])
    result["environment"] = environment.describe_environment()
    atomic_files.write_json(HERE / "ablations" / "template_choice.json", result)
    print(json.dumps({k: v for k, v in result.items() if k != "environment"}, indent=2))


def collect(
    dataset: datasets.Dataset, library: templates.Library, split: str, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Structures with each of their templates.

    Returns:
        pairs: (pairs, 3): structure, template, and how many are nearer.
        matched: whether the relabelled template matches, (pairs, tolerances).
    """
    pairs, answers, targets = [], [], []
    for index in dataset.indices(split).tolist():
        crystal = datasets.crystal(dataset, index)
        species, _ = templates.roles(crystal.atomic_numbers)
        near = templates.find(
            library,
            crystal.atomic_numbers,
            int(dataset.space_group[index]),
            float(dataset.formation_energy[index]),
            count,
            without_formula=elements.reduced_formula(crystal.atomic_numbers),
        )
        for place, template in enumerate(near[near >= 0].tolist()):
            pairs.append((index, template, place))
            known = datasets.crystal(dataset, template)
            answers.append(baselines.relabel(known, species))
            targets.append(crystal)
    matches = matcher.match_many(answers, targets, TOLERANCES)
    return np.array(pairs), np.asarray(matches.matched)


def atomic_volumes(dataset: datasets.Dataset) -> np.ndarray:
    """Volume of each element's atoms in the training structures, Å³."""
    train = dataset.indices("train")
    sites = structure.max_sites(structure.rows_for(int(dataset.num_sites.max())))
    numbers = datasets.gather(dataset, train, sites).atomic_numbers
    return scaling.fit_atomic_volumes(dataset.lattice[train], numbers)


def describe(
    dataset: datasets.Dataset,
    library: templates.Library,
    pairs: np.ndarray,
    volumes: np.ndarray,
) -> np.ndarray:
    """What is known of a question and of one of its templates, (pairs, features)."""
    table = element_table()
    energy = np.asarray(dataset.formation_energy, float) / library.energy_scale
    size = np.abs(np.linalg.det(np.asarray(dataset.lattice, float)))
    rows = []
    for index, template, place in pairs.tolist():
        own, theirs = (datasets.crystal(dataset, i) for i in (index, template))
        species, counts = templates.roles(own.atomic_numbers)
        others, _ = templates.roles(theirs.atomic_numbers)
        filled = [volumes[each.atomic_numbers].sum() for each in (own, theirs)]
        row = [
            place,
            int(dataset.space_group[index]),
            dataset.space_group[index] == dataset.space_group[template],
            energy[index],
            energy[template] - energy[index],
            own.num_sites,
            len(species),
            np.log(filled[0] / filled[1]),
            np.log(size[template] / filled[1]),
        ]
        for role in range(NUM_SPECIES):
            if role < len(species):
                a, b = table[species[role]], table[others[role]]
                row += [*(b - a), *np.abs(b - a), *a, counts[role]]
            else:
                row += [np.nan] * (3 * table.shape[1] + 1)
        rows.append(row)
    return np.array(rows, float)


def element_table() -> np.ndarray:
    """Properties of the elements by atomic number, and the Mendeleev number."""
    properties = elements.load_element_properties("scaled")
    properties = np.concatenate([np.zeros_like(properties[:1]), properties])
    order = elements.mendeleev_number()[:, None]
    return np.concatenate([properties, order], axis=1)


def any_of_each(pairs: np.ndarray, matched: np.ndarray) -> np.ndarray:
    """Whether one of the structure's templates matches, for each of its pairs."""
    _, number = np.unique(pairs[:, 0], return_inverse=True)
    found = np.zeros((number.max() + 1, matched.shape[1]), bool)
    np.logical_or.at(found, number, matched)
    return found[number]


def rates(
    pairs: np.ndarray, matched: np.ndarray, score: np.ndarray, count: int
) -> dict[str, float]:
    """Match rates of the template with the highest score of each structure."""
    order = np.lexsort((-score, pairs[:, 0]))
    _, first = np.unique(pairs[order, 0], return_index=True)
    share = matched[order[first]].sum(axis=0) / count
    return dict(zip(map(str, TOLERANCES), share.tolist(), strict=True))


if __name__ == "__main__":
    main()
