"""How much estimates count where one of several draws is picked."""

import numpy as np

from crystaljax.sampling import calibration, draw_choice


def draws(error, seed=0, count=400):
    """Two draws each, of which estimates with this error tell the right one."""
    rng = np.random.default_rng(seed)
    is_right = np.eye(2, dtype=bool)[rng.integers(2, size=count)]
    asked = rng.normal(size=count)
    wrong = asked + 0.4 * rng.choice([-1, 1], count)
    energies = np.where(is_right, asked[:, None], wrong[:, None])
    energies = energies + error * rng.laplace(size=energies.shape)
    # The model of positions is right in 70 %.
    first = np.where(rng.random(count) < 0.7, is_right[:, 0], is_right[:, 1])
    probabilities = np.where(np.stack([first, ~first], axis=1), 0.7, 0.3)
    kinds = np.array([["a", "b"]] * count)
    return energies, probabilities, kinds, asked, is_right


def test_estimates_count_the_more_the_better_they_are():
    units = [calibration.best_unit(*draws(error)) for error in (0.01, 0.1, 0.5)]
    assert units[0] < units[1] < units[2]
    for error, unit in zip((0.01, 0.1), units, strict=False):
        *asked, is_right = draws(error, seed=1)
        chosen = draw_choice.choose(draw_choice.score_draws(*asked, unit))
        picked = is_right[np.arange(len(chosen)), chosen].mean()
        first = draw_choice.choose(draw_choice.score_draws(*asked, 1e6))
        assert picked > is_right[np.arange(len(first)), first].mean() + 0.1


def test_estimates_that_say_nothing_do_not_count():
    energies, *others = draws(0.1)
    noise = np.random.default_rng(2).normal(size=energies.shape)
    assert calibration.best_unit(noise, *others) >= 1


def test_what_has_no_right_draw_does_not_count():
    *asked, is_right = draws(0.1)
    assert calibration.best_unit(*asked, is_right & False) is None
    asked[0] = asked[0] * np.nan
    assert calibration.best_unit(*asked, is_right) is None
