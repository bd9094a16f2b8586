"""Files of people's folders as documents: Markdown, HTML, PDF and others, found, read and kept up with."""
