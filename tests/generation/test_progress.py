import io
import os
import pty
import re
import sys
import time
from pathlib import Path

import pytest
from batches import build_scorer, ledger, overrides_of
from rich.console import Console
from tiny_models import build_tiny

from artgate.generation.batch import Batch
from artgate.generation.gallery_figures import saved_evaluations
from artgate.generation.gallery_lines import shown as shown_on_page
from artgate.generation.progress import Progress, in_one_line, saved_early, standing, view

ROOT = Path(__file__).parents[2]
HIDE_CURSOR, SHOW_CURSOR, UP = b"\x1b[?25l", b"\x1b[?25h", b"\x1b[1A"


def decided(index, status="rejected", reason="score 0.10 < threshold 0.40", evaluations=20, score=0.1, **more):
    told = {"index": index, "status": status, "reason": reason, "evaluations": evaluations, "score": score}
    return told | {"prompt": f"prompt {index}"} | more


def early(index, evaluations=5):
    return decided(index, reason="preview 0.01 < threshold 0.2 at step 5 of 20", evaluations=evaluations, score=None)


def shown(now, lines, width=100):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(view(now, lines, "outputs/mine"))
    return console.file.getvalue()


def test_the_line_tells_this_sessions_rate_and_the_time_left():
    told = in_one_line(standing(accepted=3, target=8, candidates=10, decided_now=4, seconds=20.0))
    assert told == "3/8 accepted · 10 candidates · yield 30% · 0.20 images/s · 1:23 left"


def test_a_calibration_counts_candidates_and_what_is_left_of_them():
    now = standing(accepted=3, target=40, candidates=10, decided_now=4, seconds=20.0, of_candidates=True)
    assert in_one_line(now) == "10/40 candidates · 3 accepted · yield 30% · 0.20 images/s · 2:30 left"
    told = shown(now, [])
    assert re.search(r"candidates +\S* +10 / 40", told) and "0:20 so far · 2:30 left" in told
    assert standing(0, 40, 10, 4, 20.0, of_candidates=True).left == 150  # also while none is accepted


def test_what_is_not_known_yet_is_not_guessed():
    assert in_one_line(standing(0, 8, 0, 0, 3.0)) == "0/8 accepted · 0 candidates · yield ? · ? images/s · ? left"
    assert in_one_line(standing(0, 8, 5, 5, 5.0)).endswith("yield 0% · 1.00 images/s · ? left")
    assert "first candidates are on their way" in shown(standing(0, 8, 0, 0, 3.0), [])


def test_the_view_tells_yield_with_its_interval_what_was_saved_and_the_last_verdicts():
    lines = [decided(0, "accepted", "score 0.90 >= threshold 0.40", score=0.9), early(1), decided(2), early(3)]
    lines += [decided(4, "failed", "upscale: ValueError: no"), decided(5), decided(6), decided(7)]
    told = shown(standing(1, 4, 8, 8, 16.0), lines)
    for part in ("outputs/mine", "1 / 4", "12.5%  95% interval 2% to 47%, 8 candidates", "0:16 so far · 0:48 left"):
        assert part in told, part
    assert "30 evaluations (19%) by early rejection" in told
    verdicts = [row.split()[0] for row in told.splitlines() if row.strip().startswith("#")]
    assert verdicts == ["#7", "#6", "#5", "#4", "#3", "#2"]
    assert re.search(r"#4 +failed +upscale: ValueError: no +prompt 4", told)
    assert re.search(r"#3 +left early +preview 0.01 < threshold 0.2 at step 5 of 20 +prompt 3", told)


def test_evaluations_saved_are_those_that_whole_candidates_would_have_taken():
    broken = decided(3, "failed", "denoise: x", 3, None)
    assert saved_early([decided(0), early(1, 5), early(2, 10), broken]) == (25, pytest.approx(25 / 63))
    assert saved_early([]) == saved_early([decided(0)]) == saved_early([early(0), broken]) == (0, 0.0)


def test_the_terminal_and_the_page_tell_the_same_saving():
    """Also where no whole candidate has a score, and where one failed at the gate's far side, with a score."""
    unsafe = decided(0, reason="safety: the checker rejects it", score=None)
    for whole in (unsafe, decided(0, "failed", "upscale: ValueError: no"), decided(0)):
        lines = [whole, early(1, 5)]
        assert saved_early(lines)[0] == saved_evaluations([shown_on_page(line) for line in lines])
    assert saved_early([unsafe, early(1, 5)])[0] == 15


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_view_fits_its_terminal_and_outside_text_does_not_act(width):
    hostile = "[red]not markup[/red] \x1b[2J\x1b]0;title\x07 " + "long " * 100
    lines = [decided(0, "failed", hostile, prompt=hostile)]
    told = shown(standing(0, 4, 1, 1, 1.0), lines, width)
    assert "\x1b" not in told and "\x07" not in told
    assert max(map(len, told.splitlines())) <= width
    if width == 200:
        assert "[red]not markup[/red]" in told


def test_where_there_is_no_terminal_it_tells_at_once_now_and_then_and_at_the_end(tmp_path: Path):
    batch, stream = Batch(tmp_path, {}), io.StringIO()
    with Progress(2, batch, interval=3600.0, stream=stream) as progress:
        assert stream.getvalue().count("\n") == 1
        progress.advance()
        assert stream.getvalue().count("\n") == 1
        batch.append(decided(0, "accepted"))
    first, last = stream.getvalue().splitlines()
    assert first.startswith("0/2 accepted · 0 candidates") and last.startswith("1/2 accepted · 1 candidates")
    batch.close()


def test_on_a_terminal_it_goes_on_by_itself_and_gives_the_cursor_back(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    batch = Batch(tmp_path, {})
    reader, writer = pty.openpty()
    with os.fdopen(writer, "w") as terminal:
        with pytest.raises(KeyboardInterrupt), Progress(2, batch, interval=0.0, stream=terminal) as progress:
            batch.append(decided(0, "accepted", "score 0.90 >= threshold 0.40"))
            progress.advance()
            seen = read_until(reader, b"score 0.90")  # nobody asked for it
            raise KeyboardInterrupt
        seen += read_until(reader, SHOW_CURSOR)
    os.close(reader)
    batch.close()
    assert seen.count(HIDE_CURSOR) == seen.count(SHOW_CURSOR) == 1
    assert UP in seen  # it is rewritten in place
    assert b"1 / 2" in seen and b"images/s" not in seen


@pytest.mark.parametrize("term", ["dumb", "unknown"])
def test_a_terminal_that_cannot_move_its_cursor_gets_lines(tmp_path: Path, monkeypatch, term):
    monkeypatch.setenv("TERM", term)
    batch = Batch(tmp_path, {})
    reader, writer = pty.openpty()
    with os.fdopen(writer, "w") as terminal, Progress(2, batch, interval=0.0, stream=terminal):
        assert b"0/2 accepted" in read_until(reader, b"left")
    os.close(reader)
    batch.close()


@pytest.mark.slow
def test_ctrl_c_on_a_terminal_ends_a_batch_cleanly(tmp_path: Path):
    model, scorer = build_tiny("sd1", tmp_path / "sd1"), build_scorer(tmp_path / "scorer")
    more = ["target=100000", "max_candidates=200000", "gate.threshold=0"]
    command = [sys.executable, str(ROOT / "generate.py"), *overrides_of(model, scorer, tmp_path / "batch"), *more]
    child, terminal = pty.fork()
    if child == 0:
        os.environ["TERM"] = "xterm"
        os.chdir(tmp_path)
        os.execv(command[0], command)
    seen = read_until(terminal, b">= threshold", seconds=240)
    os.write(terminal, b"\x03")  # the terminal itself makes SIGINT of it
    seen += read_until(terminal, None, seconds=240)
    _, status = os.waitpid(child, 0)
    os.close(terminal)
    text = seen.decode()
    assert os.WIFEXITED(status) and os.WEXITSTATUS(status) == 130, text
    assert "Traceback" not in text and "not complete: the same command goes on" in text
    assert seen.count(HIDE_CURSOR) == seen.count(SHOW_CURSOR) == 1
    assert seen.rindex(SHOW_CURSOR) < seen.rindex(b"not complete")
    assert "yield" in text and "95% interval" in text and "so far" in text
    assert len(ledger(tmp_path / "batch")) >= 1 and (tmp_path / "batch" / "gallery.html").is_file()


def read_until(terminal: int, what: bytes | None, seconds: float = 20.0) -> bytes:
    """What a pseudo-terminal shows until `what` is there, or, for None, until the other side is gone."""
    os.set_blocking(terminal, False)
    seen, end = b"", time.monotonic() + seconds
    while time.monotonic() < end and (what is None or what not in seen):
        try:
            found = os.read(terminal, 65536)
        except BlockingIOError:
            time.sleep(0.02)
            continue
        except OSError:  # the other side has closed it
            return seen
        if not found:
            return seen
        seen += found
    assert what is None or what in seen, seen[-2000:]
    return seen
