"""Generates test files, and reads folders of files as documents."""

from __future__ import annotations

import zipfile

import pytest

from lsr.encode.load import load_encoder
from lsr.encode.passages import split_passages
from lsr.files.documents import read_documents


def put(path, content):
    """Write a file and its parent folders, and return the file's path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def pdf(*pages, encrypted=False):
    """The bytes of a PDF. Each page is given as lines of text; "" is a page without text."""
    objects = [b"<< /Type /Catalog /Pages 2 0 R >>", b"", b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"]
    kids = []
    for page in pages:
        lines = "".join(f"({line}) Tj 0 -14 Td " for line in page.split("\n")) if page else ""
        content = f"BT /F1 12 Tf 72 720 Td {lines}ET".encode()
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content))
        resources = b"<< /Font << /F1 3 0 R >> >>"
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents %d 0 R /Resources %s >>"
            % (len(objects), resources)
        )
        kids.append(b"%d 0 R" % len(objects))
    objects[1] = b"<< /Type /Pages /Kids [%s] /Count %d >>" % (b" ".join(kids), len(kids))
    out, places = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, start=1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % place for place in places)
    return out + b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, start)


def epub(path, chapters, *, encrypted=()):
    """Write an EPUB; `chapters` is {file name: body in XHTML}."""
    path.parent.mkdir(parents=True, exist_ok=True)
    manifest = "".join(
        f'<item id="{name}" href="text/{name}" media-type="application/xhtml+xml"/>' for name in chapters
    )
    spine = "".join(f'<itemref idref="{name}"/>' for name in chapters)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mimetype", "application/epub+zip")
        archive.writestr(
            "META-INF/container.xml",
            '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
            '<rootfile full-path="OPS/book.opf" media-type="application/oebps-package+xml"/></rootfiles></container>',
        )
        archive.writestr(
            "OPS/book.opf",
            '<package xmlns="http://www.idpf.org/2007/opf" xmlns:dc="http://purl.org/dc/elements/1.1/">'
            "<metadata><dc:title>A book</dc:title><dc:creator>Ada</dc:creator><dc:language>en</dc:language></metadata>"
            f"<manifest>{manifest}</manifest><spine>{spine}</spine></package>",
        )
        for name, body in chapters.items():
            page = (
                f'<?xml version="1.0" encoding="utf-8"?><html><head><title>x</title></head><body>{body}</body></html>'
            )
            archive.writestr(f"OPS/text/{name}", page)
        if encrypted:
            listed = "".join(f'<CipherReference URI="OPS/text/{name}"/>' for name in encrypted)
            archive.writestr("META-INF/encryption.xml", f"<encryption>{listed}</encryption>")
    return path


@pytest.fixture(scope="session")
def bm25():
    """An encoder that reads texts of any length."""
    return load_encoder("bm25")


@pytest.fixture
def read(tmp_path):
    """Returns a function that reads a folder's files as {id: document}."""

    def read(folder=tmp_path, **how):
        return {document.id: document for document in read_documents(folder, **how)}

    return read


def passages_of(document, encoder, **sizes):
    """The passages of a document."""
    return list(split_passages([document], encoder, **sizes))
