// Half and bfloat16 arithmetic, scalar and packed.
#include <cuda_fp16.h>
#include <cuda_bf16.h>
extern "C" __global__ void half_axpy(__half a, const __half* x, __half* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = __hfma(a, x[i], y[i]);
}
extern "C" __global__ void half2_mix(const __half2* x, const __half2* y, __half2* out, float* wide, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    __half2 v = __hadd2(__hmul2(x[i], y[i]), __hsub2(x[i], y[i]));
    out[i] = __hmax2(v, __hmin2(x[i], __hneg2(y[i])));
    wide[i] = __half2float(__low2half(v)) + (float)__hlt(__high2half(x[i]), __high2half(y[i]));
}
#if __CUDA_ARCH__ >= 800
extern "C" __global__ void bfloat_axpy(const __nv_bfloat16* x, __nv_bfloat16* y, float a, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = __hfma(__float2bfloat16(a), x[i], __hadd(y[i], __hmul(x[i], y[i])));
}
#endif
