"""With any damaged file, a search, a read, a merge or an export gives a result or raises CorruptIndex.

The process never crashes, and no other error is raised, even if the file is too large to be hashed on opening.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from lsr.errors import CorruptIndex, IndexFormatError, IndexLocked, LsrError
from lsr.index.cli.export import index_vectors
from lsr.index.distributed.reshard import reshard_index
from lsr.index.hybrid.dense import DenseVectors
from lsr.index.hybrid.dense_files import RECORD
from lsr.index.index import Index
from lsr.index.sharding.manifest import SHARDS
from lsr.index.storage import manifest
from lsr.index.storage.manifest import MANIFEST
from lsr.io.convert import convert

SECONDS = float(os.environ.get("LSR_LONG_TESTS", "0.5"))


def documents(n, first=0):
    return [
        {"_id": f"d{i}", "text": f"wing flow number{i % 7} word{i % 90}", "title": "a wing", "n": i,
         "tags": ["a", "b"][: i % 3]} for i in range(first, first + n)
    ]  # fmt: skip


@pytest.fixture(scope="module", params=["clusters", "float32"])
def indexed(request, tmp_path_factory):
    """An index of two segments with all features: deletions, reordered documents, clusters, dense vectors."""
    path = tmp_path_factory.mktemp(request.param) / "idx"
    how = {"clusters": True} if request.param == "clusters" else {"impacts": "float32"}
    index = Index.build(path, documents(700), encoder="bm25", **how)
    index.delete("d3")
    index.add(documents(90, 700))
    index.commit(merge=False)
    rng = np.random.default_rng(0)
    dense = index.contents()
    DenseVectors.build(path.parent / "dense", dense, lambda texts: rng.random((len(texts), 8)), graph=True)
    return path


# Damages one file after another in different ways, and uses the index. If the process crashes, the last line of stdout
# names the damaged file, the kind of damage and the use.
FUZZ = """
    import json, random, shutil, sys, time, warnings
    from pathlib import Path
    import numpy as np
    import lsr.index.hybrid.dense_files, lsr.index.storage.manifest
    from lsr.io.convert import convert
    from lsr.errors import LsrError
    from lsr.index.hybrid.dense import DenseVectors
    from lsr.index.cli.export import index_vectors
    from lsr.index.index import Index

    path, name, seconds, seed = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
    # No file is hashed on opening.
    lsr.index.storage.manifest.CHECKED_AT_OPEN = lsr.index.hybrid.dense_files.CHECKED_AT_OPEN = 0
    rng = random.Random(seed)

    def flips(content):
        for _ in range(rng.choice([1, 4, 40])):
            content[rng.randrange(len(content))] = rng.randrange(256)

    def page(content):
        size = min(rng.choice([64, 512, 4096]), len(content))
        at = rng.randrange(len(content) - size + 1) // 64 * 64
        content[at : at + size] = rng.choice([rng.randbytes(size), bytes(size), bytes([255]) * size])

    def numbers(content):
        for _ in range(rng.choice([1, 8])):
            width = rng.choice([2, 4, 8])
            if len(content) > width:
                at = rng.randrange(len(content) // width) * width
                largest = 1 << 8 * width
                value = rng.choice([largest - 1, largest // 2, 1 << 4 * width, rng.randrange(largest)])
                content[at : at + width] = value.to_bytes(width, "little")

    def search(index):
        docs = []
        for algorithm in ("exhaustive", "blocks", "maxscore", "clusters"):
            if algorithm != "clusters" or clustered:
                for k in (5, 200):
                    found = index.search("wing number3 word7", k, algorithm=algorithm)
                    [(hit.id, hit.title, hit.text, hit.metadata) for hit in found]
                    docs += [hit.doc for hit in found[:2]]
        index.document_vectors(docs)

    def look(index):
        index.search("flow number2", 30, where={"n": [1, 2, 3, 4], "tags": "a"})
        index.search("flow", 30, where={"n": {">": 20}})
        list(index.documents.all_ids())
        index.explain("wing", "d7"), index.documents.find("d713")
        index.shared.vocabulary
        list(index.contents())

    def read(index):
        for batch in index_vectors(index):
            batch.ids

    def change(index):
        index.update([{"_id": "d5", "text": "wing again"}])
        index.delete(["d9", "d701"])
        index.commit(merge=False)
        index.merge()

    def dense(vectors):
        for exact in (True, False):
            vectors.search(np.ones(8), 9, exact=exact)
        vectors.search(np.ones(8), 200, exact=True)

    root = path if name != "dense" else path.parent / "dense"
    clustered = any(root.rglob("clusters.arrow"))
    files = sorted(p.relative_to(root) for p in root.rglob("*") if p.is_file() and p.suffix in (".arrow", ".usearch"))
    files += sorted(p.relative_to(root) for p in root.rglob("encoder/*"))
    copy, refused, tried, begun = root.parent / "damaged", 0, 0, time.monotonic()
    rounds = 0
    while tried < 5 or time.monotonic() - begun < seconds:
        for file in files:
            rounds += 1
            if rounds > len(files) and tried >= 5 and time.monotonic() - begun > seconds:
                break
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(root, copy)
            content = bytearray((copy / file).read_bytes())
            how, use = rng.choice([flips, page, numbers]), rng.choice([search, look, read, change])
            if not content:
                continue
            how(content)
            (copy / file).unlink()
            (copy / file).write_bytes(content)
            use = dense if name == "dense" else use
            print(rounds, file, how.__name__, use.__name__, flush=True)
            tried += 1
            try:
                if use is dense:
                    dense(DenseVectors(copy, None))
                else:
                    with Index.open(copy) as index:
                        use(index)
            except LsrError:
                refused += 1
    print(json.dumps({"tried": tried, "refused": refused}))
"""


@pytest.mark.parametrize("name", ["index", "dense"])
def test_damaged_files_give_results_or_an_lsr_error(indexed, name, python):
    if name == "dense":
        pytest.importorskip("usearch", reason="the extra ann is not installed")
        if "float32" in str(indexed):
            pytest.skip("both indexes have the same dense vectors, so one test is enough")
    code, out, error = python(FUZZ, indexed, name, SECONDS, 0)
    lines = out.splitlines()
    assert code == 0, (code, lines[-1:], error)
    counted = json.loads(lines[-1])
    assert counted["tried"] >= 5
    assert counted["refused"] >= counted["tried"] // 4


# --- rewriting damaged files ------------------------------------------------------------------------------------------


def rewrite(path, out, how):
    """Rewrite an index by merging, resharding or exporting it, and return the path of the result."""
    if how == "merge":
        Index.open(path).merge()
        return path
    if how == "background":
        with Index.open(path) as index:
            index.merge(background=True)
        return path
    if how == "reshard":
        reshard_index(path, out, 2)
        return out
    convert(index_vectors(Index.open(path)), out.with_suffix(".parquet"))
    return Index.build(out, out.with_suffix(".parquet")).path


@pytest.mark.parametrize("how", ["merge", "background", "reshard", "export"])
def test_rewriting_refuses_damaged_files(tmp_path, monkeypatch, how):
    monkeypatch.setattr(manifest, "CHECKED_AT_OPEN", 0)  # no file is hashed on opening
    index = Index.build(tmp_path / "idx", documents(60), encoder="bm25")
    index.add(documents(30, 60))
    index.delete("d3")
    index.commit(merge=False)
    shutil.copytree(index.path, tmp_path / "whole")
    expected = answers(rewrite(tmp_path / "whole", tmp_path / "whole-out", how))
    told, rng = [], random.Random(0)
    for number, file in enumerate(sorted(p.relative_to(index.path) for p in index.path.rglob("*") if p.is_file())):
        if file.name in (MANIFEST, ".lock", ".merging"):
            continue
        for round_ in range(2):
            copy, out = tmp_path / f"copy-{number}-{round_}", tmp_path / f"out-{number}-{round_}"
            shutil.copytree(index.path, copy)
            content = bytearray((copy / file).read_bytes())
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
            (copy / file).write_bytes(content)
            try:
                written = rewrite(copy, out, how)
            except CorruptIndex as error:
                told.append((file.name, str(error)))
                continue
            # Only damage to derived files is harmless, because a rewrite computes these files again.
            assert file.stem in ("maxima", "skips", "keys", "columns")
            assert Index.open(written).verify() == []
            assert answers(written) == expected
    assert len(told) >= 20
    assert all(name in error and "move a copy into place" in error for name, error in told)


def answers(path):
    index = Index.open(path)
    return [[(hit.id, hit.score, hit.metadata) for hit in index.search(query, 20, where={"n": {">": 2}})]
            for query in ("wing number3", "word7 flow", "word40")]  # fmt: skip


# --- manifests written by an attacker ---------------------------------------------------------------------------------

WEIRD = [
    None, True, -1, 0, 1, 2**31, 2**63, 10**400, 1.5, 1e308, float("nan"), float("inf"), "", "text", "\ud800", "../x",
    [], {}, [[]], {"a": []},
]  # fmt: skip


def leaves(value, at=()):
    """The paths of all values within a JSON value."""
    yield at
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from leaves(value[key], (*at, key))


def changed(value, at, new):
    """A copy of a JSON value, with a new value at a path."""
    if not at:
        return new
    copy = value.copy()
    copy[at[0]] = changed(value[at[0]], at[1:], new)
    return copy


def sealed(values):
    """Like `manifest.sealed`, but accepts any JSON values."""
    values.pop("sha256", None)
    body = json.dumps(values, indent=1).encode()
    return json.dumps({**values, "sha256": hashlib.sha256(body).hexdigest()}, indent=1).encode() + b"\n"


@pytest.mark.parametrize("name", [MANIFEST, SHARDS, RECORD])
def test_any_manifest_gives_results_or_an_lsr_error(tmp_path, name):
    index = Index.build(tmp_path / "idx", documents(20), encoder="bm25")
    index.delete("d3")
    index.commit()
    if name == MANIFEST:
        file, use = index.path / name, lambda: Index.open(index.path).search("wing")
    elif name == SHARDS:
        reshard_index(index.path, tmp_path / "shards", 2)
        file, use = tmp_path / "shards" / name, lambda: Index.open(tmp_path / "shards").search("wing")
    else:
        DenseVectors.build(tmp_path / "dense", index.contents(), lambda texts: np.ones((len(texts), 3)))
        file = tmp_path / "dense" / name
        use = lambda: DenseVectors(tmp_path / "dense", None).search([1.0, 1.0, 1.0])  # noqa: E731
    values = json.loads(file.read_bytes())
    tries = [(at, new) for at in leaves(values) for new in WEIRD if at]
    random.Random(0).shuffle(tries)
    refused, begun = 0, time.monotonic()
    for number, (at, new) in enumerate(tries):
        if number > 40 and time.monotonic() - begun > SECONDS:
            break
        other = changed(values, at, new)
        file.write_bytes(json.dumps(other).encode() if name == RECORD else sealed(other))
        try:
            use()
        except LsrError:
            refused += 1
        except Exception as error:
            raise AssertionError(f"{at} = {new!r}") from error
    assert refused > 20


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b'{"format":' + b"[" * 100_000, b"9" * 10_000, b'{"format": 1e999}']
)
@pytest.mark.parametrize("name", [MANIFEST, SHARDS, RECORD])
def test_json_beyond_the_limits_of_python_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(IndexFormatError):
        DenseVectors(tmp_path, None) if name == RECORD else Index.open(tmp_path)


# --- errors that are not damage ---------------------------------------------------------------------------------------

FEW_FILES = """
    import errno, resource, sys
    from lsr.errors import LsrError
    from lsr.index.index import Index

    Index.open(sys.argv[1]).search("wing")
    held = []
    try:
        while True:
            held.append(open("/dev/null"))
            if len(held) == 1:
                resource.setrlimit(resource.RLIMIT_NOFILE, (held[0].fileno() + 30,) * 2)
    except OSError:
        pass
    for free in range(4):
        for skip_damaged in (False, True):
            try:
                found = Index.open(sys.argv[1], skip_damaged=skip_damaged)
                print(len(found), found.damaged)
            except OSError as error:
                assert not isinstance(error, LsrError)
                print(errno.errorcode[error.errno])
        held.pop()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
def test_too_many_open_files_are_not_reported_as_damage(tmp_path, python):
    Index.build(tmp_path / "idx", documents(20), encoder="bm25")
    code, out, error = python(FEW_FILES, tmp_path / "idx")
    assert code == 0, error
    assert set(out.splitlines()) <= {"EMFILE", "20 []"}
    assert "EMFILE" in out


LITTLE_MEMORY = """
    import resource, sys
    from lsr.errors import LsrError
    from lsr.index.index import Index

    index = Index.open(sys.argv[1])
    [hit.text for hit in index.search("wing")]
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    for room in range(0, 3_000_000, 150_000):
        resource.setrlimit(resource.RLIMIT_AS, (used + room, hard))
        try:
            index = Index.open(sys.argv[1])
            [hit.text for hit in index.search("wing")]
            said = "found"
        except MemoryError:
            said = "memory"
        except OSError as error:
            assert not isinstance(error, LsrError), error
            said = "memory"
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
        print(said)
"""


@pytest.mark.parametrize(
    "lack",
    [
        MemoryError(),
        pa.ArrowMemoryError("malloc"),
        OSError("Memory mapping file failed: Cannot allocate memory"),
        pa.ArrowException("Unknown error: Failed to launch worker thread: Resource temporarily unavailable"),
    ],
    ids=["Python", "Arrow", "mmap", "thread"],
)
def test_lack_of_memory_at_any_step_is_not_reported_as_damage(tmp_path, monkeypatch, lack):
    """For every n, the n-th call that allocates memory fails."""
    path = Index.build(tmp_path / "idx", documents(30), encoder="bm25").path
    n, failed = 0, True
    while failed:
        n, failed, calls = n + 1, False, itertools.count(1)

        def failing(function, number=n, calls=calls):
            def call(*args, **kwargs):
                nonlocal failed
                if next(calls) == number:
                    failed = True
                    raise lack
                return function(*args, **kwargs)

            return call

        with monkeypatch.context() as patch:
            patch.setattr(pa, "memory_map", failing(pa.memory_map))
            if isinstance(lack, MemoryError):
                for owner, name in ((pa.ipc, "open_file"), (json, "loads"), (np, "frombuffer"), (Path, "read_bytes")):
                    patch.setattr(owner, name, failing(getattr(owner, name)))
            with suppress(MemoryError, OSError):  # another error, such as CorruptIndex, fails the test
                found = [hit.text for hit in Index.open(path).search("wing", where={"n": {">": 3}})]
    assert n > 5
    assert len(found) == 10


@pytest.mark.skipif(not os.environ.get("LSR_LONG_TESTS"), reason="depends on chance: set LSR_LONG_TESTS")
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs /proc")
def test_lack_of_memory_is_not_reported_as_damage(tmp_path, python):
    Index.build(tmp_path / "idx", documents(3000), encoder="bm25")
    code, out, error = python(LITTLE_MEMORY, tmp_path / "idx")
    assert code == 0, (out, error)
    assert set(out.split()) <= {"memory", "found"}


@pytest.mark.parametrize("name", [b"caf\xe9", b"x" * 300])
def test_impossible_file_names_are_refused(tmp_path, name):
    path = os.path.join(str(tmp_path), os.fsdecode(name))
    with pytest.raises(LsrError, match="name of the folder"):
        Index.build(path, documents(3), encoder="bm25")
    with pytest.raises(LsrError, match="name of the folder"):
        Index.open(path)
    with pytest.raises(LsrError, match="name of the folder"):
        reshard_index(Index.build(tmp_path / "idx", documents(3), encoder="bm25").path, path, 2)


@pytest.mark.parametrize("change", ["commit", "delete", "add", "rollback", "merge"])
def test_an_iterator_of_documents_cannot_change_the_index(tmp_path, change):
    index = Index.build(tmp_path / "idx", documents(5), encoder="bm25")
    changes = {
        "commit": index.commit, "delete": lambda: index.delete("d1"), "add": lambda: index.add(documents(1, 90)),
        "rollback": index.rollback, "merge": index.merge,
    }  # fmt: skip

    def source():
        yield from documents(3, 10)
        changes[change]()
        yield from documents(3, 20)

    with pytest.raises(IndexLocked, match="only yield documents"):
        index.add(source())
    assert not index.pending
    index.add(documents(3, 30))
    index.commit()
    assert sorted(index.documents.all_ids()) == sorted(f"d{i}" for i in [*range(5), 30, 31, 32])
