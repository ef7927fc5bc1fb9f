"""Generation with denoising diffusion, sampled by DDPM (paper algorithms 9 and 10).

The paper's settings: 304.8 M parameters, two weeks of one GPU on 2.1 million AFLOW
structures, match rate 0.8074 on its own split (StructureMatcher 0.2/0.3/5). The
training is that of configs/ddim.py to the last bit; only samples differ.

    python -m crystaljax.train --config=configs/ddpm.py --workdir=runs/ddpm \
        --config.data.path=data/aflow

`:smoke` is a small network for CPUs (5.1 minutes on 2 shared cores, see
experiments/tables_1_and_2):

    python -m crystaljax.train --config=configs/ddpm.py:smoke --workdir=runs/ddpm
"""

from typing import Any

from crystaljax import defaults

METHOD = {"sampler.name": "ddpm"}
VARIANTS = {
    "": METHOD,
    "smoke": METHOD | defaults.SMOKE,
    "medium": METHOD | defaults.MEDIUM,
}


def get_config(variant: str = "") -> Any:
    """The paper's settings, or one of the variants.

    Raises:
        UserError: an unknown variant.
    """
    return defaults.build_config("ddpm", "generation", VARIANTS, variant)
