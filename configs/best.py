"""best (being written)."""

from ml_collections import config_dict

from crystaljax import defaults

VARIANTS = ("", "smoke")


def get_config(variant: str = "") -> config_dict.ConfigDict:
    """The recipe for one GPU, or one of the variants.

    Raises:
        ValueError: an unknown variant.
    """
    defaults.require_variant(variant, VARIANTS, "best")
    config = defaults.paper("generation")
    defaults.use_smoke_settings(config)
    config.data.coordinates = "unit"
    config.data.lattice = "relative"
    config.process.name = "flow_matching"
    config.process.start = "torus"
    config.process.answer = "direction"
    config.process.time_power = 2.0
    config.sampler.name = "euler"
    config.sampler.num_steps = 10
    config.model.network = "transformer"
    config.model.time_scale = 1000.0
    config.loss.coordinates = "squares"
    config.loss.coordinate_weight = 0.5
    config.loss.lattice_weight = 0.1
    config.train.ema_decay = 0.999
    return config
