"""A folder's files are read as documents with ids, links and metadata. Skipped files are reported."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import tracemalloc
import warnings

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsr.errors import DataError, GuessedEncoding, LeftOut
from lsr.files.documents import open_texts, read_documents
from lsr.files.ignore import Ignored
from lsr.files.walk import PassedOver, walk

from .conftest import epub, pdf, put


def left_out(corpus):
    """Read a corpus, and return its ids and the lines of its LeftOut warnings."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        ids = [document.id for document in corpus]
    assert all(warning.category is LeftOut and warning.filename == __file__ for warning in told)
    return ids, [line.strip() for warning in told for line in str(warning.message).split("\n")[1:]]


# --- files read --------------------------------------------------------------------------------------------------


def test_files_of_all_supported_kinds_are_read(tmp_path, read):
    put(tmp_path / "a.md", "# A\n\ntext")
    put(tmp_path / "sub" / "b.rst", "B\n=\n\ntext")
    put(tmp_path / "c.HTML", "<title>C</title><p>text")
    put(tmp_path / "README", "text")
    put(tmp_path / "d.py", '"""D."""')
    put(tmp_path / "e.ipynb", json.dumps({"cells": [{"cell_type": "code", "source": "text"}]}))
    put(tmp_path / "f.pdf", pdf("text"))
    epub(tmp_path / "g.epub", {"a.xhtml": "<p>text</p>"})
    put(tmp_path / "config.json", '{\n"key": "text"\n}')
    put(tmp_path / "rows.json", '[{"id": "x", "text": "text"}]')
    put(tmp_path / "rows.csv", "id,text,n\n7,text,1\n")
    found = read()
    assert {doc_id: document.title for doc_id, document in found.items()} == {
        "README": "README",
        "a.md": "A",
        "c.HTML": "C",
        "config.json": "config.json",
        "d.py": "D.",
        "e.ipynb": "e.ipynb",
        "f.pdf": "f.pdf",
        "g.epub": "A book",
        "rows.csv:7": "",
        "rows.json:x": "",
        "sub/b.rst": "B",
    }
    assert found["sub/b.rst"].metadata["source"] == "sub/b.rst"
    assert found["rows.csv:7"].metadata["source"] == "rows.csv"
    assert all(len(document.metadata["digest"]) == 16 for document in found.values())


def test_hidden_and_ignored_files_are_skipped(tmp_path):
    root = tmp_path / "docs"
    put(root / "a.md", "text")
    put(root / ".hidden.md", "text")
    put(root / ".git" / "x.md", "text")
    put(root / "node_modules" / "x.md", "text")
    put(root / "env" / "pyvenv.cfg", "")
    put(root / "env" / "x.md", "text")
    put(root / "idx" / "manifest.json", "{}")
    put(root / "idx" / f"shared-{0:016x}" / "x.md", "text")
    put(root / "a.png", b"\x89PNG\0")
    put(root / "b.png", b"\x89PNG\0")
    put(root / "c.zip", b"PK")
    put(root / "empty.md", "\n\n")
    put(tmp_path / "outside.md", "text")
    (root / "circle").symlink_to(root)
    (root / "file.md").symlink_to(tmp_path / "outside.md")
    os.mkfifo(root / "pipe.md")  # a read from a pipe would wait forever
    corpus = read_documents(root)
    assert left_out(corpus) == (
        ["a.md"],
        [
            "files without text: 1 (empty.md)",
            "symbolic links, which aren't followed: 2 (circle, file.md)",
            "unsupported files, by suffix: 3 (2 .png, 1 .zip)",
            "to list all 6: --left-out FILE, or in Python `bad` of the warning or the corpus",
        ],
    )
    assert corpus.bad == [
        "empty.md: no text",
        "circle: a symbolic link, which isn't followed",
        "file.md: a symbolic link, which isn't followed",
        "a.png: .png files aren't supported",
        "b.png: .png files aren't supported",
        "c.zip: .zip files aren't supported",
    ]


def test_bad_files_are_reported_and_the_rest_is_read(tmp_path, monkeypatch):
    put(tmp_path / "a.md", "text")
    put(tmp_path / "b.pdf", pdf(""))
    put(tmp_path / "c.docx", b"broken")
    put(tmp_path / "d.txt", b"\0\1\2binary")
    put(tmp_path / "e.md", "---\n: [\n---\n")
    put(tmp_path / "f.csv", "id,text\n" + "1,x\n" + "2,y,z\n" * 9)
    put(tmp_path / "large.txt", "x" * 2000)
    monkeypatch.setattr("lsr.files.documents._LARGEST_TEXT", 1000)
    ids, told = left_out(read_documents(tmp_path))
    assert ids == ["a.md", "f.csv:1"]
    begins = [
        "b.pdf: no text on 1 page: run OCR on scanned pages first",
        "c.docx: not a whole DOCX: ",
        "d.txt: it isn't text: it has bytes that no text has",
        "e.md: the front matter isn't YAML: ",
        *(f"f.csv:{line}: 3 cells, but 2 columns" for line in (3, 4, 5)),
        "f.csv: 6 more rows can't be read",
        "large.txt: 0 MB is too much for one document: split it",
    ]
    assert len(told) == len(begins)
    assert all(line.startswith(begin) for line, begin in zip(told, begins, strict=True))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_files_without_permission_are_reported(tmp_path):
    put(tmp_path / "a.md", "text")
    put(tmp_path / "b.md", "text").chmod(0)
    put(tmp_path / "c" / "c.md", "text")
    (tmp_path / "c").chmod(0)
    ids, told = left_out(read_documents(tmp_path))
    assert ids == ["a.md"]
    assert [line.rpartition("can't be read: ")[2] for line in told] == ["Permission denied"] * 2


def test_a_file_name_that_is_not_text_is_reported(tmp_path):
    put(tmp_path / "a.md", "text")
    try:
        (tmp_path / os.fsdecode(b"caf\xe9.md")).write_text("text")
    except OSError:
        pytest.skip("this file system allows only names in UTF-8")
    ids, told = left_out(read_documents(tmp_path))
    assert (ids, len(told)) == (["a.md"], 1)
    assert told[0].endswith("the name isn't UTF-8")


def test_a_folder_without_documents_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"there is nothing to read here$"):
        list(read_documents(tmp_path))
    for number in range(9):
        put(tmp_path / f"{number}.jpg", b"\xff\xd8")
    with pytest.raises(DataError, match=r"\n  unsupported files, by suffix: 9 \(9 .jpg\)"):
        list(read_documents(tmp_path))
    with pytest.raises(DataError, match="no such file or folder"):
        read_documents(tmp_path / "nowhere")
    put(tmp_path / "idx" / "manifest.json", "{}")
    put(tmp_path / "idx" / f"segment-{1:016x}" / "x", "")
    with pytest.raises(DataError, match="this is an index"):
        read_documents(tmp_path / "idx")


def test_only_the_first_problems_are_reported_in_full(tmp_path):
    put(tmp_path / "a.md", "text")
    for number in range(15):
        put(tmp_path / f"{number:02}.pdf", b"broken")
    put(tmp_path / "a.png", b"\x89PNG\0")
    corpus = read_documents(tmp_path)
    with pytest.warns(LeftOut) as told:
        list(corpus)
    (warning,) = (one.message for one in told)
    assert [line.strip() for line in str(warning).split("\n")[11:]] == [
        "and 5 more",
        "unsupported files, by suffix: 1 (1 .png)",
        "to list all 16: --left-out FILE, or in Python `bad` of the warning or the corpus",
    ]
    assert warning.bad == corpus.bad
    assert [line.partition(":")[0] for line in warning.bad] == [*(f"{n:02}.pdf" for n in range(15)), "a.png"]


@pytest.mark.parametrize(
    ("module", "name", "package"),
    [
        ("markdown_it", "a.md", "markdown-it-py"),
        ("pypdf", "a.pdf", "pypdf"),
        ("docx", "a.docx", "python-docx"),
        ("yaml", "y.md", "PyYAML"),
        ("charset_normalizer", "l.txt", "charset-normalizer"),
    ],
)
def test_a_missing_library_names_the_extra(tmp_path, monkeypatch, module, name, package):
    put(tmp_path / "plain.txt", "text")
    put(tmp_path / name, {"y.md": b"---\na: 1\n---\n", "l.txt": "ü".encode("latin-1")}.get(name, b"text"))
    monkeypatch.setitem(sys.modules, module, None)
    ids, told = left_out(read_documents(tmp_path))
    assert ids == ["plain.txt"]
    (line,) = told
    assert f"needs the package {package}, which is not installed" in line
    assert 'pip install "lsr-search[files]"' in line
    assert line.endswith(f" (1 file: {name})")


def test_text_html_and_code_need_no_extra(tmp_path):
    put(tmp_path / "a.html", "<p>text")
    put(tmp_path / "a.py", "x = 1")
    put(tmp_path / "a.rst", "text")
    code = (
        "import sys\n"
        "for name in ('markdown_it', 'pypdf', 'docx', 'yaml', 'charset_normalizer', 'watchfiles', 'lxml'):\n"
        "    sys.modules[name] = None\n"
        "from lsr import read_documents\n"
        f"print(*[document.id for document in read_documents({str(tmp_path)!r})])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["a.html", "a.py", "a.rst"]


def test_guessed_encodings_are_reported(tmp_path):
    put(tmp_path / "latin.txt", "Größe".encode("cp1252"))
    put(tmp_path / "page.html", '<meta charset="latin1"><p>Größe</p>'.encode("cp1252"))
    put(tmp_path / "plain.txt", "Größe")
    corpus = read_documents(tmp_path)
    for _ in range(2):
        with pytest.warns(
            GuessedEncoding, match=r"1 file not in UTF-8, whose encoding was guessed: latin.txt \(cp1252\)$"
        ):
            assert {document.text.strip() for document in corpus} == {"Größe"}


# --- ignored files ------------------------------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "b", "ab", "a.md", "b.md", "a b"])
PATTERNS = st.lists(
    st.sampled_from(
        [
            *("a", "*.md", "/a", "a/", "a/b", "**/b", "a/**", "a/**/b", "!a.md", "!b", "[ab].md", "[!a].md", "?b"),
            *("#a", "\\#a", "a b", "a\\ b ", "*", "!*.md", "/*", "!/a", "a*", "**", "b/*", "!a/", "[a-", "**a"),
        ]
    ),
    max_size=4,
)


@given(
    files=st.lists(st.lists(NAMES, min_size=1, max_size=3).map("/".join), min_size=1, max_size=8, unique=True),
    top=PATTERNS,
    below=PATTERNS,
)
def test_files_that_git_ignores_are_skipped(tmp_path_factory, files, top, below):
    root = tmp_path_factory.mktemp("repository")
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    put(root / ".gitignore", "\n".join(top))
    put(root / "a" / ".gitignore", "\n".join(below))
    for name in files:
        if not any((root / name).is_relative_to(root / other) for other in files if other != name):
            put(root / name, "text") if not (root / name).is_dir() else None
    command = ["git", "-C", str(root), "ls-files", "-z", "--others", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")
    wanted = {name for name in listed if name and not name.endswith(".gitignore")}
    assert {found.name for found in walk(root, PassedOver())} == wanted


def test_a_parent_repositorys_gitignore_applies(tmp_path):
    put(tmp_path / ".git" / "HEAD", "")
    put(tmp_path / ".gitignore", "_build/\n/docs/drafts\n")
    put(tmp_path / "docs" / "_build" / "a.md", "text")
    put(tmp_path / "docs" / "drafts" / "b.md", "text")
    put(tmp_path / "docs" / "c.md", "text")
    assert [found.name for found in walk(tmp_path / "docs", PassedOver())] == ["c.md"]
    # An ignored folder is read if the user names it.
    assert [found.name for found in walk(tmp_path / "docs" / "_build", PassedOver())] == ["a.md"]
    assert not Ignored(tmp_path / "docs" / "_build").is_ignored(tmp_path / "docs" / "_build" / "a.md", False)


# --- links, front matter, rows ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://x.org/docs", "https://x.org/docs/sub/a%20b.md"),
        ("https://x.org/docs/", "https://x.org/docs/sub/a%20b.md"),
        ("https://x.org/{stem}.html", "https://x.org/sub/a%20b.html"),
        ("https://x.org/?p={path}", "https://x.org/?p=sub/a%20b.md"),
        ("", None),
    ],
)
def test_urls_are_made_from_the_pattern(tmp_path, read, url, expected):
    put(tmp_path / "sub" / "a b.md", "text")
    assert read(url=url)["sub/a b.md"].metadata.get("url") == expected


def test_a_wrong_url_pattern_is_refused(read):
    with pytest.raises(DataError, match=r"a url has {path} or {stem}, not {paht}"):
        read(url="https://x.org/{paht}")


def test_front_matter_is_metadata_but_cannot_set_the_source(tmp_path, read):
    put(tmp_path / "a.md", "---\nsource: me\ndigest: 1\nurl: https://y.org\nempty:\nwhen: 2024-01-02\n---\ntext")
    metadata = read()["a.md"].metadata
    assert metadata.pop("digest") != 1
    assert metadata == {"source": "a.md", "url": "https://y.org", "when": "2024-01-02"}


def test_each_row_of_a_table_is_a_document(tmp_path, read):
    put(tmp_path / "faq.csv", 'question,answer,year\nWhat?,"Wings,\nof course",2020\n')
    put(tmp_path / "b.jsonl", '{"text": "t", "title": "T", "lang": "en"}\n\n{"_id": 3, "text": "u", "line": 9}\n')
    pq.write_table(
        pa.table({"id": ["x"], "text": ["t"], "when": pa.array([0], pa.timestamp("s"))}), tmp_path / "c.parquet"
    )
    found = read()
    faq = found["faq.csv:2"]
    assert faq.text == "question: What?\nanswer: Wings,\nof course"
    assert {key: faq.metadata[key] for key in ("question", "year", "source", "line")} == {
        "question": "What?",
        "year": 2020,
        "source": "faq.csv",
        "line": 2,
    }
    assert (found["b.jsonl:1"].title, found["b.jsonl:1"].metadata["lang"]) == ("T", "en")
    assert found["b.jsonl:3"].metadata["line"] == 3
    assert found["c.parquet:x"].metadata["when"] == "1970-01-01T00:00:00"


def test_a_large_table_is_read_row_by_row(tmp_path):
    put(tmp_path / "a.csv", "id,text\n" + "".join(f"{i},text\n" for i in range(8_000)))
    documents = iter(read_documents(tmp_path))
    assert next(documents).id == "a.csv:0"
    tracemalloc.start()
    assert sum(1 for _ in documents) == 7_999
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("ending", [".md", ".rst", ".html", ".py", ".txt", ".ipynb", ".c", ".json"])
@pytest.mark.parametrize(
    "part", ["> ", "- ", "[", "<div>", "(", "<!--", "<![", "*a ", "`", "&#", "\\", "{", "| ", "a\n=\n"]
)
def test_hostile_files_are_read_or_reported(tmp_path, ending, part):
    put(tmp_path / "ok.txt", "text")
    put(tmp_path / f"hostile{ending}", part * 3000)
    ids, told = left_out(read_documents(tmp_path))
    assert "ok.txt" in ids
    assert len(ids) + len(told) == 2


def test_a_single_file_can_be_read(tmp_path, read):
    path = put(tmp_path / "docs" / "a.md", "# A")
    assert list(read(path)) == ["a.md"]


def test_the_function_open_texts_opens_collections_and_returns_none_for_vectors(tmp_path):
    put(tmp_path / "beir" / "corpus.jsonl", '{"_id": "x", "text": "t"}')
    assert [d.id for d in open_texts(tmp_path / "beir")] == ["x"]
    put(tmp_path / "rows.jsonl", '{"_id": "x", "text": "t"}')
    assert [d.id for d in open_texts(tmp_path / "rows.jsonl")] == ["x"]
    put(tmp_path / "vectors.jsonl", '{"_id": "x", "vector": {"a": 1.0}}')
    assert open_texts(tmp_path / "vectors.jsonl") is None
    with pytest.raises(DataError, match=r"a url is for a folder of files"):
        open_texts(tmp_path / "rows.jsonl", url="https://x.org")
    with pytest.raises(DataError, match="no such file or folder"):
        open_texts(tmp_path / "nowhere")


def test_documents_can_be_pickled(tmp_path):
    put(tmp_path / "a.md", "# A\n\ntext")
    (document,) = read_documents(tmp_path)
    assert pickle.loads(pickle.dumps(document)) == document


def test_equal_files_have_equal_identities(tmp_path):
    put(tmp_path / "a.md", "text")
    before = read_documents(tmp_path).identity
    assert read_documents(tmp_path).identity == before
    put(tmp_path / "a.md", "other")
    os.utime(tmp_path / "a.md", ns=(1, 1))
    assert read_documents(tmp_path).identity != before
    assert read_documents(tmp_path).count() == 1
