"""Data that ships with the package: the Cranfield collection (1,400 abstracts, 225 judged queries), for `lsr demo`."""
