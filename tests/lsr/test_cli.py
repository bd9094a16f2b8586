"""The lsr command prints help and one-line errors, sets exit codes, and imports heavy packages lazily."""

import io
import json
import math
import subprocess
import sys
from types import SimpleNamespace

import click
import pytest

import lsr
from lsr.cli import COMMANDS, cli, main, os_error_text, run_command
from lsr.io.open_vectors import read_vectors

DOCS = [{"_id": "a", "text": "wing flow"}, {"_id": "b", "text": "heat of the plate"}]


@pytest.fixture
def docs(tmp_path):
    return put(tmp_path / "docs.jsonl", *DOCS)


def put(path, *lines):
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def call(*args):
    """Run a command in this process, and return its exit code."""
    with pytest.raises(SystemExit) as exit_:
        main([str(arg) for arg in args])
    return exit_.value.code


def failure(capsys, *args, code=1):
    """Run a command that fails, and return its stderr."""
    assert call(*args) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    if code == 1:
        assert err.startswith("lsr: ")
        assert len(err.splitlines()) == 1
    return err


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


# --- help


@pytest.mark.parametrize("args", [["--version"], ["--help"]])
def test_python_m_lsr_runs_the_command(args):
    out = subprocess.run([sys.executable, "-m", "lsr", *args], capture_output=True, text=True, check=True).stdout
    assert ("Usage: lsr" if args == ["--help"] else f"lsr, version {lsr.__version__}") in out


def test_help_lists_every_command(capsys):
    assert call("--help") == 0
    out = capsys.readouterr().out
    for name in COMMANDS:
        assert f"\n  {name} " in out
    assert call("-h") == 0
    assert capsys.readouterr().out == out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(capsys, name):
    assert call(name, "--help") == 0
    out = capsys.readouterr().out
    assert f"Usage: lsr {name} " in out
    assert "Example" in out
    assert f"lsr {name}" in out.split("Example", 1)[1]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_says_what_it_does(name):
    command = cli.get_command(click.Context(cli), name)
    silent = [p.name for p in command.params if isinstance(p, click.Option) and not p.help]
    assert silent == []


def test_help_loads_no_heavy_library():
    code = (
        "import sys\n"
        "from lsr.cli import cli\n"
        "cli.main(['--help'], standalone_mode=False)\n"
        "print('heavy:', sorted({'numpy', 'pyarrow', 'numba', 'torch', 'tqdm'} & set(sys.modules)))"
    )
    assert python(code).endswith("heavy: []\n")


def test_importing_lsr_loads_no_heavy_library():
    code = (
        "import sys, lsr\n"
        "names = {name for name in ('torch', 'numba', 'transformers', 'ir_datasets') if name in sys.modules}\n"
        "assert not names, names\n"
        "from lsr import Document, Encoder, LsrError, SparseMatrix, load_encoder, read_vectors\n"
        "from lsr.encode.bm25 import BM25Encoder\n"
        "print(sorted(name for name in ('torch', 'transformers', 'ir_datasets') if name in sys.modules))"
    )
    assert python(code) == "[]\n"


def test_all_public_names_exist():
    for name in lsr.__all__:
        assert getattr(lsr, name) is not None
    assert set(lsr.__all__) <= set(dir(lsr))
    with pytest.raises(AttributeError, match="module 'lsr' has no attribute 'Indeks'"):
        lsr.Indeks  # noqa: B018


# --- wrong usage


@pytest.mark.parametrize(("typed", "meant"), [("encod", "encode"), ("serach", "search"), ("evalute", "evaluate")])
def test_the_nearest_command_is_suggested(capsys, typed, meant):
    err = failure(capsys, typed, code=2)
    assert f"No such command '{typed}'" in err
    assert meant in err.split(typed, 1)[1]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["xyzzy"], "No such command 'xyzzy'"),
        (["--loud"], "No such option"),
        (["encode"], "Missing argument 'SOURCE'"),
        (["encode", "DOCS"], "Missing option '--out'"),
        (["encode", "DOCS", "--out", "v", "--top-k", "0"], "'--top-k'"),
        (["encode", "DOCS", "--out", "v", "--max-ratio", "2"], "'--max-ratio'"),
        (["encode", "DOCS", "--out", "v", "--pooling", "median"], "'median' is not one of 'max', 'sum'"),
        (["encode", "DOCS", "--out", "v", "--overlap", "3"], "--overlap needs --passages"),
        (
            ["encode", "DOCS", "--out", "v", "--passages", "3", "--overlap", "3"],
            "--overlap 3 must be below --passages 3",
        ),
        (["encode", "DOCS", "--out", "v", "--queries", "--encoder", "bm25"], "bm25 learns from the documents"),
        (["encode", "DOCS", "--out", "v", "--queries", "--passages", "3"], "--passages cuts documents, not queries"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_usage_exits_with_2(capsys, docs, monkeypatch, args, said):
    monkeypatch.chdir(docs.parent)
    assert said in failure(capsys, *["docs.jsonl" if arg == "DOCS" else arg for arg in args], code=2)
    assert [f.name for f in docs.parent.iterdir()] == ["docs.jsonl"]


# --- lsr encode


@pytest.mark.parametrize("out", ["v.parquet", "v.jsonl", "v.jsonl.gz", "v.ciff", "v"])
def test_encode_writes_every_format(capsys, docs, out):
    target = docs.parent / out
    assert call("encode", docs, "--out", target) == 0
    written = capsys.readouterr()
    assert (written.out, written.err) == ("", f"2 vectors in {target}\n")
    [batch] = read_vectors(target)
    assert batch.ids == ["a", "b"]
    assert sorted(f.name for f in docs.parent.iterdir()) == sorted(["docs.jsonl", out])


def test_encode_reads_standard_input(tmp_path):
    content = "".join(json.dumps(row) + "\n" for row in DOCS)
    command = [sys.executable, "-m", "lsr", "encode", "-", "--out", str(tmp_path / "v.parquet")]
    subprocess.run(command, input=content, capture_output=True, text=True, check=True)
    [batch] = read_vectors(tmp_path / "v.parquet")
    assert batch.ids == ["a", "b"]


def test_queries_can_be_encoded_with_the_encoder_of_a_vector_file(docs):
    folder = docs.parent
    put(folder / "queries.jsonl", {"_id": "q", "text": "Flow, flow and heat"})
    for vectors in ("v.parquet", "v"):
        assert call("encode", docs, "--encoder", "bm25", "--out", folder / vectors) == 0
        out = folder / f"q-{vectors}.jsonl"
        assert call("encode", folder / "queries.jsonl", "--queries", "--encoder", folder / vectors, "--out", out) == 0
        idf = math.log(2)  # each word is in one of the two documents
        vector = {"flow": pytest.approx(2 * idf), "heat": pytest.approx(idf)}
        assert json.loads(out.read_text()) == {"_id": "q", "vector": vector}


def test_encode_converts_vector_files(capsys, docs):
    folder = docs.parent
    assert call("encode", docs, "--out", folder / "v.parquet") == 0
    for source, out in (("v.parquet", "w.jsonl"), ("w.jsonl", "x.parquet")):
        capsys.readouterr()
        assert call("encode", folder / source, "--out", folder / out) == 0
        assert capsys.readouterr().err == f"converted {folder / source} to {folder / out}\n"
    assert "exists already" in failure(capsys, "encode", folder / "v.parquet", "--out", folder / "w.jsonl")
    [first], [last] = read_vectors(folder / "v.parquet"), read_vectors(folder / "x.parquet")
    assert first.vectors.nnz == last.vectors.nnz > 0
    assert first.ids == last.ids


def test_encode_has_options_for_passages_texts_and_bad_documents(capsys, docs):
    put(docs, *DOCS, "oops", {"_id": "c", "text": ""})
    out = docs.parent / "v.parquet"
    args = ("encode", docs, "--encoder", "bm25", "--out", out, "--skip-bad", "--no-text", "--passages", "1")
    assert call(*args) == 0
    err = capsys.readouterr().err
    assert f"skipped 1 bad document, the first: {docs}:3: not JSON" in err
    assert "1 of 3 documents has no text" in err
    [batch] = read_vectors(out)
    assert batch.ids == ["a#0", "a#1", "b#0", "b#1", "c#0"]
    assert batch.documents.column("text").null_count == 5
    assert "exists already (--overwrite replaces it)" in failure(capsys, *args)
    assert call(*args, "--overwrite") == 0


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["{}"], "docs.jsonl:1: no id"),
        ([*DOCS, "oops"], "docs.jsonl:3: not JSON: Expecting value at column 1 (--skip-bad"),
        ([DOCS[0], DOCS[0]], "docs.jsonl:2: the id 'a' occurs twice"),
        (['{"_id": "x", "vector": {"a": -1}}'], "docs.jsonl:1: 'x': weight -1 of 'a'"),
        (['{"_id": "x", "vector": {"a": 1}}', *DOCS], "docs.jsonl:2: expected {"),
    ],
)
def test_bad_input_is_reported(capsys, docs, lines, said):
    put(docs, *lines)
    for out in ("v.parquet", "v.jsonl"):
        assert said in failure(capsys, "encode", docs, "--out", docs.parent / out)
        assert [f.name for f in docs.parent.iterdir()] == ["docs.jsonl"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["missing.jsonl", "--out", "v"], "missing.jsonl: no such file or folder"),
        (["docs.jsonl", "--out", "v.npz"], "v.npz: vectors are written to"),
        (["docs.jsonl", "--out", "v", "--encoder", "docs.jsonl"], "docs.jsonl: these vectors carry no encoder"),
        (["docs.jsonl", "--out", "v", "--encoder", "bm25", "--top-k", "3"], "bm25: no setting 'top_k'"),
        (["docs.jsonl", "--out", "docs.jsonl/v"], "docs.jsonl"),
        (["docs.jsonl", "--out", "nowhere/v.parquet", "--encoder", "nowhere/encoder"], "nowhere/encoder"),
        ([".", "--queries", "--out", "v"], "no queries.jsonl"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_impossible_requests_are_reported(capsys, docs, monkeypatch, args, said):
    monkeypatch.chdir(docs.parent)
    assert said in failure(capsys, "encode", *args)
    assert [f.name for f in docs.parent.iterdir()] == ["docs.jsonl"]


# --- errors


def test_an_internal_error_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(cli, "main", lambda *args, **kwargs: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        main(["encode"])


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (click.Abort(), 130, "interrupted\n"),
        (MemoryError("9 GB"), 1, "lsr: not enough memory: 9 GB\n"),
        (
            OSError(28, "No space", "v.parquet"),
            1,
            "lsr: v.parquet: the disk is full: free some room or write elsewhere\n",
        ),
        (lsr.LsrError("so it is"), 1, "lsr: so it is\n"),
    ],
    ids=repr,
)
def test_errors_are_printed_in_one_line(capsys, monkeypatch, error, code, said):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(cli, "main", fail)
    assert call("encode") == code
    assert capsys.readouterr().err == said


def test_a_closed_pipe_is_not_an_error():
    code = "from lsr.cli import cli, main; cli.main = lambda *a, **k: print(*range(99999), sep='\\n'); main()"
    done = subprocess.run(["sh", "-c", f'"{sys.executable}" -c "{code}" | head -1'], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("0\n", "")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (PermissionError(13, "Permission denied", "v"), "v: permission denied"),
        (FileNotFoundError(2, "No such file or directory", "v"), "v: no such file or folder"),
        (OSError(5, "Input/output error"), "Input/output error"),
        (OSError("only words"), "only words"),
        (OSError(13, "Permission denied", 7), "permission denied"),
    ],
    ids=repr,
)
def test_operating_system_errors_are_reported(error, text):
    assert os_error_text(error) == text


def test_run_command_raises_the_errors_that_main_prints(docs, monkeypatch):
    run_command("encode", [str(docs), "--out", str(docs.parent / "v.parquet")])
    with pytest.raises(lsr.LsrError, match="exists already"):
        run_command("encode", [str(docs), "--out", str(docs.parent / "v.parquet")])
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"oops")))
    with pytest.raises(lsr.LsrError, match="<stdin>:1: not JSON"):
        run_command("encode", ["-", "--out", str(docs.parent / "w.parquet")])


@pytest.mark.parametrize("args", [("search", "idx", "wing", "flutter"), ("explain", "idx", "wing", "flutter", "d1")])
def test_the_error_for_a_query_without_quotes_shows_the_quotes(lsr_command, args):
    ran = lsr_command(*args)
    assert ran.code == 2
    assert f'A text of several words needs quotes: lsr {args[0]} idx "' in ran.err
