// Kernels that go wrong.
#include <assert.h>
extern "C" __global__ void out_of_bounds(float* x, int far) { x[far + threadIdx.x] = 1.0f; }
extern "C" __global__ void misaligned(char* x) { *(int*)(x + 1) = 1; }
extern "C" __global__ void trap(int* x) { if (*x == 0) __trap(); }
extern "C" __global__ void asserts(int* x) { assert(*x != 0); }
