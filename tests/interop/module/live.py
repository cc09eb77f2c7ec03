"""Compares every module with the PyTorch of this machine, on fresh random numbers.

usage: live.py TEST_PROGRAM

Exits with 77 (skipped) where torch cannot be imported.
"""
import os
import pathlib
import subprocess
import sys
import tempfile

try:
    import torch
except ImportError:
    print("no torch here (Debian: python3-torch)")
    sys.exit(77)

generator = pathlib.Path(__file__).with_name("make_fixtures.py")
for attempt in range(3):
    seed = int.from_bytes(os.urandom(3), "little")
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, generator, folder, "--seed", str(seed)], check=True)
        result = subprocess.run([sys.argv[1]], env={**os.environ, "MORTISE_MODULE_FIXTURES": folder})
    print(f"torch {torch.__version__}, seed {seed}: {'agrees' if result.returncode == 0 else 'differs'}", flush=True)
    if result.returncode != 0:
        sys.exit(1)
