"""Where a module uses tenacity, stamina or backoff, found in its syntax tree.

The module is parsed, never imported. A name means what the innermost scope that
binds it says: an import of one of the libraries, another name for what was imported,
or something else, which is no use.

Not modelled: names that are made at run time (`getattr`, `globals()`), and the order
of bindings within one scope, where an import counts for the whole of it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Literal, NamedTuple, TypeAlias

LIBRARIES: Final = ("backoff", "stamina", "tenacity")

Role: TypeAlias = Literal[
    "apply",
    "async loop",
    "call",
    "decorated",
    "decorator",
    "import",
    "loop",
    "reference",
    "text",
]
"""What a use is: a decorator; the iterable of a loop; a call, of whose answer one is
made at once (apply) or not; a name that is passed on; an attribute that a decorated
function has got; a string that names the library; an import that no other use needs."""


class Use(NamedTuple):
    """One use of a library.

    Attributes:
        line: Number of its line, from 1.
        library: One of `LIBRARIES`.
        name: The last part of its dotted name, as "retry"; the library's for a use of
            the whole module.
        role: What it is used as.
        call: The call of it, where there is one.
    """

    line: int
    library: str
    name: str
    role: Role
    call: ast.Call | None = None


def uses_in(tree: ast.Module, names: Mapping[str, Sequence[str]]) -> list[Use]:
    """Find the uses in a module, in the order of its lines.

    Args:
        tree: The module.
        names: What ``from library import *`` binds, for each library.

    Raises:
        RecursionError: It is nested too deeply.
    """
    finder = _Finder(names)
    finder.enter(tree, tree.body)
    used = {use.library for use in finder.uses}
    for line, library in finder.imported:
        if library not in used:
            finder.uses.append(Use(line, library, library, "import"))
            used.add(library)
    return sorted(finder.uses, key=lambda use: use.line)


_SCOPES: Final = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_OWN_NAMES: Final = (
    ast.Lambda,
    ast.ListComp,
    ast.SetComp,
    ast.DictComp,
    ast.GeneratorExp,
)
_DOTTED: Final = re.compile(rf"({'|'.join(LIBRARIES)})(\.[A-Za-z_]\w*)+")
_TAKE_A_NAME: Final = ("__import__", "getLogger", "import_module", "importorskip")
_OF_DECORATED: Final = ("retry", "retry_with", "statistics")
"""What tenacity adds to a function that it decorates."""


class _Scope(NamedTuple):
    is_class: bool
    bound: dict[str, str]


def _own_nodes(body: Sequence[ast.AST]) -> Iterator[ast.AST]:
    """Yield the nodes of a scope, without those of the scopes inside it."""
    waiting = list(reversed(body))
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, (*_SCOPES, *_OWN_NAMES)):
            waiting.extend(reversed(list(ast.iter_child_nodes(node))))


def _imports(node: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield what an import binds: a name, and the dotted name that it means."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            # `import a.b` binds a, `import a.b as c` binds a.b.
            whole = alias.name if alias.asname else alias.name.partition(".")[0]
            yield alias.asname or whole, whole
    elif isinstance(node, ast.ImportFrom) and not node.level:
        for alias in node.names:
            yield alias.asname or alias.name, f"{node.module}.{alias.name}"


class _Finder(ast.NodeVisitor):
    def __init__(self, names: Mapping[str, Sequence[str]]) -> None:
        self.names = names
        self.uses: list[Use] = []
        self.imported: list[tuple[int, str]] = []
        self._scopes: list[_Scope] = []
        self._decorated: set[str] = set()

    def enter(
        self, owner: ast.AST, body: Sequence[ast.AST], parameters: Sequence[str] = ()
    ) -> None:
        """Visit what stands in a scope, knowing all that it binds."""
        bound = dict.fromkeys(parameters, "")
        starred: list[str] = []
        others: list[str] = []
        for node in _own_nodes(body):
            for name, dotted in _imports(node):
                library = dotted.partition(".")[0]
                if library not in LIBRARIES:
                    others.append(name)
                    continue
                self.imported.append((getattr(node, "lineno", 1), library))
                if name == "*":
                    starred.append(library)
                else:
                    bound[name] = dotted
            if isinstance(node, _SCOPES):
                others.append(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                others.append(node.id)
        for name in others:
            bound.setdefault(name, "")
        for library in starred:
            for name in self.names[library]:
                bound.setdefault(name, f"{library}.{name}")
        self._scopes.append(_Scope(isinstance(owner, ast.ClassDef), bound))
        for node in body:
            self.visit(node)
        self._scopes.pop()

    def dotted(self, node: ast.AST) -> str:
        """Return the full name of what an expression names in a library, or ""."""
        if isinstance(node, ast.Attribute):
            of = self.dotted(node.value)
            return of and f"{of}.{node.attr}"
        if not isinstance(node, ast.Name):
            return ""
        for depth, scope in enumerate(reversed(self._scopes)):
            # NB: a method does not see the names of its class.
            if node.id in scope.bound and (not depth or not scope.is_class):
                return scope.bound[node.id]
        return ""

    def found(self, node: ast.AST, role: Role) -> bool:
        """Note a use that an expression is; return whether it is one."""
        call = node if isinstance(node, ast.Call) else None
        dotted = self.dotted(node if call is None else call.func)
        if not dotted:
            return False
        library, name = dotted.partition(".")[0], dotted.rpartition(".")[2]
        line: int = getattr(node, "lineno", 1)
        self.uses.append(Use(line, library, name, role, call))
        return True

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load):
            self.found(node, "reference")

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if self.found(node, "reference"):
            return
        of = node.value
        name = of.id if isinstance(of, ast.Name) else ""
        if node.attr in _OF_DECORATED and name in self._decorated:
            self.uses.append(Use(node.lineno, "tenacity", node.attr, "decorated"))
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        # NB: the arguments belong to the use, which is translated with them.
        if self.found(node, "call"):
            return
        if isinstance(node.func, ast.Call) and self.found(node.func, "apply"):
            for argument in (*node.args, *node.keywords):
                self.visit(argument)
            return
        named = getattr(node.func, "id", getattr(node.func, "attr", ""))
        for argument in node.args[:1]:
            value = argument.value if isinstance(argument, ast.Constant) else None
            if named in _TAKE_A_NAME and value in LIBRARIES:
                self.uses.append(Use(node.lineno, str(value), str(value), "text"))
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str) and (m := _DOTTED.fullmatch(node.value)):
            last = node.value.rpartition(".")[2]
            self.uses.append(Use(node.lineno, m[1], last, "text"))

    def visit_Assign(self, node: ast.Assign) -> None:
        dotted = self.dotted(node.value)
        if dotted and all(isinstance(target, ast.Name) for target in node.targets):
            # Another name for it; what that is used for is told.
            for target in node.targets:
                self._scopes[-1].bound[getattr(target, "id", "")] = dotted
            return
        self.generic_visit(node)

    def _visit_loop(self, node: ast.For | ast.AsyncFor, role: Role) -> None:
        if not (isinstance(node.iter, ast.Call) and self.found(node.iter, role)):
            self.visit(node.iter)
        for inner in (*node.body, *node.orelse):
            self.visit(inner)

    def visit_For(self, node: ast.For) -> None:
        self._visit_loop(node, "loop")

    def visit_AsyncFor(self, node: ast.AsyncFor) -> None:
        self._visit_loop(node, "async loop")

    def _visit_decorators(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        for decorator in node.decorator_list:
            if not self.found(decorator, "decorator"):
                self.visit(decorator)
            elif self.uses[-1].library == "tenacity":
                self._decorated.add(node.name)

    def _visit_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._visit_decorators(node)
        self.visit(node.args)
        if node.returns is not None:
            self.visit(node.returns)
        self.enter(node, node.body, _parameters(node.args))

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._visit_function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._visit_function(node)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self.visit(node.args)
        self.enter(node, [node.body], _parameters(node.args))

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for outside in (*node.decorator_list, *node.bases, *node.keywords):
            self.visit(outside)
        self.enter(node, node.body)


def _parameters(arguments: ast.arguments) -> list[str]:
    some = (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
    rest = (arguments.vararg, arguments.kwarg)
    return [each.arg for each in (*some, *rest) if each is not None]
