"""One mistake, and the words the compiler must find for it.

usage: check.py FILE INCLUDE_DIRECTORY -- COMPILER [ARGUMENT]...

A file states its expectations, each a text that the compiler's output must contain:

    // expected-error: mortise::sequential: a layer does not accept the shape
    // expected-error: linear<300

and is then refused for that reason; the first of them must be among the words of the first error, so that a reader meets it first.
A file named *_ok.cpp is the twin without the mistake and must compile.
"""
import pathlib
import re
import subprocess
import sys

EXPECTED = re.compile(r"^\s*//\s*expected-error:\s*(.+?)\s*$", re.MULTILINE)


def plain(text):
    """g++ writes curly quotes where clang writes straight ones, both break lines differently, and both spell texts in template arguments
    in their own way: path<mortise::fixed_string<3>{"fc"}> and path<'f', 'c'> are both path<"fc"> here."""
    text = re.sub(r"\s+", " ", text.replace("\u2018", "'").replace("\u2019", "'"))
    text = re.sub(r'<(?:mortise::)?fixed_string<\d+>\{("[^"]*")\}', r"<\1", text)
    return re.sub(r"<('.'(?:, '.')*)>", lambda letters: '<"' + letters[1][1::5] + '">', text)


def main():
    separator = sys.argv.index("--")
    unit, include = pathlib.Path(sys.argv[1]), sys.argv[2]
    command = sys.argv[separator + 1:] + ["-std=c++20", "-fsyntax-only", "-I", include, str(unit)]
    run = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    expected = [plain(e) for e in EXPECTED.findall(unit.read_text(encoding="utf-8"))]
    if unit.stem.endswith("_ok"):
        if expected:
            sys.exit(f"{unit.name}: a twin that compiles cannot expect errors")
        if run.returncode != 0:
            sys.exit(f"{unit.name}: must compile, but:\n{run.stdout}")
        return
    if not expected:
        sys.exit(f"{unit.name}: no // expected-error: line; a typing error would pass too")
    if run.returncode == 0:
        sys.exit(f"{unit.name}: compiles, though it holds a mistake")
    if run.returncode < 0 or "internal compiler error" in run.stdout:
        sys.exit(f"{unit.name}: the compiler itself failed:\n{run.stdout}")
    missing = [e for e in expected if e not in plain(run.stdout)]
    if missing:
        sys.exit(f"{unit.name}: refused, but not in these words: {missing}\n{run.stdout}")
    errors = [line for line in run.stdout.splitlines() if "error:" in line]
    if expected[0] not in plain(errors[0]):
        sys.exit(f"{unit.name}: the first error says something else than '{expected[0]}':\n{run.stdout}")


main()
