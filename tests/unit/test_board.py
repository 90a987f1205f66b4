"""Tests of what is told of the election, in virtual time: one board, news, and questions."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leaderexec import __version__
from leaderexec.board import STATUS, shown_name
from leaderexec.channel import CallTook, ChildExited, LockIs, TenureIs
from leaderexec.model import SECOND_NS, Now, Timing
from tests.support import golden
from tests.support.http_clients import OURS, board_of, leading, lock_is, standing

if TYPE_CHECKING:
    from leaderexec.board import Board, News

START_NS: Final = 1_000 * SECOND_NS
SILENCE_S: Final = Timing().silence_bound_ns // SECOND_NS
POD_UID: Final = "3f2a9c1e-0b7d-4e55-9a51-0242ac120002"


def board(*told: News, **changed: bool) -> Board:
    """Return a board that was told this at its beginning."""
    made = board_of(Now(START_NS, 1_700_000_000_999_999), Timing(), **changed)
    for news in told:
        made.take(news, START_NS)
    return made


def after(seconds: float) -> int:
    return START_NS + int(seconds * SECOND_NS)


# --- names -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("identity", "shown"),
    [
        (OURS, "host"),
        ("web-0.example_leaderexec-00ff00ff00ff00ff", "web-0.example"),
        (f"web-0_leaderexec-{POD_UID}-a-container-with-dashes", "web-0"),
        ("web-0_leaderexec-0123456789abcdef0123456789abcdef-main", "web-0"),
        (f"{OURS}_leaderexec-0123456789abcdef", OURS),
        *(
            (each, each)
            for each in (
                *("", "host", " ", 'Zoë "☃" 🐋\n', "host_0123456789abcdef", f"host_{POD_UID}"),
                *("node/1_65e7c41d-7fbb-4f3c-9d0e-3c1f6a0b9d11", "_leaderexec-0123456789abcdef"),
                *("host_leaderexec-0123456789abcde", "host_leaderexec-0123456789abcdeff"),
                *("host_leaderexec-0123456789ABCDEF", "host_leaderexec-0123456789abcdef\n"),
                *(f"host_leaderexec-{POD_UID}{rest}" for rest in ("", "-", "-Main")),
            )
        ),
    ],
)
def test_only_a_suffix_that_leaderexec_made_is_hidden(identity: str, shown: str) -> None:
    """The host name is shown of what leaderexec made of one; others find their own name."""
    assert shown_name(identity) == shown


def test_a_name_that_was_given_is_never_shortened() -> None:
    """--id is taken as it is, even if it looks as if leaderexec had made it."""
    given, others = board(identity_is_generated=False), "other_leaderexec-0123456789abcdef"
    given.take(lock_is(OURS, after(15)), START_NS)
    assert given.name(START_NS) == OURS
    given.take(lock_is(others, after(15)), START_NS)
    assert given.name(START_NS) == "other"
    assert board(lock_is(OURS, after(15))).name(START_NS) == "host"


# --- who leads -------------------------------------------------------------------------------


def test_nobody_leads_until_somebody_says_so() -> None:
    """Without news the name is empty, and the time is that at which listening began."""
    nobody = {"name": "", "identity": "", "last_update": "2023-11-14T22:13:20Z"}
    assert list(board().legacy(START_NS).items()) == list(nobody.items())
    assert not board().leads(START_NS)


def test_a_holder_is_believed_until_its_time_is_over_and_no_longer() -> None:
    """An answer turns empty by itself when nobody says anything any more."""
    told = board(lock_is(OURS, after(15)))
    answer = json.dumps(told.legacy(after(15) - 1), separators=(",", ":"))
    assert answer == (f'{{"name":"host","identity":"{OURS}","last_update":"2018-07-12T09:34:59Z"}}')
    assert told.name(after(15)) == told.holder(after(15)) == ""


@pytest.mark.parametrize("state", ["idle", "running", "stopping", "killing", "gone", "ended"])
def test_only_who_runs_undisturbed_leads(state: str) -> None:
    """A child that is asked to stop leads no more, although it holds the lock.

    When the guardian is stopped, its leadership ends here when it ends there.
    """
    told = board(lock_is(OURS, after(15)), leading(after(10), state=state))
    for now_ns, leads in ((after(10) - 1, state == "running"), (after(10), False)):
        assert told.leads(now_ns) is leads
        expected = [*told.legacy(now_ns).items(), ("leader", leads)]
        assert list(told.event(now_ns).items()) == expected


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
    """A standby that hears both is live and ready, whatever it is that they say."""
    told = board()
    heartbeats(told, 60)
    assert told.live(after(60)) == told.ready(after(60)) == ""
    for second in range(61, 120):
        told.take(CallTook("renew", "ok", 1), after(second))
        told.take(ChildExited(0), after(second))
    assert told.live(after(120)) == ""


@pytest.mark.parametrize("silent", ["guardian", "elector"])
def test_a_silent_process_is_noticed(silent: str) -> None:
    """Whichever of them is stopped, a restart may help; that the other speaks changes nothing."""
    told = board()
    heartbeats(told, 10)
    news: TenureIs | LockIs = lock_is("", 0) if silent == "guardian" else standing()
    for second in range(11, 10 + SILENCE_S + 1):
        told.take(news, after(second))
        told.look(after(second))
        assert told.live(after(second)) == ""
    assert told.live(after(10 + SILENCE_S) + 1) == f"the {silent} is silent"
    assert told.ready(after(10 + SILENCE_S) + 1) == f"the {silent} is silent"


def test_a_pause_of_its_own_is_no_alarm() -> None:
    """After a suspend everybody has been silent; they are heard out first."""
    told = board()
    heartbeats(told, 10)
    for second in range(3600, 3604):
        assert told.live(after(second)) == ""
        told.look(after(second))
    for second in range(3604, 3621):
        told.look(after(second))
    assert told.live(after(3620)) == "the guardian is silent"


@pytest.mark.parametrize(
    ("state", "problem"),
    [
        ("running", "the lease is not renewed in time"),
        ("stopping", "the lease is not renewed in time"),
        # What the guardian is doing already, a restart would not do sooner.
        ("killing", ""),
        ("gone", ""),
    ],
)
def test_an_overdue_renewal_is_noticed(state: str, problem: str) -> None:
    """Whoever has a child and is late with the lease is not well, also while the child drains."""
    told = board(lock_is(OURS, after(15)), leading(after(5), state=state))
    assert told.live(after(5) - 1) == ""
    assert told.live(after(5)) == problem
    status = told.status(after(5))
    assert (status["leader"], status["renew_within_s"]) == (False, None)
    assert (status["live"], status["ready"]) == (not problem, not problem)
    assert status["problem"] == problem
    told.take(leading(after(9), state=state), after(6))
    assert told.live(after(6)) == ""


_DRAINING: Final = leading(after(5), state="stopping")


@pytest.mark.parametrize(
    ("told", "live", "ready"),
    [
        pytest.param(board(), "", "the lock is not open yet", id="nothing was said"),
        pytest.param(board(standing(lock="")), "", "the lock is not open yet", id="lock not open"),
        # Its holder is not known, and a restart would not change that.
        pytest.param(board(standing(), lock_is("", START_NS)), "", "", id="API out of reach"),
        pytest.param(
            board(standing(elector_is_alive=False)), *["the elector is dead"] * 2, id="dead elector"
        ),
        pytest.param(
            board(standing(elector_is_alive=False), standing()), "", "", id="the next elector"
        ),
        pytest.param(
            board(standing(), leader_only=True), "", "not the leader", id="asked: standby"
        ),
        pytest.param(board(leading(after(5)), leader_only=True), "", "", id="asked: leader"),
        pytest.param(
            board(_DRAINING, leader_only=True), "", "not the leader", id="asked: draining"
        ),
    ],
)
def test_what_a_probe_is_told_at_once(told: Board, live: str, ready: str) -> None:
    """Live and ready, or why not; only with --ready=leader (`asked`) is just the leader ready."""
    assert (told.live(START_NS), told.ready(START_NS)) == (live, ready)


# --- status ----------------------------------------------------------------------------------

_TYPES: Final = {
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "integer or null": (int, type(None)),
    "number or null": (int, float, type(None)),
}


@pytest.mark.parametrize("news", [None, standing(), leading(after(9))])
def test_the_status_is_as_documented(news: News | None) -> None:
    """Keys, their order and the types of their values are those of the table."""
    told = board(lock_is("other", after(15)), news) if news else board()
    status = told.status(START_NS)
    assert list(status) == [key for key, _, _ in STATUS]
    for key, kind, meaning in STATUS:
        value = status[key]
        assert isinstance(value, _TYPES[kind]), key
        assert kind == "boolean" or not isinstance(value, bool), key
        assert meaning


def test_golden_status() -> None:
    """That of a leader says all that there is to say."""
    facts = leading(after(9.5), child_pid=77, leaderships=2, child_starts=4)
    status = board(lock_is(OURS, after(15)), facts).status(START_NS)
    golden.check_text("status", json.dumps({**status, "version": "VERSION"}, indent=2))
    assert status["version"] == __version__


def test_the_status_does_not_make_up_a_record() -> None:
    """As long as the elector has seen none, nothing is said of it."""
    status = board(lock_is("", START_NS, lease_duration_s=0, transitions=0)).status(START_NS)
    assert (status["lease_duration_s"], status["transitions"]) == (None, None)


# --- counters (calls, exits and the histogram are in golden/metrics.txt) -----------------------


def test_a_handover_is_a_change_from_one_holder_to_another() -> None:
    """Neither the first holder nor a pause without one is a handover."""
    told = board()
    for holder, handovers in (("", 0), ("a", 0), ("a", 0), ("", 0), ("a", 0), ("b", 1), ("a", 2)):
        told.take(lock_is(holder, after(15)), START_NS)
        assert told.handovers == handovers
