"""`meristem.load` and what a loaded model can do, from every kind of folder."""
import subprocess
import sys
from dataclasses import replace
from math import log
from pathlib import Path
from shutil import copytree, rmtree

import pytest
import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

import meristem
from meristem.adapt import lora
from meristem.api import Model
from meristem.codecs import bpe, chat
from meristem.core.errors import RequestError
from meristem.generate.autoregressive import generate
from meristem.generate.base import Generation
from meristem.generate.sampling import Sampling
from meristem.hub import hf
from meristem.models import llama

TEXT = "def add(a, b):\n    return a + b  # naïve 𝄞\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a random model in `model/`; every weight moved, for fresh blocks are the identity."""
    codec = bpe.fit([TEXT * 9], 300)
    torch.manual_seed(0)
    module = llama.Model(llama.Config(vocab=codec.vocab, context=48, dim=32, layers=2, heads=4))
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.2 * torch.randn(p.shape))
    folder = tmp_path_factory.mktemp("run")
    hf.save(folder / "model", "llama", module.config, module, codec)
    return folder


@pytest.fixture(scope="module")
def model(run: Path) -> Model:
    """The run, loaded."""
    return meristem.load(run)


def test_run_folder_and_model_folder_are_one_model(run: Path, model: Model) -> None:
    again = meristem.load(str(run / "model"))
    assert again.generate("def ", length=20, seed=3) == model.generate("def ", length=20, seed=3)
    assert (again.family, again.folder) == ("llama", run / "model")


def test_an_adapter_is_loaded_with_its_base_and_saved_merged(run: Path, model: Model, tmp_path: Path) -> None:
    module = lora.apply(hf.load(run).module, 4, 8.0)
    with torch.no_grad():
        for name, p in module.named_parameters():
            if name.endswith(".b"):
                p.normal_(std=0.3)
    lora.save(tmp_path / "adapter", module, "llama", hf.identity("llama", model.module), base=str(run))
    adapted = meristem.load(tmp_path / "adapter")
    assert abs(adapted.score(TEXT).nats - model.score(TEXT).nats) > 0.1
    meristem.save(adapted, tmp_path / "merged")
    merged = meristem.load(tmp_path / "merged")
    assert merged.score(TEXT).nats == pytest.approx(adapted.score(TEXT).nats, rel=1e-5)
    assert any(isinstance(m, lora.LoRA) for m in adapted.module.modules())         # the loaded one was left alone
    lora.save(tmp_path / "nameless", module, "llama", "00")
    with pytest.raises(RequestError, match="does not name its base"):
        meristem.load(tmp_path / "nameless")


def test_save_and_load_give_the_same_weights(model: Model, tmp_path: Path) -> None:
    meristem.save(model, tmp_path / "copy")
    copy = meristem.load(tmp_path / "copy")
    assert hf.identity("llama", copy.module) == hf.identity("llama", model.module)
    assert copy.codec.hash == model.codec.hash and copy.config == model.config


def test_streamed_pieces_join_to_the_text_and_are_whole_characters(model: Model) -> None:
    """A random model writes many half characters; each piece but the last ends with a whole one."""
    seen = 0
    for seed in range(8):
        pieces: list[str] = []
        text = model.generate("def ", length=40, temperature=1.0, top_p=1.0, seed=seed, on_text=pieces.append)
        assert "".join(pieces) == text == model.generate("def ", length=40, temperature=1.0, top_p=1.0, seed=seed)
        assert all(pieces) and not any(p.endswith("\ufffd") for p in pieces[:-1])
        seen += "\ufffd" in text
    assert seen > 2


@pytest.mark.parametrize("cut", [0, 1])
def test_a_character_of_four_bytes_is_one_piece(model: Model, cut: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The forward pass is replaced by one that spells a text; cut short, its unfinished character comes last."""
    tokens = bpe.fit(["plain"], 257).encode("a𝄞é")              # bytes only: 1 + 4 + 2 tokens
    codec = bpe.fit(["plain"], 257)

    def spell(module, prompts, sampling, *, on_token, **_):
        for token in tokens[:len(tokens) - cut].tolist():
            on_token(0, token)
        kept = tokens[:len(tokens) - cut].tolist()
        return [Generation(kept, [0.0] * len(kept))]
    monkeypatch.setattr("meristem.generate.autoregressive.generate", spell)
    pieces: list[str] = []
    text = replace(model, codec=codec).generate("", on_text=pieces.append)
    assert pieces == (["a", "𝄞", "é"] if not cut else ["a", "𝄞", "\ufffd"]) and "".join(pieces) == text


def test_a_score_is_of_the_text_as_a_document(model: Model) -> None:
    """log p(text) = sum of the next-token log-probabilities after the end token, by the plain forward pass."""
    score = model.score(TEXT)
    ids = torch.tensor([[model.codec.end, *model.codec.encode(TEXT).tolist()]])
    with torch.no_grad():
        logp = model.module(ids)[0, :-1].log_softmax(-1)
    want = -float(logp.gather(1, ids[0, 1:, None]).sum())
    assert score.nats == pytest.approx(want, rel=1e-5) and len(score.tokens) == len(score.logprobs) == ids.shape[1] - 1
    assert score.bytes == len(TEXT.encode()) > len(TEXT)
    assert score.bits_per_byte == pytest.approx(want / log(2) / score.bytes, rel=1e-5)
    assert model.score("").nats == 0


def test_an_embedding_is_the_mean_of_the_features(model: Model) -> None:
    vector = model.embed(TEXT)
    ids = torch.tensor([[model.codec.end, *model.codec.encode(TEXT).tolist()]])
    with torch.no_grad():
        torch.testing.assert_close(vector, model.module.features(ids)[0].mean(0))
    assert vector.shape == (32,) and not vector.requires_grad
    assert not torch.allclose(vector, model.embed("import os"), atol=1e-3)


def test_a_text_beyond_the_context_is_one_line(model: Model) -> None:
    for ask in (model.score, model.embed):
        with pytest.raises(RequestError, match=r"has \d+ tokens, .*48"):
            ask(TEXT * 40)
    with pytest.raises(RequestError, match="exceed the model's context of 48"):
        model.generate(TEXT * 40)


def test_a_folder_without_a_tokenizer_is_refused(model: Model, tmp_path: Path) -> None:
    hf.save(tmp_path / "mute", "llama", model.config, model.module)
    with pytest.raises(RequestError, match="no tokenizer.json"):
        meristem.load(tmp_path / "mute")


def test_the_package_imports_no_torch_and_knows_its_names() -> None:
    code = "import sys, meristem; assert 'torch' not in sys.modules; meristem.load; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        meristem.lode          # type: ignore[attr-defined]  # noqa: B018


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with a chat template."""
    codec = bpe.fit([TEXT * 9], 300, chat.CHATML_TOKENS)
    torch.manual_seed(1)
    module = llama.Model(llama.Config(vocab=codec.vocab, context=96, dim=32, layers=2, heads=4))
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.2 * torch.randn(p.shape))
    folder = tmp_path_factory.mktemp("talker")
    codec.save(folder)
    chat.save(folder, chat.CHATML)
    hf.save(folder / "model", "llama", module.config, module, codec, chat=chat.load(folder))
    return folder / "model"


def test_chat_goes_on_from_the_rendered_messages(talker: Path, model: Model) -> None:
    loaded = meristem.load(talker)
    messages = [{"role": "system", "content": "brief"}, {"role": "user", "content": "add <|im_end|>"}]
    sampling = Sampling(length=12, temperature=0.7, seed=3)
    pieces: list[str] = []
    answer = loaded.chat(messages, sampling, on_text=pieces.append)
    assert "".join(pieces) == answer == loaded.chat(messages, sampling)
    ids, _ = loaded.template.encode(messages, generation_prompt=True)
    made = generate(loaded.module, [ids], sampling, stop={loaded.codec.end, 2})[0].tokens
    assert answer == loaded.codec.decode(made)
    assert answer != loaded.chat([messages[0]], sampling)
    with pytest.raises(RequestError, match="has no chat template: it completes text"):
        model.chat(messages)


def test_an_answer_ends_where_the_template_ends_a_turn(talker: Path) -> None:
    """With the end of a turn made the likeliest token always, every answer is empty; plain completion goes on."""
    loaded = meristem.load(talker)
    with torch.no_grad():
        weight = loaded.module.head.weight
        weight.copy_(torch.ones_like(weight) * 1e-3)
        features = loaded.module.features(torch.tensor([[0, 1, 5, 9]]))[0].mean(0)
        weight[2] = features * 1e3
    assert loaded.chat([{"role": "user", "content": "hi"}], Sampling(length=5)) == ""
    assert loaded.template.ends == {2} and loaded.ends == {0}


def test_an_adapter_finds_its_base_from_anywhere(run: Path, model: Model, tmp_path: Path,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    module = lora.apply(hf.load(run).module, 4, 8.0)
    copytree(run, tmp_path / "work" / "runs" / "base")
    adapter = tmp_path / "work" / "runs" / "fill" / "adapter"
    lora.save(adapter, module, "llama", hf.identity("llama", model.module), base="runs/base/model")
    for place in (tmp_path / "work", tmp_path, adapter):
        monkeypatch.chdir(place)
        assert meristem.load(adapter).folder.samefile(tmp_path / "work" / "runs" / "base" / "model")
    monkeypatch.chdir(adapter.parent)
    assert meristem.load("adapter").family == "llama"
    rmtree(tmp_path / "work" / "runs" / "base")
    with pytest.raises(RequestError, match="no folder runs/base/model"):
        meristem.load(adapter)


def test_a_text_begins_as_its_tokenizer_begins_it(model: Model, tmp_path: Path) -> None:
    """Llama's tokenizer puts <s> before a text: greedy text equals that of transformers, and a saved copy keeps it."""
    codec = bpe.fit([TEXT * 9], 300, ["<s>", "</s>"])
    tokenizer = Tokenizer.from_str(codec.tokenizer.to_str())
    tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    module = llama.Model(llama.Config(vocab=codec.vocab, context=48, dim=32, layers=2, heads=4))
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    hf.save(tmp_path / "model", "llama", module.config, module, codec)
    (tmp_path / "model" / "MANIFEST.json").unlink()
    tokenizer.save(str(tmp_path / "model" / "tokenizer.json"))
    (tmp_path / "model" / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", '
        '"add_bos_token": true}')
    (tmp_path / "model" / "generation_config.json").write_text('{"eos_token_id": 2, "pad_token_id": 2}')
    meristem.save(meristem.load(tmp_path / "model"), tmp_path / "copy")
    for folder in (tmp_path / "model", tmp_path / "copy"):
        theirs = transformers.AutoTokenizer.from_pretrained(folder)
        network = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
        ids = theirs("def ", return_tensors="pt").input_ids
        assert ids[0, 0] == 1
        made = network.generate(ids, max_new_tokens=20, do_sample=False, eos_token_id=2)[0, ids.shape[1]:]
        ours = meristem.load(folder)
        assert ours.codec.marks["begin"] == 1 and ours.codec.end == 2
        assert ours.generate("def ", length=20, temperature=0.0) == theirs.decode(made, skip_special_tokens=True)
        assert ours.score("def ").tokens.tolist() == ids[0, 1:].tolist()
    assert "begin" not in model.codec.marks
