"""Long measurements split in shards: the same result, a killed shard alone again, and what a shard runs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nbformat import v4

from xai_lib.runs import shards

from .compendium import Compendium

MEASURING = (
    "# Measuring",
    "@images: int = 11\noutput_dir: str = ''",
    ">import os\nfrom pathlib import Path\nimport pandas\nfrom xai_lib import runs\nresults = runs.Results(output_dir)\n"
    "results.input('data/photograph.bin')",
    ">Path('whole').touch()  # nothing that a shard needs",
    ">width = 2\ndef compute(image):\n    if (Path('die') / str(image)).exists():\n        os.kill(os.getpid(), 9)\n"
    "    with open('computed', 'a') as log:\n        log.write(f'{image}\\n')\n    return {'width': width, 'seventh': image / 7}",
    "%>found = {i: results.unit({'image': i}, lambda: compute(i)) for i in results.share(range(images))}",
    "## Tables",
    ">table = pandas.DataFrame(found).T\nresults.table('table-1', table, caption='Sevenths')",
    "%>more = {i: results.unit({'twice': i}, lambda: 2 * found[i]['seventh']) for i in results.share(range(images))}",
    ">results.record('more', list(more.values()))",
)


@pytest.fixture
def measuring(compendium: Compendium) -> Compendium:
    compendium.write("01_m", *MEASURING)
    return compendium


def computed(here: Compendium) -> list[int]:
    path = here.root / "computed"
    said = sorted(int(line) for line in path.read_text().split()) if path.exists() else []
    path.unlink(missing_ok=True)
    return said


def test_the_result_is_the_same_with_any_number_of_shards(measuring: Compendium, record: Callable[[Path], Any]) -> None:
    results, folder = [], measuring.path("default", "01_m")
    for count in (1, 2, 5):
        ended = measuring.xai("run", "--force", "--shards", str(count), "--jobs", "2")
        assert ended.returncode == 0, ended.stderr
        assert computed(measuring) == list(range(11))
        run = record(folder)
        assert run["units"] == ({"kept": 22, "measured": 0} if count > 1 else {"kept": 0, "measured": 22})
        handed = run["results"]
        results.append(((folder / "tables" / "table-1.csv").read_bytes(), handed["record"], handed["inputs"]))
        assert not measuring.path("default", ".units", "01_m").exists()
        left = {path.name for path in measuring.path("default").rglob("*") if path.is_file()}
        assert left == {"01_m.ipynb", "01_m.html", "claims.csv", "run.json", "table-1.csv", "index.html"}
    assert results[0] == results[1] == results[2]
    assert [len(results[0][1]["more"]), results[0][2][0]["path"]] == [11, "data/photograph.bin"]


def test_a_killed_shard_is_measured_again_alone(measuring: Compendium) -> None:
    (measuring.root / "die").mkdir()
    (measuring.root / "die" / "6").touch()  # the second image of the second shard of five
    ended = measuring.xai("run", "--shards", "5")
    assert ended.returncode == 1
    place = 'cell 4 of 5 under "Measuring"'
    assert f"01_m: shard 2 of 5: {place}: the kernel died" in ended.stderr and ended.stderr.count("the kernel died") == 1
    assert "log: papermill_runs/default/.failed/01_m.shard-2-of-5/log.txt" in ended.stderr
    assert computed(measuring) == [0, 1, 2, 3, 4, 5, 7, 8, 9, 10]
    status = measuring.xai("status").stdout
    assert status.startswith(f"default  01_m  failed: 01_m: shard 2 of 5: {place}")
    assert "the same command runs what is missing" in status

    (measuring.root / "die" / "6").unlink()
    (measuring.root / "whole").unlink(missing_ok=True)
    ended = measuring.xai("run", "--shards", "5")
    assert ended.returncode == 0, ended.stderr
    assert computed(measuring) == [6]
    assert [line.split()[0] for line in ended.stdout.splitlines() if "complete in" in line] == ["01_m.shard-2-of-5", "01_m"]
    assert (measuring.root / "whole").exists()
    assert not list(measuring.path("default", ".failed").glob("*"))


def test_shards_of_other_inputs_are_measured_again(measuring: Compendium) -> None:
    (measuring.root / "die").mkdir()
    (measuring.root / "die" / "0").touch()
    assert measuring.xai("run", "--shards", "2").returncode == 1
    assert computed(measuring) == [1, 3, 5, 7, 9]
    (measuring.root / "data" / "photograph.bin").write_bytes(b"other pixels")
    (measuring.root / "die" / "0").unlink()
    assert measuring.xai("run", "--shards", "2").returncode == 0
    assert computed(measuring) == list(range(11))


def test_a_notebook_that_cannot_be_split_runs_as_a_whole(compendium: Compendium) -> None:
    compendium.write("01_a", "@n = 1", ">n")
    ended = compendium.xai("run", "--shards", "3")
    assert ended.returncode == 0 and "shard" not in ended.stdout
    assert ended.stdout.startswith("01_a  ")


def test_an_unknown_executor_is_refused(compendium: Compendium) -> None:
    compendium.write("01_a", "@n = 1")
    ended = compendium.xai("run", "--executor", "slrm")
    assert ended.returncode == 2
    assert ended.stderr.startswith("xai: no executor 'slrm'. There are: ") and "slurm" in ended.stderr


def cells(*sources: str) -> list[Any]:
    """Code cells; a leading % tags one as measuring."""
    return [
        v4.new_code_cell(source.removeprefix("%"), metadata={"tags": ["measure"] if source[0] == "%" else []})
        for source in sources
    ]


@pytest.mark.parametrize(
    ("sources", "chosen"),
    [
        (["a = 1", "b = 2", "%a"], [0, 2]),
        (["a = 1", "a = 2", "%a"], [1, 2]),  # the last one that binds
        (["a = []", "a.append(1)", "len(a)", "%a"], [0, 1, 3]),
        (["a = {}", "a['x'] = 1", "a.y = 2", "del a['x']", "a += b", "%a"], [4, 5, 3, 2, 1, 0]),
        (["a = 1", "%a = 2", "%a"], [1, 2]),  # the second needs the first alone
        (["import numpy as np", "%np.ones(2)", "np"], [0, 1]),
        (["n = 3", "def f(x):\n    return x + n", "x = 1", "%f(2)"], [0, 1, 3]),
        (["def f():\n    return later", "later = 1", "%f()"], [0, 1, 2]),
        (["xs = [1]", "[x for x in xs]", "%[y for y in xs if y]"], [0, 2]),
        (["x = 1", "%[x for x in range(2)]"], [1]),  # a comprehension has its own x
        (["class C:\n    size: int", "c = C()", "%lambda: c.size"], [0, 1, 2]),
        (["r = R()", "r.figure(1)", "r.input(2)", "%r.unit({}, 3)"], [0, 2, 3]),
        (["import os\n%time 1\n!ls", "%os"], [0, 1]),
        (["a = (", "b = 1", "%b"], [1, 2]),  # no Python: nothing depends on it
        (["for i in range(3):\n    total = i", "%total"], [0, 1]),
        (["x = 1", "%for x in range(2):\n    print(x)"], [1]),
        (["y = 1", "%y = y + 1"], [0, 1]),
        (["f = 1", "%a = [f for i in range(3) if (f := i)]"], [1]),
        (["with open('x') as f:\n    a = f", "%a"], [0, 1]),
        (["from pathlib import Path", "Path('x').touch()", "%Path"], [0, 2]),
        (["a = b = 1", "(c := a)", "%c"], [0, 1, 2]),
    ],
)
def test_what_a_shard_runs(sources: list[str], chosen: list[int]) -> None:
    assert shards.needed(cells(*sources)) == sorted(chosen)


def test_shares_are_disjoint_and_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    from xai_lib.runs import Results

    items = [f"image {i}" for i in range(11)]
    assert Results().share(items) == items
    for count in (1, 2, 5, 20):
        parts = []
        for number in range(1, count + 1):
            monkeypatch.setenv(shards.VARIABLE, f"{number}/{count}")
            parts.append(Results().share(iter(items)))
        assert sorted(item for part in parts for item in part) == sorted(items)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_stamp_counts_for_its_key_and_inputs(tmp_path: Path) -> None:
    stamp, photograph = tmp_path / "x.done", tmp_path / "p"
    assert not shards.is_measured(stamp, "k", tmp_path)
    shards.write_stamp(stamp, "k", [{"path": "p", "sha256": None}])
    assert shards.is_measured(stamp, "k", tmp_path) and not shards.is_measured(stamp, "other", tmp_path)
    photograph.write_text("there now")
    assert not shards.is_measured(stamp, "k", tmp_path)
    stamp.write_text(json.dumps({"key": "k"})[:-3])
    assert not shards.is_measured(stamp, "k", tmp_path)
