"""The CUDA examples as a user runs them.

usage: check_examples.py CUDA_INFO [TRAIN_DIGITS_CUDA TRAIN_DIGITS DATA FINETUNE_DIGITS_CUDA]

cuda_info names the devices, or says in words that there is none. train_digits learns on a device what it learns on the host, a stopped and
resumed run ends with the bits of the whole one, and a checkpoint goes from the device to the host and back. finetune_digits does its four runs.
"""
import os
import subprocess
import sys
import tempfile

info, programs, data = sys.argv[1], sys.argv[2:4], sys.argv[4] if len(sys.argv) > 4 else None
failures = []


def expect(law, condition, words=""):
    print("ok  " if condition else "FAIL", law, words if not condition else "", flush=True)
    if not condition:
        failures.append(law)


listed = subprocess.run([info], capture_output=True, text=True)
if listed.returncode != 0:
    expect("without a device cuda_info says what is wrong", listed.stdout.count("no device: ") == 1 and len(listed.stdout.split("no device: ")[1]) > 20,
           listed.stdout + listed.stderr)
    if programs:
        refused = subprocess.run([programs[0], "--data", data, "--device", "cuda:0"], capture_output=True, text=True)
        expect("without a device train_digits says what is wrong", refused.returncode == 1 and "mortise::cuda{0}" in refused.stderr, refused.stderr)
        here = subprocess.run([programs[0], "--data", data, "--epochs", "1", "--quiet"], capture_output=True, text=True)
        expect("and still runs on the host", here.returncode == 0 and "test accuracy" in here.stdout, here.stderr)
    sys.exit(1 if failures else 77)
expect("cuda_info lists a device", "cuda:0" in listed.stdout and "compute capability" in listed.stdout, listed.stdout)


def run(program, *arguments):
    result = subprocess.run([program, "--data", data, "--quiet", "--seed", "7", *arguments], capture_output=True, text=True)
    if result.returncode != 0:
        failures.append(f"{arguments}: {result.stderr.strip()}")
        return "", 0.0
    lines = dict(line.split(": ") for line in result.stdout.splitlines() if ": " in line)
    return lines["parameters digest"], float(lines["test accuracy"])


if programs:
    cuda, host = programs
    devices = listed.stdout.count("compute capability")
    first, last = "cuda:0", f"cuda:{devices - 1}"
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "run.safetensors")
        job = ("--epochs", "2", "--optimizer", "adam")  # of 23 steps each
        digest, accuracy = run(cuda, *job, "--device", first)
        digest_on_host, accuracy_on_host = run(host, *job)
        # 360 test samples: runs that differ in rounding only may disagree on a few of them.
        expect(f"accuracy after two epochs is the host's: {accuracy} and {accuracy_on_host}", abs(accuracy - accuracy_on_host) <= 0.03)
        for stop in ("1", "30", "45"):
            run(cuda, *job, "--device", first, "--checkpoint", file, "--stop-at-step", stop)
            again, _ = run(cuda, *job, "--device", last, "--checkpoint", file, "--resume")
            expect(f"stopped at step {stop} on {first} and resumed on {last}: the same bits", again == digest)
            os.unlink(file)
        run(cuda, *job, "--device", last, "--checkpoint", file, "--stop-at-step", "30")
        _, moved = run(host, *job, "--checkpoint", file, "--resume")
        expect(f"a run of the device goes on on the host: {moved}", abs(moved - accuracy_on_host) <= 0.03)
        os.unlink(file)
        run(host, *job, "--checkpoint", file, "--stop-at-step", "30")
        _, moved = run(cuda, *job, "--device", first, "--checkpoint", file, "--resume")
        expect(f"and the other way round: {moved}", abs(moved - accuracy_on_host) <= 0.03)
        if devices > 1:
            short = ("--epochs", "1", "--optimizer", "adam", "--shards", "4", "--checkpoint", file, "--stop-at-step", "8")
            one, _ = run(cuda, *short, "--devices", first)
            several, _ = run(cuda, *short, "--devices", f"{first},{last}")
            expect(f"--devices {first},{last} --shards 4 has the bits of one device", one == several and one)
            refused = subprocess.run([cuda, "--data", data, "--devices", f"{first},{first}"], capture_output=True, text=True)
            expect("a device that is listed twice is refused in words", refused.returncode == 1 and "listed twice" in refused.stderr, refused.stderr)
        tuned = subprocess.run([sys.argv[5], "--data", data, "--device", last, "--epochs", "1", "--pretrain-epochs", "1", "--seeds", "1", "--images", "10"],
                               capture_output=True, text=True)
        expect("finetune_digits makes its table on a device", tuned.returncode == 0 and tuned.stdout.count(" +- ") == 4, tuned.stdout + tuned.stderr)
        constant = subprocess.run([sys.argv[5], "--data", data, "--device", last, "--constant", "0.123"], capture_output=True, text=True)
        expect("and its first exercise", constant.returncode == 0 and "10 tensors loaded" in constant.stdout, constant.stdout + constant.stderr)
        refused = subprocess.run([host, "--data", data, "--device", "cuda:0"], capture_output=True, text=True)
        expect("a program without CUDA says how to get one with it", refused.returncode == 1 and "nvcc" in refused.stderr, refused.stderr)
        refused = subprocess.run([cuda, "--data", data, "--device", f"cuda:{devices}"], capture_output=True, text=True)
        expect("a device that is not there is refused in words", refused.returncode == 1 and f"there is no device cuda:{devices}" in refused.stderr, refused.stderr)

for failure in failures:
    print("failed:", failure)
sys.exit(1 if failures else 0)
