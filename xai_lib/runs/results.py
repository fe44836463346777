"""What a notebook hands over: figures, tables, claims, and what the result depends on."""

import hashlib
import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from xai_lib.errors import XaiError
from xai_lib.runs.comparison import TOLERANCE, Tolerance
from xai_lib.runs.inputs import portable, sha256
from xai_lib.runs.project import write_whole

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

MANIFEST = "manifest.json"
"""What was handed over so far, in the folder of a run; the runner moves it into `run.json`."""
CLAIM_COLUMNS = ["name", "paper", "ours", "holds", "label"]
DPI = 150
T = TypeVar("T")
LABELS = ("reproduced", "replicated", "")
VERDICTS = {True: "holds", False: "does not hold", None: "cannot be said"}


class ResultError(XaiError):
    """Something that cannot be handed over: a name twice, no caption, a value that JSON cannot hold."""


class Results:
    """The one object through which a notebook hands over what it found.

    `output_dir` is the notebook's parameter of that name: the runner sets it, and everything is written
    there and shown inline. With `""`, as a reader in JupyterLab has it, all is shown and nothing written.
    """

    def __init__(self, output_dir: str | Path = "") -> None:
        self.folder = Path(output_dir).absolute() if str(output_dir) else None
        self._root = Path(os.environ.get("XAI_RUN_ROOT") or Path.cwd())
        self._held: dict[str, Any] = {
            "figures": [],
            "tables": [],
            "claims": [],
            "not_shown": [],
            "inputs": [],
            "record": {},
            "units": {"kept": 0, "measured": 0},
            "gpu": None,
        }
        self._met: set[Path | None] = set()  # units that this run has asked for: each counts once
        if self.folder:
            for kind in ("figures", "tables"):
                (self.folder / kind).mkdir(parents=True, exist_ok=True)
            self._save()

    def figure(self, name: str, figure: "Figure", caption: str, paper: str = "") -> None:
        """Keep a figure as `figures/<name>.png` and show it; the caption goes below and is the alt text.

        `paper` names the paper's item, for instance "Figure 3". The figure is closed, so make it in
        the cell that hands it over, or the notebook shows it a second time. The picture has 150
        dots an inch and 256 colours, so that a whole run stays small.
        """
        from IPython.display import Image, Markdown, display
        from matplotlib import pyplot

        self._check("figures", name, caption)
        if not hasattr(figure, "savefig"):
            raise ResultError(
                f"figure '{name}': a matplotlib Figure was expected, found {type(figure).__name__}"
            )
        data, width = _png(figure)
        pyplot.close(figure)
        if self.folder:
            (self.folder / "figures" / f"{name}.png").write_bytes(data)
        self._add("figures", name=name, file=f"figures/{name}.png", caption=caption, paper=paper)
        display(Image(data=data, format="png", alt=caption, width=width))
        display(Markdown(_caption(paper or name, caption)))

    def table(
        self, name: str, frame: "pandas.DataFrame", caption: str, paper: str = "", tolerance: Tolerance = TOLERANCE
    ) -> None:
        """Keep a table as `tables/<name>.csv`, in full precision, and show it with its caption above.

        The index is written unless it is the plain 0, 1, 2, ... `tolerance` says how far its numbers may move on
        another machine: the largest difference over the larger of 1 and the value, for all columns or by column
        (`{"p_*": 0.01, "rank": None, "*": 1e-5}`); see `xai_lib.runs.comparison`.
        """
        import pandas
        from IPython.display import Markdown, display

        self._check("tables", name, caption)
        if not isinstance(frame, pandas.DataFrame):
            raise ResultError(
                f"table '{name}': a pandas DataFrame was expected, found {type(frame).__name__}"
            )
        if self.folder:
            plain = isinstance(frame.index, pandas.RangeIndex)
            frame.to_csv(self.folder / "tables" / f"{name}.csv", index=not plain, lineterminator="\n")
        self._add(
            "tables",
            name=name,
            file=f"tables/{name}.csv",
            caption=caption,
            paper=paper,
            rows=len(frame),
            tolerance=tolerance,
        )
        display(Markdown(_caption(paper or name, caption)))
        display(frame)

    def claim(self, name: str, paper: str, ours: str, holds: bool | None, label: str = "") -> None:
        """Set a claim of the paper beside what was measured; shown by `claims()`.

        `holds`: True, False, or None where it cannot be said. `label`, in the sense of the ACM's badges:
        "reproduced" (the authors' own artefacts were used), "replicated" (made anew), or "".
        """
        self._check("claims", name, paper)
        if label not in LABELS:
            raise ResultError(
                f"claim '{name}': label must be 'reproduced', 'replicated' or '', found {label!r}"
            )
        if type(holds).__name__ not in ("bool", "bool_", "NoneType"):
            raise ResultError(f"claim '{name}': holds must be True, False or None, found {holds!r}")
        self._add(
            "claims",
            name=name,
            paper=paper,
            ours=ours,
            holds=None if holds is None else bool(holds),
            label=label,
        )

    def claims(self) -> "pandas.DataFrame":
        """The claims so far, one a row: what the paper says, what was measured, the verdict and its label."""
        import pandas

        rows = [
            (entry["name"], entry["paper"], entry["ours"], VERDICTS[entry["holds"]], entry["label"])
            for entry in self._held["claims"]
        ]
        return pandas.DataFrame(rows, columns=["claim", "paper says", "we measured", "verdict", "label"])

    def not_shown(self, item: str, reason: str) -> None:
        """Name an item of the paper that is not shown, and why: nothing is skipped in silence."""
        if not reason:
            raise ResultError(f"not_shown('{item}'): a reason was expected, found ''")
        self._add("not_shown", item=item, reason=reason)

    def input(self, path: str | Path) -> Path:
        """Declare a file that the result depends on, present or absent; returns its path.

        A complete run counts as stale once the content of such a file changes, or an absent one appears.
        """
        path = Path(path)
        if path.is_dir():
            raise ResultError(f"input('{path}') is a folder: name the files in it that the result depends on")
        entry = {"path": portable(path, self._root), "sha256": sha256(path)}
        if entry not in self._held["inputs"]:
            self._add("inputs", **entry)
        return path

    def record(self, name: str, value: Any) -> None:
        """Declare a fact about how the result was made, for `run.json`; `value` is anything JSON can hold."""
        _check_name(name)
        if name in self._held["record"]:
            raise ResultError(f"record '{name}' was made before: each name is used once")
        self._held["record"][name] = json.loads(_json(value, f"record '{name}'"))
        self._save()

    def unit(self, key: dict[str, Any], compute: Callable[[], Any]) -> Any:
        """The value of one unit of a long measurement: kept from a run that was cut short, else computed
        and kept.

        `key` names everything the value depends on beside the package's code and the inputs declared so
        far, for instance `{"image": ..., "network": ..., "method": ..., "settings": ...}`. The value is
        what JSON can hold, or a DataFrame (which comes back as a list of rows, each a dictionary); it
        passes through JSON always, so that a resumed run equals an uninterrupted one. Units live until a
        run of the notebook is complete; `--force` clears them. Outside a run nothing is kept.
        """
        path = self._unit_file(key)
        new = path not in self._met
        self._met |= {path} if path else set()
        if path and path.is_file():
            self._held["units"]["kept"] += new
            return json.loads(path.read_text(encoding="utf-8"))
        text = _json(compute(), f"the unit {key}")
        self._held["units"]["measured"] += 1
        if path and path.is_file():  # measured by another job in the meantime: all go on with the same value
            return json.loads(path.read_text(encoding="utf-8"))
        if path:
            write_whole(path, text)
        return json.loads(text)

    def checkpoint(self, key: dict[str, Any]) -> Path | None:
        """A file for the state of one long computation inside `unit`, of the same key; None outside a run.

        It depends on what the unit depends on and lives as long. Whoever uses it writes it whole.
        """
        path = self._unit_file(key)
        return path.with_suffix(".checkpoint") if path else None

    def share(self, items: Iterable[T]) -> list[T]:
        """Those of `items` that are to be measured here: all, or every N-th where this is one of N shards.

        For cells tagged `measure` (see `xai_lib.runs.shards`), over lists of what is dear to measure, such as pairs of
        network and photograph. What depends on units of an item has to loop over the same share.
        """
        number, _, count = os.environ.get("XAI_RUN_SHARD", "1/1").partition("/")
        return list(items)[int(number) - 1 :: int(count)]

    def _unit_file(self, key: dict[str, Any]) -> Path | None:
        folder = os.environ.get("XAI_RUN_UNITS")
        said = _json([key, os.environ.get("XAI_RUN_PACKAGE"), self._held["inputs"]], "the key of a unit")
        return Path(folder) / f"{hashlib.sha256(said.encode()).hexdigest()}.json" if folder else None

    def _check(self, kind: str, name: str, caption: str) -> None:
        _check_name(name)
        if any(entry["name"] == name for entry in self._held[kind]):
            raise ResultError(f"{kind[:-1]} '{name}' was handed over before: each name is used once")
        if not caption:
            word = "the paper's sentence" if kind == "claims" else "a caption"
            raise ResultError(f"{kind[:-1]} '{name}': {word} was expected, found {caption!r}")

    def _add(self, kind: str, **entry: Any) -> None:
        _json(entry, f"{kind[:-1]} {entry.get('name', '')}".strip())
        self._held[kind].append(entry)
        self._save()

    def _save(self) -> None:
        if self.folder:
            self._held["gpu"] = self._held["gpu"] or _gpu()
            write_whole(self.folder / MANIFEST, json.dumps(self._held))


def _check_name(name: str) -> None:
    if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9-]+", name):
        raise ResultError(
            f"name {name!r}: only small letters, digits and '-' are allowed, for instance 'figure-3'"
        )


def _json(value: Any, what: str) -> str:
    """JSON of a value, with numpy's numbers and arrays and DataFrames as plain ones."""
    try:
        return json.dumps(value, default=_plain)
    except (TypeError, ValueError) as error:
        raise ResultError(
            f"{what} holds what JSON cannot: {error}. Use numbers, text, lists and dictionaries with "
            "text as keys"
        ) from error


def _plain(value: Any) -> Any:
    if type(value).__name__ == "DataFrame":
        return value.to_dict(orient="records")
    if type(value).__module__ == "numpy":
        return value.tolist()
    raise TypeError(f"{value!r} ({type(value).__name__})")


def _caption(item: str, caption: str) -> str:
    return f"**{item}.** {caption}"


def _png(figure: "Figure") -> tuple[bytes, int]:
    """The picture in at most 256 colours, rare ones kept (a colour bar is narrow), and its width in CSS pixels (96 an inch)."""
    from PIL import Image

    drawn, packed = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI, bbox_inches="tight", facecolor="white")
    picture = Image.open(drawn).convert("RGB")
    picture.quantize(256, method=Image.Quantize.MAXCOVERAGE).save(packed, format="png", optimize=True, dpi=(DPI, DPI))
    return packed.getvalue(), round(picture.width * 96 / DPI)


def _gpu() -> str | None:
    """The accelerator that torch sees, if the notebook has loaded torch."""
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "cuda"):
        return None
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return "Apple GPU" if torch.backends.mps.is_available() else None
