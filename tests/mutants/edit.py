"""One change of a module, told as code: what in which function becomes what.

It is found by its syntax tree and in one place only: comments, line breaks and quotes make no
difference, nor does where in its function it stands.
"""

from __future__ import annotations

import ast
import contextlib
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_Function = ast.FunctionDef | ast.AsyncFunctionDef
_Scope = _Function | ast.ClassDef
_Code = ast.expr | ast.keyword | ast.stmt


class NotApplied(Exception):
    """The code of a mutant is not there, or not once."""


@dataclass(frozen=True, slots=True)
class Edit:
    """In this function of a file of leaderexec the code `old`, found once, becomes `new`.

    `function` is qualified, like `Election.step` or `outer.inner`. The name of a class means what
    stands in it outside of its methods, and the empty one what stands outside of all functions.

    If both are expressions, one is replaced within whatever it is part of. If not, both are
    statements, and `old` is a run of them in one body; no code at all is `pass`. What looks like an
    assignment may be an argument of a call as well.
    """

    path: str
    function: str
    old: str
    new: str


def replaced(edit: Edit, text: str) -> str:
    """Return the program `text` with the edit made; raise NotApplied unless there is one place."""
    module = ast.parse(text)
    where = f"leaderexec/{edit.path}"
    roots = list(_named(module, edit.function.split("."))) if edit.function else [module]
    if not roots:
        raise NotApplied(f"there is no {edit.function} in {where}")
    old, new = (textwrap.dedent(code).strip() or "pass" for code in (edit.old, edit.new))
    meanings = _meanings(old, new)
    if not meanings:
        raise NotApplied(f"this is no code, or not of one kind: {edit.old} -> {edit.new}")
    places = [
        (*place, len(olds), news)
        for root in roots
        for olds, news in meanings
        for place in _places(root, olds)
    ]
    if len(places) != 1:
        raise NotApplied(f"{len(places)} places of {edit.function} in {where} match: {edit.old}")
    parent, field, start, length, nodes = places[0]
    if start is None:
        setattr(parent, field, nodes[0])
    else:
        getattr(parent, field)[start : start + length] = nodes
    return ast.unparse(ast.fix_missing_locations(module))


def _meanings(old: str, new: str) -> list[tuple[list[_Code], list[_Code]]]:
    """Return as what both can be read: expressions, or else arguments, statements, or either."""
    expressions, *others = [*zip(_readings(old), _readings(new), strict=True)]
    return [pair for pair in ([expressions] if all(expressions) else others) if all(pair)]


def _readings(code: str) -> tuple[list[_Code], list[_Code], list[_Code]]:
    """Read code as an expression, as arguments of a call, and as statements: empty if none."""
    one, call, statements = (_parsed(text) for text in (f"(\n{code}\n)", f"f(\n{code}\n)", code))
    expressions: list[_Code] = [each.value for each in one if isinstance(each, ast.Expr)]
    arguments: list[_Code] = [
        keyword
        for each in call
        if isinstance(each, ast.Expr) and isinstance(each.value, ast.Call) and not each.value.args
        for keyword in each.value.keywords
    ]
    return expressions, arguments, [*statements]


def _parsed(text: str) -> list[ast.stmt]:
    with contextlib.suppress(SyntaxError):
        return ast.parse(text).body
    return []


def _named(node: ast.AST, names: list[str]) -> Iterator[_Scope]:
    """Find what has a qualified name; more than once where it is defined more than once."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, _Scope):
            yield from _named(child, names)
        elif child.name == names[0]:
            if names[1:]:
                yield from _named(child, names[1:])
            else:
                yield child


def _places(root: ast.AST, old: list[_Code]) -> Iterator[tuple[ast.AST, str, int | None]]:
    """Find where this code is: a field of a node, and if that is a list, from where in it.

    Of a class or a module it is what stands outside of functions.
    """
    wanted = [ast.dump(node) for node in old]
    pending = [root]
    while pending:
        parent = pending.pop()
        for field, value in ast.iter_fields(parent):
            nodes = value if isinstance(value, list) else [value]
            for at, node in enumerate(nodes):
                if not isinstance(node, ast.AST):
                    continue
                if [ast.dump(other) for other in nodes[at : at + len(old)]] == wanted:
                    yield parent, field, at if nodes is value else None
                if isinstance(root, _Function) or not isinstance(node, _Function):
                    pending.append(node)
