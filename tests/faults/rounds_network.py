"""Row F10: the network between tills and switch, and between the switch and its stores."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from fault_load import REPLY_TIMEOUT_S
from fault_proxy import Proxy, Weather
from fault_round import Scene, fault
from fault_stack import Apart
from fault_switch import eventually

from tests.client.terminal import Terminal

_WEATHER: dict[str, Weather] = {
    "cut": Weather(cut=0.02),
    "reset": Weather(reset=0.02),
    "half open": Weather(half_open=0.01),
    "one byte at a time": Weather(drip=True),
    "late": Weather(delay_s=(0.0, 0.08)),
    "late, cut and reset": Weather(delay_s=(0.0, 0.02), cut=0.01, reset=0.01),
}
_PATIENCE_S = {"half open": 1.5}
_MET_WITHIN_S = 20.0


class ThroughProxy:
    """Where tills connect when the network is in between."""

    def __init__(self, scene: Scene) -> None:
        self._switch = scene.switch
        self._port = scene.apart.to_switch.port

    def pos(self, entry: dict[str, Any]) -> Terminal:
        packager = self._switch.json["switch"]["packager"]
        return Terminal.connect(entry, "127.0.0.1", self._port, packager)


def _broken(proxies: Sequence[Proxy]) -> int:
    return sum(proxy.broken for proxy in proxies)


def bad_weather(where: str, kind: str) -> Callable[[Scene], None]:
    def play(scene: Scene) -> None:
        apart = scene.apart
        proxies: list[Proxy] = {
            "tills": [apart.to_switch],
            "Postgres": [apart.to_postgres],
            "cache": apart.to_cache,
        }[where]
        through = ThroughProxy(scene) if where == "tills" else None
        patience_s = _PATIENCE_S.get(kind, REPLY_TIMEOUT_S)
        weather = _WEATHER[kind]
        breaks = bool(weather.cut or weather.reset or weather.half_open)
        broken = _broken(proxies)
        with scene.load(through=through, reply_timeout_s=patience_s) as load:
            scene.pause(0.2, 0.4)
            for proxy in proxies:
                proxy.weather = weather
            answered = load.answered
            scene.pause(*((1.0, 1.5) if scene.brief else (2.0, 3.0)))
            end = time.monotonic() + _MET_WITHIN_S
            while breaks and _broken(proxies) == broken and time.monotonic() < end:
                time.sleep(0.05)  # on a busy machine there has been little to break
            scene.counts["answered meanwhile"] += load.answered - answered
            for proxy in proxies:
                proxy.calm()
            calm_at = time.monotonic()
            answered = load.answered
            eventually(lambda: load.answered > answered + 50, 60)
        scene.judge()
        scene.approved_again(f"no approval after the network to the {where} was {kind}", calm_at)
        happened = _broken(proxies) - broken
        scene.counts["broken connections"] += happened
        if breaks:
            scene.met(happened, "no connection was broken")

    return play


for _where in ("tills", "Postgres", "cache"):
    for _kind in _WEATHER:
        fault("F10", f"{_where}: {_kind}", Apart)(bad_weather(_where, _kind))
