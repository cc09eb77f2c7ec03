// Stands between a program and the CUDA runtime (LD_PRELOAD) and answers as another machine would, or lets a call fail that the emulator cannot.
//
//   MORTISE_MACHINE="no driver"               no NVIDIA driver
//   MORTISE_MACHINE="old driver"              a driver of CUDA 11.8
//   MORTISE_MACHINE="no algorithm"            a cuBLASLt that offers none for any product
//   MORTISE_FAIL_CALL=cudaGraphLaunch:3       the third call of that function fails
//
// Needs no header of CUDA: pointers are pointers, enumerations are int.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include <dlfcn.h>

namespace {

constexpr int success = 0, insufficient_driver = 35, unknown = 999, capture_invalidated = 901, cublas_internal_error = 14;

bool machine_is(char const* name) {
  static char const* const wanted = std::getenv("MORTISE_MACHINE");
  return wanted != nullptr && std::strcmp(wanted, name) == 0;
}

/// Whether this call, one more of the function, is the one that was to fail.
bool fails(char const* function) {
  static char const* const wanted = std::getenv("MORTISE_FAIL_CALL");
  static long left = [] {
    char const* const colon = wanted == nullptr ? nullptr : std::strchr(wanted, ':');
    return colon == nullptr ? 0L : std::strtol(colon + 1, nullptr, 10);
  }();
  if (wanted == nullptr || std::string{wanted, std::strcspn(wanted, ":")} != function || --left != 0) return false;
  std::fprintf(stderr, "injected failure of %s\n", function);
  return true;
}

template <class F>
F* next(F*, char const* function) {
  void* const found = dlsym(RTLD_NEXT, function);
  if (found == nullptr) {
    std::fprintf(stderr, "no %s behind this one\n", function);
    std::abort();
  }
  return reinterpret_cast<F*>(found);
}

}  // namespace

/// A function that fails with `code` when it is told to, and has then done nothing.
#define CALL(code, name, parameters, ...)              \
  extern "C" int name parameters {                     \
    static auto* const behind = next(&name, #name);    \
    return fails(#name) ? code : behind(__VA_ARGS__);  \
  }

CALL(unknown, cudaStreamBeginCapture, (void* stream, int mode), stream, mode)
CALL(unknown, cudaStreamGetCaptureInfo, (void* stream, int* status, void* id, void* graph, void* nodes, void* edges, void* count), stream, status, id, graph, nodes,
     edges, count)
CALL(unknown, cudaGraphExecKernelNodeSetParams, (void* exec, void* node, void const* parameters), exec, node, parameters)
CALL(unknown, cudaGraphLaunch, (void* exec, void* stream), exec, stream)
CALL(unknown, cudaEventRecord, (void* event, void* stream), event, stream)
CALL(unknown, cudaEventQuery, (void* event), event)
CALL(unknown, cudaStreamWaitEvent, (void* stream, void* event, unsigned flags), stream, event, flags)
CALL(unknown, cudaEventCreateWithFlags, (void** event, unsigned flags), event, flags)
CALL(unknown, cudaStreamCreateWithFlags, (void** stream, unsigned flags), stream, flags)
CALL(unknown, cudaPointerGetAttributes, (void* attributes, void const* pointer), attributes, pointer)
CALL(unknown, cudaMemPoolCreate, (void** pool, void const* properties), pool, properties)
CALL(cublas_internal_error, cublasCreate_v2, (void** handle), handle)
extern "C" int cublasLtMatmulAlgoGetHeuristic(void* handle, void* product, void* a, void* b, void* c, void* d, void* wanted, int most, void* results,
                                              int* found) {
  static auto* const behind = next(&cublasLtMatmulAlgoGetHeuristic, "cublasLtMatmulAlgoGetHeuristic");
  if (machine_is("no algorithm")) {
    *found = 0;
    return success;
  }
  return fails("cublasLtMatmulAlgoGetHeuristic") ? cublas_internal_error : behind(handle, product, a, b, c, d, wanted, most, results, found);
}
CALL(cublas_internal_error, cublasLtMatmul,
     (void* handle, void* product, void const* alpha, void const* a, void* a_layout, void const* b, void* b_layout, void const* beta, void const* c,
      void* c_layout, void* d, void* d_layout, void const* algorithm, void* workspace, std::size_t bytes, void* stream),
     handle, product, alpha, a, a_layout, b, b_layout, beta, c, c_layout, d, d_layout, algorithm, workspace, bytes, stream)

extern "C" int cudaGraphDestroy(void* graph) {
  static auto* const behind = next(&cudaGraphDestroy, "cudaGraphDestroy");
  return behind(graph);
}
/// A capture that fails ends all the same, and there is no graph.
extern "C" int cudaStreamEndCapture(void* stream, void** graph) {
  static auto* const behind = next(&cudaStreamEndCapture, "cudaStreamEndCapture");
  int const code = behind(stream, graph);
  if (!fails("cudaStreamEndCapture")) return code;
  if (code == success) cudaGraphDestroy(*graph);
  *graph = nullptr;
  return capture_invalidated;
}

extern "C" int cudaDriverGetVersion(int* version) {
  static auto* const behind = next(&cudaDriverGetVersion, "cudaDriverGetVersion");
  if (!machine_is("no driver") && !machine_is("old driver")) return behind(version);
  *version = machine_is("no driver") ? 0 : 11080;
  return success;
}
extern "C" int cudaGetDeviceCount(int* count) {
  static auto* const behind = next(&cudaGetDeviceCount, "cudaGetDeviceCount");
  return machine_is("no driver") || machine_is("old driver") ? insufficient_driver : behind(count);
}
