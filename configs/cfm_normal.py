"""Generation with flow matching from normal noise (paper algorithms 5 and 6).

The paper's settings: 304.8 M parameters, two weeks of one GPU on 2.1 million AFLOW
structures, match rate 0.482 on its own split (StructureMatcher 0.2/0.3/5).

    python -m crystaljax.train --config=configs/cfm_normal.py \
        --workdir=runs/cfm_normal --config.data.path=data/aflow

`:smoke` is a small network for CPUs (5.4 minutes on 2 shared cores, see
experiments/tables_1_and_2):

    python -m crystaljax.train --config=configs/cfm_normal.py:smoke \
        --workdir=runs/cfm_normal
"""

from typing import Any

from crystaljax import defaults

METHOD = {
    "process.name": "flow_matching",
    "process.start": "normal",
    "sampler.name": "euler",
}
# Networks take times from 0 to 1 as diffusion's, from 0 to 1000.
TIMES = {"model.time_scale": 1000.0}
VARIANTS = {
    "": METHOD,
    "smoke": METHOD | defaults.SMOKE | TIMES,
    "medium": METHOD | defaults.MEDIUM | TIMES,
}


def get_config(variant: str = "") -> Any:
    """The paper's settings, or one of the variants.

    Raises:
        UserError: an unknown variant.
    """
    return defaults.build_config("cfm_normal", "generation", VARIANTS, variant)
