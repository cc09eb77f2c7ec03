"""mortise_inspect on files of the corpus: what it tells, what it finds different, and how it ends.

usage: inspect.py MORTISE_INSPECT CORPUS
"""
import os
import subprocess
import sys
import tempfile

tool, corpus = sys.argv[1:]
path = lambda name: os.path.join(corpus, name)


def run(*arguments):
    done = subprocess.run([tool, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)
    return done.returncode, done.stdout, done.stderr


code, out, _ = run(path("examples/tiny_checkpoint.safetensors"))
assert code == 0, out
for words in ("safetensors, 4 tensors, 24 bytes", "no checksums", "model.weight", "float32", "(1, 2)", "[-2, 1]", "epoch = 3"):
    assert words in out, (words, out)

code, out, _ = run(path("examples/tiny_checkpoint.pt"))
assert code == 0 and "torch_zip" in out and "4 with a checksum, all right" in out, out
assert "optimizer_state_dict.param_groups.0.lr = 0.1" in out, out

code, out, _ = run("--diff", path("examples/tiny_checkpoint.pt"), path("examples/tiny_checkpoint.pt"))
assert (code, out) == (0, "no difference\n"), out

code, out, _ = run("--diff", path("safetensors/tiny.safetensors"), path("safetensors/tiny_meta.safetensors"))
assert code in (0, 1), out

with tempfile.TemporaryDirectory() as folder:
    changed = os.path.join(folder, "changed.safetensors")
    data = bytearray(open(path("examples/tiny_checkpoint.safetensors"), "rb").read())
    data[-24:-20] = b"\0\0\xc0\x7f"  # model.bias = NaN
    open(changed, "wb").write(data)
    code, out, _ = run(changed)
    assert code == 0 and "1 NaN" in out, out
    code, out, _ = run("--diff", path("examples/tiny_checkpoint.safetensors"), changed)
    assert code == 1 and "model.bias: 1 of 1 elements differ" in out, out

code, out, err = run(path("bad/zip_crc_wrong.pt"))
assert code == 2 and "zip_crc_wrong.pt" in err, (code, out, err)
code, out, err = run("/no/such/file")
assert code == 2 and "No such file" in err, err
print("mortise_inspect: ok")
