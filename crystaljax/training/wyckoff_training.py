"""Trains the networks of groups and positions; they are small and overfit soon.

After each epoch they are measured on held-out structures, and the best are kept.
"""

import collections
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm

from crystaljax.data import dataset as datasets
from crystaljax.data import orbit_table
from crystaljax.models import (
    prototype_library,
    prototype_structures,
    scaling,
    wyckoff_model,
)
from crystaljax.models.networks import wyckoff_networks
from crystaljax.system import errors

_BATCH_SIZE = 512
_LEARNING_RATE = 2e-3
_WEIGHT_DECAY = 1e-2
# Of the learning rate, where networks are trained further.
_FURTHER = 0.1


@dataclasses.dataclass(frozen=True)
class Settings:
    """How long and how large.

    Attributes:
        num_epochs: of each network.
        num_networks: of positions, whose probabilities are averaged.
        width: of the networks.
        seed: of initial parameters, dropout and order.
    """

    num_epochs: int = 12
    num_networks: int = 2
    width: int = 128
    seed: int = 0


Example = prototype_library.Example
LogFn = Callable[[dict[str, Any]], None]


def examples_of(
    dataset: datasets.Dataset,
    table: orbit_table.OrbitTable,
    indices: np.ndarray,
    energy_mean: float,
    energy_scale: float,
) -> list[Example]:
    """Questions with their answers; structures without orbits are left out."""
    examples = []
    for index in _with_orbits(table, indices):
        crystal = table.crystal(index)
        sites = slice(dataset.offsets[index], dataset.offsets[index + 1])
        energy = (float(dataset.formation_energy[index]) - energy_mean) / energy_scale
        question = prototype_library.question_of(
            np.asarray(dataset.atomic_numbers[sites]),
            energy,
            crystal.space_group,
            int(table.num_cells[index]),
        )
        examples.append((question, wyckoff_model.assignment_of(crystal)))
    return examples


def _with_orbits(table: orbit_table.OrbitTable, indices: np.ndarray) -> list[int]:
    return indices[table.space_group[indices] > 0].tolist()


def prototype_structures_of(
    library: prototype_library.Library,
    dataset: datasets.Dataset,
    scale: scaling.Scaling,
    examples: Sequence[Example],
) -> prototype_structures.PrototypeStructures:
    """Structures of a library's entries, of the training split that made them."""
    table = orbit_table.open_table(dataset)
    crystals = [
        table.crystal(index) for index in _with_orbits(table, dataset.indices("train"))
    ]
    volumes = np.asarray(scale.atomic_volumes)
    return prototype_structures.build(library, examples, crystals, volumes)


def train_on(
    dataset: datasets.Dataset,
    scale: scaling.Scaling,
    settings: Settings,
    *,
    start: wyckoff_model.WyckoffModel | None = None,
    show_progress: bool = False,
) -> wyckoff_model.WyckoffModel:
    """The model of a data set's training structures.

    Args:
        dataset: with structures in the standard setting.
        scale: units of energies and atomic volumes.
        settings: how long and how large.
        start: a model to start from; what it knows is kept beside the new structures.
        show_progress: print a progress bar.

    Raises:
        UserError: the data set has no structures in the standard setting.
    """
    table = orbit_table.open_table(dataset)
    examples = {
        split: examples_of(
            dataset,
            table,
            dataset.indices(split),
            float(scale.energy_mean),
            float(scale.energy_scale),
        )
        for split in ("train", "val")
    }
    if not examples["train"]:
        raise errors.UserError(
            f"no training structure of {dataset.path} has a standard setting; see the "
            "report in its dataset.json"
        )
    with tqdm.tqdm(
        total=(settings.num_networks + 2) * settings.num_epochs,
        desc="positions",
        unit="epoch",
        disable=not show_progress,
    ) as progress:

        def log(losses: dict[str, Any]) -> None:
            progress.set_postfix(loss=f"{losses['loss']:.3f}")
            progress.update()

        model = train(
            examples["train"], examples["val"], settings, start=start, log_fn=log
        )
    library, _ = prototype_library.build_library(examples["train"])
    structures = prototype_structures_of(library, dataset, scale, examples["train"])
    if start is not None and start.structures is not None:
        # Their entries come behind the new ones, see `train`.
        structures = prototype_structures.join(
            structures, start.structures, len(library)
        )
    return dataclasses.replace(model, structures=structures)


def train(
    train_examples: Sequence[Example],
    held_out: Sequence[Example],
    settings: Settings,
    *,
    start: wyckoff_model.WyckoffModel | None = None,
    log_fn: LogFn | None = None,
) -> wyckoff_model.WyckoffModel:
    """The model of positions and groups.

    Args:
        train_examples: also the library of the model.
        held_out: to choose the epoch by; the last is taken if there are none.
        settings: how long and how large.
        start: a model whose networks are trained further, with its library behind the
            entries of the new examples.
        log_fn: gets the losses of each epoch.
    """
    library, entries = prototype_library.build_library(train_examples)
    left_out = _left_out(train_examples, held_out, entries, settings.seed)
    if start is not None:
        library = prototype_library.join(library, start.library)
    table = jnp.asarray(wyckoff_networks.position_features())

    def position_data(examples, without):
        steps = [
            step
            for (question, answer), shares in zip(examples, without, strict=True)
            for step in wyckoff_model.steps_of(question, answer, library, shares)
        ]
        if not steps:
            return None
        inputs = wyckoff_model.stack([inputs for inputs, _ in steps])
        return inputs, np.array([index for _, index in steps])

    def group_data(examples, without):
        if not examples:
            return None
        # The group is what is requested.
        questions = [
            prototype_library.Question(each.species, each.counts, each.energy)
            for each, _ in examples
        ]
        inputs = [
            wyckoff_model.group_inputs(each, library, shares)
            for each, shares in zip(questions, without, strict=True)
        ]
        answers = np.array([each.space_group for each, _ in examples])
        return wyckoff_model.stack(inputs), answers

    def energy_data(examples, without):
        if not examples:
            return None
        inputs = [
            wyckoff_model.energy_inputs(each, library, shares)
            for (each, _), shares in zip(examples, without, strict=True)
        ]
        answers = np.array([each.energy for each, _ in examples], np.float32)
        return wyckoff_model.stack(inputs), answers

    def both(data_fn):
        nothing = [None] * len(held_out)
        return data_fn(train_examples, left_out), data_fn(held_out, nothing)

    position_examples = both(position_data)
    network = wyckoff_networks.PositionNetwork(settings.width)
    position_params = []
    for number in range(settings.num_networks):
        own = dataclasses.replace(settings, seed=settings.seed + number)
        position_params.append(
            _fit(
                _Fitted(
                    network, (table,), start=start and start.position_params[number]
                ),
                position_examples,
                own,
                _named(log_fn, "positions"),
            )
        )
    group_params = _fit(
        _Fitted(
            wyckoff_networks.GroupNetwork(settings.width),
            start=start and start.group_params,
        ),
        both(group_data),
        settings,
        _named(log_fn, "groups"),
    )
    energy_params = _fit(
        _Fitted(
            wyckoff_networks.EnergyNetwork(settings.width),
            loss_fn=lambda found, wanted: optax.huber_loss(found, wanted, delta=0.2),
            start=start and start.energy_params,
        ),
        both(energy_data),
        settings,
        _named(log_fn, "energies"),
    )
    return wyckoff_model.WyckoffModel(
        library, position_params, group_params, energy_params, settings.width
    )


def _left_out(
    examples: Sequence[Example],
    held_out: Sequence[Example],
    entries: Sequence[int],
    seed: int,
) -> list[prototype_library.Shares]:
    """What the library leaves out for each example, so that it does not see its answer.

    All structures of its formula, but the structure alone as often as the formula of a
    held-out structure occurs among the examples: what is asked for later is as new.
    """
    members = collections.defaultdict(list)
    for index, (question, _) in enumerate(examples):
        members[question.formula].append(index)
    known = np.mean([each.formula in members for each, _ in held_out] or [False])
    rng = np.random.default_rng(seed)
    alone = rng.random(len(examples)) < known

    def shares(chosen: Sequence[int]) -> prototype_library.Shares:
        return prototype_library.shares_of(
            [examples[i] for i in chosen], [entries[i] for i in chosen]
        )

    of_formula = {formula: shares(chosen) for formula, chosen in members.items()}
    return [
        shares([index]) if alone[index] else of_formula[question.formula]
        for index, (question, _) in enumerate(examples)
    ]


def _named(log_fn: LogFn | None, name: str) -> LogFn | None:
    return None if log_fn is None else lambda log: log_fn({"network": name} | log)


@dataclasses.dataclass(frozen=True, eq=False)
class _Fitted:
    """A network, what it is given beside its inputs, its loss, and where it starts."""

    network: Any
    arguments: tuple[Any, ...] = ()
    loss_fn: Callable[..., Any] = optax.softmax_cross_entropy_with_integer_labels
    start: Any = None


class _Compiled(NamedTuple):
    """What is compiled to fit a network.

    Attributes:
        init_fn: parameters → state of the optimiser.
        step_fn: parameters, state, data, arguments, rows, key → the first two after a
            step, and its loss.
        loss_fn: parameters, inputs, answers, arguments → mean loss.
    """

    init_fn: Any
    step_fn: Any
    loss_fn: Any


# Networks that differ in their seed alone are compiled once.
@functools.lru_cache(maxsize=8)
def _compile(
    network: Any, loss_fn: Callable[..., Any], learning_rate: float, num_steps: int
) -> _Compiled:
    schedule = optax.cosine_decay_schedule(learning_rate, num_steps)
    optimizer = optax.adamw(schedule, weight_decay=_WEIGHT_DECAY)

    def mean_loss(params, inputs, answers, arguments, **options):
        found = network.apply(params, inputs, *arguments, **options)
        # A label that the mask forbids would rule everything else.
        return jnp.minimum(loss_fn(found, answers), 100.0).mean()

    def step(params, state, data, arguments, rows, key):
        inputs, answers = jax.tree.map(lambda a: a[rows], data)
        loss, grads = jax.value_and_grad(mean_loss)(
            params, inputs, answers, arguments, rngs={"dropout": key}
        )
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    return _Compiled(jax.jit(optimizer.init), jax.jit(step), jax.jit(mean_loss))


def _fit(
    fitted: _Fitted,
    data: tuple[Any, Any],
    settings: Settings,
    log_fn: LogFn | None,
) -> Any:
    """Parameters of the epoch with the lowest loss on the second part of ``data``.

    Where it starts from trained ones, these are among them.
    """
    num_epochs, seed = settings.num_epochs, settings.seed
    network, arguments, start = fitted.network, fitted.arguments, fitted.start
    examples, validation = data
    inputs, answers = jax.tree.map(jnp.asarray, examples)
    size = min(_BATCH_SIZE, len(answers))
    per_epoch = len(answers) // size
    if start is None:
        params = jax.jit(network.init)(
            jax.random.key(seed), jax.tree.map(lambda a: a[:1], inputs), *arguments
        )
        learning_rate = _LEARNING_RATE
    else:
        params = jax.tree.map(jnp.asarray, start)
        learning_rate = _LEARNING_RATE * _FURTHER
    compiled = _compile(network, fitted.loss_fn, learning_rate, num_epochs * per_epoch)
    state, best = compiled.init_fn(params), (np.inf, params)
    if start is not None and validation is not None:
        best = (float(compiled.loss_fn(params, *validation, arguments)), params)
    rng, key = np.random.default_rng(seed), jax.random.key(seed)
    for epoch in range(num_epochs):
        order = rng.permutation(len(answers))[: per_epoch * size]
        losses = []
        for number, rows in enumerate(order.reshape(per_epoch, size)):
            step_key = jax.random.fold_in(key, epoch * per_epoch + number)
            params, state, loss = compiled.step_fn(
                params, state, (inputs, answers), arguments, rows, step_key
            )
            losses.append(loss)
        log = {"epoch": epoch, "loss": float(np.mean(jax.device_get(losses)))}
        if validation is None:
            best = (0.0, params)
        else:
            log["validation"] = float(compiled.loss_fn(params, *validation, arguments))
            if log["validation"] < best[0]:
                best = (log["validation"], params)
        if log_fn is not None:
            log_fn(log)
    return best[1]
