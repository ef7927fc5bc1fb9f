"""What does the periodic loss cost in a training step?

Times the loss of the smoke network and its gradient with the plain L1 coordinate loss
and with the periodic ones. The variants take turns, so that other work on the machine
slows them alike. Takes about 2 minutes on 2 CPU cores:

    python experiments/pbc_loss/benchmark.py
"""

import argparse
import functools
import json
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np

from crystaljax import defaults
from crystaljax.crystals import sample_tensors, structure
from crystaljax.models import losses
from crystaljax.models.networks import crystal_unet

ROWS = 16
PLAIN = "plain L1"
COORDINATE_LOSSES = {
    PLAIN: losses.site_l1,
    "periodic L1": functools.partial(losses.pbc_distance, norm="l1"),
    "periodic L2": functools.partial(losses.pbc_distance, norm="l2"),
    "boundary L2": functools.partial(losses.pbc_distance, images="boundary"),
}


def build_model() -> crystal_unet.CrystalUNet:
    """The network of the smoke config."""
    return crystal_unet.CrystalUNet(
        channels=32,
        channel_multipliers=(1, 2, 4),
        num_res_blocks=1,
        norm_groups=8,
        attention_levels=(1, 2, 4, 8),
        element_properties="scaled",
        element_rows=16,
        site_features=32,
    )


def make_batch(batch_size: int) -> dict:
    """Random structures in random states of corruption."""
    rng = np.random.default_rng(0)
    sites = structure.max_sites(ROWS)
    num_sites = rng.integers(4, sites + 1, batch_size).astype(np.int32)
    mask = np.asarray(sample_tensors.site_mask(num_sites, sites))
    frac_coords = rng.uniform(size=(batch_size, sites, 3)).astype(np.float32)
    # Some coordinates lie on the boundary, as they do in crystals.
    frac_coords[rng.uniform(size=frac_coords.shape) < 0.3] = 0
    lattice = np.tile(4 * np.eye(3, dtype=np.float32), (batch_size, 1, 1))
    numbers = rng.integers(1, 100, (batch_size, sites)).astype(np.uint8)
    return {
        "x": jnp.asarray(rng.normal(size=(batch_size, ROWS, 3)).astype(np.float32)),
        "t": jnp.asarray(rng.integers(0, 1000, batch_size).astype(np.float32)),
        "atomic_numbers": jnp.asarray(np.where(mask, numbers, 0).astype(np.uint8)),
        "space_group": jnp.asarray(rng.integers(1, 231, batch_size).astype(np.uint8)),
        "energy": jnp.asarray(rng.normal(size=batch_size).astype(np.float32)),
        "target": sample_tensors.encode(frac_coords, lattice, num_sites, ROWS),
        "num_sites": jnp.asarray(num_sites),
    }


def build_step(model, coordinate_loss):
    """(params, batch) → loss and gradient, compiled."""

    def loss_fn(params, batch):
        prediction = model.apply(
            params,
            batch["x"],
            batch["t"],
            batch["atomic_numbers"],
            batch["space_group"],
            batch["energy"],
        )
        coordinates = jax.vmap(coordinate_loss)(
            prediction, batch["target"], batch["num_sites"]
        ).mean()
        lattice = jax.vmap(losses.lattice_l1)(prediction, batch["target"]).mean()
        return 0.5 * coordinates + 0.5 * lattice

    return jax.jit(jax.value_and_grad(loss_fn))


def main():
    """Measures, prints and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument(
        "--output",
        type=pathlib.Path,
        default=pathlib.Path(__file__).parent / "result.json",
    )
    args = parser.parse_args()

    model, batch = build_model(), make_batch(args.batch_size)
    inputs = [batch[k] for k in ("x", "t", "atomic_numbers", "space_group", "energy")]
    params = jax.jit(model.init)(jax.random.key(0), *[a[:1] for a in inputs])

    steps = {}
    for name, coordinate_loss in COORDINATE_LOSSES.items():
        steps[name] = build_step(model, coordinate_loss)
        start = time.perf_counter()
        loss, _ = jax.block_until_ready(steps[name](params, batch))
        seconds = time.perf_counter() - start
        print(f"{name}: compiled in {seconds:.0f} s, loss {loss:.3f}", flush=True)

    seconds = {name: [] for name in steps}
    for repeat in range(args.repeats):
        # The order rotates: no variant is always the first of a round.
        names = list(steps)
        first = repeat % len(names)
        for name in names[first:] + names[:first]:
            start = time.perf_counter()
            jax.block_until_ready(steps[name](params, batch))
            seconds[name].append(time.perf_counter() - start)

    medians = {name: float(np.median(values)) for name, values in seconds.items()}
    variants = {}
    for name, values in seconds.items():
        # Neighbours in time are compared, then the median is taken.
        ratio = float(np.median(np.array(values) / np.array(seconds[PLAIN])))
        low, high = np.percentile(values, [25, 75])
        variants[name] = {
            "median_seconds": medians[name],
            "quartile_seconds": [float(low), float(high)],
            "min_seconds": min(values),
            "ratio_of_medians": medians[name] / medians[PLAIN],
            "median_of_ratios": ratio,
        }
        print(
            f"{name}: {medians[name] * 1e3:.1f} ms ({low * 1e3:.1f}-{high * 1e3:.1f}), "
            f"ratio to plain L1 step: {medians[name] / medians[PLAIN]:.2f}"
        )
    result = {
        "device": jax.devices()[0].device_kind,
        "dtype": str(np.dtype(model.dtype)),
        "batch_size": args.batch_size,
        "rows": ROWS,
        "order": defaults.IMAGE_ORDER,
        "repeats": args.repeats,
        "jax": jax.__version__,
        "variants": variants,
    }
    args.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
