"""Curate: raw files to a corpus folder whose every decision can be reviewed.

find names input on this machine, read turns files into documents, filter and dedup judge them, curate runs it all and
writes the folder, store reads it back. From Python:

    from pathlib import Path
    from meristem.corpus import curate, find
    corpus = curate.curate(find.standard_library(), Path("runs/corpus"))
"""
