"""Vectors from one form into another: those of lsr.io.vectors, lsr.io.jsonl, lsr.io.opensearch and lsr.io.ciff."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lsr.console import progress
from lsr.errors import DataError, OutputExists
from lsr.io.text_files import unfinished
from lsr.io.vectors import VectorBatch, Vectors
from lsr.io.vectors_parquet import ParquetWriter, pack_metadata

# Of each form the endings that it may have; the first form with an ending is the one that it means.
FORMATS = {
    "parquet": (".parquet",),
    "jsonl": (".jsonl", ".jsonl.gz", ".json", ".json.gz"),
    "anserini": (".jsonl", ".jsonl.gz", ".json", ".json.gz"),
    "opensearch": (".ndjson", ".ndjson.gz", ".json", ".json.gz", ".jsonl", ".jsonl.gz"),
    "opensearch-ann": (".ndjson", ".ndjson.gz", ".json", ".json.gz", ".jsonl", ".jsonl.gz"),
    "ciff": (".ciff", ".ciff.gz"),
}
_NAMES = {"jsonl": "JSONL", "anserini": "JSONL", "opensearch": "a rank_features field", "ciff": "CIFF"}


@dataclass(frozen=True)
class Form:
    """How vectors are written.

    Attributes:
        format: One of FORMATS; None takes what the file's ending means.
        levels: For CIFF, the largest impact; see lsr.io.ciff.write_ciff.
        index_name: For OpenSearch, the index; by default the file's name without its ending.
        field: For OpenSearch, the field of the vector.
    """

    format: str | None = None
    levels: int | None = None
    index_name: str | None = None
    field: str = "vector"

    def of(self, out: Path) -> str:
        """The format of a file.

        Raises:
            DataError: Its ending has no format, or not this one.
        """
        name = out.name.lower()
        if self.format is not None:
            if not name.endswith(FORMATS[self.format]):
                raise DataError(f"the format {self.format} has the endings {', '.join(FORMATS[self.format])}", str(out))
            return self.format
        for format_name, endings in FORMATS.items():
            if name.endswith(endings):
                return format_name
        raise DataError("vectors are written to .parquet, .jsonl(.gz), .ndjson(.gz) or .ciff(.gz)", str(out))

    def files(self, out: Path) -> list[Path]:
        """What `convert` writes, what takes its name last first."""
        if not self.of(out).startswith("opensearch"):
            return [out]
        from lsr.io.opensearch import mapping_path

        return [out, mapping_path(out)]


def check_out(out: Path, overwrite: bool, form: Form | None = None) -> None:
    """Refuse an output before the work, not after it; `overwrite` replaces vectors, but no other folder.

    Raises:
        DataError: A name with an unknown ending.
        OutputExists: `out` is there and won't be replaced.
    """
    # Unless a run was killed while its files took their names: then what is beside OUT is its own.
    killed = bool(out.suffix) and unfinished(out).exists() and not out.exists()
    for path in (form or Form()).files(out) if out.suffix else [out]:
        if path.exists() and not (overwrite or killed):
            raise OutputExists(f"{path}: exists already (--overwrite replaces it)")
    if out.is_dir() if out.suffix else out.exists() and not any(out.glob("part-*.parquet")):
        raise OutputExists(f"{out}: is there and holds something else than vectors; write elsewhere")


def convert(vectors: Vectors, out: Path, form: Form | None = None) -> None:
    """Write vectors, from wherever, as a file.

    Args:
        vectors: What to write.
        out: The file; it gets its name when it is whole.
        form: How to write it.

    Raises:
        DataError: The form needs the tokens of the terms and they aren't known; or something that it can't hold.
    """
    form = form or Form()
    wanted = form.of(out)
    with progress(vectors.count, "writing") as bar:

        def batches() -> Iterator[VectorBatch]:
            for batch in vectors:
                yield batch
                bar.update(len(batch.vectors))

        if wanted == "parquet":
            with ParquetWriter(out, {}) as writer:
                for batch in batches():
                    writer.write(batch)
                # A JSONL's vocabulary is whole only now.
                known = vectors.fingerprint, vectors.vocabulary, vectors.encoder_files
                writer.add_metadata(pack_metadata(*known, vectors.step))
        elif wanted == "opensearch-ann":
            from lsr.io.opensearch import write_bulk

            write_bulk(out, batches(), None, index_name=form.index_name, field=form.field)
        else:
            _write_tokens(vectors, batches(), out, form)


def _write_tokens(vectors: Vectors, batches: Iterator[VectorBatch], out: Path, form: Form) -> None:
    """Write a form that has tokens instead of term ids."""
    wanted, vocabulary = form.of(out), vectors.vocabulary
    if vocabulary is None:
        raise DataError(f"{_NAMES[wanted]} needs the tokens of the terms, and these vectors lack them", vectors.name)
    batches = _with_tokens(batches, vocabulary, vectors.name)
    if wanted == "ciff":
        from lsr.io.ciff import write_ciff

        write_ciff(out, batches, vocabulary, step=vectors.step, levels=form.levels)
    elif wanted == "opensearch":
        from lsr.io.opensearch import write_bulk

        write_bulk(out, batches, vocabulary, index_name=form.index_name, field=form.field)
    else:
        from lsr.io.jsonl import write_jsonl

        write_jsonl(out, batches, vocabulary, anserini=wanted == "anserini", step=vectors.step)


def _with_tokens(batches: Iterator[VectorBatch], vocabulary: list[str], name: str) -> Iterator[VectorBatch]:
    """The batches, as long as each of their terms has a token of its own."""
    first: dict[str, int] = {}
    doubled = [term for term, token in enumerate(vocabulary) if first.setdefault(token, term) != term]
    for batch in batches:
        terms = batch.vectors.indices
        if len(terms) and int(terms.max()) >= len(vocabulary):
            raise DataError(f"term {int(terms.max())} has no token, the vocabulary has {len(vocabulary)}", name)
        if doubled and (twice := np.intersect1d(terms, doubled)).size:
            raise DataError(f"two terms are called {vocabulary[int(twice[0])]!r}: they can't be told apart", name)
        yield batch
