"""Files pass between the library and the reference implementation of safetensors, byte for byte.

usage: safetensors_package.py ARCHIVE_TOOL          exits with 77 (skipped) where the package safetensors is not installed:
       python3 -m venv --system-site-packages VENV && VENV/bin/python3 -m pip install safetensors numpy
"""
import os, subprocess, sys, tempfile

try:
    import numpy as np
    from safetensors import safe_open
    from safetensors.numpy import load_file, save_file
except ImportError as e:
    print("skipped:", e)
    sys.exit(77)

tool = sys.argv[1]
with tempfile.TemporaryDirectory() as folder:
    path = lambda name: os.path.join(folder, name)
    rng = np.random.default_rng(1)
    dtypes = ["bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "float32", "float64"]
    arrays = {}
    for i, d in enumerate(dtypes):
        for j, shape in enumerate([(), (3,), (2, 0, 3), (5, 7)]):
            arrays["%s.%d.äß" % (d, j)] = rng.integers(0, 2 if d == "bool" else 100, size=shape).astype(d)
    arrays["nan"] = np.array([np.nan, np.inf, -0.0], dtype="float32")
    save_file(arrays, path("theirs.safetensors"), metadata={"format": "pt"})

    subprocess.run([tool, "convert", path("theirs.safetensors"), path("ours.safetensors")], check=True)
    assert open(path("ours.safetensors"), "rb").read() == open(path("theirs.safetensors"), "rb").read(), "our file differs from the reference writer's"
    back = load_file(path("ours.safetensors"))
    assert back.keys() == arrays.keys()
    for k, a in arrays.items():
        assert back[k].dtype == a.dtype and back[k].shape == a.shape and back[k].tobytes() == a.tobytes(), k

    subprocess.run([tool, "run", path("run.safetensors")], check=True)
    with safe_open(path("run.safetensors"), "np") as f:
        names = set(f.keys())
        assert {"model.weight", "model.bias", "optimizer.state.0.exp_avg", "optimizer.state.1.step", "rng.philox"} <= names, names
        assert f.get_tensor("model.weight").tolist() == [[1.0, 1.25]]
        assert f.get_tensor("optimizer.state.0.step").shape == ()
        m = f.metadata()
        assert m["format"] == "pt" and m["ckpt.epoch"] == "3" and m["ckpt.global_step"] == "123456789012" and m["user.note"] == "héllo"
        import json
        assert json.loads(m["ckpt.optimizer"])["param_groups"][0]["betas"] == [0.9, 0.999]
    print("safetensors: %d tensors both ways, byte for byte" % len(arrays))
