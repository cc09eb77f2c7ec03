"""A run of 1 GB with Adam's moments saved and loaded by the library, by torch and by safetensors' own reader, beside bare write and read.
The best and the median of several repetitions of each, taken in turn: a shared disk only ever adds time. Ratios are those of the medians.

usage: checkpoint.py WORKER [--folder FOLDER] [--repetitions N] [--threads N]      FOLDER: on the disk to measure; needs 5 GB
"""
import argparse
import os
import subprocess
import tempfile
import time

parser = argparse.ArgumentParser()
parser.add_argument("worker")
parser.add_argument("--folder")
parser.add_argument("--repetitions", type=int, default=3)
parser.add_argument("--threads", type=int, default=0, help="of the library; all cores where it is left out")
options = parser.parse_args()


def timed(f, n):
    times = []
    for _ in range(n):
        os.sync()
        start = time.perf_counter()
        f()
        times.append(time.perf_counter() - start)
    return min(times), sorted(times)[n // 2]


with tempfile.TemporaryDirectory(dir=options.folder) as folder:
    out = subprocess.run([options.worker, folder, str(options.repetitions), str(options.threads)], check=True, stdout=subprocess.PIPE, universal_newlines=True).stdout
    rows = {}
    for line in out.splitlines():
        name, _, rest = line.rpartition(" s ")
        name, fastest, median = name.rsplit(None, 2)
        rows[name] = (float(fastest), float(median), float(rest.split()[0]))
    path = os.path.join(folder, "run.pt")
    try:
        import torch

        state = torch.load(path)

        def save(sync):
            with open(os.path.join(folder, "torch.pt"), "wb") as f:
                torch.save(state, f)
                f.flush()
                if sync:
                    os.fsync(f.fileno())

        rows["torch.save"] = (*timed(lambda: save(False), options.repetitions), float("nan"))
        rows["torch.save, fsync"] = (*timed(lambda: save(True), options.repetitions), float("nan"))
        rows["torch.load"] = (*timed(lambda: torch.load(os.path.join(folder, "torch.pt")), options.repetitions), float("nan"))
    except ImportError as e:
        print("no torch:", e)
    try:
        from safetensors.numpy import load_file

        rows["safetensors' load_file"] = (*timed(lambda: load_file(os.path.join(folder, "run.safetensors")), options.repetitions), float("nan"))
    except ImportError as e:
        print("no safetensors:", e)

raw_of = lambda name: rows["raw read" if "load" in name else "raw write+fsync" if "fsync" in name or ("save" in name and "not" not in name and name != "torch.save") else "raw write"][1]
print("%-32s %8s %8s %8s %10s" % ("", "best, s", "median", "to raw", "extra MiB"))
for name, (fastest, median, extra) in rows.items():
    print("%-32s %8.3f %8.3f %8.2f %10.1f" % (name, fastest, median, median / raw_of(name), extra))
