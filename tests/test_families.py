"""docs/families.md lists every family and size that exists, with the counts that the meta device gives.

    python -m tests.test_families            # writes the page anew after a family or a size has changed
"""
import ast
import dataclasses
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import transformers

from meristem.core import registry
from meristem.recipes import recipes

PAGE = Path(__file__).parent.parent / "docs" / "families.md"
HEAD = '''# Families: what can be built, loaded, trained and exported

One file of `meristem/models/` is one family. This page is made from those files (`python -m tests.test_families`),
and a test keeps it up to date. Parameters are counted on the meta device, tied tensors once, as the shape stands in
the file; a vocabulary fitted to your corpus, or a head for your labels, changes them.

## Load, use, export

A folder in the Hugging Face layout, a run folder or a Hub id: the family is decided by `config.json` alone, nothing
that the checkpoint carries is run, and only safetensors are read. A setting or a tensor that the family does not
know is refused with a line that names it. Loading takes the model's size and a tenth of memory; weights stay in the
type of their file.

A Hub id is looked for in the local cache (`HF_HOME`, `HF_HUB_CACHE`) first, without a network. Where it is not
there, `huggingface_hub` fetches it if it is installed and `HF_HUB_OFFLINE` is not set: `*.safetensors`, `*.json`
and `chat_template.jinja` of the repository's top level, nothing else.

<!-- slow -->
```python
import meristem

model = meristem.load("org/name")           # or "org/name@revision", "runs/mine", a folder
meristem.save(model, "copy")                # transformers loads it again
```

<!-- slow -->
```bash
meristem generate org/name "def area(self):"
meristem chat org/name-instruct
meristem export runs/mine --to hf --out ~/models/mine
```

A model with a chat template (`chat_template.jinja`, or in `tokenizer_config.json`) converses:
`model.chat(messages)` and `meristem chat`. The template is run in Jinja's sandbox in a process of its own that can
open no file and has 2 s and 512 MB; what spells a special token in a message stays text. Codecs fitted with
`special=chat.CHATML_TOKENS` can carry `codecs.chat.CHATML` (`chat.save(folder, chat.CHATML)`).

## Train

A recipe names the family and its shape; any field can be changed after its name: `meristem pretrain llama
data.corpus=CORPUS model.layers=12`. In Python every published shape is `registry.load("models",
"llama").SIZES["llama3-8b"]`.

```python
import torch

from meristem.core import registry

llama = registry.load("models", "llama")
with torch.device("meta"):                                # shapes without memory
    model = llama.Model(llama.SIZES["llama3-8b"])
print(f"{sum(p.numel() for p in model.parameters()):,} parameters")
```
'''


def count(family: ModuleType, config: Any) -> int:
    """Parameters of a shape, tied ones once."""
    with torch.device("meta"):
        return sum(p.numel() for p in family.Model(config).parameters())


def short(number: int) -> str:
    """6738415616 -> '6.74 B'."""
    for unit, size in (("B", 10**9), ("M", 10**6)):
        if number >= size:
            return f"{number / size:.4g} {unit}"
    return f"{number:,}"


def printed() -> dict[tuple[str, str], str]:
    """The counts that stand on the page, by family and size."""
    found, family = {}, ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        family = line[3:] if line.startswith("## ") else family
        if line.startswith("| `"):
            size, number = (cell.strip() for cell in line.split("|")[1:3])
            found[family, size.strip("`")] = number
    return found


def section(name: str, known: dict[tuple[str, str], str]) -> str:
    """One family: what it is, which checkpoints it reads, how it is trained, its sizes."""
    family = registry.load("models", name)
    first = (ast.get_docstring(ast.parse(Path(family.__file__ or "").read_text(encoding="utf-8"))) or "").split("\n")[0]
    kinds = dict.fromkeys(kind.architecture for kind in family.HF_CONFIG.kinds)
    theirs = [k for k in kinds if k in dir(transformers)]
    painted = dict.fromkeys(kind.architecture for kind in family.HF_CONFIG.kinds if not kind.model_type)
    own = [k for k in kinds if k not in theirs and k not in painted]
    names = sorted(n for n, recipe in recipes().items() if recipe().model.name == name and not recipe().adapt)
    lines = [f"## {name}", "", first, ""]
    if theirs:
        lines += [f"Reads and writes checkpoints of transformers: {', '.join(f'`{k}`' for k in theirs)}.", ""]
    if painted:
        lines += [f"Reads and writes checkpoints of diffusers: {', '.join(f'`{k}`' for k in painted)}.", ""]
    if own:
        lines += [f"Architectures of our own, unknown to transformers: {', '.join(f'`{k}`' for k in own)}.", ""]
    how = ", ".join(f"`meristem pretrain {n} data.corpus=CORPUS`" for n in names)
    lines += [f"Train: {how or f'''in Python, or a recipe file with `model: {{name: {name}, ...}}`'''}.", "",
              "| size | parameters | layers | width | vocabulary | context |", "| --- | --- | --- | --- | --- | --- |"]
    for size, config in family.SIZES.items():
        fields = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
        shape = [f"{fields[key]:,}" if isinstance(fields.get(key), int) else "-"
                 for key in ("layers", "dim", "vocab", "context")]
        number = known.get((name, size)) or short(count(family, config))
        lines.append(f"| `{size}` | {number} | {' | '.join(shape)} |")
    return "\n".join(lines) + "\n"


def page(known: dict[tuple[str, str], str]) -> str:
    """The whole page; only sizes that are not `known` are built and counted."""
    return "\n".join([HEAD, *(section(name, known) for name in registry.names("models"))])


def test_the_page_of_families_is_up_to_date() -> None:
    """Shapes of at most 8 layers are counted again here; `tests/models/test_published.py` counts the large ones."""
    known = {key: number for key, number in printed().items() if registry.load("models", key[0]).SIZES.get(key[1])
             and vars(registry.load("models", key[0]).SIZES[key[1]]).get("layers", 9) > 8}
    assert PAGE.read_text(encoding="utf-8") == page(known), "write it anew: python -m tests.test_families"


def test_counts_are_short() -> None:
    assert [short(n) for n in (6_738_415_616, 124_439_808, 12_345)] == ["6.738 B", "124.4 M", "12,345"]


if __name__ == "__main__":
    PAGE.write_text(page({}), encoding="utf-8")
    sys.exit()
