"""Personal data and secrets: precision and recall on synthetic sentences, on planted secrets, and false alarms.

`python -m benchmarks.personal --data DATA`, with the folder pii-synth (microsoft/presidio-research). Recall: the
annotated spans of the kinds that have a form which are replaced whole; precision: replaced spans that touch an
annotated one; Wilson's 95 % intervals. Secrets: made by their issuers' forms and put into the standard library's
sources. False alarms: secrets and cards found in those sources as they are. Rates are CPU seconds of one core. `--peer
PYTHON` (an environment with presidio-analyzer and phonenumbers) has Presidio's own pattern recognisers on the same
sentences. `--tiny` takes 100 sentences and ten files.
"""
import argparse
import gzip
import json
import math
import random
import string
import subprocess
import time
from pathlib import Path
from typing import Any

from benchmarks.common import record
from meristem.corpus import find, spans
from meristem.corpus.stages import personal, secrets

KINDS = {"EMAIL_ADDRESS": "email", "CREDIT_CARD": "card", "IBAN_CODE": "iban", "IP_ADDRESS": "ip", "US_SSN": "ssn",
         "PHONE_NUMBER": "phone"}
PRESIDIO = """
import json, sys
from presidio_analyzer.predefined_recognizers import (CreditCardRecognizer, EmailRecognizer, IbanRecognizer,
                                                      IpRecognizer, PhoneRecognizer, UsSsnRecognizer)
made = [CreditCardRecognizer(), EmailRecognizer(), IbanRecognizer(), IpRecognizer(), UsSsnRecognizer(),
        PhoneRecognizer(supported_regions=("US", "GB", "DE", "FR", "IL", "IN", "CA", "BR"))]
for text in json.load(sys.stdin):
    found = [r for m in made for r in m.analyze(text, m.supported_entities, None)]
    print(json.dumps([[r.start, r.end, r.entity_type] for r in found if r.score >= 0.35]))
"""


def wilson(right: int, n: int) -> tuple[float, float, float]:
    """(share, low, high): the 95 % interval of a share."""
    if not n:
        return 0.0, 0.0, 1.0
    p, z = right / n, 1.96
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return round(p, 4), round((middle - half) / (1 + z * z / n), 4), round((middle + half) / (1 + z * z / n), 4)


def scores(rows: list[dict[str, Any]], ours: list[list[tuple[int, int, str]]]) -> dict[str, Any]:
    """Recall by kind and together, and precision."""
    hits: dict[str, list[bool]] = {}
    right = []
    for row, mine in zip(rows, ours, strict=True):
        for span in row["spans"]:
            if kind := KINDS.get(span["entity_type"]):
                whole = any(a <= span["start_position"] and b >= span["end_position"] for a, b, _ in mine)
                hits.setdefault(kind, []).append(whole)
        right += [any(a < s["end_position"] and s["start_position"] < b for s in row["spans"]) for a, b, _ in mine]
    every = [hit for some in hits.values() for hit in some]
    return {"precision": wilson(sum(right), len(right)), "replaced": len(right),
            "recall": wilson(sum(every), len(every)), "spans": len(every),
            "by_kind": {kind: (*wilson(sum(some), len(some)), len(some)) for kind, some in sorted(hits.items())}}


def planted(rng: random.Random) -> dict[str, str]:
    """One secret of each form."""
    def drawn(letters: str, n: int) -> str:
        return "".join(rng.choices(letters, k=n))
    word, big = string.ascii_letters + string.digits, string.ascii_uppercase + "234567"
    body = "\n".join(drawn(word + "+/", 64) for _ in range(12))
    return {"aws": f"AKIA{drawn(big, 16)}", "github": f"ghp_{drawn(word, 36)}", "slack": f"xoxb-{drawn(word, 40)}",
            "google": f"AIza{drawn(word + '_-', 35)}", "hugging face": f"hf_{drawn(string.ascii_letters, 34)}",
            "web token": f"eyJ{drawn(word, 30)}.eyJ{drawn(word, 60)}.{drawn(word, 43)}",
            "pem": f"-----BEGIN RSA PRIVATE KEY-----\n{body}\n-----END RSA PRIVATE KEY-----",
            "password": f'db_password = "{drawn(word + "!@#%", 16)}"',
            "address": f"postgres://app:{drawn(word, 14)}@db.acme.io"}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--peer", default="")
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    with gzip.open(args.data / "pii-synth" / "synth_dataset_v2.json.gz") as f:
        rows = json.load(f)[: 100 if args.tiny else None]
    found = [spans.found(row["full_text"], personal.PATTERNS) for row in rows]
    facts: dict[str, Any] = {"sentences": len(rows),
                             "ours": scores(rows, [[(s.start, s.stop, s.kind) for s in some] for some in found])}
    if args.peer:
        done = subprocess.run([args.peer, "-W", "ignore", "-c", PRESIDIO], capture_output=True, text=True,
                              input=json.dumps([row["full_text"] for row in rows]), check=True)
        facts["presidio_patterns"] = scores(rows, [[tuple(s) for s in json.loads(line)]
                                                   for line in done.stdout.splitlines()])
    paths = sorted(find.standard_library()[0].rglob("*.py"))[: 10 if args.tiny else 1500]
    texts, rng = [path.read_text(encoding="utf-8", errors="ignore") for path in paths], random.Random(0)
    rate, alarms = {}, 0
    for stage in (personal, secrets):
        began = time.process_time()
        alone = [spans.found(text, stage.PATTERNS) for text in texts]
        rate[stage.__name__.rpartition(".")[2]] = round(sum(map(len, texts)) / 1e6 / (time.process_time() - began), 1)
    alarms = sum(map(len, alone))
    hits: dict[str, list[bool]] = {}
    for text in texts:
        for kind, secret in planted(rng).items():
            at = text.find("\n") + 1
            whole = f"{text[:at]}{secret}\n{text[at:]}"
            secret = secret.split('"')[1] if '"' in secret else secret[15: -11] if "://" in secret else secret
            start = whole.index(secret)
            hits.setdefault(kind, []).append(any(s.start <= start and s.stop >= start + len(secret)
                                                 for s in spans.found(whole, secrets.PATTERNS)))
    every = [hit for some in hits.values() for hit in some]
    facts |= {"secrets": {"recall": wilson(sum(every), len(every)), "planted": len(every),
                          "by_form": {kind: wilson(sum(some), len(some))[0] for kind, some in hits.items()},
                          "false_alarms": alarms, "megabytes": round(sum(map(len, texts)) / 1e6, 1)},
              "mb_per_cpu_second": rate}
    print(json.dumps(facts)) if args.tiny else record("personal", facts)


if __name__ == "__main__":
    main()
