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

from ml_collections import config_dict

from crystaljax import defaults

VARIANTS = ("", "smoke", "medium")


def get_config(variant: str = "") -> config_dict.ConfigDict:
    """The paper's settings, or one of the variants.

    Raises:
        ValueError: an unknown variant.
    """
    defaults.require_variant(variant, VARIANTS, "modify_regression")
    config = defaults.paper("modification")
    config.process.name = "regression"
    config.sampler.name = "regression"
    config.sampler.num_steps = 1
    config.loss.coordinates = "pbc_l2"
    # The paper's code clips in all models but this one.
    config.optimizer.gradient_clip = 0.0
    defaults.use_variant(config, variant)
    return config
