// Warp-wide votes, matches, reductions and shuffles; one result row of 16 words a thread.
extern "C" __global__ void warp(const int* x, int* out) {
    int i = blockIdx.x * blockDim.x + threadIdx.x, lane = threadIdx.x % 32;
    int v = x[i], same;
    const unsigned int all = 0xffffffffu;
    int* o = out + 16 * i;
    o[0] = (int)__ballot_sync(all, v & 1);
    o[1] = __any_sync(all, v == 5) | __all_sync(all, v >= 0) << 1;
    o[2] = (int)__match_any_sync(all, v % 3);
    o[3] = (int)__match_all_sync(all, v / 50, &same) + 2 * same;
    o[4] = __shfl_sync(all, v, (lane + 7) % 32);
    o[5] = __shfl_up_sync(all, v, 3, 8);
    o[6] = __shfl_down_sync(all, v, 3, 16);
    o[7] = __shfl_xor_sync(all, v, 5);
    o[8] = __reduce_add_sync(all, v);
    o[9] = __reduce_max_sync(all, v) - __reduce_min_sync(all, v);
    o[10] = (int)(__reduce_xor_sync(all, (unsigned)v) ^ __reduce_or_sync(all, (unsigned)v) ^ __reduce_and_sync(all, (unsigned)v));
    o[11] = (int)__activemask();
    // Half of the warp only, in a divergent branch.
    if (lane & 1) o[12] = (int)__ballot_sync(0xaaaaaaaau, v > 50); else o[12] = __shfl_sync(0x55555555u, v, 2);
    __syncwarp();
    unsigned int below;
    asm("mov.u32 %0, %%lanemask_lt;" : "=r"(below));
    o[13] = (int)below;
    o[14] = __syncthreads_count(v & 1);
    o[15] = __syncthreads_or(v == 77) | __syncthreads_and(v >= 0) << 1;
}
