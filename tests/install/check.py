"""Installs the library and uses it as three kinds of users do: by pkg-config, by CMake's find_package, and as a Meson subproject.

usage: check.py SOURCE_DIRECTORY COMPILER [ARGUMENT]...
"""
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

PROGRAM = """\
#include <mortise/device/host.hpp>
#include <mortise/tensor/view.hpp>

#include <atomic>

int main() {
  std::atomic<int> pieces{0};
  mortise::for_each_piece(mortise::host{2}, 100, [&](std::size_t) { ++pieces; });   // threads: does the package link them?
  return pieces == 100 && mortise::extents<2, 3>::elements == 6 ? 0 : 1;
}
"""
CMAKE = """\
cmake_minimum_required(VERSION 3.16)
project(user CXX)
find_package(mortise {version} REQUIRED)
add_executable(user user.cpp)
target_link_libraries(user PRIVATE mortise::mortise)
"""
MESON = """\
project('user', 'cpp', default_options: ['cpp_std=c++20'])
executable('user', 'user.cpp', dependencies: dependency('mortise', version: '>={version}', fallback: 'mortise'))
"""


def run(*command, cwd=None, env=None):
    command = [str(c) for c in command]
    result = subprocess.run(command, cwd=cwd, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if result.returncode != 0:
        sys.exit(f"failed: {' '.join(command)}\n{result.stdout}")
    return result.stdout.strip()


def folder(path, **files):
    path.mkdir(parents=True)
    (path / "user.cpp").write_text(PROGRAM)
    for name, text in files.items():
        (path / name.replace("__", ".")).write_text(text)
    return path


def main():
    source, compiler = pathlib.Path(sys.argv[1]), sys.argv[2:]
    env = {k: v for k, v in os.environ.items() if k not in ("DESTDIR", "PKG_CONFIG_PATH", "CMAKE_PREFIX_PATH")}
    env["CXX"] = " ".join(compiler)
    with tempfile.TemporaryDirectory() as name:
        work = pathlib.Path(name)
        prefix = work / "prefix"
        run("meson", "setup", work / "build", source, f"--prefix={prefix}", "-Dtests=disabled", "-Dexamples=disabled", "-Dbenchmarks=disabled",
            "-Dcuda=disabled", env=env)
        run("meson", "install", "-C", work / "build", env=env)

        headers = {p.relative_to(source / "include") for p in (source / "include" / "mortise").rglob("*") if p.is_file()}
        installed = {p.relative_to(prefix / "include") for p in (prefix / "include").rglob("*") if p.is_file()}
        if headers != installed:
            sys.exit(f"installed headers differ: {sorted(map(str, headers ^ installed))}")
        foreign = [str(h) for h in headers if h.suffix not in (".hpp", ".cuh")]
        if foreign:
            sys.exit(f"not headers: {foreign}")
        print(f"installed {len(installed)} headers")

        env["PKG_CONFIG_PATH"] = str(prefix / "share" / "pkgconfig")
        version = run("pkg-config", "--modversion", "mortise", env=env)
        flags = run("pkg-config", "--cflags", "--libs", "mortise", env=env).split()
        user = folder(work / "by_pkg_config")
        run(*compiler, "-std=c++20", "user.cpp", "-o", "user", *flags, cwd=user)
        run(user / "user")
        print(f"pkg-config: version {version}, {' '.join(flags)}")

        if shutil.which("cmake") is not None:
            user = folder(work / "by_cmake", CMakeLists__txt=CMAKE.format(version=version))
            run("cmake", "-S", user, "-B", user / "build", f"-DCMAKE_PREFIX_PATH={prefix}", env=env)
            run("cmake", "--build", user / "build", env=env)
            run(user / "build" / "user")
            print("CMake: find_package(mortise) and mortise::mortise")
        else:
            print("CMake: not on this machine")

        # Not through pkg-config: the subproject alone must serve.
        del env["PKG_CONFIG_PATH"]
        user = folder(work / "by_meson", meson__build=MESON.format(version=version))
        copy = user / "subprojects" / "mortise"
        copy.mkdir(parents=True)
        for part in ("meson.build", "meson_options.txt"):
            shutil.copy(source / part, copy / part)
        shutil.copytree(source / "include", copy / "include")
        run("meson", "setup", user / "build", user, env=env)
        run("meson", "compile", "-C", user / "build", env=env)
        run(user / "build" / "user")
        print("Meson: a subproject")


main()
