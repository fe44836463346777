"""Adaptive kernel density of every unit of a layer at once, and the number of its peaks.

The estimator is that of Shimazaki and Shinomoto (J. Comput. Neurosci. 29, 2010), in the form in which the authors of
ADVISE (Dehshibi et al. 2022, arXiv 2203.01289, eqs. 1 to 9) compute it. Here the samples become histograms, each different
histogram goes once through the search in `xai_lib.stiffness`, and what comes out is read at the points asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from xai_lib.errors import XaiError
from xai_lib.stiffness import Section, chunks, slices, working_grid

LARGEST_GRID = 1000  #: points of the working grid, at most (authors' code)


class DensityError(XaiError):
    """Samples, a grid or a number of bandwidths that no density can be taken of."""


@dataclass(frozen=True)
class Density:
    """Densities of `U` units at `Z` points, float64.

    `density` `(U, Z)`, per unit of x: each sums to 1 over the unit's working grid. `bandwidth` `(U, Z)`: standard
    deviation of the Gaussian at each point, in units of x. Both are NaN for units without a density. `grid` `(Z,)`.
    """

    density: Tensor
    bandwidth: Tensor
    grid: Tensor


def adaptive_kde(samples: Tensor, *, n_bandwidths: int = 10, grid: Tensor | None = None) -> Density:
    """The adaptive density of each row of `samples` `(U, Z)`, float32 or float64; the defaults are the authors' code.

    `grid`: evenly spaced, increasing points `(G,)`, by default Z from 0 to 1. Samples outside the grid, NaN and infinite
    ones are dropped, and so are those in its last half cell (authors' code). A unit whose smallest gap is wider than the
    grid's is estimated on a coarser working grid and interpolated. Units with fewer than two samples left, or with a
    working grid of one point, have NaN; so has a unit all of whose samples are dropped in the last half cell. Computed in
    float64 where the samples lie (Apple's GPU has none: there on the processor); memory is bounded whatever U is.
    Raises `DensityError` for wrong shapes.
    """
    x, wanted = _checked(samples, n_bandwidths, grid)
    points, counts, unit = _distinct(x, wanted)
    density = torch.full((len(points), len(wanted)), torch.nan, dtype=torch.float64, device=x.device)
    bandwidth = density.clone()
    for rows in chunks(points, (counts != 0).sum(1), n_bandwidths):
        sizes = points[rows].unique().tolist()
        grids = [(working_grid(n, wanted, n_bandwidths), rows[points[rows] == n]) for n in sizes]
        y, w = Section(grids, counts).run()
        for (on, part), place in zip(grids, slices([len(part) for _, part in grids]), strict=True):
            density[part] = on.at_wanted(y[place, : on.n])
            bandwidth[part] = on.at_wanted(w[place, : on.n])
    return Density(density[unit], bandwidth[unit], wanted)


def count_peaks(density: Tensor) -> Tensor:
    """Number of strict interior maxima of each row of `(U, Z)`, int64 `(U,)`.

    A flat top counts once; end points and NaN never count (the rule of MATLAB's `findpeaks`, which the authors call).
    """
    if density.ndim != 2:
        raise DensityError(f"density: expected shape (U, Z), found {tuple(density.shape)}")
    if density.shape[1] < 3:
        return torch.zeros(len(density), dtype=torch.long, device=density.device)
    slope = density.diff(dim=1).sign()
    places = torch.arange(slope.shape[1], device=slope.device)
    # the last slope that was not flat; beside a NaN there is none
    known = torch.where(slope != 0, places, 0).cummax(1).values
    before = slope.gather(1, known).nan_to_num(0)
    return ((before[:, :-1] > 0) & (slope[:, 1:] < 0)).sum(1)


def _checked(samples: Tensor, n_bandwidths: int, grid: Tensor | None) -> tuple[Tensor, Tensor]:
    if not isinstance(samples, Tensor) or samples.ndim != 2 or not samples.is_floating_point():
        found = f"{samples.dtype} {tuple(samples.shape)}" if isinstance(samples, Tensor) else type(samples).__name__
        raise DensityError(f"samples: expected floats (U, Z), one row a unit, found {found}")
    if n_bandwidths < 1:
        raise DensityError(f"n_bandwidths: expected at least 1, found {n_bandwidths}")
    x = samples.detach()
    x = x.cpu() if x.device.type == "mps" else x
    x = x if x.dtype == torch.float64 else x.float()
    if grid is None:
        return x, torch.linspace(0, 1, x.shape[1], dtype=torch.float64, device=x.device)
    wanted = torch.as_tensor(grid).detach().to(x.device, torch.float64)
    steps = wanted.diff() if wanted.ndim == 1 else wanted
    if wanted.ndim != 1 or len(wanted) < 2 or not ((steps > 0).all() and torch.allclose(steps, steps[0], rtol=1e-4)):
        raise DensityError(f"grid: expected at least two evenly spaced, increasing points, found {tuple(wanted.shape)}")
    return x, wanted


def _working_points(x: Tensor, wanted: Tensor) -> Tensor:
    """Points L of each unit's working grid, `(U,)`; 0 where there is no density."""
    if len(wanted) < 2 or not len(x):
        return torch.zeros(len(x), dtype=torch.long, device=x.device)
    inside = (x >= wanted[0]) & (x <= wanted[-1])
    gaps = x.masked_fill(~inside, torch.inf).sort(1).values.diff(dim=1)  # in the samples' own precision, as MATLAB does
    smallest = torch.where(gaps > 0, gaps, torch.inf).amin(1)  # inf - inf is NaN, and not above 0
    coarse = torch.isfinite(smallest) & (smallest.double() > wanted.diff().amin())
    span = (wanted[-1] - wanted[0]).to(x.dtype)
    points = torch.where(coarse, (span / smallest).ceil().clamp(max=LARGEST_GRID).double(), float(len(wanted)))
    return torch.where(inside.sum(1) < 2, 0, points).long()


def _histogram(x: Tensor, wanted: Tensor, n: int) -> Tensor:
    """Samples a cell `(u, n)`; the last cell takes only samples exactly at its lower edge (authors' code)."""
    t = torch.linspace(float(wanted[0]), float(wanted[-1]), n, dtype=torch.float64, device=x.device)
    edges = t - t.diff().amin() / 2
    place = torch.bucketize(x, edges, right=True) - 1
    valid = (x >= t[0]) & (x <= t[-1]) & ((place < n - 1) | (x == edges[-1]))
    counts = torch.zeros(len(x), n, dtype=torch.int32, device=x.device)
    return counts.scatter_add_(1, place.clamp(0, n - 1), valid.int())


def _distinct(x: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The different histograms of the units, from which all else follows, and which of them is each unit's.

    Points of the working grid `(q,)`, samples a cell `(q, points)`, place `(U,)`. Of the units behind a ReLU, most have
    the same histogram as others.
    """
    points = _working_points(x, wanted)
    found = torch.zeros(len(x), 1 + (int(points.amax()) if len(x) else 0), dtype=torch.int32, device=x.device)
    found[:, 0], x = points, x.double()
    for n in points[points > 1].unique().tolist():
        members = (points == n).nonzero()[:, 0]
        found[members, 1 : n + 1] = _histogram(x[members], wanted, n)
    distinct, unit = found.unique(dim=0, return_inverse=True) if len(x) else (found, points)
    return distinct[:, 0].long(), distinct[:, 1:], unit
