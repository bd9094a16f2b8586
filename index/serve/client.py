"""Client: an index that is served elsewhere, with the calls of `Index`; needs nothing but the library itself.

index = Client("http://127.0.0.1:8000", key=os.environ["LSR_KEY"])
for hit in index.search("a question", k=10, where={"year": {">=": 2020}}):
    print(hit.id, hit.score, hit.explain().words())
index.add([{"_id": "a", "text": "..."}])
index.commit()
"""

from __future__ import annotations

import http.client
import json
import ssl
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from os import PathLike
from typing import Any, Self
from urllib.parse import quote, urlencode, urlsplit

from lsr.errors import DataError, ServerError
from lsr.forks import in_child
from lsr.index.search.explain import Contribution, Explanation
from lsr.index.search.hits import Hit
from lsr.index.search.query_encoder import as_queries
from lsr.index.search.settings import Plan, SearchSettings
from lsr.index.segment.filters import Where
from lsr.index.serve.problems import client_error
from lsr.index.write.update_batch import Change
from lsr.io.corpus import Corpus, Document
from lsr.io.jsonl import given_documents
from lsr.io.metadata import plain_value
from lsr.io.vectors import Vectors

Query = str | Mapping[str, float]
Source = Iterable[Mapping[str, Any] | Document] | Vectors | str | PathLike[str]
_CHANGES = ("/v1/documents", "/v1/commit", "/v1/rollback", "/v1/merge")
_IDLE = 4.0  # seconds after which a connection isn't used again: the server closes it after five


def _again(url: str, index: str | None, key: str | None, timeout: float) -> Client:
    return Client(url, index, key=key, timeout=timeout)


class Client:
    """An index over HTTP. Arguments, results and errors are those of `Index`; safe to use from many threads.

    Changes wait for a commit as they do there, but on the server, where any client's commit makes all of them visible.

    Args:
        url: Of the server.
        index: The index' name; by default the server's first.
        key: A reader's or a writer's, where the server wants one.
        timeout: Seconds to wait for an answer.

    Raises:
        ValueError: No URL of a server.
    """

    def __init__(self, url: str, index: str | None = None, *, key: str | None = None, timeout: float = 60.0) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"a server's URL is http://HOST:PORT, got {url!r}")
        self._given = (url, index, key, timeout)
        self._url, self._parts, self._index, self._timeout = url, parts, index, timeout
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        self._idle: list[tuple[http.client.HTTPConnection, float]] = []
        weakref.finalize(self, _close, self._idle)
        in_child(self)

    def __reduce__(self) -> Any:
        return _again, self._given

    def after_fork(self) -> None:
        """See `lsr.forks`: two processes on one connection would get each other's answers."""
        _close(self._idle)

    def close(self) -> None:
        """Close its connections; a later call makes new ones."""
        _close(self._idle)

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
        query: Query,
        k: int = 10,
        *,
        where: Where | None = None,
        hybrid: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> list[Hit]:
        """The k best documents; see `Index.search`.

        Args:
            query: A text, or a {token: weight} mapping.
            k: How many at most.
            where: Which documents may be found, by their metadata.
            hybrid: Of `Hybrid`, for an index of a hybrid encoder: method, weights, depth, normalization, rrf_k.
            settings: Of `SearchSettings`.

        Returns:
            Hits; their `doc` is the place in this list, and `explain` asks the server.
        """
        found = self._post("/v1/search", _query(query) | _how(k, where, hybrid, settings))
        return self._hits(query, found["hits"])

    def search_batch(
        self,
        queries: Sequence[Query],
        k: int = 10,
        *,
        where: Where | None = None,
        hybrid: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> list[list[Hit]]:
        """The k best documents of many queries, all of the same commit; see `Index.search_batch`."""
        queries = as_queries(queries)
        asked = {"queries": [next(iter(_query(query).values())) for query in queries]}
        found = self._post("/v1/search/batch", asked | _how(k, where, hybrid, settings))
        return [self._hits(query, rows) for query, rows in zip(queries, found["results"], strict=True)]

    def explain(self, query: Query, doc_id: str, *, origins: bool = True) -> Explanation:
        """Why a document has its score for a query; see `Index.explain`."""
        found = self._post("/v1/explain", _query(query) | {"id": doc_id, "origins": origins})
        terms = []
        for term in found["terms"]:
            spans = tuple((start, end) for start, end in term["spans"])
            origin = None if term["origin"] is None else (term["origin"][0], term["origin"][1])
            terms.append(Contribution(**term | {"spans": spans, "origin": origin}))
        title_length = found.get("title_length", 0)  # older servers don't tell
        return Explanation(found["_id"], found["score"], tuple(terms), found["content"], title_length)

    def explain_plan(self, query: Query, k: int = 10, *, where: Where | None = None, **settings: Any) -> Plan:
        """Search, and tell what that touched; see `Index.explain_plan`."""
        asked = _query(query) | _how(k, where, None, settings) | {"plan": True, "fields": False}
        return Plan(**self._post("/v1/search", asked)["plan"])

    def encode(self, text: str) -> dict[str, float]:
        """A text as a query's vector, heaviest terms first."""
        return dict(self._post("/v1/encode", {"text": text})["vector"])

    def document(self, doc_id: str) -> Document:
        """A document as it is stored.

        Raises:
            ServerError: There is none of this id.
        """
        found = self._get(f"/v1/documents/{quote(doc_id, safe='')}")
        return Document(found["id"], found["text"], found["title"], found["metadata"] or None, found.get("parent"))

    def _hits(self, query: Query, rows: list[dict[str, Any]]) -> list[Hit]:
        found = _Found(rows)

        def explain(doc: int, *, origins: bool = True) -> Explanation:
            return self.explain(query, found.id(doc), origins=origins)

        return [Hit(found, doc, row["score"], explain) for doc, row in enumerate(rows)]

    # --- changing ---------------------------------------------------------------------------------------------------

    def add(self, source: Source, *, skip_bad: bool = False, commit: bool = False) -> Change:
        """Add documents, in one request; see `Index.add`.

        Args:
            source: Documents, vectors of the index' encoder, or the path or name of either, on this machine.
            skip_bad: Leave bad documents out, and those whose ids are there already; the result lists them.
            commit: Make them visible at once.
        """
        return self._add(source, skip_bad=skip_bad, commit=commit, update=False)

    def update(self, source: Source, *, skip_bad: bool = False, commit: bool = False) -> Change:
        """Put documents in the place of those of the same ids, in one request; see `Index.update`."""
        return self._add(source, skip_bad=skip_bad, commit=commit, update=True)

    def _add(self, source: Source, *, skip_bad: bool, **how: bool) -> Change:
        opened: Any = source
        if isinstance(source, str | PathLike):
            from lsr.index.write.builder import open_source

            opened = open_source(source, skip_bad=skip_bad)
        elif not isinstance(source, Corpus | Vectors):
            opened = given_documents(source, skip_bad=skip_bad)
        asked: dict[str, Any] = {"skip_bad": skip_bad, **how}
        if isinstance(opened, Vectors):
            asked |= {"documents": list(_vector_rows(opened)), "fingerprint": asdict(opened.fingerprint)}
        else:
            if isinstance(opened, Corpus) and how["update"]:
                opened = opened.with_doubled()  # the last counts, as the server knows
            asked["documents"] = list(_text_rows(opened))
        change = _change(self._post("/v1/documents", asked) if asked["documents"] else {})
        if isinstance(opened, Corpus | Vectors):
            change.bad = opened.bad + change.bad
        return change

    def delete(self, ids: str | Iterable[str] = (), *, where: Where | None = None, commit: bool = False) -> Change:
        """Delete documents; see `Index.delete`."""
        asked = {"ids": [ids] if isinstance(ids, str) else list(ids), "where": where, "commit": commit}
        return _change(self._call("DELETE", "/v1/documents", self._of_index(asked)))

    def commit(self, *, merge: bool = True) -> None:
        """Make changes durable and visible; segments are merged afterwards, in the background."""
        self._post("/v1/commit", {"merge": merge})

    def rollback(self) -> None:
        """Forget the changes since the last commit, whoever made them."""
        self._post("/v1/rollback", {})

    def merge(self, *, everything: bool = True) -> bool:
        """Commit, then merge segments; see `Index.merge`."""
        return bool(self._post("/v1/merge", {"everything": everything})["done"])

    # --- requests ---------------------------------------------------------------------------------------------------

    def _get(self, path: str) -> dict[str, Any]:
        return self._call("GET", path + ("?" + urlencode({"index": self._index}) if self._index else ""), None)

    def _post(self, path: str, asked: dict[str, Any]) -> dict[str, Any]:
        return self._call("POST", path, self._of_index(asked))

    def _of_index(self, asked: dict[str, Any]) -> dict[str, Any]:
        return asked | ({"index": self._index} if self._index else {})

    def _call(self, method: str, path: str, asked: dict[str, Any] | None) -> dict[str, Any]:
        try:
            body = None if asked is None else json.dumps(asked, allow_nan=False, default=_plain).encode()
        except ValueError:
            raise DataError("numbers are finite: JSON has no NaN and no infinity") from None
        connection, used = self._connection()
        try:
            with suppress(BrokenPipeError, ConnectionResetError):  # refused while we send: the answer says why
                connection.request(method, self._parts.path.rstrip("/") + path, body, self._headers)
            response = connection.getresponse()
            status, content = response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            if used and path not in _CHANGES:
                return self._call(method, path, asked)  # the server closed it between two requests, or began anew
            raise ServerError(f"{self._url}: no answer: {error or type(error).__name__}") from None
        except BaseException:
            connection.close()
            raise
        self._idle.append((connection, time.monotonic()))
        try:
            found = json.loads(content)
            assert isinstance(found, dict)
        except (ValueError, AssertionError):
            raise ServerError(f"{self._url}: status {status}, and no JSON: is this lsr serve?") from None
        if status >= 400:
            detail = str(found.get("detail") or f"status {status}")
            raise client_error(str(found.get("type")), detail) or ServerError(f"{self._url}: {detail}")
        return found

    def _connection(self) -> tuple[http.client.HTTPConnection, bool]:
        """A connection that nobody uses, and whether it was used before."""
        while self._idle:
            try:
                connection, since = self._idle.pop()
            except IndexError:  # another thread was faster
                break
            if time.monotonic() - since < _IDLE and connection.sock is not None:
                return connection, True
            connection.close()
        make: Any = http.client.HTTPConnection
        if self._parts.scheme == "https":
            make = partial(http.client.HTTPSConnection, context=ssl.create_default_context())
        return make(self._parts.hostname, self._parts.port, timeout=self._timeout), False


def _close(idle: list[tuple[http.client.HTTPConnection, float]]) -> None:
    while idle:
        idle.pop()[0].close()


class _Found:
    """What hits ask of documents, out of an answer; a document's number is its rank, from 0."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self._rows = rows

    def id(self, doc: int) -> str:
        row = self._rows[doc]
        return str(row.get("passage", row["id"]))

    def parent(self, doc: int) -> str | None:
        row = self._rows[doc]
        return str(row["id"]) if "passage" in row else None

    def fields(self, doc: int) -> tuple[str, str, dict[str, Any]]:
        row = self._rows[doc]
        return row["title"], row["text"], row["metadata"]


def _query(query: Query) -> dict[str, Any]:
    (query,) = as_queries([query])
    if isinstance(query, str):
        return {"query": query}
    if not isinstance(query, Mapping):
        raise TypeError(f"a query is a text or a mapping of token to weight, got {type(query).__name__}")
    return {"vector": {token: float(weight) for token, weight in query.items()}}


def _how(k: int, where: Where | None, hybrid: Mapping[str, Any] | None, settings: Mapping[str, Any]) -> dict[str, Any]:
    asked = {"k": k, "where": where, "settings": vars(SearchSettings(**settings))}
    return asked | ({} if hybrid is None else {"hybrid": dict(hybrid)})


def _plain(value: Any) -> Any:
    """What JSON has no word for: numpy's numbers, times, decimals, sets."""
    if isinstance(value, set | frozenset):
        return list(value)
    with suppress(ValueError):
        return plain_value(value)
    raise TypeError(f"{value!r} can't be sent: values are texts, numbers, times, true, false, lists and mappings")


def _text_rows(source: Iterable[Mapping[str, Any] | Document]) -> Iterator[dict[str, Any]]:
    for number, one in enumerate(source, start=1):
        document = one if isinstance(one, Document) else Document.from_mapping(one, f"document {number}")
        yield _row(document)


def _vector_rows(source: Vectors) -> Iterator[dict[str, Any]]:
    for batch in source:
        tokens = source.vocabulary  # of some files it grows while they are read
        if tokens is None:
            raise DataError("these vectors have no tokens, and numbers of terms say nothing to a server", source.name)
        for number, row in enumerate(batch.documents.to_pylist()):
            metadata = json.loads(row["metadata"]) if row["metadata"] else None
            document = Document(row["id"], row["text"] or "", row["title"] or "", metadata, row["parent"])
            terms, weights = batch.vectors.row(number)
            pairs = zip(terms.tolist(), weights.tolist(), strict=True)
            yield _row(document) | {"vector": {tokens[term]: weight for term, weight in pairs}}


def _row(document: Document) -> dict[str, Any]:
    row = {"id": document.id, "text": document.text, "title": document.title, "parent": document.parent}
    return row | ({"metadata": dict(document.metadata)} if document.metadata else {})


def _change(told: Mapping[str, Any]) -> Change:
    names = ("added", "updated", "deleted", "missing", "bad")
    return Change(**{name: told[name] for name in names if name in told})
