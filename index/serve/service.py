"""Served: an index that answers requests, each from one snapshot, and is changed by one request at a time."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from itertools import islice
from typing import Any

from lsr.errors import LsrError
from lsr.fingerprint import Fingerprint
from lsr.index.hybrid.hybrid import Hybrid
from lsr.index.index import Index
from lsr.index.search.explain import query_words
from lsr.index.search.hits import Hits
from lsr.index.search.options import Options
from lsr.index.search.reader import Reader
from lsr.index.serve import schemas
from lsr.index.serve.index_info import facts_of
from lsr.index.serve.problems import Problem, wrong_values
from lsr.index.serve.rows import counts_of, document_rows, hit_rows, token_weights, word_weights
from lsr.index.serve.settings import ServeSettings
from lsr.index.serve.thread_pool import Deadline
from lsr.index.write.update_batch import Change
from lsr.io.document import Document, document_batch
from lsr.io.vectors import VectorBatch, Vectors
from lsr.sparse import SparseMatrix

_ASK_STORAGE = 60.0  # seconds between checks of an index in object storage


class Served:
    """A served index. The methods return JSON-serializable responses.

    Attributes:
        name: The index's name in requests.
        index: The index.
        trouble: Why another process's commit can't be opened; empty if there is no problem.
    """

    def __init__(self, name: str, index: Index, settings: ServeSettings) -> None:
        self.name, self.index, self.trouble = name, index, ""
        self._settings = settings
        self._looked = time.monotonic()  # when object storage was last checked
        self._facts: tuple[str, dict[str, Any]] = ("", {})

    # --- searching --------------------------------------------------------------------------------------------------

    def search(self, asked: schemas.Search, deadline: Deadline) -> dict[str, Any]:
        """Answer a search."""
        deadline.check()
        reader, started = self.index.pinned(), time.perf_counter()
        query = asked.query if asked.query is not None else asked.vector or {}
        bare = _without_operators(query, asked)
        vector, unknown = _vector(reader, bare)
        search = self._search(reader, query, vector, asked, asked.dense)
        encoded = time.perf_counter()
        hits = search()
        ended = time.perf_counter()
        words = query_words(reader.encoder, bare) if isinstance(bare, str) else {}
        answer: dict[str, Any] = {
            "index": self.name,
            "snapshot": reader.snapshot.id,
            "query": {
                "vector": token_weights(reader, vector),
                "words": word_weights(reader, vector, words),
                "unknown": unknown,
            },
            "took": {
                "encode_ms": round((encoded - started) * 1e3, 3),
                "search_ms": round((ended - encoded) * 1e3, 3),
            },
        }
        if asked.plan:
            plan = reader.explain_plan(vector, asked.k, where=asked.where, **vars(asked.settings))
            answer["plan"] = plan.to_json()
        answer["hits"] = self._described([hits], asked, deadline)[0]
        answer |= counts_of(hits)
        if asked.explain:
            for described, hit in zip(answer["hits"], hits, strict=True):
                deadline.check()
                described["explanation"] = hit.explain(origins=asked.origins).named(words).to_json()
        return answer

    def search_batch(self, asked: schemas.SearchBatch, deadline: Deadline) -> dict[str, Any]:
        """Answer a search for many queries."""
        reader, found = self.index.pinned(), []
        if asked.dense is not None and len(asked.dense) != len(asked.queries):
            raise wrong_values([("dense", f"{len(asked.dense)} vectors for {len(asked.queries)} queries")])
        for i, query in enumerate(asked.queries):
            deadline.check()
            vector, _ = _vector(reader, _without_operators(query, asked))
            dense = None if asked.dense is None else asked.dense[i]
            found.append(self._search(reader, query, vector, asked, dense)())
        results = self._described(found, asked, deadline)
        answer: dict[str, Any] = {"index": self.name, "snapshot": reader.snapshot.id, "results": results}
        counted = [counts_of(hits) for hits in found]
        if asked.facets or asked.total:
            answer |= {"totals": [one["total"] for one in counted], "facets": [one["facets"] for one in counted]}
        return answer

    def similar(self, asked: schemas.Similar, deadline: Deadline) -> dict[str, Any]:
        """Find similar documents."""
        deadline.check()
        reader = self.index.pinned()
        options = asked.options(self._settings)
        hits = reader.similar(asked.id, asked.k, where=asked.where, **vars(asked.settings), **options)
        rows = self._described([hits], asked, deadline)[0]
        return {"index": self.name, "snapshot": reader.snapshot.id, "hits": rows, **counts_of(hits)}

    def explain(self, asked: schemas.Explain, deadline: Deadline) -> dict[str, Any]:
        """Explain a document's score."""
        deadline.check()
        query = asked.query if asked.query is not None else asked.vector or {}
        settings = vars(asked.settings)
        why = self.index.pinned().explain(
            query, asked.id, origins=asked.origins, where=asked.where, dense=asked.dense, **settings
        )
        return {"index": self.name, **why.to_json(), "content": why.content, "title_length": why.title_length}

    def encode(self, asked: schemas.Encode, deadline: Deadline) -> dict[str, Any]:
        """Encode a text as a query."""
        deadline.check()
        reader = self.index.pinned()
        return {"index": self.name, "vector": token_weights(reader, reader.query_vectors([asked.text]))}

    def document(self, doc_id: str) -> dict[str, Any]:
        """Return a stored document.

        Raises:
            Problem: The id is unknown.
        """
        documents = self.index.pinned().documents
        doc, passages = documents.find(doc_id), documents.passages(doc_id)
        if doc is None and not passages:
            raise Problem(404, f"the index {self.name} has no document {doc_id[:200]!r}")
        title, text, metadata = documents.fields(passages[0] if doc is None else doc)
        found = {"index": self.name, "id": doc_id, "title": title, "text": text, "metadata": metadata}
        if doc is None:
            found |= {"text": "", "passages": [documents.id(passage) for passage in passages]}
        elif parent := documents.parent(doc):
            found["parent"] = parent
        return found

    def suggest(self, asked: schemas.Suggest, deadline: Deadline) -> dict[str, Any]:
        """Suggest completions and corrections."""
        deadline.check()
        reader = self.index.pinned()
        return {
            "index": self.name,
            "suggestions": [asdict(one) for one in reader.suggest(asked.text, asked.limit)],
            "corrections": reader.corrections(asked.text, asked.nearest),
            "did_you_mean": reader.did_you_mean(asked.text),
        }

    def get_many(self, asked: schemas.GetMany) -> dict[str, Any]:
        """Return documents by id."""
        return self._documents(self.index.pinned().get_many(asked.ids))

    def list_documents(self, asked: schemas.ListDocuments) -> dict[str, Any]:
        """List documents in the order in which they were added.

        Raises:
            Problem: The last document of the previous page was deleted or replaced.
        """
        snapshot, first = self.index.pinned().snapshot, 0
        if asked.after is not None:
            if (last := snapshot.documents.find(asked.after)) is None:
                raise Problem(409, f"the document {asked.after[:200]!r} was deleted or replaced meanwhile: start again")
            first = last + 1
        numbers = list(islice(snapshot.numbers(asked.where, first), asked.most + 1))
        answer = self._documents([snapshot.documents.stored(doc) for doc in numbers[: asked.most]])
        return answer | {"more": len(numbers) > asked.most}

    def _documents(self, found: Sequence[Document | None]) -> dict[str, Any]:
        return {"index": self.name, "documents": document_rows(found, self._settings.max_answer)}

    def count(self, asked: schemas.Count) -> dict[str, Any]:
        """Count the documents that match a filter."""
        return {"index": self.name, "count": self.index.pinned().count(asked.where)}

    def duplicates(self, asked: schemas.Duplicates) -> dict[str, Any]:
        """Find all pairs of near-duplicates.

        Raises:
            Problem: There are more pairs than a response may have.
        """
        found = self.index.pinned().duplicates(asked.threshold, where=asked.where)
        if len(found) > (most := self._settings.max_hits):
            message = (
                f"{len(found):,} pairs are similar, but at most {most:,} are returned: raise the threshold, or pass a "
                "filter"
            )
            raise wrong_values([("threshold", message)])
        return {"index": self.name, "duplicates": [asdict(one) for one in found]}

    def _search(
        self,
        reader: Reader,
        query: str | dict[str, float],
        vector: SparseMatrix,
        asked: schemas.HowToSearch,
        dense: list[float] | None,
    ) -> Callable[[], Hits]:
        """Encode whatever the search needs besides `vector`, and return a function that runs the search."""
        settings = vars(asked.settings)
        if asked.rerank and not isinstance(query, str):
            raise wrong_values([("rerank", "a re-ranker reads texts: give a query, not a vector")])
        if asked.hybrid is None:
            by_text = reader.has_dense if asked.settings.mode == "auto" else asked.settings.mode != "sparse"
            takes_text = by_text or asked.syntax != "plain" or asked.rerank
            one, options = query if takes_text else vector, asked.options(self._settings)
            return reader.prepare(one, asked.k, where=asked.where, dense=dense, **settings, **options)
        if dense is not None:
            raise wrong_values([("dense", 'can\'t be combined with hybrid; use the setting "mode" instead')])
        hybrid = Hybrid(reader, **vars(asked.hybrid))
        return partial(hybrid.search, vector, asked.k, where=asked.where, threads=1, **settings)

    def _described(
        self, found: Sequence[Hits], asked: schemas.HowToSearch, deadline: Deadline
    ) -> list[list[dict[str, Any]]]:
        limit = self._settings.max_answer
        return hit_rows(found, deadline, offset=asked.offset, fields=asked.fields is not False, max_answer=limit)

    # --- changing, one call at a time -------------------------------------------------------------------------------

    def add(self, asked: schemas.Add) -> dict[str, Any]:
        """Add or update documents, all or none."""
        had = self.index.pending
        with_vectors = [document.vector is not None for document in asked.documents]
        wrong = [
            (f"documents.{i}", "needs a text or a vector")
            for i, document in enumerate(asked.documents)
            if document.text is None and document.vector is None
        ]
        if any(with_vectors) and not all(with_vectors):
            wrong.append(("documents", "either all have vectors, or none; send two requests"))
        for i, document in enumerate(asked.documents):
            try:
                json.dumps(document.metadata, allow_nan=False)
            except ValueError:
                wrong.append((f"documents.{i}.metadata", "numbers must be finite: JSON has no NaN and no infinity"))
        if wrong:
            raise wrong_values(wrong)
        documents = [Document(one.id, one.text or "", one.title, one.metadata, one.parent) for one in asked.documents]
        source: Any = self._with_vectors(documents, asked) if all(with_vectors) else documents
        change = (self.index.update if asked.update else self.index.add)(source, skip_bad=asked.skip_bad)
        return self._settled(change, asked.commit, had)

    def _with_vectors(self, documents: list[Document], asked: schemas.Add) -> Vectors:
        tokens: dict[str, int] = {}
        given = [one.vector or {} for one in asked.documents]
        rows = [{tokens.setdefault(token, len(tokens)): weight for token, weight in v.items()} for v in given]

        def read(_: Vectors) -> Iterator[VectorBatch]:
            yield VectorBatch(document_batch(documents), SparseMatrix.from_dicts(rows, max(len(tokens), 1)))

        # Without a fingerprint, the tokens are assumed to be the index's tokens, as for JSONL files.
        fingerprint = asked.fingerprint or Fingerprint()
        return Vectors("documents", read, fingerprint=fingerprint, vocabulary=list(tokens))

    def delete(self, asked: schemas.Delete) -> dict[str, Any]:
        """Delete documents."""
        if not asked.ids and not asked.where:
            raise wrong_values([("ids", "name documents, or pass a filter that isn't empty")])
        had = self.index.pending
        return self._settled(self.index.delete(asked.ids, where=asked.where), asked.commit, had)

    def _settled(self, change: Change, commit: bool, had: bool) -> dict[str, Any]:
        """Commit if requested. If the commit fails, roll back, unless changes were pending before this call (`had`)."""
        if commit:
            try:
                self.index.commit()
            except BaseException:
                if not had:
                    self.index.rollback()
                raise
        told = asdict(change)
        del told["report"]
        return {"index": self.name, **told, "committed": commit, "documents": len(self.index)}

    def commit(self, merge: bool) -> dict[str, Any]:
        """Make changes visible."""
        had = self.index.pending
        self.index.commit(merge=merge)
        return self._done(had)

    def rollback(self) -> dict[str, Any]:
        """Discard the changes since the last commit."""
        had = self.index.pending
        self.index.rollback()
        return self._done(had)

    def merge(self, everything: bool) -> dict[str, Any]:
        """Commit, then merge segments."""
        return self._done(self.index.merge(everything=everything))

    def _done(self, done: bool) -> dict[str, Any]:
        return {"index": self.name, "done": done, "documents": len(self.index), "segments": self.index.n_segments}

    # --- commits by others ------------------------------------------------------------------------------------------

    @property
    def stale(self) -> bool:
        """Whether to refresh: a file's date has changed, or the last refresh failed.

        An index in object storage is refreshed at fixed intervals.
        """
        if self.index.uri:
            return time.monotonic() - self._looked >= _ASK_STORAGE
        return bool(self.trouble) or self.index.stale

    def refresh(self) -> bool:
        """Move to the latest commit; return whether there was a new one."""
        self._looked = time.monotonic()
        return self.index.refresh()

    # --- information ------------------------------------------------------------------------------------------------

    def facts(self) -> dict[str, Any]:
        """Return the index's entry in /v1/indexes; cached per commit."""
        reader = self.index.pinned()
        if self._facts[0] != reader.snapshot.id:
            writable, reranks = self._settings.writable, self._settings.rerank is not None
            self._facts = reader.snapshot.id, facts_of(self.name, reader, writable=writable, reranks=reranks)
        return self._facts[1]

    def stats(self) -> dict[str, Any]:
        """Return the response of /v1/stats."""
        reader = self.index.pinned()
        return {
            "index": self.name,
            "snapshot": reader.snapshot.id,
            "documents": len(reader),
            "segments": reader.n_segments,
            "postings": reader.n_postings,
            "bytes": reader.file_sizes(),
            "max_error": reader.max_error,
            "pending": self.index.pending,
            "refreshed": self.trouble,
        }

    def warm_up(self) -> None:
        """Run a search, which loads what the first request would otherwise have to wait for."""
        if self.facts()["takes_text"]:
            self.index.search("a", 1)

    def load_origins(self) -> None:
        """Load the document encoder, which explanations use, if it is available locally."""
        with suppress(LsrError):  # explanations work without it
            self.index.pinned().encoder.origins("a", [0])


def _vector(reader: Reader, query: str | dict[str, float]) -> tuple[SparseMatrix, list[str]]:
    """Return a query's vector, and its tokens that aren't in the vocabulary."""
    vector = reader.query_vectors([query])
    term_of = reader.snapshot.shared.term_of
    return vector, [] if isinstance(query, str) else [token for token in query if token not in term_of]


def _without_operators(query: str | dict[str, float], asked: schemas.HowToSearch) -> Any:
    """Return the part of a query to encode."""
    return Options(syntax=asked.syntax).split(query)[0]
