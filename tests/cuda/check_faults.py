"""Every allocation, copy, fill, launch, capture and graph of a training run fails once in turn.

usage: check_faults.py CUDA_FAULTS ANOTHER_MACHINE

Each time: an error of the library's type, which names what failed; no leak; the model goes on from the last checkpoint to the bits of the run
without a failure. ANOTHER_MACHINE is the library that lets those calls fail which the emulator cannot.
"""
import concurrent.futures
import os
import re
import subprocess
import sys
import tempfile

program, another_machine = sys.argv[1:3]
BY_EMULATOR = ("malloc", "hostalloc", "memcpy", "memset", "launch", "cublas", "graph")
BY_LIBRARY = ("cudaStreamCreateWithFlags", "cudaMemPoolCreate", "cublasCreate_v2", "cublasLtMatmul", "cudaEventCreateWithFlags", "cudaPointerGetAttributes",
              "cudaEventRecord", "cudaEventQuery", "cudaStreamWaitEvent", "cudaStreamBeginCapture", "cudaStreamGetCaptureInfo", "cudaStreamEndCapture",
              "cudaGraphExecKernelNodeSetParams", "cudaGraphLaunch")


def run(fail):
    with tempfile.TemporaryDirectory() as folder:
        environment = dict(os.environ, CUDA_EMU_LEAK="strict", CUDA_EMU_CHECK="strict")
        if fail.split(":")[0] in BY_LIBRARY:
            environment.update(LD_PRELOAD=another_machine, MORTISE_FAIL_CALL=fail)
        else:
            environment["CUDA_EMU_FAIL"] = fail
        result = subprocess.run([program, os.path.join(folder, "run.safetensors")], capture_output=True, text=True, env=environment)
    return result, re.findall(r"^failed: (.*)$", result.stdout, re.M), re.findall(r"^digest: (\w+)$", result.stdout, re.M)


whole, errors, digest = run("")
if whole.returncode != 0 or errors or not digest:
    sys.exit(f"the run without a failure fails: {whole.stdout}{whole.stderr}")

bad = 0
with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    for kind in BY_EMULATOR + BY_LIBRARY:
        number, failed = 0, 0
        while failed == number:  # all so far: there may be more
            attempts = range(number + 1, number + 9)
            for n, (result, errors, found) in zip(attempts, pool.map(lambda n: run(f"{kind}:{n}"), attempts)):
                number = n
                if "injected failure" not in result.stderr:
                    break
                failed += 1
                if result.returncode != 0 or len(errors) != 1 or found != digest:
                    bad += 1
                    print(f"{kind} number {n}: status {result.returncode}, errors {errors}, digest {found}\n{result.stdout[-500:]}{result.stderr[-1500:]}")
        print(f"{kind}: {failed} calls failed in turn", flush=True)
        if failed == 0:
            bad += 1
            print(f"{kind}: nothing to fail")
sys.exit(1 if bad else 0)
