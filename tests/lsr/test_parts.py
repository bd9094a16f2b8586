"""encode_to: the content of a part depends only on the corpus, and only missing parts are encoded."""

import json

import pytest

from lsr.encode import corpus as encoding
from lsr.encode import parts, write
from lsr.encode.bm25 import BM25Encoder
from lsr.encode.corpus import Report, encode_corpus
from lsr.encode.parts import PLAN
from lsr.encode.passages import Passages
from lsr.encode.write import encode_to
from lsr.errors import DataError, EncoderMismatch, OutputExists, StorageError
from lsr.io.corpus import open_corpus
from lsr.io.object_store import Place, with_suffix
from lsr.io.open_vectors import read_vectors

WORDS = ["wing", "flow", "plate", "shock", "heat", "boundary", "layer", "speed"]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """Encode three documents at a time, and write parts of six documents."""
    monkeypatch.setattr(encoding, "CHUNK", 3)
    monkeypatch.setattr(parts, "PART", 6)


@pytest.fixture
def corpus(tmp_path):
    return write_corpus(tmp_path / "docs.jsonl", 20)


def write_corpus(path, n):
    lines = [{"_id": f"d{i}", "title": f"t{i}" if i % 2 else "", "text": text_of(i), "n": i} for i in range(n)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def text_of(i):
    return " ".join(WORDS[(i * k) % len(WORDS)] for k in range(i % 7))


def encode(source, out, encoder=None, settings="", skip_bad=False, **options):
    corpus = open_corpus(source, skip_bad=skip_bad)
    return encode_to(corpus, lambda: encoder or BM25Encoder(), out, settings=settings, **options)


def content(out):
    """Documents and vectors, with the exact bits of the weights."""
    return rows(read_vectors(out))


def rows(batches):
    return [
        (document, terms.tolist(), weights.tobytes())
        for batch in batches
        for document, (terms, weights) in zip(batch.documents.to_pylist(), batch.vectors.rows(), strict=True)
    ]


def files(folder):
    return {path.name: path.read_bytes() for path in folder.glob("part-*.parquet")}


@pytest.mark.parametrize("n", [0, 1, 5, 6, 12, 20])
@pytest.mark.parametrize("how", [{}, {"passages": Passages(2, 1)}, {"with_text": False}])
def test_parts_equal_vectors_that_are_encoded_in_memory(tmp_path, n, how):
    source = write_corpus(tmp_path / "docs.jsonl", n)
    encoder, expected = BM25Encoder(), Report()
    encoder.fit(document.content for document in open_corpus(source))
    batches = list(encode_corpus(open_corpus(source), encoder, expected, **how))
    report = encode(source, tmp_path / "v", **how)
    assert content(tmp_path / "v") == rows(batches)
    assert report == expected
    vectors = read_vectors(tmp_path / "v")
    assert (vectors.fingerprint, vectors.vocabulary) == (encoder.fingerprint, list(encoder.vocabulary))
    assert vectors.encoder_files == encoder.query_files()
    assert sorted(p.name for p in (tmp_path / "v").iterdir()) == [
        f"part-{i:05d}.parquet" for i in range(-(-n // 6) or 1)
    ]


def test_parts_and_batches_of_long_documents_are_smaller(tmp_path, corpus, monkeypatch):
    """Smaller batches limit memory. The texts have 0 to 37 characters."""
    plain = encode(corpus, tmp_path / "plain")
    monkeypatch.setattr(encoding, "CHUNK_CHARACTERS", 20)
    monkeypatch.setattr(parts, "PART_CHARACTERS", 40)
    real, sizes = parts.encode_chunk, []

    def encode_chunk(documents, *args, **how):
        sizes.append([len(document.text) for document in documents])
        return real(documents, *args, **how)

    monkeypatch.setattr(parts, "encode_chunk", encode_chunk)
    assert encode(corpus, tmp_path / "v") == plain
    assert content(tmp_path / "v") == content(tmp_path / "plain")
    assert {len(lengths) for lengths in sizes} == {1, 2, 3}
    assert all(sum(lengths[:-1]) < 20 for lengths in sizes)
    assert len(files(tmp_path / "v")) > 4


def test_parts_are_joined_into_one_file(tmp_path, corpus):
    encode(corpus, tmp_path / "v.parquet")
    encode(corpus, tmp_path / "v")
    assert content(tmp_path / "v.parquet") == content(tmp_path / "v")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["docs.jsonl", "v", "v.parquet"]


def test_the_error_names_a_missing_part(tmp_path, corpus):
    encode(corpus, tmp_path / "v")
    with pytest.raises(DataError, match=r"vocabulary is in 'part-00000\.parquet', which isn't among the files to read"):
        read_vectors(tmp_path / "v" / "part-00002.parquet")
    for name in ("part-00002.parquet", "part-00000.parquet"):
        (tmp_path / "v" / name).unlink()
        with pytest.raises(DataError, match=rf"v: {name} is missing, though later parts are present: restore it"):
            read_vectors(tmp_path / "v")


# --- interrupted runs


class Stopped(Exception):
    pass


def stop_at(monkeypatch, number):
    """Stop encoding at a part, as a kill would. Returns a list that collects the numbers of the parts that began."""
    encoded, real = [], parts._encode_part

    def encode_part(*args):
        encoded.append(args[-1][0])
        if args[-1][0] == number:
            raise Stopped
        return real(*args)

    monkeypatch.setattr(parts, "_encode_part", encode_part)
    return encoded


def cut_off(monkeypatch, source, out, number, **options):
    with monkeypatch.context() as patch:
        stop_at(patch, number)
        with pytest.raises(Stopped):
            encode(source, out, **options)


@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize("at", [0, 1, 3])
def test_a_second_run_encodes_missing_parts(tmp_path, corpus, monkeypatch, at, remote):
    encode(corpus, tmp_path / "whole")
    out, work = tmp_path / "v", tmp_path / ("v" if remote else "v.partial")
    where = out.as_uri() if remote else out
    cut_off(monkeypatch, corpus, where, at)
    assert len(files(work)) == at
    encoded = stop_at(monkeypatch, None)
    report = encode(corpus, where)
    assert encoded == list(range(at, 4))
    assert files(out) == files(tmp_path / "whole")
    assert report.documents == 20


def test_an_incomplete_part_is_encoded_again(tmp_path, corpus, monkeypatch):
    encode(corpus, tmp_path / "whole")
    cut_off(monkeypatch, corpus, tmp_path / "v", 3)
    work = tmp_path / "v.partial"
    (work / "part-00000.parquet").write_bytes(b"PAR1")
    (work / "part-00001.json").write_text('{"number": 1')
    (work / "part-00002.json").write_text('{"number": 1, "file": 3}')
    (work / "part-00001.parquet.0a1b2c3d.unfinished").write_bytes(b"PAR1")
    encoded = stop_at(monkeypatch, None)
    encode(corpus, tmp_path / "v")
    assert encoded == [0, 1, 2, 3]
    assert files(tmp_path / "v") == files(tmp_path / "whole")
    assert {path.name for path in (tmp_path / "v").iterdir()} == files(tmp_path / "whole").keys()


def test_skipped_documents_are_still_reported_after_a_kill(tmp_path, corpus, monkeypatch):
    corpus.write_text(corpus.read_text() + "no JSON\n")
    monkeypatch.setattr(write, "_finish", lambda *_: (_ for _ in ()).throw(Stopped))
    with pytest.raises(Stopped):
        encode(corpus, tmp_path / "v", skip_bad=True)
    monkeypatch.undo()
    monkeypatch.setattr(encoding, "CHUNK", 3)
    monkeypatch.setattr(parts, "PART", 6)
    encoded = stop_at(monkeypatch, None)
    report = encode(corpus, tmp_path / "v", skip_bad=True)
    assert encoded == []
    assert len(report.bad) == 1
    assert "docs.jsonl:21: not JSON" in report.bad[0]


def test_unfinished_work_with_other_settings_is_not_resumed(tmp_path, corpus, monkeypatch):
    cut_off(monkeypatch, corpus, tmp_path / "v", 2)
    with pytest.raises(OutputExists, match="holds unfinished work from another source or with other settings"):
        encode(corpus, tmp_path / "v", settings="others")
    encoded = stop_at(monkeypatch, None)
    encode(corpus, tmp_path / "v", settings="others", overwrite=True)
    assert encoded == [0, 1, 2, 3]


def test_another_encoder_of_the_same_name_is_refused(tmp_path, corpus, monkeypatch):
    def fitted(k1):
        encoder = BM25Encoder(k1)
        encoder.fit(["wing flow"])
        return encoder

    cut_off(monkeypatch, corpus, tmp_path / "v", 2, encoder=fitted(1))
    with pytest.raises(EncoderMismatch):
        encode(corpus, tmp_path / "v", encoder=fitted(2))


def test_a_bad_line_stops_the_encoding_but_finished_parts_are_kept(tmp_path, corpus, monkeypatch):
    lines = corpus.read_text().splitlines()
    lines[14] = "no JSON"
    corpus.write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"docs\.jsonl:15: not JSON"):
        encode(corpus, tmp_path / "v", BM25Encoder())
    monkeypatch.setattr("lsr.io.corpus._CHECKED_TOGETHER", 1)
    encoder = BM25Encoder()
    encoder.fit(["wing flow"])
    with pytest.raises(DataError, match=r"docs\.jsonl:15: not JSON"):
        encode(corpus, tmp_path / "v", encoder)
    assert len(files(tmp_path / "v.partial")) == 2


# --- in object storage


def test_encoding_to_object_storage_resumes_and_overwrites(bucket, tmp_path, corpus, monkeypatch):
    encode(corpus, tmp_path / "v")
    where = bucket("vectors")
    cut_off(monkeypatch, corpus, where, 2)
    with pytest.raises(DataError, match="and no complete folder of vectors"):
        read_vectors(where)
    encoded = stop_at(monkeypatch, None)
    encode(corpus, where)
    assert encoded == [2, 3]
    assert content(where) == content(tmp_path / "v")
    assert sorted(Place(where).sizes()) == [*sorted(files(tmp_path / "v")), "vectors.json"]
    with pytest.raises(OutputExists, match="exists already"):
        encode(corpus, where)
    encode(write_corpus(corpus, 8), where, overwrite=True)
    assert len(content(where)) == 8
    assert sorted(Place(where).sizes()) == ["part-00000.parquet", "part-00001.parquet", "vectors.json"]


def test_unusable_outputs_are_refused(tmp_path, corpus):
    where = (tmp_path / "v").as_uri()
    Place(where).write("mine.txt", b"x")
    with pytest.raises(OutputExists, match=r"something other than vectors \(mine\.txt\)"):
        encode(corpus, where, overwrite=True)
    with pytest.raises(DataError, match=r"as a folder of parts: leave \.parquet out"):
        encode(corpus, with_suffix(where, ".parquet"))


def test_a_folder_that_is_not_shared_is_refused(tmp_path):
    with pytest.raises(StorageError, match="isn't shared by all machines"):
        parts.open_shared(str(tmp_path))
    (tmp_path / PLAN).write_text("{}")
    assert parts.open_shared(str(tmp_path)).name == str(tmp_path)


def test_the_command_writes_and_reads_remote_folders(tmp_path, corpus, lsr_command):
    where = (tmp_path / "v").as_uri()
    ran = lsr_command("encode", corpus, "--encoder", "bm25", "--out", where)
    assert (ran.code, ran.err) == (0, f"2 of 20 documents have no text\n20 vectors in {where}\n")
    lsr_command("encode", corpus, "--encoder", "bm25", "--out", tmp_path / "plain")
    assert content(where) == content(tmp_path / "plain")
    assert lsr_command("encode", where, "--out", tmp_path / "v.parquet").code == 0
    assert content(tmp_path / "v.parquet") == content(where)
    assert lsr_command("encode", corpus, "--out", tmp_path / "x", "--workers", "2").code == 2
