"""Which mutants there are: each line that keeps trees apart, and the test that misses it.

Owns: the table, in the order of DESIGN's safety rules and then of its guarantees; and why a part of
a rule is not in it. A mutant removes behaviour and keeps the program running, so that what fails is
a test about the rule, and not every process.
Must not know: how they are tried.

To add one: name the file, the function and the code in it that goes, an expression or statements,
as little of it as stands there once (see `edit`); say what is gone; name the cheapest test that
fails by an assertion of its own when it is.
"""

from __future__ import annotations

from typing import Final

from tests.mutants.edit import Edit
from tests.mutants.trial import Mutant

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
_FAULTS: Final = "tests/process/test_faults.py::"
_SUITE: Final = f"{_FAULTS}TestFaultsOnTheFileLock::"
_CHILD: Final = "tests/process/test_child.py::"
_STOPPING: Final = "tests/process/test_stopping.py::"
_AROUND: Final = "tests/process/test_surroundings.py::"
_HTTP: Final = "tests/process/test_http.py::"
_INIT: Final = "tests/process/test_init_options.py::"
_TERMINAL: Final = "tests/process/test_terminal.py::"
_CHANNEL: Final = "tests/unit/test_channel.py::"


def _mutant(name: str, rules: str, removes: str, edit: Edit, *tests: str) -> Mutant:
    return Mutant(name, tuple(rules.split()), removes, (edit,), tests)


#: What no mutant removes, by the number of the rule, and why. A rule may have mutants as well.
NOT_CODE: Final[dict[int, str]] = {
    2: "that deletes carry preconditions: leaderexec deletes no object",
    5: "that a zombie main thread is no end: the kernel's wait decides, no line of ours",
    7: "a new socketpair per elector: without it the next elector has no channel at all, and an "
    "old grant on a new channel is refused by its generation, which has a mutant",
    9: "that guardian and keeper have no threads: an import contract of setup.cfg sees to it",
    10: "fork instead of Popen or posix_spawn: an import contract of setup.cfg sees to it",
    13: "what the documents say of peers' durations",
    16: "that a stopped child is killed at the deadline: it is the deadline of every child",
}

MUTANTS: Final[tuple[Mutant, ...]] = (
    # --- rule 1: a 200 may renew nothing -----------------------------------------------------
    _mutant(
        "renew-time-as-the-clock-says",
        "1",
        "a renewTime later than the last one written",
        Edit(
            "election.py",
            "Election._next_write_us",
            "max(self._now.wall_us, (last_us // SECOND_US + 1) * SECOND_US)",
            "self._now.wall_us",
        ),
        f"{_ELECTION}test_renew_time_moves_on_when_the_wall_clock_is_set_back",
        f"{_ELECTION}test_whole_seconds_grow_with_every_write_within_one_second",
    ),
    _mutant(
        "renew-time-a-microsecond-later",
        "1",
        "that it is later by a whole second",
        Edit(
            "election.py",
            "Election._next_write_us",
            "(last_us // SECOND_US + 1) * SECOND_US",
            "last_us + 1",
        ),
        f"{_ELECTION}test_renew_time_moves_on_when_the_wall_clock_is_set_back",
    ),
    _mutant(
        "renew-time-forgets-lost-writes",
        "1",
        "the memory of what was written and not answered",
        Edit(
            "election.py",
            "Election._issue",
            "self._written_us = max(self._written_us, record.renew_time_us or 0)",
            "",
        ),
        f"{_ELECTION}test_renew_time_is_later_than_that_of_a_write_whose_reply_was_lost",
    ),
    _mutant(
        "renew-time-forgets-the-predecessor",
        "1",
        "the look at what a dead elector has written",
        Edit(
            "election.py",
            "Election._next_write_us",
            "last_us = max(last_us, self._seen.record.renew_time_us or 0)",
            "",
        ),
        f"{_ELECTION}test_an_heir_writes_a_later_second_than_its_predecessor",
    ),
    _mutant(
        "unchanged-renewal-counts",
        "1",
        "that a renewal counts only if the version changed",
        Edit(
            "election.py",
            "Election._wrote_renewal",
            "snapshot.version == call.seen.version",
            'snapshot.version == ""',
        ),
        f"{_ELECTION}test_a_renewal_that_changed_no_version_is_not_counted",
    ),
    _mutant(
        "unchanged-acquisition-counts",
        "1",
        "that an acquisition counts only if the version changed",
        Edit(
            "election.py",
            "Election._wrote_acquisition",
            "snapshot.version == call.seen.version",
            'snapshot.version == ""',
        ),
        f"{_ELECTION}test_an_attempt_that_changed_nothing_is_no_leadership",
    ),
    _mutant(
        "retry-within-a-second",
        "1",
        "the least retry period of a second",
        Edit(
            "model.py",
            "Timing.validate",
            "self.retry_period_ns < SECOND_NS",
            "self.retry_period_ns < 1",
        ),
        f"{_MODEL}test_what_does_not_fit_is_refused_with_its_numbers[timing2---retry-period-words2]",
    ),
    # --- rule 2: a PUT after a DELETE creates ------------------------------------------------
    _mutant(
        "write-without-uid",
        "2 G5",
        "metadata.uid in what is written",
        Edit(
            "locks/kubeobject.py",
            "KubernetesLock._put",
            """
            {
                **metadata,
                "name": self._name,
                "namespace": self.namespace,
                "uid": seen.uid,
                "resourceVersion": seen.version,
            }
            """,
            """
            {
                **metadata,
                "name": self._name,
                "namespace": self.namespace,
                "resourceVersion": seen.version,
            }
            """,
        ),
        f"{_ANNOTATION}test_a_write_carries_what_the_server_compares",
    ),
    _mutant(
        "write-without-version",
        "2 G5",
        "metadata.resourceVersion as it was seen in what is written",
        Edit(
            "locks/kubeobject.py",
            "KubernetesLock._put",
            """
            {
                **metadata,
                "name": self._name,
                "namespace": self.namespace,
                "uid": seen.uid,
                "resourceVersion": seen.version,
            }
            """,
            '{**metadata, "name": self._name, "namespace": self.namespace, "uid": seen.uid}',
        ),
        f"{_ANNOTATION}test_a_write_carries_what_the_server_compares",
    ),
    _mutant(
        "leads-on-a-created-object",
        "2",
        "that an acquisition which created another object is none",
        Edit(
            "election.py",
            "Election._wrote_acquisition",
            "snapshot.uid != call.seen.uid",
            "not snapshot.uid",
        ),
        f"{_ELECTION}test_an_attempt_that_created_another_object_is_no_leadership",
    ),
    _mutant(
        "created-object-is-taken-at-once",
        "2",
        "the wait after an object was created by mistake",
        Edit(
            "election.py",
            "Election._wrote_acquisition",
            """
            self._hold_off_ns = max(
                self._hold_off_ns, self._now.boot_ns + self._timing.lease_duration_ns
            )
            """,
            "",
        ),
        "tests/unit/test_simulation.py::"
        "test_not_leading_on_an_object_that_the_write_created_keeps_trees_apart",
    ),
    _mutant(
        "renews-a-created-object",
        "2",
        "that a renewal which created another object is a loss",
        Edit(
            "election.py",
            "Election._wrote_renewal",
            "snapshot.uid != call.seen.uid",
            "not snapshot.uid",
        ),
        f"{_ELECTION}test_a_renewal_that_created_another_object_is_a_loss",
    ),
    _mutant(
        "absent-while-leading-is-no-loss",
        "2",
        "that 404 while leading is a loss",
        Edit(
            "election.py",
            "Election._failed",
            """
            if self.state in {State.LEADER, State.RESUMING}:
                self._lose("the lock's object was deleted")
            """,
            "",
        ),
        f"{_ELECTION}test_a_deleted_object_is_a_loss",
    ),
    _mutant(
        "reads-past-a-deletion",
        "2",
        "that a leader which reads nothing has lost",
        Edit(
            "election.py",
            "Election._read_as_holder",
            "self._absent or self._seen is None",
            "self._seen is None",
        ),
        f"{_ELECTION}test_a_conflict_is_a_loss_only_when_a_read_says_so[None-was deleted]",
    ),
    _mutant(
        "another-uid-while-leading-is-no-loss",
        "2 3",
        "that a leader which reads another uid has lost",
        Edit(
            "election.py",
            "Election._read_as_holder",
            "self._seen.uid != self._holding.uid",
            "not self._seen.uid",
        ),
        f"{_ELECTION}test_a_conflict_is_a_loss_only_when_a_read_says_so"
        "[found2-replaced by another]",
        f"{_ELECTION}test_an_heir_keeps_the_token_only_if_nothing_of_the_claim_changed[uid]",
    ),
    _mutant(
        "deletion-frees",
        "2",
        "the stamp that is kept across a deletion",
        Edit(
            "election.py",
            "Election._free_at_ns",
            "seen = self._seen",
            "seen = self._present",
        ),
        f"{_ELECTION}test_a_stamp_is_kept_across_a_deletion",
    ),
    _mutant(
        "deletion-of-an-unseen-version-frees",
        "2",
        "the stamp of a deleted version that was never seen",
        Edit(
            "election.py",
            "Election._observe",
            """
            if self._outdated:
                self._stamp_ns = self._now.boot_ns
            """,
            """
            if self._outdated:
                pass
            """,
        ),
        f"{_ELECTION}test_a_version_that_was_missed_and_deleted_is_waited_out",
    ),
    # --- rule 3: late PUTs land --------------------------------------------------------------
    _mutant(
        "grants-what-it-reads",
        "3",
        "that an elector grants after its own counted write only",
        Edit(
            "election.py",
            "Election._read_as_holder",
            "self._renew_at_ns = self._now.boot_ns",
            """
            if self.state is State.RESUMING:
                self._move(Cause.RENEWED)
                read = _Call(0, _Purpose.READ, self._now.boot_ns)
                self._count(read, self._seen.record)
            self._renew_at_ns = self._now.boot_ns
            """,
        ),
        f"{_ELECTION}test_an_heir_reads_first_and_grants_after_its_own_write_only",
    ),
    _mutant(
        "two-requests-in-flight",
        "3",
        "that a leader waits for the answer to its last request",
        Edit(
            "election.py",
            "Election._act_holder",
            """
            if self._call is not None:
                return
            """,
            "",
        ),
        f"{_ELECTION}test_one_request_is_in_flight_at_a_time",
    ),
    _mutant(
        "believes-any-answer",
        "3",
        "that an answer counts for its own request only",
        Edit(
            "election.py",
            "Election._take_call",
            "call is None or call.call_id != call_id",
            "call is None",
        ),
        f"{_ELECTION}test_an_answer_to_another_call_is_ignored",
    ),
    _mutant(
        "releases-beside-a-renewal",
        "3",
        "that a release waits for the renewal in flight",
        Edit(
            "election.py",
            "Election._act_releasing",
            """
            if self._call is not None:
                return
            """,
            "",
        ),
        f"{_ELECTION}test_a_release_waits_for_the_renewal_in_flight",
    ),
    _mutant(
        "releases-anothers-record",
        "3 G5",
        "that only our own record is given back",
        Edit(
            "election.py",
            "Election._act_releasing",
            "self._absent or self._seen is None or not self._mine(self._seen.record)",
            "self._absent or self._seen is None",
        ),
        f"{_ELECTION}test_a_conflict_on_release_with_another_holder_is_left_alone",
    ),
    _mutant(
        "releases-a-deleted-object",
        "3 G5",
        "that what was deleted is not written again by a release",
        Edit(
            "election.py",
            "Election._act_releasing",
            "self._absent or self._seen is None or not self._mine(self._seen.record)",
            "self._seen is None or not self._mine(self._seen.record)",
        ),
        f"{_ELECTION}test_a_release_of_a_deleted_object_resurrects_nothing",
    ),
    _mutant(
        "claim-without-holder",
        "3 12",
        "the holder in what makes a record ours",
        Edit(
            "model.py",
            "Claim.made",
            """
            record.holder == self.holder
            and record.acquire_time_us == self.acquire_time_us
            and record.transitions == self.transitions
            """,
            """
            record.acquire_time_us == self.acquire_time_us
            and record.transitions == self.transitions
            """,
        ),
        f"{_MODEL}test_a_claim_is_not_made_by_another_leadership[claim0]",
        f"{_ELECTION}test_an_heir_keeps_the_token_only_if_nothing_of_the_claim_changed[holder]",
    ),
    _mutant(
        "claim-without-acquire-time",
        "3 12",
        "the acquireTime in what makes a record ours",
        Edit(
            "model.py",
            "Claim.made",
            """
            record.holder == self.holder
            and record.acquire_time_us == self.acquire_time_us
            and record.transitions == self.transitions
            """,
            "record.holder == self.holder and record.transitions == self.transitions",
        ),
        f"{_MODEL}test_a_claim_is_not_made_by_another_leadership[claim1]",
        f"{_ELECTION}test_an_heir_keeps_the_token_only_if_nothing_of_the_claim_changed"
        "[acquire time]",
    ),
    _mutant(
        "claim-without-transitions",
        "3 12",
        "the transitions in what makes a record ours",
        Edit(
            "model.py",
            "Claim.made",
            """
            record.holder == self.holder
            and record.acquire_time_us == self.acquire_time_us
            and record.transitions == self.transitions
            """,
            "record.holder == self.holder and record.acquire_time_us == self.acquire_time_us",
        ),
        f"{_MODEL}test_a_claim_is_not_made_by_another_leadership[claim2]",
        f"{_ELECTION}test_an_heir_keeps_the_token_only_if_nothing_of_the_claim_changed"
        "[transitions]",
    ),
    # --- rule 4: kill loops ------------------------------------------------------------------
    _mutant(
        "keeper-is-no-subreaper",
        "4",
        "that orphans of the tree fall to the keeper",
        Edit(
            "guardian.py",
            "Guardian._fork_keeper.keep",
            "linux.become_subreaper()",
            "True",
        ),
        f"{_CHILD}test_a_child_that_forks_and_exits_leaves_a_tree_that_is_stopped",
    ),
    _mutant(
        "guardian-is-no-subreaper",
        "4 G3",
        "that what a dead keeper leaves falls to the guardian",
        Edit(
            "guardian.py",
            "Guardian.__init__",
            "self._is_init or linux.become_subreaper()",
            "True",
        ),
        f"{_SUITE}test_keeper_killed[plain]",
    ),
    _mutant(
        "group-is-not-killed",
        "4",
        "the one write that kills a control group",
        Edit(
            "cgroup.py",
            "TreeGroup.kill",
            'os.write(self._fds[0], b"1")',
            "",
        ),
        f"{_INIT}test_one_write_kills_what_is_in_the_group",
    ),
    _mutant(
        "keeper-proves-what-it-cannot-see",
        "4 5",
        "that a keeper which is no subreaper proves nothing",
        Edit(
            "keeper.py",
            "Keeper.run",
            """
            if not self._is_subreaper:
                return UNPROVEN
            """,
            "",
        ),
        f"{_INIT}test_without_a_subreaper_a_dead_guardians_lock_is_not_given_back",
    ),
    _mutant(
        "keeper-sweeps-once",
        "4",
        "the loop of the keeper that kills until ECHILD",
        Edit(
            "keeper.py",
            "Keeper._kill_all",
            """
            if not self._reap():
                return
            """,
            """
            self._reap()
            return
            """,
        ),
        f"{_FAULTS}test_the_depth_of_a_tree_dies_though_its_guardian_lives_on",
    ),
    _mutant(
        "keeper-searches-first",
        "4",
        "the one call with which a keeper begins to kill",
        Edit(
            "keeper.py",
            "Keeper._kill_all",
            "os.killpg(self._child, signal.SIGKILL)",
            "",
        ),
        f"{_LINUX}test_the_first_act_of_a_keeper_that_kills_is_one_call",
    ),
    _mutant(
        "guardian-leaves-the-kill-to-the-keeper",
        "4",
        "the one call with which the guardian kills the child itself",
        Edit(
            "guardian.py",
            "Guardian._kill_child",
            "os.killpg(self._child[0], signal.SIGKILL)",
            "",
        ),
        f"{_LINUX}test_a_guardian_kills_the_childs_group_itself",
    ),
    _mutant(
        "no-last-resort-of-init",
        "4",
        "the kill of the whole namespace by its PID 1",
        Edit(
            "guardian.py",
            "Guardian._take_over",
            "os.kill(-1, signal.SIGKILL)",
            "",
        ),
        f"{_HTTP}test_as_pid_1_a_take_over_costs_one_server",
    ),
    Mutant(
        "takes-over-from-a-living-keeper",
        ("4", "G3"),
        "that a keeper which does not kill is killed",
        (
            Edit(
                "guardian.py",
                "Guardian._take_over",
                "self._keeper.kill()",
                "",
            ),
            # The sweep would kill it as well.
            Edit(
                "guardian.py",
                "Guardian._spared",
                "{self._elector.pid if self._elector else 0, self._server_pid or 0}",
                """
                {self._elector.pid if self._elector else 0,
                        self._keeper.pid if self._keeper else 0, self._server_pid or 0}
                """,
            ),
        ),
        (f"{_SUITE}test_keeper_stopped_does_not_delay_a_kill",),
    ),
    _mutant(
        "waits-for-the-keeper-for-ever",
        "4 G3",
        "that the guardian kills when the keeper has not",
        Edit(
            "tenure.py",
            "Tenure._act_tree",
            """
            if now_ns >= self._take_over_at_ns:
                self._take_over()
            else:
                self._wake(self._take_over_at_ns)
            """,
            "self._wake(now_ns + SECOND_NS)",
        ),
        f"{_TENURE}test_a_keeper_that_does_not_kill_in_time_is_taken_over_from",
    ),
    _mutant(
        "search-instead-of-children",
        "4 5",
        "zombies in the list of children, where /proc is searched",
        Edit(
            "linux.py",
            "children_by_search",
            "_parent(child) == pid",
            '_parent(child) == pid and _stat(child)[:1] == [b"R"]',
        ),
        f"{_LINUX}test_without_the_kernels_list_proc_is_searched",
    ),
    # --- rule 5: dead means reaped -----------------------------------------------------------
    _mutant(
        "child-for-tree",
        "5 G2",
        "that a tree lives until its last process is reaped",
        Edit(
            "keeper.py",
            "Keeper._reap",
            "reaped.any_left",
            "reaped.any_left and not self._child_reaped",
        ),
        f"{_CHILD}test_a_child_that_forks_and_exits_leaves_a_tree_that_is_stopped",
    ),
    _mutant(
        "any-end-of-a-keeper-is-the-trees",
        "5 G3",
        "that a keeper which did not exit with 0 proves nothing",
        Edit(
            "guardian.py",
            "Guardian._keeper_ended",
            "status == 0",
            "status >= 0",
        ),
        f"{_SUITE}test_keeper_killed[plain]",
    ),
    _mutant(
        "end-of-file-is-a-proof",
        "5 9",
        "that only the keeper's byte proves its tree dead",
        Edit(
            "elector.py",
            "Elector._take_proof",
            "os.read(self._proof_fd, 1) != PROOF",
            "os.read(self._proof_fd, 1) is None",
        ),
        f"{_AROUND}test_a_tree_that_may_not_be_killed_is_never_released",
    ),
    _mutant(
        "guardians-death-is-a-proof",
        "5 G2",
        "that the elector of a dead guardian waits for the keeper",
        Edit(
            "elector.py",
            "Elector._guardian_died",
            "self._proof_fd is None",
            "self._guardian_dead",
        ),
        f"{_FAULTS}test_a_dead_guardians_lock_is_kept_until_its_tree_is_dead",
    ),
    _mutant(
        "keeper-is-not-announced",
        "5 G3",
        "that the elector knows the keeper before it starts anything",
        Edit(
            "guardian.py",
            "Guardian._start_tree",
            "self._elector and self._elector.channel.send(wire.KeeperForked(), self._proof_fd)",
            "self._elector",
        ),
        f"{_FAULTS}test_a_dead_guardians_lock_is_kept_until_its_tree_is_dead",
    ),
    _mutant(
        "childs-end-is-the-trees",
        "5 G2",
        "that the lock is kept while leftovers of the child live",
        Edit(
            "tenure.py",
            "Tenure._child_ended",
            "self._stop(Cause.CHILD_ENDED, exit_code=exit_code)",
            "self._tree_ended()",
        ),
        f"{_TENURE}test_what_a_child_leaves_behind_is_stopped_and_then_killed",
    ),
    # --- rule 6: look at the clock last ------------------------------------------------------
    _mutant(
        "child-does-not-look-at-the-clock",
        "6",
        "the last look at the clock before exec",
        Edit(
            "keeper.py",
            "_execute",
            "linux.boottime_ns() >= stop_at_ns",
            "stop_at_ns < 0",
        ),
        f"{_FAULTS}test_a_keeper_that_slept_beyond_the_deadline_starts_nothing",
    ),
    _mutant(
        "starts-on-a-late-grant",
        "6 7",
        "that a grant whose stop deadline has passed starts nothing",
        Edit(
            "tenure.py",
            "Tenure._granted",
            "now_ns >= self._stop_at_ns",
            "now_ns >= self._expires_at_ns",
        ),
        f"{_TENURE}test_a_grant_that_arrives_after_its_stop_deadline_starts_nothing",
    ),
    # --- rule 7: grants are absolute ---------------------------------------------------------
    _mutant(
        "grants-of-old-electors",
        "7",
        "that only the present elector grants",
        Edit(
            "tenure.py",
            "Tenure._granted",
            """
            if grant.generation != self.generation:
                return
            """,
            "",
        ),
        f"{_TENURE}test_a_grant_of_another_generation_is_ignored",
    ),
    _mutant(
        "grants-that-are-not-later",
        "7",
        "that a grant which is not later changes nothing",
        Edit(
            "tenure.py",
            "Tenure._granted",
            "grant.expires_at_ns <= held.expires_at_ns or now_ns >= grant.expires_at_ns",
            "now_ns >= grant.expires_at_ns",
        ),
        f"{_TENURE}test_a_grant_that_is_not_later_is_ignored",
    ),
    _mutant(
        "grants-that-have-expired",
        "7",
        "that a grant in the past extends nothing",
        Edit(
            "tenure.py",
            "Tenure._granted",
            "grant.expires_at_ns <= held.expires_at_ns or now_ns >= grant.expires_at_ns",
            "grant.expires_at_ns <= held.expires_at_ns",
        ),
        f"{_TENURE}test_a_grant_that_has_expired_is_ignored",
    ),
    _mutant(
        "grants-of-another-leadership",
        "7",
        "that another token never extends a running tree",
        Edit(
            "tenure.py",
            "Tenure._granted",
            "held is None or self.state is State.GONE or grant.token != held.token",
            "held is None or self.state is State.GONE",
        ),
        f"{_TENURE}test_another_leaderships_grant_never_extends_a_running_tree",
    ),
    _mutant(
        "releases-of-another-leadership",
        "7",
        "that only this leadership's release lets the next tree start",
        Edit(
            "tenure.py",
            "Tenure._released",
            "self.grant is not None and event.token == self.grant.token",
            "self.grant is not None",
        ),
        f"{_TENURE}test_a_release_that_is_not_for_this_leadership_changes_nothing",
    ),
    # --- rule 8: logs never block ------------------------------------------------------------
    _mutant(
        "log-blocks-on-its-own-pipe",
        "8 G3",
        "the non-blocking reopening of standard error",
        Edit(
            "log.py",
            "_way_to",
            "os.O_WRONLY | os.O_NONBLOCK",
            "os.O_WRONLY",
        ),
        f"{_LOG}test_a_process_whose_log_nobody_reads_goes_on[pipe]",
    ),
    Mutant(
        "log-blocks-on-anothers-pipe",
        ("8", "G3"),
        "the poll before a write to a pipe that cannot be reopened",
        (
            Edit(
                "log.py",
                "_by_poll.write",
                """
                ready = poll.poll(0)
                if not ready or not ready[0][1] & select.POLLOUT:
                    return False
                """,
                "",
            ),
            Edit(
                "log.py",
                "_by_poll.write",
                "os.pwritev(fd, [data], -1, os.RWF_NOWAIT) == len(data)",
                "write_now(data)",
            ),
        ),
        (f"{_LOG}test_a_process_whose_log_nobody_reads_goes_on[refused]",),
    ),
    _mutant(
        "log-blocks-on-a-socket",
        "8 G3",
        "MSG_DONTWAIT",
        Edit(
            "log.py",
            "_by_socket.write",
            "socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL",
            "socket.MSG_NOSIGNAL",
        ),
        f"{_LOG}test_a_process_whose_log_nobody_reads_goes_on[socket]",
    ),
    _mutant(
        "log-unblocks-the-childs-pipe",
        "8",
        "that the child's own standard error stays as it was",
        Edit(
            "log.py",
            "_way_to",
            'private = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)',
            """
            os.set_blocking(fd, False)
            private = os.dup(fd)
            """,
        ),
        f"{_LOG}test_a_full_pipe_drops_lines_and_says_how_many[True]",
        f"{_FAULTS}test_the_childs_standard_error_stays_blocking",
    ),
    # --- rule 9: privileges ------------------------------------------------------------------
    _mutant(
        "child-outlives-its-keeper",
        "9",
        "the parent-death signal of the child",
        Edit(
            "keeper.py",
            "_become_child",
            "linux.die_with_parent(keeper)",
            "",
        ),
        f"{_FAULTS}test_a_child_dies_with_its_keeper_whoever_else_is_stopped",
    ),
    _mutant(
        "orphan-before-it-asked",
        "9",
        "the look for the parent after prctl",
        Edit(
            "linux.py",
            "die_with_parent",
            """
            if os.getppid() != parent:
                os._exit(125)
            """,
            "",
        ),
        f"{_LINUX}test_whoever_was_orphaned_before_it_asked_to_die_with_its_parent_leaves[True]",
    ),
    _mutant(
        "child-may-gain-privileges",
        "9",
        "NO_NEW_PRIVS of a guardian that is not root",
        Edit(
            "guardian.py",
            "Guardian._child_spec",
            "os.geteuid() != 0",
            "False",
        ),
        f"{_AROUND}test_without_the_power_to_kill_anybody_the_child_gains_no_privileges"
        "[wrapper1-True]",
    ),
    _mutant(
        "what-may-not-be-killed-is-gone",
        "9",
        "that a process which may not be killed is still there",
        Edit(
            "linux.py",
            "kill_sweep",
            """
            for pid in targets:
                kill_quietly(pid, signal.SIGKILL)
            return targets
            """,
            "return [pid for pid in targets if kill_quietly(pid, signal.SIGKILL)]",
        ),
        f"{_AROUND}test_a_tree_that_may_not_be_killed_is_never_released",
    ),
    _mutant(
        "one-sweep-is-a-proof",
        "9 4",
        "that the guardian sweeps until nothing is left",
        Edit(
            "guardian.py",
            "Guardian._sweep",
            "not swept and self._keeper is None",
            "self._keeper is None",
        ),
        f"{_AROUND}test_a_tree_that_may_not_be_killed_is_never_released",
    ),
    # --- rule 10: fork, signals, descriptors -------------------------------------------------
    _mutant(
        "child-starts-with-signals-blocked",
        "10",
        "that signals are unblocked before exec",
        Edit(
            "keeper.py",
            "_become_child",
            "signal.pthread_sigmask(signal.SIG_SETMASK, ())",
            "",
        ),
        f"{_CHILD}test_child_starts_with_a_clean_signal_state",
    ),
    _mutant(
        "child-starts-with-sigpipe-ignored",
        "10",
        "that SIGPIPE is restored",
        Edit(
            "keeper.py",
            "_become_child",
            "(signal.SIGPIPE, signal.SIGXFSZ)",
            "(signal.SIGXFSZ,)",
        ),
        f"{_CHILD}test_sigpipe_ends_a_child_as_it_would_without_us",
    ),
    _mutant(
        "error-pipe-outlives-exec",
        "10",
        "CLOEXEC of the pipe that tells how exec went",
        Edit(
            "keeper.py",
            "Keeper._start",
            "error_fd, child_error_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)",
            """
            error_fd, child_error_fd = os.pipe2(os.O_NONBLOCK)
            os.set_inheritable(child_error_fd, True)
            """,
        ),
        f"{_CHILD}test_no_descriptor_of_ours_reaches_the_child",
    ),
    _mutant(
        "proof-pipe-outlives-exec",
        "10 5",
        "that nobody of the tree has the pipe that proves its end",
        Edit(
            "guardian.py",
            "Guardian._fork_keeper",
            "os.O_CLOEXEC | os.O_NONBLOCK",
            "os.O_NONBLOCK",
        ),
        f"{_CHILD}test_no_descriptor_of_ours_reaches_the_child",
    ),
    _mutant(
        "exit-codes-are-lost",
        "10",
        "that an ignored SIGCHLD is not inherited",
        Edit(
            "guardian.py",
            "Guardian.__init__",
            "signal.signal(signal.SIGCHLD, signal.SIG_DFL)",
            "",
        ),
        f"{_AROUND}test_all_signals_blocked_by_the_parent",
    ),
    # --- rule 11: the elector's I/O may hang -------------------------------------------------
    _mutant(
        "hanging-call-is-waited-for",
        "11 G3",
        "that an overdue worker ends the elector",
        Edit(
            "elector.py",
            "Elector._check_worker",
            "linux.boottime_ns() >= overdue_at_ns",
            "overdue_at_ns < 0",
        ),
        f"{_FAULTS}test_a_call_that_hangs_ends_the_elector",
    ),
    # --- rule 12: identity -------------------------------------------------------------------
    _mutant(
        "name-is-enough",
        "12",
        "that a record is ours only if we wrote it",
        Edit(
            "election.py",
            "Election._mine",
            "self._slot or (self._claim is not None and self._claim.made(record))",
            "True",
        ),
        f"{_ELECTION}test_a_name_that_may_be_used_twice_proves_nothing",
    ),
    _mutant(
        "random-name-is-enough",
        "12",
        "that a name alone is enough for a slot only",
        Edit(
            "election.py",
            "Election._mine",
            "self._slot or (self._claim is not None and self._claim.made(record))",
            "self._unique or (self._claim is not None and self._claim.made(record))",
        ),
        f"{_ELECTION}test_a_name_alone_is_not_enough_though_nobody_else_can_have_it",
    ),
    _mutant(
        "slot-that-is-taken",
        "12",
        "that a name alone is enough for who holds the claim",
        Edit(
            "cli.py",
            "_serve.run_elector",
            "claim is not None",
            "settings.slot is not None",
        ),
        f"{_CLI}test_only_one_candidate_goes_by_the_name_of_its_slot",
    ),
    _mutant(
        "name-is-enough-for-a-leader",
        "12",
        "that a leader knows its record by more than its name",
        Edit(
            "election.py",
            "Election._read_as_holder",
            "not self._holding.claim.made(self._seen.record)",
            "self._seen.record.holder != self.identity",
        ),
        f"{_ELECTION}test_a_leader_whose_name_another_writes_has_lost",
    ),
    Mutant(
        "claim-outlives-its-leadership",
        ("12",),
        "that a claim ends when another is seen to hold the lock",
        (
            Edit(
                "election.py",
                "Election._observe",
                "self._claim = None",
                "",
            ),
            Edit(
                "election.py",
                "Election._lose",
                "self._claim = None",
                "",
            ),
        ),
        (f"{_ELECTION}test_a_record_that_was_ours_frees_nothing_once_another_has_led",),
    ),
    _mutant(
        "claim-outlives-its-release",
        "12",
        "that a claim ends when the lock is given back",
        Edit(
            "election.py",
            "Election._finish_release",
            """
            if outcome == "released":
                self._claim = None
            """,
            "",
        ),
        f"{_ELECTION}test_a_record_that_was_given_back_frees_nothing_when_it_is_restored",
    ),
    _mutant(
        "refused-attempt-is-a-claim",
        "12",
        "that a refused attempt makes no claim",
        Edit(
            "election.py",
            "Election._failed",
            "self._attempt_open, self._claim = False, None",
            "self._attempt_open = False",
        ),
        f"{_ELECTION}test_one_id_and_one_microsecond_do_not_make_two_leaders",
    ),
    _mutant(
        "claims-of-one-second",
        "12",
        "the doubt about a claim that two can make in one second",
        Edit(
            "election.py",
            "Election._doubt_claim",
            "self._traits.time_unit_us > 1",
            "self._traits.time_unit_us < 1",
        ),
        f"{_ELECTION}test_twins_of_one_second_that_are_both_told_to_leave_do_not_release_each_other",
    ),
    _mutant(
        "counts-an-acquisition-that-was-changed",
        "1",
        "that a 200 may stand for another record",
        Edit(
            "election.py",
            "Election._wrote_acquisition",
            "not _kept(record, snapshot.record)",
            "False",
        ),
        f"{_ELECTION}test_a_write_that_was_changed_on_its_way_counts_for_nothing",
    ),
    _mutant(
        "counts-a-renewal-that-was-changed",
        "1",
        "that a 200 may stand for another record",
        Edit(
            "election.py",
            "Election._wrote_renewal",
            "not _kept(call.record, snapshot.record)",
            "False",
        ),
        f"{_ELECTION}test_a_write_that_was_changed_on_its_way_counts_for_nothing",
    ),
    _mutant(
        "given-name-counts-as-unique",
        "12",
        "that --id may be used twice",
        Edit(
            "config.py",
            "_identity",
            "_Identity(given, generated=False, slot=None)",
            "_Identity(given, generated=True, slot=None)",
        ),
        f"{_CONFIG}test_identity_is_taken_as_it_is",
    ),
    _mutant(
        "slot-without-pid-1",
        "12",
        "that only PID 1 has a slot",
        Edit(
            "config.py",
            "_identity",
            "not slot_known or not hostname or not host.is_init()",
            "not slot_known or not hostname",
        ),
        f"{_CONFIG}test_no_slot_unless_init",
    ),
    _mutant(
        "slot-without-knowing-it",
        "12",
        "that a slot must be known",
        Edit(
            "config.py",
            "_identity",
            "_POD_UID.fullmatch(uid) and len(container) <= _MAX_LABEL and "
            "_DNS_LABEL.fullmatch(container)",
            "len(container) <= _MAX_LABEL and _DNS_LABEL.fullmatch(container)",
        ),
        f"{_CONFIG}test_no_slot_without_knowing_it[POD_UID-$(POD_UID)]",
    ),
    _mutant(
        "slot-of-another-machine",
        "12",
        "the host's name in a slot that somebody copied",
        Edit(
            "config.py",
            "_identity",
            'identity += f"@{hostname}"',
            "",
        ),
        f"{_CONFIG}test_slot_of_a_pod_whose_host_has_another_name",
    ),
    _mutant(
        "slot-without-its-claim",
        "12",
        "that one process at a time goes by the slot's name",
        Edit(
            "cli.py",
            "_serve",
            "settings.slot and claim",
            "settings.slot",
        ),
        f"{_AROUND}test_two_instances_in_one_slot_have_two_names",
    ),
    _mutant(
        "generated-names-are-the-same",
        "12",
        "the random part of a generated name",
        Edit(
            "config.py",
            "_identity",
            'f"{base}{SUFFIX}{host.random_bytes(8).hex()}"',
            'f"{base}{SUFFIX}{bytes(8).hex()}"',
        ),
        f"{_CONFIG}test_generated_identities_differ",
    ),
    _mutant(
        "given-name-is-shortened",
        "12",
        "that --id is shown verbatim",
        Edit(
            "board.py",
            "Board.name",
            """
            if holder == self.identity and not self._identity_is_generated:
                return holder
            """,
            "",
        ),
        f"{_BOARD}test_a_name_that_was_given_is_never_shortened",
    ),
    # --- rule 13: foreign clocks -------------------------------------------------------------
    _mutant(
        "short-peers-are-not-heeded",
        "13",
        "that the shortest duration seen bounds our grants",
        Edit(
            "election.py",
            "Election._learn_duration",
            "known_ns is None or record.lease_duration_ns < known_ns",
            "known_ns is not None and record.lease_duration_ns < known_ns",
        ),
        f"{_ELECTION}test_a_grant_is_no_longer_than_the_shortest_duration_seen[peers_s0-8]",
    ),
    _mutant(
        "leads-beside-too-short-a-peer",
        "13",
        "that nobody leads for less than a retry period",
        Edit(
            "election.py",
            "Election._may_lead",
            "self._room_ns > self._timing.least_term_ns",
            "self._room_ns > 0",
        ),
        f"{_ELECTION}test_the_least_duration_that_serves_is_tried",
    ),
    _mutant(
        "heir-forgets-short-peers",
        "13",
        "that an heir keeps the bound of its predecessor",
        Edit(
            "election.py",
            "Election.__init__",
            "self._shortest_ns = inherited.granted_ns if inherited else None",
            "self._shortest_ns: int | None = None",
        ),
        f"{_ELECTION}test_an_heir_keeps_the_bound_of_its_predecessor",
    ),
    _mutant(
        "no-preset-of-2016",
        "13",
        "the 10 / 5 / 2.5 s beside candidates of 2016",
        Edit(
            "config.py",
            "_timing",
            "_TIMING_DEFAULTS_2016 if of_2016 else _TIMING_DEFAULTS",
            "_TIMING_DEFAULTS",
        ),
        f"{_CONFIG}test_default_timing_beside_candidates_of_2016",
    ),
    _mutant(
        "locks-of-2016-like-any",
        "13",
        "that peers on an annotation judge by their own durations",
        Edit(
            "cli.py",
            "_serve.run_elector",
            "_TRAITS_2016 if isinstance(settings.lock, AnnotationLockSpec) else LockTraits()",
            "LockTraits()",
        ),
        f"{_CLI}test_candidates_of_2016_are_heeded_where_they_can_stand[endpoints-traits0]",
    ),
    # --- rule 14: signals --------------------------------------------------------------------
    _mutant(
        "stop-signal-to-the-group",
        "14",
        "that the stop signal goes to the direct child alone",
        Edit(
            "tenure.py",
            "Tenure.__init__",
            "Scope.GROUP if signal_group else Scope.CHILD",
            "Scope.GROUP",
        ),
        f"{_TENURE}test_without_renewals_the_tree_is_asked_to_stop_and_then_killed",
        f"{_STOPPING}test_the_stop_signal_goes_to_the_direct_child_only",
    ),
    _mutant(
        "leftovers-are-not-asked",
        "14",
        "the stop signal to what a stopped child leaves",
        Edit(
            "tenure.py",
            "Tenure._child_ended",
            "self._effects.append(SignalTree(self._stop_signal, Scope.ALL, stop=True))",
            "",
        ),
        f"{_TENURE}test_leftovers_of_a_stopped_child_get_the_stop_signal",
    ),
    _mutant(
        "stopped-child-is-not-continued",
        "14",
        "CONT after the stop signal to a stopped child",
        Edit(
            "keeper.py",
            "Keeper._signal",
            "linux.kill_quietly(pid, signal.SIGCONT)",
            "",
        ),
        f"{_STOPPING}test_a_stopped_child_is_continued_to_take_the_stop_signal",
    ),
    _mutant(
        "spawns-after-term",
        "14",
        "that TERM before spawn means no spawn",
        Edit(
            "tenure.py",
            "Tenure._stop_asked",
            "self._move(Cause.STOP_ASKED, signal=signum)",
            "",
        ),
        f"{_TENURE}test_a_request_to_stop_before_the_grant_starts_nothing",
    ),
    _mutant(
        "leaves-an-acquisition-behind",
        "14",
        "that a standby which ends waits for its attempt",
        Edit(
            "election.py",
            "Election._start_release",
            """
            self._holding is not None
            or self._attempt_open
            or (seen is not None and self._mine(seen.record))
            """,
            "self._holding is not None or (seen is not None and self._mine(seen.record))",
        ),
        f"{_ELECTION}test_a_standby_that_ends_while_acquiring_releases_what_landed",
    ),
    _mutant(
        "leaves-a-lost-attempt-behind",
        "14",
        "that an attempt without an answer may still land",
        Edit(
            "election.py",
            "Election._act_releasing",
            "not self._attempt_open",
            "True",
        ),
        f"{_ELECTION}test_a_standby_that_ends_waits_for_an_attempt_that_may_still_land",
    ),
    _mutant(
        "guardian-dies-of-term",
        "14",
        "that the guardian blocks signals and reads them",
        Edit(
            "guardian.py",
            "Guardian.__init__",
            "signal.pthread_sigmask(signal.SIG_BLOCK, linux.ALL_SIGNALS)",
            "signal.pthread_sigmask(signal.SIG_BLOCK, linux.ALL_SIGNALS - {signal.SIGTERM})",
        ),
        f"{_STOPPING}test_requests_to_stop_send_the_stop_signal[15]",
    ),
    # --- rule 15: the command is checked before campaigning ----------------------------------
    _mutant(
        "campaigns-for-what-cannot-run",
        "15",
        "that the command is looked up before campaigning",
        Edit(
            "cli.py",
            "run",
            'config.resolve_command(parsed.command[0], environ.get("PATH"))',
            "parsed.command[0]",
        ),
        f"{_CHILD}test_a_command_that_cannot_run_is_refused_before_campaigning",
    ),
    _mutant(
        "not-executable-is-found-out-later",
        "15",
        "that what may not be executed is refused",
        Edit(
            "config.py",
            "_refusal",
            "os.access(path, os.X_OK, effective_ids=True)",
            "os.access(path, os.F_OK, effective_ids=True)",
        ),
        f"{_CHILD}test_a_command_that_cannot_run_is_refused_before_campaigning[420-126]",
    ),
    _mutant(
        "nested-by-its-own-environment",
        "15",
        "that one inside its own election is refused",
        Edit(
            "config.py",
            "parse",
            """
            if namespace is not None:
                refuse_nesting(election, namespace, environ)
            """,
            "",
        ),
        f"{_CONFIG}test_same_election_inside_itself",
    ),
    _mutant(
        "nested-with-a-cleared-environment",
        "15",
        "the look at the environment of ancestors",
        Edit(
            "cli.py",
            "_refuse_nesting",
            "not linux.runs_below(KEEPER_NAME)",
            "KEEPER_NAME",
        ),
        f"{_CHILD}test_nested_in_the_same_election_is_refused[True]",
    ),
    # --- rule 16: own groups -----------------------------------------------------------------
    Mutant(
        "elector-in-the-guardians-group",
        ("16",),
        "the elector's own process group",
        (
            Edit(
                "guardian.py",
                "Guardian._forked",
                "os.setpgid(0, 0)",
                """
                if name != "leaderexec-elec":
                    os.setpgid(0, 0)
                """,
            ),
            Edit(
                "guardian.py",
                "Guardian._fork_elector",
                """
                with contextlib.suppress(OSError):
                    os.setpgid(pid, pid)
                """,
                "",
            ),
        ),
        (f"{_CHILD}test_processes_have_groups_of_their_own",),
    ),
    Mutant(
        "keeper-in-the-guardians-group",
        ("16",),
        "the keeper's own process group",
        (
            Edit(
                "guardian.py",
                "Guardian._forked",
                "os.setpgid(0, 0)",
                """
                if name != KEEPER_NAME:
                    os.setpgid(0, 0)
                """,
            ),
            Edit(
                "guardian.py",
                "Guardian._fork_keeper",
                """
                with contextlib.suppress(OSError):
                    os.setpgid(pid, pid)
                """,
                "",
            ),
        ),
        (f"{_CHILD}test_processes_have_groups_of_their_own",),
    ),
    Mutant(
        "child-in-the-keepers-group",
        ("16",),
        "the child's own process group",
        (
            Edit(
                "keeper.py",
                "_become_child",
                "os.setpgid(0, 0)",
                "",
            ),
            Edit(
                "keeper.py",
                "Keeper._start",
                "os.setpgid(pid, pid)",
                "",
            ),
        ),
        (
            f"{_CHILD}test_processes_have_groups_of_their_own",
            f"{_CHILD}test_child_starts_with_a_clean_signal_state",
        ),
    ),
    _mutant(
        "terminal-stays-with-the-guardian",
        "16",
        "that the terminal is the child's",
        Edit(
            "keeper.py",
            "_take_terminal",
            "os.tcsetpgrp(0, os.getpid())",
            "",
        ),
        f"{_HTTP}test_a_terminals_interrupt_is_the_childs",
    ),
    _mutant(
        "job-stops-within-a-turn",
        "16",
        "that what arrived while the job was stopped is heard before the time counts",
        Edit(
            "guardian.py",
            "Guardian._child_stopped",
            "self._stop_job_by = signum",
            "self._stop_job(ours, signum)",
        ),
        f"{_TERMINAL}test_ctrl_z_and_fg",
    ),
    _mutant(
        "stop-that-nobody-could-undo",
        "16",
        "that a child is continued where no shell could do it",
        Edit(
            "guardian.py",
            "Guardian._child_stopped",
            """
            if signum == signal.SIGTSTP:
                self._tell_keeper(_CONTINUE)
            """,
            "",
        ),
        f"{_TERMINAL}test_ctrl_z_where_nobody_could_continue",
    ),
    _mutant(
        "stopped-job-stays-stopped",
        "16",
        "that a guardian which is stopped with its job is continued to end what its keeper left",
        Edit(
            "elector.py",
            "Elector._take_proof",
            "signal.pidfd_send_signal(self._seat.guardian_pidfd, signal.SIGCONT)",
            "",
        ),
        f"{_TERMINAL}test_ctrl_z_and_the_death_of_the_keeper",
    ),
    _mutant(
        "terminal-of-a-dead-child",
        "16",
        "that the terminal is ours again after a child that nobody told of",
        Edit(
            "guardian.py",
            "Guardian._tree_ended",
            "self._take_terminal_back(ended_by_itself=False)",
            "",
        ),
        f"{_TERMINAL}test_the_terminal_of_a_child_that_nobody_told_of",
    ),
    # --- rule 17: lateness counts ------------------------------------------------------------
    _mutant(
        "lateness-is-forgiven",
        "17",
        "that a late wake-up is noticed",
        Edit(
            "tenure.py",
            "Tenure.step",
            "self._was_late(now_ns - self.wake_at_ns)",
            "",
        ),
        f"{_TENURE}test_lateness_is_added_to_the_margin_from_then_on",
    ),
    _mutant(
        "stopped-job-is-late",
        "17",
        "that a stop which the terminal's user asked for is no lateness",
        Edit(
            "tenure.py",
            "Tenure.resumed",
            "self.wake_at_ns = max(self.wake_at_ns, now_ns)",
            "",
        ),
        "tests/unit/test_terminal.py::test_a_stop_that_was_asked_for_is_no_lateness",
    ),
    _mutant(
        "signals-without-end",
        "17",
        "that a flood of signals leaves time for the deadlines",
        Edit(
            "linux.py",
            "SignalFd.receive",
            "range(SIGNALS_AT_ONCE)",
            "range(1_000_000_000)",
        ),
        f"{_LINUX}test_a_flood_of_signals_is_taken_in_portions",
    ),
    _mutant(
        "messages-without-end",
        "17",
        "that a flood of messages leaves time for the deadlines",
        Edit(
            "channel.py",
            "Channel.receive",
            "range(_PACKETS_AT_ONCE)",
            "range(1_000_000_000)",
        ),
        f"{_CHANNEL}test_a_flood_is_taken_in_portions",
    ),
    _mutant(
        "empty-packet-ends-a-channel",
        "7",
        "that an empty packet is garbage like any other",
        Edit(
            "channel.py",
            "Channel.receive",
            "not data and not fds and self._peer_has_closed()",
            "not data",
        ),
        f"{_CHANNEL}test_an_empty_packet_is_not_the_end",
    ),
    _mutant(
        "lateness-of-the-last-time",
        "17",
        "that the worst lateness counts",
        Edit(
            "tenure.py",
            "Tenure._was_late",
            "worst_ns > self._lateness_ns",
            "worst_ns != self._lateness_ns",
        ),
        f"{_TENURE}test_the_worst_lateness_counts",
    ),
    _mutant(
        "lateness-is-not-told-the-keeper",
        "17",
        "that the keeper's deadline moves too",
        Edit(
            "tenure.py",
            "Tenure._was_late",
            """
            if self.state in {State.RUNNING, State.STOPPING}:
                self._effects.append(SetDeadline(self.kill_at_ns))
            """,
            "",
        ),
        f"{_TENURE}test_lateness_moves_the_keepers_deadline_too",
    ),
    # --- rule 18: a local lock only when asked for by name -----------------------------------
    _mutant(
        "local-lock-by-default",
        "18",
        "that a local lock must be asked for",
        Edit(
            "config.py",
            "",
            'default="leases"',
            'default="file:/run/leaderexec"',
        ),
        f"{_CONFIG}test_defaults",
    ),
    # --- the margin and the deadlines (G1) ---------------------------------------------------
    _mutant(
        "no-margin",
        "G1",
        "the two seconds of the margin",
        Edit(
            "model.py",
            "Timing.margin_ns",
            "2 * SECOND_NS + self.lease_duration_ns // 100",
            "self.lease_duration_ns // 100",
        ),
        f"{_MODEL}test_the_margin_grows_with_the_lease",
    ),
    _mutant(
        "no-hundredth",
        "G1",
        "the hundredth of the lease in the margin",
        Edit(
            "model.py",
            "Timing.margin_ns",
            "2 * SECOND_NS + self.lease_duration_ns // 100",
            "2 * SECOND_NS",
        ),
        f"{_MODEL}test_the_margin_grows_with_the_lease",
    ),
    _mutant(
        "no-time-to-kill",
        "G1",
        "the inequality of the timing budget",
        Edit(
            "model.py",
            "Timing.validate",
            "self.grace_on_loss_ns <= 0",
            "self.grace_on_loss_ns < -self.margin_ns",
        ),
        f"{_MODEL}test_a_grace_of_exactly_nothing_is_refused",
    ),
    _mutant(
        "grant-from-the-reply",
        "G1",
        "that a grant counts from before its renewal was sent",
        Edit(
            "election.py",
            "Election._count",
            "call.sent_ns + min(record.lease_duration_ns, self._lease_ns)",
            "self._now.boot_ns + min(record.lease_duration_ns, self._lease_ns)",
        ),
        f"{_ELECTION}test_a_grant_counts_from_before_the_write_was_sent",
    ),
    _mutant(
        "renewed-at-the-reply",
        "G1",
        "that the renew deadline counts from before sending",
        Edit(
            "election.py",
            "Election._count",
            "renewed_at_ns=call.sent_ns",
            "renewed_at_ns=self._now.boot_ns",
        ),
        f"{_ELECTION}test_a_grant_counts_from_before_the_write_was_sent",
    ),
    _mutant(
        "clock-that-a-suspend-stops",
        "G1",
        "that times are of CLOCK_BOOTTIME",
        Edit(
            "linux.py",
            "boottime_ns",
            "time.clock_gettime_ns(time.CLOCK_BOOTTIME)",
            "time.clock_gettime_ns(time.CLOCK_MONOTONIC)",
        ),
        f"{_LINUX}test_times_and_timers_are_those_of_the_clock_that_a_suspend_does_not_stop",
    ),
    _mutant(
        "timer-that-a-suspend-stops",
        "G1",
        "that timers are of CLOCK_BOOTTIME",
        Edit(
            "linux.py",
            "",
            "_CLOCK_BOOTTIME: Final = 7",
            "_CLOCK_BOOTTIME: Final = 1",
        ),
        f"{_LINUX}test_times_and_timers_are_those_of_the_clock_that_a_suspend_does_not_stop",
    ),
    _mutant(
        "no-stop-at-the-renew-deadline",
        "G1",
        "the stop signal at the renew deadline",
        Edit(
            "tenure.py",
            "Tenure._set_limits",
            "grant.renewed_at_ns + self._timing.renew_deadline_ns",
            "grant.expires_at_ns",
        ),
        f"{_TENURE}test_a_grant_starts_a_tree_with_both_deadlines",
    ),
    _mutant(
        "no-kill-at-the-deadline",
        "G1",
        "SIGKILL at the deadline",
        Edit(
            "tenure.py",
            "Tenure._pass_deadlines",
            "self._kill(Cause.DEADLINE)",
            "",
        ),
        f"{_TENURE}test_without_renewals_the_tree_is_asked_to_stop_and_then_killed",
    ),
    _mutant(
        "drains-beyond-the-lease",
        "G1",
        "that the lease bounds a drain",
        Edit(
            "tenure.py",
            "Tenure.kill_at_ns",
            "min(self._kill_at_ns, self._stop_by_ns)",
            "self._stop_by_ns",
        ),
        f"{_TENURE}test_a_drain_is_bounded_by_the_lease_when_renewals_fail",
    ),
    _mutant(
        "grace-in-anothers-lease",
        "G1",
        "that a lock held by another kills at once",
        Edit(
            "tenure.py",
            "Tenure._lost",
            "self._kill(Cause.LOST, detail=event.reason)",
            """
            if self.state is State.RUNNING:
                self._stop(Cause.OVERDUE)
            """,
        ),
        f"{_TENURE}test_a_lock_that_belongs_to_another_kills_at_once",
    ),
    _mutant(
        "late-renewal-revokes-a-stop",
        "G1",
        "that stopping is irrevocable",
        Edit(
            "tenure.py",
            "Tenure._granted",
            """
            self.grant = grant
            self._set_limits(grant)
            """,
            """
            self.grant = grant
            self._set_limits(grant)
            self.state = State.RUNNING
            """,
        ),
        f"{_TENURE}test_stopping_is_irrevocable",
    ),
    _mutant(
        "keeper-without-a-deadline",
        "G1 G3",
        "that the keeper kills at the deadline by itself",
        Edit(
            "keeper.py",
            "Keeper.run",
            "self._timer.fileno() in ready or self._guardian_pidfd in ready",
            "self._guardian_pidfd in ready",
        ),
        f"{_SUITE}test_guardian_stopped_as_init",
    ),
    # --- no early release (G2), no single failure (G3), never steals (G5) --------------------
    Mutant(
        "keeper-outlives-its-guardian",
        ("G3",),
        "that a keeper kills when its guardian is dead",
        (
            Edit(
                "keeper.py",
                "Keeper.run",
                "self._timer.fileno() in ready or self._guardian_pidfd in ready",
                "self._timer.fileno() in ready",
            ),
            Edit(
                "keeper.py",
                "Keeper._take_messages",
                "self._killing = True",
                """
                self._poll.unregister(self._channel.fileno())
                self._poll.unregister(self._guardian_pidfd)
                """,
            ),
        ),
        (f"{_SUITE}test_guardian_killed",),
    ),
    _mutant(
        "silent-keeper-is-trusted",
        "G3",
        "that a silent keeper is taken for dead",
        Edit(
            "tenure.py",
            "Tenure._act_tree",
            "self._keeper.silent(now_ns)",
            "self._keeper.silent(now_ns) and now_ns < 0",
        ),
        f"{_SUITE}test_keeper_stopped",
    ),
    _mutant(
        "silent-elector-is-trusted",
        "G3",
        "that a silent elector is killed",
        Edit(
            "tenure.py",
            "Tenure._act",
            "self._elector.silent(now_ns)",
            "self._elector.silent(now_ns) and now_ns < 0",
        ),
        f"{_SUITE}test_elector_stopped",
    ),
    _mutant(
        "silent-guardian-is-trusted",
        "G3",
        "that a leader whose guardian is silent kills it",
        Edit(
            "election.py",
            "Election._act_holder",
            "self._effects.append(KillGuardian())",
            "",
        ),
        f"{_SUITE}test_guardian_stopped",
    ),
    _mutant(
        "renews-for-a-silent-guardian",
        "G3",
        "that nobody renews for a silent guardian",
        Edit(
            "election.py",
            "Election._act_holder",
            """
            if not self._guardian_killed and not self._guardian_needed:
                self._guardian_killed = True
                self._note("error", "the guardian is silent: no more renewals, killing it")
                self._effects.append(KillGuardian())
            return
            """,
            """
            if not self._guardian_killed and not self._guardian_needed:
                self._guardian_killed = True
                self._note("error", "the guardian is silent: no more renewals, killing it")
                self._effects.append(KillGuardian())
            """,
        ),
        f"{_ELECTION}test_a_leader_whose_guardian_is_silent_stops_renewing_and_kills_it",
    ),
    _mutant(
        "kills-the-last-who-can-kill",
        "G3",
        "that a guardian which alone can end a tree is spared",
        Edit(
            "election.py",
            "Election._act_holder",
            "not self._guardian_killed and not self._guardian_needed",
            "not self._guardian_killed",
        ),
        f"{_ELECTION}test_a_guardian_that_alone_can_end_the_tree_is_not_killed",
    ),
    _mutant(
        "campaigns-for-a-silent-guardian",
        "G3",
        "that a standby whose guardian is silent does not try",
        Edit(
            "election.py",
            "Election._act_standby",
            "silent or self._guardian_dead or self._call is not None",
            "self._guardian_dead or self._call is not None",
        ),
        f"{_ELECTION}test_a_standby_whose_guardian_is_silent_does_not_try",
    ),
    _mutant(
        "campaigns-for-a-dead-guardian",
        "G3",
        "that a standby whose guardian died does not try",
        Edit(
            "election.py",
            "Election._act_standby",
            "silent or self._guardian_dead or self._call is not None",
            "silent or self._call is not None",
        ),
        f"{_ELECTION}test_a_standby_whose_guardian_died_does_not_try",
    ),
    _mutant(
        "leads-beside-its-old-tree",
        "G2",
        "that a new try waits for the end of a lost tree",
        Edit(
            "election.py",
            "Election._act_standby",
            "self._tree_of is None and now_ns >= try_at_ns and self._may_lead()",
            "now_ns >= try_at_ns and self._may_lead()",
        ),
        f"{_ELECTION}test_after_a_loss_there_is_no_new_try_before_the_tree_is_gone",
    ),
    _mutant(
        "silence-of-a-suspended-machine",
        "G3",
        "that whoever overslept hears the others out",
        Edit(
            "vigil.py",
            "Vigil.silent",
            "now_ns - self._looked_ns > self._pause_ns",
            "now_ns < 0",
        ),
        f"{_VIGIL}test_whoever_overslept_hears_the_peer_out_first",
    ),
    _mutant(
        "expiry-by-our-own-duration",
        "G5",
        "that a record's own duration decides",
        Edit(
            "election.py",
            "Election._expiry_ns",
            "record.lease_duration_ns or self._timing.lease_duration_ns",
            "self._timing.lease_duration_ns",
        ),
        f"{_ELECTION}test_a_held_lock_is_tried_when_its_own_duration_has_passed_since_it_changed",
    ),
    _mutant(
        "no-duration-is-no-lease",
        "G5",
        "that a record without a duration is waited out",
        Edit(
            "election.py",
            "Election._expiry_ns",
            "record.lease_duration_ns or self._timing.lease_duration_ns",
            "record.lease_duration_ns",
        ),
        f"{_ELECTION}test_a_record_without_a_duration_is_given_ours",
    ),
    _mutant(
        "renewals-of-others-are-not-seen",
        "G5",
        "that a changed record starts the wait anew",
        Edit(
            "election.py",
            "Election._observe",
            "before is None or before.uid != snapshot.uid or before.record != snapshot.record",
            "before is None or before.uid != snapshot.uid",
        ),
        f"{_ELECTION}test_each_renewal_that_is_seen_starts_the_wait_anew",
    ),
    _mutant(
        "old-news-of-a-watch",
        "G5",
        "that a watch which lags behind is not believed",
        Edit(
            "election.py",
            "Election._observe",
            """
            if asked_ns is None or asked_ns < self._seen_ns:
                return False
            """,
            "",
        ),
        f"{_ELECTION}test_a_watch_that_lags_behind_our_own_read_is_ignored",
    ),
    _mutant(
        "unreadable-annotation-is-free",
        "G5",
        "that an empty annotation is an error",
        Edit(
            "locks/annotation.py",
            "_fields",
            "text is None",
            "not text",
        ),
        f"{_ANNOTATION}test_what_is_no_record_is_told_and_frees_nothing"
        "[-is empty: a record or no annotation is accepted]",
    ),
    _mutant(
        "unreadable-holder-is-free",
        "G5",
        "that a holder which is no text is an error",
        Edit(
            "locks/fields.py",
            "from_fields",
            "holder is not None and not isinstance(holder, str)",
            "isinstance(holder, bytes)",
        ),
        f"{_ANNOTATION}test_what_is_no_record_is_told_and_frees_nothing"
        '[{"holderIdentity":7}-: holderIdentity is not a string: 7]',
    ),
    # --- prompt handover (G4), wire formats (G6) ---------------------------------------------
    _mutant(
        "release-is-waited-out",
        "G4",
        "that a released lock is free at once",
        Edit(
            "election.py",
            "Election._free_at_ns",
            "not seen.record.holder",
            "seen.record.holder is None",
        ),
        f"{_ELECTION}test_a_released_lock_is_taken_at_once",
    ),
    _mutant(
        "released-for-a-whole-lease",
        "G6",
        "the one second that a released record names to those who wait for its duration",
        Edit(
            "election.py",
            "Election._act_releasing",
            "lease_duration_s=1",
            "lease_duration_s=self._timing.lease_duration_s",
        ),
        f"{_ELECTION}test_a_release_writes_nobody_for_one_second",
    ),
    _mutant(
        "transitions-by-another-name",
        "G6",
        "the record of 2016 to the byte",
        Edit(
            "locks/annotation.py",
            "",
            '_TRANSITIONS: Final = "leaderTransitions"',
            '_TRANSITIONS: Final = "leaseTransitions"',
        ),
        f"{_ANNOTATION}test_a_created_object_is_the_golden_annotation",
    ),
    # --- the lock in a file ------------------------------------------------------------------
    _mutant(
        "file-overwrites-what-changed",
        "G5",
        "the comparison before the swap",
        Edit(
            "locks/file.py",
            "FileLock.update",
            "found != seen",
            "not found.uid",
        ),
        f"{_LOCKS}TestFileLock::test_a_stale_update_is_a_conflict",
        f"{_LOCKS}TestFileLock::test_another_objects_uid_is_a_conflict",
        f"{_FILE}test_a_holder_put_there_by_hand_is_not_overwritten",
    ),
    _mutant(
        "file-compares-versions-alone",
        "G5",
        "that uid and record are compared too",
        Edit(
            "locks/file.py",
            "FileLock.update",
            "found != seen",
            "found.version != seen.version",
        ),
        f"{_LOCKS}TestFileLock::test_another_objects_uid_is_a_conflict",
        f"{_FILE}test_a_holder_put_there_by_hand_is_not_overwritten",
    ),
    _mutant(
        "file-is-created-over-another",
        "G5",
        "that what exists is not created",
        Edit(
            "locks/file.py",
            "FileLock.create",
            "files.load(folder) is not None",
            "files.load(folder) is files",
        ),
        f"{_LOCKS}TestFileLock::test_what_exists_is_not_created",
    ),
    _mutant(
        "file-without-flock",
        "G5",
        "the lock between read and rename",
        Edit(
            "locks/file.py",
            "_Files._flock",
            "fcntl.LOCK_EX | fcntl.LOCK_NB",
            "fcntl.LOCK_SH | fcntl.LOCK_NB",
        ),
        f"{_FILE}test_a_stopped_writer_blocks_nobody_for_ever",
    ),
    _mutant(
        "file-lock-of-a-deleted-name",
        "G5",
        "the second look at the lock file before the rename",
        Edit(
            "locks/file.py",
            "_Files.replace",
            "self.guards(guard, folder)",
            "True",
        ),
        f"{_FILE}test_a_lock_file_deleted_during_a_write_stops_it",
    ),
    _mutant(
        "file-tokens-start-anew",
        "G5",
        "that no fencing token is issued twice",
        Edit(
            "locks/file.py",
            "_Files.next_version",
            "max(self.highest(guard), int(stored.snapshot.version) if stored else 0)",
            "int(stored.snapshot.version) if stored else 0",
        ),
        f"{_FILE}test_versions_survive_what_people_delete",
    ),
    _mutant(
        "file-of-another-election",
        "G5",
        "that another election's record is refused",
        Edit(
            "locks/file.py",
            "_decode",
            "theirs != election",
            "not election",
        ),
        f"{_FILE}test_another_elections_record_is_refused",
    ),
    _mutant(
        "proc-of-another-namespace",
        "5 G1",
        "that a /proc with other numbers is refused",
        Edit(
            "cli.py",
            "run",
            "not linux.proc_is_ours()",
            "linux.proc_is_ours() is None",
        ),
        f"{_AROUND}test_proc_of_another_namespace_is_refused",
    ),
)
