// Atomics of all widths, a spin lock taken by every lane of a warp, and a ticket between blocks.
extern "C" __global__ void atomics(unsigned int* words, unsigned long long* longs, float* floats, double* doubles, int* lock, int* guarded, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    atomicAdd(&words[0], 1u);
    atomicMin(&words[1], (unsigned)i + 3);
    atomicMax(&words[2], (unsigned)i);
    atomicInc(&words[3], 9u);
    atomicDec(&words[4], 9u);
    atomicXor(&words[5], (unsigned)i);
    atomicOr(&words[6], 1u << (i % 32));
    atomicAnd(&words[7], ~(1u << (i % 7)));
    atomicExch(&words[8], 42u);
    atomicAdd(&longs[0], 1ull << 33);
    atomicMax(&longs[1], (unsigned long long)i << 32);
    atomicCAS(&longs[2], (unsigned long long)i, (unsigned long long)i + 1);
    atomicAdd(&floats[0], 0.5f);
    atomicAdd(&doubles[0], 0.25);
    while (atomicCAS(lock, 0, 1) != 0) {}
    __threadfence();
    *(volatile int*)guarded = *(volatile int*)guarded + 1;
    __threadfence();
    atomicExch(lock, 0);
}
