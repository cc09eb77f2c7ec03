"""Holds a unit test against numbers that the PyTorch of this machine computes now, instead of the committed ones.

usage: live.py GENERATOR TEST_PROGRAM [SEED]...

Each seed makes fresh inputs; a generator without random inputs takes none. Exits with 77 (skipped) where torch cannot be imported.
"""
import os
import subprocess
import sys
import tempfile

try:
    import torch
except ImportError:
    print("no torch here (Debian: python3-torch)")
    sys.exit(77)

generator, program, seeds = sys.argv[1], sys.argv[2], sys.argv[3:]
for seed in seeds or [None]:
    with tempfile.TemporaryDirectory() as folder:
        numbers = os.path.join(folder, "numbers.txt")
        subprocess.run([sys.executable, generator, numbers, *([] if seed is None else ["--seed", seed])], check=True)
        result = subprocess.run([program], env={**os.environ, "MORTISE_FIXTURE": numbers})
    print(f"torch {torch.__version__}, seed {seed}: {'agrees' if result.returncode == 0 else 'differs'}", flush=True)
    if result.returncode != 0:
        sys.exit(1)
