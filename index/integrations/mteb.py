"""MTEB: an encoder with an index as a model for MTEB's retrieval and re-ranking tasks.

    mteb.evaluate(LsrModel("naver/splade-v3"), mteb.get_task("SciFact"))

Needs the extra `mteb`. Searching an index is fast, so a task takes about as long as encoding its texts.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Unpack

from lsr.encode.base import Encoder
from lsr.encode.load import as_encoder
from lsr.errors import DataError, MissingExtra
from lsr.fingerprint import digest
from lsr.index.index import Index
from lsr.index.integrations.store import checked
from lsr.index.search.settings import BatchOptions

try:
    from mteb.models import ModelMeta
except ImportError:
    raise MissingExtra("mteb", "mteb", "a model for MTEB") from None


class LsrModel:
    """An encoder with an index that implements MTEB's `SearchProtocol`.

    Args:
        encoder: An encoder, or its name or folder.
        name: The model's name in MTEB's results, "organisation/name"; None for "lsr/" and the encoder's name.
        settings: Arguments of `Index.search`: mode="hybrid" for an encoder with dense vectors, and so on.
    """

    def __init__(
        self, encoder: Encoder | str | PathLike[str], name: str | None = None, **settings: Unpack[BatchOptions]
    ) -> None:
        opened = as_encoder(encoder)
        if opened is None:
            raise TypeError("an encoder is needed, got None")
        checked({name: value for name, value in settings.items() if name != "threads"})
        self.encoder, self.settings = opened, settings
        self._name = name or f"lsr/{Path(opened.fingerprint.model or opened.type).name}"
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._index: Index | None = None

    @property
    def mteb_model_meta(self) -> ModelMeta:
        """The description of the model that MTEB stores with results."""
        found, queries = self.encoder.fingerprint, self.encoder.query_fingerprint
        revision = str(found.weights) if queries is None else digest([f"{found.weights} {queries.weights}".encode()])
        given = {"name": self._name, "revision": revision[:12], "similarity_fn_name": "dot"}
        return ModelMeta.create_empty(given | {"model_type": ["sparse"], "max_tokens": found.max_length or None})

    def index(self, corpus: Sequence[Mapping[str, Any]], **_: Any) -> None:
        """Index a corpus of rows with id, text and maybe title; the previous index is deleted."""
        if self._folder is not None:
            self._folder.cleanup()
        self._folder = tempfile.TemporaryDirectory(prefix="lsr-mteb-")
        how: dict[str, Any] = {"hybrid": True} if self.settings.get("mode", "sparse") != "sparse" else {}
        self._index = Index.build(
            Path(self._folder.name) / "index",
            _documents(corpus),
            encoder=self.encoder,
            store_text=False,
            passages=None,
            **how,
        )

    def search(
        self,
        queries: Sequence[Mapping[str, Any]],
        *,
        top_k: int,
        top_ranked: Mapping[str, Sequence[str]] | None = None,
        **_: Any,
    ) -> dict[str, dict[str, float]]:
        """Search the corpus.

        Args:
            queries: Rows with id, text and maybe an instruction.
            top_k: Maximum number of documents per query.
            top_ranked: {query: documents to rank}; None ranks all. Documents that share no term with the query score 0.

        Returns:
            {query: {document: score}}

        Raises:
            DataError: A query isn't text.
            RuntimeError: Nothing is indexed yet.
        """
        if self._index is None:
            raise RuntimeError("there is no index yet: call index() first")
        ids = [str(row["id"]) for row in queries]
        k = top_k if top_ranked is None else max(len(self._index), 1)
        found = self._index.search_batch([_query(row) for row in queries], k, **self.settings)
        runs = {name: {hit.id: hit.score for hit in hits} for name, hits in zip(ids, found, strict=True)}
        if top_ranked is None:
            return runs
        return {name: {one: runs[name].get(one, 0.0) for one in top_ranked.get(name, ())} for name in ids}


def _documents(corpus: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, str]]:
    for row in corpus:
        yield {"_id": str(row["id"]), "text": row["text"], "title": row.get("title") or ""}


def _query(row: Mapping[str, Any]) -> str:
    text, instruction = row["text"], row.get("instruction")
    if not isinstance(text, str):
        raise DataError(f"query {row['id']}: it is {type(text).__name__}, not text; conversations aren't supported")
    return f"{text} {instruction}" if instruction else text
