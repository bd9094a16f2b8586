"""Makes the files that the documentation uses: documents, queries, judgments and an index."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from lsr import Index

DOCS = [
    ("wings", "Swept wings", "A swept wing delays the shock wave at high speed.", 1998, "en", "aerodynamics"),
    ("gusts", "Gusts", "The aeroplane shook in strong gusts of wind.", 2003, "en", "weather"),
    ("flutter", "Flutter", "Panels and wings flutter when air flows past them too fast.", 2012, "en", "aerodynamics"),
    ("heat", "Heat", "Heat flows along a flat plate and warms the boundary layer.", 2018, "en", "heat"),
    ("tubes", "Tubes", "Water cools a hot tube better than air does.", 2021, "en", "heat"),
    ("storm", "Sturm", "Der Sturm riss das Dach vom Haus.", 2021, "de", "weather"),
    ("engine", "Jet engines", "A jet engine burns fuel in compressed air.", 2022, "en", "engines"),
    ("ice", "Icing", "Ice on the wing costs lift and has brought aircraft down.", 2023, "en", "weather"),
    ("landing", "Landing", "Flaps give an aeroplane more lift when it lands.", 2023, "en", "aerodynamics"),
    ("rotor", "Rotors", "The rotor of a helicopter is a wing that turns.", 2024, "en", "engines"),
]
QUERIES = {"q1": "aircraft in turbulence", "q2": "cooling hot pipes", "q3": "lift when landing", "q4": "wing vibration"}
QRELS = {"q1": "gusts", "q2": "tubes", "q3": "landing", "q4": "flutter"}
NOTES = {
    "wings.md": "# Wings\n\nA swept wing delays the shock wave.\n\n## Flutter\nA panel can flutter.\n",
    "deep/heat.md": "Heat flows along a flat plate.\n\n# Tubes\n\nWater cools a tube.\n",
}


def documents():
    """Ten documents with metadata, one dict for each line of a JSONL file."""
    return [
        {
            "_id": doc_id,
            "title": title,
            "text": text,
            "year": year,
            "lang": lang,
            "tags": [tag],
            "path": f"docs/{tag}/{doc_id}.md",
            "draft": year > 2023,
            "author": {"name": "Smith, John" if year < 2010 else "Wong"},
        }
        for doc_id, title, text, year, lang, tag in DOCS
    ]


def _lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture(scope="session")
def materials(tmp_path_factory):
    """A folder with all files that the pages name."""
    folder = tmp_path_factory.mktemp("materials")
    docs, queries = documents(), [{"_id": query_id, "text": text} for query_id, text in QUERIES.items()]
    _lines(folder / "docs.jsonl", docs)
    _lines(folder / "new.jsonl", [{"_id": "glider", "text": "A glider flies without an engine.", "year": 2024}])
    _lines(
        folder / "changed.jsonl", [docs[0] | {"text": "A swept wing delays the shock wave near the speed of sound."}]
    )
    _lines(folder / "queries.jsonl", queries)
    beir = folder / "my-data"
    (beir / "qrels").mkdir(parents=True)
    _lines(beir / "corpus.jsonl", [{k: doc[k] for k in ("_id", "title", "text")} for doc in docs])
    _lines(beir / "queries.jsonl", queries)
    for split in ("train", "test"):
        rows = "".join(f"{query_id}\t{doc_id}\t1\n" for query_id, doc_id in QRELS.items())
        (beir / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + rows)
    for name, text in NOTES.items():
        (folder / "notes" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "notes" / name).write_text(text)
    (folder / "gone.txt").write_text("storm\n")
    Index.build(folder / "idx", docs)
    return folder


@pytest.fixture
def page_folder(materials, tmp_path, monkeypatch):
    """A folder with a copy of the materials. It is the current folder during the test."""
    folder = Path(shutil.copytree(materials, tmp_path / "page"))
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HAYSTACK_TELEMETRY_ENABLED", "False")
    monkeypatch.setenv("LANGSMITH_TRACING", "false")
    return folder
