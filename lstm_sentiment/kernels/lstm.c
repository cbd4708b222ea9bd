/* LSTM layers, forward and backward pass.
 *
 * The steps are sequential, each with a small matrix product. A matrix library pays in each step for a call
 * and for synchronising threads; here a direction runs through all its steps on one thread, with weights
 * packed once, and the nonlinearities are applied while the sums are in the L1 cache. The gradients of
 * weights and inputs, which no step depends on, are computed last, over all tokens.
 *
 * For x86-64 with AVX2 and FMA, whose 16 registers of 8 floats the inner loops fill. Called by `lstm.py`,
 * which describes the computation.
 *
 * Legend: D directions, T steps, B texts, X inputs and H states of a token, U = H / 8 groups of states.
 * Gates come in the order of nn.LSTM: input, forget, cell, output.
 */

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { WIDTH = 8, GATES = 4, MOST_DIRECTIONS = 2 };
enum { FORWARD_ROWS = 3, BACKWARD_ROWS = 6, BACKWARD_GROUPS = 2 }; /* texts x groups: 12 sums in registers */
enum { CACHED = 128, TEXTS = 66 }; /* rows of a panel (16 KB) and texts whose sums (8 KB) stay in 32 KB */
enum { COLUMNS = BACKWARD_GROUPS * WIDTH }; /* of a panel of the backward pass */
enum { DEEP = 256, TOKENS = 48 };           /* rows of such a panel (16 KB), and tokens it is used for */

/* ---- Numbers ------------------------------------------------------------------------------------ */

/* e**x - 1, as exact near 0 as elsewhere; NaN stays NaN. x = n·log 2 + f, log 2 in two parts of which the
 * first is exact, and e**f - 1 = f + f²·q(f), where q is fitted to a relative error of 2e-8. */
static inline __m256 exp_less_1(__m256 x) {
    x = _mm256_min_ps(_mm256_set1_ps(87.0f), _mm256_max_ps(_mm256_set1_ps(-87.0f), x));
    const __m256 n = _mm256_round_ps(x * 1.44269504f, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m256 f = x - n * 0.693359375f - n * -2.12194440e-4f;
    __m256 q = f * 0.0013882521f + 0.0083665205f;
    q = q * f + 0.0416672f;
    q = q * f + 0.16666543f;
    q = q * f + 0.49999997f;
    const __m256 less_1 = q * f * f + f;
    const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    const __m256 power = _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
    return power * less_1 + (power - 1.0f);
}

static inline __m256 sigmoid(__m256 x) { return 1.0f / (exp_less_1(-x) + 2.0f); }

static inline __m256 hyperbolic_tangent(__m256 x) {
    const __m256 less_1 = exp_less_1(x + x);
    return less_1 / (less_1 + 2.0f);
}

/* ---- Products ----------------------------------------------------------------------------------- */

/* sums[r][g] += rows[r] · panel[:, g]: some rows times a panel of 8·groups columns. Each sum is in the order
 * of k, whatever the number of rows: a text's result does not depend on the other texts of its block. One
 * function per shape, never inlined, its loops over rows and groups unrolled: the sums then stay in registers.
 * The elements of a row are STRIDE apart. */
#define UNROLLED _Pragma("GCC unroll 8") for
#define DEFINE_PRODUCT(NAME, ROWS, GROUPS, STRIDE)                                                         \
    static __attribute__((noinline)) void NAME(const float *restrict panel,                                \
                                               const float *const *restrict rows, int64_t first,           \
                                               int64_t length, float *restrict sums) {                     \
        __m256 sum[ROWS][GROUPS];                                                                          \
        const float *row[ROWS];                                                                            \
        UNROLLED(int r = 0; r < ROWS; r++) {                                                               \
            row[r] = rows[r] + first * STRIDE;                                                             \
            UNROLLED(int g = 0; g < GROUPS; g++)                                                           \
                sum[r][g] = _mm256_loadu_ps(sums + (r * GROUPS + g) * WIDTH);                              \
        }                                                                                                  \
        for (int64_t k = 0; k < length; k++) {                                                             \
            __m256 weights[GROUPS];                                                                        \
            UNROLLED(int g = 0; g < GROUPS; g++)                                                           \
                weights[g] = _mm256_loadu_ps(panel + (k * GROUPS + g) * WIDTH);                            \
            UNROLLED(int r = 0; r < ROWS; r++) {                                                           \
                const __m256 value = _mm256_set1_ps(row[r][k * STRIDE]);                                   \
                UNROLLED(int g = 0; g < GROUPS; g++)                                                       \
                    sum[r][g] = _mm256_fmadd_ps(value, weights[g], sum[r][g]);                             \
            }                                                                                              \
        }                                                                                                  \
        UNROLLED(int r = 0; r < ROWS; r++)                                                                 \
            UNROLLED(int g = 0; g < GROUPS; g++)                                                           \
                _mm256_storeu_ps(sums + (r * GROUPS + g) * WIDTH, sum[r][g]);                              \
    }

DEFINE_PRODUCT(product_1x4, 1, 4, 1)
DEFINE_PRODUCT(product_3x4, 3, 4, 1)
DEFINE_PRODUCT(product_1x2, 1, 2, 1)
DEFINE_PRODUCT(product_4x2, 4, 2, 1)
DEFINE_PRODUCT(product_6x2, 6, 2, 1)
DEFINE_PRODUCT(across_4x2, 4, 2, 4) /* interleaved rows */
DEFINE_PRODUCT(across_6x2, 6, 2, 6)

/* ---- Layer -------------------------------------------------------------------------------------- */

/* Arguments of a call; see `lstm.py`. */
typedef struct {
    int64_t directions, steps, batch, inputs, hidden, threads;
    const int64_t *lengths;              /* (B,) tokens of each text */
    const float *const *input_weights;   /* D times (4H, X) */
    const float *const *weights;         /* D times (4H, H), for states */
    const float *const *input_bias;      /* D times (4H,) */
    const float *const *bias;            /* D times (4H,) */
    float *packed;                       /* (D, 4H, H + X) buffer for weights, X rounded up to 16 */
    float *packed_gates;                 /* (D, 4H, DEEP) buffer for gradients */
    const float *values;                 /* (T·B, X) by token */
    float *states;                       /* (D, T·B, H) in reading order */
    float *cells;                        /* (D, B, H) buffer for cells, or for their gradients */
    float *records;                      /* (D, T, U, B, KEPT, 8), aligned, for the backward pass; NULL: none */
    const float *const *state_gradients; /* D times (T·B, H) in reading order */
    float *gate_gradients;               /* (D, T·B, 4H) in reading order */
    float *value_gradients;              /* (T·B, X) by token; NULL: not needed */
    float *input_weight_gradients;       /* (D, 4H, X); NULL: no weight gradients are needed */
    float *weight_gradients;             /* (D, 4H, H) */
    float *bias_gradients;               /* (D, 4H), of either bias */
} Layer;

/* Values saved per step for the backward pass: the gates, the cell and its tanh. */
enum { IN, KEEP, OFFERED, OUT, CELL, SQUASHED, KEPT };

static inline float *record(const Layer *layer, int64_t d, int64_t t, int64_t b, int64_t u) {
    const int64_t U = layer->hidden / WIDTH;
    return layer->records + (((d * layer->steps + t) * U + u) * layer->batch + b) * KEPT * WIDTH;
}

/* Index of the token that direction `d` reads as the `t`-th of text `b`: the second direction reads
 * each text from its end, and the padding after the text last. */
static inline int64_t token(const Layer *layer, int64_t d, int64_t t, int64_t b) {
    const int64_t length = layer->lengths[b];
    return (d && t < length ? length - 1 - t : t) * layer->batch + b;
}

/* (4H, X) and (4H, H) -> per group of 8 states a panel (X + H, gates, 8) */
static void pack_forward(const Layer *layer, int64_t d, int64_t u) {
    const int64_t X = layer->inputs, H = layer->hidden;
    float *panel = layer->packed + (d * H + u * WIDTH) * GATES * (X + H);
    for (int64_t k = 0; k < X + H; k++) {
        const float *column = k < X ? layer->input_weights[d] + k : layer->weights[d] + k - X;
        const int64_t stride = k < X ? X : H;
        for (int64_t g = 0; g < GATES; g++)
            for (int64_t j = 0; j < WIDTH; j++) *panel++ = column[(g * H + u * WIDTH + j) * stride];
    }
}

/* Columns rounded up to whole panels. */
static inline int64_t whole(int64_t columns) { return (columns + COLUMNS - 1) / COLUMNS * COLUMNS; }

static inline float *panel_backward(const Layer *layer, int64_t d, int64_t column) {
    return layer->packed + (d * (layer->hidden + whole(layer->inputs)) + column) * GATES * layer->hidden;
}

/* Up to 16 columns of a row, the rest 0. */
static inline void copy_columns(float *restrict panel_row, const float *restrict row, int64_t columns) {
    if (columns >= COLUMNS)
        for (int64_t j = 0; j < COLUMNS; j++) panel_row[j] = row[j];
    else
        for (int64_t j = 0; j < COLUMNS; j++) panel_row[j] = j < columns ? row[j] : 0.0f;
}

/* Store up to 16 columns of a panel in a row, or add them to it. */
static inline void put_columns(float *restrict row, const float *restrict sums, int64_t columns, int add) {
    if (columns >= COLUMNS)
        for (int64_t j = 0; j < COLUMNS; j++) row[j] = add ? row[j] + sums[j] : sums[j];
    else
        for (int64_t j = 0; j < columns; j++) row[j] = add ? row[j] + sums[j] : sums[j];
}

/* (4H, H) and (4H, X) -> per 16 columns a panel (4H, 16) */
static void pack_backward(const Layer *layer, int64_t d, int64_t u) {
    const int64_t H = layer->hidden, X = layer->inputs, column = u * COLUMNS;
    float *panel = panel_backward(layer, d, column);
    for (int64_t k = 0; k < GATES * H; k++)
        if (column < H)
            copy_columns(panel + k * COLUMNS, layer->weights[d] + k * H + column, COLUMNS);
        else
            copy_columns(panel + k * COLUMNS, layer->input_weights[d] + k * X + column - H, X + H - column);
}

/* One step of some texts, for 8 states, from the sums of their four gates. In two loops, so that the latencies
 * of texts overlap. Records are written past the cache, which they would fill long before they are read. */
static void step_forward(const Layer *layer, int64_t d, int64_t t, const int64_t *texts, int64_t count,
                         int64_t u, float *sums) {
    const int64_t H = layer->hidden, column = u * WIDTH;
    float *cells = layer->cells + d * layer->batch * H + column;
    float *states = layer->states + (d * layer->steps + t) * layer->batch * H + column;
    for (int64_t r = 0; r < count; r++) {
        float *gates = sums + r * GATES * WIDTH, *of_cell = cells + texts[r] * H;
        const __m256 in = sigmoid(_mm256_loadu_ps(gates)), keep = sigmoid(_mm256_loadu_ps(gates + WIDTH));
        const __m256 offered = hyperbolic_tangent(_mm256_loadu_ps(gates + 2 * WIDTH));
        const __m256 out = sigmoid(_mm256_loadu_ps(gates + 3 * WIDTH));
        const __m256 cell = t ? keep * _mm256_loadu_ps(of_cell) + in * offered : in * offered;
        _mm256_storeu_ps(of_cell, cell);
        _mm256_storeu_ps(gates, out);
        if (layer->records) {
            float *kept = record(layer, d, t, texts[r], u);
            _mm256_stream_ps(kept + IN * WIDTH, in);
            _mm256_stream_ps(kept + KEEP * WIDTH, keep);
            _mm256_stream_ps(kept + OFFERED * WIDTH, offered);
            _mm256_stream_ps(kept + OUT * WIDTH, out);
            _mm256_stream_ps(kept + CELL * WIDTH, cell);
        }
    }
    for (int64_t r = 0; r < count; r++) {
        const __m256 squashed = hyperbolic_tangent(_mm256_loadu_ps(cells + texts[r] * H));
        _mm256_storeu_ps(states + texts[r] * H, _mm256_loadu_ps(sums + r * GATES * WIDTH) * squashed);
        if (layer->records) _mm256_stream_ps(record(layer, d, t, texts[r], u) + SQUASHED * WIDTH, squashed);
    }
}

/* Add the products of many rows with a panel, in blocks that stay in the L1 cache. */
static void add_products(const float *panel, const float *const *rows, int64_t count, int64_t length,
                         float *sums) {
    for (int64_t k = 0; k < length; k += CACHED) {
        const int64_t some = length - k < CACHED ? length - k : CACHED;
        const float *part = panel + k * GATES * WIDTH;
        int64_t r = 0;
        for (; r + FORWARD_ROWS <= count; r += FORWARD_ROWS)
            product_3x4(part, rows + r, k, some, sums + r * GATES * WIDTH);
        for (; r < count; r++) product_1x4(part, rows + r, k, some, sums + r * GATES * WIDTH);
    }
}

/* List up to TEXTS texts from `*b` on that have a token at step t, and advance `*b`. */
static int64_t texts_at(const Layer *layer, int64_t t, int64_t *b, int64_t last, int64_t *texts) {
    int64_t count = 0;
    for (; *b < last && count < TEXTS; ++*b)
        if (t < layer->lengths[*b]) texts[count++] = *b;
    return count;
}

/* Steps from `step` on of the texts from `first` to `last`; the states of padding are 0. */
static void forward_from(const Layer *layer, int64_t d, int64_t first, int64_t last, int64_t step) {
    const int64_t X = layer->inputs, H = layer->hidden, B = layer->batch;
    for (int64_t t = step; t < layer->steps; t++) {
        for (int64_t b = first; b < last; b++)
            if (t >= layer->lengths[b])
                memset(layer->states + ((d * layer->steps + t) * B + b) * H, 0, (size_t)H * sizeof(float));
        for (int64_t b = first; b < last;) {
            const float *values[TEXTS], *before[TEXTS];
            float sums[TEXTS * GATES * WIDTH];
            int64_t texts[TEXTS], count = texts_at(layer, t, &b, last, texts);
            for (int64_t r = 0; r < count; r++) {
                values[r] = layer->values + token(layer, d, t, texts[r]) * X;
                before[r] = layer->states + ((d * layer->steps + t - (t > 0)) * B + texts[r]) * H;
            }
            for (int64_t u = 0; u < H / WIDTH; u++) {
                const float *panel = layer->packed + (d * H + u * WIDTH) * GATES * (X + H);
                for (int64_t r = 0; r < count; r++)
                    for (int64_t g = 0; g < GATES; g++) {
                        const int64_t gates = g * H + u * WIDTH;
                        const __m256 bias = _mm256_loadu_ps(layer->bias[d] + gates);
                        _mm256_storeu_ps(sums + (r * GATES + g) * WIDTH,
                                         _mm256_loadu_ps(layer->input_bias[d] + gates) + bias);
                    }
                add_products(panel, values, count, X, sums);
                add_products(panel + X * GATES * WIDTH, before, count, t ? H : 0, sums);
                step_forward(layer, d, t, texts, count, u, sums);
            }
        }
    }
    _mm_sfence(); /* makes the records visible to all threads */
}

static void forward(const Layer *layer, int64_t d, int64_t first, int64_t last) {
    forward_from(layer, d, first, last, 0);
}

static void forward_on(const Layer *layer, int64_t d, int64_t first, int64_t last) {
    forward_from(layer, d, first, last, 1);
}

/* Backward step of one text, for 8 states; `sums` has the gradients from the following step, if any. */
static inline void step_backward(const Layer *layer, int64_t d, int64_t t, int64_t b, int64_t u,
                                 const float *sums) {
    const int64_t H = layer->hidden, B = layer->batch, column = u * WIDTH, row = t * B + b;
    const float *kept = record(layer, d, t, b, u);
    float *gate_gradients = layer->gate_gradients + (d * layer->steps * B + row) * GATES * H + column;
    float *cell_gradients = layer->cells + (d * B + b) * H + column;
    const __m256 in = _mm256_loadu_ps(kept + IN * WIDTH), keep = _mm256_loadu_ps(kept + KEEP * WIDTH);
    const __m256 offered = _mm256_loadu_ps(kept + OFFERED * WIDTH), out = _mm256_loadu_ps(kept + OUT * WIDTH);
    const __m256 squashed = _mm256_loadu_ps(kept + SQUASHED * WIDTH);
    const __m256 from_above = _mm256_loadu_ps(layer->state_gradients[d] + row * H + column);
    const __m256 of_state = from_above + _mm256_loadu_ps(sums);
    __m256 of_cell = of_state * out * (1.0f - squashed * squashed);
    __m256 before = _mm256_setzero_ps();
    if (t) before = _mm256_loadu_ps(record(layer, d, t - 1, b, u) + CELL * WIDTH);
    if (t + 1 < layer->lengths[b]) of_cell += _mm256_loadu_ps(cell_gradients);
    _mm256_storeu_ps(gate_gradients, of_cell * offered * in * (1.0f - in));
    _mm256_storeu_ps(gate_gradients + H, of_cell * before * keep * (1.0f - keep));
    _mm256_storeu_ps(gate_gradients + 2 * H, of_cell * in * (1.0f - offered * offered));
    _mm256_storeu_ps(gate_gradients + 3 * H, of_state * squashed * out * (1.0f - out));
    _mm256_storeu_ps(cell_gradients, of_cell * keep);
}

/* Number of rows of the next product. */
static inline int64_t rows_at_once(int64_t left) {
    return left >= BACKWARD_ROWS && left != 8 ? BACKWARD_ROWS : left >= 4 ? 4 : 1;
}

/* Add the products of many rows with a panel of the backward pass, likewise. */
static void add_products_back(const float *panel, const float *const *rows, int64_t count, int64_t length,
                              float *sums) {
    for (int64_t k = 0; k < length; k += DEEP) {
        const int64_t some = length - k < DEEP ? length - k : DEEP;
        const float *part = panel + k * COLUMNS;
        for (int64_t r = 0, at_once; r < count; r += at_once) {
            at_once = rows_at_once(count - r);
            (at_once == 1   ? product_1x2
             : at_once == 4 ? product_4x2
                            : product_6x2)(part, rows + r, k, some, sums + r * COLUMNS);
        }
    }
}

/* Backward pass of some texts over all steps: at each, the texts that continue, then those that end there. */
static void backward(const Layer *layer, int64_t d, int64_t first, int64_t last) {
    const int64_t H = layer->hidden, K = GATES * H;
    for (int64_t t = layer->steps - 1; t >= 0; t--)
        for (int64_t b = first; b < last;) {
            const float *behind[TEXTS];
            int64_t texts[TEXTS], count = texts_at(layer, t, &b, last, texts), going_on = 0;
            for (int64_t r = 0; r < count; r++) {
                if (t + 1 >= layer->lengths[texts[r]]) continue;
                const int64_t text = texts[r], row = ((d * layer->steps + t + 1) * layer->batch + text) * K;
                behind[going_on] = layer->gate_gradients + row;
                texts[r] = texts[going_on];
                texts[going_on++] = text;
            }
            for (int64_t u = 0; u < H / WIDTH; u += BACKWARD_GROUPS) {
                float sums[TEXTS * COLUMNS] = {0};
                add_products_back(panel_backward(layer, d, u * WIDTH), behind, going_on, K, sums);
                for (int64_t r = 0; r < count; r++)
                    for (int64_t g = 0; g < BACKWARD_GROUPS; g++)
                        step_backward(layer, d, t, texts[r], u + g, sums + r * COLUMNS + g * WIDTH);
            }
        }
}

/* ---- Gradients of all tokens -------------------------------------------------------------------- */

/* List up to `most` real tokens from index `*n` on, in reading order, and advance `*n`: the index of each in
 * that order, and in the text. The list holds in either order, since the order is its own inverse and padding
 * is read last. */
static int64_t real_tokens(const Layer *layer, int64_t d, int64_t *n, int64_t last, int64_t most,
                           int64_t *read, int64_t *stands) {
    int64_t count = 0, t = *n / layer->batch, b = *n % layer->batch;
    for (; *n < last && count < most; ++*n) {
        if (t < layer->lengths[b]) {
            stands[count] = token(layer, d, t, b);
            read[count++] = *n;
        }
        if (++b == layer->batch) {
            b = 0;
            t++;
        }
    }
    return count;
}

/* Input gradients of at most TOKENS tokens: gate gradients times weights. */
static void of_values(const Layer *layer, int64_t first, int64_t last) {
    const int64_t H = layer->hidden, X = layer->inputs, D = layer->directions, K = GATES * H;
    const float *rows[MOST_DIRECTIONS][TOKENS];
    int64_t places[TOKENS], read[TOKENS], count = 0;
    for (int64_t d = 0; d < D; d++) {
        int64_t n = first;
        count = real_tokens(layer, d, &n, last, TOKENS, places, read);
        for (int64_t r = 0; r < count; r++)
            rows[d][r] = layer->gate_gradients + (d * layer->steps * layer->batch + read[r]) * K;
    }
    memset(layer->value_gradients + first * X, 0, (size_t)((last - first) * X) * sizeof(float));
    for (int64_t x = 0; x < X; x += COLUMNS) {
        float sums[TOKENS * COLUMNS] = {0};
        for (int64_t d = 0; d < D; d++)
            add_products_back(panel_backward(layer, d, H + x), rows[d], count, K, sums);
        for (int64_t r = 0; r < count; r++)
            put_columns(layer->value_gradients + places[r] * X + x, sums + r * COLUMNS, X - x, 0);
    }
}

/* Pack the gate gradients of some tokens: per few gates a panel (count, rows), with room for DEEP per gate.
 * Their sums are added to the bias gradients. */
static void pack_gates(const Layer *layer, int64_t d, const int64_t *read, int64_t count, int add,
                       int64_t first, int64_t last) {
    const int64_t N = layer->steps * layer->batch, K = GATES * layer->hidden;
    for (int64_t gate = first, rows; gate < last; gate += rows) {
        float *panel = layer->packed_gates + (d * K + gate) * DEEP;
        float *bias = layer->bias_gradients + d * K + gate;
        __m128 four = _mm_setzero_ps(), two = four;
        rows = rows_at_once(last - gate);
        for (int64_t k = 0; k < count; k++, panel += rows) {
            const float *gates = layer->gate_gradients + (d * N + read[k]) * K + gate;
            const __m128 of_four = _mm_loadu_ps(gates);
            four += of_four;
            _mm_storeu_ps(panel, of_four);
            if (rows == BACKWARD_ROWS) {
                const __m128 of_two = _mm_castsi128_ps(_mm_loadl_epi64((const __m128i *)(gates + 4)));
                two += of_two;
                _mm_storel_epi64((__m128i *)(panel + 4), _mm_castps_si128(of_two));
            }
        }
        for (int64_t r = 0; r < rows; r++) bias[r] = (add ? bias[r] : 0.0f) + (r < 4 ? four[r] : two[r - 4]);
    }
}

/* Pack 16 columns of these tokens' inputs, or of the states before them. */
static void pack_read(const Layer *layer, int64_t d, const int64_t *read, const int64_t *stands,
                      int64_t count, int64_t column, float *panel) {
    const int64_t H = layer->hidden, X = layer->inputs, B = layer->batch;
    const float *values = layer->values + column;
    const float *states = layer->states + d * layer->steps * B * H + column - whole(X);
    if (column < X)
        for (int64_t k = 0; k < count; k++)
            copy_columns(panel + k * COLUMNS, values + stands[k] * X, X - column);
    else
        for (int64_t k = 0; k < count; k++)
            copy_columns(panel + k * COLUMNS, states + (read[k] - B) * H, read[k] < B ? 0 : COLUMNS);
}

/* Gradients of weights and bias of some gates of a direction: gate gradients times inputs or states, summed
 * over tokens, DEEP at a time. */
static void of_weights(const Layer *layer, int64_t d, int64_t first, int64_t last) {
    const int64_t H = layer->hidden, X = layer->inputs, N = layer->steps * layer->batch, K = GATES * H;
    int add = 0;
    for (int64_t n = 0; n < N; add = 1) {
        int64_t read[DEEP], stands[DEEP], count = real_tokens(layer, d, &n, N, DEEP, read, stands);
        pack_gates(layer, d, read, count, add, first, last);
        for (int64_t column = 0; column < whole(X) + H; column += COLUMNS) {
            const int64_t stride = column < X ? X : H, width = column < X ? X - column : COLUMNS;
            float *gradients = column < X ? layer->input_weight_gradients + d * K * X + column
                                          : layer->weight_gradients + d * K * H + column - whole(X);
            float panel[DEEP * COLUMNS];
            pack_read(layer, d, read, stands, count, column, panel);
            for (int64_t gate = first, rows; gate < last; gate += rows) {
                const float *gates[BACKWARD_ROWS];
                float sums[BACKWARD_ROWS * COLUMNS] = {0};
                rows = rows_at_once(last - gate);
                for (int64_t r = 0; r < rows; r++) gates[r] = layer->packed_gates + (d * K + gate) * DEEP + r;
                (rows == 4 ? across_4x2 : across_6x2)(panel, gates, 0, count, sums);
                for (int64_t r = 0; r < rows; r++)
                    put_columns(gradients + (gate + r) * stride, sums + r * COLUMNS, width, add);
            }
        }
    }
}

/* ---- Threads ------------------------------------------------------------------------------------ */

/* Number of parts of each direction's work: threads are assigned to directions first, then to parts of them. */
static inline int64_t wanted_parts(const Layer *layer) {
    return layer->threads > layer->directions ? layer->threads / layer->directions : 1;
}

/* Run all steps; threads synchronise only at the end. */
static void run(const Layer *layer, int64_t panels, void (*pack)(const Layer *, int64_t, int64_t),
                void (*pass)(const Layer *, int64_t, int64_t, int64_t)) {
    const int64_t D = layer->directions, B = layer->batch;
    const int64_t wanted = wanted_parts(layer), size = (B + wanted - 1) / wanted;
    const int64_t parts = (B + size - 1) / size;
#pragma omp parallel num_threads((int)layer->threads) if (layer->threads > 1)
    {
#pragma omp for schedule(static)
        for (int64_t p = 0; p < D * panels; p++) pack(layer, p / panels, p % panels);
#pragma omp for schedule(static)
        for (int64_t p = 0; p < D * parts; p++) {
            const int64_t first = p % parts * size, last = first + size < B ? first + size : B;
            pass(layer, p / parts, first, last);
        }
    }
}

/* Threads rarely run at the same speed: one that finishes its gates first takes more of the inputs. */
static void gradients(const Layer *layer) {
    const int64_t D = layer->directions, N = layer->steps * layer->batch, K = GATES * layer->hidden;
    const int64_t blocks = layer->value_gradients ? (N + TOKENS - 1) / TOKENS : 0;
    const int64_t wanted = wanted_parts(layer), size = whole((K + wanted - 1) / wanted);
    const int64_t parts = (K + size - 1) / size;
#pragma omp parallel num_threads((int)layer->threads) if (layer->threads > 1)
    {
#pragma omp for schedule(static) nowait
        for (int64_t p = 0; p < (layer->input_weight_gradients ? D * parts : 0); p++) {
            const int64_t first = p % parts * size, last = first + size < K ? first + size : K;
            of_weights(layer, p / parts, first, last);
        }
#pragma omp for schedule(dynamic)
        for (int64_t p = 0; p < blocks; p++)
            of_values(layer, p * TOKENS, (p + 1) * TOKENS < N ? (p + 1) * TOKENS : N);
    }
}

/* Increment when the arguments of a function change, here and in `library.py`. */
int64_t kernels_interface(void) { return 1; }

void lstm_forward(const Layer *layer) { run(layer, layer->hidden / WIDTH, pack_forward, forward); }

/* The same from the second step on, with the first step's states and cells as they are. */
void lstm_continue(const Layer *layer) { run(layer, layer->hidden / WIDTH, pack_forward, forward_on); }

void lstm_backward(const Layer *layer) {
    run(layer, (layer->hidden + whole(layer->inputs)) / COLUMNS, pack_backward, backward);
    gradients(layer);
}
