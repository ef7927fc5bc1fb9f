"""How far is the soft minimum over images from the minimum, order by order?

    python experiments/pbc_loss/order.py

prints the table beside `IMAGE_ORDER` in `crystaljax.defaults`: in one dimension, where
the two nearest images of a site lie at δ and 1 - δ (in periods).
"""

import jax
import jax.numpy as jnp
import numpy as np

from crystaljax.models import losses

ORDERS = (-8.0, -16.0, -32.0, -64.0)


def main() -> None:
    """Prints one row a question, one column an order."""
    delta = np.linspace(0, 1, 200_001)[1:-1]
    normal = np.random.default_rng(0).normal(0, 0.1, 1_000_000)
    rows = {
        "too small where 2 images are equally near": lambda k: too_small([1, 1], k),
        "too small where 8 images are equally near": lambda k: too_small([1] * 8, k),
        "too small where one image is 1.5x nearer": lambda k: too_small([1, 1.5], k),
        "|gradient| < 0.8 around 0.5, periods": lambda k: turning(delta, k),
        "mean bias (L2), uniform in the cell": lambda k: bias(delta, k),
        "mean bias (L2), normal, deviation 0.1": lambda k: bias(normal % 1, k),
    }
    print(f"{'order':<44}" + "".join(f"{order:>10.0f}" for order in ORDERS))
    for name, measure in rows.items():
        print(f"{name:<44}" + "".join(f"{text(measure(k)):>10}" for k in ORDERS))


def text(value: float) -> str:
    """Two digits; float32 resolves nothing below 1e-6."""
    return f"{value:.2g}" if value > 1e-6 else "< 1e-6"


def nearest(delta, order: float):
    """Soft minimum over the two nearest images."""
    return losses.soft_min(jnp.stack([delta, 1 - delta], -1), order, -1)


def too_small(distances: list[float], order: float) -> float:
    """Share by which the soft minimum is below the minimum."""
    found = losses.soft_min(jnp.array(distances, float), order, -1)
    return float(1 - found / min(distances))


def turning(delta: np.ndarray, order: float) -> float:
    """Width around 0.5 where the gradient turns from one image to the other."""
    slope = jax.vmap(jax.grad(lambda x: nearest(x, order)))(jnp.asarray(delta))
    return float(np.mean(np.abs(slope) < 0.8))


def bias(delta: np.ndarray, order: float) -> float:
    """Share that is missing of the mean squared distance."""
    delta = np.clip(delta, 1e-9, 1 - 1e-9)
    exact = np.minimum(delta, 1 - delta) ** 2
    return float(1 - jnp.mean(nearest(jnp.asarray(delta), order) ** 2) / exact.mean())


if __name__ == "__main__":
    main()
