"""Events: who hears them, and what every record keeps to."""

from __future__ import annotations

import re

import msgspec
import pytest

from gateway.events import Event, Events, ModelRemoved, Notice, kinds
from gateway.log import LEVELS

NOTICE = Notice(code="c", message="m")


def subclasses(tree: type[Event]) -> list[type[Event]]:
    return [each for child in tree.__subclasses__() for each in (child, *subclasses(child))]


def test_every_subscriber_hears_every_event_in_order() -> None:
    tell, heard = Events(), list[tuple[str, Event]]()
    tell.subscribe(lambda event: heard.append(("first", event)))
    tell.subscribe(lambda event: heard.append(("second", event)))
    gone = ModelRemoved(model="finetuned/m")
    tell.emit(NOTICE)
    tell.emit(gone)
    assert heard == [("first", NOTICE), ("second", NOTICE), ("first", gone), ("second", gone)]


def test_who_takes_the_subscription_back_hears_no_more_and_the_others_do() -> None:
    tell, one, other = Events(), list[Event](), list[Event]()
    take_back = tell.subscribe(one.append)
    tell.subscribe(other.append)
    take_back()
    tell.emit(NOTICE)
    assert (one, other) == ([], [NOTICE])


def test_a_subscriber_may_leave_while_it_is_being_told() -> None:
    tell, heard = Events(), list[str]()

    def once(event: Event) -> None:
        heard.append("once")
        take_back()

    take_back = tell.subscribe(once)
    tell.subscribe(lambda event: heard.append("always"))
    tell.emit(NOTICE)
    tell.emit(NOTICE)
    assert heard == ["once", "always", "always"]


def test_what_a_subscriber_raises_is_handed_over_and_the_others_are_told() -> None:
    failed, heard = list[Exception](), list[Event]()
    tell, error = Events(failed.append), ZeroDivisionError()

    def broken(event: Event) -> None:
        raise error

    tell.subscribe(broken)
    tell.subscribe(heard.append)
    tell.emit(NOTICE)
    assert (failed, heard) == ([error], [NOTICE])


def test_a_subscriber_that_raises_is_let_through_where_nobody_takes_it() -> None:
    tell = Events()

    def broken(event: Event) -> None:
        raise ZeroDivisionError

    tell.subscribe(broken)
    with pytest.raises(ZeroDivisionError):
        tell.emit(NOTICE)


def test_every_event_has_a_name_of_its_own_and_a_level_that_the_log_has() -> None:
    every = subclasses(Event)
    assert len(kinds()) == len(every)
    for name, kind in kinds().items():
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", name)
        assert kind.name == name
        assert kind.level in LEVELS


def test_events_never_change() -> None:
    for kind in subclasses(Event):
        assert kind.__struct_config__.frozen, kind
    with pytest.raises(AttributeError):
        NOTICE.code = "other"  # type: ignore[misc]  # that is what must not work


def test_no_field_of_an_event_hides_the_name_or_the_level_of_its_log_line() -> None:
    for kind in subclasses(Event):
        assert not {"event", "level", "timestamp"} & set(kind.__struct_fields__), kind


def test_an_event_is_json_without_its_class_facts() -> None:
    assert msgspec.json.decode(msgspec.json.encode(NOTICE)) == {"code": "c", "message": "m"}
