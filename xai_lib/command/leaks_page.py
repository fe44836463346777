"""What `xai leaks --out` writes: tables, figures, and one page that shows the copies."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from xai_lib import plots
from xai_lib.command.leaks_words import cells, rules, verdict
from xai_lib.images import ImageError
from xai_lib.images.decoding import read_pixels
from xai_lib.leaks import Leaks
from xai_lib.runs.page import STYLE

SIDE = 240  # pixels of a picture's longer side on the page
DRAWN = 8  # pairs in copies.png
PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Leaks in {{ folder }}</title><style>{{ style|safe }}
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: .5rem; align-content: start; }
.pair figcaption { overflow-wrap: anywhere; } .pair p { grid-column: 1 / -1; font-weight: 600; }
.pair img { aspect-ratio: 1; } td.bad { font-weight: 600; } h2 + figure { margin-top: .8rem; }
</style></head><body>
<header><h1>Leaks in {{ folder }}</h1>
<p><span class="state {{ 'bad' if found else 'good' }}">{{ verdict }}</span>
<span class="soft">{{ pictures }} pictures read{% if failures %}, {{ failures|length }} left out{% endif %}</span></p>
</header><main>
<section><h2>What was asked</h2><div class="wide"><table>
<tr>{% for cell in rows[0] %}<th>{{ cell }}</th>{% endfor %}</tr>
{% for row in rows[1:] %}<tr>{% for cell in row %}<td{% if cell == 'LEAK' %} class="bad"{% endif %}>{{ cell }}</td>
{%- endfor %}</tr>
{% endfor %}</table></div>
{% if rules %}<h3>The most telling question of each shortcut</h3>
<ul>{% for rule in rules %}<li>{{ rule }}</li>{% endfor %}</ul>{% endif %}
{% if notes %}<h3>Notes</h3><ul>{% for note in notes %}<li>{{ note }}</li>{% endfor %}</ul>{% endif %}
<p class="soft">Exact copies have the same decoded pixels; near ones have perceptual hashes that differ in at most {{ near }} of
64 bits, and are confirmed on the images where there are files. Limits: {{ limits }}; flat images are never near copies, drawings
and text only upright. A class is told by size, borders or file where a decision tree that sees nothing else, cross-validated with
copies kept together and tested on the other splits, is right more often than always naming the commonest class. Tables:
{% for file in files %}<a href="{{ file }}">{{ file }}</a>{{ '' if loop.last else ', ' }}{% endfor %}.</p></section>
{% if chart %}<section><h2>How much is told without the picture</h2><figure><a href="shortcuts.png"><img
alt="Accuracy of each tree beside that of the commonest class" src="data:image/png;base64,{{ chart }}"></a></figure>
</section>{% endif %}
{% if copies %}<section><h2>Copies</h2><p class="soft">{{ shown }} pairs; {{ total }} pictures have a copy elsewhere, all in
<a href="copies.csv">copies.csv</a>. Kinds and classes take turns.</p><div class="figures">
{% for pair in copies %}<div class="pair"><p>{{ pair.word }}</p>
{% for side in pair.sides %}<figure>{% if side.picture %}<img loading="lazy" alt="{{ side.name }}"
src="data:image/jpeg;base64,{{ side.picture }}">{% else %}<p class="soft">the file is not here</p>{% endif %}
<figcaption>{{ side.place }}<br><span class="soft">{{ side.name }}</span></figcaption></figure>{% endfor %}</div>
{% endfor %}</div></section>{% endif %}
{% if failures %}<section><h2>Left out</h2>
<ul>{% for reason in failures %}<li>{{ reason }}</li>{% endfor %}</ul></section>{% endif %}
</main></body></html>
"""


def write(found: Leaks, folder: str, out: Path, pairs: int) -> Path:
    """Tables, figures and index.html in `out`; returns the page's path. Raises `ImageError` where it cannot be written."""
    from jinja2 import Environment

    try:
        out.mkdir(parents=True, exist_ok=True)
        files = _tables(found, out)
        rows = found.pairs(pairs)
        pictures = [(_read(found, a), _read(found, b)) for a, b in zip(rows["row"], rows["twin_row"], strict=True)]
        chart = _figures(found, rows, pictures, out)
        page = Environment(autoescape=True).from_string(PAGE).render(
            style=STYLE, folder=folder, found=found.found, verdict=verdict(found), pictures=len(found.pictures),
            failures=list(found.failures.values()), rows=cells(found.table()), rules=rules(found.table()), notes=found.notes,
            near=max(found.near, 0), limits=found.limits, files=files, chart=chart, copies=_copies(rows, pictures),
            shown=len(rows), total=found.twins["row"].nunique(),
        )  # fmt: skip
        (out / "index.html").write_text(page, encoding="utf-8")
    except OSError as error:
        raise ImageError(f"--out {out}: cannot be written: {error.strerror or error}") from None
    return out / "index.html"


def _tables(found: Leaks, out: Path) -> list[str]:
    left_out = pd.DataFrame(list(found.failures.items()), columns=["path", "reason"])
    tables = {"leaks": found.table(), "copies": found.twins, "pictures": found.pictures, "left_out": left_out}
    for name, table in tables.items():
        table.to_csv(out / f"{name}.csv", index=False)
    return [f"{name}.csv" for name in tables]


def _read(found: Leaks, row: int) -> np.ndarray | None:
    """The image of that row, made small; None where the file is not on this machine."""
    path = Path(str(found.pictures["path"].iat[row]))
    if not path.is_file():
        return None
    small = Image.fromarray(read_pixels(path))
    small.thumbnail((SIDE, SIDE))
    return np.asarray(small)


def _figures(found: Leaks, rows: pd.DataFrame, pictures: list[Any], out: Path) -> str:
    """Write the PNGs of what there is to draw; returns the chart of shortcuts, base64, or ""."""
    there = [i for i, pair in enumerate(pictures) if pair[0] is not None and pair[1] is not None][:DRAWN]
    for file in ("copies.png", "shortcuts.png"):
        (out / file).unlink(missing_ok=True)  # of an earlier look
    if there:
        titles = [tuple(_place(rows.iloc[i], side).replace("/", "\n") for side in ("", "twin_")) for i in there]
        sides = [_word(rows.iloc[i]).replace(" bits, ", " bits\n") for i in there]
        drawn = plots.copies([pictures[i] for i in there], titles, sides)
        (out / "copies.png").write_bytes(plots.png(drawn))
    trees = found.shortcuts
    if trees.empty:
        return ""
    names = [f"{what}: {where}" for what, where in zip(trees["shortcut"], trees["where"], strict=True)]
    chart = plots.png(plots.shortcuts(names, trees["accuracy"], trees["low"], trees["high"], trees["commonest"]))
    (out / "shortcuts.png").write_bytes(chart)
    return base64.b64encode(chart).decode()


def _copies(rows: pd.DataFrame, pictures: list[Any]) -> list[dict[str, Any]]:
    found = []
    for (_, row), pair in zip(rows.iterrows(), pictures, strict=True):
        names, places = (row["name"], row["twin"]), (_place(row, ""), _place(row, "twin_"))
        sides = [
            {"name": name, "place": place, "picture": _jpeg(pixels)}
            for name, place, pixels in zip(names, places, pair, strict=True)
        ]
        found.append({"word": f"{_word(row)}, across {'splits' if row['across'] == 'split' else 'classes'}", "sides": sides})
    return found


def _place(row: pd.Series[Any], side: str) -> str:
    return "/".join(part for part in (row[f"{side}split"], row[f"{side}class"]) if part)


def _word(row: pd.Series[Any]) -> str:
    if row["kind"] == "exact":
        return "exact"
    return f"near, {row['bits']} bits" + (f", {row['turn']}" if row["turn"] else "")


def _jpeg(pixels: np.ndarray | None) -> str:
    if pixels is None:
        return ""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=85)
    return base64.b64encode(buffer.getvalue()).decode()
