"""Rows F6, F7, F8: Postgres killed, cut off, full, promoted."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import statistics
import time
from collections.abc import Callable
from typing import Any

import asyncpg
from fault_invariants import check, demand
from fault_round import Cannot, Scene, fault
from fault_stack import Apart
from fault_switch import WORKERS, eventually, sql

from tests.client.messages import Reply, Request
from tests.client.terminal import NoReplyError


def restarted(how: signal.Signals) -> Callable[[Scene], None]:
    def play(scene: Scene) -> None:
        moments = []
        with scene.load() as load:
            for _ in range(1 if scene.brief else 2):
                scene.pause(0.4, 0.8)
                moments.append(time.monotonic())
                os.kill(scene.switch.pid("postgres"), how)
                scene.counts["kills"] += 1
                answered = load.answered
                eventually(lambda n=answered: load.answered > n + 100, 90)
        seen = scene.judge()
        scene.met(seen.turned_away > 0, "nobody met it while it was away")
        waited_s = [
            attempt.replied_at - attempt.sent_at
            for asked in load.record
            for attempt in asked.attempts
            if attempt.reply is not None and attempt.reply.why == "STORE"
        ]
        scene.measure("91 while Postgres is away, median", statistics.median(waited_s))
        for moment in moments:
            scene.approved_again(f"no approval after {how.name} of Postgres", moment)

    return play


fault("F6", "SIGKILL of the postmaster")(restarted(signal.SIGKILL))
fault("F6", "SIGQUIT (immediate) of the postmaster")(restarted(signal.SIGQUIT))
fault("F6", "SIGINT (fast) of the postmaster")(restarted(signal.SIGINT))

_OF_THE_SWITCH = "from pg_stat_activity where usename = 'cardswitch_app'"


@fault("F6", "backends terminated in the middle of what they do")
def terminated(scene: Scene) -> None:
    with scene.load():
        for _ in range(12 if scene.brief else 30):
            time.sleep(0.06)
            found = sql(
                scene.switch.postgres_url,
                f"select pg_terminate_backend(pid) {_OF_THE_SWITCH} and state = 'active'",
            )
            scene.counts["terminated backends"] += len(found)
    scene.judge()
    scene.met(scene.counts["terminated backends"], "no backend was busy")


@fault("F6", "everything of Postgres stands still for a while")
def still(scene: Scene) -> None:
    with scene.load() as load:
        scene.pause(0.3, 0.6)
        postmaster = scene.switch.pid("postgres")
        children = f"/proc/{postmaster}/task/{postmaster}/children"
        with contextlib.ExitStack() as stack, open(children) as file:
            for pid in (postmaster, *map(int, file.read().split())):
                with contextlib.suppress(ProcessLookupError):
                    stack.enter_context(scene.switch.stopped(pid))
                    scene.counts["stops"] += 1
            scene.pause(1.0, 1.5 if scene.brief else 4.0)
        going_on = time.monotonic()
        answered = load.answered
        eventually(lambda: load.answered > answered + 100, 60)
    scene.judge()
    scene.approved_again("no approval after Postgres stood still", going_on)


async def take_all(url: str) -> list[Any]:
    """Connections until the server has none left to give."""
    taken = []
    with contextlib.suppress(asyncpg.TooManyConnectionsError):
        while True:
            taken.append(await asyncpg.connect(url, timeout=10))
    return taken


@fault("F6", "no connection left to be had")
def no_connection_left(scene: Scene) -> None:
    async def occupy() -> None:
        taken = await take_all(scene.switch.postgres_url)
        scene.counts["taken connections"] += len(taken)
        try:
            for worker in scene.chance.sample(scene.switch.workers, 2):
                os.kill(worker, signal.SIGKILL)
                scene.counts["kills"] += 1
            # the slots of the dead are taken, too, before those who follow them come
            taken += await take_all(scene.switch.postgres_url)
            await asyncio.sleep(1.5)
        finally:
            for connection in taken:
                connection.terminate()

    with scene.load() as load:
        scene.pause(0.2, 0.4)
        asyncio.run(occupy())
        answered = load.answered
        eventually(lambda: load.answered > answered + 100, 60)
    scene.switch.until_whole()
    scene.judge()


@fault("F6", "batches that outlive their workers", Apart)
def outlived(scene: Scene) -> None:
    """Backends stand still, batches are sent to them, their workers die: then they go on.

    Meanwhile the repeats are at other workers, which cannot see what is about to be committed.
    A backend that stands still may hold a lock of the server itself, and then no connection and
    no statement of anybody gets on: nothing is asked of Postgres until all of them go on.
    """
    url = scene.switch.postgres_url
    went_in = 0
    with scene.load():
        for victims, held_s in ((4, 0.4), (2, 0.6), (4, 0.4), (4, 1.2), *[(4, 0.5)] * 4):
            if went_in and (scene.brief or scene.counts["kills"] > 12):
                break
            scene.switch.until_whole()
            scene.pause(0.2, 0.4)
            lanes = sql(url, f"select pid {_OF_THE_SWITCH} and query ~ 'append_batch|card_state'")
            newest_run = int(sql(url, "select last_value from run_number")[0][0])
            with contextlib.ExitStack() as stack:
                for lane in scene.chance.sample(lanes, len(lanes) * 3 // 4):
                    with contextlib.suppress(ProcessLookupError):
                        stack.enter_context(scene.switch.stopped(lane["pid"]))
                time.sleep(0.15)
                for worker in scene.chance.sample(scene.switch.workers, victims):
                    os.kill(worker, signal.SIGKILL)
                    scene.counts["kills"] += 1
                dead_at = time.time()
                time.sleep(held_s)
            if victims == WORKERS:
                scene.switch.until_whole()
                went_in += committed_after(url, newest_run, dead_at)
    seen = scene.judge()
    scene.met(seen.unanswered > 0, "no request was hit")
    scene.met(went_in, "no batch of a dead worker went in")
    scene.counts["links of dead workers"] += went_in


def committed_after(url: str, newest_run: int, moment: float) -> int:
    """Links of workers of these runs, all dead by then, that were committed after that moment."""
    (found,) = sql(
        url,
        f"select count(*) from link where batch_id >> 40 <= {newest_run}"
        f" and pg_xact_commit_timestamp(xid::xid) > to_timestamp({moment})",
    )
    return int(found[0])


# -- with a standby that a commit waits for ------------------------------------------------------

_WAITING = f"{_OF_THE_SWITCH} and wait_event = 'SyncRep'"


def with_standby(scene: Scene) -> Apart:
    apart = scene.apart
    apart.with_standby()
    apart.primary.settings(synchronous_standby_names="standby")
    return apart


def cut_short(function: str) -> Callable[[Scene], None]:
    def play(scene: Scene) -> None:
        """The wait for the standby is cut, then the primary is lost: who was told what?

        What is only on the primary must not have been told to anybody.
        """
        apart = with_standby(scene)
        with scene.load() as load:
            scene.pause(0.4, 0.8)
            apart.standby.settings(primary_conninfo="")  # it receives nothing from here on
            deadline = time.monotonic() + 1.5
            while time.monotonic() < deadline:
                found = sql(apart.primary.url, f"select {function}(pid) {_WAITING}")
                scene.counts["cut commits"] += len(found)
                time.sleep(0.02)
            apart.primary.end()
            scene.counts["kills"] += 1
            lost_at = time.monotonic()
            apart.fail_over()
            scene.counts["promotions"] += 1
            answered = load.answered
            eventually(lambda: load.answered > answered + 100, 60)
        scene.met(scene.counts["cut commits"], "no commit waited for the standby")
        scene.switch.until_whole()
        scene.judge()
        scene.approved_again("no approval after failover to the standby", lost_at)

    return play


fault("F7", "pg_cancel_backend in SyncRep, then failover", Apart)(cut_short("pg_cancel_backend"))
fault("F7", "pg_terminate_backend in SyncRep, then failover", Apart)(
    cut_short("pg_terminate_backend")
)


@fault("F7", "repeats at other workers while the wait for the standby is cut", Apart)
def told_elsewhere(scene: Scene) -> None:
    """The link can be seen by everybody and is on no standby: nobody may be told of it yet."""
    apart = with_standby(scene)
    url, switch = apart.primary.url, scene.switch
    card = switch.cards.active()
    with contextlib.ExitStack() as stack:
        lines = [stack.enter_context(switch.pos()) for _ in range(8)]
        demand(lines[0].load(card, 5).code == "00", "a load")
        apart.standby.settings(primary_conninfo="")
        eventually(lambda: not sql(url, "select pid from pg_stat_replication"))
        links = "select count(*) from link"
        before = sql(url, links)[0][0]
        sale = lines[0].make.redeem(card, 100)
        lines[0].send(sale)
        way = scene.chance.choice(["pg_cancel_backend", "pg_terminate_backend"])

        def cut() -> bool:
            """Whoever waits: what comes first may be another commit, as of the projector."""
            for row in sql(url, f"select pid {_WAITING}"):
                sql(url, f"select {way}({row['pid']})")
            return bool(sql(url, links)[0][0] > before)

        eventually(cut)
        scene.pause(1.1, 1.3)  # the mark in the cache runs out: other workers may have the card
        for line in lines[1:]:
            line.send(line.make.repeat(sale))
        deadline = time.monotonic() + 2.5
        for line, request in ((lines[0], sale), *((line, sale) for line in lines[1:])):
            line.timeout_s = max(0.05, deadline - time.monotonic())
            with contextlib.suppress(NoReplyError):
                reply = line.receive(line.make.repeat(request))
                demand(reply.code == "91", "told of what a failover would lose", way, reply)
        scene.counts["repeats held back"] += len(lines) - 1
    died = len(switch.events("worker_died"))
    apart.primary.end()
    scene.counts["kills"] += 1
    apart.fail_over()
    scene.counts["promotions"] += 1
    heard = eventually(lambda: settled(scene, sale), 60)
    # all begin anew, with a new prefix in the cache, also those who had nothing to do meanwhile
    everybody = set(range(WORKERS))
    eventually(lambda: {x["worker"] for x in switch.events("worker_died")[died:]} == everybody)
    switch.until_whole()
    with switch.pos() as line:
        (link,) = sql(apart.primary.url, f"select amount_minor from link where tx = '{heard.tx}'")
        demand(heard.code == "00" and link["amount_minor"] == -100, "the sale", heard)
        demand(line.balance(card).available_minor == 10_005 - 100, "the balance")
    check(apart.primary.url, [])


def settled(scene: Scene, sale: Request) -> Reply | None:
    """A repeat's answer; the workers begin anew meanwhile, with the new server's epoch."""
    with contextlib.suppress(OSError, NoReplyError), scene.switch.pos() as line:
        reply = line.exchange(line.make.repeat(sale))
        return None if reply.code == "91" else reply
    return None


@fault("F7", "the standby lost, and back", Apart)
def standby_lost(scene: Scene) -> None:
    apart = with_standby(scene)
    with scene.load() as load:
        scene.pause(0.3, 0.6)
        apart.standby.end()
        scene.counts["kills"] += 1
        time.sleep(1.0)
        waiting = sql(apart.primary.url, f"select pid {_WAITING}")
        scene.counts["waiting commits"] += len(waiting)
        apart.standby.start()
        answered = load.answered
        eventually(lambda: load.answered > answered + 100, 60)
    scene.met(scene.counts["waiting commits"], "no commit waited for the standby")
    scene.judge()
    apart.primary.settings(synchronous_standby_names=None)


@fault("F7", "a standby that lags is promoted, and must not be believed", Apart)
def lagging(scene: Scene) -> None:
    apart = scene.apart
    standby = apart.with_standby()
    apart.primary.settings(synchronous_standby_names=None)
    with scene.load() as load:
        scene.pause(0.3, 0.6)
        standby.settings(primary_conninfo="")
        answered = load.answered
        eventually(lambda: load.answered > answered + 100, 60)
        # told to the tills, and on the primary alone, which goes away
        apart.to_postgres.turn_to(standby.socket)
        apart.primary.end()
        scene.counts["kills"] += 1
        lost_at = time.monotonic()
        standby.promote()
        scene.counts["promotions"] += 1
        scene.pause(2.0, 3.0)
        approved = [
            attempt
            for asked in load.record
            for attempt in list(asked.attempts)
            if attempt.sent_at > lost_at and attempt.reply and attempt.reply.code == "00"
        ]
        demand(not approved, f"{len(approved)} approvals of a server that lags")
        said = eventually(lambda: "JournalBehind" in scene.switch.log.read_text())
        scene.met(said, "nobody looked at the server that lags")
        apart.primary.start()
        apart.to_postgres.turn_to(apart.primary.socket)
        back_at = time.monotonic()
        answered = load.answered
        eventually(lambda: load.answered > answered + 100, 60)
    scene.switch.until_whole()
    scene.judge()
    scene.approved_again("no approval after the true primary was back", back_at)
    apart.drop_standby()


@fault("F8", "the disk of the log full", Apart)
def disk_full(scene: Scene) -> None:
    apart = scene.apart
    if apart.cannot_fill:
        raise Cannot(apart.cannot_fill)
    ballast = apart.log_directory / "ballast"
    with scene.load() as load:
        scene.pause(0.3, 0.6)
        space = os.statvfs(apart.log_directory)
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, space.f_bavail * space.f_frsize)
        full_at = time.monotonic()
        scene.counts["disks filled"] += 1
        with contextlib.suppress(OSError, asyncpg.PostgresError, TimeoutError):
            while apart.primary.alive and time.monotonic() < full_at + 20:
                sql(apart.primary.url, "select pg_switch_wal()")
        scene.met(not apart.primary.alive or "No space left" in apart.primary.log.read_text(), "")
        scene.pause(0.5, 1.0)
        ballast.unlink()
        room_at = time.monotonic()
        apart.primary.start()
        answered = load.answered
        eventually(lambda: load.answered > answered + 100, 60)
    scene.judge()
    scene.approved_again("no approval after there was room again", room_at)
