// Elementary functions with their slow paths (large arguments), doubles, integer division, bit counting.
extern "C" __global__ void maths(const float* x, float* y, const double* xd, double* yd, const int* xi, int* yi, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float v = x[i];
    y[i] = sinf(v) + tanhf(v) + sqrtf(fabsf(v)) + logf(fabsf(v) + 1.0f) + powf(fabsf(v), 1.7f) + rsqrtf(v * v + 1.0f);
    double d = xd[i];
    yd[i] = sqrt(d * d + 1.0) / (d + 3.0) + exp(d) + sin(d * 1.0e7) + erf(d) + pow(fabs(d) + 0.1, 2.5);
    int k = xi[i];
    yi[i] = (k / 7) % 5 + __popc(k) + __clz(k) + abs(k) % 1000 + (int)((unsigned)k / 3u) + min(k, 9) + __ffs(k) + (int)(__brev(k) >> 7);
}
