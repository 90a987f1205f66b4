"""The index of the safety rules: what each says, and which test fails without each of its lines.

Owns: the rules and guarantees of DESIGN in their order, their mutants, and why a part of a rule has
none. A mutant removes behaviour and keeps the program running, so that the test that fails is one
about the rule, and not every test.
Must not know: how they are tried.

To add one: `name: what is gone`; the file and the function; the code that goes, an expression or
statements, as little of it as stands there once, and what it becomes (see `edit`); the cheapest
test that fails by an assertion of its own. `also` names further rules that it breaks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from tests.mutants.edit import Edit
from tests.mutants.trial import Mutant

if TYPE_CHECKING:
    from collections.abc import Mapping

_ELECTION: Final = "tests/unit/test_election.py::"
_TENURE: Final = "tests/unit/test_tenure.py::"
_MODEL: Final = "tests/unit/test_model.py::"
_LINUX: Final = "tests/unit/test_linux.py::"
_LOG: Final = "tests/unit/test_log.py::"
_CONFIG: Final = "tests/unit/test_config.py::"
_CLI: Final = "tests/unit/test_cli.py::"
_BOARD: Final = "tests/unit/test_board.py::"
_VIGIL: Final = "tests/unit/test_vigil.py::"
_LOCKS: Final = "tests/unit/test_locks.py::"
_FILE: Final = "tests/unit/test_file_lock.py::"
_ANNOTATION: Final = "tests/unit/test_annotation_lock.py::"
_CHANNEL: Final = "tests/unit/test_channel.py::"
_FAULTS: Final = "tests/process/test_faults.py::"
_CHILD: Final = "tests/process/test_child.py::"
_STOPPING: Final = "tests/process/test_stopping.py::"
_AROUND: Final = "tests/process/test_surroundings.py::"
_HTTP: Final = "tests/process/test_http.py::"
_INIT: Final = "tests/process/test_init_options.py::"
_TERMINAL: Final = "tests/process/test_terminal.py::"


@dataclass(frozen=True, slots=True)
class Rule:
    """A safety rule or a guarantee; `without` says what no mutant breaks, and why."""

    name: str
    says: str
    mutants: tuple[Mutant, ...]
    without: str


def _rule(name: str, says: str, *mutants: Mutant, without: str = "") -> Rule:
    named = (replace(mutant, rules=(name, *mutant.rules)) for mutant in mutants)
    return Rule(name, says, tuple(named), without)


def _mutant(
    title: str,
    where: str,
    changes: Mapping[str, str],
    *tests: str,
    more: tuple[Edit, ...] = (),
    also: str = "",
) -> Mutant:
    name, _, removes = title.partition(": ")
    edits = (*_edits(where, changes), *more)
    return Mutant(name, tuple(also.split()), removes, edits, tests)


def _edits(where: str, changes: Mapping[str, str]) -> tuple[Edit, ...]:
    path, _, function = where.partition(" ")
    return tuple(Edit(path, function, old, new) for old, new in changes.items())


RULES: Final = (
    _rule(
        "1",
        "A renewal counts only if the server stored this record as a new version; each write is "
        "a whole second later than the last.",
        _mutant(
            "renew-time-a-microsecond-later: that it is later by a whole second",
            "election.py Election._next_write_us",
            {"(last_us // SECOND_US + 1) * SECOND_US": "last_us + 1"},
            f"{_ELECTION}test_story[renew time moves on when the wall clock is set back]",
            f"{_ELECTION}test_whole_seconds_grow_with_every_write_within_one_second",
        ),
        _mutant(
            "renew-time-forgets-lost-writes: the memory of what was written and not answered",
            "election.py Election._issue",
            {"self._written_us = max(self._written_us, record.renew_time_us or 0)": ""},
            f"{_ELECTION}test_story[renew time is later than that of a write whose reply was lost]",
        ),
        _mutant(
            "renew-time-forgets-the-predecessor: the look at what a dead elector has written",
            "election.py Election._next_write_us",
            {"last_us = max(last_us, self._seen.record.renew_time_us or 0)": ""},
            f"{_ELECTION}test_story[an heir writes a later second than its predecessor]",
        ),
        _mutant(
            "unchanged-renewal-counts: that a renewal counts only if the version changed",
            "election.py Election._wrote_renewal",
            {"snapshot.version == call.seen.version": 'snapshot.version == ""'},
            f"{_ELECTION}test_story[a renewal that changed no version is not counted]",
        ),
        _mutant(
            "unchanged-acquisition-counts: that an acquisition counts only if the version changed",
            "election.py Election._wrote_acquisition",
            {"snapshot.version == call.seen.version": 'snapshot.version == ""'},
            f"{_ELECTION}test_story[an attempt that changed nothing is no leadership]",
        ),
        _mutant(
            "retry-within-a-second: the least retry period of a second",
            "model.py Timing.validate",
            {"self.retry_period_ns < SECOND_NS": "self.retry_period_ns < 1"},
            f"{_CONFIG}test_golden_config",
        ),
        _mutant(
            "counts-an-acquisition-that-was-changed: that a 200 may stand for another record",
            "election.py Election._wrote_acquisition",
            {"not _kept(record, snapshot.record)": "False"},
            f"{_ELECTION}test_story[an acquisition that was changed on its way counts for nothing]",
        ),
        _mutant(
            "counts-a-renewal-that-was-changed: that a 200 may stand for another record",
            "election.py Election._wrote_renewal",
            {"not _kept(call.record, snapshot.record)": "False"},
            f"{_ELECTION}test_story[a renewal that was changed on its way counts for nothing]",
        ),
    ),
    _rule(
        "2",
        "A write names the uid and the version that it replaces; an object that was deleted or "
        "created anew is a loss, and frees the lock only after its duration.",
        _mutant(
            "write-without-uid: metadata.uid as it was seen in what is written",
            "locks/kubeobject.py KubernetesLock._put",
            {"seen.uid": 'metadata["uid"]'},
            f"{_ANNOTATION}test_a_write_carries_what_the_server_compares",
            also="G5",
        ),
        _mutant(
            "write-without-version: metadata.resourceVersion as it was seen in what is written",
            "locks/kubeobject.py KubernetesLock._put",
            {"seen.version": 'metadata["resourceVersion"]'},
            f"{_ANNOTATION}test_a_write_carries_what_the_server_compares",
            also="G5",
        ),
        _mutant(
            "leads-on-a-created-object: that an acquisition which created another object is none",
            "election.py Election._wrote_acquisition",
            {"snapshot.uid != call.seen.uid": "not snapshot.uid"},
            f"{_ELECTION}test_story[an attempt that created another object is no leadership]",
        ),
        _mutant(
            "created-object-is-taken-at-once: the wait after an object was created by mistake",
            "election.py Election._wrote_acquisition",
            {"self._now.boot_ns + self._timing.lease_duration_ns": "0"},
            "tests/unit/test_simulation.py::"
            "test_not_leading_on_an_object_that_the_write_created_keeps_trees_apart",
        ),
        _mutant(
            "renews-a-created-object: that a renewal which created another object is a loss",
            "election.py Election._wrote_renewal",
            {"snapshot.uid != call.seen.uid": "not snapshot.uid"},
            f"{_ELECTION}test_story[a renewal that created another object is a loss]",
        ),
        _mutant(
            "absent-while-leading-is-no-loss: that 404 while leading is a loss",
            "election.py Election._failed",
            {'self._lose("the lock\'s object was deleted")': ""},
            f"{_ELECTION}test_story[a deleted object is a loss]",
        ),
        _mutant(
            "reads-past-a-deletion: that a leader which reads nothing has lost",
            "election.py Election._read_as_holder",
            {"self._absent": "False"},
            f"{_ELECTION}test_story[a conflict is a loss if a read shows a deletion]",
        ),
        _mutant(
            "another-uid-while-leading-is-no-loss: that a leader which reads another uid has lost",
            "election.py Election._read_as_holder",
            {"self._seen.uid != self._holding.uid": "not self._seen.uid"},
            f"{_ELECTION}test_story[a conflict is a loss if a read shows another object]",
            f"{_ELECTION}test_story[an heir keeps the token only if the uid has not changed]",
            also="3",
        ),
        _mutant(
            "deletion-frees: the stamp that is kept across a deletion",
            "election.py Election._free_at_ns",
            {"seen = self._seen": "seen = self._present"},
            f"{_ELECTION}test_story[a stamp is kept across a deletion]",
        ),
        _mutant(
            "deletion-of-an-unseen-version-frees: the wait for a version that was deleted unseen",
            "election.py Election._observe",
            {"self._outdated": "False"},
            f"{_ELECTION}test_story[a version that was missed and deleted is waited out]",
        ),
        without="that deletes carry preconditions: leaderexec deletes no object",
    ),
    _rule(
        "3",
        "A write may land late: one request at a time, a grant only after a counted write, and "
        "a release of this candidate's own record only.",
        _mutant(
            "grants-what-it-reads: that an elector grants after its own counted write only",
            "election.py Election._read_as_holder",
            {
                "self._renew_at_ns = self._now.boot_ns": """
                if self.state is State.RESUMING:
                    self._move(Cause.RENEWED)
                    read = _Call(0, _Purpose.READ, self._now.boot_ns)
                    self._count(read, self._seen.record)
                self._renew_at_ns = self._now.boot_ns
                """
            },
            f"{_ELECTION}test_story[an heir reads first and grants after its own write only]",
        ),
        _mutant(
            "two-requests-in-flight: that a leader waits for the answer to its last request",
            "election.py Election._act_holder",
            {"if self._call is not None: return": ""},
            f"{_ELECTION}test_story[one request is in flight at a time]",
        ),
        _mutant(
            "believes-any-answer: that an answer counts for its own request only",
            "election.py Election._take_call",
            {"call.call_id != call_id": "False"},
            f"{_ELECTION}test_an_answer_to_another_call_is_ignored",
        ),
        _mutant(
            "releases-beside-a-renewal: that a release waits for the renewal in flight",
            "election.py Election._act_releasing",
            {"if self._call is not None: return": ""},
            f"{_ELECTION}test_story[a release waits for the renewal in flight]",
        ),
        _mutant(
            "releases-anothers-record: that only its own record is given back",
            "election.py Election._act_releasing",
            {"not self._mine(self._seen.record)": "False"},
            f"{_ELECTION}test_story[a conflict on release with another holder is left alone]",
            also="G5",
        ),
        _mutant(
            "releases-a-deleted-object: that what was deleted is not written again by a release",
            "election.py Election._act_releasing",
            {"self._absent": "False"},
            f"{_ELECTION}test_story[a release of a deleted object resurrects nothing]",
            also="G5",
        ),
        _mutant(
            "claim-without-holder: the holder in what makes a record its own",
            "model.py Claim.made",
            {"record.holder == self.holder": "True"},
            f"{_MODEL}test_a_claim_is_not_made_by_another_leadership[claim0]",
            f"{_ELECTION}test_story[an heir keeps the token only if the holder has not changed]",
            also="12",
        ),
        _mutant(
            "claim-without-acquire-time: the acquireTime in what makes a record its own",
            "model.py Claim.made",
            {"record.acquire_time_us == self.acquire_time_us": "True"},
            f"{_MODEL}test_a_claim_is_not_made_by_another_leadership[claim1]",
            f"{_ELECTION}test_story"
            "[an heir keeps the token only if the acquire time has not changed]",
            also="12",
        ),
        _mutant(
            "claim-without-transitions: the transitions in what makes a record its own",
            "model.py Claim.made",
            {"record.transitions == self.transitions": "True"},
            f"{_MODEL}test_a_claim_is_not_made_by_another_leadership[claim2]",
            f"{_ELECTION}test_story"
            "[an heir keeps the token only if the transitions have not changed]",
            also="12",
        ),
    ),
    _rule(
        "4",
        "A tree is killed by one call first, and then in a loop over the children until none is "
        "left.",
        _mutant(
            "keeper-is-no-subreaper: that orphans of the tree fall to the keeper",
            "guardian.py Guardian._fork_keeper.keep",
            {"linux.become_subreaper()": "True"},
            f"{_CHILD}test_a_child_that_forks_and_exits_leaves_a_tree_that_is_stopped",
        ),
        _mutant(
            "guardian-is-no-subreaper: that what a dead keeper leaves falls to the guardian",
            "guardian.py Guardian.__init__",
            {"self._is_init or linux.become_subreaper()": "True"},
            f"{_FAULTS}test_a_part_is_killed_or_stopped[keeper-killed]",
            also="G3",
        ),
        _mutant(
            "group-is-not-killed: the one write that kills a control group",
            "cgroup.py TreeGroup.kill",
            {'os.write(self._fds[0], b"1")': ""},
            f"{_INIT}test_one_write_kills_what_is_in_the_group",
        ),
        _mutant(
            "keeper-proves-what-it-cannot-see: that a keeper which is no subreaper proves nothing",
            "keeper.py Keeper.run",
            {"if not self._is_subreaper: return UNPROVEN": ""},
            f"{_INIT}test_without_a_subreaper_a_dead_guardians_lock_is_not_given_back",
            also="5",
        ),
        _mutant(
            "keeper-sweeps-once: the loop of the keeper that kills until ECHILD",
            "keeper.py Keeper._kill_all",
            {"not self._reap()": "self._reap() is not None"},
            f"{_FAULTS}test_the_depth_of_a_tree_dies_though_its_guardian_lives_on",
        ),
        _mutant(
            "keeper-searches-first: the one call with which a keeper begins to kill",
            "keeper.py Keeper._kill_all",
            {"os.killpg(self._child, signal.SIGKILL)": ""},
            f"{_LINUX}test_the_first_act_of_a_keeper_that_kills_is_one_call",
        ),
        _mutant(
            "guardian-leaves-the-kill-to-the-keeper: the call by which a guardian kills the child",
            "guardian.py Guardian._kill_child",
            {"os.killpg(self._child[0], signal.SIGKILL)": ""},
            f"{_LINUX}test_a_guardian_kills_the_childs_group_itself",
        ),
        _mutant(
            "no-last-resort-of-init: the kill of the whole namespace by its PID 1",
            "guardian.py Guardian._take_over",
            {"os.kill(-1, signal.SIGKILL)": ""},
            f"{_HTTP}test_as_pid_1_a_take_over_costs_one_server",
        ),
        _mutant(
            "takes-over-from-a-living-keeper: that a keeper which does not kill is killed",
            "guardian.py Guardian._take_over",
            {"self._keeper.kill()": ""},
            f"{_FAULTS}test_a_stopped_keeper_does_not_delay_a_kill",
            more=_edits(
                "guardian.py Guardian._spared",
                {
                    "{self._elector.pid if self._elector else 0, self._server_pid or 0}": """
                    {self._elector.pid if self._elector else 0,
                            self._keeper.pid if self._keeper else 0, self._server_pid or 0}
                    """
                },
            ),
            also="G3",
        ),
        _mutant(
            "waits-for-the-keeper-for-ever: that the guardian kills when the keeper has not",
            "tenure.py Tenure._act_tree",
            {
                """
                if now_ns >= self._take_over_at_ns:
                    self._take_over()
                else:
                    self._wake(self._take_over_at_ns)
                """: "self._wake(now_ns + SECOND_NS)"
            },
            f"{_TENURE}test_story[a keeper that does not kill in time is taken over from]",
            also="G3",
        ),
        _mutant(
            "search-instead-of-children: zombies in the list of children, where /proc is searched",
            "linux.py children_by_search",
            {"_parent(child) == pid": '_parent(child) == pid and _stat(child)[:1] == [b"R"]'},
            f"{_LINUX}test_without_the_kernels_list_proc_is_searched",
            also="5",
        ),
    ),
    _rule(
        "5",
        "Dead means reaped: the lock is given back only on proof that the tree's last process "
        "was reaped.",
        _mutant(
            "child-for-tree: that a tree lives until its last process is reaped",
            "keeper.py Keeper._reap",
            {"reaped.any_left": "reaped.any_left and not self._child_reaped"},
            f"{_CHILD}test_a_child_that_forks_and_exits_leaves_a_tree_that_is_stopped",
            also="G2",
        ),
        _mutant(
            "any-end-of-a-keeper-is-the-trees: that only a keeper's exit with 0 is a proof",
            "guardian.py Guardian._keeper_ended",
            {"status == 0": "status >= 0"},
            f"{_FAULTS}test_a_part_is_killed_or_stopped[keeper-killed]",
            also="G3",
        ),
        _mutant(
            "end-of-file-is-a-proof: that only the keeper's byte proves its tree dead",
            "elector.py Elector._take_proof",
            {"os.read(self._proof_fd, 1) != PROOF": "os.read(self._proof_fd, 1) is None"},
            f"{_AROUND}test_a_tree_that_may_not_be_killed_is_never_released",
            also="9",
        ),
        _mutant(
            "guardians-death-is-a-proof: that the elector of a dead guardian waits for the keeper",
            "elector.py Elector._guardian_died",
            {"self._proof_fd is None": "self._guardian_dead"},
            f"{_FAULTS}test_a_dead_guardians_lock_is_kept_until_its_tree_is_dead",
            also="G2",
        ),
        _mutant(
            "keeper-is-not-announced: that the elector knows the keeper before it starts anything",
            "guardian.py Guardian._start_tree",
            {"self._elector.channel.send(wire.KeeperForked(), self._proof_fd)": "True"},
            f"{_FAULTS}test_a_dead_guardians_lock_is_kept_until_its_tree_is_dead",
            also="G3",
        ),
        _mutant(
            "childs-end-is-the-trees: that the lock is kept while leftovers of the child live",
            "tenure.py Tenure._child_ended",
            {"self._stop(Cause.CHILD_ENDED, exit_code=exit_code)": "self._tree_ended()"},
            f"{_TENURE}test_story[what a child leaves behind is stopped and then killed]",
            also="G2",
        ),
        _mutant(
            "proc-of-another-namespace: that a /proc with other numbers is refused",
            "cli.py run",
            {"not linux.proc_is_ours()": "linux.proc_is_ours() is None"},
            f"{_AROUND}test_proc_of_another_namespace_is_refused",
            also="G1",
        ),
        without="that a zombie main thread is no end: the kernel's wait decides that",
    ),
    _rule(
        "6",
        "The clock is read last, right before the tree is started.",
        _mutant(
            "child-does-not-look-at-the-clock: the last look at the clock before exec",
            "keeper.py _execute",
            {"linux.boottime_ns() >= stop_at_ns": "stop_at_ns < 0"},
            f"{_FAULTS}test_a_keeper_that_slept_beyond_the_deadline_starts_nothing",
        ),
        _mutant(
            "starts-on-a-late-grant: that a grant whose stop deadline has passed starts nothing",
            "tenure.py Tenure._granted",
            {"now_ns >= self._stop_at_ns": "now_ns >= self._expires_at_ns"},
            f"{_TENURE}test_story[a grant that arrives after its stop deadline starts nothing]",
            also="7",
        ),
    ),
    _rule(
        "7",
        "A grant is an absolute time, given by one elector for one leadership; only a later one "
        "extends it.",
        _mutant(
            "grants-of-old-electors: that only the present elector grants",
            "tenure.py Tenure._granted",
            {"if grant.generation != self.generation: return": ""},
            f"{_TENURE}test_story[a grant of another generation is ignored]",
        ),
        _mutant(
            "grants-that-are-not-later: that a grant which is not later changes nothing",
            "tenure.py Tenure._granted",
            {"grant.expires_at_ns <= held.expires_at_ns": "False"},
            f"{_TENURE}test_story[a grant that is not later is ignored]",
        ),
        _mutant(
            "grants-that-have-expired: that a grant in the past extends nothing",
            "tenure.py Tenure._granted",
            {"now_ns >= grant.expires_at_ns": "False"},
            f"{_TENURE}test_story[a grant that has expired is ignored]",
        ),
        _mutant(
            "grants-of-another-leadership: that another token never extends a running tree",
            "tenure.py Tenure._granted",
            {"grant.token != held.token": "False"},
            f"{_TENURE}test_story[a grant of another leadership never extends a running tree]",
        ),
        _mutant(
            "releases-of-another-leadership: that only its own release ends a leadership",
            "tenure.py Tenure._released",
            {"event.token == self.grant.token": "True"},
            f"{_TENURE}test_story[a release that is not for this leadership changes nothing]",
        ),
        _mutant(
            "empty-packet-ends-a-channel: that an empty packet is garbage like any other",
            "channel.py Channel.receive",
            {"not data and not fds and self._peer_has_closed()": "not data"},
            f"{_CHANNEL}test_an_empty_packet_is_not_the_end",
        ),
        without=(
            "a new socketpair per elector: without it the next elector has no channel at "
            "all, and an old grant on a new channel is refused by its generation, which has "
            "a mutant"
        ),
    ),
    _rule(
        "8",
        "No log, and no reader of a log, blocks a process.",
        _mutant(
            "log-blocks-on-its-own-pipe: the non-blocking reopening of standard error",
            "log.py _way_to",
            {"os.O_WRONLY | os.O_NONBLOCK": "os.O_WRONLY"},
            f"{_LOG}test_a_process_whose_log_nobody_reads_goes_on[pipe]",
            also="G3",
        ),
        _mutant(
            "log-blocks-on-anothers-pipe: the poll before a write to a pipe of another user",
            "log.py _by_poll.write",
            {
                "not ready or not ready[0][1] & select.POLLOUT": "False",
                "os.pwritev(fd, [data], -1, os.RWF_NOWAIT) == len(data)": "write_now(data)",
            },
            f"{_LOG}test_a_process_whose_log_nobody_reads_goes_on[refused]",
            also="G3",
        ),
        _mutant(
            "log-blocks-on-a-socket: MSG_DONTWAIT",
            "log.py _by_socket.write",
            {"socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL": "socket.MSG_NOSIGNAL"},
            f"{_LOG}test_a_process_whose_log_nobody_reads_goes_on[socket]",
            also="G3",
        ),
        _mutant(
            "log-unblocks-the-childs-pipe: that the child's own standard error stays as it was",
            "log.py _way_to",
            {
                """
                private = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
                """: """
                os.set_blocking(fd, False)
                private = os.dup(fd)
                """
            },
            f"{_LOG}test_what_is_full_drops_lines_and_says_how_many[pipe]",
            f"{_FAULTS}test_a_log_that_nobody_reads_blocks_nothing",
        ),
    ),
    _rule(
        "9",
        "A process that may not be killed is still alive, and a child dies with its keeper.",
        _mutant(
            "child-outlives-its-keeper: the parent-death signal of the child",
            "keeper.py _become_child",
            {"linux.die_with_parent(keeper)": ""},
            f"{_FAULTS}test_a_child_dies_with_its_keeper_whoever_else_is_stopped",
        ),
        _mutant(
            "orphan-before-it-asked: the look for the parent after prctl",
            "linux.py die_with_parent",
            {"if os.getppid() != parent: os._exit(125)": ""},
            f"{_LINUX}test_whoever_was_orphaned_before_it_asked_to_die_with_its_parent_leaves"
            "[True]",
        ),
        _mutant(
            "child-may-gain-privileges: NO_NEW_PRIVS of a guardian that is not root",
            "guardian.py Guardian._child_spec",
            {"os.geteuid() != 0": "False"},
            f"{_AROUND}test_without_the_power_to_kill_anybody_the_child_gains_no_privileges"
            "[wrapper1-True]",
        ),
        _mutant(
            "what-may-not-be-killed-is-gone: that a process which may not be killed is still there",
            "linux.py kill_sweep",
            {
                """
                for pid in targets:
                    kill_quietly(pid, signal.SIGKILL)
                return targets
                """: "return [pid for pid in targets if kill_quietly(pid, signal.SIGKILL)]"
            },
            f"{_AROUND}test_a_tree_that_may_not_be_killed_is_never_released",
        ),
        _mutant(
            "one-sweep-is-a-proof: that the guardian sweeps until nothing is left",
            "guardian.py Guardian._sweep",
            {"not swept": "True"},
            f"{_AROUND}test_a_tree_that_may_not_be_killed_is_never_released",
            also="4",
        ),
        without=(
            "that guardian and keeper have no threads: an import contract of setup.cfg sees to it"
        ),
    ),
    _rule(
        "10",
        "A child starts with clean signals and without descriptors of leaderexec, and its exit "
        "code is not lost.",
        _mutant(
            "child-starts-with-signals-blocked: that signals are unblocked before exec",
            "keeper.py _become_child",
            {"signal.pthread_sigmask(signal.SIG_SETMASK, ())": ""},
            f"{_CHILD}test_child_starts_with_a_clean_signal_state",
        ),
        _mutant(
            "child-starts-with-sigpipe-ignored: that SIGPIPE is restored",
            "keeper.py _become_child",
            {"(signal.SIGPIPE, signal.SIGXFSZ)": "(signal.SIGXFSZ,)"},
            f"{_CHILD}test_sigpipe_ends_a_child_as_it_would_without_us",
        ),
        _mutant(
            "error-pipe-outlives-exec: CLOEXEC of the pipe that tells how exec went",
            "keeper.py Keeper._start",
            {"os.O_CLOEXEC | os.O_NONBLOCK": "os.O_NONBLOCK"},
            f"{_CHILD}test_no_descriptor_of_ours_reaches_the_child",
        ),
        _mutant(
            "proof-pipe-outlives-exec: that nobody of the tree has the pipe that proves its end",
            "guardian.py Guardian._fork_keeper",
            {"os.O_CLOEXEC | os.O_NONBLOCK": "os.O_NONBLOCK"},
            f"{_CHILD}test_no_descriptor_of_ours_reaches_the_child",
            also="5",
        ),
        _mutant(
            "exit-codes-are-lost: that an ignored SIGCHLD is not inherited",
            "guardian.py Guardian.__init__",
            {"signal.signal(signal.SIGCHLD, signal.SIG_DFL)": ""},
            f"{_AROUND}test_all_signals_blocked_by_the_parent",
        ),
        without=(
            "fork instead of Popen or posix_spawn: an import contract of setup.cfg sees to it"
        ),
    ),
    _rule(
        "11",
        "A call that hangs ends the elector.",
        _mutant(
            "hanging-call-is-waited-for: that an overdue worker ends the elector",
            "elector.py Elector._check_worker",
            {"linux.boottime_ns() >= overdue_at_ns": "overdue_at_ns < 0"},
            f"{_FAULTS}test_a_call_that_hangs_ends_the_elector",
            also="G3",
        ),
    ),
    _rule(
        "12",
        "A record belongs to a candidate only if it has written it, or holds the slot; a name "
        "alone proves nothing.",
        _mutant(
            "name-is-enough: that a record is its own only if it wrote it",
            "election.py Election._mine",
            {"self._slot or (self._claim is not None and self._claim.made(record))": "True"},
            f"{_ELECTION}test_story[a name that may be used twice proves nothing]",
        ),
        _mutant(
            "random-name-is-enough: that a name alone is enough for a slot only",
            "election.py Election._mine",
            {"self._slot": "self._unique"},
            f"{_ELECTION}test_story[a name alone is not enough though nobody else can have it]",
        ),
        _mutant(
            "slot-that-is-taken: that a name alone is enough for who holds the claim",
            "cli.py _serve.run_elector",
            {"claim is not None": "settings.slot is not None"},
            f"{_CLI}test_only_one_candidate_goes_by_the_name_of_its_slot",
        ),
        _mutant(
            "name-is-enough-for-a-leader: that a leader knows its record by more than its name",
            "election.py Election._read_as_holder",
            {
                "not self._holding.claim.made(self._seen.record)": """
                self._seen.record.holder != self.identity
                """
            },
            f"{_ELECTION}test_story[a leader whose name another writes has lost]",
        ),
        _mutant(
            "claim-outlives-its-leadership: that a claim ends when another holds the lock",
            "election.py Election._observe",
            {"self._claim = None": ""},
            f"{_ELECTION}test_story[a record that was its own frees nothing once another has led]",
            more=_edits("election.py Election._lose", {"self._claim = None": ""}),
        ),
        _mutant(
            "claim-outlives-its-release: that a claim ends when the lock is given back",
            "election.py Election._finish_release",
            {"if outcome == 'released': self._claim = None": ""},
            f"{_ELECTION}test_story"
            "[a record that was given back frees nothing when it is restored]",
        ),
        _mutant(
            "refused-attempt-is-a-claim: that a refused attempt makes no claim",
            "election.py Election._failed",
            {"self._attempt_open, self._claim = False, None": "self._attempt_open = False"},
            f"{_ELECTION}test_story[one id and one microsecond do not make two leaders]",
        ),
        _mutant(
            "claims-of-one-second: the doubt about a claim that two can make in one second",
            "election.py Election._doubt_claim",
            {"self._traits.time_unit_us > 1": "self._traits.time_unit_us < 1"},
            f"{_ELECTION}test_story"
            "[twins of one second that are both told to leave do not release each other]",
        ),
        _mutant(
            "given-name-counts-as-unique: that --id may be used twice",
            "config.py _identity",
            {"generated=False": "generated=True"},
            f"{_CONFIG}test_golden_config",
        ),
        _mutant(
            "slot-without-pid-1: that only PID 1 has a slot",
            "config.py _identity",
            {"not host.is_init()": "False"},
            f"{_CONFIG}test_golden_config",
        ),
        _mutant(
            "slot-without-knowing-it: that a slot must be known",
            "config.py _identity",
            {"_POD_UID.fullmatch(uid)": "True"},
            f"{_CONFIG}test_golden_config",
        ),
        _mutant(
            "slot-of-another-machine: the host's name in a slot that somebody copied",
            "config.py _identity",
            {'identity += f"@{hostname}"': ""},
            f"{_CONFIG}test_golden_config",
        ),
        _mutant(
            "slot-without-its-claim: that one process at a time goes by the slot's name",
            "cli.py _serve",
            {"settings.slot and claim": "settings.slot"},
            f"{_AROUND}test_two_instances_in_one_slot_have_two_names",
        ),
        _mutant(
            "generated-names-are-the-same: the random part of a generated name",
            "config.py _identity",
            {
                'f"{base}{SUFFIX}{host.random_bytes(8).hex()}"': """
                f"{base}{SUFFIX}{bytes(8).hex()}"
                """
            },
            f"{_CONFIG}test_generated_identities_differ",
        ),
        _mutant(
            "given-name-is-shortened: that --id is shown verbatim",
            "board.py Board.name",
            {
                """
                if holder == self.identity and not self._identity_is_generated:
                    return holder
                """: ""
            },
            f"{_BOARD}test_a_name_that_was_given_is_never_shortened",
        ),
    ),
    _rule(
        "13",
        "The shortest lease duration among the peers bounds the grants.",
        _mutant(
            "short-peers-are-not-heeded: that the shortest duration seen bounds the grants",
            "election.py Election._learn_duration",
            {
                "known_ns is None or record.lease_duration_ns < known_ns": """
                known_ns is not None and record.lease_duration_ns < known_ns
                """
            },
            f"{_ELECTION}test_story[a grant is no longer than the shortest duration seen]",
        ),
        _mutant(
            "leads-beside-too-short-a-peer: that nobody leads for less than a retry period",
            "election.py Election._may_lead",
            {"self._room_ns > self._timing.least_term_ns": "self._room_ns > 0"},
            f"{_ELECTION}test_story[the least duration that serves is tried]",
        ),
        _mutant(
            "heir-forgets-short-peers: that an heir keeps the bound of its predecessor",
            "election.py Election.__init__",
            {"inherited.granted_ns if inherited else None": "None"},
            f"{_ELECTION}test_an_heir_keeps_the_bound_of_its_predecessor",
        ),
        _mutant(
            "no-preset-of-2016: the 10 / 5 / 2.5 s beside candidates of 2016",
            "config.py _timing",
            {"_TIMING_DEFAULTS_2016 if of_2016 else _TIMING_DEFAULTS": "_TIMING_DEFAULTS"},
            f"{_CONFIG}test_golden_config",
        ),
        _mutant(
            "locks-of-2016-like-any: that peers on an annotation judge by their own durations",
            "cli.py _serve.run_elector",
            {"isinstance(settings.lock, AnnotationLockSpec)": "False"},
            f"{_CLI}test_candidates_of_2016_are_heeded_where_they_can_stand[endpoints-traits0]",
        ),
        without="what the documents say of peers' durations",
    ),
    _rule(
        "14",
        "The stop signal goes to the direct child and then to what it leaves; a request to stop "
        "is not lost, and no acquisition is left behind.",
        _mutant(
            "stop-signal-to-the-group: that the stop signal goes to the direct child alone",
            "tenure.py Tenure.__init__",
            {"Scope.GROUP if signal_group else Scope.CHILD": "Scope.GROUP"},
            f"{_TENURE}test_story[without renewals the tree is asked to stop and then killed]",
            f"{_STOPPING}test_the_stop_signal_goes_to_the_direct_child_only",
        ),
        _mutant(
            "leftovers-are-not-asked: the stop signal to what a stopped child leaves",
            "tenure.py Tenure._child_ended",
            {"self._effects.append(SignalTree(self._stop_signal, Scope.ALL, stop=True))": ""},
            f"{_TENURE}test_story[leftovers of a stopped child get the stop signal]",
        ),
        _mutant(
            "stopped-child-is-not-continued: CONT after the stop signal to a stopped child",
            "keeper.py Keeper._signal",
            {"linux.kill_quietly(pid, signal.SIGCONT)": ""},
            f"{_STOPPING}test_a_stopped_child_is_continued_to_take_the_stop_signal",
        ),
        _mutant(
            "spawns-after-term: that TERM before spawn means no spawn",
            "tenure.py Tenure._stop_asked",
            {"self._move(Cause.STOP_ASKED, signal=signum)": ""},
            f"{_TENURE}test_story[a request to stop before the grant starts nothing]",
        ),
        _mutant(
            "leaves-an-acquisition-behind: that a standby which ends waits for its attempt",
            "election.py Election._start_release",
            {"self._attempt_open": "False"},
            f"{_ELECTION}test_story[a standby that ends while acquiring releases what landed]",
        ),
        _mutant(
            "leaves-a-lost-attempt-behind: that an attempt without an answer may still land",
            "election.py Election._act_releasing",
            {"not self._attempt_open": "True"},
            f"{_ELECTION}test_story[a standby that ends waits for an attempt that may still land]",
        ),
        _mutant(
            "guardian-dies-of-term: that the guardian blocks signals and reads them",
            "guardian.py Guardian.__init__",
            {
                "signal.pthread_sigmask(signal.SIG_BLOCK, linux.ALL_SIGNALS)": """
                signal.pthread_sigmask(signal.SIG_BLOCK, linux.ALL_SIGNALS - {signal.SIGTERM})
                """
            },
            f"{_STOPPING}test_requests_to_stop_send_the_stop_signal[15]",
        ),
    ),
    _rule(
        "15",
        "A command that cannot run does not campaign, and neither does an election inside itself.",
        _mutant(
            "campaigns-for-what-cannot-run: that the command is looked up before campaigning",
            "cli.py run",
            {
                'config.resolve_command(parsed.command[0], environ.get("PATH"))': """
                parsed.command[0]
                """
            },
            f"{_CHILD}test_a_command_that_cannot_run_is_refused_before_campaigning",
        ),
        _mutant(
            "not-executable-is-found-out-later: that what may not be executed is refused",
            "config.py _refusal",
            {"os.X_OK": "os.F_OK"},
            f"{_CHILD}test_a_command_that_cannot_run_is_refused_before_campaigning[420-126]",
        ),
        _mutant(
            "nested-by-its-own-environment: that one inside its own election is refused",
            "config.py parse",
            {"if namespace is not None: refuse_nesting(election, namespace, environ)": ""},
            f"{_CONFIG}test_same_election_inside_itself",
        ),
        _mutant(
            "nested-with-a-cleared-environment: the look at the environment of ancestors",
            "cli.py _refuse_nesting",
            {"not linux.runs_below(KEEPER_NAME)": "KEEPER_NAME"},
            f"{_CHILD}test_nested_in_the_same_election_is_refused[True]",
        ),
    ),
    _rule(
        "16",
        "Guardian, elector, keeper and child have their own process groups, so that job control "
        "never stops all of them while the child runs on.",
        _mutant(
            "elector-in-the-guardians-group: the elector's own process group",
            "guardian.py Guardian._forked",
            {"os.setpgid(0, 0)": "if name != 'leaderexec-elec': os.setpgid(0, 0)"},
            f"{_CHILD}test_processes_have_groups_of_their_own",
            more=_edits(
                "guardian.py Guardian._fork_elector",
                {"os.setpgid(pid, pid)": ""},
            ),
        ),
        _mutant(
            "keeper-in-the-guardians-group: the keeper's own process group",
            "guardian.py Guardian._forked",
            {"os.setpgid(0, 0)": "if name != KEEPER_NAME: os.setpgid(0, 0)"},
            f"{_CHILD}test_processes_have_groups_of_their_own",
            more=_edits(
                "guardian.py Guardian._fork_keeper",
                {"os.setpgid(pid, pid)": ""},
            ),
        ),
        _mutant(
            "child-in-the-keepers-group: the child's own process group",
            "keeper.py _become_child",
            {"os.setpgid(0, 0)": ""},
            f"{_CHILD}test_processes_have_groups_of_their_own",
            f"{_CHILD}test_child_starts_with_a_clean_signal_state",
            more=_edits("keeper.py Keeper._start", {"os.setpgid(pid, pid)": ""}),
        ),
        _mutant(
            "terminal-stays-with-the-guardian: that the terminal is the child's",
            "keeper.py _take_terminal",
            {"os.tcsetpgrp(0, os.getpid())": ""},
            f"{_TERMINAL}test_what_a_child_with_a_terminal_ever_gets[session]",
        ),
        _mutant(
            "job-stops-within-a-turn: that what came during the stop is heard first",
            "guardian.py Guardian._child_stopped",
            {"self._stop_job_by = signum": "self._stop_job(ours, signum)"},
            f"{_TERMINAL}test_ctrl_z_and_fg",
        ),
        _mutant(
            "stop-that-nobody-could-undo: that a child is continued where no shell could do it",
            "guardian.py Guardian._child_stopped",
            {"if signum == signal.SIGTSTP: self._tell_keeper(_CONTINUE)": ""},
            f"{_TERMINAL}test_ctrl_z_where_nobody_could_continue",
        ),
        _mutant(
            "stopped-job-stays-stopped: that a stopped guardian is continued to kill",
            "elector.py Elector._take_proof",
            {"signal.pidfd_send_signal(self._seat.guardian_pidfd, signal.SIGCONT)": ""},
            f"{_TERMINAL}test_ctrl_z_and_the_death_of_the_keeper",
        ),
        _mutant(
            "terminal-of-a-dead-child: that the terminal is taken back from a dead child",
            "guardian.py Guardian._tree_ended",
            {"self._take_terminal_back(ended_by_itself=False)": ""},
            f"{_TERMINAL}test_the_terminal_of_a_child_that_nobody_told_of",
        ),
        without=(
            "that a stopped child is killed at the deadline: it is the deadline of every child"
        ),
    ),
    _rule(
        "17",
        "Lateness is added to the margin, and a flood of signals or messages delays no deadline.",
        _mutant(
            "lateness-is-forgiven: that a late wake-up is noticed",
            "tenure.py Tenure.step",
            {"self._was_late(now_ns - self.wake_at_ns)": ""},
            f"{_TENURE}test_story[lateness is added to the margin from then on]",
        ),
        _mutant(
            "stopped-job-is-late: that a stop which the terminal's user asked for is no lateness",
            "tenure.py Tenure.resumed",
            {"self.wake_at_ns = max(self.wake_at_ns, now_ns)": ""},
            "tests/unit/test_terminal.py::test_a_stop_that_was_asked_for_is_no_lateness",
        ),
        _mutant(
            "signals-without-end: that a flood of signals leaves time for the deadlines",
            "linux.py SignalFd.receive",
            {"range(SIGNALS_AT_ONCE)": "range(1_000_000_000)"},
            f"{_LINUX}test_a_flood_of_signals_is_taken_in_portions",
        ),
        _mutant(
            "messages-without-end: that a flood of messages leaves time for the deadlines",
            "channel.py Channel.receive",
            {"range(_PACKETS_AT_ONCE)": "range(1_000_000_000)"},
            f"{_CHANNEL}test_a_flood_is_taken_in_portions",
        ),
        _mutant(
            "lateness-of-the-last-time: that the worst lateness counts",
            "tenure.py Tenure._was_late",
            {"worst_ns > self._lateness_ns": "worst_ns != self._lateness_ns"},
            f"{_TENURE}test_story[the worst lateness counts]",
        ),
        _mutant(
            "lateness-is-not-told-the-keeper: that the keeper's deadline moves too",
            "tenure.py Tenure._was_late",
            {"self._effects.append(SetDeadline(self.kill_at_ns))": ""},
            f"{_TENURE}test_story[lateness moves the deadline of the keeper too]",
        ),
    ),
    _rule(
        "18",
        "A local lock is used only when it is asked for by name.",
        _mutant(
            "local-lock-by-default: that a local lock must be asked for",
            "config.py",
            {'default="leases"': 'default="file:/run/leaderexec"'},
            f"{_CONFIG}test_defaults",
        ),
    ),
    _rule(
        "G1",
        "The tree is dead before another candidate can acquire, counted from before the last "
        "renewal was sent.",
        _mutant(
            "no-margin: the two seconds of the margin",
            "model.py Timing.margin_ns",
            {"2 * SECOND_NS + self.lease_duration_ns // 100": "self.lease_duration_ns // 100"},
            f"{_MODEL}test_the_margin_grows_with_the_lease",
        ),
        _mutant(
            "no-time-to-kill: the inequality of the timing budget",
            "model.py Timing.validate",
            {"self.grace_on_loss_ns <= 0": "self.grace_on_loss_ns < -self.margin_ns"},
            f"{_MODEL}test_a_grace_of_exactly_nothing_is_refused",
        ),
        _mutant(
            "grant-from-the-reply: that a grant counts from before its renewal was sent",
            "election.py Election._count",
            {
                "call.sent_ns + min(record.lease_duration_ns, self._lease_ns)": """
                self._now.boot_ns + min(record.lease_duration_ns, self._lease_ns)
                """
            },
            f"{_ELECTION}test_story[a grant counts from before the write was sent]",
        ),
        _mutant(
            "renewed-at-the-reply: that the renew deadline counts from before sending",
            "election.py Election._count",
            {"renewed_at_ns=call.sent_ns": "renewed_at_ns=self._now.boot_ns"},
            f"{_ELECTION}test_story[a grant counts from before the write was sent]",
        ),
        _mutant(
            "clock-that-a-suspend-stops: that times are of CLOCK_BOOTTIME",
            "linux.py boottime_ns",
            {"time.CLOCK_BOOTTIME": "time.CLOCK_MONOTONIC"},
            f"{_LINUX}test_times_and_timers_are_those_of_the_clock_that_a_suspend_does_not_stop",
        ),
        _mutant(
            "timer-that-a-suspend-stops: that timers are of CLOCK_BOOTTIME",
            "linux.py",
            {"_CLOCK_BOOTTIME: Final = 7": "_CLOCK_BOOTTIME: Final = 1"},
            f"{_LINUX}test_times_and_timers_are_those_of_the_clock_that_a_suspend_does_not_stop",
        ),
        _mutant(
            "no-stop-at-the-renew-deadline: the stop signal at the renew deadline",
            "tenure.py Tenure._set_limits",
            {"grant.renewed_at_ns + self._timing.renew_deadline_ns": "grant.expires_at_ns"},
            f"{_TENURE}test_story[a grant starts a tree with both deadlines]",
        ),
        _mutant(
            "no-kill-at-the-deadline: SIGKILL at the deadline",
            "tenure.py Tenure._pass_deadlines",
            {"self._kill(Cause.DEADLINE)": ""},
            f"{_TENURE}test_story[without renewals the tree is asked to stop and then killed]",
        ),
        _mutant(
            "drains-beyond-the-lease: that the lease bounds a drain",
            "tenure.py Tenure.kill_at_ns",
            {"min(self._kill_at_ns, self._stop_by_ns)": "self._stop_by_ns"},
            f"{_TENURE}test_story[a drain is bounded by the lease when renewals fail]",
        ),
        _mutant(
            "grace-in-anothers-lease: that a lock held by another kills at once",
            "tenure.py Tenure._lost",
            {
                "self._kill(Cause.LOST, detail=event.reason)": """
                if self.state is State.RUNNING:
                    self._stop(Cause.OVERDUE)
                """
            },
            f"{_TENURE}test_story[a lock that belongs to another kills at once]",
        ),
        _mutant(
            "late-renewal-revokes-a-stop: that stopping is irrevocable",
            "tenure.py Tenure._granted",
            {
                """
                self.grant = grant
                self._set_limits(grant)
                """: """
                self.grant = grant
                self._set_limits(grant)
                self.state = State.RUNNING
                """
            },
            f"{_TENURE}test_story[stopping is irrevocable]",
        ),
        _mutant(
            "keeper-without-a-deadline: that the keeper kills at the deadline by itself",
            "keeper.py Keeper.run",
            {"self._timer.fileno() in ready": "False"},
            f"{_FAULTS}test_a_guardian_stopped_as_init",
            also="G3",
        ),
    ),
    _rule(
        "G2",
        "The lock is neither released nor taken anew while the tree runs.",
        _mutant(
            "leads-beside-its-old-tree: that a new try waits for the end of a lost tree",
            "election.py Election._act_standby",
            {
                "self._tree_of is None and now_ns >= try_at_ns and self._may_lead()": """
                now_ns >= try_at_ns and self._may_lead()
                """
            },
            f"{_ELECTION}test_story[after a loss there is no new try before the tree is gone]",
        ),
    ),
    _rule(
        "G3",
        "No single process that is killed, hung or stopped breaks G1.",
        _mutant(
            "keeper-outlives-its-guardian: that a keeper kills when its guardian is dead",
            "keeper.py Keeper.run",
            {"self._guardian_pidfd in ready": "False"},
            f"{_FAULTS}test_a_part_is_killed_or_stopped[guardian-killed]",
            more=_edits(
                "keeper.py Keeper._take_messages",
                {
                    "self._killing = True": """
                    self._poll.unregister(self._channel.fileno())
                    self._poll.unregister(self._guardian_pidfd)
                    """
                },
            ),
        ),
        _mutant(
            "silent-keeper-is-trusted: that a silent keeper is taken for dead",
            "tenure.py Tenure._act_tree",
            {"self._keeper.silent(now_ns)": "self._keeper.silent(now_ns) and now_ns < 0"},
            f"{_FAULTS}test_a_part_is_killed_or_stopped[keeper-stopped]",
        ),
        _mutant(
            "silent-elector-is-trusted: that a silent elector is killed",
            "tenure.py Tenure._act",
            {"self._elector.silent(now_ns)": "self._elector.silent(now_ns) and now_ns < 0"},
            f"{_FAULTS}test_a_stopped_elector_is_replaced",
        ),
        _mutant(
            "silent-guardian-is-trusted: that a leader whose guardian is silent kills it",
            "election.py Election._act_holder",
            {"self._effects.append(KillGuardian())": ""},
            f"{_FAULTS}test_a_part_is_killed_or_stopped[guardian-stopped]",
        ),
        _mutant(
            "renews-for-a-silent-guardian: that nobody renews for a silent guardian",
            "election.py Election._act_holder",
            {
                """
                if not self._guardian_killed and not self._guardian_needed:
                    self._guardian_killed = True
                    self._note("error", "the guardian is silent: no more renewals, killing it")
                    self._effects.append(KillGuardian())
                return
                """: """
                if not self._guardian_killed and not self._guardian_needed:
                    self._guardian_killed = True
                    self._note("error", "the guardian is silent: no more renewals, killing it")
                    self._effects.append(KillGuardian())
                """
            },
            f"{_ELECTION}test_story[a leader whose guardian is silent stops renewing and kills it]",
        ),
        _mutant(
            "kills-the-last-who-can-kill: that a guardian which alone can end a tree is spared",
            "election.py Election._act_holder",
            {"not self._guardian_needed": "True"},
            f"{_ELECTION}test_story[a guardian that alone can end the tree is not killed]",
        ),
        _mutant(
            "campaigns-for-a-silent-guardian: that a standby whose guardian is silent does not try",
            "election.py Election._act_standby",
            {"silent": "False"},
            f"{_ELECTION}test_story[a standby whose guardian is silent does not try]",
        ),
        _mutant(
            "campaigns-for-a-dead-guardian: that a standby whose guardian died does not try",
            "election.py Election._act_standby",
            {"self._guardian_dead": "False"},
            f"{_ELECTION}test_story[a standby whose guardian died does not try]",
        ),
        _mutant(
            "silence-of-a-suspended-machine: that a process that overslept hears the others out",
            "vigil.py Vigil.silent",
            {"now_ns - self._looked_ns > self._pause_ns": "now_ns < 0"},
            f"{_VIGIL}test_whoever_overslept_hears_the_peer_out_first",
        ),
    ),
    _rule(
        "G4",
        "A released lock is taken at once.",
        _mutant(
            "release-is-waited-out: that a released lock is free at once",
            "election.py Election._free_at_ns",
            {"not seen.record.holder": "seen.record.holder is None"},
            f"{_ELECTION}test_story[a released lock is taken at once]",
        ),
    ),
    _rule(
        "G5",
        "Nobody's lock is stolen: the record's own duration decides, and what has changed or "
        "cannot be read is not overwritten.",
        _mutant(
            "expiry-by-our-own-duration: that a record's own duration decides",
            "election.py Election._expiry_ns",
            {
                "record.lease_duration_ns or self._timing.lease_duration_ns": """
                self._timing.lease_duration_ns
                """
            },
            f"{_ELECTION}test_story"
            "[a held lock is tried when its own duration has passed since it changed]",
        ),
        _mutant(
            "no-duration-is-no-lease: that a record without a duration is waited out",
            "election.py Election._expiry_ns",
            {
                "record.lease_duration_ns or self._timing.lease_duration_ns": """
                record.lease_duration_ns
                """
            },
            f"{_ELECTION}test_story[a record without a duration is given the usual one]",
        ),
        _mutant(
            "renewals-of-others-are-not-seen: that a changed record starts the wait anew",
            "election.py Election._observe",
            {"before.record != snapshot.record": "False"},
            f"{_ELECTION}test_story[each renewal that is seen starts the wait anew]",
        ),
        _mutant(
            "old-news-of-a-watch: that a watch which lags behind is not believed",
            "election.py Election._observe",
            {"if asked_ns is None or asked_ns < self._seen_ns: return False": ""},
            f"{_ELECTION}test_story[a watch that lags behind a read is ignored]",
        ),
        _mutant(
            "unreadable-annotation-is-free: that an empty annotation is an error",
            "locks/annotation.py _fields",
            {"text is None": "not text"},
            f"{_ANNOTATION}test_golden_annotations",
        ),
        _mutant(
            "unreadable-holder-is-free: that a holder which is no text is an error",
            "locks/fields.py from_fields",
            {"holder is not None and not isinstance(holder, str)": "isinstance(holder, bytes)"},
            f"{_ANNOTATION}test_golden_annotations",
        ),
        _mutant(
            "file-overwrites-what-changed: the comparison before the swap",
            "locks/file.py FileLock.update",
            {"found != seen": "not found.uid"},
            f"{_LOCKS}TestFileLock::test_a_stale_update_is_a_conflict",
        ),
        _mutant(
            "file-compares-versions-alone: that uid and record are compared too",
            "locks/file.py FileLock.update",
            {"found != seen": "found.version != seen.version"},
            f"{_LOCKS}TestFileLock::test_another_objects_uid_is_a_conflict",
            f"{_FILE}test_a_holder_put_there_by_hand_is_not_overwritten",
        ),
        _mutant(
            "file-is-created-over-another: that what exists is not created",
            "locks/file.py FileLock.create",
            {"files.load(folder) is not None": "files.load(folder) is files"},
            f"{_LOCKS}TestFileLock::test_what_exists_is_not_created",
        ),
        _mutant(
            "file-without-flock: the lock between read and rename",
            "locks/file.py _Files._flock",
            {"fcntl.LOCK_EX | fcntl.LOCK_NB": "fcntl.LOCK_SH | fcntl.LOCK_NB"},
            f"{_FILE}test_a_stopped_writer_blocks_nobody_for_ever",
        ),
        _mutant(
            "file-lock-of-a-deleted-name: the second look at the lock file before the rename",
            "locks/file.py _Files.replace",
            {"self.guards(guard, folder)": "True"},
            f"{_FILE}test_a_lock_file_deleted_during_a_write_stops_it",
        ),
        _mutant(
            "file-tokens-start-anew: that no fencing token is issued twice",
            "locks/file.py _Files.next_version",
            {"self.highest(guard)": "0"},
            f"{_FILE}test_versions_survive_what_people_delete",
        ),
        _mutant(
            "file-of-another-election: that another election's record is refused",
            "locks/file.py _decode",
            {"theirs != election": "not election"},
            f"{_FILE}test_another_elections_record_is_refused",
        ),
    ),
    _rule(
        "G6",
        "The record is the one that client-go and the elector of 2016 write and read.",
        _mutant(
            "released-for-a-whole-lease: the one second in a released record",
            "election.py Election._act_releasing",
            {"lease_duration_s=1": "lease_duration_s=self._timing.lease_duration_s"},
            f"{_ELECTION}test_story[a release writes nobody for one second]",
        ),
        _mutant(
            "transitions-by-another-name: the record of 2016 to the byte",
            "locks/annotation.py",
            {'"leaderTransitions"': '"leaseTransitions"'},
            f"{_ANNOTATION}test_a_created_object_is_the_golden_annotation",
        ),
    ),
)
