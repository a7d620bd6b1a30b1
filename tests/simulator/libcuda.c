/* A stand-in for the CUDA driver library: answers with the code in the file `cuda` of the machine's folder. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int gpus = 1, code = 0;
static char name[100] = "NVIDIA A100-SXM4-40GB";
static unsigned long long memory_mib = 40960;

/* The file holds: code, number of GPUs, MiB of memory, name; it is read again at every cuInit. */
static int state(void) {
  char path[4096];
  const char *folder = getenv("MACHINE_FOLDER");
  snprintf(path, sizeof path, "%s/cuda", folder ? folder : "/run/machine");
  FILE *file = fopen(path, "r");
  if (!file) return 100;
  if (fscanf(file, "%d %d %llu %99[^\n]", &code, &gpus, &memory_mib, name) != 4) code = 999;
  fclose(file);
  return code ? code : gpus ? 0 : 100;
}

int cuInit(unsigned flags) { (void)flags; return state(); }
int cuDriverGetVersion(int *version) { *version = 12080; return 0; }
int cuDeviceGetCount(int *count) { int answer = state(); *count = gpus; return answer; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return ordinal < gpus ? state() : 101; }
int cuDeviceGetName(char *text, int size, int device) {
  (void)device; snprintf(text, size, "%s", name); return state();
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) {
  (void)device; *bytes = (size_t)memory_mib << 20; return state();
}
int cuDevicePrimaryCtxRetain(void **context, int device) { (void)device; *context = &gpus; return state(); }
int cuDevicePrimaryCtxRelease_v2(int device) { (void)device; return 0; }
int cuCtxCreate_v2(void **context, unsigned flags, int device) {
  (void)flags; (void)device; *context = &gpus; return state();
}
int cuCtxSetCurrent(void *context) { (void)context; return state(); }
int cuCtxSynchronize(void) { return state(); }
int cuCtxDestroy_v2(void *context) { (void)context; return 0; }
int cuMemAlloc_v2(unsigned long long *address, size_t bytes) {
  *address = 0x700000000000ull;
  int answer = state();
  return answer ? answer : bytes > (size_t)memory_mib << 20 ? 2 : 0;
}
int cuMemFree_v2(unsigned long long address) { (void)address; return 0; }
int cuMemGetInfo_v2(size_t *unused, size_t *total) {
  int answer = state();
  *unused = *total = (size_t)memory_mib << 20;
  return answer;
}

static const struct { int code; const char *name, *text; } ERRORS[] = {
  {0, "CUDA_SUCCESS", "no error"},
  {2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
  {3, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
  {100, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
  {101, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
  {802, "CUDA_ERROR_SYSTEM_NOT_READY", "system not yet initialized"},
  {999, "CUDA_ERROR_UNKNOWN", "unknown error"},
};

int cuGetErrorName(int error, const char **text) {
  for (unsigned i = 0; i < sizeof ERRORS / sizeof *ERRORS; i++)
    if (ERRORS[i].code == error) { *text = ERRORS[i].name; return 0; }
  *text = NULL;
  return 1;
}
int cuGetErrorString(int error, const char **text) {
  for (unsigned i = 0; i < sizeof ERRORS / sizeof *ERRORS; i++)
    if (ERRORS[i].code == error) { *text = ERRORS[i].text; return 0; }
  *text = NULL;
  return 1;
}
