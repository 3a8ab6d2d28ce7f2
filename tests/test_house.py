"""The order of the house: who may import whom, read from the package's own imports."""

from __future__ import annotations

import ast
from pathlib import Path

import sbmgraph

ROOT = Path(sbmgraph.__file__).parent

ORDER = [
    {"version", "files"},
    {"checks", "run"},
    {"kernels"},
    {"nodes", "products"},
    {"sbm", "graph"},
    {"record"},
    {"ops"},
    {"analysis", "data", "sampling"},
    {"nn", "viz"},
    {"training"},
    {"hf"},
    {"cli"},
    {"_deprecated"},
    {"__main__"},
]
"""Each part may import those before it, and itself."""

LEVEL = {part: level for level, parts in enumerate(ORDER) for part in parts}


def imports_of(path: Path) -> set[str]:
    """The modules of the package that a file imports, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if _is_module(name) else node.module for name in names}
    return {name for name in found if name.split(".")[0] == "sbmgraph"}


def _is_module(name: str) -> bool:
    path = ROOT.parent / Path(*name.split("."))
    return path.with_suffix(".py").exists() or path.is_dir()


def part_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def test_every_part_has_its_place() -> None:
    found = {path.relative_to(ROOT).parts[0].removesuffix(".py") for path in ROOT.rglob("*.py")}
    assert found - {"__init__"} <= set(LEVEL)


def test_no_arrow_points_upward() -> None:
    upward = []
    for path in sorted(ROOT.rglob("*.py")):
        relative = path.relative_to(ROOT)
        mine = relative.parts[0].removesuffix(".py")
        if mine == "__init__":
            continue
        for module in sorted(imports_of(path)):
            theirs = part_of(module)
            if theirs == "":
                upward.append(f"{relative} imports the whole package")
            elif theirs not in LEVEL or LEVEL[theirs] > LEVEL[mine]:
                upward.append(f"{relative} imports {module}")
            elif LEVEL[theirs] == LEVEL[mine] and theirs != mine:
                upward.append(f"{relative} imports {module} beside it")
    assert not upward


def test_no_circle_between_modules() -> None:
    graph = {}
    for path in ROOT.rglob("*.py"):
        name = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)
        graph[name.removesuffix(".__init__")] = top_level_imports(path)
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join([*way, module])
        if module in done or module not in graph:
            return
        for other in sorted(graph[module]):
            if other != module:
                visit(other, (*way, module))
        done.add(module)

    for module in sorted(graph):
        visit(module, ())


def top_level_imports(path: Path) -> set[str]:
    """Imports that run when the module is imported; those of type checkers do not count. A package
    that lists its own modules is no circle."""
    tree = ast.parse(path.read_text())
    inside = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
        for child in ast.walk(node)
    }
    own_package = ".".join(path.relative_to(ROOT.parent).parent.parts)
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in inside or not isinstance(node, ast.ImportFrom) or not node.module:
            continue
        for alias in node.names:
            name = f"{node.module}.{alias.name}"
            found.add(name if _is_module(name) else node.module)
    return {name for name in found if name.startswith("sbmgraph") and name != own_package}


def test_no_file_is_long() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for pattern in ("*.py", "*.js", "*.css", "*.html")
        for path in ROOT.rglob(pattern)
        if (lines := len(path.read_text().splitlines())) > 400
    }
    assert not long


def test_the_median_file_is_short() -> None:
    lengths = sorted(len(path.read_text().splitlines()) for path in ROOT.rglob("*.py"))
    assert lengths[len(lengths) // 2] <= 130


def test_kernels_take_few_parameters() -> None:
    """What Numba compiles takes at most 12; the flat arguments of torch operators and of Triton
    kernels, which know no tuples, stand in one order in one place each."""
    many = []
    for path in (ROOT / "kernels").rglob("*.py"):
        if path.name == "operator.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef):
                continue
            decorators = {ast.unparse(d).split("(")[0] for d in node.decorator_list}
            if decorators & {"triton.jit", "intrinsic"}:
                continue
            count = len(node.args.args) + len(node.args.kwonlyargs)
            if count > 12:
                many.append(f"{path.name}: {node.name} takes {count}")
    assert not many
