"""Generation by the recipe with the highest match rates here, not one of the paper's.

Flow matching on the torus with a transformer over the sites. What each part gains is in
experiments/match_rate; in short:

* A token per site that carries its element and its place in the formula, and attention
  over all pairs by the harmonics of their difference: the paper's UNet has the elements
  in one vector for the whole crystal, and convolves over neighbours in the list.
* Sites start anywhere in the cell and take the shortest way across its faces. The
  network answers with where they end, as points on circles, and is trained on squared
  errors: where two crystals are possible, such an answer points to the likelier one,
  while an error in the coordinates themselves pulls to what lies between, or does not
  pull at all.
* Times crowd at the start, where it is decided which crystal it shall be.
* Lattices are relative to the size that the atoms would fill, so that what is left to
  learn is their shape.
* Data sets are written with species in the order of their Mendeleev numbers
  (`prepare --origin=mendeleev`, the default), so that crystals of one prototype are
  alike whatever their elements are called.
* Samples that are of the asked-for space group within 1 Å are made to be of it.
* Eight crystals are made for each sample, and the one that fits best is handed over: it
  has the space group, and by an estimator, which is trained beside the network, the
  energy that was asked for. Which of two decorations or polymorphs has an energy is
  learned better this way round. `--draws=1` takes the first, at an eighth of the
  cost.

`:smoke` is a small network (3.3 M parameters) for CPUs, in minutes to an hour:

    python -m crystaljax.train --config=configs/best.py:smoke --workdir=runs/best

Crystals of up to 20 sites need `--config.data.rows=24
--config.data.row_buckets="(8,16)"`. Without a variant it is one for a GPU and all
sizes, which has not been trained yet:

    python -m crystaljax.train --config=configs/best.py --config.data.path=data/aflow

`--config.data.num_templates=4` shows the network the nearest training structures of the
same stoichiometry with each question: better where there are many prototypes (72 % of
mp_20's binaries and ternaries instead of 58 % after 2,500 steps), and worse where there
is one (perov_5). `--config.model.dropout=0.1 --config.optimizer.weight_decay=0.1`
changed nothing beyond the error bar on three small data sets.
"""

from typing import Any

from crystaljax import defaults

RECIPE = {
    "data.coordinates": "unit",
    "data.lattice": "relative",
    "process.name": "flow_matching",
    "process.start": "torus",
    "process.answer": "direction",
    "process.time_power": 2.0,
    "sampler.name": "euler",
    "sampler.num_steps": 10,
    "sampler.project": 1.0,
    "sampler.draws": 8,
    "model.network": "transformer",
    "model.time_scale": 1000.0,
    "model.estimator_depth": 3,
    "loss.coordinates": "squares",
    "loss.coordinate_weight": 0.5,
    "loss.lattice_weight": 0.1,
}
VARIANTS = {
    "": defaults.MEDIUM
    | RECIPE
    | {
        "data.row_buckets": (16, 24, 32),
        "model.width": 384,
        "model.depth": 12,
        "model.num_heads": 6,
        "model.pair_features": 32,
        "optimizer.learning_rate": 3e-4,
    },
    "smoke": defaults.SMOKE | RECIPE | {"train.ema_decay": 0.999},
}


def get_config(variant: str = "") -> Any:
    """The recipe for one GPU, or one of the variants.

    Raises:
        UserError: an unknown variant.
    """
    return defaults.build_config("best", "generation", VARIANTS, variant)
