"""Python code that differs from other code in names, comments and layout only is told by its syntax tree.

The fact `syntax` is a hash of the tree with every name that the file itself binds replaced by its number of appearance,
without comments and docstrings (type-2 clones: Roy, Cordy & Koschke 2009, section 3). Deduplication then drops a
document whose tree is that of a kept one: rule `same_syntax`, with the kept one as witness. Small trees have no hash:
short functions are alike by nature. `--stages "syntax rules"`.
"""
import ast
import warnings
from dataclasses import dataclass

from meristem.core.files import digest_bytes
from meristem.corpus.stages.base import Batch

ODDITIES = (SyntaxError, ValueError, RecursionError, MemoryError)
LARGEST = 1 << 20                       # characters of a file that are parsed


@dataclass(frozen=True)
class Stage:
    """`nodes`: the fewest of a tree that is hashed."""

    nodes: int = 100

    def __call__(self, batch: Batch) -> Batch:
        """The batch with `syntax` among the facts of its Python files."""
        facts = list(batch["facts"])
        for n, (text, kind, rule) in enumerate(zip(batch["text"], batch["kind"], batch["rule"], strict=True)):
            if kind == "code" and not rule and (found := tree_hash(text, self.nodes)):
                facts[n] = {**facts[n], "syntax": found}
        return {**batch, "facts": facts}


def tree_hash(text: str, nodes: int = 0) -> str:
    """The hash of a Python text's normalised tree; "" for what is no Python, and for a tree of fewer nodes."""
    if len(text) > LARGEST:
        return ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")                    # a strange escape is a SyntaxWarning
            tree = ast.parse(text)
        every = list(ast.walk(tree))
        if len(every) < nodes:
            return ""
        _rename(every)
        return digest_bytes(ast.dump(tree))
    except ODDITIES:
        return ""


def _rename(nodes: list[ast.AST]) -> None:
    """Names that are bound in the file become numbers, docstrings go; in place."""
    bound: dict[str, str] = {}
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            bound.setdefault(node.name, str(len(bound)))
        elif isinstance(node, ast.arg):
            bound.setdefault(node.arg, str(len(bound)))
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            bound.setdefault(node.id, str(len(bound)))
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            node.name = bound[node.name]
        elif isinstance(node, ast.arg):
            node.arg = bound[node.arg]
        elif isinstance(node, ast.Name):
            node.id = bound.get(node.id, node.id)
        elif isinstance(node, ast.Attribute):
            node.attr = bound.get(node.attr, node.attr)        # methods of the file's own classes
        elif isinstance(node, ast.keyword) and node.arg:
            node.arg = bound.get(node.arg, node.arg)
        elif isinstance(node, ast.Global | ast.Nonlocal):
            node.names = [bound.get(name, name) for name in node.names]
        body = node.body if isinstance(node, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) else []
        if body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant) and isinstance(
                body[0].value.value, str):
            body[0].value.value = ""
