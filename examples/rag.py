"""RAG over a folder of Markdown: answers questions, and indexes what has changed since the last run.

python examples/rag.py notes/ "a question"
"""

import hashlib
import re
import sys
from pathlib import Path

from lsr import Index


def llm(prompt):
    """Call a language model here."""
    return prompt


def passages(folder):
    """{id: document} of each paragraph, under its heading; the id is a digest of the content."""
    if not Path(folder).is_dir():  # otherwise refresh would delete everything
        sys.exit(f"{folder}: no such folder")
    found = {}
    for file in sorted(Path(folder).rglob("*.md")):
        source, title = file.relative_to(folder).as_posix(), ""
        for block in re.split(r"\n\s*\n", file.read_text(encoding="utf-8")):
            if heading := re.match(r"#+ +(.*)", block):
                title, block = heading[1], block[heading.end() :]
            if block.strip():
                doc_id = f"{source}:{hashlib.sha256((title + block).encode()).hexdigest()[:16]}"
                found[doc_id] = {"_id": doc_id, "title": title, "text": block.strip(), "source": source}
    return found


def refresh(folder, path):
    """Bring the index up to date: new and changed paragraphs are added, vanished ones deleted."""
    wanted, exists = passages(folder), Path(path, "manifest.json").exists()
    index = Index.open(path) if exists else Index.build(path, [], encoder="lsr-mini")
    known = set(index.documents.all_ids())
    gone = [doc_id for doc_id in known if doc_id not in wanted]
    new = [document for doc_id, document in wanted.items() if doc_id not in known]
    index.delete(gone)
    index.add(new)
    index.commit()
    return index, len(new), len(gone)


def answer(index, question):
    """Ask the language model, with the best four paragraphs in the prompt."""
    hits = index.search(question, k=4)
    context = "\n\n".join(f"[{n}] {hit.metadata['source']}: {hit.title}\n{hit.text}" for n, hit in enumerate(hits, 1))
    return llm(f"Answer from these passages and name their numbers.\n\n{context}\n\nQuestion: {question}")


if __name__ == "__main__":
    print(answer(refresh(sys.argv[1], "notes.idx")[0], sys.argv[2]))
