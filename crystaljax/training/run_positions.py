"""The models of energies, groups and positions that a run of a model of orbits has."""

import dataclasses
import pathlib
from typing import Any

from crystaljax.data import dataset as datasets
from crystaljax.models import build, scaling, wyckoff_files, wyckoff_model
from crystaljax.system import errors, sharding
from crystaljax.training import (
    estimator_training,
    fine_tuning,
    runs,
    wyckoff_training,
)


def load_or_train(
    config: Any,
    dataset: datasets.Dataset,
    scale: Any,
    workdir: pathlib.Path,
    start: fine_tuning.Start | None,
    show_progress: bool,
) -> wyckoff_model.WyckoffModel:
    """The models of a run, from its directory; where they are not there yet, trained.

    Where there are several processes all must call this: the first one trains.

    Args:
        config: of the run.
        dataset: what they learn from.
        scale: units of the network.
        workdir: the run directory.
        start: the model that the training starts from; None without one.
        show_progress: print progress bars.

    Raises:
        UserError: the config keeps the models of another run, and none is given.
    """
    path = workdir / runs.POSITIONS
    known = None if start is None else start.positions
    if config.model.position_epochs == 0 and not path.exists():
        if known is None:
            raise errors.UserError(
                "model.position_epochs is 0, which keeps the models of groups and "
                "positions of --init; give --init=mp or a run of this kind, or a "
                "positive number"
            )
        if sharding.is_first_process():
            wyckoff_files.save(known, path)
    if sharding.is_first_process() and not path.exists():
        model = wyckoff_training.train_on(
            dataset,
            scale,
            wyckoff_training.Settings(
                num_epochs=config.model.position_epochs,
                num_networks=config.model.position_networks,
                width=config.model.position_width,
                seed=config.train.seed,
            ),
            start=None if start is None else start.positions,
            show_progress=show_progress,
        )
        wyckoff_files.save(model, path)
    if sharding.is_first_process() and config.model.estimator_depth:
        _add_estimator(config, dataset, scale, path, start, show_progress)
    sharding.wait_for_all("positions")
    return wyckoff_files.load(path, runs.REMEDY)


def _add_estimator(
    config: Any,
    dataset: datasets.Dataset,
    scale: scaling.Scaling,
    path: pathlib.Path,
    start: fine_tuning.Start | None,
    show_progress: bool,
) -> None:
    """Trains the estimator of a model of orbits where the file has none yet."""
    model = wyckoff_files.load(path, runs.REMEDY)
    if model.estimator is not None:
        return
    known = start and start.positions and start.positions.estimator
    estimator = estimator_training.train_on(
        dataset,
        scale,
        estimator_training.Settings(
            depth=config.model.estimator_depth,
            num_epochs=config.model.estimator_epochs,
            max_sites=max(sites for _, sites in build.orbit_shapes(config)),
            seed=config.train.seed,
        ),
        start=known or None,
        show_progress=show_progress,
    )
    wyckoff_files.save(dataclasses.replace(model, estimator=estimator), path)
