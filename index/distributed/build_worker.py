"""Build one shard: an index of a range of the vectors, with the scale that all shards share."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lsr.encode.corpus import Report
from lsr.index.distributed.vector_ranges import Stretch, rows_between
from lsr.index.segment.quantize import Quantizer
from lsr.index.sharding.remote import folder_for
from lsr.index.write.builder import BuildSettings, build_index
from lsr.io.object_store import with_suffix
from lsr.io.open_vectors import read_vectors
from lsr.io.vectors import Vectors


@dataclass(frozen=True)
class ShardTask:
    """How shards are built.

    Attributes:
        out: The sharded folder, a path or a URI.
        stretches: The files of all vectors, in order; the first one contains the tokens.
        settings: How to write each shard's index.
        memory: Approximate memory limit in bytes.
        quantizer: The quantizer for all weights.
    """

    out: str
    stretches: Sequence[Stretch]
    settings: BuildSettings
    memory: int
    quantizer: Quantizer


def build_shard(task: ShardTask, job: tuple[str, int, int]) -> str:
    """Build a shard.

    Args:
        task: How shards are built.
        job: The shard's name, the number of its first vector, and the end of its vectors (exclusive).

    Returns:
        The shard's name.
    """
    name, first, end = job
    with tempfile.TemporaryDirectory(prefix="lsr-") as scratch:
        head = read_vectors(task.stretches[0].local(Path(scratch)))
        vectors = Vectors(
            name,
            lambda vectors: rows_between(task.stretches, first, end, vectors, Path(scratch)),
            fingerprint=head.fingerprint,
            vocabulary=head.vocabulary,
            n_terms=head.n_terms,
            encoder_files=head.encoder_files,
            count=end - first,
        )
        # A killed worker leaves files without a manifest, which may be overwritten.
        with folder_for(with_suffix(task.out, f"/{name}"), overwrite=True) as folder:
            build_index(
                folder,
                vectors,
                encoder=None,
                ids=None,
                settings=task.settings,
                overwrite=True,
                memory=task.memory,
                report=Report(),
                quantizer=lambda *_: task.quantizer,
            )
    return name
