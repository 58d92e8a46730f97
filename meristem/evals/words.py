"""Texts compared word by word, as SQuAD and open question answering do.

    f1("the Eiffel Tower", "Eiffel tower")      # 1.0: case, punctuation and articles do not count
"""
import re
import string
from collections import Counter

ARTICLES = re.compile(r"\b(a|an|the)\b")


def plain(text: str) -> str:
    """Lower case, without punctuation and articles, single spaces (SQuAD's evaluation, Rajpurkar et al. 2016)."""
    bare = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(ARTICLES.sub(" ", bare).split())


def f1(text: str, reference: str) -> float:
    """The harmonic mean of precision and recall of the words."""
    ours, theirs = plain(text).split(), plain(reference).split()
    shared = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * shared / (len(ours) + len(theirs)) if shared else float(ours == theirs)
