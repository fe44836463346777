"""Figures say what their arrays say: scales, masks, styles, and nothing left behind."""

from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.container import BarContainer
from matplotlib.figure import Figure

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


IMAGE = np.linspace(0, 1, 3 * 8 * 8).reshape(3, 8, 8)
MAP = np.linspace(-0.2, 1.2, 64).reshape(8, 8)


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in [axes.title, *axes.texts]]


def test_maps_over_photographs_are_cut_to_their_scale_and_let_the_photograph_through() -> None:
    axes = plots.canvas(1, 1, 1)[1][0, 0]
    drawn = plots.show_over(axes, IMAGE, MAP, "title")
    assert (drawn.get_clim(), drawn.get_alpha() < 1, drawn.cmap.name) == ((0, 1), True, plots.UNSIGNED)
    signed = plots.show_over(axes, IMAGE, MAP, signed=True)
    assert (signed.get_clim(), signed.cmap.name) == ((-1, 1), plots.SIGNED)


def journey_row(**changes: Any) -> dict[str, Any]:
    row = {"side": "net", "image": IMAGE, "top": [("cat", 0.75), ("dog", 0.25)], "lime": IMAGE, "all_units": MAP, "advise": MAP,
           "scores": torch.tensor([0, 0, 1, 3])}  # fmt: skip
    return row | changes


def test_a_journey_has_six_lettered_panels_a_network_and_says_what_is_missing() -> None:
    figure = plots.journey([journey_row(), journey_row(lime=None)])
    assert [t for t in texts(figure) if t.startswith("(")][::6] == ["(a) photograph", "(g) photograph"]
    assert "cat 0.75" in texts(figure) and "not\nmeasured" in texts(figure)
    bars = next(axes for axes in figure.axes if axes.get_title() == "(e) unit scores")
    assert [bar.get_height() for bar in bars.patches] == [2, 1, 0, 1] and bars.get_yscale() == "log"


def test_densities_count_what_lies_outside_and_what_does_not_exist() -> None:
    grid = np.linspace(0, 1, 4)
    row = {"title": "unit 1", "map": [[0.1, 0.2], [0.3, 1.5]], "signed": False, "samples": [0.1, 0.2, 0.3, 1.5], "grid": grid,
           "density": [0.0, 2.0, 0.5, 0.0], "peaks": 1}  # fmt: skip
    figure = plots.unit_densities([row, row | {"density": [np.nan] * 4, "signed": True}])
    titles = [axes.get_title() for axes in figure.axes]
    assert "4 values, 1 outside 0..1: 1 peaks" in titles and "4 values, 1 outside 0..1: no density" in titles
    [line] = next(axes for axes in figure.axes if "1 peaks" in axes.get_title()).lines
    np.testing.assert_array_equal(line.get_xydata(), np.stack([grid, row["density"]], 1))


def test_groups_show_the_reported_map_in_bold_even_when_not_all_maps_fit() -> None:
    row = {"side": "net", "image": IMAGE, "scores": [0, 1, 1], "maps": np.stack([MAP] * 7),
           "titles": [f"{p} peaks" for p in range(7)], "reported": 6}  # fmt: skip
    figure = plots.groups([row, row | {"reported": 0}], columns=3)
    bold = [axes.get_title() for axes in figure.axes if axes.title.get_fontweight() == "bold"]
    assert bold == ["6 peaks", "0 peaks"]
    assert [t for t in texts(figure) if t.endswith("peaks")] == ["4 peaks", "5 peaks", "6 peaks", "0 peaks", "1 peaks", "2 peaks"]


def test_scores_have_a_bar_at_the_mean_and_diamonds_where_published() -> None:
    figure = plots.scores({"net": {"own row": [0.1], "advise": [0.2, 0.4]}}, "AVX", {"net": {"advise": [0.28]}})
    dots, mean, diamond = figure.axes[0].lines[:3]
    assert dots.get_xdata().tolist() == [0.2, 0.4] and list(mean.get_xdata()) == [pytest.approx(0.3)]
    assert (diamond.get_xdata()[0], diamond.get_marker()) == (0.28, "D")
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["ADVISE", "own row"]


def test_centres_are_marked_where_they_are() -> None:
    row = {"side": "net", "image": IMAGE, "maps": {"early": MAP, "late": MAP}, "centres": {"early": (1, 2), "late": (4, 4)},
           "distances": {"early": [0.1, 0.3], "late": [0.0]}}  # fmt: skip
    early, _, right = plots.centres([row], {"random maps": 0.04}).axes
    middle, centre = early.lines
    assert [list(map(float, *line.get_xydata())) for line in (middle, centre)] == [[4, 4], [2, 1]]
    assert [float(line.get_ydata()[0]) for line in right.lines[1::2][:2]] == pytest.approx([0.2, 0.0])


def test_ablation_draws_means_with_standard_errors() -> None:
    figure = plots.ablation(IMAGE, {"net": {"advise": [[0.2, 0.4], [0.4, 0.8]], "fem": [[0.1, 0.1], [0.1, 0.1]]}}, [0.0, 0.1])
    shown, axes = figure.axes
    assert shown.get_title() == "noise of density 0.1"
    means = [container.lines[0].get_ydata().tolist() for container in axes.containers]
    assert means == [pytest.approx([0.3, 0.6]), pytest.approx([0.1, 0.1])]
    low, high = axes.containers[0].lines[2][0].get_segments()[0][:, 1]
    assert (low, high) == pytest.approx((0.2, 0.4))
    assert plots.png(plots.ablation(IMAGE, {"net": {"advise": [[0.2]]}}, [0.0])).startswith(b"\x89PNG")


def test_randomisation_names_what_was_made_random() -> None:
    figure = plots.randomisation({"net": {"advise": [[1.0, 0.5], [1.0, 0.1]]}}, {"net": ["nothing", "head"]}, "correlation")
    [axes] = figure.axes
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [1.0, 0.3])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["nothing", "head"]


def test_bars_of_scores_are_means_with_the_range() -> None:
    figure = plots.score_bars({"net": {"early": [[0.5, 0.5], [1.0, 0.0]], "late": [[0.0, 1.0], [0.0, 1.0]]}})
    early, late = (c for c in figure.axes[0].containers if isinstance(c, BarContainer))
    assert [bar.get_height() for bar in [*early, *late]] == pytest.approx([0.75, 0.25, 0.0, 1.0])


def test_rewards_and_intervals_are_where_their_numbers_are() -> None:
    dots = plots.rewards({"gaussian": ([0.3], [0.4]), "advise": ([0.2, 0.5], [0.1, 0.9])}, "kept", "AVX").axes[0].lines
    assert [line.get_label() for line in dots] == ["ADVISE", "centred Gaussian"]
    assert dots[0].get_xydata().tolist() == [[0.2, 0.1], [0.5, 0.9]]
    axes = plots.intervals(["a", "b"], ["advise", "lime"], [0.1, 0.2], [0.2, 0.3], [0.05, 0.25], [True, False], "AVX").axes[0]
    bars, diamonds = axes.lines[::2], axes.lines[1::2]
    assert [list(bar.get_xdata()) for bar in bars] == [[0.1, 0.2], [0.2, 0.3]]
    assert [d.get_markerfacecolor() for d in diamonds] == ["#CC3311", "white"]


@pytest.mark.parametrize("networks", [1, 2, 3, 4])
def test_figures_of_several_networks_fit_a_page(networks: int) -> None:
    names = [f"net {i}" for i in range(networks)]
    drawn = [
        plots.journey([journey_row()] * networks),
        plots.scores({name: {"advise": [0.1, 0.2]} for name in names}, "AVX"),
        plots.ablation(IMAGE, {name: {"advise": [[0.1, 0.2]]} for name in names}, [0.0, 0.1]),
        plots.randomisation({n: {"advise": [[1.0]]} for n in names}, {n: ["nothing"] for n in names}, "correlation"),
        plots.score_bars({name: {"layer": [[0.5, 0.5]]} for name in names}),
    ]
    assert all(figure.get_size_inches()[0] <= plots.PAGE for figure in drawn)
