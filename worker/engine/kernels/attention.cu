/* Queries, keys and values, and attention over paged keys and values.
 *
 * Keys and values of a layer lie `[block][kv head][position in block][element]`, f16. */

typedef struct {
    u32 position;
    /* Positions the token sees, its own included. */
    u32 seen;
    /* Where in the table its sequence's blocks begin. */
    u32 table;
} place;

typedef struct {
    /* `[token][head][element]` */
    float *queries;
    float *keys;
    const float *values;
    /* Added before everything else; may be absent. */
    const float *query_bias;
    const float *key_bias;
    const float *value_bias;
    /* Norms of every head; may be absent. */
    const float *query_norm;
    const float *key_norm;
    /* `[token][pair]`: cosine and sine. */
    const floats2 *turns;
    const place *places;
    const u32 *table;
    u16 *cached_keys;
    u16 *cached_values;
    u32 heads;
    u32 kv_heads;
    u32 head_width;
    /* Pairs that are rotated. */
    u32 pairs;
    /* Whether pairs are neighbours, not halves. */
    u32 neighbours;
    u32 block_tokens;
    float epsilon;
} heads_arguments;

/* Biases, norms and rotation of queries and keys; keys and values into the cache. A warp per head: first the queries', then
 * the keys', then the values'; tokens by the grid's y. */
KERNEL(heads, heads_arguments) {
    int lane = THREAD % 32;
    u32 head = BLOCK_X * (THREADS / 32) + THREAD / 32, token = BLOCK_Y, width = p.head_width;
    if (head >= p.heads + 2 * p.kv_heads) return;
    place at = p.places[token];
    u32 kind = head < p.heads ? 0 : head < p.heads + p.kv_heads ? 1 : 2;
    u32 nth = kind == 0 ? head : kind == 1 ? head - p.heads : head - p.heads - p.kv_heads;
    u64 cached = p.table[at.table + at.position / p.block_tokens];
    cached = ((cached * p.kv_heads + nth) * p.block_tokens + at.position % p.block_tokens) * width;
    if (kind == 2) {
        const float *values = p.values + ((u64)token * p.kv_heads + nth) * width;
        for (u32 i = lane; i < width; i += 32) {
            float x = values[i];
            if (p.value_bias) x += p.value_bias[nth * width + i];
            p.cached_values[cached + i] = float_half(x);
        }
        return;
    }
    float *x = kind == 0 ? p.queries + ((u64)token * p.heads + nth) * width : p.keys + ((u64)token * p.kv_heads + nth) * width;
    const float *bias = kind == 0 ? p.query_bias : p.key_bias;
    const float *weight = kind == 0 ? p.query_norm : p.key_norm;
    if (bias) {
        for (u32 i = lane; i < width; i += 32) x[i] += bias[nth * width + i];
    }
    if (weight) {
        float squares = 0.0f;
        for (u32 i = lane; i < width; i += 32) squares = fused(x[i], x[i], squares);
        float factor = 1.0f / root(sum_warp(squares) / (float)width + p.epsilon);
        for (u32 i = lane; i < width; i += 32) x[i] = x[i] * factor * weight[i];
    }
    sync_warp();
    for (u32 pair = lane; pair < p.pairs; pair += 32) {
        u32 first = p.neighbours ? pair * 2 : pair, second = p.neighbours ? pair * 2 + 1 : pair + p.pairs;
        floats2 turn = p.turns[(u64)token * p.pairs + pair];
        float a = x[first], b = x[second];
        x[first] = fused(a, turn.a, -product(b, turn.b));
        x[second] = fused(a, turn.b, product(b, turn.a));
    }
    sync_warp();
    if (kind == 1) {
        for (u32 i = lane; i < width; i += 32) p.cached_keys[cached + i] = float_half(x[i]);
    }
}

typedef struct {
    const float *queries;
    const u16 *keys;
    const u16 *values;
    const place *places;
    const u32 *table;
    /* `[token][head][element]` */
    float *out;
    /* `[token][head][chunk]`: largest score, sum, then the elements; absent where a block computes all chunks. */
    float *parts;
    u32 heads;
    u32 kv_heads;
    u32 head_width;
    u32 block_tokens;
    /* Positions seen at most; 0 for all. */
    u32 window;
    /* Chunks there are parts for. */
    u32 chunks;
    float scale;
    /* Scores are bent to stay below; 0 for not. */
    float cap;
} attend_arguments;

/* Positions of a chunk. Chunks begin at multiples of it, so how a token's positions are cut depends on nothing else. */
#define CHUNK 256
/* Query heads of one pass over the keys. */
#define GROUP 8
/* Lanes that share a key. */
#define SHARE 8
/* Elements of a head at most. */
#define WIDTH 256

/* The sum of one chunk for up to GROUP query heads: largest scores, sums and elements into shared memory. */
DEVICE void attend_chunk(const attend_arguments p, u32 group, u32 first, u32 end, float *queries, float *scores, float *most,
                         float *sums, float *elements) {
    place at = p.places[BLOCK_X];
    u32 width = p.head_width, kv_head = BLOCK_Y, warps = THREADS / 32;
    int lane = THREAD % 32, warp = THREAD / 32;
    const u32 *table = p.table + at.table;
    for (u32 position = first + THREAD / SHARE; position < first + CHUNK; position += THREADS / SHARE) {
        float dots[GROUP];
        UNROLL
        for (int h = 0; h < GROUP; h++) dots[h] = 0.0f;
        if (position < end) {
            u64 key = table[position / p.block_tokens];
            key = ((key * p.kv_heads + kv_head) * p.block_tokens + position % p.block_tokens) * width;
            for (u32 i = THREAD % SHARE * 2; i < width; i += SHARE * 2) {
                u32 both = *(const u32 *)(p.keys + key + i);
                float a = half_float((u16)(both & 0xffff)), b = half_float((u16)(both >> 16));
                UNROLL
                for (int h = 0; h < GROUP; h++) {
                    if (h < (int)group) {
                        dots[h] = fused(a, queries[h * width + i], dots[h]);
                        dots[h] = fused(b, queries[h * width + i + 1], dots[h]);
                    }
                }
            }
        }
        UNROLL
        for (int h = 0; h < GROUP; h++) {
            if (h < (int)group) {
                float dot = dots[h];
                for (int mask = SHARE / 2; mask > 0; mask >>= 1) dot += shuffle_xor(dot, mask);
                dot *= p.scale;
                if (p.cap > 0.0f) dot = p.cap - 2.0f * p.cap / (1.0f + power_e(2.0f * (dot / p.cap)));
                if (THREAD % SHARE == 0) scores[h * CHUNK + position - first] = position < end ? dot : -3.0e38f;
            }
        }
    }
    sync_block();
    /* A warp per head. */
    for (u32 h = warp; h < group; h += warps) {
        float largest = -3.0e38f;
        for (u32 i = lane; i < end - first; i += 32) largest = scores[h * CHUNK + i] > largest ? scores[h * CHUNK + i] : largest;
        for (int mask = 16; mask > 0; mask >>= 1) {
            float other = shuffle_xor(largest, mask);
            largest = other > largest ? other : largest;
        }
        float sum = 0.0f;
        for (u32 i = lane; i < end - first; i += 32) {
            float weight = power_e(scores[h * CHUNK + i] - largest);
            scores[h * CHUNK + i] = weight;
            sum += weight;
        }
        sum = sum_warp(sum);
        if (lane == 0) {
            most[h] = largest;
            sums[h] = sum;
        }
    }
    sync_block();
    /* Every warp adds up the values of every warps-th position, then the warps are added up in order. */
    for (u32 i = lane * 2; i < width; i += 64) {
        float a[GROUP], b[GROUP];
        UNROLL
        for (int h = 0; h < GROUP; h++) a[h] = b[h] = 0.0f;
        for (u32 position = first + warp; position < end; position += warps) {
            u64 value = table[position / p.block_tokens];
            value = ((value * p.kv_heads + kv_head) * p.block_tokens + position % p.block_tokens) * width;
            u32 both = *(const u32 *)(p.values + value + i);
            float x = half_float((u16)(both & 0xffff)), y = half_float((u16)(both >> 16));
            UNROLL
            for (int h = 0; h < GROUP; h++) {
                if (h < (int)group) {
                    a[h] = fused(scores[h * CHUNK + position - first], x, a[h]);
                    b[h] = fused(scores[h * CHUNK + position - first], y, b[h]);
                }
            }
        }
        UNROLL
        for (int h = 0; h < GROUP; h++) {
            if (h < (int)group) {
                elements[(warp * GROUP + h) * width + i] = a[h];
                elements[(warp * GROUP + h) * width + i + 1] = b[h];
            }
        }
    }
    sync_block();
    for (u32 i = THREAD; i < group * width; i += THREADS) {
        float sum = elements[i];
        for (u32 from = 1; from < warps; from++) sum += elements[from * GROUP * width + i];
        elements[i] = sum;
    }
    sync_block();
}

/* Attention; a block per token (x), kv head (y) and, where there are parts, chunk (z), else all chunks one after the other. */
KERNEL(attend, attend_arguments) {
    place at = p.places[BLOCK_X];
    u32 width = p.head_width, per = p.heads / p.kv_heads;
    u32 begin = p.window && at.seen > p.window ? at.seen - p.window : 0;
    DYNAMIC(float, memory);
    float *queries = memory, *scores = queries + GROUP * width, *most = scores + GROUP * CHUNK, *sums = most + GROUP;
    float *total_most = sums + GROUP, *total_sums = total_most + GROUP, *totals = total_sums + GROUP;
    float *elements = totals + GROUP * width;
    for (u32 first_head = 0; first_head < per; first_head += GROUP) {
        u32 group = per - first_head < GROUP ? per - first_head : GROUP;
        u64 rows = ((u64)BLOCK_X * p.heads + BLOCK_Y * per + first_head) * width;
        for (u32 i = THREAD; i < group * width; i += THREADS) queries[i] = p.queries[rows + i];
        sync_block();
        u32 chunk = p.parts ? (u32)BLOCK_Z : begin / CHUNK;
        u32 last = p.parts ? (u32)BLOCK_Z + 1 : (at.seen + CHUNK - 1) / CHUNK;
        int any = 0;
        for (; chunk < last; chunk++) {
            u32 first = chunk * CHUNK, end = first + CHUNK < at.seen ? first + CHUNK : at.seen;
            if (first >= at.seen || end <= begin) continue;
            first = first > begin ? first : begin;
            attend_chunk(p, group, first, end, queries, scores, most, sums, elements);
            if (p.parts) {
                for (u32 i = THREAD; i < group * (width + 2); i += THREADS) {
                    u32 h = i / (width + 2), e = i % (width + 2);
                    u64 head = (u64)BLOCK_X * p.heads + BLOCK_Y * per + first_head + h;
                    float x = e == 0 ? most[h] : e == 1 ? sums[h] : elements[h * width + e - 2];
                    p.parts[(head * p.chunks + chunk) * (width + 2) + e] = x;
                }
            } else {
                for (u32 i = THREAD; i < group * width; i += THREADS) {
                    u32 h = i / width;
                    if (!any) {
                        totals[i] = elements[i];
                    } else {
                        float larger = most[h] > total_most[h] ? most[h] : total_most[h];
                        float keep = product(power_e(total_most[h] - larger), totals[i]);
                        totals[i] = fused(power_e(most[h] - larger), elements[i], keep);
                    }
                }
                sync_block();
                for (u32 h = THREAD; h < group; h += THREADS) {
                    if (!any) {
                        total_most[h] = most[h];
                        total_sums[h] = sums[h];
                    } else {
                        float larger = most[h] > total_most[h] ? most[h] : total_most[h];
                        float keep = product(power_e(total_most[h] - larger), total_sums[h]);
                        total_sums[h] = fused(power_e(most[h] - larger), sums[h], keep);
                        total_most[h] = larger;
                    }
                }
            }
            any = 1;
            sync_block();
        }
        if (!p.parts) {
            for (u32 i = THREAD; i < group * width; i += THREADS) p.out[rows + i] = totals[i] / total_sums[i / width];
        }
        sync_block();
    }
}

/* Brings the chunks of a token together, as a block that computes all of them does; a block per token (x) and head (y). */
KERNEL(join_chunks, attend_arguments) {
    place at = p.places[BLOCK_X];
    u32 width = p.head_width;
    u32 begin = p.window && at.seen > p.window ? at.seen - p.window : 0;
    u64 head = (u64)BLOCK_X * p.heads + BLOCK_Y;
    const float *parts = p.parts + head * p.chunks * (width + 2);
    u32 first = begin / CHUNK, last = (at.seen + CHUNK - 1) / CHUNK;
    for (u32 i = THREAD; i < width; i += THREADS) {
        const float *part = parts + (u64)first * (width + 2);
        float most = part[0], sum = part[1], total = part[2 + i];
        for (u32 chunk = first + 1; chunk < last; chunk++) {
            part = parts + (u64)chunk * (width + 2);
            float larger = part[0] > most ? part[0] : most;
            float keep = power_e(most - larger), more = power_e(part[0] - larger);
            total = fused(more, part[2 + i], product(keep, total));
            sum = fused(more, part[1], product(keep, sum));
            most = larger;
        }
        p.out[head * width + i] = total / sum;
    }
}
