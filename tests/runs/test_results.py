"""What a notebook hands over: interactive use, units of work, and everything that is refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy
import pandas
import pytest
from matplotlib import pyplot

from xai_lib import runs
from xai_lib.runs.results import ResultError


def small_figure() -> pyplot.Figure:
    figure, axes = pyplot.subplots(figsize=(2, 1))
    axes.plot([1, 2])
    return figure


def test_interactive_use_shows_everything_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    results = runs.Results("")
    figure = small_figure()
    results.figure("figure-1", figure, caption="A line")
    results.table("table-1", pandas.DataFrame({"seven": [7.5]}), caption="A number")
    results.claim("speed", paper="fast", ours="slow", holds=numpy.False_, label="replicated")
    results.input("absent.bin")
    assert results.unit({"i": 1}, lambda: numpy.float64(0.1)) == 0.1
    shown = capsys.readouterr().out
    assert "Image object" in shown and "seven" in shown
    assert not pyplot.fignum_exists(figure.number)
    assert list(results.claims().iloc[0]) == ["speed", "fast", "slow", "does not hold", "replicated"]
    assert list(tmp_path.iterdir()) == []


def test_files_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    results = runs.Results("out")
    results.figure("figure-1", small_figure(), caption="A line")
    results.table("table-1", pandas.DataFrame({"x": [0.1]}, index=["a"]), caption="A number")
    results.table("table-2", pandas.DataFrame({"x": [1 / 3]}), caption="A number")
    assert (tmp_path / "out/figures/figure-1.png").stat().st_size < 20_000
    assert (tmp_path / "out/tables/table-1.csv").read_text() == ",x\na,0.1\n"
    assert (tmp_path / "out/tables/table-2.csv").read_text() == f"x\n{1 / 3!r}\n"


def test_a_photograph_as_figure_stays_small(tmp_path: Path) -> None:
    from sklearn.datasets import load_sample_images

    figure, axes = pyplot.subplots(1, 2, figsize=(7, 2.5))
    for place, photograph in zip(axes, load_sample_images().images, strict=True):
        place.imshow(photograph)
    runs.Results(tmp_path).figure("figure-1", figure, caption="Two photographs")
    assert (tmp_path / "figures/figure-1.png").stat().st_size < 250_000


def test_inputs_are_named_so_that_another_machine_finds_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XAI_WEIGHTS_HOME", str(tmp_path / "weights"))
    results = runs.Results(tmp_path / "out")
    for path in (tmp_path / "weights/x.pth", Path("own.jpg"), Path(pandas.__file__), Path.home() / "h.jpg"):
        results.input(path)
    entries = json.loads((tmp_path / "out/manifest.json").read_text())["inputs"]
    assert [entry["path"] for entry in entries] == [
        "$XAI_WEIGHTS_HOME/x.pth",
        "own.jpg",
        "$SITE_PACKAGES/pandas/__init__.py",
        "~/h.jpg",
    ]
    assert [entry["sha256"] is None for entry in entries] == [True, True, False, True]


def test_a_unit_is_computed_once_for_its_key_package_and_inputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XAI_RUN_UNITS", str(tmp_path / "units"))
    monkeypatch.setenv("XAI_RUN_PACKAGE", "one")
    calls: list[int] = []

    def compute() -> dict[str, object]:
        calls.append(1)
        return {"p": numpy.float32(0.1), "all": (1, 2), "rows": pandas.DataFrame({"x": [1 / 3]})}

    results = runs.Results("")
    first = results.unit({"image": "a"}, compute)
    assert first == {"p": float(numpy.float32(0.1)), "all": [1, 2], "rows": [{"x": 1 / 3}]}
    assert results.unit({"image": "a"}, compute) == first and len(calls) == 1
    results.unit({"image": "b"}, compute)
    assert len(calls) == 2
    Path("weights").write_text("new")
    results.input("weights")
    results.unit({"image": "a"}, compute)
    assert len(calls) == 3
    monkeypatch.setenv("XAI_RUN_PACKAGE", "two")
    results.unit({"image": "a"}, compute)
    assert len(calls) == 4


def test_a_unit_that_is_asked_for_again_counts_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XAI_RUN_UNITS", str(tmp_path / "units"))
    for run, wanted in (("first", {"kept": 0, "measured": 2}), ("second", {"kept": 2, "measured": 0})):
        results = runs.Results(tmp_path / run)
        for i in (1, 2, 1, 1):
            results.unit({"i": i}, lambda i=i: i)
        results.record("end", 1)
        assert json.loads((tmp_path / run / "manifest.json").read_text())["units"] == wanted


FILL = """
import os, sys, time
from xai_lib import runs
results, mine = runs.Results(""), 0
def compute(i):
    global mine
    mine += 1
    time.sleep(0.002)
    return {"i": i, "values": [i / 3] * 2000}
for i in range(150):
    assert results.unit({"i": i}, lambda: compute(i)) == {"i": i, "values": [i / 3] * 2000}
print(mine)
"""


def test_two_processes_fill_one_store_at_once(tmp_path: Path) -> None:
    here = {**os.environ, "XAI_RUN_UNITS": str(tmp_path / "units"), "XAI_RUN_PACKAGE": "one"}
    command = [sys.executable, "-c", FILL]
    both = [subprocess.Popen(command, env=here, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    computed = [int(process.communicate(timeout=60)[0]) for process in both]
    assert [process.returncode for process in both] == [0, 0] and sum(computed) >= 150
    assert len(list((tmp_path / "units").iterdir())) == 150  # nothing half-written is left
    again = subprocess.run(command, env=here, stdout=subprocess.PIPE, text=True, check=True)
    assert again.stdout.strip() == "0"


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (
            lambda r: r.figure("Figure 3", small_figure(), "c"),
            r"name 'Figure 3': only small letters, digits and '-'",
        ),
        (lambda r: r.figure("f", small_figure(), ""), r"figure 'f': a caption was expected, found ''"),
        (lambda r: r.figure("f", [1], "c"), r"figure 'f': a matplotlib Figure was expected, found list"),
        (lambda r: [r.figure("f", small_figure(), "c") for _ in "ab"], r"figure 'f' was handed over before"),
        (lambda r: r.table("t", [1], "c"), r"table 't': a pandas DataFrame was expected, found list"),
        (lambda r: [r.claim("c", "p", "o", True) for _ in "ab"], r"claim 'c' was handed over before"),
        (
            lambda r: r.claim("c", "p", "o", "yes"),
            r"claim 'c': holds must be True, False or None, found 'yes'",
        ),
        (
            lambda r: r.claim("c", "p", "o", True, "proven"),
            r"label must be 'reproduced', 'replicated' or '', found 'p",
        ),
        (lambda r: r.claim("c", "", "o", True), r"claim 'c': the paper's sentence was expected, found ''"),
        (
            lambda r: r.claim("c", "p", {1}, True),
            r"claim c holds what JSON cannot: \{1\} \(set\)\. Use numbers, text",
        ),
        (lambda r: r.not_shown("Figure 1", ""), r"not_shown\('Figure 1'\): a reason was expected, found ''"),
        (lambda r: r.record("x", {1: object()}), r"record 'x' holds what JSON cannot: <object"),
        (lambda r: [r.record("x", 1) for _ in "ab"], r"record 'x' was made before: each name is used once"),
        (lambda r: r.unit({"f": print}, dict), r"the key of a unit holds what JSON cannot"),
        (lambda r: r.unit({"i": 1}, lambda: {1, 2}), r"the unit \{'i': 1\} holds what JSON cannot"),
        (lambda r: r.input("/"), r"input\('/'\) is a folder: name the files in it"),
    ],
)
def test_what_is_refused(act: object, message: str) -> None:
    with pytest.raises(ResultError, match=message):
        act(runs.Results(""))  # type: ignore[operator]
    pyplot.close("all")
