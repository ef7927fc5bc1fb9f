"""What a training step of the flow on orbits works with."""

from typing import Any

import flax.struct
import jax.numpy as jnp
import optax
from jaxtyping import Array

from crystaljax.crystals import orbits
from crystaljax.models import build, initial, orbit_flow, scaling
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
        return orbit_flow.compute_loss(
            self.model,
            self.process,
            params,
            self.tables,
            conditions,
            data,
            keys,
            coordinate_weight=self.coordinate_weight,
            lattice_weight=self.lattice_weight,
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
    )
