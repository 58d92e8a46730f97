"""A Llama folder of ours as a GGUF file of bf16, for llama.cpp: run in its environment, which has `gguf` and no torch.

    .bench/llamacpp/env/bin/python -m benchmarks.serving_gguf FOLDER OUT.gguf

Names and layout as llama.cpp's convert_hf_to_gguf.py: queries and keys are permuted from rotated halves to pairs.
"""
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

NAMES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
         "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
         "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
OUTER = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
         "lm_head.weight": "output.weight"}


def main(folder: Path, out: Path) -> None:
    """Write the file."""
    import gguf
    tree = json.loads((folder / "config.json").read_text())
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    made: Any = gguf.GGUFWriter(str(out), "llama")
    heads, groups = tree["num_attention_heads"], tree["num_key_value_heads"]
    made.add_context_length(tree["max_position_embeddings"])
    made.add_embedding_length(tree["hidden_size"])
    made.add_block_count(tree["num_hidden_layers"])
    made.add_feed_forward_length(tree["intermediate_size"])
    made.add_head_count(heads)
    made.add_head_count_kv(groups)
    made.add_layer_norm_rms_eps(tree["rms_norm_eps"])
    made.add_rope_dimension_count(tree["hidden_size"] // heads)
    made.add_vocab_size(tree["vocab_size"])
    vocab = tokenizer["model"]["vocab"] | {t["content"]: t["id"] for t in tokenizer["added_tokens"]}
    special = {t["id"] for t in tokenizer["added_tokens"]}
    names = {number: name for name, number in vocab.items()}
    made.add_tokenizer_model("gpt2")
    made.add_tokenizer_pre("gpt-2")
    made.add_token_list([names.get(i, f"[unused{i}]") for i in range(tree["vocab_size"])])
    made.add_token_types([3 if i in special else 1 if i in names else 5 for i in range(tree["vocab_size"])])
    made.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"]["merges"]])
    made.add_bos_token_id(0)
    made.add_eos_token_id(0)
    for name, raw in tensors(folder / "model.safetensors"):
        array = (raw.astype(np.uint32) << 16).view(np.float32)
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            count = heads if "q_proj" in name else groups
            array = array.reshape(count, 2, len(array) // count // 2, -1).swapaxes(1, 2).reshape(array.shape)
        theirs = OUTER.get(name)
        if theirs is None:
            _, _, layer, rest = name.split(".", 3)
            theirs = f"blk.{layer}.{NAMES[rest.removesuffix('.weight')]}.weight"
        if array.ndim == 1:
            made.add_tensor(theirs, np.ascontiguousarray(array))
        else:
            packed = gguf.quants.quantize(np.ascontiguousarray(array), gguf.GGMLQuantizationType.BF16)
            made.add_tensor(theirs, packed, raw_dtype=gguf.GGMLQuantizationType.BF16)
    made.write_header_to_file()
    made.write_kv_data_to_file()
    made.write_tensors_to_file()
    made.close()


def tensors(path: Path) -> list[tuple[str, Any]]:
    """Names and bf16 numbers, as uint16, of a safetensors file."""
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:8 + length])
    out = []
    for name, entry in header.items():
        if name != "__metadata__":
            assert entry["dtype"] == "BF16", entry
            start, stop = (8 + length + offset for offset in entry["data_offsets"])
            out.append((name, np.frombuffer(raw[start:stop], dtype=np.uint16).reshape(entry["shape"])))
    return out


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
