"""Model folders: transformers uses what we write, and whatever is wrong with a folder is one line that names it."""
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import meristem
from meristem.codecs import bpe, char, chat
from meristem.codecs.bpe import Bpe
from meristem.core.errors import MeristemError, RequestError
from meristem.core.files import MANIFEST, verify
from meristem.generate.autoregressive import generate
from meristem.hub import hf
from meristem.hub.tensors import write
from meristem.models.llama import Config, Model

QUIET = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TEXT = "def add(a, b):\n    return a + b\n\nnaïve 𝄞 'quoted'\n"


def random_model(**fields: object) -> Model:
    """Small, with every weight moved: fresh blocks are the identity."""
    torch.manual_seed(0)
    made = Model(Config(**{"context": 64, "dim": 32, "layers": 2, "heads": 4, "groups": 2, "hidden": 48, **fields}))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=generator))
    return made.eval()


@pytest.fixture(scope="module")
def codec() -> Bpe:
    """300 tokens."""
    return bpe.fit([TEXT * 20], 300)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, codec: Bpe) -> Path:
    """A folder that `save` wrote."""
    folder = tmp_path_factory.mktemp("good") / "model"
    module = random_model(vocab=codec.vocab)
    hf.save(folder, "llama", module.config, module, codec, {"lineage": "x"})
    return folder


def copied(good: Path, tmp_path: Path, manifest: bool = False) -> Path:
    """A copy to damage; without its manifest it is a folder from elsewhere."""
    folder = tmp_path / "model"
    folder.mkdir(exist_ok=True)
    for path in good.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    if not manifest:
        (folder / MANIFEST).unlink()
    return folder


@pytest.mark.parametrize("tied", [False, True])
@torch.no_grad()
def test_transformers_reads_model_and_tokenizer_and_stops_at_the_end(tied: bool, codec: Bpe, tmp_path: Path) -> None:
    module = random_model(vocab=codec.vocab, tied=tied)
    hf.save(tmp_path / "model", "llama", module.config, module, codec)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    ids = codec.encode(TEXT)
    assert tokenizer(TEXT).input_ids == ids.tolist() and tokenizer.decode(ids.tolist()) == TEXT
    assert tokenizer.eos_token_id == model.generation_config.eos_token_id == codec.end
    tokens = torch.from_numpy(ids).long()[None]
    torch.testing.assert_close(model(tokens).logits, module(tokens), rtol=0, atol=1e-5)
    ours = generate(module, [ids[:9]], length=40)[0].tokens
    theirs = model.generate(tokens[:, :9], max_new_tokens=40, do_sample=False)[0, 9:].tolist()
    assert theirs == ours[:len(theirs)] and len(theirs) > 3
    stop = ours[5]                                             # if that token were the end, both would end there
    model.generation_config.eos_token_id = stop
    early = model.generate(tokens[:, :9], max_new_tokens=40, do_sample=False)[0, 9:].tolist()
    assert early[:-1] == generate(module, [ids[:9]], length=40, stop={stop})[0].tokens and early[-1] == stop


def test_what_is_saved_is_loaded(good: Path, codec: Bpe) -> None:
    loaded = hf.load(good)
    again = hf.load(good.parent)                               # model/ inside a run folder
    wanted = random_model(vocab=codec.vocab)
    assert loaded.config == again.config == wanted.config and loaded.family == "llama" and not loaded.module.training
    assert {k: v.tolist() for k, v in loaded.module.state_dict().items()} == {
        k: v.tolist() for k, v in wanted.state_dict().items()}
    assert loaded.codec and loaded.codec.hash == codec.hash and loaded.codec.end == codec.end
    manifest = json.loads((good / MANIFEST).read_text())
    assert manifest["lineage"] == "x" and manifest["weights"] == hf.identity("llama", loaded.module)


def test_tied_weights_are_one_parameter(tmp_path: Path) -> None:
    module = random_model(vocab=40, tied=True)
    hf.save(tmp_path / "model", "llama", module.config, module)
    assert "lm_head.weight" not in load_file(tmp_path / "model" / "model.safetensors")
    found = hf.load(tmp_path / "model").module
    assert found.head.weight is found.embed.weight and len(list(found.parameters())) == len(list(module.parameters()))


def change_weights(folder: Path, **tensors: torch.Tensor | None) -> None:
    """Put, replace or (None) remove tensors."""
    path = folder / "model.safetensors"
    kept = {k: v for k, v in {**load_file(path), **tensors}.items() if v is not None}
    save_file(kept, path, metadata={"format": "pt"})


DOWN = "model.layers.1.mlp.down_proj.weight"


@pytest.mark.parametrize(("tensors", "line"), [
    ({DOWN: None}, rf"no tensor {DOWN} of shape 32x48"),
    ({DOWN: torch.zeros(48, 32)}, rf"tensor {DOWN} is 48x32, the config asks for 32x48"),
    ({DOWN: torch.zeros(32, 48, dtype=torch.int8)}, rf"tensor {DOWN} holds int8 where float32 is expected"),
    ({"model.layers.1.mlp.bias": torch.zeros(3)}, r"model.layers.1.mlp.bias of shape 3 is not part of the model"),
    ({DOWN: None, "model.layers.1.mlp.down.weight": torch.zeros(32, 48)}, "did you mean .*mlp.down.weight"),
])
def test_a_tensor_that_does_not_fit_is_named(tensors: dict, line: str, good: Path, tmp_path: Path) -> None:
    folder = copied(good, tmp_path)
    change_weights(folder, **tensors)
    with pytest.raises(RequestError, match=line) as caught:
        hf.load(folder)
    assert "model.safetensors" in str(caught.value) and "\n" not in str(caught.value)


def test_two_values_for_one_tied_weight_are_refused(tmp_path: Path) -> None:
    module = random_model(vocab=40, tied=True)
    hf.save(tmp_path / "model", "llama", module.config, module)
    (tmp_path / "model" / MANIFEST).unlink()
    head = module.embed.weight.detach().clone()
    change_weights(tmp_path / "model", **{"lm_head.weight": head})         # said twice, the same
    hf.load(tmp_path / "model")
    change_weights(tmp_path / "model", **{"lm_head.weight": head + 1})
    with pytest.raises(RequestError, match="lm_head.weight differs from the one the config ties it to"):
        hf.load(tmp_path / "model")


@pytest.mark.parametrize(("fields", "line"), [
    ({"architectures": ["LlamaForCausalLN"]}, "no family here is a LlamaForCausalLN; did you mean LlamaForCausalLM"),
    ({"architectures": None, "model_type": None}, "names no architecture; known: .*LlamaForCausalLM"),
    ({"architectures": 3, "model_type": 4}, "names no architecture"),
    ({"num_hidden_layers": 3}, "no tensor model.layers.2"),
    ({"num_attention_heads": 0, "head_dim": None, "num_key_value_heads": None}, "describes no llama"),
    ({"hidden_size": -32}, "describes no llama|asks for"),
    ({"hidden_size": "wide"}, "wide"),
    ({"hidden_act": "gelu"}, "hidden_act = 'gelu' is not supported .only 'silu'"),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5 is not supported"),
    ({"rope_scaling": {"rope_type": "wound", "factor": 4.0}}, "wound"),
    ({"attention_chunk_size": 16}, "attention_chunk_size = 16 is a setting this family does not know"),
    ({"quantization_config": {"bits": 4}}, "weights quantised by None are not read"),
    ({"rope_theta": 5.0}, "rope_theta = 10000.0 and rope_theta = 5.0 disagree"),
])
def test_a_config_that_cannot_be_honoured_is_refused(fields: dict, line: str, good: Path, tmp_path: Path) -> None:
    folder = copied(good, tmp_path)
    tree = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**tree, **fields}))
    with pytest.raises(RequestError, match=line):
        hf.load(folder)


def test_folders_that_are_no_models(good: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="neither a model folder .it has no config.json. nor a run folder"):
        hf.load(tmp_path)
    folder = copied(good, tmp_path)
    (folder / "config.json").write_text("[]")
    with pytest.raises(RequestError, match="not a mapping"):
        hf.load(folder)
    (folder / "config.json").write_text("{\n'a': 1}")
    with pytest.raises(RequestError, match="config.json:2: not valid JSON"):
        hf.load(folder)


def test_a_tokenizer_larger_than_the_embedding_is_refused(codec: Bpe, tmp_path: Path) -> None:
    module = random_model(vocab=codec.vocab - 1)
    hf.save(tmp_path / "model", "llama", module.config, module, codec)
    with pytest.raises(RequestError, match=rf"tokenizer has {codec.vocab} tokens, .* only {codec.vocab - 1}"):
        hf.load(tmp_path / "model")


def flip(folder: Path, data: st.DataObject, names: list[str]) -> None:
    """Flip one bit of one file."""
    path = folder / data.draw(st.sampled_from(names))
    raw = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, 8 * len(raw) - 1))
    raw[at // 8] ^= 1 << at % 8
    path.write_bytes(raw)


@QUIET
@given(data=st.data())
def test_a_bit_flipped_in_our_folder_is_found(good: Path, data: st.DataObject, tmp_path: Path) -> None:
    folder = copied(good, tmp_path, manifest=True)
    assert verify(folder) == ""
    flip(folder, data, sorted(p.name for p in good.iterdir() if p.name != MANIFEST))
    with pytest.raises(RequestError, match=r"damaged \(its checksum differs"):
        hf.load(folder)


@QUIET
@given(data=st.data())
def test_a_bit_flipped_elsewhere_is_a_line_or_harmless(good: Path, data: st.DataObject, tmp_path: Path) -> None:
    """No checksum guards a foreign folder: what can be said is said, and nothing else than that is raised."""
    folder = copied(good, tmp_path)
    flip(folder, data, ["config.json", "model.safetensors"])
    try:
        hf.load(folder)
    except MeristemError as error:
        assert str(folder) in str(error)


def test_a_truncated_file_is_named(good: Path, tmp_path: Path) -> None:
    lines = {True: "model.safetensors has .* bytes, the manifest says", False: "not a whole safetensors"}
    for manifest, line in lines.items():
        folder = copied(good, tmp_path, manifest)
        raw = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(raw[:-1])
        with pytest.raises(RequestError, match=line):
            hf.load(folder)


def test_a_vocabulary_padded_beyond_the_tokenizer_works(codec: Bpe, tmp_path: Path) -> None:
    """Published embeddings are rounded up to a multiple of 64 or 128: ids without a token are no text."""
    module = random_model(vocab=-(-codec.vocab // 128) * 128)
    hf.save(tmp_path / "model", "llama", module.config, module, codec)
    loaded = meristem.load(tmp_path / "model")
    text = loaded.generate("def ", length=40, temperature=1.0, top_p=1.0)
    assert isinstance(text, str) and loaded.score(TEXT).nats > 0 and loaded.embed(TEXT).shape == (32,)
    padded = list(range(codec.vocab, module.config.vocab))
    assert len(padded) > 50 and loaded.codec.decode([*codec.encode("x = 1"), *padded]) == "x = 1"
    letters = char.fit(["abc"])
    assert letters.decode([1, 2, *padded]) == "ab"


def test_a_chat_template_travels_with_the_model(codec: Bpe, tmp_path: Path) -> None:
    chatty = bpe.fit([TEXT * 20], 300, chat.CHATML_TOKENS)
    module = random_model(vocab=chatty.vocab)
    chatty.save(tmp_path)
    chat.save(tmp_path, chat.CHATML)
    hf.save(tmp_path / "model", "llama", module.config, module, chatty, chat=chat.load(tmp_path))
    again = hf.load(tmp_path / "model")
    assert again.chat and again.chat.template == chat.CHATML and verify(tmp_path / "model") == ""
    assert again.ends == {chatty.end}
    meristem.save(meristem.load(tmp_path / "model"), tmp_path / "copy")
    assert hf.load(tmp_path / "copy").chat.render([{"role": "user", "content": "hi"}]) == (
        "<|im_start|>user\nhi<|im_end|>\n")
    (tmp_path / "copy" / MANIFEST).unlink()
    (tmp_path / "copy" / "generation_config.json").write_text('{"eos_token_id": [0, 2, "x", true]}')
    assert hf.load(tmp_path / "copy").ends == {0, 2}


MEASURE = """
import os, re, sys
from pathlib import Path
import torch
from meristem.hub import hf
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
for folder in sys.argv[1:]:
    if os.fork():                                              # whose high-water mark starts anew
        assert os.wait()[1] == 0
        continue
    hf.load(folder + "/small")                                 # imports are paid
    before = peak()
    loaded = hf.load(folder + "/large")
    params = list(loaded.module.parameters())
    print(before, peak(), sum(p.nbytes for p in params), *{p.dtype for p in params}, flush=True)
    os._exit(0)
"""
FILES = [("float32", 5, False), ("bfloat16", 1, False), ("float16", 4, True)]


@pytest.fixture(scope="module")
def peaks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """By type of the file: peak before, peak after, size and type. 80 MB of weights in fp32, shards or not.

    The tied head is stored twice, as some checkpoints do; comparing the two must not cost a copy at the end.
    """
    folder = tmp_path_factory.mktemp("peaks")
    for dtype, shards, tied in FILES:
        for name, dim, layers in (("small", 32, 1), ("large", 512, 6)):
            module = Model(Config(vocab=8192 if layers > 1 else 64, dim=dim, layers=layers, heads=4, hidden=3 * dim,
                                  tied=tied)).to(getattr(torch, dtype))
            place = folder / dtype / name
            hf.save(place, "llama", module.config, module)
            tensors = load_file(place / "model.safetensors")
            if tied:
                tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
            (place / "model.safetensors").unlink()
            (place / MANIFEST).unlink()
            write(place, tensors, limit=sum(t.nbytes for t in tensors.values()) // shards + 1)
        assert len(list((folder / dtype / "large").glob("*.safetensors"))) >= shards
    done = subprocess.run([sys.executable, "-c", MEASURE, *(str(folder / dtype) for dtype, *_ in FILES)],
                          capture_output=True, text=True, check=True)
    return {dtype: line.split() for (dtype, *_), line in zip(FILES, done.stdout.splitlines(), strict=True)}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's high-water mark")
@pytest.mark.parametrize("dtype", [dtype for dtype, *_ in FILES])
def test_loading_peaks_at_the_size_of_the_model(dtype: str, peaks: dict[str, list[str]]) -> None:
    """The peak may grow by 1.1 times the size of the weights, in the type of the file."""
    before, after, size = map(int, peaks[dtype][:3])
    assert peaks[dtype][3:] == [f"torch.{dtype}"]
    assert size > 30e6 and 0.5 * size < after - before < 1.1 * size + 3e6
