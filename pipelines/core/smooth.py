"""Smooth calibration error: smECE of Blasiok and Nakkiran (2023), from residuals on a fine mesh of the forecast.

smECE_sigma is the integral over [0, 1] of the absolute residual y - f smoothed by a Gaussian kernel of width sigma reflected at 0 and 1;
smECE is its value at the width where the two are equal (their definition 2 and algorithm 1). The reflected kernel is the heat kernel of
the interval, so that smoothing is a product of cosine coefficients.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dct

Floats = NDArray[np.float64]

MESH = 2048  #: steps of the forecast's mesh on [0, 1]
HALVINGS = 10  #: of the search for the width, which so is a multiple of 1/1024
FINEST = 0.001  #: widths below are not tried


def on_mesh(forecast: Floats, mass: Floats) -> Floats:
    """Spread `mass` `(n,)` at `forecast` `(n,)` in [0, 1] over the two nearest points of the mesh `(MESH + 1,)`, keeping its centre."""
    at = forecast * MESH
    left = np.clip(np.floor(at), 0, MESH - 1).astype(np.int64)
    part = at - left
    spread = np.bincount(left, weights=mass * (1 - part), minlength=MESH + 1)
    return np.asarray(spread + np.bincount(left + 1, weights=mass * part, minlength=MESH + 1))


def smooth_error(residual: Floats, total: Floats) -> Floats:
    """SmECE `(b,)` of summed residuals on the mesh `(b, MESH + 1)`, divided by the rows' total weight `(b,)`."""
    ends = np.ones(MESH + 1)
    ends[[0, -1]] = 2.0
    coefficients = dct(residual * ends, type=1, axis=1) / total[:, None] / 2
    coefficients[:, -1] = 0.0
    low, high = np.zeros(len(residual)), np.ones(len(residual))
    for _ in range(HALVINGS):
        width = (low + high) / 2
        wider = (width < FINEST) | (width < _at_width(coefficients, width))
        low, high = np.where(wider, width, low), np.where(wider, high, width)
    return _at_width(coefficients, high)


def _at_width(coefficients: Floats, width: Floats) -> Floats:
    """Integral `(b,)` of the absolute smoothed residual, for one width `(b,)` per row of `coefficients` `(b, MESH + 1)`."""
    frequency = np.pi * np.arange(MESH + 1)
    density = np.abs(dct(coefficients * np.exp(-0.5 * np.square(width[:, None] * frequency)), type=1, axis=1))
    return np.asarray((density.sum(axis=1) - (density[:, 0] + density[:, -1]) / 2) / MESH)
