"""lsr.io: files of documents, vectors and runs, local or in object storage."""
