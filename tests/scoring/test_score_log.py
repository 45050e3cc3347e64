import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from scoring.encoder_samples import picture

from artgate.artworks.artwork import image_id_of
from artgate.errors import UserError
from artgate.scoring import score_log
from artgate.scoring.score_log import write_scores


@pytest.fixture
def files(tmp_path):
    (tmp_path / "in").mkdir()
    paths = [tmp_path / "in" / f"{place}.png" for place in range(6)]
    for place, path in enumerate(paths):
        picture(place, 40, 40).save(path)
    paths[4].write_bytes(paths[4].read_bytes()[:60])
    return paths


class Counting:
    """Makes lines, counts those it was asked for, and stops after some of them as a kill would."""

    def __init__(self, files, stop_after=None):
        self.files, self.stop_after, self.scored = files, stop_after, []

    def __call__(self, first):
        for file in self.files[first:]:
            if len(self.scored) == self.stop_after:
                raise KeyboardInterrupt
            self.scored.append(file.name)
            line = {"file": str(file), "image_id": image_id_of(file.read_bytes()), "score": 0.5}
            yield {"file": str(file), "error": "truncated"} if file.name == "4.png" else line


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr(score_log, "KEEP_SECONDS", 0.0)


EVERY_LINE_AT_ONCE = """
from artgate import cli
from artgate.scoring import score_log
score_log.KEEP_SECONDS = 0.0
cli.main()
"""


def lines_in(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def interrupted(files, out, after, fingerprint="f" * 64):
    with pytest.raises(KeyboardInterrupt):
        write_scores(Counting(files, after), files, out, fingerprint)


def test_all_lines_are_written_and_errors_counted(files, tmp_path):
    out = tmp_path / "scores.jsonl"
    out.write_text("of an earlier run\n")
    assert write_scores(Counting(files), files, out, "f" * 64) == 1
    assert [line["file"] for line in lines_in(out)] == [str(file) for file in files]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "scores.jsonl"]


def test_an_interrupted_run_goes_on(files, tmp_path, at_once):
    out = tmp_path / "scores.jsonl"
    interrupted(files, out, after=5)
    assert not out.exists()
    again = Counting(files)
    assert write_scores(again, files, out, "f" * 64) == 1
    assert again.scored == ["5.png"]
    assert [Path(line["file"]).name for line in lines_in(out)] == [file.name for file in files]


def test_a_second_command_on_the_same_file_is_refused(files, tmp_path):
    out = tmp_path / "scores.jsonl"

    def meanwhile(first):
        with pytest.raises(UserError, match="another process writes"):
            write_scores(Counting(files), files, out, "f" * 64)
        return Counting(files)(first)

    assert write_scores(meanwhile, files, out, "f" * 64) == 1
    assert len(out.read_text().splitlines()) == 6
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_what_changed_meanwhile_is_scored_again(files, tmp_path, at_once):
    out = tmp_path / "scores.jsonl"
    interrupted(files, out, after=4)
    picture(99, 40, 40).save(files[2])
    again = Counting(files)
    write_scores(again, files, out, "f" * 64)
    assert again.scored == ["2.png", "3.png", "4.png", "5.png"]
    assert lines_in(out)[2]["image_id"] == image_id_of(files[2].read_bytes())


def test_a_file_that_was_mended_is_scored_again(files, tmp_path, at_once):
    out = tmp_path / "scores.jsonl"
    interrupted(files, out, after=5)
    picture(4, 40, 40).save(files[4])
    again = Counting(files)
    write_scores(again, files, out, "f" * 64)
    assert again.scored == ["4.png", "5.png"]


def test_another_scorer_begins_anew_and_a_torn_line_is_cut(files, tmp_path, at_once):
    out = tmp_path / "scores.jsonl"
    interrupted(files, out, after=3)
    other = Counting(files)
    write_scores(other, files, tmp_path / "scores.jsonl", "0" * 64)
    assert len(other.scored) == 6
    (begun,) = tmp_path.glob(".scores.jsonl.*.part")
    begun.write_bytes(begun.read_bytes()[:-7])
    again = Counting(files)
    write_scores(again, files, out, "f" * 64)
    assert again.scored == ["2.png", "3.png", "4.png", "5.png"]
    assert len(lines_in(out)) == 6


@pytest.mark.slow
def test_artgate_score_survives_a_kill(sample, tmp_path):
    """SIGKILL in the middle; the same command again takes over every line that was on the disk."""
    out = tmp_path / "scores.jsonl"
    given = [str(path) for path in sorted((sample.root / "images").iterdir())[:16]]
    command = [sys.executable, "-c", EVERY_LINE_AT_ONCE, "score", *given, "--out", str(out)]
    process = subprocess.Popen(command)
    deadline = time.monotonic() + 300
    while not (kept := [path for path in tmp_path.glob(".scores.jsonl.*.part") if path.stat().st_size > 2000]):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = kept[0].read_bytes().rpartition(b"\n")[0]
    assert not out.exists()
    assert subprocess.run(command, timeout=600).returncode == 0
    assert out.read_bytes().startswith(before)
    assert len(lines_in(out)) == len(given)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scores.jsonl"]
