/* Runs the kernel of token vectors on the arrays of a file, each in a block of its own size, so that
 * AddressSanitizer finds any access beyond it: subwords_main INPUT OUTPUT, as lstm_main. It
 * ends with exit code 4 where the kernel finds an index out of range. */

#include "subwords.c"
#include <stdio.h>
#include <stdlib.h>

static FILE *input, *output;

static void *array(int64_t count, size_t size) {
    void *found = malloc((size_t)count * size);
    if (!found || fread(found, size, (size_t)count, input) != (size_t)count) exit(3);
    return found;
}

static void *room(int64_t count, size_t size) {
    void *found = malloc((size_t)count * size);
    if (!found) exit(3);
    return found;
}

static void result(const void *values, int64_t count, size_t size) {
    if (fwrite(values, size, (size_t)count, output) != (size_t)count) exit(3);
}

int main(int count, char **paths) {
    if (count != 3 || !(input = fopen(paths[1], "rb")) || !(output = fopen(paths[2], "wb"))) return 3;
    const int64_t *sizes = array(7, sizeof(int64_t));
    const int64_t N = sizes[0], V = sizes[1], X = sizes[2], K = sizes[3], R = sizes[4], E = sizes[5];
    const int64_t words = ((V + X > R ? V + X : R) + BITS - 1) / BITS;
    Bags bags = {.tokens = N, .known = V, .unknown = X, .places = K, .buckets = R, .size = E, .threads = sizes[6]};
    bags.ids = array(N, sizeof(int64_t));
    bags.spelling = array(V * K, sizeof(int32_t));
    bags.other_spelling = array(X * K, sizeof(int32_t));
    bags.words = array(V * E, sizeof(float));
    bags.table = array(R * E, sizeof(float));
    bags.gradients = array(N * E, sizeof(float));
    bags.counts = room(2, sizeof(int64_t));
    bags.bits = room(words, sizeof(uint64_t));
    bags.ranks = room(words, sizeof(int32_t));
    const int64_t most = N + 1 < V + X ? N + 1 : V + X;
    bags.rows = room(most, sizeof(int64_t));
    bags.starts = room(most + 2, sizeof(int32_t));
    bags.members = room(N, sizeof(int32_t));
    bags.spelt = room(most * K, sizeof(int32_t));
    list_tokens(&bags);
    if (bags.counts[0] < 0) return 4;
    const int64_t U = bags.distinct = bags.counts[0], known = bags.known_distinct = bags.counts[1];
    bags.vectors = room(N * E, sizeof(float));
    bags_forward(&bags);
    result(bags.vectors, N * E, sizeof(float));
    const int64_t some = U * K < R ? U * K : R;
    bags.bucket_rows = room(some, sizeof(int64_t));
    bags.bucket_starts = room(some + 2, sizeof(int32_t));
    bags.owners = room(U * K, sizeof(int32_t));
    list_buckets(&bags);
    const int64_t D = bags.used = bags.counts[0];
    bags.word_gradients = room(U * E, sizeof(float));
    bags.shares = room(U * E, sizeof(float));
    bags.bucket_gradients = room(D * E, sizeof(float));
    bags_backward(&bags);
    float *of_words = calloc((size_t)(V * E), sizeof(float)), *of_table = calloc((size_t)(R * E), sizeof(float));
    if (!of_words || !of_table) return 3;
    for (int64_t u = 0; u < known; u++)
        memcpy(of_words + bags.rows[u] * E, bags.word_gradients + u * E, (size_t)E * sizeof(float));
    for (int64_t d = 0; d < D; d++)
        memcpy(of_table + bags.bucket_rows[d] * E, bags.bucket_gradients + d * E, (size_t)E * sizeof(float));
    result(of_words, V * E, sizeof(float));
    result(of_table, R * E, sizeof(float));
    int64_t *all = room(V, sizeof(int64_t)); /* the vectors once more: kept for all known tokens, then looked up */
    for (int64_t v = 0; v < V; v++) all[v] = v;
    Bags kept = bags;
    kept.ids = all, kept.tokens = V, kept.other_spelling = bags.spelling;
    kept.folded = room(V * E, sizeof(float)), kept.is_folded = calloc((size_t)V, 1);
    kept.vectors = room(N * E, sizeof(float)), kept.rows = room(N, sizeof(int64_t));
    if (!kept.is_folded) return 3;
    bags_fold(&kept);
    if (kept.counts[0]) return 4;
    kept.ids = bags.ids, kept.tokens = N, kept.other_spelling = bags.other_spelling;
    bags_look_up(&kept);
    if (kept.counts[0]) return 4;
    result(kept.vectors, N * E, sizeof(float));
    return fclose(output);
}
