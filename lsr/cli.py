"""The `lsr` command: a table of commands that are imported when they are called, and the handling of errors.

The commands are elsewhere (`index/cli/encode.py`, `index/cli/search.py`, `eval/cli.py`). Only their names and help
lines are here, so that `lsr --help` imports nothing else.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
from typing import Any

import click

from lsr._version import __version__

COMMANDS = {
    "demo": (
        "lsr.eval.cli",
        "Encode, index, search and evaluate a small real collection.",
    ),
    "encode": ("lsr.index.cli.encode", "Turn texts or queries into sparse vectors."),
    "index": ("lsr.index.cli.build", "Build an index from vectors, or from texts and an encoder."),
    "add": ("lsr.index.cli.modify", "Add documents to an index, or replace them."),
    "sync": ("lsr.index.cli.modify", "Bring an index up to date with a folder of documents."),
    "delete": ("lsr.index.cli.modify", "Delete documents from an index."),
    "merge": ("lsr.index.cli.modify", "Merge the segments of an index into one."),
    "reshard": ("lsr.index.cli.modify", "Write an index as shards of equal size."),
    "search": ("lsr.index.cli.search", "Search an index with a text or a file of queries."),
    "similar": ("lsr.index.cli.documents", "Find documents similar to one in the index."),
    "duplicates": ("lsr.index.cli.documents", "Find pairs of near-duplicate documents."),
    "get": ("lsr.index.cli.documents", "Print documents of an index as stored."),
    "explain": ("lsr.index.cli.search", "Explain the score of a document for a query."),
    "review": ("lsr.index.cli.review", "Find nearly all relevant documents of an index while reading few."),
    "evaluate": ("lsr.eval.cli", "Measure quality and latency of an index on a judged dataset."),
    "experiment": ("lsr.eval.cli", "Compare systems on collections, with a report."),
    "report": ("lsr.eval.cli", "Write an experiment's results as an HTML page and as Markdown."),
    "reproduce": ("lsr.eval.cli", "Run an experiment again from its results, and list differences."),
    "compare": ("lsr.eval.cli", "Compare runs or results query by query, with significance."),
    "bench": ("lsr.eval.cli", "Measure latency and recall of an index over search settings."),
    "export": ("lsr.index.cli.export", "Write an index or vectors for another engine: CIFF, OpenSearch, Anserini."),
    "mine": ("lsr.train.cli", "Mine hard negatives from runs for training."),
    "score": ("lsr.train.cli", "Score mined candidates with teachers, for distillation."),
    "train": ("lsr.eval.training.cli", "Train an encoder from a YAML file."),
    "prune": ("lsr.train.cli", "Make an encoder faster: remove attention heads and feed-forward columns."),
    "publish": (
        "lsr.eval.training.publish",
        "Write an encoder for other libraries, or push it to the Hugging Face hub.",
    ),
    "serve": ("lsr.index.cli.serve", "Serve indexes over HTTP: a search page and a JSON API."),
    "mcp": ("lsr.index.cli.serve", "Serve an index to agents, by the Model Context Protocol."),
    "verify": ("lsr.index.cli.modify", "Check every byte of an index."),
    "warmup": ("lsr.index.cli.search", "Compile the search kernels now."),
}


class _Commands(click.Group):
    """Commands that are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(COMMANDS[cmd_name][0])
        command = getattr(module, cmd_name)
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        from lsr.console import warnings_as_notes

        with warnings_as_notes():
            return super().invoke(ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise click.UsageError(error.message + hint, ctx) from None


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="lsr")
def cli() -> None:
    """Learned sparse retrieval: encode texts as sparse vectors, index them on disk, search them, and explain the
    results.

    \b
    Example:
      lsr index docs.jsonl --out idx
      lsr search idx "boundary layer transition"
    """


def main(args: list[str] | None = None) -> None:
    """Run the command line, and exit with 0, with 1 after a failure, or with 2 after a usage error."""
    try:
        sys.exit(cli.main(args, prog_name="lsr", standalone_mode=False) or 0)
    except click.ClickException as error:
        _hinted(error).show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except BrokenPipeError:
        # `| head` closes the pipe early, which isn't an error. Without the redirection, Python would fail to flush
        # stdout on exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        message = _message(error)
        if message is None:
            raise
        click.echo(f"lsr: {message}", err=True)
        sys.exit(1)


def _hinted(error: click.ClickException) -> click.ClickException:
    """A usage error, with a hint at what was probably meant."""
    if isinstance(error, click.UsageError) and error.ctx and error.message.startswith("Got unexpected extra argument"):
        name = error.ctx.command.name
        if name in ("search", "explain"):
            hint = f'A text of several words needs quotes: lsr {name} idx "boundary layer transition"'
            return click.UsageError(f"{error.message}. {hint}", error.ctx)
    if isinstance(error, click.NoSuchOption) and error.ctx and not error.option_name.startswith("--"):
        hint = f'A text that begins with "-" goes after "--": lsr {error.ctx.command.name} idx -- "-word"'
        return click.UsageError(f"{error.format_message()} {hint}", error.ctx)
    return error


def _message(error: Exception) -> str | None:
    """The message for an error that a user can cause; None for a bug in lsr, which needs its traceback."""
    from lsr.errors import LsrError

    if isinstance(error, LsrError):
        return str(error)
    if isinstance(error, OSError):
        return os_error_text(error)
    if isinstance(error, MemoryError):
        return f"not enough memory: {error}"
    return None


def os_error_text(error: OSError) -> str:
    """An operating system's error as a message with the path and, if known, the remedy."""
    mend = {
        errno.ENOSPC: "the disk is full: free some room or write elsewhere",
        errno.EDQUOT: "the disk quota is used up: free some room or write elsewhere",
        errno.EFBIG: "the file grew beyond the allowed size: raise the limit or write elsewhere",
        errno.EROFS: "this file system is read-only: write elsewhere",
        errno.EMFILE: "too many open files: raise the limit (ulimit -n)",
        errno.ENAMETOOLONG: "the name is too long",
        errno.EACCES: "permission denied",
        errno.EPERM: "permission denied",
        errno.ENOENT: "no such file or folder",
        errno.ENOTDIR: "part of this path is a file, not a folder",
    }
    what = mend.get(error.errno or 0) or error.strerror or str(error)
    path = error.filename if isinstance(error.filename, str) else ""
    return f"{path}: {what}" if path else what


def run_command(name: str, args: list[str]) -> Any:
    """Call a command from Python. Errors are raised, not printed."""
    return cli.main([name, *args], prog_name="lsr", standalone_mode=False)
