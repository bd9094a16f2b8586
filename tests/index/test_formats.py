"""Stored indexes of formats 3 and 4 can be read and changed; other formats are refused with advice.

    python tests/index/test_formats.py FOLDER      makes an index like tests/index/format-4

When the format changes, keep these folders and add a new folder.
"""

from __future__ import annotations

import itertools
import json
import secrets
import shutil
import sys
from pathlib import Path
from unittest import mock

import pytest

import lsr.data
from lsr.encode import model_files
from lsr.encode.bm25_fixed import FixedBM25Encoder
from lsr.encode.passages import Passages
from lsr.errors import EncoderMismatch, IndexFormatError
from lsr.index.index import Index
from lsr.index.storage.manifest import FORMAT, MANIFEST

KEPT = [Path(__file__).parent / name for name in ("format-3", "format-4")]
DOCUMENTS = [
    {"_id": "wing", "title": "Wings", "text": "flutter of swept wings at high speed in a wind tunnel", "year": 1955},
    {"_id": "plate", "text": "heat transfer on a flat plate", "year": 1957, "tags": ["heat", "plates"]},
    {"_id": "layer", "title": "Layers", "text": "boundary layer on a flat plate with suction of the air", "year": 1958},
    {"_id": "gone", "text": "this document is deleted", "author": {"name": "nobody"}},
    {"_id": "cone", "text": "supersonic flow over a slender cone", "year": 1961, "draft": True},
    {"_id": "jet", "title": "Jets", "text": "noise of a jet that meets a flat plate", "tags": ["noise"]},
]
QUERIES = ["flat plate", "swept wings", "air flow over a cone", "deleted"]


def make(folder):
    """Make an index with fixed file names. It has two segments of passages with titles and metadata, and a deletion."""
    numbers = itertools.count()
    names = {8: lambda: f"{next(numbers):016x}", 16: lambda: 32 * "0"}  # 8 bytes for file names, 16 for the index id
    with mock.patch.object(secrets, "token_hex", lambda n: names[n]()):
        encoder = FixedBM25Encoder()  # the stored indexes have this encoder
        encoder.fit(document["text"] for document in DOCUMENTS)
        index = Index.build(folder, DOCUMENTS[:4], encoder=encoder, passages=Passages(4, 1))
        index.add(DOCUMENTS[4:])
        index.delete("gone")
        index.commit(merge=False)
    (folder / ".lock").unlink()


def answers(index):
    return [[(hit.id, hit.score, hit.passage, hit.title, hit.text, hit.metadata) for hit in index.search(query)]
            for query in QUERIES]  # fmt: skip


@pytest.fixture(params=KEPT, ids=[path.name for path in KEPT])
def path(request, tmp_path):
    """A copy of a stored index, which the test may change."""
    shutil.copytree(request.param, tmp_path / "idx")
    return tmp_path / "idx"


def test_the_stored_index_has_its_format(path, request):
    manifest = json.loads((path / MANIFEST).read_bytes())
    assert f"format-{manifest['format']}" in request.node.name
    assert KEPT[-1].name == f"format-{FORMAT}"
    assert len(manifest["segments"]) == 2
    assert [segment["alive"] is None for segment in manifest["segments"]] == [False, True]
    assert sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) < 50_000


def test_the_stored_index_can_be_searched_and_verified(path):
    index = Index.open(path)
    assert index.verify() == []
    assert [[hit[0] for hit in found] for found in answers(index)] == [
        ["jet", "plate", "layer"], ["wing"], ["cone", "layer"], [],
    ]  # fmt: skip
    assert [hit.id for hit in index.search("flat plate", where={"year": {">=": 1958}})] == ["layer"]
    assert [hit.id for hit in index.search("flat plate", where={"tags": "noise"})] == ["jet"]
    assert index.search("flat plate")[0].explain().words() == "flat 50%, plate 50%"


def test_the_stored_index_equals_a_new_index(path, tmp_path):
    make(tmp_path / "now")
    assert answers(Index.open(path)) == answers(Index.open(tmp_path / "now"))
    old, new = (json.loads((folder / MANIFEST).read_bytes()) for folder in (path, tmp_path / "now"))
    assert new.keys() - old.keys() <= {"index_id"}  # older indexes have no id
    assert old.keys() <= new.keys()
    if old["format"] < 4:  # segments of format 3 have no gaps.arrow, and don't record their format
        new["files"] = {name: entry for name, entry in new["files"].items() if not name.endswith("/gaps.arrow")}
        assert [segment.pop("format") for segment in new["segments"]] == [FORMAT] * 2
    assert old["files"].keys() == new["files"].keys()
    assert old["segments"] == new["segments"]


def test_the_stored_index_can_be_changed_and_merged(path, tmp_path):
    make(tmp_path / "now")
    found = []
    for folder in (path, tmp_path / "now"):
        index = Index.open(folder)
        assert index.add([{"_id": "new", "text": "a flat plate in the wind tunnel", "year": 1962}]).added == 1
        assert index.update([{"_id": "jet", "text": "a quiet jet"}]).updated == 1
        assert index.delete(["plate", "absent"]).deleted == 1
        index.commit(merge=False)
        ids = [[hit[0] for hit in hits] for hits in answers(index)]
        assert ids == [["new", "layer"], ["wing"], ["cone", "layer"], []]
        index.merge()
        assert (index.n_segments, len(index), index.verify()) == (1, 7, [])
        assert index.snapshot.manifest["segments"][0]["format"] == FORMAT
        found.append(answers(index))
        assert [[hit[0] for hit in hits] for hits in found[-1]] == ids
        assert answers(Index.open(folder)) == found[-1]
    assert found[0] == found[1]


@pytest.mark.parametrize("version", [1, 2])
def test_earlier_formats_are_refused_with_advice_and_can_be_overwritten(tmp_path, lsr_command, version):
    path = tmp_path / "idx"
    (path / "data-0123456789abcdef").mkdir(parents=True)
    (path / "data-0123456789abcdef" / "postings.arrow").write_bytes(b"ARROW1")
    (path / MANIFEST).write_text(json.dumps({"format": version, "lsr": "0.0.9", "data": "data-0123456789abcdef"}))
    before = (path / MANIFEST).read_bytes()
    message = (
        f"{path}: index format {version}, written by lsr 0.0.9; this version reads formats 3 to {FORMAT}: "
        "build the index again"
    )
    with pytest.raises(IndexFormatError, match=message):
        Index.open(path)
    for command in (["search", path, "x"], ["verify", path], ["merge", path], ["delete", path, "x"]):
        ran = lsr_command(*command)
        assert (ran.code, ran.err.count("\n"), message in ran.err) == (1, 1, True)
    assert (path / MANIFEST).read_bytes() == before
    Index.build(path, DOCUMENTS, encoder="bm25", overwrite=True)
    assert len(Index.open(path)) == 6
    assert not (path / "data-0123456789abcdef").exists()


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """Returns a function that installs a built-in encoder under the name lsr-tiny."""
    monkeypatch.setattr(model_files, "_SHIPPED", tmp_path / "shipped")
    (tmp_path / "shipped").mkdir()

    def bring(name):
        shutil.rmtree(tmp_path / "shipped" / "lsr-tiny", ignore_errors=True)
        folder = shutil.copytree(Path(lsr.data.__file__).parent / name, tmp_path / "shipped" / "lsr-tiny")
        config = (folder / "encoder.json").read_text()
        (folder / "encoder.json").write_text(config.replace(f'"model": "{name}"', '"model": "lsr-tiny"'))

    return bring


def test_an_index_of_an_older_encoder_version_opens(tmp_path, shipped, lsr_command):
    shipped("lsr-tiny")
    Index.build(tmp_path / "idx", DOCUMENTS, encoder="lsr-tiny")
    before = answers(Index.open(tmp_path / "idx"))
    shipped("lsr-mini")
    index = Index.open(tmp_path / "idx")
    assert answers(index) == before  # queries need no model
    mend = r"lsr-tiny is no longer the model .*\(weights .*Build the index again"
    with pytest.raises(EncoderMismatch, match=mend):
        index.add([{"_id": "new", "text": "a flat plate"}])
    assert index.search("flat plate", k=1)[0].highlight()
    assert not index.pending
    with pytest.raises(EncoderMismatch, match=r"another version, or other settings, of .*build an index again"):
        Index.open(tmp_path / "idx", encoder="lsr-tiny")
    (tmp_path / "new.jsonl").write_text('{"_id": "new", "text": "a flat plate"}')
    ran = lsr_command("add", tmp_path / "idx", tmp_path / "new.jsonl")
    assert (ran.code, ran.err.count("\n"), "Build the index again" in ran.err) == (1, 1, True)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
