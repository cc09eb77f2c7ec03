"""The main job as a user runs it: stopped, killed and resumed runs end with the bits of one that was never interrupted.

usage: check_resume.py PROGRAM DATA
"""
import os
import random
import signal
import subprocess
import sys
import tempfile
import time

program, data = sys.argv[1], sys.argv[2]
failures = []


def run(*arguments, check=True):
    result = subprocess.run([program, "--data", data, "--quiet", *arguments], capture_output=True, text=True)
    if check and result.returncode != 0:
        failures.append(f"{arguments}: {result.stderr.strip()}")
    return result


def last_lines(result):
    return [line for line in result.stdout.splitlines() if line.startswith(("test accuracy:", "parameters digest:"))]


def expect(law, condition):
    print("ok  " if condition else "FAIL", law, flush=True)
    if not condition:
        failures.append(law)


with tempfile.TemporaryDirectory() as folder:
    for optimizer in ("sgd", "adam", "adamw"):
        job = ("--optimizer", optimizer, "--epochs", "3", "--seed", "7")
        whole = last_lines(run(*job))
        expect(f"{optimizer}: two equal runs print the same lines", whole == last_lines(run(*job)) and len(whole) == 2)
        expect(f"{optimizer}: threads change nothing", whole == last_lines(run(*job, "--threads", "1")) == last_lines(run(*job, "--threads", "3")))
        sharded = last_lines(run(*job, "--shards", "4"))
        for devices in ("host:2", "host:3", "host:4"):
            expect(f"{optimizer}: --devices {devices} --shards 4 has the bits of one device",
                   sharded == last_lines(run(*job, "--shards", "4", "--devices", devices)) and len(sharded) == 2)
        file = os.path.join(folder, optimizer + ".safetensors")
        run(*job, "--shards", "4", "--devices", "host:4", "--checkpoint", file, "--stop-at-step", "37")
        expect(f"{optimizer}: stopped on four devices in the middle of an epoch, resumed on two",
               sharded == last_lines(run(*job, "--shards", "4", "--devices", "host:2", "--checkpoint", file, "--resume")))
        for stop in (1, 37, 44, 45, 46, 90, 134):
            if os.path.exists(file):
                os.unlink(file)
            run(*job, "--checkpoint", file, "--stop-at-step", str(stop))
            again = last_lines(run(*job, "--checkpoint", file, "--resume", "--threads", "1" if stop % 2 else "2"))
            expect(f"{optimizer}: stopped at step {stop} and resumed", again == whole)

        # kill -9, again and again, until the job has come to its end.
        if os.path.exists(file):
            os.unlink(file)
        chance = random.Random(optimizer)
        kills = 0
        for attempt in range(200):
            # The first attempts are killed early, later ones get longer and longer, so that the job ends on any machine.
            limit = chance.uniform(0.002, 0.03) + 0.004 * attempt
            process = subprocess.Popen(
                [program, "--data", data, "--quiet", *job, "--checkpoint", file, "--every", "5", "--resume", "--threads", str(1 + attempt % 2)],
                stdout=subprocess.PIPE, text=True)
            try:
                out, _ = process.communicate(timeout=limit)
                break
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.communicate()
                kills += 1
        expect(f"{optimizer}: killed {kills} times and resumed", process.returncode == 0 and out.splitlines() == whole)

    # Seeds matter, accuracy is what PyTorch reaches.
    for seed in range(1, 6):
        lines = last_lines(run("--seed", str(seed)))
        expect(f"seed {seed}: {lines[0]} is at least 0.93", float(lines[0].split()[-1]) >= 0.93)

    # Mistakes are answered in words.
    broken = os.path.join(folder, "broken.safetensors")
    with open(broken, "wb") as f:
        f.write(b"\x10\0\0\0\0\0\0\0{not a header}  ")
    result = run("--checkpoint", broken, "--resume", check=False)
    expect("a broken checkpoint is refused with its name", result.returncode == 1 and "broken.safetensors" in result.stderr)
    run("--epochs", "1", "--optimizer", "sgd", "--checkpoint", file)
    result = run("--epochs", "2", "--optimizer", "adam", "--checkpoint", file, "--resume", check=False)
    expect("a run of another optimizer is refused with the names that are missing", result.returncode == 1 and "exp_avg" in result.stderr)
    for devices in ("host:0", "host:x", "gpu"):
        result = run("--devices", devices, check=False)
        expect(f"--devices {devices} is refused in words", result.returncode == 1 and devices in result.stderr)
    result = run("--devices", "host:4", "--shards", "2", check=False)
    expect("more devices than shards are refused in words", result.returncode == 1 and "2 shards for 4 devices" in result.stderr)
    result = subprocess.run([program, "--data", "/nowhere"], capture_output=True, text=True)
    expect("data that is not there is named", result.returncode == 1 and "/nowhere" in result.stderr)

sys.exit(1 if failures else 0)
