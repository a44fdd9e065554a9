/* What every kernel may use: C without includes, so that NVRTC needs no toolkit and a C compiler can run the kernels on a
 * host (host.h, for tests). A kernel takes one struct by value; its mirror in Rust is in src/cuda/arguments.rs.
 *
 * Matrices are multiplied by 16 x 8 tiles of the tensor cores. Fragments lie as in the PTX ISA, "Matrix Fragments for
 * mma.m16n8k16" and "mma.m16n8k32": lane = 4 * g + t holds rows g and g + 8 of A, column g of B, columns 2t and 2t + 1 of C. */

typedef signed char i8;
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#ifdef HOST
#define ALIGNED(bytes) __attribute__((aligned(bytes)))
#else
#define ALIGNED(bytes) __align__(bytes)
#endif

/* Read and written at once. */
typedef struct ALIGNED(16) { u32 a, b, c, d; } words4;
typedef struct ALIGNED(8) { u32 a, b; } words2;
typedef struct ALIGNED(8) { float a, b; } floats2;

#ifndef HOST

#define KERNEL(name, type) extern "C" __global__ void kernel_##name(const type p)
#define DEVICE static __device__ __forceinline__
#define SHARED __shared__
#define DYNAMIC(type, name) extern __shared__ __align__(16) u8 dynamic_shared[]; type *name = (type *)dynamic_shared
#define THREAD ((int)threadIdx.x)
#define THREADS ((int)blockDim.x)
#define BLOCK_X ((int)blockIdx.x)
#define BLOCK_Y ((int)blockIdx.y)
#define BLOCK_Z ((int)blockIdx.z)
#define UNROLL _Pragma("unroll")

DEVICE void sync_block(void) { __syncthreads(); }
DEVICE void sync_warp(void) { __syncwarp(); }
DEVICE float shuffle_xor(float x, int mask) { return __shfl_xor_sync(0xffffffffu, x, mask); }
DEVICE float round_even(float x) { return rintf(x); }
DEVICE float fused(float a, float b, float c) { return __fmaf_rn(a, b, c); }
DEVICE float product(float a, float b) { return __fmul_rn(a, b); }
DEVICE float root(float x) { return __fsqrt_rn(x); }
DEVICE float power_e(float x) { return expf(x); }
DEVICE float bits_float(u32 x) { return __uint_as_float(x); }
DEVICE u32 float_bits(float x) { return __float_as_uint(x); }

DEVICE float half_float(u16 x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x));
    return y;
}

DEVICE u16 float_half(float x) {
    u16 y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y) : "f"(x));
    return y;
}

/* Reads what is read once: it need not stay in the first cache. */
DEVICE words4 load_once(const words4 *at) {
    words4 x;
    asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
        : "=r"(x.a), "=r"(x.b), "=r"(x.c), "=r"(x.d) : "l"(at));
    return x;
}

DEVICE words2 load_scales(const words2 *at) {
    words2 x;
    asm("ld.global.nc.v2.u32 {%0, %1}, [%2];" : "=r"(x.a), "=r"(x.b) : "l"(at));
    return x;
}

/* c = a b, levels without sign times signed bytes, 32 deep. */
DEVICE void multiply_levels(int c[4], words4 a, u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%10,%10,%10};"
        : "=r"(c[0]), "=r"(c[1]), "=r"(c[2]), "=r"(c[3])
        : "r"(a.a), "r"(a.b), "r"(a.c), "r"(a.d), "r"(b0), "r"(b1), "r"(0));
}

/* The same with signed levels. */
DEVICE void multiply_signed(int c[4], words4 a, u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%10,%10,%10};"
        : "=r"(c[0]), "=r"(c[1]), "=r"(c[2]), "=r"(c[3])
        : "r"(a.a), "r"(a.b), "r"(a.c), "r"(a.d), "r"(b0), "r"(b1), "r"(0));
}

/* The same, 16 deep. */
DEVICE void multiply_signed_half(int c[4], u32 a0, u32 a1, u32 b) {
    asm("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%7,%7,%7,%7};"
        : "=r"(c[0]), "=r"(c[1]), "=r"(c[2]), "=r"(c[3])
        : "r"(a0), "r"(a1), "r"(b), "r"(0));
}

/* c += a b, 16 deep. */
DEVICE void multiply_bf16(float c[4], words4 a, u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a.a), "r"(a.b), "r"(a.c), "r"(a.d), "r"(b0), "r"(b1));
}

DEVICE void multiply_f16(float c[4], words4 a, u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a.a), "r"(a.b), "r"(a.c), "r"(a.d), "r"(b0), "r"(b1));
}

#endif

/* Nearest, ties to even. */
DEVICE u16 float_bf16(float x) {
    u32 bits = float_bits(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (u16)((bits >> 16) | 0x40);
    return (u16)((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
}

/* Sums over a warp and a block in an order that depends on nothing. */
DEVICE float sum_warp(float x) {
    for (int mask = 16; mask > 0; mask >>= 1) x += shuffle_xor(x, mask);
    return x;
}

DEVICE float sum_block(float x) {
    SHARED float parts[33];
    x = sum_warp(x);
    if (THREAD % 32 == 0) parts[THREAD / 32] = x;
    sync_block();
    if (THREAD == 0) {
        float sum = 0.0f;
        for (int warp = 0; warp < THREADS / 32; warp++) sum += parts[warp];
        parts[32] = sum;
    }
    sync_block();
    x = parts[32];
    sync_block();
    return x;
}

DEVICE float max_block(float x) {
    SHARED float parts[33];
    for (int mask = 16; mask > 0; mask >>= 1) {
        float other = shuffle_xor(x, mask);
        x = other > x ? other : x;
    }
    if (THREAD % 32 == 0) parts[THREAD / 32] = x;
    sync_block();
    if (THREAD == 0) {
        float most = parts[0];
        for (int warp = 1; warp < THREADS / 32; warp++) most = parts[warp] > most ? parts[warp] : most;
        parts[32] = most;
    }
    sync_block();
    x = parts[32];
    sync_block();
    return x;
}
