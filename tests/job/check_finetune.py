"""The fine-tuning example as a user runs it: its table, its report of the load, and the margin over training from scratch.

usage: check_finetune.py PROGRAM DATA
"""
import os
import re
import subprocess
import sys
import tempfile

program, data = sys.argv[1], sys.argv[2]
failures = []


def run(*arguments):
    return subprocess.run([program, "--data", data, *arguments], capture_output=True, text=True)


def expect(law, condition):
    print("ok  " if condition else "FAIL", law, flush=True)
    if not condition:
        failures.append(law)


ROW = re.compile(r"^(from scratch|frozen features|features at a tenth of the rate|gradual unfreezing)\s+([\d.]+) \+- ([\d.]+)\s+(\d+)\s+(\d+) B\s+([\d.]+)$", re.MULTILINE)
DIFFERENCE = re.compile(r"^  (frozen features|features at a tenth of the rate|gradual unfreezing)\s+([+-][\d.]+), standard error ([\d.]+)$", re.MULTILINE)

small = run("--epochs", "3", "--pretrain-epochs", "1", "--seeds", "1", "--images", "20")
expect("a small run ends well", small.returncode == 0)
rows = {name: (int(trained), int(state)) for name, _, _, trained, state, _ in ROW.findall(small.stdout)}
expect("the table has four rows", len(rows) == 4)
if len(rows) == 4:
    expect("the frozen network trains the head alone", rows["frozen features"][0] == 512 * 5 + 5 and rows["from scratch"][0] == 512 * 5 + 5 + 160 + 4640)
    expect("Adam's two moments exist for what is trained", all(state == 8 * trained for trained, state in rows.values()))
expect("what was loaded and what was not is said", "loaded (4): features.0.weight" in small.stdout and "missing in the file (2): head.weight, head.bias" in small.stdout)


def without_seconds(text):
    return re.sub(r"\s+[\d.]+$", "", text, flags=re.MULTILINE)


again = run("--epochs", "3", "--pretrain-epochs", "1", "--seeds", "1", "--images", "20")
expect("two equal runs print the same numbers", without_seconds(small.stdout) == without_seconds(again.stdout))

whole = run()
differences = DIFFERENCE.findall(whole.stdout)
print(whole.stdout)
expect("three ways are compared with training from scratch", len(differences) == 3)
for name, difference, error in differences:
    expect(f"{name}: better than from scratch by more than twice the standard error", float(difference) > 2 * float(error))

with tempfile.TemporaryDirectory() as folder:
    file = os.path.join(folder, "constant.pt")
    constant = run("--constant", "0.123", "--save", file)
    expect("a LeNet filled with a constant is saved and loaded", constant.returncode == 0 and os.path.getsize(file) > 4 * 44426)
    shown = constant.stdout.split("the new network after loading:")
    expect("the loaded network has the constant everywhere", len(shown) == 2 and shown[1].count(" 0.123 ") == 30 and "10 tensors loaded" in shown[1])
    digests = re.search(r"digest (\w+), saved (\w+)", constant.stdout)
    expect("both have the same bytes", digests is not None and digests[1] == digests[2])

wrong = subprocess.run([program, "--data", "/nonexistent"], capture_output=True, text=True)
expect("a folder without data is an error in words", wrong.returncode == 1 and "digits-images.idx3-ubyte" in wrong.stderr)

if failures:
    sys.exit("\n".join(failures))
