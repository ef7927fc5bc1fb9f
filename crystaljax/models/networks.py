"""What the rest of the package asks of a network."""

from crystaljax.models import crystal_transformer, crystal_unet

# Both have ``encode_conditions`` and ``predict``, and ``__call__`` that does both.
Network = crystal_unet.CrystalUNet | crystal_transformer.CrystalTransformer
