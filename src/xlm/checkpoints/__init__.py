"""The boundary: foreign files to our names and back, with no framework installed."""
