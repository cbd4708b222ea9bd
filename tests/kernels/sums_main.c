/* Runs the kernels of logits on the arrays of a file, each in a block of its own size, so that AddressSanitizer
 * finds any access beyond it: sums_main INPUT OUTPUT, as lstm_main. It ends with exit code 4 where the kernel
 * finds a negative token. */

#include "sums.c"
#include <stdio.h>
#include <stdlib.h>

static FILE *input;

static void *array(int64_t count, size_t size) {
    void *found = malloc((size_t)count * size);
    if (!found || fread(found, size, (size_t)count, input) != (size_t)count) exit(3);
    return found;
}

int main(int count, char **paths) {
    FILE *output;
    if (count != 3 || !(input = fopen(paths[1], "rb")) || !(output = fopen(paths[2], "wb"))) return 3;
    const int64_t *sizes = array(9, sizeof(int64_t));
    const int64_t B = sizes[0], T = sizes[1], C = sizes[2], R = sizes[4], P = sizes[5];
    Ngrams ngrams = {.texts = B, .steps = T, .classes = C, .known = sizes[3], .rows = R};
    Linear linear = {.texts = B, .features = P, .classes = C};
    int64_t fault;
    ngrams.p = sizes[6], ngrams.r = sizes[7], ngrams.q = sizes[8], ngrams.fault = &fault;
    ngrams.tokens = array(B * T, sizeof(int64_t));
    ngrams.lengths = array(B, sizeof(int64_t));
    ngrams.weights = array(R * C, sizeof(float));
    linear.values = array(B * P, sizeof(float));
    linear.weights = array(C * P, sizeof(float));
    ngrams.bias = linear.bias = array(C, sizeof(float));
    ngrams.logits = malloc((size_t)(B * C) * sizeof(float));
    linear.logits = malloc((size_t)(B * C) * sizeof(float));
    ngram_logits(&ngrams);
    if (fault) return 4;
    linear_logits(&linear);
    fwrite(ngrams.logits, sizeof(float), (size_t)(B * C), output);
    fwrite(linear.logits, sizeof(float), (size_t)(B * C), output);
    return fclose(output);
}
