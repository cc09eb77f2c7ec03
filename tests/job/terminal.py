"""What a user sees: a bar that is redrawn within the terminal's width, and plain lines elsewhere.

usage: terminal.py TRAIN_DIGITS DATA
"""
import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

command = [sys.argv[1], "--data", sys.argv[2], "--epochs", "3", "--threads", "1"]


def on_terminal(columns):
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    process = subprocess.Popen(command, stdout=theirs)
    os.close(theirs)
    output = b""
    try:
        while chunk := os.read(ours, 4096):
            output += chunk
    except OSError:  # how Linux says that the other end is closed
        pass
    assert process.wait() == 0
    return [line for line in output.decode().replace("\n", "\r").split("\r") if line.startswith("epoch")]


plain = subprocess.run(command, capture_output=True, text=True, check=True).stdout
lines = [line for line in plain.splitlines() if line.startswith("epoch")]
assert "\r" not in plain and "\033" not in plain, "a log must hold plain lines"
assert len(lines) == 3 and all("samples/s" in line and "loss" in line and "accuracy" in line for line in lines), lines

for columns in (200, 100, 80, 40):
    drawn = on_terminal(columns)
    assert all(line.endswith("\033[K") for line in drawn), drawn
    texts = [line[: -len("\033[K")] for line in drawn]
    assert all(len(text) < columns for text in texts), (columns, texts)
    for epoch in (1, 2, 3):
        last = [text for text in texts if text.startswith(f"epoch {epoch}/3")][-1]
        if columns >= 100:
            assert "#]" in last and "45/45" in last and "samples/s" in last and "loss" in last and "accuracy" in last and "took" in last, last
    if columns >= 100:
        assert all(("ETA" in text) != ("took" in text) for text in texts), texts
print("bars fit in 200, 100, 80 and 40 columns; a pipe gets plain lines")
