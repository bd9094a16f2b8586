"""Index: built once from documents or vectors, opened in milliseconds, searched exactly.

    index = Index.build("idx", [{"_id": "a", "text": "..."}], encoder=load_encoder("bm25"))
    for hit in Index.open("idx").search("a question", k=10):
        print(hit.id, hit.score, hit.text)

Files are lsr.index.storage's business, postings those of lsr.index.segment, texts those of lsr.index.documents.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lsr.corpus import Document
from lsr.encode.base import Encoder
from lsr.encode.hub import load_encoder, load_encoder_files
from lsr.encode.stream import Passages, Report
from lsr.errors import CorruptIndex, DataError, EncoderError, EncoderMismatch
from lsr.fingerprint import Fingerprint
from lsr.sparse import SparseMatrix

from .builder import Source, build_index
from .clusters import CLUSTERS, SUMMARY_MASS
from .documents import Documents
from .explain import Contribution, Explanation
from .plan import Plan, SearchSettings
from .segment import ImpactType, Segment
from .segment_writer import DEFAULT_MEMORY, Order
from .storage import (
    ArrowFile,
    check_files,
    read_encoder_files,
    read_manifest,
)

_VOCABULARY_SCHEMA = pa.schema([("token", pa.string())])

_SAMPLE = (200, 24)  # documents that serve as queries, and how many terms of each
_PASSAGES = 4  # so many times the wanted documents are looked for where documents are cut into passages

Query = str | Mapping[str, float] | SparseMatrix


class Hit:
    """A document found.

    Attributes:
        score: Its score.
        doc: Its number within the index.
    """

    __slots__ = ("_index", "_query", "doc", "score")

    def __init__(self, index: Index, doc: int, score: float, query: SparseMatrix) -> None:
        self._index = index
        self._query = query
        self.doc = doc
        self.score = score

    @property
    def id(self) -> str:
        """Its id; for a passage, the id of the document that it was cut from."""
        return self._index.documents.parent(self.doc) or self.passage

    @property
    def passage(self) -> str:
        """The id of what matched: the document itself, or the best of its passages."""
        return self._index.documents.id(self.doc)

    @property
    def title(self) -> str:
        """Its title, empty if none is stored."""
        return self._index.documents.fields(self.doc)[0]

    @property
    def text(self) -> str:
        """Its text, of a passage the passage's, empty if none is stored."""
        return self._index.documents.fields(self.doc)[1]

    @property
    def metadata(self) -> dict[str, Any]:
        """Its metadata, empty if none is stored."""
        return self._index.documents.fields(self.doc)[2]

    def explain(self, *, origins: bool = True) -> Explanation:
        """Why it has its score, term by term; as `Index.explain`."""
        return self._index._explain(self._query, self.doc, origins)

    def highlight(self, length: int | None = None, **marks: Any) -> str:
        """Title and text with the words marked that count, or the best part of them; as `Explanation.highlight`."""
        return self.explain().highlight(length, **marks)

    def __repr__(self) -> str:
        return f"Hit(id={self.id!r}, score={self.score:.4f})"


class Index:
    """An index on disk, memory-mapped. Safe to search from many threads; searching releases the GIL.

    Attributes:
        path: The folder.
        documents: Ids and texts.
        segment: Postings.
    """

    def __init__(self, path: Path, manifest: Mapping[str, Any], encoder: Encoder | None = None) -> None:
        """Use `Index.open` or `Index.build`."""
        self.path = path
        self._manifest = manifest
        self._given_encoder = encoder
        data = path / str(manifest["data"])
        self.documents = Documents(data, len(self), manifest["has_text"])
        impacts = manifest["impacts"]
        self.segment = Segment(data, impacts["type"], impacts["scale"], clusters=CLUSTERS in manifest["files"])
        # All files are mapped or read by now: an index that is open stays whole when another one replaces it.
        self._tokens = ArrowFile(data / "vocabulary.arrow", _VOCABULARY_SCHEMA) if manifest["has_vocabulary"] else None
        self._encoder_files = read_encoder_files(data / "encoder") if manifest["encoder"] else {}

    # --- building --------------------------------------------------------------------------------------------------

    @classmethod
    def build(
        cls,
        path: str | PathLike[str],
        source: Source,
        *,
        encoder: Encoder | str | None = None,
        ids: Sequence[str] | None = None,
        impacts: ImpactType = "uint8",
        passages: Passages | None = None,
        store_text: bool = True,
        overwrite: bool = False,
        memory: int = DEFAULT_MEMORY,
        order: Order = "auto",
        clusters: bool = False,
        summary_mass: float = SUMMARY_MASS,
        report: Report | None = None,
    ) -> Index:
        """Build an index; the folder holds either the whole new index or what it held before.

        Args:
            path: The folder.
            source: Documents ({"_id", "text", perhaps "title" and more}), a corpus, vectors, or a matrix.
            encoder: Encodes documents, and later queries; by default `lsr.encode.base.DEFAULT_ENCODER`. For
                vectors, the one that made them.
            ids: For a matrix, the ids of its rows; by default their numbers.
            impacts: "uint8", or "float32" for weights as they are at three times the size.
            passages: Cut documents into passages; a document's score is then that of its best passage.
            store_text: Keep titles, texts and metadata.
            overwrite: Replace the index that is there.
            memory: Bytes to hold while building, roughly, without the encoder's.
            order: "bisection" stores similar documents side by side, so that search can skip more of them; "given"
                stores them as they come. "auto" is "bisection" from 20,000 documents on, or with clusters. Results are
                the same.
            clusters: Write clusters too, for approximate search: about twice the size without texts. Only with 8-bit
                impacts.
            summary_mass: The share of a cluster's largest impacts that its summary holds, above 0 and at most 1.
            report: Filled in with what was met on the way.

        Returns:
            The index, open.

        Raises:
            OutputExists: The folder holds an index, or something else.
            DataError: A bad document or vector, a doubled id.
        """
        path = Path(path)
        if isinstance(encoder, str):
            encoder = load_encoder(encoder)
        # Fitted or default, whatever encoded the documents encodes the queries.
        encoder = build_index(
            path,
            source,
            encoder=encoder,
            ids=ids,
            impacts=impacts,
            passages=passages,
            store_text=store_text,
            overwrite=overwrite,
            memory=memory,
            order=order,
            clusters=clusters,
            summary_mass=summary_mass,
            report=report if report is not None else Report(),
        )
        return cls(path, read_manifest(path), encoder)

    @classmethod
    def open(cls, path: str | PathLike[str], *, encoder: Encoder | str | None = None) -> Index:
        """Open an index; nothing is read but what is small.

        Args:
            path: The folder.
            encoder: For queries, instead of the one that the index carries; has to be the one that made it.

        Raises:
            IndexFormatError: Not an index, or one of a later format.
            CorruptIndex: A file is missing, cut short or, if small, changed.
            EncoderMismatch: Another encoder made the index.
        """
        path = Path(path)
        if isinstance(encoder, str):
            encoder = load_encoder(encoder)
        manifest = read_manifest(path)
        try:
            if wrong := check_files(path, manifest):
                raise CorruptIndex("\n".join(wrong))
            index = cls(path, manifest, encoder)
        except CorruptIndex:
            if read_manifest(path) == manifest:
                raise
            return cls.open(path, encoder=encoder)  # it was replaced while we looked at it
        if encoder is not None:
            index.fingerprint.require_same(encoder.fingerprint, f"the index {path}", "the query encoder")
        return index

    # --- what it is ------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return int(self._manifest["n_docs"])

    def __repr__(self) -> str:
        return f"Index({str(self.path)!r}, {len(self)} documents, {self.fingerprint})"

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """Of the encoder that made the vectors."""
        return Fingerprint.from_json(self._manifest["fingerprint"], str(self.path))

    @property
    def has_passages(self) -> bool:
        """Whether documents were cut into passages."""
        return bool(self._manifest["has_parents"])

    @property
    def has_clusters(self) -> bool:
        """Whether it has clusters, for approximate search."""
        return self.segment.clusters is not None

    @property
    def max_error(self) -> float:
        """The largest difference between a document's weight and what is stored for it."""
        return float(self._manifest["impacts"]["max_error"])

    @property
    def n_postings(self) -> int:
        """Number of stored weights."""
        return int(self._manifest["n_postings"])

    def document_frequencies(self, terms: NDArray[np.uint32]) -> NDArray[np.int64]:
        """(n,) int64, in how many documents each of (n,) terms occurs."""
        at = np.searchsorted(self.segment.terms, terms)
        known = at < len(self.segment.terms)
        known[known] = self.segment.terms[at[known]] == terms[known]
        found = np.zeros(len(terms), np.int64)
        found[known] = self.segment.df[at[known]]
        return found

    def file_sizes(self) -> dict[str, int]:
        """Bytes of each file."""
        return {name: int(entry["bytes"]) for name, entry in self._manifest["files"].items()}

    @cached_property
    def encoder(self) -> Encoder:
        """What encodes queries: the encoder given, or the one that the index carries.

        Raises:
            EncoderError: There is none.
        """
        if self._given_encoder is not None:
            return self._given_encoder
        if not self._encoder_files:
            raise EncoderError(
                f"{self.path}: this index was built from vectors without their encoder ({self.fingerprint}): "
                "search it with vectors, or name the encoder (--encoder, Index.open(..., encoder=...))"
            )
        encoder = load_encoder_files(self._encoder_files)
        self.fingerprint.require_same(encoder.fingerprint, f"the index {self.path}", "the encoder it carries")
        return encoder

    @cached_property
    def vocabulary(self) -> list[str] | None:
        """Token of each term, or None where the tokens aren't known."""
        return list(self._tokens.batch(0).column(0).to_pylist()) if self._tokens else None

    @cached_property
    def _term_of(self) -> dict[str, int]:
        return {token: term for term, token in enumerate(self.vocabulary or ())}

    # --- searching -------------------------------------------------------------------------------------------------

    def search(self, query: Query, k: int = 10, **settings: Any) -> list[Hit]:
        """The k best documents.

        Args:
            query: A text, a {token: weight} mapping, or a matrix of one row.
            k: How many at most. Documents that share no term with the query are never among them.
            settings: Of `SearchSettings`: algorithm, alpha, beta, guaranteed, cut, heap_factor. Without any the search
                is exact.

        Returns:
            Hits by descending score; equal scores by the order in which the documents were added.

        Raises:
            EncoderError: A text, but the index has no encoder.
        """
        vector = self.query_vectors([query] if isinstance(query, str | Mapping) else query)
        if len(vector) != 1:
            raise ValueError(f"search takes one query, got {len(vector)}; search_batch takes many")
        return self._hits(vector, *self._top(vector, k, _settings(settings)))

    def search_batch(
        self,
        queries: Sequence[str | Mapping[str, float]] | SparseMatrix,
        k: int = 10,
        *,
        threads: int = 0,
        **settings: Any,
    ) -> list[list[Hit]]:
        """The k best documents of many queries, on all cores.

        Args:
            queries: Texts, {token: weight} mappings, or a matrix with a row for each.
            k: How many at most for each.
            threads: Cores to use; 0 for all.
            settings: As for `search`.
        """
        chosen = _settings(settings)
        vectors = self.query_vectors(queries)
        rows = [vectors[i] for i in range(len(vectors))]
        _checked_k(k)
        with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
            found = list(pool.map(lambda row: self._top(row, k, chosen), rows))
        return [self._hits(row, docs, scores) for row, (docs, scores) in zip(rows, found, strict=True)]

    def query_vectors(self, queries: Sequence[str | Mapping[str, float]] | SparseMatrix) -> SparseMatrix:
        """Queries of any form as a matrix; tokens that the vocabulary lacks are left out, as no document has them.

        Raises:
            DataError: A weight that is negative, infinite or not a number.
        """
        if isinstance(queries, SparseMatrix):
            size = self.fingerprint.vocabulary_size
            if size is not None and queries.shape[1] > size and queries.nnz and int(queries.indices.max()) >= size:
                raise DataError(
                    f"the query has term {int(queries.indices.max())}, the index' vocabulary has {size} terms"
                )
            return queries
        if len(queries) and all(isinstance(query, str) for query in queries):
            return self.encoder.encode_query(list(queries))  # type: ignore[arg-type]
        rows = []
        for query in queries:
            if not isinstance(query, Mapping):
                raise TypeError(f"a query is a text or a mapping of token to weight, got {type(query).__name__}")
            if self.vocabulary is None:
                raise DataError(f"{self.path}: this index doesn't know its tokens; search it with a SparseMatrix")
            rows.append({self._term_of[t]: w for t, w in query.items() if t in self._term_of})
        try:
            return SparseMatrix.from_dicts(rows, max(len(self._term_of), 1))
        except ValueError as error:
            raise DataError(str(error), "query") from None

    def explain_plan(self, query: Query, k: int = 10, **settings: Any) -> Plan:
        """Search, and tell what ran and how many blocks, windows and postings it touched.

        Args:
            query: As for `search`.
            k: How many documents; for passages, what the first step toward k documents does.
            settings: As for `search`.
        """
        vector = self.query_vectors([query] if isinstance(query, str | Mapping) else query)
        if len(vector) != 1:
            raise ValueError(f"explain_plan takes one query, got {len(vector)}")
        _checked_k(k)
        terms, weights = vector.row(0)
        return self.segment.plan(terms, weights, _PASSAGES * k if self.has_passages else k, _settings(settings))

    def recall(
        self, queries: Sequence[str | Mapping[str, float]] | SparseMatrix | None = None, k: int = 10, **settings: Any
    ) -> float:
        """How much of the exact result a search finds: to choose alpha, or cut and heap_factor.

        Args:
            queries: As for `search_batch`. None takes `sample()`: that says more of how settings compare than of what
                real queries would find.
            k: How many documents; of an index of passages, how many passages.
            settings: As for `search`.

        Returns:
            The share of the places of the exact results that hold documents whose scores reach the k-th best; 1.0
            where nothing is to be found.

        Raises:
            IndexFormatError: The index has no clusters.
        """
        _checked_k(k)
        chosen = _settings(settings)
        vectors = self.sample() if queries is None else self.query_vectors(queries)

        def count(i: int) -> tuple[int, int]:
            terms, weights = vectors.row(i)
            _, exact = self.segment.search(terms, weights, k)
            _, found = self.segment.search(terms, weights, k, chosen)
            return int((found >= exact[-1]).sum()) if len(exact) else 0, len(exact)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            hits, places = np.array(list(pool.map(count, range(len(vectors)))), np.int64).reshape(-1, 2).sum(axis=0)
        return float(hits / places) if places else 1.0

    def sample(self) -> SparseMatrix:
        """200 documents, cut to their 24 heaviest terms, as queries: always the same ones.

        Raises:
            IndexFormatError: The index has no clusters.
        """
        return self.segment.sample(*_SAMPLE)

    def _top(
        self, vector: SparseMatrix, k: int, settings: SearchSettings
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Documents and scores of one query; passages rolled up to their documents."""
        _checked_k(k)
        terms, weights = vector.row(0)
        if not self.has_passages:
            return self.segment.search(terms, weights, k, settings)
        depth = _PASSAGES * k
        while True:
            # A document's best passage is the first of it in the ranking, so the first k documents are exact.
            docs, scores = self.segment.search(terms, weights, depth, settings)
            best: dict[str, int] = {}
            for place, doc in enumerate(docs.tolist()):
                best.setdefault(self.documents.parent(doc) or self.documents.id(doc), place)
                if len(best) == k:
                    break
            if len(best) == k or len(docs) < depth:
                places = list(best.values())
                return docs[places], scores[places]
            depth *= _PASSAGES

    def _hits(self, query: SparseMatrix, docs: NDArray[np.int64], scores: NDArray[np.float64]) -> list[Hit]:
        return [Hit(self, doc, score, query) for doc, score in zip(docs.tolist(), scores.tolist(), strict=True)]

    # --- explaining and checking -----------------------------------------------------------------------------------

    def explain(self, query: Query, doc_id: str, *, origins: bool = True) -> Explanation:
        """Why a document has its score for a query; the document need not be among the hits.

        Args:
            query: A text, a {token: weight} mapping, or a matrix of one row.
            doc_id: The document's id.
            origins: Have the documents' model, where it is at hand, read the document again and tell which words its
                expansions come from.

        Raises:
            DataError: No document has this id.
        """
        doc = self.documents.find(doc_id)
        if doc is None and self.has_passages and "#" not in doc_id:
            raise DataError(f"{self.path}: documents are cut into passages here; explain {doc_id + '#0'!r} or the like")
        if doc is None:
            raise DataError(f"{self.path}: no document has the id {doc_id!r}")
        vector = self.query_vectors([query] if isinstance(query, str | Mapping) else query)
        if len(vector) != 1:
            raise ValueError(f"explain takes one query, got {len(vector)}")
        return self._explain(vector, doc, origins)

    def _explain(self, query: SparseMatrix, doc: int, origins: bool) -> Explanation:
        terms, weights = query.row(0)
        impacts = self.segment.impacts_of(doc, terms)
        scores = weights.astype(np.float64) * impacts
        total = float(scores.sum())
        title, text, _ = self.documents.fields(doc)
        content = Document("", text, title).content
        spans = self._spans(content)
        sources: dict[int, tuple[int, int]] = {}
        if origins and spans is not None:
            sources = self._origins(content, [term for term in terms[impacts > 0].tolist() if term not in spans])
        tokens = self.vocabulary
        contributions = []
        for i in np.lexsort((terms, -scores)).tolist():
            term, score = int(terms[i]), float(scores[i])
            found = tuple(spans.get(term, ())) if spans is not None else ()
            kind = "match" if found else "expansion"
            contributions.append(
                Contribution(
                    term=term,
                    token=tokens[term] if tokens is not None and term < len(tokens) else f"term {term}",
                    query_weight=float(weights[i]),
                    impact=float(impacts[i]),
                    score=score,
                    share=score / total if total else 0.0,
                    kind="missing" if not impacts[i] else "" if spans is None else kind,
                    spans=found,
                    origin=sources.get(term),
                )
            )
        return Explanation(self.documents.id(doc), total, tuple(contributions), content)

    def _spans(self, content: str) -> dict[int, list[tuple[int, int]]] | None:
        """Where each term stands in a text; None where there is no text or no encoder to tell."""
        if not content or (self._given_encoder is None and not self._encoder_files):
            return None
        spans: dict[int, list[tuple[int, int]]] = {}
        for term, start, end in self.encoder.spans(content):
            spans.setdefault(term, []).append((start, end))
        return spans

    def _origins(self, content: str, terms: list[int]) -> dict[int, tuple[int, int]]:
        """Which word each expansion comes from; nothing where the documents' model is elsewhere or can't be run."""
        try:
            return self.encoder.origins(content, terms) if terms else {}
        except (EncoderError, EncoderMismatch):
            return {}

    def verify(self) -> list[str]:
        """Check every byte; a message for each file that is damaged, none if all is well."""
        return check_files(self.path, self._manifest, every_byte=True)


def _checked_k(k: int) -> None:
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise ValueError(f"k must be a whole number of at least 1, got {k!r}")


def _settings(given: Mapping[str, Any]) -> SearchSettings:
    try:
        return SearchSettings(**given)
    except TypeError as error:
        names = ", ".join(field.name for field in fields(SearchSettings))
        raise TypeError(f"{str(error).rpartition('() ')[2]}; settings of a search are {names}") from None
