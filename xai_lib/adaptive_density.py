"""Adaptive kernel density of every unit of a layer at once, and the number of its peaks.

The estimator is that of Shimazaki and Shinomoto (J. Comput. Neurosci. 29, 2010), in the form in which the authors of
ADVISE (Dehshibi et al. 2022, arXiv 2203.01289, eqs. 1 to 9) compute it. One unit's estimate is a golden section over the
stiffness γ, each probe of which smooths a bandwidth over the grid (eq. 7) and then the histogram with it (eq. 8). Here a
probe is made for many units together, and three facts spare most of its work:

- The locally best bandwidths take only the M given values, so their ratios to the windows take M² values. Between two
  neighbours of these γ merely scales the smoothed bandwidth, so most probes need no new smoothing.
- Where γ lies below all ratios, the window is wider than the grid, and its Gaussian is a product of a function of t, one
  of s, and exp(ts), a short power series there.
- Exponentials are then left only in the estimate itself, at the occupied cells of the histogram.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache, reduce
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, pad, softplus

from xai_lib.errors import XaiError

LARGEST_GRID = 1000  #: points of the working grid, at most (authors' code)
SMALLEST_STIFFNESS = 1e-12  #: lower end of the golden section; its upper end is 1 (authors' code)
TOLERANCE, STEPS = 1e-5, 29  #: where the golden section stops (authors' code)
PHI = (math.sqrt(5) + 1) / 2
ROOT = math.sqrt(2 * math.pi)
CHUNK = 300_000  #: exponentials held at a time, so that they stay in the processor's cache
TIES = 6  #: largest working grid on which costs tie so often that rounding chooses: there in the plain order of sums
TABLE = 8_000_000  #: values of smoothing kernels held at a time
TERMS = 12  #: of the power series of exp(x) for |x| <= 1/4: the rest is below 2e-16


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
    density = torch.full((len(x), len(wanted)), torch.nan, dtype=torch.float64, device=x.device)
    bandwidth = density.clone()
    points = _working_points(x, wanted)
    x, order = x.double(), []
    counts = torch.zeros(len(x), int(points.amax(0).clamp(min=1)) if len(x) else 1, dtype=torch.float64, device=x.device)
    for n in points.unique().tolist():
        if n < 2:
            continue
        members = (points == n).nonzero()[:, 0]
        counts[members, :n] = _cells(n, wanted, n_bandwidths).histograms(x[members])
        # units of a chunk have about as many occupied cells
        order.append(members[(counts[members] != 0).sum(1).argsort()])
    sequence = torch.cat(order) if order else points[:0]
    for rows in _chunks(sequence, points, (counts != 0).sum(1), n_bandwidths):
        grids = [(_cells(n, wanted, n_bandwidths), rows[points[rows] == n]) for n in points[rows].unique().tolist()]
        y, w = _Section(grids, counts).run()
        start = 0
        for cells, part in grids:
            density[part] = cells.at_wanted(y[start : start + len(part), : cells.n])
            bandwidth[part] = cells.at_wanted(w[start : start + len(part), : cells.n])
            start += len(part)
    return Density(density, bandwidth, wanted)


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


def _chunks(sequence: Tensor, points: Tensor, occupied: Tensor, m: int) -> list[Tensor]:
    """Units for one section each: at most `CHUNK` exponentials and `TABLE` kernel values, grids of about the same size."""
    found, start, most, rows, last = [], 0, 1, 0, 0
    sizes, cells = points[sequence].tolist(), occupied[sequence].tolist()
    for end, (n, j) in enumerate(zip(sizes, cells, strict=True)):
        wider, longer = max(most, j, n // 4), rows + (n if n != last else 0)
        full = (end + 1 - start) * n * wider > CHUNK or longer * m * 2 * n > TABLE or n > 2 * sizes[start] + 8
        if end > start and (full or (n > TIES) != (sizes[start] > TIES)):
            found.append(sequence[start:end])
            start, wider, longer = end, max(j, n // 4, 1), n
        most, rows, last = wider, longer, n
    return [*found, sequence[start:]] if len(sequence) else []


def _cells(n: int, wanted: Tensor, m: int) -> _Cells:
    ends = float(wanted[0]), float(wanted[-1])
    return (_kept_cells if n <= 64 else _Cells)(n, len(wanted), ends, m, wanted.device)  # large tables are not worth their memory


class _Cells:
    """A working grid of `n` points, and everything about it that does not depend on the samples."""

    def __init__(self, n: int, wanted: int, ends: tuple[float, float], m: int, device: torch.device) -> None:
        self.n, self.m = n, m
        self.wanted = torch.linspace(*ends, wanted, dtype=torch.float64, device=device)
        self.t = torch.linspace(*ends, n, dtype=torch.float64, device=device)
        self.dt = float(self.t.diff().amin())
        first, last = (math.log(math.expm1(w)) for w in (5 * self.dt, ends[1] - ends[0]))
        self.widths = softplus(torch.linspace(first, last, m, dtype=torch.float64), threshold=50).to(device)
        place = torch.arange(n, device=device)
        self.apart = (place[:, None] - place).abs()
        self.squares = (self.t[:, None] - self.t).square()
        self.ratios = (self.widths / self.widths[:, None]).flatten().unique()  #: all that a best width over a window can be

    @cached_property
    def smooth(self) -> Tensor:
        """Gaussian smoothing by each width, `(n, m * n)`: circular, as an FFT of the next power of two does it."""
        blocks = []
        for w in (self.widths / self.dt).tolist():
            size = 2 ** math.ceil(math.log2(self.n + 3 * w))
            f = torch.fft.rfftfreq(size, dtype=torch.float64)
            kernel = torch.fft.irfft(torch.exp(-0.5 * (2 * math.pi * w * f) ** 2), size).to(self.t.device)
            blocks.append(kernel[self.apart])
        return torch.cat(blocks, 1)

    @cached_property
    def kernels(self) -> Tensor:
        """Row m * n + s: the window of width m around s, and the same times its width, `(m * n, 2, n)`."""
        w = self.widths[:, None, None]
        windows = torch.exp(self.squares / (-2 * w.square())) / (ROOT * w)
        return torch.stack([windows, windows * w], 2).flatten(0, 1)

    def histograms(self, x: Tensor) -> Tensor:
        """Samples a cell over the cell's width, `(u, n)`; the last cell takes only samples exactly at its lower edge."""
        edges = self.t - self.dt / 2
        place = torch.bucketize(x, edges, right=True) - 1
        valid = (x >= self.t[0]) & (x <= self.t[-1]) & ((place < self.n - 1) | (x == edges[-1]))
        counts = torch.zeros(len(x), self.n, dtype=torch.float64, device=x.device)
        return counts.scatter_add_(1, place.clamp(0, self.n - 1), valid.double()) / self.dt

    def ranks(self, h: Tensor) -> Tensor:
        """For each window the width with the least local cost (eqs. 3 to 6) over the window's, as its place among
        `ratios`, int16 `(u, m, n)`."""
        s = (h @ self.smooth).view(-1, self.m, self.n)
        cost = s * (s - 2 * h[:, None]) + (2 / ROOT) / self.widths[:, None] * h[:, None]
        best = torch.stack([_first_least(cost @ block) for block in self.smooth.split(self.n, 1)], 1)
        place = torch.searchsorted(self.ratios, self.widths / self.widths[:, None])  # (window, width)
        return place.to(torch.int16)[torch.arange(self.m, device=h.device)[:, None], best]

    def at_wanted(self, values: Tensor) -> Tensor:
        """Values on the working grid, linearly interpolated to the grid that was asked for."""
        if self.n == len(self.wanted):
            return values
        right = torch.searchsorted(self.t, self.wanted).clamp(1, self.n - 1)
        slope = (values[:, right] - values[:, right - 1]) / (self.t[right] - self.t[right - 1])
        return values[:, right - 1] + slope * (self.wanted - self.t[right - 1])  # in this form a flat top stays flat


class _Section:
    """The golden section over the stiffness for the units of one chunk, whose working grids may differ in size.

    Everything is padded to the largest grid, `n` points: `valid` `(u, n)` says which are real.
    """

    def __init__(self, grids: list[tuple[_Cells, Tensor]], counts: Tensor) -> None:
        sizes = [len(rows) for _, rows in grids]
        which = torch.arange(len(grids), device=counts.device).repeat_interleave(torch.tensor(sizes, device=counts.device))
        u, n, m = len(which), max(cells.n for cells, _ in grids), grids[0][0].m
        self.n, self.m = n, m
        self.h = counts[torch.cat([rows for _, rows in grids]), :n]
        self.rank = torch.full((u, m, n), -1, dtype=torch.int16, device=counts.device)
        for (cells, _), part in zip(grids, _parts(sizes), strict=True):
            self.rank[part, :, : cells.n] = cells.ranks(self.h[part, : cells.n])
        self.lowest = self.rank.amin(1)
        self.valid = self.lowest >= 0
        self.t = torch.stack([_padded(cells.t, n, float(cells.t[-1])) for cells, _ in grids])[which]
        self.dt = torch.tensor([cells.dt for cells, _ in grids], dtype=torch.float64, device=counts.device)[which, None]
        self.wide = torch.stack([cells.widths.amax() for cells, _ in grids])[which, None]
        self.widths = torch.stack([cells.widths for cells, _ in grids])[which]
        most = max(len(cells.ratios) for cells, _ in grids)
        self.ratios = torch.stack([_padded(cells.ratios, most, math.inf) for cells, _ in grids])[which]
        tables = [_padded(cells.kernels, n, 0.0).flatten(1) for cells, _ in grids]
        self.table = torch.cat([*tables, tables[0].new_zeros(1, 2 * n)])  # its last row stands for "none"
        lengths = torch.tensor([0, *[len(t) for t in tables]], device=counts.device)
        self.offset = lengths.cumsum(0)[:-1][which, None] + torch.arange(n, device=counts.device)
        self.stride = torch.tensor([cells.n for cells, _ in grids], device=counts.device)[which, None]
        self._prepare()

    def _prepare(self) -> None:
        """What no probe changes."""
        u, n, h = len(self.h), self.n, self.h
        self.total = h.sum(1, keepdim=True) * self.dt
        self.doubled = h * (2 / ROOT)
        most = max(1, int((h != 0).sum(1).amax()))
        place = (h != 0).to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most]
        self.mass = (h.gather(1, place) * (self.dt / ROOT))[:, :, None]
        self.exponents = (self.t[:, :, None] - self.t.gather(1, place)[:, None]).square_().mul_(-0.5)
        self.half = (self.t[:, -1:] - self.t[:, :1]) / 2
        middle = (self.t - self.t[:, :1]) / self.half - 1
        self.powers = torch.cat([middle.new_ones(u, n, 1), middle[:, :, None].expand(-1, -1, TERMS - 1)], 2).cumprod(2)
        self.inverse = 1 / torch.arange(TERMS, device=h.device).double().clamp(min=1)
        self.interval = torch.full((u,), -1, device=h.device)
        self.sums = h.new_zeros(u, 2 * n)
        self.below = torch.zeros(u, n, dtype=torch.bool, device=h.device)

    def run(self) -> tuple[Tensor, Tensor]:
        """Density and bandwidth on the working grid, of the stiffness that was probed last (authors' code)."""
        u = len(self.h)
        a, b = self.h.new_full((u,), SMALLEST_STIFFNESS), self.h.new_ones(u)
        c1, c2 = (PHI - 1) * a + (2 - PHI) * b, (2 - PHI) * a + (PHI - 1) * b
        f1 = self.probe(c1)[0]
        f2, y, w = self.probe(c2)
        probed = c2
        for _ in range(STEPS):
            active = (b - a).abs() > TOLERANCE * (c1.abs() + c2.abs())
            if not active.any():
                break
            left, right = active & (f1 < f2), active & ~(f1 < f2)
            a, b = torch.where(right, c1, a), torch.where(left, c2, b)
            inner = torch.where(left, c1, c2)
            new = torch.where(left, (PHI - 1) * a + (2 - PHI) * b, (2 - PHI) * a + (PHI - 1) * b)
            probed = torch.where(active, new, probed)
            f, y_new, w_new = self.probe(probed)
            best = torch.where(left, f1, f2)
            c1, c2 = torch.where(left, new, torch.where(right, inner, c1)), torch.where(right, new, torch.where(left, inner, c2))
            f1, f2 = torch.where(left, f, torch.where(right, best, f1)), torch.where(right, f, torch.where(left, best, f2))
            y, w = torch.where(active[:, None], y_new, y), torch.where(active[:, None], w_new, w)
        return y / (y.sum(1, keepdim=True) * self.dt), w

    def probe(self, stiffness: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Cost of each unit's stiffness (eq. 8), the estimate scaled to the number of samples, and the bandwidths."""
        if self.n <= TIES:
            return self._plain_probe(stiffness)
        w = torch.where(self.valid, self.bandwidths(stiffness), 1)
        kernel = self.exponents * w.reciprocal().square()[:, :, None]
        y = torch.where(self.valid, torch.bmm(kernel.exp_(), self.mass)[:, :, 0] / w, 0)
        y = y * (self.total / (y.sum(1, keepdim=True) * self.dt))
        cost = (y * (y - 2 * self.h) + self.doubled / w).sum(1) * self.dt[:, 0]
        return cost, y, w

    def bandwidths(self, stiffness: Tensor) -> Tensor:
        """The bandwidth at every point: best widths smoothed over windows that belong to the stiffness (eq. 7), `(u, n)`."""
        interval = torch.searchsorted(self.ratios, stiffness[:, None])[:, 0]
        changed = (interval != self.interval).nonzero()[:, 0]
        if len(changed):
            self._smooth(changed, interval[changed])
        weight, weighted = self.sums.chunk(2, 1)
        if not self.below.any():
            return weighted * stiffness[:, None] / weight
        # in this form the bandwidth is exactly `wide` where all windows are wider than the grid
        return self.wide + (weighted * stiffness[:, None] - self.wide * weight) / (weight + self._beyond(stiffness[:, None]))

    def _last_reached(self, rank: Tensor, interval: Tensor) -> Tensor:
        """The last window whose ratio is not below the stiffness, `(u, n)`; -1 for none."""
        order = torch.arange(1, self.m + 1, device=rank.device, dtype=torch.int8)[:, None]
        return ((rank >= interval[:, None]) * order).amax(1).long() - 1

    def _smooth(self, rows: Tensor, interval: Tensor) -> None:
        """Sums over windows for units whose stiffness has come between two other ratios."""
        last = self._last_reached(self.rank[rows], interval[:, None])
        below = self.valid[rows] & (self.lowest[rows] >= interval[:, None])
        none = below | (last < 0)
        index = torch.where(none, len(self.table) - 1, self.offset[rows] + last * self.stride[rows])
        self.sums[rows] = embedding_bag(index, self.table, mode="sum")
        self.below[rows], self.interval[rows] = below, interval

    def _beyond(self, stiffness: Tensor) -> Tensor:
        """Sums over the windows of width `wide / stiffness`, around the points where the stiffness is below all ratios.

        exp(-q (t - s)^2 / 2) = exp(-q t^2 / 2) exp(-q s^2 / 2) exp(q t s), the last as a power series: q t s stays
        within 1/4 when t and s are counted from the middle of the grid.
        """
        q = (stiffness * (self.half / self.wide)).square()
        factors = q * self.inverse
        factors[:, 0] = 1
        edge = torch.exp(-0.5 * q * self.powers[:, :, 1].square())
        moments = torch.bmm((edge * self.below)[:, None], self.powers)[:, 0] * factors.cumprod(1)
        return edge * torch.bmm(self.powers, moments[:, :, None])[:, :, 0] * (stiffness / (ROOT * self.wide))

    def _plain_probe(self, stiffness: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same without shortcuts, sum by sum as the authors' code: the widths of a coarse grid lie so near to each
        other that costs are equal but for rounding, and rounding then decides where the section goes."""
        g = stiffness[:, None]
        interval = torch.searchsorted(self.ratios, g)
        last = self._last_reached(self.rank, interval)
        own = torch.where(self.lowest >= interval, self.wide, self.widths.gather(1, last.clamp(min=0)) * g)
        apart = self.t[:, :, None] - self.t[:, None]
        windows = _gauss(apart, (own / g)[:, None]) * self.valid[:, None]
        w = torch.where(self.valid, _sum(own[:, None] * windows) / _sum(windows), 1)
        y = torch.where(self.valid, _sum((self.h * self.dt)[:, None] * _gauss(apart, w[:, :, None])), 0)
        y = y * (self.total / (_sum(y)[:, None] * self.dt))
        return self.dt[:, 0] * _sum(y**2 - 2 * y * self.h + 2 / ROOT / w * self.h), y, w


def _parts(sizes: list[int]) -> list[slice]:
    ends = list(accumulate(sizes))
    return [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]


def _padded(values: Tensor, length: int, value: float) -> Tensor:
    """The last axis filled up to `length`."""
    return pad(values, (0, length - values.shape[-1]), value=value)


def _first_least(values: Tensor) -> Tensor:
    """The place of the first minimum along axis 1, as `argmin`, which takes ten times as long on such shapes."""
    m = values.shape[1]
    backwards = torch.arange(m, 0, -1, dtype=torch.int8, device=values.device)[:, None]
    return m - ((values == values.amin(1, keepdim=True)) * backwards).amax(1).long()


def _gauss(distance: Tensor, width: Tensor) -> Tensor:
    return torch.exp(-0.5 * (distance / width) ** 2) / (ROOT * width)


def _sum(values: Tensor) -> Tensor:
    """Over the last axis, term by term from the first."""
    return reduce(torch.add, values.unbind(-1))


_kept_cells = lru_cache(maxsize=64)(_Cells)
