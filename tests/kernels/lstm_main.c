/* Runs the LSTM kernel on the arrays of a file, each in a block of its own size, so that AddressSanitizer finds
 * any access beyond it: lstm_main INPUT OUTPUT. `test_kernel_builds.py` describes both files. It ends with exit
 * code 5 where the steps after the first, from its states and cells, give other states. */

#include "lstm.c"
#include <stdio.h>
#include <stdlib.h>

static FILE *input, *output;

static void *room(int64_t bytes) {
    void *found = aligned_alloc(64, (size_t)(bytes + 63) / 64 * 64); /* whole lines: outputs are checked in Python */
    if (!found) exit(3);
    return found;
}

static void *array(int64_t count, size_t size) {
    void *found = malloc((size_t)count * size);
    if (!found || fread(found, size, (size_t)count, input) != (size_t)count) exit(3);
    return found;
}

static float *floats(int64_t count) { return array(count, sizeof(float)); }

/* Whether the steps after the first give the same states again. It needs `gates`. */
static int continues(const Layer *layer) {
    const int64_t D = layer->directions, N = layer->steps * layer->batch, H = layer->hidden;
    const int64_t first = layer->batch * H, rest = N * H - first;
    float *states = malloc((size_t)(D * N * H) * sizeof(float));
    if (!states) exit(3);
    memcpy(states, layer->states, (size_t)(D * N * H) * sizeof(float));
    for (int64_t d = 0; d < D; d++) {
        memcpy(layer->cells + d * first, layer->kept_cells + d * N * H, (size_t)first * sizeof(float));
        memset(layer->states + d * N * H + first, -1, (size_t)rest * sizeof(float));
    }
    lstm_continue(layer);
    return !memcmp(states, layer->states, (size_t)(D * N * H) * sizeof(float));
}

static void result(const float *values, int64_t count) {
    if (fwrite(values, sizeof(float), (size_t)count, output) != (size_t)count) exit(3);
}

int main(int count, char **paths) {
    if (count != 3 || !(input = fopen(paths[1], "rb")) || !(output = fopen(paths[2], "wb"))) return 3;
    const int64_t *sizes = array(7, sizeof(int64_t));
    const int64_t D = sizes[0], T = sizes[1], B = sizes[2], X = sizes[3], H = sizes[4], R = sizes[6];
    const int64_t K = GATES * H, N = T * B, whole_X = (X + 15) / 16 * 16, F = sizeof(float);
    Layer layer = {.directions = D, .steps = T, .batch = B, .inputs = X, .hidden = H, .rows = R};
    layer.threads = sizes[5];
    layer.lengths = array(B, sizeof(int64_t));
    const float *of[5][MOST_DIRECTIONS];
    const int64_t shapes[] = {K * X, K * H, K, K, N * H};
    layer.values = floats(R ? R * X : N * X);
    if (R) layer.places = array(N, sizeof(int64_t));
    for (int kind = 0; kind < (R ? 4 : 5); kind++)
        for (int64_t d = 0; d < D; d++) of[kind][d] = floats(shapes[kind]);
    layer.input_weights = of[0], layer.weights = of[1], layer.input_bias = of[2], layer.bias = of[3];
    layer.state_gradients = of[4];
    layer.packed = malloc((size_t)(D * K * (H + whole_X)) * sizeof(Kept));
    layer.packed_gates = malloc((size_t)(D * K * DEEP * F));
    layer.cells = malloc((size_t)(D * B * H * F));
    layer.states = malloc((size_t)(D * N * H * F));
    if (R)
        layer.input_sums = malloc((size_t)(D * R * K * F));
    else {
        layer.gates = room(D * N * K * (int64_t)sizeof(Kept));
        layer.kept_cells = room(D * N * H * F);
    }
#if defined(WITH_BF16)
    layer.short_values = malloc((size_t)((R ? R : N) * whole_X) * sizeof(Kept));
    layer.short_states = malloc((size_t)(2 * D * B * H) * sizeof(Kept));
#endif
    lstm_forward(&layer);
    if (!R && !continues(&layer)) return 5;
    free(layer.short_values), free(layer.short_states); /* the backward pass has none */
    layer.short_values = layer.short_states = NULL;
    result(layer.states, D * N * H);
    if (R) return fclose(output);
    layer.value_gradients = malloc((size_t)(N * X * F));
    layer.input_weight_gradients = malloc((size_t)(D * K * X * F));
    layer.weight_gradients = malloc((size_t)(D * K * H * F));
    layer.bias_gradients = malloc((size_t)(D * K * F));
    lstm_backward(&layer);
    result(layer.value_gradients, N * X);
    result(layer.input_weight_gradients, D * K * X);
    result(layer.weight_gradients, D * K * H);
    result(layer.bias_gradients, D * K);
    return fclose(output);
}
