/* What is done to rows of activations, `[token][element]` floats: norms, inputs of multiplications, gates, sums. */

typedef struct {
    const float *x;
    const float *weight;
    const float *bias;
    float *out;
    u32 width;
    float epsilon;
} norm_arguments;

/* out = x / rms(x) * weight; a block per token. */
KERNEL(norm, norm_arguments) {
    const float *x = p.x + (u64)BLOCK_X * p.width;
    float *out = p.out + (u64)BLOCK_X * p.width;
    float squares = 0.0f;
    for (u32 i = THREAD; i < p.width; i += THREADS) squares = fused(x[i], x[i], squares);
    float factor = 1.0f / root(sum_block(squares) / (float)p.width + p.epsilon);
    for (u32 i = THREAD; i < p.width; i += THREADS) out[i] = x[i] * factor * p.weight[i];
}

/* out = x = (x - mean) / deviation * weight + bias; a block per token. */
KERNEL(renorm, norm_arguments) {
    float *x = (float *)p.x + (u64)BLOCK_X * p.width;
    float *out = p.out + (u64)BLOCK_X * p.width;
    float sum = 0.0f, squares = 0.0f;
    for (u32 i = THREAD; i < p.width; i += THREADS) sum += x[i];
    float mean = sum_block(sum) / (float)p.width;
    for (u32 i = THREAD; i < p.width; i += THREADS) squares = fused(x[i] - mean, x[i] - mean, squares);
    float factor = 1.0f / root(sum_block(squares) / (float)p.width + p.epsilon);
    for (u32 i = THREAD; i < p.width; i += THREADS) {
        float y = (x[i] - mean) * factor * p.weight[i] + p.bias[i];
        x[i] = y;
        out[i] = y;
    }
}

typedef struct {
    float *x;
    const float *delta;
    const float *norm;
    const float *bias;
    u32 width;
    float epsilon;
} add_arguments;

/* x += delta, after it is normed or a bias is added, where there is one; a block per token. */
KERNEL(add, add_arguments) {
    float *x = p.x + (u64)BLOCK_X * p.width;
    const float *delta = p.delta + (u64)BLOCK_X * p.width;
    float factor = 1.0f;
    if (p.norm) {
        float squares = 0.0f;
        for (u32 i = THREAD; i < p.width; i += THREADS) squares = fused(delta[i], delta[i], squares);
        factor = 1.0f / root(sum_block(squares) / (float)p.width + p.epsilon);
    }
    for (u32 i = THREAD; i < p.width; i += THREADS) {
        float y = delta[i];
        if (p.norm) y = y * factor * p.norm[i];
        if (p.bias) y += p.bias[i];
        x[i] += y;
    }
}

typedef struct {
    float *gate;
    const float *up;
    const float *bias;
    u64 count;
    u32 width;
    /* 0: silu, 1: gelu by tanh, 2: gelu of gate + bias, without up. */
    u32 function;
} gate_arguments;

/* gate = activation(gate) * up */
KERNEL(gate, gate_arguments) {
    u64 i = (u64)BLOCK_X * THREADS + THREAD;
    if (i >= p.count) return;
    float x = p.gate[i];
    if (p.function == 0) {
        p.gate[i] = x / (1.0f + power_e(-x)) * p.up[i];
    } else if (p.function == 1) {
        float u = 0.7978846f * (x + 0.044715f * x * x * x);
        p.gate[i] = x / (1.0f + power_e(-2.0f * u)) * p.up[i];
    } else {
        /* The tail of the normal distribution: Abramowitz and Stegun 7.1.26. */
        x += p.bias ? p.bias[i % p.width] : 0.0f;
        float z = (x < 0.0f ? -x : x) * 0.70710678f;
        float t = 1.0f / (1.0f + 0.3275911f * z);
        float tail = 1.0614054f;
        tail = tail * t - 1.453152f;
        tail = tail * t + 1.4214137f;
        tail = tail * t - 0.28449674f;
        tail = tail * t + 0.2548296f;
        tail = 0.5f * tail * t * power_e(-z * z);
        p.gate[i] = x * (x < 0.0f ? tail : 1.0f - tail);
    }
}

typedef struct {
    float *x;
    u64 count;
    float most;
} cap_arguments;

/* x = most * tanh(x / most) */
KERNEL(cap, cap_arguments) {
    u64 i = (u64)BLOCK_X * THREADS + THREAD;
    if (i < p.count) p.x[i] = p.most - 2.0f * p.most / (1.0f + power_e(2.0f * (p.x[i] / p.most)));
}

typedef struct {
    const float *x;
    const u32 *rows;
    float *out;
    u32 width;
} gather_arguments;

/* out[block] = x[rows[block]] */
KERNEL(gather, gather_arguments) {
    const float *x = p.x + (u64)p.rows[BLOCK_X] * p.width;
    float *out = p.out + (u64)BLOCK_X * p.width;
    for (u32 i = THREAD; i < p.width; i += THREADS) out[i] = x[i];
}

typedef struct {
    const float *x;
    /* `[token][block of 32][t]`: high 4t.., high 16 + 4t.., low 4t.., low 16 + 4t.. */
    words4 *levels;
    /* `[token][block]`: scale, and scale times the sum of the integers. */
    floats2 *scales;
    u32 width;
    /* Of 32 columns, padding included. */
    u32 blocks;
} levels_arguments;

/* Integers of sixteen bits in two planes, value = scale * (256 high + low), a scale per 32 columns; a warp per block of
 * columns, tokens by the grid's y. */
KERNEL(levels, levels_arguments) {
    int lane = THREAD % 32;
    u32 block = BLOCK_X * (THREADS / 32) + THREAD / 32;
    if (block >= p.blocks) return;
    u32 column = block * 32 + lane;
    float x = column < p.width ? p.x[(u64)BLOCK_Y * p.width + column] : 0.0f;
    float most = x < 0.0f ? -x : x;
    for (int mask = 16; mask > 0; mask >>= 1) {
        float other = shuffle_xor(most, mask);
        most = other > most ? other : most;
    }
    float scale = most / 32639.0f;
    int level = scale > 0.0f ? (int)round_even(x / scale) : 0;
    level = level > 32639 ? 32639 : level < -32639 ? -32639 : level;
    int low = (i8)(level & 0xff);
    int high = (level - low) / 256;
    /* At most 32 * 32639 < 2^24: exact in any order. */
    float sum = sum_warp((float)level);
    i8 *bytes = (i8 *)(p.levels + ((u64)BLOCK_Y * p.blocks + block) * 4);
    int at = (lane % 16) / 4 * 16 + lane / 16 * 4 + lane % 4;
    bytes[at] = (i8)high;
    bytes[at + 8] = (i8)low;
    if (lane == 0) {
        floats2 scales = {scale, product(scale, sum)};
        p.scales[(u64)BLOCK_Y * p.blocks + block] = scales;
    }
}

typedef struct {
    const float *x;
    /* `[token][block of 16][t]`: columns 2t, 2t + 1, then 8 + 2t, 8 + 2t + 1. */
    words2 *out;
    /* `[token]`: what the products have to be multiplied by. */
    float *scales;
    u32 width;
    u32 blocks;
    /* 1: f16, scaled by a power of two so that none overflows; 0: bf16. */
    u32 f16;
} halves_arguments;

/* Floats of sixteen bits; a block per token. */
KERNEL(halves, halves_arguments) {
    const float *x = p.x + (u64)BLOCK_X * p.width;
    u16 *out = (u16 *)(p.out + (u64)BLOCK_X * p.blocks * 4);
    float scale = 1.0f;
    if (p.f16) {
        float most = 0.0f;
        for (u32 i = THREAD; i < p.width; i += THREADS) {
            float y = x[i] < 0.0f ? -x[i] : x[i];
            most = y > most ? y : most;
        }
        most = max_block(most);
        /* The largest lies in [2^10, 2^11): its exponent, taken from its bits. */
        u32 exponent = float_bits(most) >> 23;
        if (exponent > 20 && exponent < 240) scale = bits_float((264 - exponent) << 23);
    }
    for (u32 i = THREAD; i < p.blocks * 16; i += THREADS) {
        float y = i < p.width ? x[i] * scale : 0.0f;
        u32 k = i % 16;
        out[i / 16 * 16 + k % 8 / 2 * 4 + k / 8 * 2 + k % 2] = p.f16 ? float_half(y) : float_bf16(y);
    }
    if (THREAD == 0) p.scales[BLOCK_X] = 1.0f / scale;
}
