"""What the rest of the package asks of a network."""

from crystaljax.models.networks import crystal_unet, transformer

# Both have ``encode_conditions`` and ``predict``, and ``__call__`` that does both.
Network = crystal_unet.CrystalUNet | transformer.CrystalTransformer
