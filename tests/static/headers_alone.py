"""Every *.hpp is a whole: it compiles without anything before it, twice in one unit, and without a warning.

usage: headers_alone.py [--together] INCLUDE_DIRECTORY -- COMPILER [ARGUMENT]...

--together: all of them in one unit, which is enough for a second compiler, since a forgotten #include is one for both.
"""
import pathlib
import subprocess
import sys

NEEDS_A_LIBRARY = {"parallel/mpi.hpp"}  # of headers that a program includes on demand; compiled by the tests that have the library
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror"]


def main():
    separator = sys.argv.index("--")
    together = sys.argv[1] == "--together"
    include = pathlib.Path(sys.argv[separator - 1])
    command = sys.argv[separator + 1:] + ["-std=c++20", *WARNINGS, "-I", str(include), "-fsyntax-only", "-x", "c++", "-"]
    headers = sorted(p.relative_to(include) for p in include.rglob("*.hpp"))
    headers = [h for h in headers if str(h.relative_to("mortise")) not in NEEDS_A_LIBRARY]
    if not headers:
        sys.exit(f"no headers under {include}")
    failed = []
    for group in [headers] if together else [[h] for h in headers]:
        header, unit = group[0], "".join(f"#include <{h}>\n" for h in group + group)
        run = subprocess.run(command, input=unit, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if run.returncode != 0:
            failed.append(header)
            print(f"--- {header}\n{run.stdout}")
    print(f"{len(headers)} headers compiled {'together' if together else 'alone'}, {len(failed)} failed", *failed, sep="\n  ")
    sys.exit(1 if failed else 0)


main()
