// Vector loads and stores, a grid in three dimensions, inclusive scan over a block.
extern "C" __global__ void scale4(const float4* x, float4* y, float a) {
    int i = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    i = i * blockDim.x + threadIdx.x;
    float4 v = x[i];
    y[i] = make_float4(a * v.x, a * v.y, a * v.z, a * v.w);
}
extern "C" __global__ void scan(const int* x, int* y) {
    __shared__ int sums[256];
    int t = threadIdx.x;
    sums[t] = x[blockIdx.x * blockDim.x + t];
    for (int step = 1; step < blockDim.x; step *= 2) {
        __syncthreads();
        int before = t >= step ? sums[t - step] : 0;
        __syncthreads();
        sums[t] += before;
    }
    y[blockIdx.x * blockDim.x + t] = sums[t];
}
