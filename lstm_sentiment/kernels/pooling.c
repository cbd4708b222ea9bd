/* Mean and max pooling of each text's states over its tokens, forward and backward: one pass instead of the
 * five of library calls.
 *
 * Legend: D directions, T steps, B texts, H states of a token and direction, F = D·H.
 */

#include "target.h"

#include <stddef.h>
#include <stdint.h>

/* Arguments of a call; see `pooling.py`. */
typedef struct {
    int64_t directions, steps, batch, hidden, threads;
    const int64_t *lengths;         /* (B,) tokens of each text */
    const float *const *states;     /* D times (T, B, H), in the order of reading */
    float *mean, *largest;          /* (B, F) */
    float *ties;                    /* (B, F) number of tokens with the maximum */
    const float *mean_gradients;    /* (B, F) of each token's states, through the mean */
    const float *largest_gradients; /* (B, F) of the states of each token with the maximum */
    float *state_gradients;         /* (D, T, B, H) */
} Pool;

/* Some texts' states in one direction, in memory order. NaN counts as the maximum. */
static void forward(const Pool *pool, int64_t d, int64_t first, int64_t last) {
    const int64_t H = pool->hidden, F = pool->directions * H, B = pool->batch;
    for (int64_t t = 0; t < pool->steps; t++)
        for (int64_t b = first; b < last; b++) {
            if (t >= pool->lengths[b]) continue;
            const float *restrict states = pool->states[d] + (t * B + b) * H;
            float *restrict mean = pool->mean + b * F + d * H, *restrict ties = pool->ties + b * F + d * H;
            float *restrict largest = pool->largest + b * F + d * H;
            if (!t) {
                for (int64_t h = 0; h < H; h++) mean[h] = largest[h] = states[h];
                for (int64_t h = 0; h < H; h++) ties[h] = 1.0f;
            } else
                for (int64_t h = 0; h < H; h++) {
                    const float state = states[h], before = largest[h];
                    const float counted = ties[h] + (state == before ? 1.0f : 0.0f);
                    const int more = (state > before) | (state != state);
                    mean[h] += state;
                    largest[h] = more ? state : before;
                    ties[h] = more ? 1.0f : counted;
                }
            if (t + 1 == pool->lengths[b])
                for (int64_t h = 0; h < H; h++) mean[h] /= (float)pool->lengths[b];
        }
}

static void backward(const Pool *pool, int64_t d, int64_t first, int64_t last) {
    const int64_t H = pool->hidden, F = pool->directions * H, B = pool->batch;
    for (int64_t t = 0; t < pool->steps; t++)
        for (int64_t b = first; b < last; b++) {
            const int real = t < pool->lengths[b];
            const float *restrict states = pool->states[d] + (t * B + b) * H;
            const float *restrict of_mean = pool->mean_gradients + b * F + d * H;
            const float *restrict of_largest = pool->largest_gradients + b * F + d * H;
            const float *restrict largest = pool->largest + b * F + d * H;
            float *restrict gradients = pool->state_gradients + ((d * pool->steps + t) * B + b) * H;
            if (real)
                for (int64_t h = 0; h < H; h++)
                    gradients[h] = of_mean[h] + (states[h] == largest[h] ? of_largest[h] : 0.0f);
            else
                for (int64_t h = 0; h < H; h++) gradients[h] = 0.0f;
        }
}

/* Each thread takes some texts, in all directions: their results are contiguous. This avoids false sharing. */
static void run(const Pool *pool, void (*pass)(const Pool *, int64_t, int64_t, int64_t)) {
    const int64_t D = pool->directions, B = pool->batch;
    const int64_t size = (B + pool->threads - 1) / pool->threads, parts = (B + size - 1) / size;
#pragma omp parallel for schedule(static) num_threads((int)pool->threads) if (parts > 1)
    for (int64_t p = 0; p < parts; p++)
        for (int64_t d = 0; d < D; d++) pass(pool, d, p * size, p * size + size < B ? p * size + size : B);
}

void pool_forward(const Pool *pool) { run(pool, forward); }

void pool_backward(const Pool *pool) { run(pool, backward); }
