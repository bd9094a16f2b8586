"""encode_to: results don't depend on chunk sizes, memory is bounded, and a killed run resumes."""

import errno
import gzip
import json
import os
import signal
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from lsr.encode import corpus as encoding
from lsr.encode import parts, write
from lsr.encode.base import Encoder
from lsr.encode.bm25 import BM25Encoder
from lsr.encode.corpus import Report, encode_corpus
from lsr.encode.passages import Passages
from lsr.encode.write import encode_to
from lsr.errors import DataError, EncoderMismatch, OutputExists
from lsr.fingerprint import Fingerprint
from lsr.io.convert import convert
from lsr.io.corpus import documents_corpus, open_corpus
from lsr.io.open_vectors import read_vectors
from lsr.io.vectors_parquet import save_matrix
from lsr.sparse import SparseMatrix

OUTPUTS = ["v.parquet", "v", "v.jsonl", "v.jsonl.gz"]
SETTINGS = "letters"


class Letters(Encoder):
    """Encodes texts as counts of letters. Logs texts to a file, and can fail or kill its process at a given text."""

    type = "letters"

    def __init__(self, log=None, at=None, what=None, weights="1"):
        self.log, self.at, self.what, self.weights = log, at, what, weights

    @property
    def fingerprint(self):
        return Fingerprint("letters", weights=self.weights, vocabulary_size=26)

    @property
    def vocabulary(self):
        return [chr(97 + i) for i in range(26)]

    def encode_document(self, texts):
        for text in texts:
            if self.log:
                with open(self.log, "a") as file:
                    file.write(text + "\n")
            if text == self.at:
                if self.what is None:
                    os.kill(os.getpid(), signal.SIGKILL)
                raise self.what
        return SparseMatrix.from_dicts(
            [{i: text.count(c) for i, c in enumerate(self.vocabulary)} for text in texts], 26
        )

    encode_query = encode_document

    def spans(self, text):
        return [(ord(c) - 97, i, i + 1) for i, c in enumerate(text) if c.islower()]

    def save(self, folder):
        raise NotImplementedError


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """Encode four documents at a time, and write parts of four documents."""
    monkeypatch.setattr(encoding, "CHUNK", 4)
    monkeypatch.setattr(parts, "PART", 4)


@pytest.fixture
def corpus(tmp_path):
    return write_corpus(tmp_path / "docs.jsonl", 22)


def write_corpus(path, n):
    path.write_text("".join(json.dumps({"_id": f"d{i}", "text": text_of(i), "n": i}) + "\n" for i in range(n)))
    return path


def text_of(i):
    return "" if i == 5 else f"text {chr(97 + i % 26) * (i + 1)}"


def encode(source, out, encoder=None, settings=SETTINGS, **options):
    return encode_to(open_corpus(source), lambda: encoder or Letters(), out, settings=settings, **options)


def content(out):
    """Ids, vectors by token, and texts."""
    vectors = read_vectors(out, vocabulary=Letters().vocabulary)
    rows = []
    for batch in vectors:
        for document, (terms, weights) in zip(batch.documents.to_pylist(), batch.vectors.rows(), strict=True):
            rows.append((document["id"], document["text"], dict(zip(terms.tolist(), weights.tolist(), strict=True))))
    return rows


def expected(n=22, with_text=True):
    rows = []
    for i in range(n):
        counts = {ord(c) - 97: text_of(i).count(c) for c in sorted(set(text_of(i)) - {" "})}
        rows.append((f"d{i}", text_of(i) if with_text else None, counts))
    return rows


def names(folder):
    return sorted(f.name for f in folder.iterdir() if f.name != ".lock")


# --- complete runs


@pytest.mark.parametrize("out", OUTPUTS)
def test_all_output_formats_have_the_same_vectors(tmp_path, corpus, out):
    report = encode(corpus, tmp_path / out)
    assert report == Report(documents=22, vectors=22, empty=1, no_terms=1)
    rows = content(tmp_path / out)
    assert [(i, v) for i, _, v in rows] == [(i, v) for i, _, v in expected()]
    assert names(tmp_path) == sorted(["docs.jsonl", out])
    if ".jsonl" not in out:
        assert rows == expected()
        assert read_vectors(tmp_path / out).fingerprint == Letters().fingerprint


@pytest.mark.parametrize("out", OUTPUTS)
@pytest.mark.parametrize("chunk", [1, 3, 512])
def test_chunk_and_part_sizes_do_not_affect_results(tmp_path, corpus, monkeypatch, out, chunk):
    encode(corpus, tmp_path / out)
    monkeypatch.setattr(encoding, "CHUNK", chunk)
    monkeypatch.setattr(parts, "PART", 7)
    again = tmp_path / ("again-" + out)
    encode(corpus, again)
    assert content(again) == content(tmp_path / out)


@pytest.mark.parametrize("out", OUTPUTS)
def test_an_empty_corpus_gives_an_empty_output(tmp_path, out):
    assert encode(write_corpus(tmp_path / "none.jsonl", 0), tmp_path / out) == Report()
    assert content(tmp_path / out) == []
    if out == "v.parquet":
        assert read_vectors(tmp_path / out).fingerprint == Letters().fingerprint


def test_texts_can_be_left_out_of_the_output(tmp_path, corpus):
    encode(corpus, tmp_path / "v.parquet", with_text=False)
    assert content(tmp_path / "v.parquet") == expected(with_text=False)


def test_passages_are_encoded_with_their_own_ids(tmp_path):
    write_corpus(tmp_path / "docs.jsonl", 2)
    report = encode(tmp_path / "docs.jsonl", tmp_path / "v.parquet", passages=Passages(4))
    assert [(i, t) for i, t, _ in content(tmp_path / "v.parquet")] == [
        ("d0#0", "text"), ("d0#1", "a"), ("d1#0", "text"), ("d1#1", "bb"),
    ]  # fmt: skip
    assert (report.documents, report.vectors) == (2, 4)


def test_an_encoder_is_fitted_first_and_stored_with_the_vectors(tmp_path, corpus):
    encode(corpus, tmp_path / "v.parquet", BM25Encoder())
    fitted = BM25Encoder()
    fitted.fit(document.content for document in open_corpus(corpus))
    vectors = read_vectors(tmp_path / "v.parquet")
    assert vectors.fingerprint == fitted.fingerprint
    assert vectors.encoder_files == fitted.query_files()


def test_bad_documents_are_counted(tmp_path, corpus, capsys):
    corpus.write_text("oops\n" + corpus.read_text() + "oops\n")
    with pytest.raises(DataError, match=r"docs\.jsonl:1: not JSON"):
        encode(corpus, tmp_path / "v.parquet")
    assert names(tmp_path) == ["docs.jsonl"]
    report = encode_to(open_corpus(corpus, skip_bad=True), Letters, tmp_path / "v.parquet", settings="")
    assert [message.split(": ")[0] for message in report.bad] == [f"{corpus}:1", f"{corpus}:24"]
    assert content(tmp_path / "v.parquet") == expected()
    report.tell()
    assert "skipped 2 bad documents, the first: " in capsys.readouterr().err


def test_a_corpus_is_read_lazily():
    taken = []

    def endless():
        while True:
            taken.append(len(taken))
            yield {"_id": str(len(taken)), "text": "x"}

    batches = encode_corpus(documents_corpus(endless()), Letters(), Report())
    assert sum(len(batch.vectors) for batch in islice(batches, 3)) == 12
    assert len(taken) < 5000


def test_long_documents_are_encoded_in_small_batches(monkeypatch):
    monkeypatch.setattr(encoding, "CHUNK_CHARACTERS", 10)
    documents = [{"_id": str(i), "text": "x" * n} for i, n in enumerate([4, 4, 4, 30, 1, 1])]
    batches = encode_corpus(documents_corpus(documents), Letters(), Report())
    assert [len(batch.vectors) for batch in batches] == [3, 1, 2]


# --- existing outputs


@pytest.mark.parametrize("out", OUTPUTS)
def test_an_output_is_replaced_only_with_overwrite(tmp_path, corpus, out):
    encode(write_corpus(tmp_path / "other.jsonl", 3), tmp_path / out)
    with pytest.raises(OutputExists, match=f"{out}: exists already"):
        encode(corpus, tmp_path / out, Letters(tmp_path / "log"))
    assert not (tmp_path / "log").exists()
    assert len(content(tmp_path / out)) == 3
    encode(corpus, tmp_path / out, overwrite=True)
    assert len(content(tmp_path / out)) == 22
    assert names(tmp_path) == sorted(["docs.jsonl", "other.jsonl", out])


@pytest.mark.parametrize("out", ["v", "v.parquet"])
def test_a_folder_of_other_files_is_not_replaced(tmp_path, corpus, out):
    (tmp_path / out).mkdir()
    (tmp_path / out / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputExists, match="holds something other than vectors"):
        encode(corpus, tmp_path / out, overwrite=True)
    assert names(tmp_path / out) == ["thesis.tex"]


def test_a_file_is_not_replaced_by_a_folder(tmp_path, corpus):
    (tmp_path / "v").write_text("notes")
    with pytest.raises(OutputExists, match="holds something other than vectors"):
        encode(corpus, tmp_path / "v", overwrite=True)
    assert (tmp_path / "v").read_text() == "notes"


def test_an_unknown_suffix_is_refused_before_any_work(tmp_path, corpus):
    with pytest.raises(DataError, match="vectors are written to"):
        encode(corpus, tmp_path / "v.npz", Letters(tmp_path / "log"))
    assert names(tmp_path) == ["docs.jsonl"]


@pytest.mark.parametrize("out", OUTPUTS)
def test_the_old_output_stays_until_the_new_output_is_complete(tmp_path, corpus, out):
    encode(write_corpus(tmp_path / "other.jsonl", 3), tmp_path / out)
    old = content(tmp_path / out)
    with pytest.raises(RuntimeError, match="broken"):
        encode(corpus, tmp_path / out, Letters(at=text_of(13), what=RuntimeError("broken")), overwrite=True)
    assert content(tmp_path / out) == old
    encode(corpus, tmp_path / out, overwrite=True)
    assert len(content(tmp_path / out)) == 22
    assert names(tmp_path) == sorted(["docs.jsonl", "other.jsonl", out])


# --- interrupted runs


def killed(corpus, out, at, *, overwrite=False):
    """Encode in a process that kills itself at a document, and return how many documents are in complete parts."""
    log = corpus.with_name("log")
    child = subprocess.run(
        [sys.executable, __file__, corpus, out, log, text_of(at), "overwrite" * overwrite],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert log.read_text().splitlines()[-1] == text_of(at)
    work = out.with_name(out.name + ".partial")
    return len(content(work)) if any(work.glob("part-*.parquet")) else 0


@pytest.mark.parametrize("out", OUTPUTS)
def test_encoding_resumes_after_a_kill(tmp_path, corpus, capsys, out):
    whole = encode(corpus, tmp_path / f"whole-{out}")
    done = killed(corpus, tmp_path / out, 14)
    assert done >= 8
    assert not (tmp_path / out).exists()
    report = encode(corpus, tmp_path / out, Letters(tmp_path / "second"))
    assert f"resuming after {done} documents" in capsys.readouterr().err
    assert (tmp_path / "second").read_text().splitlines() == [text_of(i) for i in range(done, 22)]
    assert content(tmp_path / out) == content(tmp_path / f"whole-{out}")
    assert report == whole
    assert not (tmp_path / f"{out}.partial").exists()


def test_encoding_resumes_after_several_kills(tmp_path, corpus):
    assert killed(corpus, tmp_path / "v", 0) == 0
    first = killed(corpus, tmp_path / "v", 11)
    second = killed(corpus, tmp_path / "v", 21)
    assert 0 < first < second
    encode(corpus, tmp_path / "v", Letters(tmp_path / "last"))
    assert (tmp_path / "last").read_text().splitlines() == [text_of(i) for i in range(second, 22)]
    assert content(tmp_path / "v") == expected()


def test_a_kill_leaves_the_old_output(tmp_path, corpus):
    encode(write_corpus(tmp_path / "other.jsonl", 3), tmp_path / "v")
    killed(corpus, tmp_path / "v", 14, overwrite=True)
    assert content(tmp_path / "v") == expected(3)
    encode(corpus, tmp_path / "v", overwrite=True)
    assert content(tmp_path / "v") == expected()


def cut_off(corpus, out, encoder=None, **options):
    """Start a run that fails after it has written some parts."""
    encoder = encoder or Letters(at=text_of(14), what=RuntimeError("broken"))
    with pytest.raises(RuntimeError, match="broken"):
        encode(corpus, out, encoder, **options)
    assert list(out.with_name(out.name + ".partial").glob("part-*.parquet"))


@pytest.mark.parametrize("change", ["settings", "source"])
def test_unfinished_work_with_other_settings_is_kept_without_overwrite(tmp_path, corpus, change):
    out = tmp_path / "v.parquet"
    cut_off(corpus, out)
    before = names(tmp_path / "v.parquet.partial")
    settings = SETTINGS
    if change == "source":
        write_corpus(corpus, 23)
    else:
        settings = "other"
    with pytest.raises(OutputExists, match="holds unfinished work from another source or with other settings"):
        encode(corpus, out, settings=settings)
    assert names(tmp_path / "v.parquet.partial") == before
    encode(corpus, out, Letters(tmp_path / "log"), settings=settings, overwrite=True)
    assert len((tmp_path / "log").read_text().splitlines()) == len(content(out))


def test_vectors_of_a_changed_encoder_are_not_mixed(tmp_path, corpus):
    cut_off(corpus, tmp_path / "v")
    with pytest.raises(EncoderMismatch, match="weights 1 / 2"):
        encode(corpus, tmp_path / "v", Letters(weights="2"))


@pytest.mark.parametrize("damage", ["last part cut short", "first part gone"])
def test_damaged_parts_are_encoded_again(tmp_path, corpus, damage):
    cut_off(corpus, tmp_path / "v")
    first, *_, last = sorted((tmp_path / "v.partial").glob("part-*.parquet"))
    if damage == "first part gone":
        first.unlink()
    else:
        last.write_bytes(last.read_bytes()[:-20])
    encode(corpus, tmp_path / "v")
    assert content(tmp_path / "v") == expected()


def test_a_fitted_encoder_is_not_fitted_again(tmp_path, corpus, monkeypatch):
    class Broken(BM25Encoder):
        def encode_document(self, texts):
            if text_of(14) in texts:
                raise RuntimeError("broken")
            return super().encode_document(texts)

    encode(corpus, tmp_path / "whole", BM25Encoder())
    cut_off(corpus, tmp_path / "v", Broken())
    monkeypatch.setattr(BM25Encoder, "fit", lambda self, texts: pytest.fail("fitted again"))
    encode(corpus, tmp_path / "v", BM25Encoder())
    assert content(tmp_path / "v") == content(tmp_path / "whole")


def test_encoding_resumes_after_a_kill_between_two_renames(tmp_path, corpus):
    encode(write_corpus(tmp_path / "other.jsonl", 3), tmp_path / "v")
    cut_off(corpus, tmp_path / "v", overwrite=True)
    (tmp_path / "v").rename(tmp_path / "v.old")
    encode(corpus, tmp_path / "v", overwrite=True)
    assert content(tmp_path / "v") == expected()
    assert names(tmp_path) == ["docs.jsonl", "other.jsonl", "v"]


def test_the_old_folder_is_removed_after_the_new_folder_is_in_place(tmp_path, corpus, monkeypatch):
    encode(write_corpus(tmp_path / "other.jsonl", 3), tmp_path / "v")
    removed = []

    def rmtree(folder, **_):
        if folder == tmp_path / "v.old" and folder.exists():
            removed.append((folder.name, len(content(tmp_path / "v"))))

    monkeypatch.setattr(write.shutil, "rmtree", rmtree)
    encode(corpus, tmp_path / "v", overwrite=True)
    assert removed == [("v.old", 22)]


def test_a_resumed_run_reports_all_skipped_documents(tmp_path, corpus):
    lines = corpus.read_text().splitlines(keepends=True)
    corpus.write_text("".join(["oops\n", *lines[:10], "oops\n", *lines[10:], "oops\n"]))
    broken = Letters(at=text_of(14), what=RuntimeError("broken"))
    with pytest.raises(RuntimeError, match="broken"):
        encode_to(open_corpus(corpus, skip_bad=True), lambda: broken, tmp_path / "v", settings="")
    report = encode_to(open_corpus(corpus, skip_bad=True), Letters, tmp_path / "v", settings="")
    assert content(tmp_path / "v") == expected()
    assert len(report.bad) == 3


# --- full disk


@pytest.mark.parametrize("out", ["v.parquet", "v"])
def test_encoding_resumes_after_the_disk_was_full_within_a_part(tmp_path, corpus, monkeypatch, out):
    encode(write_corpus(tmp_path / "other.jsonl", 3), tmp_path / out)
    write, written = parts.ParquetWriter.write, []

    def write_until_full(self, batch):
        written.append(batch)
        if len(written) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, batch)

    monkeypatch.setattr(parts.ParquetWriter, "write", write_until_full)
    with pytest.raises(OSError, match="No space left"):
        encode(corpus, tmp_path / out, overwrite=True)
    monkeypatch.setattr(parts.ParquetWriter, "write", write)
    assert content(tmp_path / out) == expected(3)
    assert names(tmp_path / f"{out}.partial") == [
        *["part-00000.json", "part-00000.parquet", "part-00001.json", "part-00001.parquet", "plan.json"],
    ]
    encode(corpus, tmp_path / out, Letters(tmp_path / "log"), overwrite=True)
    assert (tmp_path / "log").read_text().splitlines() == [text_of(i) for i in range(8, 22)]
    assert content(tmp_path / out) == expected()


def test_encoding_resumes_after_the_disk_was_full_at_the_end(tmp_path, corpus, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(write, "convert", full)
        with pytest.raises(OSError, match="No space left"):
            encode(corpus, tmp_path / "v.parquet")
    assert names(tmp_path) == ["docs.jsonl", "v.parquet.partial"]
    encode(corpus, tmp_path / "v.parquet", Letters(tmp_path / "log"))
    assert not (tmp_path / "log").exists()  # no document was encoded again
    assert content(tmp_path / "v.parquet") == expected()


@pytest.mark.parametrize("limit", [200, 3000])
def test_a_file_size_limit_is_reported_in_one_line(tmp_path, limit):
    pytest.importorskip("resource")
    write_corpus(tmp_path / "docs.jsonl", 800)
    command = [
        sys.executable,
        "-c",
        f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "from lsr.cli import main; main(['encode', 'docs.jsonl', '--out', 'v.parquet'])",
    ]
    child = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (child.returncode, child.stdout) == (1, "")
    assert "Traceback" not in child.stderr
    assert child.stderr.startswith("lsr: ")
    assert "beyond the allowed size" in child.stderr
    assert len(child.stderr.splitlines()) == 1
    assert names(tmp_path) == ["docs.jsonl"]


# --- conversion


@pytest.mark.parametrize("name", ["w.parquet", "w.jsonl", "w.jsonl.gz"])
@pytest.mark.parametrize("source", OUTPUTS)
def test_vectors_are_converted(tmp_path, corpus, source, name):
    encode(corpus, tmp_path / source)
    convert(read_vectors(tmp_path / source, vocabulary=Letters().vocabulary), tmp_path / name)
    assert [(i, v) for i, _, v in content(tmp_path / name)] == [(i, v) for i, _, v in expected()]
    vectors = read_vectors(tmp_path / name)
    assert len(list(vectors)) == 1
    assert vectors.vocabulary


def test_the_anserini_format_has_integer_weights(tmp_path, corpus):
    encode(corpus, tmp_path / "v.jsonl.gz", anserini=True)
    first = json.loads(gzip.decompress((tmp_path / "v.jsonl.gz").read_bytes()).splitlines()[0])
    assert first == {"id": "d0", "contents": text_of(0), "vector": {"a": 100, "e": 100, "t": 200, "x": 100}}


def test_invalid_conversions_are_refused(tmp_path):
    save_matrix(tmp_path / "bare.parquet", SparseMatrix.from_dicts([{1: 0.5}], 3))
    bare = read_vectors(tmp_path / "bare.parquet")
    with pytest.raises(DataError, match="JSONL needs the tokens of the terms"):
        convert(bare, tmp_path / "v.jsonl")
    for name in ("folder", "v.tsv"):
        with pytest.raises(DataError, match=r"written to \.parquet, \.jsonl"):
            convert(bare, tmp_path / name)
    assert names(tmp_path) == ["bare.parquet"]


if __name__ == "__main__":  # runs in the process that `killed` starts
    source, target, log, at, overwrite = sys.argv[1:]
    encoding.CHUNK = parts.PART = 4
    encode(Path(source), Path(target), Letters(log, at), overwrite=bool(overwrite))
