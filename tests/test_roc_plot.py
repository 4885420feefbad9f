"""ROC pictures: the right curves on the right axis, and every one of them."""

import csv
import io
import re
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from d2r_fast.recognition.evaluation.curves import POINTS_PER_DECADE, encode_curves, thin
from d2r_fast.recognition.evaluation.results import SuiteResult, by_run
from d2r_fast.recognition.evaluation.roc import Roc, roc_curve
from d2r_fast.recognition.evaluation.roc_plot import (
    COLOURS,
    VARIABLES,
    draw,
    lines_of,
    render_inline,
    render_png,
    render_svg,
)

from .evaluationresults import RACES, made_pairs, made_roc, made_run


def contrast(colour: str) -> float:
    """WCAG contrast of a colour to white."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(1.05 / (np.dot(linear, [0.2126, 0.7152, 0.0722]) + 0.05))


def test_thinned_curve_keeps_tar_at_every_far() -> None:
    """Against counting: at a FAR that k false accepts have, the thinned curve has the measured TAR."""
    random = np.random.default_rng(1)
    scores = np.concatenate([random.normal(2.5, 1, 2000), random.normal(0, 1, 10_000)])
    same = np.repeat([True, False], [2000, 10_000])
    curve = thin(roc_curve(scores, same))
    assert len(curve.far) == 1 + 4 * POINTS_PER_DECADE
    impostors = np.sort(scores[~same])[::-1]
    for place, power in (
        (0, -4),
        (POINTS_PER_DECADE, -3),
        (2 * POINTS_PER_DECADE, -2),
        (3 * POINTS_PER_DECADE, -1),
    ):
        num_accepted = round(10_000 * 10.0**power)
        rate = float(np.mean(scores[same] > impostors[num_accepted]))
        at_least = float(np.mean(scores[same] >= impostors[num_accepted - 1]))
        assert curve.far[place] == pytest.approx(10.0**power)
        assert at_least - 1e-9 <= curve.tar[place] <= rate + 1e-9
    assert curve.tar[-1] == 1.0
    assert (np.diff(curve.tar) >= 0).all()
    assert (np.diff(curve.thresholds) <= 0).all()
    assert np.isfinite(curve.thresholds).all()


def test_thinning_twice_changes_nothing() -> None:
    once = thin(made_roc(1, skill=3))
    np.testing.assert_allclose(thin(once).tar, once.tar, atol=1e-12)


def test_a_perfect_network_has_a_curve() -> None:
    curve = thin(roc_curve(np.array([3.0, 2.5, 1.0, 0.5]), np.array([True, True, False, False])))
    np.testing.assert_array_equal(curve.tar, 1.0)
    assert curve.far[0] == 0.5
    assert render_png(lines_of(by_run([SuiteResult("own", roc=curve)])), title="")


def test_csv_has_every_curve() -> None:
    rows = list(csv.DictReader(io.StringIO(encode_curves(by_run(made_run(1))).decode())))
    found = {(row["suite"], row["race"]) for row in rows}
    whole = {"lfw", "calfw", "cplfw", "agedb_30", "cfp_fp", "cfp_ff", "ijbb", "ijbc"}
    assert found == {(suite, "") for suite in whole} | {("rfw", race) for race in RACES}
    ijbc = [row for row in rows if row["suite"] == "ijbc"]
    assert float(ijbc[0]["far"]) == pytest.approx(1 / 200_000)
    assert float(ijbc[-1]["far"]) == float(ijbc[-1]["tar"]) == 1.0
    assert {row["num_impostor"] for row in ijbc} == {"200000"}


def test_one_line_per_suite_and_run_on_a_log_axis() -> None:
    lines = lines_of(by_run({"a": made_run(1), "b": made_run(2)}))
    figure = draw(lines, title="net")
    assert [axes.get_title() for axes in figure.axes] == ["Pairs", "Templates, 1:1", "RFW by race"]
    assert [len(axes.get_lines()) for axes in figure.axes] == [12, 4, 8]
    for axes in figure.axes:
        assert axes.get_xscale() == "log"
        low, high = axes.get_xlim()
        assert high == 1.0
        drawn = [np.asarray(line.get_xdata(), np.float64) for line in axes.get_lines()]
        assert low <= min(x.min() for x in drawn) < 10 * low, "not one empty decade"
        assert axes.get_ylim()[0] <= min(np.min(np.asarray(line.get_ydata())) for line in axes.get_lines())
    legend = figure.axes[0].get_legend()
    assert legend is not None
    assert legend.get_texts()[0].get_text() == "LFW (2 runs)"
    assert len(legend.get_texts()) == 6


def test_lines_differ_without_colour() -> None:
    """Next to each other no two lines have the same dashes, and no two of up to 35 both colour and dashes."""
    results = [made_pairs(f"set-{index}", 1, skill=3) for index in range(35)]
    lines = lines_of(by_run(results))["pairs"]
    assert len({(line.colour, line.dashes) for line in lines}) == 35
    assert all(first.dashes != second.dashes for first, second in pairwise(lines))
    assert len({line.dashes for line in lines[:5]}) == 5


def test_colours_can_be_seen_on_paper() -> None:
    assert min(map(contrast, COLOURS)) > 2.0


def test_png_is_a_picture_of_curves() -> None:
    lines = lines_of(by_run(made_run(1)))
    image = Image.open(io.BytesIO(render_png(lines, title="net")))
    pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    assert image.width >= 2400
    for colour in COLOURS[:4]:
        wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert (np.abs(pixels.astype(int) - wanted).max(axis=1) < 8).sum() > 500, colour


@pytest.mark.parametrize("render", [render_png, render_svg])
def test_pictures_are_functions_of_the_curves(render: Callable[..., bytes]) -> None:
    first, second, other = (
        render(lines_of(by_run([made_pairs("lfw", seed, skill=3)])), title="net") for seed in (1, 1, 2)
    )
    assert first == second != other


def test_names_are_not_read_as_formulas() -> None:
    """Matplotlib reads $...$ as mathematics, and fails on what is none."""
    result = made_pairs("a$\\frac$_^{", 1, skill=3)
    lines = lines_of(by_run([result]))
    assert render_png(lines, title="$\\frac$ <&>")
    assert b"<svg" in render_svg(lines, title="$\\frac$ <&>")


def test_inline_drawing_takes_the_pages_colours() -> None:
    lines = lines_of(by_run(made_run(1)))
    svg = str(render_inline(lines["pairs"], family="pairs"))
    for index in range(1, 7):
        assert f"var(--curve-{index})" in svg
    assert not any(stand_in in svg for stand_in in VARIABLES)
    ids = re.findall(r'\bid="([^"]*)"', svg)
    assert len(ids) == len(set(ids))
    assert not set(ids) & set(
        re.findall(r'\bid="([^"]*)"', str(render_inline(lines["races"], family="races")))
    )


def test_suites_without_curves_have_no_lines() -> None:
    assert lines_of(by_run([SuiteResult("lfw", accuracy=0.9)])) == {}


def test_family_of_rfw_as_a_whole_is_not_by_race() -> None:
    whole: Roc = made_roc(1, skill=2)
    assert set(lines_of(by_run([SuiteResult("rfw", roc=whole)]))) == {"pairs"}
