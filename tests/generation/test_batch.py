import json
import random
import re
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

from artgate.errors import UserError
from artgate.generation.batch import Batch, Line, Outcome, in_index_order, judged, produce, whole_groups
from artgate.generation.config import GateConfig
from artgate.generation.gate import Verdict, build_gate
from artgate.generation.likeness import sketch
from artgate.generation.prompts import Candidate
from artgate.generation.summary import decided_by, summarise, wilson_interval, yields
from artgate.generation.waiting import Waiting
from artgate.scoring.scorer import Score

SCORE = build_gate(GateConfig(kind="score", threshold=0.5))
BEST_2_OF_4 = build_gate(GateConfig(kind="best_of", threshold=0, keep=2, of=4))


def outcome(index: int, score: float | None) -> Outcome:
    candidate = Candidate(index, "a frog", "", seed=index)
    if score is None:
        return Outcome(candidate, error="denoise: it broke", evaluations=1)
    judged = Score(score, "good", {"poor": 1 - score, "average": 0.0, "good": score}, {})
    return Outcome(candidate, score=judged, evaluations=4, seconds={"denoise": 0.5})


def stream(first: int, end: int, seed: int = 0, shuffled_by: int = 1, failing: float = 0.0) -> Iterable[Outcome]:
    """Outcomes whose scores depend on their index alone, finishing up to `shuffled_by` places from their order."""
    order = sorted(range(first, end), key=lambda i: i + random.Random(f"{seed} {i} order").uniform(0, shuffled_by))
    for index in order:
        own = random.Random(f"{seed} {index}")
        yield outcome(index, None if own.random() < failing else own.random())


def save(outcome: Outcome, verdict: Verdict | None) -> Line:
    spent = {"evaluations": outcome.evaluations, "seconds": outcome.seconds}
    line = {**asdict(outcome.candidate), **spent, "image_id": None}
    if verdict is None or outcome.score is None:
        return {**line, "status": "failed", "reason": outcome.error, "score": None, "probabilities": None}
    status = "accepted" if verdict.accepted else "rejected"
    score = {"score": outcome.score.score, "probabilities": outcome.score.probabilities}
    image_id = f"{outcome.candidate.index:064x}" if verdict.accepted else None
    return {**line, **score, "status": status, "reason": verdict.reason, "image_id": image_id}


def run(root: Path, gate, target: int, max_candidates: int = 200, **how) -> list[Line]:
    batch = Batch(root, {"target": target})
    try:
        made = stream(len(batch.lines), whole_groups(max_candidates, gate), **how)
        outcomes = [outcome for outcome in made if outcome.candidate.index not in batch.waiting.entries]
        list(produce(outcomes, batch, gate, save, target, max_failures=20))
    finally:
        batch.close()
    return [json.loads(line) for line in (root / "candidates.jsonl").read_text().splitlines()]


@given(st.permutations(range(3, 20)))
def test_outcomes_come_in_index_order_whatever_order_they_finish_in(order):
    assert [o.candidate.index for o in in_index_order([outcome(i, 0.1) for i in order], first=3)] == list(range(3, 20))


def test_an_outcome_is_given_as_soon_as_all_before_it_are_there():
    finishing = iter([outcome(1, 0.1), outcome(0, 0.2), outcome(2, 0.3)])
    ordered = in_index_order(finishing, first=0)
    assert next(ordered).candidate.index == 0
    assert next(finishing).candidate.index == 2  # 0 was not held back until 2 had finished


@pytest.mark.parametrize("gate", [SCORE, BEST_2_OF_4], ids=["score", "best_of"])
@pytest.mark.parametrize("failing", [0.0, 0.2])
def test_a_batch_holds_exactly_target_and_ends_with_the_last_accepted(tmp_path: Path, gate, failing: float):
    ledger = run(tmp_path, gate, target=5, failing=failing)
    assert [line["index"] for line in ledger] == list(range(len(ledger)))
    assert [line["status"] for line in ledger].count("accepted") == 5
    assert ledger[-1]["status"] == "accepted"
    if gate is SCORE:
        expected = [i for i, line in enumerate(ledger) if line["score"] is not None and line["score"] >= 0.5]
        assert [line["index"] for line in ledger if line["status"] == "accepted"] == expected


@pytest.mark.parametrize("gate", [SCORE, BEST_2_OF_4], ids=["score", "best_of"])
@settings(max_examples=10, deadline=None, phases=[Phase.explicit, Phase.generate])  # an example takes many fsyncs
@given(seed=st.integers(0, 10**6), stops=st.lists(st.integers(1, 7), max_size=4), shuffled_by=st.integers(1, 9))
def test_the_ledger_does_not_depend_on_order_growth_or_stops(
    tmp_path_factory, gate, seed: int, stops: list[int], shuffled_by: int
):
    how = {"seed": seed, "failing": 0.15}
    whole = run(tmp_path_factory.mktemp("whole"), gate, target=8, **how)
    root = tmp_path_factory.mktemp("piecewise")
    for target in sorted(stops):  # each run leaves off within a group as often as not
        run(root, gate, target=target, shuffled_by=shuffled_by, **how)
    assert run(root, gate, target=8, shuffled_by=shuffled_by, **how) == whole


def test_best_of_ranks_new_scores_among_those_of_the_ledger():
    first = [{"index": 0, "score": 0.9, "probabilities": {}}, {"index": 1, "score": None, "probabilities": None}]
    verdicts = [verdict for _, verdict in judged([outcome(2, 0.8), outcome(3, 0.7)], BEST_2_OF_4, first)]
    assert [(v.accepted, v.reason) for v in verdicts if v] == [
        (True, "rank 2 of 3, best 2 are kept"),
        (False, "rank 3 of 3, best 2 are kept"),
    ]


def test_max_candidates_ends_the_batch_and_may_grow(tmp_path: Path):
    assert (whole_groups(11, BEST_2_OF_4), whole_groups(11, SCORE)) == (8, 11)
    assert len(run(tmp_path, BEST_2_OF_4, target=50, max_candidates=11)) == 8
    assert len(run(tmp_path, BEST_2_OF_4, target=50, max_candidates=12)) == 12


def test_a_ledger_line_torn_by_a_kill_is_decided_again(tmp_path: Path):
    whole = run(tmp_path, SCORE, target=4)
    ledger = tmp_path / "candidates.jsonl"
    ledger.write_bytes(ledger.read_bytes()[:-7])
    (tmp_path / ".config.json.x1y2.tmp").touch()
    assert run(tmp_path, SCORE, target=4) == whole
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize("gate", [SCORE, BEST_2_OF_4], ids=["score", "best_of"])
def test_what_was_made_and_not_decided_when_a_run_was_killed_is_not_made_again(tmp_path: Path, gate):
    whole = run(tmp_path / "whole", gate, target=6)
    made: list[int] = []

    def sampled(batch: Batch, until: int) -> Iterable[Outcome]:
        """Out of order, as early rejection has it; counted, and killed after some."""
        order = [i for i in (0, 1, 3, 4, 5, 2, 6, 8, 7, 9, 11, 10, *range(12, 60)) if i >= len(batch.lines)]
        for index in [i for i in order if i not in batch.waiting.entries]:
            if len(made) == until:
                return
            made.append(index)
            yield from stream(index, index + 1)

    for until in (2, 5, 9, 999):
        batch = Batch(tmp_path / "killed", {"target": 6})
        list(produce(sampled(batch, until), batch, gate, save, 6, max_failures=20))
        assert batch.evaluations == 4 * len(made)  # of what is decided and of what waits, each counted once
        batch.close()
    assert [json.loads(line) for line in (tmp_path / "killed" / "candidates.jsonl").read_text().splitlines()] == whole
    assert sorted(made) == sorted(set(made))


def test_what_waits_is_not_decided_beyond_max_candidates(tmp_path: Path):
    batch = Batch(tmp_path, {"target": 6})
    list(produce([outcome(1, 0.9), outcome(2, 0.9)], batch, SCORE, save, 6, max_failures=20))
    list(produce([outcome(0, 0.9)], batch, SCORE, save, 6, max_failures=20, end=2))
    assert [line["index"] for line in batch.lines] == [0, 1] and set(batch.waiting.entries) == {2}


def test_an_outcome_waits_with_all_that_it_had(tmp_path: Path):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8))
    score = Score(0.1 + 0.2, "good", {"good": 1 / 3}, {"quality": {"good": 1 / 3}}, prompt_read=True)
    first = Outcome(
        Candidate(3, "a frög", "", 7, None, 1),
        picture,
        score,
        point=[0.125, -1.0],
        evaluations=8,
        seconds={"denoise": 1 / 7},
        previews=[{"step": 2, "score": 1 / 3}],
        sketch=sketch(np.arange(9.0)),
        slots=3,
    )
    told = {name for name in Outcome.__dataclass_fields__ if getattr(first, name) is not None}
    assert told == set(Outcome.__dataclass_fields__) - {"error", "rejected"}  # whatever comes to it waits too
    failed = Outcome(Candidate(5, "a cat", "", 9), error="decode: it broke")
    waiting = Waiting(tmp_path, 0)
    for kept in (failed, first):
        waiting.keep(kept)
    back = list(Waiting(tmp_path, 0).outcomes())
    assert [replace(outcome, picture=None) for outcome in back] == [replace(first, picture=None), failed]
    assert back[0].picture is not None and back[0].picture.tobytes() == picture.tobytes()
    assert set(Waiting(tmp_path, 4).entries) == {5} and not (tmp_path / "waiting" / "000003.json").exists()


def test_a_waiting_file_that_was_damaged_is_told_of(tmp_path: Path):
    Waiting(tmp_path, 0).keep(outcome(2, 0.5))
    path = tmp_path / "waiting" / "000002.json"
    lacking = {key: value for key, value in json.loads(path.read_text()).items() if key != "seconds"}
    for content, why in ((path.read_text()[:-9], ".*"), (json.dumps(lacking), "it has no seconds")):
        path.write_text(content)
        message = rf"000002.json is damaged \({why}\): delete it, and its candidate is made again"
        with pytest.raises(UserError, match=message):
            Waiting(tmp_path, 0)


def test_many_failures_in_a_row_stop_the_run_and_name_the_first_cause(tmp_path: Path):
    batch = Batch(tmp_path, {})
    outcomes = [outcome(0, 0.9), outcome(1, None), outcome(2, 0.1), *(outcome(i, None) for i in range(3, 99))]
    with pytest.raises(UserError, match="20 candidates in a row failed .* candidate 3, with: denoise: it broke"):
        list(produce(outcomes, batch, SCORE, save, target=9, max_failures=20))
    assert len(batch.lines) == 23 and batch.accepted == 1


def test_failures_that_are_not_in_a_row_are_skipped(tmp_path: Path):
    batch = Batch(tmp_path, {})
    outcomes = [outcome(i, None if i % 2 else 0.9) for i in range(99)]
    list(produce(outcomes, batch, SCORE, save, target=30, max_failures=2))
    assert batch.accepted == 30 and len(batch.lines) == 59


def test_a_save_that_fails_stops_the_run_and_keeps_what_was_decided(tmp_path: Path):
    def full(outcome: Outcome, verdict: Verdict | None) -> Line:
        if outcome.candidate.index == 2:
            raise OSError(28, "No space left on device")
        return save(outcome, verdict)

    batch = Batch(tmp_path, {})
    with pytest.raises(UserError, match=r"candidate 2 .*No space left.* 2 accepted artworks are kept"):
        list(produce([outcome(i, 0.9) for i in range(9)], batch, SCORE, full, target=9, max_failures=20))
    assert len((tmp_path / "candidates.jsonl").read_text().splitlines()) == 2


def test_a_different_configuration_on_the_same_folder_is_refused_by_name(tmp_path: Path):
    config = {"target": 1, "gate": {"threshold": 0.5, "kind": "score"}, "seed": 1}
    batch = Batch(tmp_path, config)
    batch.append(save(outcome(0, 0.9), Verdict(True, "")))
    batch.close()
    Batch(tmp_path, {**config, "target": 9}).close()
    with pytest.raises(UserError) as error:
        Batch(tmp_path, {**config, "seed": 2, "gate": {"threshold": 0.6, "kind": "score"}})
    assert "gate.threshold is 0.5 there and 0.6 here; seed is 1 there and 2 here" in str(error.value)
    assert "kind" not in str(error.value)


def test_what_differs_is_told_in_short_and_what_is_empty_is_seen(tmp_path: Path):
    batch = Batch(tmp_path, {"prompts": [f"a lighthouse, {number} of many" for number in range(99)], "suffix": ""})
    batch.append(save(outcome(0, 0.9), Verdict(True, "")))
    batch.close()
    with pytest.raises(UserError, match="suffix is '' there and 'at night' here") as error:
        Batch(tmp_path, {"prompts": ["a lighthouse"], "suffix": "at night"})
    assert "prompts is ['a lighthouse, 0 of many', " in str(error.value) and len(str(error.value)) < 600


def test_a_configuration_may_change_while_nothing_was_decided(tmp_path: Path):
    Batch(tmp_path, {"seed": 1}).close()
    Batch(tmp_path, {"seed": 2}).close()
    assert json.loads((tmp_path / "config.json").read_text()) == {"seed": 2}


def test_only_one_run_at_a_time_holds_the_folder(tmp_path: Path):
    first = Batch(tmp_path, {})
    with pytest.raises(UserError, match="another run is working"):
        Batch(tmp_path, {})
    first.close()
    Batch(tmp_path, {}).close()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"holiday.jpg": "x"}, "holds holiday.jpg and is no batch folder"),
        (
            {"candidates.jsonl": '{"name": "Ann"}\n{"na', ".note.tmp": "x"},
            "holds candidates.jsonl and is no",
        ),
        ({"config.json": '{"sample_size": 64, "seed": 3}', "model.bin": "x"}, "is not the configuration of a batch"),
    ],
    ids=["pictures", "table", "model"],
)
def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, files: dict[str, str], message: str):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        Batch(tmp_path, {"target": 1, "seed": 2, "gate": {"kind": "score"}, "n": 200})
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == files


def test_a_batch_of_another_configuration_is_left_as_a_kill_left_it(tmp_path: Path):
    run(tmp_path, SCORE, target=4)
    for index in (0, 99):
        Waiting(tmp_path, 0).keep(outcome(index, 0.5))
    (tmp_path / ".config.json.x1y2.tmp").touch()
    with (tmp_path / "candidates.jsonl").open("a") as ledger:
        ledger.write('{"index": ')
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="seed is not set there and 2 here"):
        Batch(tmp_path, {"target": 4, "seed": 2})
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_ledger_with_a_hole_is_refused(tmp_path: Path):
    run(tmp_path, SCORE, target=4)
    ledger = tmp_path / "candidates.jsonl"
    ledger.write_text("".join(ledger.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(UserError, match="line 1 tells of candidate 1 instead of 0"):
        Batch(tmp_path, {"target": 4})


def test_a_ledger_line_of_no_known_status_is_refused(tmp_path: Path):
    run(tmp_path, SCORE, target=4)
    ledger = tmp_path / "candidates.jsonl"
    ledger.write_text(ledger.read_text().replace('"status"', '"state"', 1))
    with pytest.raises(UserError, match="line 1 has status None, which is not one of accepted, rejected, failed"):
        Batch(tmp_path, {"target": 4})


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("template", None, "no template"),
        ("template", 0.0, "template 0.0, which is not a whole number from 0 on"),
        ("template", "0", "template '0', which is not a whole number from 0 on"),
        ("evaluations", "x", "evaluations 'x', which is not a whole number from 0 on"),
        ("seconds", {"denoise": "x"}, "seconds.denoise 'x', which is not a number"),
        ("prompt", 5, "prompt 5, which is not a text"),
        ("score", True, "score True, which is not a number, or null"),
        ("probabilities", {}, "no probabilities.good"),
        ("image_id", 5, "image_id 5, which is not 64 hex digits"),
        ("point", [None], "point.0 None, which is not a number"),
        ("previews", [3], "previews.0 3, which is not a JSON object with the numbers step and score"),
        ("preview", 3, "preview 3, which is not a JSON object with the numbers step and score"),
        ("sketch", "AAAA", "sketch 'AAAA', which is not 256 bytes in base64"),
        ("sketch", 7, "sketch 7, which is not 256 bytes in base64"),
        ("pdq_quality", "x", "pdq_quality 'x', which is not a whole number"),
        ("pdq_quality", 90, "no pdq"),
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_a_ledger_line_with_a_field_that_cannot_be_used_is_refused(tmp_path: Path, field: str, value: Any, told: str):
    first, *rest = run(tmp_path, SCORE, target=2)
    changed = {key: old for key, old in first.items() if key != field} | ({} if value is None else {field: value})
    (tmp_path / "candidates.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [changed, *rest]))
    with pytest.raises(UserError, match=rf"line 1 has {re.escape(told)}.*: the ledger was changed by hand; restore it"):
        Batch(tmp_path, {"target": 2})


@pytest.mark.parametrize(
    ("content", "told"),
    [(b'{"seed', "is damaged (Unterminated string"), (b"\xff", "is damaged ('utf-8'"), (b"[]", "no JSON object")],
)
def test_a_damaged_record_of_the_configuration_is_refused_and_kept(tmp_path: Path, content: bytes, told: str):
    run(tmp_path, SCORE, target=4)
    config, ledger = tmp_path / "config.json", (tmp_path / "candidates.jsonl").read_bytes()
    config.write_bytes(content)
    with pytest.raises(UserError, match=re.escape(f"{config} ") + ".*" + re.escape(told)):
        Batch(tmp_path, {"target": 4})
    assert config.read_bytes() == content and (tmp_path / "candidates.jsonl").read_bytes() == ledger


def test_a_start_that_failed_leaves_no_folder(tmp_path: Path):
    batch = Batch(tmp_path / "new", {})
    batch.close()
    batch.discard()
    assert not (tmp_path / "new").exists()


def test_a_start_that_failed_leaves_what_an_earlier_one_made(tmp_path: Path):
    """Killed before anything was decided, then stopped while it loaded: the same command still goes on."""
    for _ in range(2):
        batch = Batch(tmp_path, {"target": 4})
        (tmp_path / "models.json").write_text("{}")
        batch.close()
        batch.discard()
    assert json.loads((tmp_path / "config.json").read_text()) == {"target": 4}


def test_wilson_interval_against_published_values():
    # Newcombe 1998, table I, method 3
    for successes, trials, low, high in [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611)]:
        assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=5e-5)
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_the_summary_adds_up_the_ledger_and_the_sessions(tmp_path: Path):
    lines = run(tmp_path, SCORE, target=3)
    begun = {"event": "begun", "seconds": {"load": 1.5}, "evaluations": 0}
    ended = {"event": "ended", "seconds": {"denoise": 0.25}, "evaluations": 3}
    sessions = [begun, ended, begun]  # the second one was killed
    summary = summarise(lines, sessions, {"target": 3}, {"scorer": {"name": "s"}})
    n = len(lines)
    assert summary["accepted"] == 3 and summary["candidates"] == n and summary["yield"] == 3 / n
    assert summary["evaluations"] == 4 * n + 3
    assert summary["seconds"]["denoise"] == pytest.approx(0.5 * n + 0.25) and summary["seconds"]["load"] == 3.0
    assert summary["seconds_per_accepted"] == pytest.approx((0.5 * n + 3.25) / 3)
    assert summary["sessions"] == 2
    assert summary["complete"] and not summarise(lines, sessions, {"target": 4}, {})["complete"]


def test_lines_are_counted_by_what_decided_them_and_by_template():
    def line(template: int, status: str, reason: str) -> Line:
        return {"template": template, "status": status, "reason": reason, "evaluations": 1, "seconds": {}}

    lines = [
        line(0, "accepted", "score 0.90 >= threshold 0.50"),
        line(1, "rejected", "score 0.10 < threshold 0.50"),
        line(0, "rejected", "preview 0.1 < threshold 0.3 at step 2 of 8"),
        line(1, "rejected", "near-duplicate of candidate 0"),
        line(0, "accepted", "rank 1 of 4, best 1 are kept"),
        line(0, "failed", "decode: ValueError: no variation"),
        line(0, "rejected", "safety checker: it found something"),
        line(0, "rejected", "rank 2 of 4, best 1 are kept"),
    ]
    told = ["accepted", "gate", "preview", "near-duplicate", "accepted", "failed: decode", "safety", "gate"]
    assert [decided_by(line) for line in lines] == told
    config = {"target": 2, "prompts": {"prompts": ["a frog", {"prompt": "a cat"}, "a dog"]}}
    summary = summarise(lines, [], config, {})
    assert summary["verdicts"] == {
        "accepted": 2,
        "gate": 2,
        "preview": 1,
        "safety": 1,
        "near-duplicate": 1,
        "failed: decode": 1,
    }
    frog, cat, dog = summary["yields"]
    assert (frog["prompt"], frog["candidates"], frog["accepted"], frog["yield"]) == ("a frog", 6, 2, 1 / 3)
    assert frog["yield_95"] == wilson_interval(2, 6) and (cat["prompt"], cat["yield"]) == ("a cat", 0.0)
    assert (dog["candidates"], dog["yield"], dog["yield_95"]) == (0, None, (0.0, 1.0))
    assert yields(lines, config["prompts"]["prompts"]) == summary["yields"]
