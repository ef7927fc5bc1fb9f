"""One training step as a pure function, and many of them in one dispatch."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax.training import dynamic_scale as dynamic_scale_lib
from jax.sharding import Mesh
from jaxtyping import Array

from crystaljax import losses, parallel, processes, scaling, structure
from crystaljax.models import crystal_unet

CoordinateLoss = Callable[[Array, Array, Array], Array]


@flax.struct.dataclass
class TrainState:
    """Everything that changes in training.

    Attributes:
        step: steps taken.
        params: of the network, float32.
        opt_state: of the optimiser.
        ema_params: moving average of the parameters, or None.
        loss_scale: dynamic loss scale for float16, or None.
    """

    step: Any
    params: Any
    opt_state: Any
    ema_params: Any
    loss_scale: Any

    @property
    def sampling_params(self) -> Any:
        """The parameters that samples are made with."""
        return self.params if self.ema_params is None else self.ema_params


@dataclasses.dataclass(frozen=True, eq=False)
class Trainee:
    """What a training step works with; none of it changes.

    Attributes:
        model: the network.
        process: what it is trained to undo.
        optimizer: how gradients become updates.
        scale: units of the network.
        rows: of the sample tensor.
        coordinate_loss: (prediction, target, num_sites) → loss of one sample's
            coordinates, in the network's units.
        coordinate_weight, lattice_weight: of the two losses.
        ema_decay: of the moving average; 0 for none.
    """

    model: crystal_unet.CrystalUNet
    process: processes.Process
    optimizer: optax.GradientTransformation
    scale: scaling.Scaling
    rows: int
    coordinate_loss: CoordinateLoss
    coordinate_weight: float
    lattice_weight: float
    ema_decay: float


def init_params(model: crystal_unet.CrystalUNet, rows: int, key: Array) -> Any:
    """Fresh parameters of a network."""
    sites = structure.max_sites(rows)
    return model.init(
        key,
        jnp.zeros((1, rows, 3)),
        jnp.zeros((1,)),
        jnp.ones((1, sites), jnp.uint8),
        jnp.ones((1,), jnp.uint8),
        jnp.zeros((1,)),
        jnp.zeros((1, rows, 3)),
    )


def init_state(trainee: Trainee, key: Array) -> TrainState:
    """The state before the first step."""
    params = init_params(trainee.model, trainee.rows, key)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=trainee.optimizer.init(params),
        ema_params=jax.tree.map(jnp.copy, params) if trainee.ema_decay else None,
        loss_scale=(
            dynamic_scale_lib.DynamicScale()
            if trainee.model.dtype == jnp.float16
            else None
        ),
    )


def compute_loss(
    trainee: Trainee, params: Any, batch: structure.CrystalBatch, keys: Array
) -> tuple[Array, dict[str, Array]]:
    """Mean loss over a batch, and its parts; ``keys`` has one key per structure."""
    data = trainee.scale.encode(
        batch.frac_coords, batch.lattice, batch.num_sites, trainee.rows
    )
    source = trainee.scale.encode_cells(batch.source, batch.num_sites, trainee.rows)
    corrupted = jax.vmap(trainee.process.corrupt)(keys, data, source)
    # The network never sees anything but zeros in padding rows, here or in a sampler.
    mask = structure.row_mask(batch.num_sites, trainee.rows)
    x_t = jnp.where(mask[..., None], corrupted.x_t, 0)
    prediction: Any = trainee.model.apply(
        params,
        x_t,
        corrupted.t,
        batch.atomic_numbers,
        batch.space_group,
        trainee.scale.scale_energy(batch.energy),
        source,
    )
    coordinates = jax.vmap(trainee.coordinate_loss)(
        prediction, corrupted.target, batch.num_sites
    ).mean()
    lattice = jax.vmap(losses.lattice_l1)(prediction, corrupted.target).mean()
    loss = trainee.coordinate_weight * coordinates + trainee.lattice_weight * lattice
    return loss, {"loss_coordinates": coordinates, "loss_lattice": lattice}


def train_step(
    trainee: Trainee, state: TrainState, batch: structure.CrystalBatch, key: Array
) -> tuple[TrainState, dict[str, Array]]:
    """One step. Randomness depends on ``key`` and the step alone."""
    keys = jax.random.split(
        jax.random.fold_in(key, state.step), batch.num_sites.shape[0]
    )

    def loss_fn(params):
        return compute_loss(trainee, params, batch, keys)

    finite, loss_scale = jnp.array(True), state.loss_scale
    if loss_scale is None:
        (loss, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    else:
        gradient_fn = loss_scale.value_and_grad(loss_fn, has_aux=True)
        loss_scale, finite, (loss, metrics), grads = gradient_fn(state.params)
        metrics["loss_scale"] = loss_scale.scale
    updates, opt_state = trainee.optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    if loss_scale is not None:
        # A gradient that overflowed float16 is skipped, and the scale has been lowered.
        params, opt_state = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old),
            (params, opt_state),
            (state.params, state.opt_state),
        )
    ema_params = state.ema_params
    if ema_params is not None:
        # Early on the average follows closely, or it would remember the initialisation.
        decay = jnp.minimum(trainee.ema_decay, (1 + state.step) / (10 + state.step))
        ema_params = optax.incremental_update(params, ema_params, 1 - decay)
    norm = optax.global_norm(grads)
    if loss_scale is not None:
        # Part of how float16 finds its scale, and no reason to stop.
        metrics["skipped_steps"] = 1 - finite.astype(jnp.float32)
        norm = jnp.where(finite, norm, 0)
    metrics = {"loss": loss, "gradient_norm": norm, **metrics}
    return TrainState(
        state.step + 1, params, opt_state, ema_params, loss_scale
    ), metrics


def build_dispatch_fn(
    trainee: Trainee, mesh: Mesh
) -> Callable[..., tuple[TrainState, dict[str, Array]]]:
    """Compiles ``(state, batches, key) → (state, mean metrics)`` for many steps.

    ``batches`` has leading axes (steps, batch), the batch split over the mesh; the
    state is donated.
    """

    def dispatch(state, batches, key):
        def body(state, batch):
            return train_step(trainee, state, batch, key)

        state, metrics = jax.lax.scan(body, state, batches)
        return state, jax.tree.map(jnp.mean, metrics)

    whole = parallel.replicated(mesh)
    return jax.jit(
        dispatch,
        donate_argnums=0,
        in_shardings=(whole, parallel.batch_sharding(mesh, axis=1), whole),
        out_shardings=(whole, whole),
    )
