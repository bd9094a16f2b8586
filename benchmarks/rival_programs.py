"""Programs for several libraries, each in the style of the library's tutorial.

All programs do the same task: index documents and find pages that answer a question. Each program gets the documents, a
work folder and, if needed, a dense model. It returns a function that maps a question to pages, best first.
`benchmarks/rivals.py` runs the programs and counts their lines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

PASSAGES = 50  # passages that a program requests if it can't group by page, so that it finds ten pages


class Passage(NamedTuple):
    """A part of a page."""

    page: str
    text: str


Ask = Callable[[str], list[str]]


def cut(folder: Path, size: int = 1000) -> list[Passage]:
    """Cut pages at empty lines into passages of about `size` characters, because the rivals don't read files."""
    passages = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        page, parts = path.relative_to(folder).as_posix(), [""]
        for block in path.read_text(encoding="utf-8").split("\n\n"):
            if parts[-1] and len(parts[-1]) + len(block) > size:
                parts.append("")
            parts[-1] += block + "\n\n"
        passages += [Passage(page, part.strip()) for part in parts if part.strip()]
    return passages


class Dense:
    """A model of sentence-transformers."""

    def __init__(self, model: str) -> None:
        from sentence_transformers import SentenceTransformer

        self.model = SentenceTransformer(model, device="cpu", model_kwargs={"dtype": "float32"})

    def documents(self, texts: Sequence[str]) -> Any:
        """Encode texts as vectors, (n, width)."""
        return self.model.encode(list(texts), normalize_embeddings=True)

    def query(self, text: str) -> Any:
        """Encode a question as a vector, (width,)."""
        return self.model.encode(text, prompt_name="query", normalize_embeddings=True)


def lsr(folder: Path, work: Path, encoder: str, mode: Literal["sparse", "hybrid"]) -> Ask:
    """Run lsr on a folder of files."""
    from lsr import Index, read_documents

    index = Index.build(work / "idx", read_documents(folder), encoder=encoder, hybrid=mode == "hybrid")

    def ask(question: str) -> list[str]:
        return [hit.metadata["source"] for hit in index.search(question, mode=mode, group_by="source")]

    return ask


def lsr_sparse(idx: Path) -> Ask:
    """Use only the sparse vectors of an index that also has dense vectors."""
    from lsr import Index

    index = Index.open(idx)
    return lambda question: [hit.metadata["source"] for hit in index.search(question, group_by="source")]


def lancedb(passages: list[Passage], work: Path, dense: Dense, mode: Literal["vector", "hybrid"]) -> Ask:
    """Run LanceDB."""
    import lancedb

    vectors = dense.documents([text for _, text in passages])
    rows = [{"page": page, "text": text, "vector": v} for (page, text), v in zip(passages, vectors, strict=True)]
    table = lancedb.connect(work / "lance").create_table("passages", rows)
    table.create_fts_index("text")

    def ask(question: str) -> list[str]:
        if mode == "vector":
            search = table.search(dense.query(question))
        else:
            search = table.search(query_type="hybrid").vector(dense.query(question)).text(question)
        return [row["page"] for row in search.limit(PASSAGES).to_list()]

    return ask


def chroma(passages: list[Passage], work: Path, dense: Dense) -> Ask:
    """Run Chroma."""
    import chromadb

    client = chromadb.PersistentClient(path=work / "chroma")
    collection = client.create_collection("passages", embedding_function=None)
    vectors = dense.documents([text for _, text in passages])
    size = client.get_max_batch_size()
    for first in range(0, len(passages), size):
        part = passages[first : first + size]
        collection.add(
            ids=[str(first + i) for i in range(len(part))],
            documents=[text for _, text in part],
            metadatas=[{"page": page} for page, _ in part],
            embeddings=vectors[first : first + size],
        )

    def ask(question: str) -> list[str]:
        found = collection.query(query_embeddings=[dense.query(question)], n_results=PASSAGES)
        return [metadata["page"] for metadata in found["metadatas"][0]]

    return ask


def qdrant(passages: list[Passage], work: Path, dense: Dense) -> Ask:
    """Run Qdrant's local mode."""
    from qdrant_client import QdrantClient, models

    client = QdrantClient(path=str(work / "qdrant"))
    vectors = dense.documents([text for _, text in passages])
    size = models.VectorParams(size=vectors.shape[1], distance=models.Distance.COSINE)
    client.create_collection("passages", vectors_config=size)
    payload = [passage._asdict() for passage in passages]
    client.upload_collection("passages", vectors=vectors, payload=payload, ids=range(len(passages)))

    def ask(question: str) -> list[str]:
        found = client.query_points("passages", query=dense.query(question).tolist(), limit=PASSAGES)
        return [point.payload["page"] for point in found.points]

    return ask


def bm25s(passages: list[Passage], work: Path) -> Ask:
    """Run bm25s with its stop words and a stemmer."""
    import bm25s
    import Stemmer

    stemmer = Stemmer.Stemmer("english")
    retriever = bm25s.BM25()
    retriever.index(bm25s.tokenize([text for _, text in passages], stopwords="en", stemmer=stemmer))
    retriever.save(work / "bm25s")

    def ask(question: str) -> list[str]:
        tokens = bm25s.tokenize(question, stopwords="en", stemmer=stemmer, show_progress=False)
        found, _ = retriever.retrieve(tokens, k=PASSAGES, show_progress=False)
        return [passages[number].page for number in found[0]]

    return ask


def sqlite(passages: list[Passage], work: Path) -> Ask:
    """Run SQLite FTS5 with words joined by OR, because a passage rarely has all words of a question."""
    import re
    import sqlite3

    base = sqlite3.connect(work / "passages.db")
    base.execute("CREATE VIRTUAL TABLE passages USING fts5(page UNINDEXED, text, tokenize = 'porter unicode61')")
    base.executemany("INSERT INTO passages VALUES (?, ?)", passages)
    base.commit()
    search = f"SELECT page FROM passages WHERE passages MATCH ? ORDER BY rank LIMIT {PASSAGES}"

    def ask(question: str) -> list[str]:
        words = " OR ".join(f'"{word}"' for word in re.findall(r"\w+", question))
        return [page for (page,) in base.execute(search, [words])]

    return ask
