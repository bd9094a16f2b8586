"""lsr evaluate, experiment, report, reproduce, compare, bench, demo."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lsr.console import Number
from lsr.encode.base import DEFAULT_ENCODER
from lsr.index.cli.encode import PathOrURI, encoder_options
from lsr.index.cli.search import open_index
from lsr.presets import ConfigFile, list_option

if TYPE_CHECKING:
    from lsr.eval.checks import Findings
    from lsr.eval.evaluate import Quality


@click.command()
@click.argument("index_path", metavar="[INDEX]", required=False, type=PathOrURI())
@click.option("--run", "run_path", metavar="FILE", type=click.Path(path_type=Path), help="A TREC run instead of INDEX.")
@click.option(
    "--dataset", required=True, metavar="FOLDER|NAME|FILE", help="BEIR folder, ir-datasets name, or file of judgments."
)
@click.option("--split", default="test", show_default=True, help="Split of the judgments.")
@click.option("--measures", default="nDCG@10 RR@10 R@100", show_default=True, help="Names of ir-measures.")
@click.option("--queries", metavar="FILE", help="Texts or encoded vectors instead of the dataset's queries.")
@click.option("--per-query", metavar="FILE", type=click.Path(path_type=Path), help="Write each query's values.")
@click.option(
    "--mode",
    type=click.Choice(["auto", "sparse", "hybrid", "dense"]),
    default="auto",
    show_default=True,
    help="How to search; hybrid and dense need an index built with --hybrid; for such an index, auto is hybrid.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON on a terminal, too.")
@encoder_options
def evaluate(
    index_path: Path | str | None,
    run_path: Path | None,
    dataset: str,
    split: str,
    measures: str,
    queries: str | None,
    per_query: Path | None,
    mode: Any,
    as_json: bool,
    encoder: str | None,
    **options: Any,
) -> None:
    """Measure quality and latency of an index on a judged dataset, or quality of a run of any engine.

    Latency is for one query at a time on one thread, after a warm-up; encoding is timed separately.

    \b
    Examples:
      lsr evaluate idx --dataset beir/scifact
      lsr evaluate idx --dataset scifact/ --measures "nDCG@10 R@1000" --json
      lsr evaluate --run other.trec --dataset scifact/ --per-query values.jsonl
      lsr evaluate --run other.trec --dataset qrels.txt
    """  # fmt: skip
    from lsr.console import counted, emit_json, is_terminal, table

    if (index_path is None) == (run_path is None):
        raise click.UsageError("give either INDEX or --run FILE")
    if per_query and not per_query.parent.is_dir():
        raise click.UsageError(f"--per-query {per_query}: there is no folder {per_query.parent}")
    if run_path:
        if queries or encoder or mode != "auto" or any(value is not None for value in options.values()):
            raise click.UsageError("--run can't be combined with options of queries or encoders")
        result, what = _of_run(run_path, dataset, split, measures), {"run": str(run_path)}
    else:
        assert index_path is not None
        result = _of_index(index_path, dataset, split, measures, queries, encoder, mode, options)
        what = {"index": str(index_path)}
    if per_query:
        result.write_per_query(per_query)
    if as_json or not is_terminal():
        emit_json({"dataset": dataset, "split": split, **what, **result.to_json()})
        return
    click.echo(table(result.rows(), (counted(result.n_queries, "query"), "value"), "<>"))


def _of_run(path: Path, dataset: str, split: str, measures: str) -> Quality:
    from lsr.errors import DataErrors
    from lsr.eval.checks import check_run
    from lsr.eval.datasets import open_dataset
    from lsr.eval.evaluate import evaluate_run
    from lsr.eval.measures import parse_measures
    from lsr.io.runs import read_run

    problems = DataErrors()
    with problems:
        judged = open_dataset(dataset, split)
    if problems.count:  # the judgments can't be read: also report other problems
        with problems:
            parse_measures(measures)
        with problems:
            read_run(path)
        problems.settle()
    findings = check_run(path, judged, measures=measures)
    _tell(findings)
    return evaluate_run(findings.run or {}, judged, measures)


def _of_index(
    path: Path | str,
    dataset: str,
    split: str,
    measures: str,
    queries: str | None,
    encoder: str | None,
    mode: Any,
    options: dict[str, Any],
) -> Quality:
    from lsr.errors import DataErrors
    from lsr.eval.checks import check_dataset
    from lsr.eval.datasets import open_dataset
    from lsr.eval.evaluate import evaluate_index
    from lsr.eval.measures import parse_measures
    from lsr.index.search.query_file import read_queries

    problems = DataErrors()
    with problems:
        parse_measures(measures)
    with problems:
        judged = open_dataset(dataset, split)
    problems.settle()
    index = open_index(path, encoder, options)
    if not (queries or judged.source or judged.queries):
        raise click.UsageError(f"{dataset} has only judgments: give the queries with --queries FILE")
    asked = read_queries(queries or judged.query_source, index)
    ids = index.documents.all_ids(parents=True)
    _tell(check_dataset(judged, document_ids=ids, query_ids=asked.ids))
    return evaluate_index(index, judged, measures, asked, mode=mode)


def _tell(findings: Findings) -> None:
    """Raise the errors, or print the warnings on stderr."""
    from lsr.console import note

    findings.raise_errors()
    for warning in findings.warnings:
        note(f"note: {warning}")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE.html", help="Path of the page.")
def report(folder: Path, out: Path | None) -> None:
    """Write an experiment's results as one self-contained HTML page and as Markdown, and every table as LaTeX and CSV.

    The report has quality with significance, quality against time and size, distributions of search times, recall of
    approximate search, all pairs of systems, values by query, costs and conditions. An earlier report is replaced.

    \b
    Examples:
      lsr report results/
      lsr report results/ --out scifact.html
    """
    from lsr.eval.report.report import write_report

    for path in write_report(folder, out):
        click.echo(path)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--out", type=click.Path(path_type=Path), help="Result folder. [default: FOLDER/again]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines on a terminal, too.")
def reproduce(folder: Path, out: Path | None, as_json: bool) -> None:
    """Run an experiment again from its result folder, and report differences.

    The cache isn't used. Relative paths in the recorded settings must still be valid, so run this in the folder in
    which the experiment was run. Versions, machine, checksums and measures are compared. The exit code is 1 if a
    measure differs.

    \b
    Examples:
      lsr reproduce results
      lsr reproduce results --out results-again
    """
    from lsr.console import emit_json, is_terminal, note, table
    from lsr.eval.experiment.reproduce import reproduce as run_again
    from lsr.eval.report.report import write_report

    again = out or folder / "again"
    found = run_again(folder, again)
    page, _ = write_report(again)
    if as_json or not is_terminal():
        for one in found:
            emit_json(vars(one))
    elif found:
        click.echo(table([(one.what, one.then, one.now) for one in found], ("what", "then", "now"), "<<<"))
    measured = sum(one.measured for one in found)
    note(f"{measured} measures differ" if measured else "all measures are the same")
    note(str(page))
    if measured:
        raise SystemExit(1)


@click.command()
@click.option(
    "--encoder", default=DEFAULT_ENCODER, show_default=True, metavar="NAME|PATH", help="Encoder to compare with BM25."
)
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("lsr-demo"), show_default=True, help="Output folder."
)
def demo(encoder: str, out: Path) -> None:
    """Encode, index, search, evaluate and explain a small real collection.

    \b
    Example:
      lsr demo
    """
    from lsr.eval.demo import run_demo

    run_demo(out, encoder)


@click.command()
@click.argument("config", required=False, type=ConfigFile("eval"))
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Result folder; existing results are reused."
)
@click.option("--dataset", "names", multiple=True, metavar="FOLDER|NAME", help="A collection; can be repeated.")
@click.option("--split", default="test", show_default=True, help="Split of --dataset's judgments.")
@click.option("--suite", metavar="NAME|FILE", help="A list of collections: beir, nano-beir, dl19, …, or a YAML file.")
@click.option(
    "--encoder",
    "encoders",
    multiple=True,
    metavar="NAME|PATH",
    help="Encoder to compare with BM25, if there is no CONFIG.",
)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Overrides a key of the file.")
@list_option("eval")
def experiment(
    config: Path | None,
    out: Path,
    names: tuple[str, ...],
    split: str,
    suite: str | None,
    encoders: tuple[str, ...],
    overrides: tuple[str, ...],
) -> None:
    """Compare systems on collections: encode, index, search, measure, time, report.

    CONFIG is a YAML file or the name of a preset (--list). It names systems and collections; --dataset and --suite can
    name the collections instead. Without CONFIG, BM25 is compared with lsr-mini or with --encoder. Results are cached
    in OUT/cache: if the command is repeated after an interruption or with other settings, only missing parts are
    computed.

    \b
    Examples:
      lsr experiment --dataset beir/scifact --out results
      lsr experiment hybrid --suite beir-small --out results
    """  # fmt: skip
    from lsr.config import read_config
    from lsr.console import note
    from lsr.errors import DataErrors
    from lsr.eval.datasets import DatasetSettings, open_datasets, suite_entries
    from lsr.eval.experiment.experiment import check_settings, named, run_experiment
    from lsr.eval.experiment.settings import ExperimentSettings, SystemSettings
    from lsr.eval.report.report import write_report

    if config is not None:
        if encoders:
            raise click.UsageError("--encoder can't be combined with CONFIG, which has its own systems")
        settings = read_config(config, ExperimentSettings, overrides)
    else:
        if overrides:
            raise click.UsageError("--set needs CONFIG")
        wanted = dict.fromkeys(["bm25", *(encoders or [DEFAULT_ENCODER])])
        settings = ExperimentSettings(tuple(SystemSettings(name, encoder=name) for name in wanted))
    suite, datasets, problems = suite or settings.suite, {}, DataErrors()
    with problems:
        entries = [*(suite_entries(suite) if suite else ()), *settings.datasets]
        datasets = named(open_datasets([*entries, *(DatasetSettings(name, split) for name in names)]))
    if problems.count:  # some datasets can't be opened: also report other problems
        check_settings(settings, problems)
        problems.settle()
    record = run_experiment(settings, datasets, out)
    page, text = write_report(out)
    click.echo(_headline(record))
    note(f"{page}, {text}")


def _headline(record: dict[str, Any]) -> str:
    """Return a table of the first measure, for all systems and datasets."""
    from lsr.console import table

    measure = record["measures"][0]
    datasets = [dataset["name"] for dataset in record["datasets"]]
    rows = []
    for system in record["systems"]:
        mine = {r["dataset"]: r["measures"][measure] for r in record["results"] if r["system"] == system["name"]}
        mean = sum(mine.values()) / len(mine)
        rows.append(
            (system["name"], *(f"{mine[name]:.4f}" if name in mine else "" for name in datasets), f"{mean:.4f}")
        )
    return table(rows, (measure, *datasets, "mean"), "<" + ">" * (len(datasets) + 1))


@click.command()
@click.argument("systems", nargs=-1, required=True, metavar="SYSTEM...")
@click.option("--dataset", metavar="FOLDER|NAME|FILE", help="Dataset with the judgments for TREC runs.")
@click.option("--split", default="test", show_default=True, help="Split of the judgments.")
@click.option("--measures", default="nDCG@10 RR@10 R@100", show_default=True, help="Names of ir-measures.")
@click.option("--baseline", metavar="NAME", help="The system to compare with. [default: the first]")
@click.option(
    "--test",
    type=click.Choice(["randomization", "t"]),
    default="randomization",
    show_default=True,
    help="The paired test.",
)
@click.option("--most", type=click.IntRange(min=0), default=5, show_default=True, help="Queries to print.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines on a terminal, too.")
def compare(
    systems: tuple[str, ...],
    dataset: str | None,
    split: str,
    measures: str,
    baseline: str | None,
    test: Any,
    most: int,
    as_json: bool,
) -> None:
    """Compare systems query by query: differences, confidence intervals, significance, wins and losses.

    SYSTEM is a TREC run of any engine, a result folder of `lsr experiment` (all of its systems), or FOLDER:SYSTEM. The
    tests are paired and two-sided; p is corrected for the number of systems with Holm's method. The 95 % interval of
    the difference, from a bootstrap over the queries, is in brackets.

    \b
    Examples:
      lsr compare bm25.trec splade.trec --dataset beir/scifact
      lsr compare results --measures nDCG@10
      lsr compare results:BM25 other-engine.trec --dataset beir/scifact
    """  # fmt: skip
    from lsr.console import emit_json, is_terminal, note, table
    from lsr.errors import DataErrors
    from lsr.eval.compare import compare_values, read_values
    from lsr.eval.datasets import open_dataset
    from lsr.eval.measures import parse_measures
    from lsr.eval.report.formatting import p_value

    judged, notes, problems = None, list[str](), DataErrors()
    with problems:
        judged = open_dataset(dataset, split) if dataset else None
    if problems.count:
        with problems:
            parse_measures(measures)
        problems.settle()
    values = read_values(systems, judged, measures, notes)
    for text in notes:
        note(f"note: {text}")
    found = compare_values(values, baseline, test=test, most=most)
    if as_json or not is_terminal():
        for one in found:
            emit_json(one.to_json())
        return
    rows = []
    for one in found:
        row = [one.dataset, one.measure, one.system, f"{one.mean:.4f}"]
        if (c := one.comparison) is not None and one.p_corrected is not None:
            corrected = p_value(one.p_corrected).text
            row += [f"{c.difference:+.4f}", f"[{c.low:+.4f}, {c.high:+.4f}]", p_value(c.p).text, corrected]
            row += [f"{c.wins}/{c.ties}/{c.losses}"]
        rows.append(row + [""] * (9 - len(row)))
    header = ("dataset", "measure", "system", "mean", "difference", "95 %", "p", "corrected", "win/tie/loss")
    click.echo(table(rows, header, "<<<>>>>>>"))
    for one in found:
        if one.most:
            click.echo(f"\n{one.dataset}, {one.measure}: where {one.system} differs most\n")
            lines = [(query, f"{mine:.4f}", f"{base:.4f}", f"{mine - base:+.4f}") for query, mine, base in one.most]
            click.echo(table(lines, ("query", "here", "baseline", "difference"), "<>>>"))


class _Numbers(click.ParamType[Any]):
    """A list of numbers, separated by commas."""

    name = "NUMBERS"

    def __init__(self, kind: type) -> None:
        self._kind = kind

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        try:
            return tuple(self._kind(part) for part in value.split(",")) if isinstance(value, str) else value
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers such as 5,8,12")


@click.command()
@click.argument("index_path", metavar="INDEX", type=PathOrURI())
@click.option("--queries", metavar="FILE|FOLDER|NAME", help="Texts or vectors of queries. [default: some documents]")
@click.option("-k", "ks", type=_Numbers(int), default="10", show_default=True, help="Documents to search for.")
@click.option("--alpha", type=_Numbers(float), help="Values to try; for block-max search.")
@click.option("--beta", type=_Numbers(float), help="Shares of the query's terms to try; for block-max search.")
@click.option("--cut", type=_Numbers(int), help="Values to try in cluster search.")
@click.option("--heap-factor", type=_Numbers(float), help="Values to try in cluster search.")
@click.option("--threads", type=_Numbers(int), default="0", show_default=True, help="Threads; 0 for all cores.")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="Timed rounds.")
@click.option("--recall", type=Number(0, 1), default=0.97, show_default=True, help="The recall you want.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines on a terminal, too.")
@encoder_options
def bench(
    index_path: Path | str,
    queries: str | None,
    ks: tuple[int, ...],
    alpha: tuple[float, ...] | None,
    beta: tuple[float, ...] | None,
    cut: tuple[int, ...] | None,
    heap_factor: tuple[float, ...] | None,
    threads: tuple[int, ...],
    rounds: int,
    recall: float,
    as_json: bool,
    encoder: str | None,
    **options: Any,
) -> None:
    """Measure latency and recall of an index for several settings, and find the fastest setting that reaches a recall.

    All combinations of the given values are tried. By default, a selection from fast to thorough is tried. Times are in
    ms, for one query at a time on one thread; settings are timed in turns. A star marks settings that are
    Pareto-optimal in latency and recall.

    \b
    Examples:
      lsr bench idx --queries queries.jsonl
      lsr bench idx --queries beir/scifact -k 10,100 --cut 3,5,8 --heap-factor 1,0.9 --recall 0.99
    """  # fmt: skip
    from lsr.console import counted, emit_json, is_terminal, table
    from lsr.eval.bench import bench_index as run_bench
    from lsr.eval.bench import recommended, settings_grid
    from lsr.index.search.query_file import read_queries

    index = open_index(index_path, encoder, options)
    given = {"alpha": alpha, "beta": beta, "cut": cut, "heap_factor": heap_factor}
    try:
        grid = settings_grid({name: value or () for name, value in given.items()}, clusters=index.has_clusters)
        if min(ks) < 1 or min(threads) < 0:
            raise ValueError("k is at least 1, threads at least 0")
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    vectors = read_queries(queries, index).encoded(index) if queries else index.sample()
    found = run_bench(index, vectors, ks, grid, rounds=rounds, threads=threads)
    best = [recommended(found, k, recall) for k in ks]
    if as_json or not is_terminal():
        for one in found:
            emit_json({**one.to_json(), "recommended": one in best})
        return
    rows = []
    for one in found:
        latency = [f"{value:.3f}" for value in one.latency.to_json().values()]
        star = "*" if one.on_frontier else ""
        rows.append(
            (str(one.k), one.label, star, f"{one.recall:.4f}", *latency, *(f"{v:.0f}" for v in one.per_second.values()))
        )
    speeds = [f"queries/s, {f'{n} threads' if n else 'all cores'}" for n in threads]
    header = ("k", "settings", "", "recall", "p50", "mean", "p95", "p99", *speeds)
    click.echo(f"{counted(len(vectors), 'query')}\n")
    click.echo(table(rows, header, "><<" + ">" * (len(header) - 3)))
    for one in best:
        click.echo(f"\nrecall {recall:g} at k = {one.k}: {one.label}, {one.latency.p50:.3f} ms at {one.recall:.4f}")
