"""Answer questions about a folder of documentation with lsr, LanceDB, Chroma, Qdrant, bm25s and SQLite FTS5.

    pip download --no-deps --dest SDISTS --no-binary NAMES NAMES   # names of PAGES: first with commas, then with spaces
    pip install lancedb chromadb qdrant-client bm25s sentence-transformers
    python benchmarks/rivals.py --sdists SDISTS --dense MODEL --work WORK
    python benchmarks/rivals.py --install        # measure installations in new environments

The documentation is from the source distributions of eight Python packages, without release notes. The questions in
rivals.tsv are our own, each with the pages that answer it, pages that answer a part, and other pages; `judged` says how
the pages were judged. MODEL is the folder or name of a sentence-transformers model, for the rivals that search by dense
vectors. All of them use this model instead of their default models, which are downloaded from a hub.

The rivals don't read files, so they get lsr's passages with their headings. Their line counts include `cut` in
rival_programs.py, a simple way to cut pages into passages. A page is ranked by its best passage. Build times are CPU
times, because other work may run at the same time. Texts are embedded once, and the time for it is added to the build
time of each system that needs vectors. WORK keeps finished parts, so an interrupted run resumes, and new judgments
don't require new searches.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
import venv
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import rival_programs as programs
from machine import conditions, keep
from rival_programs import Ask, Dense, Passage

from lsr import load_encoder, read_documents
from lsr.console import table
from lsr.encode.passages import split_passages
from lsr.eval.measures import parse_measures, score_run
from lsr.eval.significance import compare

# Folder of the documentation in each source distribution.
PAGES = {
    "celery": "docs",
    "click": "docs",
    "flask": "docs",
    "jinja2": "docs",
    "pytest": "doc/en",
    "scrapy": "docs",
    "sphinx": "doc",
    "werkzeug": "docs",
}
RELEASE_NOTES = ("releases/", "changelog", "history/", "announce/", "changes", "news.", "plugin_list")
QUESTIONS = Path(__file__).with_name("rivals.tsv")
OURS: tuple[tuple[str, Literal["sparse", "hybrid"]], ...] = (
    ("lsr-mini", "hybrid"),
    ("lsr-tiny", "sparse"),
    ("bm25", "sparse"),
)
LIBRARIES = ("lancedb", "chromadb", "qdrant-client", "bm25s", "sentence-transformers")
# A page that answers counts for all measures; a page that answers in part has half the gain in nDCG, and none
# elsewhere.
MEASURES = ("nDCG@10", "RR(rel=2)@10", "Success(rel=2)@1", "Success(rel=2)@5")
GRADES = (2, 1, 0)  # grades of the pages in each column of rivals.tsv
# The packages that each library's introduction says to install.
INSTALLS = {
    "lsr": [f"{Path(__file__).parents[1]}[files]"],
    "bm25s": ["bm25s", "PyStemmer"],
    "Chroma": ["chromadb"],
    "Qdrant, local": ["qdrant-client[fastembed]"],
    "LanceDB": ["lancedb"],
    "LanceDB and a model": ["lancedb", "sentence-transformers"],
}


def unpack(sdists: Path, folder: Path, pages: Mapping[str, str] = PAGES) -> list[str]:
    """Unpack the documentation to NAME/PATH, and return names and versions."""
    found = []
    for name, root in pages.items():
        archive = next(iter(sorted(sdists.glob(f"{name}-*.tar.gz"))), None)
        if archive is None:
            raise SystemExit(f"{sdists} has no source distribution of {name}; download it as the script says")
        found.append(archive.name.removesuffix(".tar.gz"))
        with tarfile.open(archive) as files:
            for member in files:
                path = member.name.partition("/")[2]
                if name == "django":  # Django's reStructuredText files end in .txt
                    path = path.removesuffix(".txt") + ".rst" if path.endswith(".txt") else ""
                if not (member.isfile() and path.startswith(f"{root}/") and path.endswith((".rst", ".md"))):
                    continue
                page = path.removeprefix(f"{root}/")
                if any(part in page.lower() for part in RELEASE_NOTES) or ".." in page:
                    continue
                (folder / name / page).parent.mkdir(parents=True, exist_ok=True)
                (folder / name / page).write_bytes(files.extractfile(member).read())  # type: ignore[union-attr]
    return found


def judged() -> dict[str, dict[str, int]]:
    """Return {question: {page: grade}} from rivals.tsv.

    Grade 2 is for pages that answer the question, 1 for pages that answer it in part or say where the answer is, 0 for
    other pages. The pages are the first ten of every system for each question, and a few that were known to answer it.
    They were shuffled and judged without the names of the systems that found them. One judge read the two parts of a
    page nearest to the question, according to FTS5 and to dense vectors, and in case of doubt the whole page.
    """
    rows = (line.split("\t") for line in QUESTIONS.read_text(encoding="utf-8").splitlines())
    return {
        question: {page: grade for grade, pages in zip(GRADES, graded, strict=True) for page in pages.split()}
        for question, *graded in rows
    }


class Shared:
    """The dense model of all systems. Its vectors are kept, and the time to compute them is added for each system."""

    def __init__(self, model: str, kept: Path) -> None:
        self._dense, self._kept = Dense(model), kept
        self.query = self._dense.query
        self.spared = 0.0  # seconds

    def documents(self, texts: Sequence[str]) -> Any:
        """Return vectors of texts, (n, width); computed once, then loaded."""
        if self._kept.exists():
            kept = np.load(self._kept)
            self.spared += float(kept["seconds"])
            return kept["vectors"]
        start = cpu()
        vectors = self._dense.documents(texts)
        np.savez(self._kept, vectors=vectors, seconds=cpu() - start)
        return vectors


def cpu() -> float:
    """Return the CPU seconds of this process and its children."""
    return sum(os.times()[:4])


def lines(*parts: Callable[..., Any]) -> int:
    """Count lines of code of some functions, without their first lines, docstrings and empty lines."""
    total = 0
    for part in parts:
        source, doc = inspect.getsource(part), inspect.getdoc(part) or ""
        total += sum(bool(line.strip()) for line in source.splitlines()) - len(doc.splitlines()) - 1
    return total


def passages_of(folder: Path) -> list[Passage]:
    """Return lsr-mini's passages with their headings."""
    cut = split_passages(read_documents(folder), load_encoder("lsr-mini"))
    return [Passage(str(part.metadata["source"]), part.content) for part in cut]


def measured(build: Callable[[Path], Ask], place: Path, asked: Iterable[str], shared: Shared) -> dict[str, Any]:
    """Return the figures of a system, and its ten best pages for each question."""
    kept = place.with_suffix(".json")
    if kept.exists():
        return dict(json.loads(kept.read_text()))
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    shared.spared, start = 0.0, cpu()
    ask = build(place)
    figures: dict[str, Any] = {"build_cpu_s": cpu() - start + shared.spared}
    figures["size_mb"] = sum(path.stat().st_size for path in place.rglob("*") if path.is_file()) / 1e6
    figures["pages"], times = {}, []
    for question in asked:
        begin = time.perf_counter()
        figures["pages"][question] = list(dict.fromkeys(ask(question)))[:10]
        times.append(1000 * (time.perf_counter() - begin))
    figures["ask_ms"] = float(np.median(times))
    kept.write_text(json.dumps(figures, indent=1))
    print(place.name, {key: value for key, value in figures.items() if key != "pages"}, flush=True)
    return figures


def run(folder: Path, work: Path, model: str, only: str) -> dict[str, dict[str, Any]]:
    """Run all systems; return {system: figures, and pages for each question}."""
    asked, found = judged(), {}
    missing = {page for pages in asked.values() for page in pages if not (folder / page).is_file()}
    if missing:
        raise SystemExit(f"{QUESTIONS.name} names pages that aren't in these versions: {', '.join(sorted(missing))}")
    shared = Shared(model, work / "vectors.npz")
    passages = passages_of(folder) if not only.startswith("lsr") else []
    print(f"{len(passages):,} passages", flush=True)
    systems: dict[str, tuple[Callable[[Path], Ask], int]] = {}
    for encoder, mode in OURS:
        ours = partial(programs.lsr, folder, encoder=encoder, mode=mode)
        systems[f"lsr, {encoder}" + ", hybrid" * (mode == "hybrid")] = ours, lines(programs.lsr)
        if mode == "hybrid":
            again = work / f"lsr, {encoder}, hybrid" / "idx"
            systems[f"lsr, {encoder}"] = lambda _, idx=again: programs.lsr_sparse(idx), lines(programs.lsr)
    dense = (Dense.__init__, Dense.documents, Dense.query)
    for name, program, more in (
        ("LanceDB, hybrid", programs.lancedb, (shared, "hybrid")),
        ("LanceDB, vectors", programs.lancedb, (shared, "vector")),
        ("Chroma", programs.chroma, (shared,)),
        ("Qdrant, local", programs.qdrant, (shared,)),
        ("bm25s", programs.bm25s, ()),
        ("SQLite FTS5", programs.sqlite, ()),
    ):
        theirs = partial(_on, program, passages, more)
        systems[name] = theirs, lines(program, programs.cut, *(dense if more else ()))
    for name, (build, code) in systems.items():
        if only in name:
            found[name] = {"lines": code, **measured(build, work / name, asked, shared)}
    return found


def _on(program: Callable[..., Ask], passages: list[Passage], more: tuple[Any, ...], place: Path) -> Ask:
    return program(passages, place, *more)


def scored(found: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row of figures for each system, with the p-value of its difference in nDCG@10 to the first system."""
    asked, rows, each = judged(), [], []
    for name, figures in found.items():
        ranked = {q: {page: -float(rank) for rank, page in enumerate(own)} for q, own in figures["pages"].items()}
        if new := [f"{q}: {page}" for q, own in figures["pages"].items() for page in own if page not in asked[q]]:
            print(f"{name}: {len(new)} of its pages aren't judged and count as 0:", *new, sep="\n  ")
        means, values = score_run(asked, ranked, parse_measures(",".join(MEASURES)))
        each.append(values[MEASURES[0]])
        p = compare(each[-1], each[0]).p if rows else None
        rows.append({"system": name, **means, "p": p, **{k: v for k, v in figures.items() if k != "pages"}})
    return rows


def install(packages: Sequence[str]) -> dict[str, Any]:
    """Install packages in a new environment; return CPU seconds, megabytes, and the number of packages."""
    with tempfile.TemporaryDirectory() as place:
        venv.create(place, with_pip=True)
        python = Path(place) / "bin" / "python"
        before = _listed(python)
        start = cpu()
        subprocess.run([python, "-m", "pip", "install", "-q", "--no-cache-dir", *packages], check=True)
        seconds = cpu() - start
        own = sum(path.lstat().st_size for path in (Path(place) / "lib").rglob("*") if path.is_file())
        pip = sum(
            path.lstat().st_size
            for name in ("pip", "setuptools")
            for path in next((Path(place) / "lib").glob("*/site-packages")).glob(f"{name}*/**/*")
            if path.is_file()
        )
        return {"cpu_s": round(seconds), "mb": round((own - pip) / 1e6), "packages": len(_listed(python) - before)}


def _listed(python: Path) -> set[str]:
    listed = subprocess.run([python, "-m", "pip", "list", "--format=json"], check=True, capture_output=True)
    return {entry["name"] for entry in json.loads(listed.stdout)}


def main() -> None:
    """Print and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sdists", type=Path, help="folder of source distributions")
    parser.add_argument("--dense", help="a model of sentence-transformers")
    parser.add_argument("--install", action="store_true", help="measure installations instead")
    parser.add_argument("--work", type=Path, help="folder that keeps finished parts")
    parser.add_argument("--only", default="", help="only systems with this in their names; doesn't update results/")
    args = parser.parse_args()
    for key, value in conditions().items():
        print(f"{key}: {value}")
    if args.install:
        rows = []
        for name, packages in INSTALLS.items():
            shown = " ".join(packages) if name != "lsr" else ".[files]"
            rows.append({"system": name, "install": shown, **install(packages)})
            print(rows[-1], flush=True)
            keep("rivals-install", {"rows": rows})
        print(table([tuple(map(str, row.values())) for row in rows], tuple(rows[0]), "<<>>>"))
        return
    if not (args.sdists and args.dense and args.work):
        parser.error("give --sdists, --dense and --work, or --install")
    args.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        sources = unpack(args.sdists, Path(place))
        rows = scored(run(Path(place), args.work, args.dense, args.only))
    cells = [tuple(f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values()) for row in rows]
    print(table(cells, tuple(rows[0]), "<" + ">" * (len(rows[0]) - 1)))
    if not args.only:
        used = {name: version(name) for name in LIBRARIES}
        keep("rivals", {"sources": sources, "rivals": used, "dense": Path(args.dense).name, "rows": rows})


if __name__ == "__main__":
    main()
