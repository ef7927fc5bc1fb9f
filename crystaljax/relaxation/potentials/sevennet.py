"""SevenNet potentials under XLA.

Y. Park et al., J. Chem. Theory Comput. 20, 4857 (2024). Weights come from checkpoints
of the package sevenn, which is not imported and brings PyTorch.
"""

import os

from crystaljax.relaxation.potentials import potential
from crystaljax.relaxation.potentials.nequip import (
    batch_potential,
    network,
    sevennet_checkpoints,
)

PRETRAINED = tuple(sevennet_checkpoints.PRETRAINED)
find_pretrained = sevennet_checkpoints.find_pretrained


def supports(path: str | os.PathLike[str]) -> bool:
    """Whether a checkpoint is of a kind that ``build`` takes.

    Raises:
        ValueError: the file is damaged or no checkpoint of SevenNet.
        OSError: it cannot be read.
    """
    try:
        sevennet_checkpoints.load(path)
    except network.AnotherKindError:
        return False
    return True


def build(path: str | os.PathLike[str]) -> potential.Potential:
    """The potential in a checkpoint, for batches of crystals on the device.

    Raises:
        ValueError: the file is no checkpoint that is understood, see
            `sevennet_checkpoints.load`.
        OSError: it cannot be read.
    """
    return batch_potential.build(sevennet_checkpoints.load(path))
