"""Modification by regression with the PBC loss (paper algorithms 1 and 2).

The network is given a crystal and answers with a more stable polymorph at once, so that
a sample costs one evaluation. The paper's settings: 304.8 M parameters, two weeks of
one GPU on pairs from 2.1 million AFLOW structures, match rate 0.4148 on its own split
(StructureMatcher 0.2/0.3/5).

    python -m crystaljax.train --config=configs/modify_regression.py \
        --workdir=runs/modify_regression --config.data.path=data/aflow

`:smoke` is a small network for CPUs (5.3 minutes on 2 shared cores, see
experiments/tables_1_and_2):

    python -m crystaljax.train --config=configs/modify_regression.py:smoke \
        --workdir=runs/modify_regression

`--config.loss.coordinates=boundary_l2` is the loss of the paper's A.4 to the letter.
"""

from typing import Any

from crystaljax import defaults

METHOD = {
    "process.name": "regression",
    "sampler.name": "regression",
    "sampler.num_steps": 1,
    "loss.coordinates": "pbc_l2",
    # The paper's code clips in all models but this one.
    "optimizer.gradient_clip": 0.0,
}
VARIANTS = {
    "": METHOD,
    "smoke": defaults.SMOKE | METHOD,
    "medium": defaults.MEDIUM | METHOD,
}


def get_config(variant: str = "") -> Any:
    """The paper's settings, or one of the variants.

    Raises:
        UserError: an unknown variant.
    """
    return defaults.build_config("modify_regression", "modification", VARIANTS, variant)
