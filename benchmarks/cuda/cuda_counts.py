"""What a training step on CUDA costs, counted: no time, so the same figures on every machine.

usage: cuda_counts.py COUNTED_STEPS [NVCC INCLUDE SOURCE]

For an MLP, LeNet and an attention block: launches, synchronisations, allocations and copies of a step, and for each kernel the bytes and the
32-byte sectors against the least possible; sectors have a goal for every kernel that moves a hundredth of the step's bytes. A step's counts are the difference of two runs of 12 and 4 steps, over 8: what happens once is not
in them. Needs the emulator (its counters are written to CUDA_EMU_STATS). With NVCC, the registers, spills and shared memory of all kernels for sm_90.
"""
import json
import os
import re
import subprocess
import sys
import tempfile

# What a kernel must move at least, over what it writes: (elements read + written) / written. Elementwise, normalisation and update kernels, for
# which goals exist, and pooling of windows that lie side by side; per-channel and per-row constants are not counted.
LEAST = {
    "max_pool2d_outputs": 21 / 5, "max_pool2d_input_pairs": 21 / 16,
    "relu_elements": 2, "relu_backward_elements": 3, "activation_elements": 2, "activation_slope_elements": 3 / 2, "activation_backward_elements": 3,
    "add_elements": 3, "channel_epilogue": 2, "channel_affine": 2, "channel_gradient<": 3, "dropout_fours": 9 / 5,
    "dropout_backward_elements": 9 / 4, "layer_norm_row": 2, "layer_norm_backward_rows": 3, "update_elements": 7 / 3,
}
BYTES_GOAL, SECTORS_GOAL = 1.2, 1.1


def run(program, network, steps):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "stats.json")
        subprocess.run([program, network, str(steps)], check=True, env=dict(os.environ, CUDA_EMU_STATS=path))
        if not os.path.exists(path):
            sys.exit("no counters: this needs the emulator's libraries in LD_LIBRARY_PATH")
        with open(path, encoding="utf-8") as f:
            return json.load(f)


def short(name):
    name = re.sub(r"^void mortise::detail::", "", name)
    name = re.sub(r"\(.*$", "", name)
    return name.replace("mortise::detail::", "").replace("index_kernel<", "").replace("mortise::", "")[:72]


def count(program, network):
    few, many = run(program, network, 4), run(program, network, 12)
    api = {k: (many["api"][k] - few["api"][k]) / 8 for k in many["api"]}
    waits = api["stream_synchronize"] + api["device_synchronize"] + api["event_synchronize"]
    allocations = api["mallocs"] + api["pool_mallocs"] + api["host_allocs"]
    before = {k["name"]: k for k in few["kernels"]}
    rows = []
    for k in many["kernels"]:
        old = before.get(k["name"], {})
        d = {key: (k[key] - old.get(key, 0)) / 8 for key in k if key != "name"}
        if d["launches"]:
            rows.append((k["name"], d))
    updates = sum(d["launches"] for name, d in rows if "update_elements" in name)
    print(f"\n{network}: a step has {api['graph_launches']:g} graph launch, {sum(d['launches'] for _, d in rows):g} kernels besides cuBLAS's in it, "
          f"{updates:g} update kernel, {waits:g} synchronisations, {allocations:g} allocations, {api['memcpy_host_to_device']:g} copies to the device, "
          f"{api['memcpy_device_to_host']:g} back")
    print(f"  {'kernel':72} {'launches':>8} {'bytes':>10} {'least':>10} {'ratio':>6} {'sectors':>8} {'ratio':>6}")
    missed = []
    if api["graph_launches"] != 1 or waits or allocations or updates != 1:
        missed.append("a step is one graph launch with one update kernel, no synchronisation and no allocation")
    all_moved = sum(d["global_bytes_loaded"] + d["global_bytes_stored"] for _, d in rows)
    for name, d in sorted(rows, key=lambda r: -(r[1]["global_bytes_loaded"] + r[1]["global_bytes_stored"])):
        moved = d["global_bytes_loaded"] + d["global_bytes_stored"]
        factor = next((f for key, f in LEAST.items() if key in name), None)
        sectors, ideal = d["load_sectors"] + d["store_sectors"], d["load_sectors_min"] + d["store_sectors_min"]
        spread = sectors / ideal if ideal else 1
        least = factor * d["global_bytes_stored"] if factor else None
        ratio = moved / least if least else None
        goal = f"{least:10.0f} {ratio:6.2f}" if least else f"{'':10} {'':6}"
        print(f"  {short(name):72} {d['launches']:8g} {moved:10.0f} {goal} {sectors:8.0f} {spread:6.2f}")
        if ratio and ratio > BYTES_GOAL:
            missed.append(f"{short(name)}: {ratio:.2f} times the least bytes")
        if spread > SECTORS_GOAL and moved > all_moved / 100:
            missed.append(f"{short(name)}: {spread:.2f} times the least sectors")
    return missed


def registers(nvcc, include, source):
    with tempfile.TemporaryDirectory() as folder:
        words = subprocess.run([nvcc, "-std=c++20", "-I", include, "-gencode", "arch=compute_90,code=sm_90", "-Xptxas", "-v", "-cubin", "-o",
                                os.path.join(folder, "a.cubin"), source], capture_output=True, text=True)
    if words.returncode != 0:
        sys.exit(words.stderr)
    kernels = re.findall(r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers([^\n]*)",
                         words.stderr, re.S)
    names = subprocess.run(["c++filt"], input="\n".join(k[0] for k in kernels), capture_output=True, text=True).stdout.splitlines()
    print(f"\nsm_90, by ptxas:\n  {'kernel':72} {'registers':>9} {'spilled':>8} {'stack':>6} {'shared':>7}")
    missed = []
    for name, (_, stack, stores, loads, used, rest) in sorted(zip(names, kernels)):
        shared = re.search(r"(\d+) bytes smem", rest)
        print(f"  {short(name):72} {used:>9} {int(stores) + int(loads):8} {stack:>6} {shared.group(1) if shared else 0:>7}")
        if int(stores) + int(loads):
            missed.append(f"{short(name)}: {stores} + {loads} bytes of registers spilled")
    return missed


failed = []
for net in ("mlp", "lenet", "block"):
    failed += [f"{net}: {m}" for m in count(sys.argv[1], net)]
if len(sys.argv) > 4:
    failed += registers(*sys.argv[2:5])
print()
for f in failed:
    print("missed:", f)
if not failed:
    print("all goals reached")
sys.exit(1 if failed else 0)
