"""A kill or a full disk leaves either the old or the new index on disk. Damage is detected."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pyarrow as pa
import pytest

from lsr.errors import CorruptIndex, DataError, IndexFormatError, LsrError, OutputError, OutputExists
from lsr.index.index import Index
from lsr.index.storage.arrow_file import write_arrow
from lsr.index.storage.manifest import FORMAT, MANIFEST, read_manifest

DOCUMENTS = [{"_id": f"d{i}", "text": f"wing flow number{i % 5} word{i}"} for i in range(20)]


@pytest.fixture
def path(tmp_path):
    Index.build(tmp_path / "idx", DOCUMENTS, encoder="bm25")
    return tmp_path / "idx"


def answers(path):
    index = Index.open(path)
    assert index.verify() == []
    return [(hit.id, hit.score, hit.text) for hit in index.search("wing number3", 5)]


def contents(path):
    return {
        p.relative_to(path).as_posix(): p.read_bytes() for p in path.rglob("*") if p.is_file() and p.name != ".lock"
    }


def data_folder(path):
    return path / json.loads((path / MANIFEST).read_bytes())["segments"][0]["name"]


def kinds(path):
    """Names of the files and folders of an index, without their random parts."""
    return sorted(p.name.split("-")[0] for p in path.iterdir() if p.name != ".lock")


# --- kills ------------------------------------------------------------------------------------------------------------

# Replaces an index by building a new one.
KILLED_EVERYWHERE = """
    from lsr.index.index import Index

    path, kept = Path(sys.argv[1]), Path(sys.argv[2])
    new = [{"_id": f"new{i}", "text": f"wing flow number{i % 3}"} for i in range(9)]

    def build():
        Index.build(path, new, encoder="bm25", overwrite=True)

    def look():
        index = Index.open(path)
        assert index.verify() == []
        return list(index.documents.all_ids())[:3]

    def then():
        build()
        assert [hit.id for hit in Index.open(path).search("wing number1", 3)] == ["new1", "new4", "new7"]

    build()  # compiles the kernels for the children
    print(json.dumps(die_everywhere(path, kept, build, look, 10, then)))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_kill_at_any_step_leaves_the_old_or_the_new_index(path, tmp_path, python):
    path.rename(tmp_path / "kept")
    code, out, error = python(KILLED_EVERYWHERE, path, tmp_path / "kept", dying=True)
    assert code == 0, error
    old, new = ["d0", "d1", "d2"], ["new0", "new1", "new2"]
    outcomes = json.loads(out)
    switched = outcomes.index(new)
    assert switched > 15
    assert outcomes == [old] * switched + [new] * (len(outcomes) - switched)


def test_leftovers_of_a_killed_first_build_are_removed(tmp_path, python):
    code = """
        import os, signal, sys
        from lsr.index.index import Index
        def documents():
            yield {"_id": "a", "text": "one"}
            os.kill(os.getpid(), signal.SIGKILL)
        Index.build(sys.argv[1], documents(), encoder="bm25")
    """
    assert python(code, tmp_path / "idx")[0] == -9
    assert any((tmp_path / "idx").iterdir())
    with pytest.raises(IndexFormatError, match="not an index"):
        Index.open(tmp_path / "idx")
    assert len(Index.build(tmp_path / "idx", DOCUMENTS, encoder="bm25")) == 20
    assert kinds(tmp_path / "idx") == [MANIFEST, "segment", "shared"]


# --- damage -----------------------------------------------------------------------------------------------------------


def flip(file, at, bits=0x01):
    content = bytearray(file.read_bytes())
    content[at] ^= bits
    file.write_bytes(content)


def test_any_changed_byte_of_the_manifest_is_detected(path):
    whole = (path / MANIFEST).read_bytes()
    for at in range(len(whole)):
        flip(path / MANIFEST, at, 0x80 if at % 2 else 0x01)
        with pytest.raises(IndexFormatError, match=str(path)):
            read_manifest(path)
        (path / MANIFEST).write_bytes(whole)
    assert read_manifest(path)


def test_any_changed_byte_of_a_file_is_detected(path):
    index = Index.open(path)
    rng = np.random.default_rng(1)
    for file in (p for p in data_folder(path).rglob("*") if p.is_file()):
        whole = file.read_bytes()
        for at in {0, len(whole) - 1, *rng.integers(0, len(whole), 40).tolist()}:
            flip(file, at, int(rng.integers(1, 256)))
            (message,) = index.verify()
            assert str(file) in message
            with pytest.raises(CorruptIndex, match=file.name):
                Index.open(path)
            file.write_bytes(whole)
    assert index.verify() == []


@pytest.mark.parametrize("cut", [1, 100, "all", "missing"])
def test_truncated_or_missing_files_are_detected_on_opening(path, cut):
    for file in (p for p in data_folder(path).rglob("*") if p.is_file()):
        whole = file.read_bytes()
        if cut == "missing":
            file.unlink()
        else:
            file.write_bytes(b"" if cut == "all" else whole[:-cut])
        with pytest.raises(CorruptIndex, match=file.name):
            Index.open(path)
        file.write_bytes(whole)
    answers(path)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"7", b"\xff\xfe", b"{}", b'{"format": "1"}', b'{"format": 4}']
)
def test_an_invalid_manifest_is_refused(path, content):
    (path / MANIFEST).write_bytes(content)
    with pytest.raises(CorruptIndex, match=MANIFEST):
        Index.open(path)


def test_the_error_says_why_a_folder_is_not_an_index(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "killed" / "segment-0123456789abcdef").mkdir(parents=True)
    for name, message in (
        ("absent", "no such index"),
        ("file", "this is a file, not an index; lsr index file --out idx"),
        ("empty", "not an index: it has no manifest.json; check the path"),
        ("killed", "its build was interrupted or still runs: build it again"),
    ):
        with pytest.raises(IndexFormatError, match=message):
            Index.open(tmp_path / name)


def forge(path, change):
    """Change the manifest and correct its checksum, as an attacker would."""
    manifest = json.loads((path / MANIFEST).read_bytes())
    del manifest["sha256"]
    change(manifest)
    for name, entry in manifest["files"].items():
        file = path / name
        if file.is_file():
            entry |= {"bytes": file.stat().st_size, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    body = json.dumps(manifest, indent=1).encode()
    manifest["sha256"] = hashlib.sha256(body).hexdigest()
    (path / MANIFEST).write_bytes(json.dumps(manifest, indent=1).encode() + b"\n")


@pytest.mark.parametrize(
    ("version", "what_to_do"), [(FORMAT + 1, "pip install -U lsr-search"), (2, "build the index again")]
)
def test_the_error_about_another_format_says_what_to_do(path, version, what_to_do):
    forge(path, lambda manifest: manifest.update(format=version, lsr="9.0"))
    with pytest.raises(IndexFormatError, match=rf"format {version}, written by lsr 9.0; .*{what_to_do}"):
        Index.open(path)
    before = contents(path)
    with pytest.raises(OutputExists):
        Index.build(path, DOCUMENTS, encoder="bm25")
    assert contents(path) == before


@pytest.mark.parametrize("name", ["../x", "/etc", "segment-1234", ".", "", "segment-0123456789abcdef/..", 7, None])
@pytest.mark.parametrize("key", ["shared", "name", "alive"])
def test_folder_names_that_lead_out_of_the_index_are_refused(path, key, name):
    if name is None and key != "name":
        pytest.skip("this value may be null")
    place = (lambda manifest: manifest) if key == "shared" else (lambda manifest: manifest["segments"][0])
    forge(path, lambda manifest: place(manifest).update({key: name}))
    with pytest.raises(CorruptIndex, match=MANIFEST):
        Index.open(path)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/b", "encoder/../x", "..", ".hidden", "", "encoder/"])
@pytest.mark.parametrize("folder", ["", "segment-0123456789abcdef/"])
def test_file_names_that_lead_out_of_the_index_are_refused(path, folder, name):
    name = folder + name
    forge(path, lambda manifest: manifest["files"].update({name: {"bytes": 1, "sha256": ""}}))
    with pytest.raises(CorruptIndex, match=MANIFEST):
        Index.open(path)


@pytest.mark.parametrize(
    "key", ["shared", "files", "fingerprint", "segments", "impacts", "scale", "settings", "has_encoder"]
)
@pytest.mark.parametrize("value", ["gone", None, "text", -1])
def test_a_manifest_with_impossible_values_is_refused(path, key, value):
    if (key, value) == ("fingerprint", "text"):
        value = "gone"
    manifest = json.loads((path / MANIFEST).read_bytes())
    del manifest["sha256"]
    if value == "gone":
        del manifest[key]
    else:
        manifest[key] = value
    body = json.dumps(manifest, indent=1).encode()
    manifest["sha256"] = hashlib.sha256(body).hexdigest()
    (path / MANIFEST).write_bytes(json.dumps(manifest, indent=1).encode() + b"\n")
    with pytest.raises(CorruptIndex, match=MANIFEST):
        Index.open(path)


SEARCH = """
    import sys
    from lsr.errors import LsrError
    from lsr.index.index import Index
    for path in sys.argv[1:]:
        print(path, flush=True)
        try:
            index = Index.open(path)
            for algorithm in ("exhaustive", "blocks"):
                index.search("wing flow number3 word7", 30, algorithm=algorithm)
            index.searcher.impacts_of(7, index.searcher.segments[0].terms)
        except (LsrError, IndexError):
            pass
"""


FORGERIES = {
    "huge": lambda values: np.full(len(values), 2**31 - 1),
    "falling": lambda values: values[::-1],
    "negative": lambda values: np.full(len(values), -(2**31)),
    "random": lambda values: np.random.default_rng(0).integers(-(2**31), 2**31, len(values)),
    "beyond": lambda values: np.where(np.arange(len(values)) % 2, 2**61, -(2**63)),
    "wild": lambda values: np.where(np.arange(len(values)) % 2, 2**31 - 1, 0),
}


FORGED = (
    ("lists", "window"), ("lists", "begin"), ("lists", "size"), ("lists", "row"), ("lists", "dense"), ("terms", "end"),
    ("terms", "peak"), ("skips", "skip"), ("postings", "doc"), ("maxima", "maximum"), ("gaps", "gap"),
)  # fmt: skip


def test_forged_files_cannot_crash_the_process(path, python):
    forgeries = []
    for file, column in FORGED:
        for forgery, forge_values in FORGERIES.items():
            forged = path.parent / f"{file}-{column}-{forgery}"
            shutil.copytree(path, forged)
            name = data_folder(forged) / f"{file}.arrow"
            with pa.ipc.open_file(str(name)) as reader:
                table = reader.read_all()
            columns = {c: table.column(c).to_numpy() for c in table.column_names}
            columns[column] = forge_values(columns[column].astype(np.int64)).astype(columns[column].dtype)
            write_arrow(name, columns)
            forge(forged, lambda manifest: None)
            forgeries.append(forged)
    code, out, error = python(SEARCH, *forgeries)
    assert code == 0, (out.splitlines()[-1:], error)
    assert len(out.splitlines()) == len(forgeries)


FLIPPED = """
    import random, sys
    from pathlib import Path
    import lsr.index.storage.manifest
    from lsr.errors import CorruptIndex
    from lsr.index.index import Index
    lsr.index.storage.manifest.CHECKED_AT_OPEN = 0  # no file is hashed on opening
    path, name = Path(sys.argv[1]), sys.argv[2]
    (file,) = path.glob(f"segment-*/{name}.arrow")
    whole, rng, refused = file.read_bytes(), random.Random(0), 0
    for _ in range(60):
        content = bytearray(whole)
        for _ in range(rng.choice([1, 20])):
            content[rng.randrange(len(content))] = rng.randrange(256)
        file.unlink()
        file.write_bytes(content)
        try:
            index = Index.open(path)
            for hit in [*index.search("wing", 30), *index.search("wing", 5, where={"n": [1, 2], "tags": "a"})]:
                hit.id, hit.text
            list(index.documents.all_ids())
            index.explain("wing", "d7")
        except CorruptIndex as error:
            assert name in str(error), error
            refused += 1
        except ValueError:  # a changed byte may make an id or metadata invalid
            pass
    assert refused > 8, refused
"""


@pytest.mark.parametrize("name", ["ids", "texts", "columns", "places"])
def test_changed_bytes_of_large_files_cannot_crash_the_process(tmp_path, python, name):
    documents = [
        {"_id": f"d{i}", "text": f"wing number{i % 7}", "n": i, "tags": ["a", "b"][: i % 3]} for i in range(90)
    ]
    index = Index.build(tmp_path / "idx", documents, encoder="bm25", order="bisection")
    index.delete("d3")
    index.commit()
    code, _, error = python(FLIPPED, index.path, name)
    assert code == 0, error


def test_forged_windows_are_refused(path):
    for n_docs in (-1, 65_537, 2**62):
        write_arrow(
            data_folder(path) / "windows.arrow", {"first_doc": np.zeros(1, np.int64), "n_docs": np.array([n_docs])}
        )
        forge(path, lambda manifest: None)
        with pytest.raises(CorruptIndex, match=r"windows\.arrow"):
            Index.open(path)


def test_files_with_unexpected_columns_are_refused(path):
    for name in ("postings", "dense", "gaps", "maxima", "skips", "lists", "windows", "terms", "ids", "keys", "texts"):
        file = data_folder(path) / f"{name}.arrow"
        whole = file.read_bytes()
        write_arrow(file, {"other": np.zeros(3)})
        forge(path, lambda manifest: None)
        with pytest.raises(CorruptIndex, match=file.name):
            Index.open(path)
        file.write_bytes(whole)
    forge(path, lambda manifest: None)
    answers(path)


# --- refused builds ---------------------------------------------------------------------------------------------------


def test_an_existing_index_or_file_is_kept(path, tmp_path):
    before = contents(path)
    with pytest.raises(OutputExists, match="overwrite"):
        Index.build(path, DOCUMENTS, encoder="bm25")
    assert contents(path) == before
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputExists, match="file"):
        Index.build(tmp_path / "file", DOCUMENTS, encoder="bm25", overwrite=True)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("name", ["notes.txt", "data-20240101.csv", "data-20240101/part.csv", "data-12345678.old/x"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_with_other_files_is_refused(tmp_path, name, overwrite):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(OutputExists, match="something other than an index"):
        Index.build(tmp_path, DOCUMENTS, encoder="bm25", overwrite=overwrite)
    assert contents(tmp_path) == {name: b"mine"}


def test_other_files_beside_an_index_survive_an_overwrite(path):
    (path / "data-20240101").mkdir()
    (path / "data-20240101" / "notes.txt").write_text("mine")
    Index.build(path, DOCUMENTS[:3], encoder="bm25", overwrite=True)
    assert (path / "data-20240101" / "notes.txt").read_text() == "mine"


@pytest.mark.usefixtures("impatient")
def test_a_second_writer_is_refused(path):
    before = answers(path)
    code = """
        import sys
        from pathlib import Path
        from lsr.index.storage.transaction import Transaction
        with Transaction(Path(sys.argv[1])):
            print("held", flush=True)
            sys.stdin.read()
    """
    other = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with other:
        assert other.stdout.readline() == b"held\n"
        for change in (
            lambda: Index.build(path, DOCUMENTS, encoder="bm25", overwrite=True),
            lambda: Index.open(path).delete("d1"),
        ):
            with pytest.raises(OutputError, match=rf"another process is writing.*process {other.pid} on .* since 20"):
                change()
        assert answers(path) == before
        other.kill()
    Index.build(path, DOCUMENTS[:2], encoder="bm25", overwrite=True)


@pytest.mark.parametrize("impacts", ["uint8", "float32"])
def test_a_failed_build_leaves_nothing_behind(tmp_path, path, impacts):
    before = contents(path)
    for target in (tmp_path / "new", path):
        with pytest.raises(DataError, match="occurs twice"):
            Index.build(target, DOCUMENTS * 2, encoder="bm25", overwrite=True, impacts=impacts)
    assert not (tmp_path / "new").exists()
    assert contents(path) == before
    assert kinds(path) == [MANIFEST, "segment", "shared"]


# The process builds an index once to import everything. Then its child processes build indexes with the given limits
# of the file size.
BUILD_LIMITED = """
    import contextlib, io, os, resource, sys
    from lsr.cli import main

    def build(target):
        main(["index", sys.argv[1], "--out", target, "--overwrite", "--encoder", "bm25"])

    with contextlib.suppress(SystemExit), contextlib.redirect_stderr(io.StringIO()):
        build(sys.argv[2])
    for at in range(3, len(sys.argv), 2):
        pid = os.fork()
        if pid == 0:
            limit = int(sys.argv[at + 1])
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            build(sys.argv[at])
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and resource limits")
def test_a_full_disk_gives_a_one_line_error_and_leaves_the_index_unchanged(path, tmp_path, python):
    source = tmp_path / "docs.jsonl"
    rng = np.random.default_rng(0)
    source.write_text(
        "".join(
            json.dumps({"_id": str(i), "text": " ".join(map(str, rng.integers(10, 10**9, 40)))}) + "\n"
            for i in range(500)
        )
    )
    before = contents(path)
    runs = [(target, limit) for limit in (40_000, 600, 1) for target in (path, tmp_path / "new")]
    code, out, error = python(BUILD_LIMITED, source, tmp_path / "first", *itertools.chain(*runs))
    assert (code, out.split()) == (0, ["1"] * len(runs)), error
    lines = error.splitlines()
    assert len(lines) == len(runs)
    assert all(str(target) in line for (target, _), line in zip(runs, lines, strict=True))
    assert contents(path) == before
    answers(path)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("place", ["file/idx", "/proc/idx", "/sys/idx", "/dev/null/idx"])
def test_the_error_names_an_unwritable_folder(tmp_path, place):
    (tmp_path / "file").write_text("in the way")
    target = tmp_path / place
    if not target.parent.exists():
        pytest.skip(f"this system has no {target.parent}")
    with pytest.raises(LsrError, match=f"^{target}: ") as error:
        Index.build(target, DOCUMENTS, encoder="bm25")
    assert "\n" not in str(error.value)


def test_a_leftover_lock_file_is_ignored(tmp_path):
    (tmp_path / "idx").mkdir()
    (tmp_path / "idx" / ".lock").touch()
    Index.build(tmp_path / "idx", DOCUMENTS, encoder="bm25")
    answers(tmp_path / "idx")


def test_a_damaged_index_can_be_replaced(path):
    (path / MANIFEST).write_bytes(b"{")
    Index.build(path, DOCUMENTS, encoder="bm25", overwrite=True)
    answers(path)
    assert kinds(path) == [MANIFEST, "segment", "shared"]
