"""Client: a served index with the interface of `Index`; needs only the base installation.

index = Client("http://127.0.0.1:8000", key=os.environ["LSR_KEY"])
for hit in index.search("a question", k=10, where={"year": {">=": 2020}}):
    print(hit.id, hit.score, hit.explain().words())
index.add([{"_id": "a", "text": "..."}])
index.commit()
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from os import PathLike
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self, Unpack
from urllib.parse import quote, urlencode

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lsr.errors import DataError
from lsr.index.protocols import AnyQuery, AnySource, SearchIndex
from lsr.index.search.duplicates import Duplicate
from lsr.index.search.explain import Contribution, DensePart, Explanation
from lsr.index.search.hits import Hits, ShownDocuments
from lsr.index.search.options import STORED, Options, split_options
from lsr.index.search.query_encoder import as_queries, search_settings
from lsr.index.search.selection import Selected, select
from lsr.index.search.settings import Plan, RankingOptions, SearchOptions
from lsr.index.search.words import Suggestion
from lsr.index.segment.filters import Filter, Where
from lsr.index.serve.client_bodies import (
    AnsweredDocuments,
    AnsweredRanking,
    change_of,
    dense_body,
    document_body,
    document_of,
    query_body,
    search_body,
    vector_rows,
    where_body,
)
from lsr.index.serve.connections import Connections
from lsr.index.write.update_batch import Change
from lsr.io.corpus import Corpus, documents_corpus
from lsr.io.document import Document, as_ids, require_id
from lsr.io.jsonl import given_documents
from lsr.io.vectors import Vectors

_AT_ONCE = 1000  # documents per request


def _again(url: str, index: str | None, key: str | None, timeout: float) -> Client:
    return Client(url, index, key=key, timeout=timeout)


class Client:
    """An index over HTTP. Arguments, results and errors are as for `Index`; safe to use from many threads.

    Changes are buffered on the server, where a commit by any client makes all of them visible.

    Args:
        url: The server's URL.
        index: The index's name; by default the server's first index.
        key: A reader's or writer's key, if the server requires one.
        timeout: Seconds to wait for an answer.

    Raises:
        ValueError: `url` isn't a server's URL.
    """

    def __init__(self, url: str, index: str | None = None, *, key: str | None = None, timeout: float = 60.0) -> None:
        self._given, self._url, self._index = (url, index, key, timeout), url, index
        self._connections = Connections(url, key, timeout)

    def __reduce__(self) -> Any:
        return _again, self._given

    def close(self) -> None:
        """Close the connections; later calls open new ones."""
        self._connections.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self._url!r}, {self._index!r})"

    def __len__(self) -> int:
        return int(self._get("/v1/stats")["documents"])

    # --- searching --------------------------------------------------------------------------------------------------

    def search(
        self,
        query: AnyQuery,
        k: int = 10,
        *,
        where: Where | Filter | None = None,
        dense: ArrayLike | None = None,
        hybrid: Mapping[str, Any] | None = None,
        **settings: Unpack[SearchOptions],
    ) -> Hits:
        """Return the k best documents; see `Index.search`.

        Args:
            query: A text, or a {token: weight} mapping.
            k: Maximum number of hits.
            where: A filter on metadata.
            dense: The query's dense vector, for modes "hybrid" and "dense"; by default the server encodes the text.
            hybrid: Settings of `Hybrid`, for an index with a hybrid encoder: method, weights, depth, normalization,
                rrf_k.
            settings: As for `Index.search`. A re-ranker runs in this process, on texts sent by the server; rerank=True
                uses the server's re-ranker (`lsr serve --rerank`).

        Returns:
            The hits. `Hit.doc` is the position among them, and `Hit.explain` asks the server.
        """
        options, chosen = split_options(settings)
        asked = query_body(query) | search_body(where, hybrid, options, chosen)
        if dense is not None:
            asked["dense"] = dense_body(dense)
        if options.reranks_here:
            return self._reranked("/v1/search", query, k, options, asked)
        return self._hits(query, self._post("/v1/search", asked | {"k": k}), options, how=asked)

    def search_batch(
        self,
        queries: Iterable[AnyQuery],
        k: int = 10,
        *,
        where: Where | Filter | None = None,
        dense: Sequence[ArrayLike] | NDArray[np.float32] | None = None,
        hybrid: Mapping[str, Any] | None = None,
        **settings: Unpack[SearchOptions],
    ) -> list[Hits]:
        """Search for many queries, all in the same commit; see `Index.search_batch`."""
        options, chosen = split_options(settings)
        queries = as_queries(queries)
        near = None if dense is None else [dense_body(vector) for vector in dense]
        if near is not None and len(near) != len(queries):
            raise DataError(f"{len(near)} dense vectors for {len(queries)} queries: give one for each", "query")
        if options.reranks_here:
            return [
                self.search(query, k, where=where, dense=near and near[i], hybrid=hybrid, **settings)
                for i, query in enumerate(queries)
            ]
        how = search_body(where, hybrid, options, chosen)
        asked = {"queries": [next(iter(query_body(query).values())) for query in queries], "k": k} | how
        if near is not None:
            asked["dense"] = near
        found = self._post("/v1/search/batch", asked)
        totals, facets = found.get("totals") or [None] * len(queries), found.get("facets") or [None] * len(queries)
        answers = [
            {"hits": hits, "total": total, "facets": counts}
            for hits, total, counts in zip(found["results"], totals, facets, strict=True)
        ]
        each = [how] * len(queries) if near is None else [how | {"dense": vector} for vector in near]
        return [
            self._hits(query, answer, options, how=one)
            for query, answer, one in zip(queries, answers, each, strict=True)
        ]

    def similar(
        self,
        doc_id: str | int,
        k: int = 10,
        *,
        where: Where | Filter | None = None,
        **settings: Unpack[SearchOptions],
    ) -> Hits:
        """Return the k most similar documents; see `Index.similar`. These hits can't be explained."""
        options, chosen = split_options(settings)
        asked = {"id": require_id(doc_id)} | search_body(where, None, options, chosen)
        if not options.reranks_here:
            return self._hits(None, self._post("/v1/similar", asked | {"k": k}), options)
        found = self._stored(asked["id"])
        if passages := found.get("passages"):
            found = self._stored(passages[0])
        content = Document("", found["text"], found["title"]).content
        return self._reranked("/v1/similar", content, k, options, asked)

    def suggest(self, text: str, limit: int = 10) -> list[Suggestion]:
        """Suggest completions while a user types; see `Index.suggest`."""
        return [Suggestion(**one) for one in self._post("/v1/suggest", {"text": text, "limit": limit})["suggestions"]]

    def corrections(self, text: str, limit: int = 3) -> dict[str, list[str]]:
        """Suggest corrections for unknown words of a query; see `Index.corrections`."""
        return dict(self._post("/v1/suggest", {"text": text, "limit": 1, "nearest": limit})["corrections"])

    def did_you_mean(self, text: str) -> str | None:
        """Return the query with unknown words corrected; see `Index.did_you_mean`."""
        found: str | None = self._post("/v1/suggest", {"text": text, "limit": 1})["did_you_mean"]
        return found

    def duplicates(self, threshold: float = 0.9, *, where: Where | Filter | None = None) -> list[Duplicate]:
        """Find all pairs of near-duplicates; see `Index.duplicates`.

        Requires a writer's key, because time and memory grow with the index.
        """
        found = self._post("/v1/duplicates", {"threshold": threshold, "where": where_body(where)})["duplicates"]
        return [Duplicate(**one) for one in found]

    def _reranked(self, path: str, query: AnyQuery, k: int, options: Options, asked: dict[str, Any]) -> Hits:
        """Return one page of the re-ranked results."""
        if options.diversity:
            raise ValueError(
                "diversity needs document vectors, which a client that re-ranks lacks: leave out diversity or rerank"
            )
        asked = asked | {"offset": 0}
        for name in ("group_by", "per_group", "depth"):
            asked.pop(name, None)
        if options.shown is not None:  # the server has to check the columns, but a re-ranker needs every field
            asked["fields"] = [*STORED, *options.shown]
        ranking = AnsweredRanking(lambda n: self._post(path, asked | {"k": n}))
        found = select(ranking, query, k, options)
        return self._hits(query if path == "/v1/search" else None, ranking.answer, options, found, how=asked)

    def explain(
        self,
        query: AnyQuery,
        doc_id: str | int,
        *,
        origins: bool = True,
        where: Where | Filter | None = None,
        dense: ArrayLike | None = None,
        **settings: Unpack[RankingOptions],
    ) -> Explanation:
        """Explain a document's score for a query; see `Index.explain`."""
        how: dict[str, Any] = {"where": where_body(where), "settings": vars(search_settings(settings))}
        if dense is not None:
            how["dense"] = dense_body(dense)
        return self._explain(query, require_id(doc_id), how, origins=origins)

    def _explain(self, query: AnyQuery, doc_id: str, how: Mapping[str, Any], *, origins: bool) -> Explanation:
        """Explain a hit of a search; `how` contains the search's filter, settings and dense vector."""
        asked = query_body(query) | {"id": doc_id, "origins": origins}
        if how.get("settings", {}).get("mode", "sparse") != "sparse":  # older servers don't know these fields
            asked |= {name: how[name] for name in ("where", "settings", "dense") if name in how}
        found = self._post("/v1/explain", asked)
        terms = []
        for term in found["terms"]:
            spans = tuple((start, end) for start, end in term["spans"])
            origin = None if term["origin"] is None else (term["origin"][0], term["origin"][1])
            terms.append(Contribution(**term | {"spans": spans, "origin": origin}))
        title_length = found.get("title_length", 0)  # older servers don't send it
        part = DensePart(**found["dense"]) if found.get("dense") else None
        return Explanation(found["_id"], found["score"], tuple(terms), found["content"], title_length, dense=part)

    def explain_plan(
        self, query: AnyQuery, k: int = 10, *, where: Where | Filter | None = None, **settings: Unpack[RankingOptions]
    ) -> Plan:
        """Run a search and report what it did; see `Index.explain_plan`."""
        asked = query_body(query) | search_body(where, None, Options(), search_settings(settings))
        return Plan(**self._post("/v1/search", asked | {"k": k, "plan": True, "fields": False})["plan"])

    def encode(self, text: str) -> dict[str, float]:
        """Encode a text as a query: {token: weight}, heaviest first."""
        return dict(self._post("/v1/encode", {"text": text})["vector"])

    # --- documents --------------------------------------------------------------------------------------------------

    def document(self, doc_id: str) -> Document:
        """Return a stored document.

        Raises:
            ServerError: The id is unknown.
        """
        found = self._stored(doc_id)
        return Document(found["id"], found["text"], found["title"], found["metadata"] or None, found.get("parent"))

    def _stored(self, doc_id: str) -> dict[str, Any]:
        return self._get(f"/v1/documents/{quote(doc_id, safe='')}")

    def get(self, doc_id: str | int) -> Document | None:
        """Return a stored document; see `Index.get`."""
        return self.get_many([doc_id])[0]

    def get_many(self, doc_ids: Iterable[str | int]) -> list[Document | None]:
        """Return the stored document for each id; see `Index.get_many`."""
        if isinstance(doc_ids, str):
            raise TypeError(f"get_many takes several ids, got {doc_ids!r}; get takes one")
        ids, found = [require_id(doc_id) for doc_id in doc_ids], list[Document | None]()
        for first in range(0, len(ids), _AT_ONCE):
            rows = self._post("/v1/get", {"ids": ids[first : first + _AT_ONCE]})["documents"]
            found += [None if row is None else document_of(row) for row in rows]
        return found

    def __contains__(self, doc_id: object) -> bool:
        if isinstance(doc_id, bool) or not isinstance(doc_id, str | int):
            return False
        return self.get(doc_id) is not None

    def __iter__(self) -> Iterator[Document]:
        """Iterate over all documents (or passages) in the order in which they were added; see `stored`."""
        return self.stored()

    def stored(self, where: Where | Filter | None = None) -> Iterator[Document]:
        """Iterate over the documents that match a filter, in the order in which they were added; see `Index.stored`.

        Raises:
            ServerError: The last document of a page has been deleted or replaced, so the position is lost.
        """
        asked = {"most": _AT_ONCE} | ({} if where is None else {"where": where_body(where)})
        found = self._post("/v1/list", asked)

        def documents() -> Iterator[Document]:
            nonlocal found
            yield from map(document_of, found["documents"])
            while found["more"]:
                found = self._post("/v1/list", asked | {"after": found["documents"][-1]["id"]})
                yield from map(document_of, found["documents"])

        return documents()

    def count(self, where: Where | Filter | None = None) -> int:
        """Count all documents, or the documents that match a filter; see `Index.count`."""
        return int(self._post("/v1/count", {"where": where_body(where)})["count"])

    def _hits(
        self,
        query: AnyQuery | None,
        answer: Mapping[str, Any],
        options: Options,
        selected: Selected | None = None,
        how: Mapping[str, Any] = MappingProxyType({}),
    ) -> Hits:
        found = AnsweredDocuments(answer["hits"])
        said = None if query is None else options.split(query)[0]

        def explain(doc: int, *, origins: bool = True) -> Explanation:
            if said is None:
                raise DataError("a client can't explain similar documents: call Index.similar")
            return self._explain(said, found.id(doc), how, origins=origins)

        facets = {
            name: {row["value"]: row["count"] for row in counts}
            for name, counts in (answer.get("facets") or {}).items()
        }
        documents = found if options.shown is None else ShownDocuments(found, options.shown)
        chosen, total = selected or found.selected(), answer.get("total")
        return chosen.hits(documents, explain, boosted=bool(options.boost), facets=facets, total=total)

    # --- changing ---------------------------------------------------------------------------------------------------

    def add(self, source: AnySource, *, skip_bad: bool = False, commit: bool = False) -> Change:
        """Add documents in one request; see `Index.add`.

        Args:
            source: Documents, vectors of the index's encoder, or a local path or a name of either.
            skip_bad: Skip bad documents and existing ids; `Change.bad` lists them.
            commit: Commit at once.
        """
        return self._add(source, skip_bad=skip_bad, commit=commit, update=False)

    def upsert(self, source: AnySource, *, skip_bad: bool = False, commit: bool = False) -> Change:
        """Add documents in one request, replacing existing documents with the same ids; see `Index.upsert`."""
        return self._add(source, skip_bad=skip_bad, commit=commit, update=True)

    def update(self, source: AnySource, *, skip_bad: bool = False, commit: bool = False) -> Change:
        """Same as `upsert`."""
        return self.upsert(source, skip_bad=skip_bad, commit=commit)

    def _add(self, source: AnySource, *, skip_bad: bool, **how: bool) -> Change:
        opened: Any = source
        if isinstance(source, str | PathLike):
            from lsr.index.write.builder import open_source

            opened = open_source(source, skip_bad=skip_bad)
        elif not isinstance(source, Corpus | Vectors):
            opened = given_documents(source, skip_bad=skip_bad)
        if not isinstance(opened, Corpus | Vectors):
            opened = documents_corpus(opened, skip_bad=skip_bad)
        asked: dict[str, Any] = {"skip_bad": skip_bad, **how}
        if isinstance(opened, Vectors):
            asked |= {"documents": list(vector_rows(opened)), "fingerprint": asdict(opened.fingerprint)}
        else:
            if how["update"]:
                opened = opened.with_doubled()  # the server keeps the last document with an id
            asked["documents"] = list(map(document_body, opened))
        change = change_of(self._post("/v1/documents", asked) if asked["documents"] else {})
        change.bad = opened.bad + change.bad
        return change

    def delete(
        self, ids: str | Iterable[str] = (), *, where: Where | Filter | None = None, commit: bool = False
    ) -> Change:
        """Delete documents; see `Index.delete`."""
        asked = {"ids": as_ids(ids), "where": where_body(where), "commit": commit}
        return change_of(self._connections.call("DELETE", "/v1/documents", self._of_index(asked)))

    def commit(self, *, merge: bool = True) -> None:
        """Make changes durable and visible; with `merge`, the server then merges segments in the background."""
        self._post("/v1/commit", {"merge": merge})

    def rollback(self) -> None:
        """Discard the changes of all clients since the last commit."""
        self._post("/v1/rollback", {})

    def merge(self, *, everything: bool = True) -> bool:
        """Commit, then merge segments; see `Index.merge`."""
        return bool(self._post("/v1/merge", {"everything": everything})["done"])

    # --- requests ---------------------------------------------------------------------------------------------------

    def _get(self, path: str) -> dict[str, Any]:
        which = f"?{urlencode({'index': self._index})}" if self._index else ""
        return self._connections.call("GET", path + which, None)

    def _post(self, path: str, asked: dict[str, Any]) -> dict[str, Any]:
        return self._connections.call("POST", path, self._of_index(asked))

    def _of_index(self, asked: dict[str, Any]) -> dict[str, Any]:
        return asked | ({"index": self._index} if self._index else {})


if TYPE_CHECKING:  # lets the type checker compare this class with the protocol
    _: type[SearchIndex] = Client
