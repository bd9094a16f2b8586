"""The scripts and notebooks in examples/ run."""

from __future__ import annotations

import gzip
import importlib.resources
import importlib.util
import json
import re
import shutil
from importlib.resources import files
from pathlib import Path

import pytest

from lsr import Index

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
DOCS = [
    {"_id": "wing", "title": "Wings", "text": "A swept wing delays the shock wave.", "year": 1998},
    {"_id": "ice", "text": "Ice on the wing costs lift.", "year": 2023},
    {"_id": "tube", "text": "Water cools a hot tube.", "year": 2021},
]


def load(name):
    """Import an example as a module."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def part_of_cranfield(tmp_path_factory):
    """The first 200 documents of the collection in the package, and their judgments."""
    source, folder = files("lsr.data") / "cranfield", tmp_path_factory.mktemp("data") / "cranfield"
    (folder / "qrels").mkdir(parents=True)
    corpus = gzip.decompress((source / "corpus.jsonl.gz").read_bytes()).decode().splitlines(keepends=True)[:200]
    kept = {json.loads(line)["_id"] for line in corpus}
    (folder / "corpus.jsonl").write_text("".join(corpus))
    (folder / "queries.jsonl").write_bytes(gzip.decompress((source / "queries.jsonl.gz").read_bytes()))
    header, *rows = (source / "qrels" / "test.tsv").read_text().splitlines()
    rows = [row for row in rows if row.split("\t")[1] in kept]
    (folder / "qrels" / "test.tsv").write_text("\n".join([header, *rows]) + "\n")
    return folder


@pytest.fixture
def small_package(part_of_cranfield, tmp_path, monkeypatch):
    """Reduce the collection in the package to its first 200 documents, so that examples run in seconds."""
    folder, real = tmp_path / "package" / "cranfield", importlib.resources.files
    shutil.copytree(part_of_cranfield / "qrels", folder / "qrels")
    for name in ("corpus.jsonl", "queries.jsonl"):
        (folder / f"{name}.gz").write_bytes(gzip.compress((part_of_cranfield / name).read_bytes()))
    monkeypatch.setattr(
        "importlib.resources.files", lambda package: folder.parent if package == "lsr.data" else real(package)
    )


def test_the_example_compare_encoders_prints_a_row_per_encoder(part_of_cranfield, tmp_path, capsys):
    load("compare_encoders").main([str(part_of_cranfield), "bm25", "lsr-tiny", "--out", str(tmp_path / "out")])
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["encoder", "nDCG@10", "R@100", "terms", "ms"]
    assert [row.split()[0] for row in rows] == ["bm25", "lsr-tiny"]
    assert all(float(row.split()[1]) > 0.2 for row in rows)


def test_the_example_to_opensearch_writes_documents_mapping_and_query(tmp_path, capsys):
    Index.build(tmp_path / "idx", DOCS, encoder="bm25")
    load("to_opensearch").main([str(tmp_path / "idx"), str(tmp_path / "docs.ndjson")])
    lines = [json.loads(line) for line in (tmp_path / "docs.ndjson").read_text().splitlines()]
    assert [line["index"]["_id"] for line in lines[::2]] == ["wing", "ice", "tube"]
    assert lines[1]["vector"].keys() >= {"swept", "wing", "shock"}
    assert (tmp_path / "docs.mapping.json").is_file()
    body = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert body["query"]["neural_sparse"]["vector"]["query_tokens"].keys() == {"wing"}


def test_the_fastapi_application_searches_and_adds_documents(tmp_path, monkeypatch):
    pytest.importorskip("fastapi")
    from starlette.testclient import TestClient

    Index.build(tmp_path / "idx", DOCS, encoder="bm25")
    monkeypatch.setenv("LSR_INDEX", str(tmp_path / "idx"))
    with TestClient(load("fastapi_app").app) as client:
        (found,) = client.get("/search", params={"q": "wing", "since": 2000}).json()
        assert (found["id"], found["highlight"]) == ("ice", "Ice on the <mark>wing</mark> costs lift.")
        assert client.get("/search", params={"q": "wing", "k": 0}).status_code == 422
        new = {"id": "glider", "text": "A glider is a wing without an engine.", "year": 2024}
        assert client.put("/documents", json=[new]).json() == 4
        assert {hit["id"] for hit in client.get("/search", params={"q": "wing"}).json()} == {"wing", "ice", "glider"}


@pytest.mark.filterwarnings("ignore::lsr.errors.CutTexts")  # the small model truncates texts to 48 tokens
def test_the_example_train_splade_trains_a_model_and_searches_with_it(small_package, tmp_path, monkeypatch, capsys):
    torch = pytest.importorskip("torch")
    pytest.importorskip("yaml")
    monkeypatch.setenv("LSR_CACHE", str(tmp_path / "cache"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        load("train_splade").main(["--out", str(tmp_path / "run"), "--steps", "4"])
    finally:
        torch.set_num_threads(threads)
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert (tmp_path / "run" / "run" / "best" / "encoder.json").is_file()


@pytest.mark.filterwarnings("ignore::lsr.errors.CutTexts")
def test_the_paper_is_written_and_compiles(part_of_cranfield, tmp_path, monkeypatch, request):
    """A study of a random model with two seeds and two datasets writes every table that the paper includes."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("jinja2")
    monkeypatch.setenv("LSR_CACHE", str(tmp_path / "cache"))
    small = load("train_splade")
    data = shutil.copytree(part_of_cranfield, tmp_path / "cranfield")
    shutil.copy(data / "qrels" / "test.tsv", data / "qrels" / "train.tsv")
    other = shutil.copytree(data, tmp_path / "other_100% & more")
    texts = [json.loads(line)["text"] for line in (data / "corpus.jsonl").read_text().splitlines()]
    checkpoint = small.write_random_bert(tmp_path / "random-bert", texts)
    sets = [str(data), str(other)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        paper = load("paper").study(tmp_path / "paper", str(checkpoint), str(data), sets, (1, 2), 2, 48)
    finally:
        torch.set_num_threads(threads)
    tex = paper.read_text()
    tables = re.findall(r"\\input\{(.*?)\}", tex)
    assert len(tables) == 5
    assert all((paper.parent / name).is_file() for name in tables)
    assert tex.count(r"\begin{table") == tex.count(r"\end{table") == 5
    assert "± 0." in (tmp_path / "paper" / "results" / "report.md").read_text()
    record = json.loads((tmp_path / "paper" / "results" / "experiment.json").read_text())
    assert record["seeds"] == [1, 2]
    log = request.getfixturevalue("pdflatex")(paper)
    assert "paper.pdf (2 pages" in log
    assert [float(points) for points in re.findall(r"Overfull \\hbox \((.*?)pt", log) if float(points) > 20] == []


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.ipynb")), ids=lambda path: path.stem)
def test_the_cells_of_a_notebook_run(small_package, path):
    names = {"__name__": "notebook"}
    for number, cell in enumerate(json.loads(path.read_text())["cells"]):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{path.name}, cell {number}", "exec"), names)
