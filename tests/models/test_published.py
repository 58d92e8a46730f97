"""Parameter counts of published models, to the last one, built on the meta device: shapes without memory.

A row: (family, name in its SIZES, parameters with tied tensors once). Counts are recomputed from the papers' tables and
agree with the rounded numbers that the papers print.
"""
import pytest

from meristem.core import registry
from meristem.core.config import Part, to_dict
from meristem.plan.cost import on_meta

COUNTS = [
    ("whisper", "whisper-tiny", 37_760_640),                   # Whisper table 1: 39M, 74M, 244M, 769M, 1550M
    ("whisper", "whisper-base", 72_593_920),
    ("whisper", "whisper-small", 241_734_912),
    ("whisper", "whisper-medium", 763_857_920),
    ("whisper", "whisper-large", 1_543_304_960),
    ("whisper", "whisper-large-v3", 1_543_490_560),
    ("whisper", "whisper-turbo", 808_878_080),                 # its page: 809M
    ("wav2vec2", "wav2vec2-base", 95_044_608),                 # wav2vec 2.0 section 4.2: 95M, 317M
    ("wav2vec2", "wav2vec2-large", 317_380_864),
    ("wav2vec2", "hubert-base", 94_371_712),                   # HuBERT table 1: 95M, 317M
    ("wav2vec2", "hubert-large", 315_438_720),
    ("esm", "esm2-8m", 7_512_474),                             # ESM-2 table S1: 8M, 35M, 150M, 650M, 3B, 15B
    ("esm", "esm2-35m", 33_501_394),
    ("esm", "esm2-150m", 148_140_154),
    ("esm", "esm2-650m", 651_043_254),
    ("esm", "esm2-3b", 2_839_005_634),
    ("esm", "esm2-15b", 15_129_100_194),
    ("autoencoder", "kl-f8", 83_653_863),                      # latent-diffusion's and stable-diffusion's configs
    ("dit", "dit-xl2", 674_834_720),                           # DiT table 1: 675M, 458M, 130M, 33M
    ("dit", "dit-l2", 457_840_672),
    ("dit", "dit-b2", 130_315_808),
    ("dit", "dit-s2", 32_865_056),
    ("unet", "sd1", 859_520_964),
    ("unet", "ldm-celebahq", 274_056_163),
    ("unet", "ldm-cin256", 400_920_579),
    ("unet", "ldm-txt2img", 872_300_484),
    ("unet", "ldm-churches", 294_966_916),
    ("dalle", "dalle-12b", 12_292_808_448),                    # DALL-E section 2.2: 12-billion
    ("clip", "clip-vit-b32", 151_277_313),                     # openai/CLIP's code, with logit_scale
    ("clip", "clip-vit-b16", 149_620_737),
    ("clip", "clip-vit-l14", 427_616_513),
    ("llava", "llava-1.5-7b", 7_063_427_072),                  # llava-hf's card: 7.06B
    ("resnet", "resnet-18", 11_689_512 - 998 * 513),           # torchvision's counts, with two classes for 1,000
    ("resnet", "resnet-34", 21_797_672 - 998 * 513),
    ("resnet", "resnet-50", 25_557_032 - 998 * 2049),
    ("resnet", "resnet-101", 44_549_160 - 998 * 2049),
    ("resnet", "resnet-152", 60_192_808 - 998 * 2049),
    ("sam", "sam-vit-b", 93_735_472),                          # segment-anything's code, without its random table
    ("sam", "sam-vit-l", 312_342_832),
    ("sam", "sam-vit-h", 641_090_608),
    ("vit", "dinov2-small", 22_056_576),                       # DINOv2's README and code: 21M, 86M, 300M, 1,100M
    ("vit", "dinov2-base", 86_580_480),
    ("vit", "dinov2-large", 304_368_640),
    ("vit", "dinov2-giant", 1_136_480_768),
    ("vit", "dinov2-small-registers", 22_058_112),
    ("vit", "dinov2-base-registers", 86_583_552),
    ("vit", "dinov2-large-registers", 304_372_736),
    ("vit", "dinov2-giant-registers", 1_136_486_912),
    ("llama", "llama-7b", 6_738_415_616),                      # LLaMA table 2: 6.7B, 13.0B, 32.5B, 65.2B
    ("llama", "llama-13b", 13_015_864_320),
    ("llama", "llama-33b", 32_528_943_616),
    ("llama", "llama-65b", 65_285_660_672),
    ("llama", "llama2-70b", 68_976_648_192),                   # Llama 2's model card
    ("llama", "llama2-7b", 6_738_415_616),                     # the others as their model cards' tensors add up
    ("llama", "llama2-13b", 13_015_864_320),
    ("llama", "llama3-8b", 8_030_261_248),                     # Llama 3 table 3: 8B, 70B, 405B
    ("llama", "llama3-70b", 70_553_706_496),
    ("llama", "llama3.1-405b", 405_853_388_800),
    ("llama", "llama3.2-1b", 1_235_814_400),                   # 1.23B and 3.21B with one embedding
    ("llama", "llama3.2-3b", 3_212_749_824),
    ("llama", "mistral-7b", 7_241_732_096),
    ("llama", "qwen2-0.5b", 494_032_768),                      # Qwen2 table 1: 0.49B, 1.54B, 7.61B, 72.7B
    ("llama", "qwen2-1.5b", 1_543_714_304),
    ("llama", "qwen2-7b", 7_615_616_512),
    ("llama", "qwen2-72b", 72_706_203_648),
    ("llama", "qwen3-0.6b", 596_049_920),
    ("llama", "qwen3-1.7b", 1_720_574_976),
    ("llama", "qwen3-4b", 4_022_468_096),
    ("llama", "qwen3-8b", 8_190_735_360),
    ("llama", "qwen3-14b", 14_768_307_200),
    ("llama", "qwen3-32b", 32_762_123_264),
    ("llama", "smollm-135m", 134_515_008),
    ("llama", "smollm-360m", 361_821_120),
    ("llama", "smollm-1.7b", 1_711_376_384),
    ("llama", "smollm3-3b", 3_075_098_624),
    ("t5", "t5-small", 60_506_624),                            # T5's README: 60M, 220M, 770M, 3B, 11B
    ("t5", "t5-base", 222_903_552),
    ("t5", "t5-large", 737_668_096),
    ("t5", "t5-3b", 2_851_598_336),
    ("t5", "t5-11b", 11_307_321_344),
    ("t5", "t5-v1.1-small", 76_961_152),                       # v1.1: no figures in print; recomputed from its shapes
    ("t5", "t5-v1.1-base", 247_577_856),
    ("t5", "t5-v1.1-large", 783_150_080),
    ("t5", "t5-v1.1-xl", 2_849_757_184),
    ("t5", "t5-v1.1-xxl", 11_135_332_352),
    ("lstm", "lstm-medium", 19_780_400),                       # AWD-LSTM table 1: 20M, 66M, 24M; table 2: 33M
    ("lstm", "lstm-large", 66_034_000),
    ("lstm", "awd-lstm-ptb", 24_221_600),
    ("lstm", "awd-lstm-wt2", 33_556_078),
    ("fasttext", "fasttext-bigrams", 100_081_942),             # Joulin et al. 3.1: 10 M bins of 10, and 8192 words
    ("gpt2", "gpt2", 124_439_808),                             # openai/gpt-2: 124M, 355M, 774M, 1558M
    ("gpt2", "gpt2-medium", 354_823_168),
    ("gpt2", "gpt2-large", 774_030_080),
    ("gpt2", "gpt2-xl", 1_557_611_200),
    ("gpt2", "nanogpt", 124_337_664),                          # nanoGPT's transformer_sizing.ipynb
    ("gpt2", "gpt3-175b", 174_604_259_328),                    # GPT-3 table D.1: 174,600M
    ("gpt2", "mt-nlg-530b", 529_600_819_200),                  # 530B
    ("gpt2", "codex-12b", 12_863_994_880),                     # 12B without embeddings
    ("neox", "neox-20b", 20_554_567_680),
    ("neox", "pythia-70m", 70_426_624),                        # Pythia's README
    ("neox", "pythia-160m", 162_322_944),
    ("neox", "pythia-410m", 405_334_016),
    ("neox", "pythia-1b", 1_011_781_632),
    ("neox", "pythia-1.4b", 1_414_647_808),
    ("neox", "pythia-2.8b", 2_775_208_960),
    ("neox", "pythia-6.9b", 6_857_302_016),
    ("neox", "pythia-12b", 11_846_072_320),
    ("palm", "palm-8b", 8_632_012_800),                        # PaLM table 1 leaves out the norms: 8.63, 62.50, 540.35
    ("palm", "palm-62b", 62_495_662_080),
    ("palm", "palm-540b", 540_356_474_880),
    ("starcoder2", "starcoder2-3b", 3_030_371_328),            # StarCoder2 table 6: 3B, 7B, 15B
    ("starcoder2", "starcoder2-7b", 7_173_923_840),
    ("starcoder2", "starcoder2-15b", 15_957_889_024),
    ("mixtral", "mixtral-8x7b", 46_702_792_704),               # Mixtral: 47B, 13B active; 141B, 39B active
    ("mixtral", "mixtral-8x22b", 140_620_634_112),
    ("mixtral", "qwen3-30b-a3b", 30_532_122_624),              # model cards: 30.5B, 3.3B active; 235B, 22B active
    ("mixtral", "qwen3-235b-a22b", 235_093_634_560),
    ("llama4", "llama4-scout", 107_769_861_120),               # 109B with the image encoder; 17B active
    ("llama4", "llama4-maverick", 400_711_848_960),            # 400B, 17B active
    ("bert", "bert-base", 109_482_240),                        # google-research/bert: 110M, 340M (335.1M exactly)
    ("bert", "bert-large", 335_141_888),
    ("bert", "roberta-base", 124_645_632),                     # fairseq examples/roberta: 125M, 355M
    ("bert", "roberta-large", 355_359_744),
    ("bert", "distilbert-base", 66_362_880),                   # 66M, without token types and pooler
    ("bert", "minilm-l6", 22_713_216),                         # the published checkpoint has so many
]


@pytest.mark.parametrize(("family", "size", "parameters"), COUNTS, ids=[row[1] for row in COUNTS])
def test_a_published_size_has_exactly_so_many_parameters(family: str, size: str, parameters: int) -> None:
    module = on_meta(Part(family, to_dict(registry.load("models", family).SIZES[size])))
    assert all(p.is_meta for p in module.parameters())
    assert sum(p.numel() for p in module.parameters()) == parameters
