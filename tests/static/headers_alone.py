"""Every *.hpp is a whole: it compiles without anything before it, twice in one unit, and without a warning.

usage: headers_alone.py INCLUDE_DIRECTORY -- COMPILER [ARGUMENT]...
"""
import pathlib
import subprocess
import sys

WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror"]


def main():
    separator = sys.argv.index("--")
    include = pathlib.Path(sys.argv[1])
    command = sys.argv[separator + 1:] + ["-std=c++20", *WARNINGS, "-I", str(include), "-fsyntax-only", "-x", "c++", "-"]
    headers = sorted(p.relative_to(include) for p in include.rglob("*.hpp"))
    if not headers:
        sys.exit(f"no headers under {include}")
    failed = []
    for header in headers:
        unit = f"#include <{header}>\n#include <{header}>\n"
        run = subprocess.run(command, input=unit, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if run.returncode != 0:
            failed.append(header)
            print(f"--- {header}\n{run.stdout}")
    print(f"{len(headers)} headers compiled alone, {len(failed)} failed", *failed, sep="\n  ")
    sys.exit(1 if failed else 0)


main()
