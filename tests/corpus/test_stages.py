"""Every stage drops what it is for and leaves the rest; on Arrow record batches it is the same function."""
import inspect
import json
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meristem.core import registry
from meristem.core.errors import RequestError
from meristem.corpus.stages import base, c4, decontaminate, fineweb, gopher, rules
from meristem.corpus.stages.base import batch_of, stages_of

SYLLABLES = ["ba", "ko", "ri", "ten", "mul", "sa", "dro", "vin", "pel", "gu", "lor", "mi", "fa", "zet", "nu", "hal"]
NOUNS = ["river", "engine", "letter", "garden", "captain", "window", "number", "market", "winter", "teacher"]
VERBS = ["carried", "followed", "answered", "remembered", "painted", "counted", "opened", "forgot"]


def prose(sentences: int, seed: int = 0) -> str:
    """Sentences of made-up words and English stop words, no two alike, four a line."""
    rng, out = random.Random(seed), []
    for _ in range(sentences):
        made = ["".join(rng.choices(SYLLABLES, k=rng.randint(2, 3))) for _ in range(7)]
        out.append("The {} of {} and a {} {} to the {} that {} have {}.".format(*made))
    return "\n".join(" ".join(out[i: i + 4]) for i in range(0, len(out), 4)) + "\n"


GOOD = prose(16)
NEED_A_FILE = {"language", "repair", "decontaminate", "quality", "toxicity", "domain", "perplexity"}


def verdict(stage, text: str, kind: str = "prose") -> str:
    return stage(batch_of([text], kind))["rule"][0]


@pytest.mark.parametrize(("stage", "rule", "text"), [
    (gopher.Stage(), "gopher_words", "Too few words to be the text that of and."),
    (gopher.Stage(), "gopher_mean_word", "a b c d e of to " * 20),
    (gopher.Stage(), "gopher_symbols", GOOD + "# " * 60),
    (gopher.Stage(), "gopher_bullets", "\n".join(f"- the {n} item and that number {n * 7}" for n in range(30))),
    (gopher.Stage(), "gopher_ellipses", prose(40).replace(".", " more ...", 20).replace(". ", ".\n")
     .replace("... ", "...\n")),
    (gopher.Stage(), "gopher_letters", GOOD + " ".join(str(1000 + n) for n in range(200))),
    (gopher.Stage(), "gopher_stop_words", " ".join(f"wort{chr(97 + n % 26)}{chr(97 + n // 26)}" for n in range(80))),
    (gopher.Stage(), "gopher_repeated_lines", GOOD + "the same line\n" * 9),
    (gopher.Stage(), "gopher_characters_in_repeated_lines", GOOD + GOOD.splitlines()[0] * 3 + "\n"
     + (GOOD.splitlines()[0] * 3 + "\n")),
    (gopher.Stage(), "gopher_top_2_gram", GOOD[:300] + " ".join(f"wonderful advice {w}" for w in GOOD.split()[:40])),
    (gopher.Stage(), "gopher_repeated_5_grams", GOOD + " " + " and ".join([GOOD.split("\n")[0]] * 3)),
    (c4.Stage(), "c4_placeholder", GOOD + "Lorem ipsum dolor."),
    (c4.Stage(), "c4_bracket", GOOD + "function() { return }."),
    (c4.Stage(), "c4_sentences", "One sentence of some six words.\nAnd then\nfragments of\nmenus"),
    (fineweb.Stage(), "fineweb_ends", "\n".join(f"a line that ends in nothing, number {n}" for n in range(20))),
    (fineweb.Stage(), "fineweb_short_lines", "\n".join(f"short {n}." for n in range(20))),
    (fineweb.Stage(), "fineweb_repeated", GOOD + GOOD.splitlines()[0] + "\n"),
])
def test_each_rule_drops_what_it_is_for(stage, rule, text):
    assert verdict(stage, text) == rule


@pytest.mark.parametrize("stage", [gopher.Stage(), c4.Stage(), fineweb.Stage(), rules.Stage()])
def test_good_prose_and_code_pass(stage):
    assert verdict(stage, GOOD) == "" and stage(batch_of([GOOD]))["text"] == [GOOD]
    assert verdict(stage, inspect.getsource(base), "code") == ""


def test_c4_takes_lines_out_and_says_how_many():
    page = "Home\n" + GOOD + "We use cookies to make everything here much better.\nRead more ...\n"
    out = c4.Stage()(batch_of([page]))
    assert out["text"] == [GOOD] and out["facts"] == [{"removed_lines": 3}]
    assert c4.lines_of("The town[3] lies on a river.[citation needed]") == ("The town lies on a river.", {})


@settings(deadline=None)
@given(st.lists(st.sampled_from(["a", "bb", "ccc", "of", "the"]), max_size=60), st.integers(2, 6))
def test_repetition_is_counted_as_the_paper_says(words, n):
    grams = [tuple(words[i: i + n]) for i in range(len(words) - n + 1)]
    hashes = np.array([hash(w) for w in words], np.int64).view(np.uint64)
    lengths = np.array([len(w) for w in words], np.int64)
    counts = Counter(grams)
    sizes = [count * len("".join(gram)) for gram, count in counts.items() if count > 1]
    assert gopher.top_gram(hashes, lengths, n) == (max(counts.values(), default=0), max(sizes, default=0))
    inside = {place for i, gram in enumerate(grams) if gram in grams[:i] for place in range(i, i + n)}
    assert gopher.repeated(hashes, lengths, n) == sum(len(words[i]) for i in inside)


def items(tmp_path, texts: list[str]) -> str:
    path = tmp_path / "items.jsonl"
    path.write_text("".join(json.dumps({"question": text, "answer": "no"}) + "\n" for text in texts))
    return str(path)


@pytest.mark.parametrize("planted", [0, 1, 10, 100])
def test_exactly_the_planted_items_are_found_with_their_names(tmp_path, planted):
    rng = random.Random(planted)
    questions = [" ".join(rng.choices(NOUNS + VERBS, k=30)) + f" number {n}?" for n in range(150)]
    stage = decontaminate.Stage(items(tmp_path, questions))
    documents = [prose(8, seed) for seed in range(300)]
    for n in range(planted):
        documents[2 * n] += questions[n].upper().replace(" ", ", ")         # case and punctuation do not hide it
    out = stage(batch_of(documents))
    assert [n for n, rule in enumerate(out["rule"]) if rule] == [2 * n for n in range(planted)]
    assert [out["facts"][2 * n]["witness"] for n in range(planted)] == [f"items.jsonl#{n + 1}" for n in range(planted)]
    assert all(out["value"][2 * n] == "20 runs of 13 words" for n in range(planted))


def test_edited_copies_are_near_matches_and_short_items_match_as_a_whole(tmp_path):
    words = [f"w{n * 7919}" for n in range(120)]
    stage = decontaminate.Stage(items(tmp_path, [" ".join(words), "what is the capital of it"]))
    edited = " ".join(w if n % 12 else "new" for n, w in enumerate(words))   # no 13 words in a row are left
    moved = " ".join(" ".join([*words[n: n + 12], f"z{n}"]) for n in range(108, -1, -12))
    half = " ".join(w if n % 8 else "new" for n, w in enumerate(words))      # 3 shingles of 8
    out = stage(batch_of([GOOD + edited, moved, half, "He asked: What is the capital of it?", "the capital of it"]))
    assert out["rule"] == ["contaminated", "contaminated", "", "contaminated", ""]
    assert out["value"][:2] == ["0.60 of its shingles of 5 words", "0.69 of its shingles of 5 words"]
    assert out["value"][3] == "1 runs of 6 words" and out["facts"][3] == {"witness": "items.jsonl#2"}


def test_language_is_told_and_kept_by():
    pytest.importorskip("py3langid")
    texts = [GOOD, "Der braune Fuchs springt \u00fcber den faulen Hund und l\u00e4uft in den Wald zur\u00fcck.",
             "El zorro marr\u00f3n salta sobre el perro perezoso y vuelve corriendo al bosque oscuro."]
    told = stages_of(["language"])[0](batch_of(texts))
    assert [f["language"] for f in told["facts"]] == ["en", "de", "es"] and told["rule"] == ["", "", ""]
    kept = stages_of(["language:keep=en,de"])[0](batch_of(texts))
    assert kept["rule"] == ["", "", "language"] and kept["value"][2].startswith("es ")
    assert stages_of(["language:keep=en"])[0](batch_of(texts, "code"))["rule"] == ["", "", ""]
    with pytest.raises(RequestError, match="keep names xx"):
        stages_of(["language:keep=xx"])[0](batch_of(texts))


def test_repair_puts_wrongly_decoded_text_right():
    pytest.importorskip("ftfy")
    wrong = "l\u2019\u00e9t\u00e9".encode().decode("windows-1252") + " \x07bell"
    out = stages_of(["repair"])[0](batch_of([wrong, GOOD]))
    assert out["text"] == ["l\u2019\u00e9t\u00e9 bell", GOOD] and out["facts"] == [{"repaired": True}, {}]


def test_a_stage_leaves_alone_what_was_dropped_before():
    batch = {**batch_of(["x", GOOD]), "rule": ["earlier", ""]}
    for name in set(registry.names("corpus.stages")) - NEED_A_FILE:
        out = stages_of([name])[0](batch)
        assert out["rule"][0] == "earlier" and out["text"][0] == "x" and batch["rule"] == ["earlier", ""]


def test_a_stage_on_record_batches_is_the_same_function():
    pa = pytest.importorskip("pyarrow")
    batch = batch_of([GOOD, "short", "Home\n" + GOOD])
    packed = {**batch, "facts": ["{}"] * 3, "value": ["0.0"] * 3}
    out = base.on_arrow(c4.Stage())(pa.RecordBatch.from_pydict(packed)).to_pydict()
    expected = c4.Stage()(batch)
    assert out["rule"] == expected["rule"] == ["", "c4_sentences", ""] and out["text"] == expected["text"]
    assert [json.loads(f) for f in out["facts"]] == expected["facts"]


def test_unknown_stages_and_settings_name_the_nearest():
    with pytest.raises(RequestError, match="did you mean gopher"):
        stages_of(["gophers"])
    with pytest.raises(RequestError, match="stop_words"):
        stages_of(["gopher:stop_word=1"])
    assert stages_of(["fineweb:ends=0.2,short=0.5"]) == [fineweb.Stage(0.2, 0.5)]
