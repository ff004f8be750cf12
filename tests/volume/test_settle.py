"""When a directory is believed: with a clock of our own and facts that a test sets."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import pytest

from gateway.model import ModelId, Reason
from gateway.settings import Settings
from gateway.volume.directory import Directory, FileStat
from gateway.volume.settle import Observation, Settler, Snapshot
from gateway.volume.source import Scan
from gateway.volume.sums import Checked
from gateway.volume.writers import Writer

MODEL = ModelId("finetuned", "m")
BOOT = 1_700_000_000.0  # the wall clock when the monotonic one is 0
TAR = Writer(42, "tar", "/models/finetuned", "directory", precise=True, started=0)
MISMATCH = Reason("checksum_mismatch", "incomplete", "x is not what is listed", "Copy x again.", "x")


class Facts:
    """Evidence that a test sets, and that counts how often it was asked."""

    def __init__(self) -> None:
        self.hole_in: str | None = None
        self.at_work: Writer | None = None
        self.sums: Checked | None = Checked()
        self.asked: list[str] = []

    def begin(self) -> None:
        pass

    def hole(self, directory: Directory) -> str | None:
        self.asked.append("hole")
        return self.hole_in

    def writer(self, directory: Directory, changed: float) -> Writer | None:
        self.asked.append("writer")
        return self.at_work

    def checked(self, directory: Directory) -> Checked | None:
        self.asked.append("checked")
        return self.sums


class Volume:
    """A settler, a clock and the directories that the next scan will show."""

    def __init__(self, *, network: bool = False) -> None:
        self.now = 1000.0
        self.jump = 0.0
        self.facts = Facts()
        self.settler = Settler(Settings(), self.facts, network=network)
        self.directories: dict[ModelId, Directory] = {}
        self.unreadable: frozenset[str] = frozenset()

    @property
    def wall(self) -> float:
        return BOOT + self.now + self.jump

    def put(self, state: str, *, age: float = 0.0, inode: int = 1, **changes: object) -> None:
        """The directory now has this fingerprint; its newest file changed `age` seconds ago."""
        stamp = int((self.wall - age) * 1e9)
        files = (FileStat("model.safetensors", 7, 1, stamp, stamp, 0o100644),)
        if changes.pop("with_sums", False):
            files = (FileStat("SHA256SUMS", 8, 1, stamp, stamp, 0o100644), *files)
        directory = Directory(
            model=MODEL,
            path="/models/finetuned/m",
            inode=inode,
            device=1,
            files=files,
            fingerprint=state,
            newest_ctime_ns=stamp,
            mtime_ns=stamp,
        )
        self.directories[MODEL] = msgspec.structs.replace(directory, **changes)

    def look(self, after: float = 0.0, served: Mapping[ModelId, int | None] | None = None) -> Snapshot:
        self.now += after
        files = sum(len(directory.files) for directory in self.directories.values())
        scan = Scan(
            directories=dict(self.directories), ignored=(), files=files, root=(1, 2), unreadable=self.unreadable
        )
        return self.settler.observe(scan, now=self.now, wall=self.wall, served=served)

    def seen(self, after: float = 0.0, served: Mapping[ModelId, int | None] | None = None) -> Observation:
        return self.look(after, served).observations[MODEL]


@pytest.fixture
def volume() -> Volume:
    volume = Volume()
    volume.look()
    return volume


def test_a_new_directory_is_believed_after_one_quiet_second_and_not_before(volume: Volume) -> None:
    volume.put("a")
    first = volume.look()
    assert not first.observations[MODEL].settled
    assert first.observations[MODEL].waiting == "changing"
    assert first.due == volume.now + 1.0
    assert not volume.seen(0.99).settled
    settled = volume.look(0.01)
    assert settled.observations[MODEL].settled
    assert settled.observations[MODEL].since == volume.now - 1.0
    assert settled.due is None


def test_every_change_starts_the_wait_anew(volume: Volume) -> None:
    for state in "abcdefgh":
        volume.put(state)
        assert not volume.seen(0.9).settled
    assert not volume.seen(0.9).settled
    assert volume.seen(0.1).settled


def test_a_writer_that_stalls_past_the_quiet_time_is_waited_for_while_it_is_seen(volume: Volume) -> None:
    volume.put("half")
    volume.facts.at_work = TAR
    assert volume.seen().waiting == "writer pid 42 (tar)"
    stalled = volume.look(30)
    assert stalled.observations[MODEL].waiting == "writer pid 42 (tar)"
    assert stalled.due is not None
    assert volume.now < stalled.due <= volume.now + 2
    volume.put("whole")
    assert not volume.seen(1).settled


def test_once_the_writer_was_seen_to_leave_a_third_of_a_second_is_enough(volume: Volume) -> None:
    volume.put("a", inode=5)
    volume.facts.at_work = TAR
    volume.seen(served={MODEL: 5})
    volume.put("b", inode=5)
    volume.seen(5, served={MODEL: 5})
    volume.facts.at_work = None
    gone = volume.look(0.1, served={MODEL: 5})
    assert gone.observations[MODEL].waiting == "changing"
    assert gone.due == pytest.approx(volume.now + 0.2)
    assert volume.seen(0.2, served={MODEL: 5}).settled


def test_who_only_holds_a_directory_open_does_not_shorten_the_wait_by_leaving(volume: Volume) -> None:
    volume.put("a")
    volume.facts.at_work = holder(precise=False)
    volume.seen()
    volume.facts.at_work = None
    assert not volume.seen(0.9).settled
    assert volume.seen(0.1).settled


def holder(*, precise: bool) -> Writer:
    return Writer(43, "du", "/models/finetuned/m", "directory", precise=precise, started=0)


def test_a_process_that_never_leaves_holds_a_directory_back_for_ten_minutes_and_no_longer(volume: Volume) -> None:
    volume.put("a")
    volume.facts.at_work = TAR
    assert not volume.seen().settled
    assert not volume.seen(599).settled
    assert volume.seen(1).settled


def test_an_update_in_place_by_nobody_we_see_waits_ten_seconds(volume: Volume) -> None:
    volume.put("v1", inode=5, age=100)
    assert volume.seen(served={MODEL: None}).settled
    volume.put("v1 and v2", inode=5)
    waiting = volume.look(1, served={MODEL: 5})
    assert waiting.observations[MODEL].waiting == "changing"
    assert waiting.due == volume.now + 10
    assert not volume.seen(9.9, served={MODEL: 5}).settled
    assert volume.seen(0.1, served={MODEL: 5}).settled


def test_files_taken_away_from_a_known_directory_are_a_change_however_old_the_others_are(volume: Volume) -> None:
    volume.put("whole", age=1000)
    assert volume.seen().settled
    volume.put("half removed", age=1000)
    assert not volume.seen(0.1).settled


def test_a_directory_renamed_into_place_is_believed_at_once(volume: Volume) -> None:
    volume.put("v1", age=1000)
    assert volume.seen().settled
    volume.put("v2", age=1.5, inode=2)  # the exchange brings another inode
    assert volume.seen(0.1, served={MODEL: 1}).settled


def test_a_directory_renamed_into_place_right_after_it_was_written_waits_only_for_the_rest(volume: Volume) -> None:
    volume.put("a", age=0.75)
    assert volume.look().due == pytest.approx(volume.now + 0.25)
    assert volume.seen(0.26).settled


def test_what_lay_there_before_the_start_is_believed_at_the_first_look() -> None:
    volume = Volume()
    volume.put("a", age=3600)
    assert volume.seen().settled
    assert "checked" not in volume.facts.asked


def test_a_file_taken_away_a_moment_before_the_first_look_is_noticed() -> None:
    volume = Volume()
    volume.put("a", age=3600, mtime_ns=int((volume.wall - 0.1) * 1e9))
    assert not volume.seen().settled


def test_no_age_is_read_from_a_clock_that_was_set(volume: Volume) -> None:
    volume.jump = 3600
    volume.now += 1
    volume.put("a", age=3600)  # written this second, before the clock went forward
    assert not volume.seen().settled
    assert volume.seen(1).settled


def test_on_a_network_file_system_age_proves_nothing_and_two_seconds_are_the_least() -> None:
    volume = Volume(network=True)
    volume.put("a", age=3600)
    volume.facts.at_work = TAR
    assert not volume.seen().settled
    volume.facts.at_work = None
    assert not volume.seen(1.9).settled
    assert volume.seen(0.1).settled


def test_a_name_of_a_copy_in_progress_waits_for_ever_and_its_end_is_noticed(volume: Volume) -> None:
    volume.put("a", in_progress="model.safetensors.partial")
    for _ in range(5):
        snapshot = volume.look(10_000)
        assert snapshot.observations[MODEL].waiting == "partial name model.safetensors.partial"
        assert snapshot.due is None
    volume.put("a", in_progress=None)
    assert volume.seen().settled


def test_a_hole_is_waited_for_and_then_taken_for_honest(volume: Volume) -> None:
    volume.put("a")
    volume.facts.hole_in = "model.safetensors"
    volume.seen()
    waiting = volume.look(1)
    assert waiting.observations[MODEL].waiting == "hole in model.safetensors"
    assert waiting.due == volume.now + 1
    assert not volume.seen(28.9).settled
    assert volume.seen(0.1).settled


def test_a_hole_that_is_filled_is_waited_for_no_longer(volume: Volume) -> None:
    volume.put("a")
    volume.facts.hole_in = "model.safetensors"
    volume.seen()
    assert not volume.seen(3).settled
    volume.facts.hole_in = None
    assert volume.seen(1).settled


def test_a_directory_that_matches_its_sums_is_believed_without_waiting(volume: Volume) -> None:
    volume.facts.sums = Checked(verified=True)
    volume.facts.at_work = TAR
    volume.put("a", with_sums=True, inode=5)
    first = volume.look(served={MODEL: 5})
    assert not first.observations[MODEL].settled
    assert volume.seen(0.05, served={MODEL: 5}).settled


def test_a_copy_that_does_not_match_its_sums_yet_is_hashed_once_a_state_and_waits(volume: Volume) -> None:
    volume.facts.sums = Checked(reason=MISMATCH)
    volume.put("a", with_sums=True)
    volume.seen()
    for _ in range(5):
        assert not volume.seen(0.1).settled
    assert volume.facts.asked.count("checked") == 1
    refused = volume.seen(0.6)
    assert refused.settled
    assert refused.reason == MISMATCH
    volume.facts.sums = Checked(verified=True)
    volume.put("b", with_sums=True)
    volume.seen(0.1)
    healed = volume.seen(0.1)
    assert healed.settled
    assert healed.reason is None


@pytest.mark.parametrize("answer", [Checked(verified=True), Checked(reason=MISMATCH), Checked()])
def test_sums_that_take_long_to_compare_are_waited_for_by_their_own_directory(volume: Volume, answer: Checked) -> None:
    volume.facts.sums = None
    volume.put("a", with_sums=True)
    assert volume.seen().waiting == "changing"
    assert volume.seen(0.1).waiting == "changing"
    for _ in range(3):
        late = volume.look(100)
        assert late.observations[MODEL].waiting == "comparing SHA256SUMS"
        assert late.due is None
    volume.facts.sums = answer
    settled = volume.seen()
    assert settled.settled
    assert settled.reason == answer.reason


def test_sums_that_were_still_compared_when_the_directory_changed_are_compared_anew(volume: Volume) -> None:
    volume.facts.sums = None
    volume.put("half", with_sums=True)
    assert not volume.seen().settled
    assert not volume.seen(0.1).settled
    assert not volume.seen(100).settled
    volume.put("whole", with_sums=True)
    volume.facts.sums = Checked(verified=True)
    assert volume.seen().waiting == "changing"
    assert volume.seen(0.05).settled


def test_sums_that_prove_nothing_leave_the_other_rules_in_force(volume: Volume) -> None:
    volume.put("a", with_sums=True)
    volume.seen()
    assert not volume.seen(0.5).settled
    assert volume.seen(0.5).settled


def test_a_directory_that_can_not_be_read_is_told_with_its_reason(volume: Volume) -> None:
    error = Reason("folder_unreadable", "unreadable", "m: Permission denied", "chmod")
    volume.put("a", error=error)
    assert volume.seen().reason is None
    told = volume.seen(1)
    assert told.settled
    assert told.reason == error


def test_what_has_settled_stays_settled_and_costs_nothing_more(volume: Volume) -> None:
    volume.put("a", age=100)
    assert volume.seen().settled
    volume.facts.asked.clear()
    volume.facts.at_work, volume.facts.hole_in = TAR, "model.safetensors"
    for _ in range(10):
        assert volume.seen(1).settled
    assert volume.facts.asked == []


def test_a_directory_that_changed_while_it_was_copied_settles_anew(volume: Volume) -> None:
    volume.put("a", age=100)
    assert volume.seen().settled
    volume.settler.forget(MODEL)
    assert not volume.seen().settled
    assert volume.seen(1).settled


def test_a_model_is_removed_when_it_is_away_twice_and_for_a_second(volume: Volume) -> None:
    volume.put("a", age=100)
    volume.seen()
    volume.directories.clear()
    once = volume.look(0.1, served={MODEL: 1})
    assert not once.removed
    assert MODEL not in once.observations
    assert once.due == volume.now + 1
    assert not volume.look(0.1, served={MODEL: 1}).removed
    assert volume.look(0.9, served={MODEL: 1}).removed == {MODEL}
    assert volume.look(5, served={MODEL: 1}).removed == {MODEL}  # until the caller has let it go
    assert not volume.look(5).removed


def test_a_served_model_that_was_never_seen_is_removed_too(volume: Volume) -> None:
    assert not volume.look(served={MODEL: None}).removed
    assert volume.look(1, served={MODEL: None}).removed == {MODEL}


def test_publishing_by_two_renames_does_not_remove_the_model(volume: Volume) -> None:
    volume.put("v1", age=100)
    volume.seen()
    volume.directories.clear()
    assert not volume.look(0.1, served={MODEL: 1}).removed
    volume.put("v2", age=5, inode=2)
    back = volume.look(0.1, served={MODEL: 1})
    assert not back.removed
    assert back.observations[MODEL].settled


def test_a_model_removed_and_copied_again_is_new_even_if_it_gets_the_same_inode(volume: Volume) -> None:
    volume.put("v1", age=100, inode=5)
    volume.seen(served={MODEL: 5})
    volume.directories.clear()
    volume.look(0.1, served={MODEL: 5})
    volume.put("v2", inode=5)
    volume.seen(0.1, served={MODEL: 5})
    assert volume.seen(1, served={MODEL: 5}).settled
    volume.put("v3", inode=5)  # and from now on it is the one that is served
    volume.seen(1, served={MODEL: 5})
    assert not volume.seen(1, served={MODEL: 5}).settled


def test_models_of_a_namespace_that_can_not_be_read_are_not_removed(volume: Volume) -> None:
    volume.put("a", age=100)
    volume.seen()
    volume.directories.clear()
    volume.unreadable = frozenset({"finetuned"})
    for _ in range(3):
        assert not volume.look(10, served={MODEL: 1}).removed
    volume.unreadable = frozenset()
    assert not volume.look(10, served={MODEL: 1}).removed
    assert volume.look(10, served={MODEL: 1}).removed == {MODEL}
