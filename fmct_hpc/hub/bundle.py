"""Creates a self-contained module from functions and classes of this package and their dependencies.

An exported encoder thus runs the source code of this package at the time of export, and not a second
implementation.
"""

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

OURS = ("fmct_hpc", "shards")


class _Module(NamedTuple):
    source: str
    defined: dict[str, tuple[ast.stmt, ...]]
    """By name: the statements of its definition and, for a constant, the docstring that follows it."""
    imported: dict[str, tuple[str, str | None]]
    """By local name: the module, and the name in it (None: the module itself)."""


def bundle(roots: Mapping[str, tuple[str, ...]], docstring: str) -> str:
    """The source of a module that defines the names in `roots` (by module) and their dependencies.

    Classes of this package that are only used in annotations are replaced by `Any`. Raises ValueError if a
    name has different meanings in two modules.
    """
    gathered = _Gathered()
    for module, names in roots.items():
        for name in names:
            gathered.take(module, name)
    gathered.replace_by_any()
    imports = sorted(gathered.imports, key=lambda line: (line.startswith("from"), line))
    head = [f'"""{docstring}\n"""', "from __future__ import annotations", "\n".join(imports)]
    return "\n\n".join(head) + "\n\n" + "\n\n\n".join(gathered.texts) + "\n"


class _Gathered:
    def __init__(self) -> None:
        self.imports: set[str] = set()
        self.texts: list[str] = []
        self._owners: dict[str, tuple[str, str]] = {}
        self._bundled: set[str] = set()
        self._foreign: set[str] = set()

    def take(self, module: str, name: str) -> None:
        """Add the definition of `name` in `module`, after its dependencies."""
        own = _read(module)
        if name in own.imported:
            self._import(name, *own.imported[name])
        elif name in own.defined and self._own(name, module, name):
            statements = own.defined[name]
            for inner, annotation in _names(statements):
                if annotation and self._is_class(module, inner):
                    self._foreign.add(inner)
                elif inner != name:
                    self.take(module, inner)
            self.texts.append("\n".join(_text(own.source, one) for one in statements))

    def replace_by_any(self) -> None:
        """Define classes that are only used in annotations as `Any`."""
        for name in sorted(self._foreign - self._bundled):
            self._import("Any", "typing", "Any")
            self.texts.insert(0, f"{name} = Any")

    def _import(self, name: str, module: str, there: str | None) -> None:
        if module.split(".")[0] not in OURS:
            alias = f" as {name}" if name != (there or module) else ""
            self.imports.add(f"from {module} import {there}{alias}" if there else f"import {module}{alias}")
            self._own(name, module, there or "")
            return
        assert there is not None, module
        self.take(module, there)
        if name != there and self._own(name, module, there):
            self.texts.append(f"{name} = {there}")

    def _is_class(self, module: str, name: str) -> bool:
        own = _read(module)
        if name in own.imported:
            origin, there = own.imported[name]
            return origin.split(".")[0] in OURS and there is not None and self._is_class(origin, there)
        return name in own.defined and isinstance(own.defined[name][0], ast.ClassDef)

    def _own(self, name: str, module: str, there: str) -> bool:
        """Whether the name is new; ValueError where it already is of something else."""
        first = self._owners.setdefault(name, (module, there))
        if first != (module, there):
            raise ValueError(f"{name} is defined by {first} and by {(module, there)}")
        new = name not in self._bundled
        self._bundled.add(name)
        return new


@cache
def _read(module: str) -> _Module:
    spec = find_spec(module)
    assert spec is not None, module
    assert spec.origin is not None, module
    source = Path(spec.origin).read_text()
    defined: dict[str, tuple[ast.stmt, ...]] = {}
    imported: dict[str, tuple[str, str | None]] = {}
    body = ast.parse(source).body
    for statement, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            defined[statement.name] = (statement,)
        elif isinstance(statement, ast.Assign | ast.AnnAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            text = after if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else None
            for target in targets:
                for one in ast.walk(target):
                    if isinstance(one, ast.Name):
                        defined[one.id] = (statement, text) if text else (statement,)
        elif isinstance(statement, ast.ImportFrom) and statement.module:
            for alias in statement.names:
                imported[alias.asname or alias.name] = (statement.module, alias.name)
        elif isinstance(statement, ast.Import):
            for alias in statement.names:
                imported[alias.asname or alias.name] = (alias.name, None)
    return _Module(source, defined, imported)


def _names(statements: tuple[ast.stmt, ...]) -> Iterator[tuple[str, bool]]:
    """Yield the names that are read, and whether in an annotation; those in annotations last."""
    annotations = {
        id(inner)
        for statement in statements
        for node in ast.walk(statement)
        for annotation in (getattr(node, "annotation", None), getattr(node, "returns", None))
        if isinstance(annotation, ast.expr)
        for inner in ast.walk(annotation)
    }
    read = [
        node
        for statement in statements
        for node in ast.walk(statement)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    ]
    for wanted in (False, True):
        yield from ((node.id, wanted) for node in read if (id(node) in annotations) == wanted)


def _text(source: str, statement: ast.stmt) -> str:
    """The source text of a statement, with its decorators."""
    decorators = getattr(statement, "decorator_list", [])
    first = min([statement.lineno, *(one.lineno for one in decorators)])
    return "\n".join(source.splitlines()[first - 1 : statement.end_lineno])
