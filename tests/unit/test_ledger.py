"""What is remembered of rented machines, whatever happened to the file."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from runner.errors import UsageError
from runner.machines.ledger import LEDGER, fold, read_ledger
from runner.world.files import append

NAME = "lambda-0001-abcdef"
INTENT = {"event": "intent", "at": 100.0, "name": NAME, "alias": "lambda", "type": "gpu_1x_a10"}
INTENT |= {"region": "us-west-1", "usd_per_hour": 1.29, "digest": "p0123456789ab"}
LAUNCHED = {"event": "launched", "at": 105.0, "id": "f" * 32, "name": NAME, "usd_per_hour": 1.29}
HOUR = 3600.0


def test_an_intent_without_an_answer_is_a_machine_that_may_run() -> None:
    (machine,) = fold([INTENT]).ours
    assert machine.is_doubtful
    assert (machine.name, machine.usd_per_hour) == (NAME, 1.29)


def test_a_launched_machine_is_billed_from_its_request_until_it_is_gone() -> None:
    (machine,) = fold([INTENT, LAUNCHED]).machines
    assert not machine.is_doubtful
    assert machine.usd_until(100 + HOUR) == pytest.approx(1.29)
    ended = fold([INTENT, LAUNCHED, {"event": "gone", "at": 100 + 2 * HOUR, "id": "f" * 32}])
    assert ended.ours == ()
    assert ended.machines[0].usd_until(1e9) == pytest.approx(2.58)


def test_a_refused_intent_costs_nothing_and_still_spends_its_digest_and_number() -> None:
    ledger = fold([INTENT, {"event": "refused", "at": 101.0, "name": NAME, "code": "x"}])
    assert ledger.ours == ()
    assert ledger.spent("p0123456789ab") == NAME
    assert ledger.launches("lambda") == 1
    assert ledger.launches("other") == 0


def test_the_next_attempt_of_a_launch_is_the_same_machine() -> None:
    second = INTENT | {"at": 120.0, "region": "us-east-1"}
    (machine,) = fold([INTENT, {"event": "doubt", "at": 101.0, "name": NAME}, second]).machines
    assert (machine.region, machine.since, machine.is_doubtful) == ("us-east-1", 100.0, True)


def test_an_attempt_that_was_refused_for_certain_is_not_billed_for() -> None:
    """Ten hours of waiting for capacity cost nothing."""
    refused = {"event": "refused", "at": 101.0, "name": NAME}
    rented = [INTENT | {"at": 100 + 10 * HOUR}, LAUNCHED | {"at": 105 + 10 * HOUR}]
    ledger = fold([INTENT, refused, *rented])
    assert ledger.machines[0].since == 100 + 10 * HOUR
    assert ledger.usd_this_month(100 + 11 * HOUR) == pytest.approx(1.29)


def test_a_machine_that_only_the_list_told_of_costs_at_least_what_was_seen() -> None:
    """The ledger was lost and is rebuilt from the cloud's list."""
    seen = {"event": "seen", "at": 900.0, "id": "f" * 32, "name": NAME, "state": "active"}
    adopted = fold([LAUNCHED | {"at": 900.0}, seen])
    (machine,) = adopted.ours
    assert (machine.since, machine.was_asked_for, machine.bound) == (900.0, False, "≥ ")
    assert adopted.bound_this_month() == "≥ "
    (earlier,) = fold([seen | {"at": 500.0}, LAUNCHED | {"at": 900.0}]).ours
    assert (earlier.since, earlier.bound) == (500.0, "≥ ")
    asked = fold([INTENT, LAUNCHED, seen])
    assert (asked.ours[0].since, asked.ours[0].bound, asked.bound_this_month()) == (100.0, "", "")


def test_a_launch_that_is_written_twice_stays_one_that_was_asked_for() -> None:
    """`status` in another window may adopt what a launch has just recorded."""
    ledger = fold([INTENT, LAUNCHED, LAUNCHED | {"at": 107.0}])
    (machine,) = ledger.ours
    assert (machine.since, machine.was_asked_for) == (100.0, True)
    assert ledger.spent("p0123456789ab") == NAME


def test_a_stranger_is_remembered_and_not_ours() -> None:
    ledger = fold([{"event": "seen", "at": 5.0, "id": "s", "name": "theirs", "state": "active"}])
    assert ledger.ours == ()
    assert ledger.machines[0].state == "active"


def test_the_month_counts_what_fell_into_it() -> None:
    first = datetime(2026, 11, 1, tzinfo=UTC).timestamp()
    entries = [INTENT | {"at": first - HOUR}, LAUNCHED | {"at": first - HOUR}]
    assert fold(entries).usd_this_month(first + HOUR) == pytest.approx(1.29)


def test_a_damaged_file_is_kept_aside_and_what_can_be_read_is_carried_over(tmp_path: Path) -> None:
    file = tmp_path / LEDGER
    torn = json.dumps(LAUNCHED)[:20]
    file.write_text(json.dumps(INTENT) + "\n\x00\x00garbage\n[1, 2]\n" + torn)
    before = file.read_bytes()
    ledger = read_ledger(tmp_path)
    assert ledger.num_unreadable == 3
    assert [m.name for m in ledger.ours] == [NAME]
    assert file.read_bytes() == before, "reading changes nothing"
    append(file, LAUNCHED)
    assert read_ledger(tmp_path).num_unreadable == 0
    assert [m.id for m in read_ledger(tmp_path).ours] == ["f" * 32]
    assert (tmp_path / f"{LEDGER}.corrupt-1").read_bytes() == before


def test_an_entry_whose_line_break_was_lost_is_not_glued_to_the_next(tmp_path: Path) -> None:
    file = tmp_path / LEDGER
    file.write_text(json.dumps(INTENT))
    append(file, LAUNCHED)
    assert [m.id for m in read_ledger(tmp_path).ours] == ["f" * 32]


def test_no_file_is_an_empty_ledger(tmp_path: Path) -> None:
    assert read_ledger(tmp_path / "nowhere").machines == ()


def test_a_ledger_that_cannot_be_read_is_no_empty_one(tmp_path: Path) -> None:
    """As root any permission is granted, but not to read a folder or a link to itself."""
    (tmp_path / "a" / LEDGER).mkdir(parents=True)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / LEDGER).symlink_to(LEDGER)
    for state in ("a", "b"):
        with pytest.raises(UsageError, match="cannot be read") as caught:
            read_ledger(tmp_path / state)
        assert "billed" in caught.value.hints[0]
