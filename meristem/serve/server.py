"""Everything that a server holds: its models by name, who may ask, and what is measured."""
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from meristem.core.errors import nearest
from meristem.serve.errors import Refused
from meristem.serve.guard import Guard
from meristem.serve.loading import TextModel
from meristem.serve.metrics import Metrics
from meristem.serve.texts import Grammars

SHOWN = 200                             # names among which the nearest one is looked for


@dataclass
class Server:
    """The models of one process. `deadline`: seconds that a request may take."""

    texts: dict[str, TextModel]
    guard: Guard
    pictures: dict[str, Any] = field(default_factory=dict)     # serve.pictures.PictureModel by name
    deadline: float = 600.0
    runs: Path | None = None            # whose runs the page shows
    preferences: Path | None = None     # where it keeps which answers people prefer
    dev: bool = False                   # show /openapi.json and /docs
    static: Path = Path(__file__).parent / "static"
    grammars: Grammars = field(default_factory=Grammars)
    metrics: Metrics = field(init=False)
    started: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        self.metrics = Metrics(self)

    def start(self) -> None:
        """Start every engine."""
        for model in self.models().values():
            model.engine.start()

    def stop(self) -> None:
        """Stop every engine; what is running fails with one line."""
        for model in self.models().values():
            model.engine.stop()

    @property
    def ready(self) -> bool:
        """Whether every engine runs."""
        return all(m.engine.thread is not None and m.engine.thread.is_alive() and not m.engine.stopping
                   for m in self.models().values())

    def models(self) -> dict[str, Any]:
        """Every model by its name."""
        return {**self.texts, **self.pictures}

    def names(self) -> dict[str, Any]:
        """Every name that a request may give as its model, with the model."""
        out: dict[str, Any] = {}
        for name, model in self.models().items():
            out[name] = model
            out |= {f"{name}:{adapter}": model for adapter in model.adapters()}
        return out

    def text(self, request: Any, name: str) -> tuple[TextModel, str]:
        """The text model that a request names, and the adapter; the identity goes into its headers. `Refused`: 404."""
        if not self.texts:
            raise Refused(404, "this server has no model of text", "model_not_found", "model")
        base, _, adapter = name.partition(":")
        model = self.texts.get(base) if name else next(iter(self.texts.values()))
        if base in self.pictures:
            raise Refused(400, f"{base} is no model of text; it can: {', '.join(self.pictures[base].can)}",
                          "invalid_value", "model")
        if model is None or (adapter and (model.bank is None or not model.bank.knows(adapter))):
            raise Refused(404, f"there is no model {name[:200]!r}; {nearest(name[:200], list(self.names())[:SHOWN])}",
                          "model_not_found", "model")
        self.identify(request, model, adapter)
        return model, adapter

    def identify(self, request: Any, model: Any, adapter: str = "") -> None:
        """Put a model's identity into the answer's headers and the audit log."""
        facts = request.state.facts
        facts["model"] = f"{model.name}:{adapter}" if adapter else model.name
        more = {"x-meristem-adapter": adapter} if adapter.isascii() and adapter else {}
        facts["headers"] = {**model.identity.headers(), **more}

    def until(self) -> float:
        """time.monotonic() at which a request that begins now is given up."""
        return time.monotonic() + self.deadline

    def spent(self, request: Any, read: int, written: int) -> None:
        """So many tokens were read and written for a request: its key is charged."""
        facts = request.state.facts
        facts["read"], facts["written"] = facts.get("read", 0) + read, facts.get("written", 0) + written
        self.guard.keys.spend(request.state.client, read + written)
