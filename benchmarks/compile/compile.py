#!/usr/bin/python3
"""What a translation unit costs: seconds, memory and object size, for mortise, its peers, and generated networks of N layers.

Compilers run one at a time; each unit is compiled --repeats times and the least is kept, since other programs only ever add.
"""
import argparse
import os
import resource
import subprocess
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
INCLUDE = HERE.parent.parent / "include"

GENERATED = """#include <mortise/mortise.hpp>
namespace mt = mortise;
using net_type = mt::sequential<{layers}>;
int main() {{
  mt::model<net_type, mt::extents<16>> net{{mt::host{{}}, mt::seed{{1}}}};
  mt::cross_entropy_loss const loss;
  mt::optimizer optimizer{{net, mt::sgd{{.lr = 0.01f}}}};
  std::vector<float> const x(16 * 4, 0.5f);
  std::vector<std::int64_t> const y(4, 1);
  net.forward(x);
  float const value = net.backward(loss, y);
  optimizer.step();
  return value > 0 ? 0 : 1;
}}
"""


def network(layers):
    """Alternating linear<16> and relu, in blocks of at most 64 layers since clang folds at most 256 operands."""
    names = ["mt::linear<16>" if i % 2 == 0 else "mt::relu" for i in range(layers)]
    if layers <= 64:
        return GENERATED.format(layers=", ".join(names))
    blocks = [f"mt::sequential<{', '.join(names[i:i + 64])}>" for i in range(0, layers, 64)]
    return GENERATED.format(layers=", ".join(blocks))


def compile_unit(command, source, repeats):
    """(seconds, MB at most, object bytes) or the compiler's first error line."""
    best = None
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "unit.o")
        for _ in range(repeats):
            errors = Path(folder, "errors")
            with open(errors, "w") as sink:
                start = time.monotonic()
                child = subprocess.Popen([*command, "-c", str(source), "-o", str(target)], stderr=sink)
                _, status, usage = os.wait4(child.pid, 0)  # usage covers cc1plus, which the driver waited for
                seconds = time.monotonic() - start
            if status != 0:
                lines = errors.read_text().splitlines()
                return next((line for line in lines if "error" in line), "failed")
            best = min(best, (seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, target.stat().st_size)) if best else \
                (seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, target.stat().st_size)
    return best


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--compiler", nargs="*", default=["g++"])
    parser.add_argument("--flags", default="-O2")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--layers", type=int, nargs="*", default=[16, 32, 64, 128, 256, 512])
    parser.add_argument("--no-peers", action="store_true")
    arguments = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    print(f"load {' '.join(f'{v:.2f}' for v in os.getloadavg())}; least of {arguments.repeats}")
    print(f"{'unit':34s} {'compiler':14s} {'seconds':>8s} {'cpu s':>7s} {'MB':>6s} {'object kB':>10s}   goal")
    with tempfile.TemporaryDirectory() as folder:
        only_include, empty = Path(folder, "include.cpp"), Path(folder, "empty.cpp")
        only_include.write_text("#include <mortise/mortise.hpp>\n")
        empty.write_text("#include <vector>\n#include <string>\n")
        for compiler in arguments.compiler:
            ours = [compiler, "-std=c++20", *arguments.flags.split(), f"-I{INCLUDE}"]
            units = [("only <vector> and <string>", ours, empty, ""), ("mortise: only the include", ours, only_include, "3 s"),
                     ("mortise: train LeNet", ours, HERE / "lenet.cpp", "6 s"),
                     ("mortise: train, save, resume LeNet", ours, HERE / "lenet_checkpoint.cpp", ""),
                     ("mortise: train ResNet-18", ours, HERE / "resnet18.cpp", "20 s, 700 MB")]
            if not arguments.no_peers:
                if Path("/usr/include/dlib/dnn.h").exists():
                    units.append(("dlib: train LeNet", [compiler, "-std=c++17", *arguments.flags.split()], HERE / "lenet_dlib.cpp", ""))
                torch = Path("/usr/include/torch/csrc/api/include")
                if torch.exists():
                    units.append(("libtorch: train LeNet", [compiler, "-std=c++17", *arguments.flags.split(), f"-I{torch}"],
                                  HERE / "lenet_libtorch.cpp", ""))
            for layers in arguments.layers:
                source = Path(folder, f"net{layers}.cpp")
                source.write_text(network(layers))
                units.append((f"mortise: {layers} layers", ours, source, ""))
            for title, command, source, goal in units:
                result = compile_unit(command, source, arguments.repeats)
                if isinstance(result, str):
                    print(f"{title:34s} {compiler:14s} does not compile: {result}", flush=True)
                else:
                    seconds, cpu, memory, size = result
                    print(f"{title:34s} {compiler:14s} {seconds:8.2f} {cpu:7.2f} {memory:6.0f} {size / 1000:10.0f}   {goal}", flush=True)


main()
