"""Smooth calibration error: smECE of Blasiok and Nakkiran (2023), from residuals on a fine mesh of the forecast.

smECE_sigma is the integral over [0, 1] of the absolute residual y - f smoothed by a Gaussian kernel of width sigma reflected at 0 and 1;
smECE is its value at the width where the two are equal (their definition 2 and algorithm 1). The reflected kernel is the heat kernel of
the interval, so that smoothing is a product of cosine coefficients.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.fft import dct

Floats = NDArray[np.float64]

MESH = 2048  #: steps of the forecast's mesh on [0, 1]
HALVINGS = 10  #: of the search for the width, which so is a multiple of 1/1024
FINEST = 0.001  #: widths below are not tried
COARSEST = 256
PER_WIDTH = 16


def mesh_matrix(forecast: Floats, mass: Floats) -> sparse.csr_array:
    """Matrix `(n, MESH + 1)` that spreads each row's `mass` at `forecast` in [0, 1] over the two nearest points, keeping its centre."""
    at = forecast * MESH
    left = np.clip(np.floor(at), 0, MESH - 1).astype(np.int64)
    part = at - left
    rows = np.arange(forecast.size)
    entries = (np.r_[mass * (1 - part), mass * part], (np.r_[rows, rows], np.r_[left, left + 1]))
    return sparse.csr_array(entries, shape=(forecast.size, MESH + 1))


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
    """Integral `(b,)` of the absolute smoothed residual, for one width `(b,)` per row of `coefficients` `(b, MESH + 1)`.

    A wide kernel leaves only low frequencies, so a coarser mesh serves, with at least `PER_WIDTH` steps to the narrowest width.
    """
    mesh = MESH
    while mesh > COARSEST and mesh * float(width.min()) >= 2 * PER_WIDTH:
        mesh //= 2
    frequency = np.pi * np.arange(mesh + 1)
    damped = coefficients[:, : mesh + 1] * np.exp(-0.5 * np.square(width[:, None] * frequency))
    density = np.abs(dct(damped, type=1, axis=1))
    return np.asarray((density.sum(axis=1) - (density[:, 0] + density[:, -1]) / 2) / mesh)
