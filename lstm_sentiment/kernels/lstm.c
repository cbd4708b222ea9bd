/* LSTM layers, forward and backward pass.
 *
 * The steps are sequential, each with a small matrix product. A matrix library pays in each step for a call
 * and for synchronising threads; here a direction runs through all its steps on one thread, with weights
 * packed once, and the nonlinearities are applied while the sums are in the L1 cache. The gradients of
 * weights and inputs, which no step depends on, are computed last, over all tokens.
 *
 * `vectors.h` has what depends on the CPU; the inner loops fill its registers. Called by `lstm.py`, which
 * describes the computation.
 *
 * Legend: D directions, T steps, B texts, X inputs and H states of a token, R rows of inputs whose products are
 * computed before the steps; 0: each step computes its own.
 * Gates come in the order of nn.LSTM: input, forget, cell, output. States are computed in blocks of 16.
 */

#include "vectors.h"
#include <stddef.h>
#include <string.h>

enum { GATES = 4, MOST_DIRECTIONS = 2 };
enum { COLUMNS = 16, GROUPS = COLUMNS / WIDTH }; /* states of a block, and vectors of them */
/* Rows times vectors of a product, whose sums are in registers: 12 of 16 with AVX2, 24 of 32 elsewhere. */
enum { FORWARD_ROWS = WIDTH == 8 ? 3 : 6, BACKWARD_ROWS = 6 };
enum { CACHED = 1024 / WIDTH, TEXTS = 66 }; /* rows of a panel (16 KB) and texts whose sums stay in the cache */
enum { DEEP = 256, TOKENS = 48 }; /* rows of a panel of the backward pass (16 KB), and tokens it is used for */

/* ---- Products ----------------------------------------------------------------------------------- */

/* sums[r][g] += rows[r] · panel[:, g]: some rows times a panel of 8·groups columns. Each sum is in the order
 * of k, whatever the number of rows: a text's result does not depend on the other texts of its block. One
 * function per shape, never inlined, its loops over rows and groups unrolled: the sums then stay in registers.
 * The elements of a row are STRIDE apart. */
#define UNROLLED _Pragma("GCC unroll 8") for
#define DEFINE_PRODUCT(NAME, ROWS, VECTORS, STRIDE)                                                        \
    static __attribute__((noinline)) void NAME(const float *restrict panel,                                \
                                               const float *const *restrict rows, int64_t first,           \
                                               int64_t length, float *restrict sums) {                     \
        Floats sum[ROWS][VECTORS];                                                                         \
        const float *row[ROWS];                                                                            \
        UNROLLED(int r = 0; r < ROWS; r++) {                                                               \
            row[r] = rows[r] + first * STRIDE;                                                             \
            UNROLLED(int g = 0; g < VECTORS; g++) sum[r][g] = load(sums + (r * VECTORS + g) * WIDTH);      \
        }                                                                                                  \
        for (int64_t k = 0; k < length; k++) {                                                             \
            Floats weights[VECTORS];                                                                       \
            UNROLLED(int g = 0; g < VECTORS; g++) weights[g] = load(panel + (k * VECTORS + g) * WIDTH);    \
            UNROLLED(int r = 0; r < ROWS; r++) {                                                           \
                const Floats value = all(row[r][k * STRIDE]);                                              \
                UNROLLED(int g = 0; g < VECTORS; g++) sum[r][g] = value * weights[g] + sum[r][g];          \
            }                                                                                              \
        }                                                                                                  \
        UNROLLED(int r = 0; r < ROWS; r++)                                                                 \
            UNROLLED(int g = 0; g < VECTORS; g++) store(sums + (r * VECTORS + g) * WIDTH, sum[r][g]);      \
    }

DEFINE_PRODUCT(forward_1, 1, GATES, 1)
DEFINE_PRODUCT(forward_several, FORWARD_ROWS, GATES, 1)
DEFINE_PRODUCT(backward_1, 1, GROUPS, 1)
DEFINE_PRODUCT(backward_4, 4, GROUPS, 1)
DEFINE_PRODUCT(backward_6, 6, GROUPS, 1)
DEFINE_PRODUCT(across_4, 4, GROUPS, 4) /* interleaved rows */
DEFINE_PRODUCT(across_6, 6, GROUPS, 6)

/* ---- Layer -------------------------------------------------------------------------------------- */

/* Arguments of a call; see `lstm.py`. */
typedef struct {
    int64_t directions, steps, batch, inputs, hidden, threads, rows;
    const int64_t *lengths;              /* (B,) tokens of each text */
    const float *const *input_weights;   /* D times (4H, X) */
    const float *const *weights;         /* D times (4H, H), for states */
    const float *const *input_bias;      /* D times (4H,) */
    const float *const *bias;            /* D times (4H,) */
    float *packed;                       /* (D, 4H, H + X) buffer for weights, X rounded up to 16 */
    float *packed_gates;                 /* (D, 4H, DEEP) buffer for gradients */
    const float *values;                 /* (T·B, X) by token; with places (R, X) */
    const int64_t *places;               /* (T·B,) row of each token's values; NULL: its own */
    float *input_sums;                   /* (D, R, H / WIDTH, 4, WIDTH) buffer, unless R is 0 */
    float *states;                       /* (D, T·B, H) in reading order */
    float *cells;                        /* (D, B, H) buffer for cells, or for their gradients */
    float *gates;                        /* (D, T·B, 4H) in reading order, aligned, for the backward pass, which
                                            replaces them by their gradients; NULL: no backward pass */
    float *kept_cells;                   /* (D, T·B, H) in reading order, aligned, likewise */
    const float *const *state_gradients; /* D times (T·B, H) in reading order */
    float *value_gradients;              /* (T·B, X) by token; NULL: not needed */
    float *input_weight_gradients;       /* (D, 4H, X); NULL: no weight gradients are needed */
    float *weight_gradients;             /* (D, 4H, H) */
    float *bias_gradients;               /* (D, 4H), of either bias */
} Layer;

/* Index of the token that direction `d` reads as the `t`-th of text `b`: the second direction reads
 * each text from its end, and the padding after the text last. */
static inline int64_t token(const Layer *layer, int64_t d, int64_t t, int64_t b) {
    const int64_t length = layer->lengths[b];
    return (d && t < length ? length - 1 - t : t) * layer->batch + b;
}

/* Transpose the rows of a vector of states, of a matrix (4H, columns), into a panel (columns, gates, WIDTH). */
static void pack_rows(const float *weights, int64_t columns, int64_t H, float *panel) {
    for (int64_t row = 0; row < GATES * WIDTH; row += 4) {
        const float *from = weights + (row / WIDTH * H + row % WIDTH) * columns;
        int64_t k = 0;
        for (; k + 4 <= columns; k += 4)
            transpose(from + k, columns, panel + k * GATES * WIDTH + row, GATES * WIDTH);
        for (; k < columns; k++)
            for (int64_t r = 0; r < 4; r++) panel[k * GATES * WIDTH + row + r] = from[r * columns + k];
    }
}

/* Number of blocks of rows whose products with the inputs are computed before the steps. */
static inline int64_t row_blocks(const Layer *layer) { return (layer->rows + TEXTS - 1) / TEXTS; }

static inline float *panel_forward(const Layer *layer, int64_t d, int64_t u) {
    return layer->packed + (d * layer->hidden + u * WIDTH) * GATES * (layer->inputs + layer->hidden);
}

static void pack_inputs(const Layer *layer, int64_t d, int64_t u, float *panel) {
    pack_rows(layer->input_weights[d] + u * WIDTH * layer->inputs, layer->inputs, layer->hidden, panel);
}

/* (4H, X) and (4H, H) -> per vector of states a panel (X + H, gates, WIDTH); `sum_rows` packs the inputs of a
 * single block. */
static void pack_forward(const Layer *layer, int64_t d, int64_t u) {
    const int64_t X = layer->inputs, H = layer->hidden;
    float *panel = panel_forward(layer, d, u);
    if (row_blocks(layer) != 1) pack_inputs(layer, d, u, panel);
    pack_rows(layer->weights[d] + u * WIDTH * H, H, H, panel + X * GATES * WIDTH);
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

/* Sums of the gates of some texts for a block of states, as the products leave them. */
typedef float Sums[GROUPS][TEXTS * GATES * WIDTH];

/* One step of some texts, for the block of states at `column`. In two loops, so that the latencies of texts
 * overlap. What the backward pass needs is written past the cache, a whole line at a time: it would fill the
 * cache long before it is read. */
static void step_forward(const Layer *layer, int64_t d, int64_t t, const int64_t *texts, int64_t count,
                         int64_t column, Sums sums) {
    const int64_t H = layer->hidden, first = (d * layer->steps + t) * layer->batch;
    float *cells = layer->cells + d * layer->batch * H + column, *states = layer->states + first * H + column;
    for (int64_t r = 0; r < count; r++) {
        float *of_cell = cells + texts[r] * H;
        Floats kept[GATES + 1][GROUPS];
        UNROLLED(int u = 0; u < GROUPS; u++) {
            float *gates = sums[u] + r * GATES * WIDTH;
            const Floats in = sigmoid(load(gates)), keep = sigmoid(load(gates + WIDTH));
            const Floats offered = hyperbolic_tangent(load(gates + 2 * WIDTH));
            const Floats out = sigmoid(load(gates + 3 * WIDTH));
            const Floats cell = t ? keep * load(of_cell + u * WIDTH) + in * offered : in * offered;
            store(of_cell + u * WIDTH, cell);
            store(gates, out);
            kept[0][u] = in, kept[1][u] = keep, kept[2][u] = offered, kept[3][u] = out, kept[4][u] = cell;
        }
        if (!layer->gates) continue;
        float *gates = layer->gates + (first + texts[r]) * GATES * H + column;
        for (int g = 0; g < GATES; g++)
            UNROLLED(int u = 0; u < GROUPS; u++) stream(gates + g * H + u * WIDTH, kept[g][u]);
        float *cell = layer->kept_cells + (first + texts[r]) * H + column;
        UNROLLED(int u = 0; u < GROUPS; u++) stream(cell + u * WIDTH, kept[GATES][u]);
    }
    for (int64_t r = 0; r < count; r++)
        UNROLLED(int u = 0; u < GROUPS; u++) {
            const Floats squashed = hyperbolic_tangent(load(cells + texts[r] * H + u * WIDTH));
            store(states + texts[r] * H + u * WIDTH, load(sums[u] + r * GATES * WIDTH) * squashed);
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
            forward_several(part, rows + r, k, some, sums + r * GATES * WIDTH);
        for (; r < count; r++) forward_1(part, rows + r, k, some, sums + r * GATES * WIDTH);
    }
}

/* Sums of the `u`-th vector of states of some rows: biases and products with the inputs. */
static void sum_inputs(const Layer *layer, int64_t d, int64_t u, const float *panel, const float *const *values,
                       int64_t count, float *sums) {
    const int64_t H = layer->hidden;
    for (int64_t r = 0; r < count; r++)
        for (int64_t g = 0; g < GATES; g++) {
            const int64_t gates = g * H + u * WIDTH;
            store(sums + (r * GATES + g) * WIDTH, load(layer->input_bias[d] + gates) + load(layer->bias[d] + gates));
        }
    add_products(panel, values, count, layer->inputs, sums);
}

/* Sums of some rows of inputs, once for all tokens that have them. The weights of a single block are packed one
 * panel after the other in the same place, which stays in the cache. */
static void sum_rows(const Layer *layer, int64_t d, int64_t first, int64_t last) {
    const int64_t H = layer->hidden, size = GATES * WIDTH;
    const float *values[TEXTS];
    for (int64_t r = first; r < last; r++) values[r - first] = layer->values + r * layer->inputs;
    for (int64_t u = 0; u < H / WIDTH; u++) {
        float sums[TEXTS * GATES * WIDTH], *panel = panel_forward(layer, d, row_blocks(layer) == 1 ? 0 : u);
        if (row_blocks(layer) == 1) pack_inputs(layer, d, u, panel);
        sum_inputs(layer, d, u, panel, values, last - first, sums);
        for (int64_t r = first; r < last; r++)
            memcpy(layer->input_sums + ((d * layer->rows + r) * (H / WIDTH) + u) * size, sums + (r - first) * size,
                   (size_t)size * sizeof(float));
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
    const int64_t X = layer->inputs, H = layer->hidden, B = layer->batch, size = GATES * WIDTH;
    for (int64_t t = step; t < layer->steps; t++) {
        for (int64_t b = first; b < last; b++)
            if (t >= layer->lengths[b])
                memset(layer->states + ((d * layer->steps + t) * B + b) * H, 0, (size_t)H * sizeof(float));
        for (int64_t b = first; b < last;) {
            const float *values[TEXTS], *before[TEXTS];
            int64_t texts[TEXTS], count = texts_at(layer, t, &b, last, texts);
            for (int64_t r = 0; r < count; r++) {
                const int64_t n = token(layer, d, t, texts[r]);
                const int64_t row = layer->places ? layer->places[n] : n;
                values[r] = layer->rows ? layer->input_sums + (d * layer->rows + row) * GATES * H
                                        : layer->values + n * X;
                before[r] = layer->states + ((d * layer->steps + t - (t > 0)) * B + texts[r]) * H;
            }
            for (int64_t column = 0; column < H; column += COLUMNS) {
                Sums sums;
                for (int64_t g = 0; g < GROUPS; g++) {
                    const int64_t u = column / WIDTH + g;
                    const float *panel = panel_forward(layer, d, u);
                    if (layer->rows)
                        for (int64_t r = 0; r < count; r++)
                            memcpy(sums[g] + r * size, values[r] + u * size, (size_t)size * sizeof(float));
                    else
                        sum_inputs(layer, d, u, panel, values, count, sums[g]);
                    add_products(panel + X * GATES * WIDTH, before, count, t ? H : 0, sums[g]);
                }
                step_forward(layer, d, t, texts, count, column, sums);
            }
        }
    }
    finish_streams();
}

static void forward(const Layer *layer, int64_t d, int64_t first, int64_t last) {
    forward_from(layer, d, first, last, 0);
}

static void forward_on(const Layer *layer, int64_t d, int64_t first, int64_t last) {
    forward_from(layer, d, first, last, 1);
}

/* Backward step of one text, for a vector of states; `sums` has the gradients from the following step, if any.
 * The gates are replaced by the gradients of their sums. */
static inline void step_backward(const Layer *layer, int64_t d, int64_t t, int64_t b, int64_t column,
                                 const float *sums) {
    const int64_t H = layer->hidden, B = layer->batch, row = t * B + b;
    float *gates = layer->gates + (d * layer->steps * B + row) * GATES * H + column;
    const float *cell = layer->kept_cells + (d * layer->steps * B + row) * H + column;
    float *cell_gradients = layer->cells + (d * B + b) * H + column;
    const Floats in = load(gates), keep = load(gates + H), offered = load(gates + 2 * H);
    const Floats out = load(gates + 3 * H), squashed = hyperbolic_tangent(load(cell));
    const Floats of_state = load(layer->state_gradients[d] + row * H + column) + load(sums);
    Floats of_cell = of_state * out * (1.0f - squashed * squashed);
    const Floats before = t ? load(cell - B * H) : all(0.0f);
    if (t + 1 < layer->lengths[b]) of_cell += load(cell_gradients);
    store(gates, of_cell * offered * in * (1.0f - in));
    store(gates + H, of_cell * before * keep * (1.0f - keep));
    store(gates + 2 * H, of_cell * in * (1.0f - offered * offered));
    store(gates + 3 * H, of_state * squashed * out * (1.0f - out));
    store(cell_gradients, of_cell * keep);
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
            (at_once == 1   ? backward_1
             : at_once == 4 ? backward_4
                            : backward_6)(part, rows + r, k, some, sums + r * COLUMNS);
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
                behind[going_on] = layer->gates + row;
                texts[r] = texts[going_on];
                texts[going_on++] = text;
            }
            for (int64_t column = 0; column < H; column += COLUMNS) {
                float sums[TEXTS * COLUMNS] = {0};
                add_products_back(panel_backward(layer, d, column), behind, going_on, K, sums);
                for (int64_t r = 0; r < count; r++)
                    for (int64_t g = 0; g < GROUPS; g++)
                        step_backward(layer, d, t, texts[r], column + g * WIDTH, sums + r * COLUMNS + g * WIDTH);
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
            rows[d][r] = layer->gates + (d * layer->steps * layer->batch + read[r]) * K;
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
        float sums[BACKWARD_ROWS] = {0};
        rows = rows_at_once(last - gate);
        for (int64_t k = 0; k < count; k++, panel += rows) {
            const float *gates = layer->gates + (d * N + read[k]) * K + gate;
            if (rows == BACKWARD_ROWS)
                for (int64_t r = 0; r < BACKWARD_ROWS; r++) sums[r] += panel[r] = gates[r];
            else
                for (int64_t r = 0; r < 4; r++) sums[r] += panel[r] = gates[r];
        }
        for (int64_t r = 0; r < rows; r++) bias[r] = (add ? bias[r] : 0.0f) + sums[r];
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
        int64_t read[DEEP], stands[DEEP], count = real_tokens(layer, d, &n, N, DEEP, read, stands), first_tokens = 0;
        while (first_tokens < count && read[first_tokens] < layer->batch) first_tokens++;
        pack_gates(layer, d, read, count, add, first, last);
        for (int64_t column = 0; column < whole(X) + H; column += COLUMNS) {
            const int64_t stride = column < X ? X : H, width = column < X ? X - column : COLUMNS;
            float *gradients = column < X ? layer->input_weight_gradients + d * K * X + column
                                          : layer->weight_gradients + d * K * H + column - whole(X);
            const int64_t skipped = column < X ? 0 : first_tokens; /* no states come before them */
            float panel[DEEP * COLUMNS];
            pack_read(layer, d, read, stands, count, column, panel);
            for (int64_t gate = first, rows; gate < last; gate += rows) {
                const float *gates[BACKWARD_ROWS];
                float sums[BACKWARD_ROWS * COLUMNS] = {0};
                rows = rows_at_once(last - gate);
                for (int64_t r = 0; r < rows; r++) gates[r] = layer->packed_gates + (d * K + gate) * DEEP + r;
                (rows == 4 ? across_4 : across_6)(panel + skipped * COLUMNS, gates, skipped, count - skipped, sums);
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

/* Run all steps; threads synchronise only before and after them. */
static void run(const Layer *layer, int64_t panels, void (*pack)(const Layer *, int64_t, int64_t),
                void (*pass)(const Layer *, int64_t, int64_t, int64_t)) {
    const int64_t D = layer->directions, B = layer->batch;
    const int64_t wanted = wanted_parts(layer), size = (B + wanted - 1) / wanted;
    const int64_t parts = (B + size - 1) / size;
    const int64_t blocks = row_blocks(layer);
#pragma omp parallel num_threads((int)layer->threads) if (layer->threads > 1)
    {
#pragma omp for schedule(static)
        for (int64_t p = 0; p < D * panels; p++) pack(layer, p / panels, p % panels);
#pragma omp for schedule(dynamic)
        for (int64_t p = 0; p < D * blocks; p++) {
            const int64_t first = p % blocks * TEXTS, last = first + TEXTS;
            sum_rows(layer, p / blocks, first, last < layer->rows ? last : layer->rows);
        }
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
int64_t kernels_interface(void) { return 3; }

/* Which instructions the kernels are compiled for, as listed in `library.py`. */
int64_t kernels_instructions(void) { return INSTRUCTIONS; }

void lstm_forward(const Layer *layer) { run(layer, layer->hidden / WIDTH, pack_forward, forward); }

/* The same from the second step on, with the first step's states and cells as they are. */
void lstm_continue(const Layer *layer) { run(layer, layer->hidden / WIDTH, pack_forward, forward_on); }

void lstm_backward(const Layer *layer) {
    run(layer, (layer->hidden + whole(layer->inputs)) / COLUMNS, pack_backward, backward);
    gradients(layer);
}
