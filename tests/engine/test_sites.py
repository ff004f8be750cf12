"""What placement is told: of holders alone where that is enough, aged, and with what was promised taken off."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from gateway.engine.demand import Demand
from gateway.engine.placement import STALE, place
from gateway.engine.sites import ENOUGH, Sites
from gateway.host import wire

SIZE = 100


class Host:
    """What a host has told, and when."""

    def __init__(self, *residents: wire.Resident, budget: int = 300, up: bool = True) -> None:
        self.up = up
        self.age = 0.0
        self.parked: dict[str, Any] = {}
        self.tell(*residents, budget=budget)

    def tell(self, *residents: wire.Resident, budget: int = 300) -> None:
        used = sum(each.bytes for each in residents if each.state != "waiting")
        self.residents = {each.digest: each for each in residents}
        self.residency = wire.Residency(list(residents), used, budget, 0, 0)


def resident(
    digest: str, idle: float = 0.0, *, state: str = "loaded", leases: int = 0, size: int = SIZE
) -> wire.Resident:
    return wire.Resident(digest, state, size, leases, False, idle)


def sites_of(*hosts: Host) -> Sites:
    return Sites(hosts, Demand())  # type: ignore[arg-type]  # all of a host that is looked at


def test_only_the_devices_that_have_it_are_asked_for_it() -> None:
    hosts = [Host(resident("a")), Host(resident("b")), Host(resident("a", state="loading"))]
    sites = sites_of(*hosts)
    assert (sites.holding("a"), sites.answering("a"), sites.several()) == ([0, 2], [0], ["a"])
    hosts[0].tell(resident("b"))
    sites.told(hosts[0])  # type: ignore[arg-type]  # as above
    assert (sites.holding("a"), sites.answering("a")) == ([2], [])
    assert (sites.holding("b"), sites.several()) == ([0, 1], ["b"])


def test_a_device_that_says_nothing_has_been_idle_all_the_while() -> None:
    """Where nothing changes nothing is told: what it told last is as old as it is."""
    silent, busy = Host(resident("a", 0.1), resident("b", 0.1), resident("c", 0.1)), Host(*map(resident, "def"))
    silent.age = STALE
    sites = sites_of(silent, busy)
    found = sites.some("x", SIZE)
    assert place(found, SIZE, 0.5) == 0
    assert (found[0].stale, found[1].stale) == (300, 0)


def test_what_was_promised_is_no_room_for_the_next_before_a_report_says_so() -> None:
    """Ten models that nobody holds, asked for at once after a device has died, are not all sent to one."""
    hosts = [Host(budget=500) for _ in range(2)]
    sites = sites_of(*hosts)
    for name in "abcdefghij":
        sites.assign(name, place(sites.some(name, SIZE), SIZE, 0.5), SIZE)
    assert [len([name for name in "abcdefghij" if sites.holding(name) == [index]]) for index in (0, 1)] == [5, 5]
    assert all(site.free == 0 for site in sites.some("x", SIZE))


def test_a_promise_ends_with_the_report_with_a_failure_and_with_the_host() -> None:
    host, other = Host(), Host()
    sites = sites_of(host, other)
    for digest in "abc":
        sites.assign(digest, 0, SIZE)
    assert sites.some("x", SIZE)[0].free == 0
    host.tell(resident("a", state="waiting"))
    sites.told(host)  # type: ignore[arg-type]  # as above
    assert sites.some("x", SIZE)[0].free == 0  # it waits for room, which is as good as taken
    sites.dismiss("b", host)  # type: ignore[arg-type]  # as above
    assert sites.some("x", SIZE)[0].free == SIZE
    sites.died(host)  # type: ignore[arg-type]  # as above
    assert sites.some("x", SIZE)[0].free == 2 * SIZE
    assert sites.holding("c") == []


def test_what_was_promised_for_a_request_that_was_refused_is_room_again() -> None:
    host = Host()
    sites = sites_of(host)
    sites.assign("a", 0, SIZE)
    sites.assign("b", 0, SIZE)
    sites.settled("a", host)  # type: ignore[arg-type]  # as above
    assert sites.some("x", SIZE)[0].free == 2 * SIZE


def test_how_long_is_that_of_the_last_one_that_would_have_to_go() -> None:
    long_and_short, middling = (
        Host(resident("a", 90.0), resident("b", 1.0), resident("c", 1.0)),
        Host(resident("d", 8.0), resident("e", 8.0), resident("f", 8.0)),
    )
    sites = sites_of(long_and_short, middling)
    assert [site.idle_seconds for site in sites.some("x", SIZE)] == [90.0, 8.0]
    assert [site.idle_seconds for site in sites.some("x", 2 * SIZE)] == [1.0, 8.0]
    sites.assign("y", 0, SIZE)
    assert [site.idle_seconds for site in sites.some("x", SIZE)] == [1.0, 8.0]


def test_an_adapter_that_nobody_uses_draws_no_model_to_its_device() -> None:
    """It is in a pool of its own, and frees next to nothing."""
    hosts = (
        Host(resident("a"), resident("b"), resident("c"), resident("small", 900.0, size=1)),
        Host(resident("d", 5.0), resident("e", 5.0), resident("f", 5.0)),
    )
    assert place(sites_of(*hosts).some("x", SIZE), SIZE, 0.5) == 1


def test_what_is_busy_counts_as_never_idle() -> None:
    busy, idle = Host(resident("a", 50.0, leases=1), budget=SIZE), Host(resident("b", 1.0), budget=SIZE)
    assert [site.idle_seconds for site in sites_of(busy, idle).some("x", SIZE)] == [0.0, 1.0]


def test_of_very_many_devices_only_some_are_looked_at_and_none_that_is_down_while_one_is_up() -> None:
    hosts = [Host(up=index % 3 > 0) for index in range(5 * ENOUGH)]
    found = sites_of(*hosts).some("x", SIZE)
    assert len({site.index for site in found}) == ENOUGH
    assert all(site.up for site in found)
    assert len(sites_of(*(Host(up=False) for _ in range(3))).some("x", SIZE)) == 3


def test_nothing_new_goes_to_a_copy_that_is_leaving() -> None:
    sites = sites_of(Host(resident("a")), Host(resident("a")))
    sites.leaving(0, "a", so=True)
    assert sites.answering("a") == [1]
    sites.leaving(0, "a", so=False)
    assert sites.answering("a") == [0, 1]


def test_a_second_device_that_is_told_to_load_it_counts_as_one_that_has_it() -> None:
    hosts = [Host(resident("a")), Host(), Host()]
    sites = sites_of(*hosts)
    sites.assign("a", 1, SIZE)
    assert (sites.holding("a"), sites.answering("a"), sites.several()) == ([0, 1], [0], ["a"])
    assert [site.left for site in sites.holders("a")] == [0.0, math.inf]
    hosts[1].tell(msgspec.structs.replace(resident("a", state="loading"), seconds_left=3.0))
    hosts[1].age = 1.0
    assert [site.left for site in sites.holders("a")] == [0.0, 2.0]
    sites.dismiss("a", hosts[1])  # type: ignore[arg-type]  # as above
    assert sites.holding("a") == [0]


def test_a_second_device_that_did_not_load_it_after_all_is_forgotten_and_the_last_one_is_not() -> None:
    hosts = [Host(), Host()]
    sites = sites_of(*hosts)
    for index in (0, 1):
        sites.assign("a", index, SIZE)
    sites.settled("a", hosts[1])  # type: ignore[arg-type]  # as above
    assert sites.holding("a") == [0]
    sites.settled("a", hosts[0])  # type: ignore[arg-type]  # as above
    assert sites.holding("a") == [0]
    assert sites.some("x", SIZE)[0].free == 3 * SIZE
    sites.keep({"b"})
    assert sites.holding("a") == []


def test_what_is_leaving_is_a_load_away() -> None:
    sites = sites_of(Host(resident("a", state="leaving")), Host(resident("a")))
    assert [site.left for site in sites.holders("a")] == [math.inf, 0.0]
    sites.leaving(1, "a", so=True)
    assert [site.left for site in sites.holders("a")] == [math.inf, math.inf]


def test_what_lies_in_host_memory_is_there_at_once() -> None:
    host = Host()
    host.parked = {"a": wire.Parked("a", SIZE, 1.0)}
    assert [site.left for site in sites_of(host).holders("a")] == [0.0]
