"""The commands `lsr add`, `sync`, `delete`, `merge`, `reshard` and `verify`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import IO, Any

import click

from lsr.index.cli.encode import (
    PathOrURI,
    check_left_out,
    encoder_options,
    left_out_option,
    url_option,
    write_left_out,
)
from lsr.index.cli.search import open_index, size_of, where_option


@contextmanager
def committed(index: Any) -> Iterator[None]:
    """Commit the changes made in the block; if the block fails, roll them back."""
    try:
        yield
        index.commit(merge=False)
        index.merge(everything=False)  # in the foreground, so that the command doesn't end before the merge
    finally:
        index.rollback()


def _size(index: Any) -> str:
    from lsr.console import counted

    return f"{size_of(index)} in {counted(index.n_segments, 'segment')}"


@click.command()
@click.argument("index_path", metavar="INDEX", type=PathOrURI())
@click.argument("source")
@click.option("--update", is_flag=True, help="Replace documents with the same ids instead of refusing them.")
@click.option("--skip-bad", is_flag=True, help="Skip bad documents and list them.")
@left_out_option
@encoder_options
def add(
    index_path: Path | str,
    source: str,
    update: bool,
    skip_bad: bool,
    left_out: Path | None,
    encoder: str | None,
    **options: Any,
) -> None:
    """Add documents to an index: all of them, or none if one is bad.

    SOURCE is as for `lsr index`. The index's own encoder encodes texts. They are cut into passages and stored like the
    documents already in the index. Open readers keep their snapshot.

    \b
    Examples:
      lsr add idx new.jsonl
      lsr add idx changed.jsonl --update
    """
    from lsr.console import note

    check_left_out(left_out, source)
    index = open_index(index_path, encoder, options)
    with committed(index):
        change = index.update(source, skip_bad=skip_bad) if update else index.add(source, skip_bad=skip_bad)
    write_left_out(left_out, change.bad)
    bad = change.bad[len(change.report.bad) :] if change.report.bad_told else change.bad
    change.report.bad = []  # a warning reports these, or the lines below list them together with existing ids
    change.report.tell()
    for message in bad[:10]:
        note(f"left out: {message}")
    if len(bad) > 10:
        note(f"left out: {len(bad) - 10:,} more (--left-out FILE lists all)")
    note(f"{index_path}: {change}; {_size(index)}")


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("index_path", metavar="INDEX", type=click.Path(path_type=Path))
@url_option
@click.option("--watch", is_flag=True, help="Keep watching, and sync whenever a file changes, until interrupted.")
@click.option("--hybrid", is_flag=True, help="Create the index with dense vectors, as lsr index does.")
@left_out_option
@encoder_options
def sync(
    source: Path,
    index_path: Path,
    url: str,
    watch: bool,
    hybrid: bool,
    left_out: Path | None,
    encoder: str | None,
    **options: Any,
) -> None:
    """Bring an index up to date with a folder of documents, or create the index if there is none.

    Files are compared by content. New and changed files are read and encoded; documents of deleted files are deleted.
    Documents that didn't come from files stay. If the command is killed, the next run resumes from the latest commit.

    \b
    Examples:
      lsr sync docs/ idx --hybrid
      lsr sync docs/ idx --watch
    """
    from lsr.console import note
    from lsr.files.documents import read_documents
    from lsr.index.cli.encode import document_encoder, given_settings
    from lsr.index.index import Index
    from lsr.index.write.sync import watch as keep_up

    if (source / "manifest.json").is_file():
        raise click.UsageError(f"{source} is an index: the folder of documents comes first, lsr sync SOURCE INDEX")
    check_left_out(left_out, source)
    corpus = read_documents(source, url=url)
    if index_path.exists():
        index = open_index(index_path, encoder, options)
        if hybrid and not index.has_dense:
            raise click.UsageError(f"{index_path} has no dense vectors: rebuild it with lsr index --hybrid --overwrite")
    else:
        index = Index.build(index_path, [], encoder=document_encoder(encoder, given_settings(options)), hybrid=hybrid)

    def tell(synced: Any) -> None:
        synced.report.tell()
        write_left_out(left_out, synced.bad)
        note(f"{index_path}: {synced}; {_size(index)}")

    with index:
        tell(index.sync(corpus))
        if watch:
            note(f"watching {source}")
            keep_up(index, corpus, tell)


@click.command()
@click.argument("index_path", metavar="INDEX", type=PathOrURI())
@click.argument("doc_ids", metavar="ID...", nargs=-1)
@click.option(
    "--ids", metavar="FILE", type=click.File(encoding="utf-8"), help='File with an id per line; "-" for standard input.'
)
@where_option
def delete(index_path: Path | str, doc_ids: tuple[str, ...], ids: IO[str] | None, where: tuple[str, ...]) -> None:
    """Delete documents and their passages, by id or by metadata. Unknown ids are counted.

    \b
    Examples:
      lsr delete idx 184 185
      lsr delete idx --ids gone.txt
      lsr delete idx --where "year<2000"
    """
    from lsr.console import note
    from lsr.index.segment.parse_filters import parse_where_text

    wanted = [*doc_ids, *(line.rstrip("\n") for line in ids or ())]
    wanted = [doc_id for doc_id in wanted if doc_id]
    parsed = parse_where_text(where)
    if not wanted and parsed is None:
        raise click.UsageError("name documents to delete: ID..., --ids FILE, or --where CONDITION")
    index = open_index(index_path, None, {})
    with committed(index):
        change = index.delete(wanted, where=parsed)
    note(f"{index_path}: {change}; {_size(index)}")


@click.command()
@click.argument("index_path", metavar="INDEX", type=PathOrURI())
def merge(index_path: Path | str) -> None:
    """Merge all segments of an index into one. This frees the space of deleted documents and speeds up search a little.

    Merging is rarely needed: `lsr add` and `lsr delete` already merge enough to keep the number of segments small.

    \b
    Example:
      lsr merge idx
    """
    from lsr.console import note

    index = open_index(index_path, None, {})
    merged = index.merge()
    size = sum(index.file_sizes().values())
    done = "merged" if merged else "nothing to merge"
    note(f"{index_path}: {done}; {_size(index)}, {size / 1e6:.1f} MB")


@click.command()
@click.argument("index_path", metavar="INDEX", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The new sharded folder.")
@click.option("--shards", "n_shards", required=True, type=click.IntRange(min=1), help="Number of shards.")
def reshard(index_path: Path, out: Path, n_shards: int) -> None:
    """Split an index into shards of equal size, or change the number of shards.

    INDEX is an index or a sharded folder, and stays unchanged. Searches return the same results, in one process
    (lsr search) or many (lsr search --ray ADDRESS).

    \b
    Examples:
      lsr reshard idx --shards 8 --out shards
      lsr reshard shards --shards 16 --out more-shards
    """
    from lsr.console import note
    from lsr.index.distributed.reshard import reshard_index as write

    made = write(index_path, out, n_shards)
    sizes = [entry.documents for entry in made.entries]
    note(f"{out}: {made.documents} documents in {len(sizes)} shards of {min(sizes)} to {max(sizes)}")


@click.command()
@click.argument("index_path", metavar="INDEX", type=PathOrURI())
def verify(index_path: Path | str) -> None:
    """Check an index, or a folder of dense vectors, against its checksums, and name each damaged file.

    \b
    Example:
      lsr verify idx
      lsr verify vectors
    """
    from lsr.console import counted
    from lsr.errors import CorruptIndex
    from lsr.index.hybrid.dense_files import RECORD, damaged_files, read_record
    from lsr.index.sharding.manifest import Shards, is_sharded
    from lsr.index.sharding.remote import download_index, folder_of, read_manifests
    from lsr.index.storage.manifest import check_files, read_manifest

    path = download_index(index_path) if isinstance(index_path, str) else index_path
    if (path / RECORD).is_file():
        record = read_record(path)
        if damaged := damaged_files(path, record, every_byte=True):
            raise CorruptIndex("\n".join(damaged))
        click.echo(f"{path}: {counted(len(record['files']), 'file')}, all intact")
        return
    manifests = read_manifests(Shards.read(path)) if is_sharded(path) else {str(path): read_manifest(path)}
    wrong = [check_files(folder_of(where), manifest, every_byte=True).values() for where, manifest in manifests.items()]
    if messages := list(chain.from_iterable(wrong)):
        raise CorruptIndex("\n".join(messages))
    n_files = sum(len(manifest["files"]) for manifest in manifests.values())
    click.echo(f"{index_path}: {counted(n_files, 'file')}, all intact")
