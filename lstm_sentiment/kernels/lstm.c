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

#include "elements.h"
#include <string.h>

enum { GATES = 4, MOST_DIRECTIONS = 2 };
enum { COLUMNS = 16, GROUPS = COLUMNS / WIDTH }; /* states of a block, and vectors of them */
/* Rows times vectors of a product, whose sums are in registers: 12 of 16 with AVX2, 24 of 32 elsewhere. */
enum { FORWARD_ROWS = WIDTH == 8 ? 3 : 6, BACKWARD_ROWS = WIDTH == 16 ? 12 : 6, ACROSS_ROWS = WIDTH == 16 ? 8 : 6 };
enum { CACHED = 1024 / WIDTH, TEXTS = 66 }; /* units of a panel (16 KB) and texts whose sums stay in the cache */
enum { DEEP = 256, TOKENS = 48 }; /* units of a panel of the backward pass (16 KB), and tokens it is used for */
enum { TOGETHER = DEEP * PER_UNIT }; /* tokens whose weight gradients are summed at a time */
enum { AHEAD = 16, LINE = 16 };      /* tokens whose gates are read from memory meanwhile; floats of a cache line */

/* ---- Products ----------------------------------------------------------------------------------- */

/* sums[r][g] += rows[r] · panel[:, g]: some rows times a panel of some vectors. Each sum is in the order of k,
 * whatever the number of rows: a text's result does not depend on the other texts of its block. One function per
 * shape, never inlined, its loops over rows and groups unrolled: the sums then stay in registers. The units of a
 * row are STRIDE apart. */
#define UNROLLED _Pragma("GCC unroll 12") for
#define DEFINE_PRODUCT(NAME, ROWS, VECTORS, STRIDE)                                                        \
    static __attribute__((noinline)) void NAME(const Unit *restrict panel, const Unit *const *restrict rows, \
                                               int64_t first, int64_t length, float *restrict sums) {       \
        Floats sum[ROWS][VECTORS];                                                                         \
        const Unit *row[ROWS];                                                                             \
        UNROLLED(int r = 0; r < ROWS; r++) {                                                               \
            row[r] = rows[r] + first * STRIDE;                                                             \
            UNROLLED(int g = 0; g < VECTORS; g++) sum[r][g] = load(sums + (r * VECTORS + g) * WIDTH);      \
        }                                                                                                  \
        for (int64_t k = 0; k < length; k++) {                                                             \
            Units weights[VECTORS];                                                                        \
            UNROLLED(int g = 0; g < VECTORS; g++)                                                          \
            weights[g] = load_units(panel + (k * VECTORS + g) * WIDTH);                                    \
            UNROLLED(int r = 0; r < ROWS; r++) {                                                           \
                const Units value = all_units(row[r][k * STRIDE]);                                         \
                UNROLLED(int g = 0; g < VECTORS; g++) sum[r][g] = add_product(value, weights[g], sum[r][g]); \
            }                                                                                              \
        }                                                                                                  \
        UNROLLED(int r = 0; r < ROWS; r++)                                                                 \
            UNROLLED(int g = 0; g < VECTORS; g++) store(sums + (r * VECTORS + g) * WIDTH, sum[r][g]);      \
    }

typedef void Product(const Unit *restrict, const Unit *const *restrict, int64_t, int64_t, float *restrict);

DEFINE_PRODUCT(forward_1, 1, GATES, 1)
DEFINE_PRODUCT(forward_2, 2, GATES, 1)
DEFINE_PRODUCT(forward_3, 3, GATES, 1)
DEFINE_PRODUCT(backward_1, 1, GROUPS, 1)
DEFINE_PRODUCT(backward_2, 2, GROUPS, 1)
DEFINE_PRODUCT(backward_3, 3, GROUPS, 1)
DEFINE_PRODUCT(backward_4, 4, GROUPS, 1)
DEFINE_PRODUCT(backward_5, 5, GROUPS, 1)
DEFINE_PRODUCT(backward_6, 6, GROUPS, 1)
#if defined(__AVX2__) && !defined(WITH_AVX512)
static Product *const FORWARD[] = {NULL, forward_1, forward_2, forward_3};
#else
DEFINE_PRODUCT(forward_4, 4, GATES, 1)
DEFINE_PRODUCT(forward_5, 5, GATES, 1)
DEFINE_PRODUCT(forward_6, 6, GATES, 1)
static Product *const FORWARD[] = {NULL, forward_1, forward_2, forward_3, forward_4, forward_5, forward_6};
#endif
#if defined(WITH_AVX512)
DEFINE_PRODUCT(backward_7, 7, GROUPS, 1)
DEFINE_PRODUCT(backward_8, 8, GROUPS, 1)
DEFINE_PRODUCT(backward_9, 9, GROUPS, 1)
DEFINE_PRODUCT(backward_10, 10, GROUPS, 1)
DEFINE_PRODUCT(backward_11, 11, GROUPS, 1)
DEFINE_PRODUCT(backward_12, 12, GROUPS, 1)
DEFINE_PRODUCT(across_8, 8, GROUPS, 8) /* interleaved rows */
static Product *const BACKWARD[] = {NULL,       backward_1, backward_2, backward_3,  backward_4,  backward_5, backward_6,
                                    backward_7, backward_8, backward_9, backward_10, backward_11, backward_12};
#else
DEFINE_PRODUCT(across_4, 4, GROUPS, 4) /* interleaved rows */
DEFINE_PRODUCT(across_6, 6, GROUPS, 6)
static Product *const BACKWARD[] = {NULL, backward_1, backward_2, backward_3, backward_4, backward_5, backward_6};
#endif

/* Add the products of many rows with a panel of some vectors, `most` rows and `deep` units at a time: the part of
 * the panel stays in the L1 cache. */
static inline void add_products(Product *const *products, int64_t most, int64_t vectors, int64_t deep,
                                const Unit *panel, const Unit *const *rows, int64_t count, int64_t length, float *sums) {
    for (int64_t k = 0; k < length; k += deep) {
        const int64_t some = length - k < deep ? length - k : deep;
        for (int64_t r = 0; r < count; r += most)
            products[count - r < most ? count - r : most](panel + k * vectors * WIDTH, rows + r, k, some,
                                                          sums + r * vectors * WIDTH);
    }
}

/* Set the sums of some rows to 0. */
static inline void clear(float *sums, int64_t rows) {
    for (int64_t j = 0; j < rows * COLUMNS; j += WIDTH) store(sums + j, all(0.0f));
}

static inline Product *across(int64_t rows) {
#if defined(WITH_AVX512)
    (void)rows;
    return across_8;
#else
    return rows == 4 ? across_4 : across_6;
#endif
}

/* ---- Layer -------------------------------------------------------------------------------------- */

/* Arguments of a call; see `lstm.py`. */
typedef struct {
    int64_t directions, steps, batch, inputs, hidden, threads, rows;
    const int64_t *lengths;              /* (B,) tokens of each text */
    const float *const *input_weights;   /* D times (4H, X) */
    const float *const *weights;         /* D times (4H, H), for states */
    const float *const *input_bias;      /* D times (4H,) */
    const float *const *bias;            /* D times (4H,) */
    Unit *packed;                        /* (D, 4H, H + X) buffer for weights, X rounded up to 16 */
    Unit *packed_gates;                  /* (D, 4H, DEEP) buffer for gradients */
    const float *values;                 /* (T·B, X) by token; with places (R, X) */
    const int64_t *places;               /* (T·B,) row of each token's values; NULL: its own */
    float *input_sums;                   /* (D, R, H / WIDTH, 4, WIDTH) buffer, unless R is 0 */
    float *states;                       /* (D, T·B, H) in reading order */
    float *cells;                        /* (D, B, H) buffer for cells, or for their gradients */
    Kept *gates;                         /* (D, T·B, 4H) in reading order, aligned, for the backward pass, which
                                            replaces them by their gradients; NULL: no backward pass. The order
                                            of a row is that of `gate_at` */
    float *kept_cells;                   /* (D, T·B, H) in reading order, aligned, likewise */
    const float *const *state_gradients; /* D times (T·B, H) in reading order */
    float *value_gradients;              /* (T·B, X) by token; NULL: not needed */
    float *input_weight_gradients;       /* (D, 4H, X); NULL: no weight gradients are needed */
    float *weight_gradients;             /* (D, 4H, H) */
    float *bias_gradients;               /* (D, 4H), of either bias */
    uint16_t *short_values;              /* (T·B or R, X) buffer for bf16 inputs, X rounded up to 16 */
    uint16_t *short_states;              /* (2, D, B, H) buffer for bf16 states of even and odd steps */
} Layer;

/* Index of the token that direction `d` reads as the `t`-th of text `b`: the second direction reads
 * each text from its end, and the padding after the text last. */
static inline int64_t token(const Layer *layer, int64_t d, int64_t t, int64_t b) {
    const int64_t length = layer->lengths[b];
    return (d && t < length ? length - 1 - t : t) * layer->batch + b;
}

/* Columns rounded up to whole panels. */
static inline int64_t whole(int64_t columns) { return (columns + COLUMNS - 1) / COLUMNS * COLUMNS; }

#if defined(WITH_BF16)

/* Units of a row of inputs. */
static inline int64_t input_units(const Layer *layer) { return whole(layer->inputs) / PER_UNIT; }

static inline const Unit *inputs_of(const Layer *layer, int64_t row) {
    return (const Unit *)layer->short_values + row * input_units(layer);
}

/* Where a gate of a block of states is in a row of 4H: those of a block are next to one another, in two lines of
 * the cache. */
static inline int64_t gate_at(int64_t H, int64_t gate, int64_t column) {
    (void)H;
    return column * GATES + gate * WIDTH;
}

/* Row of the weights for place `k` of such a row. */
static inline int64_t weight_row(int64_t H, int64_t k) {
    return k / WIDTH % GATES * H + k / (GATES * WIDTH) * WIDTH + k % WIDTH;
}

/* Write the gates of a block of states past the cache, a whole line at a time. */
static inline void stream_gates(Kept *to, int64_t H, Floats kept[][GROUPS]) {
    (void)H;
    for (int g = 0; g < GATES; g += 2) stream_pair(to + g * WIDTH, kept[g][0], kept[g + 1][0]);
}

/* The states of a text at a step, for products. */
static inline Kept *short_states(const Layer *layer, int64_t d, int64_t t, int64_t b) {
    return layer->short_states + ((t % 2 * layer->directions + d) * layer->batch + b) * layer->hidden;
}

static inline const Unit *states_of(const Layer *layer, int64_t d, int64_t t, int64_t b) {
    return (const Unit *)short_states(layer, d, t, b);
}

/* Up to 16 numbers in bf16, the rest 0, as 8 units. */
static inline void store_rounded(Unit *to, const float *from, int64_t count) {
    _mm256_storeu_si256((__m256i_u *)to, rounded(load_some(from, count)));
}

/* Number of rows of inputs. The backward pass rounds them where it needs them. */
static inline int64_t rounded_rows(const Layer *layer) {
    if (!layer->short_values) return 0;
    return layer->rows ? layer->rows : layer->steps * layer->batch;
}

/* Convert rows of inputs for products. */
static void round_inputs(const Layer *layer, int64_t first, int64_t last) {
    const int64_t X = layer->inputs;
    for (int64_t row = first; row < last; row++)
        for (int64_t x = 0; x < X; x += COLUMNS)
            store_rounded((Unit *)layer->short_values + row * input_units(layer) + x / PER_UNIT,
                          layer->values + row * X + x, X - x);
}

/* Transpose the rows of a vector of states, of a matrix (4H, columns), into a panel of units (columns / 2, gates,
 * WIDTH), columns rounded up to 16. */
static void pack_rows(const float *weights, int64_t columns, int64_t H, Unit *panel) {
    Unit rows[4][WIDTH / PER_UNIT];
    for (int64_t row = 0; row < GATES * WIDTH; row += 4) {
        const float *from = weights + (row / WIDTH * H + row % WIDTH) * columns;
        for (int64_t x = 0; x < columns; x += WIDTH) {
            Unit *to = panel + x / PER_UNIT * GATES * WIDTH + row;
            for (int64_t r = 0; r < 4; r++) store_rounded(rows[r], from + r * columns + x, columns - x);
            for (int64_t k = 0; k < WIDTH / PER_UNIT; k += 4)
                transpose((float *)rows[0] + k, WIDTH / PER_UNIT, (float *)to + k * GATES * WIDTH, GATES * WIDTH);
        }
    }
}

#else

static inline int64_t gate_at(int64_t H, int64_t gate, int64_t column) { return gate * H + column; }

static inline int64_t weight_row(int64_t H, int64_t k) {
    (void)H;
    return k;
}

static inline void stream_gates(Kept *to, int64_t H, Floats kept[][GROUPS]) {
    for (int g = 0; g < GATES; g++)
        UNROLLED(int u = 0; u < GROUPS; u++) stream(to + g * H + u * WIDTH, kept[g][u]);
}

static inline int64_t input_units(const Layer *layer) { return layer->inputs; }

static inline const Unit *inputs_of(const Layer *layer, int64_t row) { return layer->values + row * layer->inputs; }

static inline const Unit *states_of(const Layer *layer, int64_t d, int64_t t, int64_t b) {
    return layer->states + ((d * layer->steps + t) * layer->batch + b) * layer->hidden;
}

/* Transpose the rows of a vector of states, of a matrix (4H, columns), into a panel (columns, gates, WIDTH). */
static void pack_rows(const float *weights, int64_t columns, int64_t H, Unit *panel) {
    for (int64_t row = 0; row < GATES * WIDTH; row += 4) {
        const float *from = weights + (row / WIDTH * H + row % WIDTH) * columns;
        int64_t k = 0;
        for (; k + 4 <= columns; k += 4)
            transpose(from + k, columns, panel + k * GATES * WIDTH + row, GATES * WIDTH);
        for (; k < columns; k++)
            for (int64_t r = 0; r < 4; r++) panel[k * GATES * WIDTH + row + r] = from[r * columns + k];
    }
}

#endif

/* Number of blocks of rows whose products with the inputs are computed before the steps. */
static inline int64_t row_blocks(const Layer *layer) { return (layer->rows + TEXTS - 1) / TEXTS; }

static inline Unit *panel_forward(const Layer *layer, int64_t d, int64_t u) {
    const int64_t units = input_units(layer) + layer->hidden / PER_UNIT;
    return layer->packed + (d * layer->hidden + u * WIDTH) * GATES * units;
}

static void pack_inputs(const Layer *layer, int64_t d, int64_t u, Unit *panel) {
    pack_rows(layer->input_weights[d] + u * WIDTH * layer->inputs, layer->inputs, layer->hidden, panel);
}

/* (4H, X) and (4H, H) -> per vector of states a panel (X + H, gates, WIDTH); `sum_rows` packs the inputs of a
 * single block. */
static void pack_forward(const Layer *layer, int64_t d, int64_t u) {
    const int64_t H = layer->hidden;
    Unit *panel = panel_forward(layer, d, u);
    if (row_blocks(layer) != 1) pack_inputs(layer, d, u, panel);
    pack_rows(layer->weights[d] + u * WIDTH * H, H, H, panel + input_units(layer) * GATES * WIDTH);
}

static inline Unit *panel_backward(const Layer *layer, int64_t d, int64_t column) {
    const int64_t columns = layer->hidden + whole(layer->inputs);
    return layer->packed + (d * columns + column) * GATES * layer->hidden / PER_UNIT;
}

#if defined(WITH_BF16)

/* Up to 16 columns of two rows, the rest 0; a row of none is 0. */
static inline void put_pairs(Unit *panel_row, const float *first, int64_t firsts, const float *second, int64_t seconds) {
    *(StoredInts *)panel_row = pairs(rounded(load_some(first, firsts)), rounded(load_some(second, seconds)));
}

#else

/* Up to 16 columns of a row, the rest 0. */
static inline void copy_columns(float *restrict panel_row, const float *restrict row, int64_t columns) {
    if (columns >= COLUMNS)
        for (int64_t j = 0; j < COLUMNS; j++) panel_row[j] = row[j];
    else
        for (int64_t j = 0; j < COLUMNS; j++) panel_row[j] = j < columns ? row[j] : 0.0f;
}

#endif

/* Store up to 16 columns of a panel in a row, or add them to it. */
static inline void put_columns(float *restrict row, const float *restrict sums, int64_t columns, int add) {
    if (columns >= COLUMNS)
        UNROLLED(int g = 0; g < GROUPS; g++) {
            const Floats here = load(sums + g * WIDTH);
            store(row + g * WIDTH, add ? load(row + g * WIDTH) + here : here);
        }
    else
        for (int64_t j = 0; j < columns; j++) row[j] = add ? row[j] + sums[j] : sums[j];
}

/* (4H, H) and (4H, X) -> per 16 columns a panel of units (4H, 16) */
static void pack_backward(const Layer *layer, int64_t d, int64_t u) {
    const int64_t H = layer->hidden, column = u * COLUMNS, at_inputs = column >= H;
    const int64_t stride = at_inputs ? layer->inputs : H, first = at_inputs ? column - H : column;
    const float *weights = (at_inputs ? layer->input_weights : layer->weights)[d] + first;
    Unit *panel = panel_backward(layer, d, column);
    for (int64_t k = 0; k < GATES * H; k += PER_UNIT, panel += COLUMNS) {
        const float *row = weights + weight_row(H, k) * stride;
#if defined(WITH_BF16)
        put_pairs(panel, row, stride - first, row + stride, stride - first);
#else
        copy_columns(panel, row, stride - first);
#endif
    }
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
        stream_gates(layer->gates + (first + texts[r]) * GATES * H + gate_at(H, 0, column), H, kept);
        float *cell = layer->kept_cells + (first + texts[r]) * H + column;
        UNROLLED(int u = 0; u < GROUPS; u++) stream(cell + u * WIDTH, kept[GATES][u]);
    }
    for (int64_t r = 0; r < count; r++)
        UNROLLED(int u = 0; u < GROUPS; u++) {
            const Floats squashed = hyperbolic_tangent(load(cells + texts[r] * H + u * WIDTH));
            const Floats state = load(sums[u] + r * GATES * WIDTH) * squashed;
            store(states + texts[r] * H + u * WIDTH, state);
#if defined(WITH_BF16)
            store_kept(short_states(layer, d, t, texts[r]) + column + u * WIDTH, state);
#endif
        }
}

/* Sums of the `u`-th vector of states of some rows: biases and products with the inputs. */
static void sum_inputs(const Layer *layer, int64_t d, int64_t u, const Unit *panel, const Unit *const *values,
                       int64_t count, float *sums) {
    const int64_t H = layer->hidden;
    for (int64_t r = 0; r < count; r++)
        for (int64_t g = 0; g < GATES; g++) {
            const int64_t gates = g * H + u * WIDTH;
            store(sums + (r * GATES + g) * WIDTH, load(layer->input_bias[d] + gates) + load(layer->bias[d] + gates));
        }
    add_products(FORWARD, FORWARD_ROWS, GATES, CACHED, panel, values, count, input_units(layer), sums);
}

/* Sums of some rows of inputs, once for all tokens that have them. The weights of a single block are packed one
 * panel after the other in the same place, which stays in the cache. */
static void sum_rows(const Layer *layer, int64_t d, int64_t first, int64_t last) {
    const int64_t H = layer->hidden, size = GATES * WIDTH;
    const Unit *values[TEXTS];
    for (int64_t r = first; r < last; r++) values[r - first] = inputs_of(layer, r);
    for (int64_t u = 0; u < H / WIDTH; u++) {
        float sums[TEXTS * GATES * WIDTH];
        Unit *panel = panel_forward(layer, d, row_blocks(layer) == 1 ? 0 : u);
        if (row_blocks(layer) == 1) pack_inputs(layer, d, u, panel);
        sum_inputs(layer, d, u, panel, values, last - first, sums);
        for (int64_t r = first; r < last; r++)
            memcpy(layer->input_sums + ((d * layer->rows + r) * (H / WIDTH) + u) * size, sums + (r - first) * size,
                   (size_t)size * sizeof(float));
    }
}

/* Copy sums of a vector of states, and start to read those of the next one. */
static inline void copy_sums(float *restrict to, const float *restrict from, int64_t size) {
    for (int64_t j = 0; j < size; j += WIDTH) store(to + j, load(from + j));
    for (int64_t j = 0; j < size; j += LINE) __builtin_prefetch(from + size + j);
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
    const int64_t H = layer->hidden, B = layer->batch, size = GATES * WIDTH;
    for (int64_t t = step; t < layer->steps; t++) {
        for (int64_t b = first; b < last; b++)
            if (t >= layer->lengths[b])
                memset(layer->states + ((d * layer->steps + t) * B + b) * H, 0, (size_t)H * sizeof(float));
        for (int64_t b = first; b < last;) {
            const Unit *values[TEXTS], *before[TEXTS];
            const float *input_sums[TEXTS];
            int64_t texts[TEXTS], count = texts_at(layer, t, &b, last, texts);
            for (int64_t r = 0; r < count; r++) {
                const int64_t n = token(layer, d, t, texts[r]);
                const int64_t row = layer->places ? layer->places[n] : n;
                if (layer->rows)
                    input_sums[r] = layer->input_sums + (d * layer->rows + row) * GATES * H;
                else
                    values[r] = inputs_of(layer, n);
                before[r] = states_of(layer, d, t - (t > 0), texts[r]);
            }
            for (int64_t column = 0; column < H; column += COLUMNS) {
                Sums sums;
                for (int64_t g = 0; g < GROUPS; g++) {
                    const int64_t u = column / WIDTH + g;
                    const Unit *panel = panel_forward(layer, d, u);
                    if (layer->rows)
                        for (int64_t r = 0; r < count; r++) copy_sums(sums[g] + r * size, input_sums[r] + u * size, size);
                    else
                        sum_inputs(layer, d, u, panel, values, count, sums[g]);
                    add_products(FORWARD, FORWARD_ROWS, GATES, CACHED, panel + input_units(layer) * size, before, count,
                                 t ? H / PER_UNIT : 0, sums[g]);
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
#if defined(WITH_BF16)
    const int64_t H = layer->hidden;
    for (int64_t b = first; b < last; b++)
        for (int64_t h = 0; h < H; h += WIDTH)
            store_kept(short_states(layer, d, 0, b) + h,
                       load(layer->states + (d * layer->steps * layer->batch + b) * H + h));
#endif
    forward_from(layer, d, first, last, 1);
}

/* Backward step of one text, for a vector of states; `sums` has the gradients from the following step, if any.
 * The gates are replaced by the gradients of their sums. */
static inline void step_backward(const Layer *layer, int64_t d, int64_t t, int64_t b, int64_t column,
                                 const float *sums) {
    const int64_t H = layer->hidden, B = layer->batch, row = t * B + b;
    Kept *gates[GATES];
    for (int g = 0; g < GATES; g++)
        gates[g] = layer->gates + (d * layer->steps * B + row) * GATES * H + gate_at(H, g, column);
    const float *cell = layer->kept_cells + (d * layer->steps * B + row) * H + column;
    float *cell_gradients = layer->cells + (d * B + b) * H + column;
    const Floats in = load_kept(gates[0]), keep = load_kept(gates[1]), offered = load_kept(gates[2]);
    const Floats out = load_kept(gates[3]), squashed = hyperbolic_tangent(load(cell));
    const Floats of_state = load(layer->state_gradients[d] + row * H + column) + load(sums);
    Floats of_cell = of_state * out * (1.0f - squashed * squashed);
    const Floats before = t ? load(cell - B * H) : all(0.0f);
    if (t + 1 < layer->lengths[b]) of_cell += load(cell_gradients);
    store_kept(gates[0], of_cell * offered * in * (1.0f - in));
    store_kept(gates[1], of_cell * before * keep * (1.0f - keep));
    store_kept(gates[2], of_cell * in * (1.0f - offered * offered));
    store_kept(gates[3], of_state * squashed * out * (1.0f - out));
    store(cell_gradients, of_cell * keep);
}

/* Start to read what `step_backward` needs, which is not in the cache. */
static inline void prefetch_step(const Layer *layer, int64_t d, int64_t t, int64_t b, int64_t column) {
    const int64_t H = layer->hidden, row = t * layer->batch + b, place = d * layer->steps * layer->batch + row;
    for (int g = 0; g < GATES; g += PER_UNIT)
        __builtin_prefetch(layer->gates + place * GATES * H + gate_at(H, g, column), 1);
    __builtin_prefetch(layer->kept_cells + place * H + column);
    __builtin_prefetch(layer->state_gradients[d] + row * H + column);
}

/* Backward pass of some texts over all steps: at each, the texts that continue, then those that end there. */
static void backward(const Layer *layer, int64_t d, int64_t first, int64_t last) {
    const int64_t H = layer->hidden, K = GATES * H;
    for (int64_t t = layer->steps - 1; t >= 0; t--)
        for (int64_t b = first; b < last;) {
            const Unit *behind[TEXTS];
            int64_t texts[TEXTS], count = texts_at(layer, t, &b, last, texts), going_on = 0;
            for (int64_t r = 0; r < count; r++) {
                if (t + 1 >= layer->lengths[texts[r]]) continue;
                const int64_t text = texts[r], row = ((d * layer->steps + t + 1) * layer->batch + text) * K;
                behind[going_on] = (const Unit *)(layer->gates + row);
                texts[r] = texts[going_on];
                texts[going_on++] = text;
            }
            for (int64_t column = 0; column < H; column += COLUMNS) {
                float sums[TEXTS * COLUMNS];
                clear(sums, count);
                for (int64_t r = 0; r < count; r++) prefetch_step(layer, d, t, texts[r], column);
                add_products(BACKWARD, BACKWARD_ROWS, GROUPS, DEEP, panel_backward(layer, d, column), behind, going_on,
                             K / PER_UNIT, sums);
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
    const Unit *rows[MOST_DIRECTIONS][TOKENS];
    int64_t places[TOKENS], read[TOKENS], count = 0;
    for (int64_t d = 0; d < D; d++) {
        int64_t n = first;
        count = real_tokens(layer, d, &n, last, TOKENS, places, read);
        for (int64_t r = 0; r < count; r++)
            rows[d][r] = (const Unit *)(layer->gates + (d * layer->steps * layer->batch + read[r]) * K);
    }
    memset(layer->value_gradients + first * X, 0, (size_t)((last - first) * X) * sizeof(float));
    for (int64_t x = 0; x < X; x += COLUMNS) {
        float sums[TOKENS * COLUMNS];
        clear(sums, count);
        for (int64_t d = 0; d < D; d++)
            add_products(BACKWARD, BACKWARD_ROWS, GROUPS, DEEP, panel_backward(layer, d, H + x), rows[d], count,
                         K / PER_UNIT, sums);
        for (int64_t r = 0; r < count; r++)
            put_columns(layer->value_gradients + places[r] * X + x, sums + r * COLUMNS, X - x, 0);
    }
}

/* Number of rows of the next product across tokens; gates are a multiple of 16. */
static inline int64_t rows_at_once(int64_t left) {
    return left >= ACROSS_ROWS && (ACROSS_ROWS == 8 || left != 8) ? ACROSS_ROWS : 4;
}

#if defined(WITH_BF16)

/* Pack the gate gradients of some tokens: per few gates a panel of units (count / 2, rows), with room for DEEP per
 * gate. Their sums are added to the bias gradients. */
static void pack_gates(const Layer *layer, int64_t d, const int64_t *read, int64_t count, int add,
                       int64_t first, int64_t last) {
    const int64_t N = layer->steps * layer->batch, K = GATES * layer->hidden;
    const int64_t at_once = (last - first) % (2 * WIDTH) ? 1 : 2; /* whole lines of the cache where it can be */
    for (int64_t gate = first; gate < last; gate += at_once * WIDTH) {
        Unit *panel = layer->packed_gates + (d * K + gate) * DEEP;
        const Kept *gates = layer->gates + d * N * K + gate;
        float *bias[2];
        Floats sums[2];
        for (int64_t v = 0; v < at_once; v++) {
            bias[v] = layer->bias_gradients + d * K + weight_row(layer->hidden, gate + v * WIDTH);
            sums[v] = add ? load(bias[v]) : all(0.0f);
        }
        for (int64_t k = 0; k < count; k += 2, panel += ACROSS_ROWS) {
            const Kept *here = gates + read[k] * K, *next = k + 1 < count ? gates + read[k + 1] * K : NULL;
            if (k + AHEAD + 1 < count) {
                __builtin_prefetch(gates + read[k + AHEAD] * K);
                __builtin_prefetch(gates + read[k + AHEAD + 1] * K);
            }
            for (int64_t v = 0; v < at_once; v++) {
                const __m256i first_numbers = _mm256_loadu_si256((const __m256i_u *)(here + v * WIDTH));
                const Units both = pairs(first_numbers, next ? _mm256_loadu_si256((const __m256i_u *)(next + v * WIDTH))
                                                             : _mm256_setzero_si256());
                Unit *to = panel + v * WIDTH * DEEP;
                sums[v] += (Floats)(both << 16);
                sums[v] += (Floats)(both & ~0xffff);
                _mm256_storeu_si256((__m256i_u *)to, _mm512_castsi512_si256((__m512i)both));
                to += ACROSS_ROWS * DEEP;
                _mm256_storeu_si256((__m256i_u *)to, _mm512_extracti64x4_epi64((__m512i)both, 1));
            }
        }
        for (int64_t v = 0; v < at_once; v++) store(bias[v], sums[v]);
    }
}

/* Pack 16 columns of these tokens' inputs, or of the states before them. */
static void pack_read(const Layer *layer, int64_t d, const int64_t *read, const int64_t *stands,
                      int64_t count, int64_t column, Unit *panel) {
    const int64_t H = layer->hidden, X = layer->inputs, B = layer->batch;
    const float *values = layer->values + column;
    const float *states = layer->states + d * layer->steps * B * H + column - whole(X);
    for (int64_t k = 0; k < count; k += 2, panel += COLUMNS) {
        const int64_t next = k + 1 < count ? k + 1 : k, is_there = k + 1 < count;
        if (column < X)
            put_pairs(panel, values + stands[k] * X, X - column, values + stands[next] * X, is_there ? X - column : 0);
        else
            put_pairs(panel, states + (read[k] - B) * H, read[k] < B ? 0 : COLUMNS, states + (read[next] - B) * H,
                      read[next] < B || !is_there ? 0 : COLUMNS);
    }
}

#else

/* Pack the gate gradients of some tokens: per few gates a panel (count, rows), with room for DEEP per gate.
 * Their sums are added to the bias gradients. */
static void pack_gates(const Layer *layer, int64_t d, const int64_t *read, int64_t count, int add,
                       int64_t first, int64_t last) {
    const int64_t N = layer->steps * layer->batch, K = GATES * layer->hidden;
    for (int64_t gate = first, rows; gate < last; gate += rows) {
        float *panel = layer->packed_gates + (d * K + gate) * DEEP;
        float *bias = layer->bias_gradients + d * K + gate;
        float sums[ACROSS_ROWS] = {0};
        rows = rows_at_once(last - gate);
        for (int64_t k = 0; k < count; k++, panel += rows) {
            const float *gates = layer->gates + (d * N + read[k]) * K + gate;
            if (rows == ACROSS_ROWS)
                for (int64_t r = 0; r < ACROSS_ROWS; r++) sums[r] += panel[r] = gates[r];
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

#endif

/* Gradients of weights and bias of some gates of a direction: gate gradients times inputs or states, summed
 * over tokens, TOGETHER at a time. */
static void of_weights(const Layer *layer, int64_t d, int64_t first, int64_t last) {
    const int64_t H = layer->hidden, X = layer->inputs, N = layer->steps * layer->batch, K = GATES * H;
    int add = 0;
    for (int64_t n = 0; n < N; add = 1) {
        int64_t read[TOGETHER], stands[TOGETHER], first_tokens = 0;
        const int64_t count = real_tokens(layer, d, &n, N, TOGETHER, read, stands);
        const int64_t units = (count + PER_UNIT - 1) / PER_UNIT;
        while (first_tokens < count && read[first_tokens] < layer->batch) first_tokens++;
        pack_gates(layer, d, read, count, add, first, last);
        for (int64_t column = 0; column < whole(X) + H; column += COLUMNS) {
            const int64_t stride = column < X ? X : H, width = column < X ? X - column : COLUMNS;
            float *gradients = column < X ? layer->input_weight_gradients + d * K * X + column
                                          : layer->weight_gradients + d * K * H + column - whole(X);
            const int64_t skipped = column < X ? 0 : first_tokens / PER_UNIT; /* no states come before them */
            Unit panel[DEEP * COLUMNS];
            pack_read(layer, d, read, stands, count, column, panel);
            for (int64_t gate = first, rows; gate < last; gate += rows) {
                const Unit *gates[ACROSS_ROWS];
                float sums[ACROSS_ROWS * COLUMNS];
                rows = rows_at_once(last - gate);
                clear(sums, rows);
                for (int64_t r = 0; r < rows; r++) gates[r] = layer->packed_gates + (d * K + gate) * DEEP + r;
                across(rows)(panel + skipped * COLUMNS, gates, skipped, units - skipped, sums);
                for (int64_t r = 0; r < rows; r++)
                    put_columns(gradients + (weight_row(H, gate) + r) * stride, sums + r * COLUMNS, width, add);
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
#if defined(WITH_BF16)
        const int64_t inputs = rounded_rows(layer), at_once = 32;
#pragma omp for schedule(static) nowait
        for (int64_t row = 0; row < inputs; row += at_once)
            round_inputs(layer, row, row + at_once < inputs ? row + at_once : inputs);
#endif
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
int64_t kernels_interface(void) { return 4; }

/* Which instructions the kernels are compiled for, as listed in `library.py`. */
int64_t kernels_instructions(void) { return INSTRUCTIONS; }

void lstm_forward(const Layer *layer) { run(layer, layer->hidden / WIDTH, pack_forward, forward); }

/* The same from the second step on, with the first step's states and cells as they are. */
void lstm_continue(const Layer *layer) { run(layer, layer->hidden / WIDTH, pack_forward, forward_on); }

void lstm_backward(const Layer *layer) {
    run(layer, (layer->hidden + whole(layer->inputs)) / COLUMNS, pack_backward, backward);
    gradients(layer);
}
