"""What a training step of the flow on orbits works with."""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from crystaljax.crystals import elements, orbits
from crystaljax.models import build, initial, orbit_flow, scaling
from crystaljax.models.networks import orbit_transformer
from crystaljax.training import build as build_training
from crystaljax.training import orbit_batches, train_step


@flax.struct.dataclass
class OrbitTrainee:
    """As `train_step.Trainee`, for crystals as orbits.

    Attributes:
        scale: units of the network, a `scaling.Scaling`.
        learning_rate: function of the steps taken, with numbers as a pytree.
        tables: `orbits.OrbitTables`.
        model: the network, an `orbit_transformer.OrbitTransformer`.
        process: what it is trained to undo.
        optimizer: how gradients become updates, given ``learning_rate``.
        coordinate_weight, lattice_weight: of the losses.
        ema_decay: of the moving average; 0 for none.
        accumulation_steps: parts that a batch is cut into.
        substitution: share of species shown to the network as one of their neighbours.
        energy_noise: deviation of what is added to energies, in the network's unit.
    """

    scale: Any
    learning_rate: Any
    tables: Any
    model: Any = train_step.compiled_in()
    process: Any = train_step.compiled_in()
    optimizer: optax.GradientTransformationExtraArgs = train_step.compiled_in()
    coordinate_weight: float = train_step.compiled_in()
    lattice_weight: float = train_step.compiled_in()
    ema_decay: float = train_step.compiled_in()
    accumulation_steps: int = train_step.compiled_in(default=1)
    substitution: float = train_step.compiled_in(default=0.0)
    energy_noise: float = train_step.compiled_in(default=0.0)

    def init_params(self, seed: int) -> Any:
        """Fresh parameters, on the host."""
        return initial.init_params(self.model, 0, seed)

    def param_shapes(self) -> Any:
        """Shapes and dtypes of the parameters."""
        return initial.param_shapes(self.model, 0)

    def compute_loss(
        self, params: Any, batch: orbit_batches.OrbitExamples, keys: Array
    ) -> tuple[Array, dict[str, Array]]:
        """Mean loss over a batch, and its parts."""
        conditions = batch.conditions(self.scale)
        data = orbit_flow.encode(
            self.scale,
            self.tables,
            conditions,
            jnp.asarray(batch.batch.parameters),
            jnp.asarray(batch.batch.strain),
        )
        shown = vary_conditions(conditions, keys, self.substitution, self.energy_noise)
        return orbit_flow.compute_loss(
            self.model,
            self.process,
            params,
            self.tables,
            shown,
            data,
            keys,
            coordinate_weight=self.coordinate_weight,
            lattice_weight=self.lattice_weight,
        )


# Neighbours in the order of Mendeleev numbers that may stand for an element.
_REACH = 2


def vary_conditions(
    conditions: orbit_transformer.OrbitConditions,
    keys: Array,
    substitution: float,
    energy_noise: float,
) -> orbit_transformer.OrbitConditions:
    """Conditions with some species replaced by similar ones, and energies moved.

    Crystals of one prototype differ so: without it the network tells its training
    structures by their elements and energies, and learns each by heart.

    Args:
        conditions: of a batch.
        keys: (batch,).
        substitution: share of species that are replaced by one of the elements next to
            them in the order of Mendeleev numbers.
        energy_noise: standard deviation, in the network's unit.
    """
    if not substitution and not energy_noise:
        return conditions
    ranks = elements.mendeleev_number().astype(int)
    ordered = np.argsort(ranks[1:], kind="stable") + 1
    place = np.zeros(len(ranks), int)
    place[ordered] = np.arange(len(ordered))
    numbers = jnp.asarray(conditions.atomic_numbers).astype(jnp.int32)
    same = numbers[:, :, None] == numbers[:, None]

    def draw(key):
        # Not what the process draws from.
        keys = jax.random.split(jax.random.fold_in(key, 2), 4)
        step_key, sign_key, share_key, energy_key = keys
        steps = jax.random.randint(step_key, place.shape, 1, _REACH + 1)
        signs = jnp.where(jax.random.bernoulli(sign_key, 0.5, place.shape), 1, -1)
        is_other = jax.random.bernoulli(share_key, substitution, place.shape)
        return steps * signs * is_other, jax.random.normal(energy_key)

    moves, noise = jax.vmap(draw)(keys)
    moved = jnp.asarray(place)[numbers] + jnp.take_along_axis(moves, numbers, axis=1)
    moved = jnp.clip(moved, 0, len(ordered) - 1)
    others = jnp.where(numbers > 0, jnp.asarray(ordered)[moved], 0)
    # Two species that became one are none of the crystal's.
    is_kept = (same == (others[:, :, None] == others[:, None])).all(axis=(1, 2))
    return dataclasses.replace(
        conditions,
        atomic_numbers=jnp.where(is_kept[:, None], others, numbers),
        energy=conditions.energy + energy_noise * noise,
    )


def build_trainee(config: Any, scale: scaling.Scaling, num_steps: int) -> OrbitTrainee:
    """All that a training step works with; see `build.build_trainee`."""
    build_training.require_accumulation(config)
    return OrbitTrainee(
        scale=scale,
        learning_rate=build_training.build_learning_rate(config, num_steps),
        tables=orbits.load_tables(),
        model=build.build_model(config),
        process=build.build_process(config),
        optimizer=build_training.build_optimizer(config),
        coordinate_weight=config.loss.coordinate_weight,
        lattice_weight=config.loss.lattice_weight,
        ema_decay=config.train.ema_decay,
        accumulation_steps=config.train.accumulation_steps,
        substitution=config.train.substitution,
        energy_noise=config.train.energy_noise,
    )
