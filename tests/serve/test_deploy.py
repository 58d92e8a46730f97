"""What `deploy/` promises: manifests that parse and are shut, a folder that vLLM and transformers read."""
import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
import transformers
import yaml
from safetensors import safe_open

from meristem.cli.main import main
from meristem.codecs.chat import FILE

DEPLOY = Path(__file__).parent.parent.parent / "deploy"


def options() -> set[str]:
    """The options of `meristem serve`."""
    import inspect

    from meristem.cli.serve import serve
    return {f"--{name.replace('_', '-')}" for name in inspect.signature(serve).parameters}


def test_kubernetes_manifests_are_whole_and_shut() -> None:
    trees = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))
    assert [t["kind"] for t in trees] == ["Deployment", "Service", "HorizontalPodAutoscaler"]
    pod = trees[0]["spec"]["template"]["spec"]
    box: Any = pod["containers"][0]
    assert pod["securityContext"]["runAsNonRoot"] and not pod["automountServiceAccountToken"]
    assert box["securityContext"]["readOnlyRootFilesystem"]
    assert box["securityContext"]["capabilities"]["drop"] == ["ALL"]
    assert {word for word in box["args"] if word.startswith("--")} <= options()
    assert box["env"][0]["name"] == "MERISTEM_API_KEY" and "secretKeyRef" in box["env"][0]["valueFrom"]
    assert trees[1]["spec"]["selector"] == trees[0]["spec"]["selector"]["matchLabels"]


def test_the_image_runs_as_nobody_in_particular() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    assert re.search(r"^USER 10001$", text, re.MULTILINE) and "constraints.txt" in text
    command = json.loads(re.findall(r"^CMD (\[.*\])$", text, re.MULTILINE)[-1])
    assert {word for word in command if word.startswith("--")} <= options()
    ast.parse((DEPLOY / "ray_serve.py").read_text())


def test_the_folder_has_what_vllm_reads(folder: Path) -> None:
    config = transformers.AutoConfig.from_pretrained(folder)
    assert config.architectures == ["LlamaForCausalLM"] and config.dtype is not None
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert tokenizer.eos_token_id == 0 and (folder / FILE).is_file()
    text = tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)
    assert text.startswith("<|im_start|>user")
    wanted = set(transformers.LlamaForCausalLM(config).state_dict())
    with safe_open(folder / "model.safetensors", framework="pt") as tensors:
        assert wanted == set(tensors.keys())


def test_the_table_of_vllm_names_options_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    rows = re.findall(r"^\| `(--[a-z-]+)", (DEPLOY / "vllm.md").read_text(), re.MULTILINE)
    assert len(rows) >= 5 and set(rows) <= options()
    assert main(["serve", "nowhere"]) == 2 and "no folder" in capsys.readouterr().err
