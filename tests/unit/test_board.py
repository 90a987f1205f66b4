"""Tests of what is told of the election, in virtual time: one board, news, and questions."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leaderexec import __version__
from leaderexec.board import RENEWED, STATUS, Board, Histogram, shown_name
from leaderexec.channel import CallTook, ChildExited, LockIs, TenureIs
from leaderexec.model import SECOND_NS, Now, Timing
from tests.support.http_clients import ELECTION, OURS, leading, lock_is, standing

START_NS: Final = 1_000 * SECOND_NS
TIMING: Final = Timing()
SILENCE_NS: Final = TIMING.silence_bound_ns
POD_UID: Final = "3f2a9c1e-0b7d-4e55-9a51-0242ac120002"


def board(**changed: Any) -> Board:
    options: dict[str, Any] = {
        "election": ELECTION,
        "identity": OURS,
        "identity_is_generated": True,
        "timing": TIMING,
        "leader_only": False,
        "now": Now(START_NS, 1_700_000_000_999_999),
    }
    return Board(**{**options, **changed})


def after(seconds: float) -> int:
    return START_NS + int(seconds * SECOND_NS)


# --- names -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("identity", "shown"),
    [
        (OURS, "host"),
        ("web-0.example_leaderexec-00ff00ff00ff00ff", "web-0.example"),
        (f"web-0_leaderexec-{POD_UID}-main", "web-0"),
        (f"web-0_leaderexec-{POD_UID}-a-container-with-dashes", "web-0"),
        ("web-0_leaderexec-0123456789abcdef0123456789abcdef-main", "web-0"),
        (f"{OURS}_leaderexec-0123456789abcdef", OURS),
        # What leaderexec did not write:
        ("", ""),
        ("host", "host"),
        ("host_0123456789abcdef", "host_0123456789abcdef"),
        ("host_3f2a9c1e-0b7d-4e55-9a51-0242ac120002", "host_3f2a9c1e-0b7d-4e55-9a51-0242ac120002"),
        ("_leaderexec-0123456789abcdef", "_leaderexec-0123456789abcdef"),
        ("host_leaderexec-0123456789abcde", "host_leaderexec-0123456789abcde"),
        ("host_leaderexec-0123456789abcdeff", "host_leaderexec-0123456789abcdeff"),
        ("host_leaderexec-0123456789ABCDEF", "host_leaderexec-0123456789ABCDEF"),
        (f"host_leaderexec-{POD_UID}", f"host_leaderexec-{POD_UID}"),
        (f"host_leaderexec-{POD_UID}-", f"host_leaderexec-{POD_UID}-"),
        (f"host_leaderexec-{POD_UID}-Main", f"host_leaderexec-{POD_UID}-Main"),
        ("host_leaderexec-0123456789abcdef\n", "host_leaderexec-0123456789abcdef\n"),
    ],
)  # fmt: skip
def test_only_a_suffix_of_our_own_is_hidden(identity: str, shown: str) -> None:
    """The host name is shown of what leaderexec made of one; any other name as it is."""
    assert shown_name(identity) == shown


@given(st.text(max_size=80))
def test_a_name_without_our_mark_is_shown_as_it_is(identity: str) -> None:
    """Whatever others call themselves, they find their own name."""
    if "_leaderexec-" not in identity:
        assert shown_name(identity) == identity


def test_a_name_that_was_given_is_never_shortened() -> None:
    """--id is taken as it is, even if it looks as if leaderexec had made it."""
    ours, others = board(identity_is_generated=False), "other_leaderexec-0123456789abcdef"
    ours.take(lock_is(OURS, after(15)), START_NS)
    assert ours.name(START_NS) == OURS
    ours.take(lock_is(others, after(15)), START_NS)
    assert ours.name(START_NS) == "other"
    generated = board()
    generated.take(lock_is(OURS, after(15)), START_NS)
    assert generated.name(START_NS) == "host"


# --- who leads -------------------------------------------------------------------------------


def test_nobody_leads_until_somebody_says_so() -> None:
    """Without news the name is empty, and the time is that at which listening began."""
    fresh = board()
    assert fresh.legacy(START_NS) == {
        "name": "",
        "identity": "",
        "last_update": "2023-11-14T22:13:20Z",
    }
    assert list(fresh.legacy(START_NS)) == ["name", "identity", "last_update"]
    assert not fresh.leads(START_NS)


def test_a_holder_is_believed_until_its_time_is_over_and_no_longer() -> None:
    """An answer turns empty by itself when nobody says anything any more."""
    told = board()
    told.take(lock_is("other", after(15)), START_NS)
    assert told.legacy(after(15) - 1) == {
        "name": "other",
        "identity": "other",
        "last_update": "2018-07-12T09:34:59Z",
    }
    assert told.name(after(15)) == told.holder(after(15)) == ""


def test_the_record_is_shown_beside_the_short_name() -> None:
    """The identity is the holder's own, so that what was cut off can be seen."""
    told = board()
    told.take(lock_is(OURS, after(15)), START_NS)
    answer = json.dumps(told.legacy(START_NS), separators=(",", ":"))
    assert answer == (f'{{"name":"host","identity":"{OURS}","last_update":"2018-07-12T09:34:59Z"}}')


@pytest.mark.parametrize(
    ("state", "leads"),
    [
        ("idle", False),
        ("running", True),
        ("stopping", False),
        ("killing", False),
        ("gone", False),
        ("ended", False),
    ],
)
def test_only_who_runs_undisturbed_leads(state: str, leads: bool) -> None:
    """A child that is asked to stop leads no more, although it holds the lock."""
    told = board()
    told.take(leading(after(10), state=state), START_NS)
    assert told.leads(START_NS) is leads


def test_leading_ends_with_its_time() -> None:
    """When the guardian is stopped, its leadership ends here when it ends there."""
    told = board()
    told.take(leading(after(10)), START_NS)
    assert told.leads(after(10) - 1)
    assert not told.leads(after(10))


def test_an_event_tells_whether_we_lead() -> None:
    """Events are the answers of `/` and the leader flag, name first."""
    told = board()
    told.take(lock_is(OURS, after(15)), START_NS)
    told.take(leading(after(10)), START_NS)
    assert list(told.event(START_NS).items()) == [*told.legacy(START_NS).items(), ("leader", True)]
    assert told.event(after(10))["leader"] is False


def test_the_next_change_is_that_of_an_event() -> None:
    """Whoever sleeps until then misses no change that time brings."""
    told = board()
    assert told.next_change_ns(START_NS) is None
    told.take(lock_is("other", after(15)), START_NS)
    assert told.next_change_ns(START_NS) == after(15)
    told.take(leading(after(10)), START_NS)
    assert told.next_change_ns(START_NS) == after(10)
    assert told.next_change_ns(after(10)) == after(15)
    assert told.next_change_ns(after(15)) is None
    told.take(lock_is("", after(30)), after(15))
    assert told.next_change_ns(after(15)) is None


@given(st.lists(st.sampled_from([1, 5, 9, 10, 15, 20]), min_size=1, max_size=6), st.data())
def test_no_event_changes_before_the_next_change(steps: list[int], data: st.DataObject) -> None:
    """Between two news an event changes at the time that was named, if at all."""
    told, now = board(), 0
    for step in steps:
        until = data.draw(st.integers(0, 40))
        holder = data.draw(st.sampled_from(["", "other", OURS]))
        told.take(lock_is(holder, after(until)), after(now))
        renew_by = data.draw(st.none() | st.integers(0, 40))
        told.take(standing() if renew_by is None else leading(after(renew_by)), after(now))
        change_ns = told.next_change_ns(after(now))
        before = told.event(after(now))
        last_ns = after(100) if change_ns is None else change_ns - 1
        assert last_ns >= after(now)
        assert told.event(last_ns) == before
        if change_ns is not None:
            assert told.event(change_ns) != before
        now += step


# --- whether all is well ---------------------------------------------------------------------


def heartbeats(told: Board, until_s: int) -> None:
    """Let both say every two seconds that nothing has changed."""
    for second in range(until_s + 1):
        if second % 2 == 0:
            told.take(standing(), after(second))
            told.take(lock_is("other", after(second + 15)), after(second))
        told.look(after(second))


def test_all_is_well_while_both_speak() -> None:
    """A standby that hears both is live and ready."""
    told = board()
    heartbeats(told, 60)
    assert told.live(after(60)) == told.ready(after(60)) == ""


def test_a_standby_that_cannot_reach_the_api_is_alive() -> None:
    """Its holder is not known, and a restart would not change that."""
    told = board()
    told.take(standing(), START_NS)
    told.take(lock_is("", after(0)), START_NS)
    assert told.live(START_NS) == told.ready(START_NS) == ""


@pytest.mark.parametrize("silent", ["guardian", "elector"])
def test_a_silent_process_is_noticed(silent: str) -> None:
    """Whichever of them is stopped, a restart may help; that the other speaks changes nothing."""
    told = board()
    heartbeats(told, 10)
    news: TenureIs | LockIs = lock_is("", 0) if silent == "guardian" else standing()
    for second in range(11, 10 + SILENCE_NS // SECOND_NS + 1):
        told.take(news, after(second))
        told.look(after(second))
        assert told.live(after(second)) == ""
    assert told.live(after(10) + SILENCE_NS + 1) == f"the {silent} is silent"
    assert told.ready(after(10) + SILENCE_NS + 1) == f"the {silent} is silent"


def test_a_process_that_never_spoke_is_noticed_too() -> None:
    """The wait begins with the board, so that a start has time and no more."""
    told = board()
    for second in range(SILENCE_NS // SECOND_NS + 1):
        told.look(after(second))
        assert told.live(after(second)) == ""
    assert told.live(START_NS + SILENCE_NS + 1) == "the guardian is silent"


def test_a_pause_of_our_own_is_no_alarm() -> None:
    """After a suspend everybody has been silent; they are heard out first."""
    told = board()
    heartbeats(told, 10)
    assert told.live(after(3600)) == ""
    for second in range(3601, 3604):
        told.look(after(second))
        assert told.live(after(second)) == ""
    for second in range(3604, 3621):
        told.look(after(second))
    assert told.live(after(3620)) == "the guardian is silent"


def test_a_dead_elector_is_noticed_at_once() -> None:
    """The guardian says so; the next one makes it good."""
    told = board()
    told.take(standing(elector_is_alive=False), START_NS)
    assert told.live(START_NS) == "the elector is dead"
    told.take(standing(), START_NS)
    assert told.live(START_NS) == ""


@pytest.mark.parametrize("state", ["running", "stopping"])
def test_an_overdue_renewal_is_noticed(state: str) -> None:
    """Whoever has a child and is late with the lease is not well, also while the child drains."""
    told = board()
    told.take(leading(after(5), state=state), START_NS)
    assert told.live(after(5) - 1) == ""
    assert told.live(after(5)) == "the lease is not renewed in time"
    told.take(leading(after(9), state=state), after(6))
    assert told.live(after(6)) == ""


@pytest.mark.parametrize("state", ["killing", "gone"])
def test_a_tree_that_is_being_ended_is_not_overdue(state: str) -> None:
    """What the guardian is doing already, a restart would not do sooner."""
    told = board()
    told.take(leading(after(5), state=state), START_NS)
    assert told.live(after(6)) == ""


def test_nobody_is_ready_before_the_lock_is_open() -> None:
    """Until it has been reached once, it is not known whether it can be."""
    told = board()
    assert told.ready(START_NS) == "the lock is not open yet"
    told.take(standing(lock=""), START_NS)
    assert told.ready(START_NS) == "the lock is not open yet"
    told.take(standing(), START_NS)
    assert told.ready(START_NS) == ""


def test_only_the_leader_is_ready_where_that_is_asked_for() -> None:
    """With --ready=leader a standby is live and not ready, and neither is one who drains."""
    told = board(leader_only=True)
    told.take(standing(), START_NS)
    assert (told.live(START_NS), told.ready(START_NS)) == ("", "not the leader")
    told.take(leading(after(5)), START_NS)
    assert told.ready(START_NS) == ""
    told.take(leading(after(5), state="stopping"), START_NS)
    assert told.ready(START_NS) == "not the leader"


# --- status ----------------------------------------------------------------------------------

_TYPES: Final = {
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "integer or null": (int, type(None)),
    "number or null": (int, float, type(None)),
}


@pytest.mark.parametrize("case", ["fresh", "standby", "leader"])
def test_the_status_is_as_documented(case: str) -> None:
    """Keys, their order and the types of their values are those of the table."""
    told = board()
    if case != "fresh":
        told.take(lock_is("other", after(15)), START_NS)
        told.take(standing() if case == "standby" else leading(after(9)), START_NS)
    status = told.status(START_NS)
    assert list(status) == [key for key, _, _ in STATUS]
    for key, kind, meaning in STATUS:
        value = status[key]
        assert isinstance(value, _TYPES[kind]), key
        assert kind == "boolean" or not isinstance(value, bool), key
        assert meaning


def test_the_status_of_a_leader() -> None:
    """It says all that there is to say."""
    told = board()
    told.take(lock_is(OURS, after(15)), START_NS)
    told.take(leading(after(9.5), child_pid=77, leaderships=2, child_starts=4), START_NS)
    assert told.status(START_NS) == {
        "election": ELECTION,
        "lock": "lease ns/my-app",
        "namespace": "ns",
        "identity": OURS,
        "leader": True,
        "state": "running",
        "name": "host",
        "holder": OURS,
        "last_update": "2018-07-12T09:34:59Z",
        "lease_duration_s": 15,
        "transitions": 3,
        "fencing_token": 41,
        "renew_within_s": 9.5,
        "child_pid": 77,
        "live": True,
        "ready": True,
        "problem": "",
        "leaderships": 2,
        "handovers": 0,
        "child_starts": 4,
        "elector_starts": 1,
        "version": __version__,
    }


def test_the_status_does_not_make_up_a_record() -> None:
    """As long as the elector has seen none, nothing is said of it."""
    told = board()
    told.take(lock_is("", START_NS, lease_duration_s=0, transitions=0), START_NS)
    status = told.status(START_NS)
    assert (status["lease_duration_s"], status["transitions"]) == (None, None)


def test_the_status_tells_what_is_wrong() -> None:
    """A leader whose time is over leads no more, has no time left, and says why it is not live."""
    told = board()
    told.take(lock_is(OURS, after(15)), START_NS)
    told.take(leading(after(9)), START_NS)
    status = told.status(after(9))
    assert not status["leader"]
    assert status["renew_within_s"] is None
    assert (status["live"], status["ready"]) == (False, False)
    assert status["problem"] == "the lease is not renewed in time"


# --- counters --------------------------------------------------------------------------------


def test_calls_are_counted_and_renewals_measured() -> None:
    """Calls are told apart by purpose and outcome; only a renewal that succeeded is measured."""
    told = board()
    for purpose, outcome, took_ms in (
        (*RENEWED, 4), (*RENEWED, 700), ("renew", "unavailable", 5000), ("read", "ok", 3),
    ):  # fmt: skip
        told.take(CallTook(purpose, outcome, took_ms * 1_000_000), START_NS)
    assert told.calls == {("renew", "ok"): 2, ("renew", "unavailable"): 1, ("read", "ok"): 1}
    assert sum(told.renewals_s.counts) == 2
    assert told.renewals_s.sum == pytest.approx(0.704)


def test_a_call_is_a_sign_of_life_of_the_elector_and_an_exit_of_the_guardian() -> None:
    """Everything that is said counts, not only heartbeats."""
    told = board()
    for second in range(60):
        told.take(CallTook("renew", "ok", 1), after(second))
        told.take(ChildExited(0), after(second))
    assert told.live(after(60)) == ""


def test_exits_are_counted_by_their_code() -> None:
    """One child may end in many ways."""
    told = board()
    for code in (0, 137, 137):
        told.take(ChildExited(code), START_NS)
    assert told.child_exits == {0: 1, 137: 2}


def test_a_handover_is_a_change_from_one_holder_to_another() -> None:
    """Neither the first holder nor a pause without one is a handover."""
    told = board()
    for holder, handovers in (("", 0), ("a", 0), ("a", 0), ("", 0), ("a", 0), ("b", 1), ("a", 2)):
        told.take(lock_is(holder, after(15)), START_NS)
        assert told.handovers == handovers


def test_a_value_falls_to_the_least_bound_that_it_does_not_exceed() -> None:
    """Bounds are inclusive, and what exceeds all of them is counted too."""
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 2.5):
        histogram.add(value)
    assert histogram.counts == [2, 2, 1]
    assert histogram.sum == 7.5
