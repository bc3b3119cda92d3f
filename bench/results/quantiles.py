"""Student's quantile without scipy, which a command with nothing to do would import for it alone.

With T = sqrt(df) sinh U the density of U is cosh(u)^-df but for a constant. Its tail is integrated
by the trapezoidal rule after u -> exp(x - exp(-x)), the double-exponential formula for what decays
exponentially (H. Takahasi and M. Mori, *Double Exponential Formulas for Numerical Integration*,
1974). The logarithm of a tail of such a density is concave, so that Newton's method started at 0
passes the quantile once and then comes down to it from above.
"""

from __future__ import annotations

import functools
import math

import numpy as np

_AT = np.arange(-3.7, 5.5, 0.0625)
_STEPS = np.exp(_AT - np.exp(-_AT))
_WEIGHTS = 0.0625 * _STEPS * (1 + np.exp(-_AT))


@functools.lru_cache(maxsize=4096)
def two_sided(df: float, alpha: float) -> float:
    """What |T| exceeds with probability `alpha`, T having Student's distribution.

    As exact as floating-point numbers for df >= 1 and alpha from 1e-100 to 1.

    >>> round(two_sided(2, 0.05), 4), round(two_sided(1e6, 0.05), 4)
    (4.3027, 1.96)
    """
    if alpha == 0:
        return math.inf
    u, step, scale = 0.0, math.inf, math.sqrt(df)
    goal = math.log(alpha) + _log_tail(df, 0.0)[0]
    while abs(step) > 1e-14 * (u + 1 / scale):
        log_tail, slope = _log_tail(df, u)
        step = (goal - log_tail) / slope
        u += step
    return scale * math.sinh(u)


def _log_tail(df: float, u: float) -> tuple[float, float]:
    """Logarithm of the integral of cosh^-df from u on, and its derivative."""
    here, reach = math.log1p(2 * math.sinh(u / 2) ** 2), 1 / (math.sqrt(df) + df * math.tanh(u))
    log_cosh = np.log1p(2 * np.sinh((u + reach * _STEPS) / 2) ** 2)
    relative = reach * float(_WEIGHTS @ np.exp(df * (here - log_cosh)))
    return math.log(relative) - df * here, -1 / relative
