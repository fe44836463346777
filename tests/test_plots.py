"""Figures say what their arrays say: scales, masks, styles, and nothing left behind."""

import matplotlib as mpl
import numpy as np
import pytest
import torch

from xai_lib import plots
from xai_lib.explanation import Explanation


def test_signed_maps_are_clamped_symmetrically_about_zero() -> None:
    values = np.linspace(-1, 3, 20_000).reshape(1, 100, 200)
    [drawn] = plots.maps(values, signed=True).axes[0].images
    limit = np.percentile(np.abs(values), 99.5)
    assert drawn.get_clim() == pytest.approx((-limit, limit))
    assert limit < 3


def test_unsigned_maps_start_at_zero_and_end_at_the_maximum() -> None:
    figure = plots.maps(torch.tensor([[[1.0, 2.0]], [[4.0, 8.0]]]), signed=False, titles=["a", "b"])
    drawn = [axes.images[0] for axes in figure.axes if axes.images]
    assert [image.get_clim() for image in drawn] == [(0, 2), (0, 8)]
    assert [axes.get_title() for axes in figure.axes if axes.images] == ["a", "b"]


def test_a_map_of_zeros_is_drawn() -> None:
    assert plots.png(plots.maps(np.zeros((1, 4, 4)), signed=True)).startswith(b"\x89PNG")


def test_masked_shows_kept_superpixels_and_black() -> None:
    image, segments = torch.rand(3, 2, 2) / 2 + 0.5, torch.tensor([[0, 1], [2, 1]])
    shown = plots.masked(image, segments, np.array([True, False, True]))
    for (y, x), expected in {(0, 0): 1, (0, 1): 0, (1, 0): 1, (1, 1): 0}.items():
        np.testing.assert_array_equal(shown[:, y, x], image.numpy()[:, y, x] * expected)


def test_methods_differ_in_colour_and_in_dash() -> None:
    colours, dashes = zip(*plots.METHOD_COLOURS.values(), strict=True)
    assert len(set(colours)) == len({str(dash) for dash in dashes}) == len(plots.METHOD_COLOURS)
    assert set(plots.METHOD_NAMES) == set(plots.METHOD_COLOURS)


def test_bands_are_median_and_quartiles() -> None:
    runs = np.array([[0.0, 1.0], [1.0, 2.0], [5.0, 9.0]])
    axes = plots.curves({"photo": {"elime": runs}}, {"photo": 4.0}, "calls", "log-odds").axes[0]
    median, level = axes.lines
    np.testing.assert_array_equal(median.get_ydata(), [1, 2])
    assert set(level.get_ydata()) == {4.0}
    low, high = axes.collections[0].get_paths()[0].get_extents().intervaly
    assert (low, high) == pytest.approx((0.5, 5.5))


def test_superpixels_are_outlined_where_labels_change_and_counted() -> None:
    segments = np.zeros((6, 6), dtype=int)
    segments[:, 3:] = 1
    axes = plots.superpixels([np.ones((3, 6, 6))], {"slic": [segments]}, ["photo"]).axes[0]
    border = ~np.ma.getmaskarray(axes.images[1].get_array())
    assert border[:, 3].all() and border.sum() == 6
    assert axes.get_title() == "photo: 2\nslic"


def test_drawing_leaves_the_global_style_alone_and_ignores_a_readers_own() -> None:
    with mpl.rc_context({"font.size": 30}):
        before = dict(mpl.rcParams)
        figure = plots.panels([[np.ones((3, 4, 4))]], [["title"]])
        assert dict(mpl.rcParams) == before
    assert figure.axes[0].title.get_fontsize() == 9
    assert figure.get_size_inches()[0] <= plots.PAGE


def test_an_explanation_shows_itself_as_a_picture() -> None:
    found = Explanation("elime", torch.tensor([3, 5]), torch.rand(2, 8, 8), False, 10, 0.1)
    assert found._repr_png_().startswith(b"\x89PNG")
