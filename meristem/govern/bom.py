"""The bill of materials of a model: what it is made of and from, as CycloneDX 1.6 JSON (RUN/bom.json).

    write(Path("runs/mine"))            # returns the path of the file

CycloneDX (https://cyclonedx.org/docs/1.6/json/, ECMA-424): the model with its card, files and their SHA-256, the corpus
with its licences, the tokenizer, the base model, and the libraries it was trained with. The same run folder gives the
same file: no time and no random number is in it. What a run does not record is left out; nothing is guessed.
"""
import hashlib
import re
import uuid
from importlib import metadata
from pathlib import Path
from typing import Any

from meristem.core.errors import RequestError
from meristem.core.files import write_json
from meristem.corpus.licence import MARKS
from meristem.govern.facts import Facts, RunFacts, Tree, gather

NAME, SPEC = "bom.json", "1.6"
LISTED = {name for name, _ in MARKS}    # licences that are surely SPDX identifiers; others stand by name
CHUNK = 1 << 20


def write(folder: Path) -> Path:
    """Write RUN/bom.json; RequestError for a folder that is no single run."""
    facts = gather(folder)
    if len(facts.runs) != 1:
        raise RequestError(f"{folder} holds {len(facts.runs)} runs; a bill of materials is of one model")
    path = folder / NAME
    write_json(path, bom(facts))
    return path


def bom(facts: Facts) -> Tree:
    """The file's content."""
    run = facts.runs[0]
    parts = [part for part in (_corpus(facts), _codec(run), _base(run), *_libraries(run)) if part]
    weights = str(run.weights.get("weights") or run.result.get("model") or "")
    number = uuid.uuid5(uuid.NAMESPACE_URL, f"meristem:{weights}:{run.manifest.get('corpus', '')}")
    return {"$schema": f"http://cyclonedx.org/schema/bom-{SPEC}.schema.json", "bomFormat": "CycloneDX",
            "specVersion": SPEC, "serialNumber": f"urn:uuid:{number}", "version": 1,
            "metadata": {"tools": {"components": [{"type": "application", "name": "meristem",
                                                   "version": _version(run)}]},
                         "component": _model(facts, run, weights)},
            "components": parts,
            "dependencies": [{"ref": "model", "dependsOn": [part["bom-ref"] for part in parts]}]}


def _model(facts: Facts, run: RunFacts, weights: str) -> Tree:
    files = [_file(run.folder, path) for name in ("model", "adapter") for path in sorted((run.folder / name).glob("*"))
             if path.is_file() and path.suffix in (".safetensors", ".json", ".jinja")]
    properties = {"weights": weights, "parameters": run.manifest.get("parameters"), "seed": run.recipe.seed,
                  "flops": run.result.get("flops"), "code": run.manifest.get("machine", {}).get("code"),
                  "notice": run.manifest.get("notice")}
    return {"type": "machine-learning-model", "bom-ref": "model", "name": run.name,
            "version": weights[:12] or "unknown", "licenses": [{"license": {"name": "not stated"}}],
            "components": files, "modelCard": _card(facts, run), "properties": _properties(properties)}


def _card(facts: Facts, run: RunFacts) -> Tree:
    approach = "supervised" if run.recipe.data.examples else "self-supervised"
    architectures = run.config.get("architectures") or []
    parameters: Tree = {"approach": {"type": approach}, "task": run.recipe.objective.name,
                        "architectureFamily": str(run.manifest.get("family", "unknown"))}
    if architectures:
        parameters["modelArchitecture"] = str(architectures[0])
    if _corpus(facts):
        parameters["datasets"] = [{"ref": "corpus"}]
    metrics = [{"type": s["name"], "value": f"{s['value']:.6g}", "slice": f"test split, n {s['n']}",
                "confidenceInterval": {"lowerBound": f"{s['interval']['low']:.6g}",
                                       "upperBound": f"{s['interval']['high']:.6g}"}} for s in run.scores]
    limits = ["The licence of the weights is not stated.", "Nothing it says is checked."]
    considerations: Tree = {"technicalLimitations": limits}
    if "joules" in run.energy:
        kwh = run.energy["joules"] / 3.6e6
        provider = {"organization": {"name": f"grid: {run.energy.get('grid', 'world')}"}, "energySource": "unknown",
                    "energyProvided": {"value": kwh, "unit": "kWh"}}
        considerations["environmentalConsiderations"] = {"energyConsumptions": [{
            "activity": "training", "energyProviders": [provider], "activityEnergyCost": {"value": kwh, "unit": "kWh"},
            "co2CostEquivalent": {"value": run.energy.get("grams", 0.0) / 1e6, "unit": "tCO2eq"},
            "properties": _properties({"method": run.energy.get("method"), "low_kwh": run.energy["low"] / 3.6e6,
                                       "high_kwh": run.energy["high"] / 3.6e6})}]}
    return {"modelParameters": parameters, "quantitativeAnalysis": {"performanceMetrics": metrics},
            "considerations": considerations}


def _corpus(facts: Facts) -> Tree | None:
    run, corpus = facts.runs[0], facts.corpus
    if not run.manifest.get("corpus"):
        return None
    rows = corpus.get("licences", {})
    counts = {f"documents:{name}": row["documents"] for name, row in rows.items()}
    licences = [{"license": {"id": name} if name in LISTED else {"name": name}} for name in rows]
    return {"type": "data", "bom-ref": "corpus", "name": Path(run.recipe.data.corpus).name or "corpus",
            "version": run.manifest["corpus"][:12], **({"licenses": licences} if licences else {}),
            "data": [{"type": "dataset", "name": "training documents"}],
            "properties": _properties({"hash": run.manifest["corpus"], **counts})}


def _codec(run: RunFacts) -> Tree | None:
    if not run.manifest.get("codec"):
        return None
    return {"type": "data", "bom-ref": "tokenizer", "name": f"tokenizer {run.recipe.data.codec.name}",
            "version": run.manifest["codec"][:12], "data": [{"type": "configuration", "name": "tokenizer"}],
            "properties": _properties({"hash": run.manifest["codec"]})}


def _base(run: RunFacts) -> Tree | None:
    if not run.adapted:
        return None
    return {"type": "machine-learning-model", "bom-ref": "base", "name": Path(run.recipe.base).parent.name or "base",
            "version": str(run.manifest.get("base", ""))[:12] or "unknown",
            "properties": _properties({"weights": run.manifest.get("base")})}


def _libraries(run: RunFacts) -> list[Tree]:
    """meristem's own dependencies: torch as the run recorded it, the others as they are installed now."""
    try:
        wanted = metadata.requires("meristem") or []
    except metadata.PackageNotFoundError:
        wanted = ["torch"]
    names = sorted({re.split(r"[ ;<>=!~\[(]", line, maxsplit=1)[0] for line in wanted if "extra ==" not in line})
    recorded = {"torch": run.manifest.get("machine", {}).get("torch")}
    found = []
    for name in names:
        try:
            version = recorded.get(name) or metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        found.append({"type": "library", "bom-ref": f"library:{name}", "name": name, "version": str(version),
                      "purl": f"pkg:pypi/{name.lower()}@{str(version).replace('+', '%2B')}"})
    return found


def _file(folder: Path, path: Path) -> Tree:
    state = hashlib.sha256()
    with path.open("rb") as f:
        while block := f.read(CHUNK):
            state.update(block)
    return {"type": "file", "name": path.relative_to(folder).as_posix(),
            "hashes": [{"alg": "SHA-256", "content": state.hexdigest()}]}


def _version(run: RunFacts) -> str:
    return str(run.manifest.get("machine", {}).get("meristem", "unknown"))


def _properties(facts: dict[str, Any]) -> list[Tree]:
    return [{"name": f"meristem:{name}", "value": str(value)} for name, value in facts.items()
            if value not in (None, "")]
