"""Folders of files as documents: Markdown, HTML, PDF and others."""
