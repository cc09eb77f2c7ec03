"""Compiles every block of C++ in a page, so that what a reader copies works.

usage: check_blocks.py PAGE PROJECT_ROOT -- COMPILER [ARGUMENT]...

The word behind `cpp` in a fence says what the block is:

    ```cpp            declarations; all of a page make one unit, in the order of the page
    ```cpp body       statements; the body of a function, behind what came before
    ```cpp fails      declarations that the compiler must refuse, in a unit of their own
    ```cpp program    a program of its own: compiled, linked, and run where examples/data lies

Errors carry the page's own line numbers. Relative links of the page must lead somewhere.
"""
import os
import pathlib
import re
import subprocess
import sys
import tempfile

FENCE = re.compile(r"^```(\S*)[ \t]*(\S*)\s*$")
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
PRELUDE = "#include <mortise/mortise.hpp>\nnamespace mt = mortise;\n"


def blocks(text):
    """(language, kind, first line, text) of every fenced block."""
    found, start = [], None
    for number, line in enumerate(text.splitlines(), 1):
        fence = FENCE.match(line)
        if fence and start is None:
            start, language, kind, lines = number + 1, fence[1], fence[2], []
        elif line.startswith("```") and start is not None:
            found.append((language, kind, start, "\n".join(lines) + "\n"))
            start = None
        elif start is not None:
            lines.append(line)
    return found


def main():
    separator = sys.argv.index("--")
    page, root = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve()
    compiler = sys.argv[separator + 1:] + ["-std=c++20", "-I", str(root / "include")]
    text = page.read_text(encoding="utf-8")
    failures = []

    def compile(unit, arguments):
        return subprocess.run(compiler + ["-x", "c++", *arguments, "-"], input=unit, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    unit, counted = "", 0
    for language, kind, line, code in blocks(text):
        if language != "cpp":
            continue
        counted += 1
        located = f'#line {line} "{page.name}"\n{code}'
        if kind == "":
            unit += located
        elif kind == "body":
            unit += f"void block_{line}();\nvoid block_{line}() {{\n{located}}}\n"
        elif kind == "fails":
            if compile(PRELUDE + located, ["-fsyntax-only"]).returncode == 0:
                failures.append(f"{page.name}:{line}: compiles, though the page says that it does not")
        elif kind == "program":
            with tempfile.TemporaryDirectory() as folder:
                os.symlink(root / "examples", os.path.join(folder, "examples"))
                run = compile(located, ["-O1", "-pthread", "-o", os.path.join(folder, "program")])
                if run.returncode == 0:
                    run = subprocess.run([os.path.join(folder, "program")], cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
                if run.returncode != 0:
                    failures.append(f"{page.name}:{line}: {run.stdout}")
        else:
            failures.append(f"{page.name}:{line - 1}: what is ```cpp {kind}?")
    if unit:
        run = compile(unit, ["-fsyntax-only", "-Wall", "-Wextra"])
        if run.returncode != 0 or run.stdout:
            failures.append(run.stdout)
    for target in LINK.findall(text):
        if ":" not in target and not (page.parent / target).exists():
            failures.append(f"{page.name}: the link to {target} leads nowhere")
    print("\n".join(failures) or f"{page.name}: {counted} blocks compile")
    sys.exit(1 if failures else 0)


main()
