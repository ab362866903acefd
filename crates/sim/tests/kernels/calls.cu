// Functions that stay functions: recursion, structs by value, pointers to locals, function pointers, constant and global tables.
struct Pair { int first; double second; };
__constant__ int table[4] = {3, 1, 4, 1};
__device__ int counter = 7;
__noinline__ __device__ int fibonacci(int n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); }
__noinline__ __device__ Pair swap(Pair p, int* seen) { *seen += 1; return Pair{(int)p.second, (double)p.first}; }
__noinline__ __device__ int twice(int v) { return v * 2; }
__noinline__ __device__ int thrice(int v) { return v * 3; }
extern "C" __global__ void calls(const int* x, double* out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    int seen = x[i];
    Pair p = swap(Pair{i, x[i] + 0.5}, &seen);
    int (*pick)(int) = x[i] & 1 ? twice : thrice;
    int local[8];
    for (int k = 0; k < 8; ++k) local[k] = k * x[i];
    out[i] = fibonacci(x[i] % 12) + p.first * 1000.0 + p.second + seen * 1.0e6 + pick(i) * 1.0e-3 + local[x[i] & 7] + table[i % 4] * 0.25 + counter;
}
