"""Long measurements in parts: which cells of a notebook a shard runs, and the stamp that it leaves.

A notebook tags the cells that measure with `measure` and loops over `Results.share(...)` in them. A shard is one job
of N: it runs the tagged cells and what they depend on, with its own share of the work, and leaves what it measured in
the store of `Results.unit`. The notebook itself then runs over the full store.
"""

import ast
import json
import symtable
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xai_lib.runs import inputs, project

TAG = "measure"
"""Tag of the cells that measure."""
VARIABLE = "XAI_RUN_SHARD"
"""Environment variable that tells a kernel its shard, as `2/5`."""
_HANDING_OVER = {"figure", "table", "claim", "claims", "not_shown", "record", "unit", "share", "checkpoint"}
"""Methods of `Results` after which nothing else depends on the cell; `input` is not among them: units do."""


@dataclass(frozen=True)
class Shard:
    """Shard `number` of `count`, counted from 1."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"shard {self.number} of {self.count}"

    @property
    def suffix(self) -> str:
        """What distinguishes the shard's files from the notebook's."""
        return f".shard-{self.number}-of-{self.count}"


def all_of(count: int) -> list[Shard]:
    """The shards of a notebook that is split in `count`; none where it is not split."""
    return [Shard(number, count) for number in range(1, count + 1)] if count > 1 else []


def can_split(notebook: dict[str, Any]) -> bool:
    return any(TAG in cell["metadata"].get("tags", []) for cell in notebook["cells"])


def write_stamp(path: Path, key: str, declared: list[inputs.Input]) -> None:
    """Say that a shard is complete, for which key (see `freshness.key`) and which inputs."""
    project.write_whole(path, json.dumps({"key": key, "inputs": declared}))


def is_measured(stamp: Path, key: str, root: Path) -> bool:
    """Whether a shard is complete for this key, and its inputs are what they were."""
    try:
        said = json.loads(stamp.read_text(encoding="utf-8"))
        return bool(said["key"] == key and not inputs.changed(said["inputs"], root))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def needed(cells: list[Any]) -> list[int]:
    """Places of the code cells that a shard runs: those tagged `measure` and whatever they depend on.

    Depends on, as in program slicing (Weiser 1981; on notebooks Head et al. 2019, CHI): the last cell above that
    binds a name that is used, and the cells between that change it: `x += ...`, `x[...] = ...`, `x.append(...)`. What
    changes a value in other ways (`shuffle(x)`) belongs into the cell that binds it.
    """
    found = {i: _names(cell["source"]) for i, cell in enumerate(cells) if cell["cell_type"] == "code"}
    wanted = [i for i in found if TAG in cells[i]["metadata"].get("tags", [])]
    chosen: set[int] = set()
    last = max(wanted, default=-1)
    while wanted:
        here = wanted.pop()
        if here in chosen:
            continue
        chosen.add(here)
        for name in found[here].used:
            wanted += _makers(found, name, before=here)
        for name in found[here].called:  # looked up when the function is called, so perhaps bound further down
            wanted += [i for i in found if here < i < last and name in found[i].bound]
    return sorted(chosen)


@dataclass
class _Names:
    """Names of a cell: bound, changed, used before bound in the cell; `called`: those used inside functions."""

    bound: set[str]
    changed: set[str]
    used: set[str]
    called: set[str]


def _makers(found: dict[int, _Names], name: str, before: int) -> list[int]:
    """The last cell above that binds a name, and those in between that change it."""
    binding = max((i for i in found if i < before and name in found[i].bound), default=None)
    if binding is None:
        return []
    return [binding, *(i for i in found if binding < i < before and name in found[i].changed)]


def _names(source: str) -> _Names:
    names = _Names(set(), set(), set(), set())
    try:
        statements = ast.parse(_plain_python(source)).body
    except SyntaxError:
        return names  # the cell tells it itself when it runs
    for statement in statements:
        table = symtable.symtable(ast.unparse(statement), "cell", "exec")
        bound = {s.get_name() for s in table.get_symbols() if s.is_assigned() or s.is_imported()}
        inner = {s.get_name() for child in _nested(table) for s in child.get_symbols() if s.is_global()}
        used = {s.get_name() for s in table.get_symbols() if s.is_referenced()} | inner | set(_added_to(statement))
        if isinstance(statement, ast.Assign | ast.AugAssign | ast.AnnAssign):  # the value comes first
            own = {node.target.id for node in ast.walk(statement) if isinstance(node, ast.NamedExpr)}
        else:
            own = bound
        names.used |= used - names.bound - own
        names.called |= inner - names.bound - own
        names.bound |= bound
        names.changed |= set(_changed(statement))
    names.changed -= names.bound
    return names


def _plain_python(source: str) -> str:
    """Without what only IPython understands (`%magic`, `!command`, `name?`)."""
    from IPython.core.inputtransformer2 import TransformerManager

    return str(TransformerManager().transform_cell(source))


def _nested(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    for child in table.get_children():
        yield child
        yield from _nested(child)


def _added_to(statement: ast.stmt) -> Iterator[str]:
    for node in ast.walk(statement):
        if isinstance(node, ast.AugAssign):
            yield from _root(node.target)


def _changed(statement: ast.stmt) -> Iterator[str]:
    """Names whose values a statement changes without binding them."""
    for node in ast.walk(statement):
        if isinstance(node, ast.Subscript | ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del):
            yield from _root(node)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            called = node.value.func
            if isinstance(called, ast.Attribute) and called.attr not in _HANDING_OVER:
                yield from _root(called)


def _root(node: ast.expr) -> Iterator[str]:
    """`x` of `x.y[z].append`; nothing of `f(x).append`, which changes what `f` made."""
    while isinstance(node, ast.Subscript | ast.Attribute):
        node = node.value
    if isinstance(node, ast.Name):
        yield node.id
