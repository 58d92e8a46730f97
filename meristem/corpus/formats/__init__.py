"""One file a format: bytes to records. `base.reader_of` chooses by the first bytes, then by the name.

Each file has `records(stream, name, options)`: cheap, in order, one record in memory at a time; what is costly
(decoding, extraction) happens later, in `corpus.read.convert`, so that a resumed run passes over it.
"""
