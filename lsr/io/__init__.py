"""lsr.io: documents, vectors and runs in the forms that files have, here and in object storage."""
