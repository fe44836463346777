"""The parameters of a notebook: one cell tagged `parameters`, of typed literals with a comment each.

A value comes from the cell, from the profile or from the command line; wherever it comes from, its name
must be in the cell and its type must be that of the annotation or else of the literal.
"""

import ast
import difflib
import io
import json
import tokenize
from dataclasses import dataclass
from typing import Any

import yaml

from xai_lib.errors import XaiError

OUTPUT = "output_dir"
"""Set by the runner to the folder a run writes into; not for users."""
TAG = "parameters"
"""Tag of the cell that holds them, as papermill has it."""

_PLAIN: dict[str, type] = {"int": int, "float": float, "str": str, "bool": bool, "dict": dict}


class ParameterError(XaiError):
    """A parameter that is unknown or ill-typed, or a `parameters` cell that cannot be used."""


@dataclass(frozen=True)
class Parameter:
    """One line of the `parameters` cell; `type` as Python spells it: `int`, `list[str]`, `str | None`."""

    name: str
    type: str
    default: Any
    comment: str


def read(notebook: dict[str, Any], name: str) -> dict[str, Parameter]:
    """The parameters of a notebook (in nbformat 4), by name.

    Raises ParameterError if not exactly one code cell is tagged so, or if it holds more than literals.
    """
    tagged = [
        cell
        for cell in notebook["cells"]
        if cell["cell_type"] == "code" and TAG in cell["metadata"].get("tags", [])
    ]
    if len(tagged) != 1:
        found = "none is" if not tagged else f"{len(tagged)} are"
        raise ParameterError(f"{name}: exactly one code cell must be tagged 'parameters', {found}")
    return parse_cell("".join(tagged[0]["source"]), name)


def parse_cell(source: str, name: str) -> dict[str, Parameter]:
    """The typed literals of a `parameters` cell."""
    try:
        statements, comments = ast.parse(source).body, _comments(source)
    except (SyntaxError, tokenize.TokenError) as error:
        raise ParameterError(f"{name}: the parameters cell is no Python: {error}") from error
    found: dict[str, Parameter] = {}
    for statement in statements:
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            continue  # a docstring
        parameter = _parse_statement(statement, comments, name)
        if parameter.name in found:
            raise ParameterError(f"{name}: the parameters cell sets '{parameter.name}' twice")
        found[parameter.name] = parameter
    return found


def _comments(source: str) -> dict[int, str]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}


def _parse_statement(statement: ast.stmt, comments: dict[int, str], name: str) -> Parameter:
    target: ast.expr | None = None
    annotation, value = "", None
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        target, value = statement.targets[0], statement.value
    elif isinstance(statement, ast.AnnAssign):
        target, value, annotation = statement.target, statement.value, ast.unparse(statement.annotation)
    line = f"{name}: line {statement.lineno} of the parameters cell"
    if not isinstance(target, ast.Name) or value is None:
        raise ParameterError(f"{line} must read 'name = literal', found '{ast.unparse(statement)}'")
    try:
        default = ast.literal_eval(value)
        json.dumps(default)
    except (ValueError, TypeError) as error:
        raise ParameterError(
            f"{line}: '{target.id}' must be a plain literal (number, text, True, None, list, dict), "
            f"found '{ast.unparse(value)}'"
        ) from error
    kind = _kind(annotation, default)
    try:
        default = check(default, kind)
    except (TypeError, ValueError) as error:
        raise ParameterError(f"{line}: '{target.id}' is annotated {annotation}: {error}") from error
    return Parameter(target.id, kind, default, comments.get(statement.end_lineno or 0, ""))


def _kind(annotation: str, default: Any) -> str:
    inferred = _inferred(default)
    if not annotation:
        return inferred
    return inferred if annotation == "list" and inferred.startswith("list") else annotation


def _inferred(value: Any) -> str:
    if isinstance(value, list | tuple):
        kinds = {_inferred(item) for item in value}
        if kinds == {"int", "float"}:
            kinds = {"float"}
        return f"list[{kinds.pop()}]" if len(kinds) == 1 else "list"
    return "any" if value is None else type(value).__name__


def check(value: Any, kind: str) -> Any:
    """`value` as `kind` (an int becomes a float where a float is wanted), or TypeError / ValueError."""
    return _check(value, ast.parse(kind, mode="eval").body, kind)


def _check(value: Any, node: ast.expr, kind: str) -> Any:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        try:
            return _check(value, node.left, kind)
        except TypeError:
            return _check(value, node.right, kind)
    if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "list":
        return [_check(item, node.slice, kind) for item in _check(value, node.value, kind)]
    word = ast.unparse(node)
    if word in ("any", "Any") or (word == "None" and value is None):
        return value
    if word == "list" and isinstance(value, list | tuple):
        return list(value)
    if word == "float" and type(value) is int:
        return float(value)
    if word not in (*_PLAIN, "list", "None"):
        raise ValueError(
            f"'{kind}' is no type for a parameter; use {', '.join(_PLAIN)}, list[...] or ... | None"
        )
    if word not in _PLAIN or type(value) is not _PLAIN[word]:
        raise TypeError(f"expected {kind}, found {value!r} ({type(value).__name__})")
    return value


def parse_text(text: str, kind: str) -> Any:
    """A value from the command line: text as it stands for `str`, JSON or YAML else, `a,b` for lists."""
    if kind.startswith("list") and not text.lstrip().startswith("["):
        item = kind[5:-1] if kind != "list" else "any"
        return [parse_text(part.strip(), item) for part in text.split(",") if part.strip()]
    if kind == "str" and not text.startswith(('"', "'")):
        return text
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return text if "str" in kind.split(" | ") and value is not None else value


def parse_options(options: list[str]) -> dict[str, str]:
    """`["runs=5", ...]` as a dictionary of texts."""
    parsed: dict[str, str] = {}
    for option in options:
        name, equals, text = option.partition("=")
        if not equals or not name.strip().isidentifier():
            raise ParameterError(f"-p wants NAME=VALUE, found '{option}'")
        parsed[name.strip()] = text
    return parsed


def resolve(
    name: str,
    parameters: dict[str, Parameter],
    profile: dict[str, Any],
    profile_name: str,
    options: dict[str, str],
) -> dict[str, Any]:
    """Each parameter's value, of the command line, the profile or the cell; without `output_dir`."""
    offered = {key: entry for key, entry in parameters.items() if key != OUTPUT}
    values = {key: entry.default for key, entry in offered.items()}
    for key, value in profile.items():
        values[key] = _accept(f"{name} (profile {profile_name})", offered, key, value)
    for key, text in options.items():
        value = parse_text(text, offered[key].type) if key in offered else text
        values[key] = _accept(name, offered, key, value)
    return values


def _accept(name: str, offered: dict[str, Parameter], key: str, value: Any) -> Any:
    if key not in offered:
        near = difflib.get_close_matches(key, offered, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else "."
        known = ", ".join(f"{entry.name} ({entry.type})" for entry in offered.values())
        raise ParameterError(f"{name} has no parameter '{key}'{hint} It takes: {known or 'none'}")
    entry = offered[key]
    try:
        accepted = check(value, entry.type)
    except (TypeError, ValueError) as error:
        raise ParameterError(
            f"{name}: parameter '{key}': {error}. Its default is {entry.default!r}"
        ) from error
    if accepted == [] and entry.default:
        raise ParameterError(
            f"{name}: parameter '{key}': expected {entry.type} of at least one item, found []. "
            f"Its default is {entry.default!r}"
        )
    return accepted
