"""Convert vectors between the formats of lsr.io.vectors_parquet, lsr.io.jsonl, lsr.io.opensearch and lsr.io.ciff."""

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

# {format: its suffixes}. A suffix selects the first format that has it.
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
    """The format in which vectors are written.

    Attributes:
        format: One of FORMATS; None for the format of the file's suffix.
        levels: For CIFF, the largest impact; see lsr.io.ciff.write_ciff.
        index_name: For OpenSearch, the index; by default the file's name without its suffix.
        field: For OpenSearch, the vector's field.
    """

    format: str | None = None
    levels: int | None = None
    index_name: str | None = None
    field: str = "vector"

    def of(self, out: Path) -> str:
        """The format of a file.

        Raises:
            DataError: The suffix is unknown, or doesn't belong to this format.
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
        """The files that `convert` writes; the first one is renamed last."""
        if not self.of(out).startswith("opensearch"):
            return [out]
        from lsr.io.opensearch import mapping_path

        return [out, mapping_path(out)]


def check_out(out: Path, overwrite: bool, form: Form | None = None) -> None:
    """Check an output before any work. `overwrite` allows replacing vectors, but not other files or folders.

    Raises:
        DataError: The suffix is unknown.
        OutputExists: `out` exists and won't be replaced.
    """
    # If a run was killed between renames, some of its files exist already.
    killed = bool(out.suffix) and unfinished(out).exists() and not out.exists()
    for path in (form or Form()).files(out) if out.suffix else [out]:
        if path.exists() and not (overwrite or killed):
            raise OutputExists(f"{path}: exists already (--overwrite replaces it)")
    if out.is_dir() if out.suffix else out.exists() and not any(out.glob("part-*.parquet")):
        raise OutputExists(f"{out}: holds something other than vectors; write elsewhere")


def convert(vectors: Vectors, out: Path, form: Form | None = None) -> None:
    """Write vectors as a file.

    Args:
        vectors: Vectors from any source.
        out: The file; it gets its name when it is complete.
        form: The file's format.

    Raises:
        DataError: The format needs tokens, which are unknown, or can't hold a value.
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
                # The vocabulary of a JSONL file is complete only after the last batch.
                known = vectors.fingerprint, vectors.vocabulary, vectors.encoder_files
                writer.add_metadata(pack_metadata(*known, vectors.step))
        elif wanted == "opensearch-ann":
            from lsr.io.opensearch import write_bulk

            write_bulk(out, batches(), None, index_name=form.index_name, field=form.field)
        else:
            _write_tokens(vectors, batches(), out, form)


def _write_tokens(vectors: Vectors, batches: Iterator[VectorBatch], out: Path, form: Form) -> None:
    """Write a format that has tokens instead of term ids."""
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
    """Yield the batches, after checking that each term has a unique token."""
    first: dict[str, int] = {}
    doubled = [term for term, token in enumerate(vocabulary) if first.setdefault(token, term) != term]
    for batch in batches:
        terms = batch.vectors.indices
        if len(terms) and int(terms.max()) >= len(vocabulary):
            raise DataError(f"term {int(terms.max())} has no token, the vocabulary has {len(vocabulary)}", name)
        if doubled and (twice := np.intersect1d(terms, doubled)).size:
            raise DataError(f"two terms have the token {vocabulary[int(twice[0])]!r}: they can't be told apart", name)
        yield batch
