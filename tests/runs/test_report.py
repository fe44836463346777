"""The page over all results, and the copies that are committed."""

from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from xai_lib import runs
from xai_lib.runs.publication import PublishError

from .compendium import Batch, Compendium


class Links(HTMLParser):
    """Collects the links and pictures of a page, and the elements that were not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.links += [value for name, value in attributes if name in ("href", "src") and value]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page(batch: Batch) -> None:
    path = batch.compendium.path("default", "index.html")
    page = path.read_text()
    for text in (
        "A complete one &lt;script&gt;alert(1)&lt;/script&gt;",
        "A. Author: The paper, 2024.",
        "ten times faster",
        "41x &lt;fast&gt;",
        "holds",
        "cannot be said",
        "replicated",
        'alt="A line, &lt;b&gt;rising&lt;/b&gt;"',
        "Figure 3.",
        "Sevenths",
        "x&lt;y",
        "0.1429",
        "the authors kept it",
        "<td>1 of 2</td>",
        "The last run failed.</strong> 02_broken: cell 3 of 4",
        "----&gt; 1 1 / 0",
        "xai run 02_broken",
        'name="viewport"',
        "&#34;precision&#34;",
    ):
        assert text in page, text
    assert "<script" not in page and "<b>" not in page
    parsed = Links()
    parsed.feed(page)
    assert parsed.open == []
    assert {
        "01_complete/01_complete.html",
        "01_complete/01_complete.ipynb",
        "01_complete/figures/figure-3.png",
        "01_complete/tables/table-1.csv",
        ".failed/02_broken/log.txt",
    } <= set(parsed.links)
    for link in parsed.links:
        assert link.startswith("#") or (path.parent / link).exists(), link


def test_the_page_over_what_is_missing_or_damaged(changeable: Compendium) -> None:
    changeable.path("default", "01_complete", "tables", "table-1.csv").unlink()
    changeable.write("06_new", "@n = 1")
    changeable.write("07_odd", "# Without parameters")
    ended = changeable.xai("report")
    assert (ended.returncode, ended.stdout) == (0, "papermill_runs/default/index.html\n")
    page = changeable.path("default", "index.html").read_text()
    assert "tables/table-1.csv is missing" in page and "this file is missing" in page
    assert "xai run 06_new" in page and "never run" in page
    assert "07_odd: exactly one code cell must be tagged &#39;parameters&#39;, none is" in page


def test_publish(changeable: Compendium, record: Callable[[Path], Any]) -> None:
    ended = changeable.xai("publish", "01")
    target = changeable.path("reference", "default", "01_complete")
    assert (ended.returncode, ended.stdout) == (0, "papermill_runs/reference/default/01_complete\n")
    assert {path.name for path in target.iterdir()} == {
        "01_complete.ipynb",
        "01_complete.html",
        "claims.csv",
        "run.json",
        "figures",
        "tables",
    }
    megabytes = (target / "01_complete.html").stat().st_size / 1e6
    assert changeable.xai("publish", "01", "--limit", f"{megabytes:.6f}").returncode == 0
    assert record(target)["left_out"] == ["01_complete.html"] and not (target / "01_complete.html").exists()
    runs.publish(changeable.path("default", "01_complete"), target, tables_only=True)
    assert {path.name for path in target.iterdir()} == {"claims.csv", "run.json", "tables"}
    assert set(record(target)["files"]) == {"claims.csv", "tables/table-1.csv"}
    assert [path.name for path in target.parent.iterdir()] == ["01_complete"]


def test_publish_leaves_out_html_and_notebook_before_it_refuses(
    changeable: Compendium, tmp_path: Path, record: Callable[[Path], Any]
) -> None:
    source = changeable.path("default", "01_complete")
    small = (source / "01_complete.html").stat().st_size
    runs.publish(source, tmp_path / "target", limit=small)
    assert record(tmp_path / "target")["left_out"] == ["01_complete.html"]
    assert not (tmp_path / "target" / "01_complete.html").exists()
    smaller = sum((source / name).stat().st_size for name in record(tmp_path / "target")["files"]) - 1
    runs.publish(source, tmp_path / "target", limit=smaller)
    assert record(tmp_path / "target")["left_out"] == ["01_complete.html", "01_complete.ipynb"]
    assert (tmp_path / "target" / "figures" / "figure-3.png").exists()
    with pytest.raises(
        PublishError, match=r"has 0\.0 MB, at most 0\.0 MB are committed\. Largest: figures/figure-3\.png"
    ):
        runs.publish(source, tmp_path / "other", limit=1000)
    assert not (tmp_path / "other").exists()


def test_publish_refuses_what_is_damaged(changeable: Compendium, tmp_path: Path) -> None:
    source = changeable.path("default", "01_complete")
    (source / "figures" / "figure-3.png").write_bytes(b"")
    with pytest.raises(
        PublishError, match=r"01_complete cannot be published: figures/figure-3\.png is not what the"
    ):
        runs.publish(source, tmp_path / "target")


def test_the_page_shows_the_cards_of_methods(changeable: Compendium) -> None:
    card = changeable.root / "package" / "cards" / "methods" / "lrp.md"
    card.parent.mkdir(parents=True)
    table = "| | |\n|---|---|\n| Calls | 2 \\| <b> |\n"
    card.write_text(f"<!-- by hand -->\n# LRP: back & forth\n\nWords.\n\n## Cost\n\n{table}\n## Signs\n\n")
    assert changeable.xai("report").returncode == 0
    page = changeable.path("default", "index.html").read_text()
    assert "<summary>lrp: LRP: back &amp; forth</summary>" in page and "<h3>Cost</h3>" in page and "<h3>Signs</h3>" in page
    assert "<td>Calls</td><td>2 \\| &lt;b&gt;</td>" in page and "|---|" not in page
    shown = Links()
    shown.feed(page)
    assert not shown.open
