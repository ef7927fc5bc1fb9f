"""One training step as a pure function, and many of them in one dispatch."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.training import dynamic_scale as dynamic_scale_lib
from jax.sharding import Mesh
from jaxtyping import Array

from crystaljax.crystals import sample_tensors, structure
from crystaljax.models import initial, losses, processes, scaling
from crystaljax.models.networks import energy_estimator, interface
from crystaljax.system import sharding

# Structures of a batch for one whose energy is estimated.
_STRUCTURES_PER_ENERGY = 4

CoordinateLoss = Callable[[scaling.Scaling, Array, Array, Array], Array]

compiled_in = functools.partial(flax.struct.field, pytree_node=False)


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


@flax.struct.dataclass
class Trainee:
    """What a training step works with; none of it changes.

    Its numbers are arguments of compiled steps, all else is compiled into them: a step
    is compiled once for a network, whatever the data and the length of the training.

    Attributes:
        scale: units of the network, a `scaling.Scaling`.
        learning_rate: function of the steps taken, with numbers as a pytree.
        tables: of the network, see `interface.Network`.
        model: the network.
        process: what it is trained to undo.
        optimizer: how gradients become updates, given ``learning_rate``.
        rows: of the largest sample tensor.
        coordinate_loss: (scale, prediction, target, num_sites) → loss of one sample's
            coordinates, in the network's units.
        coordinate_weight, lattice_weight, energy_weight: of the losses; the last is
            that of the estimator of energies, where there is one.
        ema_decay: of the moving average; 0 for none.
        accumulation_steps: parts that a batch is cut into.
        template_dropout: share of structures whose templates are not shown.
    """

    scale: Any
    learning_rate: Any
    tables: Any
    model: interface.Network = compiled_in()
    process: processes.Process = compiled_in()
    optimizer: optax.GradientTransformationExtraArgs = compiled_in()
    rows: int = compiled_in()
    coordinate_loss: CoordinateLoss = compiled_in()
    coordinate_weight: float = compiled_in()
    lattice_weight: float = compiled_in()
    energy_weight: float = compiled_in()
    ema_decay: float = compiled_in()
    accumulation_steps: int = compiled_in(default=1)
    template_dropout: float = compiled_in(default=0.0)

    def init_params(self, seed: int) -> Any:
        """Fresh parameters, on the host."""
        return initial.init_params(self.model, self.rows, seed)

    def param_shapes(self) -> Any:
        """Shapes and dtypes of the parameters."""
        return initial.param_shapes(self.model, self.rows)

    def compute_loss(
        self, params: Any, batch: sample_tensors.CrystalBatch, keys: Array
    ) -> tuple[Array, dict[str, Array]]:
        """See `compute_loss`."""
        return compute_loss(self, params, batch, keys)


def init_state(trainee: Any, seed: int, mesh: Mesh, params: Any = None) -> TrainState:
    """The state before the first step, on every device.

    Args:
        trainee: what is trained.
        seed: of fresh parameters.
        mesh: devices.
        params: to start from, instead of fresh ones.
    """
    if params is None:
        params = trainee.init_params(seed)
    params = sharding.replicate(params, mesh)
    # What it needs of the trainee is compiled in.
    static = jax.tree.map(lambda _: None, trainee)
    return _compiled_state_of(mesh)(static, params)


def state_shapes(trainee: Any) -> TrainState:
    """Shapes and dtypes of the state."""
    return jax.eval_shape(
        lambda params: _state_of(trainee, params),
        trainee.param_shapes(),
    )


@functools.lru_cache(maxsize=4)
def _compiled_state_of(mesh: Mesh) -> jax.stages.Wrapped:
    whole = sharding.replicated(mesh)
    return jax.jit(_state_of, donate_argnums=1, out_shardings=whole)


def _state_of(trainee: Any, params: Any) -> TrainState:
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=trainee.optimizer.init(params),
        ema_params=jax.tree.map(jnp.copy, params) if trainee.ema_decay else None,
        loss_scale=_first_loss_scale() if trainee.model.dtype == jnp.float16 else None,
    )


def _first_loss_scale() -> dynamic_scale_lib.DynamicScale:
    start = dynamic_scale_lib.DynamicScale()
    # Of the types that a step returns, or the second dispatch would be compiled anew.
    return start.replace(
        fin_steps=jnp.asarray(start.fin_steps, jnp.int32),
        scale=jnp.asarray(start.scale, jnp.float32),
    )


def global_norm(tree: Any) -> Array:
    """Length of all arrays of a tree as one vector.

    As inner products: sums of squares compile to three times as many programs, and the
    paper's network has a thousand arrays.
    """
    return jnp.sqrt(sum(jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(tree)))


def compute_loss(
    trainee: Trainee, params: Any, batch: sample_tensors.CrystalBatch, keys: Array
) -> tuple[Array, dict[str, Array]]:
    """Mean loss over a batch, and its parts; ``keys`` has one key per structure.

    The rows of the sample tensor are those that the batch's sites fill.
    """
    rows = structure.rows_for(batch.atomic_numbers.shape[-1])
    scale, numbers = trainee.scale, batch.atomic_numbers
    data = scale.encode(
        batch.frac_coords, batch.lattice, batch.num_sites, numbers, rows
    )
    source = scale.encode_cells(batch.source, batch.num_sites, numbers, rows)
    corrupted = jax.vmap(trainee.process.corrupt)(keys, data, source)
    # The network never sees anything but zeros in padding rows, here or in a sampler.
    mask = sample_tensors.row_mask(batch.num_sites, rows)
    x_t = jnp.where(mask[..., None], corrupted.x_t, 0)
    variables = interface.variables_of(params, trainee.tables)
    prediction: Any = trainee.model.apply(
        variables,
        x_t,
        corrupted.t,
        batch.atomic_numbers,
        batch.space_group,
        scale.scale_energy(batch.energy),
        source,
        scale.encode_templates(_drop_templates(trainee, batch.templates, keys)),
        # Only networks with dropout draw from it.
        rngs={"dropout": jax.random.fold_in(keys[0], 1)},
    )
    coordinates = jax.vmap(trainee.coordinate_loss, (None, 0, 0, 0))(
        scale, prediction, corrupted.target, batch.num_sites
    ).mean()
    lattice = jax.vmap(losses.lattice_l1)(prediction, corrupted.target).mean()
    loss = trainee.coordinate_weight * coordinates + trainee.lattice_weight * lattice
    parts = {"loss_coordinates": coordinates, "loss_lattice": lattice}
    if trainee.model.estimator_depth:
        parts["loss_energy"] = _energy_loss(trainee, variables, batch, keys)
        loss += trainee.energy_weight * parts["loss_energy"]
    return loss, parts


def _energy_loss(
    trainee: Trainee, variables: Any, batch: sample_tensors.CrystalBatch, keys: Array
) -> Array:
    """Mean error of the estimated energies (Huber), in the network's unit."""
    # Some of each device's part of the batch: energies are learned in fewer steps.
    batch, keys = jax.tree.map(
        lambda array: array[::_STRUCTURES_PER_ENERGY], (batch, keys)
    )
    coords, lattice = jax.vmap(
        lambda key, *cell: energy_estimator.disturb(jax.random.fold_in(key, 4), *cell)
    )(keys, jnp.asarray(batch.frac_coords), jnp.asarray(batch.lattice))
    estimated: Any = trainee.model.apply(
        variables,
        batch.atomic_numbers,
        coords,
        lattice,
        method="estimate_energy",
        rngs={"dropout": jax.random.fold_in(keys[0], 5)},
    )
    wanted = trainee.scale.scale_energy(batch.energy)
    return optax.huber_loss(estimated, wanted, delta=0.1).mean()


def _drop_templates(
    trainee: Trainee, templates: sample_tensors.TemplateBatch | None, keys: Array
) -> sample_tensors.TemplateBatch | None:
    """Takes the templates of some structures away, so that all is learned without."""
    if templates is None or not trainee.template_dropout:
        return templates

    def draw(key):
        return jax.random.bernoulli(
            jax.random.fold_in(key, 2), trainee.template_dropout
        )

    dropped = jax.vmap(draw)(keys)

    def drop(leaf):
        return jnp.where(dropped.reshape(-1, *[1] * (leaf.ndim - 1)), 0, leaf)

    return jax.tree.map(drop, templates)


class Gradients(NamedTuple):
    """Of one step.

    Attributes:
        loss: mean over the batch.
        parts: its parts by name.
        grads: of the parameters.
        finite: whether they are, where there is a loss scale.
        loss_scale: for the next step, or None.
    """

    loss: Any
    parts: dict[str, Any]
    grads: Any
    finite: Any
    loss_scale: Any


def compute_gradients(
    trainee: Any, state: TrainState, batch: Any, keys: Array
) -> Gradients:
    """Gradients of the mean loss over a batch, part by part where it is to be cut."""

    def gradients_of(batch, keys):
        def loss_fn(params):
            return trainee.compute_loss(params, batch, keys)

        if state.loss_scale is None:
            gradient_fn = jax.value_and_grad(loss_fn, has_aux=True)
            (loss, parts), grads = gradient_fn(state.params)
            return Gradients(loss, parts, grads, jnp.array(True), None)
        gradient_fn = state.loss_scale.value_and_grad(loss_fn, has_aux=True)
        loss_scale, finite, (loss, parts), grads = gradient_fn(state.params)
        # A root is not computed again for each array that asks, with the answers of
        # all arrays behind it: XLA on CPUs would write a program that is quadratic.
        finite = jnp.sqrt(finite.astype(jnp.float32)) > 0
        return Gradients(loss, parts, grads, finite, loss_scale)

    count = trainee.accumulation_steps
    if count == 1:
        return gradients_of(batch, keys)

    def cut(array):
        # Neighbours go to different parts, so that a part lies on all devices.
        size = array.shape[0] // count
        return jnp.swapaxes(array.reshape(size, count, *array.shape[1:]), 0, 1)

    def add(total, part):
        new = gradients_of(*part)
        return Gradients(
            total.loss + new.loss / count,
            jax.tree.map(lambda a, b: a + b / count, total.parts, new.parts),
            jax.tree.map(lambda a, b: a + b / count, total.grads, new.grads),
            total.finite & new.finite,
            # All start from the same scale; one that overflowed has the lowest.
            jax.tree.map(jnp.minimum, total.loss_scale, new.loss_scale),
        ), None

    parts = jax.tree.map(cut, (batch, keys))
    shapes = jax.eval_shape(gradients_of, *jax.tree.map(lambda a: a[0], parts))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    largest = jax.tree.map(lambda leaf: _largest(leaf.dtype), shapes.loss_scale)
    start = zeros._replace(finite=jnp.array(True), loss_scale=largest)
    return jax.lax.scan(add, start, parts)[0]


def _largest(dtype):
    info = jnp.finfo if jnp.issubdtype(dtype, jnp.floating) else jnp.iinfo
    return jnp.array(info(dtype).max, dtype)


def train_step(
    trainee: Any, state: TrainState, batch: Any, key: Array
) -> tuple[TrainState, dict[str, Array]]:
    """One step. Randomness depends on ``key`` and the step alone."""
    keys = _step_keys(state, batch, key)
    return apply_gradients(
        trainee, state, compute_gradients(trainee, state, batch, keys)
    )


def _step_keys(state: TrainState, batch: Any, key: Array) -> Array:
    """One key per crystal of the batch."""
    key = jax.random.fold_in(key, state.step)
    return jax.random.split(key, jax.tree.leaves(batch)[0].shape[0])


def apply_gradients(
    trainee: Any, state: TrainState, gradients: Gradients
) -> tuple[TrainState, dict[str, Array]]:
    """The step that gradients lead to, and its metrics."""
    grads, metrics = gradients.grads, {"loss": gradients.loss, **gradients.parts}
    loss_scale, finite = gradients.loss_scale, gradients.finite
    updates, opt_state = trainee.optimizer.update(
        grads, state.opt_state, state.params, learning_rate=trainee.learning_rate
    )
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
    norm = global_norm(grads)
    if loss_scale is not None:
        # Part of how float16 finds its scale, and no reason to stop.
        metrics["skipped_steps"] = 1 - finite.astype(jnp.float32)
        metrics["loss_scale"] = loss_scale.scale
        norm = jnp.where(finite, norm, 0)
    metrics["gradient_norm"] = norm
    return TrainState(
        state.step + 1, params, opt_state, ema_params, loss_scale
    ), metrics


@dataclasses.dataclass(frozen=True, eq=False)
class Dispatch:
    """Steps, compiled when they are first called: ``(state, batches, key)``.

    ``batches`` has leading axes (steps, batch), the batch split over the mesh; the
    state is donated. Many steps are one program. One step is two, its gradients and
    their use: on CPUs that is faster for large networks, and to compile too.

    Attributes:
        trainee: with its numbers on the devices; it comes first in all that follows.
        many_fn: ``(trainee, state, batches, key)`` → state and mean metrics.
        gradients_fn: ``(trainee, state, batches of one step, key)`` → `Gradients`.
        apply_fn: ``(trainee, state, gradients)`` → state and metrics.
    """

    trainee: Any
    many_fn: Any
    gradients_fn: Any
    apply_fn: Any

    def __call__(
        self, state: TrainState, batches: Any, key: Array
    ) -> tuple[TrainState, dict[str, Array]]:
        """As many steps as there are batches; the state, and mean metrics."""
        if len(jax.tree.leaves(batches)[0]) > 1:
            return self.many_fn(self.trainee, state, batches, key)
        gradients = self.gradients_fn(self.trainee, state, batches, key)
        return self.apply_fn(self.trainee, state, gradients)


def _single_precision(leaf: Any) -> np.ndarray:
    array = np.asarray(leaf)
    is_index = np.issubdtype(array.dtype, np.integer) and array.ndim
    return array if is_index else array.astype(np.float32)


def build_dispatch_fn(trainee: Any, mesh: Mesh) -> Dispatch:
    """Training steps for all devices of a mesh.

    Steps of a network that this process has trained before are not compiled again.
    """
    numbers_on_host = jax.tree.map(_single_precision, trainee)
    return Dispatch(sharding.replicate(numbers_on_host, mesh), *_compiled_steps(mesh))


def _many_steps(trainee, state, batches, key):
    def body(state, batch):
        return train_step(trainee, state, batch, key)

    state, metrics = jax.lax.scan(body, state, batches)
    return state, jax.tree.map(jnp.mean, metrics)


def _gradients_of_one(trainee, state, batches, key):
    batch = jax.tree.map(lambda array: array[0], batches)
    return compute_gradients(trainee, state, batch, _step_keys(state, batch, key))


@functools.lru_cache(maxsize=4)
def _compiled_steps(mesh: Mesh) -> tuple[jax.stages.Wrapped, ...]:
    whole = sharding.replicated(mesh)
    inputs = (whole, whole, sharding.batch_sharding(mesh, axis=1), whole)
    return (
        jax.jit(
            _many_steps, donate_argnums=1, in_shardings=inputs, out_shardings=whole
        ),
        jax.jit(_gradients_of_one, in_shardings=inputs, out_shardings=whole),
        jax.jit(
            apply_gradients,
            donate_argnums=1,
            in_shardings=whole,
            out_shardings=whole,
        ),
    )
