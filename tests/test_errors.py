import subprocess
import sys

SCRIPT = """
from artgate.errors import exits_cleanly

@exits_cleanly
def main():
    for line in range(100_000):
        print(line)

main()
"""


def test_a_reader_that_leaves_early_is_no_complaint():
    with subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stderr
        assert process.stdout.readline() == b"0\n"
        process.stdout.close()  # as `| head -1` does
        assert process.stderr.read() == b""
        assert process.wait() == 1
