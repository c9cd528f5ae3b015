"""Rows F4 and F5: the cache lost, silent, full, wrong, and two of them that both say yes."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator

import redis
from fault_round import Scene, fault
from fault_stack import Apart
from fault_switch import eventually

_STALE = "cardswitch_batch_refusals_total"


@fault("F4", "kill -9, started again empty")
def killed(scene: Scene) -> None:
    switch = scene.switch
    with scene.load() as load:
        moments = []
        for _ in range(3):
            scene.pause(0.3, 0.6)
            restarts = len(switch.events("store_restarted"))
            moments.append(time.monotonic())
            os.kill(switch.pid("redis"), signal.SIGKILL)
            scene.counts["kills"] += 1
            eventually(lambda n=restarts: len(switch.events("store_restarted")) > n)
            answered = load.answered
            eventually(lambda n=answered: load.answered > n + 20, 60)
    scene.judge()
    for moment in moments:
        scene.approved_again("no approval after the cache was lost", moment)


def again_and_again(*command: str) -> Callable[[Scene], None]:
    def play(scene: Scene) -> None:
        stale = scene.switch.metric(_STALE)
        with scene.load(), scene.switch.redis() as cache:
            for _ in range(25 if scene.brief else 60):
                time.sleep(0.03)
                cache.execute_command(*command)
                scene.counts["cache faults"] += 1
        scene.judge()
        scene.counts["refused batches"] += int(scene.switch.metric(_STALE) - stale)

    return play


fault("F4", "FLUSHALL again and again")(again_and_again("FLUSHALL"))
fault("F4", "FUNCTION FLUSH again and again")(again_and_again("FUNCTION", "FLUSH"))
fault("F4", "all clients thrown out again and again")(
    again_and_again("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
)


@fault("F4", "SIGSTOP for 1.5 s")
def silent(scene: Scene) -> None:
    with scene.load() as load:
        scene.pause(0.3, 0.5)
        with scene.switch.stopped(scene.switch.pid("redis")):
            stopped_at = time.monotonic()
            scene.counts["stops"] += 1
            answered = load.answered
            time.sleep(1.5)
            scene.met(load.answered > answered, "it did not go on without")
        time.sleep(0.6)
    scene.judge()
    scene.approved_again("no approval after the cache fell silent", stopped_at)


@fault("F4", "CLIENT PAUSE: alive, and answers nobody")
def paused(scene: Scene) -> None:
    with scene.load(), scene.switch.redis() as cache:
        for _ in range(2):
            scene.pause(0.3, 0.5)
            cache.execute_command("CLIENT", "PAUSE", "700", "ALL")
            scene.counts["cache faults"] += 1
            time.sleep(0.7)
    scene.judge()


@contextlib.contextmanager
def configured(cache: redis.Redis, **values: str) -> Iterator[None]:
    before = {name: cache.config_get(name)[name] for name in values}
    for name, value in values.items():
        cache.config_set(name, value)
    try:
        yield
    finally:
        for name in reversed(before):
            cache.config_set(name, before[name])


def _full_counts(cache: redis.Redis) -> tuple[int, int]:
    """How many writes the cache has refused, and how many keys thrown away, as it was full."""
    refused = cache.info("errorstats").get("errorstat_OOM", {"count": 0})
    return int(refused["count"]), int(cache.info("stats")["evicted_keys"])


def full(policy: str) -> Callable[[Scene], None]:
    def play(scene: Scene) -> None:
        with scene.switch.redis() as cache:
            full_at = str(cache.info("memory")["used_memory"] + 4096)
            limits = {"maxmemory-policy": policy, "maxmemory": full_at}
            refused, evicted = _full_counts(cache)
            with scene.load() as load, configured(cache, **limits):
                scene.counts["cache faults"] += 1
                answered = load.answered
                met_by = 0 if policy == "noeviction" else 1
                before = (refused, evicted)[met_by]
                # memory that was free for other reasons is used up first
                eventually(lambda: _full_counts(cache)[met_by] > before, 60)
                eventually(lambda: load.answered > answered + 300, 60)
                after = _full_counts(cache)
            scene.counts["refused writes"] += after[0] - refused
            scene.counts["evicted keys"] += after[1] - evicted
        scene.judge()

    return play


fault("F4", "full, noeviction: every write refused")(full("noeviction"))
fault("F4", "full, allkeys-lru: states and marks evicted")(full("allkeys-lru"))


@fault("F4", "keys of another type, and states of another card")
def planted(scene: Scene) -> None:
    with scene.load(), scene.switch.redis() as cache:
        for _ in range(25):
            time.sleep(0.04)
            keys = [key for key in cache.scan_iter(count=1000) if key.rpartition(b"}")[2].isdigit()]
            scene.chance.shuffle(keys)
            for key, other in zip(keys[:6], keys[6:12], strict=False):
                with contextlib.suppress(redis.ResponseError):
                    if scene.chance.random() < 0.5:
                        cache.delete(key)
                        cache.lpush(key, "a list")
                    else:
                        cache.copy(other, key, replace=True)
                scene.counts["planted keys"] += 1
    scene.judge()
    scene.met(scene.counts["planted keys"] > 20, "nothing was planted")


@fault("F4", "gone for good, four workers over the same cards", Apart)
def gone(scene: Scene) -> None:
    """Only the rows to keep them apart."""
    apart = scene.apart
    stale = scene.switch.metric(_STALE)
    with scene.load() as load:
        time.sleep(0.4)
        os.kill(apart.caches[0].pids["redis"], signal.SIGKILL)
        scene.counts["kills"] += 1
        killed_at = time.monotonic()
        answered = load.answered
        eventually(lambda: load.answered > answered + 400, 60)
        eventually(lambda: scene.switch.metric(_STALE) > stale, 60)
        apart.revive()
        time.sleep(0.6)
    scene.judge()
    scene.approved_again("no approval after the cache was lost", killed_at)
    scene.counts["refused batches"] += int(scene.switch.metric(_STALE) - stale)


def promoted(behind: bool) -> Callable[[Scene], None]:
    def play(scene: Scene) -> None:
        """Worker 0 stays with the old primary, the others ask the replica that was promoted."""
        apart = scene.apart
        old, new = (redis.Redis.from_url(stores.redis_url) for stores in apart.caches)
        wire = apart._proxy(apart._cache_socket(0))
        stale = scene.switch.metric(_STALE)
        try:
            old.config_set("repl-diskless-sync-delay", "0")
            new.execute_command("REPLICAOF", "127.0.0.1", str(wire.port))
            eventually(lambda: new.info("replication")["master_link_status"] == "up", 30)
            with scene.load() as load:
                scene.pause(0.3, 0.6)
                wire.weather.stalled = behind
                scene.pause(0.4, 0.7)
                new.execute_command("REPLICAOF", "NO", "ONE")
                apart.all_to_cache(1, proxies=(1,))
                split_at = time.monotonic()
                scene.counts["promotions"] += 1
                answered = load.answered
                wanted = 200 if scene.brief else 600
                eventually(lambda: load.answered > answered + wanted, 60)
                eventually(lambda: scene.switch.metric(_STALE) > stale, 60)
                apart.all_to_cache(0)
                time.sleep(0.3)
            scene.judge()
            scene.approved_again("no approval after a replica was promoted", split_at)
            scene.counts["refused batches"] += int(scene.switch.metric(_STALE) - stale)
        finally:
            wire.stop()
            new.execute_command("REPLICAOF", "NO", "ONE")
            new.flushall()
            old.close()
            new.close()

    return play


fault("F5", "a replica that lags is promoted, the old primary still serves one", Apart)(
    promoted(behind=True)
)
fault("F5", "a replica is promoted, the old primary still serves one", Apart)(
    promoted(behind=False)
)
