import io
from pathlib import Path

from artgate.generation.batch import Batch
from artgate.generation.progress import Progress, standing


def test_the_line_tells_this_sessions_rate_and_the_time_left():
    told = standing(accepted=3, target=8, candidates=10, decided_now=4, accepted_now=2, seconds=20.0)
    assert told == "3/8 accepted · 10 candidates · yield 30% · 0.20 images/s · 0:50 left"


def test_what_is_not_known_yet_is_not_guessed():
    assert standing(0, 8, 0, 0, 0, 3.0) == "0/8 accepted · 0 candidates · yield ? · ? images/s · ? left"


def test_where_there_is_no_terminal_it_tells_at_once_now_and_then_and_at_the_end(tmp_path: Path):
    batch, stream = Batch(tmp_path, {}), io.StringIO()
    with Progress(2, batch, interval=3600.0, stream=stream) as progress:
        assert stream.getvalue().count("\n") == 1
        progress.advance()
        assert stream.getvalue().count("\n") == 1
        batch.append({"status": "accepted"})
    first, last = stream.getvalue().splitlines()
    assert first.startswith("0/2 accepted · 0 candidates") and last.startswith("1/2 accepted · 1 candidates")
    batch.close()
