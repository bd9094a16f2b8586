"""lsr report writes the values of a result folder to a page and a Markdown file, and escapes markup in names."""

from __future__ import annotations

import csv
import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from lsr.errors import DataError, MissingExtra
from lsr.eval.report import report as report_module
from lsr.eval.report.formatting import (
    Cell,
    Table,
    bytes_cell,
    difference,
    escape_latex,
    milliseconds,
    number,
    p_value,
    part,
    seconds,
    to_latex,
    to_markdown,
)
from lsr.eval.report.report import write_report

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")


class Page(HTMLParser):
    """A parsed page: tables as {caption: rows of texts}, and all tags and attributes."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.tags, self.attributes, self.text = {}, [], [], []
        self.rows, self.cell = [], None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag == "table":
            self.rows = []
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th", "caption"):
            self.cell = []

    def handle_endtag(self, tag):
        if tag in ("td", "th", "caption"):
            text = "".join(self.cell).strip()
            self.cell = None
            if tag == "caption":
                self.tables[text] = self.rows
            else:
                self.rows[-1].append(text)

    def handle_data(self, data):
        self.text.append(data)
        if self.cell is not None:
            self.cell.append(data)


@pytest.fixture(scope="module")
def written(hostile_made, tmp_path_factory):
    """The parsed page, its source, the Markdown, and the experiment's record."""
    folder, experiment = hostile_made
    html, markdown = write_report(folder, tmp_path_factory.mktemp("report") / "page.html")
    source = html.read_text(encoding="utf-8")
    return Page(source), source, markdown.read_text(encoding="utf-8"), experiment


def test_tables_show_the_values_of_the_experiment(written):
    page, _, _, experiment = written
    values = {(r["system"], r["dataset"]): r["measures"] for r in experiment["results"]}
    tests = {(c["system"], c["dataset"], c["measure"]): c for c in experiment["comparisons"]}
    datasets = [d["name"] for d in experiment["datasets"]]
    marks = 0
    for measure in experiment["measures"]:
        head, *rows = page.tables[f"{measure} by dataset"]
        assert head == ["system", "mean", *datasets]
        measured = rows[: len(experiment["systems"])]
        assert [row[0] for row in measured] == [s["name"] for s in experiment["systems"]]
        for system, mean, *cells in measured:
            known = [values[system, d][measure] for d in datasets if (system, d) in values]
            assert mean == (f"{sum(known) / 3:.3f}" if len(known) == 3 else "")
            for dataset, cell in zip(datasets, cells, strict=True):
                test = tests.get((system, dataset, measure))
                mark = "" if not test or test["p_corrected"] >= 0.05 else "▲" if test["difference"] > 0 else "▼"
                marks += bool(mark)
                value = values.get((system, dataset))
                assert cell == (f"{value[measure]:.3f}{mark}" if value else "")
    assert marks
    published = page.tables["nDCG@10 by dataset"][-2:]
    assert published[0] == ["BM25, multifield published", "", "0.665 [1]", "", ""]
    assert any("[1] BEIR, arXiv 2104.08663, table 2; [2] SPLADE-v3" in text for text in page.text)


def test_the_page_counts_wins_and_lists_paired_tests(written):
    page, _, _, experiment = written
    system = experiment["systems"][1]["name"]
    tests = [c for c in experiment["comparisons"] if (c["system"], c["measure"]) == (system, "nDCG@10")]
    (caption,) = (name for name in page.tables if name.startswith("Against "))
    row = next(row for row in page.tables[caption] if row[0] == system)
    clear = [c["difference"] > 0 for c in tests if c["p_corrected"] < 0.05]
    assert row[2:5] == [str(sum(clear)), str(3 - len(clear)), str(len(clear) - sum(clear))]
    assert row[5:] == [str(sum(c[what] for c in tests)) for what in ("wins", "ties", "losses")]
    assert len(page.tables["Paired tests"]) == 1 + len(experiment["comparisons"])


def test_the_page_shows_costs_recall_and_conditions(written):
    page, source, _, experiment = written
    first = experiment["results"][0]
    costs = dict(zip(*page.tables["Costs"][:2], strict=True))
    assert costs["system"] == first["system"]
    assert costs["index size"] == f"{first['index_bytes'] / 1e6:.2f} MB"
    assert costs["bytes a document"] == f"{first['index_bytes'] / 5183:.0f}"
    assert "FLOPS" in costs
    assert len(page.tables["Costs"]) == 1 + sum(r["index_bytes"] is not None for r in experiment["results"])
    head, *rows = page.tables["Approximate and exact systems"]
    assert [(row[0], row[2]) for row in rows] == [("lsr-mini, clusters", "3"), (experiment["systems"][3]["name"], "2")]
    assert rows[0][head.index("recall at 10")] == "0.9930"
    assert page.tables["Systems"][3][-1] == "algorithm = clusters, cut = 8"
    assert page.tables["Datasets"][1][2:5] == ["5,183", "300", "600"]
    for text in ("ir_measures", "0.4.3", "AMD EPYC, 2 cores, Linux", *experiment["notes"]):
        assert text in source


def test_queries_whose_values_differ_most_are_listed(written):
    page, _, _, _ = written
    _, *rows = page.tables["Queries that differ most, nDCG@10"]
    gains = [float(row[4].replace("−", "-")) for row in rows]
    assert len(rows) == 20
    assert gains == sorted(gains, reverse=True)
    assert gains[0] > 0.3 > -0.3 > gains[-1]
    for (_, _, before, after, _), gain in zip(rows, gains, strict=True):
        assert float(after) - float(before) == pytest.approx(gain, abs=0.0011)


def test_the_page_is_self_contained(written):
    page, source, _, _ = written
    pointing = [(t, n, v) for t, n, v in page.attributes if n in ("src", "href", "action", "data", "srcset", "poster")]
    assert pointing == [("a", "href", f"#section-{n}") for n in range(1, page.tags.count("h2") + 1)]
    assert {v[0] for _, n, v in page.attributes if n == "xlink:href"} == {"#"}
    assert not {"link", "img", "iframe", "object", "base", "form"} & set(page.tags)
    assert not re.search(r"url\((?!#)|@import|@font-face", source)
    (policy,) = (v for _, n, v in page.attributes if n == "content" and "default-src" in v)
    assert policy.startswith("default-src 'none'; ")
    assert "script-src 'sha256-" in policy
    assert page.tags.count("script") == 1


def test_pictures_have_titles_and_unique_ids(written):
    page, source, _, experiment = written
    pictures = re.findall(r"<svg viewBox.*?</svg>", source, re.S)
    # Four pictures (two frontiers, latencies, recall) in two sizes each; one per system except the baseline; one of the
    # queries; one per dataset.
    assert len(pictures) == 2 * 4 + 5 + 1 + 3
    for picture in pictures:
        root = ElementTree.fromstring(picture.replace("xlink:href", "href"))
        assert root.get("role") == "img"
        assert root[0].tag == "title"
        assert root.get("aria-labelledby") == root[0].get("id")
    names = [v for _, n, v in page.attributes if n == "id"]
    assert len(names) == len(set(names))
    text = [node.text for p in pictures for node in ElementTree.fromstring(p.replace("xlink:", "")).iter("text")]
    assert experiment["systems"][0]["name"] in text  # text isn't drawn as paths


def test_tables_have_semantic_markup(written):
    page, _, _, _ = written
    n = page.tags.count("table")
    assert (page.tags.count("caption"), page.tags.count("thead")) == (n, n)
    scopes = [v for t, a, v in page.attributes if (t, a) == ("th", "scope")]
    assert len(scopes) == page.tags.count("th")
    assert set(scopes) == {"row", "col"}


def test_markdown_has_the_same_tables(written):
    page, _, markdown, experiment = written
    assert markdown.count("\n| ---") == len(page.tables)
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len(lines) == sum(len(rows) + 1 for rows in page.tables.values())
    plain = re.compile(r"(?<!\\)\|")
    for table in re.findall(r"(?:^\|.*\n)+", markdown, re.M):
        assert len({len(plain.findall(line)) for line in table.splitlines()}) == 1
    assert r"\<script\>document.title='ran'\</script\>" in markdown
    assert r"BM25 \| “β” \$k\_1\$" in markdown
    assert not re.search(r"(?<!\\)<", markdown)
    assert f"# {experiment['title']}\n" in markdown
    assert not re.search(r"^## .*\n+(## |\Z)", markdown, re.M)


def test_every_table_is_written_as_csv_and_latex(hostile, tmp_path):
    folder, experiment = hostile
    (tmp_path / "page-tables").mkdir()
    (tmp_path / "page-tables" / "old.csv").write_text("x")
    html, _ = write_report(folder, tmp_path / "page.html")
    tables = Page(html.read_text(encoding="utf-8")).tables
    files = {path.name for path in (tmp_path / "page-tables").iterdir()}
    assert len(files) == 2 * len(tables)
    content = (tmp_path / "page-tables" / "nDCG-10-by-dataset.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(content.splitlines()))
    value = next(r for r in experiment["results"] if r["system"] == rows[1]["system"])["measures"]["nDCG@10"]
    assert float(rows[1]["scifact"]) == value
    assert rows[1]["scifact, note"] in ("▲", "▼", "")
    tex = (tmp_path / "page-tables" / "nDCG-10-by-dataset.tex").read_text(encoding="utf-8")
    assert tex.count(r"\\") == 1 + len(tables["nDCG@10 by dataset"]) - 1
    assert r"\begin{tabular}{lrrrr}" in tex
    assert r"BM25 \textbar{} ``$\beta$'' \$k\_1\$" in tex
    assert r"\textbackslash{} `b`" in tex
    assert r"$^{\uparrow}$" in tex
    assert not re.search(r"(?<!\\)[%#_~^]", re.sub(r"^%.*|\$\^\{.*?\}\$", "", tex, flags=re.M))


def test_latex_output_is_ascii():
    """Letters with a LaTeX command are written as that command."""
    assert escape_latex("é ñ Å ế ß ł Ł π Σ Α λ ς") == (
        r"\'{e} \~{n} \r{A} \'{\^{e}} \ss{} \l{} \L{} $\pi$ $\Sigma$ A $\lambda$ $\varsigma$"
    )
    assert escape_latex("½ ² ﬁ 航空 \N{GRINNING FACE} \x07") == "1/2 2 fi ?? ? ?"
    assert escape_latex("cafe\u0301") == r"caf\'{e}"
    every = "".join(map(chr, range(0x3000)))
    assert escape_latex(every).isascii()


def test_pdflatex_compiles_every_table(hostile, tmp_path, pdflatex):
    """Compiles tables with hostile names and texts, and every letter that has a LaTeX command."""
    folder, _ = hostile
    html, _ = write_report(folder, tmp_path / "page.html")
    tables = html.with_name("page-tables")
    letters = [letter for letter in map(chr, range(32, 0x3000)) if "?" not in escape_latex(letter)]
    rows = [[Cell("[5] &"), Cell(text)] for text in ("*", "#1 100 % of _x_ ~ {^}", *letters)]
    (tables / "letters.tex").write_text(
        to_latex(Table("letters %", ("[x]", "100 %"), tuple(map(tuple, rows[:40])), (False, False)))
    )
    begin = [r"\documentclass{article}\usepackage{booktabs,graphicx}\begin{document}"]
    inputs = [rf"\resizebox{{\linewidth}}{{!}}{{\input{{page-tables/{path.name}}}}}" for path in tables.glob("*.tex")]
    texts = [escape_latex(letter) for letter in letters]
    (tmp_path / "all.tex").write_text("\n\n".join([*begin, *inputs, *texts, r"\end{document}"]))
    log = pdflatex(tmp_path / "all.tex")
    assert (tmp_path / "all.pdf").is_file()
    assert "Missing character" not in log


def test_the_same_folder_gives_the_same_bytes(hostile, tmp_path):
    folder, _ = hostile
    paths = write_report(folder)
    assert paths == (folder / "report.html", folder / "report.md")
    first = [path.read_bytes() for path in paths]
    again = write_report(folder, tmp_path / "other.htm")
    assert [path.name for path in again] == ["other.htm", "other.md"]
    assert [path.read_bytes() for path in again] == first


def test_a_minimal_experiment_has_a_report(hostile):
    folder, experiment = hostile
    keep = ("dataset", "system")
    bare = [{**{k: r[k] for k in keep}, "measures": {}, "intervals": {}} for r in experiment["results"]]
    bare = {**experiment, "results": bare[:1], "comparisons": [], "references": [], "notes": []}
    for values in (bare, {**bare, "results": []}):
        (folder / "experiment.json").write_text(json.dumps(values))
        (folder / "latencies.parquet").unlink(missing_ok=True)
        page = Page(write_report(folder)[0].read_text(encoding="utf-8"))
        assert [row[0] for row in page.tables["nDCG@10 by dataset"]][1:] == [s["name"] for s in experiment["systems"]]
        assert "Costs" not in page.tables


def test_the_picture_shows_percentiles_if_latencies_parquet_is_missing(hostile):
    folder, _ = hostile
    (folder / "latencies.parquet").unlink()
    assert "Line: up to the 95th percentile." in write_report(folder)[0].read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (difference(-0.0001), "0.000"),
        (difference(-0.0123), "−0.012"),
        (p_value(0.0004), "<0.001"),
        (part(0.99999), "0.9999"),
        (part(1.0), "1"),
        (milliseconds(0.0289), "0.029"),
        (milliseconds(12.34), "12.3"),
        (seconds(0.0123), "12 ms"),
        (seconds(95.2), "1 min 35 s"),
        (seconds(7384), "2 h 03 min"),
        (bytes_cell(999), "999 B"),
        (bytes_cell(999_600), "1.00 MB"),
        (bytes_cell(3_146_000), "3.15 MB"),
        (number(8_841_823), "8,841,823"),
        (number(1.644), "1.64"),
        (number(0), "0"),
        (number(None), ""),
    ],
)
def test_cells_are_formatted_with_units_and_rounding(cell, text):
    assert cell.text == text


def test_a_markdown_table_escapes_markup_and_marks_the_best_value():
    table = Table("a|b", ("x", "y"), ((Cell("*"), Cell("1", 1.0, best=True, mark="▲", aside="[1]")),), (False, True))
    assert to_markdown(table) == "**a\\|b**\n\n| x | y |\n| --- | ---: |\n| \\* | **1** ▲ \\[1\\] |"


def test_the_command_prints_its_paths_and_reports_a_damaged_file_in_one_line(hostile, lsr_command, tmp_path):
    folder, _ = hostile
    ran = lsr_command("report", folder, "--out", tmp_path / "page.html")
    assert (ran.code, ran.out.split()) == (0, [str(tmp_path / "page.html"), str(tmp_path / "page.md")])
    (folder / "per-query.parquet").write_bytes(b"no")
    ran = lsr_command("report", folder)
    assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1)
    assert "per-query.parquet: not a whole Parquet file" in ran.err


def test_the_page_must_not_have_the_markdown_suffix(hostile):
    with pytest.raises(DataError, match=r"can't end in \.md"):
        write_report(hostile[0], hostile[0] / "report.md")


def test_the_error_names_a_missing_package(hostile, monkeypatch):
    monkeypatch.setattr(report_module, "find_spec", lambda name: None if name == "jinja2" else object())
    with pytest.raises(MissingExtra, match=r'jinja2, which is not installed: pip install "lsr-search\[eval\]"'):
        write_report(hostile[0])
