"""Masked prediction: the proportions by a chi-square test, whole words, fixed maskings, the loss by hand, pairs."""
import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch.nn import functional as F

from meristem.codecs import bpe, unigram, wordpiece
from meristem.core.errors import RequestError
from meristem.core.run import Train
from meristem.hub import hf
from meristem.models.bert import Config, Model
from meristem.objectives.base import make
from meristem.objectives.masked import Masked, choose, fingerprint, uniform
from meristem.objectives.next_sentence import NextSentence
from meristem.train.trainer import Trainer

TEXT = "It was unbelievable: the unreturnable running lovers outlived everybody, remarkably."


@pytest.fixture(scope="module")
def codec():
    return wordpiece.fit([TEXT] * 9, 80)


def model(codec, head="lm", **fields):
    torch.manual_seed(0)
    return Model(Config(vocab=codec.vocab, context=32, dim=32, layers=1, heads=2, head=head, dropout=0.0, **fields))


def rows(codec, count=4, length=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(5, codec.vocab, (count, length + 1), generator=generator)
    tokens[:, 0] = codec.marks["cls"]
    return {"tokens": tokens, "weight": torch.ones(count, length)}


def test_fifteen_percent_are_chosen_and_become_mask_random_or_themselves(codec):
    """Over a million draws: places are uniform, 80/10/10 holds, random tokens are uniform over the vocabulary."""
    objective = Masked(model(codec), codec)
    counts, places, drawn, total = np.zeros(3), np.zeros(31), np.zeros(codec.vocab), 0
    torch.manual_seed(0)
    for seed in range(50):
        batch = rows(codec, 4096, seed=seed)
        batch["tokens"][:, 1:] = 7                             # so that a random token is seen as one
        made = objective.prepare(batch)
        new = made["tokens"].gather(1, made["places"])
        assert made["weight"].min() == 1 and made["places"].shape == (4096, 5)             # 0.15 of 31 is 5
        assert int((made["tokens"] != batch["tokens"]).sum()) == int((new != 7).sum())
        counts += [int((new == objective.mask).sum()), 0, int((new == 7).sum())]
        places += np.bincount(made["places"].flatten() - 1, minlength=31)
        drawn += np.bincount(new[(new != objective.mask) & (new != 7)].flatten(), minlength=codec.vocab)
        total += new.numel()
    assert total > 1e6 and made["hidden"].eq(7).all()
    others = codec.vocab - 5
    same = total * 0.1 / others                                # a random token that is the hidden one
    counts[1] = total - counts.sum()
    assert chisquare(counts, [0.8 * total, 0.1 * total - same, 0.1 * total + same]).pvalue > 0.001
    assert chisquare(places).pvalue > 0.001
    assert not drawn[:5].any(), "special tokens are no words"
    assert chisquare(np.delete(drawn[5:], 2)).pvalue > 0.001


@pytest.mark.parametrize("length", [64, 128, 512])
def test_fifteen_percent_of_the_text_is_chosen_whatever_its_length(codec, length):
    """The share over rows of random length, each rounded to whole tokens: 15 % within 0.5 / sqrt(rows) tokens."""
    text = torch.arange(length) < torch.randint(8, length + 1, (4000, 1), generator=torch.Generator().manual_seed(0))
    _, used = choose(text, torch.ones(4000, length, dtype=torch.bool), uniform(torch.arange(4000), length, 0), 0.15)
    assert (used.sum(1) - 0.15 * text.sum(1)).abs().max() <= 0.5 + 1e-6
    assert float(used.sum() / text.sum()) == pytest.approx(0.15, abs=0.003)


def test_each_row_hides_its_share_of_its_text_only(codec):
    objective = Masked(model(codec), codec)
    batch = rows(codec)
    lengths = torch.tensor([32, 20, 3, 1])                     # with [CLS]: 31, 19, 2 and no text
    batch["weight"] = (torch.arange(32) < lengths[:, None]).float()
    made = objective.prepare(batch)
    assert made["weight"].sum(1).tolist() == [5, 3, 1, 0]
    used = made["weight"] > 0
    assert (made["places"][used] > 0).all() and (made["places"] < lengths[:, None])[used].all()
    assert float(objective.weight(made)) == 9 and torch.equal(made["tokens"][:, -1], batch["tokens"][:, -1])
    assert len({tuple(r) for r in made["places"][0][None].tolist()}) == 1 and made["places"][0].unique().numel() == 5


def test_the_loss_is_that_of_every_place_asked_by_itself(codec):
    objective = Masked(model(codec), codec)
    made = objective.prepare(rows(codec))
    loss, facts = objective(made)
    logits = objective.model(made["tokens"][:, :-1])
    by_hand = sum(F.cross_entropy(logits[b, p][None], h[None]) for b in range(4)
                  for p, h in zip(made["places"][b], made["hidden"][b], strict=True))
    torch.testing.assert_close(loss, by_hand)
    whole = made["tokens"][:, :-1].scatter(1, made["places"], made["hidden"])
    assert torch.equal(whole, rows(codec)["tokens"][:, :-1]) and 0 <= float(facts["accuracy"]) <= 20


def test_masks_are_drawn_anew_or_from_a_few_that_a_row_always_has(codec):
    def masks(static, times=12, batch=None):
        objective = Masked(model(codec), codec, static=static)
        torch.manual_seed(1)
        return [objective.prepare(batch or rows(codec))["tokens"] for _ in range(times)]
    assert len({tuple(m[0].tolist()) for m in masks(0)}) == 12
    assert len({tuple(m[0].tolist()) for m in masks(1)}) == 1
    assert 2 <= len({tuple(m[0].tolist()) for m in masks(3, 40)}) <= 3
    alone = {key: value[2:3] for key, value in rows(codec).items()}
    assert torch.equal(masks(1, 1)[0][2:3], masks(1, 1, alone)[0]), "a row's masking is its own"
    assert len(fingerprint(rows(codec, 100)["tokens"]).unique()) == 100


def test_whole_words_are_hidden_or_none_of_them(codec):
    starts, draws = codec.starts(), 0
    objective = Masked(model(codec), codec, rate=0.4, whole_word=True)
    ids = torch.from_numpy(codec.encode(TEXT)).long()[:32]
    assert (~torch.from_numpy(starts)[ids]).sum() > 3
    word = torch.from_numpy(starts)[ids].long().cumsum(0)
    for seed in range(30):
        torch.manual_seed(seed)
        made = objective.prepare({"tokens": torch.cat([ids, ids[:1]])[None], "weight": torch.ones(1, len(ids))})
        chosen = torch.zeros(len(ids), dtype=torch.bool).scatter(0, made["places"][0], made["weight"][0] > 0)
        for w in word.unique():
            assert chosen[word == w].all() or not chosen[word == w].any()
        draws += int(chosen.sum())
    assert 0.2 * 30 * len(ids) < draws <= 0.4 * 30 * len(ids)


def test_long_words_are_not_hidden_more_often():
    text, starts = torch.ones(20_000, 10, dtype=torch.bool), torch.ones(20_000, 10, dtype=torch.bool)
    starts[:, 1:5] = False                                     # one word of five, five of one
    places, used = choose(text, starts, uniform(torch.arange(20_000), 10, 0), 0.5)
    counts = np.bincount(places[used], minlength=10) / 20_000
    assert np.ptp(counts[:5]) == 0 and counts[0] < counts[5:].min()      # it is left when it does not fit
    assert counts[0] == pytest.approx(1 / 6, abs=0.01), "it is taken when it is drawn first"


def test_micro_batches_add_up_and_an_encoder_learns(codec):
    config = Train(steps=60, batch=8, context=32, lr=1e-2, warmup=5, clip=1e9)
    batch = {"tokens": (torch.arange(33) + torch.arange(8)[:, None] * 3) % 40 + 5, "weight": torch.ones(8, 32)}
    losses = []
    trainer = Trainer(Masked(model(codec), codec), lambda step: [batch], config,
                      hooks=[lambda t, f: losses.append(f["loss"])])
    trainer.fit()
    assert losses[0] == pytest.approx(np.log(codec.vocab), rel=0.1) and losses[-1] < 3.0
    static = [Masked(model(codec), codec, static=1) for _ in range(2)]
    one = Trainer(static[0], lambda step: [], config).update([batch])
    two = Trainer(static[1], lambda step: [], config).update([{k: v[i:i + 2] for k, v in batch.items()}
                                                              for i in range(0, 8, 2)])
    assert one["loss"] == pytest.approx(two["loss"], rel=1e-5) and one["targets"] == two["targets"] == 40


def test_pairs_are_judged_with_the_masks_or_alone(codec):
    batch = {**rows(codec), "labels": torch.tensor([0, 1, 1, 0]), "types": (torch.arange(32) > 15).long().expand(4, -1)}
    both = NextSentence(model(codec, "pretraining"), codec)
    made = both.prepare(batch)
    made["weight"][0, 3:] = 0
    loss, facts = both(made)
    logits, relation = both.model(made["tokens"][:, :-1], None, made["types"], made["places"])
    hidden = F.cross_entropy(logits.flatten(0, 1), made["hidden"].flatten(), reduction="none").view(4, 5)
    pair = F.cross_entropy(relation, batch["labels"], reduction="none")
    torch.testing.assert_close(loss, (hidden * made["weight"]).sum() + (pair * torch.tensor([3.0, 5, 5, 5])).sum())
    assert float(both.weight(made)) == 18 and {"accuracy", "follows"} <= facts.keys()
    alone = NextSentence(model(codec, "next_sentence"), codec, masked=False)
    made = alone.prepare(batch)
    assert torch.equal(made["tokens"], batch["tokens"]) and float(alone.weight(made)) == 4
    want = F.cross_entropy(alone.model(batch["tokens"][:, :-1], None, batch["types"]), batch["labels"], reduction="sum")
    torch.testing.assert_close(alone(made)[0], want)
    with pytest.raises(RequestError, match="data.examples=sentence_pairs"):
        alone.prepare(rows(codec))


def test_a_distilbert_learns_from_a_roberta_at_the_hidden_places(codec, tmp_path):
    """Sanh et al. 2019: soft targets, hidden tokens and the direction of the features, each at the places only."""
    teacher = model(codec, kind="roberta")
    hf.save(tmp_path, "bert", teacher.config, teacher, codec)
    student = model(codec, kind="distilbert")
    objective = make("distillation", student, {"teacher": str(tmp_path), "inner": "masked", "cosine": 0.2}, codec)
    made = objective.prepare(rows(codec))
    loss, facts = objective(made)
    taught = teacher.eval()(made["tokens"][:, :-1], None, None, made["places"])
    soft = F.kl_div((student(made["tokens"][:, :-1], None, None, made["places"]) / 2).log_softmax(-1),
                    (taught / 2).softmax(-1), reduction="sum") * 4
    torch.testing.assert_close(facts["soft"], soft, rtol=1e-4, atol=1e-4)
    assert {"soft", "hard", "cosine", "accuracy"} <= facts.keys()
    loss.backward()
    assert student.blocks[0].attn.q.weight.grad.abs().sum() > 0


def test_bad_requests(codec):
    with pytest.raises(RequestError, match="no mask token"):
        Masked(model(codec), bpe.fit([TEXT] * 9, 270))
    with pytest.raises(RequestError, match="set model.head=lm"):
        Masked(model(codec, "sequence"), codec)
    with pytest.raises(RequestError, match="set model.head=pretraining"):
        NextSentence(model(codec), codec)
    with pytest.raises(RequestError, match="between 0 and 1"):
        Masked(model(codec), codec, rate=1.0)
    other = unigram.fit([TEXT] * 9, 280, encoder=True)
    assert make("masked", Model(Config(vocab=280, dim=32, layers=1, heads=2, head="lm")), {"whole_word": True}, other)
