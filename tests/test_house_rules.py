"""The rules of the house, executed: size, docstrings, ASCII, safety, imports, families, recipes, mirrored tests."""
import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from meristem.core import registry
from meristem.core.config import build, known
from meristem.recipes import recipes

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "meristem").rglob("*.py"))
OWN = SOURCES + sorted(p for folder in ("tests", "benchmarks") for p in (ROOT / folder).rglob("*.py"))
CAP = 500
ARGUMENTS = 12
NEVER = {"transformers", "peft", "trl", "diffusers", "lm_eval", "accelerate",           # oracles of tests, not parts
         "pickle", "dill", "cloudpickle", "shelve", "marshal"}
EXTRAS = NEVER | {"fastapi", "uvicorn", "llguidance", "prometheus_client", "pyarrow", "orjson", "warcio", "trafilatura",
                  "pypdf", "ftfy", "py3langid", "pydivsufsort", "sklearn", "trl", "sacrebleu", "rouge_score",
                  "dp_accounting", "datasets", "faiss", "bm25s", "soundfile", "daft", "ray", "minigrid", "mujoco",
                  "scipy", "beartype", "hypothesis", "pytest"}
ENTRIES = {"meristem/evals/harness.py": {"lm_eval"}}           # loaded by that program alone, to be known to it
CALLS = {"eval", "exec", "torch.load", "torch.save", "yaml.load", "os.system", "os.popen"}


def short(path: Path) -> str:
    return str(path.relative_to(ROOT))


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(node: ast.AST) -> list[str]:
    """The top-level names that an import statement brings in."""
    if isinstance(node, ast.Import):
        return [alias.name.split(".")[0] for alias in node.names]
    return [node.module.split(".")[0]] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []


def public(node: ast.AST) -> list[ast.FunctionDef | ast.ClassDef]:
    """Public functions and classes of a module, and the public methods of its public classes."""
    found = []
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.ClassDef) and not child.name.startswith("_"):
            found.append(child)
            if isinstance(child, ast.ClassDef):
                found += [m for m in child.body if isinstance(m, ast.FunctionDef) and not m.name.startswith("_")]
    return found


@pytest.mark.parametrize("path", OWN, ids=short)
def test_file_is_short_documented_and_ascii(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= CAP, f"{text.count(chr(10))} lines; no file over {CAP}"
    assert ast.get_docstring(ast.parse(text)), "a module opens with a docstring: what it is, the source, how to use it"
    assert text.isascii() or path not in SOURCES, [line for line in text.splitlines() if not line.isascii()][:3]


@pytest.mark.parametrize("path", SOURCES, ids=short)
def test_public_functions_say_what_they_do(path: Path) -> None:
    inherited = {"stage", "update", "say", "sample", "warn", "forward"}        # documented where the protocol is
    bare = [n.name for n in public(tree_of(path)) if not ast.get_docstring(n) and n.name not in inherited]
    assert not bare, f"without a docstring: {', '.join(bare)}"


@pytest.mark.parametrize("path", SOURCES, ids=short)
def test_nothing_unsafe_is_called_or_imported(path: Path) -> None:
    tree = tree_of(path)
    for node in ast.walk(tree):
        never = NEVER - ENTRIES.get(short(path), set())
        assert not set(imported(node)) & never, f"line {node.lineno} imports {imported(node)}"
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in CALLS, f"line {node.lineno} calls {ast.unparse(node.func)}"
            doors = [k for k in node.keywords if k.arg in ("shell", "allow_pickle", "trust_remote_code")]
            shut = all(isinstance(k.value, ast.Constant) and k.value.value is False for k in doors)
            assert shut, f"line {node.lineno}: {ast.unparse(node)}"
        if isinstance(node, ast.Name):
            assert node.id != "hasattr", f"line {node.lineno}: duck typing by hasattr"
    top = {name for node in tree.body for name in imported(node)}
    assert not top & EXTRAS, f"imports extras at the top: {top & EXTRAS}"


@pytest.mark.parametrize("path", SOURCES, ids=short)
def test_constructors_take_at_most_twelve_arguments(path: Path) -> None:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            count = len(node.args.args) + len(node.args.kwonlyargs) - 1
            assert count <= ARGUMENTS, f"line {node.lineno}: {count} arguments"


@pytest.mark.parametrize("name", registry.names("models"))
def test_a_family_has_its_four_parts(name: str) -> None:
    family = registry.load("models", name)
    for part in ("Config", "Model", "SIZES", "HF", "HF_CONFIG"):
        assert part in vars(family), f"models/{name}.py has no {part}"
    assert all(isinstance(size, family.Config) for size in family.SIZES.values()) and family.SIZES


@pytest.mark.parametrize("name", sorted(recipes()))
def test_a_recipe_builds_on_the_meta_device_and_says_what_to_expect(name: str) -> None:
    run = recipes()[name]()
    text = inspect.getdoc(recipes()[name]) or ""
    assert run.name == name
    for part in ("Command:", "CPU time:", "Expected"):
        assert part in text, f"the docstring does not state its {part}"
    family = registry.load("models", run.model.name)
    with torch.device("meta"):
        vocab = known(family.Config, vocab=run.data.codec.fields.get("vocab", 256))
        family.Model(build(family.Config, run.model, **vocab))
    assert "." not in run.objective.name
    registry.load("objectives", run.objective.name)
    registry.load("codecs", run.data.codec.name)


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("test_*.py")), ids=short)
def test_tests_mirror_the_tree(path: Path) -> None:
    folder = path.parent.relative_to(ROOT / "tests")
    assert folder.parts[:1] in ((), ("faults",)) or (ROOT / "meristem" / folder).is_dir(), f"no meristem/{folder}"


def test_every_folder_is_a_package() -> None:
    bare = {short(p.parent) for p in SOURCES if not (p.parent / "__init__.py").exists()}
    assert not bare, f"without __init__.py, the import contract cannot see: {bare}"


def test_no_name_is_defined_by_two_recipe_files() -> None:
    recipes.cache_clear()
    assert recipes()                                           # asserts uniqueness itself


def test_the_import_contract_holds() -> None:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


def test_every_source_imports() -> None:
    for path in SOURCES:
        if path.name != "__main__.py":
            importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
