"""Mutants: a module's functions, each with one small fault put into it.

`mutants(source)` lists them. Only what functions do is mutated, since a fault is
put into a process that runs by exchanging the code of functions: defaults,
decorators, class attributes and texts stay as they are.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import CodeType

FLIPPED: dict[type[ast.AST], tuple[Callable[[], ast.AST], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Div,),
    ast.Div: (ast.Mult,),
    ast.FloorDiv: (ast.Mult,),
    ast.Mod: (ast.Mult,),
    ast.Pow: (ast.Mult,),
    ast.BitAnd: (ast.BitOr,),
    ast.BitOr: (ast.BitAnd,),
    ast.And: (ast.Or,),
    ast.Or: (ast.And,),
}
OPPOSITE = {"min": "max", "max": "min"}


@dataclass(frozen=True)
class Mutant:
    """One fault: `before` became `after` in `function`, on these lines."""

    function: str
    lines: range
    before: str
    after: str
    place: int
    variant: int

    def __str__(self) -> str:
        where = f"{self.lines.start} {self.function}"
        return f"{where}: `{self.before}` -> `{self.after}`"


def mutants(source: str) -> list[Mutant]:
    """Every mutant of a module, in the order of the source."""
    tree = ast.parse(source)
    numbers = {id(node): number for number, node in enumerate(ast.walk(tree))}
    uncovered = {
        number
        for number, line in enumerate(source.splitlines(), 1)
        if "pragma: no cover" in line
    }
    found = [
        Mutant(
            function,
            range(node.lineno, end_of(node) + 1),
            headline(node),
            headline(after),
            numbers[id(node)],
            variant,
        )
        for function, node in sites(tree, "")
        for variant, after in enumerate(variants(node))
        if node.lineno not in uncovered
    ]
    return sorted(found, key=lambda one: (one.lines.start, one.place, one.variant))


def codes(source: str, path: str, mutant: Mutant | None) -> dict[str, CodeType]:
    """The code of each function of the module, by its qualified name and line."""
    tree = ast.parse(source)
    if mutant is not None:
        target = list(ast.walk(tree))[mutant.place]
        assert isinstance(target, ast.stmt | ast.expr)
        tree = Exchange(target, list(variants(target))[mutant.variant]).visit(tree)
    return dict(functions(compile(ast.fix_missing_locations(tree), path, "exec")))


def functions(code: CodeType) -> Iterator[tuple[str, CodeType]]:
    """The code of each function within some code."""
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield name_of(inner), inner
            yield from functions(inner)


def name_of(code: CodeType) -> str:
    """What a function is known by, mutated or not."""
    return f"{code.co_qualname}:{code.co_firstlineno}"


class Exchange(ast.NodeTransformer):
    """Puts one node in the place of another."""

    def __init__(self, before: ast.AST, after: ast.AST) -> None:
        self.before = before
        self.after = after

    def visit(self, node: ast.AST) -> ast.AST:
        if node is self.before:
            return self.after
        return self.generic_visit(node)


def sites(node: ast.AST, function: str) -> Iterator[tuple[str, ast.stmt | ast.expr]]:
    """Every node that runs within a function, with the function's name."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inner = f"{function}.{child.name}".lstrip(".")
            for statement in child.body:
                if isinstance(child, ast.ClassDef):
                    if isinstance(
                        statement,
                        ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef,
                    ):
                        yield from sites(ast.Module([statement], []), inner)
                else:
                    yield from sites(ast.Module([statement], []), inner)
        elif isinstance(child, ast.JoinedStr | ast.Assert):
            continue  # texts, and what no call relies on
        elif function and isinstance(child, ast.AnnAssign):
            if child.value is not None:
                yield function, child
                yield from sites(ast.Expr(child.value), function)
        else:
            if function and isinstance(child, ast.stmt | ast.expr):
                yield function, child
            yield from sites(child, function)


def variants(node: ast.AST) -> Iterator[ast.AST]:
    """What may stand in the place of a node, each wrong in one respect."""
    match node:
        case ast.Compare(left, [op], comparators):
            for other in FLIPPED[type(op)]:
                yield ast.Compare(left, [other()], comparators)
        case ast.BinOp(left, op, right) if not (is_text(left) or is_text(right)):
            for other in FLIPPED.get(type(op), ()):
                yield ast.BinOp(left, other(), right)
        case ast.BoolOp(op, values):
            yield ast.BoolOp(FLIPPED[type(op)][0](), values)
        case ast.UnaryOp(ast.Not() | ast.USub(), operand):
            yield operand
        case ast.Constant(bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(int(value) | float(value)):
            yield ast.Constant(value + 1)
        case ast.Call(ast.Name(name), arguments, keywords) if name in OPPOSITE:
            yield ast.Call(ast.Name(OPPOSITE[name], ast.Load()), arguments, keywords)
            if not keywords:
                yield from without_one(name, arguments)
        case ast.IfExp(test, body, orelse):
            yield ast.IfExp(ast.UnaryOp(ast.Not(), test), body, orelse)
        case ast.If(test, body, orelse):
            yield ast.If(ast.UnaryOp(ast.Not(), test), body, orelse)
        case ast.Return(value) if value is not None and not is_false(value):
            yield ast.Return(ast.Constant(None))
        case ast.AugAssign(target, op, value):
            for other in FLIPPED.get(type(op), ()):
                yield ast.AugAssign(target, other(), value)
            yield ast.Pass()
        case ast.Assign([ast.Attribute() | ast.Subscript()]):
            yield ast.Pass()
        case ast.AnnAssign(ast.Attribute()) | ast.Raise() | ast.Delete():
            yield ast.Pass()
        case ast.Expr(ast.Call() | ast.Await()):
            yield ast.Pass()


def without_one(name: str, arguments: list[ast.expr]) -> Iterator[ast.expr]:
    """A `min` or `max` that leaves out one of its bounds."""
    for left_out in arguments:
        rest = [one for one in arguments if one is not left_out]
        if len(rest) > 1:
            yield ast.Call(ast.Name(name, ast.Load()), rest, [])
        elif rest and not isinstance(rest[0], ast.Starred):
            yield rest[0]


def is_text(node: ast.AST) -> bool:
    """Whether a node is a text written out."""
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def is_false(node: ast.AST) -> bool:
    """Whether a node is `None`, or `False`, which is as good to who asks `if`."""
    return isinstance(node, ast.Constant) and (
        node.value is None or node.value is False
    )


def end_of(node: ast.stmt | ast.expr) -> int:
    """The last line of what a node itself runs: of an `if` its condition."""
    if isinstance(node, ast.If):
        return end_of(node.test)
    return node.end_lineno or node.lineno


def headline(node: ast.AST) -> str:
    """A node's source on one line, of an `if` the condition alone."""
    if isinstance(node, ast.If):
        return f"if {ast.unparse(ast.fix_missing_locations(node.test))}"
    return " ".join(ast.unparse(ast.fix_missing_locations(node)).split())
