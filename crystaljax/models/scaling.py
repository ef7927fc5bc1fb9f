"""Between crystals in their units and the numbers that the network works on.

The paper's network sees fractional coordinates in [0, 1), the lattice in Å and the
energy in eV/atom as they are. Scaled to zero mean and unit size, the same network
learns in far fewer steps. The scaling is measured on the training structures and kept
with the run, so that samples are always undone with what the network was trained on.
"""

import dataclasses
import pathlib
from typing import Any

import flax.struct
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer

from crystaljax.crystals import elements, sample_tensors
from crystaljax.system import atomic_files, errors, saved_requests


@flax.struct.dataclass
class Scaling:
    """x_scaled = (x - mean) / scale, for each part of a sample.

    Its numbers are arguments of compiled programs, not constants, so that programs do
    not depend on the data. They are multiplied by 1 / scale, as XLA does with
    constants.

    Attributes:
        coords_mean, coords_scale: of fractional coordinates.
        lattice_mean, lattice_scale: of the lattice, (3, 3), Å.
        energy_mean, energy_scale: of the formation energy (modification: energy
            difference), eV/atom.
        atomic_volumes: (104,) of each atomic number, Å³. Where there are any, lattices
            are in units of the cube root of the volume that a cell's atoms would fill.
    """

    coords_mean: Any
    coords_scale: Any
    lattice_mean: Any
    lattice_scale: Any
    energy_mean: Any
    energy_scale: Any
    atomic_volumes: Any = None

    def length(
        self, atomic_numbers: Integer[Array | np.ndarray, "*batch sites"]
    ) -> Float[Array, "*batch 1 1"] | float:
        """Unit of a cell's lattice before it is standardised, Å."""
        if self.atomic_volumes is None:
            return 1.0
        volumes = jnp.asarray(self.atomic_volumes, jnp.float32)[atomic_numbers]
        return jnp.cbrt(volumes.sum(axis=-1))[..., None, None]

    def encode(
        self,
        frac_coords: Float[Array | np.ndarray, "*batch sites 3"],
        lattice: Float[Array | np.ndarray, "*batch 3 3"],
        num_sites: Int[Array | np.ndarray, "*batch"],
        atomic_numbers: Integer[Array | np.ndarray, "*batch sites"],
        rows: int,
    ) -> Float[Array, "*batch {rows} 3"]:
        """Arrays → scaled sample tensor; padding stays 0."""
        coords = self._scale_coords(frac_coords)
        relative = jnp.asarray(lattice) / self.length(atomic_numbers)
        scaled = self._scale_lattice(relative)
        return sample_tensors.encode(
            coords.astype(jnp.float32), scaled.astype(jnp.float32), num_sites, rows
        )

    def encode_cells(
        self,
        cells: sample_tensors.CellBatch | None,
        num_sites: Int[Array | np.ndarray, "*batch"],
        atomic_numbers: Integer[Array | np.ndarray, "*batch sites"],
        rows: int,
    ) -> Float[Array, "*batch {rows} 3"] | None:
        """`encode` of source crystals; None where there are none."""
        if cells is None:
            return None
        return self.encode(
            cells.frac_coords, cells.lattice, num_sites, atomic_numbers, rows
        )

    def encode_templates(
        self, templates: sample_tensors.TemplateBatch | None
    ) -> sample_tensors.TemplateBatch | None:
        """Templates in the network's units; None where there are none."""
        if templates is None:
            return None
        exists = templates.space_group > 0
        size = jnp.where(
            exists[..., None, None], self.length(templates.atomic_numbers), 1.0
        )
        relative = jnp.asarray(templates.lattice) / size
        lattice = self._scale_lattice(relative)
        return dataclasses.replace(
            templates,
            frac_coords=self._scale_coords(templates.frac_coords),
            lattice=jnp.where(exists[..., None, None], lattice, 0).astype(jnp.float32),
            energy=jnp.where(exists, self.scale_energy(templates.energy), 0),
        )

    def _scale_coords(self, frac_coords):
        return (jnp.asarray(frac_coords) - self.coords_mean) * (1 / self.coords_scale)

    def _scale_lattice(self, relative):
        return (relative - self.lattice_mean) * (1 / self.lattice_scale)

    def fractional(
        self, coords: Float[Array, "*batch rows 3"]
    ) -> Float[Array, "*batch rows 3"]:
        """Scaled coordinates → fractional coordinates, not wrapped."""
        return coords * self.coords_scale + self.coords_mean

    def decode(
        self,
        x: Float[Array, "*batch rows 3"],
        atomic_numbers: Integer[Array | np.ndarray, "*batch sites"],
    ) -> tuple[Float[Array, "*batch sites 3"], Float[Array, "*batch 3 3"]]:
        """Scaled sample tensor → fractional coordinates in [0, 1) and lattice (Å)."""
        coords = self.fractional(sample_tensors.site_rows(x))
        relative = (
            sample_tensors.lattice_rows(x) * self.lattice_scale + self.lattice_mean
        )
        lattice = relative * self.length(atomic_numbers)
        return sample_tensors.wrap(coords), lattice.astype(x.dtype)

    def scale_energy(
        self, energy: Float[Array | np.ndarray, "*batch"]
    ) -> Float[Array, "*batch"]:
        """Formation energy (eV/atom) → what the network is given."""
        shifted = jnp.asarray(energy) - self.energy_mean
        return (shifted * (1 / self.energy_scale)).astype(jnp.float32)

    def unscale_energy(self, energy: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
        """What the network says of an energy → eV/atom."""
        return energy * self.energy_scale + self.energy_mean


def coordinate_units(name: str) -> tuple[float, float]:
    """Mean and scale of fractional coordinates: "unit" [0, 1) or "signed" [-1, 1).

    Raises:
        ValueError: an unknown name.
    """
    match name:
        case "unit":
            return 0.0, 1.0
        case "signed":
            return 0.5, 0.5
        case _:
            raise errors.UserError(
                f"data.coordinates is {name!r}; expected 'unit' or 'signed'"
            )


def fit_scaling(
    lattice: Float[np.ndarray, "structures 3 3"],
    energy: Float[np.ndarray, " energies"],
    atomic_numbers: Integer[np.ndarray, "structures sites"],
    *,
    coordinates: str,
    lattice_units: str,
    energy_units: str,
) -> Scaling:
    """Builds the scaling that a config asks for from the training structures.

    Args:
        lattice: of the training structures, Å.
        energy: formation energies, or energy differences, eV/atom.
        atomic_numbers: of the training structures, 0 beyond their sites.
        coordinates: "unit" keeps [0, 1); "signed" maps it to [-1, 1).
        lattice_units: "angstrom"; "standardized" (each of the nine entries); or
            "relative": to the size that the atoms would fill (`fit_atomic_volumes`),
            then standardised.
        energy_units: "ev" or "standardized".

    Raises:
        ValueError: an unknown name.
    """
    coords_mean, coords_scale = coordinate_units(coordinates)
    atomic_volumes = None
    match lattice_units:
        case "angstrom":
            lattice_mean, lattice_scale = np.zeros((3, 3)), np.ones((3, 3))
        case "standardized" | "relative":
            if lattice_units == "relative":
                atomic_volumes = fit_atomic_volumes(lattice, atomic_numbers)
                size = np.cbrt(atomic_volumes[atomic_numbers].sum(axis=-1))
                lattice = lattice / size[:, None, None]
            lattice_mean = lattice.mean(axis=0, dtype=np.float64)
            lattice_scale = _usable_scale(lattice.std(axis=0, dtype=np.float64))
        case _:
            raise errors.UserError(
                f"data.lattice is {lattice_units!r}; expected 'angstrom', "
                "'standardized' or 'relative'"
            )
    match energy_units:
        case "ev":
            energy_mean, energy_scale = 0.0, 1.0
        case "standardized":
            energy_mean = float(energy.mean(dtype=np.float64))
            energy_scale = float(_usable_scale(energy.std(dtype=np.float64)))
        case _:
            raise errors.UserError(
                f"data.energy is {energy_units!r}; expected 'ev' or 'standardized'"
            )
    return Scaling(
        coords_mean,
        coords_scale,
        lattice_mean,
        lattice_scale,
        energy_mean,
        energy_scale,
        atomic_volumes,
    )


def fit_atomic_volumes(
    lattice: Float[np.ndarray, "structures 3 3"],
    atomic_numbers: Integer[np.ndarray, "structures sites"],
) -> Float[np.ndarray, "104"]:
    """Volumes of atoms whose sums come closest to those of the cells, Å³.

    Least squares of relative errors, without negative volumes. Elements that do not
    occur have the median of those that do; 0, padding, has no size.
    """
    # The hot path does without SciPy.
    from scipy import optimize

    volumes = np.abs(np.linalg.det(np.asarray(lattice, dtype=np.float64)))
    columns = elements.NUM_ELEMENTS + 1
    flat = np.arange(len(volumes))[:, None] * columns + atomic_numbers
    counts = np.bincount(flat.ravel(), minlength=len(volumes) * columns)
    relative = counts.reshape(-1, columns)[:, 1:] / volumes[:, None]
    # The normal equations have one row per element, however many structures there are.
    present = relative.any(axis=0)
    matrix = relative[:, present].T @ relative[:, present]
    matrix += 1e-9 * np.trace(matrix) * np.eye(len(matrix))
    factor = np.linalg.cholesky(matrix)
    wanted = np.linalg.solve(factor, relative[:, present].sum(axis=0))
    found, _ = optimize.nnls(factor.T, wanted)
    # An atom that seems to fill nothing would leave an elemental cell without a size.
    usual = np.median(found)
    result = np.zeros(columns)
    result[1:] = usual
    result[1:][present] = np.maximum(found, usual / 10)
    return result


def _usable_scale(deviation):
    # The upper triangle of a lattice is 0 in every structure: leave it at 0.
    return np.where(deviation < 1e-3, 1.0, deviation)


def save_scaling(scaling: Scaling, path: pathlib.Path) -> None:
    """Writes a scaling as JSON."""
    fields = dataclasses.asdict(scaling)
    values = {
        name: np.asarray(value).tolist()
        for name, value in fields.items()
        if value is not None
    }
    atomic_files.write_json(path, values)


def load_scaling(path: pathlib.Path) -> Scaling:
    """Reads what `save_scaling` wrote.

    Raises:
        UserError: the file is missing or damaged.
    """
    remedy = "put a copy of it back, or train again in another folder"
    values = saved_requests.load(path, remedy)
    if values is None:
        raise errors.UserError(f"{path} is missing; {remedy}")
    try:
        for name in ("lattice_mean", "lattice_scale", "atomic_volumes"):
            if name in values:
                values[name] = np.array(values[name])
        return Scaling(**values)
    except (TypeError, ValueError) as error:
        raise errors.UserError(f"{path} is damaged ({error}); {remedy}") from error
