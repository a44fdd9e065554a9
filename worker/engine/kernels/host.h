/* Runs the kernels on a host, for tests: threads of a block are fibers, which take turns at barriers and at what a warp does
 * together. It shows that the arithmetic is right; what only a device can show (races, speed) it does not. */

#define _GNU_SOURCE
#include <math.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#define HOST
#define FIBERS 1024
#define STACK (32 * 1024)
#define BLOCK_BYTES (256 * 1024)

/* Where a group of fibers meets. */
typedef struct {
    int arrived, round;
} meeting;

/* Contexts begin a fiber; jumps, which need no system call, change between them. */
typedef struct {
    ucontext_t begin;
    jmp_buf at;
    int begun, done;
    /* Waits until this meeting's round is over. */
    const meeting *waits;
    int round;
} fiber;

typedef struct {
    uint64_t words[32][6];
} exchange;

typedef struct {
    jmp_buf scheduler;
    fiber *fibers;
    char *stacks;
    int count, current;
    meeting block, warps[FIBERS / 32];
    exchange exchanges[FIBERS / 32];
    int x, y, z;
    void (*kernel)(const void *);
    const void *arguments;
    unsigned char *dynamic;
} state;

/* Of this thread of the host. A pointer alone, since reaching it is what kernels do most. */
static __thread state *self;
#define host (*self)

#define KERNEL(name, type) \
    static void name##_body(const type p); \
    void kernel_##name(const void *arguments) { name##_body(*(const type *)arguments); } \
    static void name##_body(const type p)
#define DEVICE static inline __attribute__((always_inline, unused))
/* One block runs at a time in a thread of the host. */
#define SHARED static __thread
#define DYNAMIC(type, name) type *name = (type *)host.dynamic
#define THREAD (host.current)
#define THREADS (host.count)
#define BLOCK_X (host.x)
#define BLOCK_Y (host.y)
#define BLOCK_Z (host.z)
#define UNROLL

static void wait_turn(void) {
    if (!_setjmp(host.fibers[host.current].at)) _longjmp(host.scheduler, 1);
}

/* Runs the fiber until it waits or is done. */
static void resume(fiber *it) {
    if (_setjmp(host.scheduler)) return;
    if (it->begun) _longjmp(it->at, 1);
    it->begun = 1;
    setcontext(&it->begin);
}

static void meet(meeting *at, int count) {
    if (++at->arrived == count) {
        at->arrived = 0;
        at->round++;
        return;
    }
    fiber *it = &host.fibers[host.current];
    it->waits = at;
    it->round = at->round;
    wait_turn();
    it->waits = 0;
}

static int warp_size(void) {
    int left = host.count - host.current / 32 * 32;
    return left < 32 ? left : 32;
}

static void sync_block(void) { meet(&host.block, host.count); }
static void sync_warp(void) { meet(&host.warps[host.current / 32], warp_size()); }

/* Shows a warp what each of its lanes brings. After reading it, lanes have to call sync_warp. */
static exchange *bring(const void *bytes, size_t size) {
    exchange *all = &host.exchanges[host.current / 32];
    memcpy(all->words[host.current % 32], bytes, size);
    sync_warp();
    return all;
}

static float shuffle_xor(float x, int mask) {
    exchange *all = bring(&x, sizeof x);
    float y;
    memcpy(&y, all->words[(host.current % 32) ^ mask], sizeof y);
    sync_warp();
    return y;
}

static float round_even(float x) { return rintf(x); }
static float fused(float a, float b, float c) { return fmaf(a, b, c); }
static float product(float a, float b) { return a * b; }
static float root(float x) { return sqrtf(x); }
static float power_e(float x) { return expf(x); }

static float bits_float(uint32_t x) {
    float y;
    memcpy(&y, &x, sizeof y);
    return y;
}

static uint32_t float_bits(float x) {
    uint32_t y;
    memcpy(&y, &x, sizeof y);
    return y;
}

static float half_float(uint16_t x) {
    uint32_t sign = (uint32_t)(x & 0x8000) << 16, exponent = x >> 10 & 31, fraction = x & 0x3ff;
    if (exponent == 31) return bits_float(sign | 0x7f800000u | fraction << 13);
    if (exponent == 0) return bits_float(sign | float_bits((float)fraction * 0x1p-24f));
    return bits_float(sign | (exponent + 112) << 23 | fraction << 13);
}

static uint16_t float_half(float x) {
    uint32_t bits = float_bits(x), sign = bits >> 16 & 0x8000, rest = bits & 0x7fffffffu;
    if (rest > 0x7f800000u) return (uint16_t)(sign | 0x7e00);
    if (rest >= 0x477ff000u) return (uint16_t)(sign | 0x7c00);
    if (rest < 0x38800000u) return (uint16_t)(sign | (uint32_t)rintf(bits_float(rest) * 0x1p24f));
    rest += 0xfffu + (rest >> 13 & 1);
    return (uint16_t)(sign | (rest - 0x38000000u) >> 13);
}

#include "prelude.h"

static words4 load_once(const words4 *at) { return *at; }
static words2 load_scales(const words2 *at) { return *at; }

/* Fragments of a warp as matrices, and the lane's part of the product. */
static void multiply_bytes(int c[4], words4 a, u32 b0, u32 b1, int is_signed) {
    u32 mine[6] = {a.a, a.b, a.c, a.d, b0, b1};
    exchange *all = bring(mine, sizeof mine);
    int g = host.current % 32 / 4, t = host.current % 4;
    for (int i = 0; i < 4; i++) {
        int column = t * 2 + i % 2, sum = 0;
        for (int k = 0; k < 32; k++) {
            u32 left[6], right[6];
            memcpy(left, all->words[g * 4 + k % 16 / 4], sizeof left);
            memcpy(right, all->words[column * 4 + k % 16 / 4], sizeof right);
            u8 x = (u8)(left[k / 16 * 2 + i / 2] >> k % 4 * 8);
            i8 y = (i8)(right[4 + k / 16] >> k % 4 * 8);
            sum += (is_signed ? (int)(i8)x : (int)x) * y;
        }
        c[i] = sum;
    }
    sync_warp();
}

static void multiply_levels(int c[4], words4 a, u32 b0, u32 b1) { multiply_bytes(c, a, b0, b1, 0); }
static void multiply_signed(int c[4], words4 a, u32 b0, u32 b1) { multiply_bytes(c, a, b0, b1, 1); }

static void multiply_signed_half(int c[4], u32 a0, u32 a1, u32 b) {
    words4 a = {a0, a1, 0, 0};
    multiply_bytes(c, a, b, 0, 1);
}

static void multiply_floats(float c[4], words4 a, u32 b0, u32 b1, float (*value)(u16)) {
    u32 mine[6] = {a.a, a.b, a.c, a.d, b0, b1};
    exchange *all = bring(mine, sizeof mine);
    int g = host.current % 32 / 4, t = host.current % 4;
    for (int i = 0; i < 4; i++) {
        int column = t * 2 + i % 2;
        double sum = c[i];
        for (int k = 0; k < 16; k++) {
            u32 left[6], right[6];
            memcpy(left, all->words[g * 4 + k % 8 / 2], sizeof left);
            memcpy(right, all->words[column * 4 + k % 8 / 2], sizeof right);
            float x = value((u16)(left[k / 8 * 2 + i / 2] >> k % 2 * 16));
            float y = value((u16)(right[4 + k / 8] >> k % 2 * 16));
            sum += (double)x * y;
        }
        c[i] = (float)sum;
    }
    sync_warp();
}

static float bf16_float(u16 x) { return bits_float((u32)x << 16); }
static void multiply_bf16(float c[4], words4 a, u32 b0, u32 b1) { multiply_floats(c, a, b0, b1, bf16_float); }
static void multiply_f16(float c[4], words4 a, u32 b0, u32 b1) { multiply_floats(c, a, b0, b1, half_float); }

/* A fiber is a thread of one block after the other. */
static void enter(void) {
    for (;;) {
        host.kernel(host.arguments);
        host.fibers[host.current].done = 1;
        wait_turn();
    }
}

/* Runs the fibers of a warp until all of them wait for other warps or are done; returns how many have become done. */
static int run_warp(int first, int end) {
    int done = 0;
    for (int moved = 1; moved;) {
        moved = 0;
        for (int i = first; i < end; i++) {
            fiber *it = &host.fibers[i];
            if (it->done || (it->waits && it->waits->round == it->round)) continue;
            host.current = i;
            resume(it);
            moved = 1;
            done += it->done;
        }
    }
    return done;
}

/* Runs one block. Returns 1 when its threads wait for each other forever. */
static int run_block(int threads) {
    for (int left = threads; left > 0;) {
        int round = host.block.round, done = 0;
        for (int first = 0; first < threads; first += 32) done += run_warp(first, first + 32 < threads ? first + 32 : threads);
        left -= done;
        if (!done && host.block.round == round) return 1;
    }
    return 0;
}

/* Runs a grid, block after block. Returns 0, or 1 when a block's threads wait for each other forever. */
int run_kernel(void (*kernel)(const void *), const u32 grid[3], u32 threads, u32 dynamic_bytes, const void *arguments) {
    if (threads > FIBERS || dynamic_bytes > BLOCK_BYTES) return 2;
    if (!self) {
        self = calloc(1, sizeof(state));
        host.fibers = calloc(FIBERS, sizeof(fiber));
        host.stacks = malloc((size_t)STACK * FIBERS);
        host.dynamic = aligned_alloc(64, BLOCK_BYTES);
        for (int i = 0; i < FIBERS; i++) {
            ucontext_t *begin = &host.fibers[i].begin;
            getcontext(begin);
            begin->uc_stack.ss_sp = host.stacks + (size_t)STACK * i;
            begin->uc_stack.ss_size = STACK;
            begin->uc_link = 0;
            makecontext(begin, enter, 0);
        }
    }
    host.kernel = kernel;
    host.arguments = arguments;
    host.count = (int)threads;
    for (host.z = 0; host.z < (int)grid[2]; host.z++) {
        for (host.y = 0; host.y < (int)grid[1]; host.y++) {
            for (host.x = 0; host.x < (int)grid[0]; host.x++) {
                memset(&host.block, 0, sizeof host.block);
                memset(host.warps, 0, sizeof host.warps);
                for (u32 i = 0; i < threads; i++) host.fibers[i].done = 0;
                /* What a kernel does not write must not happen to be right. */
                memset(host.dynamic, 0xff, dynamic_bytes);
                if (run_block((int)threads)) return 1;
            }
        }
    }
    return 0;
}

#include "rows.cu"
#include "multiply.cu"
#include "attention.cu"
