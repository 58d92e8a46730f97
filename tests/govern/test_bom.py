"""The bill of materials is CycloneDX by its own schema, the same each time, and holds what the run records."""
import json

import pytest

from meristem.core.errors import RequestError
from meristem.govern import bom


@pytest.mark.parametrize("name", ["base", "fill"])
def test_the_schema_holds_and_nothing_in_it_is_of_today(quickstart, name) -> None:
    path = bom.write(quickstart / name)
    text = path.read_text()
    from cyclonedx.schema import SchemaVersion  # 2 s of imports, that only the process of this file pays
    from cyclonedx.validation.json import JsonStrictValidator
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    assert bom.write(quickstart / name).read_text() == text
    tree = json.loads(text)
    model = tree["metadata"]["component"]
    assert model["version"] == {"base": "aa01", "fill": "bb02"}[name]
    assert {f["name"] for f in model["components"]} >= {"model/model.safetensors", "model/config.json"}
    metrics = model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    exact = next(m for m in metrics if m["type"] == "body_exact")
    assert exact["value"] == {"base": "0.02", "fill": "0.09"}[name] and exact["slice"] == "test split, n 101"
    parts = {part["bom-ref"]: part for part in tree["components"]}
    assert {"corpus", "tokenizer", "library:torch"} <= set(parts) and ("base" in parts) == (name == "fill")
    assert {"license": {"id": "PSF-2.0"}} in parts["corpus"]["licenses"]
    assert parts["library:torch"]["version"] == "2.13.0+cpu", "as the run recorded it"
    assert tree["dependencies"][0]["dependsOn"] == list(parts)


def test_a_folder_of_runs_is_refused(quickstart) -> None:
    with pytest.raises(RequestError, match="of one model"):
        bom.write(quickstart)
