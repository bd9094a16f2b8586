"""Datasets of ir-datasets are opened by their real names; small files replace the real downloads.

ir-datasets verifies downloads but not files in its cache, so the test puts the small files into the cache. On import,
ir-datasets reads the location of its cache, so a script in a separate process opens the datasets. That process can't
reach any server.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile

import pytest

pytest.importorskip("ir_datasets")
pytest.importorskip("ir_measures")

SCRIPT = """
import json, sys
from pathlib import Path
from lsr.errors import LsrError
from lsr.eval.datasets import open_dataset, open_datasets, suite_entries
from lsr.eval.evaluate import evaluate_index
from lsr.index.index import Index

for number, name in enumerate(sys.argv[2:]):
    try:
        dataset = open_datasets(suite_entries(name))[0] if name.endswith(".yaml") else open_dataset(name)
        index = Index.build(Path(sys.argv[1]) / str(number), dataset.corpus(), encoder="bm25")
        result = evaluate_index(index, dataset, "RR@10 R@10")
        documents = [(d.id, d.title, d.text) for d in dataset.corpus()]
        print(json.dumps([name, dataset.qrels, dataset.drop_own, documents, result.to_json(), result.run]))
    except LsrError as error:
        print(json.dumps([name, str(error)]))
"""

CORPUS = [
    {"_id": "d1", "title": "Wings", "text": "flutter of swept wings", "metadata": {}},
    {"_id": "d2", "title": "Plates", "text": "flat plates in a flow", "metadata": {}},
]
PASSAGES = "10\tflutter of swept wings\n20\tflat plates in a flow\n"


def beir_zip(home, name, queries, qrels, corpus=CORPUS):
    place = home / "beir" / name
    place.mkdir(parents=True)
    with zipfile.ZipFile(place / "source.zip", "w") as file:
        file.writestr(f"{name}/corpus.jsonl", "".join(json.dumps(row) + "\n" for row in corpus))
        rows = [{"_id": i, "text": text, "metadata": {}} for i, text in queries.items()]
        file.writestr(f"{name}/queries.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        for split, lines in qrels.items():
            text = "".join("\t".join(line) + "\n" for line in [("query-id", "corpus-id", "score"), *lines])
            file.writestr(f"{name}/qrels/{split}.tsv", text)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """The script's output per dataset: either qrels, drop_own, documents, measures and run, or an error message."""
    home, work = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("work")
    queries = {"q1": "wing flutter", "q2": "flat plates", "q3": "wings"}
    beir_zip(home, "scifact", queries, {"test": [("q1", "d1", "1"), ("q2", "d2", "2")], "train": [("q3", "d1", "1")]})
    own = [*CORPUS, {"_id": "q1", "title": "", "text": "wing flutter", "metadata": {}}]
    beir_zip(home, "arguana", {"q1": "wing flutter"}, {"test": [("q1", "d1", "1")]}, own)
    beir_zip(home, "nq", queries, {"test": [("q1", "d1", "1"), ("q1", "d1", "2")]})
    marco = home / "msmarco-passage"
    write(marco / "irds_version.txt", "v2")
    write(marco / "collection.tsv", PASSAGES)
    write(marco / "dev" / "small" / "queries.tsv", "1\twing flutter\n2\tflat plates\n")
    write(marco / "dev" / "small" / "qrels", "1\t0\t10\t1\n2\t0\t20\t1\n")
    write(marco / "trec-dl-2019" / "queries.tsv", "7\tswept wings\n8\tnobody judged it\n")
    write(marco / "trec-dl-2019" / "qrels", "7 Q0 10 3\n7 Q0 20 0\n")
    write(work / "suite.yaml", "datasets:\n  - {name: 'irds:beir/scifact', split: train}\n")
    names = [
        "irds:beir/scifact/test",
        "beir/scifact",
        "beir/arguana",
        "beir/nq",
        "irds:msmarco-passage/dev/small",
        "irds:msmarco-passage/trec-dl-2019/judged",
        "beir/fiqa/test",
        str(work / "suite.yaml"),
    ]
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    settings = {"IR_DATASETS_HOME": str(home), "IR_DATASETS_TMP": str(work), "IR_DATASETS_DL_TRIES": "1", **nowhere}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(work), *names],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, **settings, "NO_PROXY": "", "no_proxy": ""},
    )
    assert done.returncode == 0, done.stderr
    return {name: rest for name, *rest in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("name", ["irds:beir/scifact/test", "beir/scifact"])
def test_a_beir_dataset_has_its_qrels_documents_and_measures(opened, name):
    qrels, drop_own, documents, values, _ = opened[name]
    assert (qrels, drop_own) == ({"q1": {"d1": 1}, "q2": {"d2": 2}}, False)
    assert documents == [[d["_id"], d["title"], d["text"]] for d in CORPUS]
    assert (values["queries"], values["RR@10"], values["missing_queries"]) == (2, 1.0, 0)


def test_ms_marco_has_its_qrels_documents_and_measures(opened):
    qrels, _, documents, values, _ = opened["irds:msmarco-passage/dev/small"]
    assert qrels == {"1": {"10": 1}, "2": {"20": 1}}
    assert documents == [["10", "", "flutter of swept wings"], ["20", "", "flat plates in a flow"]]
    assert (values["queries"], values["RR@10"]) == (2, 1.0)


def test_a_trec_dl_dataset_is_measured_on_its_judged_queries(opened):
    qrels, _, _, values, run = opened["irds:msmarco-passage/trec-dl-2019/judged"]
    assert qrels == {"7": {"10": 3, "20": 0}}
    assert (values["queries"], values["RR@10"], list(run)) == (1, 1.0, ["7"])


def test_arguana_is_measured_without_each_querys_own_document(opened):
    _, drop_own, documents, values, run = opened["beir/arguana"]
    assert drop_own
    assert "q1" in {d[0] for d in documents}
    assert (values["RR@10"], values["dropped_hits"], list(run["q1"])) == (1.0, 1, ["d1"])


def test_a_suite_opens_datasets_of_ir_datasets(opened):
    (name,) = (name for name in opened if name.endswith("suite.yaml"))
    assert opened[name][0] == {"q3": {"d1": 1}}


def test_a_failed_download_is_reported(opened):
    (message,) = opened["beir/fiqa/test"]
    assert message.startswith("beir/fiqa/test: ir-datasets can't read it: no connection to ")
    assert message.endswith(
        ". Offline, put a BEIR folder of this name into the current folder; a BEIR folder has corpus.jsonl, "
        "queries.jsonl and qrels/test.tsv"
    )


def test_contradictory_judgments_are_refused(opened):
    assert opened["beir/nq"] == ["beir/nq:2: query 'q1' and document 'd1' are judged twice, differently"]
