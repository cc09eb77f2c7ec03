"""Holds the #include lines of include/mortise against the drawing in docs/design.md.

usage: include_direction.py INCLUDE_DIRECTORY

1. A folder includes only itself and the folders listed for it below.
2. <folder>/detail/ is seen by its own folder only; mortise/detail/ by everyone here.
3. No two headers include each other, directly or through others.
4. Only *.cuh headers include CUDA's headers or other *.cuh headers.
5. Every <mortise/...> that is included exists.
"""
import pathlib
import re
import sys

BASE = ["config", "detail", "tensor"]
DEVICE = BASE + ["device"]
OPERATION = DEVICE + ["operation"]
MODEL = OPERATION + ["module", "loss", "optimizer", "model"]
PARALLEL = MODEL + ["parallel"]
TRAIN = PARALLEL + ["schedule", "archive", "data", "train"]

MAY_INCLUDE = {
    "config": [],
    "detail": ["config"],
    "tensor": ["config", "detail"],
    "device": BASE,
    "operation": DEVICE,
    "module": OPERATION,
    "loss": OPERATION,
    "optimizer": OPERATION,
    "schedule": BASE,
    "archive": BASE,
    "data": DEVICE,
    "model": MODEL,
    "parallel": PARALLEL,
    "train": TRAIN,
    "testing": TRAIN,
    "umbrella": TRAIN + ["testing"],
}

CUDA = re.compile(r"^(cuda|cublas|cudnn|cufft|curand|cusolver|cusparse|nccl|nvtx|nvrtc|nvml|cub/|thrust/|cooperative_groups|device_launch|mma\.h|sm_\d)")
INCLUDE = re.compile(r'^\s*#\s*include(?:_next)?\s*([<"])([^>"]+)[>"]', re.MULTILINE)


def folder_of(path):
    """'module/linear.hpp' -> 'module'; headers directly in mortise/ are the configuration or umbrellas."""
    if "/" in path:
        return path.split("/")[0]
    return "config" if path == "config.hpp" else "umbrella"


def detail_owner(path):
    """'device/detail/stream.cuh' -> 'device'"""
    parts = path.split("/")
    return parts[0] if len(parts) > 2 and "detail" in parts[1:-1] else None


def problems(includes, exists):
    """includes: {header: [(kind, target)]}; header relative to mortise/."""
    found = []
    edges = {}
    for header, lines in includes.items():
        folder = folder_of(header)
        if folder not in MAY_INCLUDE:
            found.append(f"{header}: the folder {folder}/ is not in the drawing")
            continue
        for kind, target in lines:
            if kind == '"':
                found.append(f'{header}: includes "{target}"; write <mortise/...>')
            elif target.startswith("mortise/"):
                inner = target[len("mortise/"):]
                edges.setdefault(header, []).append(inner)
                if not exists(inner):
                    found.append(f"{header}: <{target}> does not exist")
                wanted = folder_of(inner)
                if wanted != folder and wanted not in MAY_INCLUDE[folder]:
                    found.append(f"{header}: {folder}/ may not include {wanted}/, here <{target}>")
                owner = detail_owner(inner)
                if owner is not None and owner != folder:
                    found.append(f"{header}: <{target}> belongs to {owner}/ alone")
                if inner.endswith(".cuh") and not header.endswith(".cuh"):
                    found.append(f"{header}: only *.cuh headers may include <{target}>")
            elif CUDA.match(target) and not header.endswith(".cuh"):
                found.append(f"{header}: only *.cuh headers may include CUDA's <{target}>")
    found += cycles(edges)
    return found


def cycles(edges):
    found, state = [], {}

    def visit(header, trail):
        if state.get(header) == "done":
            return
        if header in trail:
            found.append("a circle: " + " -> ".join(trail[trail.index(header):] + [header]))
            return
        for target in edges.get(header, []):
            visit(target, trail + [header])
        state[header] = "done"

    for header in sorted(edges):
        visit(header, [])
    return found


def check_of_the_check():
    """Each rule must object to what it forbids, or a green result says nothing."""
    def verdict(header, target, kind="<"):
        return problems({header: [(kind, target)]}, lambda _: True)
    assert not verdict("module/linear.hpp", "mortise/operation/gemm.hpp")
    assert not verdict("train/checkpoint.hpp", "mortise/archive/save.hpp")
    assert not verdict("device/cuda.cuh", "cuda_runtime.h")
    assert not verdict("archive/a.hpp", "mortise/archive/detail/text.hpp")
    assert verdict("tensor/view.hpp", "mortise/device/host.hpp")
    assert verdict("loss/mse.hpp", "mortise/optimizer/sgd.hpp")
    assert verdict("archive/save.hpp", "mortise/module/linear.hpp")
    assert verdict("model/model.hpp", "mortise/train/train_step.hpp")
    assert verdict("train/a.hpp", "mortise/archive/detail/text.hpp")
    assert verdict("device/host.hpp", "cuda_runtime.h")
    assert verdict("operation/map.hpp", "thrust/for_each.h")
    assert verdict("operation/map.hpp", "mortise/device/cuda.cuh")
    assert verdict("module/a.hpp", "b.hpp", '"')
    assert verdict("unknown/a.hpp", "vector")
    assert problems({"tensor/a.hpp": [("<", "mortise/tensor/missing.hpp")]}, lambda _: False)
    assert problems({"tensor/a.hpp": [("<", "mortise/tensor/b.hpp")], "tensor/b.hpp": [("<", "mortise/tensor/a.hpp")]}, lambda _: True)


def main():
    check_of_the_check()
    root = pathlib.Path(sys.argv[1]) / "mortise"
    headers = sorted(p for p in root.rglob("*") if p.suffix in (".hpp", ".cuh"))
    includes = {str(p.relative_to(root)): INCLUDE.findall(p.read_text(encoding="utf-8")) for p in headers}
    if not includes:
        sys.exit(f"no headers under {root}")
    found = problems(includes, lambda inner: (root / inner).is_file())
    for problem in found:
        print(problem)
    print(f"{len(includes)} headers, {sum(len(lines) for lines in includes.values())} includes, {len(found)} against the drawing")
    sys.exit(1 if found else 0)


main()
