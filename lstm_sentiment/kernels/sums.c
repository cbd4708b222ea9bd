/* Logits of few texts without gradients: those of a linear layer, and of words and word pairs. Each sum has an
 * order that does not depend on the other texts.
 *
 * Legend: B texts, T padded length, P features, C classes, V known tokens, R rows of a table.
 */

#include "target.h"

#include <math.h>
#include <stddef.h>
#include <stdint.h>

enum { LANES = 8, PADDING = 0, UNKNOWN = 1 };
typedef float Lanes __attribute__((vector_size(32), aligned(4), may_alias));

/* Arguments of a call; see `sums.py`. */
typedef struct {
    int64_t texts, features, classes; /* B, P, C */
    const float *values;              /* (B, P) */
    const float *weights;             /* (C, P) */
    const float *bias;                /* (C,) */
    float *logits;                    /* (B, C) */
} Linear;

void linear_logits(const Linear *linear) {
    const int64_t P = linear->features, C = linear->classes;
    for (int64_t n = 0; n < linear->texts * C; n++) {
        const float *values = linear->values + n / C * P, *weights = linear->weights + n % C * P;
        Lanes lanes = {0};
        float sum = 0.0f;
        int64_t p = 0;
        for (; p + LANES <= P; p += LANES) lanes += *(const Lanes *)(values + p) * *(const Lanes *)(weights + p);
        for (int j = 0; j < LANES; j++) sum += lanes[j];
        for (; p < P; p++) sum += values[p] * weights[p];
        linear->logits[n] = sum + linear->bias[n % C];
    }
}

/* Arguments of a call; see `sums.py`. */
typedef struct {
    int64_t texts, steps, classes, known, rows; /* B, T, C, V, R */
    int64_t p, r, q;                            /* of the hash of a pair: V + ((a·p mod r) + b·q) mod (R - V) */
    const int64_t *tokens;                      /* (B, T) */
    const int64_t *lengths;                     /* (B,) from 1 to T */
    const float *weights;                       /* (R, C) */
    const float *bias;                          /* (C,) */
    float *logits;                              /* (B, C) */
    int64_t *fault;                             /* (1,) result: whether a token is negative */
} Ngrams;

static inline int64_t word(const Ngrams *ngrams, int64_t token) { return token < ngrams->known ? token : UNKNOWN; }

static void add_row(const Ngrams *ngrams, int64_t row, float *restrict sums) {
    const float *restrict weights = ngrams->weights + row * ngrams->classes;
    for (int64_t c = 0; c < ngrams->classes; c++) sums[c] += weights[c];
}

void ngram_logits(const Ngrams *ngrams) {
    const int64_t C = ngrams->classes, V = ngrams->known;
    ngrams->fault[0] = 1;
    for (int64_t b = 0; b < ngrams->texts; b++) {
        const int64_t *tokens = ngrams->tokens + b * ngrams->steps, length = ngrams->lengths[b];
        float *logits = ngrams->logits + b * C;
        for (int64_t c = 0; c < C; c++) logits[c] = 0.0f;
        for (int64_t t = 0; t < length; t++) {
            if (tokens[t] < 0) return;
            if (tokens[t] != PADDING) add_row(ngrams, word(ngrams, tokens[t]), logits);
        }
        for (int64_t t = 1; t < length; t++) {
            const int64_t first = word(ngrams, tokens[t - 1]), second = word(ngrams, tokens[t]);
            if (second == PADDING) continue;
            add_row(ngrams, V + (first * ngrams->p % ngrams->r + second * ngrams->q) % (ngrams->rows - V), logits);
        }
        const float root = sqrtf((float)(2 * length - 1));
        for (int64_t c = 0; c < C; c++) logits[c] = logits[c] / root + ngrams->bias[c];
    }
    ngrams->fault[0] = 0;
}
