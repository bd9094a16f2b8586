"""Read PDF, DOCX and EPUB. Such a compressed file may be broken, encrypted, or huge when unpacked."""

from __future__ import annotations

import logging
import posixpath
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

from lsr.console import counted
from lsr.errors import DataError, MissingExtra
from lsr.files.decode import decoded
from lsr.files.html import add_html
from lsr.files.parsed import Extracted, Parsed, one_line

_LARGEST_TEXT, _LARGEST = 1 << 28, 1 << 30  # unpacked bytes
_HEADING = re.compile(r"heading (\d)$|title$", re.IGNORECASE)


# --- PDF ----------------------------------------------------------------------------------------------------------


def read_pdf(path: Path) -> Parsed:
    """Read the text of a PDF, page by page, under the headings of its outline.

    Raises:
        MissingExtra: pypdf isn't installed.
        DataError: The file is broken or encrypted, or has no text because it was scanned.
    """
    try:
        import pypdf
    except ImportError:
        raise MissingExtra("pypdf", "files", "reading PDF") from None
    out = Extracted()
    with path.open("rb") as file, _quiet("pypdf"), _told_as_broken("PDF"):
        reader = pypdf.PdfReader(file)
        if reader.is_encrypted and not reader.decrypt(""):
            raise DataError("it is encrypted: read it with its password, and save it without one")
        outline = _outline(reader)
        n_pages = len(reader.pages)
        for number, page in enumerate(reader.pages, start=1):
            if number in outline:
                out.headings.reset(outline[number])
            out.anchor = f"page={number}"
            for paragraph in re.split(r"\n\s*\n", _page_text(page)):
                out.add(paragraph, page=number)
        about = reader.metadata or {}
        metadata = {"author": str(about.get("/Author") or "").strip()}
        title = str(about.get("/Title") or "")
    parsed = out.parsed(title, {key: value for key, value in metadata.items() if value})
    if not parsed.text:
        raise DataError(f"no text on {counted(n_pages, 'page')}: run OCR on scanned pages first")
    return parsed


def _page_text(page: Any) -> str:
    """Return the text of a page, with words that were hyphenated at line ends joined again."""
    text = page.extract_text().replace("\x00", "")
    text = text.encode("utf-8", "replace").decode()  # halves of surrogate pairs
    return re.sub(r"(?<=[a-zäöüß])-\n(?=[a-zäöüß])", "", text)


def _outline(reader: Any) -> dict[int, tuple[str, ...]]:
    """Return {page: headings of the first section of the outline that begins on this page}."""
    found: dict[int, tuple[str, ...]] = {}

    def walk(items: Any, above: tuple[str, ...], depth: int) -> None:
        path = above
        for item in items:
            if isinstance(item, list):
                if depth < 20:
                    walk(item, path, depth + 1)
                continue
            path = (*above, one_line(str(item.title)))
            page = reader.get_destination_page_number(item)
            if page is not None and page >= 0:
                found.setdefault(page + 1, path)

    try:
        walk(reader.outline, (), 0)
    except Exception:  # ignore a broken outline: the pages matter
        return {}
    return found


# --- DOCX ---------------------------------------------------------------------------------------------------------


def read_docx(path: Path) -> Parsed:
    """Read the paragraphs and tables of a Word document.

    Raises:
        MissingExtra: python-docx isn't installed.
        DataError: The file is broken or encrypted.
    """
    try:
        import docx
        from docx.table import Table
    except ImportError:
        raise MissingExtra("python-docx", "files", "reading DOCX") from None
    with path.open("rb") as file:
        if file.read(8) == b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1":
            raise DataError("it is encrypted, or of Word before 2007: save it as .docx without a password")
    out = Extracted()
    with _told_as_broken("DOCX"):
        with zipfile.ZipFile(path) as archive:
            _require_modest(archive)
        document = docx.Document(str(path))
        for part in document.iter_inner_content():
            if isinstance(part, Table):
                for row in part.rows:
                    out.add("\t".join(dict.fromkeys(one_line(cell.text) for cell in row.cells)))
                continue
            style = _HEADING.search(part.style.name or "") if part.style is not None else None
            if style:
                out.heading(int(style[1] or 0), part.text)
            else:
                out.add(part.text)
        about = document.core_properties
        metadata = {"author": about.author or "", "lang": about.language or ""}
        title = about.title or ""
    return out.parsed(title, {key: value for key, value in metadata.items() if value})


# --- EPUB ---------------------------------------------------------------------------------------------------------


def read_epub(path: Path) -> Parsed:
    """Read the chapters of an EPUB, in the order of reading.

    Raises:
        DataError: The file is broken or encrypted.
    """
    out = Extracted()
    with _told_as_broken("EPUB"), zipfile.ZipFile(path) as archive:
        _require_modest(archive)
        container = _xml(archive.read("META-INF/container.xml"))
        rootfile = container.find(".//{*}rootfile")
        if rootfile is None:
            raise DataError("not a whole EPUB: it doesn't say what to read")
        package_name = rootfile.get("full-path", "")
        package = _xml(archive.read(package_name))
        folder = posixpath.dirname(package_name)
        items = {
            item.get("id"): item
            for item in package.iterfind("{*}manifest/{*}item")
            if item.get("media-type") in ("application/xhtml+xml", "text/html")
        }
        order = [reference.get("idref") for reference in package.iterfind("{*}spine/{*}itemref")]
        chapters = [items[name] for name in order if name in items]
        if "META-INF/encryption.xml" in archive.namelist() and _is_encrypted(archive, folder, chapters):
            raise DataError("it is encrypted (DRM)")
        for chapter in chapters:
            name = posixpath.normpath(posixpath.join(folder, unquote(chapter.get("href", ""))))
            if "nav" in (chapter.get("properties") or "").split() or name not in archive.namelist():
                continue
            out.headings.reset(())
            out.anchor = ""
            add_html(decoded(archive.read(name), markup=True)[0], out)
        about = {key: one_line(package.findtext(f"{{*}}metadata/{{*}}{key}") or "") for key in _ABOUT}
    metadata = {_ABOUT[key]: value for key, value in about.items() if value and key != "title"}
    parsed = out.parsed(about["title"], metadata)
    # Lines and anchors of a chapter have no meaning for the file as a whole.
    parsed.blocks = [block._replace(line=0, end_line=0, anchor="") for block in parsed.blocks]
    return parsed


_ABOUT = {"title": "title", "creator": "author", "language": "lang", "date": "date", "publisher": "publisher"}


def _is_encrypted(archive: zipfile.ZipFile, folder: str, chapters: list[ElementTree.Element]) -> bool:
    """Whether chapters are encrypted. Encrypted fonts, which are frequent, don't matter."""
    names = {posixpath.normpath(posixpath.join(folder, unquote(chapter.get("href", "")))) for chapter in chapters}
    listed = _xml(archive.read("META-INF/encryption.xml")).iterfind(".//{*}CipherReference")
    return bool(names & {unquote(reference.get("URI", "")) for reference in listed})


def _xml(content: bytes) -> ElementTree.Element:
    if b"<!ENTITY" in content:  # a few lines of entities can expand to billions
        raise DataError("not read: it defines XML entities")
    return ElementTree.fromstring(content)


# --- all formats --------------------------------------------------------------------------------------------------


def _require_modest(archive: zipfile.ZipFile) -> None:
    """Check the unpacked size of an archive.

    Raises:
        DataError: The archive is too large, or encrypted.
    """
    if any(item.flag_bits & 1 for item in archive.infolist()):
        raise DataError("it is encrypted")
    texts = [item for item in archive.infolist() if item.filename.endswith((".xml", ".rels", "html", ".opf"))]
    for items, most in ((texts, _LARGEST_TEXT), (archive.infolist(), _LARGEST)):
        if (size := sum(item.file_size for item in items)) > most:
            raise DataError(f"too large: {size >> 20:,} MB unpacked; the limit is {most >> 20:,} MB")


@contextmanager
def _told_as_broken(kind: str) -> Iterator[None]:
    """Turn any error of a library into a DataError."""
    try:
        yield
    except (DataError, MissingExtra):
        raise
    except (RecursionError, MemoryError) as error:
        raise DataError(f"not a {kind} that can be read: {type(error).__name__}") from None
    except Exception as error:  # pypdf, python-docx and zipfile raise many kinds of errors for bad files
        said = one_line(str(error))[:200]
        raise DataError(f"not a whole {kind}: {said or type(error).__name__}") from None


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Silence the log messages of a library."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
