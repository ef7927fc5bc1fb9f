"""What the rest of the package asks of a network.

A network is a `flax.linen.Module` with what is stated here. `models.build` makes one
from a config; training, sampling, processes and samplers know no more of it.
"""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, Float, Integer

from crystaljax.crystals import sample_tensors

# Flax collection that `Network.tables` go to, beside "params".
TABLES = "tables"


@runtime_checkable
class Network(Protocol):
    """A network that is conditioned on elements, space group and energy.

    It is applied by `apply` to all of `__call__`'s arguments in training. A sampler has
    the conditions encoded once (`encode_conditions`) and asks at each time (`predict`).

    With ``estimator_depth`` it has a further method ``estimate_energy``:
    (atomic_numbers, frac_coords, lattice in Å) → energies in the unit of the
    conditions.
    """

    @property
    def dtype(self) -> Any:
        """Of the arithmetic."""
        ...

    @property
    def num_templates(self) -> int:
        """Known crystals that it is shown with each condition; 0 for none."""
        ...

    @property
    def estimator_depth(self) -> int:
        """Blocks of its estimator of energies; 0 where it has none."""
        ...

    def tables(self) -> Mapping[str, Any]:
        """Constant NumPy arrays that conditions are looked up in, by name.

        They are given to `apply` as the collection `TABLES` (see `variables_of`), so
        that a compiled program takes them as arguments. Where they are not given the
        network looks them up itself, and they become constants of the program.
        """
        ...

    def init(self, rngs: Any, *args: Any, **kwargs: Any) -> Any:
        """Flax's: initial parameters, ``{"params": ...}``."""
        ...

    def apply(
        self,
        variables: Any,
        *args: Any,
        rngs: Any = None,
        method: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Flax's: ``method``, `__call__` by default, with these variables."""
        ...

    def encode_conditions(
        self,
        atomic_numbers: Integer[Array, "batch sites"],
        space_group: Integer[Array, " batch"],
        energy: Float[Array, " batch"],
        source: Float[Array, "batch rows 3"] | None = None,
        templates: sample_tensors.TemplateBatch | None = None,
    ) -> Any:
        """Encodes the conditions once for all times.

        Args:
            atomic_numbers: of the sites, 0 where there is none.
            space_group: 1-230.
            energy: in the network's unit.
            source: sample tensor of the crystal to be modified, in the network's units.
            templates: known crystals, in the network's units.
        """
        ...

    def predict(
        self, x: Float[Array, "batch rows 3"], t: Float[Array, " batch"], encoded: Any
    ) -> Float[Array, "batch rows answers"]:
        """What the process asks for at ``x`` and time ``t``; float32."""
        ...

    def __call__(
        self,
        x: Float[Array, "batch rows 3"],
        t: Float[Array, " batch"],
        atomic_numbers: Integer[Array, "batch sites"],
        space_group: Integer[Array, " batch"],
        energy: Float[Array, " batch"],
        source: Float[Array, "batch rows 3"] | None = None,
        templates: sample_tensors.TemplateBatch | None = None,
    ) -> Float[Array, "batch rows answers"]:
        """`encode_conditions`, then `predict`."""
        ...


def variables_of(params: Any, tables: Mapping[str, Any]) -> dict[str, Any]:
    """What a network is applied with: its parameters and its tables."""
    return {**params, TABLES: dict(tables)}
