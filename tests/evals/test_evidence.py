"""What a certificate holds beside its value: twin, phrasing, chance, energy, inflation and who holds which item."""
import ast
import json
from pathlib import Path

import numpy as np
import pytest

from meristem.codecs import char
from meristem.core.config import from_dict
from meristem.core.files import read_json
from meristem.evals import run
from meristem.evals.base import Score
from meristem.evals.subject import KneserNey, NGram, Subject

ROOT = Path(run.__file__).parent
# Formulas, which measure no model: what they give is a part of a certificate.
FORMULAS = {"effective_items", "pass_at", "surprise", "room", "f1", "exposure", "frechet", "lines", "number",
            "exact_hash", "calculate", "distance", "bradley_terry"}


def problem(n):
    return f"Number {n}: a farmer of the village had {n + 11} sheep and bought {n + 3} more in spring. How many now?"


@pytest.fixture(scope="module")
def svamp(tmp_path_factory):
    folder = tmp_path_factory.mktemp("svamp")
    (folder / "SVAMP.json").write_text(json.dumps([
        {"ID": str(n), "Body": problem(n).rpartition(". ")[0], "Question": "How many now?", "Answer": 2 * n + 14.0,
         "Equation": f"( {n + 11}.0 + {n + 3}.0 )"} for n in range(60)]))
    return folder


@pytest.mark.parametrize("planted", [0, 1, 10])
def test_a_certificate_in_full(make_corpus, svamp, planted, tmp_path):
    """A model that knows by heart what it saw: all the fields, and the inflation that the planted items make."""
    items = run.task_of("svamp", svamp).read()
    filler = [f"Nothing of all this matters to number {i}, which is only here to fill the corpus with words." * 2
              for i in range(20)]
    train = [*filler, *(f"Before.\n{item.stem} {item.answer}\nAfter." for item in items[:planted])]
    corpus = make_corpus(train=train, test=[filler[0] + "!"])
    codec = char.fit(["".join(map(chr, range(32, 127))) + "\n"])
    ids = np.concatenate([np.append(codec.encode(text), codec.end) for text in train])
    gram = NGram(KneserNey.fit(ids, codec.vocab, codec.end), codec)
    known = {item.stem: item.answer for item in items[:planted]}

    class Heart:
        name, model_hash, folder, codec = "heart", "h", tmp_path, gram.codec

        def score(self, pairs):
            return gram.score(pairs)

        def complete(self, prompts, length, temperature, seed):
            texts = [codec.decode(p) for p in prompts]
            return [codec.encode(next((a for q, a in known.items() if q in text), "0")) for text in texts]

        def room(self, length):
            return 1000

    [score] = run.evaluate(Heart(), corpus, ["svamp"], data=svamp)
    n = len(items)
    assert score.value == pytest.approx(planted / n) and score.n == n
    assert (score.contamination.exact, score.contamination.clean_n) == (planted, n - planted)
    assert score.contamination.clean_value == 0 and score.contamination.inflation == pytest.approx(planted / n)
    assert score.twin.value == 0 and score.twin.difference == pytest.approx(planted / n)
    assert len(score.phrasing.values) == 8 and score.phrasing.low <= score.phrasing.median <= score.phrasing.high
    assert score.energy.joules > 0 and score.energy.method and score.seconds >= 0
    assert from_dict(Score, score.to_dict()) == score == run.read(tmp_path)[0]
    saved = read_json(tmp_path / "evals" / "svamp.json")
    assert len(saved["overlaps"]) == planted and all(row["documents"] == 1 and row["holders"] for row in
                                                     saved["overlaps"])
    quick, = run.evaluate(Heart(), corpus, ["svamp"], data=svamp, quick=True)
    assert quick.twin is None and quick.phrasing is None and quick.value == score.value
    shot, = run.evaluate(Heart(), corpus, ["svamp"], data=svamp, shots=2, limit=5)
    assert shot.name == "svamp_right_2_shot" and len(shot.shots) == 2 and shot.phrasing is None
    assert shot.contamination.exact <= planted                 # the examples are not what is looked for


def test_choices_have_a_chance_level(make_corpus, tmp_path):
    options = ["A)1", "B)2", "C)3", "D)4"]
    (tmp_path / "test.json").write_text("".join(json.dumps(
        {"question": f"What is {n}?", "options": options, "correct": "A"}) + "\n" for n in range(5)))
    corpus = make_corpus(train=["What is 1? 2? 3? 4? Answer: Question:\n1 2 3 4 5"], test=["x"])
    codec = char.fit(["".join(map(chr, range(32, 127))) + "\n"])
    ids = np.append(codec.encode("What is 1? 2? 3? 4?"), codec.end)

    class Counts(NGram):
        name, model_hash, folder = "counts", "c", None
    scores = run.evaluate(Counts(KneserNey.fit(ids, codec.vocab, codec.end), codec), corpus, ["aqua"], data=tmp_path)
    by = {s.name: s for s in scores}
    assert by["aqua_acc"].chance.value == 0.25 and by["aqua_nats"].chance.value == pytest.approx(np.log(4))
    assert "5-gram" in by["aqua_acc"].baseline.what and by["aqua_nats"].baseline.value > 0


def test_no_function_of_the_library_returns_a_bare_number():
    """What judges a model returns a certificate, or a part of one (a value for each item): no float, int or mapping."""
    bare = {"float", "int", "dict[str, float]", "dict[str, int]", "tuple[float, float]"}
    for path in sorted(ROOT.rglob("*.py")):
        tree = ast.parse(path.read_text())
        for node in [n for top in (tree, *tree.body) if isinstance(top, ast.Module | ast.ClassDef) for n in top.body]:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and node.returns:
                asked = {ast.unparse(a.annotation) for a in node.args.args if a.annotation}
                judges = any(kind in text for text in asked for kind in ("Subject", "LanguageModel", "nn.Module"))
                returns = ast.unparse(node.returns)
                if returns in bare and (judges or returns in ("float", "dict[str, float]")):
                    assert node.name in FORMULAS, f"{path.name}: {node.name}"


def test_the_api_s_evaluation_is_of_certificates():
    assert run.evaluate.__annotations__["return"] == list[Score] and Subject.score
