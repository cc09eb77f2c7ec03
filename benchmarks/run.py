#!/usr/bin/python3
"""Times mortise's training steps and batch-1 inference next to its best tuned peers, interleaved in one run.

Every contender is a worker process that speaks the protocol of peers/protocol.hpp.  Only one is awake at a time; the others are stopped,
spinning threads and all.  For each row: first all of them must compute the same losses from the same weights, then a short tuning pass
drops the slower settings of each peer, then rounds of all that remain; a round's times give a round's ratios.  README.md says how
operations and bytes are counted.
"""
import argparse
import json
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent

# ---- rows: what is computed, and what section of work bounds it -----------------------------------------------------------------------


def dense(*sizes, positions=1):
    return [("dense", a, b, positions) for a, b in zip(sizes, sizes[1:])]


def lenet_layers(padding):
    first = 28 + 2 * padding - 4
    second = first // 2 - 4
    return ([("conv", 1, 6, 5, 28, first), ("pool", 6, first), ("conv", 6, 16, 5, first // 2, second), ("pool", 16, second)]
            + dense(16 * (second // 2) ** 2, 120, 84, 10))


def resnet_layers():
    layers, before, side = [("conv", 3, 64, 3, 32, 32)], 64, 32
    for after, stride in ((64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1)):
        layers += [("conv", before, after, 3, side, side // stride), ("conv", after, after, 3, side // stride, side // stride)]
        layers += [("conv", before, after, 1, side, side // stride)] if stride == 2 else []
        before, side = after, side // stride
    return layers + dense(512, 10)


def gpt_layers(blocks, width, length, letters):
    block = dense(width, 3 * width, positions=length) + [("attention", width, length)] + dense(width, width, positions=length) \
        + dense(width, 4 * width, width, positions=length)
    return [("lookup", letters, width, length)] + blocks * block + dense(width, letters, positions=length)


TINY, MLP, LENET, LENET_PADDED = dense(64, 32, 10), dense(784, 512, 512, 10), lenet_layers(0), lenet_layers(2)

# name: (title, layers, batch, optimizer or None, least ratio to the best of PyTorch at {1, 2} threads, least ratio to dlib, to RLtools (tuned flags, -O2))
ROWS = {
    "tiny_16_sgd": ("MLP 64-32-10, batch 16, SGD", TINY, 16, "sgd", (20, 20), 4, None),
    "tiny_16_adam": ("MLP 64-32-10, batch 16, Adam", TINY, 16, "adam", (30, 30), 4, (1.3, 3)),
    "mlp_64_sgd": ("MLP 784-512-512-10, batch 64, SGD", MLP, 64, "sgd", (1.3, 2), None, None),
    "mlp_64_adam": ("MLP 784-512-512-10, batch 64, Adam", MLP, 64, "adam", (1.3, 2), None, None),
    "mlp_1024_sgd": ("MLP 784-512-512-10, batch 1024, SGD", MLP, 1024, "sgd", (1.05, 1.3), None, None),
    "mlp_1024_adam": ("MLP 784-512-512-10, batch 1024, Adam", MLP, 1024, "adam", (1.05, 1.3), None, None),
    "lenet_64_sgd": ("LeNet-5, 28x28, batch 64, SGD", LENET, 64, "sgd", (3, 3), None, None),
    "lenet_64_adam": ("LeNet-5, 28x28, batch 64, Adam", LENET, 64, "adam", (3, 3), None, None),
    "lenet_padded_64_sgd": ("LeNet-5, 28x28 padded to 32x32, batch 64, SGD", LENET_PADDED, 64, "sgd", (3, 3), None, None),
    "resnet18_32_sgd": ("ResNet-18 for 32x32, batch 32, SGD", resnet_layers(), 32, "sgd", (1.7, 1.7), None, None),
    "gpt_12_adamw": ("GPT, 4 layers, width 128, context 64, batch 12, AdamW", gpt_layers(4, 128, 64, 65), 12, "adamw", (1.5, 2.5), None, None),
    "mlp_1": ("inference, batch 1: MLP 784-512-512-10", MLP, 1, None, (1.3, 1.3), None, None),
    "tiny_1": ("inference, batch 1: MLP 64-32-10", TINY, 1, None, (20, 20), 2, None),
    "lenet_1": ("inference, batch 1: LeNet-5", LENET, 1, None, (4, 4), None, None),
}


def floor(layers, batch, optimizer, machine):
    """(seconds of operations, seconds of bytes, least seconds, operations, bytes, working set): the least a step can take.

    A product or convolution costs the larger of its multiply-adds at the measured peak and its operands' bytes, each touched once, at the
    measured bandwidth; pooling, looking up and the update cost their bytes.  What is done element by element, normalisation and loss count as
    fused into their neighbours: nothing.
    """
    passes, parameters, activations = [], 0, 0
    for i, layer in enumerate(layers):
        if layer[0] == "dense":
            _, a, b, positions = layer
            x, y, w, bias, operations = batch * positions * a, batch * positions * b, a * b, b, 2 * batch * positions * a * b
        elif layer[0] == "conv":
            _, c, o, k, side_in, side_out = layer
            x, y, w, bias = batch * c * side_in**2, batch * o * side_out**2, c * o * k * k, o
            operations = 2 * y * c * k * k
        elif layer[0] == "attention":  # scores and their product with v, of the pairs that a causal mask leaves
            _, width, length = layer
            x, y, w, bias, operations = 3 * batch * length * width, batch * length * width, 0, 0, 2 * batch * length * length * width
        elif layer[0] == "lookup":  # rows of a table, and a vector for each position
            _, rows, width, length = layer
            parameters += (rows + length) * width
            passes.append((0, 4 * (2 if optimizer else 1) * batch * length * width))
            continue
        else:
            _, c, side = layer
            x, y, w, bias, operations = batch * c * side**2, batch * c * side**2 // 4, 0, 0, 0
        parameters += w + bias
        activations += x
        once = 4 * (x + y + w)
        if operations == 0:  # a byte for each output says which input won
            passes.append((0, 4 * (x + y) + (y if optimizer else 0)))
            if optimizer:
                passes.append((0, 4 * (x + y) + y))
            continue
        passes.append((operations, once))  # forward
        if optimizer:
            passes.append((operations, once))  # gradient of the weights
            if i > 0:
                passes.append((operations, once))  # gradient of the input; the first layer's is not wanted
    slots = {"sgd": 3, "adam": 7, "adamw": 7, None: 0}[optimizer]  # reads p, g, writes p; Adam also reads and writes m and v
    passes.append((0, 4 * slots * parameters))
    working_set = 4 * ((slots // 2 + 1) * parameters + (2 if optimizer else 1) * activations)
    bandwidth = 1e9 * machine[next(key for key, limit in (("triad_24k_gbps", 40e3), ("triad_512k_gbps", 900e3), ("triad_8m_gbps", 28e6),
                                                          ("triad_192m_gbps", float("inf"))) if working_set <= limit)]
    peak = 1e9 * machine["peak_gflops"]
    operations, moved = sum(p[0] for p in passes), sum(p[1] for p in passes)
    least = sum(max(o / peak, b / bandwidth) for o, b in passes)
    return operations / peak, moved / bandwidth, least, operations, moved, working_set


# ---- workers ----------------------------------------------------------------------------------------------------------------------------


class Worker:
    def __init__(self, name, command, environment, awake=False):
        self.name, self.awake = name, awake
        self.process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self.variants = {}
        for line in self.ask("list", many=True):
            case, variant = line.split()
            self.variants.setdefault(case, []).append(variant)
        self.sleep()

    def ask(self, command, many=False):
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        lines = []
        while True:
            line = self.process.stdout.readline()
            if not line:
                raise RuntimeError(f"{self.name} ended during: {command}")
            if not many:
                return line.strip()
            if line.strip() == ".":
                return lines
            lines.append(line.strip())

    def sleep(self):
        if not self.awake:
            self.process.send_signal(signal.SIGSTOP)

    def __enter__(self):
        self.process.send_signal(signal.SIGCONT)
        return self

    def __exit__(self, *_):
        self.sleep()

    def close(self):
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.close()
        self.process.wait()


class Contender:
    """One variant of one worker on one row."""

    def __init__(self, worker, case, variant):
        self.worker, self.case, self.variant = worker, case, variant
        self.steps, self.times = 1, []

    @property
    def label(self):
        return f"{self.worker.name} {self.variant}"

    @property
    def family(self):
        return self.worker.name.split()[0]

    def run(self, seconds):
        with self.worker:
            ns = float(self.worker.ask(f"run {self.case} {self.variant} {self.steps}"))
        self.steps = max(1, int(seconds * 1e9 / max(ns, 1)))
        return ns * 1e-9

    def calibrate(self, seconds):
        for _ in range(3):  # the first call builds the network, the next find the step count
            t = self.run(seconds)
        return t

    def check(self, steps):
        with self.worker:
            return [float(v) for v in self.worker.ask(f"check {self.case} {self.variant} {steps}").split()]


def clean_environment():
    """The caller's environment without what would detune a peer, or us."""
    drop = re.compile(r"^(OPENBLAS_|OMP_|GOMP_|KMP_|MKL_|MALLOC_|GLIBC_TUNABLES|ATEN_|MORTISE_|DNNL_|GOTO_)")
    return {k: v for k, v in os.environ.items() if not drop.match(k)}


def peer_settings(threads):
    """Names and environments worth trying for peers at this thread count."""
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    base = clean_environment() | {
        # Freed memory stays with the process: without, PyTorch pays page faults in every step. glibc refuses more than 32 MiB here.
        "MALLOC_TRIM_THRESHOLD_": str(1 << 40), "MALLOC_TOP_PAD_": str(64 << 20), "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    }
    if "avx512f" in flags:
        base["ATEN_CPU_CAPABILITY"] = "avx512"
    huge = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}

    def pools(openmp, blas, **more):
        return base | {"OMP_NUM_THREADS": str(openmp), "OPENBLAS_NUM_THREADS": str(blas)} | more

    if threads == 1:
        return {"": pools(1, 1), "huge": pools(1, 1, **huge)}
    return {
        "omp": pools(threads, 1), "omp+blas": pools(threads, threads), "passive": pools(threads, threads, OMP_WAIT_POLICY="passive"),
        "active": pools(threads, 1, OMP_WAIT_POLICY="active"), "active+huge": pools(threads, 1, OMP_WAIT_POLICY="active", **huge),
        "single": pools(1, 1),
    }


def start_workers(arguments, threads):
    build = Path(arguments.build)
    ours_environment = clean_environment()
    workers = [Worker("mortise", [build / "steps", str(threads)], ours_environment, arguments.awake)]
    if not arguments.only_ours:
        if (build / "steps_native").exists():
            workers.append(Worker("mortise-native", [build / "steps_native", str(threads)], ours_environment, arguments.awake))
        for isa in ("avx2", "baseline"):
            workers.append(Worker(f"mortise-{isa}", [build / "steps", str(threads)], ours_environment | {"MORTISE_ISA": isa}, arguments.awake))
    if arguments.no_peers:
        return workers
    for setting, environment in peer_settings(threads).items():
        suffix = f" [{setting}]" if setting else ""
        count = environment["OMP_NUM_THREADS"]
        if (build / "libtorch_steps").exists():
            workers.append(Worker("libtorch" + suffix, [build / "libtorch_steps", count], environment, arguments.awake))
        if not arguments.no_python_torch and Path("/usr/lib/python3/dist-packages/torch").exists():
            command = ["/usr/bin/python3", HERE / "peers" / "torch_steps.py", count]
            workers.append(Worker("torch" + suffix, command, environment, arguments.awake))
        if setting in ("", "omp", "omp+blas"):
            for program in ("dlib", "rltools", "rltools-o2"):
                if (build / f"{program}_steps").exists():
                    workers.append(Worker(program + suffix, [build / f"{program}_steps"], environment, arguments.awake))
    return workers


# Debian packages of the peers, by what tells that they are there.
PEER_PACKAGES = {"/usr/lib/python3/dist-packages/torch": "python3-torch", "/usr/include/torch/csrc/api/include": "libtorch-dev",
                 "/usr/include/dlib/dnn.h": "libdlib-dev", "/usr/lib/x86_64-linux-gnu/openblas-pthread": "libopenblas-dev"}


def say_what_lacks():
    lacking = [package for path, package in PEER_PACKAGES.items() if not Path(path).exists()]
    if lacking:
        print(f"left out, since not installed: {', '.join(lacking)}; all of them: apt install {' '.join(PEER_PACKAGES.values())}", flush=True)


# ---- measuring --------------------------------------------------------------------------------------------------------------------------


def agree(reference, values, case):
    """Float rounding, grown over a few steps: Adam divides by the gradient's size, so its first steps magnify rounding."""
    tolerance = 1e-3 if "adam" in case else 2e-5
    scale = max(1e-3, max(abs(v) for v in reference))
    return len(reference) == len(values) and all(abs(a - b) <= tolerance * scale for a, b in zip(reference, values))


def cpu_seconds():
    fields = [int(v) for v in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def own_cpu_seconds(workers):
    total = 0.0
    for worker in workers:
        fields = Path(f"/proc/{worker.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def quartiles(values):
    return statistics.quantiles(values, n=4) if len(values) > 1 else [values[0]] * 3


def unit(seconds):
    for scale, name in ((1e-3, "ms"), (1e-6, "us")):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {name}" if seconds < 1 else f"{seconds:.3g} s"
    return f"{seconds * 1e9:.3g} ns"


def spread(values):
    low, middle, high = quartiles(values)
    return f"{unit(middle)} ({unit(low)} .. {unit(high)})"


def measure_row(case, workers, arguments):
    contenders = [Contender(w, case, v) for w in workers for v in w.variants.get(case, [])]
    ours = contenders[0]
    steps = 1 if ROWS[case][3] is None else 4
    reference = ours.check(steps)
    wrong = []
    for c in contenders[1:]:
        values = c.check(steps)
        if not agree(reference, values, case):
            wrong.append(f"{c.label}: {values[-3:]} instead of {reference[-3:]}")
    if wrong:
        raise SystemExit(f"{case}: contenders do not compute the same thing\n  " + "\n  ".join(wrong))
    # Tuning: the best two settings of each peer family go on.
    tuned = {}
    for c in contenders:
        c.calibrate(arguments.seconds / 2)
        tuned[c] = min(c.run(arguments.seconds / 2) for _ in range(2))
    chosen = []
    for family in dict.fromkeys(c.family for c in contenders):
        members = sorted((c for c in contenders if c.family == family), key=tuned.get)
        chosen += members[:1] if family.startswith("mortise") else members[:2]
    before, own_before, start = cpu_seconds(), own_cpu_seconds(workers), time.monotonic()
    for c in chosen:
        c.steps = max(1, int(arguments.seconds / tuned[c]))
    for _ in range(arguments.rounds):
        for c in chosen:
            c.times.append(c.run(arguments.seconds))
    others = (cpu_seconds() - before - own_cpu_seconds(workers) + own_before) / (time.monotonic() - start) / os.cpu_count()
    return chosen, max(0.0, others)


def ratio(ours, other):
    return statistics.median(b / a for a, b in zip(ours.times, other.times))


def report_row(case, chosen, others, machine, threads):
    title, layers, batch, optimizer, goal, dlib_goal, rltools_goal = ROWS[case]
    ours = chosen[0]
    median = statistics.median(ours.times)
    operations_s, bytes_s, least, operations, moved, working_set = floor(layers, batch, optimizer, machine)
    print(f"\n{title}   [{case}, {threads} thread{'s' if threads > 1 else ''}; other programs used {100 * others:.0f} % of the processors]")
    print(f"  floor {unit(least)}: {operations / 1e6:.4g} Mflop = {unit(operations_s)}, {moved / 1e6:.3g} MB = {unit(bytes_s)}, working set "
          f"{working_set / 1e3:.4g} kB; ours stands at {100 * least / median:.0f} % of it, {operations / median / 1e9:.4g} GFLOP/s")
    result = {"row": case, "threads": threads, "floor_s": least, "operations": operations, "bytes": moved, "others": others, "contenders": {}}
    for c in sorted(chosen, key=lambda c: statistics.median(c.times)):
        times = ratio(ours, c)
        print(f"  {c.label:44s} {spread(c.times):38s} {'' if c is ours else f'{times:.2f} x ours'}")
        low, middle, high = quartiles(c.times)
        result["contenders"][c.label] = {"median_s": middle, "quartile_1_s": low, "quartile_3_s": high, "least_s": min(c.times), "ratio": times}
    for families, name, wanted in ((("torch", "libtorch"), "PyTorch", goal[0 if threads == 1 else 1]), (("dlib",), "dlib", dlib_goal),
                                   (("rltools",), "RLtools", rltools_goal and rltools_goal[0]),
                                   (("rltools-o2",), "RLtools at -O2", rltools_goal and rltools_goal[1])):
        peers = [c for c in chosen if c.family in families]
        if not peers:
            continue
        best = min(peers, key=lambda c: statistics.median(c.times))
        reached = ratio(ours, best)
        verdict = "" if wanted is None else f"   goal {wanted}x: {'reached' if reached >= wanted else 'NOT reached'}"
        print(f"  => {reached:.2f} x the best of {name} ({best.label}){verdict}")
        result[name] = {"best": best.label, "ratio": reached, "goal": wanted}
    sys.stdout.flush()
    return result


def compiler_line(build):
    flags = "; ".join(f"{name}: {Path(build, name + '.flags').read_text().strip()}" for name in ("steps", "steps_native")
                      if Path(build, name + ".flags").exists())
    return flags or "steps: -O2, no -march; steps_native: -O3 -march=native"


def cpu_name():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


# ---- building without meson --------------------------------------------------------------------------------------------------------------


def build_workers(build, rltools):
    build.mkdir(parents=True, exist_ok=True)
    include = ["-I", str(ROOT / "include")]

    def stale(name, source):
        target = build / name
        headers = [*HERE.glob("*.hpp"), *ROOT.glob("include/mortise/**/*.hpp")] if source.parent == HERE else []
        newest = max(p.stat().st_mtime for p in [source, HERE / "peers" / "protocol.hpp", *headers])
        return not target.exists() or target.stat().st_mtime < newest

    def make(name, source, flags, libraries=()):
        if not stale(name, source):
            return
        command = ["g++", *flags, str(source), "-o", str(build / name), *libraries]
        print("building", name, flush=True)
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            if name == "steps":
                raise SystemExit(done.stderr)
            print(f"  left out: {done.stderr.strip().splitlines()[0] if done.stderr else 'does not build'}")
        else:
            (build / (name + ".flags")).write_text(" ".join(f for f in flags if f[:2] in ("-O", "-m", "-s", "-f")))

    make("steps", HERE / "steps.cpp", ["-std=c++20", "-O2", *include], ["-pthread"])
    make("steps_native", HERE / "steps.cpp", ["-std=c++20", "-O3", "-march=native", *include], ["-pthread"])
    torch_include = Path("/usr/include/torch/csrc/api/include")
    if torch_include.exists():
        make("libtorch_steps", HERE / "peers" / "libtorch_steps.cpp", ["-std=c++17", "-O2", "-I", str(torch_include)],
             ["-ltorch", "-ltorch_cpu", "-lc10"])
    if Path("/usr/include/dlib/dnn.h").exists():
        libraries = subprocess.run(["pkg-config", "--libs", "dlib-1"], capture_output=True, text=True).stdout.split()
        make("dlib_steps", HERE / "peers" / "dlib_steps.cpp", ["-std=c++20", "-O3", "-march=native"], libraries)
    if rltools:
        for name, flags in (("rltools_steps", ["-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math"]), ("rltools-o2_steps", ["-O2"])):
            make(name, HERE / "peers" / "rltools_steps.cpp", ["-std=c++17", *flags, "-I", str(Path(rltools) / "include")], ["-lopenblas"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--build", default=str(ROOT / "build" / "benchmarks"), help="folder of the worker programs")
    parser.add_argument("--make", action="store_true", help="build the workers there first, with g++")
    parser.add_argument("--rltools", help="a checkout of rl-tools/rl-tools, to be a peer of the tiny network")
    parser.add_argument("--threads", type=int, nargs="*", default=sorted({1, os.cpu_count()}))
    parser.add_argument("--rows", default=".", help="regular expression over " + ", ".join(ROWS))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.02, help="length of one measurement")
    parser.add_argument("--awake", action="store_true", help="do not stop the workers that wait, to see whether it matters")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--no-python-torch", action="store_true")
    parser.add_argument("--only-ours", action="store_true", help="leave out the native, avx2 and baseline builds")
    parser.add_argument("--json", help="write all results there")
    arguments = parser.parse_args()
    if not arguments.no_peers:
        say_what_lacks()
    if arguments.make:
        build_workers(Path(arguments.build), arguments.rltools)
    if not Path(arguments.build, "steps").exists():
        raise SystemExit(f"{arguments.build}/steps is not there: give --build, or --make to build it")
    results = []
    print(f"{cpu_name()}, {os.cpu_count()} processors; load {' '.join(f'{v:.2f}' for v in os.getloadavg())}; {arguments.rounds} rounds of "
          f"{arguments.seconds * 1e3:.0f} ms; medians (quartiles)\n{compiler_line(arguments.build)}")
    for threads in arguments.threads:
        workers = start_workers(arguments, threads)
        try:
            with workers[0] as w:
                machine = dict(line.split(" ", 1) for line in w.ask("machine", many=True))
            machine = {k: float(v) if k.endswith(("gflops", "gbps")) else v for k, v in machine.items()}
            print(f"\n==== {threads} thread{'s' if threads > 1 else ''}: measured peak {machine['peak_gflops']:.0f} GFLOP/s ({machine['isa']}), triad "
                  f"{machine['triad_24k_gbps']:.0f} / {machine['triad_512k_gbps']:.0f} / {machine['triad_8m_gbps']:.0f} / "
                  f"{machine['triad_192m_gbps']:.0f} GB/s in 24 kB / 512 kB / 8 MB / 192 MB a thread; g++ {machine['compiler']}", flush=True)
            for case in ROWS:
                if re.search(arguments.rows, case) and case in workers[0].variants:
                    chosen, others = measure_row(case, workers, arguments)
                    results.append(report_row(case, chosen, others, machine, threads))
        finally:
            for w in workers:
                w.close()
    print(f"\nload at the end {' '.join(f'{v:.2f}' for v in os.getloadavg())}\n\n{'row':22s} {'threads':>7s} {'ours':>9s} {'floor':>9s} "
          f"{'of floor':>8s} {'PyTorch':>8s} {'goal':>6s} {'dlib':>6s} {'RLtools':>8s} {'native':>7s} {'avx2':>6s} {'baseline':>8s}")
    for r in results:
        def times(label):
            return next((f"{c['ratio']:.2f}x" for name, c in r["contenders"].items() if name.split()[0] == label), "-")
        ours = next(c for name, c in r["contenders"].items() if name.split()[0] == "mortise")
        peers = {k: f"{r[k]['ratio']:.2f}x" if k in r else "-" for k in ("PyTorch", "dlib", "RLtools")}
        print(f"{r['row']:22s} {r['threads']:7d} {unit(ours['median_s']):>9s} {unit(r['floor_s']):>9s} {100 * r['floor_s'] / ours['median_s']:7.0f}% "
              f"{peers['PyTorch']:>8s} {(str(r['PyTorch']['goal']) + 'x') if 'PyTorch' in r else '-':>6s} {peers['dlib']:>6s} {peers['RLtools']:>8s} "
              f"{times('mortise-native'):>7s} {times('mortise-avx2'):>6s} {times('mortise-baseline'):>8s}")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
