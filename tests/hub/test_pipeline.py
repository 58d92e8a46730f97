"""A folder of diffusers' Stable Diffusion paints the same picture here, and ours the same there."""
import json
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import transformers
from tokenizers import pre_tokenizers

from meristem.codecs import bpe
from meristem.core.errors import RequestError
from meristem.core.files import read_json, write_json
from meristem.generate.pictures import Wish, noise_of, paint
from meristem.hub import pipeline
from meristem.hub.pipeline import Pipeline
from meristem.nn.noise import Schedule
from meristem.train.painting import open_painter, painter_of
from tests.models import parity

CROSS = {"inputs": 4, "image": 8, "channels": (16, 32), "blocks": 1, "attention": (True, False), "groups": 8,
         "heads": 4, "cross": 24}
VAE = {"channels": (16, 32), "blocks": 1, "groups": 8, "latent": 4, "image": 16, "scale": 0.5}
TEXTS = ("a red circle", "Blue  squares")
pytestmark = pytest.mark.filterwarnings("ignore")              # what diffusers says of its own future


def vocabulary(folder: Path) -> Path:
    """vocab.json and merges.txt as CLIP's were kept, with two merges."""
    folder.mkdir(parents=True)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*letters, *(f"{x}</w>" for x in letters), "re", "red</w>", "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\nr e\nre d</w>\n")
    return folder


def said(pipe: Any, text: str, row: int, channels: int = 4, side: int = 8) -> torch.Tensor:
    """What diffusers paints from our noise of a row, from -1 to 1."""
    pipe.set_progress_bar_config(disable=True)
    latents = noise_of(0, range(row, row + 1), (channels, side, side))
    return pipe(text, num_inference_steps=4, guidance_scale=3.0, latents=latents, output_type="pt").images * 2 - 1


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A tiny Stable Diffusion of diffusers, every weight moved, and its folder."""
    folder = tmp_path_factory.mktemp("theirs")
    words = transformers.CLIPTokenizer.from_pretrained(vocabulary(folder / "words"), model_max_length=9)
    torch.manual_seed(0)
    text = transformers.CLIPTextModel(transformers.CLIPTextConfig(
        vocab_size=len(words), hidden_size=24, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=9, bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id))
    unet = diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8, cross_attention_dim=24,
        attention_head_dim=4, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"))
    vae = diffusers.AutoencoderKL(block_out_channels=(16, 32), norm_num_groups=8, sample_size=16,
                                  down_block_types=("DownEncoderBlock2D",) * 2,
                                  up_block_types=("UpDecoderBlock2D",) * 2)
    scheduler = diffusers.DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                                        clip_sample=False, set_alpha_to_one=False)
    for part in (unet, vae, text):
        parity.perturb(part, 0.02)
    pipe = diffusers.StableDiffusionPipeline(vae=vae, text_encoder=text, tokenizer=words, unet=unet,
                                             scheduler=scheduler, safety_checker=None, feature_extractor=None,
                                             requires_safety_checker=False)
    pipe.save_pretrained(folder / "sd")
    return pipe, folder / "sd"


def test_their_folder_paints_the_same(theirs: tuple[Any, Path], tmp_path: Path) -> None:
    pipe, folder = theirs
    painter = open_painter(folder)
    got = paint(painter, Wish(TEXTS, steps=4, guidance=3.0))
    for row, text in enumerate(TEXTS):
        torch.testing.assert_close(got[row:row + 1], said(pipe, text, row), atol=1e-4, rtol=0)
    pipeline.write(tmp_path / "again", pipeline.read(folder))
    again = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path / "again", local_files_only=True)
    torch.testing.assert_close(said(again, TEXTS[0], 0), got[:1], atol=1e-4, rtol=0)


def test_the_old_files_of_clips_tokenizer_give_its_ids(tmp_path: Path) -> None:
    words = transformers.CLIPTokenizer.from_pretrained(vocabulary(tmp_path / "words"))
    codec = pipeline.tokenizer(tmp_path / "words")
    for text in (*TEXTS, "", "It's 42 o'clock, re-read\tthis", "\u00c9t\u00e9"):
        ids = [codec.marks["begin"], *codec.encode(text).tolist(), codec.end]
        assert ids == words(text)["input_ids"], text
    (tmp_path / "words" / "vocab.json").write_text("{}")
    with pytest.raises(RequestError, match="is no tokenizer|is not a tokenizer"):
        pipeline.tokenizer(tmp_path / "words")


@pytest.mark.parametrize("sampler", ["ddim", "dpm_solver"])
def test_our_folder_paints_the_same_there(sampler: str, tmp_path: Path) -> None:
    codec = bpe.fit(["a red circle left of a blue square"] * 3, 280)
    text = parity.ours("clip", vocab=codec.vocab, context=9, end=codec.end, image=8, patch=4, project=16,
                       text={"dim": 24, "layers": 1, "heads": 4}, vision={"dim": 24, "layers": 1, "heads": 4})[1]
    made = Pipeline("unet", parity.ours("unet", **CROSS)[1], Schedule("cosine", offset=1), "velocity", sampler, 0.0,
                    parity.ours("autoencoder", **VAE)[1], text, codec)
    pipeline.write(tmp_path / "ours", made)
    got = paint(painter_of(made), Wish(TEXTS, steps=4, guidance=3.0))
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path / "ours", local_files_only=True)
    for row, words in enumerate(TEXTS):
        torch.testing.assert_close(said(pipe, words, row), got[row:row + 1], atol=1e-3, rtol=0)
    torch.testing.assert_close(paint(open_painter(tmp_path / "ours"), Wish(TEXTS, steps=4)), got, atol=1e-4, rtol=0)


def test_pixels_and_a_dit(tmp_path: Path) -> None:
    pixel = Pipeline("unet", parity.ours("unet", **{**CROSS, "inputs": 3, "cross": 0, "heads": 1})[1], Schedule(),
                     "noise", "ddpm", 1.0)
    dit = Pipeline("dit", parity.ours("dit", image=8, dim=32, layers=1, heads=4, classes=2)[1], Schedule(), "noise",
                   "ddim", 0.0, parity.ours("autoencoder", **VAE)[1], labels=("cat", "dog"))
    for name, made, text in (("pixel", pixel, ""), ("dit", dit, "dog")):
        pipeline.write(tmp_path / name, made)
        back = pipeline.read(tmp_path / name)
        assert (back.target, back.sampler, back.limit, back.labels) == (made.target, made.sampler, made.limit,
                                                                        made.labels)
        wish = Wish((text,), steps=3)
        torch.testing.assert_close(paint(painter_of(back), wish), paint(painter_of(made), wish), atol=1e-5, rtol=0)
        assert type(diffusers.DiffusionPipeline.from_pretrained(tmp_path / name, local_files_only=True)).__name__ == \
            read_json(tmp_path / name / "model_index.json")["_class_name"]


def test_folders_that_cannot_be(theirs: tuple[Any, Path], tmp_path: Path) -> None:
    index = read_json(theirs[1] / "model_index.json")
    for change, what in (({"controlnet": ["diffusers", "X"]}, "has a controlnet"), ({"unet": None}, "names no unet")):
        write_json(tmp_path / "model_index.json", {**index, **change})
        with pytest.raises(RequestError, match=what):
            pipeline.read(tmp_path)
    with pytest.raises(RequestError, match="from 1: give"):
        pipeline.write(tmp_path / "ddim", Pipeline("unet", parity.ours("unet", **CROSS)[1], Schedule(), "noise", "ddim",
                                                   0.0, *(parity.ours("autoencoder", **VAE)[1],) * 2))
    with pytest.raises(RequestError, match="counts time as ours"):
        pipeline.write(tmp_path / "flow", Pipeline("unet", parity.ours("unet", **CROSS)[1], Schedule("flow"), "flow",
                                                   "euler", 0.0, *(parity.ours("autoencoder", **VAE)[1],) * 2))
