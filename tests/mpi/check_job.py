"""Several processes as a user runs them: equal bits, a process killed or stopped in the middle of an epoch, and the run started again.

usage: check_job.py MPIRUN PROGRAM RESTART_SCRIPT DATA
"""
import os
import signal
import subprocess
import sys
import tempfile
import time

mpirun, program, restart_script, data = sys.argv[1:5]
environment = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", MORTISE_NUM_THREADS="1",
                   OMPI_MCA_rmaps_base_oversubscribe="1", OMPI_MCA_btl_vader_single_copy_mechanism="none")
failures = []
job = ["--data", data, "--epochs", "3", "--seed", "7", "--shards", "4"]


def expect(law, condition):
    print("ok  " if condition else "FAIL", law, flush=True)
    if not condition:
        failures.append(law)


def start(processes, *arguments):
    return subprocess.Popen([mpirun, "-n", str(processes), program, *job, *arguments], env=environment, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True)


def last_lines(text):
    return [line for line in text.splitlines() if line.startswith(("test accuracy:", "parameters digest:"))]


def process_of_rank(rank, mother):
    """The process that this mpirun started as `rank`."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as f:
                parent = int(f.read().rsplit(")", 1)[1].split()[1])
            with open(f"/proc/{pid}/environ", "rb") as f:
                ranks = [v for v in f.read().split(b"\0") if v == b"OMPI_COMM_WORLD_RANK=%d" % rank]
        except (OSError, ValueError, IndexError):
            continue
        if parent == mother and ranks:
            return int(pid)
    return None


def interrupt(processes, rank, how, file):
    """Starts a run, interrupts one of its processes after some checkpoints, and returns its exit code, its words and how long it took to end."""
    run = start(processes, "--checkpoint", file, "--every", "2", "--timeout", "5")
    seen = None
    saves = 0
    while saves < 8 and run.poll() is None:
        try:
            now = os.stat(file).st_mtime_ns
        except OSError:
            now = None
        if now != seen:
            seen = now
            saves += 1
        time.sleep(0.001)
    victim = process_of_rank(rank, run.pid)
    if victim is None:
        run.communicate()
        return None, "the run was over before it could be interrupted", 0
    os.kill(victim, how)
    begin = time.monotonic()
    try:
        _, words = run.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        run.kill()
        _, words = run.communicate()
        return None, words, 60
    finally:
        try:
            os.kill(victim, signal.SIGKILL)  # a stopped process that mpirun could not end
        except ProcessLookupError:
            pass
    return run.returncode, words, time.monotonic() - begin


with tempfile.TemporaryDirectory() as folder:
    alone = subprocess.run([program, *job], env=environment, capture_output=True, text=True)
    whole = last_lines(alone.stdout)
    expect("one process without mpirun trains: " + alone.stderr[-200:], len(whole) == 2)
    for processes in (1, 2, 3, 4):
        out, err = start(processes).communicate(timeout=300)
        expect(f"{processes} processes print the lines of one: {err[-300:] if last_lines(out) != whole else ''}", last_lines(out) == whole)

    for processes, rank, how, next_processes in ((2, 1, signal.SIGKILL, 2), (4, 2, signal.SIGKILL, 3), (2, 0, signal.SIGKILL, 4),
                                                 (3, 1, signal.SIGSTOP, 1)):
        name = how.name
        file = os.path.join(folder, f"{name}-{processes}.safetensors")
        code, words, seconds = interrupt(processes, rank, how, file)
        expect(f"{name} to rank {rank} of {processes}: the others end with an error within 30 s (took {seconds:.1f} s)", code not in (0, None) and seconds < 30)
        if how == signal.SIGSTOP:
            expect(f"{name}: the words say who waited: {words[:160]}", "waited 5 s for the others" in words)
        out, err = start(next_processes, "--checkpoint", file, "--resume").communicate(timeout=300)
        expect(f"{name}: {next_processes} processes go on from the last checkpoint to the same bits", "go on at step" in err and last_lines(out) == whole)

    # The script starts the run again by itself.
    file = os.path.join(folder, "restarted.safetensors")
    script = subprocess.Popen(["bash", restart_script, "2", *job, "--checkpoint", file, "--every", "2"], text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, env=dict(environment, PROGRAM=program, MPIRUN=mpirun))
    killed = 0
    deadline = time.monotonic() + 60
    while killed < 2 and script.poll() is None and time.monotonic() < deadline:
        time.sleep(0.3)
        if not os.path.exists(file):
            continue
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as f:
                    ours = file.encode() in f.read() and os.path.realpath(f"/proc/{pid}/exe") == os.path.realpath(program)
            except OSError:
                continue
            if ours:
                os.kill(int(pid), signal.SIGKILL)
                killed += 1
                break
    out, err = script.communicate(timeout=300)
    expect(f"the restart script carries a run through {killed} kills to the same bits", killed > 0 and script.returncode == 0 and last_lines(out) == whole)

sys.exit(1 if failures else 0)
