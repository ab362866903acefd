// Softmax of each row, one block a row, dynamic shared memory of blockDim.x floats.
extern "C" __global__ void softmax(const float* x, float* y, int cols) {
    extern __shared__ float tree[];
    const float* in = x + (size_t)blockIdx.x * cols;
    float* out = y + (size_t)blockIdx.x * cols;
    float top = -3.0e38f;
    for (int c = threadIdx.x; c < cols; c += blockDim.x) top = fmaxf(top, in[c]);
    tree[threadIdx.x] = top;
    __syncthreads();
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) tree[threadIdx.x] = fmaxf(tree[threadIdx.x], tree[threadIdx.x + half]);
        __syncthreads();
    }
    top = tree[0];
    __syncthreads();
    float sum = 0.0f;
    for (int c = threadIdx.x; c < cols; c += blockDim.x) sum += expf(in[c] - top);
    tree[threadIdx.x] = sum;
    __syncthreads();
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) tree[threadIdx.x] += tree[threadIdx.x + half];
        __syncthreads();
    }
    for (int c = threadIdx.x; c < cols; c += blockDim.x) out[c] = expf(in[c] - top) / tree[0];
}
