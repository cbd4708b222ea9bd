/* Vectors of a batch's tokens, forward and backward: a word's own and those of its character n-grams.
 *
 * Every distinct token is computed once. `list_tokens` lists the distinct tokens and where each occurs, and
 * copies their buckets after it has checked all indices; `list_buckets` lists the distinct buckets and the
 * tokens that have each. Every vector and gradient is a sum over one of these lists, by one thread in the order
 * of the list: it depends neither on the number of threads nor, for a vector, on the other tokens.
 *
 * Legend: N tokens of a batch, V known tokens, X unknown tokens, U distinct tokens of the batch, K buckets per
 * token, R buckets in all, D of which are used, E embedding size.
 */

#include "target.h"

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Arguments of a call; see `subwords.py`. */
typedef struct {
    int64_t tokens, known, unknown, places, buckets, size; /* N, V, X, K (0: words only), R, E */
    int64_t distinct, known_distinct, used, threads;       /* U, those below V, D */
    const int64_t *ids;            /* (N,) V + x for the x-th unknown token */
    const int32_t *spelling;       /* (V, K) buckets of known tokens; 0 is none */
    const int32_t *other_spelling; /* (X, K) and of unknown ones */
    const float *words;            /* (V, E) */
    const float *table;            /* (R, E) */
    float *vectors;                /* (N, E) */
    const float *gradients;        /* (N, E) of vectors */
    float *word_gradients;         /* (U, E); those of unknown tokens are added to that of UNKNOWN */
    float *shares;                 /* (U, E) gradient of each n-gram of a token */
    float *bucket_gradients;       /* (D, E) */
    int64_t *counts;               /* (2,) result: U and `known_distinct`, or D and 0; -1: index out of range */
    int64_t *rows;                 /* distinct tokens, ascending; room for N + 1 */
    int32_t *starts;               /* (N + 3,) where the list of each distinct token starts in `members` */
    int32_t *members;              /* (N,) indices in the batch, ascending for each token */
    int32_t *spelt;                /* (N + 1, K) buckets of distinct tokens, without gaps, then 0 */
    int64_t *bucket_rows;          /* distinct buckets, ascending; room for U·K */
    int32_t *bucket_starts;        /* (U·K + 2,) where the list of each starts in `owners` */
    int32_t *owners;               /* (U·K,) distinct tokens by index, ascending for each bucket */
    float *folded;                 /* (V, E) vectors that are kept, n-grams included */
    uint8_t *is_folded;            /* (V,) whether there is one */
    uint64_t *bits;                /* buffer of a bit per index below V + X or R */
    int32_t *ranks;                /* buffer of as many numbers: bits that are set before these 64 */
} Bags;

enum { UNKNOWN = 1, BITS = 64 };

/* ---- Lists -------------------------------------------------------------------------------------- */

static inline void set_bit(const Bags *bags, int64_t index) {
    bags->bits[index / BITS] |= 1ULL << index % BITS;
}

static inline void clear_bits(const Bags *bags, int64_t limit) {
    memset(bags->bits, 0, (size_t)((limit + BITS - 1) / BITS) * sizeof(uint64_t));
}

/* List the bits that are set, and return their number. */
static int64_t list_bits(const Bags *bags, int64_t limit, int64_t *rows) {
    int64_t count = 0;
    for (int64_t word = 0; word * BITS < limit; word++) {
        bags->ranks[word] = (int32_t)count;
        for (uint64_t left = bags->bits[word]; left; left &= left - 1)
            rows[count++] = word * BITS + __builtin_ctzll(left);
    }
    return count;
}

/* Place of an index in this list. */
static inline int64_t rank(const Bags *bags, int64_t index) {
    const uint64_t before = bags->bits[index / BITS] & ((1ULL << index % BITS) - 1);
    return bags->ranks[index / BITS] + __builtin_popcountll(before);
}

/* Copy the buckets of a distinct token, and return whether they are in range. */
static int copy_spelling(const Bags *bags, int64_t u) {
    const int64_t K = bags->places, row = bags->rows[u];
    const int32_t *spelling = row < bags->known ? bags->spelling + row * K
                                                : bags->other_spelling + (row - bags->known) * K;
    int32_t *spelt = bags->spelt + u * K;
    int64_t count = 0;
    for (int64_t k = 0; k < K; k++) {
        if (spelling[k] < 0 || spelling[k] >= bags->buckets) return 0;
        if (spelling[k]) spelt[count++] = spelling[k];
    }
    while (count < K) spelt[count++] = 0;
    return 1;
}

void list_tokens(const Bags *bags) {
    const int64_t N = bags->tokens, limit = bags->known + bags->unknown;
    int32_t *starts = bags->starts;
    clear_bits(bags, limit);
    bags->counts[0] = -1;
    for (int64_t n = 0; n < N; n++) {
        if (bags->ids[n] < 0 || bags->ids[n] >= limit) return;
        set_bit(bags, bags->ids[n] < bags->known ? bags->ids[n] : UNKNOWN);
        set_bit(bags, bags->ids[n]);
    }
    const int64_t distinct = list_bits(bags, limit, bags->rows);
    for (int64_t u = 0; u < distinct; u++)
        if (!copy_spelling(bags, u)) return;
    memset(starts, 0, (size_t)(distinct + 2) * sizeof(int32_t));
    for (int64_t n = 0; n < N; n++) starts[rank(bags, bags->ids[n]) + 2]++;
    for (int64_t u = 0; u < distinct; u++) starts[u + 2] += starts[u + 1];
    for (int64_t n = 0; n < N; n++) bags->members[starts[rank(bags, bags->ids[n]) + 1]++] = (int32_t)n;
    int64_t known = distinct;
    while (bags->rows[known - 1] >= bags->known) known--;
    bags->counts[0] = distinct;
    bags->counts[1] = known;
}

void list_buckets(const Bags *bags) {
    const int64_t K = bags->places, pairs = bags->distinct * K;
    int32_t *starts = bags->bucket_starts;
    clear_bits(bags, bags->buckets);
    for (int64_t m = 0; m < pairs; m++)
        if (bags->spelt[m]) set_bit(bags, bags->spelt[m]);
    const int64_t used = list_bits(bags, bags->buckets, bags->bucket_rows);
    memset(starts, 0, (size_t)(used + 2) * sizeof(int32_t));
    for (int64_t m = 0; m < pairs; m++)
        if (bags->spelt[m]) starts[rank(bags, bags->spelt[m]) + 2]++;
    for (int64_t d = 0; d < used; d++) starts[d + 2] += starts[d + 1];
    for (int64_t u = 0; u < bags->distinct; u++)
        for (int64_t k = 0; k < K && bags->spelt[u * K + k]; k++)
            bags->owners[starts[rank(bags, bags->spelt[u * K + k]) + 1]++] = (int32_t)u;
    bags->counts[0] = used;
    bags->counts[1] = 0;
}

/* ---- Sums --------------------------------------------------------------------------------------- */

typedef float Eight __attribute__((vector_size(32), aligned(4), may_alias));

/* sums = the sum of the listed rows, for as many columns as COUNT values of TYPE have, which stay in registers. */
#define UNROLLED _Pragma("GCC unroll 8") for
#define DEFINE_SUM(NAME, TYPE, COUNT)                                                                  \
    static inline void NAME(const float *rows, int64_t size, const int32_t *list, int64_t count,       \
                            float *sums) {                                                             \
        TYPE sum[COUNT] = {0};                                                                         \
        for (int64_t m = 0; m < count; m++) {                                                          \
            const TYPE *row = (const TYPE *)(rows + list[m] * size);                                   \
            UNROLLED(int j = 0; j < COUNT; j++) sum[j] += row[j];                                      \
        }                                                                                              \
        UNROLLED(int j = 0; j < COUNT; j++)((TYPE *)sums)[j] = sum[j];                                 \
    }

DEFINE_SUM(sum_64, Eight, 8)
DEFINE_SUM(sum_8, Eight, 1)
DEFINE_SUM(sum_1, float, 1)

/* sums (E,) = the sum of the listed rows (E,), in the order of the list */
static void sum_rows(const float *rows, int64_t size, const int32_t *list, int64_t count, float *sums) {
    int64_t e = 0;
    for (; e + 64 <= size; e += 64) sum_64(rows + e, size, list, count, sums + e);
    for (; e + 8 <= size; e += 8) sum_8(rows + e, size, list, count, sums + e);
    for (; e < size; e++) sum_1(rows + e, size, list, count, sums + e);
}

/* Number of n-grams of a distinct token. */
static inline int64_t ngrams(const Bags *bags, int64_t u) {
    int64_t count = 0;
    while (count < bags->places && bags->spelt[u * bags->places + count]) count++;
    return count;
}

static inline float root_of(int64_t count) { return sqrtf((float)(count ? count : 1)); }

static void forward(const Bags *bags, int64_t u) {
    const int64_t E = bags->size, start = bags->starts[u], end = bags->starts[u + 1];
    if (start == end) return; /* UNKNOWN may be listed for its gradient alone */
    const int64_t row = bags->rows[u] < bags->known ? bags->rows[u] : UNKNOWN;
    const float *restrict word = bags->words + row * E;
    float *restrict vector = bags->vectors + bags->members[start] * E;
    if (bags->places) {
        const int64_t count = ngrams(bags, u);
        const float root = root_of(count);
        sum_rows(bags->table, E, bags->spelt + u * bags->places, count, vector);
        for (int64_t e = 0; e < E; e++) vector[e] = word[e] + vector[e] / root;
    } else
        memcpy(vector, word, (size_t)E * sizeof(float));
    for (int64_t m = start + 1; m < end; m++)
        memcpy(bags->vectors + bags->members[m] * E, vector, (size_t)E * sizeof(float));
}

void bags_forward(const Bags *bags) {
#pragma omp parallel for schedule(static, 16) num_threads((int)bags->threads) if (bags->threads > 1)
    for (int64_t u = 0; u < bags->distinct; u++) forward(bags, u);
}

/* vector (E,) = word + the sum of the vectors of its buckets; returns whether they are in range. */
static int add_ngrams(const Bags *bags, const float *restrict word, const int32_t *spelling, float *restrict vector) {
    const int64_t E = bags->size;
    int64_t count = 0;
    memset(vector, 0, (size_t)E * sizeof(float));
    for (int64_t k = 0; k < bags->places; k++) {
        const int64_t bucket = spelling[k];
        if (bucket < 0 || bucket >= bags->buckets) return 0;
        if (!bucket) continue;
        const float *restrict of_bucket = bags->table + bucket * E;
        for (int64_t e = 0; e < E; e++) vector[e] += of_bucket[e];
        count++;
    }
    const float root = root_of(count);
    for (int64_t e = 0; e < E; e++) vector[e] = word[e] + vector[e] / root;
    return 1;
}

/* Compute the vectors of some known tokens, by the rows of `other_spelling`, and keep them in `folded`. */
void bags_fold(const Bags *bags) {
    const int64_t E = bags->size;
    bags->counts[0] = -1;
    for (int64_t n = 0; n < bags->tokens; n++) {
        const int64_t row = bags->ids[n];
        if (row < 0 || row >= bags->known) return;
        if (bags->is_folded[row]) continue; /* another thread may be reading it */
        if (!add_ngrams(bags, bags->words + row * E, bags->other_spelling + n * bags->places, bags->folded + row * E))
            return;
        __atomic_store_n(bags->is_folded + row, 1, __ATOMIC_RELEASE);
    }
    bags->counts[0] = 0;
}

/* Copy kept vectors, and compute those of unknown tokens from that of UNKNOWN. Known tokens without a kept vector
 * are listed in `rows` instead, as often as they are needed. */
void bags_look_up(const Bags *bags) {
    const int64_t E = bags->size, V = bags->known;
    int64_t missing = 0;
    bags->counts[0] = -1;
    for (int64_t n = 0; n < bags->tokens; n++) {
        const int64_t id = bags->ids[n], row = id < V ? id : UNKNOWN;
        float *vector = bags->vectors + n * E;
        if (id < 0 || id >= V + bags->unknown) return;
        if (!__atomic_load_n(bags->is_folded + row, __ATOMIC_ACQUIRE))
            bags->rows[missing++] = row;
        else if (id < V)
            memcpy(vector, bags->folded + row * E, (size_t)E * sizeof(float));
        else if (!add_ngrams(bags, bags->folded + row * E, bags->other_spelling + (id - V) * bags->places, vector))
            return;
    }
    bags->counts[0] = missing;
}

static void backward(const Bags *bags, int64_t u) {
    const int64_t E = bags->size, start = bags->starts[u];
    float *restrict gradient = bags->word_gradients + u * E;
    sum_rows(bags->gradients, E, bags->members + start, bags->starts[u + 1] - start, gradient);
    if (!bags->places) return;
    const float root = root_of(ngrams(bags, u));
    float *restrict share = bags->shares + u * E;
    for (int64_t e = 0; e < E; e++) share[e] = gradient[e] / root;
}

void bags_backward(const Bags *bags) {
    const int64_t E = bags->size, known = bags->known_distinct;
    const int32_t *starts = bags->bucket_starts;
#pragma omp parallel num_threads((int)bags->threads) if (bags->threads > 1)
    {
#pragma omp for schedule(static, 16)
        for (int64_t u = 0; u < bags->distinct; u++) backward(bags, u);
#pragma omp for schedule(static, 16) nowait
        for (int64_t d = 0; d < bags->used; d++)
            sum_rows(bags->shares, E, bags->owners + starts[d], starts[d + 1] - starts[d],
                     bags->bucket_gradients + d * E);
    }
    if (known == bags->distinct) return;
    float *restrict of_unknown = bags->word_gradients + (bags->rows[0] == UNKNOWN ? 0 : E);
    for (int64_t u = known; u < bags->distinct; u++) {
        const float *restrict gradient = bags->word_gradients + u * E;
        for (int64_t e = 0; e < E; e++) of_unknown[e] += gradient[e];
    }
}
