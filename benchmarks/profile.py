#!/usr/bin/python3
"""Where a step's time goes: samples one worker with perf (software clock) and prints microseconds a step by function.

usage: profile.py [--build DIR] [--threads N] ROW...          rows as in run.py
"""
import argparse
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from run import ROOT, ROWS, clean_environment  # noqa: E402


def short(symbol):
    """The innermost name and its own arguments; networks spelled out in template arguments say nothing here."""
    symbol = symbol.replace("mortise::detail::", "").replace("mortise::", "").replace("(anonymous namespace)::", "")
    for name in ("training", "inference"):
        symbol = re.sub(rf"^{name}<.*>::step.*$", f"{name}::step and what was inlined into it", symbol)
    model = re.match(r"^model<.*>::(\w+)(<.*)?$", symbol)
    if model:
        return "model::" + model.group(1) + (model.group(2) or "")[:40]
    return symbol[:110]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--build", default=str(ROOT / "build" / "benchmarks"))
    parser.add_argument("--threads", default="1")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("rows", nargs="+")
    arguments = parser.parse_args()
    worker = [str(Path(arguments.build, "steps")), arguments.threads]
    for row in arguments.rows:
        variant = "forward" if ROWS[row][3] is None else "train_step"

        def ask(steps, prefix=()):
            done = subprocess.run([*prefix, *worker], input=f"run {row} {variant} {steps}\n", capture_output=True, text=True,
                                  env=clean_environment(), check=True)
            return float(done.stdout.split()[0])

        ns = ask(10)
        ns = ask(max(10, int(1e8 / ns)))
        with tempfile.NamedTemporaryFile() as data:
            ns = ask(max(10, int(arguments.seconds * 1e9 / ns)), ("perf", "record", "-q", "-F", "4000", "-e", "cpu-clock", "-o", data.name))
            listing = subprocess.run(["perf", "script", "-i", data.name, "-F", "ip,sym"], capture_output=True, text=True).stdout
        counts = Counter(short(line.split(None, 1)[-1].strip()) for line in listing.splitlines() if line.strip())
        total = sum(counts.values())
        print(f"{row}: {ns * 1e-3:.4g} us a step, {total} samples")
        for name, count in counts.most_common(16):
            print(f"  {ns * 1e-3 * count / total:10.3f} us {100 * count / total:5.1f} %  {name}")
        sys.stdout.flush()


main()
