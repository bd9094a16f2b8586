"""A folder imports only from its own or a lower layer. Imports in functions and under TYPE_CHECKING count, too."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CHECKOUT = (ROOT / "pyproject.toml").is_file() and (ROOT / "index").is_dir()
pytestmark = pytest.mark.skipif(not CHECKOUT, reason="needs the source checkout")

# From the lowest layer to the highest; a file or folder may import from its own layer and from lower layers.
LAYERS = (
    "lsr",
    "lsr/io",
    "lsr/files",
    "lsr/distributed",
    "lsr/encode",
    "lsr/lexical_head.py",
    "lsr/train",
    "index/kernels",
    "index/storage",
    "index/segment",
    "index/search",
    "index/write",
    "index/sharding",
    "index",
    "index/hybrid",
    "index/distributed",
    "index/serve",
    "index/integrations",
    "index/cli",
    "eval",
    "eval/experiment",
    "eval/report",
    "eval/training",
    "eval/compare.py",
    "eval/cli.py",
)
# These packages also export names of higher layers, which they import on first use.
FACES = ("lsr/__init__.py", "index/__init__.py", "eval/__init__.py", "lsr/encode/__init__.py", "lsr/train/__init__.py")


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    return ".".join(parts if parts[0] == "lsr" else ("lsr", *parts))


def sources():
    """{module name: path relative to the root}"""
    paths = [path for wing in ("lsr", "index", "eval") for path in (ROOT / wing).rglob("*.py")]
    return {module_name(path): path.relative_to(ROOT).as_posix() for path in sorted(paths)}


def imports(modules, name):
    """(line, module, names) of each import of a project module, including imports in functions."""
    for node in ast.walk(ast.parse((ROOT / modules[name]).read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, []) for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [alias.name for alias in node.names]
            inner = [one for one in names if f"{node.module}.{one}" in modules]
            yield from ((node.lineno, f"{node.module}.{one}", []) for one in inner)
            if node.module in modules and (rest := [one for one in names if one not in inner]):
                yield node.lineno, node.module, rest


def graph(modules):
    """{module: {imported module: line}}, without the modules in FACES."""
    return {
        name: {other: line for line, other, _ in imports(modules, name)}
        for name, path in modules.items()
        if path not in FACES
    }


def layer(path):
    """The index in LAYERS of the longest entry that is the file itself or one of its parent folders."""
    fits = [entry for entry in LAYERS if path == entry or path.startswith(f"{entry}/")]
    return LAYERS.index(max(fits, key=len))


def cycle(edges):
    """A cycle as a list of modules, or an empty list if there is no cycle."""
    done, path = set(), []

    def visit(name):
        if name in path:
            return path[path.index(name) :]
        if name in done or name not in edges:
            return []
        path.append(name)
        found = next((found for other in edges[name] if (found := visit(other))), [])
        path.pop()
        done.add(name)
        return found

    return next((found for name in edges if (found := visit(name))), [])


def upward(modules, edges):
    return [
        f"{modules[name]}:{line} imports {other}"
        for name, others in edges.items()
        for other, line in others.items()
        if modules[other] not in FACES and layer(modules[other]) > layer(modules[name])
    ]


def test_imports_have_no_cycle():
    assert cycle(graph(sources())) == []


def test_no_import_leads_to_a_higher_layer():
    modules = sources()
    assert upward(modules, graph(modules)) == []


def test_every_folder_is_a_layer():
    folders = {Path(path).parent.as_posix() for path in sources().values()}
    assert folders - {"lsr/data"} <= set(LAYERS)


def test_the_checks_find_a_cycle_and_an_upward_import():
    modules = sources()
    edges = graph(modules)
    edges["lsr.sparse"] = {"lsr.io.vectors": 1}
    assert {"lsr.sparse", "lsr.io.vectors"} <= set(cycle(edges))
    assert upward(modules, edges) == ["lsr/sparse.py:1 imports lsr.io.vectors"]
    assert upward(modules, {"lsr.encode.base": {"lsr.index.index": 7}}) == [
        "lsr/encode/base.py:7 imports lsr.index.index"
    ]


def test_private_names_are_not_imported_from_other_folders():
    modules = sources()
    wrong = [
        f"{path}:{line} imports {other}.{one}"
        for name, path in modules.items()
        for line, other, names in imports(modules, name)
        for one in (*names, other.rpartition(".")[2])
        if one.startswith("_")
        and not one.startswith("__")
        and Path(modules[other]).parent != Path(path).parent
        and not other.startswith("lsr._")  # modules such as lsr._moved may be imported anywhere in the project
    ]
    assert wrong == []


@pytest.mark.parametrize("file", ["manifest.json", "shards.json", "lsr.index."])
def test_no_module_of_lsr_mentions_index_files_or_modules(file):
    above = ("lsr/__init__.py", "lsr/_moved.py", "lsr/cli.py")
    told = [
        f"{path}:{node.lineno}"
        for path in sources().values()
        if path.startswith("lsr/") and path not in above
        for node in ast.walk(ast.parse((ROOT / path).read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and file in node.value
    ]
    assert told == []
