"""What programs say on machines where CUDA cannot be used.

usage: check_machines.py ANOTHER_MACHINE CUDA_INFO [TRAIN_DIGITS_CUDA DATA]

ANOTHER_MACHINE is the library that answers as such a machine would; the rest is the emulator's own.
"""
import os
import subprocess
import sys

another_machine, info, program = sys.argv[1], sys.argv[2], sys.argv[3:5]
MACHINES = (
    ("no driver", {"LD_PRELOAD": another_machine, "MORTISE_MACHINE": "no driver"}, ("there is no NVIDIA driver on this machine", "install it, or use mortise::host")),
    ("a driver of CUDA 11.8", {"LD_PRELOAD": another_machine, "MORTISE_MACHINE": "old driver"},
     ("the NVIDIA driver is too old: it knows CUDA 11.8", "built with the CUDA runtime 13.", "install a newer driver, or build with an older toolkit")),
    ("no device", {"CUDA_EMU_DEVICES": "0"}, ("no CUDA device", "nvidia-smi")),
    ("every device hidden", {"CUDA_VISIBLE_DEVICES": ""}, ("no CUDA device", "CUDA_VISIBLE_DEVICES")),
    ("an older GPU than the program was built for", {"CUDA_EMU_CC": "6.1"},
     ("this program has no code for cuda:0, whose compute capability is 6.1", "arch=compute_61,code=sm_61", "-Dgpu_architectures=61")),
)
failures = 0
for name, variables, words in MACHINES:
    environment = dict(os.environ, **variables)
    told = subprocess.run([info], capture_output=True, text=True, env=environment)
    results = [("cuda_info says it in words", told.returncode == 1 and all(w in told.stdout for w in words), told.stdout + told.stderr)]
    if program:
        refused = subprocess.run([program[0], "--data", program[1], "--device", "cuda:0"], capture_output=True, text=True, env=environment)
        results.append(("train_digits --device cuda:0 does too", refused.returncode == 1 and all(w in refused.stderr for w in ("mortise::cuda{0}",) + words), refused.stderr))
        here = subprocess.run([program[0], "--data", program[1], "--epochs", "1", "--quiet"], capture_output=True, text=True, env=environment)
        results.append(("and it runs on the host", here.returncode == 0 and "test accuracy" in here.stdout, here.stdout + here.stderr))
    for law, holds, output in results:
        failures += not holds
        print("ok  " if holds else "FAIL", f"{name}: {law}", output if not holds else "", flush=True)
sys.exit(1 if failures else 0)
