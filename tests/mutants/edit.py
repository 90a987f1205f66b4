"""One change of a module, told as code: what in which function becomes what.

Owns: how code is found, by its syntax tree and in one place only, and how it is replaced in the
text. Comments, line breaks and quotes make no difference, nor does where in its function it stands.
Must not know: what a mutant is.
Guards against: a mutant that is another one than it says. What becomes of the text is read again,
and must be the old tree with the new code in it.
"""

from __future__ import annotations

import ast
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_Function = ast.FunctionDef | ast.AsyncFunctionDef
_Scope = _Function | ast.ClassDef
_Code = ast.expr | ast.keyword | ast.stmt

#: What needs no parentheses wherever an expression may stand.
_ATOMS: Final = (
    ast.Attribute, ast.Call, ast.Constant, ast.Dict, ast.DictComp, ast.List, ast.ListComp,
    ast.Name, ast.Set, ast.SetComp, ast.Subscript,
)  # fmt: skip


class NotApplied(Exception):
    """The code of a mutant is not there, or not once."""


@dataclass(frozen=True, slots=True)
class Edit:
    """In this function of a file of leaderexec the code `old`, found once, becomes `new`.

    `function` is qualified, like `Election.step` or `outer.inner`. The name of a class means what
    stands in it outside of its methods, and the empty one what stands outside of all functions.

    If both are expressions, one is replaced within whatever it is part of. If not, both are
    statements, and `old` is a run of them in one body; no code at all is `pass`. What looks like an
    assignment may be an argument of a call as well. An f-string is found as a whole only.
    """

    path: str
    function: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class _Place:
    """Where code was found: a field of a node, and if that is a list, from where to where in it."""

    parent: ast.AST
    field: str
    start: int | None
    old: list[_Code]
    new: list[_Code]

    def put(self) -> None:
        """Replace the old nodes in the tree."""
        if self.start is None:
            setattr(self.parent, self.field, self.new[0])
        else:
            end = self.start + len(self.old)
            getattr(self.parent, self.field)[self.start : end] = self.new


def replaced(edit: Edit, text: str) -> str:
    """Return the source `text` with the edit made; raise NotApplied unless there is one place."""
    module = ast.parse(text)
    where = f"leaderexec/{edit.path}"
    roots = list(_named(module, edit.function.split("."))) if edit.function else [module]
    if not roots:
        raise NotApplied(f"there is no {edit.function} in {where}")
    old, new = (textwrap.dedent(code).strip() for code in (edit.old, edit.new))
    meanings = _meanings(old, new or "pass")
    if not meanings:
        raise NotApplied(f"this is no code, or not of one kind: {old} -> {new}")
    places = [place for root in roots for meaning in meanings for place in _places(root, *meaning)]
    if len(places) != 1:
        within = f"{edit.function} of {where}" if edit.function else where
        raise NotApplied(f"{len(places)} places in {within} match, not one: {old}")
    result = _spliced(text, places[0], new or "pass")
    places[0].put()
    if not _says(result, module):
        raise NotApplied(f"the text of {where} cannot be changed here: {old}")
    return result


def _meanings(old: str, new: str) -> list[tuple[list[_Code], list[_Code]]]:
    """Return as what both can be read: expressions, or else arguments, statements, or either."""
    expressions = _expression(old), _expression(new)
    if expressions[0] and expressions[1]:
        return [expressions]
    pairs = [(_argument(old), _argument(new)), (_statements(old), _statements(new))]
    return [pair for pair in pairs if pair[0] and pair[1]]


def _expression(code: str) -> list[_Code]:
    try:
        return [ast.parse(f"(\n{code}\n)", mode="eval").body]
    except SyntaxError:
        return []


def _argument(code: str) -> list[_Code]:
    try:
        call = ast.parse(f"f(\n{code}\n)", mode="eval").body
    except SyntaxError:
        return []
    return [*call.keywords] if isinstance(call, ast.Call) and not call.args else []


def _statements(code: str) -> list[_Code]:
    try:
        return [*ast.parse(code).body]
    except SyntaxError:
        return []


def _says(text: str, module: ast.Module) -> bool:
    try:
        return ast.dump(ast.parse(text)) == ast.dump(module)
    except SyntaxError:
        return False


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


def _places(root: ast.AST, old: list[_Code], new: list[_Code]) -> Iterator[_Place]:
    """Find all places that have this code; of a class or module those outside of functions."""
    wanted = [ast.dump(node) for node in old]
    # Python 3.11 does not say where the parts of an f-string stand.
    closed = ast.JoinedStr if isinstance(root, _Function) else ast.JoinedStr | _Function
    pending = [root]
    while pending:
        parent = pending.pop()
        for field, value in ast.iter_fields(parent):
            nodes = value if isinstance(value, list) else [value]
            for at, node in enumerate(nodes):
                run = nodes[at : at + len(old)]
                if type(node) is type(old[0]) and [ast.dump(other) for other in run] == wanted:
                    yield _Place(parent, field, at if nodes is value else None, run, new)
                if isinstance(node, ast.AST) and not isinstance(node, closed):
                    pending.append(node)


def _spliced(text: str, place: _Place, new: str) -> str:
    """Return `text` with `new` from where the old nodes begin to where they end."""
    lines = text.encode().splitlines(keepends=True)  # columns are counted in bytes
    first, last = place.old[0], place.old[-1]
    line, column = first.lineno, first.col_offset
    if isinstance(first, _Scope) and first.decorator_list:
        line = first.decorator_list[0].lineno
    before = b"".join(lines[: line - 1]) + lines[line - 1][:column]
    end_line, end_column = last.end_lineno or line, last.end_col_offset or column
    after = lines[end_line - 1][end_column:] + b"".join(lines[end_line:])
    if isinstance(first, ast.stmt):
        if isinstance(first, ast.If) and lines[line - 1].startswith(b"elif", column):
            one_if = len(place.new) == 1 and isinstance(place.new[0], ast.If)
            new = f"el{new}" if one_if else f"else:\n{textwrap.indent(new, '    ')}"
        new = textwrap.indent(new, " " * column).lstrip()
    elif isinstance(first, ast.expr) and ("\n" in new or not isinstance(place.new[0], _ATOMS)):
        new = f"({new})"
    return (before + new.encode() + after).decode()
