"""Files are whole or absent: digests, atomic writes, the folder commit, verification of hostile manifests, claims."""
import json
import os
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meristem.core.errors import MachineError, RequestError
from meristem.core.files import (
    MANIFEST,
    claim,
    committed,
    digest,
    digest_bytes,
    read_json,
    verify,
    write_bytes,
    write_json,
)


def commit(folder, **files):
    with committed(folder, {"kind": "test"}) as temporary:
        for name, text in files.items():
            (temporary / name).write_text(text)
    return folder


def leftovers(folder):
    return sorted(p.name for p in folder.rglob(".tmp*"))


def test_digests_are_frozen_and_lists_do_not_collide(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"meristem" * 1000)
    assert digest(path) == "636a11d09558a830fbbd21a2492364c5"
    assert digest_bytes("a", b"bc") == "f310f4d71be93bc46456c91685adede6"
    assert len({digest_bytes("ab", "c"), digest_bytes("a", "bc"), digest_bytes("abc"),
                digest_bytes("a", "b", "c")}) == 4
    assert digest_bytes("\udcff") != digest_bytes("\udcfe"), "file names that are not UTF-8 still have digests"


def test_a_committed_folder_verifies_and_says_what_it_holds(tmp_path):
    folder = commit(tmp_path / "deep" / "m", a="1", b="22")
    assert verify(folder) == "" and leftovers(tmp_path) == []
    manifest = read_json(folder / MANIFEST)
    assert manifest["kind"] == "test" and {k: v["bytes"] for k, v in manifest["files"].items()} == {"a": 1, "b": 2}


def test_a_commit_replaces_the_old_folder_whole(tmp_path):
    commit(tmp_path / "m", a="1", old="x")
    commit(tmp_path / "m", a="2")
    assert verify(tmp_path / "m") == "" and (tmp_path / "m" / "a").read_text() == "2"
    assert not (tmp_path / "m" / "old").exists()
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("stage", ["inside", "written", "manifest"])
@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt])
def test_a_commit_that_fails_changes_nothing(tmp_path, stage, error):
    commit(tmp_path / "m", a="1")

    def point(name):
        if name == stage:
            raise error("injected")

    with pytest.raises(MachineError if error is OSError else error,
                       match="injected"), committed(tmp_path / "m", point=point) as temporary:
        (temporary / "a").write_text("2")
        point("inside")
    assert (tmp_path / "m" / "a").read_text() == "1" and verify(tmp_path / "m") == "" and leftovers(tmp_path) == []


def test_replacing_survives_a_kill_at_every_point(tmp_path):
    commit(tmp_path / "m", a="old")
    for stage in ("written", "manifest", "renamed"):
        child = os.fork()
        if child == 0:
            with committed(tmp_path / "m", point=lambda name,
                           stage=stage: os._exit(9) if name == stage else None) as temporary:
                (temporary / "a").write_text(stage)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
        assert verify(tmp_path / "m") == ""
        assert (tmp_path / "m" / "a").read_text() == ("renamed" if stage == "renamed" else "old")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_flipped_bit_truncation_or_loss_is_found(tmp_path, data):
    folder = tmp_path / "m"
    shutil.rmtree(folder, ignore_errors=True)
    commit(folder, a="some text that is long enough", b="x" * 500)
    name = data.draw(st.sampled_from(["a", "b", MANIFEST]))
    raw = bytearray((folder / name).read_bytes())
    before = bytes(raw)
    damage = data.draw(st.sampled_from(["flip", "truncate", "delete", "append"]))
    if damage == "flip":
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    elif damage == "truncate":
        del raw[data.draw(st.integers(0, len(raw) - 1)):]
    elif damage == "append":
        raw += b"x"
    (folder / name).write_bytes(raw)
    if damage == "delete":
        (folder / name).unlink()
    harmless = name == MANIFEST and damage in ("flip", "truncate") and _same_facts(before, bytes(raw))
    assert bool(verify(folder)) != harmless


def _same_facts(before, after):
    """A bit flipped in the manifest's own spacing or in "kind" changes nothing that is claimed about the files."""
    try:
        return json.loads(before)["files"] == json.loads(after)["files"]
    except (ValueError, KeyError, TypeError):
        return False


@pytest.mark.parametrize("manifest", ["[]", "{}", '{"files": 3}', '{"files": {"a": 1}}',
                                      '{"files": {"a": {"bytes": "x", "xxh3": ""}}}',
                                      '{"files": {"../secret": {"bytes": 1, "xxh3": ""}}}',
                                      '{"files": {"/etc/passwd": {"bytes": 1, "xxh3": ""}}}',
                                      '{"files": {"a\\u0000b": {"bytes": 1, "xxh3": ""}}}', "[" * 20000, "\x00"])
def test_a_hostile_manifest_is_a_reason_not_a_crash(tmp_path, manifest):
    (tmp_path / MANIFEST).write_text(manifest)
    assert verify(tmp_path)


def test_writes_are_atomic(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"b": 1, "a": "\u00e9"})
    assert path.read_text(encoding="utf-8") == '{\n  "b": 1,\n  "a": "\u00e9"\n}\n'
    with pytest.raises(TypeError):
        write_json(path, object())
    with pytest.raises(MachineError, match="could not write"):
        write_bytes(tmp_path / "absent" / "y", b"")
    assert read_json(path) == {"b": 1, "a": "\u00e9"} and leftovers(tmp_path) == []


def test_reading_json_names_file_and_line(tmp_path):
    (tmp_path / "x.json").write_text('{"a": 1,\n\n b}')
    with pytest.raises(RequestError, match=r"x.json:3: not valid JSON"):
        read_json(tmp_path / "x.json")
    with pytest.raises(RequestError, match="does not exist"):
        read_json(tmp_path / "y.json")


def test_claiming_a_folder(tmp_path):
    claim(tmp_path / "new" / "run", "run", lambda p: False)
    claim(tmp_path / "new" / "run", "run", lambda p: False)        # still empty
    (tmp_path / "new" / "run" / "mine").touch()
    claim(tmp_path / "new" / "run", "run", lambda p: (p / "mine").exists())
    with pytest.raises(RequestError, match="already holds something that is not this run"):
        claim(tmp_path / "new" / "run", "run", lambda p: False)
    with pytest.raises(RequestError, match="is a file"):
        claim(tmp_path / "new" / "run" / "mine", "run", lambda p: True)
    with pytest.raises(MachineError, match="could not make"):
        claim(tmp_path / "new" / "run" / "mine" / "below", "run", lambda p: True)
