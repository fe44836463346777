"""Figures of counterfactual search show what they were given."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from xai_lib import plots

PICTURES = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_pictures_stand_over_their_maps_each_about_a_zero_of_its_own() -> None:
    maps = [torch.full((8, 8), -2.0), torch.ones(8, 8), torch.zeros(8, 8)]
    first = [plots.Shown(PICTURES[i], maps[i], f"bear {i}", "cos 1") for i in range(3)]
    rows = [first, [plots.Shown(PICTURES[3], maps[0], "b", "c")]]
    figure = plots.pictures_over_maps(rows, ["taken for\nbear", "taken for\npoodle"])
    drawn = [axes for axes in figure.axes if axes.images]
    assert len(drawn) == 8 and [text.get_text() for text in figure.texts] == ["taken for\nbear", "taken for\npoodle"]
    np.testing.assert_allclose(drawn[0].images[0].get_array(), PICTURES[0].permute(1, 2, 0))
    limits = [axes.images[0].get_clim() for axes in drawn if axes.get_title().startswith(("cos", "c"))]
    assert limits == [(-2, 2), (-1, 1), (-1, 1), (-2, 2)]
    assert plots.png(figure).startswith(b"\x89PNG")


def test_long_names_are_broken_not_overlapped() -> None:
    figure = plots.pictures_over_maps([[plots.Shown(PICTURES[0], torch.ones(8, 8), "standard poodle 0.98", "x")] * 8])
    assert figure.axes[0].get_title() == "standard\npoodle 0.98"


def test_outlines_say_the_settings() -> None:
    figure = plots.search_outline(
        PICTURES[0], noise_shape="z, 64 numbers", class_count=8, features=(96, 4, 5), noises=6, updates=120, learning_rate=0.03,
        classifier="small", generator="other",
    )  # fmt: skip
    words = " ".join(text.get_text() for text in figure.axes[0].texts)
    assert all(w in words for w in ("64 numbers", "6 starts", "4×5×96", "rate 0.03, 120 updates", "small", "other"))
    assert plots.png(figure)
    words = " ".join(text.get_text() for text in plots.transition_outline(PICTURES[:3], phases=200).axes[0].texts)
    assert "phase t of 200" in words


def test_curves_are_means_with_their_spread() -> None:
    curves = np.array([[0.0, 0.2], [0.2, 0.6]])
    axes = plots.search_curves({"rmsprop, 0.03": curves, "adam, 0.1": torch.ones(1, 2)}).axes[0]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [0.1, 0.4])
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["rmsprop, 0.03", "adam, 0.1"]
    band = axes.collections[0].get_paths()[0].vertices
    assert band[:, 1].max() == pytest.approx(0.4 + np.std([0.2, 0.6], ddof=1))


def test_every_group_of_cosines_has_its_line_and_median() -> None:
    groups = {c: {"before": np.array([0.1, 0.2, 0.6]), "searched, wrong": np.array([0.9])} for c in "ab"}
    figure = plots.cosine_distribution(groups)
    assert [axes.get_title() for axes in figure.axes] == ["case a", "case b"]
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["before", "searched, wrong"]
    medians = [line.get_xdata()[0] for line in figure.axes[0].lines if line.get_color() == "black"]
    assert medians == [0.2]


def test_confidences_show_both_classes_the_crossing_and_what_moves() -> None:
    one = np.linspace(0, 1, 11)
    lower = {"neck_width": (np.arange(3), np.array([1.0, 2, 4]))}
    way = plots.Way("a: bear taken for poodle", one, 1 - one, "bear", "poodle", [5.0], lower)
    figure = plots.confidences([way, way._replace(lower=None)])
    upper, _, below, _ = figure.axes
    assert [line.get_linestyle() for line in upper.lines[:2]] == ["-", ":"]
    assert upper.lines[2].get_xdata() == [5.0, 5.0]
    np.testing.assert_allclose(below.lines[0].get_ydata(), [0, 1, 3])
    assert len(plots.confidences([way._replace(lower=None)]).axes) == 1


def test_sheets_are_a_row_a_class() -> None:
    figure = plots.two_sheets({"drawn": PICTURES, "generated": PICTURES}, ["a_b", "c"])
    shown = np.asarray(figure.axes[0].images[0].get_array())
    np.testing.assert_allclose(shown[8:16, 16:24], PICTURES[5].permute(1, 2, 0))
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["a b", "c"] and len(figure.axes) == 2


def test_interventions_draw_the_class_solid_and_its_rival_dotted() -> None:
    curves = {"neck": {"bear": [0.2, 0.8], "poodle": [0.7, 0.1]}}
    figure = plots.interventions({"neck": [0, 1]}, curves, {"neck": "width, in heads"})
    lines = figure.axes[0].lines
    assert [line.get_linestyle() for line in lines] == ["-", ":"] and list(lines[1].get_ydata()) == [0.7, 0.1]
    assert figure.axes[0].get_xlabel() == "neck\n(width)"


def test_the_strongest_part_of_each_row_is_marked() -> None:
    cases = {"a: bear taken for poodle": {"truth": {"neck": 2.0, "ears": 1.0}, "guess": {"neck": -1.0, "ears": 3.0}}}
    axes = plots.part_strengths(cases).axes[0]
    np.testing.assert_allclose(axes.images[0].get_array(), [[1, 0.5], [0, 1]])
    assert list(axes.lines[0].get_xdata()) == [0, 1]
