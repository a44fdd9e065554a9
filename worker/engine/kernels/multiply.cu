/* out = matrix input, for every token, on tensor cores.
 *
 * A block takes 16 rows of the matrix and up to 64 tokens. Its warps share the columns out in runs, each adds its run up in
 * order, and the runs are added in order: a token's products depend neither on how many tokens there are nor on which they
 * are, so one sequence says the same alone and among others.
 *
 * The matrix lies in tiles of 16 rows in the order of the fragments, so that a lane reads 16 bytes at once (src/cuda/pack.rs
 * packs it):
 *   four bits    [tile][two blocks of 32 columns][lane]   word 2b + h: rows g + 8h of block b, low nibbles the columns
 *                                                         4t.., high ones 16 + 4t..
 *   eight bits   [tile][block of 32 columns][lane]        words as multiply_levels takes them
 *   16-bit float [tile][block of 16 columns][lane]        words as multiply_f16 takes them
 *   scales       [tile][block of 32 columns][g][h]        f16 pairs: of rows g + 8h scale and minimum, or the scales of
 *                                                         both halves of the block */

typedef struct {
    const words4 *matrix;
    const words2 *scales;
    /* Of the levels or halves kernel. */
    const void *input;
    const void *input_scales;
    /* `[token][row]` */
    float *out;
    u32 rows;
    u32 tokens;
    /* Of 32 or 16 columns, padding included; even for four bits. */
    u32 blocks;
    /* Blocks of a warp's run. */
    u32 run;
    /* What products are multiplied by: a power of two. */
    float factor;
} multiply_arguments;

enum { FOUR_BITS, EIGHT_BITS, EIGHT_SIGNED, EIGHT_HALVES, FLOAT_16, BRAIN_16 };

/* Tokens of one product of tiles. */
#define TOKENS 8
/* Products of tiles that a warp holds at most. */
#define TILES 8

DEVICE float scale_of(u32 pair) { return half_float((u16)(pair & 0xffff)); }
DEVICE float minimum_of(u32 pair) { return half_float((u16)(pair >> 16)); }

/* Adds up the runs of all warps, in order, and stores what a block computed. */
DEVICE void store_sums(const multiply_arguments p, float sums[TILES][4], const int tiles, const float *token_scales) {
    DYNAMIC(float, parts);
    int lane = THREAD % 32, warp = THREAD / 32;
    UNROLL
    for (int tile = 0; tile < tiles; tile++) {
        UNROLL
        for (int i = 0; i < 4; i++) parts[((warp * tiles + tile) * 4 + i) * 32 + lane] = sums[tile][i];
    }
    sync_block();
    for (int tile = warp; tile < tiles; tile += THREADS / 32) {
        UNROLL
        for (int i = 0; i < 4; i++) {
            float sum = 0.0f;
            for (int from = 0; from < THREADS / 32; from++) sum += parts[((from * tiles + tile) * 4 + i) * 32 + lane];
            u32 row = BLOCK_X * 16 + lane / 4 + i / 2 * 8;
            u32 token = (BLOCK_Y * tiles + tile) * TOKENS + lane % 4 * 2 + i % 2;
            if (row < p.rows && token < p.tokens) {
                sum = product(sum, p.factor);
                if (token_scales) sum = product(sum, token_scales[token]);
                p.out[(u64)token * p.rows + row] = sum;
            }
        }
    }
}

/* One block of 32 columns, times all tokens. */
DEVICE void add_levels(const multiply_arguments p, float sums[TILES][4], const int kind, const int tiles, u32 block, words4 a) {
    int lane = THREAD % 32, g = lane / 4, t = lane % 4;
    words2 pairs = load_scales(p.scales + ((u64)BLOCK_X * p.blocks + block) * 8 + g);
    UNROLL
    for (int tile = 0; tile < tiles; tile++) {
        u32 first = (BLOCK_Y * tiles + tile) * TOKENS;
        words4 b = {0, 0, 0, 0};
        if (first + g < p.tokens) b = ((const words4 *)p.input)[((u64)(first + g) * p.blocks + block) * 4 + t];
        floats2 of_token[2] = {{0.0f, 0.0f}, {0.0f, 0.0f}};
        UNROLL
        for (int i = 0; i < 2; i++) {
            u32 token = first + t * 2 + i;
            if (token < p.tokens) of_token[i] = ((const floats2 *)p.input_scales)[(u64)token * p.blocks + block];
        }
        if (kind == EIGHT_HALVES) {
            int high[2][4], low[2][4];
            multiply_signed_half(high[0], a.a, a.b, b.a);
            multiply_signed_half(low[0], a.a, a.b, b.c);
            multiply_signed_half(high[1], a.c, a.d, b.b);
            multiply_signed_half(low[1], a.c, a.d, b.d);
            UNROLL
            for (int i = 0; i < 4; i++) {
                u32 pair = i < 2 ? pairs.a : pairs.b;
                float sum = product(scale_of(pair), (float)(high[0][i] * 256 + low[0][i]));
                sum = fused(minimum_of(pair), (float)(high[1][i] * 256 + low[1][i]), sum);
                sums[tile][i] = fused(of_token[i % 2].a, sum, sums[tile][i]);
            }
            continue;
        }
        int high[4], low[4];
        if (kind == EIGHT_SIGNED) {
            multiply_signed(high, a, b.a, b.b);
            multiply_signed(low, a, b.c, b.d);
        } else {
            multiply_levels(high, a, b.a, b.b);
            multiply_levels(low, a, b.c, b.d);
        }
        UNROLL
        for (int i = 0; i < 4; i++) {
            u32 pair = i < 2 ? pairs.a : pairs.b;
            float scale = product(scale_of(pair), of_token[i % 2].a);
            sums[tile][i] = fused(scale, (float)(high[i] * 256 + low[i]), sums[tile][i]);
            if (kind != EIGHT_SIGNED) sums[tile][i] = fused(minimum_of(pair), of_token[i % 2].b, sums[tile][i]);
        }
    }
}

DEVICE void multiply(const multiply_arguments p, const int kind, const int tiles) {
    float sums[TILES][4];
    UNROLL
    for (int tile = 0; tile < tiles; tile++) {
        UNROLL
        for (int i = 0; i < 4; i++) sums[tile][i] = 0.0f;
    }
    int lane = THREAD % 32;
    u32 first = THREAD / 32 * p.run;
    u32 end = first + p.run < p.blocks ? first + p.run : p.blocks;
    if (kind == FOUR_BITS) {
        const words4 *matrix = p.matrix + (u64)BLOCK_X * (p.blocks / 2) * 32 + lane;
        for (u32 block = first; block < end; block += 2) {
            words4 both = load_once(matrix + (u64)(block / 2) * 32);
            words4 one = {both.a & 0x0f0f0f0fu, both.b & 0x0f0f0f0fu, both.a >> 4 & 0x0f0f0f0fu, both.b >> 4 & 0x0f0f0f0fu};
            words4 two = {both.c & 0x0f0f0f0fu, both.d & 0x0f0f0f0fu, both.c >> 4 & 0x0f0f0f0fu, both.d >> 4 & 0x0f0f0f0fu};
            add_levels(p, sums, kind, tiles, block, one);
            add_levels(p, sums, kind, tiles, block + 1, two);
        }
    } else if (kind == FLOAT_16 || kind == BRAIN_16) {
        const words4 *matrix = p.matrix + (u64)BLOCK_X * p.blocks * 32 + lane;
        const words2 *input = (const words2 *)p.input;
        for (u32 block = first; block < end; block++) {
            words4 a = load_once(matrix + (u64)block * 32);
            UNROLL
            for (int tile = 0; tile < tiles; tile++) {
                u32 token = (BLOCK_Y * tiles + tile) * TOKENS + lane / 4;
                words2 b = {0, 0};
                if (token < p.tokens) b = input[((u64)token * p.blocks + block) * 4 + lane % 4];
                if (kind == FLOAT_16) multiply_f16(sums[tile], a, b.a, b.b);
                else multiply_bf16(sums[tile], a, b.a, b.b);
            }
        }
    } else {
        const words4 *matrix = p.matrix + (u64)BLOCK_X * p.blocks * 32 + lane;
        for (u32 block = first; block < end; block++) {
            add_levels(p, sums, kind, tiles, block, load_once(matrix + (u64)block * 32));
        }
    }
    int floats = kind == FLOAT_16 || kind == BRAIN_16;
    store_sums(p, sums, tiles, floats ? (const float *)p.input_scales : 0);
}

#define MULTIPLY(name, kind) \
    KERNEL(name##_1, multiply_arguments) { multiply(p, kind, 1); } \
    KERNEL(name##_4, multiply_arguments) { multiply(p, kind, 4); } \
    KERNEL(name##_8, multiply_arguments) { multiply(p, kind, 8); }

MULTIPLY(four_bits, FOUR_BITS)
MULTIPLY(eight_bits, EIGHT_BITS)
MULTIPLY(eight_signed, EIGHT_SIGNED)
MULTIPLY(eight_halves, EIGHT_HALVES)
MULTIPLY(float_16, FLOAT_16)
MULTIPLY(brain_16, BRAIN_16)

typedef struct {
    const float *matrix;
    const float *input;
    float *out;
    u32 rows;
    u32 columns;
} floats_arguments;

/* The same for plain floats: a warp per row, tokens by the grid's y. */
KERNEL(floats, floats_arguments) {
    u32 row = BLOCK_X * (THREADS / 32) + THREAD / 32;
    if (row >= p.rows) return;
    const float *weights = p.matrix + (u64)row * p.columns;
    const float *input = p.input + (u64)BLOCK_Y * p.columns;
    float sum = 0.0f;
    for (u32 k = THREAD % 32; k < p.columns; k += 32) sum = fused(weights[k], input[k], sum);
    sum = sum_warp(sum);
    if (THREAD % 32 == 0) p.out[(u64)BLOCK_Y * p.rows + row] = sum;
}
