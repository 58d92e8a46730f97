"""API keys: hashed where they are kept, compared in constant time, with scopes and limits each.

    name, key = add(Path("keys.json"), "alice", scopes=("infer",))             # the key is shown this once
    keys = Keys.read(Path("keys.json")); keys.of("sk-...")     # the `Key`, or None

The file is a list of {"name", "sha256", "scopes", "requests_per_minute", "tokens_per_minute"}; 0 means no limit. A key
has 256 random bits, so a plain SHA-256 of it cannot be guessed (a password would need a slow hash).
"""
import hashlib
import hmac
import os
import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from meristem.core.errors import RequestError, nearest
from meristem.core.files import read_json, write_json

SCOPES = ("infer", "admin")             # ask the models; see metrics, runs and preferences of everyone
ENVIRONMENT = "MERISTEM_API_KEY"        # one key with both scopes, for containers
SHORTEST = 16                           # characters of a key given that way


@dataclass(frozen=True)
class Key:
    """Who may ask, and how much."""

    name: str
    sha256: str
    scopes: tuple[str, ...] = ("infer",)
    requests_per_minute: int = 0
    tokens_per_minute: int = 0


@dataclass
class Bucket:
    """A token bucket: `rate` a minute, a minute's worth at once; debts are paid off before anything goes on."""

    rate: float
    level: float = 0.0
    at: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.level = self.rate

    def wait(self, wanted: float) -> float:
        """Seconds until there is enough; 0 when there is."""
        now = time.monotonic()
        self.level, self.at = min(self.rate, self.level + (now - self.at) * self.rate / 60), now
        short = min(wanted, self.rate) - self.level
        return max(0.0, short * 60 / self.rate)

    def take(self, amount: float) -> None:
        """Use some; the level may fall below 0."""
        self.level -= amount


class Keys:
    """All keys of a server and what each has used in the last minute."""

    def __init__(self, keys: Sequence[Key]):
        self.keys = list(keys)
        self.requests = {k.name: Bucket(k.requests_per_minute) for k in keys if k.requests_per_minute}
        self.tokens = {k.name: Bucket(k.tokens_per_minute) for k in keys if k.tokens_per_minute}
        self.lock = threading.Lock()

    @classmethod
    def read(cls, path: Path | None) -> "Keys":
        """Those of a file and of the environment; RequestError names what is wrong with an entry."""
        keys = [_key(tree, path) for tree in _list(path)] if path else []
        if given := os.environ.get(ENVIRONMENT):
            if len(given) < SHORTEST:
                raise RequestError(f"{ENVIRONMENT} has {len(given)} characters; a key needs at least {SHORTEST}")
            keys.append(Key("environment", hashed(given), SCOPES))
        names = [key.name for key in keys]
        if twice := sorted({n for n in names if names.count(n) > 1}):
            raise RequestError(f"{path} has two keys named {twice[0]}")
        return cls(keys)

    def of(self, given: str) -> Key | None:
        """Whose key this is. Every key is compared, each in constant time."""
        found, digest = None, hashed(given)
        for key in self.keys:
            if hmac.compare_digest(key.sha256, digest):
                found = key
        return found

    def admit(self, key: Key) -> float:
        """Count a request; seconds until there may be another, 0 when this one goes on."""
        with self.lock:
            requests, tokens = self.requests.get(key.name), self.tokens.get(key.name)
            wait = max(requests.wait(1) if requests else 0.0, tokens.wait(1) if tokens else 0.0)
            if not wait and requests:
                requests.take(1)
            return wait

    def spend(self, name: str, tokens: int) -> None:
        """So many tokens were read and written for a key."""
        with self.lock:
            if bucket := self.tokens.get(name):
                bucket.wait(0)
                bucket.take(tokens)


def hashed(key: str) -> str:
    """SHA-256 of a key, hex."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def add(path: Path, name: str, scopes: Sequence[str] = ("infer",), requests_per_minute: int = 0,
        tokens_per_minute: int = 0) -> str:
    """Make a key and add it to the file; the key itself is returned and kept nowhere."""
    trees = _list(path) if path.exists() else []
    if any(tree.get("name") == name for tree in trees):
        raise RequestError(f"{path} has a key named {name} already; choose another name, or remove it there")
    given = f"sk-{secrets.token_urlsafe(32)}"
    tree = {"name": name, "sha256": hashed(given), "scopes": list(scopes), "requests_per_minute": requests_per_minute,
            "tokens_per_minute": tokens_per_minute}
    _key(tree, path)
    write_json(path, [*trees, tree])
    path.chmod(0o600)
    return given


def _list(path: Path) -> list[dict[str, Any]]:
    trees = read_json(path)
    if not isinstance(trees, list) or not all(isinstance(tree, dict) for tree in trees):
        raise RequestError(f"{path} is not a list of keys; make one: meristem serve --new-key NAME --keys {path}")
    return trees


def _key(tree: dict[str, Any], path: Path | None) -> Key:
    fields = {"name": str, "sha256": str, "scopes": list, "requests_per_minute": int, "tokens_per_minute": int}
    if unknown := sorted(set(tree) - set(fields)):
        raise RequestError(f"{path}: a key has no {unknown[0]!r}; {nearest(unknown[0], fields)}")
    for name, kind in fields.items():
        if name in tree and not isinstance(tree[name], kind):
            raise RequestError(f"{path}: {name} of a key is {tree[name]!r}, no {kind.__name__}")
    scopes, limits = tree.get("scopes", ["infer"]), [tree.get(f"{w}_per_minute", 0) for w in ("requests", "tokens")]
    if not tree.get("name") or len(tree.get("sha256", "")) != 64 or min(limits) < 0:
        raise RequestError(f"{path}: a key needs a name, a sha256 of 64 hex digits, and limits of 0 or more")
    if odd := [scope for scope in scopes if scope not in SCOPES]:
        raise RequestError(f"{path}: no scope {odd[0]!r}; {nearest(str(odd[0]), SCOPES)}")
    return Key(tree["name"], tree["sha256"].lower(), tuple(scopes), *limits)
