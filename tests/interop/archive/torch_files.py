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


checked = with_weights_only = 0
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
print("torch %s reads %d files that were written anew, %d with weights_only" % (torch.__version__, checked, with_weights_only))
assert checked >= 25 and with_weights_only >= 10
