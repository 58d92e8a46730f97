"""Pages whose owners reserved them: robots.txt and ai.txt of their host, their headers and their meta elements.

What a page says of itself is read with it (`read.convert`): `X-Robots-Tag` and `<meta name="robots">` with noai or
noimageai (DeviantArt's convention), `tdm-reservation: 1` as a header or a meta element (W3C's TDM Reservation
Protocol, 2024). What a host says comes from `hosts`, a file of JSON lines {"host": "example.org", "robots": TEXT of its
robots.txt (RFC 9309), "ai": TEXT of its ai.txt (Spawning's, in the same form)}: a page stays when every one of `agents`
may fetch it. `--stages opted_out:hosts=hosts.jsonl`.
"""
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.robotparser import RobotFileParser

from meristem.core.errors import RequestError
from meristem.corpus.stages.base import Batch, stamp

AGENTS = "CCBot,GPTBot,Google-Extended,ClaudeBot,anthropic-ai,Applebot-Extended,Bytespider,meta-externalagent"


@dataclass(frozen=True)
class Stage:
    """`hosts`: that file, or empty; `agents`: crawlers parted by commas whose prohibition counts."""

    hosts: str = ""
    agents: str = AGENTS

    def __call__(self, batch: Batch) -> Batch:
        """The batch with documents dropped by `opted_out`; the value says where it was stated."""
        rules, values = list(batch["rule"]), list(batch["value"])
        for n, facts in enumerate(batch["facts"]):
            if not rules[n] and (said := facts.get("opt_out") or self._refused(facts.get("url", ""))):
                rules[n], values[n] = "opted_out", said
        return {**batch, "rule": rules, "value": values}

    def _refused(self, url: str) -> str:
        """What of a host's files refuses a page, or ""."""
        if not self.hosts or not url:
            return ""
        try:
            host = urlsplit(url).hostname or ""
        except ValueError:
            return ""
        for name, parser in _files(self.hosts, stamp(self.hosts)).get(host, {}).items():
            for agent in self.agents.split(","):
                if not parser.can_fetch(agent.strip(), url):
                    return f"{name}.txt of {host}: {agent.strip()}"
        return ""


@lru_cache(maxsize=2)
def _files(path: str, changed: int) -> dict[str, dict[str, RobotFileParser]]:
    """The parsed files by host; RequestError names the line that is wrong."""
    out: dict[str, dict[str, RobotFileParser]] = {}
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"opted_out:hosts={path} cannot be read: {error}") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row: Any = json.loads(line)
            host, texts = str(row["host"]).lower(), {key: row[key] for key in ("robots", "ai") if row.get(key)}
            for key, text in texts.items():
                parser = RobotFileParser()
                parser.parse(text.splitlines())
                out.setdefault(host, {})[key] = parser
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RequestError(f"{path}:{number} is no line with host and robots or ai: {error}") from None
    return out
