"""Losses, schedule, process and the DDIM sampler, against oracles."""

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from crystaljax import losses, processes, samplers, schedules, structure

SCHEDULE = schedules.build_cosine_schedule(1000)


def diffusers_scheduler():
    return diffusers.DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing="leading",
    )


# ------------------------------------------------------------------------------ losses
def test_losses_by_hand():
    prediction, target = np.zeros((2, 16, 3), np.float32)
    target[0] = [1, -2, 3]
    target[1] = [0.5, 0, 0]
    target[5] = 100  # padding: must not count
    target[13:] = 2
    prediction, target = jnp.asarray(prediction), jnp.asarray(target)
    assert losses.site_l1(prediction, target, jnp.int32(2)) == pytest.approx(6.5 / 2)
    assert losses.lattice_l1(prediction, target) == pytest.approx(6.0)


def test_losses_vmapped_are_the_losses_of_each_sample():
    rng = np.random.default_rng(0)
    prediction, target = rng.normal(size=(2, 4, 16, 3)).astype(np.float32)
    num_sites = jnp.array([1, 3, 7, 12])
    batched = jax.vmap(losses.site_l1)(prediction, target, num_sites)
    for i in range(4):
        expected = np.abs(prediction - target)[i, : num_sites[i]].sum() / num_sites[i]
        assert batched[i] == pytest.approx(float(expected), rel=1e-5)


# --------------------------------------------------------------------- schedule, times
def test_schedule_is_that_of_diffusers():
    np.testing.assert_allclose(
        SCHEDULE.alphas_cumprod, diffusers_scheduler().alphas_cumprod, atol=1e-6
    )


def test_schedule_runs_from_data_to_noise():
    assert SCHEDULE.alphas_cumprod[0] > 0.999
    assert SCHEDULE.alphas_cumprod[-1] < 1e-4
    assert np.all(np.diff(SCHEDULE.alphas_cumprod) < 0)


@pytest.mark.parametrize("num_steps", [1, 7, 50, 100, 1000])
def test_times_are_those_of_diffusers(num_steps):
    scheduler = diffusers_scheduler()
    scheduler.set_timesteps(num_steps)
    np.testing.assert_array_equal(
        schedules.leading_times(1000, num_steps), scheduler.timesteps
    )


@pytest.mark.parametrize("num_steps", [0, 1001])
def test_impossible_number_of_steps_is_refused(num_steps):
    with pytest.raises(ValueError, match=str(num_steps)):
        schedules.leading_times(1000, num_steps)


# ----------------------------------------------------------------------------- process
def test_corruption_mixes_data_and_noise_as_its_time_says():
    data = jax.random.normal(jax.random.key(0), (16, 3))
    process = processes.Diffusion(SCHEDULE)
    corrupted = jax.vmap(process.corrupt, (0, None))(
        jax.random.split(jax.random.key(1), 100), data
    )
    times = np.asarray(corrupted.t)
    assert times.min() >= 0 and times.max() <= 999 and len(np.unique(times)) > 80
    alpha_bar = SCHEDULE.alphas_cumprod[times.astype(int)][:, None, None]
    np.testing.assert_allclose(
        corrupted.x_t,
        np.sqrt(alpha_bar) * data + np.sqrt(1 - alpha_bar) * corrupted.target,
        atol=1e-5,
    )
    assert np.std(corrupted.target) == pytest.approx(1, abs=0.05)


# ----------------------------------------------------------------------------- sampler
def predict_something(x, t):
    """Any smooth function of x and t will do to compare two samplers."""
    return jnp.tanh(x * 0.7 + 0.3 * jnp.cos(t / 100.0)[:, None, None])


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("num_steps", [10, 100])
def test_ddim_is_that_of_diffusers_step_by_step(eta, num_steps):
    keys = jax.random.split(jax.random.key(0), 4)
    noise = samplers.sample_noise(keys, 16)
    seen = []

    def predict(x, t):
        jax.debug.callback(lambda x: seen.append(np.asarray(x)), x, ordered=True)
        return predict_something(x, t)

    ours = samplers.sample_ddim(
        predict, noise, keys, schedule=SCHEDULE, num_steps=num_steps, eta=eta
    )
    jax.effects_barrier()
    scheduler = diffusers_scheduler()
    scheduler.set_timesteps(num_steps)
    x = torch.from_numpy(np.array(noise))
    for i, t in enumerate(scheduler.timesteps):
        np.testing.assert_allclose(seen[i], x, atol=1e-5, rtol=1e-4)
        model_output = predict_something(x.numpy(), jnp.full(4, float(t)))
        step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, i)
        x = scheduler.step(
            torch.from_numpy(np.array(model_output)),
            int(t),
            x,
            eta=eta,
            variance_noise=torch.from_numpy(
                np.array(samplers.sample_noise(step_keys, 16))
            ),
        ).prev_sample
    np.testing.assert_allclose(ours, x, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_ddim_turns_noise_into_a_gaussian_it_knows(eta):
    mean, deviation = 1.5, 0.4

    def exact_noise(x, t):
        alpha_bar = jnp.asarray(SCHEDULE.alphas_cumprod)[t.astype(int)][:, None, None]
        variance = alpha_bar * deviation**2 + 1 - alpha_bar
        return jnp.sqrt(1 - alpha_bar) * (x - jnp.sqrt(alpha_bar) * mean) / variance

    keys = jax.random.split(jax.random.key(0), 500)
    x = samplers.sample_ddim(
        exact_noise,
        samplers.sample_noise(keys, 16),
        keys,
        schedule=SCHEDULE,
        num_steps=500,
        eta=eta,
    )
    # 24,000 numbers: the standard error of mean and deviation is below 0.003.
    assert np.mean(x) == pytest.approx(mean, abs=0.02)
    assert np.std(x) == pytest.approx(deviation, abs=0.02)


def test_masked_rows_are_zero_at_every_evaluation():
    keys = jax.random.split(jax.random.key(0), 2)
    mask = structure.row_mask(jnp.array([3, 12]), 16)

    def predict(x, t):
        jax.debug.callback(check, x)
        return predict_something(x, t)

    def check(x):
        np.testing.assert_array_equal(x[0, 3:13], 0)

    x = samplers.sample_ddim(
        predict,
        samplers.sample_noise(keys, 16),
        keys,
        schedule=SCHEDULE,
        num_steps=5,
        eta=0.5,
        mask=mask,
    )
    jax.effects_barrier()
    check(np.asarray(x))
    free = np.asarray(mask[1])
    assert np.all(np.abs(np.asarray(x)[1, free]).sum(-1) > 0)


def test_eta_out_of_range_is_refused():
    keys = jax.random.split(jax.random.key(0), 1)
    with pytest.raises(ValueError, match="eta is 2"):
        samplers.sample_ddim(
            predict_something,
            samplers.sample_noise(keys, 16),
            keys,
            schedule=SCHEDULE,
            num_steps=5,
            eta=2.0,
        )
