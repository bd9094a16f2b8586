"""Build a sharded index: encode a collection in parts, then build an index from each range of its vectors.

Ranges depend only on the numbers of vectors and shards, and the impacts of all shards share one scale, from
`lsr.sparse.usual_largest`. So the shards don't depend on the workers that build them, and searching them returns the
results of a single index. Each shard is built in place, under a name derived from its input; shards.json is written
last and names all shards. So a killed build continues when the call is repeated, and an index that is being replaced
stays usable until shards.json is written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from lsr.console import counted, note, progress
from lsr.distributed.pool import Workers, do_jobs, ready
from lsr.encode.base import Encoder
from lsr.encode.corpus import Report
from lsr.encode.parts import Task, encode_parts
from lsr.encode.write import work_folder
from lsr.errors import DataError, OutputExists
from lsr.index.distributed.build_worker import ShardTask, build_shard
from lsr.index.distributed.vector_ranges import Scanned, Stretch, scan
from lsr.index.segment.postings_writer import DEFAULT_MEMORY
from lsr.index.segment.quantize import Quantizer
from lsr.index.sharding.manifest import SHARD_NAME, SHARDS, Shards, shard_name
from lsr.index.storage.manifest import MANIFEST, is_ours, parse_manifest
from lsr.index.write.builder import BuildSettings, quantizer_of
from lsr.io.corpus import Corpus
from lsr.io.object_store import Place, is_remote, with_suffix
from lsr.sparse import usual_largest

_WHAT = "building workers"


def build_shards(
    out: str | Path,
    source: Corpus | str | Path,
    *,
    shards: int,
    encoder: Encoder | None = None,
    settings: BuildSettings | None = None,
    identity: str = "",
    device: str | None = None,
    workers: Workers | None = None,
    memory: int = DEFAULT_MEMORY,
    overwrite: bool = False,
) -> tuple[Shards, Report]:
    """Build a sharded index, on many machines if workers are given.

    Args:
        out: The folder, on a disk that all workers share, or a URI. During the build, OUT.partial holds the vectors.
        source: Documents; or vectors, in a Parquet file or a folder of such files that all workers can read, or at a
            URI.
        shards: Number of shards.
        encoder: Encodes documents; not used if `source` is vectors.
        settings: How to write each shard's index.
        identity: A text that identifies what the vectors depend on besides the documents, such as the encoder's
            settings. Unfinished work continues only if its identity is the same.
        device: Device of the workers' models.
        workers: The workers; by default this process.
        memory: Approximate memory limit for building a shard, in bytes.
        overwrite: Replace an existing index when the new one is complete; drop unfinished work with other settings.

    Returns:
        The shards, and the encoding counts.

    Raises:
        OutputExists: `out` exists, or there is unfinished work from another source or with other settings.
        DataError: A bad document or vector, a repeated id, or fewer vectors than shards.
        ClusterError: As for `lsr.distributed.pool.do_jobs`.
        StorageError: A location can't be read or written.
    """
    settings, workers = settings or BuildSettings(), workers or Workers()
    out = str(out) if is_remote(out) else str(Path(out).absolute())  # workers have other working directories
    place, work = Place(out), with_suffix(out, ".partial")
    _refuse_others(place, overwrite=overwrite)
    builders = replace(workers, gpus=0, memory=memory)
    with ExitStack() as stack:
        stack.enter_context(ready(builders, _WHAT))  # fail before encoding everything
        if isinstance(source, Corpus):
            assert encoder is not None
            if not is_remote(out):
                stack.enter_context(work_folder(Path(out)))
            task = Task(passages=settings.passages, with_text=settings.store_text, device=device)
            how: dict[str, Any] = {"identity": identity, "workers": workers, "overwrite": overwrite}
            parts, report = encode_parts(source, encoder, Place(work), task, **how)
            found = Scanned(
                [Stretch(with_suffix(work, f"/{part.name}"), part.rows, part.file) for part in parts],
                usual_largest(np.array([part.largest for part in parts]), np.array([part.rows for part in parts])),
                all(part.whole for part in parts),
                f"{source.identity} | {identity}",
                encoder.fingerprint,
            )
        else:
            found, report = scan(source)
        made = _build(place, found, shards, settings, builders)
    if isinstance(source, Corpus):
        Place(work).clear()
    return made, report


def _build(place: Place, found: Scanned, shards: int, settings: BuildSettings, workers: Workers) -> Shards:
    n = sum(stretch.rows for stretch in found.stretches)
    if n < shards:
        raise DataError(f"{counted(n, 'document')}, too few for {shards} shards: make fewer", place.name)
    quantizer = (quantizer_of(found.fingerprint) or Quantizer.of)(found.largest, found.whole)
    # The names also depend on the index to be replaced, so that its shards are never mistaken for new ones.
    before = place.read(SHARDS)
    made_of = f"{found.identity} | {n} {quantizer} | {settings} | {shards} | {before!r}"
    tag = hashlib.sha256(made_of.encode()).hexdigest()[:8]
    names = [f"{shard_name(number)}-{tag}" for number in range(shards)]
    bounds = [number * n // shards for number in range(shards + 1)]
    there = place.sizes()
    jobs = [
        (name, first, end)
        for name, first, end in zip(names, bounds[:-1], bounds[1:], strict=True)
        if f"{name}/{MANIFEST}" not in there
    ]
    done = shards - len(jobs)
    if done:
        note(f"{place.name}: continuing, {done} of {shards} shards are already built")
    task = ShardTask(place.name, found.stretches, settings, workers.memory, quantizer)
    with progress(shards, "building", "shards", done=done) as bar:
        for _ in do_jobs(partial(partial, build_shard, task), jobs, workers, _WHAT):
            bar.update(1)
    return _finish(place, names)


def _refuse_others(place: Place, *, overwrite: bool) -> None:
    there = place.sizes()
    if SHARDS in there and not overwrite:
        raise OutputExists(f"{place.name}: a sharded index exists already (--overwrite replaces it)")
    tops = {PurePosixPath(name).parts[0] for name in there}
    if strange := sorted(top for top in tops if top != SHARDS and not SHARD_NAME.fullmatch(top) and not is_ours(top)):
        raise OutputExists(f"{place.name}: something other than shards is here ({strange[0]}); name a new folder")


def _finish(place: Place, names: Sequence[str]) -> Shards:
    """Write shards.json, then remove what it doesn't name."""
    manifests = {}
    for name in names:
        content = place.read(f"{name}/{MANIFEST}")
        manifests[name] = parse_manifest(content or b"", with_suffix(place.name, f"/{name}"))
    made = Shards.of(manifests, place.name)
    place.write(SHARDS, made.content())
    tops = {PurePosixPath(name).parts[0] for name in place.sizes()}
    for name in sorted(top for top in tops if SHARD_NAME.fullmatch(top) and top not in names):
        Place(with_suffix(place.name, f"/{name}")).clear()
    return made
