"""Runs a fuzz target on copies of its seeds, for MORTISE_FUZZ_SECONDS (60).

usage: run.py TARGET [FOLDER OF SEEDS]...
"""
import os
import subprocess
import sys
import tempfile

target, *seeds = sys.argv[1:]
with tempfile.TemporaryDirectory() as found:
    done = subprocess.run([target, "-max_total_time=" + os.environ.get("MORTISE_FUZZ_SECONDS", "60"), "-timeout=10", "-rss_limit_mb=2048", "-max_len=65536",
                           "-print_final_stats=1", "-artifact_prefix=" + os.getcwd() + "/fuzz-finding-", found, *seeds])
sys.exit(1 if done.returncode else 0)
