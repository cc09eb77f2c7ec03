"""torch.load reads what the library writes: every file of the corpus that both sides read is read, written anew, and compared.

usage: torch_files.py ARCHIVE_TOOL CORPUS            exits with 77 (skipped) where torch cannot be imported (Debian: python3-torch)
"""
import collections
import os
import subprocess
import sys
import tempfile
import warnings

try:
    import torch
except ImportError as e:
    print("skipped:", e)
    sys.exit(77)

warnings.filterwarnings("ignore")
tool, corpus = sys.argv[1:]
version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2] if part.isdigit())


def load(path, weights_only=False):
    return torch.load(path, map_location="cpu", weights_only=weights_only) if version >= (1, 13) else torch.load(path, map_location="cpu")


def compare(a, b, where):
    """b came through the library, whose values are Python's plain ones: sets are lists there, and what has no place is text."""
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and a.shape == b.shape, where
        assert a.detach().contiguous().flatten().view(torch.uint8).equal(b.flatten().view(torch.uint8)) if a.numel() and a.dim() else True, where
        if a.dim() == 0:
            assert a.item() == b.item() or a.item() != a.item(), where
    elif isinstance(a, dict):
        assert len(a) == len(b), where
        for (ka, va), (kb, vb) in zip(a.items(), b.items()):
            assert ka == kb or not isinstance(ka, (str, int)) or isinstance(ka, bool), (where, ka, kb)
            compare(va, vb, "%s.%s" % (where, ka))
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b) and isinstance(b, tuple) == isinstance(a, tuple), where
        for i, (x, y) in enumerate(zip(a, b)):
            compare(x, y, "%s.%d" % (where, i))
    elif isinstance(a, (set, frozenset)):
        assert len(a) == len(b), where
    elif isinstance(a, (bool, str, float, type(None))):
        assert a == b and type(a) == type(b) or a != a, (where, a, b)
    elif isinstance(a, int) and abs(a) < 2**63:
        assert a == b, (where, a, b)


def odd_objects():
    """What torch.save can be given, beyond the state_dict of a usual model."""
    base = torch.arange(24, dtype=torch.float32)
    grid = base.reshape(2, 3, 4)
    nested = collections.OrderedDict(a=collections.OrderedDict(b=collections.OrderedDict(c=torch.ones(2))))
    nested._metadata = collections.OrderedDict([("", {"version": 1}), ("a", {"version": 2})])
    yield "views", {"whole": base, "transposed": grid.permute(2, 0, 1), "step": base[1::5], "expanded": base[3:4].expand(5, 2, 1), "window": base.unfold(0, 6, 3),
                    "scalar view": base[7], "empty view": base[4:4], "last": base[23:], "matrix": base.reshape(4, 6)[1:3, 2:5]}
    yield "ranks", {"scalar": torch.tensor(2.5), "none": torch.zeros(0), "none of many": torch.zeros(2, 0, 3), "eight": torch.ones(1, 2, 1, 2, 1, 2, 1, 2)}
    yield "types", {str(t): torch.tensor([1, 0, 1]).to(t) for t in (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16,
                                                                   torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128)}
    newer = [getattr(torch, name) for name in ("uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2") if hasattr(torch, name)]
    yield "newer types", {str(t): torch.tensor([1, 0, 1]).to(t) for t in newer}
    yield "special numbers", {"tensor": torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0, 1e-45]), "nan": float("nan"), "inf": float("inf"),
                              "least": 5e-324, "zero": -0.0, "ints": [0, -1, 255, 256, 65535, 65536, -2**31, 2**31, 2**62, -2**63, 2**63 - 1]}
    yield "keys", {"": torch.ones(1), "ключ": 1, "鍵" * 70: 2, "k" * 70000: 3, "a.b.c": torch.ones(2), "a": {"b.c": 4}, "new\nline": 5, -1: 6, 0: 7, 2**40: 8, "0": 9}
    yield "containers", {"tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)], "lists": [[], [[]], [1, [2, [3, [4]]]]], "dicts": {"e": {}, "d": {"d": {"d": None}}},
                         "bools": [True, False, None], "bytes": b"\x00\xff", "none": b"", "array": bytearray(b"ab"), "set": {3}, "frozen": frozenset((4,)),
                         "complex": 1 + 2j, "size": torch.Size((2, 3)), "counter": collections.Counter({1: 2, 5: 1}), "many": list(range(2500))}
    yield "named by type", {"dtype": torch.float32, "device": torch.device("cuda", 1), "layout": torch.strided}
    yield "parameters", {"p": torch.nn.Parameter(torch.ones(3)), "frozen": torch.nn.Parameter(torch.ones(2), requires_grad=False), "buffer": torch.ones(1, requires_grad=True)}
    yield "shared", [base, base, {"again": base, "part": base[5:9]}]
    yield "nested state_dict", nested
    yield "a default dict's content", dict(collections.defaultdict(dict, {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(2)}}))
    yield "a history", {"losses": [1.0 / (i + 1) for i in range(10000)], "w": torch.ones(2)}
    yield "many small tensors", {"losses": [torch.tensor(1.0 / (i + 1)) for i in range(20000)]}
    yield "many numbers", {"loss": [1.0 / (i + 1) for i in range(200000)], "word": {"word %d" % i: i for i in range(30000)}, "seen": [True] * 100000}
    yield "one tensor", torch.ones(2, 2)
    yield "a list of tensors", [torch.ones(1), torch.zeros(2)]
    if hasattr(torch.Tensor, "untyped_storage") or version >= (2, 0):
        p = torch.nn.Parameter(torch.ones(2))
        p.note = "kept by torch with the parameter"
        yield "a parameter with attributes", {"p": p}


def refused_objects():
    yield "sparse", {"s": torch.eye(3).to_sparse()}, ["sparse"]
    yield "quantized", {"q": torch.quantize_per_tensor(torch.ones(2), 0.5, 0, torch.qint8)}, ["quantized"]
    yield "a module", torch.nn.Sequential(torch.nn.Linear(2, 1)), ["Sequential", "state_dict()"]
    yield "a module in a dict", {"epoch": 1, "net": torch.nn.Linear(2, 1)}, ["torch.nn.modules.linear.Linear", "state_dict()"]
    yield "meta", {"m": torch.ones(2, device="meta")}, ["meta"]
    if version >= (2, 0):  # 1.13 forgets the flag
        yield "conjugate", {"c": torch.ones(2, dtype=torch.complex64).conj()}, ["conj"]
    try:
        import argparse
        import numpy

        yield "numpy", {"loss": numpy.float64(0.5), "w": torch.ones(1)}, ["numpy", "scalar", ".item()"]
        yield "arguments", {"args": argparse.Namespace(lr=1)}, ["argparse.Namespace", "vars("]
    except ImportError:
        pass


checked = with_weights_only = odd = 0
with tempfile.TemporaryDirectory() as folder:
    out, again = os.path.join(folder, "out.pt"), os.path.join(folder, "again.pt")
    for sub in ("zip", "legacy", "examples"):
        for name in sorted(os.listdir(os.path.join(corpus, sub))):
            path = os.path.join(corpus, sub, name)
            if name.endswith(".safetensors") or "byteorder_big" in name:
                continue
            try:
                theirs = load(path)
            except Exception:
                continue  # a file of another version, or one that must not be unpickled
            if subprocess.run([tool, "convert", path, out], stderr=subprocess.DEVNULL).returncode != 0:
                continue  # refused: what the corpus test is for
            subprocess.run([tool, "convert", path, again], check=True)
            assert open(out, "rb").read() == open(again, "rb").read(), name
            compare(theirs, load(out), name)
            checked += 1
            try:
                compare(theirs, load(out, weights_only=True), name)
                with_weights_only += 1
            except Exception as e:
                # 1.13's own limits: no float, no bytes.
                assert version < (2, 0) or isinstance(e, AssertionError) is False and "encode" in str(e), (name, e)
    for name, thing in odd_objects():
        for how in ({}, {"pickle_protocol": 3}, {"pickle_protocol": 4}, {"pickle_protocol": 5}, {"_use_new_zipfile_serialization": False}):
            path = os.path.join(folder, "odd.pt")
            torch.save(thing, path, **how)
            try:
                theirs = load(path)
            except AttributeError:
                assert name == "newer types" and how, name
                continue  # torch itself reads them in the zip container only
            done = subprocess.run([tool, "convert", path, out], stderr=subprocess.PIPE, universal_newlines=True)
            assert done.returncode == 0, (name, how, done.stderr)
            compare(theirs, load(out), name)
            odd += 1
    for name, thing, words in refused_objects():
        for how in ({}, {"_use_new_zipfile_serialization": False}):
            path = os.path.join(folder, "refused.pt")
            try:
                torch.save(thing, path, **how)
            except Exception:
                continue  # the old container cannot hold it
            done = subprocess.run([tool, "convert", path, out], stderr=subprocess.PIPE, universal_newlines=True)
            assert done.returncode == 1 and all(w in done.stderr for w in words), (name, how, done.stderr)
print("torch %s wrote %d unusual files that are read alike" % (torch.__version__, odd))
print("torch %s reads %d files that were written anew, %d with weights_only" % (torch.__version__, checked, with_weights_only))
assert checked >= 25 and with_weights_only >= 10
