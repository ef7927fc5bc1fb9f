"""Schedule, processes and samplers, against oracles and known answers."""

import dataclasses
import functools

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from crystaljax.crystals import sample_tensors
from crystaljax.models import processes, samplers, schedules

SCHEDULE = schedules.build_cosine_schedule(1000)


def diffusers_scheduler():
    return diffusers.DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing="leading",
    )


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


@pytest.mark.parametrize("num_steps", [1, 2, 10, 50, 400, 990])
def test_times_at_equal_steps_of_the_signal_to_noise_ratio(num_steps):
    times = schedules.log_snr_times(SCHEDULE, num_steps)
    assert len(times) == num_steps
    assert times[0] == 990 or num_steps == 990
    assert np.all(np.diff(times) < 0) and times.min() >= 0
    if 1 < num_steps <= 10:
        assert times[-1] == 0
        alpha_bar = SCHEDULE.alphas_cumprod[times]
        steps = np.diff(np.log(alpha_bar / (1 - alpha_bar)))
        # But for the rounding to whole times, which are sparse near the data.
        assert steps.max() < 1.6 * steps.min()


@pytest.mark.parametrize("num_steps", [0, 991])
def test_more_steps_than_times_are_refused(num_steps):
    with pytest.raises(ValueError, match=str(num_steps)):
        schedules.log_snr_times(SCHEDULE, num_steps)


# ----------------------------------------------------------------------------- process
def corrupt_many(process, keys, data):
    """One sample with many keys, as arrays of the host."""
    return jax.device_get(jax.jit(jax.vmap(process.corrupt, (0, None)))(keys, data))


def test_corruption_mixes_data_and_noise_as_its_time_says():
    data = jax.random.normal(jax.random.key(0), (16, 3))
    process = processes.Diffusion(SCHEDULE)
    corrupted = corrupt_many(process, jax.random.split(jax.random.key(1), 100), data)
    times = np.asarray(corrupted.t)
    assert times.min() >= 0 and times.max() <= 999 and len(np.unique(times)) > 80
    alpha_bar = SCHEDULE.alphas_cumprod[times.astype(int)][:, None, None]
    np.testing.assert_allclose(
        corrupted.x_t,
        np.sqrt(alpha_bar) * data + np.sqrt(1 - alpha_bar) * corrupted.target,
        atol=1e-5,
    )
    assert np.std(corrupted.target) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    "noise_fn,low,high",
    [
        (jax.random.normal, -np.inf, np.inf),
        (lambda key, shape: jax.random.uniform(key, shape, minval=-1), -1, 1),
    ],
)
def test_flow_matching_draws_straight_paths_from_noise_to_data(noise_fn, low, high):
    data = jnp.full((16, 3), 5.0)
    process = processes.FlowMatching(noise_fn)
    keys = jax.random.split(jax.random.key(1), 2000)
    x_t, t, velocity = corrupt_many(process, keys, data)
    assert 0 <= t.min() < 0.01 and 0.99 < t.max() <= 1
    t = t[:, None, None]
    np.testing.assert_allclose(x_t + (1 - t) * velocity, 5, atol=1e-5)
    start = x_t - t * velocity
    assert low - 1e-5 <= start.min() and start.max() <= high + 1e-5
    # Different starts for different keys, and independent of the time.
    assert np.std(start.mean((1, 2))) > 0.05
    assert abs(np.corrcoef(start[:, 0, 0], t[:, 0, 0])[0, 1]) < 0.1


def test_flow_matching_from_a_source_starts_there():
    source, data = jax.random.normal(jax.random.key(0), (2, 16, 3))
    corrupted = processes.FlowMatching(None).corrupt(jax.random.key(1), data, source)
    np.testing.assert_allclose(corrupted.target, data - source)
    np.testing.assert_allclose(
        corrupted.x_t, source + corrupted.t * (data - source), atol=1e-6
    )


def test_regression_is_asked_for_the_data_at_time_0():
    source, data = jax.random.normal(jax.random.key(0), (2, 16, 3))
    x_t, t, target = processes.Regression().corrupt(jax.random.key(1), data, source)
    np.testing.assert_array_equal(x_t, source)
    np.testing.assert_array_equal(target, data)
    assert t == 0


@pytest.mark.parametrize(
    "process", [processes.FlowMatching(None), processes.Regression()]
)
def test_processes_that_need_a_source_say_so(process):
    with pytest.raises(ValueError, match="source crystal"):
        process.corrupt(jax.random.key(0), jnp.zeros((16, 3)), None)


# ----------------------------------------------------------------------------- sampler
@functools.partial(jax.jit, static_argnums=2)
def noise_of_step(keys, i, rows):
    """What a sampler draws in a step."""
    step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, i)
    return samplers.sample_noise(step_keys, rows)


@jax.jit
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
        x = scheduler.step(
            torch.from_numpy(np.array(model_output)),
            int(t),
            x,
            eta=eta,
            variance_noise=torch.from_numpy(np.array(noise_of_step(keys, i, 16))),
        ).prev_sample
    np.testing.assert_allclose(ours, x, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("num_steps", [10, 100])
def test_ddpm_is_that_of_diffusers_step_by_step(num_steps, monkeypatch):
    keys = jax.random.split(jax.random.key(0), 2)
    noise = samplers.sample_noise(keys, 8)
    ours = samplers.sample_ddpm(
        predict_something, noise, keys, schedule=SCHEDULE, num_steps=num_steps
    )
    scheduler = diffusers.DDPMScheduler(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        variance_type="fixed_small",
        clip_sample=False,
        timestep_spacing="leading",
    )
    scheduler.set_timesteps(num_steps)
    x = torch.from_numpy(np.array(noise))
    for i, t in enumerate(scheduler.timesteps):
        # diffusers draws its noise itself: hand it ours.
        step_noise = torch.from_numpy(np.array(noise_of_step(keys, i, 8)))
        monkeypatch.setattr(
            "diffusers.schedulers.scheduling_ddpm.randn_tensor",
            lambda *_, noise=step_noise, **__: noise,
        )
        model_output = predict_something(x.numpy(), jnp.full(2, float(t)))
        x = scheduler.step(
            torch.from_numpy(np.array(model_output)), int(t), x
        ).prev_sample
    np.testing.assert_allclose(ours, x, atol=1e-5, rtol=1e-3)


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


@pytest.mark.parametrize("num_steps", [1, 7, 100])
def test_euler_on_a_linear_field_is_its_closed_form(num_steps):
    start = jax.random.normal(jax.random.key(0), (4, 16, 3))
    rate = -1.7
    x = samplers.sample_euler(lambda x, _: rate * x, start, num_steps=num_steps)
    np.testing.assert_allclose(
        x, start * (1 + rate / num_steps) ** num_steps, rtol=1e-4, atol=1e-6
    )


def test_euler_converges_to_the_solution_with_order_one():
    start = jax.random.normal(jax.random.key(0), (2, 16, 3))

    def error(num_steps):
        x = samplers.sample_euler(lambda x, _: -x, start, num_steps=num_steps)
        return np.abs(x - start * np.exp(-1)).max()

    assert error(50) / error(100) == pytest.approx(2, rel=0.05)


@pytest.mark.parametrize("num_steps", [1, 4, 10])
def test_euler_evaluates_from_the_start_at_equal_intervals(num_steps):
    x = samplers.sample_euler(
        lambda x, t: jnp.broadcast_to(t[:, None, None], x.shape),
        jnp.zeros((1, 8, 3)),
        num_steps=num_steps,
    )
    # The sum of 0, 1/n, …, (n-1)/n over n.
    np.testing.assert_allclose(x, (num_steps - 1) / (2 * num_steps), atol=1e-6)


def test_euler_turns_noise_into_a_gaussian_it_knows():
    mean, deviation = 1.5, 0.4

    def exact_velocity(x, t):
        t = t[:, None, None]
        variance = (t * deviation) ** 2 + (1 - t) ** 2
        # E[data - noise | x]: data and noise are jointly normal with x.
        slope = (t * deviation**2 - (1 - t)) / variance
        return mean + slope * (x - t * mean)

    keys = jax.random.split(jax.random.key(0), 500)
    x = samplers.sample_euler(
        exact_velocity, samplers.sample_noise(keys, 16), num_steps=200
    )
    assert np.mean(x) == pytest.approx(mean, abs=0.02)
    assert np.std(x) == pytest.approx(deviation, abs=0.02)


@pytest.mark.parametrize("num_steps", [5, 10, 25])
def test_dpm_solver_is_that_of_diffusers_step_by_step(num_steps):
    noise = samplers.sample_noise(jax.random.split(jax.random.key(0), 4), 16)
    ours = samplers.sample_dpm_solver(
        predict_something, noise, schedule=SCHEDULE, num_steps=num_steps
    )
    scheduler = diffusers.DPMSolverMultistepScheduler(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        algorithm_type="dpmsolver++",
        solver_order=2,
        final_sigmas_type="zero",
    )
    times = schedules.log_snr_times(SCHEDULE, num_steps)
    scheduler.set_timesteps(timesteps=times.tolist())
    x = torch.from_numpy(np.array(noise))
    for t in scheduler.timesteps:
        model_output = predict_something(x.numpy(), jnp.full(4, float(t)))
        x = scheduler.step(
            torch.from_numpy(np.array(model_output)), int(t), x
        ).prev_sample
    np.testing.assert_allclose(ours, x, atol=1e-5 * float(x.abs().max()), rtol=1e-3)


def test_dpm_solver_converges_to_where_the_flow_leads_with_order_two():
    mean, deviation = 1.5, 0.4
    # Many times, so that rounding to whole ones is nothing.
    schedule = schedules.build_cosine_schedule(20_000)
    alphas_cumprod = jnp.asarray(schedule.alphas_cumprod)
    keys = jax.random.split(jax.random.key(0), 64)
    noise = samplers.sample_noise(keys, 16)

    def exact_noise(x, t):
        alpha_bar = alphas_cumprod[t.astype(int)][:, None, None]
        variance = alpha_bar * deviation**2 + 1 - alpha_bar
        return jnp.sqrt(1 - alpha_bar) * (x - jnp.sqrt(alpha_bar) * mean) / variance

    def error(sample_fn, num_steps, first_time):
        x = sample_fn(schedule=schedule, num_steps=num_steps)
        # The flow keeps quantiles: of N(0, 1) at the first time that is evaluated.
        alpha_bar = schedule.alphas_cumprod[first_time]
        variance = alpha_bar * deviation**2 + 1 - alpha_bar
        quantiles = (np.asarray(noise) - np.sqrt(alpha_bar) * mean) / np.sqrt(variance)
        return np.sqrt(np.mean((np.asarray(x) - mean - deviation * quantiles) ** 2))

    solver = functools.partial(samplers.sample_dpm_solver, exact_noise, noise)
    errors = [error(solver, num_steps, 19_800) for num_steps in (20, 40, 80)]
    assert errors[0] / errors[1] > 3 and errors[1] / errors[2] > 3
    # DDIM is of order one.
    ddim = functools.partial(samplers.sample_ddim, exact_noise, noise, keys)
    assert errors[0] < error(ddim, 100, 19_800)


@pytest.mark.parametrize("num_steps", [1, 3, 5, 19])
def test_heun_is_that_of_diffusers(num_steps):
    # diffusers counts intervals and goes from 1 to 0.
    num_intervals = (num_steps + 1) // 2
    scheduler = diffusers.FlowMatchHeunDiscreteScheduler()
    scheduler.set_timesteps(num_intervals)
    sigmas = np.linspace(1, 0, num_intervals + 1)
    inner = np.repeat(sigmas[1:-1], 2)
    scheduler.sigmas = torch.from_numpy(np.concatenate([[1.0], inner, [0.0]]))
    scheduler.timesteps = scheduler.sigmas[:-1] * 1000
    start = jax.random.normal(jax.random.key(0), (2, 8, 3))

    def velocity(x, t):
        return jnp.tanh(x * 0.7 + 0.3 * jnp.cos(3 * t)[:, None, None])

    ours = samplers.sample_heun(velocity, start, num_steps=num_steps)
    x = torch.from_numpy(np.array(start, np.float64))
    assert len(scheduler.timesteps) == num_steps
    for sigma in scheduler.sigmas[:-1]:
        # Its velocity points from data to noise.
        output = -velocity(x.numpy(), jnp.full(2, 1 - float(sigma)))
        x = scheduler.step(
            torch.from_numpy(np.array(output, np.float64)), sigma * 1000, x
        ).prev_sample
    np.testing.assert_allclose(ours, x, atol=1e-5)


@pytest.mark.parametrize("is_odd", [0, 1])
def test_heun_converges_to_the_solution_with_order_two(is_odd):
    start = jax.random.normal(jax.random.key(0), (2, 16, 3))

    def velocity(x, t):
        return -x * (1 + t[:, None, None])

    def error(num_steps):
        x = samplers.sample_heun(velocity, start, num_steps=num_steps - is_odd)
        return np.abs(x - start * np.exp(-1.5)).max()

    assert error(20) / error(40) == pytest.approx(4, rel=0.15)


def test_regression_asks_once_at_time_0():
    source = jax.random.normal(jax.random.key(0), (2, 8, 3))
    asked = []

    def predict(x, t):
        asked.append(t)
        return x + 1

    mask = sample_tensors.row_mask(jnp.array([2, 4]), 8)
    x = samplers.sample_regression(predict, source, mask=mask)
    assert len(asked) == 1 and np.all(asked[0] == 0)
    np.testing.assert_allclose(x[1], np.asarray(source[1] + 1) * mask[1][:, None])


@pytest.mark.parametrize("sampler", [samplers.sample_euler, samplers.sample_heun])
def test_flows_need_a_step(sampler):
    with pytest.raises(ValueError, match="num_steps is 0"):
        sampler(predict_something, jnp.zeros((1, 8, 3)), num_steps=0)


def ddim(predict, keys, mask):
    return samplers.sample_ddim(
        predict,
        samplers.sample_noise(keys, 16),
        keys,
        schedule=SCHEDULE,
        num_steps=5,
        eta=0.5,
        mask=mask,
    )


def euler(predict, keys, mask):
    noise = samplers.sample_noise(keys, 16)
    return samplers.sample_euler(predict, noise, num_steps=5, mask=mask)


def dpm_solver(predict, keys, mask):
    noise = samplers.sample_noise(keys, 16)
    return samplers.sample_dpm_solver(
        predict, noise, schedule=SCHEDULE, num_steps=5, mask=mask
    )


def heun(predict, keys, mask):
    noise = samplers.sample_noise(keys, 16)
    return samplers.sample_heun(predict, noise, num_steps=5, mask=mask)


@pytest.mark.parametrize("sampler", [ddim, dpm_solver, euler, heun])
def test_masked_rows_are_zero_at_every_evaluation(sampler):
    keys = jax.random.split(jax.random.key(0), 2)
    mask = sample_tensors.row_mask(jnp.array([3, 12]), 16)

    def predict(x, t):
        jax.debug.callback(check, x)
        return predict_something(x, t)

    def check(x):
        np.testing.assert_array_equal(x[0, 3:13], 0)

    x = sampler(predict, keys, mask)
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


# ------------------------------------------------------------------------------- torus
TORUS = processes.FlowMatching(processes.sample_torus, period=1.0, answer="direction")


def torus_data(seed, rows=16):
    coords = jax.random.uniform(jax.random.key(seed), (rows, 3))
    lattice = sample_tensors.lattice_mask(rows)[:, None]
    return jnp.where(lattice, 4 * coords - 2, coords)


def test_paths_on_the_torus_are_the_shortest():
    data = torus_data(0)
    keys = jax.random.split(jax.random.key(1), 2000)
    x_t, t, target = corrupt_many(TORUS, keys, data)
    t = t[:, None, None]
    left = np.asarray(data - x_t)
    sites, lattice = left[:, :-3], left[:, -3:]
    # Modulo 1 no site is further from its end than half a period times what is left.
    assert np.all(np.abs(sites - np.round(sites)) <= 0.5 * (1 - t) + 1e-5)
    # From all sides: some of the paths leave the cell.
    assert (np.abs(sites) > 0.6).any() and np.abs(lattice).max() > 2
    np.testing.assert_array_equal(
        target, np.broadcast_to(processes.directions(data), target.shape)
    )


def test_answers_on_the_torus_mean_the_data():
    data = torus_data(2)
    found = processes.undirected(processes.directions(data))
    apart = np.asarray(found - data)
    np.testing.assert_allclose(apart[:-3] - np.round(apart[:-3]), 0, atol=1e-6)
    np.testing.assert_array_equal(found[-3:], data[-3:])
    # The mean of two points is in the direction of the nearer half of its weight.
    other = processes.directions(data.at[:-3].add(0.5))
    mean = 0.7 * processes.directions(data) + 0.3 * other
    apart = np.asarray(processes.undirected(mean) - data)[:-3]
    np.testing.assert_allclose(apart - np.round(apart), 0, atol=1e-5)


@pytest.mark.parametrize("num_steps", [1, 7])
def test_a_network_that_knows_the_answer_ends_there(num_steps):
    data = jnp.stack([torus_data(3), torus_data(4)])
    start = samplers.sample_noise(
        jax.random.split(jax.random.key(5)), 16, processes.sample_torus
    )

    def velocity_fn(x, t):
        return TORUS.velocity(processes.directions(data), x, t)

    found = samplers.sample_euler(velocity_fn, start, num_steps=num_steps)
    apart = np.array(found - data)
    apart[:, :-3] -= np.round(apart[:, :-3])
    np.testing.assert_allclose(apart, 0, atol=1e-5)


def test_times_crowd_at_the_start_as_asked():
    process = dataclasses.replace(TORUS, time_power=2.0)
    keys = jax.random.split(jax.random.key(6), 4000)
    t = corrupt_many(process, keys, torus_data(0)).t
    # P(t < x) = √x.
    for limit in (0.01, 0.25, 0.64):
        assert np.mean(t < limit) == pytest.approx(limit**0.5, abs=0.03)


# ------------------------------------------------------------------------ kept entries
def _kept_case(name, num_steps, seed, periodic):
    """A sampler with a predict function that knows nothing, and what is kept."""
    rng = np.random.default_rng(seed)
    shape = (3, 8, 3)
    value = jnp.asarray(rng.random(shape), jnp.float32)
    is_kept = jnp.asarray(rng.random(shape) < 0.5)
    keys = jax.random.split(jax.random.key(seed), shape[0])
    seen = []

    def predict(x, t):
        jax.debug.callback(lambda x, t: seen.append((np.array(x), float(t[0]))), x, t)
        return 3 * jnp.sin(5 * x)

    noise = samplers.sample_noise(keys, shape[1])
    if name in ("euler", "heun"):
        process = processes.FlowMatching(None, period=1.0 if periodic else None)
        kept = samplers.Kept(is_kept, value, process.way(noise, value))
        run = getattr(samplers, f"sample_{name}")
        made = run(predict, noise, num_steps=num_steps, kept=kept)
        return made, value, is_kept, noise, kept.way, seen
    kept = samplers.Kept(is_kept, value)
    arguments = {"schedule": SCHEDULE, "num_steps": num_steps, "kept": kept}
    if name == "dpm_solver":
        made = samplers.sample_dpm_solver(predict, noise, **arguments)
    elif name == "ddpm":
        made = samplers.sample_ddpm(predict, noise, keys, **arguments)
    else:
        eta = float(name[4:] or 0)
        made = samplers.sample_ddim(predict, noise, keys, eta=eta, **arguments)
    return made, value, is_kept, noise, None, seen


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("num_steps", [1, 2, 5, 10])
@pytest.mark.parametrize(
    "name", ["ddim", "ddim0.5", "ddpm", "dpm_solver", "euler", "heun"]
)
def test_kept_entries_are_on_their_path_and_end_at_their_value(
    name, num_steps, periodic
):
    if periodic and name not in ("euler", "heun"):
        return
    made, value, is_kept, noise, way, seen = _kept_case(name, num_steps, 7, periodic)
    jax.effects_barrier()
    # To the last bit, whatever the network says.
    np.testing.assert_array_equal(np.asarray(made)[is_kept], np.asarray(value)[is_kept])
    assert np.isfinite(np.asarray(made)).all()
    assert len(seen) == num_steps
    for x, t in seen[1:]:
        if way is None:
            scale = SCHEDULE.alphas_cumprod[int(t)]
            exact = np.sqrt(scale) * value + np.sqrt(1 - scale) * noise
        else:
            exact = value - (1 - t) * way
        np.testing.assert_allclose(x[is_kept], np.asarray(exact)[is_kept], atol=2e-6)


@pytest.mark.parametrize("name", ["ddim", "ddpm", "dpm_solver", "euler", "heun"])
def test_nothing_kept_changes_nothing(name):
    fn = getattr(samplers, f"sample_{name}")
    keys = jax.random.split(jax.random.key(0), 2)
    noise = samplers.sample_noise(keys, 8)
    settings = {} if name in ("euler", "heun") else {"schedule": SCHEDULE}
    more = (keys,) if name in ("ddpm", "ddim") else ()
    nothing = samplers.Kept(jnp.zeros(noise.shape, bool), noise, jnp.ones(noise.shape))

    def predict(x, t):
        return jnp.cos(x)

    without = fn(predict, noise, *more, num_steps=4, **settings)
    with_it = fn(predict, noise, *more, num_steps=4, kept=nothing, **settings)
    np.testing.assert_array_equal(without, with_it)
