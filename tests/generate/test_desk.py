"""A help desk answers what the documents say and hands over everything else, with the reason."""
import json
from pathlib import Path

import pytest

from meristem.core.types import Document
from meristem.generate.retrieve.desk import HANDED, reply
from meristem.generate.retrieve.store import Store

TEXTS = {"pin.txt": "To change the PIN of a card, go to any cash machine and choose PIN services.",
         "fees.txt": "Transfers abroad cost two pounds. Transfers within the country are free."}


@pytest.fixture(scope="module")
def store() -> Store:
    pytest.importorskip("bm25s")
    return Store.of(Document("", name, "", {"text": text}, {"path": name}) for name, text in TEXTS.items())


@pytest.mark.parametrize(("question", "answer", "why"), [
    ("How do I change my PIN?", "Choose PIN services at any cash machine.", ""),
    ("What do transfers abroad cost?", "Transfers abroad cost two pounds. The moon is made of cheese.", "ungrounded"),
    ("What do transfers abroad cost?", "", "absent"), ("Who won the battle of Zorblax?", "Nobody.", "absent"),
    ("Can I speak to a real person?", "No.", "asked"), ("A human, please", "No.", "asked"),
    ("Please transfer me to one of your agents or an agent", "No.", "asked")])
def test_answered_or_handed_over(store: Store, question: str, answer: str, why: str) -> None:
    made = reply(question, store, lambda q, hits: answer)
    assert made.why == why and (made.text == HANDED) == bool(why)
    assert bool(made.cited) == (not why) and (why or made.text.endswith("[1]"))


def test_a_share_of_ungrounded_sentences_can_be_allowed(store: Store) -> None:
    made = reply("What do transfers abroad cost?", store, lambda q, hits: "Transfers abroad cost two pounds. Cheese!",
                 grounded=0.5)
    assert made.why == "" and made.grounded == 0.5
    assert reply("How much is a transfer to a person abroad?", store, lambda q, hits: TEXTS["fees.txt"]).why != "asked"


def test_a_chat_keeps_what_it_hands_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from meristem.cli.chat import handed_over
    pytest.importorskip("bm25s")
    store = Store.of(Document("", name, "", {"text": text}, {"path": name}) for name, text in TEXTS.items())
    for question in ("Who won the battle of Zorblax?", "Let me talk to a person"):
        handed_over(tmp_path / "queue.jsonl", question, reply(question, store, lambda q, hits: "x"))
    rows = [json.loads(line) for line in (tmp_path / "queue.jsonl").read_text().splitlines()]
    assert [(row["question"], row["why"]) for row in rows] == [("Who won the battle of Zorblax?", "absent"),
                                                               ("Let me talk to a person", "asked")]
