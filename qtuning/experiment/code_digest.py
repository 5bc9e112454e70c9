"""The digest of a pruner of one's own: of its code and of what it calls in its file, not of comments or docstrings.

It is part of the identity of the pruner's cells. Editing a comment or another function trains nothing again; editing a
helper, a constant or an import that the pruner uses does.
"""

import ast
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLIND = {"globals", "eval", "exec", "__name__"}
"""What finds objects of the module by names that are no names in the code: whoever uses one depends on all of it."""


def code_digest(files: dict[Path, str]) -> str:
    """8 hex digits, of several files where the code is spread. files: of each, the name in it where the code begins.

    Names are followed by their spelling: a local variable with the name of a function counts as a use of it. A file
    that is no source (an extension) counts whole.
    """
    found = [
        [_shape(node) for node in used(path.read_bytes(), name)] if path.suffix == ".py" else path.read_bytes()
        for path, name in files.items()
    ]
    return hashlib.sha256(repr(found).encode()).hexdigest()[:8]


def is_imported(path: Path, name: str) -> bool:
    """Whether a module has a name by importing it alone."""
    binding = [node for node in ast.parse(path.read_bytes()).body if name in _bound(node)]
    return bool(binding) and all(isinstance(node, ast.Import | ast.ImportFrom) for node in binding)


def used(source: bytes, name: str) -> list[ast.stmt]:
    """The statements of a module that define `name` and whatever it needs, in the order of the file.

    What is neither a definition, an import nor an assignment to a name (a loop, a call) may change any of them, so it
    always counts, but for `if __name__ == "__main__"` and bare strings. Without a definition of `name`, all counts.
    """
    body = [node for node in ast.parse(source).body if not (_is_text(node) or _is_main(node))]
    bound = [(node, set(_bound(node))) for node in body]
    everything = not any(name in names for _, names in bound)
    wanted, taken = [name], {id(node) for node, names in bound if everything or not names}
    for node in body:
        wanted += _names(node) if id(node) in taken else []
    seen: set[str] = set()
    while wanted:
        if (now := wanted.pop()) in seen:
            continue
        seen.add(now)
        for node, names in bound:
            if (now in names or "*" in names) and id(node) not in taken:
                taken.add(id(node))
                wanted += _names(node)
    return body if seen & BLIND else [_narrowed(node, seen) for node in body if id(node) in taken]


def _bound(node: ast.stmt) -> Iterator[str]:
    """The names that a statement at the top of a module binds; none for one that does something else as well."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Import | ast.ImportFrom):
        yield from (alias.asname or alias.name.partition(".")[0] for alias in node.names)
    elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        # TABLE["a"] = 1 and TABLE.a = 1 are about TABLE
        yield from (part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name))


def _names(node: ast.AST) -> list[str]:
    """Every name in the code; annotations may be texts."""
    parts = list(ast.walk(node))
    texts = [part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)]
    return [part.id for part in parts if isinstance(part, ast.Name)] + [text for text in texts if text.isidentifier()]


def _narrowed(node: ast.stmt, seen: set[str]) -> ast.stmt:
    """An import without the names that are not used."""
    if isinstance(node, ast.Import):
        return ast.Import([a for a in node.names if (a.asname or a.name.partition(".")[0]) in seen])
    if isinstance(node, ast.ImportFrom):
        return ast.ImportFrom(node.module, [a for a in node.names if (a.asname or a.name) in {*seen, "*"}], node.level)
    return node


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _is_main(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and "__name__" in _names(node.test)


def _shape(node: Any) -> Any:
    """A tree as nested tuples, the same in all versions of Python: without places, docstrings and empty fields."""
    if isinstance(node, ast.AST):
        fields = [(key, _shape(value)) for key, value in ast.iter_fields(node) if value not in (None, [])]
        return type(node).__name__, *(pair for pair in fields if pair[0] not in ("ctx", "type_comment", "kind"))
    if isinstance(node, list):
        return [_shape(part) for part in node if not (isinstance(part, ast.stmt) and _is_text(part))]
    return repr(node)
