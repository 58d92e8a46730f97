"""What may be spent, or what is to be reached: seconds, FLOPs, dollars, or a loss.

    parse("10 h"), parse("1e15 FLOPs"), parse("50 dollars"), parse("loss 1.2")
    parse("50 dollars").priced(2.0).seconds                    # 90,000: at two dollars an hour
"""
import re
from dataclasses import dataclass, replace

from meristem.core.errors import RequestError

UNITS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
NUMBER = r"\d+(?:\.\d+)?(?:e[+-]?\d+)?"


@dataclass(frozen=True)
class Budget:
    """Exactly one of them is not 0. `loss` is in bits a byte on this machine, in nats a token on others."""

    seconds: float = 0.0
    flops: float = 0.0
    dollars: float = 0.0
    loss: float = 0.0

    def priced(self, price: float, devices: int = 1) -> "Budget":
        """Dollars as seconds of so many devices at `price` dollars an hour each; RequestError without a price."""
        if not self.dollars:
            return self
        if price <= 0:
            raise RequestError("how much is an hour? a budget of money needs --price DOLLARS (an hour, one device)")
        return replace(self, dollars=0.0, seconds=3600 * self.dollars / price / devices)


def parse(text: str) -> Budget:
    """A budget as people write it; RequestError shows the four ways."""
    plain = " ".join(text.lower().split())
    if found := re.fullmatch(rf"({NUMBER}) ?flops?", plain):
        made = Budget(flops=float(found[1]))
    elif found := re.fullmatch(rf"\$ ?({NUMBER})|({NUMBER}) ?(?:\$|dollars?|usd)", plain):
        made = Budget(dollars=float(found[1] or found[2]))
    elif found := re.fullmatch(rf"loss ?=? ?({NUMBER})", plain):
        made = Budget(loss=float(found[1]))
    else:
        try:
            return Budget(seconds=duration(plain))
        except RequestError:
            raise RequestError(f"{text!r} is no budget; write 10h, '1e15 FLOPs', '50 dollars' or 'loss 1.2'") from None
    if made == Budget():
        raise RequestError(f"a budget of {text!r} is nothing")
    return made


def duration(text: str) -> float:
    """'90s', '5m', '1h30m' or '300' as seconds; RequestError for anything else."""
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*(min|[smhd])?", text.strip())
    if not parts or re.sub(r"\s", "", text) != "".join(n + u for n, u in parts) or any(not u for _, u in parts[1:]):
        raise RequestError(f"{text!r} is not a duration; write 90s, 5m or 1h30m")
    return sum(float(number) * UNITS[unit or "s"] for number, unit in parts)
