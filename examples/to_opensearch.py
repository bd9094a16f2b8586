"""Move an index to OpenSearch: write its bulk file and mapping, and check the file by reading it again.

python examples/to_opensearch.py idx docs.ndjson

Then, with a server:

    curl -X PUT localhost:9200/docs -H "Content-Type: application/json" -d @docs.mapping.json
    split -l 2000 --filter='curl -s -H "Content-Type: application/x-ndjson" localhost:9200/_bulk --data-binary @-' \\
        docs.ndjson
"""

import json
import sys
import tempfile
from pathlib import Path

from lsr import Index
from lsr.cli import run_command


def query_body(index, text, k=10, field="vector"):
    """Return the body of an OpenSearch query for a text. OpenSearch then scores documents as this index does."""
    return {"size": k, "query": {"neural_sparse": {field: {"query_tokens": encoded(index, text)}}}}


def encoded(index, text):
    """Encode a query and return {token: weight}."""
    terms, weights = index.query_vectors([text]).row(0)
    return {index.vocabulary[term]: float(weight) for term, weight in zip(terms, weights, strict=True)}


def export(index, out):
    """Write the bulk file and its mapping, and check that the file has as many documents and postings as the index."""
    run_command("export", [str(index.path), "--out", str(out), "--overwrite"])
    with tempfile.TemporaryDirectory() as folder:
        again = Index.build(Path(folder) / "again", str(out))
        assert len(again) == len(index), f"{len(again)} documents instead of {len(index)}"
        assert again.n_postings == index.n_postings


def main(args=None):
    path, out = sys.argv[1:] if args is None else args
    index = Index.open(path)
    export(index, Path(out))
    print(json.dumps(query_body(index, "wing flutter", k=3)))


if __name__ == "__main__":
    main()
