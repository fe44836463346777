"""`xai leaks` as a user meets it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image, ImageOps
from typer.testing import CliRunner, Result

from tests.leaks.folders import as_png, picture, plant
from xai_lib.command import app
from xai_lib.images import ImageError


def xai(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["leaks", *map(str, arguments)])


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "xai_lib.command", *arguments], capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def leaky(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exact copy, a near one, sizes that tell the class, and a damaged file; names that HTML must escape."""
    folder = tmp_path_factory.mktemp("leaky") / "<set>"
    plant(folder, 12, how=lambda s, c, n: (picture(n, (64, 64) if c == "cat" else (50, 60)), as_png))
    shutil.copy(folder / "train/cat/cat00.png", folder / "test/cat/<b>again.png")
    Image.open(folder / "train/dog/dog00.png").save(folder / "test/dog/packed.jpg", quality=85)
    (folder / "test/dog/torn.png").write_bytes((folder / "test/dog/dog01.png").read_bytes()[:200])
    return folder


def test_a_leak_in_the_terminal(leaky: Path) -> None:
    ended = xai(leaky)
    assert ended.exit_code == 4
    said = [re.sub(" {2,}", " | ", line) for line in ended.stdout.splitlines()]
    assert said[0] == f"{leaky}: 50 pictures, 2 classes (cat, dog), splits test, train"
    assert "LEAK | exact copies | test also in train | 1 of 26 | 3.8 %" in said
    assert "LEAK | near copies | test also in train | 1 of 26 | 3.8 %" in said
    assert "- | exact copies | also in another class | 0 of 50 | 0.0 %" in said
    assert "LEAK | class told by size | test | 26 of 26 | 100.0 % | 87.1 to 100.0 % | 50.0 %" in said
    assert "telling: size: 64×64: 100 % of cat, 0 % of the others" in said
    assert said[-1] == "leak found: exact copies, near copies, size"
    assert f"left out: {leaky}/test/dog/torn.png: " in ended.stderr


def test_a_clean_folder_ends_with_0(tmp_path: Path) -> None:
    plant(tmp_path, 6)
    ended = xai(tmp_path)
    assert ended.exit_code == 0 and ended.stdout.splitlines()[-1] == "no leak found" and "LEAK" not in ended.stdout
    plant(tmp_path / "flat", 6, splits=("",))
    ended = xai(tmp_path / "flat")
    assert ended.exit_code == 0 and "2 classes (cat, dog), no splits" in ended.stdout
    assert "note: no splits: only the classes were compared" in ended.stdout


def test_the_page_and_its_tables(leaky: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    ended = xai(leaky, "--out", out)
    assert ended.exit_code == 4 and f"page: {out}/index.html" in ended.stdout
    assert {path.name for path in out.iterdir()} == {
        "index.html", "copies.png", "shortcuts.png", "leaks.csv", "copies.csv", "pictures.csv", "left_out.csv",
    }  # fmt: skip
    page = (out / "index.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,") == 4 and page.count("data:image/png;base64,") == 1
    assert "<set>" not in page and "<b>again" not in page and "&lt;b&gt;again" in page
    assert all(f'href="{name}"' in page for name in ("leaks.csv", "copies.csv", "shortcuts.png"))
    assert not re.search(r'(src|href)="(https?:)?//', page), "nothing is fetched"
    copies = pd.read_csv(out / "copies.csv")
    assert set(copies["kind"]) == {"exact", "near"} and len(copies) == 4
    assert pd.read_csv(out / "left_out.csv")["path"].tolist() == [f"{leaky}/test/dog/torn.png"]
    with Image.open(out / "copies.png") as drawn:
        assert drawn.width > 800
    assert xai(leaky, "--out", out, "--near", -1, "--pairs", 0).exit_code == 4
    assert not (out / "copies.png").exists(), "the pictures of an earlier look are gone"


def test_mirrored_copies_and_what_is_not_looked_for(tmp_path: Path) -> None:
    folder = plant(tmp_path / "set", 6)
    ImageOps.mirror(Image.open(folder / "train/cat/cat00.png")).save(folder / "test/cat/turned.jpg", quality=90)
    ended = xai(folder, "--out", tmp_path / "out")
    assert ended.exit_code == 4 and "leak found: near copies" in ended.stdout
    assert "note: crops, added borders, negatives and copies turned by other angles are not looked for" in ended.stdout
    page = (tmp_path / "out/index.html").read_text(encoding="utf-8")
    assert ", mirrored, across splits" in page and "negatives and copies turned by other angles" in page
    assert set(pd.read_csv(tmp_path / "out/copies.csv")["turn"]) == {"mirrored"}
    assert xai(folder, "--upright").exit_code == 0


def test_what_cannot_be_looked_at(leaky: Path, tmp_path: Path) -> None:
    for arguments, message in [
        ((tmp_path / "absent",), "no folder"),
        ((tmp_path,), "no pictures in this folder or below, and 0 other files"),
        ((leaky / "train/cat",), "expected pictures in folders named after their classes, found a picture beside them"),
        ((leaky, "--out", leaky / "train/cat/cat00.png"), "expected a folder, found a file"),
    ]:
        ended = xai(*arguments)
        assert isinstance(ended.exception, ImageError) and message in str(ended.exception)
    assert xai(leaky, "--near", 65).exit_code == 2
    assert xai().exit_code == 2


def test_errors_have_an_exit_code_and_no_traceback(tmp_path: Path) -> None:
    ended = command("leaks", str(tmp_path / "absent"))
    assert ended.returncode == 2 and ended.stdout == ""
    assert ended.stderr.startswith(f"xai: no folder '{tmp_path}/absent'") and "Traceback" not in ended.stderr


def test_help_is_cheap_and_has_examples() -> None:
    code = "import sys; from xai_lib.command import main; sys.argv = ['xai', 'leaks', '--help']\n"
    code += "try: main()\nexcept SystemExit: pass\n"
    heavy = "print(sorted({'torch', 'pandas', 'numpy', 'sklearn', 'matplotlib'} & set(sys.modules)))"
    ended = subprocess.run([sys.executable, "-c", code + heavy], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert "xai leaks my/scans --near -1       exact copies alone" in ended.stdout
    assert "Exit codes: 0 no leak found; 4 a leak found" in ended.stdout
    assert ended.stdout.splitlines()[-1] == "[]"
