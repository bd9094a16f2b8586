"""Readers find a file's title, headings, anchors, lines, pages and metadata, and refuse bad files."""

from __future__ import annotations

import json
import time
import zipfile

import docx
import pypdf
import pytest

from lsr.errors import DataError
from lsr.files.decode import decoded
from lsr.files.html import read_html
from lsr.files.markdown import read_markdown
from lsr.files.notebook import read_notebook
from lsr.files.office import read_docx, read_epub, read_pdf
from lsr.files.plain import read_code, read_python, read_text
from lsr.files.rst import read_rst

from .conftest import epub, pdf, put


def blocks(parsed):
    """(text, headings, anchor, lines) of each block."""
    return [(text.strip(), " > ".join(b.headings), b.anchor, (b.line, b.end_line)) for b, text in parsed.pieces()]


# --- text ---------------------------------------------------------------------------------------------------------


MARKDOWN = """---
title: The guide
tags: [a, b]
date: 2024-05-01
draft: false
---
Before any heading.

# Install `lsr` on [Linux](https://x.org)

Run this:

```bash
# no heading
pip install lsr
```

- one item
- another item

  with a second paragraph

Same section
------------

| a | b |
|---|---|
| 1 | 2 |

## Own anchor {#mine}

> quoted
"""


def test_markdown_is_read_with_metadata_headings_and_lines():
    parsed = read_markdown(MARKDOWN)
    assert parsed.title == "The guide"
    assert parsed.metadata["tags"] == ["a", "b"]
    assert str(parsed.metadata["date"]) == "2024-05-01"
    assert parsed.metadata["draft"] is False
    linux, slug = "Install lsr on Linux", "install-lsr-on-linux"
    assert blocks(parsed) == [
        ("Before any heading.", "", "", (7, 7)),
        ("# Install `lsr` on [Linux](https://x.org)", linux, slug, (9, 9)),
        ("Run this:", linux, slug, (11, 11)),
        ("```bash\n# no heading\npip install lsr\n```", linux, slug, (13, 16)),
        ("- one item", linux, slug, (18, 18)),
        ("- another item\n\n  with a second paragraph", linux, slug, (19, 21)),
        ("Same section\n------------", f"{linux} > Same section", "same-section", (23, 24)),
        ("| a | b |\n|---|---|\n| 1 | 2 |", f"{linux} > Same section", "same-section", (26, 28)),
        ("## Own anchor {#mine}", f"{linux} > Own anchor", "mine", (30, 30)),
        ("> quoted", f"{linux} > Own anchor", "mine", (32, 32)),
    ]


@pytest.mark.parametrize(
    ("heading", "title", "anchor"),
    [
        ("max_new_tokens and `__init__.py`", "max_new_tokens and __init__.py", "max_new_tokens-and-__init__py"),
        ("`torch.no_grad` _in_ __all__", "torch.no_grad in all", "torchno_grad-in-all"),
        (r"\_private 2 \* 3", "_private 2 * 3", "_private-2--3"),
        ("2 * 3 * 4", "2 * 3 * 4", "2--3--4"),
        ("![the *logo*](a.png) [LSR][1] <b>x_y</b> &amp; z", "the logo [LSR][1] x_y & z", "the-logo-lsr1-x_y--z"),
        ("snake_case {#an_id}", "snake_case", "an_id"),
    ],
)
def test_headings_are_read_without_markup(heading, title, anchor):
    (block,) = read_markdown(f"## {heading}\n").blocks
    assert (block.headings, block.anchor) == ((title,), anchor)


def test_equal_headings_have_different_anchors():
    anchors = [block.anchor for block in read_markdown("# A\n\n## B!\n\n## B!\n\n## b\n").blocks]
    assert anchors == ["a", "b", "b-1", "b-2"]


@pytest.mark.parametrize(
    "text",
    [
        "---\n\nA rule, and a text\n\n---\n",
        "---\nno end",
        "+++ not front matter",
        "---\n- a\n- list\n---\n",
        "---\n> a quote\n---\n",
        "",
    ],
)
def test_text_that_looks_like_front_matter_stays_text(text):
    parsed = read_markdown(text)
    assert (parsed.metadata, parsed.text) == ({}, text)


def test_front_matter_in_toml_is_read():
    parsed = read_markdown('+++\ntitle = "T"\nweight = 3\n+++\n# H\n')
    assert (parsed.title, parsed.metadata) == ("T", {"weight": 3})
    assert blocks(parsed) == [("# H", "H", "h", (5, 5))]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("---\na: [1\n---\nx", "the front matter isn't YAML"),
        ("---\na: &x [1]\nb: *x\n---\n", "aliases (*name) aren't read"),
        ("---\na: !!python/object:os.system ls\n---\n", "the front matter isn't YAML"),
        ("+++\na = \n+++\n", "the front matter isn't TOML"),
    ],
)
def test_invalid_front_matter_is_refused(text, said):
    with pytest.raises(DataError) as refused:
        read_markdown(text)
    assert said in str(refused.value)


RST = """:author: Ada
:date: 2020-01-01

.. _start:

==============
 Getting ``it``
==============

First paragraph
of two lines.

.. code-block:: python

   x = 1

   y = 2

Sub **section**
---------------

* an item
* another

Definition
    its text
"""


def test_rst_is_read_with_metadata_headings_and_lines():
    parsed = read_rst(RST)
    assert parsed.title == "Getting it"
    assert parsed.metadata == {"author": "Ada", "date": "2020-01-01"}
    first, sub = ("Getting it", "start"), ("Getting it > Sub section", "sub-section")
    assert blocks(parsed)[1:] == [
        (".. _start:", "", "", (4, 4)),
        ("==============\n Getting ``it``\n==============", *first, (6, 8)),
        ("First paragraph\nof two lines.", *first, (10, 11)),
        (".. code-block:: python\n\n   x = 1\n\n   y = 2", *first, (13, 17)),
        ("Sub **section**\n---------------", *sub, (19, 20)),
        ("* an item", *sub, (22, 22)),
        ("* another", *sub, (23, 23)),
        ("Definition\n    its text", *sub, (25, 26)),
    ]


@pytest.mark.parametrize(
    ("title", "heading"),
    [
        ("max_k and __init__", "max_k and __init__"),
        (r"max\_k of ``a_b``", "max_k of a_b"),
        (":class:`a_b.C_d` is *it*", "a_b.C_d is it"),
    ],
)
def test_a_title_in_rst_keeps_its_underscores(title, heading):
    assert read_rst(f"{title}\n{'=' * len(title)}\n").title == heading


@pytest.mark.parametrize("text", ["a\n\n----\n\nb\n", "=====\n", "::\n\n  x\n", "+---+\n| a |\n+---+\n", "ab\n-\n"])
def test_rules_and_tables_in_rst_are_not_headings(text):
    assert {block.headings for block in read_rst(text).blocks} == {()}


def test_plain_text_is_split_at_blank_lines():
    assert [text for text, *_ in blocks(read_text("\n\none\ntwo\n\n  three\n\n\nfour"))] == [
        "one\ntwo",
        "three",
        "four",
    ]
    assert blocks(read_text(" \n\n")) == []


PYTHON = '''"""What it does.

More."""

import os


@decorated
class Wing:
    """A wing."""

    area = 1

    def lift(self):
        return 2


def free():
    pass


AFTER = 1
'''


def test_python_is_split_into_definitions():
    parsed = read_python(PYTHON)
    assert parsed.title == "What it does."
    found = {text.split("\n")[0]: (headings, anchor) for text, headings, anchor, _ in blocks(parsed)}
    assert found == {
        '"""What it does.': ("", ""),
        'More."""': ("", ""),
        "import os": ("", ""),
        "@decorated": ("class Wing", "L8"),
        "area = 1": ("class Wing", "L8"),
        "def lift(self):": ("class Wing > def lift", "L14"),
        "def free():": ("def free", "L18"),
        "AFTER = 1": ("", ""),
    }


def test_unparsable_python_is_read_as_source_code():
    assert blocks(read_python("print 1\n\nx\n")) == blocks(read_code("print 1\n\nx\n"))


def test_source_code_is_split_between_definitions():
    text = "int a;\n\nint f() {\n\n  return 1;\n\n}\n\nint b;\n"
    assert [text for text, *_ in blocks(read_code(text))] == ["int a;", "int f() {\n\n  return 1;\n\n}", "int b;"]


# --- HTML ---------------------------------------------------------------------------------------------------------


HTML = """<!doctype html><html lang="en"><head><title>The  page</title>
<meta name="author" content="Ada"><link rel="canonical" href="https://x.org/p">
<style>p { color: red }</style><script>var secret = "<p>secret</p>";</script></head>
<body><nav><a href="/">Home</a></nav><noscript>no</noscript>
<section id="intro"><h1>Hello&nbsp;there ¶</h1>
<p>Some <b>bold</b> text<br>in two lines
<p>unclosed
<ul><li>one<li>two</ul>
<h2><a id="sub"></a>Sub</h2>
<pre><code>def f():
    return 1 &lt; 2
</code></pre>
<table><tr><th>a<th>b<tr><td>1<td>2</table></section>
<div hidden>hidden</div><img alt="a wing" src="x.png">
<form><input value="x"><button>Go</button></form></body></html>"""


def test_html_is_read_with_metadata_headings_and_lines():
    parsed = read_html(HTML)
    assert parsed.title == "The page"
    assert parsed.metadata == {"lang": "en", "author": "Ada", "url": "https://x.org/p"}
    hello, sub = ("Hello there", "intro"), ("Hello there > Sub", "sub")
    assert blocks(parsed) == [
        ("Hello there", *hello, (5, 5)),
        ("Some bold text\nin two lines", *hello, (6, 6)),
        ("unclosed", *hello, (7, 7)),
        ("one", *hello, (8, 8)),
        ("two", *hello, (8, 8)),
        ("Sub", *sub, (9, 9)),
        ("def f():\n    return 1 < 2", *sub, (10, 11)),
        ("a\tb", *sub, (13, 13)),
        ("1\t2", *sub, (13, 13)),
        ("a wing", *sub, (14, 14)),
    ]


@pytest.mark.parametrize(
    "text", ["<script>alert(1)", "<p", "</p></div></nav>", "<![CDATA[", "<a href='", "&#xD800;", ""]
)
def test_truncated_html_keeps_its_text_without_scripts(text):
    parsed = read_html(f"<p>before</p>{text}")
    assert parsed.text.startswith("before")
    assert "alert" not in parsed.text
    parsed.text.encode()


@pytest.mark.parametrize("end", ["", ">", "<p>two</p>"])
@pytest.mark.parametrize("part", ["<!-- a ", '<a href="x ', "<?x ", "<![CDATA[ ", "</ ", "<!DOCTYPE ", "<p ", "<![if "])
def test_unclosed_markup_takes_linear_time(part, end):
    start = time.process_time()
    parsed = read_html("<p>one</p>" + part * 20_000 + end)
    assert time.process_time() - start < 3  # quadratic time would be 20 s to several minutes
    assert parsed.text.startswith("one")
    if not end or part in ("<!-- a ", "<![CDATA[ ", "<![if "):
        assert part.strip() in parsed.text


def test_closed_comments_are_removed():
    parsed = read_html("<p>a</p><!-- b --><p>c</p><![if !IE]><p>d</p><![endif]><p>1 < 2</p><!-- e <b>f</b>")
    assert parsed.text.split() == ["a", "c", "d", "1", "<", "2", "<!--", "e", "f"]


# --- notebooks ----------------------------------------------------------------------------------------------------


def test_a_notebook_is_read_with_its_outputs():
    cells = [
        {"cell_type": "markdown", "source": ["# The title\n", "\n", "Some text."]},
        {"cell_type": "markdown", "source": []},
        {"cell_type": "code", "source": "x = 1", "outputs": [{"output_type": "stream", "text": ["printed\n"]}]},
        {"cell_type": "markdown", "source": "## More of it\nand on"},
        {"cell_type": "code", "source": "y", "outputs": [{"data": {"image/png": "iVBOR", "text/plain": "<Figure>"}}]},
    ]
    parsed = read_notebook(json.dumps({"cells": cells, "metadata": {"kernelspec": {"language": "python"}}}))
    assert (parsed.title, parsed.metadata) == ("The title", {"language": "python"})
    assert [block[:3] for block in blocks(parsed)] == [
        ("# The title", "The title", "The-title"),
        ("Some text.", "The title", "The-title"),
        ("x = 1", "The title", "The-title"),
        ("printed", "The title", "The-title"),
        ("## More of it", "The title > More of it", "More-of-it"),
        ("and on", "The title > More of it", "More-of-it"),
        ("y", "The title > More of it", "More-of-it"),
        ("<Figure>", "The title > More of it", "More-of-it"),
    ]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"cells": 1}', '{"cells": [1]}', "{" * 5000, '{"cells": null}'])
def test_invalid_notebooks_are_refused(text):
    with pytest.raises(DataError, match="not a notebook"):
        read_notebook(text)


# --- PDF, DOCX and EPUB -------------------------------------------------------------------------------------------


def test_a_pdf_has_one_block_per_page(tmp_path):
    parsed = read_pdf(put(tmp_path / "a.pdf", pdf("Swept wings\nof an air-\ncraft", "Heat of plates")))
    assert [(b.page, b.anchor) for b in parsed.blocks] == [(1, "page=1"), (2, "page=2")]
    assert "aircraft" in parsed.text
    assert "Heat of plates" in parsed.text


def test_the_outline_of_a_pdf_gives_its_headings(tmp_path):
    writer = pypdf.PdfWriter(put(tmp_path / "in.pdf", pdf("One text", "Two text", "Three text")))
    chapter = writer.add_outline_item(title="Chapter", page_number=0)
    writer.add_outline_item(title="Part", page_number=1, parent=chapter)
    writer.add_metadata({"/Title": "The title", "/Author": "Ada"})
    writer.write(tmp_path / "a.pdf")
    parsed = read_pdf(tmp_path / "a.pdf")
    assert (parsed.title, parsed.metadata) == ("The title", {"author": "Ada"})
    assert [b.headings for b in parsed.blocks] == [("Chapter",), ("Chapter", "Part"), ("Chapter", "Part")]


def test_bad_pdfs_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"^no text on 2 pages: run OCR on scanned pages first$"):
        read_pdf(put(tmp_path / "scan.pdf", pdf("", "")))
    for content in (b"", b"%PDF-1.4\nbroken", pdf("text")[:200], b"no pdf at all"):
        with pytest.raises(DataError, match=r"^not a whole PDF: |^no text"):
            read_pdf(put(tmp_path / "broken.pdf", content))
    writer = pypdf.PdfWriter(put(tmp_path / "in.pdf", pdf("secret")))
    writer.encrypt("password", algorithm="RC4-128")
    writer.write(tmp_path / "locked.pdf")
    with pytest.raises(DataError, match=r"^it is encrypted"):
        read_pdf(tmp_path / "locked.pdf")
    writer = pypdf.PdfWriter(tmp_path / "in.pdf")
    writer.encrypt("", "owner", algorithm="RC4-128")  # no password is needed for reading
    writer.write(tmp_path / "open.pdf")
    assert read_pdf(tmp_path / "open.pdf").text == "secret"


def test_a_docx_is_read_with_headings_lists_and_tables(tmp_path):
    document = docx.Document()
    document.core_properties.author = "Ada"
    document.add_heading("The report", 0)
    document.add_paragraph("Before")
    document.add_heading("Wings", 1)
    document.add_paragraph("An item", style="List Bullet")
    table = document.add_table(rows=1, cols=2)
    table.cell(0, 0).text, table.cell(0, 1).text = "a", "b"
    document.save(tmp_path / "a.docx")
    parsed = read_docx(tmp_path / "a.docx")
    assert parsed.title == "The report"
    assert parsed.metadata["author"] == "Ada"
    assert [block[:2] for block in blocks(parsed)] == [
        ("The report", "The report"),
        ("Before", "The report"),
        ("Wings", "The report > Wings"),
        ("An item", "The report > Wings"),
        ("a\tb", "The report > Wings"),
    ]


def test_an_epub_is_read_in_the_order_of_its_spine(tmp_path):
    chapters = {"b.xhtml": "<h1 id='x'>First</h1><p>one</p>", "a.xhtml": "<h1>Second</h1><p>two</p>"}
    parsed = read_epub(epub(tmp_path / "a.epub", chapters))
    assert (parsed.title, parsed.metadata) == ("A book", {"author": "Ada", "lang": "en"})
    found = [("First", "First"), ("one", "First"), ("Second", "Second"), ("two", "Second")]
    assert [block[:2] for block in blocks(parsed)] == found


@pytest.mark.parametrize("reader", [read_docx, read_epub])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04broken", b"text", b"PK\x05\x06" + bytes(18)])
def test_broken_archives_are_refused(tmp_path, reader, content):
    with pytest.raises(DataError, match=r"^not a whole (DOCX|EPUB): "):
        reader(put(tmp_path / "a", content))


def test_encrypted_or_hostile_archives_are_refused(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="encrypted, or of Word before 2007"):
        read_docx(put(tmp_path / "a.docx", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(100)))
    chapters = {"a.xhtml": "<p>one</p>"}
    with pytest.raises(DataError, match=r"it is encrypted \(DRM\)"):
        read_epub(epub(tmp_path / "drm.epub", chapters, encrypted=["a.xhtml"]))
    assert read_epub(epub(tmp_path / "fonts.epub", chapters, encrypted=["font.otf"])).text == "one"
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaa">]><encryption>&a;</encryption>'
    path = epub(tmp_path / "bomb.epub", chapters)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("META-INF/encryption.xml", bomb)
    with pytest.raises(DataError, match="it defines XML entities"):
        read_epub(path)
    monkeypatch.setattr("lsr.files.office._LARGEST_TEXT", 100)
    with pytest.raises(DataError, match="too large: 0 MB unpacked"):
        read_epub(path)


# --- encodings ----------------------------------------------------------------------------------------------------

GERMAN = "Größe und Auftrieb der Tragflächen; äußerst schöne Flügel über Österreich. " * 4


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252", "iso8859-15"])
def test_common_encodings_are_detected(encoding):
    assert decoded(GERMAN.encode(encoding))[0] == GERMAN


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Größe", "cp1252"),
        ("naïve café", "cp1252"),
        ("Señor, ¿qué tal?", "cp1252"),
        ("“Quoted” – a dash isn’t ASCII", "cp1252"),
        ("La glace sur l'aile réduit la portance; elle a déjà causé des accidents.", "cp1252"),
        ("Is på vingen minskar lyftkraften. Åska över älven.", "cp1252"),
        ("Příliš žluťoučký kůň úpěl ďábelské ódy", "cp1250"),
        ("Żółta łódź płynie", "cp1250"),
        ("Привет", "cp1251"),
        ("Лёд на крыле уменьшает подъёмную силу.", "koi8_r"),
        ("Ο πάγος στο φτερό", "cp1253"),
        ("翼の氷は揚力を減らす。", "cp932"),
        ("翼の氷は揚力を減らす。", "euc_jp"),
        ("날개 위의 얼음은 양력을 줄인다.", "cp949"),
        ("机翼上的冰会降低升力。", "gb18030"),
    ],
)
def test_the_encoding_of_short_texts_is_guessed(text, encoding):
    assert decoded(text.encode(encoding)) == (text, encoding)


def test_the_encoding_that_markup_declares_is_used():
    page = f'<html><head><meta charset="iso-8859-1"></head><body>{GERMAN} “quoted”</body></html>'
    assert decoded(page.encode("cp1252"), markup=True) == (page, "")
    japanese = '<?xml version="1.0" encoding="Shift_JIS"?><p>日本語の文書</p>'
    assert decoded(japanese.encode("shift_jis"), markup=True) == (japanese, "")
    for declared in ("utf-8", "nonsense", "rot13", "hex"):
        with pytest.raises(DataError):
            decoded(f'<meta charset="{declared}">ä'.encode("latin-1"), markup=True)


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n\0\0\0", bytes(range(1, 32)) * 9, b"\x7fELF\2\1\1\0"])
def test_binary_files_are_refused(content):
    with pytest.raises(DataError, match="it isn't text"):
        decoded(content)


def test_line_endings_become_newlines():
    assert decoded(b"a\r\nb\rc\n") == ("a\nb\nc\n", "")
