"""The wheel has all files, packages depend on each other in one direction, and imports are fast."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from lsr._version import __version__

ROOT = Path(__file__).resolve().parent.parent
CHECKOUT = (ROOT / "pyproject.toml").is_file() and (ROOT / "index").is_dir()
pytestmark = pytest.mark.skipif(not CHECKOUT, reason="needs the source checkout")

WINGS = {"lsr": ("lsr",), "index": ("lsr", "lsr.index"), "eval": ("lsr", "lsr.index", "lsr.eval")}
FACES = ("lsr/__init__.py", "lsr/train/__init__.py", "lsr/cli.py")  # these files import from the other packages lazily


def setuptools_table():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def package_folders():
    return [p.parent for wing in WINGS for p in (ROOT / wing).rglob("__init__.py")]


def package_name(folder):
    parts = folder.relative_to(ROOT).parts
    return ".".join(parts if parts[0] == "lsr" else ("lsr", *parts))


def modules(wing):
    for path in sorted((ROOT / wing).rglob("*.py")):
        name = package_name(path.parent)
        yield name if path.stem == "__init__" else f"{name}.{path.stem}"


def python(code, cwd=ROOT):
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False, cwd=cwd
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_all_packages_on_disk_are_in_the_wheel():
    table = setuptools_table()
    assert sorted(table["packages"]) == sorted(["lsr.configs", *map(package_name, package_folders())])
    assert table["package-dir"] == {
        name: name.removeprefix("lsr.") for name in ("lsr", "lsr.index", "lsr.eval", "lsr.configs")
    }


def test_the_package_works_beside_a_checkout_named_lsr(tmp_path):
    """Python prefers a folder `lsr` in the current folder to the installed package."""
    (tmp_path / "lsr").symlink_to(ROOT)
    said = python(
        "import lsr, lsr.index.index; from lsr import Index; print(lsr.__version__, Index.__module__)", tmp_path
    )
    assert said[1] == "lsr.index.index"
    ran = subprocess.run([sys.executable, "-m", "lsr", "--version"], capture_output=True, text=True, cwd=tmp_path)
    assert (ran.returncode, ran.stdout.split()[-1]) == (0, said[0]), ran.stderr


def test_all_data_files_are_in_the_wheel():
    data, where = setuptools_table()["package-data"], {package_name(folder): folder for folder in package_folders()}
    shipped = {p for package, globs in data.items() if package in where for g in globs for p in where[package].glob(g)}
    on_disk = {
        p
        for wing in WINGS
        for p in (ROOT / wing).rglob("*")
        if p.is_file() and p.suffix not in (".py", ".pyc") and "__pycache__" not in p.parts
    }
    assert on_disk - {p for p in on_disk if p.name == "py.typed"} <= shipped
    assert {p for g in data["lsr.configs"] for p in (ROOT / "configs").glob(g)} == {*(ROOT / "configs").rglob("*.yaml")}


def test_no_module_is_imported_under_two_names():
    names = [*modules("index"), *modules("eval")]
    names = [name for name in names if ".integrations." not in name]  # slow imports, some of which need extras
    loaded = python(f"import importlib, sys\nfor m in {names!r}: importlib.import_module(m)\nprint(*sys.modules)")
    assert set(names) <= set(loaded)
    assert not {"index", "eval"} & {name.split(".")[0] for name in loaded}


def test_importing_the_package_loads_no_heavy_library():
    heavy = {"torch", "numba", "numpy", "pyarrow", "transformers", "click"}
    assert not heavy & set(python("import sys, lsr\nprint(*sys.modules)"))


def test_listing_the_commands_loads_no_heavy_library():
    code = "import sys\nfrom lsr.cli import main\ntry: main(['--help'])\nexcept SystemExit: print(*sys.modules)"
    assert not {"torch", "numba", "numpy", "pyarrow"} & set(python(code))


def imports(path):
    """(line, absolute name) of every import in a file, also in functions. Skips TYPE_CHECKING blocks in FACES."""
    package = package_name(path.parent)
    tree = ast.parse(path.read_text())
    if path.relative_to(ROOT).as_posix() in FACES:
        tree.body = [
            node
            for node in tree.body
            if not (isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING")
        ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def wing_of(name):
    parts = name.split(".")
    if parts[0] in ("index", "eval", "tests"):
        return f"{parts[0]}, which is no package of its own"
    return None if parts[0] != "lsr" else ".".join(parts[:2]) if parts[1:2] in (["index"], ["eval"]) else "lsr"


@pytest.mark.parametrize("wing", WINGS)
def test_packages_depend_in_one_direction(wing):
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sorted((ROOT / wing).rglob("*.py"))
        for line, name in imports(path)
        if wing_of(name) not in (None, *WINGS[wing])
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("import index", True),
        ("def f():\n    from eval import demo", True),
        ("from lsr.eval.demo import run_demo", True),
        ("from lsr import eval", True),
        ("from lsr.index.segment.postings import Segment", False),
        ("from .segment import Segment", False),
        ("import evaluate_something", False),
    ],
)
def test_the_check_finds_wrong_imports(tmp_path, monkeypatch, text, refused):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "module.py").write_text(text)
    if not refused:
        test_packages_depend_in_one_direction("index")
        return
    with pytest.raises(AssertionError, match=r"module\.py:\d+ imports"):
        test_packages_depend_in_one_direction("index")


def test_relative_imports_stay_within_their_package():
    for path in (p for wing in ("index", "eval") for p in (ROOT / wing).glob("*.py")):
        climbing = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom) and n.level > 1]
        assert not climbing, f"{path}: the import leaves the package's folder"


SEARCH = """
from lsr import Index
Index.build("idx", [{"_id": str(n), "text": t} for n, t in enumerate(["swept wings", "flat plates", "wing flutter"])])
print(*[hit.id for hit in Index.open("idx").search("flutter of wings")])
"""


@pytest.mark.skipif(not os.environ.get("LSR_TEST_WHEEL"), reason="builds and installs a wheel: set LSR_TEST_WHEEL")
def test_the_wheel_works_from_an_empty_folder(tmp_path):
    def run(*command):
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path / "empty", env=clean, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    (tmp_path / "empty").mkdir()
    run(sys.executable, "-m", "build", "--outdir", tmp_path / "dist", ROOT)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    scripts = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin")
    run(
        scripts / "python",
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-compile",
        "--constraint",
        ROOT / "constraints.txt",
        wheel,
    )
    assert __version__ in run(scripts / "lsr", "--version")
    assert run(scripts / "python", "-c", SEARCH).split()[:2] == ["2", "0"]
    assert "splade-v2" in run(scripts / "lsr", "train", "--list")
    assert "hybrid" in run(scripts / "lsr", "experiment", "--list")
