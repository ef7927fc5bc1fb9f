"""Small networks for space groups and Wyckoff positions; inputs are `wyckoff_model`'s.

Both weigh what they see of composition and energy against the answers of the nearest
known structures ("votes"), and are masked to what the formula allows.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from crystaljax.crystals import space_groups, standard_groups
from crystaljax.models.networks import encoders

NUM_ROLES = 4
NUM_VOTES = 4
# Counts of sites from here on are one.
MAX_COUNT = 20
_IMPOSSIBLE = -1e9


def position_features() -> Float[np.ndarray, "231 27 features"]:
    """What is known of each Wyckoff position of each group; 0 where there is none."""
    shape = (space_groups.NUM_SPACE_GROUPS + 1, standard_groups.MAX_POSITIONS)
    table = np.zeros((*shape, 27), np.float32)
    for number in range(1, shape[0]):
        group = standard_groups.load_group(number)
        for index, position in enumerate(group.positions):
            angles = 2 * np.pi * position.offset
            table[number, index] = [
                1,
                np.log(position.multiplicity),
                position.multiplicity / len(group.rotations),
                *(np.arange(4) == position.freedom),
                *position.basis.ravel() / 2,
                *np.cos(angles),
                *np.sin(angles),
                *np.cos(2 * angles),
                index / shape[1],
                1 / len(group.positions),
            ]
    return table


class PositionNetwork(nn.Module):
    """Which Wyckoff position the species whose turn it is fills next.

    Attributes:
        width: of the hidden layers.
        dropout: of them, where there is a random key for it.
    """

    width: int = 128
    dropout: float = 0.2

    @nn.compact
    def __call__(
        self, inputs: Mapping[str, Any], table: Float[Array, "231 27 features"]
    ) -> Float[Array, "batch options"]:
        """Logits; positions that cannot be filled are out of reach.

        Where ``inputs`` have "options", (batch, options) indices of positions with -1
        where there are fewer, answers are for these alone.
        """
        drop = nn.Dropout(self.dropout, deterministic=not self.has_rng("dropout"))
        species = _describe_species(inputs)
        role = jax.nn.one_hot(inputs["role"], NUM_ROLES)
        used = inputs["used"] / 2.0
        votes = inputs["votes"]
        weighted = votes * jnp.exp(-inputs["distances"])[..., None]
        x = jnp.concatenate(
            [
                species.reshape(len(species), -1),
                jnp.einsum("br,brd->bd", role, species),
                role,
                jax.nn.one_hot(inputs["left"], MAX_COUNT + 1),
                used.reshape(len(used), -1),
                jax.nn.one_hot(inputs["space_group"], 231),
                _waves(inputs["energy"]),
                inputs["distances"],
                votes.reshape(len(votes), -1),
            ],
            axis=-1,
        )
        h = drop(nn.silu(nn.Dense(self.width)(x)))
        h = drop(h + nn.silu(nn.Dense(self.width)(h)))
        mask = inputs["mask"]
        options = jnp.broadcast_to(jnp.arange(27), mask.shape)
        if "options" in inputs:
            options = inputs["options"]
            mask = options >= 0
        rows = jnp.arange(len(h))[:, None]
        each = jnp.concatenate(
            [
                table[inputs["space_group"][:, None], options],
                jax.nn.one_hot(options, 27),
                *(part[rows, :, options] for part in (votes, used, weighted)),
            ],
            axis=-1,
        )
        q = nn.Dense(self.width)(each) + nn.Dense(self.width)(h)[:, None]
        q = nn.silu(nn.Dense(self.width // 2)(drop(nn.silu(q))))
        logits = nn.Dense(1)(q)[..., 0]
        logits += jnp.einsum(
            "bk,bpk->bp", nn.Dense(NUM_VOTES)(h), votes[rows, :, options]
        )
        return jnp.where(mask, logits, _IMPOSSIBLE)


class GroupNetwork(nn.Module):
    """Which space group a formula has at an energy; attributes as above."""

    width: int = 128
    dropout: float = 0.2

    @nn.compact
    def __call__(self, inputs: Mapping[str, Any]) -> Float[Array, "batch 231"]:
        """Logits of the numbers; groups that the formula cannot have are out of reach.

        Inputs are those of `wyckoff_model.group_inputs`.
        """
        drop = nn.Dropout(self.dropout, deterministic=not self.has_rng("dropout"))
        species = _describe_species(inputs)
        votes = jax.nn.one_hot(inputs["voted"], 231) * (inputs["voted"] > 0)[..., None]
        x = jnp.concatenate(
            [
                species.reshape(len(species), -1),
                _waves(inputs["energy"]),
                inputs["distances"],
                votes.sum(axis=1),
            ],
            axis=-1,
        )
        h = drop(nn.silu(nn.Dense(self.width)(x)))
        h = drop(h + nn.silu(nn.Dense(self.width)(h)))
        logits = nn.Dense(231)(h)
        logits += jnp.einsum("bk,bkl->bl", nn.Dense(NUM_VOTES)(h), votes)
        return jnp.where(inputs["mask"], logits, _IMPOSSIBLE)


class EnergyNetwork(nn.Module):
    """Which energy a formula has; attributes as above."""

    width: int = 128
    dropout: float = 0.2

    @nn.compact
    def __call__(self, inputs: Mapping[str, Any]) -> Float[Array, " batch"]:
        """Energies in deviations; inputs are those of `wyckoff_model.energy_inputs`."""
        drop = nn.Dropout(self.dropout, deterministic=not self.has_rng("dropout"))
        species = _describe_species(inputs)
        voted = inputs["voted_energies"]
        x = jnp.concatenate(
            [species.reshape(len(species), -1), voted, inputs["distances"]], axis=-1
        )
        h = drop(nn.silu(nn.Dense(self.width)(x)))
        h = drop(h + nn.silu(nn.Dense(self.width)(h)))
        weights = nn.softmax(nn.Dense(NUM_VOTES)(h) - inputs["distances"])
        return nn.Dense(1)(h)[:, 0] + jnp.sum(weights * voted, axis=-1)


def _describe_species(inputs: Mapping[str, Any]) -> Float[Array, "batch roles 64"]:
    table = jnp.asarray(encoders.element_features("scaled"))
    counts = jax.nn.one_hot(inputs["counts"], MAX_COUNT + 1)
    parts = [table[inputs["species"]], counts]
    return nn.silu(nn.Dense(64)(jnp.concatenate(parts, axis=-1)))


def _waves(energy: Float[Array, " batch"]) -> Float[Array, "batch 9"]:
    angles = energy[:, None] * (jnp.pi * 2.0 ** jnp.arange(-2, 2))
    return jnp.concatenate([energy[:, None], jnp.sin(angles), jnp.cos(angles)], axis=-1)
