"""The network and the work of the paper in plain PyTorch: what ours is compared with.

Written as it would be by anyone who follows the paper: channels first, `nn.Conv1d`,
`nn.GroupNorm`, attention by einsum, Adam, autocast, diffusers' schedulers. Conditions
are looked up in tables on the device and encoded once a sample, as in ours, so that the
comparison is of the networks and loops. Names of the modules are those that
`crystaljax.models.torch_weights` converts.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import diffusers
import numpy as np
import torch
from throughput import ours, timing
from torch import nn
from torch.nn import functional

from crystaljax.crystals import sample_tensors, space_groups
from crystaljax.models import processes, scaling, torch_weights
from crystaljax.models.networks import crystal_unet, encoders
from crystaljax.system import errors
from crystaljax.training import train_step

Batch = dict[str, torch.Tensor | None]
_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


# ------------------------------------------------------------------------------ network
class ResBlock(nn.Module):
    """Two convolutions with the embedding in between, and a skip connection."""

    def __init__(self, channels: int, out_channels: int, embedding: int, groups: int):
        super().__init__()
        self.in_layers = nn.Sequential(
            nn.GroupNorm(groups, channels),
            nn.SiLU(),
            nn.Conv1d(channels, out_channels, 3, padding=1),
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, out_channels))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(groups, out_channels),
            nn.SiLU(),
            nn.Identity(),  # The dropout of the paper's code, which is switched off.
            nn.Conv1d(out_channels, out_channels, 3, padding=1),
        )
        self.skip_connection = (
            nn.Identity()
            if channels == out_channels
            else nn.Conv1d(channels, out_channels, 1)
        )

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """(batch, channels, rows) → (batch, out_channels, rows)."""
        h = self.in_layers(x) + self.emb_layers(embedding)[..., None]
        return self.skip_connection(x) + self.out_layers(h)


class Attention(nn.Module):
    """Self-attention over the rows with one head."""

    def __init__(self, channels: int, groups: int):
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, channels, rows) → the same."""
        q, k, v = self.qkv(self.norm(x)).chunk(3, dim=1)
        scale = x.shape[1] ** -0.25
        logits = torch.einsum("bct,bcs->bts", q * scale, k * scale)
        weights = torch.softmax(logits.float(), dim=-1).type(v.dtype)
        return x + self.proj_out(torch.einsum("bts,bcs->bct", weights, v))


class Downsample(nn.Module):
    """Half the rows."""

    def __init__(self, channels: int):
        super().__init__()
        self.op = nn.Conv1d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, channels, rows) → (batch, channels, rows / 2)."""
        return self.op(x)


class Upsample(nn.Module):
    """Twice the rows."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, channels, rows) → (batch, channels, 2 rows)."""
        return self.conv(functional.interpolate(x, scale_factor=2, mode="nearest"))


class Block(nn.Sequential):
    """Layers in a row, of which the residual blocks are given the embedding."""

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """Applies the layers."""
        for layer in self:
            x = layer(x, embedding) if isinstance(layer, ResBlock) else layer(x)
        return x


class UNet(nn.Module):
    """The UNet, the embedding of time and that of the encoded conditions."""

    def __init__(self, model: crystal_unet.CrystalUNet, num_conditions: int):
        super().__init__()
        self.channels = model.channels
        width = 4 * model.channels
        self.time_embed = nn.Sequential(
            nn.Linear(model.channels, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.label_emb = nn.Linear(num_conditions, width)
        groups = model.norm_groups
        widths = [model.channels * factor for factor in model.channel_multipliers]

        def layers(inputs: int, level: int) -> list[nn.Module]:
            parts: list[nn.Module] = [ResBlock(inputs, widths[level], width, groups)]
            if 2**level in model.attention_levels:
                parts.append(Attention(widths[level], groups))
            return parts

        h, last = model.channels, len(widths) - 1
        inputs = 3 + model.site_features
        self.input_blocks = nn.ModuleList([Block(nn.Conv1d(inputs, h, 3, padding=1))])
        skips = [h]
        for level in range(len(widths)):
            for _ in range(model.num_res_blocks):
                self.input_blocks.append(Block(*layers(h, level)))
                h = widths[level]
                skips.append(h)
            if level < last:
                self.input_blocks.append(Block(Downsample(h)))
                skips.append(h)
        self.middle_block = Block(
            ResBlock(h, h, width, groups),
            Attention(h, groups),
            ResBlock(h, h, width, groups),
        )
        self.output_blocks = nn.ModuleList()
        for level in reversed(range(len(widths))):
            for i in range(model.num_res_blocks + 1):
                parts = layers(h + skips.pop(), level)
                h = widths[level]
                if level > 0 and i == model.num_res_blocks:
                    parts.append(Upsample(h))
                self.output_blocks.append(Block(*parts))
        self.out = nn.Sequential(
            nn.GroupNorm(groups, h), nn.SiLU(), nn.Conv1d(h, 3, 3, padding=1)
        )

    def forward(
        self, x: torch.Tensor, t: torch.Tensor, conditions: torch.Tensor
    ) -> torch.Tensor:
        """(batch, features, rows), times, embedded conditions → (batch, 3, rows)."""
        half = self.channels // 2
        steps = torch.arange(half, device=x.device, dtype=torch.float32)
        angles = t[:, None] * torch.exp(-math.log(10000) * steps / half)
        sinusoids = torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)
        embedding = self.time_embed(sinusoids) + conditions
        h, skips = x, []
        for block in self.input_blocks:
            h = block(h, embedding)
            skips.append(h)
        h = self.middle_block(h, embedding)
        for block in self.output_blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), embedding)
        return self.out(h)


class Network(nn.Module):
    """The counterpart of `crystal_unet.CrystalUNet`, with random weights."""

    def __init__(self, model: crystal_unet.CrystalUNet):
        super().__init__()
        self.time_scale = model.time_scale
        self.element_rows, self.source_rows = model.element_rows, model.source_rows
        self.site_features = model.site_features
        features = encoders.element_features(model.element_properties)
        operations = space_groups.load_space_group_operations(
            model.space_group_operations
        )
        self.register_buffer("features", torch.tensor(features), persistent=False)
        self.register_buffer("operations", torch.tensor(operations), persistent=False)
        first, second, third = encoders.SpaceGroupEncoder.channels
        self.spg_condition = nn.Sequential(
            nn.Conv2d(space_groups.MAX_OPERATIONS, first, 2),
            nn.LeakyReLU(0.2),
            nn.Conv2d(first, second, 2),
            nn.LeakyReLU(0.2),
            nn.Conv2d(second, third, 2),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
        )
        widths = (features.shape[1], *model.element_channels)
        embedding = encoders.ElementEncoder.features
        self.element_condition = nn.Sequential(
            nn.Conv1d(widths[0], widths[1], 3),
            nn.GELU(),
            nn.Conv1d(widths[1], widths[2], 3),
            nn.GELU(),
            nn.Conv1d(widths[2], widths[3], 3),
            nn.GELU(),
            nn.Flatten(),
            nn.Linear(widths[3] * (model.element_rows - 6), embedding),
        )
        num_conditions = 1 + third + embedding
        if model.source_rows:
            first, second = encoders.SourceEncoder.channels
            embedding = encoders.SourceEncoder.features
            self.coords_condition = nn.Sequential(
                nn.Conv1d(model.source_rows, first, 2),
                nn.GELU(),
                nn.Conv1d(first, second, 2),
                nn.GELU(),
                nn.Flatten(),
                nn.Linear(second, embedding),
            )
            num_conditions += embedding
        if model.site_features:
            self.site_encoder = nn.Linear(widths[0], model.site_features)
        self.model = UNet(model, num_conditions)

    def encode(
        self,
        atomic_numbers: torch.Tensor,
        space_group: torch.Tensor,
        energy: torch.Tensor,
        source: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Embedded conditions, and the features of each site's element or None."""
        gap = self.element_rows - atomic_numbers.shape[1]
        padded = functional.pad(atomic_numbers, (0, gap))
        parts = [
            energy[:, None],
            self.spg_condition(self.operations[space_group]),
            self.element_condition(self.features[padded].transpose(1, 2)),
        ]
        if self.source_rows:
            assert source is not None
            gap = self.source_rows - source.shape[1]
            sites, lattice = source[:, :-3], source[:, -3:]
            rows = torch.cat([functional.pad(sites, (0, 0, 0, gap)), lattice], dim=1)
            parts.append(self.coords_condition(rows))
        embedding = self.model.label_emb(torch.cat(parts, dim=-1))
        if not self.site_features:
            return embedding, None
        sites = self.site_encoder(self.features[atomic_numbers])
        return embedding, sites * (atomic_numbers > 0)[..., None]

    def predict(
        self,
        x: torch.Tensor,
        t: torch.Tensor,
        embedding: torch.Tensor,
        sites: torch.Tensor | None,
    ) -> torch.Tensor:
        """(batch, rows, 3) at times t → the same, float32."""
        if sites is not None:
            gap = x.shape[1] - sites.shape[1]
            x = torch.cat([x, functional.pad(sites, (0, 0, 0, gap))], dim=-1)
        h = self.model(x.transpose(1, 2), self.time_scale * t, embedding)
        return h.transpose(1, 2).float()

    def forward(
        self,
        x: torch.Tensor,
        t: torch.Tensor,
        atomic_numbers: torch.Tensor,
        space_group: torch.Tensor,
        energy: torch.Tensor,
        source: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """As `crystal_unet.CrystalUNet.__call__`."""
        encoded = self.encode(atomic_numbers, space_group, energy, source)
        return self.predict(x, t, *encoded)


def to_flax(network: Network, model: crystal_unet.CrystalUNet) -> dict[str, Any]:
    """The same weights for ours."""
    arrays = {
        name: array.detach().cpu().numpy()
        for name, array in network.state_dict().items()
    }
    # Not a part of the paper's network, so the converter does not know it.
    sites = {
        "kernel": arrays.pop("site_encoder.weight", np.zeros(())).T,
        "bias": arrays.pop("site_encoder.bias", np.zeros(())),
    }
    params = torch_weights.convert(arrays, model)
    if model.site_features:
        params["params"]["site_encoder"] = sites
    return params


# ------------------------------------------------------------------------------ devices
def prepare() -> None:
    """What a user would set, for speed."""
    torch.set_num_threads(timing.usable_cpus())
    # What JAX does by default: TF32 on GPUs.
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True


def choose_threads(run: timing.Run) -> dict[int, float]:
    """Sets the number of threads with which ``run`` is fastest.

    As many as there are CPUs, whatever OMP_NUM_THREADS says, or a single one: where
    other processes keep a CPU busy, threads that wait for each other after every
    operation take many times as long.

    Returns:
        Seconds of a call by number of threads.
    """
    seconds = {}
    for threads in {1, timing.usable_cpus()}:
        torch.set_num_threads(threads)
        seconds[threads] = timing.time_call(run)
    torch.set_num_threads(min(seconds, key=lambda threads: seconds[threads]))
    return seconds


def find_device(platform: str) -> torch.device:
    """PyTorch's device for a platform of JAX.

    Raises:
        ValueError: JAX has a GPU, and PyTorch sees none.
    """
    if platform == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise errors.UserError(
            f"JAX runs on {platform!r}, and this PyTorch ({torch.__version__}) sees no "
            "GPU; install a build of PyTorch with CUDA, or leave out --peer"
        )
    return torch.device("cuda")


def compiled(function: Any) -> Any:
    """`torch.compile` for the one shape that is measured, as ours are compiled."""
    return torch.compile(function, dynamic=False)


def synchronize(device: torch.device) -> None:
    """Waits until the device has nothing left to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def autocast(device: torch.device, dtype: str) -> contextlib.AbstractContextManager:
    """Mixed precision, where ``dtype`` is not float32."""
    if dtype == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, _DTYPES[dtype])


# --------------------------------------------------------------------------------- data
def to_tensors(
    batch: sample_tensors.CrystalBatch, scale: scaling.Scaling, device: torch.device
) -> Batch:
    """A batch on the device; coordinates and lattices still in their units."""

    def put(array: Any, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.tensor(np.asarray(array)).to(device, dtype)

    source = batch.source
    return {
        "atomic_numbers": put(batch.atomic_numbers, torch.int64),
        "space_group": put(batch.space_group, torch.int64),
        "num_sites": put(batch.num_sites, torch.int64),
        "energy": put((batch.energy - scale.energy_mean) / scale.energy_scale),
        "frac_coords": put(batch.frac_coords),
        "lattice": put(batch.lattice),
        "source_coords": None if source is None else put(source.frac_coords),
        "source_lattice": None if source is None else put(source.lattice),
    }


class Units:
    """`scaling.Scaling` and the layout of the sample tensor."""

    def __init__(self, scale: scaling.Scaling, rows: int, device: torch.device):
        self.rows, self.coords = rows, (scale.coords_mean, scale.coords_scale)
        self.lattice_mean = torch.tensor(scale.lattice_mean).float().to(device)
        self.lattice_scale = torch.tensor(scale.lattice_scale).float().to(device)
        self._index = torch.arange(rows, device=device)

    def site_mask(self, num_sites: torch.Tensor) -> torch.Tensor:
        """(batch, rows), True at sites."""
        return self._index < num_sites[:, None]

    def row_mask(self, num_sites: torch.Tensor) -> torch.Tensor:
        """(batch, rows, 1), True at sites and lattice vectors."""
        is_lattice = self._index >= self.rows - 3
        return (self.site_mask(num_sites) | is_lattice)[..., None]

    def encode(
        self, coords: torch.Tensor, lattice: torch.Tensor, num_sites: torch.Tensor
    ) -> torch.Tensor:
        """The scaled sample tensor, (batch, rows, 3)."""
        mean, scale = self.coords
        coords = functional.pad((coords - mean) / scale, (0, 0, 0, 1))
        coords = coords * self.site_mask(num_sites)[:, :-3, None]
        lattice = (lattice - self.lattice_mean) / self.lattice_scale
        return torch.cat([coords, lattice], dim=1)

    def encode_source(self, batch: Mapping[str, Any]) -> torch.Tensor | None:
        """The scaled sample tensor of the sources, or None."""
        if batch["source_coords"] is None:
            return None
        return self.encode(
            batch["source_coords"], batch["source_lattice"], batch["num_sites"]
        )

    def decode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Fractional coordinates in [0, 1), and lattices."""
        mean, scale = self.coords
        coords = x[:, :-4] * scale + mean
        return coords - coords.floor(), x[:, -3:] * self.lattice_scale + (
            self.lattice_mean
        )


# ----------------------------------------------------------------------------- training
class Trainer:
    """Training steps: the loss in L1 (see below), Adam, clipping, schedule, average.

    Where the config has a loss over periodic images this one has plain L1 in its place,
    which is less work.
    """

    def __init__(
        self,
        config: Any,
        trainee: train_step.Trainee,
        *,
        rows: int,
        num_steps: int,
        device: torch.device,
        compile_network: bool = False,
    ):
        self.trainee, self.device = trainee, device
        self.network = Network(trainee.model).to(device)
        self.forward = compiled(self.network) if compile_network else self.network
        self.units = Units(trainee.scale, rows, device)
        self.dtype = str(np.dtype(trainee.model.dtype))
        settings = config.optimizer
        self.clip = settings.gradient_clip
        self.params = list(self.network.parameters())
        self.optimizer = torch.optim.Adam(
            self.params,
            lr=settings.learning_rate,
            betas=(settings.b1, settings.b2),
            eps=settings.eps,
        )
        warmup = min(settings.warmup_steps, num_steps // 2)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: _learning_rate(step, warmup, num_steps)
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == "float16")
        self.ema = (
            [param.detach().clone() for param in self.params]
            if trainee.ema_decay
            else None
        )
        self.step_number = 0
        process = trainee.process
        self.alphas_cumprod = (
            torch.tensor(process.schedule.alphas_cumprod).float().to(device)
            if isinstance(process, processes.Diffusion)
            else None
        )

    def step(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """One step; the loss stays on the device."""
        with torch.no_grad():
            data = self.units.encode(
                batch["frac_coords"], batch["lattice"], batch["num_sites"]
            )
            source = self.units.encode_source(batch)
            x_t, t, target = self._corrupt(data, source)
            x_t = x_t * self.units.row_mask(batch["num_sites"])
        with autocast(self.device, self.dtype):
            prediction = self.forward(
                x_t,
                t,
                batch["atomic_numbers"],
                batch["space_group"],
                batch["energy"],
                source,
            )
        loss = self._loss(prediction, target, batch["num_sites"])
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        if self.clip:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.params, self.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        if self.ema is not None:
            step = self.step_number
            decay = min(self.trainee.ema_decay, (1 + step) / (10 + step))
            with torch.no_grad():
                torch._foreach_lerp_(self.ema, self.params, 1 - decay)
        self.step_number += 1
        return loss.detach()

    def _corrupt(
        self, data: torch.Tensor, source: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        size, device = len(data), data.device
        process = self.trainee.process
        if isinstance(process, processes.Diffusion):
            assert self.alphas_cumprod is not None
            t = torch.randint(process.schedule.num_times, (size,), device=device)
            noise = torch.randn_like(data)
            alpha_bar = self.alphas_cumprod[t][:, None, None]
            x_t = alpha_bar.sqrt() * data + (1 - alpha_bar).sqrt() * noise
            return x_t, t.float(), noise
        if isinstance(process, processes.FlowMatching):
            t = torch.rand(size, device=device)
            start = source if process.noise_fn is None else torch.randn_like(data)
            assert start is not None
            path = t[:, None, None]
            return path * data + (1 - path) * start, t, data - start
        assert source is not None
        return source, torch.zeros(size, device=device), data

    def _loss(
        self, prediction: torch.Tensor, target: torch.Tensor, num_sites: torch.Tensor
    ) -> torch.Tensor:
        distance = (prediction - target).abs().sum(dim=-1)
        sites = (distance * self.units.site_mask(num_sites)).sum(dim=-1) / num_sites
        lattice = distance[:, -3:].sum(dim=-1) / 3
        trainee = self.trainee
        return (
            trainee.coordinate_weight * sites.mean()
            + trainee.lattice_weight * lattice.mean()
        )


def _learning_rate(step: int, warmup: int, num_steps: int) -> float:
    if step < warmup:
        return step / warmup
    done = (step - warmup) / max(1, num_steps - warmup)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def training_run(
    config: Any,
    trainee: train_step.Trainee,
    batch: sample_tensors.CrystalBatch,
    *,
    rows: int,
    steps: int,
    num_steps: int,
    device: torch.device,
    compile_network: bool = False,
) -> timing.Run:
    """Training steps on one batch; a call makes ``steps`` of them."""
    trainer = Trainer(
        config,
        trainee,
        rows=rows,
        num_steps=num_steps,
        device=device,
        compile_network=compile_network,
    )
    tensors = to_tensors(batch, trainee.scale, device)

    def run(calls: int) -> None:
        for _ in range(calls * steps):
            trainer.step(tensors)
        synchronize(device)

    return run


def forward_run(
    model: crystal_unet.CrystalUNet,
    scale: scaling.Scaling,
    batch: sample_tensors.CrystalBatch,
    *,
    rows: int,
    device: torch.device,
    compile_network: bool = False,
) -> timing.Run:
    """Forward passes of the network, conditions included."""
    network = Network(model).to(device)
    forward = compiled(network) if compile_network else network
    tensors = to_tensors(batch, scale, device)
    size = len(batch.num_sites)
    x = torch.randn(size, rows, 3, device=device)
    t = torch.rand(size, device=device)
    source = Units(scale, rows, device).encode_source(tensors)
    names = ("atomic_numbers", "space_group", "energy")
    dtype = str(np.dtype(model.dtype))

    def run(calls: int) -> None:
        with torch.inference_mode(), autocast(device, dtype):
            for _ in range(calls):
                forward(x, t, *(tensors[name] for name in names), source)
            synchronize(device)

    return run


# ----------------------------------------------------------------------------- sampling
def build_scheduler(config: Any) -> Any:
    """Diffusers' counterpart of a sampler of diffusion.

    Raises:
        ValueError: there is none.
    """
    settings = {
        "num_train_timesteps": config.process.num_times,
        "beta_schedule": "squaredcos_cap_v2",
        "timestep_spacing": "leading",
    }
    match config.sampler.name:
        case "ddim":
            return diffusers.DDIMScheduler(**settings, clip_sample=False)
        case "ddpm":
            return diffusers.DDPMScheduler(**settings, clip_sample=False)
        case "dpm_solver":
            return diffusers.DPMSolverMultistepScheduler(
                **settings, use_lu_lambdas=True
            )
        case name:
            raise errors.UserError(f"diffusers has no counterpart of sampler {name!r}")


def sample(
    predict: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    start: torch.Tensor,
    mask: torch.Tensor,
    config: Any,
    scheduler: Any = None,
) -> torch.Tensor:
    """The loop of one sampler, padding held at 0.

    Args:
        predict: (x, times) → what the network answers.
        start: noise or source, (batch, rows, 3).
        mask: (batch, rows, 1), True at rows that are free.
        config: names the sampler and its steps.
        scheduler: from `build_scheduler`, for diffusion.
    """
    size, num_steps = len(start), config.sampler.num_steps

    def at(t: float) -> torch.Tensor:
        return torch.full((size,), t, device=start.device)

    x = start * mask
    if scheduler is not None:
        # Times stay on the host: on a GPU every look-up would wait for it.
        scheduler.set_timesteps(num_steps)
        eta = {"eta": config.sampler.eta} if config.sampler.name == "ddim" else {}
        for time in scheduler.timesteps:
            noise = predict(x, at(float(time)))
            x = scheduler.step(noise, time, x, **eta).prev_sample * mask
        return x
    match config.sampler.name:
        case "euler":
            for i in range(num_steps):
                x = (x + predict(x, at(i / num_steps)) / num_steps) * mask
            return x
        case "heun":
            length = 1 / (-(-num_steps // 2))
            for i in range(0, num_steps, 2):
                t = i // 2 * length
                velocity = predict(x, at(t))
                ahead = (x + length * velocity) * mask
                if i + 1 < num_steps:
                    velocity = (velocity + predict(ahead, at(t + length))) / 2
                x = (x + length * velocity) * mask
            return x
        case "regression":
            return predict(x, at(0.0)) * mask
        case name:
            raise errors.UserError(f"no counterpart of sampler {name!r}")


class Sampler:
    """Sampling of a batch, conditions encoded once."""

    def __init__(
        self,
        config: Any,
        model: crystal_unet.CrystalUNet,
        scale: scaling.Scaling,
        *,
        device: torch.device,
        compile_network: bool = False,
    ):
        self.config, self.device = config, device
        self.network = Network(model).to(device).train(False)
        self.predict = self.network.predict
        if compile_network:
            self.predict = compiled(self.network.predict)
        self.units = Units(scale, config.data.rows, device)
        self.dtype = str(np.dtype(model.dtype))
        is_diffusion = config.process.name == "diffusion"
        self.scheduler = build_scheduler(config) if is_diffusion else None

    @torch.inference_mode()
    def __call__(self, batch: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Fractional coordinates and lattices, on the device."""
        source = self.units.encode_source(batch)
        starts_at_source = self.config.process.name == "regression" or (
            self.config.process.name == "flow_matching"
            and self.config.process.start == "source"
        )
        shape = (len(batch["energy"]), self.units.rows, 3)
        if starts_at_source:
            assert source is not None
            start = source
        else:
            start = torch.randn(shape, device=self.device)
        mask = self.units.row_mask(batch["num_sites"])
        # Around the whole loop, so that weights are cast once a sample.
        with autocast(self.device, self.dtype):
            encoded = self.network.encode(
                batch["atomic_numbers"], batch["space_group"], batch["energy"], source
            )
            x = sample(
                lambda x, t: self.predict(x, t, *encoded),
                start,
                mask,
                self.config,
                self.scheduler,
            )
        return self.units.decode(x)


def sampling_run(
    config: Any,
    model: crystal_unet.CrystalUNet,
    scale: scaling.Scaling,
    batch: sample_tensors.CrystalBatch,
    *,
    device: torch.device,
    compile_network: bool = False,
) -> timing.Run:
    """Sampling of one batch, from conditions on the device to crystals on it."""
    sampler = Sampler(
        config, model, scale, device=device, compile_network=compile_network
    )
    tensors = to_tensors(batch, scale, device)

    def run(calls: int) -> None:
        for _ in range(calls):
            sampler(tensors)
            synchronize(device)

    return run


# ---------------------------------------------------------------------------- contender
@dataclasses.dataclass(frozen=True, eq=False)
class Contender:
    """The work of one of our programs, ready to be timed.

    Attributes:
        run: makes so many calls.
        device: PyTorch's.
        compiled: whether torch.compile is used.
        seconds_by_threads: of a call on a CPU, from which the threads were chosen.
    """

    run: timing.Run
    device: torch.device
    compiled: bool
    seconds_by_threads: dict[int, float]

    def describe(self) -> dict[str, Any]:
        """Versions, threads and the most memory held, bytes."""
        on_gpu = self.device.type == "cuda"
        return {
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "device": str(self.device),
            "compiled": self.compiled,
            "threads": torch.get_num_threads(),
            "seconds_by_threads": self.seconds_by_threads,
            "device_bytes": (
                torch.cuda.max_memory_allocated(self.device) if on_gpu else None
            ),
        }


def build_contender(
    task: str, workload: ours.Workload, *, steps: int, compile_network: bool
) -> Contender:
    """The same work as one of our programs, and on a CPU the threads it is best with.

    Args:
        task: "training", "forward" or "sampling".
        workload: of our program.
        steps: of a call, in training.
        compile_network: use torch.compile.

    Raises:
        ValueError: an unknown task, a network other than the paper's, or PyTorch lacks
            the device or the sampler.
    """
    network = workload.config.model.network
    if network != "unet":
        raise errors.UserError(
            f"model.network is {network!r}, and only the paper's UNet is written in "
            "PyTorch here; measure without --peer, or a config with the UNet"
        )
    device = find_device(workload.mesh.devices.flat[0].platform)
    prepare()
    trainee, config, batch = workload.trainee, workload.config, workload.batch
    match task:
        case "training":
            run = training_run(
                config,
                trainee,
                batch,
                rows=config.data.rows,
                steps=steps,
                num_steps=ours.NUM_STEPS,
                device=device,
                compile_network=compile_network,
            )
        case "forward":
            run = forward_run(
                trainee.model,
                trainee.scale,
                batch,
                rows=config.data.rows,
                device=device,
                compile_network=compile_network,
            )
        case "sampling":
            run = sampling_run(
                config,
                trainee.model,
                trainee.scale,
                batch,
                device=device,
                compile_network=compile_network,
            )
        case _:
            raise errors.UserError(
                f"unknown task {task!r}; expected 'training', 'forward' or 'sampling'"
            )
    seconds = choose_threads(run) if device.type == "cpu" else {}
    return Contender(run, device, compile_network, seconds)
