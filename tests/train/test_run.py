"""A run assembled from its recipe: which batches its data settings give, and what its FLOPs are."""
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from meristem.core.config import Part
from meristem.core.errors import RequestError
from meristem.core.run import Data, Group, Run, Train
from meristem.corpus.curate import curate
from meristem.hub import hf
from meristem.objectives.span_corruption import SpanCorruption, lengths
from meristem.plan.cost import Cost
from meristem.train import hooks
from meristem.train.checkpoint import Checkpoints
from meristem.train.run import Parts, assemble, pretrain, trainer_of

SMALL = {"dim": 32, "layers": 1, "heads": 2}
TRAIN = Train(steps=4, batch=4, micro=2, context=128, warmup=1, dtype="float32", compile=False)


@pytest.fixture(scope="module")
def run(real_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    corpus = curate([real_files], tmp_path_factory.mktemp("run") / "corpus")
    return Run("small", model=Part("llama", SMALL), data=Data(str(corpus.folder), Part("char")), train=TRAIN)


def batches(parts: Parts) -> list[dict[str, torch.Tensor]]:
    """Two epochs of training batches or so, and the held-out ones."""
    return [batch for step in range(200) for batch in parts.source(step)] + parts.held_out


def test_separate_packing_marks_every_batch_and_changes_no_token(run: Run) -> None:
    joined = assemble(run)
    separate = assemble(replace(run, data=replace(run.data, packing="separate")))
    end, crossed = joined.codec.end, 0
    for plain, marked in zip(batches(joined), batches(separate), strict=True):
        assert set(plain) == {"tokens", "weight"} and set(marked) == {*plain, "segments", "positions"}
        assert torch.equal(plain["tokens"], marked["tokens"]) and torch.equal(plain["weight"], marked["weight"])
        ends = marked["tokens"][:, :-1] == end
        assert torch.equal(marked["segments"], ends.cumsum(1)) and not marked["positions"][ends].any()
        crossed += int(ends.sum())
    assert crossed > 10


def test_a_separately_packed_run_trains(run: Run) -> None:
    parts = assemble(replace(run, data=replace(run.data, packing="separate"), train=replace(TRAIN, lr=1e-2)))
    losses = [trainer.update(parts.source(0))["loss"] for trainer in [trainer_of(parts)] for _ in range(4)]
    assert losses[-1] < losses[0] - 0.1


@pytest.mark.parametrize(("examples", "objective", "model"), [
    ("pairs", "seq2seq", Part("t5", SMALL)), ("full_sentences", "masked", Part("bert", {**SMALL, "head": "lm"}))])
def test_rows_that_number_their_parts_are_not_packed_separately(examples, objective, model, run: Run, tmp_path) -> None:
    """`separate` would overwrite whose source a place is, or what is padding."""
    if examples == "pairs":
        lines = [json.dumps({"input": f"say {n}", "target": str(n)}) for n in range(40)]
        (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
        run = replace(run, data=replace(run.data, corpus=str(tmp_path / "pairs.jsonl")))
    else:
        run = replace(run, data=replace(run.data, codec=Part("wordpiece", {"vocab": 300})))
    given = replace(run, model=model, objective=Part(objective), data=replace(run.data, examples=examples))
    assemble(given)
    with pytest.raises(RequestError, match=f"data.examples={examples} .*; leave data.packing=joined"):
        assemble(replace(given, data=replace(given.data, packing="separate")))


def test_the_flops_of_a_run_are_of_all_that_it_reads(run: Run, tmp_path: Path) -> None:
    """Masked prediction trains on 15 % of what it reads; its result.json counts the rest, too, and the head there."""
    masked = replace(run, model=Part("bert", {**SMALL, "head": "lm"}), objective=Part("masked"),
                     data=replace(run.data, codec=Part("wordpiece", {"vocab": 300}), examples="full_sentences"),
                     train=replace(TRAIN, sample_every=1))
    result = json.loads((pretrain(masked, tmp_path / "masked") / "result.json").read_text())
    assert result["tokens"] == 4 * 4 * 19, "0.15 of 128"
    parts = assemble(masked)
    want = Cost.of(parts.objective.model, 128, asked=19).training_flops_full
    assert parts.flops_per_token == want and result["flops"] == want * 4 * 4 * 128
    assert not (tmp_path / "masked" / "samples.jsonl").exists(), "an encoder has nothing to show"


def test_the_flops_of_an_encoder_decoder_are_of_its_sources_and_targets(run: Run) -> None:
    parts = assemble(replace(run, model=Part("t5", SMALL), objective=Part("span_corruption"),
                             data=replace(run.data, codec=Part("bpe", {"vocab": 300, "special": [
                                 f"<extra_id_{n}>" for n in range(8)]}))))
    source, target = lengths(128)
    assert isinstance(parts.objective, SpanCorruption)
    state = torch.get_rng_state()
    want = Cost.of(parts.objective.model, target, source).training_flops_full * (source + target) / 128
    assert parts.flops_per_token == pytest.approx(want) and torch.equal(torch.get_rng_state(), state)
    whole = sum(2 * m.weight.numel() for m in parts.objective.model.modules() if isinstance(m, torch.nn.Linear))
    assert parts.flops_per_token < 0.75 * 3 * whole


def test_span_corruption_refuses_documents_that_do_not_see_each_other(run: Run) -> None:
    given = replace(run, model=Part("t5", SMALL), objective=Part("span_corruption"),
                    data=replace(run.data, packing="separate", codec=Part("bpe", {"vocab": 300, "special": [
                        f"<extra_id_{n}>" for n in range(8)]})))
    with pytest.raises(RequestError, match="leave data.packing=joined"):
        _ = assemble(given).flops_per_token


def test_float16_is_refused_with_what_it_runs_at_here_and_nothing_is_begun(run: Run, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"ran at [0-9.e+]+ GFLOP/s in it and at [0-9.e+]+ in bfloat16"):
        pretrain(replace(run, train=replace(TRAIN, dtype="float16")), tmp_path / "half")
    assert not (tmp_path / "half").exists()


@pytest.mark.parametrize("given", [{"ema": 0.5}, {"optimizer": "schedule_free"}, {"ema": 0.5, "weights": "last"}])
def test_what_is_validated_is_exported_and_the_checkpoint_keeps_the_other_one(given, run: Run, tmp_path: Path) -> None:
    wanted = replace(run, train=replace(TRAIN, lr=3e-2, **given))
    folder = pretrain(wanted, tmp_path / "run")
    result = json.loads((folder / "result.json").read_text())
    parts = assemble(wanted)
    parts.objective.model.load_state_dict(hf.load(folder / "model").module.state_dict())
    assert hooks.validate(parts.objective, parts.held_out) == pytest.approx(result["validation"], abs=1e-6)
    exported = {n: p.detach().clone() for n, p in parts.objective.named_parameters()}
    with Checkpoints(folder / "checkpoints") as checkpoints:
        trainer = trainer_of(parts, checkpoints)
        assert trainer.resume() and trainer.step == 4
    last = all(torch.equal(p, exported[n]) for n, p in parts.objective.named_parameters())
    assert last == ("weights" in given)
    with trainer.optim.averaged():
        assert all(torch.equal(p, exported[n]) for n, p in parts.objective.named_parameters())


def test_a_frozen_run_says_how_much_it_trains_and_a_wider_one_starts_smaller(run: Run, tmp_path: Path) -> None:
    frozen = replace(run, train=replace(TRAIN, groups=(Group("embed", freeze=True),)))
    facts = json.loads((pretrain(frozen, tmp_path / "frozen") / "manifest.json").read_text())
    table = assemble(run).objective.model.embed.weight
    assert facts["parameters"] - facts["trainable"] == table.numel()
    assert json.loads((tmp_path / "frozen" / "recipe.json").read_text())["train"]["groups"] == [
        {"match": "embed", "lr": 1.0, "decay": None, "freeze": True}]
    exported = hf.load(tmp_path / "frozen" / "model").module.embed.weight
    assert torch.equal(exported, table)
    plain, wide = (assemble(replace(run, train=replace(TRAIN, base_width=b))).objective.model for b in (0, 8))
    assert torch.equal(wide.embed.weight, plain.embed.weight)
    assert torch.equal(wide.blocks[0].attn.q.weight, plain.blocks[0].attn.q.weight / 2)
    assert torch.equal(wide.norm.weight, plain.norm.weight / 4)
