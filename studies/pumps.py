"""An invented table of pumps: 16 columns of unlike scale and shape, and the density that they were drawn from.

A row begins as a point y of a mixture of three Gaussians, one for each kind of pump. Then columns are mixed, two relations
are bent, and each column gets its shape and its unit:

    z = L y,   z_4 += 0.3 z_3^2,   z_9 += sin(2 z_2),   x_i = f_i(z_i)

with f_i affine, exp (skewed) or a logistic (bounded). Each step can be undone, so the density of a row is exact.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ctm.labelled import LabelledMixture
from ctm.noise import rand, randn

KINDS = ("centrifugal", "gear", "screw")
# name, shape, middle, size of a step of 1 in z
COLUMNS = (
    ("pressure_pa", "line", 101_300.0, 900.0),
    ("flow_m3_s", "line", 4e-3, 3e-4),
    ("speed_rpm", "line", 1450.0, 18.0),
    ("power_w", "line", 5200.0, 240.0),
    ("temperature_c", "line", 61.0, 1.5),
    ("vibration_mm_s", "exp", 1.2, 0.4),
    ("current_a", "line", 11.0, 0.6),
    ("voltage_v", "line", 398.0, 1.1),
    ("valve_open_percent", "logistic", 100.0, 0.8),
    ("oil_level_m", "line", 0.31, 0.012),
    ("hours_since_service", "exp", 900.0, 0.5),
    ("particles_per_litre", "exp", 4e4, 0.35),
    ("strain", "line", 2e-5, 1.2e-6),
    ("torque_nm", "line", 34.0, 2.2),
    ("sound_db", "line", 72.0, 1.3),
    ("leakage_kg_s", "exp", 2e-6, 0.6),
)
NAMES = [name for name, *_ in COLUMNS]
D = len(COLUMNS)


def _world() -> tuple[LabelledMixture, Tensor]:
    """The mixture of y, and the matrix L: triangular, with ones on its diagonal."""
    rng = torch.Generator().manual_seed(14)
    means = 1.5 * randn((3, D), rng, dtype=torch.float64)
    mix = torch.eye(D, dtype=torch.float64) + torch.tril(0.6 * rand((D, D), rng, dtype=torch.float64) - 0.3, -1)
    return LabelledMixture(means, 1.0, [0, 1, 2], [0.5, 0.3, 0.2]), mix


WORLD, MIX = _world()


def _bend(z: Tensor, sign: int) -> Tensor:
    """The two bent relations added (1) or taken away (-1); what they depend on stays."""
    z = z.clone()
    z[:, 4] += sign * 0.3 * z[:, 3] ** 2
    z[:, 9] += sign * torch.sin(2 * z[:, 2])
    return z


def from_latent(y: Tensor) -> Tensor:
    """Rows in their units, ``(n, 16)``, from points y."""
    z = _bend(y @ MIX.T, 1)
    columns = []
    for (_, shape, middle, step), column in zip(COLUMNS, z.T, strict=True):
        if shape == "line":
            columns.append(middle + step * column)
        elif shape == "exp":
            columns.append(middle * (step * column).exp())
        else:
            columns.append(middle * (step * column).sigmoid())
    return torch.stack(columns, 1)


def table(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """``n`` rows ``(n, 16)`` in float64, in their units, and the kind of each, ``(n,)``."""
    y, kinds = WORLD.sample_labelled(n, generator=torch.Generator().manual_seed(seed))
    return from_latent(y.double()), kinds


def log_density(x: Tensor) -> Tensor:
    """The exact log density of rows in their units, in nats, ``(n,)``; -inf where no row can be."""
    columns, slopes = [], []
    for (_, shape, middle, step), column in zip(COLUMNS, x.double().T, strict=True):
        if shape == "line":
            z, slope = (column - middle) / step, torch.full_like(column, step)
        elif shape == "exp":
            z, slope = (column / middle).log() / step, step * column
        else:
            z, slope = (column / middle).logit() / step, step * column * (1 - column / middle)
        columns.append(z)
        slopes.append(slope.log())
    z, possible = torch.stack(columns, 1), torch.stack(slopes, 1).sum(1)
    sound = z.isfinite().all(1) & possible.isfinite()
    y = torch.linalg.solve(MIX, _bend(z, -1).T).T  # det L = 1, and bending keeps volumes
    found = torch.full((len(x),), -torch.inf, dtype=torch.float64)
    found[sound] = WORLD.log_prob(y[sound]) - possible[sound]
    return found


def write(path: str | Path, n: int, seed: int) -> None:
    """A CSV of ``n`` rows with a header; the kind of pump is its last column."""
    rows, kinds = table(n, seed)
    with open(path, "w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow([*NAMES, "kind"])
        lines.writerows([*row, KINDS[kind]] for row, kind in zip(rows.tolist(), kinds.tolist(), strict=True))


def read(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """The numbers ``(n, 16)`` and the kinds ``(n,)`` of such a file."""
    numbers = np.loadtxt(path, delimiter=",", skiprows=1, usecols=range(D))
    return numbers, np.loadtxt(path, delimiter=",", skiprows=1, usecols=D, dtype=str)
