"""The package's folders are layers: each imports only from those below it, and no two modules import each other."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "d2lcls"
LAYERS = ["machine", "data", "weights", "models", "explain", "training", "deploy", "book", "report", "commands", "cli"]
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path
    for path in PACKAGE.rglob("*.py")
    if path.name != "__init__.py"
}


def imports(path):
    """The package's modules that a module imports anywhere in it, also for types only or inside a function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.startswith("d2lcls."))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "d2lcls":
            for name in node.names:
                yield f"{node.module}.{name.name}" if f"{node.module}.{name.name}" in MODULES else str(node.module)


def layer(module):
    return LAYERS.index(module.split(".")[1])


def test_every_folder_is_a_layer():
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and (path / "__init__.py").exists()}
    assert folders == set(LAYERS) - {"cli"}


def test_imports_go_downwards_only():
    upwards = [
        f"{module} imports {imported}"
        for module, path in MODULES.items()
        if module.split(".")[1] in LAYERS
        for imported in imports(path)
        if "." in imported and layer(imported) > layer(module)
    ]
    assert not upwards


def test_no_modules_import_each_other():
    graph = {module: {each for each in imports(path) if each in MODULES} for module, path in MODULES.items()}
    while leaves := {module for module, imported in graph.items() if not imported}:
        graph = {module: imported - leaves for module, imported in graph.items() if module not in leaves}
    assert not graph, f"these modules are part of a cycle, or import one: {sorted(graph)}"
