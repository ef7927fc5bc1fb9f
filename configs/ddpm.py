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

from ml_collections import config_dict

from crystaljax import defaults

VARIANTS = ("", "smoke", "medium")


def get_config(variant: str = "") -> config_dict.ConfigDict:
    """The paper's settings, or one of the variants.

    Raises:
        ValueError: an unknown variant.
    """
    defaults.require_variant(variant, VARIANTS, "ddpm")
    config = defaults.paper("generation")
    config.sampler.name = "ddpm"
    defaults.use_variant(config, variant)
    return config
