"""Which licence a file stands under: its own SPDX line, else the nearest LICENSE file, else "unknown".

Names are SPDX identifiers (spdx.org/licenses). A licence file is recognised by the sentence that only it has; one that
is not recognised counts as "unknown" rather than as the licence of a folder further up.
"""
import re
from pathlib import Path

UNKNOWN = "unknown"
NAMES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "LICENCE.txt", "COPYING", "COPYING.txt")
HEADER = re.compile(r"SPDX-License-Identifier:[ \t]*([A-Za-z0-9.+-]+(?: (?:OR|AND|WITH) [A-Za-z0-9.+-]+)*)")
HEADER_CHARACTERS = 2000
MARKS = (                               # the first whose every part is in the text; spaces and case do not count
    ("PSF-2.0", ("python software foundation license version 2",)),
    ("Apache-2.0", ("apache license", "version 2.0")),
    ("MPL-2.0", ("mozilla public license version 2.0",)),
    ("AGPL-3.0", ("gnu affero general public license", "version 3")),
    ("LGPL-3.0", ("gnu lesser general public license", "version 3")),
    ("GPL-3.0", ("gnu general public license", "version 3")),
    ("GPL-2.0", ("gnu general public license", "version 2")),
    ("BSD-3-Clause", ("redistribution and use in source and binary forms", "neither the name")),
    ("BSD-2-Clause", ("redistribution and use in source and binary forms",)),
    ("MIT", ("permission is hereby granted, free of charge", "the software is provided \"as is\"")),
    ("ISC", ("permission to use, copy, modify, and/or distribute this software",)),
    ("CC0-1.0", ("cc0 1.0 universal",)),
    ("Unlicense", ("this is free and unencumbered software released into the public domain",)),
)


def of_text(text: str) -> str:
    """The SPDX identifier that a file states about itself near its start, or ""."""
    found = HEADER.search(text, 0, HEADER_CHARACTERS)
    return found.group(1) if found else ""


def of_folder(folder: Path) -> str:
    """The licence of a folder by the licence file in it: an identifier, "unknown" for a strange text, "" for none."""
    for name in NAMES:
        try:
            with open(folder / name, encoding="utf-8", errors="replace") as f:
                words = " ".join(f.read(100_000).lower().split())
        except OSError:
            continue
        return next((licence for licence, parts in MARKS if all(p in words for p in parts)), UNKNOWN)
    return ""
