"""How two features that rotate make a third: real Clebsch-Gordan coefficients."""

import functools
import math

import numpy as np
from jaxtyping import Float


@functools.cache
def coupling(
    left: int, right: int, out: int
) -> Float[np.ndarray, "left_size right_size out_size"]:
    """Coefficients of a product of two degrees, as e3nn-jax has them.

    Components are those of `network.solid_harmonics`. Products of features whose
    components are of size 1 have components of size 1 ("component" normalisation).
    """
    complex_ones = np.zeros((2 * left + 1, 2 * right + 1, 2 * out + 1))
    for m in range(-left, left + 1):
        for n in range(max(-right, -out - m), min(right, out - m) + 1):
            value = _clebsch_gordan(left, m, right, n, out, m + n)
            complex_ones[left + m, right + n, out + m + n] = value
    found = np.einsum(
        "aA,bB,cC,abc->ABC",
        _from_real(left),
        _from_real(right),
        _from_real(out).conj(),
        complex_ones,
    )
    # The coefficients are real with e3nn's phases; sums of squares are 2 out + 1.
    return np.where(np.abs(found.real) < 1e-12, 0, found.real)


def _from_real(degree: int) -> np.ndarray:
    """(complex harmonics m = -l … l, real ones), with e3nn's phase (-i)^l."""
    found = np.zeros((2 * degree + 1, 2 * degree + 1), complex)
    found[degree, degree] = 1
    for m in range(1, degree + 1):
        plus, minus = degree + m, degree - m
        found[minus, plus], found[minus, minus] = 1, -1j
        found[plus, plus], found[plus, minus] = (-1) ** m, 1j * (-1) ** m
        found[[minus, plus]] /= math.sqrt(2)
    return (-1j) ** degree * found


def _clebsch_gordan(j: int, m: int, k: int, n: int, total: int, sum_m: int) -> float:
    """⟨j m k n | total sum_m⟩ by Racah's formula, for integers."""
    f = math.factorial
    before = f(total + j - k) * f(total - j + k) * f(j + k - total)
    before *= (2 * total + 1) * f(total + sum_m) * f(total - sum_m)
    before *= f(j - m) * f(j + m) * f(k - n) * f(k + n)
    terms = 0.0
    for i in range(j + k - total + 1):
        rest = (
            j + k - total - i,
            j - m - i,
            k + n - i,
            total - k + m + i,
            total - j - n + i,
        )
        if min(rest) >= 0:
            terms += (-1) ** i / (f(i) * math.prod(map(f, rest)))
    return math.sqrt(before / f(j + k + total + 1)) * terms
