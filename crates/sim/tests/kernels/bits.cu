// Integer corners: 64-bit arithmetic with carries, byte permutation, funnel shifts, fields, dot products of bytes.
extern "C" __global__ void bits(const unsigned long long* x, const unsigned long long* y, unsigned long long* out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    unsigned long long a = x[i], b = y[i] | 1;
    unsigned int lo = (unsigned int)a, hi = (unsigned int)(b >> 32);
    unsigned long long sum, carry;
    asm("add.cc.u64 %0, %2, %3;\n\taddc.u64 %1, 0, 0;" : "=l"(sum), "=l"(carry) : "l"(a), "l"(b));
    unsigned int field;
    asm("bfe.u32 %0, %1, 5, 9;" : "=r"(field) : "r"(lo));
    unsigned int merged;
    asm("bfi.b32 %0, %1, %2, 7, 11;" : "=r"(merged) : "r"(lo), "r"(hi));
    unsigned int sad;
    asm("sad.u32 %0, %1, %2, 3;" : "=r"(sad) : "r"(lo), "r"(hi));
    unsigned int logic;
    asm("lop3.b32 %0, %1, %2, %3, 0xca;" : "=r"(logic) : "r"(lo), "r"(hi), "r"(merged));
    int found;
    asm("bfind.s32 %0, %1;" : "=r"(found) : "r"(lo));
    unsigned long long* o = out + 16ull * i;
    o[0] = sum;
    o[1] = carry;
    o[2] = __umul64hi(a, b);
    o[3] = (unsigned long long)__mul64hi((long long)a, (long long)b);
    o[4] = a / b;
    o[5] = (unsigned long long)((long long)a % (long long)b);
    o[6] = __byte_perm(lo, hi, 0x3715);
    o[7] = __funnelshift_l(lo, hi, i) | (unsigned long long)__funnelshift_rc(lo, hi, i) << 32;
    o[8] = field | (unsigned long long)merged << 32;
    o[9] = (unsigned long long)(unsigned int)__dp4a((int)lo, (int)hi, 7) | (unsigned long long)__dp4a(lo, hi, 7u) << 32;
    o[10] = __brevll(a) ^ (unsigned long long)__clzll((long long)b) ^ (unsigned long long)__popcll(a) << 32;
    o[11] = sad | (unsigned long long)logic << 32;
    o[12] = (unsigned long long)(unsigned int)found | (unsigned long long)__mulhi((int)lo, (int)hi) << 32;
    o[13] = (unsigned long long)((long long)a >> (i & 63)) + (b << (i & 63));
    o[14] = (unsigned long long)(signed char)lo + (unsigned long long)(short)hi * 3;
    o[15] = (unsigned long long)__float2int_rn((float)(int)lo * 0.25f) ^ (unsigned long long)__double2ll_rz((double)(long long)a * 0.5);
}
