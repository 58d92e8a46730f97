"""tau-bench's retail shop: its database, its tools, and what an agent did in 69 recorded dialogues.

    shop = Shop.open(FOLDER); loop.run(policy, shop.tools(), messages, allow=ACTING); shop.tables

Yao et al. 2024, https://arxiv.org/abs/2406.12045. FOLDER holds users.json.gz, orders.json.gz, products.json.gz and
few_shot.jsonl.gz. The dialogues show what tools returned and not how they were called; `recorded` finds the calls whose
results those are, and so proves the tools as well: nearly every result is reproduced as it was written.
"""
import copy
import gzip
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meristem.core.errors import RequestError
from meristem.generate.agents.tools import Tool

TURN = re.compile(r"^(user|assistant|tool): ", re.MULTILINE)
TEXT = {"type": "string"}
LIST = {"type": "array", "items": TEXT, "minItems": 1}
PLACE = dict.fromkeys(("address1", "address2", "city", "state", "country", "zip"), TEXT)
ACTING = ("cancel_pending_order", "modify_pending_order_items", "modify_pending_order_address",
          "modify_pending_order_payment", "modify_user_address", "return_delivered_order_items",
          "exchange_delivered_order_items")
ITEMS = {"order_id": TEXT, "item_ids": LIST, "payment_method_id": TEXT}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "find_user_id_by_email": {"email": TEXT},
    "find_user_id_by_name_zip": {"first_name": TEXT, "last_name": TEXT, "zip": TEXT},
    "get_user_details": {"user_id": TEXT}, "get_order_details": {"order_id": TEXT},
    "get_product_details": {"product_id": TEXT}, "list_all_product_types": {},
    "cancel_pending_order": {"order_id": TEXT, "reason": {"enum": ["no longer needed", "ordered by mistake"]}},
    "modify_pending_order_items": {**ITEMS, "new_item_ids": LIST},
    "modify_pending_order_address": {"order_id": TEXT, **PLACE},
    "modify_pending_order_payment": {"order_id": TEXT, "payment_method_id": TEXT},
    "modify_user_address": {"user_id": TEXT, **PLACE}, "return_delivered_order_items": ITEMS,
    "exchange_delivered_order_items": {**ITEMS, "new_item_ids": LIST}}


@dataclass
class Shop:
    """Tables by name: users, orders, products."""

    tables: dict[str, dict[str, Any]]

    @classmethod
    def open(cls, folder: Path) -> "Shop":
        """As it is before anybody calls."""
        return cls({name: json.loads(gzip.decompress((folder / f"{name}.json.gz").read_bytes()))
                    for name in ("users", "orders", "products")})

    def again(self) -> "Shop":
        """A copy that goes its own way."""
        return Shop(copy.deepcopy(self.tables))

    def tools(self) -> list[Tool]:
        """All tools of the shop."""
        return [Tool(name, name.replace("_", " "), {"type": "object", "properties": fields, "required": list(fields),
                                                    "additionalProperties": False},
                     self._runner(name), private=True, acts=name in ACTING) for name, fields in ARGUMENTS.items()]

    def _runner(self, name: str) -> Callable[[dict[str, Any]], str]:
        def run(arguments: dict[str, Any]) -> str:
            made = self.call(name, arguments)
            return made if isinstance(made, str) else json.dumps(made)
        return run

    def call(self, name: str, a: Mapping[str, Any]) -> Any:
        """What a tool returns, which is also what it changed; RequestError for what the shop does not do."""
        users, orders, products = (self.tables[key] for key in ("users", "orders", "products"))
        if name.startswith("find_user"):
            wanted = {"email": a["email"]} if "email" in a else {
                "first": a["first_name"], "last": a["last_name"], "zip": a["zip"]}
            for user, facts in users.items():
                have = {"email": facts["email"], "first": facts["name"]["first_name"],
                        "last": facts["name"]["last_name"], "zip": facts["address"]["zip"]}
                if all(str(have[key]).lower() == str(value).lower() for key, value in wanted.items()):
                    return user
            raise RequestError("user not found")
        if name == "list_all_product_types":
            return dict(sorted((p["name"], p["product_id"]) for p in products.values()))
        if name in ("get_user_details", "get_order_details", "get_product_details", "modify_user_address"):
            others = {"get_order_details": (orders, "order_id"), "get_product_details": (products, "product_id")}
            table, key = others.get(name, (users, "user_id"))
            if a[key] not in table:
                raise RequestError(f"{key.removesuffix('_id')} not found")
            if name == "modify_user_address":
                users[a["user_id"]]["address"] = {key: a[key] for key in PLACE}
            return table[a[key]]
        if a["order_id"] not in orders:
            raise RequestError("order not found")
        order = orders[a["order_id"]]
        status = "delivered" if "delivered" in name else "pending"
        if not order["status"].startswith(status):
            raise RequestError(f"non-{status} order cannot be changed so")
        return self._change(name, a, order, users[order["user_id"]])

    def _change(self, name: str, a: Mapping[str, Any], order: dict[str, Any], user: dict[str, Any]) -> Any:
        paid = order["payment_history"][0]
        if name == "modify_pending_order_address":
            order["address"] = {key: a[key] for key in PLACE}
            return order
        if name == "cancel_pending_order":
            refunds = []
            for payment in order["payment_history"]:
                refunds.append({**payment, "transaction_type": "refund"})
                self._gift(user, payment["payment_method_id"], payment["amount"])
            order.update(status="cancelled", cancel_reason=a["reason"])
            order["payment_history"] += refunds
            return order
        method = a["payment_method_id"]
        if method not in user["payment_methods"]:
            raise RequestError("payment method not found")
        if name == "modify_pending_order_payment":
            amount = paid["amount"]
            order["payment_history"] += [
                {"transaction_type": "payment", "amount": amount, "payment_method_id": method},
                {"transaction_type": "refund", "amount": amount, "payment_method_id": paid["payment_method_id"]}]
            self._gift(user, method, -amount)
            self._gift(user, paid["payment_method_id"], amount)
            return order
        ids = [item["item_id"] for item in order["items"]]
        if any(a["item_ids"].count(one) > ids.count(one) for one in a["item_ids"]):
            raise RequestError("some item not found")
        if name == "return_delivered_order_items":
            if method != paid["payment_method_id"] and "gift_card" not in method:
                raise RequestError("payment method should be either the original payment method or a gift card")
            order.update(status="return requested", return_items=sorted(a["item_ids"]), return_payment_method_id=method)
            return order
        if len(a["item_ids"]) != len(a["new_item_ids"]):
            raise RequestError("the number of items to be exchanged should match")
        changed, difference = [], 0.0
        for old, new in zip(a["item_ids"], a["new_item_ids"], strict=True):
            item = next(item for item in order["items"] if item["item_id"] == old)
            variant = self.tables["products"][item["product_id"]]["variants"].get(new)
            if variant is None or not variant["available"]:
                raise RequestError(f"new item {new} not found or available")
            difference += variant["price"] - item["price"]
            changed.append((item, variant))
        if name == "exchange_delivered_order_items":
            order.update(status="exchange requested", exchange_items=sorted(a["item_ids"]),
                         exchange_new_items=sorted(a["new_item_ids"]), exchange_payment_method_id=method,
                         exchange_price_difference=round(difference, 2))
            return order
        for item, variant in changed:
            item.update(item_id=variant["item_id"], price=variant["price"], options=variant["options"])
        order["payment_history"].append({"transaction_type": "payment" if difference > 0 else "refund",
                                         "amount": abs(difference), "payment_method_id": method})
        self._gift(user, method, -difference)
        order["status"] = "pending (item modified)"
        return order

    @staticmethod
    def _gift(user: dict[str, Any], method: str, amount: float) -> None:
        if "gift_card" in method:
            card = user["payment_methods"][method]
            card["balance"] = round(card["balance"] + amount, 2)


@dataclass(frozen=True)
class Dialogue:
    """What a user said, what an agent did about it, and how many of the recorded results our tools return."""

    said: list[str]
    calls: list[tuple[str, dict[str, Any]]]
    results: int                        # of tools, errors and sums left out
    equal: int


def recorded(folder: Path) -> list[Dialogue]:
    """Every dialogue with the calls that explain its results."""
    start = Shop.open(folder)
    out = []
    for line in gzip.decompress((folder / "few_shot.jsonl.gz").read_bytes()).decode().splitlines():
        turns = TURN.split(json.loads(line)["messages_display"])[1:]
        shop, said, calls, results, equal = start.again(), list[str](), list[tuple[str, dict[str, Any]]](), 0, 0
        for who, text in zip(turns[::2], (t.strip() for t in turns[1::2]), strict=True):
            if who == "user":
                said.append(text)
            found = _explained(shop, text, " ".join(said)) if who == "tool" else None
            if found is None:
                continue
            results += 1
            try:
                same = _plain(shop.call(*found)) == _plain(_read(text))
            except RequestError:
                continue
            equal += same
            calls.append(found)
        out.append(Dialogue(said, calls, results, equal))
    return out


def _explained(shop: Shop, text: str, said: str) -> tuple[str, dict[str, Any]] | None:
    """The call that a result is of; None for errors, sums and empty results."""
    value = _read(text)
    if isinstance(value, str):
        user = shop.tables["users"].get(value)
        if user is None:
            return None
        if user["email"].lower() in said.lower():
            return "find_user_id_by_email", {"email": user["email"]}
        return "find_user_id_by_name_zip", {**user["name"], "zip": user["address"]["zip"]}
    if not isinstance(value, dict):
        return None
    if "variants" in value:
        return "get_product_details", {"product_id": value["product_id"]}
    if "email" in value:
        name = next(n for n, u in shop.tables["users"].items() if u["email"] == value["email"])
        if _plain(value["address"]) == _plain(shop.tables["users"][name]["address"]):
            return "get_user_details", {"user_id": name}
        return "modify_user_address", {"user_id": name, **_plain(value["address"])}
    return _order(shop, value) if "order_id" in value else ("list_all_product_types", {})


def _order(shop: Shop, now: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The call that makes an order what it is now."""
    name, was = now["order_id"], shop.tables["orders"][now["order_id"]]
    paid, status = now["payment_history"][-1]["payment_method_id"], now["status"]
    if now == was:
        return "get_order_details", {"order_id": name}
    if status == was["status"]:
        if now["address"] != was["address"]:
            return "modify_pending_order_address", {"order_id": name, **now["address"]}
        return "modify_pending_order_payment", {
            "order_id": name, "payment_method_id": now["payment_history"][-2]["payment_method_id"]}
    if status == "cancelled":
        return "cancel_pending_order", {"order_id": name, "reason": now["cancel_reason"]}
    if status == "return requested":
        return "return_delivered_order_items", {"order_id": name, "item_ids": now["return_items"],
                                                "payment_method_id": now["return_payment_method_id"]}
    if status == "exchange requested":
        pairs = _paired(shop, was, now["exchange_items"], now["exchange_new_items"])
        return "exchange_delivered_order_items", {"order_id": name, **pairs,
                                                  "payment_method_id": now["exchange_payment_method_id"]}
    changed = [(a["item_id"], b["item_id"]) for a, b in zip(was["items"], now["items"], strict=True) if a != b]
    changed = changed or [(was["items"][0]["item_id"],) * 2]   # exchanged for itself: the shop lets them
    return "modify_pending_order_items", {"order_id": name, "item_ids": [a for a, _ in changed],
                                          "new_item_ids": [b for _, b in changed], "payment_method_id": paid}


def _paired(shop: Shop, order: dict[str, Any], old: list[str], new: list[str]) -> dict[str, list[str]]:
    """Items and what each is exchanged for: of the same product."""
    left, ids, others = list(new), list[str](), list[str]()
    for one in old:
        product = next(item["product_id"] for item in order["items"] if item["item_id"] == one)
        fits = [n for n in left if n in shop.tables["products"][product]["variants"]]
        if fits:
            left.remove(fits[0])
            ids.append(one)
            others.append(fits[0])
    return {"item_ids": ids, "new_item_ids": others}


def _read(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _plain(value: Any) -> Any:
    """The dialogues call a user's state a province."""
    if isinstance(value, dict):
        return {"state" if key == "province" else key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value
