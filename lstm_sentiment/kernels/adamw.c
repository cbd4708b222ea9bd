/* Sparse AdamW step for the rows of an embedding that have a gradient.
 *
 * Legend: V rows of the embedding, U of which have a gradient, E their size.
 */

#include "target.h"

#include <math.h>
#include <stddef.h>
#include <stdint.h>

enum { LINE = 16, AHEAD = 2 }; /* floats of a cache line; rows */

/* Arguments of a call; see `adamw.py`. */
typedef struct {
    int64_t count, size, threads;  /* U, E */
    const int64_t *rows;           /* (U,) distinct */
    const float *gradients;        /* (U, E) */
    const float *factors;          /* (V,) step multiplier of each row; NULL: 1 */
    float *values, *mean, *square; /* (V, E) */
    float kept;                    /* of values: 1 - learning rate · weight decay */
    float beta1, beta2;
    float rate;       /* learning rate / (1 - beta1 ** step) */
    float correction; /* 1 / sqrt(1 - beta2 ** step) */
    float epsilon;
} Update;

/* Start to read a row from memory: the next ones are not where the hardware expects them. */
static inline void prefetch(const float *row, int64_t size) {
    for (int64_t e = 0; e < size; e += LINE) __builtin_prefetch(row + e, 1);
}

/* Loshchilov and Hutter 2019, "Decoupled weight decay regularization", for some rows. */
void update_rows(const Update *update) {
    const int64_t E = update->size;
#pragma omp parallel for schedule(static) num_threads((int)update->threads) if (update->threads > 1)
    for (int64_t u = 0; u < update->count; u++) {
        const int64_t row = update->rows[u];
        if (u + AHEAD < update->count) {
            const int64_t next = update->rows[u + AHEAD] * E;
            prefetch(update->values + next, E);
            prefetch(update->mean + next, E);
            prefetch(update->square + next, E);
        }
        const float *restrict gradients = update->gradients + u * E;
        float *restrict values = update->values + row * E, *restrict mean = update->mean + row * E;
        float *restrict square = update->square + row * E;
        const float factor = update->factors ? update->factors[row] : 1.0f;
        for (int64_t e = 0; e < E; e++) {
            const float of_mean = mean[e] + (1.0f - update->beta1) * (gradients[e] - mean[e]);
            const float of_square =
                update->beta2 * square[e] + (1.0f - update->beta2) * gradients[e] * gradients[e];
            const float size = sqrtf(of_square) * update->correction + update->epsilon;
            const float after = values[e] * update->kept - update->rate * of_mean / size;
            mean[e] = of_mean;
            square[e] = of_square;
            values[e] += factor * (after - values[e]);
        }
    }
}
