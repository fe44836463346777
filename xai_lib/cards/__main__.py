"""Measure methods and write their cards: `python -m xai_lib.cards [METHOD ...]`, all without a name. Some ten minutes."""

from __future__ import annotations

import json
import sys
import time

from xai_lib import explainers
from xai_lib.cards import measuring, rendering
from xai_lib.cards.rendering import MEASURED


def main(names: list[str]) -> None:
    """Cards of the named methods, or of all; Grad-CAM is measured beside them, as seconds are a ratio to its."""
    explainers.CARDS.mkdir(exist_ok=True)
    kept = json.loads(MEASURED.read_text(encoding="utf-8")) if MEASURED.exists() else {}
    on = measuring.bench()
    for name in ["grad_cam", *(n for n in names or explainers.names() if n != "grad_cam")]:
        began = time.perf_counter()
        kept[name] = measuring.measure(explainers.get(name), on)
        print(f"{name}: {time.perf_counter() - began:.0f} s", flush=True)
        known = {n: kept[n] for n in explainers.names() if n in kept}
        MEASURED.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    rendering.write()


if __name__ == "__main__":
    main(sys.argv[1:])
