"""Runs the fuzz target of a reader, begun from seeds, for MORTISE_FUZZ_SECONDS (60). What it finds stays in the working directory.

usage: run.py FUZZ_READER READER [FOLDER OF SEEDS]...

The pickles inside torch's zip files are the seeds of "pickle".
"""
import os
import subprocess
import sys
import tempfile
import zipfile

target, reader, *folders = sys.argv[1:]
with tempfile.TemporaryDirectory() as found:
    seeds = []
    for folder in folders:
        if os.path.basename(folder) != "pickle":
            seeds.append(folder)
            continue
        zips = os.path.join(os.path.dirname(folder), "zip")
        for name in sorted(os.listdir(zips)):
            try:
                with zipfile.ZipFile(os.path.join(zips, name)) as z:
                    for entry in z.namelist():
                        if entry.endswith("data.pkl"):
                            pickled = z.read(entry)
                            with open(os.path.join(found, name), "wb") as seed:
                                seed.write(pickled)
            except zipfile.BadZipFile:
                pass  # some of the corpus has no checksums
    done = subprocess.run([target, "-max_total_time=" + os.environ.get("MORTISE_FUZZ_SECONDS", "60"), "-timeout=60", "-rss_limit_mb=2048", "-max_len=65536",
                           "-print_final_stats=1", "-artifact_prefix=fuzz-finding-%s-" % reader, found, *seeds],
                          env={**os.environ, "MORTISE_FUZZ_READER": reader})
sys.exit(1 if done.returncode else 0)
