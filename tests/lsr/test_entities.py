"""EntityEncoder adds entities as terms: linking, weights, search, and saved files."""

from __future__ import annotations

import json
import os
import pickle

import numpy as np
import pytest

from lsr.encode.bm25 import BM25Encoder
from lsr.encode.entities import ENTITIES_FILE, Entity, EntityEncoder, Linker, read_entities
from lsr.encode.load import load_encoder, load_encoder_files
from lsr.errors import DataError, EncoderError
from lsr.index.index import Index

PLACES = [
    Entity("Mumbai", ("Bombay",)),
    Entity("New York"),
    Entity("York"),
    Entity("Burma", ("Myanmar", "Union of Burma")),
    Entity("Springfield, Ohio", ("Springfield",)),
    Entity("Springfield, Illinois", ("Springfield",)),
]
TEXTS = [
    "The port of Bombay was busy. Bombay grew.",
    "In New York the trains are late.",
    "York has a cathedral.",
    "Elections in Myanmar were held.",
    "A street in Springfield.",
    "Nothing is named here.",
]


def test_the_linker_takes_the_longest_match():
    linker = Linker(PLACES)
    text = "From new york to York, and the UNION of Burma; newyork and Yorkshire are others."
    found = [([PLACES[n].name for n in numbers], text[a:b]) for numbers, a, b in linker.mentions(text)]
    assert found == [(["New York"], "new york"), (["York"], "York"), (["Burma"], "UNION of Burma")]
    assert [numbers for numbers, _, _ in linker.mentions("in Springfield")] == [[4, 5]]
    assert list(linker.mentions("")) == []


@pytest.fixture(scope="module")
def encoder():
    made = EntityEncoder(BM25Encoder(), PLACES)
    made.fit(TEXTS)
    return made


def test_entity_weights_equal_their_formulas(encoder):
    documents = encoder.encode_document(TEXTS).to_dicts(encoder.vocabulary)
    assert documents[0]["entity:Mumbai"] == pytest.approx(np.log1p(2))
    assert documents[4]["entity:Springfield, Ohio"] == pytest.approx(np.log1p(0.5))
    assert not any(token.startswith("entity:") for token in documents[5])
    assert "entity:York" not in documents[1]
    (query,) = encoder.encode_query("Mumbai").to_dicts(encoder.vocabulary)
    idf = np.log1p((6 - 1 + 0.5) / (1 + 0.5))
    assert query == pytest.approx({"entity:Mumbai": 0.1 * np.log1p(1) * idf})


def test_vectors_with_weight_0_equal_those_of_the_base_encoder(encoder):
    base = BM25Encoder()
    base.fit(TEXTS)
    off = EntityEncoder(base, PLACES, weight=0)
    for mine, theirs in (
        (off.encode_document(TEXTS), base.encode_document(TEXTS)),
        (off.encode_query(TEXTS), base.encode_query(TEXTS)),
    ):
        assert (mine.indices - len(PLACES)).tolist() == theirs.indices.tolist()
        assert mine.data.tobytes() == theirs.data.tobytes()


def test_one_name_of_an_entity_finds_documents_with_another_name(tmp_path):
    docs = [{"_id": str(i), "text": text} for i, text in enumerate(TEXTS)]
    plain = Index.build(tmp_path / "plain", docs, encoder="bm25")
    index = Index.build(tmp_path / "idx", docs, encoder=EntityEncoder(BM25Encoder(), PLACES))
    assert [hit.id for hit in plain.search("Mumbai")] == []
    assert [hit.id for hit in index.search("Mumbai")] == ["0"]
    assert [hit.id for hit in index.search("Burma")] == ["3"]
    index.add([{"_id": "new", "text": "Yangon was the capital of Burma."}])
    index.commit()
    opened = Index.open(tmp_path / "idx")
    assert {hit.id for hit in opened.search("Myanmar")} == {"3", "new"}
    (first, *_) = opened.explain("Mumbai", "0")
    assert first.token == "entity:Mumbai"
    assert [TEXTS[0][a:b] for a, b in first.spans] == ["Bombay", "Bombay"]
    assert len(opened.search("yangon")) == 1


def test_entities_work_with_a_learned_encoder(tmp_path):
    made = EntityEncoder(load_encoder("lsr-tiny", lexical=0), PLACES, weight=2.0)
    docs = [{"_id": str(i), "text": text} for i, text in enumerate(TEXTS)]
    index = Index.build(tmp_path / "idx", docs, encoder=made)
    assert index.search("Mumbai", 1)[0].id == "0"
    assert Index.open(tmp_path / "idx").search("Mumbai", 1)[0].id == "0"
    made.save(tmp_path / "saved")
    opened = load_encoder(tmp_path / "saved")
    assert opened.encode_document(TEXTS) == made.encode_document(TEXTS)
    assert opened.fingerprint == made.fingerprint
    with pytest.raises(EncoderError, match="take its learned part"):
        EntityEncoder(load_encoder("lsr-tiny"), PLACES)


def test_a_saved_encoder_is_read_back(encoder, tmp_path):
    encoder.save(tmp_path / "entities")
    copies = (load_encoder(tmp_path / "entities"), load_encoder_files(encoder.query_files()))
    for opened in (*copies, pickle.loads(pickle.dumps(encoder))):
        assert opened.encode_query(TEXTS) == encoder.encode_query(TEXTS)
        assert opened.fingerprint == encoder.fingerprint
    files = encoder.query_files()
    rows = json.loads(files[ENTITIES_FILE])
    for change in ({"df": [1]}, {"entities": [["a"], ["a"]]}, {"entities": 3}):
        with pytest.raises(EncoderError, match="entit"):
            load_encoder_files(files | {ENTITIES_FILE: json.dumps(rows | change).encode()})
    nested = json.loads(files["encoder.json"])
    with pytest.raises(EncoderError, match="not a whole encoder of entities"):
        load_encoder_files(files | {"encoder.json": json.dumps(nested | {"base": nested}).encode()})


def test_the_index_command_reads_a_file_of_entities(lsr_command, tmp_path):
    rows = [{"name": entity.name, "aliases": list(entity.aliases)} for entity in PLACES]
    (tmp_path / "places.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_entities(tmp_path / "places.jsonl") == PLACES
    docs = "".join(json.dumps({"_id": str(i), "text": text}) + "\n" for i, text in enumerate(TEXTS))
    (tmp_path / "docs.jsonl").write_text(docs)
    how = ("--encoder", "bm25", "--entities", tmp_path / "places.jsonl")
    assert lsr_command("index", tmp_path / "docs.jsonl", "--out", tmp_path / "idx", *how).code == 0
    assert [hit.id for hit in Index.open(tmp_path / "idx").search("Mumbai")] == ["0"]
    (tmp_path / "places.jsonl").write_text('{"name": "A"}\n{"aliases": []}\n')
    ran = lsr_command("index", tmp_path / "docs.jsonl", "--out", tmp_path / "other", *how)
    assert ran.code == 1
    assert "places.jsonl:2" in ran.err


def test_invalid_entities_are_refused():
    for wrong, message in (([Entity("a"), Entity("a")], "the same name"), ([Entity("?!")], "without words")):
        with pytest.raises(EncoderError, match=message):
            EntityEncoder(BM25Encoder(), wrong)
    with pytest.raises(EncoderError, match="at least 0"):
        EntityEncoder(BM25Encoder(), PLACES, weight=-1)
    with pytest.raises(DataError, match="names are texts"):
        read_entities_of('{"name": "A", "aliases": [3]}')


@pytest.mark.skipif(not os.environ.get("LSR_LONG_TESTS"), reason="takes long: set LSR_LONG_TESTS")
def test_places_as_entities_raise_recall_on_the_world_factbook(real_data, tmp_path):
    """Entities raise recall, keep nDCG, and add at most 5 % more postings."""
    measures = pytest.importorskip("lsr.eval.evaluate", reason="needs the extra eval")
    dataset = pytest.importorskip("lsr.eval.datasets").open_dataset(str(real_data("world-factbook")), "train")
    places = [Entity(title) for title in sorted({doc.title for doc in dataset.corpus() if doc.title})]
    found = {}
    for name, encoder in (("with", EntityEncoder(BM25Encoder(), places)), ("without", BM25Encoder())):
        index = Index.build(tmp_path / name, dataset.corpus(), encoder=encoder, passages=None)
        values = measures.evaluate_index(index, dataset, "nDCG@10 R@100").measures
        found[name] = values["nDCG@10"], values["R@100"], index.n_postings
    print(found)
    assert found["with"][0] >= found["without"][0] - 0.0005
    assert found["with"][1] > found["without"][1] + 0.005
    assert found["with"][2] <= 1.05 * found["without"][2]


def read_entities_of(line):
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "entities.jsonl"
        path.write_text(line)
        return read_entities(path)
