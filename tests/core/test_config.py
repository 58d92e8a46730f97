"""Configs: every mistake in one error, nearest names, files with line numbers, edits of parts."""
import dataclasses
import json

import pytest
import yaml

from meristem.core.config import Part, build, edit, flat, from_dict, parse_edits, read_file, to_dict
from meristem.core.errors import RequestError
from meristem.core.run import Group, Run


@dataclasses.dataclass(frozen=True)
class Shape:
    """A registry entry's own config, as families have them."""

    dim: int = 64
    layers: int = 4
    tied: bool = True


def test_edits_from_words_are_typed():
    edits = parse_edits(["train.lr=1e-3", "--seed=7", "train.compile=false", "train.betas=[0.9, 0.99]", "name=run-1",
                         "data.corpus=a=b"])
    assert edits == {"train.lr": 1e-3, "seed": 7, "train.compile": False, "train.betas": [0.9, 0.99], "name": "run-1",
                     "data.corpus": "a=b"}
    run = edit(Run("x"), edits)
    assert (run.train.lr, run.seed, run.train.compile, run.train.betas, run.data.corpus) == (1e-3, 7, False,
                                                                                             (0.9, 0.99), "a=b")


@pytest.mark.parametrize("word", ["train.lr", "=3", "--"])
def test_a_word_without_a_value_is_refused(word):
    with pytest.raises(RequestError, match="field.name=value"):
        parse_edits([word])


def test_all_mistakes_are_one_error_with_the_nearest_names():
    with pytest.raises(RequestError) as caught:
        edit(Run("x"), {"train.lrr": 1, "train.steps": "many", "train.optimizer": "sgd", "modell": 3, "train.lr.x": 1,
                        "train.batch": 1.5})
    line = str(caught.value)
    assert "\n" not in line
    for part in ("no field 'lrr' in Train; did you mean lr", "train.steps", "'many'", "train.optimizer",
                 "'adafactor' or 'schedule_free'",
                 "did you mean model", "lr has no fields of its own", "train.batch"):
        assert part in line, part


def test_unknown_names_in_a_tree_are_found_at_every_depth_and_values_still_checked():
    with pytest.raises(RequestError) as caught:
        from_dict(Run, {"name": "x", "trian": {}, "train": {"step": 3, "lr": "fast"},
                        "model": {"name": "llama", "field": {}}, "data": 4})
    for part in ("trian", "train.step:", "did you mean steps", "train.lr", "model.field",
                 "data: expected fields of Data, found 4"):
        assert part in str(caught.value), part


def test_rows_of_a_table_are_checked_one_by_one(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("name: x\ntrain:\n  groups:\n  - {match: embed, lr: 1e-1}\n  - {match: norm, freeze: true}\n")
    run = from_dict(Run, read_file(path))
    assert run.train.groups == (Group("embed", lr=0.1), Group("norm", freeze=True))
    assert from_dict(Run, json.loads(json.dumps(to_dict(run)))) == run
    word = 'train.groups=[{"match": "embed", "lr": 0.1}, {"match": "norm", "freeze": true}]'
    assert edit(Run("x"), parse_edits([word])).train.groups == run.train.groups
    assert parse_edits(["name=[a", "data.corpus={}"]) == {"name": "[a", "data.corpus": {}}
    for tree, words in (([{"match": "a", "lrr": 1}, {}], ("groups.0.lrr", "did you mean lr", "groups.1.match")),
                        ([3], ("groups.0: expected fields of Group, found 3",)), ("a", ("train.groups",))):
        for make in (lambda t=tree: from_dict(Run, {"name": "x", "train": {"groups": t}}),
                     lambda t=tree: edit(Run("x"), {"train.groups": t})):
            with pytest.raises(RequestError) as caught:
                make()
            assert all(word in str(caught.value) for word in words), str(caught.value)
    with pytest.raises(RequestError, match="did you mean lr"):
        edit(Run("x"), {"train": {"lrr": 1}})


def test_a_missing_field_is_named():
    with pytest.raises(RequestError, match="name"):
        from_dict(Run, {"seed": 1})


def test_yaml_reads_scientific_notation_as_text_and_the_border_makes_it_a_number(tmp_path):
    assert yaml.safe_load("lr: 1e-3") == {"lr": "1e-3"}, "the trap is gone: PyYAML reads 1e-3 as a float now"
    path = tmp_path / "r.yaml"
    path.write_text("name: x\ntrain:\n  lr: 1e-3\n  steps: '12'\n")
    run = from_dict(Run, read_file(path))
    assert run.train.lr == 1e-3 and isinstance(run.train.lr, float) and run.train.steps == 12


def test_the_three_file_formats_say_the_same(tmp_path):
    tree = {"name": "x", "train": {"lr": 0.01, "betas": [0.8, 0.9]}, "model": {"name": "llama", "fields": {"dim": 64}}}
    (tmp_path / "a.json").write_text(json.dumps(tree))
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(tree))
    (tmp_path / "a.toml").write_text('name = "x"\n[train]\nlr = 0.01\nbetas = [0.8, 0.9]\n'
                                    '[model]\nname = "llama"\nfields = {dim = 64}\n')
    runs = [from_dict(Run, read_file(tmp_path / f"a.{kind}")) for kind in ("json", "yaml", "toml")]
    assert runs[0] == runs[1] == runs[2] and runs[0].model == Part("llama",
                                                                   {"dim": 64}) and runs[0].train.betas == (0.8, 0.9)


@pytest.mark.parametrize(("name", "text", "where"), [
    ("a.yaml", "name: x\ntrain: [1\n", ":3:1"), ("a.yaml", "a: b: c\n", ":1:"),
    ("a.toml", 'name = "x"\nlr = \n', "line 2"),
    ("a.json", '{"name": "x",\n oops}', "line 2"), ("a.yaml", "- 1\n", "expected a mapping"),
    ("a.yaml", "", "expected a mapping"),
    ("a.yaml", "!!python/object/apply:os.getcwd []", ":1:1")])
def test_syntax_errors_name_file_and_place(tmp_path, name, text, where):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(RequestError) as caught:
        read_file(path)
    assert str(path) in str(caught.value) and where in str(caught.value)


@pytest.mark.parametrize("raw", [None, b"\xff\xfe\x00"])
def test_unreadable_files_are_requests_gone_wrong(tmp_path, raw):
    path = tmp_path / "a.yaml"
    if raw is not None:
        path.write_bytes(raw)
    with pytest.raises(RequestError, match="a.yaml"):
        read_file(path)


def test_edits_below_a_part_are_its_own_fields():
    run = edit(Run("x"), {"model.layers": 8, "model.dim": 128})
    assert run.model == Part("llama", {"layers": 8, "dim": 128})
    assert edit(run, {"model.layers": 2}).model.fields == {"layers": 2, "dim": 128}
    assert edit(run, {"model.name": "llama"}).model == run.model


def test_naming_another_entry_drops_the_old_entrys_fields():
    run = edit(Run("x"), {"model.layers": 8})
    assert edit(run, {"model.name": "gpt2", "model.heads": 2}).model == Part("gpt2", {"heads": 2})
    assert edit(run, {"model.heads": 2,
                      "model.name": "gpt2"}).model == Part("gpt2", {"heads": 2}), "the order of edits decides nothing"


def test_a_part_that_was_none_can_be_set():
    assert edit(Run("x"), {"adapt.name": "lora", "adapt.rank": 4}).adapt == Part("lora", {"rank": 4})
    scaled = edit(Run("x"), {"model.scaling.kind": "yarn", "model.scaling.factor": 4.0, "model.layers": 2})
    assert scaled.model.fields == {"scaling": {"kind": "yarn", "factor": 4.0}, "layers": 2}
    assert edit(Run("x"), {k: v for k, v in flat(to_dict(scaled)).items() if v is not None}) == scaled
    with pytest.raises(RequestError, match="model.layers.deep|layers is 2 and has no fields of its own"):
        edit(scaled, {"model.layers.deep": 1})
    with pytest.raises(RequestError, match="give adapt.name too"):
        edit(Run("x"), {"adapt.rank": 4})


def test_build_makes_the_entrys_config_and_names_its_fields():
    assert build(Shape, Part("s", {"dim": 128}), layers=2) == Shape(128, 2)
    with pytest.raises(RequestError, match="did you mean layers"):
        build(Shape, Part("s", {"layer": 2}))


def test_round_trip_and_flat():
    run = edit(Run("x"), {"adapt.name": "lora", "train.betas": [0.5, 0.6]})
    assert from_dict(Run, json.loads(json.dumps(to_dict(run)))) == run
    lines = flat(to_dict(run))
    assert lines["train.betas"] == [0.5, 0.6] and lines["adapt.name"] == "lora" and lines["data.codec.vocab"] == 4096
    assert edit(Run("y"), lines) == run
    assert edit(Run("x"), {"model.fields.dim": 32}) == edit(Run("x"), {"model.dim": 32})
