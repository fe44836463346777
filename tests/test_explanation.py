"""Settings as JSON text and as a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from xai_lib.explanation import ExplanationError, Settings


@dataclass(frozen=True)
class Shaped(Settings):
    """Tuples of every kind, and a list that stays one."""

    plain: tuple = ()
    values: tuple[float, ...] = (1.0,)
    pair: tuple[str, tuple[int, int]] = ("a", (1, 2))
    groups: tuple[tuple[float, ...], ...] = ()
    perhaps: tuple[float, ...] | None = None
    kept: list[int] | None = None
    steps: int = 3


SHAPED = Shaped((1, "b"), (0.5, 2.0), ("c", (3, 4)), ((1.0,), (2.0, 3.0)), (0.25,), [1, 2], 4)


@pytest.mark.parametrize("settings", [Shaped(), SHAPED])
def test_settings_are_the_same_from_text_and_from_a_file(tmp_path: Path, settings: Shaped) -> None:
    file = tmp_path / "settings.json"
    file.write_text(f"\n {settings.to_json()}\n", encoding="utf-8")
    for given in (settings.to_json(), f"  \n{settings.to_json()}", file, str(file)):
        found = Shaped.from_json(given)
        assert found == settings and found.to_json() == settings.to_json()
    assert isinstance(found.perhaps, tuple) == (settings is SHAPED)
    assert isinstance(found.kept, list) == (settings is SHAPED)


def test_fields_left_out_keep_their_defaults() -> None:
    assert Shaped.from_json('{"values": []}') == Shaped(values=())


def test_files_that_hold_no_settings_are_named(tmp_path: Path) -> None:
    missing = tmp_path / "none.json"
    for given in (missing, str(missing)):
        with pytest.raises(ExplanationError, match=r"settings file .*none.json: cannot be read \(No such file.*pass the path"):
            Shaped.from_json(given)
    with pytest.raises(ExplanationError, match="settings file .*: cannot be read"):
        Shaped.from_json(tmp_path)
    for content, message in {
        "[1]": "expected a JSON object, found list; write it with to_json()",
        "steps: 3": "expected a JSON object, found no valid JSON",
        "": "expected a JSON object, found no valid JSON",
        '{"bogus": 1}': "Shaped has no field bogus; its fields: plain, values, pair",
    }.items():
        file = tmp_path / "wrong.json"
        file.write_text(content, encoding="utf-8")
        with pytest.raises(ExplanationError, match=f"settings file .*wrong.json: {message}".replace("()", r"\(\)")):
            Shaped.from_json(file)
    (tmp_path / "wrong.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(ExplanationError, match=r"wrong.json: cannot be read \(no text in UTF-8\)"):
        Shaped.from_json(tmp_path / "wrong.json")


def test_texts_that_hold_no_settings_say_so() -> None:
    with pytest.raises(ExplanationError, match="^expected a JSON object, found no valid JSON"):
        Shaped.from_json('{"steps": ')
    with pytest.raises(ExplanationError, match="^Shaped has no field bogus"):
        Shaped.from_json('{"bogus": 1}')
    with pytest.raises(ExplanationError, match="settings file steps=3: cannot be read"):
        Shaped.from_json("steps=3")
